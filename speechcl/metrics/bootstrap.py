"""Bootstrap intervals of the equal error rate, in time that hardly grows with the clips.

The EER of a resample lies where two rising curves cross, so a bisection over thresholds finds it
for all resamples at once; only the counts at the thresholds it visits are ever drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from speechcl.metrics.curve import crossing_percent
from speechcl.metrics.detection import checked_classes

# (low threshold, middle one, high one, count below low, count below high) -> count below middle
Counter = Callable[[NDArray, NDArray, NDArray, NDArray, NDArray], NDArray]
Table = tuple[ArrayLike, ArrayLike, "Sequence[str] | None", "Sequence[str] | None"]


class _Cell(NamedTuple):
    """One class of one table: a rank per clip and, where they are known, its speakers."""

    ranks: NDArray[np.int64]
    levels: int
    speakers: NDArray[np.str_] | None


def eer_interval(
    bonafide: ArrayLike,
    spoof: ArrayLike,
    bonafide_speakers: Sequence[str] | None = None,
    spoof_speakers: Sequence[str] | None = None,
    draws: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Compute the percentile bootstrap interval of the EER, in percent.

    Speakers are resampled where at least two are known, since clips of one speaker are alike;
    else clips. A speaker who occurs in both classes is drawn for both together.

    Arguments
    ---------
    bonafide, spoof : array_like
        Scores of the genuine and of the spoofed clips; higher means more genuine.
    bonafide_speakers, spoof_speakers : sequence of str, optional
        The speaker of every clip.
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
        If ``eer`` refuses the scores, a list of speakers has another length than its scores, or
        ``draws`` or ``confidence`` makes no sense.

    Example
    -------
    >>> low, high = eer_interval([3, 2, 2, 1, 0], [1, 0, 0, -1, -2], draws=200)
    >>> low <= 20.0 <= high
    True
    """
    table = (bonafide, spoof, bonafide_speakers, spoof_speakers)
    return average_eer_interval([table], draws, seed, confidence)


def average_eer_interval(
    tables: Sequence[Table], draws: int = 1000, seed: int = 0, confidence: float = 0.95
) -> tuple[float, float]:
    """Compute the bootstrap interval of the mean EER over several test sets, in percent.

    A speaker who occurs in several test sets is drawn for all of them together.

    Arguments
    ---------
    tables : list of tuple
        ``(bonafide, spoof, bonafide_speakers, spoof_speakers)`` per test set; the speakers may be
        None.
    draws, seed, confidence
        As in ``eer_interval``.

    Returns
    -------
    tuple of float
        Low and high end of the interval.

    Raises
    ------
    ValueError
        As ``eer_interval``; also if there is no table.

    Example
    -------
    >>> easy = ([3.0, 4.0], [0.0, 1.0], ["ann", "bob"], ["ann", "bob"])
    >>> hard = ([1.0, 0.0], [0.0, 1.0], ["ann", "bob"], ["ann", "bob"])
    >>> average_eer_interval([easy, hard], draws=200)
    (0.0, 50.0)
    """
    if not tables:
        raise ValueError("no test set to compute an interval over: give at least one table")
    if draws < 2 or not 0.0 < confidence < 1.0:
        raise ValueError(
            f"draws is {draws} and confidence {confidence}: use draws >= 2 and a share in (0, 1)"
        )
    cells = [_cells(*table) for table in tables]
    rng = np.random.default_rng(seed)
    weights = _speaker_weights(cells, draws, rng)
    rates = np.stack([_resampled_eers(pair, draws, rng, weights) for pair in cells])
    means = _mean_of_finite(rates)
    tail = 50.0 * (1.0 - confidence)
    low, high = np.percentile(means, [tail, 100.0 - tail])
    return float(low), float(high)


def _cells(
    bonafide: ArrayLike,
    spoof: ArrayLike,
    bonafide_speakers: Sequence[str] | None,
    spoof_speakers: Sequence[str] | None,
) -> tuple[_Cell, _Cell]:
    genuine, fake = checked_classes(bonafide, spoof)
    distinct, ranks = np.unique(np.concatenate([genuine, fake]), return_inverse=True)
    return (
        _Cell(
            ranks[: genuine.size],
            distinct.size,
            _speakers(bonafide_speakers, genuine.size, "bonafide"),
        ),
        _Cell(ranks[genuine.size :], distinct.size, _speakers(spoof_speakers, fake.size, "spoof")),
    )


def _speakers(names: Sequence[str] | None, count: int, where: str) -> NDArray[np.str_] | None:
    if names is None:
        return None
    array = np.asarray(names, dtype=str).ravel()
    if array.size != count:
        raise ValueError(
            f"{where} has {count} scores but {array.size} speakers: give one speaker per score"
        )
    # Resampling a single speaker would always give the same clips: an interval of width zero.
    return array if np.unique(array).size > 1 else None


def _speaker_weights(
    cells: Sequence[tuple[_Cell, _Cell]], draws: int, rng: np.random.Generator
) -> dict[str, NDArray]:
    """Draw how often every speaker occurs in each resample."""
    classes = [
        {name for cell in column if cell.speakers is not None for name in cell.speakers.tolist()}
        for column in zip(*cells, strict=True)
    ]
    # Classes that share no speaker were collected apart, so each keeps its number of speakers.
    pools = classes if classes[0].isdisjoint(classes[1]) else [classes[0] | classes[1]]
    weights: dict[str, NDArray] = {}
    for pool in pools:
        names = sorted(pool)
        if names:
            drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
            weights.update(zip(names, drawn.T, strict=True))
    return weights


def _resampled_eers(
    pair: tuple[_Cell, _Cell], draws: int, rng: np.random.Generator, weights: dict[str, NDArray]
) -> NDArray[np.float64]:
    """Find the EER of every resample by bisection; NaN where a class was not drawn at all."""
    counters, totals = zip(*(_counter(cell, draws, rng, weights) for cell in pair), strict=True)
    low = np.zeros(draws, dtype=np.int64)
    high = np.full(draws, pair[0].levels)
    below_low = [np.zeros_like(total) for total in totals]
    below_high = list(totals)
    scale = [np.where(total > 0, total, np.nan) for total in totals]
    for _ in range(int(np.ceil(np.log2(pair[0].levels)))):
        middle = (low + high) // 2
        below = [
            count(low, middle, high, *ends)
            for count, *ends in zip(counters, below_low, below_high, strict=True)
        ]
        rising = below[0] / scale[0] < (totals[1] - below[1]) / scale[1]
        low, high = np.where(rising, middle, low), np.where(rising, high, middle)
        below_low = [np.where(rising, new, old) for new, old in zip(below, below_low, strict=True)]
        below_high = [
            np.where(rising, old, new) for new, old in zip(below, below_high, strict=True)
        ]
    return crossing_percent(
        below_low[0] / scale[0],
        (totals[1] - below_low[1]) / scale[1],
        below_high[0] / scale[0],
        (totals[1] - below_high[1]) / scale[1],
    )


def _counter(
    cell: _Cell, draws: int, rng: np.random.Generator, weights: dict[str, NDArray]
) -> tuple[Counter, NDArray]:
    """Return what counts a class's resampled clips below a threshold, and their number."""
    if cell.speakers is None:
        return _count_clips(cell, rng), np.full(draws, cell.ranks.size)
    return _count_by_speaker(cell, cell.speakers, weights)


def _count_clips(cell: _Cell, rng: np.random.Generator) -> Counter:
    below = np.append(0, np.cumsum(np.bincount(cell.ranks, minlength=cell.levels)))

    def count(low, middle, high, below_low, below_high):
        # Of the clips drawn between two thresholds, each falls below the middle one by itself.
        inside = np.maximum(below[high] - below[low], 1)
        return below_low + rng.binomial(
            below_high - below_low, (below[middle] - below[low]) / inside
        )

    return count


def _count_by_speaker(
    cell: _Cell, speakers: NDArray[np.str_], weights: dict[str, NDArray]
) -> tuple[Counter, NDArray]:
    names, owner, sizes = np.unique(speakers, return_inverse=True, return_counts=True)
    weight = np.stack([weights[name] for name in names.tolist()], axis=1)
    stride = cell.levels + 1
    keys = np.sort(owner * stride + cell.ranks)  # speaker by speaker, ascending within each
    base = np.arange(names.size) * stride
    starts = np.cumsum(sizes) - sizes

    def count(low, middle, high, below_low, below_high):
        below = np.searchsorted(keys, base + middle[:, None], side="left") - starts
        return (weight * below).sum(axis=1)

    return count, weight @ sizes


def _mean_of_finite(rates: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average over test sets, leaving out those of which a resample holds only one class."""
    known = np.isfinite(rates)
    counts = known.sum(axis=0)
    sums = np.where(known, rates, 0.0).sum(axis=0)
    return sums[counts > 0] / counts[counts > 0]
