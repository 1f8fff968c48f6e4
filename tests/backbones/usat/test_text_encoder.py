"""Relative attention against a loop over pairs, and what the phoneme encoder must keep."""

import math

import pytest
import torch
from torch.nn import functional

from speechcl.backbones.usat.text_encoder import (
    PhonemeEncoder,
    RelativeAttention,
    from_band,
    to_band,
)
from tests.backbones.usat.point_adapters import (
    Careless,
    Seen,
    drawn,
    garbled,
    mask_of,
    points,
    put,
    put_fresh,
)

CHANNELS, LENGTHS = 8, [9, 4, 1]


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def an_encoder(**settings):
    settings = {"latent": 3, "heads": 2, "layers": 2, "window": 2} | settings
    return drawn(PhonemeEncoder(20, CHANNELS, 12, **settings))


def slow(attention, x, frames):
    """Equations 3 and 4 of Shaw et al. for one item, head by head, pair by pair."""
    project = {}
    for name in ("query", "key", "value"):
        layer = getattr(attention, name)
        project[name] = layer.weight[:, :, 0] @ x + layer.bias[:, None]
    size, window = CHANNELS // attention.heads, attention.window
    seen = torch.zeros(CHANNELS, frames)
    for head in range(attention.heads):
        rows = slice(head * size, (head + 1) * size)
        q, k, v = (project[name][rows] for name in ("query", "key", "value"))
        for i in range(frames):
            keys, values = [], []
            for j in range(frames):
                near = abs(j - i) <= window
                of = j - i + window
                keys.append(k[:, j] + (attention.relative_keys[of] if near else 0))
                values.append(v[:, j] + (attention.relative_values[of] if near else 0))
            scores = torch.stack([q[:, i] @ key / math.sqrt(size) for key in keys])
            weights = scores.exp() / scores.exp().sum()
            seen[rows, i] = sum(w * value for w, value in zip(weights, values, strict=True))
    return attention.output.weight[:, :, 0] @ seen + attention.output.bias[:, None]


@pytest.mark.parametrize(("heads", "window"), [(1, 0), (2, 2), (4, 3), (2, 12)])
def test_attention_is_the_equations_pair_by_pair(heads, window):
    attention = drawn(RelativeAttention(CHANNELS, heads, window, dropout=0.0))
    x, mask = torch.randn(3, CHANNELS, 9), mask_of(LENGTHS)
    found = attention(x, mask)
    for k, frames in enumerate(LENGTHS):
        expected = slow(attention, x[k, :, :frames], frames)
        torch.testing.assert_close(found[k, :, :frames], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("window", [0, 1, 4, 7])
def test_bands_are_laid_out_by_distance(window):
    band = torch.randn(2, 5, 2 * window + 1)
    square = from_band(band)
    assert square.shape == (2, 5, 5)
    for i in range(5):
        for j in range(5):
            inside = abs(j - i) <= window
            expected = band[:, i, j - i + window] if inside else torch.zeros(2)
            assert torch.equal(square[:, i, j], expected)
    assert torch.equal(from_band(to_band(square, window)), square)
    real = from_band(torch.ones_like(band))
    assert torch.equal(to_band(square, window), band * to_band(real, window))


def test_the_whole_is_its_layers_in_a_row():
    encoder, ids, mask = an_encoder(), torch.randint(20, (3, 9)), mask_of(LENGTHS)
    h, mean, log_scale = encoder(ids, mask)
    x = functional.embedding(ids, encoder.embed.weight).transpose(1, 2) * math.sqrt(CHANNELS)
    x = x * mask

    def norm(x, layer):
        centred = x - x.mean(1, keepdim=True)
        unit = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
        return unit * layer.weight[:, None] + layer.bias[:, None]

    for layer in encoder.layers:
        x = norm(x + layer.attention(x, mask), layer.attention_norm)
        wide, narrow = layer.feed_forward.widen, layer.feed_forward.narrow
        hidden = functional.conv1d(x * mask, wide.weight, wide.bias, padding=1).relu()
        more = functional.conv1d(hidden * mask, narrow.weight, narrow.bias, padding=1)
        x = norm(x + more, layer.feed_forward_norm)
    torch.testing.assert_close(h, x * mask, rtol=1e-4, atol=1e-5)
    both = (encoder.leave.weight[:, :, 0] @ h + encoder.leave.bias[:, None]) * mask
    torch.testing.assert_close(mean, both[:, :3])
    torch.testing.assert_close(log_scale, both[:, 3:])


@pytest.mark.parametrize("adapter", [None, Careless])
def test_padding_does_not_matter(adapter):
    encoder, ids, mask = an_encoder(), torch.randint(20, (3, 9)), mask_of(LENGTHS)
    if adapter:
        put(encoder, adapter)
    together = encoder(ids, mask)
    garbage = torch.where(mask[:, 0] > 0, ids, torch.randint(20, ids.shape))
    for garbled_part, part in zip(encoder(garbage, mask), together, strict=True):
        assert torch.equal(garbled_part, part)
        assert (part * (1 - mask)).abs().sum() == 0
    for k, frames in enumerate(LENGTHS):
        one = slice(k, k + 1)
        alone = encoder(ids[one, :frames], mask[one, :, :frames])
        for part, single in zip(together, alone, strict=True):
            torch.testing.assert_close(part[one, :, :frames], single, rtol=1e-4, atol=1e-5)


def test_attention_does_not_look_at_padding_that_holds_something():
    attention = put(drawn(RelativeAttention(CHANNELS, 2, 2, dropout=0.0)), Careless)
    x, mask = torch.randn(3, CHANNELS, 9), mask_of(LENGTHS)
    assert torch.equal(attention(x, mask) * mask, attention(garbled(x, mask), mask) * mask)


def test_an_item_without_phonemes_is_zero_not_nan():
    parts = an_encoder()(torch.randint(20, (2, 9)), mask_of([9, 0]))
    assert all(part[1].abs().sum() == 0 and part.isfinite().all() for part in parts)


def test_a_prior_has_no_scale_below_the_floor():
    encoder = an_encoder()
    with torch.no_grad():
        encoder.leave.bias.fill_(-50)
    _, mean, log_scale = encoder(torch.randint(20, (1, 9)), torch.ones(1, 1, 9))
    assert mean.max() < -7
    assert log_scale.eq(-7).all()


def test_order_is_known_only_within_reach():
    """What two layers with window 1 and kernel 1 cannot tell apart are far neighbours swapped."""
    encoder, mask = an_encoder(window=1, kernel=1, layers=1), torch.ones(1, 1, 9)
    ids = torch.randint(20, (1, 9))
    far, near = ids.clone(), ids.clone()
    ids[0, [4, 7]] = far[0, [7, 4]] = near[0, [7, 4]] = torch.tensor([1, 2])
    plain, swapped = (encoder(each, mask)[0] for each in (ids, far))
    torch.testing.assert_close(swapped[..., 0], plain[..., 0], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(swapped[..., 3], plain[..., 3], atol=1e-3)


def test_fresh_adapters_change_no_bit_and_stand_before_the_projection():
    encoder, ids, mask = an_encoder(), torch.randint(20, (3, 9)), mask_of(LENGTHS)
    before, state = encoder(ids, mask), set(encoder.state_dict())
    assert list(points(encoder)) == [f"layers.{k}.attention.point" for k in range(2)]
    put_fresh(encoder)
    assert all(map(torch.equal, encoder(ids, mask), before))
    assert set(encoder.state_dict()) == state
    attention, x = encoder.layers[0].attention, torch.randn(3, CHANNELS, 9)
    attention.point.adapter = Seen()
    found = attention(x, mask)
    assert torch.equal(attention.output(attention.point.adapter.h), found)
    attention.point.adapter = Careless(CHANNELS)
    assert not torch.allclose(attention(x, mask), found)


def test_every_weight_gets_a_gradient():
    encoder = an_encoder().train()
    parts = encoder(torch.randint(20, (3, 9)), mask_of(LENGTHS))
    sum(part.square().sum() for part in parts).backward()
    without = [name for name, p in encoder.named_parameters() if not p.grad.abs().sum() > 0]
    assert without == []


def test_dropout_only_while_training():
    encoder, ids, mask = an_encoder(dropout=0.5), torch.randint(20, (1, 9)), torch.ones(1, 1, 9)
    assert torch.equal(encoder(ids, mask)[0], encoder(ids, mask)[0])
    encoder.train()
    assert not torch.equal(encoder(ids, mask)[0], encoder(ids, mask)[0])


def test_mixed_precision_gives_a_float32_distribution():
    encoder, ids, mask = an_encoder(), torch.randint(20, (3, 9)), mask_of(LENGTHS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = encoder(ids, mask)
    assert low[1].dtype == low[2].dtype == torch.float32
    for part, full in zip(low, encoder(ids, mask), strict=True):
        torch.testing.assert_close(part.float(), full, rtol=0.1, atol=0.15)


def test_heads_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="multiple of heads"):
        an_encoder(heads=3)
