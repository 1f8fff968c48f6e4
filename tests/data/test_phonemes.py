"""Text to symbols to numbers and back."""

import pytest

from speechcl.data.phonemes import BLANK, SYMBOLS, numbers, phonemes, without_blanks


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello", "həlˈoʊ"),
        ("Well, well.", "wˈɛl, wˈɛl."),
        ('He said: "Go away." Then — silence…', "hiː sˈɛd: ɡˌoʊ ɐwˈeɪ. ðˈɛn— sˈaɪləns…"),
        ("Mr. Smith came; he saw!", "mˈɪstɚ smˈɪθ kˈeɪm; hiː sˈɔː!"),
        ("Go?!", "ɡˈoʊ?"),
        ("So - it is 3.14", "sˈoʊ— ɪɾ ɪz θɹˈiː pɔɪnt wˈʌn fˈɔːɹ"),
        ("the U.S.A. won", "ðə jˌuːˌɛsˈeɪ wˈʌn"),
        ("don't\nstop", "dˈoʊnt stˈɑːp"),
        ("He left—and", "hiː lˈɛft— ænd"),
        ("He left -- and", "hiː lˈɛft— ænd"),
        ("He left--and", "hiː lˈɛft— ænd"),
        ("wait...what?", "wˈeɪt. wˌʌt?"),
        ("hello…world", "həlˈoʊ… wˈɜːld"),
        ("cafe\u0301", "kæfˈeɪ"),
        ("\ud800hi", "hˈaɪ"),
    ],
)
def test_sounds_and_pauses(text, expected):
    assert phonemes(text) == expected


def test_an_accent_has_its_own_sounds():
    assert phonemes("water bath", "en-us") != phonemes("water bath", "en-gb-x-rp")


@pytest.mark.parametrize("text", ["", "  ", "?!", "...", "—", "\n"])
def test_nothing_to_say_is_one_clear_line(text):
    with pytest.raises(ValueError, match="has nothing to say: give at least one letter or digit"):
        phonemes(text)


def test_an_unknown_voice_is_named():
    with pytest.raises(ValueError, match="no voice 'xx'"):
        phonemes("hello", "xx")


def test_numbers_and_back():
    said = phonemes("Good morning, everybody: how do you do?")
    found = numbers(said)
    assert without_blanks(found) == said
    assert len(found) == 2 * len(said) + 1
    assert all(number == 0 for number in found[::2])
    assert 0 not in found[1::2]


def test_the_table_of_symbols_stays_as_it_is():
    assert SYMBOLS[0] == BLANK
    assert len(SYMBOLS) == len(set(SYMBOLS)) == 131
    places = {"a": 10, "z": 35, "ɪ": 72, "ˈ": 121}
    assert {symbol: SYMBOLS.index(symbol) for symbol in places} == places


@pytest.mark.parametrize("symbols", ["h_a", "4", "Ж"])
def test_other_symbols_are_refused(symbols):
    with pytest.raises(ValueError, match="are no sounds of IPA"):
        numbers(symbols)


@pytest.mark.parametrize("text", ["Schadenfreude, naïve café", "你好 hello", "Ω 5 µm", "🙂 hi"])
def test_whatever_is_said_has_numbers(text):
    assert numbers(phonemes(text))


def test_what_is_no_text_is_refused():
    with pytest.raises(TypeError, match="text is None: give what is to be said"):
        phonemes(None)


def test_long_sounds_of_scottish_voices_are_no_pauses():
    assert ":" not in phonemes("Half my father's calves were calm.", "en-gb-scotland")
    assert "ː" in phonemes("Half my father's calves were calm.", "en-gb-scotland")
