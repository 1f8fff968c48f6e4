"""The thresholds against their definition, and the schedule against figures of the paper's code."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechcl.adapters.rank_threshold import (
    ThresholdSchedule,
    official_threshold,
    shrink,
    soft_threshold,
)

THRESHOLDS = [soft_threshold, official_threshold]
numbers = st.floats(-1, 1, width=32)


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=60, deadline=None)
@given(x=numbers, kappa=st.floats(0, 0.5))
def test_soft_is_the_proximal_map_of_the_absolute_value(x, kappa):
    grid = torch.linspace(-1.2, 1.2, 24001, dtype=torch.float64)
    objective = (grid - x) ** 2 / 2 + kappa * grid.abs()
    found = soft_threshold(torch.tensor([x], dtype=torch.float64), kappa)
    at_found = (found - x) ** 2 / 2 + kappa * found.abs()
    assert float(at_found) <= float(objective.min()) + 1e-12
    assert float(found) == pytest.approx(float(grid[objective.argmin()]), abs=1e-4 + 1e-6)


@settings(max_examples=60, deadline=None)
@given(x=numbers, y=numbers, kappa=st.floats(0, 0.5, width=32))
def test_soft_is_odd_and_never_spreads(x, y, kappa):
    one, other, mirrored = soft_threshold(torch.tensor([x, y, -x]), kappa)
    assert float(mirrored) == -float(one)
    assert abs(float(one - other)) <= abs(x - y) + 1e-7


@settings(max_examples=60, deadline=None)
@given(gates=st.lists(numbers, min_size=1, max_size=8), kappa=st.floats(0, 0.5, width=32))
def test_official_is_the_three_edits_of_the_released_code(gates, kappa):
    expected = torch.tensor(gates)
    expected[expected > kappa] -= kappa
    expected[expected < -kappa] += kappa
    expected[expected.abs() < kappa] = 0.0
    assert torch.equal(official_threshold(torch.tensor(gates), kappa), expected)


def test_the_two_differ_as_measured_on_the_released_code():
    gates = torch.tensor([0.004, 0.005, 0.007, 0.0099, 0.0101, 0.02])
    official = torch.tensor([0.0, 0.005, 0.0, 0.0, 0.0051, 0.015])  # what equals kappa stays
    torch.testing.assert_close(official_threshold(gates, 0.005), official)
    torch.testing.assert_close(official_threshold(-gates, 0.005), -official)
    soft = torch.tensor([0.0, 0.0, 0.002, 0.0049, 0.0051, 0.015])
    torch.testing.assert_close(soft_threshold(gates, 0.005), soft)


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_what_is_pruned_is_exactly_zero_on_both_sides(threshold):
    gates = torch.tensor([0.3, -0.3, 2.5, -2.5])
    assert threshold(gates, 1.0).tolist() == [0.0, 0.0, 1.5, -1.5]
    assert torch.equal(threshold(gates, 0.0), gates)


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_many_gates_are_shrunk_as_each_alone_and_in_place(threshold):
    gates = [torch.nn.Parameter(draw(i, size)) for i, size in enumerate((16, 4, 1, 16))]
    before = [gate.detach().clone() for gate in gates]
    storages = [gate.data_ptr() for gate in gates]
    shrink(gates, 0.4, threshold)
    assert [gate.data_ptr() for gate in gates] == storages
    for gate, old in zip(gates, before, strict=True):
        assert torch.equal(gate.detach(), threshold(old, 0.4))
        assert gate.is_leaf
        assert gate.requires_grad


def test_soft_is_what_is_used_unless_told():
    gates = [torch.tensor([1.5])]
    shrink(gates, 1.0)
    assert gates[0].tolist() == [0.5]


def test_nothing_to_do():
    gates = [torch.tensor([0.5])]
    shrink(gates, 0.0)
    shrink([], 0.1)
    assert gates[0].tolist() == [0.5]


# ---- the schedule
def slow_schedule(total, kappa_max, levels, dense_ratio):
    """The released loop: a counter that moves on every few iterations."""
    ladder = torch.linspace(0, kappa_max, levels, dtype=torch.float64).tolist()
    dense = dense_ratio * total
    step = int((total - dense) // levels)
    j, kappas = 0, []
    for n in range(total):
        if n >= dense and n % step == 0:
            j += 1
        kappas.append(ladder[min(j, levels - 1)] if n > dense else 0.0)
    return kappas


def test_the_papers_setting():
    schedule = ThresholdSchedule(total_steps=500, kappa_max=0.005)
    kappas = [schedule.at(n) for n in range(500)]
    applied = [kappa for kappa in kappas if kappa > 0]
    assert len(applied) == 249
    assert kappas[:251] == [0.0] * 251
    assert applied == sorted(applied)
    assert sum(applied) == pytest.approx(0.6499, abs=1e-4)
    assert applied[0] == pytest.approx(1.0204e-4, abs=1e-8)
    assert applied[-1] == pytest.approx(0.005, abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(
    total=st.integers(100, 2000),
    levels=st.integers(2, 50),
    dense_ratio=st.sampled_from([0.0, 0.25, 0.333, 0.5]),
)
def test_equals_the_released_loop(total, levels, dense_ratio):
    schedule = ThresholdSchedule(total, 0.01, levels, dense_ratio)
    expected = slow_schedule(total, 0.01, levels, dense_ratio)
    assert [schedule.at(n) for n in range(total)] == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("total", [4, 8, 60, 99])
def test_a_task_too_short_for_all_levels_climbs_to_the_top_in_larger_steps(total):
    schedule = ThresholdSchedule(total_steps=total, kappa_max=0.049)
    kappas = [schedule.at(n) for n in range(total)]
    applied = [kappa for kappa in kappas if kappa > 0]
    assert len(applied) == sum(n > total / 2 for n in range(total))
    assert applied == sorted(applied)
    assert applied[-1] == pytest.approx(0.049)
    assert schedule.levels <= total / 2


@pytest.mark.parametrize("total", [1, 2, 3])
def test_a_task_of_hardly_any_steps_has_a_schedule(total):
    kappas = [ThresholdSchedule(total, kappa_max=0.1).at(n) for n in range(total)]
    assert set(kappas) <= {0.0, 0.1}


def test_dense_to_the_end():
    schedule = ThresholdSchedule(total_steps=20, kappa_max=0.1, dense_ratio=1.0)
    assert {schedule.at(n) for n in range(20)} == {0.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"total_steps": 0}, "total_steps is 0"),
        ({"levels": 1}, "levels 1"),
        ({"kappa_max": -0.1}, "kappa_max is -0.1"),
        ({"dense_ratio": 1.5}, "dense_ratio 1.5"),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ThresholdSchedule(**{"total_steps": 500, "kappa_max": 0.005, **options})


# ---- what the defaults do
@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_about_half_of_the_gates_survive_without_any_gradient(threshold):
    gates = [draw(i, 16) for i in range(600)]
    schedule = ThresholdSchedule(total_steps=500, kappa_max=0.005)
    for n in range(500):
        shrink(gates, schedule.at(n), threshold)
    survivors = sum(int(gate.count_nonzero()) for gate in gates) / len(gates)
    assert survivors == pytest.approx(8.2, abs=0.3)


def test_gates_that_start_at_1_all_survive():
    gates = [torch.ones(16)]
    schedule = ThresholdSchedule(total_steps=500, kappa_max=0.005)
    for n in range(500):
        shrink(gates, schedule.at(n))
    assert gates[0].min() == pytest.approx(1 - 0.6499, abs=1e-3)


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_a_pruned_gate_stays_pruned_from_step_260_on(noise):
    gates = torch.nn.Parameter(draw(0, 400))
    push = gates.detach().sign() * draw(1, 400).abs()  # outwards and inwards
    push[::2] *= -1
    optimizer = torch.optim.AdamW([gates], lr=5e-4, betas=(0.9, 0.9999), weight_decay=0.0)
    schedule = ThresholdSchedule(total_steps=500, kappa_max=0.005)
    pruned = torch.zeros(400, dtype=torch.bool)
    for n in range(500):
        optimizer.param_groups[0]["lr"] = 5e-4 * (1 + math.cos(math.pi * n / 500)) / 2
        gates.grad = push + noise * draw(n + 2, 400)
        optimizer.step()
        shrink([gates], schedule.at(n))
        if n >= 260:
            assert not gates[pruned].any()
            pruned = gates.detach() == 0
    assert 100 < int(pruned.sum()) < 300


def test_a_pruned_term_gets_no_gradient():
    x, down, up = draw(0, 5, 8), draw(1, 3, 8).requires_grad_(), draw(2, 6, 3).requires_grad_()
    gates = soft_threshold(torch.tensor([0.5, 3.0, -0.1]), 1.0)
    ((x @ down.T * gates) @ up.T).square().sum().backward()
    for i, alive in enumerate([False, True, False]):
        assert bool(down.grad[i].any()) is alive
        assert bool(up.grad[:, i].any()) is alive
