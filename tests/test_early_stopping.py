"""Training ends when held-out clips gain nothing more, and leaves the weights of its best epoch."""

import json
import logging
import math

import pytest
import torch

from speechcl.brain import same_draws
from speechcl.checkpoints import AtomicCheckpointer, seed_everything
from speechcl.early_stopping import EarlyStopping
from speechcl.engine import Training
from speechcl.methods import ER, FineTune, Joint
from tests.kills import Killed, KillSwitch
from tests.toy import ToyNet, same, toy_engine, weights

HELD_OUT = 40  # clips of each task
LR = 0.6  # so large that held-out clips soon lose


def events(folder, kind):
    lines = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


def validated(folder, task):
    found = [line for line in events(folder, "epoch") if line["task"] == task]
    return [line["loss"] for line in found if line["stage"] == "valid"]


# ---- counting
@pytest.mark.parametrize(
    ("losses", "patience", "last", "best"),
    [
        ([5, 4, 3, 2, 1], 1, 5, 5),
        ([1, 2, 0, 0, 0], 1, 2, 1),
        ([1, 2, 0, 0, 0], 2, 5, 3),
        ([1, 1, 1, 1, 1], 3, 4, 1),
        ([2, math.nan, math.nan, 1, 1], 3, 5, 4),
    ],
)
def test_it_stops_after_so_many_epochs_without_a_gain(losses, patience, last, best):
    net = torch.nn.BatchNorm1d(1)
    counter = EarlyStopping(5, patience, net)
    epochs = []
    for epoch in counter:
        epochs.append(epoch)
        for tensor in (net.weight.data, net.running_mean):
            tensor.fill_(epoch)
        counter.see(epoch, losses[epoch - 1])
    assert epochs == list(range(1, last + 1))
    counter.put_back()
    assert counter.best_epoch == net.weight.item() == net.running_mean.item() == best


def test_what_is_frozen_is_neither_kept_nor_put_back():
    net = torch.nn.Linear(1, 1)
    net.bias.requires_grad_(False)
    counter = EarlyStopping(5, 1, net)
    counter.see(1, 0.0)
    assert list(counter.best) == ["weight"]


@pytest.mark.parametrize(("end_of_epoch", "goes_on_with"), [(True, [3]), (False, [2, 3])])
def test_saved_and_loaded_it_stops_where_it_would_have(end_of_epoch, goes_on_with, tmp_path):
    net = torch.nn.Linear(1, 1)
    counter = EarlyStopping(9, 2, net)
    for epoch, loss in ((1, 1.0), (2, 2.0)):
        assert next(counter) == epoch
        net.weight.data.fill_(epoch)
        counter.see(epoch, loss)
    AtomicCheckpointer(tmp_path, {"epoch": counter}, dict).save_checkpoint(
        end_of_epoch=end_of_epoch
    )
    other = EarlyStopping(9, 2, torch.nn.Linear(1, 1))
    AtomicCheckpointer(tmp_path, {"epoch": other}, dict).recover_if_possible()
    found = []
    for epoch in other:
        found.append(epoch)
        other.see(epoch, 2.0)
    assert found == goes_on_with
    other.put_back()
    assert (other.best_epoch, other.modules.weight.item()) == (1, 1.0)


@pytest.mark.parametrize("patience", [0, -1])
def test_impatience_is_refused(patience):
    with pytest.raises(ValueError, match="wait for one epoch or more"):
        Training(torch.optim.SGD, patience=patience)


# ---- a run
@pytest.fixture
def stopped(tmp_path):
    engine = toy_engine(tmp_path / "stopped", FineTune(), tasks=1, epochs=12, lr=LR, patience=2)
    engine.run()
    return engine


def test_the_weights_are_those_of_the_best_epoch(stopped, tmp_path):
    losses = validated(tmp_path / "stopped", "attack_0")
    best = 1 + losses.index(min(losses))
    assert 1 < best == len(losses) - 2 < 10, "the run is to stop on its own"
    (told,) = events(tmp_path / "stopped", "best_epoch")
    assert (told["epoch"], told["loss"]) == (best, min(losses))
    short = toy_engine(tmp_path / "short", FineTune(), tasks=1, epochs=best, lr=LR, patience=2)
    short.run()
    assert same(weights(stopped), weights(short))


def test_the_loss_is_that_of_the_held_out_clips(stopped, tmp_path):
    stopped.modules.eval()
    brain, batch = stopped.evaluator, stopped.stream[0].valid.__getitems__(list(range(HELD_OUT)))
    with torch.no_grad():
        expected = brain.task_loss(brain.compute_forward(batch, None), batch, None)
    assert min(validated(tmp_path / "stopped", "attack_0")) == pytest.approx(float(expected))


def test_without_held_out_clips_it_takes_all_epochs_and_says_so(tmp_path, caplog):
    engine = toy_engine(tmp_path, FineTune(), tasks=1, epochs=3)
    engine.training = Training(engine.training.optimizer, epochs=3, patience=1)
    with caplog.at_level(logging.INFO):
        engine.run()
    assert "attack_0 has no validation data: it takes all 3 epochs" in caplog.text
    assert not events(tmp_path, "best_epoch")
    assert len(events(tmp_path, "epoch")) == 3


def test_joint_training_is_held_to_all_tasks_so_far(tmp_path):
    engine = toy_engine(tmp_path, Joint(), tasks=3, patience=1)
    assert [len(engine._valid_set(task)) for task in engine.stream] == [40, 80, 120]


class Drawing(ToyNet):
    """Draws in validation, as the bound of a variational model does."""

    def forward(self, x):
        if self.training or len(x) != HELD_OUT:
            return super().forward(x)
        return super().forward(x + 0.3 * torch.randn_like(x))


def test_draws_are_alike_in_every_epoch_and_change_no_training(tmp_path):
    options = {"tasks": 1, "epochs": 3, "lr": 0.0}
    torch.manual_seed(0)
    engine = toy_engine(tmp_path / "a", FineTune(), model=Drawing(), patience=9, **options)
    engine.run()
    losses = validated(tmp_path / "a", "attack_0")
    assert len(losses) == 3
    assert len(set(losses)) == 1, "nothing is learnt at a rate of 0"
    found = []
    for net in (Drawing, ToyNet):
        torch.manual_seed(0)
        model = net()
        options = {"tasks": 1, "epochs": 2, "model": model, "patience": 9}
        toy_engine(tmp_path / net.__name__, FineTune(), **options).run()
        found.append(model.state_dict())
    assert same(*found)


def test_a_loss_that_is_not_a_number_is_no_gain(tmp_path):
    engine = toy_engine(tmp_path, FineTune(), tasks=1, patience=1)
    engine.stream[0].valid.features[:] = math.nan
    with pytest.raises(ValueError, match="the loss became nan in task 'attack_0'"):
        engine.run()


def test_generators_are_left_alone_even_by_an_error():
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError), same_draws(3):
        torch.rand(5) @ torch.rand(4)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.slow
@pytest.mark.parametrize("apart", [11, 3])
def test_resume_after_a_kill_at_any_moment_is_bit_for_bit(apart, tmp_path, monkeypatch):
    def fresh(name):
        torch.manual_seed(0)
        options = {"epochs": 6, "lr": LR, "patience": 1, "model": Drawing()}
        method = ER(capacity=40, replay=16)
        return toy_engine(tmp_path / name, method, tasks=2, ckpt_interval_steps=1, **options)

    switch = KillSwitch(monkeypatch)
    whole = fresh("whole")
    expected = whole.run()
    assert 4 <= len(events(tmp_path / "whole", "epoch")) / 2 < 12, "one task stops early"
    moments = switch.moments
    for at in range(1, moments + 1, apart):
        switch.moments, switch.at = 0, at
        with pytest.raises(Killed):
            fresh(str(at)).run()
        switch.at = None
        seed_everything(at)
        resumed = fresh(str(at))
        assert resumed.run()["matrix"] == expected["matrix"], f"killed at {at} of {moments}"
        assert same(weights(resumed), weights(whole)), f"killed at {at} of {moments}"
