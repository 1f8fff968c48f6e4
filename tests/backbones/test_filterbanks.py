"""Filterbanks against a slow numpy version; what normalising and masking do and leave alone."""

import math

import numpy
import pytest
import torch

from speechcl.backbones.filterbanks import LinearFilterbank, LogMel, SpecMask

both_banks = pytest.mark.parametrize("bank", [LinearFilterbank, LogMel])


def noise(seed, samples, level=0.1):
    return level * torch.randn(2, samples, generator=torch.Generator().manual_seed(seed))


def mel(hertz):
    return 2595 * math.log10(1 + hertz / 700)


def edges_of(bank, filters, top_hz):
    if bank is LinearFilterbank:
        return [top_hz * k / (filters + 1) for k in range(filters + 2)]
    mels = [mel(top_hz) * k / (filters + 1) for k in range(filters + 2)]
    return [700 * (10 ** (one / 2595) - 1) for one in mels]


def slow_bands(x, edges, n_fft, window, hop):
    """One clip in float64, step by step; an array (frames, filters)."""
    x = numpy.asarray(x, dtype=numpy.float64)
    padded = numpy.concatenate([numpy.zeros(n_fft // 2), x, numpy.zeros(n_fft // 2)])
    first = (n_fft - window) // 2  # the window stands in the middle of the transform
    tall = numpy.zeros(n_fft)
    for i in range(window):
        tall[first + i] = 0.5 - 0.5 * math.cos(2 * math.pi * i / window)
    bins = numpy.arange(n_fft // 2 + 1) * 16000 / n_fft
    frames = []
    for start in range(0, len(x) + 1, hop):
        power = numpy.abs(numpy.fft.rfft(padded[start : start + n_fft] * tall)) ** 2
        logs = []
        for low, mid, high in zip(edges, edges[1:], edges[2:], strict=False):
            triangle = numpy.minimum((bins - low) / (mid - low), (high - bins) / (high - mid))
            logs.append(math.log((numpy.maximum(triangle, 0) * power).sum() + 1e-6))
        frames.append(logs)
    return numpy.array(frames)


@both_banks
@pytest.mark.parametrize(
    ("filters", "top_hz", "n_fft", "window"), [(80, 8000, 1024, 400), (20, 4000, 512, 320)]
)
def test_equals_the_slow_recipe(bank, filters, top_hz, n_fft, window):
    wave = noise(0, 2000)
    options = {"filters": filters, "top_hz": top_hz, "n_fft": n_fft, "window": window}
    kept = bank(**options, normalise=False)(wave)
    centred = bank(**options)(wave)
    for clip, one, other in zip(wave, kept, centred, strict=True):
        slow = slow_bands(clip, edges_of(bank, filters, top_hz), n_fft, window, hop=160)
        # logs of float32 powers, of which some are small: a few 1e-5
        numpy.testing.assert_allclose(one.numpy(), slow, rtol=0, atol=1e-3)
        numpy.testing.assert_allclose(other.numpy(), slow - slow.mean(0), rtol=0, atol=1e-3)


@both_banks
def test_default_shape(bank):
    assert bank()(torch.zeros(1, 64600)).shape == (1, 404, 80)
    assert bank(filters=40)(torch.zeros(3, 100)).shape == (3, 1, 40)


@both_banks
def test_normalising_takes_a_fixed_gain_away_and_its_switch_keeps_it(bank):
    wave = noise(1, 8000)
    kept, centred = bank(normalise=False), bank()
    shift = kept(3 * wave) - kept(wave)
    torch.testing.assert_close(shift, torch.full_like(shift, 2 * math.log(3)), rtol=0, atol=2e-3)
    torch.testing.assert_close(centred(3 * wave), centred(wave), rtol=0, atol=2e-3)


@both_banks
def test_clips_of_a_batch_do_not_meet(bank):
    wave = noise(2, 3000)
    torch.testing.assert_close(bank()(wave)[1:], bank()(wave[1:]))


@both_banks
def test_silence_is_finite_and_nothing_is_learnt(bank):
    front_end = bank()
    assert front_end(torch.zeros(1, 3000)).isfinite().all()
    assert not list(front_end.parameters())


@both_banks
@pytest.mark.filterwarnings("ignore:At least one mel filterbank")
def test_filters_without_a_frequency_are_refused(bank):
    with pytest.raises(ValueError, match="of 80 filters hold no frequency"):
        bank(n_fft=64, window=64)
    with pytest.raises(ValueError, match="no more than half of rate_hz"):
        bank(rate_hz=8000, top_hz=8000)


def frames_of(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_masks_hide_whole_stripes_of_announced_width_with_the_mean():
    frames = frames_of(0, 300, 90, 30)
    torch.manual_seed(0)
    masked = SpecMask(bands=5, frames=20, masks=1)(frames)
    hidden = masked != frames
    assert (masked.flatten(1) - frames.mean((1, 2))[:, None])[hidden.flatten(1)].abs().max() == 0
    bands, times = hidden.all(1), hidden.all(2)
    assert torch.equal(hidden, times[:, :, None] | bands[:, None])
    for stripes, widest in ((bands, 5), (times, 20)):
        widths = stripes.sum(1)
        assert set(widths.tolist()) == set(range(widest + 1))
        assert ((stripes[:, 1:] & ~stripes[:, :-1]).sum(1) + stripes[:, 0] <= 1).all(), "one stripe"
        assert stripes.any(0).all(), "and every place is reached"


def test_masks_differ_from_clip_to_clip_and_follow_the_seed():
    frames = frames_of(1, 1, 90, 30).repeat(20, 1, 1)
    torch.manual_seed(0)
    first = SpecMask()(frames)
    torch.manual_seed(0)
    assert torch.equal(first, SpecMask()(frames))
    assert len({one.numpy().tobytes() for one in first}) == 20


def test_nothing_is_masked_in_evaluation_and_masks_fit_short_clips():
    frames = frames_of(2, 2, 10, 8)
    assert torch.equal(SpecMask().eval()(frames), frames)
    assert SpecMask()(frames).shape == frames.shape
