"""The benchmark of the voice model runs, and what it asserts before it times holds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "usat_rtf.py"
VOICES = {f"usat_rtf_{model}_voice" for model in ("base_hifigan", "base_istft", "small")}


@pytest.mark.slow
def test_it_runs_and_prints_a_line_a_result():
    command = [sys.executable, SCRIPT, "--quick"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    names = {json.loads(line)["name"] for line in run.stdout.splitlines()}
    assert names >= VOICES  # the others need transformers
