"""The audio-text brain: the loss against a slow loop, which names learn, what is measured."""

import math

import pytest
import speechbrain as sb
import torch

from speechcl.brains.audio_text import AudioTextBrain, zero_shot_accuracy
from speechcl.brains.classification import Classification
from speechcl.data.class_streams import class_stream
from speechcl.methods import ER, EWC, OWM, RWM, SI, DERpp, FineTune, Joint, LwF
from tests.audio_text_toy import GROUPS, WORDS, audio_text_engine, small_model, word_clips
from tests.toy import same, weights

TRAIN = sb.Stage.TRAIN


def brain_of(task_index: int, **options) -> AudioTextBrain:
    """A brain that is ready to train on a task."""
    stream = class_stream(word_clips(), GROUPS)
    brain = AudioTextBrain(
        task=stream[task_index],
        method=FineTune(),
        raw=torch.nn.ModuleDict({"model": small_model()}),
        opt_class=lambda groups: torch.optim.SGD(groups, lr=0.1),
        run_opts={"device": "cpu", "noprogressbar": True},
        **options,
    )
    brain.init_optimizers()
    return brain


def batch_of(brain: AudioTextBrain, count: int = 6) -> dict:
    return brain.task.train.__getitems__(list(range(count)))


def slow_loss(audio, text, scale, labels, own, seen) -> float:
    """Both terms of the paper's loss, clip by clip and name by name, in plain numbers."""
    logit = (scale * audio @ text.T).tolist()
    of_clips = 0.0
    for clip, label in enumerate(labels):
        total = sum(math.exp(logit[clip][name]) for name in own)
        of_clips += math.log(total) - logit[clip][label]
    of_names = 0.0
    for name in seen:
        total = sum(math.exp(row[name]) for row in logit)
        for clip, label in enumerate(labels):
            if label == name:  # once for each of its clips: the target is not normalised
                of_names += math.log(total) - logit[clip][name]
    return of_clips / len(labels) + of_names / len(seen)  # names without clips count, too


@pytest.mark.parametrize("task_index", [0, 1])
def test_the_loss_is_the_papers(task_index):
    brain = brain_of(task_index)
    batch = batch_of(brain)
    outputs = brain.compute_forward(batch, TRAIN)
    audio, text, scale = brain.raw["model"](batch["features"], brain.names)
    own = [WORDS.index(name) for name in GROUPS[task_index]]
    seen = [WORDS.index(name) for group in GROUPS[: task_index + 1] for name in group]
    expected = slow_loss(audio, text, scale, batch["label"].tolist(), own, seen)
    assert brain.task_loss(outputs, batch, TRAIN).item() == pytest.approx(expected, rel=1e-5)


def test_names_of_earlier_classes_take_no_part_for_clips_but_do_for_names():
    brain = brain_of(1)
    batch = batch_of(brain)
    logits = brain.compute_forward(batch, TRAIN).logits.detach()
    earlier, raised = [WORDS.index(name) for name in GROUPS[0]], logits.clone()
    raised[:, earlier] += torch.arange(12.0).view(6, 2)
    losses = [
        brain.task_loss(Classification(one, one), batch, TRAIN).item() for one in (logits, raised)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)  # zero targets: a loss of 0 whatever
    with_old = {**batch, "label": batch["label"].clone()}
    with_old["label"][0] = earlier[0]
    old = [
        brain.task_loss(Classification(one, one), with_old, TRAIN).item()
        for one in (logits, raised)
    ]
    assert abs(old[0] - old[1]) > 0.1
    assert all(map(math.isfinite, old))


def test_names_of_tasks_to_come_do_not_matter():
    brain = brain_of(0)
    batch = batch_of(brain)
    logits = brain.compute_forward(batch, TRAIN).logits.detach()
    raised = logits.clone()
    raised[:, [WORDS.index(name) for name in GROUPS[1]]] += 9.0
    losses = [
        brain.task_loss(Classification(one, one), batch, TRAIN).item() for one in (logits, raised)
    ]
    assert losses[0] == losses[1]


def test_only_own_names_are_embedded_anew():
    brain = brain_of(1)
    model, batch = brain.raw["model"], batch_of(brain)
    with torch.no_grad():
        before = model.encode_text(brain.names)
        for parameter in model.text.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        after = model.encode_text(brain.names)
    audio, _, scale = model(batch["features"], brain.names)
    own = [WORDS.index(name) for name in GROUPS[1]]
    expected = before.clone()
    expected[own] = after[own]
    found = brain.compute_forward(batch, TRAIN).logits
    torch.testing.assert_close(found, scale * audio @ expected.T)
    tested = brain.compute_forward(batch, sb.Stage.TEST).logits
    torch.testing.assert_close(tested, scale * audio @ after.T)


def test_the_loss_trains_both_towers_and_the_scale():
    brain = brain_of(1)
    batch = batch_of(brain)
    brain.task_loss(brain.compute_forward(batch, TRAIN), batch, TRAIN).backward()
    model = brain.raw["model"]
    for part in (model.audio, model.text, model.sounds):
        assert any(p.grad.abs().max() > 0 for p in part.parameters())
    assert model.logit_scale.grad.abs() > 0
    earlier = {sound for name in GROUPS[0] for sound in brain.names[WORDS.index(name)].tolist()}
    own = {sound for name in GROUPS[1] for sound in brain.names[WORDS.index(name)].tolist()}
    assert earlier - own
    assert all(model.sounds.weight.grad[sound].abs().max() == 0 for sound in earlier - own)


def test_scores_are_the_nearest_names_and_the_measure_is_accuracy():
    brain = brain_of(0)
    data = brain.task.test
    outputs = brain.compute_forward(data.__getitems__(list(range(len(data)))), sb.Stage.TEST)
    scores = brain.score(outputs, {})
    assert scores.tolist() == outputs.logits.argmax(1).tolist()
    share = (scores == data.labels).float().mean().item()
    assert brain.measure(scores.numpy(), data) == pytest.approx(100 * share)
    assert brain.measure(data.labels.numpy(), data) == 100.0
    assert brain.higher_is_better


def test_two_tasks_are_learnt_and_the_words_of_both_compete(tmp_path):
    results = audio_text_engine(tmp_path, FineTune(), epochs=10).run()
    matrix = results["matrix"]
    assert matrix[0][0] > 75
    assert matrix[1][1] > 75
    assert matrix[1][0] < matrix[0][0]
    assert results["metric"] == "accuracy"
    assert len(results["zero_shot"]) == 2


@pytest.mark.parametrize(
    "method",
    [
        Joint,
        lambda: ER(capacity=9, replay=4),
        lambda: DERpp(capacity=9, replay=4),
        lambda: EWC(clips=6),
        SI,
        LwF,
        OWM,
        lambda: RWM(compact=[0]),
    ],
)
def test_methods_run_on_it(method, tmp_path):
    results = audio_text_engine(tmp_path, method(), epochs=1, batch_size=14).run()
    assert all(math.isfinite(value) for row in results["matrix"] for value in row)


def test_a_resumed_task_has_the_names_as_they_were(tmp_path, monkeypatch):
    # only clips of a memory look at the names of earlier classes
    whole = audio_text_engine(
        tmp_path / "whole", ER(capacity=9, replay=4), epochs=3, ckpt_interval_steps=2
    )
    expected = whole.run()
    count, step = 0, torch.optim.AdamW.step

    def dies(*args, **kwargs):
        nonlocal count
        count += 1
        if count == 16:  # in the second task, after a checkpoint inside it
            raise KeyboardInterrupt
        return step(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", dies)
        with pytest.raises(KeyboardInterrupt):
            audio_text_engine(
                tmp_path / "cut", ER(capacity=9, replay=4), epochs=3, ckpt_interval_steps=2
            ).run()
    resumed = audio_text_engine(
        tmp_path / "cut", ER(capacity=9, replay=4), epochs=3, ckpt_interval_steps=2
    )
    assert resumed.run()["matrix"] == expected["matrix"]
    assert same(weights(resumed), weights(whole))


def test_words_beyond_the_stream_can_be_measured():
    model = small_model().train()
    words = ("under", "over", "apple")
    data = word_clips(per_word=5, words=words)
    text = model.encode_text(words)
    nearest = (model.encode_audio(data.features) @ text.T).argmax(1)
    share = (nearest == data.labels).float().mean().item()
    assert zero_shot_accuracy(model, data, batch_size=4) == pytest.approx(100 * share)
    assert model.training
    assert not any(p.grad is not None for p in model.parameters())
