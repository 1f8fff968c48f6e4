"""Masked blocks: SpeechBrain's values, and nothing of what lies beyond the end."""

import pytest
import torch
from speechbrain.lobes.models.ECAPA_TDNN import AttentiveStatisticsPooling, Res2NetBlock

from speechcl.backbones.usat import masked_blocks
from speechcl.backbones.usat.masked_blocks import (
    batch_norm,
    pad_with_zeros,
    pool,
    relative_lengths,
    res2net,
)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_every_length_counts_exactly_its_frames():
    for frames in (7, 64, 100, 333, 1000):
        mask = (torch.arange(frames) < torch.arange(1, frames + 1)[:, None])[:, None].float()
        counted = torch.arange(frames) < (relative_lengths(mask) * frames)[:, None]
        assert counted.sum(1).tolist() == list(range(1, frames + 1))


def test_res2net_gives_each_part_what_the_part_before_made():
    torch.manual_seed(0)
    block = Res2NetBlock(12, 12, scale=4, dilation=2).eval()
    pad_with_zeros(block)
    mask = torch.ones(2, 1, 20)
    mask[1, :, 13:] = 0
    x = noise(2, 12, 20) * mask
    out = res2net(block, x, mask)
    torch.testing.assert_close(out[:1], block(x[:1]))
    torch.testing.assert_close(out[1:, :, :13], block(x[1:, :, :13]))
    assert not out[1, :, 13:].any()


def test_pooling_looks_at_an_items_own_frames_only():
    torch.manual_seed(0)
    pooling, x = AttentiveStatisticsPooling(4, 3).eval(), noise(2, 4, 20)
    mask = torch.ones(2, 1, 20)
    mask[1, :, 13:] = 0
    alone = torch.cat([pooling(x[:1]), pooling(x[1:, :, :13])])[:, :, 0]
    torch.testing.assert_close(pool(pooling, x, mask), alone)


def test_pooling_of_nothing_and_of_a_constant_is_finite():
    torch.manual_seed(0)
    pooling, mask = AttentiveStatisticsPooling(4, 3), torch.ones(3, 1, 5)
    mask[2] = 0
    x = torch.ones(3, 4, 5, requires_grad=True)
    pooled = pool(pooling, x, mask)
    pooled.sum().backward()
    assert pooled.isfinite().all()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("normalise", [batch_norm, masked_blocks._batch_norm_by_sums])
def test_normalisation_sees_frames_only_that_are_there(normalise):
    x, norm = 3 * noise(3, 2, 10) + 1, torch.nn.BatchNorm1d(2)
    mask = (torch.arange(10) < torch.tensor([[10], [4], [7]]))[:, None].float()
    out = normalise(norm, x, mask)
    for channel in range(2):
        values = torch.cat([x[i, channel, :n] for i, n in enumerate((10, 4, 7))])
        expected = (x[:, channel] - values.mean()) / (values.var(correction=0) + 1e-5).sqrt()
        torch.testing.assert_close(out[:, channel], expected * mask[:, 0])
        torch.testing.assert_close(norm.running_mean[channel], 0.1 * values.mean())
        torch.testing.assert_close(norm.running_var[channel], 0.9 + 0.1 * values.var())
    assert norm.num_batches_tracked == 1
    norm.eval()
    torch.testing.assert_close(batch_norm(norm, x, mask), norm(x) * mask)


def test_both_ways_to_normalise_learn_alike():
    mask = (torch.arange(10) < torch.tensor([[10], [4], [7]]))[:, None].float()
    found = []
    for normalise in (masked_blocks._batch_norm_by_index, masked_blocks._batch_norm_by_sums):
        x, norm = noise(3, 2, 10).requires_grad_(), torch.nn.BatchNorm1d(2)
        with torch.no_grad():
            norm.weight.copy_(torch.tensor([0.5, 2.0]))
            norm.bias.copy_(torch.tensor([1.0, -1.0]))
        (normalise(norm, x, mask) * noise(3, 2, 10, seed=1)).sum().backward()
        found.append([x.grad, norm.weight.grad, norm.bias.grad, norm.running_var])
    torch.testing.assert_close(*found)
