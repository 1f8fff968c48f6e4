"""Text to speech: another machine voice says the same words."""

import numpy as np
import torch

from speechcl.data.espeak import speak

# The Klatt synthesiser, which no voice of the embedded corpus uses.
TTS_VOICES = (
    "en-us+klatt",
    "en-us+klatt2",
    "en+klatt3",
    "en-gb-scotland+klatt4",
    "en-gb-x-rp+klatt",
    "en+klatt2",
    "en-us-nyc+klatt3",
    "en-us+klatt4",
)


def tts(waveform: torch.Tensor, rate_hz: int, seed: int = 0, *, text: str) -> torch.Tensor:
    """Speak the text of a clip with a Klatt voice of espeak-ng.

    Arguments
    ---------
    waveform : torch.Tensor
        Genuine speech (time,); nothing of it is used.
    rate_hz : int
        Its sample rate.
    seed : int
        Seed of the voice, its rate and its pitch.
    text : str
        What is said in the clip.

    Returns
    -------
    torch.Tensor
        Spoofed speech (time,), of its own length.

    Example
    -------
    >>> tone = torch.sin(2 * torch.pi * 200 * torch.arange(8000) / 16000)
    >>> 0.5 < len(tts(tone, 16000, text="Good morning.")) / 16000 < 2.0
    True
    """
    from torchaudio.functional import resample

    rng = np.random.default_rng(seed)
    voice = TTS_VOICES[rng.integers(len(TTS_VOICES))]
    rate_wpm, pitch = int(rng.integers(150, 200)), int(rng.integers(25, 75))
    spoken, spoken_rate_hz = speak(text, voice, rate_wpm, pitch, seed=seed % 2**31)
    return resample(spoken, spoken_rate_hz, rate_hz)
