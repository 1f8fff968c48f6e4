"""Many clips in one file of 16-bit samples: decoded once, then read as fast as memory is copied."""

from __future__ import annotations

import errno
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy
import torch
from torch import Tensor
from tqdm import tqdm

from speechcl.data.audio import read_audio
from speechcl.data.clips import Row, clips_fingerprint
from speechcl.data.files import atomic_path
from speechcl.data.sound_files import MAX_RATE_HZ, MIN_RATE_HZ

_SAMPLES, _INDEX = "samples.i16", "index.json"
_FORMAT = "speechcl packed audio 1"
_SAMPLE = numpy.dtype("<i2")
FULL_SCALE = 32768  # as in 16-bit WAV and FLAC, whose samples are therefore kept exactly


class PackedAudio:
    """Clips of a packed folder, read through a memory map: no more is in memory than is asked for.

    The folder holds ``samples.i16`` (all clips one after another, 16-bit little-endian, mono) and
    ``index.json`` (their IDs, lengths and rate). Pickled, for example for the workers of a loader,
    a pack is its path and is opened again.

    Arguments
    ---------
    folder : str or os.PathLike
        What :func:`pack_audio` has written. Attributes: ``folder``, ``rate_hz``, ``ids``,
        ``lengths`` (samples of each clip) and ``place_of`` (where an ID stands).

    Raises
    ------
    ValueError
        If it is no pack, cut off or damaged.

    Example
    -------
    >>> from speechcl.data.audio import write_audio
    >>> folder = getfixture("tmp_path")
    >>> write_audio(folder / "a.wav", torch.tensor([0.0, 0.5, -1.0]), rate_hz=16000)
    >>> pack = pack_audio([{"ID": "a", "wav": folder / "a.wav"}], folder)
    >>> pack.read(pack.place_of["a"], start=1)
    tensor([ 0.5000, -1.0000])
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)
        index = _read_index(self.folder)
        self.rate_hz: int = index["rate_hz"]
        self.ids: list[str] = index["ids"]
        self.lengths = numpy.array(index["lengths"], dtype=numpy.int64)
        self.place_of = {one: place for place, one in enumerate(self.ids)}
        self._begins = numpy.cumsum(self.lengths) - self.lengths
        mapped = numpy.memmap(self.folder / _SAMPLES, dtype=_SAMPLE, mode="r")
        self._samples = numpy.asarray(mapped)  # still mapped, but slicing costs a tenth

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self.ids)

    def __reduce__(self) -> tuple[type[PackedAudio], tuple[Path]]:
        """Pickle the path alone."""
        return PackedAudio, (self.folder,)

    def read(self, place: int, start: int = 0, count: int | None = None) -> Tensor:
        """Read a clip, or a part of it.

        Arguments
        ---------
        place : int
            Which clip, from 0.
        start, count : int
            First sample and how many; the result is shorter if the clip ends before.

        Returns
        -------
        Tensor
            Waveform (time,), float32 in [-1, 1].

        Raises
        ------
        ValueError
            If there is no such place, or ``start`` is not inside the clip.
        """
        left = self._length(place, start) - start
        return self.read_batch([place], [start], left if count is None else min(count, left))[0]

    def read_batch(self, places: Sequence[int], starts: Sequence[int], count: int) -> Tensor:
        """Read as many samples of each of several clips; a clip that ends before is repeated.

        Arguments
        ---------
        places : Sequence
            Which clips, from 0.
        starts : Sequence
            First sample of each.
        count : int
            Samples of each.

        Returns
        -------
        Tensor
            Waveforms (batch, count), float32 in [-1, 1].

        Raises
        ------
        ValueError
            If there is no such place, or a start is not inside its clip.
        """
        if count < 1:
            raise ValueError(f"count is {count}: read at least 1 sample")
        waveforms = numpy.empty((len(places), count), dtype=numpy.float32)
        for waveform, place, start in zip(waveforms, places, starts, strict=True):
            length = self._length(place, start)
            begin, filled = int(self._begins[place]), 0
            while filled < count:  # once, unless the clip is repeated
                piece = self._samples[begin + start : begin + min(length, start + count - filled)]
                waveform[filled : filled + len(piece)] = piece
                filled, start = filled + len(piece), 0
        waveforms *= numpy.float32(1 / FULL_SCALE)
        return torch.from_numpy(waveforms)

    def _length(self, place: int, start: int) -> int:
        """Return a clip's length; refuse what would read the samples of another one."""
        if not 0 <= place < len(self):
            raise ValueError(f"place is {place} but the pack has {len(self)} clips, from 0")
        length = int(self.lengths[place])
        if not 0 <= start < length:
            raise ValueError(
                f"start is {start} but clip '{self.ids[place]}' has {length} samples: "
                "start inside it"
            )
        return length


def pack_audio(
    rows: Sequence[Row],
    folder: str | os.PathLike,
    rate_hz: int = 16_000,
    max_duration_s: float = 60.0,
) -> PackedAudio:
    """Decode clips once, bring them to one rate and one channel, and keep them as one pack.

    A pack takes 2 bytes a sample: 115 MB an hour at 16 kHz. It is found again as long as the clips
    (ID, path, size and time of change) and settings are the same; for others a new one is written
    beside it. A kill leaves no pack, only a hidden ``.tmp-`` folder that may be deleted.

    Arguments
    ---------
    rows : Sequence
        Manifest rows with ``ID`` and ``wav``.
    folder : str or os.PathLike
        Where packs are kept.
    rate_hz : int
        Rate of the pack.
    max_duration_s : float
        Of longer clips only the beginning is kept.

    Returns
    -------
    PackedAudio
        The clips in the order of ``rows``. 16-bit sound at this rate is kept exactly, other sound
        to half a 16-bit step.

    Raises
    ------
    ValueError
        If there are no rows or two with one ID; AudioError if a clip cannot be read.
    OSError
        If the disk is full, with how much room the pack needs.

    Example
    -------
    >>> from speechcl.data.audio import write_audio
    >>> folder = getfixture("tmp_path")
    >>> write_audio(folder / "a.wav", torch.tensor([0.0, 0.5, -1.0]), rate_hz=16000)
    >>> pack = pack_audio([{"ID": "a", "wav": folder / "a.wav"}], folder / "packs")
    >>> len(pack), pack.lengths, pack.read_batch([0, 0], [0, 2], count=4)
    (1, array([3]), tensor([[ 0.0000,  0.5000, -1.0000,  0.0000],
            [-1.0000,  0.0000,  0.5000, -1.0000]]))
    """
    ids = [str(row["ID"]) for row in rows]
    _check_ids(ids)
    name = clips_fingerprint(rows, [_FORMAT, rate_hz, max_duration_s, ids])
    target = Path(folder) / f"pack-{name}"
    if not target.exists():
        with atomic_path(target) as temporary:
            temporary.mkdir()
            decoded = (read_audio(row["wav"], rate_hz, duration_s=max_duration_s) for row in rows)
            lengths = _write_samples(temporary / _SAMPLES, decoded, clips=len(rows))
            index = {"format": _FORMAT, "rate_hz": rate_hz, "ids": ids, "lengths": lengths}
            (temporary / _INDEX).write_text(json.dumps(index), encoding="utf-8")
    return PackedAudio(target)


def _check_ids(ids: list[str]) -> None:
    twice = [one for one, times in Counter(ids).items() if times > 1]
    if twice or not ids:
        raise ValueError(
            f"{len(ids)} clips to pack, IDs given twice: {twice[:3]}: "
            "give at least one clip, each with an ID of its own"
        )


def _write_samples(file: Path, waveforms: Iterator[Tensor], clips: int) -> list[int]:
    """Write waveforms one after another; return their lengths."""
    lengths: list[int] = []
    bar = tqdm(waveforms, desc="packing", total=clips, unit="clip", leave=False, dynamic_ncols=True)
    with file.open("wb") as stream:
        for waveform in bar:
            samples = (waveform.numpy() * FULL_SCALE).round().clip(-FULL_SCALE, FULL_SCALE - 1)
            try:
                stream.write(samples.astype(_SAMPLE).tobytes())
                stream.flush()
            except OSError as error:
                _refuse_full(error, file, done=len(lengths), clips=clips)
            lengths.append(len(samples))
    return lengths


def _refuse_full(error: OSError, file: Path, done: int, clips: int) -> NoReturn:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        raise error
    needed_gb = file.stat().st_size / max(1, done) * clips / 1e9
    raise OSError(
        error.errno,
        f"no room for the pack after {done} of {clips} clips ({error.strerror}): "
        f"it needs about {needed_gb:.2f} GB; make room or choose another folder",
        str(file.parent.parent),
    ) from error


def _read_index(folder: Path) -> dict[str, Any]:
    """Read and check the index; nothing in it is trusted before."""
    try:
        found = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
        size_bytes = (folder / _SAMPLES).stat().st_size
    except OSError as error:
        raise _broken(folder, f"{error.filename} is missing or cannot be read") from error
    except (ValueError, RecursionError) as error:
        raise _broken(folder, f"{_INDEX} is not JSON") from error
    if not isinstance(found, dict) or found.get("format") != _FORMAT:
        raise _broken(folder, f"{_INDEX} does not say '{_FORMAT}'")
    index: dict[str, Any] = {"rate_hz": None, "ids": None, "lengths": None, **found}
    rate_hz, ids, lengths = index["rate_hz"], index["ids"], index["lengths"]
    if type(rate_hz) is not int or not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise _broken(folder, f"rate_hz is not from {MIN_RATE_HZ} to {MAX_RATE_HZ}")
    if not _is_list_of(ids, str) or len(set(ids)) < len(ids):
        raise _broken(folder, "ids is not a list of different texts")
    if not _is_list_of(lengths, int) or min(lengths) < 1 or len(lengths) != len(ids):
        raise _broken(folder, "lengths is not a list of whole numbers above 0, one an ID")
    wanted_bytes = sum(lengths) * _SAMPLE.itemsize
    if size_bytes != wanted_bytes:
        raise _broken(folder, f"{_SAMPLES} has {size_bytes} bytes where {wanted_bytes} belong")
    return index


def _is_list_of(values: Any, kind: type) -> bool:
    return isinstance(values, list) and bool(values) and all(type(one) is kind for one in values)


def _broken(folder: Path, reason: str) -> ValueError:
    return ValueError(
        f"{folder}: no usable pack of clips ({reason}): delete it and pack the clips again"
    )
