"""Class-incremental tasks share no class, domain-incremental ones share them all."""

import pytest
import torch

from speechcl.data.class_streams import class_stream, domain_stream, in_groups
from speechcl.data.features import FeatureSet
from speechcl.data.labelled import Classes

WORDS = ("zero", "one", "two", "three", "four")
SPEAKERS = ("ann", "bob", "cleo")


def word_rows(splits=("train", "train", "test")):
    return [
        {"ID": f"{word}-{who}-{take}", "text": word, "speaker": who, "split": split}
        for word in WORDS
        for who in SPEAKERS
        for take, split in enumerate(splits)
    ]


def make(rows=None):
    rows = rows or word_rows()
    return FeatureSet(torch.arange(float(len(rows)))[:, None], rows, Classes(WORDS))


def ids(data):
    return {row["ID"] for row in data.rows}


def test_tasks_bring_disjoint_classes_in_the_order_given():
    stream = class_stream(make(), [["three", "zero"], ["two"]])
    assert [task.name for task in stream] == ["three_zero", "two"]
    assert [task.index for task in stream] == [0, 1]
    for task, words in zip(stream, [{"three", "zero"}, {"two"}], strict=True):
        assert {row["text"] for row in task.train.rows} == words
        assert {row["text"] for row in task.test.rows} == words
        assert {row["split"] for row in task.train.rows} == {"train"}
        assert {row["split"] for row in task.test.rows} == {"test"}
        assert len(task.train) == 6 * len(words)
        assert len(task.test) == 3 * len(words)
        assert task.valid is None
    assert stream[0].info == {"classes": ["three", "zero"], "seen": ["three", "zero"]}
    assert stream[1].info == {"classes": ["two"], "seen": ["three", "zero", "two"]}


def test_labels_are_those_of_the_whole_list():
    for task in class_stream(make(), [["three"], ["zero"]]):
        (label,) = set(task.train.labels.tolist())
        assert label == WORDS.index(task.name)
        assert task.train.classes.names == WORDS
    for task in domain_stream(make(), SPEAKERS):
        assert set(task.test.labels.tolist()) == {0, 1, 2, 3, 4}


def test_domains_share_the_classes_and_no_clip():
    stream = domain_stream(make(), ["cleo", "ann"])
    assert [task.name for task in stream] == ["cleo", "ann"]
    for task in stream:
        assert {row["speaker"] for row in [*task.train.rows, *task.test.rows]} == {task.name}
        assert task.info == {"classes": list(WORDS), "seen": list(WORDS)}
    assert ids(stream[0].train).isdisjoint(ids(stream[1].train))


def test_a_domain_may_lack_a_class():
    rows = [r for r in word_rows() if (r["speaker"], r["text"]) not in {("ann", "four")}]
    rows = [r for r in rows if (r["speaker"], r["text"]) != ("bob", "zero")]
    stream = domain_stream(make(rows), ["ann", "bob"])
    assert stream[0].info["classes"] == list(WORDS[:4])
    assert stream[1].info["classes"] == list(WORDS[1:])
    assert stream[1].info["seen"] == list(WORDS)


def test_any_column_tells_domains_apart():
    rows = [{**row, "accent": row["speaker"][0]} for row in word_rows()]
    assert [t.name for t in domain_stream(make(rows), ["b", "a"], "accent")] == ["b", "a"]


def test_validation_clips_are_used_where_there_are_any():
    data = make(word_rows(("train", "valid", "test")))
    (task, *_) = class_stream(data, [["one"], ["two"]])
    assert {row["split"] for row in task.valid.rows} == {"valid"}
    assert len(task.valid) == 3


def test_long_groups_get_short_names():
    (task,) = class_stream(make(), [list(WORDS)])
    assert task.name == "zero_to_four"


def test_features_stay_with_their_clips():
    data = make()
    place = {row["ID"]: k for k, row in enumerate(data.rows)}
    for task in [*class_stream(data, [["two", "one"]]), *domain_stream(data, ["bob"])]:
        for one in (task.train, task.test):
            assert one.features[:, 0].tolist() == [place[row["ID"]] for row in one.rows]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([["one"], ["ten"]], "class 'ten' is none of zero"),
        ([["one"], ["one"]], "name each class once"),
        ([["one"], []], "name each class once"),
        ([], "the stream's tasks are"),
    ],
)
def test_wrong_groups_are_refused(groups, message):
    with pytest.raises(ValueError, match=message):
        class_stream(make(), groups)


def test_what_lacks_clips_is_named():
    rows = [row for row in word_rows() if (row["text"], row["split"]) != ("two", "test")]
    with pytest.raises(ValueError, match="text 'two' has no test clip: choose among four, one"):
        class_stream(make(rows), [["one"], ["two"]])
    with pytest.raises(ValueError, match="speaker 'dan' has no train clip: choose among ann, bob"):
        domain_stream(make(rows), ["ann", "dan"])


def test_groups_keep_the_order():
    assert in_groups(WORDS, 2) == [["zero", "one"], ["two", "three"], ["four"]]
    with pytest.raises(ValueError, match="give at least 1"):
        in_groups(WORDS, 0)
