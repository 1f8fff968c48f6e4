"""A layer that grows by slices: old ones are frozen, the newest is trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from speechcl.adapters.layer import AdapterLayer, WeightShape, fresh_down, zero_up


class BankLayer(AdapterLayer):
    """Slices of ``width`` rank-one terms each; every slice starts by adding nothing.

    Arguments
    ---------
    width : int
        Terms that a layer gets whenever it grows.
    shape : WeightShape
        Of the weight.
    kept, new : int
        Terms that are frozen and that are trained.
    """

    def __init__(self, width: int, shape: WeightShape, kept: int, new: int) -> None:
        super().__init__()
        self.width = width
        self.kept_down = self.fresh_down(kept, shape).requires_grad_(False)
        self.kept_up = zero_up(kept, shape).requires_grad_(False)
        self._put_new(new)

    def fresh_down(self, rank: int, shape: WeightShape) -> nn.Parameter:
        """Draw what reads the input, shape (rank, columns)."""
        return fresh_down(rank, shape)

    def down(self) -> Tensor:
        """Return what reads the input, oldest first, shape (terms, columns)."""
        return _joined(self.kept_down, self.new_down, dim=0)

    def up(self) -> Tensor:
        """Return what writes the output, shape (rows, terms)."""
        return _joined(self.kept_up, self.new_up, dim=1)

    def freeze(self) -> None:
        """Put the newest slice with the old ones, for good."""
        if len(self.new_down) == 0:
            return
        down, up = self.down().detach().clone(), self.up().detach().clone()
        self.kept_down = nn.Parameter(down, requires_grad=False)
        self.kept_up = nn.Parameter(up, requires_grad=False)
        self._put_new(0)

    def grow(self) -> None:
        """Freeze all slices and add a fresh one."""
        self.freeze()
        self._put_new(self.width)

    def _put_new(self, terms: int) -> None:
        shape = WeightShape(len(self.kept_up), self.kept_down.shape[1], self.kept_down)
        self.new_down, self.new_up = self.fresh_down(terms, shape), zero_up(terms, shape)
        if terms == 0:  # nothing for an optimizer
            self.new_down.requires_grad_(False)
            self.new_up.requires_grad_(False)


def _joined(kept: Tensor, new: Tensor, dim: int) -> Tensor:
    """Join old and new; where there are only old ones, as after training, nothing is copied.

    Two products instead, of old and new, are no faster: they write the output twice.
    """
    if new.shape[dim] == 0:
        return kept
    return new if kept.shape[dim] == 0 else torch.cat([kept, new], dim)
