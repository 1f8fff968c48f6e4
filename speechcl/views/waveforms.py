"""Views of waveforms in [-1, 1], of shape (batch, samples)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from speechcl.views.view import TimeShift, View, Views, ordered, uniform, within

_MU = 255.0
_CODES = 127  # of eight bits, one is the sign
_SKIRT = 0.1  # of a cut-off, as a share of it
_TINY = 1e-12


@dataclass(frozen=True)
class Level(View):
    """A clip becomes louder or softer, and is held back where it would leave [-1, 1].

    Arguments
    ---------
    most_db : float
        Greatest change, in decibels.

    Raises
    ------
    ValueError
        If it is below 0.

    Example
    -------
    >>> Level(20.0)(torch.tensor([[0.5, -1.0]]), torch.Generator()).abs().max() <= 1
    tensor(True)
    """

    most_db: float = 6.0

    def __post_init__(self) -> None:
        """Refuse a range that is empty."""
        super().__post_init__()
        within("most_db", self.most_db, 0)

    def change(self, features: Tensor, draws: torch.Generator) -> Tensor:
        """Return the clips times a factor each."""
        gain = 10 ** (uniform(-self.most_db, self.most_db, features, draws) / 20)
        peak = features.abs().amax(1, keepdim=True).clamp_min(1e-9)
        return features * torch.minimum(gain, (1 / peak).clamp_min(1.0))


@dataclass(frozen=True)
class Noise(View):
    """Noise at a random distance from the speech, white or coloured at random.

    Arguments
    ---------
    low_db, high_db : float
        Range of the signal-to-noise ratio, by mean power.
    slope : tuple of float
        Range of the power of frequency that the noise falls with: 0 is white noise, 1 pink.

    Raises
    ------
    ValueError
        If a range is empty, or of slopes outside -2 and 2.

    Example
    -------
    >>> noisy = Noise(20.0, 20.0)(torch.ones(1, 10_000), torch.Generator().manual_seed(0)) - 1
    >>> round(float(-10 * noisy.square().mean().log10()), 3)
    20.0
    """

    low_db: float = 10.0
    high_db: float = 30.0
    slope: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        """Refuse ranges that are empty."""
        super().__post_init__()
        ordered("low_db, high_db", (self.low_db, self.high_db))
        ordered("slope", self.slope, -2, 2)

    def change(self, features: Tensor, draws: torch.Generator) -> Tensor:
        """Return the clips plus noise, not clipped."""
        batch, samples = features.shape
        ratio = 10 ** (-uniform(self.low_db, self.high_db, features, draws) / 20)
        slope = uniform(*self.slope, features, draws)
        size = _fast_size(max(samples, 2))
        bins = torch.arange(1, size // 2 + 1, device=features.device)
        spectrum = torch.randn(batch, len(bins), 2, generator=draws).to(features)
        spectrum = torch.view_as_complex(spectrum) * bins ** (-slope / 2)
        spectrum = torch.cat([torch.zeros_like(spectrum[:, :1]), spectrum], 1)  # no constant
        noise = torch.fft.irfft(spectrum, size)[:, :samples]
        return features + ratio * _rms(features) / _rms(noise).clamp_min(_TINY) * noise


@dataclass(frozen=True)
class Speed(View):
    """Faster or slower, and with that higher or deeper; the length stays.

    A faster clip is followed by silence, a slower one is cut. Interpolation between neighbours
    takes some of the high frequencies: 2 dB at half of the highest one, 5 dB at the highest.

    Arguments
    ---------
    most : float
        Greatest change of the speed.

    Raises
    ------
    ValueError
        If it is not within 0 and 0.5.

    Example
    -------
    >>> Speed(0.0)(torch.arange(4.0)[None], torch.Generator())
    tensor([[0., 1., 2., 3.]])
    """

    most: float = 0.1

    def __post_init__(self) -> None:
        """Refuse what would turn a clip round, or nearly stop it."""
        super().__post_init__()
        within("most", self.most, 0, 0.5)

    def change(self, features: Tensor, draws: torch.Generator) -> Tensor:
        """Return the clips, interpolated linearly."""
        samples = features.shape[1]
        at = torch.arange(samples, device=features.device)
        ahead = uniform(-self.most, self.most, features, draws) * at  # small, so that it is exact
        below = at + ahead.floor().long()
        one = features.gather(1, below.clamp_max(samples - 1))
        other = features.gather(1, (below + 1).clamp_max(samples - 1))
        return torch.where(below < samples, torch.lerp(one, other, ahead - ahead.floor()), 0.0)


@dataclass(frozen=True)
class Room(View):
    """A room: the sound itself and a tail of its echoes that dies away.

    Arguments
    ---------
    rate_hz : int
        Of the waveforms.
    decay_s : tuple of float
        Range of the time in which echoes lose 60 dB; they end with the longest.
    direct_db : tuple of float
        Range of how far echoes are below the sound itself, by energy.

    Raises
    ------
    ValueError
        If a range is empty, or a decay is not above 0 or the longest below two samples.

    Example
    -------
    >>> click = torch.zeros(1, 1000)
    >>> click[0, 0] = 1.0
    >>> heard = Room(rate_hz=8000, direct_db=(10.0, 10.0))(click, torch.Generator().manual_seed(0))
    >>> round(float(10 * (heard[0, 0] ** 2 / heard[0, 1:].square().sum()).log10()), 3)
    10.0
    """

    rate_hz: int
    decay_s: tuple[float, float] = (0.08, 0.12)
    direct_db: tuple[float, float] = (8.0, 14.0)

    def __post_init__(self) -> None:
        """Refuse ranges that are empty."""
        super().__post_init__()
        within("rate_hz", self.rate_hz, 1)
        ordered("decay_s", self.decay_s, 1e-3)
        within("the longest decay in samples", self.decay_s[1] * self.rate_hz, 2)
        ordered("direct_db", self.direct_db)

    def change(self, features: Tensor, draws: torch.Generator) -> Tensor:
        """Return the clips convolved with a room each, as loud as before."""
        batch, samples = features.shape
        length = round(self.decay_s[1] * self.rate_hz)
        decay = uniform(*self.decay_s, features, draws)
        share = 10 ** (-uniform(*self.direct_db, features, draws) / 20)
        time_s = torch.arange(1, length, device=features.device) / self.rate_hz
        tail = torch.randn(batch, length - 1, generator=draws).to(features)
        tail = tail * 10 ** (-3 * time_s / decay)
        tail = share * tail / tail.norm(dim=1, keepdim=True)
        response = torch.cat([torch.ones_like(tail[:, :1]), tail], 1)
        size = _fast_size(samples + length - 1)
        spectrum = torch.fft.rfft(features, size) * torch.fft.rfft(response, size)
        wet = torch.fft.irfft(spectrum, size)[:, :samples]
        return wet * (_rms(features) / _rms(wet).clamp_min(_TINY))


@dataclass(frozen=True)
class Companding(View):
    """A telephone's eight bits: mu-law levels, as in G.711, without its sample rate or packets.

    For MP3, Opus and AMR there is ``speechcl.attacks.codec``, one clip at a time.

    Example
    -------
    >>> Companding()(torch.tensor([[0.0, 0.01, 0.5]]), torch.Generator())
    tensor([[0.0000, 0.0100, 0.4953]])
    """

    def change(self, features: Tensor, draws: torch.Generator) -> Tensor:
        """Return the clips after coding and decoding."""
        code = (_MU * features.abs().clamp_max(1)).log1p() / math.log1p(_MU)
        code = (code * _CODES).round() / _CODES
        return features.sign() * (code * math.log1p(_MU)).expm1() / _MU


@dataclass(frozen=True)
class LossyCoding(View):
    """What a codec of few bits leaves: no high frequencies, and coarse steps.

    This stands in for MP3 and Opus and is neither: it has no frames, no masking by ear and no
    pre-echo. For these there is ``speechcl.attacks.codec``, one clip at a time.

    Arguments
    ---------
    rate_hz : int
        Of the waveforms.
    cut_hz : tuple of float
        Range of the frequency from which on nothing is left, after a slope a tenth as wide.
    bits : tuple of float
        Range of the size of steps, as bits for what lies between the clip's peak and its negative.

    Raises
    ------
    ValueError
        If a range is empty, or goes below 1 Hz or 1 bit.

    Example
    -------
    >>> steps = LossyCoding(16000, bits=(2.0, 2.0))(torch.randn(1, 1000), torch.Generator())
    >>> len(steps.unique())  # -1, -1/2, 0, 1/2 or 1 of the peak
    5
    """

    rate_hz: int
    cut_hz: tuple[float, float] = (3400.0, 7000.0)
    bits: tuple[float, float] = (7.0, 10.0)

    def __post_init__(self) -> None:
        """Refuse ranges that are empty."""
        super().__post_init__()
        within("rate_hz", self.rate_hz, 1)
        ordered("cut_hz", self.cut_hz, 1)
        ordered("bits", self.bits, 1)

    def change(self, features: Tensor, draws: torch.Generator) -> Tensor:
        """Return the clips, filtered without delay and rounded."""
        samples = features.shape[1]
        cut_hz = uniform(*self.cut_hz, features, draws)
        steps = 2 ** (uniform(*self.bits, features, draws) - 1)
        room = min(samples, self.rate_hz // 100)  # the end must not ring into the beginning
        size = _fast_size(samples + room)
        frequency_hz = torch.fft.rfftfreq(size, 1 / self.rate_hz, device=features.device)
        kept = ((1 - frequency_hz / cut_hz) / _SKIRT).clamp(0, 1)
        low = torch.fft.irfft(torch.fft.rfft(features, size) * kept, size)[:, :samples]
        step = low.abs().amax(1, keepdim=True).clamp_min(_TINY) / steps
        return (low / step).round() * step


def waveform_views(rate_hz: int) -> Views:
    """Return the views of speech: moved, faster or slower, in a room, noisy, coded, louder.

    Example
    -------
    >>> waveform_views(8000)(0.1 * torch.randn(2, 4000), torch.Generator()).shape
    torch.Size([2, 4000])
    """
    return Views(
        [
            TimeShift(),
            Speed(probability=0.5),
            Room(rate_hz, probability=0.3),
            Noise(probability=0.5),
            Companding(probability=0.2),
            LossyCoding(rate_hz, probability=0.2),
            Level(),
        ]
    )


def _rms(waveforms: Tensor) -> Tensor:
    return waveforms.square().mean(1, keepdim=True).sqrt()


def _fast_size(least: int) -> int:
    """Return the next size that a Fourier transform is quick at."""
    from scipy.fft import next_fast_len

    return next_fast_len(least, real=True)
