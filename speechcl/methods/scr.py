"""SCR: supervised contrast of new and remembered items, classified by the nearest mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from speechcl.backbones.nearest_mean import NearestMean
from speechcl.batches import everywhere, join, rows, size
from speechcl.contrastive import supervised_contrastive
from speechcl.memory import Buffer
from speechcl.method import Step
from speechcl.methods.projected_replay import ProjectedReplay
from speechcl.task import Task
from speechcl.views import AnyView, as_float

if TYPE_CHECKING:
    from speechcl.engine import Engine

_SWEEP = 256  # remembered items that are encoded at a time


class SCR(ProjectedReplay):
    """Learn embeddings by contrast alone; a class is then where the memory of it is.

    Every item of a batch, new or remembered, meets another view of itself and all views of its
    class, through a projection with one hidden layer. The model's own classifier is not trained:
    in tests ``NearestMean`` stands in for it, with means of the memory. Every process learns the
    whole batch, since every item meets every other.

    Arguments
    ---------
    views : Callable
        Another view of a batch of features, from ``speechcl.views``.
    capacity, replay, seed, online, memory
        As in ``ER``; as published it is ``online``.
    temperature : float
        What cosines are divided by.
    width : int
        Of the projection.

    Source: Mai et al., "Supervised contrastive replay: Revisiting the nearest class mean classifier
    in online class-incremental continual learning", CVPR workshops 2021, eq. 3 and 4.

    Example
    -------
    >>> from speechcl.views import spectrogram_views
    >>> SCR(spectrogram_views(), capacity=100).structure()
    {'kept': {}, 'sizes': []}
    """

    def __init__(
        self,
        views: AnyView,
        capacity: int = 200,
        replay: int = 64,
        temperature: float = 0.07,
        width: int = 128,
        seed: int = 0,
        online: bool = True,
        memory: Buffer | None = None,
    ) -> None:
        super().__init__(views, capacity, replay, seed, online, memory)
        self.temperature, self.width = temperature, width

    def build(self, modules: nn.ModuleDict, structure: dict) -> None:
        """Add the projection and the classifier by means."""
        super().build(modules, structure)
        if self.sizes and "project" not in modules:
            classes, embedding = self.sizes
            modules["model"] = NearestMean(modules["model"], classes, embedding)
            modules["project"] = nn.Sequential(
                nn.Linear(embedding, embedding), nn.ReLU(), nn.Linear(embedding, self.width)
            )

    def before_batch(self, step: Step) -> Any:
        """Return new and remembered items, and a view of each behind them."""
        batch = everywhere(step.incoming)
        if len(self.memory):
            batch = join(batch, self.memory.sample(self.replay))
        features = as_float(batch["features"])
        changed = self.views(features, self.draws.next())
        return join({**batch, "features": features}, {**batch, "features": changed})

    def loss(self, step: Step) -> Tensor:
        """Return the contrast of all views."""
        embedding = step.brain.features(step.outputs)
        vectors = functional.normalize(step.brain.modules["project"](embedding).float())
        labels = step.brain.targets(step.batch)
        unused = 0.0 * step.brain.logits(step.outputs).sum()  # several processes want all used
        return supervised_contrastive(vectors, labels, self.temperature) + unused

    @torch.no_grad()
    def before_measuring(self, engine: Engine) -> None:
        """Take the means of what is remembered."""
        if not len(self.memory):
            return
        model: Any = engine.modules["model"]
        model.eval()
        kept = self.memory.everything()
        found = [
            model.model(as_float(rows(kept["features"], slice(start, start + _SWEEP))))[1]
            for start in range(0, size(kept), _SWEEP)
        ]
        model.learn(torch.cat(found).float(), kept["label"])

    def after_task(self, task: Task, engine: Engine) -> None:
        """Remember, and take the means for whoever uses the model."""
        super().after_task(task, engine)
        self.before_measuring(engine)
