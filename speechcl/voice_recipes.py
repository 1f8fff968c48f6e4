"""What recipes that train a voice model share: recordings with transcripts become a run."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from speechbrain.utils.distributed import if_main_process, infer_device

from speechcl.backbones.usat import USAT, VoiceConfig
from speechcl.backbones.usat.files import read_config
from speechcl.backbones.usat.voice_files import save_voice
from speechcl.backbones.usat.voices import list_voices
from speechcl.brains.enrolment import Enroller
from speechcl.data.audio import write_audio
from speechcl.data.packed import pack_audio
from speechcl.data.resident_voices import ResidentVoices
from speechcl.data.voice_corpora import (
    choose_speakers,
    deal_clips,
    describe_voices,
    hold_out,
    keep_pairs,
    prepare_voices,
)
from speechcl.data.voice_corpora.common import log_left_out
from speechcl.data.voices import VoiceSet
from speechcl.experiment import Experiment
from speechcl.task import Task, make_stream

Row = Mapping[str, Any]
Reader = Callable[..., list[dict[str, Any]]]


def learn_corpus(
    experiment: Experiment, read: Reader, about: Mapping[str, Any], **options: Any
) -> Path:
    """Train a voice model on a corpus, see :func:`learn_voice`.

    Arguments
    ---------
    experiment : Experiment
        Its hyper-parameters, beside those of :func:`learn_voice`: ``data_folder``, ``speakers``,
        ``test_share``, ``data_seed`` and ``workers``.
    read : Callable
        A reader of ``speechcl.data.voice_corpora``; takes the data folder.
    about : Mapping
        Further fields of results.json: recipe, notes.
    **options : Any
        Of the reader.

    Returns
    -------
    Path
        The run folder.
    """
    config = experiment.base["model"].config
    return learn_voice(experiment, _corpus_rows(experiment, read, config, options), about)


def enrol_corpus(
    experiment: Experiment, read: Reader, about: Mapping[str, Any], **options: Any
) -> Path:
    """Fit a trained voice model to the speakers of a corpus, see :func:`enrol_speakers`.

    Arguments and result are those of :func:`learn_corpus`, and ``valid_share`` is one more
    hyper-parameter, see :func:`hold_out`. Speakers without clips to train or to test on are left
    out.
    """
    hparams = experiment.hparams
    config = read_config(hparams["base_folder"])
    rows = _corpus_rows(experiment, read, config, options, in_both=True)
    rows = hold_out(rows, hparams["valid_share"], hparams["data_seed"])
    return enrol_speakers(experiment, rows, about)


def _corpus_rows(
    experiment: Experiment,
    read: Reader,
    config: VoiceConfig,
    options: Mapping[str, Any],
    in_both: bool = False,
) -> list[dict[str, Any]]:
    """Read, choose, prepare and split the clips of a corpus; print a table of them."""
    hparams = experiment.hparams
    listed = read(hparams["data_folder"], **options)
    chosen = choose_speakers(listed, hparams["speakers"], hparams["data_seed"])
    unused = [row["ID"] for row in chosen if row["split"] == "valid"]
    log_left_out("corpus", "clips of the split valid, which is not used", unused)
    chosen = [row for row in chosen if row["split"] != "valid"]
    rows, left_out = experiment.on_main(
        prepare_voices,
        rows=chosen,
        folder=hparams["corpus_folder"],
        rate_hz=config.rate_hz,
        hop=config.hop,
        workers=hparams["workers"],
    )
    if "test_share" in hparams:  # no corpus that says itself what to test on
        rows = deal_clips(rows, hparams["test_share"], hparams["data_seed"])
    used = keep_pairs(rows, in_both)
    if if_main_process():
        print(describe_voices(chosen, left_out, used))
    return used


def learn_voice(experiment: Experiment, rows: Sequence[Row], about: Mapping[str, Any]) -> Path:
    """Train a voice model on all speakers at once, then write it and let it speak.

    Arguments
    ---------
    experiment : Experiment
        Its hyper-parameters: ``corpus_folder``, where packed audio is kept; optionally
        ``resident``, whether clips are kept where the model is, see ``ResidentVoices``. Its YAML
        fragment under ``base`` has the ``model`` and the ``modules`` that it is trained with.
    rows : Sequence
        Manifest rows with ``speaker``, ``text`` and ``split``, "train" or "test".
    about : Mapping
        Further fields of results.json: recipe, notes.

    Returns
    -------
    Path
        The run folder; in it ``model``, for ``USAT.from_pretrained``, and ``samples``.
    """
    model = experiment.base["model"]
    every = _voice_set(experiment, rows, model.config)
    train, test = (
        every.subset([place for place, row in enumerate(every.rows) if row["split"] == split])
        for split in ("train", "test")
    )
    test = test.plain()
    if experiment.hparams.get("resident"):
        device = experiment.run_opts.get("device") or infer_device()
        train = ResidentVoices(train, device)
    run = experiment.run(make_stream([("voices", train, test)]), about)
    if if_main_process() and not (run / "model").exists():
        write_samples(model, test, run / "samples")
        model.save(run / "model")  # last, so that a kill leaves neither or both
    return run


def enrol_speakers(experiment: Experiment, rows: Sequence[Row], about: Mapping[str, Any]) -> Path:
    """Fit a trained voice model to one speaker after another, then write each one's voice.

    Arguments
    ---------
    experiment : Experiment
        Its hyper-parameters: ``base_folder``, of the model; ``detach_durations``, see ``Enroller``;
        ``corpus_folder``; ``together``, whether all speakers are one task instead.
    rows : Sequence
        Manifest rows with ``speaker``, ``text`` and ``split``, "train", "test", or "valid" for
        clips that training is stopped by. Speakers are enrolled as they first appear.
    about : Mapping
        Further fields of results.json: recipe, notes.

    Returns
    -------
    Path
        The run folder; in it ``voices``, a file for each voice beside the base, if there are any.
    """
    hparams = experiment.hparams
    voice = USAT.from_pretrained(hparams["base_folder"])
    experiment.base["model"] = Enroller(voice, hparams["detach_durations"])
    every = _voice_set(experiment, rows, voice.config)
    speakers = list(dict.fromkeys(row["speaker"] for row in rows))
    refuse_alike(speakers)
    together = hparams["together"] and len(speakers) > 1
    groups = {"everybody": speakers} if together else {name: [name] for name in speakers}
    stream = [_task(every, k, name, group) for k, (name, group) in enumerate(groups.items())]
    run = experiment.run(stream, about)
    if if_main_process():
        for name in list_voices(voice):
            file = run / "voices" / f"{_plain(name)}.safetensors"
            if not file.exists():
                save_voice(voice, name, file)
    return run


def refuse_alike(speakers: Sequence[str]) -> None:
    """Refuse speakers whose voices would have one name, since dots are underscores in it.

    Raises
    ------
    ValueError
        Naming them.

    Example
    -------
    >>> refuse_alike(["J.D", "J-D"])
    >>> refuse_alike(["J.D", "J_D"])
    Traceback (most recent call last):
    ValueError: speakers 'J.D' and 'J_D' would be one voice, J_D: rename one of them
    """
    seen: dict[str, str] = {}
    for name in speakers:
        voice = name.replace(".", "_")
        if voice in seen:
            raise ValueError(
                f"speakers {seen[voice]!r} and {name!r} would be one voice, {voice}: "
                "rename one of them"
            )
        seen[voice] = name


def _task(every: VoiceSet, index: int, name: str, speakers: Sequence[str]) -> Task:
    places: dict[str, list[int]] = {"train": [], "valid": [], "test": []}
    for place, row in enumerate(every.rows):
        if row["speaker"] in speakers:
            places[row["split"]].append(place)
    train, test = every.subset(places["train"]), every.subset(places["test"]).plain()
    valid = every.subset(places["valid"]).plain() if places["valid"] else None
    return Task(index, name, train, valid, test)


def _voice_set(experiment: Experiment, rows: Sequence[Row], config: VoiceConfig) -> VoiceSet:
    folder = Path(experiment.hparams["corpus_folder"]) / "packed"
    pack = experiment.on_main(pack_audio, rows=rows, folder=folder, rate_hz=config.rate_hz)
    ids = None
    if all("symbols" in row for row in rows):  # found while the clips were prepared
        ids = [numpy.array(row["symbols"].split(), dtype=numpy.int16) for row in rows]
        rows = [{name: row[name] for name in row if name != "symbols"} for row in rows]
    seed = experiment.hparams["seed"]
    return VoiceSet(pack, rows, config.rate_hz, config.hop, ids=ids, seed=seed)


def _plain(name: str) -> str:
    """Return a speaker's name as part of a file's: as it is, or with a digest if it cannot be."""
    plain = re.sub(r"[^\w.+-]", "_", name)[:80]
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


@torch.no_grad()
def write_samples(model: USAT, data: VoiceSet, folder: Path) -> None:
    """Let the model read each speaker's first text, in the voice of another clip of the speaker.

    Arguments
    ---------
    model : USAT
        Trained.
    data : VoiceSet
        Whose texts and references.
    folder : Path
        Gets ``<speaker>.wav`` and, to set beside it, ``<speaker>_reference.wav``.
    """
    model.eval()
    device = next(model.parameters()).device
    speakers = [row["speaker"] for row in data.rows]
    for speaker in sorted(set(speakers)):
        place = speakers.index(speaker)
        batch = data.__getitems__([place])
        reference = batch["reference"].to(device)
        ids = batch["ids"].to(device)  # in the speaker's accent
        generator = torch.Generator(device).manual_seed(0)
        waveform, _ = model.say(ids, model.speaker(reference), generator=generator)
        for end, sound in (("", waveform), ("_reference", reference)):
            write_audio(
                folder / f"{_plain(speaker)}{end}.wav", sound[0].cpu().clamp(-1, 1), data.rate_hz
            )
