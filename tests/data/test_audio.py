"""Reading and writing sound: every format comes out alike, everything broken is refused."""

import os
import pickle
import struct

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechcl.data.audio import AudioError, audio_duration_s, find_audio, read_audio, write_audio

RATE_HZ = 16000


def tone(duration_s=0.5, rate_hz=RATE_HZ, frequency_hz=440.0, level=0.5):
    time_s = np.arange(round(duration_s * rate_hz)) / rate_hz
    return (level * np.sin(2 * np.pi * frequency_hz * time_s)).astype(np.float32)


def encoded(path, samples=None, rate_hz=RATE_HZ, **options):
    """Return the bytes of a sound file, whatever ``path`` is called."""
    soundfile.write(path, tone() if samples is None else samples, rate_hz, **options)
    return path.read_bytes()


def half(path, **options):
    whole = encoded(path, tone(2.0), **options)
    path.write_bytes(whole[: len(whole) // 2])


def patched(path, offset, layout, value):
    content = bytearray(encoded(path))
    struct.pack_into(layout, content, offset, value)
    path.write_bytes(content)


def endless_flac(path):
    """Claim no length, as FLAC does when it was written into a pipe."""
    content = bytearray(encoded(path, format="FLAC"))
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    path.write_bytes(content)


def with_sample(path, value):
    samples = tone()
    samples[100] = value
    encoded(path, samples, subtype="FLOAT")


BROKEN = {
    "missing": (lambda p: None, "no such file"),
    "folder": (lambda p: p.mkdir(), "is a folder"),
    "pipe": (lambda p: os.mkfifo(p), "device or pipe"),
    "empty": (lambda p: p.touch(), "the file is empty"),
    "text": (lambda p: p.write_text("not sound\n" * 99), "cannot be decoded"),
    "pickle": (lambda p: p.write_bytes(pickle.dumps(list(range(999)))), "cannot be decoded"),
    "zip": (lambda p: p.write_bytes(b"PK\3\4" + bytes(999)), "cannot be decoded"),
    "header alone": (lambda p: p.write_bytes(encoded(p)[:44]), "cut off"),
    "half a header": (lambda p: p.write_bytes(encoded(p)[:30]), "cannot be decoded"),
    "zero frames": (lambda p: encoded(p, tone(0.0)), "holds no samples"),
    "half a wav": (half, "cut off"),
    "half a flac": (lambda p: half(p, format="FLAC"), "cannot be decoded|cut off"),
    "half a vorbis": (lambda p: half(p, format="OGG"), "cut off|cannot be decoded"),
    "half an opus": (lambda p: half(p, format="OGG", subtype="OPUS"), "cannot be decoded|cut off"),
    "half an mp3": (lambda p: half(p, format="MP3"), "cut off"),
    "flac without length": (endless_flac, "no length|holds no samples"),
    "header claims more": (lambda p: patched(p, 40, "<I", 10**6), "less than its header claims"),
    "1 Hz": (lambda p: patched(p, 24, "<I", 1), "rate of 1 Hz"),
    "1 GHz": (lambda p: patched(p, 24, "<I", 10**9), "rate of 1000000000 Hz"),
    "65 channels": (lambda p: encoded(p, np.zeros((9, 65))), "65 channels"),
    "NaN": (lambda p: with_sample(p, np.nan), "NaN or infinite"),
    "infinity": (lambda p: with_sample(p, -np.inf), "NaN or infinite"),
    "unscaled": (lambda p: with_sample(p, 20000.0), "samples reach 20000"),
}


@pytest.mark.parametrize(("make", "message"), BROKEN.values(), ids=BROKEN)
def test_broken_file_is_refused_in_one_line(tmp_path, make, message):
    path = tmp_path / "odd\nname.wav"
    make(path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(AudioError, match=message) as caught:
        read_audio(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).count("odd\\nname.wav") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_three_hours_are_refused_undecoded_but_windows_are_read(tmp_path):
    path = tmp_path / "long.flac"
    block = np.zeros(60 * RATE_HZ, dtype=np.int16)
    with soundfile.SoundFile(path, "w", RATE_HZ, 1, "PCM_16") as sound:
        for _ in range(180):
            sound.write(block)
    with pytest.raises(AudioError, match="10800 s is more than the 3600 s"):
        read_audio(path)
    assert read_audio(path, start_s=10790.0, duration_s=60.0).shape == (10 * RATE_HZ,)
    assert audio_duration_s(path) == 10800.0


@pytest.mark.parametrize(
    ("path", "message"),
    [("a\0.wav", "NUL"), ("a.raw", "no header"), ("/dev/null", "device or pipe")],
)
def test_odd_path_is_refused(tmp_path, monkeypatch, path, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.raw").write_bytes(bytes(99))
    with pytest.raises(AudioError, match=message):
        read_audio(path)


def test_a_clip_under_one_sample_is_refused(tmp_path):
    path = tmp_path / "short.wav"
    encoded(path, tone(1 / 384_000, 384_000), 384_000)
    with pytest.raises(AudioError, match="too short"):
        read_audio(path, rate_hz=4000)


@pytest.mark.parametrize(
    "wanted",
    [
        {"start_s": 0.5},
        {"start_s": -1.0},
        {"start_s": float("nan")},
        {"duration_s": 0.0},
        {"duration_s": float("inf")},
        {"rate_hz": 0},
    ],
)
def test_impossible_parts_are_refused(tmp_path, wanted):
    path = tmp_path / "a.wav"
    encoded(path)
    with pytest.raises(AudioError, match="choose"):
        read_audio(path, **wanted)


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ({"subtype": "PCM_U8"}, 0.01),
        ({"subtype": "PCM_16"}, 1e-4),
        ({"subtype": "PCM_24"}, 1e-6),
        ({"subtype": "PCM_32"}, 1e-6),
        ({"subtype": "FLOAT"}, 0.0),
        ({"subtype": "DOUBLE"}, 0.0),
        ({"format": "FLAC"}, 1e-4),
        ({"format": "AIFF"}, 1e-4),
        ({"subtype": "ULAW"}, 0.02),
    ],
    ids=str,
)
def test_every_sample_format_reads_alike(tmp_path, options, tolerance):
    path = tmp_path / "any.wav"
    encoded(path, **options)
    waveform = read_audio(path)
    assert waveform.dtype == torch.float32
    torch.testing.assert_close(waveform, torch.from_numpy(tone()), rtol=0, atol=tolerance)


@pytest.mark.parametrize("rate_hz", [8000, 11025, 22050, 44100, 48000, 192000, 44099])
@pytest.mark.parametrize("channels", [1, 2, 8])
def test_every_rate_and_channel_count_gives_the_same_tone(tmp_path, rate_hz, channels):
    path = tmp_path / "any.wav"
    encoded(path, np.tile(tone(1.0, rate_hz)[:, None], channels), rate_hz, subtype="FLOAT")
    waveform = read_audio(path)
    assert abs(len(waveform) - RATE_HZ) <= 1
    middle = slice(1000, 15000)  # the filter rings at the ends
    torch.testing.assert_close(
        waveform[middle], torch.from_numpy(tone(1.0))[middle], rtol=0, atol=2e-3
    )


def test_channels_are_averaged_and_overs_clipped(tmp_path):
    path = tmp_path / "a.wav"
    samples = np.array([[1.0, 0.0], [2.0, 2.0], [-3.0, -3.0]])
    encoded(path, samples, subtype="FLOAT")
    assert read_audio(path).tolist() == [0.5, 1.0, -1.0]


def test_silence_can_be_read(tmp_path):
    path = tmp_path / "a.wav"
    encoded(path, np.zeros(100))
    assert torch.equal(read_audio(path), torch.zeros(100))


def test_length_of_a_wav_from_a_pipe_is_known(tmp_path):
    path = tmp_path / "a.wav"
    patched(path, 40, "<I", 0xFFFF_FFFF)
    assert read_audio(path).shape == (8000,)


@settings(max_examples=30)
@given(start=st.integers(0, 299_999), count=st.integers(1, 300_000))
def test_a_part_is_a_slice(tmp_path_factory, start, count):
    path = tmp_path_factory.getbasetemp() / "slices.flac"
    if not path.exists():
        noise = np.random.default_rng(0).uniform(-0.9, 0.9, 300_000)
        write_audio(path, torch.from_numpy(noise), RATE_HZ)
    part = read_audio(path, start_s=start / RATE_HZ, duration_s=count / RATE_HZ)
    assert torch.equal(part, read_audio(path)[start : start + count])


@pytest.mark.parametrize("name", ["a.wav", "a.FLAC", "new/folder/a.wav"])
def test_written_sound_reads_back(tmp_path, name):
    write_audio(tmp_path / name, torch.from_numpy(tone()), RATE_HZ)
    info = soundfile.info(tmp_path / name)
    assert (info.subtype, info.samplerate, info.channels) == ("PCM_16", RATE_HZ, 1)
    torch.testing.assert_close(
        read_audio(tmp_path / name), torch.from_numpy(tone()), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize(
    ("name", "waveform", "rate_hz", "message"),
    [
        ("a.mp3", torch.zeros(9), RATE_HZ, "WAV or FLAC"),
        ("a", torch.zeros(9), RATE_HZ, "WAV or FLAC"),
        ("a.wav", torch.zeros(0), RATE_HZ, "shape"),
        ("a.wav", torch.zeros(1, 9), RATE_HZ, "shape"),
        ("a.wav", torch.tensor([0.0, torch.nan]), RATE_HZ, "NaN"),
        ("a.wav", np.array([0.0, -np.inf]), RATE_HZ, "infinity"),
        ("a.wav", torch.tensor([0.0, -1.2]), RATE_HZ, "reaches 1.2"),
        ("a.wav", torch.zeros(9), 100, "rate_hz is 100"),
    ],
)
def test_bad_waveform_is_refused_and_the_old_file_kept(tmp_path, name, waveform, rate_hz, message):
    (tmp_path / name).write_text("old")
    with pytest.raises(AudioError, match=message) as caught:
        write_audio(tmp_path / name, waveform, rate_hz)
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "old"


def test_sound_is_found_at_any_depth_without_hidden_files(tmp_path):
    for name in ("b/z.opus", "b/a.mp3", "a.WAV", ".git/a.wav", "b/.a.wav", "c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in find_audio(tmp_path)]
    assert found == ["a.WAV", "b/a.mp3", "b/z.opus"]


@pytest.mark.parametrize("name", ["missing", "file.wav", "a\0b"])
def test_only_folders_are_searched(tmp_path, name):
    (tmp_path / "file.wav").touch()
    with pytest.raises(AudioError, match="not a folder"):
        find_audio(f"{tmp_path}/{name}")
