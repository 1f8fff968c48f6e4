"""The recipes as a user runs them, on a corpus of a few clips."""

import datetime
import json
import shutil
from pathlib import Path

import pytest
import yaml

from speechcl.data.embedded import build_embedded
from speechcl.data.rawboost import RawBoost
from speechcl.experiment import Experiment
from speechcl.results import read_results, read_scores
from speechcl.study import read_study, run_study, write_study

RECIPES = Path(__file__).parents[2] / "recipes"
QUICK = ["--voices", "8", "--sentences", "2", "--epochs", "2", "--workers", "1"]
ATTACKS = ["--attacks", "[mulaw, random_phase]"]


def study_file(folder: Path, recipe: str, methods, **changes) -> Path:
    file = folder / "study.yaml"
    fields = {
        "title": "A test",
        "recipe": str(RECIPES / recipe / "detection" / "train.py"),
        "output_folder": str(folder / "results"),
        "methods": methods,
        "seeds": [1],
        **changes,
    }
    file.write_text(yaml.safe_dump(fields))
    return file


def options(folder: Path) -> list[str]:
    return [*ATTACKS, "--corpus_folder", str(folder / "corpus"), "--noprogressbar"]


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """Return a finished study of all methods and its folder."""
    folder = tmp_path_factory.mktemp("quick")
    methods = [file.stem for file in (RECIPES / "QuickStart/detection/hparams").glob("*.yaml")]
    study = read_study(study_file(folder, "QuickStart", sorted(methods)))
    folders = run_study(study, [*QUICK, *options(folder)])
    return study, folders, folder


def test_quickstart_leaves_a_whole_run_folder(quick):
    _, folders, _ = quick
    assert len(folders) == 11
    for folder in folders:
        results = read_results(folder / "results.json")
        assert results["stream"] == ["mulaw", "random_phase"]
        assert "synthetic" in results["notes"][0]
        assert results["train_sizes"][0]["bonafide"] > 0
        assert results["average_interval"][0] <= results["average_interval"][1]
        scores = read_scores(folder / "scores" / "task_01.csv")
        assert set(scores["test_task"]) == {"mulaw", "random_phase"}
        names = ("hyperparams.yaml", "env.log", "train_log.txt", "events.jsonl", "report.html")
        assert all((folder / name).stat().st_size for name in names)


def test_the_matrix_follows_from_the_scores(quick):
    from speechcl.metrics import eer

    results = read_results(quick[1][0] / "results.json")
    scores = read_scores(quick[1][0] / "scores" / "task_01.csv")
    for task, value in zip(results["stream"], results["matrix"][1], strict=True):
        mine = scores["test_task"] == task
        genuine = scores["label"] == "bonafide"
        found = eer(scores["score"][mine & genuine], scores["score"][mine & ~genuine])[0]
        assert found == pytest.approx(value)


def test_study_report_and_json(quick):
    study, folders, _ = quick
    page = write_study(study, folders).read_text()
    assert "A test" in page
    assert "synthetic" in page
    found = json.loads((study.output_folder / "study.json").read_text())
    assert len(found["methods"]) == 11
    assert set(found["methods"][0]["final"]) == {"mulaw", "random_phase"}


def test_a_study_goes_on_after_ctrl_c(quick, monkeypatch):
    study, folders, folder = quick
    expected = read_results(folders[0] / "results.json")["matrix"]
    shutil.rmtree(folders[0])
    from speechcl.engine import Engine

    inner, calls = Engine._record, []

    def interrupted(self, task, progress):
        inner(self, task, progress)
        calls.append(task.name)
        if len(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Engine, "_record", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_study(study, [*QUICK, *options(folder)])
    run_study(study, [*QUICK, *options(folder)])
    assert calls == ["mulaw", "random_phase"]
    assert read_results(folders[0] / "results.json")["matrix"] == expected


def test_other_settings_in_the_same_folder_are_refused(quick):
    study, _, folder = quick
    changed = ["3" if one == "2" else one for one in QUICK]
    with pytest.raises(ValueError, match="holds a run with other settings"):
        run_study(study, [*changed, *options(folder)])


def test_another_precision_in_the_same_folder_is_refused(quick):
    study, _, folder = quick
    with pytest.raises(ValueError, match="holds a run with other settings"):
        run_study(study, [*QUICK, *options(folder), "--precision", "bf16"])


@pytest.mark.slow
def test_debug_does_not_shorten_the_training(quick):
    study, folders, folder = quick
    expected = read_results(folders[0] / "results.json")["matrix"]
    shutil.rmtree(folders[0])
    longer = [*QUICK[: QUICK.index("--epochs")], "--epochs", "4", "--workers", "1"]
    more = [*options(folder), "--debug"]
    changed = study_file(folder, "QuickStart", ["fine_tune"], output_folder=str(folder / "debug"))
    other = run_study(read_study(changed), [*longer, *more])[0]
    log = (other / "train_log.txt").read_text()
    assert "epoch: 4" in log
    run_study(study, [*QUICK, *more])
    assert read_results(folders[0] / "results.json")["matrix"] == expected


def test_a_misspelt_setting_is_refused(quick):
    study, _, folder = quick
    with pytest.raises(ValueError, match="'epoch' not found"):
        run_study(study, [*QUICK, *options(folder), "--epoch", "3"])


@pytest.mark.parametrize("wrong", [["--lr"], ["--lr", "fast"], ["--epochs", "[1]"]])
def test_a_number_must_be_one(wrong, tmp_path):
    study = read_study(study_file(tmp_path, "QuickStart", ["rwm"]))
    with pytest.raises(ValueError, match="is a number such as .* was given"):
        run_study(study, [*options(tmp_path), *wrong])
    assert not study.output_folder.exists()


def test_the_study_sets_seeds_and_folders(tmp_path):
    study = read_study(study_file(tmp_path, "QuickStart", ["rwm"]))
    with pytest.raises(ValueError, match="the study sets --seed"):
        run_study(study, ["--seed", "3"])


def test_after_a_wrong_folder_the_right_one_is_taken(tmp_path):
    voices = build_embedded(tmp_path / "voices", voices=4, sentences=2, workers=1)
    (tmp_path / "empty").mkdir()
    study = read_study(study_file(tmp_path, "OwnSpeech", ["rwm"]))
    more = [*options(tmp_path), "--epochs", "1", "--workers", "1"]
    with pytest.raises(ValueError, match="no speech found"):
        run_study(study, [*more, "--data_folder", str(tmp_path / "empty")])
    assert not study.output_folder.exists()
    manifest = Path(voices[0]["wav"]).parents[0]
    assert run_study(study, [*more, "--data_folder", str(manifest)])


@pytest.mark.parametrize("method", ["rwm", "rwm_lcnn"])
def test_own_speech_learns_from_a_folder(method, tmp_path):
    rows = build_embedded(tmp_path / "voices", voices=6, sentences=2, workers=1)
    for row in rows:
        target = tmp_path / "mine" / row["speaker"] / Path(row["wav"]).name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(row["wav"], target)
    study = read_study(study_file(tmp_path, "OwnSpeech", [method]))
    more = ["--data_folder", str(tmp_path / "mine"), "--epochs", "1", "--workers", "1"]
    folder = run_study(study, [*options(tmp_path), *more])[0]
    results = read_results(folder / "results.json")
    assert len(results["matrix"]) == 2
    assert results["memory_bytes"] > 0


@pytest.fixture(scope="module")
def speakers(tmp_path_factory):
    """A folder of six speakers with two clips each."""
    folder = tmp_path_factory.mktemp("speakers")
    for row in build_embedded(folder / "made", voices=6, sentences=2, workers=1):
        target = folder / "mine" / row["speaker"] / Path(row["wav"]).name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(row["wav"], target)
    return folder


def tiny_encoder(folder):
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    config = Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=[8, 8],
        conv_kernel=[10, 8],
        conv_stride=[5, 8],
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
    )
    Wav2Vec2Model(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("network", "clip_s"),
    [
        ("lcnn", 0.3),
        ("resnet", 0.7),
        pytest.param("aasist", 0.2, marks=pytest.mark.slow),
        ("ssl", 0.3),
    ],
)
def test_every_network_learns_from_own_speech(network, clip_s, speakers, tmp_path):
    methods = [f"{method}_{network}" for method in ("fine_tune", "rwm")]
    study = read_study(study_file(tmp_path, "OwnSpeech", methods))
    more = ["--data_folder", str(speakers / "mine"), "--epochs", "1", "--workers", "1"]
    more += [
        "--clip_s",
        str(clip_s),
        "--batch_size",
        "8",
        "--corpus_folder",
        str(speakers / "corpus"),
    ]
    if network == "ssl":
        more += ["--ssl_source", tiny_encoder(tmp_path / "encoder")]
    folders = run_study(study, [*ATTACKS, "--noprogressbar", *more])
    assert [len(read_results(folder / "results.json")["matrix"]) for folder in folders] == [2, 2]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--clip_s", "0"], "clip_s is 0: give seconds above 0"),
        (["--clip_s", "-1"], "clip_s is -1"),
        (["--norm", "grouped"], "norm is 'grouped': use 'group' or 'batch'"),
        (["--genuine_share", "half"], "genuine_share is half"),
        (["--split", "{train: a, test: b}"], "must be above 0"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(wrong, message, speakers, tmp_path):
    study = read_study(study_file(tmp_path, "OwnSpeech", ["fine_tune_lcnn"]))
    more = ["--data_folder", str(speakers / "mine"), "--corpus_folder", str(speakers / "corpus")]
    with pytest.raises(ValueError, match=message):
        run_study(study, [*ATTACKS, "--noprogressbar", "--workers", "1", *more, *wrong])


def test_waveforms_are_cropped_and_augmented_in_training_alone(speakers, tmp_path, monkeypatch):
    heard = []
    monkeypatch.setattr(Experiment, "run", lambda self, stream, about: heard.append(stream))
    study = read_study(study_file(tmp_path, "OwnSpeech", ["rwm_aasist"]))
    more = ["--data_folder", str(speakers / "mine"), "--corpus_folder", str(speakers / "corpus")]
    run_study(study, [*ATTACKS, "--clip_s", "0.2", "--workers", "1", *more])
    for task in heard[0]:
        assert task.train.random_crop
        assert isinstance(task.train.augment, RawBoost)
        assert not task.test.random_crop
        assert task.test.augment is None
        assert task.train[0]["features"].shape == (3200,)


def test_damaged_features_are_named(speakers, tmp_path):
    shutil.copytree(speakers / "corpus", tmp_path / "corpus")
    study = read_study(study_file(tmp_path, "OwnSpeech", ["fine_tune"]))
    more = ["--data_folder", str(speakers / "mine"), "--corpus_folder", str(tmp_path / "corpus")]
    run = [*ATTACKS, "--noprogressbar", "--workers", "1", "--epochs", "1", *more]
    run_study(study, run)
    for file in (tmp_path / "corpus").glob("features-*"):
        file.write_bytes(file.read_bytes()[:40])
    shutil.rmtree(tmp_path / "results")
    with pytest.raises(ValueError, match="damaged features .*: delete it"):
        run_study(study, run)


def test_own_speech_says_that_it_needs_data(tmp_path):
    study = read_study(study_file(tmp_path, "OwnSpeech", ["rwm"]))
    with pytest.raises(ValueError, match="data_folder"):
        run_study(study, options(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": []}, "seeds"),
        ({"methods": "rwm"}, "methods"),
        ({"methods": ["nothing"]}, "does not exist"),
        ({"extra": 1}, "a study has the fields"),
        ({"settings": {"seed": 3}}, "settings hold seed: the study sets that elsewhere"),
        ({"settings": "fast"}, "settings is 'fast' but must be a dict"),
        ({"orders": {"attacks": ["world"]}}, "list of lists"),
        ({"orders": {"attacks": [["a"]], "corpora": [["b"]]}}, "name the setting"),
        ({"orders": {"attacks": [["a", "b"], ["a", "c"]]}}, "must hold each task"),
        ({"orders": {"attacks": [["a", "a"]]}}, "must hold each task"),
        ({"orders": {"attacks": [["a", "b"], ["a", "b"]]}}, "the same order twice"),
        ({"orders": {"attacks": [["a", 1], [1, "a"]]}}, "list of lists"),
        ({"orders": {"seed": [["a", "b"]]}}, "orders hold seed"),
        ({"orders": {"x": [["a", "b"]]}, "settings": {"x": 1}}, "orders hold x"),
        ({"methods": [["rwm"]]}, "must be names of YAML files"),
        ({"seeds": [True, False]}, "must be whole numbers"),
        ({"settings": {"since": datetime.date(2020, 1, 1)}}, "settings must be plain"),
    ],
)
def test_a_wrong_study_is_refused(change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_study(study_file(tmp_path, **{"recipe": "QuickStart", "methods": ["rwm"], **change}))


def test_orders_and_settings_reach_every_run(tmp_path):
    changes = {
        "orders": {"attacks": [["mulaw", "random_phase"], ["random_phase", "mulaw"]]},
        "settings": {"genuine_share": 0.5, "epochs": 1},
        "seeds": [1, 2],
    }
    study = read_study(study_file(tmp_path, "QuickStart", ["fine_tune", "ewc"], **changes))
    quick = ["--voices", "8", "--sentences", "2", "--workers", "1"]
    folders = run_study(study, [*quick, *options(tmp_path)[2:]])
    found = [read_results(folder / "results.json") for folder in folders]
    assert len({str(folder) for folder in folders}) == 8
    assert str(folders[0]).endswith("fine_tune/order_1/seed_1")
    for folder, results in zip(folders, found, strict=True):
        first = "mulaw" if "order_1" in str(folder) else "random_phase"
        assert results["stream"][0] == first
        assert results["train_sizes"][0]["bonafide"] == results["train_sizes"][0]["spoof"]
    assert len(list((tmp_path / "corpus").glob("features-*"))) == 1, "one for both orders"
    write_study(study, folders)
    rows = json.loads((study.output_folder / "study.json").read_text())["methods"]
    assert [row["runs"] for row in rows] == [4, 4]
    assert rows[1]["difference"]["pairs"] == 4
    with pytest.raises(ValueError, match="the study sets --attacks"):
        run_study(study, ["--attacks", "[mulaw]"])


def test_a_study_executes_nothing(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text("title: !!python/object/apply:os.system ['touch owned']\n")
    with pytest.raises(ValueError, match="not plain YAML"):
        read_study(file)
