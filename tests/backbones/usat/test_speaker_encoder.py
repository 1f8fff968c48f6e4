"""The speaker encoder: SpeechBrain's values, any company and padding, and overlapping windows."""

import pytest
import torch
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN

from speechcl.backbones.usat.masked_blocks import pad_with_zeros
from speechcl.backbones.usat.speaker_encoder import SpeakerEncoder, segments


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def encoder():
    """Return one whose batch normalisations have seen something other than mean 0, variance 1."""
    torch.manual_seed(0)
    net = SpeakerEncoder(6, size=5, channels=16, gathered=24, attention=4, bottleneck=4)
    for part in net.modules():
        if isinstance(part, torch.nn.BatchNorm1d):
            torch.nn.init.uniform_(part.weight, 0.5, 1.5)
            torch.nn.init.normal_(part.bias)
    for seed in range(5):
        net(noise(4, 6, 40, seed=seed) + 1)
    return net.eval()


def test_is_speechbrains_padded_with_zeros_then_normalised():
    net = encoder()
    theirs = ECAPA_TDNN(
        6,
        lin_neurons=5,
        channels=[16, 16, 16, 16, 24],
        attention_channels=4,
        se_channels=4,
    )
    theirs.load_state_dict(net.net.state_dict())
    pad_with_zeros(theirs)
    z = noise(3, 6, 33)
    expected = net.last_norm(theirs.eval()(z.transpose(1, 2))[:, 0])
    torch.testing.assert_close(net(z), expected)


def test_settings_of_the_paper_have_their_size():
    assert sum(p.numel() for p in SpeakerEncoder(192).parameters()) == 3_066_792


@pytest.mark.parametrize("frames", [1, 2, 17, 39, 40])
def test_an_item_is_the_same_alone_and_padded_with_anything(frames):
    net, z = encoder(), noise(2, 6, 40)
    mask = (torch.arange(40) < torch.tensor([[40], [frames]]))[:, None].float()
    other = torch.where(mask.bool(), z, 100 * noise(2, 6, 40, seed=1))
    with torch.no_grad():
        together = net(z, mask)
        torch.testing.assert_close(net(other, mask), together, rtol=0, atol=0)
        torch.testing.assert_close(together[:1], net(z[:1]), rtol=0, atol=1e-5)
        torch.testing.assert_close(together[1:], net(z[1:, :, :frames]), rtol=0, atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-3 or frames == 40


def test_padding_changes_nothing_in_training_either():
    z, lengths = noise(3, 6, 25) + 1, torch.tensor([[25], [9], [17]])
    states, outputs = [], []
    for frames in (25, 70):
        net, longer = encoder().train(), 100 * noise(3, 6, frames, seed=frames)
        mask = (torch.arange(frames) < lengths)[:, None].float()
        longer[:, :, :25] = torch.where(mask[:, :, :25].bool(), z, longer[:, :, :25])
        outputs.append(net(longer, mask))
        states.append(net.state_dict())
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-5)
    torch.testing.assert_close(*states)


def test_trains_in_low_precision():
    net = encoder().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        net(noise(3, 6, 25)).float().square().sum().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_gradient_reaches_every_parameter_and_is_finite():
    net = encoder().train()
    net.zero_grad()
    mask = (torch.arange(30) < torch.tensor([[30], [20], [9]]))[:, None].float()
    (net(noise(3, 6, 30), mask) * noise(3, 5, seed=1)).sum().backward()
    # A bias before batch normalisation, and one before a softmax, move nothing: rounding only.
    assert not [n for n, p in net.named_parameters() if p.grad is None]
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_channels_that_cannot_be_split_are_refused():
    with pytest.raises(ValueError, match="channels is 20: set it to a multiple of 8"):
        SpeakerEncoder(6, channels=20)


def test_windows_are_the_first_and_the_last_part_of_each_item():
    lengths = [150, 107, 106, 30, 1]
    z = torch.arange(150.0).expand(5, 2, 150) + 1
    first, second, mask, valid = segments(z, torch.tensor(lengths))
    assert first.shape == second.shape == (5, 2, 90)
    for i, length in enumerate(lengths):
        width = max(round(0.6 * length), 1)
        start = length - width
        assert mask[i].sum() == width
        assert first[i, 0, :width].tolist() == list(range(1, width + 1))
        assert second[i, 1, :width].tolist() == list(range(start + 1, length + 1))
        assert not first[i, :, width:].any()
        assert not second[i, :, width:].any()
        assert length == 1 or start < width, "windows overlap"
    assert valid.tolist() == [True, True, True, False, False]  # 0.6 * 106 = 63.6, rounded 64
    assert segments(z, torch.tensor(lengths), least=65)[3].tolist() == [
        True,
        False,
        False,
        False,
        False,
    ]


def test_windows_do_not_see_padding():
    z, lengths = noise(2, 3, 150), torch.tensor([150, 100])
    garbage = z.clone()
    garbage[1, :, 100:] = 100.0
    for ours, theirs in zip(segments(z, lengths), segments(garbage, lengths), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_windows_that_do_not_overlap_or_are_alike_are_refused(share):
    with pytest.raises(ValueError, match="set it above 0.5, so that windows overlap, and below 1"):
        segments(noise(1, 2, 100), torch.tensor([100]), share=share)


def test_a_window_has_64_frames_or_does_not_count():
    valid = segments(noise(2, 3, 108), torch.tensor([107, 105]))[3]
    assert valid.tolist() == [True, False]
