"""How a module serves adapters: it keeps its identity, its weights and their names.

``adapt`` changes the class of a module to a subclass of its own class, as PyTorch's own
parametrisations do, instead of putting a wrapper in its place. So ``isinstance``, attributes,
``state_dict`` keys, ties and references stay as they were, and code that reads ``module.weight``
instead of calling the module, as fused attention does, gets the adapted weight.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd

from speechcl.adapters.kept import KeptWeight, can_be_watched, wants_gradient
from speechcl.adapters.layer import AdapterLayer, add_branch
from speechcl.adapters.matrices import as_matrix, as_weight, slots_of, transposed_linears

MARK = "@"  # before an adapter's name: "type" or "float" would clash with a module's attributes


class Adapted:
    """Mixin of a module that serves adapters.

    ``adapters`` maps the marked name of an adapter to its layers by slot. ``serving`` names the
    adapters that act, in order. The names of all members must not be ones that modules use.
    """

    adapters: Any
    serving: tuple[str, ...]
    base_class: type

    def acting_layers(self, slot: str) -> list[AdapterLayer]:
        """Return the layers of a slot that act."""
        # not through nn.Module's attributes, which are slow next to a small layer
        adapters = self._modules["adapters"]._modules  # type: ignore[attr-defined]
        found = (adapters[MARK + name]._modules for name in self.serving)
        return [layers[slot] for layers in found if slot in layers]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute with the adapted weights, then let adapters of the output act."""
        output = self.forward_adapted(*args, **kwargs)
        for layer in self.acting_layers("output"):
            output = layer(output)
        return output

    def forward_adapted(self, *args: Any, **kwargs: Any) -> Any:
        """Compute as the module's own class does; the weights it reads are the adapted ones."""
        return super().forward(*args, **kwargs)  # type: ignore[misc]

    def base_tensor(self, attribute: str) -> Any:
        """Return a weight as it is without adapters."""
        for place in (self._parameters, self.__dict__):  # type: ignore[attr-defined]
            if attribute in place:  # a plain weight, or one written by torch.nn.utils.weight_norm
                return place[attribute]
        return getattr(super(), attribute)  # a parametrisation

    def folded_weight(self, attribute: str, skip: tuple[AdapterLayer, ...] = ()) -> Any:
        """Return a weight with the acting adapters in it, except those to skip.

        Where no gradient is wanted, the sum is kept until a tensor that it rests on changes.
        """
        module: Any = self
        chosen = {
            name: (place.rows, [one for one in self.acting_layers(name) if one not in skip])
            for name, place in slots_of(module).items()
            if place.attribute == attribute
        }
        changes = [layer for _, layers in chosen.values() for layer in layers]
        if not changes:
            return self.base_tensor(attribute)
        self._check_mergeable(changes)
        weights = self.__dict__.setdefault("kept_weights", {})
        basis = _tensors_behind(module, changes)
        if wants_gradient(basis):
            weights.clear()  # some optimizers write through .data, which leaves no trace
            return self._fold(attribute, chosen)
        if torch.compiler.is_compiling():
            return self._fold(attribute, chosen)
        if attribute in weights and weights[attribute].rests_on(basis):
            return weights[attribute].weight
        if not can_be_watched(basis):
            return self._fold(attribute, chosen)
        with torch.inference_mode(False), torch.no_grad():
            kept = KeptWeight(self._fold(attribute, chosen), basis)
        weights[attribute] = kept
        return kept.weight

    def _fold(self, attribute: str, chosen: dict[str, tuple[slice, list[AdapterLayer]]]) -> Tensor:
        module: Any = self
        weight = self.base_tensor(attribute)
        with torch.autocast(weight.device.type, enabled=False):
            matrix = as_matrix(module, weight)
            parts = [fold(matrix[rows], layers) for rows, layers in chosen.values()]
            return as_weight(module, parts[0] if len(parts) == 1 else torch.cat(parts), weight)

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
        """Leave the kept weights behind."""
        return {name: value for name, value in self.__dict__.items() if name != "kept_weights"}


class AdaptedLinear(Adapted):
    """Linear layers: low-rank changes run beside the weight, which is cheaper than a new weight."""

    def forward_adapted(self, input: Tensor) -> Tensor:  # type: ignore[override]
        """Compute the linear map and its branches."""
        inputs = input.numel() // max(input.shape[-1], 1)
        branches = tuple(one for one in self.acting_layers("weight") if one.branches(inputs))
        y = self.linear_map(input, self.folded_weight("weight", skip=branches))
        for layer in branches:
            y = add_branch(y, input, layer)
        return y

    def linear_map(self, x: Tensor, weight: Tensor) -> Tensor:
        """Compute the plain linear map."""
        return functional.linear(x, weight, self.bias)  # type: ignore[attr-defined]


class AdaptedTransposedLinear(AdaptedLinear):
    """A linear layer of transformers that keeps its weight as (inputs, outputs)."""

    def forward_adapted(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Compute the linear map and its branches; the argument is named as in the layer's own."""
        return super().forward_adapted(x)

    def linear_map(self, x: Tensor, weight: Tensor) -> Tensor:
        """Compute the plain linear map, by the same call as the layer's own."""
        y = torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), weight)  # type: ignore[attr-defined]
        return y.view(*x.shape[:-1], y.shape[-1])


class AdaptedConvolution(Adapted):
    """Convolutions: a new weight costs little beside it, and is right for every kind of them."""

    def forward_adapted(self, input: Tensor) -> Tensor:  # type: ignore[override]
        """Compute the convolution, and the branches of adapters that depend on the input."""
        module: Any = self
        branches = tuple(one for one in self.acting_layers("weight") if not one.mergeable)
        y = module._conv_forward(input, self.folded_weight("weight", skip=branches), module.bias)
        channel = -1 - len(module.kernel_size)
        for layer in branches:
            down = layer.down().view(-1, *self.base_tensor("weight").shape[1:])
            z = module._conv_forward(input, down, None).movedim(channel, -1)
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
    module.__dict__.pop("kept_weights", None)
    module.__class__ = module.base_class  # type: ignore[assignment]


def _adapted_class(base: Any) -> Any:
    """Return the subclass; where the forward pass is not the stock one, only weights are adapted.

    A class that is in use already is found again. Parametrised modules have a class each, which
    a cache would keep alive for ever.
    """
    for made in base.__subclasses__():
        if issubclass(made, Adapted):
            return made
    mixin: type = Adapted
    attributes: tuple[str, ...] = ()
    if issubclass(base, nn.MultiheadAttention):
        attributes = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
    elif issubclass(base, (nn.Linear, _ConvNd, *transposed_linears())):
        attributes = ("weight",)
    if base.forward is nn.Linear.forward:
        mixin = AdaptedLinear
    elif base.forward in (nn.Conv1d.forward, nn.Conv2d.forward):
        mixin = AdaptedConvolution
    elif base.forward in [one.forward for one in transposed_linears()]:
        mixin = AdaptedTransposedLinear
    weights = {attribute: _adapted_weight(attribute) for attribute in attributes}
    return type(f"Adapted{base.__name__}", (mixin, base), {"base_class": base, **weights})


def _adapted_weight(attribute: str) -> property:
    def read(self: Any) -> Any:
        return self.folded_weight(attribute)

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


def _tensors_behind(module: nn.Module, layers: list[AdapterLayer]) -> list[Tensor]:
    """List all that a folded weight rests on.

    Of the base these are the tensors that are stored: weight normalisation computes a new weight
    from them every time.
    """
    holders: list[nn.Module] = [module]
    for part in (module._modules.get("parametrizations"), *layers):
        if part is not None:
            holders += part.modules() if part._modules else (part,)
    return [
        tensor
        for holder in holders
        for tensors in (holder._parameters, holder._buffers)
        for tensor in tensors.values()
        if tensor is not None
    ]
