"""Classification of texts with a transformer: the same loss and accuracy as of sounds."""

from __future__ import annotations

from typing import Any

import speechbrain as sb
import torch

from speechcl.brains.classification import Classification, ClassificationBrain


class TextClassificationBrain(ClassificationBrain):
    """Train ``modules["model"]``, a ``TextClassifier``, to tell classes of texts apart.

    Batches are those of ``TextSet``. Where they say which classes are ``allowed``, in training and
    in tests the logits of all others are out of the race.

    Arguments
    ---------
    loss_over : "all", "seen" or "own"
        As in ``ClassificationBrain``.

    Example
    -------
    >>> issubclass(TextClassificationBrain, ClassificationBrain)
    True
    """

    def compute_forward(self, batch: Any, stage: sb.Stage) -> Classification:
        """Run the model on the tokens."""
        logits, embedding = self.modules["model"](batch["input_ids"], batch["attention_mask"])
        if "allowed" in batch:
            # not -inf: a target of 0 times a log-probability of -inf would be NaN
            logits = logits.masked_fill(~batch["allowed"], torch.finfo(logits.dtype).min)
        return Classification(logits, embedding)
