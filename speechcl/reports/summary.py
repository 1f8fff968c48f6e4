"""The figures that a comparison of runs shows, with the runs of a method taken together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechcl.reports.wording import is_method
from speechcl.results import read_results


@dataclass(frozen=True)
class Run:
    """A finished run: its folder and the content of its ``results.json``."""

    folder: Path
    results: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Order:
    """The score matrix of one order of tasks, averaged over seeds."""

    stream: tuple[str, ...]
    matrix: NDArray[np.float64]
    zero_shot: NDArray[np.float64] | None


@dataclass(frozen=True)
class Difference:
    """How much higher the average is than the baseline's, over runs of equal seed and order.

    ``interval`` is the 95 % t-interval over seeds, whose orders are averaged first.
    """

    baseline: str
    pairs: int
    mean: float
    interval: tuple[float, float] | None


@dataclass(frozen=True, eq=False)
class SummaryRow:
    """One method averaged over its seeds and orders; None where nothing was measured.

    ``interval`` is the mean of the runs' bootstrap intervals over test clips, ``runs_interval`` the
    95 % t-interval of the average over seeds, whose orders are averaged first.
    """

    label: str
    method: str
    recipe: str
    orders: tuple[Order, ...]
    runs: tuple[Run, ...]
    average: float
    average_std: float | None
    interval: tuple[float, float] | None
    runs_interval: tuple[float, float] | None
    difference: Difference | None
    final: dict[str, float]
    learnt: dict[str, float]
    forgetting: float | None
    just_learnt: float | None
    anytime: float | None
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
    def tasks(self) -> tuple[str, ...]:
        """The tasks, in the order of the first run."""
        return self.orders[0].stream


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
    return [_by_place(run) for run in runs] if len(runs) > 1 else runs


def _by_place(run: Run) -> Run:
    """Name tasks by their places where a run drew what they are: runs then are comparable."""
    if not run.results.get("tasks_drawn"):
        return run
    places = [f"task {place + 1}" for place in range(len(run.results["stream"]))]
    shared = {k: v for k, v in run.results.items() if k not in ("train_sizes", "test_sizes")}
    return Run(run.folder, {**shared, "stream": places})


def summary_rows(runs: Sequence[Run | Path | str]) -> list[SummaryRow]:
    """Group runs by method, recipe and set of tasks, and average each group over seeds and orders.

    Each group but the first is compared with the baseline, which is fine-tuning or else the first
    method, over the pairs of runs with the same seed, order and recipe.

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
        key = (name, run.results["recipe"], tuple(sorted(run.results["stream"])))
        groups.setdefault(key, []).append(run)
    labels = _distinct_labels(list(groups))
    fine_tuned = [key for key, runs in groups.items() if is_method(_kind(runs), "finetune")]
    # "fine-tuning", not "fine-tuning, lr / 10", whichever comes first
    baseline = min(fine_tuned, key=lambda key: len(labels[key]), default=next(iter(groups)))
    return [
        _row(
            label, tuple(groups[key]), _difference(labels[baseline], groups[baseline], groups[key])
        )
        for key, label in labels.items()
    ]


def _kind(runs: Sequence[Run]) -> str:
    return runs[0].results["method"]


def _distinct_labels(keys: list[tuple]) -> dict[tuple, str]:
    """Tell methods of equal name apart by what differs: the recipe, the tasks."""
    labels = {}
    for key in keys:
        twins = [other for other in keys if other[0] == key[0]]
        details = []
        if len({twin[1] for twin in twins}) > 1:
            details.append(key[1])
        if len({twin[2] for twin in twins}) > 1:
            details.append(", ".join(key[2]))
        labels[key] = f"{key[0]} ({'; '.join(details)})" if details else key[0]
    return labels


def _row(label: str, runs: tuple[Run, ...], difference: Difference | None) -> SummaryRow:
    results = [run.results for run in runs]
    averages = [one["summary"]["average"] for one in results]
    intervals = [one["average_interval"] for one in results if one.get("average_interval")]
    learnt = _by_task(
        [dict(zip(r["stream"], np.diagonal(_scores(r)), strict=True)) for r in results]
    )
    return SummaryRow(
        label=label,
        method=results[0]["method"],
        recipe=results[0]["recipe"],
        orders=_orders(results),
        runs=runs,
        average=fmean(averages),
        average_std=stdev(averages) if len(averages) > 1 else None,
        interval=(fmean(i[0] for i in intervals), fmean(i[1] for i in intervals))
        if intervals
        else None,
        runs_interval=t_interval(_by_seed(_averages(runs))),
        difference=difference,
        final=_by_task([dict(zip(r["stream"], _scores(r)[-1], strict=True)) for r in results]),
        learnt=learnt,
        forgetting=_mean(one["summary"]["forgetting"] for one in results),
        just_learnt=fmean(learnt.values()) if np.isfinite([*learnt.values()]).all() else None,
        anytime=_mean(one.get("online", {}).get("anytime_average") for one in results),
        forward_transfer=_mean(one["summary"]["forward_transfer"] for one in results),
        trainable_parameters=fmean(one["trainable_parameters"] for one in results),
        memory_bytes=fmean(one["memory_bytes"] for one in results),
        train_s=fmean(sum(one["train_seconds"]) for one in results),
        peak_rss_mb=_mean(one["peak_rss_mb"] for one in results),
    )


def _orders(results: Sequence[dict[str, Any]]) -> tuple[Order, ...]:
    orders = []
    for stream in dict.fromkeys(tuple(one["stream"]) for one in results):
        members = [one for one in results if tuple(one["stream"]) == stream]
        untrained = [one["zero_shot"] for one in members if one.get("zero_shot")]
        matrix = _mean_scores([one["matrix"] for one in members])
        orders.append(Order(stream, matrix, _mean_scores(untrained) if untrained else None))
    return tuple(orders)


def _difference(label: str, baseline: Sequence[Run], runs: Sequence[Run]) -> Difference | None:
    """Compare runs with those of the baseline that share seed and order."""
    if runs is baseline:
        return None

    theirs, ours = _averages(baseline), _averages(runs)
    gaps = {key: value - theirs[key] for key, value in ours.items() if key in theirs}
    if not gaps:
        return None
    return Difference(label, len(gaps), fmean(gaps.values()), t_interval(_by_seed(gaps)))


def _averages(runs: Sequence[Run]) -> dict[tuple, float]:
    """Return the average by seed, recipe and order; runs that share all three are averaged."""
    found: dict[tuple, list[float]] = {}
    for run in runs:
        key = (run.results["seed"], run.results["recipe"], *run.results["stream"])
        found.setdefault(key, []).append(run.results["summary"]["average"])
    return {key: fmean(values) for key, values in found.items()}


def _by_seed(values: dict[tuple, float]) -> list[float]:
    """Average over the orders of a seed: they share test speakers, so are no separate draws."""
    seeds = dict.fromkeys(key[0] for key in values)
    return [fmean(value for key, value in values.items() if key[0] == seed) for seed in seeds]


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Compute the 95 % interval of a mean from Student's t; None for fewer than two values.

    Example
    -------
    >>> low, high = t_interval([1.0, 2.0, 3.0])
    >>> round(low, 2), round(high, 2)
    (-0.48, 4.48)
    """
    if len(values) < 2:
        return None
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return fmean(values) - half, fmean(values) + half


def _scores(results: dict[str, Any]) -> NDArray[np.float64]:
    return np.array(results["matrix"], dtype=np.float64)


def _by_task(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    """Average over runs, task by task, in the order of the first run."""
    return {task: float(np.mean([one[task] for one in scores])) for task in scores[0]}


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
    tasks = list(dict.fromkeys(name for row in rows for name in row.tasks))
    style = ScoreStyle.of(rows)
    compared = next((row.difference.baseline for row in rows if row.difference), None)
    against = [f"against {compared}"] if compared else []
    online = any(row.anytime is not None for row in rows)
    head = ["method", "runs", "average", *against, "forgetting", "just learnt"]
    table = [[*head, *(["anytime"] if online else []), *tasks]]
    for row in rows:
        average = style.number(row.average)
        if row.average_std is not None:
            average += f" ± {style.number(row.average_std)}"
        final = [style.number(row.final.get(task)) for task in tasks]
        figures = [style.signed(row.forgetting), style.number(row.just_learnt)]
        figures += [style.number(row.anytime)] if online else []
        gap = [style.difference(row.difference)] if compared else []
        table.append([row.label, str(len(row.runs)), average, *gap, *figures, *final])
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
        if metric == "accuracy":
            return cls("accuracy", "%", higher_is_better, 1, 0.0, 100.0)
        scores = np.concatenate([order.matrix.ravel() for row in rows for order in row.orders])
        low, high = float(np.nanmin(scores)), float(np.nanmax(scores))
        if metric == "mel_db":
            return cls("mel difference", "\u00a0dB", higher_is_better, 2, 0.0, high)
        decimals = 1 if max(abs(low), abs(high)) >= 10 else 3
        return cls(metric.replace("_", " "), "", higher_is_better, decimals, low, high)

    def number(self, value: float | None) -> str:
        """Write a score, or a dash where there is none."""
        return "–" if value is None or np.isnan(value) else f"{value + 0.0:.{self.decimals}f}"

    def signed(self, value: float | None) -> str:
        """Write a difference of scores with its sign, or a dash where there is none."""
        text = self.number(value)
        return text if text.startswith(("–", "-")) else f"+{text}"

    def difference(self, value: Difference | None) -> str:
        """Write a difference with its interval, or a dash where there is none."""
        if value is None:
            return "–"
        text = self.signed(value.mean)
        if value.interval is not None:
            text += f" [{self.signed(value.interval[0])}, {self.signed(value.interval[1])}]"
        return text

    def badness(self, value: float) -> float:
        """Place a score between 0, the best on the axis, and 1, the worst."""
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.0
        share = min(max(share, 0.0), 1.0)
        return 1.0 - share if self.higher_is_better else share
