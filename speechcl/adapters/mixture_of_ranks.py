"""A growing bank of rank-one atoms that each token selects by itself."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from speechcl.adapters.bank import BankLayer
from speechcl.adapters.layer import Adapter, AdapterLayer, WeightShape, check_rank
from speechcl.adapters.reachability import call
from speechcl.adapters.surgery import adapter_layers
from speechcl.memory.snapshot import evaluating

logger = logging.getLogger(__name__)

FEWEST = 2  # with one active atom its weight is always 1 and the routing has no gradient


@dataclass(frozen=True)
class MixtureOfRanks(Adapter):
    """Rank-one atoms beside a frozen weight, of which every token uses those that answer most.

    Atom i reads with a key ``A_i`` and writes a value ``B_i``. Its score is its response
    ``z_i = A_i x`` over the norm of all responses to that token; the best few are weighed by a
    softmax of their scores. A layer can ``grow`` new atoms and ``freeze`` what it has, so old
    knowledge stays and is found by its own keys. It depends on the input and cannot be merged.

    Arguments
    ---------
    rank : int
        Atoms to start with, and to add whenever a layer grows.
    active : int
        Most atoms that a token uses (k); at least 2, or the routing would not learn.
    temperature : float
        Of the softmax (tau); with high ones the atoms share alike, as in LoRA.
    threshold : float
        Smallest score of an atom in evaluation (delta); training uses all that are selected.
    threshold_mode : str
        "absolute", as published, or "relative": the threshold is for 16 atoms and falls with the
        root of their number, as scores do. A fixed one turns large banks off: with random keys of
        768 inputs, 0.2 leaves an atom to 99 % of the tokens at 16 atoms but to 4 % at 320.

    Raises
    ------
    ValueError
        If an argument is out of its range.

    Source
    ------
    "Little By Little: Continual Learning via Self-Activated Sparse Mixture-of-Rank Adaptive
    Learning", arXiv 2506.21035, and its released code (as MoRAM). Deviates: no scale and no dropout
    of the input; the relative threshold is ours.

    Example
    -------
    >>> layer = MixtureOfRanks(rank=2).make(WeightShape(4, 3, torch.zeros(1)))
    >>> layer.grow()
    >>> layer.down().shape, layer.up().shape
    (torch.Size([4, 3]), torch.Size([4, 4]))
    """

    rank: int = 16
    active: int = 16
    temperature: float = 0.01
    threshold: float = 0.2
    threshold_mode: str = "absolute"

    def __post_init__(self) -> None:
        check_rank(self.rank)
        if not isinstance(self.active, int) or self.active < 1:
            raise ValueError(f"active is {self.active}: give a whole number of at least 1")
        if not 0 < self.temperature < math.inf or not math.isfinite(self.threshold):
            raise ValueError(
                f"temperature is {self.temperature} and threshold {self.threshold}: "
                "use finite numbers, and a temperature above 0"
            )
        if self.threshold_mode not in ("absolute", "relative"):
            raise ValueError(
                f"threshold_mode is '{self.threshold_mode}': choose absolute or relative"
            )
        if self.active < FEWEST:
            logger.warning("active is %d, but %d atoms will be used", self.active, FEWEST)

    def make(self, shape: WeightShape) -> MixtureOfRanksLayer:
        """Return a layer with ``rank`` fresh atoms, all to be trained."""
        return MixtureOfRanksLayer(self, shape, kept=0, new=self.rank)

    def remake(self, shape: WeightShape, tensors: Mapping[str, Tensor]) -> AdapterLayer:
        """Return a layer with as many atoms as were saved."""
        # not by len(): a hostile file may claim many rows of nothing
        saved = (tensors[name].numel() for name in ("kept_down", "new_down"))
        kept, new = (numbers // shape.columns for numbers in saved)
        return MixtureOfRanksLayer(self, shape, kept=kept, new=new)


class MixtureOfRanksLayer(BankLayer):
    """One layer's atoms: those of former tasks, which are frozen, and the new ones."""

    mergeable = False

    def __init__(self, spec: MixtureOfRanks, shape: WeightShape, kept: int, new: int) -> None:
        super().__init__(spec.rank, shape, kept, new)
        self.router = Router(spec)

    def mix(self, z: Tensor) -> Tensor:
        """Weigh each token's responses, shape (batch, ..., atoms)."""
        return (self.router(z) * z).to(z.dtype)


class Router(nn.Module):
    """Turn responses into weights, by nothing but the responses themselves.

    It is a module so that what it gives can be watched (``atom_usage``).
    """

    def __init__(self, spec: MixtureOfRanks) -> None:
        super().__init__()
        self.active = max(spec.active, FEWEST)
        self.temperature = spec.temperature
        self.threshold, self.relative = spec.threshold, spec.threshold_mode == "relative"

    def forward(self, z: Tensor) -> Tensor:
        """Return weights of the shape of ``z``, (batch, ..., atoms), at least in fp32."""
        atoms = z.shape[-1]
        z = z if z.dtype == torch.float64 else z.float()
        # the norm is over all atoms; dividing by it does not change which are the largest
        norm = torch.linalg.vector_norm(z, dim=-1, keepdim=True).clamp_min(1e-12)
        best, places = z.topk(self.active, dim=-1) if self.active < atoms else (z, None)
        scores = best / norm
        weights = (scores / self.temperature).softmax(dim=-1)
        if not self.training:
            weights = weights * (scores >= self.threshold_at(atoms))
        return weights if places is None else torch.zeros_like(z).scatter(-1, places, weights)

    def threshold_at(self, atoms: int) -> float:
        """Return the smallest score that counts in a bank of so many atoms."""
        return self.threshold * math.sqrt(16 / atoms) if self.relative else self.threshold


@dataclass(frozen=True)
class AtomUsage:
    """How a layer's atoms were used: means over tokens.

    ``active`` is the number of atoms in use, ``silent`` the share of tokens that used none, and
    ``mass`` the weight on each task's atoms, oldest first.
    """

    active: float
    silent: float
    mass: tuple[float, ...]


@torch.no_grad()
def atom_usage(model: nn.Module, example: Any, name: str = "default") -> dict[str, AtomUsage]:
    """Say which atoms a mixture of ranks uses for an input, in evaluation mode.

    Arguments
    ---------
    model : nn.Module
        The model with its adapter.
    example : Any
        An input of the model: a tensor, a tuple of arguments or a dictionary of keyword arguments.
    name : str
        The adapter's.

    Returns
    -------
    dict
        An ``AtomUsage`` for each layer that computed something, by path.

    Raises
    ------
    ValueError
        If the adapter is another one.

    Example
    -------
    >>> from speechcl.adapters import insert
    >>> net = nn.Sequential(nn.Linear(4, 8))
    >>> _ = insert(net, MixtureOfRanks(rank=2, threshold=-1.0), targets="0")
    >>> round(atom_usage(net, torch.ones(3, 4))["0"].mass[0], 4)
    1.0
    """
    seen: dict[str, tuple[int, list[Tensor]]] = {}
    handles = []
    for path, slots in adapter_layers(model, name).items():
        for layer in slots.values():
            if not isinstance(layer, MixtureOfRanksLayer):
                raise ValueError(f"adapter '{name}' has no atoms: name a MixtureOfRanks")
            seen[path] = layer.width, []
            handles.append(layer.router.register_forward_hook(partial(_note, seen[path][1])))
    try:
        with evaluating(model):
            call(model, example)
    finally:
        for handle in handles:
            handle.remove()
    return {path: _usage(torch.cat(each), width) for path, (width, each) in seen.items() if each}


def _note(seen: list[Tensor], router: Router, inputs: Any, weights: Tensor) -> None:
    seen.append(weights.flatten(0, -2))


def _usage(weights: Tensor, width: int) -> AtomUsage:
    """Sum up weights of shape (tokens, atoms)."""
    active = (weights > 0).sum(dim=1)
    mass = weights.unflatten(1, (-1, width)).sum(dim=2).mean(dim=0)
    silent = (active == 0).float().mean()
    return AtomUsage(float(active.float().mean()), float(silent), tuple(mass.tolist()))
