"""One run of a recipe: hyper-parameters, run folder, engine, report."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import speechbrain as sb
import torch
import yaml
from hyperpyyaml import load_hyperpyyaml, resolve_references
from ruamel.yaml import YAMLError
from speechbrain.core import DEFAULT_LOG_CONFIG
from speechbrain.utils.distributed import (
    ddp_barrier,
    ddp_init_group,
    if_main_process,
    is_distributed_initialized,
    run_on_main,
)
from speechbrain.utils.logger import setup_logging

from speechcl.engine import Engine, check_run_opts
from speechcl.reports import render_report, summary_table
from speechcl.results import write_text_atomically
from speechcl.task import Task

# run options under which the numbers stay the same
_HARMLESS = ("noprogressbar", "ckpt_interval_minutes", "ckpt_interval_steps", "distributed_backend")


class Experiment:
    """What every recipe's ``train.py`` does before and after its own few lines.

    The YAML file of a recipe has at its top level whatever a user may set on the command line, the
    ``method``, an ``output_folder``, and under ``base`` the included fragment with ``brain``,
    ``model`` and ``training``.

    Arguments
    ---------
    argv : Sequence
        Arguments of ``train.py``: the YAML file, SpeechBrain's run options, ``--key value`` pairs.

    Raises
    ------
    ValueError
        If the YAML file is missing, or a key on the command line is not in it.
    """

    def __init__(self, argv: Sequence[str]) -> None:
        self.argv = list(argv)
        # SpeechBrain's --debug trains on two batches; here it shows where an error came from
        given = [one for one in self.argv if one != "--debug"]
        self.file, options, self.overrides = sb.parse_arguments(given)
        self.run_opts = check_run_opts({name: options[name] for name in options.overridden_args})
        if not torch.cuda.is_available():
            self.run_opts.setdefault("distributed_backend", "gloo")
        self.run_opts.setdefault("ckpt_interval_minutes", 0 if _steps(self.run_opts) else 5)
        if not torch.distributed.is_initialized():
            ddp_init_group({"distributed_backend": "nccl", **self.run_opts})
        self.hparams = _load(self.file, self.overrides)
        self.base = self.hparams["base"]
        self.folder = Path(self.hparams["output_folder"])
        self.settings = _settings(self.file, self.overrides, self.run_opts)
        _check_settings(self.folder, self.settings)

    def on_main(self, prepare: Callable[..., Any], **kwargs: Any) -> Any:
        """Run ``prepare`` on the main process first, then on all; it must find its work done."""
        if is_distributed_initialized():
            run_on_main(prepare, kwargs=kwargs)
        return prepare(**kwargs)

    def run(self, stream: Sequence[Task], about: Mapping[str, Any]) -> Path:
        """Learn the stream; write results.json and report.html.

        Arguments
        ---------
        stream : Sequence
            The tasks.
        about : Mapping
            Further fields of results.json: recipe, notes, examples.

        Returns
        -------
        Path
            The run folder.
        """
        if if_main_process():
            _make_folder(self.folder, self.settings)
        ddp_barrier()
        method = self.hparams["method"]
        label = self.hparams.get("method_label", type(method).__name__)
        command = " ".join(["python", os.path.relpath(sys.argv[0]), *self.argv])
        engine = Engine(
            brain=self.base["brain"],
            modules=self.base.get("modules") or {"model": self.base["model"]},
            method=method,
            stream=stream,
            training=self.base["training"],
            folder=self.folder,
            run_opts=self.run_opts,
            about={"method_label": label, "command": command, **_sizes(stream), **about},
        )
        engine.run()
        if if_main_process():
            render_report([self.folder], self.folder / "report.html")
        ddp_barrier()
        return self.folder


def run_recipe(main: Callable[[Sequence[str]], Path], argv: Sequence[str]) -> int:
    """Run a recipe's ``main`` as a command and print its scores.

    Returns
    -------
    int
        The exit code: 0 done, 1 with one clear line on bad input, 130 when interrupted.

    Example
    -------
    >>> def main(argv):
    ...     raise ValueError("clip.wav: holds no samples")
    >>> run_recipe(main, [])
    1
    """
    try:
        folder = main(argv)
        if if_main_process():
            print(f"\n{summary_table([folder])}\n\n{folder / 'report.html'}")
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError) as error:
        if "--debug" in argv:
            raise
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        return 1
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    return 0


def describe_environment() -> str:
    """Return system, python and every installed package with its version, a line each.

    Example
    -------
    >>> "torch==" in describe_environment()
    True
    """
    found = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
    packages = [f"{name}=={version}" for name, version in sorted(found.items()) if name]
    threads = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device"
    head = [platform.platform(), f"python {platform.python_version()}", threads, cuda]
    return "\n".join([*head, *packages]) + "\n"


def _load(file: str, overrides: str) -> dict[str, Any]:
    if not Path(file).is_file():
        raise ValueError(f"{file}: no such file; give a method's YAML, such as hparams/rwm.yaml")
    _check_numbers(Path(file).read_text(encoding="utf-8"), overrides)
    try:
        with Path(file).open(encoding="utf-8") as stream:
            return load_hyperpyyaml(stream, overrides)
    except KeyError as error:
        raise ValueError(f"{file}: {error.args[0]}") from error
    except (YAMLError, AttributeError, TypeError) as error:
        given = overrides.replace("\n", ", ")
        raise ValueError(f"{file} with {given}: {' '.join(str(error).split())}") from error


def _check_numbers(text: str, overrides: str) -> None:
    """Refuse anything but a number for a setting that is one in the file."""
    for key, value in (yaml.safe_load(overrides) or {}).items():
        plain = re.search(rf"^{re.escape(key)}: *(-?[0-9.]+(?:e-?[0-9]+)?) *(?:#.*)?$", text, re.M)
        if plain and (isinstance(value, bool) or not isinstance(value, int | float)):
            given = "nothing" if value is True else repr(value)
            raise ValueError(f"--{key} is a number such as {plain[1]}, but {given} was given")


def _settings(file: str, overrides: str, run_opts: Mapping[str, Any]) -> str:
    """Resolve the YAML file; run options that change numbers follow as a comment."""
    with Path(file).open(encoding="utf-8") as stream:
        resolved = resolve_references(stream, overrides).read()
    chosen = {name: run_opts[name] for name in sorted(run_opts) if name not in _HARMLESS}
    return f"{resolved.rstrip()}\n# run options: {chosen}\n"


def _check_settings(folder: Path, settings: str) -> None:
    """Refuse to go on with other settings in a folder in which a run was begun."""
    file = folder / "hyperparams.yaml"
    if not file.is_file():
        return
    old, new = (
        [
            line
            for line in text.splitlines()
            if not line.strip().startswith(("workers:", "loaders:"))
        ]
        for text in (file.read_text(encoding="utf-8"), settings)
    )
    if old != new:
        raise ValueError(
            f"{folder} holds a run with other settings (see its hyperparams.yaml): "
            "give another --output_folder, or delete it"
        )


def _make_folder(folder: Path, settings: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_text_atomically(folder / "hyperparams.yaml", settings)
    # SpeechBrain's own description asks whichever pip is first on PATH, often another environment's
    (folder / "env.log").write_text(describe_environment(), encoding="utf-8")
    changes = {
        "handlers": {
            "file_handler": {"filename": str(folder / "log.txt")},
            "console": {"formatter": "console"},
        },
        "formatters": {"console": {"format": "%(message)s"}},
        "loggers": {"speechbrain": {"level": "WARNING"}},
    }
    setup_logging(DEFAULT_LOG_CONFIG, changes, default_level=logging.getLevelName(logging.INFO))


def _sizes(stream: Sequence[Task]) -> dict[str, Any]:
    return {
        f"{split}_sizes": [_count(getattr(task, split)) for task in stream]
        for split in ("train", "test")
    }


def _count(data: Any) -> dict[str, int]:
    """Count the items by class where they have classes."""
    return data.counts() if hasattr(data, "counts") else {"items": len(data)}


def _steps(run_opts: Mapping[str, Any]) -> bool:
    return run_opts.get("ckpt_interval_steps", 0) > 0
