"""speechcl: a speech toolkit that keeps learning without forgetting."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from speechcl.brain import ContinualBrain
    from speechcl.engine import Engine, Training
    from speechcl.method import Method, Step
    from speechcl.task import Task

# Loaded when first used, so that importing the package costs next to nothing.
_HOMES = {
    "ContinualBrain": "speechcl.brain",
    "Engine": "speechcl.engine",
    "Training": "speechcl.engine",
    "Method": "speechcl.method",
    "Step": "speechcl.method",
    "Task": "speechcl.task",
}

__all__ = ["ContinualBrain", "Engine", "Method", "Step", "Task", "Training"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'speechcl' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
