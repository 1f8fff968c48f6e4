"""Adapters against full tuning, on latents of synthetic speakers: the claims of the method.

24 phonemes have means in R^16. A speaker is a random invertible map of what is said, an offset and
a bend, all given by four numbers. Accented speakers have larger numbers and say eight phonemes
elsewhere. Text encoder, conditioned flow and speaker encoder learn 60 speakers; then new ones are
met with a few frames each. What is measured is the divergence per dimension on other frames.
"""

import copy
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
from speechcl.early_stopping import EarlyStopping

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


def fit(model, parameters, batch, steps, lr, held_out=None):
    """Train; with a loss of held-out frames, stop by it, every ten steps an epoch."""
    optimizer = torch.optim.AdamW(parameters, lr=lr)
    stopping = EarlyStopping(steps // 10, 3, model) if held_out else range(1, steps // 10 + 1)
    for epoch in stopping:
        for _ in range(10):
            optimizer.zero_grad()
            batch().backward()
            nn.utils.clip_grad_norm_(parameters, 5.0)
            optimizer.step()
        if held_out:
            with torch.no_grad():
                stopping.see(epoch, float(held_out()))
    if held_out:
        stopping.put_back()


@pytest.fixture(scope="module")
def world():
    return World()


@pytest.fixture(scope="module")
def trained(world):
    """The base: 1200 steps of 16 speakers, 40 frames each."""
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


@pytest.fixture(scope="module")
def met(world):
    """Accented speakers: what they say to adapt to, and to measure on."""
    speakers = [world.speaker(accented=True) for _ in range(4)]
    return [(world.batch([one], FRAMES), world.batch([one], FRAMES)) for one in speakers]


@pytest.fixture(scope="module")
def known(world):
    """Base speakers' clips, and references."""
    return [(*world.batch([one], FRAMES), world.batch([one], FRAMES)[1]) for one in world.base[:8]]


@torch.no_grad()
def loss_of_known(model, known):
    losses = [model.loss(said, heard, model.speaker(other)) for said, heard, other in known]
    return float(torch.stack(losses).mean())


def adapted(base, clip, kinds, held_out=None):
    """A copy with a voice for a speaker; only tensors of these kinds and the vector are trained."""
    model = copy.deepcopy(base)
    add_voice(model, "new", model.speaker(clip[1])[0], VoiceSpec(kernel=1))
    own = voice_tensors(model, "new")
    chosen = [t for k, t in own.items() if k == "vector" or k.split(".")[0] in kinds]
    for tensor in chosen:
        tensor.requires_grad_(True)

    def loss(clip):
        with speaking(model, ["new"]) as vectors:
            return model.loss(*clip, vectors)

    check = None if held_out is None else lambda: loss(held_out)
    fit(model, chosen, lambda: loss(clip), steps=200, lr=2e-3, held_out=check)
    return model, lambda clip: float(loss(clip).detach())


def tuned(base, clip, held_out=None):
    """A copy of which everything is trained on a speaker, whose vector as well."""
    model = copy.deepcopy(base)
    model.vector = nn.Parameter(model.speaker(clip[1])[0])
    parameters = list(model.requires_grad_(True).parameters())

    def loss(clip):
        return model.loss(*clip, model.vector[None])

    check = None if held_out is None else lambda: loss(held_out)
    fit(model, parameters, lambda: loss(clip), steps=200, lr=2e-3, held_out=check)
    return model, lambda clip: float(loss(clip).detach())


def mean(values):
    return sum(values) / len(values)


@pytest.mark.slow
def test_adapters_fit_a_speaker_better_than_full_tuning_and_leave_the_base(trained, met, known):
    before, fingerprint = loss_of_known(trained, known), base_fingerprint(trained)
    zero_shot, vectors, adapters, full, full_known = [], [], [], [], []
    for clip, other in met:
        zero_shot.append(float(trained.loss(*other, trained.speaker(clip[1]))))
        vectors.append(adapted(trained, clip, ())[1](other))
        model, loss = adapted(trained, clip, ("flow", "phonemes"))
        adapters.append(loss(other))
        assert loss_of_known(model, known) == before, "the voice is there, but silent"
        with speaking(model, "new"):
            assert loss_of_known(model, known) > before + 0.5, "others are not to use it"
        remove_voice(model, "new")
        assert base_fingerprint(model) == fingerprint
        model, loss = tuned(trained, clip)
        full.append(loss(other))
        full_known.append(loss_of_known(model, known))
    assert before < -1
    assert mean(zero_shot) > mean(adapters) + 1.0
    assert mean(zero_shot) > mean(vectors) > mean(adapters) + 1.0
    assert mean(full) > mean(adapters) + 0.3
    assert mean(full_known) > before + 5, "nobody else is as before"


def with_adapters(base, clip, held_out=None):
    return adapted(base, clip, ("flow", "phonemes"), held_out)


@pytest.mark.slow
@pytest.mark.parametrize(("way", "loses"), [(with_adapters, 0.1), (tuned, 5.0)])
def test_a_few_frames_over_fit_unless_training_stops_early(way, loses, trained, met):
    for (said, heard), other in met:
        few, held = (said[:, :45], heard[..., :45]), (said[:, 45:60], heard[..., 45:60])
        zero_shot = float(trained.loss(*other, trained.speaker(few[1])))
        every_step, stopped = (way(trained, few, *check)[1](other) for check in ((), (held,)))
        assert stopped < every_step - loses
        assert stopped < zero_shot


@pytest.mark.slow
def test_the_flow_is_undone_whatever_adapters_it_holds(trained, met):
    (clip, other), *_ = met
    model, _ = adapted(trained, clip, ("flow", "phonemes"))
    mask = torch.ones(1, 1, FRAMES)
    with torch.no_grad(), speaking(model, ["new"]) as vectors:
        free = model.flow.remove_timbre(other[1], mask, vectors)
        back = model.flow.add_timbre(free, mask, vectors)
    assert (free - other[1]).abs().max() > 0.5
    assert (back - other[1]).abs().max() < 1e-4
