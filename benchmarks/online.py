"""What does a step of learning in one pass cost, next to a loop as one would write it by hand?

Images of 32 x 32 pixels, ten new ones and 64 remembered ones a step, through the small network for
digits, two tasks; timed is the second. The peer is a bare loop in the manner of the code released
with these methods: a buffer that looks at its items one by one, a forward pass for each part of the
batch, prototypes class by class. It takes the same draws, so that the final weights of ER and DER++
must be ours, and the contrast of prototypes must be that of its own loop.

Then a memory of 100,000 items: microseconds an item to insert and to draw, beside the buffer that
looks at items one by one, and the bytes an item takes.
"""

import copy
import functools
import random
import tempfile
from pathlib import Path

import numpy
import torch
from timing import arguments, interleaved, keep_freed_memory, report, seconds
from torch import nn
from torch.nn import functional

from speechcl import Engine, Training
from speechcl.backbones import ConvNet
from speechcl.brains import ClassificationBrain
from speechcl.contrastive import prototype_contrast
from speechcl.data.class_streams import class_stream, in_groups
from speechcl.data.features import FeatureSet
from speechcl.data.labelled import Classes
from speechcl.memory import ClassBalanced, Reservoir
from speechcl.memory.draws import generator
from speechcl.methods import ER, DERpp, OnPro
from speechcl.sampling import EpochBatches
from speechcl.views import image_views

BATCH, REPLAY, CAPACITY, LR, SEED = 10, 64, 200, 0.01, 0
ANSWERS = LABELS = 0.5
TOLERANCE = 1e-4


def images(count: int) -> FeatureSet:
    """Random images of four classes; every tenth is to test on."""
    classes = Classes(tuple("abcd"), column="label")
    draws = generator(SEED, 1)
    pixels = torch.randint(0, 256, (count, 3, 32, 32), generator=draws, dtype=torch.uint8)
    rows = [
        {"ID": str(i), "label": "abcd"[i % 4], "split": "train" if i // 4 % 10 else "test"}
        for i in range(count)
    ]
    return FeatureSet(pixels, rows, classes)


class TimedBrain(ClassificationBrain):
    """Notes the CPU seconds of every step."""

    took: list[float] = []

    def fit_batch(self, batch):
        """Train on a batch and note what it took."""
        found = []
        self.took.append(seconds(lambda: found.append(super(TimedBrain, self).fit_batch(batch))))
        return found[0]


class Ours:
    """A method in the engine; a call learns both tasks and returns a step's seconds."""

    def __init__(self, make, born: nn.Module, stream: list) -> None:
        self.make, self.born, self.stream = make, born, stream

    def __call__(self) -> float:
        """Learn both tasks."""
        self.net = copy.deepcopy(self.born)
        with tempfile.TemporaryDirectory() as folder:
            engine = Engine(
                brain=functools.partial(TimedBrain, loss_over="all"),
                modules={"model": self.net},
                method=self.make(),
                stream=self.stream,
                training=Training(
                    functools.partial(torch.optim.SGD, lr=LR), 1, BATCH, checkpoint_interval_s=999
                ),
                folder=Path(folder) / "run",
                run_opts={"noprogressbar": True, "device": "cpu", "max_grad_norm": 1e9},
            )
            engine.learn(self.stream[0])
            TimedBrain.took.clear()
            engine.learn(self.stream[1])
        return sum(TimedBrain.took) / len(TimedBrain.took)


class HandBuffer:
    """A reservoir that looks at its items one by one; draws are those of ours."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.seen, self.draws = capacity, 0, 0
        self.kept: list[torch.Tensor] = []

    def add(self, *parts: torch.Tensor) -> None:
        """Offer a batch."""
        if not self.kept:
            self.kept = [part.new_zeros(self.capacity, *part.shape[1:]) for part in parts]
        size = len(parts[0])
        chance = torch.rand(size, generator=generator(SEED, 2 * self.seen), dtype=torch.float64)
        for item in range(size):
            slot = self.seen if self.seen < self.capacity else int(chance[item] * (self.seen + 1))
            self.seen += 1
            if slot < self.capacity:
                for kept, part in zip(self.kept, parts, strict=True):
                    kept[slot] = part[item]

    def get(self, count: int) -> list[torch.Tensor]:
        """Draw items without replacement."""
        self.draws += 1
        size = min(self.seen, self.capacity)
        chosen = torch.randperm(size, generator=generator(SEED, 1 + 2 * self.draws))[:count]
        return [torch.stack([kept[place] for place in chosen]) for kept in self.kept]


class ByHand:
    """ER or DER++ as a bare loop; a call learns both tasks and returns a step's seconds."""

    def __init__(self, name: str, born: nn.Module, stream: list) -> None:
        self.name, self.born, self.stream = name, born, stream

    def __call__(self) -> float:
        """Learn both tasks."""
        self.net = copy.deepcopy(self.born)
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=LR)
        self.buffer = HandBuffer(CAPACITY)
        took = []
        for task in self.stream:
            data = task.train
            batches = EpochBatches(len(data), BATCH, seed=1 * 1009 + task.index)
            took = []
            for places in batches:
                batch = data.__getitems__(places)
                took.append(seconds(functools.partial(self.step, batch)))
        return sum(took) / len(took)

    def step(self, batch) -> None:
        """Train on a batch and offer it to the buffer."""
        x, y = batch["features"], batch["label"]
        if self.name == "ER":
            if self.buffer.seen:
                old_x, old_y = self.buffer.get(REPLAY)
                x_all, y_all = torch.cat([x, old_x]), torch.cat([y, old_y])
            else:
                x_all, y_all = x, y
            loss = functional.cross_entropy(self.net(x_all)[0], y_all)
            kept = (x, y)
        else:
            logits = self.net(x)[0]
            loss = functional.cross_entropy(logits, y)
            if self.buffer.seen:
                old_x, _, old_logits = self.buffer.get(REPLAY)
                loss = loss + ANSWERS * functional.mse_loss(self.net(old_x)[0], old_logits)
                old_x, old_y, _ = self.buffer.get(REPLAY)
                loss = loss + LABELS * functional.cross_entropy(self.net(old_x)[0], old_y)
            kept = (x, y, logits.detach())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.buffer.add(*kept)


def prototypes_by_hand(one, other, labels, temperature):
    """The contrast of prototypes, class by class and row by row."""
    means = []
    for vectors in (one, other):
        for label in labels.unique():
            chosen = [v for v, own in zip(vectors, labels, strict=True) if own == label]
            means.append(functional.normalize(torch.stack(chosen).mean(0), dim=0))
    unit, count = torch.stack(means), len(means) // 2
    total = unit.new_zeros(())
    for i in range(2 * count):
        others = torch.stack([unit[i] @ unit[j] for j in range(2 * count) if j != i]) / temperature
        own = unit[i] @ unit[(i + count) % (2 * count)] / temperature
        total = total + others.logsumexp(0) - own
    return total / (2 * count)


def largest_difference(one: nn.Module, other: nn.Module) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


def steps(count: int, repeats: int) -> None:
    """Steps of ER and DER++ beside the loop by hand, and of OnPro beside ER."""
    data = images(count)
    stream = class_stream(data, in_groups(data.classes.names, 2))
    born = ConvNet(classes=4)
    options = {"capacity": CAPACITY, "replay": REPLAY, "seed": SEED}
    makes = {
        "ER": lambda: ER(**options, online=True),
        "DER++": lambda: DERpp(**options, answers=ANSWERS, labels=LABELS, online=True),
    }
    sizes = {"new": BATCH, "replayed": REPLAY, "pixels": 32}
    for name, make in makes.items():
        sides = {"ours": Ours(make, born, stream), "peer": ByHand(name, born, stream)}
        for side in sides.values():
            side()
        off = largest_difference(sides["ours"].net, sides["peer"].net)
        assert off < TOLERANCE, f"{name} differs from the loop by hand by {off}"
        found = interleaved(sides, repeats)
        report(f"online_step_{name}", sizes, found["ours"], found["peer"], 1.0, difference=off)
    sides = {
        "ours": Ours(lambda: OnPro(image_views(), **options), born, stream),
        "peer": Ours(makes["ER"], born, stream),
    }
    found = interleaved(sides, repeats)
    rows = {"ours_rows": 2 * BATCH + 2 * 28 + 2 * 28, "peer_rows": BATCH + REPLAY}
    report("online_step_OnPro_over_ER", {**sizes, **rows}, found["ours"], found["peer"], None)


def prototypes(repeats: int) -> None:
    """The contrast of prototypes of 64 items of ten classes, with its gradient."""
    draws = generator(SEED, 2)
    one, other = (torch.randn(64, 128, generator=draws, requires_grad=True) for _ in range(2))
    labels = torch.arange(64) % 10

    def side(work):
        return lambda: seconds(lambda: work(one, other, labels, 0.5).backward(), times=20)

    off = abs(float(prototype_contrast(one, other, labels, 0.5).detach()
                    - prototypes_by_hand(one, other, labels, 0.5).detach()))  # fmt: skip
    assert off < TOLERANCE, f"the contrast of prototypes is off by {off}"
    found = interleaved(
        {"ours": side(prototype_contrast), "peer": side(prototypes_by_hand)}, repeats
    )
    report("prototype_contrast", {"items": 64, "classes": 10}, found["ours"], found["peer"], 1.0)


def memories(items: int, repeats: int) -> None:
    """Inserting batches of ten into full memories, and drawing 64 of them."""
    width = 100
    draws = generator(SEED, 3)
    batch = {"features": torch.randn(BATCH, width, generator=draws), "label": torch.arange(BATCH)}

    def full(memory):
        for _ in range(2):
            features = torch.randn(items, width, generator=draws)
            memory.add({"features": features, "label": torch.arange(items) % BATCH})
        return memory

    hand = HandBuffer(items)
    hand.add(torch.randn(items, width, generator=draws), torch.arange(items) % BATCH)
    parts = tuple(batch.values())
    for name, make in {
        "Reservoir": Reservoir,
        "Reservoir float16": functools.partial(Reservoir, stored_as="float16"),
        "Reservoir uint8": functools.partial(Reservoir, stored_as="uint8"),
        "ClassBalanced": ClassBalanced,
    }.items():
        memory = full(make(items))
        held = sum(b.numel() * b.element_size() for n, b in memory.named_buffers() if "kept" in n)
        more = {"bytes_an_item": held / items}
        for what, ours, peer, count in (
            ("insert", lambda m=memory: m.add(batch), lambda: hand.add(*parts), BATCH),
            ("draw", lambda m=memory: m.sample(REPLAY), lambda: hand.get(REPLAY), REPLAY),
        ):
            sides = {
                "ours": lambda work=ours: seconds(work, times=50),
                "peer": lambda work=peer: seconds(work, times=5),
            }
            found = interleaved(sides, repeats)
            us = 1e6 * numpy.median(found["ours"]) / count
            report(
                f"memory_{what}_{name}", {"items": items, "width": width}, found["ours"],
                found["peer"], 1.0, us_an_item=round(float(us), 2), **more,
            )  # fmt: skip


def main() -> None:
    """Run all three."""
    options = arguments(__doc__)
    keep_freed_memory()
    random.seed(SEED)
    repeats = 1 if options.quick else 7
    steps(200 if options.quick else 400, repeats)
    prototypes(repeats)
    memories(1000 if options.quick else 100_000, repeats)


if __name__ == "__main__":
    main()
