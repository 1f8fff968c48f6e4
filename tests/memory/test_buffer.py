"""Room, storage and draws of a memory."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechcl.memory import ClassBalanced, Reservoir

both = pytest.mark.parametrize("kind", [Reservoir, ClassBalanced])


def items(count, width=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, width, generator=generator)
    return {"features": features, "label": torch.arange(count) % 3}


@pytest.mark.parametrize(
    ("stored_as", "bytes_each"), [("same", 32), ("float16", 20), ("uint8", 22)]
)
def test_a_byte_budget_holds_as_many_items_as_fit(stored_as, bytes_each):
    memory = Reservoir(budget_bytes=1000, stored_as=stored_as)
    assert len(memory) == 0
    memory.add(items(100))
    assert len(memory) == 1000 // bytes_each
    held = [b for name, b in memory.named_buffers() if name.startswith("kept_")]
    assert sum(b.numel() * b.element_size() for b in held) <= 1000


def test_a_budget_below_one_item_is_refused():
    with pytest.raises(ValueError, match="an item takes 32"):
        Reservoir(budget_bytes=31).add(items(1))


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"capacity": 3, "budget_bytes": 9},
        {"budget_bytes": 0},
        {"capacity": 3, "stored_as": "x"},
    ],
)
def test_a_memory_without_one_clear_size_is_refused(wrong):
    with pytest.raises(ValueError, match=r"1 or more|choose among"):
        Reservoir(**wrong)


def test_unequal_lengths_have_no_byte_budget():
    with pytest.raises(ValueError, match="give a capacity"):
        Reservoir(budget_bytes=100, padded=True)


def test_kept_as_they_are_items_are_bit_identical():
    memory, offered = Reservoir(5), items(5)
    offered["image"] = torch.randint(0, 256, (5, 2, 3), dtype=torch.uint8)
    memory.add(offered)
    kept = memory.everything()
    assert all(torch.equal(kept[name], offered[name]) for name in offered)
    assert kept["image"].dtype == torch.uint8


@settings(max_examples=50, deadline=None)
@given(low=st.floats(-1e4, 1e4), spread=st.floats(0, 1e4), seed=st.integers(0, 99))
def test_a_byte_is_off_by_half_a_level_at_most(low, spread, seed):
    x = low + spread * torch.rand(4, 3, 5, generator=torch.Generator().manual_seed(seed))
    memory = Reservoir(4, stored_as="uint8")
    memory.add({"x": x})
    off = (memory.everything()["x"] - x).abs().flatten(1).amax(1)
    levels = (x.flatten(1).amax(1) - x.flatten(1).amin(1)) / 255
    assert (off <= 0.5 * levels + 1e-5 * x.abs().max()).all()


def test_half_precision_is_half_precision():
    memory, offered = Reservoir(5, stored_as="float16"), items(5)
    memory.add(offered)
    assert torch.equal(memory.everything()["features"], offered["features"].half().float())
    assert memory.get_buffer("kept_features").dtype == torch.float16
    assert torch.equal(memory.everything()["label"], offered["label"])


@pytest.mark.parametrize("stored_as", ["float16", "uint8"])
def test_numbers_that_are_not_finite_cannot_be_kept_in_fewer_bytes(stored_as):
    memory = Reservoir(5, stored_as=stored_as)
    with pytest.raises(ValueError, match="'x' of an item"):
        memory.add({"x": torch.tensor([[1.0, float("nan")]])})


@both
def test_files_hold_what_memory_would(kind, tmp_path):
    inside, outside = kind(20, seed=2), kind(20, seed=2, folder=tmp_path / "kept")
    for memory in (inside, outside):
        for seed in range(9):
            memory.add(items(8, seed=seed))
    drawn, same_drawn = inside.sample(7), outside.sample(7)
    assert all(torch.equal(drawn[name], same_drawn[name]) for name in drawn)
    assert torch.equal(inside.everything()["features"], outside.everything()["features"])
    assert (tmp_path / "kept" / "features-0.bin").stat().st_size == 20 * 6 * 4
    again = kind(20, seed=2, folder=tmp_path / "other")
    again.allocate(outside.layout())
    again.load_state_dict(outside.state_dict())
    assert torch.equal(again.everything()["features"], inside.everything()["features"])


def test_files_stay_where_they_are_when_the_method_moves(tmp_path):
    memory = Reservoir(4, folder=tmp_path)
    memory.add(items(4))
    memory.to("meta")
    assert memory.counts.device.type == "meta"
    assert memory.get_buffer("kept_features").device.type == "cpu"


@both
def test_draws_of_classes_are_of_these_classes_and_fair(kind):
    memory = kind(12, seed=1)
    memory.add(items(12))
    wanted = torch.tensor([2, 0, 2, 1])
    counts = torch.zeros(12)
    numbers = {tuple(row.tolist()): k for k, row in enumerate(memory.everything()["features"])}
    repeats = 800
    for _ in range(repeats):
        drawn = memory.sample_of(wanted)
        assert torch.equal(drawn["label"], wanted)
        for row in drawn["features"]:
            counts[numbers[tuple(row.tolist())]] += 1
    of_two = counts[memory.labels() == 2]  # 4 items, drawn twice a time
    expected = 2 * repeats / 4
    assert (of_two - expected).abs().max() < 4.5 * math.sqrt(2 * repeats * 0.25 * 0.75)


def test_a_class_of_which_nothing_is_kept_cannot_be_drawn():
    memory = Reservoir(3)
    memory.add(items(3))
    with pytest.raises(ValueError, match=r"classes \[7\]"):
        memory.sample_of(torch.tensor([0, 7]))


def test_few_of_many_are_drawn_without_replacement_and_uniformly():
    memory = Reservoir(20_000)
    memory.add({"number": torch.arange(20_000)})
    drawn = torch.cat([memory.sample(64)["number"] for _ in range(400)])
    for part in drawn.split(64):
        assert len(set(part.tolist())) == 64
    tenths = torch.histc(drawn.float(), 10, 0, 20_000)
    assert (tenths - 2560).abs().max() < 4.5 * math.sqrt(25_600 * 0.1 * 0.9)
