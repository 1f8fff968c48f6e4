"""Batches are joined, taken apart and shared out without losing or mixing an item."""

from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from speechcl import batches
from speechcl.batches import join, my_rows, pad, rows, size


def numbered(first, count):
    numbers = torch.arange(first, first + count)
    return {"features": numbers[:, None].float().repeat(1, 3), "label": numbers}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=4))
def test_parts_of_a_joined_batch_are_the_batches(counts):
    parts = [numbered(10 * k, count) for k, count in enumerate(counts)]
    whole = join(*parts)
    assert size(whole) == sum(counts)
    start = 0
    for part, count in zip(parts, counts, strict=True):
        assert equal(rows(whole, slice(start, start + count)), part)
        start += count


def test_the_first_batch_says_which_tensors_there_are():
    extra = {**numbered(5, 2), "logits": torch.zeros(2, 2)}
    assert set(join(numbered(0, 1), extra)) == {"features", "label"}
    with pytest.raises(KeyError, match="logits"):
        join(extra, numbered(0, 1))


class Outputs(NamedTuple):
    """What a brain's forward pass may return."""

    logits: torch.Tensor
    more: dict


def test_rows_keep_the_form_of_outputs():
    outputs = Outputs(torch.arange(4), {"layers": [torch.arange(8).view(4, 2), (torch.ones(4),)]})
    part = rows(outputs, slice(1, 3))
    assert isinstance(part, Outputs)
    assert part.logits.tolist() == [1, 2]
    assert part.more["layers"][0].tolist() == [[2, 3], [4, 5]]
    assert part.more["layers"][1][0].shape == (2,)


def test_gradient_flows_back_to_the_rows_alone():
    logits = torch.zeros(4, 2, requires_grad=True)
    rows({"logits": logits}, slice(1, 3))["logits"].sum().backward()
    assert logits.grad.sum(1).tolist() == [0, 2, 2, 0]


@given(count=st.integers(0, 40), processes=st.integers(1, 7))
def test_processes_share_items_evenly_and_in_order(count, processes):
    whole, parts = numbered(0, count), []
    with pytest.MonkeyPatch.context() as patch:
        for rank in range(processes):
            patch.setattr(batches, "world", lambda rank=rank: (rank, processes))
            parts.append(my_rows(whole))
    assert equal(join(*parts), whole)
    counts = [size(part) for part in parts]
    assert max(counts) - min(counts) <= 1


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4), st.integers(1, 4)), min_size=1))
def test_padded_batches_keep_their_items_with_zeros_behind(shapes):
    parts = [{"x": torch.full(shape, float(k + 1))} for k, shape in enumerate(shapes)]
    whole = join(*parts, padded=True)["x"]
    start = 0
    for part in parts:
        count, *inner = part["x"].shape
        item = whole[start : start + count]
        assert torch.equal(item[:, : inner[0], : inner[1]], part["x"])
        assert item.sum() == part["x"].sum()
        start += count
    assert whole.shape[1:] == tuple(max(sizes) for sizes in list(zip(*shapes, strict=True))[1:])


def test_batches_of_one_shape_are_joined_alike_whether_padded_or_not():
    parts = numbered(0, 2), numbered(2, 3)
    assert equal(join(*parts), join(*parts, padded=True))
    assert pad(parts[0]["features"], [3]) is parts[0]["features"]


def test_unequal_shapes_are_refused_unless_padded():
    with pytest.raises(RuntimeError, match="must match"):
        join({"x": torch.ones(1, 2)}, {"x": torch.ones(1, 3)})
