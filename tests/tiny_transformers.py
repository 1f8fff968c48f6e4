"""Tiny models with random weights, saved as the hub has them, and tables to train them on."""

import csv
from pathlib import Path

import numpy
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    CLIPConfig,
    CLIPModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

SPECIAL = ["<pad>", "<unk>", "<s>", "</s>"]
WORDS = [f"w{number}" for number in range(12)] + ["yes", "no", "maybe", "never", "?"]
VOCAB = len(SPECIAL) + len(WORDS)
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": VOCAB,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
}


def word_tokenizer(marks=True):
    """A token a word; with ``marks`` a text gets a start and an end."""
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if marks:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
        )
    names = dict(zip(("pad_token", "unk_token", "bos_token", "eos_token"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def bert(folder: Path) -> Path:
    torch.manual_seed(0)
    BertForMaskedLM(BertConfig(**SIZES, max_position_embeddings=32)).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


def llama(folder: Path) -> Path:
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SIZES, max_position_embeddings=32)).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


def t5(folder: Path) -> Path:
    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    T5ForConditionalGeneration(T5Config(vocab_size=VOCAB, **sizes)).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


def clip(folder: Path) -> Path:
    torch.manual_seed(0)
    text = {**SIZES, "max_position_embeddings": 12}
    vision = {**text, "image_size": 8, "patch_size": 4}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    CLIPModel(config).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


def write_table(file: Path, columns: str, rows) -> Path:
    with file.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow(columns.split(","))
        writer.writerows(rows)
    return file


def texts(seed: int, count: int) -> list[list[str]]:
    """Texts of three to six words, w0 to w11."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, 7, (count,), generator=draw).tolist()
    return [
        [f"w{word}" for word in torch.randint(0, 12, (length,), generator=draw).tolist()]
        for length in lengths
    ]


def labelled_table(file: Path, count: int = 60) -> Path:
    """Two tasks: is w0 to w5 the first word, or another one? With labels of their own."""
    rows = []
    for task, labels in (("first", ("yes", "no")), ("second", ("maybe", "never"))):
        for number, words in enumerate(texts(len(task), count)):
            split = ("train", "train", "train", "test")[number % 4]
            rows.append((task, split, " ".join(words), labels[int(words[0][1:]) < 6]))
    return write_table(file, "task,split,text,label", rows)


def answer_table(file: Path, count: int = 60) -> Path:
    """Two tasks: the answer is the first word of the prompt, or yes and no by it."""
    rows = []
    for task in ("copy", "tell"):
        for number, words in enumerate(texts(len(task), count)):
            split = ("train", "train", "valid", "test")[number % 4]
            answer = words[0] if task == "copy" else ("yes", "no")[int(words[0][1:]) < 6]
            rows.append((task, split, " ".join([*words, "? "]), answer))
    return write_table(file, "task,split,prompt,answer", rows)


def image_table(folder: Path, count: int = 24) -> Path:
    """Two tasks: dark or bright, and red or blue; arrays of 8 x 8 pixels."""
    draw = numpy.random.default_rng(0)
    rows = []
    for task, labels in (("light", ("no", "yes")), ("colour", ("never", "maybe"))):
        for number in range(count):
            label = number % 2
            image = draw.integers(0, 100, (8, 8, 3)) + (100 * label if task == "light" else 50)
            if task == "colour":
                image[..., 2 * label] += 100
            name = f"{task}_{number}.npy"
            numpy.save(folder / name, image.astype(numpy.uint8))
            split = ("train", "train", "test")[number // 2 % 3]
            rows.append((task, split, name, labels[label]))
    return write_table(folder / "images.csv", "task,split,image,label", rows)
