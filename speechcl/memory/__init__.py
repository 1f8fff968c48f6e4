"""What is remembered from task to task; knows no method."""

from speechcl.memory.named_tensors import NamedTensors
from speechcl.memory.projector import Projector
from speechcl.memory.reservoir import Reservoir
from speechcl.memory.snapshot import Snapshot

__all__ = ["NamedTensors", "Projector", "Reservoir", "Snapshot"]
