"""Which weights can be adapted, and how each is seen as a matrix (outputs, inputs)."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from speechcl.adapters.layer import WeightShape


class Slot(NamedTuple):
    """One adaptable weight of a module: ``attribute``, or some of its rows."""

    attribute: str
    rows: slice = slice(None)


WEIGHT = {"weight": Slot("weight")}


def slots_of(module: nn.Module) -> dict[str, Slot]:
    """Return the adaptable weights of a module by name; none if its kind cannot be adapted.

    Example
    -------
    >>> list(slots_of(nn.Linear(2, 3))), list(slots_of(nn.MultiheadAttention(4, 1)))
    (['weight'], ['q', 'k', 'v'])
    >>> slots_of(nn.LayerNorm(4))
    {}
    """
    if isinstance(module, nn.MultiheadAttention):
        width = module.embed_dim
        if not module._qkv_same_embed_dim:
            return {one: Slot(f"{one}_proj_weight") for one in "qkv"}
        starts = {"q": 0, "k": width, "v": 2 * width}
        return {
            one: Slot("in_proj_weight", slice(start, start + width))
            for one, start in starts.items()
        }
    if isinstance(module, (nn.Linear, _ConvNd, *transposed_linears())):
        return WEIGHT
    return {}


def transposed_linears() -> tuple[Any, ...]:
    """Return transformers' ``Conv1D``, a linear layer that keeps W transposed; or nothing.

    Where transformers is not imported, nothing can be one.
    """
    utilities = sys.modules.get("transformers.pytorch_utils")
    return () if utilities is None else (utilities.Conv1D,)


def as_matrix(module: nn.Module, weight: Tensor) -> Tensor:
    """View a weight of a module as a matrix (outputs, inputs); no data are copied.

    Example
    -------
    >>> convolution = nn.ConvTranspose1d(6, 4, 3, groups=2)
    >>> as_matrix(convolution, convolution.weight).shape  # (4 / 2 * 3, 6)
    torch.Size([6, 6])
    """
    if isinstance(module, _ConvTransposeNd):
        return weight.flatten(1).t()
    if isinstance(module, _ConvNd):
        return weight.flatten(1)
    return weight.t() if isinstance(module, transposed_linears()) else weight


def as_weight(module: nn.Module, matrix: Tensor, like: Tensor) -> Tensor:
    """Turn a matrix back into a weight of the module; the inverse of ``as_matrix``."""
    if isinstance(module, _ConvTransposeNd):
        return matrix.t().reshape(like.shape)
    if isinstance(module, _ConvNd):
        return matrix.reshape(like.shape)
    return matrix.t() if isinstance(module, transposed_linears()) else matrix


def shape_of(module: nn.Module, weight: Tensor) -> WeightShape:
    """Return the shape of a weight, or of some of its rows, as a matrix.

    Example
    -------
    >>> depthwise = nn.Conv1d(4, 4, 3, groups=4)
    >>> shape = shape_of(depthwise, depthwise.weight)
    >>> shape.rows, shape.columns, shape.groups, shape.dimensions
    (4, 3, 4, 1)
    """
    matrix = as_matrix(module, weight).detach()
    rows, columns = matrix.shape
    return WeightShape(rows, columns, matrix, *_layout(module))


def output_shape_of(module: nn.Module) -> WeightShape | None:
    """Return a shape whose ``rows`` are the channels of a module's output; None if unknown.

    Example
    -------
    >>> output_shape_of(nn.ConvTranspose1d(6, 4, 3)).rows, output_shape_of(nn.ReLU())
    (4, None)
    """
    for name in ("out_features", "out_channels", "embed_dim", "nf", "normalized_shape"):
        width = getattr(module, name, None)
        width = width[-1] if isinstance(width, tuple) and width else width
        like = next(module.parameters(), None)
        if isinstance(width, int) and like is not None:
            return WeightShape(width, width, like.detach(), *_layout(module))
    return None


def _layout(module: nn.Module) -> tuple[int, int, bool]:
    if isinstance(module, _ConvNd):
        return module.groups, len(module.kernel_size), isinstance(module, _ConvTransposeNd)
    return 1, 0, False
