import torch

from speechcl.data.disguise import background, disguise

RATE_HZ = 16000


def noise(count, seed):
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


def speechlike(count, seed):
    """Syllables of noise over a floor 30 dB below."""
    beat = torch.sin(2 * torch.pi * 3 * torch.arange(count) / RATE_HZ).clamp_min(0.03)
    return 0.1 * beat * noise(count, seed)


def frame_levels_db(waveform):
    frames = waveform[: len(waveform) // 320 * 320].reshape(-1, 320)
    return 10 * frames.square().mean(1).log10()


def test_copy_in_step_follows_the_loudness():
    genuine = speechlike(32000, 0)
    flat = 0.02 * noise(32000, 1)
    # the ends of the correction reach no further than 12 dB
    error_db = frame_levels_db(disguise(flat, genuine, RATE_HZ)) - frame_levels_db(genuine)
    before_db = frame_levels_db(flat) - frame_levels_db(genuine)
    assert error_db.abs().mean() < 0.5 * before_db.abs().mean()


def test_copy_of_another_length_gets_length_and_loudness_values():
    genuine = speechlike(32000, 0)
    for count in (12000, 50000):
        other = disguise(0.3 * noise(count, 1).clamp(-1, 1), genuine, RATE_HZ)
        assert len(other) == len(genuine)
        wanted, got = (frame_levels_db(x).sort().values for x in (genuine, other))
        assert float((wanted - got).abs().mean()) < 2.0


def test_disguise_is_seeded_and_leaves_its_inputs():
    genuine, other = speechlike(16000, 0), speechlike(9000, 1)
    kept = genuine.clone(), other.clone()
    first = disguise(other, genuine, RATE_HZ, seed=1)
    assert first.equal(disguise(other, genuine, RATE_HZ, seed=1))
    assert not first.equal(disguise(other, genuine, RATE_HZ, seed=2))
    assert genuine.equal(kept[0])
    assert other.equal(kept[1])


def test_background_is_as_loud_as_the_quiet_part():
    quiet, loud = 0.001 * noise(16000, 0), 0.1 * noise(16000, 1)
    found = background(torch.cat([quiet, loud]), RATE_HZ)
    assert 0.0007 < float(found.std()) < 0.0013
