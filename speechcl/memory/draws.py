"""Random draws that depend on a seed and a count alone: a resume and other processes agree."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Draws(nn.Module):
    """Generators one after another, each of its own number; the number is saved with the method.

    Neither uses nor moves the global generator.

    Arguments
    ---------
    seed : int
        Decides all draws.

    Example
    -------
    >>> one, other = Draws(seed=3), Draws(seed=3)
    >>> first = torch.rand(2, generator=one.next())
    >>> other.load_state_dict(one.state_dict())
    <All keys matched successfully>
    >>> torch.equal(torch.rand(2, generator=one.next()), torch.rand(2, generator=other.next()))
    True
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed
        self.count: Tensor
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def next(self) -> torch.Generator:
        """Return the next generator, on the CPU."""
        self.count += 1
        return generator(self.seed, int(self.count))


def generator(seed: int, number: int) -> torch.Generator:
    """Return the generator of a seed and a number.

    Example
    -------
    >>> int(torch.randint(100, (1,), generator=generator(0, 1)))
    45
    """
    return torch.Generator().manual_seed((seed * 1_000_003 + number) % 2**63)
