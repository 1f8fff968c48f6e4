"""Runs every method on the toy stream and saves what it ends with: run_toy.py FOLDER."""

import os
import sys
from pathlib import Path

import torch
from speechbrain.utils.distributed import ddp_init_group, if_main_process

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.toy import METHODS, ToyNet, toy_engine, weights  # noqa: E402


def main(folder: Path) -> None:
    if "RANK" in os.environ:
        ddp_init_group({"distributed_backend": "gloo"})
    for name, make in METHODS.items():
        torch.manual_seed(0)
        model = ToyNet()
        model.drop.p = 0.0  # each process would drop other units
        # odd sizes, so that the processes' slices differ
        sizes = {"clips": 121, "batch_size": 25}
        engine = toy_engine(folder / name, make(), model=model, distributed_backend="gloo", **sizes)
        results = engine.run()
        if if_main_process():
            found = {"matrix": results["matrix"], "weights": weights(engine)}
            found["state"] = dict(engine.method.state_dict())
            torch.save(found, folder / f"{name}.pt")
    if "RANK" in os.environ:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
