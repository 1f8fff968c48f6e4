"""Spoken words in both layouts: what is read, chosen and refused."""

import pytest

from speechcl.data import read_manifest
from speechcl.data.corpora import CorpusNotFound, speech_commands
from speechcl.data.corpora.keywords import (
    choose_words,
    find_keywords,
    open_words,
    read_word_table,
)
from speechcl.data.manifest_checks import ManifestError
from tests.words import SPEECH_COMMANDS, WORDS, build_speech_commands, build_table


@pytest.fixture
def table(tmp_path):
    return build_table(tmp_path / "words", train=2, test=1)


def change(table, old, new):
    file = table / "metadata.csv"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


# ---- a table
def test_a_table_gives_all_its_columns(table):
    rows = find_keywords(table)
    assert len(rows) == len(WORDS) * 2 * 3
    first = rows[0]
    assert first["ID"] == "ann-bed-0"
    assert first["wav"] == str(table / "audio/ann/ann-bed-0.flac")
    assert (first["text"], first["speaker"], first["split"]) == ("bed", "ann", "test")
    assert (first["gender"], first["source"], first["corpus"]) == ("f", "made up", "words")
    assert first["listed"] == "metadata.csv row 2"
    assert "duration" not in first, "it is measured"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("bob-cat-1,", "bob-cat-0,", "row 12: id 'bob-cat-0' stands in row 11 already"),
        (",cat,0.2,test", ",cat,0.2,eval", "row 8: split is 'eval', not one of train, valid"),
        (",cat,0.2,test", ",,0.2,test", "row 8: no text: fill it in"),
        ("audio/ann/ann-bed-0", "/etc/passwd", "must lie below the table's folder"),
        ("audio/ann/ann-bed-0", "../secret", "must lie below the table's folder"),
        ("id,path", "name,path", "no column id: a line a clip, with id,path,speaker,text,split"),
    ],
)
def test_wrong_lines_are_named(table, old, new, message):
    change(table, old, new)
    with pytest.raises(ManifestError, match=message):
        read_word_table(table / "metadata.csv")


def test_an_empty_table_is_refused(tmp_path):
    (tmp_path / "metadata.csv").write_text("id,path,speaker,text,split\n")
    with pytest.raises(ManifestError, match="no clip is listed"):
        find_keywords(tmp_path)


def test_missing_and_broken_clips_are_all_listed(table, tmp_path):
    (table / "audio/ann/ann-bed-0.flac").unlink()
    broken = table / "audio/bob/bob-two-2.flac"
    broken.write_bytes(b"not sound")
    with pytest.raises(ManifestError) as caught:
        open_words(find_keywords(table), tmp_path)
    text = str(caught.value)
    assert text.startswith("words: 2 problems: metadata.csv row 2: ")
    assert "no such file" in text
    assert "bob-two-2.flac': cannot be decoded" in text
    assert "\n" not in text
    assert not (tmp_path / "manifest.csv").exists()


def test_opened_clips_have_durations_and_a_manifest(table, tmp_path):
    rows = open_words(find_keywords(table), tmp_path / "corpus")
    assert rows[0]["duration"] == pytest.approx(0.15)
    found = read_manifest(tmp_path / "corpus" / "manifest.csv", disjoint_speakers=False)
    assert [row["ID"] for row in found] == [row["ID"] for row in rows]
    assert found[0]["text"] == "bed"


# ---- Speech Commands
def test_speech_commands_in_its_official_layout(tmp_path):
    folder = build_speech_commands(tmp_path)
    rows = find_keywords(folder)
    clips = [(row["wav"], row["text"], row["speaker"], row["split"]) for row in rows]
    assert sorted(clips) == sorted(
        (str(folder / name), *name.partition("_nohash")[0].split("/"), split)
        for name, split in SPEECH_COMMANDS.items()
    )
    assert rows[0]["ID"] == "SpeechCommands-bed-00f0204f_nohash_0"
    assert {row["corpus"] for row in rows} == {"SpeechCommands"}
    assert len(open_words(rows, tmp_path / "corpus")) == len(rows)


def test_speech_commands_lists_what_is_wrong(tmp_path):
    folder = build_speech_commands(tmp_path)
    (folder / "bed/0a7c2a8d_nohash_0.wav").unlink()
    (folder / "cat/0b40aa8e_nohash_0.wav").rename(folder / "cat/noise.wav")
    with (folder / "testing_list.txt").open("a") as stream:
        stream.write("bed/0b40aa8e_nohash_0.wav\n")
    with pytest.raises(ManifestError) as caught:
        speech_commands.read(folder)
    text = str(caught.value)
    assert text.startswith("SpeechCommands: 4 problems: ")
    assert "testing_list.txt line 1: bed/0a7c2a8d_nohash_0.wav: no such file" in text
    assert "validation_list.txt line 2: cat/0b40aa8e_nohash_0.wav: no such file" in text
    assert "noise.wav: a clip is named <speaker>_nohash_<number>.wav" in text
    assert "testing_list.txt line 3: bed/0b40aa8e_nohash_0.wav stands in validation_list" in text


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_of_neither_kind_says_what_is_wanted(tmp_path, exists):
    folder = tmp_path / "nothing"
    if exists:
        folder.mkdir()
    with pytest.raises(CorpusNotFound) as caught:
        find_keywords(folder)
    text = str(caught.value)
    assert "give a folder with metadata.csv (id,path,speaker,text,split), or Speech" in text
    assert "speech_commands_v0.02.tar.gz" in text


# ---- what is chosen
def test_only_the_words_asked_for_in_the_corpus_order(table):
    rows = find_keywords(table)
    chosen = choose_words(rows, ["two", "bed"])
    assert [row["text"] for row in chosen] == ["bed"] * 6 + ["two"] * 6
    assert chosen == choose_words(rows, ["bed", "two"])


def test_a_cap_holds_for_each_word_and_split(table):
    rows = find_keywords(table)
    chosen = choose_words(rows, WORDS, clips_per_word=3)
    counts = {}
    for row in chosen:
        counts[row["text"], row["split"]] = counts.get((row["text"], row["split"]), 0) + 1
    assert counts == {(word, s): n for word in WORDS for s, n in (("test", 2), ("train", 3))}
    assert chosen == choose_words(rows, WORDS, 3)
    assert chosen != choose_words(rows, WORDS, 3, seed=1)
    alone = choose_words(rows, ["cat"], 3)
    assert alone == [row for row in chosen if row["text"] == "cat"], "no word changes another's"


def test_words_that_are_not_there_are_refused(table):
    rows = find_keywords(table)
    with pytest.raises(ValueError, match="the word 'ten' has no train and no test clip: .* bed"):
        choose_words(rows, ["bed", "ten"])
    rows = [row for row in rows if (row["text"], row["split"]) != ("cat", "test")]
    with pytest.raises(ValueError, match="the word 'cat' has no test clip: choose among (?!.*cat)"):
        choose_words(rows, ["cat"])
    rows = [row for row in rows if row["split"] != "test"]
    with pytest.raises(ValueError, match="no test clip: choose among other recordings"):
        choose_words(rows, ["bed"])
    with pytest.raises(ValueError, match="clips_per_word is 0"):
        choose_words(rows, ["bed"], 0)
