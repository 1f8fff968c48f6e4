"""Which weights a pattern or a file names, and whether an adapter can serve them."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Sequence

from torch import Tensor, nn

from speechcl.adapters.adapted import Adapted, can_branch
from speechcl.adapters.files import AdapterState
from speechcl.adapters.layer import Adapter, AdapterLayer, WeightShape
from speechcl.adapters.matrices import output_shape_of, shape_of, slots_of

Layers = dict[str, dict[str, AdapterLayer]]  # of one adapter: by path of the module and slot


def find_targets(
    model: nn.Module, targets: str | Sequence[str], adapter: Adapter
) -> tuple[dict[str, dict[str, WeightShape]], dict[str, str]]:
    """Look up patterns of module names.

    Returns
    -------
    tuple
        The shapes to adapt by module and slot, and the class of every module that a pattern names
        but that has no weight to adapt.

    Raises
    ------
    ValueError
        If a pattern matches nothing, or nothing adaptable.

    Example
    -------
    >>> from speechcl.adapters.lora import LoRA
    >>> found, skipped = find_targets(nn.Sequential(nn.Linear(2, 3), nn.PReLU()), "*", LoRA())
    >>> list(found), skipped
    (['0'], {'1': 'PReLU'})
    """
    patterns = [targets] if isinstance(targets, str) else list(targets)
    if not patterns:
        raise ValueError('targets is empty: give patterns of module names, such as "*.q_proj"')
    modules = _modules_of_base(model)
    found: dict[str, dict[str, WeightShape]] = {}
    skipped: dict[str, str] = {}
    for pattern in patterns:
        hits = [path for path in modules if fnmatch.fnmatchcase(path, pattern)]
        if not hits:
            raise ValueError(
                f"targets: '{pattern}' matches no module of this {kind_of(model)}; "
                f"{_names_near(pattern, modules)}"
            )
        shapes = {path: _shapes(path, modules[path], adapter) for path in hits}
        if not any(shapes.values()):
            kinds = sorted({kind_of(modules[path]) for path in hits})
            raise ValueError(
                f"targets: '{pattern}' matches only {', '.join(kinds)}, which a "
                f"{type(adapter).__name__} cannot adapt: name linear layers or convolutions"
            )
        found |= {path: one for path, one in shapes.items() if one}
        skipped |= {
            path: kind_of(modules[path])
            for path, one in shapes.items()
            if not one and path and next(modules[path].parameters(recurse=False), None) is not None
        }
    return {path: found[path] for path in modules if path in found}, skipped


def remake_layers(model: nn.Module, state: AdapterState) -> Layers:
    """Make the layers of a kept adapter, for the model it is to be attached to.

    Raises
    ------
    ValueError
        If the model has no such layer, or one of another size.

    Example
    -------
    >>> import torch
    >>> from speechcl.adapters.lora import LoRA
    >>> tensors = {"0.weight.lora_down": torch.ones(1, 2), "0.weight.lora_up": torch.ones(3, 1)}
    >>> layers = remake_layers(nn.Sequential(nn.Linear(2, 3)), AdapterState(LoRA(1), tensors, ""))
    >>> layers["0"]["weight"].up().shape
    torch.Size([3, 1])
    """
    modules = _modules_of_base(model)
    layers: Layers = {}
    for path, slot, tensors in state.by_layer():
        if path not in modules:
            raise ValueError(
                f"the adapter has a layer '{path}', but this {kind_of(model)} has none"
            )
        shapes = _shapes(path, modules[path], state.spec)
        if slot not in shapes:
            raise ValueError(f"'{path}' is a {kind_of(modules[path])} without a '{slot}' to adapt")
        layers.setdefault(path, {})[slot] = _remake(path, shapes[slot], state.spec, tensors)
    return {path: layers[path] for path in modules if path in layers}  # in the model's order


def check_places(model: nn.Module, layers: Layers, own: set[int]) -> None:
    """Refuse modules that cannot serve these layers.

    Arguments
    ---------
    model : nn.Module
        Where the layers belong.
    layers : dict
        What they are to serve.
    own : set
        Identities of the modules that serve other adapters of this model.

    Raises
    ------
    ValueError
        Naming the module.
    """
    for path, slots in layers.items():
        module = model.get_submodule(path)
        if isinstance(module, Adapted) and id(module) not in own:
            raise ValueError(
                f"'{path}' serves an adapter that was inserted into another part of the model: "
                "remove that one first, or insert both into the same module"
            )
        if hasattr(module, "adapters") and not isinstance(module, Adapted):
            raise ValueError(
                f"'{path}' ({kind_of(module)}) has an attribute 'adapters' of its own, "
                "which would be lost: leave it out of targets"
            )
        for slot, layer in slots.items():
            if slot != "output" and not layer.mergeable and not can_branch(module):
                raise ValueError(
                    f"{type(layer).__name__} depends on the input, and '{path}' ({kind_of(module)})"
                    " reads its weight directly or in groups: leave it out of targets, or use a "
                    "mergeable adapter such as LoRA"
                )


def kind_of(module: nn.Module) -> str:
    """Return the name of a module's own class.

    Example
    -------
    >>> kind_of(nn.Linear(2, 2))
    'Linear'
    """
    return getattr(module, "base_class", type(module)).__name__


def _modules_of_base(model: nn.Module) -> dict[str, nn.Module]:
    found: dict[str, nn.Module] = {}
    seen: set[nn.Module] = set()
    for path, module in model.named_modules(seen):  # which passes over what it has seen
        if isinstance(module, Adapted):
            seen.add(module.adapters)
        found[path] = module
    return found


def _names_near(pattern: str, modules: dict[str, nn.Module]) -> str:
    wanted = pattern.lstrip("*.")
    parts = wanted.count(".") + 1
    # patterns mostly mean the end of a name, the same in every block: one of each is shown
    ends = {".".join(path.split(".")[-parts:]): path for path in reversed(modules) if path}
    if not ends:
        return 'it has no parts: name it itself by ""'
    near = difflib.get_close_matches(wanted, ends, n=3, cutoff=0.0)
    return f"there are, for example, {', '.join(repr(ends[one]) for one in near)}"


def _shapes(path: str, module: nn.Module, adapter: Adapter) -> dict[str, WeightShape]:
    if adapter.on_output:
        shape = output_shape_of(module)
        return {} if shape is None else {"output": shape._replace(path=path)}
    base = getattr(module, "base_tensor", None) or (lambda attribute: getattr(module, attribute))
    return {
        name: shape_of(module, base(slot.attribute)[slot.rows])._replace(path=path)
        for name, slot in slots_of(module).items()
    }


def _remake(
    path: str, shape: WeightShape, spec: Adapter, tensors: dict[str, Tensor]
) -> AdapterLayer:
    given = {key: tuple(one.shape) for key, one in tensors.items()}
    try:
        layer = spec.remake(shape, tensors)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"adapter layer '{path}' holds {_named(given)}, which is no {type(spec).__name__} "
            f"({error}): save the adapter again"
        ) from error
    wanted = {key: tuple(one.shape) for key, one in layer.state_dict().items()}
    if wanted != given:
        raise ValueError(
            f"adapter layer '{path}' holds {_named(given)}, but this model takes "
            f"{_named(wanted)}: it was made for another size of model"
        )
    layer.load_state_dict(tensors)
    return layer


def _named(shapes: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{key} {'x'.join(map(str, shape))}" for key, shape in shapes.items())
