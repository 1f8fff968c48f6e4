"""How many frames each phoneme lasts, as a distribution or as one number."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from speechcl.backbones.usat.dds_conv import ChannelNorm, DDSConv
from speechcl.backbones.usat.points import AdapterPoint
from speechcl.backbones.usat.splines import full_precision, rational_quadratic_spline

_SHORTEST = 1e-5  # frames of which a logarithm is taken


class StochasticDurationPredictor(nn.Module):
    """A flow that turns noise into log durations, given phonemes and a speaker.

    It sees two channels, the log duration and one that only noise fills. A second flow draws the
    fraction of a frame and the other channel in training, where a bound takes the place of the
    likelihood, and is left out in sampling.

    Arguments
    ---------
    channels : int
        Of the phonemes.
    hidden : int
        Channels inside.
    condition : int
        Size of the speakers' vectors.
    kernel : int
        Odd, of the convolutions.
    flows : int
        Spline flows, and as many posterior ones.
    bins, tail
        Of the splines.
    dropout : float
        In what reads phonemes and durations; the flows have none.

    Attributes
    ----------
    whole : Callable
        Makes whole frames of durations.
    detach : bool
        Whether gradients stop at phonemes and speaker, as in VITS. Switch it off in order to learn
        a speaker's vector from durations.
    flows : nn.ModuleList
        Affine, then each spline flow and a swap; a spline flow's ``convs.point`` is where a
        speaker's adapter may act.

    Source: VITS (arXiv 2106.06103), section 2.2.2, eq. 7, and appendix B.1, as in its code; USAT
    (arXiv 2404.18094), section 3.1 of which keeps it. Deviates: the adapters' places;
    ``detach`` is not for ever; as many posterior flows as flows (VITS: 4, the default).

    Example
    -------
    >>> predictor = StochasticDurationPredictor(channels=8, hidden=8, condition=4).eval()
    >>> h, mask, speaker = torch.randn(2, 8, 5), torch.ones(2, 1, 5), torch.randn(2, 4)
    >>> predictor.loss(h, mask, torch.full((2, 1, 5), 3), speaker).shape
    torch.Size([2])
    >>> predictor.sample(h, mask, speaker, noise_scale=0.8).shape
    torch.Size([2, 1, 5])
    """

    whole = staticmethod(torch.ceil)  # it has learnt durations less a fraction of a frame

    def __init__(
        self,
        channels: int,
        hidden: int,
        condition: int,
        kernel: int = 3,
        flows: int = 4,
        bins: int = 10,
        tail: float = 5.0,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.detach = True
        self.pre = nn.Conv1d(channels, hidden, 1)
        self.condition = nn.Linear(condition, hidden)
        self.convs = DDSConv(hidden, kernel, dropout=dropout, adapts=False)
        self.post = nn.Conv1d(hidden, hidden, 1)
        self.duration_pre = nn.Conv1d(1, hidden, 1)
        self.duration_convs = DDSConv(hidden, kernel, dropout=dropout, adapts=False)
        self.duration_post = nn.Conv1d(hidden, hidden, 1)
        self.flows, self.posterior_flows = (
            nn.ModuleList(
                [
                    _Affine(),
                    *(
                        module
                        for _ in range(flows)
                        for module in (SplineFlow(hidden, kernel, bins, tail, adapts), _Swap())
                    ),
                ]
            )
            for adapts in (True, False)
        )

    def loss(
        self,
        h: Tensor,
        mask: Tensor,
        durations: Tensor,
        condition: Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return a bound of each item's negative log-likelihood, with noise drawn for it.

        Arguments
        ---------
        h : Tensor
            Phonemes, shape (batch, channels, phonemes).
        mask : Tensor
            1 where there is one, shape (batch, 1, phonemes).
        durations : Tensor
            In whole frames, at least 1 where ``mask`` is, shape (batch, 1, phonemes).
        condition : Tensor
            Speakers, shape (batch, size).
        generator : torch.Generator, optional
            Of the noise, torch's own otherwise.

        Returns
        -------
        Tensor
            In nats, the sum over an item's phonemes, not divided by their number; shape (batch,).
        """
        return self.bound(h, mask, durations, condition, _noise(h, generator))

    def bound(
        self, h: Tensor, mask: Tensor, durations: Tensor, condition: Tensor, noise: Tensor
    ) -> Tensor:
        """Return what ``loss`` does, for standard Gaussian noise (batch, 2, phonemes).

        The mean of ``exp(-bound)`` over noise is the probability of the durations.
        """
        context = self._context(h, mask, condition)
        frames = durations.to(noise.dtype)
        seen = self.duration_convs(self.duration_pre(frames), mask)
        seen = self.duration_post(seen) * mask
        log_posterior = _log_standard_normal(noise, mask)
        z = noise * mask
        for flow in self.posterior_flows:
            z, log_det = flow(z, mask, context + seen)
            log_posterior = log_posterior - log_det
        fraction, other = z.split(1, dim=1)
        log_slope = functional.logsigmoid(fraction) + functional.logsigmoid(-fraction)
        log_posterior = log_posterior - (log_slope * mask).sum((1, 2))

        rest = (frames - torch.sigmoid(fraction)).clamp_min(_SHORTEST)
        log_rest = rest.log() * mask
        z, log_prior = torch.cat([log_rest, other], dim=1), -log_rest.sum((1, 2))
        for flow in self.flows:
            z, log_det = flow(z, mask, context)
            log_prior = log_prior + log_det
        return log_posterior - log_prior - _log_standard_normal(z, mask)

    def sample(
        self,
        h: Tensor,
        mask: Tensor,
        condition: Tensor,
        noise_scale: float,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw log durations.

        Arguments
        ---------
        h : Tensor
            Phonemes, shape (batch, channels, phonemes).
        mask : Tensor
            1 where there is one, shape (batch, 1, phonemes).
        condition : Tensor
            Speakers, shape (batch, size).
        noise_scale : float
            0 for the same every time, 1 for what was learnt.
        generator : torch.Generator, optional
            Of the noise, torch's own otherwise.

        Returns
        -------
        Tensor
            Shape (batch, 1, phonemes); ``whole(exp(...))`` are whole frames.
        """
        context = self._context(h, mask, condition)
        z = _noise(h, generator) * noise_scale * mask
        # The first spline flow bends only the channel that is not returned.
        for flow in (*reversed(self.flows[2:]), self.flows[0]):
            z = flow(z, mask, context, inverse=True)[0]
        return z[:, :1]

    def _context(self, h: Tensor, mask: Tensor, condition: Tensor) -> Tensor:
        if self.detach:
            h, condition = h.detach(), condition.detach()
        x = self.pre(h) + self.condition(condition)[..., None]
        return self.post(self.convs(x, mask)) * mask


class DeterministicDurationPredictor(nn.Module):
    """One log duration a phoneme, learnt by its squared error.

    Arguments
    ---------
    channels : int
        Of the phonemes.
    hidden : int
        Channels inside.
    condition : int
        Size of the speakers' vectors.
    kernel : int
        Odd, of the convolutions.
    dropout : float
        After each convolution.

    Attributes
    ----------
    whole : Callable
        Makes whole frames of durations.
    detach : bool
        Whether gradients stop at phonemes and speaker.
    point : AdapterPoint
        Before the last layer.

    Source: Ren et al., "FastSpeech 2", ICLR 2021, section 2.3; VITS (arXiv 2106.06103), table 1,
    "DDP". Deviates: ``point`` and ``detach``.

    Example
    -------
    >>> predictor = DeterministicDurationPredictor(channels=8, hidden=8, condition=4).eval()
    >>> h, mask, speaker = torch.randn(2, 8, 5), torch.ones(2, 1, 5), torch.randn(2, 4)
    >>> predictor.loss(h, mask, torch.full((2, 1, 5), 3), speaker).shape
    torch.Size([2])
    >>> predictor.sample(h, mask, speaker, noise_scale=0.8).shape
    torch.Size([2, 1, 5])
    """

    whole = staticmethod(torch.round)

    def __init__(
        self, channels: int, hidden: int, condition: int, kernel: int = 3, dropout: float = 0.5
    ) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"kernel is {kernel}: set it to an odd number, which has a middle")
        self.detach = True
        self.dropout = dropout
        self.condition = nn.Linear(condition, channels)
        self.convs = nn.ModuleList(
            nn.Conv1d(inputs, hidden, kernel, padding=kernel // 2) for inputs in (channels, hidden)
        )
        self.norms = nn.ModuleList(ChannelNorm(hidden) for _ in range(2))
        self.point = AdapterPoint(hidden)
        self.post = nn.Conv1d(hidden, 1, 1)

    def loss(
        self,
        h: Tensor,
        mask: Tensor,
        durations: Tensor,
        condition: Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return each item's squared error of log durations, summed over its phonemes, (batch,).

        Arguments are those of the stochastic predictor; nothing is drawn from ``generator``.
        """
        predicted = self.sample(h, mask, condition, noise_scale=0.0, generator=generator)
        wanted = full_precision(durations).clamp_min(1).log() * mask
        return (full_precision(predicted) - wanted).square().sum((1, 2))

    def sample(
        self,
        h: Tensor,
        mask: Tensor,
        condition: Tensor,
        noise_scale: float,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return log durations (batch, 1, phonemes), the same for every ``noise_scale``.

        Arguments are those of the stochastic predictor; nothing is drawn from ``generator``.
        """
        if self.detach:
            h, condition = h.detach(), condition.detach()
        x = h + self.condition(condition)[..., None]
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = norm(torch.relu(conv(x * mask)))
            x = functional.dropout(x, self.dropout, self.training)
        return self.post(self.point(x * mask, mask) * mask) * mask


class _Affine(nn.Module):
    """Scales and shifts two channels, or undoes it."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(2, 1))
        self.log_scale = nn.Parameter(torch.zeros(2, 1))

    def forward(
        self, x: Tensor, mask: Tensor, context: Tensor, inverse: bool = False
    ) -> tuple[Tensor, Tensor]:
        log_det = (self.log_scale * mask).sum((1, 2))
        if inverse:
            return (x - self.shift) * torch.exp(-self.log_scale) * mask, -log_det
        return (self.shift + self.log_scale.exp() * x) * mask, log_det


class SplineFlow(nn.Module):
    """Bends the second channel along curves that the first and the context choose."""

    def __init__(self, hidden: int, kernel: int, bins: int, tail: float, adapts: bool) -> None:
        super().__init__()
        self.bins, self.tail, self.scale = bins, tail, hidden**-0.5
        self.pre = nn.Conv1d(1, hidden, 1)
        self.convs = DDSConv(hidden, kernel, adapts=adapts)
        self.post = nn.Conv1d(hidden, 3 * bins - 1, 1)
        for parameter in self.post.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self, x: Tensor, mask: Tensor, context: Tensor, inverse: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Return the bent channels (batch, 2, time) and the log-determinant of each item."""
        kept, bent = x.split(1, dim=1)
        curve = self.post(self.convs(self.pre(kept) + context, mask))
        widths, heights, slopes = full_precision(curve.transpose(1, 2)[:, None]).split(
            [self.bins, self.bins, self.bins - 1], dim=-1
        )
        bent, log_slope = rational_quadratic_spline(
            bent, widths * self.scale, heights * self.scale, slopes, self.tail, inverse
        )
        return torch.cat([kept, bent], dim=1) * mask, (log_slope * mask).sum((1, 2))


class _Swap(nn.Module):
    """Lets the two channels change places."""

    def forward(
        self, x: Tensor, mask: Tensor, context: Tensor, inverse: bool = False
    ) -> tuple[Tensor, Tensor]:
        return x.flip(1), x.new_zeros(len(x))


def _noise(h: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw two channels of standard Gaussian noise for ``h``, where the generator lives."""
    return torch.randn(
        (len(h), 2, h.shape[2]),
        generator=generator,
        device=h.device if generator is None else generator.device,
        dtype=torch.promote_types(h.dtype, torch.float32),
    ).to(h.device)


def _log_standard_normal(x: Tensor, mask: Tensor) -> Tensor:
    """Return each item's log-density, summed where ``mask`` is 1."""
    return (-0.5 * (math.log(2 * math.pi) + x.square()) * mask).sum((1, 2))
