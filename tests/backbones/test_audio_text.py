"""The audio-text model: padding, level and silence change nothing; adapters find both towers."""

import fnmatch

import pytest
import torch

from speechcl.backbones.audio_text import SOUNDS, AudioText, Block, tokenise
from speechcl.data.phones import phones


def small(**sizes):
    torch.manual_seed(0)
    options = {"width": 16, "audio_layers": 2, "text_layers": 1, "heads": 2, "embedding": 8}
    return AudioText(**{**options, **sizes}).eval()


@pytest.fixture
def features():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, 37, 40, generator=generator)


def test_embeddings_are_of_unit_norm_and_of_one_width(features):
    model = small()
    audio, text, scale = model(features, tokenise(["yes", "perhaps not"]))
    assert audio.shape == (3, 8)
    assert text.shape == (2, 8)
    torch.testing.assert_close(audio.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(text.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(scale, torch.tensor(1 / 0.07))
    assert model.logit_scale.requires_grad
    assert torch.equal(model(features), audio)


def test_the_size_is_that_of_a_small_model():
    assert 1.0e6 < sum(p.numel() for p in AudioText().parameters()) < 1.5e6


@pytest.mark.parametrize("padding", [0.0, -13.8155])
@pytest.mark.parametrize("level", [0.0, -9.0])
def test_padding_changes_nothing(features, padding, level):
    model, features = small(), features + level
    padded = torch.full((3, 50, 40), padding)
    padded[:, :37] = features
    torch.testing.assert_close(model(padded), model(features), rtol=0, atol=1e-6)
    longer = torch.cat([padded, torch.randn(3, 50, 40)]).flip(0)  # beside clips that fill the batch
    torch.testing.assert_close(model(longer).flip(0)[:3], model(features), rtol=0, atol=1e-6)


def test_names_do_not_depend_on_the_longest():
    model = small()
    alone, beside = model.encode_text(["no"]), model.encode_text(["no", "extraordinary"])
    torch.testing.assert_close(beside[:1], alone, rtol=0, atol=1e-6)


def test_any_length_can_be_embedded():
    model = small()
    for frames in (1, 2, 3, 400):
        assert model(torch.randn(1, frames, 40)).isfinite().all()


def test_a_clip_of_silence_has_an_embedding():
    assert small()(torch.zeros(2, 20, 40)).isfinite().all()


def test_gain_and_colour_of_the_channel_do_not_matter(features):
    model = small()
    loud = features - features.amax((1, 2), keepdim=True) + 4.0  # nothing lies below the range
    colour = torch.linspace(-1, 1, 40)
    torch.testing.assert_close(model(loud + 2.5), model(loud), rtol=0, atol=1e-5)
    torch.testing.assert_close(model(loud + colour), model(loud), rtol=0, atol=1e-5)


def test_what_is_far_below_the_loudest_is_silence(features):
    model = small()
    faint, fainter = features.clone(), features.clone()
    faint[:, 20:25, 3:9], fainter[:, 20:25, 3:9] = -20.0, -30.0
    assert torch.equal(model(faint), model(fainter))
    assert not torch.equal(model(faint), model(features))


def test_order_matters_in_both_towers(features):
    model = small()
    assert (model(features.flip(1)) - model(features)).abs().max() > 1e-3
    text = model.encode_text(["tap", "pat"])
    assert (text[0] - text[1]).abs().max() > 1e-3


def test_adapters_find_the_six_maps_of_every_block():
    names = [name for name, one in small().named_modules() if isinstance(one, torch.nn.Linear)]
    for pattern in ("*.q_proj", "*.k_proj", "*.v_proj", "*.out_proj", "*.fc1", "*.fc2"):
        found = fnmatch.filter(names, pattern)
        assert [name.partition(".")[0] for name in found] == ["audio", "audio", "text"]


def test_every_weight_of_both_towers_learns(features):
    model = small().train()
    audio, text, scale = model(features, tokenise(["one", "two", "three"]))
    (scale * (audio * text).sum()).backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # a constant added to all keys leaves the softmax as it is, so its gradient is rounding noise
    assert [name for name in idle if "k_proj.bias" not in name] == []


def test_a_block_does_what_torch_does():
    torch.manual_seed(0)
    block = Block(width=8, heads=2)
    layer = torch.nn.TransformerEncoderLayer(
        8, 2, 16, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    projections = (block.q_proj, block.k_proj, block.v_proj)
    with torch.no_grad():
        layer.self_attn.in_proj_weight.copy_(torch.cat([one.weight for one in projections]))
        layer.self_attn.in_proj_bias.copy_(torch.cat([one.bias for one in projections]))
    pairs = {
        "self_attn.out_proj": block.out_proj,
        "linear1": block.fc1,
        "linear2": block.fc2,
        "norm1": block.attention_norm,
        "norm2": block.feed_forward_norm,
    }
    for name, module in pairs.items():
        layer.get_submodule(name).load_state_dict(module.state_dict())
    x = torch.randn(2, 6, 8)
    real = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    expected = layer.train()(x, src_key_padding_mask=~real)
    torch.testing.assert_close(block(x, real)[real], expected[real], rtol=0, atol=1e-6)


def test_tokens_are_the_sounds():
    tokens = tokenise(["seven", "no"])
    assert tokens.shape == (2, len(phones("seven")))
    assert [SOUNDS[token - 2] for token in tokens[0].tolist()] == list(phones("seven"))
    assert tokens[1].tolist().count(0) == len(phones("seven")) - len(phones("no"))
    assert len(set(SOUNDS)) == len(SOUNDS)


def test_an_unlisted_sound_has_a_token_of_its_own(monkeypatch):
    monkeypatch.setattr("speechcl.backbones.audio_text.phones", lambda name: "aǃ")
    assert tokenise(["click"])[0].tolist() == [2, 1]


def test_the_front_end_marks_digital_silence():
    waveform = torch.cat([torch.randn(1, 800), torch.zeros(1, 1600)], dim=1)
    features = AudioText.front_end()(waveform)
    assert features.shape == (1, 31, 40)
    alike = features.amax(2) == features.amin(2)
    assert not alike[0, :11].any()
    assert alike[0, 13:].all()


def test_a_saved_model_is_read_again(features, tmp_path):
    model = small()
    model.save(tmp_path)
    again = AudioText.from_pretrained(tmp_path)
    assert not again.training
    assert again.sizes == model.sizes
    assert again.logit_scale.dtype == torch.float32
    torch.testing.assert_close(
        again(features), model(features), rtol=0, atol=2e-3
    )  # half precision


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no config\.json and model\.safetensors"):
        AudioText.from_pretrained(tmp_path)
