"""Things to put at adapter points, and masks and comparisons that tests of the parts share."""

import torch
from torch import nn

from speechcl.backbones.usat.points import AdapterPoint


class Same(nn.Module):
    """Returns its input."""

    def forward(self, h, mask):
        return h


class Nothing(nn.Module):
    """What a fresh adapter adds beside something."""

    def forward(self, h, mask):
        return torch.zeros_like(h)


class Careless(nn.Module):
    """Looks at neighbours, adds as much as it is given and leaves something in the padding."""

    def __init__(self, channels):
        super().__init__()
        self.mix = nn.Conv1d(channels, channels, 3, padding=1)
        nn.init.normal_(self.mix.weight, std=(3 * channels) ** -0.5)
        nn.init.normal_(self.mix.bias)

    def forward(self, h, mask):
        return h + torch.tanh(self.mix(h))


class Seen(nn.Module):
    """Keeps what it was given."""

    def forward(self, h, mask):
        self.h = h
        return h


def points(module):
    return {name: part for name, part in module.named_modules() if isinstance(part, AdapterPoint)}


def put(module, make):
    """Put ``make(channels)`` at every point of ``module``."""
    for point in points(module).values():
        point.adapter = make(point.channels)
    return module


def put_fresh(module):
    """Put at every point what a fresh adapter would be there."""
    for name, point in points(module).items():
        point.adapter = Nothing() if name.endswith("beside") else Same()
    return module


def drawn(module):
    """Give every weight a value, also those that begin at zero or one."""
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn_like(p) * 0.2)
    return module.eval()


def mask_of(lengths):
    return (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None])[:, None].float()


def garbled(x, mask):
    """Return ``x`` with noise where ``mask`` is zero."""
    return torch.where(mask > 0, x, 100 * torch.randn_like(x))
