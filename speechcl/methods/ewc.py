"""EWC, elastic weight consolidation: hold each weight as the Fisher information says."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import speechbrain as sb
import torch
from torch import Tensor

from speechcl.batches import rows, size
from speechcl.brain import ContinualBrain, same_draws
from speechcl.methods.quadratic_penalty import QuadraticPenalty, trained
from speechcl.parallel import total
from speechcl.task import Task

if TYPE_CHECKING:
    from speechcl.engine import Engine


class EWC(QuadraticPenalty):
    """Hold weights that the old tasks' answers hang on.

    The importance is the diagonal of the Fisher information, the expected square of the gradient
    of ``log p(class | clip)`` over clips and the model's own classes. Where there are no classes
    (a brain without ``logits``) it is the empirical Fisher information instead: the square of the
    gradient of each clip's own loss, that is, of what was recorded, not of what the model would
    say. Earlier tasks' are summed, with the anchor at the latest weights, so that memory does not
    grow with the tasks.

    Arguments
    ---------
    strength : float
        ``lambda``.
    decay : float
        What the importance of earlier tasks is multiplied with at the end of each; 1 sums.
    clips : int
        At most how many clips of a task to measure on, drawn at random; each costs a pass of its
        own.

    Source: Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", PNAS 2017,
    eq. 3; the running sum is online EWC, Schwarz et al., "Progress & compress", ICML 2018, eq. 9.
    Deviates: the expectation over classes is computed, not sampled; without classes see Kunstner,
    Balles, Hennig, "Limitations of the empirical Fisher approximation", NeurIPS 2019.

    Example
    -------
    >>> EWC(strength=10.0).structure()
    {'anchor': {}, 'importance': {}}
    """

    def __init__(self, strength: float = 1000.0, decay: float = 1.0, clips: int = 500) -> None:
        super().__init__(strength)
        if clips < 1 or not 0 <= decay <= 1:
            raise ValueError(f"clips is {clips} and decay {decay}: use 1 or more, and 0 to 1")
        self.decay, self.clips = decay, clips

    def measure(self, task: Task, engine: Engine) -> dict[str, Tensor]:
        """Return the decayed importance of earlier tasks plus this task's Fisher information."""
        data: Any = task.train
        if len(data) > self.clips:
            order = torch.randperm(len(data), generator=torch.Generator().manual_seed(task.index))
            task = replace(task, train=data.subset(order[: self.clips].sort().values.tolist()))
        sums = {n: torch.zeros_like(p) for n, p in trained(engine.modules).items()}
        counts = engine.collect(task, lambda brain, batch: add_fisher(brain, batch, sums))
        before = self.importance.tensors()
        return {
            name: total(one) / sum(counts) + self.decay * before.get(name, torch.zeros_like(one))
            for name, one in sums.items()
        }


def add_fisher(brain: ContinualBrain, batch: Any, sums: dict[str, Tensor]) -> int:
    """Add the Fisher information of each clip of a batch to ``sums``, in place.

    Returns
    -------
    int
        How many clips that were.
    """
    parameters = list(trained(brain.raw).values())
    for place in range(size(batch)):
        item = rows(batch, slice(place, place + 1))
        with torch.enable_grad():  # collecting records none
            outcomes = _outcomes(brain, item)
        for one, weight in outcomes:
            grads = torch.autograd.grad(one, parameters, retain_graph=True, allow_unused=True)
            for into, grad in zip(sums.values(), grads, strict=True):
                if grad is not None:
                    into.addcmul_(grad, grad * weight)
    return size(batch)


def _outcomes(brain: Any, item: Any) -> list[tuple[Tensor, Tensor]]:
    """Return log-likelihoods of what may be true of a clip, and the weight of each."""
    if hasattr(brain, "logits"):
        outputs = brain.compute_forward(item, sb.Stage.TEST)
        log_p = brain.logits(outputs).log_softmax(dim=1)[0].unbind()
        return [(one, one.detach().exp()) for one in log_p]
    with same_draws(0):
        outputs = brain.compute_forward(item, sb.Stage.VALID)
        loss = brain.task_loss(outputs, item, sb.Stage.VALID)
    return [(loss, torch.ones_like(loss))]
