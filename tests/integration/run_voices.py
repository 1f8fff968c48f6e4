"""Fits the toy voices by every method that leaves the base as it is: run_voices.py FOLDER."""

import os
import sys
from pathlib import Path

import torch
from speechbrain.utils.distributed import ddp_init_group, if_main_process

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.toy import weights  # noqa: E402
from tests.voices_toy import BESIDE, conforming  # noqa: E402


def main(folder: Path) -> None:
    if "RANK" in os.environ:
        ddp_init_group({"distributed_backend": "gloo"})
    for name in BESIDE:
        # the noise of stochastic durations is drawn for a whole batch, by each process anew
        options = {"durations": "deterministic", "patience": 1, "distributed_backend": "gloo"}
        options |= {"batch_size": 4}
        engine = conforming(folder / name, name, **options)
        results = engine.run()
        if if_main_process():
            found = {"matrix": results["matrix"], "weights": weights(engine)}
            torch.save(found, folder / f"{name}.pt")
    if "RANK" in os.environ:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
