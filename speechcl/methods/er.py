"""Experience replay: a small uniform memory of old items in every batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from speechcl.batches import join, my_rows
from speechcl.memory import Reservoir
from speechcl.method import Method, Step
from speechcl.task import Task

if TYPE_CHECKING:
    from speechcl.engine import Engine


class ER(Method):
    """Train on each batch together with as many remembered items.

    The memory is a reservoir over the items of all finished tasks, each offered once. Batches are
    dictionaries of tensors with one row an item.

    Arguments
    ---------
    capacity : int
        Items kept.
    replay : int
        Remembered items a step, over all processes together.
    seed : int
        Decides what is kept and drawn.
    padded : bool
        Whether items may differ in length, see ``Reservoir``.

    Source: Chaudhry et al., "On tiny episodic memories in continual learning", 2019. Deviates: the
    memory is filled when a task ends, not while it is learnt, so that several epochs over the
    same data do not fill it with repeats.

    Example
    -------
    >>> ER(capacity=100).structure()
    {'kept': {}}
    """

    def __init__(
        self, capacity: int = 200, replay: int = 32, seed: int = 0, padded: bool = False
    ) -> None:
        super().__init__()
        if replay < 1:
            raise ValueError(f"replay is {replay}: replay at least one item a step")
        self.replay = replay
        self.memory = Reservoir(capacity, seed, padded)

    def structure(self) -> dict:
        """Shapes and types of the kept items."""
        return {"kept": self.memory.layout()}

    def build(self, modules: nn.ModuleDict, structure: dict) -> None:
        """Make room for the kept items."""
        self.memory.allocate(structure["kept"])

    def before_batch(self, step: Step) -> Any:
        """Append remembered items to the batch."""
        if len(self.memory) == 0:
            return step.batch
        remembered = my_rows(self.memory.sample(self.replay))
        return join(step.batch, remembered, padded=self.memory.padded)

    def after_task(self, task: Task, engine: Engine) -> None:
        """Offer every item of the task to the memory."""
        for batch in engine.collect(task, lambda brain, batch: batch):
            self.memory.add(batch)
