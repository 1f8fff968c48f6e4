"""VCTK: read English in many accents, version 0.92 and the older release.

110 speakers, 48 kHz. The corpus names no parts to train and test on.
"""

from __future__ import annotations

import os
from pathlib import Path

from speechcl.data.corpora.common import Listing, Source, check_parts, find_path, read_lines
from speechcl.data.manifest_checks import Row
from speechcl.data.voice_corpora.common import log_left_out, open_spoken, read_text, spoken_row

SOURCE = Source("VCTK", "VCTK 0.92: Edinburgh DataShare 10283/3443")
MICROPHONES = ("mic1", "mic2")
_NEW, _OLD = "wav48_silence_trimmed", "wav48"
_PLACES = [
    f"{above}{name}" for name in (_NEW, _OLD) for above in ("", "VCTK-Corpus-0.92/", "VCTK-Corpus/")
]
# Its accents are named by country, and English is that of England.
_ENGLAND = {"English": "England"}


def read_vctk(folder: str | os.PathLike, mic: str = "mic1") -> list[Row]:
    """List the clips of VCTK that have a text.

    Arguments
    ---------
    folder : str or os.PathLike
        What holds ``wav48_silence_trimmed`` (0.92) or ``wav48`` (the older release), ``txt`` and
        ``speaker-info.txt``; or the folder above.
    mic : str
        Of the two microphones of 0.92, ``mic1`` or ``mic2``; speakers who were not recorded with
        it are left out. The older release has one.

    Returns
    -------
    list of dict
        Manifest rows with an empty ``split``, sorted.

    Raises
    ------
    CorpusNotFound
        If clips, texts or ``speaker-info.txt`` are not there.
    ManifestError
        Listing clips that cannot be opened; or if no clip has a text.

    Example
    -------
    >>> import soundfile
    >>> folder = getfixture("tmp_path")
    >>> for name in ("wav48_silence_trimmed/p225", "txt/p225"):
    ...     (folder / name).mkdir(parents=True)
    >>> clip = folder / "wav48_silence_trimmed" / "p225" / "p225_001_mic1.flac"
    >>> soundfile.write(clip, [0.0] * 48000, 48000)
    >>> _ = (folder / "txt" / "p225" / "p225_001.txt").write_text("Please call Stella.")
    >>> _ = (folder / "speaker-info.txt").write_text("ID AGE GENDER ACCENTS\\np225 23 F English\\n")
    >>> [(row["ID"], row["accent"], row["text"]) for row in read_vctk(folder)]
    [('VCTK-p225_001', 'British', 'Please call Stella.')]
    """
    check_parts(SOURCE, [mic], MICROPHONES)
    clips = find_path(SOURCE, folder, _PLACES)
    texts = find_path(SOURCE, clips.parent, ["txt"])
    accents = _accents(find_path(SOURCE, clips.parent, ["speaker-info.txt"]))
    pattern = f"*_{mic}.flac" if clips.name == _NEW else "*.wav"
    rows: list[Row] = []
    unheard = []
    for speaker in sorted(entry for entry in clips.iterdir() if entry.is_dir()):
        heard = [clip for clip in sorted(speaker.glob(pattern)) if clip.name[0] != "."]
        unheard += [] if heard else [speaker.name]
        rows += [_row(clip, mic, texts, accents) for clip in heard]
    log_left_out(SOURCE.name, f"speakers without {pattern}", unheard)
    return open_spoken(SOURCE.name, rows)


def _row(clip: Path, mic: str, texts: Path, accents: dict[str, str]) -> Row:
    name, speaker = clip.stem.removesuffix(f"_{mic}"), clip.parent.name
    text = read_text(texts / speaker / f"{name}.txt")
    return spoken_row(SOURCE, name, clip, speaker, text, accent=accents.get(speaker, ""), split="")


def _accents(table: Path) -> dict[str, str]:
    """Return each speaker's accent; older releases write 225 for p225."""
    lines = (values for _, values in read_lines(SOURCE, Listing(table, (), dict)))
    found = {line[0]: line[3] for line in lines if len(line) > 3}
    said = {name: _ENGLAND.get(accent, accent) for name, accent in found.items()}
    return said | {f"p{name}": accent for name, accent in said.items() if name.isdigit()}
