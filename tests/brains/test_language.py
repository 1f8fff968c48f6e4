"""The language model's loss, scores and logits, against slow loops and against generation."""

import functools
import math

import numpy
import pytest
import torch

from speechcl.backbones.huggingface import IGNORED, LanguageModel, load_tokenizer, load_transformer
from speechcl.batches import join
from speechcl.brains.language import (
    Answers,
    LanguageModelBrain,
    perplexity,
    rate_answers,
)
from speechcl.data.text_tasks import example_stream, read_examples
from speechcl.data.token_sets import AnswerSet, causal_set, seq2seq_set
from speechcl.engine import Engine, Training
from speechcl.methods import ER, EWC, SI, DERpp, FineTune, Joint
from speechcl.methods.ewc import add_fisher
from tests import tiny_transformers as tiny

GREEDY: dict = {
    "causal_lm": {"do_sample": False, "max_new_tokens": 4, "eos_token_id": 3},
    "seq2seq": {"do_sample": False, "max_new_tokens": 4, "eos_token_id": 3},
}
GREEDY["seq2seq"]["decoder_start_token_id"] = 0
KINDS = {"causal_lm": (tiny.llama, causal_set), "seq2seq": (tiny.t5, seq2seq_set)}


def engine(folder, kind="causal_lm", method=None, *, epochs=1, metric="perplexity", count=60):
    maker, make_set = KINDS[kind]
    source = maker(folder / kind)
    tokenizer = load_tokenizer(source)
    rows = read_examples(tiny.answer_table(folder / "answers.csv", count), kind)
    torch.manual_seed(0)
    return Engine(
        brain=functools.partial(LanguageModelBrain, metric=metric),
        modules={"model": LanguageModel(load_transformer(source, kind, tokenizer))},
        method=method or FineTune(),
        stream=example_stream(make_set(rows, tokenizer, 16)),
        training=Training(
            functools.partial(torch.optim.AdamW, lr=0.01), epochs=epochs, batch_size=8
        ),
        folder=folder / "run",
        run_opts={"noprogressbar": True, "device": "cpu"},
    )


def batch_of(engine, places, task=0):
    return engine.stream[task].train.__getitems__(places)


def forward(engine, batch):
    return engine.evaluator.compute_forward(batch, None)


def test_answers_are_rated_as_by_a_loop():
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 5, 7, generator=draw)
    labels = torch.randint(0, 7, (4, 5), generator=draw)
    labels[0, :2], labels[1, 3:], labels[2, 1:] = IGNORED, IGNORED, IGNORED
    labels[2, 0], labels[3] = logits[2, 0].argmax(), logits[3].argmax(dim=1)
    found = rate_answers(logits, labels)
    for item in range(4):
        log_ps, right = [], True
        for place in range(5):
            label = int(labels[item, place])
            if label != IGNORED:
                values = [math.exp(value) for value in logits[item, place].tolist()]
                log_ps.append(math.log(values[label] / sum(values)))
                right = right and values[label] == max(values)
        assert found.log_p[item].item() == pytest.approx(sum(log_ps) / len(log_ps), rel=1e-5)
        assert bool(found.found[item]) == right
    assert found.found.tolist() == [0.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize("kind", KINDS)
def test_an_exact_match_is_what_greedy_generation_gives(kind, tmp_path):
    run = engine(tmp_path, kind)
    run.modules.eval()
    for item in range(6):
        ids = run.stream[0].train[item]["input_ids"]
        prompt = ids[:-2].tolist() if kind == "causal_lm" else ids[ids != 0].tolist()
        with torch.no_grad():
            made = run.modules["model"].model.generate(torch.tensor([prompt]), **GREEDY[kind])
        answer = made[0].tolist()[len(prompt) if kind == "causal_lm" else 1 :]
        assert len(answer) > 0
        for place in range(-1, len(answer)):  # -1: as generated; else with one token changed
            labels = [4 + (one + 1) % 8 if k == place else one for k, one in enumerate(answer)]
            read = [*prompt, *labels] if kind == "causal_lm" else prompt
            learnt = [IGNORED] * (len(read) - len(labels)) + labels
            tokens = {
                "input_ids": torch.tensor([read]),
                "attention_mask": torch.ones(1, len(read), dtype=torch.int64),
                "labels": torch.tensor([learnt if kind == "causal_lm" else labels]),
            }
            assert bool(forward(run, tokens).found) == (place == -1)


def test_neither_prompts_nor_padding_are_learnt(tmp_path):
    run = engine(tmp_path)
    batch = batch_of(run, [0, 1, 2])
    logits, labels = run.modules["model"](*batch.values())
    logits = logits.detach().requires_grad_()
    run.evaluator.task_loss(rate_answers(logits, labels), batch, None).backward()
    counts = (labels != IGNORED)[..., None]
    assert logits.grad[~counts.expand_as(logits)].abs().max() == 0
    assert (logits.grad.abs().amax(dim=2)[counts[..., 0]] > 0).all()
    assert batch["input_ids"].shape[1] > 5, "prompts are longer than answers"


def test_every_item_counts_alike_whatever_its_length(tmp_path):
    run = engine(tmp_path)
    outputs = Answers(torch.tensor([-1.0, -3.0]), torch.zeros(2))
    assert run.evaluator.task_loss(outputs, None, None).item() == 2.0
    one, two = batch_of(run, [0]), batch_of(run, [1, 2, 3])
    loss = [
        run.evaluator.task_loss(forward(run, batch), batch, None).item()
        for batch in (one, two, join(one, two))
    ]
    assert loss[2] == pytest.approx((loss[0] + 3 * loss[1]) / 4, rel=1e-5)


def test_perplexity_is_over_all_tokens_together(tmp_path):
    log_p, tokens = numpy.array([-1.0, -2.0]), numpy.array([1, 3])
    assert perplexity(log_p, tokens) == pytest.approx(math.exp((1 + 6) / 4))
    run = engine(tmp_path)
    values, scores = run.evaluate()
    data = run.stream[0].test
    assert values[0] == pytest.approx(perplexity(scores[0], data.answer_tokens().numpy()))
    assert values[0] == pytest.approx(tiny.VOCAB, rel=0.15), "untrained: all words are alike"


def test_metrics_say_which_way_is_better(tmp_path):
    run = engine(tmp_path, metric="exact_match")
    assert (run.evaluator.metric, run.evaluator.higher_is_better) == ("exact_match", True)
    assert run.evaluator.measure(numpy.array([1.0, 0.0, 1.0, 1.0]), None) == 75.0
    outputs = Answers(torch.tensor([-2.0]), torch.tensor([1.0]))
    assert run.evaluator.score(outputs, None).tolist() == [1.0]
    run = engine(tmp_path)
    assert run.evaluator.score(outputs, None).tolist() == [-2.0]
    assert (run.evaluator.metric, run.evaluator.higher_is_better) == ("perplexity", False)
    with pytest.raises(ValueError, match="metric is 'bleu': use perplexity or exact_match"):
        engine(tmp_path, metric="bleu")


def test_logits_are_the_log_probabilities_of_right_and_wrong(tmp_path):
    brain = engine(tmp_path).evaluator
    log_p = torch.tensor([-0.5, -3.0, 0.0, -200.0], requires_grad=True)
    logits = brain.logits(Answers(log_p, torch.zeros(4)))
    p = log_p.exp()
    torch.testing.assert_close(logits[:2].exp(), torch.stack([p, 1 - p], dim=1)[:2])
    torch.testing.assert_close(logits[:2].log_softmax(dim=1), logits[:2])
    assert logits.isfinite().all(), "also of an answer that is certain"
    logits.sum().backward()
    assert log_p.grad.isfinite().all()


def test_the_fisher_information_is_that_of_right_and_wrong(tmp_path):
    run = engine(tmp_path)
    run.modules.eval()
    batch = batch_of(run, [0, 1, 2])
    parameters = dict(run.modules.named_parameters())
    sums = {name: torch.zeros_like(one) for name, one in parameters.items()}
    assert add_fisher(run.evaluator, batch, sums) == 3
    expected = {name: torch.zeros_like(one) for name, one in parameters.items()}
    for place in range(3):
        item = {name: value[place : place + 1] for name, value in batch.items()}
        log_p = forward(run, item).log_p[0]
        odds = log_p.exp() / (1 - log_p.exp())
        grads = torch.autograd.grad(log_p, list(parameters.values()), retain_graph=True)
        for name, grad in zip(expected, grads, strict=True):
            expected[name] += (odds * grad.square()).detach()
    for name, value in expected.items():
        torch.testing.assert_close(sums[name], value, rtol=1e-3, atol=1e-9)


METHODS = {
    "ER": lambda: ER(capacity=20, replay=8),
    "EWC": lambda: EWC(strength=100.0, clips=10),
    "SI": SI,
    "DERpp": lambda: DERpp(capacity=20, replay=8),
    "Joint": Joint,
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [*((name, "causal_lm") for name in METHODS), ("ER", "seq2seq"), ("EWC", "seq2seq")],
)
def test_methods_learn_answers(name, kind, tmp_path):
    results = engine(tmp_path, kind, METHODS[name](), count=32, epochs=2).run()
    untrained, last = results["zero_shot"], results["matrix"][-1]
    assert last[1] < 0.8 * untrained[1]
    assert all(math.isfinite(value) for row in results["matrix"] for value in row)


def test_replay_forgets_less_than_fine_tuning(tmp_path):
    found = {}
    for name, method in (("ER", ER(capacity=60, replay=16)), ("fine-tuning", FineTune())):
        (tmp_path / name).mkdir()
        found[name] = engine(tmp_path / name, method=method, epochs=5).run()["matrix"]
    assert found["ER"][0] == found["fine-tuning"][0]
    assert found["ER"][1][0] < 0.8 * found["fine-tuning"][1][0]


def test_a_set_knows_how_many_tokens_are_predicted():
    labels = torch.tensor([[IGNORED, 4, 5], [IGNORED, IGNORED, 0]])
    assert AnswerSet({"labels": labels}, [{}, {}]).answer_tokens().tolist() == [2, 1]
