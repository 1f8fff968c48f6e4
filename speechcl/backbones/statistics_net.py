"""A small network on clip statistics: trains in seconds, forgets like a large one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class StatisticsNet(nn.Module):
    """Standardise, clip, and classify a vector of clip statistics.

    Mean and scale are those of the first task (``standardise``) and stay as they are, as a
    detector in use would keep them.

    Arguments
    ---------
    features : int
        Width of the input.
    hidden : Sequence
        Widths of the hidden layers.
    classes : int
        Outputs.
    limit : float
        Standardised inputs are clipped to +- this.

    Example
    -------
    >>> logits, embedding = StatisticsNet(90)(torch.zeros(4, 90))
    >>> logits.shape, embedding.shape
    (torch.Size([4, 2]), torch.Size([4, 64]))
    """

    def __init__(
        self,
        features: int = 90,
        hidden: Sequence[int] = (64, 64),
        classes: int = 2,
        limit: float = 6.0,
    ) -> None:
        super().__init__()
        self.limit = limit
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        widths = [features, *hidden]
        self.hidden = nn.ModuleList(
            nn.Linear(a, b) for a, b in zip(widths, widths[1:], strict=False)
        )
        self.classify = nn.Linear(widths[-1], classes)

    def standardise(self, inputs: Tensor) -> None:
        """Take mean and scale from (items, features), those of the first task."""
        self.mean.copy_(inputs.mean(0))
        self.scale.copy_(inputs.std(0).clamp_min(1e-5))

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (batch, classes) and the embedding they are made from."""
        x = ((inputs - self.mean) / self.scale).clamp(-self.limit, self.limit)
        for layer in self.hidden:
            x = torch.relu(layer(x))
        return self.classify(x), x
