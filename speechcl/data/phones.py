"""Words as the sounds they are spoken with, in the symbols of the phonetic alphabet (IPA)."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence

from speechcl.data.espeak import fresh_engine

_UTF8 = 1
_IPA = 0x02
_NOT_SOUNDS = "ˈˌː‿-"  # stress, length and joins, which say nothing that tells words apart


@functools.lru_cache(maxsize=100_000)
def phones(text: str, voice: str = "en-us") -> str:
    """Return what espeak-ng would speak, in IPA without marks of stress and length.

    Any word has its sounds, also one that no model was trained on; a space parts two words.

    Arguments
    ---------
    text : str
        One or more words.
    voice : str
        Whose pronunciation, as in ``speak``.

    Returns
    -------
    str
        One character a sound, two for affricates and diphthongs.

    Raises
    ------
    ValueError
        If the text holds nothing to say.

    Example
    -------
    >>> phones("seven"), phones("Smart mirror"), phones("7")
    ('sɛvən', 'smɑɹt mɪɹɚ', 'sɛvən')
    """
    (sounds,) = ipa([text], voice)
    spoken = " ".join("".join(sound for sound in sounds if sound not in _NOT_SOUNDS).split())
    if not spoken:
        raise ValueError(f"text {text!r} has nothing to say: give at least one letter or digit")
    return spoken


def ipa(texts: Sequence[str], voice: str) -> list[str]:
    """Return what espeak-ng would speak for each text, in IPA with all its marks.

    Arguments
    ---------
    texts : Sequence
        Words, or nothing that can be said, for which the sounds are empty.
    voice : str
        Whose pronunciation, as in ``speak``.

    Returns
    -------
    list of str

    Example
    -------
    >>> ipa(["Well", "...", "7"], "en-us")
    ['wˈɛl', '', 'sˈɛvən']
    """
    found = []
    with fresh_engine() as engine:
        engine.set_voice(voice)
        translate = engine.library.espeak_TextToPhonemes
        translate.restype = ctypes.c_char_p
        for text in texts:
            buffer = ctypes.create_string_buffer(text.encode())
            rest = ctypes.c_void_p(ctypes.addressof(buffer))
            clauses = []
            while rest.value:  # espeak-ng takes a clause a call and moves on
                clauses.append(translate(ctypes.byref(rest), _UTF8, _IPA).decode())
            found.append(" ".join(" ".join(clauses).split()))
    return found
