"""The curve of error rates over all thresholds: coarse everywhere, exact where asked.

Sorting many scores costs more than all else that is done with them. But a crossing or a minimum
lies between two thresholds close together, so the scores are first counted on an even grid, which
takes one pass, and only those between the two are sorted.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MOST_CELLS = 1 << 14


class _Class(NamedTuple):
    """One class: its scores, the grid cell of each, and how many lie below each cell."""

    scores: NDArray[np.float64]
    cells: NDArray[np.intp]
    below: NDArray[np.intp]


class RateCurve:
    """Miss and false-alarm rates of a detector that accepts where the score reaches a threshold.

    Arguments
    ---------
    genuine, fake : array (n,), (m,)
        Finite float64 scores of both classes, not all of them equal.

    Attributes
    ----------
    p_miss, p_fa : array
        Rates at the edges of the grid, from the lowest score to above the highest: misses rise
        from 0 to 1, false alarms fall from 1 to 0. Each is a point of the curve, not an estimate.

    Example
    -------
    >>> curve = RateCurve(np.array([1.0, 2.0]), np.array([0.0, 1.0]))
    >>> curve.eer_percent()
    (25.0, 2.0)
    >>> curve.lowest_cost(miss_weight=1.0, fa_weight=2.0)
    0.5
    """

    def __init__(self, genuine: NDArray[np.float64], fake: NDArray[np.float64]):
        low, high = min(genuine.min(), fake.min()), max(genuine.max(), fake.max())
        cells = min(genuine.size + fake.size, MOST_CELLS)
        with np.errstate(over="ignore"):
            per_unit = (cells - 1) / (high - low)
        if not 0.0 < per_unit < np.inf:  # the range is too wide or too narrow for a float
            cells, low, per_unit = 1, 0.0, 0.0
        self._cells = cells
        self._genuine = _counted(genuine, low, per_unit, cells)
        self._fake = _counted(fake, low, per_unit, cells)
        self.p_miss, self.p_fa = self._rates(self._genuine.below, self._fake.below)

    def points(
        self, first: int = 0, last: int | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Compute all points of the curve between two edges of the grid.

        Arguments
        ---------
        first, last : int
            The edges; by default the whole curve.

        Returns
        -------
        tuple of arrays
            Ascending thresholds, which are the distinct scores between the edges and the next one
            above (infinity above the highest); their false-alarm rates; their miss rates.

        Example
        -------
        >>> RateCurve(np.array([1.0, 2.0]), np.array([0.0, 1.0])).points()
        (array([ 0.,  1.,  2., inf]), array([1. , 0.5, 0. , 0. ]), array([0. , 0. , 0.5, 1. ]))
        """
        last = self._cells if last is None else last
        genuine, fake = (
            side.scores[(side.cells >= first) & (side.cells < last)]
            for side in (self._genuine, self._fake)
        )
        thresholds = np.append(np.unique(np.concatenate([genuine, fake])), self._lowest(last))
        p_miss, p_fa = self._rates(
            self._genuine.below[first] + np.searchsorted(np.sort(genuine), thresholds),
            self._fake.below[first] + np.searchsorted(np.sort(fake), thresholds),
        )
        return thresholds, p_fa, p_miss

    def eer_percent(self) -> tuple[float, float]:
        """Find where the rates cross, interpolated, and the score that comes closest as threshold.

        Returns
        -------
        tuple of float
            EER in percent; threshold.

        Example
        -------
        >>> RateCurve(np.array([2.0, 3.0]), np.array([0.0, 1.0])).eer_percent()
        (0.0, 2.0)
        """
        edge = int(np.searchsorted(self.p_miss - self.p_fa, 0.0))  # the gap rises from -1 to 1
        thresholds, p_fa, p_miss = self.points(edge - 1, edge)
        gap = p_miss - p_fa
        after = int(np.searchsorted(gap, 0.0))
        before = after - 1
        rate = crossing_percent(p_miss[before], p_fa[before], p_miss[after], p_fa[after])
        after_is_closer = gap[after] <= -gap[before] and np.isfinite(thresholds[after])
        return float(rate), float(thresholds[after if after_is_closer else before])

    def lowest_cost(self, miss_weight: float, fa_weight: float) -> float:
        """Minimise the weighted sum of the two rates over all thresholds.

        Arguments
        ---------
        miss_weight, fa_weight : float
            What a rate of 1 costs; not negative.

        Returns
        -------
        float

        Example
        -------
        >>> RateCurve(np.array([0.0, 2.0]), np.array([1.0, -1.0])).lowest_cost(1.0, 1.5)
        0.5
        """
        best = (miss_weight * self.p_miss + fa_weight * self.p_fa).min()
        # Within a cell misses are at least those at its start, false alarms those at its end.
        bound = miss_weight * self.p_miss[:-1] + fa_weight * self.p_fa[1:]
        cells = np.flatnonzero(bound < best)
        if cells.size:
            _, p_fa, p_miss = self.points(cells[0], cells[-1] + 1)
            best = min(best, (miss_weight * p_miss + fa_weight * p_fa).min())
        return float(best)

    def _rates(
        self, missed: NDArray[np.intp], rejected: NDArray[np.intp]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        # Quotients of counts, not differences from 1: equal rates are then equal floats.
        fakes = self._fake.scores.size
        return missed / self._genuine.scores.size, (fakes - rejected) / fakes

    def _lowest(self, cell: int) -> float:
        """Return the lowest score in a cell or above it; infinity if there is none."""
        if cell == self._cells:
            return np.inf
        sides = (self._genuine, self._fake)
        return min(side.scores[side.cells >= cell].min(initial=np.inf) for side in sides)


def _counted(scores: NDArray[np.float64], low: float, per_unit: float, cells: int) -> _Class:
    # Each operation rounds monotonically, so a higher score never falls into a lower cell.
    cell = ((scores - low) * per_unit).astype(np.intp)
    return _Class(scores, cell, np.append(0, np.cumsum(np.bincount(cell, minlength=cells))))


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
