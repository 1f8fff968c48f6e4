"""Enrol a voice: minutes of recordings with transcripts become a small file beside the base."""

from __future__ import annotations

import copy
import functools
import importlib.metadata
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import torch
from torch import Tensor

from speechcl.backbones.usat import USAT
from speechcl.backbones.usat.voice_files import save_voice
from speechcl.brains.enrolment import Enroller, EnrolmentBrain
from speechcl.data.packed import pack_audio
from speechcl.data.voice_corpora import hold_out, prepare_voices, read_own_speech
from speechcl.data.voices import VoiceSet
from speechcl.engine import Engine, Training
from speechcl.inference.references import check_reference
from speechcl.methods import USAT as VoiceMethod
from speechcl.task import Task

_NAME = re.compile(r"[^\W_][\w-]{0,63}")
_FEWEST_CLIPS = 2  # a reference is another clip
UNKNOWN = "-"  # clips that lie in no folder are taken for the same speaker's
_HELD_OUT = 0.15  # of the clips, to stop by


class Enrolled(NamedTuple):
    """What came of enrolling.

    ``before_db`` and ``after_db`` are differences of log-mel spectrograms from recordings that were
    held out, or from all of fewer than eight clips; ``remarks`` are of the recordings.
    """

    file: Path
    clips: int
    speech_s: float
    before_db: float
    after_db: float
    remarks: list[str]


def enrol(
    model: USAT,
    recordings: str | os.PathLike | Sequence[str | os.PathLike],
    name: str,
    *,
    consent: str,
    folder: str | os.PathLike = "voices",
    epochs: int = 30,
    patience: int = 5,
    progress: bool = True,
    check: Callable[[Tensor, str], None] | None = None,
) -> Enrolled:
    """Fit adapters and a vector to one speaker's recordings, and write them into a file.

    Arguments
    ---------
    model : USAT
        The base; a copy is fitted.
    recordings : path or sequence of paths
        As ``speechcl.data.voice_corpora.read_own_speech`` reads them: clips of 1 to 12 s with
        transcripts, of one speaker.
    name : str
        Of the voice: letters, digits, hyphens and underscores.
    consent : str
        Who agreed to it and how, in words; kept in the file.
    folder : path
        Gets ``<name>.safetensors``.
    epochs, patience : int
        Passes over the clips, at most; it ends after ``patience`` without gain on held-out ones.
    progress : bool
        Whether a bar is shown.
    check : Callable, optional
        Called with each clip (time,) and its name; raises a ValueError to refuse it.

    Returns
    -------
    Enrolled

    Raises
    ------
    ValueError
        If there is no consent, no new name, or too little to learn from; nothing is written.

    Source
    ------
    USAT, arXiv 2404.18094, equations 11 and 12.
    """
    file = Path(folder) / f"{name}.safetensors"
    if not consent.strip():
        raise ValueError("whose voice it is must agree: say who did and how, as consent")
    if not _NAME.fullmatch(name):
        raise ValueError(f"name is {name!r}: use up to 64 letters, digits, hyphens and underscores")
    if file.exists():
        raise ValueError(f"{file} is there already: choose another name, or remove that voice")
    own = copy.deepcopy(model)
    with tempfile.TemporaryDirectory() as place:
        voices, remarks = _recordings(recordings, name, own, Path(place))
        if check is not None:
            for row in voices.rows:
                check(voices.pack.read(voices.pack.place_of[row["ID"]]), row["ID"])
        results = _fit(own, _task(voices, name), Path(place) / "run", epochs, patience, progress)
    speech_s = float(voices.pack.lengths[voices.places].sum()) / voices.rate_hz
    record = {
        "consent": consent.strip(),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "speech_s": f"{speech_s:.1f}",
        "clips": str(len(voices)),
        "speechcl": importlib.metadata.version("speechcl"),
    }
    save_voice(own, name, file, record=record)
    before, after = results["zero_shot"][0], results["matrix"][0][0]
    return Enrolled(file, len(voices), speech_s, before, after, remarks)


def _fit(
    model: USAT, task: Task, folder: Path, epochs: int, patience: int, progress: bool
) -> dict[str, Any]:
    """Fit a voice beside the model; return what a run leaves."""
    engine = Engine(
        brain=EnrolmentBrain,
        modules={"model": Enroller(model, detach_durations=False)},
        method=VoiceMethod(),
        stream=[task],
        training=Training(
            functools.partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.01),
            epochs=epochs,
            batch_size=8,
            task_known=True,
            patience=patience,
        ),
        folder=folder,
        run_opts={"device": str(next(model.parameters()).device), "noprogressbar": not progress},
    )
    return engine.run()


def _recordings(source: Any, name: str, model: USAT, place: Path) -> tuple[VoiceSet, list[str]]:
    """Return the clips that can be learnt from, and what is wrong with others."""
    listed = read_own_speech(source, unknown_speaker=UNKNOWN)
    speakers = sorted({row["speaker"] for row in listed} - {UNKNOWN})
    if len(speakers) > 1:
        shown = ", ".join(speakers[:5]) + (", ..." if len(speakers) > 5 else "")
        raise ValueError(f"the recordings are of {len(speakers)} speakers ({shown}): give one's")
    config = model.config
    rows, left_out = prepare_voices(
        [{**row, "speaker": name, "split": "train"} for row in listed],
        place / "clips",
        config.rate_hz,
        config.hop,
        workers=1,
    )
    remarks = [f"{clip}: left out, {reason}" for clip, reason in left_out.items()]
    if len(rows) < _FEWEST_CLIPS:
        raise ValueError(
            f"{len(rows)} of {len(listed)} clips can be learnt from: give {_FEWEST_CLIPS} or more "
            "of 1 to 12 s with transcripts, or one clip as a reference"
        )
    pack = pack_audio(rows, place / "packed", config.rate_hz)
    for row in rows:
        sound = pack.read(pack.place_of[row["ID"]])
        found = check_reference(sound, config.rate_hz).remarks
        remarks += [f"{row['ID']}: {one}" for one in found]
    ids = [numpy.array(row["symbols"].split(), dtype=numpy.int16) for row in rows]
    rows = [{key: row[key] for key in row if key != "symbols"} for row in rows]
    return VoiceSet(pack, rows, config.rate_hz, config.hop, ids=ids), remarks


def _task(voices: VoiceSet, name: str) -> Task:
    """Hold clips out of enough of them: training stops by them, and is measured on them."""
    rows = hold_out(voices.rows, _HELD_OUT)
    train, valid = (
        voices.subset([place for place, row in enumerate(rows) if row["split"] == split])
        if any(row["split"] == split for row in rows)
        else None
        for split in ("train", "valid")
    )
    assert train is not None
    held = None if valid is None else valid.plain()
    return Task(0, name, train, held, held or train.plain())
