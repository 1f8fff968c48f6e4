"""Losses that draw a clip and its name together and hold it off the others, as CLIP's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from speechcl.memory.prototypes import class_means
from speechcl.parallel import gather, world


def contrastive_loss(audio: Tensor, text: Tensor, scale: Tensor | float) -> Tensor:
    """Compute the symmetric loss of pairs: row i of both belong together, all others do not.

    Arguments
    ---------
    audio, text : Tensor
        Unit vectors, shape (batch, width).
    scale : Tensor or float
        What cosines are times.

    Returns
    -------
    Tensor
        The mean of both directions, a scalar.

    Source: Radford et al., "Learning transferable visual models from natural language supervision",
    ICML 2021, figure 3.

    Example
    -------
    >>> contrastive_loss(torch.eye(2), torch.eye(2), scale=1.0)  # log(1 + 1 / e)
    tensor(0.3133)
    """
    logits = scale * audio @ text.T
    own = torch.arange(len(logits), device=logits.device)
    return (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2


def name_loss(logits: Tensor, labels: Tensor, names: Sequence[int]) -> Tensor:
    """Compute how well each name finds its clips among those of the batch.

    Two things are as in the released code of CoDyRA. A name with n clips in the batch has a target
    that sums to n, not to 1. A name without clips has a target of zeros and thus a loss of 0, yet
    counts in the mean, so that the loss shrinks as names accumulate.

    Arguments
    ---------
    logits : Tensor
        Scaled cosines of clips and names, shape (batch, classes).
    labels : Tensor
        Class of each clip, shape (batch,).
    names : sequence of int
        The classes whose names look for clips.

    Returns
    -------
    Tensor
        The mean over ``names``, a scalar.

    Source: CoDyRA, arXiv 2412.01004, released code (the cross-entropy of texts over images).

    Example
    -------
    >>> logits = torch.zeros(2, 3)
    >>> name_loss(logits, torch.tensor([0, 0]), names=[0, 1])  # (2 log 2 + 0) / 2
    tensor(0.6931)
    """
    chosen = torch.tensor(list(names), device=logits.device)
    targets = (labels == chosen[:, None]).to(logits.dtype)
    return functional.cross_entropy(logits[:, chosen].T, targets)


def whole_batch(rows: Tensor) -> Tensor:
    """Concatenate every process's rows; one's own are times the inverse of one's share.

    A loss that is computed alike in every process, from the whole batch, has in each a gradient
    through its own rows only. The engine weights a loss by the share of the process's rows and
    averages over processes, which suits means over them; with the inverse in the gradient, the
    sum of what all processes contribute is the gradient of the whole, exactly. All processes must
    call it, also one that has no rows.

    Arguments
    ---------
    rows : Tensor
        Shape (local batch, ...).

    Returns
    -------
    Tensor
        Shape (batch of all processes, ...); the values are those of the rows.

    Example
    -------
    >>> x = torch.ones(2, requires_grad=True)
    >>> whole_batch(x).sum().backward()
    >>> x.grad  # with one process, nothing changes
    tensor([1., 1.])
    """
    rank, processes = world()
    if processes == 1:
        return rows
    sizes = gather(torch.tensor([len(rows)]))
    start, whole = int(sizes[:rank].sum()), gather(rows)
    fixed = rows.detach()
    own = fixed + (rows - fixed) * (len(whole) / max(len(rows), 1))
    return torch.cat([whole[:start], own, whole[start + len(rows) :]])


def supervised_contrastive(vectors: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Draw vectors of one class together and hold them off all others.

    Arguments
    ---------
    vectors : Tensor
        Unit vectors, shape (items, width).
    labels : Tensor
        Shape (items,). An item that is alone in its class adds nothing.
    temperature : float
        What cosines are divided by.

    Returns
    -------
    Tensor
        The mean over items that have company of ``-log p`` of it, a scalar.

    Source: Khosla et al., "Supervised contrastive learning", NeurIPS 2020, eq. 2.

    Example
    -------
    >>> pairs = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    >>> supervised_contrastive(pairs, torch.tensor([0, 0, 1, 1]), 1.0)  # log(1 + 2 / e)
    tensor(0.5514)
    """
    return class_terms(vectors @ vectors.T / temperature, labels).mean()


def class_terms(similarity: Tensor, labels: Tensor) -> Tensor:
    """Compute ``-log p`` of an item's own class among all other items, a mean over the class.

    Arguments
    ---------
    similarity : Tensor
        Of items with items, over the temperature, shape (items, items). The diagonal plays no part.
    labels : Tensor
        Shape (items,).

    Returns
    -------
    Tensor
        One number for each item that is not alone in its class.

    Example
    -------
    >>> class_terms(torch.zeros(3, 3), torch.tensor([0, 1, 0]))  # log 2 each
    tensor([0.6931, 0.6931])
    """
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    log_p = log_shares(similarity)
    company = (labels[:, None] == labels) & ~itself
    count = company.sum(1)
    total = log_p.masked_fill(~company, 0.0).sum(1)
    return -(total[count > 0] / count[count > 0])


def log_shares(similarity: Tensor) -> Tensor:
    """Return the log-softmax of each row without its own column, shape (items, items).

    Example
    -------
    >>> log_shares(torch.zeros(2, 2))
    tensor([[-inf, 0.],
            [0., -inf]])
    """
    itself = torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
    return similarity.masked_fill(itself, -torch.inf).log_softmax(1)


def prototype_contrast(one: Tensor, other: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Draw two views of each class's prototype together and hold those of other classes off.

    Arguments
    ---------
    one, other : Tensor
        Two views of items, shape (items, width).
    labels : Tensor
        Shape (items,).
    temperature : float
        What cosines are divided by.

    Returns
    -------
    Tensor
        The mean over both views of all prototypes, 0 for a single class.

    Source: OnPro (arXiv 2308.00301), released code.

    Example
    -------
    >>> apart = torch.eye(2)
    >>> prototype_contrast(apart, apart, torch.tensor([0, 1]), 0.5)  # log(1 + 2 exp(-2))
    tensor(0.2395)
    """
    means = [class_means(vectors, labels)[1] for vectors in (one, other)]
    unit = functional.normalize(torch.cat(means))
    logits = unit @ unit.T / temperature
    logits.fill_diagonal_(-torch.inf)
    view = torch.arange(len(unit), device=unit.device).roll(len(unit) // 2)
    return functional.cross_entropy(logits, view)
