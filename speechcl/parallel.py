"""What one process of several needs to know: whole batches, whole sums.

Every function is the identity in a single process. In several, each process holds a slice of the
batch; a method that computes over the batch (an angle, a mean, a memory) gathers first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, distributed


def world() -> tuple[int, int]:
    """Return ``(rank, processes)``.

    Example
    -------
    >>> world()
    (0, 1)
    """
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def total(value: Tensor) -> Tensor:
    """Sum a tensor over the processes; same shape, a new tensor.

    Example
    -------
    >>> total(torch.tensor([1.0, 2.0]))
    tensor([1., 2.])
    """
    if world()[1] == 1:
        return value
    value = value.clone()
    distributed.all_reduce(value)
    return value


def gather(rows: Tensor) -> Tensor:
    """Concatenate every process's rows in rank order, which is the order of the whole batch.

    Arguments
    ---------
    rows : Tensor
        Shape (local batch, ...); local sizes may differ. Detached: no gradient flows back.

    Returns
    -------
    Tensor
        Shape (global batch, ...).

    Example
    -------
    >>> gather(torch.eye(2)).shape
    torch.Size([2, 2])
    """
    rows = rows.detach()
    if world()[1] == 1:
        return rows
    parts: list = [None] * world()[1]
    distributed.all_gather_object(parts, rows.cpu())
    return torch.cat(parts).to(rows.device)


def share(local_size: int, device: torch.device | str = "cpu") -> float:
    """Weight of a mean over this process's rows, so that averaging over processes is exact.

    DDP averages gradients over processes as if their batches were equally large; a mean over
    ``local_size`` rows counts ``local_size * processes / global size``; 1 where nobody has rows.

    Example
    -------
    >>> share(7)
    1.0
    """
    processes = world()[1]
    if processes == 1:
        return 1.0
    size = float(total(torch.tensor(float(local_size), device=device)))
    return local_size * processes / size if size else 1.0


def sum_of_means(parts: Sequence[tuple[float, int, Callable[[], Tensor]]]) -> Tensor:
    """Add up means over parts of a batch, for a loss that the brain takes for one mean over all.

    Each mean counts as its own part of all processes' items, not as the batch's; a process may
    hold none of a part.

    Arguments
    ---------
    parts : Sequence
        ``(weight, items of the part in this process, their mean)``.

    Returns
    -------
    Tensor
        A scalar.

    Example
    -------
    >>> sum_of_means([(1.0, 3, lambda: torch.tensor(2.0)), (0.5, 1, lambda: torch.tensor(4.0))])
    tensor(4.)
    """
    every = share(sum(count for _, count, _ in parts))
    # all processes ask for every share, also those without items
    shares = [share(count) / every for _, count, _ in parts]
    terms = [
        weight * part * mean()
        for (weight, count, mean), part in zip(parts, shares, strict=True)
        if count
    ]
    return torch.stack(terms).sum()
