"""How fast do voices change on one model, and what does each hold of memory?

32 voices, LoRA of rank 4, on the convolutions of a random VITS decoder. Switching is timed on all
72 of them and set beside the bar of 1 ms. For the peer, peft where it is installed, both sides have
the 48 that it can adapt; timed are switching, adding a voice from its file, and removing one.
Adding includes hashing the base, to make sure that it is the one that the voice was made for.

Before a time is printed all voices are removed and the base must hash as before. What a voice holds
is the growth of a process of its own while 31 are added, next to the size of the file.
"""

import copy
import gc
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from timing import arguments, report, seconds
from vocoder import RANK, TARGETS, add_voice, undilated, vits

from speechcl.adapters import (
    activate,
    attach,
    base_fingerprint,
    extract,
    list_adapters,
    remove,
    save_peft,
)

try:
    from peft import PeftModel
    from peft import __version__ as peft_version
except ModuleNotFoundError:
    PeftModel = peft_version = None

VOICES, TARGET_SWITCH_S, TARGET_GROWTH = 32, 1e-3, 1.1


class Ours:
    """A model with one voice, kept in a file; ``layers`` says in how many convolutions."""

    def __init__(self, layers: int, folder: Path, quick: bool) -> None:
        self.model = vits(weight_norm=False, quick=quick)
        self.before = base_fingerprint(self.model)
        add_voice(self.model, "first", TARGETS if layers == 72 else undilated(self.model))
        self.file = folder / "voice.safetensors"
        extract(self.model, "first").save(self.file)
        if layers == 48:
            save_peft(self.model, folder / "peft", "first")

    def add(self, name: str) -> None:
        """Attach the voice once more."""
        attach(self.model, self.file, name)

    def switch(self, name: str) -> None:
        """Let one voice act."""
        activate(self.model, name)

    def remove(self, name: str) -> None:
        """Take one out."""
        remove(self.model, name)

    def check(self) -> None:
        """Remove every voice: the base must be as it was, byte for byte."""
        clean = copy.deepcopy(self.model)
        for voice in list_adapters(clean):
            remove(clean, voice.name)
        assert base_fingerprint(clean) == self.before, "the base has changed"


class Peft:
    """The same voice in peft, from the folder that we have written."""

    def __init__(self, folder: Path, quick: bool) -> None:
        self.file = folder / "peft" / "adapter_model.safetensors"
        model = vits(weight_norm=False, quick=quick)
        self.model = PeftModel.from_pretrained(model, self.file.parent, adapter_name="first").eval()

    def add(self, name: str) -> None:
        """Load the voice once more."""
        self.model.load_adapter(self.file.parent, name)

    def switch(self, name: str) -> None:
        """Let one voice act."""
        self.model.set_adapter(name, inference_mode=True)

    def remove(self, name: str) -> None:
        """Take one out."""
        self.model.delete_adapter(name)


def measured(sides: dict[str, Any], repeats: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of each thing to do, with 32 voices there, the sides in turn."""
    found: dict[str, dict[str, list[float]]] = {one: {} for one in ("switch", "add", "remove")}
    for side in sides.values():
        for voice in range(1, VOICES):
            side.add(f"voice{voice}")
    for repeat in range(repeats + 1):
        for name, side in sides.items():
            took = {
                "switch": seconds(lambda s=side, r=repeat: s.switch(f"voice{1 + r % 2}")),
                "add": seconds(lambda s=side: s.add("new")),
                "remove": seconds(lambda s=side: s.remove("new")),
            }
            side.switch("first")
            for thing, value in took.items():
                if repeat:  # the first round warms up
                    found[thing].setdefault(name, []).append(value)
    return found


def compare(quick: bool, folder: Path) -> None:
    """Time switching on all convolutions, and all there is to do on those that peft can adapt."""
    repeats = 1 if quick else 9
    ours = Ours(72, folder, quick)
    found = measured({"ours": ours}, repeats)
    ours.check()
    sizes = {"voices": VOICES, "rank": RANK}
    took, bar = found["switch"]["ours"], [TARGET_SWITCH_S]
    report("adapter_swap_72_switch", sizes | {"convolutions": 72}, took, bar, 1.0)
    ours = Ours(48, folder, quick)
    if PeftModel is None:
        print("peft is left out: it is not installed", file=sys.stderr)
        return
    found = measured({"ours": ours, "peft": Peft(folder, quick)}, repeats)
    ours.check()
    for thing, took in found.items():
        report(
            f"adapter_swap_48_{thing}_over_peft",
            sizes | {"convolutions": 48},
            took["ours"],
            took["peft"],
            None,
            peft=peft_version,
        )


def print_growth(side: str, folder: Path, quick: bool) -> None:
    """Add 31 voices; print what one adds to this process, and the size of its file."""
    model = Ours(72 if side == "ours_72" else 48, folder, quick)
    model = Peft(folder, quick) if side == "peft_48" else model
    model.add("voice1")
    before = resident_bytes()
    for voice in range(2, VOICES):
        model.add(f"voice{voice}")
    growth = (resident_bytes() - before) / (VOICES - 2)
    print(json.dumps({"bytes_a_voice": round(growth), "file_bytes": model.file.stat().st_size}))


def resident_bytes() -> int:
    gc.collect()
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


def compare_growth(quick: bool) -> None:
    """Ask a process for each side."""
    for side in ["ours_72", *(["ours_48", "peft_48"] if PeftModel else [])]:
        command = [sys.executable, __file__, "--growth", side, *(["--quick"] if quick else [])]
        # large blocks always go back to the system, else the figure hangs on the heap's layout
        environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
        run = subprocess.run(command, check=True, capture_output=True, env=environment)
        found = json.loads(run.stdout.splitlines()[-1])
        ratio = round(found["bytes_a_voice"] / found["file_bytes"], 3)
        target = TARGET_GROWTH if side == "ours_72" else None
        line = {"name": f"adapter_swap_growth_{side}", **found, "ratio": ratio, "target": target}
        print(json.dumps(line | {"met": None if target is None else ratio <= target}), flush=True)


def main() -> None:
    growth = sys.argv[sys.argv.index("--growth") + 1] if "--growth" in sys.argv else None
    if growth is not None:
        sys.argv = [sys.argv[0], *(["--quick"] if "--quick" in sys.argv else [])]
    quick = arguments(__doc__).quick
    with tempfile.TemporaryDirectory() as folder:
        if growth is not None:
            print_growth(growth, Path(folder), quick)
            return
        compare(quick, Path(folder))
    compare_growth(quick)


if __name__ == "__main__":
    main()
