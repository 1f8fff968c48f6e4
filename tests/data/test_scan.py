"""Scanning genuine speech: packs, folders and manifests give the same kind of rows."""

import logging

import numpy as np
import pytest
import soundfile

from speechcl.data.manifest import ManifestError, read_manifest, write_manifest
from speechcl.data.scan import scan_folder


def clip(path, duration_s=0.25):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(round(duration_s * 16000)), 16000)


def pack(folder, names=("a", "b")):
    lines = ["id,path,speaker,gender,accent,text,duration,split"]
    for name in names:
        clip(folder / "audio" / f"{name}.flac")
        lines.append(f'{name},audio/{name}.flac,speaker_{name},f,Irish,"Yes, {name}.",9.9,train')
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")


def test_pack_gives_what_its_table_says_and_measures_durations(tmp_path):
    pack(tmp_path / "mine")
    clip(tmp_path / "mine" / "audio" / "unlisted.flac")
    rows = scan_folder(tmp_path / "mine")
    assert rows[0] == {
        "ID": "mine-a",
        "wav": str(tmp_path / "mine/audio/a.flac"),
        "label": "bonafide",
        "attack": "-",
        "speaker": "speaker_a",
        "corpus": "mine",
        "accent": "Irish",
        "gender": "f",
        "text": "Yes, a.",
        "duration": 0.25,
    }
    assert len(rows) == 2
    assert scan_folder(tmp_path / "mine" / "metadata.csv") == rows


def test_parent_of_packs_and_loose_folders(tmp_path):
    pack(tmp_path / "one")
    pack(tmp_path / "two")
    pack(tmp_path / ".hidden")
    clip(tmp_path / "ann" / "day1" / "x.wav")
    identities = [row["ID"] for row in scan_folder(tmp_path)]
    assert identities == ["one-a", "one-b", "two-a", "two-b", f"{tmp_path.name}-ann-day1-x"]


def test_speakers_are_the_first_folders(tmp_path, caplog):
    for name in ("ann/x.wav", "ann/deep/y.wav", "bob/x.wav"):
        clip(tmp_path / name)
    assert [row["speaker"] for row in scan_folder(tmp_path)] == ["ann", "ann", "bob"]
    assert not caplog.records


def test_flat_clips_are_speakers_of_their_own_with_a_warning(tmp_path, caplog):
    clip(tmp_path / "x.wav")
    clip(tmp_path / "y.wav")
    assert [row["speaker"] for row in scan_folder(tmp_path)] == ["x", "y"]
    assert "speakers of 2 clips are unknown" in caplog.text


def test_metadata_of_another_kind_is_not_taken_for_a_pack(tmp_path):
    clip(tmp_path / "wavs" / "LJ001.wav")
    (tmp_path / "metadata.csv").write_text("LJ001|Printing|printing\n")
    assert [row["speaker"] for row in scan_folder(tmp_path)] == ["wavs"]


def test_identities_are_unique(tmp_path):
    for name in ("one/c/a-b.wav", "one/c/a/b.wav", "one/c/a-b.flac", "two/one/c/a-b-2.wav"):
        clip(tmp_path / name)
    rows = scan_folder([tmp_path / "one", tmp_path / "two" / "one"])
    identities = [row["ID"] for row in rows]
    assert identities == ["one-c-a-b", "one-c-a-b-3", "one-c-a-b-4", "one-c-a-b-2"]


def test_scanned_manifest_scans_alike(tmp_path):
    pack(tmp_path / "mine")
    rows = scan_folder(tmp_path / "mine")
    spoofed = [row | {"ID": row["ID"] + "-gl", "label": "spoof", "attack": "gl"} for row in rows]
    write_manifest(tmp_path / "m.csv", rows + spoofed)
    assert len(read_manifest(tmp_path / "m.csv")) == 4
    assert scan_folder(tmp_path / "m.csv") == rows


def test_foreign_labels_are_not_taken_for_genuine(tmp_path):
    clip(tmp_path / "a.wav")
    (tmp_path / "m.csv").write_text("ID,duration,wav,label\na,1,a.wav,fake\n")
    with pytest.raises(ManifestError, match="label is 'fake': did you mean 'spoof'"):
        scan_folder(tmp_path / "m.csv")


@pytest.mark.parametrize("skip_broken", [True, False])
def test_broken_clips_are_listed_or_skipped(tmp_path, caplog, skip_broken):
    clip(tmp_path / "ann" / "good.wav")
    (tmp_path / "ann" / "bad.wav").write_text("no sound")
    (tmp_path / "ann" / "empty.wav").touch()
    if skip_broken:
        with caplog.at_level(logging.WARNING):
            assert [row["ID"][-4:] for row in scan_folder(tmp_path, skip_broken=True)] == ["good"]
        assert "bad.wav" in caplog.text
        assert "empty.wav" in caplog.text
    else:
        with pytest.raises(ManifestError, match=r"2 problems: .*bad\.wav.*; .*empty\.wav"):
            scan_folder(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "no such folder"),
        ("a\0b", "NUL"),
        ("clip.wav", "neither a folder nor a .csv manifest"),
        ("empty", "no speech found"),
    ],
)
def test_nothing_to_scan(tmp_path, name, message):
    clip(tmp_path / "clip.wav")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ManifestError, match=message):
        scan_folder(f"{tmp_path}/{name}")


def test_no_source_at_all():
    with pytest.raises(ManifestError, match="no speech found"):
        scan_folder([])


@pytest.mark.parametrize("path", ["../secret.wav", "/secret.wav"])
def test_pack_cannot_point_outside(tmp_path, path):
    (tmp_path / "metadata.csv").write_text(f"id,path,speaker\na,{path},s\n")
    with pytest.raises(ManifestError, match="row 2: path is .* must lie below"):
        scan_folder(tmp_path)
