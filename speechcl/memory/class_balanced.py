"""A fixed number of items kept from a stream, as many of every class as can be."""

from __future__ import annotations

from bisect import insort
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from speechcl.memory.buffer import Buffer, Items
from speechcl.memory.draws import generator


class ClassBalanced(Buffer):
    """Keep as many items of each class as of any other, in each class a uniform sample.

    Items have a ``label``. Until the memory is full all are kept. Then an item of a class that
    never was the largest takes the place of a random one of the largest class; any other one
    enters its class's reservoir. Deciding takes a few microseconds an item, whatever the capacity.
    Arguments are those of ``Buffer``.

    Raises
    ------
    ValueError
        If there come to be more classes than items can be kept.

    Source: Chrysakis and Moens, "Online continual learning from imbalanced data", ICML 2020,
    algorithm 1.

    Example
    -------
    >>> memory = ClassBalanced(capacity=4)
    >>> memory.add({"label": torch.tensor([0] * 50 + [1] * 3)})
    >>> memory.labels().bincount()
    tensor([2, 2])
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.of_class: Tensor  # by class: seen, whether it ever was the largest
        self.register_buffer("of_class", torch.zeros(0, 2, dtype=torch.int64))
        self._slots: list[list[int]] | None = None  # of each class, in order; made when needed

    def layout(self) -> dict:
        """Describe the kept tensors, and how many classes were seen."""
        layout = super().layout()
        if layout:
            layout["label"]["classes"] = len(self.of_class)
        return layout

    def allocate(self, layout: Mapping[str, Mapping]) -> None:
        """Make room for items of a ``layout``."""
        if layout and "label" not in layout:
            raise ValueError("items have no 'label' to balance: use a Reservoir for them")
        super().allocate(layout)
        for _ in range(len(self.of_class), layout.get("label", {}).get("classes", 0)):
            self.of_class = torch.cat([self.of_class, self.of_class.new_zeros(1, 2)])

    def _places(self, items: Items) -> tuple[Tensor, Tensor]:
        assert self.capacity is not None
        labels = items["label"].tolist()
        self.allocate({"label": {**self._forms["label"], "classes": 1 + max(labels, default=-1)}})
        seen, held = self.of_class.tolist(), len(self)
        slots_of = self._slots_of_classes(len(seen))
        number = 2 * int(self.counts[0])
        chances = torch.rand(len(labels), generator=generator(self.seed, number)).tolist()
        self.counts[0] += len(labels)
        item_of: dict[int, int] = {}
        for item, (label, chance) in enumerate(zip(labels, chances, strict=True)):
            own = slots_of[label]
            seen[label][0] += 1
            if held < self.capacity:
                slot, held = held, held + 1
                own.append(slot)
            else:
                largest = max(len(slots) for slots in slots_of)
                for slots, count in zip(slots_of, seen, strict=True):
                    count[1] = int(count[1] or len(slots) == largest)
                if not seen[label][1]:
                    slot = self._evict(slots_of, largest, chance)
                    insort(own, slot)
                elif chance < len(own) / seen[label][0]:
                    slot = own[int(chance * seen[label][0])]  # uniform, given that it is kept
                else:
                    continue
            item_of[slot] = item
        self.of_class = torch.tensor(seen, dtype=torch.int64, device=self.of_class.device)
        return torch.tensor(list(item_of)).long(), torch.tensor(list(item_of.values())).long()

    def _slots_of_classes(self, classes: int) -> list[list[int]]:
        if self._slots is None:
            self._slots = [[] for _ in range(classes)]
            for slot, label in enumerate(self.labels().tolist()):
                self._slots[label].append(slot)
        self._slots += [[] for _ in range(len(self._slots), classes)]
        return self._slots

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Load other items, whose places are found when they are needed."""
        self._slots = None
        super()._load_from_state_dict(*args, **kwargs)

    def _evict(self, slots_of: list[list[int]], largest: int, chance: float) -> int:
        """Take a random slot from the largest class, the first of several such."""
        if largest < 2:
            classes = 1 + sum(bool(slots) for slots in slots_of)
            raise ValueError(
                f"a memory of {self.capacity} items cannot hold one of each of {classes} classes: "
                f"give it a capacity of {classes} or more"
            )
        slots = next(slots for slots in slots_of if len(slots) == largest)
        return slots.pop(int(chance * largest))
