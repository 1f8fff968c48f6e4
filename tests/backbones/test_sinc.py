"""The sinc bank: what its filters are, what they pass, and how they are masked."""

import math

import pytest
import torch

from speechcl.backbones.sinc import SincBank, sinc_filters


def slow_filter(k, filters, taps, rate_hz):
    """One filter, sample by sample from the formula."""
    top = 2595 * math.log10(1 + rate_hz / 2 / 700)
    low, high = (700 * (10 ** (top * edge / filters / 2595) - 1) for edge in (k, k + 1))

    def low_pass(cut_hz, n):
        u = 2 * cut_hz * n / rate_hz
        return 2 * cut_hz / rate_hz * (math.sin(math.pi * u) / (math.pi * u) if u else 1.0)

    half = (taps - 1) // 2
    window = [0.54 - 0.46 * math.cos(2 * math.pi * i / (taps - 1)) for i in range(taps)]
    return [w * (low_pass(high, i - half) - low_pass(low, i - half)) for i, w in enumerate(window)]


@pytest.mark.parametrize(
    ("filters", "taps", "rate_hz"), [(70, 129, 16000), (20, 1025, 16000), (5, 9, 8000)]
)
def test_filters_are_windowed_differences_of_low_passes(filters, taps, rate_hz):
    bank = sinc_filters(filters, taps, rate_hz)
    assert bank.shape == (filters, taps)
    for k in {0, 1, filters // 2, filters - 1}:
        expected = torch.tensor(slow_filter(k, filters, taps, rate_hz))
        torch.testing.assert_close(bank[k], expected, rtol=0, atol=1e-7)


def test_filters_are_symmetric():
    bank = sinc_filters(70, 129)
    torch.testing.assert_close(bank, bank.flip(1), rtol=0, atol=1e-8)


def test_filters_sum_to_a_unit_impulse():
    impulse = torch.zeros(129)
    impulse[64] = 1
    torch.testing.assert_close(sinc_filters(70, 129).sum(0), impulse, rtol=0, atol=1e-6)


def test_higher_filters_pass_higher_frequencies():
    response = torch.fft.rfft(sinc_filters(70, 129), 4096).abs()
    peaks = response.argmax(1)
    assert (peaks[8:].diff() > 0).all(), "below, bands are narrower than the window resolves"


def test_an_even_number_of_taps_is_refused():
    with pytest.raises(ValueError, match="128 taps cannot be symmetric"):
        sinc_filters(70, 128)


def test_bank_is_a_correlation_without_padding():
    bank = SincBank(5, 9)
    waveform = torch.randn(2, 40, generator=torch.Generator().manual_seed(0))
    found = bank(waveform)
    assert found.shape == (2, 5, 32)
    for t in (0, 17, 31):
        expected = waveform[1, t : t + 9] @ bank.bank[3]
        torch.testing.assert_close(found[1, 3, t], expected)


def test_bank_is_neither_learned_nor_saved_but_moves_along():
    bank = SincBank(5, 9)
    assert not list(bank.parameters())
    assert not bank.state_dict()
    assert bank.to(torch.float64)(torch.zeros(1, 9, dtype=torch.float64)).dtype == torch.float64


def masked_filters(bank):
    """Indices of the filters that a pass leaves silent."""
    impulse = torch.zeros(2, 257)
    impulse[:, 128] = 1
    silent = ~bank(impulse).any(2)
    assert torch.equal(silent[0], silent[1]), "one draw a batch"
    return silent[0].nonzero().flatten().tolist()


def test_mask_zeroes_neighbours_up_to_its_width_in_training_only():
    torch.manual_seed(0)
    bank = SincBank(10, 129, frequency_mask=4)
    drawn = [masked_filters(bank) for _ in range(300)]
    assert {len(mask) for mask in drawn} == {0, 1, 2, 3, 4}
    assert all(mask == list(range(mask[0], mask[-1] + 1)) for mask in drawn if mask)
    assert {index for mask in drawn for index in mask} == set(range(10))
    assert not masked_filters(bank.eval())
    assert not masked_filters(SincBank(10, 129)), "off unless asked for"


@pytest.mark.parametrize("width", [-1, 11])
def test_a_mask_wider_than_the_bank_is_refused(width):
    with pytest.raises(ValueError, match=f"frequency_mask is {width}: give 0 to 10"):
        SincBank(10, 129, frequency_mask=width)
