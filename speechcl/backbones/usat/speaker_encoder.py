"""Which voice it is, as one vector, from latent frames."""

from __future__ import annotations

import torch
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN, SERes2NetBlock
from torch import Tensor, nn

from speechcl.backbones.usat.masked_blocks import (
    pad_with_zeros,
    pool,
    relative_lengths,
    res2net,
    tdnn,
)


class SpeakerEncoder(nn.Module):
    """ECAPA-TDNN over the latents of an utterance.

    Padding changes nothing. In training the batch normalisations couple the items of a batch: put
    all that a loss compares into one (utterances and segments alike), of at least two items.

    Arguments
    ---------
    latent : int
        Channels of the latents.
    size : int
        Of the vector.
    channels : int
        Of the convolutions, a multiple of ``scale``.
    gathered : int
        Channels after what all blocks found is put together.
    attention : int
        Channels of the attention that weighs frames.
    bottleneck : int
        Channels of squeeze and excitation.
    scale : int
        Parts of the Res2Net convolutions.

    Source: USAT, arXiv 2404.18094 (the timbre converter's speaker encoder); Desplanques et al.,
    "ECAPA-TDNN", Interspeech 2020, section 3. Deviates from SpeechBrain: padding by zeros,
    masks (see ``masked_blocks``), a batch normalisation after the last layer.

    Example
    -------
    >>> encoder = SpeakerEncoder(latent=4, size=6, channels=8, gathered=16, attention=4)
    >>> encoder(torch.randn(2, 4, 50)).shape
    torch.Size([2, 6])
    """

    def __init__(
        self,
        latent: int,
        size: int = 256,
        channels: int = 192,
        gathered: int = 1536,
        attention: int = 128,
        bottleneck: int = 128,
        scale: int = 8,
    ) -> None:
        super().__init__()
        if channels % scale:
            raise ValueError(f"channels is {channels}: set it to a multiple of {scale}, the scale")
        self.size = size
        self.net = ECAPA_TDNN(
            latent,
            lin_neurons=size,
            channels=[channels] * 4 + [gathered],
            kernel_sizes=[5, 3, 3, 3, 1],
            dilations=[1, 2, 3, 4, 1],
            attention_channels=attention,
            res2net_scale=scale,
            se_channels=bottleneck,
        )
        pad_with_zeros(self.net)
        self.last_norm = nn.BatchNorm1d(size)

    def forward(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """Turn latents into speaker vectors.

        Arguments
        ---------
        z : Tensor
            Shape (batch, latent, frames).
        mask : Tensor or None
            1 where there is something, shape (batch, 1, frames).

        Returns
        -------
        Tensor
            Shape (batch, size).
        """
        if mask is None:
            mask = z.new_ones(len(z), 1, z.shape[2])
        first, *blocks = self.net.blocks
        x = tdnn(first, z * mask, mask)
        found = []
        for block in blocks:
            x = _run(block, x, mask)
            found.append(x)
        gathered = tdnn(self.net.mfa, torch.cat(found, dim=1), mask)
        pooled = self.net.asp_bn(pool(self.net.asp, gathered, mask)[:, :, None])
        return self.last_norm(self.net.fc(pooled)[:, :, 0])


def segments(
    z: Tensor, lengths: Tensor, share: float = 0.6, least: int = 64
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cut each item into a window at its start and one at its end, which overlap.

    Arguments
    ---------
    z : Tensor
        Latents, shape (batch, latent, frames).
    lengths : Tensor
        Whole numbers, frames of each item, shape (batch,).
    share : float
        Of an item that a window covers, above a half and below 1.
    least : int
        Frames that a window must have for the item to be valid.

    Returns
    -------
    tuple of Tensor
        The first and the second windows, each (batch, latent, share of frames) with zeros at the
        end; the mask of both, (batch, 1, share of frames); which items are valid, bool (batch,).
        The others are cut too, for they still have speakers.

    Source: USAT, arXiv 2404.18094, equations 5 and 6 (two overlapping segments of one reference).
    Deviates: where they lie is our reading.

    Example
    -------
    >>> first, second, mask, valid = segments(torch.arange(5.0)[None, None], torch.tensor([5]))
    >>> first, second, valid
    (tensor([[[0., 1., 2.]]]), tensor([[[2., 3., 4.]]]), tensor([False]))
    """
    if not 0.5 < share < 1:
        raise ValueError(
            f"share is {share}: set it above 0.5, so that windows overlap, and below 1"
        )
    widths = (lengths * share).round().long().clamp(min=1)
    frame = torch.arange(max(round(z.shape[2] * share), 1), device=z.device)
    mask = (frame < widths[:, None])[:, None].to(z.dtype)
    first = z[:, :, : len(frame)] * mask
    moved = (lengths - widths)[:, None] + frame  # (batch, frames of a window)
    index = moved.clamp(max=z.shape[2] - 1)[:, None].expand(-1, z.shape[1], -1)
    return first, z.gather(2, index) * mask, mask, widths >= least


def _run(block: SERes2NetBlock, x: Tensor, mask: Tensor) -> Tensor:
    h = res2net(block.res2net_block, tdnn(block.tdnn1, x, mask), mask)
    h = tdnn(block.tdnn2, h, mask)
    return x + block.se_block(h, relative_lengths(mask))
