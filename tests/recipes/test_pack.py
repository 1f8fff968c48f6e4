"""Recordings as one small folder of Opus files: each keeps its own sound and text."""

import csv
import importlib.util
from pathlib import Path

import pytest
import soundfile
import torch

from speechcl.data.audio import write_audio

PACK = Path(__file__).parents[2] / "recipes" / "OwnSpeech" / "tts" / "pack.py"


@pytest.fixture(scope="module")
def pack():
    spec = importlib.util.spec_from_file_location("pack", PACK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.pack


def clip(file, seconds):
    write_audio(file, 0.1 * torch.randn(round(16000 * seconds)).clamp(-3, 3), 16000)
    file.with_suffix(".txt").write_text(f"It lasts {seconds} seconds.")


def rows_of(folder):
    with (folder / "metadata.csv").open(newline="") as table:
        return list(csv.DictReader(table))


def test_clips_of_like_names_stay_apart(pack, tmp_path):
    clip(tmp_path / "data" / "ann" / "x 1.wav", 1.0)
    clip(tmp_path / "data" / "ann" / "x_1.wav", 2.0)
    assert "2 clips of 1 speakers" in pack([tmp_path / "data"], tmp_path / "packed")
    rows = rows_of(tmp_path / "packed")
    for row in rows:
        seconds = soundfile.info(tmp_path / "packed" / row["path"]).duration
        assert row["text"] == f"It lasts {round(seconds, 1)} seconds."
    assert len({row["path"] for row in rows}) == 2


def test_a_changed_recording_is_packed_anew(pack, tmp_path):
    file = tmp_path / "data" / "ann" / "a.wav"
    for seconds in (1.0, 2.0):
        clip(file, seconds)
        pack([tmp_path / "data"], tmp_path / "packed")
        (row,) = rows_of(tmp_path / "packed")
        found = soundfile.info(tmp_path / "packed" / row["path"]).duration
        assert found == pytest.approx(seconds, abs=0.05)


def test_an_age_in_words_is_unknown(pack, tmp_path):
    clip(tmp_path / "data" / "a.wav", 1.0)
    (tmp_path / "data" / "metadata.csv").write_text(
        "id,path,speaker,text,age\na,a.wav,ann,Hello.,adult\n"
    )
    assert "1 clips" in pack([tmp_path / "data"], tmp_path / "packed", youngest=18)
