"""Images told apart by names: CoDyRA's loss against loops, and methods on a tiny CLIP."""

import functools
import math

import pytest
import torch

from speechcl.backbones.huggingface import load_tokenizer, load_transformer
from speechcl.backbones.image_text import ImageTextModel
from speechcl.brains.image_text import ImageTextBrain
from speechcl.data.image_sets import ImageSet
from speechcl.data.text_tasks import classes_of, example_stream, read_examples
from speechcl.engine import Engine, Training
from speechcl.methods import ER, EWC, FineTune, Joint
from tests import tiny_transformers as tiny


def engine(folder, method, epochs=1):
    source = tiny.clip(folder / "clip")
    tokenizer = load_tokenizer(source)
    rows = read_examples(tiny.image_table(folder), "image_text")
    torch.manual_seed(0)
    clip = load_transformer(source, "image_text", tokenizer)
    return Engine(
        brain=ImageTextBrain,
        modules={"model": ImageTextModel(clip, tokenizer, template="w1 {}")},
        method=method,
        stream=example_stream(ImageSet(rows, classes_of(rows), size=8)),
        training=Training(
            functools.partial(torch.optim.AdamW, lr=0.006), epochs=epochs, batch_size=8
        ),
        folder=folder / "run",
        run_opts={"noprogressbar": True, "device": "cpu"},
    )


@pytest.mark.parametrize("task", [0, 1])
def test_the_loss_is_that_of_images_among_own_names_and_of_names_among_images(task, tmp_path):
    run = engine(tmp_path, FineTune())
    brain = run._brain(run.stream[task])
    run.modules.eval()
    batch = run.stream[task].train.__getitems__([0, 1, 2])
    outputs = brain.compute_forward(batch, None)
    found = brain.task_loss(outputs, batch, None).item()
    s, labels = outputs.logits.tolist(), batch["label"].tolist()
    assert len(s[0]) == 4
    own, seen = ([0, 1], [0, 1]) if task == 0 else ([2, 3], [0, 1, 2, 3])
    images = (
        -sum(s[i][labels[i]] - math.log(sum(math.exp(s[i][c]) for c in own)) for i in range(3)) / 3
    )  # columns of earlier tasks are left out
    names = -sum(
        (labels[i] == c) * (s[i][c] - math.log(sum(math.exp(s[k][c]) for k in range(3))))
        for c in seen
        for i in range(3)
    ) / len(seen)  # names without images count in the mean
    assert found == pytest.approx(images + names, rel=1e-4)


def test_names_of_the_checkpoint_tokenizer_are_compared(tmp_path):
    run = engine(tmp_path, FineTune())
    assert run.evaluator.task.train.classes.names == ("no", "yes", "maybe", "never")
    assert run.evaluator.names.tolist() == [[2, 5, word, 3] for word in (17, 16, 18, 19)]


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("FineTune", FineTune),
        ("ER", lambda: ER(capacity=16, replay=8)),
        ("EWC", lambda: EWC(strength=10.0, clips=8)),
        ("Joint", Joint),
    ],
)
def test_methods_run_on_images(name, method, tmp_path):
    results = engine(tmp_path, method(), epochs=8).run()
    assert results["metric"] == "accuracy"
    assert results["matrix"][0][0] > 70, "among the names of both tasks"
    assert all(0 <= value <= 100 for value in results["matrix"][1])
