"""USAT: a few adapters and a vector for each speaker; the base and other voices never change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from speechcl.backbones.usat.voices import (
    VECTOR,
    VoiceSpec,
    add_voice,
    list_voices,
    remove_voice,
    voice_tensors,
)
from speechcl.method import Method
from speechcl.task import Task

if TYPE_CHECKING:
    from speechcl.engine import Engine


class USAT(Method):
    """Give each speaker a voice of its own beside a frozen base.

    A task is a speaker, and its name the voice's. The vector begins as the mean over the
    recordings; adapters and vector are trained, all else is frozen. A test that knows whose turn
    it is uses that voice, if it is there; else the base speaks as a reference of the speaker does.

    Arguments
    ---------
    spec : VoiceSpec, optional
        Of the adapters; the paper's recommendation by default.
    adapters : bool
        Whether adapters are trained; else the vector alone.
    vector_lr_scale : float
        Learning rate of the vector over that of adapters beside it. Its weights never decay.

    Source
    ------
    Wang, Song, Jha, "USAT", arXiv 2404.18094, equations 11 and 12, section on fine-grained
    adaptation. Deviates: learning rates are ours, the paper's are unknown.

    Example
    -------
    >>> USAT().structure()
    {'voices': []}
    """

    def __init__(
        self,
        spec: VoiceSpec | None = None,
        adapters: bool = True,
        vector_lr_scale: float = 0.1,
    ) -> None:
        super().__init__()
        self.spec, self.adapters = spec or VoiceSpec(), adapters
        self.vector_lr_scale = vector_lr_scale
        self.voices: list[str] = []
        self.bytes = 0
        self.root: tuple[Any, ...] = ()  # a tuple, as a method must not hold modules

    def structure(self) -> dict:
        """Name the voices that are there."""
        return {"voices": list(self.voices)}

    def build(self, modules: nn.ModuleDict, structure: dict) -> None:
        """Freeze everything; bring the model's voices to those of the structure."""
        root: Any = modules["model"]
        self.root, self.voices = (root,), list(structure["voices"])
        root.requires_grad_(False)
        for name in set(list_voices(root.voice)) - set(self.voices):
            remove_voice(root.voice, name)
        zeros = torch.zeros(root.voice.config.speaker, device=next(root.parameters()).device)
        for name in self.voices:
            if name not in list_voices(root.voice):
                add_voice(root.voice, name, zeros, self.spec)
        root.requires_grad_(False)
        for key, tensor in self._newest(root).items():
            tensor.requires_grad_(self.adapters or key == VECTOR)
        kept = [
            tensor
            for name in self.voices
            for key, tensor in voice_tensors(root.voice, name).items()
            if self.adapters or key == VECTOR  # the others stay as they begin
        ]
        self.bytes = sum(tensor.numel() * tensor.element_size() for tensor in kept)

    def before_task(self, task: Task, engine: Engine) -> None:
        """Add the speaker's voice, which begins as the mean over the recordings."""
        name = voice_of(task)
        root: Any = engine.modules["model"]
        root.chosen = None

        def vector(brain: Any, batch: Any) -> torch.Tensor:
            return brain.voice.speaker(batch["waveform"], batch["samples"]).cpu()

        mean = torch.cat(engine.collect(task, vector)).mean(dim=0)
        self.build(engine.modules, {"voices": [*self.voices, name]})
        with torch.no_grad():
            voice_tensors(root.voice, name)[VECTOR].copy_(mean)

    def param_groups(self, modules: nn.ModuleDict) -> list:
        """Train the newest voice."""
        own = self._newest(modules["model"])
        vector = {"params": [own.pop(VECTOR)], "weight_decay": 0.0}
        if not self.adapters:
            return [vector]
        return [{"params": list(own.values())}, {**vector, "lr_scale": self.vector_lr_scale}]

    def before_batch(self, step: Any) -> Any:
        """Let the newest voice speak."""
        step.modules["model"].chosen = self.voices[-1]
        return step.batch

    def after_task(self, task: Task, engine: Engine) -> None:
        """Freeze the voice."""
        root: Any = engine.modules["model"]
        root.requires_grad_(False)
        root.chosen = None

    def before_eval(self, task: Task | None) -> None:
        """Choose the voice of the task, if it is known and there."""
        for root in self.root:
            name = None if task is None else voice_of(task)
            root.chosen = name if name in self.voices else None

    def memory_bytes(self, stream: Sequence[Task]) -> int:
        """The voices beside the base."""
        return self.bytes

    def _newest(self, root: Any) -> dict[str, nn.Parameter]:
        return voice_tensors(root.voice, self.voices[-1]) if self.voices else {}


def voice_of(task: Task) -> str:
    """Return the name of a task's voice: dots would part the names of its tensors.

    Example
    -------
    >>> voice_of(Task(0, "J. Doe", None))
    'J_ Doe'
    """
    return task.name.replace(".", "_")
