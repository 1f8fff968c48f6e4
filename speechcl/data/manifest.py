"""Manifests: tables of clips, read and written as the CSV that SpeechBrain reads too."""

import csv
import io
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from speechcl.data.files import atomic_path
from speechcl.data.manifest_checks import (
    COLUMNS,
    LABELS,
    REQUIRED,
    ManifestError,
    Row,
    check_manifest,
)
from speechcl.data.sound_files import show_path

__all__ = [
    "COLUMNS",
    "LABELS",
    "ManifestError",
    "check_manifest",
    "read_manifest",
    "read_table",
    "write_manifest",
]

_ROOT = re.compile(r"\$data_root\b|\$?\{data_root\}")
# What SpeechBrain replaces in any column, and raises a KeyError for if it has no replacement.
_PLACEHOLDER = re.compile(r"\$[\w.]+")


def read_manifest(
    path: str | os.PathLike,
    data_root: str | os.PathLike | None = None,
    check: bool = True,
    disjoint_speakers: bool = True,
) -> list[Row]:
    """Read a manifest.

    Arguments
    ---------
    path : str or os.PathLike
        CSV file with a header, UTF-8.
    data_root : str or os.PathLike, optional
        What ``$data_root`` in ``wav`` stands for and what relative paths start from; by default
        the manifest's own folder.
    check : bool
        Whether to run :func:`check_manifest`, which also looks for every file.
    disjoint_speakers : bool
        Whether a speaker may be in one split only.

    Returns
    -------
    list of dict
        One per clip: ``duration`` a float (left as text if it is no number), ``wav`` an absolute
        path, the rest text.

    Raises
    ------
    ManifestError
        If the file is no such table, or on what the check finds.

    Example
    -------
    >>> path = getfixture("tmp_path") / "train.csv"
    >>> _ = path.write_text("ID,duration,wav\\na,1.5,$data_root/a.wav\\n")
    >>> read_manifest(path, data_root="/data", check=False)
    [{'ID': 'a', 'duration': 1.5, 'wav': '/data/a.wav'}]
    """
    rows = read_table(path)
    name = show_path(path)
    columns = rows[0].keys() if rows else {}
    missing = [column for column in REQUIRED if column not in columns]
    if rows and missing:
        raise ManifestError(name, [_missing_columns(list(columns), missing)])
    root = os.path.abspath(Path(path).parent if data_root is None else data_root)  # noqa: PTH100
    for row in rows:
        row["duration"] = _number(row["duration"])
        if row["wav"]:
            wav = _ROOT.sub(lambda _: root, row["wav"])
            row["wav"] = os.path.join(root, wav)  # noqa: PTH118 - keeps '..' for the check
    if check:
        check_manifest(rows, disjoint_speakers=disjoint_speakers, name=name)
    return rows


def write_manifest(path: str | os.PathLike, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a manifest; a kill leaves the old file or the new one.

    Columns come in the order of :data:`COLUMNS`, further ones after them; those that no row fills
    are left out.

    Arguments
    ---------
    path : str or os.PathLike
        Where to write the CSV.
    rows : iterable of mapping
        Column name to value; blanks around a value are not kept.

    Raises
    ------
    ManifestError
        If a row lacks a required column, an ID occurs twice, or a value holds what SpeechBrain
        would take for a placeholder.

    Example
    -------
    >>> path = getfixture("tmp_path") / "train.csv"
    >>> write_manifest(path, [{"ID": "a", "wav": "/data/a.wav", "duration": 1.5, "text": ""}])
    >>> path.read_text()
    'ID,duration,wav\\na,1.5,/data/a.wav\\n'
    """
    rows = [
        {column: "" if value is None else str(value).strip() for column, value in row.items()}
        for row in rows
    ]
    problems = [
        f"row {number}: {column} holds {match[0]!r}: spell the sign out, it marks a placeholder"
        for number, row in enumerate(rows, start=2)
        for column, value in row.items()
        if (match := _PLACEHOLDER.search(_ROOT.sub("", value)))
    ]
    if problems:
        raise ManifestError(show_path(path), problems)
    numbered = [{**row, "duration": _number(row.get("duration", ""))} for row in rows]
    check_manifest(numbered, files=False, disjoint_speakers=False, name=show_path(path))
    filled = dict.fromkeys(column for row in rows for column, value in row.items() if value)
    columns = [column for column in COLUMNS if column in filled]
    columns += [column for column in filled if column not in COLUMNS]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    with atomic_path(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8", newline="")


def read_table(path: str | os.PathLike) -> list[Row]:
    """Read a CSV file with a header as text, one dict a row.

    Arguments
    ---------
    path : str or os.PathLike
        CSV file, UTF-8, with commas.

    Returns
    -------
    list of dict
        Column name to text, every row with every column.

    Raises
    ------
    ManifestError
        If the file is missing, empty, not UTF-8, has another delimiter or ragged rows.

    Example
    -------
    >>> path = getfixture("tmp_path") / "metadata.csv"
    >>> _ = path.write_text("id,path\\na,a.wav\\n")
    >>> read_table(path)
    [{'id': 'a', 'path': 'a.wav'}]
    """
    name = show_path(path)
    if "\0" in os.fspath(path) or not Path(path).is_file():
        raise ManifestError(name, ["no such file: check the path"])
    try:
        # An Excel file begins with a byte order mark; newline="" keeps line breaks in quotes.
        text = Path(path).read_bytes().decode("utf-8-sig")
        reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
        lines = [line for line in reader if line]
    except UnicodeDecodeError as error:
        raise ManifestError(
            name, [f"not UTF-8 (byte {error.start}): save it as CSV in UTF-8"]
        ) from error
    except csv.Error as error:
        raise ManifestError(name, [f"not a CSV table ({error}): save it again as CSV"]) from error
    if not lines:
        raise ManifestError(name, ["the file is empty: its first line must name the columns"])
    header = lines[0]
    problems = _header_problems(header) or [
        f"row {number}: {len(line)} values for {len(header)} columns: quote values with commas"
        for number, line in enumerate(lines[1:], start=2)
        if len(line) != len(header)
    ]
    if problems:
        raise ManifestError(name, problems)
    return [dict(zip(header, line, strict=True)) for line in lines[1:]]


def _header_problems(header: list[str]) -> list[str]:
    for delimiter, called in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if len(header) == 1 and delimiter in header[0]:
            return [f"values are separated by {called}: separate them by commas"]
    doubled = sorted({column for column in header if header.count(column) > 1})
    return [f"column {column!r} stands twice: rename one" for column in doubled]


def _missing_columns(found: list[str], missing: list[str]) -> str:
    if not set(found) & set(COLUMNS):
        return f"no header: the first line must name the columns, as in {','.join(COLUMNS[:4])}"
    return f"no column {', '.join(missing)} among {', '.join(found)}: add it"


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
