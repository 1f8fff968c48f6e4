"""What the readers of public corpora share: finding lists and clips, turning lines into rows."""

import csv
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from speechcl.data.manifest_checks import ManifestError, Row
from speechcl.data.sound_files import find_audio, show_path

GENUINE = "-"  # the attack of a genuine clip
UNKNOWN_ATTACK = "unknown"
UNKNOWN_SPEAKER = "-"

_SHOWN_ENTRIES = 8


class CorpusNotFound(ValueError):
    """A corpus that is not where it was looked for; the message says where to get it."""


@dataclass(frozen=True)
class Source:
    """A corpus's name, which is also what its rows say, and where its owners give it out.

    Arguments
    ---------
    name : str
        Such as ``ASVspoof2019LA``.
    where : str
        Such as ``ASVspoof 2019 LA: Edinburgh DataShare 10283/3336``.
    """

    name: str
    where: str


@dataclass(frozen=True)
class Listing:
    """A text file with one clip a line.

    Arguments
    ---------
    path : Path
        The file, UTF-8, with any line ends.
    columns : sequence of str
        Names of the values of a line.
    make_row : callable
        Called with column name to value; returns what :func:`clip_row` does, or None for a clip
        that is not wanted; raises ValueError with what is wrong about the line.
    separator : str, optional
        Between values; by default any blanks.
    has_header : bool
        Whether the first line names the columns.
    more_columns : bool
        Whether further values may follow.
    """

    path: Path
    columns: Sequence[str]
    make_row: Callable[[Mapping[str, str]], Row | None]
    separator: str | None = None
    has_header: bool = False
    more_columns: bool = False


def find_path(source: Source, folder: str | os.PathLike, candidates: Sequence[str]) -> Path:
    """Return the first path that exists, in a corpus's folder or else one level up.

    Arguments
    ---------
    source : Source
        The corpus, for the message.
    folder : str or os.PathLike
        Where the user says that the corpus is.
    candidates : sequence of str
        Relative paths, the likeliest first; a file may have ``.txt`` added to its name.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    CorpusNotFound
        Saying what was looked for, what the folder holds, and where to get the corpus.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> (folder / "flac").mkdir()
    >>> find_path(Source("Mine", "my shelf"), folder, ["wav", "flac"]).name
    'flac'
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CorpusNotFound(
            f"{source.name}: no folder {show_path(folder)}; get it from {source.where}"
        )
    for candidate in candidates:
        for base in (folder, folder.absolute().parent):
            for path in (base / candidate, base / f"{candidate}.txt"):
                if path.exists():
                    return path
    holds = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    shown = ", ".join(holds[:_SHOWN_ENTRIES]) + (", ..." if len(holds) > _SHOWN_ENTRIES else "")
    raise CorpusNotFound(
        f"{source.name}: no {' or '.join(candidates)} in {show_path(folder)} or beside it, "
        f"which holds {shown or 'nothing'}; get it from {source.where}"
    )


def check_parts(source: Source, parts: Iterable[str], known: Iterable[str]) -> None:
    """Raise a ValueError if a part, subset or version of a corpus is unknown.

    Example
    -------
    >>> check_parts(Source("Mine", "my shelf"), ["dev", "tset"], ["train", "dev", "test"])
    Traceback (most recent call last):
    ValueError: Mine has no part 'tset': choose among train, dev, test
    """
    known = list(known)
    for part in parts:
        if part not in known:
            raise ValueError(f"{source.name} has no part {part!r}: choose among {', '.join(known)}")


def collect_rows(source: Source, listings: Iterable[Listing]) -> list[Row]:
    """Turn the lines of a corpus's lists into manifest rows that lack only their duration.

    Arguments
    ---------
    source : Source
        The corpus.
    listings : iterable of Listing
        Its lists.

    Returns
    -------
    list of dict
        In the order of the lists, ``listed`` saying in which line each was found.

    Raises
    ------
    ManifestError
        Listing everything wrong with the lists, by line.

    Example
    -------
    >>> path = getfixture("tmp_path") / "list.txt"
    >>> _ = path.write_text("a genuine\\nb genuin\\n")
    >>> def make_row(line):
    ...     label = pick(line["label"], {"genuine": "bonafide"}, "label")
    ...     return clip_row(line["name"], Path("a.wav"), label, split="train")
    >>> collect_rows(Source("Mine", "my shelf"), [Listing(path, ["name", "label"], make_row)])
    Traceback (most recent call last):
    ...
    speechcl.data.manifest_checks.ManifestError: Mine: list.txt line 2: label is 'genuin', not
    one of genuine
    """
    rows: list[Row] = []
    problems: list[str] = []
    places: dict[str, str] = {}
    for listing in listings:
        for number, values in read_lines(source, listing):
            place = f"{listing.path.name} line {number}"
            try:
                row = listing.make_row(name_values(listing, values))
            except ValueError as error:
                problems.append(f"{place}: {error}")
                continue
            if row is None:
                continue
            identity = f"{source.name}-{row['ID']}"
            first = places.setdefault(identity, place)
            if first != place:
                problems.append(f"{place}: {row['ID']} stands in {first} already")
            rows.append({**row, "ID": identity, "corpus": source.name, "listed": place})
    if problems:
        raise ManifestError(source.name, problems)
    if not rows:
        raise ManifestError(source.name, ["no clip is listed: check the lists and the options"])
    return rows


def read_lines(source: Source, listing: Listing) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and values of every line that is not blank, the header left out.

    Raises
    ------
    ManifestError
        If the file is not UTF-8 or its header is another one.

    Example
    -------
    >>> path = getfixture("tmp_path") / "list.txt"
    >>> _ = path.write_bytes(b"a.wav,1\\r\\n\\r\\nb.wav,0\\r\\n")
    >>> listing = Listing(path, ["file", "label"], dict, separator=",")
    >>> list(read_lines(Source("Mine", "my shelf"), listing))
    [(1, ['a.wav', '1']), (3, ['b.wav', '0'])]
    """
    name = listing.path.name
    try:
        with listing.path.open(encoding="utf-8-sig") as stream:
            for number, line in enumerate(stream, start=1):
                values = _split(line, listing.separator)
                if listing.has_header and number == 1:
                    if values != list(listing.columns):
                        header = ",".join(listing.columns)
                        raise ManifestError(source.name, [f"{name} must begin with {header}"])
                elif values:
                    yield number, values
    except UnicodeDecodeError as error:
        raise ManifestError(source.name, [f"{name} is not UTF-8: fetch it again"]) from error


def name_values(listing: Listing, values: Sequence[str]) -> dict[str, str]:
    """Return column name to value; raise a ValueError if there are too few or too many.

    Example
    -------
    >>> name_values(Listing(Path("list.txt"), ["file", "label"], dict), ["a.wav", "1"])
    {'file': 'a.wav', 'label': '1'}
    """
    wanted = len(listing.columns)
    if len(values) < wanted or (len(values) > wanted and not listing.more_columns):
        raise ValueError(f"{len(values)} values, not the {wanted} of {' '.join(listing.columns)}")
    return dict(zip(listing.columns, values, strict=False))


def clip_row(
    name: str,
    wav: Path,
    label: str,
    *,
    split: str,
    attack: str = UNKNOWN_ATTACK,
    speaker: str = UNKNOWN_SPEAKER,
    processing: str = "-",
) -> Row:
    """Return what is known of one clip before its file is opened.

    Arguments
    ---------
    name : str
        Unique in its corpus.
    wav : Path
        The sound file, which need not exist yet.
    label : str
        ``bonafide`` or ``spoof``.
    split : str
        ``train``, ``test``, or empty where the corpus leaves that open.
    attack, speaker : str
        A genuine clip's attack is ``-``, whatever is given.
    processing : str
        Codec or other treatment that the corpus names, ``-`` for none.

    Returns
    -------
    dict

    Example
    -------
    >>> clip_row("a", Path("a.wav"), "bonafide", split="train", speaker="ann")["attack"]
    '-'
    """
    return {
        "ID": name,
        "wav": str(wav.absolute()),
        "label": label,
        "attack": GENUINE if label == "bonafide" else attack,
        "speaker": speaker,
        "split": split,
        "processing": processing,
    }


def pick(value: str, known: Mapping[str, str], what: str) -> str:
    """Translate a value of a list; raise a ValueError if it is unknown.

    Example
    -------
    >>> pick("human", {"human": "bonafide", "spoof": "spoof"}, "key")
    'bonafide'
    """
    if value not in known:
        raise ValueError(f"{what} is {value!r}, not one of {', '.join(known)}")
    return known[value]


def same(values: Iterable[str]) -> dict[str, str]:
    """Return a translation of values to themselves, for :func:`pick`.

    Example
    -------
    >>> same(["bonafide", "spoof"])
    {'bonafide': 'bonafide', 'spoof': 'spoof'}
    """
    return {value: value for value in values}


def plain_name(name: str) -> str:
    """Return a file's name if it is nothing more; raise a ValueError if it leads elsewhere.

    Example
    -------
    >>> plain_name("../secret")
    Traceback (most recent call last):
    ValueError: '../secret' is not a plain file name
    """
    if name in ("", ".", "..") or any(sign in name for sign in "/\\\0"):
        raise ValueError(f"{name!r} is not a plain file name")
    return name


class AudioIndex:
    """The sound files below a folder by name, for corpora whose copies are packed differently.

    Arguments
    ---------
    folder : Path
        Where to look, at any depth.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> (folder / "part1").mkdir()
    >>> (folder / "part1" / "a.wav").touch()
    >>> AudioIndex(folder)["a.wav"].parent.name
    'part1'
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._paths: dict[str, list[Path]] = defaultdict(list)
        for path in find_audio(folder):
            self._paths[path.name].append(path)

    def __getitem__(self, name: str) -> Path:
        """Return the file called ``name``, or where it is missing."""
        found = self._paths.get(plain_name(name), [])
        if len(found) > 1:
            raise ValueError(f"{name!r} is at {show_path(found[0])} and {show_path(found[1])}")
        return found[0] if found else self._folder / name


def _split(line: str, separator: str | None) -> list[str]:
    if separator is None:
        return line.split()
    values = next(csv.reader([line.strip()], delimiter=separator), [])
    return [value.strip() for value in values]
