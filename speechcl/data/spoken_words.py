"""Single words, spoken by espeak-ng with many voices: a corpus of any words, made in seconds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy
import soxr
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from speechcl.data.espeak import ACCENTS, VOICES, speak
from speechcl.data.features import FeatureSet
from speechcl.data.files import atomic_path
from speechcl.data.labelled import Classes
from speechcl.data.pool import run_jobs, seed_for

RATE_HZ = 8000
_VERSION = 1  # raise it when the same settings yield other clips
# beside those of VOICES; several of the Klatt synthesiser, whose sound is another
_FURTHER = (
    "klatt klatt2 klatt3 klatt4 klatt6 max paul edward ed adam benjamin caleb david iven iven2 "
    "marcelo miguel pablo pedro sandro travis victor Diogo antonio Jacky Mike"
)
# never heard in training, so that tests are of voices unheard
_TEST = "Mario m3 adam pablo Andrea Jacky sandro iven2 ian klatt2 miguel Hugo"
TEST_SPEAKERS = _TEST.split()
TRAIN_SPEAKERS = [
    name
    for name in [*(voice.partition("+")[2] for voice in VOICES), *_FURTHER.split()]
    if name not in TEST_SPEAKERS
]
_RATE_WPM = (100, 260)
_PITCH = (20, 80)
_PEAK = 0.6
_SILENT = 0.02  # of the peak
_MARGIN_S = 0.01


@dataclass(frozen=True)
class SpokenWords:
    """Clips of words at 8 kHz, one after another in memory.

    Arguments
    ---------
    words : tuple of str
        What is spoken.
    samples : Tensor
        All clips, int16, shape (time,).
    ends : Tensor
        Where each ends, shape (clips,); those of a word follow each other, equally many of each.

    Example
    -------
    >>> clips = SpokenWords(("yes", "no"), torch.zeros(6, dtype=torch.int16), torch.tensor([2, 6]))
    >>> len(clips), clips.labels, clips[1]
    (2, tensor([0, 1]), tensor([0., 0., 0., 0.]))
    """

    words: tuple[str, ...]
    samples: Tensor
    ends: Tensor

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self.ends)

    def __getitem__(self, place: int) -> Tensor:
        """Return a clip as a waveform (time,) in [-1, 1]."""
        start = int(self.ends[place - 1]) if place else 0
        return self.samples[start : int(self.ends[place])].float() / 2**15

    @property
    def labels(self) -> Tensor:
        """The place of each clip's word in ``words``, shape (clips,)."""
        return torch.arange(len(self)) // (len(self) // len(self.words))

    def features(
        self, front_end: Callable[[Tensor], Tensor], names: Sequence[str] = ()
    ) -> FeatureSet:
        """Return features as a labelled set; silence follows shorter clips.

        The classes are ``names``, by default the words.
        """
        found = [self[place] for place in range(len(self))]
        waveforms = torch.nn.utils.rnn.pad_sequence(found, batch_first=True)
        rows = [{"text": self.words[label]} for label in self.labels.tolist()]
        with torch.no_grad():
            features = torch.cat([front_end(part) for part in waveforms.split(256)])
        return FeatureSet(features, rows, Classes(tuple(names) or self.words))


def speak_words(
    words: Sequence[str],
    clips_per_word: int,
    folder: Path | str,
    *,
    speakers: Sequence[str] = TRAIN_SPEAKERS,
    seed: int = 0,
    workers: int = 1,
) -> SpokenWords:
    """Speak each word many times, with any accent, speaker, rate and pitch; keep it on disk.

    A clip is a function of its word, its number and the seed. It takes about 4 ms on one core;
    the second call reads what the first has kept.

    Arguments
    ---------
    words : sequence of str
        What to say.
    clips_per_word : int
        How often.
    folder : Path
        Where to keep the clips, one file for every choice of the other arguments.
    speakers : sequence of str
        Variants of espeak-ng, of which every clip takes any.
    seed : int
        Decides all choices.
    workers : int
        Number of processes; the clips do not depend on it.

    Returns
    -------
    SpokenWords

    Raises
    ------
    ValueError
        If there is nothing to say, or a kept file is damaged.

    Example
    -------
    >>> clips = speak_words(["yes", "no"], 2, getfixture("tmp_path"))
    >>> len(clips), clips.labels
    (4, tensor([0, 0, 1, 1]))
    """
    if not words or clips_per_word < 1:
        raise ValueError(
            f"{len(words)} words, {clips_per_word} clips of each: give at least one of both"
        )
    settings = json.dumps([_VERSION, list(words), clips_per_word, list(speakers), seed])
    name = f"words-{hashlib.sha256(settings.encode()).hexdigest()[:16]}.safetensors"
    file = Path(folder) / name
    if not file.is_file():
        jobs = [_Job(word, clips_per_word, tuple(speakers), seed) for word in words]
        clips = [clip for spoken in run_jobs(_speak, jobs, workers, "words") for clip in spoken]
        ends = torch.tensor([len(clip) for clip in clips]).cumsum(0)
        with atomic_path(file) as temporary:
            save_file(
                {"samples": torch.from_numpy(numpy.concatenate(clips)), "ends": ends}, temporary
            )
    try:
        kept = load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file}: damaged clips ({error}): delete it") from error
    return SpokenWords(tuple(words), kept["samples"], kept["ends"])


@dataclass(frozen=True)
class _Job:
    word: str
    clips: int
    speakers: tuple[str, ...]
    seed: int


def _speak(job: _Job) -> list[numpy.ndarray]:
    """Return the clips of a word, int16, without silence at the ends."""
    clips = []
    for number in range(job.clips):
        rng = numpy.random.default_rng(seed_for(job.seed, job.word, number))
        voice = f"{rng.choice(list(ACCENTS))}+{rng.choice(job.speakers)}"
        rate_wpm, pitch = int(rng.integers(*_RATE_WPM)), int(rng.integers(*_PITCH))
        spoken, rate_hz = speak(job.word, voice, rate_wpm, pitch, seed=number)
        waveform = soxr.resample(spoken.numpy(), rate_hz, RATE_HZ)
        level = numpy.abs(waveform)
        loud = numpy.flatnonzero(level > _SILENT * level.max())
        margin = int(_MARGIN_S * RATE_HZ)
        waveform = waveform[max(0, loud[0] - margin) : loud[-1] + margin]
        clips.append((waveform * (_PEAK / level.max()) * 2**15).astype(numpy.int16))
    return clips
