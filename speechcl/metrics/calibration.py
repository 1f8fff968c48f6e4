"""Scores that mean what they say: log-likelihood ratios in nats, their quality and their making.

A ratio of 0 favours neither class; ln 10 says the clip is ten times as likely to be genuine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from speechcl.metrics.curve import RateCurve
from speechcl.metrics.detection import checked_classes, checked_scores

# Keeps the slope finite where the classes do not overlap; elsewhere it moves it by less than 1 %.
SLOPE_PENALTY = 1e-6


@dataclass(frozen=True)
class Calibration:
    """Map from a detector's scores to log-likelihood ratios: ``scale * score + offset``.

    Example
    -------
    >>> Calibration(scale=2.0, offset=-1.0)([0.5, 3.0])
    array([0., 5.])
    """

    scale: float
    offset: float

    def __call__(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Return the log-likelihood ratios, in nats, of scores of any shape.

        Example
        -------
        >>> Calibration(scale=1.0, offset=0.5)([[1.0]])
        array([[1.5]])
        """
        return self.scale * np.asarray(scores, dtype=np.float64) + self.offset


def cllr(bonafide: ArrayLike, spoof: ArrayLike) -> float:
    """Compute the cost of log-likelihood ratios, in bits: how much they mislead on average.

    Arguments
    ---------
    bonafide, spoof : array_like
        Log-likelihood ratios, in nats, of the genuine and of the spoofed clips.

    Returns
    -------
    float
        0 if perfect; 1 is what the ratio 0 for every clip costs, so above 1 the scores do harm.

    Raises
    ------
    ValueError
        If a class is empty or a score is not finite.

    Source
    ------
    Brümmer and du Preez, "Application-independent evaluation of speaker detection", Computer
    Speech & Language 2006.

    Example
    -------
    >>> cllr([0.0, 0.0], [0.0])
    1.0
    >>> round(cllr([2.0, 3.0], [-2.0]), 4)
    0.1549
    """
    genuine, fake = checked_scores(bonafide, "bonafide"), checked_scores(spoof, "spoof")
    return float((_softplus(-genuine).mean() + _softplus(fake).mean()) / (2 * math.log(2)))


def min_cllr(bonafide: ArrayLike, spoof: ArrayLike) -> float:
    """Compute the Cllr, in bits, that the best increasing map of the scores would reach.

    What ``cllr`` lies above it is due to calibration, the rest to overlap of the classes.

    Arguments
    ---------
    bonafide, spoof : array_like
        Scores of the genuine and of the spoofed clips; higher means more genuine.

    Returns
    -------
    float
        From 0 to 1.

    Raises
    ------
    ValueError
        If a class is empty, a score is not finite, or all scores are equal.

    Source
    ------
    Brümmer and du Preez 2006: isotonic regression by pooling adjacent violators.

    Example
    -------
    >>> min_cllr([3.0, 1.0], [2.0, 0.0])
    0.5
    """
    from scipy.special import xlogy
    from sklearn.isotonic import isotonic_regression

    _, p_fa, p_miss = RateCurve(*checked_classes(bonafide, spoof)).points()
    genuine, fake = np.diff(p_miss), -np.diff(p_fa)  # share of each class at each distinct score
    posterior = isotonic_regression(
        genuine / (genuine + fake), sample_weight=genuine + fake, y_min=0.0, y_max=1.0
    )
    log_likelihood = xlogy(genuine, posterior).sum() + xlogy(fake, 1.0 - posterior).sum()
    return float(0.0 - log_likelihood / (2 * math.log(2)))  # a plain minus would give -0.0


def fit_calibration(bonafide: ArrayLike, spoof: ArrayLike, prior: float = 0.5) -> Calibration:
    """Fit the map from scores to log-likelihood ratios by prior-weighted logistic regression.

    Fit it on clips, and better still attacks, that the detector did not learn from. It changes
    neither ``eer`` nor ``min_dcf``.

    Arguments
    ---------
    bonafide, spoof : array_like
        Scores of the genuine and of the spoofed clips; higher means more genuine.
    prior : float
        Share of genuine clips for which the ratios shall be best. 0.5 lowers ``cllr``; 0.655
        weighs the errors as ``act_dcf`` does.

    Returns
    -------
    Calibration
        Its scale is positive.

    Raises
    ------
    ValueError
        If a class is empty, a score is not finite, all scores are equal, the prior is not between
        0 and 1, or spoofed clips score as high as genuine ones on average.

    Source: Brümmer and du Preez 2006, linear fusion of a single system. Deviates: adds 1e-6 times
    the square of the slope per mean absolute deviation of the scores, so that the fit exists for
    separable classes and does not depend on the scores' unit.

    Example
    -------
    >>> bonafide, spoof = [30.0, 10.0, 40.0], [0.0, 20.0, -10.0]
    >>> calibrate = fit_calibration(bonafide, spoof)
    >>> bool(cllr(calibrate(bonafide), calibrate(spoof)) < cllr(bonafide, spoof))
    True
    """
    from scipy.optimize import minimize

    genuine, fake = checked_classes(bonafide, spoof)
    if not 0.0 < prior < 1.0:
        raise ValueError(f"prior is {prior}: give the share of genuine clips, between 0 and 1")
    if genuine.mean() <= fake.mean():
        raise ValueError(
            f"bona fide scores average {genuine.mean():.4g}, spoofed ones {fake.mean():.4g}: "
            "calibration needs higher scores for bona fide clips; check labels and sign"
        )
    pooled = np.concatenate([genuine, fake])
    centre = pooled.mean()
    spread = np.abs(pooled - centre).mean()
    fit = minimize(
        _loss_and_gradient,
        x0=np.zeros(2),
        args=((genuine - centre) / spread, (fake - centre) / spread, prior),
        jac=True,
        hess=_hessian,
        method="trust-exact",
        options={"gtol": 1e-9},
    )
    scale = float(fit.x[0] / spread)
    return Calibration(scale, float(fit.x[1] - scale * centre))


def _loss_and_gradient(
    line: NDArray, genuine: NDArray, fake: NDArray, prior: float
) -> tuple[float, NDArray]:
    """Return the cross-entropy of (slope, offset) in nats, penalty included, and its gradient."""
    slope, offset = line
    shift = offset + math.log(prior / (1 - prior))
    odds_genuine, odds_fake = slope * genuine + shift, slope * fake + shift  # log posterior odds
    loss = prior * _softplus(-odds_genuine).mean() + (1 - prior) * _softplus(odds_fake).mean()
    wrong_genuine = -prior * _sigmoid(-odds_genuine) / genuine.size
    wrong_fake = (1 - prior) * _sigmoid(odds_fake) / fake.size
    gradient = [
        wrong_genuine @ genuine + wrong_fake @ fake + 2 * SLOPE_PENALTY * slope,
        wrong_genuine.sum() + wrong_fake.sum(),
    ]
    return float(loss + SLOPE_PENALTY * slope**2), np.array(gradient)


def _hessian(line: NDArray, genuine: NDArray, fake: NDArray, prior: float) -> NDArray:
    slope, offset = line
    shift = offset + math.log(prior / (1 - prior))
    total = np.diag([2 * SLOPE_PENALTY, 0.0])
    for scores, weight in ((genuine, prior), (fake, 1 - prior)):
        posterior = _sigmoid(slope * scores + shift)
        doubt = weight * posterior * (1 - posterior) / scores.size
        cross = doubt @ scores
        total += [[doubt @ scores**2, cross], [cross, doubt.sum()]]
    return total


def _sigmoid(log_odds: NDArray) -> NDArray:
    return np.exp(-_softplus(-log_odds))


def _softplus(nats: NDArray) -> NDArray:
    # ln(1 + e^x) without overflow; numpy's logaddexp is the same and five times as slow.
    return np.maximum(nats, 0.0) + np.log1p(np.exp(-np.abs(nats)))
