"""A name for the exact weights of a model, adapters left out."""

from __future__ import annotations

import hashlib
import re

import torch
from torch import nn

from speechcl.adapters.adapted import MARK

_OWN = re.compile(rf"(^|\.)adapters\.{MARK}")


def base_fingerprint(model: nn.Module) -> str:
    """Return the SHA-256 of a model's parameters and buffers without those of its adapters.

    Names, types and shapes count as well as bytes, so equal fingerprints mean equal models.

    Example
    -------
    >>> linear = nn.Linear(2, 2)
    >>> before = base_fingerprint(linear)
    >>> _ = linear.weight.data[0, 0].add_(1e-3)
    >>> before == base_fingerprint(linear)
    False
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if _OWN.search(name) or not isinstance(tensor, torch.Tensor):
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
