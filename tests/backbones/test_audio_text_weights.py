"""The weights that are part of the package: they know words that they never heard."""

import csv
from pathlib import Path

import pytest
import torch

from speechcl.backbones.audio_text import PUBLISHED, AudioText
from speechcl.brains.audio_text import zero_shot_accuracy
from speechcl.data.audio import read_audio
from speechcl.data.features import FeatureSet, to_length
from speechcl.data.labelled import Classes
from speechcl.data.phones import phones
from speechcl.data.spoken_words import TEST_SPEAKERS, speak_words

KEYWORDS = Path(__file__).parents[3] / "shared" / "data" / "keywords"
TASK_WORDS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "bed",
    "cat",
    "happy",
    "alexa",
    "computer",
    "jarvis",
    "snowboy",
    "smart",
    "mirror",
    "view",
    "glass",
]


@pytest.fixture(scope="module")
def model():
    return AudioText.from_pretrained()


def words_of(name):
    return (PUBLISHED / name).read_text(encoding="utf-8").split()


def test_the_files_are_small_and_described():
    assert sum(file.stat().st_size for file in PUBLISHED.iterdir()) < 6e6
    card = (PUBLISHED / "README.md").read_text(encoding="utf-8")
    assert "hold.txt" in card
    assert "espeak-ng" in card


@pytest.mark.slow
def test_words_of_tests_and_their_homophones_are_not_trained_on():
    words, hold = words_of("words.txt"), words_of("hold.txt")
    assert len(set(words)) == len(words) > 400
    assert len(set(hold)) == len(hold) == 40
    sounds = {phones(word) for word in words}
    assert len(sounds) == len(words)
    assert not sounds & {phones(word) for word in (*hold, *TASK_WORDS)}


def test_held_out_words_are_told_apart(model, tmp_path):
    clips = speak_words(words_of("hold.txt"), 2, tmp_path, speakers=TEST_SPEAKERS, seed=3)
    assert zero_shot_accuracy(model, clips.features(model.front_end())) > 65  # chance is 2.5


@pytest.mark.skipif(not KEYWORDS.is_dir(), reason="no recorded keywords beside the repository")
def test_recorded_keywords_are_told_apart(model):
    with (KEYWORDS / "metadata.csv").open(encoding="utf-8") as file:
        every = list(csv.DictReader(file))
    names = Classes(tuple(dict.fromkeys(row["text"] for row in every)))
    rows = [row for row in every if row["split"] == "test"]
    waveforms = [to_length(read_audio(KEYWORDS / r["path"], 8000), 16_000, pad=True) for r in rows]
    with torch.no_grad():
        features = torch.cat([model.front_end()(one[None]) for one in waveforms])
    assert zero_shot_accuracy(model, FeatureSet(features, rows, names)) > 60  # chance is 5.3
