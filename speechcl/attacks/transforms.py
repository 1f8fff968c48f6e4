"""Transforms: the recording itself is bent to another voice, or coded coarsely."""

import math

import numpy as np
import torch

from speechcl.attacks.frames import frame_size, istft, pitch_track, stft

_SEMITONES = (2.5, 4.5)
_FORMANT_SHIFT = (0.10, 0.18)
_ENVELOPE_MS = 1.6  # below the shortest pitch period of a voice
_MU = 255.0
_EMPHASIS = 0.9  # taken off after coding, so that the coding noise falls with frequency as speech
_TINY = 1e-8


def pitch_shift(waveform: torch.Tensor, rate_hz: int, seed: int = 0) -> torch.Tensor:
    """Move pitch and formants together by 2.5 to 4.5 semitones with a phase vocoder.

    Arguments
    ---------
    waveform : torch.Tensor
        Genuine speech (time,).
    rate_hz : int
        Its sample rate.
    seed : int
        Seed of the direction and the distance.

    Returns
    -------
    torch.Tensor
        Spoofed speech (time,).

    Example
    -------
    >>> tone = torch.sin(2 * torch.pi * 400 * torch.arange(16000) / 16000)
    >>> peak_hz = torch.fft.rfft(pitch_shift(tone, 16000)).abs().argmax()
    >>> round(abs(12 * math.log2(peak_hz / 400)), 1)
    3.0
    """
    from scipy.signal import resample
    from torchaudio.functional import phase_vocoder

    factor = 2 ** (_draw_either_side(_SEMITONES, seed) / 12)
    size = frame_size(rate_hz)
    spectrum = stft(waveform, size)
    advance = torch.linspace(0, math.pi * size / 4, len(spectrum))[:, None]
    stretched = phase_vocoder(spectrum, 1 / factor, advance)
    slow = istft(stretched, size, round(len(waveform) * factor))
    return torch.from_numpy(resample(slow.numpy(), len(waveform)))


def psola(waveform: torch.Tensor, rate_hz: int, seed: int = 0) -> torch.Tensor:
    """Move the pitch by 2.5 to 4.5 semitones by re-spacing its periods; the formants stay.

    Arguments
    ---------
    waveform : torch.Tensor
        Genuine speech (time,).
    rate_hz : int
        Its sample rate.
    seed : int
        Seed of the direction and the distance.

    Returns
    -------
    torch.Tensor
        Spoofed speech (time,).

    Source
    ------
    Moulines and Charpentier, "Pitch-synchronous waveform processing techniques", 1990; deviates:
    periods are marked by the pitch track alone, not at the glottal closures.

    Example
    -------
    >>> tone = torch.sin(2 * torch.pi * 200 * torch.arange(8000) / 16000)
    >>> psola(tone, 16000).shape
    torch.Size([8000])
    """
    factor = 2 ** (_draw_either_side(_SEMITONES, seed) / 12)
    samples = waveform.numpy().astype(np.float64)
    pitch_hz, voiced = pitch_track(waveform, rate_hz)
    sources = _period_marks(pitch_hz, rate_hz)
    targets = _period_marks(np.where(voiced, pitch_hz * factor, pitch_hz), rate_hz)
    following = np.searchsorted(sources, targets).clip(1, len(sources) - 1)
    behind = targets - sources[following - 1] < sources[following] - targets
    chosen = sources[following - behind]
    period = rate_hz / pitch_hz[chosen]
    offset = np.arange(-int(period.max()), int(period.max()) + 1)
    window = np.where(
        abs(offset) < period[:, None], 0.5 + 0.5 * np.cos(np.pi * offset / period[:, None]), 0.0
    )
    read = (chosen[:, None] + offset).clip(0, len(samples) - 1)
    write = targets[:, None] + offset
    inside = (write >= 0) & (write < len(samples))
    weights = (window * samples[read])[inside]
    total = np.bincount(write[inside], weights=weights, minlength=len(samples))
    cover = np.bincount(write[inside], weights=window[inside], minlength=len(samples))
    return torch.from_numpy((total / np.maximum(cover, 0.1)).astype(np.float32))


def formant_warp(waveform: torch.Tensor, rate_hz: int, seed: int = 0) -> torch.Tensor:
    """Move the formants by 10 to 18 percent, as another vocal tract would; the pitch stays.

    Arguments
    ---------
    waveform : torch.Tensor
        Genuine speech (time,).
    rate_hz : int
        Its sample rate.
    seed : int
        Seed of the direction and the distance.

    Returns
    -------
    torch.Tensor
        Spoofed speech (time,).

    Example
    -------
    >>> tone = torch.sin(2 * torch.pi * 200 * torch.arange(8000) / 16000)
    >>> formant_warp(tone, 16000).shape
    torch.Size([8000])
    """
    factor = 1 + _draw_either_side(_FORMANT_SHIFT, seed)
    size = frame_size(rate_hz)
    spectrum = stft(waveform, size)
    log_magnitude = spectrum.abs().clamp_min(_TINY).log()
    cepstrum = torch.fft.irfft(log_magnitude, n=size, dim=0)
    kept = round(_ENVELOPE_MS / 1000 * rate_hz)
    cepstrum[kept : size - kept + 1] = 0
    envelope = torch.fft.rfft(cepstrum, dim=0).real
    position = (torch.arange(len(envelope)) / factor).clamp_max(len(envelope) - 1)
    lower = position.long().clamp_max(len(envelope) - 2)
    warped = torch.lerp(envelope[lower], envelope[lower + 1], (position - lower)[:, None])
    return istft(spectrum * (warped - envelope).exp(), size, len(waveform))


def mulaw(waveform: torch.Tensor, rate_hz: int, seed: int = 0) -> torch.Tensor:
    """Code with four bits on a mu-law scale, then low-pass.

    Arguments
    ---------
    waveform : torch.Tensor
        Genuine speech (time,).
    rate_hz : int
        Its sample rate.
    seed : int
        Seed of the level before coding, 0.7 to 1 of full scale.

    Returns
    -------
    torch.Tensor
        Spoofed speech (time,).

    Example
    -------
    >>> tone = torch.sin(2 * torch.pi * 200 * torch.arange(8000) / 16000)
    >>> mulaw(tone, 16000).shape
    torch.Size([8000])
    """
    from scipy.signal import butter, lfilter, sosfiltfilt

    emphasis = np.array([1.0, -_EMPHASIS])
    bright = torch.from_numpy(lfilter(emphasis, [1.0], waveform.numpy()))
    drive = np.random.default_rng(seed).uniform(0.7, 1.0) / bright.abs().max()
    coded = lfilter([1.0], emphasis, (mulaw_levels(bright * drive) / drive).numpy())
    low_pass = butter(4, 0.45 * rate_hz, fs=rate_hz, output="sos")
    return torch.from_numpy(sosfiltfilt(low_pass, coded).astype(np.float32))


def mulaw_levels(waveform: torch.Tensor, levels: int = 16) -> torch.Tensor:
    """Round samples to a few levels that are denser near zero.

    Arguments
    ---------
    waveform : torch.Tensor
        Samples in [-1, 1], any shape.
    levels : int
        Number of levels, even: none is zero.

    Returns
    -------
    torch.Tensor
        Rounded samples, same shape.

    Source
    ------
    ITU-T G.711, the continuous mu-law with mu = 255.

    Example
    -------
    >>> mulaw_levels(torch.tensor([-1.0, -0.1, 0.1, 1.0]), levels=2)
    tensor([-0.0588, -0.0588,  0.0588,  0.0588])
    """
    compressed = waveform.sign() * torch.log1p(_MU * waveform.abs()) / math.log1p(_MU)
    index = ((compressed + 1) / 2 * levels).floor().clamp(0, levels - 1)
    middle = (2 * index + 1) / levels - 1
    return middle.sign() * torch.expm1(middle.abs() * math.log1p(_MU)) / _MU


def _draw_either_side(bounds: tuple[float, float], seed: int) -> float:
    rng = np.random.default_rng(seed)
    return float(rng.choice([-1.0, 1.0]) * rng.uniform(*bounds))


def _period_marks(pitch_hz: np.ndarray, rate_hz: int) -> np.ndarray:
    return np.flatnonzero(np.diff(np.floor(np.cumsum(pitch_hz / rate_hz)), prepend=-1.0) > 0)
