"""FoR, the Fake-or-Real corpus: speech of commercial and open synthesis systems, and recordings.

A folder's name is the label; neither speakers nor systems are named. In ``for-original`` file
formats differ between the classes, and a detector may learn them: ``for-norm`` has one format.
"""

import os
from pathlib import Path

from speechcl.data.corpora.common import Source, check_parts, clip_row, find_path
from speechcl.data.manifest_checks import ManifestError, Row
from speechcl.data.sound_files import find_audio, show_path

SOURCE = Source("FoR", "FoR: York University, bil.eecs.yorku.ca/datasets")
VERSIONS = ("for-norm", "for-original", "for-2sec", "for-rerec")
SPLITS = {"training": "train", "testing": "test"}
LABELS = {"real": "bonafide", "fake": "spoof"}


def read(folder: str | os.PathLike, version: str = "for-norm") -> list[Row]:
    """List the clips of FoR. Its validation part is not used.

    Arguments
    ---------
    folder : str or os.PathLike
        Holds ``for-norm`` or another version, or is the version's folder.
    version : str
        ``for-norm``, ``for-original``, ``for-2sec`` or ``for-rerec``.

    Returns
    -------
    list of dict
        Manifest rows without duration; ``split`` is train for training, test for testing.

    Raises
    ------
    CorpusNotFound
        If the version is not there.
    ManifestError
        If a class has no clips.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> for place in ("training/real", "training/fake", "testing/real", "testing/fake"):
    ...     (folder / "for-norm" / place).mkdir(parents=True)
    ...     (folder / "for-norm" / place / "file1.wav").touch()
    >>> [(row["label"], row["split"]) for row in read(folder)][:2]
    [('bonafide', 'train'), ('spoof', 'train')]
    """
    check_parts(SOURCE, [version], VERSIONS)
    places = ["training", f"{version}/training", f"{version}/{version}/training"]
    root = find_path(SOURCE, folder, places).parent
    rows: list[Row] = []
    empty = []
    for part, split in SPLITS.items():
        for name, label in LABELS.items():
            clips = find_audio(root / part / name) if (root / part / name).is_dir() else []
            rows += [_row(clip, root, label, split) for clip in clips]
            if not clips:
                empty.append(f"no clips in {show_path(root / part / name)}: unpack the version")
    if empty:
        raise ManifestError(SOURCE.name, empty)
    return rows


def _row(clip: Path, root: Path, label: str, split: str) -> Row:
    place = clip.relative_to(root)
    row = clip_row("-".join([SOURCE.name, *place.parts]), clip, label, split=split)
    return {**row, "corpus": SOURCE.name, "listed": place.as_posix()}
