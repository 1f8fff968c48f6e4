"""OnPro: prototypes of the batch, kept apart, and confusable ones replayed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from speechcl.batches import everywhere, rows
from speechcl.contrastive import class_terms, log_shares, prototype_contrast
from speechcl.memory import Buffer, Prototypes
from speechcl.method import Step
from speechcl.methods.feedback import Feedback, Replayed
from speechcl.methods.projected_replay import ProjectedReplay
from speechcl.views import AnyView, as_float

_REPLAYED_A_CLASS = 7  # while few classes are known


@dataclass(frozen=True)
class Contrast:
    """Temperatures and widths of the contrasts.

    Arguments
    ---------
    width : int
        Of the projection, a linear layer.
    prototypes : float
        Temperature of the contrast of prototypes, ``tau``; None leaves it out, for ablation.
    instances : float
        Temperature of the contrast of items.
    scale : float
        What similarities of items are times after the first task, ``lambda_s``.

    Example
    -------
    >>> Contrast().instances
    0.07
    """

    width: int = 128
    prototypes: float | None = 0.5
    instances: float = 0.07
    scale: float = 1.0


class OnPro(ProjectedReplay):
    """Learn a stream in one pass by contrast of items and of classes, and by replay alone.

    In each step the prototype of a class is the mean of its projected items. Two views of each
    prototype are drawn together and held off those of other classes, in the new batch and in the
    replay; items and their views are held off items of other classes; the classifier is trained on
    new items in the first task and on the replay alone in later ones. A part of the replay is
    drawn from pairs of classes whose prototypes are close, and mixed. Every process learns the
    whole batch, since every item meets every other.

    Arguments
    ---------
    views : Callable
        Another view of a batch of features, from ``speechcl.views``.
    rotations : Callable, optional
        Several versions of each item that become classes of their own for the contrast of items,
        (batch, ...) -> (versions * batch, ...), the first of them the item; none by default.
    capacity, replay, seed, memory
        As in ``ER``; of few classes, at most seven items a class are replayed.
    feedback : Feedback, optional
        How confusable classes are replayed; None replays what is drawn, for ablation.
    contrast : Contrast
        Temperatures.

    Source: "Online prototype learning for online continual learning", ICCV 2023 (arXiv 2308.00301),
    and its released code. Deviates: an item is no company to itself in the contrast of items; a
    mixed item is company to its own views alone; prototypes are kept without their graph; the
    classifier sees the views that the contrast of items sees.

    Example
    -------
    >>> from speechcl.views import spectrogram_views
    >>> OnPro(spectrogram_views(), capacity=100).structure()
    {'kept': {}, 'sizes': []}
    """

    def __init__(
        self,
        views: AnyView,
        rotations: Callable[[Tensor], Tensor] | None = None,
        capacity: int = 200,
        replay: int = 64,
        feedback: Feedback | None = Feedback(),  # noqa: B008 (frozen)
        contrast: Contrast = Contrast(),  # noqa: B008 (frozen)
        seed: int = 0,
        memory: Buffer | None = None,
    ) -> None:
        super().__init__(views, capacity, replay, seed, memory=memory)
        self.rotations = rotations or (lambda features: features)
        self.feedback, self.contrast = feedback, contrast
        self.prototypes = Prototypes(0, contrast.width)  # of the step before
        self._parts: dict[str, slice] = {}  # of the batch under way
        self._replayed: Replayed | None = None

    def build(self, modules: nn.ModuleDict, structure: dict) -> None:
        """Add the projection and room for prototypes."""
        super().build(modules, structure)
        if not self.sizes:
            return
        classes, embedding = self.sizes
        if "project" not in modules:
            modules["project"] = nn.Linear(embedding, self.contrast.width)
        if not len(self.prototypes.present):
            self.prototypes = Prototypes(classes, self.contrast.width)

    def before_batch(self, step: Step) -> Any:
        """Return all views of new and replayed items, one behind the other."""
        draws, new = self.draws.next(), _floats(everywhere(step.incoming))
        drawn = self._draw(new["label"])
        self._replayed = None
        if drawn and step.task.index:
            feedback = self.feedback if step.index else None
            self._replayed = (feedback or Feedback(share=0.0, mixing=0.0)).replay(
                self.memory, drawn, *self.prototypes.known(), draws
            )
        parts = {"new": self.rotations(new["features"])}
        parts["new views"] = self.rotations(self.views(new["features"], draws))
        if self._replayed:
            parts["replay"] = self.rotations(self._replayed.features)
            parts["replay views"] = self.rotations(self.views(self._replayed.features, draws))
        if drawn:
            parts["drawn"] = drawn["features"]
            parts["drawn views"] = self.views(drawn["features"], draws)
            self._drawn_labels = drawn["label"]
        self._parts, start = {}, 0
        for name, part in parts.items():
            self._parts[name] = slice(start, start := start + len(part))
        self._new_labels = new["label"]
        features = torch.cat(list(parts.values()))
        return {"features": features, "label": features.new_zeros(len(features)).long()}

    def _draw(self, new_labels: Tensor) -> dict[str, Tensor] | None:
        """Return remembered items, fewer while few classes are known."""
        if not len(self.memory):
            return None
        known = len(torch.cat([self.memory.labels(), new_labels]).unique())
        return _floats(self.memory.sample(min(self.replay, _REPLAYED_A_CLASS * known)))

    def loss(self, step: Step) -> Tensor:
        """Return the contrasts of items and of prototypes, and the classifier's cross-entropy."""
        brain, classes = step.brain, self.sizes[0]
        embedding = brain.features(step.outputs).float()
        unit = functional.normalize(brain.modules["project"](embedding).float())
        scale = self.contrast.scale if step.task.index else 1.0
        first, window = self._window(embedding), self.contrast.width

        def similarity(one: str, other: str) -> Tensor:
            places = [self._parts[one], self._parts[other]]
            z = torch.cat([unit[place] for place in places])
            found = z @ z.T
            if first is not None:
                f = functional.normalize(torch.cat([embedding[place] for place in places]))
                found = found + z @ f[:, first : first + window].T
            return scale * found / self.contrast.instances

        labels = pseudo_labels(self._new_labels, self._versions("new", self._new_labels), classes)
        pair, company = instance_terms(similarity("new", "new views"), labels)
        loss = pair + 2 * company
        loss = loss + self._prototypes(unit, "new", self._new_labels)
        if "drawn" in self._parts:
            loss = loss + self._prototypes(unit, "drawn", self._drawn_labels)
            self._remember(unit.detach())
        if self._replayed is None:
            shares = functional.one_hot(self._new_labels, classes).float()
            return loss + self._cross_entropy(step, "new views", shares)
        own = self._replayed.own_labels(classes)
        versions = self._versions("replay", own)
        labels = pseudo_labels(own, versions, int(own.max()) + 1)
        loss = loss + instance_terms(similarity("replay", "replay views"), labels)[1]
        return loss + self._cross_entropy(step, "replay views", self._replayed.shares(classes))

    def _window(self, embedding: Tensor) -> int | None:
        """Draw where the part of the embedding begins that is compared with projections."""
        spare = embedding.shape[1] - self.contrast.width
        if spare <= 0:
            return None
        return int(torch.randint(spare, (), generator=self.draws.next()))

    def _versions(self, part: str, labels: Tensor) -> int:
        place = self._parts[part]
        return (place.stop - place.start) // len(labels)

    def _prototypes(self, unit: Tensor, part: str, labels: Tensor) -> Tensor:
        """Return the contrast of the prototypes of a part, of items that were not rotated."""
        if self.contrast.prototypes is None:
            return unit.new_zeros(())
        one, other = (unit[self._parts[n]][: len(labels)] for n in (part, f"{part} views"))
        return prototype_contrast(one, other, labels, self.contrast.prototypes)

    def _remember(self, unit: Tensor) -> None:
        """Keep the prototypes of what was drawn; the next step replays by them."""
        both = (unit[self._parts["drawn"]] + unit[self._parts["drawn views"]]) / 2
        self.prototypes.take(both, self._drawn_labels)

    def _cross_entropy(self, step: Step, part: str, shares: Tensor) -> Tensor:
        """Return the classifier's loss on the views of a part that were not rotated."""
        start = self._parts[part].start
        return step.brain.soft_loss(rows(step.outputs, slice(start, start + len(shares))), shares)


def instance_terms(similarity: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Contrast items with their views and with their class.

    Arguments
    ---------
    similarity : Tensor
        Over the temperature, shape (2 items, 2 items): items, then a view of each.
    labels : Tensor
        Classes of the items, shape (items,).

    Returns
    -------
    tuple
        Two means of ``-log p`` over all rows: of an item's own view, and of its class.

    Source: OnPro (arXiv 2308.00301), released code; the diagonal is left out.

    Example
    -------
    >>> instance_terms(torch.zeros(4, 4), torch.tensor([0, 1]))  # log 3 each
    (tensor(1.0986), tensor(1.0986))
    """
    count = len(labels)
    log_p = log_shares(similarity)
    view = torch.arange(2 * count, device=labels.device).roll(count)
    pair = -log_p.gather(1, view[:, None]).mean()
    return pair, class_terms(similarity, labels.repeat(2)).mean()


def pseudo_labels(labels: Tensor, versions: int, classes: int) -> Tensor:
    """Give every version of an item a class of its own, shape (versions * items,).

    Example
    -------
    >>> pseudo_labels(torch.tensor([1, 0]), versions=2, classes=3)
    tensor([1, 0, 4, 3])
    """
    offset = classes * torch.arange(versions, device=labels.device)
    return (labels + offset[:, None]).flatten()


def _floats(items: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**items, "features": as_float(items["features"])}
