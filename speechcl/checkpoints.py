"""Checkpoints that a kill cannot break and that carry the shape of a growing model."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy
import torch
import yaml
from speechbrain.utils.checkpoints import (
    Checkpointer,
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)
from speechbrain.utils.distributed import ddp_barrier, if_main_process

logger = logging.getLogger(__name__)

SIZES = "sizes.json"
HALF_WRITTEN = ".part-"


class AtomicCheckpointer(Checkpointer):
    """SpeechBrain's Checkpointer, with three things added.

    A checkpoint is written under a hidden name, flushed to disk and renamed, so a kill at any
    moment leaves the former one; a damaged one is skipped with a warning; and what ``describe``
    returns goes into the meta data, so that shapes are known before tensors are loaded.

    Arguments
    ---------
    folder : Path
        Where the checkpoints of one task live.
    recoverables : Mapping
        Objects to save, by name.
    describe : Callable
        Returns the plain description to store with each checkpoint: the method's structure.

    Example
    -------
    >>> import tempfile
    >>> net = torch.nn.Linear(2, 1)
    >>> keeper = AtomicCheckpointer(tempfile.mkdtemp(), {"net": net}, lambda: {"rank": 4})
    >>> _ = keeper.save_checkpoint()
    >>> keeper.find_checkpoint().meta["rank"]
    4
    """

    def __init__(
        self,
        folder: Path | str,
        recoverables: Mapping[str, Any],
        describe: Callable[[], dict],
    ) -> None:
        super().__init__(folder, dict(recoverables))
        self.describe = describe

    def save_checkpoint(
        self, meta: Mapping = {}, end_of_epoch: bool = True, name: str | None = None, **kwargs: Any
    ) -> Any:
        """Save under a hidden name, then rename; see SpeechBrain's Checkpointer."""
        meta = {**meta, **check_plain(self.describe())}
        saved = super().save_checkpoint(meta, end_of_epoch, name, **kwargs)
        if saved is None:  # not the main process
            ddp_barrier()
            return None
        sizes = {file.name: file.stat().st_size for file in saved.path.iterdir()}
        (saved.path / SIZES).write_text(json.dumps(sizes))
        for file in saved.path.iterdir():
            _flush(file)
        _flush(saved.path)
        final = saved.path.with_name(saved.path.name.removeprefix(HALF_WRITTEN))
        saved.path.rename(final)
        _flush(final.parent)
        ddp_barrier()
        files = {name: final / file.name for name, file in saved.paramfiles.items()}
        return saved._replace(path=final, paramfiles=files)

    def save_and_keep_only(
        self, meta: Mapping = {}, end_of_epoch: bool = True, **kwargs: Any
    ) -> None:
        """Save, then delete all older checkpoints; SpeechBrain's further options are not used."""
        saved = self.save_checkpoint(meta, end_of_epoch, verbosity=logging.DEBUG)
        if saved is not None:
            for path in super()._list_checkpoint_dirs():
                if path != saved.path:
                    shutil.rmtree(path)
        ddp_barrier()

    def _new_checkpoint_dirpath(self) -> Path:
        path = super()._new_checkpoint_dirpath()
        return path.with_name(HALF_WRITTEN + path.name)

    def _list_checkpoint_dirs(self) -> list[Path]:
        return [path for path in super()._list_checkpoint_dirs() if _is_whole(path)]

    def sweep(self) -> None:
        """Delete what a kill left half-written."""
        if if_main_process():
            for path in Path(self.checkpoints_dir).glob(HALF_WRITTEN + "*"):
                shutil.rmtree(path)
        ddp_barrier()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def _is_whole(path: Path) -> bool:
    try:
        sizes = json.loads((path / SIZES).read_text())
        damaged = [name for name, size in sizes.items() if (path / name).stat().st_size != size]
    except (OSError, ValueError) as error:
        damaged = [str(error)]
    if damaged:
        logger.warning("skipping the damaged checkpoint %s (%s)", path, ", ".join(damaged))
    return not damaged


def check_plain(structure: dict) -> dict:
    """Return ``structure`` if YAML gives it back unchanged.

    Raises
    ------
    TypeError
        If it holds tuples, numpy scalars or anything else that YAML would change or refuse.

    Example
    -------
    >>> check_plain({"rank": 4, "layers": ["a", "b"]})
    {'rank': 4, 'layers': ['a', 'b']}
    >>> check_plain({"shape": (2, 3)})
    Traceback (most recent call last):
    TypeError: structure() must hold plain dicts, lists, strings and numbers, not {'shape': (2, 3)}
    """
    try:
        back = yaml.safe_load(yaml.safe_dump(structure))
    except yaml.YAMLError:
        back = None
    if back != structure:
        raise TypeError(
            f"structure() must hold plain dicts, lists, strings and numbers, not {structure}"
        )
    return structure


@register_checkpoint_hooks
class ModuleState:
    """A module's tensors as something a checkpointer can keep, also when there are none yet.

    Example
    -------
    >>> ModuleState(torch.nn.Identity()).module
    Identity()
    """

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module

    @mark_as_saver
    def _save(self, path: Path) -> None:
        torch.save(self.module.state_dict(), path)

    @mark_as_loader
    def _load(self, path: Path, end_of_epoch: bool) -> None:
        self.module.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))


@register_checkpoint_hooks
class RandomState:
    """The generators of python, numpy and torch as something a checkpointer can keep.

    Example
    -------
    >>> state = RandomState().capture()
    >>> first = torch.rand(1)
    >>> RandomState().restore(state)
    >>> bool(torch.rand(1) == first)
    True
    """

    def capture(self) -> dict:
        """Return all states as plain values and tensors."""
        kind, keys, *rest = numpy.random.get_state()
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return {
            "python": random.getstate(),
            "numpy": [kind, torch.from_numpy(numpy.asarray(keys, dtype=numpy.int64)), *rest],
            "torch": torch.get_rng_state(),
            "cuda": cuda,
        }

    def restore(self, state: dict) -> None:
        """Put the states back."""
        random.setstate(state["python"])
        kind, keys, *rest = state["numpy"]
        numpy.random.set_state((kind, keys.numpy().astype(numpy.uint32), *rest))
        torch.set_rng_state(state["torch"])
        if state["cuda"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda"])

    @mark_as_saver
    def _save(self, path: Path) -> None:
        torch.save(self.capture(), path)

    @mark_as_loader
    def _load(self, path: Path, end_of_epoch: bool) -> None:
        self.restore(torch.load(path, weights_only=True))


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch alike.

    Example
    -------
    >>> seed_everything(3); first = torch.rand(1)
    >>> seed_everything(3); bool(first == torch.rand(1))
    True
    """
    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)


class Stopwatch:
    """Seconds spent, added up over interruptions.

    Example
    -------
    >>> Stopwatch(before_s=3.0).seconds() >= 3.0
    True
    """

    def __init__(self, before_s: float = 0.0) -> None:
        self.start = time.monotonic() - before_s

    def seconds(self) -> float:
        """Return the seconds so far."""
        return time.monotonic() - self.start
