"""English as it is said, and what espeak-ng makes of it."""

import pytest

from speechcl.data.spoken_text import spell_out


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("He paid $5.", "He paid 5 dollars."),
        ("$1, £1.00 and €2.50", "1 dollar, 1 pound and 2 euros 50"),
        ("$0.01 or £0.50", "1 cent or 50 pence"),
        ("$1,200 of $3 million", "1,200 dollars of 3 million dollars"),
        ("$2.25 billion", "2.25 billion dollars"),
        ("$1.5 million or $2.5", "1.5 million dollars or 2.5 dollars"),
        ("$5k, £1m and €2.5bn", "5 thousand dollars, 1 million pounds and 2.5 billion euros"),
        ("in 1984, 1905, 1900 and 2024", "in 19 84, 19 oh 5, 19 hundred and 20 24"),
        ("in 2005", "in 2005"),
        ("1,984 of 1984.5 at 12:1984", "1,984 of 1984.5 at 12:1984"),
        ("the 1990s and 1200s", "the nineteen nineties and 12 hundreds"),
        ("pages 5-6, but 555-1234-99", "pages 5 to 6, but 555-1234-99"),
        ("2024-11-05", "2024-11-05"),
        ("Ms. Ray, Prof. Li and Lt. Ng Jr.", "miz Ray, professor Li and lieutenant Ng junior."),
        ("St. James St. is long", "saint James street is long"),
        ("No. 5? No. Never.", "number 5? No. Never."),
        ("5 lbs. of it, 3.5km away", "5 pounds of it, 3.5 kilometres away"),
        ("It is 5 kg.", "It is 5 kilograms."),
        ("kg and Col and most", "kg and Col and most"),
        ("Mr. J. R. Ray, e.g. Dr. X, etc.", "mister J R Ray, for example doctor X, et cetera."),
        ("the U.S.A. and the U.K.", "the U.S.A. and the U.K."),
        ("He is on Main St. The end.", "He is on Main street. The end."),
        ("St. Mary's, 5 Elm St., or Oak Dr. 5", "saint Mary's, 5 Elm street, or Oak drive 5"),
        ("Ask Dr. Lee or the Dr. himself", "Ask doctor Lee or the doctor himself"),
        ("It was I. Then J. I. Ray and A. A. Li came.", "It was I. Then J I Ray and A A Li came."),
        ("Call 555-0199.", "Call 5 5 5, 0 1 9 9."),
        ("for $5-10 or £1,000–2,000", "for 5 to 10 dollars or 1,000 to 2,000 pounds"),
        ("MR. RAY, MRS. LI AND DR. NG", "mister RAY, missus LI AND doctor NG"),
        ("", ""),
    ],
)
def test_what_is_written_and_what_is_said(written, said):
    assert spell_out(written) == said


def test_twice_is_once():
    text = "Lt. Ng paid $5.50 in 1984 for 3 km of St. James St. on Jan. 5, or 10-12 of the 1990s."
    assert spell_out(spell_out(text)) == spell_out(text)
