"""USAT: a few adapters and a vector for each speaker; the base and other voices never change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from speechcl.backbones.usat.voices import (
    VECTOR,
    VoiceSpec,
    add_voice,
    list_voices,
    remove_voice,
    voice_tensors,
)
from speechcl.brains.enrolment import Chosen
from speechcl.method import Method, Step
from speechcl.parallel import gather
from speechcl.task import Task

if TYPE_CHECKING:
    from speechcl.engine import Engine


class USAT(Method):
    """Give each speaker a voice of its own beside a frozen base.

    A task is a speaker, and its name the voice's; or it is several, where its data tell them
    apart, and their names are the voices'. The vector begins as the mean over the recordings;
    adapters and vector are trained, all else is frozen. A test that knows whose turn it is uses
    the voices, if they are there; else the base speaks as a reference of the speaker does.

    Several speakers learn in one pass, each as if alone: a voice's gradient is that of its own
    clips, scaled to a batch of them and clipped by itself, and it rests in a batch without them.
    Yet losses are means over frames and symbols of all clips of the batch, whoever speaks.

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
    {'voices': [], 'chosen': None}
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
        self.chosen: Chosen = None  # those that are trained
        self.bytes = 0
        self.root: tuple[Any, ...] = ()  # a tuple, as a method must not hold modules

    def structure(self) -> dict:
        """Name the voices that are there, and those that are trained."""
        return {"voices": list(self.voices), "chosen": self.chosen}

    def build(self, modules: nn.ModuleDict, structure: dict) -> None:
        """Freeze everything; bring the model's voices to those of the structure."""
        root: Any = modules["model"]
        self.root, self.voices = (root,), list(structure["voices"])
        self.chosen = structure["chosen"]
        root.requires_grad_(False)
        for name in set(list_voices(root.voice)) - set(self.voices):
            remove_voice(root.voice, name)
        zeros = torch.zeros(root.voice.config.speaker, device=next(root.parameters()).device)
        for name in self.voices:
            if name not in list_voices(root.voice):
                add_voice(root.voice, name, zeros, self.spec)
        root.requires_grad_(False)
        for name in names_of(self.chosen):
            for key, tensor in voice_tensors(root.voice, name).items():
                tensor.requires_grad_(self.adapters or key == VECTOR)
        kept = [
            tensor
            for name in self.voices
            for key, tensor in voice_tensors(root.voice, name).items()
            if self.adapters or key == VECTOR  # the others stay as they begin
        ]
        self.bytes = sum(tensor.numel() * tensor.element_size() for tensor in kept)

    def before_task(self, task: Task, engine: Engine) -> None:
        """Add the speakers' voices, each of which begins as the mean over its recordings."""
        root: Any = engine.modules["model"]
        root.chosen = None

        def vectors(brain: Any, batch: Any) -> tuple[Tensor, Tensor | None]:
            found = brain.voice.speaker(batch["waveform"], batch["samples"])
            numbers = batch.get("speaker")
            return found.cpu(), None if numbers is None else numbers.cpu()

        found, numbers = zip(*engine.collect(task, vectors), strict=True)
        every, chosen = torch.cat(found), voices_of(task)
        voices = [*self.voices, *names_of(chosen)]
        self.build(engine.modules, {"voices": voices, "chosen": chosen})
        with torch.no_grad():
            for number, name in chosen.items() if isinstance(chosen, dict) else [(None, chosen)]:
                own = every if number is None else every[torch.cat(numbers) == number]
                voice_tensors(root.voice, name)[VECTOR].copy_(own.mean(dim=0))

    def param_groups(self, modules: nn.ModuleDict) -> list:
        """Train the chosen voices, which speak from now on."""
        model: Any = modules["model"]
        model.chosen = self.chosen
        groups: list[dict[str, Any]] = []
        for name in names_of(self.chosen):
            own = voice_tensors(model.voice, name)
            vector = {"params": [own.pop(VECTOR)], "weight_decay": 0.0, "clip": name}
            if self.adapters:
                groups.append({"params": list(own.values()), "clip": name})
                vector["lr_scale"] = self.vector_lr_scale
            groups.append(vector)
        return groups

    def after_backward(self, step: Step) -> None:
        """Let each of several voices learn as if its speaker's clips were the whole batch."""
        if not isinstance(self.chosen, dict):
            return
        model: Any = step.modules["model"]
        numbers = gather(step.batch["speaker"])
        for number, name in self.chosen.items():
            count = int((numbers == number).sum())
            for tensor in voice_tensors(model.voice, name).values():
                if tensor.grad is not None and count:
                    tensor.grad *= len(numbers) / count
                else:
                    tensor.grad = None  # zero would not stop what momentum moves

    def after_task(self, task: Task, engine: Engine) -> None:
        """Freeze the voices."""
        root: Any = engine.modules["model"]
        root.requires_grad_(False)
        self.chosen = root.chosen = None

    def before_eval(self, task: Task | None) -> None:
        """Choose the voices of the task, if it is known and they are there."""
        for root in self.root:
            chosen = None if task is None else voices_of(task)
            root.chosen = chosen if set(names_of(chosen)) <= set(self.voices) else None

    def memory_bytes(self, stream: Sequence[Task]) -> int:
        """The voices beside the base."""
        return self.bytes


def voices_of(task: Task) -> str | dict[int, str]:
    """Return the name of a task's voice, or of several speakers' by their numbers in its batches.

    Dots, which would part the names of tensors, become underscores.

    Example
    -------
    >>> voices_of(Task(0, "J. Doe", None))
    'J_ Doe'
    """
    data: Any = task.train
    classes = getattr(data, "classes", None)
    if classes is None or classes.column != "speaker":
        return task.name.replace(".", "_")
    numbers = sorted(set(data.labels.tolist()))
    if len(numbers) == 1:
        return task.name.replace(".", "_")
    return {number: classes.names[number].replace(".", "_") for number in numbers}


def names_of(chosen: Chosen) -> list[str]:
    """Return the names of chosen voices.

    Example
    -------
    >>> names_of({3: "alice", 7: "bob"}), names_of("carol"), names_of(None)
    (['alice', 'bob'], ['carol'], [])
    """
    if isinstance(chosen, dict):
        return list(chosen.values())
    return [] if chosen is None else [chosen]
