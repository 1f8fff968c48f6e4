"""CoDyRA: learn each task with the least rank that it needs, and merge only that."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from speechcl.adapters import RankSelectiveLoRA, adapter_layers
from speechcl.adapters.rank_selective import RankSelectiveLayer
from speechcl.adapters.rank_threshold import (
    ThresholdSchedule,
    official_threshold,
    shrink,
    soft_threshold,
)
from speechcl.method import Step
from speechcl.methods.adapter_method import AdapterMethod
from speechcl.task import Task

if TYPE_CHECKING:
    from speechcl.engine import Engine

logger = logging.getLogger(__name__)

PAPER_STEPS = 500  # of a task, for which the paper gives its thresholds
THRESHOLDS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "soft": soft_threshold,
    "official": official_threshold,
}


class CoDyRA(AdapterMethod):
    """Train a LoRA whose rank-one terms have gates, shrink the gates to zero, merge what is left.

    After a dense phase every optimizer step is followed by a threshold on all gates, which gets
    higher. What survives is small and of low rank, and so disturbs little of what the weights
    knew: no old data, no task identity and, once merged, no cost.

    Arguments
    ---------
    targets, train
        As in ``AdapterMethod``; the paper adapts all linear layers.
    rank : int
        Rank-one terms of every layer at the start of a task.
    kappa_max : float
        The highest threshold in a task of 500 steps. In longer tasks thresholds are lower and in
        shorter ones higher, in proportion, so that gates are moved equally far in all: by about
        130 times ``kappa_max``. Gates start as draws from N(0, 1), so with 0.005 about half of
        them survive whatever is learnt.
    dense_ratio : float
        Share of a task's steps before the first threshold.
    levels : int
        Thresholds on the way up.
    prox : str
        "soft", the paper's threshold, or "official", that of its released code.
    gate_lr_scale : float
        Learning rate of the gates over that of the rest. With 1, the paper's choice, the first
        draw of the gates decides most of which terms survive; with 10 or 20 the data do, and more
        of them survive.

    Source
    ------
    "Continual learning with dynamic rank-selective LoRA", arXiv 2412.01004, and its released code.
    Deviates: thresholds are scaled by the length of the task, terms are merged right after it.
    The paper's optimizer is AdamW with lr 5e-4, betas (0.9, 0.9999) and a cosine schedule; the
    adapter's weight decay is 0 whatever the optimizer's is, since gates are shrunk already.

    Example
    -------
    >>> method = CoDyRA(targets="*.q_proj", kappa_max=0.01)
    >>> method.adapter(), method.ranks
    (RankSelectiveLoRA(rank=16), [])
    """

    def __init__(
        self,
        targets: str | Sequence[str],
        train: str | Sequence[str] = (),
        *,
        rank: int = 16,
        kappa_max: float = 0.005,
        dense_ratio: float = 0.5,
        levels: int = 50,
        prox: str = "soft",
        gate_lr_scale: float = 1.0,
    ) -> None:
        super().__init__(targets, train)
        if prox not in THRESHOLDS:
            raise ValueError(f"prox is '{prox}': choose {' or '.join(THRESHOLDS)}")
        self.spec = RankSelectiveLoRA(rank)
        self.kappa_max, self.dense_ratio, self.levels = kappa_max, dense_ratio, levels
        self.schedule(PAPER_STEPS)  # refuses what it cannot make a schedule of
        self.threshold, self.gate_lr_scale = THRESHOLDS[prox], gate_lr_scale
        self.ranks: list[float] = []  # what the tasks so far took, as a mean over layers
        self.gates: list[nn.Parameter] = []  # those under training

    def adapter(self) -> RankSelectiveLoRA:
        """Return the description of the adapter."""
        return self.spec

    def structure(self) -> dict:
        """Say whether an adapter is in the model, and what rank each task has taken."""
        return {**super().structure(), "ranks": list(self.ranks)}

    def build(self, modules: nn.ModuleDict, structure: dict) -> None:
        """Put the adapter in, or merge it, as the structure says."""
        super().build(modules, structure)
        self.ranks = list(structure.get("ranks", self.ranks))

    def param_groups(self, modules: nn.ModuleDict) -> list:
        """Return the gates, the factors, and what else is trained, as groups."""
        self.gates = [layer.gates for layer in gated_layers(modules["model"]).values()]
        factors = [
            factor
            for layer in gated_layers(modules["model"]).values()
            for factor in (layer.lora_down, layer.lora_up)
        ]
        adapter = {id(p) for p in (*self.gates, *factors)}
        rest = [p for p in modules.parameters() if p.requires_grad and id(p) not in adapter]
        groups: list[dict] = [
            {"params": self.gates, "weight_decay": 0.0, "lr_scale": self.gate_lr_scale},
            {"params": factors, "weight_decay": 0.0},
        ]
        return [*groups, {"params": rest}] if rest else groups

    def schedule(self, steps: int) -> ThresholdSchedule:
        """Return the thresholds of a task of so many optimizer steps."""
        highest = self.kappa_max * PAPER_STEPS / steps
        return ThresholdSchedule(steps, highest, self.levels, self.dense_ratio)

    def after_step(self, step: Step) -> None:
        """Shrink all gates by the threshold of this step."""
        schedule = self.schedule(step.total)
        shrink(self.gates, schedule.at(step.index), self.threshold)
        if step.index + 1 == step.total:
            moved = sum(map(schedule.at, range(step.total)))
            logger.info("gates were moved towards zero by up to %.3g", moved)

    def after_task(self, task: Task, engine: Engine) -> None:
        """Note what the task took, then write the terms that are left into the weights."""
        layers = gated_layers(engine.modules["model"])
        ranks = {name: int(layer.gates.count_nonzero()) for name, layer in layers.items()}
        self.ranks.append(sum(ranks.values()) / len(ranks))
        change = sum(layer.change_norm() ** 2 for layer in layers.values()) ** 0.5
        logger.info(
            "task %d (%s) took rank %.1f of %d on average, 0 in %d of %d layers; norm of its "
            "change: %.3g",
            task.index,
            task.name,
            self.ranks[-1],
            self.spec.rank,
            list(ranks.values()).count(0),
            len(ranks),
            change,
        )
        logger.debug("rank by layer: %s", ranks)
        self.gates = []
        super().after_task(task, engine)


def gated_layers(model: nn.Module) -> dict[str, RankSelectiveLayer]:
    """Return the layers of a model's rank-selective adapter, by path of their weight.

    Example
    -------
    >>> from speechcl.adapters import insert
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.MultiheadAttention(8, 2))
    >>> _ = insert(net, RankSelectiveLoRA(rank=2), targets="*")
    >>> list(gated_layers(net))
    ['0.weight', '1.q', '1.k', '1.v', '1.out_proj.weight']
    """
    return {
        f"{path}.{slot}": layer
        for path, slots in adapter_layers(model).items()
        for slot, layer in slots.items()
        if isinstance(layer, RankSelectiveLayer)
    }
