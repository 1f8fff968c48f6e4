"""Streams: no genuine clip twice, no speaker on both sides, every attack in its own task."""

import pytest
import torch

from speechcl.data.splits import split_by_speaker
from speechcl.data.streams import attack_stream

ATTACKS = ["world", "mulaw", "psola"]


def corpus():
    rows = []
    for clip in range(40):
        row = {"ID": f"c{clip}", "speaker": f"s{clip % 10}", "label": "bonafide", "attack": "-"}
        rows.append(row)
        rows += [{**row, "ID": f"c{clip}-{a}", "label": "spoof", "attack": a} for a in ATTACKS]
    return split_by_speaker(rows, {"train": 0.7, "test": 0.3})


def make(seed=0):
    rows = corpus()
    return attack_stream(rows, torch.arange(len(rows))[:, None].float(), ATTACKS, seed)


def ids(data, label="bonafide"):
    return [row["ID"] for row in data.rows if row["label"] == label]


def test_each_genuine_training_clip_belongs_to_one_task():
    stream = make()
    dealt = [one for task in stream for one in ids(task.train)]
    assert len(dealt) == len(set(dealt))
    expected = [r["ID"] for r in corpus() if r["split"] == "train" and r["attack"] == "-"]
    assert sorted(dealt) == sorted(expected)


def test_a_task_holds_its_attack_alone_and_is_tested_on_all_genuine_clips():
    for task in make():
        for data in (task.train, task.test):
            assert {row["attack"] for row in data.rows} == {"-", task.name}
        assert len(ids(task.test)) == len(ids(task.test, "spoof"))


def test_no_speaker_is_trained_and_tested_on():
    for task in make():
        assert not set(task.train.speakers) & set(task.test.speakers)


def test_features_follow_their_rows():
    for task in make():
        places = {row["ID"]: place for place, row in enumerate(corpus())}
        assert [places[r["ID"]] for r in task.train.rows] == task.train.features[:, 0].tolist()


def test_the_seed_deals():
    assert ids(make(0)[0].train) == ids(make(0)[0].train)
    assert ids(make(0)[0].train) != ids(make(1)[0].train)


def test_a_task_without_test_clips_is_refused():
    rows = [row for row in corpus() if row["split"] == "train" or row["attack"] != "mulaw"]
    with pytest.raises(ValueError, match="attack 'mulaw' has .* test clips"):
        attack_stream(rows, torch.zeros(len(rows), 1), ATTACKS)
