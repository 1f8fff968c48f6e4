"""LwF against a deep copy of the old model, and the papers' equations written out."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from speechcl.methods import RAWM, FineTune, LwF
from speechcl.methods.distillation import Distiller, distillation
from tests.methods.by_hand import ActiveNet, assert_close, small_pair, train_by_hand, weights_of
from tests.toy import same, toy_engine, weights

seeds = st.integers(0, 10_000)
temperatures = st.floats(0.5, 8)


def draw(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(*shape, generator=generator, dtype=torch.float64)


def slow_distillation(logits, old_logits, temperature):
    """Eqs. 2 and 3, from the recorded probabilities."""
    total = 0.0
    for new, old in zip(logits, old_logits, strict=True):
        now, before = new.softmax(0) ** (1 / temperature), old.softmax(0) ** (1 / temperature)
        total = total - (before / before.sum() * (now / now.sum()).log()).sum()
    return total / len(logits)


# ---- the loss
@settings(max_examples=60, deadline=None)
@given(seed=seeds, size=st.integers(1, 8), classes=st.integers(2, 4), temperature=temperatures)
def test_loss_and_gradient_are_those_of_eqs_2_and_3(seed, size, classes, temperature):
    logits, old = draw(seed, size, classes).requires_grad_(), draw(seed + 1, size, classes)
    found = distillation(logits, old, temperature)
    expected = slow_distillation(logits, old, temperature)
    torch.testing.assert_close(found, expected)
    assert_close(torch.autograd.grad(found, logits), torch.autograd.grad(expected, logits))


@settings(max_examples=40, deadline=None)
@given(seed=seeds, temperature=temperatures)
def test_unchanged_answers_cost_least_and_are_not_pulled(seed, temperature):
    old = draw(seed, 5, 3)
    logits = old.clone().requires_grad_()
    least = distillation(logits, old, temperature)
    assert torch.autograd.grad(least, logits)[0].abs().max() < 1e-12
    assert distillation(draw(seed + 1, 5, 3), old, temperature) >= least - 1e-12


def test_a_constant_added_to_all_logits_changes_nothing():
    logits, old = draw(0, 5, 2), draw(1, 5, 2)
    expected = distillation(logits, old, 2.0)
    torch.testing.assert_close(distillation(logits + 7, old - 3, 2.0), expected)


# ---- the former model
class Watched(LwF):
    """Notes what the former model said, and what a deep copy of it would say."""

    def __init__(self, **options):
        super().__init__(**options)
        self.twins, self.pairs = [], []

    def before_batch(self, step):
        batch = super().before_batch(step)
        if self.twins:
            with torch.no_grad():
                expected = self.twins[-1][0](batch["features"])[0]
            self.pairs.append((self.distiller._old, expected))
        return batch

    def after_task(self, task, engine):
        super().after_task(task, engine)
        self.twins.append((copy.deepcopy(engine.modules["model"]).eval(),))  # hidden in a tuple


def test_the_former_model_answers_as_a_deep_copy_in_evaluation_mode(tmp_path):
    method = Watched()
    engine = toy_engine(tmp_path, method, tasks=3, model=ActiveNet())
    engine.run()
    assert len(method.pairs) == 2 * 8
    for found, expected in method.pairs:
        assert torch.equal(found, expected)
        assert not found.requires_grad
    assert len({float(found.sum()) for found, _ in method.pairs}) == len(method.pairs)


@pytest.mark.parametrize("tasks", [1, 2])
def test_asking_moves_neither_statistics_nor_random_numbers(tasks, tmp_path):
    plain = toy_engine(tmp_path / "plain", FineTune(), tasks=tasks, model=small_pair(ActiveNet)[0])
    plain.run()
    other = toy_engine(
        tmp_path / "other", LwF(strength=0.0), tasks=tasks, model=small_pair(ActiveNet)[0]
    )
    other.run()
    assert same(weights(plain), weights(other))


def test_the_copys_own_statistics_are_used(tmp_path):
    engine = toy_engine(tmp_path, LwF(), tasks=2, model=ActiveNet())
    engine.learn(engine.stream[0])
    model, x = engine.modules["model"], engine.stream[1].train.features
    with torch.no_grad():
        then = model.eval()(x)[0]
        model.norm.running_mean += 5.0
        found = engine.method.distiller.former.ask(engine.modules, lambda: model(x)[0])
        assert torch.equal(found, then)
        assert (model(x)[0] - then).abs().max() > 0.1


def test_without_a_question_there_is_no_penalty(tmp_path):
    assert Distiller(strength=1.0, temperature=2.0).penalty(None) == 0.0
    engine = toy_engine(tmp_path, LwF(), tasks=2)
    engine.run()
    assert engine.method.distiller.penalty(None) == 0.0, "the last batch's answers are still there"


def test_kept_between_tasks_is_what_can_change_in_the_model(tmp_path):
    model = ActiveNet()
    model.hidden.requires_grad_(False)
    engine = toy_engine(tmp_path, LwF(), tasks=2, model=model)
    engine.run()
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert engine.method.memory_bytes(engine.stream) == 4 * trainable + 4 * 2 * 16 + 8


# ---- whole runs
@pytest.mark.parametrize(("strength", "temperature"), [(1.0, 2.0), (3.0, 1.0)])
def test_training_is_a_plain_loop_with_eq_1(strength, temperature, tmp_path):
    model, twin = small_pair()
    engine = toy_engine(tmp_path, LwF(strength, temperature), tasks=3, model=model)
    former = []

    def loss(task, features, labels):
        logits = twin(features)[0]
        found = functional.cross_entropy(logits, labels)
        if former:
            with torch.no_grad():
                old = former[-1](features)[0]
            found = found + strength * slow_distillation(logits, old, temperature)
        return found

    engine.run()
    train_by_hand(
        twin, engine.stream, loss, after_task=lambda task: former.append(copy.deepcopy(twin))
    )
    assert_close(weights_of(model), weights_of(twin))


@pytest.mark.parametrize("method", [LwF, RAWM])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": -0.5}, "strength is -0.5: it must not be negative"),
        ({"temperature": 0.0}, "temperature is 0.0: it must be positive"),
        ({"temperature": -2.0}, "temperature is -2.0: it must be positive"),
    ],
)
def test_bad_settings_are_refused(method, options, message):
    with pytest.raises(ValueError, match=message):
        method(**options)
