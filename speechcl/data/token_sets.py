"""Texts as tokens: tokenised once, padded to one length, so that replayed items fit any batch."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import Dataset

from speechcl.backbones.huggingface import IGNORED
from speechcl.data.clips import Batch, ClipSet
from speechcl.data.labelled import Classes
from speechcl.data.text_tasks import Row, classes_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)
Tokens = list[list[int]]


class AnswerSet(Dataset):
    """Items for a language model: what it reads and which tokens it is to predict.

    Arguments
    ---------
    tensors : dict
        ``input_ids``, ``attention_mask`` and ``labels``, each of shape (items, tokens).
    rows : Sequence
        A table's row an item.

    Example
    -------
    >>> data = AnswerSet({"labels": torch.tensor([[-100, 5, 6], [-100, 7, -100]])}, [{}, {}])
    >>> data.answer_tokens(), data.subset([1])[0]
    (tensor([2, 1]), {'labels': tensor([-100,    7, -100])})
    """

    def __init__(self, tensors: Batch, rows: Sequence[Row]) -> None:
        self.tensors, self.rows = tensors, list(rows)

    def answer_tokens(self) -> Tensor:
        """Return how many tokens each item predicts, shape (items,)."""
        return (self.tensors["labels"] != IGNORED).sum(dim=1)

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.rows)

    def __getitems__(self, indices: list[int]) -> Batch:
        """Return a whole batch at once."""
        return {name: values[indices] for name, values in self.tensors.items()}

    def __getitem__(self, index: int) -> Batch:
        """Return one item of a batch."""
        return {name: values[index] for name, values in self.tensors.items()}

    def __add__(self, other: AnswerSet) -> AnswerSet:  # type: ignore[override]
        """Return both sets as one."""
        return AnswerSet(_joined(self.tensors, other.tensors), self.rows + other.rows)

    def subset(self, places: Sequence[int]) -> AnswerSet:
        """Return the items at these places of this set."""
        chosen = list(places)
        return AnswerSet(self.__getitems__(chosen), [self.rows[place] for place in chosen])

    @property
    def nbytes(self) -> int:
        """Bytes of the tokens."""
        return _bytes(self.tensors)

    @staticmethod
    def collate(batch: Batch) -> Batch:
        """Return the batch, which ``__getitems__`` has already put together."""
        return batch


class TextSet(ClipSet):
    """Texts with labels: a batch has ``input_ids``, ``attention_mask`` and ``label``.

    Arguments
    ---------
    tensors : dict
        ``input_ids`` and ``attention_mask``, each of shape (items, tokens); and perhaps
        ``allowed`` (items, classes), the classes among which an item is to be told apart.
    rows : Sequence
        A table's row an item, with ``label``.
    classes : Classes
        Of the whole stream.

    Example
    -------
    >>> ids = torch.tensor([[5, 6], [7, 0]])
    >>> rows = [{"label": "good"}, {"label": "bad"}]
    >>> data = TextSet({"input_ids": ids}, rows, Classes(("bad", "good"), column="label"))
    >>> data[0], len(data + data), data.counts()
    ({'input_ids': tensor([5, 6]), 'label': tensor(1)}, 4, {'good': 1, 'bad': 1})
    """

    def __init__(self, tensors: Batch, rows: Sequence[Row], classes: Classes) -> None:
        super().__init__(rows, classes)
        self.tensors = tensors

    def __getitems__(self, indices: list[int]) -> Batch:
        """Return a whole batch at once."""
        tokens = {name: values[indices] for name, values in self.tensors.items()}
        return {**tokens, "label": self.labels[indices]}

    def __add__(self, other: TextSet) -> TextSet:  # type: ignore[override]
        """Return both sets as one."""
        tensors = _joined(self.tensors, other.tensors)
        return TextSet(tensors, self.rows + other.rows, self.classes)

    def subset(self, places: Sequence[int]) -> TextSet:
        """Return the texts at these places of this set."""
        chosen = list(places)
        tensors = {name: values[chosen] for name, values in self.tensors.items()}
        return TextSet(tensors, [self.rows[place] for place in chosen], self.classes)

    @property
    def nbytes(self) -> int:
        """Bytes of the tokens."""
        return _bytes(self.tensors)


def classification_set(
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    label_space: str = "union",
) -> TextSet:
    """Tokenise texts with labels; a text that is too long loses its end.

    Arguments
    ---------
    rows : Sequence
        From ``read_examples`` with kind "classification".
    tokenizer : PreTrainedTokenizerBase
        Adds its own special tokens.
    max_length : int
        Tokens of a text at most.
    label_space : str
        "union": an item is told apart among the labels of all tasks. "task": among those that its
        own task trains on, which supposes that the task of an item is known.

    Returns
    -------
    TextSet

    Raises
    ------
    ValueError
        If a text has no token, or ``label_space`` is another word.

    Example
    -------
    >>> from speechcl.backbones.huggingface import load_tokenizer
    >>> rows = [{"task": "a", "split": "train", "text": "no", "label": "bad"}]
    >>> classification_set(rows, load_tokenizer("bytes"), max_length=8)[0]["input_ids"]
    tensor([113, 114,   1])
    """
    if label_space not in ("union", "task"):
        raise ValueError(f"label_space is {label_space!r}: use union or task")
    tensors = _padded(_tokens(rows, "text", tokenizer, max_length), tokenizer)
    classes = classes_of(rows)
    if label_space == "task":
        tensors["allowed"] = _allowed(rows, classes)
    return TextSet(tensors, rows, classes)


def causal_set(
    rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> AnswerSet:
    """Tokenise for a causal language model.

    Prompts and answers follow each other as they stand; the answer's tokens and the end token are
    predicted. A prompt that is too long loses its beginning. Plain text is cut into items of
    ``max_length`` tokens, of which all but the start token are predicted.

    Arguments
    ---------
    rows : Sequence
        From ``read_examples`` with kind "causal_lm".
    tokenizer : PreTrainedTokenizerBase
        With an end token, and perhaps a start token; else the end token marks the start, too.
    max_length : int
        Tokens of an item at most.

    Returns
    -------
    AnswerSet

    Raises
    ------
    ValueError
        If an answer does not fit, or there is no end token.

    Example
    -------
    >>> from speechcl.backbones.huggingface import load_tokenizer
    >>> data = causal_set([{"prompt": "a", "answer": "b"}], load_tokenizer("bytes"), max_length=8)
    >>> data[0]["input_ids"], data[0]["labels"]
    (tensor([  1, 100, 101,   1]), tensor([-100, -100,  101,    1]))
    """
    end = tokenizer.eos_token_id
    if end is None:
        raise ValueError("the tokenizer has no end token: set eos_token in tokenizer_config.json")
    start = end if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    room = max_length - 1  # beside the start token
    if "text" in rows[0]:
        texts = _plain_tokens(rows, "text", tokenizer)
        _check_tokens(rows, texts)
        parts = [[ids[k : k + room] for k in range(0, len(ids), room)] for ids in texts]
        owners = [row for row, found in zip(rows, parts, strict=True) for _ in found]
        answers = list(chain.from_iterable(parts))
        prompts: Tokens = [[] for _ in answers]
    else:
        owners, prompts = list(rows), _plain_tokens(rows, "prompt", tokenizer)
        answers = [[*ids, end] for ids in _plain_tokens(rows, "answer", tokenizer)]
        _check_answers(rows, answers, room)
        pairs = list(zip(prompts, answers, strict=True))
        _count_long([[start, *p, *a] for p, a in pairs], max_length, "their beginnings are")
        prompts = [p[max(0, len(p) + len(a) - room) :] for p, a in pairs]
    pairs = [([start, *prompt], answer) for prompt, answer in zip(prompts, answers, strict=True)]
    items = [prompt + answer for prompt, answer in pairs]
    labels = [[IGNORED] * len(prompt) + answer for prompt, answer in pairs]
    return AnswerSet({**_padded(items, tokenizer), "labels": _stacked(labels, IGNORED)}, owners)


def seq2seq_set(
    rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> AnswerSet:
    """Tokenise for an encoder and decoder: prompts are read, answers and the end token predicted.

    Arguments
    ---------
    rows : Sequence
        From ``read_examples`` with kind "seq2seq".
    tokenizer : PreTrainedTokenizerBase
        Adds its own special tokens.
    max_length : int
        Tokens of a prompt, and of an answer, at most; a prompt that is too long loses its end.

    Returns
    -------
    AnswerSet

    Raises
    ------
    ValueError
        If an answer does not fit, or there is no end token.

    Example
    -------
    >>> from speechcl.backbones.huggingface import load_tokenizer
    >>> data = seq2seq_set([{"prompt": "a", "answer": "b"}], load_tokenizer("bytes"), max_length=8)
    >>> data[0]["input_ids"], data[0]["labels"]
    (tensor([100,   1]), tensor([101,   1]))
    """
    end = tokenizer.eos_token_id
    if end is None:
        raise ValueError("the tokenizer has no end token: set eos_token in tokenizer_config.json")
    prompts = _tokens(rows, "prompt", tokenizer, max_length)
    answers = tokenizer(text_target=[row["answer"] for row in rows], padding=False, verbose=False)
    answers = [ids if ids[-1:] == [end] else [*ids, end] for ids in answers["input_ids"]]
    _check_answers(rows, answers, max_length)
    return AnswerSet({**_padded(prompts, tokenizer), "labels": _stacked(answers, IGNORED)}, rows)


def _allowed(rows: Sequence[Row], classes: Classes) -> Tensor:
    """Mark for each row the classes that its task trains on, shape (rows, classes)."""
    own: dict[str, Tensor] = {}
    for row, label in zip(rows, classes.labels(rows).tolist(), strict=True):
        marks = own.setdefault(row["task"], torch.zeros(len(classes.names), dtype=torch.bool))
        marks[label] = marks[label] or row["split"] == "train"
    return torch.stack([own[row["task"]] for row in rows])


def _padded(tokens: Tokens, tokenizer: PreTrainedTokenizerBase) -> Batch:
    return {
        "input_ids": _stacked(tokens, tokenizer.pad_token_id),
        "attention_mask": _stacked([[1] * len(ids) for ids in tokens], 0),
    }


def _stacked(rows: Tokens, filler: int) -> Tensor:
    """Make one tensor of rows of unequal length, filled up on the right."""
    length = max(map(len, rows))
    return torch.tensor([[*row, *[filler] * (length - len(row))] for row in rows])


def _plain_tokens(rows: Sequence[Row], column: str, tokenizer: PreTrainedTokenizerBase) -> Tokens:
    texts = [row[column] for row in rows]
    return tokenizer(texts, add_special_tokens=False, padding=False, verbose=False)["input_ids"]


def _tokens(
    rows: Sequence[Row], column: str, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> Tokens:
    """Tokenise a column with special tokens, cutting the ends of what is too long."""
    texts = [row[column] for row in rows]
    tokens = tokenizer(texts, padding=False, verbose=False)["input_ids"]
    _check_tokens(rows, tokens)
    if _count_long(tokens, max_length, "their ends are"):
        cut = tokenizer(texts, padding=False, truncation=True, max_length=max_length)
        tokens = cut["input_ids"]
    return tokens


def _count_long(tokens: Tokens, max_length: int, what_happens: str) -> int:
    count = sum(len(ids) > max_length for ids in tokens)
    if count:
        logger.warning(
            "%d of %d examples are longer than max_length %d tokens: %s left out",
            *(count, len(tokens), max_length, what_happens),
        )
    return count


def _check_tokens(rows: Sequence[Row], tokens: Tokens) -> None:
    for row, ids in zip(rows, tokens, strict=True):
        if not ids:
            raise ValueError(f"row {row['ID']}: the tokenizer finds no token in it: fill it")


def _check_answers(rows: Sequence[Row], answers: Tokens, room: int) -> None:
    for row, answer in zip(rows, answers, strict=True):
        if len(answer) > room:
            raise ValueError(
                f"row {row['ID']}: the answer has {len(answer)} tokens with its end, but there is "
                f"room for {room}: set max_length higher, or shorten it"
            )


def _joined(one: Batch, other: Batch) -> Batch:
    return {name: torch.cat([one[name], other[name]]) for name in one}


def _bytes(tensors: Batch) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
