"""A class-balanced memory: as many of each class as can be, and in each class a fair draw."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechcl.memory import ClassBalanced


def stream(labels):
    return {"label": torch.tensor(labels), "number": torch.arange(len(labels))}


def offer(memory, labels, batch=7):
    items = stream(labels)
    for start in range(0, len(labels), batch):
        memory.add({name: value[start : start + batch] for name, value in items.items()})


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=120),
    capacity=st.integers(5, 30),
    batch=st.integers(1, 40),
)
def test_no_class_has_more_than_another_could_use(labels, capacity, batch):
    memory = ClassBalanced(capacity, seed=3)
    offer(memory, labels, batch)
    offered = torch.tensor(labels).bincount(minlength=5)
    kept = memory.labels().bincount(minlength=5)
    assert kept.sum() == min(capacity, len(labels))
    short = kept < offered  # classes of which something was dropped
    if short.any():
        assert kept[short].min() >= kept.max() - 1
    items = memory.everything()
    assert (torch.tensor(labels)[items["number"]] == items["label"]).all()
    assert len(set(items["number"].tolist())) == len(memory)


def test_a_rare_class_is_kept_whole_beside_a_common_one():
    memory = ClassBalanced(capacity=10)
    offer(memory, [0] * 300 + [1] * 4)
    assert memory.labels().bincount().tolist() == [6, 4]


def test_within_a_class_each_item_is_kept_with_the_same_probability():
    """Of 40 items of a class that shares the memory with another, 5 are kept: each with 1 in 8."""
    labels, repeats = [0, 1] * 40, 600
    kept = torch.zeros(80)
    for seed in range(repeats):
        memory = ClassBalanced(capacity=10, seed=seed)
        offer(memory, labels)
        kept[memory.everything()["number"]] += 1
    share = kept / repeats
    margin = 4.5 * math.sqrt(0.125 * 0.875 / repeats)
    assert (share - 0.125).abs().max() < margin


def test_saved_and_loaded_goes_on_alike():
    labels = [0] * 30 + [1, 2] * 20 + [3] * 9
    whole, first, second = (ClassBalanced(8, seed=5) for _ in range(3))
    offer(whole, labels, batch=5)
    items = stream(labels)
    for memory, part in ((first, range(0, 40, 5)), (second, range(40, len(labels), 5))):
        if memory is second:
            offer(second, [4, 4, 0])  # something else before, to be forgotten
            second.allocate(first.layout())
            second.of_class = torch.zeros_like(first.of_class)
            second.load_state_dict(first.state_dict())
        for start in part:
            memory.add({name: value[start : start + 5] for name, value in items.items()})
    assert torch.equal(second.everything()["number"], whole.everything()["number"])
    assert torch.equal(second.of_class, whole.of_class)


def test_layout_makes_room_for_the_same_classes():
    memory = ClassBalanced(4)
    offer(memory, [0, 2])
    other = ClassBalanced(4)
    other.allocate(memory.layout())
    other.load_state_dict(memory.state_dict())
    assert other.layout() == memory.layout()
    assert torch.equal(other.labels(), memory.labels())


def test_more_classes_than_room_are_refused():
    memory = ClassBalanced(3)
    with pytest.raises(ValueError, match="capacity of 4 or more"):
        offer(memory, [0, 1, 2, 3])


def test_items_without_a_label_are_refused():
    with pytest.raises(ValueError, match="no 'label' to balance"):
        ClassBalanced(3).add({"number": torch.arange(2)})
