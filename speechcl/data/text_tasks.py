"""Tasks from a table: a CSV file with an example a row becomes a stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from speechcl.data.class_streams import domain_stream
from speechcl.data.labelled import Classes
from speechcl.data.manifest import read_table
from speechcl.data.manifest_checks import ManifestError
from speechcl.data.sound_files import show_path
from speechcl.task import Task

SPLITS = ("train", "valid", "test")
# what each kind of model learns from: the first set of columns that the table has is taken
COLUMNS: dict[str, list[tuple[str, ...]]] = {
    "classification": [("text", "label")],
    "causal_lm": [("prompt", "answer"), ("text",)],
    "seq2seq": [("prompt", "answer")],
    "image_text": [("image", "label")],
}
Row = dict[str, str]


def read_examples(
    file: Path | str, kind: str, tasks: Sequence[str] | None = None, own_labels: bool = False
) -> list[Row]:
    """Read and check a table of examples.

    Arguments
    ---------
    file : Path or str
        CSV in UTF-8 with the columns ``task``, ``split`` (train, valid or test) and, by kind:
        ``text,label`` for "classification"; ``prompt,answer`` for "seq2seq"; the same or ``text``
        for "causal_lm"; ``image,label`` for "image_text", where images are paths from the file's
        folder.
    kind : str
        What the model is to do.
    tasks : Sequence, optional
        Which tasks to keep, in the order of learning; by default all, as they appear.
    own_labels : bool
        Whether a label must occur in the training rows of its own task, not only of any task.

    Returns
    -------
    list of dict
        The columns needed, as text, and as ``ID`` the row's number in the file; task by task.
        Images are absolute paths.

    Raises
    ------
    ManifestError
        With the numbers of the rows: a column or value is missing, a split or image is not known,
        a label is never trained on, a task lacks training or test rows.

    Example
    -------
    >>> file = getfixture("tmp_path") / "reviews.csv"
    >>> _ = file.write_text("task,split,text,label\\nfilm,train,fine,good\\nfilm,test,ok,good\\n")
    >>> [(row["task"], row["text"]) for row in read_examples(file, "classification")]
    [('film', 'fine'), ('film', 'ok')]
    """
    name, table = show_path(file), read_table(file)
    if not table:
        raise ManifestError(name, ["no examples in it: add a row for each"])
    columns = _columns(kind, name, list(table[0]))
    rows = [
        {"ID": str(number), **{column: row[column].strip() for column in columns}}
        for number, row in enumerate(table, start=2)
    ]
    # a prompt may end in a blank or line break that parts it from its answer
    for row, original in zip(rows, table, strict=True):
        row.update({key: original[key] for key in ("prompt",) if key in columns})
    if "image" in columns:
        folder = Path(file).resolve().parent
        rows = [
            {**row, "image": str(folder / row["image"])} if row["image"] else row for row in rows
        ]
    problems = [*_empty(rows), *_unknown(rows), *_untrained(rows, own_labels)]
    if problems:
        raise ManifestError(name, problems)
    return _in_order(name, rows, tasks)


def example_stream(data: Any) -> list[Task]:
    """Make a stream with a task for each name in the rows' ``task``, in order of appearance.

    Arguments
    ---------
    data : Dataset
        With ``rows``, one an item, that have ``task`` and ``split``; ``subset``; and ``classes`` if
        items have labels.

    Returns
    -------
    list of Task
        With labels as ``domain_stream`` makes it, ``info`` included.

    Example
    -------
    >>> import torch
    >>> from speechcl.data.token_sets import AnswerSet
    >>> rows = [{"task": task, "split": split} for task in "ba" for split in ("train", "test")]
    >>> stream = example_stream(AnswerSet({"labels": torch.zeros(4, 3)}, rows))
    >>> [(task.name, len(task.train), task.valid) for task in stream]
    [('b', 1, None), ('a', 1, None)]
    """
    names = list(dict.fromkeys(row["task"] for row in data.rows))
    if hasattr(data, "classes"):
        return domain_stream(data, names, column="task")
    places: dict[tuple[str, str], list[int]] = {}
    for place, row in enumerate(data.rows):
        places.setdefault((row["task"], row["split"]), []).append(place)
    return [
        Task(
            index,
            name,
            data.subset(places[name, "train"]),
            data.subset(places[name, "valid"]) if (name, "valid") in places else None,
            data.subset(places[name, "test"]),
        )
        for index, name in enumerate(names)
    ]


def classes_of(rows: Sequence[Row]) -> Classes:
    """Return all labels: those of the first task in alphabetical order, then new ones of the next.

    Example
    -------
    >>> pairs = [("b", "no"), ("a", "maybe"), ("b", "an")]
    >>> classes_of([{"task": task, "label": label} for task, label in pairs]).names
    ('an', 'no', 'maybe')
    """
    order = {task: place for place, task in enumerate(dict.fromkeys(row["task"] for row in rows))}
    pairs = sorted({(order[row["task"]], row["label"]) for row in rows})
    return Classes(tuple(dict.fromkeys(label for _, label in pairs)), column="label")


def _columns(kind: str, name: str, found: list[str]) -> list[str]:
    if kind not in COLUMNS:
        raise ValueError(f"kind is {kind!r}: use {', '.join(COLUMNS)}")
    choices = COLUMNS[kind]
    chosen = next((one for one in choices if set(one) <= set(found)), choices[0])
    columns = ["task", "split", *chosen]
    missing = [column for column in columns if column not in found]
    if missing:
        needed = " or ".join(",".join(["task", "split", *one]) for one in choices)
        raise ManifestError(
            name,
            [f"no column {', '.join(missing)} among {', '.join(found)}: {kind} needs {needed}"],
        )
    return columns


def _clean(column: str, value: str) -> str:
    # a prompt may end in a blank or line break that parts it from its answer
    return value if column == "prompt" else value.strip()


def _empty(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        for column, value in row.items():
            if not value.strip():
                yield f"row {row['ID']}: {column} is empty: fill it or leave the row out"


def _unknown(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        if row["split"] and row["split"] not in SPLITS:
            yield f"row {row['ID']}: split is {row['split']!r}: use {', '.join(SPLITS)}"
        if row.get("image") and not Path(row["image"]).is_file():
            yield f"row {row['ID']}: no image {show_path(row['image'])}: check the path"


def _untrained(rows: Sequence[Row], own_labels: bool) -> Iterator[str]:
    def key(row: Row) -> tuple[str, str]:
        return (row["task"] if own_labels else "", row["label"])

    labelled = [row for row in rows if row.get("label")]
    trained = {key(row) for row in labelled if row["split"] == "train"}
    for row in labelled:
        if key(row) not in trained:
            where = f" of task {row['task']!r}" if own_labels else ""
            yield (
                f"row {row['ID']}: label {row['label']!r} is in no training row{where}: "
                "add one, or correct the label"
            )


def _in_order(name: str, rows: list[Row], tasks: Sequence[str] | None) -> list[Row]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["task"], []).append(row)
    chosen = list(found) if tasks is None else list(tasks)
    absent = [task for task in chosen if task not in found]
    if absent or not chosen:
        raise ManifestError(name, [f"no task {absent}: the file has {', '.join(found)}"])
    problems = [
        f"task {task!r} has no {split} rows: add some, or leave the task out"
        for task in chosen
        for split in ("train", "test")
        if all(row["split"] != split for row in found[task])
    ]
    if problems:
        raise ManifestError(name, problems)
    return [row for task in chosen for row in found[task]]
