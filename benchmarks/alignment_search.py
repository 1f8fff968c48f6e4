"""What does aligning frames with phonemes cost on the CPU, next to the package for it?

The peer is ``maximum_path`` of monotonic-alignment-search 0.2, the compiled loop of Glow-TTS and
VITS, which hands back a path of 0s and 1s; ours hands back durations, and both must have the same.
In ``others``, by the same ratio: ours from likelihoods that lie in memory as
``gaussian_log_likelihood`` leaves them, so that nothing is copied, which is how training calls it;
and ours against the peer with the sum that makes durations of its path.
"""

import statistics
import sys
from collections.abc import Callable
from functools import partial

import torch
from timing import arguments, interleaved, report, seconds
from torch import Tensor

from speechcl.backbones.usat.alignment import alignment_durations

try:
    from monotonic_alignment_search import maximum_path
except ImportError:
    sys.exit('left out: install the peer by pip install "monotonic-alignment-search>=0.2"')

TARGET = 1.0


def lengths(batch: int, longest: int, vary: bool) -> Tensor:
    """Of a batch's items: all alike, or from half of the longest up to it."""
    shortest = longest // 2 if vary else longest
    return torch.linspace(shortest, longest, batch).long()


def compare(batch: int, phonemes: int, frames: int, vary: bool, repeats: int) -> None:
    """Assert that both find the same, then time them."""
    x_lengths, y_lengths = lengths(batch, phonemes, vary), lengths(batch, frames, vary)
    likelihood = -torch.randn(batch, phonemes, frames).square().cumsum(1)
    by_frame = likelihood.mT.contiguous()
    mask = (torch.arange(phonemes)[:, None] < x_lengths[:, None, None]) & (
        torch.arange(frames) < y_lengths[:, None, None]
    )
    mask = mask.float()
    ours = partial(alignment_durations, likelihood, x_lengths, y_lengths)
    peer = partial(maximum_path, likelihood, mask)
    expected = peer().sum(2).long()
    assert torch.equal(ours(), expected), "both sides find other durations"
    sides: dict[str, Callable[[], Tensor]] = {
        "ours": ours,
        "peer": peer,
        "ours, nothing copied": partial(alignment_durations, by_frame.mT, x_lengths, y_lengths),
        "peer with durations": lambda: peer().sum(2),
    }
    found = interleaved({name: partial(seconds, side, 5) for name, side in sides.items()}, repeats)
    medians = {name: statistics.median(values) for name, values in found.items()}
    report(
        "alignment_search",
        {"batch": batch, "phonemes": phonemes, "frames": frames, "vary": vary},
        found["ours"],
        found["peer"],
        TARGET,
        others={
            f"{mine} / {theirs}": round(medians[mine] / medians[theirs], 3)
            for mine, theirs in (
                ("ours, nothing copied", "peer"),
                ("ours", "peer with durations"),
            )
        },
    )


def main() -> None:
    quick = arguments(__doc__).quick
    batch, phonemes, frames = (3, 5, 12) if quick else (16, 150, 500)
    for vary in (False, True):
        compare(batch, phonemes, frames, vary, repeats=1 if quick else 15)


if __name__ == "__main__":
    main()
