"""Sizes of voice models."""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass

_DEPTHS = ("text_layers", "posterior_layers", "couplings", "flow_layers", "decoder_blocks")
_HIFIGAN_HOP = 256  # the product of its upsamplings


@dataclass(frozen=True)
class VoiceConfig:
    """Sizes of a voice model; the defaults are those of ``usat_base``.

    Arguments
    ---------
    rate_hz : int
        Samples a second.
    n_fft, hop : int
        Of spectrograms, in samples; ``hop`` samples are a frame.
    mels : int
        Bands of the log-mel spectrogram of the loss.
    latent, hidden, hidden_ffn : int
        Channels of the latents, of most layers, and within the phoneme encoder's convolutions.
    text_layers, posterior_layers, couplings, flow_layers : int
        Depths; ``flow_layers`` in each coupling.
    memory_slots, memory_channels : int
        Of the memory.
    speaker, speaker_channels, speaker_gathered : int
        Size of a speaker's vector, and widths of what computes it.
    decoder : str
        "hifigan", as in the paper, or "istft", several times faster on a CPU.
    decoder_channels, decoder_blocks : int
        Width, and depth of "istft".
    durations : str
        "stochastic", as in the paper, or "deterministic", steadier with few recordings.
    judge_channels : int
        Of the waveform discriminators, in training only.

    Example
    -------
    >>> VoiceConfig(rate_hz=16000).seconds(frames=125)
    2.0
    """

    rate_hz: int = 22050
    n_fft: int = 1024
    hop: int = 256
    mels: int = 80
    latent: int = 192
    hidden: int = 192
    hidden_ffn: int = 768
    text_layers: int = 6
    posterior_layers: int = 16
    couplings: int = 4
    flow_layers: int = 4
    memory_slots: int = 1000
    memory_channels: int = 192
    speaker: int = 256
    speaker_channels: int = 192
    speaker_gathered: int = 1536
    decoder: str = "hifigan"
    decoder_channels: int = 512
    decoder_blocks: int = 8
    durations: str = "stochastic"
    judge_channels: int = 32

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            size, most = getattr(self, field.name), 100 if field.name in _DEPTHS else 1_000_000
            if isinstance(field.default, int) and not 1 <= size <= most:
                raise ValueError(f"{field.name} is {size}: set it between 1 and {most}")
        for name, known in (
            ("decoder", ("hifigan", "istft")),
            ("durations", ("stochastic", "deterministic")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}: use {' or '.join(known)}")
        if self.decoder == "hifigan" and self.hop != _HIFIGAN_HOP:
            raise ValueError(f"hop is {self.hop}: hifigan decodes {_HIFIGAN_HOP} samples a frame")

    def seconds(self, frames: int) -> float:
        """Return how long so many frames are."""
        return frames * self.hop / self.rate_hz


PRESETS = {
    "usat_base": VoiceConfig(),
    "usat_small": VoiceConfig(
        rate_hz=16000,
        latent=96,
        hidden=96,
        hidden_ffn=384,
        flow_layers=3,
        posterior_layers=8,
        memory_slots=500,
        memory_channels=96,
        speaker=128,
        speaker_channels=96,
        speaker_gathered=384,
        decoder="istft",
        decoder_channels=256,
        decoder_blocks=6,
        judge_channels=16,
    ),
    "usat_tiny": VoiceConfig(
        rate_hz=16000,
        latent=32,
        hidden=32,
        hidden_ffn=64,
        text_layers=2,
        posterior_layers=3,
        couplings=2,
        flow_layers=2,
        memory_slots=32,
        memory_channels=32,
        speaker=32,
        speaker_channels=32,
        speaker_gathered=64,
        decoder="istft",
        decoder_channels=64,
        decoder_blocks=3,
        judge_channels=4,
    ),
}


def preset(name: str) -> VoiceConfig:
    """Return a preset by its name.

    Raises
    ------
    ValueError
        If there is none of that name.

    Source
    ------
    USAT, arXiv 2404.18094, on the widths of VITS, arXiv 2106.06103; "usat_small" and "usat_tiny"
    are ours.

    Example
    -------
    >>> preset("usat_small").rate_hz
    16000
    """
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        raise ValueError(
            f"preset is {name!r}: use {', '.join(PRESETS)}"
            + (f"; did you mean {near[0]}?" if near else "")
        )
    return PRESETS[name]
