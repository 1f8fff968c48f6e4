"""ER-ACE: new items compete among the classes of their batch only, which spares old ones."""

from __future__ import annotations

import speechbrain as sb
import torch
from torch import Tensor
from torch.nn import functional

from speechcl.batches import rows, size
from speechcl.method import Step
from speechcl.methods.er import ER
from speechcl.parallel import gather, sum_of_means


class ERACE(ER):
    """Replay with a loss that is not the same for new and for remembered items.

    The outputs of classes that are not in the stream's batch get no gradient from it. Remembered
    items compete among all classes that the brain's loss is over. The means of both are summed.
    Arguments are those of ``ER``; as published it is ``online``.

    Source: Caccia et al., "New insights on reducing abrupt representation change in online
    continual learning", ICLR 2022, eq. 3.

    Example
    -------
    >>> ERACE(capacity=100, online=True).structure()
    {'kept': {}}
    """

    def loss(self, step: Step) -> Tensor:
        """Return the mean over new items plus the mean over remembered ones."""
        own, every = size(step.incoming), size(step.batch)
        logits = step.brain.logits(step.outputs)[:own]
        labels = step.brain.targets(step.incoming)
        old = slice(own, every)

        def remembered() -> Tensor:
            return step.brain.task_loss(
                rows(step.outputs, old), rows(step.batch, old), sb.Stage.TRAIN
            )

        present = gather(labels).unique()
        return sum_of_means(
            [
                (1.0, own, lambda: among(logits, labels, present)),
                (1.0, every - own, remembered),
            ]
        )


def among(logits: Tensor, labels: Tensor, classes: Tensor) -> Tensor:
    """Compute the cross-entropy over some of the classes.

    Arguments
    ---------
    logits : Tensor
        Shape (batch, all classes).
    labels : Tensor
        Shape (batch,), each one of ``classes``.
    classes : Tensor
        Those that compete, in order.

    Returns
    -------
    Tensor
        The mean over the batch.

    Example
    -------
    >>> logits = torch.tensor([[9.0, 1.0, 1.0]])
    >>> among(logits, torch.tensor([2]), torch.tensor([1, 2]))  # log 2
    tensor(0.6931)
    """
    return functional.cross_entropy(logits[:, classes], torch.searchsorted(classes, labels))
