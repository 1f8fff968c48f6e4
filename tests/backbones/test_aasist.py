"""AASIST: published sizes, the official function, the dead norms, and the fast copy."""

import copy
import os
import pickle
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from speechcl.backbones import aasist_fast
from speechcl.backbones.aasist import AASIST, SHORTEST, SIZES, ResidualBlock
from speechcl.backbones.aasist_fast import FastAASIST, TiledEncoder
from speechcl.backbones.aasist_published import load_published
from tests.backbones import aasist_reference as reference
from tests.backbones.aasist_reference import draw

SHORT = SHORTEST + 2187  # two temporal nodes
both_norms = pytest.mark.parametrize("norm", ["group", "batch"])
both_sizes = pytest.mark.parametrize("size", ["AASIST", "AASIST-L"])
both_preacts = pytest.mark.parametrize("preact", ["official", "intended"])

# parameters and (channels, frequency, time) of the six encoder blocks for 64,600 samples
BLOCKS = {
    "AASIST": [6_592, 12_480, 43_392, 49_536, 49_536, 49_536],
    "AASIST-L": [6_592, 12_480, 10_552, 7_056, 7_056, 7_056],
}
FRAMES = [7163, 2387, 795, 265, 88, 29]
# parameters; nodes out for 23 spectral and 29 temporal ones
GRAPHS = {
    "AASIST": {
        "attend_spectral": (12_672, 23),
        "attend_temporal": (12_672, 29),
        "pool_spectral": (65, 11),
        "pool_temporal": (65, 20),
        "branches.0.attend1": (20_992, (20, 11, 1)),
        "branches.1.attend1": (20_992, (20, 11, 1)),
        "branches.0.pool_temporal": (33, 10),
        "branches.1.pool_spectral": (33, 5),
        "branches.0.attend2": (8_640, (10, 5, 1)),
        "branches.1.attend2": (8_640, (10, 5, 1)),
        "classify": (322, 2),
    },
    "AASIST-L": {
        "attend_spectral": (1_872, 23),
        "attend_temporal": (1_872, 29),
        "pool_spectral": (25, 9),
        "pool_temporal": (25, 14),
        "branches.0.attend1": (6_192, (14, 9, 1)),
        "branches.1.attend1": (6_192, (14, 9, 1)),
        "branches.0.pool_temporal": (33, 9),
        "branches.1.pool_spectral": (33, 6),
        "branches.0.attend2": (8_640, (9, 6, 1)),
        "branches.1.attend2": (8_640, (9, 6, 1)),
        "classify": (322, 2),
    },
}


def make(size="AASIST-L", preact="official", norm="batch", seed=0):
    """A net in eval mode whose norms matter, with running statistics of clips."""
    torch.manual_seed(seed)
    net = AASIST(size, preact, norm).train()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.GroupNorm):
            nn.init.normal_(module.weight, 1, 0.2)
            nn.init.normal_(module.bias, 0, 0.2)
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = None  # the average of what it sees
    with torch.no_grad():
        net(wave(seed=9))
    return net.eval()


def wave(batch=2, samples=SHORT, seed=0):
    """Clips of different loudness and colour, so that scores differ."""
    white = draw(seed, batch, samples)
    coloured = torch.stack([clip + clip.roll(1 + b) for b, clip in enumerate(white)])
    return coloured * torch.linspace(0.05, 0.5, batch)[:, None]


def count(module):
    return sum(p.numel() for p in module.parameters())


def without_dropout(net):
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return net


@both_preacts
@pytest.mark.parametrize(("size", "published"), [("AASIST", 297_866), ("AASIST-L", 85_306)])
def test_has_the_published_number_of_parameters(size, published, preact):
    assert count(AASIST(size, preact, norm="batch")) == published


@both_sizes
def test_every_stage_has_the_published_size_and_shape(size):
    net, found = make(size), {}

    def listen(name):
        def hook(module, _, out):
            shapes = [tuple(x.shape[1:]) for x in (out if isinstance(out, tuple) else [out])]
            found[name] = (count(module), shapes)

        net.get_submodule(name).register_forward_hook(hook)

    blocks = [f"encoder.{i}" for i in range(6)]
    for name in [*blocks, *GRAPHS[size]]:
        listen(name)
    with torch.no_grad():
        assert net.front(wave(1, 64600)).shape == (1, 1, 23, 21490)
        logits, embedding = net(wave(1, 64600))
    assert (logits.shape, embedding.shape) == ((1, 2), (1, 160))
    width = SIZES[size].width
    channels = [32, 32, width, width, width, width]
    assert [found[name] for name in blocks] == [
        (parameters, [(c, 23, frames)])
        for parameters, c, frames in zip(BLOCKS[size], channels, FRAMES, strict=True)
    ]
    for name, (parameters, nodes) in GRAPHS[size].items():
        nodes = nodes if isinstance(nodes, tuple) else (nodes,)
        assert (found[name][0], tuple(s[0] for s in found[name][1])) == (parameters, nodes), name
    assert count(net.first_norm) == 2
    assert net.position.shape == (1, 23, width)


@pytest.mark.parametrize(
    ("width", "keep", "published"),
    [(64, (0.5, 0.7, 0.5), 297_866), (24, (0.4, 0.5, 0.7), 85_306)],
)
def test_published_weights_give_the_official_function(tmp_path, width, keep, published):
    state = reference.official_state(width)
    torch.save(OrderedDict(state), tmp_path / "weights.pth")
    net = load_published(tmp_path / "weights.pth")
    assert count(net) == published
    assert not net.training
    clips = wave(2, 9_000)
    with torch.no_grad():
        logits, embedding = net(clips)
        for b in range(2):
            expected = reference.aasist(net.filters(clips[b : b + 1])[0], state, keep)
            torch.testing.assert_close(logits[b], expected, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(net.classify(embedding), logits)
    assert (logits[0] - logits[1]).abs().max() > 0.01, "clips are told apart"


class Hostile:
    """Runs a command when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_file_that_would_run_code_is_refused(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"pos_S": Hostile(str(tmp_path / "made"))}, path)
    with pytest.raises(ValueError, match=r"weights.pth is not a file of tensors: .*weights"):
        load_published(path)
    path.write_bytes(pickle.dumps(Hostile(str(tmp_path / "made"))))
    with pytest.raises(ValueError, match="is not a file of tensors"):
        load_published(path)
    assert not (tmp_path / "made").exists()


def test_a_broken_file_is_refused_in_one_line(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(reference.official_state(24), path)
    whole = path.read_bytes()
    for content in (b"", b"not weights", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is not a file of tensors: ") as caught:
            load_published(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match=r"none.pth"):
        load_published(tmp_path / "none.pth")


def test_weights_of_another_network_are_refused(tmp_path):
    def error(state):
        torch.save(state, tmp_path / "weights.pth")
        with pytest.raises(ValueError) as caught:
            load_published(tmp_path / "weights.pth")
        return str(caught.value)

    state = reference.official_state(24)
    assert "is not a state dict" in error([torch.zeros(2)])
    assert "is not a state dict" in error({"model": state})
    assert "no pos_S of width 64 or 24" in error({"weight": torch.zeros(2)})
    assert "no pos_S of width 64 or 24" in error({**state, "pos_S": torch.zeros(1, 42, 128)})
    assert "no pos_S of width 64 or 24" in error({**state, "pos_S": torch.tensor(0.0)})
    assert "more than AASIST's tensors: LL.weight" in error({**state, "LL.weight": state["pos_S"]})
    assert "(2, 160)" in error({**state, "out_layer.weight": torch.zeros(3, 160)})
    del state["out_layer.bias"]
    assert "lacks classify.bias" in error(state)


def test_the_highest_filter_is_never_looked_at():
    net = make()
    with torch.no_grad():
        before = net(wave())[0]
        net.filters.bank[69] = 9.0
        assert torch.equal(net(wave())[0], before)
        net.filters.bank[68] = 9.0
        assert (net(wave())[0] - before).abs().max() > 1e-3


@pytest.mark.parametrize(("size", "dead"), [("AASIST", 512), ("AASIST-L", 272)])
def test_official_has_exactly_ten_tensors_without_gradient(size, dead):
    net = AASIST(size, "official", "batch").train()
    net(wave())[0].square().sum().backward()
    idle = {name: p for name, p in net.named_parameters() if p.grad is None}
    assert sorted(idle) == [
        f"encoder.{i}.norm1.{x}" for i in range(1, 6) for x in ("bias", "weight")
    ]
    assert sum(p.numel() for p in idle.values()) == dead
    assert not any(p.requires_grad for p in idle.values())
    assert all(p.grad.any() for p in net.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("preact", "norm"), [("intended", "batch"), ("intended", "group"), ("official", "group")]
)
def test_otherwise_gradient_reaches_every_parameter(preact, norm):
    net = without_dropout(AASIST("AASIST-L", preact, norm)).train()
    net(wave(4))[0].square().sum().backward()
    assert not [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]


def test_dead_norms_do_nothing_but_their_statistics_move():
    block = ResidualBlock(4, 4, "official", "batch")
    x = draw(0, 3, 4, 23, 30) + 2
    block(x)
    torch.testing.assert_close(block.norm1.running_mean, 0.1 * x.mean((0, 2, 3)))
    variance = x.transpose(0, 1).flatten(1).var(1)
    torch.testing.assert_close(block.norm1.running_var, 0.9 + 0.1 * variance)
    moved = block.norm1.running_mean.clone()
    before = block.eval()(x)
    assert torch.equal(block.norm1.running_mean, moved)
    block.norm1.weight.data.mul_(3)
    block.norm1.running_mean.add_(1)
    assert torch.equal(block(x), before)


@both_norms
def test_intended_applies_norm_and_selu_before_the_first_convolution(norm):
    block = ResidualBlock(8, 16, "intended", norm)
    x = draw(0, 2, 8, 23, 30) + 1
    block(x)
    block.eval()
    y = reference.selu(block.norm1(x))
    y = block.conv2(reference.selu(block.norm2(block.conv1(y)))) + block.shortcut(x)
    expected = torch.stack([y[..., i : i + 3].amax(3) for i in range(0, 30, 3)], dim=3)
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)


def test_official_mode_trains_under_distributed_data_parallel(tmp_path):
    """Two steps: with tensors that wait for a gradient, the second would fail."""
    place = f"file://{tmp_path / 'place'}"
    torch.distributed.init_process_group("gloo", init_method=place, rank=0, world_size=1)
    try:
        net = AASIST("AASIST-L", "official", "batch")
        parallel = DistributedDataParallel(net)
        for _ in range(2):
            parallel(wave())[0].sum().backward()
        parallel = DistributedDataParallel(net.requires_grad_(True))
        parallel(wave())[0].sum().backward()
        with pytest.raises(RuntimeError, match="did not receive grad|not used in producing loss"):
            parallel(wave())
    finally:
        torch.distributed.destroy_process_group()


@both_norms
@both_sizes
def test_a_clip_gets_the_same_score_in_any_company(size, norm):
    net, clips = make(size, norm=norm), wave(4)
    with torch.no_grad():
        together = net(clips)[0]
        alone = torch.cat([net(clip[None])[0] for clip in clips])
        other = net(torch.cat([clips[:2], 100 * clips[2:]]))[0][:2]
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(together[:2], other, rtol=0, atol=1e-5)
    assert together.std(0).min() > 1e-4, "and scores differ from clip to clip"


def test_group_norm_learns_the_same_from_a_batch_split_over_processes():
    net, clips = without_dropout(AASIST("AASIST-L", norm="group")).train(), wave(2)
    net(clips)[0].square().sum().backward()
    whole = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    for share in clips.split(1):
        net(share)[0].square().sum().backward()
    for p, expected in zip(net.parameters(), whole, strict=True):
        torch.testing.assert_close(p.grad, expected, rtol=1e-3, atol=1e-4)


@both_preacts
def test_group_norm_has_no_statistics_at_all(preact):
    net = AASIST("AASIST-L", preact, "group")
    assert [name for name, _ in net.named_buffers()] == ["filters.bank"]
    first = net.first_norm(5 + 3 * draw(0, 2, 1, 23, 50))
    torch.testing.assert_close(first.mean((1, 2, 3)), torch.zeros(2), rtol=0, atol=1e-5)
    torch.testing.assert_close(first.var((1, 2, 3)), torch.ones(2), rtol=0, atol=2e-3)


@both_norms
@both_preacts
@pytest.mark.parametrize("level", [0.0, 1.0])
def test_silence_and_a_constant_are_finite_forward_and_backward(norm, preact, level):
    net = AASIST("AASIST-L", preact, norm)
    clips = torch.full((2, SHORT), level)
    net(clips)[0].sum().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.requires_grad)
    with torch.no_grad():
        assert net.eval()(clips)[0].isfinite().all()


@both_norms
def test_a_single_temporal_node_is_enough_and_less_is_refused(norm):
    net = make(norm=norm)
    assert SHORTEST == 2315
    assert net(wave(1, SHORTEST))[0].isfinite().all()
    with pytest.raises(ValueError, match="2314 samples are too few for AASIST: .* least 2315"):
        net(wave(1, SHORTEST - 1))


def test_wrong_shapes_and_settings_are_refused():
    with pytest.raises(ValueError, match=r"shape \(batch, time\), not \(1, 1, 4502\)"):
        make()(wave()[None, :1])
    with pytest.raises(ValueError, match="size is 'AASIST-XL': give one of AASIST, AASIST-L"):
        AASIST("AASIST-XL")
    with pytest.raises(ValueError, match="preact is 'none': give 'official' or 'intended'"):
        AASIST(preact="none")
    with pytest.raises(ValueError, match="norm is 'layer': give 'group' or 'batch'"):
        AASIST(norm="layer")


def test_dropout_works_in_training_only_and_spares_the_embedding():
    net = make(norm="group")
    assert torch.equal(net(wave())[0], net(wave())[0])
    net.train()
    assert not torch.equal(net(wave())[0], net(wave())[0])
    for name, module in net.named_modules():
        if isinstance(module, nn.Dropout):
            module.p = 1.0 if name == "dropout" else 0.0
    logits, embedding = net(wave())
    torch.testing.assert_close(logits, net.classify.bias.expand(2, -1))
    assert (embedding != 0).float().mean() > 0.9


def test_frequency_mask_reaches_the_filters():
    assert AASIST("AASIST-L", frequency_mask=19).filters.frequency_mask == 19
    assert AASIST("AASIST-L").filters.frequency_mask == 0


@pytest.mark.parametrize(
    ("size", "preact"),
    [("AASIST", "official"), ("AASIST", "intended"), ("AASIST-L", "official")],
)
@pytest.mark.parametrize("samples", [SHORTEST + 1, 8_003])  # one tile, and three
def test_the_fast_copy_gives_the_same(size, preact, samples):
    net = make(size, preact)
    fast = FastAASIST(net)
    with torch.no_grad():
        logits, embedding = net(wave(3, samples))
    found_logits, found_embedding = fast(wave(3, samples))
    torch.testing.assert_close(found_logits, logits, rtol=0, atol=1e-4)
    torch.testing.assert_close(found_embedding, embedding, rtol=0, atol=1e-4)
    assert logits.std(0).min() > 1e-2


@both_preacts
@pytest.mark.parametrize("tile", [1, 2, 7, 1000])
def test_tiles_of_any_width_meet_without_a_seam(preact, tile, monkeypatch):
    monkeypatch.setattr(aasist_fast, "TILE", tile)
    torch.manual_seed(0)
    encoder = nn.Sequential(
        ResidualBlock(1, 8, None, "batch"),
        *(ResidualBlock(8, 8, preact, "batch") for _ in range(2)),
    )
    encoder(draw(0, 2, 1, 23, 90))  # moves the statistics
    fast = TiledEncoder(copy.deepcopy(encoder.eval()))
    for frames in range(180, 207):  # every remainder of three poolings by 3
        maps = draw(frames, 2, 1, 23, frames)
        torch.testing.assert_close(fast(maps), encoder(maps), rtol=0, atol=1e-5)


def test_the_fast_copy_is_a_copy():
    net = make()
    fast = FastAASIST(net)
    before = fast(wave())[0]
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(1.02)
    assert torch.equal(fast(wave())[0], before)
    assert not torch.allclose(net(wave())[0], before, atol=1e-3)
    torch.testing.assert_close(FastAASIST(net)(wave())[0], net(wave())[0], rtol=0, atol=1e-3)
    assert isinstance(net.encoder[0].norm2, nn.BatchNorm2d), "the original is as it was"
    assert next(net.parameters()).requires_grad


def test_the_fast_copy_is_for_inference_only():
    fast = FastAASIST(make().train())
    before = fast(wave())[0]
    fast.train()
    assert torch.equal(fast(wave())[0], before)
    assert not fast(wave().requires_grad_())[0].requires_grad
    assert not any(module.training for module in fast.modules())
    with pytest.raises(ValueError, match="only norm='batch' can be folded"):
        FastAASIST(make(norm="group"))
