"""Streams: no genuine clip twice, no speaker on both sides, every attack in its own task."""

import pytest
import torch

from speechcl.data.features import FeatureSet
from speechcl.data.splits import split_by_speaker
from speechcl.data.streams import attack_stream, corpus_stream, with_share

ATTACKS = ["world", "mulaw", "psola"]


def corpus():
    rows = []
    for clip in range(40):
        row = {"ID": f"c{clip}", "speaker": f"s{clip % 10}", "label": "bonafide", "attack": "-"}
        rows.append(row)
        rows += [{**row, "ID": f"c{clip}-{a}", "label": "spoof", "attack": a} for a in ATTACKS]
    return split_by_speaker(rows, {"train": 0.7, "test": 0.3})


def clips(rows):
    return FeatureSet(torch.arange(len(rows))[:, None].float(), rows)


def make(seed=0, **options):
    return attack_stream(clips(corpus()), ATTACKS, seed, **options)


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
        attack_stream(clips(rows), ATTACKS)


@pytest.mark.parametrize("share", [0.5, 0.2, 0.7])
def test_the_genuine_share_is_met_by_leaving_clips_out(share):
    whole = {task.name: ids(task.train) + ids(task.train, "spoof") for task in make()}
    for task in make(genuine_share=share):
        kept = ids(task.train) + ids(task.train, "spoof")
        assert len(ids(task.train)) / len(task.train) == pytest.approx(share, abs=0.04)
        assert set(kept) < set(whole[task.name])
        assert len(set(kept)) == len(kept)
        assert len(ids(task.test)) == len(ids(task.test, "spoof")), "tests stay whole"


def test_a_share_keeps_all_of_the_scarcer_class():
    genuine, spoofed = with_share(list(range(30)), list(range(100, 300)), 0.5)
    assert genuine == list(range(30))
    assert len(spoofed) == 30
    genuine, spoofed = with_share(list(range(30)), list(range(100, 300)), 0.05)
    assert len(genuine) == 11
    assert spoofed == list(range(100, 300))


def test_the_seed_decides_who_is_left_out():
    sides = list(range(40)), list(range(40, 200))
    assert with_share(*sides, 0.5, seed=1) == with_share(*sides, 0.5, seed=1)
    assert with_share(*sides, 0.5, seed=1) != with_share(*sides, 0.5, seed=2)


def test_of_each_class_at_least_one_clip_is_kept():
    assert [len(kept) for kept in with_share([1, 2, 3], [4, 5, 6], 0.01)] == [1, 3]


class Varied(FeatureSet):
    """Says whether it was made plain, as a set with random crops would be for tests."""

    is_plain = False

    def subset(self, places):
        one = super().subset(places)
        return Varied(one.features, one.rows)

    def plain(self):
        one = Varied(self.features, self.rows)
        one.is_plain = True
        return one


@pytest.mark.parametrize("of", ["attacks", "corpora"])
def test_training_clips_vary_and_test_clips_are_plain(of):
    rows = corpus() if of == "attacks" else two_corpora()
    data = Varied(torch.zeros(len(rows), 1), rows)
    stream = attack_stream(data, ATTACKS) if of == "attacks" else corpus_stream(data, ["A", "B"])
    for task in stream:
        assert (task.train.is_plain, task.test.is_plain) == (False, True)


def test_corpora_meet_the_share_too():
    for task in corpus_stream(clips(two_corpora()), ["A", "B"], genuine_share=0.34):
        assert len(ids(task.train, "spoof")) == 2 * len(ids(task.train))


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, "half", True])
def test_a_share_that_leaves_no_class_is_refused(share):
    with pytest.raises(ValueError, match="genuine_share is .*: give a share between 0 and 1"):
        with_share([1], [2], share)


def two_corpora():
    return [
        {"ID": f"{name}-{split}-{label}-{i}", "corpus": name, "split": split, "label": label}
        for name, size in (("A", 6), ("B", 4))
        for split in ("train", "test")
        for label in ("bonafide", "spoof")
        for i in range(size)
    ]


def test_each_corpus_trains_and_tests_on_its_own_clips():
    for task in corpus_stream(clips(two_corpora()), ["B", "A"]):
        for data, split in ((task.train, "train"), (task.test, "test")):
            assert {(row["corpus"], row["split"]) for row in data.rows} == {(task.name, split)}
        assert len(task.train) == len(task.test) == (8 if task.name == "B" else 12)


def test_a_corpus_without_spoofed_clips_is_refused():
    rows = [row for row in two_corpora() if (row["corpus"], row["label"]) != ("B", "spoof")]
    with pytest.raises(ValueError, match="corpus 'B' has 4 genuine and 0 spoofed training clips"):
        corpus_stream(clips(rows), ["A", "B"])
