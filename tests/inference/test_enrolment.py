"""Enrolling: one voice becomes a file, and nothing else changes."""

import copy

import pytest
import torch

from speechcl.backbones.usat import USAT
from speechcl.backbones.usat.voice_files import read_record
from speechcl.backbones.usat.voices import voice_tensors
from speechcl.data.audio import write_audio
from speechcl.data.espeak import speak
from speechcl.inference import VoiceCloner
from speechcl.inference.enrolment import _recordings, _task
from tests.toy import same

TEXTS = ("Good morning to all of you.", "It is late already.", "Where do we go from here?")
TEXTS += ("Nobody was at home.", "The door is open.", "Give me the other one.")
TEXTS += ("Rain is on its way.", "I have seen it before.")
AGREED = {"consent": "Ann, by letter"}


def record(folder, texts=TEXTS, voice="en-us+f2"):
    for k, text in enumerate(texts):
        waveform, rate_hz = speak(text, voice)
        write_audio(folder / f"{k}.wav", waveform, rate_hz)
        (folder / f"{k}.txt").write_text(text)
    return folder


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    return record(tmp_path_factory.mktemp("ann") / "ann")


@pytest.fixture(scope="module")
def cloner():
    torch.manual_seed(0)
    return VoiceCloner(USAT("usat_tiny"))


@pytest.fixture(scope="module")
def enrolled(cloner, recordings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("voices")
    return cloner.enroll(recordings, "ann", folder=folder, epochs=2, progress=False, **AGREED)


def test_a_file_comes_of_it_and_the_base_stays_bit_for_bit(cloner, recordings, tmp_path):
    before = {name: value.clone() for name, value in cloner.model.state_dict().items()}
    fingerprint = cloner.fingerprint
    found = cloner.enroll(recordings, "bo-b", folder=tmp_path, epochs=1, progress=False, **AGREED)
    assert [file.name for file in tmp_path.iterdir()] == ["bo-b.safetensors"]
    assert same(cloner.model.state_dict(), before)
    assert cloner.fingerprint == fingerprint
    assert found.clips == len(TEXTS)
    assert 5 < found.speech_s < 30
    record = read_record(found.file)
    assert record["consent"] == "Ann, by letter"
    assert record["fingerprint"] == fingerprint
    assert float(record["speech_s"]) == pytest.approx(found.speech_s, abs=0.1)


def test_what_was_learnt_is_in_the_file(cloner, enrolled):
    assert enrolled.after_db != enrolled.before_db, "held-out clips are spoken in another way"
    fresh = VoiceCloner(copy.deepcopy(cloner.model))
    own = voice_tensors(fresh.model, fresh.load(enrolled.file))
    learnt = {name.split(".")[0] for name, one in own.items() if bool(one.any()) and ".up" in name}
    assert learnt == {"phonemes"}, "an untrained flow passes no gradient on"


def test_it_speaks_other_than_a_reference_does(cloner, enrolled, recordings):
    own = cloner.say("Hello.", voice=enrolled.file)
    again = cloner.say("Hello.", voice=enrolled.file)
    instant = cloner.say("Hello.", reference=recordings / "0.wav")
    assert torch.equal(own, again)
    assert own.shape != instant.shape or not torch.equal(own, instant)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"consent": " "}, "must agree"),
        ({"name": "../ann"}, "use up to 64 letters"),
        ({"name": ""}, "use up to 64 letters"),
        ({"name": "ann"}, "is there already"),
    ],
)
def test_what_is_refused_at_once(cloner, enrolled, change, message):
    options = {"name": "other", **AGREED, **change}
    with pytest.raises(ValueError, match=message):
        cloner.enroll("nowhere", folder=enrolled.file.parent, **options)
    assert len(list(enrolled.file.parent.iterdir())) == 1


def test_recordings_that_cannot_be_learnt_from(cloner, recordings, tmp_path):
    one = record(tmp_path / "one", TEXTS[2:3])
    with pytest.raises(ValueError, match="1 of 1 clips can be learnt from: give 2 or more"):
        cloner.enroll(one, "x", folder=tmp_path / "voices", **AGREED)
    record(tmp_path / "both" / "ann", TEXTS[:2])
    record(tmp_path / "both" / "bob", TEXTS[:2], "en-us+m2")
    with pytest.raises(ValueError, match=r"of 2 speakers \(ann, bob\): give one's"):
        cloner.enroll(tmp_path / "both", "x", folder=tmp_path / "voices", **AGREED)
    assert not (tmp_path / "voices").exists()


def test_clips_are_held_out_to_stop_by_where_there_are_enough(cloner, recordings, tmp_path):
    voices, _ = _recordings(recordings, "ann", cloner.model, tmp_path)
    task = _task(voices, "ann")
    trained, held = ({row["ID"] for row in one.rows} for one in (task.train, task.valid))
    assert len(trained) + len(held) == len(TEXTS)
    assert held
    assert not trained & held
    few = _task(voices.subset([0, 1]), "ann")
    assert (few.valid, len(few.train), len(few.test)) == (None, 2, 2)
