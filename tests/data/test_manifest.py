"""Manifests: what was written is read, by SpeechBrain too; what is wrong is listed by row."""

import csv
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from speechbrain.dataio.dataset import DynamicItemDataset

from speechcl.data.manifest import (
    COLUMNS,
    ManifestError,
    check_manifest,
    read_manifest,
    write_manifest,
)

HEADER = "ID,duration,wav\n"


def row(identity="a", **values):
    return {"ID": identity, "duration": 1.0, "wav": f"/data/{identity}.wav"} | values


# What CSV in UTF-8 can hold; a dollar sign before a word is refused.
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0\r$")).map(str.strip)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "ID": TEXT.filter(bool),
            "duration": st.floats(1e-3, 1e5),
            "wav": TEXT.filter(lambda name: name and ".." not in name).map("/data/{}".format),
        },
        optional={
            "label": st.sampled_from(["bonafide", "spoof"]),
            "speaker": TEXT,
            "text": TEXT,
            "further": TEXT,
        },
    ),
    min_size=1,
    unique_by=lambda item: item["ID"],
)


@settings(
    max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(ROWS)
def test_write_then_read_gives_the_rows_here_and_in_speechbrain(tmp_path, rows):
    path = tmp_path / "m.csv"
    write_manifest(path, rows)
    columns = {column for item in rows for column in item if item[column]}
    expected = [{column: item.get(column, "") for column in columns} for item in rows]
    assert read_manifest(path, check=False) == expected
    dataset = DynamicItemDataset.from_csv(path)
    dataset.set_output_keys(["id", *columns - {"ID"}])
    assert [item | {"ID": item.pop("id")} for item in dataset] == expected


def test_columns_stand_in_order_and_empty_ones_are_left_out(tmp_path):
    path = tmp_path / "m.csv"
    rows = [dict.fromkeys(reversed(COLUMNS), ""), {"split": "train", "codec": "alaw"}]
    write_manifest(path, [rows[0] | row("a"), rows[1] | row("b")])
    assert path.read_text().splitlines()[0] == "ID,duration,wav,split,codec"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row(text="costs $5")], r"row 2: text holds '\$5'"),
        ([row("a"), row("b", wav="$other/b.wav")], r"row 3: wav holds '\$other'"),
        ([row(), row()], "ID 'a' is used 2 times"),
        ([{"ID": "a"}], "row 2: no duration, wav"),
        ([row(duration=0)], "duration is 0"),
        ([], "no rows"),
    ],
)
def test_refused_rows_leave_the_old_manifest(tmp_path, rows, message):
    path = tmp_path / "m.csv"
    path.write_text("old")
    with pytest.raises(ManifestError, match=message):
        write_manifest(path, rows)
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("written", "resolved"),
    [
        ("$data_root/a.wav", "{root}/a.wav"),
        ("{{data_root}}/a.wav", "{root}/a.wav"),
        ("${{data_root}}/a.wav", "{root}/a.wav"),
        ("sub/a.wav", "{root}/sub/a.wav"),
        ("/elsewhere/a.wav", "/elsewhere/a.wav"),
    ],
)
@pytest.mark.parametrize("given_root", [True, False])
def test_paths_start_from_data_root_or_the_manifest(tmp_path, written, resolved, given_root):
    path = tmp_path / "m.csv"
    path.write_text(f"{HEADER}a,1,{written.format()}\n")
    (found,) = read_manifest(path, "/data" if given_root else None, check=False)
    assert found["wav"] == resolved.format(root="/data" if given_root else tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\n\n", "the file is empty"),
        (HEADER.encode(), "no rows"),
        (b"a,1.0,a.wav\nb,1.0,b.wav\n", "no header"),
        (b"ID,wav\na,a.wav\n", "no column duration among ID, wav"),
        (b"ID;duration;wav\na;1;a.wav\n", "separated by semicolons"),
        (b"ID\tduration\twav\n", "separated by tabs"),
        (b"LJ001-0001|Printing|printing\n", "separated by bars"),
        (b"ID,ID,duration,wav\n", "column 'ID' stands twice"),
        (HEADER.encode("utf-16"), "not UTF-8"),
        (HEADER.encode() + "é".encode("latin-1"), "not UTF-8"),
        (HEADER.encode() + b'a,1,"a.wav\n', "not a CSV table"),
        (HEADER.encode() + b"a,1,a.wav,more\nb,1\n", "2 problems: row 2: 4 values .* row 3: 2 val"),
        (HEADER.encode() + b"a,1,../secret.wav\n", "row 2: .* must not climb"),
        (HEADER.encode() + b"a,1,$data_root/../b.wav\n", "row 2: .* must not climb"),
        (HEADER.encode() + b"a,1,missing.wav\n", "row 2: .* no such file"),
        (HEADER.encode() + b"a,long,missing.wav\n", "duration is 'long'"),
        (HEADER.encode() + b"a,nan,missing.wav\n", "duration is nan"),
        (HEADER.encode() + b",,\n", "row 2: no ID, duration, wav"),
    ],
)
def test_bad_file_is_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "m.csv"
    path.write_bytes(content)
    with pytest.raises(ManifestError, match=message) as caught:
        read_manifest(path)
    assert "\n" not in str(caught.value)
    assert "m.csv'" in str(caught.value)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", ["missing.csv", ".", "a\0.csv"])
def test_missing_manifest(tmp_path, name):
    with pytest.raises(ManifestError, match="no such file"):
        read_manifest(f"{tmp_path}/{name}")


def test_byte_order_mark_and_blanks_after_commas_are_no_trouble(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("\ufeffID, duration, wav\na, 1, /a.wav\n", encoding="utf-8")
    assert read_manifest(path, check=False) == [{"ID": "a", "duration": 1.0, "wav": "/a.wav"}]


@pytest.mark.parametrize(
    ("label", "hint"),
    [
        ("Bonafide", "'bonafide'"),
        ("bona-fide", "'bonafide'"),
        ("genuine", "'bonafide'"),
        ("SPOOF", "'spoof'"),
        ("spoofed", "'spoof'"),
        ("fake", "'spoof'"),
        ("?", "'bonafide' or 'spoof'"),
    ],
)
def test_unknown_label_brings_the_nearest_one(label, hint):
    with pytest.raises(ManifestError, match=f"did you mean {hint}?"):
        check_manifest([row(label=label)], files=False)


@pytest.mark.parametrize("duration", [0, 0.0, -1.0, float("nan"), float("inf"), "1.0", "x"])
def test_duration_must_be_a_positive_number(duration):
    with pytest.raises(ManifestError, match=f"row 2: duration is {duration!r}"):
        check_manifest([row(duration=duration)], files=False)


@pytest.mark.parametrize(
    ("wav", "message"),
    [
        ("/data/../a.wav", "climb"),
        ("..", "climb"),
        ("/data/a\0.wav", "NUL"),
    ],
)
@pytest.mark.parametrize("files", [True, False])
def test_path_tricks_are_refused(wav, message, files):
    with pytest.raises(ManifestError, match=message):
        check_manifest([row(wav=wav)], files=files)


def test_all_problems_are_listed_at_once_and_capped(tmp_path):
    (tmp_path / "a.wav").touch()
    good = row(wav=str(tmp_path / "a.wav"))
    check_manifest([good])
    rows = [good, row("b", label="real"), row("c", duration=-1), row("c")]
    with pytest.raises(ManifestError, match="6 problems") as caught:
        check_manifest(rows)
    assert [text.split(":")[0] for text in caught.value.problems] == [
        *["row 3"] * 2,
        *["row 4"] * 2,
        "row 5",
        "ID 'c' is used 2 times (rows 4, 5)",
    ]
    with pytest.raises(ManifestError, match="row 21: .*; and 5 more$"):
        check_manifest([row(str(i)) for i in range(25)])


def test_leaking_speakers_are_refused_unless_wanted():
    rows = [
        row("a", speaker="ann", split="train"),
        row("b", speaker="bob", split="train"),
        row("c", speaker="ann", split="test"),
        *(row(f"-{split}", speaker="-", split=split) for split in ("train", "test")),
    ]
    with pytest.raises(ManifestError, match=r"'ann' is in splits train, test \(rows 2, 4\)"):
        check_manifest(rows, files=False)
    check_manifest(rows, files=False, disjoint_speakers=False)


def test_quoted_line_breaks_survive(tmp_path):
    path = tmp_path / "m.csv"
    write_manifest(path, [row(text='one,\n"two"')])
    assert read_manifest(path, check=False)[0]["text"] == 'one,\n"two"'
    with path.open(newline="") as stream:
        assert len(list(csv.reader(stream))) == 2


def test_importing_manifests_is_cheap():
    program = "import sys, speechcl.data.manifest; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
