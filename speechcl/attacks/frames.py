"""What several attacks share: short-time spectra, pitch tracks and seeded noise."""

import math

import numpy as np
import torch

PITCH_HOP_MS = 5.0
_FRAME_MS = 64.0


def generator(seed: int) -> torch.Generator:
    """Return a generator of its own, so that the global random state stays as it was.

    Example
    -------
    >>> bool(torch.rand(3, generator=generator(1)).equal(torch.rand(3, generator=generator(1))))
    True
    """
    return torch.Generator().manual_seed(seed)


def frame_size(rate_hz: int, duration_ms: float = _FRAME_MS) -> int:
    """Return the power of two that is nearest to a duration, in samples.

    Example
    -------
    >>> frame_size(16000), frame_size(44100), frame_size(16000, duration_ms=32)
    (1024, 2048, 512)
    """
    return 2 ** round(math.log2(duration_ms / 1000 * rate_hz))


def stft(waveform: torch.Tensor, size: int) -> torch.Tensor:
    """Return the spectrum (freq, frames) with a Hann window and a hop of a quarter of it.

    Example
    -------
    >>> stft(torch.ones(2048), 512).shape
    torch.Size([257, 17])
    """
    window = torch.hann_window(size)
    return torch.stft(waveform, size, size // 4, window=window, return_complex=True)


def istft(spectrum: torch.Tensor, size: int, length: int) -> torch.Tensor:
    """Return the waveform (time,) of a spectrum made by :func:`stft`.

    Example
    -------
    >>> ramp = torch.linspace(-1, 1, 2048)
    >>> bool(torch.allclose(istft(stft(ramp, 512), 512, 2048), ramp, atol=1e-5))
    True
    """
    window = torch.hann_window(size)
    return torch.istft(spectrum, size, size // 4, window=window, length=length)


def random_phases(like: torch.Tensor, seed: int) -> torch.Tensor:
    """Return unit complex numbers with uniform phases, in the shape of a spectrum.

    Example
    -------
    >>> random_phases(torch.zeros(2), seed=0).abs()
    tensor([1., 1.])
    """
    angles = 2 * math.pi * torch.rand(like.shape, generator=generator(seed))
    return torch.polar(torch.ones_like(angles), angles)


def pitch_track(waveform: torch.Tensor, rate_hz: int) -> tuple[np.ndarray, np.ndarray]:
    """Return for each sample the pitch in Hz, carried through unvoiced parts, and voicing.

    Arguments
    ---------
    waveform : torch.Tensor
        Waveform (time,).
    rate_hz : int
        Its sample rate.

    Returns
    -------
    tuple of numpy.ndarray
        Pitch (time,) in Hz, above 0 everywhere, and voicing (time,) as booleans. A waveform
        without any voiced part gets 100 Hz.

    Source
    ------
    DIO with StoneMask refinement (Morise, WORLD).

    Example
    -------
    >>> tone = torch.sign(torch.sin(2 * torch.pi * 200 * torch.arange(8000) / 16000))
    >>> pitch_hz, voiced = pitch_track(tone, 16000)
    >>> round(float(np.median(pitch_hz))), bool(voiced[4000])
    (200, True)
    """
    import pyworld

    samples = waveform.numpy().astype(np.float64)
    coarse_hz, time_s = pyworld.dio(samples, rate_hz, frame_period=PITCH_HOP_MS)
    track_hz = pyworld.stonemask(samples, coarse_hz, time_s, rate_hz)
    sample_s = np.arange(len(samples)) / rate_hz
    nearest = np.minimum((sample_s / (PITCH_HOP_MS / 1000) + 0.5).astype(int), len(track_hz) - 1)
    voiced = track_hz > 0
    if not voiced.any():
        return np.full(len(samples), 100.0), np.zeros(len(samples), dtype=bool)
    return np.interp(sample_s, time_s[voiced], track_hz[voiced]), voiced[nearest]
