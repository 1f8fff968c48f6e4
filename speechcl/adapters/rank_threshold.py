"""Shrinking the gates of rank-one terms until those that are not needed are exactly zero.

Source: "Continual learning with dynamic rank-selective LoRA", arXiv 2412.01004 (CoDyRA). The
threshold is applied to the gates after the optimizer's step and is not multiplied by its rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional


def soft_threshold(gates: Tensor, kappa: float) -> Tensor:
    """Move every gate towards zero by ``kappa``, and to zero if it is no further away.

    Arguments
    ---------
    gates : Tensor
        Any shape.
    kappa : float
        Not negative.

    Returns
    -------
    Tensor
        The proximal map of ``kappa |w|``: ``sign(w) max(|w| - kappa, 0)``. Same shape.

    Source: arXiv 2412.01004, proximal step.

    Example
    -------
    >>> soft_threshold(torch.tensor([0.5, -3.0, 1.5]), kappa=1.0)
    tensor([ 0.0000, -2.0000,  0.5000])
    """
    return functional.softshrink(gates, kappa)


def official_threshold(gates: Tensor, kappa: float) -> Tensor:
    """Move every gate towards zero by ``kappa``, then to zero if it is nearer than ``kappa``.

    Arguments
    ---------
    gates : Tensor
        Any shape.
    kappa : float
        Not negative.

    Returns
    -------
    Tensor
        As ``soft_threshold``, but what is nearer than twice ``kappa`` is zero. Same shape.

    Source: released code of arXiv 2412.01004: three edits in place, the last of which sees what the
    first two have moved. A gate of exactly ``kappa`` stays, there as here.

    Example
    -------
    >>> official_threshold(torch.tensor([0.5, -3.0, 1.5]), kappa=1.0)
    tensor([ 0., -2.,  0.])
    """
    moved = torch.where(gates > kappa, gates - kappa, gates)
    moved = torch.where(gates < -kappa, gates + kappa, moved)
    return torch.where(moved.abs() < kappa, 0.0, moved)


@torch.no_grad()
def shrink(
    gates: Sequence[Tensor],
    kappa: float,
    threshold: Callable[[Tensor, float], Tensor] = soft_threshold,
) -> None:
    """Apply a threshold to the gates of many layers at once, in place.

    Arguments
    ---------
    gates : Sequence
        Tensors of shape (rank,), of one type and device.
    kappa : float
        Not negative; at 0 nothing is done.
    threshold : Callable
        ``soft_threshold`` or ``official_threshold``.

    Example
    -------
    >>> gates = [torch.tensor([0.5, -3.0]), torch.tensor([1.5])]
    >>> shrink(gates, kappa=1.0)
    >>> gates
    [tensor([ 0., -2.]), tensor([0.5000])]
    """
    if kappa == 0 or not gates:
        return
    # one call for all: layers are many and gates few
    flat = threshold(torch.cat(list(gates)), kappa)
    torch._foreach_copy_(list(gates), flat.split([len(gate) for gate in gates]))


class ThresholdSchedule:
    """How strongly gates are shrunk after each step of a task: not at all at first, then harder.

    After a dense phase the threshold climbs a ladder from 0 to ``kappa_max``, one level at a time.
    In all the gates are moved by about ``kappa_max * total_steps / 4``, so keep that product when
    the number of steps differs from the paper's 500.

    Arguments
    ---------
    total_steps : int
        Optimizer steps of the task.
    kappa_max : float
        The last threshold.
    levels : int
        Thresholds, 0 included; fewer in a task too short for them.
    dense_ratio : float
        Share of the steps before the first threshold.

    Raises
    ------
    ValueError
        If an argument is out of its range.

    Source: released code of arXiv 2412.01004. Deviates: with fewer steps than levels after the
    dense phase the code never applies any; here there are then as many levels as steps.

    Example
    -------
    >>> schedule = ThresholdSchedule(total_steps=500, kappa_max=0.005)
    >>> [round(schedule.at(step), 6) for step in (0, 250, 251, 255, 499)]
    [0.0, 0.0, 0.000102, 0.000204, 0.005]
    >>> round(sum(schedule.at(step) for step in range(500)), 4)
    0.6499
    """

    def __init__(
        self, total_steps: int, kappa_max: float, levels: int = 50, dense_ratio: float = 0.5
    ) -> None:
        if total_steps < 1 or levels < 2:
            raise ValueError(
                f"total_steps is {total_steps} and levels {levels}: use at least 1 and 2"
            )
        if kappa_max < 0 or not 0 <= dense_ratio <= 1:
            raise ValueError(
                f"kappa_max is {kappa_max} and dense_ratio {dense_ratio}: use 0 or more, and 0 to 1"
            )
        self.kappa_max = kappa_max
        self.dense_steps = dense_ratio * total_steps
        pruning_steps = total_steps - self.dense_steps
        self.levels = max(2, min(levels, int(pruning_steps)))
        self.steps_a_level = max(1, int(pruning_steps // self.levels))

    def at(self, step: int) -> float:
        """Return the threshold to apply after this step, counted from 0; 0.0 while dense."""
        if step <= self.dense_steps:
            return 0.0
        every = self.steps_a_level
        climbed = step // every - math.ceil(self.dense_steps / every) + 1
        return min(climbed, self.levels - 1) * self.kappa_max / (self.levels - 1)
