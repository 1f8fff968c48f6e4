"""The engine: what it refuses, measures, writes and leaves alone."""

import csv
import dataclasses
import functools
import json

import pytest
import torch
from torch import nn

from speechcl import brain
from speechcl.backbones import StatisticsNet
from speechcl.brains import DetectionBrain
from speechcl.data.features import FeatureSet
from speechcl.engine import Engine, Training
from speechcl.method import Method
from speechcl.methods import ER, OWM, FineTune, Joint
from speechcl.results import check_results, read_results
from speechcl.sampling import EpochBatches
from speechcl.task import Task, make_stream
from tests.toy import WIDTH, ToyNet, same, toy_clips, toy_engine, weights

STEPS = len(EpochBatches(120, 32, seed=0))


def engine_of(folder, stream, **options):
    torch.manual_seed(0)
    return Engine(
        brain=DetectionBrain,
        modules={"model": ToyNet()},
        method=FineTune(),
        stream=stream,
        training=Training(functools.partial(torch.optim.SGD, lr=0.05), epochs=1, **options),
        folder=folder,
        run_opts={"noprogressbar": True, "device": "cpu"},
    )


# ---- refused
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"precision": "fp16"}, "fp16 scales gradients"),
        ({"eval_precision": "fp16"}, "fp16 scales gradients"),
        ({"auto_mix_prec": True}, "fp16 scales gradients"),
        ({"grad_accumulation_factor": 2}, "one batch per optimizer step"),
    ],
)
def test_run_options_that_break_hooks_are_refused_before_anything_is_written(
    options, reason, tmp_path
):
    with pytest.raises(ValueError, match=reason):
        toy_engine(tmp_path / "run", FineTune(), **options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "options", [{"precision": "fp32"}, {"precision": "bf16"}, {"grad_accumulation_factor": 1}]
)
def test_other_run_options_are_taken(options, tmp_path):
    toy_engine(tmp_path, FineTune(), **options)


def test_two_tasks_of_one_name_are_refused():
    with pytest.raises(ValueError, match=r"\['vocoder'\] more than once"):
        make_stream([("vocoder", [1], [1]), ("tts", [1], [1]), ("vocoder", [1], [1])])


def test_a_task_without_test_data_is_refused(tmp_path):
    data = toy_clips(0, 0.0)
    with pytest.raises(ValueError, match=r"give Task\(test=...\)"):
        engine_of(tmp_path, [Task(0, "a", data)]).run()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_a_number_stops_at_once_with_one_line(bad, tmp_path):
    good, broken = toy_clips(0, 0.0), toy_clips(1, 1.0)
    broken.features[:] = bad
    engine = engine_of(tmp_path, make_stream([("good", good, good), ("broken", broken, good)]))
    with pytest.raises(
        ValueError, match="^the loss became nan in task 'broken' at step 0: "
    ) as one:
        engine.run()
    assert "\n" not in str(one.value)
    assert all(value.isfinite().all() for value in weights(engine).values())


# ---- measured
def test_zero_shot_is_measured_before_training(tmp_path):
    untrained, _ = toy_engine(tmp_path / "untrained", FineTune()).evaluate()
    results = toy_engine(tmp_path / "run", FineTune()).run()
    assert results["zero_shot"] == untrained
    assert results["matrix"][0] != untrained


def test_rows_of_the_matrix_are_what_was_measured_after_each_task(tmp_path):
    one = toy_engine(tmp_path / "one", FineTune(), tasks=3)
    results = one.run()
    assert results["matrix"][-1] == one.evaluate()[0]
    assert [len(row) for row in results["matrix"]] == [3, 3, 3]
    shorter = toy_engine(tmp_path / "two", FineTune(), tasks=2)
    assert [row[:2] for row in results["matrix"][:2]] == shorter.run()["matrix"]


def test_seeds_decide_the_run(tmp_path):
    runs = []
    for k, seed in enumerate([1, 1, 2]):
        torch.manual_seed(0)
        model = StatisticsNet(WIDTH, (4,))  # no dropout: the order of the data decides
        run = toy_engine(tmp_path / str(k), FineTune(), tasks=1, seed=seed, model=model)
        run.run()
        runs.append(run)
    assert same(weights(runs[0]), weights(runs[1]))
    assert not same(weights(runs[0]), weights(runs[2]))


class Told(FineTune):
    """Notes which task it is told to serve."""

    def __init__(self):
        super().__init__()
        self.served = []

    def before_eval(self, task):
        self.served.append(task and task.name)


@pytest.mark.parametrize("known", [False, True])
def test_the_method_learns_the_test_task_only_if_it_is_known(known, tmp_path):
    engine = toy_engine(tmp_path, Told(), tasks=2)
    engine.training = Training(engine.training.optimizer, task_known=known)
    engine.evaluate()
    assert engine.method.served == (["attack_0", "attack_1"] if known else [None, None])


# ---- written
def test_a_run_leaves_its_files(tmp_path):
    engine = toy_engine(tmp_path, ER(capacity=20), tasks=2)
    results = engine.run()
    found = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    plain = {"train_log.txt", "events.jsonl", "results.json"}
    assert plain | {"scores/task_00.csv", "scores/task_01.csv"} <= found
    rest = {name.split("/")[0] for name in found} - plain
    assert rest == {"scores", "save"}
    assert read_results(tmp_path / "results.json") == results
    check_results(results)
    assert results["stream"] == ["attack_0", "attack_1"]
    assert (results["method"], results["metric"], results["seed"]) == ("ER", "eer", 1)
    assert results["memory_bytes"] == engine.method.memory_bytes(engine.stream) > 0
    assert results["trainable_parameters"] == sum(p.numel() for p in ToyNet().parameters())
    low, high = results["average_interval"]
    assert low <= results["summary"]["average"] <= high


def test_events_tell_the_run_in_order(tmp_path):
    toy_engine(tmp_path, FineTune(), tasks=2, epochs=2).run()
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    each = ["task_start", "epoch", "epoch", "task_end", "scores"]
    assert [line["event"] for line in lines] == each * 2
    assert [line["task"] for line in lines] == ["attack_0"] * 5 + ["attack_1"] * 5
    assert len((tmp_path / "train_log.txt").read_text().splitlines()) == 4


def test_scores_files_hold_every_clip_of_every_task(tmp_path):
    engine = toy_engine(tmp_path, FineTune(), tasks=2)
    engine.run()
    with (tmp_path / "scores" / "task_01.csv").open() as file:
        rows = list(csv.DictReader(file))
    _, scores = engine.evaluate()
    assert [float(row["score"]) for row in rows] == [float(s) for one in scores for s in one]
    assert [row["test_task"] for row in rows] == ["attack_0"] * 120 + ["attack_1"] * 120
    assert [row["ID"] for row in rows[:120]] == [r["ID"] for r in engine.stream[0].test.rows]


def test_only_one_checkpoint_a_task_is_kept(tmp_path):
    toy_engine(tmp_path, FineTune(), tasks=2, ckpt_interval_steps=1).run()
    for task in ("task_00", "task_01"):
        assert len(list((tmp_path / "save" / task).iterdir())) == 1


def test_the_mean_loss_of_an_epoch_is_noted(tmp_path):
    losses = []

    class Noted(FineTune):
        def loss(self, step):
            losses.append(super().loss(step))
            return losses[-1]

    toy_engine(tmp_path, Noted(), tasks=1, epochs=1).run()
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    (noted,) = [line["loss"] for line in lines if line["event"] == "epoch"]
    assert len(losses) == STEPS
    assert noted == pytest.approx(sum(float(one.detach()) for one in losses) / STEPS)


def test_data_may_give_their_own_batches(tmp_path):
    asked, seen = [], []

    class FirstHalf(FeatureSet):
        def batches(self, batch_size, seed):
            asked.append((batch_size, seed))
            return EpochBatches(len(self) // 2, batch_size, seed)

    class Listening(FineTune):
        def loss(self, step):
            seen.append((step.total, step.batch["features"]))
            return super().loss(step)

    engine = toy_engine(tmp_path, Listening(), tasks=2, epochs=2, seed=3)
    engine.stream = [
        dataclasses.replace(task, train=FirstHalf(task.train.features, task.train.rows))
        for task in engine.stream
    ]
    engine.run()
    steps = 2 * len(EpochBatches(60, 32, seed=0))
    assert asked == [(32, 3 * 1009), (32, 3 * 1009 + 1)]
    assert [total for total, _ in seen] == [steps] * 2 * steps
    for k, task in enumerate(engine.stream):
        epoch = torch.cat([features for _, features in seen[k * steps : k * steps + steps // 2]])
        order = [i for batch in EpochBatches(60, 32, seed=asked[k][1]) for i in batch]
        assert torch.equal(epoch, task.train.features[order])


@pytest.mark.parametrize("hidden", [True, False])
def test_the_bar_is_hidden_by_noprogressbar(hidden, tmp_path, capsys, monkeypatch):
    always = functools.partial(brain.tqdm, mininterval=0.0)  # a toy task ends before the 2nd draw
    monkeypatch.setattr(brain, "tqdm", always)
    toy_engine(tmp_path, FineTune(), tasks=2, noprogressbar=hidden).run()
    shown = capsys.readouterr().err
    assert ("task 2/2 attack_1, epoch" in shown) == (not hidden)
    assert ("step" in shown) == (not hidden)


# ---- left alone
def test_a_fully_frozen_model_is_measured_but_not_trained(tmp_path):
    model = ToyNet().requires_grad_(False)
    engine = toy_engine(tmp_path, FineTune(), tasks=2, model=model)
    before = weights(engine)
    results = engine.run()
    assert same(before, weights(engine))
    assert results["matrix"] == [results["zero_shot"]] * 2
    assert results["trainable_parameters"] == 0
    assert '"epoch"' not in (tmp_path / "events.jsonl").read_text()
    again = toy_engine(tmp_path, FineTune(), tasks=2, model=ToyNet().requires_grad_(False))
    assert again.run()["matrix"] == results["matrix"]


class Normed(nn.Module):
    """Two branches, each with a BatchNorm."""

    def __init__(self):
        super().__init__()
        self.kept = nn.Sequential(nn.Linear(WIDTH, 8), nn.BatchNorm1d(8, affine=False), nn.ReLU())
        self.norm = nn.BatchNorm1d(WIDTH)
        self.trained = nn.Sequential(nn.Linear(WIDTH, 8), nn.BatchNorm1d(8), nn.Dropout(0.1))
        self.classify = nn.Linear(16, 2)

    def forward(self, x):
        x = self.norm(x)
        both = torch.cat([self.kept(x), self.trained(x)], 1)
        return self.classify(both), both


def test_statistics_of_frozen_modules_do_not_move(tmp_path):
    model = Normed()
    model.kept.requires_grad_(False)
    model.norm.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    toy_engine(tmp_path, FineTune(), tasks=2, model=model).run()
    after = model.state_dict()
    frozen = [name for name in before if name.startswith(("kept", "norm"))]
    assert len(frozen) == 10
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    assert not torch.equal(before["trained.1.running_mean"], after["trained.1.running_mean"])
    assert int(after["trained.1.num_batches_tracked"]) == 2 * 2 * STEPS


def test_evaluation_moves_nothing(tmp_path):
    engine = toy_engine(tmp_path, FineTune(), tasks=2, model=Normed())
    before = weights(engine)
    first, _ = engine.evaluate()
    second, _ = engine.evaluate()
    assert first == second
    assert same(before, weights(engine))


# ---- collect
@pytest.mark.parametrize(("method", "tasks"), [(FineTune, [1]), (Joint, [0, 1])])
def test_collect_sweeps_the_training_data_in_order(method, tasks, tmp_path):
    engine = toy_engine(tmp_path, method(), tasks=2)
    found = engine.collect(engine.stream[1], lambda brain, batch: batch["features"])
    expected = torch.cat([engine.stream[k].train.features for k in tasks])
    assert torch.equal(torch.cat(found), expected)


def test_collect_is_in_eval_mode_without_gradients(tmp_path):
    engine = toy_engine(tmp_path, FineTune(), tasks=1)
    engine.modules.train()

    def look(brain, batch):
        assert not engine.modules["model"].training
        logits = brain.logits(brain.compute_forward(batch, None))
        assert not logits.requires_grad
        return logits

    one, two = (engine.collect(engine.stream[0], look) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_training_goes_on_after_a_collect_in_the_middle(tmp_path):
    class Curious(FineTune):
        def after_task(self, task, engine):
            self.seen = engine.collect(task, lambda brain, batch: len(batch["label"]))

    curious = toy_engine(tmp_path / "a", Curious(), tasks=2)
    plain = toy_engine(tmp_path / "b", FineTune(), tasks=2)
    curious.run(), plain.run()
    assert sum(curious.method.seen) == 120
    assert same(weights(curious), weights(plain))


def test_clipping_covers_every_parameter_group(tmp_path):
    class Groups(FineTune):
        norms = ()

        def param_groups(self, modules):
            return [{"params": [p]} for p in modules.parameters()]

        def loss(self, step):
            return 1e4 * super().loss(step)

        def after_backward(self, step):
            self.before = [p.detach().clone() for p in step.modules.parameters()]

        def after_step(self, step):
            if step.index == 0:  # no momentum yet: the step is lr times the clipped gradient
                moved = [
                    (p.detach() - old).norm()
                    for p, old in zip(step.modules.parameters(), self.before, strict=True)
                ]
                self.norms = torch.stack(moved) / 0.05

    engine = toy_engine(tmp_path, Groups(), tasks=1, epochs=1)
    engine.run()
    assert float(engine.method.norms.norm()) == pytest.approx(5.0, rel=1e-3)
    assert (engine.method.norms > 0).all()


def test_weights_of_the_last_task_are_those_saved(tmp_path):
    engine = toy_engine(tmp_path, FineTune(), tasks=2)
    engine.run()
    other = toy_engine(tmp_path, FineTune(), tasks=2)
    assert not same(weights(other), weights(engine))
    assert other.resume() == (2, False)
    assert same(weights(other), weights(engine))


def test_tasks_are_in_folders_of_their_own(tmp_path):
    toy_engine(tmp_path, FineTune(), tasks=3).run()
    names = sorted(p.name for p in (tmp_path / "save").iterdir() if p.is_dir())
    assert names == ["task_00", "task_01", "task_02"]


class Negated(torch.nn.Module):
    """Wraps a model and turns its logits round."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        logits, embedding = self.inner(x)
        return -logits, embedding


class Wrapping(Method):
    """Replaces the model by a wrapped one when the first task ends."""

    def after_task(self, task, engine):
        if task.index == 0:
            engine.modules["model"] = Negated(engine.modules["model"])


def test_a_replaced_module_is_the_one_that_is_tested(tmp_path):
    plain = toy_engine(tmp_path / "plain", Method(), tasks=1).run()
    negated = toy_engine(tmp_path / "negated", Wrapping(), tasks=1).run()
    assert negated["matrix"][0][0] == pytest.approx(100 - plain["matrix"][0][0])


def test_a_folder_refuses_another_run(tmp_path):
    toy_engine(tmp_path, Method(), tasks=1).run()
    with pytest.raises(ValueError, match="holds a run of Method .* give another folder"):
        toy_engine(tmp_path, Method(), tasks=1, lr=0.5).run()


def test_each_task_has_random_draws_of_its_own(tmp_path):
    drawn = []

    class Drawing(Method):
        def before_task(self, task, engine):
            drawn.append(float(torch.rand(1)))

    toy_engine(tmp_path, Drawing(), tasks=2).run()
    assert drawn[0] != drawn[1]


def test_a_compiled_model_cannot_be_protected_silently(tmp_path):
    engine = toy_engine(tmp_path, OWM(), tasks=1)
    engine.modules["model"].extra = torch.nn.Linear(3, 3)  # never called
    with pytest.raises(ValueError, match=r"layer 'model\.extra' heard no input"):
        engine.run()


def test_validation_loss_is_logged(tmp_path):
    engine = toy_engine(tmp_path, Method(), tasks=1)
    task = engine.stream[0]
    engine.stream[0] = dataclasses.replace(task, valid=task.test)
    engine.run()
    assert "valid loss" in (tmp_path / "train_log.txt").read_text()
