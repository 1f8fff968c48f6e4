"""ESLTTS: English read by 134 people of 31 native languages, made to adapt voices to.

Each speaker has about five minutes to adapt to, ten utterances to test on, and the rest.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from speechcl.data.corpora.common import Source, check_parts, find_path
from speechcl.data.manifest_checks import Row
from speechcl.data.voice_corpora.common import log_left_out, open_spoken, read_text, spoken_row

SOURCE = Source("ESLTTS", "ESLTTS: huggingface.co/datasets/MushanW/ESLTTS")
SUBSETS = {"ada": "train", "dev": "valid", "test": "test"}


def read_esltts(folder: str | os.PathLike, subsets: Sequence[str] = ("ada", "test")) -> list[Row]:
    """List the clips of ESLTTS that have a text.

    Arguments
    ---------
    folder : str or os.PathLike
        ``ESLTTS Dataset``, whatever it is called by now, or the folder above.
    subsets : sequence of str
        ``ada`` becomes split ``train``, ``test`` stays, ``dev`` becomes ``valid``.

    Returns
    -------
    list of dict
        Manifest rows by language and number; the native language is the ``accent``.

    Raises
    ------
    CorpusNotFound
        If it is not there.
    ManifestError
        Listing clips that cannot be opened; or if no clip has a text.

    Example
    -------
    >>> import soundfile
    >>> folder = getfixture("tmp_path") / "ESLTTS Dataset"
    >>> (folder / "Malayalam_3").mkdir(parents=True)
    >>> soundfile.write(folder / "Malayalam_3" / "ada_1.flac", [0.0] * 16000, 16000)
    >>> _ = (folder / "Malayalam_3" / "ada_1.txt").write_text("Good morning.")
    >>> [(r["ID"], r["accent"], r["split"]) for r in read_esltts(folder)]
    [('ESLTTS-Malayalam_3-ada_1', 'Malayalam', 'train')]
    """
    check_parts(SOURCE, subsets, SUBSETS)
    folder = Path(folder)
    root = folder if any(_clips(folder)) else find_path(SOURCE, folder, ["ESLTTS Dataset"])
    rows: list[Row] = []
    odd = []
    for clip in sorted(_clips(root), key=_order):
        (language, _), (subset, number) = _parts(clip.parent.name), _parts(clip.stem)
        name = f"{clip.parent.name}-{clip.stem}"
        if subset not in SUBSETS or not number:
            odd.append(name)
        elif subset in subsets:
            text, split = read_text(clip.with_suffix(".txt")), SUBSETS[subset]
            rows.append(
                spoken_row(SOURCE, name, clip, clip.parent.name, text, accent=language, split=split)
            )
    log_left_out(SOURCE.name, f"clips of none of {', '.join(SUBSETS)}", odd)
    return open_spoken(SOURCE.name, rows)


def _clips(root: Path) -> Iterator[Path]:
    """Yield the clips of every folder that is named like a speaker."""
    for clip in root.glob("*_*/*.flac"):
        if clip.name[0] != "." and _parts(clip.parent.name)[1]:
            yield clip


def _parts(name: str) -> tuple[str, str]:
    """Return what stands before the last underscore, and the number behind it, empty if none."""
    before, _, number = name.rpartition("_")
    return before, number if number.isdecimal() else ""


def _order(clip: Path) -> tuple[str, int, str, int]:
    """Sort by numbers as numbers."""
    (language, speaker), (subset, number) = _parts(clip.parent.name), _parts(clip.stem)
    return language, int(speaker), subset, int(number or 0)
