"""Tokens of texts and answers: what is read, what is learnt, and what does not fit."""

import logging

import pytest
import torch
from tokenizers import normalizers

from speechcl.backbones.huggingface import IGNORED, load_tokenizer
from speechcl.batches import join
from speechcl.data.token_sets import causal_set, classification_set, seq2seq_set
from speechcl.memory import Reservoir
from tests import tiny_transformers as tiny

WORDS = {word: number for number, word in enumerate([*tiny.SPECIAL, *tiny.WORDS])}


def ids(text):
    return [WORDS[word] for word in text.split()]


def texts(*pairs, task="a", split="train"):
    return [
        {"ID": str(number), "task": task, "split": split, "text": text, "label": label}
        for number, (text, label) in enumerate(pairs, start=2)
    ]


def prompts(*pairs):
    return [
        {"ID": str(number), "task": "a", "split": "train", "prompt": prompt, "answer": answer}
        for number, (prompt, answer) in enumerate(pairs, start=2)
    ]


def test_texts_are_padded_to_the_longest_with_a_mask():
    data = classification_set(texts(("w1", "x"), ("w2 w3", "y")), tiny.word_tokenizer(), 8)
    batch = data.__getitems__([0, 1])
    assert batch["input_ids"].tolist() == [ids("<s> w1 </s> <pad>"), ids("<s> w2 w3 </s>")]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert batch["label"].tolist() == [0, 1]
    assert set(batch) == {"input_ids", "attention_mask", "label"}


def test_a_long_text_loses_its_end_but_not_its_end_mark(caplog):
    rows = texts(("w1 w2 w3 w4", "x"), ("w1", "x"))
    with caplog.at_level(logging.WARNING):
        data = classification_set(rows, tiny.word_tokenizer(), 4)
    assert data[0]["input_ids"].tolist() == ids("<s> w1 w2 </s>")
    assert "1 of 2 examples are longer than max_length 4 tokens: their ends are" in caplog.text


def test_nothing_is_said_of_texts_that_fit(caplog):
    with caplog.at_level(logging.WARNING):
        classification_set(texts(("w1 w2", "x")), tiny.word_tokenizer(), 4)
    assert not caplog.text


def test_a_task_allows_the_labels_that_it_trains_on():
    rows = texts(("w1", "x"), ("w2", "y")) + texts(("w3", "z"), ("w4", "x"), task="b")
    rows += texts(("w5", "y"), task="b", split="test")
    assert "allowed" not in classification_set(rows, tiny.word_tokenizer(), 8)[0]
    data = classification_set(rows, tiny.word_tokenizer(), 8, label_space="task")
    allowed = data.__getitems__([0, 1, 2, 3, 4])["allowed"]
    assert data.classes.names == ("x", "y", "z")
    assert allowed.int().tolist() == [[1, 1, 0], [1, 1, 0], [1, 0, 1], [1, 0, 1], [1, 0, 1]]
    with pytest.raises(ValueError, match="label_space is 'all': use union or task"):
        classification_set(rows, tiny.word_tokenizer(), 8, label_space="all")


def test_only_answer_and_end_are_learnt():
    data = causal_set(prompts(("w1 w2 ? ", "yes"), ("w3 ?", "no")), tiny.word_tokenizer(), 16)
    batch = data.__getitems__([0, 1])
    assert batch["input_ids"].tolist() == [
        ids("<s> w1 w2 ? yes </s>"),
        ids("<s> w3 ? no </s> <pad>"),
    ]
    assert batch["labels"].tolist() == [
        [IGNORED] * 4 + ids("yes </s>"),
        [IGNORED] * 3 + ids("no </s>") + [IGNORED],
    ]
    assert batch["attention_mask"].tolist() == [[1] * 6, [1, 1, 1, 1, 1, 0]]
    assert data.answer_tokens().tolist() == [2, 2]


def test_a_long_prompt_loses_its_beginning(caplog):
    rows = prompts(("w1 w2 w3 w4", "yes"), ("w1", "yes"), ("w5 w6", "w7 w8 w9"))
    with caplog.at_level(logging.WARNING):
        batch = causal_set(rows, tiny.word_tokenizer(), 5).__getitems__([0, 1, 2])
    assert batch["input_ids"].tolist() == [
        ids("<s> w3 w4 yes </s>"),
        ids("<s> w1 yes </s> <pad>"),
        ids("<s> w7 w8 w9 </s>"),
    ]
    assert batch["labels"][0].tolist() == [IGNORED] * 3 + ids("yes </s>")
    assert "2 of 3 examples are longer" in caplog.text


@pytest.mark.parametrize("make", [causal_set, seq2seq_set])
def test_an_answer_must_fit(make):
    rows = prompts(("w1", "yes"), ("w1", "w1 w2 w3 w4"))
    with pytest.raises(ValueError, match="row 3: the answer has .* tokens .* set max_length high"):
        make(rows, tiny.word_tokenizer(), 4)


def test_plain_text_is_cut_into_items_and_nothing_is_lost():
    rows = [
        {"ID": "2", "task": "a", "split": "train", "text": "w1 w2 w3 w4 w5"},
        {"ID": "3", "task": "b", "split": "test", "text": "w6"},
    ]
    data = causal_set(rows, tiny.word_tokenizer(), 3)
    batch = data.__getitems__([0, 1, 2, 3])
    assert batch["input_ids"].tolist() == [
        ids("<s> w1 w2"),
        ids("<s> w3 w4"),
        ids("<s> w5 <pad>"),
        ids("<s> w6 <pad>"),
    ]
    learnt = batch["labels"][batch["labels"] != IGNORED]
    assert learnt.tolist() == ids("w1 w2 w3 w4 w5 w6")
    assert [row["ID"] for row in data.rows] == ["2", "2", "2", "3"]


def test_without_a_start_token_the_end_token_starts():
    data = causal_set([{"ID": "2", "text": "ab"}], load_tokenizer("bytes"), 8)
    assert data[0]["input_ids"].tolist() == [1, 100, 101]
    assert data[0]["labels"].tolist() == [IGNORED, 100, 101]


def test_prompts_and_answers_apart():
    rows = prompts(("w1 w2 ?", "yes"), ("w3", "w4 w5"))
    batch = seq2seq_set(rows, tiny.word_tokenizer(marks=False), 8).__getitems__([0, 1])
    assert batch["input_ids"].tolist() == [ids("w1 w2 ?"), ids("w3 <pad> <pad>")]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [ids("yes </s>") + [IGNORED], ids("w4 w5 </s>")]


def test_an_end_that_the_tokenizer_adds_is_not_doubled():
    labels = seq2seq_set(prompts(("a", "b")), load_tokenizer("bytes"), 8)[0]["labels"]
    assert labels.tolist() == [101, 1]


@pytest.mark.parametrize("make", [causal_set, seq2seq_set])
def test_answers_need_an_end_token(make):
    tokenizer = tiny.word_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="no end token: set eos_token"):
        make(prompts(("w1", "yes")), tokenizer, 8)


def test_a_text_without_tokens_is_named():
    rows = texts(("w1", "x"), ("\u200b", "x"))
    tokenizer = tiny.word_tokenizer(marks=False)
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("\u200b", "")
    with pytest.raises(ValueError, match="row 3: the tokenizer finds no token in it"):
        classification_set(rows, tokenizer, 8)


@pytest.mark.parametrize("kind", ["classification", "causal", "seq2seq"])
def test_parts_add_up_to_the_whole_and_fit_a_memory(kind):
    tokenizer = tiny.word_tokenizer()
    if kind == "classification":
        rows = texts(("w1", "x"), ("w2 w3 w4", "y"), ("w5", "x"), ("w6 w7", "y"))
        data = classification_set(rows, tokenizer, 8, label_space="task")
        assert data.counts() == {"x": 2, "y": 2}
    else:
        make = causal_set if kind == "causal" else seq2seq_set
        data = make(
            prompts(("w1", "yes"), ("w2 w3", "no"), ("w4", "w5"), ("w6", "w7 w8")), tokenizer, 9
        )
    whole = data.__getitems__([0, 1, 2, 3])
    parts = data.subset([0, 1]) + data.subset([2, 3])
    assert len(parts) == len(data) == 4
    assert parts.rows == data.rows
    assert data.subset([0, 1]).nbytes * 2 == data.nbytes > 0
    for name, value in parts.__getitems__([0, 1, 2, 3]).items():
        assert torch.equal(value, whole[name])
        assert torch.equal(torch.stack([data[place][name] for place in range(4)]), whole[name])
    memory = Reservoir(capacity=4)
    memory.add(data.subset([1]).__getitems__([0]))
    memory.add(data.subset([0, 2, 3]).__getitems__([0, 1, 2]))
    joined = join(data.subset([3]).__getitems__([0]), memory.sample(4))
    assert {name: len(value) for name, value in joined.items()} == dict.fromkeys(whole, 5)
