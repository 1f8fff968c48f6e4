"""Trained models at work."""

from speechcl.inference.voice_cloner import VoiceCloner

__all__ = ["VoiceCloner"]
