"""What every memory of items has in common: room, storage, draws; a subclass says what to keep."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy
import torch
from torch import Tensor, nn

from speechcl.batches import longest, pad
from speechcl.memory.draws import generator
from speechcl.memory.storage import (
    FORMS,
    StoredAs,
    bytes_a_row,
    decode,
    encode,
    layout_of_rows,
    room,
    tensors_of,
)

Items = dict[str, Tensor]

_PERMUTED = 10_000  # from a memory of more items, draws are made one by one


class Buffer(nn.Module):
    """Keep some of the items that were added; ``_places`` of a subclass decides which.

    Draws depend on the seed and on the counts alone, so that copies in several processes, and one
    that was saved and loaded, go on alike.

    Arguments
    ---------
    capacity : int, optional
        How many items to keep.
    seed : int
        Decides the draws.
    padded : bool
        Whether items may differ in length: all are kept at the length of the longest that was
        offered, with zeros behind. Items should say how long they are, as ``samples`` do.
    budget_bytes : int, optional
        Instead of a capacity: as many items as fit, which the first of them decides.
    stored_as : "same", "float16" or "uint8"
        How numbers with a fraction are kept. A byte holds 256 levels between the least and the
        greatest value of an item. Bytes and whole numbers always are kept as they are.
    folder : str or Path, optional
        Keep items in files there, which are read as needed, rather than in memory. What was in
        these files is overwritten. Every checkpoint has a copy of them.

    Raises
    ------
    ValueError
        If not one of ``capacity`` and ``budget_bytes`` is given, or either makes no sense.
    """

    def __init__(
        self,
        capacity: int | None = None,
        seed: int = 0,
        padded: bool = False,
        *,
        budget_bytes: int | None = None,
        stored_as: StoredAs = "same",
        folder: str | Path | None = None,
    ) -> None:
        super().__init__()
        given = [one for one in (capacity, budget_bytes) if one is not None]
        if len(given) != 1 or given[0] < 1:
            raise ValueError(
                f"capacity is {capacity} and budget_bytes {budget_bytes}: give one of them, "
                "1 or more"
            )
        if padded and budget_bytes is not None:
            raise ValueError("items of unequal lengths have no bytes each: give a capacity")
        if stored_as not in FORMS:
            raise ValueError(f"stored_as is {stored_as!r}: choose among {', '.join(FORMS)}")
        self.capacity, self.budget_bytes = capacity, budget_bytes
        self.seed, self.padded = seed, padded
        self.stored_as: StoredAs = stored_as
        self.folder = None if folder is None else Path(folder)
        self._forms: dict[str, dict] = {}
        self.counts: Tensor
        self.register_buffer("counts", torch.zeros(2, dtype=torch.int64))  # seen, draws

    def __len__(self) -> int:
        """Return how many items are kept."""
        return min(int(self.counts[0]), self.capacity or 0)

    def layout(self) -> dict:
        """Describe the kept tensors in plain values; ``allocate`` makes them again."""
        return {name: dict(form) for name, form in self._forms.items()}

    def allocate(self, layout: Mapping[str, Mapping]) -> None:
        """Make room for items of a ``layout``; does nothing if it is there."""
        if self.capacity is None and layout:
            assert self.budget_bytes is not None
            self.capacity = self.budget_bytes // bytes_a_row(layout)
            if not self.capacity:
                raise ValueError(
                    f"budget_bytes is {self.budget_bytes}, but an item takes "
                    f"{bytes_a_row(layout)}: raise it, or store items in fewer bytes"
                )
        for name, form in layout.items():
            held = self._forms.get(name)
            if held is None:
                self._forms[name] = dict(form)
                for tensor, shape, dtype in tensors_of(name, form):
                    place = room(tensor, [self.capacity, *shape], dtype, self.folder)  # type: ignore[list-item]
                    place = place if self.folder else place.to(self.counts.device)
                    self.register_buffer(f"kept_{tensor}", place)
            elif self.padded:
                held["shape"] = longest(held["shape"], form["shape"])
                kept = self.get_buffer(f"kept_{name}")
                self.register_buffer(f"kept_{name}", pad(kept, held["shape"]))
            elif held["shape"] != list(form["shape"]):
                raise ValueError(
                    f"'{name}' has shape {form['shape']}, but {held['shape']} is kept: "
                    "give items of one shape, or say padded"
                )

    @torch.no_grad()
    def add(self, items: Items) -> None:
        """Offer a batch of items: tensors by name, all of shape (batch, ...)."""
        self.allocate(layout_of_rows(items, self.stored_as))
        slots, chosen = self._places(items)
        if not len(slots):
            return
        for name, form in self._forms.items():
            new = items[name][chosen.to(items[name].device)]
            new = pad(new, form["shape"]) if self.padded else new
            for tensor, rows in encode(name, new, form).items():
                kept = self.get_buffer(f"kept_{tensor}")
                kept[slots.to(kept.device)] = rows.to(kept.device)

    def sample(self, count: int) -> Items:
        """Draw ``count`` kept items, without replacement; all of them if there are fewer."""
        number = self._next_draw()
        size = len(self)
        if size <= _PERMUTED or count > size // 2:
            chosen = torch.randperm(size, generator=generator(self.seed, number))[:count]
        else:
            draws = numpy.random.default_rng([self.seed, number])
            chosen = torch.from_numpy(draws.choice(size, count, replace=False))
        return self._rows(chosen)

    def sample_of(self, labels: Tensor) -> Items:
        """Draw a kept item of each of these classes, with replacement, shape (draws,).

        Raises
        ------
        ValueError
            If nothing of a class is kept.
        """
        number = self._next_draw()
        kept = self.labels()
        order = kept.argsort(stable=True)
        wanted = labels.to(kept.device)
        first = torch.searchsorted(kept[order], wanted)
        count = torch.searchsorted(kept[order], wanted, right=True) - first
        if not bool((count > 0).all()):
            missing = sorted(set(wanted[count == 0].tolist()))
            raise ValueError(f"nothing of the classes {missing} is kept: ask for others")
        draws = torch.rand(len(wanted), generator=generator(self.seed, number), dtype=torch.float64)
        return self._rows(order[first + (draws.to(kept.device) * count).long()])

    def labels(self) -> Tensor:
        """Return the ``label`` of every kept item, shape (items,)."""
        if "label" not in self._forms:
            return torch.zeros(0, dtype=torch.int64, device=self.counts.device)
        return self.get_buffer("kept_label")[: len(self)]

    def everything(self) -> Items:
        """Return all kept items."""
        return self._rows(torch.arange(len(self)))

    def _places(self, items: Items) -> tuple[Tensor, Tensor]:
        """Return (slots to overwrite, items to put there), a slot once; count items as seen."""
        raise NotImplementedError(f"{type(self).__name__} does not say which items to keep")

    def _next_draw(self) -> int:
        self.counts[1] += 1
        return 1 + 2 * int(self.counts[1])  # odd: what is kept draws even numbers

    def _rows(self, chosen: Tensor) -> Items:
        device = self.counts.device
        found = {}
        for name, form in self._forms.items():
            kept = {}
            for tensor, _, _ in tensors_of(name, form):
                held = self.get_buffer(f"kept_{tensor}")
                kept[tensor] = held[chosen.to(held.device)].to(device)
            found[name] = decode(name, kept, form)
        return found

    def _apply(self, fn, recurse: bool = True):  # type: ignore[no-untyped-def]
        """Move the counts to another device, and the items if they are not in files."""
        if self.folder is None:
            return super()._apply(fn, recurse)
        files = {name: self._buffers.pop(name) for name in list(self._buffers) if "kept_" in name}
        super()._apply(fn, recurse)
        self._buffers.update(files)
        return self
