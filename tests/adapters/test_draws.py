"""What an adapter starts with does not hang on the device that it goes to."""

import pytest
import torch

from speechcl.adapters import Bottleneck, LoRA, MixtureOfRanks, RankSelectiveLoRA, RetrievedBank
from speechcl.adapters.layer import WeightShape

ADAPTERS = [LoRA(2), RankSelectiveLoRA(2), MixtureOfRanks(2), RetrievedBank(2, 2), Bottleneck(2)]


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: type(adapter).__name__)
def test_it_is_drawn_from_the_generator_of_the_cpu(adapter):
    following = {}
    for device in ("cpu", "meta"):
        torch.manual_seed(1)
        layer = adapter.make(WeightShape(6, 8, torch.zeros(6, 8, device=device)))
        assert {parameter.device.type for parameter in layer.parameters()} == {device}
        following[device] = torch.rand(1)
    torch.manual_seed(1)
    assert following["meta"] == following["cpu"] != torch.rand(1)
