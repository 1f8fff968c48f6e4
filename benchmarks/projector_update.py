"""What does absorbing a batch into an OWM projector cost, next to the reference operations?

Peer: the released code's order of operations with explicit matrices and a new P each time (with the
scalar denominator of the paper). Both sides absorb the same inputs, 32 rows each. The floor is one
read and one write of P at the speed of a measured copy.

The peer asks for new matrices at every update, whose pages the system must clear. That is how it
runs by default; the second round has an allocator that keeps freed memory, which spares the peer
that and leaves the arithmetic.
"""

import torch
from timing import arguments, interleaved, keep_freed_memory, report, seconds

from speechcl.memory import Projector

BATCH, ALPHA = 32, 1.0
TARGET, TOLERANCE = 0.2, 1e-6


def reference(away: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """Absorb the mean of a batch as OWM's released code does."""
    mean = inputs.mean(0, keepdim=True)  # (1, n)
    k = torch.mm(away, torch.t(mean))  # (n, 1)
    change = torch.mm(k, torch.t(k)) / (ALPHA + torch.mm(mean, k))
    return torch.sub(away, change)


def bytes_per_s(copies: int = 20) -> float:
    """Bytes read and written a second by a copy that no cache holds."""
    source, target = torch.ones(32 << 20), torch.ones(32 << 20)
    target.copy_(source)
    return 2 * source.nbytes / min(seconds(lambda: target.copy_(source)) for _ in range(copies))


def check(width: int, batches: int = 50) -> float:
    """Assert that ours equals fp64, symmetric to the last bit; return the largest difference."""
    ours, exact = Projector(width, ALPHA), torch.eye(width, dtype=torch.float64)
    for _ in range(batches):
        inputs = torch.randn(BATCH, width)
        ours.absorb(inputs)
        exact = reference(exact, inputs.double())
    worst = float((ours.away - exact).abs().max())
    assert torch.equal(ours.away, ours.away.T), "P is not symmetric"
    assert worst <= TOLERANCE, f"P is {worst} away from fp64"
    return worst


def compare(width: int, bandwidth: float, quick: bool, allocator: str) -> None:
    """Assert equality, then time one width."""
    worst = check(width)
    inputs, ours, state = torch.randn(BATCH, width), Projector(width, ALPHA), torch.eye(width)

    def peer():
        nonlocal state
        state = reference(state, inputs)

    times = max(1, (1 << 24) // width**2)
    found = interleaved(
        {
            "ours": lambda: seconds(lambda: ours.absorb(inputs), times),
            "peer": lambda: seconds(peer, times),
        },
        repeats=2 if quick else 11,
    )
    report(
        "projector_update",
        {"width": width, "batch": BATCH, "allocator": allocator},
        found["ours"],
        found["peer"],
        TARGET,
        floor_s=float(f"{2 * width * width * 4 / bandwidth:.3g}"),
        copy_gb_per_s=round(bandwidth / 1e9, 1),
        largest_difference_from_fp64=worst,
    )


def main() -> None:
    quick = arguments(__doc__).quick
    bandwidth = bytes_per_s(2 if quick else 20)
    widths = [64] if quick else [256, 1024, 2048]
    for width in widths:
        compare(width, bandwidth, quick, "default")
    keep_freed_memory()
    for width in widths:
        compare(width, bandwidth, quick, "keeps freed memory")


if __name__ == "__main__":
    main()
