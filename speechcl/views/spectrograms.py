"""Views of spectrograms: natural logarithms of energies, of shape (batch, frames, bands)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from speechcl.views.view import View, Views, uniform

_LOG_A_DB = math.log(10) / 10  # of an energy


@dataclass(frozen=True)
class TimeShift(View):
    """Sound comes earlier or later; what leaves at one end comes back at the other.

    Nothing is lost that way, and a clip that is padded with silence keeps its silence.

    Arguments
    ---------
    most : float
        Greatest shift, as a share of the length.

    Example
    -------
    >>> frames = torch.arange(4.0).view(1, 4, 1)
    >>> sorted(TimeShift(0.5)(frames, torch.Generator()).flatten().tolist())
    [0.0, 1.0, 2.0, 3.0]
    """

    most: float = 0.2

    def change(self, features: Tensor, draws: torch.Generator) -> Tensor:
        """Return the clips, each rolled by its own number of frames."""
        frames = features.shape[1]
        shift = (frames * uniform(-self.most, self.most, features, draws)).round().long()
        place = (torch.arange(frames, device=features.device).view(1, -1, 1) - shift) % frames
        return features.gather(1, place.expand(-1, -1, features.shape[2]))


@dataclass(frozen=True)
class TimeMask(View):
    """Hide a stretch of time: its frames become the clip's mean, alike in all bands.

    Arguments
    ---------
    most : float
        Greatest width, as a share of the length; widths are uniform from 0.

    Source: Park et al., "SpecAugment", Interspeech 2019, section 2.

    Example
    -------
    >>> hidden = TimeMask(1.0)(torch.randn(1, 9, 2), torch.Generator().manual_seed(1))
    >>> int((hidden[0, :, 0] == hidden[0, :, 1]).sum())
    3
    """

    most: float = 0.2

    def change(self, features: Tensor, draws: torch.Generator) -> Tensor:
        """Return the clips with a mask each."""
        mean = features.mean((1, 2), keepdim=True)
        return torch.where(_stretch(features, 1, self.most, draws), mean, features)


@dataclass(frozen=True)
class FrequencyMask(View):
    """Hide neighbouring bands: they become the mean of their frame, so that silence stays even.

    Arguments
    ---------
    most : float
        Greatest width, as a share of the bands; widths are uniform from 0.

    Source: Park et al., "SpecAugment", Interspeech 2019, section 2.

    Example
    -------
    >>> frame = torch.tensor([[[1.0, 2.0, 3.0, 6.0]]])
    >>> FrequencyMask(0.5)(frame, torch.Generator().manual_seed(1))
    tensor([[[1., 3., 3., 6.]]])
    """

    most: float = 0.2

    def change(self, features: Tensor, draws: torch.Generator) -> Tensor:
        """Return the clips with a mask each."""
        mean = features.mean(2, keepdim=True)
        return torch.where(_stretch(features, 2, self.most, draws), mean, features)


@dataclass(frozen=True)
class LevelShift(View):
    """A clip becomes louder or softer.

    Arguments
    ---------
    most_db : float
        Greatest change, in decibels.

    Example
    -------
    >>> louder = LevelShift(6.0)(torch.zeros(2, 1, 1), torch.Generator().manual_seed(0))
    >>> bool((louder.abs() <= 6 * math.log(10) / 10).all()), bool((louder != 0).all())
    (True, True)
    """

    most_db: float = 6.0

    def change(self, features: Tensor, draws: torch.Generator) -> Tensor:
        """Return the clips with a number added to each."""
        return features + _LOG_A_DB * uniform(-self.most_db, self.most_db, features, draws)


@dataclass(frozen=True)
class NoiseFloor(View):
    """Steady noise, as strong in all bands, some decibels below a clip's mean energy.

    Arguments
    ---------
    low_db, high_db : float
        Range of the distance to the mean energy of the frames that hold sound.

    Example
    -------
    >>> quiet = torch.tensor([[[0.0], [-30.0]]])
    >>> NoiseFloor(20.0, 20.0)(quiet, torch.Generator())[0, 1] > -8.0
    tensor([True])
    """

    low_db: float = 10.0
    high_db: float = 30.0

    def change(self, features: Tensor, draws: torch.Generator) -> Tensor:
        """Return the logarithms of energies plus that of the noise."""
        mean = features.logsumexp((1, 2), keepdim=True) - math.log(features[0].numel())
        below = uniform(self.low_db, self.high_db, features, draws)
        return torch.logaddexp(features, mean - _LOG_A_DB * below)


@dataclass(frozen=True)
class TimeStretch(View):
    """A part of the clip, stretched to the length of the whole: slower speech.

    Arguments
    ---------
    least : float
        Smallest part.

    Example
    -------
    >>> frames = torch.arange(4.0).view(1, 4, 1)
    >>> torch.allclose(TimeStretch(1.0)(frames, torch.Generator()), frames)
    True
    """

    least: float = 0.85

    def change(self, features: Tensor, draws: torch.Generator) -> Tensor:
        """Return the clips, interpolated linearly in time."""
        frames = features.shape[1]
        part = uniform(self.least, 1, features, draws)
        start = (1 - part) * uniform(0, 1, features, draws) * (frames - 1)
        step = torch.arange(frames, device=features.device).view(1, -1, 1)
        place = start + part * step
        below = place.floor().clamp(0, frames - 1).long()
        above = (below + 1).clamp_max(frames - 1)
        one, other = (
            features.gather(1, k.expand(-1, -1, features.shape[2])) for k in (below, above)
        )
        return torch.lerp(one, other, (place - below).to(features.dtype))


def spectrogram_views() -> Views:
    """Return the views of spoken words: shifted, louder or softer, noisy, masked.

    Nothing is turned round in time or in frequency, which would make another word.

    Example
    -------
    >>> spectrogram_views()(torch.randn(2, 50, 40), torch.Generator()).shape
    torch.Size([2, 50, 40])
    """
    return Views(
        [
            TimeStretch(probability=0.5),
            TimeShift(),
            LevelShift(),
            NoiseFloor(probability=0.5),
            TimeMask(),
            FrequencyMask(),
        ]
    )


def _stretch(features: Tensor, axis: int, most: float, draws: torch.Generator) -> Tensor:
    """Return where a random stretch of an axis is, shape (batch, frames or 1, bands or 1)."""
    size = features.shape[axis]
    width = (uniform(0, most, features, draws) * size).round()
    first = (uniform(0, 1, features, draws) * (size - width + 1)).floor()
    place = torch.arange(size, device=features.device)
    place = place.view(1, -1, 1) if axis == 1 else place.view(1, 1, -1)
    return (place >= first) & (place < first + width)


def spectrogram_flips(features: Tensor) -> Tensor:
    """Return clips, the same backwards in time, upside down in frequency, and both.

    Each is a class of its own for a contrast of items: none of the three is speech any more.

    Arguments
    ---------
    features : Tensor
        Shape (batch, frames, bands).

    Returns
    -------
    Tensor
        Shape (4 * batch, frames, bands): all items as they are first.

    Example
    -------
    >>> spectrogram_flips(torch.tensor([[[1.0, 2.0]]])).flatten()
    tensor([1., 2., 1., 2., 2., 1., 2., 1.])
    """
    return torch.cat([features.flip(axes) for axes in ((), (1,), (2,), (1, 2))])
