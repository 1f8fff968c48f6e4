"""Language models: answers are learnt token by token; perplexity or exact matches."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy
import speechbrain as sb
import torch
from torch import Tensor
from torch.nn import functional

from speechcl.backbones.huggingface import IGNORED
from speechcl.brain import ContinualBrain
from speechcl.data.token_sets import AnswerSet

HIGHER_IS_BETTER = {"perplexity": False, "exact_match": True}


class Answers(NamedTuple):
    """What a forward pass says of each item's answer.

    ``log_p`` (batch,) is the mean log-probability of its tokens, each given those before it, and
    ``found`` (batch,) is 1 where greedy decoding gives exactly this answer, end included.
    """

    log_p: Tensor
    found: Tensor


class LanguageModelBrain(ContinualBrain):
    """Train ``modules["model"]``, a ``LanguageModel``, to answer prompts or to continue texts.

    The loss is the negative mean log-probability of an answer's tokens, averaged over the items,
    each of which counts alike: so a batch shared among processes, or joined with replayed items,
    has one meaning. Tokens of prompts are read but not learnt.

    Arguments
    ---------
    metric : str
        "perplexity": of all answer tokens of a test set together. "exact_match": the answers that
        greedy decoding finds to the last token, in percent.

    Example
    -------
    >>> logits = torch.zeros(1, 3, 4)  # four tokens, equally likely
    >>> answers = rate_answers(logits, torch.tensor([[-100, 2, -100]]))
    >>> answers.log_p.exp(), answers.found
    (tensor([0.2500]), tensor([0.]))
    """

    def __init__(self, *, metric: str = "perplexity", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.metric, self.higher_is_better = metric, is_higher_better(metric)

    def compute_forward(self, batch: Any, stage: sb.Stage) -> Answers:
        """Run the model on the tokens and rate the answers."""
        names = ("input_ids", "attention_mask", "labels")
        return rate_answers(*self.modules["model"](*(batch[name] for name in names)))

    def task_loss(self, outputs: Answers, batch: Any, stage: sb.Stage) -> Tensor:
        """Return the mean over items of the cross-entropy per token."""
        return -outputs.log_p.mean()

    def logits(self, outputs: Answers) -> Tensor:
        """Return two logits an item: a token of its answer is right, or another one is.

        These are the logarithms of the answer's mean probability, a geometric mean over its tokens,
        and of the rest. A method that asks how much the answers hang on each weight, as EWC does,
        then needs two gradients an item, not one for every word of the vocabulary.

        Returns
        -------
        Tensor
            Shape (batch, 2).
        """
        right = outputs.log_p.clamp_max(-1e-6)  # the other logarithm stays finite
        return torch.stack([right, torch.log(-torch.expm1(right))], dim=1)

    def targets(self, batch: Any) -> Tensor:
        """Return the tokens to predict, shape (batch, tokens)."""
        return batch["labels"]

    def score(self, outputs: Answers, batch: Any) -> Tensor:
        """Return what the metric is made of, shape (batch,)."""
        return outputs.log_p if self.metric == "perplexity" else outputs.found

    def measure(self, scores: numpy.ndarray, dataset: AnswerSet) -> float:
        """Return the perplexity, or the percentage of exact matches."""
        if self.metric == "exact_match":
            return 100.0 * float(scores.mean())
        return perplexity(scores, dataset.answer_tokens().numpy())


def is_higher_better(metric: str) -> bool:
    """Tell whether a higher value of a language model's metric is better.

    Raises
    ------
    ValueError
        If there is no such metric.

    Example
    -------
    >>> is_higher_better("exact_match")
    True
    """
    if metric not in HIGHER_IS_BETTER:
        raise ValueError(f"metric is {metric!r}: use {' or '.join(HIGHER_IS_BETTER)}")
    return HIGHER_IS_BETTER[metric]


def rate_answers(logits: Tensor, labels: Tensor) -> Answers:
    """Rate predictions against what is right.

    Greedy decoding finds an answer exactly if each of its tokens is the likeliest given those
    before it, so that no text needs to be generated.

    Arguments
    ---------
    logits : Tensor
        Shape (batch, places, vocab).
    labels : Tensor
        The right token of each place, or ``IGNORED``; shape (batch, places).

    Returns
    -------
    Answers
    """
    counts = labels != IGNORED
    losses = functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), reduction="none", ignore_index=IGNORED
    ).view(labels.shape)
    wrong = (logits.argmax(dim=2) != labels) & counts
    return Answers(-losses.sum(dim=1) / counts.sum(dim=1), (~wrong.any(dim=1)).float())


def perplexity(log_p: numpy.ndarray, tokens: numpy.ndarray) -> float:
    """Compute the perplexity of a set from its items' mean log-probabilities.

    Arguments
    ---------
    log_p : ndarray
        Mean log-probability per token of each item.
    tokens : ndarray
        How many tokens that is the mean of.

    Returns
    -------
    float
        ``exp`` of the mean negative log-probability over all tokens together.

    Example
    -------
    >>> round(perplexity(numpy.log([0.5, 0.125]), numpy.array([3, 1])), 3)  # 2^1.5
    2.828
    """
    return float(numpy.exp(-(log_p * tokens).sum() / tokens.sum()))
