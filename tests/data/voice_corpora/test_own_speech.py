"""Own recordings: where texts, speakers and splits come from, and who is left out."""

from pathlib import Path

import pytest

from speechcl.data.manifest import write_manifest
from speechcl.data.manifest_checks import ManifestError
from speechcl.data.voice_corpora import deal_clips, keep_pairs, read_own_speech
from tests.data.voice_corpora import trees

DATA = Path(__file__).parents[4] / "shared" / "data"
HEADER = "id,path,speaker,accent,text,split\n"


def pack(folder, *lines, header=HEADER):
    """Write a pack; each line is speaker, split and, if not as usual, text."""
    table, files = header, {}
    for number, (speaker, split, *text) in enumerate(lines):
        name = f"{speaker}_{number}"
        files[f"audio/{name}.flac"] = None
        said = text[0] if text else f'"{trees.TEXTS[number % 3]}"'
        table += f"{name},audio/{name}.flac,{speaker},English (SW England),{said},{split}\n"
    return trees.write_tree(folder, {"metadata.csv": table, **files})


def found(rows, *columns):
    return [tuple(row[column] for column in columns) for row in rows]


def test_texts_lie_beside_clips_in_folders_of_speakers(tmp_path, caplog):
    trees.own_speech(tmp_path / "mine", clips=2)
    (tmp_path / "mine" / "ben" / "1.txt").unlink()
    rows = read_own_speech(tmp_path / "mine")
    assert found(rows, "ID", "speaker", "text", "split") == [
        ("mine-ann-0", "ann", trees.TEXTS[0], ""),
        ("mine-ann-1", "ann", trees.TEXTS[1], ""),
        ("mine-ben-0", "ben", trees.TEXTS[0], ""),
    ]
    assert "left out 1 clips without text: mine-ben-1" in caplog.text


def test_a_pack_says_text_split_and_accent(tmp_path):
    folder = pack(tmp_path / "pack", ("ann", "train", '"Well, yes."'), ("ann", "test"), ("ben", ""))
    rows = read_own_speech(folder)
    assert found(rows, "speaker", "split", "accent") == [
        ("ann", "train", "British"),
        ("ann", "test", "British"),
        ("ben", "", "British"),
    ]
    assert rows[0]["text"] == "Well, yes."


def test_a_pack_named_from_beside_it_keeps_its_splits(tmp_path, monkeypatch):
    pack(tmp_path / "pack", ("ann", "train"), ("ben", "adapt"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    assert found(read_own_speech("../pack"), "speaker", "split") == [("ann", "train")]


def test_packs_without_a_split_are_read_too(tmp_path):
    files = {"metadata.csv": "id,path,speaker,text\na,a.wav,ann,Hello.\n", "a.wav": None}
    rows = read_own_speech(trees.write_tree(tmp_path / "pack", files))
    assert found(rows, "speaker", "text", "split") == [("ann", "Hello.", "")]


def test_valid_is_tested_on_where_a_corpus_has_no_test(tmp_path):
    one = pack(tmp_path / "one", ("ann", "train"), ("ann", "valid"))
    two = pack(tmp_path / "two", ("ben", "train"), ("ben", "valid"), ("ben", "test"))
    rows = read_own_speech([one, two])
    assert [row["split"] for row in rows] == ["train", "test", "train", "valid", "test"]


def test_speakers_to_adapt_to_are_left_out_or_taken_alone(tmp_path, caplog):
    lines = [("ann", "train"), ("ben", "adapt"), ("ben", "train"), ("cy", "adapt")]
    folder = pack(tmp_path / "pack", *lines)
    assert found(read_own_speech(folder), "speaker") == [("ann",)]
    assert "left out 2 speakers to adapt to, marked by the split adapt: ben, cy" in caplog.text
    assert found(read_own_speech(folder, adapt=True), "speaker", "split") == [
        ("ben", ""),
        ("ben", ""),
        ("cy", ""),
    ]
    with pytest.raises(ManifestError, match="no speaker has the split 'adapt'"):
        read_own_speech(pack(tmp_path / "other", ("ann", "train")), adapt=True)


def test_an_unknown_split_is_refused(tmp_path):
    with pytest.raises(ManifestError, match="split is 'dev': write one of train, valid, test"):
        read_own_speech(pack(tmp_path / "pack", ("ann", "dev")))


def test_a_manifest_is_read_with_its_splits(tmp_path):
    trees.own_speech(tmp_path / "mine", ("ann",), clips=2)
    rows = read_own_speech(tmp_path / "mine")
    write_manifest(tmp_path / "m.csv", [{**row, "split": "train"} for row in rows])
    again = read_own_speech(tmp_path / "m.csv")
    assert found(again, "speaker", "text", "split") == found(
        [{**row, "split": "train"} for row in rows], "speaker", "text", "split"
    )


def test_two_rows_of_a_manifest_with_one_id_are_refused(tmp_path):
    trees.write_speech(tmp_path / "a.wav")
    (tmp_path / "m.csv").write_text("ID,wav,duration,speaker,text\n" + "a,a.wav,1,x,Hi\n" * 2)
    with pytest.raises(ManifestError, match=r"ID 'a' is used 2 times \(rows 2, 3\)"):
        read_own_speech(tmp_path / "m.csv")


def test_a_folder_as_that_of_lj_speech_is_one_speaker(tmp_path, caplog):
    lines = '1|He said "no|He said "no\n2|In 1984|In nineteen eighty four\n3|Well.\n4|gone|gone\n'
    files = {f"wavs/{number}.wav": None for number in (1, 2, 3, 5)}
    trees.write_tree(tmp_path / "all" / "linda", {"metadata.csv": lines, **files})
    for folder in (tmp_path / "all", tmp_path / "all" / "linda"):
        rows = read_own_speech(folder)
        assert found(rows, "speaker", "text") == [
            ("linda", 'He said "no'),
            ("linda", "In nineteen eighty four"),
            ("linda", "Well."),
        ]
    assert "1 clips without text: all-linda-wavs-5" in caplog.text


def test_a_missing_folder_and_a_broken_clip_are_named(tmp_path):
    with pytest.raises(ManifestError, match=r"nowhere': no such folder"):
        read_own_speech(tmp_path / "nowhere")
    trees.own_speech(tmp_path / "mine")
    (tmp_path / "mine" / "ann" / "0.wav").write_bytes(b"no sound")
    with pytest.raises(ManifestError, match=r"ann/0\.wav': cannot be decoded"):
        read_own_speech(tmp_path / "mine")


def test_recordings_without_any_text_are_refused(tmp_path):
    trees.write_speech(tmp_path / "mine" / "ann" / "a.wav")
    with pytest.raises(ManifestError, match="none of 1 clips has a text"):
        read_own_speech(tmp_path / "mine")


@pytest.mark.skipif(
    not (DATA / "speech-tts").is_dir() or not (DATA / "speech-accents").is_dir(),
    reason="no recorded speech beside the repository",
)
def test_recorded_packs_keep_their_speakers_to_adapt_to(caplog):
    sources = [DATA / "speech-tts", DATA / "speech-accents"]
    rows, kept = read_own_speech(sources), read_own_speech(sources, adapt=True)
    speakers = {row["speaker"] for row in rows}
    assert len(rows) > 3000
    assert len(speakers) > 180
    assert len({row["speaker"] for row in kept}) == 28
    assert not speakers & {row["speaker"] for row in kept}
    assert "left out 28 speakers to adapt to" in caplog.text
    used = keep_pairs(deal_clips(rows))
    assert {row["split"] for row in used} == {"train", "test"}
    assert {row["accent"] for row in rows} >= {"British", "American", "Mandarin Chinese L1"}
