"""A computed weight that is kept for as long as nothing it was computed from has changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def wants_gradient(basis: Sequence[Tensor]) -> bool:
    """Say whether a weight that rests on these tensors takes part in a backward pass.

    Example
    -------
    >>> wants_gradient([torch.zeros(1), torch.zeros(1, requires_grad=True)])
    True
    """
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in basis)


def can_be_watched(basis: Sequence[Tensor]) -> bool:
    """Say whether later changes of all these tensors can be seen.

    Example
    -------
    >>> with torch.inference_mode():
    ...     can_be_watched([torch.zeros(1)])
    False
    """
    wrapped: Any = torch._C._functorch.is_functorch_wrapped_tensor
    return not any(tensor.is_inference() or wrapped(tensor) for tensor in basis)


class KeptWeight:
    """A weight and what it rests on.

    Changes in place are seen by the version that PyTorch counts, replacements by identity, place
    and form in memory. The memory is held meanwhile, so that no later tensor can come to lie in
    the same place. Writing through ``.data`` in place is the one change that nothing can see.

    Arguments
    ---------
    weight : Tensor
        The weight.
    basis : Sequence
        The tensors that it was computed from.

    Example
    -------
    >>> factor = torch.ones(2)
    >>> kept = KeptWeight(2 * factor, [factor])
    >>> kept.rests_on([factor])
    True
    >>> _ = factor.add_(1)
    >>> kept.rests_on([factor])
    False
    """

    __slots__ = ("_basis", "weight")

    def __init__(self, weight: Tensor, basis: Sequence[Tensor]) -> None:
        self.weight = weight
        self._basis = [(tensor, tensor.detach(), tensor._version) for tensor in basis]

    def rests_on(self, basis: Sequence[Tensor]) -> bool:
        """Say whether the weight would be the same if it were computed from these tensors now."""
        return len(basis) == len(self._basis) and all(
            now is then
            and now._version == version
            and now.dtype == memory.dtype
            and now.is_set_to(memory)
            for now, (then, memory, version) in zip(basis, self._basis, strict=True)
        )
