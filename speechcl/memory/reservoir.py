"""A fixed number of items kept from a stream, each with equal probability."""

from __future__ import annotations

import numpy
import torch
from torch import Tensor

from speechcl.memory.buffer import Buffer, Items
from speechcl.memory.draws import generator


class Reservoir(Buffer):
    """Keep a uniform sample of everything that was added.

    After ``seen`` items each is kept with probability ``capacity / seen``. Arguments are those of
    ``Buffer``.

    Source: Vitter, "Random sampling with a reservoir", 1985, algorithm R.

    Example
    -------
    >>> memory = Reservoir(capacity=2)
    >>> memory.add({"features": torch.arange(5.0)[:, None], "label": torch.arange(5)})
    >>> len(memory), sorted(memory.sample(2)) == ["features", "label"]
    (2, True)
    >>> small = Reservoir(budget_bytes=1000, stored_as="uint8")
    >>> small.add({"features": torch.rand(9, 100)})
    >>> len(small)  # 108 bytes each
    9
    """

    def _places(self, items: Items) -> tuple[Tensor, Tensor]:
        assert self.capacity is not None
        size = len(next(iter(items.values())))
        seen = int(self.counts[0])
        self.counts[0] += size
        chance = torch.rand(size, generator=generator(self.seed, 2 * seen), dtype=torch.float64)
        order = numpy.arange(seen, seen + size)
        slots = (chance.numpy() * (order + 1)).astype(numpy.int64)
        slots = numpy.where(order < self.capacity, order, slots)
        chosen = numpy.flatnonzero(slots < self.capacity)
        # a slot hit twice keeps the later item
        kept, back = numpy.unique(slots[chosen][::-1], return_index=True)
        return torch.from_numpy(kept), torch.from_numpy(chosen[::-1][back].copy())
