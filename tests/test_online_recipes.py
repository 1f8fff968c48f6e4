"""Streams that are learnt in one pass, and the recipes as a user runs them."""

import importlib.util
import shutil
from pathlib import Path

import pytest
import torch

from speechcl.brains.classification import Classification, ClassificationBrain
from speechcl.brains.detection import Detection, DetectionBrain
from speechcl.data.class_streams import blurred, class_stream, in_groups
from speechcl.data.embedded import build_embedded
from speechcl.experiment import run_recipe
from speechcl.memory import Reservoir
from speechcl.methods import ER, EWC, Chain, DualMix
from speechcl.online_recipes import check_room, online_stream
from speechcl.results import read_results
from tests.class_toy import blobs, class_engine
from tests.words import build_table

RECIPES = Path(__file__).parents[1] / "recipes"


def main_of(recipe):
    spec = importlib.util.spec_from_file_location(recipe, RECIPES / recipe / "train.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def run(recipe, method, folder, **settings):
    settings = {"output_folder": folder / "run", "device": "cpu", **settings}
    pairs = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    yaml = RECIPES / recipe / "hparams" / f"{method}.yaml"
    return run_recipe(main_of(recipe), [str(yaml), "--noprogressbar", *pairs])


methods_of = [path.stem for path in sorted((RECIPES / "Images/online/hparams").glob("*.yaml"))]


def test_both_recipes_have_the_same_methods():
    assert methods_of == [
        p.stem for p in sorted((RECIPES / "Keywords/online/hparams").glob("*.yaml"))
    ]
    assert {"er", "derpp", "er_ace", "scr", "gdumb", "er_dualmix", "onpro"} <= set(methods_of)


QUICK = ("er", "onpro")  # the others take a minute together


@pytest.mark.parametrize(
    "method", [pytest.param(m, marks=[] if m in QUICK else pytest.mark.slow) for m in methods_of]
)
def test_images_with_every_method(method, tmp_path):
    more = {} if method == "gdumb" else {"anytime_every": 40}
    assert run("Images/online", method, tmp_path, repeats=1, classes_per_task=5, **more) == 0
    results = read_results(tmp_path / "run" / "results.json")
    assert len(results["matrix"]) == 2
    assert results["summary"]["average"] > 15
    assert ("online" in results) == (method != "gdumb")
    assert "Online: one pass over 2 tasks" in results["notes"][0]


@pytest.mark.parametrize(
    "method",
    ["onpro", *(pytest.param(m, marks=pytest.mark.slow) for m in ("er", "scr", "derpp_dualmix"))],
)
def test_words(method, tmp_path):
    table = build_table(tmp_path / "data")
    settings = {"classes": '"[one, two, cat, bed]"'.strip('"'), "capacity": 8}
    code = run("Keywords/online", method, tmp_path, data_folder=table,
               corpus_folder=tmp_path / "corpus", anytime_every=2, **settings)  # fmt: skip
    assert code == 0
    assert len(read_results(tmp_path / "run" / "results.json")["stream"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fine_tune", "er", "er_balanced", "derpp", "gdumb"])
def test_attacks_as_they_come(method, tmp_path):
    for row in build_embedded(tmp_path / "made", voices=6, sentences=2, workers=1):
        target = tmp_path / "mine" / row["speaker"] / Path(row["wav"]).name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(row["wav"], target)
    settings = {"attacks": "[world, mulaw]", "workers": 1, "data_folder": tmp_path / "mine"}
    more = {} if method == "gdumb" else {"anytime_every": 1}
    code = run("OwnSpeech/online_detection", method, tmp_path, corpus_folder=tmp_path / "corpus",
               **settings, **more)  # fmt: skip
    assert code == 0
    results = read_results(tmp_path / "run" / "results.json")
    assert (results["metric"], results["stream"]) == ("eer", ["world", "mulaw"])
    assert ("online" in results) == (method != "gdumb")


def test_a_memory_smaller_than_the_classes_is_refused(tmp_path, capsys):
    assert run("Images/online", "er_dualmix", tmp_path, capacity=9) == 1
    error = capsys.readouterr().err
    assert "capacity is 9 but the stream has 10 classes: set capacity to 10 or more" in error
    assert not (tmp_path / "run").exists()


def test_a_wrong_number_of_classes_is_refused(tmp_path, capsys):
    assert run("Images/online", "er", tmp_path, classes=7) == 1
    assert "classes is 7, but digits has 10" in capsys.readouterr().err


def test_room_is_looked_for_in_chains_and_not_in_byte_budgets():
    chain = Chain([EWC(), ER(capacity=4), DualMix(lambda x, draws: x)])
    with pytest.raises(ValueError, match="capacity is 4"):
        check_room(chain, 5)
    check_room(chain, 4)
    check_room(ER(memory=Reservoir(budget_bytes=10)), 5)
    check_room(EWC(), 5)


# ---- the stream
SETTINGS = {"classes_per_task": 2, "shuffle_classes": True, "blur": 0.0, "seed": 1}


def test_the_order_of_classes_is_the_seeds():
    data = blobs(6)
    orders = [
        [task.name for task in online_stream({**SETTINGS, "seed": seed}, data)]
        for seed in (1, 1, 2)
    ]
    assert orders[0] == orders[1] != orders[2]
    plain = online_stream({**SETTINGS, "shuffle_classes": False}, data)
    assert plain[0].info["classes"] == ["class_0", "class_1"]


def test_validation_items_are_left_out():
    data = blobs(4)
    for row in data.rows[::5]:
        row["split"] = "valid"
    for task in online_stream(SETTINGS, data):
        assert task.valid is None


def test_a_share_of_each_task_comes_in_others():
    data = blobs(6, clips=80)
    clean = class_stream(data, in_groups(data.classes.names, 2))
    mixed = blurred(clean, 0.2, seed=3)
    ids = [sorted(row["ID"] for t in stream for row in t.train.rows) for stream in (clean, mixed)]
    assert ids[0] == ids[1]
    for before, after in zip(clean, mixed, strict=True):
        own = sum(after.train.counts().get(name, 0) for name in before.info["classes"])
        assert own == round(0.8 * len(before.train))
        assert after.test is before.test
        assert set(after.info["classes"]) == set(after.train.counts())
        assert set(after.info["classes"]) <= set(after.info["seen"])
    assert [t.name for t in mixed] == [t.name for t in clean]
    again = blurred(clean, 0.2, seed=3)
    assert [t.train.rows for t in again] == [t.train.rows for t in mixed]


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_blur_out_of_range_is_refused(share):
    data = blobs(4)
    with pytest.raises(ValueError, match="blur is"):
        blurred(class_stream(data, in_groups(data.classes.names, 2)), share)


def test_however_blurred_each_task_keeps_an_item_of_its_own():
    data = blobs(4, clips=8)
    clean = class_stream(data, in_groups(data.classes.names, 2))
    mixed = blurred(clean, 0.99)
    for before, after in zip(clean, mixed, strict=True):
        kept = {row["ID"] for row in before.train.rows} & {row["ID"] for row in after.train.rows}
        assert len(kept) == 1


def test_a_blurred_stream_is_learnt(tmp_path):
    assert run("Images/online", "er", tmp_path, repeats=1, classes_per_task=5, blur=0.1) == 0


def test_a_stream_that_ends_within_a_batch_is_learnt_whole(tmp_path):
    engine = class_engine(tmp_path, ER(capacity=40, online=True), clips=11)
    engine.run()
    assert int(engine.method.memory.counts[0]) == sum(len(t.train) for t in engine.stream)


def test_a_clip_that_is_no_number_stops_the_run(tmp_path):
    engine = class_engine(tmp_path, ER(capacity=40, online=True))
    engine.stream[1].train.features[3] = float("nan")
    with pytest.raises(ValueError, match="the loss became nan in task 'class_2_class_3'"):
        engine.run()


# ---- shares of classes
def brain_of(kind, **options):
    brain = kind.__new__(kind)
    vars(brain).update(options)
    return brain


def test_shares_of_classes_compete_among_those_seen():
    data = blobs(6)
    task = class_stream(data, in_groups(data.classes.names, 2))[1]
    logits, shares = torch.randn(5, 6), torch.zeros(5, 6)
    shares[:, 0], shares[:, 3] = 0.3, 0.7
    outputs = Classification(logits, logits)
    found = brain_of(ClassificationBrain, task=task, loss_over="seen").soft_loss(outputs, shares)
    log_p = logits[:, :4].log_softmax(1)
    torch.testing.assert_close(found, -(0.3 * log_p[:, 0] + 0.7 * log_p[:, 3]).mean())
    whole = brain_of(ClassificationBrain, task=task, loss_over="all").soft_loss(outputs, shares)
    log_p = logits.log_softmax(1)
    torch.testing.assert_close(whole, -(0.3 * log_p[:, 0] + 0.7 * log_p[:, 3]).mean())


def test_shares_of_genuine_and_spoofed():
    logit, shares = torch.randn(4, 1), torch.tensor([[0.25, 0.75]] * 4)
    found = DetectionBrain.soft_loss(brain_of(DetectionBrain), Detection(logit, logit), shares)
    p = logit.sigmoid()
    torch.testing.assert_close(found, -(0.75 * p.log() + 0.25 * (1 - p).log()).mean())
