"""What does a training step of OWM, RWM and ER cost, next to plain fine-tuning?

On LCNN (269,729 parameters) and StatisticsNet, batch 32. Every method first learns a short task,
which must leave the very weights of fine-tuning, and its projectors must equal an fp64 recursion
over the inputs of the same task. Then the second task's steps, where gradients are turned, are
timed, one step of each method in turn. ER replays 16 clips, so its batch is half as large again.

Further fields: ``memory_bytes`` that the method keeps between tasks (of RWM and OWM the projectors
alone) and, on the largest input, ``peak_rss_growth_mb``: how much more memory a whole run of the
method takes than one of fine-tuning, each in a process of its own.
"""

import functools
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import speechbrain as sb
import torch
from timing import arguments, interleaved, keep_freed_memory, report, seconds
from torch import nn

from speechcl import Engine, Method, Training
from speechcl.backbones import LCNN, StatisticsNet
from speechcl.brains import DetectionBrain
from speechcl.data.features import FeatureSet
from speechcl.methods import ER, OWM, RWM, FineTune
from speechcl.methods.projection import mean_rows
from speechcl.task import make_stream

BATCH, BATCHES, TOLERANCE = 32, 2, 1e-6
METHODS: dict[str, Callable[[], Method]] = {
    "FineTune": FineTune,
    "OWM": OWM,
    "RWM": RWM,
    "ER": lambda: ER(capacity=64, replay=16),
}
# network, shape of an item, steps timed at once
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "lcnn_404": (LCNN, (404, 60), 1),
    "lcnn_100": (LCNN, (100, 60), 1),
    "statistics_net": (StatisticsNet, (90,), 100),
}
TARGETS = {"RWM": 1.3}


def clips(seed: int, shape: tuple[int, ...]) -> FeatureSet:
    """Two batches of random features."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(BATCH * BATCHES, *shape, generator=generator)
    rows = [{"label": ("bonafide", "spoof", "spoof")[i % 3]} for i in range(len(features))]
    return FeatureSet(features, rows)


def engine(case: str, method: str, folder: Path) -> Engine:
    """Put together a run of two tasks."""
    torch.manual_seed(0)
    network, shape, _ = CASES[case]
    tasks = [(f"task {k}", clips(k, shape), clips(k, shape)) for k in range(2)]
    return Engine(
        brain=DetectionBrain,
        modules={"model": network()},
        method=METHODS[method](),
        stream=make_stream(tasks),
        training=Training(
            functools.partial(torch.optim.SGD, lr=0.01, momentum=0.9),
            epochs=1,
            batch_size=BATCH,
            seed=0,
        ),
        folder=folder,
        run_opts={"noprogressbar": True, "device": "cpu"},
    )


class Steps:
    """Learns the first task, then takes steps of the second one on demand."""

    def __init__(self, case: str, method: str, folder: Path) -> None:
        self.engine = engine(case, method, folder)
        task = self.engine.stream[1]
        self.rows: dict[str, list[torch.Tensor]] = {}
        handles = self.listen() if isinstance(self.engine.method, OWM) else []
        self.engine.learn(self.engine.stream[0])
        for handle in handles:
            handle.remove()
        self.learnt = {k: v.clone() for k, v in self.engine.modules.state_dict().items()}
        self.engine.method.before_task(task, self.engine)
        self.brain = self.engine._brain(task, opt_class=self.engine.training.optimizer)
        self.brain.on_fit_start()
        self.brain.train_sampler = self
        self.brain.on_stage_start(sb.Stage.TRAIN, 1)
        self.brain.modules.train()
        self.batch = task.train.__getitems__(list(range(BATCH)))

    def listen(self) -> list:
        """Keep the rows that the protected layers see while the first task is learnt."""

        def hook(layer, inputs, key):
            if torch.is_grad_enabled():
                self.rows.setdefault(key, []).append(mean_rows(layer, inputs[0].detach()))

        return [
            layer.register_forward_pre_hook(functools.partial(hook, key=name.replace(".", "/")))
            for name, layer in self.engine.modules.named_modules()
            if isinstance(layer, nn.Conv2d | nn.Linear)
        ]

    def __call__(self) -> None:
        """Take one step of the second task."""
        self.brain.step += 1
        self.brain.fit_batch(self.batch)

    def difference_from_fp64(self) -> float:
        """Compare each projector with ``inverse(I + X'X / alpha)`` in fp64, from all rows at once.

        A convolution has a row an output position and batch, a Linear one a batch.
        """
        worst = 0.0
        for key, heard in self.rows.items():
            projector = self.engine.method.projectors[key]
            rows = torch.cat(heard).double()
            gram = rows.T @ rows / projector.alpha
            exact = torch.linalg.inv(gram + torch.eye(len(gram), dtype=gram.dtype))
            worst = max(worst, float((projector.matrix() - exact).abs().max()))
        return worst


def peak_rss_mb(case: str, method: str) -> float:
    """Peak memory of a whole run in a process of its own."""
    command = [sys.executable, __file__, "--peak", case, method]
    # large blocks always go back to the system, else the peak hangs on the heap's layout
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, check=True, capture_output=True, env=environment)
    return float(done.stdout)


def print_peak(case: str, method: str) -> None:
    """Run both tasks and print the peak."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        ours = engine(case, method, Path(folder) / "run")
        for task in ours.stream:
            ours.learn(task)
    # not ru_maxrss, which a process inherits from the one that started it
    status = Path("/proc/self/status").read_text()
    print(int(status.split("VmHWM:")[1].split()[0]) / 1024)


def compare(case: str, folder: Path, quick: bool) -> None:
    """Assert equality, then time one network with every method."""
    sides = {method: Steps(case, method, folder / f"{case}-{method}") for method in METHODS}
    for method, side in sides.items():
        same = all(torch.equal(v, sides["FineTune"].learnt[k]) for k, v in side.learnt.items())
        assert same, f"{method} changed the first task"
    worst = sides["OWM"].difference_from_fp64()
    assert worst <= TOLERANCE, f"a projector is {worst} away from fp64"
    for key, projector in sides["OWM"].engine.method.projectors.items():
        assert torch.equal(projector.away, sides["RWM"].engine.method.projectors[key].away)
    times = 1 if quick else CASES[case][2]
    found = interleaved(
        {name: lambda s=side: seconds(s, times) for name, side in sides.items()},
        repeats=1 if quick else 7,
    )
    peaks = {}
    if quick or case == "lcnn_404":
        peaks = {method: peak_rss_mb(case, method) for method in METHODS}
    for method in ("RWM", "OWM", "ER"):
        one = sides[method].engine
        report(
            f"method_step_{case}_{method}",
            {"input": CASES[case][1], "batch": BATCH},
            found[method],
            found["FineTune"],
            TARGETS.get(method) if case.startswith("lcnn") else None,
            memory_bytes=one.method.memory_bytes(one.stream),
            peak_rss_growth_mb=round(peaks[method] - peaks["FineTune"], 1) if peaks else None,
            largest_difference_from_fp64=worst,
        )


def main() -> None:
    quick = arguments(__doc__).quick
    keep_freed_memory()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        for case in ["statistics_net"] if quick else CASES:
            compare(case, Path(folder), quick)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        print_peak(*sys.argv[2:])
    else:
        main()
