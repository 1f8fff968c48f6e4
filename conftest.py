"""Test settings for the whole tree, doctests included."""

import os

# Two threads that wait for each other are slower than one wherever something else runs.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest  # noqa: E402
import torch  # noqa: E402
from speechbrain.utils.importutils import LazyModule  # noqa: E402

# Hypothesis asks every loaded module for its file; SpeechBrain's lazy ones would import packages
# that are not installed in order to answer.
LazyModule.__file__ = None


@pytest.fixture(autouse=True)
def same_draws():
    """Every test and example draws the same, whichever ran before it."""
    torch.manual_seed(0)
