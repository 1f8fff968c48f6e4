"""Preparation of clips: what is written, left out, refused, used again and gone on with."""

import os
import signal
import subprocess
import sys

import numpy
import pytest
import soundfile
import torch

from speechcl.data.audio import read_audio
from speechcl.data.manifest_checks import ManifestError
from speechcl.data.voice_corpora import prepare, prepare_voices
from speechcl.data.voices import symbol_numbers

TEXT = "Please call Stella."


def noise(seconds, rate_hz=16000, peak=0.3, seed=0):
    waveform = numpy.random.default_rng(seed).uniform(-1, 1, round(seconds * rate_hz))
    return peak * waveform / abs(waveform).max()


def clip(folder, name, waveform, rate_hz=16000, **more):
    wav = folder / f"{name}.wav"
    soundfile.write(wav, waveform, rate_hz)
    duration = len(waveform) / rate_hz
    row = {"ID": name, "wav": str(wav), "duration": duration, "speaker": "x", "text": TEXT}
    return {**row, "corpus": "mine", "split": "train", **more}


def run(rows, folder, **options):
    return prepare_voices(rows, folder / "corpus", workers=1, **options)


def stamps(folder):
    files = sorted((folder / "corpus").rglob("*.flac"))
    return {file.name: file.stat().st_mtime_ns for file in files}


# ---- what is written
def test_silence_at_the_ends_is_cut_off_and_the_peak_is_set(tmp_path):
    silence = 0.005 * noise(0.5, seed=1)  # 46 dB below the rest
    sound = numpy.concatenate([silence, noise(1.0), silence, noise(0.5, seed=2), silence])
    rows, left_out = run([clip(tmp_path, "a", sound)], tmp_path)
    assert not left_out
    written = read_audio(rows[0]["wav"]).numpy()
    assert len(written) / 16000 == pytest.approx(2.0 + 2 * 0.05, abs=0.03)
    assert rows[0]["duration"] == len(written) / 16000
    assert abs(written).max() == pytest.approx(0.95, abs=1e-3)
    start = round(0.5 * 16000) - (numpy.abs(written) > 0.1).argmax()  # where it began
    expected = sound[start : start + len(written)] * 0.95 / 0.3
    assert abs(written - expected).max() < 1e-3


def test_quiet_speech_is_not_taken_for_silence(tmp_path):
    quiet = 10 ** (-34 / 20) * noise(0.5, seed=1)  # 34 dB below the loud part
    rows, _ = run([clip(tmp_path, "a", numpy.concatenate([quiet, noise(1.0)]))], tmp_path)
    assert rows[0]["duration"] == pytest.approx(1.5, abs=0.01)


def test_channels_are_averaged_and_the_rate_is_changed(tmp_path):
    tone = numpy.sin(2 * numpy.pi * 440 * numpy.arange(2 * 44100) / 44100)
    stereo = numpy.stack([0.8 * tone, 0.2 * tone], axis=1)
    rows, _ = run([clip(tmp_path, "a", stereo, 44100)], tmp_path, rate_hz=22050)
    written, rate_hz = soundfile.read(rows[0]["wav"])
    assert (rate_hz, written.ndim) == (22050, 1)
    assert len(written) == pytest.approx(44100, abs=30)
    spectrum = abs(numpy.fft.rfft(written))
    assert spectrum.argmax() * 22050 / len(written) == pytest.approx(440, abs=1)


def test_rows_keep_their_columns_and_learn_their_symbols(tmp_path):
    row = clip(tmp_path, "a", noise(2), accent="British", gender="F", text="water bath")
    rows, _ = run([row], tmp_path)
    kept = {name: rows[0][name] for name in row if name not in ("wav", "duration")}
    assert kept == {name: row[name] for name in kept}
    assert [int(one) for one in rows[0]["symbols"].split()] == symbol_numbers([row])[0]


def test_workers_change_nothing(tmp_path):
    rows = [clip(tmp_path, name, noise(1.2, seed=i)) for i, name in enumerate("ab")]
    one = prepare_voices(rows, tmp_path / "one", workers=1).rows
    two = prepare_voices(rows, tmp_path / "two", workers=2).rows
    for first, second in zip(one, two, strict=True):
        assert torch.equal(read_audio(first["wav"]), read_audio(second["wav"]))


# ---- what is left out
@pytest.mark.parametrize(
    ("waveform", "more", "reason"),
    [
        (noise(0.9), {}, "under 1 s"),
        (numpy.concatenate([noise(0.8), numpy.zeros(16000)]), {}, "under 1 s"),  # once trimmed
        (noise(12.5), {}, "over 12 s"),
        (noise(61), {}, "over 12 s"),
        (numpy.zeros(32000), {}, "silent"),
        (noise(2), {"text": "..."}, "nothing to say"),
        (noise(2), {"speaker": "-"}, "no speaker"),
        (noise(1.1), {"text": TEXT * 5}, "fewer frames than symbols"),
    ],
)
def test_clips_that_train_no_voice_are_left_out(tmp_path, waveform, more, reason):
    rows = [clip(tmp_path, "good", noise(2)), clip(tmp_path, "bad", waveform, **more)]
    found = run(rows, tmp_path)
    assert [row["ID"] for row in found.rows] == ["good"]
    assert found.left_out == {"bad": reason}
    assert len(stamps(tmp_path)) == 1


def test_what_is_too_long_for_silence_alone_is_used(tmp_path):
    silence = numpy.zeros(4 * 16000)
    sound = numpy.concatenate([silence, noise(6), silence])
    assert run([clip(tmp_path, "a", sound)], tmp_path).rows[0]["duration"] < 6.2


# ---- what is refused
def test_a_corpus_without_a_usable_clip_is_refused(tmp_path):
    rows = [clip(tmp_path, name, noise(0.5)) for name in "ab"]
    with pytest.raises(ValueError, match=r"none of 2 clips can train a voice \(a: under 1 s\)"):
        run(rows, tmp_path)
    assert not list((tmp_path / "corpus").rglob("prepared-*"))


def test_clips_that_cannot_be_decoded_are_all_named(tmp_path):
    rows = [clip(tmp_path, name, noise(2)) for name in "abc"]
    for row in rows[:2]:
        soundfile.write(row["wav"], [0.0, numpy.nan] * 16000, 16000, "FLOAT")
    with pytest.raises(ManifestError, match=r"2 problems: a: .*a\.wav.*NaN.*b: .*b\.wav.*NaN"):
        run(rows, tmp_path)


def test_two_rows_with_one_id_are_refused(tmp_path):
    with pytest.raises(ManifestError, match="ID 'a' is used 2 times"):
        run([clip(tmp_path, "a", noise(2))] * 2, tmp_path)


# ---- what is used again
def test_the_same_clips_are_prepared_once(tmp_path, monkeypatch):
    rows = [clip(tmp_path, "a", noise(2)), clip(tmp_path, "b", noise(0.5))]
    first = run(rows, tmp_path)
    monkeypatch.setattr(prepare, "run_jobs", None)
    assert run(rows, tmp_path) == first


@pytest.mark.parametrize("change", [{"text": "Ask her."}, {"accent": "British"}, {"split": "test"}])
def test_sound_stays_where_only_other_things_change(tmp_path, change):
    row = clip(tmp_path, "a", noise(2), accent="American")
    run([row], tmp_path)
    before = stamps(tmp_path)
    row = {**row, **change}
    rows, _ = run([row], tmp_path)
    assert stamps(tmp_path) == before
    assert {name: rows[0][name] for name in change} == change
    assert [int(one) for one in rows[0]["symbols"].split()] == symbol_numbers([row])[0]


def test_frames_are_counted_anew_where_they_are_longer(tmp_path):
    rows = [clip(tmp_path, "a", noise(2)), clip(tmp_path, "b", noise(9))]
    assert not run(rows, tmp_path).left_out
    assert run(rows, tmp_path, hop=1600).left_out == {"a": "fewer frames than symbols"}


def test_sound_is_made_anew_where_it_changes(tmp_path):
    run([clip(tmp_path, "a", noise(2))], tmp_path)
    assert len(stamps(tmp_path)) == 1
    longer = [clip(tmp_path, "a", noise(3))]
    rows, _ = run(longer, tmp_path)
    assert len(stamps(tmp_path)) == 2
    assert rows[0]["duration"] == 3.0
    rows, _ = run(longer, tmp_path, rate_hz=22050)
    assert soundfile.info(rows[0]["wav"]).samplerate == 22050


def test_clips_that_are_gone_are_made_again(tmp_path):
    rows = [clip(tmp_path, name, noise(2)) for name in "ab"]
    gone, kept = (row["wav"] for row in run(rows, tmp_path).rows)
    before = stamps(tmp_path)
    os.unlink(gone)  # noqa: PTH108
    run(rows, tmp_path)
    after = stamps(tmp_path)
    assert before.keys() == after.keys()
    name = os.path.basename(kept)  # noqa: PTH119
    assert before[name] == after[name]


@pytest.mark.parametrize("written", [2, 4])
def test_after_a_kill_clips_that_are_whole_are_kept(tmp_path, written):
    rows = [clip(tmp_path, name, noise(1.5, seed=i)) for i, name in enumerate("abcd")]
    program = f"""
import os, signal
from speechcl.data.voice_corpora import prepare
def kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
def write(path, *args, write=prepare.write_audio):
    write(path, *args)
    if path.stem[0] == {"abcd"[written - 1]!r}:
        {"kill()" if written < 4 else "prepare.atomic_path = kill"}
prepare.write_audio = write
prepare.prepare_voices({rows!r}, {str(tmp_path / "corpus")!r}, workers=1)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    before = stamps(tmp_path)
    assert len(before) == written
    assert not list((tmp_path / "corpus").glob("prepared-*"))
    found = run(rows, tmp_path)
    assert before.items() <= stamps(tmp_path).items()
    whole = prepare_voices(rows, tmp_path / "other", workers=1)
    for one, other in zip(found.rows, whole.rows, strict=True):
        assert one["duration"] == other["duration"]
        assert torch.equal(read_audio(one["wav"]), read_audio(other["wav"]))


def test_the_folder_may_move(tmp_path):
    rows = [clip(tmp_path, "a", noise(2))]
    run(rows, tmp_path)
    before = stamps(tmp_path)
    (tmp_path / "corpus").rename(tmp_path / "moved")
    (found,), _ = prepare_voices(rows, tmp_path / "moved", workers=1)
    assert found["wav"].startswith(str(tmp_path / "moved"))
    (tmp_path / "moved").rename(tmp_path / "corpus")
    assert stamps(tmp_path) == before
