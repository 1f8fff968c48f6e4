"""Scores to test with, and the curve of error rates as slow, obvious code computes it."""

import numpy as np
from hypothesis import strategies
from scipy.stats import norm


def random_scores(seed):
    """Scores with few or many ties and sizes from one clip upwards."""
    rng = np.random.default_rng(seed)
    bonafide = rng.normal(rng.uniform(-1, 2), 1, rng.integers(1, 30))
    spoof = rng.normal(0, 1, rng.integers(1, 30))
    decimals = int(rng.integers(0, 3))
    bonafide, spoof = bonafide.round(decimals), spoof.round(decimals)
    return bonafide, np.append(spoof, bonafide.max() + 1)  # never constant


def points_by_loop(bonafide, spoof):
    """All points (P_fa, P_miss) of the curve, by ascending threshold."""
    thresholds = [*sorted({*bonafide, *spoof}), np.inf]
    return [
        (sum(s >= t for s in spoof) / len(spoof), sum(b < t for b in bonafide) / len(bonafide))
        for t in thresholds
    ]


def calibrated_gaussians(mu, count=20_000):
    """Evenly spaced quantiles of log-likelihood ratios N(mu, 2 mu) and N(-mu, 2 mu)."""
    spread = norm.ppf((np.arange(count) + 0.5) / count) * np.sqrt(2 * mu)
    return spread + mu, spread - mu


def score_lists():
    """Two lists of scores with many ties, of which at least two differ."""
    scores = strategies.lists(strategies.integers(-6, 6).map(lambda k: k / 2), min_size=1)
    return strategies.tuples(scores, scores).filter(lambda pair: len({*pair[0], *pair[1]}) > 1)
