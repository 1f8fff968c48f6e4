"""From memory read-outs to waveforms: HiFi-GAN, and a faster one by inverse Fourier transform."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from speechbrain.lobes.models.HifiGAN import LRELU_SLOPE, HifiganGenerator, ResBlock1
from speechbrain.nnet.CNN import Conv1d, get_padding_elem
from torch import Tensor, nn
from torch.nn import functional

from speechcl.backbones.usat.masked_blocks import masked


class HifiGanDecoder(nn.Module):
    """HiFi-GAN's generator, by transposed convolutions up to the rate of the waveform.

    It gets no speaker vector: what it hears of the speaker is in the latents alone.

    Arguments
    ---------
    latent : int
        Channels of the input.
    channels : int
        Before the first of the upsamplings, each of which halves them.
    factors, kernels : sequence of int
        By how much each upsampling lengthens, and the size of its kernel; the difference is even.
        The product of the factors is the hop.
    resblock_kernels : sequence of int
        Odd sizes of kernels of the residual blocks after each upsampling, which are averaged.
    resblock_dilations : sequence of sequences of int
        Three for each of them.

    Source: Kong et al., "HiFi-GAN", NeurIPS 2020, section 2.2, run from SpeechBrain's weights and
    layers. Deviates from SpeechBrain: padding by zeros, masks, no bias in the last convolution (as
    in VITS, arXiv 2106.06103).

    Example
    -------
    >>> decoder = HifiGanDecoder(latent=4, channels=32)
    >>> decoder(torch.zeros(2, 4, 3)).shape  # 3 frames of 256 samples
    torch.Size([2, 768])
    """

    def __init__(
        self,
        latent: int,
        channels: int = 512,
        factors: Sequence[int] = (8, 8, 2, 2),
        kernels: Sequence[int] = (16, 16, 4, 4),
        resblock_kernels: Sequence[int] = (3, 7, 11),
        resblock_dilations: Sequence[Sequence[int]] = ((1, 3, 5),) * 3,
    ) -> None:
        super().__init__()
        _check_upsampling(channels, factors, kernels)
        _check_resblocks(resblock_kernels, resblock_dilations)
        self.factors, self.hop = tuple(factors), math.prod(factors)
        self.generator = HifiganGenerator(
            in_channels=latent,
            out_channels=1,
            resblock_type="1",
            resblock_dilation_sizes=resblock_dilations,
            resblock_kernel_sizes=resblock_kernels,
            upsample_kernel_sizes=kernels,
            upsample_initial_channel=channels,
            upsample_factors=factors,
            conv_post_bias=False,
        )
        _pad_with_zeros_inside(self.generator)

    def forward(self, m: Tensor, mask: Tensor | None = None) -> Tensor:
        """Decode read-outs (batch, latent, frames), masked or all, to (batch, frames * hop)."""
        net = self.generator
        x = net.conv_pre(masked(m, mask))
        for i, factor in enumerate(self.factors):
            x = net.ups[i](masked(functional.leaky_relu(x, LRELU_SLOPE), mask))
            mask = None if mask is None else mask.repeat_interleave(factor, dim=2)
            first = i * net.num_kernels
            branches = [_run(net.resblocks[first + j], x, mask) for j in range(net.num_kernels)]
            x = sum(branches[1:], branches[0]) / len(branches)
        x = net.conv_post(masked(functional.leaky_relu(x), mask))
        return masked(torch.tanh(x), mask)[:, 0]


class InverseStftDecoder(nn.Module):
    """ConvNeXt blocks at the rate of frames, then one inverse short-time Fourier transform.

    Arguments
    ---------
    latent : int
        Channels of the input.
    channels, blocks : int
        Width and number of the blocks.
    n_fft, hop : int
        Samples of a transform and between frames; a hop is at most half a transform.

    Source: Siuzdak, "Vocos", arXiv 2306.00814, section 3.

    Example
    -------
    >>> decoder = InverseStftDecoder(latent=4, channels=16, blocks=2, n_fft=64, hop=16)
    >>> decoder(torch.zeros(2, 4, 3)).shape  # 3 frames of 16 samples
    torch.Size([2, 48])
    """

    def __init__(
        self, latent: int, channels: int = 256, blocks: int = 6, n_fft: int = 1024, hop: int = 256
    ) -> None:
        super().__init__()
        self.hop = hop
        self.embed = nn.Conv1d(latent, channels, 7, padding=3)
        self.first_norm = nn.LayerNorm(channels, eps=1e-6)
        self.blocks = nn.ModuleList(_ConvNeXt(channels, 1 / blocks) for _ in range(blocks))
        self.last_norm = nn.LayerNorm(channels, eps=1e-6)
        self.head = nn.Linear(channels, n_fft + 2)
        self.inverse = InverseStft(n_fft, hop)

    def forward(self, m: Tensor, mask: Tensor | None = None) -> Tensor:
        """Decode read-outs (batch, latent, frames), masked or all, to (batch, frames * hop)."""
        x = self.first_norm(self.embed(masked(m, mask)).transpose(1, 2)).transpose(1, 2)
        for block in self.blocks:
            x = block(masked(x, mask))
        out = self.head(self.last_norm(x.transpose(1, 2))).transpose(1, 2)
        with torch.autocast(m.device.type, enabled=False):
            log_magnitude, angle = out.float().chunk(2, dim=1)
            # Bounded before the exponential: an infinity would have no gradient.
            magnitude = log_magnitude.clamp(max=math.log(100)).exp()
            return self.inverse(torch.polar(magnitude, angle), mask)


class InverseStft(nn.Module):
    """Overlapping frames added up and divided by their windows: exactly ``hop`` samples a frame.

    Frames lie as those of ``MagnitudeSpectrogram``, whose transform is undone exactly.

    Arguments
    ---------
    n_fft, hop : int
        Samples of a transform, its Hann window included, and between frames.

    Source: Griffin and Lim, "Signal estimation from modified short-time Fourier transform", 1984,
    equation 6.

    Example
    -------
    >>> InverseStft(n_fft=64, hop=16)(torch.zeros(1, 33, 5, dtype=torch.cfloat)).shape
    torch.Size([1, 80])
    """

    def __init__(self, n_fft: int, hop: int) -> None:
        super().__init__()
        if not 0 < hop <= n_fft // 2:
            raise ValueError(f"hop is {hop}: set it to at most half of n_fft, which is {n_fft}")
        self.n_fft, self.hop = n_fft, hop
        self.window: Tensor
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def forward(self, spectrum: Tensor, mask: Tensor | None = None) -> Tensor:
        """Turn a complex spectrum (batch, n_fft / 2 + 1, frames) into (batch, frames * hop)."""
        if mask is None:
            mask = self.window.new_ones(1, 1, spectrum.shape[2])
        frames = torch.fft.irfft(spectrum, self.n_fft, dim=1) * self.window[:, None]
        weights = self.window.square()[:, None] * mask  # of each sample of each frame
        waveform = self._add_up(frames * mask) / self._add_up(weights).clamp(min=1e-8)
        return waveform * mask.repeat_interleave(self.hop, dim=2)[:, 0]

    def _add_up(self, frames: Tensor) -> Tensor:
        count = frames.shape[2]
        size = (1, (count - 1) * self.hop + self.n_fft)
        whole = functional.fold(frames, size, (1, self.n_fft), stride=(1, self.hop))[:, 0, 0]
        start = (self.n_fft - self.hop) // 2
        return whole[:, start : start + count * self.hop]


class _ConvNeXt(nn.Module):
    """A depthwise convolution over time and two layers over channels, added to the input."""

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.widen = nn.Linear(channels, 3 * channels)
        self.narrow = nn.Linear(3 * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), scale))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.depthwise(x).transpose(1, 2))
        h = self.scale * self.narrow(functional.gelu(self.widen(h)))
        return x + h.transpose(1, 2)


def _pad_with_zeros_inside(module: nn.Module) -> None:
    """Let torch pad in its convolutions, by zeros: SpeechBrain copies first, a tenth slower."""
    for part in module.modules():
        if isinstance(part, Conv1d) and part.padding == "same":
            sizes = part.in_channels, part.stride, part.kernel_size, part.dilation
            part.conv.padding = (get_padding_elem(*sizes)[0],)
            part.padding = "valid"


def _run(block: ResBlock1, x: Tensor, mask: Tensor | None) -> Tensor:
    for dilated, plain in zip(block.convs1, block.convs2, strict=True):
        h = dilated(masked(functional.leaky_relu(x, LRELU_SLOPE), mask))
        x = x + plain(masked(functional.leaky_relu(h, LRELU_SLOPE), mask))
    return x


def _check_upsampling(channels: int, factors: Sequence[int], kernels: Sequence[int]) -> None:
    odd = [(k, u) for k, u in zip(kernels, factors, strict=False) if k < u or (k - u) % 2]
    if len(kernels) != len(factors) or odd:
        raise ValueError(
            f"kernels {tuple(kernels)} do not suit factors {tuple(factors)}: use one for each "
            "factor, larger by an even number"
        )
    if channels % 2 ** len(factors):
        raise ValueError(
            f"channels is {channels}: set it to a multiple of {2 ** len(factors)}, for each of "
            f"{len(factors)} upsamplings halves it"
        )


def _check_resblocks(kernels: Sequence[int], dilations: Sequence[Sequence[int]]) -> None:
    short = len(kernels) != len(dilations) or any(len(three) != 3 for three in dilations)
    if short or any(k % 2 == 0 for k in kernels):
        raise ValueError(
            f"residual blocks of kernels {tuple(kernels)} and dilations {tuple(dilations)}: use "
            "odd kernels and three dilations for each"
        )
