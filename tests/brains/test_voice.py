"""The voice model against its judges: who learns when, and that a kill changes nothing."""

import dataclasses
import functools

import numpy
import pytest
import torch

from speechcl.backbones.usat import USAT
from speechcl.brains import voice
from speechcl.brains.voice import VoiceBrain, voice_modules
from speechcl.data.audio import read_audio
from speechcl.engine import Engine, Training
from speechcl.methods import FineTune
from speechcl.task import make_stream
from tests.toy import same, weights
from tests.voices_toy import SYMBOLS, Tones


def tones(items):
    """Speakers are pitches."""
    return Tones({"low": 100.0, "high": 200.0}, items // 2, seconds=1.8)


def engine(folder, method=None, epochs=1, brain=VoiceBrain, **run_opts):
    torch.manual_seed(0)
    return Engine(
        brain=functools.partial(brain, slice_frames=8),
        modules=voice_modules(USAT("usat_tiny")),
        method=method or FineTune(),
        stream=make_stream([("base", tones(4), tones(2))]),
        training=Training(
            functools.partial(torch.optim.AdamW, lr=1e-3), epochs=epochs, batch_size=2
        ),
        folder=folder,
        run_opts={"noprogressbar": True, "device": "cpu", **run_opts},
    )


class Watched(VoiceBrain):
    """Writes down what happens to whose weights."""

    def snapshot(self):
        return {name: value.clone() for name, value in self.raw.state_dict().items()}

    def moved(self, before):
        now = self.raw.state_dict()
        return {name.split(".")[0] for name in now if not torch.equal(before[name], now[name])}

    def _train_judges(self, out, batch):
        before = self.snapshot()
        super()._train_judges(out, batch)
        after = self.snapshot()
        moved = {
            name.split(".")[0] for name in before if not torch.equal(before[name], after[name])
        }
        assert moved == {"judges"}, "judges learn from this step, nobody else"
        assert all(p.grad is None for p in self.judges.parameters())
        assert all(p.grad is None for p in self.voice.parameters()), "what they judge is detached"
        self.method.calls.append("judges")

    def optimizers_step(self):
        assert all(p.grad is None for p in self.judges.parameters())
        before = self.snapshot()
        super().optimizers_step()
        after = self.snapshot()
        moved = {
            name.split(".")[0] for name in before if not torch.equal(before[name], after[name])
        }
        assert moved == {"model", "timbre"}


class Hooks(FineTune):
    def __init__(self):
        super().__init__()
        self.calls = []

    def param_groups(self, modules):
        self.calls.append(sorted(modules))
        return super().param_groups(modules)

    def before_batch(self, step):
        self.calls.append("before_batch")
        return super().before_batch(step)

    def loss(self, step):
        self.calls.append("loss")
        return super().loss(step)

    def after_backward(self, step):
        self.calls.append("after_backward")

    def after_step(self, step):
        self.calls.append("after_step")


def test_hooks_come_in_order_and_each_side_trains_its_own_weights(tmp_path):
    method = Hooks()
    engine(tmp_path, method, brain=Watched).run()
    step = ["before_batch", "judges", "loss", "after_backward", "after_step"]
    assert method.calls == [["model", "timbre"], *step, *step]


@pytest.mark.slow
def test_a_kill_inside_an_epoch_changes_nothing(tmp_path, monkeypatch):
    whole = engine(tmp_path / "whole", epochs=2, ckpt_interval_steps=1)
    expected = whole.run()
    inner, steps = VoiceBrain.optimizers_step, []

    def interrupted(self):
        steps.append(None)
        if len(steps) == 2:
            raise KeyboardInterrupt
        inner(self)

    monkeypatch.setattr(VoiceBrain, "optimizers_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine(tmp_path / "killed", epochs=2, ckpt_interval_steps=1).run()
    torch.manual_seed(99)
    resumed = engine(tmp_path / "killed", epochs=2, ckpt_interval_steps=1)
    assert resumed.run()["matrix"] == expected["matrix"]
    assert same(weights(resumed), weights(whole)), "judges too"
    assert len(steps) == 5


def test_bfloat16_stays_finite(tmp_path):
    results = engine(tmp_path, precision="bf16").run()
    assert numpy.isfinite(results["matrix"]).all()


@pytest.mark.slow
def test_the_sound_gets_closer(tmp_path):
    results = engine(tmp_path, epochs=12).run()
    assert results["metric"] == "mel_db"
    assert not results["higher_is_better"]
    assert results["matrix"][0][0] < 0.8 * results["zero_shot"][0]


@pytest.fixture(scope="module")
def brain(tmp_path_factory):
    return engine(tmp_path_factory.mktemp("brain")).evaluator


def test_ten_times_as_loud_is_twenty_decibels_away(brain):
    batch = tones(2).__getitems__([0, 1])
    same_sound = brain.score(batch["waveform"], batch)
    louder = brain.score(10 * batch["waveform"], batch)
    assert not same_sound.any()
    torch.testing.assert_close(louder, torch.full((2,), 20.0), rtol=0.01, atol=0)


def test_what_is_behind_the_end_does_not_count(brain):
    batch = tones(2).__getitems__([0, 1])
    batch["samples"] = torch.tensor([16000, 28800])
    spoken = batch["waveform"].clone()
    spoken[0, 16000:] = 0.9
    assert brain.score(spoken, batch)[0] < 0.5


def test_the_judge_of_timbre_is_heard_little_by_little(tmp_path, monkeypatch):
    heard, inner = [], voice.timbre_loss

    def listening(judge, text, speech, mask, strength, normalise):
        heard.append(strength)
        return inner(judge, text, speech, mask, strength, normalise)

    monkeypatch.setattr(voice, "timbre_loss", listening)
    slowly = functools.partial(VoiceBrain, timbre_ramp=4)
    engine(tmp_path, epochs=3, brain=slowly).run()
    assert heard == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_losses_are_given_what_they_compare(tmp_path, monkeypatch):
    seen = {"kl": [], "timbre": [], "outputs": []}
    kl_loss, timbre_loss = voice.kl_loss, voice.timbre_loss

    def kl(*given):
        seen["kl"].append(given)
        return kl_loss(*given)

    def timbre(judge, text, speech, mask, strength, normalise):
        seen["timbre"].append((text, speech, mask, normalise))
        return timbre_loss(judge, text, speech, mask, strength, normalise)

    class Showing(VoiceBrain):
        def task_loss(self, outputs, batch, stage):
            seen["outputs"].append(outputs)
            return super().task_loss(outputs, batch, stage)

    monkeypatch.setattr(voice, "kl_loss", kl)
    monkeypatch.setattr(voice, "timbre_loss", timbre)
    engine(tmp_path, brain=Showing).run()
    for out, of_kl, (text, speech, mask, normalise) in zip(
        seen["outputs"], seen["kl"], seen["timbre"], strict=True
    ):
        a = out.aligned
        expected = (a.timbre_free, out.latents.log_scale, a.mean, a.log_scale, out.latents.mask)
        assert all(one is other for one, other in zip(of_kl, expected, strict=True))
        assert normalise
        assert (speech is a.timbre_free, mask is out.latents.mask) == (True, True)
        drawn = (text - a.mean) / a.log_scale.exp()
        assert 0.9 < drawn.std() < 1.1, "text is as noisy as it says it is"


def test_the_judges_slow_down_as_the_model_does(tmp_path):
    rates = []

    class Slowing(VoiceBrain):
        def optimizers_step(self):
            super().optimizers_step()
            of_judges, own = (o.param_groups[0] for o in (self.judge_optimizer, self.optimizer))
            rates.append((of_judges["lr"], own["lr"]))

    slow = engine(tmp_path, brain=Slowing)
    slow.training = dataclasses.replace(slow.training, schedule="cosine")
    slow.run()
    assert rates == [(1e-3, 1e-3), (pytest.approx(5e-4), pytest.approx(5e-4))]


def test_the_loss_is_the_sum_of_its_parts(tmp_path, caplog):
    seen = []
    caplog.set_level("INFO", "speechcl.brains.voice")

    class Adding(VoiceBrain):
        def task_loss(self, outputs, batch, stage):
            loss = super().task_loss(outputs, batch, stage)
            names = ("mel", "adversarial", "features", "kl", "durations", "speaker", "timbre")
            seen.append((loss.item(), sum(self.parts[name].item() for name in names)))
            mels.append(self.parts["mel"].item())
            return loss

    mels = []
    engine(tmp_path, brain=Adding).run()
    (logged,) = [one.message for one in caplog.records if one.message.startswith("epoch 1: ")]
    assert f", mel {sum(mels) / 2:.3g}, " in logged
    assert "pairs_right" in logged
    assert all(whole == pytest.approx(parts, rel=1e-5) for whole, parts in seen)
    assert len(seen) == 2


def test_to_begin_with_the_model_is_left_alone(tmp_path):
    seen = []

    class Warming(VoiceBrain):
        def task_loss(self, outputs, batch, stage):
            loss = super().task_loss(outputs, batch, stage)
            a, latents = outputs.aligned, outputs.latents
            divergence = voice.kl_loss(
                a.timbre_free, latents.log_scale, a.mean, a.log_scale, latents.mask
            )
            seen.append((set(self.parts), (self.parts["kl"] / divergence).item()))
            return loss

        def optimizers_step(self):
            before = {name: value.clone() for name, value in self.judges.state_dict().items()}
            super().optimizers_step()
            judges = self.judges.state_dict()
            still.append(all(torch.equal(before[name], judges[name]) for name in judges))

    still = []
    engine(tmp_path, epochs=3, brain=functools.partial(Warming, warm_up=4)).run()
    alone = {"mel", "kl", "durations"}
    judged = {"judges", "pairs", "pairs_right", "adversarial", "features", "speaker", "timbre"}
    assert [names for names, _ in seen] == [alone] * 4 + [alone | judged] * 2
    weights_of_kl = [0.02, 0.265, 0.51, 0.755, 1.0, 1.0]
    assert [weight for _, weight in seen] == pytest.approx(weights_of_kl, rel=1e-4)
    assert still == [True] * 6, "they learn before the model's step"


def test_alignments_are_drawn_to_the_diagonal_less_and_less(tmp_path, monkeypatch):
    from speechcl.backbones.usat import model

    drawn = []

    def listening(likelihood, x_lengths, y_lengths):
        drawn.append(likelihood)
        return inner(likelihood, x_lengths, y_lengths)

    def plain(*given):
        return 0 * likely(*given)

    inner, likely = model.alignment_durations, model.gaussian_log_likelihood
    monkeypatch.setattr(model, "alignment_durations", listening)
    monkeypatch.setattr(model, "gaussian_log_likelihood", plain)
    brain = functools.partial(VoiceBrain, warm_up=4)
    engine(tmp_path, epochs=3, brain=brain).run()
    training = drawn[1:-1]  # before and after, the test set
    guide = model.diagonal_guide(
        torch.tensor([SYMBOLS] * 2), torch.tensor([112, 112]), SYMBOLS, 112
    )
    expected = [guide, 0.75 * guide, 0.5 * guide, 0.25 * guide, 0 * guide, 0 * guide]
    assert len(training) == 6
    assert all(map(torch.allclose, training, expected))


def test_the_ramp_of_timbre_begins_where_the_warm_up_ends(tmp_path, monkeypatch):
    heard, inner = [], voice.timbre_loss

    def listening(judge, text, speech, mask, strength, normalise):
        heard.append(strength)
        return inner(judge, text, speech, mask, strength, normalise)

    monkeypatch.setattr(voice, "timbre_loss", listening)
    engine(tmp_path, epochs=3, brain=functools.partial(VoiceBrain, warm_up=3, timbre_ramp=2)).run()
    assert heard == [0.5, 1.0, 1.0]


@pytest.mark.slow
def test_examples_are_left_and_change_nothing(tmp_path):
    plain = engine(tmp_path / "plain", epochs=3)
    expected = plain.run()
    spoken = engine(
        tmp_path / "spoken", epochs=3, brain=functools.partial(VoiceBrain, examples_every=2)
    )
    assert spoken.run()["matrix"] == expected["matrix"]
    assert same(weights(spoken), weights(plain))
    left = sorted(file.name for file in (tmp_path / "spoken" / "examples").iterdir())
    assert left == [f"epoch_000{k}.{kind}" for k in (1, 2, 3) for kind in ("png", "wav")]
    assert not (tmp_path / "plain" / "examples").exists()
    sounds = [read_audio(tmp_path / "spoken" / "examples" / f"epoch_000{k}.wav") for k in (1, 3)]
    assert len(sounds[0]) == 28800 // 256 * 256, "with the timing of the recording"
    assert not torch.equal(*sounds)


def test_parts_that_are_replayed_are_the_parts_and_only_while_training(tmp_path, monkeypatch):
    plain = engine(tmp_path / "plain")
    expected = plain.run()
    calls = []

    class Called(voice.Replayed):
        """Stands for a CUDA graph: it is told what was called, once a step."""

        def __call__(self, *args):
            if torch.is_grad_enabled() and self.module.training:
                calls.append((self.module, self.function.__name__))
            return self.function(*args)

    class OnGpu(VoiceBrain):
        def on_fit_start(self):
            self.device_type, self.train_set.resident = "cuda", True
            super().on_fit_start()
            self.device_type = "cpu"

        def optimizers_step(self):
            super().optimizers_step()
            assert len(calls) == len(set(calls)) == 10, "each part once a step"
            calls.clear()

    monkeypatch.setattr(voice, "Replayed", Called)
    replayed = engine(tmp_path / "replayed", brain=OnGpu)
    assert replayed.run()["matrix"] == expected["matrix"]
    assert same(weights(replayed), weights(plain))
    own = [vars(part) for part in replayed.modules.modules()]
    assert not any({"forward", "opinion", "remove_timbre", "loss"} & {*one} for one in own)


@pytest.mark.parametrize(
    "wrong",
    [{"slice_frames": 0}, {"slice_frames": 100_000}, {"warm_up": -1}, {"timbre_ramp": -4}]
    + [{"examples_every": -3}],
)
def test_settings_out_of_range_are_refused(wrong, tmp_path):
    run = engine(tmp_path)
    run.make_brain = functools.partial(VoiceBrain, **wrong)
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name} is {value}: set it from"):
        run.run()


def test_a_warm_up_that_never_ends_is_said(tmp_path, caplog):
    run = engine(tmp_path)
    run.make_brain = functools.partial(VoiceBrain, slice_frames=8, warm_up=2)
    run.run()
    assert "warm_up is 2 of 2 steps: no judge will come" in caplog.text
