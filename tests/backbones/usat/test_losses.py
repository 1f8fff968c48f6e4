"""Losses: their equations by slow loops, who gets a gradient from them, and what padding does."""

import math

import pytest
import torch
from torch.nn import functional

from speechcl.backbones.usat.discriminators import LeakageDiscriminator, TimbreDiscriminator
from speechcl.backbones.usat.losses import (
    adversarial_discriminator_loss,
    adversarial_generator_loss,
    feature_matching_loss,
    kl_loss,
    leakage_discriminator_loss,
    leakage_speaker_loss,
    mel_loss,
    timbre_loss,
)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def mask_of(*lengths):
    return (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None])[:, None].float()


def kl_by_loops(l_hat, log_q, mu, log_p, mask):
    total = 0.0
    for b in range(l_hat.shape[0]):
        for c in range(l_hat.shape[1]):
            for t in range(l_hat.shape[2]):
                if mask[b, 0, t]:
                    error = float(l_hat[b, c, t] - mu[b, c, t]) ** 2
                    spread = math.exp(2 * float(log_p[b, c, t]))
                    logs = float(log_p[b, c, t] - log_q[b, c, t])
                    total += logs - 0.5 + 0.5 * error / spread
    return total / float(mask.sum())


def test_kl_is_equation_7():
    four, mask = [noise(2, 3, 5, seed=seed) for seed in range(4)], mask_of(5, 3)
    assert float(kl_loss(*four, mask)) == pytest.approx(kl_by_loops(*four, mask), rel=1e-5)


def test_kl_of_a_gaussian_from_itself_averages_zero():
    mu, log_sigma, epsilon = noise(4, 8, 1000), noise(4, 8, 1000, seed=1), noise(4, 8, 1000, seed=2)
    sample, mask = mu + epsilon * log_sigma.exp(), torch.ones(4, 1, 1000)
    per_channel = float(kl_loss(sample, log_sigma, mu, log_sigma, mask)) / 8
    assert per_channel == pytest.approx(0, abs=0.02)


def test_kl_of_two_gaussians_averages_the_closed_form():
    epsilon, mask = noise(4, 8, 10000), torch.ones(4, 1, 10000)
    mu_q, log_q, mu_p, log_p = (torch.full_like(epsilon, value) for value in (0.3, -0.4, -0.2, 0.1))
    sample = mu_q + epsilon * log_q.exp()
    closed = 0.5 - 0.5 + (math.exp(-0.8) + 0.25) / (2 * math.exp(0.2))
    per_channel = float(kl_loss(sample, log_q, mu_p, log_p, mask)) / 8
    assert per_channel == pytest.approx(closed, abs=0.01)


@pytest.mark.parametrize("garbage", [5.0, -200.0, 1e30])
def test_kl_has_nothing_of_padding_nor_a_gradient_there(garbage):
    mask = mask_of(6, 4)
    four = [noise(2, 3, 6, seed=seed) for seed in range(4)]
    filled = [
        x.masked_fill(mask == 0, garbage * sign).requires_grad_()
        for x, sign in zip(four, (1, 1, -1, 1), strict=True)
    ]
    loss = kl_loss(*filled, mask)
    torch.testing.assert_close(loss, kl_loss(*four, mask), rtol=0, atol=0)
    loss.backward()
    for x in filled:
        assert x.grad.isfinite().all()
        assert not x.grad[1, :, 4:].any()
        assert x.grad[1, :, :4].all()


def test_kl_is_finite_where_the_prior_is_narrow_and_in_low_precision():
    zero, mask = torch.zeros(1, 2, 3), torch.ones(1, 1, 3)
    narrow, bound = kl_loss(zero + 1, zero, zero, zero - 60, mask), zero - 7
    torch.testing.assert_close(narrow, kl_loss(zero + 1, zero, zero, bound, mask))
    four = [noise(2, 3, 5, seed=seed).bfloat16() for seed in range(4)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = kl_loss(*four, mask_of(5, 3))
    torch.testing.assert_close(low, kl_loss(*(x.float() for x in four), mask_of(5, 3)))


def leakage(batch=6, size=4):
    torch.manual_seed(0)
    judge = LeakageDiscriminator(size, hidden=8)
    vectors = [noise(batch, size, seed=seed).requires_grad_() for seed in range(3)]
    return judge, vectors, torch.tensor([True, False, True, True, False, True])


@torch.no_grad()
def test_leakage_losses_are_equations_5_and_6_over_valid_items():
    judge, (s_target, s_first, s_second), valid = leakage()
    five, six, right = 0.0, 0.0, 0
    for i in (0, 2, 3, 5):
        one = slice(i, i + 1)
        across = float(judge(s_target[one], s_second[one]))
        within = float(judge(s_first[one], s_second[one]))
        five += (across - 1) ** 2 + within**2
        six += (within - 1) ** 2
        right += (across > 0.5) + (within <= 0.5)
    loss, accuracy = leakage_discriminator_loss(judge, s_target, s_first, s_second, valid)
    assert float(loss) == pytest.approx(five / 4, rel=1e-5)
    assert float(accuracy) == pytest.approx(right / 8)
    assert float(leakage_speaker_loss(judge, s_first, s_second, valid)) == pytest.approx(six / 4)


def test_leakage_discriminator_learns_alone_and_so_do_speaker_vectors():
    judge, (s_target, s_first, s_second), valid = leakage()
    leakage_discriminator_loss(judge, s_target, s_first, s_second, valid)[0].backward()
    assert all(s.grad is None for s in (s_target, s_first, s_second))
    assert all(p.grad is not None for p in judge.parameters())
    judge.zero_grad()
    leakage_speaker_loss(judge, s_first, s_second, valid).backward()
    assert all(p.grad is None for p in judge.parameters())
    assert all(p.requires_grad for p in judge.parameters())
    for s in (s_first, s_second):
        assert torch.equal(s.grad.any(1), valid)


def test_nothing_can_be_told_from_vectors_that_ignore_time():
    judge, (s, _, _), _ = leakage()
    everyone = torch.ones(6, dtype=torch.bool)
    loss, accuracy = leakage_discriminator_loss(judge, s, s, s, everyone)
    assert accuracy == 0.5
    assert loss >= 0.5, "the least that (x - 1)^2 + x^2 can be"


def test_a_discriminator_learns_to_tell_pairs_that_differ():
    judge, _, _ = leakage()
    everyone, optimizer = (
        torch.ones(64, dtype=torch.bool),
        torch.optim.Adam(judge.parameters(), 0.01),
    )
    content, other = noise(64, 4, seed=5), noise(64, 4, seed=6)
    for _ in range(60):
        loss, accuracy = leakage_discriminator_loss(judge, other, content, content, everyone)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert accuracy > 0.9
    assert loss < 0.3


def test_leakage_of_no_valid_item_is_zero_with_a_graph():
    judge, (s_target, s_first, s_second), _ = leakage()
    nobody = torch.zeros(6, dtype=torch.bool)
    loss, accuracy = leakage_discriminator_loss(judge, s_target, s_first, s_second, nobody)
    assert loss == 0
    assert accuracy.isnan()
    loss.backward()
    leakage_speaker_loss(judge, s_first, s_second, nobody).backward()
    assert not any(p.grad.any() for p in judge.parameters())
    assert not s_first.grad.any()


def timbre(training=True):
    torch.manual_seed(0)
    judge = TimbreDiscriminator(4, channels=8, attention=4, scale=4).train(training)
    text, speech = noise(3, 4, 20), 2 * noise(3, 4, 20, seed=1) + 1
    return judge, text.requires_grad_(), speech.requires_grad_(), mask_of(20, 13, 7)


def plain_timbre_loss(judge, text, speech, mask):
    logits = judge(torch.cat([text, speech]), torch.cat([mask, mask]))
    bce = functional.binary_cross_entropy_with_logits
    return bce(logits[:3], torch.ones(3)) + bce(logits[3:], torch.zeros(3))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("strength", [0.0, 0.4, 1.0])
def test_timbre_loss_is_cross_entropy_whose_gradient_turns_round_before_the_flow(
    strength, training
):
    judge, text, speech, mask = timbre(training)
    plain = plain_timbre_loss(judge, text, speech, mask)
    plain.backward()
    of_judge = [p.grad.clone() for p in judge.parameters()]
    of_flow = speech.grad.clone()
    judge.zero_grad()
    text.grad = speech.grad = None
    ours = timbre_loss(judge, text, speech, mask, strength)
    ours.backward()
    torch.testing.assert_close(ours, plain)
    for p, expected in zip(judge.parameters(), of_judge, strict=True):
        torch.testing.assert_close(p.grad, expected)
    torch.testing.assert_close(speech.grad, -strength * of_flow)
    assert of_flow.any()
    assert text.grad is None


def test_normalised_latents_have_mean_0_and_variance_1_in_each_channel():
    _, text, speech, mask = timbre()
    speech = speech.detach() + torch.tensor([0.0, 4.0, 8.0])[:, None, None]  # one voice an item
    seen = {}

    def judge(latents, both_masks):
        seen["latents"], seen["mask"] = latents.detach(), both_masks
        return latents.mean((1, 2))

    timbre_loss(judge, text, speech, mask, normalise=True)
    for kind in seen["latents"].chunk(2):
        for channel in range(4):
            values = torch.cat([kind[i, channel, :n] for i, n in enumerate((20, 13, 7))])
            assert float(values.mean()) == pytest.approx(0, abs=1e-5)
            assert float(values.var(correction=0)) == pytest.approx(1, abs=1e-3)
    voices = (seen["latents"][3:] * mask).sum((1, 2)) / mask.sum((1, 2)) / 4
    assert (voices.diff() > 0.5).all(), "what tells voices apart is still there"
    assert torch.equal(seen["mask"], torch.cat([mask, mask]))


def test_latents_that_differ_in_noise_alone_cannot_be_told_once_normalised():
    judge, text, _, mask = timbre(training=False)
    louder = 3 * text.detach()
    scores = judge(torch.cat([text, louder]), torch.cat([mask, mask]))
    assert (scores[:3] - scores[3:]).abs().max() > 1e-3
    normal = timbre_loss(judge, text, louder, mask, normalise=True)
    torch.testing.assert_close(
        normal, timbre_loss(judge, text, text, mask, normalise=True), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("normalise", [True, False])
def test_timbre_loss_has_nothing_of_padding(normalise):
    judge, text, speech, mask = timbre(training=False)
    other = [x.detach().masked_fill(mask == 0, 50.0) for x in (text, speech)]
    ours = timbre_loss(judge, text, speech, mask, normalise=normalise)
    torch.testing.assert_close(timbre_loss(judge, *other, mask, normalise=normalise), ours)


def test_adversarial_losses_are_sums_of_mean_squares():
    real, fake = [noise(2, 5), noise(2, 3, seed=1)], [noise(2, 5, seed=2), noise(2, 3, seed=3)]
    of_judge, of_decoder = 0.0, 0.0
    for r, f in zip(real, fake, strict=True):
        of_judge += sum((float(v) - 1) ** 2 for v in r.flatten()) / r.numel()
        of_judge += sum(float(v) ** 2 for v in f.flatten()) / f.numel()
        of_decoder += sum((float(v) - 1) ** 2 for v in f.flatten()) / f.numel()
    assert float(adversarial_discriminator_loss(real, fake)) == pytest.approx(of_judge, rel=1e-5)
    assert float(adversarial_generator_loss(fake)) == pytest.approx(of_decoder, rel=1e-5)


def test_feature_matching_draws_decoded_to_real_maps_only():
    real = [[noise(2, 3).requires_grad_(), noise(4, seed=1)], [noise(5, seed=2)]]
    fake = [[noise(2, 3, seed=3).requires_grad_(), noise(4, seed=4)], [noise(5, seed=5)]]
    expected = 0.0
    for maps, other in zip(real, fake, strict=True):
        for r, f in zip(maps, other, strict=True):
            pairs = zip(r.flatten().tolist(), f.flatten().tolist(), strict=True)
            expected += 2 * sum(abs(a - b) for a, b in pairs) / r.numel()
    loss = feature_matching_loss(real, fake)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert real[0][0].grad is None
    torch.testing.assert_close(fake[0][0].grad, (fake[0][0] - real[0][0]).detach().sign() / 3)


def test_mel_loss_is_45_times_the_mean_absolute_difference():
    real, fake = noise(2, 4, 6), noise(2, 4, 6, seed=1)
    total = sum(abs(float(v)) for v in (real - fake).flatten())
    assert float(mel_loss(real, fake)) == pytest.approx(45 * total / 48, rel=1e-5)
