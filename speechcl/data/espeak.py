"""Speech from text inside the process, through espeak-ng and nothing to install beside pip."""

import _ctypes
import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

ACCENTS = {
    "en-us": "American",
    "en": "British",
    "en-gb-scotland": "Scottish",
    "en-gb-x-rp": "Received Pronunciation",
    "en-gb-x-gbclan": "Lancashire",
    "en-gb-x-gbcwmd": "West Midlands",
    "en-us-nyc": "New York",
    "en-029": "Caribbean",
}

# Left out: variants made for effect (whispers, robots, croaks), those that clip, and those that
# use the Klatt synthesiser, which the text-to-speech attack keeps to itself.
_NAMES = (
    "f1 m1 f2 m2 f3 m3 f4 m4 f5 m5 Alicia m6 Annie m7 Andrea m8 anika Michael aunty Andy "
    "belinda Alex grandma boris linda Gene steph Denis steph2 ian shelby Mario steph3 Hugo "
    "grandpa john Lee rob zac norbert"
)
_SPEAKERS = _NAMES.split()


def _pair(speaker_index: int) -> str:
    # one accent further in each round, since women and men alternate and accents are even
    accent_index = (speaker_index + speaker_index // len(ACCENTS)) % len(ACCENTS)
    return f"{list(ACCENTS)[accent_index]}+{_SPEAKERS[speaker_index]}"


VOICES = [_pair(index) for index in range(len(_SPEAKERS))]

_OUTPUT_TO_CALLBACK = 2  # AUDIO_OUTPUT_SYNCHRONOUS: the call returns when all samples are there
_DO_NOT_EXIT = 0x8000
_UTF8 = 1
_RATE, _VOLUME, _PITCH = 1, 2, 3
_VOLUME_PERCENT = 60  # loud variants clip above this
_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)
_LOCK = threading.Lock()


class _Engine:
    """A loaded espeak-ng; there is one at a time, since the library keeps global state."""

    def __init__(self):
        import espeakng_loader

        data_path = espeakng_loader.get_data_path()
        self.chunks: list[np.ndarray] = []
        self.variants = {path.name for path in Path(data_path, "voices", "!v").iterdir()}
        self.library = ctypes.CDLL(espeakng_loader.get_library_path())
        self.rate_hz = self.library.espeak_Initialize(
            _OUTPUT_TO_CALLBACK, 0, data_path.encode(), _DO_NOT_EXIT
        )
        if self.rate_hz <= 0:
            raise RuntimeError(
                f"espeak-ng did not start with the data in {data_path}: "
                "reinstall it with pip install --force-reinstall espeakng-loader"
            )
        self.callback = _Callback(self._collect)  # kept, or it would be freed while in use
        self.library.espeak_SetSynthCallback(self.callback)

    def _collect(self, samples, count: int, events) -> int:
        if samples and count:
            self.chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def set_voice(self, voice: str) -> None:
        _, _, variant = voice.partition("+")
        # espeak-ng falls back to the plain voice without a word when the variant is unknown
        unknown = bool(variant) and variant not in self.variants
        if unknown or self.library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(
                f"espeak-ng has no voice {voice!r}: use one of speechcl.data.espeak.VOICES, "
                f"such as {VOICES[0]!r}"
            )

    def synthesise(self, text: str, rate_wpm: int, pitch: int, seed: int) -> np.ndarray:
        self.library.espeak_SetParameter(_RATE, rate_wpm, 0)
        self.library.espeak_SetParameter(_VOLUME, _VOLUME_PERCENT, 0)
        self.library.espeak_SetParameter(_PITCH, pitch, 0)
        self.library.espeak_ng_SetRandSeed(ctypes.c_long(seed))
        # breathy Klatt voices draw their noise from the C library; it takes seeds 0 and 1 for one
        ctypes.CDLL("ucrtbase" if os.name == "nt" else None).srand(ctypes.c_uint(seed + 1))
        encoded = text.encode()
        self.library.espeak_Synth(
            encoded, ctypes.c_size_t(len(encoded) + 1), 0, 0, 0, _UTF8, None, None
        )
        return np.concatenate(self.chunks) if self.chunks else np.zeros(0, np.int16)

    def close(self) -> None:
        self.library.espeak_Terminate()
        unload = getattr(_ctypes, "FreeLibrary" if os.name == "nt" else "dlclose")
        unload(self.library._handle)


@contextmanager
def fresh_engine() -> Iterator[_Engine]:
    """Load espeak-ng anew for a while; one utterance or many are asked of what it yields."""
    # Flutter and rounding carry over from one utterance to the next, past espeak_Terminate even:
    # only loading the library anew (6 ms) makes an utterance independent of the one before.
    with _LOCK:
        engine = _Engine()
        try:
            yield engine
        finally:
            engine.close()


def speak(
    text: str,
    voice: str = "en-us+f3",
    rate_wpm: int = 170,
    pitch: int = 50,
    seed: int = 0,
) -> tuple[torch.Tensor, int]:
    """Speak a text with one voice; the same arguments give the same samples.

    Arguments
    ---------
    text : str
        What to say, in English.
    voice : str
        An accent and a speaker variant joined by "+", as in ``VOICES``.
    rate_wpm : int
        Speaking rate in words a minute, 80 to 450.
    pitch : int
        Pitch of the voice, 0 to 99; 50 is its own.
    seed : int
        Seed of the noise in breathy voices; the others have none.

    Returns
    -------
    tuple
        The waveform (time,) as float32 in [-1, 1], and its sample rate in Hz.

    Raises
    ------
    ValueError
        If the voice is unknown, a number is out of range or the text holds nothing to say.

    Example
    -------
    >>> waveform, rate_hz = speak("Good morning.", voice="en-gb-scotland+m1")
    >>> rate_hz, waveform.ndim, 0.3 < len(waveform) / rate_hz < 3.0
    (22050, 1, True)
    """
    if not 80 <= rate_wpm <= 450:
        raise ValueError(f"rate_wpm is {rate_wpm}: set it between 80 and 450 words a minute")
    if not 0 <= pitch <= 99:
        raise ValueError(f"pitch is {pitch}: set it between 0 and 99")
    if not any(character.isalnum() for character in text):
        raise ValueError(f"text {text!r} has nothing to say: give at least one letter or digit")
    with fresh_engine() as engine:
        engine.set_voice(voice)
        samples = engine.synthesise(text, rate_wpm, pitch, seed)
    if not samples.any():
        raise ValueError(f"espeak-ng stayed silent on text {text!r} with voice {voice!r}")
    return torch.from_numpy(samples.astype(np.float32) / 32768.0), engine.rate_hz
