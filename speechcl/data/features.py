"""Features that are computed once, kept, and handed out a batch at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from speechcl.data.audio import read_audio
from speechcl.data.files import atomic_path

SPOOF, BONAFIDE = 0, 1
Row = Mapping[str, Any]
Extract = Callable[[Tensor], Tensor]


class FeatureSet(Dataset):
    """Features of clips in memory, with what the manifest says of each clip.

    A batch is ``{"features": (batch, ...), "label": (batch,)}``, label 1 for genuine speech. Two
    sets add up to one.

    Arguments
    ---------
    features : Tensor
        Shape (clips, ...).
    rows : Sequence
        A manifest row a clip.

    Example
    -------
    >>> rows = [{"ID": "a", "label": "bonafide"}, {"ID": "b", "label": "spoof"}]
    >>> data = FeatureSet(torch.zeros(2, 3), rows)
    >>> data.__getitems__([1, 0])["label"], len(data + data)
    (tensor([0, 1]), 4)
    """

    def __init__(self, features: Tensor, rows: Sequence[Row]) -> None:
        if len(features) != len(rows):
            raise ValueError(f"{len(features)} features for {len(rows)} rows: one a row is needed")
        self.features = features
        self.rows = [{"attack": "-", "speaker": "-", **row} for row in rows]
        self.is_bonafide = numpy.array([row["label"] == "bonafide" for row in rows], dtype=bool)
        self.labels = torch.from_numpy(numpy.where(self.is_bonafide, BONAFIDE, SPOOF))
        self.speakers = numpy.array([row["speaker"] for row in self.rows])

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return one clip's features and label."""
        return {"features": self.features[index], "label": self.labels[index]}

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        """Return a whole batch at once, which is what the loader asks for."""
        chosen = torch.tensor(indices)
        return {"features": self.features[chosen], "label": self.labels[chosen]}

    def __add__(self, other: FeatureSet) -> FeatureSet:  # type: ignore[override]
        """Return both sets as one."""
        return FeatureSet(torch.cat([self.features, other.features]), self.rows + other.rows)

    @staticmethod
    def collate(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the batch, which ``__getitems__`` has already put together."""
        return batch

    @property
    def nbytes(self) -> int:
        """Bytes of the features."""
        return self.features.numel() * self.features.element_size()


def cached_features(
    rows: Sequence[Row],
    extract: Extract,
    folder: Path | str,
    *,
    samples: int = 64_600,
    rate_hz: int = 16_000,
) -> Tensor:
    """Read clips, bring each to one length, extract features, and keep them on disk.

    Clips that are too short are repeated, longer ones are cut. What was kept is used again as long
    as the clips (path, size and time of change) are the same and ``extract`` still gives the same
    for a fixed probe.

    Arguments
    ---------
    rows : Sequence
        Manifest rows with ``wav``.
    extract : Callable
        Waveform (1, samples) -> features (1, ...).
    folder : Path
        Where to keep them.
    samples, rate_hz : int
        Length and rate of what ``extract`` sees.

    Returns
    -------
    Tensor
        Shape (clips, ...), in the order of ``rows``.

    Raises
    ------
    AudioError
        If a clip cannot be read.
    """
    file = Path(folder) / f"features-{_fingerprint(rows, extract, samples, rate_hz)}.safetensors"
    if file.is_file():
        return load_file(file)["features"]
    found = []
    for row in tqdm(rows, desc="features", unit="clip", leave=False, dynamic_ncols=True):
        waveform = to_length(read_audio(row["wav"], rate_hz), samples)
        with torch.no_grad():
            found.append(extract(waveform[None])[0])
    features = torch.stack(found)
    with atomic_path(file) as temporary:
        save_file({"features": features}, temporary)
    return features


def to_length(waveform: Tensor, samples: int) -> Tensor:
    """Repeat a short waveform, cut a long one.

    Example
    -------
    >>> to_length(torch.tensor([1.0, 2.0]), 5)
    tensor([1., 2., 1., 2., 1.])
    """
    times = -(-samples // len(waveform))
    return waveform.repeat(times)[:samples]


def _fingerprint(rows: Sequence[Row], extract: Extract, samples: int, rate_hz: int) -> str:
    clips = [(str(row["wav"]), *_state(Path(row["wav"]))) for row in rows]
    time_s = torch.arange(samples) / rate_hz
    probe = 0.3 * torch.sin(2000.0 * time_s.square() + 500.0 * time_s)
    with torch.no_grad():
        answer = extract(probe[None]).contiguous().numpy().tobytes()
    text = json.dumps([samples, rate_hz, clips])
    return hashlib.sha256(text.encode() + answer).hexdigest()[:16]


def _state(file: Path) -> tuple[int, int]:
    found = file.stat() if file.is_file() else None
    return (found.st_size, found.st_mtime_ns) if found else (0, 0)
