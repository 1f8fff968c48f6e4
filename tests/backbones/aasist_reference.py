"""AASIST node by node, on the names and shapes of the official state dict: slow and obvious."""

import math

import torch
from torch.nn import functional


def draw(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def selu(x):
    scale, alpha = 1.0507009873554805, 1.6732632423543772
    return torch.where(x > 0, scale * x, scale * alpha * (torch.exp(x) - 1))


def batch_norm(x, state, name, dim):
    """Normalise dimension ``dim`` with stored statistics."""
    shape = [-1 if d == dim else 1 for d in range(x.ndim)]
    mean, var, weight, bias = (
        state[f"{name}.{part}"].view(shape)
        for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / torch.sqrt(var + 1e-5) * weight + bias


def linear(x, state, name):
    return state[f"{name}.weight"] @ x + state[f"{name}.bias"]


def softmax(scores):
    weights = [math.exp(score) for score in scores]
    return [weight / sum(weights) for weight in weights]


def attend(nodes, score, state, temperature):
    """Return pre-norm nodes: ``W_1 sum_j a_ij h_j + W_2 h_i`` with a row of softmax a node i."""
    out = []
    for i, own in enumerate(nodes):
        scores = []
        for j, other in enumerate(nodes):
            hidden = torch.tanh(linear(own * other, state, "att_proj"))
            scores.append(float(hidden @ state[score(i, j)][:, 0]) / temperature)
        mixed = sum(a * other for a, other in zip(softmax(scores), nodes, strict=True))
        out.append(linear(mixed, state, "proj_with_att") + linear(own, state, "proj_without_att"))
    return torch.stack(out)


def graph_attention(nodes, state, temperature):
    """One clip's nodes (nodes, width) before norm and SELU."""
    return attend(nodes, lambda i, j: "att_weight", state, temperature)


def heterogeneous(first, second, stack, state, temperature):
    """One clip's nodes of both kinds before norm and SELU, and its stack node (width,)."""
    nodes = [linear(node, state, "proj_type1") for node in first]
    nodes += [linear(node, state, "proj_type2") for node in second]

    def score(i, j):
        kinds = [(k >= len(first)) + 1 for k in sorted((i, j))]
        return "att_weight{}{}".format(*kinds)

    updated = attend(nodes, score, state, temperature)
    scores = []
    for node in nodes:
        hidden = torch.tanh(linear(node * stack, state, "att_projM"))
        scores.append(float(hidden @ state["att_weightM"][:, 0]) / temperature)
    summary = sum(a * node for a, node in zip(softmax(scores), nodes, strict=True))
    stack = linear(summary, state, "proj_with_attM") + linear(stack, state, "proj_without_attM")
    return updated, stack


def pool(nodes, state, keep):
    gates = [float(torch.sigmoid(linear(node, state, "proj"))) for node in nodes]
    order = sorted(range(len(nodes)), key=lambda i: -gates[i])[: max(int(len(nodes) * keep), 1)]
    return torch.stack([gates[i] * nodes[i] for i in order])


def part(state, name):
    return {key[len(name) + 1 :]: value for key, value in state.items() if key.startswith(name)}


def encoder_block(x, state):
    """Official: ``bn1`` is never used."""
    y = functional.conv2d(x, state["conv1.weight"], state["conv1.bias"], padding=(1, 1))
    y = selu(batch_norm(y, state, "bn2", 1))
    y = functional.conv2d(y, state["conv2.weight"], state["conv2.bias"], padding=(0, 1))
    if "conv_downsample.weight" in state:
        weight, bias = state["conv_downsample.weight"], state["conv_downsample.bias"]
        x = functional.conv2d(x, weight, bias, padding=(0, 1))
    return functional.max_pool2d(x + y, (1, 3))


def branch(b, temporal, spectral, state, keep):
    layer = part(state, f"HtrgGAT_layer_ST{b}1")
    nodes, stack = heterogeneous(temporal, spectral, state[f"master{b}"][0, 0], layer, 100.0)
    nodes = selu(batch_norm(nodes, layer, "bn", 1))
    count = len(temporal)
    temporal = pool(nodes[:count], part(state, f"pool_hT{b}"), keep)
    spectral = pool(nodes[count:], part(state, f"pool_hS{b}"), keep)
    layer = part(state, f"HtrgGAT_layer_ST{b}2")
    change, more = heterogeneous(temporal, spectral, stack, layer, 100.0)
    change = selu(batch_norm(change, layer, "bn", 1))
    count = len(temporal)
    return temporal + change[:count], spectral + change[count:], stack + more


def aasist(bands, state, keep):
    """Return the two logits of one clip's sinc bands (70, time); ``keep``: three pool ratios."""
    x = functional.max_pool2d(bands.abs()[None, None], 3)
    x = selu(batch_norm(x, state, "first_bn", 1))
    for i in range(6):
        x = encoder_block(x, part(state, f"encoder.{i}.0"))
    maps = x[0].abs()  # (width, 23, time)
    graphs = {"S": maps.max(2).values.T + state["pos_S"][0], "T": maps.max(1).values.T}
    for kind, ratio in (("S", keep[0]), ("T", keep[1])):
        layer = part(state, f"GAT_layer_{kind}")
        nodes = selu(batch_norm(graph_attention(graphs[kind], layer, 2.0), layer, "bn", 1))
        graphs[kind] = pool(nodes, part(state, f"pool_{kind}"), ratio)
    both = [branch(b, graphs["T"], graphs["S"], state, keep[2]) for b in (1, 2)]
    temporal, spectral, stack = (torch.maximum(*pair) for pair in zip(*both, strict=True))
    hidden = [temporal.abs().max(0).values, temporal.mean(0)]
    hidden += [spectral.abs().max(0).values, spectral.mean(0), stack]
    return linear(torch.cat(hidden), state, "out_layer")


def official_shapes(width):
    """Names and shapes in the official state dict; ``width`` is 64, or 24 for AASIST-L."""
    shapes = {"pos_S": (1, 23, width), "master1": (1, 1, width), "master2": (1, 1, width)}

    def add(name, *shape):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]

    def add_norm(name, channels):
        add(name, channels)
        shapes[f"{name}.running_mean"] = shapes[f"{name}.running_var"] = (channels,)
        shapes[f"{name}.num_batches_tracked"] = ()

    add_norm("first_bn", 1)
    channels = [1, 32, 32, width, width, width, width]
    for i, (into, out) in enumerate(zip(channels, channels[1:], strict=False)):
        name = f"encoder.{i}.0"
        if i:
            add_norm(f"{name}.bn1", into)
        add(f"{name}.conv1", out, into, 2, 3)
        add_norm(f"{name}.bn2", out)
        add(f"{name}.conv2", out, out, 2, 3)
        if into != out:
            add(f"{name}.conv_downsample", out, into, 1, 3)
    for name in ("GAT_layer_S", "GAT_layer_T"):
        for layer in ("att_proj", "proj_with_att", "proj_without_att"):
            add(f"{name}.{layer}", width, width)
        shapes[f"{name}.att_weight"] = (width, 1)
        add_norm(f"{name}.bn", width)
    for b in "12":
        for name, into in ((f"HtrgGAT_layer_ST{b}1", width), (f"HtrgGAT_layer_ST{b}2", 32)):
            for layer in ("proj_type1", "proj_type2"):
                add(f"{name}.{layer}", into, into)
            for layer in ("att_proj", "proj_with_att", "proj_without_att"):
                add(f"{name}.{layer}", 32, into)
                add(f"{name}.{layer}M", 32, into)
            for which in ("11", "22", "12", "M"):
                shapes[f"{name}.att_weight{which}"] = (32, 1)
            add_norm(f"{name}.bn", 32)
        add(f"pool_hS{b}.proj", 1, 32)
        add(f"pool_hT{b}.proj", 1, 32)
    add("pool_S.proj", 1, width)
    add("pool_T.proj", 1, width)
    add("out_layer", 2, 160)
    return shapes


def official_state(width):
    """Random weights and statistics under official names, of a size that keeps maps near 1."""
    state = {}
    for i, (name, shape) in enumerate(official_shapes(width).items()):
        value = draw(i, *shape)
        if name.endswith("num_batches_tracked"):
            value = torch.tensor(7)
        elif name.endswith("running_var"):
            value = value.abs() + 0.5
            if name.startswith("first_bn"):
                value = value / 400  # filtered speech is quiet
        elif value.ndim > 1 and name.split(".")[-1] == "weight":
            value = value / math.sqrt(value[0].numel())
            if name.startswith(("encoder", "pool")):
                value = value / 3  # a gate of exactly 0 or 1 has no order
        state[name] = value
    return state
