"""Vectors of one speaker are more alike than those of two."""

import sys

import pytest
import torch

from speechcl.data.embedded import dry_speech
from speechcl.safety.protected import ProtectedVoices
from speechcl.safety.verifier import SAME_SPEAKER_SIMILARITY, SpeakerVerifier


def speech(voice, number, rate_hz=16000):
    texts = ("Seven letters lay on the old bridge.", "Nobody asked the farmer why he came.")
    return dry_speech(texts[number], voice, 0, 0, rate_hz)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_it_knows_a_protected_voice_again():
    pytest.importorskip("resemblyzer", reason="the verifier is in the extra tts")
    verifier = SpeakerVerifier()
    voices = ProtectedVoices()
    voices.add_recordings("man", [(speech("en-us+m3", 0), 16000)], verifier)
    again, other = verifier(speech("en-us+m3", 1), 16000), verifier(speech("en-us+f1", 1), 16000)
    assert again.shape == (256,)
    assert again.norm().item() == pytest.approx(1.0, abs=1e-5)
    assert voices.check(again) == "man"
    assert voices.closest(other)[1] < voices.closest(again)[1] - 0.1
    resampled = verifier(speech("en-us+m3", 1, rate_hz=24000), 24000)
    assert again @ resampled > SAME_SPEAKER_SIMILARITY
    with pytest.raises(ValueError, match="no speech is heard"):
        verifier(torch.zeros(16000), 16000)


def test_what_to_install_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "resemblyzer", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "speechcl\[tts\]"'):
        SpeakerVerifier()
