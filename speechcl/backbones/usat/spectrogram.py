"""Linear magnitude and log-mel spectrograms whose frames and samples count each other exactly."""

from __future__ import annotations

import torch
import torchaudio
from torch import Tensor, nn


class MagnitudeSpectrogram(nn.Module):
    """Magnitudes of a short-time Fourier transform, as many frames as hops fit into the clip.

    Both ends are reflected by half of what a window is longer than a hop, so that frame ``t`` is
    centred on the samples from ``t hop`` to ``(t + 1) hop``. A square root of the power plus 1e-6
    has a gradient also in silence. In float32 whatever the precision around it.

    Arguments
    ---------
    n_fft : int
        Samples of a transform, at least ``hop``.
    hop : int
        Samples between frames.
    window : int
        Samples of the Hann window, at most ``n_fft``; 0 for ``n_fft``.

    Source: Kim et al., "VITS", arXiv 2106.06103, section 2.1.3 (what the posterior encoder
    hears). Deviates: an item that is padded to the longest is reflected at its own end.

    Example
    -------
    >>> MagnitudeSpectrogram(n_fft=1024, hop=256)(torch.zeros(2, 1000)).shape  # 1000 // 256 frames
    torch.Size([2, 513, 3])
    """

    def __init__(self, n_fft: int = 1024, hop: int = 256, window: int = 0) -> None:
        super().__init__()
        window = window or n_fft
        if not (0 < hop <= n_fft and window <= n_fft):
            raise ValueError(
                f"hop is {hop} and window {window}: set both to at most n_fft, which is {n_fft}"
            )
        self.n_fft, self.hop, self.length = n_fft, hop, window
        self.window: Tensor
        self.register_buffer("window", torch.hann_window(window), persistent=False)

    def forward(self, waveform: Tensor, samples: Tensor | None = None) -> Tensor:
        """Turn waveforms into magnitudes.

        Arguments
        ---------
        waveform : Tensor
            Shape (batch, time).
        samples : Tensor or None
            Whole numbers, how long each item is, shape (batch,); all of ``time`` if None.

        Returns
        -------
        Tensor
            Shape (batch, n_fft / 2 + 1, time // hop); zeros from frame ``samples // hop`` on.

        Raises
        ------
        ValueError
            If the clip is too short to be reflected.
        """
        with torch.autocast(waveform.device.type, enabled=False):
            spectrum = torch.stft(
                self._reflect(waveform.float(), samples),
                self.n_fft,
                self.hop,
                self.length,
                self.window,
                center=False,
                return_complex=True,
            )
            magnitude = (spectrum.real.square() + spectrum.imag.square() + 1e-6).sqrt()
            if samples is None:
                return magnitude
            frame = torch.arange(magnitude.shape[2], device=magnitude.device)
            return magnitude * (frame < (samples // self.hop)[:, None])[:, None]

    def _reflect(self, waveform: Tensor, samples: Tensor | None) -> Tensor:
        time, around = waveform.shape[1], self.n_fft - self.hop
        left, right = around // 2, around - around // 2
        if time <= right:
            raise ValueError(
                f"a clip of {time} samples is too short for n_fft {self.n_fft} and hop {self.hop}: "
                f"use more than {right} samples"
            )
        if samples is None:
            return nn.functional.pad(waveform, (left, right), mode="reflect")
        last = samples[:, None] - 1
        place = torch.arange(-left, time + right, device=waveform.device).abs()
        mirrored = (last - (last - place).abs()).clamp(min=0)  # (batch, left + time + right)
        return waveform.gather(1, mirrored)


class LogMelSpectrogram(nn.Module):
    """Logarithm of the energies in mel bands, from a waveform or from its magnitudes.

    Arguments
    ---------
    rate_hz : int
        Of the waveform.
    n_fft, hop, window : int
        See ``MagnitudeSpectrogram``.
    bands : int
        Slaney's mel bands, each with the area of a triangle of height 2 / width.
    low_hz : float
        Where the first band begins.
    high_hz : float or None
        Where the last band ends; half of ``rate_hz`` if None.

    Source: Kim et al., "VITS", arXiv 2106.06103, equation 2 (what the reconstruction loss
    compares).

    Example
    -------
    >>> log_mel = LogMelSpectrogram(rate_hz=16000)
    >>> log_mel(torch.zeros(1, 1024)).shape
    torch.Size([1, 80, 4])
    >>> list(log_mel.state_dict())  # nothing to store: all follows from the settings
    []
    """

    def __init__(
        self,
        rate_hz: int,
        n_fft: int = 1024,
        hop: int = 256,
        window: int = 0,
        bands: int = 80,
        low_hz: float = 0.0,
        high_hz: float | None = None,
    ) -> None:
        super().__init__()
        self.magnitude = MagnitudeSpectrogram(n_fft, hop, window)
        self.bank: Tensor
        bank = torchaudio.functional.melscale_fbanks(
            n_fft // 2 + 1, low_hz, high_hz or rate_hz / 2, bands, rate_hz, "slaney", "slaney"
        )
        self.register_buffer("bank", bank.T.contiguous(), persistent=False)  # (bands, bins)

    def forward(self, waveform: Tensor, samples: Tensor | None = None) -> Tensor:
        """Turn waveforms (batch, time) into log energies (batch, bands, time // hop)."""
        return self.of_magnitude(self.magnitude(waveform, samples))

    def of_magnitude(self, magnitude: Tensor) -> Tensor:
        """Turn magnitudes (batch, bins, frames) into log energies (batch, bands, frames)."""
        with torch.autocast(magnitude.device.type, enabled=False):
            return (self.bank @ magnitude.float()).clamp(min=1e-5).log()
