"""Latents are drawn as mean and log-scale say, repeatably, without padding."""

import pytest
import torch

from speechcl.backbones.usat.posterior_encoder import PosteriorEncoder, mean_and_log_scale
from tests.backbones.usat.point_adapters import drawn, garbled, mask_of, points, put_fresh

BINS = 9


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return drawn(PosteriorEncoder(BINS, channels=6, latent=4, kernel=3, layers=2))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_latents_are_mean_and_scaled_noise(encoder):
    mask = mask_of([8, 5])
    z, mean, log_scale = encoder(torch.rand(2, BINS, 8), mask, seeded())
    noise = torch.randn(2, 4, 8, generator=seeded())
    torch.testing.assert_close(z, (mean + noise * log_scale.exp()) * mask)


def test_many_draws_have_that_mean_and_scale(encoder):
    x, mask = torch.rand(1, BINS, 3).expand(4000, -1, -1), torch.ones(4000, 1, 3)
    z, mean, log_scale = encoder(x, mask, seeded())
    scale = log_scale[0].exp()
    assert ((z.mean(0) - mean[0]).abs() < 5 * scale / 4000**0.5).all()
    torch.testing.assert_close(z.std(0), scale, rtol=0.06, atol=0)


def test_a_generator_repeats_the_draw_and_leaves_the_global_one_alone(encoder):
    x, mask = torch.rand(1, BINS, 8), torch.ones(1, 1, 8)
    state = torch.get_rng_state()
    first = encoder(x, mask, seeded())[0]
    assert torch.equal(encoder(x, mask, seeded())[0], first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(encoder(x, mask, seeded(1))[0], first)
    assert not torch.equal(encoder(x, mask)[0], encoder(x, mask)[0])


def test_padding_does_not_matter(encoder):
    x, mask = torch.rand(2, BINS, 8), mask_of([8, 5])
    together = encoder(x, mask, seeded())
    for garbage, clean in zip(encoder(garbled(x, mask), mask, seeded()), together, strict=True):
        assert torch.equal(garbage, clean)
        assert clean[1, :, 5:].abs().sum() == 0
    alone = encoder(x[1:, :, :5], mask[1:, :, :5])
    for one, both in zip(alone[1:], together[1:], strict=True):
        torch.testing.assert_close(both[1:, :, :5], one, rtol=1e-5, atol=1e-5)


def test_a_log_scale_has_a_floor():
    mean, log_scale = mean_and_log_scale(torch.tensor([[[-30.0], [-40.0]]]), torch.ones(1, 1, 1))
    assert mean.item() == -30
    assert log_scale.item() == -7


def test_halves_of_low_precision_become_float32():
    x, mask = torch.ones(1, 4, 3).bfloat16(), torch.ones(1, 1, 3).bfloat16()
    assert {part.dtype for part in mean_and_log_scale(x, mask)} == {torch.float32}


def test_the_distribution_is_float32_in_mixed_precision(encoder):
    x, mask = torch.rand(2, BINS, 8), mask_of([8, 5])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = encoder(x, mask, seeded())
    assert {part.dtype for part in found} == {torch.float32}
    for low, full in zip(found, encoder(x, mask, seeded()), strict=True):
        torch.testing.assert_close(low, full, rtol=0.1, atol=0.1)


def test_every_weight_gets_a_gradient(encoder):
    z, _, _ = encoder(torch.rand(2, BINS, 8), mask_of([8, 5]), seeded())
    z.square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in encoder.parameters())


def test_adapters_that_return_what_they_get_change_nothing(encoder):
    x, mask = torch.rand(2, BINS, 8), mask_of([8, 5])
    before = encoder(x, mask, seeded())[0]
    assert len(points(encoder)) == 2
    assert torch.equal(put_fresh(encoder)(x, mask, seeded())[0], before)
