"""DER++, dark experience replay: remember what the model said of old clips, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import speechbrain as sb
from torch import Tensor
from torch.nn import functional

from speechcl.batches import everywhere, join, my_rows, rows, size
from speechcl.memory import Buffer
from speechcl.method import Step
from speechcl.methods.er import ER
from speechcl.parallel import sum_of_means
from speechcl.task import Task

if TYPE_CHECKING:
    from speechcl.engine import Engine


class DERpp(ER):
    """Replay old clips twice a step: once to repeat old answers, once with their labels.

    Arguments
    ---------
    capacity, replay, seed, online, memory
        As in ER; ``replay`` clips are drawn for each of the two.
    answers : float
        ``alpha``, weight of the squared distance to the remembered logits, a mean over classes.
    labels : float
        ``beta``, weight of the labels' loss.

    Source: Buzzega et al., "Dark experience for general continual learning", NeurIPS 2020, eq. 6.
    Deviates without ``online``: clips and logits are remembered when a task ends, as in ER, not
    while it is learnt.

    Example
    -------
    >>> DERpp(capacity=100).structure()
    {'kept': {}}
    """

    def __init__(
        self,
        capacity: int = 200,
        replay: int = 32,
        answers: float = 0.5,
        labels: float = 0.5,
        seed: int = 0,
        online: bool = False,
        memory: Buffer | None = None,
    ) -> None:
        super().__init__(capacity, replay, seed, online=online, memory=memory)
        if answers < 0 or labels < 0:
            raise ValueError(f"answers is {answers} and labels {labels}: neither may be negative")
        self.answers, self.labels = answers, labels
        self._old: tuple[int, int, Tensor] | None = None  # own items, items to answer, their logits

    def before_batch(self, step: Step) -> Any:
        """Append two draws of remembered items to the batch."""
        if len(self.memory) == 0:
            return step.batch
        first, second = (my_rows(self.memory.sample(self.replay)) for _ in range(2))
        logits = first.pop("logits")
        self._old = size(step.batch), size(first), logits
        return join(step.batch, first, {name: second[name] for name in first})

    def loss(self, step: Step) -> Tensor:
        """Return the loss of the new items, plus old answers, plus old labels."""
        if self._old is None:
            return super().loss(step)
        own, answered, old = self._old
        self._old = None
        every = size(step.batch)

        def task_loss(part: slice) -> Tensor:
            outputs, batch = rows(step.outputs, part), rows(step.batch, part)
            return step.brain.task_loss(outputs, batch, sb.Stage.TRAIN)

        def distance() -> Tensor:
            new = step.brain.logits(rows(step.outputs, slice(own, own + answered)))
            return functional.mse_loss(new, old)

        terms: list[tuple[float, int, Callable[[], Tensor]]] = [
            (1.0, own, lambda: task_loss(slice(0, own))),
            (self.answers, answered, distance),
            (self.labels, every - own - answered, lambda: task_loss(slice(own + answered, every))),
        ]
        return sum_of_means(terms)

    def _to_remember(self, step: Step) -> dict[str, Tensor]:
        """Return the items of this step with what the model said of them in it."""
        said = step.brain.logits(rows(step.outputs, slice(0, size(step.incoming))))
        return everywhere({**step.incoming, "logits": said.detach().float()})

    def after_task(self, task: Task, engine: Engine) -> None:
        """Offer every item of the task to the memory, with what the model says of it."""
        if self.online:
            return

        def with_logits(brain, batch):
            return {**batch, "logits": brain.logits(brain.compute_forward(batch, sb.Stage.TEST))}

        for batch in engine.collect(task, with_logits):
            self.memory.add(batch)
