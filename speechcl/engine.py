"""Runs a method over a stream of tasks and fills the score matrix."""

from __future__ import annotations

import functools
import logging
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy
import torch
from speechbrain.utils.epoch_loop import EpochCounter
from torch import distributed, nn
from torch.utils.data import DataLoader, Dataset

from speechcl.brain import SCHEDULES, ContinualBrain, same_draws
from speechcl.checkpoints import (
    AtomicCheckpointer,
    ModuleState,
    RandomState,
    Stopwatch,
    seed_everything,
)
from speechcl.early_stopping import EarlyStopping
from speechcl.memory.snapshot import evaluating
from speechcl.method import Method
from speechcl.metrics import continual_summary, online_summary
from speechcl.parallel import world
from speechcl.results import SCHEMA_VERSION
from speechcl.run_folder import RunFolder, peak_rss_mb, versions
from speechcl.sampling import EpochBatches
from speechcl.task import Task, check_stream

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """How every task is trained.

    Arguments
    ---------
    optimizer : Callable
        Makes the optimizer from parameter groups, for example ``partial(SGD, lr=0.02)``.
    epochs : int
        Passes over each task's data.
    batch_size : int
        Items a step, over all processes together.
    seed : int
        Decides order and every other draw.
    schedule : str
        The learning rate within a task: "constant", or "cosine" from its full value down to zero.
    workers : int
        Processes that load data.
    checkpoint_interval_s : float
        Seconds between checkpoints at ends of epochs; each task's start and end are always kept.
        Inside an epoch SpeechBrain's ``--ckpt_interval_minutes`` or ``_steps`` decides.
    task_known : bool
        Whether the method is told which task a test item belongs to.
    anytime_every : int, optional
        Measure the tasks so far after every so many steps, too, as a stream that is learnt in one
        pass has no moment at which it is done. Counts as training time.
    patience : int, optional
        A task ends after so many epochs in a row without a smaller loss on its validation data,
        and the weights of its best epoch are put back. A task without such data takes all epochs.

    Example
    -------
    >>> Training(optimizer=torch.optim.SGD, epochs=3).batch_size
    32
    """

    optimizer: Callable[..., torch.optim.Optimizer]
    epochs: int = 20
    batch_size: int = 32
    seed: int = 1
    schedule: str = "constant"
    workers: int = 0
    checkpoint_interval_s: float = 30.0
    task_known: bool = False
    anytime_every: int | None = None
    patience: int | None = None

    def __post_init__(self) -> None:
        """Refuse a training that would train nothing."""
        if self.epochs < 1 or self.batch_size < 1:
            raise ValueError(
                f"epochs is {self.epochs} and batch_size {self.batch_size}: both must be at least 1"
            )
        if self.patience is not None and self.patience < 1:
            raise ValueError(
                f"patience is {self.patience}: wait for one epoch or more, or use null"
            )
        if self.anytime_every is not None and self.anytime_every < 1:
            raise ValueError(
                f"anytime_every is {self.anytime_every}: measure after 1 step or more, or use null"
            )
        if self.schedule not in SCHEDULES:
            known = " or ".join(SCHEDULES)
            raise ValueError(f"schedule is '{self.schedule}': choose {known}")


class Engine:
    """Runs a method over a stream; fills the matrix R[i][j]: trained on tasks 0..i, tested on j.

    Per task: seed, ``before_task``, a fresh brain with its own checkpoint folder, fit,
    ``after_task``, save, evaluate on every task. The same call after a kill goes on where the run
    stopped and ends with the same numbers.

    Training data that have a method ``batches(batch_size, seed)`` give their own order, which has
    the interface of EpochBatches and as many batches in every epoch.

    Arguments
    ---------
    brain : Callable
        A ContinualBrain class, or a partial of one.
    modules : dict
        The modules to train, by name.
    method : Method
        The continual-learning method.
    stream : Sequence
        The tasks in order of learning.
    training : Training
        How each is trained.
    folder : Path
        The run folder.
    run_opts : RunOptions or dict
        SpeechBrain's: device, precision, and so on.
    about : dict
        Further fields of results.json: recipe, notes, examples.
    """

    def __init__(
        self,
        *,
        brain: Callable[..., ContinualBrain],
        modules: dict[str, nn.Module],
        method: Method,
        stream: Sequence[Task],
        training: Training,
        folder: Path | str,
        run_opts: Any = None,
        about: dict[str, Any] | None = None,
    ) -> None:
        check_stream(stream)
        self.stream, self.method, self.training = list(stream), method, training
        self.run_opts = check_run_opts(run_opts)
        self.make_brain, self.about = brain, dict(about or {})
        self.modules = nn.ModuleDict(modules)
        self.folder = RunFolder(folder)
        self.progress = self.folder.progress()
        self.evaluator = self._brain(self.stream[0])
        self.device = torch.device(self.evaluator.device)
        self.method.to(self.device)

    def _settings(self) -> str:
        names = ", ".join(task.name for task in self.stream)
        return f"{type(self.method).__name__} on {names} with {self.training}"

    def run(self) -> dict[str, Any]:
        """Learn the whole stream, from wherever an earlier run stopped; return the results."""
        progress = self.progress
        settings = self._settings()
        if progress.setdefault("settings", settings) != settings:
            raise ValueError(
                f"{self.folder.path} holds a run of {progress['settings']}, not of {settings}: "
                "give another folder, or delete it"
            )
        first, prepared = self.resume()
        if first == len(self.stream) == len(progress["matrix"]) and self.folder.has_results():
            return self.folder.results()
        for name in ("matrix", "train_seconds"):  # a damaged checkpoint may have been skipped
            progress[name] = progress[name][:first]
        if progress["zero_shot"] is None:
            progress["zero_shot"], _ = self.evaluate()
            self.folder.keep_progress(progress)
        if first > len(progress["matrix"]):  # killed between the end of a task and its scores
            self._record(self.stream[first - 1], progress)
        for task in self.stream[first:]:
            self.learn(task, prepared)
            self._record(task, progress)
            prepared = False
        results = self.results(progress)
        self.folder.keep_results(results)
        return results

    def resume(self) -> tuple[int, bool]:
        """Rebuild the newest state.

        Returns
        -------
        tuple
            The task to run next, and whether its ``before_task`` is already done.
        """
        for task in reversed(self.stream):
            keeper = self._keeper(task)
            keeper.sweep()
            found = keeper.find_checkpoint()
            if found is None:
                continue
            logger.info("going on after task %d (%s)", task.index, task.name)
            self.method.build(self.modules, found.meta["structure"])  # shapes first ...
            self.method.to(self.device)
            self.modules.to(self.device)
            keeper.load_checkpoint(found)  # ... then the tensors, which may be trained on
            if not found.meta["done"]:
                return task.index, True  # order, optimizer and draws follow when the fit starts
            return task.index + 1, False
        return 0, False

    def learn(self, task: Task, prepared: bool = False) -> None:
        """Train on one task and keep the result; ``prepared`` skips ``before_task``."""
        found = self._keeper(task).find_checkpoint() if prepared else None
        watch = Stopwatch(before_s=found.meta["seconds"] if found else 0.0)
        self.folder.event("task_resume" if prepared else "task_start", task=task.name)
        seed_everything(self.training.seed + task.index)
        if not prepared:
            self.method.before_task(task, self)
        self.method.to(self.device)
        self.modules.to(self.device)
        trained = sum(p.numel() for p in self.modules.parameters() if p.requires_grad)
        if trained:
            self._fit(task, watch)
        self.method.after_task(task, self)
        done = self._keeper(task, seconds=watch.seconds, done=True, trained=trained)
        done.save_and_keep_only()
        self.folder.event("task_end", task=task.name, seconds=round(watch.seconds(), 2))

    def evaluate(
        self, tasks: Sequence[Task] | None = None
    ) -> tuple[list[float], list[numpy.ndarray]]:
        """Measure tasks, by default all, with the present weights; return metrics and scores."""
        self.method.before_measuring(self)
        self.evaluator = self._brain(self.stream[0])  # a method may have replaced a module
        values, scores = [], []
        for task in self.stream if tasks is None else tasks:
            self.method.before_eval(task if self.training.task_known else None)
            self.evaluator.evaluate(self._loader(task.test), progressbar=False)
            scores.append(torch.cat(self.evaluator.scores).double().numpy())
            values.append(self.evaluator.measure(scores[-1], task.test))
        return values, scores

    @torch.no_grad()
    def collect(self, task: Task, fn: Callable[[ContinualBrain, Any], Any]) -> list[Any]:
        """Sweep ``fn(brain, batch)`` over a task's plain training data in eval mode.

        Returns
        -------
        list
            One result a batch, in order, gathered over processes.
        """
        rank, processes = world()
        self.evaluator = self._brain(task)
        self.modules.eval()
        found = []
        data = plain(self.method.train_set(task, self.stream))
        for number, batch in enumerate(self._loader(data)):
            if number % processes == rank:
                found.append((number, fn(self.evaluator, self.evaluator.to_device(batch))))
        if processes > 1:
            parts: list = [None] * processes
            distributed.all_gather_object(parts, found)
            found = sorted((pair for part in parts for pair in part), key=lambda pair: pair[0])
        return [value for _, value in found]

    def probe(self, task: Task) -> tuple[ContinualBrain, Any]:
        """Return a brain and the first batch of a task's plain training data, to try things on."""
        self.evaluator = self._brain(task)
        return self.evaluator, self.evaluator.to_device(next(iter(self._loader(plain(task.train)))))

    def results(self, progress: dict[str, Any]) -> dict[str, Any]:
        """Put together results.json."""
        matrix, better = progress["matrix"], self.evaluator.higher_is_better
        anytime = progress.get("anytime")
        return {
            "schema": SCHEMA_VERSION,
            "recipe": "library",
            "method": type(self.method).__name__,
            "seed": self.training.seed,
            "stream": [task.name for task in self.stream],
            "metric": self.evaluator.metric,
            "higher_is_better": better,
            "matrix": matrix,
            "zero_shot": progress["zero_shot"],
            "summary": continual_summary(matrix, better, progress["zero_shot"]),
            "average_interval": progress["average_interval"],
            "trainable_parameters": progress["trainable_parameters"],
            "memory_bytes": self.method.memory_bytes(self.stream),
            "train_seconds": progress["train_seconds"],
            "peak_rss_mb": peak_rss_mb(),
            "versions": versions(),
            "command": shlex.join(["python", *sys.argv]),
            **({"online": online_summary(matrix, anytime, better)} if anytime else {}),
            **self.about,
        }

    # ---- below: one task's pieces
    def _measure_amid(self, task: Task, step: int) -> None:
        """Measure the tasks so far and leave everything as it was; a resume finds the same."""
        with same_draws(step), evaluating(self.modules):
            values, _ = self.evaluate(self.stream[: task.index + 1])
        self.progress.setdefault("anytime", {})[f"task {task.index} step {step}"] = values
        self.folder.keep_progress(self.progress)

    def _record(self, task: Task, progress: dict[str, Any]) -> None:
        values, scores = self.evaluate()
        pairs = list(zip(self.stream, scores, strict=True))
        rows = [row for task, each in pairs for row in self.evaluator.score_rows(each, task)]
        self.folder.keep_scores(task.index, rows)
        found = self._keeper(task).find_checkpoint()
        progress["matrix"].append(values)
        progress["train_seconds"].append(round(found.meta["seconds"], 3))
        progress["trainable_parameters"] = found.meta["trained"]
        if task is self.stream[-1]:
            progress["average_interval"] = self.evaluator.average_interval(pairs)
        self.folder.keep_progress(progress)
        named = {t.name: value for t, value in zip(self.stream, values, strict=True)}
        self.folder.event("scores", task=task.name, metric=self.evaluator.metric, scores=named)
        shown = "  ".join(f"{name} {value:.1f}" for name, value in named.items())
        logger.info("after task %d (%s): %s", task.index, task.name, shown)

    def _fit(self, task: Task, watch: Stopwatch) -> None:
        data = self.method.train_set(task, self.stream)
        make = getattr(data, "batches", None) or functools.partial(EpochBatches, len(data))  # type: ignore[arg-type]
        batches = make(self.training.batch_size, seed=self.training.seed * 1009 + task.index)
        valid = self._valid_set(task)
        counter = self._counter(task, valid)
        keeper = self._keeper(task, seconds=watch.seconds)
        keeper.add_recoverables({"epoch": counter, "random": RandomState()})
        saved_at = Stopwatch()

        def keep(epoch: int | None) -> None:
            nonlocal saved_at
            if epoch is None or _agreed(saved_at.seconds() > self.training.checkpoint_interval_s):
                keeper.save_and_keep_only()
                saved_at = Stopwatch()

        def after_batch(step: int) -> None:
            if self.training.anytime_every and step % self.training.anytime_every == 0:
                self._measure_amid(task, step)

        def after_epoch(stage: str, epoch: int, loss: float) -> None:
            self.folder.epoch(task.name, stage, epoch, loss)
            if stage == "valid" and isinstance(counter, EarlyStopping):
                counter.see(epoch, _agreed(loss))
            if stage == ("train" if valid is None else "valid"):
                keep(epoch)

        brain = self._brain(
            task,
            opt_class=self.training.optimizer,
            checkpointer=keeper,
            planned_steps=self.training.epochs * len(batches),
            schedule=self.training.schedule,
            folder=self.folder.path / "examples",
            on_start=lambda: keep(None),
            after_batch=after_batch,
            after_epoch=after_epoch,
        )
        brain.train_sampler, brain.train_set = batches, data
        away = not getattr(data, "resident", False)  # from the model
        # its own generator: making an iterator then draws nothing from the global one
        loader = DataLoader(
            data,
            batch_sampler=batches,
            num_workers=self.training.workers if away else 0,
            pin_memory=away and self.device.type == "cuda",  # a GPU then reads while it works
            collate_fn=getattr(data, "collate", None),
            generator=torch.Generator().manual_seed(batches.seed),
        )
        held_out = None if valid is None else self._loader(valid)
        brain.fit(counter, loader, held_out, progressbar=False)
        brain.close()
        if isinstance(counter, EarlyStopping):
            counter.put_back()
            best, last = counter.best_epoch, counter.current
            logger.info("%s: epoch %d of %d was the best", task.name, best, last)
            self.folder.event("best_epoch", task=task.name, epoch=best, loss=counter.best_loss)

    def _valid_set(self, task: Task) -> Dataset | None:
        """Return what the method would train on, were validation data there to train on."""
        if task.valid is None:
            return None
        held: list[Task] = []
        for seen in self.stream[: task.index + 1]:
            if seen.valid is not None:
                held.append(replace(seen, index=len(held), train=seen.valid))
        return self.method.train_set(held[-1], held)

    def _counter(self, task: Task, valid: Dataset | None) -> EpochCounter:
        epochs, patience = self.training.epochs, self.training.patience
        if patience is None:
            return EpochCounter(epochs)
        if valid is None:
            logger.info("%s has no validation data: it takes all %d epochs", task.name, epochs)
            return EpochCounter(epochs)
        return EarlyStopping(epochs, patience, self.modules)

    def _keeper(
        self,
        task: Task,
        seconds: Callable[[], float] = float,
        done: bool = False,
        trained: int = 0,
    ) -> AtomicCheckpointer:
        return AtomicCheckpointer(
            self.folder.save / f"task_{task.index:02d}",
            {"modules": ModuleState(self.modules), "method": ModuleState(self.method)},
            lambda: {
                "structure": self.method.structure(),
                "seconds": seconds(),
                "done": done,
                "trained": trained,
            },
        )

    def _brain(self, task: Task, **kwargs: Any) -> ContinualBrain:
        return self.make_brain(
            task=task,
            method=self.method,
            raw=self.modules,
            tasks=len(self.stream),
            run_opts=self.run_opts,
            **kwargs,
        )

    def _loader(self, data: Dataset | None) -> DataLoader:
        if data is None:
            raise ValueError("every task needs test data to be measured on: give Task(test=...)")
        collate = getattr(data, "collate", None)
        return DataLoader(data, batch_size=max(64, self.training.batch_size), collate_fn=collate)


def plain(data: Any) -> Any:
    """Return data as they are: an epoch's crops and augmentation would not survive a resume.

    Example
    -------
    >>> plain([1, 2])
    [1, 2]
    """
    return data.plain() if hasattr(data, "plain") else data


def _agreed(value: Any) -> Any:
    """Return the main process's value in every process."""
    if world()[1] == 1:
        return value
    values = [value]
    distributed.broadcast_object_list(values, src=0)
    return values[0]


def check_run_opts(run_opts: Any) -> dict[str, Any]:
    """Refuse run options under which the hooks would see wrong gradients.

    Raises
    ------
    ValueError
        For fp16, gradient accumulation, and a GPU that is not there.

    Example
    -------
    >>> check_run_opts({"precision": "bf16"})
    {'precision': 'bf16'}
    """
    options = dict(run_opts or {})
    if "fp16" in (options.get("precision"), options.get("eval_precision")) or options.get(
        "auto_mix_prec"
    ):
        raise ValueError(
            "precision fp16 scales gradients while methods read and change them: "
            "use --precision=bf16, or fp32"
        )
    if "cuda" in (options.get("device") or "") and not torch.cuda.is_available():
        raise ValueError(f"device is {options['device']} but torch sees no GPU: use --device=cpu")
    if options.get("grad_accumulation_factor", 1) != 1:
        raise ValueError(
            "grad_accumulation_factor must be 1, since methods see one batch per optimizer step: "
            "set batch_size instead"
        )
    return options
