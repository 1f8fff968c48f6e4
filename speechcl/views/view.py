"""What all views have in common: a whole batch at once, and all chance from one generator."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

# a view, or any function that is used as one: items (batch, ...) and a generator to items
AnyView = Callable[[Tensor, torch.Generator], Tensor]


def as_float(features: Tensor) -> Tensor:
    """Turn bytes of images into numbers from 0 to 1; leave other numbers as they are.

    Example
    -------
    >>> as_float(torch.tensor([0, 255], dtype=torch.uint8)), as_float(torch.tensor([7.0]))
    (tensor([0., 1.]), tensor([7.]))
    """
    return features.float() / 255 if features.dtype == torch.uint8 else features


@dataclass(frozen=True)
class View(ABC):
    """Another look at a batch of items that leaves what they are; subclasses add their numbers.

    All chance is drawn on the CPU, for the whole batch, so that views are the same on every device
    and in every process. The input is never written to. Bytes become numbers from 0 to 1.

    Arguments
    ---------
    probability : float
        Share of items that are changed, by keyword only; the others cost nothing.

    Raises
    ------
    ValueError
        If the probability is not within 0 and 1.

    Example
    -------
    >>> @dataclass(frozen=True)
    ... class Minus(View):
    ...     def change(self, features, draws):
    ...         return -features
    >>> Minus(probability=0.5)(torch.ones(4, 1), torch.Generator().manual_seed(0)).flatten()
    tensor([-1.,  1., -1., -1.])
    """

    probability: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        """Refuse what is no probability."""
        within("probability", self.probability, 0, 1)

    def __call__(self, features: Tensor, draws: torch.Generator) -> Tensor:
        """Return a view of a batch (batch, ...), of the same shape."""
        features = as_float(features)
        chosen = torch.rand(len(features), generator=draws) < self.probability
        if not chosen.any():
            return features
        if chosen.all():
            return self.change(features, draws)
        place = chosen.nonzero().flatten().to(features.device)
        return features.index_copy(0, place, self.change(features[place], draws))

    @abstractmethod
    def change(self, features: Tensor, draws: torch.Generator) -> Tensor:
        """Return a changed copy of every item, all of them numbers, not bytes."""


@dataclass(frozen=True)
class Views(View):
    """Views one after another.

    Arguments
    ---------
    steps : Sequence
        Views, in order.

    Example
    -------
    >>> from speechcl.views import Flip
    >>> twice = Views([Flip(), Flip()])
    >>> picture = torch.rand(1, 3, 2, 2)
    >>> torch.equal(twice(picture, torch.Generator()), picture)
    True
    """

    steps: Sequence[View] = ()

    def change(self, features: Tensor, draws: torch.Generator) -> Tensor:
        """Return the items after all steps."""
        for step in self.steps:
            features = step(features, draws)
        return features


@dataclass(frozen=True)
class Share(View):
    """A view whose one number is a share of an item's length or bands.

    Arguments
    ---------
    most : float
        Its greatest value.

    Raises
    ------
    ValueError
        If it is not within 0 and 1.
    """

    most: float = 0.2

    def __post_init__(self) -> None:
        """Refuse what is no share."""
        super().__post_init__()
        within("most", self.most, 0, 1)


@dataclass(frozen=True)
class TimeShift(Share):
    """Sound comes earlier or later; what leaves at one end comes back at the other.

    Nothing is lost that way, and a clip that is padded with silence keeps its silence. Items are
    waveforms or spectrograms, of shape (batch, time, ...).

    Arguments
    ---------
    most : float
        Greatest shift, as a share of the length.

    Example
    -------
    >>> sorted(TimeShift(0.5)(torch.arange(4.0)[None], torch.Generator()).flatten().tolist())
    [0.0, 1.0, 2.0, 3.0]
    """

    def change(self, features: Tensor, draws: torch.Generator) -> Tensor:
        """Return the clips, each rolled by its own number of steps."""
        size = features.shape[1]
        shift = (size * uniform(-self.most, self.most, features, draws)).round().long() % size
        steps = torch.arange(size, device=features.device)
        place = steps.view(-1, *[1] * (features.ndim - 2)) - shift
        place = torch.where(place < 0, place + size, place)  # remainders of all take longer
        return features.gather(1, place.expand_as(features))


def uniform(low: float, high: float, features: Tensor, draws: torch.Generator) -> Tensor:
    """Draw a number for every item, shaped to be combined with it.

    Example
    -------
    >>> uniform(2.0, 2.0, torch.zeros(3, 5, 7), torch.Generator()).shape
    torch.Size([3, 1, 1])
    """
    drawn = low + (high - low) * torch.rand(len(features), generator=draws)
    return drawn.to(features).view(-1, *[1] * (features.ndim - 1))


def within(name: str, value: float, least: float, most: float = math.inf) -> None:
    """Raise a ValueError unless a number lies between two others, or is one of them.

    Example
    -------
    >>> within("share", 1.5, 0, 1)
    Traceback (most recent call last):
        ...
    ValueError: share is 1.5: set it to a number from 0 to 1
    """
    if not least <= value <= most:
        raise ValueError(f"{name} is {value}: set it to a number from {least:g} to {most:g}")


def ordered(
    name: str, pair: tuple[float, float], least: float = -math.inf, most: float = math.inf
) -> None:
    """Raise a ValueError unless two numbers are a range that lies within another one.

    Example
    -------
    >>> ordered("scale", (1.0, 0.3), 0, 1)
    Traceback (most recent call last):
        ...
    ValueError: scale is (1.0, 0.3): give the lesser number first, both from 0 to 1
    """
    if not least <= pair[0] <= pair[1] <= most:
        raise ValueError(
            f"{name} is {pair}: give the lesser number first, both from {least:g} to {most:g}"
        )
