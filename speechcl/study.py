"""Methods x seeds x orders with one command: a study runs a recipe many times and compares."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from speechcl.results import write_text_atomically

FIELDS = {"recipe": str, "output_folder": str, "methods": list, "seeds": list, "title": str}
OPTIONAL_FIELDS = {"orders": dict, "settings": dict}


@dataclass(frozen=True)
class Study:
    """What to run.

    Arguments
    ---------
    recipe : Path
        The recipe's ``train.py``.
    output_folder : Path
        Every run gets ``<method>/seed_<seed>`` below it, or with several orders
        ``<method>/order_<number>/seed_<seed>``.
    methods : tuple of str
        Names of YAML files in the ``hparams`` folder beside the recipe.
    seeds : tuple of int
        Every method runs once with each.
    title : str
        Of the report.
    orders : tuple of dict
        Every method and seed runs once with each: the recipe's setting that lists the tasks, and
        their order.
    settings : dict
        The recipe's settings that hold for every run.
    """

    recipe: Path
    output_folder: Path
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    title: str
    orders: tuple[dict[str, list], ...] = ({},)
    settings: dict[str, Any] = field(default_factory=dict)

    def hparams(self, method: str) -> Path:
        """Return a method's YAML file."""
        return self.recipe.parent / "hparams" / f"{method}.yaml"

    def runs(self) -> list[Run]:
        """Return every run, seed by seed."""
        runs = []
        for seed, (number, order), method in product(
            self.seeds, enumerate(self.orders, 1), self.methods
        ):
            place = f"order_{number}/seed_{seed}" if len(self.orders) > 1 else f"seed_{seed}"
            folder = self.output_folder / method / place
            runs.append(Run(method, seed, {**self.settings, **order}, folder))
        return runs


class Run(NamedTuple):
    """One run of a study: a method, a seed, the settings it adds, and its folder."""

    method: str
    seed: int
    settings: dict[str, Any]
    folder: Path

    def arguments(self) -> list[str]:
        """Return the settings as ``--key value`` pairs for the recipe's command line."""
        own = {"seed": self.seed, "output_folder": str(self.folder), **self.settings}
        pairs = ((f"--{key}", json.dumps(value)) for key, value in own.items())
        return [text for pair in pairs for text in pair]


def read_study(file: Path | str) -> Study:
    """Read a study from plain YAML; nothing in it is executed.

    Arguments
    ---------
    file : Path
        With ``recipe`` (relative to the file), ``output_folder``, ``methods``, ``seeds`` and
        ``title``; perhaps ``orders``, such as ``{attacks: [[a, b], [b, a]]}``, and ``settings`` for
        every run.

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
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: not plain YAML: {' '.join(str(error).split())}") from error
    _check_fields(file, found)
    study = Study(
        recipe=(file.parent / found["recipe"]).resolve(),
        output_folder=Path(found["output_folder"]),
        methods=tuple(found["methods"]),
        seeds=tuple(found["seeds"]),
        title=found["title"],
        orders=_orders(file, found.get("orders", {})),
        settings=found.get("settings", {}),
    )
    for path in [study.recipe, *map(study.hparams, study.methods)]:
        if not path.is_file():
            raise ValueError(f"{file}: {path} does not exist")
    return study


def _check_fields(file: Path, found: Any) -> None:
    known = {**FIELDS, **OPTIONAL_FIELDS}
    if not isinstance(found, dict) or not FIELDS.keys() <= found.keys() <= known.keys():
        raise ValueError(
            f"{file}: a study has the fields {', '.join(FIELDS)}, and may have "
            f"{' and '.join(OPTIONAL_FIELDS)}"
        )
    for name, value in found.items():
        if not isinstance(value, known[name]) or not value:
            raise ValueError(
                f"{file}: {name} is {value!r} but must be a {known[name].__name__}, not empty"
            )
    if not all(isinstance(method, str) for method in found["methods"]):
        raise ValueError(f"{file}: methods are {found['methods']} but must be names of YAML files")
    if not all(type(seed) is int for seed in found["seeds"]):
        raise ValueError(f"{file}: seeds are {found['seeds']} but must be whole numbers")
    for name in ("methods", "seeds"):
        if len(set(found[name])) < len(found[name]):
            raise ValueError(f"{file}: {name} are {found[name]}: name each once")
    settings, orders = found.get("settings", {}), found.get("orders", {})
    for name, taken in (("settings", set()), ("orders", settings.keys())):
        own = sorted({"seed", "output_folder", *taken} & found.get(name, {}).keys())
        if own:
            raise ValueError(
                f"{file}: {name} hold {' and '.join(own)}: the study sets that elsewhere"
            )
    try:
        json.dumps([settings, orders])
    except TypeError as error:
        raise ValueError(
            f"{file}: settings must be plain numbers, texts and lists: {error}"
        ) from error


def _orders(file: Path, given: dict[str, Any]) -> tuple[dict[str, list], ...]:
    """Return the setting of each order; every order must hold the same tasks."""
    if not given:
        return ({},)
    (setting, orders), *more = given.items()
    lists = isinstance(orders, list) and all(isinstance(one, list) and one for one in orders)
    lists = lists and all(isinstance(task, str) for one in orders for task in one)
    if more or not orders or not lists:
        raise ValueError(
            f"{file}: orders is {given!r}: name the setting that lists the tasks, and under it a "
            "list of lists of names, such as orders: {attacks: [[world, mulaw], [mulaw, world]]}"
        )
    for one in orders:
        if sorted(one) != sorted(orders[0]) or len(set(one)) < len(one):
            raise ValueError(
                f"{file}: order {one} must hold each task of {orders[0]} once: "
                "runs on other tasks cannot be averaged"
            )
    if len({tuple(one) for one in orders}) < len(orders):
        raise ValueError(f"{file}: orders of {setting} holds the same order twice: name each once")
    return tuple({setting: one} for one in orders)


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
    runs = study.runs()
    set_here = {"seed", "output_folder", *runs[0].settings}
    own_options = {f"--{name}" for name in set_here} & {one.split("=")[0] for one in overrides}
    if own_options:
        raise ValueError(f"the study sets {' and '.join(sorted(own_options))}: change it there")
    folders = []
    with _recipe(study.recipe) as main:
        for number, run in enumerate(runs, 1):
            print(f"run {number} of {len(runs)}: {run.folder}", flush=True)
            folders.append(main([str(study.hparams(run.method)), *run.arguments(), *overrides]))
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
            "average_seeds_interval": row.runs_interval,
            "average_clips_interval": row.interval,
            "difference": row.difference and asdict(row.difference),
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
