"""What every set of clips has in common, whatever a batch of it holds."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
from torch import Tensor
from torch.utils.data import Dataset

from speechcl.data.labelled import Classes

SPOOF, BONAFIDE = 0, 1
DETECTION = Classes(("spoof", "bonafide"), column="label")
Row = Mapping[str, Any]
Batch = dict[str, Tensor]


class ClipSet(Dataset):
    """Clips with what the manifest says of each; ``__getitems__`` says what a batch of them holds.

    Arguments
    ---------
    rows : Sequence
        A manifest row a clip, with the column of ``classes``. Kept as ``rows``; ``labels`` and
        ``speakers`` are read from it.
    classes : Classes
        What the clips are told apart by; spoofed and genuine speech by default.

    Raises
    ------
    ValueError
        If a row's class is unknown.

    Example
    -------
    >>> clips = ClipSet([{"label": "bonafide", "speaker": "p225"}, {"label": "spoof"}])
    >>> len(clips), clips.labels, clips.speakers.tolist()
    (2, tensor([1, 0]), ['p225', '-'])
    >>> ClipSet([{"text": "two"}, {"text": "one"}], Classes(("one", "two"))).counts()
    {'two': 1, 'one': 1}
    """

    def __init__(self, rows: Sequence[Row], classes: Classes = DETECTION) -> None:
        self.rows = [{"attack": "-", "speaker": "-", **row} for row in rows]
        self.classes, self.labels = classes, classes.labels(rows)
        self.speakers = numpy.array([row["speaker"] for row in self.rows])

    @property
    def is_bonafide(self) -> numpy.ndarray:
        """Which clips are genuine, in a set that tells genuine from spoofed speech."""
        return (self.labels == self.classes.places(["bonafide"])[0]).numpy()

    def counts(self) -> dict[str, int]:
        """Return how many clips there are of each class, classes as they first occur."""
        found = Counter(self.labels.tolist())
        return {self.classes.names[label]: count for label, count in found.items()}

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self.labels)

    def __getitems__(self, indices: list[int]) -> Batch:
        """Return a whole batch at once, which is what the loader asks for."""
        raise NotImplementedError(f"{type(self).__name__} has no __getitems__")

    def __getitem__(self, index: int) -> Batch:
        """Return one clip of a batch."""
        return {name: values[0] for name, values in self.__getitems__([index]).items()}

    def subset(self, places: Sequence[int]) -> ClipSet:
        """Return the clips at these places of this set."""
        raise NotImplementedError(f"{type(self).__name__} has no subset")

    def plain(self) -> ClipSet:
        """Return these clips for tests, as they are; a set that varies its clips overrides this."""
        return self

    @staticmethod
    def collate(batch: Batch) -> Batch:
        """Return the batch, which ``__getitems__`` has already put together."""
        return batch


def clips_fingerprint(rows: Sequence[Row], settings: Sequence[Any], probe: bytes = b"") -> str:
    """Return a name for something computed from clips; it changes when anything it rests on does.

    Arguments
    ---------
    rows : Sequence
        Manifest rows with ``wav``; each file counts by path, size and time of change.
    settings : Sequence
        Further plain values that the result depends on.
    probe : bytes
        What a function that took part answers to a fixed input.

    Returns
    -------
    str
        16 hexadecimal digits.

    Example
    -------
    >>> clips_fingerprint([{"wav": "missing.wav"}], [16000])
    '5b335e2e66c3902f'
    """
    clips = [(str(row["wav"]), *_state(Path(row["wav"]))) for row in rows]
    text = json.dumps([*settings, clips])
    return hashlib.sha256(text.encode() + probe).hexdigest()[:16]


def _state(file: Path) -> tuple[int, int]:
    found = file.stat() if file.is_file() else None
    return (found.st_size, found.st_mtime_ns) if found else (0, 0)
