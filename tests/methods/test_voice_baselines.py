"""EWC and ER on voices: no classes, and clips of unequal lengths."""

import copy
import dataclasses

import pytest
import speechbrain as sb
import torch

from speechcl.batches import join, rows, size
from speechcl.brain import same_draws
from speechcl.methods import ER, EWC
from speechcl.methods.ewc import add_fisher
from speechcl.methods.quadratic_penalty import trained
from tests.voices_toy import Speaker, base, engine, one_by_one


def learner(folder, method, **options):
    stream = one_by_one(uneven=True)
    return engine(folder, method, stream=stream, lr=2e-4, epochs=1, **options)


# ---- EWC
def test_without_classes_it_is_the_square_of_each_clips_own_gradient(tmp_path):
    run = learner(tmp_path, EWC())
    run.modules.eval()
    brain, batch = run.evaluator, run.stream[0].train.__getitems__([0, 1, 2, 3])
    parameters = trained(run.modules)
    sums = {name: torch.zeros_like(p) for name, p in parameters.items()}
    with torch.no_grad():
        assert add_fisher(brain, batch, sums) == 4
    expected = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for place in range(4):
        item = rows(batch, slice(place, place + 1))
        run.modules.zero_grad()
        with same_draws(0):
            outputs = brain.compute_forward(item, sb.Stage.VALID)
            brain.task_loss(outputs, item, sb.Stage.VALID).backward()
        for name, p in parameters.items():
            expected[name] += 0.0 if p.grad is None else p.grad.square()
    torch.testing.assert_close(sums, expected, rtol=1e-3, atol=1e-6)
    told = {name.split(".")[2] for name, one in sums.items() if one.any()}
    assert told == {"phonemes", "flow", "speaker_encoder", "durations"}


def test_importance_is_the_mean_over_clips_and_the_same_each_time(tmp_path):
    run = learner(tmp_path, EWC())
    task = run.stream[0]
    first = run.method.measure(task, run)
    again = run.method.measure(task, run)
    assert all(torch.equal(first[name], again[name]) for name in first)
    sums = {name: torch.zeros_like(one) for name, one in first.items()}
    with torch.no_grad():
        add_fisher(run.evaluator, task.train.__getitems__([0, 1, 2, 3]), sums)
    torch.testing.assert_close(first, {name: one / 4 for name, one in sums.items()})


@pytest.mark.slow
def test_it_holds_a_voice_model_where_it_was(tmp_path):
    moved = {}
    for strength in (0.0, 1e5):
        run = learner(tmp_path / str(strength), EWC(strength, clips=2))
        run.learn(run.stream[0])
        anchor = copy.deepcopy(run.method.anchor.tensors())
        importance = run.method.importance.tensors()
        run.learn(run.stream[1])
        now = trained(run.modules)
        moved[strength] = sum(
            (importance_ * (now[name] - anchor[name]).square()).sum().item()
            for name, importance_ in importance.items()
        )
    assert 0 < moved[1e5] < 0.9 * moved[0.0]


# ---- ER
def test_remembered_clips_of_other_lengths_are_joined_to_a_batch(tmp_path):
    seen = []

    class Watched(ER):
        def before_batch(self, step):
            batch = super().before_batch(step)
            seen.append((step.task.index, step.batch, batch))
            return batch

    run = learner(tmp_path, Watched(capacity=3, replay=2, padded=True))
    results = run.run()
    assert results["memory_bytes"] == run.method.memory_bytes(run.stream) > 0
    assert [size(batch) for index, _, batch in seen] == [2, 2, 4, 4]
    for index, fresh, batch in seen:
        fresh_part, old = rows(batch, slice(0, 2)), rows(batch, slice(2, 4))
        for name, tensor in fresh.items():
            part = fresh_part[name]
            assert torch.equal(part[tuple(slice(0, n) for n in tensor.shape)], tensor)
        if index:
            data = run.stream[0].train
            for clip, samples, waveform in zip(
                old["clip"], old["samples"], old["waveform"], strict=True
            ):
                place = data.clips.tolist().index(int(clip))
                assert int(samples) == int(data.samples[place])
                assert torch.equal(waveform[:samples], data.sound[place, 0, :samples])
                assert not waveform[samples:].any()


def test_padding_says_nothing(tmp_path):
    """The loss of a batch that is padded for no reason is that of the batch."""
    run = learner(tmp_path, ER(padded=True), model=base(durations="deterministic"))
    run.modules.eval()
    brain, batch = run.evaluator, run.stream[0].train.__getitems__([1, 2])
    longer = run.stream[0].train.__getitems__([0])
    padded = rows(join(batch, longer, padded=True), slice(0, 2))
    assert padded["waveform"].shape[1] > batch["waveform"].shape[1]
    run.method.before_eval(None)
    brain.voice.requires_grad_(False)  # so that a clip's noise hangs on the clip alone
    with torch.no_grad():
        found = [
            brain.task_loss(brain.compute_forward(one, sb.Stage.VALID), one, sb.Stage.VALID)
            for one in (batch, padded)
        ]
    torch.testing.assert_close(*found)


def test_unequal_lengths_are_an_error_unless_they_are_meant(tmp_path):
    run = learner(tmp_path, ER(capacity=3, replay=2))
    run.stream[1] = dataclasses.replace(run.stream[1], train=Speaker(110.0, seconds=0.4))
    with pytest.raises(RuntimeError, match="must match"):
        run.run()
