"""A folder of voices: who they are, whether they are whole, and that none of them drifts."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechcl.backbones.usat.spectrogram import LogMelSpectrogram
from speechcl.backbones.usat.voice_files import read_record
from speechcl.brains.voice import DB_A_NEPER
from speechcl.data.audio import read_audio
from speechcl.inference.voice_cloner import VoiceCloner
from speechcl.safety.provenance import describe, write_speech

Verifier = Callable[[Tensor, int], Tensor]  # waveform (time,) and its rate to a unit vector
SENTENCES = (
    "The door was open, so we went in.",
    "Where do you keep the other one?",
    "Nineteen people came, and nobody left early.",
)
_LAST = ".last_test"  # what each voice said then


@dataclass(frozen=True)
class Drift:
    """How far a voice is from its first test, or the accepted one; nothing if there was none.

    ``similarity`` is that of the verifier, the smallest over sentences, if it hears anybody;
    ``duration`` the largest change of a length, as a share; ``mel_db`` the largest mean difference
    of log-mel spectrograms.
    """

    voice: str
    similarity: float | None = None
    duration: float | None = None
    mel_db: float | None = None

    def beyond(self, limits: Limits) -> list[str]:
        """Return which figures are beyond their limits."""
        found = []
        if self.similarity is not None and self.similarity < limits.similarity:
            found.append("similarity")
        if self.duration is not None and self.duration > limits.duration:
            found.append("duration")
        if self.mel_db is not None and self.mel_db > limits.mel_db:
            found.append("mel_db")
        return found


@dataclass(frozen=True)
class Limits:
    """What is no drift: ``similarity`` at least, ``duration`` and ``mel_db`` at most.

    Example
    -------
    >>> Drift("ann", similarity=0.5, duration=0.0, mel_db=9.0).beyond(Limits())
    ['similarity', 'mel_db']
    """

    similarity: float = 0.9
    duration: float = 0.05
    mel_db: float = 1.0


class VoiceRegistry:
    """The voices in a folder.

    Arguments
    ---------
    folder : path
        With a safetensors file a voice, as enrolling leaves them.

    Raises
    ------
    ValueError
        If there is no such folder.

    Example
    -------
    >>> VoiceRegistry(getfixture("tmp_path")).voices()
    {}
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise ValueError(f"{folder}: no such folder of voices: enrol one into it first")

    def voices(self) -> dict[str, Path]:
        """Return the files of voices by name; hidden ones are what a kill has left."""
        return {file.stem: file for file in sorted(self.folder.glob("[!.]*.safetensors"))}

    def file(self, name: str) -> Path:
        """Return the file of a voice.

        Raises
        ------
        ValueError
            If there is none.
        """
        found = self.voices()
        if name not in found:
            known = ", ".join(found) or "none"
            raise ValueError(f"{self.folder} has no voice {name!r}; it has {known}")
        return found[name]

    def records(self) -> list[dict[str, str]]:
        """Return what is known of each voice, see ``read_record``, with its size; broken ones too.

        A file that cannot be read has a ``problem`` instead.
        """
        found = []
        for name, file in self.voices().items():
            row = {"voice": name, "mb": f"{file.lstat().st_size / 1e6:.2f}"}
            try:
                row = read_record(file) | row
            except ValueError as error:
                row["problem"] = str(error)
            found.append(row)
        return found

    def verify(self, cloner: VoiceCloner) -> dict[str, str]:
        """Load every voice beside the base and return what is wrong, by voice; empty if nothing.

        A voice without a consent record is wrong, too.
        """
        problems = {}
        for name, file in self.voices().items():
            try:
                cloner.load(file)
                if not read_record(file).get("consent"):
                    problems[name] = f"{file}: nobody's consent is recorded: enrol it anew"
            except ValueError as error:
                problems[name] = str(error)
        return problems

    def remove(self, name: str) -> dict[str, str]:
        """Delete a voice, with all that it said in tests; return what was known of it."""
        file = self.file(name)
        try:
            record = read_record(file)
        except ValueError:  # a broken one must be removable
            record = {"name": name}
        file.unlink()
        for k in range(len(SENTENCES)):
            self._last(name, k).unlink(missing_ok=True)
        return record

    def test(self, cloner: VoiceCloner, verifier: Verifier | None = None) -> list[Drift]:
        """Let every voice say the same sentences as in its first test, and compare.

        Arguments
        ---------
        cloner : VoiceCloner
            With the base of these voices.
        verifier : Callable, optional
            Returns a unit vector of who speaks, see ``speechcl.safety.verifier``; without, there is
            no ``similarity``.

        Returns
        -------
        list of Drift
            Of each voice. What was said is kept where there was nothing, and later tests compare
            with it, so that many small steps count as one large; call ``accept`` to replace it.

        Raises
        ------
        ValueError
            If a voice is broken, or of another base.
        """
        return [self._drift(name, cloner, verifier) for name in self.voices()]

    def accept(self, cloner: VoiceCloner) -> None:
        """Keep what voices say now as what later tests compare with."""
        for name, file in self.voices().items():
            for k, sentence in enumerate(SENTENCES):
                self._keep(name, k, cloner.say(sentence, voice=file), cloner)

    def _last(self, name: str, k: int) -> Path:
        return self.folder / _LAST / f"{name}.{k}.flac"

    def _keep(self, name: str, k: int, said: Tensor, cloner: VoiceCloner) -> None:
        fields = describe(SENTENCES[k], name, cloner.fingerprint)
        write_speech(self._last(name, k), said, cloner.rate_hz, fields)

    def _drift(self, name: str, cloner: VoiceCloner, verifier: Verifier | None) -> Drift:
        rate_hz, each = cloner.rate_hz, []
        for k, sentence in enumerate(SENTENCES):
            now, place = cloner.say(sentence, voice=self.file(name)), self._last(name, k)
            if place.is_file():
                each.append(_compare(read_audio(place, rate_hz), now, rate_hz, verifier))
            else:
                self._keep(name, k, now, cloner)
        if not each:
            return Drift(name)
        similarities, durations, differences = zip(*each, strict=True)
        similarity = min((one for one in similarities if one is not None), default=None)
        return Drift(name, similarity, max(durations), max(differences))


def _compare(
    before: Tensor, now: Tensor, rate_hz: int, verifier: Verifier | None
) -> tuple[float | None, float, float]:
    """Return similarity, change of duration, and difference of spectrograms."""
    try:
        similarity = verifier and float(verifier(before, rate_hz) @ verifier(now, rate_hz))
    except ValueError:  # nobody is heard in it
        similarity = None
    shorter = min(len(before), len(now))
    mel = LogMelSpectrogram(rate_hz)
    with torch.no_grad():
        first, second = (mel(one[None, :shorter]) for one in (before, now))
    mel_db = DB_A_NEPER * float((first - second).abs().mean())
    return similarity, abs(len(now) / len(before) - 1), mel_db


def as_rows(drifts: list[Drift], limits: Limits) -> list[dict[str, Any]]:
    """Return drifts as rows for a table or JSON, with what is ``beyond`` the limits."""
    return [{**asdict(one), "beyond": one.beyond(limits)} for one in drifts]
