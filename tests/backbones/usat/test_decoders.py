"""Decoders: exact lengths, exact transforms, and items of unequal length."""

import math

import pytest
import torch
from speechbrain.lobes.models.HifiGAN import HifiganGenerator

from speechcl.backbones.usat.decoders import HifiGanDecoder, InverseStft, InverseStftDecoder
from speechcl.backbones.usat.masked_blocks import pad_with_zeros
from speechcl.backbones.usat.spectrogram import MagnitudeSpectrogram


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def hifi_gan():
    torch.manual_seed(0)
    return HifiGanDecoder(6, channels=32, factors=(4, 2), kernels=(8, 4))


def inverse_stft():
    torch.manual_seed(0)
    return InverseStftDecoder(6, channels=16, blocks=2, n_fft=32, hop=8)


both = pytest.mark.parametrize("build", [hifi_gan, inverse_stft])


@both
@pytest.mark.parametrize("frames", [1, 2, 3, 50])
def test_a_frame_is_a_hop_of_samples(build, frames):
    decoder = build()
    assert decoder.hop == 8
    assert decoder(noise(2, 6, frames)).shape == (2, 8 * frames)


@both
def test_an_item_is_the_same_alone_and_padded_with_anything(build):
    decoder, m = build(), noise(2, 6, 30)
    mask = (torch.arange(30) < torch.tensor([[30], [17]]))[:, None].float()
    other = torch.where(mask.bool(), m, 100 * noise(2, 6, 30, seed=1))
    with torch.no_grad():
        together = decoder(m, mask)
        torch.testing.assert_close(decoder(other, mask), together, rtol=0, atol=0)
        torch.testing.assert_close(together[:1], decoder(m[:1]), rtol=0, atol=1e-5)
        torch.testing.assert_close(together[1:, :136], decoder(m[1:, :, :17]), rtol=0, atol=1e-5)
    assert not together[1, 136:].any()
    assert together[1, :136].std() > 1e-4


@both
def test_gradient_reaches_every_parameter(build):
    decoder = build()
    mask = torch.ones(2, 1, 10)
    decoder(noise(2, 6, 10), mask).square().sum().backward()
    assert not [n for n, p in decoder.named_parameters() if p.grad is None or not p.grad.any()]


def test_hifi_gan_is_speechbrains_padded_with_zeros():
    torch.manual_seed(0)
    theirs = HifiganGenerator(
        in_channels=6,
        out_channels=1,
        resblock_type="1",
        resblock_dilation_sizes=((1, 3, 5), (1, 2, 3)),
        resblock_kernel_sizes=(3, 7),
        upsample_kernel_sizes=(16, 4, 4),
        upsample_initial_channel=32,
        upsample_factors=(8, 2, 2),
        conv_post_bias=False,
    )
    pad_with_zeros(theirs)
    ours = HifiGanDecoder(6, 32, (8, 2, 2), (16, 4, 4), (3, 7), ((1, 3, 5), (1, 2, 3)))
    ours.generator.load_state_dict(theirs.state_dict())
    m = noise(2, 6, 12)
    torch.testing.assert_close(ours(m), theirs(m)[:, 0])


def test_hifi_gan_of_the_paper_has_its_size():
    parameters = sum(p.numel() for p in HifiGanDecoder(192).parameters())
    assert parameters == 14_337_537


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kernels": (16, 16, 4)}, "do not suit factors"),
        ({"kernels": (16, 15, 4, 4)}, "larger by an even number"),
        ({"kernels": (16, 6, 4, 4)}, "larger by an even number"),
        ({"channels": 24}, "channels is 24: set it to a multiple of 16"),
        ({"resblock_kernels": (3, 7)}, "three dilations for each"),
        ({"resblock_kernels": (3, 7, 10)}, "odd kernels"),
        ({"resblock_dilations": ((1, 3),) * 3}, "three dilations for each"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        HifiGanDecoder(6, **changes)


@pytest.mark.parametrize(("n_fft", "hop"), [(1024, 256), (64, 32), (64, 15), (60, 20)])
def test_a_waveform_comes_back_from_its_own_transform(n_fft, hop):
    waveform = noise(2, 20 * hop) / 4
    framing, inverse = MagnitudeSpectrogram(n_fft, hop), InverseStft(n_fft, hop)
    padded = framing._reflect(waveform, None)
    window = torch.hann_window(n_fft)
    spectrum = torch.stft(padded, n_fft, hop, window=window, center=False, return_complex=True)
    torch.testing.assert_close(inverse(spectrum), waveform, rtol=0, atol=1e-4)
    magnitude = (spectrum.abs().square() + 1e-6).sqrt()
    torch.testing.assert_close(framing(waveform), magnitude)  # framed alike


def test_frames_are_added_up_and_divided_by_squared_windows():
    n_fft, hop, count = 16, 4, 5
    spectrum = torch.complex(noise(1, 9, count), noise(1, 9, count, seed=1))
    whole, weight = torch.zeros(n_fft + hop * (count - 1)), torch.zeros(n_fft + hop * (count - 1))
    for t in range(count):
        frame = torch.fft.irfft(spectrum[0, :, t], n_fft)
        for n in range(n_fft):
            hann = 0.5 - 0.5 * math.cos(2 * math.pi * n / n_fft)
            whole[t * hop + n] += hann * frame[n]
            weight[t * hop + n] += hann**2
    expected = (whole / weight)[6 : 6 + count * hop]
    torch.testing.assert_close(InverseStft(n_fft, hop)(spectrum)[0], expected)


def test_frames_beyond_the_end_of_an_item_are_not_added_up():
    inverse, spectrum = InverseStft(32, 8), torch.complex(noise(2, 17, 9), noise(2, 17, 9, seed=1))
    mask = (torch.arange(9) < torch.tensor([[9], [5]]))[:, None].float()
    together = inverse(spectrum, mask)
    torch.testing.assert_close(together[0], inverse(spectrum)[0])
    torch.testing.assert_close(together[1, :40], inverse(spectrum[1:, :, :5])[0])
    assert not together[1, 40:].any()


@pytest.mark.parametrize("hop", [0, 33])
def test_a_hop_that_leaves_gaps_is_refused(hop):
    with pytest.raises(ValueError, match="at most half of n_fft, which is 64"):
        InverseStft(64, hop)


def test_head_gives_bounded_magnitudes_and_angles():
    decoder, m = inverse_stft(), noise(1, 6, 9)
    with torch.no_grad():
        decoder.head.weight.zero_()
        decoder.head.bias.copy_(torch.cat([noise(17), noise(17, seed=1)]))
        bias = decoder.head.bias
        polar = bias[:17].exp() * torch.exp(1j * bias[17:])
        expected = decoder.inverse(polar[None, :, None].expand(1, 17, 9))
        torch.testing.assert_close(decoder(m), expected)
        decoder.head.bias[:17] = 1000.0
    loud = decoder(m)
    assert loud.abs().max() > 1
    loud.sum().backward()
    assert loud.isfinite().all()
    assert all(p.grad.isfinite().all() for p in decoder.parameters())


def test_low_precision_leaves_the_inverse_transform_alone():
    decoder, m = inverse_stft(), noise(1, 6, 9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert decoder(m).dtype == torch.float32
