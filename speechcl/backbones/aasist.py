"""AASIST and AASIST-L: raw waveforms, a residual encoder, and graphs over frequency and time."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from speechcl.backbones.graph_attention import (
    GraphAttention,
    GraphPool,
    HeterogeneousGraphAttention,
    Norm,
    normalisation,
)
from speechcl.backbones.sinc import SincBank

Preactivation = Literal["official", "intended"]
FILTERS, TAPS, NODE_WIDTH, BLOCKS, POOL = 70, 129, 32, 6, 3
SHORTEST = POOL ** (BLOCKS + 1) + TAPS - 1  # samples that leave one temporal node


class Size(NamedTuple):
    """Width of the deeper encoder blocks, and the share of nodes that each kind of pool keeps."""

    width: int
    keep_spectral: float
    keep_temporal: float
    keep_in_branch: float


SIZES = {"AASIST": Size(64, 0.5, 0.7, 0.5), "AASIST-L": Size(24, 0.4, 0.5, 0.7)}


class ResidualBlock(nn.Module):
    """Two convolutions over (frequency, time), a shortcut, and a third of the frames.

    Arguments
    ---------
    into, out : int
        Channels.
    preact : None, "official" or "intended"
        ``intended``: norm and SELU of the input stand before the first convolution.
        ``official``: they have no effect; with batch norm the layer is kept, frozen, and its
        running statistics move in training. None: there is no such layer (the first block).
    norm : "group" or "batch"
        Of 8 groups of channels over one clip, or over the batch.

    Example
    -------
    >>> ResidualBlock(1, 32)(torch.zeros(2, 1, 23, 90)).shape
    torch.Size([2, 32, 23, 30])
    """

    def __init__(
        self, into: int, out: int, preact: Preactivation | None = None, norm: Norm = "group"
    ) -> None:
        super().__init__()
        self.preact = preact
        self.norm1: nn.Module | None = None
        if preact == "intended" or (preact == "official" and norm == "batch"):
            self.norm1 = normalisation(norm, into, nn.BatchNorm2d)
            self.norm1.requires_grad_(preact == "intended")
        self.conv1 = nn.Conv2d(into, out, (2, 3), padding=(1, 1))
        self.norm2 = normalisation(norm, out, nn.BatchNorm2d)
        self.conv2 = nn.Conv2d(out, out, (2, 3), padding=(0, 1))
        self.shortcut: nn.Module = nn.Identity()
        if into != out:
            self.shortcut = nn.Conv2d(into, out, (1, 3), padding=(0, 1))
        self.pool: nn.Module = nn.MaxPool2d((1, POOL))

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, out, freq, time / 3) from (batch, into, freq, time)."""
        return self.pool(self.convolve(x))

    def convolve(self, x: Tensor) -> Tensor:
        """Return what is pooled, (batch, out, freq, time); a frame sees two on either side."""
        y = self.norm2(self.conv1(self._preactivated(x)))  # one row of frequency more
        y = self.conv2(functional.selu(y, inplace=True))
        y += self.shortcut(x)
        return y

    def _preactivated(self, x: Tensor) -> Tensor:
        if self.norm1 is None:
            return x
        if self.preact == "intended":
            return functional.selu(self.norm1(x), inplace=True)
        if self.norm1.training:
            with torch.no_grad():
                self.norm1(x)  # for its running statistics alone
        return x


class Branch(nn.Module):
    """One of the two inference branches, with weights and a stack node of its own.

    Example
    -------
    >>> branch = Branch(SIZES["AASIST"], norm="group")
    >>> [tuple(nodes.shape) for nodes in branch(torch.ones(2, 20, 64), torch.ones(2, 11, 64))]
    [(2, 10, 32), (2, 5, 32), (2, 1, 32)]
    """

    def __init__(self, size: Size, norm: Norm, temperature: float = 100.0) -> None:
        super().__init__()
        self.stack_node = nn.Parameter(torch.randn(1, 1, size.width))
        self.attend1 = HeterogeneousGraphAttention(size.width, NODE_WIDTH, temperature, norm)
        self.pool_temporal = GraphPool(NODE_WIDTH, size.keep_in_branch)
        self.pool_spectral = GraphPool(NODE_WIDTH, size.keep_in_branch)
        self.attend2 = HeterogeneousGraphAttention(NODE_WIDTH, NODE_WIDTH, temperature, norm)
        self.dropout = nn.Dropout(0.2)

    def forward(self, temporal: Tensor, spectral: Tensor) -> list[Tensor]:
        """Return temporal, spectral and stack nodes, (batch, nodes, 32) each."""
        temporal, spectral, stack = self.attend1(temporal, spectral, self.stack_node)
        before = self.pool_temporal(temporal), self.pool_spectral(spectral), stack
        change = self.attend2(*before)
        return [self.dropout(x + more) for x, more in zip(before, change, strict=True)]


class AASIST(nn.Module):
    """Spoofing detector on raw speech; logit 1 is for bona fide, logit 0 for spoof.

    With ``norm="batch"`` it has the published 297,866 parameters (``AASIST-L``: 85,306).

    Arguments
    ---------
    size : "AASIST" or "AASIST-L"
        As published.
    preact : "official" or "intended"
        The official code computes the pre-activation of blocks 2 to 6 and then passes the raw
        input on. ``official`` does as the published weights were trained: these norms have no
        effect. Their ten tensors never get a gradient, so they are frozen; otherwise
        DistributedDataParallel would wait for them. ``intended`` applies norm and SELU.
    norm : "group" or "batch"
        ``batch`` is the paper's. ``group``, for learning task after task, has no running
        statistics that drift: a clip's output depends on that clip alone, so that batches may be
        split over processes. The encoder and the graph layers take 8 groups of channels over a
        whole clip, the first norm standardises the clip. With ``preact="official"`` the norms
        without effect are left out (512 parameters fewer; ``AASIST-L``: 272).
    frequency_mask : int
        Up to so many neighbouring filters are zeroed in training (see ``SincBank``).

    Source: AASIST (Jung et al., ICASSP 2022), official code. Deviates: ``norm``. As there, branches
    are compared node by node in order of their pooling gates, and the highest of the 70 filters is
    never looked at.

    Example
    -------
    >>> net = AASIST(norm="batch").eval()
    >>> sum(p.numel() for p in net.parameters())
    297866
    >>> logits, embedding = net(torch.zeros(2, 8000))
    >>> logits.shape, embedding.shape
    (torch.Size([2, 2]), torch.Size([2, 160]))
    """

    def __init__(
        self,
        size: str = "AASIST",
        preact: Preactivation = "official",
        norm: Norm = "group",
        frequency_mask: int = 0,
    ) -> None:
        super().__init__()
        if size not in SIZES:
            raise ValueError(f"size is '{size}': give one of {', '.join(SIZES)}")
        if preact not in ("official", "intended"):
            raise ValueError(f"preact is '{preact}': give 'official' or 'intended'")
        shape = SIZES[size]
        width = shape.width
        self.filters = SincBank(FILTERS, TAPS, frequency_mask=frequency_mask)
        self.pool: nn.Module = nn.MaxPool2d(POOL)  # 70 = 3 x 23 + 1: the last is cut off
        self.first_norm = normalisation(norm, 1, nn.BatchNorm2d)
        channels = [32, 32, width, width, width, width]
        self.encoder: nn.Module = nn.Sequential(
            ResidualBlock(1, channels[0], None, norm),
            *(ResidualBlock(*pair, preact, norm) for pair in pairwise(channels)),
        )
        self.position = nn.Parameter(torch.randn(1, FILTERS // POOL, width))
        self.attend_spectral = GraphAttention(width, width, 2.0, norm)
        self.attend_temporal = GraphAttention(width, width, 2.0, norm)
        self.pool_spectral = GraphPool(width, shape.keep_spectral)
        self.pool_temporal = GraphPool(width, shape.keep_temporal)
        self.branches = nn.ModuleList(Branch(shape, norm) for _ in range(2))
        self.dropout = nn.Dropout(0.5)
        self.classify = nn.Linear(5 * NODE_WIDTH, 2)

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """Score waveforms in [-1, 1] at 16 kHz.

        Arguments
        ---------
        waveform : Tensor
            Shape (batch, time), 2,315 samples or more; published weights expect 64,600.

        Returns
        -------
        tuple
            Logits (batch, 2) and the embedding (batch, 160), before its dropout.

        Raises
        ------
        ValueError
            If the waveform is not of two dimensions, or too short for a single node.
        """
        if waveform.ndim != 2:
            raise ValueError(f"a waveform is of shape (batch, time), not {tuple(waveform.shape)}")
        if waveform.shape[1] < SHORTEST:
            raise ValueError(
                f"{waveform.shape[1]} samples are too few for AASIST: give at least {SHORTEST}"
            )
        embedding = self.read_out(self.encoder(self.front(waveform)))
        return self.classify(self.dropout(embedding)), embedding

    def front(self, waveform: Tensor) -> Tensor:
        """Return the filters' magnitudes (batch, 1, 23, (time - 128) / 3) of (batch, time)."""
        magnitude = self.pool(self.filters(waveform).abs()[:, None])
        return functional.selu(self.first_norm(magnitude), inplace=True)

    def read_out(self, maps: Tensor) -> Tensor:
        """Return the embedding (batch, 160) of encoder maps (batch, width, 23, time)."""
        spectral = maps.abs().amax(dim=3).transpose(1, 2) + self.position  # (batch, 23, width)
        temporal = maps.abs().amax(dim=2).transpose(1, 2)  # (batch, time, width)
        spectral = self.pool_spectral(self.attend_spectral(spectral))
        temporal = self.pool_temporal(self.attend_temporal(temporal))
        both = (branch(temporal, spectral) for branch in self.branches)
        temporal, spectral, stack = (torch.maximum(a, b) for a, b in zip(*both, strict=True))
        return torch.cat(
            [
                temporal.abs().amax(dim=1),
                temporal.mean(dim=1),
                spectral.abs().amax(dim=1),
                spectral.mean(dim=1),
                stack.squeeze(1),
            ],
            dim=1,
        )
