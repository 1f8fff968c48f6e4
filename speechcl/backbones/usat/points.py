"""Places in a voice model at which a speaker's adapters may act."""

from __future__ import annotations

from torch import Tensor, nn


class AdapterPoint(nn.Module):
    """A place that gives back what it is given until an adapter is put there.

    The base has no weights here, so its state is the same with and without adapters beside it.

    Arguments
    ---------
    channels : int
        Of what passes.

    Example
    -------
    >>> import torch
    >>> point, h, mask = AdapterPoint(4), torch.ones(1, 4, 3), torch.ones(1, 1, 3)
    >>> point(h, mask) is h
    True
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.adapter: nn.Module | None = None

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        """Pass hidden values on, through the adapter if there is one.

        Arguments
        ---------
        h : Tensor
            Shape (batch, channels, time).
        mask : Tensor
            1 where there is something, shape (batch, 1, time).

        Returns
        -------
        Tensor
            Shape (batch, channels, time).
        """
        return h if self.adapter is None else self.adapter(h, mask)

    def beside(self, x: Tensor, mask: Tensor, y: Tensor) -> Tensor:
        """Add to ``y`` what the adapter makes of ``x``, or nothing."""
        return y if self.adapter is None else y + self.adapter(x, mask)
