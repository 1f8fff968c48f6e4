"""Voice models in folders: sizes as JSON, weights as safetensors; nothing in them is executed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from speechcl.backbones.usat.presets import VoiceConfig
from speechcl.data.files import atomic_path

if TYPE_CHECKING:
    from speechcl.backbones.usat.model import USAT

WEIGHTS, SIZES = "model.safetensors", "config.json"


def save_model(model: USAT, folder: Path | str, dtype: torch.dtype = torch.float32) -> None:
    """Write a model into a new folder; a kill leaves all of it or nothing.

    Arguments
    ---------
    model : USAT
        Without adapters.
    folder : Path or str
        That does not exist yet, or is empty.
    dtype : torch.dtype
        Of the weights in the file; ``torch.float16`` halves it.

    Raises
    ------
    ValueError
        If there is something in the folder.
    """
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty: give a new folder for the voice model")
    weights = {
        name: (one.to(dtype) if one.is_floating_point() else one).cpu().contiguous()
        for name, one in model.state_dict().items()
    }
    with atomic_path(folder) as place:
        place.mkdir()
        save_file(weights, place / WEIGHTS)
        sizes = json.dumps(dataclasses.asdict(model.config), indent=1)
        (place / SIZES).write_text(sizes + "\n", encoding="utf-8")


def read_config(folder: Path | str) -> VoiceConfig:
    """Read the sizes of the model in a folder.

    Raises
    ------
    ValueError
        If there is no such file, or it is not one of a voice model.
    """
    file = Path(folder) / SIZES
    if not file.is_file() or not (Path(folder) / WEIGHTS).is_file():
        raise ValueError(
            f"{folder}: no {SIZES} and {WEIGHTS} in it; give a folder that a voice model was "
            "saved to"
        )
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        known = {field.name: type(field.default) for field in dataclasses.fields(VoiceConfig)}
        wrong = [n for n, value in found.items() if type(value) is not known.get(n)]
        if wrong:
            raise ValueError(f"{wrong[0]} is {found[wrong[0]]!r}")
        return VoiceConfig(**found)
    except (ValueError, AttributeError) as error:  # JSON's own errors are ValueErrors
        raise ValueError(f"{file}: not the sizes of a voice model ({error})") from error


def read_weights(model: USAT, folder: Path | str) -> None:
    """Fill a model with the weights of a folder.

    Raises
    ------
    ValueError
        If the file is damaged or of other sizes.
    """
    file = Path(folder) / WEIGHTS
    try:
        weights = load_file(file)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file}: no weights can be read ({error})") from error
    own = model.state_dict()
    wrong = sorted(own.keys() ^ weights.keys()) or sorted(
        name for name, one in own.items() if one.shape != weights[name].shape
    )
    if wrong:
        raise ValueError(f"{file}: {wrong[0]} and {len(wrong) - 1} more do not fit {SIZES}")
    model.load_state_dict({name: one.to(own[name].dtype) for name, one in weights.items()})
