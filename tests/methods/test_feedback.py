"""Prototypes, their contrast, and the replay of close classes."""

import itertools
import math

import pytest
import torch
from torch.nn import functional

from speechcl.contrastive import prototype_contrast
from speechcl.memory import Reservoir
from speechcl.memory.prototypes import class_means
from speechcl.methods.feedback import Feedback, allot, pair_probabilities


def views(items=12, width=5, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    one, other = torch.randn(2, items, width, generator=generator)
    labels = torch.arange(items) % classes
    return one, other, labels


def slow_contrast(one, other, labels, temperature):
    """The equation, term by term."""
    rows = []
    for vectors in (one, other):
        for label in sorted(set(labels.tolist())):
            mean = sum(v for v, k in zip(vectors, labels.tolist(), strict=True) if k == label)
            rows.append(mean / mean.norm())
    count = len(rows) // 2
    total = 0.0
    for i, row in enumerate(rows):
        others = [math.exp(float(row @ rows[j]) / temperature) for j in range(2 * count) if j != i]
        own = math.exp(float(row @ rows[(i + count) % (2 * count)]) / temperature)
        total -= math.log(own / sum(others))
    return total / (2 * count)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_the_contrast_is_the_equation(temperature):
    one, other, labels = views()
    found = prototype_contrast(one, other, labels, temperature)
    assert float(found) == pytest.approx(slow_contrast(one, other, labels, temperature), abs=1e-5)


def test_a_single_class_has_nothing_to_be_held_off():
    one, other, _ = views()
    labels = torch.zeros(len(one)).long()
    assert abs(float(prototype_contrast(one, other, labels, 0.5))) < 1e-7


def test_two_classes_at_right_angles():
    apart = torch.eye(2)
    found = float(prototype_contrast(apart, apart, torch.tensor([1, 0]), 0.5))
    assert found == pytest.approx(math.log(1 + 2 * math.exp(-2)), abs=1e-6)


def test_views_may_swap_and_scales_do_not_matter():
    one, other, labels = views()
    expected = prototype_contrast(one, other, labels, 0.5)
    torch.testing.assert_close(prototype_contrast(other, one, labels, 0.5), expected)
    torch.testing.assert_close(prototype_contrast(3 * one, 0.2 * other, labels, 0.5), expected)


def test_only_means_matter():
    one, other, labels = views()
    expected = prototype_contrast(one, other, labels, 0.5)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    shuffled = prototype_contrast(one[order], other[order], labels[order], 0.5)
    torch.testing.assert_close(shuffled, expected)
    twice = prototype_contrast(one.repeat(2, 1), other.repeat(2, 1), labels.repeat(2), 0.5)
    torch.testing.assert_close(twice, expected)


def test_means_by_class_with_gradient():
    vectors = torch.randn(6, 3, requires_grad=True)
    labels = torch.tensor([5, 2, 5, 5, 2, 9])
    present, means = class_means(vectors, labels)
    assert present.tolist() == [2, 5, 9]
    torch.testing.assert_close(means[1], vectors[[0, 2, 3]].mean(0))
    means[1].sum().backward()
    assert vectors.grad[:, 0].tolist() == pytest.approx([1 / 3, 0, 1 / 3, 1 / 3, 0, 0])


def triangle(*sides):
    """Three points whose distances are 1-2, 1-3, 2-3."""
    a, b, c = sides
    x = (a**2 + b**2 - c**2) / (2 * a)
    return torch.tensor([[0.0, 0.0], [a, 0.0], [x, math.sqrt(b**2 - x**2)]])


def test_equal_distances_are_equally_likely():
    pairs, chance = pair_probabilities(triangle(1.0, 1.0, 1.0))
    assert pairs.tolist() == [[0, 1], [0, 2], [1, 2]]
    torch.testing.assert_close(chance, torch.full((3,), 1 / 3), rtol=0, atol=1e-5)


def test_the_closest_pair_is_the_likeliest():
    _, chance = pair_probabilities(triangle(0.5, 1.0, 1.0))
    torch.testing.assert_close(chance, torch.tensor([0.576, 0.212, 0.212]), rtol=0, atol=1e-3)
    points = torch.randn(6, 3, generator=torch.Generator().manual_seed(2))
    pairs, chance = pair_probabilities(points)
    distances = (points[pairs[:, 0]] - points[pairs[:, 1]]).norm(dim=1)
    assert (chance[distances.argsort()].diff() <= 0).all()


def test_prototypes_in_one_place_do_not_break_the_softmax():
    _, chance = pair_probabilities(torch.zeros(3, 4))
    assert torch.isfinite(chance).all()
    assert float(chance.sum()) == pytest.approx(1.0)


def test_items_are_divided_among_pairs_to_the_last_one():
    draws = torch.Generator().manual_seed(0)
    for trial in range(1000):
        pairs, total = 1 + trial % 45, (0, 1, 6, 16, 63)[trial % 5]
        chance = torch.rand(pairs, generator=draws).square().softmax(0)
        counts = allot(chance, total, draws)
        assert counts.shape == (pairs,)
        assert counts.min() >= 0
        assert int(counts.sum()) == total
        rounded = (chance * total).round()
        assert (counts - rounded).abs().sum() == abs(total - rounded.sum())


def remembered(classes=4, each=5):
    """Constant items: those of class k hold 10 k and their number."""
    labels = torch.arange(classes).repeat_interleave(each)
    features = (10.0 * labels + torch.arange(len(labels)) % each)[:, None].expand(-1, 3)
    memory = Reservoir(100)
    memory.add({"features": features.contiguous(), "label": labels})
    return memory


@pytest.mark.parametrize(("share", "mixing"), [(0.25, 0.6), (0.0, 1.0), (1.0, 1.0), (0.5, 0.0)])
def test_items_to_replay_are_what_they_say(share, mixing):
    memory = remembered()
    feedback = Feedback(share=share, mixing=mixing)
    mixed = 0
    for seed in range(30):
        draws = torch.Generator().manual_seed(seed)
        drawn = memory.sample(16)
        means, classes = torch.randn(4, 2, generator=draws), torch.arange(4)
        found = feedback.replay(memory, drawn, classes, means, draws)
        assert len(found.features) == 16
        assert torch.all(found.features == found.features[:, :1])  # constants stay constant
        low = 10.0 * ((1 - found.weight) * found.first + found.weight * found.second)
        inside = (found.features[:, 0] >= low - 1e-4) & (found.features[:, 0] <= low + 4 + 1e-4)
        assert inside.all()
        base = int(16 * (1 - share))
        assert (found.weight[:base] <= 0.6).all()
        assert ((found.weight >= 0) & (found.weight <= 1)).all()
        assert (found.first[base:] < found.second[base:]).all()  # pairs of two classes
        mixed += int((found.weight > 0).sum())
        shares = found.shares(4)
        torch.testing.assert_close(shares.sum(1), torch.ones(16))
        torch.testing.assert_close(shares @ torch.arange(4.0) * 10, low)
    assert (mixed > 0) == (mixing > 0)


def test_other_items_are_mixed_with_the_square_of_the_probability():
    memory, count = remembered(), 0
    feedback = Feedback(share=0.0, mixing=0.5)
    for seed in range(100):
        draws = torch.Generator().manual_seed(seed)
        found = feedback.replay(memory, memory.sample(16), torch.zeros(0), torch.zeros(0, 2), draws)
        count += int((found.weight > 0).sum())
    assert abs(count / 1600 - 0.25) < 4.5 * math.sqrt(0.25 * 0.75 / 1600)


def test_items_that_are_mixed_are_of_a_class_of_their_own():
    memory = remembered()
    draws = torch.Generator().manual_seed(1)
    found = Feedback(0.5, 0.7).replay(
        memory, memory.sample(16), torch.arange(4), torch.randn(4, 2, generator=draws), draws
    )
    own = found.own_labels(classes=4)
    whole = found.weight == 0
    assert torch.equal(own[whole], found.first[whole])
    assert own[~whole].min() >= 4
    assert len(own[~whole].unique()) == int((~whole).sum()) > 0


def test_fewer_than_two_prototypes_give_no_pairs():
    memory, draws = remembered(), torch.Generator().manual_seed(0)
    found = Feedback(1.0, 1.0).replay(
        memory, memory.sample(8), torch.tensor([2]), torch.zeros(1, 2), draws
    )
    assert len(found.features) == 8


def test_a_class_that_is_no_longer_remembered_is_replaced():
    memory, draws = remembered(classes=3), torch.Generator().manual_seed(0)
    found = Feedback(1.0, 0.0).replay(
        memory, memory.sample(10), torch.arange(5), torch.randn(5, 2, generator=draws), draws
    )
    assert set(found.first.tolist()) | set(found.second.tolist()) <= {0, 1, 2}


def test_close_classes_are_replayed_more():
    memory, count = remembered(), torch.zeros(4, 4)
    means = torch.tensor([[0.0], [0.2], [5.0], [9.0]])
    for seed in range(40):
        draws = torch.Generator().manual_seed(seed)
        found = Feedback(1.0, 0.0).replay(memory, memory.sample(16), torch.arange(4), means, draws)
        for one, other in zip(found.first.tolist(), found.second.tolist(), strict=True):
            count[one, other] += 1
    likeliest = max(itertools.combinations(range(4), 2), key=lambda pair: count[pair])
    assert likeliest == (0, 1)


@pytest.mark.parametrize("wrong", [{"share": 1.1}, {"mixing": -0.1}, {"concentration": 0.0}])
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Feedback(**wrong)


def test_cosines_are_what_counts():
    one, other, labels = views()
    found = prototype_contrast(one, other, labels, 0.5)
    means = [functional.normalize(class_means(v, labels)[1]) for v in (one, other)]
    again = prototype_contrast(*means, torch.arange(4), 0.5)
    torch.testing.assert_close(found, again)
