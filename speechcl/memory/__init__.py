"""What is remembered from task to task; knows no method."""

from speechcl.memory.projector import Projector
from speechcl.memory.reservoir import Reservoir

__all__ = ["Projector", "Reservoir"]
