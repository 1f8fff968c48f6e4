"""Rotations of images that become classes of their own for a contrast of items."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rotations:
    """Return an image turned by quarters, and with its halves turned.

    Arguments
    ---------
    count : 1, 4 or 16
        Four are turns by 0, 180, 90 and 270 degrees. Sixteen are these of four images: each half,
        left and right, is turned by 180 degrees or is not.

    Raises
    ------
    ValueError
        If it is another number.

    Source: OnPro (arXiv 2308.00301), released code.

    Example
    -------
    >>> Rotations(4)(torch.tensor([[[[1, 2], [3, 4]]]])).flatten(1)
    tensor([[1, 2, 3, 4],
            [4, 3, 2, 1],
            [2, 4, 1, 3],
            [3, 1, 4, 2]])
    """

    count: int = 4

    def __post_init__(self) -> None:
        """Refuse other numbers."""
        if self.count not in (1, 4, 16):
            raise ValueError(f"count is {self.count}: images have 1, 4 or 16 rotations")

    def __call__(self, features: Tensor) -> Tensor:
        """Return square images (batch, 3, size, size) as (count * batch, ...), themselves first."""
        if self.count == 1:
            return features
        inner = [features]
        if self.count == 16:
            left, right = features.tensor_split(2, dim=3)
            turned = [torch.cat(halves, 3) for halves in _halves(left, right)]
            inner += turned
        turns = [(one, turn) for one in inner for turn in (0, 2, 1, 3)]
        return torch.cat([torch.rot90(one, turn, (2, 3)) for one, turn in turns])


def _halves(left: Tensor, right: Tensor) -> list[tuple[Tensor, Tensor]]:
    turned_left, turned_right = (torch.rot90(half, 2, (2, 3)) for half in (left, right))
    return [(turned_left, right), (left, turned_right), (turned_left, turned_right)]
