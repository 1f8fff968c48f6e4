"""Augmentation: chance comes from the seed alone, and clips stay clips."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import FrozenInstanceError
from functools import partial
from multiprocessing import get_context

import numpy as np
import pytest
import torch

from speechcl.attacks import CODECS, codec
from speechcl.data.augment import Codec, Compose, Gain
from speechcl.data.rawboost import RawBoost

CHAIN = Compose(
    [
        RawBoost(5, probability=0.5),
        Codec(["ulaw", "gsm", "opus"], probability=0.3),
        Gain(probability=0.8),
    ]
)
every_kind = pytest.mark.parametrize(
    "augment", [Gain(), Codec(["alaw", "ulaw"]), RawBoost(), CHAIN]
)


def clip_of(seed, samples=8000, level=0.1):
    return level * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


@every_kind
def test_is_a_function_of_clip_and_seed(augment):
    clip = clip_of(0)
    before = clip.clone()
    changed = [augment(clip, seed) for seed in range(10)]
    torch.manual_seed(3)
    again = [augment(clip, seed) for seed in reversed(range(10))]
    assert all(a.equal(b) for a, b in zip(changed, reversed(again), strict=True))
    assert len({one.numpy().tobytes() for one in changed}) > 1
    assert all(one.shape == clip.shape and one.dtype == torch.float32 for one in changed)
    assert clip.equal(before)


def test_is_the_same_in_another_process():
    clip = clip_of(1)
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        there = pool.submit(CHAIN, clip, 7).result()
    assert there.equal(CHAIN(clip, 7))


@pytest.mark.parametrize("kind", [Gain, RawBoost, partial(Codec, ["ulaw"])])
def test_probability_is_the_share_of_changed_clips(kind):
    clip = clip_of(2, 200)
    for probability in (0.0, 0.3, 1.0):
        augment = kind(probability=probability)
        share = np.mean([not augment(clip, seed).equal(clip) for seed in range(300)])
        assert share == pytest.approx(probability, abs=0.08)


def test_gain_is_uniform_in_decibels():
    clip = clip_of(3, level=0.01)
    found_db = [20 * float(torch.log10((Gain()(clip, s) / clip).median())) for s in range(300)]
    assert -12.01 < min(found_db) < -11.5
    assert 5.5 < max(found_db) < 6.01
    assert np.mean(found_db) == pytest.approx(-3, abs=1)


def test_gain_never_leaves_the_range_and_bears_silence():
    for seed in range(20):
        assert float(Gain(0.0, 40.0)(clip_of(4), seed).abs().max()) <= 1 + 1e-6
    assert not Gain()(torch.zeros(100), 0).any()


def test_codec_is_one_of_its_kinds_at_a_drawn_level():
    clip = clip_of(5)
    ulaw, alaw = (codec(clip, 16000, kind) for kind in ("ulaw", "alaw"))
    found = [Codec(["ulaw", "alaw"])(clip, seed) for seed in range(20)]
    assert {(one.equal(ulaw), one.equal(alaw)) for one in found} == {(True, False), (False, True)}
    assert len({Codec(["vorbis"])(clip, seed).numpy().tobytes() for seed in range(4)}) == 4
    assert set(Codec().kinds) == set(CODECS)


def test_steps_go_in_order_and_draw_apart():
    clip = clip_of(6, level=0.3)
    down_up = Compose([Gain(-20.0, -20.0), Gain(40.0, 40.0)])
    up_down = Compose([Gain(40.0, 40.0), Gain(-20.0, -20.0)])
    peak = float(clip.abs().max())
    assert float(down_up(clip, 0).abs().max()) == pytest.approx(min(1, 10 * peak))
    assert float(up_down(clip, 0).abs().max()) == pytest.approx(0.1)
    twice = Compose([Gain(-6.0, 0.0), Gain(-6.0, 0.0)])
    halves = [float((twice(clip, s) / clip).median()) for s in range(50)]
    single = [float((Gain(-6.0, 0.0)(clip, s) / clip).median()) for s in range(50)]
    assert not set(np.round(halves, 5)) & set(np.round(np.square(single), 5))
    assert Compose([])(clip, 0).equal(clip)


def test_a_pair_with_one_seed_is_changed_alike():
    one, other = clip_of(7, level=0.01), clip_of(8, level=0.01)
    gains = [(Gain()(clip, 9) / clip).median() for clip in (one, other)]
    assert gains[0] == pytest.approx(gains[1])


def test_numbers_are_checked_and_frozen():
    with pytest.raises(ValueError, match="probability is 1.5: set it to a number from 0 to 1"):
        Gain(probability=1.5)
    for kinds in (["amr"], []):
        with pytest.raises(ValueError, match="choose one or more of opus, vorbis"):
            Codec(kinds)
    with pytest.raises(FrozenInstanceError):
        Gain().low_db = 3.0


@every_kind
@pytest.mark.parametrize("bad", [torch.zeros(0), torch.zeros(2, 100), torch.full((9,), torch.nan)])
def test_bad_waveforms_are_refused(augment, bad):
    with pytest.raises(ValueError, match="mix to one channel or drop"):
        augment(bad, seed=0)
