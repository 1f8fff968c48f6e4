"""EWC against loops over clips and classes, and against the penalty written out in the loss."""

import copy
import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional

from speechcl.methods import EWC
from speechcl.methods.ewc import add_fisher
from tests.methods.by_hand import (
    ActiveNet,
    SmallNet,
    assert_close,
    bare,
    small_pair,
    train_by_hand,
    weights_of,
)
from tests.toy import WIDTH, toy_engine


def slow_fisher(model, clips):
    """Mean over clips of the expected squared gradient of log p, one clip and class at a time."""
    model = copy.deepcopy(model).eval()
    sums = {name: torch.zeros_like(value) for name, value in weights_of(model).items()}
    for clip in clips:
        for c in range(2):
            model.zero_grad()
            log_p = model(clip[None])[0].log_softmax(dim=1)[0, c]
            log_p.backward()
            for name, parameter in model.named_parameters():
                if parameter.grad is not None:
                    sums[name] += log_p.detach().exp() * parameter.grad.square()
    return {name: value / len(clips) for name, value in sums.items()}


def learnt(folder, model, tasks=1, **options):
    engine = toy_engine(folder, EWC(**{"clips": 200, **options}), tasks=tasks, model=model)
    engine.run()
    return engine


# ---- the importance
def test_importance_is_the_loop_over_clips_and_classes(tmp_path):
    engine = learnt(tmp_path, SmallNet())
    expected = slow_fisher(engine.modules["model"], engine.stream[0].train.features)
    assert_close(bare(engine.method.importance.tensors()), expected)
    assert expected["hidden.weight"].min() > 0
    assert not expected["idle.weight"].any()


class Linear(nn.Module):
    """Logistic regression, whose Fisher information is known."""

    def __init__(self):
        super().__init__()
        self.classify = nn.Linear(WIDTH, 2).double()

    def forward(self, x):
        return self.classify(x.double()), x


def test_importance_of_logistic_regression_is_the_closed_form(tmp_path):
    engine = learnt(tmp_path, Linear())
    x = engine.stream[0].train.features.double()
    with torch.no_grad():
        p = engine.modules["model"](x)[0].softmax(dim=1)
    variance = p[:, :, None] * (1 - p[:, :, None])  # of "is it this class?", under the model
    found = bare(engine.method.importance.tensors())
    assert_close([found["classify.weight"]], [(variance * x[:, None].square()).mean(0)])
    assert_close([found["classify.bias"]], [variance[:, :, 0].mean(0)])


def test_importance_is_measured_in_evaluation_mode_and_leaves_no_trace(tmp_path):
    engine = learnt(tmp_path, ActiveNet())
    model = engine.modules["model"]
    before = copy.deepcopy(model.state_dict())
    importance = engine.method.measure(engine.stream[0], engine)
    expected = slow_fisher(model, engine.stream[0].train.features)
    first = bare(engine.method.importance.tensors())
    assert_close(first, expected, atol=1e-5)
    assert_close(bare(importance), {n: 2 * value for n, value in expected.items()}, atol=1e-5)
    assert_close(model.state_dict(), before, atol=0)
    assert all(parameter.grad is None for parameter in model.parameters())


def measured_on(folder, clips, arrange=lambda data: data):
    """The clips that EWC measured on, in order."""
    asked = []

    class Asked(SmallNet):
        def forward(self, x):
            if len(x) == 1:
                asked.append(x[0])
            return super().forward(x)

    engine = toy_engine(folder, EWC(clips=clips), tasks=1, model=Asked())
    task = engine.stream[0]
    engine.stream[0] = dataclasses.replace(task, train=arrange(task.train))
    engine.run()
    return engine, torch.stack(asked)


@pytest.mark.parametrize("clips", [1, 40, 119, 120, 500])
def test_no_more_clips_than_asked_for_are_measured_on(clips, tmp_path):
    engine, asked = measured_on(tmp_path, clips)
    data = engine.stream[0].train
    rows = [tuple(row) for row in asked.tolist()]
    assert len(rows) == len(set(rows)) == min(clips, len(data))
    assert set(rows) <= {tuple(row) for row in data.features.tolist()}
    expected = slow_fisher(engine.modules["model"], asked)
    assert_close(bare(engine.method.importance.tensors()), expected)


def by_class(data):
    return data.subset(data.labels.argsort().tolist())


@pytest.mark.parametrize("arrange", [by_class, lambda data: data], ids=["by class", "in turn"])
def test_a_part_of_the_clips_has_both_classes_in_whatever_order_they_come(arrange, tmp_path):
    # one in four is genuine: the first 30 by class, or every fourth in turn, would be of one class
    engine, asked = measured_on(tmp_path, 30, arrange)
    data = engine.stream[0].train
    label = dict(zip(map(tuple, data.features.tolist()), data.labels.tolist(), strict=True))
    genuine = sum(label[tuple(row)] for row in asked.tolist())
    assert 2 <= genuine <= 15


def test_what_is_added_is_a_sum_and_how_many_clips_it_is_of(tmp_path):
    engine = learnt(tmp_path, SmallNet())
    sums = {n: torch.zeros_like(p) for n, p in weights_of(engine.modules).items()}
    with torch.no_grad():
        batch = engine.stream[0].train.__getitems__([0, 1, 2])
        assert add_fisher(engine.evaluator, batch, sums) == 3
    expected = slow_fisher(engine.modules["model"], engine.stream[0].train.features[:3])
    assert_close(bare(sums), {n: 3 * value for n, value in expected.items()})


# ---- over tasks
@pytest.mark.parametrize("decay", [0.0, 0.4, 1.0])
def test_importance_of_earlier_tasks_decays_and_adds_up(decay, tmp_path):
    engine = toy_engine(tmp_path, EWC(decay=decay, clips=200), tasks=3, model=SmallNet())
    expected = {}
    for task in engine.stream:
        engine.learn(task)
        own = slow_fisher(engine.modules["model"], task.train.features)
        expected = {n: decay * expected.get(n, 0.0) + value for n, value in own.items()}
        assert_close(bare(engine.method.importance.tensors()), expected)
        anchor = bare(engine.method.anchor.tensors())
        assert_close(anchor, weights_of(engine.modules["model"]), atol=0)


def test_training_is_a_plain_loop_with_eq_3_in_the_loss(tmp_path):
    model, twin = small_pair()
    engine = toy_engine(tmp_path, EWC(20.0, decay=0.5, clips=200), tasks=3, model=model)
    anchor, fisher = {}, {}

    def loss(task, features, labels):
        found = functional.cross_entropy(twin(features)[0], labels)
        for name, parameter in twin.named_parameters():
            if name in anchor:
                far = (parameter - anchor[name]).square()
                found = found + 20.0 / 2 * (fisher[name] * far).sum()
        return found

    def after_task(task):
        for name, value in slow_fisher(twin, task.train.features).items():
            fisher[name] = 0.5 * fisher.get(name, 0.0) + value
        anchor.update(weights_of(twin))

    engine.run()
    train_by_hand(twin, engine.stream, loss, after_task=after_task)
    assert_close(weights_of(model), weights_of(twin))


@pytest.mark.parametrize("options", [{"clips": 0}, {"clips": -5}, {"decay": -0.1}, {"decay": 2}])
def test_bad_settings_are_refused(options):
    with pytest.raises(ValueError, match="use 1 or more, and 0 to 1"):
        EWC(**options)
