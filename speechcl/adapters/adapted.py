"""How a module serves adapters: it keeps its identity, its weights and their names.

``adapt`` changes the class of a module to a subclass of its own class, as PyTorch's own
parametrisations do, instead of putting a wrapper in its place. So ``isinstance``, attributes,
``state_dict`` keys, ties and references stay as they were, and code that reads ``module.weight``
instead of calling the module, as fused attention does, gets the adapted weight.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd

from speechcl.adapters.layer import AdapterLayer, add_branch
from speechcl.adapters.matrices import as_matrix, as_weight, is_transposed_linear, slots_of

MARK = "@"  # before an adapter's name: "type" or "float" would clash with a module's attributes


class Adapted:
    """Mixin of a module that serves adapters.

    ``adapters`` maps the marked name of an adapter to its layers by slot. ``serving`` names the
    adapters that act, in order.
    """

    adapters: Any
    serving: tuple[str, ...]
    base_class: type

    def layers(self, slot: str) -> list[AdapterLayer]:
        """Return the layers of a slot that act."""
        found = (self.adapters[MARK + name] for name in self.serving)
        return [layers[slot] for layers in found if slot in layers]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute with the adapted weights, then let adapters of the output act."""
        output = self.forward_weights(*args, **kwargs)
        for layer in self.layers("output"):
            output = layer(output)
        return output

    def forward_weights(self, *args: Any, **kwargs: Any) -> Any:
        """Compute as the module's own class does; the weights it reads are the adapted ones."""
        return super().forward(*args, **kwargs)  # type: ignore[misc]

    def base_tensor(self, attribute: str) -> Any:
        """Return a weight as it is without adapters."""
        for place in (self._parameters, self.__dict__):  # type: ignore[attr-defined]
            if attribute in place:  # a plain weight, or one written by torch.nn.utils.weight_norm
                return place[attribute]
        return getattr(super(), attribute)  # a parametrisation

    def folded(self, attribute: str, skip: tuple[AdapterLayer, ...] = ()) -> Any:
        """Return a weight with the acting adapters in it, except those to skip.

        Where no gradient is wanted, the sum is kept until a tensor that it rests on changes.
        """
        module: Any = self
        slots = {n: s for n, s in slots_of(module).items() if s.attribute == attribute}
        chosen = {n: [one for one in self.layers(n) if one not in skip] for n in slots}
        changes = [layer for layers in chosen.values() for layer in layers]
        if not changes:
            return self.base_tensor(attribute)
        self._check_mergeable(changes)
        state = _state(module, changes)
        kept = self.__dict__.get("_kept")
        if kept is not None and state is not None and kept[0] == (attribute, *state):
            return kept[1]
        keeps = state is not None
        weight = self.base_tensor(attribute)
        with (
            torch.inference_mode(torch.is_inference_mode_enabled() and not keeps),
            torch.set_grad_enabled(torch.is_grad_enabled() and not keeps),
            torch.autocast(weight.device.type, enabled=False),
        ):
            matrix = as_matrix(module, weight)
            parts = [fold(matrix[slots[name].rows], layers) for name, layers in chosen.items()]
            weight = as_weight(module, parts[0] if len(parts) == 1 else torch.cat(parts), weight)
        if state is not None:
            self.__dict__["_kept"] = ((attribute, *state), weight)
        return weight

    def _check_mergeable(self, layers: list[AdapterLayer]) -> None:
        for layer in layers:
            if not layer.mergeable:
                raise ValueError(
                    f"the weight of a {self.base_class.__name__} is read from outside, but its "
                    f"{type(layer).__name__} depends on the input and cannot be put into a weight: "
                    "adapt other layers, or use a mergeable adapter such as LoRA"
                )

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle and copy by the class that can be imported."""
        return _blank, (self.base_class,), self.__getstate__()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the kept weight behind."""
        return {name: value for name, value in self.__dict__.items() if name != "_kept"}


class AdaptedLinear(Adapted):
    """Linear layers: low-rank changes run beside the weight, which is cheaper than a new weight."""

    def forward_weights(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Compute the linear map and its branches."""
        inputs = x.numel() // x.shape[-1]
        branches = tuple(one for one in self.layers("weight") if one.branches(inputs))
        y = self.linear(x, self.folded("weight", skip=branches))
        for layer in branches:
            y = add_branch(y, x, layer)
        return y

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        """Compute the plain linear map."""
        return functional.linear(x, weight, self.bias)  # type: ignore[attr-defined]


class AdaptedTransposedLinear(AdaptedLinear):
    """A linear layer of transformers that keeps its weight as (inputs, outputs)."""

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        """Compute the plain linear map, by the same call as the layer's own."""
        y = torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), weight)  # type: ignore[attr-defined]
        return y.view(*x.shape[:-1], y.shape[-1])


class AdaptedConvolution(Adapted):
    """Convolutions: a new weight costs little beside it, and is right for every kind of them."""

    def forward_weights(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Compute the convolution, and the branches of adapters that depend on the input."""
        module: Any = self
        branches = tuple(one for one in self.layers("weight") if not one.mergeable)
        y = module._conv_forward(x, self.folded("weight", skip=branches), module.bias)
        channel = -1 - len(module.kernel_size)
        for layer in branches:
            down = layer.down().view(-1, *self.base_tensor("weight").shape[1:])
            z = module._conv_forward(x, down, None).movedim(channel, -1)
            y = y + functional.linear(layer.mix(z), layer.up()).movedim(-1, channel)
        return y


def fold(part: Tensor, layers: list[AdapterLayer]) -> Tensor:
    """Return rows of a weight with layers' changes in them, summed in single precision at least.

    Example
    -------
    >>> from speechcl.adapters.layer import WeightShape
    >>> from speechcl.adapters.lora import LoRA
    >>> rows = torch.eye(4, 3)
    >>> torch.equal(fold(rows, [LoRA(rank=1).make(WeightShape(4, 3, rows))]), rows)
    True
    """
    exact = part.float() if part.dtype in (torch.float16, torch.bfloat16) else part
    for layer in layers:
        exact = layer.fold(exact)
    return exact.to(part.dtype)


def can_branch(module: nn.Module) -> bool:
    """Say whether adapters that depend on the input can serve a module's weight.

    They need a layer that is called, by a forward pass known to be linear in its input.

    Example
    -------
    >>> can_branch(nn.Conv1d(4, 4, 3)), can_branch(nn.Conv1d(4, 4, 3, groups=2))
    (True, False)
    >>> can_branch(nn.ConvTranspose1d(4, 4, 3)), can_branch(nn.MultiheadAttention(4, 1))
    (False, False)
    """
    base: Any = getattr(module, "base_class", type(module))
    made = _adapted_class(base)
    if issubclass(made, AdaptedConvolution):
        return bool(module.groups == 1)
    return issubclass(made, AdaptedLinear)


def adapt(module: nn.Module) -> None:
    """Let a module serve adapters; it computes what it did before."""
    if not isinstance(module, Adapted):
        base: Any = type(module)
        module.__class__ = _adapted_class(base)
        module.adapters = nn.ModuleDict()
        module.serving = ()  # type: ignore[assignment]


def restore(module: nn.Module) -> None:
    """Give a module that has no adapter any more its own class back."""
    del module.adapters, module.serving
    module.__dict__.pop("_kept", None)
    module.__class__ = module.base_class  # type: ignore[assignment]


@torch.no_grad()
def write_base(module: nn.Module, attribute: str, weight: Tensor) -> None:
    """Write a weight into the base for good, through weight normalisation where there is any."""
    parameters: dict[str, Any] = module._parameters
    if attribute in parameters:
        parameters[attribute].copy_(weight)
    elif attribute + "_g" in parameters:  # torch.nn.utils.weight_norm: W = g V / |V|
        hooks = (hook for hook in module._forward_pre_hooks.values() if hasattr(hook, "dim"))
        dim = next(hooks).dim
        parameters[attribute + "_v"].copy_(weight)
        parameters[attribute + "_g"].copy_(torch.norm_except_dim(weight, 2, dim))
        module.__dict__[attribute] = weight
    else:  # a parametrisation with a right inverse
        setattr(module, attribute, weight)


@cache
def _adapted_class(base: Any) -> Any:
    """Make the subclass; where the forward pass is not the stock one, only weights are adapted."""
    mixin: type = Adapted
    attributes: tuple[str, ...] = ()
    if issubclass(base, nn.MultiheadAttention):
        attributes = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
    elif issubclass(base, nn.Linear | _ConvNd) or is_transposed_linear(base):
        attributes = ("weight",)
    if is_transposed_linear(base):
        mixin = AdaptedTransposedLinear
    elif base.forward is nn.Linear.forward:
        mixin = AdaptedLinear
    elif base.forward in (nn.Conv1d.forward, nn.Conv2d.forward):
        mixin = AdaptedConvolution
    weights = {attribute: _adapted_weight(attribute) for attribute in attributes}
    return type(f"Adapted{base.__name__}", (mixin, base), {"base_class": base, **weights})


def _adapted_weight(attribute: str) -> property:
    def read(self: Any) -> Any:
        return self.folded(attribute)

    def write(self: Any, value: Any) -> None:
        inherited = getattr(self.base_class, attribute, None)
        if isinstance(inherited, property):  # of a parametrisation
            inherited.__set__(self, value)
        else:  # torch.nn.utils.weight_norm writes before every call ...
            self.__dict__[attribute] = value

    def delete(self: Any) -> None:  # ... and deletes when it is removed
        del self.__dict__[attribute]

    return property(read, write, delete)


def _blank(base: Any) -> Any:
    made = _adapted_class(base)
    return made.__new__(made)


def _state(module: nn.Module, layers: list[AdapterLayer]) -> tuple | None:
    """Name the present values of all that a folded weight rests on; None if it is not to be kept.

    The base's tensors are compared before weight normalisation, which makes new ones every time.
    """
    tensors: list[Tensor] = [p for p in module._parameters.values() if p is not None]
    if "parametrizations" in module._modules:
        tensors += list(module._modules["parametrizations"].parameters())  # type: ignore[union-attr]
    for layer in layers:
        tensors += [*layer.parameters(), *layer.buffers()]
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return None
    if any(tensor.is_inference() for tensor in tensors):
        return None
    return tuple((id(t), t.data_ptr(), t._version, t.dtype, t.device) for t in tensors)
