"""Whose voice is it: vectors of speakers, compared by cosine similarity."""

from __future__ import annotations

import torch
from torch import Tensor

VERIFIER = "resemblyzer VoiceEncoder"
SAME_SPEAKER_SIMILARITY = 0.69
"""Cosine similarity at which the verifier's error rates are equal, 3.3 %.

From 1,740 pairs of clips of one adult and 208,612 pairs of two, clips of 2 s or more, 316 people.
Both clips are of the same collection: LJ Speech, LibriSpeech and VCTK (0.9 %, at 0.73), the first
4 s of LibriSpeech and others, or the Mandarin-accented English of speechocean762 (3.7 %, at 0.69).
With pairs across collections, which are easier to tell apart, it is 2.4 % at 0.685.
``benchmarks/verifier_threshold.py`` measures it.
"""
_RATE_HZ = 16_000


class SpeakerVerifier:
    """The speaker encoder of the package resemblyzer, on the CPU.

    Raises
    ------
    ModuleNotFoundError
        If the package is not installed.

    Source
    ------
    Wan et al. 2018, "Generalized end-to-end loss for speaker verification"; the weights come
    with resemblyzer 0.1.4 (Apache-2.0).

    Example
    -------
    >>> from importlib.util import find_spec
    >>> if find_spec("resemblyzer"):
    ...     verifier = SpeakerVerifier()
    """

    name = VERIFIER

    def __init__(self) -> None:
        try:
            from resemblyzer import VoiceEncoder, preprocess_wav
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f'comparing speakers needs {error.name}: pip install "speechcl[tts]"'
            ) from error
        self._encoder = VoiceEncoder("cpu", verbose=False)
        self._preprocess = preprocess_wav

    def __call__(self, waveform: Tensor, rate_hz: int) -> Tensor:
        """Return the vector (256,) of who speaks; its length is 1.

        Arguments
        ---------
        waveform : torch.Tensor
            Waveform (time,) in [-1, 1].
        rate_hz : int
            Its sample rate.

        Raises
        ------
        ValueError
            If no speech is heard in it.
        """
        import soxr

        samples = waveform.detach().to("cpu", torch.float32).numpy()
        if rate_hz != _RATE_HZ:
            samples = soxr.resample(samples, rate_hz, _RATE_HZ)
        spoken = self._preprocess(samples) if samples.any() else samples[:0]
        if not len(spoken):
            raise ValueError("no speech is heard in the recording: give one of 2 s or more")
        return torch.from_numpy(self._encoder.embed_utterance(spoken))
