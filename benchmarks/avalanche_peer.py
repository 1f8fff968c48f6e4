"""The methods of avalanche-lib on the data of ``cl_step_overhead.py``, with the same clipping."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from avalanche.benchmarks import tensors_benchmark
from avalanche.training import DER, Naive
from avalanche.training.plugins import (
    AGEMPlugin,
    EWCPlugin,
    LwFPlugin,
    ReplayPlugin,
    SupervisedPlugin,
    SynapticIntelligencePlugin,
)
from engine_overhead import BATCH, LR, MAX_GRAD_NORM, MOMENTUM
from torch import Tensor, nn

# its EWC penalty has no 1/2, nor has ours of SI
PLUGINS: dict[str, Callable[[], list]] = {
    "Naive": list,
    "EWC": lambda: [EWCPlugin(ewc_lambda=50.0)],
    "EWC online": lambda: [EWCPlugin(ewc_lambda=50.0, mode="online", decay_factor=1.0)],
    "SI": lambda: [SynapticIntelligencePlugin(si_lambda=1.0)],
    "LwF": lambda: [LwFPlugin(alpha=1.0, temperature=2.0)],
    "Replay": lambda: [ReplayPlugin(mem_size=200)],
    "DER++": list,
    "A-GEM": lambda: [AGEMPlugin(patterns_per_experience=200, sample_size=BATCH)],
}


class ClipAndClock(SupervisedPlugin):
    """Clips the gradient and notes the CPU seconds of each epoch's steps."""

    def __init__(self) -> None:
        super().__init__()
        self.took: list[float] = []
        self.ended = 0.0

    def before_training_epoch(self, strategy, **kwargs) -> None:
        """Start the clock."""
        self.began = time.process_time()

    def before_update(self, strategy, **kwargs) -> None:
        """Clip the whole gradient, as the other sides do."""
        nn.utils.clip_grad_norm_(strategy.model.parameters(), MAX_GRAD_NORM, foreach=True)

    def after_training_epoch(self, strategy, **kwargs) -> None:
        """Stop the clock."""
        self.ended = time.process_time()
        self.took.append(self.ended - self.began)


class Logits(nn.Module):
    """A network that gives logits alone."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return self.net(x)[0]


class Avalanche:
    """One method of avalanche-lib on two tasks; a call learns both and returns a step's seconds.

    Arguments
    ---------
    name : str
        A key of ``PLUGINS``.
    born : nn.Module
        The network before the first task.
    parts : Sequence
        Features and labels of each task, in the order of the batches.
    importances : Mapping, optional
        By the network's own names: what EWC takes for the first task's, instead of its own.
    """

    def __init__(
        self,
        name: str,
        born: nn.Module,
        parts: Sequence[tuple[Tensor, Tensor]],
        importances: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.name, self.born, self.importances = name, born, importances
        self.steps = len(parts[1][1]) // BATCH
        self.once: list[float] = []  # CPU seconds at the end of the second task
        streams = {"train_tensors": parts, "test_tensors": parts, "task_labels": [0, 0]}
        self.tasks = tensors_benchmark(**streams).train_stream

    def __call__(self) -> float:
        """Learn both tasks; return the CPU seconds of a step of the second."""
        self.net = copy.deepcopy(self.born)
        model = Logits(self.net)
        clock, plugins = ClipAndClock(), PLUGINS[self.name]()
        make = DER if self.name == "DER++" else Naive
        options = {"mem_size": 200, "alpha": 0.5, "beta": 0.5} if make is DER else {}
        strategy = make(
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM),
            criterion=nn.CrossEntropyLoss(),
            train_mb_size=BATCH,
            train_epochs=1,
            evaluator=None,
            plugins=[*plugins, clock],
            **options,
        )
        for number, task in enumerate(self.tasks):
            strategy.train(task, shuffle=False, reset_optimizer_state=True)
            if number == 0 and self.importances is not None:
                for key, kept in plugins[0].importances[0].items():
                    kept.data = self.importances[key.removeprefix("net.")].clone()
        self.once.append(time.process_time() - clock.ended)
        return clock.took[-1] / self.steps
