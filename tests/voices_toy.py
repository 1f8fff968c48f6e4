"""Speakers that are pitches, and a tiny voice model that tells them apart: small enough to fit."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from speechcl.backbones.usat import USAT as Voice
from speechcl.backbones.usat.presets import PRESETS
from speechcl.backbones.usat.voices import VoiceSpec
from speechcl.brains.enrolment import Enroller, EnrolmentBrain
from speechcl.data.labelled import Classes
from speechcl.engine import Engine, Training
from speechcl.method import Method
from speechcl.methods import ER, EWC, USAT, FineTune
from speechcl.sampling import EpochBatches
from speechcl.task import Task

RATE_HZ, SYMBOLS = 16000, 7
PITCH_HZ = {"alice": 220.0, "b.ob": 110.0}

# Every method that fits a voice model joins its conformance tests by a row here.
BESIDE: dict[str, Callable[[], Method]] = {  # the base stays as it is
    "USAT": USAT,
    "USAT vector": lambda: USAT(adapters=False),
    "USAT x_seq": lambda: USAT(VoiceSpec("x_seq", kernel=1)),
    "USAT together": USAT,
}
METHODS: dict[str, Callable[[], Method]] = {
    **BESIDE,
    "FineTune": FineTune,
    "EWC": lambda: EWC(strength=10.0, clips=2),
    "ER": lambda: ER(capacity=4, replay=2, padded=True),
}


class InOrder(EpochBatches):
    """Batches of neighbours, the same in every epoch."""

    def __iter__(self) -> Iterator[list[int]]:
        places = list(range(self.size))
        for number in range(self.start, len(self)):
            batch = places[number * self.batch_size : (number + 1) * self.batch_size]
            first, last = (len(batch) * (self.rank + k) // self.processes for k in (0, 1))
            yield batch[first:last]


class Tones(torch.utils.data.Dataset):
    """Speakers by name with their pitches, who say random symbols.

    Clips come speaker by speaker; ``counts`` of each, ``seconds`` long, or of uneven lengths below.
    """

    def __init__(
        self,
        pitch_hz: Mapping[str, float],
        items: int = 4,
        seconds: float = 0.5,
        first_clip: int = 0,
        uneven: bool = False,
    ) -> None:
        generator = torch.Generator().manual_seed(round(sum(pitch_hz.values())) + items)
        time_s = torch.arange(round(seconds * RATE_HZ)) / RATE_HZ
        pitches = torch.tensor(list(pitch_hz.values())).repeat_interleave(items)
        count = len(pitches)
        tone = 0.3 * torch.sin(2 * math.pi * pitches[:, None, None] * time_s)
        self.sound = tone + 0.02 * torch.randn(count, 2, len(time_s), generator=generator)
        self.ids = torch.randint(1, 100, (count, SYMBOLS), generator=generator)
        shorter = torch.arange(count) % 3 if uneven else torch.zeros(count, dtype=torch.long)
        self.samples = len(time_s) - shorter * (len(time_s) // 5)
        self.lengths = SYMBOLS - shorter
        self.classes = Classes(tuple(pitch_hz), column="speaker")
        self.labels = torch.arange(len(pitch_hz)).repeat_interleave(items)
        self.clips = first_clip + torch.arange(count)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        samples, lengths = self.samples[indices], self.lengths[indices]
        ids = self.ids[indices, : int(lengths.max())].clone()
        ids[torch.arange(ids.shape[1]) >= lengths[:, None]] = 0
        sounds = self.sound[indices, :, : int(samples.max())].clone()
        sounds[(torch.arange(sounds.shape[2]) >= samples[:, None])[:, None].expand_as(sounds)] = 0
        return {
            "ids": ids,
            "id_lengths": lengths,
            "waveform": sounds[:, 0],
            "samples": samples,
            "reference": sounds[:, 1],
            "reference_samples": samples,
            "speaker": self.labels[indices],
            "clip": self.clips[indices],
        }

    def subset(self, places: list[int]) -> "Tones":
        """Return the clips at these places, in this order."""
        part = Tones.__new__(Tones)
        part.__dict__ |= self.__dict__
        for name in ("sound", "ids", "samples", "lengths", "labels", "clips"):
            setattr(part, name, getattr(self, name)[places])
        return part

    @staticmethod
    def collate(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return batch


class TonesInOrder(Tones):
    """Tones whose batches are neighbours."""

    def batches(self, batch_size: int, seed: int) -> InOrder:
        return InOrder(len(self), batch_size, seed)

    def subset(self, places: list[int]) -> "TonesInOrder":
        part = super().subset(places)
        part.__class__ = TonesInOrder
        return part


def Speaker(pitch_hz: float, items: int = 4, first_clip: int = 0, **options) -> Tones:
    """Clips of one speaker."""
    return Tones({"who": pitch_hz}, items, first_clip=first_clip, **options)


def base(durations: str = "stochastic") -> Voice:
    """A tiny model in which the speaker matters, as after training."""
    torch.manual_seed(0)
    model = Voice(dataclasses.replace(PRESETS["usat_tiny"], durations=durations))
    with torch.no_grad():
        for parameter in [*model.flow.parameters(), *model.durations.parameters()]:
            parameter.add_(0.05 * torch.randn_like(parameter))
        for _ in range(3):  # statistics of the speaker encoder
            model.speaker(0.3 * torch.randn(4, 8000))
    return model.eval()


def one_by_one(tasks: int = 2, uneven: bool = False, valid: bool = False) -> list[Task]:
    """A task a speaker."""
    return [
        Task(
            k,
            name,
            Speaker(pitch, first_clip=10 * k, uneven=uneven),
            Speaker(pitch, items=3, first_clip=100 + 10 * k) if valid else None,
            Speaker(pitch, items=2, first_clip=200 + 10 * k),
        )
        for k, (name, pitch) in enumerate(list(PITCH_HZ.items())[:tasks])
    ]


def together(valid: bool = False) -> list[Task]:
    """Two tasks of two speakers each."""
    names = [{"a": 220.0, "b": 110.0}, {"c": 160.0, "d": 300.0}]
    return [
        Task(
            k,
            f"group {k}",
            Tones(pitch_hz, items=3, first_clip=10 * k, uneven=True),
            Tones(pitch_hz, items=2, first_clip=100 + 10 * k) if valid else None,
            Tones(pitch_hz, items=1, first_clip=200 + 10 * k),
        )
        for k, pitch_hz in enumerate(names)
    ]


def conforming(folder: Path, name: str, durations: str = "stochastic", **options) -> Engine:
    """An engine for a method of the table, on clips of uneven lengths."""
    valid = options.get("patience") is not None
    stream = together(valid) if name == "USAT together" else one_by_one(uneven=True, valid=valid)
    return engine(folder, METHODS[name](), stream=stream, model=base(durations), **options)


def engine(
    folder: Path,
    method: Method | None = None,
    *,
    tasks: int = 2,
    stream: list[Task] | None = None,
    model: Voice | None = None,
    optimizer=torch.optim.AdamW,
    epochs: int = 2,
    batch_size: int = 2,
    lr: float = 5e-3,
    known: bool = True,
    patience: int | None = None,
    **run_opts,
) -> Engine:
    return Engine(
        brain=EnrolmentBrain,
        modules={"model": Enroller(model or base(), detach_durations=False)},
        method=method or USAT(),
        stream=stream or one_by_one(tasks, valid=patience is not None),
        training=Training(
            functools.partial(optimizer, lr=lr),
            epochs=epochs,
            batch_size=batch_size,
            task_known=known,
            patience=patience,
            checkpoint_interval_s=0.0,
        ),
        folder=folder,
        run_opts={"noprogressbar": True, "device": "cpu", **run_opts},
    )
