"""What the watermark survives, how often it is seen where there is none, and how loud it is.

Prints a JSON line for every length of clip and way of treating it, then one for unmarked speech,
one for the level of the mark in each band, and one for speed. Without ``--data_folder``, speech
is espeak-ng's. A clip that is not read counts as half of its bits wrong.
"""

import argparse
import csv
import io
import json
import math
import time
from collections.abc import Callable, Iterator
from itertools import islice, zip_longest
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch

from speechcl.attacks import codec
from speechcl.data.audio import read_audio
from speechcl.data.embedded import dry_speech, sentence
from speechcl.data.espeak import VOICES
from speechcl.safety.watermark import FALSE_ALARM, add_watermark, read_watermark

RATE_HZ = 24000
PACKS = ("speech-tts", "speech-many", "speech-accents", "speech-timit-nc")
UNMARKED_S = 2.0
BLOCK_FRAMES = 1 << 14  # the Ogg encoders overflow the stack on long writes
Treatment = Callable[[np.ndarray], tuple[np.ndarray, int]]


def clips(folder: Path | None, count: int, least_s: float) -> Iterator[torch.Tensor]:
    """Yield speech at ``RATE_HZ``, of all speakers in turn."""
    if folder is None:
        for number in range(count):
            text = sentence(number, 0, number)
            voice = VOICES[number % len(VOICES)]
            yield dry_speech(f"{text} {text}", voice, 0, number, RATE_HZ)
        return
    speakers: dict[str, list[str]] = {}
    with (folder / "speech-tts" / "metadata.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if float(row["duration"]) >= least_s:
                speakers.setdefault(row["speaker"], []).append(row["path"])
    in_turn = (path for turn in zip_longest(*speakers.values()) for path in turn if path)
    for path in islice(in_turn, count):
        yield read_audio(folder / "speech-tts" / path, RATE_HZ)


def coded(kind: str, kbit_s: float) -> Treatment:
    """Return a treatment that codes at a bit rate and decodes."""

    def treat(samples: np.ndarray) -> tuple[np.ndarray, int]:
        file = io.BytesIO()
        if kind == "mp3":  # libsndfile's range for MPEG-2 is 160 to 8 kbit/s
            settings = {"format": "MP3", "subtype": "MPEG_LAYER_III", "bitrate_mode": "CONSTANT"}
            level = (160 - kbit_s) / (160 - 8)
        else:  # and for a channel of Opus 256 to 6
            settings = {"format": "OGG", "subtype": "OPUS"}
            level = (256 - kbit_s) / (256 - 6)
        with soundfile.SoundFile(
            file, "w", RATE_HZ, 1, compression_level=level, **settings
        ) as sound:
            for start in range(0, len(samples), BLOCK_FRAMES):
                sound.write(samples[start : start + BLOCK_FRAMES])
        file.seek(0)
        return soundfile.read(file, dtype="float32")

    return treat


def resampled(rate_hz: int, back: bool) -> Treatment:
    """Return a treatment that resamples, and back again."""

    def treat(samples: np.ndarray) -> tuple[np.ndarray, int]:
        there = soxr.resample(samples, RATE_HZ, rate_hz)
        return (soxr.resample(there, rate_hz, RATE_HZ), RATE_HZ) if back else (there, rate_hz)

    return treat


def telephone(samples: np.ndarray) -> tuple[np.ndarray, int]:
    """Treat as a telephone line: 8 kHz, A-law."""
    narrow = torch.from_numpy(soxr.resample(samples, RATE_HZ, 8000))
    return codec(narrow, 8000, "alaw").numpy(), 8000


def noisy(snr_db: float) -> Treatment:
    """Return a treatment that adds white noise."""

    def treat(samples: np.ndarray) -> tuple[np.ndarray, int]:
        noise = np.random.default_rng(0).standard_normal(len(samples)).astype(np.float32)
        size = np.sqrt(np.square(samples).mean()) * 10 ** (-snr_db / 20)
        return samples + size * noise, RATE_HZ

    return treat


TREATMENTS: dict[str, Treatment] = {
    "16 bits": lambda samples: (np.round(samples * 32767) / 32768, RATE_HZ),
    "MP3 64 kbit/s": coded("mp3", 64),
    "MP3 32 kbit/s": coded("mp3", 32),
    "Opus 64 kbit/s": coded("opus", 64),
    "Opus 24 kbit/s": coded("opus", 24),
    "22.05 kHz": resampled(22050, back=False),
    "44.1 kHz and back": resampled(44100, back=True),
    "48 kHz": resampled(48000, back=False),
    "16 kHz and back": resampled(16000, back=True),
    "8 kHz A-law": telephone,
    "-20 dB": lambda samples: (0.1 * samples, RATE_HZ),
    "first 0.35 s cut": lambda samples: (samples[int(0.35 * RATE_HZ) :], RATE_HZ),
    "noise at 30 dB": noisy(30),
    "noise at 20 dB": noisy(20),
    "1 % faster": lambda samples: (soxr.resample(samples, 1.01, 1.0), RATE_HZ),
}


def survival(folder: Path | None, count: int, lengths_s: list[float]) -> None:
    """Print what is read after each treatment of clips of each length."""
    sources = list(clips(folder, count, max(lengths_s) + 0.4))
    draw = np.random.default_rng(1)
    for length_s in lengths_s:
        messages = draw.integers(0, 1 << 16, len(sources)).tolist()
        marked = []
        for clip, message in zip(sources, messages, strict=True):
            marked.append(add_watermark(clip, RATE_HZ, message).numpy())
        for name, treat in TREATMENTS.items():
            missed = wrong_bits = wrong_messages = 0
            scores = []
            for whole, message in zip(marked, messages, strict=True):
                # A clip cut later still lasts as long as the others.
                spare_s = 0.35 if name.startswith("first") else 0.0
                treated, rate_hz = treat(whole[: int((length_s + spare_s) * RATE_HZ)])
                found = read_watermark(torch.from_numpy(treated).float(), rate_hz)
                scores.append(found.score)
                missed += not found.present
                if found.message is not None:
                    wrong_bits += (found.message ^ message).bit_count()
                    wrong_messages += found.message != message
            line = {
                "name": "watermark_survival",
                "clip_s": length_s,
                "treatment": name,
                "clips": len(sources),
                "missed": missed,
                "wrong_messages": wrong_messages,
                "bit_errors_percent": round(
                    100 * (wrong_bits + 8 * missed) / (16 * len(sources)), 2
                ),
                "score": {"min": round(min(scores), 1), "median": round(np.median(scores), 1)},
            }
            print(json.dumps(line), flush=True)


def false_alarms(folder: Path | None, count: int) -> None:
    """Print how high unmarked speech scores, next to the bound on it."""
    if folder is None:
        waveforms: Iterator[torch.Tensor] = clips(None, count, 0.0)
    else:
        waveforms = (
            read_audio(path, RATE_HZ)
            for pack in PACKS
            for path in sorted((folder / pack / "audio").rglob("*.*"))
        )
    scores, chances, size = [], [], int(UNMARKED_S * RATE_HZ)
    for waveform in waveforms:
        for window in waveform.split(size):
            if len(window) > size / 2:
                found = read_watermark(window, RATE_HZ)
                scores.append(found.score)
                chances.append(found.false_alarm)
    seen = np.array(chances)
    line = {
        "name": "watermark_false_alarms",
        "windows": len(scores),
        "window_s": UNMARKED_S,
        "false_alarms": int((seen <= FALSE_ALARM).sum()),
        "bound": FALSE_ALARM,
        "highest_score": round(max(scores), 2),
        "lowest_bound": float(f"{seen.min():.2g}"),
        "share_at_bound": {str(p): float((seen <= p).mean()) for p in (0.5, 0.1, 0.01, 0.001)},
    }
    print(json.dumps(line), flush=True)


def level(folder: Path | None, count: int) -> None:
    """Print the mark's level in dB below speech, by band and as a whole."""
    edges_hz = [0, 300, 600, 1200, 2400, 4800, 6500, 12000]
    speech, mark = np.zeros(len(edges_hz) - 1), np.zeros(len(edges_hz) - 1)
    wholes = []
    for clip in clips(folder, count, 2.0):
        change = add_watermark(clip, RATE_HZ, 12345) - clip
        wholes.append(10 * math.log10(clip.square().sum() / change.square().sum()))
        frequency_hz = np.fft.rfftfreq(len(clip), 1 / RATE_HZ)
        for sums, signal in ((speech, clip), (mark, change)):
            power = np.abs(np.fft.rfft(signal.numpy())) ** 2
            sums += np.histogram(frequency_hz, edges_hz, weights=power)[0]
    below_db = 10 * np.log10(speech / np.maximum(mark, 1e-9 * speech))
    line = {
        "name": "watermark_level",
        "clips": len(wholes),
        "below_speech_db": {"mean": round(np.mean(wholes), 1), "least": round(min(wholes), 1)},
        "below_speech_in_band_db": {
            f"{low}-{high} Hz": round(float(band_db), 1)
            for low, high, band_db in zip(edges_hz[:-1], edges_hz[1:], below_db, strict=True)
        },
    }
    print(json.dumps(line), flush=True)


def speed(duration_s: float) -> None:
    """Print how much faster than real time marks are added and read, on one core."""
    noise = 0.1 * torch.randn(int(duration_s * RATE_HZ))
    times = {}
    for name, work in (
        ("added", lambda: add_watermark(noise, RATE_HZ)),
        ("read", lambda: read_watermark(noise, RATE_HZ)),
    ):
        work()
        start = time.process_time()
        work()
        times[name] = round(duration_s / (time.process_time() - start))
    line = {"name": "watermark_speed", "duration_s": duration_s, "times_real_time": times}
    print(json.dumps(line), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_folder", type=Path, help="holds speech-tts and its neighbours")
    parser.add_argument("--quick", action="store_true", help="few clips: does it run?")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    count = 2 if options.quick else 100
    survival(options.data_folder, count, [3] if options.quick else [1.5, 2, 3, 5])
    false_alarms(None if options.quick else options.data_folder, count)
    level(options.data_folder, count)
    speed(2 if options.quick else 60)


if __name__ == "__main__":
    main()
