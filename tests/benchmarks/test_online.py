"""The benchmarks of learning in one pass run, and both sides of the views change items alike."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.slow
def test_it_runs_and_prints_a_line_a_ready_set():
    command = [sys.executable, BENCHMARKS / "views.py", "--quick"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    names = [json.loads(line)["name"] for line in run.stdout.splitlines()]
    sets = ("image_views", "strong_image_views", "spectrogram_views", "waveform_views")
    assert names == [f"views: {one}" for one in sets]


@pytest.mark.slow
def test_the_mechanisms_are_measured_for_every_method():
    command = [sys.executable, BENCHMARKS / "online_mechanisms.py", "--quick"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    assert [line["name"].split()[0] for line in lines] == ["ER", "ER", "ER", "OnPro", "OnPro"]
    assert ["cosine" in line["mean"] for line in lines] == [False] * 3 + [True] * 2
    assert all(len(line["runs"][one]) == 2 for line in lines for one in ("accuracy", "old_as_new"))
    default, forced = lines[1]["runs"], lines[2]["runs"]
    assert default != forced  # the gate was open
