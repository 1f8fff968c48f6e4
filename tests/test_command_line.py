"""Tables and errors show what files say, and let none of it act on a terminal."""

import pytest
import typer

from speechcl.command_line import one_line_errors, show_table

HOSTILE = "Ann [see letter] [/b]\x1b[2J\nend"
SHOWN = r"Ann [see letter] [/b]\x1b[2J\nend"


def test_a_table_shows_text_as_it_is_and_escapes_what_acts_on_a_terminal(capsys):
    show_table([{"voice": "ann", "consent": HOSTILE}], as_json=False)
    shown = capsys.readouterr().out
    assert SHOWN in shown
    assert "\x1b" not in shown


def test_columns_without_anything_are_left_out_but_zero_is_something(capsys):
    show_table([{"voice": "ann", "duration": 0.0, "problem": "", "similarity": None}], False)
    assert capsys.readouterr().out.split() == ["voice", "duration", "ann", "0"]
    show_table([], False)
    assert capsys.readouterr().out == "nothing is there\n"


def test_an_error_is_one_line_that_acts_on_no_terminal(capsys):
    with pytest.raises(typer.Exit), one_line_errors(debug=False):
        raise ValueError(f"a.wav: {HOSTILE}")
    assert capsys.readouterr().err == "speechcl: a.wav: Ann [see letter] [/b]\\x1b[2J end\n"
