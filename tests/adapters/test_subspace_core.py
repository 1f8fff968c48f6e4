"""The modes of SubspaceCore keep what they promise, on every kind of layer and against peft."""

import copy
import re
import warnings

import pytest
import torch
from torch import nn

from speechcl.adapters import (
    SubspaceCore,
    adapter_layers,
    adapter_parameters,
    attach,
    extract,
    insert,
    merge,
    remove,
)
from speechcl.adapters.subspace import split
from tests.adapters.kinds import net_of

MODES = ("core", "dense", "factored")
KINDS = [
    "linear",
    "transposed linear",
    "conv1d strided",
    "conv1d grouped",
    "conv2d depthwise",
    "upsampling",
    "upsampling grouped",
    "attention",
]


def layers_of(net):
    slots = (one for slots in adapter_layers(net).values() for one in slots.values())
    return list(slots)


def settle(net):
    for layer in layers_of(net):
        layer.settle()


def settle_gradient(net):
    for layer in layers_of(net):
        layer.settle_gradient()


def train(net, inputs, *, settled=True, optimizer=torch.optim.AdamW, steps=20, **options):
    """Learn some other output; return what ``inputs`` gave before."""
    before = net(*inputs).detach()
    generator = torch.Generator().manual_seed(3)
    goal = torch.randn(before.shape, generator=generator).to(before.dtype)
    steps_of = optimizer(adapter_parameters(net), lr=0.01, **options)
    for _ in range(steps):
        steps_of.zero_grad()
        (net(*inputs) - goal).float().square().mean().backward()
        settle_gradient(net)
        steps_of.step()
        if settled:
            settle(net)
    return before


def blocks(kind, layer, weights):
    """The independent matrices of weights, from the definition of each kind of layer."""
    if kind.startswith("attention"):
        return weights.unflatten(0, (3, -1))
    groups = getattr(layer, "groups", 1)
    if kind.startswith("upsampling"):  # (in, out / groups, time), a group hears some of the inputs
        return torch.stack([part.flatten(1).t() for part in weights.chunk(groups)])
    if kind == "transposed linear":
        return weights.t()[None]
    return torch.stack([part.flatten(1) for part in weights.chunk(groups)])


def weight_of(layer):
    return layer.in_proj_weight if hasattr(layer, "in_proj_weight") else layer.weight


def leak_of(before, change, k):
    """Largest share of a change that lies in protected directions of its block."""
    worst = 0.0
    for matrix, moved in zip(before.double(), change.double(), strict=True):
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        for inside in (u[:, :k].T @ moved, moved @ v[:k].T):
            worst = max(worst, float(inside.norm() / moved.norm()))
    return worst


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_starts_the_same_and_does_not_leak(kind, mode):
    net, inputs = net_of(kind, torch.float64)
    base = weight_of(net.layer).detach().clone()
    plain = net(*inputs)
    insert(net, SubspaceCore(0.5, mode=mode), "layer")
    k = int(layers_of(net)[0].preserved)
    rank = min(blocks(kind, net.layer, base).shape[1:])
    assert k == rank // 2
    # the start of factors is taken off again, which rounds
    assert (net(*inputs) - plain).abs().max() <= (1e-12 if mode == "factored" else 0)
    train(net, inputs, weight_decay=0.1)
    merge(net)
    before, after = (blocks(kind, net.layer, one) for one in (base, weight_of(net.layer).detach()))
    change = after - before
    assert change.flatten(1).norm(dim=1).min() > 1e-2
    assert leak_of(before, change, k) <= 1e-9
    assert torch.linalg.matrix_rank(change, rtol=1e-7).max() <= rank - k


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(12, 7), (7, 12), (16, 16)])
def test_single_precision_does_not_leak_either(shape, mode):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(shape[1], shape[0]))
    x = torch.randn(20, shape[1])
    insert(net, SubspaceCore(0.5, mode=mode), "0")
    base = net[0].base_tensor("weight").detach()
    train(net, (x,), steps=100)
    (layer,) = layers_of(net)
    assert leak_of(base[None], layer.change().detach()[None], int(layer.preserved)) <= 1e-5


@pytest.mark.parametrize("mode", ["dense", "factored"])
def test_a_projected_gradient_alone_leaks_under_adam(mode):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 96))
    insert(net, SubspaceCore(0.5, mode=mode), "0")
    base = net[0].base_tensor("weight").detach()
    train(net, (torch.randn(32, 64),), settled=False, steps=100)
    (layer,) = layers_of(net)
    assert leak_of(base[None], layer.change().detach()[None], int(layer.preserved)) > 0.05


def test_projected_gradients_of_factors_are_enough_for_gradient_descent():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(7, 12))
    insert(net, SubspaceCore(0.5, mode="factored"), "0")
    base = net[0].base_tensor("weight").detach()
    x = torch.randn(32, 7)
    train(net, (x,), settled=False, optimizer=torch.optim.SGD, steps=100, momentum=0.9)
    (layer,) = layers_of(net)
    change = layer.change().detach()
    assert change.norm() > 0.1 * base.norm()
    assert leak_of(base[None], change[None], int(layer.preserved)) <= 1e-5


@pytest.mark.parametrize(
    ("mode", "projection"), [(mode, "two_sided") for mode in MODES] + [("dense", "paper_eq")]
)
def test_answers_to_protected_inputs_and_along_protected_outputs_stay(mode, projection):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 9))
    insert(net, SubspaceCore(0.5, mode=mode, projection=projection), "0")
    cut = split(net[0].base_tensor("weight").detach(), 4)
    x = torch.randn(40, 12)
    protected = torch.randn(5, 4) @ cut.v_high
    at_first = net(protected).detach()
    before = train(net, (x,), steps=50)
    moved = float((net(protected).detach() - at_first).norm() / at_first.norm())
    change = net(x).detach() - before
    along = float((change @ cut.u_high).norm() / before.norm())
    assert change.norm() > 0.1 * before.norm()
    if projection == "two_sided":
        assert moved <= 1e-5
        assert along <= 1e-5
    else:
        assert moved > 0.05
        assert along > 0.05
        inside = cut.u_high.T @ layers_of(net)[0].change() @ cut.v_high.T
        assert inside.abs().max() <= 1e-5


@pytest.mark.parametrize("shape", [(12, 7), (7, 12), (8, 8)])
def test_the_bases_of_a_core_are_full_complements(shape):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(shape[1], shape[0]))
    insert(net, SubspaceCore(0.5), "0")
    (layer,) = layers_of(net)
    k = int(layer.preserved)
    cut = split(net[0].base_tensor("weight").detach(), k)
    assert layer.core.shape == (1, shape[0] - k, shape[1] - k)
    for basis, high in ((layer.u_free[0], cut.u_high), (layer.v_free[0].T, cut.v_high.T)):
        torch.testing.assert_close(basis.T @ basis, torch.eye(basis.shape[1]), atol=1e-6, rtol=0)
        assert (basis.T @ high).abs().max() <= 1e-6


def test_a_first_step_of_gradient_descent_is_the_projected_gradient():
    """In dense and core mode alike: D = -lr (I - P_U) G (I - P_V); factors step elsewhere."""
    torch.manual_seed(0)
    x, base = torch.randn(30, 12), nn.Sequential(nn.Linear(12, 9))
    goal = torch.randn(30, 9)
    (base(x) - goal).square().mean().backward()
    cut = split(base[0].weight.detach(), 4)
    u, v = cut.u_high, cut.v_high.T
    expected = -0.1 * (torch.eye(9) - u @ u.T) @ base[0].weight.grad @ (torch.eye(12) - v @ v.T)
    changes = {}
    for mode in MODES:
        net = copy.deepcopy(base)
        insert(net, SubspaceCore(0.5, mode=mode), "0")
        optimizer = torch.optim.SGD(adapter_parameters(net), lr=0.1)
        (net(x) - goal).square().mean().backward()
        assert all(p.grad is not None for p in adapter_parameters(net))
        settle_gradient(net)
        optimizer.step()
        settle(net)
        changes[mode] = layers_of(net)[0].change().detach()
    for mode in ("core", "dense"):
        torch.testing.assert_close(changes[mode], expected, atol=1e-6, rtol=0)
    assert (changes["factored"] - expected).norm() > 0.1 * expected.norm()


@pytest.mark.parametrize("rows", [1, 10_000])
def test_a_core_beside_the_weight_and_in_it_computes_the_same(rows):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(24, 16))
    insert(net, SubspaceCore(0.5), "0")
    train(net, (torch.randn(20, 24),))
    (layer,) = layers_of(net)
    assert layer.branches(rows) == (rows == 1)
    x = torch.randn(rows, 24)
    beside = net(x).detach()
    with torch.no_grad():
        assert not layer.branches(1)
        torch.testing.assert_close(net(x), beside, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_base_keeps_its_adapter_in_single_precision(dtype, mode):
    net, inputs = net_of("linear", dtype)
    plain = net(*inputs)
    insert(net, SubspaceCore(0.5, mode=mode), "layer")
    assert all(p.dtype == torch.float32 for p in adapter_parameters(net))
    assert torch.equal(net(*inputs), plain)
    train(net, inputs)
    base = net.layer.base_tensor("weight").detach()
    assert base.dtype == dtype
    assert (net(*inputs) - plain).abs().max() > 1e-2
    (layer,) = layers_of(net)
    assert leak_of(base[None], layer.change().detach()[None], int(layer.preserved)) <= 1e-5


# ---- files
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["linear", "conv1d grouped", "upsampling grouped", "attention"])
def test_a_file_brings_it_back(kind, mode, tmp_path):
    net, inputs = net_of(kind)
    insert(net, SubspaceCore(0.6, mode=mode), "layer")
    train(net, inputs)
    expected = net(*inputs).detach()
    extract(net).save(tmp_path / "adapter.safetensors")
    remove(net)
    attach(net, tmp_path / "adapter.safetensors")
    torch.testing.assert_close(net(*inputs), expected, atol=1e-6, rtol=1e-6)
    settle(net)  # with what it protects
    torch.testing.assert_close(net(*inputs), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    "absurd",
    [
        torch.tensor(0),
        torch.tensor(-3),
        torch.tensor(5),
        torch.tensor(2**62),
        torch.tensor(float("inf")),
        torch.tensor(2.0),
        torch.zeros(0, dtype=torch.int64),
        torch.ones(2, dtype=torch.int64),
        None,
    ],
)
def test_an_absurd_file_is_refused_in_one_line(absurd, tmp_path):
    net, _ = net_of("linear")
    insert(net, SubspaceCore(0.5), "layer")
    state = extract(net)
    remove(net)
    if absurd is None:
        del state.tensors["layer.weight.preserved"]
    else:
        state.tensors["layer.weight.preserved"] = absurd
    state.save(tmp_path / "absurd.safetensors")
    with pytest.raises(ValueError, match="adapter layer 'layer' holds") as caught:
        attach(net, tmp_path / "absurd.safetensors")
    assert "preserved" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_protects_otherwise_than_its_tensors_say_is_refused():
    net, _ = net_of("linear")
    insert(net, SubspaceCore(0.5), "layer")
    state = extract(net)
    remove(net)
    state.tensors["layer.weight.preserved"] = torch.tensor(3)
    with pytest.raises(ValueError, match="it was made for another size of model"):
        attach(net, state)


# ---- what cannot be
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "sparse"}, "mode is 'sparse': choose core, dense, factored"),
        ({"projection": "one"}, "projection is 'one': choose two_sided or paper_eq"),
        ({"projection": "paper_eq"}, "projection 'paper_eq' needs mode 'dense'"),
        ({"preserved": 1.0}, "preserved is 1.0: give a share in [0, 1) of the rank"),
        ({"preserved": -0.1}, "preserved is -0.1: give a share in [0, 1) of the rank"),
        ({"preserved": "0.5"}, "preserved is 0.5: give a share in [0, 1) of the rank"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        SubspaceCore(**options)


@pytest.mark.parametrize("k", [0, 5, -1, 0.5, 2.0])
def test_a_count_that_cannot_be_names_the_layer(k):
    net, _ = net_of("linear")
    message = f"by_layer protects {k} directions of 'layer', whose weight has rank 5: .* 1 to 4"
    with pytest.raises(ValueError, match=message):
        insert(net, SubspaceCore(by_layer={"layer": k}), "layer")


def test_a_weight_that_is_not_finite_is_named():
    net, _ = net_of("linear")
    net.layer.weight.data[1, 2] = float("nan")
    with pytest.raises(ValueError, match="the weight of 'layer' is not finite: mend the model"):
        insert(net, SubspaceCore(0.5), "layer")


@pytest.mark.parametrize("layer", [nn.Linear(8, 1), nn.Conv1d(6, 6, 3, groups=6)])
def test_a_layer_of_rank_1_is_named(layer):
    with pytest.raises(ValueError, match=r"the weight of '0' has rank 1.*leave it out of targets"):
        insert(nn.Sequential(layer), SubspaceCore(0.5), "0")


def test_counts_by_layer_come_before_the_share():
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    insert(net, SubspaceCore(0.5, by_layer={"1": 6}), "*")
    assert [int(layer.preserved) for layer in layers_of(net)] == [4, 6]


# ---- peft
def in_peft(base, k):
    peft = pytest.importorskip("peft")
    if not hasattr(peft, "OSFConfig"):
        pytest.skip("this peft has no OSF")
    config = peft.OSFConfig(target_modules=["0"], effective_rank=k)
    return peft.get_peft_model(copy.deepcopy(base), config)


@pytest.mark.parametrize("shape", [(96, 64), (64, 96), (64, 64)])
@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
        (torch.optim.AdamW, {"lr": 1e-3, "weight_decay": 0.0}),
    ],
)
def test_factors_under_projected_gradients_are_those_of_peft(shape, optimizer, options):
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(shape[1], shape[0]))
    x, goal = torch.randn(32, shape[1]), torch.randn(32, shape[0])
    theirs, ours = in_peft(base, min(shape) // 2), copy.deepcopy(base)
    insert(ours, SubspaceCore(0.5, mode="factored"), "0")
    for net in (theirs, ours):
        trained = [p for p in net.parameters() if p.requires_grad]
        steps_of = optimizer(trained, **options)
        for _ in range(20):
            steps_of.zero_grad()
            (net(x) - goal).square().mean().backward()
            if net is ours:
                settle_gradient(net)
            steps_of.step()
    expected = theirs.base_model.model[0].get_delta_weight("default").detach()
    found = layers_of(ours)[0].change().detach()
    assert expected.norm() > 1e-2
    assert (found - expected).norm() <= 1e-4 * expected.norm()


def test_unloading_peft_drops_the_task_and_only_merging_keeps_it():
    """A change of this upstream behaviour should be noticed: recipes there rest on it."""
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(12, 8))
    x = torch.randn(10, 12)
    tuned = in_peft(base, 4)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "S_low" in name:
                parameter.mul_(2)
    learnt = tuned(x).detach()
    assert (learnt - base(x)).abs().max() > 1e-2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        unloaded = copy.deepcopy(tuned).unload()
        merged = tuned.merge_and_unload()
    assert torch.equal(unloaded(x), base(x))
    torch.testing.assert_close(merged(x), learnt, atol=1e-5, rtol=1e-5)
