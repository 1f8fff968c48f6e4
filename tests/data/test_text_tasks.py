"""Tables of examples: what is read, in which order, and what is refused at the door."""

import pytest

from speechcl.data.manifest_checks import ManifestError
from speechcl.data.text_tasks import classes_of, example_stream, read_examples
from speechcl.data.token_sets import AnswerSet, classification_set
from tests import tiny_transformers as tiny

GOOD = [
    ("film", "train", "fine", "good"),
    ("book", "train", "dull, dull", "bad"),
    ("film", "test", "a\nb", "good"),
    ("book", "valid", "so so", "bad"),
    ("book", "test", "no", "bad"),
]


def table(tmp_path, rows, columns="task,split,text,label"):
    return tiny.write_table(tmp_path / "table.csv", columns, rows)


def test_rows_come_task_by_task_with_their_numbers(tmp_path):
    rows = read_examples(table(tmp_path, GOOD), "classification")
    assert [(row["task"], row["ID"]) for row in rows] == [
        ("film", "2"),
        ("film", "4"),
        ("book", "3"),
        ("book", "5"),
        ("book", "6"),
    ]
    assert [row["text"] for row in rows[:3]] == ["fine", "a\nb", "dull, dull"]


def test_listed_tasks_come_in_that_order_and_others_not(tmp_path):
    file = table(tmp_path, GOOD)
    found = read_examples(file, "classification", ["book", "film"])
    assert [row["task"] for row in found] == ["book"] * 3 + ["film"] * 2
    assert {row["task"] for row in read_examples(file, "classification", ["book"])} == {"book"}


def test_blanks_around_values_do_not_count_but_a_prompt_keeps_its_end(tmp_path):
    rows = [(" a ", "train ", "Q: x\nA: ", " 1 "), ("a", "test", "Q", "2")]
    found = read_examples(table(tmp_path, rows, "task,split,prompt,answer"), "causal_lm")
    assert found[0] == {
        "ID": "2",
        "task": "a",
        "split": "train",
        "prompt": "Q: x\nA: ",
        "answer": "1",
    }


def test_a_causal_model_takes_texts_too(tmp_path):
    rows = [("a", "train", "x", "-"), ("a", "test", "y", "-")]
    found = read_examples(table(tmp_path, rows), "causal_lm")
    assert [sorted(row) for row in found] == [["ID", "split", "task", "text"]] * 2


def test_images_are_found_beside_the_table(tmp_path):
    (tmp_path / "pictures").mkdir()
    whole = tmp_path / "pictures" / "a.png"
    whole.touch()
    rows = [
        ("a", "train", "pictures/a.png", "cat"),
        ("a", "test", str(whole), "cat"),
    ]
    found = read_examples(table(tmp_path, rows, "task,split,image,label"), "image_text")
    assert {row["image"] for row in found} == {str(whole)}
    rows[1] = ("a", "test", "pictures/b.png", "cat")
    with pytest.raises(ManifestError, match="row 3: no image .*pictures/b.png.*: check the path"):
        read_examples(table(tmp_path, rows, "task,split,image,label"), "image_text")


@pytest.mark.parametrize(
    ("place", "row", "message"),
    [
        (0, ("film", "train", "", "good"), "row 2: text is empty: fill it"),
        (0, ("film", "train", " ", "good"), "row 2: text is empty"),
        (1, ("", "train", "x", "bad"), "row 3: task is empty"),
        (3, ("book", "dev", "x", "bad"), "row 5: split is 'dev': use train, valid, test"),
        (4, ("book", "test", "x", "new"), "row 6: label 'new' is in no training row: add one"),
        (2, ("film", "train", "x", "good"), "task 'film' has no test rows: add some"),
        (1, ("book", "test", "x", "good"), "task 'book' has no train rows"),
    ],
)
def test_a_bad_row_is_refused_with_its_number(place, row, message, tmp_path):
    rows = [*GOOD[:place], row, *GOOD[place + 1 :]]
    if place == 1 and row[1] == "test":
        rows[3], rows[4] = ("book", "valid", "x", "good"), ("book", "test", "x", "good")
    with pytest.raises(ManifestError, match=message) as caught:
        read_examples(table(tmp_path, rows), "classification")
    assert "\n" not in str(caught.value)


def test_all_problems_are_listed_together(tmp_path):
    rows = [*GOOD, ("film", "train", "", "good"), ("film", "later", "x", "good")]
    with pytest.raises(ManifestError, match="2 problems: row 7: .*; row 8: "):
        read_examples(table(tmp_path, rows), "classification")


def test_own_labels_must_be_trained_on_in_their_task(tmp_path):
    file = table(tmp_path, [*GOOD, ("film", "test", "x", "bad")])
    assert len(read_examples(file, "classification")) == 6
    message = "row 7: label 'bad' is in no training row of task 'film'"
    with pytest.raises(ManifestError, match=message):
        read_examples(file, "classification", own_labels=True)


@pytest.mark.parametrize(
    ("kind", "columns", "message"),
    [
        ("classification", "task,split,text,labels", "no column label among task, split, text"),
        ("classification", "tasks,part,text,label", "no column task, split among"),
        ("seq2seq", "task,split,text,label", "needs task,split,prompt,answer"),
        ("causal_lm", "task,split,x,label", "needs task,split,prompt,answer or task,split,text"),
        ("image_text", "task,split,text,label", "no column image among"),
    ],
)
def test_a_missing_column_is_named(kind, columns, message, tmp_path):
    with pytest.raises(ManifestError, match=message):
        read_examples(table(tmp_path, GOOD, columns), kind)


def test_a_wrong_kind_task_or_file_is_refused(tmp_path):
    file = table(tmp_path, GOOD)
    with pytest.raises(ValueError, match="kind is 'words': use classification, causal_lm"):
        read_examples(file, "words")
    with pytest.raises(ManifestError, match=r"no task \['play'\]: the file has film, book"):
        read_examples(file, "classification", ["film", "play"])
    with pytest.raises(ManifestError, match="no examples in it"):
        read_examples(table(tmp_path, []), "classification")
    with pytest.raises(ManifestError, match="no such file"):
        read_examples(tmp_path / "none.csv", "classification")


def test_classes_are_ordered_by_task_then_name_whatever_the_rows(tmp_path):
    rows = [{"task": "b", "label": label} for label in ("x", "a", "x")]
    rows += [{"task": "a", "label": label} for label in ("z", "c", "a")]
    assert classes_of(rows).names == ("a", "x", "c", "z")
    assert classes_of(rows[:3][::-1] + rows[3:][::-1]).names == ("a", "x", "c", "z")


def test_a_stream_has_the_rows_of_each_task_and_split(tmp_path):
    rows = read_examples(table(tmp_path, GOOD), "classification")
    stream = example_stream(classification_set(rows, tiny.word_tokenizer(), 8))
    assert [(task.index, task.name) for task in stream] == [(0, "film"), (1, "book")]
    film, book = stream
    assert film.valid is None
    assert [[row["ID"] for row in part.rows] for part in (book.train, book.valid, book.test)] == [
        ["3"],
        ["5"],
        ["6"],
    ]
    assert (film.info, book.info) == (
        {"classes": ["good"], "seen": ["good"]},
        {"classes": ["bad"], "seen": ["good", "bad"]},
    )


def test_items_of_one_row_stay_in_its_task():
    rows = [{"task": t, "split": s} for t in ("a", "b") for s in ("train", "test", "valid")]
    owners = [rows[place] for place in (0, 0, 1, 2, 3, 4, 4)]
    stream = example_stream(AnswerSet({}, owners))
    sizes = [[len(part) if part else 0 for part in (t.train, t.valid, t.test)] for t in stream]
    assert sizes == [[2, 1, 1], [1, 0, 2]]
