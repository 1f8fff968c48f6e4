"""Images: read, brought to one size, refused."""

import sys

import numpy
import pytest
import torch

from speechcl.batches import join
from speechcl.data.image_sets import ImageSet, fit, read_image
from speechcl.data.labelled import Classes
from speechcl.memory import Reservoir

CLASSES = Classes(("cat", "dog"), column="label")


def saved(path, shape, value=None, dtype=numpy.uint8):
    draw = numpy.random.default_rng(0)
    pixels = draw.integers(0, 256, shape) if value is None else numpy.full(shape, value)
    numpy.save(path, pixels.astype(dtype))
    return str(path)


def test_colours_come_first(tmp_path):
    file = tmp_path / "a.npy"
    pixels = numpy.arange(24, dtype=numpy.uint8).reshape(2, 4, 3)
    numpy.save(file, pixels)
    image = read_image(file)
    assert image.shape == (3, 2, 4)
    assert image[2, 1, 3] == pixels[1, 3, 2]


@pytest.mark.parametrize("suffix", ["png", "bmp"])
def test_pictures_are_read(suffix, tmp_path):
    pillow = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    pixels = numpy.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(numpy.uint8)
    pillow.fromarray(pixels).save(tmp_path / f"a.{suffix}")
    assert torch.equal(
        read_image(tmp_path / f"a.{suffix}"), torch.from_numpy(pixels).permute(2, 0, 1)
    )
    pillow.fromarray(pixels[..., 0]).save(tmp_path / f"grey.{suffix}")
    grey = torch.from_numpy(pixels[..., 0].copy())
    assert torch.equal(read_image(tmp_path / f"grey.{suffix}"), grey.expand(3, 5, 7))


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n" + b"\x00" * 40])
def test_a_damaged_picture_is_one_clear_line(content, tmp_path):
    pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match="a.png: no picture can be read from it"):
        read_image(tmp_path / "a.png")


def test_without_pillow_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match="run pip install pillow, or give .npy files"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((4, 4, 4), numpy.uint8, "uint8 with shape .4, 4, 4.: give bytes"),
        ((4,), numpy.uint8, "shape .4,."),
        ((4, 4, 3), numpy.float32, "an image of float32"),
        ((0, 4, 3), numpy.uint8, "shape .0, 4, 3."),
    ],
)
def test_an_array_that_is_no_image_is_refused(shape, dtype, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_image(saved(tmp_path / "a.npy", shape, 1, dtype))


def test_pickled_arrays_are_not_run(tmp_path):
    numpy.save(tmp_path / "a.npy", numpy.array([{"a": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "b.npy").write_bytes(b"")
    for name in ("a.npy", "b.npy"):
        with pytest.raises(ValueError, match=f"{name}: no array of an image in it"):
            read_image(tmp_path / name)


@pytest.mark.parametrize("shape", [(8, 8), (5, 20), (20, 5), (40, 31), (1, 1)])
def test_any_shape_becomes_a_square(shape):
    image = torch.randint(0, 256, (3, *shape), dtype=torch.uint8)
    assert fit(image, 8).shape == (3, 8, 8)
    if shape == (8, 8):
        assert torch.equal(fit(image, 8), image), "the right size stays as it is"


def test_the_middle_is_cut_out_and_shapes_are_kept():
    image = torch.zeros(3, 8, 24, dtype=torch.uint8)
    image[:, :, 8:16] = 200
    assert fit(image, 8).unique().tolist() == [200]
    edge = torch.zeros(3, 16, 16, dtype=torch.uint8)
    edge[:, :, 8:] = 255
    halved = fit(edge, 8)[0]
    assert halved[:, :4].max() < 100
    assert halved[:, 4:].min() > 155, "no overflow where the interpolation overshoots"


def test_a_set_reads_what_is_asked_for(tmp_path):
    rows = [
        {"image": saved(tmp_path / f"{k}.npy", (9, 12, 3), 10 * k), "label": label}
        for k, label in enumerate(("cat", "dog", "dog"))
    ]
    data = ImageSet(rows, CLASSES, size=4)
    batch = data.__getitems__([2, 0])
    assert batch["features"].dtype == torch.uint8
    assert batch["features"].shape == (2, 3, 4, 4)
    assert batch["features"].float().mean(dim=(1, 2, 3)).tolist() == [20, 0]
    assert batch["label"].tolist() == [1, 0]
    parts = data.subset([0]) + data.subset([1, 2])
    assert torch.equal(parts.__getitems__([2, 0])["features"], batch["features"])
    assert (data.counts(), data.nbytes) == ({"cat": 1, "dog": 2}, 3 * 3 * 16)
    memory = Reservoir(capacity=2)
    memory.add(batch)
    assert join(batch, memory.sample(2))["features"].shape == (4, 3, 4, 4)
