"""Reading and writing waveforms: float32 in [-1, 1], mono, at the rate that was asked for."""

import io
import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch

from speechcl.data.files import atomic_path
from speechcl.data.sound_files import (
    AUDIO_SUFFIXES,
    MAX_RATE_HZ,
    MIN_RATE_HZ,
    AudioError,
    audio_duration_s,
    find_audio,
    open_audio,
    show_path,
)

__all__ = [
    "AUDIO_SUFFIXES",
    "AudioError",
    "audio_duration_s",
    "find_audio",
    "read_audio",
    "write_audio",
]

_BLOCK_FRAMES = 1 << 17
_FORMATS = {".wav": "WAV", ".flac": "FLAC"}
# The length of an MP3 without a seek table is an estimate, good to a frame or two of 1152.
_MP3_SLACK_FRAMES = 2 * 1152
# Float files may go a little over full scale; far over, their samples were never scaled.
_MAX_READ_PEAK = 8.0
_MAX_WRITE_PEAK = 1.05


def read_audio(
    path: str | os.PathLike,
    rate_hz: int = 16000,
    start_s: float = 0.0,
    duration_s: float | None = None,
    max_duration_s: float = 3600.0,
) -> torch.Tensor:
    """Read a sound file, or a part of it, as a mono waveform at a given rate.

    Channels are averaged. Memory stays in proportion to the result, whatever the file's own rate
    and channel count. Samples beyond full scale are clipped. A part is resampled on its own, so
    samples within about a millisecond of its ends differ slightly from those of the whole.

    Arguments
    ---------
    path : str or os.PathLike
        Any format that libsndfile decodes; the content decides, not the suffix.
    rate_hz : int
        Rate of the result.
    start_s, duration_s : float
        Where to begin and how much to read; the result is shorter if the file ends before.
    max_duration_s : float
        Refuse to read more than this at once.

    Returns
    -------
    torch.Tensor
        Waveform (time,), float32 in [-1, 1].

    Raises
    ------
    AudioError
        If the file is missing, broken, no sound, too long, or holds NaN or infinite samples.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.wav"
    >>> write_audio(path, torch.full((8000,), 0.5), rate_hz=8000)
    >>> read_audio(path, rate_hz=8000, start_s=0.25, duration_s=0.5).shape
    torch.Size([4000])
    """
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise AudioError(f"rate_hz is {rate_hz}: choose {MIN_RATE_HZ} to {MAX_RATE_HZ}")
    if not 0 <= start_s < math.inf or (duration_s is not None and not 0 < duration_s < math.inf):
        raise AudioError(
            f"start_s is {start_s} and duration_s is {duration_s}: choose finite seconds, "
            "start_s >= 0 and duration_s > 0"
        )
    shown = show_path(path)
    with open_audio(path) as sound:
        count = _seek(sound, start_s, duration_s, max_duration_s, shown)
        resampler = soxr.ResampleStream(sound.samplerate, rate_hz, 1, dtype="float32")
        blocks = [
            resampler.resample_chunk(mono, last=last)
            for mono, last in _mono_blocks(sound, count, shown)
        ]
    waveform = np.concatenate(blocks)
    if waveform.size == 0:
        raise AudioError(f"{shown}: is too short, under one sample at {rate_hz} Hz: leave it out")
    return torch.from_numpy(waveform).clamp_(-1.0, 1.0)


def write_audio(path: str | os.PathLike, waveform: torch.Tensor | np.ndarray, rate_hz: int) -> None:
    """Write a mono waveform as 16-bit WAV or FLAC; a kill leaves the old file or the new one.

    Arguments
    ---------
    path : str or os.PathLike
        Ends in ``.wav`` or ``.flac``. Missing parent folders are made.
    waveform : torch.Tensor or numpy.ndarray
        Waveform (time,) in [-1, 1]; an overshoot of up to 0.05 is clipped.
    rate_hz : int
        Its rate.

    Raises
    ------
    AudioError
        If the suffix, shape, rate or samples are not as above; nothing is written then.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.flac"
    >>> write_audio(path, torch.tensor([0.0, 0.5, -1.0, 1.02]), rate_hz=16000)
    >>> read_audio(path)
    tensor([ 0.0000,  0.5000, -1.0000,  1.0000])
    """
    shown = show_path(path)
    format_name = _FORMATS.get(Path(path).suffix.lower())
    if format_name is None:
        raise AudioError(f"{shown}: sound is written as WAV or FLAC: end the name in .wav or .flac")
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise AudioError(f"{shown}: rate_hz is {rate_hz}: choose {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz")
    samples = torch.as_tensor(waveform).detach().to("cpu", torch.float32).numpy()
    _check_samples(samples, shown)
    encoded = io.BytesIO()
    soundfile.write(encoded, samples.clip(-1.0, 1.0), rate_hz, "PCM_16", format=format_name)
    with atomic_path(path) as temporary:
        temporary.write_bytes(encoded.getvalue())


def _seek(
    sound: soundfile.SoundFile,
    start_s: float,
    duration_s: float | None,
    max_duration_s: float,
    shown: str,
) -> int:
    """Go to the part's first frame; return how many frames it has."""
    start = round(start_s * sound.samplerate)
    if start >= sound.frames:
        whole_s = sound.frames / sound.samplerate
        raise AudioError(f"{shown}: lasts {whole_s:.3f} s: choose start_s below that")
    count = sound.frames - start
    if duration_s is not None:
        count = min(count, max(1, round(duration_s * sound.samplerate)))
    if count > max_duration_s * sound.samplerate:
        raise AudioError(
            f"{shown}: {count / sound.samplerate:.0f} s is more than the {max_duration_s:.0f} s "
            "that are read at once: give start_s and duration_s, or cut the file"
        )
    if start:
        sound.seek(start)
    return count


def _mono_blocks(
    sound: soundfile.SoundFile, count: int, shown: str
) -> Iterator[tuple[np.ndarray, bool]]:
    """Yield the next ``count`` frames as mono blocks, each with whether it is the last."""
    slack = _MP3_SLACK_FRAMES if sound.format == "MP3" else 0
    left = count
    last = False
    while not last:
        block = sound.read(min(left, _BLOCK_FRAMES), dtype="float32", always_2d=True)
        left -= len(block)
        if len(block) == 0 and left > slack:
            raise AudioError(
                f"{shown}: is cut off, {left} of {count} frames are missing: fetch it again"
            )
        if not np.isfinite(block).all():
            raise AudioError(f"{shown}: holds NaN or infinite samples: export it again")
        if len(block) and np.abs(block).max() > _MAX_READ_PEAK:
            raise AudioError(
                f"{shown}: samples reach {np.abs(block).max():.0f}: scale them to [-1, 1]"
            )
        last = left == 0 or len(block) == 0
        yield block.mean(axis=1), last


def _check_samples(samples: np.ndarray, shown: str) -> None:
    if samples.ndim != 1 or samples.size == 0:
        raise AudioError(f"{shown}: the waveform has shape {samples.shape}: pass (time,), time > 0")
    if not np.isfinite(samples).all():
        raise AudioError(f"{shown}: the waveform holds NaN or infinity: mend what made it")
    peak = float(np.abs(samples).max())
    if peak > _MAX_WRITE_PEAK:
        raise AudioError(f"{shown}: the waveform reaches {peak:.3g}: scale it to [-1, 1]")
