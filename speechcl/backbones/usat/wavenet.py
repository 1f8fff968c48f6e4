"""The stack of gated convolutions in the posterior encoder and the flow of the voice model."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from speechcl.backbones.usat.points import AdapterPoint


class WaveNet(nn.Module):
    """Layers of gated convolutions, each of which adds to the hidden value and to the result.

    A frame sees as far ahead as it sees back.

    Arguments
    ---------
    channels : int
        Of the input, the hidden values and the result.
    kernel : int
        Frames that each convolution sees.
    layers : int
        Gated convolutions. After each is a place for an adapter (``points``): on its new hidden
        value, or on the result after the last, which has no hidden value.
    dilation_rate : int
        Layer k skips ``dilation_rate ** k - 1`` frames between those it sees.
    condition : int
        Size of the vector that moves the gates of all layers, or 0.
    dropout : float
        Of what passes a gate.

    Raises
    ------
    ValueError
        If there are no layers.

    Source: van den Oord et al., "WaveNet", arXiv 1609.03499, eq. 2 and 3, as in VITS, arXiv
    2106.06103, section 2.5.1. Deviates: places for adapters, USAT, arXiv 2404.18094, Fig. 6.

    Example
    -------
    >>> net, mask = WaveNet(channels=4, kernel=3, layers=2), torch.ones(1, 1, 6)
    >>> mask[..., 4:] = 0
    >>> y = net(torch.randn(1, 4, 6), mask)
    >>> y.shape, y[..., 4:].abs().sum().item(), len(net.points)
    (torch.Size([1, 4, 6]), 0.0, 2)
    """

    def __init__(
        self,
        channels: int,
        kernel: int,
        layers: int,
        dilation_rate: int = 1,
        condition: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"layers is {layers}: give WaveNet at least 1")
        self.conditioner = (
            weight_norm(nn.Conv1d(condition, 2 * channels * layers, 1)) if condition else None
        )
        self.gates = nn.ModuleList(
            weight_norm(
                nn.Conv1d(
                    channels, 2 * channels, kernel, padding="same", dilation=dilation_rate**layer
                )
            )
            for layer in range(layers)
        )
        parts = [2] * (layers - 1) + [1]  # hidden and result; the last adds to the result alone
        self.mixers = nn.ModuleList(
            weight_norm(nn.Conv1d(channels, part * channels, 1)) for part in parts
        )
        self.points = nn.ModuleList(AdapterPoint(channels) for _ in range(layers))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return the sum of what the layers add to the result, zero where ``mask`` is.

        Arguments
        ---------
        x : Tensor
            Shape (batch, channels, time).
        mask : Tensor
            1 where there is something, shape (batch, 1, time).
        condition : Tensor, optional
            Shape (batch, condition); exactly when there is a ``condition``.

        Returns
        -------
        Tensor
            Shape (batch, channels, time).

        Raises
        ------
        ValueError
            If a condition is missing or not wanted.
        """
        shifts = self._shifts(condition)
        hidden, result = x, torch.zeros_like(x)
        for layer, (gate, mixer, point) in enumerate(
            zip(self.gates, self.mixers, self.points, strict=True)
        ):
            # masked here too: what an adapter leaves in the padding must not reach its neighbours
            gated = gate(hidden * mask)
            if shifts is not None:
                gated = gated + shifts[layer]
            value, share = gated.chunk(2, dim=1)
            added = mixer(self.dropout(torch.tanh(value) * torch.sigmoid(share)))
            if layer + 1 < len(self.gates):
                to_hidden, added = added.chunk(2, dim=1)
                hidden = point((hidden + to_hidden) * mask, mask)
            result = result + added
        return self.points[-1](result * mask, mask) * mask

    def _shifts(self, condition: Tensor | None) -> tuple[Tensor, ...] | None:
        """Return what the condition adds before each layer's gate, (batch, 2 channels, 1) each."""
        if self.conditioner is None and condition is None:
            return None
        if self.conditioner is None or condition is None:
            raise ValueError(
                "a condition was given to a WaveNet that takes none: set condition to its size"
                if self.conditioner is None
                else "the condition is missing: give WaveNet a vector for each item of the batch"
            )
        return self.conditioner(condition[:, :, None]).chunk(len(self.gates), dim=1)
