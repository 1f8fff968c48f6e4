"""A small corpus of spoken words: tones, a pitch a word, in both layouts that recipes read."""

import csv
from pathlib import Path

import numpy as np
import soundfile

WORDS = ("bed", "cat", "one", "two")
COLUMNS = ("id", "path", "speaker", "gender", "text", "duration", "split", "source")


def write_word(path: Path, word: str, number: int, rate_hz: int = 8000) -> None:
    """Write a tone with some noise; clips of a word differ in length and level."""
    rng = np.random.default_rng([WORDS.index(word), number])
    time_s = np.arange(int(rate_hz * (0.15 + 0.02 * number))) / rate_hz
    pitch_hz = 400.0 * 1.7 ** WORDS.index(word)
    wave = 0.3 * np.sin(2 * np.pi * pitch_hz * time_s) + rng.normal(0.0, 0.02, len(time_s))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave * rng.uniform(0.5, 1.0), rate_hz)


def build_table(folder: Path, train: int = 4, test: int = 2) -> Path:
    """Write ``metadata.csv`` and clips of every word by ann (8 kHz) and bob (16 kHz)."""
    rows = []
    for word in WORDS:
        for speaker, rate_hz in (("ann", 8000), ("bob", 16000)):
            for number in range(train + test):
                name = f"{speaker}-{word}-{number}"
                path = f"audio/{speaker}/{name}.flac"
                write_word(folder / path, word, number, rate_hz)
                split = "test" if number < test else "train"
                rows.append((name, path, speaker, "f", word, "0.2", split, "made up"))
    with (folder / "metadata.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([COLUMNS, *rows])
    return folder


SPEECH_COMMANDS = {
    "bed/00f0204f_nohash_0.wav": "train",
    "bed/00f0204f_nohash_1.wav": "train",
    "bed/0b40aa8e_nohash_0.wav": "valid",
    "bed/0a7c2a8d_nohash_0.wav": "test",
    "cat/00f0204f_nohash_0.wav": "train",
    "cat/0b40aa8e_nohash_0.wav": "valid",
    "cat/0a7c2a8d_nohash_0.wav": "test",
}


def build_speech_commands(folder: Path) -> Path:
    """Write a small copy of Speech Commands as its archive unpacks."""
    for number, name in enumerate(SPEECH_COMMANDS):
        write_word(folder / name, name.partition("/")[0], number, 16000)
    for split, file in (("valid", "validation_list.txt"), ("test", "testing_list.txt")):
        names = [name for name, where in SPEECH_COMMANDS.items() if where == split]
        (folder / file).write_text("\n".join(names) + "\n")
    noise = folder / "_background_noise_" / "doing_the_dishes.wav"
    write_word(noise, "bed", 0, 16000)
    (folder / "README.md").write_text("Speech Commands")
    return folder
