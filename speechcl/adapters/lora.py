"""LoRA: a low-rank update beside a frozen weight."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from speechcl.adapters.layer import (
    Adapter,
    AdapterLayer,
    WeightShape,
    check_rank,
    fresh_down,
    zero_up,
)


@dataclass(frozen=True)
class LoRA(Adapter):
    """Low-rank adaptation: W + alpha / rank * B A, with A random and B zero at the start.

    Arguments
    ---------
    rank : int
        Rank of the update; of smaller weights, such as those of depthwise convolutions, their own.
    alpha : float, optional
        Its scale is ``alpha / rank``; by default 1.

    Source
    ------
    Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685, section 4.1.
    Convolutions: the weight is taken as a matrix (out, in / groups * kernel), so that one rule
    serves plain, dilated, strided, grouped and depthwise layers, and groups share A.

    Example
    -------
    >>> import torch
    >>> layer = LoRA(rank=2).make(WeightShape(4, 3, torch.zeros(1)))
    >>> torch.equal(layer.fold(torch.eye(4, 3)), torch.eye(4, 3))
    True
    """

    rank: int = 8
    alpha: float | None = None

    def __post_init__(self) -> None:
        check_rank(self.rank)
        if self.alpha is not None and not math.isfinite(self.alpha):
            raise ValueError(f"alpha is {self.alpha}: give a finite number")

    @property
    def scale(self) -> float:
        """Return what the product of B and A is multiplied by."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def make(self, shape: WeightShape) -> AdapterLayer:
        """Return a fresh layer."""
        return LoRALayer(min(self.rank, shape.rows, shape.columns), self.scale, shape)

    def remake(self, shape: WeightShape, tensors: Mapping[str, Tensor]) -> AdapterLayer:
        """Return a layer of the rank that saved tensors have, which files may vary by layer."""
        return LoRALayer(len(tensors["lora_down"]), self.scale, shape)


class LoRALayer(AdapterLayer):
    """One layer's A (``lora_down``) and B (``lora_up``)."""

    def __init__(self, rank: int, scale: float, shape: WeightShape) -> None:
        super().__init__()
        self.scale = scale
        self.lora_down = fresh_down(rank, shape)
        self.lora_up = zero_up(rank, shape)

    def down(self) -> Tensor:
        """Return A, shape (rank, columns)."""
        return self.lora_down

    def up(self) -> Tensor:
        """Return B with the scale in it, shape (rows, rank)."""
        return self.lora_up if self.scale == 1.0 else self.lora_up * self.scale
