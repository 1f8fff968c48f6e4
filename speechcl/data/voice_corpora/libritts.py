"""LibriTTS: read English from audio books, in sentences, 24 kHz.

Its train, dev and test parts have speakers of their own. Accents are not known.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from speechcl.data.corpora.common import Source, check_parts, find_path
from speechcl.data.manifest_checks import ManifestError, Row
from speechcl.data.sound_files import show_path
from speechcl.data.voice_corpora.common import log_left_out, open_spoken, read_text, spoken_row

SOURCE = Source("LibriTTS", "LibriTTS: openslr.org/60")
PARTS = {
    "train-clean-100": "train",
    "train-clean-360": "train",
    "train-other-500": "train",
    "dev-clean": "valid",
    "dev-other": "valid",
    "test-clean": "test",
    "test-other": "test",
}
BROKEN = frozenset({"1092_134562_000013_000004"})  # reported as corrupted


def read_libritts(
    folder: str | os.PathLike, parts: Sequence[str] = ("train-clean-100", "test-clean")
) -> list[Row]:
    """List the clips of parts of LibriTTS, with their normalised texts.

    Arguments
    ---------
    folder : str or os.PathLike
        ``LibriTTS``, or the folder above.
    parts : sequence of str
        Which of ``PARTS``; each says by its name what it is for.

    Returns
    -------
    list of dict
        Manifest rows; ``split`` is ``train``, ``valid`` for a dev part, or ``test``; without any
        test part that of training clips is empty. ``gender`` is added where ``SPEAKERS.txt`` is
        there and tells it.

    Raises
    ------
    CorpusNotFound
        If a part is not there.
    ManifestError
        Listing clips that cannot be opened; or if no clip has a text, or a table is wrong.

    Example
    -------
    >>> import soundfile
    >>> chapter = getfixture("tmp_path") / "dev-clean" / "84" / "121123"
    >>> chapter.mkdir(parents=True)
    >>> soundfile.write(chapter / "84_121123_000007_000001.wav", [0.0] * 24000, 24000)
    >>> _ = (chapter / "84_121123_000007_000001.normalized.txt").write_text("Maximilien.")
    >>> [(r["speaker"], r["split"]) for r in read_libritts(getfixture("tmp_path"), ["dev-clean"])]
    [('84', 'valid')]
    """
    check_parts(SOURCE, parts, PARTS)
    tested = any(PARTS[part] == "test" for part in parts)
    splits = (
        PARTS if tested else {part: split.replace("train", "") for part, split in PARTS.items()}
    )
    rows: list[Row] = []
    for part in dict.fromkeys(parts):
        place = find_path(SOURCE, folder, [part, f"LibriTTS/{part}"])
        gender = _genders(place.parent / "SPEAKERS.txt")
        for chapter in sorted(place.glob("*/*/")):
            rows += [
                {**row, **gender.get(row["speaker"], {})} for row in _rows(chapter, splits[part])
            ]
    broken = [row["ID"] for row in rows if Path(row["wav"]).stem in BROKEN]
    log_left_out(SOURCE.name, "clips that are reported as corrupted", broken)
    return open_spoken(SOURCE.name, [row for row in rows if row["ID"] not in broken])


def _rows(chapter: Path, split: str) -> Iterator[Row]:
    speaker = chapter.parent.name
    texts = _texts(chapter / f"{speaker}_{chapter.name}.trans.tsv")
    for clip in sorted(chapter.glob("*.wav")):
        if clip.name[0] != ".":  # some systems leave ._* files beside those they copy
            text = texts.get(clip.stem) or read_text(clip.with_suffix(".normalized.txt"))
            yield spoken_row(SOURCE, clip.stem, clip, speaker, text, accent="", split=split)


def _texts(table: Path) -> dict[str, str]:
    """Return the normalised texts of a chapter's table: one file is read faster than many."""
    lines = (line.split("\t") for line in _lines(table))
    return {line[0]: " ".join(line[2].split()) for line in lines if len(line) > 2}


def _genders(table: Path) -> dict[str, dict[str, str]]:
    # ID | SEX | SUBSET | MINUTES | NAME: names may hold bars; comments begin with ;, as no ID does
    lines = (line.split("|") for line in _lines(table))
    return {line[0].strip(): {"gender": line[1].strip()} for line in lines if len(line) > 4}


def _lines(table: Path) -> list[str]:
    if not table.is_file():
        return []
    try:
        return table.read_bytes().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ManifestError(show_path(table), ["not UTF-8: fetch it again"]) from error
