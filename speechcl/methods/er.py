"""Experience replay: a small uniform memory of old items in every batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from speechcl.batches import everywhere, join, my_rows
from speechcl.memory import Buffer, Reservoir
from speechcl.method import Method, Step
from speechcl.task import Task

if TYPE_CHECKING:
    from speechcl.engine import Engine


class ER(Method):
    """Train on each batch together with as many remembered items.

    Batches are dictionaries of tensors with one row an item.

    Arguments
    ---------
    capacity : int
        Items kept in a reservoir.
    replay : int
        Remembered items a step, over all processes together.
    seed : int
        Decides what is kept and drawn.
    padded : bool
        Whether items may differ in length, see ``Reservoir``.
    online : bool
        Offer each batch to the memory once it is learnt, as for a stream that is seen once. Else
        the items of a task are offered when it ends, each once: several epochs over the same data
        then do not fill the memory with repeats.
    memory : Buffer, optional
        What to remember in instead of a reservoir of so many items: one that is balanced by
        class, has a budget of bytes, or keeps items in fewer bytes or in files.

    Source: Chaudhry et al., "On tiny episodic memories in continual learning", 2019, with
    ``online``.

    Example
    -------
    >>> ER(capacity=100).structure()
    {'kept': {}}
    """

    def __init__(
        self,
        capacity: int = 200,
        replay: int = 32,
        seed: int = 0,
        padded: bool = False,
        online: bool = False,
        memory: Buffer | None = None,
    ) -> None:
        super().__init__()
        if replay < 1:
            raise ValueError(f"replay is {replay}: replay at least one item a step")
        self.replay, self.online = replay, online
        self.memory = Reservoir(capacity, seed, padded) if memory is None else memory

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

    def after_step(self, step: Step) -> None:
        """Offer the batch to the memory if it will not come again."""
        if self.online:
            self.memory.add(self._to_remember(step))

    def after_task(self, task: Task, engine: Engine) -> None:
        """Offer every item of the task to the memory, unless that was done on the way."""
        if not self.online:
            for batch in engine.collect(task, lambda brain, batch: batch):
                self.memory.add(batch)

    def _to_remember(self, step: Step) -> dict[str, Tensor]:
        """Return what is kept of the items of this step, those of all processes."""
        return everywhere(step.incoming)
