"""How much of a weight is protected: importance of layers, and the rules that ranks follow."""

import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from speechcl.adapters.subspace import (
    LayerImportance,
    RankPolicy,
    preserved_rank,
    relative_importance,
)


def draw(seed, *shape, dtype=torch.float32):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def slow_importance(weight, rows):
    cosines = []
    for x in rows:
        y = weight @ x
        width = min(weight.shape)
        x, y = x[:width], y[:width]
        cosines.append(float(x @ y / (x.norm() * y.norm())))
    return sum(cosines) / len(cosines)


@pytest.mark.parametrize(("n", "m"), [(6, 6), (9, 5), (5, 9)])
def test_importance_is_the_mean_cosine_however_the_rows_come(n, m):
    weight, rows = draw(0, n, m) + torch.eye(n, m), draw(1, 24, m)
    importance = LayerImportance(weight)
    importance.add(rows[:12].view(2, 6, m))
    importance.add(rows[12:13])
    importance.add(rows[13:])
    assert importance.mean() == pytest.approx(slow_importance(weight, rows), abs=1e-6)
    assert importance.count == 24


def test_importance_of_a_stack_is_the_mean_of_its_weights():
    stack, rows = draw(0, 3, 4, 5), draw(1, 3, 10, 5)
    importance = LayerImportance(stack)
    importance.add(rows)
    alone = [slow_importance(stack[i], rows[i]) for i in range(3)]
    assert importance.mean() == pytest.approx(sum(alone) / 3, abs=1e-6)


def test_importance_takes_half_precision_and_keeps_no_graph():
    layer = nn.Linear(4, 4)
    importance = LayerImportance(layer.weight)
    importance.add(draw(0, 3, 4).bfloat16().requires_grad_())
    assert not importance.total.requires_grad
    assert -1 <= importance.mean() <= 1


def test_importance_of_a_layer_that_heard_nothing_is_an_error():
    with pytest.raises(ValueError, match="heard no input"):
        LayerImportance(draw(0, 3, 3)).mean()


def test_relative_importance_has_mean_1():
    found = relative_importance({"a": 0.1, "b": -0.05, "c": 0.4})
    assert sum(found.values()) / 3 == pytest.approx(1.0)
    assert found["c"] / found["a"] == pytest.approx(4.0)


def test_without_a_positive_mean_all_layers_count_alike(caplog):
    with caplog.at_level(logging.WARNING):
        assert relative_importance({"a": 0.1, "b": -0.2}) == {"a": 1.0, "b": 1.0}
        assert relative_importance({"a": 0.1, "b": float("nan")}) == {"a": 1.0, "b": 1.0}
    assert "-0.050" in caplog.text
    assert "nan" in caplog.text


# the smaller side, and what each rule protects of it
TABLE = [
    # (out, in), paper I=1, paper I=0.5, paper I=1.2, fixed 0.75, third of three
    ((2, 2), 1, 1, 1, 1, 1),
    ((3, 40), 2, 1, 2, 2, 2),
    ((10, 10), 8, 4, 9, 7, 7),
    ((64, 96), 51, 28, 60, 48, 44),
    ((192, 192), 153, 86, 180, 144, 134),
    ((256, 80), 64, 36, 75, 60, 56),
    ((768, 768), 614, 345, 721, 576, 537),
    ((768, 3072), 614, 345, 721, 576, 537),
    ((3072, 768), 614, 345, 721, 576, 537),
    ((1024, 4096), 819, 460, 962, 768, 716),
]


@pytest.mark.parametrize(("shape", "average", "less", "more", "fixed", "third"), TABLE)
def test_ranks_by_rule(shape, average, less, more, fixed, third):
    rank = min(shape)
    assert preserved_rank(1.0, rank) == average
    assert preserved_rank(0.5, rank) == less
    assert preserved_rank(1.2, rank) == more
    paper = RankPolicy(floors=())
    assert [paper.preserved(rank, i) for i in (1.0, 0.5, 1.2)] == [average, less, more]
    for importance in (-5.0, 1.0, 9.0):
        assert RankPolicy.fixed(0.75).preserved(rank, importance, task=4) == fixed
        growing = RankPolicy.progressive([0.3, 0.5, 0.7])
        assert growing.preserved(rank, importance, task=2) == third
        assert growing.preserved(rank, importance, task=9) == third


@settings(max_examples=100, deadline=None)
@given(importance=st.floats(-10, 10), rank=st.integers(2, 5000), task=st.integers(0, 20))
def test_something_is_protected_and_something_is_left(importance, rank, task):
    for policy in (RankPolicy(), RankPolicy(floors=()), RankPolicy.growing(5)):
        assert 1 <= policy.preserved(rank, importance, task) <= rank - 1


def test_the_share_of_an_average_layer_is_exact_where_floats_are_not():
    assert preserved_rank(1.0, 100, min_ratio=0.1, target_ratio=0.29) == 29


def test_the_floor_holds_where_the_rule_asks_for_less():
    policy = RankPolicy(floors=(0.2, 0.9))
    assert [policy.preserved(100, 0.0, task) for task in (0, 1)] == [20, 90]
    assert [policy.preserved(100, 1.0, task) for task in (0, 1)] == [80, 90]


def test_growing_goes_by_t_over_n():
    policy = RankPolicy.growing(tasks=4, largest=0.8)
    assert [policy.preserved(100, task=task) for task in range(5)] == [1, 20, 40, 60, 60]


def test_a_rank_of_1_cannot_be_split():
    with pytest.raises(ValueError, match="rank 1 cannot be split: leave the layer out"):
        preserved_rank(1.0, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_ratio": -0.1}, "0 to 1"),
        ({"floors": (0.5, 1.5)}, "0 to 1"),
        ({"floors": (float("nan"),)}, "0 to 1"),
        ({"floors": ("0.5",)}, "must be numbers"),
        ({"floors": 0.5}, "floors is 0.5: give a list of shares, one a task"),
        ({"floors": "0.5"}, "floors is '0.5': give a list of shares, one a task"),
        ({"min_ratio": 0.9}, "min_ratio is 0.9 and target_ratio 0.8"),
    ],
)
def test_shares_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RankPolicy(**options)


@pytest.mark.parametrize(
    ("make", "given", "message"),
    [
        (RankPolicy.progressive, [], "shares is empty: give one a task"),
        (RankPolicy.progressive, 0.5, "floors is 0.5: give a list of shares"),
        (RankPolicy.growing, 0, "tasks is 0: give the number of tasks, at least 1"),
        (RankPolicy.fixed, "0.5", "must be numbers"),
    ],
)
def test_a_policy_that_would_protect_next_to_nothing_is_refused(make, given, message):
    with pytest.raises(ValueError, match=message):
        make(given)
