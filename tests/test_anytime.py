"""Measuring amid a task: what is written down, and that nothing else changes."""

import json

import pytest
import torch

from speechcl.checkpoints import seed_everything
from speechcl.methods import ER, SCR
from speechcl.metrics import online_summary
from tests.class_toy import class_engine
from tests.kills import Killed, KillSwitch
from tests.methods.test_online import noise
from tests.toy import same, weights


def er():
    return ER(capacity=30, replay=16, online=True)


def test_measuring_on_the_way_changes_nothing(tmp_path):
    plain = class_engine(tmp_path / "plain", er())
    expected = plain.run()
    watched = class_engine(tmp_path / "watched", er(), anytime_every=2)
    found = watched.run()
    assert found["matrix"] == expected["matrix"]
    assert same(weights(plain), weights(watched))
    assert "online" not in expected


def test_what_is_drawn_while_measuring_is_not_missed_in_training(tmp_path):
    class Drawing(ER):
        def before_measuring(self, engine):
            torch.rand(1)

        def before_batch(self, step):
            drawn.append(float(torch.rand(1)))
            return super().before_batch(step)

    runs = []
    for every in (None, 2):
        drawn = []
        class_engine(tmp_path / str(every), Drawing(capacity=30), anytime_every=every).run()
        runs.append(drawn)
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == len(runs[0])


def test_each_moment_has_the_tasks_so_far(tmp_path):
    engine = class_engine(tmp_path, er(), anytime_every=2)
    found = engine.run()["online"]
    moments = [f"task {task} step {step}" for task in range(3) for step in (2, 4, 6)]
    assert list(found["anytime"]) == moments
    for moment, values in found["anytime"].items():
        assert len(values) == int(moment.split()[1]) + 1
        assert all(0 <= value <= 100 for value in values)
    assert found["anytime"]["task 2 step 6"] == engine.progress["matrix"][-1]
    diagonal = [row[k] for k, row in enumerate(engine.progress["matrix"])]
    assert found["learning_average"] == pytest.approx(sum(diagonal) / 3)
    assert json.loads((tmp_path / "results.json").read_text())["online"] == found


@pytest.mark.parametrize("make", [er, lambda: SCR(noise, capacity=30, replay=16, width=8)])
def test_a_killed_run_ends_with_the_same_moments(make, tmp_path, monkeypatch):
    switch = KillSwitch(monkeypatch)

    def engine(folder):
        return class_engine(folder, make(), tasks=2, anytime_every=2, ckpt_interval_steps=2)

    expected = engine(tmp_path / "whole").run()
    moments = switch.moments
    for at in range(5, moments + 1, 11):
        switch.moments, switch.at = 0, at
        with pytest.raises(Killed):
            engine(tmp_path / str(at)).run()
        switch.at = None
        seed_everything(at)
        found = engine(tmp_path / str(at)).run()
        assert found["online"] == expected["online"], f"killed at moment {at} of {moments}"


def test_measuring_at_no_step_is_refused(tmp_path):
    with pytest.raises(ValueError, match="anytime_every is 0"):
        class_engine(tmp_path, er(), anytime_every=0)


MATRIX = [[90.0, 10.0, 0.0], [60.0, 80.0, 5.0], [95.0, 50.0, 70.0]]


def test_the_two_readings_of_best_ever_forgetting():
    found = online_summary(MATRIX, {"now": [1.0]})
    assert found["learning_average"] == pytest.approx(80.0)
    # the first task ends at its best, the second loses 30
    assert found["best_ever_forgetting"] == pytest.approx((0 + 30) / 2)
    ratio = found["best_ever_forgetting"] / found["best_ever_forgetting_over_all"]
    assert ratio == pytest.approx(3 / 2)


def test_of_errors_the_best_is_the_least():
    errors = [[100 - value for value in row] for row in MATRIX]
    found = online_summary(errors, {"a": [4.0, 2.0], "b": [7.0]}, higher_is_better=False)
    assert found["best_ever_forgetting"] == pytest.approx(15.0)
    assert found["anytime_average"] == pytest.approx(5.0)


def test_nothing_measured_is_refused():
    with pytest.raises(ValueError, match="set anytime_every"):
        online_summary(MATRIX, {})
