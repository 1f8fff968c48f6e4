"""Networks for small images."""

import pytest
import torch

from speechcl.backbones import ConvNet, ReducedResNet
from speechcl.backbones.image_nets import image_net


@pytest.mark.parametrize(
    ("net", "side"),
    [(ConvNet(3), 8), (ConvNet(3), 28), (ConvNet(3), 32), (ReducedResNet(3, 8, "group"), 32)],
)
def test_bytes_and_numbers_are_the_same_images(net, side):
    images = torch.randint(0, 256, (4, 3, side, side), dtype=torch.uint8)
    net.eval()
    logits, embedding = net(images)
    assert logits.shape == (4, 3)
    assert torch.equal(logits, net.classify(embedding))
    assert torch.equal(net(images.float() / 255)[0], logits)
    logits.sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


def test_it_is_the_reduced_resnet_of_the_literature():
    """Of 20 channels and ten classes, 1.09 million weights; of 64, ResNet-18's 11.17 million."""
    assert sum(p.numel() for p in ReducedResNet(10).parameters()) == 1_094_750
    assert sum(p.numel() for p in image_net("resnet", 10).parameters()) == 11_173_962
    convolutions = [m for m in ReducedResNet(10).modules() if isinstance(m, torch.nn.Conv2d)]
    assert len([m for m in convolutions if m.kernel_size == (3, 3)]) == 17


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="multiple of 8"):
        ReducedResNet(10, width=20, norm="group")
    with pytest.raises(ValueError, match="choose conv"):
        image_net("vgg", 10)
