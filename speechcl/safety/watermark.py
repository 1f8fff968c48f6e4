"""An inaudible mark in machine-made speech that says so, and carries a number of 16 bits.

Speech is cut into cells of 32 ms and 94 Hz between 0.34 and 6.34 kHz. A cell's value is its level
in dB next to its neighbours', squashed. A mark is a pattern of signs over 0.96 s of cells, over
and over; the level of cells is turned up or down by at most 1.5 dB, where the least change helps
most, until their values lean towards the pattern. Reading correlates values with every pattern.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechcl.data.sound_files import MAX_RATE_HZ

MESSAGE_BITS = 16
FALSE_ALARM = 1e-6
MIN_RATE_HZ = 8_000

_RATE_HZ = 16_000  # at which cells are cut, whatever the rate of the speech
_WINDOW, _HOP = 512, 128
_CELL_HOPS, _CELL_BINS, _FIRST_BIN = 4, 3, 11
_TIMES, _BANDS = 30, 64  # cells of a pattern
_PERIOD_HOPS = _TIMES * _CELL_HOPS
_PERIOD = _PERIOD_HOPS * _HOP  # samples
# A message is two symbols of 8 bits; the third, their sum in GF(2^8), checks them. A symbol is a
# Walsh function of 128 chips or its negative, so that any two symbols are orthogonal or opposite.
_SYMBOLS, _CHIPS = 3, 128
_CELLS_PER_CHIP = _TIMES * _BANDS // (_SYMBOLS * _CHIPS)
_HYPOTHESES = _PERIOD_HOPS << MESSAGE_BITS  # in a window: where a pattern starts, and which it is

_FLOOR = 10**-4.5  # of the mean energy of cells; what is fainter hardly counts
_SQUASH_DB = 3.0
_MAX_CHANGE_DB, _STEP_DB, _STEPS = 1.5, 0.5, 3
_ADD_PERIODS, _READ_PERIODS = 30, 300  # done at once, to bound memory
_SPAN_PERIODS = 4  # windows within which marked speech is looked for
_FADE = 128


@dataclass(frozen=True)
class Watermark:
    """What was read from a waveform.

    Arguments
    ---------
    present : bool
        Whether there is a mark: ``false_alarm`` is at most ``FALSE_ALARM``.
    message : int or None
        Its number, 0 to 65535; None where no mark is present.
    score : float
        Correlation of the best pattern, in standard deviations of that of unmarked speech with
        one pattern.
    false_alarm : float
        Bound on the chance that unmarked speech of this length scores so high.
    start_s, end_s : float
        The part of the waveform in which the mark is clearest.

    Example
    -------
    >>> Watermark(True, 7, 12.0, 1e-20, 0.0, 4.0).message
    7
    """

    present: bool
    message: int | None
    score: float
    false_alarm: float
    start_s: float
    end_s: float


def add_watermark(waveform: Tensor, rate_hz: int, message: int = 0) -> Tensor:
    """Mark speech as machine-made.

    Only what lies between 0.3 and 6.4 kHz changes, in proportion to the speech that is there.

    Arguments
    ---------
    waveform : torch.Tensor
        Waveform (time,) in [-1, 1]. Silence stays as it is; so does what is too short for a
        cell, 32 ms.
    rate_hz : int
        Its sample rate, 8000 or more.
    message : int
        The number to carry, 0 to 65535.

    Returns
    -------
    torch.Tensor
        Waveform (time,) in [-1, 1], float32, on the same device.

    Raises
    ------
    ValueError
        If the waveform is empty, not finite or not (time,), or rate or message are out of range.

    Source
    ------
    Spread spectrum: Cox et al. 1997, "Secure spread spectrum watermarking for multimedia"; signs
    on log magnitudes and the removal of the host's own level: Kirovski and Malvar 2003,
    "Spread-spectrum watermarking of audio signals"; letting the embedder know the host: Malvar
    and Florencio 2003, "Improved spread spectrum". Deviates: the change is found by ascending
    the gradient of the reader's own score, with a bound on every level.

    Example
    -------
    >>> noise = 0.1 * torch.randn(48000)
    >>> marked = add_watermark(noise, rate_hz=16000, message=4242)
    >>> read_watermark(noise, 16000).present, read_watermark(marked, 16000).message
    (False, 4242)
    """
    if not 0 <= message < 1 << MESSAGE_BITS:
        raise ValueError(f"message is {message}: choose 0 to {(1 << MESSAGE_BITS) - 1}")
    samples = _checked(waveform, rate_hz)
    host = torch.from_numpy(_resampled(samples, rate_hz, _RATE_HZ))
    signs = torch.from_numpy(pattern(message)).float()
    change = [_change(block, signs) for block in host.split(_ADD_PERIODS * _PERIOD)]
    added = _resampled(torch.cat(change).numpy(), _RATE_HZ, rate_hz)
    added = np.pad(added, (0, max(0, len(samples) - len(added))))[: len(samples)]
    return torch.from_numpy((samples + added).clip(-1.0, 1.0)).to(waveform.device)


def read_watermark(waveform: Tensor, rate_hz: int) -> Watermark:
    """Look for a mark anywhere in a waveform.

    The whole is tried, and every window of 3.84 s, so that marked speech is also found inside
    other sound. Where a pattern starts need not be known.

    Arguments
    ---------
    waveform : torch.Tensor
        Waveform (time,) in [-1, 1], of any level.
    rate_hz : int
        Its sample rate, 8000 or more.

    Returns
    -------
    Watermark
        The clearest mark.

    Raises
    ------
    ValueError
        If the waveform is empty, not finite or not (time,), or the rate is out of range.

    Source
    ------
    Threshold: for signs drawn at random, independent of the speech, the normalised correlation
    exceeds z with probability exp(-z^2 / 2) at most (Hoeffding 1963); the chance of a false alarm
    is that, times the patterns, starts and windows that were tried. It holds for any speech.

    Example
    -------
    >>> read_watermark(torch.zeros(16000), 16000)
    Watermark(present=False, message=None, score=0.0, false_alarm=1.0, start_s=0.0, end_s=1.0)
    """
    samples = _checked(waveform, rate_hz)
    host = torch.from_numpy(_resampled(samples, rate_hz, _RATE_HZ))
    best, where, windows = (0.0, 0), (0, len(host)), 0
    for start, block in _blocks(host):
        for first, last, folded in _windows(_folded(block)):
            windows += 1
            found = _best_message(folded, best[0])
            if found is not None:
                best = found
                where = (start + first * _PERIOD, min(start + last * _PERIOD, len(host)))
    score, message = best
    # The exponent, not the power, since a clear mark's would underflow.
    log_chance = math.log(max(windows, 1) * _HYPOTHESES) - score**2 / 2
    false_alarm = math.exp(min(0.0, log_chance))
    present = false_alarm <= FALSE_ALARM
    start_s, end_s = (sample / _RATE_HZ for sample in where)
    return Watermark(present, message if present else None, score, false_alarm, start_s, end_s)


def pattern(message: int) -> NDArray[np.float64]:
    """Return the signs that carry a message.

    Arguments
    ---------
    message : int
        0 to 65535.

    Returns
    -------
    numpy.ndarray
        Of -1 and 1, (times, bands) = (30, 64): whether a cell shall be louder than its neighbours.

    Source
    ------
    Biorthogonal symbols (first-order Reed-Muller code) under a parity symbol: patterns of two
    messages agree in one symbol at most, that is, they correlate by a third at most.

    Example
    -------
    >>> here, there = pattern(0x0102), pattern(0x0304)
    >>> here.shape, float((here * there).mean())
    ((30, 64), 0.0)
    """
    cells, signs = _layout()
    first, second = message >> 8, message & 0xFF
    walsh = _walsh()
    chips = [walsh[symbol % _CHIPS] * (1 - 2 * (symbol // _CHIPS))
             for symbol in (first, second, first ^ second)]  # fmt: skip
    flat = np.empty(_TIMES * _BANDS)
    flat[cells] = signs * np.repeat(np.concatenate(chips), _CELLS_PER_CHIP)
    return flat.reshape(_TIMES, _BANDS)


def cell_values(waveform: Tensor) -> Tensor:
    """Return by how much cells stand out, for a cell that starts at every hop.

    Arguments
    ---------
    waveform : torch.Tensor
        Waveform (time,) at 16 kHz, at least 512 samples.

    Returns
    -------
    torch.Tensor
        Values (hops, 64) in [-1, 1]; differentiable.

    Example
    -------
    >>> cell_values(torch.randn(16000)).shape
    torch.Size([123, 64])
    """
    energy = _spectrum(waveform).abs().square().T  # (frames, bins)
    bands = energy[:, _FIRST_BIN : _FIRST_BIN + _CELL_BINS * _BANDS]
    bands = bands.reshape(len(energy), _BANDS, _CELL_BINS).sum(2)
    cells = bands.unfold(0, _CELL_HOPS, 1).sum(-1)  # (hops, bands)
    mean = cells.detach().mean()
    if not mean > 0:
        return torch.zeros_like(cells)
    level_db = 10 * torch.log10(cells / mean + _FLOOR)
    # A cell less the mean of the two on either side, in time and then in frequency.
    taps = torch.tensor([-0.25, -0.25, 1.0, -0.25, -0.25])
    padding = (2, 2, 2 * _CELL_HOPS, 2 * _CELL_HOPS)
    padded = torch.nn.functional.pad(level_db[None, None], padding, mode="replicate")
    kernel = torch.outer(taps, taps)[None, None]
    stands_out = torch.nn.functional.conv2d(padded, kernel, dilation=(_CELL_HOPS, 1))
    return torch.tanh(stands_out[0, 0] / _SQUASH_DB)


def _change(host: Tensor, signs: Tensor) -> Tensor:
    """Return what to add to a block (time,) at 16 kHz."""
    if len(host) < _WINDOW or not host.any():
        return torch.zeros_like(host)
    spectrum = _spectrum(host)
    gain_db = torch.zeros(spectrum.shape)

    def changed(gain_db: Tensor) -> Tensor:
        louder = spectrum * torch.pow(10.0, gain_db / 20)
        return torch.istft(louder, _WINDOW, _HOP, window=_window(), length=len(host))

    for _ in range(_STEPS):
        gain_db.requires_grad_()
        score = _lean(cell_values(changed(gain_db)), signs)
        (slope,) = torch.autograd.grad(score, gain_db)
        step = _STEP_DB * slope / slope.square().mean().sqrt().clamp_min(1e-30)
        gain_db = (gain_db.detach() + step).clamp(-_MAX_CHANGE_DB, _MAX_CHANGE_DB)
    fade = torch.linspace(0.0, 1.0, _FADE)  # no step where blocks meet
    change = changed(gain_db) - host
    change[:_FADE] *= fade
    change[-_FADE:] *= fade.flip(0)
    return change


def _lean(values: Tensor, signs: Tensor) -> Tensor:
    """Return the correlation of values (hops, bands) with a pattern, over and over."""
    cells = values[::_CELL_HOPS]
    repeated = signs.repeat(math.ceil(len(cells) / _TIMES), 1)[: len(cells)]
    return (cells * repeated).sum() / cells.square().sum().clamp_min(1e-12).sqrt()


def _blocks(host: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Cut a waveform into long blocks that share a window's length; each with its start."""
    step = (_READ_PERIODS - _SPAN_PERIODS) * _PERIOD
    last = max(1, len(host) - _SPAN_PERIODS * _PERIOD)
    for start in range(0, last, step):
        block = host[start : start + _READ_PERIODS * _PERIOD]
        if len(block) >= _WINDOW:
            yield start, block


def _folded(host: Tensor) -> NDArray[np.float64]:
    """Return values by period (periods, hops of a period, bands)."""
    values = cell_values(host).double().numpy()
    values = np.pad(values, ((0, -len(values) % _PERIOD_HOPS), (0, 0)))
    return values.reshape(-1, _PERIOD_HOPS, _BANDS)


def _windows(
    periods: NDArray[np.float64],
) -> Iterator[tuple[int, int, NDArray[np.float64]]]:
    """Yield first and last period of each window, and its values summed over periods."""
    count = len(periods)
    yield 0, count, periods.sum(0)
    if count > _SPAN_PERIODS:
        for first in range(count - _SPAN_PERIODS + 1):
            last = first + _SPAN_PERIODS
            yield first, last, periods[first:last].sum(0)


def _best_message(folded: NDArray[np.float64], least: float) -> tuple[float, int] | None:
    """Return score and message of the pattern that best fits values (hops, bands).

    None unless it scores above ``least``. Every message counts at every start; the best of each
    symbol by itself bounds what a start can give, so few starts need all their messages tried.
    """
    size = np.sqrt(np.square(folded).sum(1).reshape(_TIMES, _CELL_HOPS).sum(0))
    size = np.tile(size, _TIMES)  # of the cells that start with hop 0, 1, ... of a period
    cells, signs = _layout()
    hops = np.arange(_PERIOD_HOPS)[:, None] + _CELL_HOPS * (cells // _BANDS)
    chips = folded[hops % _PERIOD_HOPS, cells % _BANDS] * signs
    chips = chips.reshape(_PERIOD_HOPS, _SYMBOLS, _CHIPS, _CELLS_PER_CHIP).sum(-1)
    plus = chips @ _walsh().T / np.maximum(size, 1e-12)[:, None, None]
    symbols = np.concatenate([plus, -plus], axis=2)  # (starts, 3, 256)
    bounds = symbols.max(2).sum(1)
    best = None
    for start in np.argsort(-bounds):
        if bounds[start] <= least:
            break
        first, second, check = symbols[start]
        every = first[:, None] + second + check[_sums()]
        message = int(every.argmax())
        if every.flat[message] > least:
            least = float(every.flat[message])
            best = (least, message)
    return best


@functools.cache
def _layout() -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return which cell carries what, chip by chip, and the sign of each; the same for ever."""
    count = _TIMES * _BANDS
    drawn = hashlib.shake_256(b"speechcl watermark 1").digest(9 * count)
    cells = np.argsort(np.frombuffer(drawn[: 8 * count], ">u8"), kind="stable").astype(np.int64)
    signs = 1 - 2 * (np.frombuffer(drawn[8 * count :], np.uint8) & 1).astype(np.float64)
    return cells, signs


@functools.cache
def _walsh() -> NDArray[np.float64]:
    matrix = np.ones((1, 1))
    while len(matrix) < _CHIPS:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


@functools.cache
def _sums() -> NDArray[np.int64]:
    symbols = np.arange(2 * _CHIPS)
    return symbols[:, None] ^ symbols


@functools.cache
def _window() -> Tensor:
    return torch.hann_window(_WINDOW)


def _spectrum(waveform: Tensor) -> Tensor:
    return torch.stft(
        waveform, _WINDOW, _HOP, window=_window(), pad_mode="constant", return_complex=True
    )


def _resampled(samples: NDArray[np.float32], from_hz: int, to_hz: int) -> NDArray[np.float32]:
    import soxr

    return samples if from_hz == to_hz else soxr.resample(samples, from_hz, to_hz)


def _checked(waveform: Tensor, rate_hz: int) -> NDArray[np.float32]:
    if waveform.ndim != 1 or not len(waveform) or not torch.isfinite(waveform).all():
        raise ValueError(
            f"waveform of shape {tuple(waveform.shape)} must be (time,), not empty and finite: "
            "mix to one channel or drop the clip"
        )
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise ValueError(f"rate_hz is {rate_hz}: choose {MIN_RATE_HZ} to {MAX_RATE_HZ}")
    return waveform.detach().to("cpu", torch.float32).numpy()
