from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from speechcl.data.espeak import ACCENTS, VOICES, speak

TEXT = "The quick brown fox visits the harbour."


def test_forty_distinct_voices_over_several_accents():
    assert len(set(VOICES)) == len(VOICES) == 40
    accents = [voice.partition("+")[0] for voice in VOICES]
    assert all(accents.count(accent) == 5 for accent in ACCENTS)
    spoken = [speak("Hello there.", voice)[0] for voice in VOICES]
    assert len({waveform.numpy().tobytes() for waveform in spoken}) == 40


def test_every_voice_speaks_without_clipping():
    for voice in VOICES:
        waveform, rate_hz = speak(TEXT, voice)
        assert rate_hz == 22050
        assert waveform.dtype == torch.float32
        assert 1.0 < len(waveform) / rate_hz < 5.0, voice
        assert 0.05 < waveform.abs().max() < 0.999, voice


@pytest.mark.parametrize("voice", ["en-us+f1", "en-029+m4", "en+Reed", "en-us+klatt2"])
def test_an_utterance_does_not_depend_on_those_before(voice):
    first = speak(TEXT, voice)[0]
    speak("Something else altogether, and longer.", "en-gb-scotland+anika", 250, 80)
    assert speak(TEXT, voice)[0].equal(first)


def test_threads_take_turns():
    alone = speak(TEXT)[0]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda _: speak(TEXT)[0], range(8)))
    assert all(waveform.equal(alone) for waveform in together)


def test_rate_pitch_and_seed_are_heard():
    plain = speak(TEXT)[0]
    assert len(speak(TEXT, rate_wpm=250)[0]) < 0.85 * len(plain)
    assert not speak(TEXT, pitch=80)[0].equal(plain)
    breathy = [speak(TEXT, "en+Reed", seed=seed)[0] for seed in (0, 1)]
    assert not breathy[0].equal(breathy[1])


@pytest.mark.parametrize("voice", ["xx+f1", "en-us+nobody", "", "../../etc/passwd", "en-us+../f1"])
def test_unknown_voice(voice):
    with pytest.raises(ValueError, match="no voice"):
        speak(TEXT, voice)


@pytest.mark.parametrize("text", ["", "   ", "...", "?!"])
def test_nothing_to_say(text):
    with pytest.raises(ValueError, match="nothing to say"):
        speak(text)


def test_numbers_out_of_range():
    with pytest.raises(ValueError, match="rate_wpm is 20"):
        speak(TEXT, rate_wpm=20)
    with pytest.raises(ValueError, match="pitch is 100"):
        speak(TEXT, pitch=100)
