"""DualMix: mix remembered items with each other, and with new ones, so that replay gives more."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from speechcl.batches import everywhere, join, my_rows, rows, size
from speechcl.memory import Draws
from speechcl.memory.draws import beta
from speechcl.method import Method, Step
from speechcl.parallel import sum_of_means
from speechcl.task import Task
from speechcl.views import AnyView, as_float

if TYPE_CHECKING:
    from speechcl.engine import Engine

logger = logging.getLogger(__name__)


class DualMix(Method):
    """Add three kinds of items to a replay: views, mixed views, and old mixed with new.

    It acts on what another method has remembered: ``Chain([ER(online=True), DualMix(views)])``.
    Views of remembered items keep their labels. EnMix mixes pairs of views, items and labels alike.
    AdpMix mixes a remembered item of an old class with a new item, both as they are; where the new
    class's weights in the classifier are much longer than the old one's, the old class gets more of
    the label than of the item. Old classes are those that the task does not bring; without a list
    of these (``task.info``), those that are not in the batch.

    Arguments
    ---------
    views : Callable
        A view of a batch of features that keeps its labels, from ``speechcl.views``.
    enmix, adpmix : bool
        Whether to add these, for ablation.
    concentration : float
        ``alpha``, of the Beta distribution that weights come from.
    imbalance, floor, bonus : float
        ``kappa``, ``tau`` and ``delta``: see ``label_weight``.
    weight : float
        Of the mean loss over what is added.
    seed : int
        Decides the mixing, and nothing of what is remembered.

    Source: DualMix (arXiv 2303.07864), eq. 7 to 9. Deviates: the paper does not say how rows are
    weighed; here the replay's own loss stands, and the mean over all that is added comes on top.

    Example
    -------
    >>> from speechcl.methods import ER, Chain
    >>> from speechcl.views import spectrogram_views
    >>> Chain([ER(capacity=100, online=True), DualMix(spectrogram_views())]).structure()
    {'methods': [{'kept': {}}, {}]}
    """

    def __init__(
        self,
        views: AnyView,
        enmix: bool = True,
        adpmix: bool = True,
        concentration: float = 0.2,
        imbalance: float = 2.0,
        floor: float = 0.5,
        bonus: float = 0.05,
        weight: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if concentration <= 0 or weight < 0:
            raise ValueError(
                f"concentration is {concentration} and weight {weight}: the first must be above 0, "
                "the second not below"
            )
        self.views, self.enmix, self.adpmix = views, enmix, adpmix
        self.concentration, self.weight = concentration, weight
        self.label_options = {"imbalance": imbalance, "floor": floor, "bonus": bonus}
        self.draws = Draws(seed + 1)
        self.pairs: Tensor  # of old and new items; those whose label was moved
        self.register_buffer("pairs", torch.zeros(2, dtype=torch.int64))
        self._added: tuple[int, Tensor] | None = None  # where own items begin, their shares

    def before_batch(self, step: Step) -> Any:
        """Append views and mixtures of the remembered items that the batch has."""
        own = size(step.incoming)
        old = everywhere(rows(step.batch, slice(own, None)))
        if not size(old):
            return step.batch
        batch = {**step.batch, "features": as_float(step.batch["features"])}
        old = _in_order({**old, "features": as_float(old["features"])})
        new = everywhere(step.incoming)
        new["features"] = as_float(new["features"])
        parts = self._parts(step, old, new)
        added = {name: torch.cat([items[name] for items, _ in parts]) for name in old}
        mine = my_rows({**added, "shares": torch.cat([shares for _, shares in parts])})
        self._added = size(batch), mine.pop("shares")
        return join(batch, mine)

    def loss(self, step: Step) -> Tensor:
        """Return the loss of the items before, plus the mean over those that were added."""
        assert step.task_loss is not None
        if self._added is None:
            return step.task_loss()
        first, shares = self._added
        self._added = None
        brain, outputs = step.brain, rows(step.outputs, slice(first, None))
        return sum_of_means(
            [
                (1.0, first, step.task_loss),
                (self.weight, len(shares), lambda: brain.soft_loss(outputs, shares)),
            ]
        )

    def after_task(self, task: Task, engine: Engine) -> None:
        """Note how often the classifier was found out of balance."""
        pairs, moved = self.pairs.tolist()
        engine.folder.event("adpmix", task=task.name, pairs=pairs, moved=moved)
        self.pairs.zero_()

    def _parts(self, step: Step, old: dict, new: dict) -> list[tuple[dict, Tensor]]:
        """Return the items of each kind with their shares of classes, for all processes."""
        draws = self.draws.next()
        classes = _classes(step)
        shares = functional.one_hot(old["label"], classes).float()
        parts = [({**old, "features": self.views(old["features"], draws)}, shares)]
        if self.enmix:
            changed = self.views(old["features"], draws)
            weight = beta(self.concentration, size(old), draws).to(changed.device)
            partner = torch.randperm(size(old), generator=draws).to(changed.device)
            mixed, mixed_shares = enmix(changed, shares, weight, partner)
            parts.append(({**old, "features": mixed}, mixed_shares))
        if self.adpmix:
            chosen = self._of_old_classes(step, old["label"], new["label"])
            count = len(chosen)
            weight = beta(self.concentration, count, draws).to(chosen.device)
            partner = torch.randint(size(new), (count,), generator=draws).to(chosen.device)
            a = {name: value[chosen] for name, value in old.items()}
            b = {name: value[partner] for name, value in new.items()}
            ratio = length_ratio(step.modules, classes, b["label"], a["label"])
            label = label_weight(weight, ratio, **self.label_options)
            self.pairs += torch.tensor([count, int((label > weight).sum())]).to(self.pairs.device)
            new_shares = functional.one_hot(b["label"], classes).float()
            mixed, mixed_shares = adpmix(
                a["features"], b["features"], shares[chosen], new_shares, weight, label
            )
            parts.append(({**a, "features": mixed}, mixed_shares))
        return parts

    def _of_old_classes(self, step: Step, labels: Tensor, new_labels: Tensor) -> Tensor:
        """Return the places of remembered items whose class the task does not bring."""
        names = step.task.info.get("classes")
        if names is None:
            current = new_labels.unique()
        else:
            places = step.task.train.classes.places(names)  # type: ignore[attr-defined]
            current = torch.tensor(places, device=labels.device)
        return (~torch.isin(labels, current)).nonzero().flatten()


def enmix(
    augmented: Tensor, targets: Tensor, weight: Tensor, partner: Tensor
) -> tuple[Tensor, Tensor]:
    """Mix items of a batch and their shares of classes alike.

    Arguments
    ---------
    augmented : Tensor
        Shape (batch, ...).
    targets : Tensor
        Shares of classes, shape (batch, classes).
    weight : Tensor
        The share of the item itself, shape (batch,).
    partner : Tensor
        Whom each is mixed with, shape (batch,).

    Returns
    -------
    tuple
        Items and shares, of the same shapes.

    Source: DualMix (arXiv 2303.07864), eq. 7.

    Example
    -------
    >>> items, shares = enmix(torch.tensor([[0.0], [4.0]]), torch.eye(2),
    ...                       torch.tensor([0.75, 0.75]), torch.tensor([1, 0]))
    >>> items.flatten(), shares
    (tensor([1., 3.]), tensor([[0.7500, 0.2500],
            [0.2500, 0.7500]]))
    """
    return _mix(augmented, augmented[partner], weight), _mix(targets, targets[partner], weight)


def adpmix(
    old: Tensor,
    new: Tensor,
    old_targets: Tensor,
    new_targets: Tensor,
    weight: Tensor,
    label_weight: Tensor,
) -> tuple[Tensor, Tensor]:
    """Mix old items with new ones, where labels may lean more to the old than items do.

    Arguments
    ---------
    old, new : Tensor
        Shape (batch, ...).
    old_targets, new_targets : Tensor
        Shares of classes, shape (batch, classes).
    weight, label_weight : Tensor
        The old item's part of the item and of the label, shape (batch,).

    Returns
    -------
    tuple
        Items and shares, of the same shapes.

    Source: DualMix (arXiv 2303.07864), eq. 8 and 9.

    Example
    -------
    >>> old, new, share = torch.ones(1, 1), torch.zeros(1, 1), torch.eye(2)
    >>> adpmix(old, new, share[:1], share[1:], torch.tensor([0.6]), torch.tensor([0.7]))
    (tensor([[0.6000]]), tensor([[0.7000, 0.3000]]))
    """
    return _mix(old, new, weight), _mix(old_targets, new_targets, label_weight)


def label_weight(
    weight: Tensor, ratio: Tensor, imbalance: float = 2.0, floor: float = 0.5, bonus: float = 0.05
) -> Tensor:
    """Give the old class more of the label where the new one's weights are much longer.

    Arguments
    ---------
    weight : Tensor
        The old item's part of the item, shape (batch,).
    ratio : Tensor
        Length of the new class's weights over that of the old one's, shape (batch,).
    imbalance : float
        Ratios above it count as out of balance.
    floor : float
        Only labels of which the old class has more than this are moved.
    bonus : float
        What is added, times the ratio; no label has more than 1.

    Returns
    -------
    Tensor
        Shape (batch,), never below ``weight``.

    Source: DualMix (arXiv 2303.07864), eq. 9.

    Example
    -------
    >>> label_weight(torch.tensor([0.6, 0.6, 0.5]), torch.tensor([2.01, 2.0, 9.0]))
    tensor([0.7005, 0.6000, 0.5000])
    """
    moved = (weight + bonus * ratio).clamp_max(1.0)
    return torch.where((ratio > imbalance) & (weight > floor), moved, weight)


@torch.no_grad()
def length_ratio(modules: nn.Module, classes: int, new: Tensor, old: Tensor) -> Tensor:
    """Return how much longer the classifier's weights of one class are than another's.

    Arguments
    ---------
    modules : nn.Module
        The last linear layer in it with an output for every class is the classifier. If there is
        none, as in a detector with one output, all classes count as equally long.
    classes : int
        Number of classes.
    new, old : Tensor
        Classes, shape (batch,).

    Returns
    -------
    Tensor
        Shape (batch,).

    Example
    -------
    >>> head = nn.Linear(2, 2)
    >>> _ = head.weight.data.copy_(torch.tensor([[3.0, 4.0], [0.0, 2.0]]))
    >>> length_ratio(head, 2, torch.tensor([0]), torch.tensor([1]))
    tensor([2.5000])
    """
    layers = [one for one in modules.modules() if isinstance(one, nn.Linear)]
    heads = [one for one in layers if one.out_features == classes]
    if not heads:
        return torch.ones(len(new), device=new.device)
    length = heads[-1].weight.norm(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
    return length[new] / length[old]


def _in_order(items: dict[str, Tensor]) -> dict[str, Tensor]:
    """Order items by what they hold, so that it does not matter which process held which."""
    flat = items["features"].flatten(1).double()
    key = flat @ torch.arange(1, flat.shape[1] + 1, device=flat.device).double().cos()
    order = key.argsort(stable=True)
    return {name: value[order] for name, value in items.items()}


def _classes(step: Step) -> int:
    data: Any = step.task.train
    return len(data.classes.names)


def _mix(one: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    share = weight.to(one.dtype).view(-1, *[1] * (one.ndim - 1))
    return share * one + (1 - share) * other
