"""Do the parts of OnPro and DualMix do what they are for, on digits in one pass?

Twenty images are remembered, as in ``recipes/Images/online/study_20.yaml``. Of DualMix: where wrong
answers go after each task, plain ER, with views and AdpMix as the paper sets it, and with its label
gate forced open. Of OnPro: how close the classes of the test images end to each other, as the mean
cosine of their prototypes in the projection, with and without the contrast of prototypes.
"""

import csv
import functools
import json
import math
import random
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from timing import arguments
from torch.nn import functional
from tqdm import tqdm

from speechcl.backbones import ConvNet
from speechcl.brains import ClassificationBrain
from speechcl.data.class_streams import class_stream, in_groups
from speechcl.data.corpora.small_images import image_set
from speechcl.engine import Engine, Training
from speechcl.method import Method
from speechcl.methods import ER, Chain, Contrast, DualMix, OnPro
from speechcl.metrics import misclassification_ratios
from speechcl.views import digit_views


def replay(seed: int) -> ER:
    """Return ER as the recipe has it."""
    return ER(capacity=20, replay=32, seed=seed, online=True)


def mixed(seed: int, **label_options: float) -> Method:
    """Return ER with views of what it replays and AdpMix, without EnMix."""
    views = digit_views()
    return Chain([replay(seed), DualMix(views, enmix=False, seed=seed, **label_options)])


def onpro(seed: int, prototypes: float | None) -> OnPro:
    """Return OnPro with the contrast of prototypes at a temperature, or without."""
    contrast = Contrast(32, prototypes=prototypes, instances=0.2)
    return OnPro(digit_views(), capacity=20, replay=32, seed=seed, contrast=contrast)


METHODS: dict[str, Callable[[int], Method]] = {
    "ER": replay,
    "ER + AdpMix": mixed,
    "ER + AdpMix, gate forced open": functools.partial(mixed, imbalance=0.0, bonus=0.3),
    "OnPro": functools.partial(onpro, prototypes=0.5),
    "OnPro without contrast of prototypes": functools.partial(onpro, prototypes=None),
}


def learn(make: Callable[[int], Method], seed: int, repeats: int, folder: Path) -> Engine:
    """Learn the digits, two new ones a task in the seed's order."""
    data = image_set("digits", "", repeats=repeats)
    names = list(data.classes.names)
    random.Random(seed).shuffle(names)
    torch.manual_seed(seed)
    engine = Engine(
        brain=ClassificationBrain,
        modules={"model": ConvNet(10)},
        method=make(seed),
        stream=class_stream(data, in_groups(names, 2)),
        training=Training(functools.partial(torch.optim.Adam, lr=0.004), 1, 10, seed),
        folder=folder,
        run_opts={"noprogressbar": True, "device": "cpu"},
    )
    engine.run()
    return engine


def ratios(engine: Engine, folder: Path) -> dict[str, float]:
    """Return the misclassification ratios that there are, as means over tasks with such errors."""
    found: dict[str, list[float]] = {"old_as_new": [], "new_as_old": []}
    for task in engine.stream[1:]:
        seen = {one.name for one in engine.stream[: task.index + 1]}
        with (folder / "predictions" / f"task_{task.index:02d}.csv").open() as file:
            rows = [row for row in csv.DictReader(file) if row["test_task"] in seen]
        answers = [row["predicted"] for row in rows], [row["label"] for row in rows]
        both = misclassification_ratios(*answers, list(task.info["classes"]))
        for kept, value in zip(found.values(), both, strict=True):
            kept += [] if math.isnan(value) else [value]
    return {name: statistics.fmean(values) for name, values in found.items() if values}


@torch.no_grad()
def closeness(engine: Engine) -> float:
    """Return the mean cosine of the prototypes of two classes of the test images."""
    model: Any = engine.modules["model"].eval()
    project: Any = engine.modules["project"]
    prototypes = []
    for task in engine.stream:
        items: Any = task.test
        batch = items.__getitems__(list(range(len(items))))
        vectors = functional.normalize(project(model(batch["features"])[1]))
        prototypes += [vectors[batch["label"] == k].mean(0) for k in batch["label"].unique()]
    unit = functional.normalize(torch.stack(prototypes))
    cosines = unit @ unit.T
    return float(cosines[~torch.eye(len(unit), dtype=torch.bool)].mean())


def figures(make: Callable[[int], Method], seed: int, repeats: int) -> dict[str, float]:
    """Learn, and return what one run says."""
    with tempfile.TemporaryDirectory() as place:
        engine = learn(make, seed, repeats, Path(place))
        found = ratios(engine, Path(place))
    return {
        "accuracy": statistics.fmean(engine.progress["matrix"][-1]),
        **found,
        **({"cosine": closeness(engine)} if "project" in engine.modules else {}),
    }


def main() -> None:
    """Run each method with each seed; print a JSON line a method."""
    options = arguments(__doc__)
    seeds, repeats = ((1, 2), 1) if options.quick else (range(1, 6), 10)
    bar = tqdm(total=len(METHODS) * len(seeds), unit="run", disable=not sys.stderr.isatty())
    for name, make in METHODS.items():
        found: dict[str, list[float]] = {}
        for seed in seeds:
            for figure, value in figures(make, seed, repeats).items():
                found.setdefault(figure, []).append(value)
            bar.update()
        means = {figure: round(statistics.fmean(values), 3) for figure, values in found.items()}
        rounded = {figure: [round(one, 3) for one in values] for figure, values in found.items()}
        print(json.dumps({"name": name, "mean": means, "runs": rounded}), flush=True)


if __name__ == "__main__":
    main()
