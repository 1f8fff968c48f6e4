"""The invertible map that takes a speaker's timbre out of latents, and puts one in."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from speechcl.backbones.usat.points import AdapterPoint
from speechcl.backbones.usat.wavenet import WaveNet


class TimbreFlow(nn.Module):
    """Couplings between halves of the channels, whose order is turned round after each.

    Each adds to one half what it makes of the other half and of the speaker, so that it can be
    undone exactly, whatever adapters it holds, and no volume changes. A fresh one only turns
    channels round.

    Arguments
    ---------
    channels : int
        Of the latents, an even number.
    hidden : int
        Channels within the couplings.
    condition : int
        Size of the speaker's vector.
    couplings : int
        Their number; an even one leaves the order of channels as it was.
    kernel, layers : int
        Of the gated convolutions of each.

    Raises
    ------
    ValueError
        If the channels cannot be halved.

    Source: VITS, arXiv 2106.06103, section 2.5.2 (trained as ``remove_timbre``); USAT, arXiv
    2404.18094. Deviates: places for adapters.

    Example
    -------
    >>> flow, mask = TimbreFlow(channels=4, hidden=6, condition=3, layers=2), torch.ones(1, 1, 5)
    >>> z, speaker = torch.randn(1, 4, 5), torch.randn(1, 3)
    >>> back = flow.add_timbre(flow.remove_timbre(z, mask, speaker), mask, speaker)
    >>> bool((back - z).abs().max() < 1e-5)
    True
    """

    def __init__(
        self,
        channels: int,
        hidden: int,
        condition: int,
        couplings: int = 4,
        kernel: int = 5,
        layers: int = 4,
    ) -> None:
        super().__init__()
        if channels % 2:
            raise ValueError(f"channels is {channels}: give TimbreFlow an even number to halve")
        self.couplings = nn.ModuleList(
            Coupling(channels // 2, hidden, condition, kernel, layers) for _ in range(couplings)
        )

    def remove_timbre(self, z: Tensor, mask: Tensor, condition: Tensor) -> Tensor:
        """Map latents of speech to what was said without who said it.

        Arguments
        ---------
        z : Tensor
            Shape (batch, channels, time).
        mask : Tensor
            1 where there is something, shape (batch, 1, time).
        condition : Tensor
            The speakers, shape (batch, condition).

        Returns
        -------
        Tensor
            Shape (batch, channels, time), zero where ``mask`` is.
        """
        z = z * mask
        for coupling in self.couplings:
            kept, moved = z.chunk(2, dim=1)
            z = torch.cat([kept, moved + coupling(kept, mask, condition)], dim=1).flip(1)
        return z

    def add_timbre(self, latent: Tensor, mask: Tensor, condition: Tensor) -> Tensor:
        """Undo ``remove_timbre``: map what is said to latents of a speaker who says it.

        Arguments
        ---------
        latent : Tensor
            Shape (batch, channels, time).
        mask : Tensor
            1 where there is something, shape (batch, 1, time).
        condition : Tensor
            The speakers, shape (batch, condition).

        Returns
        -------
        Tensor
            Shape (batch, channels, time), zero where ``mask`` is.
        """
        latent = latent * mask
        for coupling in reversed(self.couplings):
            kept, moved = latent.flip(1).chunk(2, dim=1)
            latent = torch.cat([kept, moved - coupling(kept, mask, condition)], dim=1)
        return latent


class Coupling(nn.Module):
    """What is added to one half of the channels, from the other half and the speaker.

    It is given the half that stays alone, so no adapter in it can see the half that moves. Besides
    the places of its ``wavenet`` it has ``before``, on what the network sees of that half, and
    ``beside``, whose adapter adds to the result what it makes of that half by itself.

    Arguments
    ---------
    channels : int
        Of a half.
    hidden : int
        Of the gated convolutions.
    condition : int
        Size of the speaker's vector.
    kernel, layers : int
        Of the gated convolutions.

    Source: Dinh et al., "NICE", arXiv 1410.8516, section 3.2 (additive coupling); USAT, arXiv
    2404.18094, Fig. 6 (H-Res and H-Seq in ``wavenet``, X-Seq at ``before``, X-Res at ``beside``).

    Example
    -------
    >>> coupling = Coupling(channels=2, hidden=6, condition=3, kernel=5, layers=2)
    >>> coupling(torch.randn(1, 2, 5), torch.ones(1, 1, 5), torch.randn(1, 3)).abs().sum().item()
    0.0
    """

    def __init__(
        self, channels: int, hidden: int, condition: int, kernel: int, layers: int
    ) -> None:
        super().__init__()
        self.before = AdapterPoint(channels)
        self.enter = nn.Conv1d(channels, hidden, 1)
        self.wavenet = WaveNet(hidden, kernel, layers, condition=condition)
        self.leave = nn.Conv1d(hidden, channels, 1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)  # type: ignore[arg-type]  # there is one
        self.beside = AdapterPoint(channels)

    def forward(self, kept: Tensor, mask: Tensor, condition: Tensor) -> Tensor:
        """Return what to add to the other half, (batch, channels, time), zero where ``mask`` is."""
        hidden = self.wavenet(self.enter(self.before(kept, mask)), mask, condition)
        return self.beside.beside(kept, mask, self.leave(hidden)) * mask
