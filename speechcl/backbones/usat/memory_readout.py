"""What the waveform decoder gets to see: a mixture of learned memory slots."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class MemoryReadout(nn.Module):
    """Ask a learned memory with each frame, and give back only what the memory holds.

    Nothing of the frame is added to the answer, or the memory could be passed by.

    Arguments
    ---------
    channels : int
        Of the latents and of the answer, a multiple of ``heads``.
    slots : int
        Entries of the memory.
    slot_channels : int
        Size of an entry.
    heads : int
        Of the attention.

    Raises
    ------
    ValueError
        If the heads do not share the channels evenly.

    Source: USAT, arXiv 2404.18094, eq. 1 to 3. The paper does not give sizes and start; maps begin
    as Glorot and Bengio (AISTATS 2010) advise, slots as normal noise.

    Example
    -------
    >>> memory = MemoryReadout(channels=4, slots=10, slot_channels=6)
    >>> z = torch.randn(1, 4, 3)
    >>> memory(z, torch.ones(1, 1, 3)).shape, memory.attention(z).sum(-1).round(decimals=4)
    (torch.Size([1, 4, 3]), tensor([[[1., 1., 1.],
             [1., 1., 1.]]], grad_fn=<RoundBackward1>))
    """

    def __init__(self, channels: int, slots: int, slot_channels: int, heads: int = 2) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"channels is {channels}: give a multiple of heads, which is {heads}")
        self.heads = heads
        self.memory = nn.Parameter(torch.randn(slots, slot_channels))  # M
        self.query = nn.Linear(channels, channels, bias=False)  # W_q
        self.key = nn.Linear(slot_channels, channels, bias=False)  # W_k
        self.value = nn.Linear(slot_channels, channels, bias=False)  # W_v
        self.output = nn.Linear(channels, channels, bias=False)  # W_o
        for linear in (self.query, self.key, self.value, self.output):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, z: Tensor, mask: Tensor) -> Tensor:
        """Return what the memory answers to each frame, zero where ``mask`` is.

        Arguments
        ---------
        z : Tensor
            Latents, shape (batch, channels, time).
        mask : Tensor
            1 where there is something, shape (batch, 1, time).

        Returns
        -------
        Tensor
            Shape (batch, channels, time).
        """
        query, key = self._queries_and_keys(z)
        value = self._split(self.value(self.memory))
        # all frames of the batch as one sequence: keys and values are the same for all
        answer = functional.scaled_dot_product_attention(query[None], key[None], value[None])
        joined = answer[0].transpose(0, 1).flatten(1)  # (batch * time, channels)
        return self.output(joined).unflatten(0, (len(z), -1)).transpose(1, 2) * mask

    def attention(self, z: Tensor) -> Tensor:
        """Return how much of each slot each frame gets, shape (batch, heads, time, slots)."""
        query, key = self._queries_and_keys(z)
        scores = query @ key.mT * query.shape[-1] ** -0.5
        return scores.softmax(-1).unflatten(1, (len(z), -1)).transpose(0, 1)

    def _queries_and_keys(self, z: Tensor) -> tuple[Tensor, Tensor]:
        frames = z.transpose(1, 2).flatten(0, 1)
        return self._split(self.query(frames)), self._split(self.key(self.memory))

    def _split(self, rows: Tensor) -> Tensor:
        """Part (rows, channels) into heads, (heads, rows, channels / heads)."""
        return rows.unflatten(1, (self.heads, -1)).transpose(0, 1)
