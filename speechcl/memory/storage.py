"""How items are kept: as they are or in fewer bytes, in memory or in files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from speechcl.parallel import world

StoredAs = Literal["same", "float16", "uint8"]
FORMS = ("same", "float16", "uint8")
_LEVELS = 255


def layout_of_rows(items: Mapping[str, Tensor], stored_as: StoredAs) -> dict:
    """Describe how a row of each tensor is kept, in plain values.

    Returns
    -------
    dict
        By name ``shape`` and ``dtype`` of a row as it comes, and ``stored`` where it is kept in
        another type. Whole numbers always are kept as they are.

    Example
    -------
    >>> layout_of_rows({"features": torch.zeros(4, 2), "label": torch.zeros(4).long()}, "float16")
    {'features': {'shape': [2], 'dtype': 'float32', 'stored': 'float16'}, 'label': {'shape': [],
    'dtype': 'int64'}}
    """
    layout = {}
    for name, one in items.items():
        form: dict[str, Any] = {"shape": list(one.shape[1:]), "dtype": _name(one.dtype)}
        if stored_as != "same" and one.is_floating_point():
            form["stored"] = stored_as
        layout[name] = form
    return layout


def bytes_a_row(layout: Mapping[str, Mapping]) -> int:
    """Return what one item of a layout takes.

    Example
    -------
    >>> bytes_a_row({"features": {"shape": [100], "dtype": "float32", "stored": "uint8"}})
    108
    """
    total = 0
    for form in layout.values():
        for _, shape, dtype in tensors_of("", form):
            total += torch.Size(shape).numel() * dtype.itemsize
    return total


def tensors_of(name: str, form: Mapping) -> list[tuple[str, list[int], torch.dtype]]:
    """Return name, shape of a row and type of each tensor that keeps one named tensor.

    Example
    -------
    >>> tensors_of("x", {"shape": [3], "dtype": "float32", "stored": "uint8"})
    [('x', [3], torch.uint8), ('x_range', [2], torch.float32)]
    """
    stored = getattr(torch, form.get("stored", form["dtype"]))
    found = [(name, form["shape"], stored)]
    if form.get("stored") == "uint8":
        found.append((f"{name}_range", [2], torch.float32))
    return found


def encode(name: str, rows: Tensor, form: Mapping) -> dict[str, Tensor]:
    """Bring rows to the form in which they are kept.

    In ``uint8`` each row has 256 levels between its own least and greatest value: nothing is off
    by more than half a level.

    Raises
    ------
    ValueError
        If a row that is kept in fewer bytes holds numbers that are not finite.
    """
    stored = form.get("stored")
    if stored is None:
        return {name: rows}
    flat = rows.flatten(1).float()
    if not bool(torch.isfinite(flat).all()):
        raise ValueError(
            f"'{name}' of an item holds numbers that are not finite, which a memory in {stored} "
            "cannot keep: drop the item"
        )
    if stored == "float16":
        return {name: rows.clamp(-65504, 65504).half()}
    low, high = flat.amin(1), flat.amax(1)
    step = (high - low) / _LEVELS
    divisor = torch.where(step > 0, step, torch.ones_like(step))
    levels = ((flat - low[:, None]) / divisor[:, None]).round().byte()
    return {name: levels.view(rows.shape), f"{name}_range": torch.stack([low, step], 1)}


def decode(name: str, kept: Mapping[str, Tensor], form: Mapping) -> Tensor:
    """Return rows as they came, up to the rounding of ``encode``.

    Example
    -------
    >>> form = {"shape": [3], "dtype": "float32", "stored": "uint8"}
    >>> decode("x", encode("x", torch.tensor([[0.0, 0.5, 255.0]]), form), form)
    tensor([[  0.,   0., 255.]])
    """
    rows = kept[name]
    if "stored" not in form:
        return rows
    dtype = getattr(torch, form["dtype"])
    if form["stored"] == "float16":
        return rows.to(dtype)
    shape = (len(rows), *[1] * (rows.ndim - 1))
    low, step = (part.view(shape) for part in kept[f"{name}_range"].unbind(1))
    return (low + rows.float() * step).to(dtype)


def room(name: str, shape: list[int], dtype: torch.dtype, folder: Path | None) -> Tensor:
    """Make room for items: zeros in memory, or a file of this process that is read as needed.

    Example
    -------
    >>> file_backed = room("x", [4, 2], torch.float32, getfixture("tmp_path"))
    >>> file_backed[:] = 1.0
    >>> file_backed.sum()
    tensor(8.)
    """
    if folder is None:
        return torch.zeros(shape, dtype=dtype)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}-{world()[0]}.bin"
    size = torch.Size(shape).numel()
    return torch.from_file(str(file), shared=True, size=size, dtype=dtype).view(shape)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
