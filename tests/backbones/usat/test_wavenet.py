"""The gated convolutions against a loop over layers, their padding, their places for adapters."""

import pytest
import torch
from torch.nn import functional

from speechcl.backbones.usat.wavenet import WaveNet
from tests.backbones.usat.point_adapters import (
    Careless,
    Same,
    Seen,
    drawn,
    garbled,
    mask_of,
    points,
    put,
)

CHANNELS, SIZE = 6, 3


@pytest.fixture
def mask():
    torch.manual_seed(0)
    return mask_of([9, 5])


def a_wavenet(**settings):
    settings = {"kernel": 3, "layers": 3, "condition": SIZE} | settings
    return drawn(WaveNet(CHANNELS, **settings))


def weight(convolution):
    """Direction and length of each filter, as weight norm keeps them."""
    length, direction = (
        getattr(convolution.parametrizations.weight, part) for part in ("original0", "original1")
    )
    return length * direction / direction.flatten(1).norm(dim=1)[:, None, None]


def convolve(x, filters, bias, dilation):
    """A convolution, frame by frame and tap by tap."""
    y = bias[None, :, None].repeat(len(x), 1, x.shape[2])
    for t in range(x.shape[2]):
        for tap in range(filters.shape[2]):
            source = t + (tap - filters.shape[2] // 2) * dilation
            if 0 <= source < x.shape[2]:
                y[:, :, t] += x[:, :, source] @ filters[:, :, tap].T
    return y


def slow(net, x, mask, condition, rate):
    """Equations 2 and 3 of WaveNet, one item, layer and half at a time."""
    results = []
    for item, real, speaker in zip(x, mask, condition, strict=True):
        frames = int(real.sum())
        h, total = item[None, :, :frames], 0
        for k in range(len(net.gates)):
            both = convolve(h, weight(net.gates[k]), net.gates[k].bias, rate**k)
            rows = slice(2 * CHANNELS * k, 2 * CHANNELS * (k + 1))
            moved = weight(net.conditioner)[rows, :, 0] @ speaker + net.conditioner.bias[rows]
            both = both + moved[None, :, None]
            gated = both[:, :CHANNELS].tanh() * both[:, CHANNELS:].sigmoid()
            mixed = convolve(gated, weight(net.mixers[k]), net.mixers[k].bias, 1)
            if k < len(net.gates) - 1:
                h, total = h + mixed[:, :CHANNELS], total + mixed[:, CHANNELS:]
            else:
                total = total + mixed
        results.append(functional.pad(total, (0, x.shape[2] - frames)))
    return torch.cat(results)


@pytest.mark.parametrize(("kernel", "rate"), [(3, 1), (5, 1), (3, 2)])
def test_it_is_the_equations_layer_by_layer(mask, kernel, rate):
    net = a_wavenet(kernel=kernel, dilation_rate=rate)
    x, condition = torch.randn(2, CHANNELS, 9), torch.randn(2, SIZE)
    expected = slow(net, x, mask, condition, rate)
    torch.testing.assert_close(net(x, mask, condition), expected, rtol=1e-5, atol=1e-5)


def test_every_convolution_has_its_weights_normed():
    net = a_wavenet()
    names = {name for name, _ in net.named_parameters()}
    layers = ["conditioner", *(f"{kind}.{k}" for kind in ("gates", "mixers") for k in range(3))]
    parts = ("bias", "parametrizations.weight.original0", "parametrizations.weight.original1")
    assert names == {f"{layer}.{part}" for layer in layers for part in parts}


@pytest.mark.parametrize("adapter", [None, Careless])
def test_padding_does_not_matter(mask, adapter):
    net = a_wavenet()
    if adapter:
        put(net, adapter)
    x, condition = torch.randn(2, CHANNELS, 9), torch.randn(2, SIZE)
    together = net(x, mask, condition)
    assert torch.equal(net(garbled(x, mask), mask, condition), together)
    assert together[1, :, 5:].abs().sum() == 0
    alone = net(x[1:, :, :5], mask[1:, :, :5], condition[1:])
    torch.testing.assert_close(together[1:, :, :5], alone, rtol=1e-5, atol=1e-5)


def test_a_point_for_each_layer_that_at_first_changes_nothing(mask):
    net = a_wavenet(condition=0)
    x = torch.randn(2, CHANNELS, 9)
    before = net(x, mask)
    state = set(net.state_dict())
    assert list(points(net)) == [f"points.{k}" for k in range(3)]
    put(net, lambda channels: Same())
    assert torch.equal(net(x, mask), before)
    assert set(net.state_dict()) == state


@pytest.mark.parametrize("layer", range(3))
def test_an_adapter_acts_on_what_its_layer_made(mask, layer):
    net, x = a_wavenet(condition=0), torch.randn(2, CHANNELS, 9)
    before = net(x, mask)
    put(net, lambda channels: Seen())
    net(x, mask)
    given = [point.adapter.h for point in net.points]
    assert torch.equal(given[2], before)  # the last one has the result
    assert all((h * (1 - mask)).abs().sum() == 0 for h in given)
    net.points[layer].adapter = Careless(CHANNELS)
    after = net(x, mask)
    assert not torch.allclose(after, before)
    for k in range(3):  # earlier layers do not see it, later ones do
        if k != layer:
            assert torch.equal(net.points[k].adapter.h, given[k]) == (k < layer)


def test_one_layer_has_the_result_alone():
    net = a_wavenet(layers=1, condition=0)
    assert net.mixers[0].out_channels == CHANNELS
    assert len(net.points) == 1


def test_every_weight_gets_a_gradient(mask):
    net = a_wavenet()
    net(torch.randn(2, CHANNELS, 9), mask, torch.randn(2, SIZE)).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in net.parameters())


def test_dropout_only_while_training(mask):
    net, x = a_wavenet(condition=0, dropout=0.5), torch.randn(2, CHANNELS, 9)
    assert torch.equal(net(x, mask), net(x, mask))
    net.train()
    assert not torch.equal(net(x, mask), net(x, mask))


def test_it_says_when_a_condition_is_missing_or_not_wanted(mask):
    x = torch.randn(2, CHANNELS, 9)
    with pytest.raises(ValueError, match="missing"):
        a_wavenet()(x, mask)
    with pytest.raises(ValueError, match="takes none"):
        a_wavenet(condition=0)(x, mask, torch.randn(2, SIZE))
    with pytest.raises(ValueError, match="at least 1"):
        a_wavenet(layers=0)
