"""What must hold for every view: a new one joins by a row."""

from dataclasses import dataclass, replace

import pytest
import torch

from speechcl.views import (
    ColourJitter,
    Companding,
    Crop,
    Flip,
    FrequencyMask,
    Gray,
    Level,
    LevelShift,
    LossyCoding,
    Noise,
    NoiseFloor,
    Room,
    Speed,
    TimeMask,
    TimeShift,
    TimeStretch,
    View,
    Views,
    as_float,
    digit_views,
    image_views,
    ready_views,
    spectrogram_views,
    strong_image_views,
    waveform_views,
)
from tests.views.replay import seeded

BATCH, RATE_HZ = 12, 8000
IMAGES = torch.randint(256, (BATCH, 3, 8, 10), dtype=torch.uint8, generator=seeded(1))
FLOATS = torch.rand(BATCH, 3, 8, 10, generator=seeded(2))
FRAMES = 3 * torch.randn(BATCH, 40, 16, generator=seeded(3)) - 5
CLIPS = 0.2 * torch.randn(BATCH, 600, generator=seeded(4))

VIEWS = {
    "Flip": (Flip(), IMAGES),
    "Gray": (Gray(), IMAGES),
    "Crop": (Crop(), IMAGES),
    "Crop of floats": (Crop(), FLOATS),
    "ColourJitter": (ColourJitter(), IMAGES),
    "image_views": (image_views(), IMAGES),
    "strong_image_views": (strong_image_views(), FLOATS),
    "digit_views": (digit_views(), IMAGES[:, :1]),
    "TimeShift": (TimeShift(), FRAMES),
    "TimeMask": (TimeMask(), FRAMES),
    "FrequencyMask": (FrequencyMask(), FRAMES),
    "LevelShift": (LevelShift(), FRAMES),
    "NoiseFloor": (NoiseFloor(), FRAMES),
    "TimeStretch": (TimeStretch(), FRAMES),
    "spectrogram_views": (spectrogram_views(), FRAMES),
    "TimeShift of waveforms": (TimeShift(), CLIPS),
    "Level": (Level(), CLIPS),
    "Noise": (Noise(), CLIPS),
    "Speed": (Speed(), CLIPS),
    "Room": (Room(RATE_HZ), CLIPS),
    "Companding": (Companding(), CLIPS),
    "LossyCoding": (LossyCoding(RATE_HZ, (2000.0, 3500.0)), CLIPS),
    "waveform_views": (waveform_views(RATE_HZ), CLIPS),
}
every_view = pytest.mark.parametrize(("view", "features"), VIEWS.values(), ids=VIEWS)


@dataclass(frozen=True)
class Minus(View):
    def change(self, features, draws):
        return -features


@every_view
def test_a_view_has_the_shape_of_its_input_and_leaves_it_alone(view, features):
    before = features.clone()
    for batch in (features, features[:1]):
        seen = view(batch, seeded())
        assert seen.shape == batch.shape
        assert seen.dtype == torch.float32
        assert torch.isfinite(seen).all()
        if batch.ndim == 4:
            assert 0 <= seen.min() <= seen.max() <= 1
    assert torch.equal(features, before)


@every_view
def test_all_chance_comes_from_the_generator(view, features):
    before = torch.get_rng_state()
    seen = view(features, seeded(5))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    assert torch.equal(view(features, seeded(5)), seen)


@every_view
def test_the_next_view_from_a_generator_is_another_one(view, features):
    draws = seeded(5)
    seen = view(features, draws)
    by_chance = not isinstance(view, (Flip, Gray, Companding))
    assert torch.equal(view(features, draws), seen) != by_chance


@every_view
def test_items_do_not_meet(view, features):
    others = features.flip(0).clone()
    others[3] = features[3]
    one, other = (view(batch, seeded(6))[3] for batch in (features, others))
    assert torch.allclose(one, other, atol=1e-5)
    assert not torch.equal(view(features, seeded(6)), view(others, seeded(6)))


@every_view
def test_items_are_changed_alone_or_kept_bit_for_bit(view, features):
    some = replace(view, probability=0.5)
    draws = seeded(7)
    chosen = torch.rand(BATCH, generator=draws) < 0.5
    expected = as_float(features).clone()
    expected[chosen] = view.change(as_float(features)[chosen], draws)
    assert 0 < chosen.sum() < BATCH
    assert torch.equal(some(features, seeded(7)), expected)
    assert torch.equal(replace(view, probability=0.0)(features, seeded(7)), as_float(features))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@every_view
def test_views_are_the_same_on_another_device(view, features):
    seen = view(features.cuda(), seeded(8))
    assert seen.is_cuda
    apart = (seen.cpu() - view(features, seeded(8))).abs()
    # a number halfway between two steps of coding may go either way
    assert (apart < 1e-4).float().mean() > 0.999


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 1.0])
def test_the_share_of_changed_items_is_the_probability(probability):
    count = 10_000
    changed = int((Minus(probability=probability)(torch.ones(count, 1), seeded(9)) < 0).sum())
    spread = (count * probability * (1 - probability)) ** 0.5
    assert abs(changed - count * probability) <= 4 * spread


def test_no_items_have_no_views():
    assert Minus()(torch.ones(0, 3), seeded()).shape == (0, 3)


def test_steps_follow_one_another_from_one_generator():
    draws = seeded(3)
    torch.rand(BATCH, generator=draws)  # who is changed by any of them: all
    expected = TimeShift()(LevelShift()(FRAMES, draws), draws)
    assert torch.equal(Views([LevelShift(), TimeShift()])(FRAMES, seeded(3)), expected)
    assert torch.equal(Views()(IMAGES, seeded()), as_float(IMAGES))


def test_bytes_become_shares_of_255_and_nothing_else_changes():
    assert torch.equal(
        as_float(torch.tensor([51, 255], dtype=torch.uint8)) * 5, torch.tensor([1.0, 5])
    )
    assert as_float(FRAMES) is FRAMES


def test_ready_sets_have_names():
    assert ready_views("strong_images") == strong_image_views()
    with pytest.raises(ValueError, match="'pictures': choose among digits, images"):
        ready_views("pictures")


@pytest.mark.parametrize(
    ("view", "options", "message"),
    [
        (Flip, {"probability": 1.5}, "probability is 1.5: set it to a number from 0 to 1"),
        (Gray, {"probability": float("nan")}, "probability is nan"),
        (Views, {"probability": -0.1}, "probability is -0.1"),
        (Crop, {"scale": (1.0, 0.3)}, "scale is .1.0, 0.3.: give the lesser number first"),
        (Crop, {"scale": (0.0, 1.0)}, "scale is"),
        (Crop, {"scale": (0.5, 1.1)}, "scale is"),
        (Crop, {"ratio": (0.0, 1.0)}, "ratio is"),
        (ColourJitter, {"contrast": -0.1}, "contrast is -0.1"),
        (ColourJitter, {"saturation": 1.1}, "saturation is 1.1"),
        (TimeShift, {"most": 1.1}, "most is 1.1"),
        (TimeMask, {"most": -0.1}, "most is -0.1"),
        (FrequencyMask, {"most": 2.0}, "most is 2.0"),
        (LevelShift, {"most_db": -1.0}, "most_db is -1.0"),
        (NoiseFloor, {"low_db": 31.0}, "low_db, high_db is .31.0, 30.0.: give the lesser"),
        (TimeStretch, {"least": 1.2}, "least is 1.2"),
        (TimeMask, {"most": 1.1}, "most is 1.1"),
        (Level, {"most_db": -1.0}, "most_db is -1.0"),
        (Noise, {"high_db": 5.0}, "low_db, high_db is"),
        (Noise, {"slope": (0.0, 3.0)}, "slope is"),
        (Speed, {"most": 0.6}, "most is 0.6"),
        (Room, {"rate_hz": 0}, "rate_hz is 0"),
        (Room, {"rate_hz": 8000, "decay_s": (0.2, 0.1)}, "decay_s is"),
        (Room, {"rate_hz": 8000, "direct_db": (2.0, 1.0)}, "direct_db is"),
        (Room, {"rate_hz": 100, "decay_s": (0.01, 0.01)}, "the longest decay in samples is 1"),
        (LossyCoding, {"rate_hz": 0}, "rate_hz is 0"),
        (LossyCoding, {"rate_hz": 8000, "cut_hz": (0.0, 10.0)}, "cut_hz is"),
        (LossyCoding, {"rate_hz": 8000, "bits": (8.0, 7.0)}, "bits is"),
    ],
)
def test_senseless_numbers_are_refused_in_one_line(view, options, message):
    with pytest.raises(ValueError, match=message) as refused:
        view(**options)
    assert "\n" not in str(refused.value)
