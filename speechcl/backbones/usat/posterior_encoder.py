"""From a spectrogram to the latents of the voice model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from speechcl.backbones.usat.wavenet import WaveNet

_LEAST_LOG_SCALE = -7.0


class PosteriorEncoder(nn.Module):
    """Draw latents of speech from the normal distribution that a spectrogram gives.

    It is not told who speaks: the speaker is computed from the latents.

    Arguments
    ---------
    bins : int
        Frequencies of the spectrogram.
    channels : int
        Of the hidden values.
    latent : int
        Channels of the latents.
    kernel, layers : int
        Of the gated convolutions.

    Source: VITS, arXiv 2106.06103, section 2.5.1. Deviates: no speaker vector (so USAT, arXiv
    2404.18094, where it is computed from the latents); the log-scale is at least -7.

    Example
    -------
    >>> encoder = PosteriorEncoder(bins=9, channels=8, latent=4, layers=2)
    >>> noise = torch.Generator().manual_seed(0)
    >>> z, mean, log_scale = encoder(torch.rand(1, 9, 5), torch.ones(1, 1, 5), noise)
    >>> z.shape, mean.shape, log_scale.shape
    (torch.Size([1, 4, 5]), torch.Size([1, 4, 5]), torch.Size([1, 4, 5]))
    """

    def __init__(
        self, bins: int, channels: int, latent: int, kernel: int = 5, layers: int = 16
    ) -> None:
        super().__init__()
        self.enter = nn.Conv1d(bins, channels, 1)
        self.wavenet = WaveNet(channels, kernel, layers)
        self.leave = nn.Conv1d(channels, 2 * latent, 1)

    def forward(
        self, spectrogram: Tensor, mask: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return latents, and mean and log-scale of their distribution, zero where ``mask`` is.

        Arguments
        ---------
        spectrogram : Tensor
            Magnitudes, shape (batch, bins, time).
        mask : Tensor
            1 where there is something, shape (batch, 1, time).
        generator : torch.Generator, optional
            Of the noise, on the spectrogram's device.

        Returns
        -------
        tuple of Tensor
            Three of shape (batch, latent, time), in float32.
        """
        hidden = self.wavenet(self.enter(spectrogram), mask)
        mean, log_scale = mean_and_log_scale(self.leave(hidden), mask)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
        return (mean + noise * log_scale.exp()) * mask, mean, log_scale


def mean_and_log_scale(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Halve a network's output into mean and log-scale of a normal distribution, in float32.

    The log-scale is at least -7: a divergence has the inverse of the squared scale in it.

    Arguments
    ---------
    x : Tensor
        Shape (batch, 2 latent, time).
    mask : Tensor
        1 where there is something, shape (batch, 1, time).

    Returns
    -------
    tuple of Tensor
        Two of shape (batch, latent, time), zero where ``mask`` is.

    Example
    -------
    >>> mean_and_log_scale(torch.tensor([[[1.0, 5.0], [-9.0, 5.0]]]), torch.tensor([[[1.0, 0.0]]]))
    (tensor([[[1., 0.]]]), tensor([[[-7.,  0.]]]))
    """
    mean, log_scale = (x.float() * mask).chunk(2, dim=1)
    return mean, log_scale.clamp_min(_LEAST_LOG_SCALE)
