"""MoRA: a bank that grows by a slice a task, of which only the newest is trained."""

import statistics

import pytest
import torch
from torch import nn

from speechcl.adapters import adapter_layers, adapter_parameters, atom_usage, attach, extract
from speechcl.brains import DetectionBrain
from speechcl.methods import LoRA, MoRA
from tests.methods import mini_clip
from tests.toy import ToyNet, same, toy_engine

TARGETS = ["convolution", "hidden"]


def made(**options):
    return MoRA(TARGETS, **{"rank": 2, "active": 3, **options})


def layers(engine):
    return [slots["weight"] for slots in adapter_layers(engine.modules["model"]).values()]


class Watched(MoRA):
    """Notes what the optimizer holds and what becomes of old atoms."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.held, self.norms, self.evaluated = [], [], []

    def param_groups(self, modules):
        found = super().param_groups(modules)
        names = {id(p): name for name, p in modules.named_parameters()}
        self.held.append(sorted(names[id(p)].removeprefix("model.") for p in found))
        return found

    def after_backward(self, step):
        super().after_backward(step)
        parameters = list(step.modules.named_parameters())
        assert all(p.grad is None for name, p in parameters if "kept" in name)
        grads = [p.grad for _, p in parameters if p.grad is not None]
        self.norms.append(float(torch.cat([grad.flatten() for grad in grads]).norm()))

    def before_eval(self, task):
        self.evaluated.append(self.structure())


def test_the_optimizer_holds_the_newest_slice_and_nothing_else(tmp_path):
    method = Watched(TARGETS, "classify.*", rank=2, active=3)
    engine = toy_engine(tmp_path, method)
    engine.run()
    slices = [f"{layer}.adapters.@default.weight.new_" for layer in TARGETS]
    expected = sorted(
        ["classify.bias", "classify.weight"] + [s + e for s in slices for e in ("down", "up")]
    )
    assert method.held
    assert all(names == expected for names in method.held)
    assert [len(layer.down()) for layer in layers(engine)] == [6, 6]


def test_slices_of_former_tasks_are_bit_identical(tmp_path):
    engine = toy_engine(tmp_path, made())
    former = []
    for task in engine.stream:
        engine.learn(task)
        for layer, (down, up) in zip(layers(engine), former, strict=False):
            assert torch.equal(layer.down()[: len(down)], down)
            assert torch.equal(layer.up()[:, : len(down)], up)
        former = [(layer.down().clone(), layer.up().clone()) for layer in layers(engine)]
    assert all(up.unflatten(1, (3, 2)).abs().sum((0, 2)).min() > 0 for _, up in former)


def test_no_fresh_atoms_are_left_when_it_is_evaluated(tmp_path):
    method = Watched(TARGETS, rank=2)
    toy_engine(tmp_path, method, tasks=2).run()
    found = [structure["tasks"] for structure in method.evaluated]
    assert found == [0, 0, 1, 1, 2, 2]
    assert not any(structure["growing"] for structure in method.evaluated)


def test_build_brings_a_model_to_any_structure():
    def shapes(structure):
        method, modules = made(), nn.ModuleDict({"model": ToyNet()})
        method.build(modules, structure)
        method.build(modules, structure)
        assert method.structure() == structure
        (layer, _) = (one["weight"] for one in adapter_layers(modules["model"]).values())
        return [len(layer.kept_down), len(layer.new_down)], method.memory_bytes([])

    convolution, hidden = 3 * 1 + 3, 16 + 24  # outputs and inputs
    atom = 4 * (convolution + hidden)
    assert shapes({"tasks": 1, "growing": True}) == ([0, 2], 2 * atom)
    assert shapes({"tasks": 1, "growing": False}) == ([2, 0], 2 * atom)
    assert shapes({"tasks": 3, "growing": True}) == ([4, 2], 6 * atom)
    assert shapes({"tasks": 3, "growing": False}) == ([6, 0], 6 * atom)


def test_memory_is_that_of_all_atoms(tmp_path):
    engine = toy_engine(tmp_path, made(), tasks=2)
    results = engine.run()
    parameters = adapter_parameters(engine.modules["model"])
    assert results["memory_bytes"] == 4 * sum(p.numel() for p in parameters) > 0


def test_layers_out_of_reach_are_named_before_any_training(tmp_path):
    model = ToyNet()
    model.unused = nn.Linear(2, 2)
    engine = toy_engine(tmp_path, MoRA(["hidden", "unused"]), model=model)
    with pytest.raises(ValueError, match="does not depend on the adapter of unused"):
        engine.run()


@pytest.mark.parametrize("scale", [1e3, 1e-3])
def test_gradients_are_clipped_to_a_norm_of_one(scale, tmp_path, monkeypatch):
    loss = DetectionBrain.task_loss
    monkeypatch.setattr(DetectionBrain, "task_loss", lambda *given: scale * loss(*given))
    method = Watched(TARGETS, "classify.*", rank=2)
    toy_engine(tmp_path, method, tasks=1, lr=1e-6).run()
    if scale > 1:
        assert method.norms == pytest.approx([1.0] * len(method.norms), rel=1e-4)
    else:  # left as they are
        assert 0 < max(method.norms) < 0.1


def test_a_bank_of_three_tasks_serves_the_model_it_was_made_for(tmp_path):
    engine = toy_engine(tmp_path / "run", made())
    engine.run()
    learnt = engine.modules["model"].eval()
    extract(learnt).save(tmp_path / "bank.safetensors")
    torch.manual_seed(0)
    model = ToyNet().eval()
    x = torch.randn(20, 8)
    assert not torch.allclose(model(x)[0], learnt(x)[0], atol=1e-3)
    attach(model, tmp_path / "bank.safetensors")
    assert (model(x)[0] - learnt(x)[0]).abs().max() <= 1e-6


def test_without_the_bank_the_base_is_what_it_was(tmp_path):
    model = ToyNet()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    toy_engine(tmp_path, made(), tasks=2, model=model).run()
    after = {name: one for name, one in model.state_dict().items() if "@" not in name}
    assert same(before, after)


# ---- in a world where there is much to forget
@pytest.fixture(scope="module")
def lives(tmp_path_factory):
    targets, folder = mini_clip.TARGETS, tmp_path_factory.mktemp("lives")
    methods = {
        "LoRA": lambda: LoRA(targets, rank=16),
        "MoRA": lambda: MoRA(targets),
        "warmer": lambda: MoRA(targets, temperature=0.05),
        "hot": lambda: MoRA(targets, temperature=1.0),
    }
    return {
        name: [mini_clip.live(make(), folder / f"{name}{seed}", seed=seed) for seed in (1, 2, 3)]
        for name, make in methods.items()
    }


def mean(outcomes, field):
    return statistics.mean(getattr(one, field) for one in outcomes)


def own_mass(outcomes):
    """The share of routing that inputs of the first task give to its own atoms in the end."""
    usages = [
        usage
        for one in outcomes
        for usage in atom_usage(
            one.engine.modules["model"], one.engine.stream[0].test.features
        ).values()
    ]
    return statistics.mean(usage.mass[0] / sum(usage.mass) for usage in usages)


@pytest.mark.slow
def test_it_keeps_far_more_than_merged_updates_do(lives):
    lora, mora = lives["LoRA"], lives["MoRA"]
    assert mean(mora, "last") > mean(lora, "last") + 5
    assert mean(mora, "hold") > mean(lora, "hold") + 4
    assert mean(mora, "forgetting") < 5
    assert mean(lora, "forgetting") > 15


@pytest.mark.slow
def test_cold_routing_finds_its_own_atoms_and_forgets_least(lives):
    assert own_mass(lives["MoRA"]) > 0.6
    assert own_mass(lives["MoRA"]) > own_mass(lives["warmer"]) + 0.1
    assert own_mass(lives["hot"]) < 0.5
    for name in ("warmer", "hot"):
        assert mean(lives[name], "forgetting") > mean(lives["MoRA"], "forgetting") + 1
