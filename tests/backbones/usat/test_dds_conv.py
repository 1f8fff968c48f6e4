"""The dilated convolutions: a slow loop, how far they look, padding, and the adapter's place."""

import math

import pytest
import torch
from torch import nn

from speechcl.backbones.usat.dds_conv import ChannelNorm, DDSConv


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def shaken(module):
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module.eval()


def norm(column, layer):
    mean = sum(column) / len(column)
    variance = sum((value - mean) ** 2 for value in column) / len(column)
    scaled = [(value - mean) / math.sqrt(variance + 1e-5) for value in column]
    parts = zip(scaled, layer.weight.tolist(), layer.bias.tolist(), strict=True)
    return [value * weight + bias for value, weight, bias in parts]


def gelu(value):
    return value * 0.5 * (1 + math.erf(value / math.sqrt(2)))


def reference(stack, x):
    """One item, (channels, time), a number at a time."""
    channels, time = len(x), len(x[0])
    for layer, apart in enumerate(stack.apart):
        reach = 3**layer
        w, across = apart.weight.tolist(), stack.across[layer]
        columns = []
        for t in range(time):
            column = []
            for c in range(channels):
                taps = ((k, t + (k - 1) * reach) for k in range(3))
                total = sum(w[c][0][k] * x[c][at] for k, at in taps if 0 <= at < time)
                column.append(total + apart.bias.tolist()[c])
            column = [gelu(value) for value in norm(column, stack.norms_apart[layer])]
            rows = zip(across.weight[:, :, 0].tolist(), across.bias.tolist(), strict=True)
            column = [sum(a * b for a, b in zip(row, column, strict=True)) + o for row, o in rows]
            columns.append([gelu(value) for value in norm(column, stack.norms_across[layer])])
        x = [[x[c][t] + columns[t][c] for t in range(time)] for c in range(channels)]
    return torch.tensor(x)


def test_it_is_the_loop():
    stack, x = shaken(DDSConv(3, layers=2)), torch.randn(1, 3, 8)
    found = stack(x, torch.ones(1, 1, 8))[0]
    torch.testing.assert_close(found, reference(stack, x[0].tolist()), rtol=1e-4, atol=1e-5)


def test_three_layers_of_three_see_thirteen_to_each_side():
    stack, x = shaken(DDSConv(4)).double(), torch.randn(1, 4, 41).double()
    mask = torch.ones(1, 1, 41).double()
    other = x.clone()
    other[0, 1, 20] += 1.0
    changed = (stack(x, mask) - stack(other, mask)).abs().amax((0, 1)) > 0
    assert changed.nonzero()[[0, -1], 0].tolist() == [7, 33]


def test_padding_changes_nothing():
    stack, mask = shaken(DDSConv(4)), torch.ones(2, 1, 12)
    mask[1, :, 7:] = 0
    x = torch.randn(2, 4, 12)
    found = stack(x, mask)
    assert torch.equal(stack(x + 1e3 * torch.randn(2, 4, 12) * (1 - mask), mask), found)
    assert found[1, :, 7:].abs().max() == 0
    alone = stack(x[1:, :, :7], torch.ones(1, 1, 7))
    torch.testing.assert_close(found[1:, :, :7], alone, rtol=1e-5, atol=1e-5)


class Doubling(nn.Module):
    def forward(self, h, mask):
        self.seen = h
        return 2 * h + 1


def test_an_adapter_acts_on_what_comes_out_and_not_on_padding():
    stack, mask, x = shaken(DDSConv(4)), torch.ones(1, 1, 6), torch.randn(1, 4, 6)
    mask[..., 4:] = 0
    plain = stack(x, mask)
    stack.point.adapter = Doubling()
    assert torch.equal(stack(x, mask), (2 * plain + 1) * mask)
    assert torch.equal(stack.point.adapter.seen, plain)


def test_where_no_adapter_may_act_there_is_no_place_for_it():
    assert DDSConv(4, adapts=False).point is None
    assert DDSConv(4).state_dict().keys() == DDSConv(4, adapts=False).state_dict().keys()


def test_dropout_is_for_training():
    stack, mask, x = DDSConv(4, dropout=0.5), torch.ones(1, 1, 6), torch.randn(1, 4, 6)
    assert not torch.equal(stack(x, mask), stack(x, mask))
    stack.eval()
    assert torch.equal(stack(x, mask), stack(x, mask))


def test_the_norm_looks_at_one_moment_at_a_time():
    x = torch.randn(2, 5, 7)
    found = ChannelNorm(5)(x)
    torch.testing.assert_close(found.mean(1), torch.zeros(2, 7))
    torch.testing.assert_close(found.var(1, correction=0), torch.ones(2, 7), rtol=1e-3, atol=0)


def test_a_kernel_without_a_middle_is_refused():
    with pytest.raises(ValueError, match="kernel is 4: set it to an odd number"):
        DDSConv(4, kernel=4)
