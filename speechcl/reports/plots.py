"""Geometry of the report's plots; how they are drawn is left to the template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from speechcl.metrics import det_curve, eer

DET_TICKS_PERCENT = (0.1, 0.5, 1, 2, 5, 10, 20, 40, 60, 80)
LOWEST_SHOWN = 0.001
HIGHEST_SHOWN = 0.85


@dataclass(frozen=True)
class Tick:
    """A labelled position on an axis."""

    label: str
    at: float


@dataclass(frozen=True)
class DetCurve:
    """One detector's curve in plot units, and the equal error rate that it crosses."""

    points: str
    eer_percent: float


@dataclass(frozen=True)
class DetPlot:
    """Curves on probit axes, both from 0 to ``size`` plot units."""

    size: float
    ticks: list[Tick]
    curves: list[DetCurve]


def det_plot(detectors: Sequence[tuple[ArrayLike, ArrayLike]], size: float = 360.0) -> DetPlot:
    """Lay out the detection error trade-off of several detectors on common probit axes.

    Arguments
    ---------
    detectors : sequence of tuple
        Bona fide and spoof scores of every detector.
    size : float
        Length of each axis in plot units.

    Returns
    -------
    DetPlot

    Raises
    ------
    ValueError
        If a detector's scores are refused by ``det_curve``.

    Example
    -------
    >>> plot = det_plot([([1, 2, 3, 4], [0, 1, 2, 0])], size=100.0)
    >>> plot.curves[0].eer_percent, [tick.label for tick in plot.ticks][:2]
    (25.0, ['20', '40'])
    """
    from scipy.special import ndtri

    rates = [_clipped_curve(*pair) for pair in detectors]
    smallest = min(float(pair.min()) for pair in rates)
    lowest = max(LOWEST_SHOWN, 0.9 * smallest)
    start, end = ndtri(lowest), ndtri(HIGHEST_SHOWN)

    def place(rate: ArrayLike) -> NDArray[np.float64]:
        return size * (ndtri(np.asarray(rate, dtype=np.float64)) - start) / (end - start)

    shown = [tick for tick in DET_TICKS_PERCENT if tick / 100 >= lowest]
    ticks = [Tick(f"{tick:g}", round(float(place(tick / 100)), 1)) for tick in shown]
    curves = [
        DetCurve(_polyline(place(pair[0]), size - place(pair[1])), eer(*scores)[0])
        for pair, scores in zip(rates, detectors, strict=True)
    ]
    return DetPlot(size, ticks, curves)


def _clipped_curve(bonafide: ArrayLike, spoof: ArrayLike) -> NDArray[np.float64]:
    """Return rates (2, points) that stay half a clip away from 0 and 1, where probits end."""
    half = 0.5 / np.array([np.size(spoof), np.size(bonafide)])[:, None]
    return np.clip(np.stack(det_curve(bonafide, spoof)), half, 1.0 - half)


def _polyline(x: NDArray[np.float64], y: NDArray[np.float64]) -> str:
    # Half a unit is less than a pixel: a curve of a million clips stays within some 20 kB.
    points = np.round(np.stack([x, y], axis=1) * 2.0) / 2.0
    moved = np.append(True, (np.diff(points, axis=0) != 0).any(axis=1))
    return " ".join(f"{px:g},{py:g}" for px, py in points[moved])


def axis_ticks(high: float, wanted: int = 5) -> list[float]:
    """Choose round tick values from 0 up to at most ``high``.

    Arguments
    ---------
    high : float
        Positive end of the axis.
    wanted : int
        Roughly how many steps there should be.

    Returns
    -------
    list of float

    Example
    -------
    >>> axis_ticks(53.0)
    [0.0, 10.0, 20.0, 30.0, 40.0, 50.0]
    """
    rough = high / wanted
    power = 10.0 ** np.floor(np.log10(rough))
    step = float(power * min((1, 2, 5, 10), key=lambda factor: abs(factor * power - rough)))
    return [round(i * step, 10) for i in range(int(high / step + 1e-9) + 1)]
