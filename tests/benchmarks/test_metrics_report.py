"""The benchmark of the detection figures runs, and finds them equal to its peer's."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "metrics_report.py"


@pytest.mark.slow
def test_metrics_report_runs_and_prints_one_line_a_result():
    run = subprocess.run(
        [sys.executable, SCRIPT, "--quick"], capture_output=True, text=True, check=True
    )
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(lines) == 6
    assert {line["name"] for line in lines} == {"metrics_report"}
    assert all(line["largest_relative_difference"] <= 1e-9 for line in lines)
