"""Several speakers who learn in one pass learn what each learns alone."""

import pytest
import torch
import yaml

from speechcl.backbones.usat.voice_files import load_voice, save_voice
from speechcl.backbones.usat.voices import add_voice, list_voices, speaking, voice_tensors
from speechcl.brains.enrolment import Enroller, EnrolmentBrain
from speechcl.methods import USAT
from speechcl.methods.usat import voices_of
from speechcl.task import Task, make_stream
from tests.toy import same, weights
from tests.voices_toy import InOrder, TonesInOrder, base, engine

PITCH_HZ = {"alice": 220.0, "b.ob": 110.0, "cy": 160.0}
VOICES = ["alice", "b_ob", "cy"]
# each batch of 6 holds two clips of each; in the last one "b.ob" is silent
PLACES = [0, 5, 10, 1, 6, 11, 2, 7, 12, 3, 8, 13, 4, 14, 4, 14]


@pytest.fixture
def alike(monkeypatch):
    """All adapters of a shape begin alike, whichever are drawn before them."""

    def drawn(tensor, a):
        generator = torch.Generator().manual_seed(tensor.numel())
        with torch.no_grad():
            return tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))

    monkeypatch.setattr(torch.nn.init, "kaiming_uniform_", drawn)


def tones(**options):
    return TonesInOrder(PITCH_HZ, items=5, **options)


def alone(folder, name, places, **options):
    """One speaker's own run, over the same clips in the same order."""
    data = tones()
    number = list(PITCH_HZ).index(name)
    own = [place for place in places if int(data.labels[place]) == number]
    stream = make_stream([(name, data.subset(own), data.subset(own[:2]))])
    model = base(durations="deterministic")
    run = engine(folder, stream=stream, model=model, batch_size=2, epochs=1, **options)
    run.run()
    return voice_tensors(run.modules["model"].voice, name.replace(".", "_"))


def together(folder, places, method=None, batch_size=6, **options):
    data = tones()
    stream = make_stream([("everybody", data.subset(places), data.subset(places[:6]))])
    model = base(durations="deterministic")
    return engine(folder, method, stream=stream, model=model, batch_size=batch_size, **options)


def of_voice(run, name):
    return voice_tensors(run.modules["model"].voice, name)


# ---- who speaks
def test_a_task_of_several_speakers_names_them_by_number():
    data = tones()
    task = Task(0, "everybody", data)
    assert voices_of(task) == {0: "alice", 1: "b_ob", 2: "cy"}
    assert voices_of(Task(0, "c.d", data.subset([10, 2]))) == {0: "alice", 2: "cy"}
    assert voices_of(Task(0, "c.d", data.subset([10, 11]))) == "c_d", "a task is its speaker"


def test_each_item_is_in_the_voice_of_its_speaker():
    model = base()
    for k, name in enumerate(VOICES):
        add_voice(model, name, torch.randn(32))
        for key, tensor in voice_tensors(model, name).items():
            if key.endswith(".up"):
                torch.nn.init.normal_(tensor, std=0.05 * (k + 1))
    enroller = Enroller(model).eval()
    enroller.chosen = {7: "cy", 0: "alice", 4: "b_ob"}
    data = tones(uneven=True)
    batch = data.__getitems__([0, 6, 12]) | {"speaker": torch.tensor([4, 7, 0])}
    with torch.no_grad():
        found = enroller.retell(batch)
        for k, name in enumerate(["b_ob", "cy", "alice"]):
            enroller.chosen = name
            expected = enroller.retell({key: one[k : k + 1] for key, one in batch.items()})
            size = int(batch["samples"][k]) // 256 * 256
            torch.testing.assert_close(found[k, :size], expected[0, :size], rtol=1e-3, atol=1e-4)


def test_gradients_reach_voices_that_no_item_has():
    model = base()
    for name in VOICES[:2]:
        add_voice(model, name, torch.randn(32))
    own = [voice_tensors(model, name) for name in VOICES[:2]]
    z, mask = torch.randn(2, 32, 6), torch.ones(2, 1, 6)

    def gradients(**options):
        for tensors in own:
            for tensor in tensors.values():
                tensor.grad = None
        with speaking(model, ["alice", "alice"], **options) as vectors:
            model.flow.remove_timbre(z, mask, vectors).square().sum().backward()
        return [{k: t.grad for k, t in tensors.items() if "phon" not in k} for tensors in own]

    (alice, bob), (other_alice, other_bob) = gradients(), gradients(among=VOICES[:2])
    assert all(gradient is None for gradient in bob.values())
    flow = [key for key in bob if "flow.couplings" in key or key == "vector"]
    assert all(not other_bob[key].any() for key in flow)
    for key in flow:
        torch.testing.assert_close(alice[key], other_alice[key], rtol=1e-4, atol=1e-5)


# ---- what they learn
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_together_is_each_alone(optimizer, alike, tmp_path):
    lr = 0.02 if optimizer is torch.optim.SGD else 5e-3
    run = together(tmp_path / "all", PLACES, optimizer=optimizer, lr=lr, epochs=1)
    run.run()
    assert list_voices(run.modules["model"].voice) == VOICES
    for name, voice in zip(PITCH_HZ, VOICES, strict=True):
        expected = alone(tmp_path / voice, name, PLACES, optimizer=optimizer, lr=lr)
        moved = 0
        for key, tensor in of_voice(run, voice).items():
            torch.testing.assert_close(tensor, expected[key], rtol=1e-5, atol=1e-6)
            moved += bool(key.endswith(".up") and tensor.abs().max() > 1e-3)
        assert moved > 5, "it is to have learnt something"


def test_a_voice_rests_while_its_speaker_is_silent(tmp_path, monkeypatch):
    run = together(tmp_path, PLACES, epochs=1)
    states, inner = [], EnrolmentBrain.optimizers_step

    def watched(self):
        inner(self)
        states.append({v: {k: t.clone() for k, t in of_voice(run, v).items()} for v in VOICES})

    monkeypatch.setattr(EnrolmentBrain, "optimizers_step", watched)
    run.run()
    assert len(states) == len(InOrder(len(PLACES), 6, 0)) == 3
    before, after = states[-2:]
    assert same(before["b_ob"], after["b_ob"]), "in spite of momentum and weight decay"
    assert not same(before["cy"], after["cy"])


def test_one_speakers_outlier_does_not_slow_the_others(tmp_path, monkeypatch):
    """Clipping by a norm over all voices would."""
    step, seen = torch.optim.SGD.step, {}

    def noted(name, factor):
        inner = USAT.after_backward

        def scaled(self, one):
            inner(self, one)
            for tensor in voice_tensors(one.modules["model"].voice, "alice").values():
                if tensor.grad is not None:
                    tensor.grad *= factor

        def watched(self, *args, **kwargs):
            own = of_voice(run, "cy")
            seen[name] = {k: t.grad.clone() for k, t in own.items() if t.grad is not None}
            return step(self, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(USAT, "after_backward", scaled)
            patch.setattr(torch.optim.SGD, "step", watched)
            run = together(tmp_path / name, PLACES[:6], epochs=1, optimizer=torch.optim.SGD)
            run.run()

    noted("plain", 1.0)
    noted("loud", 1e6)
    assert seen["plain"]
    assert same(seen["plain"], seen["loud"])


def test_vectors_begin_as_each_speakers_mean(tmp_path, monkeypatch):
    monkeypatch.setattr(EnrolmentBrain, "optimizers_step", lambda self: self.optimizer.zero_grad())
    run = together(tmp_path, PLACES, epochs=1)
    run.run()
    model, data = base(durations="deterministic"), tones()
    for number, voice in enumerate(VOICES):
        places = [place for place in PLACES if int(data.labels[place]) == number]
        batch = data.__getitems__(places)
        with torch.no_grad():
            expected = model.speaker(batch["waveform"], batch["samples"]).mean(dim=0)
        torch.testing.assert_close(of_voice(run, voice)["vector"], expected, rtol=1e-4, atol=1e-5)


def test_the_vector_alone_together(tmp_path):
    run = together(tmp_path, PLACES, USAT(adapters=False), epochs=1)
    results = run.run()
    assert results["trainable_parameters"] == 3 * 32


# ---- what is left
def test_files_are_those_of_voices_enrolled_alone(tmp_path):
    run = together(tmp_path / "run", PLACES, epochs=1)
    run.run()
    fresh = base(durations="deterministic")
    for voice in VOICES:
        file = tmp_path / f"{voice}.safetensors"
        save_voice(run.modules["model"].voice, voice, file, torch.float32)
        assert load_voice(fresh, file) == voice
        assert same(voice_tensors(fresh, voice), of_voice(run, voice))


@pytest.mark.slow
def test_structure_and_kills(tmp_path, monkeypatch):
    whole = together(tmp_path / "whole", PLACES, ckpt_interval_steps=1)
    expected = whole.run()
    assert whole.method.structure() == {"voices": VOICES, "chosen": None}
    inner, steps = torch.optim.AdamW.step, []

    def interrupted(self, *args, **kwargs):
        steps.append(None)
        if len(steps) in (2, 4):
            raise KeyboardInterrupt
        return inner(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", interrupted)
    for _ in range(2):
        killed = together(tmp_path / "killed", PLACES, ckpt_interval_steps=1)
        with pytest.raises(KeyboardInterrupt):
            killed.run()
        structure = killed.method.structure()
        assert structure["chosen"] == dict(enumerate(VOICES))
        assert yaml.safe_load(yaml.safe_dump(structure)) == structure
    resumed = together(tmp_path / "killed", PLACES, ckpt_interval_steps=1)
    assert resumed.run()["matrix"] == expected["matrix"]
    assert same(weights(resumed), weights(whole))
