"""Rooms and channels that genuine and spoofed speech pass alike: only the attack differs."""

import numpy as np
import torch

LEVEL_DBFS = -26.0
HIGH_PASS_HZ = 50.0
LOW_PASS_HZ = 6800.0
_TILT_DB_PER_OCTAVE = 3.0
_TILT_PIVOT_HZ = 1000.0
_HEADROOM_DB = (8.0, 13.0)
_FLOOR_DB = (35.0, 45.0)
_ROOM_NOISE_DB = (18.0, 32.0)
_ROOM_DECAY_S = (0.08, 0.25)
_ROOM_DIRECT_DB = (8.0, 14.0)
_TRIM_DB = 35.0
_TRIM_MARGIN_S = 0.05
_FRAME_S = 0.02


def room(waveform: torch.Tensor, rate_hz: int, seed: int) -> torch.Tensor:
    """Place speech in a mild room: a short decay and coloured noise 18 to 32 dB below.

    Arguments
    ---------
    waveform : torch.Tensor
        Dry speech (time,).
    rate_hz : int
        Its sample rate.
    seed : int
        Seed of the room.

    Returns
    -------
    torch.Tensor
        Speech in the room, same length, as loud as before but with its peak at most 1.

    Raises
    ------
    ValueError
        If the waveform is silent, empty, not finite or not of shape (time,).

    Example
    -------
    >>> tone = 0.1 * torch.sin(2 * torch.pi * 200 * torch.arange(16000) / 16000)
    >>> round(float(room(tone, 16000, seed=0).square().mean().sqrt()), 3)
    0.071
    """
    from scipy.signal import fftconvolve

    samples = _checked(waveform)
    rng = np.random.default_rng(seed)
    decay_s = rng.uniform(*_ROOM_DECAY_S)
    time_s = np.arange(int(decay_s * rate_hz)) / rate_hz
    tail = rng.standard_normal(len(time_s)) * 10 ** (-3 * time_s / decay_s)  # 60 dB in decay_s
    tail *= _ratio(-rng.uniform(*_ROOM_DIRECT_DB)) / np.linalg.norm(tail)
    tail[0] = 1.0
    wet = fftconvolve(samples, tail)[: len(samples)]
    noise = _tilted(rng.standard_normal(len(samples)), rate_hz, rng.uniform(-6.0, -1.0))
    wet = wet + noise * (_rms(wet) / _rms(noise) * _ratio(-rng.uniform(*_ROOM_NOISE_DB)))
    wet *= _rms(samples) / _rms(wet)
    return torch.from_numpy((wet / max(1.0, abs(wet).max())).astype(np.float32))


def channel(
    waveform: torch.Tensor, rate_hz: int, seed: int, max_duration_s: float | None = None
) -> torch.Tensor:
    """Pass speech through the channel that both classes share.

    It tilts the spectrum at random, limits peaks softly, cuts below 50 Hz and above 6.8 kHz, trims
    silence at the ends, lays a noise floor 35 to 45 dB below, sets the level to -26 dBFS and rounds
    to 16 bits.

    Arguments
    ---------
    waveform : torch.Tensor
        Speech (time,).
    rate_hz : int
        Its sample rate.
    seed : int
        Seed of tilt, limit and noise.
    max_duration_s : float, optional
        Keep no more than this, from the start.

    Returns
    -------
    torch.Tensor
        Speech (time,), float32, on the grid of 16-bit samples.

    Raises
    ------
    ValueError
        If the waveform is silent, empty, not finite or not of shape (time,).

    Example
    -------
    >>> tone = torch.sin(2 * torch.pi * 200 * torch.arange(16000) / 16000)
    >>> sent = channel(tone, 16000, seed=0, max_duration_s=0.5)
    >>> len(sent), round(float(20 * sent.square().mean().sqrt().log10()), 1)
    (8000, -26.0)
    """
    samples = _checked(waveform)
    rng = np.random.default_rng(seed)
    slope = rng.uniform(-_TILT_DB_PER_OCTAVE, _TILT_DB_PER_OCTAVE)
    sent = _limited(_tilted(samples - samples.mean(), rate_hz, slope), rng.uniform(*_HEADROOM_DB))
    # after limiting, which makes overtones: more of them from some attacks than from speech
    sent = trim(band_limit(torch.from_numpy(sent), rate_hz), rate_hz).numpy()
    if max_duration_s is not None:
        sent = sent[: int(max_duration_s * rate_hz)]
    sent = sent + rng.standard_normal(len(sent)) * _rms(sent) * _ratio(-rng.uniform(*_FLOOR_DB))
    sent = sent - sent.mean()
    sent *= _ratio(LEVEL_DBFS) / _rms(sent)
    sent = np.round(sent * 32768).clip(-32768, 32767) / 32768
    return torch.from_numpy(sent.astype(np.float32))


def band_limit(waveform: torch.Tensor, rate_hz: int) -> torch.Tensor:
    """Cut below 50 Hz and, where the rate allows, above 6.8 kHz, without delay.

    Arguments
    ---------
    waveform : torch.Tensor
        Speech (time,).
    rate_hz : int
        Its sample rate.

    Returns
    -------
    torch.Tensor
        Speech of the same length and type.

    Example
    -------
    >>> hum_and_tone = 1.0 + torch.sin(2 * torch.pi * 440 * torch.arange(16000) / 16000)
    >>> round(abs(float(band_limit(hum_and_tone, 16000).mean())), 2)
    0.0
    """
    from scipy.signal import butter, sosfiltfilt

    sections = butter(2, HIGH_PASS_HZ, "highpass", fs=rate_hz, output="sos")
    if rate_hz > 2.1 * LOW_PASS_HZ:
        sections = np.vstack([sections, butter(8, LOW_PASS_HZ, fs=rate_hz, output="sos")])
    filtered = sosfiltfilt(sections, waveform.numpy(), padlen=min(rate_hz // 50, len(waveform) - 1))
    return torch.from_numpy(np.ascontiguousarray(filtered)).to(waveform.dtype)


def trim(waveform: torch.Tensor, rate_hz: int) -> torch.Tensor:
    """Cut what is more than 35 dB below the loud frames off both ends; keep 50 ms of it.

    Arguments
    ---------
    waveform : torch.Tensor
        Speech (time,).
    rate_hz : int
        Its sample rate.

    Returns
    -------
    torch.Tensor
        The part between, a view.

    Example
    -------
    >>> quiet, loud = torch.zeros(8000), torch.ones(8000)
    >>> len(trim(torch.cat([quiet, loud, quiet]), 16000)) / 16000
    0.6
    """
    size = int(_FRAME_S * rate_hz)
    if len(waveform) < size:
        return waveform
    power = waveform.unfold(0, size, size).square().mean(1)
    loud = (power >= power.quantile(0.95) * _ratio(-_TRIM_DB) ** 2).nonzero().flatten()
    margin = int(_TRIM_MARGIN_S * rate_hz)
    start = max(0, int(loud[0]) * size - margin)
    return waveform[start : (int(loud[-1]) + 1) * size + margin]


def _checked(waveform: torch.Tensor) -> np.ndarray:
    if waveform.ndim != 1 or not torch.isfinite(waveform).all() or not waveform.any():
        raise ValueError(
            f"waveform of shape {tuple(waveform.shape)} must be (time,), finite and not silent: "
            "mix to one channel or drop the clip"
        )
    return waveform.detach().cpu().numpy().astype(np.float64)


def _limited(samples: np.ndarray, headroom_db: float) -> np.ndarray:
    ceiling = _rms(samples) * _ratio(headroom_db)
    return ceiling * np.tanh(samples / ceiling)


def _tilted(samples: np.ndarray, rate_hz: int, slope_db_per_octave: float) -> np.ndarray:
    from scipy.fft import next_fast_len

    size = next_fast_len(len(samples), real=True)
    frequency_hz = np.fft.rfftfreq(size, 1 / rate_hz)
    octaves = np.log2(np.maximum(frequency_hz, 50.0) / _TILT_PIVOT_HZ)
    spectrum = np.fft.rfft(samples, size) * _ratio(slope_db_per_octave * octaves)
    return np.fft.irfft(spectrum, size)[: len(samples)]


def _rms(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(samples**2)))


def _ratio(level_db):
    return 10 ** (level_db / 20)
