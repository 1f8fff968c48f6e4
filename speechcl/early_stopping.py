"""Training that ends when clips it does not train on gain nothing more."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)
from speechbrain.utils.epoch_loop import EpochCounter
from torch import Tensor, nn


@register_checkpoint_hooks
class EarlyStopping(EpochCounter):
    """Counts epochs until too many have passed without a gain, and remembers the best one.

    Kept of an epoch is what training may move: trainable parameters and buffers. Give it to a
    checkpointer, so that a resumed training stops where it would have stopped.

    Arguments
    ---------
    epochs : int
        At most how many.
    patience : int
        Stops after so many epochs in a row without a gain.
    modules : nn.Module
        What is trained.

    Source: Prechelt, "Early stopping - but when?", 1998, its criterion UP with strips of an epoch;
    deviates: a rise is counted from the best epoch, not from the one before.

    Example
    -------
    >>> net = nn.Linear(1, 1)
    >>> counter, losses = EarlyStopping(9, patience=2, modules=net), [3.0, 1.0, 2.0, 1.0, 0.0]
    >>> for epoch in counter:
    ...     _ = nn.init.constant_(net.weight, epoch)
    ...     counter.see(epoch, losses[epoch - 1])
    >>> counter.put_back()
    >>> epoch, counter.best_epoch, net.weight.item()
    (4, 2, 2.0)
    """

    def __init__(self, epochs: int, patience: int, modules: nn.Module) -> None:
        super().__init__(epochs)
        self.patience, self.modules = patience, modules
        self.best_epoch, self.best_loss = 0, math.inf
        self.best: dict[str, Tensor] = {}

    def __next__(self) -> int:
        """Return the number of the next epoch, unless patience is at its end."""
        if self.best_epoch and self.current - self.best_epoch >= self.patience:
            raise StopIteration
        return super().__next__()

    def see(self, epoch: int, loss: float) -> None:
        """Note the loss of an epoch on clips that are not trained on."""
        if loss < self.best_loss:
            self.best_epoch, self.best_loss = epoch, loss
            self.best = {name: one.detach().clone() for name, one in self._movable().items()}

    @torch.no_grad()
    def put_back(self) -> None:
        """Give the modules back what they were after the best epoch."""
        movable = self._movable()
        for name, one in self.best.items():
            movable[name].copy_(one)

    def _movable(self) -> dict[str, Tensor]:
        trained = {name: p for name, p in self.modules.named_parameters() if p.requires_grad}
        return {**trained, **dict(self.modules.named_buffers())}

    @mark_as_saver
    def _save(self, path: Path) -> None:
        state = {name: getattr(self, name) for name in ("current", "best_epoch", "best_loss")}
        torch.save({**state, "best": self.best}, path)

    @mark_as_loader
    def _recover(self, path: Path, end_of_epoch: bool) -> None:
        state = torch.load(path, map_location="cpu", weights_only=True)
        self.current = state["current"] - (not end_of_epoch)  # an epoch begun is counted anew
        self.best_epoch, self.best_loss = state["best_epoch"], state["best_loss"]
        self.best = state["best"]
