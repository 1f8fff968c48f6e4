"""Write recordings with transcripts as one small folder of Opus files, to train on elsewhere.

Example: python recipes/OwnSpeech/tts/pack.py my_recordings/ more/ --output packed/ --youngest 18
"""

import argparse
import csv
import re
import shutil
import sys
from pathlib import Path

import soundfile
from tqdm import tqdm

from speechcl.data.audio import read_audio
from speechcl.data.clips import clips_fingerprint
from speechcl.data.files import atomic_path
from speechcl.data.voice_corpora import read_own_speech

RATE_HZ = 16_000
LEVEL = 0.85  # of libsndfile, about 45 kbit/s at this rate
COLUMNS = ("id", "path", "speaker", "text", "accent", "split", "duration")


def pack(sources, output, youngest=0):
    """Copy clips that are Opus already, encode the others; the table is written last.

    Speakers marked to adapt to are left out, and those under an age, where an age is known.
    """
    rows = [row for row in read_own_speech(sources) if _age(row, youngest) >= youngest]
    if not rows:
        raise ValueError(f"nobody is {youngest} or older: lower --youngest")
    table = []
    for row in tqdm(rows, unit="clip", disable=None):
        digest = clips_fingerprint([row], [LEVEL])  # so that no clip is taken for another
        readable = re.sub(r"[^\w.+-]", "_", row["ID"])[:80]
        name = f"clips/{readable}-{digest}.opus"
        _write(Path(row["wav"]), output / name)
        entry = {**row, "id": row["ID"], "path": name}
        table.append({column: entry.get(column, "") for column in COLUMNS})
    with atomic_path(output / "metadata.csv") as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(table)
    size_mb = sum((output / entry["path"]).stat().st_size for entry in table) / 1e6
    speakers = len({row["speaker"] for row in rows})
    hours = sum(row["duration"] for row in rows) / 3600
    return f"{len(rows)} clips of {speakers} speakers, {hours:.2f} h, {size_mb:.1f} MB"


def _age(row, unknown):
    age = str(row.get("age") or "")
    return int(age) if age.isdigit() else unknown


def _write(source, target):
    if target.exists():
        return
    with atomic_path(target) as temporary:
        if source.suffix == ".opus":
            shutil.copyfile(source, temporary)
        else:
            waveform = read_audio(source, RATE_HZ).numpy()
            kind = {"format": "OGG", "subtype": "OPUS", "compression_level": LEVEL}
            soundfile.write(temporary, waveform, RATE_HZ, **kind)


def main(argv=None):
    """Read the command line, pack, say what came of it."""
    keep = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=keep)
    parser.add_argument("sources", nargs="+", type=Path, help="folders, packs or manifests")
    parser.add_argument("--output", required=True, type=Path, help="folder to make")
    parser.add_argument("--youngest", type=int, default=0, help="years; an unknown age will do")
    given = parser.parse_args(argv)
    try:
        print(pack(given.sources, given.output, given.youngest))
    except (ValueError, OSError) as error:
        print(f"pack.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
