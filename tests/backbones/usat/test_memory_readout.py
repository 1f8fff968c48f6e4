"""The memory's answer against the equations, and that it is the only way through."""

import math

import pytest
import torch

from speechcl.backbones.usat.memory_readout import MemoryReadout
from tests.backbones.usat.point_adapters import garbled, mask_of

CHANNELS, SLOTS = 6, 7
LENGTHS = [5, 2]


@pytest.fixture
def memory():
    torch.manual_seed(0)
    return MemoryReadout(CHANNELS, SLOTS, slot_channels=4, heads=2)


@pytest.fixture
def batch(memory):
    return torch.randn(2, CHANNELS, 5), mask_of(LENGTHS)


def slow(memory, frame):
    """Equations 1 to 3 for one frame, head by head and slot by slot."""
    q = memory.query.weight @ frame
    keys, values = memory.memory @ memory.key.weight.T, memory.memory @ memory.value.weight.T
    heads, rows = [], []
    for head in range(memory.heads):
        part = slice(head * CHANNELS // memory.heads, (head + 1) * CHANNELS // memory.heads)
        scale = math.sqrt(CHANNELS // memory.heads)
        scores = torch.stack([(q[part] @ keys[slot, part] / scale).exp() for slot in range(SLOTS)])
        rows.append(scores / scores.sum())
        heads.append(sum(rows[-1][slot] * values[slot, part] for slot in range(SLOTS)))
    return memory.output.weight @ torch.cat(heads), torch.stack(rows)


@pytest.mark.parametrize("heads", [1, 2, 3])
def test_it_is_the_equations_frame_by_frame(batch, heads):
    memory = MemoryReadout(CHANNELS, SLOTS, slot_channels=4, heads=heads)
    z, mask = batch
    found, rows = memory(z, mask), memory.attention(z)
    for k, frames in enumerate(LENGTHS):
        for t in range(frames):
            answer, shares = slow(memory, z[k, :, t])
            torch.testing.assert_close(found[k, :, t], answer)
            torch.testing.assert_close(rows[k, :, t], shares)


def test_rows_sum_to_one(memory, batch):
    rows = memory.attention(batch[0])
    assert rows.shape == (2, 2, 5, SLOTS)
    torch.testing.assert_close(rows.sum(-1), torch.ones(2, 2, 5))


def test_the_answer_depends_on_the_frame(memory, batch):
    z, mask = batch
    assert not torch.allclose(memory(z, mask), memory(-z, mask), atol=1e-3)


@pytest.mark.parametrize("part", ["memory", "value.weight"])
def test_there_is_no_way_past_the_memory(memory, batch, part):
    z, mask = batch
    with torch.no_grad():
        memory.get_parameter(part).zero_()
    z.requires_grad_()
    answer = memory(z, mask)
    assert torch.equal(answer, memory(torch.randn_like(z), mask))
    answer.sum().backward()
    assert z.grad.abs().sum() == 0


def test_a_memory_of_one_slot_says_always_the_same(batch):
    z, mask = batch
    answer = MemoryReadout(CHANNELS, slots=1, slot_channels=4)(z, mask)
    torch.testing.assert_close(answer[0], answer[0, :, :1].expand(-1, 5))


def test_gradients_reach_the_memory_and_the_latents(memory, batch):
    z, mask = batch
    z.requires_grad_()
    memory(z, mask).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in memory.parameters())
    assert (memory.memory.grad.abs().sum(1) > 0).all()
    assert torch.equal(z.grad.abs().sum(1, keepdim=True) > 0, mask > 0)


def test_padding_does_not_matter(memory, batch):
    z, mask = batch
    together = memory(z, mask)
    assert torch.equal(memory(garbled(z, mask), mask), together)
    assert together[1, :, 2:].abs().sum() == 0
    torch.testing.assert_close(together[1:, :, :2], memory(z[1:, :, :2], mask[1:, :, :2]))


def test_heads_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="multiple of heads"):
        MemoryReadout(CHANNELS, SLOTS, slot_channels=4, heads=4)
