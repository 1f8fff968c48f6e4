"""Log-likelihood ratios: their cost by quadrature and loops, and the map that makes them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from scipy.integrate import quad
from scipy.stats import norm

from speechcl.metrics import Calibration, act_dcf, cllr, eer, fit_calibration, min_cllr, min_dcf
from tests.metrics.scores import calibrated_gaussians, random_scores, score_lists


def cllr_by_loop(bonafide, spoof):
    missed = sum(math.log2(1 + math.exp(-b)) for b in bonafide) / len(bonafide)
    accepted = sum(math.log2(1 + math.exp(s)) for s in spoof) / len(spoof)
    return (missed + accepted) / 2


def min_cllr_by_loop(bonafide, spoof):
    """Isotonic regression by its max-min formula, then the ratio of each level's two shares."""
    levels = sorted({*bonafide, *spoof})
    b = [np.mean(np.equal(bonafide, level)) for level in levels]
    s = [np.mean(np.equal(spoof, level)) for level in levels]
    bits = 0.0
    for i in range(len(levels)):
        posterior = max(
            min(
                sum(b[j : k + 1]) / (sum(b[j : k + 1]) + sum(s[j : k + 1]))
                for k in range(i, len(levels))
            )
            for j in range(i + 1)
        )
        bits -= b[i] and b[i] * math.log2(posterior) / 2
        bits -= s[i] and s[i] * math.log2(1 - posterior) / 2
    return bits


@pytest.mark.parametrize("seed", range(20))
def test_cllr_equals_loop(seed):
    bonafide, spoof = random_scores(seed)
    assert cllr(bonafide, spoof) == pytest.approx(cllr_by_loop(bonafide, spoof), rel=1e-13)


@pytest.mark.parametrize("seed", range(40))
def test_min_cllr_equals_loop(seed):
    bonafide, spoof = random_scores(seed)
    bonafide, spoof = bonafide.tolist(), spoof.tolist()
    assert min_cllr(bonafide, spoof) == pytest.approx(min_cllr_by_loop(bonafide, spoof), abs=1e-12)


def test_cllr_of_zeros_is_one_bit_and_large_ratios_do_not_overflow():
    assert cllr(np.zeros(3), np.zeros(5)) == 1.0
    assert cllr([5e3], [-5e3]) == 0.0
    with np.errstate(over="raise"):
        assert cllr([-5e3], [5e3]) == pytest.approx(5e3 / math.log(2))


@pytest.mark.parametrize(
    ("mu", "bits"), [(0.5, 0.8393), (1, 0.7095), (2, 0.5141), (4, 0.2785), (8, 0.0872)]
)
def test_cllr_of_calibrated_gaussians(mu, bits):
    width = math.sqrt(2 * mu)
    integral, _ = quad(
        lambda x: norm.pdf(x, mu, width) * np.logaddexp(0, -x) / math.log(2),
        mu - 9 * width,
        mu + 9 * width,
    )
    assert integral == pytest.approx(bits, abs=5e-5)
    bonafide, spoof = calibrated_gaussians(mu)
    assert cllr(bonafide, spoof) == pytest.approx(bits, abs=1e-4)
    # Nothing is left to calibrate.
    assert min_cllr(bonafide, spoof) == pytest.approx(bits, abs=1e-3)


@pytest.mark.parametrize("mu", [0.5, 1, 2, 4, 8])
def test_calibration_of_ratios_is_the_identity(mu):
    found = fit_calibration(*calibrated_gaussians(mu))
    assert found.scale == pytest.approx(1, abs=2e-3)
    assert found.offset == pytest.approx(0, abs=1e-6)


def test_calibration_undoes_an_affine_map():
    bonafide, spoof = calibrated_gaussians(2)
    found = fit_calibration(0.01 * bonafide - 5, 0.01 * spoof - 5)
    assert found.scale == pytest.approx(100, rel=1e-3)
    assert found.offset == pytest.approx(500, rel=1e-3)
    np.testing.assert_allclose(found(0.01 * bonafide - 5), bonafide, atol=0.02)


@pytest.mark.parametrize("prior", [0.5, 0.655, 0.05])
def test_calibration_equals_weighted_logistic_regression(prior):
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(2)
    bonafide, spoof = rng.normal(1.5, 1, 80), rng.normal(0, 2, 300)
    scores = np.concatenate([bonafide, spoof])[:, None]
    weights = np.append(np.full(80, prior / 80), np.full(300, (1 - prior) / 300))
    peer = LogisticRegression(C=1e8, tol=1e-10, max_iter=1000).fit(
        scores, np.arange(380) < 80, sample_weight=weights
    )
    found = fit_calibration(bonafide, spoof, prior)
    assert found.scale == pytest.approx(peer.coef_[0, 0], abs=1e-4)
    # The peer learns posterior odds: ratios are what they exceed the prior odds by.
    prior_odds = math.log(prior / (1 - prior))
    assert found.offset == pytest.approx(peer.intercept_[0] - prior_odds, abs=1e-4)


@settings(deadline=None)
@given(score_lists())
def test_calibration_lowers_cllr_and_keeps_what_depends_on_order(pair):
    bonafide, spoof = map(np.array, pair)
    if bonafide.mean() <= spoof.mean():
        bonafide, spoof = -bonafide, -spoof
    if bonafide.mean() <= spoof.mean():
        return  # equal means: nothing to fit
    calibrate = fit_calibration(bonafide, spoof)
    assert calibrate.scale > 0
    after = cllr(calibrate(bonafide), calibrate(spoof))
    assert after <= min(1.0, cllr(bonafide, spoof)) + 1e-6
    assert min_cllr(bonafide, spoof) <= after + 1e-12
    if len({*calibrate([*bonafide, *spoof])}) == len({*bonafide, *spoof}):
        assert min_dcf(calibrate(bonafide), calibrate(spoof)) == min_dcf(bonafide, spoof)
        assert eer(calibrate(bonafide), calibrate(spoof))[0] == eer(bonafide, spoof)[0]


def test_calibration_lowers_act_dcf_of_shifted_scores():
    bonafide, spoof = (scores * 0.2 + 3 for scores in calibrated_gaussians(2))
    calibrate = fit_calibration(bonafide, spoof, prior=1.9 / 2.9)
    assert act_dcf(bonafide, spoof) == 1.0
    after = act_dcf(calibrate(bonafide), calibrate(spoof))
    assert min_dcf(bonafide, spoof) <= after < min_dcf(bonafide, spoof) + 1e-3


@pytest.mark.parametrize(
    ("bonafide", "spoof"), [([1.0], [0.0]), ([1e9, 2e9], [-1e9]), ([1e-200, 2e-200], [0.0])]
)
def test_separable_classes_get_finite_ratios_of_the_right_sign(bonafide, spoof):
    calibrate = fit_calibration(bonafide, spoof)
    ratios = [*calibrate(bonafide), *-calibrate(spoof)]
    assert all(4 < ratio < 50 for ratio in ratios)


def test_calibration_does_not_depend_on_the_unit_or_on_duplicates():
    bonafide, spoof = random_scores(8)
    spoof = spoof - 2
    found = fit_calibration(bonafide, spoof)
    scaled = fit_calibration(1e-6 * bonafide, 1e-6 * spoof)
    assert scaled.scale * 1e-6 == pytest.approx(found.scale, rel=1e-6)
    assert scaled.offset == pytest.approx(found.offset, rel=1e-6)
    doubled = fit_calibration(np.tile(bonafide, 2), np.tile(spoof, 2))
    assert doubled.scale == pytest.approx(found.scale, rel=1e-6)


def test_a_shift_changes_cllr_and_not_min_cllr():
    bonafide, spoof = calibrated_gaussians(2, 1000)
    assert cllr(bonafide + 2, spoof + 2) > cllr(bonafide, spoof) + 0.1
    assert min_cllr(bonafide + 2, spoof + 2) == pytest.approx(min_cllr(bonafide, spoof))


def test_min_cllr_of_perfect_swapped_and_identical_classes():
    assert str(min_cllr([2, 3], [0, 1])) == "0.0"
    assert min_cllr([0, 1], [2, 3]) == pytest.approx(1.0)
    assert min_cllr([0, 1, 2], [0, 1, 2]) == pytest.approx(1.0)


def test_calibration_keeps_the_shape_of_the_scores():
    assert Calibration(2.0, 1.0)(np.ones((2, 3))).tolist() == [[3.0] * 3] * 2
    assert Calibration(2.0, 1.0)(np.float32(1)) == 3.0


@pytest.mark.parametrize(
    ("bonafide", "spoof", "prior", "message"),
    [
        ([], [1.0], 0.5, "bonafide holds no scores"),
        ([1.0], [np.nan], 0.5, "spoof holds 1 score"),
        ([0.5], [0.5], 0.5, "all 2 scores are 0.5"),
        ([1.0], [0.0], 0.0, "prior is 0"),
        ([1.0], [0.0], 1.0, "prior is 1"),
        ([0.0, 1.0], [2.0, 3.0], 0.5, "bona fide scores average 0.5, spoofed ones 2.5"),
        ([0.0, 1.0], [0.5], 0.5, "check labels and sign"),
    ],
)
def test_bad_input_of_the_fit_raises_one_clear_line(bonafide, spoof, prior, message):
    with pytest.raises(ValueError, match=message) as caught:
        fit_calibration(bonafide, spoof, prior)
    assert "\n" not in str(caught.value)


def test_bad_input_of_the_costs_raises():
    for cost in (cllr, min_cllr):
        with pytest.raises(ValueError, match="bonafide holds 1 score"):
            cost([np.inf], [0])
    with pytest.raises(ValueError, match="all 2 scores are 0"):
        min_cllr([0], [0])
