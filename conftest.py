"""Test settings for the whole tree, doctests included."""

import os

# Two threads that wait for each other are slower than one wherever something else runs.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from speechbrain.utils.importutils import LazyModule  # noqa: E402

# Hypothesis asks every loaded module for its file; SpeechBrain's lazy ones would import packages
# that are not installed in order to answer.
LazyModule.__file__ = None
