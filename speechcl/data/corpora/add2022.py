"""ADD 2022: Mandarin speech of the first Audio Deep Synthesis Detection challenge.

Neither speakers nor attacks are named. The layout is known from other people's loaders, not from
an official copy; hence labels and places are read tolerantly and unknown labels are refused.
"""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from speechcl.data.corpora.common import (
    AudioIndex,
    Listing,
    Source,
    check_parts,
    clip_row,
    collect_rows,
    find_path,
    pick,
)
from speechcl.data.manifest_checks import Row

SOURCE = Source("ADD2022", "ADD 2022: the challenge's organisers, addchallenge.cn")
# part: places of its list, and the split that its clips belong to
PARTS = {
    "train": (("label/train_label.txt", "train_label.txt", "train.txt"), "train"),
    "dev": (("label/dev_label.txt", "dev_label.txt", "dev.txt"), "test"),
    "track1": (("eval_track1/label.txt", "eval_track1.txt"), "test"),
}
COLUMNS = ("file", "label")
LABELS = {
    "genuine": "bonafide",
    "bonafide": "bonafide",
    "real": "bonafide",
    "fake": "spoof",
    "spoof": "spoof",
}


def read(folder: str | os.PathLike, parts: Sequence[str] = ("train", "dev")) -> list[Row]:
    """List the clips of ADD 2022.

    Arguments
    ---------
    folder : str or os.PathLike
        Holds ``ADD_train_dev``, or is that folder; the clips may lie at any depth.
    parts : sequence of str
        Among ``train``, ``dev`` and ``track1``, which is low-quality speech for evaluation.

    Returns
    -------
    list of dict
        Manifest rows without duration; ``split`` is train for train, test for the others.

    Raises
    ------
    CorpusNotFound
        If a list is not there.
    ManifestError
        Listing the lines that are wrong.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "train_label.txt").write_text("ADD_T_00000000.wav fake\\n")
    >>> [(row["ID"], row["label"]) for row in read(folder, ["train"])]
    [('ADD2022-ADD_T_00000000', 'spoof')]
    """
    check_parts(SOURCE, parts, PARTS)
    paths = {part: find_path(SOURCE, folder, _places(part)) for part in parts}
    clips = AudioIndex(Path(folder))
    return collect_rows(
        SOURCE,
        [
            Listing(
                path, COLUMNS, partial(_row, clips=clips, split=PARTS[part][1]), more_columns=True
            )
            for part, path in paths.items()
        ],
    )


def _places(part: str) -> list[str]:
    places = PARTS[part][0]
    return [f"ADD_train_dev/{place}" for place in places] + list(places)


def _row(line: Mapping[str, str], clips: AudioIndex, split: str) -> Row:
    name = line["file"]
    wav = clips[name if name.endswith(".wav") else f"{name}.wav"]
    return clip_row(wav.stem, wav, pick(line["label"], LABELS, "label"), split=split)
