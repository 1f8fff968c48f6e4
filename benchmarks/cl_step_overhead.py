"""What does a step of a continual-learning method cost, next to a bare PyTorch loop?

The networks of ``engine_overhead.py``, batches of 32, two tasks of one epoch; timed is the second,
where the methods are at work. Every side gets the same batches in the same order and clips the
whole gradient alike. What a method does once, at the end of a task (EWC's pass over 500 clips), is
``once_s``.

The peer is avalanche-lib, where it is installed, in ``others``; so are EWC and LwF written into the
loss of the bare loop, as a user without any library would. ``floor_s`` is the bare step plus five
times the parameters over the memory's bandwidth: what EWC reads (weights, anchor, importance,
gradient) and writes (gradient).

Before a ratio is printed the final weights are compared. The engine's FineTune, EWC and LwF must
equal the bare loop with the penalty written out, and avalanche's Naive, LwF and EWC (given our
importance, since it takes the gradient of whole batches and of the true labels) must equal ours.
"""

import copy
import logging
import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from engine_overhead import (
    BATCH,
    LR,
    MAX_GRAD_NORM,
    MOMENTUM,
    SEED,
    TimedBrain,
    bare,
    clips,
    cnn,
    mlp,
)
from timing import arguments, interleaved, keep_freed_memory, report, seconds
from torch import Tensor, nn

from speechcl import Engine, Method, Training
from speechcl.data.features import FeatureSet
from speechcl.methods import ER, EWC, RWM, SI, DERpp, FineTune, LwF
from speechcl.sampling import EpochBatches
from speechcl.task import Task, make_stream

try:
    from avalanche_peer import Avalanche
except ModuleNotFoundError as error:
    Avalanche, missing = None, error.name

TOLERANCE = 1e-5
STRENGTH, TEMPERATURE = 100.0, 2.0
# ours, and the peer's methods to set beside it
METHODS: dict[str, tuple[Callable[[], Method], list[str]]] = {
    "FineTune": (FineTune, ["Naive"]),
    "EWC": (partial(EWC, strength=STRENGTH), ["EWC", "EWC online"]),
    "SI": (partial(SI, strength=1.0), ["SI"]),
    "LwF": (partial(LwF, strength=1.0, temperature=TEMPERATURE), ["LwF"]),
    "ER": (ER, ["Replay", "A-GEM"]),
    "DERpp": (DERpp, ["DER++"]),
    "RWM": (RWM, []),  # not on the CNN, whose widest layer has 13,312 inputs: P would take 709 MB
}
TARGETS = {("mlp", "EWC"): 1.35, ("mlp", "SI"): 1.35}


def two_tasks(shape: tuple[int, ...], steps: int) -> list[Task]:
    """Two tasks of as many batches."""
    both = clips(shape, 2 * BATCH * steps)
    parts = [both.subset(range(k * len(both) // 2, (k + 1) * len(both) // 2)) for k in range(2)]
    return make_stream([(f"task {k}", part, part) for k, part in enumerate(parts)])


def in_order(task: Task) -> tuple[Tensor, Tensor]:
    """Features and labels of a task as the batches come, for a loop that does not shuffle."""
    data: FeatureSet = task.train
    batches = EpochBatches(len(data), BATCH, seed=SEED * 1009 + task.index)
    order = [place for batch in batches for place in batch]
    return data.features[order], data.labels[order]


class Ours:
    """A method in the engine; a call learns both tasks and returns a step's seconds."""

    def __init__(self, make: Callable[[], Method], born: nn.Module, stream: list[Task]) -> None:
        self.make, self.born, self.stream = make, born, stream
        self.once: list[float] = []

    def __call__(self) -> float:
        """Learn both tasks."""
        self.net, self.method = copy.deepcopy(self.born), self.make()
        with tempfile.TemporaryDirectory() as folder:
            engine = Engine(
                brain=TimedBrain,
                modules={"model": self.net},
                method=self.method,
                stream=self.stream,
                training=Training(
                    partial(torch.optim.SGD, lr=LR, momentum=MOMENTUM),
                    epochs=1,
                    batch_size=BATCH,
                    seed=SEED,
                ),
                folder=Path(folder) / "run",
                run_opts={"noprogressbar": True, "device": "cpu", "max_grad_norm": MAX_GRAD_NORM},
            )
            TimedBrain.took = []
            engine.learn(self.stream[0])
            self.importance = self.kept("importance")  # what the second task is learnt with
            engine.learn(self.stream[1])
            last = partial(self.method.after_task, self.stream[1], engine)
            self.once.append(seconds(last))
        return TimedBrain.took[-1] / (len(self.stream[1].train) // BATCH)

    def kept(self, name: str) -> dict[str, Tensor]:
        """Copies of a penalty's tensors, by the network's own names."""
        tensors = getattr(self.method, name).tensors() if hasattr(self.method, name) else {}
        return {key.removeprefix("model."): value.clone() for key, value in tensors.items()}


class Bare:
    """The plain loop, with a penalty in the second task's loss if there is one.

    ``penalty(born, net)`` gets the network after the first task and the one that learns on.
    """

    def __init__(self, born: nn.Module, stream: list[Task], penalty: Callable | None = None):
        self.born, self.stream, self.penalty = born, stream, penalty

    def __call__(self) -> float:
        """Learn both tasks; return the CPU seconds of a step of the second."""
        self.net = copy.deepcopy(self.born)
        bare(self.net, self.stream[0].train, 1)
        penalty = self.penalty and self.penalty(copy.deepcopy(self.net), self.net)
        return bare(self.net, self.stream[1].train, 1, index=1, penalty=penalty)


def ewc_in_the_loss(importance: dict[str, Tensor], old: nn.Module, net: nn.Module) -> Callable:
    """Kirkpatrick et al., eq. 3."""
    anchor = {name: value.detach() for name, value in old.named_parameters()}

    def penalty(features: Tensor, logits: Tensor) -> Tensor:
        pulls = [(importance[n] * (p - anchor[n]) ** 2).sum() for n, p in net.named_parameters()]
        return STRENGTH / 2 * sum(pulls)

    return penalty


def lwf_in_the_loss(old: nn.Module, net: nn.Module) -> Callable:
    """Li & Hoiem, eqs. 2 and 3."""

    def penalty(features: Tensor, logits: Tensor) -> Tensor:
        with torch.no_grad():
            target = (old(features)[0] / TEMPERATURE).softmax(1)
        return -(target * (logits / TEMPERATURE).log_softmax(1)).sum(1).mean()

    return penalty


def difference(one: nn.Module, other: nn.Module) -> float:
    """Largest difference of any weight."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


def assert_equal(sides: dict[str, Callable], pairs: list[tuple[str, str]]) -> float:
    """Compare final weights; return the largest difference."""
    worst = 0.0
    for one, other in pairs:
        found = difference(sides[one].net, sides[other].net)
        assert found <= TOLERANCE, f"{one} and {other} learnt differently: {found}"
        worst = max(worst, found)
    learnt = [sides[name].net for name in ("bare", "ours EWC", "ours LwF")]
    for k in range(3):
        assert difference(learnt[k], learnt[k - 1]) > 10 * worst, "a penalty did nothing"
    return worst


def make_sides(
    methods: list[str], born: nn.Module, stream: list[Task]
) -> tuple[dict, list[tuple[str, str]]]:
    """Return all sides, each run once, and the pairs that must end with the same weights."""
    sides = {f"ours {name}": Ours(METHODS[name][0], born, stream) for name in methods}
    for side in sides.values():
        side()
    importance = sides["ours EWC"].importance
    sides["bare"] = Bare(born, stream)
    sides["bare EWC"] = Bare(born, stream, partial(ewc_in_the_loss, importance))
    sides["bare LwF"] = Bare(born, stream, lwf_in_the_loss)
    pairs = [("ours FineTune", "bare"), ("ours EWC", "bare EWC"), ("ours LwF", "bare LwF")]
    if Avalanche is not None:
        parts = [in_order(task) for task in stream]
        for name in (peer for method in methods for peer in METHODS[method][1]):
            sides[f"avalanche {name}"] = Avalanche(name, born, parts)
        sides["avalanche our EWC"] = Avalanche("EWC", born, parts, importance)
        pairs += [("avalanche Naive", "bare"), ("avalanche LwF", "ours LwF")]
        pairs += [("avalanche our EWC", "ours EWC")]
    for name, side in sides.items():
        if not name.startswith("ours"):
            side()
    return sides, pairs


def compare(name: str, born: nn.Module, stream: list[Task], repeats: int) -> None:
    """Assert equality, then time all sides in turn and print a line a method."""
    methods = [method for method in METHODS if (name, method) != ("cnn", "RWM")]
    sides, pairs = make_sides(methods, born, stream)
    worst = assert_equal(sides, pairs)
    sides.pop("avalanche our EWC", None)
    found = interleaved(sides, repeats)
    base = statistics.median(found["bare"])
    parameters = sum(p.numel() for p in born.parameters())
    floor_s = base + 5 * 4 * parameters / bytes_per_second()
    sizes = {
        "parameters": parameters,
        "batch": BATCH,
        "steps": len(stream[1].train) // BATCH,
    }
    for method in methods:
        others = [f"avalanche {peer}" for peer in METHODS[method][1]] + [f"bare {method}"]
        report(
            f"cl_step_overhead_{name}_{method}",
            sizes,
            found[f"ours {method}"],
            found["bare"],
            TARGETS.get((name, method)),
            floor_s=float(f"{floor_s:.4g}") if method == "EWC" else None,
            once_s=median_s(sides[f"ours {method}"].once),
            others={
                other: {
                    "ratio": round(statistics.median(found[other]) / base, 3),
                    "once_s": median_s(getattr(sides[other], "once", [])),
                }
                for other in others
                if other in found
            },
            largest_difference=worst,
        )


def bytes_per_second() -> float:
    """Read and write bandwidth of a large copy."""
    source, target = torch.ones(2**24), torch.ones(2**24)
    return 2 * 4 * len(source) / min(seconds(lambda: target.copy_(source)) for _ in range(9))


def median_s(values: list[float]) -> float | None:
    """Median to four digits."""
    return float(f"{statistics.median(values):.4g}") if values else None


def main() -> None:
    quick = arguments(__doc__).quick
    keep_freed_memory()
    logging.disable(logging.WARNING)
    warnings.showwarning = lambda *_, **__: None  # avalanche's, at every step
    if Avalanche is None:
        print(f"avalanche-lib is left out: {missing} is not installed", file=sys.stderr)
    for name, make, shape, steps, repeats in [
        ("mlp", mlp, (784,), 100, 11),
        ("cnn", cnn, (64, 100), 10, 7),
    ]:
        torch.manual_seed(SEED)
        stream = two_tasks(shape, 3 if quick else steps)
        compare(name, make(), stream, repeats=1 if quick else repeats)


if __name__ == "__main__":
    main()
