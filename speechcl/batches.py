"""Batches as trees of tensors with one row an item: joined, and taken apart again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from speechcl.parallel import world


def join(*batches: dict[str, Tensor]) -> dict[str, Tensor]:
    """Put the items of several batches into one.

    Example
    -------
    >>> join({"label": torch.tensor([0])}, {"label": torch.tensor([1, 1])})
    {'label': tensor([0, 1, 1])}
    """
    return {name: torch.cat([one[name] for one in batches]) for name in batches[0]}


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
