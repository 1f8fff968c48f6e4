"""A bank of slots that inputs mix: against a sum of dense products, slot by slot."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from speechcl.adapters import (
    AdapterState,
    RetrievedBank,
    WeightShape,
    adapter_layers,
    adapter_parameters,
    attach,
    extract,
    insert,
    merge,
    remove,
)
from speechcl.adapters.retrieved_bank import recall_slot_weights, slot_weights


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def mixtures(seed, items, slots):
    """Weights as a retriever gives them: not negative, sum 1."""
    return draw(seed, items, slots).softmax(1)


class Bank:
    """A module with a bank of so many tasks, whose increments are not zero, and the one without."""

    def __init__(self, module, spec, tasks=1):
        self.plain = copy.deepcopy(module)
        self.net = nn.Sequential(module)
        insert(self.net, spec, targets="0")
        self.layers = list(adapter_layers(self.net)["0"].values())
        for task in range(tasks):
            for place, layer in enumerate(self.layers):
                if task:
                    layer.grow()
                layer.new_up.data.copy_(draw(10 * task + place, *layer.new_up.shape))

    def __call__(self, x, weights):
        with slot_weights(self.net, weights):
            return self.net(x)

    def slow_weight(self, weights, layer=0):
        """The first layer's W + sum of a_p B_p A_p with dense products, for one input."""
        down, up = self.layers[layer].down().double(), self.layers[layer].up().double()
        rank = self.layers[layer].rank
        change = torch.zeros(len(up), down.shape[1], dtype=torch.float64)
        for p, weight in enumerate(weights.tolist()):
            own = slice(p * rank, (p + 1) * rank)
            change += weight * up[:, own] @ down[own]
        return change.detach()


SPEC = RetrievedBank(slots=2, rank=3)
SHARED = RetrievedBank(slots=2, rank=3, over_batch=True)


# ---- against dense products
@pytest.mark.parametrize("spec", [SPEC, SHARED])
@pytest.mark.parametrize("shape", [(5, 6), (5, 7, 6), (5, 2, 3, 6)])
def test_forward_is_a_dense_sum_over_slots_for_each_input(spec, shape):
    bank = Bank(nn.Linear(6, 4), spec, tasks=3)
    x, weights = draw(1, *shape), mixtures(2, 5, 6)
    for number, one in enumerate(weights):
        dense = bank.plain.weight + bank.slow_weight(one)
        expected = functional.linear(x[number].double(), dense, bank.plain.bias.double())
        if spec.over_batch:
            found = bank(x, one)[number]
        else:
            found = bank(x, weights)[number]
        assert (found - expected).abs().max() < 1e-5


@pytest.mark.parametrize("spec", [SPEC, SHARED])
@pytest.mark.parametrize(
    "module", [nn.Conv1d(3, 4, 3, stride=2, padding=2, dilation=2), nn.Conv2d(3, 4, (3, 2))]
)
def test_forward_of_a_convolution(module, spec):
    bank = Bank(copy.deepcopy(module), spec, tasks=2)
    x = draw(1, 3, 3, 9) if isinstance(module, nn.Conv1d) else draw(1, 3, 3, 6, 9)
    weights = mixtures(2, 3, 4)
    slow = copy.deepcopy(module).double()
    for number, one in enumerate(weights):
        change = bank.slow_weight(one).view_as(module.weight)
        slow.weight.data = module.weight.detach().double() + change
        found = bank(x, one if spec.over_batch else weights)[number]
        assert (found - slow(x[number].double())).abs().max() < 1e-5


def test_a_batch_of_one_is_the_same_in_both_modes():
    banks = [Bank(nn.Linear(6, 4), spec, tasks=2) for spec in (SPEC, SHARED)]
    banks[1].net.load_state_dict(banks[0].net.state_dict())
    x, weights = draw(1, 1, 7, 6), mixtures(2, 1, 4)
    assert (banks[0](x, weights) - banks[1](x, weights[0])).abs().max() < 1e-6
    assert torch.equal(banks[0](x, weights), banks[0](x, weights[0])), "one for all inputs alike"


@pytest.mark.parametrize("spec", [SPEC, SHARED])
def test_a_fresh_bank_changes_nothing_whatever_the_weights(spec):
    module = nn.Linear(6, 5)
    net, x = nn.Sequential(copy.deepcopy(module)), draw(1, 4, 6)
    insert(net, spec, targets="0")
    weights = mixtures(2, 4, 2)
    with slot_weights(net, weights[0] if spec.over_batch else weights):
        assert torch.equal(net(x), module(x))


def test_no_weight_is_the_base():
    bank = Bank(nn.Linear(6, 4), SPEC, tasks=2)
    x = draw(1, 5, 6)
    assert torch.equal(bank(x, torch.zeros(5, 4)), bank.plain(x))


@pytest.mark.parametrize("copies", [False, True])
def test_an_empty_batch_passes(copies):
    bank = Bank(nn.Linear(6, 4), SPEC, tasks=2)
    with slot_weights(bank.net, torch.zeros(0, 4), copies=copies):
        assert bank.net(torch.zeros(0, 7, 6)).shape == (0, 7, 4)


def test_an_input_does_not_hear_its_neighbours():
    bank = Bank(nn.Linear(6, 4), SPEC, tasks=2)
    x, weights = draw(1, 5, 6), mixtures(2, 5, 4)
    found = bank(x, weights)
    other_x, other_weights = draw(3, 5, 6), mixtures(4, 5, 4)
    other_x[2], other_weights[2] = x[2], weights[2]
    assert (bank(other_x, other_weights)[2] - found[2]).abs().max() < 1e-6


@pytest.mark.parametrize("init_std", [None, 1.0])
def test_slots_start_with_the_asked_deviation(init_std):
    spec = RetrievedBank(slots=10, rank=20, init_std=init_std)
    layer = spec.make(WeightShape(4, 100, torch.zeros(1)))
    assert float(layer.down().detach().std()) == pytest.approx(init_std or 0.1, rel=0.02)
    assert not layer.up().any()


# ---- growing
def test_gradients_reach_the_newest_slots_alone():
    bank = Bank(nn.Linear(6, 4), SPEC, tasks=2)
    (layer,) = bank.layers
    kept = layer.kept_down.clone(), layer.kept_up.clone()
    trained = [p for p in adapter_parameters(bank.net) if p.requires_grad]
    assert [tuple(p.shape) for p in trained] == [(6, 6), (4, 6)]
    optimizer = torch.optim.AdamW(trained, lr=0.1, weight_decay=0.1)
    weights = mixtures(2, 5, 4).requires_grad_()
    for seed in range(3):
        bank(draw(seed, 5, 6), weights).square().sum().backward()
        optimizer.step()
    assert all(p.grad.abs().sum() > 0 for p in trained)
    assert torch.equal(layer.kept_down, kept[0])
    assert torch.equal(layer.kept_up, kept[1])


@pytest.mark.parametrize("spec", [SPEC, SHARED])
def test_new_slots_do_not_change_an_input_that_does_not_retrieve_them(spec):
    bank = Bank(nn.Linear(6, 4), spec)
    (layer,) = bank.layers
    for tensor in (*bank.net.parameters(), x := draw(1, 5, 6)):
        tensor.data = (4 * tensor.data).round()  # whole numbers: the order of sums has no effect
    weights = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [0.25, 0.75], [0.75, 0.25]])
    weights = weights[3] if spec.over_batch else weights
    layer.freeze()
    before = bank(x, weights)
    layer.grow()
    layer.new_up.data.copy_(draw(3, *layer.new_up.shape))
    layer.freeze()
    assert torch.equal(bank(x, functional.pad(weights, (0, 2))), before)
    assert not torch.equal(bank(x, functional.pad(weights, (2, 0))), before)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_bank_in_a_file_gives_the_same_outputs_and_grows_on(frozen, tmp_path):
    bank = Bank(nn.Conv1d(3, 5, 3), SPEC, tasks=3)
    x, weights = draw(1, 4, 3, 20), mixtures(2, 4, 6)
    if frozen:
        bank.layers[0].freeze()
    expected = bank(x, weights)
    extract(bank.net).save(tmp_path / "bank.safetensors")
    remove(bank.net)
    assert torch.equal(bank.net(x), bank.plain(x))
    state = AdapterState.load(tmp_path / "bank.safetensors")
    assert state.spec == SPEC
    attach(bank.net, state)
    assert torch.equal(bank(x, weights), expected)
    layer = adapter_layers(bank.net)["0"]["weight"]
    layer.grow()
    assert len(layer.down()) == 8 * 3
    assert [p.requires_grad for p in layer.parameters()] == [False, False, True, True]


def test_copies_do_not_share_their_slot_weights():
    bank = Bank(nn.Linear(6, 4), SPEC, tasks=2)
    x, weights = draw(1, 5, 6), mixtures(2, 5, 4)
    expected = bank(x, weights)
    twin = copy.deepcopy(bank.net)
    with slot_weights(twin, weights):
        assert torch.equal(twin(x), expected)
        with pytest.raises(ValueError, match="does not know which slots"):
            bank.net(x)


# ---- layers that run again in the backward pass
@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("spec", [SPEC, SHARED])
def test_checkpointed_layers_run_again_with_the_weights_of_their_own_pass(spec, reentrant):
    bank = Bank(nn.Linear(6, 6), spec, tasks=2)
    passes = [(draw(1, 5, 6), mixtures(2, 5, 4)), (draw(3, 4, 6), mixtures(4, 4, 4))]

    def gradient(again, weights_of):
        bank.net.zero_grad()
        loss = 0.0
        for x, weights in passes:  # both before the backward pass
            x, weights = x.clone().requires_grad_(), weights_of(weights)
            with slot_weights(bank.net, weights):
                y = again(x)
            recall_slot_weights(bank.net, weights, {"hidden": [y], "count": 3, "none": None})
            loss = loss + y.square().sum()
        loss.backward()
        return [p.grad.clone() for p in adapter_parameters(bank.net) if p.requires_grad]

    def weights_of(weights):
        return weights[0] if spec.over_batch else weights

    def again(x):
        return checkpoint(bank.net, x, use_reentrant=reentrant)

    expected = gradient(bank.net, weights_of)
    assert all(map(torch.equal, gradient(again, weights_of), expected))
    with pytest.raises(ValueError, match="does not know which slots"):  # not a moment longer
        bank.net(passes[0][0])


def test_a_trained_tensor_among_the_outputs_does_not_keep_a_hook():
    bank = Bank(nn.Linear(6, 6), SPEC)
    scale = nn.Parameter(torch.ones(1))
    recall_slot_weights(bank.net, torch.ones(2), (scale, torch.ones(1)))
    scale.sum().backward()
    assert not scale._backward_hooks


@pytest.mark.parametrize("count", [1, 3])
def test_copies_of_an_input_share_its_weights(count):
    bank = Bank(nn.Linear(6, 4), SPEC, tasks=2)
    x, weights = draw(1, 5 * count, 6), mixtures(2, 5, 4)
    with slot_weights(bank.net, weights, copies=True):
        found = bank.net(x)
        with pytest.raises(ValueError, match="5 inputs have slot weights, but a layer is given 4"):
            bank.net(x[:4])
    each = [bank(x[k : k + 1], weights[k // count][None])[0] for k in range(len(x))]
    assert (found - torch.stack(each)).abs().max() < 1e-6
    if count > 1:
        with pytest.raises(ValueError, match="5 inputs have slot weights, but a layer is given 15"):
            bank(x, weights)


# ---- one mixture for a batch
def test_packed_attention_takes_one_mixture_for_the_batch_and_can_be_merged():
    plain = nn.MultiheadAttention(6, 2, batch_first=True).eval()
    bank = Bank(copy.deepcopy(plain), SHARED, tasks=2)
    net = bank.net.eval()
    x, weights = draw(1, 3, 7, 6), mixtures(2, 1, 4)[0]
    slow = copy.deepcopy(plain)
    changes = [bank.slow_weight(weights, layer) for layer in range(3)]  # of q, k and v
    slow.in_proj_weight.data += torch.cat(changes).float()
    expected = slow(x, x, x)[0]
    assert (expected - plain(x, x, x)[0]).abs().max() > 0.01
    with slot_weights(net, weights), torch.no_grad():
        assert (net[0](x, x, x)[0] - expected).abs().max() < 1e-5
        merge(net)
    assert (net[0](x, x, x)[0] - expected).abs().max() < 1e-5


def test_kept_weights_follow_the_mixture():
    bank = Bank(nn.Conv1d(3, 5, 3), SHARED, tasks=2)
    bank.layers[0].freeze()
    x, weights = draw(1, 4, 3, 20), mixtures(2, 6, 4)
    with torch.no_grad():
        found = [bank(x, one.clone()) for one in weights]
        assert all(torch.equal(bank(x, weights[k]), found[k]) for k in (3, 0, 5))
    assert not torch.allclose(found[0], found[1], atol=1e-3)


# ---- bad input
def test_attention_cannot_have_a_mixture_for_each_input():
    net = nn.Sequential(nn.MultiheadAttention(6, 2))
    with pytest.raises(ValueError, match="MultiheadAttention") as caught:
        insert(net, SPEC, targets="0")
    assert "\n" not in str(caught.value)
    assert type(net[0]) is nn.MultiheadAttention


def test_a_mixture_for_each_input_cannot_be_merged():
    bank = Bank(nn.Linear(6, 4), SPEC)
    with (
        slot_weights(bank.net, torch.ones(2)),
        pytest.raises(ValueError, match="depends on the input"),
    ):
        merge(bank.net)


@pytest.mark.parametrize(
    ("spec", "weights", "match"),
    [
        (SPEC, torch.ones(5, 3), "3 slot weights for 4 slots: give one each"),
        (SHARED, torch.ones(5), "5 slot weights for 4 slots: give one each"),
        (SPEC, torch.ones(4, 4), "4 inputs have slot weights, but a layer is given 5: adapt"),
        (SHARED, torch.ones(5, 4), "over_batch=True takes one mixture: give weights of shape"),
    ],
)
def test_unfit_weights_are_refused_in_a_line(spec, weights, match):
    bank = Bank(nn.Linear(6, 4), spec, tasks=2)
    with pytest.raises(ValueError, match=match) as caught:
        bank(draw(1, 5, 6), weights)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="does not know which slots to use: run the model inside"):
        bank.net(draw(1, 5, 6))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"slots": 0}, "slots is 0"),
        ({"rank": 0}, "rank"),
        ({"init_std": 0.0}, "init_std is 0.0: give a number above 0"),
        ({"init_std": -1.0}, "init_std is -1.0: give a number above 0"),
    ],
)
def test_numbers_out_of_range_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        RetrievedBank(**options)


@pytest.mark.parametrize("wrong", [torch.zeros(10**12, 0), torch.zeros(1, 6), torch.tensor(1.0)])
def test_files_without_proper_slots_are_refused(wrong):
    net = Bank(nn.Linear(6, 5), SPEC).net
    state = extract(net)
    remove(net)
    state.tensors["0.weight.kept_down"] = wrong
    with pytest.raises(ValueError, match="adapter layer '0' holds"):
        attach(net, state)
