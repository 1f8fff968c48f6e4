"""Views of images: bytes, or numbers from 0 to 1, of shape (batch, channels, height, width).

There are three channels, or one; what comes back are numbers from 0 to 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from speechcl.views.view import View, Views, ordered, uniform, within

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_LEAST = 1e-3  # of what must be above 0


@dataclass(frozen=True)
class Flip(View):
    """Left becomes right.

    Example
    -------
    >>> Flip()(torch.tensor([[[[0.0, 1.0]]]]), torch.Generator())
    tensor([[[[1., 0.]]]])
    """

    def change(self, features: Tensor, draws: torch.Generator) -> Tensor:
        """Return mirror images."""
        return features.flip(-1)


@dataclass(frozen=True)
class Gray(View):
    """Colours become their brightness.

    Example
    -------
    >>> red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    >>> Gray()(red, torch.Generator()).flatten()
    tensor([0.2990, 0.2990, 0.2990])
    """

    def change(self, features: Tensor, draws: torch.Generator) -> Tensor:
        """Return gray images, of equal channels, as many as before."""
        return _luma(features).expand_as(features)


@dataclass(frozen=True)
class Crop(View):
    """A part of the image, brought to the size of the whole.

    Where a part would be wider or higher than the image, that side is the image's.

    Arguments
    ---------
    scale : tuple of float
        Least and greatest share of the area.
    ratio : tuple of float
        Least and greatest width over height; its logarithm is uniform.

    Raises
    ------
    ValueError
        If a range is empty, or not above 0, or a share is above 1.

    Example
    -------
    >>> whole = Crop(scale=(1.0, 1.0), ratio=(1.0, 1.0))
    >>> picture = torch.rand(2, 3, 4, 4)
    >>> torch.allclose(whole(picture, torch.Generator()), picture, atol=1e-6)
    True
    """

    scale: tuple[float, float] = (0.3, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        """Refuse ranges without anything in them."""
        super().__post_init__()
        ordered("scale", self.scale, _LEAST, 1)
        ordered("ratio", self.ratio, _LEAST)

    def change(self, features: Tensor, draws: torch.Generator) -> Tensor:
        """Return the parts, interpolated linearly."""
        area = uniform(*self.scale, features, draws).flatten()
        narrow, wide = (math.log(one) for one in self.ratio)
        log_ratio = uniform(narrow, wide, features, draws).flatten()
        width = (area * log_ratio.exp()).sqrt().clamp_max(1.0)
        height = (area / log_ratio.exp()).sqrt().clamp_max(1.0)
        x, y = (2 * uniform(0, 1, features, draws).flatten() - 1 for _ in range(2))
        place = features.new_zeros(len(features), 2, 3)
        place[:, 0, 0], place[:, 1, 1] = width, height
        place[:, 0, 2], place[:, 1, 2] = x * (1 - width), y * (1 - height)
        grid = functional.affine_grid(place, list(features.shape), align_corners=False)
        return functional.grid_sample(features, grid, padding_mode="border", align_corners=False)


@dataclass(frozen=True)
class ColourJitter(View):
    """Other brightness, contrast and saturation.

    Arguments
    ---------
    brightness, contrast, saturation : float
        Factors are drawn from 1 less this to 1 more, for a change of each in this order.

    Raises
    ------
    ValueError
        If one is not within 0 and 1.

    Example
    -------
    >>> same = ColourJitter(0.0, 0.0, 0.0)
    >>> picture = torch.rand(2, 3, 4, 4)
    >>> torch.allclose(same(picture, torch.Generator()), picture)
    True
    """

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4

    def __post_init__(self) -> None:
        """Refuse factors below 0."""
        super().__post_init__()
        for name in ("brightness", "contrast", "saturation"):
            within(name, getattr(self, name), 0, 1)

    def change(self, features: Tensor, draws: torch.Generator) -> Tensor:
        """Return the images with all three changed, between 0 and 1."""
        x = features
        bright, contrast, colour = (
            uniform(1 - by, 1 + by, x, draws)
            for by in (self.brightness, self.contrast, self.saturation)
        )
        x = (bright * x).clamp(0, 1)
        mean = _luma(x).mean((1, 2, 3), keepdim=True)
        x = (mean + contrast * (x - mean)).clamp(0, 1)
        gray = _luma(x)
        return (gray + colour * (x - gray)).clamp(0, 1)


def image_views() -> Views:
    """Return the views that OnPro takes of images: mirrored, gray, cropped.

    Source: OnPro (arXiv 2308.00301), released code.

    Example
    -------
    >>> image_views()(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.Generator()).dtype
    torch.float32
    """
    return Views([Flip(probability=0.5), Gray(probability=0.25), Crop()])


def strong_image_views() -> Views:
    """Return the views that DualMix takes of images: cropped to a fifth at least, and coloured.

    Source: DualMix (arXiv 2303.07864), figure 2: the strength of a crop between shares a and b is
    (1 - a) + (1 - b), and 0.8 was the best of three.

    Example
    -------
    >>> strong_image_views().steps[0].scale
    (0.2, 1.0)
    """
    steps = [Crop((0.2, 1.0)), Flip(probability=0.5), ColourJitter(probability=0.8)]
    return Views([*steps, Gray(probability=0.2)])


def digit_views() -> Views:
    """Return mild views of digits, which a mirror would turn into others: cropped, brighter.

    Example
    -------
    >>> len(digit_views().steps)
    2
    """
    return Views([Crop((0.7, 1.0), (0.9, 1.1)), ColourJitter(0.3, 0.3, 0.0)])


def _luma(x: Tensor) -> Tensor:
    """Return the brightness of red, green and blue, or the only channel, (batch, 1, ...)."""
    if x.shape[1] == 1:
        return x
    return (x * x.new_tensor(_LUMA).view(3, 1, 1)).sum(1, keepdim=True)
