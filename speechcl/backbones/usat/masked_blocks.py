"""SpeechBrain's blocks run such that what lies beyond the end of an item changes nothing.

SpeechBrain pads by reflection and neither masks between layers nor leaves padding out of batch
statistics, so that an item would depend on how long its companions are, and a network on how much
padding it was trained with. Here padding is by zeros, every value beyond the end is a zero again
before the next convolution, and batch normalisation sees frames only that are there. Layout and
weights of the blocks are SpeechBrain's own.
"""

from __future__ import annotations

import torch
from speechbrain.lobes.models.ECAPA_TDNN import (
    AttentiveStatisticsPooling,
    Res2NetBlock,
    TDNNBlock,
)
from speechbrain.nnet.CNN import Conv1d
from torch import Tensor, nn


def masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """Return ``x`` (batch, channels, time) with zeros where ``mask`` (batch, 1, time) has them.

    Example
    -------
    >>> masked(torch.ones(1, 1, 3), torch.tensor([[[1.0, 1.0, 0.0]]]))
    tensor([[[1., 1., 0.]]])
    """
    return x if mask is None else x * mask


def pad_with_zeros(module: nn.Module) -> None:
    """Let every SpeechBrain convolution of a module pad with zeros, also clips of one frame.

    Example
    -------
    >>> convolution = Conv1d(out_channels=1, kernel_size=3, in_channels=1, skip_transpose=True)
    >>> pad_with_zeros(convolution)
    >>> convolution(torch.ones(1, 1, 1)).shape
    torch.Size([1, 1, 1])
    """
    for part in module.modules():
        if isinstance(part, Conv1d):
            part.padding_mode = "constant"


def batch_norm(norm: nn.BatchNorm1d, x: Tensor, mask: Tensor) -> Tensor:
    """Normalise each channel by its mean and variance over the frames that are there.

    Arguments
    ---------
    norm : nn.BatchNorm1d
        Whose running statistics these frames move, and are used in evaluation mode.
    x, mask : Tensor
        Shapes (batch, channels, time) and (batch, 1, time).

    Returns
    -------
    Tensor
        Shape (batch, channels, time), zeros where ``mask`` has them.

    Example
    -------
    >>> x, mask = torch.tensor([[[1.0, 3.0, 9.0]]]), torch.tensor([[[1.0, 1.0, 0.0]]])
    >>> batch_norm(nn.BatchNorm1d(1, affine=False), x, mask).round()
    tensor([[[-1.,  1.,  0.]]])
    """
    if not norm.training:
        return norm(x) * mask
    # by sums a GPU need not wait to learn how many frames there are; they cost a CPU twice as much,
    # and do not know those of other processes
    by_sums = x.is_cuda and not isinstance(norm, nn.SyncBatchNorm)
    return (_batch_norm_by_sums if by_sums else _batch_norm_by_index)(norm, x, mask)


def _batch_norm_by_index(norm: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    frames = x.transpose(1, 2).flatten(0, 1)  # of all items, (batch * time, channels)
    there = mask.flatten().nonzero()[:, 0]  # found once
    normalised = norm(frames.index_select(0, there))
    placed = normalised.new_zeros(frames.shape).index_copy(0, there, normalised)
    return placed.view(len(x), x.shape[2], -1).transpose(1, 2)


def _batch_norm_by_sums(norm: nn.BatchNorm1d, x: Tensor, mask: Tensor) -> Tensor:
    count = mask.sum()
    mean = (x * mask).sum((0, 2)) / count
    centred = (x - mean[:, None]) * mask
    variance = centred.square().sum((0, 2)) / count
    with torch.no_grad():
        norm.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        of_all = variance * count / (count - 1)
        for kept, now in ((norm.running_mean, mean), (norm.running_var, of_all)):
            kept.lerp_(now, norm.momentum)  # type: ignore[union-attr, arg-type]
    scale = (variance + norm.eps).rsqrt() * norm.weight
    return torch.addcmul(norm.bias[:, None] * mask, centred, scale[:, None])


def tdnn(block: TDNNBlock, x: Tensor, mask: Tensor) -> Tensor:
    """Run a convolution, its rectifier and its batch normalisation.

    Arguments
    ---------
    block : TDNNBlock
        SpeechBrain's, which pads with zeros.
    x, mask : Tensor
        Shapes (batch, channels, time), with zeros beyond the end, and (batch, 1, time).

    Returns
    -------
    Tensor
        Shape (batch, channels, time), with zeros beyond the end.

    Example
    -------
    >>> block = TDNNBlock(2, 3, kernel_size=1, dilation=1)
    >>> x, mask = torch.randn(1, 2, 5), torch.ones(1, 1, 5)
    >>> torch.allclose(tdnn(block, x, mask), block(x), atol=1e-6)
    True
    """
    return block.dropout(batch_norm(block.norm.norm, block.activation(block.conv(x)), mask))


def res2net(block: Res2NetBlock, x: Tensor, mask: Tensor) -> Tensor:
    """Run a Res2Net block: each part of the channels also gets what the part before has made.

    Arguments
    ---------
    block : Res2NetBlock
        SpeechBrain's, which pads with zeros.
    x, mask : Tensor
        Shapes (batch, channels, time), with zeros beyond the end, and (batch, 1, time).

    Returns
    -------
    Tensor
        Shape (batch, channels, time), with zeros beyond the end.

    Example
    -------
    >>> block, x = Res2NetBlock(8, 8, scale=4).eval(), torch.ones(1, 8, 5)
    >>> pad_with_zeros(block)
    >>> torch.allclose(res2net(block, x, torch.ones(1, 1, 5)), block(x))
    True
    """
    first, *others = x.chunk(block.scale, dim=1)
    parts = [first]
    for layer, own in zip(block.blocks, others, strict=True):
        parts.append(tdnn(layer, own if len(parts) == 1 else own + parts[-1], mask))
    return torch.cat(parts, dim=1)


def pool(pooling: AttentiveStatisticsPooling, x: Tensor, mask: Tensor) -> Tensor:
    """Pool frames into means and spreads, weighted by attention that knows those of the whole.

    Arguments
    ---------
    pooling : AttentiveStatisticsPooling
        SpeechBrain's, with global context.
    x, mask : Tensor
        Shapes (batch, channels, time), with zeros beyond the end, and (batch, 1, time).

    Returns
    -------
    Tensor
        Shape (batch, 2 channels); of an item without any frame, finite.

    Source: Desplanques et al., "ECAPA-TDNN", Interspeech 2020, equations 1 to 4.

    Example
    -------
    >>> pooling, x = AttentiveStatisticsPooling(4, 2).eval(), torch.randn(1, 4, 6)
    >>> torch.allclose(pool(pooling, x, torch.ones(1, 1, 6)), pooling(x)[:, :, 0])
    True
    """
    mean, spread = _statistics(x, mask / mask.sum(2, keepdim=True).clamp(min=1))
    context = torch.cat([x, mean.expand_as(x), spread.expand_as(x)], dim=1)
    scores = pooling.conv(torch.tanh(tdnn(pooling.tdnn, context, mask)))
    weights = scores.masked_fill(mask == 0, torch.finfo(scores.dtype).min).softmax(2)
    return torch.cat(_statistics(x, weights), dim=1)[:, :, 0]


def relative_lengths(mask: Tensor) -> Tensor:
    """Return SpeechBrain's lengths, shape (batch,), of a mask (batch, 1, time).

    Half a frame less than the share of the longest, because SpeechBrain multiplies it with the
    longest again and counts every frame below the product, which may be rounded up.

    Example
    -------
    >>> relative_lengths(torch.tensor([[[1.0, 1.0]], [[1.0, 0.0]]]))
    tensor([0.7500, 0.2500])
    """
    return (mask.float().sum((1, 2)).clamp(min=1) - 0.5) / mask.shape[2]


def _statistics(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    mean = (weights * x).sum(2, keepdim=True)
    variance = (weights * (x - mean).square()).sum(2, keepdim=True)
    return mean, variance.clamp(min=1e-12).sqrt()
