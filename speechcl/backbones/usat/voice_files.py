"""Voices in files of their own: safetensors, with the base that they were made for."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import Tensor

from speechcl.adapters.files import read_tensors
from speechcl.adapters.fingerprint import base_fingerprint
from speechcl.backbones.usat.voices import (
    VECTOR,
    VoiceSpec,
    add_voice,
    remove_voice,
    spec_of,
    voice_tensors,
)
from speechcl.data.files import atomic_path

if TYPE_CHECKING:
    from speechcl.backbones.usat.model import USAT

FORMAT = "speechcl voice 1"
_MAX_BYTES = 1 << 28  # a hundred times the largest voice
_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def save_voice(
    model: USAT,
    name: str,
    file: str | Path,
    dtype: torch.dtype = torch.float16,
    record: Mapping[str, str] | None = None,
) -> None:
    """Write a voice into a safetensors file, whole or not at all.

    Arguments
    ---------
    model : USAT
        With the voice beside it.
    name : str
        Of the voice.
    file : str or Path
        Ends in ``.safetensors``.
    dtype : torch.dtype
        Of the numbers in the file.
    record : Mapping, optional
        What is to be known of the voice: who consented, when it was made, from how much speech.
        ``read_record`` reads it without a model.

    Raises
    ------
    ValueError
        If there is no such voice, or it holds numbers that ``dtype`` cannot.
    """
    own = voice_tensors(model, name)
    tensors = {key: one.detach().cpu().to(dtype) for key, one in own.items()}
    if not all(bool(one.isfinite().all()) for one in tensors.values()):
        raise ValueError(
            f"voice {name!r} holds numbers that are not finite in {dtype}: train it anew"
        )
    about = {
        "format": FORMAT,
        "name": name,
        "spec": json.dumps(dataclasses.asdict(spec_of(model, name))),
        "fingerprint": base_fingerprint(model),
        "record": json.dumps(dict(record or {})),
    }
    with atomic_path(file) as temporary:
        save_file(tensors, temporary, about)


def read_record(file: str | Path) -> dict[str, str]:
    """Return what is known of the voice in a file: its record, ``name`` and ``fingerprint``.

    ``fingerprint`` is that of the base model that it was made for.

    Raises
    ------
    ValueError
        If the file is broken or no voice.

    Example
    -------
    >>> from speechcl.backbones.usat import USAT
    >>> model, file = USAT("usat_tiny"), getfixture("tmp_path") / "alice.safetensors"
    >>> add_voice(model, "alice", torch.zeros(32))
    >>> save_voice(model, "alice", file, record={"consent": "Alice, in writing"})
    >>> found = read_record(file)
    >>> found["name"], found["consent"], found["fingerprint"] == base_fingerprint(model)
    ('alice', 'Alice, in writing', True)
    """
    about, _ = _read_voice(Path(file))
    try:
        record = json.loads(about.get("record", "{}"))
        broken = not all(type(one) is str for one in [*record, *record.values()])
    except (ValueError, AttributeError, TypeError, RecursionError):
        broken = True
    if broken:
        raise ValueError(f"{file}: the record of the voice is broken: enrol it anew")
    return {**record, **{key: about.get(key, "") for key in ("name", "fingerprint")}}


def load_voice(model: USAT, file: str | Path, name: str | None = None) -> str:
    """Put the voice of a file beside the base that it was made for; nothing in it is executed.

    Arguments
    ---------
    model : USAT
        The base.
    file : str or Path
        From ``save_voice``.
    name : str, optional
        By default the one it was saved with.

    Returns
    -------
    str
        The voice's name.

    Raises
    ------
    ValueError
        If the file is broken or no voice, or was made for another base. The model stays as it was.
    """
    file = Path(file)
    about, tensors = _read_voice(file)
    try:
        spec = VoiceSpec(**json.loads(about["spec"]))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{file}: what its adapters are is broken: {error}") from error
    if about.get("fingerprint") != base_fingerprint(model):
        raise ValueError(f"{file}: was made for another base model: load that one first")
    broken = [
        key
        for key, one in tensors.items()
        if one.dtype not in _DTYPES or not bool(one.float().isfinite().all())
    ]
    if broken:
        raise ValueError(
            f"{file}: {broken[0]} holds no finite numbers of single or half precision, and "
            f"{len(broken) - 1} more"
        )
    name = name or about.get("name", "")
    vector = tensors.get(VECTOR, torch.zeros(0)).float()
    try:
        add_voice(model, name, vector.to(next(model.parameters()).device), spec)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    own = voice_tensors(model, name)
    wrong = sorted(own.keys() ^ tensors.keys()) or [
        key for key, one in own.items() if one.shape != tensors[key].shape
    ]
    if wrong:
        remove_voice(model, name)
        raise ValueError(f"{file}: {wrong[0]} does not fit, and {len(wrong) - 1} more")
    with torch.no_grad():
        for key, one in own.items():
            one.copy_(tensors[key])
    return name


def _read_voice(file: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    if not file.is_file():
        raise ValueError(f"{file}: no such file of a voice: check the path")
    if file.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{file}: is larger than {_MAX_BYTES >> 20} MiB: no voice is")
    about, tensors = read_tensors(file)
    if about.get("format") != FORMAT:
        raise ValueError(f"{file}: holds no voice: give a file that save_voice wrote")
    return about, tensors
