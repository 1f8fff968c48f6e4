"""A weight cut at its singular values: what is protected, what may change, and how much of each.

A weight has shape (.., out, in). Leading dimensions hold independent weights, such as the groups of
a convolution. U are the directions of its outputs, V those of its inputs.

Source: Nayak et al., "Sculpting subspaces: constrained full fine-tuning in LLMs for continual
learning", arXiv 2504.07097 (OSFT).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

logger = logging.getLogger(__name__)

# below this share of the largest singular value, dividing by one costs V its orthonormality: the
# Gram matrix squares the condition, and fp64 has 16 digits
SAFE_TO_DIVIDE = 1e-4
# from this share of protected directions on, projecting on the free ones takes fewer operations,
# as the matrix gets smaller on the way: (n - k) (n + k) < 2 k n
FREE_IS_CHEAPER = 2**0.5 - 1
ROUNDING = 1e-9  # 0.29 * 100 is 28.999999999999996


class Basis(NamedTuple):
    """Orthonormal columns (.., n, r) that span a side's protected directions, or all others."""

    columns: Tensor
    protected: bool

    def free(self, matrix: Tensor) -> Tensor:
        """Return the part of the columns of (.., n, m) that lies outside what is protected."""
        inside = self.columns @ (self.columns.mT @ matrix)
        return matrix - inside if self.protected else inside

    def free_rows(self, matrix: Tensor) -> Tensor:
        """Return the part of the rows of (.., m, n) that lies outside what is protected."""
        inside = (matrix @ self.columns) @ self.columns.mT
        return matrix - inside if self.protected else inside

    def other(self) -> Basis:
        """Swap what is protected and what is free."""
        return self._replace(protected=not self.protected)


class Split(NamedTuple):
    """The singular value decomposition of a weight, cut after the ``preserved`` largest values.

    Example
    -------
    >>> cut = split(torch.diag(torch.tensor([1.0, 3.0, 2.0])), preserved=1)
    >>> cut.s_high, cut.s_low
    (tensor([3.]), tensor([2., 1.]))
    >>> u_free, v_free = cut.complements()
    >>> float((u_free.mT @ cut.u_high).abs().max())
    0.0
    """

    u_high: Tensor  # (.., out, k)
    s_high: Tensor  # (.., k)
    v_high: Tensor  # (.., k, in), right vectors are rows
    u_low: Tensor  # (.., out, rank - k)
    s_low: Tensor
    v_low: Tensor

    def complements(self) -> tuple[Tensor, Tensor]:
        """Return all directions orthogonal to U_high, (.., out, out - k), and to V_high, as rows.

        Any ``u_free @ core @ v_free`` changes the weight without touching what is protected, and
        every such change can be written so.
        """
        return (
            _complement(self.u_high, self.u_low),
            _complement(self.v_high.mT, self.v_low.mT).mT,
        )

    def bases(self) -> tuple[Basis, Basis]:
        """Return the basis of each side, outputs first, with which ``project`` is cheaper."""
        return _cheaper(self.u_high, self.u_low), _cheaper(self.v_high.mT, self.v_low.mT)


def _complement(high: Tensor, low: Tensor) -> Tensor:
    """Return columns that complete ``high``: those of ``low`` if they do, else computed ones.

    The latter are the last columns of an orthogonal matrix of which ``high`` are the first, up to
    signs: identity - x T x', which takes a QR of k rows where a complete one takes all (Sun &
    Bischof, "A basis-kernel representation of orthogonal matrices", SIAM J. Matrix Anal. 1995).
    """
    n, k = high.shape[-2:]
    if k + low.shape[-1] == n:
        return low
    top, bottom = high.split([k, n - k], dim=-2)
    q, r = torch.linalg.qr(top)
    signs = _signs(r.diagonal(dim1=-2, dim2=-1))
    r.diagonal(dim1=-2, dim2=-1).add_(signs)  # away from zero, so solving with it is safe
    x = torch.cat([q @ r, bottom], dim=-2) * signs[..., None, :]
    rest = x @ torch.linalg.solve_triangular(r.mT, bottom.mT, upper=False).neg_()
    rest[..., k:, :].diagonal(dim1=-2, dim2=-1).add_(1)
    return rest


def _signs(values: Tensor) -> Tensor:
    """Return -1 for what is negative, else 1."""
    return torch.where(values < 0, -1.0, 1.0).to(values.dtype)


def _cheaper(high: Tensor, low: Tensor) -> Basis:
    protected = high.shape[-1] <= FREE_IS_CHEAPER * high.shape[-2]
    return Basis(high if protected else _complement(high, low), protected)


@torch.no_grad()
def split(weight: Tensor, preserved: int) -> Split:
    """Cut a weight after its largest singular values.

    Arguments
    ---------
    weight : Tensor
        Shape (.., out, in).
    preserved : int
        ``k``, how many singular directions are protected; from 1 to the rank less one.

    Returns
    -------
    Split
        In fp32, or fp64 if the weight is.

    Raises
    ------
    ValueError
        If nothing would be protected or nothing left to train, or the weight is not finite.

    Source: arXiv 2504.07097, section 3. Deviates: the vectors of the shorter side are those of the
    Gram matrix, in fp64; the other side follows by division, or by QR where a singular value is too
    small for that. For wide weights this is faster than an SVD, and closer to the fp64 result.

    Example
    -------
    >>> weight = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    >>> cut = split(weight, preserved=1)
    >>> cut.u_low * cut.s_low @ cut.v_low
    tensor([[0., 0., 0.],
            [0., 1., 0.]])
    """
    rank = min(weight.shape[-2:])
    if not 0 < preserved < rank:
        raise ValueError(
            f"preserved is {preserved} for a weight of shape {tuple(weight.shape)}: "
            f"protect from 1 to {rank - 1} directions, or leave the layer out"
        )
    if not torch.isfinite(weight).all():
        raise ValueError(f"a weight of shape {tuple(weight.shape)} is not finite: mend the model")
    exact = weight.double()
    if weight.shape[-2] <= weight.shape[-1]:
        u, s, v = _decompose_wide(exact)
    else:
        v, s, u = _decompose_wide(exact.mT)
        u, v = u.mT, v.mT
    u, s, v = (part.to(torch.promote_types(weight.dtype, torch.float32)) for part in (u, s, v))
    k = preserved
    return Split(u[..., :k], s[..., :k], v[..., :k, :], u[..., k:], s[..., k:], v[..., k:, :])


def _decompose_wide(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return U, S and V of a weight with no more rows than columns, largest values first."""
    squares, u = (part.flip(-1) for part in torch.linalg.eigh(weight @ weight.mT))
    scaled = u.mT @ weight  # its rows are those of V times S
    if (squares[..., -1] > SAFE_TO_DIVIDE**2 * squares[..., 0]).all():
        s = squares.sqrt()
        return u, s, scaled / s[..., None]
    # rows come in falling order, so the large ones, that are exact, are orthogonalised first
    q, r = torch.linalg.qr(scaled.mT)
    s = r.diagonal(dim1=-2, dim2=-1)
    return u, s.abs(), (q * _signs(s)[..., None, :]).mT


def project(update: Tensor, out: Basis, into: Basis, projection: str = "two_sided") -> Tensor:
    """Remove what would touch protected directions from a change of a weight, or its gradient.

    Arguments
    ---------
    update : Tensor
        Shape (.., out, in).
    out, into : Basis
        Of the outputs and of the inputs, from ``Split.bases``.
    projection : str
        ``two_sided`` keeps ``(I - P_U) Z (I - P_V)``. ``paper_eq`` only removes ``P_U Z P_V``, so
        the answers to protected inputs do change.

    Returns
    -------
    Tensor
        Same shape.

    Source: arXiv 2504.07097; its equation is ``paper_eq``, its released code is two-sided.

    Example
    -------
    >>> out, into = split(torch.diag(torch.tensor([3.0, 1.0])), preserved=1).bases()
    >>> project(torch.ones(2, 2), out, into)
    tensor([[0., 0.],
            [0., 1.]])
    >>> project(torch.ones(2, 2), out, into, projection="paper_eq")
    tensor([[0., 1.],
            [1., 1.]])
    """
    if projection == "paper_eq":
        return update - _free(update, out.other(), into.other())
    if projection != "two_sided":
        raise ValueError(f"projection is {projection!r}: use 'two_sided' or 'paper_eq'")
    return _free(update, out, into)


def _free(update: Tensor, out: Basis, into: Basis) -> Tensor:
    """Apply both projectors, in the order that soonest makes the matrix small."""
    if not out.protected:
        return out.columns @ into.free_rows(out.columns.mT @ update)
    if not into.protected:
        return out.free(update @ into.columns) @ into.columns.mT
    return into.free_rows(out.free(update))


def project_factors(
    u_low: Tensor, v_low: Tensor, u_high: Tensor, v_high: Tensor
) -> tuple[Tensor, Tensor]:
    """Remove the protected directions from trained factors, or from their gradients.

    Adam scales by element, which turns a projected gradient into a step that is not: with it, the
    factors themselves must be projected after every step.

    Arguments
    ---------
    u_low, v_low : Tensor
        The factors or their gradients, (.., out, r) and (.., r, in).
    u_high, v_high : Tensor
        What is protected, (.., out, k) and (.., k, in).

    Returns
    -------
    tuple
        Both, projected.

    Source: released code of arXiv 2504.07097; the projection after the step is mini_trainer's.

    Example
    -------
    >>> cut = split(torch.diag(torch.tensor([3.0, 1.0])), preserved=1)
    >>> u, v = project_factors(torch.ones(2, 1), torch.ones(1, 2), cut.u_high, cut.v_high)
    >>> u @ v
    tensor([[0., 0.],
            [0., 1.]])
    """
    out, into = Basis(u_high, protected=True), Basis(v_high.mT, protected=True)
    return out.free(u_low), into.free_rows(v_low)


class LayerImportance:
    """Mean cosine between what goes into a layer and what comes out, over all rows it has seen.

    Where the two differ in width the first ``min(out, in)`` coordinates are compared. Sums, over
    processes say, are of ``total`` and ``count``.

    Arguments
    ---------
    weight : Tensor
        Shape (.., out, in); a bias has no part in it.

    Source: arXiv 2504.07097, section 3; the rule for unequal widths is that of the released code,
    which keeps all activations where this keeps two numbers.

    Example
    -------
    >>> importance = LayerImportance(torch.tensor([[1.0, 0.0], [0.0, -1.0]]))
    >>> importance.add(torch.tensor([[2.0, 0.0], [0.0, 1.0], [5.0, 0.0]]))
    >>> round(importance.mean(), 4)
    0.3333
    """

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight.detach()
        self.total = torch.zeros((), dtype=torch.float64, device=weight.device)
        self.count = 0

    @torch.no_grad()
    def add(self, inputs: Tensor) -> None:
        """Add rows of inputs, (.., in); for a stack of weights (groups, rows, in)."""
        width = min(self.weight.shape[-2:])
        inputs = inputs.to(self.weight.dtype)
        outputs = inputs @ self.weight[..., :width, :].mT
        cosines = functional.cosine_similarity(inputs[..., :width], outputs, dim=-1)
        self.total += cosines.sum(dtype=torch.float64)
        self.count += cosines.numel()

    def mean(self) -> float:
        """Return the mean cosine of all rows, in [-1, 1].

        Raises
        ------
        ValueError
            If there were none.
        """
        if self.count == 0:
            raise ValueError(
                "a layer heard no input, so its importance is unknown: leave it out of the targets"
            )
        return float(self.total) / self.count


def relative_importance(importance: Mapping[str, float]) -> dict[str, float]:
    """Divide the importance of each layer by their mean.

    Where the mean is not positive a quotient would turn the order around, so every layer counts
    as 1, with a warning. Just above 0 quotients are huge, and layers fall to either limit of
    ``preserved_rank``; a policy that goes by the task alone does not depend on them.

    Source: arXiv 2504.07097, section 3; deviates: what happens without a positive mean.

    Example
    -------
    >>> relative_importance({"first": 0.75, "second": 0.25})
    {'first': 1.5, 'second': 0.5}
    """
    mean = sum(importance.values()) / len(importance)
    if not mean > 0:  # nor where a layer heard what is not finite
        logger.warning(
            "the mean cosine of inputs and outputs is %.3f, so layers count as equally important",
            mean,
        )
        return dict.fromkeys(importance, 1.0)
    return {name: one / mean for name, one in importance.items()}


def preserved_rank(
    importance: float, rank: int, min_ratio: float = 0.1, target_ratio: float = 0.8
) -> int:
    """Return how many singular directions of a layer to protect.

    Arguments
    ---------
    importance : float
        Of the layer, relative to the mean; any number.
    rank : int
        The smaller side of its weight.
    min_ratio, target_ratio : float
        Share protected at an importance of 0 and of 1.

    Returns
    -------
    int
        From 1 to ``rank - 1``.

    Raises
    ------
    ValueError
        If ``rank`` is below 2.

    Source: arXiv 2504.07097, section 3; the limits are ours.

    Example
    -------
    >>> [preserved_rank(importance, rank=100) for importance in (-1.0, 0.0, 0.5, 1.0, 2.0)]
    [1, 10, 45, 80, 99]
    """
    if rank < 2:
        raise ValueError(f"a weight of rank {rank} cannot be split: leave the layer out")
    return _count(min_ratio + importance * (target_ratio - min_ratio), rank)


def _count(share: float, rank: int) -> int:
    return min(max(math.floor(share * rank + ROUNDING), 1), rank - 1)


@dataclass(frozen=True)
class RankPolicy:
    """How many directions of each layer are protected in each task.

    The larger of ``preserved_rank`` and of a floor that grows with the tasks: at a constant number
    what an old task put into small directions would stay unprotected.

    Arguments
    ---------
    min_ratio, target_ratio : float
        Share of the rank protected at a relative importance of 0 and of 1.
    floors : Sequence
        Least share by task; later tasks take the last. Empty for the rule of the paper.

    Source: arXiv 2504.07097, section 3; the floors are the ranks of peft's example of three tasks.

    Example
    -------
    >>> policy = RankPolicy(floors=(0.3, 0.5))
    >>> [policy.preserved(100, importance=0.1, task=task) for task in (0, 1, 2)]
    [30, 50, 50]
    >>> RankPolicy.fixed(0.75).preserved(100, importance=3.0)
    75
    """

    min_ratio: float = 0.1
    target_ratio: float = 0.8
    floors: Sequence[float] = (0.3, 0.5, 0.7)

    def __post_init__(self) -> None:
        """Check the shares."""
        if not isinstance(self.floors, Sequence) or isinstance(self.floors, str):
            raise ValueError(f"floors is {self.floors!r}: give a list of shares, one a task")
        shares = (self.min_ratio, self.target_ratio, *self.floors)
        if not all(isinstance(share, Real) and 0 <= share <= 1 for share in shares):
            raise ValueError(f"the shares of {self} must be numbers that lie in 0 to 1")
        if self.min_ratio > self.target_ratio:
            raise ValueError(
                f"min_ratio is {self.min_ratio} and target_ratio {self.target_ratio}: "
                "the more important a layer, the more of it must be protected"
            )

    @classmethod
    def fixed(cls, share: float) -> RankPolicy:
        """Protect the same share of every layer in every task."""
        return cls(share, share, ())

    @classmethod
    def progressive(cls, shares: Sequence[float]) -> RankPolicy:
        """Protect a share that goes by the task alone; later tasks take the last."""
        policy = cls(0.0, 0.0, tuple(shares) if isinstance(shares, list) else shares)
        if not shares:
            raise ValueError("shares is empty: give one a task, such as [0.3, 0.5, 0.7]")
        return policy

    @classmethod
    def growing(cls, tasks: int, largest: float = 1.0) -> RankPolicy:
        """Protect ``largest * t / tasks`` in task t, from nothing (but one direction) on."""
        if tasks < 1:
            raise ValueError(f"tasks is {tasks}: give the number of tasks, at least 1")
        return cls.progressive([largest * task / tasks for task in range(tasks)])

    def preserved(self, rank: int, importance: float = 1.0, task: int = 0) -> int:
        """Return ``k`` of a layer of this rank and relative importance in a task, from 0 on."""
        k = preserved_rank(importance, rank, self.min_ratio, self.target_ratio)
        if not self.floors:
            return k
        return max(k, _count(self.floors[min(task, len(self.floors) - 1)], rank))
