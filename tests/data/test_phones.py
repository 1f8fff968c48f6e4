"""Sounds of words: marks are dropped, words are parted, nothing to say is an error."""

import pytest

from speechcl.data.phones import phones


def test_homophones_sound_alike_and_neighbours_do_not():
    assert phones("sea") == phones("see")
    assert phones("four") == phones("for") == phones("4")
    assert phones("bed") != phones("bad") != phones("bet")


def test_words_are_parted_by_a_space_and_marks_are_gone():
    assert phones("view glass") == f"{phones('view')} {phones('glass')}"
    assert not set("ˈˌː.,") & set(phones("computer, alexa. Extraordinary!"))


def test_case_and_order_of_calls_do_not_matter():
    first = phones("Seven")
    phones("another word entirely")
    phones.cache_clear()
    assert phones("seven") == first


def test_nothing_to_say_is_refused():
    with pytest.raises(ValueError, match="nothing to say"):
        phones(" ... ")


def test_another_voice_has_sounds_of_its_own():
    assert phones("car", voice="en") != phones("car", voice="en-us")
