"""OSFT against brute force, and what it protects from task to task."""

import functools

import pytest
import torch
from torch import nn
from torch.nn import functional

from speechcl.adapters import RankPolicy
from speechcl.adapters.subspace import split
from speechcl.methods import OSFT, FineTune
from speechcl.methods.osft import measure_importance, subspace_layers
from tests.methods import mini_clip
from tests.toy import ADAPTED, ToyNet, toy_engine, weights

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
            cut, change = split(base.double(), int(layer.preserved)), layer.change().double()
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


def test_layers_follow_their_importance_to_the_last_task(tmp_path):
    method = Watched(**ADAPTED, policy=RankPolicy(0.1, 0.6, floors=()))
    engine = toy_engine(tmp_path, method)
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
            relative = {path: one / mean if mean > 0 else 1.0 for path, one in heard.items()}
            share = {path: 0.1 + 0.5 * one for path, one in relative.items()}
            counts = [min(max(int(share[p] * RANKS[p]), 1), RANKS[p] - 1) for p in LAYERS]
            assert method.counts[task + 1] == counts
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
    toy_engine(tmp_path, method, tasks=2, epochs=5).run()
    first, merged = (one["model.hidden.weight"].double() for one in method.starts)
    torch.testing.assert_close(merged, method.ends[0]["model.hidden.weight"].double())
    change = method.changes[1][1].double()
    assert change.norm() > 1e-3
    leaks = {}
    for name, weight in {"of the merged weight": merged, "of the first": first}.items():
        cut = split(weight, 8)  # of 16
        insides = (cut.u_high.mT @ change, change @ cut.v_high.mT)
        leaks[name] = max(float(inside.norm() / change.norm()) for inside in insides)
    assert leaks["of the merged weight"] <= 1e-5 * (10 if mode == "factored" else 1)
    assert leaks["of the first"] > 1e-2


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
    print("\n".join(f"{name}: {one}" for name, one in {"free": free, **outcomes}.items()))
    assert outcomes[0.8].forgetting < outcomes[0.5].forgetting < free.forgetting
    assert outcomes[0.8].new < outcomes[0.5].new < free.new
