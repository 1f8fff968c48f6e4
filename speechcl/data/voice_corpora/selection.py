"""Whose clips a voice is trained on, and which clips it is tested on."""

from __future__ import annotations

import difflib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from speechcl.data.manifest_checks import Row
from speechcl.data.pool import seed_for
from speechcl.data.voice_corpora.common import log_left_out

_FEWEST = 2  # clips of a speaker in a split, since a reference is another clip
_FEWEST_TO_HOLD_OUT_OF = 8


def choose_speakers(
    rows: Sequence[Row], wanted: int | str | Sequence[str | int] | None = None, seed: int = 0
) -> list[Row]:
    """Keep the clips of some speakers.

    Arguments
    ---------
    rows : sequence of dict
        Of a corpus.
    wanted : int, str or sequence, optional
        How many, drawn by the seed, or their names; by default all.
    seed : int
        More speakers drawn with the same seed are those of before and others.

    Returns
    -------
    list of dict
        Clips of named speakers in the order of the names, those of others in the old order.

    Raises
    ------
    ValueError
        If a name is unknown, or the number is below 1 or above that of the speakers.

    Example
    -------
    >>> rows = [{"speaker": name} for name in ("p225", "p226", "p227", "p225")]
    >>> [row["speaker"] for row in choose_speakers(rows, ["p227", "p225"])]
    ['p227', 'p225', 'p225']
    >>> len({row["speaker"] for row in choose_speakers(rows, 2)})
    2
    """
    if wanted is None:
        return list(rows)
    clips: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        clips[row["speaker"]].append(row)
    if isinstance(wanted, int):
        if not 1 <= wanted <= len(clips):
            raise ValueError(
                f"speakers is {wanted}: set it from 1 to {len(clips)}, or name them in a list"
            )
        drawn = sorted(clips, key=lambda name: seed_for(seed, name, "speakers"))[:wanted]
        return [row for row in rows if row["speaker"] in drawn]
    names = [wanted] if isinstance(wanted, str) else [str(name) for name in wanted]
    for name in names:
        if name not in clips:
            near = difflib.get_close_matches(name, clips, n=3, cutoff=0) or ["none"]
            raise ValueError(f"there is no speaker {name!r}: did you mean {' or '.join(near)}?")
    return [row for name in dict.fromkeys(names) for row in clips[name]]


def deal_clips(rows: Sequence[Row], test_share: float = 0.1, seed: int = 0) -> list[Row]:
    """Fill empty splits: a share of each speaker's clips is tested on, at least two.

    Speakers with fewer than four clips are trained on alone.

    Arguments
    ---------
    rows : sequence of dict
        With ``ID``, ``speaker`` and ``split``.
    test_share : float
        Above 0 and below 1.
    seed : int
        The same seed, IDs and speakers give the same split, in any order.

    Returns
    -------
    list of dict
        In the old order; those whose split was filled are returned as they are.

    Raises
    ------
    ValueError
        If the share is out of range.

    Example
    -------
    >>> rows = [{"ID": f"a{i}", "speaker": "a", "split": ""} for i in range(5)]
    >>> [row["split"] for row in deal_clips(rows)]
    ['train', 'test', 'train', 'test', 'train']
    """
    if not 0 < test_share < 1:
        raise ValueError(f"test_share is {test_share}: set it above 0 and below 1")
    open_places: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        if not row["split"]:
            open_places[row["speaker"]].append(place)
    result = list(rows)
    for places in open_places.values():
        places.sort(key=lambda place: seed_for(seed, rows[place]["ID"], "split"))
        tests = max(_FEWEST, round(test_share * len(places)))
        tests = min(tests, len(places) - _FEWEST)  # below two if there are too few
        for rank, place in enumerate(places):
            tested = tests >= _FEWEST and rank < tests
            result[place] = {**rows[place], "split": "test" if tested else "train"}
    return result


def keep_pairs(rows: Sequence[Row], in_both: bool = False) -> list[Row]:
    """Keep speakers with two clips or more in a split, since a reference is another clip.

    Arguments
    ---------
    rows : sequence of dict
        With ``speaker`` and ``split``, train or test.
    in_both : bool
        Whether speakers who are not both trained and tested on are left out whole.

    Returns
    -------
    list of dict
        In the old order.

    Raises
    ------
    ValueError
        If nobody is left to train or to test on.

    Example
    -------
    >>> splits = [("a", "train"), ("b", "train"), ("a", "train"), ("a", "test"), ("a", "test")]
    >>> rows = [{"speaker": name, "split": split} for name, split in splits]
    >>> [row["speaker"] for row in keep_pairs(rows)]
    ['a', 'a', 'a', 'a']
    """
    clips = Counter((row["speaker"], row["split"]) for row in rows)
    paired = {key for key, count in clips.items() if count >= _FEWEST}
    if in_both:
        names = {name for name, _ in paired}
        both = {name for name in names if {(name, "train"), (name, "test")} <= paired}
        paired = {key for key in paired if key[0] in both}
    alone = [f"{name} ({split})" for name, split in clips if (name, split) not in paired]
    log_left_out("speakers", "with too few clips: two are needed to train and two to test", alone)
    for split in ("train", "test"):
        if not any(key[1] == split for key in paired):
            raise ValueError(
                f"nobody has two clips to {split} on ({len(rows)} clips of "
                f"{len({row['speaker'] for row in rows})} speakers): a speaker needs four clips or "
                "more; put every speaker's clips into a folder named after the speaker"
            )
    return [row for row in rows if (row["speaker"], row["split"]) in paired]


def describe_voices(found: Sequence[Row], left_out: Mapping[str, str], used: Sequence[Row]) -> str:
    """Return a table of what was found in each corpus, what of it is used, and why not all.

    Arguments
    ---------
    found : sequence of dict
        Rows before anything was left out.
    left_out : mapping
        ID to reason, see :func:`speechcl.data.voice_corpora.prepare_voices`.
    used : sequence of dict
        Rows that are used, with ``duration`` in seconds.

    Example
    -------
    >>> row = {"corpus": "VCTK", "speaker": "p225", "split": "train", "duration": 1800.0}
    >>> print(describe_voices([{**row, "ID": one} for one in "ab"], {"b": "under 1 s"}, [row]))
    corpus           clips  speakers   train    test   hours  left out
    VCTK                 2         1       1       0    0.50  1 (1 under 1 s)
    """
    lines = ["corpus           clips  speakers   train    test   hours  left out"]
    for corpus in dict.fromkeys(row["corpus"] for row in found):
        mine, kept = ([row for row in one if row["corpus"] == corpus] for one in (found, used))
        sides = Counter(row["split"] for row in kept)
        reasons = Counter(left_out[row["ID"]] for row in mine if row["ID"] in left_out)
        rest = len(mine) - len(kept) - reasons.total()
        if rest:
            reasons["too few of the speaker"] = rest
        why = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        lines.append(
            f"{corpus[:14]:<14}{len(mine):>8}{len({row['speaker'] for row in kept}):>10}"
            f"{sides['train']:>8}{sides['test']:>8}"
            f"{sum(row['duration'] for row in kept) / 3600:>8.2f}"
            f"  {reasons.total()}{f' ({why})' if why else ''}"
        )
    return "\n".join(lines)


def hold_out(
    rows: Sequence[Mapping[str, Any]], share: float, seed: int = 0
) -> list[dict[str, Any]]:
    """Hold a share of each speaker's training clips out, at least two, to stop training early.

    Of a speaker with fewer than eight such clips none is held out.

    Arguments
    ---------
    rows : Sequence
        Manifest rows with ``ID``, ``speaker`` and ``split``.
    share : float
        From 0, for no clip at all, to below 1.
    seed : int
        The same seed, IDs and speakers give the same clips, in any order.

    Returns
    -------
    list of dict
        In the old order; the split of those held out is "valid".

    Raises
    ------
    ValueError
        If the share is out of range.

    Example
    -------
    >>> rows = [{"ID": f"a{i}", "speaker": "a", "split": "train"} for i in range(8)]
    >>> [row["split"] for row in hold_out(rows, 0.1)].count("valid")
    2
    >>> [row["split"] for row in hold_out(rows[1:], 0.1)].count("valid")
    0
    """
    if not 0 <= share < 1:
        raise ValueError(f"valid_share is {share}: set it to 0 or more, and below 1")
    places_of: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        if row["split"] == "train":
            places_of.setdefault(row["speaker"], []).append(place)
    result = [dict(row) for row in rows]
    for places in places_of.values():
        if share and len(places) >= _FEWEST_TO_HOLD_OUT_OF:
            places.sort(key=lambda place: seed_for(seed, rows[place]["ID"], "held out"))
            count = min(max(2, round(share * len(places))), len(places) - 2)
            for place in places[:count]:
                result[place]["split"] = "valid"
    return result
