"""SI, synaptic intelligence: hold each weight by how much it lowered the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from speechcl.memory import NamedTensors
from speechcl.method import Step
from speechcl.methods.quadratic_penalty import QuadraticPenalty, gradients, trained
from speechcl.task import Task

if TYPE_CHECKING:
    from speechcl.engine import Engine


class SI(QuadraticPenalty):
    """Hold weights that contributed to learning, as summed along the way they took.

    Each step adds ``- gradient * change`` to a weight's path, with the gradient of the task's own
    loss; at the end of a task the path over the squared distance becomes importance.

    Arguments
    ---------
    strength : float
        ``2 c`` of the paper, since its penalty has no 1/2.
    damping : float
        ``xi``: keeps the importance of weights that hardly moved finite.

    Source: Zenke, Poole, Ganguli, "Continual learning through synaptic intelligence", ICML 2017,
    eqs. 3 to 5. Deviates: importance below zero (a weight moved up the slope) counts as zero, since
    a negative penalty would drive the weight away.

    Example
    -------
    >>> SI(strength=0.2).structure()
    {'anchor': {}, 'importance': {}, 'path': {}}
    """

    def __init__(self, strength: float = 10.0, damping: float = 1e-3) -> None:
        super().__init__(strength)
        if damping <= 0:
            raise ValueError(f"damping is {damping}: it must be positive")
        self.damping = damping
        self.path = NamedTensors()
        self._away: tuple[Tensor, ...] = ()  # before this step
        self._held: dict[str, nn.Parameter] = {}
        self._grads: list[Tensor] = []

    def structure(self) -> dict:
        """Shapes of the penalty and of the path of the task under way."""
        return {**super().structure(), "path": self.path.layout()}

    def build(self, modules: nn.ModuleDict, structure: dict) -> None:
        """Make room for them."""
        super().build(modules, structure)
        self.path.allocate(structure["path"])

    def before_task(self, task: Task, engine: Engine) -> None:
        """Begin a new path at the present weights."""
        weights = {name: one.detach() for name, one in trained(engine.modules).items()}
        self.anchor.put(weights)
        self.importance.allocate(self.anchor.layout())  # 0 for what is new
        self.path.put({name: torch.zeros_like(one) for name, one in weights.items()})
        self._held = {}

    @torch.no_grad()
    def after_backward(self, step: Step) -> None:
        """Add the penalty's gradient; note the task's own, and where the weights are."""
        held = self.held(step.modules)
        if held.keys() != self._held.keys():  # else they are where the last step left them
            self._away = self.away(held)
        self._held, self._grads = held, gradients(held)
        terms = self._grads, self._away, self.pulls(held)
        pulled = torch._foreach_addcmul(*terms, value=self.strength)  # new ones: they get clipped
        for one, grad in zip(held.values(), pulled, strict=True):
            one.grad = grad

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        """Add this step to the path."""
        path, away = self.path.tensors(), self.away(self._held)
        torch._foreach_sub_(self._away, away)  # how far the step went, turned round
        torch._foreach_addcmul_([path[name] for name in self._held], self._away, self._grads)
        self._away, self._grads = away, []

    def measure(self, task: Task, engine: Engine) -> dict[str, Tensor]:
        """Return the importance of earlier tasks plus this task's path over its distance."""
        before, path, anchor = (
            kept.tensors() for kept in (self.importance, self.path, self.anchor)
        )
        return {
            name: before[name] + importance(path[name], one - anchor[name], self.damping)
            for name, one in trained(engine.modules).items()
        }

    def memory_bytes(self, stream) -> int:
        """Bytes of penalty alone: the path is of no use between tasks."""
        kept = [*self.anchor.buffers(), *self.importance.buffers()]
        return sum(tensor.numel() * tensor.element_size() for tensor in kept)


def importance(path: Tensor, distance: Tensor, damping: float) -> Tensor:
    """Compute eq. 5's term of one task: ``path / (distance^2 + damping)``, at least 0.

    Example
    -------
    >>> importance(torch.tensor([2.0, -1.0]), torch.tensor([1.0, 1.0]), damping=1.0)
    tensor([1., 0.])
    """
    return (path / (distance.square() + damping)).clamp_min(0.0)
