"""How long does a voice take to fit, and what does it save to remember what is heard?

A base with random weights, of each size, meets a speaker with a minute of speech: ten clips of 6 s,
noise and tones, each with 120 random symbols. A pass over the minute is two steps of five clips
through the engine's brain: latents drawn, text aligned, adapters and vector trained by AdamW. What
the frozen posterior encoder hears in a clip is computed once; the side to compare with computes it
at every step. ``minute_s`` are seconds of 30 passes, which the recipes take at most.

Then four speakers learn two clips each in one step; beside it stand four steps of two clips, one
speaker after another. Before a time is printed: what is remembered is what is heard anew, and the
divergence of the four together is the mean of theirs alone. Freed memory is kept.
"""

import functools
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import speechbrain as sb
import torch
from timing import arguments, interleaved, keep_freed_memory, report, seconds

from speechcl import Engine, Training
from speechcl.backbones.usat.losses import kl_loss
from speechcl.backbones.usat.model import USAT as Voice
from speechcl.backbones.usat.presets import PRESETS
from speechcl.brains.enrolment import Enroller, EnrolmentBrain
from speechcl.data.labelled import Classes
from speechcl.methods import USAT
from speechcl.task import Task

CLIP_S, CLIPS, SYMBOLS, SPEAKERS, PASSES = 6, 10, 120, 4, 30
Batch = dict[str, torch.Tensor]


class Clips(torch.utils.data.Dataset):
    """Speakers are pitches in noise; what they say are random symbols."""

    def __init__(self, speakers: list[int], clips: int, rate_hz: int, duration_s: float) -> None:
        draw = torch.Generator().manual_seed(0)
        time_s = torch.arange(round(rate_hz * duration_s)) / rate_hz
        self.labels = torch.tensor(speakers).repeat_interleave(clips)
        pitch_hz = 100.0 * (1 + self.labels)[:, None]
        noise = torch.randn(len(self.labels), len(time_s), generator=draw)
        self.sound = 0.2 * torch.sin(6.283 * pitch_hz * time_s) + 0.05 * noise
        symbols = max(2, round(SYMBOLS * duration_s / CLIP_S))
        self.ids = torch.randint(1, 100, (len(self.labels), symbols), generator=draw)
        self.classes = Classes(tuple(f"speaker {k}" for k in range(SPEAKERS)), column="speaker")
        self.clips = 100 * self.labels + torch.arange(clips).repeat(len(speakers))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitems__(self, indices: list[int]) -> Batch:
        samples = torch.full((len(indices),), self.sound.shape[1])
        sound = self.sound[indices]
        return {
            "ids": self.ids[indices],
            "id_lengths": torch.full((len(indices),), self.ids.shape[1]),
            "waveform": sound,
            "samples": samples,
            "reference": sound,
            "reference_samples": samples,
            "speaker": self.labels[indices],
            "clip": self.clips[indices],
        }

    @staticmethod
    def collate(batch: Batch) -> Batch:
        """Return the batch, which is put together already."""
        return batch


class Fitting:
    """Takes training steps of a task on demand."""

    def __init__(self, preset: str, data: Clips, folder: Path) -> None:
        torch.manual_seed(0)
        model = Voice(preset)
        for parameter in model.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.02)
        task = Task(0, "speaker", data, None, data)
        engine = Engine(
            brain=EnrolmentBrain,
            modules={"model": Enroller(model, detach_durations=False)},
            method=USAT(),
            stream=[task],
            training=Training(functools.partial(torch.optim.AdamW, lr=1e-3), epochs=1),
            folder=folder,
            run_opts={"noprogressbar": True, "device": "cpu"},
        )
        engine.method.before_task(task, engine)
        self.brain: Any = engine._brain(task, opt_class=engine.training.optimizer)
        self.brain.on_fit_start()
        self.brain.modules.train()
        self.parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)

    def step(self, batch: Batch, anew: bool = False) -> None:
        """Train on a batch; ``anew`` forgets what was heard in its clips."""
        if anew:
            self.brain.heard.clear()
        self.brain.fit_batch(batch)

    @torch.no_grad()
    def divergence(self, batch: Batch) -> torch.Tensor:
        """Return the divergence of a batch."""
        self.brain.modules.eval()
        latents, aligned = self.brain.compute_forward(batch, sb.Stage.VALID)
        return kl_loss(
            aligned.timbre_free, latents.log_scale, aligned.mean, aligned.log_scale, latents.mask
        )


def a_minute(name: str, preset: str, folder: Path, quick: bool) -> None:
    """Time a pass over a minute of one speaker."""
    rate_hz, duration_s = PRESETS[preset].rate_hz, 0.5 if quick else CLIP_S
    data = Clips([0], CLIPS, rate_hz, duration_s)
    batches = [data.__getitems__(list(range(k, k + 5))) for k in range(0, CLIPS, 5)]
    sides = {way: Fitting(preset, data, folder / way) for way in ("remembered", "anew")}
    brain = sides["remembered"].brain
    for batch in batches:
        expected = brain.voice.encode(batch["waveform"], batch["samples"])
        for _ in range(2):
            found = brain.latents(batch, 0)
            torch.testing.assert_close(found.mean, expected.mean)

    def passing(way: str) -> float:
        def work() -> None:
            for batch in batches:
                sides[way].step(batch, anew=way == "anew")

        return seconds(work)

    works: dict[str, Callable[[], float]] = {
        way: functools.partial(passing, way) for way in ("remembered", "anew")
    }
    took = interleaved(works, 1 if quick else 7)
    spoken_s = CLIPS * duration_s
    minute_s = PASSES * statistics.median(took["remembered"]) * 60 / spoken_s
    report(
        f"usat_enrolment_{name}",
        {"clips": CLIPS, "spoken_s": spoken_s, "rate_hz": rate_hz, "symbols": data.ids.shape[1]},
        took["remembered"],
        took["anew"],
        None,
        trained=sides["anew"].parameters,
        passes=PASSES,
        minute_s=float(f"{minute_s:.3g}"),
    )


def at_once(name: str, preset: str, folder: Path, quick: bool) -> None:
    """Time a step of several speakers, over a step of each."""
    rate_hz, duration_s = PRESETS[preset].rate_hz, 0.5 if quick else CLIP_S
    data = Clips(list(range(SPEAKERS)), 2, rate_hz, duration_s)
    together = Fitting(preset, data, folder / "together")
    alone = [
        Fitting(preset, Clips([k], 2, rate_hz, duration_s), folder / str(k))
        for k in range(SPEAKERS)
    ]
    whole = data.__getitems__(list(range(len(data))))
    parts = [data.__getitems__([2 * k, 2 * k + 1]) for k in range(SPEAKERS)]
    each = [side.divergence(part) for side, part in zip(alone, parts, strict=True)]
    expected = torch.stack(each).mean()
    torch.testing.assert_close(together.divergence(whole), expected, rtol=1e-4, atol=0.0)

    def one_after_another() -> None:
        for side, part in zip(alone, parts, strict=True):
            side.step(part)

    works = {
        "together": functools.partial(seconds, functools.partial(together.step, whole)),
        "alone": functools.partial(seconds, one_after_another),
    }
    took = interleaved(works, 1 if quick else 7)
    sizes = {"speakers": SPEAKERS, "clips": 2, "clip_s": duration_s, "rate_hz": rate_hz}
    report(f"usat_enrolment_{name}_together", sizes, took["together"], took["alone"], None)


def main() -> None:
    quick = arguments(__doc__).quick
    keep_freed_memory()
    presets = {"small": "usat_small", "base": "usat_base"}
    if quick:
        presets = {"small": "usat_tiny"}
    with tempfile.TemporaryDirectory() as folder:
        for name, preset in presets.items():
            a_minute(name, preset, Path(folder) / f"{name}_minute", quick)
            at_once(name, preset, Path(folder) / f"{name}_together", quick)


if __name__ == "__main__":
    main()
