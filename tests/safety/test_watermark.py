"""The mark is read back from what people do to sound files, and only where there is one."""

import hashlib
import io
import math

import numpy as np
import pytest
import soundfile
import soxr
import torch

from speechcl.attacks import codec
from speechcl.data.embedded import dry_speech
from speechcl.safety import watermark
from speechcl.safety.watermark import (
    FALSE_ALARM,
    add_watermark,
    cell_values,
    pattern,
    read_watermark,
)

RATE_HZ = 24000
TEXT = "The farmer brought seven letters to the old bridge, and nobody asked him why he came."
MESSAGE = 0b1011_0010_0110_1101


@pytest.fixture(scope="module")
def speech():
    return dry_speech(TEXT, "en-us+f1", 0, 1, RATE_HZ)[: 4 * RATE_HZ]


@pytest.fixture(scope="module")
def marked(speech):
    return add_watermark(speech, RATE_HZ, MESSAGE)


def through(samples, level, **settings):
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", RATE_HZ, 1, compression_level=level, **settings) as sound:
        for start in range(0, len(samples), 1 << 14):
            sound.write(samples[start : start + (1 << 14)].numpy())
    kbit_s = 8e-3 * file.tell() / (len(samples) / RATE_HZ)
    file.seek(0)
    return torch.from_numpy(soundfile.read(file, dtype="float32")[0]), kbit_s


def test_it_survives_mp3_and_opus_at_64_kbit_s(marked):
    mp3 = {"format": "MP3", "subtype": "MPEG_LAYER_III", "bitrate_mode": "CONSTANT"}
    for level, settings in (
        ((160 - 64) / (160 - 8), mp3),
        ((256 - 64) / (256 - 6), {"format": "OGG", "subtype": "OPUS"}),
    ):
        decoded, kbit_s = through(marked, level, **settings)
        assert kbit_s < 70
        assert read_watermark(decoded, RATE_HZ).message == MESSAGE


@pytest.mark.parametrize("rate_hz", [11025, 16000, 22050, 44100, 48000])
def test_it_survives_resampling_and_reads_at_any_rate(marked, rate_hz):
    there = soxr.resample(marked.numpy(), RATE_HZ, rate_hz)
    assert read_watermark(torch.from_numpy(there), rate_hz).message == MESSAGE


@pytest.mark.parametrize("rate_hz", [8000, 16000, 22050, 44100, 48000])
def test_it_is_added_at_any_rate(speech, rate_hz):
    native = torch.from_numpy(soxr.resample(speech.numpy(), RATE_HZ, rate_hz))
    added = add_watermark(native, rate_hz, MESSAGE)
    assert added.shape == native.shape
    assert read_watermark(added, rate_hz).message == MESSAGE


def test_it_survives_a_telephone_line(marked):
    narrow = torch.from_numpy(soxr.resample(marked.numpy(), RATE_HZ, 8000))
    assert read_watermark(codec(narrow, 8000, "alaw"), 8000).message == MESSAGE


@pytest.mark.parametrize("cut", [1, 333, 7777, 25_000])
def test_it_needs_neither_start_nor_level(marked, cut):
    assert read_watermark(0.05 * marked[cut:], RATE_HZ).message == MESSAGE


def test_it_survives_noise_at_30_db_and_8_bits(marked):
    size = marked.square().mean().sqrt() * 10 ** (-30 / 20)
    assert read_watermark(marked + size * torch.randn(len(marked)), RATE_HZ).message == MESSAGE
    coarse = (marked * 127).round() / 127
    assert read_watermark(coarse, RATE_HZ).message == MESSAGE


@pytest.mark.parametrize("message", [0, 1, 255, 256, 0x8000, 65535])
def test_every_bit_counts(speech, message):
    assert read_watermark(add_watermark(speech, RATE_HZ, message), RATE_HZ).message == message


def test_there_is_none_in_unmarked_sound(speech):
    silence, click = torch.zeros(RATE_HZ), torch.zeros(RATE_HZ)
    click[9000] = 1.0
    tone = 0.5 * torch.sin(2 * torch.pi * 440 * torch.arange(2 * RATE_HZ) / RATE_HZ)
    for sound in (speech, 0.1 * torch.randn(5 * RATE_HZ), silence, click, tone, torch.ones(9)):
        found = read_watermark(sound, RATE_HZ)
        assert (found.present, found.message) == (False, None)
        assert found.false_alarm > 1e-3


def test_false_alarm_is_hoeffdings_bound_over_what_was_tried(marked):
    part = marked[: int(2.5 * RATE_HZ)]  # shorter than a window, so there is one
    found = read_watermark(part, RATE_HZ)
    assert (found.start_s, found.end_s) == (0.0, 2.5)
    assert found.score > 14  # for 1.5 dB; one step instead of three would give 10
    tried = 120 * 2**16
    expected = math.log(tried) - found.score**2 / 2
    assert math.log(found.false_alarm) == pytest.approx(expected)
    assert found.present == (found.false_alarm <= FALSE_ALARM)


def test_few_random_patterns_reach_the_bound_of_one():
    """The share of random signs whose correlation exceeds z is at most exp(-z^2 / 2)."""
    values = cell_values(dry_speech(TEXT, "en-us+m1", 0, 2, 16000)).numpy()[::4].ravel()
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (1000, len(values)))
    scores = signs @ values / np.sqrt(np.square(values).sum())
    assert scores.std() == pytest.approx(1.0, abs=0.05)
    for z in (1.0, 2.0, 3.0):
        assert (scores > z).mean() <= math.exp(-(z**2) / 2)


def test_the_best_message_is_that_of_trying_all():
    draw = np.random.default_rng(0)
    folded = draw.standard_normal((120, 64))
    start = 37
    rows = (start + 4 * np.arange(30)) % 120
    folded[rows] += 0.25 * pattern(MESSAGE)
    score, message = watermark._best_message(folded, 0.0)

    def correlate(message, start):
        """One pattern at one start, as the definition says."""
        cells = folded[(start + 4 * np.arange(30)) % 120]
        return (cells * pattern(message)).sum() / np.sqrt(np.square(cells).sum())

    assert message == MESSAGE
    assert score == pytest.approx(correlate(MESSAGE, start))
    others = [correlate(other, k) for other in range(0, 65536, 4096) for k in range(120)]
    assert score > max(others)
    assert watermark._best_message(folded, score) is None


@pytest.mark.parametrize("seed", range(8))
def test_without_a_mark_the_best_is_exact_too(seed):
    """No shortcut may skip the best of all 65536 messages at all 120 starts."""
    folded = np.random.default_rng(seed).standard_normal((120, 64))
    # Symbols 0 and 128 are opposite, and so are the check symbols they make: one part is left.
    first = np.stack([pattern(a << 8) + pattern(a << 8 | 128) for a in range(256)]) / 2
    second = np.stack([pattern(b) + pattern(128 << 8 | b) for b in range(256)]) / 2
    check = np.stack([pattern(b) for b in range(256)]) - first[0] - second
    sums = np.arange(256)[:, None] ^ np.arange(256)
    best = 0.0
    for start in range(120):
        cells = folded[(start + 4 * np.arange(30)) % 120]
        parts = [np.einsum("stb,tb->s", part, cells) for part in (first, second, check)]
        scores = parts[0][:, None] + parts[1] + parts[2][sums]
        best = max(best, scores.max() / np.sqrt(np.square(cells).sum()))
    score, _ = watermark._best_message(folded, 0.0)
    assert score == pytest.approx(best)


def test_patterns_of_two_messages_share_a_third_at_most():
    draw = np.random.default_rng(0)
    for message, other in draw.integers(0, 65536, (200, 2)).tolist():
        near = message ^ (1 << (other % 16))
        for second in {other, near} - {message}:
            assert (pattern(message) * pattern(second)).mean() <= 1 / 3 + 1e-9
    assert abs(pattern(MESSAGE).mean()) < 0.1


def test_patterns_stay_those_of_files_that_were_marked_before():
    signs = b"".join(pattern(message).astype(np.int8).tobytes() for message in (0, MESSAGE))
    assert hashlib.sha256(signs).hexdigest()[:16] == "3c404306f57cc365"


def test_the_mark_lies_below_the_speech_in_every_band(speech, marked):
    change = marked - speech
    frequency_hz = np.fft.rfftfreq(len(speech), 1 / RATE_HZ)
    spoken, added = (np.abs(np.fft.rfft(one.numpy())) ** 2 for one in (speech, change))
    for low_hz in (350, 500, 700, 1000, 1400, 2000, 2800, 4000, 5600):
        band = (frequency_hz >= low_hz) & (frequency_hz < 1.41 * low_hz)
        below_db = 10 * np.log10(spoken[band].sum() / added[band].sum())
        assert 15 < below_db < 40
    outside = (frequency_hz < 250) | (frequency_hz > 6500)
    assert added[outside].sum() < 1e-3 * added.sum()


def test_levels_change_by_no_more_than_stated(speech, marked):
    before, after = (
        torch.stft(one, 768, 192, window=torch.hann_window(768), return_complex=True).abs()
        for one in (speech, marked)
    )
    loud = before > 0.05 * before.max()
    change_db = 20 * torch.log10(after[loud] / before[loud])
    # A bin of one frame moves by what overlapping frames add up to, so a little further.
    assert 0.2 < change_db.abs().mean() < 1.0
    assert change_db.abs().quantile(0.99) < 2.5


def test_marked_speech_is_found_inside_other_sound(speech, marked):
    inside = torch.cat([speech.flip(0), speech.flip(0), marked, speech.flip(0)])
    found = read_watermark(inside, RATE_HZ)
    assert found.message == MESSAGE
    begins_s, length_s = 2 * len(speech) / RATE_HZ, len(speech) / RATE_HZ
    assert begins_s - 1 <= found.start_s < found.end_s <= begins_s + length_s + 1


def test_long_speech_is_marked_in_blocks_without_steps(speech, monkeypatch):
    monkeypatch.setattr(watermark, "_ADD_PERIODS", 2)
    speech = torch.from_numpy(soxr.resample(speech.numpy(), RATE_HZ, 16000))
    marked = add_watermark(speech, 16000, MESSAGE)
    assert read_watermark(marked, 16000).message == MESSAGE
    change, size = marked - speech, 2 * 30 * 4 * 128
    assert len(change) > 2 * size
    for seam in (size, 2 * size):
        assert change[seam - 2 : seam + 2].abs().max() < 0.1 * change.square().mean().sqrt()
        assert change[seam - 2000 : seam].any()
        assert change[seam : seam + 2000].any()


def test_long_sound_is_read_in_blocks(speech, marked, monkeypatch):
    monkeypatch.setattr(watermark, "_READ_PERIODS", 6)
    for before in (1, 3):
        found = read_watermark(torch.cat([speech.flip(0)] * before + [marked]), RATE_HZ)
        assert found.message == MESSAGE
        assert found.start_s >= 4 * before - 1


def test_silence_and_what_is_too_short_stay(speech):
    for sound in (torch.zeros(RATE_HZ), speech[:300], torch.tensor([0.5])):
        assert add_watermark(sound, RATE_HZ).equal(sound)
    assert not cell_values(torch.zeros(16000)).any()


def test_the_input_stays_and_full_scale_is_kept(speech):
    loud = (2 * speech / speech.abs().max()).clamp(-1, 1)
    before = loud.clone()
    marked = add_watermark(loud, RATE_HZ, MESSAGE)
    assert loud.equal(before)
    assert marked.dtype == torch.float32
    assert marked.abs().max() <= 1
    assert marked.equal(add_watermark(loud, RATE_HZ, MESSAGE))


@pytest.mark.parametrize("work", [add_watermark, read_watermark])
def test_bad_waveforms_are_refused(work):
    for bad in (torch.zeros(0), torch.zeros(1, 100), torch.full((100,), torch.nan)):
        with pytest.raises(ValueError, match=r"must be \(time,\)"):
            work(bad, RATE_HZ)
    for rate_hz in (4000, 1_000_000):
        with pytest.raises(ValueError, match="rate_hz"):
            work(torch.zeros(100), rate_hz)


def test_messages_out_of_range_are_refused():
    for message in (-1, 65536):
        with pytest.raises(ValueError, match="0 to 65535"):
            add_watermark(torch.zeros(100), RATE_HZ, message)
