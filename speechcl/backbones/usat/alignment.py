"""Which frames belong to which phoneme: monotonic alignment search, and expansion by durations."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Search = Callable[[NDArray, NDArray, NDArray], NDArray]


@torch.no_grad()
def monotonic_alignment(log_likelihood: Tensor, x_lengths: Tensor, y_lengths: Tensor) -> Tensor:
    """Return the likeliest path of frames through phonemes, as 1 where a frame is of a phoneme.

    Arguments, errors and source are those of :func:`alignment_durations`, which is all that a
    voice needs of it.

    Returns
    -------
    Tensor
        0 and 1, float32 of the shape of ``log_likelihood``, (batch, phonemes, frames).

    Example
    -------
    >>> likely = torch.tensor([[[0.0, 0.0, -9.0, -9.0], [-9.0, -9.0, 0.0, 0.0]]])
    >>> monotonic_alignment(likely, torch.tensor([2]), torch.tensor([4]))
    tensor([[[1., 1., 0., 0.],
             [0., 0., 1., 1.]]])
    """
    durations = alignment_durations(log_likelihood, x_lengths, y_lengths)
    ends = durations.cumsum(1)[:, :, None]
    frame = torch.arange(log_likelihood.shape[2], device=ends.device)
    return ((frame < ends) & (frame >= ends - durations[:, :, None])).float()


@torch.no_grad()
def alignment_durations(log_likelihood: Tensor, x_lengths: Tensor, y_lengths: Tensor) -> Tensor:
    """Find the durations under which the frames are likeliest, phonemes in order, none left out.

    A compiled loop does it (numba), on the CPU wherever the tensors are. Among equally likely ways
    a frame stays with the later phoneme.

    Arguments
    ---------
    log_likelihood : Tensor
        Of each frame under each phoneme, shape (batch, phonemes, frames); read as float32. No
        gradient flows through it. Copied unless frames are second in memory, as those of
        ``gaussian_log_likelihood`` are.
    x_lengths, y_lengths : Tensor
        Phonemes and frames of each item, shape (batch,).

    Returns
    -------
    Tensor
        Frames of each phoneme, int64 of shape (batch, phonemes): at least 1 for each of an item's
        own, 0 for padding, ``y_lengths`` in sum.

    Raises
    ------
    ValueError
        If an item has fewer frames than phonemes, no phonemes, or more of either than there are.

    Source: Kim et al., "Glow-TTS", NeurIPS 2020, algorithm 1; VITS (arXiv 2106.06103), section
    2.2.1, eq. 6. Deviates: returns durations, which hold the same as the path of 0s and 1s.

    Example
    -------
    >>> likely = torch.tensor([[[0.0, 0.0, -9.0, -9.0], [-9.0, -9.0, 0.0, 0.0]]])
    >>> alignment_durations(likely, torch.tensor([2]), torch.tensor([4]))
    tensor([[2, 2]])
    """
    _check_lengths(log_likelihood, x_lengths, y_lengths)
    by_frame = log_likelihood.detach().float().transpose(1, 2).contiguous()
    if by_frame.is_cuda:  # pinned, it comes ten times as fast
        by_frame = torch.empty(by_frame.shape, pin_memory=True).copy_(by_frame)
    x_array, y_array = (lengths.cpu().long().numpy() for lengths in (x_lengths, y_lengths))
    durations = _compiled()(by_frame.numpy(), x_array, y_array)
    return torch.from_numpy(durations).to(log_likelihood.device)


def expand(x: Tensor, durations: Tensor, frames: int) -> Tensor:
    """Repeat each phoneme's values over its frames.

    Arguments
    ---------
    x : Tensor
        Shape (batch, channels, phonemes).
    durations : Tensor
        Whole frames of each phoneme, shape (batch, phonemes).
    frames : int
        To return: an item's later ones are 0, and what does not fit is left off.

    Returns
    -------
    Tensor
        Shape (batch, channels, frames).

    Source: VITS (arXiv 2106.06103), section 2.2.1. Deviates: a gather instead of a product with the
    path.

    Example
    -------
    >>> expand(torch.tensor([[[5.0, 7.0]]]), torch.tensor([[1, 2]]), frames=4)
    tensor([[[5., 7., 7., 0.]]])
    """
    ends = durations.long().cumsum(1)
    frame = torch.arange(frames, device=x.device).expand(len(x), frames).contiguous()
    phoneme = torch.searchsorted(ends, frame, right=True).clamp_max(x.shape[2] - 1)
    spread = x.gather(2, phoneme[:, None].expand(-1, x.shape[1], -1))
    return spread.masked_fill((frame >= ends[:, -1:])[:, None], 0)


def gaussian_log_likelihood(latent: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Return how likely each frame is under each phoneme's Gaussian, in float32.

    Arguments
    ---------
    latent : Tensor
        Frames, shape (batch, channels, frames).
    mean, log_scale : Tensor
        Of each phoneme, shape (batch, channels, phonemes).

    Returns
    -------
    Tensor
        Natural logarithm of the density, summed over channels, shape (batch, phonemes, frames);
        frames are second in memory, as the search reads them.

    Source: USAT (arXiv 2404.18094), the prior of eq. 7; VITS (arXiv 2106.06103), eq. 6. The square
    is multiplied out, so that two matrix products do it.

    Example
    -------
    >>> zero = torch.zeros(1, 2, 1)
    >>> gaussian_log_likelihood(torch.tensor([[[0.0, 1.0], [0.0, 0.0]]]), zero, zero)
    tensor([[[-1.8379, -2.3379]]])
    """
    with torch.autocast(latent.device.type, enabled=False):
        latent, mean, log_scale = latent.float(), mean.float(), log_scale.float()
        precision = torch.exp(-2 * log_scale)
        constant = -0.5 * math.log(2 * math.pi) - log_scale - 0.5 * mean.square() * precision
        by_frame = latent.mT  # (batch, frames, channels)
        square = by_frame.square() @ (-0.5 * precision)
        return (square + by_frame @ (mean * precision) + constant.sum(1, keepdim=True)).mT


def diagonal_guide(
    x_lengths: Tensor, y_lengths: Tensor, phonemes: int, frames: int, width: float = 0.1
) -> Tensor:
    """Return a log-likelihood that is highest where phonemes and frames are equally far along.

    Added to that of an untrained model, it keeps the search from giving one phoneme almost all
    frames, from which nothing is learnt.

    Arguments
    ---------
    x_lengths, y_lengths : Tensor
        Phonemes and frames of each item, shape (batch,).
    phonemes, frames : int
        To return, padding included.
    width : float
        Standard deviation of a bell over the difference of the two shares, in (0, 1].

    Returns
    -------
    Tensor
        Shape (batch, phonemes, frames), 0 at most; frames are second in memory. Padding
        has some value.

    Source: Tachibana, Uenoyama, Aihara, "Efficiently Trainable Text-to-Speech System Based on Deep
    Convolutional Networks with Guided Attention", ICASSP 2018, eq. 14: its penalty is that of a
    bell, ours its logarithm, and between middles, not beginnings.

    Example
    -------
    >>> diagonal_guide(torch.tensor([2]), torch.tensor([4]), 2, 4, width=0.5)
    tensor([[[-0.0312, -0.0312, -0.2812, -0.7812],
             [-0.7812, -0.2812, -0.0312, -0.0312]]])
    """
    x, y = (
        (torch.arange(longest, device=lengths.device) + 0.5) / lengths[:, None]
        for lengths, longest in ((x_lengths, phonemes), (y_lengths, frames))
    )
    return (-0.5 * ((y[:, :, None] - x[:, None]) / width).square()).mT


def _check_lengths(log_likelihood: Tensor, x_lengths: Tensor, y_lengths: Tensor) -> None:
    phonemes, frames = log_likelihood.shape[1:]
    fits = (x_lengths >= 1) & (x_lengths <= y_lengths)
    fits = fits & (x_lengths <= phonemes) & (y_lengths <= frames)
    if fits.all():
        return
    item = int((~fits).nonzero()[0])
    x, y = int(x_lengths[item]), int(y_lengths[item])
    if 1 <= x <= phonemes and y < x:
        raise ValueError(
            f"item {item} has {y} frames for {x} phonemes, each of which needs one: leave such "
            "clips out, or do not put blanks between their phonemes"
        )
    raise ValueError(
        f"item {item} has lengths of {x} phonemes and {y} frames, but log_likelihood has room for "
        f"1 to {phonemes} and up to {frames}: pass each item's own lengths"
    )


@cache
def _compiled() -> Search:
    """Return the search as machine code; kept on disk, so that only the first process compiles."""
    import numba
    import numpy as np

    @numba.njit(nogil=True, cache=True)
    def search(log_likelihood, x_lengths, y_lengths):  # type: ignore[no-untyped-def]
        batch, frames, phonemes = log_likelihood.shape
        durations = np.zeros((batch, phonemes), dtype=np.int64)
        moved = np.empty((frames, phonemes), dtype=np.bool_)
        # The best sum that ends at a phoneme and one of the last two frames; nothing is before the
        # first phoneme.
        best = np.empty((2, phonemes + 1), dtype=np.float32)
        for item in range(batch):
            last_x, last_y = x_lengths[item], y_lengths[item]
            best[:] = -np.inf
            best[0, 1] = log_likelihood[item, 0, 0]
            for y in range(1, last_y):
                # Others are not reached yet, or leave too few frames for the phonemes after them.
                low, high = max(0, last_x + y - last_y), min(last_x, y + 1)
                move, stay = best[(y - 1) % 2, low:high], best[(y - 1) % 2, low + 1 : high + 1]
                here, new = log_likelihood[item, y, low:high], best[y % 2, low + 1 : high + 1]
                steps = moved[y, low:high]
                # Plain indices from 0 and a choice without max: else several at a time do not go.
                for x in range(here.size):
                    before, same = move[x], stay[x]
                    steps[x] = before > same
                    new[x] = (before if before > same else same) + here[x]
            x = last_x - 1
            for y in range(last_y - 1, 0, -1):
                durations[item, x] += 1
                if x == y or moved[y, x]:
                    x -= 1
            durations[item, x] += 1
        return durations

    return search
