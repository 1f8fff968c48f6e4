"""X-TAIL's figures against a case worked out by hand."""

import numpy
import pytest

from speechcl.metrics import continual_summary
from speechcl.metrics.transfer import transfer_summary

MATRIX = [[90.0, 40.0, 0.0], [80.0, 70.0, 30.0], [60.0, 50.0, 100.0]]


def test_three_tasks_by_hand():
    # task 1 before it was learnt: 40; task 2: (0 + 30) / 2 = 15; a true zero counts
    found = transfer_summary(MATRIX)
    assert found["transfer"] == (40 + 15) / 2
    assert found["average"] == pytest.approx(520 / 9)
    assert found["last"] == 70.0
    assert found["last"] == continual_summary(MATRIX)["average"]


def test_transfer_is_a_mean_over_tasks_not_over_cells():
    matrix = numpy.zeros((3, 3))
    matrix[0, 1] = 30.0
    assert transfer_summary(matrix)["transfer"] == 15.0


def test_what_comes_after_learning_does_not_touch_transfer():
    matrix = numpy.array(MATRIX)
    expected = transfer_summary(matrix)["transfer"]
    matrix[numpy.tril_indices(3)] = -7.0
    assert transfer_summary(matrix)["transfer"] == expected


def test_one_task_has_no_transfer():
    assert transfer_summary([[50.0]]) == {"transfer": None, "average": 50.0, "last": 50.0}


@pytest.mark.parametrize(
    ("matrix", "message"),
    [([[1.0, 2.0]], "square"), ([], "square"), ([[1.0, None], [2.0, 3.0]], "gaps")],
)
def test_a_matrix_that_is_not_whole_is_refused(matrix, message):
    with pytest.raises(ValueError, match=message):
        transfer_summary(matrix)
