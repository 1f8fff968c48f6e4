"""The penalty that EWC and SI share, against the penalty written out in the loss."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from speechcl.method import Step
from speechcl.methods import EWC, SI, FineTune
from speechcl.methods.quadratic_penalty import QuadraticPenalty, trained
from tests.methods.by_hand import (
    SmallNet,
    assert_close,
    bare,
    small_pair,
    train_by_hand,
    weights_of,
)
from tests.toy import ToyNet, same, toy_engine, weights


class Given(QuadraticPenalty):
    """Finds weights important at random, each task more so."""

    def measure(self, task, engine):
        return {n: importance_of(p, n, task.index) for n, p in trained(engine.modules).items()}


def importance_of(parameter, name, index):
    generator = torch.Generator().manual_seed(sum(map(ord, name.split("model.")[-1])))
    drawn = torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
    return (index + 1) * drawn.to(parameter.dtype)


def written_out(model, anchor, importance, strength):
    """The penalty as the paper prints it."""
    pulls = [
        (importance[n] * (p - anchor[n]).square()).sum()
        for n, p in model.named_parameters()
        if n in anchor
    ]
    return strength / 2 * sum(pulls)


def a_step(modules):
    return Step(task=None, brain=None, modules=modules, incoming=None, batch=None, index=0, total=1)


# ---- the gradient
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), strength=st.floats(0, 1e4))
def test_what_is_added_is_the_gradient_of_the_penalty_written_out(seed, strength):
    torch.manual_seed(seed)
    model, method = SmallNet(), QuadraticPenalty(strength)
    modules, x = nn.ModuleDict({"model": model}), torch.randn(4, 8)
    anchor = {f"model.{n}": p + torch.randn_like(p) for n, p in weights_of(model).items()}
    importance = {name: torch.rand_like(value) for name, value in anchor.items()}
    method.anchor.put(anchor)
    method.importance.put(importance)
    loss = model(x)[0].square().mean() + written_out(
        model, bare(anchor), bare(importance), strength
    )
    names = [n for n, _ in model.named_parameters() if n in bare(anchor) and "idle" not in n]
    parameters = dict(model.named_parameters())
    expected = torch.autograd.grad(loss, [parameters[name] for name in names])
    model(x)[0].square().mean().backward()
    method.after_backward(a_step(modules))
    assert_close([parameters[n].grad for n in names], expected, atol=1e-12 * max(1, strength))
    assert model.idle.weight.grad is None
    assert model.frozen.weight.grad is None


def test_a_weight_is_pulled_towards_where_it_was():
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 3.0)
    method = QuadraticPenalty(strength=10.0)
    method.anchor.put({"layer.weight": torch.tensor([[1.0]])})
    method.importance.put({"layer.weight": torch.tensor([[0.5]])})
    layer.weight.grad = torch.tensor([[0.25]])
    method.after_backward(a_step(nn.ModuleDict({"layer": layer})))
    assert layer.weight.grad.item() == 0.25 + 10.0 * 0.5 * (3.0 - 1.0)


def test_a_new_weight_without_an_anchor_is_free():
    modules = nn.ModuleDict({"old": nn.Linear(1, 1), "new": nn.Linear(1, 1)})
    method = QuadraticPenalty(strength=1.0)
    old = {name: p.detach() - 1 for name, p in trained(modules).items() if "old" in name}
    method.anchor.put(old)
    method.importance.put({name: torch.ones_like(value) for name, value in old.items()})
    for parameter in modules.parameters():
        parameter.grad = torch.zeros_like(parameter)
    method.after_backward(a_step(modules))
    assert {name: one.grad.item() for name, one in modules.named_parameters()} == {
        "old.weight": 1.0,
        "old.bias": 1.0,
        "new.weight": 0.0,
        "new.bias": 0.0,
    }


def test_a_batch_that_reaches_no_held_weight_changes_nothing():
    modules = nn.ModuleDict({"old": nn.Linear(1, 1), "new": nn.Linear(1, 1)})
    method = QuadraticPenalty(strength=1.0)
    method.anchor.put({"old.weight": torch.ones(1, 1)})
    method.importance.put({"old.weight": torch.ones(1, 1)})
    modules["new"](torch.ones(1, 1)).sum().backward()
    method.after_backward(a_step(modules))
    assert modules["old"].weight.grad is None
    assert modules["new"].weight.grad.item() == 1.0


# ---- whole runs
@pytest.mark.parametrize("strength", [0.3, 3e3], ids=["gentle", "so strong that it is clipped"])
def test_training_is_a_plain_loop_with_the_penalty_in_the_loss(strength, tmp_path):
    model, twin = small_pair()
    engine = toy_engine(tmp_path, Given(strength), tasks=3, model=model)
    anchor, importance, norms = {}, {}, []

    def loss(task, features, labels):
        found = functional.cross_entropy(twin(features)[0], labels)
        if anchor:
            found = found + written_out(twin, anchor, importance, strength)
            grads = torch.autograd.grad(found, list(used(twin).values()), retain_graph=True)
            norms.append(float(torch.cat([grad.flatten() for grad in grads]).norm()))
        return found

    def after_task(task):
        anchor.update(weights_of(twin))
        for name, value in anchor.items():
            importance[name] = importance_of(value, name, task.index)

    engine.run()
    train_by_hand(twin, engine.stream, loss, after_task=after_task)
    assert_close(weights_of(model), weights_of(twin))
    assert (max(norms) > 5.0) == (strength > 1), "clipping comes after the penalty has joined"
    assert_close(bare(engine.method.anchor.tensors()), weights_of(twin))
    assert_close(bare(engine.method.importance.tensors()), importance)


def used(model):
    return {n: p for n, p in model.named_parameters() if p.requires_grad and "idle" not in n}


@pytest.mark.parametrize("method", [Given, EWC, SI])
def test_strength_0_is_fine_tuning_bit_for_bit(method, tmp_path):
    plain = toy_engine(tmp_path / "plain", FineTune(), tasks=2)
    plain.run()
    other = toy_engine(tmp_path / "other", method(strength=0.0), tasks=2)
    other.run()
    assert same(weights(plain), weights(other))


def test_a_strong_penalty_holds_the_weights(tmp_path):
    moved = {}
    for strength in (0.0, 1.0, 20.0):
        engine = toy_engine(tmp_path / str(strength), Given(strength), tasks=2, lr=0.01)
        engine.learn(engine.stream[0])
        start = weights(engine)
        engine.learn(engine.stream[1])
        ends = weights(engine)
        moved[strength] = sum(float((ends[n] - start[n]).square().sum()) for n in start)
    assert moved[20.0] < 0.5 * moved[0.0]
    assert moved[20.0] < moved[1.0] < moved[0.0]


# ---- plumbing
@pytest.mark.parametrize("make", [EWC, SI])
def test_kept_are_two_numbers_a_trainable_weight(make, tmp_path):
    model = ToyNet()
    model.convolution.requires_grad_(False)
    engine = toy_engine(tmp_path, make(), tasks=2, model=model)
    engine.run()
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert engine.method.memory_bytes(engine.stream) == 2 * 4 * trainable
    assert not any("convolution" in name for name in engine.method.importance.layout())


@pytest.mark.parametrize("make", [EWC, SI])
def test_a_negative_strength_is_refused(make):
    with pytest.raises(ValueError, match="strength is -1.0: it must not be negative"):
        make(strength=-1.0)


def test_a_subclass_must_say_what_matters():
    with pytest.raises(NotImplementedError, match="QuadraticPenalty says no importance"):
        QuadraticPenalty(1.0).measure(None, None)
