"""L2-ARCTIC: the ARCTIC sentences read by 24 speakers of six native languages.

The corpus names no parts to train and test on, and its speakers read the same sentences.
"""

from __future__ import annotations

import os
from pathlib import Path

from speechcl.data.corpora.common import Source, find_path
from speechcl.data.manifest_checks import Row
from speechcl.data.sound_files import find_audio
from speechcl.data.voice_corpora.common import open_spoken, read_text, spoken_row

SOURCE = Source("L2-ARCTIC", "L2-ARCTIC: psi.engr.tamu.edu/l2-arctic-corpus")
LANGUAGES = {
    "Arabic": ("ABA", "SKA", "YBAA", "ZHAA"),
    "Mandarin": ("BWC", "LXC", "NCC", "TXHC"),
    "Hindi": ("ASI", "RRBI", "SVBI", "TNI"),
    "Korean": ("HJK", "HKK", "YDCK", "YKWK"),
    "Spanish": ("EBVS", "ERMS", "MBMPS", "NJS"),
    "Vietnamese": ("HQTV", "PNV", "THV", "TLV"),
}
_LANGUAGE_OF = {name: language for language, names in LANGUAGES.items() for name in names}
_SUITCASE = "suitcase_corpus"


def read_l2arctic(folder: str | os.PathLike, suitcase: bool = False) -> list[Row]:
    """List the clips of L2-ARCTIC that have a text.

    Arguments
    ---------
    folder : str or os.PathLike
        What holds a folder for each speaker, such as ``ABA``.
    suitcase : bool
        Whether the spontaneous speech of ``suitcase_corpus`` is listed too.

    Returns
    -------
    list of dict
        Manifest rows with an empty ``split``, by speaker; the native language is the ``accent``.

    Raises
    ------
    CorpusNotFound
        If there is no speaker, or no ``suitcase_corpus`` where it is asked for.
    ManifestError
        Listing clips that cannot be opened; or if no clip has a text.

    Example
    -------
    >>> import soundfile
    >>> folder = getfixture("tmp_path")
    >>> for name in ("wav", "transcript"):
    ...     (folder / "HKK" / name).mkdir(parents=True)
    >>> soundfile.write(folder / "HKK" / "wav" / "arctic_a0001.wav", [0.0] * 44100, 44100)
    >>> _ = (folder / "HKK" / "transcript" / "arctic_a0001.txt").write_text("Author of the trail.")
    >>> [(row["ID"], row["accent"]) for row in read_l2arctic(folder)]
    [('L2-ARCTIC-HKK-arctic_a0001', 'Korean')]
    """
    root = _find(folder, sorted(_LANGUAGE_OF)).parent
    rows: list[Row] = []
    for speaker in sorted(_LANGUAGE_OF):
        if (root / speaker).is_dir():
            rows += _rows(_find(root / speaker, ["wav", f"{speaker}/wav"]), speaker)
    if suitcase:
        names = [f"{_SUITCASE}/wav", f"{_SUITCASE}/{_SUITCASE}/wav"]
        rows += _rows(_find(root, names))
    return open_spoken(SOURCE.name, rows)


def _find(folder: str | os.PathLike, names: list[str]) -> Path:
    return find_path(SOURCE, folder, names)


def _rows(clips: Path, speaker: str | None = None) -> list[Row]:
    """Return the rows of a ``wav`` folder; the spontaneous ones are named after their speakers."""
    rows = []
    for clip in find_audio(clips):
        below = clip.relative_to(clips).with_suffix("")
        who = speaker or below.parts[0].split("_")[0].upper()
        name = "-".join([who, *below.parts] if speaker else ["suitcase", *below.parts])
        text = read_text(clips.parent / "transcript" / f"{below}.txt")
        accent = _LANGUAGE_OF.get(who, "")
        rows.append(spoken_row(SOURCE, name, clip, who, text, accent=accent, split=""))
    return rows
