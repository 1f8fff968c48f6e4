"""The recipe for voices as a user runs it, on a few sentences of two speakers."""

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest
import soundfile
import torch

from speechcl import voice_recipes
from speechcl.backbones.usat import USAT
from speechcl.data.audio import write_audio
from speechcl.data.packed import pack_audio
from speechcl.data.phonemes import numbers, phonemes
from speechcl.data.voices import VoiceSet
from speechcl.results import read_results

RECIPE = Path(__file__).parents[2] / "recipes" / "Embedded" / "tts"


def run(folder):
    spec = importlib.util.spec_from_file_location("embedded_tts", RECIPE / "train.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    settings = {"output_folder": folder / "run", "corpus_folder": folder / "corpus"}
    settings |= {"speakers": 2, "sentences": 12, "workers": 1, "epochs": 1, "batch_size": 4}
    settings |= {"device": "cpu"}
    pairs = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    argv = [str(RECIPE / "hparams" / "train.yaml"), "--noprogressbar", *pairs]
    return module.main(argv)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tts")
    run(folder)
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


def test_a_kill_before_the_model_is_written_loses_nothing(folder, monkeypatch):
    place = folder / "run" / "model"
    expected = (place / "model.safetensors").read_bytes()
    shutil.rmtree(place)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(voice_recipes, "write_samples", killed)
        with pytest.raises(KeyboardInterrupt):
            run(folder)
    assert not place.exists(), "samples are to be written yet"
    run(folder)
    assert (place / "model.safetensors").read_bytes() == expected


def test_samples_are_in_the_accent_of_the_speaker(tmp_path):
    rows = []
    for name in ("a", "b"):
        write_audio(tmp_path / f"{name}.wav", torch.rand(16000), rate_hz=16000)
        rows.append({"ID": name, "wav": tmp_path / f"{name}.wav", "speaker": "x"})
        rows[-1] |= {"text": "water bath", "accent": "Received Pronunciation"}
    said = []

    class Speaks(USAT):
        def say(self, ids, speaker, **options):
            said.append(ids[0].tolist())
            return super().say(ids, speaker, **options)

    data = VoiceSet(pack_audio(rows, tmp_path / "packed"), rows)
    voice_recipes.write_samples(Speaks("usat_tiny"), data, tmp_path / "samples")
    assert said == [numbers(phonemes("water bath", "en-gb-x-rp"))]


def test_a_finished_run_is_not_run_again(folder):
    file = folder / "run" / "model" / "model.safetensors"
    before = file.stat().st_mtime_ns
    run(folder)
    assert file.stat().st_mtime_ns == before
    assert "embedded_tts" not in sys.modules
