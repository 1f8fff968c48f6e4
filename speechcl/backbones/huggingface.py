"""Any model of the transformers library: classifiers, language models, image-text models."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

AUTO_CLASSES = {
    "classification": "AutoModelForSequenceClassification",
    "causal_lm": "AutoModelForCausalLM",
    "seq2seq": "AutoModelForSeq2SeqLM",
    "image_text": "AutoModelForZeroShotImageClassification",
}
IGNORED = -100  # the label of a token that is not learnt, as everywhere in transformers

Source = str | Path | Mapping[str, Any]


def load_transformer(
    source: Source,
    kind: str,
    tokenizer: PreTrainedTokenizerBase | None = None,
    classes: int | None = None,
) -> Any:
    """Read a model from a folder, or make one with random weights from a configuration.

    Nothing in a folder is executed: weights are read from safetensors alone, and code that comes
    with a checkpoint is not run. Weights become single precision. A classifier's last layer is new
    where the checkpoint has none for so many classes.

    Arguments
    ---------
    source : str, Path or Mapping
        A folder with config.json and model.safetensors; or, for random weights, the path of a
        config.json or its content, with ``model_type``.
    kind : str
        "classification", "causal_lm", "seq2seq", or "image_text" (CLIP).
    tokenizer : PreTrainedTokenizerBase, optional
        Its tokens must fit the model, whose padding becomes the tokenizer's.
    classes : int, optional
        How many, for a classification.

    Returns
    -------
    PreTrainedModel

    Raises
    ------
    ImportError
        If transformers is not installed.
    ValueError
        If nothing can be read there, or the model is not of this kind.

    Example
    -------
    >>> tiny = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1,
    ...     "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 40}
    >>> model = load_transformer(tiny, "classification", classes=3)
    >>> model(torch.tensor([[5, 6, 7]])).logits.shape
    torch.Size([1, 3])
    """
    if kind not in AUTO_CLASSES:
        raise ValueError(f"kind is {kind!r}: use {', '.join(AUTO_CLASSES)}")
    auto = getattr(import_transformers(), AUTO_CLASSES[kind])
    config = _read_config(source)
    _check_kind(config, kind)
    if classes is not None:
        config.num_labels = classes
    _adopt_tokens(config, tokenizer)
    if isinstance(source, Mapping) or Path(source).is_file():
        model = auto.from_config(config).float()
    else:
        model = _read_weights(Path(source), auto, config, may_lack_head=kind == "classification")
    if kind == "causal_lm" and _looks_ahead(model):
        raise ValueError(
            f"this {config.model_type} model sees the tokens that it is to predict: take a model "
            "that was trained as a causal language model, or set is_decoder: true"
        )
    return model


def load_tokenizer(source: Source) -> PreTrainedTokenizerBase:
    """Read a tokenizer from a folder; nothing in it is executed.

    Arguments
    ---------
    source : str or Path
        The folder; or "bytes", for one token a byte of UTF-8 and a vocabulary of 259.

    Returns
    -------
    PreTrainedTokenizerBase
        With a padding token, which is the end token where it had none.

    Raises
    ------
    ImportError
        If transformers is not installed.
    ValueError
        If there is no tokenizer, or it has neither a padding nor an end token.

    Example
    -------
    >>> load_tokenizer("bytes")("ab").input_ids  # and the end of the text
    [100, 101, 1]
    """
    transformers = import_transformers()
    if source == "bytes":
        return transformers.ByT5Tokenizer(extra_ids=0)
    if isinstance(source, Mapping) or Path(source).is_file():
        raise ValueError(
            "a configuration holds no tokenizer: set tokenizer to a folder or to bytes"
        )
    _check_there(source)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            source, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{source}: no tokenizer can be read ({_first_line(error)}): "
            "save one with save_pretrained, or set tokenizer to another folder or to bytes"
        ) from error
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ValueError(
                f"{source}: the tokenizer has neither a padding nor an end token: set eos_token "
                "in tokenizer_config.json"
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


class TextClassifier(nn.Module):
    """A transformers classifier as the brains want it: tensors in, logits and features out.

    Arguments
    ---------
    model : PreTrainedModel
        From ``load_transformer`` with kind "classification".

    Example
    -------
    >>> tiny = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1,
    ...     "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 40}
    >>> model = TextClassifier(load_transformer(tiny, "classification", classes=3))
    >>> logits, features = model(torch.tensor([[5, 6, 0]]), torch.tensor([[1, 1, 0]]))
    >>> logits.shape, features.shape
    (torch.Size([1, 3]), torch.Size([1, 16]))
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Classify texts.

        Arguments
        ---------
        input_ids, attention_mask : Tensor
            Shape (batch, tokens), padded on the right.

        Returns
        -------
        tuple
            Logits (batch, classes), and the mean of the last layer's states (batch, width).
        """
        length = longest(attention_mask)
        mask = attention_mask[:, :length]
        outputs = self.model(
            input_ids=input_ids[:, :length], attention_mask=mask, output_hidden_states=True
        )
        states = outputs.get("hidden_states", outputs.get("decoder_hidden_states"))[-1]
        share = mask / mask.sum(dim=1, keepdim=True)
        return outputs.logits, (share[:, :, None] * states).sum(dim=1)


class LanguageModel(nn.Module):
    """A transformers language model as the brains want it: predictions beside what is right.

    Arguments
    ---------
    model : PreTrainedModel
        From ``load_transformer`` with kind "causal_lm" or "seq2seq".

    Example
    -------
    >>> tiny = {"model_type": "llama", "hidden_size": 16, "num_hidden_layers": 1,
    ...     "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 40}
    >>> model = LanguageModel(load_transformer(tiny, "causal_lm"))
    >>> ids, mask = torch.tensor([[1, 8, 9, 0]]), torch.tensor([[1, 1, 1, 0]])
    >>> logits, labels = model(ids, mask, torch.tensor([[IGNORED, IGNORED, 9, IGNORED]]))
    >>> logits.shape, labels
    (torch.Size([1, 3, 40]), tensor([[-100,    9, -100]]))
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model: Any = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Predict every token from those before it.

        Arguments
        ---------
        input_ids, attention_mask : Tensor
            Shape (batch, tokens), padded on the right.
        labels : Tensor
            Of a causal model: the same tokens, or ``IGNORED`` where nothing is to be learnt. Of
            an encoder and decoder: the answers (batch, answer tokens), ``IGNORED`` after their end.

        Returns
        -------
        tuple
            Logits (batch, places, vocab), and the token that is right at each place.
        """
        length = longest(attention_mask)
        inputs = {
            "input_ids": input_ids[:, :length],
            "attention_mask": attention_mask[:, :length],
            "use_cache": False,
        }
        if self.model.config.is_encoder_decoder:
            labels = labels[:, : longest(labels != IGNORED)]
            before = self.model.prepare_decoder_input_ids_from_labels(labels)
            return self.model(**inputs, decoder_input_ids=before).logits, labels
        following = functional.pad(labels[:, 1:length], (0, 1), value=IGNORED)
        return self.model(**inputs).logits, following


def check_length(model: Any, max_length: int) -> None:
    """Refuse items longer than a model's positions, or too short to hold anything.

    Arguments
    ---------
    model : PreTrainedModel
        From ``load_transformer``.
    max_length : int
        Tokens of an item at most.

    Raises
    ------
    ValueError
        If the model cannot read so many tokens, or they are fewer than 4.

    Example
    -------
    >>> from types import SimpleNamespace
    >>> config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(max_position_embeddings=8))
    >>> check_length(SimpleNamespace(config=config), 9)
    Traceback (most recent call last):
    ValueError: max_length is 9: set it from 4 to 8, the positions of the model
    """
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if max_length < 4 or max_length > (positions or max_length):
        upper = f"to {positions}, the positions of the model" if positions else "upwards"
        raise ValueError(f"max_length is {max_length}: set it from 4 {upper}")


def longest(mask: Tensor) -> int:
    """Return how many places the longest row of a right-padded batch fills.

    Example
    -------
    >>> longest(torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0]]))
    2
    """
    return int(mask.sum(dim=1).max())


def import_transformers() -> Any:
    """Return the transformers library.

    Raises
    ------
    ImportError
        If it is not installed, with the command that installs it.

    Example
    -------
    >>> import_transformers().__name__
    'transformers'
    """
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            'models of the transformers library need it: run pip install "speechcl[lm]"'
        ) from error
    return transformers


def _read_config(source: Source) -> PretrainedConfig:
    auto = import_transformers().AutoConfig
    from huggingface_hub import errors

    refusals = (OSError, ValueError, TypeError, getattr(errors, "StrictDataclassError", ValueError))
    if isinstance(source, Mapping):
        where = "the model's configuration"
    else:
        where, path = str(source), _check_there(source)
        if path.is_dir() and not (path / "config.json").is_file():
            raise ValueError(f"{source}: no config.json in it: give the folder of a checkpoint")
    try:
        if isinstance(source, Mapping):
            settings = json.loads(json.dumps(source))  # YAML's own kinds of dict become plain
            config = auto.for_model(**{"model_type": "none", **settings})
            _check_names(settings)
        else:
            config = auto.from_pretrained(source, local_files_only=True, trust_remote_code=False)
    except refusals as error:
        raise ValueError(f"{where} cannot be used: {_first_line(error)}") from error
    return config


def _check_there(source: str | Path) -> Path:
    if not Path(source).exists():
        raise ValueError(f"{source}: no such folder: give one that save_pretrained has written")
    return Path(source)


def _check_names(given: Mapping[str, Any]) -> None:
    """Refuse a setting that the model does not have: transformers would keep it and do nothing."""
    defaults = type(import_transformers().AutoConfig.for_model(given["model_type"]))().to_dict()
    for name in given.keys() - defaults.keys():
        near = difflib.get_close_matches(name, defaults, n=1)
        hint = f"did you mean {near[0]}" if near else "leave it out"
        raise ValueError(f"a {given['model_type']} model has no setting {name!r}: {hint}")


def _check_kind(config: PretrainedConfig, kind: str) -> None:
    transformers = import_transformers()
    able = [
        name
        for name, auto in AUTO_CLASSES.items()
        if type(config) in getattr(transformers, auto)._model_mapping
        and (name != "image_text" or config.model_type == "clip")  # others use masks or sigmoids
    ]
    if kind not in able:
        instead = f"use {' or '.join(able)}, or another model" if able else "take another model"
        raise ValueError(f"a {config.model_type} model cannot do {kind}: {instead}")


def _adopt_tokens(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase | None) -> None:
    """Make the model pad as the tokenizer does, and refuse tokens that it has no weights for."""
    if tokenizer is not None:
        known = config.get_text_config().vocab_size
        if len(tokenizer) > known:
            raise ValueError(
                f"the tokenizer has {len(tokenizer)} tokens but the model {known}: set vocab_size "
                "of the configuration, or take the tokenizer of the checkpoint"
            )
        config.pad_token_id = tokenizer.pad_token_id
        config.get_text_config().eos_token_id = tokenizer.eos_token_id  # where CLIP reads a name
    if config.is_encoder_decoder and getattr(config, "decoder_start_token_id", None) is None:
        config.decoder_start_token_id = config.pad_token_id  # as T5 has it


def _read_weights(folder: Path, auto: Any, config: PretrainedConfig, may_lack_head: bool) -> Any:
    from safetensors import SafetensorError

    if not list(folder.glob("*.safetensors")):
        pickled = sorted(file.name for file in [*folder.glob("*.bin"), *folder.glob("*.pt*")])
        if pickled:
            raise ValueError(
                f"{folder}: {pickled[0]} is a pickle, which may run code: give a checkpoint with "
                "model.safetensors, as save_pretrained of transformers writes it"
            )
        raise ValueError(
            f"{folder}: no model.safetensors in it: give a whole checkpoint, "
            f"or {folder / 'config.json'} for random weights"
        )
    try:
        model, report = auto.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=may_lack_head,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{folder}: the weights cannot be read: {_first_line(error)}") from error
    absent = {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}
    if may_lack_head:
        inside = f"{model.base_model_prefix}."
        absent = {key for key in absent if key.startswith(inside) and "pooler" not in key}
    if absent:
        raise ValueError(
            f"{folder}: lacks {len(absent)} weights of its model, such as {min(absent)}: "
            "give the checkpoint of a whole pre-trained model"
        )
    return model


@torch.no_grad()
def _looks_ahead(model: nn.Module) -> bool:
    """Tell whether the first token's prediction changes with the second token."""
    model.eval()
    first, second = model(input_ids=torch.tensor([[1, 0], [1, 2]])).logits[:, 0]
    return not torch.allclose(first, second, atol=1e-6)


def _first_line(error: Exception) -> str:
    """Return what is wrong, without the advice and the long lists that follow."""
    text = str(error.__cause__ or error).strip().partition("\n")[0]
    return text.partition(". ")[0].rstrip(".:")
