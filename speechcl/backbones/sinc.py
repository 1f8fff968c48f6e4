"""Fixed sinc band-pass filters, the front end of RawNet2 and AASIST."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def sinc_filters(filters: int, taps: int, rate_hz: int = 16000) -> Tensor:
    """Return Hamming-windowed band-pass filters that split 0 to half the rate evenly in mel.

    Neighbouring bands share an edge, so that the filters add up to a unit impulse.

    Arguments
    ---------
    filters, taps : int
        How many, and how long; ``taps`` is odd, so that the filters are symmetric.
    rate_hz : int
        Of the waveform.

    Returns
    -------
    Tensor
        Shape (filters, taps), float32, lowest band first.

    Raises
    ------
    ValueError
        If ``taps`` is even.

    Source: AASIST (Jung et al. 2022), official code.

    Example
    -------
    >>> bank = sinc_filters(70, 129)
    >>> bank.sum(0)[63:66].round(decimals=4).abs()
    tensor([0., 1., 0.])
    """
    if taps % 2 == 0:
        raise ValueError(f"{taps} taps cannot be symmetric: give an odd number")
    top_mel = 2595 * torch.log10(torch.tensor(1 + rate_hz / 2 / 700, dtype=torch.float64))
    mel = torch.linspace(0, 1, filters + 1, dtype=torch.float64) * top_mel
    edges = 700 * (10 ** (mel / 2595) - 1) / rate_hz  # cycles per sample
    time = torch.arange(taps, dtype=torch.float64) - taps // 2
    low_pass = 2 * edges[:, None] * torch.sinc(2 * edges[:, None] * time)
    window = torch.hamming_window(taps, periodic=False, dtype=torch.float64)
    return (window * low_pass.diff(dim=0)).float()


class SincBank(nn.Module):
    """Filter a waveform with ``sinc_filters``; nothing is learned, nothing is padded.

    Arguments
    ---------
    filters, taps, rate_hz : int
        Those of ``sinc_filters``.
    frequency_mask : int
        In training, up to so many neighbouring filters are zeroed, the same for a whole batch.
        The official code offers 19, and leaves it off.

    Example
    -------
    >>> SincBank(70, 129)(torch.zeros(2, 64600)).shape
    torch.Size([2, 70, 64472])
    """

    def __init__(
        self, filters: int, taps: int, rate_hz: int = 16000, frequency_mask: int = 0
    ) -> None:
        super().__init__()
        if not 0 <= frequency_mask <= filters:
            raise ValueError(
                f"frequency_mask is {frequency_mask}: give 0 to {filters}, the filters"
            )
        self.frequency_mask = frequency_mask
        self.bank: Tensor
        self.register_buffer("bank", sinc_filters(filters, taps, rate_hz), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """Turn waveforms (batch, time) into bands (batch, filters, time - taps + 1)."""
        bank = self.bank
        if self.training and self.frequency_mask:
            count = int(torch.randint(self.frequency_mask + 1, ()))
            start = int(torch.randint(len(bank) - count + 1, ()))
            bank = bank.clone()
            bank[start : start + count] = 0
        return functional.conv1d(waveform[:, None], bank[:, None])
