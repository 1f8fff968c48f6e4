"""What every attack must do, by one table."""

import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from torchaudio.functional import melscale_fbanks

from speechcl.attacks import ATTACKS, find_attack, spoof

RATE_HZ = 16000
IN_STEP = [name for name in ATTACKS if name != "tts"]


def log_mel(waveform):
    window = torch.hann_window(512)
    magnitude = torch.stft(waveform, 512, 160, window=window, return_complex=True).abs()
    bands = melscale_fbanks(257, 0.0, RATE_HZ / 2, 40, RATE_HZ)
    return (bands.T @ magnitude + 1e-3).log().flatten()


def correlation(a, b):
    return float(np.corrcoef(a.numpy(), b.numpy())[0, 1])


def test_there_are_at_least_ten_under_their_own_names():
    assert len(ATTACKS) >= 10
    assert all(name == attack.name and attack.description for name, attack in ATTACKS.items())
    assert {attack.family for attack in ATTACKS.values()} == {
        "vocoder",
        "conversion",
        "coding",
        "tts",
    }


@pytest.mark.parametrize("name", ATTACKS)
def test_same_seed_same_samples_and_another_seed_others(name, speech, text):
    first = spoof(speech, RATE_HZ, name, seed=3, text=text)
    assert first.equal(spoof(speech, RATE_HZ, name, seed=3, text=text))
    assert not first.equal(spoof(speech, RATE_HZ, name, seed=5, text=text))


@pytest.mark.parametrize("name", ATTACKS)
def test_input_and_global_random_states_stay(name, speech, text):
    before = speech.clone()
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    spoof(speech, RATE_HZ, name, text=text)
    assert speech.equal(before)
    assert torch.get_rng_state().equal(states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert random.getstate() == states[2]


@pytest.mark.parametrize("name", ATTACKS)
def test_output_is_finite_within_range_and_as_loud(name, speech, text):
    spoofed = spoof(speech, RATE_HZ, name, text=text)
    assert spoofed.dtype == torch.float32
    assert spoofed.ndim == 1
    assert torch.isfinite(spoofed).all()
    assert spoofed.abs().max() <= 1
    assert float(spoofed.square().mean() / speech.square().mean()) == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("name", ATTACKS)
def test_peak_stays_within_one_for_full_scale_speech(name, speech, text):
    loud = speech / speech.abs().max()
    assert spoof(loud, RATE_HZ, name, text=text).abs().max() <= 1


@pytest.mark.parametrize("name", IN_STEP)
def test_speech_is_altered_and_content_kept(name, speech):
    spoofed = spoof(speech, RATE_HZ, name)
    assert len(spoofed) == len(speech)
    changed = (spoofed - speech).square().mean() / speech.square().mean()
    assert changed > 0.02
    # moved by semitones, the harmonics fall into other bands
    assert correlation(log_mel(spoofed), log_mel(speech)) > (0.5 if name == "pitch_shift" else 0.75)


def test_content_check_can_fail(speech):
    noise = torch.randn(len(speech), generator=torch.Generator().manual_seed(0)) * 0.05
    assert correlation(log_mel(noise), log_mel(speech)) < 0.4
    assert correlation(log_mel(speech.flip(0)), log_mel(speech)) < 0.5


@pytest.mark.parametrize("name", IN_STEP)
@pytest.mark.parametrize("rate_hz", [8000, 44100])
def test_other_rates(name, rate_hz, speech):
    spoofed = spoof(speech[:16001], rate_hz, name)
    assert len(spoofed) == 16001
    assert torch.isfinite(spoofed).all()


@pytest.mark.parametrize("name", ATTACKS)
def test_shortest_clip(name, speech, text):
    assert torch.isfinite(spoof(speech[8000:9600], RATE_HZ, name, text=text)).all()


BAD = {
    "silent": torch.zeros(16000),
    "one sample": torch.ones(1),
    "empty": torch.zeros(0),
    "NaN": torch.full((16000,), float("nan")),
    "infinite": torch.full((16000,), float("inf")),
    "two channels": torch.ones(2, 16000),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("name", ATTACKS)
def test_bad_input_is_one_clear_line(name, case, text):
    with pytest.raises(ValueError, match="waveform") as caught:
        spoof(BAD[case], RATE_HZ, name, text=text)
    assert "\n" not in str(caught.value)


def test_low_rate_unknown_name_and_missing_text(speech):
    with pytest.raises(ValueError, match="8000 Hz or more"):
        spoof(speech, 4000, "mulaw")
    with pytest.raises(ValueError, match="griffin_lim, world"):
        find_attack("gan")
    for text in (None, "", "  "):
        with pytest.raises(ValueError, match="needs the text"):
            spoof(speech, RATE_HZ, "tts", text=text)


def test_import_is_light():
    code = "import sys, speechcl.attacks; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"librosa", "pyworld", "scipy", "soxr", "torchaudio"} & set(loaded)
