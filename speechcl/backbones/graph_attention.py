"""Graph attention over speech nodes: one kind of node, two kinds with a stack node, pooling."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

Norm = Literal["group", "batch"]


def normalisation(kind: Norm, channels: int, batch: type[nn.Module]) -> nn.Module:
    """Return ``batch(channels)``, or 8 groups (1 if 8 does not divide) over one item alone.

    Example
    -------
    >>> normalisation("group", 24, nn.BatchNorm1d), normalisation("batch", 2, nn.BatchNorm1d)
    (GroupNorm(8, 24, eps=1e-05, affine=True), BatchNorm1d(2, eps=1e-05, ...))
    """
    if kind == "batch":
        return batch(channels)
    if kind == "group":
        return nn.GroupNorm(8 if channels % 8 == 0 else 1, channels)
    raise ValueError(f"norm is '{kind}': give 'group' or 'batch'")


def _vector(width: int) -> nn.Parameter:
    """Return scoring weights (width, 1)."""
    return nn.Parameter(nn.init.xavier_normal_(torch.empty(width, 1)))


def _products(nodes: Tensor) -> Tensor:
    """Multiply every node with every other: (batch, nodes, width) to (batch, i, j, width)."""
    return nodes[:, :, None] * nodes[:, None]


class NodeUpdate(nn.Module):
    """Mix what a node attends to with what it is: ``SELU(norm(W_1 sum_j a_ij h_j + W_2 h_i))``.

    Arguments
    ---------
    into, out : int
        Widths of a node before and after.
    norm : "group" or "batch"
        ``batch`` is the paper's, over all nodes of all clips. ``group`` is over 8 groups of
        channels and all nodes of one clip: it keeps, as the paper's does, how nodes compare with
        each other (the pooling gates live on that), has no running statistics, and a clip's
        result does not hang on its batch.

    Example
    -------
    >>> NodeUpdate(4, 8)(torch.zeros(1, 3, 4), torch.full((1, 3, 3), 1 / 3)).shape
    torch.Size([1, 3, 8])
    """

    def __init__(self, into: int, out: int, norm: Norm = "group") -> None:
        super().__init__()
        self.from_neighbours = nn.Linear(into, out)
        self.from_self = nn.Linear(into, out)
        self.norm = normalisation(norm, out, nn.BatchNorm1d)

    def forward(self, nodes: Tensor, attention: Tensor) -> Tensor:
        """Return nodes (batch, nodes, out) from (batch, nodes, into) and (batch, i, j)."""
        mixed = self.from_neighbours(attention @ nodes) + self.from_self(nodes)
        return nn.functional.selu(self.norm(mixed.transpose(1, 2)).transpose(1, 2))


class GraphAttention(nn.Module):
    """Attention on a complete graph: ``s_ij = w' tanh(W (h_i * h_j) + b) / temperature``.

    The scores are symmetric; the attention, a softmax over j, is not.

    Arguments
    ---------
    into, out : int
        Widths of a node before and after.
    temperature : float
        The higher, the more even the attention.
    norm : "group" or "batch"
        That of ``NodeUpdate``.
    dropout : float
        On the input.

    Source: AASIST (Jung et al. 2022), section 2.2, official code. Deviates: ``norm``.

    Example
    -------
    >>> layer = GraphAttention(4, 8)
    >>> layer(torch.ones(1, 3, 4)).shape, layer.attention(torch.ones(1, 3, 4))[0, 0]
    (torch.Size([1, 3, 8]), tensor([0.3333, 0.3333, 0.3333], grad_fn=<SelectBackward0>))
    """

    def __init__(
        self,
        into: int,
        out: int,
        temperature: float = 1.0,
        norm: Norm = "group",
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.dropout = nn.Dropout(dropout)
        self.pair = nn.Linear(into, out)
        self.score = _vector(out)
        self.update = NodeUpdate(into, out, norm)

    def forward(self, nodes: Tensor) -> Tensor:
        """Return nodes (batch, nodes, out) from (batch, nodes, into)."""
        nodes = self.dropout(nodes)
        return self.update(nodes, self.attention(nodes))

    def attention(self, nodes: Tensor) -> Tensor:
        """Return how much i attends to j, (batch, i, j); rows sum to 1."""
        hidden = torch.tanh(self.pair(_products(nodes)))  # (batch, i, j, out)
        scores = (hidden @ self.score).squeeze(-1)
        return (scores / self.temperature).softmax(dim=-1)


class HeterogeneousGraphAttention(nn.Module):
    """Attention over nodes of two kinds, and a stack node that reads them and is not read.

    Both kinds are projected first. Pairs within the first kind, within the second, and across are
    scored by a vector each; one softmax runs over the nodes of both.

    Arguments
    ---------
    into, out : int
        Widths of a node before and after.
    temperature : float
        The higher, the more even the attention.
    norm : "group" or "batch"
        That of ``NodeUpdate``; the stack node has none, nor an activation.
    dropout : float
        On the projected nodes.

    Source: AASIST (Jung et al. 2022), section 3.1 (HS-GAL), official code. Deviates: ``norm``.

    Example
    -------
    >>> layer = HeterogeneousGraphAttention(4, 8)
    >>> first, second, stack = torch.ones(1, 3, 4), torch.ones(1, 2, 4), torch.ones(1, 1, 4)
    >>> [tuple(nodes.shape) for nodes in layer(first, second, stack)]
    [(1, 3, 8), (1, 2, 8), (1, 1, 8)]
    """

    def __init__(
        self,
        into: int,
        out: int,
        temperature: float = 1.0,
        norm: Norm = "group",
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.dropout = nn.Dropout(dropout)
        self.project_first = nn.Linear(into, into)
        self.project_second = nn.Linear(into, into)
        self.pair = nn.Linear(into, out)
        self.score_first, self.score_second, self.score_across = (_vector(out) for _ in range(3))
        self.update = NodeUpdate(into, out, norm)
        self.stack_pair = nn.Linear(into, out)
        self.stack_score = _vector(out)
        self.stack_from_nodes = nn.Linear(into, out)
        self.stack_from_self = nn.Linear(into, out)

    def forward(self, first: Tensor, second: Tensor, stack: Tensor) -> tuple[Tensor, ...]:
        """Return both kinds of nodes and the stack node.

        Arguments
        ---------
        first, second : Tensor
            Shapes (batch, n, into) and (batch, m, into).
        stack : Tensor
            Shape (batch or 1, 1, into).

        Returns
        -------
        tuple
            Shapes (batch, n, out), (batch, m, out) and (batch, 1, out).
        """
        nodes = torch.cat([self.project_first(first), self.project_second(second)], dim=1)
        nodes = self.dropout(nodes)
        updated = self.update(nodes, self.attention(nodes, first.shape[1]))
        summary = self.stack_attention(nodes, stack) @ nodes  # (batch, 1, into)
        stack = self.stack_from_nodes(summary) + self.stack_from_self(stack)
        return updated[:, : first.shape[1]], updated[:, first.shape[1] :], stack

    def attention(self, nodes: Tensor, first: int) -> Tensor:
        """Return how much i attends to j, (batch, i, j); the first ``first`` are of one kind."""
        vectors = torch.cat([self.score_first, self.score_across, self.score_second], dim=1)
        kind = (torch.arange(nodes.shape[1], device=nodes.device) >= first).long()
        weights = vectors.T[kind[:, None] + kind]  # (i, j, out)
        hidden = torch.tanh(self.pair(_products(nodes)))  # (batch, i, j, out)
        return ((hidden * weights).sum(-1) / self.temperature).softmax(dim=-1)

    def stack_attention(self, nodes: Tensor, stack: Tensor) -> Tensor:
        """Return how much the stack node attends to each node, (batch, 1, nodes)."""
        hidden = torch.tanh(self.stack_pair(nodes * stack))
        scores = (hidden @ self.stack_score).transpose(1, 2)
        return (scores / self.temperature).softmax(dim=-1)


class GraphPool(nn.Module):
    """Keep the nodes with the largest gates, in that order, each times its gate.

    Arguments
    ---------
    width : int
        Of a node.
    keep : float
        Share of the nodes, rounded down, but at least one.
    dropout : float
        On what the gates see.

    Source: Graph U-Nets (Gao and Ji 2019), as AASIST uses them. Equal gates may come in any order.

    Example
    -------
    >>> GraphPool(4, keep=0.5)(torch.ones(1, 5, 4)).shape
    torch.Size([1, 2, 4])
    """

    def __init__(self, width: int, keep: float, dropout: float = 0.3) -> None:
        super().__init__()
        self.keep = keep
        self.dropout = nn.Dropout(dropout)
        self.gate = nn.Linear(width, 1)

    def forward(self, nodes: Tensor) -> Tensor:
        """Return nodes (batch, kept, width) from (batch, nodes, width)."""
        gates = self.gate(self.dropout(nodes)).sigmoid()  # (batch, nodes, 1)
        kept, order = gates.topk(max(math.floor(nodes.shape[1] * self.keep), 1), dim=1)
        return nodes.take_along_dim(order, dim=1) * kept
