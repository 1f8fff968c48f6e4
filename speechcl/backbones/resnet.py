"""A small residual network over time and frequency, the default detector's back end."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

_LEAST_FRAMES = 64


class ResNet(nn.Module):
    """Seven residual blocks, then mean and spread over time; one logit, higher is more genuine.

    252,657 parameters at width 16, 1,007,073 (4.0 MB) at width 32.

    Arguments
    ---------
    width : int
        Channels of the first blocks, a multiple of 8; the last have four times as many.
    bands : int
        Width of the input frames.
    norm : "group" or "batch"
        ``group`` (8 groups) has no running statistics that drift from task to task, and is the
        same over several processes.

    Source: He et al., "Deep residual learning for image recognition", CVPR 2016 (basic blocks);
    Snyder et al., "X-vectors", ICASSP 2018 (pooling). Deviates: ``norm``, fewer blocks.

    Example
    -------
    >>> sum(p.numel() for p in ResNet().parameters())
    1007073
    >>> logit, embedding = ResNet(width=16)(torch.zeros(2, 404, 80))
    >>> logit.shape, embedding.shape
    (torch.Size([2, 1]), torch.Size([2, 128]))
    """

    def __init__(
        self, width: int = 32, bands: int = 80, norm: Literal["group", "batch"] = "group"
    ) -> None:
        super().__init__()
        if width % 8:
            raise ValueError(f"width is {width}: set it to a multiple of 8")
        self.bands = bands
        self.stem = nn.Sequential(
            nn.Conv2d(1, width, 3, (1, 2), padding=1, bias=False), norm_of(norm, width), nn.ReLU()
        )
        plan = [(1, 1), (1, 1), (2, 2), (2, 1), (4, 2), (4, 1), (4, 2)]  # (times width, stride)
        channels = [width, *(times * width for times, _ in plan)]
        self.blocks = nn.Sequential(
            *(
                ResidualBlock(into, out, stride, norm)
                for into, out, (_, stride) in zip(channels, channels[1:], plan, strict=False)
            )
        )
        self.classify = nn.Linear(8 * width, 1)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Return logit (batch, 1) and embedding (batch, 8 width) of (batch, frames, bands).

        Raises
        ------
        ValueError
            If there are fewer than 64 frames or another number of bands than announced.
        """
        if frames.shape[1] < _LEAST_FRAMES or frames.shape[2] != self.bands:
            raise ValueError(
                f"frames of shape {tuple(frames.shape)} must be (batch, at least {_LEAST_FRAMES}, "
                f"{self.bands}): use longer clips, or give ResNet the front end's bands"
            )
        maps = self.blocks(self.stem(frames[:, None]))  # (batch, 4 width, frames / 8, bands / 16)
        embedding = mean_and_spread(maps.mean(3))
        return self.classify(embedding), embedding


def mean_and_spread(x: Tensor) -> Tensor:
    """Pool over time: the mean, then the standard deviation.

    Arguments
    ---------
    x : Tensor
        Shape (batch, width, frames).

    Returns
    -------
    Tensor
        Shape (batch, 2 width). A constant has a spread of 0.001, not 0, for the square root has no
        gradient at 0.

    Example
    -------
    >>> mean_and_spread(torch.tensor([[[1.0, 3.0]]]))
    tensor([[2.0000, 1.0000]])
    """
    return torch.cat([x.mean(2), (x.var(2, correction=0) + 1e-6).sqrt()], dim=1)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions around which the input, projected where the shape changes, passes."""

    def __init__(self, into: int, out: int, stride: int, norm: str) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(into, out, 3, stride, padding=1, bias=False),
            norm_of(norm, out),
            nn.ReLU(),
            nn.Conv2d(out, out, 3, padding=1, bias=False),
            norm_of(norm, out),
        )
        self.around: nn.Module = nn.Identity()
        if stride != 1 or into != out:
            self.around = nn.Sequential(
                nn.Conv2d(into, out, 1, stride, bias=False), norm_of(norm, out)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return maps (batch, out, height, width), smaller by the stride."""
        return torch.relu(self.main(x) + self.around(x))


def norm_of(kind: str, channels: int) -> nn.Module:
    """Return batch or group normalisation.

    Example
    -------
    >>> norm_of("group", 16)
    GroupNorm(8, 16, eps=1e-05, affine=True)
    """
    return nn.BatchNorm2d(channels) if kind == "batch" else nn.GroupNorm(8, channels)
