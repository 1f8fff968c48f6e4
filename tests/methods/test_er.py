"""Experience replay: what is remembered, and what a training batch is made of."""

import torch

from speechcl.methods import ER
from speechcl.sampling import EpochBatches
from tests.toy import WIDTH, toy_engine


class Watched(ER):
    """Notes the batches before and after replay."""

    def __init__(self, **options):
        super().__init__(**options)
        self.batches = []

    def before_batch(self, step):
        batch = super().before_batch(step)
        self.batches.append((step.task.index, step.batch, batch))
        return batch


def trained(folder, tasks=3, **options):
    engine = toy_engine(folder, Watched(**options), tasks=tasks)
    engine.run()
    return engine


def rows_of(data):
    return {tuple(row.tolist()) for row in data}


def test_batches_are_the_tasks_own_then_remembered_ones_of_finished_tasks(tmp_path):
    engine = trained(tmp_path, capacity=40, replay=16)
    assert len(engine.method.batches) == 3 * 2 * len(EpochBatches(120, 32, seed=0))
    for index, fresh, whole in engine.method.batches:
        size = len(fresh["label"])
        for name in fresh:
            assert torch.equal(whole[name][:size], fresh[name])
        replayed = whole["features"][size:]
        assert len(replayed) == len(whole["label"][size:]) == (16 if index else 0)
        old = [engine.stream[k].train for k in range(index)]
        label_of = {
            tuple(row.tolist()): int(label)
            for data in old
            for row, label in zip(data.features, data.labels, strict=True)
        }
        for row, label in zip(replayed, whole["label"][size:], strict=True):
            assert label_of[tuple(row.tolist())] == int(label)


def test_replay_differs_from_step_to_step(tmp_path):
    engine = trained(tmp_path, tasks=2, capacity=40, replay=16)
    drawn = [rows_of(whole["features"][-16:]) for index, _, whole in engine.method.batches if index]
    assert len({frozenset(one) for one in drawn}) == len(drawn)


def test_each_item_is_offered_once_whatever_the_epochs(tmp_path):
    engine = trained(tmp_path, tasks=3, capacity=400)
    memory = engine.method.memory
    assert int(memory.counts[0]) == len(memory) == 360
    kept = rows_of(memory.sample(400)["features"])
    assert kept == set().union(*(rows_of(task.train.features) for task in engine.stream))


def test_memory_is_shared_by_all_tasks_and_never_larger(tmp_path):
    engine = trained(tmp_path, tasks=3, capacity=60)
    memory = engine.method.memory
    kept = rows_of(memory.sample(60)["features"])
    assert len(memory) == len(kept) == 60
    shares = [len(kept & rows_of(task.train.features)) for task in engine.stream]
    assert sum(shares) == 60
    assert min(shares) > 8


def test_a_small_memory_is_replayed_whole(tmp_path):
    engine = trained(tmp_path, tasks=2, capacity=5, replay=16)
    assert {len(w["label"]) - len(f["label"]) for i, f, w in engine.method.batches if i} == {5}


def test_memory_bytes_are_those_of_the_kept_items(tmp_path):
    engine = trained(tmp_path, tasks=1, capacity=10)
    assert engine.method.memory_bytes(engine.stream) == 10 * (4 * WIDTH + 8) + 2 * 8


def test_structure_tells_the_layout(tmp_path):
    engine = trained(tmp_path, tasks=1, capacity=10)
    assert engine.method.structure() == {
        "kept": {
            "features": {"shape": [WIDTH], "dtype": "float32"},
            "label": {"shape": [], "dtype": "int64"},
        }
    }
