"""Learns two tasks of words and saves what it ends with: run_audio_text.py FOLDER."""

import functools
import os
import sys
from pathlib import Path

import torch
from speechbrain.utils.distributed import ddp_init_group, if_main_process

sys.path.insert(0, str(Path(__file__).parents[2]))

from speechcl.methods import ER, FineTune  # noqa: E402
from tests.audio_text_toy import audio_text_engine  # noqa: E402
from tests.toy import weights  # noqa: E402


def main(folder: Path) -> None:
    if "RANK" in os.environ:
        ddp_init_group({"distributed_backend": "gloo"})
    for method in (FineTune(), ER(capacity=9, replay=5)):
        name = type(method).__name__
        # an odd batch, so that the processes' slices differ; AdamW would make steps of rounding
        # noise, which is all that the bias of the keys gets
        sgd = functools.partial(torch.optim.SGD, lr=0.05, momentum=0.9)
        options = {"optimizer": sgd, "distributed_backend": "gloo"}
        engine = audio_text_engine(folder / name, method, **options)
        results = engine.run()
        if if_main_process():
            found = {"matrix": results["matrix"], "weights": weights(engine)}
            torch.save(found, folder / f"{name}.pt")
    if "RANK" in os.environ:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
