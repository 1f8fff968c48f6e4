"""ASVspoof 2015: ten attacks by voice conversion and speech synthesis, clean speech.

A folder's name is a speaker: T1 to T25 for training, D1 to D35 for development, E1 to E46 for
evaluation. Attacks S1 to S5 occur in all parts, S6 to S10 in the evaluation part only.
"""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from speechcl.data.corpora.common import (
    Listing,
    Source,
    check_parts,
    clip_row,
    collect_rows,
    find_path,
    pick,
    plain_name,
)
from speechcl.data.manifest_checks import Row

SOURCE = Source("ASVspoof2015", "ASVspoof 2015: Edinburgh DataShare 10283/853")
# part: its list, and the split that its clips belong to; the speakers of evaluation are dealt
PARTS = {
    "train": ("cm_train.trn", "train"),
    "develop": ("cm_develop.ndx", "test"),
    "evaluation": ("cm_evaluation.ndx", ""),
}
COLUMNS = ("folder", "utterance", "method", "key")
KEYS = {"human": "bonafide", "spoof": "spoof"}
ATTACKS = {f"S{number}": f"S{number}" for number in range(1, 11)}


def read(folder: str | os.PathLike, parts: Sequence[str] = tuple(PARTS)) -> list[Row]:
    """List the clips of ASVspoof 2015.

    Arguments
    ---------
    folder : str or os.PathLike
        Holds ``wav`` and ``CM_protocol``; the latter may also lie one level up.
    parts : sequence of str
        Among ``train``, ``develop`` and ``evaluation``.

    Returns
    -------
    list of dict
        Manifest rows without duration; ``split`` is train for the training part, test for
        development, and empty for evaluation, whose speakers are to be dealt.

    Raises
    ------
    CorpusNotFound
        If clips or lists are not there.
    ManifestError
        Listing the lines that are wrong.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> for name in ("CM_protocol", "wav"):
    ...     (folder / name).mkdir()
    >>> _ = (folder / "CM_protocol" / "cm_train.trn.txt").write_text("T1 T1_1 S3 spoof\\n")
    >>> [(row["attack"], row["speaker"], row["split"]) for row in read(folder, ["train"])]
    [('S3', 'T1', 'train')]
    """
    check_parts(SOURCE, parts, PARTS)
    wav = find_path(SOURCE, folder, ["wav"])
    listings = []
    for part in parts:
        name, split = PARTS[part]
        path = find_path(SOURCE, folder, [f"CM_protocol/{name}"])
        listings.append(Listing(path, COLUMNS, partial(_row, wav=wav, split=split)))
    return collect_rows(SOURCE, listings)


def _row(line: Mapping[str, str], wav: Path, split: str) -> Row:
    label = pick(line["key"], KEYS, "key")
    attack = pick(line["method"], ATTACKS if label == "spoof" else {"human": "-"}, "method")
    speaker, utterance = plain_name(line["folder"]), plain_name(line["utterance"])
    path = wav / speaker / f"{utterance}.wav"
    return clip_row(utterance, path, label, split=split, attack=attack, speaker=speaker)
