"""The recipe for voices as a user runs it, on a few sentences of two speakers."""

import importlib.util
from pathlib import Path

import pytest
import soundfile
import torch

from speechcl.backbones.usat import USAT
from speechcl.backbones.usat.voices import list_voices, load_voice
from speechcl.results import read_results

RECIPES = Path(__file__).parents[2] / "recipes" / "Embedded"
FEW = {"speakers": 2, "sentences": 12, "workers": 1, "epochs": 1, "batch_size": 4, "device": "cpu"}


def run(recipe, yaml, folder, settings):
    """Run one method of a recipe on few sentences."""
    spec = importlib.util.spec_from_file_location("embedded_voices", RECIPES / recipe / "train.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    settings = {**FEW, "output_folder": folder, **settings}
    pairs = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    hparams = RECIPES / recipe / "hparams" / f"{yaml}.yaml"
    return module.main([str(hparams), "--noprogressbar", *pairs])


def train(folder):
    return run("tts", "train", folder / "run", {"corpus_folder": folder / "corpus"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tts")
    train(folder)
    return folder


def test_it_leaves_scores_a_model_and_samples(folder):
    results = read_results(folder / "run" / "results.json")
    assert (results["metric"], results["recipe"]) == ("mel_db", "Embedded/tts")
    assert 0 < results["matrix"][0][0] < 60
    assert "stand-in" in " ".join(results["notes"])
    samples = sorted(path.name for path in (folder / "run" / "samples").iterdir())
    assert len(samples) == 4
    for name in samples:
        waveform, rate_hz = soundfile.read(folder / "run" / "samples" / name)
        assert rate_hz == 16000
        assert abs(waveform).max() > 0


@torch.no_grad()
def test_the_model_speaks(folder):
    model = USAT.from_pretrained(folder / "run" / "model")
    speaker = model.speaker(0.1 * torch.randn(1, 32000))
    waveform, samples = model.say(torch.tensor([[0, 10, 0, 14, 0]]), speaker)
    assert waveform.shape[1] == int(samples) > 0


def test_a_finished_run_is_not_run_again(folder):
    file = folder / "run" / "model" / "model.safetensors"
    before = file.stat().st_mtime_ns
    train(folder)
    assert file.stat().st_mtime_ns == before


@pytest.mark.parametrize("method", ["usat", "fine_tune"])
def test_speakers_are_enrolled_one_after_another(method, folder, tmp_path):
    settings = {"base_folder": folder / "run" / "model", "corpus_folder": folder / "enrolment"}
    run("enrolment", method, tmp_path, {**settings, "known_speakers": 1})
    results = read_results(tmp_path / "results.json")
    assert len(results["stream"]) == 2
    assert "en-us+f1" not in results["stream"], "the base knows this one"
    voices = sorted(path.stem for path in tmp_path.glob("voices/*.safetensors"))
    if method == "fine_tune":
        assert voices == []
        return
    assert results["matrix"][1][0] == results["matrix"][0][0], "not forgotten by a bit"
    model = USAT.from_pretrained(folder / "run" / "model")
    for name in voices:
        load_voice(model, tmp_path / "voices" / f"{name}.safetensors")
    assert sorted(list_voices(model)) == sorted(results["stream"])


def test_a_missing_base_is_one_clear_line(tmp_path):
    with pytest.raises(ValueError, match=r"no config\.json and model\.safetensors in it"):
        run("enrolment", "usat", tmp_path / "run", {"base_folder": tmp_path})
