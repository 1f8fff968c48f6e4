"""The small network: standardised by the first task, clipped, and plain after that."""

import numpy
import torch

from speechcl.backbones import StatisticsNet


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_forward_is_a_plain_network_in_numpy():
    torch.manual_seed(0)
    net = StatisticsNet(5, hidden=(4, 3), classes=2, limit=1.5)
    data = 3 * draw(0, 50, 5) + 7
    net.standardise(data)
    x = data.numpy().astype(numpy.float64)
    y = numpy.clip((x - x.mean(0)) / x.std(0, ddof=1), -1.5, 1.5)
    for layer in net.hidden:
        y = numpy.maximum(y @ layer.weight.detach().numpy().T + layer.bias.detach().numpy(), 0)
    logits, embedding = net(data)
    numpy.testing.assert_allclose(embedding.detach(), y, atol=1e-5)
    expected = y @ net.classify.weight.detach().numpy().T + net.classify.bias.detach().numpy()
    numpy.testing.assert_allclose(logits.detach(), expected, atol=1e-5)


def test_a_feature_that_never_changes_stays_finite():
    net = StatisticsNet(3, hidden=(4,))
    data = draw(0, 20, 3)
    data[:, 1] = 2.0
    net.standardise(data)
    assert net(data)[0].isfinite().all()
    assert net(data + 100)[0].isfinite().all()


def test_standardisation_is_state_but_not_trained():
    net = StatisticsNet(3)
    net.standardise(draw(0, 20, 3) + 5)
    other = StatisticsNet(3)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other.mean, net.mean)
    assert torch.equal(other.scale, net.scale)
    assert not {"mean", "scale"} & {name for name, _ in net.named_parameters()}


def test_training_does_not_move_the_standardisation():
    net = StatisticsNet(3)
    net.standardise(draw(0, 20, 3))
    before = net.mean.clone(), net.scale.clone()
    net.train()(draw(1, 20, 3) + 50)
    assert torch.equal(before[0], net.mean)
    assert torch.equal(before[1], net.scale)


def test_gradient_reaches_every_parameter():
    net = StatisticsNet(6, hidden=(8, 8), classes=3)
    net(draw(0, 32, 6))[0].square().sum().backward()
    assert all(p.grad.any() for p in net.parameters())
