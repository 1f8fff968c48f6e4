"""Where a sound file comes from, written into the file itself: which model, voice and day."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import numpy as np
import soundfile
import torch

from speechcl.data.files import atomic_path
from speechcl.data.sound_files import AudioError, open_audio, show_path

GENERATOR = "speechcl"
MAX_BYTES = 1500  # of the comment; libsndfile reads no longer texts from WAV files than 2 kB

_FORMATS = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "OPUS"),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}
_RATES_HZ = {
    "OPUS": (8000, 12000, 16000, 24000, 48000),
    "MPEG_LAYER_III": (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000),
}
_LOSSLESS = {  # subtypes whose samples can be copied exactly, and as what
    **dict.fromkeys(("PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32"), "int32"),
    **dict.fromkeys(("FLOAT", "DOUBLE"), "float64"),
}
_BLOCK_FRAMES = 1 << 14  # the Ogg encoders overflow the stack on long writes
_MAX_PEAK = 1.05


def describe(text: str, voice: str, fingerprint: str) -> dict[str, str]:
    """Return the provenance of speech that is made now.

    Arguments
    ---------
    text : str
        What is said. Only its hash is kept; whoever guesses the text can confirm the guess.
    voice : str
        Name of the voice, or "reference" for that of a recording.
    fingerprint : str
        Of the model.

    Returns
    -------
    dict
        generator, version, model, voice, date (UTC) and text_sha256.

    Example
    -------
    >>> made = describe("Hello", voice="alice", fingerprint="f00d")
    >>> made["generator"], made["voice"], made["text_sha256"][:8]
    ('speechcl', 'alice', '185f8db3')
    """
    return {
        "generator": GENERATOR,
        "version": version("speechcl"),
        "model": fingerprint,
        "voice": voice,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "text_sha256": hashlib.sha256(text.encode()).hexdigest(),
    }


def check_target(path: str | os.PathLike, rate_hz: int | None = None) -> tuple[str, str]:
    """Return the format and the coding of samples of a sound file of this name.

    Raises
    ------
    AudioError
        If it is a folder, or speech is not written into such files, or not at this rate.

    Example
    -------
    >>> check_target("a.flac")
    ('FLAC', 'PCM_16')
    """
    form = _FORMATS.get(Path(path).suffix.lower())
    if form is None:
        raise AudioError(f"{show_path(path)}: end the name in one of {', '.join(_FORMATS)}")
    if Path(path).is_dir():
        raise AudioError(f"{show_path(path)}: is a folder: give the name of a file")
    known = _RATES_HZ.get(form[1])
    if known and rate_hz is not None and rate_hz not in known:
        raise AudioError(
            f"{show_path(path)}: rate_hz is {rate_hz}, its format knows {known}: choose .wav"
        )
    return form


def write_speech(
    path: str | os.PathLike,
    waveform: torch.Tensor | np.ndarray,
    rate_hz: int,
    fields: Mapping[str, str],
) -> None:
    """Write a mono waveform together with its provenance; a kill leaves the old file or the new.

    Arguments
    ---------
    path : str or os.PathLike
        Ends in .wav or .flac (16 bits), .ogg or .opus (Opus), or .mp3.
    waveform : torch.Tensor or numpy.ndarray
        Waveform (time,) in [-1, 1]; an overshoot of up to 0.05 is clipped.
    rate_hz : int
        Its rate; Opus and MP3 know a few only.
    fields : Mapping
        As from ``describe``: has a ``generator``.

    Raises
    ------
    AudioError
        If the suffix, samples or rate are not as above, or the file cannot be written; nothing is
        written then.
    ValueError
        If the fields are no provenance.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.opus"
    >>> write_speech(path, torch.zeros(24000), 24000, {"generator": "speechcl", "voice": "alice"})
    >>> read_provenance(path)
    {'generator': 'speechcl', 'voice': 'alice'}
    """
    shown = show_path(path)
    form = check_target(path, rate_hz)
    samples = torch.as_tensor(waveform).detach().to("cpu", torch.float32).numpy()
    if samples.ndim != 1 or not samples.size or not np.isfinite(samples).all():
        raise AudioError(f"{shown}: the waveform must be (time,), not empty and finite")
    if np.abs(samples).max() > _MAX_PEAK:
        raise AudioError(f"{shown}: the waveform goes beyond full scale: scale it to [-1, 1]")
    comment = _comment(fields)
    blocks = np.split(samples.clip(-1.0, 1.0), range(_BLOCK_FRAMES, samples.size, _BLOCK_FRAMES))
    try:
        with (
            atomic_path(path) as temporary,
            _created(temporary, rate_hz, 1, form, comment) as sound,
        ):
            for block in blocks:
                sound.write(block)
    except soundfile.LibsndfileError as error:
        reason = error.error_string.rstrip(".")
        raise AudioError(f"{shown}: cannot be written ({reason}): choose another folder") from error


def write_provenance(path: str | os.PathLike, fields: Mapping[str, str]) -> None:
    """Put provenance into a WAV or FLAC file that exists; its samples stay as they are.

    Arguments
    ---------
    path : str or os.PathLike
        The file. Other formats would lose quality: ``write_speech`` writes theirs at once. Other
        text in the file, such as a title, is not kept.
    fields : Mapping
        As from ``describe``: has a ``generator``.

    Raises
    ------
    AudioError
        If the file is broken or its samples cannot be copied exactly; it stays as it was.
    ValueError
        If the fields are no provenance.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.wav"
    >>> soundfile.write(path, [0.0, 0.5], 16000)
    >>> write_provenance(path, {"generator": "speechcl"})
    >>> read_provenance(path), soundfile.read(path)[0].tolist()
    ({'generator': 'speechcl'}, [0.0, 0.5])
    """
    comment = _comment(fields)
    with open_audio(path) as sound:
        form = (sound.format, sound.subtype)
        kept_as = _LOSSLESS.get(sound.subtype)
        if sound.format not in ("WAV", "FLAC") or kept_as is None:
            raise AudioError(
                f"{show_path(path)}: {sound.format} with {sound.subtype} samples cannot be copied "
                "exactly: write sound and provenance at once"
            )
        with (
            atomic_path(path) as temporary,
            _created(temporary, sound.samplerate, sound.channels, form, comment) as copy,
        ):
            for block in sound.blocks(_BLOCK_FRAMES, dtype=kept_as, always_2d=True):
                copy.write(block)


def read_provenance(path: str | os.PathLike) -> dict[str, str]:
    """Return what a sound file says of where it comes from; empty if it says nothing.

    Anyone can write such fields, or remove them: they inform, they prove nothing.

    Arguments
    ---------
    path : str or os.PathLike
        Any format that libsndfile decodes.

    Returns
    -------
    dict
        Its fields, as one-line text; empty where the comment is missing, too long or no
        provenance.

    Raises
    ------
    AudioError
        If the file cannot be read as sound.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.flac"
    >>> soundfile.write(path, [0.0, 0.5], 16000)
    >>> read_provenance(path)
    {}
    """
    with open_audio(path) as sound:
        comment = sound.comment
    if len(comment) > MAX_BYTES:
        return {}
    try:
        fields = json.loads(comment)
    except (ValueError, RecursionError):
        return {}
    return fields if _is_provenance(fields) else {}


def _is_provenance(fields: object) -> bool:
    return (
        isinstance(fields, Mapping)
        and "generator" in fields
        and all(isinstance(one, str) and one.isprintable() for one in (*fields, *fields.values()))
    )


def _comment(fields: Mapping[str, str]) -> str:
    if not _is_provenance(fields):
        raise ValueError(f"{dict(fields)} is no provenance: one-line texts, generator among them")
    # Within ASCII, since MP3 tags are read as if they were Latin-1.
    comment = json.dumps(dict(fields), separators=(",", ":"))
    if len(comment) > MAX_BYTES:
        raise ValueError(f"the provenance takes {len(comment)} bytes, over {MAX_BYTES}: shorten it")
    return comment


def _created(
    path: Path, rate_hz: int, channels: int, form: tuple[str, str], comment: str
) -> soundfile.SoundFile:
    sound = soundfile.SoundFile(path, "w", rate_hz, channels, form[1], format=form[0])
    sound.comment = comment
    sound.software = GENERATOR
    return sound
