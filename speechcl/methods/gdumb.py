"""GDumb: keep a balanced memory, and learn it from scratch when an answer is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from speechcl.memory import Buffer, ClassBalanced, Snapshot
from speechcl.method import Method
from speechcl.task import Task

if TYPE_CHECKING:
    from speechcl.engine import Engine


class GDumb(Method):
    """Greedily remember, then train on the memory alone: what a stream adds must beat this.

    A task's items are offered to the memory in one sweep; then the model is set back to its first
    weights and trained on what is remembered, for the epochs of the training.

    Arguments
    ---------
    capacity : int
        Items kept, balanced by class.
    seed : int
        Decides what is kept.
    memory : Buffer, optional
        Another memory, such as one with a budget of bytes.

    Source: Prabhu et al., "GDumb: A simple approach that questions our progress in continual
    learning", ECCV 2020. Deviates: within a class a uniform sample is kept, not the first items;
    no mixing of images in training.

    Example
    -------
    >>> GDumb(capacity=100).structure()
    {'kept': {}, 'first': {}}
    """

    def __init__(self, capacity: int = 200, seed: int = 0, memory: Buffer | None = None) -> None:
        super().__init__()
        self.memory = ClassBalanced(capacity, seed) if memory is None else memory
        self.first = Snapshot()
        self.offered: Tensor
        self.register_buffer("offered", torch.zeros((), dtype=torch.int64))  # tasks

    def structure(self) -> dict:
        """Shapes and types of the kept items and of the first weights."""
        return {"kept": self.memory.layout(), "first": self.first.layout()}

    def build(self, modules: nn.ModuleDict, structure: dict) -> None:
        """Make room for the kept items and the first weights."""
        self.memory.allocate(structure["kept"])
        self.first.allocate(structure["first"])

    def train_set(self, task: Task, stream: Sequence[Task]) -> Dataset:
        """Return what is remembered, once the task was offered."""
        return task.train if int(self.offered) <= task.index else Remembered(self.memory)

    @torch.no_grad()
    def before_task(self, task: Task, engine: Engine) -> None:
        """Offer the task's items to the memory and set the model back."""
        if not len(self.first):
            self.first.take(engine.modules)
        for batch in engine.collect(task, lambda brain, batch: batch):
            self.memory.add(batch)
        self.offered += 1
        live = dict(engine.modules.named_parameters()) | dict(engine.modules.named_buffers())
        for name, tensor in self.first.tensors().items():
            live[name].copy_(tensor)


class Remembered(Dataset):
    """What a memory holds, as training data.

    Example
    -------
    >>> memory = ClassBalanced(4)
    >>> memory.add({"label": torch.tensor([0, 1, 1])})
    >>> Remembered(memory).__getitems__([0, 2])
    {'label': tensor([0, 1])}
    """

    def __init__(self, memory: Buffer) -> None:
        self.items = {name: value.cpu() for name, value in memory.everything().items()}

    def __len__(self) -> int:
        """Return the number of items."""
        return len(next(iter(self.items.values())))

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        """Return a whole batch at once."""
        return {name: value[indices] for name, value in self.items.items()}

    @staticmethod
    def collate(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the batch, which is put together already."""
        return batch
