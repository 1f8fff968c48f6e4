"""ResNet: its sizes, its head, and what a detector must not depend on."""

import pytest
import torch
from torch import nn

from speechcl.backbones.resnet import ResNet, mean_and_spread

both_norms = pytest.mark.parametrize("norm", ["group", "batch"])


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def resnet(norm="group", width=16, seed=0):
    torch.manual_seed(seed)
    net = ResNet(width, norm=norm)
    if norm == "batch":  # statistics other than 0 and 1, so that they matter
        net(draw(1, 4, 64, 80))
    return net


@both_norms
@pytest.mark.parametrize(("width", "parameters"), [(16, 252_657), (32, 1_007_073)])
def test_has_the_announced_number_of_parameters(norm, width, parameters):
    assert sum(p.numel() for p in ResNet(width, norm=norm).parameters()) == parameters


def test_every_stage_has_the_announced_shape():
    net, x, shapes = resnet().eval(), torch.zeros(1, 1, 404, 80), []
    for stage in (net.stem, *net.blocks):
        x = stage(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [
        (16, 404, 40),
        (16, 404, 40),
        (16, 404, 40),
        (32, 202, 20),
        (32, 202, 20),
        (64, 101, 10),
        (64, 101, 10),
        (64, 51, 5),
    ]


@both_norms
def test_block_is_two_convolutions_and_what_passes_around_them(norm):
    net = resnet(norm).eval()
    same, other = net.blocks[0], net.blocks[2]
    x = draw(2, 2, 16, 20, 20)
    for block in (same, other):
        first, norm_1, _, second, norm_2 = block.main
        inner = norm_2(second(torch.relu(norm_1(first(x)))))
        around = x if block is same else block.around[1](block.around[0](x))
        torch.testing.assert_close(block(x), (inner + around).clamp(min=0))
    assert isinstance(net.blocks[0].main[1], nn.GroupNorm if norm == "group" else nn.BatchNorm2d)


@both_norms
def test_head_is_mean_and_spread_over_time_of_the_mean_over_frequency(norm):
    net, frames = resnet(norm).eval(), draw(3, 2, 100, 80)
    over_time = net.blocks(net.stem(frames[:, None])).sum(3) / 5
    mean = over_time.sum(2) / over_time.shape[2]
    variance = (over_time - mean[:, :, None]).square().sum(2) / over_time.shape[2]
    logit, embedding = net(frames)
    torch.testing.assert_close(embedding[:, :64], mean)
    torch.testing.assert_close(embedding[:, 64:], (variance + 1e-6).sqrt())
    torch.testing.assert_close(logit, net.classify(embedding))
    assert (logit.shape, embedding.shape) == ((2, 1), (2, 128))


def test_pooling_has_a_finite_gradient_where_nothing_changes():
    x = torch.ones(1, 2, 5, requires_grad=True)
    mean_and_spread(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.full_like(x, 0.2))


@both_norms
@pytest.mark.parametrize("frames", [64, 65, 301])
def test_takes_any_length_from_64_frames(norm, frames):
    assert resnet(norm).eval()(draw(0, 2, frames, 80))[0].isfinite().all()


def test_takes_another_number_of_bands():
    assert ResNet(16, bands=60)(draw(0, 2, 64, 60))[0].shape == (2, 1)


@pytest.mark.parametrize("shape", [(1, 63, 80), (1, 64, 60)])
def test_too_short_or_of_other_bands_is_refused(shape):
    with pytest.raises(ValueError, match=r"must be \(batch, at least 64, 80\)"):
        resnet()(torch.zeros(shape))


def test_a_width_that_makes_no_eight_groups_is_refused():
    with pytest.raises(ValueError, match="width is 12: set it to a multiple of 8"):
        ResNet(12)


@both_norms
def test_a_clip_gets_the_same_score_in_any_company(norm):
    net, frames = resnet(norm).eval(), draw(0, 5, 64, 80)
    with torch.no_grad():
        together = net(frames)[0]
        alone = torch.cat([net(one[None])[0] for one in frames])
        other = net(torch.cat([frames[:2], 100 * draw(1, 3, 64, 80)]))[0][:2]
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(together[:2], other, rtol=0, atol=1e-5)
    assert together.std() > 1e-4, "and scores differ from clip to clip"


def test_group_norm_scores_alike_in_training_and_has_no_running_statistics():
    net, frames = resnet(), draw(0, 3, 64, 80)
    torch.testing.assert_close(net(frames)[0], net.eval()(frames)[0])
    assert not list(net.buffers())


@both_norms
def test_gradient_reaches_every_parameter(norm):
    net = resnet(norm)
    net.zero_grad()
    net(draw(0, 4, 64, 80))[0].square().sum().backward()
    assert not [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]


@both_norms
def test_silence_is_finite_forward_and_backward(norm):
    net = resnet(norm)
    net(torch.zeros(2, 64, 80))[0].sum().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())
    assert net.eval()(torch.zeros(2, 64, 80))[0].isfinite().all()
