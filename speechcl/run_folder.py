"""The folder of one run: logs for people, JSON for machines, and what a resume needs."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from speechbrain.utils.distributed import if_main_process

from speechcl.results import (
    read_results,
    write_predictions,
    write_results,
    write_scores,
    write_text_atomically,
)

PACKAGES = ("speechcl", "torch", "torchaudio", "speechbrain", "numpy")


class RunFolder:
    """What a run writes: train_log.txt, events.jsonl, scores/ or predictions/, results.json, save/.

    Only the main process of several writes.

    Arguments
    ---------
    path : Path
        The folder; made if need be.

    Example
    -------
    >>> import tempfile
    >>> folder = RunFolder(Path(tempfile.mkdtemp()))
    >>> folder.event("task_start", task="lpc_noise")
    >>> json.loads((folder.path / "events.jsonl").read_text())["task"]
    'lpc_noise'
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.save = self.path / "save"
        self.is_main = if_main_process()
        if self.is_main:
            self.save.mkdir(parents=True, exist_ok=True)

    def event(self, event: str, **values: Any) -> None:
        """Append a line to events.jsonl."""
        if self.is_main:
            line = json.dumps({"time": round(time.time(), 3), "event": event, **values})
            self._append("events.jsonl", line + "\n")

    def epoch(self, task: str, stage: str, epoch: int, loss: float) -> None:
        """Note the mean loss of an epoch; the stage is ``train`` or ``valid``."""
        if self.is_main:
            line = f"task: {task}, epoch: {epoch} - {stage} loss: {loss:.4e}\n"
            self._append("train_log.txt", line)
        self.event("epoch", task=task, stage=stage, epoch=epoch, loss=loss)

    def _append(self, name: str, text: str) -> None:
        with (self.path / name).open("a", encoding="utf-8") as file:
            file.write(text)

    def progress(self) -> dict[str, Any]:
        """Return what is measured so far: matrix, zero_shot and train_seconds."""
        file = self.save / "progress.json"
        if not file.is_file():
            return {"matrix": [], "zero_shot": None, "train_seconds": []}
        return json.loads(file.read_text(encoding="utf-8"))

    def keep_progress(self, progress: dict[str, Any]) -> None:
        """Write the progress, exactly to the last bit."""
        if self.is_main:
            write_text_atomically(self.save / "progress.json", json.dumps(progress))

    def keep_scores(self, task_index: int, rows: Sequence[dict]) -> None:
        """Write scores/task_NN.csv, or predictions/task_NN.csv where classes were predicted."""
        if not self.is_main or not rows:
            return
        name = f"task_{task_index:02d}.csv"
        if "predicted" in rows[0]:
            write_predictions(self.path / "predictions" / name, rows)
        else:
            write_scores(self.path / "scores" / name, rows)

    def has_results(self) -> bool:
        """Whether the run has ended."""
        return (self.path / "results.json").is_file()

    def results(self) -> dict[str, Any]:
        """Read results.json."""
        return read_results(self.path / "results.json")

    def keep_results(self, results: dict[str, Any]) -> None:
        """Check and write results.json."""
        if self.is_main:
            write_results(self.path / "results.json", results)


def versions() -> dict[str, str]:
    """Return the versions that decide a run's numbers.

    Example
    -------
    >>> sorted(versions())[:2]
    ['numpy', 'python']
    """
    found = {name: _version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **found}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # run from its source folder
        return "not installed"


def peak_rss_mb() -> float:
    """Return the largest resident memory of this process so far, in megabytes.

    Example
    -------
    >>> peak_rss_mb() > 10
    True
    """
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)
