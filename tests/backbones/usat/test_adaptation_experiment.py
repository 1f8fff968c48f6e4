"""Adapters against full tuning, on latents of synthetic speakers: the claims of the method.

24 phonemes have means in R^16. A speaker is a random invertible map of what is said, an offset and
a bend, all given by four numbers. Accented speakers have larger numbers and say eight phonemes
elsewhere. Text encoder, conditioned flow and speaker encoder learn 60 speakers; then new ones are
met with a few frames each. What is measured is the divergence per dimension on other frames.
"""

import copy
import dataclasses
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from speechcl.adapters import base_fingerprint
from speechcl.backbones.usat.losses import kl_loss
from speechcl.backbones.usat.points import AdapterPoint
from speechcl.backbones.usat.timbre_flow import TimbreFlow
from speechcl.backbones.usat.voices import (
    Selection,
    Vectors,
    VoiceSpec,
    add_voice,
    remove_voice,
    speaking,
    voice_tensors,
)

PHONEMES, SIZE, SPEAKER, SPEAKERS = 24, 16, 16, 60
NOISE = 0.25  # standard deviation of a frame about its phoneme
FRAMES = 240  # to adapt to, and to measure on


class World:
    """Says phonemes in the voices of speakers."""

    def __init__(self):
        draw = torch.Generator().manual_seed(1)
        self.draw = draw
        self.means = torch.randn(PHONEMES, SIZE, generator=draw)
        self.maps = 0.25 * torch.randn(4, SIZE, SIZE, generator=draw) / SIZE**0.5
        self.offsets = 0.5 * torch.randn(4, SIZE, generator=draw)
        self.base = [self.speaker() for _ in range(SPEAKERS)]

    def speaker(self, accented=False):
        e = torch.randn(4, generator=self.draw) * (1.3 if accented else 1.0)
        means = self.means.clone()
        if accented:
            moved = torch.randperm(PHONEMES, generator=self.draw)[:8]
            means[moved] += torch.randn(8, SIZE, generator=self.draw)
        turn = torch.linalg.matrix_exp(torch.einsum("i,ijk->jk", e, self.maps))
        return SimpleNamespace(means=means, turn=turn, offset=e @ self.offsets)

    def say(self, speaker, frames):
        """Return what is said, (frames,), and how, (frames, size)."""
        said = torch.randint(PHONEMES, (frames,), generator=self.draw)
        clean = speaker.means[said]
        clean = clean + NOISE * torch.randn(frames, SIZE, generator=self.draw)
        x = clean @ speaker.turn + speaker.offset
        return said, x + 0.2 * torch.tanh(x)

    def batch(self, speakers, frames):
        said, heard = zip(*(self.say(one, frames) for one in speakers), strict=True)
        return torch.stack(said), torch.stack(heard).transpose(1, 2)


class Attention(nn.Module):
    """Holds the place of a phoneme adapter."""

    def __init__(self, channels):
        super().__init__()
        self.attention = nn.ModuleDict({"point": AdapterPoint(channels)})
        self.attention.point = self.attention["point"]


class Phonemes(nn.Module):
    """What a phoneme says of latents."""

    def __init__(self, hidden=32):
        super().__init__()
        self.table = nn.Embedding(PHONEMES, hidden)
        self.layers = nn.ModuleList([Attention(hidden)])
        self.head = nn.Conv1d(hidden, 2 * SIZE, 1)

    def forward(self, said, mask):
        h = self.layers[0].attention.point(self.table(said).transpose(1, 2), mask)
        return self.head(h).chunk(2, dim=1)


class SmallVoice(nn.Module):
    """The parts of the voice model that adaptation is about; the alignment is known."""

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(speaker=SPEAKER)
        self.phonemes = Phonemes()
        self.flow = TimbreFlow(SIZE, 32, SPEAKER, couplings=6, kernel=1, layers=2)
        self.durations = nn.ModuleDict({"point": AdapterPoint(8)})
        self.durations.point = self.durations["point"]
        self.encoder = nn.Sequential(nn.Linear(2 * SIZE, 64), nn.ReLU(), nn.Linear(64, SPEAKER))
        self.vectors, self.selection = Vectors(), Selection()
        self.voice_spec = None

    def speaker(self, heard):
        return self.encoder(torch.cat([heard.mean(2), heard.std(2)], dim=1))

    def loss(self, said, heard, vectors):
        """Divergence per dimension."""
        mask = heard.new_ones(len(heard), 1, heard.shape[2])
        mean, log_scale = self.phonemes(said, mask)
        free = self.flow.remove_timbre(heard, mask, vectors)
        return kl_loss(free, torch.zeros_like(free), mean, log_scale, mask) / SIZE


def fit(model, parameters, batch, steps, lr):
    optimizer = torch.optim.AdamW(parameters, lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        batch().backward()
        nn.utils.clip_grad_norm_(parameters, 5.0)
        optimizer.step()


def trained_base(world):
    torch.manual_seed(0)
    model = SmallVoice()

    def batch():
        chosen = torch.randint(SPEAKERS, (16,), generator=world.draw).tolist()
        speakers = [world.base[k] for k in chosen]
        said, heard = world.batch(speakers, 40)
        _, reference = world.batch(speakers, 40)
        return model.loss(said, heard, model.speaker(reference))

    fit(model, list(model.parameters()), batch, steps=1200, lr=2e-3)
    return model.eval().requires_grad_(False)
