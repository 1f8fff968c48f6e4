"""A small transformer that classifies short clips of speech from their log-mel energies."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from speechcl.backbones.audio_text import Tower


class SpeechEncoder(nn.Module):
    """Two convolutions that halve the frames, transformer blocks, a mean over time, a classifier.

    Attention is made of plain linear layers (``q_proj``, ``k_proj``, ``v_proj``, ``out_proj``,
    ``fc1``, ``fc2``), so that methods can protect, adapt or decompose each of them. A frame whose
    bands are all alike is not looked at: digital silence, or padding. Mean and scale of the bands
    are those of the first task (``standardise``) and stay as they are. The classifier begins at
    zero: outputs of classes that no loss has asked for stay there, and the cross-entropy keeps the
    sum of the others near zero, so that the highest output is of a class that was learnt.

    Arguments
    ---------
    classes : int
        Outputs.
    bands : int
        Of the log-mel energies.
    width : int
        Of the blocks and of the embedding.
    layers, heads : int
        Blocks, and attention heads in each.

    Source: Gulati et al., "Conformer", Interspeech 2020 (convolutions that shorten the sequence);
    the blocks are those of ``AudioText``.

    Example
    -------
    >>> logits, embedding = SpeechEncoder(classes=10)(torch.randn(2, 101, 40))
    >>> logits.shape, embedding.shape
    (torch.Size([2, 10]), torch.Size([2, 64]))
    """

    def __init__(
        self, classes: int, bands: int = 40, width: int = 64, layers: int = 2, heads: int = 4
    ) -> None:
        super().__init__()
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.zeros(bands))
        self.register_buffer("scale", torch.ones(bands))
        self.subsample = nn.ModuleList(
            nn.Conv1d(inputs, width, 5, stride=2, padding=2) for inputs in (bands, width)
        )
        self.tower = Tower(width, layers, heads, embedding=width, reach=4)
        self.classify = nn.Linear(width, classes)
        nn.init.zeros_(self.classify.weight)
        nn.init.zeros_(self.classify.bias)

    def standardise(self, features: Tensor) -> None:
        """Take mean and scale of each band from (items, frames, bands), those of the first task."""
        frames = features[looked_at(features)]
        self.mean.copy_(frames.mean(0))
        self.scale.copy_(frames.std(0).clamp_min(1e-5))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (batch, classes) and embedding of features (batch, frames, bands)."""
        real = looked_at(features)
        x = ((features - self.mean) / self.scale).transpose(1, 2)
        for convolution in self.subsample:
            x = functional.gelu(convolution(x * real[:, None]))
            real = real[:, ::2]
        unit = self.tower(x.transpose(1, 2), real)
        embedding = unit * unit.shape[1] ** 0.5  # a size of 1 a channel, as norms give
        return self.classify(embedding), embedding


def looked_at(features: Tensor) -> Tensor:
    """Return which frames hold sound, shape (batch, frames), and the first, so that there is one.

    Example
    -------
    >>> looked_at(torch.tensor([[[2.0, 2.0], [1.0, 2.0], [0.0, 0.0]]]))
    tensor([[ True,  True, False]])
    """
    first = torch.arange(features.shape[1], device=features.device) == 0
    return (features.amax(2) > features.amin(2)) | first
