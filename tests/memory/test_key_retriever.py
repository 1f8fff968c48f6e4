"""Keys are learnt, kept and compared as the equations say; each query is weighed by itself."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from speechcl.checkpoints import check_plain
from speechcl.memory import KeyRetriever
from speechcl.memory.key_retriever import key_loss

WIDTH, QUICK, WELL = 12, {"epochs": 1, "least_steps": 5}, {"least_steps": 150, "lr": 0.01}


def queries(seed, items=40, width=WIDTH, centre=0.0):
    generator = torch.Generator().manual_seed(seed)
    return centre + torch.randn(items, width, generator=generator)


def centres(tasks, width=WIDTH, size=3.0):
    return size * torch.randn(tasks, width, generator=torch.Generator().manual_seed(99))


def learnt(tasks=3, seed=0, **options):
    """Return a retriever that has looked at well-separated tasks, all with an offset."""
    torch.manual_seed(seed)
    retriever = KeyRetriever(**{"groups": 2, **options})
    for task, centre in enumerate(centres(tasks)):
        retriever.learn(queries(task, centre=10 + centre), **QUICK)
    return retriever


def by_hand(retriever, rows, tasks=None):
    """Weigh the slots query by query, group by group, slot by slot."""
    groups, total, width = retriever.groups, retriever.keys.shape[1], rows.shape[1]
    channels = width // groups
    found = torch.zeros(len(rows), total, dtype=torch.float64)
    for n, row in enumerate(rows.double()):
        row = (row - retriever.mean.double()) / retriever.scale.double()
        similar = {}
        for slot in range(total):
            if tasks is not None and slot // retriever.slots not in tasks:
                continue
            votes = []
            for group in range(groups):
                part = row[group * channels : (group + 1) * channels].tolist()
                if retriever.whiten:
                    part.append(math.sqrt(channels))
                key = retriever.keys[group, slot].tolist()
                dot = sum(a * b for a, b in zip(part, key, strict=True))
                length = math.hypot(*part) * math.hypot(*key)
                votes.append(dot / length if length else 0.0)
            similar[slot] = max(0.0, sum(votes) / groups)
        best = sorted(similar, key=similar.get, reverse=True)[: retriever.retrieved]
        total_similarity = sum(similar[slot] for slot in best)
        for slot in best:
            if total_similarity > 0:
                found[n, slot] = similar[slot] / total_similarity
    return found


@pytest.mark.parametrize("whiten", [True, False])
@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("tasks", [None, [1], [0, 2]])
def test_weights_are_those_of_a_loop_over_everything(whiten, groups, tasks):
    retriever = learnt(whiten=whiten, groups=groups, retrieved=3)
    rows = torch.cat([queries(7, items=4, centre=10 + c) for c in [*centres(3), -15]])
    expected = by_hand(retriever, rows, tasks)
    torch.testing.assert_close(retriever(rows, tasks).double(), expected, rtol=0, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    groups=st.integers(1, 3),
    slots=st.integers(1, 3),
    retrieved=st.integers(1, 8),
    tasks=st.integers(1, 3),
    seed=st.integers(0, 999),
)
def test_weights_are_a_mixture_of_few_slots(groups, slots, retrieved, tasks, seed):
    retriever = KeyRetriever(groups, slots, retrieved, chosen=1)
    retriever.build({"tasks": tasks + 1, "width": WIDTH})
    torch.manual_seed(seed)
    learnt_slots = tasks * slots  # the last task has room, but has not been learnt
    retriever.keys[:, :learnt_slots].normal_()
    weights = retriever(queries(seed))
    assert (weights >= 0).all()
    assert ((weights > 0).sum(1) <= retrieved).all()
    assert torch.equal(weights[:, learnt_slots:], torch.zeros_like(weights[:, learnt_slots:]))
    some = weights.any(dim=1)
    torch.testing.assert_close(weights.sum(1), some.float(), rtol=0, atol=1e-6)


def test_a_query_that_is_like_no_key_gets_no_slot():
    retriever = KeyRetriever(groups=1, slots=1, chosen=1, whiten=False)
    retriever.build({"tasks": 2, "width": 2})
    retriever.keys.copy_(torch.tensor([[[1.0, 0.0], [0.6, 0.8]]]))
    weights = retriever(torch.tensor([[-1.0, -1.0], [0.0, 0.0], [0.8, -0.6], [0.0, -1.0]]))
    expected = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-6)
    assert torch.equal(weights == 0, expected == 0)


def test_lengths_of_queries_do_not_count():
    retriever = learnt(whiten=False)
    rows = queries(5)
    torch.testing.assert_close(retriever(rows), retriever(1000 * rows))


def test_neighbours_in_the_batch_matter_to_the_batch_mode_alone():
    retriever = learnt()
    rows = torch.cat([queries(4, items=5, centre=10 + one) for one in centres(3)])
    alone = torch.cat([retriever(row[None]) for row in rows])
    torch.testing.assert_close(retriever(rows), alone, rtol=0, atol=1e-6)
    together = retriever.over_batch(rows)
    assert (together[0] - retriever.over_batch(rows[:1])[0]).abs().max() > 0.01
    assert torch.equal(together, together[:1].expand(len(rows), -1))
    for row in rows:
        torch.testing.assert_close(
            retriever.over_batch(row[None]), retriever(row[None]), rtol=0, atol=1e-6
        )


def test_batch_mode_weighs_the_mean_similarity():
    retriever = learnt(whiten=False, retrieved=3)
    rows = queries(4, items=6, centre=3.0)
    parts = functional.normalize(rows.reshape(6, 2, 6), dim=2)
    mean = torch.stack([parts[:, g] @ retriever.keys[g].T for g in range(2)]).mean((0, 1)).relu()
    best = sorted(range(12), key=lambda slot: -mean[slot])[:3]
    expected = torch.zeros(12)
    expected[best] = mean[best] / mean[best].sum()
    torch.testing.assert_close(retriever.over_batch(rows)[2], expected)
    only = retriever.over_batch(rows, tasks=[1])[0]
    assert only[:4].sum() == only[8:].sum() == 0
    assert only.sum() == pytest.approx(1)


@pytest.mark.parametrize("task", [0, 1, 2])
def test_the_oracle_equals_a_memory_that_holds_this_task_alone(task):
    retriever = learnt(retrieved=2)
    rows = torch.cat([queries(6, centre=10 + one) for one in centres(3)])
    mine = retriever.owners() == task
    alone = copy.deepcopy(retriever)
    alone.keys = retriever.keys[:, mine]
    weights = retriever(rows, tasks=[task])
    torch.testing.assert_close(weights[:, mine], alone(rows), rtol=0, atol=1e-6)
    assert not weights[:, ~mine].any()


def test_slots_belong_to_their_tasks_in_order():
    retriever = learnt(tasks=2, slots=3)
    assert retriever.tasks == 2
    assert retriever.owners().tolist() == [0, 0, 0, 1, 1, 1]
    weights = torch.tensor([[0.5, 0.0, 0.25, 0.0, 0.25, 0.0]])
    assert retriever.by_task(weights).tolist() == [[0.75, 0.25]]


# ---- learning


def test_a_single_key_becomes_the_mean_direction():
    torch.manual_seed(0)
    rows = functional.normalize(queries(1, items=300, centre=0.4), dim=1)
    retriever = KeyRetriever(1, slots=1, mask_probability=0, chosen=1, whiten=False)
    retriever.learn(rows, **WELL)
    mean = functional.normalize(rows.mean(0), dim=0)
    assert float(retriever.keys[0, 0] @ mean) >= 0.99
    assert float(retriever.keys[0, 0].norm()) == pytest.approx(1)


@pytest.mark.parametrize("width", [8, 512])
def test_a_single_key_gets_there_at_any_width(width):
    torch.manual_seed(1)
    rows = queries(1, items=30, width=width, centre=0.5)
    retriever = KeyRetriever(1, slots=1, mask_probability=0, chosen=1, whiten=False)
    retriever.learn(rows, **WELL)
    mean = functional.normalize(functional.normalize(rows, dim=1).mean(0), dim=0)
    assert float(retriever.keys[0, 0] @ mean) >= 0.99


def test_untrained_keys_are_orthonormal_in_every_group():
    torch.manual_seed(0)
    retriever = KeyRetriever(groups=3, slots=4, whiten=False)
    retriever.learn(queries(0), lr=0.0, **QUICK)
    for keys in retriever.keys:
        torch.testing.assert_close(keys @ keys.T, torch.eye(4), rtol=0, atol=1e-5)


def loss_by_hand(units, keys, hidden, chosen):
    cosines = []
    for n in range(units.shape[0]):
        for group in range(units.shape[1]):
            seen = [slot for slot in range(keys.shape[1]) if not hidden[n, group, slot]]
            cosine = {
                slot: float(units[n, group] @ keys[group, slot] / keys[group, slot].norm())
                for slot in seen
            }
            cosines += sorted(cosine.values(), reverse=True)[:chosen]
    return -sum(cosines) / len(cosines)


@pytest.mark.parametrize("chosen", [1, 2, 4])
@pytest.mark.parametrize("probability", [0.0, 0.3])
def test_the_loss_is_that_of_a_loop_over_everything(chosen, probability):
    torch.manual_seed(3)
    units = functional.normalize(torch.randn(9, 2, 5), dim=2)
    keys, hidden = 3 * torch.randn(2, 4, 5), torch.rand(9, 2, 4) < probability
    loss = key_loss(units, keys, hidden, chosen)
    assert float(loss) == pytest.approx(loss_by_hand(units, keys, hidden, chosen), abs=1e-5)


def learnt_by_hand(units, slots, probability, chosen, epochs, batch_size, lr):
    """Train keys (groups, slots, channels) with AdamW and a clipped gradient, step by step."""
    _, groups, channels = units.shape
    keys = torch.linalg.qr(torch.randn(groups, channels, slots)).Q.mT.clone()
    first, second, step = torch.zeros_like(keys), torch.zeros_like(keys), 0
    for epoch in range(epochs):
        rate = lr * math.sqrt(128 / channels) * (0.1 if epoch >= 2 * epochs / 3 else 1)
        for places in torch.randperm(len(units)).split(batch_size):
            hidden = torch.rand(len(places), groups, slots) < probability
            leaf = keys.clone().requires_grad_()
            (grad,) = torch.autograd.grad(key_loss(units[places], leaf, hidden, chosen), leaf)
            grad = grad * min(1.0, 0.1 / float(grad.norm()))
            step += 1
            first, second = 0.9 * first + 0.1 * grad, 0.999 * second + 0.001 * grad**2
            corrected = (second / (1 - 0.999**step)).sqrt() + 1e-8
            keys = keys * (1 - rate * 0.01) - rate * first / (1 - 0.9**step) / corrected
    return functional.normalize(keys, dim=2)


def test_learning_is_the_released_loop():
    rows = queries(0, centre=1.0) * torch.linspace(0.1, 9, 40)[:, None]
    units = functional.normalize(rows.unflatten(1, (2, 6)), dim=2)
    torch.manual_seed(7)
    expected = learnt_by_hand(units, 4, 0.25, 2, epochs=3, batch_size=16, lr=0.02)
    torch.manual_seed(7)
    retriever = KeyRetriever(groups=2, whiten=False)
    retriever.learn(rows, lr=0.02, least_steps=0)
    torch.testing.assert_close(retriever.keys, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("chosen", [1, 3])
def test_hidden_keys_get_no_gradient_at_all(chosen):
    torch.manual_seed(4)
    units = functional.normalize(torch.randn(9, 2, 5), dim=2)
    keys = torch.randn(2, 4, 5, requires_grad=True)
    hidden = torch.zeros(9, 2, 4, dtype=torch.bool)
    hidden[:, 0, 1] = hidden[:, 1, 3] = hidden[:, 1, 0] = True
    key_loss(units, keys, hidden, chosen).backward()
    moved = keys.grad.abs().sum(2) > 0
    assert not moved[0, 1]
    assert not moved[1, 0]
    assert not moved[1, 3]
    assert moved.any()
    everything = torch.ones_like(hidden)
    assert key_loss(units, keys, everything, chosen).item() == 0


def test_weights_give_no_gradient_to_keys_or_queries():
    retriever, rows = learnt(), queries(1).requires_grad_()
    assert not any(True for _ in retriever.parameters())
    for weights in (retriever(rows), retriever.over_batch(rows)):
        assert not weights.requires_grad


def test_former_keys_and_statistics_never_change():
    retriever = learnt(tasks=1)
    before = {name: value.clone() for name, value in retriever.state_dict().items()}
    rows = queries(0, centre=10 + centres(1))
    weights = retriever(rows, tasks=[0])
    for seed in (1, 2):
        retriever.learn(queries(seed, centre=-20.0), **QUICK)
    assert retriever.tasks == 3
    assert torch.equal(retriever.keys[:, : retriever.slots], before["keys"])
    assert torch.equal(retriever.mean, before["mean"])
    assert torch.equal(retriever.scale, before["scale"])
    assert torch.equal(retriever(rows, tasks=[0])[:, : retriever.slots], weights)


def test_the_same_seed_gives_the_same_keys_and_another_others():
    first, again, other = learnt(seed=5), learnt(seed=5), learnt(seed=6)
    assert torch.equal(first.keys, again.keys)
    assert not torch.allclose(first.keys, other.keys)


def test_few_queries_are_passed_over_until_there_are_enough_steps(monkeypatch):
    steps = []
    step = torch.optim.AdamW.step

    def counted(self, *args):
        steps.append(self.param_groups[0]["lr"])
        return step(self, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", counted)
    KeyRetriever(1, whiten=False).learn(queries(0, items=33, width=128), epochs=3, least_steps=20)
    assert len(steps) == 21, "seven passes of three batches"
    assert steps == pytest.approx([1e-3] * 15 + [1e-4] * 6), "the last two of seven are slow"
    steps.clear()
    KeyRetriever(1, whiten=False).learn(queries(0, items=33, width=32), epochs=3, least_steps=1)
    assert steps == pytest.approx([2e-3] * 6 + [2e-4] * 3), "narrow groups have larger entries"


def test_learning_works_where_no_gradients_are_recorded():
    with torch.no_grad():
        rows = queries(0)
    with torch.inference_mode():
        more = queries(0)
    assert torch.equal(rows, more)
    found = []
    for one in (rows, more):
        torch.manual_seed(0)
        retriever = KeyRetriever(2)
        with torch.no_grad():
            retriever.learn(one, **QUICK)
        found.append(retriever.keys)
    assert torch.equal(*found)


# ---- whitening


def test_whitening_takes_the_statistics_of_the_first_task():
    retriever = KeyRetriever(2)
    first = queries(0, centre=5.0) * 3
    retriever.learn(first, **QUICK)
    retriever.learn(queries(1, centre=-5.0), **QUICK)
    torch.testing.assert_close(retriever.mean, first.mean(0))
    torch.testing.assert_close(retriever.scale, first.std(0, correction=0))
    raw = learnt(tasks=1, whiten=False)
    assert torch.equal(raw.mean, torch.zeros(WIDTH))
    assert torch.equal(raw.scale, torch.ones(WIDTH))


def test_whitening_makes_offset_and_scale_of_channels_irrelevant():
    scale, offset = torch.linspace(0.01, 50, WIDTH), torch.linspace(-100, 30, WIDTH)
    plain, moved = KeyRetriever(2), KeyRetriever(2)
    for retriever, change in ((plain, lambda x: x), (moved, lambda x: x * scale + offset)):
        torch.manual_seed(0)
        for task, centre in enumerate(centres(2)):
            retriever.learn(change(queries(task, centre=centre)), **QUICK)
    rows = queries(9)
    torch.testing.assert_close(plain(rows), moved(rows * scale + offset), rtol=0, atol=1e-3)


@pytest.mark.parametrize("size", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("rounding", [0.0, 1e-6])
def test_a_channel_that_was_constant_counts_like_the_others(size, rounding):
    rows = queries(0)
    rows[:, 3] = 10 + rounding * rows[:, 3]
    retriever = KeyRetriever(2)
    retriever.learn(size * rows, **QUICK)
    usual = retriever.scale[torch.arange(WIDTH) != 3]
    assert usual.min() < retriever.scale[3] < usual.max()
    assert retriever(size * queries(1)).isfinite().all()


@pytest.mark.parametrize("items", [1, 30])
def test_queries_without_any_spread_can_be_learnt(items):
    torch.manual_seed(0)
    retriever = KeyRetriever(2)
    rows = queries(0, items=1).repeat(items, 1)
    retriever.learn(rows, **WELL)
    retriever.learn(rows + 50, **WELL)
    shares = retriever.by_task(retriever(torch.cat([rows[:1], rows[:1] + 50])))
    assert shares.argmax(1).tolist() == [0, 1]


def share_right(whiten, change):
    """Return, task by task, how many new queries retrieve most from their own task."""
    torch.manual_seed(0)
    retriever, around = KeyRetriever(whiten=whiten), centres(4, width=48) + 10
    for task, centre in enumerate(around):
        retriever.learn(change(queries(task, width=48, centre=centre)), **WELL)
    found = []
    for task, centre in enumerate(around):
        weights = retriever(change(queries(70 + task, width=48, centre=centre)))
        found.append(retriever.by_task(weights).argmax(1) == task)
    return torch.stack(found).float().mean(1)


def test_tasks_are_told_apart_the_first_one_too():
    assert share_right(whiten=True, change=lambda rows: rows).min() > 0.9
    first = queries(0, width=48, centre=centres(4, width=48)[0] + 10)
    std, mean = torch.std_mean(first, dim=0)
    standardised = share_right(whiten=False, change=lambda rows: (rows - mean) / std)
    assert standardised[0] < 0.7, "the first task has no direction without the constant channel"
    assert standardised[1:].min() > 0.9


# ---- state


def test_a_new_one_takes_over_exactly():
    retriever = learnt()
    structure = check_plain(retriever.structure())
    assert structure == {"tasks": 3, "width": WIDTH}
    other = KeyRetriever(groups=2)
    for _ in range(2):  # twice is once
        other.build(structure)
        assert other.structure() == structure
    assert not other(queries(1)).any(), "keys of 0 are never retrieved"
    other.load_state_dict(retriever.state_dict())
    assert torch.equal(other(queries(1)), retriever(queries(1)))
    for one in (retriever, other):
        torch.manual_seed(0)
        one.learn(queries(3), **QUICK)
    assert torch.equal(other.keys, retriever.keys)


def test_building_what_is_there_keeps_it():
    retriever = learnt()
    keys = retriever.keys.clone()
    retriever.build({"tasks": 1, "width": WIDTH})
    assert torch.equal(retriever.keys, keys)
    retriever.build({"tasks": 4, "width": WIDTH})
    assert torch.equal(retriever.keys[:, :12], keys)
    assert retriever.tasks == 4


def test_before_the_first_task_there_are_no_slots():
    retriever = KeyRetriever(2)
    assert retriever.structure() == {"tasks": 0, "width": 0}
    retriever.build(retriever.structure())
    for weights in (retriever(queries(0)), retriever.over_batch(queries(0))):
        assert weights.shape == (40, 0)
        assert retriever.by_task(weights).shape == (40, 0)


@pytest.mark.parametrize("changes", [{"groups": 3}, {"slots": 2}, {"whiten": False}])
def test_keys_of_other_settings_cannot_be_loaded(changes):
    other = KeyRetriever(**{"groups": 2, **changes})
    other.build(learnt().structure())
    with pytest.raises(RuntimeError, match="size mismatch"):
        other.load_state_dict(learnt().state_dict())


def test_autocast_does_not_change_the_weights():
    retriever, rows = learnt(), queries(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(retriever(rows), retriever.forward(rows))
        inside = retriever(rows)
    assert torch.equal(inside, retriever(rows))


# ---- bad input


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"groups": 0}, "groups is 0"),
        ({"slots": 0}, "slots 0"),
        ({"retrieved": 0}, "retrieved 0"),
        ({"chosen": 0}, "chosen is 0: set it from 1 to 4"),
        ({"chosen": 5}, "chosen is 5: set it from 1 to 4"),
        ({"mask_probability": 1.0}, r"mask_probability is 1.0: .* \[0, 1\)"),
        ({"mask_probability": -0.1}, "mask_probability is -0.1"),
    ],
)
def test_numbers_out_of_range_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        KeyRetriever(**options)


def test_unfit_widths_are_refused():
    with pytest.raises(ValueError, match="10 wide, which 6 groups do not divide"):
        KeyRetriever().learn(queries(0, width=10))
    with pytest.raises(ValueError, match="2 channels, too few for 4 slots"):
        KeyRetriever().learn(queries(0, width=12))
    with pytest.raises(ValueError, match="10 wide, which 6 groups do not divide"):
        KeyRetriever().build({"tasks": 1, "width": 10})
    retriever = learnt(tasks=1)
    for use in (retriever, retriever.over_batch, retriever.learn):
        with pytest.raises(ValueError, match="14 wide but the keys were made with 12"):
            use(queries(0, width=14))
    with pytest.raises(ValueError, match="14 wide but the keys were made with 12"):
        retriever.build({"tasks": 1, "width": 14})


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_queries_that_are_not_finite_are_refused(bad):
    retriever, rows = learnt(tasks=1), queries(0)
    before = retriever.keys.clone()
    rows[3, 4] = bad
    for use in (retriever, retriever.over_batch, retriever.learn):
        with pytest.raises(ValueError, match="queries hold NaN or infinity"):
            use(rows)
    assert torch.equal(retriever.keys, before)


def test_other_bad_input_is_refused():
    retriever = learnt(tasks=2)
    with pytest.raises(ValueError, match=r"\(batch, width\), not \(12,\)"):
        retriever(queries(0)[0])
    with pytest.raises(ValueError, match="no queries"):
        retriever.learn(queries(0)[:0])
    with pytest.raises(ValueError, match="batch_size 0"):
        retriever.learn(queries(0), batch_size=0)
    for task in (2, -1):
        with pytest.raises(ValueError, match=f"no slots of task {task}: 2 tasks were learnt"):
            retriever(queries(0), tasks=[0, task])
