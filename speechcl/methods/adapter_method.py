"""What methods share that train an adapter in a frozen model."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import speechbrain as sb
from torch import nn

from speechcl.adapters import (
    Adapter,
    adapter_layers,
    check_reachable,
    insert,
    list_adapters,
    merge,
)
from speechcl.method import Method
from speechcl.task import Task

if TYPE_CHECKING:
    from speechcl.engine import Engine


class AdapterMethod(Method):
    """Train a fresh adapter on every task and merge it into the weights afterwards.

    Subclasses say which adapter. Those whose adapter stays and grows override ``structure``,
    ``build`` and ``after_task``.

    Arguments
    ---------
    targets : str or sequence of str
        Patterns of the layers to adapt, by their names in ``modules["model"]``.
    train : str or sequence of str
        Patterns of the base's own parameters to train as well, such as "head.*"; nothing of the
        method protects these.
    """

    def __init__(self, targets: str | Sequence[str], train: str | Sequence[str] = ()) -> None:
        super().__init__()
        self.targets = [targets] if isinstance(targets, str) else list(targets)
        self.train_patterns = [train] if isinstance(train, str) else list(train)
        self.inserted = False

    def adapter(self) -> Adapter:
        """Return the description of the adapter."""
        raise NotImplementedError(f"{type(self).__name__} has no adapter")

    def structure(self) -> dict:
        """Say whether an adapter is in the model."""
        return {"inserted": self.inserted}

    def build(self, modules: nn.ModuleDict, structure: dict) -> None:
        """Put the adapter in, or merge it, as the structure says."""
        if structure["inserted"] and not self.inserted:
            self.put_adapter(modules["model"])
        elif self.inserted and not structure["inserted"]:
            merge(modules["model"])
        self.inserted = structure["inserted"]

    def put_adapter(self, model: nn.Module) -> None:
        """Insert the adapter; freeze the rest but for what ``train`` names."""
        insert(model, self.adapter(), self.targets)
        for pattern in self.train_patterns:
            named = [p for n, p in model.named_parameters() if fnmatch.fnmatchcase(n, pattern)]
            if not named:
                raise ValueError(
                    f"train: '{pattern}' matches no parameter of the model; it has, for example, "
                    + ", ".join(name for name, _ in list(model.named_parameters())[-3:])
                )
            for parameter in named:
                parameter.requires_grad_(True)

    def before_task(self, task: Task, engine: Engine) -> None:
        """Put a fresh adapter in; the first time, make sure that every layer is within reach."""
        self.build(engine.modules, {"inserted": True})
        if task.index == 0:
            self.check_reachable(task, engine)

    def check_reachable(self, task: Task, engine: Engine) -> None:
        """Show on one batch that the output depends on every adapted layer."""
        brain, batch = engine.probe(task)
        model = engine.modules["model"]
        check_reachable(
            model, lambda: brain.compute_forward(batch, sb.Stage.TEST), adapter_layers(model)
        )

    def after_task(self, task: Task, engine: Engine) -> None:
        """Write what was learnt into the weights."""
        self.build(engine.modules, {"inserted": False})

    def memory_bytes(self, stream: Sequence[Task]) -> int:
        """Nothing is kept beside the model of the base's own size."""
        return 0


def adapter_bytes(model: nn.Module) -> int:
    """Count the bytes of the adapters in a model.

    Example
    -------
    >>> from speechcl.adapters import LoRA
    >>> net = nn.Sequential(nn.Linear(4, 8))
    >>> _ = insert(net, LoRA(rank=2), targets="0")
    >>> adapter_bytes(net)
    96
    """
    tensors: list[Any] = [
        tensor
        for one in list_adapters(model)
        for slots in adapter_layers(model, one.name).values()
        for layer in slots.values()
        for tensor in layer.state_dict().values()
    ]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
