"""RAWM against its equations: the counted angle, the matrix R, the distillation term."""

import copy
import dataclasses
import functools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from speechcl.brains import DetectionBrain
from speechcl.engine import Engine, Training
from speechcl.methods import OWM, RAWM
from speechcl.methods.rawm import counted_angle
from speechcl.sampling import EpochBatches
from speechcl.task import make_stream
from tests.methods.by_hand import ActiveNet, assert_close, small_pair
from tests.toy import WIDTH, same, toy_clips, toy_engine, weights

counts = st.integers(0, 500)


# ---- the angle
@given(genuine=counts, spoofed=counts)
def test_tangent_of_the_angle_is_the_papers_beta(genuine, spoofed):
    found = counted_angle(genuine, spoofed)
    assert 0 < found < math.pi / 2
    assert math.tan(found) == pytest.approx((genuine + 1) / (spoofed + 1))
    assert found + counted_angle(spoofed, genuine) == pytest.approx(math.pi / 2)
    assert counted_angle(genuine + 1, spoofed) > found > counted_angle(genuine, spoofed + 1)


@pytest.mark.parametrize(
    ("genuine", "spoofed", "degrees"),
    [(0, 0, 45.0), (4, 4, 45.0), (0, 31, 1.78991), (31, 0, 88.21009), (8, 23, 20.55605)],
)
def test_angles_of_some_batches(genuine, spoofed, degrees):
    assert math.degrees(counted_angle(genuine, spoofed)) == pytest.approx(degrees, abs=1e-4)


class Spy(RAWM):
    """Notes angle, gradients before and after the rotation, and projectors of each step."""

    def __init__(self, **options):
        super().__init__(**options)
        self.steps = []

    def after_backward(self, step):
        before = {n: p.grad.clone() for n, p in step.modules.named_parameters()}
        super().after_backward(step)
        after = {n: p.grad.clone() for n, p in step.modules.named_parameters()}
        aways = {key: one.matrix().clone() for key, one in self.projectors.items()}
        self.steps.append((step.task.index, step.batch["label"], before, after, aways))


def explicit(away, beta):
    """R, as printed but for Q = I - P and the scale |P| cos(angle), tan(angle) being beta."""
    norm = away.square().sum().sqrt()
    rest = torch.eye(len(away), dtype=away.dtype) - away
    along = beta * rest / rest.square().sum().sqrt()
    return norm / math.sqrt(1 + beta**2) * (away / norm + along)


@pytest.mark.parametrize("genuine", [1, 0])
def test_gradients_are_multiplied_by_the_explicit_matrix(genuine, tmp_path):
    method = Spy(genuine=genuine)
    toy_engine(tmp_path, method, tasks=2).run()
    betas = set()
    for index, labels, before, after, aways in method.steps:
        if index == 0:
            assert same(before, after)
            continue
        beta = (int((labels == genuine).sum()) + 1) / (int((labels != genuine).sum()) + 1)
        betas.add(beta)
        for name in ("hidden", "classify"):
            weight, bias = f"model.{name}.weight", f"model.{name}.bias"
            grad = torch.cat([before[weight], before[bias][:, None]], 1).double()
            expected = grad @ explicit(aways[f"model/{name}"].double(), beta)
            found = torch.cat([after[weight], after[bias][:, None]], 1).double()
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(before["model.norm.weight"], after["model.norm.weight"])
    assert len(betas) > 3


@pytest.mark.parametrize("label", [0, 1])
def test_batches_of_one_class_only(label, tmp_path):
    method = Spy()
    engine = toy_engine(tmp_path, method, tasks=2)
    task = engine.stream[1]
    places = [k for k, one in enumerate(task.train.labels.tolist()) if one == label]
    engine.stream[1] = dataclasses.replace(task, train=task.train.subset(places))
    engine.run()
    second = [step for step in method.steps if step[0] == 1]
    assert second
    for _, labels, before, after, _ in second:
        assert set(labels.tolist()) == {label}
        assert all(grad.isfinite().all() for grad in after.values())
        assert not same(before, after)


# ---- the loss
class Linear(nn.Module):
    """Logistic regression, whose gradient can be written down."""

    def __init__(self):
        super().__init__()
        self.classify = nn.Linear(WIDTH, 2)

    def forward(self, x):
        return self.classify(x), x


def slow_training(stream, weight, alpha, eta, temperature, lr):
    """One linear layer with bias in float64, everything by loops; clipping as the brain's."""
    weight, former = weight.double().clone(), None
    away = torch.eye(weight.shape[1], dtype=torch.float64)
    for task in stream:
        batches = EpochBatches(len(task.train), 32, seed=3 * 1009 + task.index)
        for epoch in (1, 2):
            batches.set_epoch(epoch)
            for chosen in batches:
                x = torch.cat([task.train.features[chosen], torch.ones(len(chosen), 1)], 1).double()
                y = task.train.labels[chosen]
                z = x @ weight.T
                error = z.softmax(1) - torch.eye(2, dtype=torch.float64)[y]
                if former is not None:  # slope of - old . log new, both softened
                    old = (x @ former.T / temperature).softmax(1)
                    error = error + eta * ((z / temperature).softmax(1) - old) / temperature
                grad = error.T @ x / len(x)
                mean = x.mean(0, keepdim=True)
                k = away @ mean.T
                away = away - k @ k.T / (alpha + float(mean @ k))
                if task.index > 0:
                    grad = grad @ explicit(away, (int(y.sum()) + 1) / (int((1 - y).sum()) + 1))
                grad *= min(1.0, 5.0 / (float(grad.square().sum().sqrt()) + 1e-6))
                weight -= lr * grad
        former = weight.clone()
    return weight, away


@pytest.mark.parametrize(("eta", "temperature"), [(0.5, 2.0), (4.0, 1.0), (0.0, 2.0)])
def test_training_is_the_papers_loop(eta, temperature, tmp_path):
    torch.manual_seed(0)
    model = Linear()
    stream = make_stream([(f"t{k}", toy_clips(k, 2.0 * k), toy_clips(9, 0.0)) for k in range(3)])
    method = RAWM(alpha=0.7, strength=eta, temperature=temperature)
    engine = Engine(
        brain=DetectionBrain,
        modules={"model": model},
        method=method,
        stream=stream,
        training=Training(functools.partial(torch.optim.SGD, lr=0.1), epochs=2, seed=3),
        folder=tmp_path,
        run_opts={"noprogressbar": True, "device": "cpu"},
    )
    layer = model.classify
    start = torch.cat([layer.weight, layer.bias[:, None]], 1).detach()
    expected, away = slow_training(stream, start, 0.7, eta, temperature, 0.1)
    engine.run()
    found = torch.cat([layer.weight, layer.bias[:, None]], 1).detach().double()
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    matrix = method.projectors["model/classify"].matrix().double()
    torch.testing.assert_close(matrix, away, rtol=0, atol=1e-5)


def test_asking_the_former_model_absorbs_nothing_and_moves_nothing(tmp_path):
    class Counted(OWM):
        """The same rotation without any former model."""

        angle = RAWM.angle
        genuine = 1

    plain = toy_engine(tmp_path / "plain", Counted(), tasks=2, model=small_pair(ActiveNet)[0])
    plain.run()
    method = RAWM(strength=0.0)
    other = toy_engine(tmp_path / "other", method, tasks=2, model=small_pair(ActiveNet)[0])
    other.run()
    assert same(weights(plain), weights(other))
    expected = plain.method.projectors.state_dict()
    assert same(method.projectors.state_dict(), expected)


def test_the_former_model_is_the_one_after_the_last_task(tmp_path):
    engine = toy_engine(tmp_path, RAWM(), tasks=2, model=ActiveNet())
    for task in engine.stream:
        engine.learn(task)
        twin = copy.deepcopy(engine.modules["model"]).eval()
        with torch.no_grad():
            engine.modules["model"].classify.weight += 1
            x = task.test.features
            found = engine.method.distiller.former.ask(
                engine.modules, lambda x=x: engine.modules["model"](x)[0]
            )
            engine.modules["model"].classify.weight -= 1
            assert_close([found], [twin(x)[0]], atol=0)


def test_kept_are_the_projectors_and_the_model(tmp_path):
    engine = toy_engine(tmp_path, RAWM(), tasks=1)
    engine.run()
    squares = 4**2 + (3 * WIDTH + 1) ** 2 + 17**2
    model = sum(p.numel() for p in engine.modules.parameters())
    assert engine.method.memory_bytes([]) == 4 * (squares + model)
