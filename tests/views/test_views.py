"""Views of items: what they do to each, what they leave, and where their chance comes from."""

import math

import pytest
import torch
from torch.nn import functional

from speechcl.views import (
    ColourJitter,
    Companding,
    Crop,
    Flip,
    FrequencyMask,
    Gray,
    Level,
    LevelShift,
    Noise,
    NoiseFloor,
    Room,
    Rotations,
    Shift,
    Speed,
    TimeMask,
    TimeShift,
    TimeStretch,
    as_float,
    digit_views,
    image_views,
    ready_views,
    spectrogram_flips,
    spectrogram_views,
    strong_image_views,
    waveform_views,
)

IMAGES = [Flip(), Gray(), Crop(), ColourJitter(), image_views(), strong_image_views()]
SPECTROGRAMS = [
    TimeShift(), TimeMask(), FrequencyMask(), LevelShift(), NoiseFloor(), TimeStretch(),
    spectrogram_views(),
]  # fmt: skip
WAVEFORMS = [
    Shift(), Level(), Noise(), Speed(), Room(8000), Companding(), waveform_views(8000)
]  # fmt: skip


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def items(kind, count=6):
    generator = draws(9)
    if kind == "images":
        return torch.rand(count, 3, 12, 12, generator=generator)
    if kind == "spectrograms":
        return torch.randn(count, 30, 20, generator=generator)
    return 0.2 * torch.randn(count, 1000, generator=generator)


CASES = [
    pytest.param(view, kind, id=f"{kind}-{type(view).__name__}-{place}")
    for kind, views in
    (("images", IMAGES), ("spectrograms", SPECTROGRAMS), ("waveforms", WAVEFORMS))
    for place, view in enumerate(views)
]  # fmt: skip


@pytest.mark.parametrize(("view", "kind"), CASES)
def test_a_view_is_a_new_item_of_the_same_shape_and_a_matter_of_the_generator(view, kind):
    x = items(kind)
    before = x.clone()
    found = view(x, draws(1))
    assert torch.equal(x, before)
    assert (found.shape, found.dtype) == (x.shape, torch.float32)
    assert torch.isfinite(found).all()
    assert torch.equal(found, view(x, draws(1)))
    assert not torch.equal(found, x)
    assert view(x[:1], draws(1)).shape == x[:1].shape
    state = torch.get_rng_state()
    view(x, draws(2))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("view", "kind"), CASES)
def test_an_item_is_changed_alike_whatever_the_others_are(view, kind):
    x, other = items(kind), items(kind).flip(0)
    other[2] = x[2]
    assert torch.allclose(view(x, draws(1))[2], view(other, draws(1))[2], atol=1e-6)


@pytest.mark.parametrize("view", [Flip, LevelShift, Companding])
def test_a_share_of_items_is_changed(view):
    x = items("images" if view is Flip else "spectrograms" if view is LevelShift else "waveforms")
    x = x[:1].repeat(2000, *[1] * (x.ndim - 1))
    found = view(probability=0.3)(x, draws())
    share = float((found != x).flatten(1).any(1).float().mean())
    assert abs(share - 0.3) < 4.5 * math.sqrt(0.3 * 0.7 / 2000)
    assert torch.equal(view(probability=0.0)(x, draws()), x)


@pytest.mark.parametrize("view", [Flip, Gray, TimeShift, Noise])
def test_no_probability_is_refused(view):
    with pytest.raises(ValueError, match="from 0 to 1"):
        view(probability=1.5)


def test_bytes_become_numbers_from_0_to_1():
    x = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    for views in (image_views(), strong_image_views(), digit_views()):
        found = views(x, draws())
        assert found.dtype == torch.float32
        assert 0 <= float(found.min()) <= float(found.max()) <= 1
    assert torch.equal(as_float(x), x.float() / 255)


def test_a_crop_is_the_part_that_it_says():
    """A ramp shows where a crop is and how wide: it stays a ramp, of a smaller step."""
    ramp = torch.linspace(0, 1, 64).expand(200, 3, 64, 64)
    found = Crop((0.3, 1.0))(ramp, draws())[:, 0, 32]
    step = (found[:, 48] - found[:, 16]) / 32
    width = step * 63
    assert 0.99 * math.sqrt(0.3 * 3 / 4) < float(width.min()) < 0.6
    assert 0.9 < float(width.max()) <= 1.001
    middle = torch.stack([found[:, 31], found[:, 32]]).mean(0)
    low = middle - width / 2
    assert float(low.min()) > -0.02
    assert float((middle + width / 2).max()) < 1.02
    areas = width * _height(Crop((0.3, 1.0)))
    assert float(areas.min()) > 0.28


def _height(crop):
    ramp = torch.linspace(0, 1, 64)[:, None].expand(200, 3, 64, 64)
    found = crop(ramp, draws())[:, 0, :, 32]
    return (found[:, 48] - found[:, 16]) / 32 * 63


@pytest.mark.parametrize("wrong", [{"scale": (0.0, 1.0)}, {"scale": (0.9, 0.3)}, {"ratio": (2, 1)}])
def test_empty_ranges_are_refused(wrong):
    with pytest.raises(ValueError, match="lesser number first"):
        Crop(**wrong)


def test_jitter_of_one_kind_is_what_its_name_says():
    x = items("images")
    bright = ColourJitter(0.4, 0.0, 0.0)(0.5 * x, draws()) / (0.5 * x)
    assert (bright.flatten(1).amax(1) - bright.flatten(1).amin(1)).max() < 1e-4
    gray = x.mean(1, keepdim=True).expand_as(x)
    assert torch.allclose(ColourJitter(0.0, 0.0, 0.4)(gray, draws()), gray, atol=1e-6)
    contrast = ColourJitter(0.0, 0.4, 0.0)(0.25 + 0.5 * x, draws())
    assert (contrast.mean((1, 2, 3)) - (0.25 + 0.5 * x).mean((1, 2, 3))).abs().max() < 0.02


@pytest.mark.parametrize("view", [TimeShift(0.3), Shift(0.3)])
def test_shifts_lose_nothing(view):
    x = items("spectrograms") if isinstance(view, TimeShift) else items("waveforms")
    found = view(x, draws())
    size = x.shape[1]
    for one, other in zip(x, found, strict=True):
        by = [k for k in range(size) if torch.equal(one.roll(k, 0), other)]
        assert len(by) == 1
        assert min(by[0], size - by[0]) <= round(0.3 * size)


@pytest.mark.parametrize(("view", "axis"), [(TimeMask(0.4), 0), (FrequencyMask(0.4), 1)])
def test_a_mask_is_one_stretch_of_at_most_its_width(view, axis):
    x = items("spectrograms", 300)
    found = view(x, draws())
    widths = set()
    for one, other in zip(x, found, strict=True):
        hidden = (one != other).any(1 - axis).nonzero().flatten()
        if len(hidden):
            assert int(hidden[-1] - hidden[0]) + 1 == len(hidden)
            mean = one.mean() if axis == 0 else one.mean(1, keepdim=True)
            inside = other.index_select(axis, hidden)
            assert torch.allclose(inside, mean.expand_as(inside), atol=1e-6)
        widths.add(len(hidden))
    assert widths == set(range(round(0.4 * x.shape[1 + axis]) + 1))


def test_silence_stays_even():
    """Frames that are alike in all bands count as silence, and no view makes sound of them."""
    x = items("spectrograms")
    x[:, 20:] = -13.8
    for view in SPECTROGRAMS[:-2]:
        found = view(x, draws())
        assert int(((found.amax(2) - found.amin(2)) < 1e-5).sum()) >= 6 * 10


def test_noise_is_as_far_below_as_it_says():
    x = torch.zeros(1, 40, 20)
    found = NoiseFloor(10.0, 10.0)(x, draws())
    assert torch.allclose(found, torch.full_like(x, math.log(1.1)), atol=1e-4)
    wave = torch.sin(torch.arange(20_000.0))[None]
    off = Noise(15.0, 15.0)(wave, draws()) - wave
    assert float(10 * (wave.square().mean() / off.square().mean()).log10()) == pytest.approx(
        15, abs=0.2
    )


def test_stretching_is_interpolation():
    ramp = torch.arange(50.0).view(1, 50, 1).expand(40, 50, 3)
    found = TimeStretch(0.5)(ramp, draws())
    steps = found.diff(dim=1)
    assert torch.allclose(steps, steps[:, :1].expand_as(steps), atol=1e-3)
    assert 0.45 < float(steps.min()) < 0.6
    assert float(found.min()) >= 0
    assert float(found.max()) <= 49


def test_speed_moves_the_pitch():
    time_s = torch.arange(8000) / 8000
    tone = torch.sin(2 * torch.pi * 200 * time_s)[None].repeat(20, 1)
    found = Speed(0.1)(tone, draws())[:, :7000]
    peak = torch.fft.rfft(found, 8000).abs().argmax(1)
    assert 180 <= int(peak.min()) < 190
    assert 210 < int(peak.max()) <= 220


def test_a_room_is_a_convolution():
    room = Room(8000, direct_db=(9.0, 9.0))
    click = functional.one_hot(torch.tensor([0]), 2000).float()
    response = room(click, draws())
    response = response / response[0, 0]
    x = items("waveforms", 1)
    x = functional.pad(x, (0, 1000))
    slow = torch.zeros(1, 2000)
    for at in range(2000):
        slow[0, at] = (response[0, : at + 1].flip(0) * x[0, : at + 1]).sum()
    found = room(x, draws())
    slow = slow * found.norm() / slow.norm()
    assert torch.allclose(found, slow, atol=1e-4)
    assert float(found.norm() / x.norm()) == pytest.approx(1.0, abs=1e-4)


def test_a_silent_clip_stays_silent():
    silent = torch.zeros(2, 1000)
    for view in (Noise(), Room(8000), Level(), waveform_views(8000)):
        assert not view(silent, draws()).any()


def test_levels_of_a_telephone():
    x = torch.linspace(-1, 1, 4001)[None]
    found = Companding()(x, draws())
    assert len(found.unique()) <= 256
    assert ((found - x).abs() <= 0.022 * x.abs() + 1e-3).all()


@pytest.mark.parametrize("count", [1, 4, 16])
def test_rotations_are_all_different_and_the_image_is_first(count):
    x = items("images", 3)
    found = Rotations(count)(x).view(count, 3, 3, 12, 12)
    assert torch.equal(found[0], x)
    for k in range(3):
        assert len({tuple(one[k].flatten().tolist()) for one in found}) == count
        ordered = [one[k].flatten().sort().values for one in found]
        assert all(torch.equal(one, ordered[0]) for one in ordered)


def test_another_number_of_rotations_is_refused():
    with pytest.raises(ValueError, match="1, 4 or 16"):
        Rotations(8)


def test_flips_of_spectrograms():
    x = items("spectrograms", 2)
    found = spectrogram_flips(4)(x).view(4, 2, 30, 20)
    for one, expected in zip(found, (x, x.flip(1), x.flip(2), x.flip(1).flip(2)), strict=True):
        assert torch.equal(one, expected)


def test_unknown_views_are_refused():
    with pytest.raises(ValueError, match="digits, images"):
        ready_views("pictures")
