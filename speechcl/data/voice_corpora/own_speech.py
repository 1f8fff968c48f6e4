"""Your own recordings with transcripts, as folders, packs or manifests."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from speechcl.data.manifest import read_manifest, read_table
from speechcl.data.manifest_checks import ManifestError, Row
from speechcl.data.scan import scan_folder
from speechcl.data.sound_files import show_path
from speechcl.data.voice_corpora.common import accent_name, keep_spoken, log_left_out, read_text

ADAPT = "adapt"
SPLITS = ("train", "valid", "test", ADAPT, "")
_TABLE = "metadata.csv"
_NOTED = {"split", "age"}

Path_ = str | os.PathLike


def read_own_speech(
    source: Path_ | Iterable[Path_], adapt: bool = False, unknown_speaker: str | None = None
) -> list[Row]:
    """List recordings with what is said in them.

    What :func:`speechcl.data.scan_folder` finds, each with a text: that of the manifest or pack,
    that of an LJSpeech-like ``metadata.csv`` (``id|text``, or ``id|text|normalised text``, beside
    a folder ``wavs``, all one speaker named as the folder is), or that of a ``.txt`` file beside
    the clip. Clips without text are left out, and counted.

    Arguments
    ---------
    source : str, os.PathLike or an iterable of them
        Folders, packs with a ``metadata.csv``, or manifests.
    adapt : bool
        Packs may mark speakers by the split ``adapt``: those to adapt to. They are left out, or,
        if true, they alone are listed, with an empty split.
    unknown_speaker : str, optional
        Who speaks in clips that lie in no folder; by default each is of a speaker of its own.

    Returns
    -------
    list of dict
        Manifest rows, with ``age`` where a pack has it. ``split`` is what a table says, else empty;
        where a corpus has clips for ``valid`` and none for ``test``, those are for ``test``.

    Raises
    ------
    ManifestError
        If nothing is found, no clip has a text, a split is unknown, or clips are broken.

    Example
    -------
    >>> import soundfile
    >>> folder = getfixture("tmp_path") / "mine"
    >>> (folder / "ann").mkdir(parents=True)
    >>> soundfile.write(folder / "ann" / "a.wav", [0.0] * 8000, 16000)
    >>> _ = (folder / "ann" / "a.txt").write_text("Hello.")
    >>> [(row["speaker"], row["text"], row["split"]) for row in read_own_speech(folder)]
    [('ann', 'Hello.', '')]
    """
    sources = [source] if isinstance(source, str | os.PathLike) else list(source)
    found = scan_folder(sources, unknown_speaker=unknown_speaker)
    # as the scan names them: a link keeps its name, ".." goes
    tables = [Path(os.path.abspath(one)) for one in sources]  # noqa: PTH100
    notes = {wav: note for one in tables for wav, note in _notes(one)}
    rows = []
    for row in found:
        row = {"text": "", **row, "split": "", **notes.get(row["wav"], {})}
        row["text"] = row["text"].strip() or read_text(Path(row["wav"]).with_suffix(".txt"))
        rows.append({**row, "accent": accent_name(row.get("accent", ""))})
    name = ", ".join(map(show_path, sources))
    return keep_spoken(name, _with_splits(name, rows, adapt))


def _with_splits(name: str, rows: list[Row], adapt: bool) -> list[Row]:
    """Choose who is adapted to or who is not; let ``valid`` stand in for ``test``."""
    odd = sorted({row["split"] for row in rows} - {*SPLITS})
    if odd:
        known = ", ".join(SPLITS[:-1])
        raise ManifestError(name, [f"split is {odd[0]!r}: write one of {known}, or nothing"])
    marked = sorted({row["speaker"] for row in rows if row["split"] == ADAPT})
    if adapt and not marked:
        raise ManifestError(name, [f"no speaker has the split {ADAPT!r}: mark those to adapt to"])
    if adapt:
        return [{**row, "split": ""} for row in rows if row["speaker"] in marked]
    log_left_out(name, f"speakers to adapt to, marked by the split {ADAPT}", marked)
    kept = [row for row in rows if row["speaker"] not in marked]
    tested = {row["corpus"] for row in kept if row["split"] == "test"}
    return [
        {**row, "split": "test"} if row["split"] == "valid" and row["corpus"] not in tested else row
        for row in kept
    ]


def _notes(source: Path) -> Iterator[tuple[str, Row]]:
    """Yield the path of each clip in a table with what the scan does not read from that table."""
    tables = [source] if source.is_file() else sorted(source.rglob(_TABLE))
    for table in tables:
        columns = _first_line(table).split(",")
        if "|" in columns[0] and (table.parent / "wavs").is_dir():
            yield from _lines_of_ljspeech(table)
        elif "split" in columns and "path" in columns:
            for entry in read_table(table):
                yield (
                    str(table.parent / entry["path"]),
                    {name: entry[name] for name in _NOTED & {*columns}},
                )
        elif "split" in columns and "wav" in columns:
            for row in read_manifest(table, check=False):
                yield row["wav"], {"split": row["split"]}


def _first_line(table: Path) -> str:
    with table.open(encoding="utf-8-sig", errors="replace") as stream:
        return stream.readline().strip()


def _lines_of_ljspeech(table: Path) -> Iterator[tuple[str, Row]]:
    # No CSV: quotation marks are signs of the text.
    try:
        lines = table.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ManifestError(show_path(table), ["not UTF-8: save it in UTF-8"]) from error
    clips = {clip.stem: clip for clip in (table.parent / "wavs").iterdir()}
    for name, *texts in (line.split("|") for line in lines):
        said = [text.strip() for text in texts if text.strip()]
        if name in clips and said:
            yield str(clips[name]), {"text": said[-1], "speaker": table.parent.name}
