"""Discriminators: reversal, pairs, latents of unequal length, and VITS's judges of waveforms."""

import pytest
import torch
from torch.nn import functional

from speechcl.backbones.usat.discriminators import (
    GradientReversal,
    LeakageDiscriminator,
    TimbreDiscriminator,
    WaveformDiscriminators,
)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_reversal_is_the_identity_with_its_gradient_turned_round(strength):
    x = noise(3, 4).requires_grad_()
    y = GradientReversal.apply(x, strength)
    assert torch.equal(y, x)
    y.square().sum().backward()
    torch.testing.assert_close(x.grad, -strength * 2 * x.detach())


def test_leakage_is_judged_from_both_vectors_in_their_order():
    torch.manual_seed(0)
    judge, a, b = LeakageDiscriminator(size=4, hidden=8), noise(3, 4), noise(3, 4, seed=1)
    first, _, second, _, last = judge.layers
    h = functional.leaky_relu(first(torch.cat([a, b], 1)), 0.1)
    expected = last(functional.leaky_relu(second(h), 0.1))
    torch.testing.assert_close(judge(a, b), expected[:, 0])
    assert (judge(a, b) - judge(b, a)).abs().max() > 1e-4


def test_timbre_is_judged_by_blocks_with_shortcuts_pooling_and_a_linear_score():
    torch.manual_seed(0)
    judge, frames = TimbreDiscriminator(6, channels=16, attention=4).eval(), noise(2, 6, 30)
    x = judge.embed(frames)
    for block in judge.blocks:
        x = x + block(x)
    expected = judge.score(judge.pooling(x)[:, :, 0])[:, 0]
    torch.testing.assert_close(judge(frames), expected)
    assert [block.blocks[0].conv.dilation for block in judge.blocks] == [2, 3, 4]


def test_timbre_of_an_item_is_judged_alike_alone_and_padded_with_anything():
    torch.manual_seed(0)
    judge = TimbreDiscriminator(6, channels=16, attention=4)
    judge(noise(4, 6, 30, seed=2) + 1)
    judge.eval()
    frames = noise(2, 6, 30)
    mask = (torch.arange(30) < torch.tensor([[30], [11]]))[:, None].float()
    other = torch.where(mask.bool(), frames, 100 * noise(2, 6, 30, seed=1))
    with torch.no_grad():
        together = judge(frames, mask)
        torch.testing.assert_close(judge(other, mask), together, rtol=0, atol=0)
        torch.testing.assert_close(together[:1], judge(frames[:1]), rtol=0, atol=1e-5)
        torch.testing.assert_close(together[1:], judge(frames[1:, :, :11]), rtol=0, atol=1e-5)
    assert together.std() > 1e-4


def test_timbre_is_judged_alike_however_padded_in_training_too():
    torch.manual_seed(0)
    judge, frames = TimbreDiscriminator(6, channels=16, attention=4), noise(2, 6, 30)
    mask = (torch.arange(30) < torch.tensor([[30], [11]]))[:, None].float()
    more = functional.pad(frames, (0, 20), value=7.0)
    longer = judge(more, functional.pad(mask, (0, 20)))
    torch.testing.assert_close(longer, judge(frames, mask), rtol=0, atol=1e-5)


def test_timbre_channels_that_cannot_be_split_are_refused():
    with pytest.raises(ValueError, match="channels is 20: set it to a multiple of 8"):
        TimbreDiscriminator(6, channels=20)


def test_gradient_reaches_every_parameter():
    torch.manual_seed(0)
    timbre = TimbreDiscriminator(6, channels=16, attention=4)
    timbre(noise(3, 6, 30)).square().sum().backward()
    waveform = WaveformDiscriminators(channels=2)
    scores, _ = waveform(noise(2, 1000))
    torch.cat(scores, 1).square().sum().backward()
    for judge in (timbre, waveform):
        assert not [name for name, p in judge.named_parameters() if p.grad is None]
        assert all(p.grad.isfinite().all() for p in judge.parameters())


def parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("channels", "expected"), [(8, 3_004_552), (2, 208_015)])
def test_waveforms_judges_have_the_announced_number_of_parameters(channels, expected):
    assert parameters(WaveformDiscriminators(channels)) == expected


def test_waveforms_judges_are_laid_out_as_in_vits():
    judges = WaveformDiscriminators()
    assert parameters(judges) == 46_747_132
    scale, *periods = judges.judges
    assert [judge.period for judge in periods] == [2, 3, 5, 7, 11]
    for judge in periods:
        plan = [
            (c.in_channels, c.out_channels, c.kernel_size[0], c.stride[0]) for c in judge.layers
        ]
        assert plan == [
            (1, 32, 5, 3),
            (32, 128, 5, 3),
            (128, 512, 5, 3),
            (512, 1024, 5, 3),
            (1024, 1024, 5, 1),
        ]
    plan = [(c.out_channels, c.kernel_size[0], c.stride[0], c.groups) for c in scale.layers]
    assert plan == [
        (16, 15, 1, 1),
        (64, 41, 4, 4),
        (256, 41, 4, 16),
        (1024, 41, 4, 64),
        (1024, 41, 4, 256),
        (1024, 5, 1, 1),
    ]


def test_a_period_sees_every_period_th_sample_and_no_other():
    torch.manual_seed(0)
    period = WaveformDiscriminators(channels=2, periods=[3]).judges[1]
    x = noise(1, 1, 300)
    changed = x.clone()
    changed[:, :, 1::3] += 1
    before, after = period(x)[-1], period(changed)[-1]
    assert torch.equal(before[..., [0, 2]], after[..., [0, 2]])
    assert (before[..., 1] - after[..., 1]).abs().min() > 0


def test_a_period_reflects_what_lacks_at_the_end():
    torch.manual_seed(0)
    period = WaveformDiscriminators(channels=2, periods=[5]).judges[1]
    x = noise(1, 1, 298)
    whole = torch.cat([x, x[:, :, [296, 295]]], dim=2)
    for ours, theirs in zip(period(x), period(whole), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_features_are_rectified_layers_then_the_scores():
    torch.manual_seed(0)
    judges, x = WaveformDiscriminators(channels=2, periods=[2]), noise(2, 400)
    scores, features = judges(x)
    scale = judges.judges[0]
    h = x[:, None]
    for layer, expected in zip(scale.layers, features[0], strict=False):
        h = functional.leaky_relu(layer(h), 0.1)
        torch.testing.assert_close(expected, h)
    torch.testing.assert_close(features[0][-1], scale.last(h))
    torch.testing.assert_close(scores[0], scale.last(h)[:, 0])
    assert [len(maps) for maps in features] == [7, 6]
    assert scores[1].shape == (2, features[1][-1][0].numel())


@pytest.mark.parametrize("channels", [0, 3])
def test_channels_that_cannot_be_halved_are_refused(channels):
    with pytest.raises(ValueError, match="set it to an even number"):
        WaveformDiscriminators(channels)
