"""Tensors by name that are remembered, not trained: weights as they were, how much each matters."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class NamedTensors(nn.Module):
    """A dictionary of tensors that is saved, loaded and moved with the method that holds it.

    Names may hold dots, as those of parameters do.

    Example
    -------
    >>> kept = NamedTensors()
    >>> kept.put({"layer.weight": torch.ones(2)})
    >>> kept.tensors()
    {'layer.weight': tensor([1., 1.])}
    >>> kept.layout()
    {'layer.weight': {'shape': [2], 'dtype': 'float32'}}
    """

    def __len__(self) -> int:
        """Return how many tensors there are."""
        return len(self._buffers)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors themselves, by name."""
        held = self._buffers.items()
        return {key.replace("/", "."): tensor for key, tensor in held if tensor is not None}

    def layout(self) -> dict:
        """Describe the tensors in plain values; ``allocate`` makes them again."""
        return layout_of(self.tensors())

    def allocate(self, layout: Mapping[str, Mapping]) -> None:
        """Make zeros for what a ``layout`` has and this has not."""
        for name, form in layout.items():
            key = name.replace(".", "/")
            if key not in self._buffers:
                dtype = getattr(torch, form["dtype"])
                self.register_buffer(key, torch.zeros(form["shape"], dtype=dtype))

    @torch.no_grad()
    def put(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy tensors in, under their names; others stay as they are."""
        self.allocate(layout_of(tensors))
        for name, tensor in tensors.items():
            key = name.replace(".", "/")
            self._buffers[key] = self.get_buffer(key).to(tensor.device).copy_(tensor)


def layout_of(tensors: Mapping[str, Tensor]) -> dict:
    """Describe tensors by shape and type, in plain values.

    Example
    -------
    >>> layout_of({"label": torch.zeros(3, dtype=torch.int64)})
    {'label': {'shape': [3], 'dtype': 'int64'}}
    """
    return {
        name: {"shape": list(one.shape), "dtype": str(one.dtype).removeprefix("torch.")}
        for name, one in tensors.items()
    }
