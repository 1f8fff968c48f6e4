import hashlib
import json

import pytest
import soundfile

from speechcl.data.embedded import STAND_IN, build_embedded
from speechcl.data.espeak import VOICES
from speechcl.data.manifest import COLUMNS, read_manifest


def digests(rows):
    from pathlib import Path

    return {row["ID"]: hashlib.sha256(Path(row["wav"]).read_bytes()).hexdigest() for row in rows}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embedded")
    return folder, build_embedded(folder, voices=8, sentences=3, workers=1)


def test_manifest_has_the_columns_and_is_read_back(built):
    folder, rows = built
    assert len(rows) == 24
    assert set(rows[0]) == set(COLUMNS)
    assert rows == read_manifest(folder / "manifest.csv")
    assert "$data_root/clips/" in (folder / "manifest.csv").read_text()
    assert {row["label"] for row in rows} == {"bonafide"}
    assert {row["attack"] for row in rows} == {"-"}
    assert len({row["accent"] for row in rows}) == 8


def test_clips_are_16_khz_16_bit_of_a_few_seconds(built):
    for row in built[1]:
        about = soundfile.info(row["wav"])
        assert (about.samplerate, about.channels, about.subtype) == (16000, 1, "PCM_16")
        assert about.frames / 16000 == pytest.approx(row["duration"], abs=1e-3)
        assert 1.0 < row["duration"] < 7.0


def test_speakers_are_in_one_split_and_a_fourth_is_test(built):
    tests = {row["speaker"] for row in built[1] if row["split"] == "test"}
    trains = {row["speaker"] for row in built[1] if row["split"] == "train"}
    assert (len(tests), len(trains)) == (2, 6)
    assert not tests & trains


def test_a_speaker_says_different_sentences(built):
    for speaker in {row["speaker"] for row in built[1]}:
        assert len({row["text"] for row in built[1] if row["speaker"] == speaker}) == 3


@pytest.mark.slow
def test_same_clips_whatever_the_number_of_workers(built, tmp_path):
    again = build_embedded(tmp_path, voices=8, sentences=3, workers=2)
    assert digests(again) == digests(built[1])


def test_another_seed_gives_other_clips(built, tmp_path):
    other = build_embedded(tmp_path, voices=8, sentences=3, seed=1, workers=1)
    ours = digests(built[1])
    assert not any(ours[name] == digest for name, digest in digests(other).items())


def test_a_finished_folder_is_reused_and_another_configuration_is_not(tmp_path):
    rows = build_embedded(tmp_path, voices=2, sentences=1, workers=1)
    marks = {row["wav"]: soundfile.info(row["wav"]).frames for row in rows}
    for path in marks:
        soundfile.write(path, [0.25] * 100, 16000)
    assert build_embedded(tmp_path, voices=2, sentences=1, workers=1) == rows
    assert all(soundfile.info(path).frames == 100 for path in marks)
    more = build_embedded(tmp_path, voices=2, sentences=2, workers=1)
    assert len(more) == 4
    assert all(soundfile.info(path).frames == frames for path, frames in marks.items())


@pytest.mark.parametrize("damage", ["missing", "broken"])
def test_an_unfinished_folder_is_built_again(tmp_path, damage):
    rows = build_embedded(tmp_path, voices=1, sentences=1, workers=1)
    note = tmp_path / "embedded.json"
    note.unlink() if damage == "missing" else note.write_text("{")
    soundfile.write(rows[0]["wav"], [0.25] * 100, 16000)
    build_embedded(tmp_path, voices=1, sentences=1, workers=1)
    assert soundfile.info(rows[0]["wav"]).frames > 100


def test_it_says_that_it_is_synthetic(built):
    note = json.loads((built[0] / "embedded.json").read_text())
    assert note["about"] == STAND_IN
    assert "ynthetic" in STAND_IN


def test_numbers_out_of_range(tmp_path):
    with pytest.raises(ValueError, match="voices is 41"):
        build_embedded(tmp_path, voices=len(VOICES) + 1)
    with pytest.raises(ValueError, match="sentences is 0"):
        build_embedded(tmp_path, sentences=0)
    assert not list(tmp_path.iterdir())
