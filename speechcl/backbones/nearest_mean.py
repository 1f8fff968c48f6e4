"""A classifier without weights: the class whose mean is nearest."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class NearestMean(nn.Module):
    """Let a model's embeddings be classified by the nearest class mean when it is tested.

    In training it is the model itself, and so it is until there are means.

    Arguments
    ---------
    model : nn.Module
        Gives (logits, embedding).
    classes, width : int
        Sizes of these.

    Source: Mai et al., "Supervised contrastive replay", CVPR workshops 2021, eq. 4.

    Example
    -------
    >>> model = NearestMean(nn.Identity(), classes=3, width=2)
    >>> model.learn(torch.tensor([[2.0, 0.0], [0.0, 9.0]]), torch.tensor([0, 2]))
    >>> model.distances(torch.tensor([[0.0, 0.5]])).round()
    tensor([[2., inf, 0.]])
    """

    def __init__(self, model: nn.Module, classes: int, width: int) -> None:
        super().__init__()
        self.model = model
        self.means: Tensor
        self.known: Tensor
        self.register_buffer("means", torch.zeros(classes, width))
        self.register_buffer("known", torch.zeros(classes, dtype=torch.bool))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and embedding; in a test, less distance from a mean is more logit."""
        logits, embedding = self.model(features)
        if not self.training and bool(self.known.any()):
            logits = -self.distances(embedding)
        return logits, embedding

    @torch.no_grad()
    def learn(self, embeddings: Tensor, labels: Tensor) -> None:
        """Take the means of unit embeddings (items, width), each brought to length one."""
        share = functional.one_hot(labels, len(self.means)).to(embeddings.dtype)
        self.means.copy_(functional.normalize(share.T @ functional.normalize(embeddings)))
        self.known.copy_(share.sum(0) > 0)

    def distances(self, embeddings: Tensor) -> Tensor:
        """Return squared distances from the means, infinite where there is none."""
        unit = functional.normalize(embeddings.float())
        squared = torch.cdist(unit, self.means).square()
        return squared.masked_fill(~self.known, torch.inf)
