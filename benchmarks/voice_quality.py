"""How well does a voice model speak as people whom it has not heard?

Speakers to adapt to, those marked by the split ``adapt`` of packs of recordings, adults only; each
one's clips are dealt once, by turns, into clips to adapt to and clips to test on. Their texts are
spoken in the instant mode (all clips to adapt to are references) and after enrolling them, and set
beside the recordings themselves: cosine similarity of resemblyzer's vectors with the mean of the
clips to adapt to, how often that is above the verifier's threshold (where errors of both kinds are
equal on real pairs of these speakers), DNSMOS, word errors of pocketsphinx, which has trouble with
recordings too, the error of the median pitch, and seconds of computing a second of speech.

Needs resemblyzer, speechmos, onnxruntime and pocketsphinx.
"""

import argparse
import csv
import json
import re
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy
import pyworld
import torch
from pocketsphinx import Decoder
from resemblyzer import VoiceEncoder, preprocess_wav
from speechmos import dnsmos
from tqdm import tqdm

from speechcl.data.audio import read_audio, write_audio
from speechcl.inference import VoiceCloner
from speechcl.metrics import eer

RATE_HZ = 16_000  # of everything that listens
COLUMNS = ("similarity", "accepted", "dnsmos", "word_errors", "pitch_error", "real_time")


class Listener:
    """Whoever judges what is heard: who speaks, what is said, how well it sounds."""

    def __init__(self) -> None:
        self.encoder = VoiceEncoder("cpu", verbose=False)
        self.decoder = Decoder(samprate=RATE_HZ, loglevel="FATAL")

    def vector(self, sound: numpy.ndarray) -> numpy.ndarray:
        """Return resemblyzer's unit vector of who speaks."""
        return self.encoder.embed_utterance(preprocess_wav(sound, RATE_HZ))

    def words(self, sound: numpy.ndarray) -> list[str]:
        """Return what pocketsphinx understands."""
        self.decoder.start_utt()
        raw = (sound.clip(-1, 1) * 32767).astype(numpy.int16).tobytes()
        self.decoder.process_raw(raw, full_utt=True)
        self.decoder.end_utt()
        heard = self.decoder.hyp()
        return heard.hypstr.split() if heard else []

    def judge(self, sound: numpy.ndarray, text: str, own: numpy.ndarray) -> dict[str, float]:
        """Return what is measured of one clip, beside the vector of its speaker."""
        sound = (0.9 * sound / max(numpy.abs(sound).max(), 1e-3)).astype(numpy.float32)
        said = re.sub("[^a-z' ]", " ", text.lower()).split()
        return {
            "similarity": float(self.vector(sound) @ own),
            "dnsmos": float(dnsmos.run(sound, sr=RATE_HZ)["ovrl_mos"]),
            "wrong": distance(said, self.words(sound)),
            "words": len(said),
            "pitch_hz": pitch_hz(sound),
        }


def distance(said: list[str], heard: list[str]) -> int:
    """Words to change, insert and delete (Levenshtein)."""
    row = list(range(len(heard) + 1))
    for i, one in enumerate(said, 1):
        row, before = [i], row
        for j, other in enumerate(heard, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (one != other)))
    return row[-1]


def pitch_hz(sound: numpy.ndarray) -> float:
    found, _ = pyworld.harvest(sound.astype(numpy.float64), RATE_HZ)
    return float(numpy.median(found[found > 0])) if (found > 0).any() else float("nan")


def speakers_to_adapt_to(folders: list[Path]) -> dict[str, list[dict]]:
    found = defaultdict(list)
    for folder in folders:
        with (folder / "metadata.csv").open(newline="", encoding="utf-8") as table:
            for row in csv.DictReader(table):
                child = row["age"].isdigit() and int(row["age"]) < 18
                if row["split"] == "adapt" and not child:
                    found[row["speaker"]].append({**row, "wav": folder / row["path"]})
    return dict(sorted(found.items()))


def summary(judged: list[dict], threshold: float) -> dict[str, float]:
    return {
        "similarity": statistics.mean(one["similarity"] for one in judged),
        "accepted": statistics.mean(one["similarity"] >= threshold for one in judged),
        "dnsmos": statistics.mean(one["dnsmos"] for one in judged),
        "word_errors": sum(one["wrong"] for one in judged) / sum(one["words"] for one in judged),
        "pitch_error": statistics.median(
            abs(one["pitch_hz"] / one["real_pitch_hz"] - 1) for one in judged
        ),
        "real_time": statistics.mean(one.get("real_time", float("nan")) for one in judged),
    }


def measure_speaker(
    cloner: VoiceCloner, listener: Listener, clips: list[dict], tested: int, folder: Path
) -> tuple[list[dict], list[numpy.ndarray]]:
    """Return what was judged, and the vectors of the real clips to test on and of the mean."""
    adapt, test = clips[::2], clips[1::2][:tested]
    sounds = [read_audio(one["wav"], RATE_HZ).numpy() for one in adapt]
    mean = numpy.mean([listener.vector(one) for one in sounds], axis=0)
    own = mean / numpy.linalg.norm(mean)
    name = re.sub(r"[^\w-]", "_", clips[0]["speaker"])
    recordings = folder / name
    for k, (one, sound) in enumerate(zip(adapt, sounds, strict=True)):
        write_audio(recordings / f"{k}.wav", torch.from_numpy(sound).clamp(-1, 1), RATE_HZ)
        (recordings / f"{k}.txt").write_text(one["text"])
    begun = time.perf_counter()
    voice = cloner.enroll(
        recordings, name, consent="packs of speech", folder=folder / "voices", progress=False
    )
    enrol_s = time.perf_counter() - begun
    judged = []
    for k, one in enumerate(test):
        real = listener.judge(read_audio(one["wav"], RATE_HZ).numpy(), one["text"], own)
        modes = {
            "instant": {"reference": [recordings / f"{k}.wav" for k in range(len(adapt))]},
            "enrolled": {"voice": voice.file},
        }
        found = {"real": real}
        for mode, options in modes.items():
            begun = time.perf_counter()
            sound = cloner.say(one["text"], **options).numpy()
            took_s = time.perf_counter() - begun
            found[mode] = listener.judge(sound, one["text"], own)
            found[mode]["real_time"] = took_s * cloner.rate_hz / len(sound)
            file = folder / "said" / f"{name}_{k}_{mode}.wav"
            write_audio(file, torch.from_numpy(sound), RATE_HZ)
        for mode, row in found.items():
            judged.append(
                {"speaker": name, "native": clips[0]["native"], "mode": mode}
                | row
                | {"real_pitch_hz": real["pitch_hz"], "enrol_s": enrol_s}
                | {"speech_s": voice.speech_s}
            )
    vectors = [listener.vector(read_audio(one["wav"], RATE_HZ).numpy()) for one in test]
    return judged, [own, *vectors]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_folder", type=Path, nargs="+", required=True)
    parser.add_argument("--model", default="usat_small")
    parser.add_argument("--tested", type=int, default=4, help="Clips of each speaker.")
    parser.add_argument("--keep", type=Path, help="Folder for voices and what they say.")
    options = parser.parse_args()
    cloner, listener = VoiceCloner.from_pretrained(options.model), Listener()
    speakers = speakers_to_adapt_to(options.data_folder)
    judged, vectors = [], []
    with tempfile.TemporaryDirectory() as place:
        folder = options.keep or Path(place)
        for clips in tqdm(speakers.values(), unit="speaker"):
            rows, heard = measure_speaker(cloner, listener, clips, options.tested, folder)
            judged += rows
            vectors.append(heard)
    same = [float(one @ own) for own, *test in vectors for one in test]
    other = [
        float(one @ own)
        for i, (own, *_) in enumerate(vectors)
        for j, (_, *test) in enumerate(vectors)
        if i != j
        for one in test
    ]
    rate, threshold = eer(numpy.array(same), numpy.array(other))
    report = {
        "speakers": len(speakers),
        "eer": rate,
        "threshold": threshold,
        "same": statistics.mean(same),
        "others": statistics.mean(other),
        "enrol_s": statistics.mean({row["speaker"]: row["enrol_s"] for row in judged}.values()),
        "speech_s": statistics.mean({row["speaker"]: row["speech_s"] for row in judged}.values()),
    }
    print(json.dumps(report), file=sys.stderr)
    for native in sorted({row["native"] for row in judged}):  # as the pack has it
        for mode in ("real", "instant", "enrolled"):
            rows = [row for row in judged if row["native"] == native and row["mode"] == mode]
            if rows:
                found = summary(rows, threshold)
                shown = {key: round(found[key], 3) for key in COLUMNS}
                print(json.dumps({"native": native, "mode": mode, "clips": len(rows), **shown}))


if __name__ == "__main__":
    main()
