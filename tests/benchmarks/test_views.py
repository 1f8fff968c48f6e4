"""The benchmark of views runs, and both sides change items alike."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "views.py"


@pytest.mark.slow
def test_it_runs_and_prints_a_line_a_ready_set():
    command = [sys.executable, SCRIPT, "--quick"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    names = [json.loads(line)["name"] for line in run.stdout.splitlines()]
    sets = ("image_views", "strong_image_views", "spectrogram_views", "waveform_views")
    assert names == [f"views: {one}" for one in sets]
