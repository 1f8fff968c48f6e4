"""A random VITS of 39.7 M parameters, and where voices go into it."""

import torch
from torch import nn
from transformers import VitsConfig, VitsModel

from speechcl.adapters import LoRA, adapter_parameters, insert

RANK, FRAMES, CONVOLUTIONS = 4, 128, 72
TARGETS = ["decoder.resblocks.*.convs1.*", "decoder.resblocks.*.convs2.*"]


def vits(weight_norm: bool, quick: bool) -> VitsModel:
    """Build the model; ``quick`` makes a small one."""
    torch.manual_seed(0)
    small = {"hidden_size": 16, "upsample_initial_channel": 32, "flow_size": 16} if quick else {}
    config = VitsConfig(num_speakers=109, speaker_embedding_size=256, **small)
    model = VitsModel(config).eval().requires_grad_(False)
    if weight_norm:
        model.decoder.apply_weight_norm()
        model.requires_grad_(False)
    return model


def spectrum(model: VitsModel, frames: int = FRAMES) -> tuple[torch.Tensor, torch.Tensor]:
    """An input of the decoder: latent frames, and who speaks."""
    torch.manual_seed(1)
    return torch.randn(1, model.config.flow_size, frames), torch.randn(1, 256, 1)


def add_voice(model: nn.Module, name: str, targets: list[str], seed: int = 0) -> None:
    """Insert a LoRA that does something, as if it had been trained."""
    insert(model, LoRA(RANK), targets, name)
    generator = torch.Generator().manual_seed(seed)
    for parameter in adapter_parameters(model, name):
        parameter.requires_grad_(False)
        parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))


def undilated(model: nn.Module) -> list[str]:
    """The 48 of the 72 convolutions that peft computes rightly where there is no weight norm."""
    return [
        path
        for path, module in model.named_modules()
        if path.startswith("decoder.resblocks") and isinstance(module, nn.Conv1d)
        if module.dilation == (1,)
    ]
