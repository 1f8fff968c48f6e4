"""Two processes fit the voices that one fits, whoever speaks in whose part of a batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.voices_toy import BESIDE

pytestmark = pytest.mark.slow  # half a minute

SCRIPT = Path(__file__).with_name("run_voices.py")


def run(folder: Path, *launcher: str) -> Path:
    command = [sys.executable, *launcher, str(SCRIPT), str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    return run(one), run(two, *torchrun)


@pytest.mark.parametrize("name", BESIDE)
def test_two_processes_equal_one(name, folders):
    one, two = (torch.load(folder / f"{name}.pt") for folder in folders)
    assert one["weights"].keys() == two["weights"].keys()
    for key, value in one["weights"].items():
        torch.testing.assert_close(two["weights"][key], value, rtol=0, atol=1e-5)
    for row, other in zip(one["matrix"], two["matrix"], strict=True):
        assert other == pytest.approx(row, abs=1e-4)
