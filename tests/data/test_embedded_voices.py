"""Voices that read known sentences: the same whoever makes them, and fit to train on."""

import hashlib
import pickle
import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest
import soundfile

from speechcl.data import embedded, embedded_voices
from speechcl.data.embedded import TEMPLATES
from speechcl.data.embedded_voices import (
    _SPLITS,
    _Clip,
    _sentences,
    _speak_clip,
    build_embedded_voices,
)
from speechcl.data.manifest import ManifestError, read_manifest
from speechcl.data.packed import pack_audio
from speechcl.data.pool import run_jobs
from speechcl.data.voices import VoiceSet


def digests(rows):
    return {row["ID"]: hashlib.sha256(Path(row["wav"]).read_bytes()).hexdigest() for row in rows}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("voices")
    return folder, build_embedded_voices(folder, speakers=2, sentences=12, workers=1)


def test_manifest_has_the_columns_and_is_read_back(built):
    folder, rows = built
    assert len(rows) == 24
    columns = ["ID", "duration", "wav", "speaker", "accent", "corpus", "split", "text"]
    assert list(rows[0]) == columns
    assert rows == read_manifest(folder / "manifest.csv", disjoint_speakers=False)
    assert "$data_root/clips/" in (folder / "manifest.csv").read_text()
    with pytest.raises(ManifestError, match="is in splits"):
        read_manifest(folder / "manifest.csv")


def test_clips_are_16_bit_of_a_few_seconds_and_do_not_clip(built):
    for row in built[1]:
        samples, rate_hz = soundfile.read(row["wav"])
        assert (rate_hz, soundfile.info(row["wav"]).subtype) == (16000, "PCM_16")
        assert len(samples) / rate_hz == pytest.approx(row["duration"], abs=1e-3)
        assert 1.0 < row["duration"] < 7.0
        assert abs(samples).max() < 0.99


def test_every_speaker_reads_every_sentence_and_splits_share_none(built):
    rows = built[1]
    read = defaultdict(set)
    for row in rows:
        read[row["speaker"]].add((row["text"], row["split"]))
    assert len(read) == 2
    (sentences,) = {frozenset(one) for one in read.values()}
    assert len({text for text, _ in sentences}) == 12
    assert sorted(split for _, split in sentences) == ["test"] * 2 + ["train"] * 8 + ["valid"] * 2


def template_of(text):
    patterns = {
        one: re.sub(r"\{\w+\}", ".+", re.escape(one).replace(r"\{", "{").replace(r"\}", "}"))
        for one in TEMPLATES
    }
    (found,) = [one for one, pattern in patterns.items() if re.fullmatch(pattern, text)]
    return found


@pytest.mark.parametrize("seed", [0, 1])
def test_sentences_differ_and_templates_stay_in_one_split(seed):
    texts = _sentences(480, seed)
    assert len(set(texts)) == 480
    splits_of = defaultdict(set)
    for number, text in enumerate(texts):
        splits_of[template_of(text)].add(_SPLITS[number % len(_SPLITS)])
    assert Counter(map(tuple, splits_of.values())) == {("train",): 8, ("valid",): 2, ("test",): 2}


def test_all_splits_can_be_trained_on(built):
    folder, rows = built
    pack = pack_audio(rows, folder / "packs")
    for split in ("train", "valid", "test"):
        data = VoiceSet(pack, [row for row in rows if row["split"] == split])
        assert data.counts() == dict.fromkeys(("en-us_f1", "en_m1"), len(data) // 2)


def test_order_workers_and_further_sentences_and_speakers_leave_clips_alike(
    built, tmp_path, monkeypatch
):
    def backwards(function, jobs, workers, description):
        assert workers == 5
        function, jobs = pickle.loads(pickle.dumps((function, jobs)))  # as workers get them
        return run_jobs(function, jobs[::-1], 1, description)[::-1]

    monkeypatch.setattr(embedded, "run_jobs", backwards)
    more = digests(build_embedded_voices(tmp_path, speakers=3, sentences=13, workers=5))
    assert all(more[name] == digest for name, digest in digests(built[1]).items())
    assert len(more) == 39


def test_seed_and_rate_change_clips_in_one_folder_too(built, tmp_path):
    ours = digests(built[1])
    other = digests(build_embedded_voices(tmp_path, 1, 12, seed=1, workers=1))
    assert not any(ours[name] == digest for name, digest in other.items())
    again = digests(build_embedded_voices(tmp_path, 1, 12, workers=1))
    assert all(ours[name] == digest for name, digest in again.items())
    rows = build_embedded_voices(tmp_path, 1, 12, rate_hz=22050, workers=1)
    assert {soundfile.info(row["wav"]).samplerate for row in rows} == {22050}
    durations = {row["ID"]: row["duration"] for row in built[1]}
    assert all(durations[row["ID"]] == pytest.approx(row["duration"], abs=0.05) for row in rows)


def test_the_seed_decides_words_and_styles(tmp_path, monkeypatch):
    clips = [_Clip(str(tmp_path), "en-us+f1", 0, "Good morning.", seed, 16000) for seed in (0, 1)]
    assert len({_speak_clip(clip)["duration"] for clip in clips}) == 2
    monkeypatch.setattr(
        embedded_voices, "sentence", lambda number, order_seed, words_seed: str(words_seed)
    )
    assert not set(_sentences(12, 0)) & set(_sentences(12, 1))


def test_a_finished_folder_is_reused_and_an_unfinished_is_not(tmp_path):
    rows = build_embedded_voices(tmp_path, 1, 12, workers=1)
    soundfile.write(rows[0]["wav"], [0.25] * 100, 16000)
    assert build_embedded_voices(tmp_path, 1, 12, workers=1) == rows
    assert soundfile.info(rows[0]["wav"]).frames == 100
    (tmp_path / "embedded.json").unlink()
    build_embedded_voices(tmp_path, 1, 12, workers=1)
    assert soundfile.info(rows[0]["wav"]).frames > 100


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"speakers": 0}, "speakers is 0: set it between 1 and 40"),
        ({"speakers": 41}, "speakers is 41"),
        ({"sentences": 11}, "sentences is 11: set it between 12 and 480"),
        ({"sentences": 481}, "sentences is 481"),
        ({"rate_hz": 7999}, "rate_hz is 7999"),
    ],
)
def test_numbers_out_of_range(options, reason, tmp_path):
    with pytest.raises(ValueError, match=reason):
        build_embedded_voices(tmp_path, **options)
    assert not list(tmp_path.iterdir())
