"""The words around a stream of words; recipes are run in tests/integration."""

import pytest
import torch

from speechcl.classification_recipes import describe, examples, word_stream
from speechcl.data.features import FeatureSet
from speechcl.data.labelled import Classes
from speechcl.experiment import _count

WORDS = ["one", "two", "three"]


def words():
    kinds = [(w, who, s) for w in WORDS for who in ("ann", "bob") for s in ("train", "test")]
    rows = [
        {"ID": f"{w}-{who}-{s}", "text": w, "speaker": who, "split": s, "wav": f"/{w}-{who}.wav"}
        for w, who, s in kinds
    ]
    return FeatureSet(torch.zeros(len(rows), 1), rows, Classes(tuple(WORDS)))


def settings(scenario):
    return {
        "scenario": scenario,
        "classes": WORDS,
        "classes_per_task": 2,
        "domains": ["bob", "ann"],
        "domain_column": "speaker",
    }


def test_the_scenario_chooses_the_stream():
    by_class = word_stream(settings("class"), words())
    assert [task.info["classes"] for task in by_class] == [["one", "two"], ["three"]]
    by_domain = word_stream(settings("domain"), words())
    assert [task.name for task in by_domain] == ["bob", "ann"]
    assert all(task.info["classes"] == WORDS for task in by_domain)


def test_a_report_says_what_the_tasks_are():
    assert "All 3 words compete" in describe(settings("class"))
    assert "each task with a speaker of its own" in describe(settings("domain"))


def test_a_test_clip_of_each_of_the_first_tasks_can_be_heard():
    stream = word_stream(settings("class"), words())
    assert [one["title"] for one in examples(stream)] == ["one (one_two)", "three (three)"]
    assert examples(stream, count=1) == [{"title": "one (one_two)", "wav": "/one-ann.wav"}]


@pytest.mark.parametrize(
    ("data", "counts"),
    [
        (words().subset([0, 4, 5]), {"one": 1, "two": 2}),
        (torch.utils.data.TensorDataset(torch.zeros(3, 1)), {"items": 3}),
    ],
)
def test_items_are_counted_by_class_where_they_have_classes(data, counts):
    assert _count(data) == counts


def test_detection_is_counted_genuine_first():
    rows = [{"label": label} for label in ("bonafide", "spoof", "spoof")]
    data = FeatureSet(torch.zeros(3, 1), rows)
    assert list(_count(data).items()) == [("bonafide", 1), ("spoof", 2)]
