"""A fixed number of items kept from a stream, each with equal probability."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from speechcl.batches import longest, pad
from speechcl.memory.named_tensors import layout_of

Items = dict[str, Tensor]


class Reservoir(nn.Module):
    """Keep a uniform sample of everything that was added.

    After ``seen`` items each is kept with probability ``capacity / seen``. Draws depend on the
    seed and on the counts alone, so that copies in several processes, and one that was saved and
    loaded, go on alike.

    Arguments
    ---------
    capacity : int
        How many items to keep.
    seed : int
        Decides the draws.
    padded : bool
        Whether items may differ in length: all are kept at the length of the longest that was
        offered, with zeros behind. Items should say how long they are, as ``samples`` do.

    Source: Vitter, "Random sampling with a reservoir", 1985, algorithm R.

    Example
    -------
    >>> memory = Reservoir(capacity=2)
    >>> memory.add({"features": torch.arange(5.0)[:, None], "label": torch.arange(5)})
    >>> len(memory), sorted(memory.sample(2)) == ["features", "label"]
    (2, True)
    """

    def __init__(self, capacity: int, seed: int = 0, padded: bool = False) -> None:
        super().__init__()
        if capacity < 1:
            raise ValueError(f"capacity is {capacity}: a reservoir keeps at least one item")
        self.capacity, self.seed, self.padded = capacity, seed, padded
        self.counts: Tensor
        self.register_buffer("counts", torch.zeros(2, dtype=torch.int64))  # seen, draws

    def __len__(self) -> int:
        """Return how many items are kept."""
        return min(int(self.counts[0]), self.capacity)

    def layout(self) -> dict:
        """Describe the kept tensors in plain values; ``allocate`` makes them again."""
        return _rows_layout(self._kept())

    def allocate(self, layout: dict) -> None:
        """Make room for items of a ``layout``; does nothing if it is there."""
        kept = self._kept()
        for name, form in layout.items():
            if name not in kept:
                dtype = getattr(torch, form["dtype"])
                room = torch.zeros(self.capacity, *form["shape"], dtype=dtype)
                self.register_buffer(f"kept_{name}", room.to(self.counts.device))
            elif self.padded:
                wanted = longest(kept[name].shape[1:], form["shape"])
                self.register_buffer(f"kept_{name}", pad(kept[name], wanted))

    @torch.no_grad()
    def add(self, items: Items) -> None:
        """Offer a batch of items: tensors by name, all of shape (batch, ...)."""
        self.allocate(_rows_layout(items))
        slots, chosen = self._places(len(next(iter(items.values()))))
        for name, kept in self._kept().items():
            new = items[name][chosen.to(items[name].device)].to(kept.device)
            kept[slots] = pad(new, kept.shape[1:]) if self.padded else new

    def sample(self, count: int) -> Items:
        """Draw ``count`` kept items, without replacement; all of them if there are fewer."""
        self.counts[1] += 1
        generator = self._generator(1 + 2 * int(self.counts[1]))
        chosen = torch.randperm(len(self), generator=generator)[:count].to(self.counts.device)
        return {name: kept[chosen] for name, kept in self._kept().items()}

    def _places(self, size: int) -> tuple[Tensor, Tensor]:
        """Return (slots to overwrite, items to put there)."""
        seen = int(self.counts[0])
        self.counts[0] += size
        order = torch.arange(seen, seen + size)
        draws = torch.rand(size, generator=self._generator(2 * seen), dtype=torch.float64)
        slots = torch.where(order < self.capacity, order, (draws * (order + 1)).long())
        chosen = (slots < self.capacity).nonzero().flatten()
        last = {int(slots[i]): int(i) for i in chosen}  # a slot hit twice keeps the later item
        return torch.tensor(list(last), dtype=torch.long), torch.tensor(list(last.values())).long()

    def _generator(self, number: int) -> torch.Generator:
        return torch.Generator().manual_seed((self.seed * 1_000_003 + number) % 2**63)

    def _kept(self) -> Items:
        buffers = {name: item for name, item in self._buffers.items() if item is not None}
        return {n.removeprefix("kept_"): b for n, b in buffers.items() if n.startswith("kept_")}


def _rows_layout(items: Items) -> dict:
    return layout_of({name: item.new_empty(item.shape[1:]) for name, item in items.items()})
