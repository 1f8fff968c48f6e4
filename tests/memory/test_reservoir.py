"""The reservoir keeps every item with the same probability, and goes on alike after a load."""

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from speechcl.memory import Reservoir


def items(first, size):
    numbers = torch.arange(first, first + size)
    return {"features": numbers[:, None].float().repeat(1, 2), "label": numbers}


def filled(capacity, sizes, seed=0):
    memory = Reservoir(capacity, seed)
    for k, size in enumerate(sizes):
        memory.add(items(sum(sizes[:k]), size))
    return memory


def kept(memory):
    return sorted(memory.sample(memory.capacity)["label"].tolist())


def how_often(capacity, sizes, runs):
    counts = numpy.zeros(sum(sizes))
    for seed in range(runs):
        counts[kept(filled(capacity, sizes, seed))] += 1
    return counts


@pytest.mark.parametrize(
    "sizes",
    [[24], pytest.param([1] * 24, marks=pytest.mark.slow), [3, 9, 12], [2, 22], [6, 18]],
    ids=["larger than capacity", "one by one", "mixed", "over the edge", "just full"],
)
def test_each_item_is_kept_with_the_same_probability(sizes):
    capacity, seen, runs = 6, 24, 800
    counts = how_often(capacity, sizes, runs)
    assert counts.sum() == capacity * runs
    p = capacity / seen
    # 24 counts of Binomial(800, 1/4): all within five standard deviations, and jointly uniform
    assert abs(counts - runs * p).max() < 5 * (runs * p * (1 - p)) ** 0.5
    # kept items exclude one another, so that the statistic is (1 - p) n / (n - 1) chi-square
    statistic = ((counts - runs * p) ** 2).sum() / (runs * p * (1 - p)) * (seen - 1) / seen
    assert stats.chi2.sf(statistic, seen - 1) > 1e-4


def test_tasks_share_the_memory_in_proportion_to_their_items():
    counts = how_often(10, [50, 25, 25], 300).reshape(4, 25).sum(1) / 3000
    assert abs(counts - 0.25).max() < 0.05


@settings(max_examples=50, deadline=None)
@given(
    capacity=st.integers(1, 9),
    sizes=st.lists(st.integers(0, 12), min_size=1, max_size=5),
    seed=st.integers(0, 99),
)
def test_kept_items_are_different_whole_and_from_the_stream(capacity, sizes, seed):
    memory = filled(capacity, sizes, seed)
    found = memory.sample(capacity)
    labels = found["label"].tolist()
    assert len(memory) == len(labels) == min(capacity, sum(sizes))
    assert len(set(labels)) == len(labels)
    assert set(labels) <= set(range(sum(sizes)))
    assert torch.equal(found["features"], found["label"][:, None].float().repeat(1, 2))


def test_sample_is_without_replacement_and_uniform():
    memory = filled(8, [8])
    counts = numpy.zeros(8)
    for _ in range(400):
        drawn = memory.sample(3)["label"].tolist()
        assert len(set(drawn)) == 3
        counts[drawn] += 1
    assert abs(counts - 150).max() < 5 * (400 * 3 / 8 * 5 / 8) ** 0.5
    assert sorted(memory.sample(99)["label"].tolist()) == list(range(8))


def test_draws_differ_from_call_to_call_and_from_seed_to_seed():
    memory = filled(20, [20])
    assert memory.sample(20)["label"].tolist() != memory.sample(20)["label"].tolist()
    assert kept(filled(5, [60], seed=0)) != kept(filled(5, [60], seed=1))
    assert kept(filled(5, [60], seed=3)) == kept(filled(5, [60], seed=3))


def test_draws_neither_use_nor_move_the_global_generator():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    memory = filled(4, [9, 9])
    memory.sample(2)
    assert torch.equal(before, torch.get_rng_state())


def test_saved_and_loaded_goes_on_alike():
    one = filled(6, [10, 5])
    one.sample(3)
    other = Reservoir(6)
    other.allocate(one.layout())
    other.load_state_dict(one.state_dict())
    for memory in (one, other):
        memory.add(items(15, 20))
    assert torch.equal(one.sample(4)["label"], other.sample(4)["label"])
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])


def test_layout_makes_the_same_room():
    memory = Reservoir(3)
    assert memory.layout() == {}
    memory.add({"wave": torch.zeros(2, 4, 5, dtype=torch.float16), "label": torch.zeros(2).long()})
    layout = memory.layout()
    assert layout == {
        "wave": {"shape": [4, 5], "dtype": "float16"},
        "label": {"shape": [], "dtype": "int64"},
    }
    other = Reservoir(3)
    other.allocate(layout)
    assert other.layout() == layout
    assert len(other) == 0
    shapes = {name: value.shape for name, value in memory.state_dict().items()}
    assert shapes == {name: value.shape for name, value in other.state_dict().items()}


def test_allocating_again_keeps_the_items():
    memory = filled(4, [4])
    memory.allocate(memory.layout())
    assert kept(memory) == [0, 1, 2, 3]


def test_keeps_copies_not_views():
    batch = items(0, 3)
    memory = Reservoir(3)
    memory.add(batch)
    batch["features"].zero_()
    memory.sample(3)["features"].zero_()
    assert memory.sample(3)["features"].sum() == 6


@pytest.mark.parametrize("capacity", [0, -1])
def test_capacity_must_be_positive(capacity):
    with pytest.raises(ValueError, match="1 or more"):
        Reservoir(capacity)


def test_items_of_another_shape_are_refused():
    memory = filled(4, [3])
    with pytest.raises((RuntimeError, ValueError)):
        memory.add({"features": torch.zeros(2, 7), "label": torch.zeros(2).long()})


def waves(first, lengths, width):
    """Items of these lengths, each full of its own number."""
    numbers = torch.arange(first, first + len(lengths)).float()
    inside = torch.arange(width) < torch.tensor(lengths)[:, None]
    return {"wave": numbers[:, None] * inside, "samples": torch.tensor(lengths)}


@pytest.mark.parametrize("widths", [(3, 5), (5, 3), (4, 4)])
def test_items_of_unequal_lengths_are_kept_whole(widths):
    memory = Reservoir(4, padded=True)
    memory.add(waves(1, [2, widths[0]], widths[0]))
    memory.add(waves(3, [widths[1], 1], widths[1]))
    found = memory.sample(4)
    assert found["wave"].shape == (4, max(widths))
    for wave, samples in zip(found["wave"], found["samples"], strict=True):
        assert wave[:samples].unique().tolist() == [float(wave[0])]
        assert not wave[samples:].any()
    assert sorted(found["wave"][:, 0].tolist()) == [1, 2, 3, 4]
    other = Reservoir(4, padded=True)
    other.allocate(memory.layout())
    other.load_state_dict(memory.state_dict())
    assert torch.equal(other.sample(4)["wave"], memory.sample(4)["wave"])


def test_equal_lengths_are_kept_alike_whether_padded_or_not():
    one, other = Reservoir(5, seed=3), Reservoir(5, seed=3, padded=True)
    for memory in (one, other):
        memory.add(items(0, 9))
        memory.add(items(9, 4))
    first, second = one.sample(4), other.sample(4)
    assert all(torch.equal(first[name], second[name]) for name in first)
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])
