"""Judges of the voice model: of waveforms, of content in speaker vectors, of timbre in latents."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from speechbrain.lobes.models.ECAPA_TDNN import AttentiveStatisticsPooling, Res2NetBlock
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from speechcl.backbones.usat.masked_blocks import pad_with_zeros, pool, res2net

_SLOPE = 0.1  # of all rectifiers


class GradientReversal(torch.autograd.Function):
    """The identity, whose gradient is times ``-strength``.

    Source: Ganin and Lempitsky, "Unsupervised domain adaptation by backpropagation", ICML 2015
    (the gradient reversal layer).

    Example
    -------
    >>> x = torch.ones(2, requires_grad=True)
    >>> GradientReversal.apply(x, 0.5).sum().backward()
    >>> x.grad
    tensor([-0.5000, -0.5000])
    """

    @staticmethod
    def forward(ctx, x: Tensor, strength: float) -> Tensor:
        """Return ``x``."""
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        """Return the gradient, turned round."""
        return -ctx.strength * gradient, None


class LeakageDiscriminator(nn.Module):
    """Tells from two speaker vectors whether they come from two utterances, or from one.

    Arguments
    ---------
    size : int
        Of a speaker vector.
    hidden : int
        Width of both hidden layers.

    Source: USAT, arXiv 2404.18094, equations 5 and 6. Deviates: its layers are our choice.

    Example
    -------
    >>> LeakageDiscriminator(size=4, hidden=8)(torch.zeros(3, 4), torch.zeros(3, 4)).shape
    torch.Size([3])
    """

    def __init__(self, size: int = 256, hidden: int = 256) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2 * size, hidden),
            nn.LeakyReLU(_SLOPE),
            nn.Linear(hidden, hidden),
            nn.LeakyReLU(_SLOPE),
            nn.Linear(hidden, 1),
        )

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Score pairs of vectors (batch, size): near 1 for two utterances, near 0 for one."""
        return self.layers(torch.cat([a, b], dim=1))[:, 0]


class TimbreDiscriminator(nn.Module):
    """Tells latents that text gave from those that speech left, once its timbre is removed.

    Batch normalisation compares what is in one batch: put both kinds into one call.

    Arguments
    ---------
    latent : int
        Channels of the latents.
    channels : int
        Of the convolutions, a multiple of ``scale``.
    attention : int
        Channels of the attention that weighs frames.
    scale : int
        Parts of the Res2Net convolutions.

    Source: USAT, arXiv 2404.18094, equation 8 (Res2Net layers, attentive statistics pooling, a
    linear score). Deviates: number, dilations and shortcuts of the blocks are our choice.

    Example
    -------
    >>> TimbreDiscriminator(latent=4, channels=8, attention=4)(torch.randn(2, 4, 20)).shape
    torch.Size([2])
    """

    def __init__(
        self, latent: int, channels: int = 192, attention: int = 128, scale: int = 8
    ) -> None:
        super().__init__()
        if channels % scale:
            raise ValueError(f"channels is {channels}: set it to a multiple of {scale}, the scale")
        self.embed = nn.Conv1d(latent, channels, 1)
        self.blocks = nn.ModuleList(
            Res2NetBlock(channels, channels, scale, dilation=dilation) for dilation in (2, 3, 4)
        )
        self.pooling = AttentiveStatisticsPooling(channels, attention)
        self.score = nn.Linear(2 * channels, 1)
        pad_with_zeros(self.blocks)

    def forward(self, frames: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return logits (batch,) of latents (batch, latent, frames): above 0 for those of text."""
        if mask is None:
            mask = frames.new_ones(len(frames), 1, frames.shape[2])
        x = self.embed(frames * mask) * mask
        for block in self.blocks:
            x = x + res2net(block, x, mask)
        return self.score(pool(self.pooling, x, mask))[:, 0]


class WaveformDiscriminators(nn.Module):
    """One judge of the waveform as it is, and one for each period at which it is folded.

    46,747,132 parameters at 32 channels, 3,004,552 at 8, 208,015 at 2.

    Arguments
    ---------
    channels : int
        Of the first convolution of a period, an even number; the widest has 32 times as many.
    periods : sequence of int
        In samples.

    Source: Kim et al., "VITS", arXiv 2106.06103, section 2.5.4, and its code (one scale).

    Example
    -------
    >>> scores, features = WaveformDiscriminators(channels=2)(torch.zeros(3, 1000))
    >>> len(scores), len(features), len(features[0]), scores[1].shape
    (6, 6, 7, torch.Size([3, 14]))
    """

    def __init__(self, channels: int = 32, periods: Sequence[int] = (2, 3, 5, 7, 11)) -> None:
        super().__init__()
        if channels < 2 or channels % 2:
            raise ValueError(f"channels is {channels}: set it to an even number")
        judges = [_Period(period, channels) for period in periods]
        self.judges = nn.ModuleList([_Scale(channels), *judges])

    def forward(self, waveform: Tensor) -> tuple[list[Tensor], list[list[Tensor]]]:
        """Judge waveforms.

        Arguments
        ---------
        waveform : Tensor
            Shape (batch, time), longer than the longest period.

        Returns
        -------
        tuple of lists
            Scores (batch, places) of each judge, near 1 for real sound, and its feature maps, from
            the first layer to the scores.
        """
        features = [judge(waveform[:, None]) for judge in self.judges]
        return [maps[-1].flatten(1) for maps in features], features


class _Period(nn.Module):
    """Convolutions along every ``period``-th sample."""

    def __init__(self, period: int, channels: int) -> None:
        super().__init__()
        self.period = period
        widths = [1] + [times * channels for times in (1, 4, 16, 32, 32)]
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(into, out, (5, 1), (stride, 1), padding=(2, 0)))
            for into, out, stride in zip(widths, widths[1:], (3, 3, 3, 3, 1), strict=False)
        )
        self.last = weight_norm(nn.Conv2d(widths[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = functional.pad(x, (0, -x.shape[2] % self.period), mode="reflect")
        return _maps(x.unflatten(2, (-1, self.period)), self.layers, self.last)


class _Scale(nn.Module):
    """Grouped convolutions that shorten the waveform 256 times."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = [1] + [times * channels // 2 for times in (1, 4, 16, 64, 64, 64)]
        plan = [(15, 1), (41, 4), (41, 4), (41, 4), (41, 4), (5, 1)]  # (kernel, stride)
        self.layers = nn.ModuleList(
            weight_norm(
                nn.Conv1d(
                    into,
                    out,
                    kernel,
                    stride,
                    padding=kernel // 2,
                    groups=max(into // 4, 1) if stride > 1 else 1,
                )
            )
            for into, out, (kernel, stride) in zip(widths, widths[1:], plan, strict=False)
        )
        self.last = weight_norm(nn.Conv1d(widths[-1], 1, 3, padding=1))

    def forward(self, x: Tensor) -> list[Tensor]:
        return _maps(x, self.layers, self.last)


def _maps(x: Tensor, layers: nn.ModuleList, last: nn.Module) -> list[Tensor]:
    maps = []
    for layer in layers:
        x = functional.leaky_relu(layer(x), _SLOPE)
        maps.append(x)
    return [*maps, last(x)]
