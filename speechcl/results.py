"""What a run leaves behind: ``results.json`` and the score of every test clip."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechcl.data.files import atomic_path

SCHEMA_VERSION = 1
SCORE_COLUMNS = ("test_task", "ID", "label", "attack", "speaker", "score")
PREDICTION_COLUMNS = ("test_task", "ID", "label", "predicted", "speaker")
SUMMARY_FIELDS = ("average", "forgetting", "backward_transfer", "forward_transfer")


def write_text_atomically(path: Path | str, text: str) -> Path:
    """Write a text file so that a reader finds either its old or its new content, whole.

    Arguments
    ---------
    path : Path or str
        File to write; its folder is made if need be.
    text : str
        The content, written as UTF-8.

    Returns
    -------
    Path
        The file.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> write_text_atomically(folder / "note.txt", "done").read_text()
    'done'
    """
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")
    return Path(path)


def check_results(results: Mapping[str, Any]) -> None:
    """Check the content of a ``results.json``; fields beyond the schema are allowed.

    Arguments
    ---------
    results : dict
        The content.

    Returns
    -------
    None

    Raises
    ------
    ValueError
        Naming the first field that is missing or wrong.

    Example
    -------
    >>> check_results({"schema": 2})
    Traceback (most recent call last):
    ValueError: results: field 'schema' is 2 but must be 1
    """
    if not isinstance(results, Mapping):
        raise ValueError(f"results: a JSON object is needed, not {type(results).__name__}")
    for field, (is_right, meaning) in _REQUIRED.items():
        if field not in results:
            raise ValueError(f"results: field '{field}' is missing, it must be {meaning}")
        _check(results, field, is_right, meaning)
    for field, (is_right, meaning) in _OPTIONAL.items():
        if field in results:
            _check(results, field, is_right, meaning)
    _check_shapes(results)


def write_results(path: Path | str, results: Mapping[str, Any]) -> Path:
    """Check and write a ``results.json``.

    Arguments
    ---------
    path : Path or str
        File to write.
    results : dict
        The content; see ``check_results``.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        If a field is missing or wrong, or a number is NaN or infinite.

    Example
    -------
    >>> write_results("results.json", {"schema": 1})
    Traceback (most recent call last):
    ValueError: results: field 'recipe' is missing, it must be text
    """
    check_results(results)
    text = json.dumps(results, indent=2, allow_nan=False, ensure_ascii=False)
    return write_text_atomically(path, text + "\n")


def read_results(path: Path | str) -> dict[str, Any]:
    """Read and check a ``results.json``.

    Arguments
    ---------
    path : Path or str
        The file.

    Returns
    -------
    dict

    Raises
    ------
    ValueError
        Naming the file, if it is missing, is not JSON, or does not fit the schema.

    Example
    -------
    >>> read_results("nowhere/results.json")
    Traceback (most recent call last):
    ValueError: nowhere/results.json: no such file; has the run ended?
    """
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"{file}: no such file; has the run ended?")
    try:
        results = json.loads(file.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
        check_results(results)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: {error}") from error
    return results


def write_scores(path: Path | str, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write the score of every test clip after a task, as CSV.

    Arguments
    ---------
    path : Path or str
        File to write, by custom ``scores/task_NN.csv``.
    rows : iterable of dict
        Each with ``test_task``, ``ID``, ``label``, ``attack``, ``speaker`` and ``score``; the
        score is higher the more genuine the clip.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        If a label is neither ``bonafide`` nor ``spoof``, or a score is not finite.

    Example
    -------
    >>> row = {"test_task": "lpc", "ID": "a1", "label": "spoof", "attack": "lpc", "speaker": "ann"}
    >>> file = write_scores(getfixture("tmp_path") / "task_00.csv", [{**row, "score": -1.5}])
    >>> read_scores(file)["score"]
    array([-1.5])
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(SCORE_COLUMNS)
    for number, row in enumerate(rows, start=2):
        score = float(row["score"])
        _check_score(f"{path}, row {number}", str(row["label"]), score)
        writer.writerow([*(row[column] for column in SCORE_COLUMNS[:-1]), repr(score)])
    return write_text_atomically(path, buffer.getvalue())


def write_predictions(path: Path | str, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write what a classifier took every test clip for after a task, as CSV.

    Arguments
    ---------
    path : Path or str
        File to write, by custom ``predictions/task_NN.csv``.
    rows : iterable of dict
        Each with ``test_task``, ``ID``, ``label`` (the clip's class), ``predicted`` and
        ``speaker``.

    Returns
    -------
    Path
        The file.

    Example
    -------
    >>> row = {"test_task": "one_two", "ID": "a1", "label": "one", "predicted": "two"}
    >>> file = getfixture("tmp_path") / "task_00.csv"
    >>> write_predictions(file, [{**row, "speaker": "ann"}]).read_text().splitlines()[1]
    'one_two,a1,one,two,ann'
    """
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, PREDICTION_COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return write_text_atomically(path, buffer.getvalue())


def read_scores(path: Path | str) -> dict[str, NDArray]:
    """Read the scores that ``write_scores`` wrote.

    Arguments
    ---------
    path : Path or str
        The file.

    Returns
    -------
    dict
        One array per column: ``score`` is float64, the others are text.

    Raises
    ------
    ValueError
        Naming the file and row, if it is missing or something in it is wrong.

    Example
    -------
    >>> read_scores("nowhere/task_00.csv")
    Traceback (most recent call last):
    ValueError: nowhere/task_00.csv: no such file; has the run ended?
    """
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"{file}: no such file; has the run ended?")
    with file.open(encoding="utf-8", newline="") as lines:
        header, *rows = list(csv.reader(lines)) or [[]]
    if tuple(header) != SCORE_COLUMNS:
        raise ValueError(f"{file}: the first row must be {','.join(SCORE_COLUMNS)}")
    scores = [_parsed_score(f"{file}, row {number}", row) for number, row in enumerate(rows, 2)]
    table = np.array([row[:-1] for row in rows], dtype=str).reshape(-1, len(SCORE_COLUMNS) - 1)
    columns: dict[str, NDArray] = dict(zip(SCORE_COLUMNS, table.T, strict=False))
    return {**columns, "score": np.array(scores, dtype=np.float64)}


def _parsed_score(where: str, row: list[str]) -> float:
    if len(row) != len(SCORE_COLUMNS):
        raise ValueError(f"{where}: {len(row)} fields instead of {len(SCORE_COLUMNS)}")
    try:
        score = float(row[-1])
    except ValueError:
        raise ValueError(f"{where}: score {row[-1]!r} is not a number") from None
    _check_score(where, row[SCORE_COLUMNS.index("label")], score)
    return score


def _check_score(where: str, label: str, score: float) -> None:
    if label not in ("bonafide", "spoof"):
        raise ValueError(f"{where}: label {label!r} is unknown, use 'bonafide' or 'spoof'")
    if not math.isfinite(score):
        raise ValueError(f"{where}: score {score} is not finite")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not allowed, use null for what was not measured")


def _check(results: Mapping, field: str, is_right: Callable[[Any], bool], meaning: str) -> None:
    value = results[field]
    if not is_right(value):
        shown = repr(value)
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        raise ValueError(f"results: field '{field}' is {shown} but must be {meaning}")


def _check_shapes(results: Mapping[str, Any]) -> None:
    tasks = len(results["stream"])
    for field in ("matrix", "zero_shot", "train_sizes", "test_sizes"):
        value = results.get(field)
        if value is not None and len(value) != tasks:
            raise ValueError(
                f"results: field '{field}' has {len(value)} entries but the stream {tasks} tasks"
            )
    if any(len(row) != tasks for row in results["matrix"]):
        raise ValueError(f"results: field 'matrix' must have {tasks} columns, one per task")
    if None in results["matrix"][-1]:
        raise ValueError("results: field 'matrix' has gaps in its last row: evaluate all tasks")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_number_or_null(value: Any) -> bool:
    return value is None or _is_number(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _list_of(is_right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(is_right, value))


def _map_to(is_right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, Mapping)
        and all(map(_is_text, value))
        and all(map(is_right, value.values()))
    )


def _is_stream(value: Any) -> bool:
    return _list_of(_is_text)(value) and 0 < len(value) == len(set(value))


def _is_summary(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and all(field in value and _is_number_or_null(value[field]) for field in SUMMARY_FIELDS)
        and value["average"] is not None
    )


def _is_untrained(value: Any) -> bool:
    return value is None or _list_of(_is_number_or_null)(value)


def _is_interval(value: Any) -> bool:
    return value is None or (
        _list_of(_is_number)(value) and len(value) == 2 and value[0] <= value[1]
    )


def _is_example(value: Any) -> bool:
    return (
        isinstance(value, Mapping) and _is_text(value.get("title")) and _is_text(value.get("wav"))
    )


_Rule = tuple[Callable[[Any], bool], str]
_SIZES: _Rule = (_list_of(_map_to(_is_count)), "a list with the clips per label of every task")
_REQUIRED: dict[str, _Rule] = {
    "schema": (lambda value: value == SCHEMA_VERSION, str(SCHEMA_VERSION)),
    "recipe": (_is_text, "text"),
    "method": (_is_text, "text"),
    "seed": (lambda value: _is_number(value) and isinstance(value, int), "a whole number"),
    "stream": (_is_stream, "a list of distinct task names"),
    "metric": (_is_text, "text"),
    "higher_is_better": (lambda value: isinstance(value, bool), "true or false"),
    "matrix": (_list_of(_list_of(_is_number_or_null)), "rows of numbers or nulls"),
    "summary": (_is_summary, f"numbers or nulls for {', '.join(SUMMARY_FIELDS)}"),
    "trainable_parameters": (_is_count, "a count"),
    "memory_bytes": (_is_count, "a count"),
    "train_seconds": (_list_of(_is_number), "a list of numbers"),
    "peak_rss_mb": (_is_number_or_null, "a number or null"),
    "versions": (_map_to(_is_text), "versions by package name"),
    "command": (_is_text, "text"),
}
_OPTIONAL: dict[str, _Rule] = {
    "average_interval": (_is_interval, "[low, high] or null"),
    "zero_shot": (_is_untrained, "a list of numbers or nulls, or null"),
    "notes": (_list_of(_is_text), "a list of texts"),
    "examples": (_list_of(_is_example), "a list of {title, wav}"),
    "method_label": (_is_text, "text"),
    "train_sizes": _SIZES,
    "test_sizes": _SIZES,
}
