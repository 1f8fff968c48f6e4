"""The order of training data: a pure function of seed, task and epoch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from speechcl.parallel import world


class EpochBatches(Sampler[list[int]]):
    """Shuffled batches that any process can rebuild at any point of any epoch.

    ``batch_size`` is the global one: with several processes each takes its slice of every batch.
    A rest of less than half a batch joins the last batch, so that none is tiny and the batches do
    not depend on the number of processes.

    Arguments
    ---------
    size : int
        Number of items.
    batch_size : int
        Items a step over all processes.
    seed : int
        Together with the epoch decides the order.

    Example
    -------
    >>> batches = EpochBatches(5, batch_size=2, seed=0)
    >>> sorted(i for batch in batches for i in batch), len(batches)
    ([0, 1, 2, 3, 4], 3)
    >>> whole = list(batches)
    >>> batches.start = 2  # as after a resume
    >>> list(batches) == whole[2:]
    True
    """

    def __init__(self, size: int, batch_size: int, seed: int) -> None:
        if size < 1 or batch_size < 1:
            raise ValueError(
                f"{size} training items in batches of {batch_size}: both must be at least 1"
            )
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.rank, self.processes = world()
        if min(size, (batch_size + 1) // 2) < self.processes:  # the last batch may be half a one
            raise ValueError(
                f"{size} training items in batches of {batch_size} are too few for "
                f"{self.processes} processes: use fewer processes or larger batches"
            )
        self.epoch = 1
        self.start = 0  # batches of this epoch that were trained on before a resume

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of this epoch (SpeechBrain calls it)."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Return the number of batches of a whole epoch."""
        return max(1, (2 * self.size + self.batch_size) // (2 * self.batch_size))

    def __iter__(self) -> Iterator[list[int]]:
        """Yield this process's indices of each batch, from ``start`` on."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.size, generator=generator).tolist()
        for number in range(self.start, len(self)):
            end = self.size if number + 1 == len(self) else (number + 1) * self.batch_size
            batch = order[number * self.batch_size : end]
            first, last = (len(batch) * (self.rank + k) // self.processes for k in (0, 1))
            yield batch[first:last]
