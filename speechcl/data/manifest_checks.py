"""What a manifest must satisfy, checked once at the door with every problem listed."""

import difflib
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from speechcl.data.sound_files import show_path

COLUMNS = (
    "ID",
    "duration",
    "wav",
    "label",
    "attack",
    "speaker",
    "accent",
    "corpus",
    "split",
    "text",
)
REQUIRED = ("ID", "duration", "wav")
LABELS = ("bonafide", "spoof")
UNKNOWN_SPEAKERS = ("", "-")

_SHOWN_PROBLEMS = 20
# The words that anti-spoofing corpora use for the same two things.
_SYNONYMS = {
    "genuine": "bonafide",
    "real": "bonafide",
    "human": "bonafide",
    "fake": "spoof",
    "deepfake": "spoof",
    "synthetic": "spoof",
}

Row = dict[str, Any]


class ManifestError(ValueError):
    """A manifest that cannot be used; the message lists what is wrong, by row.

    Arguments
    ---------
    name : str
        What was checked.
    problems : list of str
        All of them; the message shows the first twenty.

    Example
    -------
    >>> print(ManifestError("train.csv", ["row 2: no ID", "row 3: no ID"]))
    train.csv: 2 problems: row 2: no ID; row 3: no ID
    """

    def __init__(self, name: str, problems: list[str]):
        self.problems = problems
        text = "; ".join(problems[:_SHOWN_PROBLEMS])
        if len(problems) > 1:
            text = f"{len(problems)} problems: {text}"
        if len(problems) > _SHOWN_PROBLEMS:
            text += f"; and {len(problems) - _SHOWN_PROBLEMS} more"
        super().__init__(f"{name}: {text}")


def check_manifest(
    rows: Iterable[Mapping[str, Any]],
    files: bool = True,
    disjoint_speakers: bool = True,
    name: str = "manifest",
) -> None:
    """Raise an error that lists everything wrong with a manifest's rows.

    Arguments
    ---------
    rows : iterable of mapping
        Column name to value, ``wav`` already resolved.
    files : bool
        Whether every ``wav`` must exist.
    disjoint_speakers : bool
        Whether a speaker may be in one split only. Speaker-dependent problems, such as
        fine-tuning a voice, set it to False.
    name : str
        What to call the manifest in the message.

    Raises
    ------
    ManifestError
        With row numbers as a spreadsheet shows them: the header is row 1.

    Example
    -------
    >>> row = {"ID": "a", "duration": 0.0, "wav": "a.wav", "label": "Bonafide"}
    >>> check_manifest([row], files=False)
    Traceback (most recent call last):
    ...
    speechcl.data.manifest_checks.ManifestError: manifest: 2 problems: row 2: duration is 0.0: it
    must be a number of seconds above 0; row 2: label is 'Bonafide': did you mean 'bonafide'?
    """
    numbered = list(enumerate(rows, start=2))
    problems = []
    for number, row in numbered:
        problems += [f"row {number}: {text}" for text in _row_problems(row, files)]
    problems += _duplicate_ids(numbered)
    if disjoint_speakers:
        problems += _leaking_speakers(numbered)
    if not numbered:
        problems.append("no rows: list at least one clip")
    if problems:
        raise ManifestError(name, problems)


def _row_problems(row: Mapping[str, Any], files: bool) -> Iterator[str]:
    missing = [column for column in REQUIRED if row.get(column) in (None, "")]
    if missing:
        yield f"no {', '.join(missing)}: fill it in"
    if "duration" not in missing and not _is_positive(row["duration"]):
        yield f"duration is {row['duration']!r}: it must be a number of seconds above 0"
    if "wav" not in missing:
        yield from _path_problems(str(row["wav"]), files)
    label = row.get("label")
    if label not in (None, "", *LABELS):
        yield f"label is {label!r}: did you mean {_nearest_label(str(label))}?"


def _path_problems(wav: str, files: bool) -> Iterator[str]:
    if "\0" in wav:
        yield f"wav is {show_path(wav)}: a path cannot hold a NUL character"
    elif ".." in Path(wav).parts:
        yield f"wav is {show_path(wav)}: it must not climb with '..': write the path below the root"
    elif files and not Path(wav).is_file():
        yield f"wav is {show_path(wav)}: no such file: check the path or data_root"


def _is_positive(duration: Any) -> bool:
    return isinstance(duration, int | float) and 0 < duration < math.inf


def _nearest_label(label: str) -> str:
    plain = "".join(filter(str.isalnum, label.lower()))
    near = difflib.get_close_matches(plain, [*LABELS, *_SYNONYMS], n=1)
    if not near:
        return " or ".join(map(repr, LABELS))
    return repr(_SYNONYMS.get(near[0], near[0]))


def _duplicate_ids(numbered: list[tuple[int, Mapping[str, Any]]]) -> list[str]:
    rows_of = defaultdict(list)
    for number, row in numbered:
        rows_of[row.get("ID")].append(number)
    return [
        f"ID {identity!r} is used {len(numbers)} times ({_rows(numbers)}): make it unique"
        for identity, numbers in rows_of.items()
        if len(numbers) > 1 and identity not in (None, "")
    ]


def _leaking_speakers(numbered: list[tuple[int, Mapping[str, Any]]]) -> list[str]:
    first_rows: dict[str, dict[str, int]] = defaultdict(dict)
    for number, row in numbered:
        speaker, split = row.get("speaker") or "", row.get("split") or ""
        if split and speaker not in UNKNOWN_SPEAKERS:
            first_rows[speaker].setdefault(split, number)
    return [
        f"speaker {speaker!r} is in splits {', '.join(splits)} ({_rows(splits.values())}): "
        "keep each speaker in one split"
        for speaker, splits in first_rows.items()
        if len(splits) > 1
    ]


def _rows(numbers: Iterable[int]) -> str:
    numbers = list(numbers)
    text = ", ".join(map(str, numbers[:5]))
    return f"rows {text}" + (", ..." if len(numbers) > 5 else "")
