"""Detectors put together from parts, and cosines in place of logits."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from speechcl.backbones import LCNN, LFCC, StatisticsNet
from speechcl.backbones.detector import CosineHead, Detector, with_cosine_head
from speechcl.backbones.filterbanks import LinearFilterbank
from speechcl.backbones.resnet import ResNet
from speechcl.losses import oc_softmax, p2sgrad


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("parts", [(LinearFilterbank, ResNet), (LFCC, LCNN)])
def test_detector_is_its_back_end_on_its_front_end(parts):
    front_end, back_end = (part().eval() for part in parts)
    wave = 0.1 * draw(0, 2, 16000)
    for found, expected in zip(
        Detector(front_end, back_end).eval()(wave), back_end(front_end(wave)), strict=True
    ):
        assert torch.equal(found, expected)


def test_cosines_are_those_of_the_definition():
    head, embedding = CosineHead(5, classes=2).requires_grad_(False), draw(1, 4, 5)
    expected = [[float(e @ d / (e.norm() * d.norm())) for d in head.directions] for e in embedding]
    torch.testing.assert_close(head(embedding), torch.tensor(expected))


def test_scale_of_embedding_and_direction_plays_no_part_and_silence_is_finite():
    head, embedding = CosineHead(5), draw(2, 4, 5)
    before = head(embedding)
    with torch.no_grad():
        head.directions.mul_(7.0)
    torch.testing.assert_close(head(0.01 * embedding), before)
    zero = torch.zeros(1, 5, requires_grad=True)
    head(zero).sum().backward()
    assert zero.grad.isfinite().all()


@pytest.mark.parametrize("classes", [1, 2])
def test_a_cosine_head_replaces_logits_and_keeps_the_embedding(classes):
    torch.manual_seed(0)
    net, features = StatisticsNet(90), draw(3, 6, 90)
    _, embedding = net(features)
    assert with_cosine_head(net, classes) is net
    cosine, found = net(features)
    assert torch.equal(found, embedding)
    expected = functional.cosine_similarity(embedding[:, None], net.classify.directions, dim=2)
    torch.testing.assert_close(cosine, expected)
    assert cosine.shape == (6, classes)


@pytest.mark.parametrize(("classes", "loss"), [(1, oc_softmax), (2, p2sgrad)])
def test_every_weight_learns_through_a_cosine_head(classes, loss):
    torch.manual_seed(0)
    net = with_cosine_head(ResNet(8), classes)
    loss(net(draw(4, 4, 64, 80))[0], torch.tensor([1, 0, 1, 0])).backward()
    assert not [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]


def test_one_class_training_separates_two_clouds():
    torch.manual_seed(0)
    labels = torch.arange(40) % 2
    features = draw(5, 40, 90) + 1.5 * labels[:, None] - 0.75
    net = with_cosine_head(StatisticsNet(90))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        oc_softmax(net(features)[0], labels).backward()
        optimizer.step()
    cosine = net(features)[0][:, 0]
    assert cosine[labels == 1].min() > 0.8
    assert cosine[labels == 0].max() < 0.3


def test_a_back_end_without_a_linear_classifier_is_refused():
    with pytest.raises(ValueError, match="Identity has no linear layer 'classify'"):
        with_cosine_head(nn.Identity())
