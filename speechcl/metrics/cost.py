"""Detection costs: what the misses and false alarms of a detector cost where spoofs are rare.

Missing a genuine clip costs 1, accepting a spoofed one 10, and one clip in twenty is spoofed. With
those figures of the ASVspoof challenges a cost of 1 is what always saying the same would cost.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from speechcl.metrics.curve import RateCurve
from speechcl.metrics.detection import checked_classes, checked_scores, eer

P_SPOOF = 0.05
P_TARGET = (1 - P_SPOOF) * 0.99
P_NONTARGET = (1 - P_SPOOF) * 0.01
C_MISS = 1.0
C_FALSE_ALARM = 10.0

CERTAIN_COST = min(C_MISS * (1 - P_SPOOF), C_FALSE_ALARM * P_SPOOF)
MISS_WEIGHT = C_MISS * (1 - P_SPOOF) / CERTAIN_COST
FA_WEIGHT = C_FALSE_ALARM * P_SPOOF / CERTAIN_COST
# Accepting pays off where the log-likelihood ratio reaches this, in nats: -ln 1.9 = -0.64.
BAYES_THRESHOLD = -math.log(C_MISS * (1 - P_SPOOF) / (C_FALSE_ALARM * P_SPOOF))

TDCF_SETTINGS = ("2019", "2021")


class AsvRates(NamedTuple):
    """Errors of the speaker verification system that the detector protects, as fractions.

    ``miss`` of its targets are rejected, ``false_alarm`` of the non-targets and
    ``spoof_false_alarm`` of the spoofed trials are accepted.

    Example
    -------
    >>> AsvRates(miss=0.05, false_alarm=0.05, spoof_false_alarm=0.7).miss
    0.05
    """

    miss: float
    false_alarm: float
    spoof_false_alarm: float


def min_dcf(bonafide: ArrayLike, spoof: ArrayLike) -> float:
    """Compute the normalised detection cost at the threshold where it is lowest.

    Arguments
    ---------
    bonafide, spoof : array_like
        Scores of the genuine and of the spoofed clips; higher means more genuine.

    Returns
    -------
    float
        From 0 for perfect separation to 1.

    Raises
    ------
    ValueError
        If a class is empty, a score is not finite, or all scores are equal.

    Source
    ------
    minDCF of track 1 of ASVspoof 5 (evaluation plan, 2024): costs 1 and 10, 5 % spoofs.

    Example
    -------
    >>> min_dcf([3, 2, 1, 0.5], [0.7, 0, -1, -2])
    0.25
    """
    return RateCurve(*checked_classes(bonafide, spoof)).lowest_cost(MISS_WEIGHT, FA_WEIGHT)


def act_dcf(bonafide: ArrayLike, spoof: ArrayLike) -> float:
    """Compute the normalised detection cost at the threshold that theory prescribes.

    Unlike ``min_dcf`` it judges the scores as they are: they must be log-likelihood ratios in nats
    (see ``fit_calibration``), accepted at -ln 1.9 = -0.64 and above.

    Arguments
    ---------
    bonafide, spoof : array_like
        Log-likelihood ratios of the genuine and of the spoofed clips.

    Returns
    -------
    float
        At least ``min_dcf``; above 1 where following the scores is worse than ignoring them.

    Raises
    ------
    ValueError
        If a class is empty or a score is not finite.

    Source
    ------
    actDCF of track 1 of ASVspoof 5 (evaluation plan, 2024).

    Example
    -------
    >>> act_dcf([3, 2, 1, 0.5], [0.7, 0, -1, -2])
    0.5
    """
    genuine, fake = checked_scores(bonafide, "bonafide"), checked_scores(spoof, "spoof")
    p_miss, p_fa = np.mean(genuine < BAYES_THRESHOLD), np.mean(fake >= BAYES_THRESHOLD)
    return float(MISS_WEIGHT * p_miss + FA_WEIGHT * p_fa)


def asv_rates(target: ArrayLike, nontarget: ArrayLike, spoof: ArrayLike) -> AsvRates:
    """Compute the errors of a speaker verification system at its own equal error rate.

    Trials are accepted at or above the score at which misses of targets and false alarms of
    non-targets come closest to each other; of two equally close ones the higher.

    Arguments
    ---------
    target, nontarget, spoof : array_like
        Scores of the verification system for each kind of trial; higher means more alike.

    Returns
    -------
    AsvRates

    Raises
    ------
    ValueError
        If a kind has no scores, a score is not finite, or targets and non-targets all score the
        same.

    Source
    ------
    Kinnunen et al., "t-DCF: a detection cost function for the tandem assessment of spoofing
    countermeasures and automatic speaker verification", Odyssey 2018.
    Deviates: the challenges' code also accepts the trial just below the threshold, and orders tied
    trials by kind; without ties the rates differ by one trial at most.

    Example
    -------
    >>> asv_rates(target=[3, 2, 1], nontarget=[1.5, 0, -1], spoof=[2, 1])
    AsvRates(miss=0.333..., false_alarm=0.333..., spoof_false_alarm=0.5)
    """
    targets = checked_scores(target, "asv_target")
    nontargets = checked_scores(nontarget, "asv_nontarget")
    spoofs = checked_scores(spoof, "asv_spoof")
    _, threshold = eer(targets, nontargets)
    return AsvRates(
        miss=float(np.mean(targets < threshold)),
        false_alarm=float(np.mean(nontargets >= threshold)),
        spoof_false_alarm=float(np.mean(spoofs >= threshold)),
    )


def min_tdcf(
    bonafide: ArrayLike,
    spoof: ArrayLike,
    asv_target: ArrayLike,
    asv_nontarget: ArrayLike,
    asv_spoof: ArrayLike,
    setting: str = "2019",
) -> float:
    """Compute the lowest cost of detector and speaker verification in tandem.

    Arguments
    ---------
    bonafide, spoof : array_like
        Scores of the detector for the genuine and the spoofed clips; higher means more genuine.
    asv_target, asv_nontarget, asv_spoof : array_like
        Scores of the verification system, as in ``asv_rates``. The challenges hand them out.
    setting : str
        As in ``min_tdcf_from_rates``.

    Returns
    -------
    float
        Between 0 and 1.

    Raises
    ------
    ValueError
        As ``asv_rates`` and ``min_tdcf_from_rates``, whose sources hold here too.

    Example
    -------
    >>> asv = dict(asv_target=[3, 2, 1], asv_nontarget=[1.5, 0, -1], asv_spoof=[2, 1])
    >>> round(min_tdcf([3, 2, 1, 0.5], [0.7, 0, -1, -2], **asv), 4)
    0.25
    >>> round(min_tdcf([3, 2, 1, 0.5], [0.7, 0, -1, -2], **asv, setting="2021"), 4)
    0.685
    """
    rates = asv_rates(asv_target, asv_nontarget, asv_spoof)
    return min_tdcf_from_rates(bonafide, spoof, rates, setting)


def min_tdcf_from_rates(
    bonafide: ArrayLike, spoof: ArrayLike, asv: AsvRates, setting: str = "2019"
) -> float:
    """Compute the lowest tandem cost, given the errors of the verification system.

    Arguments
    ---------
    bonafide, spoof : array_like
        Scores of the detector; higher means more genuine.
    asv : AsvRates
        The verification system's errors at its threshold.
    setting : str
        ``"2019"``, or ``"2021"`` for the revised cost, which counts the verification system's own
        errors too, so that a perfect detector does not reach 0. The two must not be compared.

    Returns
    -------
    float
        Between 0 and 1.

    Raises
    ------
    ValueError
        If ``eer`` refuses the scores, a rate is not a fraction, the setting is unknown, or the
        verification system is so poor, or so immune to spoofs, that there is nothing to protect.

    Source
    ------
    2019: Kinnunen et al., Odyssey 2018, as in the ASVspoof 2019 challenge. 2021: Kinnunen et al.,
    "Tandem assessment of spoofing countermeasures and automatic speaker verification:
    fundamentals", IEEE/ACM TASLP 2020, as in the ASVspoof 2021 challenge.

    Example
    -------
    >>> asv = AsvRates(miss=0.05, false_alarm=0.05, spoof_false_alarm=0.7)
    >>> round(min_tdcf_from_rates([3, 2, 1, 0.5], [0.7, 0, -1, -2], asv, setting="2021"), 6)
    0.346649
    """
    if setting not in TDCF_SETTINGS:
        raise ValueError(
            f"t-DCF setting {setting!r} is unknown: use one of {', '.join(TDCF_SETTINGS)}"
        )
    asv_cost, miss_weight, fa_weight = _tandem_weights(asv)
    floor = asv_cost if setting == "2021" else 0.0
    lowest = RateCurve(*checked_classes(bonafide, spoof)).lowest_cost(miss_weight, fa_weight)
    return (floor + lowest) / (floor + min(miss_weight, fa_weight))


def _tandem_weights(asv: AsvRates) -> tuple[float, float, float]:
    """Return the verification system's own cost, and what the detector's two errors add to it."""
    for name, rate in asv._asdict().items():
        if not 0.0 <= rate <= 1.0:
            raise ValueError(f"ASV rate {name} is {rate:g}: give a fraction between 0 and 1")
    asv_cost = P_TARGET * C_MISS * asv.miss + P_NONTARGET * C_FALSE_ALARM * asv.false_alarm  # C0
    miss_weight = P_TARGET * C_MISS - asv_cost  # C1; verification may fail a missed clip too
    fa_weight = P_SPOOF * C_FALSE_ALARM * asv.spoof_false_alarm  # C2
    if miss_weight <= 0.0:
        raise ValueError(
            f"the ASV system misses {asv.miss:.1%} and falsely accepts {asv.false_alarm:.1%}, "
            "worse than accepting nobody: check that its scores are higher for targets"
        )
    if fa_weight <= 0.0:
        raise ValueError(
            "the ASV system accepts no spoofed trial, so a detector has nothing to protect and "
            "the t-DCF is undefined: check asv_spoof"
        )
    return asv_cost, miss_weight, fa_weight
