"""Small images as their owners give them out."""

import io
import zipfile

import numpy
import pytest
import torch

from speechcl.data.class_streams import class_stream, in_groups
from speechcl.data.corpora.common import CorpusNotFound
from speechcl.data.corpora.small_images import cifar, digits, image_set, moved

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")


def png(value, side=28):
    file = io.BytesIO()
    Image.fromarray(numpy.full((side, side), value, dtype=numpy.uint8)).save(file, "PNG")
    return file.getvalue()


def archive(folder, entries):
    with zipfile.ZipFile(folder / "mnist.zip", "w") as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return folder


GOOD = {
    "train/0/5.png": png(10), "train/1/7.png": png(20), "test/0/1.png": png(30),
    "test/1/2.png": png(40), "README.txt": b"digits",
}  # fmt: skip


def test_digits_are_split_alike_for_everybody():
    found = digits()
    counts = torch.tensor([int(k) for k in found.labels]).bincount()
    test = [int(k) for k, s in zip(found.labels, found.splits, strict=True) if s == "test"]
    assert ((torch.tensor(test).bincount() / counts - 0.3).abs() < 0.01).all()
    assert found.splits == digits().splits
    assert int(found.pixels.max()) == 255
    assert torch.equal(found.pixels[:, 0], found.pixels[:, 2])


def test_digits_make_a_stream():
    data = image_set("digits", "")
    stream = class_stream(data, in_groups(data.classes.names, 2))
    assert len(stream) == 5
    assert sum(len(task.train) for task in stream) == 1257
    assert set(stream[4].train.counts()) == {"8", "9"}
    assert stream[0].train.__getitems__([0])["features"].dtype == torch.uint8


def test_repeats_are_moved_and_only_of_what_is_trained_on():
    data = image_set("digits", "", repeats=3)
    assert len(data) == 540 + 3 * 1257
    assert len({row["ID"] for row in data.rows}) == len(data)
    assert sum(row["split"] == "test" for row in data.rows) == 540
    first = [k for k, row in enumerate(data.rows[:1797]) if row["split"] == "train"]
    again = data.features[1797 : 1797 + 1257]
    assert not torch.equal(again, data.features[first])
    assert torch.equal(data.labels[1797 : 1797 + 1257], data.labels[first])
    assert torch.equal(data.features, image_set("digits", "", repeats=3).features)


def test_images_are_moved_a_little():
    picture = torch.zeros(200, 3, 64, 64, dtype=torch.uint8)
    picture[:, :, 28:36, 28:36] = 255
    found = moved(picture, torch.Generator().manual_seed(0))[:, 0].float()
    place = torch.arange(64.0)
    centre = torch.stack([(found.sum(k) * place).sum(1) / found.sum((1, 2)) for k in (1, 2)], 1)
    off = centre - 31.5
    assert 4.0 < float(off.abs().max()) < 0.08 * 64 * 1.1 + 1
    area = found.sum((1, 2)) / 255
    assert 64 / 1.1**2 * 0.9 < float(area.min()) < 60
    assert 68 < float(area.max()) < 64 / 0.9**2 * 1.1


def test_an_archive_of_digits(tmp_path):
    data = image_set("mnist", archive(tmp_path, GOOD))
    assert data.features[:, 0, 0, 0].tolist() == [30, 40, 10, 20]
    assert [row["split"] for row in data.rows] == ["test", "test", "train", "train"]
    assert data.classes.names == ("0", "1")
    assert list(tmp_path.iterdir()) == [tmp_path / "mnist.zip"]  # nothing is unpacked


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"train/0/1.png": b"no picture"}, "mnist.zip.*get the archive again"),
        ({"train/0/1.png": png(1, 30)}, "not 28 x 28"),
        ({"train/0/1.png": b"0" * (1 << 21)}, "too many"),
        ({"../../train/0/1.png": png(1)}, "holds no train"),
        ({}, "holds no train"),
    ],
)
def test_wrong_archives_are_refused(entries, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        image_set("mnist", archive(tmp_path, entries))


def test_no_archive_and_no_zip_are_refused(tmp_path):
    with pytest.raises(CorpusNotFound, match="0 zip files"):
        image_set("mnist", tmp_path)
    (tmp_path / "a.zip").write_bytes(b"PK but no more")
    with pytest.raises(ValueError, match="get the archive again"):
        image_set("mnist", tmp_path)


def build_cifar(folder, classes):
    place = folder / ("cifar-10-batches-bin" if classes == 10 else "cifar-100-binary")
    place.mkdir()
    names = "\n".join(f"thing_{k}" for k in range(classes)) + "\n\n"
    (place / ("batches.meta.txt" if classes == 10 else "fine_label_names.txt")).write_text(names)
    parts = [f"data_batch_{k}.bin" for k in range(1, 6)] if classes == 10 else ["train.bin"]
    for number, part in enumerate([*parts, "test_batch.bin" if classes == 10 else "test.bin"]):
        head = [number % classes] if classes == 10 else [0, number + 7]
        pixels = numpy.arange(3072) // 1024 * 50 + number
        (place / part).write_bytes(bytes(head) + pixels.astype(numpy.uint8).tobytes())
    return folder


@pytest.mark.parametrize("classes", [10, 100])
def test_cifar_in_its_binary_version(classes, tmp_path):
    found = cifar(build_cifar(tmp_path, classes), classes)
    last = len(found.labels) - 1
    assert found.pixels.shape == (last + 1, 3, 32, 32)
    assert found.splits == ["train"] * last + ["test"]
    assert found.labels == [f"thing_{k if classes == 10 else k + 7}" for k in range(last + 1)]
    assert found.pixels[last, :, 0, 0].tolist() == [last, last + 50, last + 100]


def test_cifar_that_is_not_there_or_cut_short(tmp_path):
    with pytest.raises(CorpusNotFound, match="binary version of CIFAR-10 "):
        image_set("cifar10", tmp_path)
    place = build_cifar(tmp_path, 10) / "cifar-10-batches-bin"
    (place / "data_batch_3.bin").write_bytes(b"1" * 3000)
    with pytest.raises(ValueError, match=r"data_batch_3.bin.*no whole images"):
        image_set("cifar10", tmp_path)
    (place / "data_batch_3.bin").write_bytes(bytes([99]) + bytes(3072))
    with pytest.raises(ValueError, match="label 99 has no name"):
        image_set("cifar10", tmp_path)
    (place / "data_batch_3.bin").unlink()
    with pytest.raises(CorpusNotFound, match="unpack the archive again"):
        image_set("cifar10", tmp_path)


def build_tiny(folder):
    place = folder / "tiny-imagenet-200"
    (place / "val" / "images").mkdir(parents=True)
    (place / "wnids.txt").write_text("n1\nn2\n")
    for name, value in (("n1", 50), ("n2", 200)):
        (place / "train" / name / "images").mkdir(parents=True)
        for number in range(2):
            picture = Image.fromarray(numpy.full((64, 64), value, dtype=numpy.uint8))
            picture.save(place / "train" / name / "images" / f"{name}_{number}.JPEG")
    picture.save(place / "val" / "images" / "val_0.JPEG")
    (place / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn2\t0\t0\t62\t62\n")
    return place


def test_tiny_imagenet(tmp_path):
    place = build_tiny(tmp_path)
    data = image_set("tiny_imagenet", tmp_path)
    assert data.features.shape == (5, 3, 64, 64)
    assert [row["label"] for row in data.rows] == ["n1", "n1", "n2", "n2", "n2"]
    assert [row["split"] for row in data.rows].count("test") == 1
    assert abs(int(data.features[4, 0, 9, 9]) - 200) < 5
    (place / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn7\t0\t0\t62\t62\n")
    with pytest.raises(ValueError, match="line 1 has no class"):
        image_set("tiny_imagenet", tmp_path)


def test_other_names_and_repeats_are_refused(tmp_path):
    with pytest.raises(ValueError, match="choose among digits, mnist, cifar10"):
        image_set("imagenet", tmp_path)
    with pytest.raises(ValueError, match="at least once"):
        image_set("digits", "", repeats=0)
    with pytest.raises(CorpusNotFound, match=r"wnids.txt"):
        image_set("tiny_imagenet", tmp_path)
