"""EER and its intervals against slow, obvious code and hand-computed cases."""

from collections import Counter

import numpy as np
import pytest
from scipy.optimize import brentq

from speechcl.metrics import (
    average_eer_interval,
    det_curve,
    eer,
    eer_interval,
    eer_per_attack,
    pooled_eer,
    worst_attack,
)
from tests.metrics.scores import calibrated_gaussians, points_by_loop, random_scores

HAND_BONAFIDE, HAND_SPOOF = [2, 1, 1, 0], [1, 0, -1, -2, -3]


def eer_by_loop(bonafide, spoof):
    """Follow the definition: first point with P_miss >= P_fa, interpolated from the one before."""
    points = points_by_loop(bonafide, spoof)
    for (fa_0, miss_0), (fa_1, miss_1) in zip(points, points[1:], strict=False):
        if miss_1 >= fa_1:
            share = (fa_0 - miss_0) / ((miss_1 - fa_1) - (miss_0 - fa_0))
            return 100 * (miss_0 + share * (miss_1 - miss_0))
    raise AssertionError("the curve ends at P_miss = 1, P_fa = 0")


@pytest.mark.parametrize("seed", range(200))
def test_eer_equals_brute_force(seed):
    bonafide, spoof = random_scores(seed)
    assert eer(bonafide, spoof)[0] == pytest.approx(eer_by_loop(bonafide, spoof), abs=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_eer_is_the_root_of_the_interpolated_curve(seed):
    bonafide, spoof = random_scores(seed)
    fa, miss = det_curve(bonafide, spoof)
    steps = np.arange(fa.size)
    root = brentq(lambda x: np.interp(x, steps, miss - fa), 0, fa.size - 1, xtol=1e-13)
    assert eer(bonafide, spoof)[0] == pytest.approx(100 * np.interp(root, steps, miss), abs=1e-6)


def test_hand_cases():
    assert eer(HAND_BONAFIDE, HAND_SPOOF)[0] == pytest.approx(22.22, abs=0.005)
    assert eer(HAND_BONAFIDE, HAND_SPOOF, method="asvspoof")[0] == pytest.approx(22.50)
    assert eer([3, 2, 1, 0.5], [0.7, 0, -1, -2])[0] == pytest.approx(25.0)


def test_official_eer_is_pessimistic_under_ties_and_ours_is_not():
    # 300 bona fide and 700 spoofed scores rounded to one decimal, as in the usual pitfall.
    rng = np.random.default_rng(0)
    bonafide, spoof = rng.normal(2, 1, 300).round(1), rng.normal(0, 1, 700).round(1)
    ours, official = eer(bonafide, spoof)[0], eer(bonafide, spoof, method="asvspoof")[0]
    assert ours == pytest.approx(eer_by_loop(bonafide, spoof))
    assert official > ours


@pytest.mark.parametrize("seed", range(20))
def test_official_eer_without_ties_is_within_one_clip(seed):
    rng = np.random.default_rng(seed)
    bonafide, spoof = rng.normal(1, 1, 50), rng.normal(0, 1, 70)
    assert abs(eer(bonafide, spoof)[0] - eer(bonafide, spoof, method="asvspoof")[0]) <= 100 / 50


@pytest.mark.parametrize("seed", range(20))
def test_eer_symmetries(seed):
    bonafide, spoof = random_scores(seed)
    rate = eer(bonafide, spoof)[0]
    assert eer(-spoof, -bonafide)[0] == pytest.approx(rate)
    assert eer(np.exp(bonafide), np.exp(spoof))[0] == pytest.approx(rate)
    assert eer(bonafide[::-1], spoof[::-1])[0] == rate
    assert eer(np.tile(bonafide, 3), np.tile(spoof, 3))[0] == pytest.approx(rate)


@pytest.mark.parametrize("method", ["speechcl", "asvspoof"])
def test_perfect_and_swapped(method):
    assert eer([3, 4], [0, 1, 2], method)[0] == 0.0
    assert eer([0, 1], [2, 3, 4], method)[0] == 100.0


def test_identical_classes_are_at_chance():
    assert eer([0, 1, 2], [0, 1, 2])[0] == pytest.approx(50.0)


@pytest.mark.parametrize(
    ("mu", "percent"), [(0.5, 30.85), (1, 23.98), (2, 15.87), (4, 7.86), (8, 2.28)]
)
def test_calibrated_gaussians_reach_their_closed_form(mu, percent):
    # Log-likelihood ratios N(mu, 2 mu) against N(-mu, 2 mu): EER = Phi(-sqrt(mu / 2)).
    assert eer(*calibrated_gaussians(mu))[0] == pytest.approx(percent, abs=0.01)


SPREADS = {
    "even": [],
    "one far outlier": [1e9],
    "range beyond the largest float": [1.7e308, -1.7e308],
}


@pytest.mark.parametrize("extra", SPREADS.values(), ids=SPREADS)
@pytest.mark.parametrize("decimals", [1, 9])
def test_many_scores_give_the_same_curve_and_crossing_as_sorting(decimals, extra):
    rng = np.random.default_rng(decimals)
    bonafide = np.append(rng.normal(1.5, 1, 20_000).round(decimals), extra)
    spoof = rng.normal(0, 1, 30_000).round(decimals)
    thresholds = np.append(np.unique(np.concatenate([bonafide, spoof])), np.inf)
    miss = np.searchsorted(np.sort(bonafide), thresholds) / bonafide.size
    fa = 1 - np.searchsorted(np.sort(spoof), thresholds) / spoof.size
    found_fa, found_miss = det_curve(bonafide, spoof)
    np.testing.assert_array_equal(found_miss, miss)
    np.testing.assert_allclose(found_fa, fa, atol=1e-15)
    after = int(np.argmax(miss >= fa))
    share = (fa - miss)[after - 1] / ((fa - miss)[after - 1] - (fa - miss)[after])
    rate, threshold = eer(bonafide, spoof)
    assert rate == pytest.approx(100 * (miss[after - 1] + share * (miss[after] - miss[after - 1])))
    closest = np.argmin(np.abs(miss - fa))
    assert abs(np.mean(bonafide < threshold) - np.mean(spoof >= threshold)) == pytest.approx(
        abs(miss[closest] - fa[closest])
    )


def test_scores_closer_than_their_difference_can_be_inverted():
    tiny = 5e-324
    assert eer([tiny, 2 * tiny], [0.0, tiny]) == eer([1.0, 2.0], [0.0, 1.0])[:1] + (2 * tiny,)


def test_threshold_accepts_at_or_above_it():
    bonafide, spoof = np.array([2.0, 3.0]), np.array([0.0, 1.0])
    rate, threshold = eer(bonafide, spoof)
    assert rate == 0.0
    assert (bonafide >= threshold).all()
    assert not (spoof >= threshold).any()
    assert eer([2, 2], [1, 2])[1] == 2.0  # finite although the crossing ends at infinity


def test_det_curve_equals_loop():
    bonafide, spoof = random_scores(3)
    fa, miss = det_curve(bonafide, spoof)
    assert list(zip(fa, miss, strict=True)) == points_by_loop(bonafide, spoof)
    assert (fa[0], miss[0], fa[-1], miss[-1]) == (1.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("bonafide", "spoof", "message"),
    [
        ([], [1.0], "bonafide holds no scores"),
        ([1.0], [], "spoof holds no scores"),
        ([1.0, np.nan], [0.0], "position 1"),
        ([1.0], [np.inf], "spoof holds 1 score"),
        ([0.5, 0.5], [0.5], "all 3 scores are 0.5"),
    ],
)
def test_bad_scores_raise_one_clear_line(bonafide, spoof, message):
    for function in (eer, det_curve, eer_interval):
        with pytest.raises(ValueError, match=message) as caught:
            function(bonafide, spoof)
        assert "\n" not in str(caught.value)


def test_unknown_method_raises():
    with pytest.raises(ValueError, match="'roc' is unknown"):
        eer([1], [0], method="roc")


def test_per_attack_uses_all_bonafide_clips():
    scores = [3, 1, 0, 2, 4, -1]
    labels = ["bonafide", "bonafide", "spoof", "spoof", "spoof", "spoof"]
    attacks = ["", "", "easy", "hard", "hard", "easy"]
    rates = eer_per_attack(scores, labels, attacks)
    assert rates == {"easy": 0.0, "hard": eer([3, 1], [2, 4])[0]}
    assert worst_attack(rates) == ("hard", rates["hard"])
    assert pooled_eer(scores, labels) == eer([3, 1], [0, 2, 4, -1])[0]


def test_per_attack_refuses_misfits():
    with pytest.raises(ValueError, match="label 'fake' is unknown"):
        pooled_eer([1, 0], ["bonafide", "fake"])
    with pytest.raises(ValueError, match="2 scores but 1 labels"):
        pooled_eer([1, 0], ["bonafide"])
    with pytest.raises(ValueError, match="2 labels but 1 attacks"):
        eer_per_attack([1, 0], ["bonafide", "spoof"], ["lpc"])
    with pytest.raises(ValueError, match="no attack"):
        worst_attack({})


def slow_intervals(tables, draws, seed):
    """Percentiles of the mean EER over resamples that are really made, speakers jointly."""
    rng = np.random.default_rng(seed)
    names = sorted({name for *_, b_names, s_names in tables for name in [*b_names, *s_names]})
    means = []
    for _ in range(draws):
        drawn = Counter(rng.choice(names, len(names)).tolist())
        rates = []
        for bonafide, spoof, b_names, s_names in tables:
            b = np.repeat(bonafide, [drawn[name] for name in b_names])
            s = np.repeat(spoof, [drawn[name] for name in s_names])
            rates.append(eer_by_loop(b, s) if b.size and s.size else np.nan)
        means.append(np.nanmean(rates))
    return np.percentile(means, [2.5, 97.5])


def test_interval_by_clip_equals_slow_loop():
    rng = np.random.default_rng(5)
    bonafide, spoof = rng.normal(1, 1, 40).round(1), rng.normal(0, 1, 60).round(1)
    slow = [
        eer_by_loop(rng.choice(bonafide, bonafide.size), rng.choice(spoof, spoof.size))
        for _ in range(1500)
    ]
    # Monte-Carlo error of a 2.5 % quantile of 1500 draws is about half a point here.
    assert eer_interval(bonafide, spoof, draws=8000) == pytest.approx(
        np.percentile(slow, [2.5, 97.5]), abs=1.5
    )


def test_interval_of_one_tiny_set_has_the_exact_distribution():
    rates = [
        eer_by_loop(b, s)
        for b in [(0, 0), (0, 2), (2, 0), (2, 2)]
        for s in [(1, 1), (1, -1), (-1, 1), (-1, -1)]
    ]
    for confidence in (0.5, 0.2):
        low, high = eer_interval([0, 2], [1, -1], draws=20_000, confidence=confidence)
        expected = np.percentile(rates, [50 - 50 * confidence, 50 + 50 * confidence])
        assert (low, high) == pytest.approx(expected, abs=1e-9)


def test_average_interval_by_speaker_equals_slow_loop():
    rng = np.random.default_rng(7)
    offset = dict(zip("abcdefgh", rng.normal(0, 1, 8), strict=True))
    tables = []
    for shift in (1.0, 2.0):
        b_names, s_names = rng.choice([*offset], 30).tolist(), rng.choice([*offset], 40).tolist()
        bonafide = [shift + offset[name] + rng.normal() for name in b_names]
        spoof = [offset[name] + rng.normal() for name in s_names]
        tables.append((bonafide, spoof, b_names, s_names))
    fast = average_eer_interval(tables, draws=8000)
    assert fast == pytest.approx(slow_intervals(tables, draws=1500, seed=1), abs=1.5)


def test_interval_by_speaker_is_wider_where_speakers_differ():
    rng = np.random.default_rng(0)
    names = np.repeat([f"s{i}" for i in range(8)], 50)
    level = np.repeat(rng.normal(0, 1.5, 8), 50)
    bonafide, spoof = rng.normal(level + 1, 0.3), rng.normal(level, 0.3)
    by_clip = eer_interval(bonafide, spoof)
    by_speaker = eer_interval(bonafide, spoof, names, names)
    assert np.diff(by_speaker) > 2 * np.diff(by_clip)


def test_interval_with_one_speaker_falls_back_to_clips():
    rng = np.random.default_rng(0)
    bonafide, spoof = rng.normal(1, 1, 50), rng.normal(0, 1, 50)
    assert eer_interval(bonafide, spoof, ["x"] * 50, ["x"] * 50) == eer_interval(bonafide, spoof)


def test_interval_is_reproducible_and_holds_the_eer():
    bonafide, spoof = random_scores(11)
    low, high = eer_interval(bonafide, spoof, seed=3)
    assert (low, high) == eer_interval(bonafide, spoof, seed=3)
    assert low <= eer(bonafide, spoof)[0] <= high


def test_interval_refuses_misfits():
    with pytest.raises(ValueError, match="bonafide has 2 scores but 1 speakers"):
        eer_interval([1, 2], [0], ["ann"])
    with pytest.raises(ValueError, match="draws is 1"):
        eer_interval([1, 2], [0], draws=1)
    with pytest.raises(ValueError, match="at least one table"):
        average_eer_interval([])
