import math
import os

import pytest

from speechcl.data.pool import run_jobs, seed_for


def _process(_):
    return os.getpid()


def test_results_come_in_order_from_other_processes():
    assert run_jobs(math.factorial, [5, 1, 4, 0], workers=2, description="x") == [120, 1, 24, 1]


def test_one_worker_stays_here_and_no_jobs_are_no_error():
    assert run_jobs(_process, [0, 1], workers=1, description="x") == [os.getpid()] * 2
    assert run_jobs(abs, [], workers=2, description="x") == []


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_a_job_comes_through(workers):
    with pytest.raises(ValueError, match="math domain|nonnegative|expected"):
        run_jobs(math.sqrt, [1, -1, 4], workers=workers, description="x")


def test_no_workers():
    with pytest.raises(ValueError, match="workers is 0"):
        run_jobs(abs, [1], workers=0, description="x")


def test_seeds_differ_by_every_part_and_its_place():
    seeds = {seed_for(0, "a", "b"), seed_for(0, "b", "a"), seed_for(1, "a", "b"), seed_for(0, "ab")}
    assert len(seeds) == 4
    assert all(0 <= seed < 2**31 for seed in seeds)
