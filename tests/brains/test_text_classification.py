"""Classification of texts: label spaces, and every method of the toolkit on a transformer."""

import functools

import pytest
import torch

from speechcl.backbones.huggingface import TextClassifier, load_tokenizer, load_transformer
from speechcl.brains.text_classification import TextClassificationBrain
from speechcl.data.text_tasks import example_stream, read_examples
from speechcl.data.token_sets import classification_set
from speechcl.engine import Engine, Training
from speechcl.methods import ER, EWC, OWM, SI, DERpp, FineTune, Joint, LwF
from tests import tiny_transformers as tiny

METHODS = {
    "FineTune": FineTune,
    "Joint": Joint,
    "ER": lambda: ER(capacity=20, replay=8),
    "DERpp": lambda: DERpp(capacity=20, replay=8),
    "EWC": lambda: EWC(strength=10.0, clips=10),
    "SI": SI,
    "LwF": LwF,
    "OWM": OWM,
}


def engine(folder, method, label_space="union", epochs=1):
    source = tiny.bert(folder / "bert")
    tokenizer = load_tokenizer(source)
    rows = read_examples(tiny.labelled_table(folder / "texts.csv", 32), "classification")
    data = classification_set(rows, tokenizer, 16, label_space)
    torch.manual_seed(0)
    model = load_transformer(source, "classification", tokenizer, len(data.classes.names))
    return Engine(
        brain=TextClassificationBrain,
        modules={"model": TextClassifier(model)},
        method=method,
        stream=example_stream(data),
        training=Training(
            functools.partial(torch.optim.AdamW, lr=0.003), epochs=epochs, batch_size=8
        ),
        folder=folder / "run",
        run_opts={"noprogressbar": True, "device": "cpu"},
    )


@pytest.mark.parametrize("label_space", ["union", "task"])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_runs_on_a_transformer(name, label_space, tmp_path):
    run = engine(tmp_path, METHODS[name](), label_space)
    results = run.run()
    assert all(0 <= value <= 100 for row in results["matrix"] for value in row)
    state = {**run.modules.state_dict(), **run.method.state_dict()}
    assert all(value.isfinite().all() for value in state.values() if value.is_floating_point())


def test_labels_of_other_tasks_are_out_of_the_race(tmp_path):
    run = engine(tmp_path, FineTune(), "task")
    for task, own in ((0, [0, 1]), (1, [2, 3])):
        batch = run.stream[task].test.__getitems__(list(range(8)))
        logits = run.evaluator.compute_forward(batch, None).logits
        shares = logits.softmax(dim=1)
        assert shares.shape[1] == 4
        assert logits.isfinite().all()
        torch.testing.assert_close(shares[:, own].sum(dim=1), torch.ones(8))
        plain = run.modules["model"](batch["input_ids"], batch["attention_mask"])[0]
        assert torch.equal(logits[:, own], plain[:, own])


def test_knowing_the_task_an_old_one_is_not_lost_to_new_labels(tmp_path):
    found = {}
    for label_space in ("union", "task"):
        (tmp_path / label_space).mkdir()
        found[label_space] = engine(tmp_path / label_space, FineTune(), label_space, 5).run()
    assert found["union"]["matrix"][1][0] < 20 < 50 < found["union"]["matrix"][0][0]
    assert found["task"]["matrix"][1][0] > found["union"]["matrix"][1][0] + 30


def test_only_labels_seen_so_far_compete_in_training(tmp_path):
    run = engine(tmp_path, FineTune())
    batch = run.stream[0].train.__getitems__([0, 1, 2])
    outputs = run.evaluator.compute_forward(batch, None)
    outputs.logits.retain_grad()
    run.evaluator.task_loss(outputs, batch, None).backward()
    assert outputs.logits.grad[:, 2:].abs().max() == 0
    assert outputs.logits.grad[:, :2].abs().min() > 0
    assert run.evaluator.targets(batch) is batch["label"]
    assert run.evaluator.features(outputs).shape == (3, 16)


def test_predictions_are_kept_for_every_text(tmp_path):
    run = engine(tmp_path, FineTune())
    run.run()
    lines = (tmp_path / "run" / "predictions" / "task_01.csv").read_text().splitlines()
    assert lines[0] == "test_task,ID,label,predicted,speaker"
    assert len(lines) == 1 + 16
    assert {line.split(",")[2] for line in lines[1:]} == {"yes", "no", "maybe", "never"}
