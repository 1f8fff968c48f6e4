"""Clips with transcripts: whose voice a reference is, and what a batch holds."""

import functools
import pickle
from collections import Counter

import numpy
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader

from speechcl.backbones.usat import USAT
from speechcl.data.packed import pack_audio
from speechcl.data.phonemes import numbers, phonemes
from speechcl.data.voice_batches import VoiceBatches
from speechcl.data.voices import VoiceSet, symbol_numbers, voice_problems

TEXTS = ("Yes!", "Good morning.", "No, never.", "Water")
MODEL_KEYS = ("ids", "id_lengths", "waveform", "samples", "reference", "reference_samples")
KEYS = (*MODEL_KEYS, "speaker", "clip")


@pytest.fixture(scope="module")
def pack_and_rows(tmp_path_factory):
    """Speakers z, x and y in turn, with 2, 4 and 6 clips; no two clips are of one length."""
    folder, rows = tmp_path_factory.mktemp("voices"), []
    for k, speaker in enumerate("zxyzxyxyxyyy"):
        waveform = numpy.random.default_rng(k).uniform(-0.5, 0.5, 12000 + 137 * (k * 7 % 12))
        name = f"c{11 - k:02d}"  # IDs run against rows
        soundfile.write(folder / f"{name}.wav", waveform, 16000)
        rows.append({"ID": name, "wav": str(folder / f"{name}.wav"), "duration": 1.0})
        rows[-1] |= {"speaker": speaker, "text": TEXTS[k % 4]}
    return pack_audio(rows, folder), rows


@pytest.fixture
def make(pack_and_rows):
    return functools.partial(VoiceSet, *pack_and_rows)


def references(data, epoch=1):
    """IDs of the references of all clips, found by their lengths."""
    data.set_epoch(epoch)
    id_of = {int(n): one for n, one in zip(data.pack.lengths, data.pack.ids, strict=True)}
    batch = data.__getitems__(list(range(len(data))))
    return [id_of[int(n)] for n in batch["reference_samples"]]


# ---- what a batch holds
def test_a_batch_holds_whole_clips_and_zeros_behind_them(make, pack_and_rows):
    pack, _ = pack_and_rows
    data, order = make(), [4, 0, 7]
    batch = data.__getitems__(order)
    assert tuple(batch) == KEYS
    assert batch["clip"].tolist() == order
    found = references(data)
    for row, index in enumerate(order):
        own, other = index, pack.place_of[found[index]]
        for name, place in (("waveform", own), ("reference", other)):
            count = int(batch["samples" if name == "waveform" else "reference_samples"][row])
            assert count == pack.lengths[place]
            assert torch.equal(batch[name][row, :count], pack.read(place))
            assert (batch[name][row, count:] == 0).all()
        said = numbers(phonemes(TEXTS[index % 4]))
        assert batch["ids"][row, : batch["id_lengths"][row]].tolist() == said
        assert (batch["ids"][row, len(said) :] == 0).all()
    assert batch["waveform"].shape[1] == batch["samples"].max()
    assert batch["reference"].shape[1] == batch["reference_samples"].max()
    assert batch["ids"].shape[1] == batch["id_lengths"].max()
    assert all(batch[name].dtype == torch.int64 for name in ("ids", "id_lengths", "samples"))


def test_speakers_are_numbered_by_name_or_as_is_said(make):
    assert make().__getitems__([2, 0, 1])["speaker"].tolist() == [1, 2, 0]
    named = make(speaker_names=["y", "z", "w", "x"])
    assert named.__getitems__([0, 1, 2])["speaker"].tolist() == [1, 3, 0]
    assert named.subset([1, 4]).labels.tolist() == [3, 3]


def test_an_item_is_a_batch_of_one(make):
    batch, item = make().__getitems__([5]), make()[5]
    assert all(torch.equal(batch[name][0], item[name]) for name in KEYS)
    assert make().collate(batch) is batch


def test_the_accent_decides_the_pronunciation():
    rows = [{"text": "water", "accent": one} for one in ("American", "Scottish", "Klingon", "-")]
    american, scottish, unknown, none = symbol_numbers([*rows])
    assert american == numbers(phonemes("water", "en-us")) == unknown == none
    assert scottish == numbers(phonemes("water", "en-gb-scotland")) != american


def test_the_voice_model_takes_a_batch(make):
    batch = make().__getitems__([0, 5, 3])
    torch.manual_seed(0)
    found = USAT("usat_tiny")(**{name: batch[name] for name in MODEL_KEYS})
    assert found.latents.frames.tolist() == (batch["samples"] // 256).tolist()
    assert torch.isfinite(found.decoded).all()
    assert found.aligned.durations.sum((1, 2)).tolist() == found.latents.frames.tolist()


# ---- references
def test_a_reference_is_another_clip_of_the_speaker_and_any_can_come(make):
    data, heard = make(), Counter()
    speaker_of = {row["ID"]: row["speaker"] for row in data.rows}
    for epoch in range(1, 61):
        for row, other in zip(data.rows, references(data, epoch), strict=True):
            assert other != row["ID"]
            assert speaker_of[other] == row["speaker"]
            heard[row["ID"], other] += 1
    assert len(heard) == 2 * 1 + 4 * 3 + 6 * 5
    assert max(n for (one, _), n in heard.items() if speaker_of[one] == "y") < 30  # 12 expected


def test_a_plain_reference_is_the_next_by_id_in_every_epoch(make):
    data = make()
    found = references(data.plain(), 1)
    assert found == references(data.plain(), 2) != references(data, 2)
    for speaker in "xyz":
        ids = sorted(row["ID"] for row in data.rows if row["speaker"] == speaker)
        following = dict(zip(ids, ids[1:] + ids[:1], strict=True))
        for row, other in zip(data.rows, found, strict=True):
            assert row["speaker"] != speaker or other == following[row["ID"]]


def test_a_clip_given_twice_is_not_its_own_reference(make, pack_and_rows):
    pack, rows = pack_and_rows
    data = VoiceSet(pack, [rows[0], rows[0], rows[3]])
    for epoch in range(1, 9):
        assert references(data, epoch) == [rows[3]["ID"]] * 2 + [rows[0]["ID"]]
    with pytest.raises(ValueError, match="one clip only"):
        VoiceSet(pack, [rows[0], rows[0]])


def test_epochs_and_seeds_differ_and_repeat(make):
    first, second = references(make(), 1), references(make(), 2)
    assert first != second
    assert first != references(make(seed=5), 1)
    again = make()
    assert references(again, 2) == second
    assert references(again, 1) == first


def test_order_of_rows_subsets_and_global_randomness_change_nothing(make, pack_and_rows):
    pack, rows = pack_and_rows
    expected = references(make(), 3)
    torch.manual_seed(77)
    numpy.random.seed(77)
    order = torch.randperm(len(rows)).tolist()
    turned = VoiceSet(pack, [rows[place] for place in order])
    assert references(turned, 3) == [expected[place] for place in order]
    assert torch.equal(turned[0]["waveform"], pack.read(order[0]))
    whole_speakers = [k for k in order if rows[k]["speaker"] in "xz"]
    assert references(make().subset(whole_speakers), 3) == [expected[k] for k in whole_speakers]


def test_references_of_a_subset_are_in_it(make):
    part = make().subset([1, 4, 2, 5])
    found = {one for epoch in range(1, 9) for one in references(part, epoch)}
    assert found == {row["ID"] for row in part.rows}


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_draw_alike_in_every_epoch(make, workers):
    data = make()
    loader = DataLoader(data, batch_size=5, num_workers=workers, collate_fn=data.collate)
    for epoch in (1, 2):
        expected = make()
        expected.set_epoch(epoch)
        data.set_epoch(epoch)
        for number, batch in enumerate(loader):
            places = list(range(len(data)))[5 * number : 5 * number + 5]
            wanted = expected.__getitems__(places)
            assert all(torch.equal(batch[name], wanted[name]) for name in KEYS)


def test_pickled_it_draws_alike(make):
    data = make()
    again = pickle.loads(pickle.dumps(data))
    assert references(again, 4) == references(data, 4)


def test_an_engine_takes_its_batches(make):
    data = make()
    lengths = data.pack.lengths[data.places]
    expected = VoiceBatches([*data.speakers], [*lengths], 5, 9)
    assert list(data.batches(5, seed=9)) == list(expected)
    drawn = Counter(data.speakers[i] for batch in data.batches(5, seed=9) for i in batch)
    assert drawn == {"x": 4, "y": 4, "z": 4}


# ---- sums
def test_a_sum_of_speakers_draws_like_its_parts(make):
    data = make(seed=3)
    z, rest = ([k for k, s in enumerate(data.speakers) if (s == "z") == one] for one in (1, 0))
    both = data.subset(z) + data.subset(rest)
    expected = references(data, 2)
    assert references(both, 2) == [expected[k] for k in z + rest]
    assert both.labels.tolist() == data.labels[z + rest].tolist()
    assert both.nbytes == data.nbytes == 2 * data.pack.lengths.sum()


def test_a_sum_numbers_new_speakers_last(pack_and_rows):
    pack, rows = pack_and_rows
    z, x = (VoiceSet(pack, [row for row in rows if row["speaker"] == s]) for s in "zx")
    assert (z + x).labels.tolist() == [0] * 2 + [1] * 4


def test_what_is_derived_computes_no_sounds_again(make, monkeypatch):
    data = make()

    def never(*arguments):
        raise AssertionError

    monkeypatch.setattr("speechcl.data.voices.phonemes", never)
    derived = (data.subset([0, 3]) + data.subset([1, 4])).plain()
    assert torch.equal(derived[2]["ids"], data[1]["ids"])


@pytest.mark.parametrize("options", [{"hop": 200}, {"fixed_reference": True}, {"seed": 1}])
def test_sets_of_other_settings_do_not_add_up(make, options):
    with pytest.raises(ValueError, match="do not add up"):
        make() + make(**options)


# ---- refused
def test_clips_that_cannot_train_are_listed_together(pack_and_rows):
    pack, rows = pack_and_rows
    bad = [
        {**rows[0], "text": "... ?!"},
        {**rows[1], "text": None},
        {**rows[2], "text": "far too many words for three quarters of a second of sound"},
        {**rows[3], "speaker": "-"},
        {**rows[4], "ID": "elsewhere"},
    ]
    found = voice_problems(pack, [*bad, *rows[5:]], symbol_numbers([*bad, *rows[5:]]))
    names = [row["ID"] for row in bad]
    assert list(found) == names
    reasons = ["nothing to say", "nothing to say", "frames for", "no speaker", "not in the pack"]
    assert all(reason in found[name] for name, reason in zip(names, reasons, strict=True))
    with pytest.raises(ValueError, match=r"5 of 12 clips cannot train") as raised:
        VoiceSet(pack, [*bad, *rows[5:]])
    assert all(f"'{name}' ({reason})" in str(raised.value) for name, reason in found.items())


def test_as_many_frames_as_symbols_are_enough(pack_and_rows):
    pack, rows = pack_and_rows
    frames = int(pack.lengths[0]) // 256
    for symbols, expected in ((frames, 0), (frames + 1, 1)):
        ids = [[1] * symbols] + [[1]] * 11
        assert len(voice_problems(pack, rows, ids)) == expected


def test_speakers_of_one_clip_are_named(pack_and_rows):
    pack, rows = pack_and_rows
    with pytest.raises(ValueError, match=r"2 of 3 speakers have one clip only \('x', 'z'\)"):
        VoiceSet(pack, [rows[0], rows[1], rows[2], rows[5]])


def test_another_rate_and_other_ids_are_refused(make, pack_and_rows):
    with pytest.raises(ValueError, match="16000 Hz where the voice needs 22050 Hz"):
        make(rate_hz=22050)
    with pytest.raises(ValueError, match="ids are of 1 clips and rows of 12"):
        make(ids=[[1]])
