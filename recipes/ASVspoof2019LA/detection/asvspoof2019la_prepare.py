"""Finds and chooses the clips of ASVspoof 2019 LA."""

from functools import partial

from speechcl.data.corpora import asvspoof2019, deal_speakers, keep_share, prepare_clips


def find(data_folder, attacks: list[str], speaker_split: dict[str, float], seed: int):
    """Return the rows of the genuine clips and of the attacks, in the parts that hold them."""
    rows = asvspoof2019.read(data_folder, asvspoof2019.parts_with(attacks))
    wanted = {"-", *attacks}
    return deal_speakers([row for row in rows if row["attack"] in wanted], speaker_split, seed)


def prepare(found, folder: str, share_of_clips: float, seed: int):
    """Return the manifest rows of the share that is used; every clip is looked for."""
    return prepare_clips(found, partial(keep_share, share=share_of_clips, seed=seed), folder)
