"""CoDyRA against a slow loop over layers and gates, and what is left after a task."""

import copy
import functools
import logging
import math
import statistics

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from speechcl.adapters import merge
from speechcl.brains import DetectionBrain
from speechcl.engine import Engine, Training
from speechcl.methods import CoDyRA, LoRA
from speechcl.methods.codyra import gated_layers, soft_threshold
from speechcl.sampling import EpochBatches
from tests.methods import mini_clip
from tests.methods.by_hand import assert_close
from tests.toy import ADAPTED, WIDTH, ToyNet, same, toy_engine, toy_stream, weights

LR, BETAS, EPOCHS, BATCH, MAX_GRAD_NORM = 0.01, (0.9, 0.9999), 10, 32, 5.0


class MixedNet(nn.Module):
    """Every kind of weight that is read in its own way, in double precision."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv1d(1, 4, 3, padding=1)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.hidden = nn.Linear(4 * WIDTH, 6)
        self.classify = nn.Linear(6, 2)
        self.double()

    def forward(self, x):
        x = torch.tanh(self.convolution(x.double()[:, None])).mT
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x = torch.tanh(self.hidden(x.flatten(1)))
        return self.classify(x), x


# where each gated matrix of MixedNet lies: parameter and rows
PLACES = {
    "convolution.weight": ("convolution.weight", slice(None)),
    "attention.q": ("attention.in_proj_weight", slice(0, 4)),
    "attention.k": ("attention.in_proj_weight", slice(4, 8)),
    "attention.v": ("attention.in_proj_weight", slice(8, 12)),
    "attention.out_proj.weight": ("attention.out_proj.weight", slice(None)),
    "hidden.weight": ("hidden.weight", slice(None)),
}
MIXED = ["convolution", "attention", "attention.out_proj", "hidden"]


class Watched(CoDyRA):
    """Notes what every task starts from and ends with."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.starts, self.ends = [], []

    def before_task(self, task, engine):
        super().before_task(task, engine)
        self.starts.append(copies(engine))

    def after_task(self, task, engine):
        self.ends.append(copies(engine))
        super().after_task(task, engine)


def copies(engine):
    layers = gated_layers(engine.modules["model"])
    return {name: copy.deepcopy(layer.state_dict()) for name, layer in layers.items()}


def adam_engine(folder, method, model, *, tasks=2, clips=96, epochs=EPOCHS, weight_decay=0.0):
    optimizer = functools.partial(torch.optim.AdamW, lr=LR, betas=BETAS, weight_decay=weight_decay)
    return Engine(
        brain=DetectionBrain,
        modules={"model": model},
        method=method,
        stream=toy_stream(tasks, clips),
        training=Training(optimizer, epochs=epochs, batch_size=BATCH, schedule="cosine"),
        folder=folder,
        run_opts={"noprogressbar": True, "device": "cpu"},
    )


# ---- the method, from its equations
def written_into(model, layers):
    """The model's parameters with sum_i w_i B_i A_i added to each matrix, a term at a time."""
    parameters = dict(model.named_parameters())
    for name, layer in layers.items():
        place, rows = PLACES[name]
        change = torch.zeros_like(parameters[place])
        for i in range(len(layer["gates"])):
            term = torch.outer(layer["lora_up"][:, i], layer["lora_down"][i])
            part = (layer["gates"][i] * term).reshape(parameters[place][rows].shape)
            change[rows] = change[rows] + part
        parameters[place] = parameters[place] + change
    return parameters


def shrunk(w, kappa, prox):
    if prox == "soft":
        return math.copysign(max(abs(w) - kappa, 0.0), w)
    if w > kappa:
        w = w - kappa
    elif w < -kappa:
        w = w + kappa
    return 0.0 if abs(w) < kappa else w


def adam(p, grad, state, lr):
    """One step of Adam, without weight decay."""
    first, second, steps = state.get(p, (torch.zeros_like(p), torch.zeros_like(p), 0))
    steps += 1
    first = BETAS[0] * first + (1 - BETAS[0]) * grad
    second = BETAS[1] * second + (1 - BETAS[1]) * grad * grad
    state[p] = (first, second, steps)
    unbiased = first / (1 - BETAS[0] ** steps)
    scale = (second / (1 - BETAS[1] ** steps)).sqrt() + 1e-8
    with torch.no_grad():
        p -= lr * unbiased / scale


def learn_by_hand(model, task, start, *, prox, kappa_max, dense_ratio, gate_lr_scale):
    """Train A, B, w and the classifier on a task, merge; return what was merged."""
    layers = {
        name: {key: tensor.clone().requires_grad_() for key, tensor in layer.items()}
        for name, layer in start.items()
    }
    model.requires_grad_(False)
    model.classify.requires_grad_(True)
    gates = [layer["gates"] for layer in layers.values()]
    trained = [p for layer in layers.values() for p in layer.values()]
    trained += model.classify.parameters()
    batches = EpochBatches(len(task.train), BATCH, seed=1009 + task.index)
    total, state = EPOCHS * len(batches), {}
    dense = dense_ratio * total
    step = int((total - dense) / 5)  # 5 levels
    n = j = 0
    for epoch in range(1, EPOCHS + 1):
        batches.set_epoch(epoch)
        for chosen in batches:
            features, labels = task.train.features[chosen], task.train.labels[chosen]
            logits, _ = functional_call(model, written_into(model, layers), (features,))
            grads = torch.autograd.grad(functional.cross_entropy(logits, labels), trained)
            norm = math.sqrt(sum(float(grad.square().sum()) for grad in grads))
            clip = min(1.0, MAX_GRAD_NORM / (norm + 1e-6))
            lr = LR * (1 + math.cos(math.pi * n / total)) / 2
            for p, grad in zip(trained, grads, strict=True):
                of_gate = any(p is gate for gate in gates)
                adam(p, clip * grad, state, lr * (gate_lr_scale if of_gate else 1.0))
            if n >= dense and n % step == 0:
                j += 1
            kappa = min(j, 4) * (kappa_max * 500 / total) / 4
            if n > dense:
                for gate in gates:
                    for i, w in enumerate(gate.tolist()):
                        gate.data[i] = shrunk(w, kappa, prox)
            n += 1
    merged = written_into(model, layers)
    model.load_state_dict({name: p.detach() for name, p in merged.items()})
    return layers


@pytest.mark.parametrize(
    ("prox", "dense_ratio", "gate_lr_scale"), [("soft", 0.5, 1.0), ("official", 0.3, 3.0)]
)
def test_two_tasks_are_the_equations_a_layer_and_a_gate_at_a_time(
    prox, dense_ratio, gate_lr_scale, tmp_path
):
    torch.manual_seed(7)
    model = MixedNet()
    twin = copy.deepcopy(model)
    options = {
        "prox": prox,
        "kappa_max": 0.003 / (1 - dense_ratio),
        "dense_ratio": dense_ratio,
        "gate_lr_scale": gate_lr_scale,
    }
    method = Watched(MIXED, "classify.*", rank=3, levels=5, **options)
    engine = adam_engine(tmp_path, method, model)
    engine.run()
    for task, start, end in zip(engine.stream, method.starts, method.ends, strict=True):
        layers = learn_by_hand(twin, task, start, **options)
        assert layers.keys() == PLACES.keys()
        for name, layer in layers.items():
            assert_close({k: p.detach() for k, p in layer.items()}, end[name], atol=1e-9)
    assert_close(dict(model.state_dict()), dict(twin.state_dict()), atol=1e-9)
    gates = torch.cat([layer["gates"] for end in method.ends for layer in end.values()])
    assert 5 < (gates == 0).sum() < len(gates) - 5


# ---- the life of an adapter
class Beginning(Watched):
    """Compares the outputs before and after an adapter is put in."""

    def before_task(self, task, engine):
        model, x = engine.modules["model"], task.train.features
        before = model(x)[0]
        super().before_task(task, engine)
        assert torch.equal(model(x)[0], before)


def test_every_task_starts_afresh_and_from_the_same_outputs(tmp_path):
    torch.manual_seed(0)
    method = Beginning(MIXED, "classify.*")
    adam_engine(tmp_path, method, MixedNet(), epochs=2).run()
    first, second = method.starts
    assert first.keys() == second.keys() == PLACES.keys()
    for name, layer in first.items():
        for start in (layer, second[name]):
            assert not start["lora_up"].any()
            assert start["gates"].all()
        assert not torch.equal(layer["gates"], second[name]["gates"])
        assert not torch.equal(layer["lora_down"], second[name]["lora_down"])
    assert all(layer["lora_up"].any() for end in method.ends for layer in end.values())


class Looking(CoDyRA):
    """Compares the outputs before and after merging, and the ranks of what is merged."""

    def after_task(self, task, engine):
        model = engine.modules["model"].eval()
        layers = gated_layers(model)
        for layer in layers.values():
            change = (layer.up() @ layer.down()).double()
            rank = torch.linalg.matrix_rank(change, rtol=1e-5)
            assert rank <= layer.gates.count_nonzero()
        ranks = [int(layer.gates.count_nonzero()) for layer in layers.values()]
        x = task.test.features
        before = model(x)[0]
        super().after_task(task, engine)
        assert (before - model(x)[0]).abs().max() <= 1e-5 * before.abs().max().clamp(min=1)
        assert self.ranks[-1] == statistics.mean(ranks)
        assert len(self.ranks) == task.index + 1
        assert 0 < self.ranks[-1] < self.spec.rank


def test_what_is_merged_is_what_was_learnt(tmp_path):
    engine = toy_engine(tmp_path, Looking(**ADAPTED, rank=8), epochs=5)
    engine.run()
    assert len(engine.method.ranks) == 3
    again = CoDyRA(**ADAPTED, rank=8)
    again.build(nn.ModuleDict({"model": ToyNet()}), engine.method.structure())
    assert again.ranks == engine.method.ranks


def test_layers_of_which_nothing_survives_keep_every_bit(tmp_path, caplog):
    model = ToyNet()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    method = CoDyRA(**ADAPTED, rank=4, kappa_max=1.0)
    with caplog.at_level(logging.INFO):
        toy_engine(tmp_path, method, tasks=2, model=model).run()
    assert method.ranks == [0.0, 0.0]
    after = model.state_dict()
    changed = {key for key, value in before.items() if not torch.equal(after[key], value)}
    assert changed == {"classify.weight", "classify.bias"}
    assert "took rank 0.0 of 4 on average, 0 in 2 of 2 layers; norm of its change: 0" in caplog.text


@pytest.mark.slow
def test_what_a_task_took_is_logged(tmp_path, caplog):
    method = Watched(**ADAPTED, rank=3, kappa_max=0.002)
    with caplog.at_level(logging.DEBUG, "speechcl.methods.codyra"):
        toy_engine(tmp_path, method, tasks=1, epochs=50).run()
    end = method.ends[0]
    ranks = {name: int(layer["gates"].count_nonzero()) for name, layer in end.items()}
    assert f"rank by layer: {ranks}" in caplog.text
    total = sum(
        (layer["lora_up"] * layer["gates"] @ layer["lora_down"]).square().sum()
        for layer in end.values()
    )
    assert f"norm of its change: {math.sqrt(total):.3g}" in caplog.text
    assert "gates were moved towards zero by up to 0.26" in caplog.text


def test_during_a_task_base_weights_have_no_gradient(tmp_path):
    seen = []

    class Asking(CoDyRA):
        def after_backward(self, step):
            named = step.modules["model"].named_parameters()
            seen.append({name for name, p in named if p.grad is not None})

    toy_engine(tmp_path, Asking("hidden", rank=2), tasks=1).run()
    names = {f"hidden.adapters.@default.weight.{n}" for n in ("lora_down", "lora_up", "gates")}
    assert all(one == names for one in seen)
    assert len(seen) == 8


# ---- what does not depend on the data
class Idle(CoDyRA):
    """Nothing for the gates to learn: what happens to them is the schedule's doing."""

    def check_reachable(self, task, engine):
        """None of the layers is."""


class Unheard(nn.Module):
    """So many layers that the output does not depend on."""

    def __init__(self, layers):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(layers))
        self.classify = nn.Linear(WIDTH, 2)

    def forward(self, x):
        return self.classify(x), x


def test_without_any_gradient_about_half_of_the_terms_survive(tmp_path):
    method = Idle("layers.*", "classify.*")
    engine = adam_engine(tmp_path, method, Unheard(600), tasks=1, clips=128, epochs=25)
    engine.run()
    assert method.ranks == pytest.approx([8.2], abs=0.3)


@pytest.mark.parametrize("steps", [40, 100, 300, 500, 1700, 20000])
def test_gates_are_moved_as_far_in_tasks_of_any_length(steps):
    schedule = CoDyRA("*").schedule(steps)
    assert sum(map(schedule.at, range(steps))) == pytest.approx(0.65, rel=0.1)


def test_the_adapter_has_no_weight_decay_whatever_the_optimizer_has(tmp_path):
    found = []
    for decay in (0.0, 0.9):
        torch.manual_seed(3)
        method = CoDyRA(MIXED, rank=2)
        engine = adam_engine(tmp_path / str(decay), method, MixedNet(), weight_decay=decay)
        engine.run()
        found.append(weights(engine))
    assert same(*found)


def test_the_rest_keeps_the_optimizers_own_settings():
    method = CoDyRA("hidden", "classify.*", rank=2, gate_lr_scale=10.0)
    modules = nn.ModuleDict({"model": ToyNet()})
    method.build(modules, {"inserted": True})
    gates, factors, rest = method.param_groups(modules)
    assert [tuple(p.shape) for p in gates.pop("params")] == [(2,)]
    assert [tuple(p.shape) for p in factors.pop("params")] == [(2, 24), (16, 2)]
    assert [tuple(p.shape) for p in rest.pop("params")] == [(2, 16), (2,)]
    assert gates == {"weight_decay": 0.0, "lr_scale": 10.0}
    assert (factors, rest) == ({"weight_decay": 0.0}, {})
    merge(modules["model"])


def test_the_threshold_is_where_people_look_for_it():
    assert soft_threshold(torch.tensor([-3.0, 0.5]), 1.0).tolist() == [-2.0, 0.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prox": "hard"}, "prox is 'hard': choose soft or official"),
        ({"rank": 0}, "rank is 0"),
        ({"kappa_max": -1.0}, "kappa_max is -1.0"),
        ({"dense_ratio": 2.0}, "dense_ratio 2.0"),
        ({"levels": 1}, "levels 1"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        CoDyRA("*", **options)


# ---- in a world where there is much to forget
@pytest.fixture(scope="module")
def lives(tmp_path_factory):
    targets = mini_clip.TARGETS
    methods = {
        "LoRA": lambda: LoRA(targets, rank=16),
        "CoDyRA": lambda: CoDyRA(targets, rank=16),
        "no threshold": lambda: CoDyRA(targets, rank=16, kappa_max=0.0),
        "three times the threshold": lambda: CoDyRA(targets, rank=16, kappa_max=0.015),
    }
    return {
        name: mini_clip.mean_life(make, tmp_path_factory.mktemp("lives"), seeds=(1, 2, 3))
        for name, make in methods.items()
    }


@pytest.mark.slow
def test_it_forgets_and_drifts_less_than_lora_and_learns_as_much(lives):
    lora, codyra = lives["LoRA"], lives["CoDyRA"]
    assert codyra["drift"] < 0.7 * lora["drift"]
    assert codyra["forgetting"] < 0.7 * lora["forgetting"]
    assert codyra["hold"] > lora["hold"] + 2
    assert codyra["last"] > lora["last"] - 2
    assert lora["forgetting"] > 10


@pytest.mark.slow
def test_it_is_the_threshold_that_does_it(lives):
    lora, random = lives["LoRA"], lives["no threshold"]
    assert random["drift"] > 0.9 * lora["drift"]
    assert random["forgetting"] > 0.9 * lora["forgetting"]


@pytest.mark.slow
def test_too_high_a_threshold_learns_hardly_anything(lives):
    assert lives["three times the threshold"]["last"] < lives["CoDyRA"]["last"] - 8
    assert lives["three times the threshold"]["hold"] > 97
