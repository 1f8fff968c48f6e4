import pytest
import torch

from speechcl.attacks import ATTACKS
from speechcl.data.audio import write_audio
from speechcl.data.corpus import build_attack_corpus
from speechcl.data.embedded import build_embedded
from speechcl.data.shortcuts import shortcut_accuracy, shortcut_features


def noise(count, seed=0):
    return 0.1 * torch.randn(count, generator=torch.Generator().manual_seed(seed))


def test_features_measure_what_they_say():
    padded = torch.cat([torch.zeros(8000), noise(16000), torch.zeros(4000)])
    measured = shortcut_features(padded, 16000)
    assert measured["duration_s"] == 1.75
    assert measured["lead_silence_s"] == pytest.approx(0.5)
    assert measured["tail_silence_s"] == pytest.approx(0.25, abs=0.02)
    assert measured["zero_share"] == pytest.approx(12 / 28, abs=0.01)
    assert measured["silent_share"] == pytest.approx(12 / 28, abs=0.02)
    assert measured["frame_min_db"] == -120
    assert measured["roll_off_0.95_hz"] == pytest.approx(0.95 * 8000, rel=0.02)
    assert measured["above_7000_hz_db"] == pytest.approx(-9.0, abs=0.4)
    assert all(isinstance(value, float) for value in measured.values())


def test_level_peak_and_mean():
    measured = shortcut_features(torch.full((16000,), 0.1), 16000)
    assert measured["level_db"] == pytest.approx(-20, abs=0.01)
    assert measured["dc_db"] == pytest.approx(-20, abs=0.01)
    assert measured["peak_db"] == pytest.approx(-20, abs=0.01)


def test_file_features(tmp_path):
    write_audio(tmp_path / "a.flac", noise(8000), 8000)
    measured = shortcut_features(noise(8000), 8000, tmp_path / "a.flac")
    assert measured["file_rate_hz"] == 8000
    assert measured["file_is_FLAC_PCM_16"] == 1


@pytest.mark.parametrize("bad", [torch.zeros(0), torch.zeros(2, 9), torch.full((9,), float("nan"))])
def test_bad_waveform(bad):
    with pytest.raises(ValueError, match="not empty and finite"):
        shortcut_features(bad, 16000)


def test_silence_and_one_sample_are_measured():
    for waveform in (torch.zeros(1000), torch.ones(1)):
        assert all(value == value for value in shortcut_features(waveform, 16000).values())


def corpus(folder, spoofed_suffix=".wav", gain=1.0):
    rows = []
    for index in range(40):
        is_spoof = index % 2 == 1
        path = folder / f"{index}{spoofed_suffix if is_spoof else '.wav'}"
        write_audio(path, noise(8000, index) * (gain if is_spoof else 1.0), 16000)
        label, attack = ("spoof", "x") if is_spoof else ("bonafide", "-")
        speaker = f"s{index // 4}"
        rows.append({"wav": str(path), "label": label, "attack": attack, "speaker": speaker})
    return rows


def test_a_planted_shortcut_is_found_and_none_is_not(tmp_path):
    for name in ("level", "format", "none"):
        (tmp_path / name).mkdir()
    assert shortcut_accuracy(corpus(tmp_path / "level", gain=0.5))["x"] > 0.95
    assert shortcut_accuracy(corpus(tmp_path / "format", spoofed_suffix=".flac"))["x"] > 0.95
    assert shortcut_accuracy(corpus(tmp_path / "none"))["x"] < 0.7


def test_data_root_is_filled_in(tmp_path):
    rows = corpus(tmp_path)
    moved = [{**row, "wav": f"$data_root/{row['wav'].rsplit('/', 1)[1]}"} for row in rows]
    assert shortcut_accuracy(moved, tmp_path) == shortcut_accuracy(rows)


def test_too_few_speakers_or_one_class(tmp_path):
    rows = corpus(tmp_path)
    with pytest.raises(ValueError, match="at least 5 speakers and both classes"):
        shortcut_accuracy(rows[:8])
    with pytest.raises(ValueError, match="0 genuine clips"):
        shortcut_accuracy([row for row in rows if row["label"] == "spoof"])


@pytest.mark.slow
def test_cheap_attacks_have_no_shortcut(tmp_path):
    genuine = build_embedded(tmp_path / "genuine", voices=40, sentences=3, workers=1)
    attacks = ["lpc_noise", "mulaw"]
    rows = build_attack_corpus(genuine, attacks, tmp_path / "spoofed", workers=1)
    assert max(shortcut_accuracy(rows).values()) < 0.68


@pytest.mark.slow
def test_no_attack_has_a_shortcut(tmp_path):
    genuine = build_embedded(tmp_path / "genuine", voices=40, sentences=4, workers=2)
    rows = build_attack_corpus(genuine, list(ATTACKS), tmp_path / "spoofed", workers=2)
    accuracies = shortcut_accuracy(rows)
    assert set(accuracies) == set(ATTACKS)
    assert max(accuracies.values()) < 0.68  # 0.65, and what chance adds with 160 clips
