"""OSFT: fine-tune weights outside the directions that carry what they know."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import speechbrain as sb
from torch import Tensor, nn
from torch.nn import functional

from speechcl.adapters import RankPolicy, SubspaceCore, adapter_layers
from speechcl.adapters.adapted import can_branch
from speechcl.adapters.matrices import as_matrix
from speechcl.adapters.subspace import LayerImportance, relative_importance
from speechcl.adapters.subspace_core import SubspaceLayer, splittable_rank
from speechcl.adapters.targets import find_targets
from speechcl.method import Step
from speechcl.methods.adapter_method import AdapterMethod
from speechcl.task import Task

if TYPE_CHECKING:
    from speechcl.engine import Engine

logger = logging.getLogger(__name__)

FLOAT_BYTES = 8
FEW_DIRECTIONS = 8


class OSFT(AdapterMethod):
    """Before each task, protect the largest singular directions of every weight; train the rest.

    After the task the change is merged and the next task cuts the new weight, so what was learnt
    is among the directions that can be protected. Nothing else is kept but a number a layer: how
    important it was to the last task, which says how much of it is protected.

    Arguments
    ---------
    targets, train
        As in ``AdapterMethod``. What ``train`` names is not protected.
    policy : RankPolicy
        How much is protected: by importance and task, as published and with a floor that grows,
        or ``RankPolicy.fixed(share)``, ``RankPolicy.progressive(shares)``.
    mode, projection : str
        As in ``SubspaceCore``.

    Source
    ------
    "Sculpting subspaces: constrained full fine-tuning in LLMs for continual learning", arXiv
    2504.07097 (OSFT). Deviates: the default mode trains a core between fixed bases, which keeps the
    constraint under any optimizer; the floor of the policy; before the first task, which has no
    former data, all layers count as equally important. Only linear layers and plain convolutions
    have their importance measured; others count as average.

    Example
    -------
    >>> method = OSFT(targets="*.q_proj", policy=RankPolicy.fixed(0.5))
    >>> method.adapter().mode
    'core'
    """

    def __init__(
        self,
        targets: str | Sequence[str],
        train: str | Sequence[str] = (),
        *,
        policy: RankPolicy | None = None,
        mode: str = "core",
        projection: str = "two_sided",
    ) -> None:
        super().__init__(targets, train)
        self.policy = RankPolicy() if policy is None else policy
        if not isinstance(self.policy, RankPolicy):
            raise ValueError(
                f"policy is {policy!r}: give a RankPolicy, such as RankPolicy.fixed(0.5)"
            )
        self.mode, self.projection = mode, projection
        self.preserved: dict[str, int] = {}
        self.importance: dict[str, float] = {}
        self.adapter()  # refuses what it cannot make

    def adapter(self) -> SubspaceCore:
        """Return the description of the adapter."""
        return SubspaceCore(by_layer=self.preserved, mode=self.mode, projection=self.projection)

    def structure(self) -> dict:
        """Say whether an adapter is in the model, what it protects, and the layers' importance."""
        state = {"preserved": dict(self.preserved), "importance": dict(self.importance)}
        return {**super().structure(), **state}

    def build(self, modules: nn.ModuleDict, structure: dict) -> None:
        """Put the adapter in, or merge it, as the structure says."""
        self.preserved = dict(structure.get("preserved", self.preserved))
        self.importance = dict(structure.get("importance", self.importance))
        super().build(modules, structure)

    def before_task(self, task: Task, engine: Engine) -> None:
        """Decide how much of each layer to protect, then cut the weights."""
        shapes, _ = find_targets(engine.modules["model"], self.targets, self.adapter())
        ranks = {path: min(map(splittable_rank, slots.values())) for path, slots in shapes.items()}
        relative = relative_importance(self.importance) if self.importance else {}
        self.preserved = {
            path: self.policy.preserved(rank, relative.get(path, 1.0), task.index)
            for path, rank in ranks.items()
        }
        few = [path for path, k in self.preserved.items() if ranks[path] - k < FEW_DIRECTIONS]
        if few:
            logger.warning(
                "%d layers, such as %s, have fewer than %d directions left to learn in",
                *(len(few), few[0], FEW_DIRECTIONS),
            )
        super().before_task(task, engine)
        share = sum(self.preserved.values()) / sum(ranks.values())
        logger.info("protects %.0f %% of the directions of %d layers", 100 * share, len(shapes))

    def after_backward(self, step: Step) -> None:
        """Keep the gradients out of protected directions, where the mode needs it."""
        for layer in subspace_layers(step.modules["model"]):
            layer.settle_gradient()

    def after_step(self, step: Step) -> None:
        """Keep the weights out of protected directions, where the mode needs it."""
        for layer in subspace_layers(step.modules["model"]):
            layer.settle()

    def after_task(self, task: Task, engine: Engine) -> None:
        """Merge the change, then ask how important each layer is to this task."""
        super().after_task(task, engine)
        if self.policy.min_ratio < self.policy.target_ratio:
            self.importance = measure_importance(engine, task, list(self.preserved))

    def memory_bytes(self, stream: Sequence[Task]) -> int:
        """A number a layer."""
        return FLOAT_BYTES * len(self.importance)


def subspace_layers(model: nn.Module) -> list[SubspaceLayer]:
    """Return the layers of a model's subspace adapter.

    Example
    -------
    >>> from speechcl.adapters import insert
    >>> net = nn.Sequential(nn.Linear(4, 8))
    >>> _ = insert(net, SubspaceCore(0.5), targets="0")
    >>> [int(layer.preserved) for layer in subspace_layers(net)]
    [2]
    """
    layers = (one for slots in adapter_layers(model).values() for one in slots.values())
    return [layer for layer in layers if isinstance(layer, SubspaceLayer)]


def measure_importance(engine: Engine, task: Task, paths: Sequence[str]) -> dict[str, float]:
    """Compute the mean cosine of what goes into layers and what comes out, over a task's data.

    Returns
    -------
    dict
        By path; layers that were not called, or whose inputs are not rows of a matrix (grouped and
        transposed convolutions, attention), are left out.

    Source
    ------
    arXiv 2504.07097, section 3.
    """
    modules: dict[str, Any] = dict(engine.modules["model"].named_modules())
    chosen = {path: modules[path] for path in paths if can_branch(modules[path])}
    heard: dict[str, LayerImportance] = {}

    def listen(path: str) -> Any:
        def note(module: Any, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
            (x,) = (*inputs, *named.values())
            weight = as_matrix(module, module.weight)
            importance = heard.setdefault(path, LayerImportance(weight))
            importance.add(input_rows(module, x))

        return note

    def sums(brain: Any, batch: Any) -> dict[str, tuple[float, int]]:
        heard.clear()
        brain.compute_forward(batch, sb.Stage.TEST)
        return {path: (float(one.total), one.count) for path, one in heard.items()}

    handles = [
        one.register_forward_pre_hook(listen(path), with_kwargs=True)
        for path, one in chosen.items()
    ]
    try:
        batches = engine.collect(task, sums)
    finally:
        for handle in handles:
            handle.remove()
    totals: dict[str, tuple[float, int]] = {}
    for batch in batches:
        for path, (total, count) in batch.items():
            before = totals.get(path, (0.0, 0))
            totals[path] = (before[0] + total, before[1] + count)
    return {path: total / count for path, (total, count) in totals.items() if count}


def input_rows(module: Any, x: Tensor) -> Tensor:
    """Return what each row of a layer's output is computed from, shape (rows, columns).

    Example
    -------
    >>> import torch
    >>> convolution = nn.Conv1d(2, 1, 3, bias=False)
    >>> x = torch.randn(5, 2, 7)
    >>> y = input_rows(convolution, x) @ convolution.weight.flatten(1).t()
    >>> torch.allclose(y.view(5, 5), convolution(x)[:, 0], atol=1e-6)
    True
    """
    if not hasattr(module, "kernel_size"):
        return x.reshape(-1, x.shape[-1])
    if x.dim() == 1 + len(module.kernel_size):  # a single one, without a batch
        x = x[None]
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        x = functional.pad(
            x,
            module._reversed_padding_repeated_twice,
            mode="constant" if module.padding_mode == "zeros" else module.padding_mode,
        )
        padding: tuple[int, ...] = (0,) * len(module.kernel_size)
    else:
        padding = module.padding
    one = len(module.kernel_size) == 1  # as an image of one row
    sizes = [module.kernel_size, module.dilation, padding, module.stride]
    kernel, dilation, padding, stride = (
        (fill, *size) if one else tuple(size)
        for size, fill in zip(sizes, (1, 1, 0, 1), strict=True)
    )
    images = x[:, :, None] if one else x
    patches = functional.unfold(images, kernel, dilation, padding, stride)
    return patches.movedim(1, -1).flatten(0, -2)
