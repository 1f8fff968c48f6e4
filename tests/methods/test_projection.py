"""How a projector sees a layer: rows of patches in, one gradient matrix out."""

import pytest
import torch
from torch import nn

from speechcl.methods.projection import joined_gradient, mean_rows, put_gradient, width


def draw(seed, *shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def slow_rows(layer, inputs):
    """The patch that each output position sees, cut out by loops."""
    mean = inputs.double().mean(0)
    if isinstance(layer, nn.Conv1d):
        mean = mean[:, None]
    lift = (lambda v, low: v) if isinstance(layer, nn.Conv2d) else (lambda v, low: (low, *v))
    kernel, stride = lift(layer.kernel_size, 1), lift(layer.stride, 1)
    dilation, (top, left) = lift(layer.dilation, 1), lift(layer.padding, 0)
    channels, height, length = mean.shape
    padded = torch.zeros(channels, height + 2 * top, length + 2 * left, dtype=torch.float64)
    padded[:, top : top + height, left : left + length] = mean
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    rows = []
    for i in range(0, padded.shape[1] - reach[0], stride[0]):
        for j in range(0, padded.shape[2] - reach[1], stride[1]):
            patch = [
                padded[c, i + a * dilation[0], j + b * dilation[1]]
                for c in range(channels)
                for a in range(kernel[0])
                for b in range(kernel[1])
            ]
            rows.append([*patch, *([1.0] if layer.bias is not None else [])])
    return torch.tensor(rows, dtype=torch.float64)


LAYERS = [
    (nn.Conv2d(2, 3, (2, 3), stride=(2, 1), padding=(1, 2), dilation=(1, 2)), (5, 2, 7, 8)),
    (nn.Conv2d(1, 2, 3, stride=3, bias=False), (2, 1, 7, 9)),
    (nn.Conv1d(2, 3, 3, stride=2, padding=2, dilation=2), (4, 2, 11)),
    (nn.Conv1d(3, 1, 1, bias=False), (4, 3, 5)),
]


@pytest.mark.parametrize(("layer", "shape"), LAYERS)
def test_rows_of_convolutions_are_their_patches(layer, shape):
    inputs = draw(0, *shape)
    rows = mean_rows(layer, inputs)
    torch.testing.assert_close(rows.double(), slow_rows(layer, inputs), rtol=0, atol=1e-6)
    assert rows.shape[1] == width(layer)
    weight = layer.weight.flatten(1)
    if layer.bias is not None:
        weight = torch.cat([weight, layer.bias[:, None]], 1)
    outputs = layer(inputs).mean(0).flatten(1)
    torch.testing.assert_close(weight @ rows.T, outputs, rtol=0, atol=1e-5)


def test_rows_of_linear_layers_are_means_over_all_but_the_last_axis():
    layer, inputs = nn.Linear(3, 2, bias=False), draw(0, 4, 5, 3)
    torch.testing.assert_close(mean_rows(layer, inputs), inputs.mean((0, 1))[None])


@pytest.mark.parametrize(("layer", "shape"), [*LAYERS, (nn.Linear(4, 3), (6, 4))])
def test_gradient_round_trip(layer, shape):
    layer.zero_grad()
    layer(draw(0, *shape)).square().sum().backward()
    before = [p.grad.clone() for p in layer.parameters()]
    joined = joined_gradient(layer).clone()
    assert joined.shape == (len(layer.weight), width(layer))
    put_gradient(layer, 2 * joined)
    for parameter, grad in zip(layer.parameters(), before, strict=True):
        assert torch.equal(parameter.grad, 2 * grad)
