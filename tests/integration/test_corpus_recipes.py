"""The recipes of public corpora, on small copies of these corpora."""

import re
from pathlib import Path

import pytest
import yaml

from speechcl.data import read_manifest
from speechcl.results import read_results, read_scores
from speechcl.study import read_study, run_study
from tests.data.corpora.trees import LISTS, build, build_asvspoof2019la, write_clip

RECIPES = Path(__file__).parents[2] / "recipes"
METHODS = {"fine_tune", "fine_tune_low_lr", "er", "joint", "owm", "rwm"}


def run(recipe: str, folder: Path, *options: str, methods=("rwm",)) -> list[Path]:
    file = folder / "study.yaml"
    fields = {
        "title": "A test",
        "recipe": str(RECIPES / recipe / "detection" / "train.py"),
        "output_folder": str(folder / "results"),
        "methods": list(methods),
        "seeds": [1],
    }
    file.write_text(yaml.safe_dump(fields))
    more = ["--noprogressbar", "--epochs", "1", *options]
    if "--corpus_folder" not in options:
        more += ["--corpus_folder", str(folder / "corpus")]
    return run_study(read_study(file), more)


def manifest(folder: Path) -> list[dict]:
    return read_manifest(folder / "corpus" / "manifest.csv")


@pytest.mark.parametrize("recipe", ["ASVspoof2019LA", "CrossCorpus"])
def test_the_study_and_the_readme_name_what_there_is(recipe):
    folder = RECIPES / recipe / "detection"
    study = read_study(folder / "study.yaml")
    there = {file.stem for file in (folder / "hparams").glob("*.yaml")}
    assert METHODS <= set(study.methods) <= there
    readme = (folder / "README.md").read_text()
    settings = yaml.safe_load(re.sub(r"!\S+", "", (folder / "hparams" / "rwm.yaml").read_text()))
    shown = set(re.findall(r"--(\w+)", readme))
    assert {"data_folder"} < shown <= settings.keys()


def test_asvspoof2019la_is_learnt_attack_by_attack(tmp_path, capsys):
    data = build_asvspoof2019la(tmp_path / "data")
    options = ["--data_folder", str(data), "--attacks", "[A01, A06]"]
    folders = run("ASVspoof2019LA", tmp_path, *options, methods=("rwm", "joint"))
    for folder in folders:
        results = read_results(folder / "results.json")
        assert results["recipe"] == "ASVspoof2019LA/detection"
        assert results["stream"] == ["A01", "A06"]
        # two speakers a part, with two clips of each attack and twelve genuine ones
        assert results["train_sizes"] == [{"bonafide": 12, "spoof": 4}] * 2
        assert results["test_sizes"] == [{"bonafide": 24, "spoof": 4}] * 2
    scores = read_scores(folders[0] / "scores" / "task_01.csv")
    assert set(scores["test_task"]) == {"A01", "A06"}
    rows = manifest(tmp_path)
    assert {(row["speaker"], row["split"]) for row in rows} == {
        ("LA_0079", "train"),
        ("LA_0080", "train"),
        ("LA_0069", "test"),
        ("LA_0070", "test"),
    }
    table = capsys.readouterr().out
    assert "ASVspoof2019LA       48       16        2         4     32    32" in table


def test_a_stream_may_reach_into_the_eval_part(tmp_path):
    data = build_asvspoof2019la(tmp_path / "data") / "LA"
    options = ["--data_folder", str(data), "--attacks", "[A19, A01]", "--share_of_clips", "0.5"]
    results = read_results(run("ASVspoof2019LA", tmp_path, *options)[0] / "results.json")
    assert results["stream"] == ["A19", "A01"]
    rows = manifest(tmp_path)
    dealt = {row["speaker"]: row["split"] for row in rows if row["speaker"] < "LA_0005"}
    assert sorted(dealt.values()) in (
        ["test", "train", "train", "train"],
        ["test"] * 2 + ["train"] * 2,
    )
    assert {row["attack"] for row in rows} == {"-", "A01", "A19"}


def test_asvspoof2019la_says_what_is_missing(tmp_path):
    with pytest.raises(ValueError, match="Edinburgh DataShare 10283/3336"):
        run("ASVspoof2019LA", tmp_path, "--data_folder", str(tmp_path))
    with pytest.raises(ValueError, match="name one or more of A01 to A19"):
        run("ASVspoof2019LA", tmp_path, "--data_folder", str(tmp_path), "--attacks", "[B01]")
    data = build_asvspoof2019la(tmp_path / "data")
    next((data / "LA" / "ASVspoof2019_LA_train" / "flac").iterdir()).unlink()
    with pytest.raises(ValueError, match=r"train.trn.txt line \d+: .*no such file"):
        run("ASVspoof2019LA", tmp_path, "--data_folder", str(data))
    assert not (tmp_path / "results").exists()
    assert not (tmp_path / "corpus").exists()


def all_corpora(folder: Path) -> Path:
    """Build the corpora of the default stream, those whose speakers are dealt with both sides."""
    for corpus in LISTS:
        build(corpus, folder / corpus)
    more = [
        f"3000{number:04d}.wav,{number % 2},{('A02', 'N01')[number % 2]}" for number in range(12)
    ]
    path = folder / "FMFCC-A" / "AllUtteranceInfo.txt"
    path.write_text("\r\n".join(more), newline="")
    for line in more:
        write_clip(folder / "FMFCC-A" / "wav" / line.split(",")[0])
    return folder


def test_corpora_are_learnt_one_after_another(tmp_path, capsys):
    data = all_corpora(tmp_path / "data")
    (data / "FoR").rename(tmp_path / "else")
    options = ["--data_folder", str(data), "--folders", f"{{FoR: {tmp_path / 'else'}}}"]
    folder = run("CrossCorpus", tmp_path, *options, "--clips_per_class", "2")[0]
    results = read_results(folder / "results.json")
    assert results["recipe"] == "CrossCorpus/detection"
    assert results["stream"] == [
        *("ASVspoof2015", "ASVspoof2019LA", "ASVspoof2021LA", "InTheWild"),
        *("FMFCC-A", "ADD2022", "FoR"),
    ]
    assert results["train_sizes"][0] == {"bonafide": 2, "spoof": 2}
    assert results["train_sizes"][-2:] == [
        {"bonafide": 1, "spoof": 1},
        {"bonafide": 2, "spoof": 2},
    ]
    table = capsys.readouterr().out
    assert [line.split()[0] for line in table.splitlines()[2:9]] == sorted(results["stream"])
    rows = manifest(tmp_path)
    sides = {(row["speaker"], row["split"]) for row in rows if row["speaker"] != "-"}
    assert len(sides) == len({speaker for speaker, _ in sides})


def test_another_order_finds_the_same_features(tmp_path):
    data = all_corpora(tmp_path / "data")
    for number, corpora in enumerate(("[InTheWild, FoR]", "[FoR, InTheWild]")):
        folder = tmp_path / str(number)
        folder.mkdir()
        options = ["--data_folder", str(data), "--corpora", corpora]
        run("CrossCorpus", folder, *options, "--corpus_folder", str(tmp_path / "corpus"))
    assert len(list((tmp_path / "corpus").glob("features-*"))) == 1


def test_cross_corpus_says_what_is_missing_and_takes_options(tmp_path):
    data = all_corpora(tmp_path / "data")
    (data / "ADD2022").rename(data / "moved")
    with pytest.raises(ValueError, match=r"1 of 7 corpora is missing: ADD2022: .*addchallenge\.cn"):
        run("CrossCorpus", tmp_path, "--data_folder", str(data))
    options = ["--data_folder", str(data), "--corpora", "[FoR]"]
    with pytest.raises(ValueError, match="no .*for-original/training .* which holds for-norm"):
        run("CrossCorpus", tmp_path, *options, "--options", "{FoR: {version: for-original}}")
    assert not (tmp_path / "results").exists()
