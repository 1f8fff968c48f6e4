"""Streams of tasks made from a set of clips: one attack after another, or one corpus."""

from __future__ import annotations

import random
from collections.abc import Sequence

from speechcl.data.clips import ClipSet
from speechcl.task import Task, make_stream

Places = list[int]


def attack_stream(
    data: ClipSet, attacks: Sequence[str], seed: int = 0, genuine_share: float | None = None
) -> list[Task]:
    """Make a stream in which every task is one attack.

    A task trains on the training clips of its attack and on its own share of the genuine training
    clips, so that no genuine clip is seen in two tasks. It is tested on all genuine test clips and
    its attack's test clips.

    Arguments
    ---------
    data : ClipSet
        Its rows have ``label``, ``attack`` and ``split`` (``train`` or ``test``).
    attacks : Sequence
        The attacks, in the order of learning.
    seed : int
        Deals the genuine training clips to the tasks.
    genuine_share : float, optional
        Share of genuine clips in each task's training data, brought about by leaving out clips of
        the other class. By default nothing is left out, and spoofed clips outnumber genuine ones.

    Returns
    -------
    list of Task

    Raises
    ------
    ValueError
        If a task would lack genuine or spoofed clips to train or test on.

    Example
    -------
    >>> import torch
    >>> from speechcl.data.features import FeatureSet
    >>> row = {"split": "train", "label": "bonafide", "attack": "-"}
    >>> rows = [{**row, "ID": i} for i in "ab"] + [{**row, "ID": "c", "split": "test"}]
    >>> spoofed = {"label": "spoof", "attack": "world"}
    >>> rows += [{**one, **spoofed, "ID": one["ID"] + "-world"} for one in rows]
    >>> task = attack_stream(FeatureSet(torch.zeros(6, 4), rows), ["world"])[0]
    >>> len(task.train), len(task.test)
    (4, 2)
    """
    places: dict[tuple[str, str], Places] = {}
    for place, row in enumerate(data.rows):
        attack = "-" if row["label"] == "bonafide" else row["attack"]
        places.setdefault((row["split"], attack), []).append(place)
    dealt = list(places.get(("train", "-"), []))
    random.Random(seed).shuffle(dealt)
    genuine_test = places.get(("test", "-"), [])
    parts = []
    for number, attack in enumerate(attacks):
        train = dealt[number :: len(attacks)], places.get(("train", attack), [])
        test = genuine_test, places.get(("test", attack), [])
        _check(f"attack '{attack}'", train, test)
        train = with_share(*train, genuine_share, seed)
        parts.append((attack, data.subset(sum(train, [])), data.subset(sum(test, [])).plain()))
    return make_stream(parts)


def corpus_stream(
    data: ClipSet, corpora: Sequence[str], seed: int = 0, genuine_share: float | None = None
) -> list[Task]:
    """Make a stream in which every task is one corpus, with its own genuine and spoofed clips.

    Arguments
    ---------
    data : ClipSet
        Its rows have ``label``, ``corpus`` and ``split`` (``train`` or ``test``).
    corpora : Sequence
        The corpora, in the order of learning.
    seed, genuine_share
        As in ``attack_stream``.

    Returns
    -------
    list of Task

    Raises
    ------
    ValueError
        If a corpus lacks genuine or spoofed clips to train or test on.

    Example
    -------
    >>> import torch
    >>> from speechcl.data.features import FeatureSet
    >>> kinds = [(s, label) for s in ("train", "test") for label in ("bonafide", "spoof")]
    >>> rows = [{"ID": s + l, "corpus": "FoR", "split": s, "label": l} for s, l in kinds]
    >>> [len(task.train) for task in corpus_stream(FeatureSet(torch.zeros(4, 1), rows), ["FoR"])]
    [2]
    """
    places: dict[tuple[str, str, str], Places] = {}
    for place, row in enumerate(data.rows):
        places.setdefault((row["corpus"], row["split"], row["label"]), []).append(place)
    parts = []
    for corpus in corpora:
        train, test = (
            (places.get((corpus, split, "bonafide"), []), places.get((corpus, split, "spoof"), []))
            for split in ("train", "test")
        )
        _check(f"corpus '{corpus}'", train, test)
        train = with_share(*train, genuine_share, seed)
        parts.append((corpus, data.subset(sum(train, [])), data.subset(sum(test, [])).plain()))
    return make_stream(parts)


def with_share(
    genuine: Places, spoofed: Places, genuine_share: float | None, seed: int = 0
) -> tuple[Places, Places]:
    """Leave out clips of one class, at random, until genuine ones make up a share of the whole.

    Arguments
    ---------
    genuine, spoofed : list of int
        Places of clips.
    genuine_share : float or None
        In (0, 1); None keeps all.
    seed : int
        Decides which are left out.

    Returns
    -------
    tuple of lists
        The places kept, sorted where any were left out; at least one of each class.

    Example
    -------
    >>> [len(kept) for kept in with_share(list(range(40)), list(range(240)), 0.5)]
    [40, 40]
    >>> [len(kept) for kept in with_share(list(range(40)), list(range(240)), 0.1)]
    [27, 240]
    """
    check_share(genuine_share)
    if genuine_share is None:
        return genuine, spoofed
    odds = genuine_share / (1 - genuine_share)
    counts = round(len(spoofed) * odds), round(len(genuine) / odds)
    draw = random.Random(seed)
    return tuple(  # type: ignore[return-value]
        sorted(draw.sample(places, max(1, count))) if count < len(places) else places
        for places, count in zip((genuine, spoofed), counts, strict=True)
    )


def check_share(genuine_share: float | None) -> None:
    """Refuse a share of genuine clips that is neither None nor a number in (0, 1).

    Example
    -------
    >>> check_share(0.1)
    >>> check_share(1)
    Traceback (most recent call last):
    ValueError: genuine_share is 1: give a share between 0 and 1, or null
    """
    is_number = isinstance(genuine_share, int | float)
    if genuine_share is not None and not (is_number and 0 < genuine_share < 1):
        raise ValueError(f"genuine_share is {genuine_share}: give a share between 0 and 1, or null")


def _check(name: str, train: Sequence[Places], test: Sequence[Places]) -> None:
    if not all([*train, *test]):
        raise ValueError(
            f"{name} has {len(train[0])} genuine and {len(train[1])} spoofed training clips, "
            f"{len(test[0])} and {len(test[1])} test clips: each must be at least 1; "
            "add genuine speech of more speakers, or clips of what is missing"
        )
