"""A long text in pieces that a voice can say at once."""

from __future__ import annotations

import re

LONGEST = 200  # characters of a piece: a voice has learnt sentences, not pages
_ENDS = re.compile(r"(?<=[.!?…])[\"'”’)\]]*\s+(?=[\"'“‘(\[]*[A-Z0-9])|\n\s*\n")
_NO_END = re.compile(r"(?:\b(?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|vs|No|Rev|Gen|Capt|Lt|Col)|\b[A-Z])\.$")
_WEAKER = (r"(?<=[;:])\s+", r"(?<=,)\s+", r"\s+")


def split_sentences(text: str, longest: int = LONGEST) -> list[str]:
    """Split a text at the ends of sentences, and long sentences at their pauses.

    Arguments
    ---------
    text : str
        As people write it.
    longest : int
        Characters of a piece, at most; a single word may be longer.

    Returns
    -------
    list of str
        Pieces with something in them, in order.

    Example
    -------
    >>> split_sentences("Dr. Lee is here. He came at 5 p.m. from St. Ives! Did you see him?")
    ['Dr. Lee is here.', 'He came at 5 p.m. from St. Ives!', 'Did you see him?']
    >>> split_sentences("one, two, three", longest=9)
    ['one, two,', 'three']
    """
    pieces: list[str] = []
    open_ended = False
    for part in _ENDS.split(text):
        part = " ".join(part.split())
        if open_ended and part:
            pieces[-1] += f" {part}"
        elif part:
            pieces.append(part)
        open_ended = bool(pieces) and bool(_NO_END.search(pieces[-1]))
    return [short for piece in pieces for short in _shortened(piece, longest, _WEAKER)]


def _shortened(piece: str, longest: int, breaks: tuple[str, ...]) -> list[str]:
    """Cut a piece at the strongest breaks that make it short enough, few times."""
    if len(piece) <= longest or not breaks:
        return [piece]
    joined: list[str] = []
    for part in re.split(breaks[0], piece):
        if joined and len(joined[-1]) + 1 + len(part) <= longest:
            joined[-1] += f" {part}"
        else:
            joined.append(part)
    return [short for part in joined for short in _shortened(part, longest, breaks[1:])]
