"""Networks for small images: the reduced ResNet-18 of online learning, and a smaller one."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from speechcl.backbones.resnet import ResidualBlock, norm_of
from speechcl.views import as_float

_STAGES = [(1, 1), (1, 1), (2, 2), (2, 1), (4, 2), (4, 1), (8, 2), (8, 1)]  # (times width, stride)


class ReducedResNet(nn.Module):
    """ResNet-18 with narrow layers and without pooling at its start, for images of 32 pixels.

    Arguments
    ---------
    classes : int
        Outputs.
    width : int
        Channels of the first blocks: 20 is usual, OnPro has 64; the last have eight times as many.
    norm : "batch" or "group"
        ``group`` (8 groups, ``width`` a multiple of 8) has no statistics of its own.

    Source: Lopez-Paz and Ranzato, "Gradient episodic memory for continual learning", NeurIPS 2017.

    Example
    -------
    >>> logits, embedding = ReducedResNet(classes=10)(torch.zeros(2, 3, 32, 32))
    >>> logits.shape, embedding.shape
    (torch.Size([2, 10]), torch.Size([2, 160]))
    >>> sum(p.numel() for p in ReducedResNet(classes=100).parameters())
    1109240
    """

    def __init__(
        self, classes: int, width: int = 20, norm: Literal["batch", "group"] = "batch"
    ) -> None:
        super().__init__()
        if norm == "group" and width % 8:
            raise ValueError(f"width is {width}: set it to a multiple of 8, or norm to batch")
        channels = [width, *(times * width for times, _ in _STAGES)]
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1, bias=False), norm_of(norm, width), nn.ReLU()
        )
        self.blocks = nn.Sequential(
            *(
                ResidualBlock(into, out, stride, norm)
                for into, out, (_, stride) in zip(channels, channels[1:], _STAGES, strict=False)
            )
        )
        self.classify = nn.Linear(channels[-1], classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and embedding of images (batch, 3, height, width), bytes or 0 to 1."""
        embedding = self.blocks(self.stem(as_float(images))).mean((2, 3))
        return self.classify(embedding), embedding


class ConvNet(nn.Module):
    """Two convolutions and a hidden layer, for images of digits; fast on a CPU.

    Arguments
    ---------
    classes : int
        Outputs.
    width : int
        Channels of the first convolution; the second has twice as many, the hidden layer four
        times.

    Example
    -------
    >>> logits, embedding = ConvNet(classes=10)(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    >>> logits.shape, embedding.shape
    (torch.Size([2, 10]), torch.Size([2, 64]))
    """

    def __init__(self, classes: int, width: int = 16) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.ReLU(),
        )
        self.hidden = nn.Linear(2 * width * 16, 4 * width)
        self.classify = nn.Linear(4 * width, classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and embedding of images (batch, 3, height, width), bytes or 0 to 1."""
        maps = self.convolutions(as_float(images))
        maps = functional.max_pool2d(maps, [side // 4 for side in maps.shape[2:]])[:, :, :4, :4]
        embedding = torch.relu(self.hidden(maps.flatten(1)))
        return self.classify(embedding), embedding


def image_net(name: str, classes: int) -> nn.Module:
    """Make a network by its name: ``conv``, ``reduced_resnet``, or ``resnet`` of OnPro's width.

    Raises
    ------
    ValueError
        If there is no such network.

    Example
    -------
    >>> type(image_net("conv", 10)).__name__
    'ConvNet'
    """
    if name == "conv":
        return ConvNet(classes)
    if name in ("reduced_resnet", "resnet"):
        return ReducedResNet(classes, width=20 if name == "reduced_resnet" else 64)
    raise ValueError(f"network is {name!r}: choose conv, reduced_resnet or resnet")
