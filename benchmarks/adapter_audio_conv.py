"""What does a voice cost in the convolutions of a vocoder, unmerged?

A LoRA of rank 4 on all 72 convolutions in the residual blocks of a random VITS decoder (three
dilations), 128 frames, with weight normalisation and without. The side to compare with is the
decoder without a voice. peft, where it is installed, gets the same factors on the 48 convolutions
that it can adapt, and so do we once more; what it does with the other 24 is a line of its own.

Before a ratio is printed: merged equals unmerged, and after removal the base hashes as before.
``first_after_switch_s`` is what the first synthesis takes longer than the next ones.
"""

import copy
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from timing import arguments, interleaved, report, seconds
from torch import nn
from vocoder import CONVOLUTIONS, FRAMES, RANK, TARGETS, add_voice, spectrum, undilated, vits

from speechcl.adapters import (
    activate,
    attach,
    base_fingerprint,
    extract,
    merge,
    remove,
    save_peft,
)

try:
    from peft import LoraConfig, PeftModel, get_peft_model
    from peft import __version__ as peft_version
except ModuleNotFoundError:
    PeftModel = peft_version = None

TOLERANCE = 1e-5
TARGET, TARGET_FILE_MB = 1.02, {"fp32": 1.0, "fp16": 0.5}


def synthesis(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    with torch.inference_mode():
        return model.decoder(*inputs)


def relative_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Of the waveforms' energy: single samples magnify rounding, as one ulp of each weight does."""
    return float((a - b).norm() / b.norm())


def check(model: nn.Module, inputs: tuple[torch.Tensor, ...], before: str) -> dict[str, float]:
    """Assert that merged equals unmerged and that removal is exact; return size and difference."""
    given, state = synthesis(model, inputs), extract(model, "voice")
    merged = copy.deepcopy(model)
    merge(merged, "voice")
    difference = relative_difference(synthesis(merged, inputs), given)
    assert difference <= TOLERANCE, difference
    remove(model, "voice")
    assert base_fingerprint(model) == before, "the base has changed"
    assert relative_difference(synthesis(model, inputs), given) > 0.01, "the voice does nothing"
    attach(model, state, "voice")
    with tempfile.TemporaryDirectory() as folder:
        sizes = {}
        for name, dtype in (("fp32", torch.float32), ("fp16", torch.float16)):
            file = Path(folder) / name
            state.save(file, dtype)
            sizes[f"file_{name}_mb"] = round(file.stat().st_size / 1e6, 3)
    return {"relative_difference": difference, **sizes}


def first_after_switch_s(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> float:
    """How much longer the first synthesis takes, as the smallest of several."""

    def once() -> float:
        start = time.process_time()
        synthesis(model, inputs)
        return time.process_time() - start

    firsts, nexts = [], []
    for _ in range(5):
        activate(model, None)
        activate(model, "voice")
        firsts.append(once())
        nexts.append(once())
    return round(min(firsts) - min(nexts), 4)


def compare(weight_norm: bool, quick: bool) -> None:
    """All 72 convolutions, with weight normalisation or without."""
    dense = vits(weight_norm, quick)
    inputs = spectrum(dense, 4 if quick else FRAMES)
    ours = copy.deepcopy(dense)
    before = base_fingerprint(ours)
    add_voice(ours, "voice", TARGETS)
    more = check(ours, inputs, before)
    found = interleaved(
        {
            "ours": lambda: seconds(lambda: synthesis(ours, inputs)),
            "dense": lambda: seconds(lambda: synthesis(dense, inputs)),
        },
        repeats=1 if quick else 9,
    )
    report(
        "adapter_audio_conv" + ("_weight_norm" if weight_norm else ""),
        {"convolutions": CONVOLUTIONS, "rank": RANK, "frames": inputs[0].shape[-1]},
        found["ours"],
        found["dense"],
        TARGET,
        first_after_switch_s=first_after_switch_s(ours, inputs),
        target_file_mb=TARGET_FILE_MB,
        **more,
    )


def compare_peft(quick: bool) -> None:
    """The 48 convolutions that peft can adapt, plain weights."""
    dense = vits(weight_norm=False, quick=quick)
    inputs = spectrum(dense, 4 if quick else FRAMES)
    ours = copy.deepcopy(dense)
    add_voice(ours, "voice", undilated(dense))
    with tempfile.TemporaryDirectory() as folder:
        save_peft(ours, Path(folder) / "lora", "voice")
        theirs = PeftModel.from_pretrained(copy.deepcopy(dense), Path(folder) / "lora").eval()
    base = theirs.get_base_model()
    difference = relative_difference(synthesis(ours, inputs), synthesis(base, inputs))
    assert difference <= TOLERANCE, difference
    sides = {"ours": ours, "peft": base, "dense": dense}
    found = interleaved(
        {name: lambda m=m: seconds(lambda: synthesis(m, inputs)) for name, m in sides.items()},
        repeats=1 if quick else 9,
    )
    plain = statistics.median(found["dense"])
    report(
        "adapter_audio_conv_48_over_peft",
        {"convolutions": len(undilated(dense)), "rank": RANK, "frames": inputs[0].shape[-1]},
        found["ours"],
        found["peft"],
        None,
        ours_over_dense=round(statistics.median(found["ours"]) / plain, 4),
        peft_over_dense=round(statistics.median(found["peft"]) / plain, 4),
        relative_difference=difference,
        peft=peft_version,
    )


def tell_what_peft_cannot() -> None:
    """Say what becomes of dilated and of weight-normed convolutions in peft."""
    model = vits(weight_norm=False, quick=True)
    inputs = spectrum(model, 4)
    config = LoraConfig(r=RANK, target_modules=r".*resblocks\.\d+\.convs[12]\.\d+")
    try:
        get_peft_model(copy.deepcopy(model), config).get_base_model().decoder(*inputs)
        print("peft adapts dilated convolutions", file=sys.stderr)
    except RuntimeError as error:
        print(f"peft, dilated convolutions: {str(error).splitlines()[0]}", file=sys.stderr)
    normed = vits(weight_norm=True, quick=True)
    config = LoraConfig(r=RANK, target_modules=undilated(normed), init_lora_weights=False)
    before = synthesis(normed, inputs)
    theirs = get_peft_model(copy.deepcopy(normed), config).eval()
    unmerged = synthesis(theirs.get_base_model(), inputs)
    merged = synthesis(theirs.merge_and_unload(), inputs)
    print(
        "peft, weight-normed convolutions: a merged voice differs from the base by "
        f"{float((merged - before).abs().max()):.3g}, an unmerged one by "
        f"{float((unmerged - before).abs().max()):.3g}",
        file=sys.stderr,
    )


def main() -> None:
    quick = arguments(__doc__).quick
    for weight_norm in (True, False):
        compare(weight_norm, quick)
    if PeftModel is None:
        print("peft is left out: it is not installed", file=sys.stderr)
        return
    compare_peft(quick)
    tell_what_peft_cannot()


if __name__ == "__main__":
    main()
