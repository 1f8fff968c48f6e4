"""The functions that users call, and all that can go wrong with them."""

import tracemalloc

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from speechcl.adapters import (
    AdapterState,
    Bottleneck,
    LoRA,
    activate,
    adapter_layers,
    adapter_parameters,
    attach,
    base_fingerprint,
    extract,
    insert,
    list_adapters,
    merge,
    remove,
)
from speechcl.adapters.targets import remake_layers
from tests.adapters.kinds import Gate, old_weight_norm, stir, train
from tests.adapters.models import Model, X, appearance, make, refused

EMPTY = AdapterState(LoRA(rank=1), {}, "")


@pytest.fixture
def model():
    return make()


# ---- what works
def test_the_report_says_what_was_done(model):
    report = insert(model, LoRA(rank=2), ["*.q_proj", "blocks.1.*"], example=X)
    assert report.layers == ("blocks.0.q_proj", "blocks.1.q_proj", "blocks.1.v_proj")
    assert report.skipped == {"blocks.1.norm": "LayerNorm"}
    assert report.trainable == 3 * 2 * 12
    assert report.trainable == sum(p.numel() for p in adapter_parameters(model))
    assert report.total == sum(p.numel() for p in model.parameters())
    assert str(report).startswith("LoRA 'default' in 3 layers: 72 of ")
    assert list(adapter_layers(model)) == list(report.layers)


def test_modules_keep_their_identity(model):
    layer, kind = model.head, type(model.head)
    insert(model, LoRA(rank=2), "head")
    assert model.head is layer
    assert isinstance(layer, kind)
    assert set(Model().state_dict()) < set(model.state_dict())


def test_a_model_that_is_one_layer():
    net = nn.Linear(4, 3)
    insert(net, LoRA(rank=2), "", example=torch.ones(1, 4))
    stir(net)
    given, state = net(torch.ones(4)), extract(net)
    remove(net)
    attach(net, state)
    assert torch.equal(net(torch.ones(4)), given)


def test_files_keep_what_they_hold(model, tmp_path):
    insert(model, LoRA(rank=3, alpha=7.5), "blocks.*")
    stir(model)
    state = extract(model)
    state.save(tmp_path / "full.safetensors")
    state.save(tmp_path / "half.safetensors", torch.float16)
    full = AdapterState.load(tmp_path / "full.safetensors")
    half = AdapterState.load(tmp_path / "half.safetensors")
    assert full.spec == LoRA(rank=3, alpha=7.5)
    assert full.fingerprint == base_fingerprint(make())
    assert all(torch.equal(full.tensors[k], state.tensors[k]) for k in state.tensors)
    assert all(torch.equal(half.tensors[k], v.half()) for k, v in state.tensors.items())
    other = make()
    attach(other, half)
    assert torch.allclose(other(X), model(X), atol=1e-2)
    assert other.head.weight.dtype == torch.float32


def test_an_extracted_adapter_does_not_follow_the_model(model):
    insert(model, LoRA(rank=2), "head")
    state = extract(model)
    stir(model)
    assert not state.tensors["head.weight.lora_up"].any()


def test_attached_adapters_go_on_being_trained_if_asked(model):
    insert(model, LoRA(rank=2), "head")
    state = extract(model)
    other = make()
    attach(other, state)
    for parameter in adapter_parameters(other):
        parameter.requires_grad_(True)
    before = other(X).detach()
    train(other, (X,), adapter_parameters(other))
    assert not torch.equal(other(X), before)


def test_voices_share_no_memory(model):
    insert(model.eval(), LoRA(rank=2), "*.q_proj")
    stir(model)
    state = extract(model)
    for name in ("alice", "bob"):
        attach(model, state, name)
    before = extract(model, "bob").tensors
    activate(model, "alice")
    alice = [p.requires_grad_(True) for p in adapter_parameters(model, "alice")]
    train(model, (X,), alice)
    assert all(torch.equal(before[key], one) for key, one in extract(model, "bob").tensors.items())
    assert all(torch.equal(before[key], one) for key, one in state.tensors.items())
    assert not any(torch.equal(before[k], t) for k, t in extract(model, "alice").tensors.items())


class Own(nn.Sequential):
    """With a ``state_dict`` as older code has it."""

    def state_dict(self):
        return super().state_dict()


def test_a_state_dict_of_its_own_is_fingerprinted_without_adapters():
    net = Own(nn.Linear(2, 2))
    before = base_fingerprint(net)
    assert before == base_fingerprint(nn.Sequential(net[0]))
    insert(net, LoRA(rank=1), "*")
    assert base_fingerprint(net) == before


@pytest.mark.parametrize("work", [base_fingerprint, lambda net: remake_layers(net, EMPTY)])
def test_looking_at_the_base_takes_no_memory_for_adapters(work):
    """What is only for the moment would stay with the process: small blocks rarely go back."""
    net = nn.Sequential(*(nn.Linear(2, 2) for _ in range(50))).eval()
    few, many = (_peak_bytes(work, net, adapters) for adapters in (1, 20))
    assert many < 1.2 * few


def _peak_bytes(work, net, adapters):
    for _ in range(adapters):
        insert(net, LoRA(rank=1), "*", f"voice{len(list_adapters(net))}")
    work(net)  # what is made once is made
    tracemalloc.start()
    try:
        work(net)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_what_is_frozen_beforehand_stays_frozen(model):
    model.head.requires_grad_(False)
    flags = [p.requires_grad for p in model.parameters()]
    model.eval()
    insert(model, LoRA(rank=2), "head", "a")
    insert(model, LoRA(rank=2), "front", "b")
    remove(model, "a")
    remove(model, "b")
    assert [p.requires_grad for p in model.parameters()] == flags


def test_flags_come_back_to_parameters_that_were_replaced(model):
    insert(model, LoRA(rank=2), "head")
    model.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, assign=True)
    remove(model)
    assert all(p.requires_grad for p in model.parameters())


def test_adapters_may_be_of_different_kinds_and_places(model):
    model.eval()
    insert(model, LoRA(rank=2), "*.q_proj", "a")
    insert(model, Bottleneck(units=2), ["front", "blocks.0.q_proj"], "b")
    stir(model, "a")
    stir(model, "b")
    with torch.no_grad():
        activate(model, ["b", "a"])
        given = model(X)
        assert [(one.name, one.active) for one in list_adapters(model)] == [("a", 1), ("b", 1)]
        merge(model, "a")
        assert torch.allclose(model(X), given, atol=1e-5)
        assert [one.name for one in list_adapters(model)] == ["b"]
        activate(model, None)
        assert not torch.allclose(model(X), given, atol=1e-3)


def test_parts_of_a_model_have_adapters_of_their_own(model):
    insert(model.blocks[0], LoRA(rank=2), "q_proj", "part")
    insert(model, LoRA(rank=2), "head", "whole")
    stir(model.blocks[0], "part")
    assert [one.name for one in list_adapters(model)] == ["whole"]
    given = model(X).detach()
    remove(model, "whole")
    assert torch.allclose(model(X), given, atol=1e-6)
    remove(model.blocks[0], "part")
    assert base_fingerprint(model) == base_fingerprint(make())
    assert all(p.requires_grad for p in model.parameters())


# ---- what is refused
def test_a_pattern_that_matches_nothing_names_near_ones(model):
    with refused(model, "'.*qproj' matches no module of this Model.*'blocks.0.q_proj'"):
        insert(model, LoRA(), "*.qproj")
    with refused(model, "'block.0.v_proj' matches no .*'blocks.0.v_proj'"):
        insert(model, LoRA(), ["head", "block.0.v_proj"])
    with refused(model, "targets is empty"):
        insert(model, LoRA(), [])


def test_what_cannot_be_adapted(model):
    with refused(model, r"'\*.norm' matches only LayerNorm, which a LoRA cannot adapt"):
        insert(model, LoRA(), ["head", "*.norm"])
    with refused(model, "matches only ModuleList, which a Bottleneck"):
        insert(model, Bottleneck(), "blocks")
    with refused(model, "kernel is 3, but the output has no time axis"):
        insert(model, Bottleneck(kernel=3), ["front", "head"])
    model.blocks[0].q_proj.adapters = "somebody's"
    with refused(model, "'blocks.0.q_proj' .* has an attribute 'adapters' of its own"):
        insert(model, LoRA(), "*.q_proj")


def test_layers_out_of_reach(model):
    with refused(model, "the output does not depend on the adapter of spare: leave it out"):
        insert(model, LoRA(), ["head", "spare"], example=X)
    model.eval()
    insert(model, LoRA(), "head", "first")
    stir(model, "first")
    with refused(model, "does not depend on the adapter of spare"):
        insert(model, Bottleneck(), "spare", "second", example=X)


def test_an_example_that_the_model_cannot_take(model):
    before = appearance(model)
    with pytest.raises(RuntimeError):
        insert(model, LoRA(), "head", example=torch.ones(3, 3))
    with pytest.raises(TypeError):
        insert(model, LoRA(), "head", example=(X, X))
    assert appearance(model) == before


def test_a_model_whose_answer_cannot_be_compared():
    class Silent(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x):
            return f"{self.layer(x).sum()}"

    class Broken(Silent):
        def forward(self, x):
            return self.layer(x) * float("nan")

    for kind, message in ((Silent, "returned no tensor"), (Broken, "does not depend")):
        net = kind()
        with pytest.raises(ValueError, match=message):
            insert(net, LoRA(rank=1), "layer", example=torch.ones(1, 2))
        assert type(net.layer) is nn.Linear


@pytest.mark.parametrize("name", ["", "a.b", "a/b", "../x", "a b", "a\n", "x" * 101, None, 3])
def test_bad_names(model, name):
    with refused(model, "adapter name .*use letters, digits"):
        insert(model, LoRA(), "head", name)


@pytest.mark.parametrize("name", ["type", "float", "weight", "forward", "_x", "-", "Ä1", "0"])
def test_names_that_look_dangerous(model, name):
    insert(model, LoRA(rank=1), ["head", "front"], name, example=X)
    assert extract(model, name).tensors
    remove(model, name)


def test_names_that_are_taken_or_unknown(model):
    insert(model, LoRA(), "head", "alice")
    state = extract(model, "alice")
    model.eval()
    with refused(model, "there is an adapter 'alice' already"):
        insert(model, LoRA(), "front", "alice")
    with refused(model, "there is an adapter 'alice' already"):
        attach(model, state, "alice")
    for work in (remove, merge, extract, adapter_layers, adapter_parameters, activate):
        with refused(model, "no adapter 'bob' in this Model, it has alice"):
            work(model, "bob")
    with refused(model, "no adapter 'bob'"):
        activate(model, ["alice", "bob"])
    with pytest.raises(ValueError, match="it has none"):
        remove(make())


def test_a_part_and_the_whole_do_not_mix(model):
    insert(model.blocks[0], LoRA(rank=2), "q_proj")
    with refused(model, "'blocks.0.q_proj' serves an adapter that was inserted into another part"):
        insert(model, LoRA(), "*.q_proj")
    with refused(model, "one that was inserted into a part of the model belongs to that part"):
        remove(model)


def test_merging_twice(model):
    insert(model, LoRA(), "head")
    merge(model)
    with refused(model, "no adapter 'default' .*merged or removed is gone"):
        merge(model)


def test_merging_what_depends_on_the_input(model):
    for adapter in (Bottleneck(), Gate()):
        insert(model, adapter, ["front", "head"])
        with refused(model, "'default' depends on the input .* in front.* keep it attached"):
            merge(model)
        remove(model)


def test_merging_into_shared_weights(model):
    model.blocks[1].q_proj.weight = model.blocks[0].q_proj.weight
    insert(model, LoRA(), ["head", "blocks.0.q_proj"])
    stir(model)
    with refused(model, "blocks.0.q_proj and blocks.1.q_proj share a weight"):
        merge(model)
    remove(model)
    model.blocks[1].v_proj.bias = model.blocks[0].v_proj.bias  # not written, so no matter
    insert(model, LoRA(), "*.v_proj")
    merge(model)


@pytest.mark.parametrize(
    "compute",
    [
        nn.utils.spectral_norm,
        nn.utils.parametrizations.spectral_norm,
        nn.utils.parametrizations.orthogonal,
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    ],
)
def test_merging_into_computed_weights(model, compute):
    compute(model.blocks[0].q_proj)
    model.eval()
    model(X)
    insert(model, LoRA(), ["head", "*.q_proj"], example=X)
    stir(model)
    with refused(model, "the weight of blocks.0.q_proj is computed anew for every call"):
        merge(model)


def test_merging_into_shared_weight_norm():
    layers = [nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)) for _ in range(2)]
    layers[0].parametrizations.weight.original1 = layers[1].parametrizations.weight.original1
    old = [old_weight_norm(nn.Linear(2, 2)) for _ in range(2)]
    old[0].weight_v = old[1].weight_v
    for pair in (layers, old):
        net = nn.Sequential(*pair)
        insert(net, LoRA(rank=1), "0")
        with pytest.raises(ValueError, match="share a weight"):
            merge(net)


def test_switching_while_one_is_trained(model):
    insert(model, LoRA(), "head", "a")
    state = extract(model, "a")
    work = {
        "insert": lambda: insert(model, LoRA(), "front", "b"),
        "attach": lambda: attach(model, state, "b"),
        "activate": lambda: activate(model, None),
    }
    for call in work.values():
        with refused(model, "adapter 'a' is being trained.*call model.eval"):
            call()
    model.eval()
    for call in work.values():
        call()
        if len(list_adapters(model)) > 1:
            remove(model, "b")


def test_attaching_to_another_base(model, tmp_path):
    insert(model, LoRA(), "head")
    extract(model).save(tmp_path / "a.safetensors")
    other = make()
    with torch.no_grad():
        other.spare.bias[0] += 1e-6
    with refused(other, "made for a base with fingerprint .*but this model's is"):
        attach(other, tmp_path / "a.safetensors")
    merge(model)
    attach(model, AdapterState(LoRA(), AdapterState.load(tmp_path / "a.safetensors").tensors, ""))


def state_of(spec=None, **tensors):
    tensors = {k.replace("__", "."): v for k, v in tensors.items()}
    return AdapterState(spec or LoRA(rank=2), tensors, "")


DOWN, UP = torch.ones(2, 6), torch.ones(3, 2)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (state_of(tail__weight__lora_down=DOWN), "has a layer 'tail', but this Model has none"),
        (state_of(head__q__lora_down=DOWN), "'head' is a Linear without a 'q' to adapt"),
        (state_of(head__output__lora_down=DOWN), "without a 'output' to adapt"),
        (state_of(blocks__weight__lora_down=DOWN), "'blocks' is a ModuleList without a 'weight'"),
        (
            state_of(head__weight__lora_down=torch.ones(2, 5), head__weight__lora_up=UP),
            "holds lora_down 2x5, lora_up 3x2, but this model takes lora_down 2x6",
        ),
        (state_of(head__weight__lora_down=DOWN, head__weight__lora_up=DOWN), "another size"),
        (state_of(head__weight__lora_down=DOWN), "holds lora_down 2x6, but this model takes"),
        (state_of(head__weight__lora_up=UP), r"which is no LoRA \('lora_down'\)"),
        (state_of(head__weight__lora_down=torch.tensor(1.0)), "which is no LoRA"),
        (
            state_of(head__weight__lora_down=DOWN, head__weight__lora_up=UP, head__weight__x=UP),
            "but this model takes lora_down 2x6, lora_up 3x2",
        ),
        (
            state_of(Bottleneck(units=10**9), head__output__reduce=torch.ones(2, 3)),
            "not those of 1000000000 units",
        ),
        (state_of(Bottleneck(units=2), head__output__expand=UP), "which is no Bottleneck"),
    ],
)
def test_adapters_of_another_shape(model, state, message):
    with refused(model, message):
        attach(model, state)
