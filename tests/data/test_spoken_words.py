"""Spoken words: the same again, short, levelled, of voices that train and test do not share."""

import pytest
import torch

from speechcl.backbones.audio_text import AudioText
from speechcl.data.espeak import speak
from speechcl.data.spoken_words import RATE_HZ, TEST_SPEAKERS, TRAIN_SPEAKERS, speak_words


def test_clips_are_kept_and_are_the_same_when_made_again(tmp_path):
    first = speak_words(["apple", "river"], 3, tmp_path / "a")
    (file,) = (tmp_path / "a").iterdir()
    made = file.stat().st_mtime_ns
    assert speak_words(["apple", "river"], 3, tmp_path / "a").samples.equal(first.samples)
    assert file.stat().st_mtime_ns == made
    again = speak_words(["apple", "river"], 3, tmp_path / "b")
    assert again.samples.equal(first.samples)
    assert again.ends.equal(first.ends)


def test_a_clip_depends_on_its_word_number_and_seed_alone(tmp_path):
    both = speak_words(["apple", "river"], 2, tmp_path)
    alone = speak_words(["river"], 3, tmp_path)
    assert [both[2 + n].equal(alone[n]) for n in range(2)] == [True, True]
    assert not speak_words(["river"], 3, tmp_path, seed=1)[0].equal(alone[0])
    assert not alone[0].equal(alone[1])


def test_clips_hold_a_word_and_little_silence(tmp_path):
    clips = speak_words(["umbrella"], 4, tmp_path)
    for clip in (clips[place] for place in range(4)):
        assert 0.2 < len(clip) / RATE_HZ < 1.5
        assert clip.abs().max() == pytest.approx(0.6, abs=1e-3)
        edge = int(0.02 * RATE_HZ)
        assert clip[:edge].abs().max() > 0.01
        assert clip[-edge:].abs().max() > 0.01


def test_voices_are_drawn_for_each_clip_and_silence_is_cut_off(tmp_path, monkeypatch):
    voices = []

    def speak_a_tone(text, voice, rate_wpm, pitch, seed):
        voices.append((voice, rate_wpm, pitch))
        silence = torch.zeros(8000)
        return torch.cat([silence, torch.sin(torch.arange(8000) * 0.3), silence]), RATE_HZ

    monkeypatch.setattr("speechcl.data.spoken_words.speak", speak_a_tone)
    clips = speak_words(["apple", "river"], 2, tmp_path)
    assert len(set(voices)) == 4
    assert [len(clips[place]) / RATE_HZ for place in range(4)] == pytest.approx(
        [1.02] * 4, abs=0.01
    )


def test_a_set_names_the_words_and_may_let_others_compete(tmp_path):
    clips = speak_words(["apple", "river"], 2, tmp_path)
    data = clips.features(AudioText.front_end())
    assert data.labels.tolist() == [0, 0, 1, 1]
    assert data.classes.names == ("apple", "river")
    shortest = min(range(4), key=lambda place: len(clips[place]))
    behind = data.features[shortest, len(clips[shortest]) // 80 + 3 :]
    assert torch.equal(behind.amax(1), behind.amin(1))
    wider = clips.features(AudioText.front_end(), ["stone", "river", "apple"])
    assert wider.labels.tolist() == [2, 2, 1, 1]


def test_test_speakers_are_not_trained_on_and_all_can_speak():
    assert not set(TEST_SPEAKERS) & set(TRAIN_SPEAKERS)
    for name in (*TEST_SPEAKERS, *TRAIN_SPEAKERS):
        assert speak("stone", f"en+{name}")[0].abs().max() > 0.02, name


def test_nothing_to_say_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one of both"):
        speak_words([], 3, tmp_path)
    with pytest.raises(ValueError, match="at least one of both"):
        speak_words(["apple"], 0, tmp_path)


def test_damaged_clips_are_named(tmp_path):
    speak_words(["apple"], 1, tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(ValueError, match="delete it"):
        speak_words(["apple"], 1, tmp_path)
