"""Runs side by side in one HTML file that needs no network and no script."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from speechcl.reports.plots import DetPlot, axis_ticks, det_plot
from speechcl.reports.summary import Run, ScoreStyle, SummaryRow, load_runs, summary_rows
from speechcl.reports.wording import describe_method, is_method
from speechcl.results import read_scores, write_text_atomically

MAX_CLIPS = 6
MAX_CLIP_S = 6
MAX_RATE_HZ = 16_000


def render_report(
    run_folders: Sequence[Path | str], output: Path | str, title: str | None = None
) -> Path:
    """Write a self-contained HTML page that compares runs; seeds of a method are averaged.

    Arguments
    ---------
    run_folders : sequence of Path
        Folders that hold a ``results.json`` and, for curves, ``scores/task_NN.csv``.
    output : Path
        HTML file to write.
    title : str, optional
        Heading of the page.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        If a run has no valid ``results.json``, a scores file is broken, or the runs' metrics
        differ.

    Example
    -------
    >>> render_report(["nowhere"], "report.html")
    Traceback (most recent call last):
    ValueError: nowhere/results.json: no such file; has the run ended?
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    runs = load_runs(run_folders)
    environment = Environment(
        loader=PackageLoader("speechcl", "reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(duration=_duration, kilobytes=_kilobytes, count=_count)
    page = environment.get_template("report.html.jinja").render(
        _content(runs, title or "Continual learning report")
    )
    return write_text_atomically(output, page)


def _content(runs: Sequence[Run], title: str) -> dict[str, Any]:
    rows = summary_rows(runs)
    style = ScoreStyle.of(rows)
    joint = next((row for row in rows if is_method(row.method, "joint")), None)
    # Joint training sees all data at once: what it reaches bounds the others, it does not compete.
    continual = [row for row in rows if not is_method(row.method, "joint")] or rows
    ranked = sorted(continual, key=lambda row: row.average, reverse=style.higher_is_better)
    return {
        "title": title,
        "rows": rows,
        "runs": runs,
        "style": style,
        "recipes": list(dict.fromkeys(row.recipe for row in rows)),
        "streams": _streams(rows),
        "tasks": list(dict.fromkeys(name for row in rows for name in row.tasks)),
        "notes": list(dict.fromkeys(note for run in runs for note in run.results.get("notes", []))),
        "forward": any(row.forward_transfer is not None for row in rows),
        "online": any(row.anytime is not None for row in rows),
        "continual": continual,
        "joint": None if joint in continual else joint,
        "lead": ranked[0],
        "trail": ranked[-1],
        "forgetting": sorted(
            (row for row in continual if row.forgetting is not None and len(row.tasks) > 1),
            key=lambda row: row.forgetting,
        ),
        "compared": next((row.difference.baseline for row in rows if row.difference), None),
        "bars": _bars(rows, style),
        "maps": _maps(rows),
        "panels": _panels(rows, style),
        "det": _det(rows),
        "clips": _clips(runs),
        "explained": _explained(rows),
        "versions": _versions(runs),
    }


def _streams(rows: Sequence[SummaryRow]) -> list[dict[str, Any]]:
    """Each order of tasks once, with its sizes and the methods that learnt it."""
    streams = []
    for stream in dict.fromkeys(order.stream for row in rows for order in row.orders):
        members = [(row, run) for row in rows for run in row.runs if _stream(run) == stream]
        results = members[0][1].results
        sizes = [results.get(key, [{}] * len(stream)) for key in ("train_sizes", "test_sizes")]
        streams.append(
            {
                "tasks": list(zip(stream, *sizes, strict=True)),
                "methods": list(dict.fromkeys(row.label for row, _ in members)),
            }
        )
    return streams


def _maps(rows: Sequence[SummaryRow]) -> list[dict[str, Any]]:
    """A score matrix for every method and order."""
    streams = list(dict.fromkeys(order.stream for row in rows for order in row.orders))
    return [
        {
            "row": row,
            "colour": index,
            "order": order,
            "number": streams.index(order.stream) + 1 if len(streams) > 1 else None,
        }
        for index, row in enumerate(rows)
        for order in row.orders
    ]


def _stream(run: Run) -> tuple[str, ...]:
    return tuple(run.results["stream"])


def _bars(rows: Sequence[SummaryRow], style: ScoreStyle) -> dict[str, Any]:
    """Average score per method as shares of a common axis."""
    tops = [max(*row.averages, row.interval[1] if row.interval else 0.0) for row in rows]
    axis = _Axis(max(tops))
    return {
        "ticks": axis.ticks(style, wanted=5),
        "rows": [
            {
                "row": row,
                "at": axis.place(row.average),
                "interval": [axis.place(end) for end in row.interval] if row.interval else None,
                "seeds": [axis.place(value) for value in row.averages],
            }
            for row in rows
        ],
    }


def _panels(rows: Sequence[SummaryRow], style: ScoreStyle) -> list[dict[str, Any]]:
    """Score of every task when just learnt and at the end, as shares of a common axis."""
    scores = np.concatenate([[*row.final.values(), *row.learnt.values()] for row in rows])
    axis = _Axis(float(np.nanmax(scores)))
    panels = []
    for task in dict.fromkeys(name for row in rows for name in row.tasks):
        lines = []
        for index, row in enumerate(rows):
            if task not in row.final:
                continue
            learnt, final = row.learnt[task], row.final[task]
            lines.append(
                {
                    "row": row,
                    "colour": index,
                    "learnt": None if np.isnan(learnt) else learnt,
                    "final": final,
                    "learnt_at": None if np.isnan(learnt) else axis.place(learnt),
                    "final_at": axis.place(final),
                }
            )
        panels.append({"task": task, "lines": lines, "ticks": axis.ticks(style, wanted=3)})
    return panels


class _Axis:
    """A linear axis from 0, in percent of its length."""

    def __init__(self, high: float):
        self.high = 1.04 * high if high > 0 else 1.0

    def place(self, value: float) -> float:
        return round(min(max(100.0 * value / self.high, 0.0), 100.0), 2)

    def ticks(self, style: ScoreStyle, wanted: int) -> list[tuple[str, float]]:
        values = axis_ticks(self.high, wanted)
        return [(f"{value:g}{style.unit}", self.place(value)) for value in values]


def _det(rows: Sequence[SummaryRow]) -> dict[str, Any] | None:
    """Curves of each method's final model, all tests pooled, for its first run with scores."""
    shown, detectors = [], []
    for index, row in enumerate(rows):
        name = f"task_{len(row.tasks) - 1:02d}.csv"
        files = [(run, run.folder / "scores" / name) for run in row.runs]
        for run, file in files:
            if file.is_file():
                detectors.append(_classes(file))
                shown.append({"row": row, "colour": index, "seed": run.results["seed"]})
                break
    if not detectors:
        return None
    plot: DetPlot = det_plot(detectors)
    return {"plot": plot, "curves": list(zip(shown, plot.curves, strict=True))}


def _classes(file: Path):
    scores = read_scores(file)
    pair = tuple(scores["score"][scores["label"] == label] for label in ("bonafide", "spoof"))
    if not all(part.size for part in pair):
        raise ValueError(f"{file}: needs scores of both bonafide and spoofed clips")
    if np.ptp(scores["score"]) == 0:
        raise ValueError(f"{file}: all scores are equal, the detector separates nothing")
    return pair


def _clips(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """A few clips of the first run that names some, or left some while it was trained."""
    for run in runs:
        examples = run.results.get("examples") or _from_training(run.folder)
        if examples:
            return [
                {
                    "title": example["title"],
                    "wav": _playable(run.folder / example["wav"]),
                    "picture": _picture((run.folder / example["wav"]).with_suffix(".png")),
                }
                for example in examples[:MAX_CLIPS]
            ]
    return []


def _from_training(folder: Path) -> list[dict[str, str]]:
    """Examples of some epochs, the first and the last among them."""
    names = sorted(file.name for file in (folder / "examples").glob("epoch_*.wav"))
    places = np.linspace(0, len(names) - 1, min(len(names), MAX_CLIPS)).round().astype(int)
    return [
        {
            "title": f"after epoch {names[place][len('epoch_') : -len('.wav')].lstrip('0')}",
            "wav": f"examples/{names[place]}",
        }
        for place in places
    ]


def _picture(file: Path) -> str | None:
    return base64.b64encode(file.read_bytes()).decode("ascii") if file.is_file() else None


def _playable(file: Path) -> str | None:
    """Return the start of a clip as base64 WAV, mono and 16 bit; None if it cannot be read."""
    import soundfile

    try:
        with soundfile.SoundFile(file) as sound:
            samples = sound.read(MAX_CLIP_S * sound.samplerate, dtype="float32", always_2d=True)
            rate_hz = sound.samplerate
    except (OSError, soundfile.SoundFileError):
        return None
    mono = samples.mean(axis=1)
    if rate_hz > MAX_RATE_HZ:
        from scipy.signal import resample_poly

        mono, rate_hz = resample_poly(mono, MAX_RATE_HZ, rate_hz), MAX_RATE_HZ
    buffer = io.BytesIO()
    soundfile.write(buffer, mono, rate_hz, format="WAV", subtype="PCM_16")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _explained(rows: Sequence[SummaryRow]) -> dict[str, list[str]]:
    """Each description once, with the methods that it fits."""
    explained: dict[str, list[str]] = {}
    for row in rows:
        text = describe_method(row.method)
        if text is not None:
            explained.setdefault(text, []).append(row.label)
    return explained


def _versions(runs: Sequence[Run]) -> list[tuple[str, int]]:
    """Distinct sets of package versions and how many runs used each."""
    texts = [
        ", ".join(f"{name} {version}" for name, version in sorted(run.results["versions"].items()))
        for run in runs
    ]
    return [(text, texts.count(text)) for text in dict.fromkeys(texts)]


def _duration(seconds: float) -> str:
    if seconds < 99.5:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5970 else f"{seconds / 3600:.1f} h"


def _kilobytes(size_bytes: float) -> str:
    kilobytes = size_bytes / 1000
    return f"{kilobytes:,.0f}" if kilobytes >= 10 or kilobytes == 0 else f"{kilobytes:.1f}"


def _count(number: float) -> str:
    return f"{number:,.0f}"
