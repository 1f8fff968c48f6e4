"""A small model, and the proof that something left it as it was."""

import contextlib

import pytest
import torch
from torch import nn

from speechcl.adapters import base_fingerprint, list_adapters


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.q_proj, self.v_proj = nn.Linear(6, 6), nn.Linear(6, 6)
        self.norm = nn.LayerNorm(6)

    def forward(self, x):
        return self.norm(x + torch.tanh(self.q_proj(x)) * self.v_proj(x))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.front = nn.Conv1d(2, 6, 3, padding=1)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(6, 3)
        self.spare = nn.Linear(6, 6)

    def forward(self, x):
        x = self.front(x).mT
        for block in self.blocks:
            x = block(x)
        return self.head(x)


X = torch.randn(2, 2, 7, generator=torch.Generator().manual_seed(0))


def make():
    torch.manual_seed(0)
    return Model()


def appearance(model):
    """All that can be seen of a model."""
    with torch.no_grad():
        answer = model(X)
    return {
        "weights": base_fingerprint(model),
        "answer": answer.tolist(),
        "classes": [type(module) for module in model.modules()],
        "entries": [sorted(set(vars(m)) - {"kept_weights"}) for m in model.modules()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        "flags": [p.requires_grad for p in model.parameters()],
        "keys": list(model.state_dict()),
        "adapters": list_adapters(model),
        "training": [module.training for module in model.modules()],
    }


@contextlib.contextmanager
def refused(model, message):
    """Demand one clear line, and that the model stays as it was."""
    before = appearance(model)
    with pytest.raises(ValueError, match=message) as caught:
        yield
    assert "\n" not in str(caught.value)
    assert appearance(model) == before
