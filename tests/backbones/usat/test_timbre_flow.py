"""The flow can be undone, whatever adapters act in it, and keeps volume."""

import pytest
import torch
from torch import nn

from speechcl.backbones.usat.timbre_flow import Coupling, TimbreFlow
from tests.backbones.usat.point_adapters import (
    Careless,
    Seen,
    drawn,
    garbled,
    mask_of,
    points,
    put,
    put_fresh,
)

CHANNELS, SIZE = 6, 3
LENGTHS = [11, 4, 1]


@pytest.fixture
def flow():
    torch.manual_seed(0)
    return drawn(a_flow())


@pytest.fixture
def batch():
    torch.manual_seed(1)
    mask = mask_of(LENGTHS)
    return torch.randn(3, CHANNELS, 11) * mask, mask, torch.randn(3, SIZE)


def a_flow(couplings=4):
    return TimbreFlow(CHANNELS, hidden=8, condition=SIZE, couplings=couplings, kernel=3, layers=2)


@pytest.mark.parametrize("adapter", [None, Careless])
def test_both_ways_undo_each_other(flow, batch, adapter):
    z, mask, speaker = batch
    plain = flow.remove_timbre(z, mask, speaker)
    if adapter:
        put(flow, adapter)
    there, back = flow.remove_timbre, flow.add_timbre
    assert (there(z, mask, speaker) - z).abs().max() > 0.5
    assert torch.equal(there(z, mask, speaker), plain) == (adapter is None)
    torch.testing.assert_close(back(there(z, mask, speaker), mask, speaker), z, rtol=0, atol=1e-4)
    torch.testing.assert_close(there(back(z, mask, speaker), mask, speaker), z, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", [*points(a_flow(couplings=1))])
def test_a_single_adapter_anywhere_acts_and_can_be_undone(batch, name):
    z, mask, speaker = batch
    torch.manual_seed(2)
    flow = drawn(a_flow(couplings=1))
    before = flow.remove_timbre(z, mask, speaker)
    point = flow.get_submodule(name)
    point.adapter = Careless(point.channels)
    after = flow.remove_timbre(z, mask, speaker)
    assert not torch.allclose(after, before, atol=1e-2)
    torch.testing.assert_close(flow.add_timbre(after, mask, speaker), z, rtol=0, atol=1e-4)


def test_it_is_one_half_moved_by_the_other_and_the_order_turned_round(flow, batch):
    z, mask, speaker = batch
    expected = z
    for coupling in flow.couplings:
        a, b = expected[:, : CHANNELS // 2], expected[:, CHANNELS // 2 :]
        expected = torch.cat([a, b + coupling(a, mask, speaker)], 1)[:, range(CHANNELS)[::-1]]
    assert torch.equal(flow.remove_timbre(z, mask, speaker), expected)


def test_a_coupling_adds_the_mean_that_its_parts_make(batch):
    z, mask, speaker = batch
    coupling = drawn(Coupling(CHANNELS, 8, SIZE, kernel=3, layers=2))
    before, beside = Careless(CHANNELS), Careless(CHANNELS)
    coupling.before.adapter, coupling.beside.adapter = before, beside
    hidden = coupling.wavenet(coupling.enter(before(z, mask)), mask, speaker)
    expected = (coupling.leave(hidden) + beside(z, mask)) * mask
    assert torch.equal(coupling(z, mask, speaker), expected)


def test_adapters_are_given_the_half_that_stays(flow, batch):
    z, mask, speaker = batch
    put(flow, lambda channels: Seen())
    flow.remove_timbre(z, mask, speaker)
    first = flow.couplings[0]
    for point in (first.before, first.beside):
        assert torch.equal(point.adapter.h, z[:, : CHANNELS // 2])
    given = [point.adapter.h for point in first.wavenet.points]
    z = torch.cat([z[:, : CHANNELS // 2], torch.randn_like(z[:, CHANNELS // 2 :])], 1)
    flow.remove_timbre(z, mask, speaker)
    for point, h in zip(first.wavenet.points, given, strict=True):
        assert torch.equal(point.adapter.h, h)


@pytest.mark.parametrize("adapter", [None, Careless])
def test_no_volume_changes(adapter):
    torch.manual_seed(0)
    flow = drawn(a_flow()).double()
    if adapter:
        put(flow, adapter).double()
    mask, speaker = torch.ones(1, 1, 3).double(), torch.randn(1, SIZE).double()
    z = torch.randn(1, CHANNELS, 3).double()
    jacobian = torch.autograd.functional.jacobian(lambda z: flow.remove_timbre(z, mask, speaker), z)
    volume = torch.linalg.det(jacobian.reshape(3 * CHANNELS, 3 * CHANNELS)).abs()
    torch.testing.assert_close(volume.item(), 1.0, rtol=1e-9, atol=0)


def test_a_fresh_flow_does_not_hear_the_speaker(batch):
    z, mask, speaker = batch
    other = torch.randn_like(speaker)
    for way in (a_flow().remove_timbre, a_flow().add_timbre):
        assert torch.equal(way(z, mask, speaker), way(z, mask, other))
        assert torch.equal(way(z, mask, speaker), z)  # four turns


def test_a_trained_flow_hears_the_speaker(flow, batch):
    z, mask, speaker = batch
    moved = flow.remove_timbre(z, mask, speaker) - flow.remove_timbre(z, mask, -speaker)
    assert (moved.abs().amax((1, 2)) > 0.01).all()


def test_every_channel_is_moved_from_two_couplings_on(batch):
    z, mask, speaker = batch
    moved = drawn(a_flow(couplings=2)).remove_timbre(z, mask, speaker) - z
    assert (moved.abs().amax((0, 2)) > 0.01).all()


@pytest.mark.parametrize("adapter", [None, Careless])
@pytest.mark.parametrize("way", ["remove_timbre", "add_timbre"])
def test_padding_does_not_matter(flow, batch, adapter, way):
    z, mask, speaker = batch
    if adapter:
        put(flow, adapter)
    run = getattr(flow, way)
    together = run(z, mask, speaker)
    assert torch.equal(run(garbled(z, mask), mask, speaker), together)
    assert (together * (1 - mask)).abs().sum() == 0
    for k, frames in enumerate(LENGTHS):
        one = slice(k, k + 1)
        alone = run(z[one, :, :frames], mask[one, :, :frames], speaker[one])
        torch.testing.assert_close(together[one, :, :frames], alone, rtol=1e-5, atol=1e-5)


def test_fresh_adapters_change_no_bit(flow, batch):
    z, mask, speaker = batch
    before = flow.remove_timbre(z, mask, speaker), flow.add_timbre(z, mask, speaker)
    state = set(flow.state_dict())
    assert len(points(flow)) == 4 * (2 + 2)
    put_fresh(flow)
    assert torch.equal(flow.remove_timbre(z, mask, speaker), before[0])
    assert torch.equal(flow.add_timbre(z, mask, speaker), before[1])
    assert set(flow.state_dict()) == state


@pytest.mark.parametrize("way", ["remove_timbre", "add_timbre"])
def test_every_weight_gets_a_gradient_and_so_does_the_speaker(flow, batch, way):
    z, mask, speaker = batch
    speaker = nn.Parameter(speaker)
    getattr(flow, way)(z, mask, speaker).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in [speaker, *flow.parameters()])


def test_channels_that_cannot_be_halved_are_refused():
    with pytest.raises(ValueError, match="even"):
        TimbreFlow(channels=5, hidden=8, condition=3)
