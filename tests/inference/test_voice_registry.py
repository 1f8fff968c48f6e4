"""A folder of voices: none becomes another, none drifts unseen, removing one harms nobody."""

import dataclasses

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from speechcl.backbones.usat import USAT
from speechcl.backbones.usat.voice_files import save_voice
from speechcl.backbones.usat.voices import add_voice, remove_voice, voice_parameters
from speechcl.inference import VoiceCloner, voice_registry
from speechcl.inference.voice_registry import SENTENCES, Drift, Limits, VoiceRegistry, as_rows
from speechcl.safety.detection import detect_files

AGREED = {"consent": "by letter"}


def fresh():
    """The same base each time, with no voice beside it."""
    torch.manual_seed(0)
    return VoiceCloner(USAT("usat_tiny"))


@pytest.fixture
def cloner():
    return fresh()


def make_voice(cloner, folder, name, seed, record=AGREED):
    """A voice that differs from the base, as a trained one does."""
    torch.manual_seed(seed)
    folder.mkdir(exist_ok=True)
    add_voice(cloner.model, name, torch.randn(32))
    with torch.no_grad():
        for parameter in voice_parameters(cloner.model, name):
            parameter.add_(0.3 * torch.randn_like(parameter))
    save_voice(cloner.model, name, folder / f"{name}.safetensors", record=record)
    remove_voice(cloner.model, name)
    return folder / f"{name}.safetensors"


@pytest.fixture
def registry(cloner, tmp_path):
    for seed, name in enumerate(("ann", "bob", "cyd")):
        make_voice(cloner, tmp_path / "voices", name, seed)
    return VoiceRegistry(tmp_path / "voices")


def pitch(waveform, rate_hz):
    """Who speaks, as far as a test needs it: a unit vector of the spectrum."""
    vector = torch.fft.rfft(waveform, 512).abs()
    return vector / vector.norm()


def test_all_voices_do_not_become_the_new_one(cloner, registry):
    said = {name: cloner.say("Hello.", voice=file) for name, file in registry.voices().items()}
    fingerprint = cloner.fingerprint
    make_voice(cloner, registry.folder, "new", seed=9)
    new = cloner.say("Hello.", voice=registry.file("new"))
    for name, before in said.items():
        now = cloner.say("Hello.", voice=registry.file(name))
        assert torch.equal(now, before), name
        assert now.shape != new.shape or not torch.equal(now, new)
    assert cloner.fingerprint == fingerprint
    own = cloner.model.state_dict()
    assert all(torch.equal(own[name], value) for name, value in fresh().model.state_dict().items())
    assert len({tuple(one[:400].tolist()) for one in said.values()}) == len(said)


def test_records_say_who_agreed_and_of_which_base_a_voice_is(cloner, registry):
    (registry.folder / "broken.safetensors").write_bytes(b"no voice")
    ann, bob, broken, cyd = registry.records()
    assert ann["voice"] == "ann"
    assert ann["consent"] == "by letter"
    assert {one["fingerprint"] for one in (ann, bob, cyd)} == {cloner.fingerprint}
    assert "broken" in broken["problem"]


def test_a_folder_with_anything_in_it_is_listed(cloner, registry):
    (registry.folder / ".tmp-0.safetensors").write_bytes(b"what a kill has left")
    (registry.folder / "lost.safetensors").symlink_to("nowhere")
    made_up = AGREED | {"voice": "ann", "mb": "0"}
    make_voice(cloner, registry.folder, "zed", seed=5, record=made_up)
    rows = registry.records()
    assert [row["voice"] for row in rows] == ["ann", "bob", "cyd", "lost", "zed"]
    assert rows[3]["problem"].endswith("lost.safetensors: no such file of a voice: check the path")
    assert rows[4]["mb"] == rows[0]["mb"] != "0"


def test_verifying_finds_what_is_wrong(cloner, registry):
    assert registry.verify(cloner) == {}
    make_voice(cloner, registry.folder, "nobody", seed=3, record=None)
    make_voice(VoiceCloner(USAT("usat_tiny")), registry.folder, "other", seed=4)
    file = registry.file("bob")
    file.write_bytes(file.read_bytes()[:-100])
    found = registry.verify(fresh())
    assert sorted(found) == ["bob", "nobody", "other"]
    assert "nobody's consent is recorded" in found["nobody"]
    assert "another base model" in found["other"]
    assert "broken" in found["bob"]


# ---- tests of voices
def test_a_voice_that_says_the_same_has_not_drifted(cloner, registry):
    first = registry.test(cloner, pitch)
    assert first == [Drift("ann"), Drift("bob"), Drift("cyd")]
    again = registry.test(cloner, pitch)
    for one in again:
        assert one.similarity == pytest.approx(1, abs=1e-4)
        assert one.duration == 0
        assert one.mel_db < 0.5, "of 16 bits"
        assert one.beyond(Limits()) == []
    assert registry.test(cloner)[0].similarity is None
    for row in detect_files([*(registry.folder / ".last_test").iterdir()]):
        assert row["model"] == cloner.fingerprint, "speech in files says where it comes from"
        assert row["voice"] in ("ann", "bob", "cyd")
        assert row["watermark"] == f"{cloner.mark:04x}"


def test_a_changed_voice_is_found_and_the_others_are_not(cloner, registry):
    registry.test(cloner, pitch)
    file = registry.file("bob")
    with safe_open(file, framework="pt") as opened:
        about = opened.metadata()
    tensors = {name: -one for name, one in load_file(file).items()}
    save_file(tensors, file, about)
    beyond = {one.voice: one.beyond(Limits()) for one in registry.test(cloner, pitch)}
    assert beyond["ann"] == beyond["cyd"] == []
    assert "mel_db" in beyond["bob"]
    registry.accept(cloner)
    assert not any(one.beyond(Limits()) for one in registry.test(cloner, pitch))


def test_the_worst_sentence_counts(cloner, registry, monkeypatch):
    registry.test(cloner)
    each = iter([(0.9, 0.1, 1.0), (0.2, 0.3, 4.0), (None, 0.2, 2.0)] * 3)
    monkeypatch.setattr(voice_registry, "_compare", lambda *_: next(each))
    assert registry.test(cloner)[0] == Drift("ann", 0.2, 0.3, 4.0)


@pytest.mark.parametrize(
    ("change", "beyond"),
    [
        ({}, []),
        ({"similarity": 0.89}, ["similarity"]),
        ({"duration": 0.06}, ["duration"]),
        ({"mel_db": 1.1}, ["mel_db"]),
        ({"similarity": None, "duration": None, "mel_db": None}, []),
    ],
)
def test_limits(change, beyond):
    drift = dataclasses.replace(Drift("ann", 0.9, 0.05, 1.0), **change)
    assert drift.beyond(Limits()) == beyond
    assert as_rows([drift], Limits())[0]["beyond"] == beyond


# ---- removing
def test_a_removed_voice_is_gone_and_the_base_and_others_are_as_they_were(cloner, registry):
    registry.file("cyd").rename(registry.folder / "bob.2.safetensors")
    registry.test(cloner)
    before = {name: registry.file(name).read_bytes() for name in ("ann", "bob.2")}
    fingerprint = cloner.fingerprint
    record = registry.remove("bob")
    assert record["fingerprint"] == cloner.fingerprint == fingerprint
    assert {name: file.read_bytes() for name, file in registry.voices().items()} == before
    left = [file.name for file in registry.folder.rglob("bob*") if "bob.2" not in file.name]
    assert left == []
    assert len([*registry.folder.glob(".last_test/*.flac")]) == 2 * len(SENTENCES)
    with pytest.raises(ValueError, match="has no voice 'bob'; it has ann, bob.2"):
        registry.remove("bob")


def test_a_broken_voice_can_be_removed(registry):
    registry.file("bob").write_bytes(b"")
    assert registry.remove("bob") == {"name": "bob"}


def test_no_folder_is_said(tmp_path):
    with pytest.raises(ValueError, match="no such folder of voices"):
        VoiceRegistry(tmp_path / "none")
