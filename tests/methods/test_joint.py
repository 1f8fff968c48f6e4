"""Joint training sees everything so far and says what that costs."""

import pytest
import torch

from speechcl.methods import FineTune, Joint
from tests.toy import WIDTH, toy_engine, toy_stream


def test_trains_on_all_data_so_far():
    stream = toy_stream(3)
    for task in stream:
        found = Joint().train_set(task, stream)
        seen = stream[: task.index + 1]
        assert torch.equal(found.features, torch.cat([one.train.features for one in seen]))
        assert torch.equal(found.labels, torch.cat([one.train.labels for one in seen]))


def test_leaves_the_tasks_as_they_are():
    stream = toy_stream(2)
    Joint().train_set(stream[1], stream)
    assert [len(task.train) for task in stream] == [120, 120]


def test_memory_is_the_whole_archive():
    stream = toy_stream(3)
    assert Joint().memory_bytes(stream) == 3 * 120 * WIDTH * 4
    assert Joint().memory_bytes([]) == 0
    assert FineTune().memory_bytes(stream) == 0


@pytest.mark.slow
def test_ends_better_than_fine_tuning(tmp_path):
    joint = toy_engine(tmp_path / "joint", Joint(), epochs=6).run()
    plain = toy_engine(tmp_path / "plain", FineTune(), epochs=6).run()
    assert joint["summary"]["average"] < plain["summary"]["average"] - 10
