"""Speakers enrolled by the recipes: held-out clips, all together, every method."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from speechcl.backbones.usat import USAT
from speechcl.backbones.usat.voice_files import load_voice
from speechcl.data.voice_corpora import hold_out
from speechcl.results import read_results
from speechcl.study import read_study
from tests.data.voice_corpora import trees

RECIPES = Path(__file__).parents[2] / "recipes"
ENROLMENT = ("Embedded/enrolment", "ESLTTS/adaptation", "L2ARCTIC/adaptation")
METHODS = ["fine_tune", "ewc", "er", "usat_vector", "usat", "joint"]


def run(recipe, folder, method="usat", **settings):
    spec = importlib.util.spec_from_file_location("recipe", RECIPES / recipe / "train.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    given = {"corpus_folder": folder / "corpus", "workers": 1, "device": "cpu"}
    given |= {"output_folder": folder / method, "epochs": 1, "batch_size": 4, **settings}
    pairs = [text for name, value in given.items() for text in (f"--{name}", str(value))]
    file = RECIPES / recipe / "hparams" / f"{method}.yaml"
    return module.main([str(file), "--noprogressbar", *pairs])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A base that was never trained: what is tested here is what lies around it."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("base") / "model"
    USAT("usat_tiny").save(folder)
    return folder


@pytest.fixture(scope="module")
def arctic(tmp_path_factory):
    """Two speakers with ten clips each to train on and two to test on."""
    folder = tmp_path_factory.mktemp("l2arctic")
    trees.l2arctic(folder / "data", clips=12)
    return folder


def enrol(arctic, base, folder, method="usat", **settings):
    settings = {"data_folder": arctic / "data", "speakers": "null", **settings}
    settings |= {"corpus_folder": arctic / "corpus", "base_folder": base}
    return run("L2ARCTIC/adaptation", folder, method, **settings)


# ---- held out
def rows(counts):
    return [
        {"ID": f"{name}{k}", "speaker": name, "split": "train"}
        for name, count in counts.items()
        for k in range(count)
    ]


@given(
    counts=st.dictionaries(st.sampled_from("abc"), st.integers(1, 40), min_size=1),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 5),
)
def test_a_share_of_each_speaker_is_held_out_in_any_order(counts, share, seed):
    found = hold_out(rows(counts), share, seed)
    for name, count in counts.items():
        held = sum(row["speaker"] == name and row["split"] == "valid" for row in found)
        if count < 8:
            assert held == 0
        else:
            assert 2 <= held <= count - 2
            assert abs(held - share * count) <= 2.5
    other = hold_out(rows(counts)[::-1], share, seed)[::-1]
    assert other == found


def test_clips_to_test_on_are_never_held_out():
    given = rows({"a": 10})
    given[3]["split"] = given[5]["split"] = "test"
    found = hold_out(given, 0.5)
    assert [row["split"] for row in found].count("valid") == 4
    assert [found[place]["split"] for place in (3, 5)] == ["test", "test"]
    assert given[0]["split"] == "train", "what is given stays as it is"


def test_none_is_held_out_at_a_share_of_0():
    assert hold_out(rows({"a": 20}), 0) == rows({"a": 20})


@pytest.mark.parametrize("share", [-0.1, 1])
def test_a_wrong_share_is_refused(share):
    with pytest.raises(ValueError, match="valid_share is"):
        hold_out([], share)


def test_training_stops_by_clips_that_are_held_out(arctic, base, tmp_path):
    # at a rate of 0 nothing is gained after the first epoch
    folder = enrol(arctic, base, tmp_path, epochs=6, patience=2, lr=0.0, speakers="[ABA]")
    lines = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    epochs = [line["epoch"] for line in lines if line["event"] == "epoch"]
    (best,) = [line["epoch"] for line in lines if line["event"] == "best_epoch"]
    assert (best, max(epochs)) == (1, 3)
    assert read_results(folder / "results.json")["train_sizes"] == [{"ABA": 8}]


def test_with_too_few_clips_none_is_held_out_and_the_log_says_so(arctic, base, tmp_path):
    folder = enrol(arctic, base, tmp_path, clips_per_speaker=9, speakers="[ABA]")
    assert "ABA has no validation data: it takes all 1 epochs" in (folder / "log.txt").read_text()
    assert read_results(folder / "results.json")["train_sizes"] == [{"ABA": 7}]


@pytest.mark.slow
# ---- together
def test_all_speakers_in_one_pass(arctic, base, tmp_path):
    folder = enrol(arctic, base, tmp_path, together="true")
    results = read_results(folder / "results.json")
    assert results["stream"] == ["everybody"]
    assert results["train_sizes"] == [{"ABA": 8, "HKK": 8}]
    apart = enrol(arctic, base, tmp_path / "apart")
    model = USAT.from_pretrained(base)
    for place in (folder, apart):
        files = sorted((place / "voices").iterdir())
        assert [file.name for file in files] == ["ABA.safetensors", "HKK.safetensors"]
        for file in files:
            load_voice(model, file, f"{file.stem}{place is apart}")
    assert {file.stat().st_size for file in (apart / "voices").iterdir()} == {
        file.stat().st_size for file in (folder / "voices").iterdir()
    }


# ---- every method
@pytest.mark.parametrize("recipe", ENROLMENT)
def test_the_study_compares_all_methods(recipe):
    folder = RECIPES / recipe
    there = {file.stem for file in (folder / "hparams").glob("*.yaml")}
    assert set(read_study(folder / "study.yaml").methods) == there == set(METHODS)
    readme = (folder / "README.md").read_text()
    assert all(f"`{name}`" in readme for name in METHODS)
    for file in (folder / "hparams").glob("*.yaml"):
        settings = yaml.safe_load(re.sub(r"!\S+", "", file.read_text()))
        assert settings["base"]["patience"] == "<patience>"
        assert (settings["patience"], settings["together"]) == (5, False)


@pytest.mark.parametrize("method", [pytest.param("ewc", marks=pytest.mark.slow), "er"])
def test_methods_that_remember_run_on_two_speakers(method, arctic, base, tmp_path):
    results = read_results(enrol(arctic, base, tmp_path, method) / "results.json")
    assert results["memory_bytes"] > 0
    assert len(results["matrix"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_speakers_that_espeak_plays(method, base, tmp_path):
    settings = {"base_folder": base, "speakers": 2, "known_speakers": 1, "sentences": 12}
    results = read_results(run("Embedded/enrolment", tmp_path, method, **settings) / "results.json")
    assert [list(sizes.values()) for sizes in results["train_sizes"]] == [[8], [8]]
    events = (tmp_path / method / "events.jsonl").read_text()
    assert events.count('"best_epoch"') == 2, "both have sentences that are held out"
