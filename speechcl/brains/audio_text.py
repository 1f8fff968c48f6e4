"""Clips told apart by the names of their classes; classes of no task yet take part, too."""

from __future__ import annotations

from typing import Any

import speechbrain as sb
import torch
from torch import Tensor

from speechcl.backbones.audio_text import AudioText, tokenise
from speechcl.brains.classification import Classification, ClassificationBrain, Scope
from speechcl.checkpoints import ModuleState
from speechcl.contrastive import name_loss, whole_batch
from speechcl.data.features import FeatureSet
from speechcl.memory.named_tensors import NamedTensors
from speechcl.memory.snapshot import evaluating
from speechcl.metrics.accuracy import accuracy
from speechcl.parallel import gather


class AudioTextBrain(ClassificationBrain):
    """Train ``modules["model"]``, an AudioText, to place clips near the names of their classes.

    The loss is the cross-entropy of each clip over names, plus that of each name over the clips of
    the batch (``speechcl.contrastive.name_loss``, which has two oddities of its own). Names of the
    task's own classes are embedded anew in every step; those of all other classes once, as the task
    begins, and only clips of a memory are placed among them. A test clip is compared with the names
    of all classes of the stream, also those of tasks to come, so that every row of the score matrix
    says what was forgotten and what was lost of knowing words unseen.

    Arguments
    ---------
    loss_over : "own", "seen" or "all"
        Names among which a clip is placed in training, as in ClassificationBrain. ``own`` is the
        paper's: names of earlier classes take no part.

    Source: CoDyRA, arXiv 2412.01004, released code (its loss of the CLIP experiments and X-TAIL,
    which tests among all names). Deviates: a clip of an earlier class, which only a memory brings,
    is placed among all seen; the paper keeps none.

    Example
    -------
    >>> AudioTextBrain.metric, AudioTextBrain.higher_is_better
    ('accuracy', True)
    """

    def __init__(self, *, loss_over: Scope = "own", **kwargs: Any) -> None:
        super().__init__(loss_over=loss_over, **kwargs)
        classes, info = self.task.train.classes, self.task.info  # type: ignore[attr-defined]
        self.own = classes.places(info.get("classes", classes.names))
        self.seen = classes.places(info.get("seen", classes.names))
        self.names = tokenise(classes.names).to(self.device)
        self.fixed = NamedTensors()  # embedded names, as they were when the task began

    def init_optimizers(self) -> None:
        """Embed all names; what they are is kept with the task, so that a resumed one has them."""
        super().init_optimizers()
        model: Any = self.raw["model"]
        with torch.no_grad(), evaluating(model):
            self.fixed.put({"text": model.encode_text(self.names)})
        if self.checkpointer is not None:
            self.checkpointer.add_recoverable("names", ModuleState(self.fixed))

    def compute_forward(self, batch: Any, stage: sb.Stage) -> Classification:
        """Return the scaled cosines of the clips and all names, and the clips' embeddings."""
        training = stage is sb.Stage.TRAIN and len(self.fixed) > 0
        names = self.names[self.own] if training else self.names
        audio, text, scale = self.modules["model"](batch["features"], names)
        if training:
            own = torch.tensor(self.own, device=text.device)
            text = self.fixed.tensors()["text"].index_copy(0, own, text)
        return Classification(scale * audio @ text.T, audio)

    def task_loss(self, outputs: Classification, batch: Any, stage: sb.Stage) -> Tensor:
        """Return the loss of the clips among names plus that of the names seen among clips."""
        logits, labels = outputs.logits, batch["label"]
        loss = super().task_loss(outputs, batch, stage)
        if stage is sb.Stage.TRAIN:  # a name looks for its clips in the batch of all processes
            logits, labels = whole_batch(logits), gather(labels)
        return loss + name_loss(logits, labels, self.seen)


@torch.no_grad()
def zero_shot_accuracy(model: AudioText, data: FeatureSet, batch_size: int = 256) -> float:
    """Measure how often a clip is nearest to the name of its class, in percent.

    Classes need not be any that the model was trained on: with words that no task has, this tells
    what a stream of tasks did to the knowledge of all other words.

    Arguments
    ---------
    model : AudioText
        As it is; the mode it was in is kept.
    data : FeatureSet
        Features as of ``AudioText.front_end``; its ``classes`` are the names that compete.
    batch_size : int
        Clips at once.

    Returns
    -------
    float

    Example
    -------
    >>> from speechcl.data.labelled import Classes
    >>> data = FeatureSet(torch.randn(2, 50, 40), [{"text": "one"}] * 2, Classes(("one",)))
    >>> zero_shot_accuracy(AudioText(), data)  # one name alone is always the nearest
    100.0
    """
    device = model.logit_scale.device
    with evaluating(model):
        text = model.encode_text(data.classes.names)
        nearest = [
            (model.encode_audio(features.to(device)) @ text.T).argmax(1).cpu()
            for features in data.features.split(batch_size)
        ]
    return accuracy(torch.cat(nearest).numpy(), data.labels.numpy())
