"""Batches for voices: speakers equally often, like lengths together, a function of the epoch."""

from collections import Counter

import numpy
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from speechcl import sampling
from speechcl.data.voice_batches import VoiceBatches

many = settings(max_examples=60, deadline=None)
speakers_of_clips = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=120)
batch_sizes = st.integers(1, 24)
seeds = st.integers(0, 10**9)
epochs = st.integers(1, 30)


def lengths_of(speakers):
    return numpy.random.default_rng(len(speakers)).integers(16_000, 160_000, len(speakers))


def of_process(rank, processes, speakers, batch, seed=0, epoch=1):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "world", lambda: (rank, processes))
        batches = VoiceBatches(speakers, lengths_of(speakers), batch, seed)
    batches.set_epoch(epoch)
    return batches


def epoch_of(*args, **kwargs):
    return list(of_process(0, 1, *args, **kwargs))


def padding(batches, lengths):
    """Which share of a batch's samples is padding, over all batches."""
    held = sum(len(batch) * lengths[batch].max() for batch in batches)
    return 1 - sum(lengths[batch].sum() for batch in batches) / held


@many
@given(speakers=speakers_of_clips, batch=batch_sizes, seed=seeds, epoch=epochs)
def test_every_speaker_is_drawn_equally_often(speakers, batch, seed, epoch):
    drawn = sum(epoch_of(speakers, batch, seed, epoch), [])
    counts = Counter(speakers[i] for i in drawn)
    assert set(counts) == set(speakers)
    assert set(counts.values()) == {-(-len(speakers) // len(set(speakers)))}


@many
@given(speakers=speakers_of_clips, batch=batch_sizes, seed=seeds)
def test_over_epochs_every_clip_of_a_speaker_comes_equally_often(speakers, batch, seed):
    counts = Counter()
    for epoch in range(1, 6):
        counts.update(sum(epoch_of(speakers, batch, seed, epoch), []))
        for name in set(speakers):
            own = [counts[i] for i, speaker in enumerate(speakers) if speaker == name]
            assert max(own) - min(own) <= 1


@many
@given(clips=st.integers(1, 20), voices=st.integers(1, 6), batch=batch_sizes, epoch=epochs)
def test_with_equally_many_clips_an_epoch_has_each_once(clips, voices, batch, epoch):
    drawn = sum(epoch_of(list("abcdef"[:voices]) * clips, batch, 0, epoch), [])
    assert sorted(drawn) == list(range(clips * voices))


@many
@given(speakers=speakers_of_clips, batch=batch_sizes, seed=seeds)
def test_epochs_are_equally_long_and_batches_full_but_one(speakers, batch, seed):
    lengths = [sorted(map(len, epoch_of(speakers, batch, seed, epoch))) for epoch in (1, 2, 3)]
    assert lengths[0] == lengths[1] == lengths[2]
    assert len(lengths[0]) == len(of_process(0, 1, speakers, batch, seed))
    if len(lengths[0]) > 1:
        odd = [length for length in lengths[0] if length != batch]
        assert len(odd) <= 1
        assert all(0.5 * batch <= length < 1.5 * batch for length in odd)


@many
@given(speakers=speakers_of_clips, batch=batch_sizes, epoch=epochs, processes=st.integers(1, 5))
def test_processes_share_the_batches_of_one(speakers, batch, epoch, processes):
    try:
        parts = [
            list(of_process(rank, processes, speakers, batch, 7, epoch))
            for rank in range(processes)
        ]
    except ValueError:
        assume(False)
    whole = epoch_of(speakers, batch, 7, epoch)
    assert all(len(part) == len(whole) for part in parts)
    for number, expected in enumerate(whole):
        slices = [part[number] for part in parts]
        assert sum(slices, []) == expected
        assert all(slices)
        assert max(map(len, slices)) - min(map(len, slices)) <= 1


@many
@given(speakers=speakers_of_clips, batch=batch_sizes, data=st.data())
def test_start_skips_what_was_done(speakers, batch, data):
    whole = epoch_of(speakers, batch, 3, 2)
    batches = of_process(0, 1, speakers, batch, 3, 2)
    batches.start = data.draw(st.integers(0, len(whole)))
    assert list(batches) == whole[batches.start :]


def test_order_depends_on_seed_and_epoch_alone():
    speakers = list("aab") * 12
    assert epoch_of(speakers, 4, 1, 5) == epoch_of(speakers, 4, 1, 5)
    late = of_process(0, 1, speakers, 4, 1)
    for epoch in (9, 2, 5):  # what came before does not matter
        late.set_epoch(epoch)
        found = list(late)
    assert found == epoch_of(speakers, 4, 1, 5)
    orders = {str(epoch_of(speakers, 4, seed, epoch)) for seed in (1, 2) for epoch in (1, 2, 3)}
    assert len(orders) == 6


def test_clips_meet_others_in_other_epochs():
    speakers = list("abcdef") * 24
    met = {
        frozenset((i, j))
        for epoch in range(1, 21)
        for batch in epoch_of(speakers, 16, 0, epoch)
        for i in batch
        for j in batch
        if i < j
    }
    once = 9 * 16 * 15 / 2
    assert len(met) > 2 * once


def skewed():
    """The docstring's toy: 2 to 800 clips a speaker, log-normal lengths from 1 s to 12 s."""
    counts = [2, 6, 20, 50, 100, 222, 400, 800]
    speakers = [name for name, clips in zip("abcdefgh", counts, strict=True) for _ in range(clips)]
    drawn = numpy.exp(numpy.random.default_rng(0).normal(numpy.log(4), 0.6, len(speakers)))
    return speakers, (numpy.clip(drawn, 1, 12) * 16_000).astype(int)


def test_little_is_padding_and_few_draws_are_copies():
    speakers, lengths = skewed()
    batches = VoiceBatches(speakers, lengths, 16, seed=0)
    for epoch in (1, 2, 3):
        batches.set_epoch(epoch)
        found = list(batches)
        shuffled = numpy.random.default_rng(epoch).permutation(sum(found, [])).reshape(-1, 16)
        assert padding(found, lengths) < 0.2
        assert padding(shuffled, lengths) > 0.5
        copies = sum(len(batch) - len(set(batch)) for batch in found)
        assert copies < 0.07 * 1600


def test_batches_come_in_random_order_of_length():
    speakers, lengths = skewed()
    batches, longest = VoiceBatches(speakers, lengths, 16, 0), [numpy.arange(100)]
    for epoch in (1, 2):
        batches.set_epoch(epoch)
        longest.append([lengths[batch].max() for batch in batches])
    assert (abs(numpy.corrcoef(longest) - numpy.eye(3)) < 0.3).all()


def test_a_speaker_comes_in_another_order_in_every_round():
    batches, rounds = VoiceBatches(["a"] * 30 + ["b"] * 90, [1] * 120, 1, 0), set()
    for epoch in (1, 2, 3):  # two rounds of a, two thirds of one of b
        batches.set_epoch(epoch)
        drawn = batches._drawn("a").tolist()
        rounds |= {tuple(drawn[:30]), tuple(drawn[30:])}
    assert len(rounds) == 6
    assert all(sorted(one) == list(range(30)) for one in rounds)


def test_the_odd_batch_is_of_the_shortest():
    speakers, lengths = ["a"] * 23, numpy.arange(1, 24) * 1000
    found = list(VoiceBatches(speakers, lengths, 16, 0))
    assert [len(batch) for batch in found] == [23]
    speakers, lengths = ["a"] * 39, numpy.arange(1, 40) * 1000
    sizes = {len(batch): lengths[batch].mean() for batch in VoiceBatches(speakers, lengths, 16, 0)}
    assert sorted(sizes) == [16, 23]
    assert sizes[23] < sizes[16]


def test_nothing_to_draw_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        VoiceBatches([], [], 4, 0)
    with pytest.raises(ValueError, match="at least 1"):
        VoiceBatches(["a"], [1], 0, 0)
