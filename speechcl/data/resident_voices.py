"""Recordings to train a voice on that stay where the model is, so that no step waits for them."""

from __future__ import annotations

import numpy
import torch
from torch.nn.utils.rnn import pad_sequence

from speechcl.data.clips import Batch
from speechcl.data.packed import FULL_SCALE
from speechcl.data.voices import VoiceSet

_STEP_S = 2  # between shapes: of clips of up to 12 s there are six


class ResidentVoices(VoiceSet):
    """The clips of a set, all in a device's memory, in batches of few shapes.

    A batch is as long as its longest clip, rounded up to 2 s, has as many symbols as any text has
    of clips up to there, and references are cut to that length.

    Clips take two bytes a sample, each as many as the longest.

    Arguments
    ---------
    voices : VoiceSet
        Whose clips, references and settings.
    device : torch.device or str
        Where batches come into being.

    Example
    -------
    >>> from speechcl.data.audio import write_audio
    >>> from speechcl.data.packed import pack_audio
    >>> folder, rows = getfixture("tmp_path"), []
    >>> for name, count in (("a", 9000), ("b", 40000)):
    ...     write_audio(folder / f"{name}.wav", torch.rand(count), rate_hz=16000)
    ...     rows.append({"ID": name, "wav": folder / f"{name}.wav", "speaker": "x", "text": "Hi!"})
    >>> voices = ResidentVoices(VoiceSet(pack_audio(rows, folder), rows), "cpu")
    >>> batch = voices.__getitems__([0])
    >>> batch["waveform"].shape, batch["reference"].shape, batch["reference_samples"]
    (torch.Size([1, 32000]), torch.Size([1, 32000]), tensor([32000]))
    """

    resident = True  # a loader needs no help to read them

    def __init__(self, voices: VoiceSet, device: torch.device | str) -> None:
        super().__init__(
            voices.pack,
            voices.rows,
            ids=voices.ids,
            speaker_names=voices.classes.names,
            **voices._settings(),
        )
        self.device = torch.device(device)
        places = numpy.unique(self.places)
        self.row_of_place = {place: row for row, place in enumerate(places.tolist())}
        lengths = self.pack.lengths[places]
        step = _STEP_S * self.rate_hz
        longest = -(-int(lengths.max()) // step) * step
        sound = torch.zeros(len(places), longest, dtype=torch.int16)
        for row, place, length in zip(sound, places.tolist(), lengths.tolist(), strict=True):
            row[:length] = (self.pack.read(place) * FULL_SCALE).to(torch.int16)
        self.sound, self.samples = sound.to(device), torch.from_numpy(lengths).to(device)
        self.symbols = pad_sequence([*map(torch.from_numpy, self.ids)], True).to(device)
        counts = numpy.array([len(one) for one in self.ids])
        self.symbol_counts = torch.from_numpy(counts).to(device)
        self.steps = -(-self.pack.lengths[self.places] // step)  # of each item, in 2 s
        self.widths = [
            (step * k, int(counts[self.steps <= k].max(initial=0)))
            for k in range(longest // step + 1)
        ]

    def __getitems__(self, indices: list[int]) -> Batch:
        """Return a batch as :class:`VoiceSet` does, but on the device and of one of few shapes."""
        samples, symbols = self.widths[self.steps[indices].max()]
        places = self.places[indices].tolist()
        rows, of_references = (
            torch.tensor([self.row_of_place[place] for place in clips], device=self.device)
            for clips in (places, [*map(self._reference, indices)])
        )
        items = torch.tensor(indices, device=self.device)
        return {
            "ids": self.symbols[items, :symbols].long(),
            "id_lengths": self.symbol_counts[items],
            "waveform": self.sound[rows, :samples] / FULL_SCALE,
            "samples": self.samples[rows],
            "reference": self.sound[of_references, :samples] / FULL_SCALE,
            "reference_samples": self.samples[of_references].clamp(max=samples),
            "speaker": self.labels[indices].to(self.device),
            "clip": torch.tensor(places, device=self.device),
        }
