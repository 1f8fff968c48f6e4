"""Independent jobs in worker processes: seeds and results do not depend on who does which."""

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

import torch
from tqdm import tqdm

Job = TypeVar("Job")
Result = TypeVar("Result")


def seed_for(*parts: object) -> int:
    """Return a seed that depends on all parts and on nothing else, such as order or process.

    Arguments
    ---------
    *parts : object
        Whatever tells items apart; compared as text.

    Returns
    -------
    int
        A seed from 0 to 2^31 - 1.

    Example
    -------
    >>> seed_for(0, "clip_1", "world"), seed_for(0, "clip_1", "tts")
    (1940031042, 221938309)
    """
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def run_jobs(
    function: Callable[[Job], Result], jobs: list[Job], workers: int, description: str
) -> list[Result]:
    """Apply a function to each job; every process computes on one thread.

    Arguments
    ---------
    function : callable
        Takes a job, returns a result. With several workers it must be defined in a module.
    jobs : list
        What to do.
    workers : int
        Number of processes; 1 stays in this one.
    description : str
        What the progress bar says.

    Returns
    -------
    list
        The results.

    Raises
    ------
    ValueError
        If there is less than one worker.

    Example
    -------
    >>> run_jobs(abs, [-1, 2, -3], workers=1, description="abs")
    [1, 2, 3]
    """
    if workers < 1:
        raise ValueError(f"workers is {workers}: set it to 1 or more")
    if workers == 1 or len(jobs) < 2:
        return _run_here(function, jobs, description)
    # spawned, since a forked child of a process that has used threads may hang
    with ProcessPoolExecutor(
        min(workers, len(jobs)), get_context("spawn"), torch.set_num_threads, (1,)
    ) as pool:
        futures = [pool.submit(function, job) for job in jobs]
        try:
            return [future.result() for future in _bar(futures, description)]
        finally:
            pool.shutdown(cancel_futures=True)  # after a failure, start no further job


def _run_here(function: Callable[[Job], Result], jobs: list[Job], description: str) -> list[Result]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker: the number of threads may change the last bit
    try:
        return [function(job) for job in _bar(jobs, description)]
    finally:
        torch.set_num_threads(threads)


def _bar(items: list, description: str) -> Iterable:
    return tqdm(items, desc=description, disable=None)  # none where stderr is not a terminal
