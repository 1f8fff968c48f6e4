"""The embedded corpus: speech that needs no download.

Its clips are spoken by espeak-ng and stand in for genuine speech. They are synthetic: figures
obtained with them show how a method behaves, not how well it finds spoofed recordings of people.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from speechcl.data.audio import write_audio
from speechcl.data.channel import LEVEL_DBFS, room, trim
from speechcl.data.espeak import ACCENTS, VOICES, speak
from speechcl.data.files import atomic_path
from speechcl.data.manifest import read_manifest, write_manifest
from speechcl.data.pool import run_jobs, seed_for

STAND_IN = "Synthetic stand-in for genuine speech, spoken by espeak-ng: not recordings of people."
CORPUS = "embedded"
RATE_HZ = 16000
_VERSION = 1  # raise it when the same configuration yields other clips
_TEST_EVERY = 4
Clip = TypeVar("Clip")

TEMPLATES = (
    "Please bring {count} {things} to {place} before {day}.",
    "The {job} left {count} {things} behind at {place}.",
    "On {day} we shall meet the {job} near {place}.",
    "Nobody at {place} knew why the {things} were missing.",
    "Did the {job} say that {day} would be better?",
    "I would rather walk to {place} than wait for the {job}.",
    "There are {count} {things} on the table, and the {job} wants them all.",
    "Call me on {day} if the {things} have not arrived.",
    "My neighbour, a {job}, lives close to {place}.",
    "Every {day} the {job} sells {things} outside {place}.",
    "Thank you for the {things} that you sent on {day}.",
    "It takes {count} minutes to drive from {place} to the {job}'s house.",
)
_WORDS = {
    "count": ["two", "three", "seven", "eleven", "fifteen", "twenty", "forty"],
    "things": ["letters", "oranges", "blankets", "hammers", "pictures", "tickets", "umbrellas"],
    "place": [
        "the harbour",
        "the old bridge",
        "the railway station",
        "the village school",
        "the museum",
        "the northern gate",
        "the garden",
    ],
    "day": ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"],
    "job": ["teacher", "doctor", "farmer", "painter", "driver", "baker", "gardener", "singer"],
}


@dataclass(frozen=True)
class _Clip:
    """One clip to speak."""

    folder: str
    voice: str
    number: int
    split: str
    seed: int


def build_embedded(
    folder: str | Path, voices: int = 40, sentences: int = 10, seed: int = 0, workers: int = 2
) -> list[dict]:
    """Speak template sentences with many voices; a synthetic stand-in for genuine speech.

    Each clip is brought to 16 kHz, trimmed, levelled and placed in a room of its own. A fourth of
    the voices is the ``test`` split, the others are ``train``. A folder that was finished with the
    same configuration is used as it is.

    Arguments
    ---------
    folder : str or Path
        Where clips, ``manifest.csv`` and ``embedded.json`` go.
    voices, sentences : int
        Number of speakers, 1 to ``len(VOICES)``, and of clips from each.
    seed : int
        Seed of sentences, speaking styles, rooms and the choice of test voices.
    workers : int
        Number of processes; the clips do not depend on it.

    Returns
    -------
    list of dict
        The manifest's rows, with absolute paths.

    Raises
    ------
    ValueError
        If the number of voices or sentences is out of range.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> rows = build_embedded(folder, voices=1, sentences=2, workers=1)
    >>> [(row["ID"], row["label"]) for row in rows]
    [('en-us_f1_00', 'bonafide'), ('en-us_f1_01', 'bonafide')]
    """
    if not 1 <= voices <= len(VOICES):
        raise ValueError(f"voices is {voices}: set it between 1 and {len(VOICES)}")
    if sentences < 1:
        raise ValueError(f"sentences is {sentences}: set it to 1 or more")
    folder = Path(folder)
    configuration = {
        "about": STAND_IN,
        "version": _VERSION,
        "voices": voices,
        "sentences": sentences,
        "seed": seed,
        "rate_hz": RATE_HZ,
    }
    clips = _plan(folder, voices, sentences, seed)
    make_clips(folder, configuration, _speak_clip, clips, workers)
    return read_manifest(folder / "manifest.csv", data_root=folder)


def make_clips(
    folder: Path,
    configuration: Mapping[str, object],
    speak_clip: Callable[[Clip], dict],
    clips: list[Clip],
    workers: int,
) -> None:
    """Make clips and their manifest, unless the folder was finished with this configuration.

    Arguments
    ---------
    folder : Path
        Where ``manifest.csv`` and ``embedded.json``, the note of a finished folder, go.
    configuration : Mapping
        All that the clips depend on, as JSON has it.
    speak_clip : Callable
        Writes one of ``clips``, returns its manifest row; defined in a module.
    clips : list
        What to make.
    workers : int
        Number of processes.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> make_clips(folder, {"seed": 0}, dict, [{"ID": "a", "wav": "a.wav", "duration": "1"}], 1)
    >>> make_clips(folder, {"seed": 0}, dict, [{"ID": "not made again"}], 1)
    >>> (folder / "manifest.csv").read_text()
    'ID,duration,wav\\na,1,a.wav\\n'
    """
    manifest, note = folder / "manifest.csv", folder / "embedded.json"
    if manifest.is_file() and note.is_file() and _read_json(note) == configuration:
        return
    note.unlink(missing_ok=True)  # until the end, the folder counts as unfinished
    write_manifest(manifest, run_jobs(speak_clip, clips, workers, "embedded corpus"))
    with atomic_path(note) as temporary:
        temporary.write_text(json.dumps(configuration, indent=1) + "\n", encoding="utf-8")


def _read_json(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None


def _plan(folder: Path, voices: int, sentences: int, seed: int) -> list[_Clip]:
    chosen = VOICES[:voices]
    tests = set(sorted(chosen, key=lambda voice: seed_for(seed, voice, "split"))[::_TEST_EVERY])
    if voices == 1:
        tests = set()
    return [
        _Clip(str(folder), voice, number, "test" if voice in tests else "train", seed)
        for voice in chosen
        for number in range(sentences)
    ]


def dry_speech(text: str, voice: str, seed: int, item_seed: int, rate_hz: int) -> torch.Tensor:
    """Speak in a voice's own style, trimmed and levelled, in no room.

    Arguments
    ---------
    text : str
        What to say.
    voice : str
        One of ``speechcl.data.espeak.VOICES``.
    seed : int
        With the voice decides its rate and pitch.
    item_seed : int
        Of the noise in breathy voices.
    rate_hz : int
        Samples a second.

    Returns
    -------
    torch.Tensor
        Waveform (time,).

    Example
    -------
    >>> waveform = dry_speech("Good morning.", "en-us+f1", seed=0, item_seed=0, rate_hz=16000)
    >>> round(float(20 * waveform.square().mean().sqrt().log10()), 3)
    -26.0
    """
    from torchaudio.functional import resample

    style = np.random.default_rng(seed_for(seed, voice, "style"))
    rate_wpm, pitch = int(style.integers(145, 190)), int(style.integers(38, 63))
    spoken, spoken_rate_hz = speak(text, voice, rate_wpm, pitch, seed=item_seed)
    waveform = resample(spoken, spoken_rate_hz, rate_hz)
    waveform = trim(waveform - waveform.mean(), rate_hz)
    return waveform * (10 ** (LEVEL_DBFS / 20) / waveform.square().mean().sqrt())


def _speak_clip(clip: _Clip) -> dict:
    item_seed = seed_for(clip.seed, clip.voice, clip.number)
    text = sentence(
        clip.number,
        order_seed=seed_for(clip.seed, clip.voice, "text"),
        words_seed=seed_for(clip.seed, clip.voice, clip.number, "words"),
    )
    waveform = dry_speech(text, clip.voice, clip.seed, item_seed, RATE_HZ)
    waveform = room(waveform, RATE_HZ, item_seed)
    accent, speaker = clip.voice.split("+")
    name = f"{accent}_{speaker}_{clip.number:02d}"
    write_audio(Path(clip.folder, "clips", f"{name}.wav"), waveform, RATE_HZ)
    return {
        "ID": name,
        "duration": f"{len(waveform) / RATE_HZ:.4f}",
        "wav": f"$data_root/clips/{name}.wav",
        "label": "bonafide",
        "attack": "-",
        "speaker": f"{accent}_{speaker}",
        "accent": ACCENTS[accent],
        "corpus": CORPUS,
        "split": clip.split,
        "text": text,
    }


def sentence(number: int, order_seed: int, words_seed: int) -> str:
    """Fill a template: they come in an order drawn from a seed, all before any again.

    Example
    -------
    >>> sentence(0, order_seed=1, words_seed=1)
    'My neighbour, a teacher, lives close to the northern gate.'
    """
    order = np.random.default_rng(order_seed).permutation(len(TEMPLATES))
    rng = np.random.default_rng(words_seed)
    words = {kind: rng.choice(words) for kind, words in _WORDS.items()}
    return TEMPLATES[order[number % len(TEMPLATES)]].format(**words)
