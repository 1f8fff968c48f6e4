"""Rank-one atoms that tokens select: against a loop over tokens, and gradients by hand."""

import copy
import logging
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from speechcl.adapters import (
    AdapterState,
    LoRA,
    MixtureOfRanks,
    WeightShape,
    adapter_layers,
    adapter_parameters,
    atom_usage,
    attach,
    extract,
    insert,
    merge,
    remove,
)


def slow(x, down, up, k, temperature, threshold=None):
    """The change of one token's output, one atom at a time; a threshold in evaluation only."""
    z = (down @ x).tolist()
    norm = max(math.sqrt(sum(one**2 for one in z)), 1e-12)
    scores = [one / norm for one in z]
    chosen = sorted(range(len(z)), key=lambda i: -scores[i])[: max(k, 2)]
    highest = max(scores[i] for i in chosen)
    share = {i: math.exp((scores[i] - highest) / temperature) for i in chosen}
    total = sum(share.values())
    change = torch.zeros(len(up), dtype=torch.float64)
    for i in chosen:
        if threshold is None or scores[i] >= threshold:
            change += share[i] / total * z[i] * up[:, i]
    return change


def slow_gradients(x, down, up, k, temperature, grad):
    """Gradients of one token's change by keys, values and input, written down by hand."""
    z = down @ x
    norm = z.norm()
    scores = z / norm
    chosen = set(scores.argsort(descending=True)[: max(k, 2)].tolist())
    allowed = torch.tensor([i in chosen for i in range(len(scores))])
    share = (scores / temperature).exp() * allowed
    w = share / share.sum()
    u = up.T @ grad
    q = z * u
    by_score = w / temperature * (q - (w * q).sum())
    by_z = w * u + (by_score - scores * (scores * by_score).sum()) / norm
    return torch.outer(by_z, x), torch.outer(grad, w * z), down.T @ by_z


def draw(seed, *shape, dtype=torch.float32):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


class Bank:
    """A module with a bank of so many tasks, whose values are not zero, and the module without."""

    def __init__(self, module, spec, tasks=1, seed=0):
        self.plain = copy.deepcopy(module)
        self.net = nn.Sequential(module)
        insert(self.net, spec, targets="0")
        self.layer = adapter_layers(self.net)["0"]["weight"]
        for task in range(tasks):
            if task:
                self.layer.grow()
            self.layer.new_up.data.copy_(draw(seed + task, *self.layer.new_up.shape))

    def change(self, x):
        """What the bank adds to the output."""
        return self.net(x) - self.plain(x)

    def slow_change(self, tokens, k, temperature, threshold=None):
        """The same for each of some tokens, by the loop."""
        down, up = self.layer.down().detach().double(), self.layer.up().detach().double()
        found = [slow(x, down, up, k, temperature, threshold) for x in tokens.double()]
        return torch.stack(found)


# ---- against the loop over tokens
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("active", [2, 5, 6, 7])
def test_forward_is_the_loop_over_tokens(active, training):
    spec = MixtureOfRanks(rank=2, active=active, temperature=0.3, threshold=0.25)
    bank = Bank(nn.Linear(5, 4), spec, tasks=3)
    bank.net.train(training)
    x = draw(1, 3, 7, 5)
    expected = bank.slow_change(x.flatten(0, 1), active, 0.3, None if training else 0.25)
    assert (bank.change(x).flatten(0, 1) - expected).abs().max() < 1e-5


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv1d(3, 4, 3, stride=2, padding=2, dilation=2),
        nn.Conv2d(3, 4, (3, 2), stride=(1, 2), padding=1),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_a_token_of_a_convolution_is_an_output_frame(module, training):
    spec = MixtureOfRanks(rank=2, active=3, temperature=0.2)
    bank = Bank(copy.deepcopy(module), spec, tasks=2)
    bank.net.train(training)
    x = draw(2, 2, 3, 9) if isinstance(module, nn.Conv1d) else draw(2, 2, 3, 6, 9)
    found = bank.change(x)
    image, size, steps = x, module.kernel_size, [module.dilation, module.padding, module.stride]
    if isinstance(module, nn.Conv1d):  # unfold knows images only
        image, size = x[:, :, None], (1, *size)
        steps = [(1, *steps[0]), (0, *steps[1]), (1, *steps[2])]
    patches = functional.unfold(image, size, *steps).movedim(1, 2)  # (batch, frames, columns)
    expected = bank.slow_change(patches.flatten(0, 1), 3, 0.2, None if training else 0.2)
    expected = expected.view(2, -1, 4).movedim(1, 2).reshape(found.shape)
    assert (found - expected).abs().max() < 1e-5


def test_transposed_linear_layers_of_transformers():
    utilities = pytest.importorskip("transformers.pytorch_utils")
    bank = Bank(utilities.Conv1D(4, 5), MixtureOfRanks(rank=3, active=4), tasks=2)
    x = draw(3, 2, 6, 5)
    expected = bank.slow_change(x.flatten(0, 1), 4, 0.01)
    assert (bank.change(x).flatten(0, 1) - expected).abs().max() < 1e-5


@pytest.mark.parametrize(("active", "temperature"), [(3, 0.5), (9, 0.5), (3, 0.05)])
def test_gradients_are_those_written_by_hand(active, temperature):
    spec = MixtureOfRanks(rank=3, active=active, temperature=temperature)
    bank = Bank(nn.Linear(5, 4).double(), spec, tasks=3)
    x = draw(4, 6, 5, dtype=torch.float64).requires_grad_()
    grad = draw(5, 6, 4, dtype=torch.float64)
    bank.net(x).backward(grad)
    down, up = bank.layer.down().detach(), bank.layer.up().detach()
    pairs = zip(x.detach(), grad, strict=True)
    found = [slow_gradients(one, down, up, active, temperature, g) for one, g in pairs]
    keys, values, inputs = (torch.stack(each) for each in zip(*found, strict=True))
    close = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(bank.layer.new_down.grad, keys.sum(0)[-3:], **close)
    torch.testing.assert_close(bank.layer.new_up.grad, values.sum(0)[:, -3:], **close)
    torch.testing.assert_close(x.grad, inputs + grad @ bank.plain.weight, **close)
    assert bank.layer.kept_down.grad is None
    assert bank.layer.kept_up.grad is None


# ---- properties
seeds = st.integers(0, 10_000)


@settings(max_examples=30, deadline=None)
@given(seed=seeds, active=st.integers(2, 9))
def test_weights_are_a_sparse_distribution(seed, active):
    router = Bank(nn.Linear(3, 4), MixtureOfRanks(8, active, temperature=0.1)).layer.router
    z = draw(seed, 20, 8)
    weights = router(z)
    assert (weights.sum(-1) - 1).abs().max() < 1e-6
    assert (weights > 0).sum(-1).max() <= active
    tested = router.eval()(z)
    kept = tested > 0
    assert torch.equal(tested[kept], weights[kept])
    assert torch.equal(kept, (weights > 0) & (z / z.norm(dim=-1, keepdim=True) >= 0.2))


@settings(max_examples=30, deadline=None)
@given(seed=seeds)
def test_change_is_positively_homogeneous(seed):
    bank = Bank(nn.Linear(6, 5), MixtureOfRanks(rank=4, active=3), tasks=2, seed=seed)
    x = draw(seed, 10, 6)
    found = bank.change(x)
    assert (bank.change(3 * x) - 3 * found).abs().max() <= 1e-4 * found.abs().max()
    assert not torch.allclose(bank.change(-x), -found, atol=1e-2)


def test_the_order_of_atoms_does_not_matter():
    bank = Bank(nn.Linear(6, 5), MixtureOfRanks(rank=8, active=3, temperature=0.1))
    x = draw(6, 30, 6)
    before = bank.net(x)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    bank.layer.new_down.data = bank.layer.new_down.data[order]
    bank.layer.new_up.data = bank.layer.new_up.data[:, order]
    torch.testing.assert_close(bank.net(x), before, rtol=0, atol=1e-5)


def test_a_fresh_bank_changes_nothing():
    module = nn.Linear(6, 5)
    net, x = nn.Sequential(copy.deepcopy(module)), draw(7, 40, 6)
    insert(net, MixtureOfRanks(rank=4, active=2), targets="0")
    assert torch.equal(net(x), module(x))
    assert torch.equal(net.eval()(x), module(x))


def test_fresh_atoms_take_weight_from_old_ones():
    bank = Bank(nn.Linear(6, 5), MixtureOfRanks(rank=4, active=2))
    net, layer = bank.net, bank.layer
    x = draw(7, 40, 6)
    before = net(x)
    layer.grow()
    assert not torch.allclose(net(x), before, atol=1e-3)
    layer.new_down.data.zero_()
    found = ((layer.kept_down @ x.T) > 0).sum(0) >= 2  # such tokens select old atoms alone
    assert 0 < found.sum() < 40
    assert torch.equal(net(x)[found], before[found])


def test_high_temperature_is_lora_over_the_number_of_atoms():
    bank = Bank(nn.Linear(6, 5), MixtureOfRanks(rank=8, active=8, temperature=1e6))
    x = draw(9, 30, 6)
    found = bank.change(x)
    down, up = bank.layer.new_down.data, bank.layer.new_up.data
    remove(bank.net)
    insert(bank.net, LoRA(rank=8, alpha=1.0), targets="0")
    lora = adapter_layers(bank.net)["0"]["weight"]
    lora.lora_down.data, lora.lora_up.data = down, up
    torch.testing.assert_close(found, bank.change(x), rtol=0, atol=1e-4)


def test_low_temperature_uses_one_atom():
    bank = Bank(nn.Linear(6, 5), MixtureOfRanks(rank=8, temperature=1e-6))
    x = draw(10, 30, 6)
    best = (x @ bank.layer.down().T).max(-1)
    expected = best.values[:, None] * bank.layer.up().T[best.indices]
    torch.testing.assert_close(bank.change(x), expected, rtol=0, atol=1e-5)


def test_one_active_atom_means_two(caplog):
    with caplog.at_level(logging.WARNING):
        spec = MixtureOfRanks(rank=8, active=1, temperature=1.0)
    assert caplog.messages == ["active is 1, but 2 atoms will be used"]
    layer = Bank(nn.Linear(6, 5), spec).layer
    assert ((layer.router(draw(11, 30, 8)) > 0).sum(-1) == 2).all()


def test_a_single_atom_works():
    bank = Bank(nn.Linear(6, 5), MixtureOfRanks(rank=1))
    x = draw(12, 30, 6)
    z, up = x @ bank.layer.down().T, bank.layer.up().T
    torch.testing.assert_close(bank.change(x), z @ up, rtol=0, atol=1e-5)
    bank.net.eval()
    torch.testing.assert_close(bank.change(x), z.relu() @ up, rtol=0, atol=1e-5)


@pytest.mark.parametrize("active", [3, 16])
def test_threshold(active):
    def output(threshold, training):
        torch.manual_seed(0)
        spec = MixtureOfRanks(rank=8, active=active, threshold=threshold)
        bank = Bank(nn.Linear(6, 5), spec, tasks=2)
        x = draw(13, 30, 6)
        return bank.net.train(training)(x), bank.plain(x)

    trained, plain = output(0.0, training=True)
    torch.testing.assert_close(output(0.0, training=False)[0], trained, rtol=0, atol=1e-6)
    assert torch.equal(output(-1.0, training=False)[0], trained)
    assert not torch.equal(output(0.5, training=False)[0], trained)
    assert torch.equal(output(0.5, training=True)[0], trained)
    assert torch.equal(output(1.01, training=False)[0], plain)


def test_an_atom_on_the_threshold_counts():
    bank = Bank(nn.Linear(6, 5), MixtureOfRanks(rank=1, threshold=1.0))  # alone it scores 1 or -1
    bank.net.eval()
    assert bank.change(draw(13, 30, 6)).abs().max() > 0.1


def test_relative_threshold_follows_the_size_of_the_bank():
    torch.manual_seed(0)
    keys, x = torch.randn(320, 768), draw(14, 1000, 768)  # random, so that scores are diffuse

    def weights(atoms, **options):
        layer = MixtureOfRanks(rank=atoms, **options).make(WeightShape(1, 768, keys))
        return layer.eval().router(x @ keys[:atoms].T)

    def heard(weights):
        """The share of tokens for which any atom counts."""
        return float((weights.sum(-1) > 0).float().mean())

    relative = {"threshold_mode": "relative"}
    assert heard(weights(16)) > 0.97
    assert heard(weights(320)) < 0.08
    assert heard(weights(320, **relative)) > 0.97
    for atoms in (16, 320):
        every = {"active": atoms, "temperature": 1.0}
        expected = weights(atoms, threshold=0.8 / math.sqrt(atoms), **every)
        assert torch.equal(weights(atoms, **relative, **every), expected)


# ---- growing and freezing
def test_freezing_does_not_change_the_output():
    bank = Bank(nn.Linear(6, 5), MixtureOfRanks(rank=4), tasks=2)
    layer, x = bank.layer, draw(15, 30, 6)
    before = bank.net.eval()(x)
    layer.freeze()
    assert torch.equal(bank.net(x), before)
    assert not any(p.requires_grad for p in layer.parameters())
    state = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    layer.freeze()  # again
    assert all(torch.equal(layer.state_dict()[name], one) for name, one in state.items())
    assert layer.down() is layer.kept_down  # no copies
    assert layer.up() is layer.kept_up


def test_old_atoms_stay_as_they_are_while_new_ones_are_trained():
    bank = Bank(nn.Linear(6, 5), MixtureOfRanks(rank=4, active=3))
    net, layer = bank.net, bank.layer
    stale = torch.optim.AdamW(adapter_parameters(net), lr=0.1)
    net(draw(16, 30, 6)).square().sum().backward()
    layer.grow()
    down, up = layer.kept_down.clone(), layer.kept_up.clone()
    trained = [p for p in adapter_parameters(net) if p.requires_grad]
    assert [tuple(p.shape) for p in trained] == [(4, 6), (5, 4)]
    optimizer = torch.optim.AdamW(trained, lr=0.1, weight_decay=0.1)
    for seed in range(5):
        net(draw(seed, 30, 6)).square().sum().backward()
        optimizer.step()
        stale.step()  # an optimizer that was kept from before cannot reach them either
        assert layer.kept_down.grad is None
        assert layer.kept_up.grad is None
    assert torch.equal(layer.kept_down, down)
    assert torch.equal(layer.kept_up, up)
    assert all(p.grad.abs().sum() > 0 for p in trained)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_bank_in_a_file_gives_the_same_outputs_and_grows_on(frozen, tmp_path):
    bank = Bank(nn.Conv1d(3, 5, 3), MixtureOfRanks(rank=2, active=3), tasks=3)
    net, x = bank.net.eval(), draw(17, 4, 3, 20)
    if frozen:
        bank.layer.freeze()
    expected = net(x)
    extract(net).save(tmp_path / "bank.safetensors")
    remove(net)
    assert not torch.allclose(net(x), expected)
    state = AdapterState.load(tmp_path / "bank.safetensors")
    assert state.spec == MixtureOfRanks(rank=2, active=3)
    attach(net, state)
    assert torch.equal(net(x), expected)
    again = adapter_layers(net)["0"]["weight"]
    assert not any(p.requires_grad for p in again.parameters())
    again.grow()
    assert len(again.down()) == 8
    assert [p.requires_grad for p in again.parameters()] == [False, False, True, True]


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("old", torch.zeros(0, 6)),  # no atoms at all
        ("kept_down", torch.zeros(10**12, 0)),  # would take terabytes
        ("kept_down", torch.zeros(1, 6)),  # a key without a value
        ("kept_down", torch.tensor(1.0)),
    ],
)
def test_files_without_proper_atoms_are_refused(name, wrong):
    net = Bank(nn.Linear(6, 5), MixtureOfRanks(rank=2)).net
    state = extract(net)
    remove(net)
    del state.tensors["0.weight.kept_down"]
    state.tensors[f"0.weight.{name}"] = wrong
    with pytest.raises(ValueError, match="adapter layer '0' holds"):
        attach(net, state)


# ---- precision
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_scores_are_exact_in_half_precision(dtype):
    layer = Bank(nn.Linear(6, 5), MixtureOfRanks(rank=8, active=4)).layer
    z = (1000 * draw(18, 30, 8)).to(dtype)  # squares overflow in fp16
    found = layer.mix(z)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), layer.mix(z.double()), rtol=1e-2, atol=1e-2)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.router(z), layer.router(z.float()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_silence_gives_numbers(dtype):
    bank = Bank(nn.Linear(6, 5).to(dtype), MixtureOfRanks(rank=4, active=3), tasks=2)
    x = torch.zeros(3, 6, dtype=dtype, requires_grad=True)
    bank.net(x).sum().backward()
    assert torch.equal(bank.net(x), bank.plain(x))
    assert torch.equal(bank.net.eval()(x), bank.plain(x))
    for grad in (x.grad, bank.layer.new_down.grad, bank.layer.new_up.grad):
        assert grad.isfinite().all()


# ---- what cannot be
@pytest.mark.parametrize(
    "module",
    [nn.MultiheadAttention(4, 2), nn.Conv1d(4, 4, 3, groups=2), nn.ConvTranspose1d(4, 4, 3)],
)
def test_layers_that_are_not_called_token_by_token_are_refused(module):
    net = nn.Sequential(module)
    with pytest.raises(ValueError, match=rf"'0' \({type(module).__name__}\) reads its weight"):
        insert(net, MixtureOfRanks(rank=2), targets="0")
    assert type(net[0]) is type(module)


def test_merging_is_refused():
    net = Bank(nn.Linear(6, 5), MixtureOfRanks(rank=2)).net
    with pytest.raises(ValueError, match=r"depends on the input .* keep it attached"):
        merge(net)
    with pytest.raises(ValueError, match="is read from outside"):
        _ = net[0].weight


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rank": 0}, "rank is 0"),
        ({"active": 0}, "active is 0"),
        ({"active": 2.5}, r"active is 2\.5"),
        ({"temperature": 0.0}, r"temperature is 0\.0"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"threshold": math.nan}, "threshold nan"),
        ({"threshold_mode": "none"}, "threshold_mode is 'none'"),
    ],
)
def test_wrong_arguments(wrong, message):
    with pytest.raises(ValueError, match=message):
        MixtureOfRanks(**wrong)


# ---- looking at it
def test_atom_usage_of_a_bank_made_by_hand():
    spec = MixtureOfRanks(rank=2, active=2, temperature=1e-3, threshold=0.5)
    bank = Bank(nn.Linear(4, 5), spec, tasks=2)
    bank.layer.freeze()
    bank.layer.kept_down.data.copy_(torch.eye(4))
    x = torch.tensor(
        [
            [1.0, 0.0, 0.0, 0.0],  # one atom of the first task
            [0.0, 0.0, 2.0, 2.0],  # both of the second, half each
            [0.0, 0.0, 0.0, 3.0],
            [-1.0, -1.0, -1.0, -1.0],  # none
        ]
    )
    usage = atom_usage(bank.net.train(), x[None])["0"]
    assert usage.mass == pytest.approx((0.25, 0.5))
    assert usage.active == pytest.approx((1 + 2 + 1 + 0) / 4)
    assert usage.silent == 0.25
    assert bank.net.training
    assert not bank.layer.router._forward_hooks


def test_atom_usage_of_another_adapter():
    net = nn.Sequential(nn.Linear(4, 5))
    insert(net, LoRA(rank=2), targets="0")
    with pytest.raises(ValueError, match="'default' has no atoms"):
        atom_usage(net, torch.zeros(1, 4))
