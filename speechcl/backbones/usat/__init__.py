"""The voice model of USAT: its parts, and presets that put them together."""

from speechcl.backbones.usat.model import USAT
from speechcl.backbones.usat.presets import PRESETS, VoiceConfig, preset

__all__ = ["PRESETS", "USAT", "VoiceConfig", "preset"]
