"""Convolutions that look far with few weights: dilated, and a channel at a time."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from speechcl.backbones.usat.points import AdapterPoint


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (batch, channels, time).

    Example
    -------
    >>> import torch
    >>> ChannelNorm(2)(torch.tensor([[[1.0], [3.0]]]))
    tensor([[[-1.0000],
             [ 1.0000]]], grad_fn=<TransposeBackward0>)
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each moment for itself."""
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class DDSConv(nn.Module):
    """Layers of a dilated convolution a channel and one across channels, each with a way around.

    Arguments
    ---------
    channels : int
        In and out.
    kernel : int
        Odd; layer k looks ``kernel ** k`` apart.
    layers : int
        How many.
    dropout : float
        At the end of each layer.
    adapts : bool
        Whether a speaker's adapter may act at the end. Then ``point`` is that place, else None.

    Source: VITS (arXiv 2106.06103), appendix B.1 and figure 5, as in its code. Deviates: ``point``,
    which is where USAT (arXiv 2404.18094), figure 6, has the adapter of a duration predictor's
    coupling.

    Example
    -------
    >>> import torch
    >>> DDSConv(4)(torch.randn(2, 4, 9), torch.ones(2, 1, 9)).shape
    torch.Size([2, 4, 9])
    """

    def __init__(
        self,
        channels: int,
        kernel: int = 3,
        layers: int = 3,
        dropout: float = 0.0,
        adapts: bool = True,
    ) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"kernel is {kernel}: set it to an odd number, which has a middle")
        self.dropout = dropout
        self.apart = nn.ModuleList(
            nn.Conv1d(
                channels,
                channels,
                kernel,
                dilation=kernel**layer,
                padding=kernel**layer * (kernel // 2),
                groups=channels,
            )
            for layer in range(layers)
        )
        self.across = nn.ModuleList(nn.Conv1d(channels, channels, 1) for _ in range(layers))
        self.norms_apart = nn.ModuleList(ChannelNorm(channels) for _ in range(layers))
        self.norms_across = nn.ModuleList(ChannelNorm(channels) for _ in range(layers))
        self.point = AdapterPoint(channels) if adapts else None

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return values of the shape of ``x``, (batch, channels, time), 0 where ``mask`` is."""
        layers = zip(self.apart, self.norms_apart, self.across, self.norms_across, strict=True)
        for apart, norm_apart, across, norm_across in layers:
            y = functional.gelu(norm_apart(apart(x * mask)))
            y = functional.gelu(norm_across(across(y)))
            x = x + functional.dropout(y, self.dropout, self.training)
        x = x * mask
        return x if self.point is None else self.point(x, mask) * mask
