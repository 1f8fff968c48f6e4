"""Labels are places in a list of classes; detection is the case of two."""

import pytest
import soundfile
import torch

from speechcl.data.audio import read_audio
from speechcl.data.clips import BONAFIDE, DETECTION, SPOOF, ClipSet
from speechcl.data.features import FeatureSet, cached_features, to_length
from speechcl.data.labelled import Classes
from speechcl.data.packed import pack_audio
from speechcl.data.waveforms import WaveformSet

DIGITS = Classes(("zero", "one", "two"))
ROWS = [{"ID": str(k), "text": word} for k, word in enumerate(["two", "zero", "two"])]


def test_a_label_is_the_place_of_the_class():
    assert DIGITS.labels(ROWS).tolist() == [2, 0, 2]
    assert DIGITS.labels(ROWS).dtype == torch.int64
    assert DIGITS.labels([]).shape == (0,)
    accents = Classes(["us", "uk"], column="accent")
    assert accents.names == ("us", "uk")
    assert accents.labels([{"accent": "uk", "text": "us"}]).tolist() == [1]


def test_places_of_names():
    assert DIGITS.places(["two", "zero"]) == [2, 0]
    with pytest.raises(ValueError, match="class 'ten' is none of zero, one, two"):
        DIGITS.places(["zero", "ten"])


@pytest.mark.parametrize("names", [[], ["one", "one"]])
def test_names_must_be_distinct(names):
    with pytest.raises(ValueError, match="name at least one, and each once"):
        Classes(tuple(names))


@pytest.mark.parametrize("row", [{"ID": "x", "text": "ten"}, {"ID": "x"}])
def test_an_unknown_class_is_named_with_its_clip(row):
    message = "1 of 4 clips, for example 'x', have text .*, which is no class of zero, one, two"
    with pytest.raises(ValueError, match=message):
        FeatureSet(torch.zeros(4, 1), [*ROWS, row], DIGITS)


def test_detection_is_the_case_of_two_classes():
    assert (SPOOF, BONAFIDE) == (0, 1)
    rows = [{"label": "bonafide"}, {"label": "spoof"}, {"label": "bonafide"}]
    clips = ClipSet(rows)
    assert clips.classes is DETECTION
    assert clips.labels.tolist() == [BONAFIDE, SPOOF, BONAFIDE]
    assert clips.is_bonafide.tolist() == [True, False, True]
    assert list(clips.counts().items()) == [("bonafide", 2), ("spoof", 1)]
    with pytest.raises(ValueError, match="class 'bonafide' is none of zero"):
        _ = ClipSet(ROWS, DIGITS).is_bonafide


def test_every_way_of_making_a_set_keeps_its_classes(tmp_path):
    rows = []
    for row in ROWS:
        soundfile.write(tmp_path / f"{row['ID']}.wav", [0.5] * 40, 8000)
        rows.append({**row, "wav": str(tmp_path / f"{row['ID']}.wav")})
    pack = pack_audio(rows, tmp_path, rate_hz=8000)
    for data in (
        FeatureSet(torch.arange(3.0)[:, None], rows, DIGITS),
        WaveformSet(pack, rows, 50, classes=DIGITS, pad=True),
    ):
        for one in (data, data + data, data.subset([0, 1, 2]), data.plain()):
            assert one.classes is DIGITS
            assert one.labels.tolist()[:3] == [2, 0, 2]
            assert one.__getitems__([0])["label"].tolist() == [2]
        assert (data + data).counts() == {"two": 4, "zero": 2}
        assert data.subset([1]).counts() == {"zero": 1}


def test_padding_is_silence_after_the_clip(tmp_path):
    short, long = torch.tensor([0.5, -0.5, 0.25]), torch.full((9,), 0.125)
    assert to_length(short, 5, pad=True).tolist() == [0.5, -0.5, 0.25, 0.0, 0.0]
    assert to_length(long, 5, pad=True).tolist() == [0.125] * 5
    rows = []
    for name, wave in (("short", short), ("long", long)):
        soundfile.write(tmp_path / f"{name}.wav", wave.numpy(), 8000)
        rows.append({"ID": name, "wav": str(tmp_path / f"{name}.wav"), "text": "one"})
    expected = [[0.5, -0.5, 0.25, 0.0, 0.0], [0.125] * 5]
    pack = pack_audio(rows, tmp_path, rate_hz=8000)
    for crop in (False, True):
        data = WaveformSet(pack, rows, 5, classes=DIGITS, pad=True, random_crop=crop)
        assert data.__getitems__([0, 1])["features"].tolist() == expected
        assert data.plain().__getitems__([1, 0])["features"].tolist() == expected[::-1]
    repeated = WaveformSet(pack, rows, 5, classes=DIGITS)
    assert repeated[0]["features"].tolist() == [0.5, -0.5, 0.25, 0.5, -0.5]


def test_padded_features_are_kept_apart_from_repeated_ones(tmp_path):
    soundfile.write(tmp_path / "a.wav", [0.5] * 100, 8000)
    rows = [{"ID": "a", "wav": str(tmp_path / "a.wav")}]

    def features(**options):
        folder = tmp_path / "cache"
        return cached_features(rows, lambda x: x, folder, samples=250, rate_hz=8000, **options)[0]

    assert torch.equal(features(pad=True)[:100], read_audio(tmp_path / "a.wav", 8000))
    for _ in range(2):
        assert features(pad=True)[100:].abs().max() == 0.0
        assert features()[100:200].tolist() == [0.5] * 100
    assert len(list((tmp_path / "cache").iterdir())) == 2
