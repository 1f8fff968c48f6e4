"""Full fine-tuning of a weight outside its largest singular directions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor, nn

from speechcl.adapters.layer import Adapter, AdapterLayer, WeightShape
from speechcl.adapters.subspace import Basis, Split, preserved_rank, project, project_factors, split


@dataclass(frozen=True)
class SubspaceCore(Adapter):
    """Let a weight change only outside its largest singular directions, on both sides.

    The k largest are taken to carry what the model knows. With U_h and V_h their output and input
    directions, every change D fulfils U_h' D = 0 and D V_h' = 0, so answers to protected inputs
    stay, and no answer changes along a protected output.

    Arguments
    ---------
    preserved : float
        Share of the rank that is protected.
    by_layer : Mapping
        Instead of it, for the modules named: how many directions, counted in each group of a
        grouped convolution.
    mode : str
        "core": D = U C V with fixed complements U and V and a small trained C. The constraint
        holds under any optimizer. "dense": D is trained as a whole and must be projected after
        every step (``settle``); costs nothing in the forward pass. Take it for a weight with a very
        long side, such as the head of a language model: the complements of core are square in it.
        "factored": the small singular triples are trained, to compare with released code;
        ``settle`` likewise. Train them without weight decay, which would shrink the weight itself.
    projection : str
        "two_sided", or "paper_eq", which in dense mode only keeps D from mapping protected inputs
        to protected outputs.

    Source
    ------
    "Sculpting subspaces: constrained full fine-tuning in LLMs for continual learning", arXiv
    2504.07097 (OSFT), and its released code for the factors. Deviates: core and dense mode are
    ours. All modes can reach the same weights; their optimizer steps differ.

    Example
    -------
    >>> layer = SubspaceCore(0.5).make(WeightShape(4, 4, torch.diag(torch.arange(4.0))))
    >>> layer.core.shape  # of C; the weight has 16 numbers
    torch.Size([1, 2, 2])
    """

    preserved: float = 0.5
    by_layer: Mapping[str, int] = field(default_factory=dict)
    mode: str = "core"
    projection: str = "two_sided"

    def __post_init__(self) -> None:
        if self.mode not in _MODES:
            raise ValueError(f"mode is '{self.mode}': choose {', '.join(_MODES)}")
        if self.projection not in ("two_sided", "paper_eq"):
            raise ValueError(f"projection is '{self.projection}': choose two_sided or paper_eq")
        if self.projection == "paper_eq" and self.mode != "dense":
            raise ValueError("projection 'paper_eq' needs mode 'dense': the others are two-sided")
        if not (isinstance(self.preserved, Real) and 0 <= self.preserved < 1):
            raise ValueError(f"preserved is {self.preserved}: give a share in [0, 1) of the rank")

    def make(self, shape: WeightShape) -> SubspaceLayer:
        """Cut the weight, and return a layer that changes nothing yet."""
        rank = splittable_rank(shape)
        k = self.by_layer.get(shape.path, preserved_rank(1.0, rank, 0.0, self.preserved))
        if not (isinstance(k, Integral) and 0 < k < rank):
            raise ValueError(
                f"by_layer protects {k} directions of '{shape.path}', whose weight has rank "
                f"{rank}: give a whole number from 1 to {rank - 1}"
            )
        if not torch.isfinite(shape.like).all():
            raise ValueError(f"the weight of '{shape.path}' is not finite: mend the model")
        return self._layer(shape, k)

    def remake(self, shape: WeightShape, tensors: Mapping[str, Tensor]) -> SubspaceLayer:
        """Return a layer that protects as many directions as the saved one."""
        preserved = tensors["preserved"]
        if preserved.numel() != 1 or preserved.is_floating_point():
            raise ValueError("preserved is not a whole number")
        return self._layer(shape, int(preserved))

    def _layer(self, shape: WeightShape, preserved: int) -> SubspaceLayer:
        grouping = _Grouping(shape)
        cut = split(grouping.stack(shape.like), preserved)
        return _MODES[self.mode](grouping, cut, self.projection)


class _Grouping:
    """How a matrix falls into independent blocks, shape (groups, rows, columns)."""

    def __init__(self, shape: WeightShape) -> None:
        self.groups, self.by_columns = shape.groups, shape.by_columns
        self.dtype = shape.like.dtype
        rows, columns = shape.rows, shape.columns
        sides = (
            (rows, columns // self.groups) if self.by_columns else (rows // self.groups, columns)
        )
        self.rank = min(sides)

    def stack(self, matrix: Tensor) -> Tensor:
        if self.by_columns:
            return matrix.unflatten(1, (self.groups, -1)).movedim(1, 0)
        return matrix.unflatten(0, (self.groups, -1))

    def flat(self, stack: Tensor) -> Tensor:
        return stack.movedim(0, 1).flatten(1) if self.by_columns else stack.flatten(0, 1)


def splittable_rank(shape: WeightShape) -> int:
    """Return the rank that a weight has at most, in each of its groups.

    Raises
    ------
    ValueError
        If it is 1, naming the layer.

    Example
    -------
    >>> splittable_rank(WeightShape(8, 3, torch.zeros(8, 3), groups=4))
    2
    """
    rank = _Grouping(shape).rank
    if rank < 2:
        raise ValueError(
            f"the weight of '{shape.path}' has rank {rank}"
            f"{f' in each of its {shape.groups} groups' if shape.groups > 1 else ''}, so nothing "
            "of it can be set apart: leave it out of targets"
        )
    return rank


class SubspaceLayer(AdapterLayer):
    """What the modes have in common: one block of the weight for each group."""

    def __init__(self, grouping: _Grouping, cut: Split) -> None:
        super().__init__()
        self.groups, self.flat = grouping.groups, grouping.flat
        self.preserved: Tensor
        self.register_buffer("preserved", torch.tensor(cut.s_high.shape[-1]))
        self.is_half = grouping.dtype in (torch.float16, torch.bfloat16)

    def change(self) -> Tensor:
        """Return D, shape (rows, columns)."""
        raise NotImplementedError(f"{type(self).__name__} has no change")

    def fold(self, matrix: Tensor) -> Tensor:
        """Return W + D."""
        return matrix + self.change().to(matrix.dtype)

    def branches(self, rows_in: int) -> bool:
        """Fold, unless a mode knows better."""
        return False

    def settle_gradient(self) -> None:
        """Take out of the gradients what would touch protected directions."""

    def settle(self) -> None:
        """Take out of the weights what an optimizer step has put into protected directions."""


class CoreLayer(SubspaceLayer):
    """D = U C V, with all of C trained."""

    def __init__(self, grouping: _Grouping, cut: Split, projection: str) -> None:
        super().__init__(grouping, cut)
        u_free, v_free = cut.complements()
        self.u_free: Tensor
        self.v_free: Tensor
        self.register_buffer("u_free", u_free.contiguous())
        self.register_buffer("v_free", v_free.contiguous())
        self.core = nn.Parameter(u_free.new_zeros(len(u_free), u_free.shape[2], v_free.shape[1]))

    def change(self) -> Tensor:
        """Return U C V."""
        return self.flat(self.u_free @ self.core @ self.v_free)

    def down(self) -> Tensor:
        """Return V."""
        return self.v_free[0]

    def mix(self, z: Tensor) -> Tensor:
        """Apply C, which is cheaper here than making U C."""
        return nn.functional.linear(z, self.core[0])

    def up(self) -> Tensor:
        """Return U."""
        return self.u_free[0]

    def branches(self, rows_in: int) -> bool:
        """Compare operations, forward and backward, with those of a new weight."""
        if self.groups > 1 or self.is_half or not torch.is_grad_enabled():
            return False  # without gradients a new weight is made once and kept
        rows, n = self.u_free.shape[1:]
        m, columns = self.v_free.shape[1:]
        beside = rows_in * (2 * (columns * m + m * n + n * rows) + m * n)
        # the gradient of a new weight is dense; it then passes the two products of the change
        new = rows_in * rows * columns + 3 * (rows * n * m + rows * m * columns)
        return beside < new


class DenseLayer(SubspaceLayer):
    """D itself is trained, and projected."""

    def __init__(self, grouping: _Grouping, cut: Split, projection: str) -> None:
        super().__init__(grouping, cut)
        self.projection = projection
        out, into = cut.bases()
        self.out_protected, self.into_protected = out.protected, into.protected
        self.out_columns: Tensor
        self.into_columns: Tensor
        self.register_buffer("out_columns", out.columns.contiguous())
        self.register_buffer("into_columns", into.columns.contiguous())
        shape = (len(out.columns), out.columns.shape[1], into.columns.shape[1])
        self.weight_change = nn.Parameter(out.columns.new_zeros(shape))

    def change(self) -> Tensor:
        """Return D."""
        return self.flat(self.weight_change)

    @torch.no_grad()
    def settle(self) -> None:
        """Project D; a projected gradient would not do, as Adam scales by element."""
        out = Basis(self.out_columns, self.out_protected)
        into = Basis(self.into_columns, self.into_protected)
        self.weight_change.copy_(project(self.weight_change, out, into, self.projection))


class FactoredLayer(SubspaceLayer):
    """The small singular triples are trained; D is what they have moved."""

    def __init__(self, grouping: _Grouping, cut: Split, projection: str) -> None:
        super().__init__(grouping, cut)
        self.u_low = nn.Parameter(cut.u_low.clone())
        self.s_low = nn.Parameter(cut.s_low.clone())
        self.v_low = nn.Parameter(cut.v_low.clone())
        self.u_high: Tensor
        self.v_high: Tensor
        self.start_up: Tensor
        self.start_down: Tensor
        self.register_buffer("u_high", cut.u_high.clone())
        self.register_buffer("v_high", cut.v_high.clone())
        self.register_buffer("start_up", cut.u_low * cut.s_low[..., None, :])
        self.register_buffer("start_down", cut.v_low.clone())

    def change(self) -> Tensor:
        """Return U_l S_l V_l less its start, as one product."""
        up = torch.cat([self.u_low * self.s_low[..., None, :], -self.start_up], dim=-1)
        down = torch.cat([self.v_low, self.start_down], dim=-2)
        return self.flat(up @ down)

    @torch.no_grad()
    def settle_gradient(self) -> None:
        """Project the gradients of U_l and V_l."""
        u, v = self.u_low.grad, self.v_low.grad
        if u is None or v is None:
            return
        for grad, free in zip((u, v), self._project(u, v), strict=True):
            grad.copy_(free)

    @torch.no_grad()
    def settle(self) -> None:
        """Project U_l and V_l."""
        u, v = self._project(self.u_low, self.v_low)
        self.u_low.copy_(u)
        self.v_low.copy_(v)

    def _project(self, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return project_factors(u, v, self.u_high, self.v_high)


_MODES: dict[str, Any] = {"core": CoreLayer, "dense": DenseLayer, "factored": FactoredLayer}
