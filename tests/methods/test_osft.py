"""OSFT against brute force, and what it protects from task to task."""

import dataclasses
import functools

import pytest
import torch
from torch import nn
from torch.nn import functional

from speechcl.adapters import RankPolicy
from speechcl.adapters.subspace import split
from speechcl.methods import OSFT, FineTune
from speechcl.methods.osft import input_rows, measure_importance, subspace_layers
from tests.methods import mini_clip
from tests.toy import ADAPTED, ToyNet, same, toy_engine, weights

LAYERS = ["convolution", "hidden"]
RANKS = {"convolution": 3, "hidden": 16}


class Watched(OSFT):
    """Notes what every task protects, its importance, and its weights before and after."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.counts, self.heard, self.starts, self.ends, self.changes = [], [], [], [], []

    def before_task(self, task, engine):
        self.starts.append(weights(engine))
        super().before_task(task, engine)
        self.counts.append([int(one.preserved) for one in subspace_layers(engine.modules["model"])])
        assert self.structure()["preserved"] == dict(zip(LAYERS, self.counts[-1], strict=True))

    def after_task(self, task, engine):
        layers = subspace_layers(engine.modules["model"])
        self.changes.append([layer.change().detach().clone() for layer in layers])
        super().after_task(task, engine)
        self.heard.append(self.structure()["importance"])
        self.ends.append(weights(engine))


class GradientWatch(OSFT):
    """Notes the largest share of the factors' gradients that an optimizer sees inside."""

    worst = 0.0

    def after_backward(self, step):
        super().after_backward(step)
        for layer in subspace_layers(step.modules["model"]):
            u, v = layer.u_low.grad, layer.v_low.grad
            for inside, whole in ((layer.u_high.mT @ u, u), (v @ layer.v_high.mT, v)):
                self.worst = max(self.worst, float(inside.norm() / whole.norm()))


class OddNet(ToyNet):
    """Calls a layer by keyword, another one clip by clip, and some of which no rows are known."""

    def __init__(self):
        super().__init__()
        self.grouped = nn.Conv1d(4, 4, 3, groups=2, padding=1)
        self.attention = nn.MultiheadAttention(4, 1, batch_first=True)
        self.single = nn.Linear(16, 16)
        self.unused = nn.Linear(16, 16)

    def forward(self, x):
        x = torch.relu(self.norm(self.convolution(x[:, None]))).flatten(1)
        x = torch.relu(self.hidden(input=x))
        y = self.grouped(x.unflatten(1, (4, 4)))
        x = x + self.attention(y, y, y)[0].flatten(1)
        x = torch.stack([self.single(clip) for clip in x])
        return self.classify(x), x


def net_that_passes_on():
    """Its layers' outputs resemble their inputs, the linear one's more."""
    torch.manual_seed(0)
    model = ToyNet()
    with torch.no_grad():
        model.convolution.weight[:, 0] += 0.1 * torch.eye(3)
        model.hidden.weight += torch.eye(*model.hidden.weight.shape)
    return model


def learn_with_adam(engine):
    optimizer = functools.partial(torch.optim.AdamW, lr=0.01)
    engine.training = dataclasses.replace(engine.training, optimizer=optimizer)
    engine.run()


class Leaking(OSFT):
    """Notes the largest share of each task's change that lies in protected directions."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.leaks = []

    def after_task(self, task, engine):
        worst = 0.0
        model = engine.modules["model"]
        for path, layer in zip(mini_clip.TARGETS, subspace_layers(model), strict=True):
            base = model.get_submodule(path).base_tensor("weight").detach()
            change = layer.change().detach().double()
            cut = split(base.double(), int(layer.preserved))
            for inside in (cut.u_high.mT @ change, change @ cut.v_high.mT):
                worst = max(worst, float(inside.norm() / change.norm()))
        self.leaks.append(worst)
        super().after_task(task, engine)


def cosine(x, y):
    width = min(len(x), len(y))
    return float(functional.cosine_similarity(x[:width], y[:width], dim=0))


@torch.no_grad()
def importance_by_hand(model, clips):
    """A clip and an output at a time."""
    model.eval()
    found = {"convolution": [], "hidden": []}
    for clip in clips:
        padded = functional.pad(clip, (1, 1))
        kernel = model.convolution.weight.flatten(1)
        for start in range(len(clip)):
            window = padded[start : start + 3]
            found["convolution"].append(cosine(window, kernel @ window))
        heard = torch.relu(model.norm(model.convolution(clip[None, None]))).flatten()
        found["hidden"].append(cosine(heard, model.hidden.weight @ heard))
    return {path: sum(one) / len(one) for path, one in found.items()}


def test_importance_is_the_mean_cosine_of_inputs_and_outputs(tmp_path):
    model = ToyNet()
    engine = toy_engine(tmp_path, FineTune(), tasks=1, model=model)
    found = measure_importance(engine, engine.stream[0], LAYERS)
    expected = importance_by_hand(model, engine.stream[0].train.features)
    assert found == pytest.approx(expected, abs=1e-6)
    assert abs(found["hidden"] - found["convolution"]) > 1e-3
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_layers_whose_inputs_are_not_rows_or_that_are_not_called_have_no_importance(tmp_path):
    model = OddNet()
    engine = toy_engine(tmp_path, FineTune(), tasks=1, model=model)
    paths = [*LAYERS, "grouped", "attention", "single", "unused"]
    found = measure_importance(engine, engine.stream[0], paths)
    assert list(found) == [*LAYERS, "single"]
    expected = importance_by_hand(model, engine.stream[0].train.features)
    assert {path: found[path] for path in LAYERS} == pytest.approx(expected, abs=1e-6)


def test_a_model_with_such_layers_is_learnt_all_the_same(tmp_path):
    targets = [*LAYERS, "grouped", "attention", "single"]
    method = OSFT(targets, train="classify.*")
    toy_engine(tmp_path, method, tasks=1, epochs=1, clips=32, model=OddNet()).run()
    assert set(method.preserved) == {*targets}
    assert method.preserved["grouped"] == 1  # of 2 in each group


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv1d(3, 2, 3, stride=2, dilation=3, padding=4),
        nn.Conv1d(3, 2, 5, padding="same"),
        nn.Conv1d(3, 2, 3, padding="valid"),
        nn.Conv1d(3, 2, 3, padding=2, padding_mode="reflect"),
        nn.Conv2d(3, 2, (3, 2), stride=(2, 1), dilation=(1, 3), padding=(1, 0)),
        nn.Conv2d(3, 2, (3, 2), padding="same", padding_mode="circular"),
        nn.Linear(3, 2),
    ],
    ids=str,
)
@pytest.mark.parametrize("batch", [(), (4,)])
def test_rows_times_the_weight_are_the_output(layer, batch):
    sizes = () if isinstance(layer, nn.Linear) else (17, 11)[: len(layer.kernel_size)]
    x = torch.randn(*batch, 3, *sizes)
    rows = input_rows(layer, x) @ layer.weight.flatten(1).t() + layer.bias
    expected = layer(x).movedim(-1 - len(sizes), -1).flatten(0, -2) if sizes or batch else layer(x)
    torch.testing.assert_close(rows, expected.reshape(rows.shape), rtol=0, atol=1e-5)


def test_importance_outlives_a_restart(tmp_path):
    def start(part):
        method = Watched(**ADAPTED, policy=RankPolicy(0.1, 0.6, floors=()))
        return toy_engine(tmp_path / part, method, tasks=2, epochs=1, model=net_that_passes_on())

    whole, first = start("whole"), start("parts")
    for task in whole.stream:
        whole.learn(task)
    first.learn(first.stream[0])
    second = start("parts")
    assert second.resume() == (1, False)
    assert second.method.structure() == first.method.structure()
    assert len(second.method.structure()["importance"]) == 2
    second.learn(second.stream[1])
    assert second.method.counts == whole.method.counts[1:] != whole.method.counts[:1]
    assert same(weights(second), weights(whole))


def test_layers_follow_their_importance_to_the_last_task(tmp_path):
    method = Watched(**ADAPTED, policy=RankPolicy(0.1, 0.6, floors=()))
    engine = toy_engine(tmp_path, method, model=net_that_passes_on())
    engine.run()
    assert method.counts[0] == [1, 9]  # 60 % of 3 and of 16
    for task, heard in enumerate(method.heard):
        twin = ToyNet()
        twin.load_state_dict({k.partition(".")[2]: v for k, v in method.ends[task].items()})
        by_hand = importance_by_hand(twin, engine.stream[task].train.features)
        assert heard == pytest.approx(by_hand, abs=1e-5)
        assert list(heard) == LAYERS
        if task < 2:
            mean = sum(heard.values()) / len(heard)
            assert heard["hidden"] > 1.2 * mean > 0
            share = {path: 0.1 + 0.5 * one / mean for path, one in heard.items()}
            counts = [min(max(int(share[p] * RANKS[p]), 1), RANKS[p] - 1) for p in LAYERS]
            assert method.counts[task + 1] == counts != method.counts[0]
    assert method.memory_bytes(engine.stream) == 16


def test_a_growing_policy_protects_more_from_task_to_task(tmp_path):
    method = Watched(**ADAPTED, policy=RankPolicy.progressive((0.25, 0.5, 0.75)))
    engine = toy_engine(tmp_path, method)
    engine.run()
    assert method.counts == [[1, 4], [1, 8], [2, 12]]
    assert method.heard == [{}, {}, {}]  # nothing depends on it
    assert method.memory_bytes(engine.stream) == 0


@pytest.mark.parametrize("mode", ["core", "dense", "factored"])
def test_every_task_protects_directions_of_what_was_merged(mode, tmp_path):
    method = Watched(**ADAPTED, policy=RankPolicy.fixed(0.5), mode=mode)
    learn_with_adam(toy_engine(tmp_path, method, tasks=2, epochs=5))
    first, merged = (one["model.hidden.weight"].double() for one in method.starts)
    torch.testing.assert_close(merged, method.ends[0]["model.hidden.weight"].double())
    change = method.changes[1][1].double()
    assert change.norm() > 1e-3
    leaks = {}
    for name, weight in {"of the merged weight": merged, "of the first": first}.items():
        cut = split(weight, 8)  # of 16
        insides = (cut.u_high.mT @ change, change @ cut.v_high.mT)
        leaks[name] = max(float(inside.norm() / change.norm()) for inside in insides)
    assert leaks["of the merged weight"] <= 1e-5
    assert leaks["of the first"] > 1e-2


def test_the_paper_equation_protects_the_block_alone(tmp_path):
    options = {"mode": "dense", "projection": "paper_eq"}
    method = Watched(**ADAPTED, policy=RankPolicy.fixed(0.5), **options)
    learn_with_adam(toy_engine(tmp_path, method, tasks=1))
    cut = split(method.starts[0]["model.hidden.weight"], 8)
    change = method.changes[0][1]
    assert (cut.u_high.mT @ change @ cut.v_high.mT).norm() <= 1e-5 * change.norm()
    for inside in (cut.u_high.mT @ change, change @ cut.v_high.mT):
        assert inside.norm() > 0.05 * change.norm()


def test_an_optimizer_sees_projected_gradients_of_factors(tmp_path):
    method = GradientWatch(**ADAPTED, policy=RankPolicy.fixed(0.5), mode="factored")
    toy_engine(tmp_path, method, tasks=1, epochs=1).run()
    assert 0 < method.worst <= 1e-4


@pytest.mark.parametrize("layer", [nn.Linear(3, 1), nn.Conv1d(3, 3, 3, groups=3, padding=1)])
def test_a_layer_of_rank_1_is_named(layer, tmp_path):
    model = ToyNet()
    model.narrow = layer
    method = OSFT(targets=["hidden", "narrow"], train="classify.*")
    with pytest.raises(ValueError, match=r"the weight of 'narrow' has rank 1.*leave it out"):
        toy_engine(tmp_path, method, tasks=1, model=model).run()


def test_options_are_refused_at_once():
    with pytest.raises(ValueError, match="mode is 'sparse'"):
        OSFT(targets="*", mode="sparse")
    for policy in (0.5, 0):
        with pytest.raises(ValueError, match=r"give a RankPolicy, such as RankPolicy.fixed\(0.5\)"):
            OSFT(targets="*", policy=policy)


def test_too_little_room_is_said(tmp_path, caplog):
    toy_engine(tmp_path, OSFT(**ADAPTED), tasks=1, epochs=1).run()
    assert "2 layers, such as convolution, have fewer than 8 directions left" in caplog.text


@pytest.mark.slow
def test_protecting_more_forgets_less_and_learns_less(tmp_path):
    """Five domains of a small CLIP with a mild shift, the same learning rate for all."""
    live = functools.partial(mini_clip.live, angle_rad=mini_clip.MILD, lr=3e-4)
    free = live(FineTune(), tmp_path / "free")
    outcomes = {}
    for share in (0.5, 0.8):
        method = Leaking(mini_clip.TARGETS, policy=RankPolicy.fixed(share))
        outcomes[share] = live(method, tmp_path / str(share))
        assert len(method.leaks) == mini_clip.DOMAINS
        assert max(method.leaks) <= 1e-5
    assert outcomes[0.8].forgetting < outcomes[0.5].forgetting < free.forgetting
    assert outcomes[0.8].new < outcomes[0.5].new < free.new
