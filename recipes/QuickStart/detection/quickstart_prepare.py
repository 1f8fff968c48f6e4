"""Builds the corpus of the quickstart: synthetic speakers and attacks on them."""

from pathlib import Path

from speechcl.data.corpus import build_attack_corpus
from speechcl.data.embedded import build_embedded

NOTE = (
    "The genuine clips are synthetic: espeak-ng speaks them with many voices. They stand in for "
    "recordings, so the figures show how the methods compare, not how well real speech is judged."
)


def prepare(folder: str, attacks: list[str], voices: int, sentences: int, workers: int):
    """Return the manifest rows, made once and found again afterwards."""
    genuine = build_embedded(Path(folder) / "genuine", voices, sentences, workers=workers)
    return build_attack_corpus(genuine, sorted(attacks), Path(folder) / "attacks", workers=workers)
