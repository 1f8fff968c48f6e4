"""What must hold for every method that fits a voice model; a row in tests/voices_toy.py joins."""

import pytest
import torch
import yaml

from speechcl.adapters import base_fingerprint
from speechcl.backbones.usat.voice_files import load_voice, save_voice
from speechcl.backbones.usat.voices import list_voices, remove_voice, voice_tensors
from speechcl.brains.enrolment import Enroller
from speechcl.checkpoints import seed_everything
from tests.kills import Killed, KillSwitch
from tests.toy import same, weights
from tests.voices_toy import BESIDE, METHODS, base, conforming

every_method = pytest.mark.parametrize("name", METHODS)
every_voice = pytest.mark.parametrize("name", BESIDE)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A finished run of each method, made when it is first asked for."""
    done = {}

    def run(name):
        if name not in done:
            engine = conforming(tmp_path_factory.mktemp("run"), name, epochs=1)
            engine.run()
            done[name] = engine
        return done[name]

    return run


@torch.no_grad()
def said(engine, modules):
    """What is spoken for every task."""
    modules.eval()
    found = []
    for task in engine.stream:
        engine.method.before_eval(task)
        batch = task.test.__getitems__(list(range(len(task.test))))
        modules["model"].chosen = engine.modules["model"].chosen
        found.append(modules["model"].retell(batch))
    return found


@pytest.mark.slow
@every_method
def test_resume_after_a_kill_at_any_moment_is_bit_for_bit(name, tmp_path, monkeypatch):
    def fresh(folder):
        options = {"epochs": 3, "patience": 1, "ckpt_interval_steps": 2}
        return conforming(tmp_path / folder, name, **options)

    switch = KillSwitch(monkeypatch, torch.optim.AdamW)
    whole = fresh("whole")
    expected = whole.run()
    moments = switch.moments
    for at in range(1 + list(METHODS).index(name), moments + 1, 7):
        switch.moments, switch.at = 0, at
        with pytest.raises(Killed):
            fresh(str(at)).run()
        switch.at = None
        seed_everything(at)
        resumed = fresh(str(at))
        assert resumed.run()["matrix"] == expected["matrix"], f"killed at {at} of {moments}"
        assert same(weights(resumed), weights(whole)), f"killed at {at} of {moments}"
        assert same(resumed.method.state_dict(), whole.method.state_dict())


@every_method
def test_structure_survives_yaml_and_rebuilds_the_state(name, runs):
    run = runs(name)
    structure = run.method.structure()
    assert yaml.safe_load(yaml.safe_dump(structure)) == structure
    other = METHODS[name]()
    modules = torch.nn.ModuleDict({"model": Enroller(base(), detach_durations=False)})
    for _ in range(2):
        other.build(modules, structure)
    other.load_state_dict(run.method.state_dict())
    modules.load_state_dict(run.modules.state_dict())
    assert same(other.state_dict(), run.method.state_dict())
    for one, expected in zip(said(run, modules), said(run, run.modules), strict=True):
        assert torch.equal(one, expected)


@every_method
def test_build_again_changes_nothing(name, runs):
    run = runs(name)
    before, state = weights(run), {k: v.clone() for k, v in run.method.state_dict().items()}
    run.method.build(run.modules, run.method.structure())
    assert same(before, weights(run))
    assert same(state, run.method.state_dict())


@every_method
def test_nothing_is_left_on_the_model(name, runs):
    run = runs(name)
    assert run.modules["model"].voice.selection.names == ()
    for module in run.modules.modules():
        assert not module._forward_pre_hooks
        assert not module._forward_hooks
    assert not any(isinstance(module, Enroller) for module in run.method.modules())


@every_method
def test_what_makes_sound_is_never_moved(name, runs):
    model, fresh = runs(name).modules["model"].voice, base()
    for part in ("memory", "decoder"):
        assert same(getattr(model, part).state_dict(), getattr(fresh, part).state_dict())


@every_voice
def test_the_base_stays_as_it_is(name, runs):
    model, fresh = runs(name).modules["model"].voice, base()
    assert base_fingerprint(model) == base_fingerprint(fresh)
    state = model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in fresh.state_dict().items())
    assert not any(parameter.requires_grad for parameter in model.parameters())


@every_voice
def test_a_task_moves_no_voice_of_an_earlier_one(name, tmp_path):
    run = conforming(tmp_path, name, epochs=1)
    run.learn(run.stream[0])
    model = run.modules["model"].voice
    names = list_voices(model)
    before = [{k: t.clone() for k, t in voice_tensors(model, one).items()} for one in names]
    run.learn(run.stream[1])
    for one, tensors in zip(names, before, strict=True):
        assert same(tensors, voice_tensors(model, one))
    assert len(list_voices(model)) == 2 * len(names)


@every_voice
def test_files_give_the_voices_back_and_leave_the_base_without_a_trace(name, runs, tmp_path):
    run = runs(name)
    model, fresh = run.modules["model"].voice, base()
    before = {key: value.clone() for key, value in fresh.state_dict().items()}
    for one in list_voices(model):
        file = tmp_path / f"{one}.safetensors"
        save_voice(model, one, file, torch.float32)
        assert load_voice(fresh, file) == one
        assert same(voice_tensors(fresh, one), voice_tensors(model, one))
    modules = torch.nn.ModuleDict({"model": Enroller(fresh, detach_durations=False)})
    for one, expected in zip(said(run, modules), said(run, run.modules), strict=True):
        assert torch.equal(one, expected)
    for one in list_voices(fresh):
        remove_voice(fresh, one)
    assert same(before, fresh.state_dict())
