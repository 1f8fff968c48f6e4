"""Views of spectrograms: natural logarithms of energies, of shape (batch, frames, bands)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from speechcl.views.view import Share, TimeShift, View, Views, ordered, uniform, within

_LOG_A_DB = math.log(10) / 10  # of an energy


@dataclass(frozen=True)
class TimeMask(Share):
    """Hide a stretch of time: its frames become the clip's mean, alike in all bands.

    Arguments
    ---------
    most : float
        Greatest width, as a share of the length; widths are whole frames, uniform from 0.

    Source: Park et al., "SpecAugment", Interspeech 2019, section 2.

    Example
    -------
    >>> frames = torch.arange(6.0).view(1, 6, 1)
    >>> TimeMask(0.5)(frames, torch.Generator().manual_seed(6)).flatten()
    tensor([0.0000, 1.0000, 2.0000, 3.0000, 2.5000, 2.5000])
    """

    def change(self, features: Tensor, draws: torch.Generator) -> Tensor:
        """Return the clips with a mask each."""
        mean = features.mean((1, 2), keepdim=True)
        return torch.where(_stretch(features, 1, self.most, draws), mean, features)


@dataclass(frozen=True)
class FrequencyMask(Share):
    """Hide neighbouring bands: they become the mean of their frame, so that silence stays even.

    Arguments
    ---------
    most : float
        Greatest width, as a share of the bands; widths are whole bands, uniform from 0.

    Source: Park et al., "SpecAugment", Interspeech 2019, section 2.

    Example
    -------
    >>> frame = torch.tensor([[[1.0, 2.0, 3.0, 6.0]]])
    >>> FrequencyMask(0.5)(frame, torch.Generator().manual_seed(6))
    tensor([[[1., 2., 3., 3.]]])
    """

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

    Raises
    ------
    ValueError
        If it is below 0.

    Example
    -------
    >>> louder = LevelShift(6.0)(torch.zeros(2, 1, 1), torch.Generator().manual_seed(0))
    >>> bool((louder.abs() <= 6 * math.log(10) / 10).all()), bool((louder != 0).all())
    (True, True)
    """

    most_db: float = 6.0

    def __post_init__(self) -> None:
        """Refuse a range that is empty."""
        super().__post_init__()
        within("most_db", self.most_db, 0)

    def change(self, features: Tensor, draws: torch.Generator) -> Tensor:
        """Return the clips with a number added to each."""
        return features + _LOG_A_DB * uniform(-self.most_db, self.most_db, features, draws)


@dataclass(frozen=True)
class NoiseFloor(View):
    """Steady noise, as strong in all bands, some decibels below a clip's mean energy.

    Where each band's mean was taken away, the noise is coloured as the clip is.

    Arguments
    ---------
    low_db, high_db : float
        Range of the distance to the mean energy of all frames and bands.

    Raises
    ------
    ValueError
        If the range is empty.

    Example
    -------
    >>> quiet = torch.tensor([[[0.0], [-30.0]]])
    >>> NoiseFloor(20.0, 20.0)(quiet, torch.Generator())[0, 1] > -8.0
    tensor([True])
    """

    low_db: float = 10.0
    high_db: float = 30.0

    def __post_init__(self) -> None:
        """Refuse a range that is empty."""
        super().__post_init__()
        ordered("low_db, high_db", (self.low_db, self.high_db))

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
        Smallest part, as a share of the length.

    Raises
    ------
    ValueError
        If it is not within 0 and 1.

    Example
    -------
    >>> frames = torch.arange(4.0).view(1, 4, 1)
    >>> torch.allclose(TimeStretch(1.0)(frames, torch.Generator()), frames)
    True
    """

    least: float = 0.85

    def __post_init__(self) -> None:
        """Refuse what is no share."""
        super().__post_init__()
        within("least", self.least, 0, 1)

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
    widest = int(most * size + 1e-9)  # a share of 0.29 of 100 is 29
    width = (uniform(0, 1, features, draws) * (widest + 1)).floor()
    first = (uniform(0, 1, features, draws) * (size - width + 1)).floor()
    place = torch.arange(size, device=features.device)
    place = place.view(1, -1, 1) if axis == 1 else place.view(1, 1, -1)
    return (place >= first) & (place < first + width)
