import pytest
import torch
from torchaudio.functional import resample

from speechcl.data.channel import room
from speechcl.data.espeak import speak

TEXT = "The farmer brought seven letters to the old bridge."


@pytest.fixture(scope="session")
def text():
    return TEXT


@pytest.fixture(scope="session")
def speech():
    """Two seconds of the embedded kind of speech at 16 kHz, clean enough to have a pitch."""
    spoken, rate_hz = speak(TEXT, "en-us+m3")
    waveform = resample(spoken, rate_hz, 16000)[:32000]
    return room(waveform * (0.05 / waveform.square().mean().sqrt()), 16000, seed=0)


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
