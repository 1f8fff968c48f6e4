"""The attacks by name, and the one door through which they are used."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from speechcl.attacks.lpc import lpc_noise, lpc_pulse
from speechcl.attacks.text_to_speech import tts
from speechcl.attacks.transforms import formant_warp, mulaw, pitch_shift, psola
from speechcl.attacks.vocoders import (
    griffin_lim,
    random_phase,
    sinusoidal,
    world,
)

MIN_DURATION_S = 0.1
MIN_RATE_HZ = 8000


@dataclass(frozen=True)
class Attack:
    """A way to make spoofed speech from genuine speech.

    Arguments
    ---------
    name : str
        Name in manifests and on the command line.
    family : str
        One of vocoder, conversion, coding, tts.
    description : str
        What it does, in one line.
    function : callable
        ``function(waveform, rate_hz, seed)``, with ``text`` too if ``needs_text``.
    needs_text : bool
        Whether it must know what is said.
    """

    name: str
    family: str
    description: str
    function: Callable[..., torch.Tensor]
    needs_text: bool = False


_ALL = (
    Attack("griffin_lim", "vocoder", "80-band mel spectrogram and Griffin-Lim", griffin_lim),
    Attack("world", "vocoder", "WORLD with a smoothed pitch", world),
    Attack("lpc_noise", "vocoder", "linear prediction excited by noise", lpc_noise),
    Attack("lpc_pulse", "vocoder", "linear prediction excited by pulses", lpc_pulse),
    Attack("random_phase", "vocoder", "measured magnitudes, random phases", random_phase),
    Attack("sinusoidal", "vocoder", "sum of harmonics of the pitch", sinusoidal),
    Attack("pitch_shift", "conversion", "phase vocoder, 2.5 to 4.5 semitones", pitch_shift),
    Attack("psola", "conversion", "pitch periods re-spaced, 2.5 to 4.5 semitones", psola),
    Attack("formant_warp", "conversion", "formants moved by 10 to 18 percent", formant_warp),
    Attack("mulaw", "coding", "four-bit mu-law", mulaw),
    Attack("tts", "tts", "espeak-ng says the same text", tts, needs_text=True),
)

ATTACKS: dict[str, Attack] = {attack.name: attack for attack in _ALL}


def find_attack(name: str) -> Attack:
    """Return an attack by its name.

    Arguments
    ---------
    name : str
        A key of ``ATTACKS``.

    Returns
    -------
    Attack
        The attack.

    Raises
    ------
    ValueError
        If there is none of that name.

    Example
    -------
    >>> find_attack("world").family
    'vocoder'
    """
    if name not in ATTACKS:
        raise ValueError(f"no attack is called {name!r}: choose from {', '.join(ATTACKS)}")
    return ATTACKS[name]


def spoof(
    waveform: torch.Tensor, rate_hz: int, attack: str, seed: int = 0, text: str | None = None
) -> torch.Tensor:
    """Make spoofed speech from genuine speech; the same seed gives the same samples.

    Arguments
    ---------
    waveform : torch.Tensor
        Genuine speech (time,) in [-1, 1]; it is not changed.
    rate_hz : int
        Its sample rate.
    attack : str
        A key of ``ATTACKS``.
    seed : int
        Seed of whatever the attack draws, 0 or more.
    text : str, optional
        What is said, for attacks that need it.

    Returns
    -------
    torch.Tensor
        Spoofed speech at the same rate, float32, as loud as the genuine speech unless its peak
        would exceed 1. It has the same length, except from text-to-speech.

    Raises
    ------
    ValueError
        If the attack is unknown or lacks its text, or the waveform is too short, silent, not
        finite or has several channels.

    Example
    -------
    >>> tone = torch.sin(2 * torch.pi * 200 * torch.arange(16000) / 16000)
    >>> spoofed = spoof(tone, 16000, "mulaw", seed=3)
    >>> spoofed.shape, bool(spoofed.abs().max() <= 1), spoofed.equal(tone)
    (torch.Size([16000]), True, False)
    """
    chosen = find_attack(attack)
    waveform = _checked(waveform, rate_hz)
    if chosen.needs_text and not (text and text.strip()):
        raise ValueError(f"attack {attack!r} needs the text of the clip: pass text=...")
    extra = {"text": text} if chosen.needs_text else {}
    spoofed = chosen.function(waveform, rate_hz, seed, **extra)
    power, spoofed_power = waveform.square().mean(), spoofed.square().mean()
    if not spoofed_power > 0:  # NaN too
        raise ValueError(f"attack {attack!r} left nothing to hear of the clip: leave it out")
    spoofed = spoofed * (power / spoofed_power).sqrt()
    return spoofed / spoofed.abs().max().clamp_min(1.0)


def _checked(waveform: torch.Tensor, rate_hz: int) -> torch.Tensor:
    if rate_hz < MIN_RATE_HZ:
        raise ValueError(f"rate_hz is {rate_hz}: resample to {MIN_RATE_HZ} Hz or more")
    if waveform.ndim != 1:
        raise ValueError(
            f"waveform has shape {tuple(waveform.shape)}: pass one channel, of shape (time,)"
        )
    if len(waveform) < MIN_DURATION_S * rate_hz:
        raise ValueError(
            f"waveform lasts {len(waveform) / rate_hz:.4f} s: attacks need {MIN_DURATION_S} s"
        )
    if not torch.isfinite(waveform).all():
        raise ValueError("waveform holds NaN or infinite samples: read the clip again or drop it")
    if not waveform.any():
        raise ValueError("waveform is silent: leave the clip out")
    return waveform.detach().to("cpu", torch.float32)
