"""What does a training step through the engine cost, next to a bare PyTorch loop?

Both sides train the same network from the same weights on the same batches, fetched by a DataLoader
with the same arguments, with cross-entropy, clipping of the whole gradient, SGD with momentum. The
final weights must be equal bit for bit before a ratio is printed.

Timed are whole epochs: loader, steps, running loss, the brain's stages. Not timed is what a task
costs once whatever its length (making the brain, the two checkpoints at its ends, one line an epoch
in the log); it is printed as ``once_s``, in seconds on the wall since it waits for the disk.
"""

import copy
import logging
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from timing import arguments, interleaved, keep_freed_memory, report
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from speechcl import Engine, Training
from speechcl.brains import DetectionBrain
from speechcl.data.features import FeatureSet
from speechcl.methods import FineTune
from speechcl.sampling import EpochBatches
from speechcl.task import make_stream

SEED, BATCH, LR, MOMENTUM = 0, 32, 0.01, 0.9
MAX_GRAD_NORM = 5.0  # SpeechBrain's default


class Net(nn.Module):
    """A body and a head, so that there is an embedding."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(*layers[:-1]), layers[-1]

    def forward(self, x):
        """Return logits and embedding."""
        x = self.body(x)
        return self.head(x), x


def mlp() -> Net:
    """285 k parameters on vectors of 784."""
    relu, linear = nn.ReLU, nn.Linear
    return Net(linear(784, 320), relu(), linear(320, 104), relu(), linear(104, 2))


def cnn() -> Net:
    """1.14 M parameters on mel spectrograms of 64 x 100."""
    conv = partial(nn.Conv2d, kernel_size=3, stride=2, padding=1)
    return Net(
        *(nn.Unflatten(1, (1, 64)), conv(1, 32), nn.ReLU(), conv(32, 64), nn.ReLU()),
        *(conv(64, 128), nn.ReLU(), nn.Flatten(), nn.Linear(128 * 8 * 13, 79), nn.ReLU()),
        nn.Linear(79, 2),
    )


def clips(shape: tuple[int, ...], count: int) -> FeatureSet:
    """Random features in two classes that differ."""
    generator = torch.Generator().manual_seed(SEED)
    features = torch.randn(count, *shape, generator=generator)
    features[::2] += 0.05
    return FeatureSet(features, [{"label": ("bonafide", "spoof")[i % 2]} for i in range(count)])


class TimedBrain(DetectionBrain):
    """Notes the CPU seconds from the first to the last step of each epoch."""

    def on_stage_start(self, stage, epoch=None):
        """Start the clock."""
        self.began = time.process_time()
        super().on_stage_start(stage, epoch)

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Stop the clock before the epoch is logged and kept."""
        self.took.append(time.process_time() - self.began)
        super().on_stage_end(stage, stage_loss, epoch)

    took: list[float] = []


def bare(
    model: nn.Module,
    data: FeatureSet,
    epochs: int,
    index: int = 0,
    penalty: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> float:
    """Train on task ``index`` with a plain loop; return the CPU seconds of a step.

    ``penalty(features, logits)`` is added to the loss.
    """
    batches = EpochBatches(len(data), BATCH, seed=SEED * 1009 + index)
    loader = DataLoader(
        data,
        batch_sampler=batches,
        collate_fn=data.collate,
        generator=torch.Generator().manual_seed(batches.seed),
    )
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD(parameters, lr=LR, momentum=MOMENTUM)
    model.train()
    took = 0.0
    for epoch in range(1, epochs + 1):
        start = time.process_time()
        batches.set_epoch(epoch)
        for batch in loader:
            logits, _ = model(batch["features"])
            loss = functional.cross_entropy(logits, batch["label"])
            if penalty is not None:
                loss = loss + penalty(batch["features"], logits)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM, foreach=True)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        took += time.process_time() - start
    return took / (epochs * len(batches))


def engine(model: nn.Module, data: FeatureSet, epochs: int) -> tuple[float, float]:
    """Train through the engine; return the CPU seconds of a step, and what came once."""
    with tempfile.TemporaryDirectory() as folder:
        ours = Engine(
            brain=TimedBrain,
            modules={"model": model},
            method=FineTune(),
            stream=make_stream([("task", data, data)]),
            training=Training(
                partial(torch.optim.SGD, lr=LR, momentum=MOMENTUM),
                epochs=epochs,
                batch_size=BATCH,
                seed=SEED,
            ),
            folder=Path(folder) / "run",
            run_opts={"noprogressbar": True, "device": "cpu", "max_grad_norm": MAX_GRAD_NORM},
        )
        TimedBrain.took = []
        start = time.perf_counter()
        ours.learn(ours.stream[0])
        once = time.perf_counter() - start - sum(TimedBrain.took)
    return sum(TimedBrain.took) / (epochs * len(EpochBatches(len(data), BATCH, SEED))), once


def main() -> None:
    quick = arguments(__doc__).quick
    keep_freed_memory()
    logging.disable(logging.WARNING)
    for name, make, shape, steps, epochs, repeats, target in [
        ("mlp", mlp, (784,), 200, 2, 21, 1.10),
        ("cnn", cnn, (64, 100), 10, 2, 21, 1.03),
    ]:
        torch.manual_seed(SEED)
        born, data = make(), clips(shape, BATCH * (3 if quick else steps))
        once: list[float] = []
        models: dict[str, nn.Module] = {}

        def ours(born=born, data=data, epochs=epochs, once=once, models=models):
            models["ours"] = copy.deepcopy(born)
            took, rest = engine(models["ours"], data, epochs)
            once.append(rest)
            return took

        def peer(born=born, data=data, epochs=epochs, models=models):
            models["peer"] = copy.deepcopy(born)
            return bare(models["peer"], data, epochs)

        found = interleaved({"ours": ours, "peer": peer}, repeats=2 if quick else repeats)
        a, b = (models[side].state_dict() for side in ("ours", "peer"))
        assert all(torch.equal(a[key], b[key]) for key in b), "the two loops learnt differently"
        assert not all(torch.equal(born.state_dict()[key], b[key]) for key in b), "nothing learnt"
        report(
            f"engine_overhead_{name}",
            {
                "parameters": sum(p.numel() for p in born.parameters()),
                "input": shape,
                "batch": BATCH,
                "steps": len(data) // BATCH * epochs,
            },
            found["ours"],
            found["peer"],
            target,
            once_s=round(min(once), 3),
            equal="final weights, bit for bit",
        )


if __name__ == "__main__":
    main()
