"""Classification: any number of classes, some of them new in every task; accuracy in percent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy
import speechbrain as sb
import torch
from torch import Tensor
from torch.nn import functional

from speechcl.brain import ContinualBrain
from speechcl.data.clips import ClipSet
from speechcl.metrics.accuracy import accuracy, average_accuracy_interval
from speechcl.task import Task

Scope = Literal["all", "seen", "own"]


class Classification(NamedTuple):
    """What a forward pass gives: logits (batch, classes) and embeddings (batch, width)."""

    logits: Tensor
    embedding: Tensor


class ClassificationBrain(ContinualBrain):
    """Train ``modules["model"]`` to tell classes apart, by cross-entropy.

    The model maps features to (logits, embedding), with a logit for every class of the stream. It
    is measured over all of them, also those that are not learnt yet: which task a clip belongs to
    is not known, and the figures of all rows of the score matrix mean the same.

    Arguments
    ---------
    loss_over : "all", "seen" or "own"
        The classes that the training loss lets compete. ``all`` are those of the stream, ``seen``
        those of the tasks up to this one (``task.info["seen"]``), ``own`` those of this task
        (``task.info["classes"]``): outputs of old classes then get no gradient from new clips.
        With ``own``, a clip of an old class, from a memory, competes among those seen. A task
        whose ``info`` does not say has all classes.

    Source: ``own`` with a memory is the asymmetric loss of Caccia et al., "New insights on reducing
    abrupt representation change in online continual learning", ICLR 2022 (ER-ACE, eq. 3). There the
    memory holds clips of the task under way too; one that is filled when a task ends leaves new
    classes below old ones until then.

    Example
    -------
    >>> logits = torch.tensor([[0.0, 0.0, 9.0]])
    >>> cross_entropy(logits, torch.tensor([0]), own=[0, 1], seen=[0, 1])  # log 2
    tensor(0.6931)
    """

    metric = "accuracy"
    higher_is_better = True

    def __init__(self, *, loss_over: Scope = "seen", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if loss_over not in ("all", "seen", "own"):
            raise ValueError(f"loss_over is {loss_over!r}: use 'all', 'seen' or 'own'")
        self.loss_over = loss_over

    def compute_forward(self, batch: Any, stage: sb.Stage) -> Classification:
        """Run the model on ``batch["features"]``."""
        return Classification(*self.modules["model"](batch["features"]))

    def task_loss(self, outputs: Classification, batch: Any, stage: sb.Stage) -> Tensor:
        """Return the cross-entropy over the classes that compete."""
        if self.loss_over == "all":
            return functional.cross_entropy(outputs.logits, batch["label"])
        seen = self._places("seen")
        own = self._places("classes") if self.loss_over == "own" else seen
        return cross_entropy(outputs.logits, batch["label"], own, seen)

    def soft_loss(self, outputs: Classification, shares: Tensor) -> Tensor:
        """Return the cross-entropy against shares (batch, classes), among the classes seen."""
        if self.loss_over == "all":
            return functional.cross_entropy(outputs.logits, shares)
        seen = self._places("seen")
        return functional.cross_entropy(outputs.logits[:, seen], shares[:, seen])

    def _places(self, which: str) -> list[int]:
        classes = self.task.train.classes  # type: ignore[attr-defined]
        return classes.places(self.task.info.get(which, classes.names))

    def logits(self, outputs: Classification) -> Tensor:
        """Return the logits of all classes of the stream, shape (batch, classes)."""
        return outputs.logits

    def features(self, outputs: Classification) -> Tensor:
        """Return what the classifier sees, shape (batch, width)."""
        return outputs.embedding

    def targets(self, batch: Any) -> Tensor:
        """Return the labels, shape (batch,)."""
        return batch["label"]

    def score(self, outputs: Classification, batch: Any) -> Tensor:
        """Return the label of the highest logit, shape (batch,)."""
        return outputs.logits.argmax(dim=1)

    def measure(self, scores: numpy.ndarray, dataset: ClipSet) -> float:
        """Return the accuracy in percent."""
        return accuracy(scores, dataset.labels.numpy())

    def score_rows(self, scores: numpy.ndarray, task: Task) -> list[dict]:
        """Return every clip's class and the one that the model took it for."""
        data: ClipSet = task.test  # type: ignore[assignment]
        names, column = data.classes.names, data.classes.column
        return [
            {**row, "test_task": task.name, "label": row[column], "predicted": names[int(label)]}
            for row, label in zip(data.rows, scores, strict=True)
        ]

    def average_interval(self, pairs: list[tuple[Task, numpy.ndarray]]) -> list[float]:
        """Return the bootstrap interval of the average accuracy; speakers are drawn if known."""
        tables = []
        for task, scores in pairs:
            data: ClipSet = task.test  # type: ignore[assignment]
            tables.append((scores == data.labels.numpy(), data.speakers))
        return list(average_accuracy_interval(tables))


def cross_entropy(
    logits: Tensor, labels: Tensor, own: Sequence[int], seen: Sequence[int]
) -> Tensor:
    """Compute the cross-entropy in which a clip competes among the classes of its own kind.

    Arguments
    ---------
    logits : Tensor
        Shape (batch, classes).
    labels : Tensor
        Shape (batch,), each in ``seen``.
    own : sequence of int
        Classes among which a clip of one of them competes.
    seen : sequence of int
        Classes among which any other clip competes.

    Returns
    -------
    Tensor
        The mean over the batch, a scalar.

    Example
    -------
    >>> logits = torch.tensor([[1.0, 1.0, 1.0, 5.0]] * 2)
    >>> cross_entropy(logits, torch.tensor([0, 2]), own=[2], seen=[0, 1, 2])  # log 3 and 0
    tensor(0.5493)
    """
    competes = torch.zeros(2, logits.shape[1], dtype=torch.bool, device=logits.device)
    competes[0, list(seen)] = True
    competes[1, list(own)] = True
    of_own = competes[1, labels].long()
    return functional.cross_entropy(logits.masked_fill(~competes[of_own], -torch.inf), labels)
