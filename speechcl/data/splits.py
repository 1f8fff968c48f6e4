"""Choosing clips by speaker: how many of each, and who is trained on and who is tested."""

import random
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from speechcl.data.manifest_checks import UNKNOWN_SPEAKERS, Row


def cap_per_speaker(rows: Sequence[Mapping[str, Any]], maximum: int, seed: int = 0) -> list[Row]:
    """Keep at most so many clips of each speaker, chosen at random, in their old order.

    Arguments
    ---------
    rows : sequence of mapping
        Manifest rows. A clip whose speaker is unknown counts as a speaker of its own.
    maximum : int
        Clips to keep of each speaker, at least 1.
    seed : int
        The same seed keeps the same clips.

    Returns
    -------
    list of dict
        Copies of the rows kept.

    Raises
    ------
    ValueError
        If ``maximum`` is below 1.

    Example
    -------
    >>> rows = [{"ID": f"{name}{i}", "speaker": name} for name in "ab" for i in range(3)]
    >>> [row["ID"] for row in cap_per_speaker(rows, maximum=1, seed=1)]
    ['a0', 'b2']
    """
    if maximum < 1:
        raise ValueError(f"maximum is {maximum}: keep at least 1 clip of each speaker")
    draw = random.Random(seed)
    kept: set[int] = set()
    for places in _places_by_speaker(rows).values():
        kept.update(draw.sample(places, min(maximum, len(places))))
    return [dict(row) for place, row in enumerate(rows) if place in kept]


def split_by_speaker(
    rows: Sequence[Mapping[str, Any]],
    fractions: Mapping[str, float] | None = None,
    seed: int = 0,
) -> list[Row]:
    """Assign every speaker to one split, so that clip counts come near the wanted fractions.

    Genders are balanced alike where rows have a ``gender``. Every split gets a speaker.

    Arguments
    ---------
    rows : sequence of mapping
        Manifest rows. A clip whose speaker is unknown counts as a speaker of its own.
    fractions : mapping, optional
        Split name to share of the clips, all above 0; they are scaled to sum to 1. By default
        0.65 ``train`` and 0.35 ``test``.
    seed : int
        The same seed and rows give the same split.

    Returns
    -------
    list of dict
        Copies of the rows in their old order, with ``split`` set.

    Raises
    ------
    ValueError
        If a fraction is not above 0 or there are fewer speakers than splits.

    Example
    -------
    >>> rows = [{"ID": str(i), "speaker": str(i % 4)} for i in range(8)]
    >>> rows = split_by_speaker(rows, {"train": 0.75, "test": 0.25})
    >>> sorted(row["split"] for row in rows)
    ['test', 'test', 'train', 'train', 'train', 'train', 'train', 'train']
    """
    fractions = fractions or {"train": 0.65, "test": 0.35}
    shares = fractions.values()
    if not all(isinstance(one, int | float) and 0 < one < float("inf") for one in shares):
        raise ValueError(f"fractions are {dict(fractions)}: every one must be above 0")
    places = _places_by_speaker(rows)
    if len(places) < len(fractions):
        raise ValueError(
            f"{len(places)} speakers cannot fill {len(fractions)} splits "
            f"({', '.join(fractions)}): add speakers or ask for fewer splits"
        )
    gender = {who: rows[where[0]].get("gender") or "" for who, where in places.items()}
    split_of = _assign({who: len(where) for who, where in places.items()}, gender, fractions, seed)
    result = [dict(row) for row in rows]
    for who, where in places.items():
        for place in where:
            result[place]["split"] = split_of[who]
    return result


def _places_by_speaker(rows: Sequence[Mapping[str, Any]]) -> dict[Hashable, list[int]]:
    places: dict[Hashable, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        speaker = row.get("speaker") or ""
        # A tuple cannot be mistaken for a speaker's name.
        places[(place,) if speaker in UNKNOWN_SPEAKERS else speaker].append(place)
    return places


def _assign(
    clips: Mapping[Hashable, int],
    gender: Mapping[Hashable, str],
    fractions: Mapping[str, float],
    seed: int,
) -> dict[Hashable, str]:
    """Give speakers, those with most clips first, to the split that lacks most."""
    order = list(clips)
    random.Random(seed).shuffle(order)
    order.sort(key=lambda who: -clips[who])
    total = sum(fractions.values())
    by_gender: Counter[str] = Counter()
    for who in order:
        by_gender[gender[who]] += clips[who]
    lack = {name: share / total * sum(clips.values()) for name, share in fractions.items()}
    lack_gender = {
        (name, kind): share / total * count
        for name, share in fractions.items()
        for kind, count in by_gender.items()
    }
    split_of: dict[Hashable, str] = {}
    empty = dict.fromkeys(fractions)
    for done, who in enumerate(order):
        # The last speakers are kept for splits that would otherwise stay empty.
        open_splits = list(empty) if len(order) - done <= len(empty) else list(fractions)
        kind = gender[who]
        chosen = max(open_splits, key=lambda name: lack[name] + lack_gender[name, kind])
        split_of[who] = chosen
        lack[chosen] -= clips[who]
        lack_gender[chosen, kind] -= clips[who]
        empty.pop(chosen, None)
    return split_of
