"""Streams of tasks made from manifest rows."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from speechcl.data.features import FeatureSet
from speechcl.task import Task, make_stream

Row = Mapping[str, Any]


def attack_stream(
    rows: Sequence[Row], features: Tensor, attacks: Sequence[str], seed: int = 0
) -> list[Task]:
    """Make a stream in which every task is one attack.

    A task trains on all training clips of its attack and on its own share of the genuine training
    clips, so that no genuine clip is seen in two tasks; spoofed clips outnumber genuine ones as
    they do in ASVspoof. It is tested on all genuine test clips and its attack's test clips.

    Arguments
    ---------
    rows : Sequence
        Manifest rows with ``label``, ``attack`` and ``split`` (``train`` or ``test``).
    features : Tensor
        One row's features each, shape (rows, ...).
    attacks : Sequence
        The attacks, in the order of learning.
    seed : int
        Deals the genuine training clips to the tasks.

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
    >>> row = {"split": "train", "label": "bonafide", "attack": "-"}
    >>> rows = [{**row, "ID": i} for i in "ab"] + [{**row, "ID": "c", "split": "test"}]
    >>> spoofed = {"label": "spoof", "attack": "world"}
    >>> rows += [{**one, **spoofed, "ID": one["ID"] + "-world"} for one in rows]
    >>> task = attack_stream(rows, torch.zeros(6, 4), ["world"])[0]
    >>> len(task.train), len(task.test)
    (4, 2)
    """
    places: dict[tuple[str, str], list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault((row["split"], row["attack"]), []).append(place)
    dealt = list(places.get(("train", "-"), []))
    random.Random(seed).shuffle(dealt)
    parts = []
    for number, attack in enumerate(attacks):
        train = (dealt[number :: len(attacks)], places.get(("train", attack), []))
        test = (places.get(("test", "-"), []), places.get(("test", attack), []))
        if not all(train + test):
            raise ValueError(
                f"attack '{attack}' has {len(train[0])} genuine and {len(train[1])} spoofed "
                f"training clips, {len(test[0])} and {len(test[1])} test clips: "
                "each must be at least 1; add genuine speech of more speakers"
            )
        sets = [_subset(rows, features, genuine + spoofed) for genuine, spoofed in (train, test)]
        parts.append((attack, sets[0], sets[1]))
    return make_stream(parts)


def _subset(rows: Sequence[Row], features: Tensor, places: list[int]) -> FeatureSet:
    return FeatureSet(features[places], [rows[place] for place in places])
