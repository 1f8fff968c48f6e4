"""The embedded voices: speakers who read known sentences, to train a voice on without a download.

They are voices of espeak-ng: figures obtained with them show how a method behaves, not how
natural it would sound with recordings of people.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from pathlib import Path

from speechcl.data.audio import write_audio
from speechcl.data.embedded import TEMPLATES, dry_speech, make_clips, sentence
from speechcl.data.espeak import ACCENTS, VOICES
from speechcl.data.manifest import read_manifest
from speechcl.data.pool import seed_for

STAND_IN = "Synthetic stand-in for speakers, spoken by espeak-ng: not recordings of people."
CORPUS = "embedded_voices"
_VERSION = 1  # raise it when the same configuration yields other clips
_SPLITS = ("train", "train", "train", "train", "valid", "test")  # of sentences, over and over
_FEWEST_SENTENCES = 2 * len(_SPLITS)  # two in every split, since a reference is another clip
_MOST_SENTENCES = 40 * len(TEMPLATES)  # the poorest template can be filled in 49 ways


@dataclass(frozen=True)
class _Clip:
    """One clip to speak."""

    folder: str
    voice: str
    number: int
    text: str
    seed: int
    rate_hz: int


def build_embedded_voices(
    folder: str | Path,
    speakers: int = 6,
    sentences: int = 24,
    seed: int = 0,
    rate_hz: int = 16_000,
    workers: int = 2,
) -> list[dict]:
    """Let several voices read the same sentences, dry, trimmed and levelled.

    Every speaker is in every split, with other sentences: two thirds are ``train``, a sixth each
    ``valid`` and ``test``, and no two splits share a sentence's template. A folder that was
    finished with the same configuration is used as it is.

    Arguments
    ---------
    folder : str or Path
        Where clips, ``manifest.csv`` and ``embedded.json`` go.
    speakers : int
        Number of voices, 1 to ``len(VOICES)``; each has a rate and pitch of its own.
    sentences : int
        What each reads, 12 to 480, all different.
    seed : int
        Seed of sentences and speaking styles.
    rate_hz : int
        Samples a second, 8000 to 48000.
    workers : int
        Number of processes; the clips do not depend on it.

    Returns
    -------
    list of dict
        The manifest's rows, with absolute paths.

    Raises
    ------
    ValueError
        If a number is out of range.

    Example
    -------
    >>> rows = build_embedded_voices(getfixture("tmp_path"), 1, sentences=12, workers=1)
    >>> [(row["ID"], row["split"]) for row in rows[3:6]]
    [('en-us_f1_003', 'train'), ('en-us_f1_004', 'valid'), ('en-us_f1_005', 'test')]
    """
    for name, value, least, most in (
        ("speakers", speakers, 1, len(VOICES)),
        ("sentences", sentences, _FEWEST_SENTENCES, _MOST_SENTENCES),
        ("rate_hz", rate_hz, 8_000, 48_000),
    ):
        if not least <= value <= most:
            raise ValueError(f"{name} is {value}: set it between {least} and {most}")
    folder = Path(folder)
    configuration = {
        "about": STAND_IN,
        "version": _VERSION,
        "speakers": speakers,
        "sentences": sentences,
        "seed": seed,
        "rate_hz": rate_hz,
    }
    clips = [
        _Clip(str(folder), voice, number, text, seed, rate_hz)
        for voice in VOICES[:speakers]
        for number, text in enumerate(_sentences(sentences, seed))
    ]
    make_clips(folder, configuration, _speak_clip, clips, workers)
    return read_manifest(folder / "manifest.csv", data_root=folder, disjoint_speakers=False)


def _sentences(wanted: int, seed: int) -> list[str]:
    """Return different sentences; those of two splits are of different templates."""
    found: dict[str, None] = {}
    order_seed = seed_for(seed, "order of templates")
    for number in range(wanted):
        words = (seed_for(seed, number, attempt, "words") for attempt in count())
        texts = (sentence(number, order_seed, words_seed) for words_seed in words)
        found[next(text for text in texts if text not in found)] = None
    return list(found)


def _speak_clip(clip: _Clip) -> dict:
    item_seed = seed_for(clip.seed, clip.voice, clip.number)
    waveform = dry_speech(clip.text, clip.voice, clip.seed, item_seed, clip.rate_hz)
    accent, speaker = clip.voice.split("+")
    name = f"{accent}_{speaker}_{clip.number:03d}"
    write_audio(Path(clip.folder, "clips", f"{name}.wav"), waveform, clip.rate_hz)
    return {
        "ID": name,
        "duration": f"{len(waveform) / clip.rate_hz:.4f}",
        "wav": f"$data_root/clips/{name}.wav",
        "speaker": f"{accent}_{speaker}",
        "accent": ACCENTS[accent],
        "corpus": CORPUS,
        "split": _SPLITS[clip.number % len(_SPLITS)],
        "text": clip.text,
    }
