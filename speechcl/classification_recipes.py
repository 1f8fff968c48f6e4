"""What recipes on spoken words share: clips become features or waveforms, and a stream of tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from speechcl.data.class_streams import class_stream, domain_stream, in_groups
from speechcl.data.clips import ClipSet
from speechcl.data.features import FeatureSet, cached_features
from speechcl.data.labelled import Classes
from speechcl.data.packed import pack_audio
from speechcl.data.waveforms import WaveformSet
from speechcl.experiment import Experiment
from speechcl.task import Task

Row = Mapping[str, Any]


def learn_words(experiment: Experiment, rows: Sequence[Row], about: Mapping[str, Any]) -> Path:
    """Run a recipe in which words are told apart, task by task.

    Arguments
    ---------
    experiment : Experiment
        Its hyper-parameters: those of ``word_stream``; ``corpus_folder``, where features or
        waveforms are kept.
    rows : Sequence
        Manifest rows with ``text``, ``speaker`` and ``split``.
    about : Mapping
        Further fields of results.json: recipe, notes.

    Returns
    -------
    Path
        The run folder.
    """
    stream = word_stream(experiment.hparams, word_set(experiment, rows))
    model = experiment.base["model"]
    if hasattr(model, "standardise"):
        model.standardise(stream[0].train.features)  # type: ignore[attr-defined]
    heard = {"examples": examples(stream), "notes": [describe(experiment.hparams)]}
    return experiment.run(stream, {**heard, **about})


def word_set(experiment: Experiment, rows: Sequence[Row]) -> ClipSet:
    """Make what is learnt from: features computed once, or waveforms for a model that hears them.

    With a ``front_end`` the YAML fragment under ``base`` asks for features, without one for
    waveforms. Clips have its ``rate_hz`` and last ``clip_s``: silence follows a shorter one, a
    longer one is cut.

    Raises
    ------
    ValueError
        If ``clip_s`` is not above 0.
    """
    base, hparams = experiment.base, experiment.hparams
    rate_hz, samples = base["rate_hz"], round(base["clip_s"] * base["rate_hz"])
    if samples < 1:
        raise ValueError(f"clip_s is {base['clip_s']}: give seconds above 0")
    classes = Classes(tuple(hparams["classes"]))
    options = {"rows": rows, "folder": hparams["corpus_folder"], "rate_hz": rate_hz}
    if "front_end" in base:
        more = {"extract": base["front_end"], "samples": samples, "pad": True}
        features = experiment.on_main(cached_features, **options, **more)
        return FeatureSet(features, rows, classes)
    pack = experiment.on_main(pack_audio, **options)
    return WaveformSet(pack, rows, samples, classes=classes, pad=True)


def word_stream(hparams: Mapping[str, Any], data: ClipSet) -> list[Task]:
    """Make the stream of a recipe.

    Arguments
    ---------
    hparams : Mapping
        ``scenario``: "class" for new words in every task, ``classes_per_task`` of them in the
        order of ``classes``; "domain" for the same words in every task, one task for each of
        ``domains``, values of the column ``domain_column``.
    data : ClipSet
        All clips.

    Returns
    -------
    list of Task

    Raises
    ------
    ValueError
        If the scenario is another one, or the stream cannot be made.

    Example
    -------
    >>> word_stream({"scenario": "task"}, None)
    Traceback (most recent call last):
    ValueError: scenario is 'task': use 'class' or 'domain'
    """
    scenario = hparams["scenario"]
    if scenario == "class":
        return class_stream(data, in_groups(hparams["classes"], hparams["classes_per_task"]))
    if scenario == "domain":
        return domain_stream(data, hparams["domains"], hparams["domain_column"])
    raise ValueError(f"scenario is {scenario!r}: use 'class' or 'domain'")


def describe(hparams: Mapping[str, Any]) -> str:
    """Say in a sentence what the tasks of a recipe are, for its report.

    Example
    -------
    >>> describe({"scenario": "domain", "domain_column": "accent", "classes": ["one", "two"]})
    'Domain-incremental: the same 2 words in every task, each task with an accent of its own.'
    """
    count = len(hparams["classes"])
    if hparams["scenario"] == "class":
        return (
            f"Class-incremental: every task brings new words. All {count} words compete in every "
            "test, so that a task that is not learnt yet has hardly any of its clips right."
        )
    column = hparams["domain_column"]
    article = "an" if column[0] in "aeiou" else "a"
    return (
        f"Domain-incremental: the same {count} words in every task, "
        f"each task with {article} {column} of its own."
    )


def examples(stream: Sequence[Task], count: int = 3) -> list[dict[str, str]]:
    """Choose a test clip of each of the first tasks.

    Example
    -------
    >>> examples([])
    []
    """
    heard = [(task, task.test.rows[0]) for task in stream[:count]]  # type: ignore[union-attr]
    return [
        {"title": f"{row['text']} ({task.name})", "wav": str(Path(row["wav"]).resolve())}
        for task, row in heard
    ]
