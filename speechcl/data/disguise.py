"""Taking from spoofed speech what would give it away without listening to the attack."""

import math

import numpy as np
import torch

from speechcl.attacks.frames import frame_size, generator, istft, stft
from speechcl.data.channel import band_limit, trim

_LEVEL_FRAME_S = 0.02
_MAX_CORRECTION_DB = 12.0
_QUIET_SHARE = 0.1
_FRAME_MS = 32.0
_MARGIN_S = 0.2
_COLOUR_HZ = 600.0
_TINY = 1e-10
_ROUNDS = 10


def disguise(
    spoofed: torch.Tensor, genuine: torch.Tensor, rate_hz: int, seed: int = 0
) -> torch.Tensor:
    """Give spoofed speech the duration, the loudness over time or the background of genuine speech.

    A copy that runs in step with the genuine speech follows its loudness. One that does not, such
    as text-to-speech, is cropped or repeated to its length, coloured like the genuine speech, laid
    on a noise like its background, and given its values of loudness and amplitude in an order of
    its own.

    Arguments
    ---------
    spoofed : torch.Tensor
        Spoofed speech (time,), of any length.
    genuine : torch.Tensor
        The speech that it was made from (time,).
    rate_hz : int
        Sample rate of both.
    seed : int
        Seed of the noise.

    Returns
    -------
    torch.Tensor
        Spoofed speech, as long as the genuine speech.

    Example
    -------
    >>> tone = torch.sin(2 * torch.pi * 200 * torch.arange(16000) / 16000)
    >>> genuine = tone * torch.cat([torch.full((8000,), 0.1), torch.full((8000,), 0.2)])
    >>> disguised = disguise(0.15 * tone, genuine, 16000)
    >>> round(float(disguised[1000:7000].max()), 2), round(float(disguised[9000:15000].max()), 2)
    (0.1, 0.2)
    """
    in_step = len(spoofed) == len(genuine)
    # what the channel will cut off must not take part in the comparison
    spoofed, genuine = band_limit(spoofed, rate_hz), band_limit(genuine, rate_hz)
    if in_step:
        return _levelled(spoofed, _power_over_time(genuine, rate_hz), rate_hz)
    margin = torch.zeros(int(_MARGIN_S * rate_hz))  # of which trimming leaves what it leaves others
    spoken = trim(torch.cat([margin, spoofed, margin]), rate_hz)
    spoken = _coloured(_fitted(spoken, len(genuine)), genuine, rate_hz)
    spoken = spoken + background(genuine, rate_hz, seed)
    power = _power_over_time(genuine, rate_hz).sort().values
    amplitude = genuine.abs().sort().values
    for _ in range(_ROUNDS):  # matching one distribution disturbs the other a little
        target = _in_order_of(_power_over_time(spoken, rate_hz), power)
        spoken = _levelled(spoken, target, rate_hz)
        spoken = _in_order_of(spoken.abs(), amplitude) * spoken.sign()
    return spoken


def background(waveform: torch.Tensor, rate_hz: int, seed: int = 0) -> torch.Tensor:
    """Return noise with the spectrum of a clip's quietest tenth.

    Arguments
    ---------
    waveform : torch.Tensor
        The clip (time,).
    rate_hz : int
        Its sample rate.
    seed : int
        Seed of the noise.

    Returns
    -------
    torch.Tensor
        Noise of the same length.

    Example
    -------
    >>> noise = 0.1 * torch.randn(16000, generator=torch.Generator().manual_seed(0))
    >>> round(float(background(noise, 16000).std()), 1)
    0.1
    """
    size = frame_size(rate_hz, _FRAME_MS)
    power = stft(waveform, size).abs().square()
    level = power.sum(0)
    quiet = power[:, level <= level.quantile(_QUIET_SHARE)].mean(1, keepdim=True)
    noise = torch.randn(len(waveform), generator=generator(seed))
    shape = (quiet / torch.hann_window(size).square().sum()).sqrt()
    return istft(stft(noise, size) * shape, size, len(waveform))


def _fitted(waveform: torch.Tensor, length: int) -> torch.Tensor:
    return waveform.repeat(math.ceil(length / len(waveform)))[:length]


def _in_order_of(like: torch.Tensor, ascending: torch.Tensor) -> torch.Tensor:
    """Place values in the order of others: the largest where those are largest, and so on."""
    placed = torch.empty_like(ascending)
    placed[like.argsort(stable=True)] = ascending
    return placed


def _levelled(waveform: torch.Tensor, target: torch.Tensor, rate_hz: int) -> torch.Tensor:
    most = 10 ** (_MAX_CORRECTION_DB / 10)
    gain = (target / _power_over_time(waveform, rate_hz)).clamp(1 / most, most)
    return waveform * gain.sqrt()


def _coloured(waveform: torch.Tensor, like: torch.Tensor, rate_hz: int) -> torch.Tensor:
    size = frame_size(rate_hz, _FRAME_MS)
    spectrum = stft(waveform, size)
    ratio = _mean_power(stft(like, size), rate_hz) / _mean_power(spectrum, rate_hz)
    return istft(spectrum * ratio.sqrt()[:, None], size, len(waveform))


def _mean_power(spectrum: torch.Tensor, rate_hz: int) -> torch.Tensor:
    bins = round(_COLOUR_HZ / (rate_hz / 2) * len(spectrum)) // 2 * 2 + 1
    return _smoothed(spectrum.abs().square().mean(1), bins)


def _power_over_time(waveform: torch.Tensor, rate_hz: int) -> torch.Tensor:
    return _smoothed(waveform.square(), int(_LEVEL_FRAME_S * rate_hz) // 2 * 2 + 1)


def _smoothed(values: torch.Tensor, size: int) -> torch.Tensor:
    from scipy.ndimage import uniform_filter1d

    # in double precision: it keeps a running sum, which rounding could turn negative
    mean = uniform_filter1d(values.numpy().astype(np.float64), size, mode="nearest")
    return torch.from_numpy(mean.clip(0) + _TINY).to(values.dtype)
