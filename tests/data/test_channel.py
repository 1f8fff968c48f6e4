import pytest
import torch

from speechcl.data.channel import band_limit, channel, room, trim

RATE_HZ = 16000


def bursts(seconds=1.5, seed=0):
    noise = torch.randn(int(seconds * RATE_HZ), generator=torch.Generator().manual_seed(seed))
    time_s = torch.arange(len(noise)) / RATE_HZ
    return 0.1 * noise * (0.02 + torch.sin(2 * torch.pi * 2 * time_s).clamp_min(0))


def level_db(waveform):
    return 10 * float(waveform.square().mean().log10())


@pytest.mark.parametrize("step", [room, channel])
def test_seeded_finite_and_leaves_input_and_global_state(step):
    waveform = bursts()
    before, state = waveform.clone(), torch.get_rng_state()
    passed = step(waveform, RATE_HZ, 1)
    assert passed.equal(step(waveform, RATE_HZ, 1))
    assert not passed.equal(step(waveform, RATE_HZ, 2))
    assert torch.isfinite(passed).all()
    assert passed.abs().max() <= 1
    assert waveform.equal(before)
    assert torch.get_rng_state().equal(state)


@pytest.mark.parametrize("step", [room, channel])
@pytest.mark.parametrize(
    "bad", [torch.zeros(8000), torch.zeros(0), torch.full((9,), float("nan")), torch.ones(2, 9)]
)
def test_bad_input(step, bad):
    with pytest.raises(ValueError, match="finite and not silent"):
        step(bad, RATE_HZ, 0)


def test_room_keeps_level_and_length_and_lifts_the_floor():
    dry = torch.cat([bursts(1.0), torch.zeros(4000)])
    wet = room(dry, RATE_HZ, seed=3)
    assert len(wet) == len(dry)
    assert level_db(wet) == pytest.approx(level_db(dry), abs=0.01)
    assert -35 < level_db(wet[-1000:]) - level_db(wet) < -15


@pytest.mark.parametrize("gain", [0.001, 0.3, 1.0])
def test_channel_sets_one_level_on_the_16_bit_grid(gain):
    sent = channel(gain * (bursts() + 0.2), RATE_HZ, seed=0)
    assert level_db(sent) == pytest.approx(-26, abs=0.1)
    assert abs(float(sent.mean())) < 1e-4
    assert (sent * 32768).equal((sent * 32768).round())


def test_channel_hides_the_band_edge_and_exact_zeros():
    silence = torch.zeros(3000)
    sent = channel(torch.cat([bursts(0.5), silence, bursts(0.5)]), RATE_HZ, seed=0)
    power = torch.fft.rfft(sent).abs().square()
    above_7_khz = power[int(len(power) * 7 / 8) :]
    assert -50 < 10 * float((above_7_khz.sum() / power.sum()).log10()) < -35
    assert float((sent == 0).float().mean()) < 0.2


def test_channel_limits_the_duration():
    sent = channel(bursts(3.0), RATE_HZ, seed=0, max_duration_s=1.25)
    assert len(sent) == 20000


def test_channel_at_a_low_rate():
    assert level_db(channel(bursts(), 8000, seed=0)) == pytest.approx(-26, abs=0.1)


def test_trim_keeps_a_margin_and_very_short_clips():
    padded = torch.cat([torch.zeros(8000), torch.ones(8000), torch.zeros(8000)])
    assert len(trim(padded, RATE_HZ)) == 8000 + 2 * 800
    assert len(trim(torch.ones(5), RATE_HZ)) == 5


def test_band_limit_passes_speech_and_stops_the_rest():
    time_s = torch.arange(RATE_HZ) / RATE_HZ

    def passed(tone_hz):
        tone = torch.sin(2 * torch.pi * tone_hz * time_s)
        return float((band_limit(tone, RATE_HZ) / tone.std()).std())

    assert passed(1000) == pytest.approx(1, abs=0.01)
    assert passed(10) < 0.05
    assert passed(7500) < 0.05
