"""Error rates of a detector: a score is higher the more genuine the clip sounds.

A clip is accepted as bona fide where its score reaches the threshold, hence
``p_miss(t) = #{bonafide < t} / n`` and ``p_fa(t) = #{spoof >= t} / m``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

EER_METHODS = ("speechcl", "asvspoof")


def checked_scores(scores: ArrayLike, name: str) -> NDArray[np.float64]:
    """Return scores as a flat float64 array that holds only finite numbers.

    Arguments
    ---------
    scores : array_like
        The scores, of any shape.
    name : str
        How an error message calls them.

    Returns
    -------
    array (n,)

    Raises
    ------
    ValueError
        If there is no score, or one of them is NaN or infinite.

    Example
    -------
    >>> checked_scores([[1, 2]], "bonafide")
    array([1., 2.])
    """
    flat = np.asarray(scores, dtype=np.float64).ravel()
    if flat.size == 0:
        raise ValueError(f"{name} holds no scores: an error rate needs scores of both classes")
    bad = np.flatnonzero(~np.isfinite(flat))
    if bad.size:
        raise ValueError(
            f"{name} holds {bad.size} score(s) that are not finite, the first at position "
            f"{bad[0]}: look for NaN in the model or the audio"
        )
    return flat


def checked_classes(
    bonafide: ArrayLike, spoof: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the scores of both classes, refusing a detector that gives one constant score.

    Arguments
    ---------
    bonafide, spoof : array_like
        Scores of the genuine and of the spoofed clips.

    Returns
    -------
    tuple of arrays

    Raises
    ------
    ValueError
        If a class is empty, a score is not finite, or all scores are equal.

    Example
    -------
    >>> checked_classes([1, 2], [0])
    (array([1., 2.]), array([0.]))
    """
    genuine = checked_scores(bonafide, "bonafide")
    fake = checked_scores(spoof, "spoof")
    # An official EER of constant scores is 0 or 100 % by the order of the trials alone.
    if genuine.min() == genuine.max() == fake.min() == fake.max():
        raise ValueError(
            f"all {genuine.size + fake.size} scores are {genuine[0]:g}: a constant score "
            "separates nothing; check that the detector was trained and its input is not silent"
        )
    return genuine, fake


def eer(bonafide: ArrayLike, spoof: ArrayLike, method: str = "speechcl") -> tuple[float, float]:
    """Compute the equal error rate in percent and the threshold that comes closest to it.

    Tied scores make one step of the curve, so the result depends neither on the order of the
    clips nor on how the scores are scaled; between two steps it is interpolated.

    Arguments
    ---------
    bonafide, spoof : array_like
        Scores of the genuine and of the spoofed clips; higher means more genuine.
    method : str
        ``"speechcl"``, or ``"asvspoof"`` for the challenge's own number, which depends on the
        order of the clips where scores are tied.

    Returns
    -------
    tuple of float
        EER in percent; threshold, one of the given scores.

    Raises
    ------
    ValueError
        If a class is empty, a score is not finite, all scores are equal, or the method is
        unknown.

    Source
    ------
    ``"asvspoof"``: the evaluation package of the ASVspoof 2019 and 2021 challenges.

    Example
    -------
    >>> rate, threshold = eer([2, 1, 1, 0], [1, 0, -1, -2, -3])
    >>> round(rate, 2), threshold
    (22.22, 1.0)
    >>> round(eer([2, 1, 1, 0], [1, 0, -1, -2, -3], method="asvspoof")[0], 2)
    22.5
    """
    genuine, fake = checked_classes(bonafide, spoof)
    if method == "speechcl":
        return _interpolated_eer(genuine, fake)
    if method == "asvspoof":
        return _official_eer(genuine, fake)
    raise ValueError(f"EER method {method!r} is unknown: use one of {', '.join(EER_METHODS)}")


def crossing_percent(
    miss_before: NDArray, fa_before: NDArray, miss_after: NDArray, fa_after: NDArray
) -> NDArray[np.float64]:
    """Interpolate the EER between the curve's points just before and just after the crossing.

    Arguments
    ---------
    miss_before, fa_before : array
        Miss and false-alarm rates where misses are still the fewer.
    miss_after, fa_after : array
        Rates of the next point, where they are not.

    Returns
    -------
    array
        EER in percent.

    Example
    -------
    >>> float(crossing_percent(np.array(0.0), np.array(0.2), np.array(0.2), np.array(0.0)))
    10.0
    """
    before, after = miss_before - fa_before, miss_after - fa_after
    share = -before / (after - before)
    return 100.0 * (miss_before + share * (miss_after - miss_before))


def _interpolated_eer(
    genuine: NDArray[np.float64], fake: NDArray[np.float64]
) -> tuple[float, float]:
    thresholds = _thresholds(genuine, fake)
    p_fa, p_miss = _rates(genuine, fake, thresholds)
    gap = p_miss - p_fa  # rises from -1 to 1
    after = int(np.searchsorted(gap, 0.0, side="left"))
    before = after - 1
    rate = crossing_percent(p_miss[before], p_fa[before], p_miss[after], p_fa[after])
    after_is_closer = gap[after] <= -gap[before] and np.isfinite(thresholds[after])
    return float(rate), float(thresholds[after if after_is_closer else before])


def _official_eer(genuine: NDArray[np.float64], fake: NDArray[np.float64]) -> tuple[float, float]:
    scores = np.concatenate([genuine, fake])
    order = np.argsort(scores, kind="stable")
    is_genuine = order < genuine.size
    p_miss = np.append(0.0, np.cumsum(is_genuine) / genuine.size)
    p_fa = np.append(1.0, (fake.size - np.cumsum(~is_genuine)) / fake.size)
    best = int(np.argmin(np.abs(p_miss - p_fa)))
    return float(50.0 * (p_miss[best] + p_fa[best])), float(scores[order[max(best - 1, 0)]])


def det_curve(
    bonafide: ArrayLike, spoof: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute the detection error trade-off: one point per distinct score, and one above all.

    Arguments
    ---------
    bonafide, spoof : array_like
        Scores of the genuine and of the spoofed clips; higher means more genuine.

    Returns
    -------
    tuple of arrays
        False-alarm rates from 1 down to 0 and miss rates from 0 up to 1, as fractions.

    Raises
    ------
    ValueError
        If a class is empty, a score is not finite, or all scores are equal.

    Example
    -------
    >>> det_curve([1, 2], [0, 1])
    (array([1. , 0.5, 0. , 0. ]), array([0. , 0. , 0.5, 1. ]))
    """
    genuine, fake = checked_classes(bonafide, spoof)
    return _rates(genuine, fake, _thresholds(genuine, fake))


def _thresholds(genuine: NDArray[np.float64], fake: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.append(np.unique(np.concatenate([genuine, fake])), np.inf)


def _rates(
    genuine: NDArray[np.float64], fake: NDArray[np.float64], thresholds: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    missed = np.searchsorted(np.sort(genuine), thresholds, side="left")
    accepted = fake.size - np.searchsorted(np.sort(fake), thresholds, side="left")
    # Quotients of counts, not differences from 1: equal rates are then equal floats.
    return accepted / fake.size, missed / genuine.size


def eer_per_attack(
    scores: ArrayLike, labels: ArrayLike, attacks: ArrayLike, method: str = "speechcl"
) -> dict[str, float]:
    """Compute the EER of every attack: all bona fide clips against that attack's spoofs.

    Arguments
    ---------
    scores : array_like
        One score per clip; higher means more genuine.
    labels : array_like of str
        ``"bonafide"`` or ``"spoof"`` per clip.
    attacks : array_like of str
        The attack per clip; ignored where the clip is bona fide.
    method : str
        As in ``eer``.

    Returns
    -------
    dict
        EER in percent by attack, in the order in which the attacks appear.

    Raises
    ------
    ValueError
        If the lengths differ, a label is unknown, or ``eer`` refuses the scores.

    Example
    -------
    >>> labels = ["bonafide", "bonafide", "spoof", "spoof"]
    >>> eer_per_attack([2, 1, 0, 3], labels, ["-", "-", "lpc", "world"])
    {'lpc': 0.0, 'world': 100.0}
    """
    genuine, fake, is_spoof = _split(scores, labels)
    names = np.asarray(attacks, dtype=str).ravel()
    if names.size != is_spoof.size:
        raise ValueError(f"{is_spoof.size} labels but {names.size} attacks: give one per clip")
    names = names[is_spoof]
    return {
        name: eer(genuine, fake[names == name], method)[0] for name in dict.fromkeys(names.tolist())
    }


def pooled_eer(scores: ArrayLike, labels: ArrayLike, method: str = "speechcl") -> float:
    """Compute the EER over all attacks at once; it is not the mean of the attacks' EERs.

    Arguments
    ---------
    scores : array_like
        One score per clip; higher means more genuine.
    labels : array_like of str
        ``"bonafide"`` or ``"spoof"`` per clip.
    method : str
        As in ``eer``.

    Returns
    -------
    float
        EER in percent.

    Raises
    ------
    ValueError
        If the lengths differ, a label is unknown, or ``eer`` refuses the scores.

    Example
    -------
    >>> pooled_eer([2, 1, 0, 3], ["bonafide", "bonafide", "spoof", "spoof"])
    50.0
    """
    genuine, fake, _ = _split(scores, labels)
    return eer(genuine, fake, method)[0]


def worst_attack(per_attack: Mapping[str, float]) -> tuple[str, float]:
    """Find the attack that the detector misses most.

    Arguments
    ---------
    per_attack : dict
        EER by attack, from ``eer_per_attack``.

    Returns
    -------
    tuple
        The attack's name and its EER.

    Raises
    ------
    ValueError
        If there is no attack.

    Example
    -------
    >>> worst_attack({"lpc": 3.0, "world": 12.5})
    ('world', 12.5)
    """
    if not per_attack:
        raise ValueError("there is no attack to choose the worst from: score spoofed clips first")
    return max(per_attack.items(), key=lambda item: item[1])


def _split(scores: ArrayLike, labels: ArrayLike) -> tuple[NDArray, NDArray, NDArray]:
    values = np.asarray(scores, dtype=np.float64).ravel()
    kinds = np.asarray(labels, dtype=str).ravel()
    if values.size != kinds.size:
        raise ValueError(f"{values.size} scores but {kinds.size} labels: give one label per score")
    is_spoof, is_genuine = kinds == "spoof", kinds == "bonafide"
    unknown = kinds[~(is_spoof | is_genuine)]
    if unknown.size:
        raise ValueError(f"label {str(unknown[0])!r} is unknown: use 'bonafide' or 'spoof'")
    return values[is_genuine], values[is_spoof], is_spoof
