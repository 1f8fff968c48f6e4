"""Gated LoRA against the sum of its rank-one terms, on every kind of layer."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from speechcl.adapters import (
    LoRA,
    RankSelectiveLoRA,
    adapter_layers,
    adapter_parameters,
    attach,
    base_fingerprint,
    extract,
    insert,
    merge,
)
from speechcl.adapters.layer import WeightShape
from tests.adapters.kinds import (
    KINDS,
    dense_change,
    net_of,
    stir,
    train,
    without_weight_norm,
)

every_kind = pytest.mark.parametrize("kind", KINDS)


def adapted(kind, dead=(1,), dtype=torch.float32):
    """A net whose adapter does something, with some of its gates at zero."""
    net, inputs = net_of(kind, dtype)
    insert(net, RankSelectiveLoRA(rank=4), "layer")
    stir(net)
    for layer in layers_of(net):
        with torch.no_grad():
            layer.gates[list(dead)] = 0.0
    return net, inputs


def layers_of(net):
    return list(adapter_layers(net)["layer"].values())


def terms(layer):
    """The layer's parts in double precision, its gates put into B a term at a time."""
    columns = [w * b for w, b in zip(layer.gates, layer.lora_up.t(), strict=True)]
    up = torch.stack(columns, dim=1).detach()
    return SimpleNamespace(up=lambda: up, down=lambda: layer.lora_down.detach())


def close(a, b, tolerance=1e-5):
    return (a - b).abs().max() <= tolerance * b.abs().max().clamp(min=1)


# ---- what it computes
def test_a_linear_layer_is_the_sum_over_terms():
    net, (x,) = adapted("linear", dtype=torch.float64)
    layer, base = layers_of(net)[0], net_of("linear", torch.float64)[0]
    expected = base(x)
    for i in range(4):
        response = x @ layer.lora_down[i]
        expected = expected + layer.gates[i] * response[..., None] * layer.lora_up[:, i]
    torch.testing.assert_close(net(x), expected, rtol=0, atol=1e-12)


@every_kind
def test_every_kind_of_layer_gets_the_sum_over_terms(kind):
    net, inputs = adapted(kind)
    slots = {name: terms(layer) for name, layer in adapter_layers(net)["layer"].items()}
    with torch.no_grad():
        given = net(*inputs)
        base = net_of(kind)[0]
        base.layer = without_weight_norm(base.layer)
        for attribute, change in dense_change(base.layer, slots).items():
            getattr(base.layer, attribute).add_(change)
        assert close(given, base(*inputs))
    assert close(net(*inputs), given, 1e-6)


@every_kind
def test_a_fresh_one_changes_no_bit(kind):
    net, inputs = net_of(kind)
    before = net(*inputs)
    insert(net, RankSelectiveLoRA(rank=4), "layer", example=inputs)
    assert torch.equal(net(*inputs), before)


def test_with_gates_of_1_it_is_a_lora():
    (gated, inputs), (plain, _) = net_of("attention"), net_of("attention")
    insert(gated, RankSelectiveLoRA(rank=3), "layer")
    insert(plain, LoRA(rank=3), "layer")
    for one, other in zip(layers_of(gated), layers_of(plain), strict=True):
        nn.init.ones_(one.gates)
        nn.init.normal_(one.lora_up)
        one_state = {key: value for key, value in one.state_dict().items() if key != "gates"}
        other.load_state_dict(one_state)
    assert torch.equal(gated(*inputs), plain(*inputs))


def test_the_start():
    shape = WeightShape(30, 25, torch.zeros(1))
    torch.manual_seed(3)
    made = [RankSelectiveLoRA(rank=16).make(shape) for _ in range(200)]
    downs = torch.stack([layer.lora_down.detach() for layer in made])
    gates = torch.stack([layer.gates.detach() for layer in made])
    assert not any(layer.lora_up.any() for layer in made)
    assert downs.abs().max() == pytest.approx(0.2, rel=1e-3)  # 1 / sqrt(25)
    assert downs.std() == pytest.approx(0.2 / 3**0.5, rel=0.01)
    assert gates.mean() == pytest.approx(0, abs=0.05)
    assert gates.std() == pytest.approx(1, rel=0.05)


# ---- gates of zero
@every_kind
def test_a_term_of_gate_zero_adds_nothing_and_its_factors_learn_nothing(kind):
    net, inputs = adapted(kind, dead=(1, 2))
    given = net(*inputs)
    given.square().sum().backward()
    for layer in layers_of(net):
        for i in range(len(layer.gates)):
            dead = i in (1, 2)
            assert bool(layer.lora_down.grad[i].any()) is not dead
            assert bool(layer.lora_up.grad[:, i].any()) is not dead
        with torch.no_grad():
            layer.lora_down[[1, 2]] += 5.0
    assert torch.equal(net(*inputs), given)


@every_kind
def test_the_rank_of_the_change_is_that_of_what_is_left(kind):
    net, _ = adapted(kind, dead=(0, 2))
    for layer in layers_of(net):
        change = (layer.up() @ layer.down()).double()
        assert torch.linalg.matrix_rank(change, rtol=1e-5) == layer.gates.count_nonzero() <= 2


@every_kind
def test_without_any_term_left_a_merge_leaves_every_byte(kind):
    net, _ = net_of(kind)
    with torch.no_grad():
        for parameter in net.layer.parameters():
            parameter.view(-1)[0] = -0.0
    before = base_fingerprint(net)
    insert(net, RankSelectiveLoRA(rank=4), "layer")
    stir(net)
    for layer in layers_of(net):
        nn.init.zeros_(layer.gates)
    merge(net)
    assert base_fingerprint(net) == before


# ---- precision, merging, files
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@every_kind
def test_merged_is_unmerged(kind, dtype):
    net, inputs = adapted(kind, dtype=dtype)
    given, layer = net(*inputs), layers_of(net)[0]
    assert layer.lora_up.dtype == dtype
    assert layer.gates.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    merge(net)
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float64: 1e-13}[dtype]
    assert close(net(*inputs), given, tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gate_of_a_model_in_half_precision_feels_the_smallest_threshold(dtype):
    net, inputs = adapted("linear", dtype=dtype)
    gates = layers_of(net)[0].gates
    train(net, inputs, adapter_parameters(net), steps=1)
    with torch.no_grad():
        gates.fill_(1.0).sub_(1e-4)
    assert gates.max() < 1.0


def test_bf16_autocast_trains_the_gates():
    net, inputs = adapted("linear")
    gates = layers_of(net)[0].gates
    before = gates.detach().clone()
    with torch.autocast("cpu", torch.bfloat16):
        train(net, inputs, adapter_parameters(net), steps=1)
    assert gates.dtype == torch.float32
    assert not torch.equal(gates, before)


def test_a_file_holds_each_layers_rank(tmp_path):
    net = nn.Sequential(nn.Conv1d(3, 3, 1, groups=3), nn.Flatten(), nn.Linear(12, 7))
    other, x = copy.deepcopy(net), torch.randn(2, 3, 4)
    insert(net, RankSelectiveLoRA(rank=4), "*")
    stir(net)
    shapes = [tuple(p.shape) for p in adapter_parameters(net)]
    assert shapes == [(1, 1), (3, 1), (1,), (4, 12), (7, 4), (4,)]  # a depthwise weight has rank 1
    extract(net).save(tmp_path / "one.safetensors")
    attach(other, tmp_path / "one.safetensors")
    assert torch.equal(other(x), net(x))
    assert [tuple(p.shape) for p in adapter_parameters(other)] == shapes


def test_a_file_of_pruned_layers_takes_the_ranks_of_its_tensors():
    net, inputs = adapted("linear", dead=(0, 1))
    other, _ = net_of("linear")
    state = extract(net)
    for key, tensor in state.tensors.items():
        live = tensor[:, 2:] if key.endswith("lora_up") else tensor[2:]
        state.tensors[key] = live.contiguous()
    attach(other, state)
    assert close(other(*inputs), net(*inputs))
    assert len(layers_of(other)[0].gates) == 2


@every_kind
def test_the_norm_of_the_change(kind):
    net, _ = adapted(kind)
    for layer in layers_of(net):
        expected = torch.linalg.matrix_norm((layer.up() @ layer.down()).detach())
        assert layer.change_norm() == pytest.approx(float(expected), rel=1e-5)
        nn.init.zeros_(layer.gates)
        assert layer.change_norm() == 0.0


@pytest.mark.parametrize("rank", [0, -1, 2.0, True])
def test_a_rank_that_is_none_is_refused(rank):
    with pytest.raises(ValueError, match=f"rank is {rank}"):
        RankSelectiveLoRA(rank=rank)
