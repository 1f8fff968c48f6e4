"""Plain sequential fine-tuning: the floor that every method must beat."""

from speechcl.method import Method


class FineTune(Method):
    """Train on each task's data as it comes and protect nothing.

    Example
    -------
    >>> FineTune().memory_bytes([])
    0
    """
