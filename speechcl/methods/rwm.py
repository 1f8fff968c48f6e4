"""RWM, radian weight modification: the angle between old and new is read off the batch."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from speechcl.memory import Projector
from speechcl.method import Step
from speechcl.methods.projection import GradientProjection
from speechcl.parallel import gather
from speechcl.task import Task

if TYPE_CHECKING:
    from speechcl.engine import Engine

logger = logging.getLogger(__name__)


class RWM(GradientProjection):
    """Turn each gradient between what is new to a layer and what it knows.

    Genuine speech looks alike in every data set, so the more a batch is about it (a *compact*
    class), the more the update may go along what the layer has seen; spoofed speech differs from
    attack to attack, so for it the update stays orthogonal. One angle a batch, from the network's
    own confidence; see ``angle``. No old audio is kept.

    Arguments
    ---------
    alpha, layers
        As in GradientProjection.
    compact : collection of int or "auto"
        The compact classes. ``auto`` measures after each task which classes are compact: those
        whose mean pairwise cosine distance of features is below the mean over classes.
    mode : "rls" or "official"
        ``official`` is the released code's update, for comparison only: P is overwritten by its
        normalised copy, Q is ``I - P (P'P)^-1 P'`` (zero up to rounding), beta = tan(angle) is
        capped at 100, and the first task is not absorbed. It still has the scalar denominator.

    Source: Zhang, Yi, Wang, Zhang, Zeng, Tao, "What to remember: self-adaptive continual learning
    for audio deepfake detection", AAAI 2024; equations from the released code. Deviates (``rls``):
    R = |P| (cos(angle) P/|P| + sin(angle) Q/|Q|) with Q = I - P, the released R = P/|P| +
    tan(angle) Q/|Q| times cos(angle) |P|: the same direction, but finite at pi/2; and absorption
    starts with the first task. The released plug-in divides by an outer product, skips every task
    when tasks are trained one call each, and looks for a parameter named ``module.weight`` only,
    so as released it is plain fine-tuning.

    Example
    -------
    >>> RWM(compact=[1]).structure()
    {'widths': {}, 'sums': [0, 0]}
    """

    def __init__(
        self,
        alpha: float = 1.0,
        layers: Sequence[str] = ("*",),
        compact: Collection[int] | Literal["auto"] = (1,),
        mode: Literal["rls", "official"] = "rls",
    ) -> None:
        super().__init__(alpha, layers)
        if mode not in ("rls", "official"):
            raise ValueError(f"mode is {mode!r}: use 'rls', or 'official' for comparison")
        self.compact, self.mode = compact, mode
        self.class_sums: Tensor
        self.class_counts: Tensor
        self.register_buffer("class_sums", torch.zeros(0, 0, dtype=torch.float64))
        self.register_buffer("class_counts", torch.zeros(0, dtype=torch.float64))

    def structure(self) -> dict:
        """Widths of the projectors, classes and features of the running sums."""
        return {**super().structure(), "sums": list(self.class_sums.shape)}

    def build(self, modules: nn.ModuleDict, structure: dict) -> None:
        """Make projectors and running sums."""
        super().build(modules, structure)
        if list(self.class_sums.shape) != structure.get("sums", list(self.class_sums.shape)):
            self.class_sums = self.class_sums.new_zeros(structure["sums"])
            self.class_counts = self.class_counts.new_zeros(structure["sums"][0])

    def absorb(self, step: Step) -> None:
        """Absorb the batch; the official mode forgets the first task and the scale of P."""
        if self.mode == "rls":
            super().absorb(step)
        elif step.task.index > 0:
            super().absorb(step)
            for projector in self.projectors.values():
                projector.away /= torch.linalg.matrix_norm(projector.away)

    def angle(self, step: Step) -> Tensor:
        """Return the angle of the whole batch, over all processes."""
        brain = step.brain
        logits = gather(brain.logits(step.outputs))
        return angle(logits, gather(brain.targets(step.batch)), self.compact_classes())

    def rotate(self, projector: Projector, grad: Tensor, angle: float) -> Tensor:
        """Rotate one layer's gradient as the mode says."""
        if self.mode == "official":
            return grad @ official_matrix(projector.matrix(), angle).T.to(grad.dtype)
        return super().rotate(projector, grad, angle)

    def after_task(self, task: Task, engine: Engine) -> None:
        """Update the running sums of features, if the groups are measured."""
        if self.compact != "auto":
            return
        for sums, counts in engine.collect(task, _batch_sums):
            if self.class_sums.numel() == 0:
                self.build(engine.modules, {**self.structure(), "sums": list(sums.shape)})
            self.class_sums += sums.to(self.class_sums.device)
            self.class_counts += counts.to(self.class_counts.device)
        distances = distances_from_sums(self.class_sums, self.class_counts)
        logger.info("in-class cosine distance: %s, compact: %s", distances, self.compact_classes())

    def compact_classes(self) -> set[int]:
        """Return the compact classes, given or measured."""
        if self.compact != "auto":
            return {int(c) for c in self.compact}
        return compact_of(distances_from_sums(self.class_sums, self.class_counts))


def angle(logits: Tensor, labels: Tensor, compact: set[int]) -> Tensor:
    """Compute the rotation angle of a batch.

    ``s`` is the softmax over the *batch* of the correct-class logits; each item adds or subtracts
    half of ``arcsin(s)`` to pi/4, as its class is compact or spread out. 0 is orthogonal to old
    inputs, pi/2 along them.

    Arguments
    ---------
    logits : Tensor
        Shape (batch, classes).
    labels : Tensor
        Shape (batch,), the correct classes.
    compact : set of int
        The compact classes; all others are spread out.

    Returns
    -------
    Tensor
        A scalar in [0, pi/2]; no gradient flows through it.

    Source: RWM, released code.

    Example
    -------
    >>> angle(torch.zeros(2, 2), torch.tensor([0, 1]), compact={1})  # balanced: pi/4
    tensor(0.7854)
    """
    correct = logits.detach().float().gather(1, labels[:, None].long())[:, 0]
    turn = torch.arcsin(torch.softmax(correct, dim=0).clamp(max=1.0))
    members = torch.tensor(sorted(compact), device=labels.device, dtype=labels.dtype)
    sign = torch.isin(labels, members).to(turn.dtype) * 2 - 1
    return (math.pi / 4 + 0.5 * (sign * turn).sum()).clamp(0.0, math.pi / 2)


def class_distance(features: Tensor, labels: Tensor) -> dict[int, float]:
    """Compute the mean pairwise cosine distance within each class, in one pass.

    Arguments
    ---------
    features : Tensor
        Shape (items, width).
    labels : Tensor
        Shape (items,).

    Returns
    -------
    dict
        Class -> distance, for classes with two items or more.

    Source: RWM's abstract names in-class cosine distance; the formula is its plain definition.

    Example
    -------
    >>> class_distance(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([1, 1]))
    {1: 1.0}
    """
    return distances_from_sums(*_sums(features, labels, int(labels.max()) + 1))


def distances_from_sums(sums: Tensor, counts: Tensor) -> dict[int, float]:
    """Compute ``class_distance`` from the sum of unit features and the count of each class.

    Example
    -------
    >>> distances_from_sums(torch.tensor([[2.0, 0.0]]), torch.tensor([2.0]))
    {0: 0.0}
    """
    pairs = counts * (counts - 1)
    distances = 1 - (sums.square().sum(1) - counts) / pairs
    return {c: float(distances[c]) for c in range(len(counts)) if counts[c] > 1}


def compact_of(distances: dict[int, float]) -> set[int]:
    """Return the classes whose distance is below the mean over classes; ties are spread out.

    Example
    -------
    >>> compact_of({0: 0.5, 1: 0.1})
    {1}
    """
    mean = sum(distances.values()) / max(len(distances), 1)
    return {c for c, distance in distances.items() if distance < mean}


def official_matrix(away: Tensor, angle: float, cap: float = 100.0) -> Tensor:
    """Build the released code's R = P/|P| + tan(angle) Q/|Q|, for comparison.

    Arguments
    ---------
    away : Tensor
        P, shape (n, n).
    angle : float
        In [0, pi/2].
    cap : float
        Largest tan(angle).

    Example
    -------
    >>> official_matrix(torch.eye(2), 0.0)
    tensor([[0.7071, 0.0000],
            [0.0000, 0.7071]])
    """
    identity = torch.eye(len(away), dtype=away.dtype, device=away.device)
    along = identity - away @ torch.linalg.solve(away.T @ away, away.T)
    norm = torch.linalg.matrix_norm(along).clamp_min(torch.finfo(along.dtype).tiny)
    beta = min(math.tan(angle), cap) if angle < math.pi / 2 else cap
    return away / torch.linalg.matrix_norm(away) + beta * along / norm


def _sums(features: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    unit = nn.functional.normalize(features.double(), dim=1)
    member = nn.functional.one_hot(labels.long(), classes).double()
    return member.T @ unit, member.sum(0)


def _batch_sums(brain, batch) -> tuple[Tensor, Tensor]:
    outputs = brain.compute_forward(batch, None)
    classes = brain.logits(outputs).shape[1]
    return _sums(brain.features(outputs), brain.targets(batch), classes)
