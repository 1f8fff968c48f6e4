"""Several methods at once: each does its part, in the order in which they are given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import speechbrain as sb
from torch import Tensor, nn
from torch.utils.data import Dataset

from speechcl.batches import rows, size
from speechcl.method import Method, Step
from speechcl.task import Task

if TYPE_CHECKING:
    from speechcl.engine import Engine


class Chain(Method):
    """Let methods act one after another, as replay and a penalty, or replay and mixing.

    Every hook is called in order. Each method's ``before_batch`` gets the batch that those before
    it have made, and puts its own items behind. A ``loss`` of its own sees the items up to its own,
    and as ``step.task_loss`` that of the items and methods before it: what it adds is added once.
    A method without one, such as ER, has its items in the task's loss and comes before.

    Arguments
    ---------
    methods : Sequence
        The methods.

    Raises
    ------
    ValueError
        If there is none, or two of them choose what is trained.

    Example
    -------
    >>> from speechcl.methods import ER, EWC
    >>> Chain([ER(capacity=100), EWC(strength=10.0)]).structure()["methods"][0]
    {'kept': {}}
    """

    def __init__(self, methods: Sequence[Method]) -> None:
        super().__init__()
        if not methods:
            raise ValueError("a chain has at least one method: give some")
        for hook in ("param_groups", "train_set"):
            own = [type(one).__name__ for one in methods if _overrides(one, hook)]
            if len(own) > 1:
                raise ValueError(
                    f"{' and '.join(own)} both decide by {hook} what is trained: chain one of them"
                )
        self.methods = nn.ModuleList(methods)
        self._sizes: list[int] = []  # items of the batch after each method

    def structure(self) -> dict:
        """What each method has added."""
        return {"methods": [one.structure() for one in self._each()]}

    def build(self, modules: nn.ModuleDict, structure: dict) -> None:
        """Bring each to its structure, in order."""
        for one, own in zip(self._each(), structure["methods"], strict=True):
            one.build(modules, own)

    def train_set(self, task: Task, stream: Sequence[Task]) -> Dataset:
        """Return what the one that decides it says."""
        return self._deciding("train_set").train_set(task, stream)

    def before_task(self, task: Task, engine: Engine) -> None:
        """Let each prepare."""
        for one in self._each():
            one.before_task(task, engine)

    def param_groups(self, modules: nn.ModuleDict) -> list:
        """Return what the one that decides it says."""
        return self._deciding("param_groups").param_groups(modules)

    def before_batch(self, step: Step) -> Any:
        """Let each add its items."""
        self._sizes = []
        for one in self._each():
            step = replace(step, batch=one.before_batch(step))
            self._sizes.append(size(step.batch))
        return step.batch

    def loss(self, step: Step) -> Tensor:
        """Return the loss of the last method, which has those before it as the task's."""
        loss: Callable[[], Tensor] | None = None
        before = size(step.incoming)
        for one, count in zip(self._each(), self._sizes, strict=True):
            if _overrides(one, "loss"):
                part = _first(step, count)
                part.task_loss = loss or _first(step, before).task_loss
                loss = partial(one.loss, part)
            elif loss is not None and count > before:
                raise ValueError(
                    f"{type(one).__name__} adds items behind a method with a loss of its own, "
                    "which would not see them: put it before"
                )
            before = count
        loss = loss or step.task_loss
        assert loss is not None
        return loss()

    def after_backward(self, step: Step) -> None:
        """Let each change the gradients."""
        for one in self._each():
            one.after_backward(step)

    def after_step(self, step: Step) -> None:
        """Let each act on the weights."""
        for one in self._each():
            one.after_step(step)

    def after_task(self, task: Task, engine: Engine) -> None:
        """Let each consolidate."""
        for one in self._each():
            one.after_task(task, engine)

    def before_measuring(self, engine: Engine) -> None:
        """Let each derive what evaluation needs."""
        for one in self._each():
            one.before_measuring(engine)

    def before_eval(self, task: Task | None) -> None:
        """Let each select what serves the task."""
        for one in self._each():
            one.before_eval(task)

    def memory_bytes(self, stream: Sequence[Task]) -> int:
        """Bytes that all keep together."""
        return sum(one.memory_bytes(stream) for one in self._each())

    def _each(self) -> list[Method]:
        return list(self.methods)  # type: ignore[arg-type]

    def _deciding(self, hook: str) -> Method:
        return next((one for one in self._each() if _overrides(one, hook)), Method())


def _overrides(method: Method, hook: str) -> bool:
    return getattr(type(method), hook) is not getattr(Method, hook)


def _first(step: Step, count: int) -> Step:
    """Return the step as if the batch had only its first items."""
    if count == size(step.batch):
        return replace(step)
    part = slice(0, count)
    batch, outputs = rows(step.batch, part), rows(step.outputs, part)
    own = partial(step.brain.task_loss, outputs, batch, sb.Stage.TRAIN)
    return replace(step, batch=batch, outputs=outputs, task_loss=own)
