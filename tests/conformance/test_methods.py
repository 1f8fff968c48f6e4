"""What must hold for every method: a new one joins by a row in tests/toy.py."""

import pytest
import torch
import yaml

from speechcl.checkpoints import seed_everything
from tests.kills import Killed, KillSwitch
from tests.toy import ADAPTER_METHODS, METHODS, ONLINE_METHODS, ToyNet, same, toy_engine, weights

every_method = pytest.mark.parametrize("name", METHODS)
# of every kind one; the others are killed in the slow suite
KILLED = ("FineTune", "RWM", "MoRA", "OnPro")


def fresh(folder, name, **options):
    return toy_engine(folder, METHODS[name](), ckpt_interval_steps=2, **options)


@pytest.mark.parametrize(
    ("name", "apart"),
    [
        *((name, 17) for name in KILLED),
        *(pytest.param(name, 17, marks=pytest.mark.slow) for name in METHODS if name not in KILLED),
        *(pytest.param(name, 7, marks=pytest.mark.slow) for name in METHODS),
    ],
)
def test_resume_after_a_kill_at_any_moment_is_bit_for_bit(name, apart, tmp_path, monkeypatch):
    switch = KillSwitch(monkeypatch)
    whole = fresh(tmp_path / "whole", name, tasks=2)
    expected = whole.run()
    moments = switch.moments
    assert moments > 50
    # every method at other moments, so that together they meet all
    for at in range(1 + list(METHODS).index(name) % apart, moments + 1, apart):
        switch.moments, switch.at = 0, at
        with pytest.raises(Killed):
            fresh(tmp_path / str(at), name, tasks=2).run()
        switch.at = None
        seed_everything(at)  # a new process starts with other random states
        resumed = fresh(tmp_path / str(at), name, tasks=2)
        found = resumed.run()
        assert found["matrix"] == expected["matrix"], f"killed at moment {at} of {moments}"
        assert same(weights(resumed), weights(whole)), f"killed at moment {at} of {moments}"
        assert same(resumed.method.state_dict(), whole.method.state_dict())


@every_method
def test_a_finished_run_is_not_run_again(name, tmp_path):
    first = toy_engine(tmp_path, METHODS[name](), tasks=2)
    expected = first.run()
    again = toy_engine(tmp_path, METHODS[name](), tasks=2)
    found = again.run()
    assert found["matrix"] == expected["matrix"]
    assert found["train_seconds"] == expected["train_seconds"]
    assert found["memory_bytes"] == expected["memory_bytes"]
    assert same(weights(again), weights(first))


@every_method
def test_first_task_is_plain_training(name, tmp_path):
    if name in ADAPTER_METHODS:
        pytest.skip("trains an adapter from the first task on")
    if name in ONLINE_METHODS:
        pytest.skip("remembers from the first step on")
    plain = toy_engine(tmp_path / "plain", METHODS["FineTune"](), tasks=1)
    plain.run()
    other = toy_engine(tmp_path / "other", METHODS[name](), tasks=1)
    other.run()
    assert same(weights(plain), weights(other))


@every_method
def test_frozen_stays_frozen(name, tmp_path):
    model = ToyNet()
    layer = model.norm if name in ADAPTER_METHODS else model.convolution
    layer.requires_grad_(False)
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    toy_engine(tmp_path, METHODS[name](), tasks=2, model=model).run()
    assert same(before, layer.state_dict())
    assert not layer.weight.requires_grad


@pytest.mark.parametrize("name", ADAPTER_METHODS)
def test_the_base_does_not_move_while_an_adapter_is_trained(name, tmp_path, monkeypatch):
    model = ToyNet()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    step = torch.optim.SGD.step
    steps = 0

    def watched(*args, **kwargs):
        nonlocal steps
        value, steps = step(*args, **kwargs), steps + 1
        now = model.state_dict()
        assert all(torch.equal(now[k], v) for k, v in before.items() if "classify" not in k)
        return value

    monkeypatch.setattr(torch.optim.SGD, "step", watched)
    toy_engine(tmp_path, METHODS[name](), tasks=1, model=model).run()
    assert steps > 3


@every_method
def test_structure_survives_yaml_and_rebuilds_the_state(name, tmp_path):
    engine = toy_engine(tmp_path, METHODS[name](), tasks=2)
    engine.run()
    structure = engine.method.structure()
    assert yaml.safe_load(yaml.safe_dump(structure)) == structure
    other = METHODS[name]()
    modules = torch.nn.ModuleDict({"model": ToyNet()})
    other.build(modules, structure)
    other.load_state_dict(engine.method.state_dict())
    modules.load_state_dict(engine.modules.state_dict())
    assert same(other.state_dict(), engine.method.state_dict())
    x = torch.randn(5, 8)
    expected = engine.modules["model"].eval()(x)[0]
    assert torch.equal(modules["model"].eval()(x)[0], expected)


@every_method
def test_build_twice_is_build_once(name, tmp_path):
    engine = toy_engine(tmp_path, METHODS[name](), tasks=2)
    engine.run()
    state = {key: value.clone() for key, value in engine.method.state_dict().items()}
    before = weights(engine)
    engine.method.build(engine.modules, engine.method.structure())
    assert same(state, engine.method.state_dict())
    assert same(before, weights(engine))


@every_method
def test_nothing_is_left_on_the_model(name, tmp_path):
    engine = toy_engine(tmp_path, METHODS[name](), tasks=2)
    engine.run()
    for module in engine.modules.modules():
        assert not module._forward_pre_hooks
        assert not module._forward_hooks
    assert not any(isinstance(m, ToyNet) for m in engine.method.modules()), "a module was stored"


@every_method
def test_bf16_trains(name, tmp_path):
    short = toy_engine(tmp_path / "bf16", METHODS[name](), tasks=2, precision="bf16")
    results = short.run()
    assert all(0 <= value <= 100 for row in results["matrix"] for value in row)
    exact = toy_engine(tmp_path / "fp32", METHODS[name](), tasks=2)
    exact.run()
    for key, value in weights(exact).items():
        found = weights(short)[key]
        if not value.is_floating_point():
            continue
        assert found.dtype == torch.float32
        untrained = "classify" not in key if name in ADAPTER_METHODS else name == "SCR"
        if not untrained:
            assert not torch.equal(found, value), "it did not train in bfloat16"
        if name != "RWM official":  # it amplifies rounding noise
            # low temperatures of contrasts amplify rounding, too
            allowed = 0.15 if name in ("SCR", "OnPro") else 0.05
            torch.testing.assert_close(found, value, rtol=0, atol=allowed)


@every_method
def test_no_kept_tensor_has_the_size_of_the_data(name, tmp_path):
    if name in ("ER", "DERpp", "Joint", *ONLINE_METHODS):
        pytest.skip("keeps old data by design")
    engine = toy_engine(tmp_path, METHODS[name](), tasks=2)
    engine.run()
    clips = len(engine.stream[0].train)
    assert all(clips not in value.shape for value in engine.method.state_dict().values())


@every_method
def test_a_damaged_checkpoint_is_learnt_again(name, tmp_path):
    whole = toy_engine(tmp_path / "whole", METHODS[name](), tasks=2)
    expected = whole.run()
    other = tmp_path / "damaged"
    toy_engine(other, METHODS[name](), tasks=2).run()
    (other / "results.json").unlink()
    (file,) = (other / "save" / "task_01").glob("CKPT*/modules.ckpt")
    file.write_bytes(file.read_bytes()[:100])
    again = toy_engine(other, METHODS[name](), tasks=2)
    assert again.run()["matrix"] == expected["matrix"]
    assert same(weights(again), weights(whole))
