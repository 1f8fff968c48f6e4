"""Features that are computed once, kept, and handed out a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from speechcl.data.audio import read_audio
from speechcl.data.clips import DETECTION, Batch, ClipSet, Row, clips_fingerprint
from speechcl.data.files import atomic_path
from speechcl.data.labelled import Classes

Extract = Callable[[Tensor], Tensor]


class FeatureSet(ClipSet):
    """Features of clips in memory, with what the manifest says of each clip.

    A batch is ``{"features": (batch, ...), "label": (batch,)}``, by default label 1 for genuine
    speech. Two sets add up to one.

    Arguments
    ---------
    features : Tensor
        Shape (clips, ...).
    rows : Sequence
        A manifest row a clip.
    classes : Classes
        What the clips are told apart by.

    Example
    -------
    >>> rows = [{"ID": "a", "label": "bonafide"}, {"ID": "b", "label": "spoof"}]
    >>> data = FeatureSet(torch.zeros(2, 3), rows)
    >>> data.__getitems__([1, 0])["label"], len(data + data)
    (tensor([0, 1]), 4)
    """

    def __init__(self, features: Tensor, rows: Sequence[Row], classes: Classes = DETECTION) -> None:
        super().__init__(rows, classes)
        if len(features) != len(rows):
            raise ValueError(f"{len(features)} features for {len(rows)} rows: one a row is needed")
        self.features = features

    def __getitems__(self, indices: list[int]) -> Batch:
        """Return a whole batch at once, which is what the loader asks for."""
        chosen = torch.tensor(indices)
        return {"features": self.features[chosen], "label": self.labels[chosen]}

    def __add__(self, other: FeatureSet) -> FeatureSet:  # type: ignore[override]
        """Return both sets as one."""
        features = torch.cat([self.features, other.features])
        return FeatureSet(features, self.rows + other.rows, self.classes)

    def subset(self, places: Sequence[int]) -> FeatureSet:
        """Return the clips at these places of this set."""
        chosen = list(places)
        rows = [self.rows[place] for place in chosen]
        return FeatureSet(self.features[chosen], rows, self.classes)

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
    pad: bool = False,
) -> Tensor:
    """Read clips, bring each to one length, extract features, and keep them on disk.

    Clips that are too short are repeated or padded, longer ones are cut. What was kept is used
    again as long as the clips (path, size and time of change) are the same and ``extract`` still
    gives the same for a fixed probe.

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
    pad : bool
        Let silence follow a short clip, rather than the clip again.

    Returns
    -------
    Tensor
        Shape (clips, ...), in the order of ``rows``.

    Raises
    ------
    AudioError
        If a clip cannot be read.
    """
    probe = _probe(extract, samples, rate_hz)
    settings = [samples, rate_hz, *(["pad"] if pad else [])]
    name = f"features-{clips_fingerprint(rows, settings, probe)}.safetensors"
    file = Path(folder) / name
    if file.is_file():
        try:
            return load_file(file)["features"]
        except SafetensorError as error:
            raise ValueError(f"{file}: damaged features ({error}): delete it") from error
    found = []
    for row in tqdm(
        rows, desc="features", unit="clip", leave=False, dynamic_ncols=True, disable=None
    ):
        waveform = to_length(read_audio(row["wav"], rate_hz), samples, pad)
        with torch.no_grad():
            found.append(extract(waveform[None])[0])
    features = torch.stack(found)
    with atomic_path(file) as temporary:
        save_file({"features": features}, temporary)
    return features


def to_length(waveform: Tensor, samples: int, pad: bool = False) -> Tensor:
    """Repeat a short waveform, or pad it with zeros; cut a long one.

    Example
    -------
    >>> to_length(torch.tensor([1.0, 2.0]), 5)
    tensor([1., 2., 1., 2., 1.])
    >>> to_length(torch.tensor([1.0, 2.0]), 5, pad=True)
    tensor([1., 2., 0., 0., 0.])
    """
    if pad:
        return functional.pad(waveform[:samples], (0, max(0, samples - len(waveform))))
    times = -(-samples // len(waveform))
    return waveform.repeat(times)[:samples]


def _probe(extract: Extract, samples: int, rate_hz: int) -> bytes:
    """What the extractor answers to a sweep: it changes when the extractor does."""
    time_s = torch.arange(samples) / rate_hz
    sweep = 0.3 * torch.sin(2000.0 * time_s.square() + 500.0 * time_s)
    with torch.no_grad():
        return extract(sweep[None]).contiguous().numpy().tobytes()
