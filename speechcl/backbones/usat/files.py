"""Voice models in folders: sizes as JSON, weights as safetensors; nothing in them is executed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from speechcl.adapters.adapted import MARK
from speechcl.backbones.usat.presets import VoiceConfig
from speechcl.data.files import atomic_path

if TYPE_CHECKING:
    from speechcl.backbones.usat.model import USAT

WEIGHTS, SIZES = "model*.safetensors", "config.json"
PUBLISHED = Path(__file__).parents[2] / "assets"


def model_folder(source: Path | str) -> Path:
    """Return the folder of a voice model: the one that is meant, or a published one by its name.

    Raises
    ------
    ValueError
        If it is neither.

    Example
    -------
    >>> model_folder("usat_small").parent.name
    'assets'
    """
    for folder in (Path(source), PUBLISHED / source):
        if (folder / SIZES).is_file() and any(folder.glob(WEIGHTS)):
            return folder
    known = ", ".join(sorted(place.parent.name for place in PUBLISHED.glob(f"usat*/{SIZES}")))
    raise ValueError(
        f"{source}: no {SIZES} and {WEIGHTS} in it; give a folder that a voice model was saved to, "
        f"or the name of a published one: {known}"
    )


def save_model(
    model: USAT,
    folder: Path | str,
    dtype: torch.dtype = torch.float32,
    shard_mb: float = 5000,
) -> None:
    """Write a model into a new folder; a kill leaves all of it or nothing.

    Arguments
    ---------
    model : USAT
        Without adapters.
    folder : Path or str
        That does not exist yet, or is empty.
    dtype : torch.dtype
        Of the weights in the file; ``torch.float16`` halves it.
    shard_mb : float
        Weights beyond go into several files, none larger.

    Raises
    ------
    ValueError
        If there is something in the folder, the model has voices beside it, or it holds numbers
        that are not finite in ``dtype``.
    """
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty: give a new folder for the voice model")
    if any(MARK in name for name in model.state_dict()):
        raise ValueError(
            "the model has voices beside it, which have files of their own: save_voice each, then "
            "remove_voice them"
        )
    weights = {
        name: (one.to(dtype) if one.is_floating_point() else one).cpu().contiguous()
        for name, one in model.state_dict().items()
    }
    broken = _not_finite(weights)
    if broken:
        raise ValueError(
            f"{broken} holds numbers that are not finite in {dtype}: {folder} is not written"
        )
    with atomic_path(folder) as place:
        place.mkdir()
        plan = split_torch_state_dict_into_shards(weights, max_shard_size=round(shard_mb * 1e6))
        for file, names in plan.filename_to_tensors.items():
            save_file({name: weights[name] for name in names}, place / file)
        sizes = json.dumps(dataclasses.asdict(model.config), indent=1)
        (place / SIZES).write_text(sizes + "\n", encoding="utf-8")


def read_config(folder: Path | str) -> VoiceConfig:
    """Read the sizes of the model in a folder, or of a published one by its name.

    Raises
    ------
    ValueError
        If there is no such file, or it is not one of a voice model.
    """
    file = model_folder(folder) / SIZES
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        known = {field.name: type(field.default) for field in dataclasses.fields(VoiceConfig)}
        wrong = [n for n, value in found.items() if type(value) is not known.get(n)]
        if wrong:
            raise ValueError(f"{wrong[0]} is {found[wrong[0]]!r}")
        return VoiceConfig(**found)
    except (ValueError, AttributeError, RecursionError) as error:  # JSON's own are ValueErrors
        raise ValueError(f"{file}: not the sizes of a voice model ({error})") from error


def read_weights(build: Callable[[], nn.Module], folder: Path | str) -> dict[str, Tensor]:
    """Read the weights in a folder, for a model that is not built where they do not fit.

    Arguments
    ---------
    build : Callable
        Makes the model whose weights they are; here on the device "meta", where it takes no memory.
    folder : Path or str
        Which ``save_model`` has written.

    Returns
    -------
    dict
        Tensors by name, in the model's types.

    Raises
    ------
    ValueError
        If the file is damaged, of other sizes, or holds numbers that are not finite; or if no model
        has such sizes.
    """
    folder = model_folder(folder)
    weights: dict[str, Tensor] = {}
    for file in sorted(folder.glob(WEIGHTS)):
        try:
            weights |= load_file(file)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{file}: no weights can be read ({error})") from error
    try:
        with torch.device("meta"):
            own = build().state_dict()
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{folder / SIZES}: no model has such sizes ({error})") from error
    wrong = sorted(own.keys() ^ weights.keys()) or sorted(
        name for name, one in own.items() if one.shape != weights[name].shape
    )
    if wrong:
        raise ValueError(f"{folder}: {wrong[0]} and {len(wrong) - 1} more do not fit {SIZES}")
    odd = [name for name, one in weights.items() if not _fits(one, own[name])]
    if odd:
        raise ValueError(f"{folder}: {odd[0]} is of {weights[odd[0]].dtype}, not of its own type")
    broken = _not_finite(weights)
    if broken:
        raise ValueError(f"{folder}: {broken} holds numbers that are not finite")
    return {name: one.to(own[name].dtype) for name, one in weights.items()}


def _fits(found: Tensor, own: Tensor) -> bool:
    """Whether a tensor's type is the model's, or half of it."""
    halves = (torch.float16, torch.bfloat16) if own.is_floating_point() else ()
    return found.dtype in (own.dtype, *halves)


def _not_finite(weights: dict[str, Tensor]) -> str | None:
    return next((name for name, one in weights.items() if not bool(one.isfinite().all())), None)
