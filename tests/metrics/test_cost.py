"""Detection costs against brute force over all thresholds and hand-computed cases."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from scipy.stats import norm

from speechcl.metrics import (
    AsvRates,
    act_dcf,
    asv_rates,
    eer,
    min_dcf,
    min_tdcf,
    min_tdcf_from_rates,
)
from tests.metrics.scores import calibrated_gaussians, points_by_loop, random_scores, score_lists

HAND_BONAFIDE, HAND_SPOOF = [3, 2, 1, 0.5], [0.7, 0, -1, -2]
HAND_ASV = AsvRates(miss=0.05, false_alarm=0.05, spoof_false_alarm=0.70)
BOTH = pytest.mark.parametrize("setting", ["2019", "2021"])


def dcf_at(p_fa, p_miss):
    """Cost of ASVspoof 5, track 1: a miss costs 1, a false alarm 10, 5 % are spoofs."""
    return (1 * 0.95 * p_miss + 10 * 0.05 * p_fa) / min(1 * 0.95, 10 * 0.05)


def tdcf_by_loop(bonafide, spoof, asv, setting):
    """Follow the two challenges' formulas term by term."""
    target, nontarget, spoofed = 0.95 * 0.99, 0.95 * 0.01, 0.05
    if setting == "2019":
        c1 = target * (1 - 1 * asv.miss) - nontarget * 10 * asv.false_alarm
        c2 = 10 * spoofed * (1 - (1 - asv.spoof_false_alarm))
        c0 = 0.0
    else:
        c0 = target * 1 * asv.miss + nontarget * 10 * asv.false_alarm
        c1 = target * 1 - c0
        c2 = spoofed * 10 * asv.spoof_false_alarm
    costs = [c0 + c1 * p_miss + c2 * p_fa for p_fa, p_miss in points_by_loop(bonafide, spoof)]
    return min(costs) / (c0 + min(c1, c2))


def random_asv(seed):
    rng = np.random.default_rng(seed)
    return AsvRates(rng.uniform(0, 0.5), rng.uniform(0, 1), rng.uniform(0.01, 1))


@pytest.mark.parametrize("seed", range(100))
def test_min_dcf_equals_brute_force(seed):
    bonafide, spoof = random_scores(seed)
    by_loop = min(dcf_at(*point) for point in points_by_loop(bonafide, spoof))
    assert min_dcf(bonafide, spoof) == pytest.approx(by_loop, abs=1e-12)


@BOTH
@pytest.mark.parametrize("seed", range(60))
def test_min_tdcf_equals_brute_force(seed, setting):
    bonafide, spoof = random_scores(seed)
    asv = random_asv(seed)
    assert min_tdcf_from_rates(bonafide, spoof, asv, setting) == pytest.approx(
        tdcf_by_loop(bonafide, spoof, asv, setting), abs=1e-12
    )


@pytest.mark.parametrize("outlier", [0.0, -1e9])
def test_minimum_over_many_scores_equals_sorting(outlier):
    rng = np.random.default_rng(0)
    bonafide = np.append(rng.normal(2, 1, 20_000), outlier)
    spoof = np.append(rng.normal(0, 1, 30_000), rng.normal(3, 0.2, 3_000))  # two minima
    thresholds = np.append(np.sort(np.concatenate([bonafide, spoof])), np.inf)
    miss = np.searchsorted(np.sort(bonafide), thresholds) / bonafide.size
    fa = (spoof.size - np.searchsorted(np.sort(spoof), thresholds)) / spoof.size
    assert min_dcf(bonafide, spoof) == pytest.approx(dcf_at(fa, miss).min(), abs=1e-14)


def test_hand_case_of_all_costs():
    assert min_dcf(HAND_BONAFIDE, HAND_SPOOF) == 0.25
    assert min_tdcf_from_rates(HAND_BONAFIDE, HAND_SPOOF, HAND_ASV) == 0.25
    revised = min_tdcf_from_rates(HAND_BONAFIDE, HAND_SPOOF, HAND_ASV, setting="2021")
    assert revised == pytest.approx(0.1392750 / 0.401775, abs=1e-15)


def test_a_perfect_detector_reaches_the_floor_of_each_setting():
    assert min_tdcf_from_rates([2, 3], [0, 1], HAND_ASV, "2019") == 0.0
    floor = min_tdcf_from_rates([2, 3], [0, 1], HAND_ASV, "2021")
    assert floor == pytest.approx(0.051775 / 0.401775, abs=1e-15)
    assert floor == pytest.approx(0.128866, abs=5e-7)


@BOTH
def test_a_useless_detector_costs_one(setting):
    for bonafide, spoof in [([0, 1], [2, 3]), ([0, 1, 2], [0, 1, 2])]:  # swapped, identical
        assert min_tdcf_from_rates(bonafide, spoof, HAND_ASV, setting) == 1.0


def test_perfect_swapped_and_identical_min_dcf():
    assert min_dcf([2, 3], [0, 1]) == 0.0
    assert min_dcf([0, 1], [2, 3]) == 1.0
    assert min_dcf([0, 1, 2], [0, 1, 2]) == 1.0


def test_act_dcf_decides_at_the_bayes_threshold():
    threshold = -math.log(1.9)
    assert threshold == pytest.approx(-0.641854, abs=5e-7)
    below = np.nextafter(threshold, -1)
    assert act_dcf([threshold, 9.0], [-9.0]) == 0.0
    assert act_dcf([below, 9.0], [-9.0]) == pytest.approx(1.9 / 2)
    assert act_dcf([9.0], [below, -9.0]) == 0.0
    assert act_dcf([9.0], [threshold, -9.0]) == pytest.approx(0.5)
    assert act_dcf([-9.0], [9.0]) == pytest.approx(2.9)


@pytest.mark.parametrize("mu", [0.5, 2, 8])
def test_both_dcfs_of_calibrated_gaussians_reach_their_closed_form(mu):
    threshold, width = -math.log(1.9), math.sqrt(2 * mu)
    expected = 1.9 * norm.cdf((threshold - mu) / width) + norm.sf((threshold + mu) / width)
    bonafide, spoof = calibrated_gaussians(mu)
    assert act_dcf(bonafide, spoof) == pytest.approx(expected, abs=1e-4)
    assert min_dcf(bonafide, spoof) == pytest.approx(expected, abs=1e-4)


def test_a_shift_changes_act_dcf_and_not_min_dcf():
    bonafide, spoof = calibrated_gaussians(2, 1000)
    assert min_dcf(bonafide + 3, spoof + 3) == min_dcf(bonafide, spoof)
    assert act_dcf(bonafide + 3, spoof + 3) > act_dcf(bonafide, spoof) + 0.1


@settings(deadline=None)
@given(score_lists())
def test_costs_depend_on_the_order_of_scores_alone(pair):
    bonafide, spoof = map(np.array, pair)
    for cost in (
        min_dcf,
        lambda b, s: min_tdcf_from_rates(b, s, HAND_ASV, "2019"),
        lambda b, s: min_tdcf_from_rates(b, s, HAND_ASV, "2021"),
    ):
        value = cost(bonafide, spoof)
        assert 0 <= value <= 1
        assert cost(np.exp(bonafide), np.exp(spoof)) == value
        assert cost(bonafide[::-1], spoof[::-1]) == value
        assert cost(np.tile(bonafide, 2), np.tile(spoof, 2)) == pytest.approx(value, abs=1e-15)
    assert act_dcf(bonafide, spoof) >= min_dcf(bonafide, spoof)


def test_asv_rates_of_a_hand_case():
    # At 1.5 one of three targets is missed and one of three non-targets accepted.
    assert asv_rates([3, 2, 1], [1.5, 0, -1], [2, 1.5, 1.4]) == pytest.approx((1 / 3, 1 / 3, 2 / 3))


def test_asv_threshold_under_ties_is_the_closest_score_and_accepted():
    # Misses and false alarms are (0, 2/3) at 1 and (1/2, 1/3) at 2, the closer of the two.
    target, nontarget = [1, 2], [0, 1, 2]
    assert asv_rates(target, nontarget, [2, 1]) == pytest.approx((1 / 2, 1 / 3, 1 / 2))
    assert asv_rates(target[::-1], nontarget[::-1], [1, 2]) == asv_rates(target, nontarget, [2, 1])
    # Equally close at 1 (0, 1/2) and at 2 (1/2, 0): the higher.
    assert asv_rates([1, 2], [0, 1], [1, 2]) == (0.5, 0.0, 0.5)


@pytest.mark.parametrize("seed", range(20))
def test_asv_rates_are_one_trial_at_most_from_the_challenges_code(seed):
    rng = np.random.default_rng(seed)
    target, nontarget = rng.normal(2, 1, 50), rng.normal(0, 1, 80)
    spoof = rng.normal(1, 1, 100)
    threshold = eer(target, nontarget, method="asvspoof")[1]
    ours = asv_rates(target, nontarget, spoof)
    assert abs(ours.miss - np.mean(target < threshold)) <= 1 / 50 + 1e-12
    assert abs(ours.false_alarm - np.mean(nontarget >= threshold)) <= 1 / 80 + 1e-12


@BOTH
def test_min_tdcf_is_that_of_its_asv_rates(setting):
    rng = np.random.default_rng(4)
    asv = rng.normal(3, 1, 40), rng.normal(0, 1, 50), rng.normal(2, 1, 60)
    bonafide, spoof = random_scores(4)
    value = min_tdcf(bonafide, spoof, *asv, setting=setting)
    assert value == min_tdcf_from_rates(bonafide, spoof, asv_rates(*asv), setting)
    assert value == pytest.approx(tdcf_by_loop(bonafide, spoof, asv_rates(*asv), setting))


GOOD_ASV = {"asv_target": [2, 3], "asv_nontarget": [0, 1], "asv_spoof": [2, 3]}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"setting": "2020"}, "t-DCF setting '2020' is unknown"),
        ({"bonafide": []}, "bonafide holds no scores"),
        ({"spoof": [np.nan]}, "spoof holds 1 score"),
        ({"asv_target": []}, "asv_target holds no scores"),
        ({"asv_nontarget": [np.inf]}, "asv_nontarget holds 1 score"),
        ({"asv_spoof": []}, "asv_spoof holds no scores"),
        ({"asv_spoof": [0, 1]}, "accepts no spoofed trial"),
        ({"asv_target": [0, 1], "asv_nontarget": [2, 3]}, "worse than accepting nobody"),
        ({"bonafide": [1, 1], "spoof": [1]}, "all 3 scores are 1"),
    ],
)
def test_bad_tandem_input_raises_one_clear_line(changed, message):
    arguments = {"bonafide": [2, 3], "spoof": [0, 1], **GOOD_ASV, **changed}
    with pytest.raises(ValueError, match=message) as caught:
        min_tdcf(**arguments)
    assert "\n" not in str(caught.value)


def test_bad_rates_and_scores_raise():
    with pytest.raises(ValueError, match="ASV rate miss is 5: give a fraction"):
        min_tdcf_from_rates([1], [0], AsvRates(5, 0.05, 0.7))
    with pytest.raises(ValueError, match="ASV rate spoof_false_alarm is nan"):
        min_tdcf_from_rates([1], [0], AsvRates(0.05, 0.05, math.nan))
    for cost in (min_dcf, act_dcf):
        with pytest.raises(ValueError, match="spoof holds no scores"):
            cost([1], [])
    with pytest.raises(ValueError, match="all 2 scores are 0"):
        min_dcf([0], [0])
