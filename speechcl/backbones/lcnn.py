"""LCNN with two BLSTMs, the ASVspoof 2021 baseline's back end."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn


class MaxFeatureMap(nn.Module):
    """Halve the channels: the larger of channel c and channel c + C/2.

    Example
    -------
    >>> MaxFeatureMap()(torch.tensor([[[[1.0]], [[5.0]]]])).flatten()
    tensor([5.])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, 2 C, ...) to (batch, C, ...)."""
        return _Maximum.apply(*x.chunk(2, dim=1))


class _Maximum(torch.autograd.Function):
    """The larger of two tensors, the first where they are equal.

    The gradient of torch.maximum, which shares ties, takes half the time of an LCNN step.
    """

    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor) -> Tensor:
        ctx.save_for_backward((first >= second).to(first.dtype))
        return torch.maximum(first, second)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        (is_first,) = ctx.saved_tensors
        to_first = grad * is_first
        return to_first, grad - to_first


class LCNN(nn.Module):
    """Light CNN with max-feature-map activations, residual BLSTMs and mean pooling over time.

    269,729 parameters with 60 coefficients, as published. One logit: higher is more genuine.

    Arguments
    ---------
    coefficients : int
        Width of the input frames.
    norm : "group" or "batch"
        Both without parameters. ``batch`` is the baseline's; ``group`` (8 groups) has no running
        statistics that drift from task to task, and is the same over several processes.
    dropout : float
        Before the recurrent layers.

    Source: ASVspoof 2021 LFCC-LCNN baseline. Deviates: ``norm``.

    Example
    -------
    >>> sum(p.numel() for p in LCNN().parameters())
    269729
    >>> logit, embedding = LCNN().eval()(torch.zeros(2, 404, 60))
    >>> logit.shape, embedding.shape
    (torch.Size([2, 1]), torch.Size([2, 96]))
    """

    def __init__(
        self,
        coefficients: int = 60,
        norm: Literal["group", "batch"] = "group",
        dropout: float = 0.7,
    ) -> None:
        super().__init__()

        def block(into: int, out: int, kernel: int, *, pool: bool = False, normed: bool = True):
            layers: list[nn.Module] = [
                nn.Conv2d(into, 2 * out, kernel, padding=kernel // 2),
                MaxFeatureMap(),
            ]
            layers += [nn.MaxPool2d(2)] if pool else []
            layers += [_norm(norm, out)] if normed else []
            return layers

        self.convolutions = nn.Sequential(
            *block(1, 32, 5, pool=True, normed=False),
            *block(32, 32, 1),
            *block(32, 48, 3, pool=True),
            *block(48, 48, 1),
            *block(48, 64, 3, pool=True, normed=False),
            *block(64, 64, 1),
            *block(64, 32, 3),
            *block(32, 32, 1),
            *block(32, 32, 3, pool=True, normed=False),
            nn.Dropout(dropout),
        )
        # a third less time on CPU
        self.convolutions.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        width = coefficients // 16 * 32
        self.recurrent = nn.ModuleList(
            nn.LSTM(width, width // 2, bidirectional=True, batch_first=True) for _ in range(2)
        )
        self.classify = nn.Linear(width, 1)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Return logit (batch, 1) and embedding (batch, width) of (batch, frames, coefficients)."""
        if frames.shape[1] < 16:
            raise ValueError(f"{frames.shape[1]} frames are too few for LCNN: give at least 16")
        maps = self.convolutions(frames[:, None])  # (batch, 32, frames / 16, coefficients / 16)
        x = maps.transpose(1, 2).flatten(2)  # (batch, frames / 16, width)
        y = x
        for layer in self.recurrent:
            y, _ = layer(y)
        embedding = (x + y).mean(1)
        return self.classify(embedding), embedding


def _norm(kind: str, channels: int) -> nn.Module:
    if kind not in ("group", "batch"):
        raise ValueError(f"norm is {kind!r}: use 'group' or 'batch'")
    if kind == "batch":
        return nn.BatchNorm2d(channels, affine=False)
    return nn.GroupNorm(8, channels, affine=False)
