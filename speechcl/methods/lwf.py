"""LwF, learning without forgetting: on the new clips, keep answering as before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from speechcl.method import Method, Step
from speechcl.methods.distillation import Distiller
from speechcl.task import Task

if TYPE_CHECKING:
    from speechcl.engine import Engine


class LwF(Method):
    """Add to the loss how far the answers drift from those of the model before the task.

    Kept between tasks: a copy of the model, nothing of any clip.

    Arguments
    ---------
    strength : float
        ``lambda_o``, weight of the old answers.
    temperature : float
        ``T``, softens both answers.

    Source: Li & Hoiem, "Learning without forgetting", ECCV 2016, eqs. 1 to 3. Deviates: tasks share
    their classes, so the old answers constrain the same outputs that learn the new labels; and the
    former model is asked in every step, so that augmented clips are right too.

    Example
    -------
    >>> LwF().structure()
    {'former': {}}
    """

    def __init__(self, strength: float = 1.0, temperature: float = 2.0) -> None:
        super().__init__()
        self.distiller = Distiller(strength, temperature)

    def structure(self) -> dict:
        """Shapes of the former model."""
        return {"former": self.distiller.former.layout()}

    def build(self, modules: nn.ModuleDict, structure: dict) -> None:
        """Make room for it."""
        self.distiller.former.allocate(structure["former"])

    def before_batch(self, step: Step) -> Any:
        """Ask the former model about the batch."""
        self.distiller.ask(step)
        return step.batch

    def loss(self, step: Step) -> Tensor:
        """Add the distillation loss."""
        return super().loss(step) + self.distiller.penalty(step)

    def after_task(self, task: Task, engine: Engine) -> None:
        """Remember the model as it is now."""
        self.distiller.former.take(engine.modules)
