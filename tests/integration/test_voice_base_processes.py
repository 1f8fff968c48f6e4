"""Two processes train the voice model, and its judges, that one trains."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("run_voice_base.py")


def run(folder: Path, *launcher: str) -> Path:
    command = [sys.executable, *launcher, str(SCRIPT), str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    return run(one), run(two, *torchrun)


def test_clips_of_uneven_lengths_count_as_in_one_process(folders):
    one, two = (torch.load(folder / "alone_0.pt") for folder in folders)
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=0, atol=1e-5, msg=key)


def test_judges_learn_what_they_learn_in_one_process(folders):
    one, two = (torch.load(folder / "judged_0.pt") for folder in folders)
    judges = [key for key in one if key.startswith("judges.")]
    assert len(judges) > 20
    for key in judges:
        torch.testing.assert_close(two[key], one[key], rtol=0, atol=1e-6, msg=key)


@pytest.mark.parametrize("name", ["alone", "judged"])
def test_all_processes_hold_the_same_weights(name, folders):
    first, second = (torch.load(folders[1] / f"{name}_{rank}.pt") for rank in (0, 1))
    own = [
        key for key in first if "timbre" in key and "num_batches" not in key and "running" in key
    ]
    assert own, "statistics of batch norms, which the first process keeps"
    assert all(torch.equal(first[key], second[key]) for key in first if key not in own)
