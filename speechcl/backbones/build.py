"""Networks by name, and models of the transformers library by folder or configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from speechcl.backbones.aasist import AASIST
from speechcl.backbones.audio_text import AudioText
from speechcl.backbones.huggingface import load_transformer
from speechcl.backbones.lcnn import LCNN
from speechcl.backbones.resnet import ResNet

NAMES: dict[str, Callable[[], nn.Module]] = {
    "aasist": AASIST,
    "audio_text": AudioText.from_pretrained,
    "lcnn": LCNN,
    "resnet": ResNet,
}


def build_backbone(source: str | Path | Mapping[str, Any], kind: str | None = None) -> nn.Module:
    """Make a network with its default sizes, or read a transformers model.

    Arguments
    ---------
    source : str, Path or Mapping
        A name of ``NAMES``; with ``kind``, what ``load_transformer`` takes: a folder, the path of a
        config.json, or its content.
    kind : str, optional
        What a transformers model is to do: "classification", "causal_lm", "seq2seq", "image_text".

    Raises
    ------
    ValueError
        If there is no such name, or nothing can be read there.

    Example
    -------
    >>> type(build_backbone("lcnn")).__name__
    'LCNN'
    >>> build_backbone("lcn")
    Traceback (most recent call last):
    ValueError: no network is called 'lcn': there are aasist, audio_text, lcnn, resnet; ...
    """
    if kind is not None:
        return load_transformer(source, kind)
    if not isinstance(source, str) or source not in NAMES:
        raise ValueError(
            f"no network is called {source!r}: there are {', '.join(NAMES)}; for a model of "
            "transformers say its kind as well"
        )
    return NAMES[source]()
