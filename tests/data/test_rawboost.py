"""RawBoost against scipy's filter design, plain convolution, and its own promises."""

import numpy as np
import pytest
import torch
from scipy import signal

from speechcl.data.rawboost import RawBoost, filtered_powers, notch_filters

every_algorithm = pytest.mark.parametrize("algorithm", range(1, 9))


def noise(seed, samples=16000, level=0.1):
    return level * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


def draw_notches(seed, filters=20):
    generator = np.random.default_rng(seed)
    centres_hz = generator.uniform(20, 8000, (filters, 5))
    widths_hz = generator.uniform(100, 1000, (filters, 5))
    lengths = generator.integers(10, 100, (filters, 5)) // 2 * 2 + 1
    return centres_hz, widths_hz, lengths, generator.uniform(-20, 0, filters)


def slow_notch_filter(centres_hz, widths_hz, lengths, gain_db):
    """Band-stops by scipy, convolved one by one, scaled to the peak of their response."""
    taps = np.ones(1)
    for centre_hz, width_hz, length in zip(centres_hz, widths_hz, lengths, strict=True):
        edges = [max(centre_hz - width_hz / 2, 1e-3), min(centre_hz + width_hz / 2, 8000 - 1e-3)]
        stop = signal.firwin(length, edges, window="hamming", pass_zero="bandstop", fs=16000)
        taps = np.convolve(taps, stop)
    _, response = signal.freqz(taps)
    return 10 ** (gain_db / 20) * taps / np.abs(response).max()


@pytest.mark.parametrize("seed", range(3))
def test_filters_are_scipys_band_stops_in_a_row(seed):
    notches = draw_notches(seed)
    for found, one in zip(notch_filters(*notches, 16000), zip(*notches, strict=True), strict=True):
        expected = slow_notch_filter(*one)
        margin = (len(found) - len(expected)) // 2
        assert len(found) == 491
        np.testing.assert_allclose(found, np.pad(expected, margin), rtol=0, atol=1e-6)
        np.testing.assert_allclose(found, found[::-1], rtol=0, atol=1e-6)


def test_bands_at_either_end_are_cut_off_at_the_end():
    edges = np.array([[20.0, 8000.0]]), np.array([[1000.0, 1000.0]]), np.array([[99, 99]])
    found = notch_filters(*edges, np.zeros(1), 16000)[0]
    np.testing.assert_allclose(found, slow_notch_filter(*(e[0] for e in edges), 0.0), atol=1e-6)


@pytest.mark.parametrize("samples", [1, 100, 3606, 3607, 16000])
def test_filtered_powers_are_plain_convolutions(samples):
    x = noise(0, samples, level=0.5).numpy()
    filters = np.random.default_rng(1).standard_normal((3, 491)).astype(np.float32) / 20
    expected = sum(
        np.convolve(x.astype(np.float64) ** (i + 1), taps)[245 : 245 + samples]
        for i, taps in enumerate(filters)
    )
    np.testing.assert_allclose(filtered_powers(x, filters), expected, rtol=0, atol=2e-5)


@every_algorithm
@pytest.mark.parametrize("samples", [1, 7, 400, 16000])
def test_keeps_length_and_type_and_is_finite(algorithm, samples):
    changed = RawBoost(algorithm)(noise(0, samples), seed=3)
    assert changed.shape == (samples,)
    assert changed.dtype == torch.float32
    assert changed.isfinite().all()


@every_algorithm
def test_silence_stays_silent_and_a_constant_finite(algorithm):
    for seed in range(5):
        assert not RawBoost(algorithm)(torch.zeros(4000), seed).any()
        assert RawBoost(algorithm)(torch.ones(4000), seed).isfinite().all()


@every_algorithm
def test_is_a_function_of_the_seed_and_leaves_the_clip(algorithm):
    clip, boost = noise(1), RawBoost(algorithm)
    before = clip.clone()
    torch.manual_seed(0)
    first = boost(clip, seed=5)
    np.random.seed(1)  # noqa: NPY002 - global state must play no part
    torch.manual_seed(1)
    boost(noise(2), seed=6)
    assert first.equal(boost(clip, seed=5))
    assert not first.equal(boost(clip, seed=6))
    assert clip.equal(before)


@pytest.mark.parametrize("algorithm", [1, 2, 5, 8])
def test_what_exceeds_one_is_scaled_to_one(algorithm):
    loud = noise(3, level=1.0)
    for seed in range(4):
        assert float(RawBoost(algorithm)(loud, seed).abs().max()) == pytest.approx(1, abs=1e-6)
    assert float(RawBoost(algorithm)(0.001 * loud, 0).abs().max()) < 0.02, "and nothing else is"


def test_convolutive_is_without_mean_and_mostly_linear():
    clip = noise(4) + 0.2
    found = RawBoost(1)(clip, seed=0)
    assert abs(float(found.mean())) < 1e-6
    quiet = 1e-4 * noise(4, level=1.0)  # so quiet that its powers vanish: filtered, no more
    ratio = RawBoost(1)(2 * quiet, seed=0) / RawBoost(1)(quiet, seed=0)
    assert ratio.median() == pytest.approx(2, abs=1e-3)
    loud = noise(4, level=0.3)
    assert not torch.allclose(RawBoost(1)(2 * loud, seed=0), 2 * RawBoost(1)(loud, seed=0), 0.01)


def test_impulses_are_few_bounded_and_follow_the_signal():
    clip, shares = noise(5, level=0.05), []
    for seed in range(40):
        change = RawBoost(2)(clip, seed) - clip
        shares.append(float((change != 0).float().mean()))
        assert ((change / clip).abs() <= 2.001).all()
    assert max(shares) <= 0.1
    assert max(shares) > 0.09
    assert min(shares) < 0.01
    assert RawBoost(2, impulse_share=0.0)(clip, 0).equal(clip)
    assert RawBoost(2, impulse_gain=0.0)(clip, 0).equal(clip)


def test_distribution_of_impulses():
    clip = 0.1 * torch.ones(64600)
    change = RawBoost(2, impulse_share=0.1)(clip, seed=3) / clip - 1
    hit = change[change != 0]
    # the product of two uniform numbers in +-1 has mean 0 and variance 1/9; times a gain of 2
    assert abs(float(hit.mean())) < 0.05
    assert float(hit.var()) == pytest.approx(4 / 9, rel=0.1)


@pytest.mark.parametrize("snr_db", [10.0, 25.0, 40.0])
def test_stationary_noise_has_the_drawn_level(snr_db):
    clip = noise(6)
    change = (RawBoost(3, snr_db=(snr_db, snr_db))(clip, seed=0) - clip).double()
    found_db = 20 * float(torch.log10(clip.double().norm() / change.norm()))
    assert found_db == pytest.approx(snr_db, abs=0.01)


def test_level_of_stationary_noise_is_drawn_evenly_from_its_range():
    clip, found_db = noise(7, 4000), []
    for seed in range(200):
        change = RawBoost(3)(clip, seed) - clip
        found_db.append(20 * float(torch.log10(clip.norm() / change.norm())))
    assert 9.99 < min(found_db) < 11
    assert 39 < max(found_db) < 40.1
    assert np.mean(found_db) == pytest.approx(25, abs=2)


def test_stationary_noise_is_coloured():
    clip = noise(8, 32000)
    change = (RawBoost(3)(clip, seed=1) - clip).numpy()
    power = signal.welch(change, nperseg=512)[1][1:-1]
    assert power.max() > 30 * power.min()
    flat = signal.welch(clip.numpy(), nperseg=512)[1][1:-1]
    assert flat.max() < 4 * flat.min()


@pytest.mark.parametrize(
    ("algorithm", "parts"), [(4, (1, 2, 3)), (5, (1, 2)), (6, (1, 3)), (7, (2, 3))]
)
def test_combinations_are_their_parts_in_a_row(algorithm, parts):
    clip, boost = noise(9), RawBoost(algorithm)
    generator, expected = np.random.default_rng(11), clip
    generator.random()  # whether to change at all
    for part in parts:
        expected = RawBoost(part).change(expected, generator)
    assert boost(clip, seed=11).equal(expected)


def test_algorithm_8_is_the_sum_of_two_parts():
    clip = noise(10, level=0.01)
    generator = np.random.default_rng(12)
    generator.random()
    expected = RawBoost(1).change(clip, generator) + RawBoost(2).change(clip, generator)
    torch.testing.assert_close(RawBoost(8)(clip, seed=12), expected)


def test_works_at_other_rates():
    assert RawBoost(4, rate_hz=8000)(noise(11), seed=0).isfinite().all()


def test_an_unknown_algorithm_is_refused():
    with pytest.raises(ValueError, match="algorithm is 9: choose one from 1 to 8"):
        RawBoost(9)
