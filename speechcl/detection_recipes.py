"""What the detection recipes share: clips become features or waveforms, and a stream of tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from speechcl.data import cap_per_speaker, scan_folder
from speechcl.data.clips import ClipSet
from speechcl.data.corpus import build_attack_corpus
from speechcl.data.features import FeatureSet, cached_features
from speechcl.data.packed import pack_audio
from speechcl.data.splits import split_by_speaker
from speechcl.data.streams import attack_stream, check_share, corpus_stream
from speechcl.data.waveforms import WaveformSet
from speechcl.experiment import Experiment
from speechcl.task import Task

Row = Mapping[str, Any]
RATE_HZ = 16_000


def learn_attacks(experiment: Experiment, rows: Sequence[Row], about: Mapping[str, Any]) -> Path:
    """Run a recipe in which every task is one attack.

    Arguments
    ---------
    experiment : Experiment
        Its hyper-parameters: ``attacks``, the tasks in order; ``split``, the shares of speakers
        to train and to test on, or null where rows have a ``split``; ``genuine_share``; ``seed``;
        ``corpus_folder``, where features or waveforms are kept.
    rows : Sequence
        Manifest rows of genuine and spoofed clips.
    about : Mapping
        Further fields of results.json: recipe, notes.

    Returns
    -------
    Path
        The run folder.
    """
    hparams = experiment.hparams
    check_share(hparams["genuine_share"])
    rows = with_split(rows, hparams["split"], hparams["seed"])
    stream = attack_stream(
        clip_set(experiment, rows), hparams["attacks"], hparams["seed"], hparams["genuine_share"]
    )
    return _learn(experiment, stream, {"examples": examples(rows, hparams["attacks"]), **about})


def learn_own_speech(argv: Sequence[str], recipe: str) -> Path:
    """Run a recipe whose attacks are made from any genuine speech.

    Arguments
    ---------
    argv : Sequence
        Of the recipe's ``train.py``. Its hyper-parameters, beside those of ``learn_attacks``:
        ``data_folder``, folders or manifests of genuine speech; ``clips_per_speaker``, at most, or
        the detector would learn a voice; ``workers`` that make the attacks.
    recipe : str
        Its name.

    Returns
    -------
    Path
        The run folder.
    """
    experiment = Experiment(argv)
    names = ("data_folder", "attacks", "clips_per_speaker", "workers")
    given = {name: experiment.hparams[name] for name in names}
    rows = experiment.on_main(_own_speech, folder=experiment.hparams["corpus_folder"], **given)
    return learn_attacks(experiment, rows, {"recipe": recipe})


def _own_speech(
    data_folder: Any, folder: str, attacks: Sequence[str], clips_per_speaker: int, workers: int
) -> list[dict[str, Any]]:
    """Return the manifest rows, made once and found again afterwards.

    Attacks are made in the order of their names, so that features are found again whatever the
    order of learning.
    """
    genuine = cap_per_speaker(scan_folder(data_folder), clips_per_speaker)
    return build_attack_corpus(genuine, sorted(attacks), Path(folder), workers=workers)


def learn_corpora(experiment: Experiment, rows: Sequence[Row], about: Mapping[str, Any]) -> Path:
    """Run a recipe in which every task is one corpus, with its own genuine and spoofed clips.

    Arguments
    ---------
    experiment : Experiment
        Its hyper-parameters: ``corpora``, the tasks in order; ``genuine_share``; ``seed``;
        ``corpus_folder``.
    rows : Sequence
        Manifest rows with ``corpus`` and ``split``.
    about : Mapping
        Further fields of results.json: recipe, notes.

    Returns
    -------
    Path
        The run folder.
    """
    hparams = experiment.hparams
    check_share(hparams["genuine_share"])
    stream = corpus_stream(
        clip_set(experiment, rows), hparams["corpora"], hparams["seed"], hparams["genuine_share"]
    )
    return _learn(experiment, stream, about)


def with_split(rows: Sequence[Row], split: Mapping[str, float] | None, seed: int) -> Sequence[Row]:
    """Deal speakers to training and test, or keep the split that the rows have.

    Raises
    ------
    ValueError
        If neither says who is trained on and who is tested.

    Example
    -------
    >>> with_split([{"ID": "a", "split": "train"}], None, seed=1)
    [{'ID': 'a', 'split': 'train'}]
    """
    if split is not None:
        return split_by_speaker(rows, split, seed)
    unsplit = [row["ID"] for row in rows if row.get("split") not in ("train", "test")]
    if unsplit:
        raise ValueError(
            f"{len(unsplit)} of {len(rows)} clips, for example '{unsplit[0]}', are neither for "
            "training nor for test: fill the split column, or set split: {train: 0.65, test: 0.35}"
        )
    return rows


def clip_set(experiment: Experiment, rows: Sequence[Row]) -> ClipSet:
    """Make what is learnt from: features computed once, or waveforms for a model that hears them.

    With a ``front_end`` the YAML fragment under ``base`` asks for features, without one for
    waveforms, cropped at random and changed by its ``augment``. Either is kept on disk.
    """
    base, folder = experiment.base, experiment.hparams["corpus_folder"]
    if not base["clip_s"] * RATE_HZ >= 1:
        raise ValueError(f"clip_s is {base['clip_s']}: give seconds above 0")
    samples = round(base["clip_s"] * RATE_HZ)
    if "front_end" in base:
        options = {"extract": base["front_end"], "samples": samples}
        features = experiment.on_main(cached_features, rows=rows, folder=folder, **options)
        return FeatureSet(features, rows)
    pack = experiment.on_main(pack_audio, rows=rows, folder=folder)
    seed = experiment.hparams["seed"]
    return WaveformSet(pack, rows, samples, augment=base["augment"], random_crop=True, seed=seed)


def examples(rows: Sequence[Row], attacks: Sequence[str]) -> list[dict[str, str]]:
    """Choose a genuine test clip and spoofed ones of two attacks, its own copies if there are any.

    Example
    -------
    >>> rows = [{"ID": "a", "wav": "/a.wav", "split": "test", "attack": "-", "label": "bonafide"}]
    >>> examples(rows, ["world"])
    [{'title': 'genuine', 'wav': '/a.wav'}]
    """
    heard = [row for row in rows if row["split"] == "test"]
    genuine = next((row for row in heard if row["label"] == "bonafide"), None)
    if genuine is None:
        return []
    found = [("genuine", genuine)]
    for attack in attacks[:2]:
        made = [row for row in heard if row["attack"] == attack]
        copies = [row for row in made if row["ID"] == f"{genuine['ID']}-{attack}"]
        found += [(attack, row) for row in [*copies, *made][:1]]
    return [{"title": title, "wav": str(Path(row["wav"]).resolve())} for title, row in found]


def _learn(experiment: Experiment, stream: Sequence[Task], about: Mapping[str, Any]) -> Path:
    model = experiment.base["model"]
    if hasattr(model, "standardise"):
        model.standardise(stream[0].train.features)  # type: ignore[attr-defined]
    return experiment.run(stream, about)
