"""Log energies of frequency bands, filters spaced evenly in hertz or in mel, and masks on them."""

from __future__ import annotations

import torch
import torchaudio
from torch import Tensor, nn

_FLOOR = 1e-6  # added to the energies, so that silence has a logarithm


class _LogBands(nn.Module):
    """What both filterbanks share; see them for the arguments."""

    def __init__(self, bank: Tensor, window: int, hop: int, normalise: bool) -> None:
        super().__init__()
        empty = int((bank.sum(0) == 0).sum())
        if empty:
            raise ValueError(
                f"{empty} of {bank.shape[1]} filters hold no frequency of the spectrum: "
                "ask for fewer filters or a larger n_fft, and no more than half of rate_hz"
            )
        self.normalise = normalise
        self.spectrum = torchaudio.transforms.Spectrogram(
            2 * (len(bank) - 1), window, hop, power=2.0, pad_mode="constant"
        )
        self.bank: Tensor
        self.register_buffer("bank", bank, persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """Turn waveforms (batch, time) into log energies (batch, frames, filters)."""
        power = self.spectrum(waveform).transpose(1, 2)  # (batch, frames, bins)
        bands = (power @ self.bank + _FLOOR).log()
        return bands - bands.mean(1, keepdim=True) if self.normalise else bands


class LinearFilterbank(_LogBands):
    """Log energies of triangular filters spaced evenly in hertz, each of peak 1.

    Vocoders give themselves away at high frequencies, which a mel filterbank blurs: in a
    comparison of twelve detectors linear spectrograms beat mel spectrograms (Müller et al., 2022).
    The defaults turn 64,600 samples into (404, 80).

    Arguments
    ---------
    filters : int
        Between 0 and ``top_hz``.
    n_fft, window, hop : int
        In samples at ``rate_hz``; the window is a Hann window, the ends are padded with zeros.
    rate_hz, top_hz : int
        Of the input; highest frequency looked at.
    normalise : bool
        Take each band's mean over the clip away. A microphone, a room or a level that colours the
        whole clip then no longer matters. Turn it off to keep the colour: it may be a cue itself,
        as some synthesizers have a spectral tilt of their own.

    Raises
    ------
    ValueError
        If a filter is so narrow, or so high, that no bin of the spectrum lies in it.

    Source: Sahidullah et al., "A comparison of features for synthetic speech detection",
    Interspeech 2015; Müller et al., "Does audio deepfake detection generalize?", Interspeech 2022.

    Example
    -------
    >>> bands = LinearFilterbank()(torch.randn(2, 64600))
    >>> bands.shape, bool(bands.mean(1).abs().max() < 1e-4)
    (torch.Size([2, 404, 80]), True)
    """

    def __init__(
        self,
        filters: int = 80,
        n_fft: int = 1024,
        window: int = 400,
        hop: int = 160,
        rate_hz: int = 16000,
        top_hz: int = 8000,
        normalise: bool = True,
    ) -> None:
        bank = torchaudio.functional.linear_fbanks(n_fft // 2 + 1, 0.0, top_hz, filters, rate_hz)
        super().__init__(bank, window, hop, normalise)


class LogMel(_LogBands):
    """Log energies of triangular filters spaced evenly in mel, each of peak 1: log(x + 1e-6).

    Arguments, errors and output are those of ``LinearFilterbank``.

    Source: the mel scale is 2595 log10(1 + f / 700), as in HTK and the detectors' baselines.

    Example
    -------
    >>> LogMel(normalise=False)(torch.zeros(1, 1600))[0, 0, 0]
    tensor(-13.8155)
    """

    def __init__(
        self,
        filters: int = 80,
        n_fft: int = 1024,
        window: int = 400,
        hop: int = 160,
        rate_hz: int = 16000,
        top_hz: int = 8000,
        normalise: bool = True,
    ) -> None:
        bank = torchaudio.functional.melscale_fbanks(
            n_fft // 2 + 1, 0.0, top_hz, filters, rate_hz, norm=None, mel_scale="htk"
        )
        super().__init__(bank, window, hop, normalise)


class SpecMask(nn.Module):
    """Hide random bands and stretches of time in training; nothing happens in evaluation.

    Every clip gets masks of its own, and what they hide becomes the clip's mean.

    Arguments
    ---------
    bands, frames : int
        Widest mask over bands, over time; widths are drawn from 0 up to these.
    masks : int
        How many of each kind.

    Source: Park et al., "SpecAugment", Interspeech 2019, section 2. Deviates: no time warping.

    Example
    -------
    >>> _ = torch.manual_seed(5)
    >>> masked = SpecMask(bands=3, frames=0, masks=1)(torch.arange(8.0).repeat(1, 100, 1))
    >>> masked[0, 0]  # the mean, 3.5, in some bands at all times
    tensor([0.0000, 1.0000, 2.0000, 3.0000, 3.5000, 3.5000, 3.5000, 7.0000])
    """

    def __init__(self, bands: int = 12, frames: int = 40, masks: int = 2) -> None:
        super().__init__()
        self.bands, self.frames, self.masks = bands, frames, masks

    def forward(self, frames: Tensor) -> Tensor:
        """Map (batch, frames, bands) to the same shape."""
        if not self.training:
            return frames
        hidden = self._draw(frames, 1, self.frames)[:, :, None]
        hidden = hidden | self._draw(frames, 2, self.bands)[:, None]  # (batch, frames, bands)
        return torch.where(hidden, frames.mean((1, 2), keepdim=True), frames)

    def _draw(self, frames: Tensor, dim: int, widest: int) -> Tensor:
        """Return what is hidden along a dimension, shape (batch, size of the dimension)."""
        size = frames.shape[dim]
        chance = torch.rand(2, len(frames), self.masks, 1, device=frames.device)
        width = (chance[0] * (min(widest, size) + 1)).floor()
        start = (chance[1] * (size - width + 1)).floor()
        place = torch.arange(size, device=frames.device)
        return ((place >= start) & (place < start + width)).any(1)
