"""From phonemes to the distribution of what is said, before anyone in particular says it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from speechcl.backbones.usat.dds_conv import ChannelNorm
from speechcl.backbones.usat.points import AdapterPoint
from speechcl.backbones.usat.posterior_encoder import mean_and_log_scale


class PhonemeEncoder(nn.Module):
    """A transformer over phonemes, with mean and log-scale of the latents of each.

    Arguments
    ---------
    symbols : int
        Phonemes that there are.
    channels : int
        Of the hidden values, a multiple of ``heads``.
    hidden_ffn : int
        Channels within the convolutions that follow each attention.
    latent : int
        Channels of the latents.
    heads, layers : int
        Of the attention, and how many layers of it.
    kernel : int
        Phonemes that each convolution sees.
    window : int
        Attention knows how far apart two phonemes are if no farther than this.
    dropout : float
        Of attention weights and of what attention and convolutions add.

    Source: VITS, arXiv 2106.06103, section 2.5.2; Vaswani et al., arXiv 1706.03762, section 3.4
    (scaled embedding). Deviates: the log-scale is at least -7; places for adapters.

    Example
    -------
    >>> encoder = PhonemeEncoder(symbols=30, channels=8, hidden_ffn=16, latent=4, layers=2)
    >>> h, mean, log_scale = encoder(torch.randint(30, (2, 5)), torch.ones(2, 1, 5))
    >>> h.shape, mean.shape, log_scale.shape
    (torch.Size([2, 8, 5]), torch.Size([2, 4, 5]), torch.Size([2, 4, 5]))
    """

    def __init__(
        self,
        symbols: int,
        channels: int,
        hidden_ffn: int,
        *,
        latent: int,
        heads: int = 2,
        layers: int = 6,
        kernel: int = 3,
        window: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(symbols, channels)
        nn.init.normal_(self.embed.weight, std=channels**-0.5)
        self.layers = nn.ModuleList(
            _Layer(
                RelativeAttention(channels, heads, window, dropout),
                _FeedForward(channels, hidden_ffn, kernel, dropout),
                channels,
                dropout,
            )
            for _ in range(layers)
        )
        self.leave = nn.Conv1d(channels, 2 * latent, 1)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return hidden values, and mean and log-scale of the latents, zero where ``mask`` is.

        Arguments
        ---------
        ids : Tensor
            Of phonemes, integers of shape (batch, time).
        mask : Tensor
            1 where there is a phoneme, shape (batch, 1, time).

        Returns
        -------
        tuple of Tensor
            Shapes (batch, channels, time), and twice (batch, latent, time).
        """
        h = (self.embed(ids) * self.embed.embedding_dim**0.5).transpose(1, 2)
        for layer in self.layers:
            h = layer(h, mask)
        h = h * mask
        mean, log_scale = mean_and_log_scale(self.leave(h), mask)
        return h, mean, log_scale


class RelativeAttention(nn.Module):
    """Self-attention with learned vectors for how far apart two items are.

    They are added to keys and values, the same for all heads, and are zero outside the window.

    Arguments
    ---------
    channels : int
        Of the input and output, a multiple of ``heads``.
    heads : int
        Of the attention.
    window : int
        Farthest distance that has a vector, on each side.
    dropout : float
        Of the attention weights.

    Raises
    ------
    ValueError
        If the heads do not share the channels evenly.

    Source: Shaw et al., arXiv 1803.02155, eq. 3 and 4. Deviates, as VITS does: distances outside
    the window have no vector, where the paper takes the farthest one. ``point``, on what the heads
    saw before its projection, is the phoneme adapter's place of USAT, arXiv 2404.18094, Fig. 6.

    Example
    -------
    >>> attention = RelativeAttention(channels=8, heads=2, window=2, dropout=0.0)
    >>> attention(torch.randn(1, 8, 5), torch.ones(1, 1, 5)).shape, attention.relative_keys.shape
    (torch.Size([1, 8, 5]), torch.Size([5, 4]))
    """

    def __init__(self, channels: int, heads: int, window: int, dropout: float) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"channels is {channels}: give a multiple of heads, which is {heads}")
        self.heads, self.window = heads, window
        self.query = nn.Conv1d(channels, channels, 1)
        self.key = nn.Conv1d(channels, channels, 1)
        self.value = nn.Conv1d(channels, channels, 1)
        for project in (self.query, self.key, self.value):
            nn.init.xavier_uniform_(project.weight)
        size = channels // heads
        self.relative_keys = nn.Parameter(torch.randn(2 * window + 1, size) * size**-0.5)
        self.relative_values = nn.Parameter(torch.randn(2 * window + 1, size) * size**-0.5)
        self.dropout = nn.Dropout(dropout)
        self.point = AdapterPoint(channels)
        self.output = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map (batch, channels, time) to the same; only where ``mask`` is not zero is looked at."""
        query, key, value = (
            project(x).unflatten(1, (self.heads, -1)).transpose(2, 3)  # (batch, heads, time, size)
            for project in (self.query, self.key, self.value)
        )
        query = query * query.shape[-1] ** -0.5
        scores = query @ key.mT + from_band(query @ self.relative_keys.mT)
        scores = scores.masked_fill(mask[:, None] == 0, torch.finfo(scores.dtype).min)
        weights = self.dropout(scores.softmax(-1))
        seen = weights @ value + to_band(weights, self.window) @ self.relative_values
        seen = seen.transpose(2, 3).flatten(1, 2) * mask
        return self.output(self.point(seen, mask))


def from_band(band: Tensor) -> Tensor:
    """Lay values of neighbours out as a square matrix, zero outside the window.

    Arguments
    ---------
    band : Tensor
        At [..., i, k] the value of i and its neighbour ``i + k - window``, shape
        (..., time, 2 window + 1).

    Returns
    -------
    Tensor
        At [..., i, j] the value of i and j, shape (..., time, time).

    Example
    -------
    >>> from_band(torch.tensor([[9.0, 1.0, 2.0], [3.0, 4.0, 5.0], [6.0, 7.0, 9.0]]))
    tensor([[1., 2., 0.],
            [3., 4., 5.],
            [0., 6., 7.]])
    """
    time, width = band.shape[-2:]
    # rows one longer than those they are cut into, so that each starts one place farther right
    cut = time + width - 1
    shifted = functional.pad(band, (0, time)).flatten(-2)[..., : time * cut]
    return shifted.unflatten(-1, (time, cut))[..., width // 2 : width // 2 + time]


def to_band(square: Tensor, window: int) -> Tensor:
    """Return the entries of a square matrix that belong to neighbours, zero outside it.

    Arguments
    ---------
    square : Tensor
        Shape (..., time, time).
    window : int
        Farthest neighbour, on each side.

    Returns
    -------
    Tensor
        At [..., i, k] the entry of i and ``i + k - window``, shape (..., time, 2 window + 1).

    Example
    -------
    >>> to_band(torch.tensor([[1.0, 2.0, 0.0], [3.0, 4.0, 5.0], [0.0, 6.0, 7.0]]), window=1)
    tensor([[0., 1., 2.],
            [3., 4., 5.],
            [6., 7., 0.]])
    """
    time = square.shape[-1]
    flat = functional.pad(square, (window, window)).flatten(-2)
    cut = functional.pad(flat, (0, time)).unflatten(-1, (time, time + 2 * window + 1))
    return cut[..., : 2 * window + 1]


class _Layer(nn.Module):
    """Attention and convolutions, each added to what came in, then normed."""

    def __init__(
        self,
        attention: RelativeAttention,
        feed_forward: _FeedForward,
        channels: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.attention, self.feed_forward = attention, feed_forward
        self.attention_norm, self.feed_forward_norm = ChannelNorm(channels), ChannelNorm(channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.attention_norm(x + self.dropout(self.attention(x, mask)))
        return self.feed_forward_norm(x + self.dropout(self.feed_forward(x, mask)))


class _FeedForward(nn.Module):
    """Two convolutions over neighbouring phonemes."""

    def __init__(self, channels: int, hidden: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.widen = nn.Conv1d(channels, hidden, kernel, padding="same")
        self.narrow = nn.Conv1d(hidden, channels, kernel, padding="same")
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        hidden = self.dropout(torch.relu(self.widen(x * mask)))
        return self.narrow(hidden * mask)
