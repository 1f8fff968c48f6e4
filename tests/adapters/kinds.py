"""Every kind of layer that can be adapted, and what the tests of all of them share."""

import copy
import warnings

import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.utils import parametrize
from transformers.pytorch_utils import Conv1D

from speechcl.adapters import Adapter, AdapterLayer, LoRA, adapter_parameters, insert


class Causal(nn.Conv1d):
    """A convolution with a forward pass of its own."""

    def forward(self, x):
        return super().forward(functional.pad(x, (2 * self.dilation[0], 0)))


class Doubled(nn.Linear):
    """A linear layer with a forward pass of its own, which reads the weight itself."""

    def forward(self, x):
        return 2 * functional.linear(x, self.weight) + self.bias


class Net(nn.Module):
    """The layer under test, behind a name, and another one that stays as it is."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.norm = layer, nn.LayerNorm(3)

    def forward(self, *inputs):
        output = self.layer(*inputs)
        return output[0] if isinstance(output, tuple) else output


TIME, IMAGE = (2, 6, 20), (2, 6, 9, 8)
PLAIN = {
    "linear": (lambda: nn.Linear(6, 5), (2, 3, 6)),
    "linear without bias": (lambda: nn.Linear(6, 5, bias=False), (2, 6)),
    "linear subclass": (lambda: Doubled(6, 5), (2, 3, 6)),
    "transposed linear": (lambda: Conv1D(5, 6), (2, 3, 6)),
    "conv1d": (lambda: nn.Conv1d(6, 4, 3), TIME),
    "conv1d strided": (lambda: nn.Conv1d(6, 4, 5, stride=3), TIME),
    "conv1d dilated": (lambda: nn.Conv1d(6, 4, 3, dilation=3, padding=3), TIME),
    "conv1d same": (lambda: nn.Conv1d(6, 4, 4, dilation=2, padding="same"), TIME),
    "conv1d reflect": (
        lambda: nn.Conv1d(6, 4, 3, padding="same", padding_mode="reflect", dilation=2),
        TIME,
    ),
    "conv1d grouped": (lambda: nn.Conv1d(6, 4, 3, stride=2, groups=2), TIME),
    "conv1d depthwise": (lambda: nn.Conv1d(6, 6, 3, groups=6, padding="same"), TIME),
    "conv1d subclass": (lambda: Causal(6, 4, 3, dilation=2), TIME),
    "conv2d": (lambda: nn.Conv2d(6, 4, (3, 2), padding=1), IMAGE),
    "conv2d dilated": (lambda: nn.Conv2d(6, 4, (3, 2), dilation=(1, 2)), IMAGE),
    "conv2d depthwise": (lambda: nn.Conv2d(6, 12, 3, groups=6), IMAGE),
    "upsampling": (lambda: nn.ConvTranspose1d(6, 4, 4, stride=2, padding=1), TIME),
    "upsampling grouped": (lambda: nn.ConvTranspose1d(6, 4, 4, stride=2, groups=2), TIME),
}
ATTENTION = {
    "attention": (lambda: nn.MultiheadAttention(8, 2, batch_first=True), [(2, 5, 8)] * 3),
    "attention of other widths": (
        lambda: nn.MultiheadAttention(8, 2, kdim=6, vdim=4, batch_first=True),
        [(2, 5, 8), (2, 7, 6), (2, 7, 4)],
    ),
}


def old_weight_norm(layer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # still what published vocoders use
        return nn.utils.weight_norm(layer)


def _kinds():
    kinds = {}
    for name, (make, shape) in PLAIN.items():
        kinds[name] = (make, [shape])
        kinds[f"{name}, weight_norm"] = (lambda m=make: old_weight_norm(m()), [shape])
        kinds[f"{name}, parametrised"] = (
            lambda m=make: nn.utils.parametrizations.weight_norm(m()),
            [shape],
        )
    return kinds | ATTENTION


KINDS = _kinds()
# what the kept weights of convolutions and attention rest on, in each of its forms
FOLDED = [
    "conv1d",
    "conv1d dilated, weight_norm",
    "conv1d, parametrised",
    "upsampling",
    "attention",
    "attention of other widths",
]


class Branch(LoRA):
    """A LoRA that claims to depend on the input, so that it may not be folded into a weight."""

    def make(self, shape):
        layer = super().make(shape)
        layer.mergeable = False
        return layer


class Gate(Adapter):
    """An adapter that depends on the input for good."""

    def make(self, shape):
        layer = GateLayer()
        layer.inner = LoRA(rank=2).make(shape)
        return layer


class GateLayer(AdapterLayer):
    mergeable = False

    def down(self):
        return self.inner.down()

    def up(self):
        return self.inner.up()

    def mix(self, z):
        return z * torch.sigmoid(z)


def net_of(kind, dtype=torch.float32):
    """The net with random weights and an input."""
    torch.manual_seed(0)
    make, shapes = KINDS[kind]
    net = Net(make()).to(dtype)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    inputs = tuple(torch.randn(shape, dtype=dtype) for shape in shapes)
    net(*inputs)  # weight_norm writes the weight before each call
    return net, inputs


def adapted(kind, adapter=None, dtype=torch.float32):
    """A net with an adapter that does something."""
    net, inputs = net_of(kind, dtype)
    insert(net, adapter or LoRA(rank=3, alpha=6), "layer")
    stir(net)
    return net, inputs


def stir(net, name="default", seed=1, size=0.3):
    """Give an adapter values as if it had been trained."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter_parameters(net, name):
            parameter.copy_(size * torch.randn(parameter.shape, generator=generator))


def train(net, inputs, parameters, steps=3):
    optimizer = torch.optim.Adam(parameters, lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        net(*inputs).float().square().mean().backward()
        optimizer.step()


def without_weight_norm(layer):
    """A copy of a base layer that has its weight as it is."""
    layer = copy.deepcopy(layer)
    if parametrize.is_parametrized(layer):
        parametrize.remove_parametrizations(layer, "weight")
    elif hasattr(layer, "weight_g"):
        nn.utils.remove_weight_norm(layer)
    return layer


def dense_change(layer, slots):
    """What adapter layers add to a weight of ``layer``, entry by entry from the definition."""
    if isinstance(layer, nn.MultiheadAttention):
        parts = {one: slots[one].up() @ slots[one].down() for one in "qkv"}
        if layer._qkv_same_embed_dim:
            return {"in_proj_weight": torch.cat([parts[one] for one in "qkv"])}
        return {f"{one}_proj_weight": parts[one] for one in "qkv"}
    up, down = slots["weight"].up(), slots["weight"].down()
    shape = layer.weight.shape
    if isinstance(layer, Conv1D):  # (inputs, outputs)
        return {"weight": torch.einsum("or,ri->io", up, down)}
    if isinstance(layer, _ConvTransposeNd):  # (inputs, outputs, time)
        return {"weight": torch.einsum("otr,ri->iot", up.view(*shape[1:], -1), down)}
    return {"weight": torch.einsum("or,ri->oi", up, down).reshape(shape)}
