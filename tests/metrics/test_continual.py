"""Summaries of score matrices against hand-computed cases."""

import numpy as np
import pytest

from speechcl.metrics import continual_summary

ERRORS = [[5.0, 40.0, 30.0], [15.0, 10.0, 20.0], [25.0, 12.0, 3.0]]


def test_errors_of_three_tasks_by_hand():
    summary = continual_summary(ERRORS, higher_is_better=False, zero_shot=[50.0, 45.0, 35.0])
    assert summary["average"] == pytest.approx((25 + 12 + 3) / 3)
    assert summary["forgetting"] == pytest.approx(((25 - 5) + (12 - 10)) / 2)
    assert summary["backward_transfer"] == pytest.approx(11.0)
    assert summary["forward_transfer"] == pytest.approx(((40 - 45) + (20 - 35)) / 2)


def test_accuracies_of_two_tasks_by_hand():
    summary = continual_summary([[0.9, 0.5], [0.7, 0.8]], zero_shot=[0.1, 0.2])
    assert summary["average"] == pytest.approx(0.75)
    assert summary["forgetting"] == pytest.approx(0.2)
    assert summary["backward_transfer"] == pytest.approx(-0.2)
    assert summary["forward_transfer"] == pytest.approx(0.3)


def test_better_on_old_tasks_is_negative_forgetting():
    assert continual_summary([[0.5, 0.0], [0.75, 1.0]])["forgetting"] == -0.25


def test_one_task():
    assert continual_summary([[3.0]], higher_is_better=False, zero_shot=[50.0]) == {
        "average": 3.0,
        "forgetting": 0.0,
        "backward_transfer": 0.0,
        "forward_transfer": None,
    }


def test_zero_shot_is_optional():
    assert continual_summary(ERRORS, higher_is_better=False)["forward_transfer"] is None


def test_cells_that_were_not_evaluated_leave_gaps():
    summary = continual_summary([[None, None], [0.7, 0.8]], zero_shot=[0.1, 0.2])
    assert summary["average"] == pytest.approx(0.75)
    assert summary["forgetting"] is None
    assert summary["backward_transfer"] is None
    assert summary["forward_transfer"] is None


def test_an_unforgetting_run_has_positive_zero():
    assert str(continual_summary([[0.5, 0.1], [0.5, 0.9]])["forgetting"]) == "0.0"


def test_matrix_is_left_unchanged():
    matrix = np.array(ERRORS)
    continual_summary(matrix, higher_is_better=False)
    assert np.array_equal(matrix, ERRORS)


@pytest.mark.parametrize(
    ("matrix", "zero_shot", "message"),
    [
        ([[1.0, 2.0]], None, "shape"),
        ([], None, "shape"),
        ([[1.0, 2.0], [1.0, None]], None, "last row"),
        ([[1.0]], [1.0, 2.0], "zero_shot"),
    ],
)
def test_bad_input_raises(matrix, zero_shot, message):
    with pytest.raises(ValueError, match=message):
        continual_summary(matrix, zero_shot=zero_shot)
