"""Clips that stay where the model is: what a set gives, in few shapes."""

import pytest
import torch

from speechcl.data.audio import write_audio
from speechcl.data.packed import pack_audio
from speechcl.data.resident_voices import ResidentVoices
from speechcl.data.voices import VoiceSet

RATE_HZ = 16000
SECONDS = (0.9, 1.7, 2.0, 2.1, 5.0, 3.0)
TEXTS = ("Hi!", "Good evening.", "No.", "Yes.", "It is late, and we are going.", "So be it.")


@pytest.fixture(scope="module")
def voices(tmp_path_factory):
    folder, rows = tmp_path_factory.mktemp("clips"), []
    for k, (seconds, text) in enumerate(zip(SECONDS, TEXTS, strict=True)):
        file = folder / f"{k}.wav"
        write_audio(file, torch.rand(round(seconds * RATE_HZ)) - 0.5, RATE_HZ)
        rows.append({"ID": str(k), "wav": file, "speaker": "ab"[k % 2], "text": text})
    return VoiceSet(pack_audio(rows, folder), rows, seed=3)


@pytest.mark.parametrize("items", [[0], [1, 2], [4, 0, 3], [5, 5]])
def test_a_batch_is_that_of_the_set_with_more_padding(voices, items):
    resident = ResidentVoices(voices, "cpu")
    for epoch in (1, 2):
        voices.set_epoch(epoch)
        resident.set_epoch(epoch)
        plain, batch = voices.__getitems__(items), resident.__getitems__(items)
        assert list(batch) == list(plain)
        width = batch["waveform"].shape[1]
        for name in ("id_lengths", "samples", "speaker", "clip"):
            assert torch.equal(batch[name], plain[name]), name
        for name in ("ids", "waveform"):
            long = plain[name].shape[1]
            assert torch.equal(batch[name][:, :long], plain[name]), name
            assert not batch[name][:, long:].any(), name
        cut = plain["reference"][:, :width]
        assert torch.equal(batch["reference"][:, : cut.shape[1]], cut)
        assert torch.equal(batch["reference_samples"], plain["reference_samples"].clamp(max=width))


def test_shapes_are_few_and_fit_all_that_is_as_long(voices):
    resident = ResidentVoices(voices, "cpu")
    shapes = {
        tuple(tuple(resident.__getitems__([item])[name].shape) for name in ("ids", "waveform"))
        for item in range(len(SECONDS))
    }
    of_two, of_four, of_six = sorted(shapes, key=lambda pair: pair[1])
    assert [pair[1] for pair in (of_two, of_four, of_six)] == [(1, 32000), (1, 64000), (1, 96000)]
    assert of_two[0] == (1, len(voices.ids[1]))
    assert of_six[0] == (1, len(voices.ids[4]))
    assert of_four[0][1] >= of_two[0][1]


def test_batches_and_speakers_are_those_of_the_set(voices):
    resident = ResidentVoices(voices, "cpu")
    assert resident.classes.names == voices.classes.names
    assert [*resident.batches(2, seed=1)] == [*voices.batches(2, seed=1)]
