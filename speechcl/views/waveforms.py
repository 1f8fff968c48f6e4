"""Views of waveforms in [-1, 1], of shape (batch, samples)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from speechcl.views.view import View, Views, uniform

_MU = 255.0


@dataclass(frozen=True)
class Shift(View):
    """Sound comes earlier or later; what leaves at one end comes back at the other.

    Arguments
    ---------
    most : float
        Greatest shift, as a share of the length.

    Example
    -------
    >>> sorted(Shift(0.5)(torch.arange(4.0)[None], torch.Generator()).flatten().tolist())
    [0.0, 1.0, 2.0, 3.0]
    """

    most: float = 0.2

    def change(self, features: Tensor, draws: torch.Generator) -> Tensor:
        """Return the clips, each rolled by its own number of samples."""
        samples = features.shape[1]
        shift = (samples * uniform(-self.most, self.most, features, draws)).round().long()
        place = (torch.arange(samples, device=features.device) - shift) % samples
        return features.gather(1, place)


@dataclass(frozen=True)
class Level(View):
    """A clip becomes louder or softer, and is held back where it would leave [-1, 1].

    Arguments
    ---------
    most_db : float
        Greatest change, in decibels.

    Example
    -------
    >>> Level(20.0)(torch.tensor([[0.5, -1.0]]), torch.Generator()).abs().max() <= 1
    tensor(True)
    """

    most_db: float = 6.0

    def change(self, features: Tensor, draws: torch.Generator) -> Tensor:
        """Return the clips times a factor each."""
        gain = 10 ** (uniform(-self.most_db, self.most_db, features, draws) / 20)
        peak = features.abs().amax(1, keepdim=True).clamp_min(1e-9)
        return features * torch.minimum(gain, (1 / peak).clamp_min(1.0))


@dataclass(frozen=True)
class Noise(View):
    """White noise at a random distance from the speech.

    Arguments
    ---------
    low_db, high_db : float
        Range of the signal-to-noise ratio, by mean power.

    Example
    -------
    >>> noisy = Noise(20.0, 20.0)(torch.ones(1, 10_000), torch.Generator().manual_seed(0)) - 1
    >>> round(float(-10 * noisy.square().mean().log10()))
    20
    """

    low_db: float = 10.0
    high_db: float = 30.0

    def change(self, features: Tensor, draws: torch.Generator) -> Tensor:
        """Return the clips plus noise, not clipped."""
        ratio = 10 ** (-uniform(self.low_db, self.high_db, features, draws) / 20)
        noise = torch.randn(features.shape, generator=draws).to(features)
        return features + ratio * features.square().mean(1, keepdim=True).sqrt() * noise


@dataclass(frozen=True)
class Speed(View):
    """Faster or slower, and with that higher or deeper; the length stays.

    A faster clip is followed by silence, a slower one is cut.

    Arguments
    ---------
    most : float
        Greatest change of the speed.

    Example
    -------
    >>> Speed(0.0)(torch.arange(4.0)[None], torch.Generator())
    tensor([[0., 1., 2., 3.]])
    """

    most: float = 0.1

    def change(self, features: Tensor, draws: torch.Generator) -> Tensor:
        """Return the clips, interpolated linearly."""
        samples = features.shape[1]
        speed = uniform(1 - self.most, 1 + self.most, features, draws)
        place = speed * torch.arange(samples, device=features.device)
        below = place.floor().long()
        inside = below < samples
        one = features.gather(1, below.clamp_max(samples - 1))
        other = features.gather(1, (below + 1).clamp_max(samples - 1))
        return torch.where(inside, torch.lerp(one, other, place - below), 0.0)


@dataclass(frozen=True)
class Room(View):
    """A room: the sound itself and a tail of its echoes that dies away.

    Arguments
    ---------
    rate_hz : int
        Of the waveforms.
    decay_s : tuple of float
        Range of the time in which echoes lose 60 dB.
    direct_db : tuple of float
        Range of how far echoes are below the sound itself, by energy.

    Example
    -------
    >>> click = torch.zeros(1, 1000)
    >>> click[0, 0] = 1.0
    >>> heard = Room(rate_hz=8000, direct_db=(10.0, 10.0))(click, torch.Generator().manual_seed(0))
    >>> round(float(-10 * heard[0, 1:].square().sum().log10()))
    10
    """

    rate_hz: int
    decay_s: tuple[float, float] = (0.08, 0.12)
    direct_db: tuple[float, float] = (8.0, 14.0)

    def change(self, features: Tensor, draws: torch.Generator) -> Tensor:
        """Return the clips convolved with a room each, as loud as before."""
        samples, length = features.shape[1], round(self.decay_s[1] * self.rate_hz)
        decay = uniform(*self.decay_s, features, draws)
        time_s = torch.arange(1, length, device=features.device) / self.rate_hz
        tail = torch.randn(len(features), length - 1, generator=draws).to(features)
        tail = tail * 10 ** (-3 * time_s / decay)
        share = 10 ** (-uniform(*self.direct_db, features, draws) / 20)
        tail = share * tail / tail.norm(dim=1, keepdim=True)
        size = 1 << (samples + length - 2).bit_length()
        spectrum = torch.fft.rfft(features, size)
        wet = (
            features
            + _delayed(torch.fft.irfft(spectrum * torch.fft.rfft(tail, size), size))[:, :samples]
        )
        loud, before = (x.square().mean(1, keepdim=True).sqrt() for x in (wet, features))
        return torch.where(loud > 0, wet * before / loud.clamp_min(1e-12), wet)


@dataclass(frozen=True)
class Companding(View):
    """A telephone's eight bits: mu-law levels, as in G.711, without its sample rate or packets.

    For MP3, Opus and AMR there is ``speechcl.attacks.codec``, one clip at a time.

    Example
    -------
    >>> coded = Companding()(torch.tensor([[0.0, 0.01, 0.5]]), torch.Generator())
    >>> bool(((coded - torch.tensor([[0.0, 0.01, 0.5]])).abs() < 0.02).all())
    True
    """

    def change(self, features: Tensor, draws: torch.Generator) -> Tensor:
        """Return the clips after coding and decoding."""
        x = features.clamp(-1, 1)
        level = x.sign() * (_MU * x.abs()).log1p() / math.log1p(_MU)
        level = ((level + 1) / 2 * _MU).round() / _MU * 2 - 1
        return level.sign() * ((level.abs() * math.log1p(_MU)).expm1() / _MU)


def waveform_views(rate_hz: int) -> Views:
    """Return the views of speech: moved, faster or slower, in a room, noisy, coded, louder.

    Example
    -------
    >>> waveform_views(8000)(0.1 * torch.randn(2, 4000), torch.Generator()).shape
    torch.Size([2, 4000])
    """
    return Views(
        [
            Shift(),
            Speed(probability=0.5),
            Room(rate_hz, probability=0.3),
            Noise(probability=0.5),
            Companding(probability=0.2),
            Level(),
        ]
    )


def _delayed(echoes: Tensor) -> Tensor:
    """Move echoes a sample later, since the first sample of a room is the sound itself."""
    return torch.cat([torch.zeros_like(echoes[:, :1]), echoes[:, :-1]], 1)
