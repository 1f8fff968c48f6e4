"""How much an augmentation changes, against loops and cases that are known."""

import math

import numpy as np
import pytest
import torch

from speechcl.metrics.augmentation import augmentation_strength, sample_correlation


def softmax(draws=4, items=9, classes=5, seed=0):
    logits = np.random.default_rng(seed).standard_normal((draws, items, classes))
    return np.exp(logits) / np.exp(logits).sum(2, keepdims=True)


def test_strength_equals_a_loop_over_old_classes():
    p, labels = softmax(), [0, 3, 3, 0, 4, 0, 3, 3, 0]
    spreads = []
    for old in (0, 3, 4):
        means = [sum(item[old] for item in draw) / 9 for draw in p]
        middle = sum(means) / 4
        spreads.append(math.sqrt(sum((mean - middle) ** 2 for mean in means) / 3))
    assert augmentation_strength(p, labels) == pytest.approx(sum(spreads) / 3)


def test_without_augmentation_strength_is_0_and_correlation_1():
    p = np.repeat(softmax(draws=1), 10, axis=0)
    assert augmentation_strength(p, np.arange(9) % 5) == pytest.approx(0, abs=1e-12)
    items = torch.randn(6, 3, 4)
    assert sample_correlation(items, items) == pytest.approx(1)


def test_strength_knows_neither_the_order_of_items_nor_of_draws():
    p, labels = softmax(), np.arange(9) % 3
    order = np.random.default_rng(1).permutation(9)
    expected = augmentation_strength(p, labels)
    assert augmentation_strength(p[:, order], labels[order]) == pytest.approx(expected)
    assert augmentation_strength(p[::-1], labels) == pytest.approx(expected)
    half = 0.5 * p + 0.5 * p.mean(0)
    assert augmentation_strength(half, labels) == pytest.approx(expected / 2)


def test_correlation_is_the_mean_over_items_and_not_that_of_all_numbers():
    rng = np.random.default_rng(2)
    one = rng.standard_normal((5, 3, 4))
    other = one + rng.standard_normal((5, 3, 4))
    expected = np.mean(
        [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(one, other, strict=True)]
    )
    assert sample_correlation(one, other) == pytest.approx(expected)
    levels = np.arange(1, 6).reshape(5, 1, 1)
    assert sample_correlation(one, levels * other + 10 * levels) == pytest.approx(expected)
    assert sample_correlation(one, -one) == pytest.approx(-1)


def test_constant_items_are_left_out():
    one = np.array([[1.0, 2.0], [3.0, 3.0], [1.0, 2.0]])
    other = np.array([[1.0, 5.0], [1.0, 2.0], [4.0, 4.0]])
    assert sample_correlation(one, other) == pytest.approx(1)
    with pytest.raises(ValueError, match="all 2 items are constant"):
        sample_correlation(one[1:], other[1:])


@pytest.mark.parametrize(
    ("p", "labels", "message"),
    [
        (softmax(draws=1), np.zeros(9), "of two draws or more"),
        (softmax()[0], np.zeros(9), "give .draws, items, classes."),
        (softmax(), np.zeros(8), "and a label an item"),
        (softmax(items=0), [], "of two draws or more"),
        (softmax(), np.arange(9), "give class numbers from 0 to 4"),
        (softmax(), np.arange(9) % 3 - 1, "labels go from -1 to 1"),
    ],
)
def test_senseless_probabilities_are_refused(p, labels, message):
    with pytest.raises(ValueError, match=message):
        augmentation_strength(p, np.asarray(labels, dtype=int))


@pytest.mark.parametrize(("one", "other"), [((2, 3), (3, 2)), ((3,), (3,))])
def test_senseless_items_are_refused(one, other):
    with pytest.raises(ValueError, match="give the same items to both"):
        sample_correlation(np.ones(one), np.ones(other))
