"""What is remembered from task to task; knows no method."""

from speechcl.memory.buffer import Buffer
from speechcl.memory.class_balanced import ClassBalanced
from speechcl.memory.draws import Draws
from speechcl.memory.key_retriever import KeyRetriever
from speechcl.memory.named_tensors import NamedTensors
from speechcl.memory.projector import Projector
from speechcl.memory.prototypes import Prototypes
from speechcl.memory.query_encoders import FrozenEncoder, StatisticsEncoder
from speechcl.memory.reservoir import Reservoir
from speechcl.memory.snapshot import Snapshot

__all__ = [
    "Buffer",
    "ClassBalanced",
    "Draws",
    "FrozenEncoder",
    "KeyRetriever",
    "NamedTensors",
    "Projector",
    "Prototypes",
    "Reservoir",
    "Snapshot",
    "StatisticsEncoder",
]
