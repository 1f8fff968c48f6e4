"""What must hold on a GPU as well: ``pytest -m gpu``."""

import pytest
import torch

from speechcl.adapters import SubspaceCore, insert, merge, remove
from speechcl.checkpoints import seed_everything
from speechcl.methods.osft import subspace_layers
from tests.adapters.kinds import KINDS, adapted
from tests.toy import METHODS, ToyNet, same, toy_engine, weights

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
every_method = pytest.mark.parametrize("name", METHODS)


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """The same arithmetic as on the CPU; TensorFloat-32 would round to ten bits."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


def engine_on(device, folder, name, **options):
    model = ToyNet()
    model.drop.p = 0.0  # devices draw differently
    return toy_engine(folder, METHODS[name](), model=model, device=device, **options)


@every_method
def test_a_method_learns_what_it_learns_on_a_cpu(name, tmp_path):
    if name == "RWM official":
        pytest.skip("its direction is rounding noise")
    torch.manual_seed(0)
    here = engine_on("cpu", tmp_path / "cpu", name)
    expected = here.run()
    torch.manual_seed(0)
    there = engine_on("cuda:0", tmp_path / "cuda", name)
    found = there.run()
    assert all(value.is_cuda for value in weights(there).values())
    assert found["memory_bytes"] == expected["memory_bytes"]
    for row, other in zip(found["matrix"], expected["matrix"], strict=True):
        assert row == pytest.approx(other, abs=3.0), "a clip or two at the threshold"
    for key, value in weights(here).items():
        torch.testing.assert_close(weights(there)[key].cpu(), value, rtol=0, atol=2e-2)


@every_method
def test_resume_on_a_gpu(name, tmp_path, monkeypatch):
    torch.use_deterministic_algorithms(True)
    try:
        torch.manual_seed(0)
        whole = engine_on("cuda:0", tmp_path / "whole", name, tasks=2, ckpt_interval_steps=2)
        expected = whole.run()
        inner, steps = torch.optim.SGD.step, []

        def interrupted(self, *args, **kwargs):
            steps.append(None)
            if len(steps) in (3, 13):  # in the first task and in the second
                raise KeyboardInterrupt
            return inner(self, *args, **kwargs)

        monkeypatch.setattr(torch.optim.SGD, "step", interrupted)
        for _ in range(2):
            torch.manual_seed(0)
            options = {"tasks": 2, "ckpt_interval_steps": 2}
            with pytest.raises(KeyboardInterrupt):
                engine_on("cuda:0", tmp_path / "killed", name, **options).run()
            seed_everything(7)
        resumed = engine_on("cuda:0", tmp_path / "killed", name, **options)
        assert resumed.run()["matrix"] == expected["matrix"]
        assert same(weights(resumed), weights(whole))
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_gives_what_it_gives_on_a_cpu(kind):
    net, inputs = adapted(kind)
    expected = net(*inputs)
    net, inputs = net.cuda(), [one.cuda() for one in inputs]
    given = net(*inputs)
    torch.testing.assert_close(given.cpu(), expected, rtol=1e-4, atol=1e-5)
    merge(net)
    torch.testing.assert_close(net(*inputs), given, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_removed_adapter_leaves_no_bit_behind(kind):
    net, inputs = adapted(kind)
    net.cuda()
    before = {k: v.clone() for k, v in net.state_dict().items() if "adapters.@" not in k}
    net(*(one.cuda() for one in inputs))
    remove(net)
    assert same(before, net.state_dict())


@pytest.mark.parametrize("mode", ["core", "dense", "factored"])
def test_no_change_leaks_into_protected_directions(mode):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(96, 64)).cuda()
    weight = net[0].weight.detach().clone()
    insert(net, SubspaceCore(0.5, mode=mode), "*")
    (layer,) = subspace_layers(net)
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(5):
        optimizer.zero_grad()
        net(torch.randn(32, 96, device="cuda")).square().mean().backward()
        layer.settle_gradient()
        optimizer.step()
        layer.settle()
    moved = layer.change().detach()
    u, _, vh = torch.linalg.svd(weight.double())
    assert moved.norm() > 1e-3
    for inside in (u[:, :32].mT @ moved.double(), moved.double() @ vh[:32].mT):
        assert inside.norm() <= 1e-4 * moved.norm()
