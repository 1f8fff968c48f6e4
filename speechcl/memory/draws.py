"""Random draws that depend on a seed and a count alone: a resume and other processes agree."""

from __future__ import annotations

import numpy
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


def beta(concentration: float, count: int, generator: torch.Generator) -> Tensor:
    """Draw from the Beta distribution with both parameters alike, shape (count,).

    Example
    -------
    >>> drawn = beta(0.2, 1000, generator(0, 1))
    >>> bool(((drawn >= 0) & (drawn <= 1)).all()), round(float(drawn.mean()), 1)
    (True, 0.5)
    """
    seed = int(torch.randint(2**62, (), generator=generator))
    drawn = numpy.random.default_rng(seed).beta(concentration, concentration, count)
    return torch.from_numpy(drawn).float()
