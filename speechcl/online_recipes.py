"""What recipes share in which a stream is learnt in one pass, two classes after two."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from speechcl.data.class_streams import blurred, class_stream, in_groups
from speechcl.data.clips import ClipSet
from speechcl.experiment import Experiment
from speechcl.methods import Chain
from speechcl.task import Task


def learn_online(experiment: Experiment, data: ClipSet, about: Mapping[str, Any]) -> Path:
    """Run a recipe in which classes come online.

    Arguments
    ---------
    experiment : Experiment
        Its hyper-parameters: those of ``online_stream``.
    data : ClipSet
        All clips or images, with the column ``split``.
    about : Mapping
        Further fields of results.json: recipe, notes, examples.

    Returns
    -------
    Path
        The run folder.

    Raises
    ------
    ValueError
        If a memory has less room than there are classes, or the stream cannot be made.
    """
    stream = online_stream(experiment.hparams, data)
    check_room(experiment.hparams["method"], len(data.classes.names))
    model = experiment.base["model"]
    if hasattr(model, "standardise"):
        model.standardise(stream[0].train.features)  # type: ignore[attr-defined]
    said = {"notes": [describe(experiment.hparams, stream)]}
    return experiment.run(
        stream, {**said, "tasks_drawn": experiment.hparams["shuffle_classes"], **about}
    )


def online_stream(hparams: Mapping[str, Any], data: ClipSet) -> list[Task]:
    """Make the stream of a recipe.

    Arguments
    ---------
    hparams : Mapping
        ``classes_per_task``; ``shuffle_classes``, whether the order of classes is drawn by
        ``seed``; ``blur``, the share of a task's items that come in other tasks.
    data : ClipSet
        All items. Validation items are not used: nothing is chosen by them.

    Returns
    -------
    list of Task

    Example
    -------
    >>> import torch
    >>> from speechcl.data.features import FeatureSet
    >>> from speechcl.data.labelled import Classes
    >>> kinds = [(word, split) for word in ("one", "two") for split in ("train", "test")]
    >>> rows = [{"ID": word + split, "text": word, "split": split} for word, split in kinds]
    >>> data = FeatureSet(torch.zeros(4, 1), rows, Classes(("one", "two")))
    >>> settings = {"classes_per_task": 1, "shuffle_classes": True, "blur": 0.0, "seed": 4}
    >>> [task.name for task in online_stream(settings, data)]
    ['two', 'one']
    """
    names = list(data.classes.names)
    if hparams["shuffle_classes"]:
        random.Random(hparams["seed"]).shuffle(names)
    used = [place for place, row in enumerate(data.rows) if row["split"] != "valid"]
    stream = class_stream(data.subset(used), in_groups(names, hparams["classes_per_task"]))
    return blurred(stream, hparams["blur"], hparams["seed"]) if hparams["blur"] else stream


def check_room(method: Any, classes: int) -> None:
    """Refuse a memory in which not every class has a place.

    Example
    -------
    >>> from speechcl.methods import ER
    >>> check_room(ER(capacity=3), classes=5)
    Traceback (most recent call last):
    ValueError: capacity is 3 but the stream has 5 classes: set capacity to 5 or more
    """
    for one in method.methods if isinstance(method, Chain) else [method]:
        capacity = getattr(getattr(one, "memory", None), "capacity", None)
        if capacity is not None and capacity < classes:
            raise ValueError(
                f"capacity is {capacity} but the stream has {classes} classes: set capacity to "
                f"{classes} or more"
            )


def describe(hparams: Mapping[str, Any], stream: Sequence[Task]) -> str:
    """Say in a sentence what the stream of a recipe is, for its report.

    Example
    -------
    >>> describe({"classes_per_task": 2, "blur": 0.1, "shuffle_classes": False}, [None] * 5)
    'Online: one pass over 5 tasks with 2 new classes each; 10 % of the items come in other tasks.'
    """
    blur = hparams["blur"]
    drawn = ", drawn by the seed" if hparams["shuffle_classes"] else ""
    more = f"; {100 * blur:.0f} % of the items come in other tasks" if blur else ""
    return (
        f"Online: one pass over {len(stream)} tasks with {hparams['classes_per_task']} new classes "
        f"each{drawn}{more}."
    )
