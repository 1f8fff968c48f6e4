"""Spectrograms: librosa's values, exact counts of frames, and items of unequal length."""

import librosa
import numpy as np
import pytest
import torch

from speechcl.backbones.usat.spectrogram import LogMelSpectrogram, MagnitudeSpectrogram


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def reflected(waveform, n_fft, hop):
    around = n_fft - hop
    return np.pad(waveform, (around // 2, around - around // 2), mode="reflect")


def magnitude(waveform, n_fft, hop, length):
    """Frame by frame, with the window in the middle of the transform."""
    x, window, left = reflected(waveform, n_fft, hop), np.zeros(n_fft), (n_fft - length) // 2
    window[left : left + length] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
    starts = range(0, len(x) - n_fft + 1, hop)
    frames = np.stack([window * x[start : start + n_fft] for start in starts])
    return np.sqrt(np.abs(np.fft.rfft(frames)) ** 2 + 1e-6).T


@pytest.mark.parametrize(
    ("n_fft", "hop", "window"), [(1024, 256, 1024), (512, 100, 400), (64, 15, 0)]
)
def test_magnitudes_are_those_of_each_frame(n_fft, hop, window):
    waveform = noise(2, 5000)
    ours = MagnitudeSpectrogram(n_fft, hop, window)(waveform)
    for one, row in zip(ours, waveform.numpy(), strict=True):
        expected = magnitude(row, n_fft, hop, window or n_fft)
        np.testing.assert_allclose(one.numpy(), expected, atol=2e-4, rtol=1e-4)


@pytest.mark.slow  # the first transform of a fresh librosa is compiled, for half a minute
def test_magnitudes_are_librosas():
    waveform = noise(5000)
    padded = reflected(waveform.numpy(), 1024, 256)
    spectrum = librosa.stft(padded, n_fft=1024, hop_length=256, center=False)
    expected = np.sqrt(np.abs(spectrum) ** 2 + 1e-6)
    np.testing.assert_allclose(
        MagnitudeSpectrogram()(waveform[None])[0].numpy(), expected, atol=2e-4, rtol=1e-4
    )


@pytest.mark.parametrize("low_high", [(0.0, None), (50.0, 7000.0)])
def test_log_mel_is_librosas_bands_of_magnitudes(low_high):
    rate, waveform = 22050, noise(8192)
    ours = LogMelSpectrogram(rate, low_hz=low_high[0], high_hz=low_high[1])(waveform[None])[0]
    bank = librosa.filters.mel(sr=rate, n_fft=1024, n_mels=80, fmin=low_high[0], fmax=low_high[1])
    energies = bank @ magnitude(waveform.numpy(), 1024, 256, 1024)
    expected = np.log(np.maximum(energies, 1e-5))
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-4)


def test_mel_bands_are_librosas():
    for rate, n_fft, bands in ((16000, 1024, 80), (22050, 1024, 80), (16000, 512, 40)):
        ours = LogMelSpectrogram(rate, n_fft, bands=bands).bank.numpy()
        expected = librosa.filters.mel(sr=rate, n_fft=n_fft, n_mels=bands)
        np.testing.assert_allclose(ours, expected, atol=1e-6)


@pytest.mark.parametrize("hop", [16, 15, 64])
@pytest.mark.parametrize("samples", [64, 95, 96, 97, 1000])
def test_there_are_as_many_frames_as_hops_fit(hop, samples):
    assert MagnitudeSpectrogram(64, hop)(noise(1, samples)).shape == (1, 33, samples // hop)


@pytest.mark.parametrize("hop", [16, 15])
def test_an_item_is_the_same_alone_and_padded_with_anything(hop):
    spectrogram, waveform = MagnitudeSpectrogram(64, hop), noise(3, 500)
    samples = torch.tensor([500, 203, 64])
    together = spectrogram(waveform, samples)
    for row, one, count in zip(together, waveform, samples.tolist(), strict=True):
        frames = count // hop
        alone = spectrogram(one[None, :count])[0]
        torch.testing.assert_close(row[:, :frames], alone)
        assert not row[:, frames:].any()


def test_a_clip_that_cannot_be_reflected_is_refused():
    with pytest.raises(ValueError, match="a clip of 24 samples is too short .* more than 24"):
        MagnitudeSpectrogram(64, 16)(noise(1, 24))


@pytest.mark.parametrize(("hop", "window"), [(65, 64), (16, 65), (0, 64)])
def test_settings_beyond_the_transform_are_refused(hop, window):
    with pytest.raises(ValueError, match="at most n_fft, which is 64"):
        MagnitudeSpectrogram(64, hop, window)


def test_silence_has_a_gradient_and_low_precision_changes_nothing():
    log_mel, waveform = LogMelSpectrogram(16000), torch.zeros(1, 2048, requires_grad=True)
    log_mel(waveform).sum().backward()
    assert waveform.grad.isfinite().all()
    sound = noise(1, 2048)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = log_mel(sound)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, log_mel(sound), rtol=0, atol=0)


def test_energies_of_magnitudes_are_those_of_the_waveform():
    log_mel, sound = LogMelSpectrogram(16000), noise(1, 2048)
    torch.testing.assert_close(log_mel.of_magnitude(log_mel.magnitude(sound)), log_mel(sound))
