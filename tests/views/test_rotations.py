"""Versions that become classes of their own, against NumPy item by item."""

import numpy as np
import pytest
import torch

from speechcl.views import Rotations, spectrogram_flips
from tests.views.replay import seeded


@pytest.mark.parametrize("count", [1, 4, 16])
@pytest.mark.parametrize("size", [4, 5])
def test_rotations_equal_a_loop_over_items(count, size):
    batch = torch.rand(3, 2, size, size, generator=seeded())
    found = Rotations(count)(batch)
    assert found.shape == (count * 3, 2, size, size)
    half = (size + 1) // 2
    for group in range(count):
        inner, turn = divmod(group, 4)
        for item in range(3):
            image = batch[item].numpy().copy()
            if inner in (1, 3):
                image[:, :, :half] = np.rot90(image[:, :, :half], 2, (1, 2))
            if inner in (2, 3):
                image[:, :, half:] = np.rot90(image[:, :, half:], 2, (1, 2))
            image = np.rot90(image, (0, 2, 1, 3)[turn], (1, 2))
            assert np.array_equal(found[group * 3 + item].numpy(), image)


@pytest.mark.parametrize(
    ("versions", "item"),
    [(Rotations(16), torch.rand(1, 3, 6, 6)), (spectrogram_flips(4), torch.rand(1, 6, 5))],
)
def test_all_versions_of_an_item_differ_and_the_first_is_the_item(versions, item):
    found = versions(item)
    assert torch.equal(found[:1], item)
    assert len(found.unique(dim=0)) == len(found)
    assert torch.equal(versions(item), found)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_flips_equal_a_loop_over_items(count):
    batch = torch.rand(3, 5, 4, generator=seeded())
    found = spectrogram_flips(count)(batch)
    assert len(found) == 3 * count
    for group, turned in enumerate([np.array, np.flipud, np.fliplr, np.rot90][:count]):
        for item in range(3):
            clip = batch[item].numpy()
            expected = np.rot90(clip, 2) if turned is np.rot90 else turned(clip)
            assert np.array_equal(found[group * 3 + item].numpy(), expected)


def test_bytes_stay_bytes_and_the_input_stays_as_it_is():
    batch = torch.randint(256, (2, 3, 4, 4), dtype=torch.uint8)
    before = batch.clone()
    assert Rotations(16)(batch).dtype == torch.uint8
    assert torch.equal(batch, before)


@pytest.mark.parametrize("count", [0, 2, 8])
def test_other_counts_are_refused(count):
    with pytest.raises(ValueError, match=f"count is {count}: images have 1, 4 or 16 rotations"):
        Rotations(count)


@pytest.mark.parametrize("count", [0, 3, 16])
def test_other_counts_of_flips_are_refused(count):
    with pytest.raises(ValueError, match=f"count is {count}: spectrograms have 1, 2 or 4 flips"):
        spectrogram_flips(count)


@pytest.mark.parametrize("shape", [(2, 3, 4, 6), (2, 4, 4)])
def test_only_square_images_can_be_turned_by_quarters(shape):
    with pytest.raises(ValueError, match="cannot be turned by quarters: give .batch, channels"):
        Rotations(4)(torch.zeros(shape))
    assert Rotations(1)(torch.zeros(shape)).shape == shape
