"""Images told apart by the names of their classes; classes of no task yet take part, too."""

from __future__ import annotations

from typing import Any

from speechcl.brains.audio_text import AudioTextBrain


class ImageTextBrain(AudioTextBrain):
    """Train ``modules["model"]``, an ``ImageTextModel``, as ``AudioTextBrain`` trains its model.

    Arguments
    ---------
    loss_over : "own", "seen" or "all"
        As in ``AudioTextBrain``.

    Source: CoDyRA, arXiv 2412.01004, released code (loss of the CLIP experiments, X-TAIL).

    Example
    -------
    >>> ImageTextBrain.metric
    'accuracy'
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        classes = self.task.train.classes  # type: ignore[attr-defined]
        model: Any = self.raw["model"]
        self.names = model.tokenise(classes.names).to(self.device)
