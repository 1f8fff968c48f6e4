"""Methods times seeds with one command: a study runs a recipe many times and compares."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import yaml

from speechcl.results import write_text_atomically

FIELDS = {"recipe": str, "output_folder": str, "methods": list, "seeds": list, "title": str}


@dataclass(frozen=True)
class Study:
    """What to run.

    Arguments
    ---------
    recipe : Path
        The recipe's ``train.py``.
    output_folder : Path
        Every run gets ``<method>/seed_<seed>`` below it.
    methods : tuple of str
        Names of YAML files in the ``hparams`` folder beside the recipe.
    seeds : tuple of int
        Every method runs once with each.
    title : str
        Of the report.
    """

    recipe: Path
    output_folder: Path
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    title: str

    def hparams(self, method: str) -> Path:
        """Return a method's YAML file."""
        return self.recipe.parent / "hparams" / f"{method}.yaml"

    def runs(self) -> list[tuple[str, int, Path]]:
        """Return (method, seed, run folder) of every run, seed by seed."""
        return [
            (method, seed, self.output_folder / method / f"seed_{seed}")
            for seed, method in product(self.seeds, self.methods)
        ]


def read_study(file: Path | str) -> Study:
    """Read a study from plain YAML; nothing in it is executed.

    Arguments
    ---------
    file : Path
        With ``recipe`` (relative to the file), ``output_folder``, ``methods``, ``seeds`` and
        ``title``.

    Returns
    -------
    Study

    Raises
    ------
    ValueError
        Naming the field that is missing, unknown or wrong.

    Example
    -------
    >>> read_study("nowhere.yaml")
    Traceback (most recent call last):
    ValueError: nowhere.yaml: no such file
    """
    file = Path(file)
    if not file.is_file():
        raise ValueError(f"{file}: no such file")
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{file}: not plain YAML: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict) or found.keys() != FIELDS.keys():
        raise ValueError(f"{file}: a study has exactly the fields {', '.join(FIELDS)}")
    for name, kind in FIELDS.items():
        if not isinstance(found[name], kind) or not found[name]:
            raise ValueError(f"{file}: {name} is {found[name]!r} but must be a {kind.__name__}")
    if not all(isinstance(seed, int) for seed in found["seeds"]):
        raise ValueError(f"{file}: seeds are {found['seeds']} but must be whole numbers")
    for name in ("methods", "seeds"):
        if len(set(found[name])) < len(found[name]):
            raise ValueError(f"{file}: {name} are {found[name]}: name each once")
    study = Study(
        recipe=(file.parent / found["recipe"]).resolve(),
        output_folder=Path(found["output_folder"]),
        methods=tuple(found["methods"]),
        seeds=tuple(found["seeds"]),
        title=found["title"],
    )
    for path in [study.recipe, *map(study.hparams, study.methods)]:
        if not path.is_file():
            raise ValueError(f"{file}: {path} does not exist")
    return study


def run_study(study: Study, overrides: Sequence[str] = ()) -> list[Path]:
    """Run everything that is not finished; a run that was interrupted goes on where it stopped.

    Arguments
    ---------
    study : Study
        What to run.
    overrides : Sequence
        ``--key value`` pairs for every run, as on the recipe's own command line.

    Returns
    -------
    list of Path
        The run folders.
    """
    own_options = {"--seed", "--output_folder"} & {one.split("=")[0] for one in overrides}
    if own_options:
        raise ValueError(f"the study sets {' and '.join(sorted(own_options))}: change it there")
    folders = []
    with _recipe(study.recipe) as main:
        for number, (method, seed, folder) in enumerate(runs := study.runs(), 1):
            print(f"run {number} of {len(runs)}: {method}, seed {seed}", flush=True)
            own = ("--seed", str(seed), "--output_folder", str(folder))
            folders.append(main([str(study.hparams(method)), *own, *overrides]))
    return folders


def write_study(study: Study, folders: Sequence[Path]) -> Path:
    """Write the study's report.html and, for machines, study.json; return the report."""
    from speechcl.reports import render_report, summary_rows

    rows = [
        {
            "method": row.label,
            "runs": len(row.runs),
            "average": row.average,
            "average_std": row.average_std,
            "average_interval": row.interval,
            "forgetting": row.forgetting,
            "just_learnt": row.just_learnt,
            "final": row.final,
            "memory_bytes": row.memory_bytes,
        }
        for row in summary_rows(folders)
    ]
    text = json.dumps({"title": study.title, "methods": rows}, indent=2)
    write_text_atomically(study.output_folder / "study.json", text + "\n")
    return render_report(folders, study.output_folder / "report.html", study.title)


@contextmanager
def _recipe(file: Path):
    """Import a recipe, with its folder on the path for its prepare module."""
    spec = importlib.util.spec_from_file_location(f"recipe_{file.parent.name}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(file.parent))
    try:
        spec.loader.exec_module(module)
        main: Callable[[Sequence[str]], Path] = module.main
        yield main
    finally:
        sys.path.remove(str(file.parent))
