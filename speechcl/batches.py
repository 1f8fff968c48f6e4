"""Batches as trees of tensors with one row an item: joined, and taken apart again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils import _pytree as pytree

from speechcl.parallel import gather, world


def join(*batches: dict[str, Tensor], padded: bool = False) -> dict[str, Tensor]:
    """Put the items of several batches into one; if ``padded``, zeros follow shorter ones.

    Example
    -------
    >>> join({"label": torch.tensor([0])}, {"label": torch.tensor([1, 1])})
    {'label': tensor([0, 1, 1])}
    >>> join({"ids": torch.tensor([[1, 2]])}, {"ids": torch.tensor([[3]])}, padded=True)
    {'ids': tensor([[1, 2],
            [3, 0]])}
    """
    joined = {}
    for name in batches[0]:
        parts = [one[name] for one in batches]
        if padded:
            shape = longest(*(part.shape[1:] for part in parts))
            parts = [pad(part, shape) for part in parts]
        joined[name] = torch.cat(parts)
    return joined


def longest(*shapes: Sequence[int]) -> list[int]:
    """Return the smallest shape into which all of these fit.

    Example
    -------
    >>> longest([2, 5], [3, 4])
    [3, 5]
    """
    return [max(sizes) for sizes in zip(*shapes, strict=True)]


def pad(items: Tensor, shape: Sequence[int]) -> Tensor:
    """Bring items (batch, ...) to a shape (batch, *shape), zeros behind them.

    Example
    -------
    >>> pad(torch.ones(1, 2), [3])
    tensor([[1., 1., 0.]])
    """
    if list(items.shape[1:]) == list(shape):
        return items
    missing = [wanted - there for wanted, there in zip(shape, items.shape[1:], strict=True)]
    return functional.pad(items, [one for size in reversed(missing) for one in (0, size)])


def size(batch: dict[str, Tensor]) -> int:
    """Return the number of items of a batch.

    Example
    -------
    >>> size({"label": torch.zeros(3)})
    3
    """
    return len(next(iter(batch.values())))


def rows(tree: Any, part: slice) -> Any:
    """Take a part of the items of a batch, of outputs, or of anything made of such tensors.

    Example
    -------
    >>> rows({"label": torch.arange(4)}, slice(1, 3))
    {'label': tensor([1, 2])}
    """
    return pytree.tree_map(lambda value: value[part], tree)


def my_rows(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return this process's share of items that every process holds alike.

    Example
    -------
    >>> my_rows({"label": torch.arange(4)})
    {'label': tensor([0, 1, 2, 3])}
    """
    rank, processes = world()
    count = size(batch)
    return rows(batch, slice(count * rank // processes, count * (rank + 1) // processes))


def everywhere(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the items of all processes, in order, detached; every process gets all.

    Example
    -------
    >>> everywhere({"label": torch.arange(2)})
    {'label': tensor([0, 1])}
    """
    return {name: gather(value) for name, value in batch.items()}
