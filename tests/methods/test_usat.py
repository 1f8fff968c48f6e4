"""A voice for each speaker beside a frozen base: nobody else's voice moves."""

import pytest
import speechbrain as sb
import torch
import yaml

from speechcl.adapters import base_fingerprint
from speechcl.backbones.usat import USAT as Voice
from speechcl.backbones.usat.voices import VoiceSpec, list_voices, speaking, voice_tensors
from speechcl.brain import same_draws
from speechcl.brains.enrolment import Enroller, EnrolmentBrain
from speechcl.methods import USAT, FineTune
from tests.toy import same, weights
from tests.voices_toy import Speaker, base, engine


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run on two speakers, and its results."""
    whole = engine(tmp_path_factory.mktemp("usat"), epochs=6)
    return whole, whole.run()


def test_each_speaker_has_a_voice_and_the_base_is_as_before(run):
    model = run[0].modules["model"].voice
    assert list_voices(model) == ["alice", "b_ob"]
    assert base_fingerprint(model) == base_fingerprint(base())
    assert not any(parameter.requires_grad for parameter in model.parameters())


@torch.no_grad()
@pytest.mark.parametrize(("name", "pitch_hz"), [("alice", 220.0), ("b_ob", 110.0)])
def test_a_voice_is_better_than_the_instant_one(name, pitch_hz, run):
    brain, enroller = run[0].evaluator, run[0].modules["model"].eval()
    batch = Speaker(pitch_hz, items=2, first_clip=100).__getitems__([0, 1])

    def loss(chosen):
        enroller.chosen = chosen
        torch.manual_seed(0)
        return brain.task_loss(brain.compute_forward(batch, sb.Stage.VALID), batch, sb.Stage.VALID)

    assert loss(name) < loss(None) - 0.1
    enroller.chosen = None


def test_what_is_learnt_is_never_lost(run):
    _, results = run
    assert results["metric"] == "mel_db"
    assert results["matrix"][1][0] == results["matrix"][0][0] != results["zero_shot"][0]
    assert results["matrix"][0][1] == results["zero_shot"][1], "a speaker who is not there yet"


def test_only_the_newest_voice_moves(tmp_path, monkeypatch):
    inner = torch.optim.AdamW.step
    moved = set()

    def watched(self, *args, **kwargs):
        modules = run_.modules
        before = {key: value.clone() for key, value in modules.state_dict().items()}
        value = inner(self, *args, **kwargs)
        after = modules.state_dict()
        moved.update(key for key in before if not torch.equal(before[key], after[key]))
        return value

    run_ = engine(tmp_path, tasks=1)
    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    run_.run()
    model = run_.modules["model"].voice
    expected = voice_tensors(model, "alice")
    assert len(moved) == len(expected)
    assert all("@alice" in key for key in moved)


def test_the_vector_alone(tmp_path):
    found = engine(tmp_path, USAT(adapters=False), tasks=1)
    results = found.run()
    model = found.modules["model"].voice
    own = voice_tensors(model, "alice")
    assert results["trainable_parameters"] == own["vector"].numel() == 32
    assert results["memory_bytes"] == 4 * 32
    assert all(not own[key].any() for key in own if key.endswith(".up")), "adapters still rest"


def test_the_vector_begins_as_the_mean_over_recordings(tmp_path, monkeypatch):
    monkeypatch.setattr(EnrolmentBrain, "optimizers_step", lambda self: self.optimizer.zero_grad())
    found = engine(tmp_path, tasks=1, epochs=1)
    found.run()
    model = base()
    with torch.no_grad():
        data = Speaker(220.0).__getitems__([0, 1, 2, 3])
        expected = model.speaker(data["waveform"], data["samples"]).mean(dim=0)
    own = voice_tensors(found.modules["model"].voice, "alice")["vector"]
    torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-5)


def test_the_vector_learns_slowly_and_never_decays():
    modules, method = torch.nn.ModuleDict({"model": Enroller(base())}), USAT()
    method.build(modules, {"voices": ["alice", "b_ob"], "chosen": "b_ob"})
    adapters, vector = method.param_groups(modules)
    own = voice_tensors(modules["model"].voice, "b_ob")
    assert vector["params"] == [own["vector"]]
    assert (vector["lr_scale"], vector["weight_decay"]) == (0.1, 0.0)
    assert len(adapters["params"]) == len(own) - 1
    assert (adapters["clip"], vector["clip"]) == ("b_ob", "b_ob"), "one norm"
    assert adapters.keys() == {"params", "clip"}


@torch.no_grad()
def test_what_is_remembered_of_a_clip_is_what_was_heard(run):
    brain = run[0].evaluator
    speaker = Speaker(300.0, items=3, first_clip=200)
    batch = speaker.__getitems__([2, 0])
    expected = brain.voice.encode(batch["waveform"], batch["samples"])
    for _ in range(2):  # heard, then remembered
        found = brain.latents(batch, 7)
        for name in ("mean", "log_scale", "mask", "frames"):
            torch.testing.assert_close(getattr(found, name), getattr(expected, name))
    noise = (found.z - found.mean) / found.log_scale.exp()
    assert 0.9 < noise.std() < 1.1
    assert not torch.equal(brain.latents(batch, 8).z, found.z), "drawn anew at each step"
    with same_draws(99):
        assert not torch.equal(brain.latents(batch, 7).z, found.z), "and for each seed"
    alone = brain.latents(speaker.__getitems__([0]), 7).z
    assert torch.equal(alone[0, :, : found.frames[1]], found.z[1, :, : found.frames[1]])


def test_the_loss_is_divergence_and_durations(run):
    brain = run[0].evaluator
    batch = Speaker(300.0, items=2, first_clip=300).__getitems__([0, 1])
    with torch.no_grad():
        latents, aligned = brain.compute_forward(batch, sb.Stage.VALID)
        loss = brain.task_loss((latents, aligned), batch, sb.Stage.VALID)
        sigma, error = aligned.log_scale, aligned.timbre_free - aligned.mean
        terms = sigma - latents.log_scale - 0.5 + 0.5 * error.square() * torch.exp(-2 * sigma)
        divergence = terms.sum() / latents.frames.sum()
    torch.testing.assert_close(loss, divergence + aligned.duration_loss)


@pytest.mark.slow
def test_a_kill_changes_nothing(tmp_path, monkeypatch):
    whole = engine(tmp_path / "whole", ckpt_interval_steps=1)
    expected = whole.run()
    inner, steps = torch.optim.AdamW.step, []

    def interrupted(self, *args, **kwargs):
        steps.append(None)
        if len(steps) in (2, 7):  # in the first task and in the second
            raise KeyboardInterrupt
        return inner(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            engine(tmp_path / "killed", ckpt_interval_steps=1).run()
        torch.manual_seed(5)
    resumed = engine(tmp_path / "killed", ckpt_interval_steps=1)
    assert resumed.run()["matrix"] == expected["matrix"]
    assert same(weights(resumed), weights(whole))


def test_structure_rebuilds_the_state(run):
    whole, _ = run
    structure = whole.method.structure()
    assert yaml.safe_load(yaml.safe_dump(structure)) == structure
    modules = torch.nn.ModuleDict({"model": Enroller(base())})
    other = USAT()
    other.build(modules, structure)
    other.build(modules, structure)
    modules.load_state_dict(whole.modules.state_dict())
    assert same(modules.state_dict(), whole.modules.state_dict())
    other.build(modules, {"voices": ["alice"], "chosen": None})
    assert list_voices(modules["model"].voice) == ["alice"]


def test_kept_bytes_are_those_of_the_voices(run):
    whole, results = run
    model = whole.modules["model"].voice
    numbers = sum(t.numel() for n in list_voices(model) for t in voice_tensors(model, n).values())
    assert results["memory_bytes"] == 4 * numbers
    assert results["trainable_parameters"] == numbers // 2


def test_without_knowing_the_speaker_the_base_speaks(tmp_path):
    results = engine(tmp_path, tasks=1, known=False).run()
    assert results["matrix"][0] == results["zero_shot"]


def test_what_is_frozen_is_heard_once(tmp_path, monkeypatch):
    encode, calls = Voice.encode, []

    def counting(self, waveform, samples=None, generator=None):
        calls.append(len(waveform))
        return encode(self, waveform, samples, generator)

    found = engine(tmp_path, tasks=1, epochs=3)
    monkeypatch.setattr(Voice, "encode", counting)
    found.learn(found.stream[0])
    assert sum(calls) == 4 + 4, "once for the vector, once for all epochs"


def test_fine_tuning_moves_the_base(tmp_path):
    found = engine(tmp_path, FineTune(), tasks=1, epochs=1)
    found.run()
    assert base_fingerprint(found.modules["model"].voice) != base_fingerprint(base())


def test_a_frozen_base_drops_nothing_while_a_voice_is_trained():
    enroller = Enroller(base()).requires_grad_(False)
    enroller.train()
    assert not any(module.training for module in enroller.voice.modules())
    enroller.requires_grad_(True)
    enroller.train()
    assert all(module.training for module in enroller.voice.modules())


def test_another_position(tmp_path):
    found = engine(tmp_path, USAT(VoiceSpec("x_res", kernel=1)), tasks=1, epochs=1)
    found.run()
    model = found.modules["model"].voice
    assert model.voice_spec == VoiceSpec("x_res", kernel=1)
    with speaking(model, "alice") as vectors:
        assert vectors.shape == (1, 32)


@pytest.mark.parametrize("detach", [True, False])
def test_rhythm_teaches_the_vector_only_if_asked(detach):
    assert Enroller(base(), detach).voice.durations.detach is detach
