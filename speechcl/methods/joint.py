"""Joint training on everything seen so far: the ceiling, for those who may keep all data."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence

from torch.utils.data import Dataset

from speechcl.method import Method
from speechcl.task import Task


class Joint(Method):
    """Train on the data of this task and all before it, going on from the present weights.

    The last row of its matrix is what a detector with a full archive reaches. It keeps all data,
    and says so in ``memory_bytes``.

    Example
    -------
    >>> from speechcl.task import make_stream
    >>> import torch
    >>> data = [torch.utils.data.TensorDataset(torch.zeros(n, 1)) for n in (2, 3)]
    >>> stream = make_stream([("a", data[0], None), ("b", data[1], None)])
    >>> len(Joint().train_set(stream[1], stream))
    5
    """

    def train_set(self, task: Task, stream: Sequence[Task]) -> Dataset:
        """Return this task's data and that of all before it."""
        return functools.reduce(operator.add, (seen.train for seen in stream[: task.index + 1]))

    def memory_bytes(self, stream: Sequence[Task]) -> int:
        """Bytes of the whole archive, where the datasets tell them."""
        return sum(getattr(task.train, "nbytes", 0) for task in stream)
