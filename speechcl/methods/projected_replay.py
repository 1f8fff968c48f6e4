"""What replays by contrast share: a projection beside the model, whose sizes the model says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import speechbrain as sb
import torch
from torch import nn

from speechcl.memory import Buffer, Draws
from speechcl.methods.er import ER
from speechcl.task import Task
from speechcl.views import AnyView

if TYPE_CHECKING:
    from speechcl.engine import Engine


class ProjectedReplay(ER):
    """ER that trains on views of items and builds modules of the model's sizes.

    Arguments
    ---------
    views : Callable
        Another view of a batch of features, from ``speechcl.views``.
    capacity, replay, seed, online, memory
        As in ``ER``.

    Example
    -------
    >>> ProjectedReplay(lambda features, draws: features).structure()
    {'kept': {}, 'sizes': []}
    """

    def __init__(
        self,
        views: AnyView,
        capacity: int = 200,
        replay: int = 64,
        seed: int = 0,
        online: bool = True,
        memory: Buffer | None = None,
    ) -> None:
        super().__init__(capacity, replay, seed, online=online, memory=memory)
        self.views, self.draws = views, Draws(seed + 1)
        self.sizes: list[int] = []  # classes, width of the embedding

    def structure(self) -> dict:
        """Shapes of the kept items, number of classes and width of the embedding."""
        return {**super().structure(), "sizes": list(self.sizes)}

    def build(self, modules: nn.ModuleDict, structure: dict) -> None:
        """Make room for the kept items and take the sizes; subclasses add modules of these."""
        super().build(modules, structure)
        self.sizes = list(structure["sizes"])

    def before_task(self, task: Task, engine: Engine) -> None:
        """Find the sizes of the model and build."""
        if not self.sizes:
            self.build(engine.modules, {**self.structure(), "sizes": sizes_of(engine, task)})


def sizes_of(engine: Engine, task: Task) -> list[int]:
    """Return how many classes a model has outputs for and how wide its embedding is."""
    brain, batch = engine.probe(task)
    engine.modules.eval()
    with torch.no_grad():
        outputs = brain.compute_forward(batch, sb.Stage.TEST)
    return [brain.logits(outputs).shape[1], brain.features(outputs).shape[1]]
