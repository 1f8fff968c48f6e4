"""Views of spectrograms, against loops over items."""

import math

import numpy as np
import pytest
import torch

from speechcl.backbones.filterbanks import LogMel
from speechcl.views import (
    FrequencyMask,
    LevelShift,
    NoiseFloor,
    TimeMask,
    TimeShift,
    TimeStretch,
    spectrogram_views,
)
from tests.views.replay import replay, seeded


def clips(count=6, frames=50, bands=8):
    return 3 * torch.randn(count, frames, bands, generator=seeded(1)) - 5


def test_a_shift_rolls_each_clip_by_its_own_frames():
    batch = clips()
    seen = TimeShift(0.2)(batch, seeded(2))
    _, shares = replay(2, 6, (-0.2, 0.2))
    moves = [round(50 * share) for share in shares]
    assert min(moves) < 0 < max(moves)
    for clip, found, move in zip(batch, seen, moves, strict=True):
        assert torch.equal(found, clip.roll(move, 0))


def hidden(size, most, seed, count):
    """Return first and width of every mask."""
    _, widths, firsts = replay(seed, count, (0, 1), (0, 1))
    widths = [int(width * (int(most * size) + 1)) for width in widths]
    firsts = [int(first * (size - w + 1)) for first, w in zip(firsts, widths, strict=True)]
    return zip(firsts, widths, strict=True)


def test_masks_equal_a_loop():
    batch = clips()
    in_time, in_frequency = (mask(0.5)(batch, seeded(3)) for mask in (TimeMask, FrequencyMask))
    for number, (first, width) in enumerate(hidden(50, 0.5, 3, 6)):
        expected = batch[number].clone()
        expected[first : first + width] = batch[number].mean()
        assert torch.allclose(in_time[number], expected)
    for number, (first, width) in enumerate(hidden(8, 0.5, 3, 6)):
        expected = batch[number].clone()
        expected[:, first : first + width] = batch[number].mean(1, keepdim=True)
        assert torch.allclose(in_frequency[number], expected)


@pytest.mark.parametrize(("most", "widest"), [(0.2, 2), (0.29, 2), (0.3, 3), (1.0, 10), (0.0, 0)])
@pytest.mark.parametrize(("mask", "axis"), [(TimeMask, 1), (FrequencyMask, 2)])
def test_widths_go_evenly_from_none_to_the_share(mask, axis, most, widest):
    count = 4000
    shape = (count, 10, 3) if axis == 1 else (count, 3, 10)
    batch = torch.randn(shape, generator=seeded(4))
    masked = (mask(most)(batch, seeded(5)) != batch).all(3 - axis)  # (count, 10)
    widths = masked.sum(1).bincount(minlength=widest + 1)
    assert len(widths) == widest + 1
    share = 1 / (widest + 1)
    assert (widths - count * share).abs().max() <= 4 * (count * share * (1 - share)) ** 0.5
    edges = (masked[:, 1:] != masked[:, :-1]).sum(1)
    assert edges.max() <= 2  # one stretch each
    if widest:
        assert masked[:, 0].any()
        assert masked[:, -1].any()


def test_a_level_shift_is_what_a_gain_of_the_waveform_does():
    wave = torch.randn(1, 4000, generator=seeded(6))
    log_mel = LogMel(normalise=False)
    seen = LevelShift(6.0)(log_mel(wave).repeat(5, 1, 1), seeded(7))
    _, gains_db = replay(7, 5, (-6.0, 6.0))
    for found, gain_db in zip(seen, gains_db, strict=True):
        assert torch.allclose(found, log_mel(wave * 10 ** (gain_db / 20))[0], atol=1e-3)


def test_a_noise_floor_adds_energy_a_clip_at_a_time():
    batch = clips()
    seen = NoiseFloor(10.0, 30.0)(batch, seeded(8)).double()
    _, below_db = replay(8, 6, (10.0, 30.0))
    for clip, found, db in zip(batch.double(), seen, below_db, strict=True):
        energy = clip.exp()
        assert torch.allclose(found.exp(), energy + energy.mean() * 10 ** (-db / 10), rtol=1e-4)


def test_a_stretch_equals_interpolation_band_by_band():
    batch = clips()
    seen = TimeStretch(0.5)(batch, seeded(9))
    _, parts, starts = replay(9, 6, (0.5, 1), (0, 1))
    for clip, found, part, start in zip(batch, seen, parts, starts, strict=True):
        place = (1 - part) * start * 49 + part * np.arange(50)
        for band in range(8):
            expected = np.interp(place, np.arange(50), clip[:, band])
            assert np.allclose(found[:, band], expected, atol=2e-4)


@pytest.mark.parametrize(
    "view",
    [TimeShift(), FrequencyMask(1.0), LevelShift(), TimeStretch()],
    ids=lambda view: type(view),
)
def test_frames_of_silence_stay_alike_in_all_bands(view):
    batch = clips(count=50)
    batch[:, 20:] = -13.8
    seen = view(batch, seeded(11))
    even = (seen.amax(2) - seen.amin(2) < 1e-5).sum(1)
    assert even.min() >= 20


def test_the_ready_set_keeps_words_the_way_round_they_are():
    ramp = torch.linspace(0, 2, 200).view(1, -1, 1) + torch.linspace(0, 2, 40)
    seen = spectrogram_views()(ramp.repeat(50, 1, 1), seeded(10))
    rising = [(seen.diff(dim=axis) > 0).float().mean((1, 2)) for axis in (1, 2)]
    assert min(float(share.min()) for share in rising) > 0.5
    assert seen.max() < 4 + math.log(10) * (0.6 + 0.05)  # by 6 dB at most, and little noise
