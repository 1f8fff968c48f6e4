"""Codecs as an augmentation: genuine and spoofed speech both pass through them."""

import io
from dataclasses import dataclass

import numpy as np
import torch

_BLOCK_FRAMES = 1 << 14  # the Ogg encoders overflow the stack on long writes
_OPUS_RATES_HZ = (8000, 12000, 16000, 24000, 48000)
_MP3_RATES_HZ = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_MAX_DELAY_S = 0.2


@dataclass(frozen=True)
class _Format:
    container: str
    subtype: str
    rates_hz: tuple[int, ...] = ()  # empty: any
    graded: bool = False  # whether it has a compression level to draw


CODECS = {
    "opus": _Format("OGG", "OPUS", _OPUS_RATES_HZ, graded=True),
    "vorbis": _Format("OGG", "VORBIS", graded=True),
    "mp3": _Format("MP3", "MPEG_LAYER_III", _MP3_RATES_HZ, graded=True),
    "gsm": _Format("WAV", "GSM610", (8000,)),
    "alaw": _Format("WAV", "ALAW"),
    "ulaw": _Format("WAV", "ULAW"),
    "adpcm": _Format("WAV", "IMA_ADPCM"),
}


def codec(waveform: torch.Tensor, rate_hz: int, kind: str = "opus", seed: int = 0) -> torch.Tensor:
    """Code and decode a waveform in memory; the result stays aligned with it.

    Arguments
    ---------
    waveform : torch.Tensor
        Waveform (time,) in [-1, 1].
    rate_hz : int
        Its sample rate; codecs that do not know it work at the nearest rate that they know.
    kind : str
        One of ``CODECS``: opus, vorbis, mp3, gsm, alaw, ulaw, adpcm.
    seed : int
        Seed of the compression level of opus, vorbis and mp3; the others have none.

    Returns
    -------
    torch.Tensor
        Waveform of the same length and rate.

    Raises
    ------
    ValueError
        If the kind is unknown or the waveform is empty, not finite or not of shape (time,).

    Example
    -------
    >>> tone = 0.5 * torch.sin(2 * torch.pi * 200 * torch.arange(8000) / 16000)
    >>> coded = codec(tone, 16000, kind="ulaw")
    >>> len(coded), 0 < float((coded - tone).abs().max()) < 0.02
    (8000, True)
    """
    if kind not in CODECS:
        raise ValueError(f"no codec is called {kind!r}: choose from {', '.join(CODECS)}")
    if waveform.ndim != 1 or not len(waveform) or not torch.isfinite(waveform).all():
        raise ValueError(
            f"waveform of shape {tuple(waveform.shape)} must be (time,), not empty and finite: "
            "mix to one channel or drop the clip"
        )
    chosen = CODECS[kind]
    coding_rate_hz = min(chosen.rates_hz or (rate_hz,), key=lambda known: abs(known - rate_hz))
    samples = waveform.detach().cpu().numpy().astype(np.float32)
    prepared = _resampled(samples, rate_hz, coding_rate_hz)
    decoded = _resampled(_through(prepared, coding_rate_hz, chosen, seed), coding_rate_hz, rate_hz)
    return torch.from_numpy(_aligned(decoded, samples, int(_MAX_DELAY_S * rate_hz)))


def _through(samples: np.ndarray, rate_hz: int, chosen: _Format, seed: int) -> np.ndarray:
    import soundfile

    level = np.random.default_rng(seed).uniform(0.1, 0.9) if chosen.graded else None
    coded = io.BytesIO()
    with soundfile.SoundFile(
        coded,
        "w",
        rate_hz,
        1,
        chosen.subtype,
        format=chosen.container,
        compression_level=level,
    ) as sound:
        for start in range(0, len(samples), _BLOCK_FRAMES):
            sound.write(samples[start : start + _BLOCK_FRAMES])
    coded.seek(0)
    return soundfile.read(coded, dtype="float32")[0]


def _resampled(samples: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    import soxr

    return samples if from_hz == to_hz else soxr.resample(samples, from_hz, to_hz)


def _aligned(decoded: np.ndarray, original: np.ndarray, max_delay: int) -> np.ndarray:
    """Undo the delay that the coder adds, found where the two match best."""
    size = 2 ** int(np.ceil(np.log2(len(decoded) + len(original))))
    match = np.fft.irfft(np.fft.rfft(decoded, size) * np.fft.rfft(original, size).conj(), size)
    delays = np.arange(-max_delay, max_delay + 1).clip(-len(original), len(decoded) - 1)
    delay = int(delays[match[delays].argmax()])
    shifted = decoded[delay:] if delay >= 0 else np.pad(decoded, (-delay, 0))
    return np.pad(shifted, (0, max(0, len(original) - len(shifted))))[: len(original)]
