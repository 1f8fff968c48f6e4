"""SLM: a library of small increments, retrieved by what the input looks like."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import speechbrain as sb
import torch
from torch import Tensor, nn

from speechcl.adapters import RetrievedBank, adapter_layers
from speechcl.adapters.bank import BankLayer
from speechcl.adapters.retrieved_bank import recall_slot_weights, slot_weights
from speechcl.memory import KeyRetriever
from speechcl.methods.adapter_method import AdapterMethod, adapter_bytes
from speechcl.task import Task

if TYPE_CHECKING:
    from speechcl.engine import Engine


class Retrieving(nn.Module):
    """A model whose bank is given, for every input, the weights that a retriever finds.

    Arguments
    ---------
    model : nn.Module
        The model; its attributes can be reached through this.
    encoder : nn.Module
        Maps inputs of the model to queries (batch, width); frozen, and independent of the bank.
    retriever : KeyRetriever
        Maps queries to slot weights.
    over_batch : bool
        One mixture for the whole batch.
    encoder_inputs : int
        How many of the model's inputs the encoder is given.
    """

    def __init__(
        self,
        model: nn.Module,
        encoder: nn.Module,
        retriever: KeyRetriever,
        over_batch: bool = False,
        encoder_inputs: int = 1,
    ) -> None:
        super().__init__()
        self.model, self.retriever = model, retriever
        self.over_batch, self.encoder_inputs = over_batch, encoder_inputs
        self.encoder = encoder.requires_grad_(False)
        # which tasks' slots may be retrieved while training, and in evaluation; None for all
        self.tasks: dict[bool, Sequence[int] | None] = {True: None, False: None}
        self.heard: list[Tensor] | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Retrieve, then run the model with what was retrieved."""
        places = list(inspect.signature(self.model.forward).parameters) if kwargs else []
        named = sorted(kwargs, key=lambda key: places.index(key) if key in places else len(places))
        inputs = [*args, *(kwargs[key] for key in named)]
        with self.retrieved(*inputs[: self.encoder_inputs]) as weights:
            outputs = self.model(*args, **kwargs)
        if weights is not None and not torch.compiler.is_compiling():
            recall_slot_weights(self.model, weights, outputs)
        return outputs

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Retrieve by the prompts, once, then let a model of transformers write with it.

        Raises
        ------
        ValueError
            If the encoder is to be given a mask, but there is none.
        """
        model: Any = self.model
        while not hasattr(model, "generate") and hasattr(model, "model"):
            model = model.model  # it may be wrapped, as in LanguageModel
        generate = model.generate
        names = ("inputs", model.main_input_name)
        prompts = args[0] if args else next((kwargs[key] for key in names if key in kwargs), None)
        inputs: list[Any] = [prompts, kwargs.get("attention_mask")][: self.encoder_inputs]
        if any(one is None for one in inputs):
            raise ValueError(
                "the query encoder does not see what to retrieve by: give generate the prompts, "
                "and their attention_mask where encoder_inputs is 2"
            )
        with self.retrieved(*_padded_on_the_right(*inputs), copies=True):
            return generate(*args, **kwargs)

    @contextmanager
    def retrieved(self, *inputs: Any, copies: bool = False) -> Iterator[Tensor | None]:
        """Give the model's bank for a while what these inputs of the encoder retrieve.

        Arguments
        ---------
        inputs : Tensor
            What the encoder takes.
        copies : bool
            As in ``slot_weights``.

        Returns
        -------
        Tensor or None
            The slots' weights; None where there are no slots yet.
        """
        with torch.no_grad():
            queries = self.encoder(*inputs)
        if self.heard is not None:
            self.heard.append(queries)
        if self.retriever.tasks == 0:
            yield None
            return
        retrieve = self.retriever.over_batch if self.over_batch else self.retriever
        weights = retrieve(queries, self.tasks[self.training])
        weights = weights[0] if self.over_batch else weights
        with slot_weights(self.model, weights, copies=copies):
            yield weights

    def train(self, mode: bool = True) -> Retrieving:
        """Train the model, but never the encoder: queries must not change."""
        super().train(mode)
        self.encoder.eval()
        return self

    def __getattr__(self, name: str) -> Any:
        """Look for what this has not in the model."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("model"), name)


class SLM(AdapterMethod):
    """Give every task slots with keys; let each input retrieve the slots whose keys are near.

    First a task's keys are learnt from its inputs alone, then its increments from its labels;
    nothing of former tasks is touched, so forgetting comes only from retrieving wrongly. All tasks
    share one label space, and what ``train`` names, such as a classifier, is not protected.

    Gradient checkpointing can be used, and ``generate`` of transformers models if called on
    ``modules["model"]``: it retrieves once, by the prompt. In training and scoring, a causal
    language model retrieves by all tokens that it is given, also those of the answer.

    Arguments
    ---------
    targets, train
        As in ``AdapterMethod``; as published, the output projection of every attention block.
    encoder : nn.Module
        Maps inputs of the model to queries (batch, width), by weights that never change: see
        ``speechcl.memory.query_encoders``.
    retriever : KeyRetriever
        How keys are learnt and slots retrieved; it says how many slots a task gets.
    rank : int
        Rank of every slot.
    init_std : float, optional
        As in ``RetrievedBank``.
    over_batch : bool
        Retrieve for the batch as a whole, as released. A batch from one task is far easier to place
        than a single input, so figures with it are not comparable.
    encoder_inputs : int
        How many of the model's inputs the encoder is given: 1, or 2 where a mask comes second.
    key_steps : int
        Steps that are made at least to learn a task's keys: see ``KeyRetriever.learn``. Too few for
        small tasks, and inputs are taken for those of other tasks.
    help_from_old : bool
        Let training retrieve frozen slots of former tasks as well, as the released BERT code does.

    Source
    ------
    Peng et al., "Scalable Language Model with Generalized Continual Learning", arXiv 2404.07470,
    ICLR 2024, and its released code. Deviates: retrieval for each input by itself, the initial
    scale of the increments, one label space instead of a head for each number of classes.

    Example
    -------
    >>> from speechcl.memory import StatisticsEncoder
    >>> SLM("*.out_proj", encoder=StatisticsEncoder(), retriever=KeyRetriever()).structure()
    {'tasks': 0, 'width': 0, 'growing': False}
    """

    def __init__(
        self,
        targets: str | Sequence[str],
        train: str | Sequence[str] = (),
        *,
        encoder: nn.Module,
        retriever: KeyRetriever,
        rank: int = 12,
        init_std: float | None = None,
        over_batch: bool = False,
        encoder_inputs: int = 1,
        key_steps: int = 1000,
        help_from_old: bool = False,
    ) -> None:
        super().__init__(targets, train)
        for name, value, least in (
            ("key_steps", key_steps, 0),
            ("encoder_inputs", encoder_inputs, 1),
        ):
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name} is {value}: give a whole number of at least {least}")
        self.spec = RetrievedBank(retriever.slots, rank, init_std, over_batch)
        # a tuple, as a method must not hold modules
        self.parts = (encoder, retriever, over_batch, encoder_inputs)
        self.key_steps, self.help_from_old = key_steps, help_from_old
        self.tasks, self.width, self.growing, self.bytes = 0, 0, False, 0
        self.wrapped: tuple[Retrieving, ...] = ()

    def adapter(self) -> RetrievedBank:
        """Return the description of the adapter."""
        return self.spec

    def structure(self) -> dict:
        """Count the tasks that have slots, and say whether the newest are still trained."""
        return {"tasks": self.tasks, "width": self.width, "growing": self.growing}

    def build(self, modules: nn.ModuleDict, structure: dict) -> None:
        """Wrap the model, grow bank and keys to the structure's tasks, freeze if it says so."""
        if not isinstance(modules["model"], Retrieving):
            modules["model"] = Retrieving(modules["model"], *self.parts)
        root: Any = modules["model"]
        self.wrapped = (root,)
        self.width = structure["width"]
        root.retriever.build({"tasks": structure["tasks"], "width": self.width})
        while self.tasks < structure["tasks"]:
            if self.tasks == 0:
                self.put_adapter(root.model)
            else:
                for layer in _bank(root.model):
                    layer.grow()
            self.tasks, self.growing = self.tasks + 1, True
        if self.growing and not structure["growing"]:
            for layer in _bank(root.model):
                layer.freeze()
            self.growing = False
        root.tasks[True] = None if self.help_from_old else [self.tasks - 1]
        keys = root.retriever.state_dict().values()
        self.bytes = sum(one.numel() * one.element_size() for one in keys)
        self.bytes += adapter_bytes(root.model)

    def before_task(self, task: Task, engine: Engine) -> None:
        """Learn the task's keys from its inputs, then give it its slots."""
        self.build(engine.modules, self.structure())
        self.before_eval(None)
        root: Any = engine.modules["model"]
        queries = collect_queries(root, task, engine)
        root.retriever.learn(queries, least_steps=self.key_steps)
        width = queries.shape[1]
        self.build(engine.modules, {"tasks": task.index + 1, "width": width, "growing": True})
        if task.index == 0:
            self.check_reachable(task, engine)

    def after_task(self, task: Task, engine: Engine) -> None:
        """Freeze the task's slots."""
        self.build(engine.modules, {**self.structure(), "growing": False})

    def before_eval(self, task: Task | None) -> None:
        """Retrieve from the task's own slots if it is known, and has any."""
        for root in self.wrapped:
            known = task is not None and task.index < self.tasks
            root.tasks[False] = [task.index] if task is not None and known else None

    def memory_bytes(self, stream: Sequence[Task]) -> int:
        """Bytes of all slots and keys: they stay beside the model."""
        return self.bytes


def collect_queries(root: Retrieving, task: Task, engine: Engine) -> Tensor:
    """Return the queries of a task's training data, in order, shape (items, width)."""

    def hear(brain: Any, batch: Any) -> Tensor:
        root.heard = []
        brain.compute_forward(batch, sb.Stage.TEST)
        return torch.cat(root.heard).cpu()

    try:
        return torch.cat(engine.collect(task, hear))
    finally:
        root.heard = None


def _padded_on_the_right(*inputs: Tensor) -> tuple[Tensor, ...]:
    """Move the tokens of prompts to the left, where a mask says which they are."""
    if len(inputs) < 2 or inputs[0].shape != inputs[1].shape:
        return inputs
    order = (inputs[1] == 0).to(torch.uint8).argsort(dim=1, stable=True)
    return tuple(one.gather(1, order) for one in inputs)


def _bank(model: nn.Module) -> list[Any]:
    layers = (one for slots in adapter_layers(model).values() for one in slots.values())
    return [layer for layer in layers if isinstance(layer, BankLayer)]
