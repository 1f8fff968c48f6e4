"""Bottleneck adapters: a small residual network on the output of a module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from speechcl.adapters.layer import Adapter, AdapterLayer, WeightShape, check_rank, fresh_down

_ACTIVATIONS = {"relu": torch.relu, "gelu": functional.gelu, "silu": functional.silu}


@dataclass(frozen=True)
class Bottleneck(Adapter):
    """Houlsby's adapter: y + B f(A y + a) + b on a module's output, with B and b zero at the start.

    Arguments
    ---------
    units : int
        Width of the bottleneck.
    kernel : int
        Frames that A and B see at a time (odd), for outputs (batch, channels, time) of
        convolutions; 1 looks at each frame by itself.
    activation : str
        "relu", "gelu" or "silu".

    Source
    ------
    Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", arXiv 1902.00751, section 2.1.
    Deviates: B starts at exactly zero, not near it, so that a fresh adapter changes no bit.

    Example
    -------
    >>> from speechcl.adapters import insert
    >>> net = nn.Sequential(nn.Linear(4, 6), nn.ReLU())
    >>> print(insert(net, Bottleneck(units=2), targets="0"))
    Bottleneck 'default' in 1 layer: 32 of 62 parameters to train (51.61 %)
    """

    units: int = 64
    kernel: int = 1
    activation: str = "relu"

    on_output = True

    def __post_init__(self) -> None:
        check_rank(self.units)
        if not isinstance(self.kernel, int) or self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(f"kernel is {self.kernel}: give an odd number of frames")
        if self.activation not in _ACTIVATIONS:
            known = ", ".join(_ACTIVATIONS)
            raise ValueError(f"activation '{self.activation}' is unknown: choose from {known}")

    def make(self, shape: WeightShape) -> AdapterLayer:
        """Return a fresh layer for outputs of ``shape.rows`` channels."""
        if self.kernel > 1 and shape.dimensions != 1:
            raise ValueError(
                f"kernel is {self.kernel}, but the output has no time axis to convolve along: "
                "set kernel=1, or target one-dimensional convolutions"
            )
        return BottleneckLayer(self, shape)

    def remake(self, shape: WeightShape, tensors: Mapping[str, Tensor]) -> AdapterLayer:
        """Return a layer of the size that saved tensors have."""
        units = len(tensors["reduce"])
        if units != self.units or tensors["reduce"].numel() != units * shape.rows * self.kernel:
            raise ValueError(f"its tensors are not those of {self.units} units")
        return self.make(shape)


class BottleneckLayer(AdapterLayer):
    """The residual network of one module."""

    mergeable = False

    def __init__(self, spec: Bottleneck, shape: WeightShape) -> None:
        super().__init__()
        self.activation, self.kernel = _ACTIVATIONS[spec.activation], spec.kernel
        self.channel = -1 - shape.dimensions
        inputs = shape._replace(columns=shape.rows * spec.kernel)
        self.reduce = fresh_down(spec.units, inputs)
        self.reduce_bias = nn.Parameter(shape.like.new_zeros(spec.units))
        self.expand = nn.Parameter(shape.like.new_zeros(shape.rows, spec.units * spec.kernel))
        self.expand_bias = nn.Parameter(shape.like.new_zeros(shape.rows))

    def forward(self, output: Any) -> Any:
        """Add the residual to a tensor, or to the first of a tuple."""
        if isinstance(output, tuple):
            return (self.forward(output[0]), *output[1:])
        y = output if self.channel == -1 else output.movedim(self.channel, -1)
        if self.kernel == 1:
            hidden = self.activation(functional.linear(y, self.reduce, self.reduce_bias))
            change = functional.linear(hidden, self.expand, self.expand_bias)
            return output + (change if self.channel == -1 else change.movedim(-1, self.channel))
        hidden = self.activation(self._convolve(output, self.reduce, self.reduce_bias))
        return output + self._convolve(hidden, self.expand, self.expand_bias)

    def _convolve(self, x: Tensor, matrix: Tensor, bias: Tensor) -> Tensor:
        weight = matrix.view(len(matrix), -1, self.kernel)
        return functional.conv1d(x, weight, bias, padding=self.kernel // 2)
