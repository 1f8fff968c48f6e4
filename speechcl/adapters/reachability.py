"""Does an adapted layer change what the model gives? Some models never call what they hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from speechcl.adapters.layer import AdapterLayer
from speechcl.memory.snapshot import evaluating

TRIES = 4  # a narrow layer before a ReLU may be silent with one change and not with the next


@torch.no_grad()
def check_reachable(
    model: nn.Module,
    run: Callable[[], Any],
    layers: Mapping[str, Mapping[str, AdapterLayer]],
) -> None:
    """Perturb each adapter layer in turn and demand that the output changes.

    Arguments
    ---------
    model : nn.Module
        The model with its adapters; it is in evaluation mode meanwhile.
    run : Callable
        Runs it on one input and returns its output: tensors, or mappings or sequences of them.
    layers : Mapping
        The layers to test, by path of their module and slot.

    Raises
    ------
    ValueError
        Naming the layers that the output does not depend on.

    Example
    -------
    >>> from speechcl.adapters import LoRA, insert
    >>> class Careless(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.used, self.unused = nn.Linear(2, 2), nn.Linear(2, 2)
    ...     def forward(self, x):
    ...         return self.used(x)
    >>> insert(Careless(), LoRA(rank=1), targets="*used", example=torch.ones(1, 2))
    Traceback (most recent call last):
    ValueError: the output does not depend on the adapter of unused: leave it out of targets, ...
    """
    with evaluating(model):
        before = _answer(run)
        if not before:
            raise ValueError("the model returned no tensor to compare: let it return some")
        deaf = []
        for path, slots in layers.items():
            for slot, layer in slots.items():
                if not _heard(layer, before, run):
                    deaf.append(path if slot in ("weight", "output") else f"{path} ({slot})")
    if deaf:
        raise ValueError(
            f"the output does not depend on the adapter of {', '.join(deaf)}: leave it out of "
            "targets, or give an example that uses it"
        )


def _heard(layer: nn.Module, before: list[Tensor], run: Callable[[], Any]) -> bool:
    for seed in range(TRIES):
        with perturbed(layer, seed):
            if not _same(before, _answer(run)):
                return True
    return False


@contextmanager
def perturbed(layer: nn.Module, seed: int = 0) -> Iterator[None]:
    """Replace a layer's trainable parameters by noise for a while.

    Example
    -------
    >>> linear = nn.Linear(2, 2)
    >>> before = linear.weight.clone()
    >>> with perturbed(linear):
    ...     print(torch.equal(before, linear.weight))
    False
    >>> torch.equal(before, linear.weight)
    True
    """
    chosen = [p for p in layer.parameters() if p.requires_grad]
    kept = [p.detach().clone() for p in chosen]
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in chosen:
            parameter.copy_(torch.randn(parameter.shape, generator=noise))
        try:
            yield
        finally:
            for parameter, value in zip(chosen, kept, strict=True):
                parameter.copy_(value)


def call(model: nn.Module, example: Any) -> Any:
    """Call a model with one input: a tensor, a tuple of arguments or a dictionary of keywords.

    Example
    -------
    >>> call(nn.Identity(), {"input": 3}), call(nn.Identity(), (3,)), call(nn.Identity(), 3)
    (3, 3, 3)
    """
    if isinstance(example, Mapping):
        return model(**example)
    return model(*example) if isinstance(example, tuple) else model(example)


def _answer(run: Callable[[], Any]) -> list[Tensor]:
    """Run with the same random draws every time; return all tensors that come out."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return list(_tensors(run()))


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from _tensors(value)


def _same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))


def _equal(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    if not a.is_floating_point():
        return torch.equal(a, b)
    return torch.equal(a.nan_to_num(), b.nan_to_num())  # an output of NaNs proves nothing
