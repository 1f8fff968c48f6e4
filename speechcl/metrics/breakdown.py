"""All figures of a detector at once, over all attacks and for each of them."""

from __future__ import annotations

from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from speechcl.metrics.calibration import cllr
from speechcl.metrics.cost import FA_WEIGHT, MISS_WEIGHT, act_dcf
from speechcl.metrics.curve import RateCurve
from speechcl.metrics.detection import checked_classes, split_by_attack, split_by_label


class ErrorRates(TypedDict):
    """The figures of one set of clips; ``act_dcf`` and ``cllr_bits`` mean something for ratios."""

    eer_percent: float
    min_dcf: float
    act_dcf: float
    cllr_bits: float
    bonafide_clips: int
    spoof_clips: int


class Breakdown(TypedDict):
    """Figures over all attacks, which are not the mean of the attacks' own, and by attack."""

    pooled: ErrorRates
    attacks: dict[str, ErrorRates]


def error_rates(
    scores: ArrayLike, labels: ArrayLike, attacks: ArrayLike | None = None
) -> Breakdown:
    """Compute EER, minDCF, actDCF and Cllr over all clips and, if named, for every attack.

    Each equals what ``eer``, ``min_dcf``, ``act_dcf`` and ``cllr`` return. An attack is judged
    against all bona fide clips.

    Arguments
    ---------
    scores : array_like
        One score per clip; higher means more genuine. For actDCF and Cllr to mean anything, a
        log-likelihood ratio in nats (see ``fit_calibration``).
    labels : array_like of str
        ``"bonafide"`` or ``"spoof"`` per clip.
    attacks : array_like of str, optional
        The attack per clip; ignored where the clip is bona fide.

    Returns
    -------
    dict
        ``"pooled"`` holds the figures over all attacks, ``"attacks"`` those by attack in the order
        in which the attacks appear; empty if they are not named.

    Raises
    ------
    ValueError
        If the lengths differ, a label is unknown, or ``eer`` refuses the scores.

    Example
    -------
    >>> labels = ["bonafide", "bonafide", "spoof", "spoof"]
    >>> found = error_rates([2.0, 1.0, -3.0, 1.5], labels, ["-", "-", "lpc", "world"])
    >>> found["pooled"]["eer_percent"], found["pooled"]["min_dcf"]
    (50.0, 0.5)
    >>> {name: rates["eer_percent"] for name, rates in found["attacks"].items()}
    {'lpc': 0.0, 'world': 50.0}
    """
    genuine, fake, _ = split_by_label(scores, labels)
    by_attack = {} if attacks is None else split_by_attack(scores, labels, attacks)[1]
    return {
        "pooled": _rates(genuine, fake),
        "attacks": {name: _rates(genuine, part) for name, part in by_attack.items()},
    }


def _rates(genuine: NDArray[np.float64], fake: NDArray[np.float64]) -> ErrorRates:
    curve = RateCurve(*checked_classes(genuine, fake))
    return {
        "eer_percent": curve.eer_percent()[0],
        "min_dcf": curve.lowest_cost(MISS_WEIGHT, FA_WEIGHT),
        "act_dcf": act_dcf(genuine, fake),
        "cllr_bits": cllr(genuine, fake),
        "bonafide_clips": genuine.size,
        "spoof_clips": fake.size,
    }
