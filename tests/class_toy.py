"""A toy stream of classes that is seen once: two new ones in every task."""

import functools
from pathlib import Path

import torch
from torch import nn

from speechcl.brains import ClassificationBrain
from speechcl.data.class_streams import class_stream, in_groups
from speechcl.data.features import FeatureSet
from speechcl.data.labelled import Classes
from speechcl.engine import Engine, Training
from speechcl.method import Method

WIDTH, EMBEDDING = 12, 16


class ClassNet(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(WIDTH, EMBEDDING)
        self.classify = nn.Linear(EMBEDDING, classes)

    def forward(self, x):
        embedding = torch.relu(self.hidden(x))
        return self.classify(embedding), embedding


def blobs(classes: int, clips: int = 40, seed: int = 0) -> FeatureSet:
    """Clips of a class scatter around its own point; a quarter of them is to test on."""
    generator = torch.Generator().manual_seed(seed)
    centres = 2.0 * torch.randn(classes, WIDTH, generator=generator)
    labels = torch.arange(classes).repeat_interleave(clips)
    features = centres[labels] + torch.randn(len(labels), WIDTH, generator=generator)
    names = Classes(tuple(f"class_{k}" for k in range(classes)), column="label")
    rows = [
        {"ID": str(i), "label": names.names[k], "split": "test" if i % 4 == 0 else "train"}
        for i, k in enumerate(labels.tolist())
    ]
    return FeatureSet(features, rows, names)


def class_engine(
    folder: Path,
    method: Method,
    *,
    tasks: int = 3,
    lr: float = 0.05,
    seed: int = 1,
    clips: int = 40,
    loss_over: str = "seen",
    anytime_every: int | None = None,
    **run_opts,
) -> Engine:
    """Return an engine that learns two classes a task in one pass of batches of ten."""
    torch.manual_seed(seed)
    data = blobs(2 * tasks, clips)
    return Engine(
        brain=functools.partial(ClassificationBrain, loss_over=loss_over),
        modules={"model": ClassNet(2 * tasks)},
        method=method,
        stream=class_stream(data, in_groups(data.classes.names, 2)),
        training=Training(
            functools.partial(torch.optim.SGD, lr=lr),
            epochs=1,
            batch_size=10,
            seed=seed,
            checkpoint_interval_s=0.0,
            anytime_every=anytime_every,
        ),
        folder=folder,
        run_opts={"noprogressbar": True, "device": "cpu", **run_opts},
    )
