"""What the readers of voice corpora share: rows of clips with what is said in them."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from tqdm import tqdm

from speechcl.data.corpora.common import Source
from speechcl.data.espeak import ACCENTS
from speechcl.data.manifest_checks import ManifestError, Row
from speechcl.data.sound_files import AudioError, audio_duration_s, show_path

logger = logging.getLogger(__name__)

_SHOWN = 5
_ACCENTS = {re.sub("[^a-z]", "", name.lower()): name for name in ACCENTS.values()}
# no accent of espeak-ng, but with the vowels and the silent r of one
_NEAREST = {
    "australian": "British",
    "canadian": "American",
    "newzealand": "British",
    "southafrican": "British",
    "welsh": "British",
}


def accent_name(said: str) -> str:
    """Return the accent of ``speechcl.data.espeak.ACCENTS`` that fits, else what was said.

    Example
    -------
    >>> [accent_name(said) for said in ("NewZealand", "English (SW England)", "Korean")]
    ['British', 'British', 'Korean']
    """
    plain = re.sub("[^a-z]", "", said.lower())
    if plain in _ACCENTS or plain in _NEAREST:
        return _ACCENTS.get(plain) or _NEAREST[plain]
    return "British" if "england" in plain else said


def read_text(path: Path) -> str:
    """Return the text of a transcript file on one line; none if there is no such file.

    Raises
    ------
    ManifestError
        If it is not UTF-8.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.txt"
    >>> _ = path.write_text("Please call\\n Stella.\\n")
    >>> read_text(path), read_text(path.with_name("b.txt"))
    ('Please call Stella.', '')
    """
    if not path.is_file():
        return ""
    try:
        return " ".join(path.read_bytes().decode("utf-8-sig").split())
    except UnicodeDecodeError as error:
        raise ManifestError(
            show_path(path), [f"not UTF-8 (byte {error.start}): save the transcript in UTF-8"]
        ) from error


def spoken_row(
    source: Source, name: str, wav: Path, speaker: str, text: str, *, accent: str, split: str
) -> Row:
    """Return what a corpus says of one clip, before its file is opened.

    Arguments
    ---------
    source : Source
        The corpus.
    name : str
        Unique in the corpus.
    wav : Path
        The sound file.
    speaker, text : str
        Who says what; a clip without text is left out by :func:`open_spoken`.
    accent : str
        As the corpus calls it, empty if unknown.
    split : str
        ``train``, ``valid``, ``test``, or empty where the corpus leaves that open.

    Example
    -------
    >>> row = spoken_row(
    ...     Source("Mine", "my shelf"), "a", Path("a.wav"), "ann", "Hi!", accent="", split="train"
    ... )
    >>> row["ID"], row["speaker"]
    ('Mine-a', 'ann')
    """
    return {
        "ID": f"{source.name}-{name}",
        "wav": str(wav.absolute()),
        "speaker": speaker,
        "accent": accent_name(accent),
        "corpus": source.name,
        "split": split,
        "text": text,
    }


def open_spoken(name: str, rows: Iterable[Row]) -> list[Row]:
    """Leave out clips without text, and read the duration of the others from their headers.

    Arguments
    ---------
    name : str
        Of the corpus, for messages.
    rows : iterable of dict
        What :func:`spoken_row` returns.

    Returns
    -------
    list of dict
        Copies with ``duration`` in seconds.

    Raises
    ------
    ManifestError
        If no clip has a text or, listing all of them, if clips cannot be opened.

    Example
    -------
    >>> import soundfile
    >>> path = getfixture("tmp_path") / "a.wav"
    >>> soundfile.write(path, [0.0] * 8000, 16000)
    >>> rows = [{"ID": "a", "wav": str(path), "text": "Hi!"}, {"ID": "b", "wav": "", "text": ""}]
    >>> [(row["ID"], row["duration"]) for row in open_spoken("Mine", rows)]
    [('a', 0.5)]
    """
    opened: list[Row] = []
    problems: list[str] = []
    said = keep_spoken(name, list(rows))
    for row in tqdm(said, desc=name, unit="clip", leave=False, disable=None):
        try:
            opened.append({**row, "duration": audio_duration_s(row["wav"])})
        except AudioError as error:
            problems.append(str(error))
    if problems:
        raise ManifestError(name, problems)
    return opened


def keep_spoken(name: str, rows: Sequence[Row]) -> list[Row]:
    """Leave out clips without text, and say so.

    Raises
    ------
    ManifestError
        If none is left.

    Example
    -------
    >>> keep_spoken("Mine", [{"ID": "a", "text": "Hi!"}, {"ID": "b", "text": ""}])
    [{'ID': 'a', 'text': 'Hi!'}]
    """
    said = [row for row in rows if row["text"]]
    if not said:
        raise ManifestError(
            name, [f"none of {len(rows)} clips has a text: check the folder and the options"]
        )
    log_left_out(name, "clips without text", [row["ID"] for row in rows if not row["text"]])
    return said


def log_left_out(name: str, what: str, which: Sequence[str]) -> None:
    """Warn how many clips or speakers are left out and name the first few, if there are any.

    Example
    -------
    >>> log_left_out("Mine", "clips without text", [])
    """
    if which:
        more = ", ..." if len(which) > _SHOWN else ""
        logger.warning(
            "%s: left out %d %s: %s%s", name, len(which), what, ", ".join(which[:_SHOWN]), more
        )
