"""A toy stream in which sequential fine-tuning forgets: small enough for every test."""

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from speechcl.adapters import RankPolicy
from speechcl.backbones import StatisticsNet
from speechcl.brains import DetectionBrain
from speechcl.data.features import FeatureSet
from speechcl.engine import Engine, Training
from speechcl.memory import ClassBalanced, KeyRetriever, StatisticsEncoder
from speechcl.method import Method
from speechcl.methods import (
    ER,
    ERACE,
    EWC,
    OSFT,
    OWM,
    RAWM,
    RWM,
    SCR,
    SI,
    SLM,
    Chain,
    CoDyRA,
    Contrast,
    DERpp,
    DualMix,
    FineTune,
    GDumb,
    Joint,
    LoRA,
    LwF,
    MoRA,
    OnPro,
)
from speechcl.task import Task, make_stream

# Every method joins the conformance tests by a row here.
METHODS: dict[str, Callable[[], Method]] = {
    "FineTune": FineTune,
    "Joint": Joint,
    "ER": lambda: ER(capacity=40, replay=16),
    "DERpp": lambda: DERpp(capacity=40, replay=15),
    "EWC": lambda: EWC(strength=10.0, clips=40),
    "SI": lambda: SI(strength=1.0),
    "LwF": LwF,
    "OWM": OWM,
    "RAWM": RAWM,
    "RWM": RWM,
    "RWM auto": lambda: RWM(compact="auto"),
    "RWM official": lambda: RWM(mode="official"),
}


def noise(features: torch.Tensor, draws: torch.Generator) -> torch.Tensor:
    """Another view of toy clips."""
    return features + 0.1 * torch.randn(features.shape, generator=draws)


# Methods that remember while they learn, so that their first task is not plain training.
ONLINE_METHODS: dict[str, Callable[[], Method]] = {
    "ER online": lambda: ER(capacity=40, replay=15, online=True),
    "DERpp online": lambda: DERpp(capacity=40, replay=15, online=True),
    "ERACE": lambda: ERACE(memory=ClassBalanced(40, stored_as="float16"), replay=15, online=True),
    "SCR": lambda: SCR(noise, capacity=40, replay=15, width=8),
    "GDumb": lambda: GDumb(capacity=90),
    "ER DualMix": lambda: Chain([ER(capacity=40, replay=15, online=True), DualMix(noise)]),
    "DERpp DualMix EWC": lambda: Chain(
        [DERpp(capacity=40, replay=15, online=True), DualMix(noise), EWC(strength=10.0, clips=40)]
    ),
    "OnPro": lambda: OnPro(noise, capacity=40, replay=15, contrast=Contrast(width=8)),
}
METHODS |= ONLINE_METHODS

# Methods that train adapters in a frozen ToyNet, and its classifier with them.
ADAPTED = {"targets": ["convolution", "hidden"], "train": "classify.*"}
ADAPTER_METHODS: dict[str, Callable[[], Method]] = {
    "LoRA": lambda: LoRA(**ADAPTED, rank=2),
    "CoDyRA": lambda: CoDyRA(**ADAPTED, rank=4),
    "MoRA": lambda: MoRA(**ADAPTED, rank=2, active=3),
    "OSFT": lambda: OSFT(**ADAPTED),
    "OSFT dense": lambda: OSFT(**ADAPTED, policy=RankPolicy.fixed(0.5), mode="dense"),
    "OSFT factored": lambda: OSFT(**ADAPTED, policy=RankPolicy.fixed(0.5), mode="factored"),
    "SLM": lambda: SLM(
        **ADAPTED,
        encoder=StatisticsEncoder(),
        retriever=KeyRetriever(groups=1, slots=2, retrieved=2),
        rank=2,
        key_steps=20,
    ),
}
METHODS |= ADAPTER_METHODS

WIDTH = 8


class ToyNet(nn.Module):
    """One convolution and two linear layers, so that both kinds of protected layer occur."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(1, 3, 3, padding=1)
        self.norm = nn.GroupNorm(1, 3)
        self.hidden = nn.Linear(3 * WIDTH, 16)
        self.drop = nn.Dropout(0.1)
        self.classify = nn.Linear(16, 2)

    def forward(self, x):
        x = torch.relu(self.norm(self.convolution(x[:, None]))).flatten(1)
        x = self.drop(torch.relu(self.hidden(x)))
        return self.classify(x), x


def toy_clips(seed: int, direction_rad: float, clips: int = 120) -> FeatureSet:
    """Genuine clips scatter around 0; spoofed ones are shifted in a direction of their own."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(clips, WIDTH, generator=generator)
    genuine = torch.arange(clips) % 4 == 0
    shift = torch.zeros(WIDTH)
    shift[0], shift[1] = 3 * math.cos(direction_rad), 3 * math.sin(direction_rad)
    features[~genuine] += shift
    rows = [
        {
            "ID": f"{seed}-{i}",
            "label": "bonafide" if one else "spoof",
            "attack": "-" if one else f"attack_{direction_rad:.1f}",
            "speaker": f"s{i % 12}",
        }
        for i, one in enumerate(genuine.tolist())
    ]
    return FeatureSet(features, rows)


def toy_stream(tasks: int = 3, clips: int = 120) -> list[Task]:
    return make_stream(
        [
            (f"attack_{k}", toy_clips(k, 2.1 * k, clips), toy_clips(50 + k, 2.1 * k))
            for k in range(tasks)
        ]
    )


def toy_engine(
    folder: Path,
    method: Method,
    *,
    tasks: int = 3,
    epochs: int = 2,
    lr: float = 0.05,
    seed: int = 1,
    model: nn.Module | None = None,
    clips: int = 120,
    batch_size: int = 32,
    patience: int | None = None,
    **run_opts,
) -> Engine:
    torch.manual_seed(0)
    if model is None:
        model = ToyNet()
    stream = toy_stream(tasks, clips)
    if patience is not None:
        held_out = [toy_clips(90 + k, 2.1 * k, clips=40) for k in range(tasks)]
        stream = [replace(task, valid=held_out[task.index]) for task in stream]
    return Engine(
        brain=DetectionBrain,
        modules={"model": model},
        method=method,
        stream=stream,
        training=Training(
            functools.partial(torch.optim.SGD, lr=lr, momentum=0.9),
            epochs=epochs,
            batch_size=batch_size,
            seed=seed,
            checkpoint_interval_s=0.0,
            patience=patience,
        ),
        folder=folder,
        run_opts={"noprogressbar": True, "device": "cpu", **run_opts},
    )


def weights(engine: Engine) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in engine.modules.state_dict().items()}


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


__all__ = [
    "ADAPTER_METHODS",
    "METHODS",
    "ONLINE_METHODS",
    "StatisticsNet",
    "ToyNet",
    "same",
    "toy_engine",
    "toy_stream",
    "weights",
]
