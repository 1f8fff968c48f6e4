"""ASVspoof 2019 LA: nineteen attacks on clean speech, about one clip in ten genuine.

A01 to A06 occur in the train and dev parts, A07 to A19 in eval; no speaker is in two parts.
"""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from speechcl.data.corpora.common import (
    Listing,
    Source,
    check_parts,
    clip_row,
    collect_rows,
    find_path,
    name_values,
    pick,
    plain_name,
    read_lines,
    same,
)
from speechcl.data.manifest_checks import LABELS, ManifestError, Row

SOURCE = Source("ASVspoof2019LA", "ASVspoof 2019 LA: Edinburgh DataShare 10283/3336")
# part: its list, and the split that its clips belong to; the speakers of eval are dealt
PARTS = {
    "train": ("ASVspoof2019.LA.cm.train.trn.txt", "train"),
    "dev": ("ASVspoof2019.LA.cm.dev.trl.txt", "test"),
    "eval": ("ASVspoof2019.LA.cm.eval.trl.txt", ""),
}
COLUMNS = ("speaker", "utterance", "unused", "attack", "key")
KEYS = same(LABELS)
KNOWN = tuple(f"A{number:02d}" for number in range(1, 7))
UNKNOWN = tuple(f"A{number:02d}" for number in range(7, 20))
SCORE_COLUMNS = ("attack", "key", "score")
SCORE_KEYS = ("target", "nontarget", "spoof")


def read(folder: str | os.PathLike, parts: Sequence[str] = tuple(PARTS)) -> list[Row]:
    """List the clips of ASVspoof 2019 LA.

    Arguments
    ---------
    folder : str or os.PathLike
        ``LA``, or the folder that holds it. The protocols may also lie one level up.
    parts : sequence of str
        Among ``train``, ``dev`` and ``eval``.

    Returns
    -------
    list of dict
        Manifest rows without duration; ``split`` is train for train, test for dev, and empty for
        eval, whose speakers are to be dealt.

    Raises
    ------
    CorpusNotFound
        If clips or lists are not there.
    ManifestError
        Listing the lines that are wrong.

    Example
    -------
    >>> folder = getfixture("tmp_path") / "LA"
    >>> for name in ("ASVspoof2019_LA_cm_protocols", "ASVspoof2019_LA_train/flac"):
    ...     (folder / name).mkdir(parents=True)
    >>> list_ = folder / "ASVspoof2019_LA_cm_protocols" / "ASVspoof2019.LA.cm.train.trn.txt"
    >>> _ = list_.write_text("LA_0079 LA_T_1138215 - A01 spoof\\n")
    >>> [(row["ID"], row["attack"], row["split"]) for row in read(folder, ["train"])]
    [('ASVspoof2019LA-LA_T_1138215', 'A01', 'train')]
    """
    check_parts(SOURCE, parts, PARTS)
    listings = []
    for part in parts:
        name, split = PARTS[part]
        flac = f"ASVspoof2019_LA_{part}/flac"
        clips = find_path(SOURCE, folder, [f"LA/{flac}", flac])
        path = find_path(SOURCE, folder, _below("cm_protocols", name))
        attacks = UNKNOWN if part == "eval" else KNOWN
        make_row = partial(_row, clips=clips, split=split, attacks=attacks)
        listings.append(Listing(path, COLUMNS, make_row))
    return collect_rows(SOURCE, listings)


def parts_with(attacks: Sequence[str]) -> list[str]:
    """Return the parts in which attacks occur.

    Raises
    ------
    ValueError
        If an attack is not one of A01 to A19.

    Example
    -------
    >>> parts_with(["A01", "A06"]), parts_with(["A19"])
    (['train', 'dev'], ['eval'])
    """
    wrong = [attack for attack in attacks if attack not in KNOWN + UNKNOWN]
    if wrong or not attacks:
        raise ValueError(f"attacks are {list(attacks)}: name one or more of A01 to A19")
    parts = ["train", "dev"] if set(attacks) & set(KNOWN) else []
    return parts + (["eval"] if set(attacks) & set(UNKNOWN) else [])


def asv_scores(
    folder: str | os.PathLike, part: str = "eval"
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Read the organisers' speaker verification scores, for ``speechcl.metrics.min_tdcf``.

    Arguments
    ---------
    folder : str or os.PathLike
        As in :func:`read`.
    part : str
        ``dev`` or ``eval``.

    Returns
    -------
    tuple of arrays
        Scores of target, nontarget and spoofed trials, each (n,), in the order of the file.

    Raises
    ------
    CorpusNotFound
        If the file is not there.
    ManifestError
        Listing the lines that are wrong, or naming the kind of trial that is missing.

    Source
    ------
    File layout: columns attack, key and score, as the challenge's own t-DCF script reads them.

    Example
    -------
    >>> folder = getfixture("tmp_path") / "ASVspoof2019_LA_asv_scores"
    >>> folder.mkdir()
    >>> _ = (folder / "ASVspoof2019.LA.asv.eval.gi.trl.scores.txt").write_text(
    ...     "- target 2.5\\n- nontarget -1.0\\nA07 spoof 0.5\\n")
    >>> asv_scores(folder.parent)
    (array([2.5]), array([-1.]), array([0.5]))
    """
    check_parts(SOURCE, [part], ["dev", "eval"])
    name = f"ASVspoof2019.LA.asv.{part}.gi.trl.scores.txt"
    path = find_path(SOURCE, folder, _below("asv_scores", name))
    listing = Listing(path, SCORE_COLUMNS, dict)
    scores: dict[str, list[float]] = {key: [] for key in SCORE_KEYS}
    problems = []
    for number, values in read_lines(SOURCE, listing):
        try:
            line = name_values(listing, values)
            key = pick(line["key"], same(SCORE_KEYS), "key")
            scores[key].append(float(line["score"]))
        except ValueError as error:
            problems.append(f"{name} line {number}: {error}")
    problems += [f"{name} has no {key} trials" for key, found in scores.items() if not found]
    if problems:
        raise ManifestError(SOURCE.name, problems)
    target, nontarget, spoof = (np.array(scores[key]) for key in SCORE_KEYS)
    return target, nontarget, spoof


def _row(line: Mapping[str, str], clips: Path, split: str, attacks: Sequence[str]) -> Row:
    label = pick(line["key"], KEYS, "key")
    attack = pick(line["attack"], same(attacks if label == "spoof" else ["-"]), "attack")
    utterance = plain_name(line["utterance"])
    path = clips / f"{utterance}.flac"
    speaker = line["speaker"]
    return clip_row(utterance, path, label, split=split, attack=attack, speaker=speaker)


def _below(kind: str, name: str) -> list[str]:
    path = f"ASVspoof2019_LA_{kind}/{name}"
    return [f"LA/{path}", path]
