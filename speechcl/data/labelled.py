"""Which class a clip belongs to: an ordered list of names and the column that holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Classes:
    """The classes that clips are told apart by; a clip's label is the place of its class.

    Arguments
    ---------
    names : tuple of str
        Every class once, in the order of a model's outputs.
    column : str
        The column of a manifest row that names the clip's class.

    Raises
    ------
    ValueError
        If there is no name, or one stands twice.

    Example
    -------
    >>> digits = Classes(("zero", "one", "two"))
    >>> digits.labels([{"ID": "a", "text": "two"}, {"ID": "b", "text": "zero"}])
    tensor([2, 0])
    """

    names: tuple[str, ...]
    column: str = "text"

    def __post_init__(self) -> None:
        """Keep the names as a tuple; refuse a list in which a name would have two labels."""
        object.__setattr__(self, "names", tuple(self.names))
        if not self.names or len(set(self.names)) < len(self.names):
            raise ValueError(f"classes are {list(self.names)}: name at least one, and each once")

    def labels(self, rows: Sequence[Mapping[str, Any]]) -> Tensor:
        """Return the label of each row, shape (rows,).

        Raises
        ------
        ValueError
            If a row's class is none of the names.
        """
        place_of = {name: place for place, name in enumerate(self.names)}
        found = [place_of.get(str(row.get(self.column))) for row in rows]
        strange = [row for row, place in zip(rows, found, strict=True) if place is None]
        if strange:
            shown = ", ".join(self.names[:8]) + (", ..." if len(self.names) > 8 else "")
            raise ValueError(
                f"{len(strange)} of {len(rows)} clips, for example '{strange[0].get('ID')}', have "
                f"{self.column} {strange[0].get(self.column)!r}, which is no class of {shown}: "
                "add it to the classes, or leave these clips out"
            )
        return torch.tensor(found, dtype=torch.int64)

    def places(self, names: Sequence[str]) -> list[int]:
        """Return the labels of some classes.

        Raises
        ------
        ValueError
            If one is unknown.
        """
        unknown = [name for name in names if name not in self.names]
        if unknown:
            raise ValueError(f"class {unknown[0]!r} is none of {', '.join(self.names)}")
        return [self.names.index(name) for name in names]
