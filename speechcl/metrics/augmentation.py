"""How much an augmentation changes: what a model makes of it, and the items themselves."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def augmentation_strength(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Compute how far a model's mean prediction of remembered items moves from draw to draw.

    The model is the one from before the task under way, the items are what a memory holds of old
    classes, and each draw augments all of them anew. Of each class that the items have, this is
    the standard deviation over draws of the mean probability of that class, averaged over classes.

    The paper takes a lower value for a stronger augmentation, among augmentations that all change
    a lot; none at all gives 0 too. Read it beside ``sample_correlation``.

    Arguments
    ---------
    probabilities : array_like (draws, items, classes)
        The model's softmax; ten draws are enough.
    labels : array_like (items,)
        Class numbers of the items.

    Returns
    -------
    float
        0 or more; standard deviations have the number of draws less 1 below.

    Raises
    ------
    ValueError
        If there are fewer than two draws, no items, or the shapes do not agree.

    Source: DualMix (arXiv 2303.07864), eq. 6. Deviates: the paper does not say which standard
    deviation it takes.

    Example
    -------
    >>> draws = [[[0.9, 0.1], [0.4, 0.6]], [[0.7, 0.3], [0.2, 0.8]]]  # of one old class, 0
    >>> round(augmentation_strength(draws, labels=[0, 0]), 4)  # of 0.65 and 0.45
    0.1414
    """
    p, classes = np.asarray(probabilities, dtype=np.float64), np.unique(np.asarray(labels))
    if p.ndim != 3 or len(p) < 2 or p.shape[1] == 0 or np.shape(labels) != p.shape[1:2]:
        raise ValueError(
            f"probabilities of shape {p.shape} for labels of shape {np.shape(labels)}: give "
            "(draws, items, classes) of two draws or more, and a label an item"
        )
    if classes.min() < 0 or classes.max() >= p.shape[2]:
        raise ValueError(
            f"labels go from {classes.min()} to {classes.max()} but probabilities have "
            f"{p.shape[2]} classes: give class numbers from 0 to {p.shape[2] - 1}"
        )
    means = p.mean(1)[:, classes]  # u_c, (draws, old classes)
    return float(means.std(0, ddof=1).mean())


def sample_correlation(original: ArrayLike, augmented: ArrayLike) -> float:
    """Compute how much items still resemble what they were made from.

    Arguments
    ---------
    original, augmented : array_like (items, ...)
        Items and the same items augmented; tensors must be on the CPU.

    Returns
    -------
    float
        Pearson's correlation of all numbers of an item, averaged over items: 1 where nothing but
        level and offset have changed. Items that are constant, such as silence, are left out.

    Raises
    ------
    ValueError
        If the shapes do not agree, or every item is constant.

    Source: DualMix (arXiv 2303.07864) argues with this correlation; it gives no formula.

    Example
    -------
    >>> sample_correlation([[0.0, 1.0], [0.0, 1.0]], [[2.0, 4.0], [5.0, 3.0]])  # 1 and -1
    0.0
    """
    one, other = (np.asarray(x, dtype=np.float64) for x in (original, augmented))
    if one.shape != other.shape or one.ndim < 2:
        raise ValueError(
            f"items of shape {one.shape} and augmented ones of shape {other.shape}: give the same "
            "items to both, (items, ...)"
        )
    one, other = (x.reshape(len(x), -1) for x in (one, other))
    varied = (np.ptp(one, axis=1) > 0) & (np.ptp(other, axis=1) > 0)
    if not varied.any():
        raise ValueError(f"all {len(one)} items are constant: give some that are not")
    one, other = (x[varied] - x[varied].mean(1, keepdims=True) for x in (one, other))
    product = (one * other).sum(1)
    return float((product / np.sqrt((one**2).sum(1) * (other**2).sum(1))).mean())
