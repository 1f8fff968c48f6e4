"""What a voice model makes of a recording while it learns: sound, spectrograms, alignment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import torch
from torch import Tensor

from speechcl.data.audio import write_audio
from speechcl.data.files import atomic_path
from speechcl.data.phonemes import SYMBOLS

if TYPE_CHECKING:
    from speechcl.backbones.usat.model import USAT
    from speechcl.backbones.usat.spectrogram import LogMelSpectrogram

_READABLE = 40  # symbols that can be named beside a picture
_DB = 20 / numpy.log(10)


@torch.no_grad()
def write_example(voice: USAT, mel: LogMelSpectrogram, batch: Any, place: Path) -> None:
    """Write the first text of a batch as it is spoken now, and a picture beside its recording.

    Arguments
    ---------
    voice : USAT
        In evaluation mode.
    mel : LogMelSpectrogram
        What pictures are made with.
    batch : dict
        See ``speechcl.data.voices.VoiceSet``; on the model's device.
    place : Path
        Without a suffix; gets ``.wav`` and ``.png``.

    Example
    -------
    >>> from speechcl.backbones.usat import USAT
    >>> from speechcl.backbones.usat.spectrogram import LogMelSpectrogram
    >>> voice, sound = USAT("usat_tiny").eval(), 0.1 * torch.randn(1, 8000)
    >>> batch = {"ids": torch.tensor([[0, 60, 0]]), "id_lengths": torch.tensor([3])}
    >>> batch |= {"waveform": sound, "samples": torch.tensor([8000])}
    >>> batch |= {"reference": sound, "reference_samples": torch.tensor([8000])}
    >>> write_example(voice, LogMelSpectrogram(16000), batch, getfixture("tmp_path") / "epoch_1")
    >>> sorted(path.name for path in getfixture("tmp_path").iterdir())
    ['epoch_1.png', 'epoch_1.wav']
    """
    item = {name: value[:1] for name, value in batch.items()}
    symbols, samples = int(item["id_lengths"]), int(item["samples"])
    ids, waveform = item["ids"][:, :symbols], item["waveform"][:, :samples]
    speaker = voice.speaker(item["reference"], item["reference_samples"])
    latents = voice.encode(waveform)
    given = (ids, item["id_lengths"])
    aligned = voice.align(*given, latents._replace(z=latents.mean), speaker)
    spoken = voice.retell(
        *given, waveform, item["samples"], item["reference"], item["reference_samples"], speaker
    )
    write_audio(place.with_suffix(".wav"), spoken[0].cpu().clamp(-1, 1), voice.config.rate_hz)
    pictures = [_DB * mel(sound)[0].cpu().numpy() for sound in (waveform, spoken)]
    frame_ms = 1000 * voice.config.hop / voice.config.rate_hz
    with atomic_path(place.with_suffix(".png")) as temporary:
        _draw(pictures, aligned.durations[0, 0], ids[0].tolist(), frame_ms, temporary)


def _draw(
    pictures: Sequence[numpy.ndarray],
    durations: Tensor,
    ids: Sequence[int],
    frame_ms: float,
    file: Path,
) -> None:
    """Draw both spectrograms on one scale, and which symbol each frame is of."""
    from matplotlib.figure import Figure  # takes a second, which only training need wait for

    of_frame = torch.arange(len(durations), device=durations.device).repeat_interleave(durations)
    frames = len(of_frame)
    figure = Figure(figsize=(8, 7.5), layout="constrained")
    axes = figure.subplots(3, 1, sharex=True, height_ratios=[1, 1, 1.4])
    loudest = max(float(one.max()) for one in pictures)
    seconds = frames * frame_ms / 1000
    for axis, picture, title in zip(axes, pictures, ("recording", "spoken"), strict=False):
        axis.imshow(
            picture[:, :frames],
            origin="lower",
            aspect="auto",
            extent=(0, seconds, 0, len(picture)),
            vmin=loudest - 80,
            vmax=loudest,
        )
        axis.set(title=title, ylabel="mel band")
    edges = numpy.arange(frames + 1) * frame_ms / 1000
    axes[2].stairs(of_frame.cpu().numpy(), edges, baseline=None)
    axes[2].set(title="alignment", xlabel="seconds", ylabel="symbol")
    named = [place for place, number in enumerate(ids) if SYMBOLS[number] not in "_ "]
    if len(named) <= _READABLE:
        axes[2].set_yticks(named, [SYMBOLS[ids[place]] for place in named], fontsize=6)
    figure.savefig(file, dpi=100)
