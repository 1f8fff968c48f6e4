"""Readers of voice corpora on small copies: what they list, leave out and refuse."""

import re
import shutil

import pytest
import soundfile

from speechcl.data.corpora import CorpusNotFound
from speechcl.data.espeak import ACCENTS
from speechcl.data.manifest_checks import ManifestError
from speechcl.data.voice_corpora import (
    read_esltts,
    read_l2arctic,
    read_libritts,
    read_vctk,
)
from speechcl.data.voice_corpora.common import accent_name
from tests.data.voice_corpora import trees

READERS = {
    "VCTK": (read_vctk, trees.vctk, "Edinburgh DataShare"),
    "LibriTTS": (
        lambda folder: read_libritts(folder, ["train-clean-100"]),
        lambda folder: trees.libritts(folder, {"train-clean-100": "84"}),
        "openslr",
    ),
    "ESLTTS": (read_esltts, trees.esltts, "MushanW/ESLTTS"),
    "L2-ARCTIC": (read_l2arctic, trees.l2arctic, "psi.engr.tamu.edu"),
}


def names(rows, column="ID"):
    return [row[column] for row in rows]


def warnings(caplog):
    return " ".join(record.getMessage() for record in caplog.records)


# ---- all readers
@pytest.fixture(params=READERS)
def reader(request):
    return request.param, *READERS[request.param]


def test_rows_have_all_columns_and_absolute_paths(reader, tmp_path, monkeypatch):
    name, read, build, _ = reader
    build(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    rows = read("data")
    assert rows
    for row in rows:
        assert {"ID", "wav", "speaker", "accent", "corpus", "text", "split", "duration"} <= set(row)
        assert row["ID"].startswith(f"{name}-")
        assert row["wav"].startswith(str(tmp_path))
        assert row["duration"] == pytest.approx(1.2)
        assert row["corpus"] == name
        assert row["text"] in trees.TEXTS
    assert len(set(names(rows))) == len(rows)


@pytest.mark.parametrize("folder", ["nowhere", "."])
def test_a_missing_corpus_is_said_to_be_found_where_it_is_given_out(reader, folder, tmp_path):
    name, read, _, where = reader
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusNotFound, match=rf"^{name}: no .*get it from .*(?:{where})"):
        read(tmp_path / "empty" / folder)


def test_a_clip_that_cannot_be_opened_is_named(reader, tmp_path):
    _, read, build, _ = reader
    wav = read(build(tmp_path))[0]["wav"]
    with open(wav, "wb") as file:  # noqa: PTH123
        file.write(b"no sound")
    with pytest.raises(ManifestError, match=re.escape(wav)):
        read(tmp_path)


def test_a_corpus_without_any_text_is_refused(reader, tmp_path):
    name, read, build, _ = reader
    build(tmp_path)
    for text in tmp_path.rglob("*.txt"):
        if text.name != "speaker-info.txt":
            text.unlink()
    with pytest.raises(ManifestError, match=rf"^{name}: none of \d+ clips has a text"):
        read(tmp_path)


def test_a_text_that_is_not_utf8_is_named(reader, tmp_path):
    _, read, build, _ = reader
    build(tmp_path)
    text = next(file for file in tmp_path.rglob("*.txt") if file.name != "speaker-info.txt")
    text.write_bytes("café".encode("latin-1"))
    with pytest.raises(ManifestError, match=rf"{text.name}.*not UTF-8 \(byte 3\)"):
        read(tmp_path)


def test_accents_that_espeak_knows_are_called_as_there():
    assert accent_name("american") == "American"
    assert accent_name("Scottish") in ACCENTS.values()
    assert [accent_name(said) for said in ("Canadian", "Welsh")] == ["American", "British"]
    assert [accent_name(said) for said in ("English (unspecified)", "Irish", "")] == [
        "English (unspecified)",
        "Irish",
        "",
    ]


# ---- VCTK
def test_vctk_takes_the_microphone_that_is_asked_for(tmp_path, caplog):
    trees.vctk(tmp_path, ("p225", "p280"))
    for name in ("p225_001", "p225_002"):
        trees.write_speech(tmp_path / "wav48_silence_trimmed" / "p225" / f"{name}_mic2.flac", 0.5)
    assert len(read_vctk(tmp_path)) == 8
    assert "p280" not in warnings(caplog)
    rows = read_vctk(tmp_path, mic="mic2")
    assert names(rows) == ["VCTK-p225_001", "VCTK-p225_002"]
    assert all(row["wav"].endswith("_mic2.flac") for row in rows)
    assert {row["duration"] for row in rows} == {0.5}
    assert "left out 1 speakers without *_mic2.flac: p280" in warnings(caplog)
    with pytest.raises(ValueError, match="no part 'mic3'"):
        read_vctk(tmp_path, mic="mic3")


def test_vctk_clips_without_text_are_counted_and_left_out(tmp_path, caplog):
    trees.vctk(tmp_path, ("p225", "p315"))
    shutil.rmtree(tmp_path / "txt" / "p315")
    (tmp_path / "txt" / "p225" / "p225_002.txt").write_text(" \n")
    rows = read_vctk(tmp_path)
    assert names(rows) == ["VCTK-p225_001", "VCTK-p225_003", "VCTK-p225_004"]
    assert "left out 5 clips without text: VCTK-p225_002, VCTK-p315_001" in warnings(caplog)


def test_vctk_clips_that_are_missing_are_no_error(tmp_path):
    trees.vctk(tmp_path, ("p362",))
    (tmp_path / "wav48_silence_trimmed" / "p362" / "p362_003_mic1.flac").unlink()
    assert len(read_vctk(tmp_path)) == 3


def test_vctk_accents_come_from_the_table(tmp_path):
    trees.vctk(tmp_path, ("p225", "p234", "p245", "p294", "s5", "p999"), clips=1)
    (tmp_path / "speaker-info.txt").write_text(
        "ID  AGE  GENDER  ACCENTS  REGION COMMENTS \n"
        "p225  23  F    English    Southern  England\n"
        "p234  22  F    Scottish  West Dumfries\n"
        "p245  25  M    Irish    Dublin\n"
        "p294  33  F    American    San  Francisco  (mic2 files unavailable)\n"
        "s5  20  F    Canadian\n"
    )
    found = {row["speaker"]: row["accent"] for row in read_vctk(tmp_path)}
    assert found == {
        "p225": "British",
        "p234": "Scottish",
        "p245": "Irish",
        "p294": "American",
        "s5": "American",
        "p999": "",
    }


def test_vctk_older_release_is_read_too(tmp_path):
    files = {"speaker-info.txt": "ID  AGE  GENDER  ACCENTS  REGION\n225  23  F    Scottish  Fife\n"}
    for name in ("p225/p225_001", "p225/p225_002"):
        files |= {f"wav48/{name}.wav": None, f"txt/{name}.txt": "Please call Stella."}
    trees.write_tree(tmp_path / "VCTK-Corpus", files)
    rows = read_vctk(tmp_path)
    assert names(rows) == ["VCTK-p225_001", "VCTK-p225_002"]
    assert {(row["speaker"], row["accent"]) for row in rows} == {("p225", "Scottish")}
    assert rows == read_vctk(tmp_path / "VCTK-Corpus")


def test_vctk_says_which_of_its_parts_is_missing(tmp_path):
    trees.vctk(tmp_path)
    (tmp_path / "speaker-info.txt").unlink()
    with pytest.raises(CorpusNotFound, match=r"no speaker-info\.txt"):
        read_vctk(tmp_path)


# ---- LibriTTS
def test_libritts_parts_say_what_they_are_for(tmp_path):
    parts = {"train-clean-100": "84", "dev-other": "116", "test-clean": "121"}
    trees.libritts(tmp_path / "LibriTTS", parts, clips=1)
    rows = read_libritts(tmp_path, list(parts))
    found = [(row["speaker"], row["split"]) for row in rows]
    assert found == [("84", "train"), ("116", "valid"), ("121", "test")]
    untested = read_libritts(tmp_path / "LibriTTS", ["train-clean-100", "dev-other"])
    assert names(untested, "split") == ["", "valid"]
    with pytest.raises(ValueError, match=r"no part 'train'.*train-clean-100"):
        read_libritts(tmp_path, ["train"])
    with pytest.raises(CorpusNotFound, match="no train-other-500"):
        read_libritts(tmp_path, ["train-clean-100", "train-other-500"])


def test_libritts_ignores_what_is_no_clip_and_what_is_corrupted(tmp_path, caplog):
    trees.libritts(tmp_path, {"train-clean-360": "1092"}, clips=1)
    chapter = tmp_path / "train-clean-360" / "1092" / "134562"
    broken = chapter / "1092_134562_000013_000004.wav"
    trees.write_tree(chapter, {broken.with_suffix(".normalized.txt").name: "It is broken."})
    broken.write_bytes(b"\0" * 9)
    for suffix in (".wav", ".normalized.txt"):
        (chapter.parent / "121" / f"._1092_121_000001_000000{suffix}").write_bytes(b"not sound")
    assert names(read_libritts(tmp_path, ["train-clean-360"])) == [
        "LibriTTS-1092_121_000001_000000"
    ]
    assert "reported as corrupted: LibriTTS-1092_134562_000013_000004" in warnings(caplog)


def test_libritts_texts_are_normalised_and_come_from_either_file(tmp_path):
    trees.libritts(tmp_path, {"train-clean-100": "84"}, clips=3)
    chapter = tmp_path / "train-clean-100" / "84" / "121"
    (chapter / "84_121_000001_000000.original.txt").write_text("Mr. Lee")
    (chapter / "84_121_000001_000001.normalized.txt").unlink()
    (chapter / "84_121_000001_000002.normalized.txt").unlink()
    (chapter / "84_121.trans.tsv").write_text(
        '84_121_000001_000001\tin 1984, "he\tin nineteen eighty four, "he\n'
    )
    rows = read_libritts(tmp_path, ["train-clean-100"])
    assert names(rows, "text") == [trees.TEXTS[0], 'in nineteen eighty four, "he']


def test_libritts_genders_come_from_the_table_of_speakers(tmp_path):
    trees.libritts(tmp_path, {"train-clean-100": "60", "test-clean": "61"}, clips=1)
    assert all("gender" not in row for row in read_libritts(tmp_path))
    (tmp_path / "SPEAKERS.txt").write_text(
        ";ID  |SEX| SUBSET           |MINUTES| NAME\n"
        "60   | M | train-clean-100  | 20.18 | |CBW|Simon\n"
        "61   | F | test-clean       | 8.08  | Anne\n"
    )
    assert names(read_libritts(tmp_path), "gender") == ["M", "F"]


# ---- ESLTTS
def test_esltts_names_are_cut_at_the_last_underscore(tmp_path, caplog):
    folder = trees.esltts(tmp_path, ("Chinese_Mandarin_12", "Chinese_Mandarin_2"), clips=1)
    trees.write_tree(folder / "ESLTTS Dataset", {"Chinese_Mandarin_2/my_try_1.flac": None})
    rows = read_esltts(tmp_path)
    assert names(rows, "speaker") == ["Chinese_Mandarin_2"] * 2 + ["Chinese_Mandarin_12"] * 2
    assert set(names(rows, "accent")) == {"Chinese_Mandarin"}
    assert "1 clips of none of ada, dev, test: Chinese_Mandarin_2-my_try_1" in warnings(caplog)


def test_esltts_subsets_become_splits(tmp_path):
    trees.esltts(tmp_path, ("Arabic_3",), clips=11)
    rows = read_esltts(tmp_path)
    assert names(rows, "split") == ["train"] * 11 + ["test"] * 11
    assert rows[10]["ID"] == "ESLTTS-Arabic_3-ada_11"  # 11 after 2
    assert set(names(read_esltts(tmp_path, ["dev"]), "split")) == {"valid"}
    with pytest.raises(ValueError, match="no part 'train'"):
        read_esltts(tmp_path, ["train"])


def test_esltts_audio_without_text_is_left_out_and_named(tmp_path, caplog):
    trees.esltts(tmp_path)
    (tmp_path / "ESLTTS Dataset" / "Arabic_3" / "ada_2.txt").unlink()
    assert len(read_esltts(tmp_path)) == 7
    assert "left out 1 clips without text: ESLTTS-Arabic_3-ada_2" in warnings(caplog)


def test_esltts_may_be_called_otherwise(tmp_path):
    trees.esltts(tmp_path)
    expected = names(read_esltts(tmp_path))
    (tmp_path / "ESLTTS Dataset").rename(tmp_path / "esl")
    assert names(read_esltts(tmp_path / "esl")) == expected


# ---- L2-ARCTIC
def test_l2arctic_speakers_have_their_native_language(tmp_path):
    trees.l2arctic(tmp_path, ("BWC", "TLV", "ASI"), clips=1)
    trees.write_tree(tmp_path, {"OTHER/wav/a.wav": None, "OTHER/transcript/a.txt": "no speaker"})
    found = [(row["speaker"], row["accent"], row["split"]) for row in read_l2arctic(tmp_path)]
    assert found == [("ASI", "Hindi", ""), ("BWC", "Mandarin", ""), ("TLV", "Vietnamese", "")]


def test_l2arctic_archives_may_be_unpacked_into_folders_of_their_own(tmp_path):
    trees.l2arctic(tmp_path, ("ABA", "HKK"))
    expected = names(read_l2arctic(tmp_path))
    (tmp_path / "HKK").rename(tmp_path / "inner")
    (tmp_path / "HKK").mkdir()
    (tmp_path / "inner").rename(tmp_path / "HKK" / "HKK")
    assert names(read_l2arctic(tmp_path)) == expected


def test_l2arctic_spontaneous_speech_is_read_if_asked_for(tmp_path):
    trees.l2arctic(tmp_path, ("ABA",), clips=1)
    with pytest.raises(CorpusNotFound, match="no suitcase_corpus/wav"):
        read_l2arctic(tmp_path, suitcase=True)
    files = {"wav/aba.wav": None, "transcript/aba.txt": "There is a man with a suitcase."}
    files |= {"wav/hkk/2.wav": None, "transcript/hkk/2.txt": "A man and a woman."}
    trees.write_tree(tmp_path / "suitcase_corpus", files)
    assert len(read_l2arctic(tmp_path)) == 1
    found = [(row["ID"], row["speaker"], row["accent"]) for row in read_l2arctic(tmp_path, True)]
    assert found[1:] == [
        ("L2-ARCTIC-suitcase-aba", "ABA", "Arabic"),
        ("L2-ARCTIC-suitcase-hkk-2", "HKK", "Korean"),
    ]


def test_durations_are_those_of_the_files(tmp_path):
    trees.l2arctic(tmp_path, ("ABA",), clips=1)
    soundfile.write(tmp_path / "ABA" / "wav" / "arctic_a0001.wav", [0.0] * 4410, 44100)
    assert names(read_l2arctic(tmp_path), "duration") == [0.1]
