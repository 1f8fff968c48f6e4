"""What does an unmerged LoRA add to the forward pass of linear layers?

Three linear layers, 768 -> 3072 -> 768 -> 768, all of them adapted (rank 8, alpha 16), without
gradients; also the width of small TTS models, and a single token, where all is Python. The side to
compare with is the same block without an adapter. The peer is peft, given the same factors, where
it is installed. ``floor_ratio`` counts multiplications: 1 + r (in + out) / (in out).

Before a ratio is printed, the output is compared with that of a block with the change merged.
"""

import copy
import statistics
import sys
import tempfile
from pathlib import Path

import torch
from timing import arguments, interleaved, report, seconds
from torch import Tensor, nn

from speechcl.adapters import LoRA, adapter_parameters, insert, merge, save_peft

try:
    from peft import PeftModel
    from peft import __version__ as peft_version
except ModuleNotFoundError:
    PeftModel = peft_version = None

RANK, ALPHA, TOLERANCE, TARGET = 8, 16, 1e-5, 1.08
# width, hidden width, tokens, calls timed at once, target
CASES = [(768, 3072, 400, 2, TARGET), (192, 768, 400, 20, None), (768, 3072, 1, 100, None)]


def block(width: int, hidden: int) -> nn.Module:
    """A feed-forward block and an output projection."""
    torch.manual_seed(0)
    layers = nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width), nn.Linear(width, width)
    return nn.Sequential(*layers).eval()


def adapted(net: nn.Module) -> nn.Module:
    """The same with a LoRA that does something."""
    net = copy.deepcopy(net)
    insert(net, LoRA(RANK, ALPHA), "*")
    with torch.no_grad():
        for parameter in adapter_parameters(net):
            parameter.normal_(std=0.1)
            parameter.requires_grad_(False)
    return net


def in_peft(dense: nn.Module, ours: nn.Module) -> nn.Module:
    """The same factors in peft."""
    with tempfile.TemporaryDirectory() as folder:
        save_peft(ours, Path(folder) / "lora")
        return PeftModel.from_pretrained(copy.deepcopy(dense), Path(folder) / "lora").eval()


def floor_ratio(net: nn.Module) -> float:
    """Multiplications with LoRA over those without."""
    shapes = [layer.weight.shape for layer in net if isinstance(layer, nn.Linear)]
    plain = sum(rows * columns for rows, columns in shapes)
    return 1 + sum(RANK * (rows + columns) for rows, columns in shapes) / plain


def compare(width: int, hidden: int, tokens: int, times: int, target: float | None) -> None:
    """Assert equality, then time one size."""
    x = torch.randn(1, tokens, width)
    dense = block(width, hidden).requires_grad_(False)
    sides = {"dense": dense, "ours": adapted(dense)}
    if PeftModel is not None:
        sides["peft"] = in_peft(dense, sides["ours"])
    merged = copy.deepcopy(sides["ours"])
    merge(merged)
    differences = {name: difference(sides[name], merged, x) for name in sides if name != "dense"}
    assert all(one <= TOLERANCE for one in differences.values()), differences
    assert difference(sides["ours"], dense, x) > 1e-2, "the adapter does nothing"

    def side(net: nn.Module) -> float:
        with torch.inference_mode():
            return seconds(lambda: net(x), times)

    repeats = 2 if times == 1 else 15
    found = interleaved({name: lambda net=net: side(net) for name, net in sides.items()}, repeats)
    more = {}
    if "peft" in found:
        theirs = statistics.median(found["peft"])
        more = {
            "peft_over_dense": round(theirs / statistics.median(found["dense"]), 4),
            "ours_over_peft": round(statistics.median(found["ours"]) / theirs, 4),
            "peft": peft_version,
        }
    report(
        f"adapter_forward_{width}_{tokens}",
        {"width": width, "hidden": hidden, "tokens": tokens, "rank": RANK},
        found["ours"],
        found["dense"],
        target,
        floor_ratio=round(floor_ratio(dense), 4),
        largest_difference=max(differences.values()),
        **more,
    )


def difference(a: nn.Module, b: nn.Module, x: Tensor) -> float:
    """The largest difference, next to the largest output."""
    with torch.inference_mode():
        expected = b(x)
        return float((a(x) - expected).abs().max() / expected.abs().max())


def main() -> None:
    quick = arguments(__doc__).quick
    if PeftModel is None:
        print("peft is left out: it is not installed", file=sys.stderr)
    for width, hidden, tokens, times, target in [(16, 32, 4, 1, None)] if quick else CASES:
        compare(width, hidden, tokens, times, target)


if __name__ == "__main__":
    main()
