"""The figures that a comparison of runs shows, with the seeds of a method taken together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechcl.results import read_results


@dataclass(frozen=True)
class Run:
    """A finished run: its folder and the content of its ``results.json``."""

    folder: Path
    results: dict[str, Any]


@dataclass(frozen=True, eq=False)
class SummaryRow:
    """One method averaged over its seeds; None where nothing was measured."""

    label: str
    method: str
    recipe: str
    stream: tuple[str, ...]
    runs: tuple[Run, ...]
    matrix: NDArray[np.float64]
    zero_shot: NDArray[np.float64] | None
    average: float
    average_std: float | None
    interval: tuple[float, float] | None
    forgetting: float | None
    just_learnt: float | None
    forward_transfer: float | None
    trainable_parameters: float
    memory_bytes: float
    train_s: float
    peak_rss_mb: float | None

    @property
    def averages(self) -> list[float]:
        """The average score of every run."""
        return [run.results["summary"]["average"] for run in self.runs]

    @property
    def final(self) -> dict[str, float]:
        """Score of every task after the last one was learnt."""
        return dict(zip(self.stream, self.matrix[-1].tolist(), strict=True))

    @property
    def learnt(self) -> dict[str, float]:
        """Score of every task just after it was learnt."""
        return dict(zip(self.stream, np.diagonal(self.matrix).tolist(), strict=True))


def load_runs(run_folders: Sequence[Path | str]) -> list[Run]:
    """Read the results of run folders that can be compared with each other.

    Arguments
    ---------
    run_folders : sequence of Path
        Folders that hold a ``results.json``.

    Returns
    -------
    list of Run

    Raises
    ------
    ValueError
        If there is no folder, one has no valid ``results.json``, or their metrics differ.

    Example
    -------
    >>> load_runs(["nowhere"])
    Traceback (most recent call last):
    ValueError: nowhere/results.json: no such file; has the run ended?
    """
    runs = [Run(Path(f), read_results(Path(f) / "results.json")) for f in run_folders]
    if not runs:
        raise ValueError("no run to report on: give at least one run folder")
    kinds = [(run.results["metric"], run.results["higher_is_better"]) for run in runs]
    for run, kind in zip(runs, kinds, strict=True):
        if kind != kinds[0]:
            raise ValueError(
                f"{run.folder}: its metric is {kind[0]} but that of {runs[0].folder} is "
                f"{kinds[0][0]}; report on them separately"
            )
    return runs


def summary_rows(runs: Sequence[Run | Path | str]) -> list[SummaryRow]:
    """Group runs by method, recipe and stream, and average each group over its seeds.

    Arguments
    ---------
    runs : sequence of Run or Path
        Runs from ``load_runs``, or run folders.

    Returns
    -------
    list of SummaryRow
        In the order in which the methods first appear.

    Raises
    ------
    ValueError
        As ``load_runs``.

    Example
    -------
    >>> summary_rows([])
    Traceback (most recent call last):
    ValueError: no run to report on: give at least one run folder
    """
    loaded = [run for run in runs if isinstance(run, Run)]
    if len(loaded) < len(runs) or not runs:
        loaded = load_runs([run.folder if isinstance(run, Run) else run for run in runs])
    groups: dict[tuple, list[Run]] = {}
    for run in loaded:
        name = run.results.get("method_label", run.results["method"])
        key = (name, run.results["recipe"], tuple(run.results["stream"]))
        groups.setdefault(key, []).append(run)
    labels = _distinct_labels(list(groups))
    return [_row(label, key[1], key[2], tuple(groups[key])) for key, label in labels.items()]


def _distinct_labels(keys: list[tuple]) -> dict[tuple, str]:
    """Tell methods of equal name apart by what differs: the recipe, the order of the stream."""
    streams = list(dict.fromkeys(key[2] for key in keys))
    labels = {}
    for key in keys:
        twins = [other for other in keys if other[0] == key[0]]
        details = []
        if len({twin[1] for twin in twins}) > 1:
            details.append(key[1])
        if len({twin[2] for twin in twins}) > 1:
            details.append(f"order {streams.index(key[2]) + 1}")
        labels[key] = f"{key[0]} ({', '.join(details)})" if details else key[0]
    return labels


def _row(label: str, recipe: str, stream: tuple[str, ...], runs: tuple[Run, ...]) -> SummaryRow:
    results = [run.results for run in runs]
    averages = [one["summary"]["average"] for one in results]
    intervals = [one["average_interval"] for one in results if one.get("average_interval")]
    untrained = [one["zero_shot"] for one in results if one.get("zero_shot")]
    matrix = _mean_scores([one["matrix"] for one in results])
    learnt = np.diagonal(matrix)
    return SummaryRow(
        label=label,
        method=results[0]["method"],
        recipe=recipe,
        stream=stream,
        runs=runs,
        matrix=matrix,
        zero_shot=_mean_scores(untrained) if untrained else None,
        average=fmean(averages),
        average_std=stdev(averages) if len(averages) > 1 else None,
        interval=(fmean(i[0] for i in intervals), fmean(i[1] for i in intervals))
        if intervals
        else None,
        forgetting=_mean(one["summary"]["forgetting"] for one in results),
        just_learnt=float(learnt.mean()) if np.isfinite(learnt).all() else None,
        forward_transfer=_mean(one["summary"]["forward_transfer"] for one in results),
        trainable_parameters=fmean(one["trainable_parameters"] for one in results),
        memory_bytes=fmean(one["memory_bytes"] for one in results),
        train_s=fmean(sum(one["train_seconds"]) for one in results),
        peak_rss_mb=_mean(one["peak_rss_mb"] for one in results),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _mean_scores(scores: list) -> NDArray[np.float64]:
    """Average over seeds; NaN where no seed was evaluated."""
    stack = np.ma.masked_invalid(np.array(scores, dtype=np.float64))
    return np.ma.filled(stack.mean(axis=0), np.nan)


def summary_table(run_folders: Sequence[Path | str]) -> str:
    """Lay the comparison of runs out as plain text for a terminal.

    Arguments
    ---------
    run_folders : sequence of Path
        Folders that hold a ``results.json``.

    Returns
    -------
    str
        One line per method.

    Raises
    ------
    ValueError
        As ``load_runs``.

    Example
    -------
    >>> summary_table(["nowhere"])
    Traceback (most recent call last):
    ValueError: nowhere/results.json: no such file; has the run ended?
    """
    rows = summary_rows(run_folders)
    tasks = list(dict.fromkeys(name for row in rows for name in row.stream))
    style = ScoreStyle.of(rows)
    table = [["method", "runs", "average", "forgetting", "just learnt", *tasks]]
    for row in rows:
        average = style.number(row.average)
        if row.average_std is not None:
            average += f" ± {style.number(row.average_std)}"
        final = [style.number(row.final.get(task)) for task in tasks]
        figures = [style.signed(row.forgetting), style.number(row.just_learnt), *final]
        table.append([row.label, str(len(row.runs)), average, *figures])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [_aligned(cells, widths) for cells in table]
    rule = "  ".join("-" * width for width in widths)
    return "\n".join([lines[0], rule, *lines[1:]])


def _aligned(cells: list[str], widths: list[int]) -> str:
    first, *others = zip(cells, widths, strict=True)
    return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)])


@dataclass(frozen=True)
class ScoreStyle:
    """How scores of one metric are written and placed on an axis."""

    name: str
    unit: str
    higher_is_better: bool
    decimals: int
    low: float
    high: float

    @classmethod
    def of(cls, rows: Sequence[SummaryRow]) -> ScoreStyle:
        """Choose the style that fits all scores of the rows.

        Arguments
        ---------
        rows : sequence of SummaryRow
            What is to be shown.

        Returns
        -------
        ScoreStyle
        """
        results = rows[0].runs[0].results
        metric, higher_is_better = results["metric"], results["higher_is_better"]
        if metric == "eer":
            return cls("EER", "%", higher_is_better, 1, 0.0, 50.0)
        scores = np.concatenate([row.matrix.ravel() for row in rows])
        low, high = float(np.nanmin(scores)), float(np.nanmax(scores))
        decimals = 1 if max(abs(low), abs(high)) >= 10 else 3
        return cls(metric.replace("_", " "), "", higher_is_better, decimals, low, high)

    def number(self, value: float | None) -> str:
        """Write a score, or a dash where there is none."""
        return "–" if value is None or np.isnan(value) else f"{value + 0.0:.{self.decimals}f}"

    def signed(self, value: float | None) -> str:
        """Write a difference of scores with its sign, or a dash where there is none."""
        text = self.number(value)
        return text if text.startswith(("–", "-")) else f"+{text}"

    def badness(self, value: float) -> float:
        """Place a score between 0, the best on the axis, and 1, the worst."""
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.0
        share = min(max(share, 0.0), 1.0)
        return 1.0 - share if self.higher_is_better else share
