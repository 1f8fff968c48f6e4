"""The interface: misspelt hooks are refused, the defaults are fine-tuning."""

import pytest
import torch
from torch import nn

from speechcl.method import Method
from speechcl.methods import OWM, FineTune
from speechcl.sampling import EpochBatches
from tests.toy import same, toy_engine, toy_stream, weights


@pytest.mark.parametrize("base", [Method, OWM])
@pytest.mark.parametrize(
    ("name", "hook"),
    [
        ("after_stepp", "after_step"),
        ("before_tasks", "before_task"),
        ("before_batches", "before_batch"),
        ("after_backwards", "after_backward"),
        ("param_group", "param_groups"),
        ("structures", "structure"),
        ("memory_byte", "memory_bytes"),
        ("train_sets", "train_set"),
    ],
)
def test_a_misspelt_hook_is_refused(base, name, hook):
    with pytest.raises(TypeError, match=f"Wrong.{name} looks like the hook '{hook}'"):
        type("Wrong", (base,), {name: lambda self: None})


@pytest.mark.parametrize("name", ["angle", "absorb", "replay", "_after_stepp", "train", "forward"])
def test_other_names_are_free(name):
    type("Right", (Method,), {name: lambda self: None})


def test_buffers_are_the_memory():
    method = Method()
    method.register_buffer("kept", torch.zeros(5, dtype=torch.float64))
    method.register_buffer("count", torch.zeros(2, dtype=torch.int16))
    assert method.memory_bytes([]) == 44


class Plain(nn.Module):
    """A linear classifier."""

    def __init__(self):
        super().__init__()
        self.classify = nn.Linear(8, 2)

    def forward(self, x):
        return self.classify(x), x


def by_hand(model, tasks, epochs):
    """Momentum SGD over the batches, as anybody would write it."""
    for task in toy_stream(tasks):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        batches = EpochBatches(len(task.train), 32, seed=1009 + task.index)
        for epoch in range(1, epochs + 1):
            batches.set_epoch(epoch)
            for chosen in batches:
                logits, _ = model(task.train.features[chosen])
                optimizer.zero_grad()
                nn.functional.cross_entropy(logits, task.train.labels[chosen]).backward()
                nn.utils.clip_grad_norm_(model.parameters(), 5.0)
                optimizer.step()


@pytest.mark.parametrize("method", [Method, FineTune])
def test_the_defaults_are_fine_tuning(method, tmp_path):
    torch.manual_seed(4)
    model, other = Plain(), Plain()
    other.load_state_dict(model.state_dict())
    engine = toy_engine(tmp_path, method(), tasks=2, model=model)
    engine.run()
    by_hand(other, tasks=2, epochs=2)
    expected = {f"model.{name}": value for name, value in other.state_dict().items()}
    assert same(weights(engine), expected)


class Halved(Method):
    """Uses every hook of a step, and notes the order."""

    def __init__(self):
        super().__init__()
        self.called = []

    def before_task(self, task, engine):
        self.called.append("before_task")

    def param_groups(self, modules):
        self.called.append("param_groups")
        return [{"params": [modules["model"].classify.weight], "lr": 0.01}]

    def before_batch(self, step):
        self.called.append("before_batch")
        assert 0 <= step.index < step.total == 8
        return {name: rows[:16] for name, rows in step.batch.items()}

    def loss(self, step):
        self.called.append("loss")
        assert len(step.outputs.logits) == 16
        return 0.5 * step.task_loss()

    def after_backward(self, step):
        self.called.append("after_backward")
        step.modules["model"].classify.weight.grad[:, 0] = 0.0

    def after_step(self, step):
        self.called.append("after_step")
        assert step.modules["model"].classify.weight.grad is None

    def after_task(self, task, engine):
        self.called.append("after_task")


def test_hooks_are_called_in_order_and_what_they_return_is_used(tmp_path):
    model = Plain()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    engine = toy_engine(tmp_path, Halved(), tasks=1, model=model)
    engine.run()
    step = ["before_batch", "loss", "after_backward", "after_step"]
    assert engine.method.called == ["before_task", "param_groups", *step * 8, "after_task"]
    assert torch.equal(model.classify.bias, start["classify.bias"])
    moved = model.classify.weight != start["classify.weight"]
    assert not moved[:, 0].any()
    assert moved[:, 1:].all()
