"""What does a view of a batch cost, next to the same view of one item after another?

The ready sets for images, spectrograms and waveforms, 64 items at a time. ``ours_us`` and
``peer_us`` are microseconds an item. What is drawn differs between the sides, since one draws for
all items and the other item by item; before anything is timed the share of items that come out
changed and the mean change are asserted to agree over many batches.
"""

import statistics
from collections.abc import Callable
from functools import partial

import torch
from timing import arguments, interleaved, keep_freed_memory, report, seconds
from torch import Tensor

from speechcl.views import (
    Views,
    as_float,
    image_views,
    spectrogram_views,
    strong_image_views,
    waveform_views,
)

BATCH, RATE_HZ = 64, 16000
AGREEMENT = 0.05  # of means over 640 items or more

Side = Callable[[Tensor, torch.Generator], Tensor]


def batches(quick: bool) -> dict[str, tuple[Views, Tensor]]:
    """Ready sets and what they are for: small images, a second of speech."""
    samples = RATE_HZ // 16 if quick else RATE_HZ
    images = torch.randint(256, (BATCH, 3, 32, 32), dtype=torch.uint8)
    return {
        "image_views": (image_views(), images),
        "strong_image_views": (strong_image_views(), images),
        "spectrogram_views": (spectrogram_views(), torch.randn(BATCH, 101, 40)),
        "waveform_views": (waveform_views(RATE_HZ), 0.1 * torch.randn(BATCH, samples)),
    }


def one_by_one(views: Views, features: Tensor, draws: torch.Generator) -> Tensor:
    """View items alone and put them together."""
    return torch.cat([views(item, draws) for item in features.split(1)])


def change(side: Side, features: Tensor, rounds: int) -> Tensor:
    """Return the share of items that are changed and the mean change of a number."""
    draws = torch.Generator().manual_seed(0)
    apart = [(side(features, draws) - as_float(features)).abs().flatten(1) for _ in range(rounds)]
    every = torch.cat(apart)
    return torch.stack([every.amax(1).gt(0).float().mean(), every.mean()])


def compare(name: str, views: Views, features: Tensor, quick: bool) -> None:
    """Assert that both sides change items alike, then time them."""
    sides: dict[str, Side] = {"ours": views, "peer": partial(one_by_one, views)}
    ours, peer = (change(side, features, rounds=10) for side in sides.values())
    apart = float((ours / peer - 1).abs().max())
    assert apart <= AGREEMENT, f"{name}: the two sides change items by {apart} differently"
    draws = torch.Generator().manual_seed(1)
    works = {
        side: partial(seconds, partial(view, features, draws), 1 if quick else 20)
        for side, view in sides.items()
    }
    found = interleaved(works, 1 if quick else 9)
    an_item_us = {
        f"{side}_us": round(1e6 * statistics.median(took) / BATCH, 1)
        for side, took in found.items()
    }
    report(
        f"views: {name}",
        {"batch": BATCH, "item": list(features.shape[1:])},
        found["ours"],
        found["peer"],
        None,
        **an_item_us,
    )


def main() -> None:
    quick = arguments(__doc__).quick
    keep_freed_memory()
    for name, (views, features) in batches(quick).items():
        compare(name, views, features, quick)


if __name__ == "__main__":
    main()
