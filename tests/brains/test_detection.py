"""The detection brain: orientation of scores, the loss of one logit, the metric."""

import logging

import numpy
import pytest
import torch
from torch import nn

from speechcl.brains.detection import Detection, DetectionBrain, two_logits
from speechcl.data.clips import BONAFIDE, SPOOF
from speechcl.methods import FineTune
from speechcl.metrics import eer
from tests.toy import toy_engine


@pytest.fixture
def brain(tmp_path):
    return toy_engine(tmp_path, FineTune()).evaluator


@pytest.fixture
def test_set(tmp_path):
    return toy_engine(tmp_path, FineTune()).stream[0].test


def test_one_logit_is_trained_by_binary_cross_entropy(brain):
    logit = torch.randn(20, 1, generator=torch.Generator().manual_seed(0)).mul(3).requires_grad_()
    label = torch.arange(20) % 2
    loss = brain.task_loss(Detection(logit, None), {"label": label}, None)
    (grad,) = torch.autograd.grad(loss, logit)
    expected = nn.functional.binary_cross_entropy_with_logits(logit[:, 0], label.float())
    (expected_grad,) = torch.autograd.grad(expected, logit)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(grad, expected_grad)


def test_the_score_of_one_logit_is_that_logit(brain):
    logit = torch.tensor([[2.5], [-1.0]])
    scores = brain.score(Detection(logit, None), {})
    torch.testing.assert_close(scores, logit[:, 0])


def test_two_logits_are_left_alone():
    logits = torch.randn(4, 2)
    assert two_logits(logits) is logits


def test_the_score_is_higher_for_genuine_speech(brain):
    logits = torch.zeros(2, 2)
    logits[0, BONAFIDE], logits[1, SPOOF] = 3.0, 3.0
    assert brain.score(Detection(logits, None), {}).tolist() == [3.0, -3.0]
    assert (BONAFIDE, SPOOF) == (1, 0)


def test_learning_raises_genuine_above_spoofed(tmp_path):
    engine = toy_engine(tmp_path, FineTune(), tasks=1, epochs=6)
    engine.run()
    _, (scores,) = engine.evaluate()
    data = engine.stream[0].test
    assert scores[data.is_bonafide].mean() > scores[~data.is_bonafide].mean() + 1


def test_the_measure_is_the_equal_error_rate_in_percent(brain, test_set):
    scores = numpy.random.default_rng(0).normal(size=len(test_set)) + test_set.is_bonafide
    genuine, spoofed = scores[test_set.is_bonafide], scores[~test_set.is_bonafide]
    assert brain.measure(scores, test_set) == eer(genuine, spoofed)[0]
    assert 15 < brain.measure(scores, test_set) < 45
    perfect = test_set.is_bonafide.astype(float)
    assert brain.measure(perfect, test_set) == 0
    assert brain.measure(-perfect, test_set) == 100
    assert (brain.metric, brain.higher_is_better) == ("eer", False)


def test_a_collapsed_model_gets_50_and_a_warning(brain, test_set, caplog):
    with caplog.at_level(logging.WARNING, logger="speechcl.brains.detection"):
        assert brain.measure(numpy.full(len(test_set), 0.25), test_set) == 50.0
    assert "0.25" in caplog.text


def test_rows_carry_every_clips_score(brain, test_set):
    scores = numpy.arange(len(test_set)) / 8
    rows = brain.score_rows(scores, brain.task)
    assert [row["score"] for row in rows] == scores.tolist()
    assert [row["ID"] for row in rows] == [row["ID"] for row in test_set.rows]
    assert {row["test_task"] for row in rows} == {"attack_0"}
    with pytest.raises(ValueError):
        brain.score_rows(scores[1:], brain.task)


def test_the_interval_holds_the_average(brain, test_set):
    rng = numpy.random.default_rng(0)
    scores = [rng.normal(size=len(test_set)) + k * test_set.is_bonafide for k in (1, 2)]
    low, high = brain.average_interval([(brain.task, one) for one in scores])
    average = sum(brain.measure(one, test_set) for one in scores) / 2
    assert low < average < high
    assert high - low < 40


def test_a_criterion_replaces_the_cross_entropy(tmp_path):
    engine = toy_engine(tmp_path, FineTune())
    seen = []

    def criterion(logits, labels):
        seen.append((logits, labels))
        return logits.sum()

    brain = DetectionBrain(
        criterion=criterion, task=engine.stream[0], method=engine.method, raw=engine.modules
    )
    logit, label = torch.tensor([[2.0], [3.0]]), torch.tensor([1, 0])
    assert brain.task_loss(Detection(logit, None), {"label": label}, None) == 5.0
    assert seen == [(logit, label)]
    assert brain.logits(Detection(logit, None)).shape == (2, 2), "methods still see two classes"
