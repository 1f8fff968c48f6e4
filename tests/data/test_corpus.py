import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import soundfile
import torch

from speechcl.attacks import ATTACKS
from speechcl.data.audio import write_audio
from speechcl.data.corpus import build_attack_corpus
from speechcl.data.embedded import build_embedded
from speechcl.data.manifest import read_manifest

CHEAP = ["mulaw", "random_phase"]


def digests(rows):
    return {row["ID"]: hashlib.sha256(Path(row["wav"]).read_bytes()).hexdigest() for row in rows}


def stamps(rows):
    return {row["wav"]: Path(row["wav"]).stat().st_mtime_ns for row in rows}


@pytest.fixture(scope="module")
def genuine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("genuine")
    return build_embedded(folder, voices=3, sentences=2, workers=1)


@pytest.fixture(scope="module")
def built(genuine, tmp_path_factory):
    folder = tmp_path_factory.mktemp("spoofed")
    return folder, build_attack_corpus(genuine, list(ATTACKS), folder, workers=1)


def test_one_genuine_clip_and_one_of_each_attack(built, genuine):
    folder, rows = built
    assert len(rows) == len(genuine) * (1 + len(ATTACKS))
    assert rows == read_manifest(folder / "manifest.csv", disjoint_speakers=False)
    assert "$data_root/clips/world/" in (folder / "manifest.csv").read_text()
    by_id = {row["ID"]: row for row in genuine}
    for row in rows:
        source = by_id[row["ID"].removesuffix(f"-{row['attack']}")]
        assert row["label"] == ("bonafide" if row["attack"] == "-" else "spoof")
        assert {row[key] == source[key] for key in ("speaker", "split", "text")} == {True}


def test_both_classes_have_one_format_level_and_duration(built):
    durations = {}
    for row in built[1]:
        samples, rate_hz = soundfile.read(row["wav"])
        about = soundfile.info(row["wav"])
        assert (rate_hz, about.subtype, about.format) == (16000, "PCM_16", "WAV")
        assert (samples**2).mean() == pytest.approx(10**-2.6, rel=0.03)
        durations.setdefault(row["attack"], []).append(row["duration"])
        assert row["duration"] <= 4.0
    for attack, values in durations.items():
        assert values == pytest.approx(durations["-"], abs=0.35), attack


@pytest.mark.slow
def test_clips_do_not_depend_on_workers_order_or_company(built, genuine, tmp_path):
    again = build_attack_corpus(genuine[::-1], CHEAP[::-1], tmp_path, workers=2)
    expected = digests(built[1])
    assert all(expected[name] == digest for name, digest in digests(again).items())


def test_finished_clips_are_kept_and_lost_ones_made_again(genuine, tmp_path):
    rows = build_attack_corpus(genuine[:2], CHEAP[:1], tmp_path, workers=1)
    before, content = stamps(rows), digests(rows)
    lost = rows[1]["wav"]
    Path(lost).unlink()
    (tmp_path / "manifest.csv").unlink()
    more = build_attack_corpus(genuine[:2], CHEAP, tmp_path, workers=1)
    after = stamps(more)
    assert {path for path in before if after[path] != before[path]} == {lost}
    assert {name: digests(more)[name] for name in content} == content


@pytest.mark.parametrize("change", [{"seed": 1}, {"max_duration_s": 1.0}])
def test_other_settings_make_other_clips(genuine, tmp_path, change):
    rows = build_attack_corpus(genuine[:1], ["mulaw"], tmp_path, workers=1)
    other = build_attack_corpus(genuine[:1], ["mulaw"], tmp_path, workers=1, **change)
    assert not {row["wav"] for row in rows} & {row["wav"] for row in other}
    assert all(digests(rows)[name] != digest for name, digest in digests(other).items())


def test_another_source_under_the_same_id_is_noticed(genuine, tmp_path):
    first = build_attack_corpus(genuine[:1], ["mulaw"], tmp_path, workers=1)
    swapped = [{**genuine[0], "wav": genuine[1]["wav"]}]
    second = build_attack_corpus(swapped, ["mulaw"], tmp_path, workers=1)
    assert first[0]["duration"] != second[0]["duration"]


def test_sources_are_left_alone(genuine, tmp_path):
    before = digests(genuine)
    rows = [dict(row) for row in genuine]
    build_attack_corpus(rows, ["mulaw"], tmp_path, workers=1)
    assert digests(genuine) == before
    assert rows == genuine


def test_a_clip_that_cannot_be_spoofed_is_named_with_the_attack(genuine, tmp_path):
    short = tmp_path / "short.wav"
    write_audio(short, torch.rand(900) - 0.5, 16000)
    rows = [*genuine[:1], {"ID": "too_short", "wav": str(short), "speaker": "x"}]
    with pytest.raises(ValueError, match="'too_short' does not pass attack 'mulaw'") as caught:
        build_attack_corpus(rows, ["mulaw"], tmp_path / "out", workers=1)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "manifest.csv").exists()


def test_silent_genuine_clip_is_named(tmp_path):
    silent = tmp_path / "silent.wav"
    write_audio(silent, torch.zeros(16000), 16000)
    with pytest.raises(ValueError, match="'quiet' does not pass the channel"):
        build_attack_corpus([{"ID": "quiet", "wav": str(silent)}], ["mulaw"], tmp_path, workers=1)


def test_ids_stay_inside_the_folder(genuine, tmp_path):
    rows = [{**genuine[0], "ID": "../../escape"}, {**genuine[1], "ID": "a/b c"}]
    made = build_attack_corpus(rows, ["mulaw"], tmp_path / "out", workers=1)
    inside = (tmp_path / "out" / "clips").resolve()
    assert all(inside in Path(row["wav"]).resolve().parents for row in made)


def test_requests_that_make_no_sense_write_nothing(genuine, tmp_path):
    def refuse(match, rows, attacks):
        with pytest.raises(ValueError, match=match):
            build_attack_corpus(rows, attacks, tmp_path / "out", workers=1)

    refuse("no attack is called", genuine, ["gan"])
    refuse("0 genuine clips", [], ["mulaw"])
    refuse("0 attacks", genuine, [])
    refuse("is given twice", genuine + genuine[:1], ["mulaw"])
    refuse("attack 'mulaw' is given twice", genuine, ["mulaw", "mulaw"])
    refuse("needs the text", [{**genuine[0], "text": ""}], ["tts"])
    refuse("has no file at", [{**genuine[0], "wav": "$data_root/a.wav"}], ["mulaw"])
    refuse("not bonafide", [{**genuine[0], "label": "spoof"}], ["mulaw"])
    assert not (tmp_path / "out").exists()


KILLED = """
import sys
from speechcl.data.corpus import build_attack_corpus
from speechcl.data.manifest import read_manifest
if __name__ == "__main__":
    rows = read_manifest(sys.argv[1])
    build_attack_corpus(rows, ["world", "griffin_lim"], sys.argv[2], workers=1)
"""


@pytest.mark.skipif(os.name == "nt", reason="sends SIGKILL")
def test_a_kill_leaves_whole_clips_that_the_next_run_keeps(genuine, tmp_path):
    script = tmp_path / "build.py"
    script.write_text(KILLED)
    manifest = Path(genuine[0]["wav"]).parents[1] / "manifest.csv"
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, str(script), str(manifest), str(out)], stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while len(list(out.rglob("[!.]*.wav"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = list(out.rglob("[!.]*.wav"))
    assert 3 <= len(left) <= 18
    assert all(soundfile.info(path).frames > 8000 for path in left)
    kept = {str(path): path.stat().st_mtime_ns for path in left}
    rows = build_attack_corpus(genuine, ["world", "griffin_lim"], out, workers=1)
    assert len(rows) == 18
    assert {path: stamps(rows)[path] for path in kept} == kept
