"""Training by the minute: the time is up, the weights are there, the same command goes on."""

import importlib.util
from pathlib import Path

import pytest
import torch

from speechcl.backbones.usat import USAT
from speechcl.data.audio import write_audio
from speechcl.experiment import run_recipe

RECIPE = Path(__file__).parents[2] / "recipes" / "OwnSpeech" / "tts"


@pytest.fixture(scope="module")
def main():
    spec = importlib.util.spec_from_file_location("train_for", RECIPE / "train_for.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture
def arguments(tmp_path):
    generator = torch.Generator().manual_seed(0)
    for number in range(6):
        file = tmp_path / "data" / "ann" / f"{number}.wav"
        write_audio(file, 0.1 * torch.randn(20_000, generator=generator).clamp(-3, 3), 16000)
        file.with_suffix(".txt").write_text("We went to see the sea.")
    settings = {"data_folder": tmp_path / "data", "output_folder": tmp_path / "run"}
    settings |= {"corpus_folder": tmp_path / "corpus", "preset": "usat_tiny", "batch_size": 4}
    settings |= {"epochs": 5000, "loaders": 0, "workers": 1, "examples_every": 0, "device": "cpu"}
    pairs = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    yaml = str(RECIPE / "hparams" / "train.yaml")
    return [yaml, "--noprogressbar", "--ckpt_interval_steps=1", *pairs]


def epochs_done(folder):
    lines = (folder / "run" / "train_log.txt").read_text().splitlines()
    return [int(line.split("epoch: ")[1].split()[0]) for line in lines]


@pytest.mark.slow
def test_time_is_up_and_the_same_command_goes_on(main, arguments, tmp_path, capfd):
    assert run_recipe(main, ["0.2", *arguments]) == 130
    assert "the same command goes on" in capfd.readouterr().err
    before = epochs_done(tmp_path)
    assert 0 < len(before) < 5000
    assert USAT.from_pretrained(tmp_path / "run" / "so_far").config.rate_hz == 16000
    assert not (tmp_path / "run" / "results.json").exists()
    assert run_recipe(main, ["0.2", *arguments]) == 130
    after = epochs_done(tmp_path)
    assert len(after) > len(before)
    assert after[len(before)] in (before[-1], before[-1] + 1)


@pytest.mark.parametrize("minutes", ["0", "-1", "nine", "nan"])
def test_minutes_that_are_none_are_refused(main, minutes, arguments, capfd):
    assert run_recipe(main, [minutes, *arguments]) == 1
    assert "for how many minutes" in capfd.readouterr().err
