"""Error rates of a detector: a score is higher the more genuine the clip sounds.

A clip is accepted as bona fide where its score reaches the threshold, hence
``p_miss(t) = #{bonafide < t} / n`` and ``p_fa(t) = #{spoof >= t} / m``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from speechcl.metrics.curve import RateCurve

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
        return RateCurve(genuine, fake).eer_percent()
    if method == "asvspoof":
        return _official_eer(genuine, fake)
    raise ValueError(f"EER method {method!r} is unknown: use one of {', '.join(EER_METHODS)}")


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
    _, p_fa, p_miss = RateCurve(*checked_classes(bonafide, spoof)).points()
    return p_fa, p_miss


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
    genuine, fakes = split_by_attack(scores, labels, attacks)
    return {name: eer(genuine, fake, method)[0] for name, fake in fakes.items()}


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
    genuine, fake, _ = split_by_label(scores, labels)
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


def split_by_label(
    scores: ArrayLike, labels: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Split scores by class.

    Arguments
    ---------
    scores : array_like
        One score per clip.
    labels : array_like of str
        ``"bonafide"`` or ``"spoof"`` per clip.

    Returns
    -------
    tuple of arrays
        Bona fide scores; spoof scores; per clip, whether it is a spoof.

    Raises
    ------
    ValueError
        If the lengths differ or a label is unknown.

    Example
    -------
    >>> split_by_label([2, 0], ["bonafide", "spoof"])
    (array([2.]), array([0.]), array([False,  True]))
    """
    values = np.asarray(scores, dtype=np.float64).ravel()
    kinds = np.asarray(labels, dtype=str).ravel()
    if values.size != kinds.size:
        raise ValueError(f"{values.size} scores but {kinds.size} labels: give one label per score")
    is_spoof, is_genuine = kinds == "spoof", kinds == "bonafide"
    unknown = kinds[~(is_spoof | is_genuine)]
    if unknown.size:
        raise ValueError(f"label {str(unknown[0])!r} is unknown: use 'bonafide' or 'spoof'")
    return values[is_genuine], values[is_spoof], is_spoof


def split_by_attack(
    scores: ArrayLike, labels: ArrayLike, attacks: ArrayLike
) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    """Split scores into those of the bona fide clips and those of every attack.

    Arguments
    ---------
    scores, labels, attacks : array_like
        As in ``eer_per_attack``.

    Returns
    -------
    tuple
        Bona fide scores; spoof scores by attack, in the order in which the attacks appear.

    Raises
    ------
    ValueError
        If the lengths differ or a label is unknown.

    Example
    -------
    >>> split_by_attack([2, 0, 1], ["bonafide", "spoof", "spoof"], ["-", "world", "lpc"])
    (array([2.]), {'world': array([0.]), 'lpc': array([1.])})
    """
    genuine, fake, is_spoof = split_by_label(scores, labels)
    names = np.asarray(attacks, dtype=str).ravel()
    if names.size != is_spoof.size:
        raise ValueError(f"{is_spoof.size} labels but {names.size} attacks: give one per clip")
    found, first, owner = np.unique(names[is_spoof], return_index=True, return_inverse=True)
    return genuine, {str(found[k]): fake[owner == k] for k in np.argsort(first)}
