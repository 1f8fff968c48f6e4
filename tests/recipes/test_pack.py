"""Recordings packed as Opus files: small, whole, and read again with all that is known of them."""

import importlib.util
from pathlib import Path

import pytest
import soundfile

from speechcl.data.audio import read_audio
from speechcl.data.voice_corpora import read_own_speech
from tests.data.voice_corpora import trees

RECIPE = Path(__file__).parents[2] / "recipes" / "OwnSpeech" / "tts" / "pack.py"
spec = importlib.util.spec_from_file_location("pack", RECIPE)
pack = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pack)


@pytest.fixture
def data(tmp_path):
    """Two speakers of 30 and 9 years, one of unknown age and one to adapt to."""
    table = "id,path,speaker,age,accent,text,split\n"
    for name, age, split in (("ann", 30, "train"), ("kid", 9, "train"), ("ben", "", "test")):
        table += f'{name},{name}.wav,{name},{age},British,"Well, yes.",{split}\n'
        trees.write_speech(tmp_path / "data" / f"{name}.wav", 1.5)
    table += "tim,tim.wav,tim,30,British,Hello.,adapt\n"
    trees.write_speech(tmp_path / "data" / "tim.wav", 1.5)
    (tmp_path / "data" / "metadata.csv").write_text(table)
    return tmp_path / "data"


def packed(data, output, *more):
    assert pack.main([str(data), "--output", str(output), *more]) == 0
    return read_own_speech(output)


def test_what_is_known_of_a_clip_stays_known(data, tmp_path):
    rows = packed(data, tmp_path / "out")
    assert [(row["speaker"], row["split"], row["accent"], row["text"]) for row in rows] == [
        ("ann", "train", "British", "Well, yes."),
        ("kid", "train", "British", "Well, yes."),
        ("ben", "test", "British", "Well, yes."),
    ]
    for row in rows:
        before, after = read_audio(data / f"{row['speaker']}.wav"), read_audio(row["wav"])
        assert soundfile.info(row["wav"]).subtype == "OPUS"
        assert len(after) == len(before)
        assert (before - after).square().mean() < 0.3 * before.square().mean()
        assert Path(row["wav"]).stat().st_size < 0.3 * 2 * len(before)


def test_children_can_be_left_out(data, tmp_path):
    rows = packed(data, tmp_path / "out", "--youngest", "18")
    assert [row["speaker"] for row in rows] == ["ann", "ben"]


def test_what_is_opus_is_copied_and_what_is_there_is_kept(data, tmp_path):
    first = packed(data, tmp_path / "out")
    before = {row["wav"]: Path(row["wav"]).stat().st_mtime_ns for row in first}
    assert packed(data, tmp_path / "out") == first
    assert {wav: Path(wav).stat().st_mtime_ns for wav in before} == before
    again = packed(tmp_path / "out", tmp_path / "again")
    for old, new in zip(first, again, strict=True):
        assert Path(old["wav"]).read_bytes() == Path(new["wav"]).read_bytes()


def test_a_folder_without_clips_is_one_line(tmp_path, capsys):
    assert pack.main([str(tmp_path / "none"), "--output", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("pack.py: ")
    assert said.count("\n") == 1
