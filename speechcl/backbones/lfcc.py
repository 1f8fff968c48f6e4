"""Linear-frequency cepstra, the front end of most spoofing baselines."""

from __future__ import annotations

import torch
import torchaudio
from torch import Tensor, nn


class LFCC(nn.Module):
    """Linear-frequency cepstral coefficients with log energy and, if wanted, two differences.

    The defaults are the ASVspoof 2021 baseline at full band: 64,600 samples give (404, 60).

    Arguments
    ---------
    n_fft, window, hop : int
        In samples at ``rate_hz``.
    filters, coefficients : int
        Triangular filters over 0 to ``top_hz``; coefficient 0 is replaced by the log energy.
    deltas : bool
        Append first and second differences (neighbour after minus neighbour before).
    pre_emphasis : float
        ``y[t] = x[t] - pre_emphasis x[t-1]``; 0 for none.
    rate_hz, top_hz : int
        Of the input; highest frequency looked at.

    Source: ASVspoof 2021 LFCC-LCNN baseline; deviates: its band ends at 4 kHz, ours at ``top_hz``.

    Example
    -------
    >>> LFCC()(torch.zeros(2, 64600)).shape
    torch.Size([2, 404, 60])
    """

    def __init__(
        self,
        n_fft: int = 1024,
        window: int = 320,
        hop: int = 160,
        filters: int = 20,
        coefficients: int = 20,
        deltas: bool = True,
        pre_emphasis: float = 0.97,
        rate_hz: int = 16000,
        top_hz: int = 8000,
    ) -> None:
        super().__init__()
        self.n_fft, self.deltas, self.pre_emphasis = n_fft, deltas, pre_emphasis
        self.spectrum = torchaudio.transforms.Spectrogram(
            n_fft, window, hop, window_fn=torch.hamming_window, power=2.0, pad_mode="constant"
        )
        self.bank: Tensor
        self.dct: Tensor
        bank = torchaudio.functional.linear_fbanks(n_fft // 2 + 1, 0.0, top_hz, filters, rate_hz)
        self.register_buffer("bank", bank, persistent=False)
        dct = torchaudio.functional.create_dct(coefficients, filters, norm="ortho")
        self.register_buffer("dct", dct, persistent=False)
        self.top = n_fft * top_hz // rate_hz + 1

    def forward(self, waveform: Tensor) -> Tensor:
        """Turn waveforms (batch, time) into features (batch, frames, coefficients [x 3])."""
        if self.pre_emphasis:
            before = nn.functional.pad(waveform[:, :-1], (1, 0))
            waveform = waveform - self.pre_emphasis * before
        power = self.spectrum(waveform).transpose(1, 2)  # (batch, frames, bins)
        tiny = torch.finfo(torch.float32).eps
        cepstra = torch.log10(power @ self.bank + tiny) @ self.dct
        energy = power[..., : self.top].sum(-1) / self.n_fft
        cepstra[..., 0] = torch.log10(energy + tiny)
        if not self.deltas:
            return cepstra
        first = _difference(cepstra)
        return torch.cat([cepstra, first, _difference(first)], dim=-1)


class LFCCStatistics(nn.Module):
    """A clip as 90 numbers: statistics of 30 coefficients of 60 filters, 25 ms windows.

    Example
    -------
    >>> LFCCStatistics()(torch.zeros(2, 64600)).shape
    torch.Size([2, 90])
    """

    def __init__(self) -> None:
        super().__init__()
        self.lfcc = LFCC(
            n_fft=512, window=400, filters=60, coefficients=30, deltas=False, pre_emphasis=0.0
        )

    def forward(self, waveform: Tensor) -> Tensor:
        """Turn waveforms (batch, time) into statistics (batch, 90)."""
        return statistics(self.lfcc(waveform))


def _difference(frames: Tensor) -> Tensor:
    padded = torch.cat([frames[:, :1], frames, frames[:, -1:]], dim=1)
    return padded[:, 2:] - padded[:, :-2]


def statistics(frames: Tensor) -> Tensor:
    """Summarise a clip: mean, spread, and spread of the frame-to-frame change.

    Arguments
    ---------
    frames : Tensor
        Shape (batch, frames, width), at least two frames.

    Returns
    -------
    Tensor
        Shape (batch, 3 * width).

    Example
    -------
    >>> statistics(torch.tensor([[[1.0], [3.0]]]))
    tensor([[2., 1., 0.]])
    """
    change = frames.diff(dim=1).std(dim=1, correction=0)
    return torch.cat([frames.mean(1), frames.std(dim=1, correction=0), change], dim=-1)
