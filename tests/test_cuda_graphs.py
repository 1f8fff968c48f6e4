"""Parts replayed as CUDA graphs: when, with what, and with the values of the part itself."""

import pytest
import torch
from torch import nn

from speechcl.backbones.usat import USAT
from speechcl.brains.voice import voice_modules
from speechcl.cuda_graphs import Replayed

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


class Captured:
    """Stands for torch.cuda.make_graphed_callables where there is no GPU."""

    def __init__(self, monkeypatch):
        self.shapes, self.replays = [], 0
        monkeypatch.setattr(torch.cuda, "make_graphed_callables", self.capture)
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "pool")
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.random, "fork_rng", lambda devices: torch.no_grad())

    def capture(self, part, like, pool, **options):
        assert pool == "pool"
        assert all(one.is_leaf for one in like)
        self.shapes.append([(tuple(one.shape), one.requires_grad) for one in like])
        assert [id(p) for p in part.parameters()] == [id(p) for p in part.module.parameters()]
        with torch.enable_grad():
            part(*like)  # as when it is warmed up

        def replay(*args):
            self.replays += 1
            return part(*args)

        return replay


def test_a_shape_is_captured_once_and_replayed_in_training_only(monkeypatch):
    captured, norm = Captured(monkeypatch), nn.BatchNorm1d(2)
    forward = Replayed(norm, norm.forward)
    x = torch.randn(4, 2, requires_grad=True)
    other = nn.BatchNorm1d(2)
    for _ in range(2):
        assert torch.equal(forward(x), other(x))
        assert torch.equal(norm.running_mean, other.running_mean), "capturing moved it"
    forward(torch.randn(3, 2))
    assert captured.shapes == [[((4, 2), True)], [((3, 2), False)]]
    assert captured.replays == 3
    with torch.no_grad():
        forward(x)
    norm.eval()
    assert torch.equal(forward(x), norm(x))
    assert captured.replays == 3


def test_what_is_not_given_is_left_out(monkeypatch):
    captured, linear = Captured(monkeypatch), nn.Linear(2, 1)
    Replayed(linear, lambda x, mask=None: linear(x))(torch.zeros(1, 2), None)
    assert captured.shapes == [[((1, 2), False)]]


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("name", ["flow", "decoder", "timbre", "judges", "opinion"])
def test_a_graph_gives_values_and_gradients_of_the_part(name):
    torch.manual_seed(0)
    modules = nn.ModuleDict(voice_modules(USAT("usat_tiny"))).cuda()
    voice, judges = modules["model"], modules["judges"]
    mask = torch.ones(3, 1, 20, device="cuda")

    def latents():
        return torch.randn(3, 32, 20, device="cuda", requires_grad=True)

    def sound():
        return torch.randn(3, 4096, device="cuda", requires_grad=True)

    module, function, given = {
        "flow": (
            voice.flow,
            voice.flow.remove_timbre,
            lambda: (latents(), mask, latents()[:, :, 0].detach().requires_grad_()),
        ),
        "decoder": (voice.decoder, voice.decoder.forward, lambda: (latents(),)),
        "timbre": (
            modules["timbre"],
            modules["timbre"].forward,
            lambda: (latents(), mask),
        ),
        "judges": (judges.waveform, lambda x: judges.waveform(x)[0], lambda: (sound(),)),
        "opinion": (judges, judges.opinion, lambda: (sound().detach(), sound())),
    }[name]
    replayed = Replayed(module, function)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    for _ in range(3):
        args, found = given(), []
        for call in (replayed, function):  # nothing that is alive may hold on to another stream
            copies = [one.detach().clone().requires_grad_(one.requires_grad) for one in args]
            module.zero_grad()
            leaves = torch.utils._pytree.tree_leaves(call(*copies))
            sum(one.square().mean() for one in leaves).backward()
            found.append(
                [one.detach().clone() for one in leaves]
                + [one.grad for one in copies if one.requires_grad]
                + [p.grad.clone() for p in module.parameters() if p.grad is not None]
            )
        torch.testing.assert_close(*found, rtol=1e-3, atol=1e-4)
