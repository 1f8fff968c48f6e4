"""Turning any folder or table of genuine speech into manifest rows."""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from speechcl.data.manifest import read_manifest, read_table
from speechcl.data.manifest_checks import ManifestError, Row, check_manifest
from speechcl.data.sound_files import AudioError, audio_duration_s, find_audio, show_path

logger = logging.getLogger(__name__)

_METADATA = "metadata.csv"
_METADATA_COLUMNS = frozenset({"id", "path", "speaker"})
_KEPT_COLUMNS = ("accent", "gender", "text")

Source = str | os.PathLike


def scan_folder(
    source: Source | Iterable[Source],
    skip_broken: bool = False,
    unknown_speaker: str | None = None,
) -> list[Row]:
    """List genuine speech: folders, packs with a ``metadata.csv``, manifests, or several of them.

    A CSV manifest gives its genuine rows. A folder whose ``metadata.csv`` has the columns
    ``id,path,speaker`` gives the clips, speakers, accents and texts named there; such packs are
    found at any depth. Every other sound file belongs to the speaker named by the first folder
    below ``source``, or to one of its own if it lies in no folder.

    Arguments
    ---------
    source : str, os.PathLike or an iterable of them
        Where the speech is.
    skip_broken : bool
        Whether clips that cannot be opened are logged and left out, rather than an error.
    unknown_speaker : str, optional
        Who speaks in clips that lie in no folder; by default each is of a speaker of its own.

    Returns
    -------
    list of dict
        Manifest rows without ``split``: unique ``ID``, absolute ``wav``, label ``bonafide``.

    Raises
    ------
    ManifestError
        If nothing is found or, listing all of them, if clips are broken.

    Example
    -------
    >>> import soundfile
    >>> folder = getfixture("tmp_path") / "mine"
    >>> (folder / "ann").mkdir(parents=True)
    >>> soundfile.write(folder / "ann" / "a.wav", [0.0] * 8000, 16000)
    >>> [(row["ID"], row["speaker"], row["duration"]) for row in scan_folder(folder)]
    [('mine-ann-a', 'ann', 0.5)]
    """
    sources = [source] if isinstance(source, str | os.PathLike) else list(source)
    rows: list[Row] = []
    problems: list[str] = []
    for row in (row for one in sources for row in _rows(_absolute(one), unknown_speaker)):
        try:
            row["duration"] = audio_duration_s(row["wav"])
        except AudioError as error:
            problems.append(str(error))
        else:
            rows.append(row)
    name = ", ".join(show_path(one) for one in sources) or "no folder"
    if problems and not skip_broken:
        raise ManifestError(name, problems)
    for problem in problems:
        logger.warning("left out %s", problem)
    if not rows:
        raise ManifestError(name, ["no speech found: give a folder with sound files or a manifest"])
    _make_ids_unique(rows)
    check_manifest(rows, files=False, disjoint_speakers=False, name=name)
    return rows


def _absolute(source: Source) -> Path:
    if "\0" in os.fspath(source):
        raise ManifestError(show_path(source), ["a path cannot hold a NUL character"])
    path = Path(os.path.abspath(source))  # noqa: PTH100 - a link keeps the name it was given
    if not path.exists():
        raise ManifestError(show_path(source), ["no such folder or manifest: check the path"])
    if path.is_file() and path.suffix.lower() != ".csv":
        raise ManifestError(show_path(source), ["is neither a folder nor a .csv manifest"])
    return path


def _rows(path: Path, unknown_speaker: str | None) -> Iterator[Row]:
    if path.is_file():
        yield from _rows_of_pack(path) if _is_metadata(path) else _rows_of_manifest(path)
        return
    packs = [table for table in _metadata_files(path) if _is_metadata(table)]
    for table in packs:
        yield from _rows_of_pack(table)
    inside = {table.parent for table in packs}
    yield from _rows_of_folder(
        path,
        [clip for clip in find_audio(path) if inside.isdisjoint(clip.parents)],
        unknown_speaker,
    )


def _metadata_files(folder: Path) -> list[Path]:
    found = sorted(folder.rglob(_METADATA))
    return [
        table
        for table in found
        if not any(part.startswith(".") for part in table.relative_to(folder).parts)
    ]


def _is_metadata(table: Path) -> bool:
    """Whether a table has the columns of a pack; other corpora use the same file name."""
    with table.open(encoding="utf-8-sig", errors="replace") as stream:
        return set(stream.readline().strip().split(",")) >= _METADATA_COLUMNS


def _rows_of_pack(table: Path) -> Iterator[Row]:
    corpus = table.parent.name
    for number, entry in enumerate(read_table(table), start=2):
        if Path(entry["path"]).is_absolute() or ".." in Path(entry["path"]).parts:
            raise ManifestError(
                show_path(table),
                [f"row {number}: path is {entry['path']!r}: it must lie below the table's folder"],
            )
        wav = table.parent / entry["path"]
        yield _row(corpus, entry["id"], wav, entry["speaker"] or "-", entry)


def _rows_of_manifest(path: Path) -> Iterator[Row]:
    rows = read_manifest(path, check=False)
    # Files are looked for when their durations are read, so that broken ones can be skipped.
    check_manifest(rows, files=False, disjoint_speakers=False, name=show_path(path))
    genuine = [row for row in rows if row.get("label") != "spoof"]
    if len(genuine) < len(rows):
        logger.info("%s: %d spoofed rows left out", show_path(path), len(rows) - len(genuine))
    for row in genuine:
        corpus = row.get("corpus") or path.stem
        yield _row(corpus, row["ID"], Path(row["wav"]), row.get("speaker") or "-", row)


def _rows_of_folder(folder: Path, clips: list[Path], unknown_speaker: str | None) -> Iterator[Row]:
    flat = sum(clip.parent == folder for clip in clips)
    if flat and unknown_speaker is None:
        logger.warning(
            "%s: speakers of %d clips are unknown, each counts as one of its own: "
            "put every speaker's clips into a folder named after the speaker",
            show_path(folder),
            flat,
        )
    for clip in clips:
        parts = clip.relative_to(folder).with_suffix("").parts
        speaker = parts[0] if len(parts) > 1 or unknown_speaker is None else unknown_speaker
        yield _row(folder.name, "-".join(parts), clip, speaker, {})


def _row(corpus: str, name: str, wav: Path, speaker: str, more: Mapping[str, str]) -> Row:
    corpus = corpus or "corpus"
    prefix = f"{corpus}-"
    row = {
        # A manifest that was scanned before has the prefix already.
        "ID": name if name.startswith(prefix) else prefix + name,
        "wav": str(wav),
        "label": "bonafide",
        "attack": "-",
        "speaker": speaker,
        "corpus": corpus,
    }
    return row | {column: more[column] for column in _KEPT_COLUMNS if more.get(column)}


def _make_ids_unique(rows: list[Row]) -> None:
    taken = {row["ID"] for row in rows}
    seen: set[str] = set()
    for row in rows:
        name, count = row["ID"], 1
        while row["ID"] in seen or (count > 1 and row["ID"] in taken):
            count += 1
            row["ID"] = f"{name}-{count}"
        seen.add(row["ID"])
