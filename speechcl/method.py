"""The one interface of every continual-learning method."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.utils.data import Dataset

from speechcl.task import Task

if TYPE_CHECKING:
    from speechcl.brain import ContinualBrain
    from speechcl.engine import Engine


@dataclass
class Step:
    """What a hook may see of the training step under way.

    ``modules`` are the bare modules, never DDP-wrapped. ``index`` counts the optimizer steps done
    in this task and ``total`` those planned, so progress is ``index / total``. ``incoming`` is the
    batch as the stream gave it, ``batch`` what ``before_batch`` has made of it; what is added
    follows behind.
    """

    task: Task
    brain: ContinualBrain
    modules: nn.ModuleDict
    incoming: Any
    batch: Any
    index: int
    total: int
    outputs: Any = None
    task_loss: Callable[[], Tensor] | None = None


class Method(nn.Module):
    """A continual-learning method; the defaults are plain sequential fine-tuning.

    ``__init__`` takes plain hyper-parameters; what the model sizes is made in ``build``. Buffers
    are the method's memory and are checkpointed. Trainable parameters go into ``modules`` (else
    neither DDP nor the optimizer sees them). Never store a module.

    Example
    -------
    >>> class Forgetful(Method):
    ...     def after_stepp(self, step): ...
    Traceback (most recent call last):
    TypeError: Forgetful.after_stepp looks like the hook 'after_step': use that name or another one
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse a public name that is nearly a hook: a misspelt hook would never be called."""
        super().__init_subclass__(**kwargs)
        hooks = [name for name in vars(Method) if not name.startswith("_")]
        for name in vars(cls):
            if name.startswith("_") or hasattr(Method, name):
                continue
            near = difflib.get_close_matches(name, hooks, n=1, cutoff=0.85)
            if near:
                raise TypeError(
                    f"{cls.__name__}.{name} looks like the hook '{near[0]}': "
                    "use that name or another one"
                )

    def structure(self) -> dict:
        """Plain YAML-safe description of what ``build`` has added so far."""
        return {}

    def build(self, modules: nn.ModuleDict, structure: dict) -> None:
        """Bring ``modules`` and own buffers to ``structure``: wrap, grow, freeze. No data."""

    def train_set(self, task: Task, stream: Sequence[Task]) -> Dataset:
        """Return what to train on; anything beyond ``task.train`` is old data that was kept."""
        return task.train

    def before_task(self, task: Task, engine: Engine) -> None:
        """Prepare; may read data (``engine.collect``) and call ``build``."""

    def param_groups(self, modules: nn.ModuleDict) -> list:
        """Parameters, or optimizer groups, to train on this task."""
        return [p for p in modules.parameters() if p.requires_grad]

    def before_batch(self, step: Step) -> Any:
        """Return the batch to train on: replay, mixing, extra views, sampled rollouts."""
        return step.batch

    def loss(self, step: Step) -> Tensor:
        """Return the scalar to minimise: add to ``step.task_loss()`` or replace it."""
        assert step.task_loss is not None
        return step.task_loss()

    def after_backward(self, step: Step) -> None:
        """Change ``p.grad`` in place (already all-reduced, not yet clipped)."""

    def after_step(self, step: Step) -> None:
        """Act on the weights just written: threshold, re-rate."""

    def after_task(self, task: Task, engine: Engine) -> None:
        """Consolidate: merge, freeze, store."""

    def before_measuring(self, engine: Engine) -> None:
        """Derive what evaluation needs from what is remembered; may come amid a task."""

    def before_eval(self, task: Task | None) -> None:
        """Select what serves ``task``; None if the scenario hides task identity."""

    def memory_bytes(self, stream: Sequence[Task]) -> int:
        """Bytes kept from one task to the next: by default those of the buffers."""
        return sum(buffer.numel() * buffer.element_size() for buffer in self.buffers())
