"""A corpus of attacks: genuine clips and spoofed copies of them, all through one channel."""

import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

from speechcl.attacks.registry import find_attack, spoof
from speechcl.data.audio import audio_duration_s, read_audio, write_audio
from speechcl.data.channel import band_limit, channel, trim
from speechcl.data.disguise import disguise
from speechcl.data.manifest import read_manifest, write_manifest
from speechcl.data.pool import run_jobs, seed_for

RATE_HZ = 16000
GENUINE = "-"
_VERSION = 1  # raise it when the same configuration yields other clips


@dataclass(frozen=True)
class _Job:
    """One genuine clip, from which a genuine and the spoofed clips are made."""

    row: dict
    attacks: tuple[str, ...]
    folder: Path
    seed: int
    max_duration_s: float


def build_attack_corpus(
    genuine: list[dict],
    attacks: list[str],
    folder: str | Path,
    seed: int = 0,
    workers: int = 2,
    max_duration_s: float = 4.0,
) -> list[dict]:
    """Write each genuine clip and a spoofed copy of it for each attack, and their manifest.

    All clips pass the same channel and are 16 kHz, 16-bit WAV of the same length, so that nothing
    but the attack tells them apart. What is drawn depends on the seed, the clip's ID and the
    attack alone. After a kill the same call goes on: clips that are there already and that come
    from the same file and settings are kept.

    Arguments
    ---------
    genuine : list of dict
        Manifest rows with at least ``ID`` and ``wav``, and ``text`` if an attack needs it.
    attacks : list of str
        Keys of ``speechcl.attacks.ATTACKS``.
    folder : str or Path
        Where the clips and ``manifest.csv`` go.
    seed : int
        Seed of crops, attacks and channels.
    workers : int
        Number of processes; the clips do not depend on it.
    max_duration_s : float
        Longer clips are cropped to this, at a random position.

    Returns
    -------
    list of dict
        The manifest's rows, with absolute paths.

    Raises
    ------
    ValueError
        If a row or an attack is not usable; the message names the clip and the attack.

    Example
    -------
    >>> from speechcl.data.embedded import build_embedded
    >>> folder = getfixture("tmp_path")
    >>> genuine = build_embedded(folder / "genuine", voices=1, sentences=1, workers=1)
    >>> rows = build_attack_corpus(genuine, ["mulaw"], folder / "spoofed", workers=1)
    >>> [(row["ID"], row["label"], row["attack"]) for row in rows]
    [('en-us_f1_00', 'bonafide', '-'), ('en-us_f1_00-mulaw', 'spoof', 'mulaw')]
    """
    folder = Path(folder)
    _check(genuine, attacks)
    jobs = [_Job(dict(row), tuple(attacks), folder, seed, max_duration_s) for row in genuine]
    # starting workers takes seconds, reading a corpus that is there does not need them
    is_new = not all(_is_made(job) for job in jobs)
    made = run_jobs(_make_clips, jobs, workers if is_new else 1, "attack corpus")
    manifest = folder / "manifest.csv"
    write_manifest(manifest, [row for rows in made for row in rows])
    return read_manifest(manifest, data_root=folder, disjoint_speakers=False)


def _check(genuine: list[dict], attacks: list[str]) -> None:
    if not genuine or not attacks:
        raise ValueError(
            f"{len(genuine)} genuine clips and {len(attacks)} attacks: give at least one of each"
        )
    names = {"ID": [row["ID"] for row in genuine], "attack": attacks}
    for kind, values in names.items():
        twice = [value for value, count in Counter(values).items() if count > 1]
        if twice:
            raise ValueError(f"{kind} {twice[0]!r} is given twice: give it once")
    missing = [row for row in genuine if not Path(row["wav"]).is_file()]
    if missing:
        raise ValueError(
            f"clip {missing[0]['ID']!r} has no file at {missing[0]['wav']}: "
            "read its manifest with read_manifest, which fills in $data_root"
        )
    spoofed = [row["ID"] for row in genuine if row.get("label", "bonafide") != "bonafide"]
    if spoofed:
        raise ValueError(f"clip {spoofed[0]!r} is not bonafide: give genuine clips only")
    for attack in map(find_attack, attacks):
        mute = [row["ID"] for row in genuine if attack.needs_text and not row.get("text")]
        if mute:
            raise ValueError(
                f"attack {attack.name!r} needs the text of clip {mute[0]!r}: "
                "fill the text column or leave the attack out"
            )


def _make_clips(job: _Job) -> list[dict]:
    source = _hash_of(job.row["wav"])
    clip = None
    rows = []
    for attack in (GENUINE, *job.attacks):
        path = job.folder / _clip_name(job, attack, source)
        if not path.is_file():
            clip = _read_clip(job) if clip is None else clip
            write_audio(path, _through_channel(job, clip, attack), RATE_HZ)
        rows.append(_row(job, attack, path))
    return rows


def _is_made(job: _Job) -> bool:
    source = _hash_of(job.row["wav"])
    paths = (job.folder / _clip_name(job, attack, source) for attack in (GENUINE, *job.attacks))
    return all(path.is_file() for path in paths)


def _hash_of(wav: str) -> str:
    return hashlib.sha256(Path(wav).read_bytes()).hexdigest()


def _clip_name(job: _Job, attack: str, source: str) -> str:
    """Name a clip by all that it depends on, so that a file of that name needs no rework."""
    depends_on = [_VERSION, job.seed, job.max_duration_s, job.row["ID"], attack, source]
    if attack != GENUINE and find_attack(attack).needs_text:
        depends_on.append(job.row["text"])
    digest = hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()[:10]
    readable = re.sub(r"[^\w-]+", "_", job.row["ID"])[:80]
    folder = "genuine" if attack == GENUINE else attack
    return f"clips/{folder}/{readable}-{digest}.wav"


def _read_clip(job: _Job) -> torch.Tensor:
    """Read the clip, or a part of it; silence is cut off first, so that no crop is silent."""
    waveform = trim(read_audio(job.row["wav"], RATE_HZ), RATE_HZ)
    spare = len(waveform) - int(job.max_duration_s * RATE_HZ)
    start = seed_for(job.seed, job.row["ID"], "crop") % (spare + 1) if spare > 0 else 0
    return waveform[start : start + int(job.max_duration_s * RATE_HZ)]


def _through_channel(job: _Job, clip: torch.Tensor, attack: str) -> torch.Tensor:
    item_seed = seed_for(job.seed, job.row["ID"], attack)
    try:
        if attack == GENUINE:
            clip = band_limit(clip, RATE_HZ)  # a disguise does the same, and twice is steeper
        else:
            spoofed = spoof(clip, RATE_HZ, attack, item_seed, job.row.get("text"))
            clip = disguise(spoofed, clip, RATE_HZ, item_seed)
        return channel(clip, RATE_HZ, item_seed, job.max_duration_s)
    except (ValueError, RuntimeError) as error:
        step = "the channel" if attack == GENUINE else f"attack {attack!r}"
        raise ValueError(f"clip {job.row['ID']!r} does not pass {step}: {error}") from error


def _row(job: _Job, attack: str, path: Path) -> dict:
    kept = ("speaker", "accent", "corpus", "split", "text")
    is_genuine = attack == GENUINE
    return {
        "ID": job.row["ID"] if is_genuine else f"{job.row['ID']}-{attack}",
        "duration": f"{audio_duration_s(path):.4f}",
        "wav": f"$data_root/{path.relative_to(job.folder).as_posix()}",
        "label": "bonafide" if is_genuine else "spoof",
        "attack": attack,
        **{column: job.row[column] for column in kept if column in job.row},
    }
