"""DualMix: what is added to a replay, how it is labelled, and what it does to the loss."""

import json

import pytest
import torch
from torch import nn
from torch.nn import functional

from speechcl.methods import ER, Chain, DERpp, DualMix, FineTune
from speechcl.methods.dualmix import adpmix, enmix, label_weight, length_ratio
from tests.class_toy import class_engine
from tests.toy import same, toy_engine


def noise(features, draws):
    return features + 0.1 * torch.randn(features.shape, generator=draws)


def zeros(features, draws):
    return torch.zeros_like(features)


class Watched(DualMix):
    """Notes each step's batches, and where the items of each kind are."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.noted = []

    def before_batch(self, step):
        before = {name: value.clone() for name, value in step.batch.items()}
        batch = super().before_batch(step)
        shares = None if self._added is None else self._added[1]
        self.noted.append((step.task.index, len(step.incoming["label"]), before, batch, shares))
        return batch


def trained(folder, views=noise, tasks=2, replay=None, **options):
    method = Chain([replay or ER(capacity=30, replay=10, online=True), Watched(views, **options)])
    engine = toy_engine(folder, method, tasks=tasks, epochs=1, batch_size=10)
    engine.run()
    return engine


def noted(engine):
    return list(engine.method.methods)[1].noted


def test_items_are_added_behind_and_shares_are_shares(tmp_path):
    steps = noted(trained(tmp_path))
    assert steps[0][4] is None  # nothing is remembered yet
    for _, _, before, batch, shares in steps[1:]:
        count = len(before["label"])
        assert all(torch.equal(batch[name][:count], before[name]) for name in before)
        assert len(batch["label"]) == count + len(shares)
        assert (shares >= 0).all()
        torch.testing.assert_close(shares.sum(1), torch.ones(len(shares)))


def test_without_mixing_views_keep_their_labels(tmp_path):
    for _, own, before, batch, shares in noted(trained(tmp_path, enmix=False, adpmix=False))[1:]:
        old, added = before["features"][own:], batch["features"][len(before["label"]) :]
        distance, place = torch.cdist(added, old).min(1)
        assert 0.0 < float(distance.min()) <= float(distance.max()) < 0.1 * 8
        assert torch.equal(shares, functional.one_hot(before["label"][own:][place], 2).float())


def test_mixing_that_leaves_items_whole_is_the_view_itself(tmp_path):
    """With a tiny concentration nearly every weight is 0 or 1."""
    steps = noted(trained(tmp_path, adpmix=False, concentration=1e-3))[1:]
    shares = torch.cat([s for *_, s in steps])
    assert (shares.max(1).values > 0.999).float().mean() > 0.95


def test_views_touch_enmix_and_not_adpmix(tmp_path):
    class Task1(Watched):
        def _of_old_classes(self, step, labels, new_labels):
            return torch.arange(len(labels))  # all, so that a stream of two classes has pairs

    method = Chain([ER(capacity=30, replay=10, online=True), Task1(zeros)])
    toy_engine(tmp_path, method, tasks=1, epochs=1, batch_size=10).run()
    for _, own, before, batch, shares in list(method.methods)[1].noted[1:]:
        old = len(before["label"]) - own
        added = batch["features"][len(before["label"]) :]
        assert len(added) == len(shares) == 3 * old
        assert not added[: 2 * old].any()
        assert added[2 * old :].flatten(1).any(1).all()


def test_old_items_are_mixed_with_new_ones_only_where_classes_are_old(tmp_path):
    """On the toy stream both classes are in nearly every batch: then none is old."""
    for _, own, before, _, shares in noted(trained(tmp_path))[1:]:
        present = set(before["label"][:own].tolist())
        old = before["label"][own:]
        pairs = sum(int(label) not in present for label in old)
        assert len(shares) == 2 * len(old) + pairs


def test_a_pair_is_an_old_and_a_new_item(tmp_path):
    method = Chain([ER(capacity=30, replay=10, online=True), Watched(noise)])
    class_engine(tmp_path, method).run()
    found = 0
    for index, own, before, _, shares in list(method.methods)[1].noted:
        if shares is None:
            continue
        current = {2 * index, 2 * index + 1}
        old = [int(k) for k in before["label"][own:]]
        pairs = shares[2 * len(old) :]
        assert len(pairs) == sum(k not in current for k in old)
        if index == 0:
            assert not len(pairs)
        for row in pairs:
            mixed = set(row.nonzero().flatten().tolist())
            assert len(mixed & current) <= 1
            assert len(mixed - current) <= 1
            found += len(mixed) == 2
    assert found > 5


def test_the_loss_is_that_of_the_replay_plus_the_mean_over_what_is_added(tmp_path):
    seen = []

    class Compared(DualMix):
        def loss(self, step):
            added = self._added
            loss = super().loss(step)
            if added is not None:
                first, shares = added
                logits = step.brain.logits(step.outputs)
                replay = functional.cross_entropy(logits[:first], step.batch["label"][:first])
                rows = [
                    -(share * row.log_softmax(0)).sum()
                    for share, row in zip(shares, logits[first:], strict=True)
                ]
                seen.append((loss, replay + 0.5 * sum(rows) / len(rows)))
            return loss

    method = Chain([ER(capacity=30, replay=10, online=True), Compared(noise, weight=0.5)])
    toy_engine(tmp_path, method, tasks=2, epochs=1, batch_size=10).run()
    assert len(seen) > 10
    for found, expected in seen:
        torch.testing.assert_close(found, expected)


def test_mixed_labels_cost_as_much_as_their_parts():
    logits, targets = torch.randn(6, 4), functional.one_hot(torch.arange(6) % 4, 4).float()
    weight, partner = torch.rand(6), torch.tensor([3, 2, 5, 0, 1, 4])
    _, shares = enmix(torch.randn(6, 2), targets, weight, partner)
    found = functional.cross_entropy(logits, shares, reduction="none")
    own = functional.cross_entropy(logits, targets, reduction="none")
    other = functional.cross_entropy(logits, targets[partner], reduction="none")
    torch.testing.assert_close(found, weight * own + (1 - weight) * other)


def test_whole_weights_leave_items_as_they_are():
    items, targets = torch.randn(4, 3), torch.eye(4)
    mixed, shares = enmix(items, targets, torch.ones(4), torch.tensor([1, 0, 3, 2]))
    assert torch.equal(mixed, items)
    assert torch.equal(shares, targets)


def test_the_label_moves_only_out_of_balance_and_up_to_one():
    weight = torch.tensor([0.6, 0.6, 0.5, 0.9])
    found = label_weight(weight, torch.tensor([2.0, 2.01, 20.0, 20.0]))
    torch.testing.assert_close(found, torch.tensor([0.6, 0.7005, 0.5, 1.0]), rtol=0, atol=1e-6)
    many = torch.rand(100)
    assert (label_weight(many, 5 * torch.rand(100)) >= many).all()


def test_the_weight_is_the_old_ones():
    old, new = torch.ones(1, 2), torch.zeros(1, 2)
    shares = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    items, labels = adpmix(old, new, *shares, torch.tensor([0.8]), torch.tensor([0.9]))
    assert torch.equal(items, torch.full((1, 2), 0.8))
    torch.testing.assert_close(labels, torch.tensor([[0.9, 0.1]]))
    items, _ = adpmix(new, old, *shares, torch.tensor([0.8]), torch.tensor([0.9]))
    torch.testing.assert_close(items, torch.full((1, 2), 0.2))


def test_ratio_is_of_the_class_rows_and_has_no_gradient():
    model = nn.Sequential(nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 4), nn.Linear(4, 9))
    new, old = torch.tensor([0, 3]), torch.tensor([1, 1])
    found = length_ratio(model, 4, new, old)
    norms = model[2].weight.detach().norm(dim=1)
    torch.testing.assert_close(found, norms[new] / norms[old])
    assert not found.requires_grad
    assert torch.equal(length_ratio(model, 7, new, old), torch.ones(2))


def test_mixing_with_the_old_lifts_the_old_class():
    """For equal outputs a new item lowers the old class's weights, a mixture raises them."""

    def gradient(shares, feature):
        weight = torch.zeros(2, 3, requires_grad=True)
        functional.cross_entropy(feature @ weight.T, shares).backward()
        return weight.grad[0] @ feature[0]

    feature = torch.tensor([[0.5, 1.0, 2.0]])
    assert gradient(torch.tensor([[0.0, 1.0]]), feature) > 0  # a step goes down
    _, shares = adpmix(
        feature, feature, torch.eye(2)[:1], torch.eye(2)[1:], torch.tensor([0.8]),
        torch.tensor([0.8]),
    )  # fmt: skip
    assert gradient(shares, feature) < 0


def test_what_is_remembered_does_not_hang_on_the_mixing(tmp_path):
    kept = [
        list(trained(tmp_path / str(enmix), enmix=enmix).method.methods)[0].memory.everything()
        for enmix in (True, False)
    ]
    assert same(*kept)


def test_it_mixes_what_der_remembers_too(tmp_path):
    engine = trained(tmp_path, replay=DERpp(capacity=30, replay=10, online=True))
    for _, own, before, _, shares in noted(engine)[2:]:
        assert len(before["label"]) == own + 20
        assert len(shares) >= 40


def test_alone_it_is_plain_training(tmp_path):
    plain = toy_engine(tmp_path / "plain", FineTune(), tasks=2)
    alone = toy_engine(tmp_path / "alone", DualMix(noise), tasks=2)
    plain.run()
    alone.run()
    assert same(plain.modules.state_dict(), alone.modules.state_dict())


def test_it_notes_how_often_labels_were_moved(tmp_path):
    engine = trained(tmp_path, imbalance=0.0, bonus=0.3)
    lines = (engine.folder.path / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    found = [event for event in events if event["event"] == "adpmix"]
    assert [event["task"] for event in found] == ["attack_0", "attack_1"]
    assert all(0 <= event["moved"] <= event["pairs"] for event in found)


@pytest.mark.parametrize("wrong", [{"concentration": 0.0}, {"weight": -1.0}])
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="must be above 0"):
        DualMix(noise, **wrong)


def test_the_label_moves_and_the_item_does_not(tmp_path, monkeypatch):
    from speechcl.methods import dualmix

    given, moved, mixed = [], [], []

    def label(weight, ratio, **options):
        given.append(weight)
        moved.append(label_weight(weight, ratio, **options))
        return moved[-1]

    def mix(old, new, old_targets, new_targets, weight, label_share):
        mixed.append((weight, label_share))
        return adpmix(old, new, old_targets, new_targets, weight, label_share)

    monkeypatch.setattr(dualmix, "label_weight", label)
    monkeypatch.setattr(dualmix, "adpmix", mix)
    replay = ER(capacity=30, replay=10, online=True)
    class_engine(tmp_path, Chain([replay, DualMix(noise, imbalance=0.0, bonus=0.3)])).run()
    assert any(not torch.equal(*pair) for pair in mixed)
    for weight, shown, (item, share) in zip(given, moved, mixed, strict=True):
        assert item is weight
        assert share is shown
