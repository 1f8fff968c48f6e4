"""Every reader on a small copy of its corpus: what it says, where it looks, what it refuses."""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from speechcl.data.corpora import READERS, CorpusNotFound, open_clips
from speechcl.data.corpora.asvspoof2019 import asv_scores, parts_with
from speechcl.data.manifest_checks import ManifestError
from speechcl.metrics import min_tdcf
from tests.data.corpora.trees import CLIPS, LISTS, build, write_clip

# ID without the corpus, label, attack, speaker, split, processing
EXPECTED = {
    "ASVspoof2015": [
        ("T1_1000001", "bonafide", "-", "T1", "train", "-"),
        ("T1_1000002", "spoof", "S1", "T1", "train", "-"),
        ("D1_1000001", "bonafide", "-", "D1", "test", "-"),
        ("D1_1000002", "spoof", "S5", "D1", "test", "-"),
        ("E1_1000001", "bonafide", "-", "E1", "", "-"),
        ("E1_1000002", "spoof", "S10", "E1", "", "-"),
        ("E2_1000001", "bonafide", "-", "E2", "", "-"),
        ("E2_1000002", "spoof", "S6", "E2", "", "-"),
    ],
    "ASVspoof2019LA": [
        ("LA_T_1138215", "bonafide", "-", "LA_0079", "train", "-"),
        ("LA_T_1271820", "spoof", "A01", "LA_0079", "train", "-"),
        ("LA_D_1047731", "bonafide", "-", "LA_0069", "test", "-"),
        ("LA_D_1105538", "spoof", "A06", "LA_0069", "test", "-"),
        ("LA_E_2834763", "spoof", "A11", "LA_0039", "", "-"),
        ("LA_E_8877452", "bonafide", "-", "LA_0039", "", "-"),
        ("LA_E_6828287", "spoof", "A19", "LA_0014", "", "-"),
        ("LA_E_6977360", "bonafide", "-", "LA_0014", "", "-"),
    ],
    "ASVspoof2021LA": [
        ("LA_E_9332881", "spoof", "A07", "LA_0009", "", "alaw"),
        ("LA_E_6866159", "bonafide", "-", "LA_0009", "", "-"),
        ("LA_E_5464494", "spoof", "A19", "LA_0012", "", "opus"),
        ("LA_E_3068428", "bonafide", "-", "LA_0012", "", "g722"),
    ],
    "ASVspoof2021DF": [
        ("DF_E_2000026", "spoof", "A09", "LA_0043", "", "mp3m4a"),
        ("DF_E_2000027", "bonafide", "-", "LA_0043", "", "low_mp3"),
        ("DF_E_2000080", "spoof", "Task1-team20", "TEF1", "", "oggm4a"),
        ("DF_E_2000081", "bonafide", "-", "TEF1", "", "-"),
    ],
    "InTheWild": [
        ("0", "spoof", "unknown", "Alec Guinness", "", "-"),
        ("1", "bonafide", "-", "Alec Guinness", "", "-"),
        ("2", "spoof", "unknown", "Barack Obama", "", "-"),
        ("3", "bonafide", "-", "Barack Obama", "", "-"),
    ],
    "FMFCC-A": [
        ("20000001", "spoof", "A01", "-", "", "-"),
        ("20000002", "spoof", "A13", "-", "", "ND02"),
        ("20000003", "bonafide", "-", "-", "", "-"),
        ("20000004", "bonafide", "-", "-", "", "MP3"),
    ],
    "ADD2022": [
        ("ADD_T_00000000", "bonafide", "-", "-", "train", "-"),
        ("ADD_T_00000001", "spoof", "unknown", "-", "train", "-"),
        ("ADD_D_00000000", "spoof", "unknown", "-", "test", "-"),
        ("ADD_D_00000001", "bonafide", "-", "-", "test", "-"),
    ],
    "FoR": [
        (f"{part}-{name}-file{number}.wav_16k.wav", label, attack, "-", split, "-")
        for part, split in (("training", "train"), ("testing", "test"))
        for name, label, attack in (("real", "bonafide", "-"), ("fake", "spoof", "unknown"))
        for number in (1, 2)
    ],
}
LISTED = [corpus for corpus in EXPECTED if LISTS[corpus]]
COLUMNS = ("label", "attack", "speaker", "split", "processing")


def said(corpus, rows):
    prefix = f"{corpus}-"
    assert all(row["ID"].startswith(prefix) and row["corpus"] == corpus for row in rows)
    return [(row["ID"][len(prefix) :], *(row[column] for column in COLUMNS)) for row in rows]


def first_list(corpus, folder):
    return folder / next(iter(LISTS[corpus]))


@pytest.mark.parametrize("corpus", EXPECTED)
def test_rows_say_what_the_lists_say_and_every_clip_opens(corpus, tmp_path):
    rows = READERS[corpus](build(corpus, tmp_path))
    assert said(corpus, rows) == EXPECTED[corpus]
    assert {str(tmp_path / clip) for clip in CLIPS[corpus]} >= {row["wav"] for row in rows}
    assert [row["duration"] for row in open_clips(rows)] == [0.25] * len(rows)


def test_every_reader_has_a_tree():
    assert set(READERS) == set(EXPECTED) == set(LISTS) == set(CLIPS)


@pytest.mark.parametrize("corpus", LISTED)
def test_line_ends_blank_lines_and_a_txt_suffix_do_not_matter(corpus, tmp_path):
    build(corpus, tmp_path)
    for name, text in LISTS[corpus].items():
        path = tmp_path / name
        path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode() + b"\r\n")
        if path.suffix in (".trn", ".ndx"):
            path.rename(path.with_name(f"{path.name}.txt"))
    assert said(corpus, READERS[corpus](tmp_path)) == EXPECTED[corpus]


# corpus: (what is moved, where to), the folder that is given then
MOVES = {
    "ASVspoof2015": ([("wav", "copy/wav")], "copy"),
    "ASVspoof2019LA": (
        [("LA/ASVspoof2019_LA_cm_protocols", "ASVspoof2019_LA_cm_protocols")],
        "LA",
    ),
    "ASVspoof2021LA": ([("keys", "LA-keys-full/keys")], "ASVspoof2021_LA_eval"),
    "ASVspoof2021DF": ([("ASVspoof2021_DF_eval", "copy/ASVspoof2021_DF_eval")], "copy"),
    "InTheWild": ([], "release_in_the_wild"),
    "FMFCC-A": ([("wav", "clips/part1/wav")], "clips"),
    "ADD2022": (
        [("ADD_train_dev/label/train_label.txt", "train.txt"), ("eval_track1", "other")],
        "",
    ),
    "FoR": ([("for-norm", "for-norm/for-norm")], ""),
}


@pytest.mark.parametrize("corpus", MOVES)
def test_copies_are_packed_otherwise(corpus, tmp_path):
    build(corpus, tmp_path)
    moves, given = MOVES[corpus]
    for old, new in moves:
        aside = (tmp_path / old).rename(tmp_path / "aside")
        (tmp_path / new).parent.mkdir(parents=True, exist_ok=True)
        aside.rename(tmp_path / new)
    rows = READERS[corpus](tmp_path / given)
    assert said(corpus, rows) == EXPECTED[corpus]
    assert len(open_clips(rows)) == len(rows)


@pytest.mark.parametrize("corpus", LISTED)
def test_missing_and_broken_clips_are_listed_together_by_line(corpus, tmp_path):
    rows = READERS[corpus](build(corpus, tmp_path))
    Path(rows[0]["wav"]).unlink()
    Path(rows[1]["wav"]).write_bytes(b"no sound")
    rows = READERS[corpus](tmp_path)
    with pytest.raises(ManifestError, match=rf"^{corpus}: 2 problems: ") as caught:
        open_clips(rows)
    for row, problem, text in zip(
        rows, caught.value.problems, ("no such file", "cannot be decoded"), strict=False
    ):
        assert problem.startswith(row["listed"])
        assert text in problem


def test_broken_clips_of_for_are_left_out_and_counted(tmp_path, caplog):
    rows = READERS["FoR"](build("FoR", tmp_path))
    Path(rows[0]["wav"]).write_bytes(b"no sound")
    Path(rows[5]["wav"]).write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        opened = open_clips(rows)
    assert [row["ID"] for row in opened] == [row["ID"] for row in rows[1:5] + rows[6:]]
    assert "FoR: 2 clips cannot be read, left out" in caplog.text


@dataclass
class Wrong:
    corpus: str
    old: str
    new: str
    message: str


WRONG = [
    Wrong("ASVspoof2015", "S1 spoof", "S1 spoofed", "line 2: key is 'spoofed', not one of human"),
    Wrong("ASVspoof2015", "S1 spoof", "S11 spoof", "line 2: method is 'S11', not one of S1"),
    Wrong("ASVspoof2015", "S1 spoof", "S1 human", "line 2: method is 'S1', not one of human"),
    Wrong("ASVspoof2015", "T1 T1_1000002", "../T1 T1_1000002", "'../T1' is not a plain file name"),
    Wrong("ASVspoof2019LA", "- bonafide", "- genuine", "line 1: key is 'genuine', not one of bona"),
    Wrong("ASVspoof2019LA", "A01 spoof", "A07 spoof", "line 2: attack is 'A07', not one of A01"),
    Wrong("ASVspoof2019LA", "A01 spoof", "- spoof", "line 2: attack is '-', not one of A01"),
    Wrong("ASVspoof2019LA", "- - bonafide", "- bonafide", "line 1: 4 values, not the 5 of speaker"),
    Wrong("ASVspoof2019LA", "A01 spoof", "A01 spoof x", "line 2: 6 values, not the 5 of speaker"),
    Wrong("ASVspoof2019LA", "LA_T_1271820", "LA_T_1138215", "line 2: LA_T_1138215 stands in .*1 "),
    Wrong("ASVspoof2019LA", "LA_T_1271820", "../x", "'../x' is not a plain file name"),
    Wrong("ASVspoof2021LA", "A07 spoof", "A07 bonafide", "line 1: attack is 'A07' but key is 'bon"),
    Wrong("ASVspoof2021LA", "A07 spoof", "A07 fake", "line 1: key is 'fake'"),
    Wrong("ASVspoof2021LA", "ita_tx A07", "ita_tx bonafide", "attack is 'bonafide' but key is 'sp"),
    Wrong("ASVspoof2021LA", "trim progress", "trim progres", "line 5: subset is 'progres'"),
    Wrong("ASVspoof2021LA", " notrim eval\n", "\n", "line 1: 6 values, not the 8"),
    Wrong("ASVspoof2021DF", "A09 spoof", "A09 fake", "line 2: key is 'fake'"),
    Wrong("ASVspoof2021DF", " FF E", " FF", "line 4: 12 values, not the 13"),
    Wrong("InTheWild", ",bona-fide", ",bonafide", "line 3: label is 'bonafide', not one of bona-"),
    Wrong("InTheWild", "file,speaker,label\n", "", "meta.csv must begin with file,speaker,label"),
    Wrong("InTheWild", "2.wav", "../2.wav", "line 4: '../2.wav' is not a plain file name"),
    Wrong("FMFCC-A", ",1,N01\r", ",2,N01\r", "line 3: label is '2', not one of 1, 0"),
    Wrong("FMFCC-A", ",0,A01\r", ",1,A01\r", "line 1: system is A01 but label is 1"),
    Wrong("FMFCC-A", ",0,A01\r", ",0,A14\r", "line 1: system is 'A14', not N01 or A01 to A13"),
    Wrong("FMFCC-A", "A13_ND02", "A13_OGG", "line 2: system is 'A13_OGG'"),
    Wrong("FMFCC-A", "20000001.wav", "../1.wav", "line 1: '../1.wav' is not a plain file name"),
    Wrong("ADD2022", "wav fake", "wav half", "line 2: label is 'half', not one of genuine"),
    Wrong("ADD2022", " genuine", "", "line 1: 1 values, not the 2 of file label"),
]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: f"{wrong.corpus}-{wrong.new.strip()}")
def test_wrong_lines_are_refused(wrong, tmp_path):
    path = first_list(wrong.corpus, build(wrong.corpus, tmp_path))
    text = path.read_bytes().decode()
    assert wrong.old in text
    path.write_bytes(text.replace(wrong.old, wrong.new).encode())
    with pytest.raises(ManifestError, match=f"{wrong.corpus}: .*{wrong.message}"):
        READERS[wrong.corpus](tmp_path)


@pytest.mark.parametrize("corpus", LISTED)
def test_all_wrong_lines_are_listed_and_text_must_be_utf8(corpus, tmp_path):
    path = first_list(corpus, build(corpus, tmp_path))
    good = path.read_bytes()
    path.write_bytes(good + b"one\ntwo\n")
    with pytest.raises(ManifestError, match="2 problems"):
        READERS[corpus](tmp_path)
    path.write_bytes(good + b"\xff\xfe\n")
    with pytest.raises(ManifestError, match="is not UTF-8"):
        READERS[corpus](tmp_path)
    path.write_bytes(b"")
    if len(LISTS[corpus]) == 1:
        with pytest.raises(ManifestError, match="no clip is listed"):
            READERS[corpus](tmp_path)


@pytest.mark.parametrize("corpus", EXPECTED)
def test_a_missing_corpus_says_what_was_looked_for_and_where_to_get_it(corpus, tmp_path):
    folder = tmp_path / "shelf" / corpus
    with pytest.raises(CorpusNotFound, match=rf"{corpus}: no folder .*get it from \w+"):
        READERS[corpus](folder)
    (folder / "something").mkdir(parents=True)
    with pytest.raises(CorpusNotFound, match=r"which holds something; get it from \w+"):
        READERS[corpus](folder)


def test_a_file_in_place_of_a_folder_and_odd_names(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", "a\0b"):
        with pytest.raises(CorpusNotFound, match="no folder"):
            READERS["FoR"](folder)


def test_other_parts_subsets_and_versions(tmp_path):
    build("ASVspoof2021LA", tmp_path)
    rows = READERS["ASVspoof2021LA"](tmp_path, subsets=["progress", "hidden"])
    assert [row["attack"] for row in rows] == ["A08", "A08"]
    build("FMFCC-A", tmp_path)
    rows = READERS["FMFCC-A"](tmp_path, processed=False)
    assert [row["attack"] for row in rows] == ["A01", "-"]
    build("ADD2022", tmp_path)
    rows = READERS["ADD2022"](tmp_path, parts=["track1"])
    assert [(row["label"], row["split"]) for row in rows] == [
        ("spoof", "test"),
        ("bonafide", "test"),
    ]
    assert len(open_clips(rows)) == 2
    for corpus, option in (
        ("ASVspoof2015", {"parts": ["test"]}),
        ("ASVspoof2019LA", {"parts": ["progress"]}),
        ("ASVspoof2021DF", {"subsets": ["dev"]}),
        ("ADD2022", {"parts": ["track2"]}),
        ("FoR", {"version": "for-free"}),
    ):
        with pytest.raises(ValueError, match=f"{corpus} has no part .*: choose among"):
            READERS[corpus](tmp_path, **option)


def test_lines_of_add2022_may_say_more(tmp_path):
    path = first_list("ADD2022", build("ADD2022", tmp_path))
    path.write_text(path.read_text().replace("fake", "fake 3"))
    assert said("ADD2022", READERS["ADD2022"](tmp_path)) == EXPECTED["ADD2022"]


def test_for_reads_the_version_asked_for_and_mp3_beside_wav(tmp_path):
    build("FoR", tmp_path)
    shutil.copytree(tmp_path / "for-norm", tmp_path / "for-original")
    clip = tmp_path / "for-original" / "training" / "fake" / "file1.wav_16k.wav"
    write_clip(clip.with_suffix(".mp3"))
    rows = READERS["FoR"](tmp_path, version="for-original")
    assert len(rows) == 9
    assert all("for-original" in row["wav"] for row in rows)
    assert len({row["ID"] for row in open_clips(rows)}) == 9
    assert len(READERS["FoR"](tmp_path / "for-original")) == 9
    shutil.rmtree(clip.parent)
    with pytest.raises(ManifestError, match=r"no clips in .*training/fake"):
        READERS["FoR"](tmp_path, version="for-original")


def test_two_clips_of_one_name_are_refused(tmp_path):
    build("FMFCC-A", tmp_path)
    write_clip(tmp_path / "copy" / "20000003.wav")
    with pytest.raises(ManifestError, match=r"line 3: '20000003.wav' is at .*copy.* and .*wav"):
        READERS["FMFCC-A"](tmp_path)


def test_attacks_lie_in_their_parts():
    assert parts_with(["A03", "A07"]) == ["train", "dev", "eval"]
    for attacks in (["A00"], ["A20"], ["-"], []):
        with pytest.raises(ValueError, match="name one or more of A01 to A19"):
            parts_with(attacks)


def test_asv_scores_serve_the_t_dcf(tmp_path):
    build("ASVspoof2019LA", tmp_path)
    target, nontarget, spoof = asv_scores(tmp_path / "LA")
    assert target.tolist() == [3.25, 0.1]
    assert nontarget.tolist() == [-2.5]
    assert spoof.tolist() == [0.125]
    genuine, fake = np.array([2.0, 1.0]), np.array([-1.0, 0.0])
    assert min_tdcf(genuine, fake, target, nontarget, spoof) == 0.0


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("A11 spoof 0.125\n", "", "has no spoof trials"),
        ("- target 3.25", "- targets 3.25", "line 1: key is 'targets', not one of target"),
        ("-2.5", "low", "line 2: could not convert string to float: 'low'"),
        ("-2.5", "", "line 2: 2 values, not the 3"),
    ],
)
def test_wrong_asv_scores_are_refused(old, new, message, tmp_path):
    path = tmp_path / list(LISTS["ASVspoof2019LA"])[-1]
    build("ASVspoof2019LA", tmp_path)
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ManifestError, match=message):
        asv_scores(tmp_path)
    with pytest.raises(CorpusNotFound, match=r"ASVspoof2019\.LA\.asv\.dev"):
        asv_scores(tmp_path, "dev")
