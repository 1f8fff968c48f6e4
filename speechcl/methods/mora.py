"""MoRA: every task adds rank-one atoms that tokens select by themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from speechcl.adapters import MixtureOfRanks, adapter_layers
from speechcl.method import Step
from speechcl.methods.adapter_method import AdapterMethod, adapter_bytes
from speechcl.task import Task

if TYPE_CHECKING:
    from speechcl.engine import Engine

MAX_GRAD_NORM = 1.0  # two atoms that tie have a routing gradient of 1 / temperature


class MoRA(AdapterMethod):
    """Grow a bank of atoms by every task and freeze it afterwards; nothing is ever merged.

    Old atoms keep their values and are found by their own keys, without a router to train or a
    task to name. New ones still change which atoms an old input selects, so forgetting is small
    but not impossible. Gradients are clipped to a norm of 1.

    Arguments
    ---------
    targets, train
        As in ``AdapterMethod``.
    rank : int
        Atoms that each task adds to each layer.
    active, temperature, threshold, threshold_mode
        As in ``MixtureOfRanks``.

    Source
    ------
    "Little By Little: Continual Learning via Self-Activated Sparse Mixture-of-Rank Adaptive
    Learning", arXiv 2506.21035, and its released code (as MoRAM). Deviates: gradients are clipped,
    which that code leaves out; no scale on the atoms, which it loses at the end of a task.

    Example
    -------
    >>> MoRA(targets="*.q_proj", rank=4).structure()
    {'tasks': 0, 'growing': False}
    """

    def __init__(
        self,
        targets: str | Sequence[str],
        train: str | Sequence[str] = (),
        *,
        rank: int = 16,
        active: int = 16,
        temperature: float = 0.01,
        threshold: float = 0.2,
        threshold_mode: str = "absolute",
    ) -> None:
        super().__init__(targets, train)
        self.spec = MixtureOfRanks(rank, active, temperature, threshold, threshold_mode)
        self.tasks, self.growing, self.atom_bytes = 0, False, 0

    def adapter(self) -> MixtureOfRanks:
        """Return the description of the adapter."""
        return self.spec

    def structure(self) -> dict:
        """Count the tasks that have atoms, and say whether the newest ones are still trained."""
        return {"tasks": self.tasks, "growing": self.growing}

    def build(self, modules: nn.ModuleDict, structure: dict) -> None:
        """Grow the bank to the structure's tasks, and freeze it if it says so."""
        model = modules["model"]
        while self.tasks < structure["tasks"]:
            if self.tasks == 0:
                self.put_adapter(model)
            else:
                for layer in _bank(model):
                    layer.grow()
            self.tasks, self.growing = self.tasks + 1, True
        if self.growing and not structure["growing"]:
            for layer in _bank(model):
                layer.freeze()
            self.growing = False
        self.atom_bytes = adapter_bytes(model)

    def before_task(self, task: Task, engine: Engine) -> None:
        """Give the task its atoms; the first time, make sure that every layer is within reach."""
        self.build(engine.modules, {"tasks": task.index + 1, "growing": True})
        if task.index == 0:
            self.check_reachable(task, engine)

    def after_backward(self, step: Step) -> None:
        """Clip the gradients."""
        nn.utils.clip_grad_norm_(self.param_groups(step.modules), MAX_GRAD_NORM)

    def after_task(self, task: Task, engine: Engine) -> None:
        """Freeze the task's atoms, so that no fresh ones take part in evaluation."""
        self.build(engine.modules, {"tasks": self.tasks, "growing": False})

    def memory_bytes(self, stream: Sequence[Task]) -> int:
        """Bytes of all atoms: they stay beside the model."""
        return self.atom_bytes


def _bank(model: nn.Module) -> list[Any]:
    """Return the model's layers of atoms."""
    return [layer for slots in adapter_layers(model).values() for layer in slots.values()]
