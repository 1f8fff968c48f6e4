"""Two processes learn clips and names as one does, though names look at the whole batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.integration import run_audio_text

SCRIPT = Path(__file__).with_name("run_audio_text.py")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    run_audio_text.main(one)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*torchrun, str(SCRIPT), str(two)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return one, two


@pytest.mark.parametrize("method", ["FineTune", "ER"])
def test_two_processes_equal_one(method, folders):
    one, two = (torch.load(folder / f"{method}.pt") for folder in folders)
    for name, value in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], value, rtol=0, atol=1e-5)
    assert two["matrix"] == one["matrix"]
