"""Graph layers against loops over nodes, and what attention and pooling must keep."""

import pytest
import torch
from torch import nn

from speechcl.backbones.aasist_published import ours
from speechcl.backbones.graph_attention import (
    GraphAttention,
    GraphPool,
    HeterogeneousGraphAttention,
    NodeUpdate,
    normalisation,
)
from tests.backbones import aasist_reference as reference
from tests.backbones.aasist_reference import draw

INTO, OUT, FIRST, SECOND = 6, 16, 5, 3
both_norms = pytest.mark.parametrize("norm", ["group", "batch"])
both_layers = pytest.mark.parametrize("layer", [GraphAttention, HeterogeneousGraphAttention])


def lively(layer, seed=0):
    """Random weights and statistics, large enough for attention to be uneven; no dropout."""
    for i, value in enumerate([*layer.parameters(), *layer.buffers()]):
        if value.is_floating_point():
            value.data.copy_(draw(seed + i, *value.shape))
    for module in layer.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_var.abs_().add_(0.5)
    return layer.eval()


def make(layer, norm="group", temperature=2.0, seed=0):
    return lively(layer(INTO, OUT, temperature, norm), seed)


def inputs(batch=2, seed=50):
    first, second = draw(seed, batch, FIRST, INTO), draw(seed + 1, batch, SECOND, INTO)
    return first, second, draw(seed + 2, 1, 1, INTO)


def run(layer, first, second, stack):
    """Run either layer: nodes of both kinds in a row, and the stack node if there is one."""
    if isinstance(layer, GraphAttention):
        return layer(torch.cat([first, second], 1)), None
    *nodes, stack = layer(first, second, stack)
    return torch.cat(nodes, 1), stack


def attention(layer, batch=2, seed=50):
    nodes = draw(seed, batch, FIRST + SECOND, INTO)
    if isinstance(layer, GraphAttention):
        return layer.attention(nodes)
    return layer.attention(nodes, FIRST)


def official(layer):
    """Weights under the official names, which the loops go by."""
    names = ["att_proj", "proj_with_att", "proj_without_att", "proj_type1", "proj_type2"]
    names += ["att_projM", "proj_with_attM", "proj_without_attM"]
    names = [f"{name}.{kind}" for name in names for kind in ("weight", "bias")]
    names += ["att_weight", *(f"att_weight{which}" for which in ("11", "22", "12", "M"))]
    state = layer.state_dict()
    return {name: state[ours(name)] for name in names if ours(name) in state}


def slow_norm(nodes, norm):
    """Normalise one clip's nodes (nodes, width), one channel or one group after the other."""
    out = torch.empty_like(nodes)
    groups = 8 if isinstance(norm, nn.GroupNorm) else nodes.shape[1]
    for channels in torch.arange(nodes.shape[1]).chunk(groups):
        values = nodes[:, channels]
        mean, variance = values.mean(), ((values - values.mean()) ** 2).mean()
        if isinstance(norm, nn.BatchNorm1d):
            mean, variance = norm.running_mean[channels], norm.running_var[channels]
        values = (values - mean) / torch.sqrt(variance + 1e-5)
        out[:, channels] = values * norm.weight[channels] + norm.bias[channels]
    return out


@both_norms
def test_graph_attention_equals_a_loop_over_nodes(norm):
    layer = make(GraphAttention, norm)
    nodes = draw(9, 2, FIRST, INTO)
    found = layer(nodes)
    for b in range(2):
        mixed = reference.graph_attention(nodes[b], official(layer), temperature=2.0)
        expected = reference.selu(slow_norm(mixed, layer.update.norm))
        torch.testing.assert_close(found[b], expected, rtol=1e-4, atol=1e-5)


@both_norms
def test_heterogeneous_attention_equals_a_loop_over_nodes(norm):
    layer = make(HeterogeneousGraphAttention, norm)
    first, second, stack = inputs()
    nodes, new_stack = run(layer, first, second, stack)
    for b in range(2):
        mixed, expected_stack = reference.heterogeneous(
            first[b], second[b], stack[0, 0], official(layer), temperature=2.0
        )
        expected = reference.selu(slow_norm(mixed, layer.update.norm))
        torch.testing.assert_close(nodes[b], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(new_stack[b, 0], expected_stack, rtol=1e-4, atol=1e-5)


@both_layers
def test_rows_of_attention_sum_to_one(layer):
    found = attention(make(layer))
    torch.testing.assert_close(found.sum(2), torch.ones(2, FIRST + SECOND))
    assert (found.sum(1) - 1).abs().max() > 0.1, "columns do not"


@both_layers
def test_scores_behind_the_attention_are_symmetric(layer):
    found = attention(make(layer)).double().log()  # s_ij - c_i
    around = found[:, :, :, None] + found[:, None] + found.permute(0, 2, 1)[:, :, None]
    # log a_ij + log a_jk + log a_ki is the same in the other direction
    torch.testing.assert_close(around, around.transpose(1, 3), rtol=0, atol=1e-5)


@both_norms
@both_layers
def test_nodes_of_a_kind_have_no_order(layer, norm):
    net = make(layer, norm)
    first, second, stack = inputs()
    one, other = torch.tensor([3, 0, 4, 1, 2]), torch.tensor([2, 0, 1])
    nodes, read = run(net, first, second, stack)
    shuffled, read_shuffled = run(net, first[:, one], second[:, other], stack)
    torch.testing.assert_close(shuffled, nodes[:, torch.cat([one, FIRST + other])])
    if read is not None:
        torch.testing.assert_close(read_shuffled, read)


def test_kinds_are_told_apart():
    layer = make(HeterogeneousGraphAttention)
    first, _, stack = inputs()
    nodes, _ = run(layer, first, first, stack)
    assert (nodes[:, :FIRST] - nodes[:, FIRST:]).abs().max() > 0.1


@both_layers
def test_a_high_temperature_makes_attention_a_mean(layer):
    found = attention(make(layer, temperature=1e9))
    torch.testing.assert_close(found, torch.full_like(found, 1 / (FIRST + SECOND)))
    net = make(layer, temperature=1e9)
    nodes = draw(3, 2, FIRST + SECOND, INTO)
    mean = nodes.mean(1, keepdim=True).expand_as(nodes)
    mixed = net.update.from_neighbours(mean) + net.update.from_self(nodes)
    expected = torch.stack([reference.selu(slow_norm(one, net.update.norm)) for one in mixed])
    torch.testing.assert_close(net.update(nodes, attention(net)), expected, rtol=1e-4, atol=1e-5)


@both_norms
def test_stack_node_reads_and_is_not_read(norm):
    layer = make(HeterogeneousGraphAttention, norm)
    first, second, stack = inputs()
    nodes, read = run(layer, first, second, stack)
    same, other = run(layer, first, second, stack + 1)
    assert torch.equal(nodes, same)
    assert (read - other).abs().max() > 0.1
    _, changed = run(layer, first, second + 1, stack)
    assert (read - changed).abs().max() > 0.01


@both_layers
def test_group_norm_keeps_a_clip_to_itself_even_in_training(layer):
    net = lively(layer(INTO, OUT, norm="group", dropout=0.0)).train()
    first, second, stack = inputs(batch=4)
    together, _ = run(net, first, second, stack)
    for b in range(4):
        alone, _ = run(net, first[b : b + 1], second[b : b + 1], stack)
        torch.testing.assert_close(together[b : b + 1], alone, rtol=0, atol=1e-4)
    assert not list(net.buffers())


def test_batch_norm_takes_all_nodes_of_all_clips():
    update = NodeUpdate(INTO, OUT, "batch")
    nodes = draw(0, 3, FIRST, INTO)
    update(nodes, torch.eye(FIRST).expand(3, -1, -1))
    rows = (update.from_neighbours(nodes) + update.from_self(nodes)).flatten(0, 1)
    torch.testing.assert_close(update.norm.running_mean, 0.1 * rows.mean(0))
    torch.testing.assert_close(update.norm.running_var, 0.9 + 0.1 * rows.var(0))


@both_norms
@both_layers
def test_gradients_are_right(layer, norm):
    torch.manual_seed(0)
    net = layer(3, 8, 2.0, norm).double().eval()
    nodes = [draw(i, 2, 3, 3).double().requires_grad_() for i in range(2)]
    nodes.append(draw(2, 1, 1, 3).double().requires_grad_())
    parameters = list(net.parameters())

    def outputs(*values):
        found, stack = run(net, *values[:3])
        return found if stack is None else (found, stack)

    assert torch.autograd.gradcheck(outputs, (*nodes, *parameters))


@both_layers
def test_dropout_works_in_training_only(layer):
    net = make(layer)
    assert torch.equal(run(net, *inputs())[0], run(net, *inputs())[0])
    net.train()
    assert not torch.equal(run(net, *inputs())[0], run(net, *inputs())[0])


@pytest.mark.parametrize(("nodes", "keep", "kept"), [(23, 0.5, 11), (29, 0.7, 20), (1, 0.5, 1)])
def test_pool_keeps_a_share_of_nodes_by_falling_gates(nodes, keep, kept):
    pool = lively(GraphPool(INTO, keep))
    x = draw(4, 2, nodes, INTO)
    found = pool(x)
    assert found.shape == (2, kept, INTO)
    for b in range(2):
        state = {f"proj.{k}": v for k, v in pool.gate.state_dict().items()}
        torch.testing.assert_close(found[b], reference.pool(x[b], state, keep))
    gates = (found / x.take_along_dim(nearest(found, x), 1)).mean(2)
    assert (gates.diff(dim=1) <= 1e-6).all()
    assert ((gates > 0) & (gates < 1)).all()


def nearest(found, x):
    """Index of the node that each pooled one points along, (batch, kept, 1)."""
    unit, units = nn.functional.normalize(found, dim=2), nn.functional.normalize(x, dim=2)
    return (unit @ units.transpose(1, 2)).argmax(2, keepdim=True)


def test_pool_drops_out_what_the_gates_see_and_not_the_nodes():
    pool = GraphPool(INTO, keep=1.0, dropout=1.0).train()
    nodes = draw(0, 1, 4, INTO)
    found = pool(nodes)
    gate = pool.gate.bias.sigmoid()
    torch.testing.assert_close(found.sum(1), gate * nodes.sum(1))


def test_an_unknown_norm_is_refused():
    with pytest.raises(ValueError, match="norm is 'layer': give 'group' or 'batch'"):
        normalisation("layer", 8, nn.BatchNorm1d)
