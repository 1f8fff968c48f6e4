"""Views of images, against a loop over pixels."""

import math

import pytest
import torch

from speechcl.views import ColourJitter, Crop, Flip, Gray, image_views, strong_image_views
from tests.views.replay import replay, seeded

LUMA = (0.299, 0.587, 0.114)


def images(count=4, height=5, width=7, channels=3):
    return torch.rand(count, channels, height, width, generator=seeded(1))


def at(image, y, x):
    """Interpolate between the four pixels around a place, the border repeating outside."""
    height, width = image.shape[1:]
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = int(y), int(x)
    below, right = min(top + 1, height - 1), min(left + 1, width - 1)
    upper = image[:, top, left] * (1 - (x - left)) + image[:, top, right] * (x - left)
    lower = image[:, below, left] * (1 - (x - left)) + image[:, below, right] * (x - left)
    return upper * (1 - (y - top)) + lower * (y - top)


def test_a_crop_equals_a_loop_over_its_pixels():
    batch = images(count=8)
    crop = Crop(scale=(0.3, 1.0), ratio=(0.5, 2.0))
    seen = crop(batch, seeded(2))
    _, areas, log_ratios, lefts, tops = replay(
        2, 8, (0.3, 1.0), (math.log(0.5), math.log(2.0)), (0, 1), (0, 1)
    )
    cut = 0
    for number, image in enumerate(batch):
        ratio = math.exp(log_ratios[number])
        wide, high = (areas[number] * ratio) ** 0.5, (areas[number] / ratio) ** 0.5
        cut += max(wide, high) > 1
        wide, high = min(wide, 1.0), min(high, 1.0)
        left, top = lefts[number] * (1 - wide) * 7, tops[number] * (1 - high) * 5  # of the part
        for row in range(5):
            for column in range(7):
                y, x = top + (row + 0.5) * high - 0.5, left + (column + 0.5) * wide - 0.5
                found = seen[number, :, row, column]
                assert torch.allclose(found, at(image, y, x), atol=1e-5)
    assert 0 < cut < 8


def test_a_crop_of_a_ramp_covers_the_area_that_was_drawn():
    ramp = torch.linspace(0, 1, 101).expand(300, 1, 101, 101)
    area_of = []
    for axes in ((-1,), (-2,)):
        picture = ramp if axes == (-1,) else ramp.mT
        seen = Crop((0.3, 0.7))(picture, seeded(3))
        area_of.append((seen.amax((1, 2, 3)) - seen.amin((1, 2, 3))).clamp(0, 1))
    area = area_of[0] * area_of[1]
    assert 0.28 < area.min() < 0.31
    assert 0.69 < area.max() < 0.72
    assert float(area.mean()) == pytest.approx(0.5, abs=0.02)


def test_a_mirror_and_gray_are_what_they_say():
    batch = torch.tensor([[[[10, 20, 30]], [[0, 0, 100]], [[50, 0, 0]]]], dtype=torch.uint8)
    assert torch.equal(Flip()(batch, seeded()) * 255, batch.flip(3).float())
    gray = [0.299 * 10 + 0.114 * 50, 0.299 * 20, 0.299 * 30 + 0.587 * 100]
    seen = Gray()(batch, seeded())[0] * 255
    for channel in seen:
        assert channel[0].tolist() == pytest.approx(gray, abs=1e-4)


def test_one_channel_is_gray_already():
    batch = images(channels=1)
    assert torch.equal(Gray()(batch, seeded()), batch)
    assert ColourJitter()(batch, seeded()).shape == batch.shape


def test_jitter_equals_a_loop():
    batch = images()
    seen = ColourJitter(0.6, 0.5, 0.4)(batch, seeded(4))
    _, *factors = replay(4, 4, (0.4, 1.6), (0.5, 1.5), (0.6, 1.4))
    for number, image in enumerate(batch):
        bright, contrast, colour = (one[number] for one in factors)
        x = (image * bright).clamp(0, 1)
        mean = sum(share * channel.mean() for share, channel in zip(LUMA, x, strict=True))
        x = (contrast * x + (1 - contrast) * mean).clamp(0, 1)
        gray = sum(share * channel for share, channel in zip(LUMA, x, strict=True))
        x = (colour * x + (1 - colour) * gray).clamp(0, 1)
        assert torch.allclose(seen[number], x, atol=1e-5)


def test_the_ready_sets_are_those_of_the_papers():
    flip, gray, crop = image_views().steps
    assert (flip, gray) == (Flip(probability=0.5), Gray(probability=0.25))
    assert crop == Crop((0.3, 1.0), (3 / 4, 4 / 3))
    low, high = strong_image_views().steps[0].scale
    assert (1 - low) + (1 - high) == pytest.approx(0.8)
    kinds = [type(step) for step in strong_image_views().steps]
    assert kinds == [Crop, Flip, ColourJitter, Gray]
