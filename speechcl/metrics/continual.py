"""What a score matrix says about learning task after task.

``matrix[i][j]`` is the score on task ``j`` after training on tasks ``0..i``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def online_summary(
    matrix: Sequence[Scores],
    anytime: Mapping[str, Sequence[float]],
    higher_is_better: bool = True,
) -> dict:
    """Summarise a stream that was learnt in one pass and measured on its way.

    Arguments
    ---------
    matrix : array_like (T, T)
        Scores, all evaluated.
    anytime : Mapping
        Scores of the tasks so far, by moment.
    higher_is_better : bool
        False for error rates.

    Returns
    -------
    dict
        ``learning_average``, the mean of R[j, j]: how well a task is learnt when it is met;
        ``best_ever_forgetting``, the mean over j < T of how much worse R[T, j] is than the best of
        column j up to then, and ``best_ever_forgetting_over_all``, the same sum divided by T
        rather than T - 1, as some released code has it; ``anytime_average``, the mean over moments
        of the mean over tasks; and ``anytime`` itself.

    Raises
    ------
    ValueError
        If nothing was measured on the way.

    Source: best-ever forgetting is that of Chaudhry et al., "Riemannian walk for incremental
    learning", ECCV 2018; over all tasks, that of the code of OnPro (arXiv 2308.00301).

    Example
    -------
    >>> found = online_summary([[90.0, 0.0], [70.0, 80.0]], {"task 1 step 5": [80.0, 60.0]})
    >>> found["learning_average"], found["best_ever_forgetting"], found["anytime_average"]
    (85.0, 20.0, 70.0)
    """
    if not anytime:
        raise ValueError("nothing was measured on the way: set anytime_every to a number of steps")
    scores = np.asarray(matrix, dtype=np.float64)
    sign = 1.0 if higher_is_better else -1.0
    tasks = len(scores)
    # of task j, the rows from its own on
    best = [sign * (sign * scores[j:, j]).max() for j in range(tasks - 1)]
    lost = float(sum(sign * (was - now) for was, now in zip(best, scores[-1], strict=False)))
    return {
        "learning_average": float(np.diagonal(scores).mean()),
        "best_ever_forgetting": lost / max(tasks - 1, 1),
        "best_ever_forgetting_over_all": lost / tasks,
        "anytime_average": float(np.mean([np.mean(one) for one in anytime.values()])),
        "anytime": {moment: list(one) for moment, one in anytime.items()},
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
