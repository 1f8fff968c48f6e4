"""SI, synaptic intelligence: hold each weight by how much it lowered the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from speechcl.memory import NamedTensors
from speechcl.method import Step
from speechcl.methods.quadratic_penalty import QuadraticPenalty, trained, with_gradient
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
    {'anchor': {}, 'importance': {}, 'path': {}, 'start': {}}
    """

    def __init__(self, strength: float = 10.0, damping: float = 1e-3) -> None:
        super().__init__(strength)
        if damping <= 0:
            raise ValueError(f"damping is {damping}: it must be positive")
        self.damping = damping
        self.path, self.start = NamedTensors(), NamedTensors()
        self._before: dict[str, tuple[Tensor, Tensor]] = {}

    def structure(self) -> dict:
        """Shapes of the penalty and of the path of the task under way."""
        moving = {"path": self.path.layout(), "start": self.start.layout()}
        return {**super().structure(), **moving}

    def build(self, modules: nn.ModuleDict, structure: dict) -> None:
        """Make room for them."""
        super().build(modules, structure)
        self.path.allocate(structure["path"])
        self.start.allocate(structure["start"])

    def before_task(self, task: Task, engine: Engine) -> None:
        """Begin a new path at the present weights."""
        weights = {name: one.detach() for name, one in trained(engine.modules).items()}
        self.start.put(weights)
        self.path.put({name: torch.zeros_like(one) for name, one in weights.items()})

    def after_backward(self, step: Step) -> None:
        """Note weights and gradients before the penalty joins them."""
        moving = with_gradient(step.modules)
        self._before = {n: (one.clone(), grad.clone()) for n, (one, grad) in moving.items()}
        super().after_backward(step)

    def after_step(self, step: Step) -> None:
        """Add this step to the path."""
        path, weights = self.path.tensors(), trained(step.modules)
        names = list(self._before)
        before, grads = zip(*self._before.values(), strict=True)
        change = torch._foreach_sub([weights[name].detach() for name in names], before)
        torch._foreach_addcmul_([path[name] for name in names], change, grads, value=-1.0)
        self._before = {}

    def measure(self, task: Task, engine: Engine) -> dict[str, Tensor]:
        """Return the importance of earlier tasks plus this task's path over its distance."""
        before, path, start = (kept.tensors() for kept in (self.importance, self.path, self.start))
        return {
            name: before.get(name, 0.0) + importance(path[name], one - start[name], self.damping)
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
