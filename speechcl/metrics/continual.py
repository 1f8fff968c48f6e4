"""What a score matrix says about learning task after task.

``matrix[i][j]`` is the score on task ``j`` after training on tasks ``0..i``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

Scores = Sequence[float | None]


class Summary(TypedDict):
    """The four figures of a score matrix, in the unit of its scores."""

    average: float
    forgetting: float | None
    backward_transfer: float | None
    forward_transfer: float | None


def continual_summary(
    matrix: Sequence[Scores], higher_is_better: bool = True, zero_shot: Scores | None = None
) -> Summary:
    """Summarise a score matrix by average, forgetting, backward and forward transfer.

    With T tasks and R the matrix: average is the mean of R's last row; forgetting the mean over
    j < T of how much worse R[T, j] is than R[j, j], positive where it is worse;
    backward transfer the mean of R[T, j] - R[j, j]; forward transfer the mean of
    R[j-1, j] - zero_shot[j].

    Arguments
    ---------
    matrix : array_like (T, T)
        Scores; None or NaN where a task was not evaluated.
    higher_is_better : bool
        False for error rates.
    zero_shot : array_like (T,), optional
        Scores of the model before any task.

    Returns
    -------
    dict
        ``average``, ``forgetting``, ``backward_transfer``, ``forward_transfer``. None where the
        scores that a figure needs were not evaluated; forgetting of a single task is 0.

    Raises
    ------
    ValueError
        If the matrix is not square, its last row is not complete, or ``zero_shot`` has another
        length.

    Example
    -------
    >>> continual_summary([[10.0, 40.0], [30.0, 20.0]], higher_is_better=False)
    {'average': 25.0, 'forgetting': 20.0, 'backward_transfer': 20.0, 'forward_transfer': None}
    """
    scores = np.asarray(matrix, dtype=np.float64)
    if scores.ndim != 2 or scores.shape[0] != scores.shape[1] or scores.size == 0:
        raise ValueError(
            f"the score matrix has shape {scores.shape}: give one row per task, square"
        )
    if not np.isfinite(scores[-1]).all():
        raise ValueError("the last row of the score matrix has gaps: evaluate all tasks at the end")
    change = _mean(scores[-1, :-1] - np.diagonal(scores)[:-1], if_empty=0.0)
    worse = -1.0 if higher_is_better else 1.0
    return {
        "average": float(scores[-1].mean()),
        "forgetting": None if change is None else worse * change + 0.0,
        "backward_transfer": change,
        "forward_transfer": _forward_transfer(scores, zero_shot),
    }


def _forward_transfer(scores: NDArray[np.float64], zero_shot: Scores | None) -> float | None:
    if zero_shot is None:
        return None
    before = np.asarray(zero_shot, dtype=np.float64)
    if before.shape != scores.shape[:1]:
        raise ValueError(
            f"zero_shot has shape {before.shape} but the matrix has {len(scores)} tasks: "
            "give one score per task"
        )
    return _mean(np.diagonal(scores, offset=1) - before[1:], if_empty=None)


def _mean(values: NDArray[np.float64], if_empty: float | None) -> float | None:
    if values.size == 0:
        return if_empty
    mean = float(values.mean())
    return mean if np.isfinite(mean) else None
