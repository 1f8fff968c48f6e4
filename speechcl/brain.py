"""One task's training: SpeechBrain's Brain with the hooks of a method in it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import speechbrain as sb
import torch
from speechbrain.utils.distributed import if_main_process
from torch import Tensor, nn
from tqdm import tqdm

from speechcl.checkpoints import RandomState, seed_everything
from speechcl.method import Method, Step
from speechcl.parallel import share, world
from speechcl.task import Task

# factor of the learning rate, by progress through a task in [0, 1)
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "cosine": lambda progress: (1 + math.cos(math.pi * progress)) / 2,
}


class ContinualBrain(sb.Brain):
    """One task's training; problem brains say what a forward pass, a loss and a score are.

    A problem brain adds ``compute_forward``, ``task_loss``, ``score`` and ``measure``, and for the
    methods that need them ``logits``, ``features`` and ``targets``.

    Arguments
    ---------
    task : Task
        What is learnt.
    method : Method
        How.
    raw : nn.ModuleDict
        The bare modules; ``self.modules`` may hold them wrapped for several processes.
    planned_steps : int
        Optimizer steps this task will take.
    schedule : str
        The learning rate within a task, one of ``SCHEDULES``; it multiplies what a method's
        parameter group sets as ``lr``, or the optimizer's own times the group's ``lr_scale``.
    tasks : int
        Length of the stream, for the progress bar.
    folder : Path, optional
        Where to leave what people may want to look at while it trains.
    on_start, after_batch, after_epoch : Callable
        Called when a fresh fit is ready to train, with the number of steps done after each, and
        with ``("train" or "valid", epoch, loss)`` after each epoch.
    """

    metric = "loss"
    higher_is_better = False

    def __init__(
        self,
        *,
        task: Task,
        method: Method,
        raw: nn.ModuleDict,
        planned_steps: int = 0,
        schedule: str = "constant",
        tasks: int = 1,
        folder: Path | None = None,
        on_start: Callable[[], None] | None = None,
        after_batch: Callable[[int], None] | None = None,
        after_epoch: Callable[[str, int, float], None] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(modules=raw, **kwargs)
        self.task, self.method, self.raw = task, method, raw
        self.planned_steps, self.tasks, self.folder = planned_steps, tasks, folder
        self.schedule = SCHEDULES[schedule]
        self.on_start, self.after_batch, self.after_epoch = on_start, after_batch, after_epoch
        self.now: Step
        self.bar: tqdm | None = None
        self.scores: list[Tensor] = []
        self.epoch_begins = True
        self.clipped: dict[str, list[Tensor]] = defaultdict(list)  # clipped together
        self.train_set: Any = None  # told which epoch it is, if it wants to know

    # ---- what a problem brain adds
    def task_loss(self, outputs: Any, batch: Any, stage: sb.Stage) -> Tensor:
        """Return the problem's own loss, a mean over the batch."""
        raise NotImplementedError(f"{type(self).__name__} has no task_loss")

    def soft_loss(self, outputs: Any, shares: Tensor) -> Tensor:
        """Return the loss of items that belong to classes in shares (batch, classes), a mean."""
        raise NotImplementedError(f"{type(self).__name__} has no soft_loss: its items do not mix")

    def score(self, outputs: Any, batch: Any) -> Tensor:
        """Return one number per item, shape (batch,)."""
        raise NotImplementedError(f"{type(self).__name__} has no score")

    def measure(self, scores: numpy.ndarray, dataset: Any) -> float:
        """Return the metric of a test set from its items' scores."""
        raise NotImplementedError(f"{type(self).__name__} has no measure")

    def score_rows(self, scores: numpy.ndarray, task: Task) -> list[dict]:
        """Return a row an item for the scores file; none where scores mean nothing by item."""
        return []

    def average_interval(self, pairs: list[tuple[Task, numpy.ndarray]]) -> list[float] | None:
        """Return the 95 % interval of the average over tasks, from all items' scores, if known."""
        return None

    def targets(self, batch: Any) -> Tensor:
        """Return the targets of a batch, one row an item."""
        raise NotImplementedError(f"{type(self).__name__} has no targets")

    def to_device(self, batch: Any) -> Any:
        """Move the tensors of a dictionary to the brain's device."""
        if self.device == "cpu":
            return batch
        return {key: value.to(self.device, non_blocking=True) for key, value in batch.items()}

    def print_trainable_parameters(self) -> None:
        """Log how much is trained; where nothing is, as in measuring, there is nothing to say."""
        if any(p.requires_grad for p in self.modules.parameters()):
            super().print_trainable_parameters()

    def learners(self) -> nn.ModuleDict:
        """Return the modules that the method may train; all, but for those of an adversary."""
        return self.raw

    # ---- the training step, with the method's hooks
    def fit_batch(self, batch: Any) -> Tensor:
        """Let the method choose the batch, then train on it."""
        batch = self.to_device(batch)
        self.now = Step(
            self.task,
            self,
            self.raw,
            incoming=batch,
            batch=batch,
            index=self.optimizer_step,
            total=self.planned_steps,
        )
        if self.epoch_begins:
            self.epoch_begins = False
            keep_frozen_in_eval(self.raw)
        batch = self.now.batch = self.method.before_batch(self.now)
        # SpeechBrain's step without the scaler and the accumulation, which the engine refuses
        self.on_fit_batch_start(batch, True)
        with self.training_ctx:
            outputs = self.compute_forward(batch, sb.Stage.TRAIN)
            loss = self.compute_objectives(outputs, batch, sb.Stage.TRAIN)
        self.check_loss_isfinite(loss)
        loss.backward()
        self.optimizers_step()
        self.on_fit_batch_end(batch, outputs, loss, True)
        if self.bar is not None:
            self.bar.update()
        if self.after_batch is not None:
            self.after_batch(self.optimizer_step)
        return loss.detach()

    def compute_objectives(self, predictions: Any, batch: Any, stage: sb.Stage) -> Tensor:
        """Return the method's loss in training, the problem's own otherwise."""
        if stage is not sb.Stage.TRAIN:
            return self.task_loss(predictions, batch, stage)
        self.now.outputs = predictions
        self.now.task_loss = partial(self.task_loss, predictions, batch, stage)
        loss = self.method.loss(self.now)
        if world()[1] > 1:
            loss = loss * share(len(self.targets(batch)), loss.device)
        return loss

    def optimizers_step(self) -> None:
        """Hooks, clipping over all groups (SpeechBrain clips the first only), step."""
        self.method.after_backward(self.now)
        for parameters in self.clipped.values():
            nn.utils.clip_grad_norm_(parameters, self.max_grad_norm, foreach=True)
        factor = self.schedule(self.now.index / max(self.planned_steps, 1))
        for group in self.optimizer.param_groups:
            group["lr"] = factor * group["full_lr"]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.optimizer_step += 1
        self.method.after_step(self.now)

    def check_loss_isfinite(self, loss: Tensor) -> None:
        """Stop at the first loss that is not a number: stepping on would ruin the weights."""
        value = loss.item()
        if not math.isfinite(value):
            raise ValueError(
                f"the loss became {value} in task '{self.task.name}' at step "
                f"{self.optimizer_step}: lower lr, or check the features of this task"
            )

    def update_average(self, loss: Tensor, avg_loss: float) -> float:
        """Return the running mean of the epoch's losses, as SpeechBrain's but without tensors."""
        value = loss.item()
        if math.isfinite(value):
            avg_loss -= avg_loss / self.step
            avg_loss += value / self.step
        return avg_loss

    def init_optimizers(self) -> None:
        """Give the optimizer what the method wants trained; groups of one ``clip`` share a norm."""
        self.clipped.clear()
        groups = self.method.param_groups(self.learners())
        self.optimizer = self.opt_class(groups)
        for group in self.optimizer.param_groups:
            group["full_lr"] = group["lr"] * group.pop("lr_scale", 1.0)
            self.clipped[group.pop("clip", "")] += group["params"]
        self.optimizers_dict = {"optimizer": self.optimizer}
        if self.checkpointer is not None:
            self.checkpointer.add_recoverable("optimizer", self.optimizer)

    # ---- stages
    def on_fit_start(self) -> None:
        """Wrap, make the optimizer, then load the newest checkpoint or announce a fresh start."""
        super().on_fit_start()
        fresh = self.checkpointer is None or self.checkpointer.find_checkpoint() is None
        if fresh and self.on_start is not None:
            self.on_start()

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        """Continue an interrupted epoch where it stopped; open the progress bar."""
        if stage is sb.Stage.TEST:
            self.scores = []
        if stage is not sb.Stage.TRAIN:
            return
        self.epoch_begins = True
        self.train_sampler.start = self.step
        if hasattr(self.train_set, "set_epoch"):
            self.train_set.set_epoch(epoch)
        name = f"task {self.task.index + 1}/{self.tasks} {self.task.name}, epoch {epoch}"
        if self.bar is None:
            self.bar = tqdm(
                desc=name,
                total=self.planned_steps,
                initial=self.optimizer_step,
                disable=self.noprogressbar or not if_main_process(),
                dynamic_ncols=True,
                leave=False,
                unit="step",
            )
        self.bar.set_description(name, refresh=False)

    def on_stage_end(self, stage: sb.Stage, stage_loss: float, epoch: int | None = None) -> None:
        """Report the epoch."""
        if stage is sb.Stage.TEST or epoch is None:
            return
        if stage is sb.Stage.TRAIN:
            assert self.bar is not None
            self.bar.set_postfix(loss=f"{stage_loss:.4f}", refresh=False)
            # SpeechBrain resets these after this call: a checkpoint made in it must see them reset
            self.step, self.avg_train_loss = 0, 0.0
        if self.after_epoch is not None:
            self.after_epoch(stage.name.lower(), epoch, stage_loss)

    def close(self) -> None:
        """Close the progress bar."""
        if self.bar is not None:
            self.bar.close()

    def on_evaluate_start(self, max_key: str | None = None, min_key: str | None = None) -> None:
        """Load nothing: the weights under test are those in memory."""

    def evaluate_batch(self, batch: Any, stage: sb.Stage) -> Tensor:
        """Score the items of a test batch; return the loss of another, always with like draws."""
        if stage is not sb.Stage.TEST:
            with same_draws(self.step):
                loss = super().evaluate_batch(self.to_device(batch), stage)
            self.check_loss_isfinite(loss)
            return loss
        batch = self.to_device(batch)
        with self.evaluation_ctx:
            outputs = self.compute_forward(batch, stage)
        self.scores.append(self.score(outputs, batch).detach().float().cpu())
        return torch.zeros(())


@contextmanager
def same_draws(seed: int) -> Iterator[None]:
    """Draw what the seed says for a while, and leave all generators as they were.

    Example
    -------
    >>> before = torch.get_rng_state()
    >>> with same_draws(1):
    ...     first = torch.rand(2)
    >>> with same_draws(1):
    ...     print(torch.equal(first, torch.rand(2)), torch.equal(before, torch.get_rng_state()))
    True False
    """
    random = RandomState()
    before = random.capture()
    seed_everything(seed)
    try:
        yield
    finally:
        random.restore(before)


def keep_frozen_in_eval(modules: nn.Module) -> None:
    """Put fully frozen submodules in eval mode, so that running statistics stay as they are.

    Example
    -------
    >>> norm = nn.BatchNorm1d(2).requires_grad_(False)
    >>> keep_frozen_in_eval(nn.ModuleDict({"norm": norm, "head": nn.Linear(2, 1)}))
    >>> norm.training
    False
    """
    for module in modules.modules():
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            module.eval()
