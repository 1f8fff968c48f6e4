"""The classification brain: which classes compete, what is measured, and every method on it."""

import functools
import logging

import numpy
import pytest
import torch
from torch import nn
from torch.nn import functional

from speechcl.backbones import StatisticsNet
from speechcl.brains.classification import (
    Classification,
    ClassificationBrain,
    cross_entropy,
)
from speechcl.data.class_streams import class_stream, domain_stream, in_groups
from speechcl.data.features import FeatureSet
from speechcl.data.labelled import Classes
from speechcl.engine import Engine, Training
from speechcl.methods import ER, FineTune, Joint
from speechcl.metrics.accuracy import accuracy
from speechcl.task import make_stream
from tests.toy import METHODS, same, weights

# those that ask nothing of the names of layers
METHOD_NAMES = ("FineTune", "Joint", "ER", "DERpp", "EWC", "SI", "LwF", "OWM", "RAWM")
METHOD_NAMES += ("RWM", "RWM auto", "RWM official")
WORDS = ("zero", "one", "two", "three")
WIDTH = 8


def word_set(clips=12):
    """Clips scatter around a centre of their class, moved a little by who speaks."""
    generator = torch.Generator().manual_seed(0)
    centres = 3.0 * torch.eye(len(WORDS), WIDTH)
    rows, features = [], []
    for label, word in enumerate(WORDS):
        for number in range(2 * clips):
            speaker = ("ann", "bob")[number % 2]
            noise = 0.5 * torch.randn(WIDTH, generator=generator)
            shift = torch.eye(WIDTH)[-1] * (1.0 if speaker == "ann" else -1.0)
            features.append(centres[label] + shift + noise)
            split = "test" if number < 8 else "train"
            rows.append({"ID": f"{word}-{number}", "text": word, "speaker": speaker})
            rows[-1]["split"] = split
    return FeatureSet(torch.stack(features), rows, Classes(WORDS))


def classes_two_by_two():
    return class_stream(word_set(), in_groups(WORDS, 2))


def make(folder, method=None, stream=None, loss_over="seen", epochs=3, **run_opts):
    torch.manual_seed(0)
    return Engine(
        brain=functools.partial(ClassificationBrain, loss_over=loss_over),
        modules={"model": StatisticsNet(WIDTH, (16,), classes=len(WORDS))},
        method=method or FineTune(),
        stream=stream or classes_two_by_two(),
        training=Training(
            functools.partial(torch.optim.SGD, lr=0.05, momentum=0.9), epochs, batch_size=8
        ),
        folder=folder,
        run_opts={"noprogressbar": True, "device": "cpu", **run_opts},
    )


def brain_of(folder, task, loss_over, stream=None):
    engine = make(folder, stream=stream, loss_over=loss_over)
    return engine._brain(engine.stream[task])


# ---- which classes compete
def by_loop(logits, labels, own, seen):
    losses = []
    for row, label in zip(logits, labels.tolist(), strict=True):
        competing = own if label in own else seen
        total = sum(row[c].exp() for c in competing)
        losses.append(-(row[label].exp() / total).log())
    return sum(losses) / len(losses)


def test_the_loss_equals_a_loop_over_the_competing_classes():
    logits = torch.randn(40, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    own, seen = [4, 1], [0, 1, 2, 4]
    labels = torch.tensor(seen)[torch.arange(40) % 4]
    torch.testing.assert_close(
        cross_entropy(logits, labels, own, seen), by_loop(logits, labels, own, seen)
    )


def test_seen_is_the_default_and_leaves_later_classes_alone(tmp_path):
    brain = brain_of(tmp_path, 0, "seen")
    assert ClassificationBrain.__init__.__kwdefaults__["loss_over"] == "seen"
    logits = torch.randn(4, 4, requires_grad=True)
    labels = torch.tensor([0, 1, 1, 0])
    loss = brain.task_loss(Classification(logits, None), {"label": labels}, None)
    torch.testing.assert_close(loss, functional.cross_entropy(logits[:, :2], labels))
    (grad,) = torch.autograd.grad(loss, logits)
    assert grad[:, 2:].abs().max() == 0
    assert grad[:, :2].abs().min() > 0


def test_own_leaves_old_classes_alone_but_replayed_clips_see_all(tmp_path):
    brain = brain_of(tmp_path, 1, "own")
    logits = torch.randn(4, 4, requires_grad=True)
    new, old = torch.tensor([2, 3, 3, 2]), torch.tensor([0, 1, 1, 0])
    loss = brain.task_loss(Classification(logits, None), {"label": new}, None)
    torch.testing.assert_close(loss, functional.cross_entropy(logits[:, 2:], new - 2))
    (grad,) = torch.autograd.grad(loss, logits)
    assert grad[:, :2].abs().max() == 0
    loss = brain.task_loss(Classification(logits, None), {"label": old}, None)
    torch.testing.assert_close(loss, functional.cross_entropy(logits, old))


def test_all_is_the_plain_cross_entropy(tmp_path):
    brain = brain_of(tmp_path, 0, "all")
    logits, labels = torch.randn(4, 4), torch.tensor([0, 1, 1, 0])
    loss = brain.task_loss(Classification(logits, None), {"label": labels}, None)
    torch.testing.assert_close(loss, functional.cross_entropy(logits, labels))


@pytest.mark.parametrize("loss_over", ["seen", "own"])
def test_all_classes_compete_where_tasks_share_them_or_do_not_say(loss_over, tmp_path):
    logits, labels = torch.randn(4, 4), torch.tensor([0, 3, 1, 2])
    plain = functional.cross_entropy(logits, labels)
    data = word_set()
    for stream in (domain_stream(data, ["bob", "ann"]), make_stream([("words", data, data)])):
        brain = brain_of(tmp_path / stream[0].name, 0, loss_over, stream)
        loss = brain.task_loss(Classification(logits, None), {"label": labels}, None)
        torch.testing.assert_close(loss, plain)


def test_an_unknown_choice_is_refused(tmp_path):
    with pytest.raises(ValueError, match="loss_over is 'task': use 'all', 'seen' or 'own'"):
        make(tmp_path, loss_over="task")


# ---- what is measured
def test_the_score_is_the_label_of_the_highest_logit(tmp_path):
    brain = brain_of(tmp_path, 0, "seen")
    logits = torch.tensor([[0.0, 1.0, 3.0, 2.0], [4.0, 1.0, 3.0, 2.0]])
    outputs = Classification(logits, torch.ones(2, 3))
    assert brain.score(outputs, {}).tolist() == [2, 0], "among all classes, seen or not"
    assert brain.logits(outputs) is logits
    assert brain.features(outputs) is outputs.embedding
    assert brain.targets({"label": 7}) == 7


def test_the_measure_is_accuracy_and_higher_is_better(tmp_path):
    engine = make(tmp_path)
    brain, data = engine.evaluator, engine.stream[1].test
    labels = data.labels.numpy().astype(float)
    assert brain.measure(labels, data) == 100.0
    assert brain.measure(numpy.full(len(data), 2.0), data) == 50.0
    assert brain.measure(numpy.zeros(len(data)), data) == 0.0
    assert (brain.metric, brain.higher_is_better) == ("accuracy", True)


def test_rows_say_what_each_clip_was_taken_for(tmp_path):
    engine = make(tmp_path)
    task = engine.stream[1]
    scores = task.test.labels.numpy().astype(float)
    scores[0] = 1.0
    rows = engine.evaluator.score_rows(scores, task)
    assert [row["ID"] for row in rows] == [row["ID"] for row in task.test.rows]
    assert (rows[0]["label"], rows[0]["predicted"]) == ("two", "one")
    assert all(row["label"] == row["predicted"] == row["text"] for row in rows[1:])
    assert {row["test_task"] for row in rows} == {"two_three"}
    with pytest.raises(ValueError):
        engine.evaluator.score_rows(scores[1:], task)


def test_the_interval_holds_the_average(tmp_path):
    engine = make(tmp_path)
    pairs = []
    for task in engine.stream:
        scores = task.test.labels.numpy().copy()
        scores[:5] = (scores[:5] + 1) % 4
        pairs.append((task, scores))
    low, high = engine.evaluator.average_interval(pairs)
    average = numpy.mean([accuracy(s, t.test.labels.numpy()) for t, s in pairs])
    assert low < average < high


# ---- learning
def test_results_and_predictions_agree(tmp_path):
    results = make(tmp_path, ER(capacity=16, replay=8)).run()
    assert (results["metric"], results["higher_is_better"]) == ("accuracy", True)
    lines = (tmp_path / "predictions" / "task_01.csv").read_text().splitlines()
    assert lines[0] == "test_task,ID,label,predicted,speaker"
    cells = [line.split(",") for line in lines[1:]]
    for name, value in zip(results["stream"], results["matrix"][1], strict=True):
        mine = [cell[2] == cell[3] for cell in cells if cell[0] == name]
        assert value == pytest.approx(100 * numpy.mean(mine))
    assert not (tmp_path / "scores").exists()
    low, high = results["average_interval"]
    assert low <= results["summary"]["average"] <= high


def test_new_classes_drive_out_old_ones_unless_clips_are_kept(tmp_path):
    forgets = make(tmp_path / "ft", epochs=6).run()
    assert forgets["matrix"][0][0] > 90
    assert forgets["matrix"][1] == pytest.approx([0, 100], abs=25)
    for method in (ER(capacity=16, replay=8), Joint()):
        kept = make(tmp_path / type(method).__name__, method, epochs=6).run()
        assert kept["summary"]["average"] > 90
        assert kept["summary"]["forgetting"] < 15


def test_new_domains_of_known_classes(tmp_path):
    results = make(tmp_path, stream=domain_stream(word_set(), ["ann", "bob"]), epochs=8).run()
    assert results["matrix"][1][1] > 90


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_every_method_learns_both_kinds_of_stream(name, tmp_path, caplog):
    streams = {"class": classes_two_by_two(), "domain": domain_stream(word_set(), ["ann", "bob"])}
    for kind, stream in streams.items():
        engine = make(tmp_path / kind, METHODS[name](), stream)
        results = engine.run()
        assert len(results["matrix"]) == 2
        assert results["matrix"][0][0] > 50
        again = make(tmp_path / kind, METHODS[name](), stream)
        assert again.run()["matrix"] == results["matrix"]
        assert same(weights(again), weights(engine))
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


def test_a_killed_run_goes_on_with_the_same_numbers(tmp_path, monkeypatch):
    whole = make(tmp_path / "whole", ER(capacity=16, replay=8))
    expected = whole.run()
    inner, steps = torch.optim.SGD.step, []

    def killed(self, closure=None):
        steps.append(1)
        if len(steps) == 15:
            raise KeyboardInterrupt
        return inner(self, closure)

    monkeypatch.setattr(torch.optim.SGD, "step", killed)
    options = {"ckpt_interval_steps": 4}
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "other", ER(capacity=16, replay=8), **options).run()
    other = make(tmp_path / "other", ER(capacity=16, replay=8), **options)
    assert other.run()["matrix"] == expected["matrix"]
    assert same(weights(other), weights(whole))


def test_an_encoder_of_plain_layers_can_be_protected(tmp_path):
    from speechcl.backbones.speech_encoder import SpeechEncoder

    model = SpeechEncoder(classes=4, bands=WIDTH, width=16, layers=1, heads=2)
    engine = make(tmp_path, METHODS["RWM"](), epochs=1)
    engine.modules["model"] = nn.Sequential(nn.Unflatten(1, (1, WIDTH)), model)
    engine.run()
    layers = {key.rpartition("/")[2] for key in engine.method.projectors}
    assert {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2", "classify"} <= layers
