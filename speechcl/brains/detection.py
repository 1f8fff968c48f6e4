"""Spoofing detection: two classes, log-likelihood-ratio-like scores, equal error rate."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy
import speechbrain as sb
import torch
from torch import Tensor
from torch.nn import functional

from speechcl.brain import ContinualBrain
from speechcl.data.clips import BONAFIDE, ClipSet
from speechcl.metrics import average_eer_interval, eer
from speechcl.task import Task

logger = logging.getLogger(__name__)


class Detection(NamedTuple):
    """What a forward pass gives: logits (batch, 1 or 2) and embeddings (batch, width)."""

    logits: Tensor
    embedding: Tensor


class DetectionBrain(ContinualBrain):
    """Train ``modules["model"]`` to tell genuine (class 1) from spoofed speech (class 0).

    The model maps features to (logits, embedding), with one logit or two. The score is the
    difference of the two logits, higher for genuine speech.

    Arguments
    ---------
    criterion : Callable
        Maps the model's logits, shape (batch, 1 or 2), and the labels to a loss. By default the
        cross-entropy; ``speechcl.losses`` has others.

    Example
    -------
    >>> two_logits(torch.tensor([[3.0]]))
    tensor([[-1.5000,  1.5000]])
    """

    metric = "eer"

    def __init__(
        self, *, criterion: Callable[[Tensor, Tensor], Tensor] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.criterion = criterion or cross_entropy

    def compute_forward(self, batch: Any, stage: sb.Stage) -> Detection:
        """Run the model on ``batch["features"]``."""
        return Detection(*self.modules["model"](batch["features"]))

    def task_loss(self, outputs: Detection, batch: Any, stage: sb.Stage) -> Tensor:
        """Return the criterion's loss, by default the cross-entropy."""
        return self.criterion(outputs.logits, batch["label"])

    def soft_loss(self, outputs: Detection, shares: Tensor) -> Tensor:
        """Return the cross-entropy against shares (batch, 2), whatever the criterion."""
        return functional.cross_entropy(two_logits(outputs.logits), shares)

    def logits(self, outputs: Detection) -> Tensor:
        """Return the logits, shape (batch, 2)."""
        return two_logits(outputs.logits)

    def features(self, outputs: Detection) -> Tensor:
        """Return what the classifier sees, shape (batch, width)."""
        return outputs.embedding

    def targets(self, batch: Any) -> Tensor:
        """Return the labels, shape (batch,)."""
        return batch["label"]

    def score(self, outputs: Detection, batch: Any) -> Tensor:
        """Return logit of genuine minus logit of spoofed, shape (batch,)."""
        logits = two_logits(outputs.logits)
        return logits[:, BONAFIDE] - logits[:, 1 - BONAFIDE]

    def measure(self, scores: numpy.ndarray, dataset: ClipSet) -> float:
        """Return the equal error rate in percent; 50 for a model that collapsed to one score."""
        genuine = dataset.is_bonafide
        if numpy.ptp(scores) == 0:
            logger.warning("every clip got the score %g: the model tells nothing apart", scores[0])
            return 50.0
        return eer(scores[genuine], scores[~genuine])[0]

    def score_rows(self, scores: numpy.ndarray, task: Task) -> list[dict]:
        """Return every clip's score with what is known of the clip."""
        rows: list[dict] = task.test.rows  # type: ignore[union-attr]
        return [
            {**row, "test_task": task.name, "score": float(score)}
            for row, score in zip(rows, scores, strict=True)
        ]

    def average_interval(self, pairs: list[tuple[Task, numpy.ndarray]]) -> list[float]:
        """Return the bootstrap interval of the average EER; speakers are drawn, not clips."""
        tables = []
        for task, scores in pairs:
            data: ClipSet = task.test  # type: ignore[assignment]
            genuine, speakers = data.is_bonafide, data.speakers
            tables.append(
                (scores[genuine], scores[~genuine], speakers[genuine], speakers[~genuine])
            )
        return list(average_eer_interval(tables))


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute the cross-entropy of one logit or two.

    Example
    -------
    >>> cross_entropy(torch.tensor([[0.0]]), torch.tensor([1]))
    tensor(0.6931)
    """
    return functional.cross_entropy(two_logits(logits), labels)


def two_logits(logits: Tensor) -> Tensor:
    """Turn one logit into two whose softmax is its sigmoid; leave two as they are.

    Example
    -------
    >>> two_logits(torch.tensor([[2.0]])).softmax(1)[0, 1] == torch.tensor(2.0).sigmoid()
    tensor(True)
    """
    if logits.shape[1] == 2:
        return logits
    return torch.cat([-logits / 2, logits / 2], dim=1)
