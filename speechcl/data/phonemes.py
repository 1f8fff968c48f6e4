"""Text as numbers for a voice: sounds in IPA with stress and punctuation, and blanks between."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Sequence

from speechcl.data.phones import ipa
from speechcl.data.spoken_text import spell_out

BLANK = "_"
_PAUSES = ",.;:!?…—"
_LETTERS = (
    "abcdefghijklmnopqrstuvwxyzæçðøħŋœǀǁǂǃɐɑɒɓɔɕɖɗɘəɚɛɜɝɞɟɠɡɢɣɤɥɦ"
    "ɧɨɪɫɬɭɮɯɰɱɲɳɴɵɶɸɹɺɻɽɾʀʁʂʃʄʈʉʊʋʌʍʎʏʐʑʒʔʕʘʙʛʜʝʟʡʢβθχᵻ"
)
_MARKS = "ˈˌːˑˤʰʲʷ\u0303\u0329"  # stress, length, colour, nasal and syllabic sounds
# A pause within a number or a word is none, but for dashes and dots; nor is one after U.S.A.,
# whose letters espeak-ng spells by its full stops.
_END = r"(?=[\s\"'”’)\]]|$)"
_BREAK = re.compile(
    rf"\s*(?<!\.[A-Z])([{_PAUSES}]+{_END}|[{_PAUSES}]*[…—]|\.{{2,}}(?=\w))|\s+[-–]\s+"
)
_DASH = re.compile(r"(?<!-)-{2,3}(?!-)|―")  # as typewriters have it
_OTHER_LANGUAGE = re.compile(r"\([a-z-]+\)")  # where espeak-ng changes to another one

# The place of a symbol is its number in every trained voice: add new ones at the end.
SYMBOLS = (BLANK, " ", *_PAUSES, *_LETTERS, *_MARKS)
_NUMBERS = {symbol: number for number, symbol in enumerate(SYMBOLS)}


@functools.lru_cache(maxsize=100_000)
def phonemes(text: str, voice: str = "en-us") -> str:
    """Return the sounds of a text, with stress, length and pauses.

    Arguments
    ---------
    text : str
        What to say. Numbers, money and abbreviations are said as ``spell_out`` has them.
    voice : str
        Whose pronunciation: an accent of espeak-ng, see ``speechcl.data.espeak.ACCENTS``.

    Returns
    -------
    str
        Symbols of ``SYMBOLS``.

    Raises
    ------
    ValueError
        If the text holds nothing to say.
    TypeError
        If it is no text.

    Example
    -------
    >>> phonemes("Well, it is 1984!")
    'wˈɛl, ɪɾ ɪz nˈaɪntiːn ˈeɪɾi fˈɔːɹ!'
    """
    if not isinstance(text, str):
        raise TypeError(f"text is {text!r}: give what is to be said as a str")
    # espeak-ng drops punctuation, so it is given what lies between, and the marks are put back
    parts = _BREAK.split(spell_out(_DASH.sub("—", _composed(text))))
    said = []
    pauses = ["—" if mark is None else mark[0] for mark in parts[1::2]]  # None is a spaced dash
    for sounds, pause in zip(ipa(parts[::2], voice), [*pauses, ""], strict=True):
        sounds = _OTHER_LANGUAGE.sub("", sounds).replace(":", "ː")  # as Scottish voices write it
        kept = "".join(symbol for symbol in sounds if symbol in _NUMBERS and symbol != BLANK)
        if kept.strip():
            said.append(kept.strip() + pause)
    if not any(set(clause) & set(_LETTERS) for clause in said):
        raise ValueError(f"text {text!r} has nothing to say: give at least one letter or digit")
    return " ".join(said)


def _composed(text: str) -> str:
    """Put letters and their accents together, and leave out what no file could hold."""
    return unicodedata.normalize("NFC", text.encode("utf-8", "ignore").decode())


def numbers(symbols: str) -> list[int]:
    """Return the numbers of the symbols, with a blank before, between and after them.

    Raises
    ------
    ValueError
        If a symbol is unknown.

    Source
    ------
    Blanks between phonemes: VITS, arXiv 2106.06103, appendix B.1.

    Example
    -------
    >>> [SYMBOLS[number] for number in numbers("hˈaɪ")]
    ['_', 'h', '_', 'ˈ', '_', 'a', '_', 'ɪ', '_']
    """
    unknown = sorted(set(symbols) - set(_NUMBERS) | set(symbols) & {BLANK})
    if unknown:
        raise ValueError(
            f"{' '.join(unknown)} in {symbols!r} are no sounds of IPA: write text, or symbols of "
            "speechcl.data.phonemes.SYMBOLS"
        )
    blank = _NUMBERS[BLANK]
    return [blank] + [n for symbol in symbols for n in (_NUMBERS[symbol], blank)]


def without_blanks(found: Sequence[int]) -> str:
    """Return the symbols of numbers, for plots and messages.

    Example
    -------
    >>> without_blanks(numbers("hˈaɪ"))
    'hˈaɪ'
    """
    return "".join(SYMBOLS[number] for number in found if SYMBOLS[number] != BLANK)
