"""Test settings for the whole tree, doctests included."""

import os

# two threads that wait for each other are slower than one wherever something else runs
os.environ.setdefault("OMP_NUM_THREADS", "1")
