"""Spoken keywords: a table of clips with their words, or Speech Commands; found, chosen, opened."""

import os
import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from speechcl.data.corpora import speech_commands
from speechcl.data.corpora.common import CorpusNotFound
from speechcl.data.manifest import read_table, write_manifest
from speechcl.data.manifest_checks import ManifestError, Row
from speechcl.data.sound_files import AudioError, audio_duration_s, show_path

TABLE = "metadata.csv"
COLUMNS = ("id", "path", "speaker", "text", "split")
SPLITS = ("train", "valid", "test")
# Renamed, measured anew, or of another meaning in a manifest.
_LEFT_OUT = frozenset({"id", "path", "duration", "label"})


def find_keywords(folder: str | os.PathLike) -> list[Row]:
    """List the clips of a folder with a ``metadata.csv``, or of Speech Commands.

    Arguments
    ---------
    folder : str or os.PathLike
        Where either is.

    Returns
    -------
    list of dict
        Rows with ``text``, ``speaker`` and ``split``, without duration.

    Raises
    ------
    CorpusNotFound
        If it is neither.
    ManifestError
        If the table or the lists are wrong.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> line = "a,audio/a.flac,ann,one,test"
    >>> _ = (folder / "metadata.csv").write_text(f"id,path,speaker,text,split\\n{line}\\n")
    >>> [(row["ID"], row["text"], row["split"]) for row in find_keywords(folder)]
    [('a', 'one', 'test')]
    """
    if (Path(folder) / TABLE).is_file():
        return read_word_table(Path(folder) / TABLE)
    try:
        return speech_commands.read(folder)
    except CorpusNotFound as error:
        raise CorpusNotFound(
            f"no keywords in {show_path(folder)}: give a folder with {TABLE} "
            f"({','.join(COLUMNS)}), or Speech Commands ({error})"
        ) from error


def read_word_table(path: str | os.PathLike) -> list[Row]:
    """Read a table of clips with their words.

    Arguments
    ---------
    path : str or os.PathLike
        CSV with the columns ``id,path,speaker,text,split``, perhaps more; paths start from its
        folder.

    Returns
    -------
    list of dict
        One a line, with all its columns; ``wav`` is absolute, ``listed`` says which line it was.

    Raises
    ------
    ManifestError
        Listing what is wrong, by line.

    Example
    -------
    >>> path = getfixture("tmp_path") / "metadata.csv"
    >>> _ = path.write_text("id,path,speaker,text,split\\na,../a.wav,ann,one,tset\\n")
    >>> read_word_table(path)
    Traceback (most recent call last):
    ...
    speechcl.data.manifest_checks.ManifestError: ...metadata.csv': 2 problems: row 2: path is
    '../a.wav': it must lie below the table's folder; row 2: split is 'tset', not one of train,
    valid, test
    """
    path = Path(path)
    name, entries = show_path(path), read_table(path)
    missing = [column for column in COLUMNS if entries and column not in entries[0]]
    if missing or not entries:
        what = f"no column {', '.join(missing)}" if missing else "no clip is listed"
        raise ManifestError(name, [f"{what}: a line a clip, with {','.join(COLUMNS)}"])
    problems: list[str] = []
    first_rows: dict[str, int] = {}
    for number, entry in enumerate(entries, start=2):
        problems += [f"row {number}: {text}" for text in _problems(entry)]
        first = first_rows.setdefault(entry["id"], number)
        if first != number:
            problems.append(f"row {number}: id {entry['id']!r} stands in row {first} already")
    if problems:
        raise ManifestError(name, problems)
    return [
        {
            "ID": entry["id"],
            "wav": str((path.parent / entry["path"]).absolute()),
            "corpus": path.absolute().parent.name,
            "listed": f"{path.name} row {number}",
            **{column: value for column, value in entry.items() if column not in _LEFT_OUT},
        }
        for number, entry in enumerate(entries, start=2)
    ]


def choose_words(
    rows: Sequence[Row], words: Sequence[str], clips_per_word: int | None = None, seed: int = 0
) -> list[Row]:
    """Keep the clips of some words, and of these at most so many a word and split.

    Arguments
    ---------
    rows : sequence of dict
        With ``text`` and ``split``.
    words : sequence of str
        Which to keep; every one needs clips to train and to test on.
    clips_per_word : int, optional
        How many at most, chosen at random; by default all.
    seed : int
        The same seed and rows give the same clips.

    Returns
    -------
    list of dict
        In the old order, whatever the order of the words.

    Raises
    ------
    ValueError
        If a word is no text or lacks clips to train or test on, or ``clips_per_word`` is below 1.

    Example
    -------
    >>> kinds = [("one", "train")] * 3 + [("one", "test"), ("two", "test")]
    >>> rows = [{"ID": i, "text": text, "split": split} for i, (text, split) in enumerate(kinds)]
    >>> [row["ID"] for row in choose_words(rows, ["one"], clips_per_word=2)]
    [0, 2, 3]
    """
    if clips_per_word is not None and clips_per_word < 1:
        raise ValueError(f"clips_per_word is {clips_per_word}: keep at least 1, or null for all")
    places = defaultdict(list)
    for place, row in enumerate(rows):
        places[row["text"], row["split"]].append(place)
    there = sorted(
        {text for text, _ in places if {(text, "train"), (text, "test")} <= places.keys()}
    )
    for word in words:
        if not isinstance(word, str):  # YAML takes yes, no, on and off for truth values
            raise ValueError(f"words hold {word!r}, which is no text: write it in quotes")
        lacking = [split for split in ("train", "test") if (word, split) not in places]
        if lacking:
            raise ValueError(
                f"the word {word!r} has no {' and no '.join(lacking)} clip: "
                f"choose among {', '.join(there) or 'other recordings'}"
            )
    kept: set[int] = set()
    for word in words:
        for split in SPLITS:
            found = places[word, split]
            count = len(found) if clips_per_word is None else min(clips_per_word, len(found))
            # a generator of the word's own, so that no word changes another's clips
            kept.update(random.Random(f"{seed} {word} {split}").sample(found, count))
    return [row for place, row in enumerate(rows) if place in kept]


def open_words(rows: Sequence[Row], folder: str | os.PathLike) -> list[Row]:
    """Look for every clip, read its duration from its header, and write the manifest.

    Arguments
    ---------
    rows : sequence of dict
        The chosen clips.
    folder : str or os.PathLike
        Where ``manifest.csv`` goes.

    Returns
    -------
    list of dict
        Copies with ``duration`` in seconds.

    Raises
    ------
    ManifestError
        Listing all clips that are missing or broken, with their lines.

    Example
    -------
    >>> row = {"ID": "a", "wav": "nowhere.wav", "listed": "metadata.csv row 2", "corpus": "mine"}
    >>> open_words([row], getfixture("tmp_path"))
    Traceback (most recent call last):
    ...
    speechcl.data.manifest_checks.ManifestError: mine: metadata.csv row 2: 'nowhere.wav': no such
    file: check the path
    """
    opened, problems = [], []
    for row in rows:
        try:
            opened.append({**row, "duration": audio_duration_s(row["wav"])})
        except AudioError as error:
            problems.append(f"{row['listed']}: {error}")
    if problems:
        raise ManifestError(", ".join(dict.fromkeys(row["corpus"] for row in rows)), problems)
    write_manifest(Path(folder) / "manifest.csv", opened)
    return opened


def _problems(entry: Row) -> list[str]:
    found = [f"no {column}: fill it in" for column in COLUMNS if not entry[column]]
    path = Path(entry["path"])
    if path.is_absolute() or ".." in path.parts:
        found.append(f"path is {entry['path']!r}: it must lie below the table's folder")
    if entry["split"] and entry["split"] not in SPLITS:
        found.append(f"split is {entry['split']!r}, not one of {', '.join(SPLITS)}")
    return found
