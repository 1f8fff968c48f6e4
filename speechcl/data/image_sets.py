"""Images with labels, read when they are asked for and brought to one size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.nn import functional

from speechcl.data.clips import Batch, ClipSet, Row
from speechcl.data.labelled import Classes


class ImageSet(ClipSet):
    """Images: a batch is ``{"features": bytes (batch, 3, size, size), "label": (batch,)}``.

    Bytes, so that a memory of images takes a quarter of the room; models scale them.

    Arguments
    ---------
    rows : Sequence
        A table's row an image, with its path in ``image`` and ``label``.
    classes : Classes
        Of the whole stream.
    size : int
        Height and width of what a model sees, in pixels.

    Example
    -------
    >>> file = getfixture("tmp_path") / "grey.npy"
    >>> numpy.save(file, numpy.full((20, 30), 7, dtype=numpy.uint8))
    >>> rows = [{"image": str(file), "label": "cat"}]
    >>> ImageSet(rows, Classes(("cat",), column="label"), size=8)[0]["features"].shape
    torch.Size([3, 8, 8])
    """

    def __init__(self, rows: Sequence[Row], classes: Classes, size: int) -> None:
        super().__init__(rows, classes)
        self.size = size

    def __getitems__(self, indices: list[int]) -> Batch:
        """Return a whole batch at once."""
        images = [fit(read_image(self.rows[index]["image"]), self.size) for index in indices]
        return {"features": torch.stack(images), "label": self.labels[indices]}

    def __add__(self, other: ImageSet) -> ImageSet:  # type: ignore[override]
        """Return both sets as one."""
        return ImageSet(self.rows + other.rows, self.classes, self.size)

    def subset(self, places: Sequence[int]) -> ImageSet:
        """Return the images at these places of this set."""
        return ImageSet([self.rows[place] for place in places], self.classes, self.size)

    @property
    def nbytes(self) -> int:
        """Bytes of the images as a model sees them."""
        return len(self) * 3 * self.size**2


def read_image(path: Path | str) -> Tensor:
    """Read an image as bytes (3, height, width); grey becomes three equal colours.

    Arguments
    ---------
    path : Path or str
        Anything that Pillow reads, or .npy with bytes of shape (height, width) or
        (height, width, 3).

    Returns
    -------
    Tensor

    Raises
    ------
    ImportError
        If Pillow is needed and not installed.
    ValueError
        If there is no image in the file.

    Example
    -------
    >>> file = getfixture("tmp_path") / "image.npy"
    >>> numpy.save(file, numpy.arange(2, dtype=numpy.uint8)[None])
    >>> read_image(file).tolist()
    [[[0, 1]], [[0, 1]], [[0, 1]]]
    """
    pixels = _read_array(path) if Path(path).suffix == ".npy" else _read_picture(path)
    if pixels.ndim == 2:
        pixels = numpy.repeat(pixels[..., None], 3, axis=2)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != numpy.uint8 or not pixels.size:
        raise ValueError(
            f"{path}: an image of {pixels.dtype} with shape {pixels.shape}: "
            "give bytes of shape (height, width) or (height, width, 3)"
        )
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def fit(image: Tensor, size: int) -> Tensor:
    """Bring the shorter side to a size, by bicubic interpolation, and cut out the middle.

    Arguments
    ---------
    image : Tensor
        Bytes, shape (3, height, width).
    size : int
        In pixels.

    Returns
    -------
    Tensor
        Bytes, shape (3, size, size).

    Source: Radford et al., "Learning transferable visual models from natural language supervision",
    ICML 2021 (released code).

    Example
    -------
    >>> fit(torch.full((3, 10, 20), 9, dtype=torch.uint8), 4).unique()
    tensor([9], dtype=torch.uint8)
    """
    height, width = image.shape[1:]
    times = size / min(height, width)
    sides = [max(size, round(side * times)) for side in (height, width)]
    pixels = functional.interpolate(
        image[None].float(), sides, mode="bicubic", antialias=True, align_corners=False
    )[0]
    top, left = ((side - size) // 2 for side in sides)
    middle = pixels[:, top : top + size, left : left + size]
    return middle.round().clamp(0, 255).byte()


def _read_array(path: Path | str) -> Any:
    try:
        return numpy.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path}: no array of an image in it: save it again") from error


def _read_picture(path: Path | str) -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(
            f"{path}: pictures need Pillow: run pip install pillow, or give .npy files"
        ) from error
    try:
        with Image.open(path) as picture:
            return numpy.asarray(picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: no picture can be read from it: save it again") from error
