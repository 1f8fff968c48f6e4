"""The benchmarks of the adapters run, and what they assert before they time holds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = ["adapter_forward", "adapter_kinds", "adapter_swap", "osft_init", "osft_step"]


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_it_runs_and_prints_a_line_a_result(script):
    command = [sys.executable, FOLDER / f"{script}.py", "--quick"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    assert lines
    assert all(line["name"].startswith(script.split("_")[0]) for line in lines)
