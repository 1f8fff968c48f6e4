"""Adapter files: safetensors that say what they hold and for which base."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from speechcl.adapters.layer import Adapter
from speechcl.data.files import atomic_path

FORMAT = "speechcl-adapter/1"


@dataclasses.dataclass
class AdapterState:
    """An adapter outside of any model.

    Arguments
    ---------
    spec : Adapter
        What it is.
    tensors : dict
        Its tensors; a name is the path of the module, the slot and the tensor's own name, joined
        by dots.
    fingerprint : str
        That of the base it was made for (``base_fingerprint``); empty if unknown.

    Example
    -------
    >>> from speechcl.adapters import LoRA
    >>> state = AdapterState(LoRA(rank=1), {"0.weight.lora_up": torch.zeros(2, 1)}, "")
    >>> file = getfixture("tmp_path") / "alice.safetensors"
    >>> state.save(file)
    >>> AdapterState.load(file).spec
    LoRA(rank=1, alpha=None)
    """

    spec: Adapter
    tensors: dict[str, Tensor]
    fingerprint: str

    def save(self, file: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write a safetensors file, whole or not at all.

        Arguments
        ---------
        file : str or Path
            Where to; a file that stands there is replaced.
        dtype : torch.dtype, optional
            Precision of what is not an integer, for example torch.float16 for half the size.
        """
        tensors = {
            name: tensor.to(dtype if dtype and tensor.is_floating_point() else None).contiguous()
            for name, tensor in self.tensors.items()
        }
        about = {
            "format": FORMAT,
            "kind": type(self.spec).__name__,
            "config": json.dumps(dataclasses.asdict(self.spec)),
            "fingerprint": self.fingerprint,
        }
        with atomic_path(file) as temporary:
            save_file(tensors, temporary, about)

    @classmethod
    def load(cls, file: str | Path) -> AdapterState:
        """Read a file that ``save`` wrote; nothing in it is executed.

        Raises
        ------
        ValueError
            If it is missing, broken, or no adapter file.
        """
        file = Path(file)
        about, tensors = read_tensors(file)
        if about.get("format") != FORMAT:
            raise ValueError(
                f"{file}: holds tensors but no adapter: give a file that extract saved"
            )
        bad = [name for name, one in tensors.items() if name.count(".") < 2]
        if bad or not tensors:
            raise ValueError(f"{file}: has {bad[0] if bad else 'nothing'} where a layer should be")
        spec = _spec(file, about.get("kind", ""), about.get("config", ""))
        return cls(spec, tensors, about.get("fingerprint", ""))

    def by_layer(self) -> Iterator[tuple[str, str, dict[str, Tensor]]]:
        """Yield path, slot and tensors of each layer."""
        layers: dict[tuple[str, str], dict[str, Tensor]] = {}
        for name, tensor in self.tensors.items():
            place, key = name.rsplit(".", 1)
            path, slot = place.rsplit(".", 1)
            layers.setdefault((path, slot), {})[key] = tensor
        for (path, slot), tensors in layers.items():
            yield path, slot, tensors


def read_tensors(file: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return metadata and tensors of a safetensors file.

    Raises
    ------
    ValueError
        If it is missing or broken.

    Example
    -------
    >>> read_tensors(Path("none.safetensors"))
    Traceback (most recent call last):
    ValueError: none.safetensors: no such adapter file
    """
    if not file.is_file():
        raise ValueError(f"{file}: no such adapter file")
    try:
        with safe_open(file, framework="pt") as opened:
            about = opened.metadata() or {}
            return about, {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{file}: is broken or no safetensors file ({error}): save the adapter again"
        ) from error


def _spec(file: Path, kind: str, config: str) -> Adapter:
    from speechcl import adapters  # not at the top: it imports this module

    known = {
        name: getattr(adapters, name)
        for name in adapters.__all__
        if isinstance(getattr(adapters, name), type)
        and issubclass(getattr(adapters, name), Adapter)
        and name != "Adapter"
    }
    if kind not in known:
        raise ValueError(f"{file}: holds a '{kind}', not one of {', '.join(known)}")
    try:
        values: Any = json.loads(config)
        return known[kind](**values)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{file}: the configuration of its {kind} is broken: {error}") from error
