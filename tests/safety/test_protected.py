"""A protected voice is known again, and no file makes the list forget or crash."""

import json

import pytest
import torch
from safetensors.torch import save_file

from speechcl.safety.protected import FORMAT, ProtectedVoices
from speechcl.safety.verifier import SAME_SPEAKER_SIMILARITY, VERIFIER


def leaning(similarity: float) -> torch.Tensor:
    """A vector of a given cosine similarity to the first axis."""
    return 3.0 * torch.tensor([similarity, (1 - similarity**2) ** 0.5, 0.0])


FIRST = torch.tensor([2.0, 0.0, 0.0])


def test_the_threshold_is_the_verifiers_and_can_be_set():
    voices = ProtectedVoices({"alice": FIRST})
    assert voices.check(leaning(SAME_SPEAKER_SIMILARITY + 0.01)) == "alice"
    assert voices.check(leaning(SAME_SPEAKER_SIMILARITY - 0.01)) is None
    assert ProtectedVoices({"alice": FIRST}, threshold=0.5).check(leaning(0.51)) == "alice"


def test_the_most_similar_voice_is_named():
    voices = ProtectedVoices({"a": FIRST, "b": leaning(0.9), "c": torch.tensor([0.0, 0.0, 1.0])})
    name, similarity = voices.closest(leaning(0.88))
    assert name == "b"
    assert similarity == pytest.approx(
        torch.cosine_similarity(leaning(0.9), leaning(0.88), dim=0).item()
    )


def test_recordings_count_alike_however_long_their_vectors():
    vectors = {1: torch.tensor([10.0, 0.0]), 2: torch.tensor([0.0, 0.1])}
    recordings = [(torch.zeros(4), 1), (torch.zeros(4), 2)]
    voices = ProtectedVoices()
    voices.add_recordings("alice", recordings, lambda waveform, rate_hz: vectors[rate_hz])
    assert voices.closest(torch.ones(2)) == ("alice", pytest.approx(1.0))
    one_is_silent = [(torch.zeros(4), 1), (torch.zeros(4), 3)]
    with pytest.raises(ValueError, match="recording 2 of 'bob': a speaker vector is zero"):
        voices.add_recordings("bob", one_is_silent, lambda _, rate: (3 - rate) * torch.ones(2))
    with pytest.raises(ValueError, match="no recording of 'bob'"):
        voices.add_recordings("bob", [], lambda waveform, rate_hz: torch.ones(2))


def test_a_list_survives_its_file_and_a_folder_joins_lists(tmp_path):
    ProtectedVoices({"alice": FIRST, "Zoë": leaning(0.5)}).save(tmp_path / "a.safetensors")
    ProtectedVoices({"bob": leaning(-0.9)}).save(tmp_path / "b.safetensors")
    (tmp_path / "notes.txt").write_text("no list")
    (tmp_path / ".tmp-0.safetensors").write_bytes(b"what a kill has left")
    one = ProtectedVoices.load(tmp_path / "a.safetensors", threshold=0.7)
    assert (one.names, one.threshold) == (["alice", "Zoë"], 0.7)
    both = ProtectedVoices.load(tmp_path)
    assert both.names == ["alice", "Zoë", "bob"]
    assert both.check(leaning(-0.9)) == "bob"
    ProtectedVoices({"alice": FIRST}).save(tmp_path / "c.safetensors")
    with pytest.raises(ValueError, match=r"c\.safetensors: names 'alice' a second time"):
        ProtectedVoices.load(tmp_path)


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(ValueError, match="no such list"):
        ProtectedVoices.load(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="holds no list"):
        ProtectedVoices.load(tmp_path)
    with pytest.raises(ValueError, match="add one first"):
        ProtectedVoices().save(tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


GOOD = {"format": FORMAT, "names": '["alice"]', "verifier": VERIFIER}


@pytest.mark.parametrize(
    ("vectors", "about", "message"),
    [
        (torch.ones(1, 3), {"format": ""}, "holds no protected voices"),
        (torch.ones(1, 3), {"format": "speechcl voice 1"}, "holds no protected voices"),
        (torch.ones(1, 3), {"verifier": "other"}, "is for the verifier 'other'"),
        (torch.ones(2, 3), {}, "do not fit"),
        (torch.ones(3), {}, "do not fit"),
        (torch.ones(1, 3, dtype=torch.int64), {}, "do not fit"),
        (torch.ones(1, 3), {"names": "[1]"}, "do not fit"),
        (torch.ones(0, 3), {"names": "[]"}, "do not fit"),
        (torch.ones(1, 3), {"names": '"a"'}, "do not fit"),
        (torch.ones(1, 3), {"names": "[" * 100_000}, "do not fit"),
        (torch.ones(1, 3), {"names": json.dumps(["a\nb"])}, "cannot name a voice"),
        (torch.ones(1, 3), {"names": json.dumps([""])}, "cannot name a voice"),
        (torch.ones(2, 3), {"names": json.dumps(["a", "a"])}, "a second time"),
        (torch.zeros(1, 3), {}, "zero or not finite"),
        (torch.full((1, 3), torch.inf), {}, "zero or not finite"),
        (torch.full((1, 3), torch.nan), {}, "zero or not finite"),
    ],
)
def test_hostile_files_are_refused(tmp_path, vectors, about, message):
    file = tmp_path / "a.safetensors"
    save_file({"vectors": vectors}, file, GOOD | about)
    with pytest.raises(ValueError, match=message) as caught:
        ProtectedVoices.load(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\x80\x04N.", b"\xff" * 64, b"PK\x03\x04" * 20])
def test_files_of_other_kinds_are_refused(tmp_path, content):
    file = tmp_path / "a.safetensors"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="is broken or no safetensors"):
        ProtectedVoices.load(file)


def test_a_file_of_other_tensors_is_refused(tmp_path):
    file = tmp_path / "a.safetensors"
    save_file({"vectors": torch.ones(1, 3), "more": torch.ones(1)}, file, GOOD)
    with pytest.raises(ValueError, match="do not fit"):
        ProtectedVoices.load(file)


@pytest.mark.parametrize(
    "vector", [torch.zeros(3), torch.full((3,), torch.nan), torch.ones(4), torch.ones(1, 3)]
)
def test_vectors_that_cannot_be_compared_are_refused(vector):
    voices = ProtectedVoices({"alice": FIRST})
    for work in (voices.check, voices.closest, lambda one: voices.add("bob", one)):
        with pytest.raises(ValueError, match="speaker vector"):
            work(vector)
    assert voices.names == ["alice"]
