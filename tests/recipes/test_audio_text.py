"""The recipe of the audio-text model: what a batch holds, and a run on a few words."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from speechcl.backbones.audio_text import AudioText, tokenise
from speechcl.data.spoken_words import speak_words

RECIPE = Path(__file__).parents[2] / "recipes" / "Embedded" / "audio_text"
WORDS = ["apple", "river", "stone", "garden", "seventy", "blue", "window", "chair", "lamp", "dog"]


def load(name, monkeypatch):
    monkeypatch.syspath_prepend(RECIPE)
    spec = importlib.util.spec_from_file_location(f"audio_text_{name}", RECIPE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def word_batches(monkeypatch):
    return load("word_batches", monkeypatch)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return speak_words(WORDS, 2, tmp_path_factory.mktemp("words"))


def test_a_batch_holds_distinct_words_and_pairs(word_batches, clips):
    batches = word_batches.WordBatches(clips, size=8, seed=0)
    features, names = batches.draw()
    assert features.shape[0] == names.shape[0] == 8
    assert features.shape[2] == 40
    assert features.isfinite().all()
    spoken = {tuple(row[row > 0].tolist()) for row in names}
    assert len(spoken) == 8
    space = int(tokenise(["a a"])[0, 1])
    assert int((names == space).sum()) == 2  # a fifth of the clips
    single = {tuple(row[row > 0].tolist()) for row in tokenise(WORDS)}
    parts = [part for one in spoken for part in split(one, space)]
    assert set(parts) <= single
    assert len(set(parts)) == len(parts) == 10


def split(tokens, space):
    if space not in tokens:
        return [tokens]
    place = tokens.index(space)
    return [tokens[:place], tokens[place + 1 :]]


def test_batches_depend_on_the_seed_alone(word_batches, clips):
    first = word_batches.WordBatches(clips, size=4, seed=5)
    torch.rand(3)
    again, other = (word_batches.WordBatches(clips, size=4, seed=seed) for seed in (5, 6))
    for _ in range(2):
        features, names = first.draw()
        same = again.draw()
        assert torch.equal(features, same[0])
        assert torch.equal(names, same[1])
    assert features.shape != other.draw()[0].shape or not torch.equal(features, other.draw()[0])


def test_padding_is_not_looked_at(word_batches, clips):
    features, _ = word_batches.WordBatches(clips, size=8, seed=0).draw()
    lengths = [int(one.any(1).nonzero().max()) + 1 for one in features]
    assert max(lengths) == features.shape[1]
    model = AudioText(width=16, audio_layers=1, text_layers=1, heads=2, embedding=8).eval()
    shortest = lengths.index(min(lengths))
    alone = model(features[shortest : shortest + 1, : lengths[shortest]])
    torch.testing.assert_close(model(features)[shortest], alone[0], rtol=0, atol=1e-5)


def test_without_a_stretch_the_filters_are_the_front_ends(word_batches):
    torch.testing.assert_close(word_batches.warped_bank(1.0), AudioText.front_end().bank)


def test_a_stretched_filter_looks_lower(word_batches):
    stretched, plain = (word_batches.warped_bank(s).argmax(0) for s in (1.1, 1.0))
    assert (stretched[5:] < plain[5:]).float().mean() > 0.9


def test_too_large_a_batch_is_refused(word_batches, clips):
    with pytest.raises(ValueError, match="batch_size is 9"):
        word_batches.WordBatches(clips, size=9, seed=0)


def test_a_run_trains_measures_and_saves(monkeypatch, tmp_path):
    train = load("train", monkeypatch)
    for name, words in (("words", WORDS), ("hold", ["table", "fish"])):
        (tmp_path / f"{name}.txt").write_text(" ".join(words))
    options = {
        "words": tmp_path / "words.txt",
        "hold": tmp_path / "hold.txt",
        "output_folder": tmp_path / "run",
        "corpus_folder": tmp_path / "corpus",
        "steps": 2,
        "batch_size": 4,
        "clips_per_word": 1,
        "workers": 1,
    }
    given = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    measured = train.main([str(RECIPE / "hparams" / "pretrain.yaml"), *given])
    assert 0 <= measured["hold_among_hold"] <= 100
    assert json.loads((tmp_path / "run" / "measured.json").read_text()) == measured
    features = torch.randn(1, 30, 40)
    assert AudioText.from_pretrained(tmp_path / "run")(features).shape == (1, 128)
