"""What does each adapter cost, next to LoRA?

A feed-forward block, 768 -> 3072 -> 768, both layers adapted, 400 tokens: the forward pass without
gradients, and forward and backward as in training. ``step`` and ``forward`` are medians over those
of LoRA; the side to compare LoRA with is the block itself, all of its weights trained.
``memory_mb`` is what a process of its own holds at most in ten steps with AdamW, beside a block and
its input; another copy of the block, 18 MB, is in it.

All kinds have about the same number of weights to train, but for OSFT's, which grows with the
layer. Before anything is timed each fresh adapter is asserted to leave the output as it is.
"""

import copy
import json
import os
import statistics
import subprocess
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
from timing import arguments, interleaved, keep_freed_memory, report, seconds
from torch import Tensor, nn

from speechcl.adapters import (
    Adapter,
    Bottleneck,
    LoRA,
    MixtureOfRanks,
    RankSelectiveLoRA,
    RetrievedBank,
    SubspaceCore,
    insert,
    slot_weights,
)

BATCH, STEPS, TOLERANCE = 4, 10, 1e-4
KINDS: dict[str, Adapter] = {
    "LoRA": LoRA(rank=16),
    "RankSelectiveLoRA": RankSelectiveLoRA(rank=16),
    "MixtureOfRanks": MixtureOfRanks(rank=16, active=4),
    "RetrievedBank": RetrievedBank(slots=4, rank=4),
    "Bottleneck": Bottleneck(units=32),
    "SubspaceCore, core": SubspaceCore(0.5, mode="core"),
    "SubspaceCore, dense": SubspaceCore(0.5, mode="dense"),
    "SubspaceCore, factored": SubspaceCore(0.5, mode="factored"),
}


class Side:
    """A block with one kind of adapter, or the plain block."""

    def __init__(self, dense: nn.Module, kind: str) -> None:
        self.net, self.kind = copy.deepcopy(dense), kind
        if kind != "plain":
            insert(self.net, KINDS[kind], "*")
        self.trained = [p for p in self.net.parameters() if p.requires_grad]

    def call(self, x: Tensor) -> Tensor:
        """Compute the block, with slot weights where the kind wants them."""
        with ExitStack() as stack:
            if self.kind == "RetrievedBank":
                stack.enter_context(slot_weights(self.net, torch.full((len(x), 4), 0.25)))
            return self.net(x)

    def forward(self, x: Tensor) -> None:
        """Compute without gradients."""
        with torch.inference_mode():
            self.call(x)

    def step(self, x: Tensor) -> None:
        """Compute forward and backward."""
        for parameter in self.trained:
            parameter.grad = None
        self.call(x).square().mean().backward()


def block(width: int, hidden: int) -> nn.Module:
    """A feed-forward block."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


def sizes(quick: bool) -> tuple[int, int, int]:
    return (32, 64, 5) if quick else (768, 3072, 100)


def print_peak(kind: str, quick: bool) -> None:
    """Train for some steps in this process; print what it held at most above the base, in MB."""
    width, hidden, tokens = sizes(quick)
    dense, x = block(width, hidden), torch.randn(BATCH, tokens, width)
    train(Side(dense, "plain"), x)  # PyTorch sets itself up
    before = status_mb("VmRSS")
    side = Side(dense, kind)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of cutting weights in two
    train(side, x)
    print(json.dumps(status_mb("VmHWM") - before))


def train(side: Side, x: Tensor) -> None:
    """Train for some steps."""
    optimizer = torch.optim.AdamW(side.trained, lr=1e-3)
    for _ in range(STEPS):
        side.step(x)
        optimizer.step()


def status_mb(field: str) -> float:
    """Read a figure of this process from Linux."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) / 1024


def peak_mb(kind: str, quick: bool) -> float:
    """Ask a process of its own."""
    command = [sys.executable, __file__, "--peak", kind, *(["--quick"] if quick else [])]
    # large blocks always go back to the system, else the figure hangs on the heap's layout
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    run = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return float(run.stdout.splitlines()[-1])


def compare(quick: bool) -> None:
    """Assert that fresh adapters change nothing, then time them and ask for their memory."""
    width, hidden, tokens = sizes(quick)
    dense, x = block(width, hidden), torch.randn(BATCH, tokens, width)
    sides = {kind: Side(dense, kind) for kind in ["plain", *KINDS]}
    with torch.no_grad():
        expected = dense(x)
        for kind, side in sides.items():
            away = float((side.call(x) - expected).abs().max())
            assert away <= TOLERANCE, f"a fresh {kind} is {away} away from the plain block"
    repeats = 1 if quick else 9
    works = {"forward": Side.forward, "step": Side.step}
    found = {
        work: interleaved(
            {kind: partial(seconds, partial(do, side, x)) for kind, side in sides.items()}, repeats
        )
        for work, do in works.items()
    }
    for kind in KINDS:
        ratios = {
            work: round(statistics.median(took[kind]) / statistics.median(took["LoRA"]), 3)
            for work, took in found.items()
        }
        report(
            f"adapter_kinds: {kind}",
            {"width": width, "hidden": hidden, "tokens": BATCH * tokens},
            found["step"][kind],
            found["step"]["plain"],
            None,
            over_lora=ratios,
            trained=sum(p.numel() for p in sides[kind].trained),
            memory_mb=round(peak_mb(kind, quick), 1),
        )


def main() -> None:
    kind = sys.argv[sys.argv.index("--peak") + 1] if "--peak" in sys.argv else None
    if kind is not None:
        sys.argv = [sys.argv[0], *(["--quick"] if "--quick" in sys.argv else [])]
    quick = arguments(__doc__).quick
    if kind is not None:
        print_peak(kind, quick)
        return
    keep_freed_memory()
    compare(quick)


if __name__ == "__main__":
    main()
