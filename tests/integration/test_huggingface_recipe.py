"""The recipe for transformers models as a user runs it, on tiny models with random weights."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForSequenceClassification

from speechcl.results import read_results
from speechcl.study import read_study, run_study
from tests import tiny_transformers as tiny

RECIPE = Path(__file__).parents[2] / "recipes" / "HuggingFace" / "finetune"
QUICK = {"max_length": 16, "batch_size": 8, "epochs": 1}
ADAPTER_METHODS = ["lora", "codyra", "mora", "osft", "slm"]


def run(folder, methods, settings):
    """Run methods of the recipe; return the results of each."""
    pairs = [(f"--{name}", str(value)) for name, value in {**QUICK, **settings}.items()]
    file = folder / "study.yaml"
    fields = {
        "title": "A test",
        "recipe": str(RECIPE / "train.py"),
        "output_folder": str(folder / "results"),
        "methods": methods,
        "seeds": [1],
    }
    file.write_text(yaml.safe_dump(fields))
    options = ["--noprogressbar", *(text for pair in pairs for text in pair)]
    folders = run_study(read_study(file), options)
    return [read_results(one / "results.json") for one in folders]


def labelled(folder):
    return {
        "data_csv": tiny.labelled_table(folder / "texts.csv", 32),
        "model_folder": tiny.bert(folder / "bert"),
    }


def answers(folder):
    return {
        "data_csv": tiny.answer_table(folder / "answers.csv", 32),
        "model_folder": tiny.llama(folder / "llama"),
        "kind": "causal_lm",
    }


def test_a_study_compares_methods_on_a_classifier(tmp_path):
    study = yaml.safe_load((RECIPE / "study.yaml").read_text())
    methods = ["fine_tune", "ewc", "er", "joint"]
    assert set(methods) <= set(study["methods"])
    found = run(tmp_path, methods, {**labelled(tmp_path), "tasks": "[second, first]"})
    for results in found:
        assert results["recipe"] == "HuggingFace/finetune"
        assert results["stream"] == ["second", "first"]
        assert (results["metric"], results["higher_is_better"]) == ("accuracy", True)
        assert set(results["train_sizes"][0]) == {"maybe", "never"}
        assert results["average_interval"][0] <= results["average_interval"][1]
    kept = [results["memory_bytes"] for results in found]
    assert kept[0] == 0 < min(kept[1:])


@pytest.mark.slow
def test_a_study_compares_adapters_in_a_frozen_model(tmp_path):
    settings = {"targets": "'*.attention.output.dense'", "train": "'*classifier*'"}
    found = run(tmp_path, ADAPTER_METHODS, {**labelled(tmp_path), **settings})
    kept = {results["method"]: results["memory_bytes"] for results in found}
    assert list(kept) == ["LoRA", "CoDyRA", "MoRA", "OSFT", "SLM"]
    assert all(0 <= score <= 100 for one in found for row in one["matrix"] for score in row)
    assert kept["LoRA"] == kept["CoDyRA"] == 0, "they are merged"
    atom, layers, tasks = 4 * (16 + 16), 2, 2
    assert kept["MoRA"] == 8 * atom * layers * tasks
    keys, statistics = 4 * 4 * 5, 2 * 16  # groups, slots, channels and a constant; mean and scale
    assert kept["SLM"] == 4 * 12 * atom * layers * tasks + 4 * (keys * tasks + statistics)


@pytest.mark.parametrize("kind", ["classification", "causal_lm"])
def test_a_run_goes_on_where_it_was_interrupted(kind, tmp_path, monkeypatch):
    per_task = {"classification": 3, "causal_lm": 2}[kind]  # steps
    settings = (labelled if kind == "classification" else answers)(tmp_path)
    settings["ckpt_interval_steps"] = 1
    expected = [one["matrix"] for one in run(tmp_path, ["fine_tune", "er"], settings)]
    (tmp_path / "results").rename(tmp_path / "whole")
    inner, steps = torch.optim.AdamW.step, []

    def interrupted(self, *args):
        steps.append(len(steps))
        if len(steps) in (2, per_task + 3):  # in the first task and in the second
            raise KeyboardInterrupt
        return inner(self, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", interrupted)
    for method, matrix in zip(("fine_tune", "er"), expected, strict=True):
        steps.clear()
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                run(tmp_path, [method], settings)
        assert run(tmp_path, [method], settings)[0]["matrix"] == matrix
        assert len(steps) == 2 * per_task + 2, "none is made twice"


@pytest.mark.parametrize("method", ["fine_tune", "osft"])
def test_the_model_that_comes_out_can_be_read_and_trained_on(method, tmp_path):
    settings = {**labelled(tmp_path), "export": "true", "tasks": "[first]", "lr": 0.01}
    adapted = {"targets": "'*.dense'", "train": "'*classifier*'"} if method == "osft" else {}
    (first,) = run(tmp_path, [method], settings | adapted)
    folder = tmp_path / "results" / method / "seed_1" / "model"
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert model.config.id2label == {0: "no", 1: "yes"}
    (tmp_path / "results").rename(tmp_path / "before")
    settings["model_folder"] = tmp_path / "before" / method / "seed_1" / "model"
    (second,) = run(tmp_path, ["fine_tune"], settings)
    assert second["zero_shot"] == first["matrix"][-1]
    assert first["zero_shot"] != first["matrix"][-1], "it has learnt something"


def test_a_model_for_which_every_input_differs_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="export"):
        run(tmp_path, ["mora"], {**labelled(tmp_path), "targets": "'*.dense'", "export": "true"})


def test_an_encoder_and_decoder_by_exact_matches(tmp_path):
    settings = {**answers(tmp_path), "kind": "seq2seq", "metric": "exact_match"}
    settings["model_folder"] = tiny.t5(tmp_path / "t5")
    (results,) = run(tmp_path, ["er"], settings)
    assert (results["metric"], results["higher_is_better"]) == ("exact_match", True)
    assert results["train_sizes"][0] == {"items": 16}


def test_images_and_names(tmp_path):
    settings = {"kind": "image_text", "data_csv": tiny.image_table(tmp_path)}
    settings |= {"model_folder": tiny.clip(tmp_path / "clip"), "template": "w1 {}"}
    (results,) = run(tmp_path, ["er"], settings)
    assert results["stream"] == ["light", "colour"]
    assert results["metric"] == "accuracy"


def test_texts_of_a_folder_train_a_small_model_from_nothing(tmp_path):
    spec = importlib.util.spec_from_file_location("prep", RECIPE / "text_folder_prepare.py")
    prepare = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(prepare)
    for name, line in (("sea", "water and waves\n"), ("land", "stones, sand\n"), ("air", "x\n")):
        (tmp_path / "texts" / name).mkdir(parents=True)
        (tmp_path / "texts" / name / "train.txt").write_text(line * 300)
        (tmp_path / "texts" / name / "valid.txt").write_text(line * 3)
    (tmp_path / "texts" / "air" / "test.txt").write_text("y")
    file = tmp_path / "texts.csv"
    assert prepare.main([str(tmp_path / "texts"), str(file), "--domains", "air,sea,land"]) == 0
    rows = file.read_text()
    assert "air,test,y" in rows
    sizes = json.loads((RECIPE / "small_llama.json").read_text())
    sizes |= {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    (tmp_path / "config.json").write_text(json.dumps(sizes))
    settings = {"kind": "causal_lm", "data_csv": file, "tokenizer": "bytes", "lr": 0.01}
    settings |= {"model_folder": tmp_path / "config.json", "tasks": "[sea, land]"}
    (results,) = run(tmp_path, ["fine_tune"], {**settings, "max_length": 64})
    assert results["stream"] == ["sea", "land"]
    assert results["matrix"][0][0] < 0.5 * results["zero_shot"][0]
    assert prepare.main([str(tmp_path), str(file)]) == 1, "no subfolder has texts"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"model_folder": "nowhere"}, "nowhere: no such folder"),
        ({"kind": "seq2seq"}, "no column prompt, answer"),
        ({"kind": "speech"}, "kind is 'speech'"),
        ({"max_length": 64}, "max_length is 64: set it from 4 to 32"),
        ({"label_space": "all"}, "label_space is 'all'"),
        ({"tasks": "[first, third]"}, "no task .'third'."),
        ({"tokenizer": "bytes"}, "has 259 tokens but the model 21"),
        ({"data_csv": "none.csv"}, "none.csv.*no such file"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_written(wrong, message, tmp_path):
    with pytest.raises(ValueError, match=message) as caught:
        run(tmp_path, ["fine_tune"], labelled(tmp_path) | wrong)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "results").exists()


def test_a_label_of_another_task_is_no_answer_if_the_task_is_known(tmp_path):
    settings = labelled(tmp_path)
    with settings["data_csv"].open("a") as table:
        table.write("first,test,w1 w2,maybe\n")
    with pytest.raises(ValueError, match="label 'maybe' is in no training row of task 'first'"):
        run(tmp_path, ["fine_tune"], settings | {"label_space": "task"})


def test_a_wrong_metric_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="metric is 'bleu': use perplexity or exact_match"):
        run(tmp_path, ["er"], answers(tmp_path) | {"metric": "bleu"})
    assert not (tmp_path / "results").exists()
