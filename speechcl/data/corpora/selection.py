"""From all clips of public corpora to those that are used: dealt, chosen, opened, described."""

import logging
import os
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice, zip_longest
from pathlib import Path

from tqdm import tqdm

from speechcl.data.corpora.common import UNKNOWN_ATTACK
from speechcl.data.manifest import write_manifest
from speechcl.data.manifest_checks import UNKNOWN_SPEAKERS, ManifestError, Row, check_manifest
from speechcl.data.sound_files import AudioError, audio_duration_s
from speechcl.data.splits import split_by_speaker

logger = logging.getLogger(__name__)

# A name such as LA_0009 is one person in all of these, who must not be on both sides.
_SHARED_SPEAKERS = frozenset({"ASVspoof2019LA", "ASVspoof2021LA", "ASVspoof2021DF"})
# Given out with a few files that cannot be read.
_OFFICIALLY_BROKEN = frozenset({"FoR"})
_SHOWN_CLIPS = 5


def deal_speakers(
    rows: Sequence[Row], fractions: Mapping[str, float] | None = None, seed: int = 0
) -> list[Row]:
    """Fill the split of rows whose corpus leaves it open, each speaker on one side.

    Corpora that share speakers are dealt together. Where speakers are unknown, clips are dealt.

    Arguments
    ---------
    rows : sequence of dict
        What the readers return, of any number of corpora.
    fractions : mapping, optional
        Split name to share of the clips; see :func:`speechcl.data.split_by_speaker`.
    seed : int
        The same seed and rows give the same split.

    Returns
    -------
    list of dict
        In the old order; rows whose split was filled are returned as they are, others as copies.

    Raises
    ------
    ValueError
        If a corpus has fewer speakers than there are splits.

    Example
    -------
    >>> rows = [{"corpus": "InTheWild", "speaker": name, "split": ""} for name in "abcd"]
    >>> Counter(row["split"] for row in deal_speakers(rows, {"train": 0.75, "test": 0.25}))
    Counter({'train': 3, 'test': 1})
    """
    open_places: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        if not row["split"]:
            shared = row["corpus"] in _SHARED_SPEAKERS
            open_places["ASVspoof 2019 and 2021" if shared else row["corpus"]].append(place)
    result = list(rows)
    for name, places in open_places.items():
        try:
            dealt = split_by_speaker([rows[place] for place in places], fractions, seed)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        for place, row in zip(places, dealt, strict=True):
            result[place] = row
    return result


def cap_per_class(rows: Sequence[Row], maximum: Mapping[str, int], seed: int = 0) -> list[Row]:
    """Keep so many genuine and so many spoofed clips of each corpus and split.

    Attacks get equal shares of the spoofed clips as far as their clips last.

    Arguments
    ---------
    rows : sequence of dict
        With ``corpus``, ``split``, ``label`` and ``attack``.
    maximum : mapping
        Split name to clips of each class, at least 1.
    seed : int
        The same seed and rows give the same clips.

    Returns
    -------
    list of dict
        Those kept, in the old order.

    Raises
    ------
    ValueError
        If a maximum is below 1, or a split has none.

    Example
    -------
    >>> row = {"corpus": "FoR", "split": "test", "label": "spoof"}
    >>> rows = [{**row, "attack": attack} for attack in "aaaaaab"]
    >>> [row["attack"] for row in cap_per_class(rows, {"test": 3})]
    ['a', 'a', 'b']
    """
    if min(maximum.values()) < 1:
        raise ValueError(f"clips of each class are {dict(maximum)}: keep at least 1")
    unknown = {row["split"] for row in rows} - maximum.keys()
    if unknown:
        raise ValueError(f"splits are {sorted(unknown)}: only {', '.join(maximum)} are expected")
    kept: set[int] = set()
    for key, by_attack in _groups(rows, ("corpus", "split", "label")):
        for places in by_attack:
            _draw(seed, key).shuffle(places)
        # one clip of each attack a turn; an attack whose clips are used up sits out
        turns = (place for turn in zip_longest(*by_attack) for place in turn)
        kept.update(islice((place for place in turns if place is not None), maximum[key[1]]))
    return [row for place, row in enumerate(rows) if place in kept]


def keep_share(rows: Sequence[Row], share: float, seed: int = 0) -> list[Row]:
    """Keep a share of the clips of each attack and of the genuine ones, so that proportions stay.

    Arguments
    ---------
    rows : sequence of dict
        With ``corpus``, ``split`` and ``attack``.
    share : float
        Above 0, at most 1; at least one clip of each kind is kept.
    seed : int
        The same seed and rows give the same clips.

    Returns
    -------
    list of dict
        Those kept, in the old order.

    Raises
    ------
    ValueError
        If the share is not in that range.

    Example
    -------
    >>> rows = [{"corpus": "x", "split": "train", "attack": attack} for attack in "aaaabb"]
    >>> [row["attack"] for row in keep_share(rows, 0.5)]
    ['a', 'a', 'b']
    """
    if not 0 < share <= 1:
        raise ValueError(f"the share of clips to keep is {share}: it must be above 0, at most 1")
    kept: set[int] = set()
    for key, by_attack in _groups(rows, ("corpus", "split")):
        for places in by_attack:
            kept.update(_draw(seed, key).sample(places, max(1, round(share * len(places)))))
    return [row for place, row in enumerate(rows) if place in kept]


def open_clips(rows: Sequence[Row]) -> list[Row]:
    """Look for every clip, read its duration from its header, and check the rows as a manifest.

    Call it for chosen clips only: it opens every file. Clips that cannot be read are left out
    with a warning where a corpus is known for them (FoR), and are errors elsewhere.

    Arguments
    ---------
    rows : sequence of dict
        With ``wav`` and the rest of a manifest's columns.

    Returns
    -------
    list of dict
        Copies with ``duration`` in seconds.

    Raises
    ------
    ManifestError
        Listing all clips that are missing or broken, with their lines in the corpus's lists.

    Example
    -------
    >>> import soundfile
    >>> path = getfixture("tmp_path") / "a.wav"
    >>> soundfile.write(path, [0.0] * 8000, 16000)
    >>> row = {"ID": "a", "wav": str(path), "corpus": "FoR", "listed": "a.wav"}
    >>> [row["duration"] for row in open_clips([row])]
    [0.5]
    """
    opened: list[Row] = []
    problems: list[str] = []
    left_out: dict[str, list[str]] = defaultdict(list)
    for row in tqdm(rows, desc="clips", unit="clip", leave=False, dynamic_ncols=True):
        try:
            opened.append({**row, "duration": audio_duration_s(row["wav"])})
        except AudioError as error:
            if row["corpus"] in _OFFICIALLY_BROKEN:
                left_out[row["corpus"]].append(str(error))
            else:
                problems.append(f"{row['listed']}: {error}")
    name = ", ".join(dict.fromkeys(row["corpus"] for row in rows)) or "no corpus"
    if problems:
        raise ManifestError(name, problems)
    for corpus, errors in left_out.items():
        shown = "; ".join(errors[:_SHOWN_CLIPS])
        logger.warning("%s: %d clips cannot be read, left out: %s", corpus, len(errors), shown)
    check_manifest(opened, files=False, name=name)
    return opened


def prepare_clips(
    found: Sequence[Row], choose: Callable[[Sequence[Row]], list[Row]], folder: str | os.PathLike
) -> list[Row]:
    """Choose among the clips found, open those chosen, and write their manifest.

    Arguments
    ---------
    found : sequence of dict
        What the readers return, with every split filled.
    choose : callable
        Rows to rows, such as :func:`cap_per_class` with its numbers.
    folder : str or os.PathLike
        Where ``manifest.csv`` goes.

    Returns
    -------
    list of dict
        Manifest rows.

    Raises
    ------
    ManifestError
        As :func:`open_clips` does.

    Example
    -------
    >>> import soundfile
    >>> folder = getfixture("tmp_path")
    >>> soundfile.write(folder / "a.wav", [0.0] * 8000, 16000)
    >>> row = {"ID": "a", "wav": str(folder / "a.wav"), "corpus": "FoR", "listed": "a.wav"}
    >>> rows = prepare_clips([row], list, folder)
    >>> len(rows), (folder / "manifest.csv").is_file()
    (1, True)
    """
    rows = open_clips(choose(found))
    write_manifest(Path(folder) / "manifest.csv", rows)
    return rows


def describe(found: Sequence[Row], used: Sequence[Row]) -> str:
    """Return a table of what was found in each corpus and what of it is used.

    Arguments
    ---------
    found, used : sequence of dict
        Rows before and after choosing.

    Returns
    -------
    str

    Example
    -------
    >>> row = {"corpus": "FoR", "label": "spoof", "attack": "a", "speaker": "-", "split": "test"}
    >>> print(describe([row, row], [row]))
    corpus  genuine  spoofed  attacks  speakers  train  test  used: train  test
    FoR           0        2        1         -      0     2            0     1
    """
    header = ("corpus", "genuine", "spoofed", "attacks", "speakers", "train", "test")
    lines = [(*header, "used: train", "test")]
    for corpus in dict.fromkeys(row["corpus"] for row in found):
        mine = [row for row in found if row["corpus"] == corpus]
        labels = Counter(row["label"] for row in mine)
        attacks = {row["attack"] for row in mine if row["label"] == "spoof"} - {UNKNOWN_ATTACK}
        speakers = {row["speaker"] for row in mine}.difference(UNKNOWN_SPEAKERS)
        chosen = [row for row in used if row["corpus"] == corpus]
        counts = (labels["bonafide"], labels["spoof"], len(attacks) or "-", len(speakers) or "-")
        lines.append((corpus, *map(str, (*counts, *_sides(mine), *_sides(chosen)))))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])],
        )
        for line in lines
    )


def _sides(rows: Iterable[Row]) -> tuple[int, int]:
    splits = Counter(row["split"] for row in rows)
    return splits["train"], splits["test"]


def _groups(
    rows: Sequence[Row], columns: Sequence[str]
) -> Iterator[tuple[tuple[str, ...], list[list[int]]]]:
    """Yield each combination of values with the places of its rows, a list for each attack."""
    groups: dict[tuple, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for place, row in enumerate(rows):
        groups[tuple(row[column] for column in columns)][row["attack"]].append(place)
    for key, by_attack in groups.items():
        yield key, [by_attack[attack] for attack in sorted(by_attack)]


def _draw(seed: int, key: tuple[str, ...]) -> random.Random:
    """Return a generator of the group's own, so that no corpus changes another's clips."""
    return random.Random(f"{seed} {key}")
