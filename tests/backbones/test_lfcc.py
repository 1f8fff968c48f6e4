"""LFCC against a slow numpy version of the baseline's recipe (detectors.md, section 1.1)."""

import math

import numpy
import pytest
import torch

from speechcl.backbones import LFCC, LFCCStatistics, statistics

EPS = float(numpy.finfo(numpy.float32).eps)


def noise(seed, samples, level=0.1):
    return level * torch.randn(2, samples, generator=torch.Generator().manual_seed(seed))


def slow_lfcc(
    x, n_fft=1024, window=320, hop=160, filters=20, coefficients=20, pre_emphasis=0.97, top_hz=8000
):
    """One clip in float64, step by step; an array (frames, 3 * coefficients)."""
    x = numpy.asarray(x, dtype=numpy.float64)
    y = x.copy()
    for t in range(1, len(x)):
        y[t] = x[t] - pre_emphasis * x[t - 1]
    padded = numpy.concatenate([numpy.zeros(n_fft // 2), y, numpy.zeros(n_fft // 2)])
    hamming = [0.54 - 0.46 * math.cos(2 * math.pi * i / window) for i in range(window)]
    first = (n_fft - window) // 2  # the window stands in the middle of the transform
    tall = numpy.zeros(n_fft)
    tall[first : first + window] = hamming
    bins = numpy.arange(n_fft // 2 + 1) * 16000 / n_fft
    edges = [top_hz * k / (filters + 1) for k in range(filters + 2)]
    frames = []
    for start in range(0, len(x) + 1, hop):
        power = numpy.abs(numpy.fft.rfft(padded[start : start + n_fft] * tall)) ** 2
        logs = []
        for low, mid, high in zip(edges, edges[1:], edges[2:], strict=False):
            triangle = numpy.minimum((bins - low) / (mid - low), (high - bins) / (high - mid))
            logs.append(math.log10((numpy.maximum(triangle, 0) * power).sum() + EPS))
        cepstrum = []
        for k in range(coefficients):
            scale = math.sqrt((1 if k == 0 else 2) / filters)
            angles = [math.cos(math.pi * k * (2 * m + 1) / (2 * filters)) for m in range(filters)]
            cepstrum.append(scale * numpy.dot(angles, logs))
        cepstrum[0] = math.log10(power[bins <= top_hz].sum() / n_fft + EPS)
        frames.append(cepstrum)
    static = numpy.array(frames)

    def delta(c):
        last = len(c) - 1
        return numpy.array([c[min(t + 1, last)] - c[max(t - 1, 0)] for t in range(len(c))])

    return numpy.concatenate([static, delta(static), delta(delta(static))], axis=1)


@pytest.mark.parametrize(
    "options",
    [{}, {"top_hz": 4000}, {"n_fft": 512, "window": 400, "filters": 30, "pre_emphasis": 0.0}],
)
def test_equals_the_slow_recipe(options):
    wave = noise(0, 2000)
    found = LFCC(**options)(wave)
    for clip, one in zip(wave, found, strict=True):
        # logs of float32 powers of a 1024-point transform: a few 1e-5, doubled by each difference
        numpy.testing.assert_allclose(one.numpy(), slow_lfcc(clip, **options), rtol=0, atol=1e-3)


def test_shape_of_the_baseline():
    assert LFCC()(torch.zeros(1, 64600)).shape == (1, 404, 60)
    assert LFCC(deltas=False, coefficients=12)(torch.zeros(3, 1600)).shape == (3, 11, 12)


def test_a_sign_flip_changes_nothing():
    wave = noise(1, 4000)
    torch.testing.assert_close(LFCC()(-wave), LFCC()(wave))


@pytest.mark.parametrize("gain", [0.5, 3.0])
def test_gain_shifts_only_the_log_energy(gain):
    wave = noise(2, 4000)
    change = LFCC()(gain * wave) - LFCC()(wave)
    expected = torch.zeros_like(change)
    expected[..., 0] = 2 * math.log10(gain)
    # edge frames hold few samples: there the constant in the logarithm matters most
    torch.testing.assert_close(change, expected, rtol=0, atol=2e-3)


def test_clips_of_a_batch_do_not_meet():
    wave = noise(3, 3000)
    torch.testing.assert_close(LFCC()(wave)[1:], LFCC()(wave[1:]))


def test_silence_is_finite_and_nothing_is_learnt_or_kept():
    lfcc = LFCC()
    assert lfcc(torch.zeros(1, 3000)).isfinite().all()
    assert not list(lfcc.parameters())


def test_the_waveform_is_not_changed():
    wave = noise(4, 2000)
    before = wave.clone()
    LFCC()(wave)
    assert torch.equal(wave, before)


def test_statistics_are_numpys():
    frames = torch.randn(3, 17, 5, generator=torch.Generator().manual_seed(0))
    x = frames.numpy().astype(numpy.float64)
    expected = [x.mean(1), x.std(1), numpy.diff(x, axis=1).std(1)]
    numpy.testing.assert_allclose(statistics(frames), numpy.concatenate(expected, 1), atol=1e-6)


def test_clip_statistics_are_those_of_its_cepstra():
    wave = noise(5, 4000)
    options = {"n_fft": 512, "window": 400, "filters": 60, "coefficients": 30, "pre_emphasis": 0.0}
    static = torch.tensor(numpy.stack([slow_lfcc(clip, **options)[:, :30] for clip in wave]))
    found = LFCCStatistics()(wave)
    assert found.shape == (2, 90)
    torch.testing.assert_close(found.double(), statistics(static), rtol=0, atol=1e-3)
