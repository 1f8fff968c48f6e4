"""Provenance survives in every format, and nothing in a hostile file does harm."""

import json
import struct

import numpy as np
import pytest
import soundfile
import torch

from speechcl.data.audio import read_audio
from speechcl.data.sound_files import AudioError
from speechcl.safety.provenance import (
    MAX_BYTES,
    describe,
    read_provenance,
    write_provenance,
    write_speech,
)

FIELDS = {"generator": "speechcl", "voice": "Zoë 三", "quote": '"\\'}
SPEECH = 0.3 * torch.sin(torch.arange(48000) / 20)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".opus", ".mp3", ".WAV"])
def test_sound_and_provenance_are_written_at_once(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    write_speech(path, SPEECH, 24000, FIELDS)
    assert read_provenance(path) == FIELDS
    back = read_audio(path, 24000)
    assert len(back) == len(SPEECH)
    assert np.corrcoef(back, SPEECH)[0, 1] > 0.99
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".wav", ".opus", ".mp3"])
def test_as_much_as_is_allowed_fits_every_format(tmp_path, suffix):
    room = MAX_BYTES - len('{"generator":"speechcl","note":""}')
    fields = {"generator": "speechcl", "note": "x" * room}
    write_speech(tmp_path / f"a{suffix}", SPEECH, 24000, fields)
    assert read_provenance(tmp_path / f"a{suffix}") == fields
    with pytest.raises(ValueError, match="1501 bytes, over 1500"):
        write_speech(tmp_path / "b.wav", SPEECH, 24000, fields | {"note": "x" * (room + 1)})


def test_the_text_is_hashed_not_kept():
    made = describe("My secret", voice="reference", fingerprint="f00d")
    assert "secret" not in json.dumps(made)
    assert made["text_sha256"] == describe("My secret", "alice", "")["text_sha256"]
    assert made["text_sha256"] != describe("My secrets", "alice", "")["text_sha256"]
    assert made["date"].endswith("+00:00")


@pytest.mark.parametrize(
    ("kind", "subtype", "kept_as"),
    [
        ("WAV", "PCM_U8", "int32"),
        ("WAV", "PCM_16", "int32"),
        ("WAV", "PCM_24", "int32"),
        ("WAV", "FLOAT", "float64"),
        ("WAV", "DOUBLE", "float64"),
        ("FLAC", "PCM_24", "int32"),
    ],
)
def test_provenance_is_added_without_touching_samples(tmp_path, kind, subtype, kept_as):
    path = tmp_path / "a.sound"
    stereo = np.random.default_rng(0).uniform(-1, 1, (40_000, 2))
    soundfile.write(path, stereo, 22050, subtype, format=kind)
    before = soundfile.read(path, dtype=kept_as)[0]
    for fields in (FIELDS, FIELDS | {"voice": "bob"}):  # twice: replaced, not added
        write_provenance(path, fields)
        assert read_provenance(path) == fields
    assert np.array_equal(soundfile.read(path, dtype=kept_as)[0], before)
    with soundfile.SoundFile(path) as sound:
        assert (sound.format, sound.subtype, sound.samplerate) == (kind, subtype, 22050)


def test_lossy_files_are_not_coded_again(tmp_path):
    path = tmp_path / "a.opus"
    write_speech(path, SPEECH, 24000, {"generator": "other"})
    before = path.read_bytes()
    with pytest.raises(AudioError, match="cannot be copied exactly"):
        write_provenance(path, FIELDS)
    assert path.read_bytes() == before
    companded = tmp_path / "a.wav"
    soundfile.write(companded, SPEECH, 8000, "ULAW")
    with pytest.raises(AudioError, match="WAV with ULAW samples cannot be copied"):
        write_provenance(companded, FIELDS)


@pytest.mark.parametrize(
    "comment",
    [
        "",
        "made with love",
        "[1, 2]",
        '"speechcl"',
        "null",
        '{"voice": "alice"}',
        '{"generator": 1}',
        '{"generator": "speechcl", "deep": {"er": "x"}}',
        '{"generator": "\\u001b[2J"}',
        '{"generator": "a\\nb"}',
        '{"generator": "speechcl"',
        "[" * MAX_BYTES,
        '{"generator": "speechcl", "long": "' + "x" * MAX_BYTES + '"}',
        "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
    ],
)
def test_other_comments_are_no_provenance(tmp_path, comment):
    path = tmp_path / "a.flac"
    with soundfile.SoundFile(path, "w", 16000, 1) as sound:
        if comment:
            sound.comment = comment
        sound.write(np.zeros(100))
    assert read_provenance(path) == {}


def test_a_comment_of_broken_bytes_is_no_provenance(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros(100), 16000)
    text = b"ICMT" + struct.pack("<I", 8) + b'\xff\xfe{"\x80\x00\x00\x00'
    chunk = b"LIST" + struct.pack("<I", 4 + len(text)) + b"INFO" + text
    data = bytearray(path.read_bytes() + chunk)
    data[4:8] = struct.pack("<I", len(data) - 8)
    path.write_bytes(data)
    with soundfile.SoundFile(path) as sound:
        assert sound.comment  # or nothing is tested
    assert read_provenance(path) == {}


@pytest.mark.parametrize("content", [b"", b"RIFF", b"no sound at all" * 10])
def test_what_is_no_sound_is_refused(tmp_path, content):
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    for work in (read_provenance, lambda bad: write_provenance(bad, FIELDS)):
        with pytest.raises(AudioError, match=r"a\.wav"):
            work(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("name", "waveform", "rate_hz", "message"),
    [
        ("a.xyz", SPEECH, 24000, "end the name in one of .wav"),
        ("a.opus", SPEECH, 22050, "its format knows"),
        ("a.mp3", SPEECH, 23000, "its format knows"),
        ("", SPEECH, 24000, "end the name in"),
        ("a.wav", torch.zeros(0), 24000, "not empty"),
        ("a.wav", torch.zeros(2, 9), 24000, "must be"),
        ("a.wav", torch.full((9,), torch.nan), 24000, "finite"),
        ("a.wav", torch.full((9,), 2.0), 24000, "full scale"),
    ],
)
def test_nothing_is_written_of_bad_sound(tmp_path, name, waveform, rate_hz, message):
    with pytest.raises(AudioError, match=message):
        write_speech(tmp_path / name, waveform, rate_hz, FIELDS)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fields", [{}, {"voice": "alice"}, {"generator": "a\nb"}])
def test_bad_fields_are_refused(tmp_path, fields):
    with pytest.raises(ValueError, match="is no provenance"):
        write_speech(tmp_path / "a.wav", SPEECH, 24000, fields)
    assert not list(tmp_path.iterdir())


def test_where_nothing_can_be_written_is_said(tmp_path, monkeypatch):
    (tmp_path / "b.wav").mkdir()
    with pytest.raises(AudioError, match=r"b\.wav': is a folder"):
        write_speech(tmp_path / "b.wav", SPEECH, 24000, FIELDS)

    def refuse(sound, block):
        raise soundfile.LibsndfileError(2)

    monkeypatch.setattr(soundfile.SoundFile, "write", refuse)
    with pytest.raises(AudioError, match=r"a\.wav': cannot be written \(System error\): choose"):
        write_speech(tmp_path / "a.wav", SPEECH, 24000, FIELDS)
    assert [file.name for file in tmp_path.iterdir()] == ["b.wav"]
