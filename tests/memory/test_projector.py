"""The projector against its closed form and a slow float64 oracle (rwm.md, section 9)."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechcl.memory import Projector

seeds = st.integers(0, 10_000)


def draw(seed, *shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def absorbed(rows, alpha=1.0, dtype=torch.float64):
    projector = Projector(rows.shape[1], alpha, dtype=dtype)
    for row in rows:
        projector.absorb(row[None])
    return projector


def closed_form(rows, alpha):
    identity = torch.eye(rows.shape[1], dtype=torch.float64)
    return torch.linalg.inv(identity + rows.T @ rows / alpha)


def slow_rotation(away, grad, angle):
    """R written out, as a matrix."""
    away, grad = away.double(), grad.double()
    along = torch.eye(len(away), dtype=torch.float64) - away
    norm = away.square().sum().sqrt()
    matrix = norm * (
        math.cos(angle) * away / norm + math.sin(angle) * along / along.square().sum().sqrt()
    )
    return grad @ matrix


@settings(max_examples=40, deadline=None)
@given(seed=seeds, n=st.integers(1, 12), m=st.integers(1, 30), alpha=st.floats(0.01, 100.0))
def test_equals_the_closed_form(seed, n, m, alpha):
    rows = draw(seed, m, n)
    error = torch.linalg.matrix_norm(absorbed(rows, alpha).matrix() - closed_form(rows, alpha)) / n
    assert error < 1e-9


@settings(max_examples=40, deadline=None)
@given(seed=seeds, n=st.integers(1, 12), m=st.integers(1, 30), alpha=st.floats(0.01, 100.0))
def test_absorbing_rows_at_once_is_absorbing_each(seed, n, m, alpha):
    rows = draw(seed, m, n)
    at_once = Projector(n, alpha, dtype=torch.float64)
    at_once.absorb(draw(seed + 1, 1, n))
    one_by_one = Projector(n, alpha, dtype=torch.float64)
    one_by_one.load_state_dict(at_once.state_dict())
    at_once.absorb_rows(rows)
    for row in rows:
        one_by_one.absorb(row[None])
    torch.testing.assert_close(at_once.matrix(), one_by_one.matrix(), rtol=0, atol=1e-10)


@settings(max_examples=25, deadline=None)
@given(seed=seeds, n=st.integers(1, 12), m=st.integers(1, 20))
def test_stays_symmetric_with_eigenvalues_in_0_1_and_trace_never_grows(seed, n, m):
    projector = Projector(n, dtype=torch.float32)
    trace = float(n)
    for step, row in enumerate(draw(seed, m, n, dtype=torch.float32)):
        if step % 2:
            projector.absorb_rows(row[None])
        else:
            projector.absorb(row[None])
        away = projector.matrix()
        assert torch.equal(away, away.T)
        values = torch.linalg.eigvalsh(away.double())
        assert values.min() > 0
        assert values.max() <= 1 + 1e-6
        assert away.trace() <= trace + 1e-6
        trace = float(away.trace())


def test_many_rows_at_once_keep_float64_exactly_symmetric():
    projector = Projector(40, dtype=torch.float64)
    projector.absorb_rows(draw(0, 60, 40))
    assert torch.equal(projector.matrix(), projector.matrix().T)


@pytest.mark.parametrize("alpha", [0.1, 1.0, 7.0])
@pytest.mark.parametrize("times", [1, 2, 50])
def test_attenuates_what_was_absorbed_and_leaves_the_rest(times, alpha):
    x = draw(3, 6)
    other = draw(4, 6)
    other -= (other @ x) / (x @ x) * x
    projector = absorbed(x.repeat(times, 1), alpha)
    size = x.square().sum()
    expected = alpha / (alpha + times * size)
    assert (projector.matrix() @ x).norm() / x.norm() == pytest.approx(float(expected), abs=1e-6)
    torch.testing.assert_close(projector.matrix() @ other, other)


def test_a_batch_counts_by_its_mean():
    batch = draw(0, 9, 5)
    one = Projector(5, dtype=torch.float64)
    one.absorb(batch)
    assert torch.equal(one.matrix(), absorbed(batch.mean(0, keepdim=True)).matrix())


def test_old_outputs_are_preserved_at_angle_0():
    old = draw(0, 4, 10)
    projector = absorbed(old.repeat(20, 1))
    grad, lr = draw(1, 3, 10), 0.1
    change = -lr * projector.rotate(grad, 0.0)
    for x in old:
        moved = (change @ x).norm()
        limit = lr * torch.linalg.matrix_norm(grad) * (projector.matrix() @ x).norm()
        assert moved <= limit + 1e-12
        assert moved < 0.05 * lr * (grad @ x).norm()  # and the limit means something


def test_at_half_pi_an_input_orthogonal_to_all_absorbed_moves_nothing():
    old = torch.zeros(5, 8, dtype=torch.float64)
    old[:, :4] = draw(0, 5, 4)
    new = torch.zeros(8, dtype=torch.float64)
    new[4:] = draw(1, 4)
    grad = draw(2, 3, 1) * new  # what a linear layer gets from this input
    step = absorbed(old).rotate(grad, math.pi / 2)
    assert step.abs().max() < 1e-14


@settings(max_examples=40, deadline=None)
@given(seed=seeds, n=st.integers(2, 12), m=st.integers(1, 20), angle=st.floats(0, math.pi / 2))
def test_rotates_as_the_explicit_matrix(seed, n, m, angle):
    projector = absorbed(draw(seed, m, n))
    grad = draw(seed + 1, 4, n)
    expected = slow_rotation(projector.matrix(), grad, angle)
    torch.testing.assert_close(projector.rotate(grad, angle), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("angle", [0.0, 0.3, 1.2, math.pi / 2])
def test_rotation_in_float32_is_the_float64_one(angle):
    projector = absorbed(draw(0, 10, 20, dtype=torch.float32), dtype=torch.float32)
    grad = draw(1, 4, 20, dtype=torch.float32)
    found = projector.rotate(grad, angle)
    assert found.dtype == torch.float32
    expected = slow_rotation(projector.matrix(), grad, angle).float()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found, projector.rotate(grad, torch.tensor(angle)))


def test_rescaling_keeps_the_norm_of_p_on_both_sides():
    # pitfall P4: both parts of R have the Frobenius norm of P, so a small Q is amplified
    projector = absorbed(draw(0, 2, 30))
    identity = torch.eye(30, dtype=torch.float64)
    norm = torch.linalg.matrix_norm(projector.matrix())
    for angle in (0.0, math.pi / 2):
        assert torch.linalg.matrix_norm(projector.rotate(identity, angle)) == pytest.approx(norm)


def test_unnormalised_at_quarter_pi_would_be_plain_fine_tuning():
    # pitfall P4: cos P + sin Q = I / sqrt(2), no protection; ours must not be that
    projector = absorbed(draw(0, 5, 8))
    away, grad = projector.matrix(), draw(1, 3, 8)
    angle = math.pi / 4
    plain = grad @ (math.cos(angle) * away + math.sin(angle) * (torch.eye(8) - away))
    torch.testing.assert_close(plain, grad / math.sqrt(2))
    assert not torch.allclose(projector.rotate(grad, angle), plain, rtol=0.01)


def test_rotation_is_finite_before_anything_was_absorbed():
    # Q is exactly 0 then: a layer without bias that saw only zeros so far
    projector = Projector(64)
    grad = draw(0, 3, 64, dtype=torch.float32)
    for angle in (0.0, 0.7, math.pi / 2):
        torch.testing.assert_close(projector.rotate(grad, angle), math.cos(angle) * grad)


def test_scalar_denominator_stays_symmetric_where_the_released_outer_product_does_not():
    # pitfall P1: n = 64, rank-8 inputs, 60 updates
    basis, n = draw(0, 8, 64, dtype=torch.float32), 64
    rows = draw(1, 60, 8, dtype=torch.float32) @ basis
    released = torch.eye(n)
    for row in rows:
        k, r = released @ row[:, None], row[None]
        released = released - (k @ k.T) / (1.0 + k @ r)  # element by element
    asymmetry = torch.linalg.matrix_norm(released - released.T)
    assert not asymmetry <= 0.1 * torch.linalg.matrix_norm(released)  # NaN counts as asymmetric
    ours = absorbed(rows, dtype=torch.float32).matrix()
    assert torch.equal(ours, ours.T)
    torch.testing.assert_close(ours.double(), closed_form(rows.double(), 1.0), rtol=0, atol=1e-4)


def test_wide_float32_agrees_with_float64():
    rows = draw(0, 60, 2048, dtype=torch.float32)
    single, double = Projector(2048), Projector(2048, dtype=torch.float64)
    for row in rows:
        single.absorb(row[None])
        double.absorb(row[None])
    assert (single.matrix().double() - double.matrix()).abs().max() < 1e-6
    assert torch.equal(single.matrix(), single.matrix().T)


def test_autocast_does_not_reach_the_recursion():
    rows = draw(0, 10, 16, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = absorbed(rows, dtype=torch.float32)
        inside.absorb_rows(rows)
    outside = absorbed(rows, dtype=torch.float32)
    outside.absorb_rows(rows)
    assert torch.equal(inside.matrix(), outside.matrix())


def test_state_survives_and_goes_on_alike():
    rows = draw(0, 12, 5, dtype=torch.float32)
    one, other = absorbed(rows[:6], dtype=torch.float32), Projector(5)
    other.load_state_dict(one.state_dict())
    for row in rows[6:]:
        one.absorb(row[None])
        other.absorb(row[None])
    assert torch.equal(one.matrix(), other.matrix())
    assert [tuple(value.shape) for value in one.state_dict().values()] == [(5, 5)]


@pytest.mark.parametrize("alpha", [0.0, -1.0])
def test_alpha_must_be_positive(alpha):
    with pytest.raises(ValueError, match="alpha > 0"):
        Projector(3, alpha)
