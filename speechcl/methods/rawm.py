"""RAWM, regularized adaptive weight modification: the angle between old and new is counted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from speechcl.method import Step
from speechcl.methods.distillation import Distiller
from speechcl.methods.projection import GradientProjection
from speechcl.parallel import gather
from speechcl.task import Task

if TYPE_CHECKING:
    from speechcl.engine import Engine


class RAWM(GradientProjection):
    """Turn each gradient by the share of genuine clips in its batch, and keep old answers.

    Genuine speech is alike in all data sets, so a batch full of it may move along what the layer
    knows; one full of spoofed speech stays orthogonal. A distillation term holds the answers.
    Kept between tasks: a square matrix a layer and a copy of the model, nothing of any clip.

    Arguments
    ---------
    alpha, layers
        As in GradientProjection.
    strength : float
        ``eta``, weight of the old answers.
    temperature : float
        Softens both answers.
    genuine : int
        The class of genuine speech.

    Source: Zhang, Yi, Tao, Wang, Zhang, "Do you remember? Overcoming catastrophic forgetting for
    fake audio detection", ICML 2023. Deviates as RWM does: Q = I - P, where the printed
    ``I - P (P'P)^-1 P'`` is zero for every invertible P; R is scaled by |P| cos(angle), with
    tan(angle) the paper's beta; absorption starts with the first task.

    Example
    -------
    >>> RAWM(strength=0.5).structure()
    {'widths': {}, 'former': {}}
    """

    def __init__(
        self,
        alpha: float = 1.0,
        layers: Sequence[str] = ("*",),
        strength: float = 0.5,
        temperature: float = 2.0,
        genuine: int = 1,
    ) -> None:
        super().__init__(alpha, layers)
        self.genuine = genuine
        self.distiller = Distiller(strength, temperature)

    def structure(self) -> dict:
        """Widths of the projectors, shapes of the former model."""
        return {**super().structure(), "former": self.distiller.former.layout()}

    def build(self, modules: nn.ModuleDict, structure: dict) -> None:
        """Make projectors, and room for the former model."""
        super().build(modules, structure)
        self.distiller.former.allocate(structure.get("former", {}))

    def before_batch(self, step: Step) -> Any:
        """Ask the former model about the batch, then listen to the protected layers."""
        self.distiller.ask(step)
        return super().before_batch(step)

    def loss(self, step: Step) -> Tensor:
        """Absorb what was heard; add the distillation loss."""
        return super().loss(step) + self.distiller.penalty(step)

    def angle(self, step: Step) -> float:
        """Return the angle of the whole batch, over all processes."""
        is_genuine = gather(step.brain.targets(step.batch)) == self.genuine
        return counted_angle(int(is_genuine.sum()), int((~is_genuine).sum()))

    def after_task(self, task: Task, engine: Engine) -> None:
        """Remember the model as it is now."""
        self.distiller.former.take(engine.modules)


def counted_angle(genuine: int, spoofed: int) -> float:
    """Compute the rotation angle of a batch from its counts: ``atan((g + 1) / (s + 1))``.

    Source: RAWM, beta = (N_genuine + 1) / (N_fake + 1).

    Example
    -------
    >>> counted_angle(4, 4) == math.pi / 4
    True
    """
    return math.atan((genuine + 1) / (spoofed + 1))
