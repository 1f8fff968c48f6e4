"""A stream of four words in two tasks: each has a pattern of its own, learnt in seconds."""

import functools
from collections.abc import Callable
from pathlib import Path

import torch

from speechcl.backbones.audio_text import AudioText
from speechcl.brains.audio_text import AudioTextBrain
from speechcl.data.class_streams import class_stream
from speechcl.data.features import FeatureSet
from speechcl.data.labelled import Classes
from speechcl.engine import Engine, Training
from speechcl.method import Method

WORDS = ("yes", "no", "left", "right")
ADAMW = functools.partial(torch.optim.AdamW, lr=0.003)
GROUPS = (("left", "no"), ("yes", "right"))  # not in the order of the labels


def small_model(seed: int = 0) -> AudioText:
    torch.manual_seed(seed)
    return AudioText(width=16, audio_layers=1, text_layers=1, heads=2, embedding=8)


def word_clips(per_word: int = 21, words: tuple[str, ...] = WORDS) -> FeatureSet:
    """Two thirds of the clips are for training."""
    generator = torch.Generator().manual_seed(3)
    patterns = torch.randn(len(words), 12, 40, generator=generator)
    label = torch.arange(per_word * len(words)) % len(words)
    noise = 0.5 * torch.randn(len(label), 12, 40, generator=generator)
    rows = [
        {"ID": str(i), "text": words[one], "split": "test" if i % 3 == 0 else "train"}
        for i, one in enumerate(label.tolist())
    ]
    return FeatureSet(patterns[label] + noise, rows, Classes(words))


def audio_text_engine(
    folder: Path,
    method: Method,
    *,
    epochs: int = 2,
    batch_size: int = 9,
    optimizer: Callable = ADAMW,
    **run_opts,
) -> Engine:
    return Engine(
        brain=AudioTextBrain,
        modules={"model": small_model()},
        method=method,
        stream=class_stream(word_clips(), GROUPS),
        training=Training(
            optimizer,
            epochs=epochs,
            batch_size=batch_size,
            seed=1,
            checkpoint_interval_s=0.0,
        ),
        folder=folder,
        run_opts={"noprogressbar": True, "device": "cpu", **run_opts},
    )
