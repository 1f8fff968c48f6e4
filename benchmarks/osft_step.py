"""What does it cost to train weights outside their largest singular directions?

A feed-forward block, 768 -> 3072 -> 768, half of each weight's rank protected: the forward pass
without gradients, and a training step with AdamW, projection included. The side to compare with is
the same block trained freely. ``ours`` is the dense mode; ``others`` holds the two other modes and,
where it is installed, peft's OSF. Their steps reach the same weights by different ways, so what is
asserted is that all start as the plain block and that none of ours leaks: after ten steps, at most
1e-5 of the change of a weight may lie in protected directions. ``leak`` says how much does.
"""

import copy
import statistics
import sys
from collections.abc import Callable
from functools import partial

import torch
from timing import arguments, interleaved, keep_freed_memory, report, seconds
from torch import Tensor, nn

from speechcl.adapters import SubspaceCore, insert
from speechcl.adapters.subspace import split
from speechcl.methods.osft import subspace_layers

try:
    from peft import OSFConfig, get_peft_model
    from peft import __version__ as peft_version
except ModuleNotFoundError:
    OSFConfig = get_peft_model = peft_version = None

MODES = ("dense", "core", "factored")
STEPS_BEFORE_LEAK, TOKENS_OF_LEAK, TOLERANCE, LEAK = 10, 64, 1e-4, 1e-5
LAYERS = ("0", "2")
FORWARD_TARGET = 1.02
# width, hidden width, tokens, target of the step
CASES = [(768, 3072, 400, 2.2), (768, 3072, 3200, 1.15)]


class Side:
    """A block, and how to train it."""

    def __init__(self, net: nn.Module, settle: bool = False) -> None:
        self.net = net
        self.layers = subspace_layers(net) if settle else []
        trained = [p for p in net.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0)

    def forward(self, x: Tensor) -> None:
        """Compute without gradients."""
        with torch.inference_mode():
            self.net(x)

    def step(self, x: Tensor, y: Tensor) -> None:
        """Train on one batch."""
        self.optimizer.zero_grad()
        nn.functional.mse_loss(self.net(x), y).backward()
        for layer in self.layers:
            layer.settle_gradient()
        self.optimizer.step()
        for layer in self.layers:
            layer.settle()


def block(width: int, hidden: int) -> nn.Module:
    """A feed-forward block."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


def ours(dense: nn.Module, mode: str) -> Side:
    """The block with half of its directions protected."""
    net = copy.deepcopy(dense)
    insert(net, SubspaceCore(0.5, mode=mode), "*")
    return Side(net, settle=True)


def in_peft(dense: nn.Module) -> Side:
    """The same in peft."""
    config = OSFConfig(target_modules=list(LAYERS), effective_rank=0.5)
    return Side(get_peft_model(copy.deepcopy(dense), config))


def change(side: Side, layer: str) -> Tensor:
    """By what a weight has changed."""
    if side.layers:
        return side.layers[LAYERS.index(layer)].change().detach()
    found = [m for path, m in side.net.named_modules() if path.endswith(f"model.{layer}")]
    return found[0].get_delta_weight("default").detach()


def leak(side: Side, dense: nn.Module) -> float:
    """The largest share of a change that lies in protected directions of either side."""
    worst = 0.0
    for layer in LAYERS:
        weight = dense.get_submodule(layer).weight
        cut = split(weight, min(weight.shape) // 2)
        moved = change(side, layer)
        for inside in (cut.u_high.mT @ moved, moved @ cut.v_high.mT):
            worst = max(worst, float(inside.norm() / moved.norm()))
    return worst


def check(sides: dict[str, Side], dense: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
    """Assert what must hold; return the leaks after some steps."""
    with torch.no_grad():
        expected = dense(x)
        for name, side in sides.items():
            difference = float((side.net(x) - expected).abs().max())
            assert difference <= TOLERANCE, f"{name} starts {difference} away from the plain block"
    for side in sides.values():
        for _ in range(STEPS_BEFORE_LEAK):
            side.step(x[:, :TOKENS_OF_LEAK], y[:, :TOKENS_OF_LEAK])
    leaks = {name: leak(side, dense) for name, side in sides.items() if name != "plain"}
    assert all(leaks[mode] <= LEAK for mode in MODES), leaks
    return {name: float(f"{value:.2g}") for name, value in leaks.items()}


def compare(width: int, hidden: int, tokens: int, target: float | None, repeats: int) -> None:
    """Assert, then time one size."""
    dense = block(width, hidden)
    x, y = torch.randn(1, tokens, width), torch.randn(1, tokens, width)
    sides = {"plain": Side(copy.deepcopy(dense)), **{mode: ours(dense, mode) for mode in MODES}}
    if get_peft_model is not None:
        sides["peft"] = in_peft(dense)
    leaks = check(sides, dense, x, y)
    works: dict[str, tuple[float | None, Callable[[Side], None]]] = {
        "forward": (FORWARD_TARGET if target else None, lambda side: side.forward(x)),
        "step": (target, lambda side: side.step(x, y)),
    }
    for work, (bar, do) in works.items():
        found = interleaved(
            {name: partial(seconds, partial(do, side)) for name, side in sides.items()}, repeats
        )
        plain = statistics.median(found["plain"])
        report(
            f"osft_{work}_{tokens}",
            {"width": width, "hidden": hidden, "tokens": tokens, "preserved": 0.5},
            found["dense"],
            found["plain"],
            bar,
            others={
                name: round(statistics.median(found[name]) / plain, 3)
                for name in sides
                if name not in ("plain", "dense")
            },
            leak=leaks,
            peft=peft_version,
        )


def main() -> None:
    quick = arguments(__doc__).quick
    keep_freed_memory()
    if get_peft_model is None:
        print("peft is left out: it is not installed", file=sys.stderr)
    for width, hidden, tokens, target in [(16, 32, 8, None)] if quick else CASES:
        compare(width, hidden, tokens, target, repeats=1 if quick else 9)


if __name__ == "__main__":
    main()
