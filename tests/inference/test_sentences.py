"""Long texts in pieces."""

import pytest

from speechcl.inference.sentences import split_sentences


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ('"Stop!" He stopped. "Why?" "No."', ['"Stop!', "He stopped.", '"Why?', '"No."']),
        ("Mr. Fox met Dr. Owl. J. S. Bach played.", ["Mr. Fox met Dr. Owl.", "J. S. Bach played."]),
        ("It costs 3.50 now. www.a.org is up.", ["It costs 3.50 now. www.a.org is up."]),
        ("a title\n\nand a text\nof two lines", ["a title", "and a text of two lines"]),
        ("  \n ", []),
        ("", []),
        ("so it goes... and on", ["so it goes... and on"]),
        ("U.S. Army. Then", ["U.S. Army.", "Then"]),
    ],
)
def test_sentences(text, pieces):
    assert split_sentences(text) == pieces


def test_long_ones_are_cut_where_they_pause_and_nothing_is_lost():
    text = "we came, we saw; " * 30 + "and " * 100 + "left"
    pieces = split_sentences(text, longest=60)
    assert max(map(len, pieces)) <= 60
    assert " ".join(pieces).split() == text.split()
    assert pieces[0].endswith(";")
    assert split_sentences("x" * 500, longest=60) == ["x" * 500]
