"""FMFCC-A: Mandarin speech by thirteen synthesis and conversion systems, 40,000 of 50,000 spoofed.

Copies of part of the clips, genuine ones too, went through AAC or MP3 coding or had noise added.
The list names neither speakers nor a split, so that clips are dealt one by one: a voice may be
heard in training and in test, and the error is then lower than it would be for new voices.
"""

import os
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from speechcl.data.corpora.common import (
    AudioIndex,
    Listing,
    Source,
    clip_row,
    collect_rows,
    find_path,
    pick,
)
from speechcl.data.manifest_checks import Row

SOURCE = Source("FMFCC-A", "FMFCC-A: github.com/Amforever/FMFCC-A")
COLUMNS = ("file", "label", "system")
LABELS = {"1": "bonafide", "0": "spoof"}
_SYSTEM = re.compile(r"(N01|A0[1-9]|A1[0-3])(?:_(AAC|MP3|ND02|ND1))?")


def read(folder: str | os.PathLike, processed: bool = True) -> list[Row]:
    """List the clips of FMFCC-A.

    Arguments
    ---------
    folder : str or os.PathLike
        Holds ``AllUtteranceInfo.txt``, and the clips at any depth.
    processed : bool
        Whether clips that were coded or made noisy take part.

    Returns
    -------
    list of dict
        Manifest rows without duration and with an empty ``split``; ``processing`` is AAC, MP3,
        ND02 or ND1.

    Raises
    ------
    CorpusNotFound
        If the list is not there.
    ManifestError
        Listing the lines that are wrong.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "AllUtteranceInfo.txt").write_text("1.wav,0,A13_AAC\\r\\n2.wav,1,N01\\r\\n")
    >>> [(row["label"], row["attack"], row["processing"]) for row in read(folder)]
    [('spoof', 'A13', 'AAC'), ('bonafide', '-', '-')]
    """
    path = find_path(SOURCE, folder, ["AllUtteranceInfo.txt"])
    make_row = partial(_row, clips=AudioIndex(Path(folder)), processed=processed)
    return collect_rows(SOURCE, [Listing(path, COLUMNS, make_row, separator=",")])


def _row(line: Mapping[str, str], clips: AudioIndex, processed: bool) -> Row | None:
    label = pick(line["label"], LABELS, "label")
    system = _SYSTEM.fullmatch(line["system"])
    if system is None:
        raise ValueError(f"system is {line['system']!r}, not N01 or A01 to A13 with a suffix")
    attack, processing = system[1], system[2] or "-"
    if (attack == "N01") != (label == "bonafide"):
        raise ValueError(f"system is {attack} but label is {line['label']}")
    if processing != "-" and not processed:
        return None
    wav = clips[line["file"]]
    return clip_row(wav.stem, wav, label, split="", attack=attack, processing=processing)
