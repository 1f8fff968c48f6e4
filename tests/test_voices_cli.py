"""``speechcl voices``: tables, JSON, exit codes."""

import json
import re
import sys

import pytest
import torch
from typer.testing import CliRunner

from speechcl.backbones.usat import USAT
from speechcl.backbones.usat.voice_files import save_voice
from speechcl.backbones.usat.voices import add_voice, remove_voice, voice_parameters
from speechcl.cli import app
from speechcl.data.audio import write_audio
from speechcl.data.espeak import speak


def run(*arguments):
    return CliRunner().invoke(app, ["voices", *map(str, arguments)])


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    model = USAT("usat_tiny")
    model.save(tmp_path / "base")
    (tmp_path / "voices").mkdir()
    for name in ("ann", "bob"):
        add_voice(model, name, torch.randn(32))
        record = {"consent": f"{name}, by letter", "date": "2026-05-03"}
        save_voice(model, name, tmp_path / "voices" / f"{name}.safetensors", record=record)
        remove_voice(model, name)
    return tmp_path / "voices"


@pytest.mark.parametrize("command", ["list", "verify", "test", "remove", "protect"])
def test_help_has_an_example(command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"Example: speechcl voices {command}" in result.stdout


def test_list(folder):
    shown = run("list", folder)
    assert shown.exit_code == 0
    assert re.search(r"ann +ann, by letter +2026-05-03", shown.stdout)
    rows = json.loads(run("list", folder, "--json").stdout)
    assert [row["voice"] for row in rows] == ["ann", "bob"]


def test_verify_exits_with_1_where_a_voice_is_broken(folder):
    base = ("--model", folder.parent / "base")
    assert run("verify", folder, *base).exit_code == 0
    (folder / "bob.safetensors").write_bytes(b"")
    result = run("verify", folder, *base, "--json")
    assert result.exit_code == 1
    ann, bob = json.loads(result.stdout)
    assert ann["problem"] == ""
    assert "broken" in bob["problem"]


def test_test_compares_with_the_last_one(folder):
    given = ("test", folder, "--model", folder.parent / "base")
    first = run(*given)
    assert first.exit_code == 0, first.stderr
    assert "the next test compares with it" in first.stderr
    again = run(*given, "--json")
    assert again.exit_code == 0, again.stderr
    assert [row["duration"] for row in json.loads(again.stdout)] == [0.0, 0.0]
    model = USAT.from_pretrained(folder.parent / "base")
    add_voice(model, "bob", torch.ones(32))
    with torch.no_grad():
        for parameter in voice_parameters(model, "bob"):
            parameter.add_(0.3 * torch.randn_like(parameter))
    save_voice(model, "bob", folder / "bob.safetensors")
    changed = run(*given, "--most-db", "0.01", "--json")
    assert changed.exit_code == 1
    ann, bob = json.loads(changed.stdout)
    assert "mel_db" in bob["beyond"] or "duration" in bob["beyond"]
    run(*given, "--accept")
    assert run(*given).exit_code == 0


def test_test_says_that_speakers_are_not_compared(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "resemblyzer", None)
    (folder / "bob.safetensors").unlink()
    result = run("test", folder, "--model", folder.parent / "base")
    assert result.exit_code == 0
    assert "who speaks is not compared: comparing speakers needs" in result.stderr


def test_remove_proves_that_the_base_is_what_it_was(folder):
    base = folder.parent / "base"
    result = run("remove", folder, "ann", "--model", base)
    assert result.exit_code == 0, result.stderr
    assert "removed ann; 1 voices are left" in result.stdout
    assert re.search(r"byte for byte .* SHA-256 [0-9a-f]{64}", result.stdout)
    torch.manual_seed(1)
    USAT("usat_tiny").save(folder.parent / "other")
    result = run("remove", folder, "bob", "--model", folder.parent / "other")
    assert result.exit_code == 1
    assert "is not the base that it was enrolled on" in result.stderr
    assert list(folder.glob("*.safetensors")) == []
    result = run("remove", folder, "bob", "--model", base)
    assert re.fullmatch("speechcl: .* has no voice 'bob'; it has none\n", result.stderr)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_protected_voices_are_refused_by_say(folder, tmp_path):
    pytest.importorskip("resemblyzer", reason="the verifier is in the extra tts")
    for name, text in (("a", "Where do we go from here?"), ("b", "I have not seen it before.")):
        write_audio(tmp_path / f"{name}.wav", *speak(text, "en-us+m3"))
    listed = tmp_path / "protected.safetensors"
    result = run("protect", listed, "Ann", tmp_path / "a.wav")
    assert (result.exit_code, result.stdout) == (0, f"{listed}: Ann\n"), result.stderr
    said = tmp_path / "said.wav"
    given = ("say", "Hi.", "--reference", tmp_path / "b.wav", "-o", said, "--protected", listed)
    given += ("--model", folder.parent / "base")
    result = CliRunner().invoke(app, [*map(str, given)])
    assert result.exit_code == 1
    assert re.fullmatch("speechcl: .*b.wav: sounds like Ann, a protected .*\n", result.stderr)
    assert not said.exists()
