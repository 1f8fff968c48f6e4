"""Recordings that tell a voice: read, checked, and cut to what is speech."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy
import torch
from torch import Tensor

from speechcl.data.audio import read_audio
from speechcl.data.sound_files import show_path
from speechcl.data.voice_corpora.prepare import levelled

LEAST_S, MOST_S = 0.5, 600.0
_FRAME_S = 0.02
_QUIET_DB = -60.0  # of full scale; nothing below is speech
_SPEECH_DB = 30.0  # below the loudest frames, where speech ends
_NOISY_DB = 18.0  # spread of levels under which a recording is noisy: speech 10 dB above noise
_CLIPPED = 0.001  # share of samples at full scale


class Reference(NamedTuple):
    """A recording of a voice: ``waveform`` (time,), trimmed and levelled; what to know of it."""

    waveform: Tensor
    speech_s: float
    remarks: list[str]


def read_reference(path: str | os.PathLike, rate_hz: int) -> Reference:
    """Read a recording of a voice.

    Arguments
    ---------
    path : str or os.PathLike
        Any sound file of half a second to ten minutes.
    rate_hz : int
        The voice model's rate.

    Returns
    -------
    Reference

    Raises
    ------
    ValueError
        If the file cannot be read, is longer, or holds less than half a second of speech.

    Example
    -------
    >>> from speechcl.data.audio import write_audio
    >>> path = getfixture("tmp_path") / "a.wav"
    >>> write_audio(path, torch.zeros(16000), rate_hz=16000)
    >>> read_reference(path, 16000)
    Traceback (most recent call last):
    ValueError: '.../a.wav': is silent: give a recording of speech
    """
    waveform = read_audio(path, rate_hz, max_duration_s=MOST_S)
    try:
        return check_reference(waveform, rate_hz)
    except ValueError as error:
        raise ValueError(f"{show_path(path)}: {error}") from error


def check_reference(waveform: Tensor, rate_hz: int) -> Reference:
    """Trim and level a recording of a voice (time,), and say what is wrong with it.

    Raises
    ------
    ValueError
        If it is longer than ten minutes, or holds less than half a second of speech.

    Example
    -------
    >>> tone = 0.5 * torch.sin(torch.arange(16000) / 10)
    >>> check_reference(torch.cat([tone, 0.001 * torch.randn(16000)]), 16000).remarks
    []
    >>> check_reference(tone + 0.2 * torch.randn(16000), 16000).remarks[0]
    'is noisy (levels spread over ... dB): a quieter place gives a better voice'
    """
    if len(waveform) > MOST_S * rate_hz:
        raise ValueError(f"lasts over {MOST_S / 60:.0f} minutes: give less of it")
    sound = waveform.numpy()
    size = round(_FRAME_S * rate_hz)
    frames = sound[: len(sound) // size * size].reshape(-1, size)
    if not len(frames) or not sound.any():
        raise ValueError("is silent: give a recording of speech")
    levels_db = 10 * numpy.log10(numpy.square(frames, dtype=numpy.float64).mean(1) + 1e-12)
    low_db, high_db = numpy.percentile(levels_db, (10, 95))
    speech = levels_db > max(high_db - _SPEECH_DB, _QUIET_DB)
    speech_s = float(speech.sum()) * _FRAME_S
    if high_db < _QUIET_DB:
        raise ValueError("is silent: give a recording of speech")
    if speech_s < LEAST_S:
        raise ValueError(f"holds {speech_s:.2f} s of speech: give at least {LEAST_S} s")
    remarks = []
    if high_db - low_db < _NOISY_DB:
        remarks.append(
            f"is noisy (levels spread over {high_db - low_db:.0f} dB): "
            "a quieter place gives a better voice"
        )
    if float((numpy.abs(sound) > 0.999).mean()) > _CLIPPED:
        remarks.append("is clipped: record it at a lower level")
    return Reference(torch.from_numpy(levelled(sound, rate_hz)), speech_s, remarks)
