"""Small copies of voice corpora: the official layouts, clips of noise between silences."""

import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy
import soundfile

TEXTS = ("Please call Stella.", "Ask her to bring these things.", "Six spoons of fresh snow peas.")


def write_speech(path: Path, sound_s: float = 0.2, silence_s: float = 0.0, rate_hz=16000) -> None:
    """Write noise that depends on the file's name, silence before and behind it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw = numpy.random.default_rng(zlib.crc32(path.name.encode()))
    silence = numpy.zeros(round(silence_s * rate_hz))
    noise = draw.uniform(-0.3, 0.3, round(sound_s * rate_hz))
    soundfile.write(path, numpy.concatenate([silence, noise, silence]), rate_hz)


def write_tree(folder: Path, files: Mapping[str, str | None], sound_s: float = 0.2) -> Path:
    """Write texts, and clips where there is none; return the folder."""
    for name, text in files.items():
        path = folder / name
        if text is None:
            write_speech(path, sound_s)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return folder


def vctk(folder: Path, speakers=("p225", "p226"), clips: int = 4, sound_s: float = 1.2) -> Path:
    """Write VCTK 0.92."""
    table = "ID  AGE  GENDER  ACCENTS  REGION COMMENTS \n"
    files: dict[str, str | None] = {}
    for speaker in speakers:
        table += f"{speaker}  22  F    English    Surrey\n"
        for number in range(1, clips + 1):
            name = f"{speaker}/{speaker}_{number:03d}"
            files[f"wav48_silence_trimmed/{name}_mic1.flac"] = None
            files[f"txt/{name}.txt"] = f"{TEXTS[number % 3]}\n"
    return write_tree(folder, {"speaker-info.txt": table, **files}, sound_s)


def libritts(folder: Path, parts: Mapping[str, str], clips: int = 4, sound_s=1.2) -> Path:
    """Write parts of LibriTTS, each with one speaker."""
    files: dict[str, str | None] = {}
    for part, speaker in parts.items():
        for number in range(clips):
            name = f"{part}/{speaker}/121/{speaker}_121_000001_{number:06d}"
            files |= {f"{name}.wav": None, f"{name}.normalized.txt": TEXTS[number % 3]}
    return write_tree(folder, files, sound_s)


def esltts(folder: Path, speakers=("Arabic_3", "Malayalam_3"), clips: int = 2, sound_s=1.2) -> Path:
    """Write ESLTTS."""
    files: dict[str, str | None] = {}
    for speaker in speakers:
        for number in range(1, clips + 1):
            for subset in ("ada", "test", "dev"):
                name = f"ESLTTS Dataset/{speaker}/{subset}_{number}"
                files |= {f"{name}.flac": None, f"{name}.txt": TEXTS[number % 3]}
    return write_tree(folder, files, sound_s)


def l2arctic(folder: Path, speakers=("ABA", "HKK"), clips: int = 4, sound_s: float = 1.2) -> Path:
    """Write L2-ARCTIC."""
    files: dict[str, str | None] = {}
    for speaker in speakers:
        for number in range(1, clips + 1):
            name = f"arctic_a{number:04d}"
            files[f"{speaker}/wav/{name}.wav"] = None
            files[f"{speaker}/transcript/{name}.txt"] = f"{TEXTS[number % 3]}\n"
            files[f"{speaker}/textgrid/{name}.TextGrid"] = "not read"
    return write_tree(folder, files, sound_s)


def own_speech(folder: Path, speakers=("ann", "ben"), clips: int = 4, sound_s: float = 1.2) -> Path:
    """Write a folder a speaker, a text beside each clip."""
    files: dict[str, str | None] = {}
    for speaker in speakers:
        for number in range(clips):
            files |= {f"{speaker}/{number}.wav": None, f"{speaker}/{number}.txt": TEXTS[number % 3]}
    return write_tree(folder, files, sound_s)
