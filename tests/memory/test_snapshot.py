"""The former model answers as a deep copy in evaluation mode would, and asking leaves no trace."""

import contextlib
import copy

import pytest
import torch
from torch import nn

from speechcl.memory import Snapshot
from speechcl.memory.snapshot import evaluating
from tests.toy import same


class Tied(nn.Module):
    """Every kind of thing a model may hold; one layer has two names, and one weight two owners."""

    def __init__(self):
        super().__init__()
        self.base = nn.Linear(4, 6).requires_grad_(False)
        self.norm = nn.BatchNorm1d(6)
        self.drop = nn.Dropout(0.5)
        self.inner = nn.Linear(6, 6)
        self.again = self.inner
        self.rows = nn.LSTM(6, 6)
        self.other = nn.Linear(6, 6)
        self.other.weight = self.inner.weight
        self.head = nn.Linear(6, 2, bias=False)
        self.register_buffer("scale", torch.tensor(2.0))
        self.register_buffer("shift", torch.ones(2), persistent=False)

    def forward(self, x):
        x = self.drop(torch.relu(self.norm(self.base(x))))
        x = self.other(self.again(torch.tanh(self.inner(self.rows(x)[0]))))
        return self.scale * self.head(x) + self.shift


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def train_a_little(model, steps=5):
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        model(3 + 2 * draw(16, 4)).square().mean().backward()
        optimizer.step()
    model.scale += 0.5
    model.shift -= 0.25


@pytest.fixture
def taken():
    """Return modules that went on learning, a snapshot of them before, and a deep copy of then."""
    torch.manual_seed(0)
    model = Tied()
    train_a_little(model)
    modules = nn.ModuleDict({"model": model})
    then, twin = Snapshot(), copy.deepcopy(model).eval()
    then.take(modules)
    train_a_little(model)
    return modules, then, twin


def test_answers_are_those_of_a_deep_copy_in_evaluation_mode(taken):
    modules, then, twin = taken
    x = draw(9, 4)
    found = then.ask(modules, lambda: modules["model"](x))
    with torch.no_grad():
        assert torch.equal(found, twin(x))
    modules.eval()
    assert not torch.allclose(found, modules["model"](x), atol=0.1), "the model did not move on"


def test_asking_leaves_no_trace(taken):
    modules, then, _ = taken
    modules["model"].norm.eval()
    modes = [module.training for module in modules.modules()]
    state = copy.deepcopy(modules.state_dict())
    parameters, kept = list(modules.parameters()), copy.deepcopy(then.state_dict())
    grads = [p.grad if p.grad is None else p.grad.clone() for p in parameters]
    random = torch.get_rng_state()
    for _ in range(2):
        then.ask(modules, lambda: modules["model"](draw(9, 4)))
    assert [module.training for module in modules.modules()] == modes
    assert same(modules.state_dict(), state)
    assert same(then.state_dict(), kept)
    assert all(a is b for a, b in zip(modules.parameters(), parameters, strict=True))
    for parameter, grad in zip(parameters, grads, strict=True):
        assert (grad is None) == (parameter.grad is None)
        assert grad is None or torch.equal(parameter.grad, grad)
    assert torch.equal(torch.get_rng_state(), random)


def test_a_question_that_fails_leaves_no_trace_either(taken):
    modules, then, _ = taken
    state = copy.deepcopy(modules.state_dict())
    with pytest.raises(ZeroDivisionError):
        then.ask(modules, lambda: 1 / 0)
    assert same(modules.state_dict(), state)
    assert modules["model"].drop.training


def test_no_gradient_is_recorded_and_the_live_model_can_still_be_trained(taken):
    modules, then, _ = taken
    assert not then.ask(modules, lambda: modules["model"](draw(9, 4))).requires_grad
    modules.zero_grad()
    modules["model"](draw(9, 4)).square().mean().backward()
    assert modules["model"].head.weight.grad.abs().sum() > 0


def test_taking_again_forgets_the_first(taken):
    modules, then, _ = taken
    then.take(modules)
    x = draw(9, 4)
    found = then.ask(modules, lambda: modules["model"](x))
    with torch.no_grad():
        assert torch.equal(found, modules.eval()["model"](x))


def test_frozen_weights_are_not_copied(taken):
    modules, then, _ = taken
    assert set(then.layout()) == {
        *("model.norm.weight", "model.norm.bias", "model.norm.running_mean"),
        *("model.norm.running_var", "model.norm.num_batches_tracked"),
        *("model.inner.weight", "model.inner.bias", "model.other.bias", "model.head.weight"),
        *(f"model.rows.{kind}_{side}_l0" for kind in ("weight", "bias") for side in ("ih", "hh")),
        *("model.scale", "model.shift"),
    }
    assert not any(isinstance(module, Tied) for module in then.modules())


def test_saved_and_loaded_answers_alike(taken):
    modules, then, twin = taken
    other = Snapshot()
    other.allocate(then.layout())
    other.load_state_dict(then.state_dict())
    x = draw(9, 4)
    with torch.no_grad():
        assert torch.equal(other.ask(modules, lambda: modules["model"](x)), twin(x))


def test_evaluating_restores_each_mode_even_after_an_error():
    net = nn.Sequential(nn.Dropout(), nn.Dropout().eval(), nn.Sequential(nn.Dropout()))
    with contextlib.suppress(ZeroDivisionError), evaluating(net):
        assert not any(module.training for module in net.modules())
        raise ZeroDivisionError
    assert [module.training for module in net.modules()] == [True, True, False, True, True]
