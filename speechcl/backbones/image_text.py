"""CLIP as the brains want it: images and names of classes in one space."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from speechcl.backbones.huggingface import Source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PREPROCESSOR = "preprocessor_config.json"  # the file in which a checkpoint's colours stand
# mean and standard deviation of red, green and blue in CLIP's training
_MEAN, _SPREAD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class ImageNames(NamedTuple):
    """Unit vectors of images (batch, width) and names (names, width); what cosines are times."""

    image: Tensor
    text: Tensor
    scale: Tensor


class ImageTextModel(nn.Module):
    """A CLIP of transformers: a class needs no training image to be known, its name is enough.

    Arguments
    ---------
    model : PreTrainedModel
        From ``load_transformer`` with kind "image_text".
    tokenizer : PreTrainedTokenizerBase
        Of the same checkpoint.
    template : str
        What is said of a class, with ``{}`` for its name.
    colours : tuple
        Mean and standard deviation of the three colours in the model's training, see
        ``read_colours``.

    Raises
    ------
    ValueError
        If the template has no place for the name.

    Source: Radford et al., "Learning transferable visual models from natural language supervision",
    ICML 2021.

    Example
    -------
    >>> from speechcl.backbones.huggingface import load_tokenizer, load_transformer
    >>> sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    >>> tiny = {"model_type": "clip", "text_config": {**sizes, "vocab_size": 259},
    ...     "vision_config": {**sizes, "image_size": 8, "patch_size": 4}, "projection_dim": 6}
    >>> tokenizer = load_tokenizer("bytes")
    >>> model = ImageTextModel(load_transformer(tiny, "image_text", tokenizer), tokenizer)
    >>> images = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
    >>> found = model(images, model.tokenise(["cat", "dog"]))
    >>> found.image.shape, found.text.shape
    (torch.Size([3, 6]), torch.Size([2, 6]))
    """

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        template: str = "a photo of a {}.",
        colours: tuple[Sequence[float], Sequence[float]] = (_MEAN, _SPREAD),
    ) -> None:
        super().__init__()
        if "{}" not in template:
            raise ValueError(f"template is {template!r}: put {{}} where the name of a class goes")
        self.model: Any = model
        self.tokenizer, self.template = tokenizer, template
        self.mean: Tensor
        self.spread: Tensor
        for name, values in zip(("mean", "spread"), colours, strict=True):
            values_255 = 255 * torch.tensor(values)[:, None, None]
            self.register_buffer(name, values_255, persistent=False)

    def tokenise(self, names: Sequence[str]) -> Tensor:
        """Turn names of classes into tokens of what is said of them, shape (names, tokens).

        Raises
        ------
        ValueError
            If that is longer than the model reads.
        """
        texts = [self.template.format(name) for name in names]
        tokens = self.tokenizer(texts, padding=True, verbose=False)["input_ids"]
        longest, room = len(tokens[0]), self.model.config.text_config.max_position_embeddings
        if longest > room:
            raise ValueError(
                f"{max(texts, key=len)!r} has {longest} tokens, the model reads {room}: shorten it"
            )
        return torch.tensor(tokens)

    def forward(self, features: Tensor, names: Tensor) -> ImageNames:
        """Embed images and names.

        Arguments
        ---------
        features : Tensor
            Images of the model's size, 0 to 255, shape (batch, 3, height, width).
        names : Tensor
            From ``tokenise``.

        Returns
        -------
        ImageNames
        """
        pixels = (features - self.mean) / self.spread
        found = self.model(input_ids=names, pixel_values=pixels)
        return ImageNames(found.image_embeds, found.text_embeds, self.model.logit_scale.exp())

    def encode_text(self, names: Tensor) -> Tensor:
        """Embed names, from ``tokenise``, as unit vectors (names, width)."""
        # attention looks back only and the state at the first end token is taken: no mask needed
        found = self.model.get_text_features(input_ids=names)
        return functional.normalize(getattr(found, "pooler_output", found), dim=1)


def read_colours(source: Source) -> tuple[Sequence[float], Sequence[float]]:
    """Read which colours a checkpoint was trained with; CLIP's own where it does not say.

    Arguments
    ---------
    source : str, Path or Mapping
        As for ``load_transformer``; a folder perhaps with a preprocessor_config.json.

    Returns
    -------
    tuple
        Mean and standard deviation of red, green and blue, from 0 to 1.

    Raises
    ------
    ValueError
        If the file is not as transformers writes it.

    Example
    -------
    >>> read_colours("nowhere")[0]
    (0.48145466, 0.4578275, 0.40821073)
    """
    file = Path("" if isinstance(source, Mapping) else source) / PREPROCESSOR
    if isinstance(source, Mapping) or not file.is_file():
        return _MEAN, _SPREAD
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
        found = settings.get("image_mean", _MEAN), settings.get("image_std", _SPREAD)
        torch.tensor(found).reshape(2, 3)
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{file}: no image_mean and image_std of three numbers in it") from error
    return found
