"""Result files: schema, round trips, and what a broken file says."""

import json

import numpy as np
import pytest

from speechcl.results import (
    SCHEMA_VERSION,
    check_results,
    read_results,
    read_scores,
    write_results,
    write_scores,
)

ROW = {
    "test_task": "lpc",
    "ID": "clip, one",
    "label": "spoof",
    "attack": "lpc",
    "speaker": "ann",
    "score": 0.1 + 0.2,
}


def a_result(**changes):
    return {
        "schema": SCHEMA_VERSION,
        "recipe": "OwnSpeech/detection",
        "method": "rwm",
        "seed": 0,
        "stream": ["lpc", "world"],
        "metric": "eer",
        "higher_is_better": False,
        "matrix": [[5.0, None], [9.0, 3.0]],
        "summary": {
            "average": 6.0,
            "forgetting": 4.0,
            "backward_transfer": 4.0,
            "forward_transfer": None,
        },
        "average_interval": [4.0, 8.0],
        "trainable_parameters": 1000,
        "memory_bytes": 0,
        "train_seconds": [1.0, 2.0],
        "peak_rss_mb": 300.5,
        "versions": {"torch": "2.11"},
        "command": "train.py rwm.yaml",
        **changes,
    }


def test_round_trip(tmp_path):
    results = a_result(
        zero_shot=[50.0, None],
        notes=["größer"],
        examples=[{"title": "genuine", "wav": "a.wav"}],
        method_label="RWM",
        train_sizes=[{"bonafide": 1, "spoof": 2}, {"spoof": 3}],
    )
    file = write_results(tmp_path / "run" / "results.json", results)
    assert read_results(file) == results
    assert '\n  "recipe"' in file.read_text(encoding="utf-8")


@pytest.mark.parametrize("field", list(a_result()))
def test_missing_field_is_named(field):
    results = a_result()
    del results[field]
    if field == "average_interval":
        check_results(results)
    else:
        with pytest.raises(ValueError, match=f"field '{field}' is missing"):
            check_results(results)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("schema", 2),
        ("recipe", 3),
        ("seed", 1.5),
        ("seed", True),
        ("stream", []),
        ("stream", "lpc"),
        ("stream", ["lpc", "lpc"]),
        ("higher_is_better", 1),
        ("matrix", [[1.0, 2.0]]),
        ("matrix", [[1.0], [2.0]]),
        ("matrix", [[1.0, 2.0], [1.0, None]]),
        ("matrix", [[float("nan"), 1.0], [1.0, 1.0]]),
        ("summary", {"average": 1.0}),
        ("summary", {**a_result()["summary"], "average": None}),
        ("average_interval", [8.0, 4.0]),
        ("average_interval", [4.0]),
        ("trainable_parameters", -1),
        ("memory_bytes", None),
        ("train_seconds", 3.0),
        ("versions", {"torch": 2}),
        ("zero_shot", [1.0]),
        ("notes", "one"),
        ("examples", [{"title": "genuine"}]),
        ("train_sizes", [{"spoof": 1}]),
        ("train_sizes", [{"spoof": -1}, {}]),
    ],
)
def test_bad_field_is_named_and_nothing_is_written(tmp_path, field, value):
    with pytest.raises(ValueError, match=f"field '{field}'") as caught:
        write_results(tmp_path / "results.json", a_result(**{field: value}))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_zero_shot_may_be_null():
    check_results(a_result(zero_shot=None))


def test_fields_beyond_the_schema_are_allowed():
    check_results(a_result(cllr=0.5))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": NaN}', "\x00", "[" * 100_000])
def test_broken_file_is_named(tmp_path, text):
    file = tmp_path / "results.json"
    file.write_text(text)
    with pytest.raises(ValueError, match="results.json: ") as caught:
        read_results(file)
    assert "\n" not in str(caught.value)


def test_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "results.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="results.json: "):
        read_results(tmp_path / "results.json")


def test_failed_write_keeps_the_old_file(tmp_path):
    file = write_results(tmp_path / "results.json", a_result())
    with pytest.raises(TypeError):
        write_results(file, a_result(extra=object()))
    assert json.loads(file.read_text())["method"] == "rwm"
    assert [item.name for item in tmp_path.iterdir()] == ["results.json"]


def test_scores_round_trip_exactly(tmp_path):
    rows = [ROW, {**ROW, "ID": "b", "label": "bonafide", "attack": "-", "score": -1e-17}]
    scores = read_scores(write_scores(tmp_path / "scores" / "task_00.csv", rows))
    assert scores["score"].tolist() == [0.1 + 0.2, -1e-17]
    assert scores["ID"].tolist() == ["clip, one", "b"]
    assert scores["label"].tolist() == ["spoof", "bonafide"]
    assert list(scores) == ["test_task", "ID", "label", "attack", "speaker", "score"]


def test_scores_without_rows(tmp_path):
    scores = read_scores(write_scores(tmp_path / "task_00.csv", []))
    assert scores["score"].dtype == np.float64
    assert all(column.shape == (0,) for column in scores.values())


@pytest.mark.parametrize("change", [{"score": float("nan")}, {"label": "fake"}])
def test_bad_scores_are_not_written(tmp_path, change):
    with pytest.raises(ValueError, match="row 3"):
        write_scores(tmp_path / "task_00.csv", [ROW, {**ROW, **change}])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "first row"),
        ("a,b\n", "first row"),
        ("HEADER\nlpc,a,spoof,lpc,ann\n", "row 2: 5 fields"),
        ("HEADER\nlpc,a,spoof,lpc,ann,1\nlpc,b,spoof,lpc,ann,x\n", "row 3: score 'x'"),
        ("HEADER\nlpc,a,spoof,lpc,ann,inf\n", "row 2: score inf"),
        ("HEADER\nlpc,a,fake,lpc,ann,1\n", "row 2: label 'fake'"),
    ],
)
def test_broken_scores_are_named(tmp_path, text, message):
    file = tmp_path / "task_00.csv"
    file.write_text(text.replace("HEADER", "test_task,ID,label,attack,speaker,score"))
    with pytest.raises(ValueError, match=f"task_00.csv.*{message}"):
        read_scores(file)
