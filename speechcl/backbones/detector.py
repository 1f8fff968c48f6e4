"""Putting detectors together: a front end, a back end, and a head that scores by cosine."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Detector(nn.Module):
    """A front end and a back end as one module that takes waveforms.

    Arguments
    ---------
    front_end : nn.Module
        Maps waveforms (batch, time) to frames (batch, frames, bands).
    back_end : nn.Module
        Maps frames to (logits, embedding).

    Example
    -------
    >>> from speechcl.backbones.filterbanks import LinearFilterbank
    >>> from speechcl.backbones.resnet import ResNet
    >>> logit, embedding = Detector(LinearFilterbank(), ResNet(16))(torch.zeros(2, 16000))
    >>> logit.shape, embedding.shape
    (torch.Size([2, 1]), torch.Size([2, 128]))
    """

    def __init__(self, front_end: nn.Module, back_end: nn.Module) -> None:
        super().__init__()
        self.front_end, self.back_end = front_end, back_end

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (batch, classes) and embedding (batch, width) of (batch, time)."""
        return self.back_end(self.front_end(waveform))


class CosineHead(nn.Module):
    """Cosines between an embedding and one learnt direction a class; scale plays no part.

    Arguments
    ---------
    width : int
        Of the embedding.
    classes : int
        1 for a one-class head, whose direction is that of genuine speech (``oc_softmax``), 2 for
        spoofed and genuine speech (``p2sgrad``).

    Source: Zhang et al., "One-class learning towards synthetic voice spoofing detection", IEEE
    Signal Processing Letters 2021.

    Example
    -------
    >>> head = CosineHead(2)
    >>> _ = head.directions.data.copy_(torch.tensor([[0.0, 5.0]]))
    >>> head(torch.tensor([[0.0, 2.0], [-3.0, 0.0], [3.0, -4.0]])).T
    tensor([[ 1.0000,  0.0000, -0.8000]], grad_fn=...)
    """

    def __init__(self, width: int, classes: int = 1) -> None:
        super().__init__()
        self.directions = nn.Parameter(functional.normalize(torch.randn(classes, width)))

    def forward(self, embedding: Tensor) -> Tensor:
        """Return cosines (batch, classes) of embeddings (batch, width)."""
        return functional.linear(
            functional.normalize(embedding), functional.normalize(self.directions)
        )


def with_cosine_head(back_end: nn.Module, classes: int = 1) -> nn.Module:
    """Let a back end give cosines in place of logits; the embedding stays as it is.

    The last layer is replaced, not added to, so that no weights are left that get no gradient.

    Arguments
    ---------
    back_end : nn.Module
        One whose last layer is the linear layer ``classify``, as in all back ends here; changed.
    classes : int
        As in ``CosineHead``.

    Returns
    -------
    nn.Module
        The same back end.

    Raises
    ------
    ValueError
        If the back end has no linear layer of that name.

    Example
    -------
    >>> from speechcl.backbones.statistics_net import StatisticsNet
    >>> cosine, embedding = with_cosine_head(StatisticsNet(90))(torch.randn(4, 90))
    >>> cosine.shape, embedding.shape, bool(cosine.abs().max() <= 1)
    (torch.Size([4, 1]), torch.Size([4, 64]), True)
    """
    classify = getattr(back_end, "classify", None)
    if not isinstance(classify, nn.Linear):
        raise ValueError(
            f"{type(back_end).__name__} has no linear layer 'classify' that a cosine head could "
            "replace: rename its last layer, or use CosineHead in its place"
        )
    back_end.classify = CosineHead(classify.in_features, classes)
    return back_end
