"""A growing bank of low-rank increments, of which each input gets its own mixture."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from speechcl.adapters.bank import BankLayer
from speechcl.adapters.layer import Adapter, AdapterLayer, WeightShape, check_rank
from speechcl.adapters.surgery import adapter_layers


@dataclass(frozen=True)
class RetrievedBank(Adapter):
    """W + sum of a_p B_p A_p over slots p, with weights a from outside (``slot_weights``).

    Arguments
    ---------
    slots : int
        Slots to start with, and to add whenever a layer grows.
    rank : int
        Rank of every slot.
    init_std : float, optional
        Deviation of A at the start, where B is zero; by default 1 / sqrt(columns). The released
        code has 1, which makes the first steps large.
    over_batch : bool
        All inputs of a batch share one mixture. It is then a weight, so that any layer can be
        adapted, also fused attention, and merged; each input's own needs layers that are called.

    Source
    ------
    Peng et al., "Scalable Language Model with Generalized Continual Learning", arXiv 2404.07470,
    ICLR 2024 (JARe). Deviates: each input has its own mixture by default, since one for a batch
    of a single task gives that task away.

    Example
    -------
    >>> from speechcl.adapters import insert
    >>> net = nn.Sequential(nn.Linear(4, 8))
    >>> _ = insert(net, RetrievedBank(slots=2, rank=1), targets="0")
    >>> with slot_weights(net, torch.tensor([[0.5, 0.5], [1.0, 0.0]])):
    ...     print(net(torch.ones(2, 4)).shape)
    torch.Size([2, 8])
    """

    slots: int = 4
    rank: int = 12
    init_std: float | None = None
    over_batch: bool = False

    def __post_init__(self) -> None:
        check_rank(self.rank)
        if self.slots < 1:
            raise ValueError(f"slots is {self.slots}: give at least 1")
        if self.init_std is not None and not self.init_std > 0:
            raise ValueError(
                f"init_std is {self.init_std}: give a number above 0, or the slots never learn"
            )

    def make(self, shape: WeightShape) -> RetrievedBankLayer:
        """Return a layer with fresh slots, all to be trained."""
        return RetrievedBankLayer(self, shape, kept=0, new=self.slots * self.rank)

    def remake(self, shape: WeightShape, tensors: Mapping[str, Tensor]) -> AdapterLayer:
        """Return a layer with as many slots as were saved."""
        # not by len(): a hostile file may claim many rows of nothing
        saved = (tensors[name].numel() for name in ("kept_down", "new_down"))
        kept, new = (numbers // shape.columns for numbers in saved)
        return RetrievedBankLayer(self, shape, kept=kept, new=new)


class RetrievedBankLayer(BankLayer):
    """One layer's slots, oldest first."""

    def __init__(self, spec: RetrievedBank, shape: WeightShape, kept: int, new: int) -> None:
        nn.Module.__init__(self)
        self.rank, self.init_std = spec.rank, spec.init_std
        self.mergeable = spec.over_batch
        BankLayer.__init__(self, spec.slots * spec.rank, shape, kept, new)
        self.slot_weights: Tensor | None
        self.register_buffer("slot_weights", None, persistent=False)
        self.copies = False

    def fresh_down(self, rank: int, shape: WeightShape) -> nn.Parameter:
        """Draw A from a normal distribution."""
        std = self.init_std if self.init_std is not None else 1 / math.sqrt(shape.columns)
        drawn = torch.empty(rank, shape.columns, dtype=shape.like.dtype, device="cpu")
        return nn.Parameter(drawn.normal_(std=std).to(shape.like.device))

    def weights(self) -> Tensor:
        """Return the weight of every term, shape (terms,) or (batch, terms)."""
        terms = len(self.kept_down) + len(self.new_down)
        if self.slot_weights is None:
            raise ValueError(
                "a RetrievedBank does not know which slots to use: run the model inside "
                "`with slot_weights(model, weights):`"
            )
        weights = self.slot_weights.repeat_interleave(self.rank, dim=-1)
        if weights.shape[-1] != terms:
            slots = terms // self.rank
            raise ValueError(
                f"{self.slot_weights.shape[-1]} slot weights for {slots} slots: give one each"
            )
        return weights

    def mix(self, z: Tensor) -> Tensor:
        """Weigh the responses (batch, ..., terms) of each input by its slots' weights."""
        weights = self.weights().to(z.dtype)
        if weights.ndim == 1:
            return z * weights
        if self.copies and len(weights) and len(z) % len(weights) == 0:
            weights = weights.repeat_interleave(len(z) // len(weights), dim=0)
        if len(weights) != len(z):
            raise ValueError(
                f"{len(weights)} inputs have slot weights, but a layer is given {len(z)}: adapt "
                "layers whose inputs keep the batch first, or use over_batch=True"
            )
        return z * weights.view(len(z), *[1] * (z.ndim - 2), z.shape[-1])

    def fold(self, matrix: Tensor) -> Tensor:
        """Return W with the mixture that the whole batch shares."""
        up, down = self.up().to(matrix.dtype), self.down().to(matrix.dtype)
        return torch.addmm(matrix, up * self.weights().to(matrix.dtype), down)


@contextmanager
def slot_weights(
    model: nn.Module, weights: Tensor, name: str = "default", copies: bool = False
) -> Iterator[None]:
    """Say for a while how much each slot of a bank acts.

    Arguments
    ---------
    model : nn.Module
        The model with its adapter.
    weights : Tensor
        Shape (batch, slots), or (slots,) for all inputs alike.
    name : str
        The adapter's.
    copies : bool
        Layers may be given several copies of each input, one after another, as by a beam search.

    Raises
    ------
    ValueError
        If a bank is made for one mixture a batch and ``weights`` has one an input.

    Example
    -------
    >>> from speechcl.adapters import insert, merge
    >>> net = nn.Sequential(nn.Linear(4, 8))
    >>> _ = insert(net, RetrievedBank(slots=2, rank=1, over_batch=True), targets="0")
    >>> with slot_weights(net, torch.tensor([0.0, 1.0])):
    ...     merge(net)  # for good, where one domain is all that is ever asked for
    """
    layers = _layers(model, name)
    if weights.ndim == 2 and any(layer.mergeable for layer in layers):
        raise ValueError("over_batch=True takes one mixture: give weights of shape (slots,)")
    try:
        for layer in layers:
            layer.slot_weights, layer.copies = weights, copies
        yield
    finally:
        _forget(layers)


def recall_slot_weights(
    model: nn.Module, weights: Tensor, outputs: Any, name: str = "default"
) -> None:
    """Give a bank its weights again for the backward pass, where checkpointing runs layers anew.

    Arguments
    ---------
    model, weights, name
        As given to ``slot_weights``.
    outputs
        What the model then gave: a tensor, or tuples, lists and dictionaries of them. The backward
        pass starts from them.

    Example
    -------
    >>> from speechcl.adapters import insert
    >>> from torch.utils.checkpoint import checkpoint
    >>> net, weights = nn.Sequential(nn.Linear(4, 8)), torch.tensor([0.5, 0.5])
    >>> _ = insert(net, RetrievedBank(slots=2, rank=1), targets="0")
    >>> with slot_weights(net, weights):
    ...     output = checkpoint(net, torch.ones(2, 4), use_reentrant=False)
    >>> recall_slot_weights(net, weights, output)
    >>> output.sum().backward()
    """
    layers = _layers(model, name)

    def recall(grad: Tensor) -> None:
        for layer in layers:
            layer.slot_weights = weights
        # at the end of this backward pass
        torch.autograd.Variable._execution_engine.queue_callback(lambda: _forget(layers))

    for output in pytree.tree_leaves(outputs):
        if isinstance(output, Tensor) and output.grad_fn is not None:
            output.register_hook(recall)


def _layers(model: nn.Module, name: str) -> list[RetrievedBankLayer]:
    return [
        layer
        for slots in adapter_layers(model, name).values()
        for layer in slots.values()
        if isinstance(layer, RetrievedBankLayer)
    ]


def _forget(layers: list[RetrievedBankLayer]) -> None:
    for layer in layers:
        layer.slot_weights, layer.copies = None, False
