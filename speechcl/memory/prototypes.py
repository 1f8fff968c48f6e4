"""Prototypes: where the classes of the last batch were, each the mean of its items."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Prototypes(nn.Module):
    """Remember the mean of each class that was in the last batch, and which classes these were.

    Arguments
    ---------
    classes, width : int
        How many classes there can be, and how wide their vectors are.

    Example
    -------
    >>> prototypes = Prototypes(classes=9, width=1)
    >>> prototypes.take(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([7, 0, 0]))
    >>> prototypes.known()
    (tensor([0, 7]), tensor([[3.],
            [1.]]))
    """

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.means: Tensor
        self.present: Tensor
        self.register_buffer("means", torch.zeros(classes, width))
        self.register_buffer("present", torch.zeros(classes, dtype=torch.bool))

    @torch.no_grad()
    def take(self, vectors: Tensor, labels: Tensor) -> None:
        """Keep the means of items (items, width), without their graph, in place of the last."""
        classes, means = class_means(vectors, labels)
        self.present.zero_()
        self.present[classes] = True
        self.means[classes] = means.float()

    def known(self) -> tuple[Tensor, Tensor]:
        """Return the classes, in order, and the prototype of each, shape (known, width)."""
        return self.present.nonzero().flatten(), self.means[self.present]


def class_means(vectors: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the classes of a batch, in order, and the mean of each.

    Arguments
    ---------
    vectors : Tensor
        Shape (items, width).
    labels : Tensor
        Shape (items,).

    Returns
    -------
    tuple
        Classes (present,) and means (present, width).

    Example
    -------
    >>> class_means(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([7, 0, 0]))
    (tensor([0, 7]), tensor([[3.],
            [1.]]))
    """
    present, place, count = labels.unique(return_inverse=True, return_counts=True)
    total = vectors.new_zeros(len(present), vectors.shape[1]).index_add(0, place, vectors)
    return present, total / count[:, None]
