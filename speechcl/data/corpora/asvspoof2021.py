"""ASVspoof 2021, tracks LA (sent over telephone lines) and DF (compressed), for evaluation only.

Clips and keys are given out apart. Neither track has a training part: speakers are to be dealt.
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
    same,
)
from speechcl.data.manifest_checks import LABELS, Row

_KEYS_AT = "keys from asvspoof.org, {track}-keys-full.tar.gz"
SOURCES = {
    "LA": Source(
        "ASVspoof2021LA", f"ASVspoof 2021 LA: Zenodo 4837263, {_KEYS_AT.format(track='LA')}"
    ),
    "DF": Source(
        "ASVspoof2021DF", f"ASVspoof 2021 DF: Zenodo 4835108, {_KEYS_AT.format(track='DF')}"
    ),
}
SUBSETS = ("eval", "progress", "hidden")
# The last four values of a DF line tell task, team, gender and language where they are known.
COLUMNS = {
    "LA": ("speaker", "utterance", "codec", "line", "attack", "key", "trim", "subset"),
    "DF": ("speaker", "utterance", "codec", "corpus", "attack", "key", "trim", "subset")
    + ("vocoder", "task", "team", "gender", "language"),
}
KEYS = same(LABELS)
NO_CODEC = ("none", "nocodec")
NO_ATTACK = ("-", "bonafide")


def read(
    folder: str | os.PathLike, subsets: Sequence[str] = ("eval",), track: str = "LA"
) -> list[Row]:
    """List the clips of one track of ASVspoof 2021.

    Arguments
    ---------
    folder : str or os.PathLike
        Holds ``ASVspoof2021_LA_eval`` (or ``_DF_eval``) and ``keys``; either may also lie one
        level up.
    subsets : sequence of str
        Among ``eval``, which is what the challenge reports, ``progress`` and ``hidden``.
    track : str
        ``LA`` or ``DF``.

    Returns
    -------
    list of dict
        Manifest rows without duration and with an empty ``split``; ``processing`` is the codec.

    Raises
    ------
    CorpusNotFound
        If clips or keys are not there.
    ManifestError
        Listing the lines that are wrong.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> for name in ("ASVspoof2021_LA_eval/flac", "keys/LA/CM"):
    ...     (folder / name).mkdir(parents=True)
    >>> _ = (folder / "keys" / "LA" / "CM" / "trial_metadata.txt").write_text(
    ...     "LA_0009 LA_E_9332881 alaw ita_tx A07 spoof notrim eval\\n")
    >>> [(row["attack"], row["processing"]) for row in read(folder)]
    [('A07', 'alaw')]
    """
    if track not in SOURCES:
        raise ValueError(f"track is {track!r}: choose {' or '.join(SOURCES)}")
    source = SOURCES[track]
    check_parts(source, subsets, SUBSETS)
    clips = find_path(source, folder, [f"ASVspoof2021_{track}_eval/flac", "flac"])
    below = f"{track}/CM/trial_metadata.txt"
    roots = ("keys", f"{track}-keys-full/keys")
    path = find_path(source, folder, [f"{root}/{below}" for root in roots])

    make_row = partial(_row, clips=clips, subsets=subsets)
    return collect_rows(source, [Listing(path, COLUMNS[track], make_row)])


def _row(line: Mapping[str, str], clips: Path, subsets: Sequence[str]) -> Row | None:
    label = pick(line["key"], KEYS, "key")
    attack, codec = line["attack"], line["codec"]
    if (attack in NO_ATTACK) != (label == "bonafide"):
        raise ValueError(f"attack is {attack!r} but key is {label!r}")
    if pick(line["subset"], same(SUBSETS), "subset") not in subsets:
        return None
    utterance = plain_name(line["utterance"])
    return clip_row(
        utterance,
        clips / f"{utterance}.flac",
        label,
        split="",
        attack=attack,
        speaker=line["speaker"],
        processing="-" if codec in NO_CODEC else codec,
    )
