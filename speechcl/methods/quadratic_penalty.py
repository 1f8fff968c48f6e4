"""The common part of EWC and SI: weights are pulled back, each as strongly as it matters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from speechcl.memory import NamedTensors
from speechcl.method import Method, Step
from speechcl.task import Task

if TYPE_CHECKING:
    from speechcl.engine import Engine


class QuadraticPenalty(Method):
    """Add ``strength / 2 * sum(importance * (weight - anchor)^2)`` to the loss of later tasks.

    Its gradient is added where the gradients are, in one pass over the weights: a penalty in the
    loss costs a graph over every weight. So the loss that is shown is the task's own. Kept between
    tasks: two numbers a weight, nothing of any clip.

    Arguments
    ---------
    strength : float
        How hard weights are pulled back.
    """

    def __init__(self, strength: float) -> None:
        super().__init__()
        if strength < 0:
            raise ValueError(f"strength is {strength}: it must not be negative")
        self.strength = strength
        self.anchor, self.importance = NamedTensors(), NamedTensors()

    def structure(self) -> dict:
        """Shapes of the anchor and the importance, once there are any."""
        return {"anchor": self.anchor.layout(), "importance": self.importance.layout()}

    def build(self, modules: nn.ModuleDict, structure: dict) -> None:
        """Make room for them."""
        self.anchor.allocate(structure["anchor"])
        self.importance.allocate(structure["importance"])

    @torch.no_grad()
    def after_backward(self, step: Step) -> None:
        """Add the penalty's gradient."""
        held = self.held(step.modules)
        if held:
            grads, pulls = gradients(held), self.pulls(held)
            torch._foreach_addcmul_(grads, self.away(held), pulls, value=self.strength)

    def held(self, modules: nn.Module) -> dict[str, nn.Parameter]:
        """Return the parameters that have a gradient now and were there before."""
        anchor = self.anchor.tensors()
        found = modules.named_parameters()
        return {name: one for name, one in found if one.grad is not None and name in anchor}

    def away(self, held: dict[str, nn.Parameter]) -> tuple[Tensor, ...]:
        """Return how far each is from its anchor."""
        anchor = self.anchor.tensors()
        return torch._foreach_sub(list(held.values()), [anchor[name] for name in held])

    def pulls(self, held: dict[str, nn.Parameter]) -> list[Tensor]:
        """Return how much each matters."""
        importance = self.importance.tensors()
        return [importance[name] for name in held]

    def after_task(self, task: Task, engine: Engine) -> None:
        """Learn what matters, and hold the weights where they are now."""
        weights = trained(engine.modules)
        self.importance.put(self.measure(task, engine))
        self.anchor.put({name: one.detach() for name, one in weights.items()})

    def measure(self, task: Task, engine: Engine) -> dict[str, Tensor]:
        """Return how much each weight matters to all tasks so far."""
        raise NotImplementedError(f"{type(self).__name__} says no importance")


def trained(modules: nn.Module) -> dict[str, nn.Parameter]:
    """Return the trainable parameters by name.

    Example
    -------
    >>> sorted(trained(nn.Linear(2, 1)))
    ['bias', 'weight']
    """
    return {name: one for name, one in modules.named_parameters() if one.requires_grad}


def gradients(held: dict[str, nn.Parameter]) -> list[Tensor]:
    """Return the gradients of parameters that have one.

    Example
    -------
    >>> gradients({"weight": nn.Parameter(torch.zeros(2))})
    []
    """
    return [one.grad for one in held.values() if one.grad is not None]
