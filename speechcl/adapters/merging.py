"""Write adapters into the weights of a base, through weight normalisation where there is any."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.weight_norm import WeightNorm

from speechcl.adapters.adapted import fold
from speechcl.adapters.layer import AdapterLayer
from speechcl.adapters.matrices import as_matrix, as_weight, slots_of
from speechcl.adapters.targets import Layers


def check_mergeable(model: nn.Module, layers: Layers, name: str) -> None:
    """Refuse to merge where the result would not be what the adapter does now.

    Raises
    ------
    ValueError
        If a layer depends on the input, or a weight is shared or computed.
    """
    owners: dict[int, list[str]] = {}
    for path, module in model.named_modules():
        for parameter in module._parameters.values():
            owners.setdefault(id(parameter), []).append(path)
    for path, slots in layers.items():
        module = model.get_submodule(path)
        for slot, layer in slots.items():
            if not layer.mergeable:
                raise ValueError(
                    f"adapter '{name}' depends on the input ({type(layer).__name__} in {path}) and "
                    "cannot be put into weights: keep it attached"
                )
            for parameter in _stored(module, slots_of(module)[slot].attribute):
                if parameter is None:
                    raise ValueError(
                        f"the weight of {path} is computed anew for every call, so what is merged "
                        "into it would be lost: keep the adapter attached"
                    )
                if len(owners[id(parameter)]) > 1:
                    raise ValueError(
                        f"{' and '.join(owners[id(parameter)])} share a weight, so merging "
                        f"'{name}' would change both: give each its own, or keep the adapter "
                        "attached"
                    )


@torch.no_grad()
def merge_into(module: Any, slots: dict[str, AdapterLayer]) -> None:
    """Put the layers of one module, which ``check_mergeable`` has passed, into its weights."""
    places = slots_of(module)
    for attribute in {places[slot].attribute for slot in slots}:
        weight = module.base_tensor(attribute)
        matrix = as_matrix(module, weight)
        parts = [
            fold(matrix[place.rows], [slots[slot]] if slot in slots else [])
            for slot, place in places.items()
            if place.attribute == attribute
        ]
        merged = torch.cat(parts)
        if not torch.equal(merged, matrix):  # weight normalisation would round it all the same
            _write(module, attribute, as_weight(module, merged, weight).contiguous())


def _stored(module: nn.Module, attribute: str) -> list[nn.Parameter | None]:
    """Return the parameters that hold a weight; None stands for what cannot be written."""
    own = module._parameters
    if attribute in own:
        return [own[attribute]]
    if _old_weight_norm(module, attribute) is not None:
        return [own[attribute + "_g"], own[attribute + "_v"]]
    if parametrize.is_parametrized(module, attribute):
        chain: Any = module.parametrizations[attribute]  # type: ignore[index]
        if len(chain) == 1 and isinstance(chain[0], _WeightNorm):
            return list(chain.parameters())
    return [None]


def _write(module: nn.Module, attribute: str, weight: Tensor) -> None:
    own: dict[str, Any] = module._parameters
    norm = _old_weight_norm(module, attribute)
    if attribute in own:
        own[attribute].copy_(weight)
    elif norm is not None:  # W = g V / |V|
        own[attribute + "_v"].copy_(weight)
        own[attribute + "_g"].copy_(torch.norm_except_dim(weight, 2, norm.dim))
        module.__dict__[attribute] = weight
    else:
        setattr(module, attribute, weight)


def _old_weight_norm(module: nn.Module, attribute: str) -> WeightNorm | None:
    hooks = module._forward_pre_hooks.values()
    norms = (hook for hook in hooks if isinstance(hook, WeightNorm) and hook.name == attribute)
    return next(norms, None)
