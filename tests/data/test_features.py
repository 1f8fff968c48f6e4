"""Features are computed once and anew when anything that they come from changes."""

import os

import numpy
import pytest
import soundfile
import torch

from speechcl.data.audio import AudioError
from speechcl.data.features import FeatureSet, cached_features, to_length

SAMPLES = 400


class Extract:
    """Mean square and peak of a clip; counts how often clips are looked at."""

    def __init__(self, gain=1.0):
        self.gain, self.shapes = gain, []

    def __call__(self, waveform):
        self.shapes.append(tuple(waveform.shape))
        return self.gain * torch.stack([waveform.square().mean(1), waveform.abs().amax(1)], 1)


def write(path, seed, samples=SAMPLES):
    waveform = numpy.random.default_rng(seed).uniform(-0.5, 0.5, samples)
    soundfile.write(path, waveform, 16000, subtype="FLOAT")


@pytest.fixture
def rows(tmp_path):
    for k in range(3):
        write(tmp_path / f"{k}.wav", k)
    return [{"ID": str(k), "wav": str(tmp_path / f"{k}.wav")} for k in range(3)]


def cached(rows, folder, extract=None, **options):
    """Features, and how many clips were computed (one call is the probe of the cache)."""
    extract = extract or Extract()
    features = cached_features(rows, extract, folder, **{"samples": SAMPLES, **options})
    return features, len(extract.shapes) - 1


def test_computed_in_order_and_then_reused(rows, tmp_path):
    first, computed = cached(rows, tmp_path / "cache")
    assert computed == 3
    for row, found in zip(rows, first, strict=True):
        wave, _ = soundfile.read(row["wav"])
        numpy.testing.assert_allclose(found, [(wave**2).mean(), abs(wave).max()], rtol=1e-5)
    again, computed = cached(rows, tmp_path / "cache")
    assert computed == 0
    assert torch.equal(first, again)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_changed_clip_is_seen(rows, tmp_path):
    before, _ = cached(rows, tmp_path / "cache")
    write(tmp_path / "1.wav", seed=9, samples=SAMPLES + 7)
    after, computed = cached(rows, tmp_path / "cache")
    assert computed == 3
    assert torch.equal(before[[0, 2]], after[[0, 2]])
    assert not torch.equal(before[1], after[1])


def test_a_clip_of_the_same_size_but_newer_is_seen(rows, tmp_path):
    cached(rows, tmp_path / "cache")
    state = (tmp_path / "1.wav").stat()
    write(tmp_path / "1.wav", seed=9)
    later = state.st_mtime_ns + 1_000_000
    os.utime(tmp_path / "1.wav", ns=(later, later))
    assert (tmp_path / "1.wav").stat().st_size == state.st_size
    assert cached(rows, tmp_path / "cache")[1] == 3


@pytest.mark.parametrize(
    "options", [{"samples": 300}, {"rate_hz": 8000}, {"extract": Extract(gain=2.0)}]
)
def test_other_settings_are_other_features(rows, tmp_path, options):
    cached(rows, tmp_path / "cache")
    assert cached(rows, tmp_path / "cache", **options)[1] == 3


def test_other_rows_or_another_order_are_other_features(rows, tmp_path):
    features, _ = cached(rows, tmp_path / "cache")
    assert cached(rows[:2], tmp_path / "cache")[1] == 2
    turned, computed = cached(rows[::-1], tmp_path / "cache")
    assert computed == 3
    assert torch.equal(turned, features.flip(0))


def test_every_clip_comes_at_one_length(rows, tmp_path):
    write(tmp_path / "1.wav", seed=1, samples=150)
    write(tmp_path / "2.wav", seed=1, samples=900)
    extract = Extract()
    cached(rows, tmp_path / "cache", extract)
    assert set(extract.shapes) == {(1, SAMPLES)}


def test_an_interrupted_run_leaves_nothing_behind(rows, tmp_path):
    (tmp_path / "2.wav").unlink()
    with pytest.raises(AudioError):
        cached(rows, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*"))
    write(tmp_path / "2.wav", 2)
    assert cached(rows, tmp_path / "cache")[1] == 3


@pytest.mark.parametrize(
    ("samples", "expected"),
    [(1, [1.0]), (3, [1.0, 2.0, 3.0]), (8, [1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 1.0, 2.0])],
)
def test_to_length_repeats_and_cuts(samples, expected):
    assert to_length(torch.tensor([1.0, 2.0, 3.0]), samples).tolist() == expected


def feature_set(first, size):
    labels = ["bonafide" if k % 3 == 0 else "spoof" for k in range(first, first + size)]
    features = torch.arange(first, first + size)[:, None] + torch.tensor([0.0, 0.5])
    return FeatureSet(
        features, [{"ID": str(first + k), "label": one} for k, one in enumerate(labels)]
    )


def test_a_batch_is_its_items():
    data = feature_set(0, 6)
    batch = data.__getitems__([4, 0, 4])
    for name in ("features", "label"):
        assert torch.equal(batch[name], torch.stack([data[i][name] for i in (4, 0, 4)]))
    assert data.collate(batch) is batch
    assert data.labels.tolist() == [1, 0, 0, 1, 0, 0]


def test_two_sets_add_up():
    one, two = feature_set(0, 4), feature_set(4, 3)
    both = one + two
    assert len(both) == 7
    assert [row["ID"] for row in both.rows] == [str(k) for k in range(7)]
    for k in range(7):
        expected = one[k] if k < 4 else two[k - 4]
        assert all(torch.equal(both[k][name], expected[name]) for name in expected)
    assert both.is_bonafide.tolist() == [*one.is_bonafide, *two.is_bonafide]
    assert len(both.speakers) == 7
    assert both.nbytes == one.nbytes + two.nbytes == 7 * 2 * 4


def test_missing_columns_become_dashes():
    assert feature_set(0, 1).rows[0] == {
        "ID": "0",
        "label": "bonafide",
        "attack": "-",
        "speaker": "-",
    }


def test_features_and_rows_must_be_as_many():
    with pytest.raises(ValueError, match="2 features for 1 rows"):
        FeatureSet(torch.zeros(2, 3), [{"label": "spoof"}])
