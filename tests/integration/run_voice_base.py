"""Trains a tiny voice model without noise: run_voice_base.py FOLDER.

Batch norms share no statistics among processes on a CPU: that of the speaker encoder is frozen.
That of the judge of timbre is not, so that what it teaches is left out of the longer run.
"""

import functools
import os
import sys
from pathlib import Path
from unittest import mock

import torch
from speechbrain.utils.distributed import ddp_init_group
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from speechcl.brains.voice import VoiceBrain, voice_modules  # noqa: E402
from speechcl.engine import Engine, Training  # noqa: E402
from speechcl.methods import FineTune  # noqa: E402
from speechcl.task import Task, make_stream  # noqa: E402
from tests.toy import weights  # noqa: E402
from tests.voices_toy import TonesInOrder, base  # noqa: E402


class KnownSpeakers(FineTune):
    """Train everything but the speaker encoder."""

    def before_task(self, task: Task, engine: Engine) -> None:
        engine.modules["model"].speaker_encoder.requires_grad_(False)


def main(folder: Path) -> None:
    if "RANK" in os.environ:
        ddp_init_group({"distributed_backend": "gloo"})
    for name, epochs, warm_up in (("alone", 3, 3), ("judged", 1, 0)):
        torch.manual_seed(0)
        modules = voice_modules(base("deterministic"))
        modules["model"].durations.dropout = 0.0
        for part in modules["model"].modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.0
        data = TonesInOrder({"a": 220.0, "b": 110.0}, items=5, seconds=2.2, uneven=True)
        engine = Engine(
            brain=functools.partial(VoiceBrain, slice_frames=8, warm_up=warm_up),
            modules=modules,
            method=KnownSpeakers(),
            stream=make_stream([("base", data, data)]),
            training=Training(
                functools.partial(torch.optim.SGD, lr=0.02), epochs=epochs, batch_size=10
            ),
            folder=folder / name,
            run_opts={"noprogressbar": True, "device": "cpu", "distributed_backend": "gloo"},
        )
        # each process would draw other noise, and other slices
        with mock.patch("torch.randn", nothing), mock.patch("torch.rand", nothing):
            engine.run()
        torch.save(weights(engine), folder / f"{name}_{os.environ.get('RANK', 0)}.pt")
    if "RANK" in os.environ:
        torch.distributed.destroy_process_group()


def nothing(*size, generator=None, **options):
    return torch.zeros(*size, **options)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
