"""Recordings with transcripts to train a voice on, each beside another clip of its speaker."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence

import numpy
import torch
from torch import Tensor

from speechcl.data.clips import Batch, ClipSet, Row
from speechcl.data.espeak import ACCENTS
from speechcl.data.labelled import Classes
from speechcl.data.manifest_checks import UNKNOWN_SPEAKERS
from speechcl.data.packed import PackedAudio
from speechcl.data.phonemes import numbers, phonemes
from speechcl.data.pool import seed_for
from speechcl.data.voice_batches import VoiceBatches

_VOICE_OF = {name: voice for voice, name in ACCENTS.items()}
_DEFAULT_VOICE = "en-us"
_SHOWN = 20
Symbols = Sequence[Sequence[int] | numpy.ndarray]


class VoiceSet(ClipSet):
    """Recordings with what is said in them, each with a reference: another clip of its speaker.

    A batch holds ``ids`` (batch, symbols) and ``id_lengths``; ``waveform`` (batch, time) and
    ``samples``, their lengths; ``reference`` (batch, time) and ``reference_samples``; and
    ``speaker``, the speakers' numbers, and ``clip``, places in the pack. Zeros follow what is
    shorter than the longest.

    The reference depends on the seed, the epoch, the clip's ID and which clips of its speaker are
    in the set, and on nothing else: neither workers, processes, order nor a resume change it. Call
    ``set_epoch`` before each epoch. :meth:`plain` pairs each clip with the same one for ever.

    Arguments
    ---------
    pack : PackedAudio
        Holds the clips of ``rows``, maybe others too.
    rows : Sequence
        A manifest row a clip, with ``ID``, ``speaker`` and ``text``; an ``accent`` that
        ``speechcl.data.espeak.ACCENTS`` names decides the pronunciation, else it is American.
    rate_hz : int
        The voice model's rate, which must be the pack's.
    hop : int
        Samples a frame, as in the voice model.
    ids : Sequence, optional
        Numbers of each clip's symbols, if known from before; a text takes 6 ms.
    speaker_names : Sequence, optional
        Speakers in the order of their numbers; by default those of ``rows``, sorted.
    fixed_reference : bool
        Whether a clip's reference is the same in every epoch.
    seed : int
        Decides the references.

    Raises
    ------
    ValueError
        If clips cannot be used, see :func:`voice_problems`; if a speaker has one clip only; or if
        the pack has another rate.

    Source
    ------
    USAT, arXiv 2404.18094: speakers are told by another utterance than the one to be spoken.

    Example
    -------
    >>> from speechcl.data.audio import write_audio
    >>> from speechcl.data.packed import pack_audio
    >>> folder, rows = getfixture("tmp_path"), []
    >>> for name, count in (("a", 9000), ("b", 8000)):
    ...     write_audio(folder / f"{name}.wav", torch.rand(count), rate_hz=16000)
    ...     rows.append({"ID": name, "wav": folder / f"{name}.wav", "speaker": "x", "text": "Hi!"})
    >>> batch = VoiceSet(pack_audio(rows, folder), rows).__getitems__([0, 1])
    >>> batch["ids"].shape, batch["samples"], batch["reference_samples"]
    (torch.Size([2, 11]), tensor([9000, 8000]), tensor([8000, 9000]))
    """

    def __init__(
        self,
        pack: PackedAudio,
        rows: Sequence[Row],
        rate_hz: int = 16_000,
        hop: int = 256,
        *,
        ids: Symbols | None = None,
        speaker_names: Sequence[str] | None = None,
        fixed_reference: bool = False,
        seed: int = 0,
    ) -> None:
        if pack.rate_hz != rate_hz:
            raise ValueError(
                f"{pack.folder} is at {pack.rate_hz} Hz where the voice needs {rate_hz} Hz: "
                f"pack the clips with rate_hz={rate_hz}"
            )
        ids = symbol_numbers(rows) if ids is None else ids
        _refuse_unusable(pack, rows, hop, ids)
        names = sorted({row["speaker"] for row in rows}) if speaker_names is None else speaker_names
        super().__init__(rows, Classes(tuple(names), column="speaker"))
        self.pack, self.rate_hz, self.hop = pack, rate_hz, hop
        self.fixed_reference, self.seed = fixed_reference, seed
        self.ids = [numpy.asarray(one, dtype=numpy.int16) for one in ids]  # a quarter of the memory
        self.places = numpy.array([pack.place_of[str(row["ID"])] for row in rows], dtype=int)
        self._clips_of = _clips_of(pack, self.speakers.tolist(), self.places.tolist())
        self.epoch = 1

    def set_epoch(self, epoch: int) -> None:
        """Choose the references of this epoch."""
        self.epoch = epoch

    def batches(self, batch_size: int, seed: int) -> VoiceBatches:
        """Return batches in which speakers come equally often and lengths are alike."""
        lengths = self.pack.lengths[self.places].tolist()
        return VoiceBatches(self.speakers.tolist(), lengths, batch_size, seed)

    def __getitems__(self, indices: list[int]) -> Batch:
        """Return a whole batch at once, which is what the loader asks for."""
        waveform, samples = self._read(self.places[indices])
        reference, reference_samples = self._read(numpy.array([*map(self._reference, indices)]))
        ids = [torch.from_numpy(self.ids[index]).long() for index in indices]
        return {
            "ids": torch.nn.utils.rnn.pad_sequence(ids, batch_first=True),
            "id_lengths": torch.tensor([len(one) for one in ids]),
            "waveform": waveform,
            "samples": samples,
            "reference": reference,
            "reference_samples": reference_samples,
            "speaker": self.labels[indices],
            "clip": torch.from_numpy(self.places[indices]),
        }

    def __add__(self, other: VoiceSet) -> VoiceSet:  # type: ignore[override]
        """Return two sets of one pack and like settings as one; new speakers are numbered last.

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
        names = dict.fromkeys(self.classes.names + other.classes.names)
        return VoiceSet(
            self.pack,
            self.rows + other.rows,
            ids=self.ids + other.ids,
            speaker_names=tuple(names),
            **self._settings(),
        )

    def subset(self, places: Sequence[int]) -> VoiceSet:
        """Return the clips at these places of this set; references are among them too."""
        return VoiceSet(
            self.pack,
            [self.rows[place] for place in places],
            ids=[self.ids[place] for place in places],
            speaker_names=self.classes.names,
            **self._settings(),
        )

    def plain(self) -> VoiceSet:
        """Return these clips for tests: the reference is the speaker's next clip by ID."""
        return VoiceSet(
            self.pack,
            self.rows,
            ids=self.ids,
            speaker_names=self.classes.names,
            **{**self._settings(), "fixed_reference": True},
        )

    @property
    def nbytes(self) -> int:
        """Bytes that the clips take in the pack."""
        return 2 * int(self.pack.lengths[self.places].sum())

    def _settings(self) -> dict:
        return {n: getattr(self, n) for n in ("rate_hz", "hop", "fixed_reference", "seed")}

    def _reference(self, index: int) -> int:
        """Return the place in the pack of another clip of the same speaker."""
        clips = self._clips_of[self.speakers[index]]
        name = self.pack.ids[self.places[index]]
        own = bisect_left(clips, name, key=self.pack.ids.__getitem__)
        if self.fixed_reference:
            return clips[(own + 1) % len(clips)]
        drawn = seed_for(self.seed, self.epoch, self.rows[index]["ID"], "reference")
        return clips[(own + 1 + drawn % (len(clips) - 1)) % len(clips)]

    def _read(self, places: numpy.ndarray) -> tuple[Tensor, Tensor]:
        """Return whole clips (batch, time), zeros behind shorter ones, and their lengths."""
        samples = torch.from_numpy(self.pack.lengths[places])
        longest = int(samples.max())
        waveforms = self.pack.read_batch(places.tolist(), [0] * len(places), longest)
        waveforms[torch.arange(longest) >= samples[:, None]] = 0.0
        return waveforms, samples


def symbol_numbers(rows: Sequence[Row]) -> list[list[int]]:
    """Return the numbers of the symbols of each row's text; none if it has nothing to say.

    Example
    -------
    >>> [len(one) for one in symbol_numbers([{"text": "Hi!"}, {"text": "..."}, {}])]
    [11, 0, 0]
    """
    return [_symbols(str(row.get("text") or ""), row.get("accent")) for row in rows]


def voice_problems(
    pack: PackedAudio, rows: Sequence[Row], ids: Symbols, hop: int = 256
) -> dict[str, str]:
    """Return the IDs of clips that no voice can be trained on, and why.

    They are clips that the pack lacks, that have no speaker or nothing to say, or that have fewer
    frames than symbols, so that not every symbol can be given one.

    Example
    -------
    >>> from speechcl.data.audio import write_audio
    >>> from speechcl.data.packed import pack_audio
    >>> folder = getfixture("tmp_path")
    >>> write_audio(folder / "a.wav", torch.rand(700), rate_hz=16000)
    >>> rows = [{"ID": "a", "wav": folder / "a.wav", "speaker": "x", "text": "Hi!"}]
    >>> voice_problems(pack_audio(rows, folder), rows, symbol_numbers(rows))
    {'a': '2 frames for 11 symbols'}
    """
    if len(ids) != len(rows):
        raise ValueError(f"ids are of {len(ids)} clips and rows of {len(rows)}: give one a clip")
    found = {}
    for row, symbols in zip(rows, ids, strict=True):
        name = str(row["ID"])
        frames = int(pack.lengths[pack.place_of[name]]) // hop if name in pack.place_of else None
        if frames is None:
            found[name] = "not in the pack"
        elif row.get("speaker", "-") in UNKNOWN_SPEAKERS:
            found[name] = "no speaker"
        elif len(symbols) == 0:
            found[name] = "nothing to say"
        elif frames < len(symbols):
            found[name] = f"{frames} frames for {len(symbols)} symbols"
    return found


def _symbols(text: str, accent: str | None) -> list[int]:
    voice = _VOICE_OF.get(accent or "", _DEFAULT_VOICE)
    try:
        return numbers(phonemes(text, voice))
    except ValueError:  # the voice and its symbols are known: there is nothing to say
        return []


def _refuse_unusable(pack: PackedAudio, rows: Sequence[Row], hop: int, ids: Symbols) -> None:
    found = voice_problems(pack, rows, ids, hop)
    if found:
        shown = ", ".join(f"'{name}' ({reason})" for name, reason in [*found.items()][:_SHOWN])
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise ValueError(
            f"{len(found)} of {len(rows)} clips cannot train a voice: {shown}{more}: "
            "leave them out; speechcl.data.voices.voice_problems names them all"
        )


def _clips_of(
    pack: PackedAudio, speakers: Sequence[str], places: Sequence[int]
) -> dict[str, list[int]]:
    """Return each speaker's places in the pack, sorted by ID so that no order matters."""
    found: dict[str, set[int]] = defaultdict(set)  # a clip given twice is one
    for speaker, place in zip(speakers, places, strict=True):
        found[speaker].add(place)
    alone = sorted(speaker for speaker, clips in found.items() if len(clips) < 2)
    if alone:
        shown = ", ".join(map(repr, alone[:_SHOWN])) + (", ..." if len(alone) > _SHOWN else "")
        raise ValueError(
            f"{len(alone)} of {len(found)} speakers have one clip only ({shown}), but a reference "
            "is another clip of the same speaker: add clips of theirs, or leave them out"
        )
    return {name: sorted(clips, key=lambda place: pack.ids[place]) for name, clips in found.items()}
