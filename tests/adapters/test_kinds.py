"""Every kind of layer keeps every promise of the adapters."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from speechcl.adapters import (
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
from speechcl.adapters.adapted import can_branch
from tests.adapters.kinds import (
    FOLDED,
    KINDS,
    Branch,
    Gate,
    adapted,
    dense_change,
    net_of,
    stir,
    train,
    without_weight_norm,
)

ADAPTERS = {"LoRA": LoRA(rank=3, alpha=6), "Bottleneck": Bottleneck(units=3)}
every_kind = pytest.mark.parametrize("kind", KINDS)
every_adapter = pytest.mark.parametrize("adapter", ADAPTERS.values(), ids=ADAPTERS)
LINEAR_IN_WEIGHT = [kind for kind in KINDS if not kind.startswith("attention")]
BRANCHED = [kind for kind, (make, _) in KINDS.items() if can_branch(make())]


def close(a, b, tolerance=1e-5):
    return (a - b).abs().max() <= tolerance * b.abs().max()


def in_mode(mode, net, inputs):
    """PyTorch has other kernels for some layers where no gradient is wanted."""
    with mode():
        return net(*inputs)


def tensors(net):
    """All bytes of the base, by name."""
    return {k: v.clone() for k, v in net.state_dict().items() if "adapters.@" not in k}


@every_adapter
@every_kind
def test_a_fresh_adapter_changes_no_bit(kind, adapter):
    net, inputs = net_of(kind)
    net.requires_grad_(False)  # attention rounds otherwise for weights that want a gradient
    modes = [torch.no_grad, torch.inference_mode]
    modes += [] if "attention" in kind else [torch.enable_grad]
    before = [in_mode(mode, net, inputs) for mode in modes]
    report = insert(net, adapter, "layer", example=inputs)
    assert report.layers == ("layer",)
    for mode, given in zip(modes, before, strict=True):
        assert torch.equal(in_mode(mode, net, inputs), given)


@every_adapter
@every_kind
def test_training_moves_the_adapter_and_nothing_else(kind, adapter):
    net, inputs = net_of(kind)
    frozen, before = tensors(net), net(*inputs).detach()
    insert(net, adapter, "layer")
    parameters = adapter_parameters(net)
    values = [p.detach().clone() for p in parameters]
    assert {id(p) for p in net.parameters() if p.requires_grad} == {id(p) for p in parameters}
    train(net, inputs, [p for p in net.parameters() if p.requires_grad])
    assert all(not torch.equal(p, value) for p, value in zip(parameters, values, strict=True))
    after = tensors(net)
    assert all(torch.equal(after[name], frozen[name]) for name in frozen)
    assert after.keys() == frozen.keys()
    assert (net(*inputs) - before).abs().max() > 1e-3


@every_kind
def test_the_change_is_the_defined_one(kind):
    net, inputs = adapted(kind)
    slots = adapter_layers(net)["layer"]
    given = net(*inputs)
    base = copy.deepcopy(net)
    remove(base)
    base.layer = without_weight_norm(base.layer)
    with torch.no_grad():
        for attribute, change in dense_change(base.layer, slots).items():
            getattr(base.layer, attribute).add_(change)
    assert close(given, base(*inputs))
    assert slots["q" if "attention" in kind else "weight"].scale == 2.0


@pytest.mark.parametrize("kind", BRANCHED)
def test_a_branch_gives_what_a_folded_weight_gives(kind):
    net, inputs = adapted(kind)
    beside, _ = adapted(kind, Branch(rank=3, alpha=6))
    assert not torch.equal(beside(*inputs), net_of(kind)[0](*inputs))
    assert close(beside(*inputs), net(*inputs))
    with torch.no_grad():
        assert close(beside(*inputs), net(*inputs))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in BRANCHED])
def test_where_no_branch_can_be_put_it_is_refused(kind):
    net, _ = net_of(kind)
    before, kept = type(net.layer), vars(net.layer).keys()
    with pytest.raises(ValueError, match="depends on the input, and 'layer'"):
        insert(net, Gate(), "layer")
    assert type(net.layer) is before
    assert vars(net.layer).keys() == kept


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@every_kind
def test_merged_is_unmerged(kind, dtype):
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float64: 1e-13}[dtype]
    net, inputs = adapted(kind, dtype=dtype)
    before = base_fingerprint(net)
    given = net(*inputs)
    merge(net)
    assert given.dtype == dtype
    assert close(net(*inputs), given, tolerance)
    assert list_adapters(net) == []
    assert base_fingerprint(net) != before
    assert all(p.is_contiguous() for p in net.parameters())
    train(net, inputs, net.parameters(), steps=1)


@every_adapter
@every_kind
def test_removing_leaves_no_trace(kind, adapter):
    net, inputs = net_of(kind)
    next(net.norm.parameters()).requires_grad_(False)
    original, print_before, given = type(net.layer), base_fingerprint(net), net(*inputs)
    flags = {name: p.requires_grad for name, p in net.named_parameters()}
    entries, keys = set(vars(net.layer)), list(net.state_dict())
    net.eval()
    insert(net, adapter, "layer", "a")
    insert(net, adapter, "layer", "b")
    stir(net, "a")
    with torch.no_grad():
        net(*inputs)
    remove(net, "a")
    assert type(net.layer) is not original
    remove(net, "b")
    net.train()
    assert type(net.layer) is original
    assert base_fingerprint(net) == print_before
    assert {name: p.requires_grad for name, p in net.named_parameters()} == flags
    assert set(vars(net.layer)) == entries
    assert list(net.state_dict()) == keys
    assert "adapter_book" not in vars(net)
    assert torch.equal(net(*inputs), given)


@every_adapter
@every_kind
def test_a_file_carries_an_adapter_to_another_copy_of_the_base(kind, adapter, tmp_path):
    net, inputs = net_of(kind)
    other = copy.deepcopy(net) if "weight_norm" not in kind else net_of(kind)[0]
    insert(net, adapter, "layer")
    stir(net)
    extract(net).save(tmp_path / "one.safetensors")
    attach(other, tmp_path / "one.safetensors", "one")
    assert close(other(*inputs), net(*inputs), 1e-6)
    assert not any(p.requires_grad for p in other.parameters())


@every_kind
def test_copies_are_independent(kind):
    net, inputs = adapted(kind)
    net.eval()
    with torch.no_grad():
        given = net(*inputs)
        twin = copy.deepcopy(net)
        assert torch.equal(twin(*inputs), given)
        stir(twin, seed=5)
        assert not torch.equal(twin(*inputs), given)
        assert torch.equal(net(*inputs), given)
        remove(twin)
        assert torch.equal(net(*inputs), given)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "parametrised" not in kind])
def test_a_pickle_is_the_same_model(kind):
    net, inputs = adapted(kind)
    with torch.no_grad():
        given = net(*inputs)
        twin = pickle.loads(pickle.dumps(net))
        assert torch.equal(twin(*inputs), given)
    remove(twin)
    assert type(twin.layer) is type(net_of(kind)[0].layer)


@pytest.mark.parametrize("kind", LINEAR_IN_WEIGHT)
def test_two_adapters_add_up(kind):
    net, inputs = net_of(kind)
    net.eval()
    base = net(*inputs).detach()
    given = {}
    for seed, name in enumerate("ab"):
        insert(net, LoRA(rank=2), "layer", name)
        stir(net, name, seed)
        given[name] = net(*inputs) - base
    activate(net, ["a", "b"])
    assert close(net(*inputs) - base, given["a"] + given["b"])


@every_kind
def test_switching(kind):
    net, inputs = net_of(kind)
    net.eval().requires_grad_(False)
    given = {None: in_mode(torch.no_grad, net, inputs)}
    for seed, name in enumerate("ab"):
        insert(net, LoRA(rank=2), "layer", name)
        stir(net, name, seed)
        with torch.no_grad():
            given[name] = net(*inputs)
    with torch.no_grad():
        for name in ("a", None, "b", "a", "b"):
            activate(net, name)
            assert torch.equal(net(*inputs), given[name])
        activate(net, ["a", "b", "a"])
        both = net(*inputs)
        assert not any(torch.equal(both, one) for one in given.values())
        remove(net, "a")
        assert torch.equal(net(*inputs), given["b"])


@every_kind
def test_all_ways_of_running_agree(kind):
    net, inputs = adapted(kind)
    given = net(*inputs).detach()
    first = in_mode(torch.no_grad, net, inputs)
    assert close(first, given, 1e-6)
    for mode in (torch.no_grad, torch.inference_mode):  # from what is kept, if anything
        assert torch.equal(in_mode(mode, net, inputs), first)
    train(net, inputs, adapter_parameters(net), steps=1)  # inference leaves nothing behind
    assert not torch.equal(net(*inputs), given)


@every_adapter
@every_kind
def test_autocast(kind, adapter):
    net, inputs = net_of(kind)
    insert(net, adapter, "layer")
    stir(net)
    given, flow = net(*inputs).detach(), []
    with torch.autocast("cpu", torch.bfloat16):
        for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
            flow.append(in_mode(mode, net, inputs))
    assert all(one.dtype == flow[0].dtype for one in flow)
    assert all(close(one.float(), given, 5e-2) for one in flow)
    with torch.autocast("cpu", torch.bfloat16):
        train(net, inputs, adapter_parameters(net), steps=1)
    assert not torch.equal(net(*inputs), given)


def _loaded(net, **how):
    other = {k: v + 0.5 if v.is_floating_point() else v for k, v in net.state_dict().items()}
    net.load_state_dict(other, **how)


def _stepped(net, which):
    parameters = [p for n, p in net.named_parameters() if which in n and "norm" not in n]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    torch.optim.SGD(parameters, lr=0.5).step()


def _replaced(net, which):
    for name, parameter in net.named_parameters():
        if which in name:
            parameter.data = parameter.data + 0.5


def _written_through_data(net):
    """As optimizers do that were written for old PyTorch."""
    net(*net.inputs).sum().backward()
    for parameter in adapter_parameters(net):
        parameter.data.add_(0.5)


def _exchanged(net):
    for slots in adapter_layers(net).values():
        for layer in slots.values():
            layer.lora_up = nn.Parameter(layer.lora_up.detach() + 0.5)


def _rounded(net):
    net.to(torch.bfloat16).float()


def _swapped(net):
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        net.to(torch.bfloat16).float()
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


CHANGES = {
    "load_state_dict": _loaded,
    "load_state_dict by assignment": lambda net: _loaded(net, assign=True),
    "a step of the adapter": lambda net: _stepped(net, "adapters"),
    "a step of the base": lambda net: _stepped(net, "layer"),
    "other data of the adapter": lambda net: _replaced(net, "adapters"),
    "other data of the base": lambda net: _replaced(net, "layer"),
    "a step written through data": _written_through_data,
    "another parameter": _exchanged,
    "less precision": _rounded,
    "less precision by swapping": _swapped,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("kind", FOLDED)
def test_kept_weights_follow_every_change(kind, change):
    net, inputs = adapted(kind)
    net.inputs = inputs
    with torch.no_grad():
        before = net(*inputs)
        assert net.layer.kept_weights
    change(net)
    with torch.no_grad():
        after = net(*inputs)
        net.layer.kept_weights.clear()
        assert torch.equal(after, net(*inputs))
    assert not torch.equal(after, before)


def test_a_new_adapter_in_the_place_of_an_old_one_is_not_taken_for_it():
    """Python and the allocator hand out the same addresses again."""
    net, inputs = net_of("conv1d")
    net.eval()
    insert(net, LoRA(rank=2), "layer", "stays")
    for seed in range(20):
        insert(net, LoRA(rank=2), "layer", "goes")
        stir(net, "goes", seed)
        with torch.no_grad():
            given = net(*inputs)
            assert torch.equal(given, copy.deepcopy(net)(*inputs))
        remove(net, "goes")


@pytest.mark.parametrize("kind", FOLDED)
def test_nothing_is_kept_where_gradients_flow_or_nothing_acts(kind):
    net, inputs = adapted(kind)
    net(*inputs)
    assert not net.layer.kept_weights
    with torch.no_grad():
        net(*inputs)
    assert net.layer.kept_weights
    activate(net.eval(), None)
    assert "kept_weights" not in vars(net.layer)


@pytest.mark.parametrize("kind", ["linear", "transposed linear", "conv1d", "conv1d grouped"])
def test_one_item_without_a_batch(kind):
    net, (x,) = adapted(kind)
    assert torch.allclose(net(x[0]), net(x)[0], atol=1e-6)
    if "linear" in kind:
        assert torch.allclose(net(x[0, 0]), net(x)[0, 0], atol=1e-6)


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad])
@pytest.mark.parametrize("kind", ["linear", "transposed linear"])
def test_an_empty_batch(kind, mode):
    net, (x,) = adapted(kind)
    assert in_mode(mode, net, (x[:0],)).shape == (0, 3, 5)


def test_a_branch_writes_to_nothing_but_its_own_output():
    net, (x,) = adapted("linear")
    kept = x.clone()
    with torch.no_grad():
        first = net(x)
        copy_of_first = first.clone()
        net(x + 1)
    assert torch.equal(first, copy_of_first)
    assert torch.equal(x, kept)


def test_an_ensemble_of_adapters():
    """Many adapters at once, by vmap over their weights."""
    net, (x,) = adapted("linear")
    weights = {name: p.detach() for name, p in net.named_parameters()}
    ours = {name for name in weights if "adapters" in name}
    many = {n: torch.stack([w, 2 * w]) if n in ours else w for n, w in weights.items()}
    places = {name: 0 if name in ours else None for name in weights}
    with torch.no_grad():
        given = vmap(lambda w: functional_call(net, w, (x,)), (places,))(many)
        assert close(given[0], net(x), 1e-6)
        for parameter in adapter_parameters(net):
            parameter.mul_(2)
        assert close(given[1], net(x), 1e-6)


def test_arguments_keep_their_names():
    (net, (x,)), (other, (y,)) = adapted("linear"), adapted("conv1d")
    assert torch.equal(net.layer(input=x), net.layer(x))
    assert torch.equal(other.layer(input=y), other.layer(y))
    transposed, _ = adapted("transposed linear")
    assert torch.equal(transposed.layer(x=x), transposed.layer(x))


def test_weight_norm_can_be_taken_off_an_adapted_layer():
    net, inputs = adapted("conv1d, weight_norm")
    given = net(*inputs)
    nn.utils.remove_weight_norm(net.layer)
    assert close(net(*inputs), given)
    remove(net)
    assert type(net.layer) is nn.Conv1d


@pytest.mark.parametrize("kind", ["linear", "conv1d", "attention"])
def test_gradients_of_each_item(kind):
    net, inputs = adapted(kind)
    weights = {name: p.detach() for name, p in net.named_parameters()}

    def loss(weights, *one):
        return functional_call(net, weights, tuple(x[None] for x in one)).square().sum()

    given = vmap(grad(loss), (None,) + (0,) * len(inputs))(weights, *inputs)
    for item in range(2):
        net.zero_grad()
        net(*(x[item, None] for x in inputs)).square().sum().backward()
        for name, parameter in net.named_parameters():
            if parameter.requires_grad:
                assert torch.allclose(given[name][item], parameter.grad, atol=1e-4), name
    with torch.no_grad():
        assert torch.equal(functional_call(net, weights, inputs), net(*inputs))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["linear", "conv1d"])
def test_compiled(kind):
    net, inputs = adapted(kind)
    compiled = torch.compile(net, backend="eager")
    for seed in (1, 2):
        stir(net, seed=seed)
        with torch.no_grad():
            assert close(compiled(*inputs), net(*inputs))
    compiled(*inputs).sum().backward()
    assert all(p.grad is not None for p in adapter_parameters(net))
