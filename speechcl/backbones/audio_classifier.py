"""A classifier on the pre-trained audio half of AudioText."""

from __future__ import annotations

from torch import Tensor, nn

from speechcl.backbones.audio_text import AudioText


class AudioClassifier(nn.Module):
    """What AudioText knows of the sound of words, and an output for every class.

    The outputs begin at zero, so those of classes that no loss has asked for stay there.

    Arguments
    ---------
    classes : int
        Outputs.
    encoder : AudioText, optional
        Whose audio half to take; by default the pre-trained one of this package.

    Example
    -------
    >>> import torch
    >>> logits, embedding = AudioClassifier(classes=10)(torch.randn(2, 101, 40))
    >>> logits.shape, embedding.shape
    (torch.Size([2, 10]), torch.Size([2, 128]))
    """

    def __init__(self, classes: int, encoder: AudioText | None = None) -> None:
        super().__init__()
        self.encoder = encoder or AudioText.from_pretrained()
        for name in ("text", "sounds", "logit_scale"):  # the half that reads names
            delattr(self.encoder, name)
        self.classify = nn.Linear(self.encoder.sizes["embedding"], classes)
        nn.init.zeros_(self.classify.weight)
        nn.init.zeros_(self.classify.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (batch, classes) and embedding of features (batch, frames, bands)."""
        unit = self.encoder.encode_audio(features)
        embedding = unit * unit.shape[1] ** 0.5  # a size of 1 a channel, as norms give
        return self.classify(embedding), embedding
