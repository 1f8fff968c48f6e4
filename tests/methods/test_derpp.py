"""DER++ against separate forward passes for the three terms of its loss."""

import dataclasses
import math

import pytest
import torch
from torch.nn import functional

from speechcl.batches import rows
from speechcl.memory import Reservoir
from speechcl.methods import ER, DERpp, FineTune
from tests.methods.by_hand import (
    ActiveNet,
    SmallNet,
    assert_close,
    small_pair,
    train_by_hand,
    weights_of,
)
from tests.toy import WIDTH, same, toy_engine, weights


class Watched(DERpp):
    """Notes each step's batch, loss, and the three terms from forward passes of their own."""

    def __init__(self, **options):
        super().__init__(**options)
        self.own, self.seen, self.drawn = 0, [], []

    def before_batch(self, step):
        self.own = len(step.batch["label"])
        batch = super().before_batch(step)
        if self._old is not None:
            self.drawn.append(self._old[2])
        return batch

    def loss(self, step):
        loss = super().loss(step)
        if step.task.index:
            terms = self.slow_terms(step.modules["model"], step.batch)
            self.seen.append((loss, *terms))
        return loss

    def slow_terms(self, model, batch):
        """Eq. 6's expectations, an item at a time."""
        logits = [model(one[None])[0][0] for one in batch["features"]]
        pairs = zip(logits, batch["label"], strict=True)
        entropy = [functional.cross_entropy(*pair) for pair in pairs]
        old, more = self.drawn[-1], self.own + len(self.drawn[-1])
        squares = [
            (a - b).square().mean() for a, b in zip(logits[self.own : more], old, strict=True)
        ]
        return mean(entropy[: self.own]), mean(squares), mean(entropy[more:])


def mean(values):
    return sum(values) / len(values)


def trained(folder, tasks=2, model=None, **options):
    method = Watched(**options)
    engine = toy_engine(folder, method, tasks=tasks, model=model or SmallNet())
    engine.run()
    return engine


@pytest.mark.parametrize(
    ("answers", "labels", "replay"),
    [(0.5, 0.5, 15), (0.7, 0.0, 15), (0.0, 0.9, 15), (2.0, 3.0, 40), (0.3, 0.4, 1)],
)
def test_loss_is_the_weighted_sum_of_three_terms(answers, labels, replay, tmp_path):
    options = {"answers": answers, "labels": labels, "replay": replay, "capacity": 50}
    engine = trained(tmp_path, **options)
    assert len(engine.method.seen) == 8
    assert engine.method.seen[0][2] < 1e-20, "before its first step a model has not drifted"
    assert min(engine.method.seen[-1]) > 1e-5
    for loss, new, squares, old in engine.method.seen:
        torch.testing.assert_close(loss, new + answers * squares + labels * old)


def test_the_gradient_is_that_of_the_three_terms(tmp_path):
    found = []

    class Twice(Watched):
        def loss(self, step):
            loss = super().loss(step)
            if self.seen:
                _, new, squares, old = self.seen.pop()
                weights = [p for n, p in step.modules.named_parameters() if used(n)]
                both = (loss, new + 0.25 * squares + 0.75 * old)
                found.append([torch.autograd.grad(x, weights, retain_graph=True) for x in both])
            return loss

    method = Twice(answers=0.25, labels=0.75, replay=15, capacity=50)
    toy_engine(tmp_path, method, tasks=2, model=SmallNet()).run()
    assert len(found) == 8
    for ours, slow in found:
        assert_close(ours, slow)


def used(name):
    return "frozen" not in name and "idle" not in name


def test_the_memory_smaller_than_the_replay_is_replayed_whole(tmp_path):
    engine = trained(tmp_path, replay=16, capacity=5)
    assert {len(old) for old in engine.method.drawn} == {5}
    for loss, new, squares, old in engine.method.seen:
        torch.testing.assert_close(loss, new + 0.5 * squares + 0.5 * old)


def test_the_remembered_answers_are_those_at_the_end_of_the_task(tmp_path):
    torch.manual_seed(1)
    engine = toy_engine(tmp_path, DERpp(capacity=400), tasks=2, model=ActiveNet())
    expected = {}
    for task in engine.stream:
        engine.learn(task)
        with torch.no_grad():
            logits = engine.modules["model"].eval()(task.train.features)[0]
        expected |= dict(zip(map(tuple, task.train.features.tolist()), logits, strict=True))
    kept = engine.method.memory.sample(400)
    assert set(kept) == {"features", "label", "logits"}
    assert len(kept["label"]) == len(expected) == 240
    for row, logits in zip(kept["features"].tolist(), kept["logits"], strict=True):
        torch.testing.assert_close(logits, expected[tuple(row)], rtol=0, atol=1e-6)


def test_each_remembered_item_keeps_its_own_label_and_answer(tmp_path):
    engine = trained(tmp_path, tasks=3, replay=15, capacity=30)
    label = {
        tuple(row): int(one)
        for task in engine.stream
        for row, one in zip(task.train.features.tolist(), task.train.labels, strict=True)
    }
    kept = engine.method.memory.sample(30)
    for row, one in zip(kept["features"].tolist(), kept["label"], strict=True):
        assert label[tuple(row)] == int(one)


class Noted(DERpp):
    """Notes the joined batches."""

    def __init__(self, **options):
        super().__init__(**options)
        self.batches = []

    def before_batch(self, step):
        batch = super().before_batch(step)
        self.batches.append((step.task.index, step.batch, batch))
        return batch


def test_a_batch_is_the_new_clips_then_two_draws(tmp_path):
    method = Noted(replay=15, capacity=50)
    engine = toy_engine(tmp_path, method, tasks=2)
    engine.run()
    old = {tuple(row) for row in engine.stream[0].train.features.tolist()}
    for index, fresh, whole in method.batches:
        own = len(fresh["label"])
        assert set(whole) == {"features", "label"}
        assert torch.equal(whole["features"][:own], fresh["features"])
        assert torch.equal(whole["label"][:own], fresh["label"])
        first, second = (whole["features"][own:].tolist()[k : k + 15] for k in (0, 15))
        assert len(whole["label"]) == own + 30 * index == own + len(first) + len(second)
        if index:
            assert first != second
            assert {tuple(row) for row in first + second} <= old


def test_training_is_a_plain_loop_with_three_passes(tmp_path):
    model, twin = small_pair()
    options = {"capacity": 40, "replay": 15, "answers": 0.6, "labels": 0.3, "seed": 4}
    engine = toy_engine(tmp_path, DERpp(**options), tasks=3, model=model)
    memory = Reservoir(40, seed=4)

    def loss(task, features, labels):
        found = functional.cross_entropy(twin(features)[0], labels)
        if len(memory):
            one, two = memory.sample(15), memory.sample(15)
            found = found + 0.6 * functional.mse_loss(twin(one["features"])[0], one["logits"])
            found = found + 0.3 * functional.cross_entropy(twin(two["features"])[0], two["label"])
        return found

    def after_task(task):
        for start in (0, 64):  # the engine sweeps in batches of 64
            batch = task.train.__getitems__(list(range(start, min(start + 64, 120))))
            with torch.no_grad():
                memory.add({**batch, "logits": twin(batch["features"])[0]})

    engine.run()
    train_by_hand(twin, engine.stream, loss, after_task=after_task)
    assert_close(weights_of(model), weights_of(twin))


def test_without_weight_on_either_term_it_is_fine_tuning(tmp_path):
    plain = toy_engine(tmp_path / "plain", FineTune(), tasks=2, model=small_pair()[0])
    plain.run()
    method = DERpp(answers=0.0, labels=0.0)
    other = toy_engine(tmp_path / "other", method, tasks=2, model=small_pair()[0])
    other.run()
    assert_close(weights(other), weights(plain))


def test_labels_alone_are_not_er_which_means_over_the_whole_batch(tmp_path):
    one, two = (small_pair()[0] for _ in range(2))
    toy_engine(tmp_path / "derpp", DERpp(answers=0.0, labels=1.0), tasks=2, model=one).run()
    toy_engine(tmp_path / "er", ER(), tasks=2, model=two).run()
    assert not same(weights_of(one), weights_of(two))


def test_a_task_with_one_class_only(tmp_path):
    engine = toy_engine(tmp_path, DERpp(capacity=20, replay=8), tasks=2, model=SmallNet())
    for k, task in enumerate(engine.stream):
        spoofed = [place for place, label in enumerate(task.train.labels.tolist()) if label == 0]
        engine.stream[k] = dataclasses.replace(task, train=task.train.subset(spoofed))
    assert all(math.isfinite(value) for row in engine.run()["matrix"] for value in row)


def test_memory_bytes_are_those_of_items_and_answers(tmp_path):
    engine = toy_engine(tmp_path, DERpp(capacity=10), tasks=1)
    engine.run()
    assert engine.method.memory_bytes(engine.stream) == 10 * (4 * WIDTH + 8 + 2 * 4) + 2 * 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"answers": -0.1}, "neither may be negative"),
        ({"labels": -0.1}, "neither may be negative"),
        ({"capacity": 0}, "1 or more"),
        ({"replay": 0}, "at least one item"),
        ({"replay": -3}, "at least one item"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DERpp(**options)


def test_a_process_that_gets_none_of_a_few_replayed_items_trains_on_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr("speechcl.methods.derpp.my_rows", lambda items: rows(items, slice(0)))
    plain = toy_engine(tmp_path / "plain", FineTune(), tasks=2)
    plain.run()
    starved = toy_engine(tmp_path / "starved", DERpp(capacity=40, replay=1), tasks=2)
    starved.run()
    assert same(weights(starved), weights(plain))
