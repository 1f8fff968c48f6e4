"""Contrastive losses against slow loops."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechcl.contrastive import contrastive_loss, name_loss, whole_batch


def pairs(count: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.nn.functional.normalize(torch.randn(count, 5, generator=generator), dim=1)
        for _ in range(2)
    )


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 6), st.integers(0, 1000), st.floats(0.1, 20.0))
def test_the_symmetric_loss_is_both_directions_of_every_pair(count, seed, scale):
    audio, text = pairs(count, seed)
    logits = (scale * audio @ text.T).tolist()
    total = 0.0
    for i in range(count):
        row = math.log(sum(math.exp(one) for one in logits[i])) - logits[i][i]
        column = math.log(sum(math.exp(other[i]) for other in logits)) - logits[i][i]
        total += (row + column) / 2
    found = contrastive_loss(audio, text, scale).item()
    assert found == pytest.approx(total / count, rel=1e-4, abs=1e-5)
    assert contrastive_loss(text, audio, scale).item() == pytest.approx(found, rel=1e-5, abs=1e-6)


def test_a_name_with_many_clips_counts_as_often():
    logits = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 0, 0, 1])
    by_name = -logits.log_softmax(0)  # of each name over the clips
    expected = (by_name[:3, 0].sum() + by_name[3, 1]) / 2
    torch.testing.assert_close(name_loss(logits, labels, [0, 1]), expected)


def test_a_name_without_clips_makes_the_mean_smaller():
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([1, 1, 4])
    two = name_loss(logits, labels, [1, 4])
    torch.testing.assert_close(name_loss(logits, labels, [0, 1, 2, 4]), two / 2)
    torch.testing.assert_close(name_loss(logits, labels, [4, 1]), two)


def test_with_one_process_the_whole_batch_is_the_batch():
    rows = torch.randn(3, 2, requires_grad=True)
    assert whole_batch(rows) is rows


def test_rows_of_other_processes_are_joined_in_order(monkeypatch):
    """Rank 1 of three, with 2, 1 and 3 rows: its row is times 6 in the gradient."""
    others = {1: (torch.zeros(2, 4), torch.ones(3, 4))}
    monkeypatch.setattr("speechcl.contrastive.world", lambda: (1, 3))

    def gather(rows):
        if rows.ndim == 1:
            return torch.tensor([2, len(rows), 3])
        before, after = others[1]
        return torch.cat([before, rows.detach(), after])

    monkeypatch.setattr("speechcl.contrastive.gather", gather)
    own = torch.full((1, 4), 5.0, requires_grad=True)
    whole = whole_batch(own)
    assert whole[:, 0].tolist() == [0, 0, 5, 1, 1, 1]
    whole.sum().backward()
    assert own.grad.tolist() == [[6.0] * 4]
