"""A replay that dwells on classes whose prototypes are close."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from speechcl.memory import Buffer
from speechcl.memory.draws import beta
from speechcl.views import as_float

_LEAST_DISTANCE = 1e-2  # closer prototypes count as so far apart


@dataclass(frozen=True)
class Replayed:
    """Items to replay, each mixed from two: ``weight`` of it is the second's.

    Features have shape (items, ...), the classes of both and ``weight`` shape (items,).
    """

    features: Tensor
    first: Tensor
    second: Tensor
    weight: Tensor

    def shares(self, classes: int) -> Tensor:
        """Return how much each item belongs to each class, shape (items, classes)."""
        one, other = (functional.one_hot(k, classes) for k in (self.first, self.second))
        return (1 - self.weight[:, None]) * one + self.weight[:, None] * other

    def own_labels(self, classes: int) -> Tensor:
        """Return the class of items that are not mixed, and a class of its own for any other."""
        own = classes + torch.arange(len(self.first), device=self.first.device)
        return torch.where(self.weight > 0, own, self.first)


@dataclass(frozen=True)
class Feedback:
    """Replay what is drawn, mixed at times, and for a part of it mixed pairs of close classes.

    Arguments
    ---------
    share : float
        Part of the replay that comes from pairs of classes, ``alpha``; 0.25 for ten classes, 0.1
        for a hundred.
    mixing : float
        Probability of mixing a pair; other items are mixed with its square, as the released code
        comes to.
    concentration : float
        Of the Beta distribution that the weights in pairs come from.
    most : float
        Greatest weight of the second in other mixed items, which is uniform.

    Raises
    ------
    ValueError
        If one is out of its range.

    Source: adaptive prototypical feedback of OnPro (arXiv 2308.00301), released code. Deviates:
    distances below 0.01 count as 0.01, since their inverse would be without bound; one gate an
    item where two libraries' gates multiply.

    Example
    -------
    >>> Feedback(share=0.1, mixing=0.2).most
    0.6
    """

    share: float = 0.25
    mixing: float = 0.6
    concentration: float = 0.4
    most: float = 0.6

    def __post_init__(self) -> None:
        """Refuse what is no share."""
        for name in ("share", "mixing", "most"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give a number from 0 to 1")
        if self.concentration <= 0:
            raise ValueError(f"concentration is {self.concentration}: give one above 0")

    def replay(
        self,
        memory: Buffer,
        drawn: dict[str, Tensor],
        classes: Tensor,
        means: Tensor,
        draws: torch.Generator,
    ) -> Replayed:
        """Build the batch to replay.

        Arguments
        ---------
        memory : Buffer
            Where pairs are drawn from.
        drawn : dict
            Items drawn at random, whose number is that of the result.
        classes : Tensor
            Of the step before, shape (known,).
        means : Tensor
            Their prototypes, shape (known, width).
        draws : torch.Generator
            Of all chance.
        """
        size = len(drawn["label"])
        paired = size - int(size * (1 - self.share)) if len(classes) > 1 else 0
        base = self._base(drawn, size - paired, draws)
        if not paired:
            return base
        pairs, chance = pair_probabilities(means)
        counts = allot(chance, paired, draws).to(classes.device)
        here = torch.isin(classes, memory.labels())
        if not bool(here.all()):  # a class of which nothing is left: any other one
            there = classes[here]
            chosen = torch.randint(len(there), classes.shape, generator=draws).to(classes.device)
            classes = torch.where(here, classes, there[chosen])
        chosen = pairs.to(classes.device).repeat_interleave(counts, 0)
        first, second = classes[chosen].T.contiguous()
        gate = torch.rand(len(pairs), generator=draws) < self.mixing  # one a pair
        weight = beta(self.concentration, paired, draws).to(classes.device)
        weight = weight * gate.to(classes.device).repeat_interleave(counts)
        one, other = memory.sample_of(first), memory.sample_of(second)
        mixed = _mixed(as_float(one["features"]), as_float(other["features"]), weight)
        return Replayed(
            torch.cat([base.features, mixed]),
            torch.cat([base.first, first]),
            torch.cat([base.second, second]),
            torch.cat([base.weight, weight]),
        )

    def _base(self, drawn: dict[str, Tensor], count: int, draws: torch.Generator) -> Replayed:
        device = drawn["label"].device
        chosen = torch.randperm(len(drawn["label"]), generator=draws)[:count].to(device)
        features, labels = drawn["features"][chosen], drawn["label"][chosen]
        partner = torch.randperm(count, generator=draws).to(device)
        gate = torch.rand(count, generator=draws) < self.mixing**2
        weight = (self.most * torch.rand(count, generator=draws) * gate).to(device)
        mixed = _mixed(features, features[partner], weight)
        return Replayed(mixed, labels, labels[partner], weight)


def pair_probabilities(means: Tensor) -> tuple[Tensor, Tensor]:
    """Return all pairs of prototypes and how likely each is: the closer, the likelier.

    Arguments
    ---------
    means : Tensor
        Shape (classes, width).

    Returns
    -------
    tuple
        Pairs of places (pairs, 2), and probabilities (pairs,): the softmax of one over the
        distance.

    Example
    -------
    >>> pairs, chance = pair_probabilities(torch.tensor([[0.0], [0.5], [1.5]]))
    >>> pairs.tolist(), [round(float(one), 3) for one in chance]
    ([[0, 1], [0, 2], [1, 2]], [0.613, 0.162, 0.225])
    """
    one, other = torch.triu_indices(len(means), len(means), offset=1, device=means.device)
    distance = (means[one] - means[other]).norm(dim=1).clamp_min(_LEAST_DISTANCE)
    return torch.stack([one, other], 1), (1 / distance).softmax(0)


def allot(chance: Tensor, total: int, draws: torch.Generator) -> Tensor:
    """Divide a number of items among pairs by their probability, in whole numbers.

    What rounding leaves over or lacks is given to or taken from random pairs.

    Example
    -------
    >>> counts = allot(torch.tensor([0.5, 0.3, 0.2]), 10, torch.Generator())
    >>> counts
    tensor([5, 3, 2])
    """
    counts = (chance.cpu() * total).round().long()
    missing = total - int(counts.sum())
    if missing > 0:
        lucky = torch.randint(len(counts), (missing,), generator=draws)
        return counts + lucky.bincount(minlength=len(counts))
    held = torch.arange(len(counts)).repeat_interleave(counts)
    dropped = held[torch.randperm(len(held), generator=draws)[: abs(missing)]]
    return counts - dropped.bincount(minlength=len(counts))


def _mixed(one: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    share = weight.to(one.dtype).view(-1, *[1] * (one.ndim - 1))
    return (1 - share) * one + share * other
