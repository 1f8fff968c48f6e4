"""Speech Commands: single spoken words, a folder a word, and lists of clips to test on.

A clip is named after its speaker, who is in one split only.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from speechcl.data.corpora.common import Listing, Source, find_path, read_lines
from speechcl.data.manifest_checks import ManifestError, Row

SOURCE = Source(
    "SpeechCommands",
    "Speech Commands: download.tensorflow.org/data/speech_commands_v0.02.tar.gz",
)
LISTS = {"valid": "validation_list.txt", "test": "testing_list.txt"}
_CLIP = re.compile(r"(?P<speaker>[^_]+)_nohash_\d+")


def read(folder: str | os.PathLike) -> list[Row]:
    """List the clips of Speech Commands, background noise left out.

    Arguments
    ---------
    folder : str or os.PathLike
        What the archive unpacks to: folders of words, ``validation_list.txt`` and
        ``testing_list.txt``.

    Returns
    -------
    list of dict
        Rows with ``text``, ``speaker`` and ``split`` (``train``, ``valid`` or ``test``), without
        duration, by word and name.

    Raises
    ------
    CorpusNotFound
        If the lists are not there.
    ManifestError
        Listing clips that are listed but missing, or whose names tell no speaker.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> for name in ("bed/00f0204f_nohash_0.wav", "cat/0132a06d_nohash_1.wav"):
    ...     (folder / name).parent.mkdir()
    ...     (folder / name).touch()
    >>> _ = (folder / "testing_list.txt").write_text("cat/0132a06d_nohash_1.wav\\n")
    >>> _ = (folder / "validation_list.txt").write_text("")
    >>> [(row["text"], row["speaker"], row["split"]) for row in read(folder)]
    [('bed', '00f0204f', 'train'), ('cat', '0132a06d', 'test')]
    """
    lists = {split: find_path(SOURCE, folder, [name]) for split, name in LISTS.items()}
    root = lists["test"].parent
    listed: dict[str, tuple[str, str]] = {}
    problems = []
    for split, path in lists.items():
        for number, (name, *_) in read_lines(SOURCE, Listing(path, ["clip"], dict)):
            place = f"{path.name} line {number}"
            if name in listed:
                problems.append(f"{place}: {name} stands in {listed[name][1]} already")
            listed.setdefault(name, (split, place))
    rows = []
    for clip in _clips(root):
        split, place = listed.pop(f"{clip.parent.name}/{clip.name}", ("train", str(clip)))
        named = _CLIP.fullmatch(clip.stem)
        if named is None:
            problems.append(f"{clip}: a clip is named <speaker>_nohash_<number>.wav")
            continue
        rows.append(_row(clip, named["speaker"], split, place))
    problems += [f"{place}: {name}: no such file" for name, (_, place) in listed.items()]
    if problems:
        raise ManifestError(SOURCE.name, problems)
    return rows


def _clips(root: Path) -> Iterator[Path]:
    words = (entry for entry in root.iterdir() if entry.is_dir() and entry.name[0] not in "._")
    for word in sorted(words):
        yield from sorted(word.glob("*.wav"))


def _row(clip: Path, speaker: str, split: str, listed: str) -> Row:
    word = clip.parent.name
    return {
        "ID": f"{SOURCE.name}-{word}-{clip.stem}",
        "wav": str(clip.absolute()),
        "text": word,
        "speaker": speaker,
        "corpus": SOURCE.name,
        "split": split,
        "listed": listed,
    }
