"""What the voice model is trained on, all in float32."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from speechcl.backbones.usat.discriminators import GradientReversal

_LEAST_LOG_SIGMA = -7.0  # below, one frame would weigh a million times another


def kl_loss(
    timbre_free: Tensor, log_sigma_q: Tensor, mu_p: Tensor, log_sigma_p: Tensor, mask: Tensor
) -> Tensor:
    """Estimate from one sample how far the posterior is from the prior, per frame.

    It may be negative: it is the divergence in expectation only.

    Arguments
    ---------
    timbre_free : Tensor
        A sample of the posterior, timbre removed, shape (batch, channels, time).
    log_sigma_q : Tensor
        Of the posterior before the flow, whose log-determinant is 0.
    mu_p, log_sigma_p : Tensor
        Of the prior, expanded to frames; ``log_sigma_p`` counts as -7 where it is lower.
    mask : Tensor
        1 where there is something, shape (batch, 1, time).

    Returns
    -------
    Tensor
        The sum over channels and frames by the number of frames, a scalar.

    Source: USAT, arXiv 2404.18094, equation 7, as VITS, arXiv 2106.06103, equation 3. Deviates:
    the bound of ``log_sigma_p``.

    Example
    -------
    >>> one, mask = torch.ones(1, 2, 1), torch.ones(1, 1, 1)
    >>> kl_loss(one, 0 * one, 0 * one, 0 * one, mask)  # two channels of -1/2 + 1/2
    tensor(0.)
    """
    with torch.autocast(mask.device.type, enabled=False):
        log_sigma_p = log_sigma_p.float().clamp(min=_LEAST_LOG_SIGMA)
        # Without what padding may hold, whose square might overflow.
        error = (timbre_free.float() - mu_p.float()).masked_fill(mask == 0, 0.0)
        scaled = error.square() * torch.exp(-2 * log_sigma_p)
        divergence = log_sigma_p - log_sigma_q.float() - 0.5 + 0.5 * scaled
        return (divergence * mask.float()).sum() / mask.float().sum()


def leakage_discriminator_loss(
    discriminator: nn.Module, s_target: Tensor, s_first: Tensor, s_second: Tensor, valid: Tensor
) -> tuple[Tensor, Tensor]:
    """Let the discriminator tell pairs of two utterances from those of one; vectors are detached.

    Arguments
    ---------
    discriminator : nn.Module
        Of pairs, see ``LeakageDiscriminator``.
    s_target : Tensor
        Vectors of the target utterances, shape (batch, size).
    s_first, s_second : Tensor
        Of the two segments of the reference utterances.
    valid : Tensor
        Which items count, bool (batch,).

    Returns
    -------
    tuple of Tensor
        The loss, 0 if no item counts, and the share of pairs judged right, without gradient.
        Healthy are 55 to 75 %. Not a number if no item counts.

    Source: USAT, arXiv 2404.18094, equation 5. Deviates: the squares are our reading.

    Example
    -------
    >>> def judge(a, b):
    ...     return (a - b).abs().sum(1)
    >>> two, one = torch.tensor([[1.0]]), torch.tensor([[0.0]])
    >>> leakage_discriminator_loss(judge, two, one, one, torch.tensor([True]))
    (tensor(0.), tensor(1.))
    """
    s_target, s_first, s_second = s_target.detach(), s_first.detach(), s_second.detach()
    across = discriminator(s_target, s_second).float()
    within = discriminator(s_first, s_second).float()
    loss = _mean((across - 1).square() + within.square(), valid)
    right = (across > 0.5).float() + (within <= 0.5).float()
    return loss, (right * valid).sum() / (2 * valid.sum())


def leakage_speaker_loss(
    discriminator: nn.Module, s_first: Tensor, s_second: Tensor, valid: Tensor
) -> Tensor:
    """Let pairs of one utterance look as of two; the discriminator's weights get no gradient.

    Arguments
    ---------
    discriminator : nn.Module
        Of pairs, not wrapped for several processes.
    s_first, s_second : Tensor
        Vectors of the two segments of the reference utterances, shape (batch, size).
    valid : Tensor
        Which items count, bool (batch,).

    Returns
    -------
    Tensor
        A scalar, 0 if no item counts.

    Source: USAT, arXiv 2404.18094, equation 6. Deviates: the square is our reading.

    Example
    -------
    >>> from speechcl.backbones.usat.discriminators import LeakageDiscriminator
    >>> judge, s = LeakageDiscriminator(4, 8), torch.randn(2, 4, requires_grad=True)
    >>> leakage_speaker_loss(judge, s, s, torch.tensor([True, False])).backward()
    >>> s.grad.any(1), judge.layers[0].weight.grad
    (tensor([ True, False]), None)
    """
    fixed = {name: p.detach() for name, p in discriminator.named_parameters()}
    within = functional_call(discriminator, fixed, (s_first, s_second)).float()
    return _mean((within - 1).square(), valid)


def timbre_loss(
    discriminator: nn.Module,
    text: Tensor,
    speech: Tensor,
    mask: Tensor,
    strength: float = 1.0,
    normalise: bool = False,
) -> Tensor:
    """Let the discriminator tell latents of text and speech apart, and the flow prevent it.

    Arguments
    ---------
    discriminator : nn.Module
        Of latents, see ``TimbreDiscriminator``.
    text : Tensor
        Samples of the prior, detached here, shape (batch, channels, time).
    speech : Tensor
        Latents of speech whose timbre is removed; their gradient is reversed.
    mask : Tensor
        1 where there is something, shape (batch, 1, time).
    strength : float
        Of the reversed gradient.
    normalise : bool
        Bring each channel of either kind to mean 0 and variance 1 over the batch, so that they
        cannot be told by how noisy they are.

    Returns
    -------
    Tensor
        A scalar.

    Source: USAT, arXiv 2404.18094, equations 8 and 9. Deviates: cross-entropy and reversal are our
    reading; ``normalise`` is ours.

    Example
    -------
    >>> x, mask = torch.zeros(2, 4, 5), torch.ones(2, 1, 5)
    >>> timbre_loss(lambda latents, mask: latents.sum((1, 2)), x, x, mask)  # 2 log 2
    tensor(1.3863)
    """
    text = text.detach()
    if normalise:
        text, speech = _standardise(text, mask), _standardise(speech, mask)
    speech = GradientReversal.apply(speech, strength)
    # One call, so that batch normalisation cannot give either kind statistics of its own.
    both = discriminator(torch.cat([text, speech]), torch.cat([mask, mask])).float()
    of_text, of_speech = both.chunk(2)
    return functional.softplus(-of_text).mean() + functional.softplus(of_speech).mean()


def adversarial_discriminator_loss(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """Draw scores of real sound to 1 and of decoded sound, which is detached by the caller, to 0.

    Arguments
    ---------
    real, fake : sequence of Tensor
        Scores of each discriminator.

    Returns
    -------
    Tensor
        The sum over discriminators of means, a scalar.

    Source: VITS, arXiv 2106.06103, equation 8.

    Example
    -------
    >>> adversarial_discriminator_loss([torch.tensor([1.0, 0.0])], [torch.tensor([2.0])])
    tensor(4.5000)
    """
    losses = [
        (r.float() - 1).square().mean() + f.float().square().mean()
        for r, f in zip(real, fake, strict=True)
    ]
    return torch.stack(losses).sum()


def adversarial_generator_loss(fake: Sequence[Tensor]) -> Tensor:
    """Draw scores of decoded sound to 1: the sum over discriminators of means.

    Source: VITS, arXiv 2106.06103, equation 9.

    Example
    -------
    >>> adversarial_generator_loss([torch.tensor([1.0, 0.0]), torch.tensor([3.0])])
    tensor(4.5000)
    """
    return torch.stack([(f.float() - 1).square().mean() for f in fake]).sum()


def feature_matching_loss(
    real: Sequence[Sequence[Tensor]], fake: Sequence[Sequence[Tensor]], weight: float = 2.0
) -> Tensor:
    """Draw feature maps of decoded sound to those of real sound, which are detached.

    Arguments
    ---------
    real, fake : sequence of sequences of Tensor
        Maps of each layer of each discriminator.
    weight : float
        Of the loss.

    Returns
    -------
    Tensor
        The weighted sum over maps of mean absolute differences, a scalar.

    Source: VITS, arXiv 2106.06103, equation 10, and its code (the weight).

    Example
    -------
    >>> feature_matching_loss([[torch.zeros(2), torch.ones(1)]], [[torch.ones(2), torch.ones(1)]])
    tensor(2.)
    """
    differences = [
        functional.l1_loss(f.float(), r.detach().float())
        for maps, other in zip(real, fake, strict=True)
        for r, f in zip(maps, other, strict=True)
    ]
    return weight * torch.stack(differences).sum()


def mel_loss(real: Tensor, fake: Tensor, weight: float = 45.0) -> Tensor:
    """Draw log-mel spectrograms together: the weighted mean absolute difference.

    Source: VITS, arXiv 2106.06103, equation 2, and its code (the weight).

    Example
    -------
    >>> mel_loss(torch.zeros(1, 80, 4), torch.ones(1, 80, 4))
    tensor(45.)
    """
    return weight * functional.l1_loss(fake.float(), real.float())


def _mean(values: Tensor, valid: Tensor) -> Tensor:
    """Return the mean of the values that count; without any, 0 that still has a graph."""
    return torch.where(valid, values, 0.0).sum() / valid.sum().clamp(min=1)


def _standardise(x: Tensor, mask: Tensor) -> Tensor:
    frames = mask.sum()
    mean = (x * mask).sum((0, 2), keepdim=True) / frames
    centred = (x - mean) * mask
    variance = centred.square().sum((0, 2), keepdim=True) / frames
    return centred * (variance + 1e-5).rsqrt()
