"""Rank-selective LoRA: every rank-one term of the update has a gate, and can be switched off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from speechcl.adapters.layer import (
    Adapter,
    AdapterLayer,
    WeightShape,
    check_rank,
    fresh_down,
    zero_up,
)


@dataclass(frozen=True)
class RankSelectiveLoRA(Adapter):
    """LoRA whose rank-one terms are weighed: W + B diag(w) A, with trainable gates w.

    Whoever trains it decides what makes gates zero (``rank_threshold`` has the paper's way); their
    terms add nothing. The gates start as draws from N(0, 1).

    Arguments
    ---------
    rank : int
        Rank-one terms a layer; of smaller weights, such as those of depthwise convolutions, as
        many as they have rows or columns.

    Source
    ------
    "Continual learning with dynamic rank-selective LoRA", arXiv 2412.01004. Deviates: convolutions
    are adapted as ``LoRA`` adapts them, by their weight as a matrix.

    Example
    -------
    >>> layer = RankSelectiveLoRA(rank=2).make(WeightShape(4, 3, torch.zeros(1)))
    >>> {name: tuple(tensor.shape) for name, tensor in layer.state_dict().items()}
    {'lora_down': (2, 3), 'lora_up': (4, 2), 'gates': (2,)}
    >>> torch.equal(layer.fold(torch.eye(4, 3)), torch.eye(4, 3))
    True
    """

    rank: int = 16

    def __post_init__(self) -> None:
        check_rank(self.rank)

    def make(self, shape: WeightShape) -> RankSelectiveLayer:
        """Return a fresh layer."""
        return RankSelectiveLayer(self, shape)

    def remake(self, shape: WeightShape, tensors: Mapping[str, Tensor]) -> RankSelectiveLayer:
        """Return a layer of the rank that saved tensors have, which files may vary by layer."""
        return replace(self, rank=len(tensors["lora_down"])).make(shape)


class RankSelectiveLayer(AdapterLayer):
    """One layer's A (``lora_down``), B (``lora_up``) and w (``gates``)."""

    def __init__(self, spec: RankSelectiveLoRA, shape: WeightShape) -> None:
        super().__init__()
        rank = min(spec.rank, shape.rows, shape.columns)
        self.lora_down = fresh_down(rank, shape)
        self.lora_up = zero_up(rank, shape)
        # thresholds are small: in half precision they would be lost beside a gate of 1
        precision = torch.promote_types(shape.like.dtype, torch.float32)
        drawn = torch.randn(rank, dtype=precision, device="cpu")
        self.gates = nn.Parameter(drawn.to(shape.like.device))

    def down(self) -> Tensor:
        """Return A, shape (rank, columns)."""
        return self.lora_down

    def up(self) -> Tensor:
        """Return B diag(w), shape (rows, rank): weighing B is cheaper than weighing responses."""
        return self.lora_up * self.gates.to(self.lora_up.dtype)

    @torch.no_grad()
    def change_norm(self) -> float:
        """Return the Frobenius norm of B diag(w) A, without making that matrix."""
        up, down = self.lora_up.float() * self.gates.float(), self.lora_down.float()
        # |B A|^2 = <B'B, AA'>
        return float(((up.t() @ up) * (down @ down.t())).sum().clamp(min=0).sqrt())
