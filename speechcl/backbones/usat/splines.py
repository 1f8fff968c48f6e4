"""A monotone curve through learnt knots, with straight tails, and its inverse."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_LEAST_BIN, _LEAST_SLOPE = 1e-3, 1e-3  # of the whole width and height; keep the curve invertible


def rational_quadratic_spline(
    x: Tensor,
    widths: Tensor,
    heights: Tensor,
    slopes: Tensor,
    tail: float = 5.0,
    inverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """Send each value along its own monotone curve, or back; beyond the tail it stays as it is.

    Arguments
    ---------
    x : Tensor
        Any shape.
    widths, heights : Tensor
        Of the bins before their softmax, shape (..., bins).
    slopes : Tensor
        At the inner knots before their softplus, shape (..., bins - 1); 1 at the outer two.
    tail : float
        The curve goes from (-tail, -tail) to (tail, tail).
    inverse : bool
        Go from y to x.

    Returns
    -------
    tuple of Tensor
        Where each value goes, and the logarithm of the slope on its way, of the shape of ``x``.
        At least float32, also inside of autocast.

    Source: Durkan et al., "Neural spline flows", NeurIPS 2019, eq. 4-8 and appendix A; VITS (arXiv
    2106.06103), section 2.2.2, whose least widths, heights and slopes these are. Deviates: values
    beyond the tail go through the same computation at its edge, so that shapes do not depend on
    them.

    Example
    -------
    >>> x, bins = torch.tensor([-7.0, 0.0, 1.0]), torch.zeros(3, 2)
    >>> y, log_slope = rational_quadratic_spline(x, bins, bins, torch.zeros(3, 1))
    >>> y
    tensor([-7.0000,  0.0000,  0.7942])
    >>> back, _ = rational_quadratic_spline(y, bins, bins, torch.zeros(3, 1), inverse=True)
    >>> torch.testing.assert_close(back, x)
    """
    x, widths, heights, slopes = (full_precision(part) for part in (x, widths, heights, slopes))
    knots_x, knots_y = _knots(widths, tail), _knots(heights, tail)
    # One at the ends, where the straight tails go on.
    slope = functional.pad(functional.softplus(slopes) + _LEAST_SLOPE, (1, 1), value=1.0)
    inside = x.abs() <= tail
    at = x.clamp(-tail, tail)[..., None].contiguous()
    knots = knots_y if inverse else knots_x
    bin_ = torch.searchsorted(knots[..., 1:-1].detach().contiguous(), at, right=True)
    (left, right), (bottom, top), (slope_in, slope_out) = (
        (part.gather(-1, bin_), part.gather(-1, bin_ + 1)) for part in (knots_x, knots_y, slope)
    )
    width, height = right - left, top - bottom
    steepness = height / width  # s_k
    bend = slope_in + slope_out - 2 * steepness
    if inverse:
        rise = at - bottom
        a = height * (steepness - slope_in) + rise * bend
        b = height * slope_in - rise * bend
        # Negative by rounding only, and the root has no gradient at 0.
        root = (b.square() + 4 * a * steepness * rise).clamp_min(1e-20).sqrt()
        share = 2 * steepness * rise / (b + root)  # of the bin's width: xi, c = -s rise
    else:
        share = (at - left) / width
    across = share * (1 - share)
    divisor = steepness + bend * across
    if inverse:
        y = left + share * width
    else:
        y = bottom + height * (steepness * share.square() + slope_in * across) / divisor
    climb = slope_out * share.square() + 2 * steepness * across
    climb = climb + slope_in * (1 - share).square()
    log_slope = 2 * (steepness.log() - divisor.log()) + climb.log()
    log_slope = -log_slope if inverse else log_slope
    return torch.where(inside, y[..., 0], x), torch.where(inside, log_slope[..., 0], 0.0)


def full_precision(x: Tensor) -> Tensor:
    """Return float32 of half precision, anything else as it is.

    Example
    -------
    >>> full_precision(torch.ones(1, dtype=torch.bfloat16)).dtype
    torch.float32
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _knots(sizes: Tensor, tail: float) -> Tensor:
    """Return where bins begin and end, shape (..., bins + 1), from -tail to tail."""
    bins = sizes.shape[-1]
    share = _LEAST_BIN + (1 - _LEAST_BIN * bins) * sizes.softmax(-1)
    inner = 2 * tail * share.cumsum(-1)[..., :-1] - tail
    inner = functional.pad(inner, (1, 0), value=-tail)
    return functional.pad(inner, (0, 1), value=tail)
