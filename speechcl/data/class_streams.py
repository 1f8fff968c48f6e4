"""Streams for classifiers: new classes with every task, or the same classes in a new domain."""

from __future__ import annotations

import functools
import operator
import random
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from speechcl.data.clips import ClipSet
from speechcl.task import Task, check_stream

_NAMED_IN_FULL = 3  # classes; longer groups would make long columns


def class_stream(data: ClipSet, groups: Sequence[Sequence[str]]) -> list[Task]:
    """Make a class-incremental stream: every task brings classes that no other has.

    ``info`` of a task holds ``classes``, those it brings, and ``seen``, those of all tasks up to
    it. Labels are those of ``data``, so all tasks share the outputs of one model.

    Arguments
    ---------
    data : ClipSet
        Its rows have the column of ``data.classes`` and ``split`` (``train``, ``valid``, ``test``).
    groups : Sequence
        Names of the classes of each task, in the order of learning.

    Returns
    -------
    list of Task
        Named after their classes; ``valid`` where there are such clips.

    Raises
    ------
    ValueError
        If a class is unknown or stands in two groups, or lacks clips to train or test on.

    Example
    -------
    >>> from speechcl.data.features import FeatureSet
    >>> from speechcl.data.labelled import Classes
    >>> import torch
    >>> kinds = [(word, split) for word in ("one", "two") for split in ("train", "test")]
    >>> rows = [{"ID": word + split, "text": word, "split": split} for word, split in kinds]
    >>> data = FeatureSet(torch.zeros(4, 1), rows, Classes(("one", "two")))
    >>> [(t.name, len(t.train), t.info["seen"]) for t in class_stream(data, [["two"], ["one"]])]
    [('two', 1, ['two']), ('one', 1, ['two', 'one'])]
    """
    names = [name for group in groups for name in group]
    data.classes.places(names)
    if len(set(names)) < len(names) or not all(groups):
        raise ValueError(f"tasks have the classes {list(map(list, groups))}: name each class once")
    column = data.classes.column
    _check(data, column, names)
    tasks: list[Task] = []
    seen: list[str] = []
    for index, group in enumerate(groups):
        seen = [*seen, *group]
        info = {"classes": list(group), "seen": seen}
        tasks.append(_task(data, index, _name(group), info, column, group))
    check_stream(tasks)
    return tasks


def domain_stream(data: ClipSet, domains: Sequence[str], column: str = "speaker") -> list[Task]:
    """Make a domain-incremental stream: the same classes, each task in a domain of its own.

    ``info`` is as in ``class_stream``: the classes of which the task trains on clips, and those
    of all tasks up to it.

    Arguments
    ---------
    data : ClipSet
        Its rows have ``split`` and ``column``.
    domains : Sequence
        Values of the column, one a task, in the order of learning.
    column : str
        What tells domains apart, such as ``speaker``, ``accent`` or ``corpus``.

    Returns
    -------
    list of Task
        Named after their domains.

    Raises
    ------
    ValueError
        If a domain lacks clips to train or test on.

    Example
    -------
    >>> from speechcl.data.features import FeatureSet
    >>> from speechcl.data.labelled import Classes
    >>> import torch
    >>> kinds = [(who, split) for who in ("ann", "bob") for split in ("train", "test")]
    >>> rows = [{"text": "one", "speaker": who, "split": split} for who, split in kinds]
    >>> data = FeatureSet(torch.zeros(4, 1), rows, Classes(("one", "two")))
    >>> [(task.name, task.info["classes"]) for task in domain_stream(data, ["bob", "ann"])]
    [('bob', ['one']), ('ann', ['one'])]
    """
    _check(data, column, domains)
    tasks: list[Task] = []
    seen: set[str] = set()
    for index, domain in enumerate(domains):
        places = _places(data, "train", column, [domain])
        own = {data.rows[place][data.classes.column] for place in places}
        seen |= own
        info = {"classes": _in_order(data, own), "seen": _in_order(data, seen)}
        tasks.append(_task(data, index, domain, info, column, [domain]))
    check_stream(tasks)
    return tasks


def in_groups(classes: Sequence[str], size: int) -> list[list[str]]:
    """Divide classes into groups of so many, in their order; the last may be smaller.

    Example
    -------
    >>> in_groups(["zero", "one", "two"], 2)
    [['zero', 'one'], ['two']]
    """
    if size < 1:
        raise ValueError(f"a task has {size} classes: give at least 1")
    return [list(classes[place : place + size]) for place in range(0, len(classes), size)]


def _name(group: Sequence[str]) -> str:
    return "_".join(group) if len(group) <= _NAMED_IN_FULL else f"{group[0]}_to_{group[-1]}"


def _in_order(data: ClipSet, names: Collection[str]) -> list[str]:
    return [name for name in data.classes.names if name in names]


def _check(data: ClipSet, column: str, values: Sequence[str]) -> None:
    for value in values:
        for split in ("train", "test"):
            if not _places(data, split, column, [value]):
                there = sorted({str(row.get(column)) for row in data.rows})
                raise ValueError(
                    f"{column} {value!r} has no {split} clip: choose among {', '.join(there)}"
                )


def _places(data: ClipSet, split: str, column: str, values: Sequence[str]) -> list[int]:
    return [
        place
        for place, row in enumerate(data.rows)
        if row["split"] == split and row.get(column) in values
    ]


def _task(
    data: ClipSet, index: int, name: str, info: dict, column: str, values: Sequence[str]
) -> Task:
    train, valid, test = (
        data.subset(_places(data, split, column, values)) for split in ("train", "valid", "test")
    )
    return Task(index, name, train, valid.plain() if len(valid) else None, test.plain(), info)


def blurred(stream: Sequence[Task], share: float, seed: int = 0) -> list[Task]:
    """Let a share of each task's training items come in other tasks, so that boundaries blur.

    Arguments
    ---------
    stream : Sequence
        Tasks whose training sets add up.
    share : float
        Of the items of each task, from 0 to below 1.
    seed : int
        Decides which items, and where each comes.

    Returns
    -------
    list of Task
        With the same tests; ``info`` says which classes a task has now.

    Raises
    ------
    ValueError
        If the share is out of range, or there is one task only.

    Source: the blurry setting of Bang et al., "Rainbow memory", CVPR 2021.

    Example
    -------
    >>> from speechcl.data.features import FeatureSet
    >>> from speechcl.data.labelled import Classes
    >>> import torch
    >>> kinds = [(word, split) for word in ("one", "two") for split in ("train",) * 4 + ("test",)]
    >>> rows = [{"ID": str(k), "text": w, "split": s} for k, (w, s) in enumerate(kinds)]
    >>> data = FeatureSet(torch.zeros(10, 1), rows, Classes(("one", "two")))
    >>> clean = class_stream(data, [["one"], ["two"]])
    >>> [task.train.counts() for task in blurred(clean, 0.25)]
    [{'one': 3, 'two': 1}, {'two': 3, 'one': 1}]
    """
    if not 0 <= share < 1 or len(stream) < 2:
        raise ValueError(
            f"blur is {share} on {len(stream)} tasks: give a share from 0 to below 1, and two "
            "tasks or more"
        )
    sets: list[ClipSet] = [task.train for task in stream]  # type: ignore[misc]
    dealt = _dealt([len(data) for data in sets], share, random.Random(seed))
    tasks: list[Task] = []
    seen: set[str] = set()
    for task, data in zip(stream, sets, strict=True):
        parts: list[Any] = []
        for k in sorted(range(len(sets)), key=lambda k: k != task.index):  # its own come first
            places = [place for place, target in enumerate(dealt[k]) if target == task.index]
            parts += [sets[k].subset(places)] if places else []
        train = functools.reduce(operator.add, parts)
        own = set(train.counts())
        seen |= own
        info = {**task.info, "classes": _in_order(data, own), "seen": _in_order(data, seen)}
        tasks.append(replace(task, train=train, info=info))
    return tasks


def _dealt(sizes: Sequence[int], share: float, draws: random.Random) -> list[list[int]]:
    """Return for every item of every task in which task it comes; one of each stays at least."""
    dealt = []
    for own, size in enumerate(sizes):
        targets = [own] * size
        others = [task for task in range(len(sizes)) if task != own]
        for place in draws.sample(range(size), min(round(share * size), size - 1)):
            targets[place] = draws.choice(others)
        dealt.append(targets)
    return dealt
