"""The recipes of voice corpora on small copies of these corpora, with the smallest model."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch
import yaml

from speechcl import voice_recipes
from speechcl.backbones.usat import USAT
from speechcl.backbones.usat.voice_files import load_voice
from speechcl.backbones.usat.voices import list_voices
from speechcl.experiment import run_recipe
from speechcl.results import read_results
from speechcl.study import read_study
from tests.data.voice_corpora import trees

RECIPES = Path(__file__).parents[2] / "recipes"
ADAPTATION = ("ESLTTS/adaptation", "L2ARCTIC/adaptation")
TRAINING = ("VCTK/tts", "LibriTTS/tts", "OwnSpeech/tts")
BUILD = {
    "VCTK/tts": trees.vctk,
    "LibriTTS/tts": lambda folder: trees.libritts(
        folder, {"train-clean-100": "84", "test-clean": "121"}, clips=2
    ),
    "OwnSpeech/tts": trees.own_speech,
    "ESLTTS/adaptation": trees.esltts,
    "L2ARCTIC/adaptation": trees.l2arctic,
}
MORE = {"LibriTTS/tts": {"parts": "[train-clean-100, test-clean]"}}


def main_of(recipe):
    name = recipe.replace("/", "_")
    spec = importlib.util.spec_from_file_location(name, RECIPES / recipe / "train.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def argv(recipe, folder, method, **settings):
    given = {"data_folder": folder / "data", "corpus_folder": folder / "corpus", "workers": 1}
    given |= {"output_folder": folder / method, "epochs": 1, "batch_size": 2, "device": "cpu"}
    given |= {"loaders": 0} if method == "train" else {}
    given |= {**MORE.get(recipe, {}), **settings}
    pairs = [text for name, value in given.items() for text in (f"--{name}", str(value))]
    return [str(RECIPES / recipe / "hparams" / f"{method}.yaml"), "--noprogressbar", *pairs]


def run(recipe, folder, method="train", **settings):
    return main_of(recipe)(argv(recipe, folder, method, **settings))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A base that was never trained: what is tested here is what lies around it."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("base") / "model"
    USAT("usat_tiny").save(folder)
    return folder


@pytest.mark.parametrize("recipe", [*TRAINING, *ADAPTATION])
def test_the_readme_names_settings_that_there_are(recipe):
    folder = RECIPES / recipe
    for file in (folder / "hparams").glob("*.yaml"):
        settings = yaml.safe_load(re.sub(r"!\S+", "", file.read_text()))
        shown = set(re.findall(r"--(\w+)", (folder / "README.md").read_text()))
        pack = {"output"} if recipe == "OwnSpeech/tts" else set()  # of pack.py
        assert {"data_folder", "speakers"} <= shown <= {*settings, "device", *pack}
    if recipe in ADAPTATION:
        there = {file.stem for file in (folder / "hparams").glob("*.yaml")}
        assert set(read_study(folder / "study.yaml").methods) == there
    lines = (folder / "train.py").read_text().splitlines()
    assert len(lines) <= 40


# ---- training
@pytest.mark.parametrize("recipe", TRAINING)
def test_a_base_is_trained(recipe, tmp_path, capsys):
    BUILD[recipe](tmp_path / "data")
    resident = str(recipe == "OwnSpeech/tts").lower()  # one of them stays in memory
    folder = run(recipe, tmp_path, preset="usat_tiny", resident=resident)
    results = read_results(folder / "results.json")
    assert (results["recipe"], results["metric"]) == (recipe, "mel_db")
    assert 0 < results["matrix"][0][0] < 200
    tested = {"VCTK/tts": 4, "LibriTTS/tts": 2, "OwnSpeech/tts": 4}[recipe]
    assert [sum(sizes.values()) for sizes in results["test_sizes"]] == [tested]
    assert len(list((folder / "samples").iterdir())) == tested
    assert USAT.from_pretrained(folder / "model").config.rate_hz == 16000
    table = capsys.readouterr().out
    assert re.search(r"corpus +clips +speakers +train +test", table)
    assert re.search(rf"\n(VCTK|LibriTTS|data) +{2 * tested if tested == 4 else 4} +2 ", table)


def test_what_was_prepared_is_used_again_and_texts_are_not_spelt_anew(tmp_path, monkeypatch):
    trees.own_speech(tmp_path / "data", clips=5)
    run("OwnSpeech/tts", tmp_path, preset="usat_tiny")
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "corpus").rglob("*.flac")}
    seen = []

    def voice_set(pack, rows, *args, ids, **options):
        seen.append(ids)
        return VoiceSet(pack, rows, *args, ids=ids, **options)

    VoiceSet = voice_recipes.VoiceSet
    monkeypatch.setattr(voice_recipes, "VoiceSet", voice_set)
    settings = {"output_folder": tmp_path / "again", "seed": 2}
    run("OwnSpeech/tts", tmp_path, preset="usat_tiny", **settings)
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert len(seen[0]) == 10
    assert all(len(one) > 10 for one in seen[0])
    results = [read_results(tmp_path / name / "results.json") for name in ("train", "again")]
    assert results[0]["train_sizes"] == results[1]["train_sizes"] == [{"ann": 3, "ben": 3}]


def test_clips_to_validate_on_are_not_prepared(tmp_path, caplog):
    parts = {"train-clean-100": "84", "dev-clean": "116", "test-clean": "121"}
    trees.libritts(tmp_path / "data", parts, clips=2)
    run("LibriTTS/tts", tmp_path, preset="usat_tiny", parts=f"[{', '.join(parts)}]")
    assert len(list((tmp_path / "corpus").rglob("*.flac"))) == 4
    assert "left out 2 clips of the split valid" in caplog.text


def test_speakers_to_adapt_to_train_no_base(tmp_path):
    table = "id,path,speaker,text,split\n"
    for speaker, split in (("ann", "train"), ("ann", "valid"), ("ben", "adapt")):
        for number in range(2):
            name = f"{speaker}_{split}_{number}"
            table += f"{name},{name}.wav,{speaker},Please call Stella.,{split}\n"
            trees.write_speech(tmp_path / "data" / f"{name}.wav", 1.2)
    (tmp_path / "data" / "metadata.csv").write_text(table)
    results = read_results(run("OwnSpeech/tts", tmp_path, preset="usat_tiny") / "results.json")
    assert results["train_sizes"] == results["test_sizes"] == [{"ann": 2}]


# ---- adaptation
@pytest.mark.parametrize(
    ("recipe", "speakers", "sizes"),
    [
        ("ESLTTS/adaptation", "[Malayalam_3, Arabic_3]", (2, 2)),
        ("L2ARCTIC/adaptation", "[HKK, ABA]", (2, 2)),
    ],
)
def test_speakers_are_enrolled_in_the_order_they_are_named_in(
    recipe, speakers, sizes, tmp_path, base
):
    BUILD[recipe](tmp_path / "data")
    folder = run(recipe, tmp_path, "usat", base_folder=base, speakers=speakers)
    results = read_results(folder / "results.json")
    names = speakers.strip("[]").split(", ")
    assert (results["recipe"], results["stream"]) == (recipe, names)
    assert results["train_sizes"] == [{name: sizes[0]} for name in names]
    assert results["test_sizes"] == [{name: sizes[1]} for name in names]
    voice = USAT.from_pretrained(base)
    for name in names:
        load_voice(voice, folder / "voices" / f"{name}.safetensors")
    assert sorted(list_voices(voice)) == sorted(names)


@pytest.mark.parametrize("recipe", ADAPTATION)
@pytest.mark.parametrize("method", ["usat_vector", "fine_tune", "joint"])
def test_every_method_runs_on_a_number_of_speakers(recipe, method, tmp_path, base):
    BUILD[recipe](tmp_path / "data")
    folder = run(recipe, tmp_path, method, base_folder=base, speakers=1)
    assert len(read_results(folder / "results.json")["stream"]) == 1


def test_l2arctic_speakers_are_capped_before_anything_is_prepared(tmp_path, base):
    trees.l2arctic(tmp_path / "data", ("ABA",), clips=9)
    settings = {"speakers": "null", "clips_per_speaker": 5}
    results = read_results(
        run("L2ARCTIC/adaptation", tmp_path, "usat_vector", base_folder=base, **settings)
        / "results.json"
    )
    assert (results["train_sizes"], results["test_sizes"]) == ([{"ABA": 3}], [{"ABA": 2}])
    assert len(list((tmp_path / "corpus").rglob("*.flac"))) == 5


def test_who_cannot_be_tested_is_not_enrolled(tmp_path, base):
    trees.esltts(tmp_path / "data")
    (tmp_path / "data" / "ESLTTS Dataset" / "Arabic_3" / "test_1.flac").unlink()
    folder = run("ESLTTS/adaptation", tmp_path, "usat_vector", base_folder=base, speakers="null")
    assert read_results(folder / "results.json")["stream"] == ["Malayalam_3"]


# ---- what is refused
@pytest.mark.parametrize("recipe", [*TRAINING, *ADAPTATION])
def test_a_missing_folder_is_one_clear_line(recipe, tmp_path, base, capsys):
    extra = {"preset": "usat_tiny"} if recipe in TRAINING else {"base_folder": base}
    method = "train" if recipe in TRAINING else "usat"
    given = argv(recipe, tmp_path, method, **extra)
    assert run_recipe(main_of(recipe), given) == 1
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    assert re.search("no (such )?folder", said)
    assert str(tmp_path / "data") in said
    assert "get it from" in said or recipe == "OwnSpeech/tts"
    assert not (tmp_path / method).exists()


def test_a_corpus_without_a_usable_clip_is_one_clear_line(tmp_path, capsys):
    trees.vctk(tmp_path / "data", sound_s=0.5)
    given = argv("VCTK/tts", tmp_path, "train", preset="usat_tiny")
    assert run_recipe(main_of("VCTK/tts"), given) == 1
    assert "none of 8 clips can train a voice (VCTK-p225_001: under 1 s)" in capsys.readouterr().err


def test_speakers_with_too_few_clips_are_refused_in_one_line(tmp_path, capsys):
    trees.own_speech(tmp_path / "data", clips=3)
    given = argv("OwnSpeech/tts", tmp_path, "train", preset="usat_tiny")
    assert run_recipe(main_of("OwnSpeech/tts"), given) == 1
    said = capsys.readouterr().err
    assert "nobody has two clips to test on (6 clips of 2 speakers)" in said


def test_names_that_no_file_can_have_keep_their_speakers_apart():
    names = ["a/b", "a_b", "n" * 300, "n" * 299, "ann"]
    plain = [voice_recipes._plain(name) for name in names]
    assert len(set(plain)) == len(names)
    assert plain[1] == "a_b"
    assert max(map(len, plain)) < 100
    assert not any("/" in one for one in plain)
