"""Clips as voices are trained on them: one rate and channel, trimmed, levelled, checked."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

import numpy
import torch

from speechcl.data.audio import read_audio, write_audio
from speechcl.data.clips import clips_fingerprint
from speechcl.data.files import atomic_path
from speechcl.data.manifest_checks import ManifestError, Row, check_manifest
from speechcl.data.packed import PackedAudio
from speechcl.data.pool import run_jobs
from speechcl.data.sound_files import AudioError, open_audio
from speechcl.data.voices import symbol_numbers, voice_problems

SHORTEST_S, LONGEST_S = 1.0, 12.0
SILENCE_DB = 40.0  # below the loudest frame
PEAK = 0.95
_MARGIN_S = 0.05  # of what is cut off, kept at both ends
_FRAME_S = 0.01
_HOPELESS_S = 60.0  # no trimming makes it short enough; not decoded
_VERSION = 1  # raise it when the same clips and settings yield others
_PROBE = "Yes, it is 1984: Dr. Lee's water bottle."  # what is said of it may change


class Prepared(NamedTuple):
    """Clips to train voices on, and IDs of the others with the reason."""

    rows: list[Row]
    left_out: dict[str, str]


@dataclass(frozen=True)
class _Job:
    """One clip to prepare."""

    row: Row
    folder: Path
    rate_hz: int
    hop: int


class _Length(NamedTuple):
    """What :func:`voice_problems` asks of a pack, of a clip that is not packed yet."""

    lengths: list[int]
    place_of: dict[str, int]


def prepare_voices(
    rows: Sequence[Row],
    folder: str | Path,
    rate_hz: int = 16_000,
    hop: int = 256,
    workers: int = 2,
) -> Prepared:
    """Write clips as a voice is trained on them, once, and say which cannot be used.

    Channels are averaged, the rate is changed, what is 40 dB below the loudest frame is cut off
    both ends (50 ms of it stay), and the peak becomes 0.95. Left out are clips under 1 s and over
    12 s and those of ``speechcl.data.voices.voice_problems``. What was prepared from the same clips
    with the same settings is used again; after a kill the same call goes on.

    Arguments
    ---------
    rows : sequence of dict
        Manifest rows with ``ID``, ``wav``, ``duration`` in seconds, ``speaker``, ``text`` and
        ``corpus``.
    folder : str or Path
        Where the clips go, as FLAC, and what was found of them.
    rate_hz : int
        Samples a second of the voice model.
    hop : int
        Samples a frame of the voice model.
    workers : int
        Number of processes; the clips do not depend on it.

    Returns
    -------
    Prepared
        ``rows`` with new ``wav`` and ``duration``, and ``symbols``, the numbers of the sounds of
        the text; ``left_out``, ID to reason.

    Raises
    ------
    ManifestError
        If two rows have one ID or, listing all of them, if clips cannot be read.
    ValueError
        If no clip can be used.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> sound = torch.cat([torch.zeros(16000), torch.rand(32000), torch.zeros(16000)])
    >>> write_audio(folder / "a.wav", sound, rate_hz=16000)
    >>> row = {"ID": "a", "wav": str(folder / "a.wav"), "duration": 4.0, "speaker": "x"}
    >>> rows, _ = prepare_voices([{**row, "text": "Hi!", "corpus": "mine"}], folder, workers=1)
    >>> round(rows[0]["duration"], 1), round(float(read_audio(rows[0]["wav"]).abs().max()), 2)
    (2.1, 0.95)
    """
    check_manifest(rows, files=False, disjoint_speakers=False, name="clips")
    folder = Path(folder)
    note = folder / f"prepared-{_fingerprint(rows, rate_hz, hop)}.json"
    found = _read(note)
    if found is None:
        jobs = [_Job(dict(row), folder, rate_hz, hop) for row in rows]
        outcomes = run_jobs(_prepare_clip, jobs, workers, "preparing clips")
        found = _sort(jobs, outcomes)
        with atomic_path(note) as temporary:
            temporary.write_text(json.dumps(found._asdict()), encoding="utf-8")
    return found._replace(
        rows=[{**row, "wav": str(folder.absolute() / row["wav"])} for row in found.rows]
    )


def _sort(jobs: Sequence[_Job], outcomes: Sequence[Row | str | AudioError]) -> Prepared:
    """Tell clips that were prepared from the others; refuse broken clips and useless corpora."""
    broken = [
        f"{job.row['ID']}: {one}"
        for job, one in zip(jobs, outcomes, strict=True)
        if isinstance(one, AudioError)
    ]
    if broken:
        raise ManifestError("clips", broken)
    rows = [one for one in outcomes if isinstance(one, dict)]
    left_out = {
        job.row["ID"]: one for job, one in zip(jobs, outcomes, strict=True) if isinstance(one, str)
    }
    if not rows:
        name, reason = next(iter(left_out.items()))
        raise ValueError(
            f"none of {len(left_out)} clips can train a voice ({name}: {reason}): clips last "
            f"{SHORTEST_S:.0f} to {LONGEST_S:.0f} s and have a speaker and a text"
        )
    return Prepared(rows, left_out)


def _fingerprint(rows: Sequence[Row], rate_hz: int, hop: int) -> str:
    """Name all that the result rests on, pronunciation too."""
    settings = [_VERSION, rate_hz, hop, [sorted(row.items()) for row in rows]]
    return clips_fingerprint(rows, settings, str(symbol_numbers([{"text": _PROBE}])).encode())


def _read(note: Path) -> Prepared | None:
    """Return what was prepared before, unless clips of it have gone."""
    if not note.is_file():
        return None
    found = Prepared(**json.loads(note.read_text(encoding="utf-8")))
    whole = all((note.parent / row["wav"]).is_file() for row in found.rows)
    return found if whole else None


def _prepare_clip(job: _Job) -> Row | str | AudioError:
    """Return the row of the clip that was written, else why none was, or what is broken."""
    row, name = job.row, _clip_name(job)
    waveform = None
    try:
        if (job.folder / name).is_file():
            with open_audio(job.folder / name) as sound:
                samples = sound.frames
        elif row["duration"] < SHORTEST_S or row["duration"] > _HOPELESS_S:
            samples = round(row["duration"] * job.rate_hz)
        else:
            waveform = levelled(read_audio(row["wav"], job.rate_hz).numpy(), job.rate_hz)
            samples = len(waveform)
    except AudioError as error:
        return error
    ids = symbol_numbers([row])
    reason = _reason(job, samples, ids)
    if reason:
        return reason
    if waveform is not None:
        write_audio(job.folder / name, torch.from_numpy(waveform), job.rate_hz)
    symbols = " ".join(map(str, ids[0]))
    return {**row, "wav": name, "duration": samples / job.rate_hz, "symbols": symbols}


def _reason(job: _Job, samples: int, ids: list[list[int]]) -> str:
    """Say why a clip cannot be used; nothing if it can."""
    if samples == 0:
        return "silent"
    if samples < SHORTEST_S * job.rate_hz:
        return f"under {SHORTEST_S:.0f} s"
    if samples > LONGEST_S * job.rate_hz:
        return f"over {LONGEST_S:.0f} s"
    length = cast(PackedAudio, _Length([samples], {job.row["ID"]: 0}))
    found = "".join(voice_problems(length, [job.row], ids, job.hop).values())
    return "fewer frames than symbols" if " frames for " in found else found


def levelled(waveform: numpy.ndarray, rate_hz: int) -> numpy.ndarray:
    """Cut silence off both ends and bring the peak to its level; nothing is left of silence.

    Arguments
    ---------
    waveform : numpy.ndarray
        Shape (time,), in [-1, 1].
    rate_hz : int
        Its rate.

    Returns
    -------
    numpy.ndarray
        Shape (less time,).

    Example
    -------
    >>> sound = numpy.zeros(16000, dtype=numpy.float32)
    >>> len(levelled(sound, 16000))
    0
    >>> sound[4000:8000] = 0.1
    >>> len(levelled(sound, 16000)), round(float(levelled(sound, 16000).max()), 2)
    (5600, 0.95)
    """
    if not waveform.any():
        return waveform[:0]
    size, margin = round(_FRAME_S * rate_hz), round(_MARGIN_S * rate_hz)
    frames = waveform[: len(waveform) // size * size].reshape(-1, size)
    power = numpy.square(frames).mean(1)
    loud = numpy.flatnonzero(power >= power.max() * 10 ** (-SILENCE_DB / 10))
    kept = waveform[max(0, loud[0] * size - margin) : (loud[-1] + 1) * size + margin]
    return kept * numpy.float32(PEAK / numpy.abs(kept).max())


def _clip_name(job: _Job) -> str:
    """Name a clip by all that it depends on, so that a file of that name needs no rework."""
    digest = clips_fingerprint([job.row], [_VERSION, job.rate_hz, job.row["ID"]])
    readable = re.sub(r"[^\w-]+", "_", job.row["ID"])[:80]
    return f"clips/{digest[:2]}/{readable}-{digest}.flac"
