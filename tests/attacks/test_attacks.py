"""What is peculiar to single attacks."""

import math

import numpy as np
import pytest
import torch

from speechcl.attacks import spoof
from speechcl.attacks.frames import pitch_track, stft
from speechcl.attacks.lpc import lpc_filter
from speechcl.attacks.text_to_speech import TTS_VOICES
from speechcl.attacks.transforms import mulaw_levels
from speechcl.data.espeak import VOICES

RATE_HZ = 16000


def periodicity(waveform):
    """Return the highest normalised autocorrelation at pitch lags, median over loud frames."""
    frames = waveform.unfold(0, 640, 320)
    loud = frames[frames.square().mean(1) > frames.square().mean(1).median()].double()
    spectrum = torch.fft.rfft(loud - loud.mean(1, keepdim=True), 2048)
    correlation = torch.fft.irfft(spectrum.abs().square())
    return float((correlation[:, 50:220].amax(1) / correlation[:, 0]).median())


def median_pitch_hz(waveform):
    pitch_hz, voiced = pitch_track(waveform, RATE_HZ)
    return float(np.median(pitch_hz[voiced]))


def envelope_centre_hz(waveform):
    power = stft(waveform, 512).abs().square().mean(1)[4:180]
    return float((power * torch.arange(4, 180)).sum() / power.sum()) * RATE_HZ / 512


def test_lpc_noise_destroys_the_pitch_and_lpc_pulse_keeps_it(speech):
    assert periodicity(speech) > 0.55
    assert periodicity(spoof(speech, RATE_HZ, "lpc_noise")) < 0.4
    assert periodicity(spoof(speech, RATE_HZ, "lpc_pulse")) > 0.45
    kept_hz = median_pitch_hz(spoof(speech, RATE_HZ, "lpc_pulse"))
    assert kept_hz == pytest.approx(median_pitch_hz(speech), rel=0.05)


def test_lpc_pulse_has_no_rumble(speech):
    power = torch.fft.rfft(spoof(speech, RATE_HZ, "lpc_pulse")).abs().square()
    below_20_hz = int(20 * len(speech) / RATE_HZ)
    assert power[:below_20_hz].sum() < 0.01 * power.sum()


def test_lpc_filter_matches_an_all_pole_process():
    # x[n] = 0.9 x[n-1] + e[n] has the power |1 / (1 - 0.9 z^-1)|^2, which one pole describes
    angle = torch.linspace(0, math.pi, 257, dtype=torch.float64)
    expected = 1 / (1 - 0.9 * torch.polar(torch.ones_like(angle), -angle))
    found = lpc_filter(expected.abs().square()[:, None], order=3)[:, 0]
    torch.testing.assert_close(found, expected.to(found.dtype), atol=2e-3, rtol=2e-3)


def test_random_phase_keeps_magnitudes_only(speech):
    spoofed = spoof(speech, RATE_HZ, "random_phase", seed=1)
    before, after = stft(speech, 512), stft(spoofed, 512)
    magnitudes = torch.stack([before.abs().flatten(), after.abs().flatten()])
    assert float(torch.corrcoef(magnitudes)[0, 1]) > 0.8
    loud = before.abs() > before.abs().quantile(0.9)
    phase_difference = torch.polar(torch.ones(int(loud.sum())), (after / before).angle()[loud])
    assert float(phase_difference.mean().abs()) < 0.2


def test_griffin_lim_keeps_magnitudes_better_than_random_phases(speech):
    def mismatch(name):
        after = stft(spoof(speech, RATE_HZ, name), 1024).abs()
        before = stft(speech, 1024).abs()
        return float((after - before).norm() / before.norm())

    assert mismatch("griffin_lim") < 0.7 * mismatch("random_phase")


@pytest.mark.parametrize("seed", range(4))
def test_conversions_move_what_they_say(speech, seed):
    """Pitch by 2.5 to 4.5 semitones for two of them; formants for two of them."""

    def semitones(name):
        moved_hz = median_pitch_hz(spoof(speech, RATE_HZ, name, seed))
        return 12 * math.log2(moved_hz / median_pitch_hz(speech))

    for name in ("pitch_shift", "psola"):
        assert 2.0 < abs(semitones(name)) < 5.0, name
    assert abs(semitones("formant_warp")) < 0.7
    centre_hz = envelope_centre_hz(speech)

    def formants(name):
        return abs(envelope_centre_hz(spoof(speech, RATE_HZ, name, seed)) / centre_hz - 1)

    assert formants("formant_warp") > 0.03


def test_both_directions_are_drawn(speech):
    original_hz = median_pitch_hz(speech)
    moved = [median_pitch_hz(spoof(speech, RATE_HZ, "psola", seed)) for seed in range(6)]
    assert min(moved) < original_hz < max(moved)


def test_mulaw_has_sixteen_levels_denser_near_zero():
    levels = mulaw_levels(torch.linspace(-1, 1, 10001)).unique()
    assert len(levels) == 16
    assert levels.abs().max() <= 1
    assert (levels[8:].diff().diff() > 0).all()
    torch.testing.assert_close(levels, -levels.flip(0))


def test_sinusoidal_is_a_line_spectrum_for_a_steady_vowel():
    time_s = torch.arange(RATE_HZ) / RATE_HZ
    buzz = sum(torch.sin(2 * math.pi * 200 * k * time_s + k * k) / k for k in range(1, 30)) * 0.1
    power = torch.fft.rfft(spoof(buzz, RATE_HZ, "sinusoidal")[2000:-2000]).abs().square()
    frequency_hz = torch.fft.rfftfreq(RATE_HZ - 4000, 1 / RATE_HZ)
    near_harmonic = (frequency_hz + 100) % 200 - 100
    assert float(power[near_harmonic.abs() < 30].sum() / power.sum()) > 0.95


def test_tts_says_the_text_with_voices_of_its_own(speech):
    short = spoof(speech, RATE_HZ, "tts", seed=1, text="Yes.")
    long = spoof(speech, RATE_HZ, "tts", seed=1, text="Yes, and then we walked to the harbour.")
    assert len(long) > 2 * len(short)
    assert not set(TTS_VOICES) & set(VOICES)


def test_unvoiced_speech_passes_attacks_that_need_a_pitch():
    noise = 0.1 * torch.randn(8000, generator=torch.Generator().manual_seed(0))
    for name in ("world", "lpc_pulse", "sinusoidal", "psola"):
        assert torch.isfinite(spoof(noise, RATE_HZ, name)).all(), name
