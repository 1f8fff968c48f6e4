"""Linear prediction: the vocal tract is kept as an all-pole filter and excited anew."""

import numpy as np
import torch

from speechcl.attacks.frames import frame_size, generator, istft, pitch_track, stft

_FRAME_MS = 32.0
_DISPERSION_S = 0.008
_TINY = 1e-8


def lpc_noise(waveform: torch.Tensor, rate_hz: int, seed: int = 0) -> torch.Tensor:
    """Excite the linear-prediction envelope with noise: whispered speech without a pitch.

    Arguments
    ---------
    waveform : torch.Tensor
        Genuine speech (time,).
    rate_hz : int
        Its sample rate.
    seed : int
        Seed of the noise.

    Returns
    -------
    torch.Tensor
        Spoofed speech (time,).

    Example
    -------
    >>> tone = torch.sin(2 * torch.pi * 200 * torch.arange(8000) / 16000)
    >>> lpc_noise(tone, 16000).shape
    torch.Size([8000])
    """
    return _excite(waveform, torch.randn(len(waveform), generator=generator(seed)), rate_hz)


def lpc_pulse(waveform: torch.Tensor, rate_hz: int, seed: int = 0) -> torch.Tensor:
    """Excite the linear-prediction envelope with pulses at the pitch, with noise where unvoiced.

    Arguments
    ---------
    waveform : torch.Tensor
        Genuine speech (time,).
    rate_hz : int
        Its sample rate.
    seed : int
        Seed of the noise and of the first pulse's position.

    Returns
    -------
    torch.Tensor
        Spoofed speech (time,).

    Example
    -------
    >>> tone = torch.sin(2 * torch.pi * 200 * torch.arange(8000) / 16000)
    >>> lpc_pulse(tone, 16000).shape
    torch.Size([8000])
    """
    rng = np.random.default_rng(seed)
    pitch_hz, voiced = pitch_track(waveform, rate_hz)
    cycles = np.cumsum(pitch_hz / rate_hz) + rng.random()
    pulses = np.diff(np.floor(cycles), prepend=0.0) > 0
    noise = rng.standard_normal(len(waveform))
    # a pulse carries the power that a period of unit noise has; the mean would sound as rumble
    period = rate_hz / pitch_hz
    excitation = np.where(voiced, (pulses - 1 / period) * np.sqrt(period), noise)
    excitation = _dispersed(excitation, rate_hz)
    return _excite(waveform, torch.from_numpy(excitation.astype(np.float32)), rate_hz)


def lpc_filter(power: torch.Tensor, order: int) -> torch.Tensor:
    """Return the all-pole, minimum-phase filter whose output has each frame's power spectrum.

    Arguments
    ---------
    power : torch.Tensor
        Power spectrum (freq, frames).
    order : int
        Number of poles.

    Returns
    -------
    torch.Tensor
        Frequency responses (freq, frames), complex.

    Source
    ------
    Makhoul, "Linear prediction: a tutorial review", 1975, autocorrelation method.

    Example
    -------
    >>> lpc_filter(torch.full((5, 1), 4.0), order=2).abs().T
    tensor([[2.0000, 2.0000, 2.0000, 2.0000, 2.0000]])
    """
    size = 2 * (len(power) - 1)
    correlation = torch.fft.irfft(power.double(), n=size, dim=0)[: order + 1]  # (lag, frames)
    correlation[0] = correlation[0] * (1 + 1e-6) + _TINY  # else silence has no solution
    lags = (torch.arange(order)[:, None] - torch.arange(order)).abs()
    toeplitz = correlation[lags].permute(2, 0, 1)  # (frames, order, order)
    target = correlation[1:].T.unsqueeze(-1)
    predictor = torch.linalg.solve(toeplitz, target).squeeze(-1)  # (frames, order)
    error = (correlation[0] - (predictor * correlation[1:].T).sum(-1)).clamp_min(0)
    inverse = torch.cat([torch.ones_like(predictor[:, :1]), -predictor], dim=1)
    return (error.sqrt() / torch.fft.rfft(inverse, n=size, dim=1).T).to(torch.complex64)


def _excite(waveform: torch.Tensor, excitation: torch.Tensor, rate_hz: int) -> torch.Tensor:
    size = frame_size(rate_hz, _FRAME_MS)
    power = stft(waveform, size).abs().square()
    order = rate_hz // 1000 + 2  # a pair of poles per kHz of bandwidth, and two for the slope
    response = lpc_filter(power, order) / torch.hann_window(size).square().sum().sqrt()
    return istft(stft(excitation, size) * response, size, len(waveform))


def _dispersed(excitation: np.ndarray, rate_hz: int) -> np.ndarray:
    """Delay high frequencies by up to 8 ms, as MELP coders do: bare pulses are all peaks."""
    frequency_hz = np.fft.rfftfreq(len(excitation), 1 / rate_hz)
    phase = 2 * np.pi * _DISPERSION_S * frequency_hz**2 / rate_hz
    return np.fft.irfft(np.fft.rfft(excitation) * np.exp(-1j * phase), n=len(excitation))
