"""The model as it was: what it knew at one moment can be asked for later."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

from speechcl.memory.named_tensors import NamedTensors

Answer = TypeVar("Answer")


class Snapshot(NamedTensors):
    """A copy of everything in a model that can still change: trainable weights and buffers.

    Example
    -------
    >>> modules = nn.ModuleDict({"model": nn.Linear(1, 1, bias=False)})
    >>> _ = nn.init.constant_(modules["model"].weight, 2.0)
    >>> then = Snapshot()
    >>> then.take(modules)
    >>> _ = nn.init.constant_(modules["model"].weight, 5.0)
    >>> then.ask(modules, lambda: modules["model"](torch.ones(1, 1)))
    tensor([[2.]])
    >>> modules["model"].weight
    Parameter containing:
    tensor([[5.]], requires_grad=True)
    """

    def take(self, modules: nn.Module) -> None:
        """Copy the model as it is now."""
        weights = {n: p.detach() for n, p in modules.named_parameters() if p.requires_grad}
        self.put({**weights, **dict(modules.named_buffers())})

    @torch.no_grad()
    def ask(self, modules: nn.Module, question: Callable[[], Answer]) -> Answer:
        """Return ``question()`` with the former model in place of the present one.

        Arguments
        ---------
        modules : nn.Module
            What ``take`` saw; afterwards it is as before.
        question : Callable
            Runs the modules, which are in evaluation mode; no gradient is recorded.
        """
        # not torch.func.functional_call: it leaves a layer that has two names with former weights
        live = {**dict(modules.named_parameters()), **dict(modules.named_buffers())}
        former = self.tensors()
        now = {name: live[name].data for name in former}
        try:
            for name, tensor in former.items():
                live[name].data = tensor
            with evaluating(modules):
                return question()
        finally:
            for name, data in now.items():
                live[name].data = data


@contextmanager
def evaluating(modules: nn.Module) -> Iterator[None]:
    """Put modules in evaluation mode for a while, then each back into the mode it had.

    Example
    -------
    >>> net = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
    >>> with evaluating(net):
    ...     print(net[0].training)
    False
    >>> net[0].training, net[1].training
    (True, False)
    """
    modes = [(module, module.training) for module in modules.modules()]
    modules.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
