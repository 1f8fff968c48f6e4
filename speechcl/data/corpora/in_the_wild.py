"""In-the-Wild: genuine and spoofed speech of public figures, collected from the internet.

The attacks are not known, and neither is any split: speakers are to be dealt.
"""

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from speechcl.data.corpora.common import (
    Listing,
    Source,
    clip_row,
    collect_rows,
    find_path,
    pick,
    plain_name,
)
from speechcl.data.manifest_checks import Row

SOURCE = Source("InTheWild", "In-the-Wild: deepfake-total.com/in_the_wild")
COLUMNS = ("file", "speaker", "label")
LABELS = {"bona-fide": "bonafide", "spoof": "spoof"}


def read(folder: str | os.PathLike) -> list[Row]:
    """List the clips of In-the-Wild.

    Arguments
    ---------
    folder : str or os.PathLike
        ``release_in_the_wild``, or the folder that holds it.

    Returns
    -------
    list of dict
        Manifest rows without duration and with an empty ``split``.

    Raises
    ------
    CorpusNotFound
        If ``meta.csv`` is not there.
    ManifestError
        Listing the lines that are wrong.

    Example
    -------
    >>> folder = getfixture("tmp_path") / "release_in_the_wild"
    >>> folder.mkdir()
    >>> _ = (folder / "meta.csv").write_text("file,speaker,label\\n0.wav,Alec Guinness,spoof\\n")
    >>> [(row["ID"], row["speaker"], row["label"]) for row in read(folder)]
    [('InTheWild-0', 'Alec Guinness', 'spoof')]
    """
    path = find_path(SOURCE, folder, ["meta.csv", "release_in_the_wild/meta.csv"])
    make_row = partial(_row, clips=path.parent)
    listing = Listing(path, COLUMNS, make_row, separator=",", has_header=True)
    return collect_rows(SOURCE, [listing])


def _row(line: Mapping[str, str], clips: Path) -> Row:
    wav = clips / plain_name(line["file"])
    label = pick(line["label"], LABELS, "label")
    return clip_row(wav.stem, wav, label, split="", speaker=line["speaker"])
