"""What a view must have drawn: the same numbers from the same seed, one item at a time."""

import torch


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def replay(seed, count, *ranges):
    """Return a generator, and one list per range with a number an item, in a view's order."""
    draws = seeded(seed)
    torch.rand(count, generator=draws)  # who is changed: all
    drawn = [low + (high - low) * torch.rand(count, generator=draws) for low, high in ranges]
    return draws, *[one.tolist() for one in drawn]
