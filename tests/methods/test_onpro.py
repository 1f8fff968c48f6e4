"""OnPro: what a step is made of, and its losses beside the equations."""

import math

import pytest
import torch
from torch.nn import functional

from speechcl.contrastive import class_terms
from speechcl.methods import OnPro
from speechcl.methods.feedback import Feedback, Replayed
from speechcl.methods.onpro import Contrast, instance_terms, pseudo_labels
from tests.class_toy import EMBEDDING, class_engine
from tests.methods.test_feedback import slow_contrast


def noise(features, draws):
    return features + 0.1 * torch.randn(features.shape, generator=draws)


def both_ways(features):
    return torch.cat([features, features.flip(1)])


class Watched(OnPro):
    """Notes parts, batches and what was replayed."""

    def __init__(self, *args, **options):
        super().__init__(*args, **{"contrast": Contrast(width=8), "replay": 16, **options})
        self.noted = []

    def before_batch(self, step):
        batch = super().before_batch(step)
        parts = dict(self._parts)
        self.noted.append(
            (step.task.index, step.index, step.incoming, parts, batch, self._replayed)
        )
        return batch


def trained(folder, tasks=3, **options):
    method = Watched(noise, capacity=30, **options)
    engine = class_engine(folder, method, tasks=tasks)
    engine.run()
    return engine


def test_a_step_is_made_of_views_of_what_is_new_and_of_what_is_replayed(tmp_path):
    for index, step, incoming, parts, batch, replayed in trained(tmp_path).method.noted:
        features = batch["features"]
        new = len(incoming["label"])
        assert torch.equal(features[parts["new"]], incoming["features"])
        assert len(features[parts["new views"]]) == new
        assert ("drawn" in parts) == (index > 0 or step > 0)
        assert (replayed is not None) == (index > 0)
        if replayed is not None:
            assert torch.equal(features[parts["replay"]], replayed.features)
            assert len(replayed.features) == len(features[parts["drawn"]])
            if step == 0:
                assert not replayed.weight.any()  # nothing was measured yet in this task
        assert len(features) == sum(p.stop - p.start for p in parts.values())


def test_few_classes_are_replayed_less(tmp_path):
    noted = trained(tmp_path, replay=64).method.noted
    drawn = {}
    for index, _, _, parts, _, _ in noted:
        if "drawn" in parts:
            drawn.setdefault(index, set()).add(parts["drawn"].stop - parts["drawn"].start)
    assert max(drawn[0]) == 14
    assert max(drawn[1]) == 28


def slow_instance(similarity, labels):
    count = len(similarity)
    pair, company = [], []
    for i in range(count):
        shares = {
            j: math.exp(similarity[i, j])
            / sum(math.exp(similarity[i, k]) for k in range(count) if k != i)
            for j in range(count)
            if j != i
        }
        pair.append(-math.log(shares[(i + count // 2) % count]))
        mine = [j for j in shares if labels[j % len(labels)] == labels[i % len(labels)]]
        company.append(sum(-math.log(shares[j]) for j in mine) / len(mine))
    return sum(pair) / count, sum(company) / count


def test_the_contrast_of_items_is_the_equation():
    generator = torch.Generator().manual_seed(0)
    similarity = 2 * torch.randn(10, 10, generator=generator)
    labels = torch.tensor([0, 3, 0, 1, 3])
    pair, company = instance_terms(similarity, labels)
    expected = slow_instance(similarity, labels.tolist())
    assert float(pair) == pytest.approx(float(expected[0]), abs=1e-5)
    assert float(company) == pytest.approx(float(expected[1]), abs=1e-5)


def test_an_item_is_no_company_to_itself():
    similarity = torch.randn(6, 6, requires_grad=True)
    pair, company = instance_terms(similarity, torch.tensor([0, 0, 1]))
    (pair + company).backward()
    assert not similarity.grad.diagonal().any()
    assert similarity.grad.any()


def test_classes_in_one_place_cost_less_than_any_other_arrangement():
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    best = torch.eye(4)[labels].repeat(2, 1)
    found = sum(instance_terms(best @ best.T / 0.2, labels))
    generator = torch.Generator().manual_seed(1)
    for _ in range(100):
        z = functional.normalize(torch.randn(12, 4, generator=generator))
        assert sum(instance_terms(z @ z.T / 0.2, labels)) > found


def test_versions_are_classes_of_their_own_and_one_version_is_plain():
    labels = torch.tensor([2, 0, 1])
    assert pseudo_labels(labels, 3, 5).tolist() == [2, 0, 1, 7, 5, 6, 12, 10, 11]
    assert torch.equal(pseudo_labels(labels, 1, 5), labels)
    similarity = torch.randn(6, 6)
    company = instance_terms(similarity, labels)[1]
    torch.testing.assert_close(company, class_terms(similarity, labels.repeat(2)).mean())


def test_rotated_items_are_contrasted_and_not_classified(tmp_path):
    method = Watched(noise, rotations=both_ways, capacity=30)
    class_engine(tmp_path, method, tasks=2).run()
    for _, _, incoming, parts, batch, _ in method.noted:
        count = len(incoming["label"])
        rotated = batch["features"][parts["new"]]
        assert torch.equal(rotated, both_ways(incoming["features"]))
        assert method._versions("new", incoming["label"]) in (1, 2)
        assert len(rotated) == 2 * count


class Split(Watched):
    """Notes how the classifier's loss changes with the new items."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.gradients = []

    def _cross_entropy(self, step, part, shares):
        loss = super()._cross_entropy(step, part, shares)
        logits = step.outputs.logits
        (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
        touched = gradient.abs().sum(1).nonzero().flatten()
        names = {
            name
            for name, place in self._parts.items()
            if any(place.start <= int(row) < place.stop for row in touched)
        }
        self.gradients.append((step.task.index, names))
        return loss


def test_new_items_train_the_classifier_in_the_first_task_only(tmp_path):
    method = Split(noise, capacity=30)
    class_engine(tmp_path, method, tasks=2).run()
    for index, names in method.gradients:
        assert names == ({"replay views"} if index else {"new views"})
    assert len(method.gradients) == 12


def test_prototypes_are_those_of_the_step_before_without_their_graph(tmp_path):
    class Marked(Watched):
        def before_batch(self, step):
            if step.task.index and step.index == 2:
                self.prototypes.means.fill_(7.0)
            return super().before_batch(step)

    seen = []

    class Told(Feedback):
        def replay(self, memory, drawn, classes, means, draws):
            seen.append((means.clone(), classes.clone(), means.requires_grad))
            return super().replay(memory, drawn, classes, means, draws)

    method = Marked(noise, capacity=30, feedback=Told())
    class_engine(tmp_path, method, tasks=2).run()
    assert not any(graph for *_, graph in seen)
    assert (seen[1][0] == 7.0).all()
    assert not (seen[2][0] == 7.0).all()
    assert not method.prototypes.means.requires_grad
    drawn = [n for n in method.noted if n[0] == 1]
    for (_, classes, _), before in zip(seen[1:], drawn[1:], strict=False):
        assert set(classes.tolist()) <= {0, 1, 2, 3}
        assert before[5] is not None


def test_without_prototypes_their_contrast_is_gone(tmp_path):
    with_them = trained(tmp_path / "with").modules["model"].hidden.weight
    method = Watched(noise, capacity=30, contrast=Contrast(width=8, prototypes=None))
    engine = class_engine(tmp_path / "without", method)
    engine.run()
    assert not torch.equal(with_them, engine.modules["model"].hidden.weight)


def places(part):
    return torch.arange(part.start, part.stop)


def test_the_loss_of_a_later_step_is_the_sum_of_its_terms(tmp_path):
    seen = []

    class Summed(Watched):
        def loss(self, step):
            loss = super().loss(step)
            if self._replayed is not None:
                seen.append((loss, self.by_hand(step)))
            return loss

        def by_hand(self, step):
            z = functional.normalize(step.modules["project"](step.outputs.embedding))
            f = functional.normalize(step.outputs.embedding)[:, self.first : self.first + 8]
            at = self._parts
            both = {
                part: torch.cat([places(at[name]) for name in (part, f"{part} views")])
                for part in ("new", "replay", "drawn")
            }
            terms = []
            own = self._replayed.own_labels(6)
            for part, labels in (("new", self._new_labels), ("replay", own)):
                rows = both[part]
                similarity = 0.5 * (z[rows] @ z[rows].T + z[rows] @ f[rows].T) / 0.07
                pair, company = slow_instance(similarity.detach(), labels.tolist())
                terms.append(pair + 2 * company if part == "new" else company)
            for part, labels in (("new", self._new_labels), ("drawn", self._drawn_labels)):
                one, other = z[both[part]].detach().chunk(2)
                terms.append(slow_contrast(one, other, labels, 0.5))
            logits = step.outputs.logits[at["replay views"]].detach()
            seen_classes = len(step.task.info["seen"])
            log_p = logits[:, :seen_classes].log_softmax(1)
            r = self._replayed
            rows = zip(log_p, r.first, r.second, r.weight, strict=True)
            terms.append(-sum((1 - w) * p[a] + w * p[b] for p, a, b, w in rows) / len(log_p))
            return sum(float(term) for term in terms)

        def _window(self, embedding):
            self.first = super()._window(embedding)
            return self.first

    method = Summed(noise, capacity=30, contrast=Contrast(width=8, scale=0.5))
    class_engine(tmp_path, method, tasks=3).run()
    assert len(seen) == 12
    for found, expected in seen:
        assert float(found.detach()) == pytest.approx(expected, rel=1e-4)


def test_a_narrow_embedding_has_no_window(tmp_path):
    method = Watched(noise, capacity=30, contrast=Contrast(width=EMBEDDING))
    class_engine(tmp_path, method, tasks=2).run()
    assert method._window(torch.zeros(1, EMBEDDING)) is None


def test_raw_items_are_remembered(tmp_path):
    engine = trained(tmp_path)
    rows = {
        tuple(row.tolist()): int(label)
        for task in engine.stream
        for row, label in zip(task.train.features, task.train.labels, strict=True)
    }
    kept = engine.method.memory.everything()
    assert len(kept["label"]) == 30
    for row, label in zip(kept["features"], kept["label"], strict=True):
        assert rows[tuple(row.tolist())] == int(label)
    assert int(engine.method.memory.counts[0]) == len(rows)


def test_shares_of_a_mixed_item_lean_to_the_second_by_its_weight():
    found = Replayed(torch.zeros(1, 2), torch.tensor([0]), torch.tensor([2]), torch.tensor([0.3]))
    torch.testing.assert_close(found.shares(3), torch.tensor([[0.7, 0.0, 0.3]]))


def test_the_scale_of_similarities_counts_after_the_first_task(tmp_path):
    found = []
    for scale in (1.0, 0.5):
        method = OnPro(noise, capacity=30, replay=16, contrast=Contrast(width=8, scale=scale))
        engine = class_engine(tmp_path / str(scale), method, tasks=2)
        weights = []
        for task in engine.stream:
            engine.learn(task)
            weights.append(engine.modules["model"].hidden.weight.detach().clone())
        found.append(weights)
    (first, second), (also_first, other) = found
    assert torch.equal(first, also_first)
    assert not torch.equal(second, other)
