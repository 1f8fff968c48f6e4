"""The spline: the equation, there and back, its slope, and what it does beyond the tail."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechcl.backbones.usat.splines import rational_quadratic_spline

BINS = 10


def parameters(shape, scale=1.0, dtype=torch.float32, bins=BINS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        scale * torch.randn(*shape, size, generator=generator, dtype=dtype)
        for size in (bins, bins, bins - 1)
    ]


def on_one_curve(x, widths, heights, slopes, **options):
    """All of ``x``, of one dimension, along the same curve."""
    same = [part.expand(len(x), -1) for part in (widths, heights, slopes)]
    return rational_quadratic_spline(x, *same, **options)


def reference(x, widths, heights, slopes, tail):
    """One value, from the equations of Durkan et al., section 3.1."""
    bins = len(widths)

    def knots(sizes):
        exps = [math.exp(size) for size in sizes]
        found = [-tail]
        for e in exps:
            share = 1e-3 + (1 - 1e-3 * bins) * e / sum(exps)
            found.append(found[-1] + 2 * tail * share)
        return found

    xs, ys = knots(widths), knots(heights)
    delta = [1.0] + [1e-3 + math.log1p(math.exp(slope)) for slope in slopes] + [1.0]
    k = max(k for k in range(bins) if xs[k] <= x)
    s = (ys[k + 1] - ys[k]) / (xs[k + 1] - xs[k])
    xi = (x - xs[k]) / (xs[k + 1] - xs[k])
    beta = s + (delta[k + 1] + delta[k] - 2 * s) * xi * (1 - xi)
    y = ys[k] + (ys[k + 1] - ys[k]) * (s * xi**2 + delta[k] * xi * (1 - xi)) / beta  # eq. 4
    above = s**2 * (delta[k + 1] * xi**2 + 2 * s * xi * (1 - xi) + delta[k] * (1 - xi) ** 2)
    return y, math.log(above / beta**2)  # eq. 5


@pytest.mark.parametrize("tail", [5.0, 2.0])
def test_it_is_the_equation(tail):
    widths, heights, slopes = parameters((), dtype=torch.float64)
    x = torch.linspace(-tail + 0.01, tail - 0.01, 57, dtype=torch.float64)
    y, log_slope = on_one_curve(x, widths, heights, slopes, tail=tail)
    curve = widths.tolist(), heights.tolist(), slopes.tolist()
    expected = torch.tensor([reference(v, *curve, tail) for v in x.tolist()], dtype=torch.float64)
    torch.testing.assert_close(torch.stack([y, log_slope], dim=1), expected)


@given(seed=st.integers(0, 9999), scale=st.floats(0.0, 3.0), bins=st.integers(2, 12))
@settings(max_examples=30, deadline=None)
def test_back_is_where_it_came_from(seed, scale, bins):
    generator = torch.Generator().manual_seed(seed)
    x = 4 * torch.randn(3, 40, generator=generator, dtype=torch.float64)
    curves = parameters((3, 40), scale, torch.float64, bins, seed)
    y, log_slope = rational_quadratic_spline(x, *curves)
    back, log_slope_back = rational_quadratic_spline(y, *curves, inverse=True)
    torch.testing.assert_close(back, x, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(log_slope_back, -log_slope, rtol=1e-5, atol=1e-5)


def test_back_is_where_it_came_from_in_float32():
    x = 4 * torch.randn(1000, generator=torch.Generator().manual_seed(0))
    curves = parameters((1000,))
    y, _ = rational_quadratic_spline(x, *curves)
    back, _ = rational_quadratic_spline(y, *curves, inverse=True)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-4)


@pytest.mark.parametrize("inverse", [False, True])
def test_the_slope_is_that_of_autograd(inverse):
    x = torch.linspace(-6.3, 6.3, 101, dtype=torch.float64, requires_grad=True)
    y, log_slope = rational_quadratic_spline(
        x, *parameters((101,), dtype=torch.float64), inverse=inverse
    )
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(log_slope, slope.log())


@pytest.mark.parametrize("inverse", [False, True])
def test_gradients_are_right_inside_and_beyond(inverse):
    x = torch.tensor([-5.5, -4.0, 0.3, 4.9, 7.0], dtype=torch.float64, requires_grad=True)
    curves = [part.requires_grad_() for part in parameters((5,), dtype=torch.float64)]
    assert torch.autograd.gradcheck(
        lambda *parts: rational_quadratic_spline(*parts, inverse=inverse), (x, *curves)
    )


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0])
def test_it_only_rises_and_has_no_gaps(scale, inverse):
    x = torch.linspace(-6, 6, 4001, dtype=torch.float64)
    y, _ = on_one_curve(x, *parameters((), scale, torch.float64), inverse=inverse)
    steps = y.diff()
    assert (steps > 0).all()
    assert steps.max() < 0.2  # a bin is 1 wide on average
    ends = torch.tensor([-5.0, 5.0], dtype=torch.float64)
    torch.testing.assert_close(
        on_one_curve(ends, *parameters((), scale, torch.float64), inverse=inverse)[0], ends
    )


@pytest.mark.parametrize("inverse", [False, True])
def test_beyond_the_tail_nothing_happens(inverse):
    x = torch.tensor([-1e6, -5.1, -5.000001, 5.000001, 6.0, 1e6])
    y, log_slope = on_one_curve(x, *parameters((), 2.0), inverse=inverse)
    assert torch.equal(y, x)
    assert log_slope.abs().max() == 0


@pytest.mark.parametrize("scale", [1.0, 60.0])
@pytest.mark.parametrize("inverse", [False, True])
def test_extreme_values_and_parameters_have_finite_gradients(inverse, scale):
    x = torch.cat([torch.linspace(-5.5, 5.5, 360), torch.linspace(-1e25, 1e25, 40)])
    curves = [part.requires_grad_() for part in parameters((400,), scale)]
    y, log_slope = rational_quadratic_spline(x, *curves, inverse=inverse)
    (y.sum() + log_slope.sum()).backward()
    assert y.isfinite().all()
    assert log_slope.isfinite().all()
    assert all(part.grad.isfinite().all() for part in curves)


def test_it_is_float32_inside_of_autocast():
    x, curves = torch.linspace(-5, 5, 50), parameters((50,))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = rational_quadratic_spline(x, *curves)
        halved = rational_quadratic_spline(x.bfloat16(), *(part.bfloat16() for part in curves))
    torch.testing.assert_close(found, rational_quadratic_spline(x, *curves), rtol=0, atol=0)
    assert halved[0].dtype == halved[1].dtype == torch.float32
