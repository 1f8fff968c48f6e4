"""The benchmarks of the voice model run, and what they assert before they time holds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
LINES = {  # of usat_rtf.py there are more where transformers is installed
    "usat_rtf.py": {f"usat_rtf_{name}_voice" for name in ("base_hifigan", "base_istft", "small")},
    "usat_enrolment.py": {"usat_enrolment_small", "usat_enrolment_small_together"},
}


@pytest.mark.slow
@pytest.mark.parametrize("script", LINES)
def test_it_runs_and_prints_a_line_a_result(script):
    command = [sys.executable, BENCHMARKS / script, "--quick"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    names = {json.loads(line)["name"] for line in run.stdout.splitlines()}
    assert names >= LINES[script]
