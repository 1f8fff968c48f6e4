"""LCNN: sizes and shapes of the published baseline, and what a detector must not depend on."""

import pytest
import torch
from torch import nn

from speechcl.backbones import LCNN
from speechcl.backbones.lcnn import MaxFeatureMap

both_norms = pytest.mark.parametrize("norm", ["group", "batch"])

# detectors.md, section 2.1: parameters of rows 1 to 9, and (channels, time, frequency) after each
ROWS = [
    (1_664, (32, 202, 30)),
    (2_112, (32, 202, 30)),
    (27_744, (48, 101, 15)),
    (4_704, (48, 101, 15)),
    (55_424, (64, 50, 7)),
    (8_320, (64, 50, 7)),
    (36_928, (32, 50, 7)),
    (2_112, (32, 50, 7)),
    (18_496, (32, 25, 3)),
]


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def lcnn(norm="group", seed=0):
    torch.manual_seed(seed)
    net = LCNN(norm=norm)
    if norm == "batch":  # statistics other than 0 and 1, so that they matter
        net(draw(1, 4, 48, 60))
    return net


@both_norms
def test_has_the_published_number_of_parameters(norm):
    assert sum(p.numel() for p in LCNN(norm=norm).parameters()) == 269_729


@both_norms
def test_every_row_has_the_published_size_and_shape(norm):
    net = lcnn(norm).eval()
    x, found = torch.zeros(1, 1, 404, 60), []
    for layer in net.convolutions:
        x = layer(x)
        if isinstance(layer, nn.Conv2d):
            found.append([sum(p.numel() for p in layer.parameters()), None])
        found[-1][1] = tuple(x.shape[1:])
    assert [tuple(row) for row in found] == ROWS
    assert [sum(p.numel() for p in one.parameters()) for one in net.recurrent] == [56_064] * 2
    assert sum(p.numel() for p in net.classify.parameters()) == 97


@both_norms
def test_norms_stand_where_the_baseline_has_them_and_learn_nothing(norm):
    kind = nn.GroupNorm if norm == "group" else nn.BatchNorm2d
    found = [m for m in LCNN(norm=norm).modules() if isinstance(m, nn.GroupNorm | nn.BatchNorm2d)]
    sizes = [m.num_channels if norm == "group" else m.num_features for m in found]
    assert sizes == [32, 48, 48, 64, 32, 32]
    assert all(isinstance(m, kind) and not list(m.parameters()) for m in found)


def test_max_feature_map_takes_the_larger_of_two_halves():
    x = draw(0, 2, 6, 4, 5)
    found = MaxFeatureMap()(x)
    for c in range(3):
        assert torch.equal(found[:, c], torch.maximum(x[:, c], x[:, c + 3]))
    assert torch.equal(MaxFeatureMap()(torch.cat([found, found], 1)), found)


@both_norms
def test_head_is_residual_recurrent_and_pooled_over_time(norm):
    net, frames = lcnn(norm).eval(), draw(2, 2, 100, 60)
    maps = net.convolutions(frames[:, None])
    x = torch.stack([maps[:, :, t].flatten(1) for t in range(maps.shape[2])], dim=1)
    y = net.recurrent[1](net.recurrent[0](x)[0])[0]
    embedding = (x + y).sum(1) / x.shape[1]
    logit, found = net(frames)
    torch.testing.assert_close(found, embedding)
    torch.testing.assert_close(logit, net.classify(embedding))
    assert (logit.shape, found.shape) == ((2, 1), (2, 96))


@both_norms
@pytest.mark.parametrize("frames", [16, 17, 120, 301])
def test_takes_any_length(norm, frames):
    logit, _ = lcnn(norm).eval()(draw(0, 2, frames, 60))
    assert logit.isfinite().all()


def test_too_short_is_refused():
    with pytest.raises(ValueError, match="15 frames are too few"):
        LCNN()(torch.zeros(1, 15, 60))


@both_norms
def test_a_clip_gets_the_same_score_in_any_company(norm):
    net, frames = lcnn(norm).eval(), draw(0, 5, 64, 60)
    with torch.no_grad():
        together = net(frames)[0]
        alone = torch.cat([net(one[None])[0] for one in frames])
        other = net(torch.cat([frames[:2], 100 * draw(1, 3, 64, 60)]))[0][:2]
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(together[:2], other, rtol=0, atol=1e-5)
    assert together.std() > 1e-4, "and scores differ from clip to clip"


@both_norms
def test_gradient_reaches_every_parameter(norm):
    net = lcnn(norm)
    net.zero_grad()
    net(draw(0, 4, 64, 60))[0].square().sum().backward()
    assert not [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]


@both_norms
def test_silence_is_finite_forward_and_backward(norm):
    net = lcnn(norm)
    net(torch.zeros(2, 64, 60))[0].sum().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())
    assert net.eval()(torch.zeros(2, 64, 60))[0].isfinite().all()


def test_dropout_works_in_training_only():
    net, frames = lcnn(), draw(0, 1, 64, 60)
    assert not torch.equal(net(frames)[0], net(frames)[0])
    net.eval()
    assert torch.equal(net(frames)[0], net(frames)[0])


def test_max_feature_map_has_the_gradient_of_the_maximum():
    x = torch.randn(3, 8, 5, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    weight = torch.randn(3, 4, 5, 4, generator=torch.Generator().manual_seed(1))
    (found,) = torch.autograd.grad((MaxFeatureMap()(x) * weight).sum(), x)
    (expected,) = torch.autograd.grad((torch.maximum(*x.chunk(2, 1)) * weight).sum(), x)
    assert torch.equal(found, expected)
    tied = torch.ones(1, 2, 1, 1, requires_grad=True)
    assert torch.autograd.grad(MaxFeatureMap()(tied).sum(), tied)[0].flatten().tolist() == [1, 0]
