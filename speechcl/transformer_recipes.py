"""What recipes with models of the transformers library share: a table becomes a run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from speechbrain.utils.distributed import if_main_process
from torch import nn

from speechcl.backbones.huggingface import (
    LanguageModel,
    TextClassifier,
    check_length,
    load_tokenizer,
    load_transformer,
)
from speechcl.backbones.image_text import PREPROCESSOR, ImageTextModel, read_colours
from speechcl.brain import ContinualBrain
from speechcl.brains.image_text import ImageTextBrain
from speechcl.brains.language import LanguageModelBrain, is_higher_better
from speechcl.brains.text_classification import TextClassificationBrain
from speechcl.data import atomic_path
from speechcl.data.image_sets import ImageSet
from speechcl.data.text_tasks import classes_of, example_stream, read_examples
from speechcl.data.token_sets import causal_set, classification_set, seq2seq_set
from speechcl.experiment import Experiment


def learn_examples(experiment: Experiment, about: Mapping[str, Any]) -> Path:
    """Run a recipe in which every task is a part of a table of examples.

    What the model is to do decides what it is and how it is scored, so ``model`` and ``brain`` are
    put beside the ``training`` of the included fragment here.

    Arguments
    ---------
    experiment : Experiment
        Its hyper-parameters: ``kind``; ``data_csv``, see ``read_examples``; ``tasks`` in order, or
        null for all; ``model_folder`` and ``tokenizer``, see ``load_transformer`` and
        ``load_tokenizer``; ``max_length`` in tokens; ``label_space`` of texts; ``metric`` of a
        language model; ``template`` of image classes. With ``export``, which only methods have
        that leave a plain model behind, it is written to ``model`` in the run folder.
    about : Mapping
        Further fields of results.json: recipe, notes.

    Returns
    -------
    Path
        The run folder.
    """
    hparams = experiment.hparams
    kind, source, length = hparams["kind"], hparams["model_folder"], hparams["max_length"]
    rows = read_examples(
        hparams["data_csv"], kind, hparams["tasks"], own_labels=hparams["label_space"] == "task"
    )
    tokenizer = load_tokenizer(hparams["tokenizer"] or source)
    names = classes_of(rows).names if "label" in rows[0] else None
    model = load_transformer(source, kind, tokenizer, len(names) if names else None)
    if names and kind == "classification":
        model.config.id2label = dict(enumerate(names))
        model.config.label2id = {name: index for index, name in enumerate(names)}
    wrapped: nn.Module
    brain: Callable[..., ContinualBrain]
    data: Any
    if kind == "image_text":
        data = ImageSet(rows, classes_of(rows), model.config.vision_config.image_size)
        colours = read_colours(source)
        wrapped = ImageTextModel(model, tokenizer, hparams["template"], colours)
        brain = ImageTextBrain
    elif kind == "classification":
        check_length(model, length)
        data = classification_set(rows, tokenizer, length, hparams["label_space"])
        wrapped, brain = TextClassifier(model), TextClassificationBrain
    else:
        check_length(model, length)
        is_higher_better(hparams["metric"])  # refused before anything is written
        data = (seq2seq_set if kind == "seq2seq" else causal_set)(rows, tokenizer, length)
        wrapped, brain = LanguageModel(model), partial(LanguageModelBrain, metric=hparams["metric"])
    experiment.base.update(model=wrapped, brain=brain)
    folder = experiment.run(example_stream(data), about)
    if hparams.get("export") and if_main_process() and not (folder / "model").exists():
        _export(model, tokenizer, source, folder / "model")
    return folder


def _export(model: Any, tokenizer: Any, source: Any, folder: Path) -> None:
    with atomic_path(folder) as place:
        model.save_pretrained(place)
        tokenizer.save_pretrained(place)
        if isinstance(source, str) and (Path(source) / PREPROCESSOR).is_file():
            shutil.copyfile(Path(source) / PREPROCESSOR, place / PREPROCESSOR)
