"""Read the weights that AASIST's authors published (github.com/clovaai/aasist, models/weights)."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import torch
from torch import Tensor

from speechcl.backbones.aasist import AASIST, SIZES

# parts of the official names and ours; other parts are the same
NAMES = {
    "first_bn": "first_norm",
    "bn1": "norm1",
    "bn2": "norm2",
    "conv_downsample": "shortcut",
    "pos_S": "position",
    "GAT_layer_S": "attend_spectral",
    "GAT_layer_T": "attend_temporal",
    "pool_S": "pool_spectral",
    "pool_T": "pool_temporal",
    "out_layer": "classify",
    **{f"master{b + 1}": f"branches.{b}.stack_node" for b in (0, 1)},
    **{f"HtrgGAT_layer_ST{b + 1}1": f"branches.{b}.attend1" for b in (0, 1)},
    **{f"HtrgGAT_layer_ST{b + 1}2": f"branches.{b}.attend2" for b in (0, 1)},
    **{f"pool_hS{b + 1}": f"branches.{b}.pool_spectral" for b in (0, 1)},
    **{f"pool_hT{b + 1}": f"branches.{b}.pool_temporal" for b in (0, 1)},
    "att_proj": "pair",
    "att_weight": "score",
    "proj_with_att": "update.from_neighbours",
    "proj_without_att": "update.from_self",
    "bn": "update.norm",
    "proj_type1": "project_first",
    "proj_type2": "project_second",
    "att_weight11": "score_first",
    "att_weight22": "score_second",
    "att_weight12": "score_across",
    "att_projM": "stack_pair",
    "att_weightM": "stack_score",
    "proj_with_attM": "stack_from_nodes",
    "proj_without_attM": "stack_from_self",
    "proj": "gate",
}


def load_published(path: str | Path) -> AASIST:
    """Return AASIST or AASIST-L, in eval mode, with weights of the official code.

    Nothing in the file is executed.

    Arguments
    ---------
    path : str or Path
        For example ``AASIST.pth`` or ``AASIST-L.pth``. The size is read off the weights.

    Raises
    ------
    ValueError
        If the file holds anything but tensors, or not those of this network.
    OSError
        If there is no such file, or it cannot be read.

    Example
    -------
    >>> ours("encoder.3.0.bn2.weight"), ours("HtrgGAT_layer_ST21.att_weight12")
    ('encoder.3.norm2.weight', 'branches.1.attend1.score_across')
    """
    try:
        official = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is not a file of tensors: {reason}") from error
    if not isinstance(official, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in official.items()
    ):
        raise ValueError(f"{path} is not a state dict: give a file of named tensors")
    state = {ours(name): value for name, value in official.items()}
    model = AASIST(_size(state, path), preact="official", norm="batch")
    _check(state, model.state_dict(), path)
    model.load_state_dict(state)
    return model.eval()


def ours(name: str) -> str:
    """Translate a tensor's name in the official code to ours.

    Example
    -------
    >>> ours("pool_hT2.proj.bias")
    'branches.1.pool_temporal.gate.bias'
    """
    name = re.sub(r"^encoder\.(\d)\.0\.", r"encoder.\1.", name)
    return ".".join(NAMES.get(part, part) for part in name.split("."))


def _size(state: dict[str, Tensor], path: str | Path) -> str:
    for name, size in SIZES.items():
        if "position" in state and state["position"].shape[-1:] == (size.width,):
            return name
    raise ValueError(
        f"{path} has no pos_S of width 64 or 24: give weights of the official AASIST or AASIST-L"
    )


def _check(state: dict[str, Tensor], wanted: dict[str, Tensor], path: str | Path) -> None:
    """Name one tensor that is missing, too many or of another shape (in our words)."""
    for name in sorted(wanted.keys() ^ state.keys()):
        what = "lacks" if name in wanted else "has more than AASIST's tensors:"
        raise ValueError(f"{path} {what} {name}: give weights of the official code, unchanged")
    for name, value in wanted.items():
        if state[name].shape != value.shape:
            raise ValueError(
                f"{path} has {name} of shape {tuple(state[name].shape)}, AASIST needs "
                f"{tuple(value.shape)}: give weights of the official code, unchanged"
            )
