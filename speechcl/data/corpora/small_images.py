"""Small labelled images: digits, CIFAR-10 and CIFAR-100, Tiny-ImageNet, each read as one tensor."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy
import torch
from torch import Tensor
from torch.nn import functional

from speechcl.data.corpora.common import CorpusNotFound
from speechcl.data.features import FeatureSet
from speechcl.data.image_sets import fit, read_image
from speechcl.data.labelled import Classes
from speechcl.data.sound_files import show_path

_LARGEST_PNG = 1 << 20  # bytes of a digit's file, packed or not; the true ones have some hundred


class Images(NamedTuple):
    """Bytes of images (images, 3, size, size), and of each its class and its split."""

    pixels: Tensor
    labels: list[str]
    splits: list[str]


def digits() -> Images:
    """Return the 1797 digits of 8 x 8 pixels that come with scikit-learn; 540 are to test on.

    Which are, is drawn once and for all, in equal parts of all classes.

    Example
    -------
    >>> found = digits()
    >>> found.pixels.shape, found.splits.count("test")
    (torch.Size([1797, 3, 8, 8]), 540)
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    places = numpy.arange(len(bunch.target))
    _, test = train_test_split(places, test_size=540, stratify=bunch.target, random_state=0)
    pixels = torch.from_numpy((bunch.images * (255 / 16)).round().astype(numpy.uint8))
    splits = numpy.where(numpy.isin(places, test), "test", "train")
    return Images(_colours(pixels), [str(one) for one in bunch.target], splits.tolist())


def digit_archive(folder: str | os.PathLike) -> Images:
    """Read a zip of PNG digits, ``train/<digit>/<n>.png`` and ``test/<digit>/<n>.png``.

    Files are read in the archive; nothing is unpacked.

    Raises
    ------
    CorpusNotFound
        If there is not one zip in the folder, or no such file in it.
    ValueError
        If a file in it is too large for a digit, or is damaged.
    """
    import io

    from PIL import Image

    archives = sorted(Path(folder).glob("*.zip"))
    if len(archives) != 1:
        raise CorpusNotFound(
            f"{len(archives)} zip files in {show_path(folder)}: give a folder with one, of "
            "train/<digit>/<n>.png and test/<digit>/<n>.png"
        )
    pixels, labels, splits = [], [], []
    try:
        with zipfile.ZipFile(archives[0]) as archive:
            for entry in sorted(archive.infolist(), key=lambda one: one.filename):
                parts = entry.filename.split("/")
                if len(parts) != 3 or parts[0] not in ("train", "test") or not parts[2]:
                    continue
                if entry.file_size > _LARGEST_PNG:
                    raise ValueError(f"{entry.filename} has {entry.file_size} bytes, too many")
                with Image.open(io.BytesIO(archive.read(entry))) as picture:
                    if picture.size != (28, 28):
                        raise ValueError(f"{entry.filename} is {picture.size}, not 28 x 28 pixels")
                    pixels.append(numpy.asarray(picture.convert("L")))
                labels.append(parts[1])
                splits.append(parts[0])
    except (zipfile.BadZipFile, OSError, ValueError, SyntaxError) as error:
        raise ValueError(f"{show_path(archives[0])}: {error}: get the archive again") from error
    if not pixels:
        raise CorpusNotFound(f"{show_path(archives[0])} holds no train/<digit>/<n>.png")
    return Images(_colours(torch.from_numpy(numpy.stack(pixels))), labels, splits)


def cifar(folder: str | os.PathLike, classes: int) -> Images:
    """Read CIFAR-10 or CIFAR-100 as their binary versions unpack; the fine labels of the latter.

    Raises
    ------
    CorpusNotFound
        If it is not there. The version for Python is not read: unpickling runs what a file says.
    ValueError
        If a file is cut short.
    """
    name = "cifar-10-batches-bin" if classes == 10 else "cifar-100-binary"
    files = {
        "train": [f"data_batch_{k}.bin" for k in range(1, 6)] if classes == 10 else ["train.bin"],
        "test": ["test_batch.bin" if classes == 10 else "test.bin"],
    }
    names_file = "batches.meta.txt" if classes == 10 else "fine_label_names.txt"
    place = next(
        (one for one in (Path(folder), Path(folder) / name) if (one / names_file).is_file()), None
    )
    if place is None:
        raise CorpusNotFound(
            f"no {name}/{names_file} in {show_path(folder)}: get the binary version of "
            f"CIFAR-{classes} from the University of Toronto, cs.toronto.edu/~kriz/cifar.html"
        )
    names = [line for line in (place / names_file).read_text().split("\n") if line.strip()]
    head = 1 if classes == 10 else 2
    pixels, labels, splits = [], [], []
    for split, parts in files.items():
        for part in parts:
            raw = _read_bytes(place / part)
            if raw.size == 0 or raw.size % (head + 3072):
                raise ValueError(f"{show_path(place / part)}: {raw.size} bytes are no whole images")
            table = raw.reshape(-1, head + 3072)
            label = table[:, head - 1]
            if label.max() >= len(names):
                raise ValueError(f"{show_path(place / part)}: label {label.max()} has no name")
            pixels.append(table[:, head:].reshape(-1, 3, 32, 32))
            labels += [names[k] for k in label]
            splits += [split] * len(table)
    return Images(torch.from_numpy(numpy.concatenate(pixels)), labels, splits)


def tiny_imagenet(folder: str | os.PathLike) -> Images:
    """Read Tiny-ImageNet as its archive unpacks; its validation part is to test on.

    Classes are WordNet numbers, such as n01443537.

    Raises
    ------
    CorpusNotFound
        If it is not there.
    ValueError
        If the list of the validation part is wrong, or an image cannot be read.
    """
    places = (Path(folder), Path(folder) / "tiny-imagenet-200")
    place = next((one for one in places if (one / "wnids.txt").is_file()), None)
    if place is None:
        raise CorpusNotFound(
            f"no tiny-imagenet-200/wnids.txt in {show_path(folder)}: get it from Stanford's "
            "cs231n.stanford.edu/tiny-imagenet-200.zip"
        )
    names = (place / "wnids.txt").read_text().split()
    found = [
        (path, name, "train")
        for name in names
        for path in sorted((place / "train" / name / "images").glob("*.JPEG"))
    ]
    listing = place / "val" / "val_annotations.txt"
    for number, line in enumerate(listing.read_text().splitlines(), 1):
        picture, name = (line.split("\t") + ["", ""])[:2]
        if name not in names or "/" in picture:
            raise ValueError(f"{show_path(listing)}: line {number} has no class of wnids.txt")
        found.append((place / "val" / "images" / picture, name, "test"))
    pixels = torch.empty(len(found), 3, 64, 64, dtype=torch.uint8)
    for row, (file, _, _) in zip(pixels, found, strict=True):
        row.copy_(fit(read_image(file), 64))
    return Images(pixels, [name for _, name, _ in found], [split for *_, split in found])


CORPORA: dict[str, Callable[[str | os.PathLike], Images]] = {
    "digits": lambda folder: digits(),
    "mnist": digit_archive,
    "cifar10": lambda folder: cifar(folder, 10),
    "cifar100": lambda folder: cifar(folder, 100),
    "tiny_imagenet": tiny_imagenet,
}


def image_set(
    corpus: str, folder: str | os.PathLike, repeats: int = 1, seed: int = 0
) -> FeatureSet:
    """Read a corpus of small images.

    Arguments
    ---------
    corpus : str
        One of ``CORPORA``.
    folder : str or os.PathLike
        Where it is; ``digits`` needs none.
    repeats : int
        How often each image to train on occurs: as it is, then moved and turned a little, so that
        a stream of few images is long enough to learn from in one pass.
    seed : int
        Of these changes.

    Returns
    -------
    FeatureSet
        Bytes (images, 3, size, size); rows have ``ID``, ``label`` and ``split``; classes are in
        the order of their names.

    Raises
    ------
    CorpusNotFound, ValueError
        If the corpus is unknown, not there or damaged.

    Example
    -------
    >>> data = image_set("digits", "", repeats=2)
    >>> len(data), data.classes.names[:3], data.features.dtype
    (3054, ('0', '1', '2'), torch.uint8)
    """
    if corpus not in CORPORA:
        raise ValueError(f"corpus is {corpus!r}: choose among {', '.join(CORPORA)}")
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}: every image occurs at least once")
    pixels, labels, splits = CORPORA[corpus](folder)
    train = [place for place, split in enumerate(splits) if split == "train"]
    draws = torch.Generator().manual_seed(seed)
    more = [moved(pixels[train], draws) for _ in range(repeats - 1)]
    rows = [
        {"ID": f"{corpus}-{place}", "label": label, "split": split}
        for place, (label, split) in enumerate(zip(labels, splits, strict=True))
    ]
    rows += [
        {**rows[place], "ID": f"{corpus}-{place}-{number}"}
        for number in range(1, repeats)
        for place in train
    ]
    classes = Classes(tuple(sorted(set(labels))), column="label")
    return FeatureSet(torch.cat([pixels, *more]), rows, classes)


def moved(images: Tensor, draws: torch.Generator) -> Tensor:
    """Turn images by up to 10 degrees, move them by up to 8 % and scale them by up to 10 %.

    Arguments
    ---------
    images : Tensor
        Bytes, shape (images, 3, size, size).
    draws : torch.Generator
        Of all chance.

    Returns
    -------
    Tensor
        Bytes of the same shape.

    Example
    -------
    >>> image = torch.full((1, 3, 8, 8), 9, dtype=torch.uint8)
    >>> moved(image, torch.Generator()).float().mean() > 7
    tensor(True)
    """
    angle, scale, x, y = (
        low + (high - low) * torch.rand(len(images), generator=draws)
        for low, high in ((-0.1745, 0.1745), (0.9, 1.1), (-0.16, 0.16), (-0.16, 0.16))
    )
    place = torch.stack(
        [
            torch.stack([scale * angle.cos(), -scale * angle.sin(), x], 1),
            torch.stack([scale * angle.sin(), scale * angle.cos(), y], 1),
        ],
        1,
    )
    grid = functional.affine_grid(place, list(images.shape), align_corners=False)
    found = functional.grid_sample(images.float(), grid, align_corners=False)
    return found.round().clamp(0, 255).byte()


def _colours(gray: Tensor) -> Tensor:
    return gray[:, None].repeat(1, 3, 1, 1)


def _read_bytes(file: Path) -> numpy.ndarray:
    if not file.is_file():
        raise CorpusNotFound(f"{show_path(file)} is missing: unpack the archive again")
    return numpy.fromfile(file, dtype=numpy.uint8)
