"""Versions of items that become classes of their own for a contrast of items."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

_AXES: tuple[tuple[int, ...], ...] = ((), (1,), (2,), (1, 2))


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
        """Return images (batch, channels, size, size) as (count * batch, ...), themselves first.

        Raises
        ------
        ValueError
            If images that are to be turned are not square.
        """
        if self.count == 1:
            return features
        if features.ndim != 4 or features.shape[2] != features.shape[3]:
            raise ValueError(
                f"images of shape {tuple(features.shape)} cannot be turned by quarters: give "
                "(batch, channels, size, size) or set count to 1"
            )
        inner = [features]
        if self.count == 16:
            inner += _with_halves_turned(features)
        turns = [(one, turn) for one in inner for turn in (0, 2, 1, 3)]
        return torch.cat([torch.rot90(one, turn, (2, 3)) for one, turn in turns])


def spectrogram_flips(count: int = 4) -> Callable[[Tensor], Tensor]:
    """Return what gives a clip as it is, backwards in time, upside down in frequency, and both.

    None of the three is speech any more.

    Arguments
    ---------
    count : 1, 2 or 4
        How many of these.

    Returns
    -------
    Callable
        (batch, frames, bands) -> (count * batch, frames, bands), all clips as they are first.

    Raises
    ------
    ValueError
        If it is another number.

    Example
    -------
    >>> spectrogram_flips(4)(torch.tensor([[[1.0, 2.0]]])).flatten()
    tensor([1., 2., 1., 2., 2., 1., 2., 1.])
    """
    if count not in (1, 2, 4):
        raise ValueError(f"count is {count}: spectrograms have 1, 2 or 4 flips")
    return partial(_flipped, _AXES[:count])


def _flipped(axes: tuple[tuple[int, ...], ...], features: Tensor) -> Tensor:
    return torch.cat([features.flip(some) for some in axes])


def _with_halves_turned(features: Tensor) -> list[Tensor]:
    left, right = features.tensor_split(2, dim=3)
    turned_left, turned_right = (torch.rot90(half, 2, (2, 3)) for half in (left, right))
    halves = (turned_left, right), (left, turned_right), (turned_left, turned_right)
    return [torch.cat(both, 3) for both in halves]
