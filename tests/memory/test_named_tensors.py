"""Tensors by name: copies, whatever their type, that are saved and loaded like weights."""

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from speechcl.memory.named_tensors import NamedTensors, layout_of

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
layouts = st.dictionaries(
    st.from_regex(r"[a-z][a-z0-9_]{0,6}(\.[a-z0-9_]{1,6}){1,3}", fullmatch=True),
    st.tuples(st.lists(st.integers(0, 4), max_size=3), st.sampled_from(DTYPES)),
    max_size=5,
)


def made(kinds):
    torch.manual_seed(0)
    return {name: (9 * torch.rand(shape)).to(dtype) for name, (shape, dtype) in kinds.items()}


def kept_of(tensors):
    kept = NamedTensors()
    kept.put(tensors)
    return kept


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


@settings(max_examples=60, deadline=None)
@given(layouts)
def test_what_is_put_in_comes_out(kinds):
    tensors = made(kinds)
    kept = kept_of(tensors)
    assert len(kept) == len(tensors)
    assert_same(kept.tensors(), tensors)


@settings(max_examples=60, deadline=None)
@given(layouts)
def test_layout_survives_yaml_and_makes_room_for_the_state(kinds):
    kept = kept_of(made(kinds))
    layout = yaml.safe_load(yaml.safe_dump(kept.layout()))
    assert layout == kept.layout() == layout_of(kept.tensors())
    other = NamedTensors()
    other.allocate(layout)
    assert all(not tensor.any() for tensor in other.tensors().values())
    other.load_state_dict(kept.state_dict())
    assert_same(other.tensors(), kept.tensors())


def test_copies_are_kept_not_views():
    weight = torch.ones(2)
    kept = kept_of({"layer.weight": weight})
    weight.zero_()
    assert kept.tensors()["layer.weight"].tolist() == [1.0, 1.0]


def test_tensors_are_the_kept_ones_themselves():
    kept = kept_of({"layer.weight": torch.ones(2)})
    kept.tensors()["layer.weight"].add_(1)
    assert kept.tensors()["layer.weight"].tolist() == [2.0, 2.0]


def test_putting_again_overwrites_and_leaves_others():
    kept = kept_of({"a.b": torch.ones(2), "a.c": torch.ones(1)})
    kept.put({"a.b": torch.full((2,), 5.0)})
    assert kept.tensors()["a.b"].tolist() == [5.0, 5.0]
    assert kept.tensors()["a.c"].tolist() == [1.0]


def test_allocating_again_keeps_what_is_there():
    kept = kept_of({"a.b": torch.ones(2)})
    kept.allocate({**kept.layout(), "a.c": {"shape": [3], "dtype": "int64"}})
    assert kept.tensors()["a.b"].tolist() == [1.0, 1.0]
    assert kept.tensors()["a.c"].tolist() == [0, 0, 0]


def test_a_tensor_of_another_shape_is_refused():
    kept = kept_of({"a.b": torch.ones(2)})
    with pytest.raises((RuntimeError, ValueError)):
        kept.put({"a.b": torch.ones(3)})
    assert kept.tensors()["a.b"].tolist() == [1.0, 1.0]


def test_nothing_kept_requires_a_gradient():
    layer = nn.Linear(2, 2)
    kept = kept_of(dict(layer.named_parameters(prefix="layer")))
    assert not any(tensor.requires_grad for tensor in kept.tensors().values())
    assert list(kept.parameters()) == []


def test_is_part_of_the_state_of_what_holds_it():
    holder = nn.Module()
    holder.kept = kept_of({"a.b": torch.ones(2)})
    assert {name: tensor.tolist() for name, tensor in holder.state_dict().items()} == {
        "kept.a/b": [1.0, 1.0]
    }
    assert holder.double().kept.tensors()["a.b"].dtype == torch.float64
