"""A CLIP in miniature: a model that knows much, taught five domains one after another.

A class is a direction of meaning, which is its text feature too. A clip shows a class through the
world of its domain: a rotation, an offset, a saturation and noise. The model is pre-trained on 300
classes of one domain to find the meaning in a clip, so it recognises classes it was never shown.
Then it learns 5 domains of 15 new classes each from 16 clips a class. A test clip is told apart
among the 75 classes of all domains; ``hold`` are 60 more classes of the first domain, among which
the model's former skill is measured.
"""

import functools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from speechcl.brain import ContinualBrain
from speechcl.engine import Engine, Training
from speechcl.method import Method
from speechcl.metrics import continual_summary
from speechcl.metrics.transfer import transfer_summary
from speechcl.task import Task

MEANING, SENSES, WIDTH = 16, 48, 96  # sizes of meanings, of clips, of the model
KNOWN, HOLD, DOMAINS, CLASSES, SHOTS, TESTS = 300, 60, 5, 15, 16, 20
VARIETY, NOISE = 0.14, 0.3  # of meanings within a class, of clips
OFFSET = 0.5  # of domains' clips
SCALE = 25.0  # of cosines
STRONG, MILD = 1.7, 1.3  # angles in rad, by which domains are turned at most
TARGETS = ["hear", "think", "speak"]  # the layers to adapt
PRETRAINING_STEPS, EPOCHS = 1500, 75  # 75 epochs of 4 batches


class MiniClip(nn.Module):
    """A residual network that gives the logits of all classes and the meaning it found."""

    def __init__(self, text: Tensor) -> None:
        super().__init__()
        self.hear = nn.Linear(SENSES, WIDTH)
        self.think = nn.Linear(WIDTH, WIDTH)
        self.speak = nn.Linear(WIDTH, MEANING)
        self.register_buffer("text", text)  # (classes, meaning), of unit length

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = functional.gelu(self.hear(x))
        x = x + functional.gelu(self.think(x))
        meaning = functional.normalize(self.speak(x), dim=-1)
        return logits(meaning, self.text), meaning


def logits(meaning: Tensor, text: Tensor) -> Tensor:
    """Return scaled cosines, shape (clips, classes)."""
    return SCALE * meaning @ text.t()


class Clips(Dataset):
    """Clips (clips, senses) with labels (clips,), handed out by the batch."""

    def __init__(self, features: Tensor, labels: Tensor) -> None:
        self.features, self.labels = features, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        return {"features": self.features[indices], "label": self.labels[indices]}

    def collate(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return batch


class World:
    """Meanings of all classes, and how each domain shows them; domain 0 is that of pre-training."""

    def __init__(self, seed: int, angle_rad: float) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        classes = KNOWN + HOLD + DOMAINS * CLASSES
        self.text = functional.normalize(self.randn(classes, MEANING), dim=1)
        self.show = self.randn(SENSES, MEANING) / 2
        self.turns, self.offsets = [torch.eye(SENSES)], [torch.zeros(SENSES)]
        for _ in range(DOMAINS):
            noise = self.randn(SENSES, SENSES)
            skew = noise - noise.t()
            skew = skew * angle_rad / torch.linalg.matrix_norm(skew, 2)
            self.turns.append(torch.linalg.matrix_exp(skew))
            self.offsets.append(OFFSET * self.randn(SENSES))

    def randn(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def clips(self, domain: int, text: Tensor, labels: Tensor) -> Tensor:
        """Return a clip of each label's class, as the domain shows it."""
        meaning = text[labels] + VARIETY * self.randn(len(labels), MEANING)
        shown = 2 * meaning @ (self.turns[domain] @ self.show).t() + self.offsets[domain]
        return shown.tanh() + NOISE * self.randn(*shown.shape)

    def known(self) -> Tensor:
        return self.text[:KNOWN]

    def hold(self) -> Tensor:
        return self.text[KNOWN : KNOWN + HOLD]

    def new(self) -> Tensor:
        """Return the text features of the classes of all tasks, (75, meaning)."""
        return self.text[KNOWN + HOLD :]


@dataclass(frozen=True)
class Childhood:
    """What all methods start from: a world, the weights of a model grown up in it, its lessons."""

    world: World
    weights: dict[str, Tensor]
    stream: list[Task]
    hold: Clips


@functools.cache
def childhood(seed: int, angle_rad: float) -> Childhood:
    """Pre-train on the first domain, once for all methods."""
    world = World(seed, angle_rad)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = MiniClip(world.known())
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, PRETRAINING_STEPS)
    for _ in range(PRETRAINING_STEPS):
        labels = torch.randint(KNOWN, (256,), generator=world.generator)
        found, _ = model(world.clips(0, world.known(), labels))
        functional.cross_entropy(found, labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    stream = []
    for k in range(DOMAINS):
        classes = range(k * CLASSES, (k + 1) * CLASSES)
        train, test = (labelled(world, k + 1, world.new(), classes, n) for n in (SHOTS, TESTS))
        stream.append(Task(k, f"domain_{k}", train, test=test, info={"classes": list(classes)}))
    hold = labelled(world, 0, world.hold(), range(HOLD), TESTS)
    return Childhood(world, {**model.state_dict(), "text": world.new()}, stream, hold)


def labelled(world: World, domain: int, text: Tensor, classes: range, each: int) -> Clips:
    """Return so many clips of each class."""
    labels = torch.tensor(classes).repeat_interleave(each)
    return Clips(world.clips(domain, text, labels), labels)


class Meaning(NamedTuple):
    """What a forward pass gives: logits (batch, 75) and meanings (batch, 16)."""

    logits: Tensor
    meaning: Tensor


class MiniClipBrain(ContinualBrain):
    """Learn by cross-entropy among the task's own classes; recognise among all of them."""

    metric, higher_is_better = "accuracy", True

    def compute_forward(self, batch, stage):
        return Meaning(*self.modules["model"](batch["features"]))

    def task_loss(self, outputs, batch, stage):
        first = self.task.index * CLASSES
        own = outputs.logits[:, first : first + CLASSES]
        return functional.cross_entropy(own, batch["label"] - first)

    def logits(self, outputs):
        return outputs.logits

    def features(self, outputs):
        return outputs.meaning

    def targets(self, batch):
        return batch["label"]

    def score(self, outputs, batch):
        return outputs.logits.argmax(dim=1)

    def measure(self, scores, dataset):
        return 100.0 * float((torch.as_tensor(scores) == dataset.labels).double().mean())


@dataclass
class Outcome:
    """What a method came to: accuracies in percent, norms of what it wrote into the weights.

    ``change`` is the mean over tasks of the norm of a task's change, ``drift`` that of all.
    """

    transfer: float
    average: float
    last: float
    new: float
    forgetting: float
    hold: float
    change: float
    drift: float
    engine: Engine

    def __str__(self) -> str:
        shown = {k: v for k, v in vars(self).items() if k != "engine"}
        return "  ".join(f"{name} {value:.2f}" for name, value in shown.items())


def live(
    method: Method,
    folder: Path,
    *,
    seed: int = 1,
    angle_rad: float = STRONG,
    lr: float = 2e-3,
) -> Outcome:
    """Let a method learn the five domains.

    AdamW without weight decay, a cosine, 300 steps a task in batches of 64 clips.
    """
    start = childhood(seed, angle_rad)
    model = MiniClip(start.world.new())
    model.load_state_dict(start.weights)
    optimizer = functools.partial(torch.optim.AdamW, lr=lr, betas=(0.9, 0.9999), weight_decay=0)
    engine = Engine(
        brain=MiniClipBrain,
        modules={"model": model},
        method=method,
        stream=start.stream,
        training=Training(optimizer, epochs=EPOCHS, batch_size=64, seed=seed, schedule="cosine"),
        folder=folder,
        run_opts={"noprogressbar": True, "device": "cpu"},
    )
    weights, matrix = [start.weights], []
    for task in start.stream:
        engine.learn(task)
        weights.append(base_weights(engine))
        matrix.append(engine.evaluate()[0])
    return Outcome(
        **transfer_summary(matrix),
        new=statistics.mean(matrix[k][k] for k in range(DOMAINS)),
        forgetting=continual_summary(matrix)["forgetting"],
        hold=hold_accuracy(engine, start),
        change=statistics.mean(map(distance, weights[:-1], weights[1:])),
        drift=distance(weights[0], weights[-1]),
        engine=engine,
    )


def mean_life(make: Callable[[], Method], folder: Path, seeds: Sequence[int]) -> dict[str, float]:
    """Return the means over several lives, by the names of ``Outcome``."""
    outcomes = [live(make(), folder / str(seed), seed=seed) for seed in seeds]
    return {
        name: statistics.mean(getattr(one, name) for one in outcomes)
        for name in vars(outcomes[0])
        if name != "engine"
    }


def base_weights(engine: Engine) -> dict[str, Tensor]:
    """Copy the weights that can be adapted, wherever in the modules a method has put them."""
    named = dict(engine.modules.named_parameters())
    keys = [f"{layer}.weight" for layer in TARGETS]
    places = {key: next(name for name in named if name.endswith(key)) for key in keys}
    return {key: named[place].detach().clone() for key, place in places.items()}


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Return the norm of the difference of all weights that can be adapted."""
    keys = [f"{layer}.weight" for layer in TARGETS]
    return math.sqrt(sum(float((one[key] - other[key]).square().sum()) for key in keys))


@torch.no_grad()
def hold_accuracy(engine: Engine, start: Childhood) -> float:
    """Return the accuracy on the held-out classes of the first domain, among themselves."""
    engine.method.before_eval(None)
    engine.modules.eval()
    meaning = engine.modules["model"](start.hold.features)[1]
    found = logits(meaning, start.world.hold()).argmax(dim=1)
    return 100.0 * float((found == start.hold.labels).double().mean())
