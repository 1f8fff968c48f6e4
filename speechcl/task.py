"""What is learnt: one element of a stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch.utils.data import Dataset


@dataclass(frozen=True)
class Task:
    """One element of the stream: what is learnt now.

    Arguments
    ---------
    index : int
        Position in the stream, from 0.
    name : str
        What is learnt, for example the attack; names progress bars and tables.
    train, valid, test : Dataset
        Datasets, not loaders: the engine owns order, seeds and resume.
    info : Mapping
        Anything a method may ask for: speaker, domain, classes.

    Example
    -------
    >>> stream = make_stream([("lpc_noise", [1, 2], [3]), ("world", [4], [5])])
    >>> [task.name for task in stream]
    ['lpc_noise', 'world']
    """

    index: int
    name: str
    train: Dataset
    valid: Dataset | None = None
    test: Dataset | None = None
    info: Mapping[str, Any] = field(default_factory=dict)


def make_stream(parts: Sequence[tuple[str, Any, Any]]) -> list[Task]:
    """Number ``(name, train, test)`` triples into a stream.

    Arguments
    ---------
    parts : Sequence
        One triple a task, in the order of learning.

    Returns
    -------
    list of Task

    Raises
    ------
    ValueError
        If two tasks share a name, since scores are kept by name.

    Example
    -------
    >>> make_stream([("a", [], []), ("b", [], [])])[1].index
    1
    """
    stream = [Task(i, name, train, None, test) for i, (name, train, test) in enumerate(parts)]
    check_stream(stream)
    return stream


def check_stream(stream: Sequence[Task]) -> None:
    """Refuse a stream whose tasks share a name or are not numbered in order.

    Example
    -------
    >>> check_stream([Task(0, "a", []), Task(1, "a", [])])
    Traceback (most recent call last):
    ValueError: the stream names ['a'] more than once: give each task its own name
    """
    names = [task.name for task in stream]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"the stream names {twice} more than once: give each task its own name")
    if [task.index for task in stream] != list(range(len(stream))) or not names:
        raise ValueError(f"the stream's tasks are {names}: number them from 0 in order of learning")
