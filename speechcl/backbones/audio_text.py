"""A clip and its name in one space: two small transformers trained on pairs, as CLIP is."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from speechcl.backbones.filterbanks import LogMel
from speechcl.data.files import atomic_path
from speechcl.data.phones import phones

# what espeak-ng writes American English with; a space parts words
SOUNDS = "abdefhijklmnopstuvwxzæðŋɐɑɔəɚɛɜɡɪɬɹɾʃʊʌʒʔθᵻ "
_UNKNOWN, _FIRST = 1, 2  # 0 is padding, 1 any sound that is not listed, 2 the first listed
RATE_HZ = 8000
_RANGE = 8.0  # in units of log energy (35 dB): what is fainter than the loudest counts as silence
_SPREAD = 2.0  # of log-mel energies, about
PUBLISHED = Path(__file__).parents[1] / "assets" / "audio_text"


class Embeddings(NamedTuple):
    """Unit vectors of clips (batch, width) and names (names, width); what cosines are times."""

    audio: Tensor
    text: Tensor
    scale: Tensor


class Block(nn.Module):
    """A transformer block whose six maps are plain linear layers, for adapters to find.

    Arguments
    ---------
    width : int
        Of the input and output.
    heads : int
        Of the attention.

    Source: Xiong et al., "On layer normalization in the transformer architecture", ICML 2020
    (norms before each part).

    Example
    -------
    >>> x, real = torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.bool)
    >>> Block(width=8, heads=2)(x, real).shape
    torch.Size([2, 5, 8])
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 2 * width)
        self.fc2 = nn.Linear(2 * width, width)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """Map (batch, time, width) to the same; only where ``real`` (batch, time) is looked at."""
        normed = self.attention_norm(x)
        query, key, value = (
            project(normed).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        seen = functional.scaled_dot_product_attention(query, key, value, real[:, None, None])
        x = x + self.out_proj(seen.transpose(1, 2).flatten(2))
        return x + self.fc2(functional.gelu(self.fc1(self.feed_forward_norm(x))))


class Tower(nn.Module):
    """Blocks on a sequence, its mean over time, a unit vector.

    Where something stands is told by a convolution over its neighbours, so that any length works.

    Arguments
    ---------
    width, layers, heads : int
        Of the blocks.
    embedding : int
        Width of the result.
    reach : int
        Neighbours on each side.

    Source: Baevski et al., "wav2vec 2.0", NeurIPS 2020 (convolution for positions). Deviates: one
    filter a channel.

    Example
    -------
    >>> tower = Tower(width=8, layers=1, heads=2, embedding=3, reach=1)
    >>> found = tower(torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.bool))
    >>> found.shape, bool(found.norm(dim=1).sub(1).abs().max() < 1e-5)
    (torch.Size([2, 3]), True)
    """

    def __init__(self, width: int, layers: int, heads: int, embedding: int, reach: int) -> None:
        super().__init__()
        self.position = nn.Conv1d(width, width, 2 * reach + 1, padding=reach, groups=width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, embedding)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """Map (batch, time, width) to (batch, embedding); only where ``real`` is looked at."""
        x = x * real[..., None]
        x = x + self.position(x.transpose(1, 2)).transpose(1, 2)
        for block in self.blocks:
            x = block(x, real)
        share = real / real.sum(1, keepdim=True)
        mean = (self.norm(x) * share[..., None]).sum(1)
        return functional.normalize(self.project(mean), dim=1)


class AudioText(nn.Module):
    """Embed a clip, and the sounds of a name, such that the two are close where they belong.

    A class needs no clip to be known: its name is enough. ``from_pretrained`` has weights trained
    on a thousand English words; 1.2 million parameters. Features are those of ``front_end``, of any
    length. A frame whose bands are all alike is not looked at: digital silence, or padding.
    A gain or the colour of a channel does not matter, nor what is 35 dB below the loudest.

    Arguments
    ---------
    bands : int
        Width of the features.
    width, heads : int
        Of the blocks of both towers.
    audio_layers, text_layers : int
        Their numbers of blocks.
    embedding : int
        Width of the common space.

    Source: Radford et al., "Learning transferable visual models from natural language supervision",
    ICML 2021 (CLIP); Elizalde et al., "CLAP: learning audio concepts from natural language
    supervision", ICASSP 2023. Deviates: names are read as sounds, not as letters, since audio of a
    word holds nothing else of it.

    Example
    -------
    >>> model = AudioText.from_pretrained()
    >>> names = ["seven", "computer", "happy"]
    >>> (model.encode_text(names) @ model.encode_text(["sevens"]).T).argmax(0)
    tensor([0])
    >>> model(torch.randn(2, 50, 40)).shape
    torch.Size([2, 128])
    """

    def __init__(
        self,
        bands: int = 40,
        width: int = 144,
        audio_layers: int = 4,
        text_layers: int = 2,
        heads: int = 4,
        embedding: int = 128,
    ) -> None:
        super().__init__()
        self.sizes = {
            "bands": bands,
            "width": width,
            "audio_layers": audio_layers,
            "text_layers": text_layers,
            "heads": heads,
            "embedding": embedding,
        }
        self.subsample = nn.ModuleList(
            nn.Conv1d(inputs, width, 5, stride=2, padding=2) for inputs in (bands, width)
        )
        self.audio = Tower(width, audio_layers, heads, embedding, reach=4)
        self.sounds = nn.Embedding(_FIRST + len(SOUNDS), width, padding_idx=0)
        self.text = Tower(width, text_layers, heads, embedding, reach=2)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))  # as CLIP begins

    def forward(self, features: Tensor, names: Tensor | None = None) -> Tensor | Embeddings:
        """Embed clips; with ``names`` (names, sounds), of ``tokenise``, embed these as well.

        Returns
        -------
        Tensor or Embeddings
            (batch, embedding) without names.
        """
        audio = self.encode_audio(features)
        if names is None:
            return audio
        return Embeddings(audio, self.encode_text(names), self.logit_scale.exp())

    def encode_audio(self, features: Tensor) -> Tensor:
        """Embed features (batch, frames, bands) as (batch, embedding)."""
        real = features.amax(2) > features.amin(2)
        longest = int(real.any(0).nonzero().max()) + 1 if real.any() else 1
        features, real = features[:, :longest], real[:, :longest]
        real = real | (torch.arange(longest, device=real.device) == 0)  # of an empty clip, a frame
        x = _level(features, real).transpose(1, 2)
        for convolution in self.subsample:
            x = functional.gelu(convolution(x * real[:, None]))
            real = real[:, ::2]
        return self.audio(x.transpose(1, 2), real)

    @staticmethod
    def front_end() -> LogMel:
        """Return what turns waveforms at 8 kHz into features: 40 bands, every 10 ms."""
        return LogMel(40, 256, 200, 80, RATE_HZ, RATE_HZ // 2, normalise=False)

    def encode_text(self, names: Tensor | Sequence[str]) -> Tensor:
        """Embed names, or what ``tokenise`` made of them, as (names, embedding)."""
        if not isinstance(names, Tensor):
            names = tokenise(names).to(self.logit_scale.device)
        return self.text(self.sounds(names), names != 0)

    @classmethod
    def from_pretrained(cls, folder: Path | str = PUBLISHED) -> AudioText:
        """Read a model from a folder, by default the one that is part of this package.

        Raises
        ------
        ValueError
            If the folder holds no such model.
        """
        sizes, weights = Path(folder) / "config.json", Path(folder) / "model.safetensors"
        if not (sizes.is_file() and weights.is_file()):
            raise ValueError(
                f"{folder}: no config.json and model.safetensors in it; give a folder that "
                "AudioText.save has written"
            )
        model = cls(**json.loads(sizes.read_text(encoding="utf-8")))
        model.load_state_dict({name: one.float() for name, one in load_file(weights).items()})
        return model.eval()

    def save(self, folder: Path | str) -> None:
        """Write sizes and half-precision weights into a folder."""
        weights = {name: one.half().contiguous() for name, one in self.state_dict().items()}
        with atomic_path(Path(folder) / "model.safetensors") as temporary:
            save_file(weights, temporary)
        with atomic_path(Path(folder) / "config.json") as temporary:
            temporary.write_text(json.dumps(self.sizes, indent=1) + "\n", encoding="utf-8")


def tokenise(names: Sequence[str]) -> Tensor:
    """Turn names into the numbers of their sounds, shape (names, sounds), padded with 0.

    Example
    -------
    >>> tokenise(["no", "a sea"])
    tensor([[13, 14, 39,  0],
            [26, 45, 16,  8]])
    """
    spoken = [phones(name) for name in names]
    tokens = torch.zeros(len(names), max(map(len, spoken)), dtype=torch.int64)
    for row, sounds in zip(tokens, spoken, strict=True):
        found = [SOUNDS.find(sound) for sound in sounds]
        row[: len(found)] = torch.tensor([_UNKNOWN if f < 0 else _FIRST + f for f in found])
    return tokens


def _level(features: Tensor, real: Tensor) -> Tensor:
    """Cut off what is faint, then take each band's mean away; padding stays 0."""
    every = real[..., None]
    loudest = features.masked_fill(~every, -torch.inf).amax((1, 2), keepdim=True)
    x = torch.maximum(features, loudest - _RANGE) * every
    mean = x.sum(1, keepdim=True) / every.sum(1, keepdim=True)
    return (x - mean) * every / _SPREAD
