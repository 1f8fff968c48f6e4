"""Runs that drew their tasks are compared by place, and what was measured on the way is shown."""

from speechcl.reports import summary_rows, summary_table
from tests.reports.test_html import FORGETS, KEEPS, fake_run, render


def drawn_runs(tmp_path):
    """Two methods, two seeds, and in each seed tasks of other classes."""
    for seed, stream in enumerate((["0_4", "1_2", "3_5"], ["1_0", "5_2", "4_3"])):
        for name, matrix in (("ER", FORGETS), ("OnPro", KEEPS)):
            online = {"anytime_average": 30.0 + seed} if name == "OnPro" else {}
            more = {"online": online} if online else {}
            yield fake_run(
                tmp_path / f"{name}{seed}", matrix, scores=False, method=name, method_label=name,
                seed=seed, stream=stream, tasks_drawn=True, **more,
            )  # fmt: skip


def test_runs_that_drew_their_tasks_are_averaged_by_place(tmp_path):
    folders = list(drawn_runs(tmp_path))
    rows = summary_rows(folders)
    assert [(row.label, len(row.runs), row.tasks) for row in rows] == [
        ("ER", 2, ("task 1", "task 2", "task 3")),
        ("OnPro", 2, ("task 1", "task 2", "task 3")),
    ]
    assert rows[1].difference.pairs == 2
    assert rows[0].final["task 2"] == 53.0
    assert "1,300" not in render(folders, tmp_path).text  # the sizes of one run are not all runs'
    assert summary_rows(folders[:1])[0].tasks == ("0_4", "1_2", "3_5")  # one run has names


def test_what_was_measured_on_the_way_has_a_column(tmp_path):
    folders = list(drawn_runs(tmp_path))
    header, _, er, onpro = summary_table(folders).splitlines()
    assert "anytime" in header
    assert "30.5" in onpro
    assert "30.5" not in er
    assert "anytime" in render(folders, tmp_path).text
    assert "anytime" not in summary_table([fake_run(tmp_path / "plain")])
