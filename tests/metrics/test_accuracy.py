"""Accuracy and its interval, against loops and a hand-made resample."""

import numpy as np
import pytest

from speechcl.metrics.accuracy import (
    accuracy,
    average_accuracy_interval,
    misclassification_ratios,
)


def test_accuracy_is_the_share_that_is_right_in_percent():
    rng = np.random.default_rng(0)
    predicted, labels = rng.integers(0, 4, 200), rng.integers(0, 4, 200)
    right = sum(one == other for one, other in zip(predicted, labels, strict=True))
    assert accuracy(predicted, labels) == pytest.approx(right / 2)
    assert accuracy(labels.astype(float), labels) == 100.0
    assert accuracy(labels + 1, labels) == 0.0


@pytest.mark.parametrize(("predicted", "labels"), [([], []), ([1], [1, 2])])
def test_accuracy_needs_a_prediction_a_clip(predicted, labels):
    with pytest.raises(ValueError, match="give one a clip"):
        accuracy(predicted, labels)


def test_wrong_answers_are_counted_by_where_they_go():
    rng = np.random.default_rng(0)
    predicted, labels = rng.integers(0, 6, 300), rng.integers(0, 6, 300)
    new, counts = {1, 4, 5}, {(old, as_new): 0 for old in (True, False) for as_new in (True, False)}
    for found, right in zip(predicted.tolist(), labels.tolist(), strict=True):
        if found != right:
            counts[right not in new, found in new] += 1
    old_as_new, new_as_old = misclassification_ratios(predicted, labels, sorted(new))
    assert old_as_new == counts[True, True] / (counts[True, True] + counts[True, False])
    assert new_as_old == counts[False, False] / (counts[False, True] + counts[False, False])


def test_no_wrong_answer_has_no_share():
    old_as_new, new_as_old = misclassification_ratios(["a", "b"], ["a", "a"], ["b"])
    assert old_as_new == 1.0
    assert np.isnan(new_as_old)
    with pytest.raises(ValueError, match="for labels of shape .* give one a clip"):
        misclassification_ratios([1], [1, 2], [1])


def by_loop(tables, draws, seed):
    """Draw speakers over all test sets together; unknown and lone ones are clips of their own."""
    named = []
    for place, (correct, speakers) in enumerate(tables):
        lone = len(set(speakers)) == 1
        named.append(
            [
                (f"{place}\n{k}" if lone or who in ("", "-") else who, float(right))
                for k, (right, who) in enumerate(zip(correct, speakers, strict=True))
            ]
        )
    pool = sorted({who for table in named for who, _ in table})
    rng = np.random.default_rng(seed)
    averages = []
    for times in rng.multinomial(len(pool), [1 / len(pool)] * len(pool), size=draws):
        count = dict(zip(pool, times, strict=True))
        accuracies = []
        for table in named:
            drawn = [right for who, right in table for _ in range(count[who])]
            if drawn:
                accuracies.append(100 * np.mean(drawn))
        averages.append(np.mean(accuracies))
    return tuple(np.percentile(averages, [2.5, 97.5]))


def test_the_interval_equals_a_loop_over_drawn_clips():
    rng = np.random.default_rng(1)
    tables = [
        (rng.random(12) < 0.7, rng.choice(["ann", "bob", "cleo"], 12)),
        (rng.random(9) < 0.4, rng.choice(["bob", "dan", "-"], 9)),
        (rng.random(5) < 0.5, np.array(["eve"] * 5)),
    ]
    found = average_accuracy_interval(tables, draws=150, seed=3)
    assert found == pytest.approx(by_loop(tables, 150, 3))
    assert found[0] < found[1]


def test_speakers_of_like_clips_widen_the_interval():
    correct = np.repeat([1, 0, 1, 0, 1, 1], 20)
    speakers = np.repeat(list("abcdef"), 20)
    clustered = average_accuracy_interval([(correct, speakers)])
    by_clip = average_accuracy_interval([(correct, ["-"] * 120)])
    assert clustered[1] - clustered[0] > 2 * (by_clip[1] - by_clip[0])
    # the standard error of 120 clips of which two thirds are right
    half = 1.96 * 100 * (2 / 9 / 120) ** 0.5
    assert by_clip == pytest.approx((100 * 2 / 3 - half, 100 * 2 / 3 + half), abs=1.5)


def test_a_lone_speaker_does_not_give_an_interval_of_no_width():
    low, high = average_accuracy_interval([([1, 0, 1, 1], ["ann"] * 4)])
    assert low < 75 < high


@pytest.mark.parametrize("options", [{"draws": 1}, {"confidence": 1.0}])
def test_senseless_settings_are_refused(options):
    with pytest.raises(ValueError, match="give at least one, draws >= 2"):
        average_accuracy_interval([([1, 0], ["a", "b"])], **options)
    with pytest.raises(ValueError, match="0 test sets"):
        average_accuracy_interval([])
