"""Finds and chooses clips of several public corpora."""

from functools import partial

from speechcl.data.corpora import cap_per_class, deal_speakers, prepare_clips, read_corpora


def find(data_folder, corpora, folders, options, speaker_split: dict[str, float], seed: int):
    """Return the rows of all clips of the corpora, each for training or for test.

    Corpora are read in the order of their names, so that features are found again whatever the
    order of learning.
    """
    rows = read_corpora(sorted(corpora), data_folder, folders, options)
    return deal_speakers(rows, speaker_split, seed)


def prepare(found, folder: str, clips_per_class: int, test_clips_per_class: int, seed: int):
    """Return the manifest rows of the clips that are used; those are looked for."""
    maximum = {"train": clips_per_class, "test": test_clips_per_class}
    return prepare_clips(found, partial(cap_per_class, maximum=maximum, seed=seed), folder)
