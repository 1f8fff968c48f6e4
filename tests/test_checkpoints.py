"""Checkpoints survive kills and damage, and refuse what could not be read back."""

import logging
import os
import pathlib
import random
import shutil

import numpy
import pytest
import torch
from torch import nn

from speechcl.checkpoints import (
    AtomicCheckpointer,
    ModuleState,
    RandomState,
    check_plain,
    seed_everything,
)


class Killed(BaseException):
    """Stands for a kill: nothing in the code under test may catch it."""


def linear(value):
    net = nn.Linear(2, 1)
    nn.init.constant_(net.weight, value)
    return net


def keeper(folder, net, **recoverables):
    described = {"rank": 4, "seconds": 0.5}
    return AtomicCheckpointer(folder, {"net": ModuleState(net), **recoverables}, lambda: described)


def loaded(folder):
    """The weight that a new process would find, None without a usable checkpoint."""
    net = linear(-1.0)
    fresh = keeper(folder, net)
    fresh.sweep()
    found = fresh.find_checkpoint()
    if found is None:
        return None
    fresh.load_checkpoint(found)
    return float(net.weight.detach()[0, 0])


def kill_at(monkeypatch, owner, name, before):
    inner = getattr(owner, name)

    def outer(*args, **kwargs):
        if not before:
            inner(*args, **kwargs)
        raise Killed

    monkeypatch.setattr(owner, name, outer)


def half_written(state, path):
    pathlib.Path(path).write_bytes(b"PK\x03\x04 half a file")
    raise Killed


MOMENTS = [
    (torch, "save", True, 1.0),
    (torch, "save", False, 1.0),
    (os, "fsync", True, 1.0),
    (pathlib.Path, "rename", True, 1.0),
    (pathlib.Path, "rename", False, 2.0),
    (shutil, "rmtree", True, 2.0),
    (shutil, "rmtree", False, 2.0),
]


@pytest.mark.parametrize(("owner", "name", "before", "expected"), MOMENTS)
def test_a_kill_inside_a_save_leaves_a_whole_checkpoint(
    owner, name, before, expected, tmp_path, monkeypatch
):
    keeper(tmp_path, linear(1.0)).save_and_keep_only()
    with monkeypatch.context() as patch:
        kill_at(patch, owner, name, before)
        with pytest.raises(Killed):
            keeper(tmp_path, linear(2.0)).save_and_keep_only()
    assert loaded(tmp_path) == expected
    keeper(tmp_path, linear(3.0)).save_and_keep_only()
    assert loaded(tmp_path) == 3.0
    assert len(list(tmp_path.iterdir())) == 1


def test_a_half_written_file_is_not_found_and_swept_away(tmp_path, monkeypatch):
    keeper(tmp_path, linear(1.0)).save_and_keep_only()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", half_written)
        with pytest.raises(Killed):
            keeper(tmp_path, linear(2.0)).save_and_keep_only()
    assert len(list(tmp_path.iterdir())) == 2
    assert loaded(tmp_path) == 1.0
    assert len(list(tmp_path.iterdir())) == 1


def damage(folder, kind):
    file = next(folder.glob("net*"))
    if kind == "truncated":
        file.write_bytes(file.read_bytes()[:-9])
    elif kind == "missing":
        file.unlink()
    elif kind == "no sizes":
        (folder / "sizes.json").unlink()
    elif kind == "bad sizes":
        (folder / "sizes.json").write_text("{")


@pytest.mark.parametrize("kind", ["truncated", "missing", "no sizes", "bad sizes"])
def test_a_damaged_checkpoint_is_skipped_with_a_warning(kind, tmp_path, caplog):
    old, new = keeper(tmp_path, linear(1.0)), keeper(tmp_path, linear(2.0))
    old.save_checkpoint()
    damage(new.save_checkpoint().path, kind)
    with caplog.at_level(logging.WARNING, logger="speechcl.checkpoints"):
        assert loaded(tmp_path) == 1.0
    assert "skipping the damaged checkpoint" in caplog.text


def test_without_any_whole_checkpoint_there_is_none(tmp_path):
    damage(keeper(tmp_path, linear(1.0)).save_checkpoint().path, "truncated")
    assert loaded(tmp_path) is None
    assert loaded(tmp_path / "elsewhere") is None


def test_only_the_newest_is_kept_and_described(tmp_path):
    for value in (1.0, 2.0, 3.0):
        keeper(tmp_path, linear(value)).save_and_keep_only()
    (folder,) = tmp_path.iterdir()
    assert not folder.name.startswith(".")
    meta = keeper(tmp_path, linear(0.0)).find_checkpoint().meta
    assert (meta["rank"], meta["seconds"]) == (4, 0.5)


def test_saved_is_flushed_before_it_is_renamed(tmp_path, monkeypatch):
    done = []
    for owner, name in [(os, "fsync"), (pathlib.Path, "rename")]:
        inner = getattr(owner, name)
        monkeypatch.setattr(
            owner, name, lambda *args, inner=inner, name=name: (done.append(name), inner(*args))[1]
        )
    saved = keeper(tmp_path, linear(1.0)).save_checkpoint()
    files = len(list(saved.path.iterdir()))
    assert done == ["fsync"] * (files + 1) + ["rename", "fsync"]  # with the folder itself


PLAIN = [{}, {"a": [1, 2.5, "x", None, True]}, {"a": {"b": [{"c": 1}]}}, {"sizes": [3, 4]}]
NOT_PLAIN = [
    {"shape": (2, 3)},
    {"a": [[1, (2,)]]},
    {"a": {"b": (1,)}},
    {"rank": numpy.int64(3)},
    {"rank": numpy.float64(3.0)},
    {"ranks": [numpy.float32(3.0)]},
    {"shape": torch.Size([2, 3])},
    {"weight": torch.zeros(1)},
    {(1, 2): 3},
    {"kind": torch.float32},
]


@pytest.mark.parametrize("structure", PLAIN)
def test_plain_structures_are_taken(structure):
    assert check_plain(structure) == structure


@pytest.mark.parametrize("structure", NOT_PLAIN, ids=str)
def test_structures_that_yaml_would_change_are_refused(structure, tmp_path):
    with pytest.raises(TypeError, match="plain dicts, lists, strings and numbers"):
        check_plain(structure)
    refusing = AtomicCheckpointer(tmp_path, {}, lambda: {"structure": structure})
    with pytest.raises(TypeError):
        refusing.save_checkpoint()
    assert not list(tmp_path.iterdir())


def test_a_module_without_tensors_can_be_kept(tmp_path):
    keeper(tmp_path, nn.Identity()).save_and_keep_only()
    again = keeper(tmp_path, nn.Identity())
    again.load_checkpoint(again.find_checkpoint())


def draws():
    return (
        random.random(),
        random.gauss(0, 1),  # keeps a spare in the state
        float(numpy.random.rand()),
        float(numpy.random.randn()),
        *torch.rand(3).tolist(),
        float(torch.randn(1)),
    )


def test_random_state_restores_every_generator(tmp_path):
    seed_everything(7)
    draws()
    keeper(tmp_path, linear(1.0), random=RandomState()).save_and_keep_only()
    expected = draws()
    seed_everything(8)
    assert all(a != b for a, b in zip(draws(), expected, strict=True))
    again = keeper(tmp_path, linear(0.0), random=RandomState())
    again.load_checkpoint(again.find_checkpoint())
    assert draws() == expected


def test_seed_everything_seeds_every_generator():
    seed_everything(3)
    first = draws()
    seed_everything(3)
    assert draws() == first
    seed_everything(4)
    assert all(a != b for a, b in zip(draws(), first, strict=True))
