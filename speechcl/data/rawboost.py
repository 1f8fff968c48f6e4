"""RawBoost: channel and noise that a telephone or a recorder may add, drawn from no recording."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import fft

from speechcl.data.augment import Augmentation

_NOTCHES = 5  # band-stop filters in a row
_ORDERS = 5  # powers of the waveform that are summed
_CENTRES_FROM_HZ = 20.0
_WIDTHS_HZ = (100.0, 1000.0)
_LENGTHS = (10, 100)  # taps of a band-stop filter, made odd
_NONLINEAR_DB = (-20.0, -5.0)
_HALF = _LENGTHS[1] // 2 - 1  # taps on either side of the middle of the longest
_RESPONSE = 1024  # points at which a response is multiplied and its peak looked for
_BLOCK = 4096  # transforms of this size stay in the processor's cache

_CHAINS = {1: "c", 2: "i", 3: "s", 4: "cis", 5: "ci", 6: "cs", 7: "is", 8: "c+i"}


@dataclass(frozen=True)
class RawBoost(Augmentation):
    """Convolutive, impulsive and stationary disturbances that follow no recorded noise.

    Arguments
    ---------
    algorithm : int
        1: convolutive noise, five powers of the waveform, each through a filter of its own.
        2: impulsive noise that depends on the signal. 3: stationary coloured noise.
        4: 1, 2, 3 in a row. 5: 1, 2 (the authors' choice for telephone speech). 6: 1, 3. 7: 2, 3.
        8: the sum of 1 and 2, side by side.
    impulse_share : float
        Of the samples, at most so many are disturbed by 2.
    impulse_gain : float
        Largest disturbance, relative to the sample.
    snr_db : tuple
        Range of the signal-to-noise ratio of 3. Its noise may carry peaks beyond [-1, 1].
    rate_hz : int
        Sample rate of the waveforms.

    Raises
    ------
    ValueError
        If there is no such algorithm.

    Source: Tak et al., "RawBoost: a raw data boosting and augmentation method applied to automatic
    speaker verification anti-spoofing", ICASSP 2022. Deviates: filters are centred, where the
    released code advances all of them by one sample; their draws differ from the released code's.

    Example
    -------
    >>> clip = 0.1 * torch.randn(16000, generator=torch.Generator().manual_seed(0))
    >>> noise = RawBoost(3, snr_db=(20.0, 20.0))(clip, seed=1) - clip
    >>> round(float(20 * torch.log10(clip.norm() / noise.norm())), 2)
    20.0
    """

    algorithm: int = 5
    impulse_share: float = 0.1
    impulse_gain: float = 2.0
    snr_db: tuple[float, float] = (10.0, 40.0)
    rate_hz: int = 16000

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.algorithm not in _CHAINS:
            raise ValueError(f"algorithm is {self.algorithm}: choose one from 1 to 8")

    def change(self, waveform: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
        """Return the waveform after the algorithm's parts."""
        samples = waveform.detach().cpu().numpy().astype(np.float32, copy=False)
        chain = _CHAINS[self.algorithm]
        if chain == "c+i":
            samples = _within_one(
                self._convolutive(samples, generator) + self._impulsive(samples, generator)
            )
        else:
            parts = {"c": self._convolutive, "i": self._impulsive, "s": self._stationary}
            for part in chain:
                samples = parts[part](samples, generator)
        return torch.from_numpy(samples)

    def _convolutive(self, samples: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        gains_db = np.concatenate([[0.0], generator.uniform(*_NONLINEAR_DB, _ORDERS - 1)])
        noisy = filtered_powers(samples, self._draw_filters(generator, gains_db))
        return _within_one(noisy - noisy.mean())

    def _impulsive(self, samples: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        count = int(generator.uniform(0, self.impulse_share) * len(samples))
        places = generator.choice(len(samples), count, replace=False, shuffle=False)
        first, second = generator.uniform(-1, 1, (2, count)).astype(np.float32)
        noisy = samples.copy()
        noisy[places] += self.impulse_gain * first * second * samples[places]
        return _within_one(noisy)

    def _stationary(self, samples: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        white = generator.standard_normal(len(samples), dtype=np.float32)
        noise = filtered_powers(white, self._draw_filters(generator, np.zeros(1)))
        snr = 10 ** (generator.uniform(*self.snr_db) / 20)
        # noise of one sample may be zero by chance; a silent clip stays silent
        scale = np.linalg.norm(samples) / max(float(np.linalg.norm(noise)), 1e-12) / snr
        return samples + np.float32(scale) * noise

    def _draw_filters(self, generator: np.random.Generator, gains_db: np.ndarray) -> np.ndarray:
        shape = (len(gains_db), _NOTCHES)
        centres_hz = generator.uniform(_CENTRES_FROM_HZ, self.rate_hz / 2, shape)
        widths_hz = generator.uniform(*_WIDTHS_HZ, shape)
        lengths = generator.integers(*_LENGTHS, shape) // 2 * 2 + 1
        return notch_filters(centres_hz, widths_hz, lengths, gains_db, self.rate_hz)


def notch_filters(
    centres_hz: np.ndarray,
    widths_hz: np.ndarray,
    lengths: np.ndarray,
    gains_db: np.ndarray,
    rate_hz: int,
) -> np.ndarray:
    """Design filters, each of several Hamming-windowed band-stop filters in a row.

    Arguments
    ---------
    centres_hz, widths_hz : np.ndarray
        Of the stopped bands, shape (filters, notches); what lies outside 0 to half of ``rate_hz``
        is cut off.
    lengths : np.ndarray
        Taps of each band-stop filter, odd numbers up to 99, same shape.
    gains_db : np.ndarray
        Largest gain at any frequency of each filter, shape (filters,).
    rate_hz : int
        Sample rate.

    Returns
    -------
    np.ndarray
        Symmetric filters, float32, shape (filters, 98 notches + 1): the middle tap is the present.

    Source: the design is that of ``scipy.signal.firwin``, for all filters at once.

    Example
    -------
    >>> one = np.array([[1000.0]]), np.array([[500.0]]), np.array([[99]]), np.array([-6.0206])
    >>> response = np.abs(np.fft.rfft(notch_filters(*one, rate_hz=16000), 16000))[0]
    >>> response.max().round(3), bool(response[1000] < 0.1)  # half everywhere but around 1 kHz
    (np.float32(0.5), True)
    """
    # edges as shares of half the sample rate, as firwin counts
    low = np.maximum(centres_hz - widths_hz / 2, 1e-3)[..., None] * 2 / rate_hz
    high = np.minimum(centres_hz + widths_hz / 2, rate_hz / 2 - 1e-3)[..., None] * 2 / rate_hz
    tap = np.arange(-_HALF, _HALF + 1)
    span = lengths[..., None] - 1
    window = 0.54 + 0.46 * np.cos(2 * np.pi * tap / span)
    ideal = np.sinc(tap) - high * np.sinc(high * tap) + low * np.sinc(low * tap)
    stops = np.where(2 * np.abs(tap) <= span, ideal * window, 0)
    stops /= stops.sum(-1, keepdims=True)  # gain 1 at 0 Hz: decides the sign, for the peak is set
    response = fft.rfft(stops, _RESPONSE).prod(1)  # (filters, frequencies)
    peak = np.abs(response[:, :-1]).max(1)
    scaled = response * (10 ** (gains_db / 20) / peak)[:, None]
    taps = fft.irfft(scaled, _RESPONSE)[:, : 2 * _HALF * centres_hz.shape[1] + 1]
    return taps.astype(np.float32)


def filtered_powers(samples: np.ndarray, filters: np.ndarray) -> np.ndarray:
    """Return x filtered by the first filter, plus x squared by the second, and so on.

    Arguments
    ---------
    samples : np.ndarray
        x, shape (time,).
    filters : np.ndarray
        An odd number of taps, shape (powers, taps), the middle one being the present.

    Returns
    -------
    np.ndarray
        Shape (time,), float32.

    Source: overlap-save convolution; the powers are summed as spectra, so that there is one inverse
    transform.

    Example
    -------
    >>> keep, advance = [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]  # x now, and x squared a sample ahead
    >>> filtered_powers(np.array([1.0, 2.0, 3.0]), np.array([keep, advance])).round(4)
    array([ 5., 11.,  3.], dtype=float32)
    """
    reach = filters.shape[1] // 2
    step = _BLOCK - 2 * reach
    padded = np.zeros(-(-len(samples) // step) * step + 2 * reach, np.float32)
    padded[reach : reach + len(samples)] = samples
    blocks = np.lib.stride_tricks.sliding_window_view(padded, _BLOCK)[::step]
    responses = fft.rfft(filters.astype(np.float32), _BLOCK)
    power = blocks
    total = fft.rfft(power) * responses[0]
    for response in responses[1:]:
        power = power * blocks
        total += fft.rfft(power) * response
    # the first samples of a block have met its end, for such a transform is periodic
    return fft.irfft(total, _BLOCK)[:, 2 * reach :].reshape(-1)[: len(samples)]


def _within_one(samples: np.ndarray) -> np.ndarray:
    """Scale to a peak of 1, but only what exceeds it."""
    return samples / max(1.0, float(np.abs(samples).max()))
