"""What does cutting a weight at its singular values cost, next to ``torch.linalg.svd``?

Both sides give U, S and V of rank ``min(out, in)``, which OSFT needs of every layer at the start of
every task; half of the directions count as protected. In ``others``, by the same ratio: the SVD in
fp64, which is the peer of equal accuracy; the SVD of the weight with its longer side first, which
is how a careful user would call it; and for its core mode what else it takes, both sides'
orthogonal complements, where the peer is the SVD with full matrices.

First both must give the weight back, and the angle between the protected subspaces and those of an
fp64 SVD must be small. Weights are Gaussian, whose singular values lie as close as any, and one of
each shape has values that fall by a factor of 1000, as those of trained layers do.
"""

import statistics
from collections.abc import Callable
from functools import partial

import torch
from timing import arguments, interleaved, report, seconds
from torch import Tensor

from speechcl.adapters.subspace import split

TARGET, ANGLE, TOLERANCE = 0.5, 1e-4, 1e-5
Parts = tuple[Tensor, Tensor, Tensor]


def gaussian(rows: int, columns: int, fall: float) -> Tensor:
    """A weight of unit scale, its singular values multiplied by 1 down to ``fall``."""
    weight = torch.randn(rows, columns) / columns**0.5
    u, s, v = torch.linalg.svd(weight.double(), full_matrices=False)
    return ((u * s * fall ** torch.linspace(0, 1, len(s)).double()) @ v).float()


def ours(weight: Tensor, preserved: int) -> Parts:
    """U, S and V of our cut, put together again."""
    cut = split(weight, preserved)
    pairs = (cut.u_high, cut.u_low), (cut.s_high, cut.s_low), (cut.v_high.mT, cut.v_low.mT)
    u, s, v = (torch.cat(pair, dim=-1) for pair in pairs)
    return u, s, v.mT


def core(weight: Tensor, preserved: int) -> None:
    """All that core mode needs."""
    split(weight, preserved).complements()


def thin(weight: Tensor) -> Parts:
    """The peer."""
    return torch.linalg.svd(weight, full_matrices=False)


def longer_side_first(weight: Tensor) -> Parts:
    """The peer as it is fastest."""
    if weight.shape[0] >= weight.shape[1]:
        return thin(weight)
    v, s, u = thin(weight.mT.contiguous())
    return u.mT, s, v.mT


def angle(found: Parts, exact: Parts, preserved: int) -> float:
    """The larger of both sides' largest principal angles to the exact subspace, in radians."""
    worst = 0.0
    for mine, theirs in ((found[0], exact[0]), (found[2].mT, exact[2].mT)):
        mine = torch.linalg.qr(mine[:, :preserved].double()).Q
        theirs = theirs[:, :preserved]
        sine = torch.linalg.matrix_norm(mine - theirs @ (theirs.T @ mine), 2)
        worst = max(worst, float(sine.clamp_max(1).asin()))
    return worst


def residual(found: Parts, weight: Tensor) -> float:
    """How far the parts are from giving the weight back, of its norm."""
    u, s, v = (part.double() for part in found)
    return float(torch.linalg.norm((u * s) @ v - weight) / torch.linalg.norm(weight.double()))


def check(weight: Tensor, preserved: int) -> dict[str, float]:
    """Assert what must hold of both; return the angles."""
    exact, found = thin(weight.double()), {"ours": ours(weight, preserved), "peer": thin(weight)}
    for side, one in found.items():
        rest = residual(one, weight)
        assert rest <= TOLERANCE, f"{side} gives the weight back but for {rest}"
    angles = {side: angle(one, exact, preserved) for side, one in found.items()}
    assert angles["ours"] <= ANGLE, f"the protected subspace is {angles['ours']} rad off"
    return angles


def compare(rows: int, columns: int, repeats: int) -> None:
    """Assert accuracy, then time one shape."""
    preserved = min(rows, columns) // 2
    weight = gaussian(rows, columns, fall=1.0)
    angles = {
        "gaussian": check(weight, preserved),
        "falling": check(gaussian(rows, columns, fall=1e-3), preserved),
    }
    sides: dict[str, Callable] = {
        "ours": partial(split, weight, preserved),
        "peer": partial(thin, weight),
        "peer in fp64": lambda: thin(weight.double()),
        "peer, longer side first": partial(longer_side_first, weight),
        "ours with complements": partial(core, weight, preserved),
        "peer with full matrices": partial(torch.linalg.svd, weight),
    }
    found = interleaved({name: partial(seconds, side) for name, side in sides.items()}, repeats)
    medians = {name: statistics.median(values) for name, values in found.items()}
    report(
        "osft_init",
        {"out": rows, "in": columns, "preserved": preserved},
        found["ours"],
        found["peer"],
        TARGET,
        others={
            f"{mine} / {theirs}": round(medians[mine] / medians[theirs], 3)
            for mine, theirs in (
                ("ours", "peer in fp64"),
                ("ours", "peer, longer side first"),
                ("ours with complements", "peer with full matrices"),
            )
        },
        largest_angle_rad={
            kind: {side: float(f"{value:.2g}") for side, value in pair.items()}
            for kind, pair in angles.items()
        },
    )


def main() -> None:
    quick = arguments(__doc__).quick
    shapes = [(24, 24), (24, 96)] if quick else [(768, 768), (768, 3072), (1024, 4096)]
    for rows, columns in shapes:
        compare(rows, columns, repeats=1 if quick else 9)


if __name__ == "__main__":
    main()
