"""Losses against loops from their definitions, hand cases and finite differences."""

import math

import pytest
import torch

from speechcl.losses import oc_softmax, p2sgrad

LABELS = torch.tensor([1, 0, 1, 0, 0])


def cosines(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.rand(*shape, generator=generator, dtype=torch.float64) - 1


def test_oc_softmax_is_the_loop():
    cosine, total = cosines(0, 5), 0.0
    for c, label in zip(cosine.tolist(), LABELS.tolist(), strict=True):
        beyond = 0.8 - c if label == 1 else c - 0.1
        total += math.log(1 + math.exp(15.0 * beyond))
    found = oc_softmax(cosine, LABELS, real_margin=0.8, fake_margin=0.1, alpha=15.0)
    assert float(found) == pytest.approx(total / 5, rel=1e-7)


def test_oc_softmax_defaults_by_hand():
    found = oc_softmax(torch.tensor([1.0, 0.0]), torch.tensor([1, 0]))
    expected = (math.log(1 + math.exp(-2.0)) + math.log(1 + math.exp(-4.0))) / 2
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_oc_softmax_takes_a_column_as_it_takes_a_row():
    cosine = cosines(1, 5)
    assert torch.equal(oc_softmax(cosine[:, None], LABELS), oc_softmax(cosine, LABELS))


def test_oc_softmax_pulls_genuine_up_and_pushes_spoofed_down():
    cosine = torch.full((5,), 0.5, requires_grad=True)
    oc_softmax(cosine, LABELS).backward()
    assert torch.equal(cosine.grad.sign(), torch.where(LABELS == 1, -1.0, 1.0))


def test_oc_softmax_does_not_overflow():
    cosine = torch.tensor([-1.0, 1.0], requires_grad=True)
    loss = oc_softmax(cosine, torch.tensor([1, 0]), alpha=1000.0)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(1000 * (1.9 + 0.8) / 2)
    assert cosine.grad.isfinite().all()


@pytest.mark.parametrize("shape", [(5, 2), (4,), (1, 5)])
def test_oc_softmax_wants_one_cosine_a_label(shape):
    with pytest.raises(ValueError, match="one a label"):
        oc_softmax(torch.zeros(shape), LABELS)


def test_p2sgrad_is_the_loop():
    pairs, total = cosines(2, 5, 2), 0.0
    for row, label in zip(pairs.tolist(), LABELS.tolist(), strict=True):
        total += sum((c - (j == label)) ** 2 for j, c in enumerate(row))
    assert float(p2sgrad(pairs, LABELS)) == pytest.approx(total / 10, rel=1e-12)


def test_p2sgrad_is_zero_for_perfect_cosines_only():
    perfect = torch.eye(2)[LABELS]
    assert float(p2sgrad(perfect, LABELS)) == 0
    assert float(p2sgrad(1 - perfect, LABELS)) == 1


def test_gradients_agree_with_finite_differences():
    one, two = cosines(3, 5).requires_grad_(), cosines(4, 5, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda c: oc_softmax(c, LABELS), [one])
    assert torch.autograd.gradcheck(lambda c: p2sgrad(c, LABELS), [two])
