"""Augmentation of waveforms: what is done to a clip is a function of the clip and a seed.

Seeds come from ``seed_for(seed, epoch, clip)``, so that neither the number of workers nor a restart
changes a clip. Both classes must be changed with the same probabilities: what only one class went
through becomes its label.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from speechcl.attacks.codecs import CODECS, codec

_SEEDS = 2**31


@dataclass(frozen=True)
class Augmentation(ABC):
    """A change of a waveform that is made with some probability; subclasses add its numbers.

    Arguments
    ---------
    probability : float
        Share of seeds that change the waveform, by keyword only.

    Raises
    ------
    ValueError
        If the probability is not within 0 and 1.

    Example
    -------
    >>> @dataclass(frozen=True)
    ... class Flip(Augmentation):
    ...     def change(self, waveform, generator):
    ...         return -waveform
    >>> [float(Flip(probability=0.5)(torch.ones(1), seed=seed)) for seed in range(4)]
    [1.0, 1.0, -1.0, -1.0]
    """

    probability: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability is {self.probability}: set it to a number from 0 to 1")

    def __call__(self, waveform: torch.Tensor, seed: int) -> torch.Tensor:
        """Return the waveform (time,), changed or as it is; the input is never written to.

        Raises
        ------
        ValueError
            If the waveform is empty, not finite or not of shape (time,).
        """
        if waveform.ndim != 1 or not len(waveform) or not torch.isfinite(waveform).all():
            raise ValueError(
                f"waveform of shape {tuple(waveform.shape)} must be (time,), not empty and finite: "
                "mix to one channel or drop the clip"
            )
        generator = np.random.default_rng(seed)
        if generator.random() >= self.probability:
            return waveform
        return self.change(waveform, generator)

    @abstractmethod
    def change(self, waveform: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
        """Return a changed copy (time,) of the waveform; all chance comes from the generator."""


@dataclass(frozen=True)
class Gain(Augmentation):
    """A random level, uniform in decibels, held back where the clip would leave [-1, 1].

    Detectors without level normalisation otherwise learn how loud a corpus is.

    Arguments
    ---------
    low_db, high_db : float
        Range of the gain.

    Example
    -------
    >>> Gain(-6.0206, -6.0206)(torch.tensor([0.5, -1.0]), seed=0)
    tensor([ 0.2500, -0.5000])
    >>> Gain(20.0, 20.0)(torch.tensor([0.25, -0.5]), seed=0)
    tensor([ 0.5000, -1.0000])
    """

    low_db: float = -12.0
    high_db: float = 6.0

    def change(self, waveform: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
        """Return the waveform times a gain."""
        gain = 10 ** (generator.uniform(self.low_db, self.high_db) / 20)
        peak = float(waveform.abs().max())
        return waveform * (gain if gain * peak <= 1 else 1 / peak)


@dataclass(frozen=True)
class Codec(Augmentation):
    """Code and decode with a random codec at a random level of compression.

    Arguments
    ---------
    kinds : Sequence
        Names out of ``speechcl.attacks.CODECS``, each as likely as any other.
    rate_hz : int
        Sample rate of the waveforms.

    Raises
    ------
    ValueError
        If a kind is unknown or none is given.

    Example
    -------
    >>> tone = 0.5 * torch.sin(2 * torch.pi * 200 * torch.arange(8000) / 16000)
    >>> coded = Codec(kinds=["ulaw", "alaw"])(tone, seed=0)
    >>> len(coded), 0 < float((coded - tone).abs().max()) < 0.02
    (8000, True)
    """

    kinds: Sequence[str] = tuple(CODECS)
    rate_hz: int = 16000

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [kind for kind in self.kinds if kind not in CODECS]
        if unknown or not self.kinds:
            raise ValueError(
                f"kinds is {list(self.kinds)}: choose one or more of {', '.join(CODECS)}"
            )

    def change(self, waveform: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
        """Return the waveform as the codec leaves it."""
        kind = self.kinds[int(generator.integers(len(self.kinds)))]
        return codec(waveform, self.rate_hz, kind, seed=int(generator.integers(_SEEDS)))


@dataclass(frozen=True)
class Compose(Augmentation):
    """Augmentations one after another, each with chance of its own.

    Arguments
    ---------
    steps : Sequence
        Augmentations, in order.

    Example
    -------
    >>> from speechcl.data.rawboost import RawBoost
    >>> steps = [RawBoost(5, probability=0.5), Codec(probability=0.3), Gain()]
    >>> augment = Compose(steps)
    >>> clip = 0.1 * torch.randn(16000, generator=torch.Generator().manual_seed(0))
    >>> changed = augment(clip, seed=7)
    >>> changed.shape, bool(changed.equal(augment(clip, seed=7)))
    (torch.Size([16000]), True)
    """

    steps: Sequence[Augmentation] = ()

    def change(self, waveform: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
        """Return the waveform after all steps."""
        for step, seed in zip(
            self.steps, generator.integers(_SEEDS, size=len(self.steps)), strict=True
        ):
            waveform = step(waveform, int(seed))
        return waveform
