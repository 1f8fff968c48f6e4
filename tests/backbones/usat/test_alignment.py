"""Monotonic alignment search against every possible way, and a peer; expansion; likelihood."""

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechcl.backbones.usat.alignment import (
    alignment_durations,
    diagonal_guide,
    expand,
    gaussian_log_likelihood,
    monotonic_alignment,
)

X_LENGTHS, Y_LENGTHS = torch.tensor([5, 1, 3, 4, 2]), torch.tensor([8, 6, 3, 5, 7])


def every_way(phonemes, frames):
    """All lists of durations of at least 1 with the sum of the frames."""
    for cuts in combinations(range(1, frames), phonemes - 1):
        yield [b - a for a, b in zip((0, *cuts), (*cuts, frames), strict=True)]


def score(log_likelihood, durations):
    total, frame = 0.0, 0
    for phoneme, duration in enumerate(durations):
        for _ in range(duration):
            total += float(log_likelihood[phoneme, frame])
            frame += 1
    return total


def best_way(log_likelihood, phonemes, frames):
    return max(every_way(phonemes, frames), key=lambda way: score(log_likelihood, way))


@pytest.mark.parametrize("seed", range(8))
def test_no_way_is_likelier(seed):
    values = torch.randn(5, 5, 8, generator=torch.Generator().manual_seed(seed))
    found = alignment_durations(values, X_LENGTHS, Y_LENGTHS)
    assert found.dtype == torch.int64
    for item, (x, y) in enumerate(zip(X_LENGTHS.tolist(), Y_LENGTHS.tolist(), strict=True)):
        assert found[item, :x].tolist() == best_way(values[item], x, y)
        assert found[item, x:].eq(0).all()


@pytest.mark.parametrize("seed", range(4))
def test_among_equal_ways_one_of_the_best_is_found(seed):
    values = torch.randint(-1, 2, (5, 5, 8), generator=torch.Generator().manual_seed(seed)).float()
    found = alignment_durations(values, X_LENGTHS, Y_LENGTHS)
    assert torch.equal(found, alignment_durations(values, X_LENGTHS, Y_LENGTHS))
    for item, (x, y) in enumerate(zip(X_LENGTHS.tolist(), Y_LENGTHS.tolist(), strict=True)):
        way = found[item, :x].tolist()
        assert score(values[item], way) == score(values[item], best_way(values[item], x, y))


def test_where_all_is_alike_the_last_phoneme_lasts():
    found = alignment_durations(torch.zeros(1, 3, 6), torch.tensor([3]), torch.tensor([6]))
    assert found.tolist() == [[1, 1, 4]]


@pytest.mark.parametrize("whole", [False, True])
def test_a_peer_finds_the_same(whole):
    peer = pytest.importorskip("monotonic_alignment_search")
    torch.manual_seed(0)
    values = torch.randn(6, 40, 90)
    x_lengths, y_lengths = (
        torch.tensor([40, 39, 1, 17, 40, 8]),
        torch.tensor([90, 39, 7, 88, 41, 90]),
    )
    if whole:
        values = values.round()  # many ways are alike
    mask = (torch.arange(40)[:, None] < x_lengths[:, None, None]) & (
        torch.arange(90) < y_lengths[:, None, None]
    )
    path = peer.maximum_path(values, mask.float())
    assert torch.equal(alignment_durations(values, x_lengths, y_lengths), path.sum(2).long())


@given(seed=st.integers(0, 9999), batch=st.integers(1, 4), data=st.data())
@settings(max_examples=30, deadline=None)
def test_each_frame_has_one_phoneme_and_each_phoneme_a_frame(seed, batch, data):
    phonemes = data.draw(st.integers(1, 9))
    frames = data.draw(st.integers(phonemes, 20))
    x_lengths = [data.draw(st.integers(1, phonemes)) for _ in range(batch)]
    y_lengths = [data.draw(st.integers(x, frames)) for x in x_lengths]
    values = torch.randn(batch, phonemes, frames, generator=torch.Generator().manual_seed(seed))
    lengths = torch.tensor(x_lengths), torch.tensor(y_lengths)
    found = alignment_durations(values, *lengths)
    assert found.sum(1).tolist() == y_lengths
    assert torch.equal(found > 0, torch.arange(phonemes) < lengths[0][:, None])


@pytest.mark.parametrize("rubbish", [1e4, float("inf"), float("nan")])
def test_padding_changes_nothing(rubbish):
    torch.manual_seed(0)
    values = torch.randn(5, 5, 8)
    padded = values.clone()
    for item, (x, y) in enumerate(zip(X_LENGTHS, Y_LENGTHS, strict=True)):
        padded[item, x:] = rubbish
        padded[item, :, y:] = rubbish
    found = alignment_durations(padded, X_LENGTHS, Y_LENGTHS)
    assert torch.equal(found, alignment_durations(values, X_LENGTHS, Y_LENGTHS))


@pytest.mark.parametrize("value", [float("-inf"), float("inf"), float("nan")])
def test_a_model_that_has_burst_still_gets_durations(value):
    found = alignment_durations(torch.full((5, 5, 8), value), X_LENGTHS, Y_LENGTHS)
    assert found.sum(1).tolist() == Y_LENGTHS.tolist()
    assert torch.equal(found > 0, torch.arange(5) < X_LENGTHS[:, None])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_are_read_as_float32_and_no_gradient_flows(dtype):
    torch.manual_seed(0)
    values = torch.randn(5, 5, 8, dtype=dtype, requires_grad=True)
    found = alignment_durations(values, X_LENGTHS.int(), Y_LENGTHS.int())
    assert torch.equal(found, alignment_durations(values.detach().float(), X_LENGTHS, Y_LENGTHS))
    assert not found.requires_grad


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([2, 3], [4, 2], "item 1 has 2 frames for 3 phonemes"),
        ([0, 3], [4, 4], "item 0 has lengths of 0 phonemes"),
        ([2, 4], [4, 4], "item 1 has lengths of 4 phonemes and 4 frames, .* 1 to 3 and up to 4"),
        ([2, 3], [4, 5], "item 1 has lengths of 3 phonemes and 5 frames"),
    ],
)
def test_lengths_that_cannot_be_are_named(x, y, message):
    with pytest.raises(ValueError, match=message):
        alignment_durations(torch.zeros(2, 3, 4), torch.tensor(x), torch.tensor(y))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_finds_the_same():
    torch.manual_seed(0)
    values, x_lengths = torch.randn(4, 30, 80).round(), torch.tensor([30, 7, 22, 1])
    y_lengths = torch.tensor([80, 30, 22, 3])
    found = alignment_durations(values.cuda(), x_lengths.cuda(), y_lengths.cuda())
    assert torch.equal(found.cpu(), alignment_durations(values, x_lengths, y_lengths))


@pytest.mark.parametrize("frames", [9, 7, 3])
def test_expansion_repeats_each_phoneme(frames):
    x = torch.randn(3, 2, 4)
    durations = torch.tensor([[1, 3, 2, 1], [2, 0, 1, 0], [0, 0, 0, 0]])
    expected = torch.zeros(3, 2, 9)
    for item in range(3):
        repeated = x[item].repeat_interleave(durations[item], dim=1)
        expected[item, :, : repeated.shape[1]] = repeated
    assert torch.equal(expand(x, durations, frames), expected[:, :, :frames])


def test_a_gradient_comes_back_once_for_each_frame():
    x = torch.randn(2, 3, 4, requires_grad=True)
    durations = torch.tensor([[1, 3, 2, 1], [2, 1, 1, 0]])
    expand(x, durations, 8).sum().backward()
    assert torch.equal(x.grad, durations[:, None].expand(2, 3, 4).float())


def test_likelihood_is_that_of_the_gaussians():
    torch.manual_seed(0)
    latent, mean = torch.randn(2, 6, 7), torch.randn(2, 6, 3)
    log_scale = 0.5 * torch.randn(2, 6, 3)
    normal = torch.distributions.Normal(
        mean[..., None].double(), log_scale[..., None].exp().double()
    )
    expected = normal.log_prob(latent[:, :, None]).sum(1)
    found = gaussian_log_likelihood(latent, mean, log_scale)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)
    assert found.mT.is_contiguous()  # so that the search need not copy


def test_likelihood_is_in_float32_inside_of_autocast():
    torch.manual_seed(0)
    parts = torch.randn(2, 6, 7), torch.randn(2, 6, 3), torch.randn(2, 6, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gaussian_log_likelihood(*parts)
        halved = gaussian_log_likelihood(*(part.bfloat16() for part in parts))
    assert torch.equal(found, gaussian_log_likelihood(*parts))
    assert halved.dtype == torch.float32


def test_the_guide_is_a_bell_around_the_diagonal():
    x_lengths, y_lengths, width = [3, 2], [4, 7], 0.2
    guide = diagonal_guide(torch.tensor(x_lengths), torch.tensor(y_lengths), 4, 7, width)
    assert guide.shape == (2, 4, 7)
    assert guide.mT.is_contiguous(), "as the search reads it"
    for item, (phonemes, frames) in enumerate(zip(x_lengths, y_lengths, strict=True)):
        for x in range(phonemes):
            for y in range(frames):
                away = ((x + 0.5) / phonemes - (y + 0.5) / frames) / width
                assert guide[item, x, y] == pytest.approx(-away * away / 2, abs=1e-6)


def test_alone_the_guide_gives_every_phoneme_as_long():
    lengths = torch.tensor([4]), torch.tensor([12])
    assert alignment_durations(diagonal_guide(*lengths, 4, 12), *lengths).tolist() == [[3] * 4]


def test_the_path_is_one_where_a_frame_is_of_a_phoneme():
    values = torch.randn(5, 5, 8, generator=torch.Generator().manual_seed(0))
    path = monotonic_alignment(values, X_LENGTHS, Y_LENGTHS)
    assert path.shape == values.shape
    assert torch.equal(path.sum(2).long(), alignment_durations(values, X_LENGTHS, Y_LENGTHS))
    inside = torch.arange(8) < Y_LENGTHS[:, None]
    assert torch.equal(path.sum(1), inside.float()), "each frame is of one phoneme, padding of none"
    for item in path:
        of_frame = item.argmax(0)[item.sum(0) > 0]
        assert bool((of_frame.diff() >= 0).all())
