"""SI against a loop that keeps the weights and gradients of every step."""

import collections

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from speechcl.methods import SI, FineTune
from speechcl.methods.si import importance
from tests.methods.by_hand import (
    SmallNet,
    assert_close,
    bare,
    small_pair,
    train_by_hand,
    weights_of,
)
from tests.toy import WIDTH, toy_engine

STRENGTH, DAMPING = 2.0, 0.01


class Diary:
    """Trains the twin with eq. 4 in the loss; keeps all it needs for eqs. 3 and 5."""

    def __init__(self, twin, strength=STRENGTH):
        self.twin, self.strength = twin, strength
        self.steps, self.omega, self.anchor, self.paths = [], {}, {}, []

    def own(self, features, labels):
        return functional.cross_entropy(self.twin(features)[0], labels)

    def loss(self, task, features, labels):
        found = self.own(features, labels)
        for name, parameter in self.twin.named_parameters():
            if name in self.anchor:  # c is half of the strength
                far = (parameter - self.anchor[name]).square()
                found = found + self.strength / 2 * (self.omega[name] * far).sum()
        return found

    def after_step(self, task, before, features, labels):
        after = weights_of(self.twin)
        self.put(before)
        self.twin.zero_grad()
        self.own(features, labels).backward()
        grads = {n: p.grad for n, p in self.twin.named_parameters() if p.grad is not None}
        self.twin.zero_grad()
        self.put(after)
        self.steps.append((before, after, grads))

    def put(self, weights):
        with torch.no_grad():
            for name, value in weights.items():
                self.twin.get_parameter(name).copy_(value)

    def after_task(self, task):
        path = {name: torch.zeros_like(value) for name, value in self.steps[0][0].items()}
        self.reached = collections.Counter(name for *_, grads in self.steps for name in grads)
        for before, after, grads in self.steps:
            for name, grad in grads.items():
                path[name] -= grad * (after[name] - before[name])
        start, end = self.steps[0][0], self.steps[-1][1]
        for name, value in path.items():
            found = value / ((end[name] - start[name]).square() + DAMPING)
            self.omega[name] = self.omega.get(name, 0.0) + found.clamp(min=0.0)
        self.paths.append(path)
        self.anchor, self.steps = end, []


def test_training_path_and_importance_are_those_of_the_diary(tmp_path):
    model, twin = small_pair()
    engine = toy_engine(tmp_path, SI(STRENGTH, DAMPING), tasks=3, model=model)
    diary = Diary(twin)
    engine.run()
    train_by_hand(twin, engine.stream, diary.loss, diary.after_step, diary.after_task)
    assert_close(weights_of(model), weights_of(twin))
    assert_close(bare(engine.method.path.tensors()), diary.paths[-1])
    assert_close(bare(engine.method.importance.tensors()), diary.omega, atol=1e-9)
    assert_close(bare(engine.method.anchor.tensors()), diary.anchor)


class Forked(SmallNet):
    """A batch goes one way or another, so that the weights with a gradient change."""

    def __init__(self):
        super().__init__()
        self.fork = nn.Linear(WIDTH, 2).double()

    def forward(self, x):
        x, hidden = x.double(), self.hidden(x.double())
        if x[:, 2].sum() > 0:
            return self.classify(hidden), x
        return self.classify(torch.tanh(hidden)) + self.fork(x), x


def test_weights_that_only_some_batches_reach_have_their_own_path(tmp_path):
    model, twin = small_pair(Forked)
    engine = toy_engine(tmp_path, SI(STRENGTH, DAMPING), tasks=1, model=model)
    diary = Diary(twin)
    engine.run()
    train_by_hand(twin, engine.stream, diary.loss, diary.after_step, diary.after_task)
    assert 0 < diary.reached["fork.weight"] < diary.reached["hidden.weight"]
    assert_close(bare(engine.method.path.tensors()), diary.paths[-1])


def test_the_penalty_matters_and_its_gradient_is_not_on_the_path(tmp_path):
    # else the test above could not tell a path with the whole gradient from the right one
    model, twin = small_pair()
    free = Diary(twin, strength=0.0)
    engine = toy_engine(tmp_path, SI(STRENGTH, DAMPING), tasks=2, model=model)
    engine.run()
    train_by_hand(twin, engine.stream, free.loss, free.after_step, free.after_task)
    found = bare(engine.method.path.tensors())
    assert (found["hidden.weight"] - free.paths[-1]["hidden.weight"]).abs().max() > 1e-4


def test_the_path_sums_to_how_much_the_loss_fell(tmp_path):
    # whole batches and small steps: the sum is the integral of the gradient along the way
    model = SmallNet()
    options = {"lr": 0.002, "epochs": 40, "batch_size": 120}
    engine = toy_engine(tmp_path, SI(), tasks=1, model=model, **options)
    data = engine.stream[0].train

    def loss():
        with torch.no_grad():
            return float(functional.cross_entropy(model(data.features)[0], data.labels))

    before = loss()
    engine.run()
    fell = before - loss()
    summed = sum(float(path.sum()) for path in engine.method.path.tensors().values())
    assert fell > 0.01
    assert summed == pytest.approx(fell, rel=0.02)


@given(
    path=st.floats(-10, 10),
    distance=st.floats(-10, 10),
    damping=st.floats(1e-3, 10),
)
def test_importance_is_eq_5_and_never_negative(path, distance, damping):
    double = {"dtype": torch.float64}
    found = importance(torch.tensor(path, **double), torch.tensor(distance, **double), damping)
    assert float(found) == pytest.approx(max(0.0, path / (distance**2 + damping)))


def test_kept_between_tasks_is_the_penalty_not_the_path(tmp_path):
    engine = toy_engine(tmp_path, SI(), tasks=2, model=SmallNet())
    engine.run()
    trainable = sum(p.numel() for p in engine.modules.parameters() if p.requires_grad)
    assert engine.method.memory_bytes(engine.stream) == 2 * 8 * trainable
    assert sum(path.numel() for path in engine.method.path.tensors().values()) == trainable


def test_each_task_begins_a_new_path(tmp_path):
    engine = toy_engine(tmp_path, SI(), tasks=2, model=SmallNet())
    engine.learn(engine.stream[0])
    first = weights_of(engine.modules)
    engine.method.before_task(engine.stream[1], engine)
    assert_close(engine.method.anchor.tensors(), first, atol=0)
    assert not any(path.any() for path in engine.method.path.tensors().values())


def test_a_weight_that_is_set_free_later_has_a_path_from_where_it_is(tmp_path):
    engine = toy_engine(tmp_path, SI(), tasks=2, model=SmallNet())
    frozen = engine.modules["model"].frozen
    engine.learn(engine.stream[0])
    frozen.requires_grad_(True)
    engine.method.before_task(engine.stream[1], engine)
    assert torch.equal(engine.method.anchor.tensors()["model.frozen.weight"], frozen.weight)
    engine.learn(engine.stream[1])
    assert engine.method.path.tensors()["model.frozen.weight"].all()
    assert engine.method.importance.tensors()["model.frozen.weight"].max() > 0


def test_nothing_of_a_step_is_kept_after_it(tmp_path):
    engine = toy_engine(tmp_path, SI(), tasks=2, model=SmallNet())
    engine.run()
    assert engine.method._grads == []


def test_gradients_are_noted_before_they_are_clipped(tmp_path):
    # a path of clipped gradients would not sum to the fall of the loss
    paths = []
    for max_grad_norm in (5.0, 1e-3):
        engine = toy_engine(
            tmp_path / str(max_grad_norm), SI(), tasks=1, max_grad_norm=max_grad_norm, epochs=1
        )
        engine.run()
        paths.append(sum(float(path.sum()) for path in engine.method.path.tensors().values()))
    plain = toy_engine(tmp_path / "plain", FineTune(), tasks=1, max_grad_norm=1e-3, epochs=1)
    start = weights_of(plain.modules)
    plain.run()
    moved = sum((v - start[n]).square().sum() for n, v in weights_of(plain.modules).items())
    # with the clipped gradient it were at most 1e-3 times the length of the way
    assert paths[1] > 5 * 1e-3 * float(moved.sqrt())


@pytest.mark.parametrize("damping", [0.0, -1.0])
def test_damping_must_be_positive(damping):
    with pytest.raises(ValueError, match="it must be positive"):
        SI(damping=damping)
