"""Put adapters into any torch model, take them out, move them between files and models."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from speechcl.adapters.adapted import MARK, adapt, restore
from speechcl.adapters.files import AdapterState
from speechcl.adapters.fingerprint import base_fingerprint
from speechcl.adapters.layer import Adapter
from speechcl.adapters.merging import check_mergeable, merge_into
from speechcl.adapters.reachability import call, check_reachable
from speechcl.adapters.targets import Layers, check_places, find_targets, kind_of, remake_layers


@dataclass(frozen=True)
class InsertReport:
    """What ``insert`` has done; printing it gives one line.

    ``layers`` are the adapted modules. ``skipped`` maps modules that a pattern matched but that
    have no weight to adapt to their class. ``parameters`` are what there is to train.
    """

    kind: str
    name: str
    layers: tuple[str, ...]
    skipped: dict[str, str]
    parameters: list[nn.Parameter] = field(repr=False)
    total: int

    @property
    def trainable(self) -> int:
        """Count the numbers to train."""
        return sum(p.numel() for p in self.parameters)

    def __str__(self) -> str:
        layers = f"{len(self.layers)} layer{'s' if len(self.layers) > 1 else ''}"
        share = 100 * self.trainable / self.total
        return (
            f"{self.kind} '{self.name}' in {layers}: {self.trainable:,} of {self.total:,} "
            f"parameters to train ({share:.2f} %)"
        )


@dataclass(frozen=True)
class AdapterInfo:
    """One adapter of a model."""

    name: str
    kind: str
    layers: tuple[str, ...]
    parameters: int
    active: bool


@dataclass
class _Record:
    """What a model remembers of one adapter: also where it is, by path."""

    spec: Adapter
    fingerprint: str
    places: dict[str, Any]


@dataclass
class _Book:
    """What a model remembers of its adapters.

    ``serving`` names those that act. ``froze`` names the parameters that are to be trainable again
    in the end; not the parameters themselves, which may be replaced meanwhile.
    """

    records: dict[str, _Record] = field(default_factory=dict)
    serving: tuple[str, ...] = ()
    froze: set[str] = field(default_factory=set)


@torch.inference_mode(False)  # what is made here shall be fit for training
def insert(
    model: nn.Module,
    adapter: Adapter,
    targets: str | Sequence[str],
    name: str = "default",
    example: Any = None,
) -> InsertReport:
    """Put a fresh adapter into a model; it changes no output until it is trained.

    The base is frozen, and the new adapter acts alone until ``activate`` says otherwise.

    Arguments
    ---------
    model : nn.Module
        Any model; its modules keep their identity, class tests and ``state_dict`` keys.
    adapter : Adapter
        What to insert, for example ``LoRA(rank=8)``.
    targets : str or sequence of str
        Patterns of module names (fnmatch), such as "*.q_proj". Adaptable are linear layers,
        convolutions of one and two dimensions (plain, strided, dilated, grouped, transposed, under
        weight normalisation), packed attention and transformers' Conv1D.
    name : str
        What to call it.
    example : optional
        An input of the model: a tensor, a tuple of arguments or a dictionary of keyword arguments.
        With it, every adapted layer is shown to change the output; if one does not, nothing is
        inserted.

    Returns
    -------
    InsertReport

    Raises
    ------
    ValueError
        If a pattern matches nothing or nothing adaptable, the name is taken, or a layer is out of
        reach. The model stays as it was.

    Example
    -------
    >>> from speechcl.adapters import LoRA
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> print(insert(net, LoRA(rank=2), targets="*", example=torch.ones(1, 4)))
    LoRA 'default' in 2 layers: 44 of 102 parameters to train (43.14 %)
    """
    _check_name(name)
    _check_free(model, name)
    _check_switch(model)
    found, skipped = find_targets(model, targets, adapter)
    layers = {
        path: {slot: adapter.make(shape) for slot, shape in shapes.items()}
        for path, shapes in found.items()
    }
    check_places(model, layers, _own_places(model))
    fingerprint = base_fingerprint(model)
    with ExitStack() as undo:
        undo.callback(_put_flags, [(p, p.requires_grad) for p in model.parameters()])
        undo.callback(_serve, model, _book(model).serving)
        _put(model, name, layers, adapter, fingerprint)
        undo.callback(remove, model, name)
        if example is not None:
            check_reachable(model, lambda: call(model, example), layers)
        undo.pop_all()
    parameters = [p for p in adapter_parameters(model, name) if p.requires_grad]
    total = sum(p.numel() for p in model.parameters())
    kind = type(adapter).__name__
    return InsertReport(kind, name, tuple(layers), skipped, parameters, total)


def extract(model: nn.Module, name: str = "default") -> AdapterState:
    """Copy an adapter out of a model; ``.save(file)`` keeps it.

    Example
    -------
    >>> from speechcl.adapters import LoRA
    >>> net = nn.Sequential(nn.Linear(4, 8))
    >>> _ = insert(net, LoRA(rank=2), targets="0")
    >>> sorted(extract(net).tensors)
    ['0.weight.lora_down', '0.weight.lora_up']
    """
    record = _record(model, name)
    tensors = {
        f"{path}.{slot}.{key}": tensor.detach().cpu().clone()
        for path, slots in adapter_layers(model, name).items()
        for slot, layer in slots.items()
        for key, tensor in layer.state_dict().items()
    }
    return AdapterState(record.spec, tensors, record.fingerprint)


@torch.inference_mode(False)
def attach(
    model: nn.Module, source: AdapterState | str | Path, name: str = "default"
) -> InsertReport:
    """Put a kept adapter into the model it was made for; it acts alone, and nothing is trainable.

    Arguments
    ---------
    model : nn.Module
        The base, with the same weights as when the adapter was inserted.
    source : AdapterState, str or Path
        What ``extract`` gave, or a file it was saved to.
    name : str
        What to call it.

    Raises
    ------
    ValueError
        If the base, a layer or a shape is another, the file is broken, or the name is taken. The
        model stays as it was.

    Example
    -------
    >>> from speechcl.adapters import LoRA
    >>> net = nn.Sequential(nn.Linear(4, 8))
    >>> _ = insert(net, LoRA(rank=2), targets="0", name="alice")
    >>> alice = extract(net, "alice")
    >>> remove(net, "alice")
    >>> print(attach(net, alice, "alice"))
    LoRA 'alice' in 1 layer: 0 of 64 parameters to train (0.00 %)
    """
    _check_name(name)
    _check_free(model, name)
    _check_switch(model)
    state = source if isinstance(source, AdapterState) else AdapterState.load(source)
    fingerprint = base_fingerprint(model)
    if state.fingerprint and state.fingerprint != fingerprint:
        raise ValueError(
            f"adapter '{name}' was made for a base with fingerprint {state.fingerprint[:12]}, but "
            f"this model's is {fingerprint[:12]}: load the weights it was trained on, and attach "
            "it to the same part of the model that it was inserted into"
        )
    layers = remake_layers(model, state)
    check_places(model, layers, _own_places(model))
    for slots in layers.values():
        for layer in slots.values():
            layer.requires_grad_(False)
    _put(model, name, layers, state.spec, fingerprint)
    total = sum(p.numel() for p in model.parameters())
    return InsertReport(type(state.spec).__name__, name, tuple(layers), {}, [], total)


def activate(model: nn.Module, names: str | Sequence[str] | None) -> None:
    """Choose which adapters act: one, several whose changes add up, or none.

    Raises
    ------
    ValueError
        If there is no such adapter, or one is being trained.

    Example
    -------
    >>> from speechcl.adapters import LoRA
    >>> net = nn.Sequential(nn.Linear(4, 8)).eval()
    >>> for voice in ("alice", "bob"):
    ...     _ = insert(net, LoRA(rank=2), targets="0", name=voice)
    >>> activate(net, ["alice", "bob"])
    >>> [one.active for one in list_adapters(net)]
    [True, True]
    """
    chosen = (names,) if isinstance(names, str) else tuple(dict.fromkeys(names or ()))
    for name in chosen:
        _record(model, name)
    _check_switch(model)
    _serve(model, chosen)


def merge(model: nn.Module, name: str = "default") -> None:
    """Write an adapter into the base weights for good, and take it out.

    For a voice that is to be taken back later, leave the adapter in place instead: it costs next
    to nothing, and ``remove`` then leaves the base as it was, bit for bit.

    Raises
    ------
    ValueError
        If there is no such adapter (merged already?), it depends on the input, or a weight is
        shared with another layer or computed. The model stays as it was.

    Example
    -------
    >>> from speechcl.adapters import LoRA
    >>> net = nn.Sequential(nn.Linear(4, 8))
    >>> _ = insert(net, LoRA(rank=2), targets="0")
    >>> merge(net)
    >>> list_adapters(net)
    []
    """
    places = _record(model, name).places
    layers = adapter_layers(model, name)
    check_mergeable(model, layers, name)
    for path, slots in layers.items():
        merge_into(places[path], slots)
    remove(model, name)


def remove(model: nn.Module, name: str = "default") -> None:
    """Take an adapter out; without it the base is what it was before, byte for byte.

    Example
    -------
    >>> from speechcl.adapters import LoRA
    >>> net = nn.Sequential(nn.Linear(4, 8))
    >>> before = base_fingerprint(net)
    >>> _ = insert(net, LoRA(rank=2), targets="0")
    >>> remove(net)
    >>> before == base_fingerprint(net), type(net[0]).__name__, net[0].weight.requires_grad
    (True, 'Linear', True)
    """
    places = _record(model, name).places
    _serve(model, [one for one in _book(model).serving if one != name])
    for module in places.values():
        del module.adapters[MARK + name]
        if not module.adapters:
            restore(module)
    _forget(model, name)


def list_adapters(model: nn.Module) -> list[AdapterInfo]:
    """Describe the adapters of a model, in order of insertion.

    Example
    -------
    >>> from speechcl.adapters import LoRA
    >>> net = nn.Sequential(nn.Linear(4, 8))
    >>> _ = insert(net, LoRA(rank=2), targets="0", name="alice")
    >>> list_adapters(net)
    [AdapterInfo(name='alice', kind='LoRA', layers=('0',), parameters=24, active=True)]
    """
    found = []
    book = _book(model)
    for name, record in book.records.items():
        parameters = sum(p.numel() for p in adapter_parameters(model, name))
        kind, active = type(record.spec).__name__, name in book.serving
        found.append(AdapterInfo(name, kind, tuple(record.places), parameters, active))
    return found


def adapter_layers(model: nn.Module, name: str = "default") -> Layers:
    """Return an adapter's layers, by path of their module and slot ("weight", "q", "output" ...).

    Example
    -------
    >>> from speechcl.adapters import LoRA
    >>> net = nn.Sequential(nn.MultiheadAttention(4, 2))
    >>> _ = insert(net, LoRA(rank=2), targets="0")
    >>> {path: list(slots) for path, slots in adapter_layers(net).items()}
    {'0': ['q', 'k', 'v']}
    """
    places = _record(model, name).places
    return {path: dict(module.adapters[MARK + name].items()) for path, module in places.items()}


def adapter_parameters(model: nn.Module, name: str = "default") -> list[nn.Parameter]:
    """Return an adapter's parameters, for an optimizer.

    Example
    -------
    >>> from speechcl.adapters import LoRA
    >>> net = nn.Sequential(nn.Linear(4, 8))
    >>> _ = insert(net, LoRA(rank=2), targets="0")
    >>> [tuple(p.shape) for p in adapter_parameters(net)]
    [(2, 4), (8, 2)]
    """
    layers = adapter_layers(model, name).values()
    return [p for slots in layers for layer in slots.values() for p in layer.parameters()]


# ---- below: the pieces
def _book(model: nn.Module) -> _Book:
    return getattr(model, "adapter_book", None) or _Book()


def _own_places(model: nn.Module) -> set[int]:
    records = _book(model).records.values()
    return {id(module) for record in records for module in record.places.values()}


def _put(model: Any, name: str, layers: Layers, spec: Adapter, fingerprint: str) -> None:
    model.adapter_book = book = _book(model)
    others = (p for other in book.records for p in adapter_parameters(model, other))
    own = {id(p) for p in others if p.requires_grad}
    for path, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.requires_grad and id(parameter) not in own:
            book.froze.add(path)
    for path, parameter in model.named_parameters():
        if path in book.froze:
            parameter.requires_grad_(False)
    places = {path: model.get_submodule(path) for path in layers}
    for path, module in places.items():
        adapt(module)
        module.adapters[MARK + name] = nn.ModuleDict(layers[path])
        module.adapters.train(model.training)
    book.records[name] = _Record(spec, fingerprint, places)
    _serve(model, [name])


def _forget(model: Any, name: str) -> None:
    book = _book(model)
    del book.records[name]
    if not book.records:
        for path, parameter in model.named_parameters(remove_duplicate=False):
            if path in book.froze:
                parameter.requires_grad_(True)
        del model.adapter_book


def _serve(model: nn.Module, names: Iterable[str]) -> None:
    """Let these adapters act, in this order; touch only modules where that changes something."""
    book, chosen = _book(model), tuple(names)
    for name in {*book.serving, *chosen}:
        for module in book.records[name].places.values():
            there = module._modules["adapters"]._modules
            serving = tuple(one for one in chosen if MARK + one in there)
            if serving != module.serving:
                module.__dict__["serving"] = serving
                module.__dict__.pop("kept_weights", None)
    book.serving = chosen


def _put_flags(flags: list[tuple[nn.Parameter, bool]]) -> None:
    for parameter, flag in flags:
        parameter.requires_grad_(flag)


def _check_name(name: str) -> None:
    if not isinstance(name, str) or not re.fullmatch(r"[\w-]{1,100}", name):
        raise ValueError(
            f"adapter name {name!r}: use letters, digits, '_' and '-', at most 100 of them"
        )


def _check_free(model: nn.Module, name: str) -> None:
    if name in _book(model).records:
        raise ValueError(f"there is an adapter '{name}' already: remove it, or give another name")


def _check_switch(model: nn.Module) -> None:
    if not model.training:
        return
    for one in list_adapters(model):
        if one.active and any(p.requires_grad for p in adapter_parameters(model, one.name)):
            raise ValueError(
                f"adapter '{one.name}' is being trained, and switching would leave its optimizer "
                "with another one's work: call model.eval() first"
            )


def _record(model: nn.Module, name: str) -> _Record:
    records = _book(model).records
    if name not in records:
        has = f"it has {', '.join(records)}" if records else "it has none"
        raise ValueError(
            f"no adapter '{name}' in this {kind_of(model)}, {has}: one that was merged or removed "
            "is gone, and one that was inserted into a part of the model belongs to that part"
        )
    return records[name]
