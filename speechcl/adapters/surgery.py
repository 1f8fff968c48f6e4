"""Put adapters into any torch model, take them out, move them between files and models."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from speechcl.adapters.adapted import MARK, Adapted, adapt, can_branch, fold, restore, write_base
from speechcl.adapters.files import AdapterState
from speechcl.adapters.fingerprint import base_fingerprint
from speechcl.adapters.layer import Adapter, AdapterLayer, WeightShape
from speechcl.adapters.matrices import as_matrix, as_weight, output_shape_of, shape_of, slots_of
from speechcl.adapters.reachability import call, check_reachable

Layers = dict[str, dict[str, AdapterLayer]]  # of one adapter: by module and slot


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
    """What a model remembers of an adapter that it serves."""

    spec: Adapter
    fingerprint: str


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
    found, skipped = _find(model, targets, adapter)
    layers = {
        path: {slot: adapter.make(shape) for slot, shape in shapes.items()}
        for path, shapes in found.items()
    }
    _check_branches(model, layers)
    _put(model, name, layers, _Record(adapter, base_fingerprint(model)))
    if example is not None:
        try:
            check_reachable(model, lambda: call(model, example), layers)
        except ValueError:
            remove(model, name)
            raise
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
    layers = _remade(model, state)
    _check_branches(model, layers)
    for slots in layers.values():
        for layer in slots.values():
            layer.requires_grad_(False)
    _put(model, name, layers, _Record(state.spec, fingerprint))
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
    chosen = (names,) if isinstance(names, str) else tuple(names or ())
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
        If there is no such adapter (merged already?), it has no weight, or a weight is shared with
        a layer that it does not adapt.

    Example
    -------
    >>> from speechcl.adapters import LoRA
    >>> net = nn.Sequential(nn.Linear(4, 8))
    >>> _ = insert(net, LoRA(rank=2), targets="0")
    >>> merge(net)
    >>> list_adapters(net)
    []
    """
    _record(model, name)
    layers = adapter_layers(model, name)
    modules = dict(model.named_modules())
    owners: dict[int, list[str]] = {}
    for path, module in modules.items():
        for parameter in module._parameters.values():
            owners.setdefault(id(parameter), []).append(path)
    for path, slots in layers.items():
        for layer in slots.values():
            if not layer.mergeable:
                raise ValueError(
                    f"adapter '{name}' depends on the input ({type(layer).__name__} in {path}) and "
                    "cannot be put into weights: keep it attached"
                )
        for parameter in modules[path]._parameters.values():
            if parameter is not None and len(owners[id(parameter)]) > 1:
                raise ValueError(
                    f"{' and '.join(owners[id(parameter)])} share a weight, so merging '{name}' "
                    "would change both: give each its own, or keep the adapter attached"
                )
    with torch.no_grad():
        for path, slots in layers.items():
            _merge_into(modules[path], slots)
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
    _record(model, name)
    for _, module in _adapted(model, name):
        module.serving = tuple(one for one in module.serving if one != name)
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
    for name, record in getattr(model, "adapter_records", {}).items():
        places = _adapted(model, name)
        parameters = sum(p.numel() for p in adapter_parameters(model, name))
        active = name in places[0][1].serving
        paths = tuple(path for path, _ in places)
        found.append(AdapterInfo(name, type(record.spec).__name__, paths, parameters, active))
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
    return {
        path: dict(module.adapters[MARK + name].items()) for path, module in _adapted(model, name)
    }


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
def _adapted(model: nn.Module, name: str | None = None) -> list[tuple[str, Any]]:
    """Return the modules that serve any adapter, or the one of this name, with their paths."""
    return [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, Adapted) and (name is None or MARK + name in module.adapters)
    ]


def _put(model: Any, name: str, layers: Layers, record: _Record) -> None:
    if not hasattr(model, "adapter_records"):
        model.adapter_records = {}
        model.adapter_froze = []
    own = {id(p) for other in model.adapter_records for p in adapter_parameters(model, other)}
    for parameter in model.parameters():
        if parameter.requires_grad and id(parameter) not in own:
            parameter.requires_grad_(False)
            model.adapter_froze.append(parameter)
    modules: dict[str, Any] = dict(model.named_modules())
    for path, slots in layers.items():
        adapt(modules[path])
        modules[path].adapters[MARK + name] = nn.ModuleDict(slots)
        modules[path].adapters.train(model.training)
    model.adapter_records[name] = record
    _serve(model, (name,))


def _forget(model: Any, name: str) -> None:
    del model.adapter_records[name]
    if not model.adapter_records:
        for parameter in model.adapter_froze:
            parameter.requires_grad_(True)
        del model.adapter_records, model.adapter_froze


def _serve(model: nn.Module, names: tuple[str, ...]) -> None:
    for _, module in _adapted(model):
        module.serving = tuple(one for one in names if MARK + one in module.adapters)


def _find(
    model: nn.Module, targets: str | Sequence[str], adapter: Adapter
) -> tuple[dict[str, dict[str, WeightShape]], dict[str, str]]:
    patterns = [targets] if isinstance(targets, str) else list(targets)
    if not patterns:
        raise ValueError('targets is empty: give patterns of module names, such as "*.q_proj"')
    own = {id(one) for _, m in _adapted(model) for one in m.adapters.modules()}
    modules = {path: m for path, m in model.named_modules() if id(m) not in own}
    found: dict[str, dict[str, WeightShape]] = {}
    skipped: dict[str, str] = {}
    for pattern in patterns:
        hits = [path for path in modules if fnmatch.fnmatchcase(path, pattern)]
        if not hits:
            near = difflib.get_close_matches(pattern.lstrip("*."), modules, n=3, cutoff=0.0)
            raise ValueError(
                f"targets: '{pattern}' matches no module of this {_kind(model)}; "
                f"there are, for example, {', '.join(repr(one) for one in near if one)}"
            )
        shapes = {path: _shapes(modules[path], adapter) for path in hits}
        if not any(shapes.values()):
            kinds = sorted({_kind(modules[path]) for path in hits})
            raise ValueError(
                f"targets: '{pattern}' matches only {', '.join(kinds)}, which a "
                f"{type(adapter).__name__} cannot adapt: name linear layers or convolutions"
            )
        found |= {path: one for path, one in shapes.items() if one}
        skipped |= {
            path: _kind(modules[path])
            for path, one in shapes.items()
            if not one and path and next(modules[path].parameters(recurse=False), None) is not None
        }
    return {path: found[path] for path in modules if path in found}, skipped


def _shapes(module: nn.Module, adapter: Adapter) -> dict[str, WeightShape]:
    if adapter.on_output:
        shape = output_shape_of(module)
        return {} if shape is None else {"output": shape}
    base = getattr(module, "base_tensor", None) or (lambda attribute: getattr(module, attribute))
    return {
        name: shape_of(module, base(slot.attribute)[slot.rows])
        for name, slot in slots_of(module).items()
    }


def _remade(model: nn.Module, state: AdapterState) -> Layers:
    modules = dict(model.named_modules())
    layers: Layers = {}
    for path, slot, tensors in state.by_layer():
        if path not in modules:
            raise ValueError(f"the adapter has a layer '{path}', but this {_kind(model)} has none")
        shapes = _shapes(modules[path], state.spec)
        if slot not in shapes:
            raise ValueError(f"'{path}' is a {_kind(modules[path])} without a '{slot}' to adapt")
        layer = state.spec.remake(shapes[slot], tensors)
        wanted = {key: tuple(one.shape) for key, one in layer.state_dict().items()}
        given = {key: tuple(one.shape) for key, one in tensors.items()}
        if wanted != given:
            raise ValueError(
                f"adapter layer '{path}' holds {_named(given)}, but this model takes "
                f"{_named(wanted)}: it was made for another size of model"
            )
        layer.load_state_dict(tensors)
        layers.setdefault(path, {})[slot] = layer
    return layers


def _merge_into(module: Any, slots: dict[str, AdapterLayer]) -> None:
    places = slots_of(module)
    for attribute in {places[slot].attribute for slot in slots}:
        weight = module.base_tensor(attribute)
        matrix = as_matrix(module, weight)
        parts = [
            fold(matrix[place.rows], [slots[slot]] if slot in slots else [])
            for slot, place in places.items()
            if place.attribute == attribute
        ]
        write_base(module, attribute, as_weight(module, torch.cat(parts), weight))


def _check_name(name: str) -> None:
    if not isinstance(name, str) or not re.fullmatch(r"[\w-]{1,100}", name):
        raise ValueError(
            f"adapter name {name!r}: use letters, digits, '_' and '-', at most 100 of them"
        )


def _check_free(model: nn.Module, name: str) -> None:
    if name in getattr(model, "adapter_records", {}):
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


def _check_branches(model: nn.Module, layers: Layers) -> None:
    for path, slots in layers.items():
        module = model.get_submodule(path)
        for slot, layer in slots.items():
            if slot != "output" and not layer.mergeable and not can_branch(module):
                raise ValueError(
                    f"{type(layer).__name__} depends on the input, and '{path}' ({_kind(module)}) "
                    "reads its weight directly or in groups: leave it out of targets, or use a "
                    "mergeable adapter such as LoRA"
                )


def _record(model: nn.Module, name: str) -> _Record:
    records = getattr(model, "adapter_records", {})
    if name not in records:
        has = f"it has {', '.join(records)}" if records else "it has none"
        raise ValueError(
            f"no adapter '{name}' in this {_kind(model)}, {has}: one that was merged or removed is "
            "gone, and one that was inserted into a part of the model belongs to that part"
        )
    return records[name]


def _kind(module: nn.Module) -> str:
    return getattr(module, "base_class", type(module)).__name__


def _named(shapes: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{key} {'x'.join(map(str, shape))}" for key, shape in shapes.items())
