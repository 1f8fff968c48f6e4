"""Losses on cosines: what a detector with a cosine head is trained with."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from speechcl.data.clips import BONAFIDE


def oc_softmax(
    cosine: Tensor,
    labels: Tensor,
    real_margin: float = 0.9,
    fake_margin: float = 0.2,
    alpha: float = 20.0,
) -> Tensor:
    """One-class softmax: draw genuine speech into a narrow cone, keep spoofed out of a wide one.

    With the defaults the cones are of 26 and 78 degrees around the learnt direction; where in the
    rest of space a spoofed clip lies does not matter. The score is the cosine itself.

    Arguments
    ---------
    cosine : Tensor
        Shape (batch,) or (batch, 1), from ``CosineHead(width)``.
    labels : Tensor
        Shape (batch,): 1 for genuine, 0 for spoofed.
    real_margin, fake_margin : float
        Cosine that genuine speech should exceed, that spoofed speech should stay below.
    alpha : float
        Steepness.

    Returns
    -------
    Tensor
        The mean loss, a scalar.

    Raises
    ------
    ValueError
        If there is not one cosine a label.

    Source: Zhang et al., "One-class learning towards synthetic voice spoofing detection", IEEE
    Signal Processing Letters 2021 (OC-Softmax).

    Example
    -------
    >>> on_the_margins = torch.tensor([0.9, 0.2])  # where the loss is log 2
    >>> oc_softmax(on_the_margins, torch.tensor([1, 0]))
    tensor(0.6931)
    """
    if cosine.numel() != labels.numel() or cosine.shape[0] != labels.shape[0]:
        raise ValueError(
            f"cosine of shape {tuple(cosine.shape)} must be ({labels.numel()},) or "
            f"({labels.numel()}, 1), one a label: use CosineHead(width, classes=1)"
        )
    cosine = cosine.reshape(-1)
    beyond = torch.where(labels == BONAFIDE, real_margin - cosine, cosine - fake_margin)
    return functional.softplus(alpha * beyond).mean()


def p2sgrad(cosines: Tensor, labels: Tensor) -> Tensor:
    """Mean squared error between the cosines to the classes and 1 for the true class, 0 otherwise.

    It has no margin or scale to tune, and its gradient is that of a softmax loss whose
    probabilities are the cosines.

    Arguments
    ---------
    cosines : Tensor
        Shape (batch, classes), from ``CosineHead(width, classes=2)``.
    labels : Tensor
        Shape (batch,): class numbers.

    Returns
    -------
    Tensor
        The mean loss, a scalar.

    Source: Wang and Yamagishi, "A comparative study on recent neural spoofing countermeasures for
    synthetic speech detection", Interspeech 2021 (P2SGrad as a mean squared error).

    Example
    -------
    >>> p2sgrad(torch.tensor([[0.5, 0.0]]), torch.tensor([1]))  # (0.5 ** 2 + 1 ** 2) / 2
    tensor(0.6250)
    """
    targets = functional.one_hot(labels, cosines.shape[1]).to(cosines.dtype)
    return functional.mse_loss(cosines, targets)
