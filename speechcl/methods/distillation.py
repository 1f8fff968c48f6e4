"""Keeping a model's answers: the former model is asked about each new batch."""

from __future__ import annotations

import speechbrain as sb
from torch import Tensor, nn
from torch.nn import functional

from speechcl.memory import Snapshot
from speechcl.method import Step


class Distiller(nn.Module):
    """Holds the model as it was after the last task, and how far its answers have drifted.

    A method calls ``ask`` before the forward pass of a batch and ``penalty`` after it.

    Arguments
    ---------
    strength : float
        Weight of the penalty.
    temperature : float
        Softens both answers; at 1 they are the model's own.

    Example
    -------
    >>> Distiller(strength=1.0, temperature=2.0).former.layout()
    {}
    """

    def __init__(self, strength: float, temperature: float) -> None:
        super().__init__()
        if strength < 0:
            raise ValueError(f"strength is {strength}: it must not be negative")
        if temperature <= 0:
            raise ValueError(f"temperature is {temperature}: it must be positive")
        self.strength, self.temperature = strength, temperature
        self.former = Snapshot()
        self._old: Tensor | None = None

    def ask(self, step: Step) -> None:
        """Note what the former model says of the batch, if there is a former model."""
        brain, batch = step.brain, step.batch
        if len(self.former):
            self._old = self.former.ask(
                step.modules, lambda: brain.logits(brain.compute_forward(batch, sb.Stage.TEST))
            )

    def penalty(self, step: Step) -> Tensor | float:
        """Return the weighted distillation loss of the batch asked about; 0 in the first task."""
        if self._old is None:
            return 0.0
        old, self._old = self._old, None
        new = step.brain.logits(step.outputs)
        return self.strength * distillation(new, old, self.temperature)


def distillation(logits: Tensor, old_logits: Tensor, temperature: float) -> Tensor:
    """Compute the cross-entropy of softened new answers against softened old ones.

    Arguments
    ---------
    logits, old_logits : Tensor
        Shape (batch, classes).
    temperature : float
        Divides both.

    Returns
    -------
    Tensor
        A scalar, the mean over the batch.

    Source: Li & Hoiem, "Learning without forgetting", ECCV 2016, eqs. 2 and 3.

    Example
    -------
    >>> import torch
    >>> distillation(torch.zeros(1, 2), torch.tensor([[9.0, -9.0]]), temperature=2.0)
    tensor(0.6931)
    """
    target = (old_logits / temperature).softmax(dim=1)
    return functional.cross_entropy(logits / temperature, target)
