"""Raw audio to train on: random crops and augmentation that any process draws alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy
import torch
from torch import Tensor

from speechcl.data.clips import DETECTION, Batch, ClipSet, Row
from speechcl.data.labelled import Classes
from speechcl.data.packed import PackedAudio
from speechcl.data.pool import seed_for

Augment = Callable[[Tensor, int], Tensor]


class WaveformSet(ClipSet):
    """Clips of a pack, each brought to one length: short ones are repeated, long ones are cut.

    A batch is ``{"features": waveforms (batch, samples), "label": (batch,)}``, by default label 1
    for genuine speech. Crops and augmentation depend on the seed, the epoch and the clip's ID, and
    on nothing else: neither workers, processes, order nor a resume change them. Call ``set_epoch``
    before each epoch, before the loader's iterator is made. For tests take :meth:`plain`.

    Arguments
    ---------
    pack : PackedAudio
        Holds the clips of ``rows``, maybe others too.
    rows : Sequence
        A manifest row a clip, with ``ID`` and the column of ``classes``.
    samples : int
        Length of every waveform; the default is the 4.04 s of the AASIST baseline at 16 kHz.
    classes : Classes
        What the clips are told apart by; spoofed and genuine speech by default.
    pad : bool
        Let silence follow a short clip, rather than the clip again.
    augment : Callable, optional
        Maps (waveform (samples,), seed) to a waveform of the same shape. It must draw from that
        seed alone.
    random_crop : bool
        Take any ``samples`` of a longer clip, not its first.
    seed : int
        Decides crops and augmentation.

    Raises
    ------
    ValueError
        If ``samples`` is below 1, or the pack lacks a clip.

    Example
    -------
    >>> from speechcl.data.audio import write_audio
    >>> from speechcl.data.packed import pack_audio
    >>> folder = getfixture("tmp_path")
    >>> write_audio(folder / "a.wav", torch.tensor([0.0, 0.5, -1.0]), rate_hz=16000)
    >>> rows = [{"ID": "a", "wav": folder / "a.wav", "label": "spoof"}]
    >>> data = WaveformSet(pack_audio(rows, folder), rows, samples=5, augment=lambda x, seed: -x)
    >>> data.__getitems__([0])["features"], data.plain()[0]["label"]
    (tensor([[-0.0000, -0.5000,  1.0000, -0.0000, -0.5000]]), tensor(0))
    """

    def __init__(
        self,
        pack: PackedAudio,
        rows: Sequence[Row],
        samples: int = 64_600,
        *,
        classes: Classes = DETECTION,
        pad: bool = False,
        augment: Augment | None = None,
        random_crop: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(rows, classes)
        if samples < 1:
            raise ValueError(f"samples is {samples}: a waveform has at least 1")
        missing = [str(row["ID"]) for row in rows if str(row["ID"]) not in pack.place_of]
        if missing:
            raise ValueError(
                f"{pack.folder} lacks {len(missing)} of {len(rows)} clips, for example "
                f"'{missing[0]}': pack the clips of all sets together"
            )
        self.pack, self.samples, self.pad = pack, samples, pad
        self.augment, self.random_crop, self.seed = augment, random_crop, seed
        self.places = numpy.array([pack.place_of[str(row["ID"])] for row in rows], dtype=int)
        self.epoch = 1

    def set_epoch(self, epoch: int) -> None:
        """Choose the crops and augmentation of this epoch."""
        self.epoch = epoch

    def __getitems__(self, indices: list[int]) -> Batch:
        """Return a whole batch at once, which is what the loader asks for."""
        places = self.places[indices]
        starts = [0] * len(places)
        if self.random_crop:
            choices = numpy.maximum(self.pack.lengths[places] - self.samples, 0) + 1
            seeds = [self._seed(index, "crop") for index in indices]
            starts = (numpy.array(seeds) % choices).tolist()
        waveforms = self.pack.read_batch(places.tolist(), starts, self.samples)
        if self.pad:
            ends = torch.from_numpy(self.pack.lengths[places])
            waveforms[torch.arange(self.samples) >= ends[:, None]] = 0.0
        if self.augment is not None:
            pairs = zip(waveforms, indices, strict=True)
            waveforms = torch.stack([self._augmented(one, index) for one, index in pairs])
        return {"features": waveforms, "label": self.labels[indices]}

    def __add__(self, other: WaveformSet) -> WaveformSet:  # type: ignore[override]
        """Return two sets of one pack and like settings as one.

        Raises
        ------
        ValueError
            If packs or settings differ.
        """
        if self.pack.folder != other.pack.folder or self._settings() != other._settings():
            raise ValueError(
                f"sets of {self.pack.folder} with {self._settings()} and of {other.pack.folder} "
                f"with {other._settings()} do not add up: pack their clips together, "
                "with the same settings"
            )
        return self._with(self.rows + other.rows)

    def subset(self, places: Sequence[int]) -> WaveformSet:
        """Return the clips at these places of this set, with the same settings."""
        return self._with([self.rows[place] for place in places])

    def plain(self) -> WaveformSet:
        """Return these clips for tests: their first ``samples``, not augmented."""
        return WaveformSet(self.pack, self.rows, self.samples, classes=self.classes, pad=self.pad)

    @property
    def nbytes(self) -> int:
        """Bytes that the whole clips take in the pack."""
        return 2 * int(self.pack.lengths[self.places].sum())

    def _settings(self) -> dict:
        names = ("samples", "classes", "pad", "augment", "random_crop", "seed")
        return {name: getattr(self, name) for name in names}

    def _with(self, rows: Sequence[Row]) -> WaveformSet:
        return WaveformSet(self.pack, rows, **self._settings())

    def _seed(self, index: int, purpose: str) -> int:
        return seed_for(self.seed, self.epoch, self.rows[index]["ID"], purpose)

    def _augmented(self, waveform: Tensor, index: int) -> Tensor:
        assert self.augment is not None
        changed = self.augment(waveform, self._seed(index, "augment"))
        if changed.shape != waveform.shape:
            raise ValueError(
                f"augment turned {tuple(waveform.shape)} samples of clip "
                f"'{self.rows[index]['ID']}' into {tuple(changed.shape)}: keep their number"
            )
        return changed
