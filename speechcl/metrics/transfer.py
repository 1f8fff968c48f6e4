"""What X-TAIL reads off a score matrix; its words differ from those of ``continual_summary``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np


class TransferSummary(TypedDict):
    """X-TAIL's three figures, in the unit of the scores."""

    transfer: float | None
    average: float
    last: float


def transfer_summary(matrix: Sequence[Sequence[float]]) -> TransferSummary:
    """Summarise a score matrix as X-TAIL does, which also tests on tasks not yet learnt.

    With R[i, j] the score on task j after training on tasks 0..i: transfer is, for each task but
    the first, the mean score before it was learnt, averaged over these tasks: what is kept of
    zero-shot ability. Average is the mean of the whole matrix, last the mean of its last row. A
    score of 0 counts like any other.

    Arguments
    ---------
    matrix : array_like (T, T)
        Scores, higher or lower is better alike.

    Returns
    -------
    dict
        ``transfer`` (None for a single task), ``average``, ``last``. The ``average`` of
        ``continual_summary`` is the ``last`` here.

    Raises
    ------
    ValueError
        If the matrix is not square or has gaps.

    Source: Xu et al., "Advancing cross-domain discriminability in continual learning of
    vision-language models", NeurIPS 2024 (X-TAIL). The script released with CoDyRA (arXiv
    2412.01004) leaves out scores of exactly 0 from transfer; they count here.

    Example
    -------
    >>> transfer_summary([[80.0, 30.0], [60.0, 70.0]])
    {'transfer': 30.0, 'average': 60.0, 'last': 65.0}
    """
    scores = np.asarray(matrix, dtype=np.float64)
    if scores.ndim != 2 or scores.shape[0] != scores.shape[1] or scores.size == 0:
        raise ValueError(
            f"the score matrix has shape {scores.shape}: give one row per task, square"
        )
    if not np.isfinite(scores).all():
        raise ValueError("the score matrix has gaps: evaluate all tasks after each")
    before = [scores[:task, task].mean() for task in range(1, len(scores))]
    return {
        "transfer": float(np.mean(before)) if before else None,
        "average": float(scores.mean()),
        "last": float(scores[-1].mean()),
    }
