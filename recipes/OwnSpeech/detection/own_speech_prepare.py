"""Turns any genuine speech into a corpus of attacks."""

from pathlib import Path

from speechcl.data import cap_per_speaker, scan_folder
from speechcl.data.corpus import build_attack_corpus


def prepare(data_folder, folder: str, attacks: list[str], clips_per_speaker: int, workers: int):
    """Return the manifest rows, made once and found again afterwards.

    ``data_folder`` is a folder or manifest of genuine speech, or a list of them. A speaker with
    many clips is capped, or the detector would learn that voice. The attacks are made in the order
    of their names, so that features are found again whatever the order of learning.
    """
    genuine = cap_per_speaker(scan_folder(data_folder), clips_per_speaker)
    return build_attack_corpus(genuine, sorted(attacks), Path(folder), workers=workers)
