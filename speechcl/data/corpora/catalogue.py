"""The public corpora by name, and reading several of them at once."""

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from speechcl.data.corpora import (
    add2022,
    asvspoof2015,
    asvspoof2019,
    asvspoof2021,
    fake_or_real,
    fmfcc_a,
    in_the_wild,
)
from speechcl.data.corpora.common import CorpusNotFound
from speechcl.data.manifest_checks import Row

READERS: Mapping[str, Callable[..., list[Row]]] = MappingProxyType(
    {
        asvspoof2015.SOURCE.name: asvspoof2015.read,
        asvspoof2019.SOURCE.name: asvspoof2019.read,
        **{
            source.name: partial(asvspoof2021.read, track=track)
            for track, source in asvspoof2021.SOURCES.items()
        },
        in_the_wild.SOURCE.name: in_the_wild.read,
        fmfcc_a.SOURCE.name: fmfcc_a.read,
        add2022.SOURCE.name: add2022.read,
        fake_or_real.SOURCE.name: fake_or_real.read,
    }
)


def read_corpora(
    names: Sequence[str],
    data_folder: str | os.PathLike,
    folders: Mapping[str, str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Row]:
    """List the clips of several corpora.

    Arguments
    ---------
    names : sequence of str
        Among :data:`READERS`.
    data_folder : str or os.PathLike
        Holds a folder of each corpus's name.
    folders : mapping, optional
        Folders of corpora that lie elsewhere.
    options : mapping, optional
        Further arguments of a corpus's reader, such as ``{"FoR": {"version": "for-original"}}``.

    Returns
    -------
    list of dict
        Manifest rows without duration; ``split`` is empty where a corpus leaves it open.

    Raises
    ------
    ValueError
        Listing all corpora that were not found, or naming the corpus or option that is unknown.
    ManifestError
        If a corpus's lists are wrong.

    Example
    -------
    >>> read_corpora(["FoR"], getfixture("tmp_path"))
    Traceback (most recent call last):
    ...
    ValueError: 1 of 1 corpora is missing: FoR: no folder ...; get it from FoR: York University,
    bil.eecs.yorku.ca/datasets; leave out what you do not have with --corpora "[...]"
    """
    folders, options = dict(folders or {}), dict(options or {})
    _check_names(names, [*folders, *options])
    rows: list[Row] = []
    missing = []
    for name in names:
        folder = folders.get(name) or Path(data_folder) / name
        given = options.get(name) or {}
        _check_options(name, given)
        try:
            rows += READERS[name](folder, **given)
        except CorpusNotFound as error:
            missing.append(str(error))
    if missing:
        is_are = "is" if len(missing) == 1 else "are"
        raise ValueError(
            f"{len(missing)} of {len(names)} corpora {is_are} missing: {'; '.join(missing)}; "
            'leave out what you do not have with --corpora "[...]"'
        )
    return rows


def _check_names(names: Sequence[str], more: Sequence[str]) -> None:
    for name in [*names, *more]:
        if name not in READERS:
            raise ValueError(f"corpus {name!r} is unknown: choose among {', '.join(READERS)}")
    if not names or len(set(names)) < len(names):
        raise ValueError(f"corpora are {list(names)}: name at least one, and each once")


def _check_options(name: str, given: Mapping[str, Any]) -> None:
    parameters = inspect.signature(READERS[name]).parameters.values()
    # the first is the folder; what a partial has filled in counts as keyword-only
    known = [one.name for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD][1:]
    unknown = [option for option in given if option not in known]
    if unknown:
        raise ValueError(
            f"{name} has no option {unknown[0]!r}: it has {', '.join(known) or 'none'}"
        )
