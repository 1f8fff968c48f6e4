"""Kills a run at a moment of one's choice."""

import torch

from speechcl.checkpoints import AtomicCheckpointer
from speechcl.engine import Engine
from speechcl.run_folder import RunFolder


class Killed(BaseException):
    """Stands for a kill: nothing in the code under test may catch it."""


class KillSwitch:
    """Raises at the n-th of a run's notable moments."""

    def __init__(self, monkeypatch, optimizer=torch.optim.SGD):
        self.moments, self.at = 0, None
        for owner, name in [
            (Engine, "evaluate"),
            (Engine, "_fit"),
            (RunFolder, "keep_scores"),
            (RunFolder, "keep_progress"),
            (AtomicCheckpointer, "save_checkpoint"),
            (optimizer, "step"),
        ]:
            self.wrap(monkeypatch, owner, name)

    def wrap(self, monkeypatch, owner, name):
        inner = getattr(owner, name)

        def outer(*args, **kwargs):
            self.tick()
            value = inner(*args, **kwargs)
            self.tick()
            return value

        monkeypatch.setattr(owner, name, outer)

    def tick(self):
        self.moments += 1
        if self.moments == self.at:
            raise Killed
