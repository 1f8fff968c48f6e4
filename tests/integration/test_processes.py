"""Two processes learn what one learns, and a killed process goes on where it stopped."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.toy import METHODS, same

SCRIPT = Path(__file__).with_name("run_toy.py")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def run(command: list[str]) -> None:
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    run([sys.executable, str(SCRIPT), str(folder)])
    return folder


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    run([*torchrun, "--nproc_per_node=2", str(SCRIPT), str(folder)])
    return folder


# The official update amplifies the rounding noise of a Q that is zero, so it is left out.
@pytest.mark.parametrize("name", [name for name in METHODS if name != "RWM official"])
def test_two_processes_equal_one(name, one_process, two_processes):
    one, two = (torch.load(f / f"{name}.pt") for f in (one_process, two_processes))
    for key, value in one["weights"].items():
        torch.testing.assert_close(two["weights"][key], value, rtol=0, atol=1e-5)
    for key, value in one["state"].items():
        torch.testing.assert_close(two["state"][key], value, rtol=1e-5, atol=1e-5)
    for row, other in zip(one["matrix"], two["matrix"], strict=True):
        assert other == pytest.approx(row, abs=1e-5)


@pytest.mark.slow
def test_sigkill_then_resume_is_bit_for_bit(one_process, tmp_path):
    command = [sys.executable, str(SCRIPT), str(tmp_path)]
    progress = tmp_path / "RWM" / "save" / "task_01"
    process = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not progress.is_dir() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    assert not (tmp_path / "RWM.pt").exists()
    run(command)
    for name in METHODS:
        found, expected = (torch.load(f / f"{name}.pt") for f in (tmp_path, one_process))
        assert same(found["weights"], expected["weights"]), name
        assert found["matrix"] == expected["matrix"], name
