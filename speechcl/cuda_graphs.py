"""Replay what a GPU was told once: for models of many small steps, where telling takes longest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Replayed:
    """Calls a part of a model by a CUDA graph, captured at the first call with each shape.

    In training, that is while gradients are recorded and the module is in training mode; else the
    function is called as it is. A graph reads its inputs from places of its own and leaves results
    in others, which the next call overwrites: call it once a step, and keep no result for longer.

    Draws go on as if nothing had been captured, and so do running statistics.

    Arguments
    ---------
    module : nn.Module
        Whose parameters the function takes.
    function : Callable
        Of tensors, to tensors; shapes decide all that it does, and nothing in it waits for the
        GPU.

    Source
    ------
    ``torch.cuda.make_graphed_callables``.

    Example
    -------
    >>> linear = nn.Linear(2, 1)
    >>> forward = Replayed(linear, linear.forward)
    >>> with torch.no_grad():  # nothing to replay
    ...     forward(torch.zeros(3, 2)).shape
    torch.Size([3, 1])
    """

    def __init__(self, module: nn.Module, function: Callable[..., Any]) -> None:
        self.module, self.function = module, function
        self.graphs: dict[tuple, Callable[..., Any]] = {}
        self.pool: Any = None  # of memory; shapes share it, since a step has one

    def __call__(self, *args: Any) -> Any:
        """Return what the function returns."""
        if not (torch.is_grad_enabled() and self.module.training):
            return self.function(*args)
        given = [one for one in args if one is not None]
        leaves = torch.utils._pytree.tree_leaves(given)
        key = tuple((one.shape, one.dtype, one.requires_grad) for one in leaves)
        if key not in self.graphs:
            self.graphs[key] = self._capture(given)
        return self.graphs[key](*given)

    def _capture(self, given: list[Any]) -> Callable[..., Any]:
        like = torch.utils._pytree.tree_map(_like, tuple(given))
        if self.pool is None:
            self.pool = torch.cuda.graph_pool_handle()
        before = {name: one.clone() for name, one in self.module.named_buffers()}
        with torch.random.fork_rng(devices=[torch.cuda.current_device()]):
            graph = torch.cuda.make_graphed_callables(
                _Part(self.module, self.function), like, pool=self.pool, allow_unused_input=True
            )
        with torch.no_grad():
            for name, buffer in self.module.named_buffers():
                buffer.copy_(before[name])
        return graph


class _Part(nn.Module):
    """A function with the module whose parameters it takes."""

    def __init__(self, module: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.module, self.function = module, function

    def forward(self, *args: Any) -> Any:
        return self.function(*args)


def _like(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_(tensor.requires_grad)
