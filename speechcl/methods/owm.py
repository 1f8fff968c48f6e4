"""OWM, orthogonal weight modification: learn only what is new to every layer."""

from __future__ import annotations

from speechcl.method import Step
from speechcl.methods.projection import GradientProjection


class OWM(GradientProjection):
    """Keep the part of each gradient that is orthogonal to what the layer has seen.

    Source: Zeng, Chen, Cui, Yu, "Continual learning of context-dependent processing in neural
    networks", Nature Machine Intelligence 2019. Deviates: ``alpha`` is constant (the original
    lowers it within a task), and the first task, which has nothing to protect, is not projected.

    Example
    -------
    >>> OWM(alpha=0.5).angle(None)
    0.0
    """

    def angle(self, step: Step) -> float:
        """Return 0: always orthogonal."""
        return 0.0
