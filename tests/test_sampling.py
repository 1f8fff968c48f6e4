"""The order of training data: the same for any number of processes, and from any point on."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from speechcl import sampling
from speechcl.sampling import EpochBatches

sizes = st.integers(1, 200)
batch_sizes = st.integers(1, 40)
many = settings(max_examples=150, deadline=None)


def of_process(rank, processes, *args, epoch=1):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "world", lambda: (rank, processes))
        batches = EpochBatches(*args)
    batches.set_epoch(epoch)
    return batches


def epoch_of(*args, epoch=1):
    return list(of_process(0, 1, *args, epoch=epoch))


@many
@given(size=sizes, batch=batch_sizes, seed=st.integers(0, 10**9), epoch=st.integers(1, 50))
def test_an_epoch_has_every_item_exactly_once(size, batch, seed, epoch):
    found = epoch_of(size, batch, seed, epoch=epoch)
    assert sorted(i for one in found for i in one) == list(range(size))
    assert len(found) == len(EpochBatches(size, batch, seed))


@many
@given(size=sizes, batch=batch_sizes)
def test_batches_are_full_but_for_a_last_of_half_to_one_and_a_half(size, batch):
    lengths = [len(one) for one in epoch_of(size, batch, 0)]
    assert all(length == batch for length in lengths[:-1])
    assert lengths[-1] < 1.5 * batch
    assert len(lengths) == 1 or lengths[-1] >= 0.5 * batch


@many
@given(
    size=sizes,
    batch=batch_sizes,
    seed=st.integers(0, 99),
    epoch=st.integers(1, 5),
    processes=st.integers(1, 6),
)
def test_processes_share_the_batches_of_one(size, batch, seed, epoch, processes):
    try:
        parts = [
            list(of_process(rank, processes, size, batch, seed, epoch=epoch))
            for rank in range(processes)
        ]
    except ValueError:
        assume(False)
    whole = epoch_of(size, batch, seed, epoch=epoch)
    assert all(len(part) == len(whole) for part in parts)
    for number, expected in enumerate(whole):
        slices = [part[number] for part in parts]
        assert sum(slices, []) == expected
        lengths = [len(one) for one in slices]
        assert max(lengths) - min(lengths) <= 1


@many
@given(size=sizes, batch=batch_sizes, processes=st.integers(2, 6))
def test_no_process_ever_gets_nothing(size, batch, processes):
    # the mean loss over no item is not a number: such sizes must be refused
    try:
        parts = [of_process(rank, processes, size, batch, 0) for rank in range(processes)]
    except ValueError:
        assume(False)
    assert all(one for part in parts for one in part)


@many
@given(size=sizes, batch=batch_sizes, data=st.data())
def test_start_skips_what_was_done(size, batch, data):
    whole = epoch_of(size, batch, 3, epoch=2)
    batches = of_process(0, 1, size, batch, 3, epoch=2)
    batches.start = data.draw(st.integers(0, len(whole)))
    assert list(batches) == whole[batches.start :]


def test_order_depends_on_seed_and_epoch_alone():
    assert epoch_of(50, 8, 1, epoch=1) == epoch_of(50, 8, 1, epoch=1)
    orders = [epoch_of(50, 8, seed, epoch=epoch) for seed in (1, 2) for epoch in (1, 2, 3)]
    flat = [tuple(i for one in order for i in one) for order in orders]
    assert len(set(flat)) == 6
    assert tuple(range(50)) not in flat


def test_batch_size_does_not_change_the_order():
    small, large = epoch_of(50, 4, 1), epoch_of(50, 16, 1)
    assert sum(small, []) == sum(large, [])


@pytest.mark.parametrize(("size", "batch"), [(0, 4), (4, 0), (-1, 4)])
def test_nothing_to_train_on_is_refused(size, batch):
    with pytest.raises(ValueError, match="at least 1"):
        EpochBatches(size, batch, 0)


@pytest.mark.parametrize(("size", "batch"), [(3, 8), (50, 6), (50, 1)])
def test_too_few_items_for_the_processes_are_refused(size, batch):
    with pytest.raises(
        ValueError, match=f"{size} training items in batches of {batch} are too few"
    ):
        of_process(0, 4, size, batch, 0)


def test_half_a_batch_for_each_process_is_enough():
    assert all(len(one) == 1 for one in list(of_process(0, 4, 12, 8, 0))[1:])
