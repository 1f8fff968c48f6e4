"""Vocoders: the speech is described by a few parameters and built again from them."""

import math

import numpy as np
import torch

from speechcl.attacks.frames import (
    PITCH_HOP_MS,
    frame_size,
    istft,
    pitch_track,
    random_phases,
    stft,
)

_MEL_BANDS = 80
_GRIFFIN_LIM_ITERATIONS = 32
_GRIFFIN_LIM_MOMENTUM = 0.99
_SHORT_FRAME_MS = 32.0
_TINY = 1e-8


def griffin_lim(waveform: torch.Tensor, rate_hz: int, seed: int = 0) -> torch.Tensor:
    """Keep an 80-band mel spectrogram and find phases for it by Griffin-Lim.

    Arguments
    ---------
    waveform : torch.Tensor
        Genuine speech (time,).
    rate_hz : int
        Its sample rate.
    seed : int
        Seed of the first phases.

    Returns
    -------
    torch.Tensor
        Spoofed speech (time,).

    Source
    ------
    Perraudin, Balazs and Sondergaard, "A fast Griffin-Lim algorithm", 2013, momentum 0.99.

    Example
    -------
    >>> tone = torch.sin(2 * torch.pi * 200 * torch.arange(8000) / 16000)
    >>> griffin_lim(tone, 16000).shape
    torch.Size([8000])
    """
    size = frame_size(rate_hz)
    magnitude = _through_mel(stft(waveform, size).abs(), rate_hz)
    phases = random_phases(magnitude, seed)
    previous = torch.zeros_like(phases)
    for _ in range(_GRIFFIN_LIM_ITERATIONS):
        rebuilt = stft(istft(magnitude * phases, size, len(waveform)), size)
        ahead = rebuilt + _GRIFFIN_LIM_MOMENTUM * (rebuilt - previous)
        phases = ahead / ahead.abs().clamp_min(_TINY)
        previous = rebuilt
    return istft(magnitude * phases, size, len(waveform))


def random_phase(waveform: torch.Tensor, rate_hz: int, seed: int = 0) -> torch.Tensor:
    """Keep the short-time magnitudes and draw every phase at random.

    Arguments
    ---------
    waveform : torch.Tensor
        Genuine speech (time,).
    rate_hz : int
        Its sample rate.
    seed : int
        Seed of the phases.

    Returns
    -------
    torch.Tensor
        Spoofed speech (time,).

    Example
    -------
    >>> tone = torch.sin(2 * torch.pi * 200 * torch.arange(8000) / 16000)
    >>> random_phase(tone, 16000).shape
    torch.Size([8000])
    """
    size = frame_size(rate_hz, _SHORT_FRAME_MS)
    spectrum = stft(waveform, size)
    return istft(spectrum.abs() * random_phases(spectrum, seed), size, len(waveform))


def sinusoidal(waveform: torch.Tensor, rate_hz: int, seed: int = 0) -> torch.Tensor:
    """Add up harmonics of the pitch, with measured amplitudes and phases of their own.

    Arguments
    ---------
    waveform : torch.Tensor
        Genuine speech (time,).
    rate_hz : int
        Its sample rate.
    seed : int
        Seed of the harmonics' first phases.

    Returns
    -------
    torch.Tensor
        Spoofed speech (time,).

    Source
    ------
    McAulay and Quatieri, "Speech analysis/synthesis based on a sinusoidal representation", 1986;
    deviates: harmonic frequencies, so that no peaks have to be followed, and no measured phases.

    Example
    -------
    >>> tone = torch.sin(2 * torch.pi * 200 * torch.arange(8000) / 16000)
    >>> sinusoidal(tone, 16000).shape
    torch.Size([8000])
    """
    size = frame_size(rate_hz, _SHORT_FRAME_MS)
    power = stft(waveform, size).abs().square().T.numpy().astype(np.float64)
    pitch_hz, _ = pitch_track(waveform, rate_hz)
    frame_at = np.minimum(np.arange(len(power)) * (size // 4), len(pitch_hz) - 1)
    spacing = pitch_hz[frame_at] * size / rate_hz  # bins from one harmonic to the next
    below = np.cumsum(power, axis=1)
    cycles, sample_at = np.cumsum(pitch_hz / rate_hz), np.arange(len(waveform))
    rng = np.random.default_rng(seed)
    total = np.zeros(len(waveform))
    for harmonic in range(1, int(size / 2 / spacing.min()) + 1):
        band = _up_to(below, (harmonic + 0.5) * spacing) - _up_to(below, (harmonic - 0.5) * spacing)
        # a sine of amplitude a has a^2 / 4 * size * sum(window^2), and the sum is 3/8 size
        amplitude = np.where(
            harmonic * spacing < size / 2, np.sqrt(band.clip(0) * 32 / 3) / size, 0.0
        )
        phase = 2 * math.pi * (harmonic * cycles + rng.random())
        total += np.interp(sample_at, frame_at, amplitude) * np.sin(phase)
    return torch.from_numpy(total.astype(np.float32))


def world(waveform: torch.Tensor, rate_hz: int, seed: int = 0) -> torch.Tensor:
    """Analyse with WORLD, smooth and shift the pitch a little as a model would, synthesise.

    Arguments
    ---------
    waveform : torch.Tensor
        Genuine speech (time,).
    rate_hz : int
        Its sample rate.
    seed : int
        Seed of the pitch shift, about half a semitone.

    Returns
    -------
    torch.Tensor
        Spoofed speech (time,).

    Source
    ------
    Morise, Yokomori and Ozawa, "WORLD: a vocoder-based high-quality speech synthesis system", 2016.

    Example
    -------
    >>> tone = torch.sin(2 * torch.pi * 200 * torch.arange(8000) / 16000)
    >>> world(tone, 16000).shape
    torch.Size([8000])
    """
    import pyworld
    from scipy.ndimage import uniform_filter1d

    samples = waveform.numpy().astype(np.float64)
    pitch_hz, time_s = pyworld.dio(samples, rate_hz, frame_period=PITCH_HOP_MS)
    pitch_hz = pyworld.stonemask(samples, pitch_hz, time_s, rate_hz)
    envelope = pyworld.cheaptrick(samples, pitch_hz, time_s, rate_hz)
    aperiodicity = pyworld.d4c(samples, pitch_hz, time_s, rate_hz)
    voiced = pitch_hz > 0
    shift = 2 ** (np.random.default_rng(seed).normal(scale=0.5) / 12)
    share_voiced = np.maximum(uniform_filter1d(voiced.astype(float), 5), _TINY)
    smoothed_hz = uniform_filter1d(pitch_hz, 5) / share_voiced * shift
    built = pyworld.synthesize(
        np.where(voiced, smoothed_hz, 0.0), envelope, aperiodicity, rate_hz, PITCH_HOP_MS
    )
    built = np.pad(built, (0, max(0, len(samples) - len(built))))[: len(samples)]
    return torch.from_numpy(built.astype(np.float32))


def _up_to(below: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Read a running sum over bins (frames, freq) at one fractional bin a frame."""
    frames, last = np.arange(len(below)), below.shape[1] - 1
    lower = position.astype(int).clip(0, last)
    share = (position - lower).clip(0, 1)
    upper = np.minimum(lower + 1, last)
    return (1 - share) * below[frames, lower] + share * below[frames, upper]


def _through_mel(magnitude: torch.Tensor, rate_hz: int) -> torch.Tensor:
    from torchaudio.functional import melscale_fbanks

    bands = melscale_fbanks(
        len(magnitude), 0.0, rate_hz / 2, _MEL_BANDS, rate_hz, norm="slaney", mel_scale="slaney"
    ).T  # (mel, freq)
    return (torch.linalg.pinv(bands) @ (bands @ magnitude)).clamp_min(0)
