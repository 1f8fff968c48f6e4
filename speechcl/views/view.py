"""What all views have in common: a whole batch at once, and all chance from one generator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


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
    and in every process. The input is never written to.

    Arguments
    ---------
    probability : float
        Share of items that are changed, by keyword only.

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
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability is {self.probability}: set it to a number from 0 to 1")

    def __call__(self, features: Tensor, draws: torch.Generator) -> Tensor:
        """Return a view of a batch (batch, ...), of the same shape."""
        chosen = torch.rand(len(features), generator=draws) < self.probability
        changed = self.change(features, draws)
        if self.probability == 1:
            return changed
        return torch.where(_along(chosen, features), changed, features)

    @abstractmethod
    def change(self, features: Tensor, draws: torch.Generator) -> Tensor:
        """Return a changed copy of every item."""


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
        features = as_float(features)
        for step in self.steps:
            features = step(features, draws)
        return features


def uniform(low: float, high: float, features: Tensor, draws: torch.Generator) -> Tensor:
    """Draw a number for every item, shaped to be combined with it.

    Example
    -------
    >>> uniform(2.0, 2.0, torch.zeros(3, 5, 7), torch.Generator()).shape
    torch.Size([3, 1, 1])
    """
    drawn = low + (high - low) * torch.rand(len(features), generator=draws)
    return _along(drawn, features).to(features.dtype)


def _along(values: Tensor, features: Tensor) -> Tensor:
    return values.to(features.device).view(-1, *[1] * (features.ndim - 1))
