"""From which similarity on are two clips of one speaker? The verifier's equal error rate.

Pairs are two clips of one speaker, and one clip each of two speakers, from packs with a
``metadata.csv`` of speaker and path. Prints a JSON line: pairs, EER in percent, its threshold.
"""

import argparse
import csv
import json
from pathlib import Path

import numpy as np
import torch

from speechcl.data.audio import read_audio
from speechcl.metrics import eer
from speechcl.safety.verifier import SpeakerVerifier

PACKS = ("speech-tts", "speech-many", "speech-accents")
CLIPS = 6  # of a speaker at most
ADULT_YEARS = 18
RATE_HZ = 16000


def speakers(folder: Path, least_s: float) -> dict[str, list[Path]]:
    """Return files of up to ``CLIPS`` clips of every adult."""
    found: dict[str, list[Path]] = {}
    for pack in PACKS:
        with (folder / pack / "metadata.csv").open(encoding="utf-8") as file:
            for row in csv.DictReader(file):
                adult = not row["age"].isdigit() or int(row["age"]) >= ADULT_YEARS
                if adult and float(row["duration"]) >= least_s:
                    files = found.setdefault(f"{pack} {row['speaker']}", [])
                    files.append(folder / pack / row["path"])
    draw = np.random.default_rng(0)
    return {
        name: [files[k] for k in draw.permutation(len(files))[:CLIPS]]
        for name, files in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_folder", type=Path, required=True)
    parser.add_argument("--least_s", type=float, default=2.0, help="shortest clip")
    options = parser.parse_args()
    torch.set_num_threads(1)
    verifier = SpeakerVerifier()
    found = []
    for name, files in speakers(options.data_folder, options.least_s).items():
        found += [(name, verifier(read_audio(file, RATE_HZ), RATE_HZ)) for file in files]
    owners = np.array([name for name, _ in found])
    packs = np.array([name.split()[0] for name in owners])
    vectors = torch.stack([vector for _, vector in found])
    first, second = np.triu_indices(len(owners), 1)
    similarity = (vectors @ vectors.T).numpy()[first, second]
    same, together = owners[first] == owners[second], packs[first] == packs[second]
    choices = {"all": np.ones(len(first), bool), "within a pack": together}
    choices |= {pack: together & (packs[first] == pack) for pack in PACKS}
    for name, chosen in choices.items():
        if not (same & chosen).any():
            continue  # a pack with one clip a speaker
        percent, threshold = eer(similarity[same & chosen], similarity[~same & chosen])
        line = {
            "name": "verifier_threshold",
            "pairs": name,
            "speakers": len(set(owners[first[chosen]]) | set(owners[second[chosen]])),
            "same": int((same & chosen).sum()),
            "different": int((~same & chosen).sum()),
            "eer_percent": round(percent, 2),
            "threshold": round(threshold, 3),
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
