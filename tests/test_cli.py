"""The command: what it prints, what it exits with, and that errors are one line."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from speechcl import doctor
from speechcl.backbones.usat import USAT
from speechcl.cli import app
from speechcl.data.audio import write_audio
from speechcl.data.espeak import speak
from speechcl.data.manifest import read_manifest

COMMANDS = ("spoof", "report", "doctor", "say", "enroll", "detect")


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def clip(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(8000), 16000)


def assert_one_line(result, message):
    assert result.exit_code == 1
    assert re.fullmatch(f"speechcl: .*{message}.*\n", result.stderr)
    assert result.stdout == ""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Files without a folder go where nothing is lost."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def made(monkeypatch):
    """Stand in for the slow making of spoofed clips; collects how it was called."""
    calls = []

    def build_attack_corpus(genuine_rows, attacks, folder, **options):
        calls.append(([row["ID"] for row in genuine_rows], attacks, folder, options))

    stand_in = SimpleNamespace(build_attack_corpus=build_attack_corpus)
    monkeypatch.setitem(sys.modules, "speechcl.data.corpus", stand_in)
    return calls


def test_version():
    result = run("--version")
    assert result.exit_code == 0
    assert re.fullmatch(r"speechcl \d+\.\d+.*\n", result.stdout)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"Example: speechcl {command}" in result.stdout


def test_help_comes_without_heavy_imports():
    program = """
import sys
from speechcl.cli import app
app(["--help"], standalone_mode=False)
sys.exit(str(sys.modules.keys() & {"torch", "numpy", "speechbrain", "librosa"}))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stderr == "set()\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-command"],
        ["report"],
        ["doctor", "--no-such-option"],
        ["spoof"],
        ["spoof", "in", "--out", "out"],
        ["spoof", "in", "--attack", "griffin_lim"],
        ["spoof", "--attack", "griffin_lim", "--out", "out"],
        ["spoof", "in", "--attack", "no_such_attack", "--out", "out"],
        ["spoof", "in", "--attack", "griffin_lim", "--out", "in/out"],
        ["spoof", "in", "--attack", "griffin_lim", "--out", "out", "--workers", "0"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_2(tmp_path, monkeypatch, made, arguments):
    monkeypatch.chdir(tmp_path)
    clip(tmp_path / "in" / "ann" / "a.wav")
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Usage: " in result.stderr
    assert not made
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_spoof_passes_on_what_was_asked_for(tmp_path, made):
    clip(tmp_path / "in" / "ann" / "a.wav")
    clip(tmp_path / "more" / "bob" / "b.wav")
    sources = (tmp_path / "in", tmp_path / "more")
    attacks = ["--attack", "world, griffin_lim,world", "--seed", 3, "--workers", 1]
    result = run("spoof", *sources, *attacks, "--out", tmp_path / "out")
    assert result.exit_code == 0
    assert result.stdout == f"2 genuine clips, 2 attacks: {tmp_path / 'out'}\n"
    options = {"seed": 3, "workers": 1, "max_duration_s": 4.0}
    assert made == [
        (["in-ann-a", "more-bob-b"], ["world", "griffin_lim"], tmp_path / "out", options)
    ]


def test_spoof_makes_clips_and_a_manifest(tmp_path):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 8000)
    (tmp_path / "in" / "ann").mkdir(parents=True)
    soundfile.write(tmp_path / "in" / "ann" / "a.wav", noise, 16000)
    out = tmp_path / "out"
    result = run("spoof", tmp_path / "in", "--attack", "mulaw", "--workers", 1, "--out", out)
    assert result.exit_code == 0, result.stderr
    rows = read_manifest(out / "manifest.csv")
    assert [(row["attack"], row["label"]) for row in rows] == [
        ("-", "bonafide"),
        ("mulaw", "spoof"),
    ]


def test_spoof_stops_at_broken_clips_or_skips_them(tmp_path, made):
    clip(tmp_path / "in" / "ann" / "a.wav")
    (tmp_path / "in" / "ann" / "b.wav").write_text("no sound")
    arguments = ("spoof", tmp_path / "in", "--attack", "world", "--out", tmp_path / "out")
    assert_one_line(run(*arguments), "b.wav': cannot be decoded")
    assert not made
    assert run(*arguments, "--skip-broken").exit_code == 0
    assert made[0][0] == ["in-ann-a"]


def test_spoof_lists_the_attacks():
    result = run("spoof", "--list")
    assert result.exit_code == 0
    assert re.search(r"griffin_lim +vocoder +\w+", result.stdout)


def test_report_of_a_missing_run_writes_nothing(tmp_path):
    page = tmp_path / "report.html"
    assert_one_line(run("report", tmp_path / "run", "-o", page), "results.json: no such file")
    assert list(tmp_path.iterdir()) == []


def test_report_prints_the_table_and_writes_the_page(tmp_path, monkeypatch):
    written = []
    stand_in = SimpleNamespace(
        render_report=lambda runs, output: written.append((runs, output)),
        summary_table=lambda runs: "method  average\nrwm     4.0",
    )
    monkeypatch.setitem(sys.modules, "speechcl.reports", stand_in)
    result = run("report", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "r.html")
    assert result.stdout == f"method  average\nrwm     4.0\n\n{tmp_path / 'r.html'}\n"
    assert written == [([tmp_path / "a", tmp_path / "b"], tmp_path / "r.html")]


def test_debug_lets_the_error_through(tmp_path):
    result = run("report", tmp_path / "run", "--debug")
    assert isinstance(result.exception, ValueError)
    assert result.exit_code == 1


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("two\n  lines"), "speechcl: two lines\n"),
        (FileNotFoundError(2, "No such file", "a.wav"), "speechcl: a.wav: No such file\n"),
        (OSError(28, "No space left on device"), "speechcl: No space left on device\n"),
        (ImportError("needs x: pip install x"), "speechcl: needs x: pip install x\n"),
        (ValueError(), "speechcl: ValueError\n"),
    ],
)
def test_expected_errors_are_one_line(monkeypatch, error, message):
    monkeypatch.setattr(doctor, "examine", lambda: (_ for _ in ()).throw(error))
    result = run("doctor")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", message)


def test_our_own_mistakes_keep_their_traceback(monkeypatch):
    monkeypatch.setattr(doctor, "examine", lambda: {}["mistake"])
    result = run("doctor")
    assert isinstance(result.exception, KeyError)
    assert "speechcl:" not in result.stderr


def test_ctrl_c_exits_with_130_and_one_line():
    program = """
import time
from speechcl import cli, doctor
def wait():
    print("ready", flush=True)
    time.sleep(20)
doctor.examine = wait
cli.main()
"""
    command = [sys.executable, "-c", program, "doctor"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=10)
    assert (process.returncode, error) == (130, "speechcl: interrupted\n")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model") / "tiny"
    USAT("usat_tiny").save(folder)
    return folder


def spoken_clips(folder):
    for k, text in enumerate(("Where do we go from here?", "I have not seen it before.")):
        waveform, rate_hz = speak(text, "en-us+f2")
        write_audio(folder / f"{k}.wav", waveform, rate_hz)
        (folder / f"{k}.txt").write_text(text)
    return folder


def test_say_speaks_as_a_clip_or_as_an_enrolled_voice(base, tmp_path):
    clips = spoken_clips(tmp_path / "ann")
    waveform, rate_hz = soundfile.read(clips / "1.wav")
    noise = np.random.default_rng(0).standard_normal(len(waveform))
    write_audio(clips / "1.wav", (waveform + 0.1 * noise).clip(-1, 1), rate_hz)
    said = run("say", "Hello. Bye.", "--reference", clips / "1.wav", "--model", base, "-o", "a.wav")
    assert said.exit_code == 0, said.stderr
    assert "1.wav is noisy" in said.stderr
    given = ("--recordings", clips, "--name", "ann", "--consent", "by letter", "--epochs", 1)
    enrolled = run("enroll", *given, "--out", tmp_path / "voices", "--model", base)
    assert enrolled.exit_code == 0, enrolled.stderr
    assert "ann-1: is noisy" in enrolled.stderr
    assert re.match(r".*ann.safetensors: 0.\d\d MB, from 2 clips, \d s; ", enrolled.stdout)
    voice = tmp_path / "voices" / "ann.safetensors"
    other = run("say", "Hello. Bye.", "--voice", voice, "--model", base, "-o", "b.flac")
    assert other.exit_code == 0, other.stderr
    first, second = (soundfile.read(name)[0] for name in ("a.wav", "b.flac"))
    assert "unknown" in run("detect", clips).stdout
    made = json.loads(run("detect", ".", clips, "--json").stdout)
    says = {Path(row["file"]).name: (row["made_by"], row["voice"]) for row in made}
    assert says["a.wav"] == ("speechcl", "reference")
    assert says["b.flac"] == ("speechcl", "ann")
    assert says["0.wav"] == says["1.wav"] == ("", "")
    assert len(first) != len(second) or not np.array_equal(first, second)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("Hi.", "--reference", "none.wav"), "none.wav"),
        (("...", "--voice", "none.safetensors"), "has nothing to say"),
        (("Hi.", "--voice", "none.safetensors"), "none.safetensors: no such"),
        (("Hi.", "--voice", "x", "-o", "a.mp4"), "a.mp4.*: end the name in one of .wav"),
        (("Hi.", "--voice", "x", "--model", "nowhere"), "nowhere: no config.json.*usat_small"),
    ],
)
def test_what_cannot_be_said_is_one_line(base, tmp_path, arguments, message):
    model = () if "--model" in arguments else ("--model", base)
    assert_one_line(run("say", *arguments, *model), message)
    assert list(tmp_path.iterdir()) == []


def test_the_recording_of_a_voice_is_not_overwritten(base, tmp_path):
    reference = spoken_clips(tmp_path) / "0.wav"
    before = reference.read_bytes()
    result = run("say", "Hi.", "--reference", reference, "-o", "0.wav", "--model", base)
    assert result.exit_code == 2
    assert "0.wav is the recording" in " ".join(result.stderr.split())
    assert reference.read_bytes() == before
    assert run("say", "Hi.", "--reference", reference, "--seed", 2**64).exit_code == 2


def test_doctor_prints_text_and_json():
    text, found = run("doctor"), run("doctor", "--json")
    assert text.exit_code == found.exit_code == 0
    assert re.search(r"torch +\d", text.stdout)
    assert json.loads(found.stdout)["devices"]["cpu_cores"] >= 1


def test_doctor_exits_with_1_on_a_problem(monkeypatch):
    found = {"versions": {}, "devices": {"cpu_cores": 1, "cuda": []}, "extras": {}}
    monkeypatch.setattr(doctor, "examine", lambda: found | {"problems": ["torch is missing"]})
    result = run("doctor")
    assert result.exit_code == 1
    assert "PROBLEM: torch is missing" in result.stdout
