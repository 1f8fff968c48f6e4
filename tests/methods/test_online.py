"""Methods that remember while they learn: what is kept when, and their losses beside equations."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from speechcl.backbones.nearest_mean import NearestMean
from speechcl.contrastive import supervised_contrastive
from speechcl.memory import ClassBalanced, Reservoir
from speechcl.methods import ER, ERACE, EWC, SCR, Chain, DERpp, FineTune, GDumb, Joint, LwF
from tests.class_toy import class_engine
from tests.toy import same, toy_engine


def noise(features, draws):
    return features + 0.1 * torch.randn(features.shape, generator=draws)


def train_rows(engine):
    """Every training item's label, by its features."""
    return {
        tuple(row.tolist()): int(label)
        for task in engine.stream
        for row, label in zip(task.train.features, task.train.labels, strict=True)
    }


# ---- when items are remembered
@pytest.mark.parametrize("kind", [ER, ERACE, DERpp])
def test_each_item_is_offered_once_after_its_step(kind, tmp_path):
    offered = []

    class Watched(kind):
        def after_step(self, step):
            before = int(self.memory.counts[0])
            super().after_step(step)
            offered.append((before, int(self.memory.counts[0]), len(step.incoming["label"])))

    engine = class_engine(tmp_path, Watched(capacity=500, replay=16, online=True))
    engine.run()
    assert all(after == before + size for before, after, size in offered)
    rows = train_rows(engine)
    kept = engine.method.memory.everything()
    found = {
        tuple(row.tolist()): int(k) for row, k in zip(kept["features"], kept["label"], strict=True)
    }
    assert found == rows
    assert len(kept["label"]) == len(rows)


def test_the_first_step_has_nothing_to_replay_and_the_second_has(tmp_path):
    sizes = []

    class Watched(ER):
        def before_batch(self, step):
            batch = super().before_batch(step)
            sizes.append(len(batch["label"]) - len(step.incoming["label"]))
            return batch

    class_engine(tmp_path, Watched(capacity=100, replay=16, online=True), tasks=1).run()
    assert sizes[:3] == [0, 10, 16]


def test_answers_are_those_of_the_step_in_which_an_item_came(tmp_path):
    said = {}

    class Watched(DERpp):
        def _to_remember(self, step):
            logits = step.outputs.logits[: len(step.incoming["label"])].detach()
            for row, one in zip(step.incoming["features"], logits, strict=True):
                said[tuple(row.tolist())] = one
            return super()._to_remember(step)

    engine = class_engine(tmp_path, Watched(capacity=30, replay=16, online=True))
    engine.run()
    kept = engine.method.memory.everything()
    for row, logits in zip(kept["features"], kept["logits"], strict=True):
        assert torch.equal(said[tuple(row.tolist())], logits)


def test_another_memory_may_be_given(tmp_path):
    memory = ClassBalanced(budget_bytes=1000, stored_as="float16")
    engine = class_engine(tmp_path, ER(memory=memory, replay=16, online=True))
    engine.run()
    assert engine.method.memory is memory
    counts = memory.labels().bincount()
    assert len(memory) == 1000 // (12 * 2 + 8)
    assert counts.max() - counts.min() <= 1


# ---- ER-ACE
def test_new_items_compete_among_the_classes_of_their_batch(tmp_path):
    seen = []

    class Watched(ERACE):
        def loss(self, step):
            loss = super().loss(step)
            own = len(step.incoming["label"])
            logits, labels = step.outputs.logits, step.batch["label"]
            present = sorted(set(labels[:own].tolist()))
            place = torch.tensor([present.index(int(k)) for k in labels[:own]])
            expected = functional.cross_entropy(logits[:own][:, present], place)
            if len(labels) > own:
                known = len(step.task.info["seen"])
                expected = expected + functional.cross_entropy(logits[own:, :known], labels[own:])
            seen.append((loss, expected))
            return loss

    class_engine(tmp_path, Watched(capacity=30, replay=16, online=True)).run()
    assert len(seen) > 10
    for found, expected in seen:
        torch.testing.assert_close(found, expected)


def test_outputs_of_absent_classes_are_left_alone_by_new_items(tmp_path):
    class NoReplay(ERACE):
        def before_batch(self, step):
            return step.batch

    engine = class_engine(tmp_path, NoReplay(capacity=30, online=True), tasks=2)
    engine.learn(engine.stream[0])
    before = engine.modules["model"].classify.weight.detach().clone()
    engine.learn(engine.stream[1])
    after = engine.modules["model"].classify.weight
    assert torch.equal(after[:2], before[:2])
    assert not torch.equal(after[2:], before[2:])


# ---- SCR
def slow_contrast(z, labels, temperature):
    total = []
    for i in range(len(z)):
        mine = [j for j in range(len(z)) if j != i and labels[j] == labels[i]]
        below = sum(float((z[i] @ z[k] / temperature).exp()) for k in range(len(z)) if k != i)
        terms = [float((z[i] @ z[j] / temperature).exp()) / below for j in mine]
        total.append(-sum(torch.tensor(t).log() for t in terms) / len(terms))
    return float(sum(total) / len(total))


def test_the_contrast_of_all_views_is_the_equation():
    z = functional.normalize(torch.randn(10, 4, generator=torch.Generator().manual_seed(0)))
    labels = torch.tensor([0, 1, 0, 2, 1] * 2)
    found = float(supervised_contrastive(z, labels, 0.2))
    assert found == pytest.approx(slow_contrast(z, labels, 0.2), abs=1e-5)


def test_an_item_that_is_alone_adds_nothing():
    z = functional.normalize(torch.randn(5, 4, generator=torch.Generator().manual_seed(0)))
    found = supervised_contrastive(z, torch.tensor([0, 0, 1, 2, 0]), 1.0)
    assert torch.isfinite(found)


def test_every_item_meets_another_view_of_itself(tmp_path):
    seen = []

    class Watched(SCR):
        def before_batch(self, step):
            batch = super().before_batch(step)
            seen.append((step.incoming, batch))
            return batch

    class_engine(tmp_path, Watched(noise, capacity=30, replay=16, width=8)).run()
    for incoming, batch in seen:
        half = len(batch["label"]) // 2
        assert torch.equal(batch["features"][: len(incoming["label"])], incoming["features"])
        assert torch.equal(batch["label"][:half], batch["label"][half:])
        off = batch["features"][half:] - batch["features"][:half]
        assert 0 < float(off.abs().max()) < 1


def test_the_nearest_mean_of_the_memory_is_the_answer(tmp_path):
    engine = class_engine(tmp_path, SCR(noise, capacity=60, replay=16, width=8))
    results = engine.run()
    model, kept = engine.modules["model"], engine.method.memory.everything()
    assert isinstance(model, NearestMean)
    with torch.no_grad():
        unit = functional.normalize(model.model(kept["features"])[1])
        test = functional.normalize(model.model(engine.stream[0].test.features)[1])
    means = {
        int(k): functional.normalize(unit[kept["label"] == k].mean(0), dim=0)
        for k in kept["label"].unique()
    }
    answers = [min(means, key=lambda k: float((row - means[k]).norm())) for row in test]
    right = sum(a == int(b) for a, b in zip(answers, engine.stream[0].test.labels, strict=True))
    assert results["matrix"][-1][0] == pytest.approx(100 * right / len(answers))
    assert results["summary"]["average"] > 60


def test_a_task_ends_with_the_means_of_its_memory(tmp_path):
    ended = []

    class Watched(SCR):
        def after_task(self, task, engine):
            super().after_task(task, engine)
            model = engine.modules["model"]
            left = {name: value.clone() for name, value in model.state_dict().items()}
            self.before_measuring(engine)
            ended.append(same(left, model.state_dict()))

    class_engine(tmp_path, Watched(noise, capacity=60, replay=16, width=8)).run()
    assert ended == [True] * 3


def test_another_seed_sees_other_views():
    drawn = [torch.rand(3, generator=SCR(noise, seed=seed).draws.next()) for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_before_there_are_means_the_model_answers_itself():
    class Fixed(nn.Module):
        def forward(self, x):
            return x, x

    model = NearestMean(Fixed(), classes=2, width=2).eval()
    x = torch.tensor([[3.0, 1.0]])
    assert torch.equal(model(x)[0], x)
    model.learn(torch.tensor([[0.0, 1.0]]), torch.tensor([1]))
    assert model(x)[0].argmax() == 1
    assert torch.equal(model.train()(x)[0], x)


# ---- GDumb
def test_it_trains_on_the_memory_alone_from_the_first_weights(tmp_path):
    seen, starts = [], []

    class Watched(GDumb):
        def before_task(self, task, engine):
            super().before_task(task, engine)
            starts.append({k: v.clone() for k, v in engine.modules.state_dict().items()})

        def before_batch(self, step):
            seen.append((step.task.index, step.batch))
            return step.batch

    engine = class_engine(tmp_path, Watched(capacity=24))
    first = {k: v.clone() for k, v in engine.modules.state_dict().items()}
    engine.run()
    assert all(same(first, start) for start in starts)
    rows = train_rows(engine)
    for index in range(3):
        batches = [batch for task, batch in seen if task == index]
        labels = torch.cat([batch["label"] for batch in batches])
        assert len(labels) == 24
        counts = labels.bincount(minlength=2 * index + 2)
        assert counts.tolist() == [24 // (2 * index + 2)] * (2 * index + 2)
        for batch in batches:
            for row, label in zip(batch["features"], batch["label"], strict=True):
                assert rows[tuple(row.tolist())] == int(label)


# ---- chains
def test_a_chain_of_one_is_that_one(tmp_path):
    alone = class_engine(tmp_path / "alone", ER(capacity=30, replay=16, online=True))
    chained = class_engine(tmp_path / "chained", Chain([ER(capacity=30, replay=16, online=True)]))
    assert alone.run()["matrix"] == chained.run()["matrix"]
    assert same(alone.modules.state_dict(), chained.modules.state_dict())


def test_losses_add_up_over_their_own_items(tmp_path):
    """EWC after ER: the loss of the replay, and the penalty once (in the gradient)."""
    first, then = tmp_path / "first", tmp_path / "then"
    together = [
        toy_engine(place, Chain(methods), tasks=2)
        for place, methods in (
            (first, [ER(capacity=40, replay=16), EWC(strength=20.0, clips=40)]),
            (then, [EWC(strength=20.0, clips=40), ER(capacity=40, replay=16)]),
        )
    ]
    for engine in together:
        engine.run()
    for one, other in zip(*(e.modules.parameters() for e in together), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    alone = toy_engine(tmp_path / "alone", ER(capacity=40, replay=16), tasks=2)
    alone.run()
    pairs = zip(alone.modules.parameters(), together[0].modules.parameters(), strict=True)
    assert any(not torch.allclose(one, other) for one, other in pairs)


def test_items_that_a_loss_would_not_see_are_refused(tmp_path):
    method = Chain([LwF(), ER(capacity=30, replay=16, online=True)])
    with pytest.raises(ValueError, match="ER adds items behind a method with a loss of its own"):
        class_engine(tmp_path, method).run()
    class_engine(tmp_path / "other", Chain(list(method.methods)[::-1])).run()


def test_two_that_choose_what_is_trained_do_not_chain():
    with pytest.raises(ValueError, match="Joint and GDumb both decide by train_set"):
        Chain([Joint(), GDumb()])
    assert Chain([Joint(), FineTune()]).memory_bytes([]) == 0
    with pytest.raises(ValueError, match="at least one method"):
        Chain([])


def test_a_chain_counts_what_all_keep(tmp_path):
    parts = [ER(capacity=30, online=True), GDumb(capacity=10)]
    parts[0].memory.add({"x": torch.zeros(30, 2)})
    parts[1].memory.add({"label": torch.zeros(10).long()})
    assert Chain(parts).memory_bytes([]) == sum(one.memory_bytes([]) for one in parts) > 240


def test_reservoirs_of_one_seed_keep_the_same_whatever_is_done_with_them(tmp_path):
    kept = []
    for number, method in enumerate((ER, ERACE, DERpp)):
        engine = class_engine(tmp_path / str(number), method(capacity=20, online=True))
        engine.run()
        kept.append(engine.method.memory.everything()["features"])
    assert torch.equal(kept[0], kept[1])
    assert torch.equal(kept[0], kept[2])
    assert isinstance(engine.method.memory, Reservoir)
