"""What recipes that train a voice model share: recordings with transcripts become a run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from speechbrain.utils.distributed import if_main_process

from speechcl.backbones.usat import USAT
from speechcl.data.audio import write_audio
from speechcl.data.packed import pack_audio
from speechcl.data.phonemes import numbers, phonemes
from speechcl.data.voices import VoiceSet
from speechcl.experiment import Experiment
from speechcl.task import make_stream

Row = Mapping[str, Any]


def learn_voice(experiment: Experiment, rows: Sequence[Row], about: Mapping[str, Any]) -> Path:
    """Train a voice model on all speakers at once, then write it and let it speak.

    Arguments
    ---------
    experiment : Experiment
        Its hyper-parameters: ``corpus_folder``, where packed audio is kept. Its YAML fragment under
        ``base`` has the ``model`` and the ``modules`` that it is trained with.
    rows : Sequence
        Manifest rows with ``speaker``, ``text`` and ``split``, "train" or "test".
    about : Mapping
        Further fields of results.json: recipe, notes.

    Returns
    -------
    Path
        The run folder; in it ``model``, for ``USAT.from_pretrained``, and ``samples``.
    """
    model, hparams = experiment.base["model"], experiment.hparams
    rate_hz, hop, seed = model.config.rate_hz, model.config.hop, hparams["seed"]
    folder = Path(hparams["corpus_folder"]) / "packed"
    pack = experiment.on_main(pack_audio, rows=rows, folder=folder, rate_hz=rate_hz)
    train, test = (
        VoiceSet(pack, [row for row in rows if row["split"] == split], rate_hz, hop, seed=seed)
        for split in ("train", "test")
    )
    run = experiment.run(make_stream([("voices", train, test.plain())]), about)
    if if_main_process() and not (run / "model").exists():
        model.save(run / "model")
        write_samples(model, test.plain(), run / "samples")
    return run


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
        ids = torch.tensor([numbers(phonemes(data.rows[place]["text"]))], device=device)
        generator = torch.Generator(device).manual_seed(0)
        waveform, _ = model.say(ids, model.speaker(reference), generator=generator)
        plain = re.sub(r"[^\w.+-]", "_", speaker)  # names may hold what paths may not
        for name, sound in ((plain, waveform), (f"{plain}_reference", reference)):
            write_audio(folder / f"{name}.wav", sound[0].cpu().clamp(-1, 1), data.rate_hz)
