"""Read and write LoRA adapters in the layout of Hugging Face's peft; peft itself is not needed."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from speechcl.adapters.files import AdapterState, read_tensors
from speechcl.adapters.lora import LoRA
from speechcl.adapters.matrices import transposed_linears
from speechcl.adapters.surgery import extract
from speechcl.adapters.targets import kind_of
from speechcl.data.files import atomic_path

CONFIG, WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
PREFIX = "base_model.model."
# what changes the result and is not read here, with the values that mean "not used"
REFUSED: dict[str, tuple[Any, ...]] = {
    "use_dora": (False, None),
    "bias": ("none", None),
    "lora_bias": (False, None),
    "modules_to_save": (None, []),
    "trainable_token_indices": (None, [], {}),
    "target_parameters": (None, []),
    "layer_replication": (None, []),
    "alora_invocation_tokens": (None, []),
    "use_qalora": (False, None),
    "use_bdlora": (False, None),
    "arrow_config": (None, {}),
    "kasa_config": (None, {}),
    "monteclora_config": (None, {}),
}
# these starts put a part of the base's weights into the adapter
CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


def load_peft(folder: str | Path) -> AdapterState:
    """Read a LoRA that peft has saved; nothing in the folder is executed.

    peft's files do not say for which weights they were made, so ``attach`` can only compare names
    and shapes.

    Arguments
    ---------
    folder : str or Path
        It holds adapter_config.json and adapter_model.safetensors.

    Returns
    -------
    AdapterState
        For ``attach``. A layer whose scale differs from the others' has it in its ``lora_up``.

    Raises
    ------
    ValueError
        If a file is missing, broken or pickled, or the adapter is not a plain LoRA.

    Example
    -------
    >>> from speechcl.adapters import LoRA, attach, insert
    >>> net = nn.Sequential(nn.Linear(4, 8))
    >>> _ = insert(net, LoRA(rank=2, alpha=4), targets="0")
    >>> folder = getfixture("tmp_path") / "lora"
    >>> save_peft(net, folder)
    >>> load_peft(folder).spec
    LoRA(rank=2, alpha=4.0)
    """
    folder = Path(folder)
    config = _read_config(folder)
    if not (folder / WEIGHTS).is_file() and (folder / PICKLE).is_file():
        raise ValueError(
            f"{folder}: {PICKLE} is a pickle, which may run code when it is read: save the "
            "adapter again with safe_serialization=True"
        )
    _, tensors = read_tensors(folder / WEIGHTS)
    rank, alpha = config["r"], config["lora_alpha"]
    root = bool(config.get("use_rslora"))
    spec = LoRA(rank, float(alpha * (math.sqrt(rank) if root else 1)))
    patterns = config.get("alpha_pattern") or {}
    found: dict[str, Tensor] = {}
    for path, (down, up) in _pairs(folder, tensors).items():
        own = _by_pattern(patterns, path, alpha)
        scale = own / (math.sqrt(len(down)) if root else len(down))
        if not math.isclose(scale, spec.scale, rel_tol=1e-9):
            up = up * (scale / spec.scale)
        found[f"{path}.weight.lora_down"] = down.flatten(1)
        found[f"{path}.weight.lora_up"] = up.flatten(1)
    return AdapterState(spec, found, fingerprint="")


def save_peft(
    model: nn.Module, folder: str | Path, name: str = "default", base_name: str = ""
) -> None:
    """Write a LoRA of a model as peft would, for ``PeftModel.from_pretrained`` and other readers.

    Only layers that peft computes rightly are written: linear ones, and convolutions of one and
    two dimensions without dilation, groups, other padding than zeros, and weight normalisation.

    Arguments
    ---------
    model : nn.Module
        The model that serves it; shapes of convolutions are looked up there.
    folder : str or Path
        Where to; it must be new or empty.
    name : str
        Which adapter.
    base_name : str
        Name or path of the base model, for the reader.

    Raises
    ------
    ValueError
        If the adapter is no LoRA, a layer is one that peft cannot serve, or the folder is in use.

    Example
    -------
    >>> from speechcl.adapters import LoRA, insert
    >>> net = nn.Sequential(nn.Linear(4, 8))
    >>> _ = insert(net, LoRA(rank=2), targets="0")
    >>> folder = getfixture("tmp_path") / "lora"
    >>> save_peft(net, folder)
    >>> sorted(file.name for file in folder.iterdir())
    ['adapter_config.json', 'adapter_model.safetensors']
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: is there already: give a new or empty folder")
    state = extract(model, name)
    if type(state.spec) is not LoRA:
        raise ValueError(
            f"adapter '{name}' is a {type(state.spec).__name__}: only LoRA can be written for peft"
        )
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    for path, slot, parts in state.by_layer():
        module = model.get_submodule(path)
        problem = _problem(path, slot, module)
        if problem:
            raise ValueError(f"'{path}' ({kind_of(module)}) {problem}: leave it out of targets")
        down, up = parts["lora_down"], parts["lora_up"]
        ranks[path] = len(down)
        if isinstance(module, nn.Conv1d | nn.Conv2d):
            down = down.view(len(down), module.in_channels, *module.kernel_size)
            up = up.view(*up.shape, *(1 for _ in module.kernel_size))
        tensors[f"{PREFIX}{path}.lora_A.weight"] = down
        tensors[f"{PREFIX}{path}.lora_B.weight"] = up
    config = _config(state.spec, ranks, model) | {"base_model_name_or_path": base_name}
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        save_file(tensors, temporary / WEIGHTS, {"format": "pt"})
        (temporary / CONFIG).write_text(json.dumps(config, indent=2), encoding="utf-8")


def _read_config(folder: Path) -> dict[str, Any]:
    if not (folder / CONFIG).is_file():
        raise ValueError(f"{folder}: has no {CONFIG}: give a folder that peft saved")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{folder}: {CONFIG} is broken ({error}): save it again") from error
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind != "LORA":
        raise ValueError(f"{folder}: holds a '{kind}' adapter: of peft's kinds only LORA is read")
    for key, unused in REFUSED.items():
        if config.get(key) not in unused:
            raise ValueError(
                f"{folder}: {key} is {config[key]}, which is not read: train a plain LoRA, "
                "or merge it with peft first"
            )
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.startswith(CHANGES_BASE):
        raise ValueError(
            f"{folder}: init_lora_weights='{start}' has changed the base's weights: save the "
            "adapter with path_initial_model_for_weight_conversion"
        )
    alphas = config.get("alpha_pattern") or {}
    numbers = [config.get("lora_alpha"), *(alphas.values() if isinstance(alphas, dict) else [None])]
    rank = config.get("r")
    if not isinstance(rank, int) or rank < 1 or not all(map(_is_scale, numbers)):
        raise ValueError(
            f"{folder}: {CONFIG} is broken (r is {rank}, alphas are {numbers}): save it again"
        )
    return config


def _is_scale(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value != 0


def _pairs(folder: Path, tensors: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return A and B of each layer."""
    sides: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = re.fullmatch(r"(.+)\.lora_([AB])\.weight", key.removeprefix(PREFIX))
        if match is None or "base_layer" in match[1].split("."):
            raise ValueError(
                f"{folder}: holds {key}, which is no part of a plain LoRA of linear layers and "
                "convolutions: leave embeddings, attention modules and other parts out"
            )
        sides.setdefault(match[1], {})[match[2]] = tensor
    for path, pair in sides.items():
        shapes = [tuple(one.shape) for one in pair.values()]
        if len(pair) < 2 or any(len(one) < 2 for one in shapes) or 0 in pair["A"].shape:
            raise ValueError(f"{folder}: the tensors of '{path}' are broken, of shapes {shapes}")
    if not sides:
        raise ValueError(f"{folder}: {WEIGHTS} holds no layer")
    return {path: (pair["A"], pair["B"]) for path, pair in sides.items()}


def _by_pattern(patterns: dict[str, float], path: str, default: float) -> float:
    """Return what a pattern gives for a layer, matched as peft does."""
    for pattern, value in patterns.items():
        try:
            if re.match(rf"(.*\.)?({pattern})$", path):
                return value
        except re.error as error:
            raise ValueError(f"alpha_pattern has '{pattern}', no expression: {error}") from error
    return default


def _problem(path: str, slot: str, module: Any) -> str:
    """Say why peft would not give the same result; empty if it does."""
    if not path:
        return "is the whole model, which peft cannot adapt"
    if slot != "weight" or module.base_class not in _kinds(module):
        return "is of a kind that peft does not adapt, or not in the same way"
    if not isinstance(module, nn.Conv1d | nn.Conv2d):
        return ""
    copied = module.groups == 1 and set(module.dilation) == {1} and module.padding_mode == "zeros"
    return "" if copied else "has groups, dilation or padding that peft's LoRA does not copy"


def _kinds(module: nn.Module) -> Sequence[type]:
    plain = [nn.Linear, nn.Conv1d, nn.Conv2d, *transposed_linears()]
    normed = parametrize.is_parametrized(module) or hasattr(module, "weight_g")
    return [] if normed else plain


def _config(spec: LoRA, ranks: dict[str, int], model: nn.Module) -> dict[str, Any]:
    """Describe the adapter; ``alpha / r`` is the scale of every layer, whatever its rank."""
    other = {f"^{re.escape(path)}": rank for path, rank in ranks.items() if rank != spec.rank}
    transposed = [isinstance(model.get_submodule(path), transposed_linears()) for path in ranks]
    return {
        "peft_type": "LORA",
        "task_type": None,
        "inference_mode": True,
        "r": spec.rank,
        "lora_alpha": _number(spec.scale * spec.rank),
        "lora_dropout": 0.0,
        "target_modules": _targets(list(ranks), model),
        "rank_pattern": other,
        "alpha_pattern": {key: _number(spec.scale * rank) for key, rank in other.items()},
        "fan_in_fan_out": all(transposed),
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
        "init_lora_weights": True,
    }


def _number(value: float) -> float | int:
    return int(value) if value == int(value) else value


def _targets(paths: list[str], model: nn.Module) -> list[str] | str:
    """Name the layers as briefly as is exact: by their last part, their path, or an expression.

    peft takes a name for every module that ends in it.
    """
    everything = [path for path, _ in model.named_modules()]
    for names in (sorted({path.rpartition(".")[2] for path in paths}), paths):
        ends = tuple(f".{name}" for name in names)
        hits = [path for path in everything if path in names or path.endswith(ends)]
        if sorted(hits) == sorted(paths):
            return names
    return "|".join(map(re.escape, paths))
