"""A name for the exact weights of a model, adapters left out."""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

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
    for name, tensor in sorted(_state_of_base(model).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _state_of_base(model: nn.Module) -> OrderedDict[str, Tensor]:
    if type(model).state_dict is nn.Module.state_dict:
        return model.state_dict(destination=_OfBase())
    return _OfBase(model.state_dict())  # its own may not know where to put things


class _OfBase(OrderedDict[str, Tensor]):
    """A ``state_dict`` that keeps nothing of adapters: there may be many."""

    def __setitem__(self, name: str, value: Any) -> None:
        if isinstance(value, Tensor) and not _OWN.search(name):
            super().__setitem__(name, value)
