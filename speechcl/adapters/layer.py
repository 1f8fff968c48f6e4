"""What every adapter layer is: a small change to one weight, or to one module's output."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class WeightShape(NamedTuple):
    """A weight seen as a matrix: ``rows`` outputs, ``columns`` inputs, whatever its layer is.

    ``like`` is the weight, as this matrix; new parameters take its dtype and device. ``groups``
    counts the blocks of rows that hear different inputs (grouped convolutions; transposed ones
    have blocks of columns, ``by_columns``). ``dimensions`` counts the axes behind the channels: 0
    for linear layers, 1 for one-dimensional convolutions, 2 for two. ``path`` names the module.
    """

    rows: int
    columns: int
    like: Tensor
    groups: int = 1
    dimensions: int = 0
    by_columns: bool = False
    path: str = ""


class AdapterLayer(nn.Module):
    """A change to one weight matrix, of the form ``up @ mix(down @ x)``.

    A layer whose ``mix`` is linear in ``z`` and the same for every input can be folded into the
    weight (``mergeable``); the others can only act on activations.
    """

    mergeable = True

    def down(self) -> Tensor:
        """Return what reads the input, shape (rank, columns)."""
        raise NotImplementedError(f"{type(self).__name__} has no down")

    def up(self) -> Tensor:
        """Return what writes the output, shape (rows, rank)."""
        raise NotImplementedError(f"{type(self).__name__} has no up")

    def mix(self, z: Tensor) -> Tensor:
        """Weigh the responses, shape (batch, ..., rank)."""
        return z

    def fold(self, matrix: Tensor) -> Tensor:
        """Return the matrix with this change in it, shape (rows, columns), in its precision."""
        return torch.addmm(matrix, self.up().to(matrix.dtype), self.down().to(matrix.dtype))

    def branches(self, rows_in: int) -> bool:
        """Say whether a linear layer with ``rows_in`` input rows is better served by a branch.

        The branch costs ``rank * (rows + columns)`` operations an input row; folding costs as much
        for every column of the weight, and in training a dense gradient of it.
        """
        return True


@dataclass(frozen=True)
class Adapter:
    """The plain description of an adapter: what ``insert`` makes layers from.

    ``on_output`` says that its layers change a module's output, not its weight.
    """

    on_output = False

    def make(self, shape: WeightShape) -> AdapterLayer:
        """Return a fresh layer that changes nothing yet."""
        raise NotImplementedError(f"{type(self).__name__} has no make")

    def remake(self, shape: WeightShape, tensors: Mapping[str, Tensor]) -> AdapterLayer:
        """Return a layer of the size that saved tensors have; they are loaded afterwards.

        Files come from anywhere: what this layer takes in memory must be bounded by the tensors,
        not by the description.
        """
        return self.make(shape)


def fresh_down(rank: int, shape: WeightShape) -> nn.Parameter:
    """Draw the usual start of a down projection, uniform in +-1/sqrt(columns).

    It is drawn on the CPU, as all starts are, so that a GPU begins where a CPU does.

    Source: Kaiming-uniform with a = sqrt(5), as LoRA, CoDyRA and MoRA all start.

    Example
    -------
    >>> down = fresh_down(2, WeightShape(8, 16, torch.zeros(1)))
    >>> down.shape, bool(down.abs().max() <= 0.25)
    (torch.Size([2, 16]), True)
    """
    bound = 1 / math.sqrt(shape.columns)
    drawn = torch.empty(rank, shape.columns, dtype=shape.like.dtype, device="cpu")
    return nn.Parameter(drawn.uniform_(-bound, bound).to(shape.like.device))


def zero_up(rank: int, shape: WeightShape) -> nn.Parameter:
    """Return an up projection that adds nothing, shape (rows, rank)."""
    return nn.Parameter(shape.like.new_zeros(shape.rows, rank))


def check_rank(rank: int) -> None:
    """Refuse a rank that is not a whole number of at least 1.

    Example
    -------
    >>> check_rank(0)
    Traceback (most recent call last):
    ValueError: rank is 0: give a whole number of at least 1
    """
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ValueError(f"rank is {rank}: give a whole number of at least 1")


def add_branch(y: Tensor, x: Tensor, layer: AdapterLayer) -> Tensor:
    """Add a layer's contribution to what a linear map gave.

    Arguments
    ---------
    y : Tensor
        Output of the linear map, shape (..., rows); written to where no gradient is wanted.
    x : Tensor
        Its input, shape (..., columns).
    layer : AdapterLayer
        The change.

    Returns
    -------
    Tensor
        Shape (..., rows).
    """
    z = layer.mix(functional.linear(x, layer.down()))
    # one call that multiplies and adds: a separate sum would read and write y again
    if y.dtype != z.dtype:
        return y + functional.linear(z, layer.up()).to(y.dtype)
    flat, up = y.reshape(-1, y.shape[-1]), layer.up()
    z = z.reshape(len(flat), z.shape[-1])
    in_place = flat.dtype == up.dtype and not torch.is_grad_enabled()  # autocast casts copies only
    if in_place and not torch._C._are_functorch_transforms_active():
        return flat.addmm_(z, up.t()).view(y.shape)  # no new memory, which costs the most
    return torch.addmm(flat, z, up.t()).view(y.shape)
