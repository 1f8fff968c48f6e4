"""RWM and OWM against slow versions of the papers' equations, and the plumbing around them."""

import functools
import itertools
import logging
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from speechcl.backbones import StatisticsNet
from speechcl.brains import DetectionBrain
from speechcl.data.features import FeatureSet
from speechcl.engine import Engine, Training
from speechcl.memory import Projector
from speechcl.methods import OWM, RWM, FineTune
from speechcl.methods.projection import (
    joined_gradient,
    mean_rows,
    protected_layers,
    put_gradient,
    width,
)
from speechcl.methods.rwm import angle, class_distance, compact_of, official_matrix
from speechcl.sampling import EpochBatches
from speechcl.task import make_stream
from tests.toy import WIDTH, ToyNet, same, toy_clips, toy_engine, weights

seeds = st.integers(0, 10_000)


def draw(seed, *shape, dtype=torch.float32):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def batch_of(seed, size, spread=3.0):
    labels = torch.randint(0, 2, (size,), generator=torch.Generator().manual_seed(seed + 1))
    return spread * draw(seed, size, 2), labels


# ---- the angle
def slow_angle(logits, labels, compact):
    correct = [float(row[label]) for row, label in zip(logits.double(), labels, strict=True)]
    top = max(correct)
    powers = [math.exp(value - top) for value in correct]
    turn = math.pi / 4
    for power, label in zip(powers, labels.tolist(), strict=True):
        sign = 1 if label in compact else -1
        turn += 0.5 * sign * math.asin(power / sum(powers))
    return turn


@settings(max_examples=100, deadline=None)
@given(seed=seeds, size=st.integers(1, 64), spread=st.sampled_from([0.0, 1.0, 10.0, 1e4]))
def test_angle_is_the_slow_one_and_stays_between_0_and_half_pi(seed, size, spread):
    logits, labels = batch_of(seed, size, spread)
    found = float(angle(logits, labels, {1}))
    assert 0 <= found <= math.pi / 2 + 1e-6
    # the slope of arcsin is infinite at 1: half an ulp of float32 there is 3.5e-4 rad
    tolerance = 1e-5 if spread <= 1 else 1e-3
    assert found == pytest.approx(slow_angle(logits, labels, {1}), abs=tolerance)


@settings(max_examples=50, deadline=None)
@given(seed=seeds, size=st.integers(1, 64))
def test_angle_of_one_group_only(seed, size):
    logits, labels = batch_of(seed, size)
    assert angle(logits, labels, {0, 1}) >= math.pi / 4 + 0.5 - 1e-6
    assert angle(logits, labels, set()) <= math.pi / 4 - 0.5 + 1e-6


@settings(max_examples=50, deadline=None)
@given(seed=seeds, size=st.integers(2, 64), shift=st.floats(-50, 50))
def test_angle_mirrors_with_the_groups_and_ignores_a_constant(seed, size, shift):
    logits, labels = batch_of(seed, size)
    one, other = (float(angle(logits, labels, {c})) - math.pi / 4 for c in (0, 1))
    assert one == pytest.approx(-other, abs=1e-5)
    assert float(angle(logits + shift, labels, {0})) - math.pi / 4 == pytest.approx(one, abs=1e-4)


def test_the_surest_item_decides_and_rotation_stays_finite():
    logits = torch.tensor([[0.0, 1e4], [0.0, 0.0]])
    turn = angle(logits, torch.tensor([1, 0]), {1})
    assert float(turn) == pytest.approx(math.pi / 2)
    projector = Projector(4)
    projector.absorb(draw(0, 3, 4))
    assert projector.rotate(draw(1, 2, 4), turn).isfinite().all()


def test_no_gradient_flows_through_the_angle():
    logits = draw(0, 4, 2).requires_grad_()
    assert not angle(logits, torch.tensor([0, 1, 1, 0]), {1}).requires_grad


# ---- the groups
def slow_distance(features, labels):
    found = {}
    for c in sorted(set(labels.tolist())):
        rows = features[labels == c].double()
        cosines = [
            float(torch.nn.functional.cosine_similarity(rows[i], rows[j], dim=0))
            for i, j in itertools.permutations(range(len(rows)), 2)
        ]
        if cosines:
            found[c] = 1 - sum(cosines) / len(cosines)
    return found


@settings(max_examples=15, deadline=None)
@given(seed=seeds, size=st.integers(1, 12))
def test_distance_by_sums_is_the_mean_over_all_pairs(seed, size):
    labels = torch.randint(0, 3, (size,), generator=torch.Generator().manual_seed(seed))
    features = draw(seed, size, 4) + labels[:, None]
    assert class_distance(features, labels) == pytest.approx(
        slow_distance(features, labels), abs=1e-9
    )


def test_identical_vectors_have_distance_0():
    features = torch.tensor([[3.0, 4.0]]).repeat(7, 1)
    assert class_distance(features, torch.ones(7).long()) == {1: pytest.approx(0.0, abs=1e-12)}


def test_compact_is_below_the_mean_and_ties_are_spread():
    assert compact_of({0: 0.1, 1: 0.2, 2: 0.9}) == {0, 1}
    assert compact_of({0: 0.3, 1: 0.3}) == set()
    assert compact_of({}) == set()


class Bare(nn.Module):
    """A linear classifier whose embedding is its input."""

    def __init__(self):
        super().__init__()
        self.classify = nn.Linear(WIDTH, 2)

    def forward(self, x):
        return self.classify(x), x


def tight_and_wide(seed, tight):
    """Clips of one class lie close around a point, those of the other all over the place."""
    features = draw(seed, 60, WIDTH)
    genuine = torch.arange(60) % 3 == 0
    features[genuine == (tight == 1)] *= 0.1
    features[genuine == (tight == 1), 0] += 2.0
    names = ["bonafide" if one else "spoof" for one in genuine.tolist()]
    return FeatureSet(features, [{"ID": str(i), "label": name} for i, name in enumerate(names)])


@pytest.mark.parametrize("tight", [0, 1])
def test_auto_finds_the_tight_class_from_sums_over_all_tasks(tight, tmp_path):
    parts = [tight_and_wide(seed, tight) for seed in range(2)]
    engine = small_engine(
        tmp_path, RWM(compact="auto"), make_stream([(f"t{k}", p, p) for k, p in enumerate(parts)])
    )
    engine.run()
    assert engine.method.compact_classes() == {tight}
    assert engine.method.class_counts.tolist() == [80, 40]
    both = parts[0] + parts[1]
    unit = nn.functional.normalize(both.features.double(), dim=1)
    expected = torch.stack([unit[both.labels == c].sum(0) for c in (0, 1)])
    torch.testing.assert_close(engine.method.class_sums, expected)


# ---- training steps
def small_engine(folder, method, stream, model=None, epochs=1, lr=0.1):
    torch.manual_seed(0)
    return Engine(
        brain=DetectionBrain,
        modules={"model": model or Bare()},
        method=method,
        stream=stream,
        training=Training(functools.partial(torch.optim.SGD, lr=lr), epochs=epochs, seed=3),
        folder=folder,
        run_opts={"noprogressbar": True, "device": "cpu"},
    )


def slow_training(stream, weight, compact, alpha, lr, epochs, always=None):
    """Section 5.1 for one linear layer with bias, as loops in float64; clipping as the brain's."""
    weight = weight.double().clone()
    away = torch.eye(weight.shape[1], dtype=torch.float64)
    for task in stream:
        batches = EpochBatches(len(task.train), 32, seed=3 * 1009 + task.index)
        for epoch in range(1, epochs + 1):
            batches.set_epoch(epoch)
            for chosen in batches:
                x = torch.cat([task.train.features[chosen], torch.ones(len(chosen), 1)], 1).double()
                y = task.train.labels[chosen]
                logits = x @ weight.T
                error = logits.softmax(1) - torch.eye(2, dtype=torch.float64)[y]
                grad = error.T @ x / len(x)
                mean = x.mean(0, keepdim=True)
                k = away @ mean.T
                away = away - k @ k.T / (alpha + float(mean @ k))
                if task.index > 0:
                    turn = slow_angle(logits, y, compact) if always is None else always
                    along = torch.eye(len(away), dtype=torch.float64) - away
                    norm, other = away.square().sum().sqrt(), along.square().sum().sqrt()
                    turned = math.cos(turn) * away / norm + math.sin(turn) * along / other
                    grad = grad @ (norm * turned)
                grad *= min(1.0, 5.0 / (float(grad.square().sum().sqrt()) + 1e-6))
                weight -= lr * grad
    return weight, away


@pytest.mark.parametrize(
    ("method", "compact", "always"),
    [(RWM(alpha=0.7), {1}, None), (RWM(alpha=0.7, compact=[0]), {0}, None), (OWM(0.7), set(), 0.0)],
    ids=["RWM", "RWM with the other group", "OWM"],
)
def test_training_is_the_sheets_loop(method, compact, always, tmp_path):
    stream = make_stream([(f"t{k}", toy_clips(k, 2.0 * k), toy_clips(9, 0.0)) for k in range(3)])
    engine = small_engine(tmp_path, method, stream, epochs=2)
    layer = engine.modules["model"].classify
    start = torch.cat([layer.weight, layer.bias[:, None]], 1).detach()
    expected, away = slow_training(stream, start, compact, 0.7, 0.1, 2, always)
    engine.run()
    found = torch.cat([layer.weight, layer.bias[:, None]], 1).detach().double()
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    torch.testing.assert_close(
        method.projectors["model/classify"].matrix().double(), away, rtol=0, atol=1e-5
    )


def test_official_matrix_is_the_released_formula():
    projector = Projector(12, dtype=torch.float64)
    projector.absorb_rows(draw(0, 30, 12, dtype=torch.float64))
    away = projector.matrix()
    first = away / away.square().sum().sqrt()
    torch.testing.assert_close(official_matrix(away, 0.0), first)
    # P is invertible, so Q = I - P (P'P)^-1 P' is rounding noise of norm 1 after normalising (P3)
    for turn, beta in [(0.3, math.tan(0.3)), (1.2, math.tan(1.2)), (math.pi / 2, 100.0)]:
        rest = official_matrix(away, turn) - first
        assert float(torch.linalg.matrix_norm(rest)) == pytest.approx(beta, rel=1e-6)


def test_official_mode_skips_the_first_task_and_stores_p_normalised(tmp_path):
    first = toy_engine(tmp_path / "one", RWM(mode="official"), tasks=1)
    first.run()
    for projector in first.method.projectors.values():
        assert torch.equal(projector.matrix(), torch.eye(len(projector.matrix())))
    second = toy_engine(tmp_path / "two", RWM(mode="official"), tasks=2)
    second.run()
    for projector in second.method.projectors.values():
        assert float(torch.linalg.matrix_norm(projector.matrix())) == pytest.approx(1.0, abs=1e-4)


def test_official_rotation_multiplies_by_the_transpose():
    projector, method = Projector(3), RWM(mode="official")
    projector.away.copy_(draw(0, 3, 3))
    grad = draw(1, 2, 3)
    expected = grad @ (projector.matrix() / torch.linalg.matrix_norm(projector.matrix())).T
    torch.testing.assert_close(method.rotate(projector, grad, 0.0), expected)


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="official"):
        RWM(mode="offical")


# ---- plumbing
def spy(base, **options):
    """A method that keeps the gradients of the first step of the second task."""

    class Spy(base):
        caught = None

        def after_backward(self, step):
            super().after_backward(step)
            if step.task.index == 1 and step.index == 0:
                self.caught = {n: p.grad.clone() for n, p in step.modules.named_parameters()}

    return Spy(**options)


@pytest.mark.parametrize("method", [OWM, RWM])
@pytest.mark.parametrize("wrap", [False, True])
def test_projected_steps_are_the_batches_from_the_second_task_on(method, wrap, tmp_path):
    model = nn.Sequential(nn.Sequential(ToyNet())) if wrap else ToyNet()
    engine = toy_engine(tmp_path, method(), tasks=3, epochs=2, model=model)
    engine.run()
    assert engine.method.projected_steps == 2 * 2 * len(EpochBatches(120, 32, seed=0))
    assert len(engine.method.projectors) == 3


@pytest.mark.parametrize("method", [OWM, RWM])
def test_only_protected_layers_get_other_gradients(method, tmp_path):
    plain = toy_engine(tmp_path / "plain", spy(FineTune), tasks=2)
    plain.run()
    other = toy_engine(tmp_path / "other", spy(method, layers=["model.hidden"]), tasks=2)
    other.run()
    one, two = plain.method.caught, other.method.caught
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]) == (not name.startswith("model.hidden")), name


@pytest.mark.parametrize("method", [OWM, RWM])
def test_first_task_is_plain_training_but_absorbed(method, tmp_path):
    plain = toy_engine(tmp_path / "plain", FineTune(), tasks=1)
    plain.run()
    other = toy_engine(tmp_path / "other", method(), tasks=1)
    other.run()
    assert same(weights(plain), weights(other))
    assert other.method.projected_steps == 0
    for projector in other.method.projectors.values():
        assert projector.matrix().trace() < len(projector.matrix()) - 0.5


def test_evaluation_absorbs_nothing(tmp_path):
    engine = toy_engine(tmp_path, RWM(), tasks=1)
    engine.run()
    before = {name: value.clone() for name, value in engine.method.state_dict().items()}
    engine.evaluate()
    assert same(before, engine.method.state_dict())


class SecondLook(DetectionBrain):
    """Runs the model once more on something else, without gradients, as a teacher would."""

    def compute_forward(self, batch, stage):
        with torch.no_grad():
            self.modules["model"](100 * batch["features"])
        return super().compute_forward(batch, stage)


def test_passes_without_gradient_are_not_absorbed(tmp_path):
    plain, other = (toy_engine(tmp_path / name, OWM(), tasks=1) for name in ("plain", "other"))
    for engine in (plain, other):
        engine.modules["model"].drop.p = 0.0  # else the second pass moves the generator
    other.make_brain = SecondLook
    plain.run()
    other.run()
    assert same(plain.method.state_dict(), other.method.state_dict())


@pytest.mark.parametrize("options", [{}, {"compact": "auto"}])
def test_state_goes_on_bit_for_bit_in_a_new_object(options, tmp_path):
    engine = toy_engine(tmp_path, RWM(**options), tasks=2)
    engine.run()
    copy = RWM(**options)
    copy.build(engine.modules, engine.method.structure())
    copy.load_state_dict(engine.method.state_dict())
    rows = draw(0, 2, 17)
    for method in (engine.method, copy):
        method.projectors["model/classify"].absorb(rows)
    assert same(engine.method.state_dict(), copy.state_dict())
    assert copy.compact_classes() == engine.method.compact_classes()


def test_memory_is_the_bytes_of_the_projectors(tmp_path):
    engine = toy_engine(tmp_path, OWM(), tasks=1)
    engine.run()
    assert engine.method.memory_bytes([]) == 4 * (4**2 + (3 * WIDTH + 1) ** 2 + 17**2)


# ---- layers
def test_a_layer_without_gradient_is_left_alone():
    assert joined_gradient(nn.Linear(2, 2)) is None


def test_convolution_step_at_angle_0_keeps_old_outputs(tmp_path):
    layer, old = nn.Conv1d(2, 3, 3, padding=1), draw(0, 6, 2, 5)
    projector = Projector(width(layer))
    for _ in range(300):
        projector.absorb_rows(mean_rows(layer, old))
    layer(draw(1, 4, 2, 5)).square().sum().backward()
    before, moved = layer(old).mean(0), [p.grad.clone() for p in layer.parameters()]
    put_gradient(layer, projector.rotate(joined_gradient(layer), 0.0))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter -= 0.1 * parameter.grad
        change = (layer(old).mean(0) - before).abs().max()
        for parameter, grad in zip(layer.parameters(), moved, strict=True):
            parameter += 0.1 * parameter.grad - 0.1 * grad
        plain = (layer(old).mean(0) - before).abs().max()
    assert change < 0.05 * plain


def net_of_all_kinds():
    return nn.ModuleDict(
        {
            "model": nn.Sequential(
                nn.Linear(2, 2),
                nn.Conv1d(2, 2, 1),
                nn.Conv2d(2, 2, 1),
                nn.Conv1d(2, 2, 1, groups=2),
                nn.Conv1d(2, 2, 3, padding=1, padding_mode="circular"),
                nn.Conv1d(2, 2, 3, padding="same"),
                nn.BatchNorm1d(2),
                nn.Linear(2, 2).requires_grad_(False),
            ),
            "head": nn.Linear(2, 2),
        }
    )


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["*"], ["head", "model/0", "model/1", "model/2"]),
        (["model.*"], ["model/0", "model/1", "model/2"]),
        (["head"], ["head"]),
        (["model.[01]", "head"], ["head", "model/0", "model/1"]),
    ],
)
def test_patterns_choose_trainable_layers_that_can_be_unfolded(patterns, expected):
    assert sorted(protected_layers(net_of_all_kinds(), patterns)) == expected


@pytest.mark.parametrize("method", [OWM, RWM])
def test_no_layer_found_is_an_error(method, tmp_path):
    engine = toy_engine(tmp_path, method(layers=["modle.*"]), tasks=1)
    with pytest.raises(ValueError, match="modle"):
        engine.run()


def test_a_frozen_bias_beside_a_trained_weight_works(tmp_path):
    model = ToyNet()
    model.hidden.bias.requires_grad_(False)
    before = model.hidden.bias.clone()
    toy_engine(tmp_path, RWM(), tasks=2, model=model).run()
    assert torch.equal(before, model.hidden.bias)


@pytest.mark.parametrize(
    ("optimizer", "warns"),
    [
        (functools.partial(torch.optim.Adam, lr=0.01), "Adam undoes"),
        (functools.partial(torch.optim.AdamW, lr=0.01), "AdamW with weight decay undoes"),
        (
            functools.partial(torch.optim.SGD, lr=0.01, weight_decay=0.1),
            "SGD with weight decay undoes",
        ),
        (functools.partial(torch.optim.SGD, lr=0.01, momentum=0.9), None),
    ],
)
def test_warns_about_optimizers_that_undo_the_projection(optimizer, warns, tmp_path, caplog):
    stream = make_stream([("a", toy_clips(0, 0.0), toy_clips(1, 0.0))])
    engine = small_engine(tmp_path, OWM(), stream, model=StatisticsNet(WIDTH, (4,)))
    object.__setattr__(engine.training, "optimizer", optimizer)
    with caplog.at_level(logging.WARNING, logger="speechcl.methods.projection"):
        engine.run()
    found = [record.getMessage() for record in caplog.records if "undoes" in record.getMessage()]
    assert len(found) == (warns is not None)
    assert warns is None or warns in found[0]
