"""Accuracy of a classifier and how far other test speakers or clips could have moved it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

UNKNOWN_SPEAKERS = ("", "-")


def accuracy(predicted: ArrayLike, labels: ArrayLike) -> float:
    """Compute the share of clips whose predicted class is right, in percent.

    Arguments
    ---------
    predicted, labels : array_like
        One class number a clip.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If there is no clip, or not one prediction a label.

    Example
    -------
    >>> accuracy([0, 1, 2, 2], [0, 1, 2, 3])
    75.0
    """
    found, right = np.asarray(predicted), np.asarray(labels)
    if found.shape != right.shape or found.size == 0:
        raise ValueError(
            f"{found.shape} predictions for labels of shape {right.shape}: give one a clip, "
            "of one clip or more"
        )
    return 100.0 * float((found == right).mean())


def misclassification_ratios(
    predicted: ArrayLike, labels: ArrayLike, new: ArrayLike
) -> tuple[float, float]:
    """Compute where wrong answers go: to the classes just learnt, or to those from before.

    Arguments
    ---------
    predicted, labels : array_like
        One class a clip, of the classes seen so far.
    new : array_like
        The classes of the newest task.

    Returns
    -------
    old_as_new, new_as_old : float
        Of the wrong answers on old classes the share that names a new one, ``er(o, n)``, and of
        those on new classes the share that names an old one, ``er(n, o)``, from 0 to 1; not a
        number where no answer is wrong. A classifier that favours neither has both alike.

    Raises
    ------
    ValueError
        If there is not one prediction a label.

    Source: DualMix (arXiv 2303.07864), section 4.

    Example
    -------
    >>> misclassification_ratios([0, 2, 2, 1, 2, 3], [0, 0, 1, 0, 2, 2], new=[2, 3])
    (0.6666666666666666, 0.0)
    """
    found, right = np.asarray(predicted), np.asarray(labels)
    if found.shape != right.shape:
        raise ValueError(
            f"{found.shape} predictions for labels of shape {right.shape}: give one a clip"
        )
    wrong, is_new, as_new = found != right, np.isin(right, new), np.isin(found, new)
    old_wrong, new_wrong = as_new[wrong & ~is_new], ~as_new[wrong & is_new]
    shares = [float(one.mean()) if one.size else float("nan") for one in (old_wrong, new_wrong)]
    return shares[0], shares[1]


def average_accuracy_interval(
    tables: Sequence[tuple[ArrayLike, ArrayLike]],
    draws: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Compute the percentile bootstrap interval of the mean accuracy over test sets, in percent.

    Speakers are resampled, since clips of one speaker are alike, and one who occurs in several
    test sets is drawn for all of them together. A clip whose speaker is unknown counts as a
    speaker of its own, and so do clips of a test set that has one speaker only.

    Arguments
    ---------
    tables : sequence of tuple
        ``(correct, speakers)`` per test set: whether each clip was classified right, and who
        speaks it.
    draws : int
        Number of resamples.
    seed : int
        Seed of the resampling.
    confidence : float
        Share of the resamples inside the interval.

    Returns
    -------
    tuple of float
        Low and high end of the interval.

    Raises
    ------
    ValueError
        If there is no table, or ``draws`` or ``confidence`` makes no sense.

    Example
    -------
    >>> low, high = average_accuracy_interval([([1, 1, 1, 0], ["ann", "bob", "cleo", "dan"])])
    >>> low < 75.0 <= high
    True
    """
    if not tables or draws < 2 or not 0.0 < confidence < 1.0:
        raise ValueError(
            f"{len(tables)} test sets, draws {draws}, confidence {confidence}: "
            "give at least one, draws >= 2 and a share in (0, 1)"
        )
    names = [_names(place, np.asarray(who, dtype=str)) for place, (_, who) in enumerate(tables)]
    distinct, owners = np.unique(np.concatenate(names), return_inverse=True)
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(distinct.size, np.full(distinct.size, 1 / distinct.size), size=draws)
    ends = np.cumsum([len(one) for one in names])
    rates = [
        _resampled(np.asarray(correct, dtype=np.float64), owner, weights)
        for (correct, _), owner in zip(tables, np.split(owners, ends[:-1]), strict=True)
    ]
    means = np.nanmean(rates, axis=0)  # every resample has clips of some test set
    tail = 50.0 * (1.0 - confidence)
    low, high = np.percentile(100.0 * means, [tail, 100.0 - tail])
    return float(low), float(high)


def _names(place: int, speakers: NDArray[np.str_]) -> NDArray[np.str_]:
    """Name what is drawn: a speaker, or a clip of nobody known."""
    alone = len(set(speakers.tolist())) == 1
    return np.array(
        [
            # no speaker's name holds a line break
            f"{place}\n{number}" if alone or speaker in UNKNOWN_SPEAKERS else speaker
            for number, speaker in enumerate(speakers)
        ],
        dtype=str,
    )


def _resampled(
    correct: NDArray[np.float64], owner: NDArray[np.int64], weights: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the accuracy of a test set in every resample; NaN where none of its clips is drawn."""
    right = np.bincount(owner, weights=correct, minlength=weights.shape[1])
    clips = np.bincount(owner, minlength=weights.shape[1])
    drawn = weights @ clips
    return np.where(drawn > 0, weights @ right / np.maximum(drawn, 1), np.nan)
