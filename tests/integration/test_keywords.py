"""The recipe on spoken words as a user runs it, on a small corpus of tones."""

import csv
import re
import sys
from pathlib import Path

import numpy
import pytest
import torch
import yaml

from speechcl.backbones.speech_encoder import looked_at
from speechcl.engine import Engine
from speechcl.experiment import Experiment
from speechcl.reports import render_report, summary_table
from speechcl.results import read_results
from speechcl.study import read_study, run_study
from tests.words import WORDS, build_speech_commands, build_table

RECIPE = Path(__file__).parents[2] / "recipes" / "Keywords" / "classification"
METHODS = {"fine_tune", "ewc", "lwf", "er", "derpp", "joint"}
QUICK = ["--classes", "[bed, cat, one, two]", "--epochs", "2", "--batch_size", "8"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return build_table(tmp_path_factory.mktemp("words"))


def study_of(folder, *methods):
    file = folder / "study.yaml"
    fields = {
        "title": "A test",
        "recipe": str(RECIPE / "train.py"),
        "output_folder": str(folder / "results"),
        "methods": list(methods),
        "seeds": [1],
    }
    file.write_text(yaml.safe_dump(fields))
    return read_study(file)


def run(data, folder, *options, methods=("fine_tune",), quick=QUICK):
    more = ["--noprogressbar", "--data_folder", str(data), *quick, *options]
    if "--corpus_folder" not in options:
        more += ["--corpus_folder", str(folder / "corpus")]
    return run_study(study_of(folder, *methods), more)


def test_the_study_and_the_readme_name_what_there_is():
    study = read_study(RECIPE / "study.yaml")
    there = {file.stem for file in (RECIPE / "hparams").glob("*.yaml")}
    assert METHODS <= set(study.methods) <= there
    assert len(study.seeds) == 3
    readme = (RECIPE / "README.md").read_text()
    text = "".join(file.read_text() for file in (RECIPE / "hparams").glob("*_ssl.yaml"))
    settings = set(re.findall(r"^(\w+):", text, re.MULTILINE))
    shown = set(re.findall(r"--(\w+)", readme))
    assert {"data_folder", "scenario", "loss_over"} <= shown <= settings


@pytest.fixture(scope="module")
def two_runs(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return run(data, folder, methods=("fine_tune", "er")), folder


def test_a_run_leaves_results_predictions_and_a_report(two_runs):
    folders, _ = two_runs
    for folder in folders:
        results = read_results(folder / "results.json")
        assert results["recipe"] == "Keywords/classification"
        assert results["stream"] == ["bed_cat", "one_two"]
        assert (results["metric"], results["higher_is_better"]) == ("accuracy", True)
        assert results["train_sizes"] == [{"bed": 8, "cat": 8}, {"one": 8, "two": 8}]
        assert results["test_sizes"] == [{"bed": 4, "cat": 4}, {"one": 4, "two": 4}]
        assert results["matrix"][0][1] == 0, "nothing of a later task is right before it"
        assert "Class-incremental" in results["notes"][0]
        assert results["examples"][0]["title"] == "bed (bed_cat)"
        with (folder / "predictions" / "task_01.csv").open() as stream:
            rows = list(csv.DictReader(stream))
        for task, value in zip(results["stream"], results["matrix"][1], strict=True):
            right = [r["label"] == r["predicted"] for r in rows if r["test_task"] == task]
            assert value == pytest.approx(100 * numpy.mean(right))
        names = ("hyperparams.yaml", "env.log", "train_log.txt", "events.jsonl", "report.html")
        assert all((folder / name).stat().st_size for name in names)
    assert len(list((folders[0].parents[2] / "corpus").glob("features-*"))) == 1


def test_the_report_speaks_of_accuracy(two_runs, tmp_path):
    folders, _ = two_runs
    html = render_report(folders, tmp_path / "report.html").read_text()
    text = " ".join(re.sub(r"<style>.*?</style>|<[^>]+>", " ", html, flags=re.DOTALL).split())
    for part in ("Higher is better", "Average accuracy after", "train 8 bed + 8 cat"):
        assert part in text
    for part in ("EER", "genuine", "spoof", "Trade-off"):
        assert part not in text
    assert summary_table(folders).splitlines()[0].split()[-2:] == ["bed_cat", "one_two"]


def test_an_interrupted_run_goes_on_with_the_same_numbers(two_runs, data, tmp_path, monkeypatch):
    folders, folder = two_runs
    inner, calls = Engine._record, []

    def interrupted(self, task, progress):
        inner(self, task, progress)
        calls.append(task.name)
        if len(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Engine, "_record", interrupted)
    options = ["--corpus_folder", str(folder / "corpus")]
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path, *options, methods=["er"])
    (found,) = run(data, tmp_path, *options, methods=["er"])
    assert calls == ["bed_cat", "one_two"]
    expected = read_results(folders[1] / "results.json")
    assert read_results(found / "results.json")["matrix"] == expected["matrix"]


def test_every_other_method_runs(two_runs, data, tmp_path):
    options = ["--classes", "[one, bed]", "--classes_per_task", "1", "--epochs", "1"]
    methods = sorted(METHODS - {"fine_tune", "er"})
    folders = run(data, tmp_path, *options, methods=methods, quick=["--batch_size", "8"])
    kept = [read_results(folder / "results.json")["memory_bytes"] for folder in folders]
    assert len(kept) == 4
    assert all(kept)


def test_domains_are_learnt_one_after_another(two_runs, data, tmp_path):
    options = ["--scenario", "domain", "--domains", "[bob, ann]"]
    options += ["--classes", "[one, bed]", "--epochs", "1", "--loss_over", "own"]
    quick = ["--batch_size", "8"]
    results = read_results(run(data, tmp_path, *options, quick=quick)[0] / "results.json")
    assert results["stream"] == ["bob", "ann"]
    assert results["train_sizes"] == [{"bed": 4, "one": 4}] * 2
    assert "Domain-incremental" in results["notes"][0]


def test_speech_commands_are_read_as_they_are_given_out(tmp_path):
    folder = build_speech_commands(tmp_path / "speech_commands")
    options = ["--classes", "[cat, bed]", "--classes_per_task", "1", "--clips_per_word", "1"]
    options += ["--epochs", "1", "--batch_size", "8"]
    found = run(folder, tmp_path, *options, methods=["joint"], quick=[])[0]
    results = read_results(found / "results.json")
    assert results["stream"] == ["cat", "bed"]
    assert results["train_sizes"] == [{"cat": 1}, {"bed": 1}]
    assert "valid loss" in (found / "train_log.txt").read_text()


def test_a_frozen_encoder_learns_from_waveforms(data, tmp_path):
    from tests.integration.test_recipes import tiny_encoder

    options = ["--ssl_source", tiny_encoder(tmp_path / "encoder"), "--clip_s", "0.2"]
    for folder in run(data, tmp_path, *options, methods=("fine_tune_ssl", "er_ssl")):
        results = read_results(folder / "results.json")
        assert len(results["matrix"]) == 2
    assert next((tmp_path / "corpus").glob("*/samples.i16")).stat().st_size > 0


def test_features_are_padded_and_standardised_by_the_first_task(data, tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(Experiment, "run", lambda self, stream, about: kept.append((self, stream)))
    run(data, tmp_path)
    experiment, stream = kept[0]
    features, model = stream[0].train.features, experiment.base["model"]
    assert features.shape == (16, 101, 40)
    assert (features[:, -1] == features[:, -1, :1]).all(), "silence follows a short clip"
    frames = features[looked_at(features)]
    assert 15 * 16 < len(frames) < 30 * 16
    torch.testing.assert_close(model.mean, frames.mean(0))


def test_the_encoder_hears_16_khz_and_the_pack_is_8(data, tmp_path, monkeypatch):
    from tests.integration.test_recipes import tiny_encoder

    kept = []
    monkeypatch.setattr(Experiment, "run", lambda self, stream, about: kept.append((self, stream)))
    run(data, tmp_path, "--ssl_source", tiny_encoder(tmp_path / "e"), methods=["fine_tune_ssl"])
    experiment, stream = kept[0]
    heard = []
    front_end = experiment.base["encoder"]
    front_end.register_forward_pre_hook(lambda module, inputs: heard.append(inputs[0]))
    logits, _ = experiment.base["model"](stream[0].train.__getitems__([0, 1])["features"])
    assert stream[0].train.pack.rate_hz == 8000
    assert heard[0].shape == (2, 16_000)
    assert heard[0][:, -8000:].abs().max() < 1e-3, "silence follows a short clip"
    assert logits.shape == (2, len(WORDS))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--scenario", "task"], "scenario is 'task': use 'class' or 'domain'"),
        (["--clip_s", "0"], "clip_s is 0: give seconds above 0"),
        (["--classes", "[bed, ten]"], "the word 'ten' has no train and no test clip"),
        (["--classes", "[bed, bed]"], "name at least one, and each once"),
        (["--classes", "[bed, true]"], "words hold True, which is no text"),
        (["--classes_per_task", "0"], "a task has 0 classes: give at least 1"),
        (["--scenario", "domain", "--domains", "[dan]"], "speaker 'dan' has no train clip"),
        (["--loss_over", "mine"], "loss_over is 'mine'"),
        (["--clips_per_word", "0"], "clips_per_word is 0"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(wrong, message, data, two_runs, tmp_path):
    quick = QUICK if wrong[0] != "--classes" else []
    options = ["--corpus_folder", str(two_runs[1] / "corpus"), *wrong]
    with pytest.raises(ValueError, match=message) as caught:
        run(data, tmp_path, *options, quick=quick)
    assert "\n" not in str(caught.value)


def test_the_command_says_what_is_wrong_and_fails(tmp_path, capsys, monkeypatch):
    from speechcl.experiment import run_recipe
    from speechcl.study import _recipe

    monkeypatch.setattr(sys, "argv", ["train.py"])
    with _recipe(RECIPE / "train.py") as main:
        arguments = [str(RECIPE / "hparams" / "er.yaml"), "--data_folder", str(tmp_path)]
        assert run_recipe(main, arguments) == 1
    assert "train.py: no keywords in" in capsys.readouterr().err
