"""Views of waveforms, against NumPy clip by clip."""

import numpy as np
import pytest
import torch

from speechcl.attacks import codec
from speechcl.views import (
    Companding,
    Level,
    LossyCoding,
    Noise,
    Room,
    Speed,
    TimeShift,
    waveform_views,
)
from tests.views.replay import replay, seeded

RATE_HZ = 8000


def clips(count=5, samples=400):
    return 0.2 * torch.randn(count, samples, generator=seeded(1))


def test_a_shift_rolls_each_clip_by_its_own_samples():
    batch = clips()
    seen = TimeShift(0.2)(batch, seeded(2))
    _, shares = replay(2, 5, (-0.2, 0.2))
    for clip, found, share in zip(batch, seen, shares, strict=True):
        assert torch.equal(found, clip.roll(round(400 * share)))


def test_a_level_is_held_back_where_the_clip_would_leave_its_range():
    batch = clips() * torch.tensor([0.1, 0.5, 1.0, 2.0, 20.0])[:, None]
    seen = Level(12.0)(batch, seeded(3))
    _, gains_db = replay(3, 5, (-12.0, 12.0))
    assert max(gains_db) > 0
    for clip, found, gain_db in zip(batch, seen, gains_db, strict=True):
        factor = 10 ** (gain_db / 20)
        if factor > 1:  # a clip beyond the range is not made louder, nor pulled into it
            factor = min(factor, max(1.0, 1 / float(clip.abs().max())))
        assert torch.allclose(found, clip * factor, atol=1e-6)


def test_noise_is_as_far_below_each_clip_as_was_drawn():
    batch = clips(samples=1001)
    noise = Noise(5.0, 25.0)(batch, seeded(4)) - batch
    _, ratios_db, _ = replay(4, 5, (5.0, 25.0), (0.0, 1.0))
    found = 10 * (batch.square().mean(1) / noise.square().mean(1)).log10()
    assert found.tolist() == pytest.approx(ratios_db, abs=1e-3)
    for one in range(5):
        for other in range(one):
            assert abs(np.corrcoef(noise[one], noise[other])[0, 1]) < 0.2


@pytest.mark.parametrize("slope", [0.0, 1.0])
def test_noise_is_white_or_pink(slope):
    noise = Noise(0.0, 0.0, slope=(slope, slope))(torch.ones(8, 2**14), seeded(5)) - 1
    power = torch.fft.rfft(noise).abs().square().mean(0)
    octaves = [float(power[2**k : 2 ** (k + 1)].mean().log2()) for k in range(3, 13)]
    assert np.polyfit(range(10), octaves, 1)[0] == pytest.approx(-slope, abs=0.1)


def test_speed_equals_a_loop_over_samples():
    batch = clips(samples=60)
    seen = Speed(0.5)(batch, seeded(6))
    _, changes = replay(6, 5, (-0.5, 0.5))
    assert min(changes) < 0 < max(changes)
    for clip, found, change in zip(batch, seen, changes, strict=True):
        for sample in range(60):
            place = (1 + change) * sample
            below = int(place)
            beside = float(clip[min(below + 1, 59)])
            expected = (1 - (place - below)) * float(clip[min(below, 59)]) + (
                place - below
            ) * beside
            assert float(found[sample]) == pytest.approx(expected if below < 60 else 0, abs=1e-4)


def test_a_faster_tone_is_higher():
    tone = torch.sin(2 * torch.pi * 200 * torch.arange(8000) / RATE_HZ).repeat(6, 1)
    seen = Speed(0.1)(tone, seeded(10))[:, :7000]
    _, changes = replay(10, 6, (-0.1, 0.1))
    peaks_hz = torch.fft.rfft(seen, 8000).abs().argmax(1)
    assert peaks_hz.tolist() == pytest.approx([200 * (1 + one) for one in changes], abs=1)


def test_speed_stays_exact_in_long_clips():
    ramp = torch.arange(2.0**18)[None] % 1024  # of which each place can be read
    seen = Speed(0.1)(ramp, seeded(7))[0].double()
    _, (change,) = replay(7, 1, (-0.1, 0.1))
    place = (1 + change) * torch.arange(2.0**18, dtype=torch.float64)
    inside = (place < 2**18) & (place % 1024 < 1023)
    assert (seen - place % 1024)[inside].abs().max() < 0.01


def test_a_room_equals_a_convolution_clip_by_clip():
    batch = clips()
    view = Room(RATE_HZ, decay_s=(0.01, 0.03), direct_db=(3.0, 9.0))
    seen = view(batch, seeded(8))
    draws, decays_s, direct_db = replay(8, 5, (0.01, 0.03), (3.0, 9.0))
    tails = torch.randn(5, 239, generator=draws).numpy()
    for clip, found, tail, decay_s, db in zip(
        batch.numpy(), seen.numpy(), tails, decays_s, direct_db, strict=True
    ):
        tail = tail * 10 ** (-3 * np.arange(1, 240) / RATE_HZ / decay_s)
        tail = tail / np.linalg.norm(tail) * 10 ** (-db / 20)
        wet = np.convolve(clip, np.concatenate([[1.0], tail]))[:400]
        wet *= np.sqrt((clip**2).mean() / (wet**2).mean())
        assert np.allclose(found, wet, atol=1e-5)


def test_companding_is_close_to_the_telephones_and_has_eight_bits():
    sweep = torch.linspace(-1.2, 1.2, 50_001)[None]
    seen = Companding()(sweep, seeded())
    assert len(seen.unique()) == 255  # 127 of each sign, and nothing
    inside = sweep.abs() <= 1
    assert ((seen - sweep).abs() / sweep.abs().clamp_min(0.02))[inside].max() < 0.03
    assert (seen[~inside].abs() == 1).all()
    assert torch.equal(seen, -seen.flip(1))
    tone = 0.5 * torch.sin(torch.arange(800) / 7)
    assert (Companding()(tone[None], seeded())[0] - codec(tone, 8000, "ulaw")).abs().max() < 0.03


def test_lossy_coding_equals_a_filter_and_steps_clip_by_clip():
    batch = clips()
    seen = LossyCoding(RATE_HZ, cut_hz=(1000.0, 3000.0), bits=(4.0, 9.0))(batch, seeded(9))
    _, cuts_hz, bits = replay(9, 5, (1000.0, 3000.0), (4.0, 9.0))
    for clip, found, cut_hz, bit in zip(batch.numpy(), seen.numpy(), cuts_hz, bits, strict=True):
        padded = np.pad(clip, (0, 80))
        frequency_hz = np.fft.rfftfreq(480, 1 / RATE_HZ)
        kept = np.clip((cut_hz - frequency_hz) / (0.1 * cut_hz), 0, 1)
        low = np.fft.irfft(np.fft.rfft(padded) * kept)[:400]
        step = np.abs(low).max() / 2 ** (bit - 1)
        assert np.abs(found - low).max() <= step / 2 + 1e-5
        assert np.allclose(found / step, np.round(found / step), atol=1e-2)


def test_lossy_coding_leaves_nothing_above_its_cut():
    batch = clips(samples=4000)
    seen = LossyCoding(RATE_HZ, cut_hz=(2000.0, 2000.0), bits=(16.0, 16.0))(batch, seeded())
    power = torch.fft.rfft(seen * torch.hann_window(4000)).abs().square()
    assert power[:, 1010:].mean() < 1e-5 * power[:, 10:890].mean()


@pytest.mark.parametrize("samples", [1, 2, 3, 400])
def test_silence_stays_silent_however_short(samples):
    silent = torch.zeros(3, samples)
    for step in (*waveform_views(RATE_HZ).steps, waveform_views(RATE_HZ)):
        for seed in range(5):
            assert torch.equal(step(silent, seeded(seed)), silent)
