"""Self-supervised front ends, with tiny random encoders of all three families."""

import copy
import json
import pickle
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from speechcl.backbones.detector import Detector
from speechcl.backbones.resnet import ResNet
from speechcl.backbones.ssl import PooledLinear, SSLFrontEnd

transformers = pytest.importorskip("transformers")

CONFIGS = {
    "wav2vec2": transformers.Wav2Vec2Config,
    "hubert": transformers.HubertConfig,
    "wavlm": transformers.WavLMConfig,
}
every_family = pytest.mark.parametrize("family", CONFIGS)
SAMPLES = 4000


def config(family="wav2vec2", **changes):
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "conv_dim": [8, 8],
        "conv_kernel": [10, 8],
        "conv_stride": [5, 4],
        "num_feat_extract_layers": 2,
        "num_conv_pos_embeddings": 4,
        "num_conv_pos_embedding_groups": 2,
    }
    return CONFIGS[family](**(sizes | changes))


def front_end(family="wav2vec2", seed=0, changes=None, **options):
    torch.manual_seed(seed)
    return SSLFrontEnd(config(family, **(changes or {})), **options)


def saved(folder, seed=0, do_normalize=True, **options):
    """Write a checkpoint as the hub has them; return the folder's name."""
    torch.manual_seed(seed)
    transformers.Wav2Vec2Model(config()).save_pretrained(folder, **options)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=do_normalize).save_pretrained(folder)
    return str(folder)


def waves(seed, clips=2, samples=SAMPLES):
    return 0.1 * torch.randn(clips, samples, generator=torch.Generator().manual_seed(seed))


@every_family
@pytest.mark.parametrize("stable", [False, True])
def test_an_int_takes_the_state_of_the_whole_encoder(family, stable):
    changes = {"do_stable_layer_norm": stable, "num_hidden_layers": 3}
    if stable:
        changes["feat_extract_norm"] = "layer"
    torch.manual_seed(0)
    whole = transformers.AutoModel.from_config(config(family, **changes)).eval()
    wave = waves(1)
    with torch.no_grad():
        outputs = whole(wave, output_hidden_states=True)
    for layer in range(4):
        one = front_end(family, changes=changes, layer=layer, normalise=False)
        expected = outputs.last_hidden_state if layer == 3 else outputs.hidden_states[layer]
        torch.testing.assert_close(one(wave), expected)
    kept = len(front_end(family, changes=changes, layer=1).encoder.encoder.layers)
    assert kept == 2, "layers that play no part are dropped"


@every_family
def test_weighted_is_the_softmax_sum_of_normalised_states(family):
    front = front_end(family, normalise=False)
    with torch.no_grad():
        front.layer_logits.copy_(torch.tensor([0.5, -1.0, 2.0]))
        outputs = front.encoder(waves(2), output_hidden_states=True)
    shares = [0.5, -1.0, 2.0]
    shares = [torch.tensor(s).exp() / sum(torch.tensor(t).exp() for t in shares) for s in shares]
    expected = 0
    for share, state in zip(shares, outputs.hidden_states, strict=True):
        centred = state - state.mean(2, keepdim=True)
        expected += share * centred / (centred.square().mean(2, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(front(waves(2)), expected)


@every_family
def test_only_the_layer_weights_and_the_head_learn(family):
    front = front_end(family)
    model = Detector(front, PooledLinear(front.width, hidden=8)).train()
    before = copy.deepcopy(front.encoder.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, weight_decay=0.1)
    model(waves(3))[0].square().sum().backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {
        "front_end.layer_logits",
        "back_end.project.weight",
        "back_end.project.bias",
        "back_end.classify.weight",
        "back_end.classify.bias",
    }
    optimizer.step()
    assert not any(p.requires_grad for p in front.encoder.parameters())
    for name, weight in front.encoder.state_dict().items():
        assert torch.equal(weight, before[name]), name


def test_the_encoder_stays_in_evaluation_mode():
    changes = {"layerdrop": 0.5, "mask_time_prob": 0.9, "mask_time_length": 2}
    front = front_end(changes=changes)
    parent = Detector(front, PooledLinear(16)).train()
    assert parent.training
    assert front.training
    assert not any(module.training for module in front.encoder.modules())
    torch.testing.assert_close(front(waves(4)), front(waves(4)), rtol=0, atol=0)


@every_family
def test_a_clip_gets_the_same_features_in_any_company(family):
    front, wave = front_end(family), waves(5)
    torch.testing.assert_close(front(wave)[:1], front(wave[:1]), rtol=1e-4, atol=1e-5)


def test_normalising_is_per_clip_and_its_switch_works():
    heard, wave = [], waves(6) * torch.tensor([[1.0], [5.0]]) + 0.3
    for normalise in (True, False, None):
        front = front_end(normalise=normalise)
        front.encoder.register_forward_pre_hook(lambda module, inputs: heard.append(inputs[0]))
        front(wave)
    by_hand = torch.stack([(one - one.mean()) / one.std(correction=0) for one in wave])
    torch.testing.assert_close(heard[0], by_hand, rtol=0, atol=1e-4)
    assert torch.equal(heard[1], wave)
    assert torch.equal(heard[2], heard[0]), "a configuration's clips are normalised"
    assert front(torch.zeros(1, SAMPLES)).isfinite().all()


def test_features_serve_a_residual_network_too():
    back_end = ResNet(8, bands=16)
    logit, _ = Detector(front_end(layer=1), back_end)(waves(7))
    assert logit.shape == (2, 1)


def test_pooled_linear_is_mean_and_spread_of_a_linear_layer():
    head, frames = PooledLinear(6, hidden=3), waves(8, samples=60).reshape(2, 10, 6)
    x = functional.relu(frames @ head.project.weight.T + head.project.bias)
    expected = torch.cat([x.mean(1), (x.var(1, correction=0) + 1e-6).sqrt()], dim=1)
    logit, embedding = head(frames)
    torch.testing.assert_close(embedding, expected)
    torch.testing.assert_close(logit, head.classify(expected))
    assert sum(p.numel() for p in PooledLinear(1024).parameters()) == 131_457


@pytest.mark.parametrize("layer", [3, -1, "last"])
def test_a_layer_that_is_not_there_is_refused(layer):
    with pytest.raises(ValueError, match="set it to 'weighted' or a number from 0 to 2"):
        front_end(layer=layer)


def test_a_clip_shorter_than_a_frame_is_refused():
    front = front_end()
    assert front(waves(9, samples=45)).shape == (2, 1, 16)
    with pytest.raises(ValueError, match="44 samples are too few .* at least 45"):
        front(waves(9, samples=44))


def test_missing_transformers_names_the_extra(monkeypatch):
    tiny = config()
    monkeypatch.setitem(sys.modules, "transformers", None)
    for source in (tiny, "facebook/wav2vec2-base"):
        with pytest.raises(ImportError, match=r"pip install 'speechcl\[ssl\]'"):
            SSLFrontEnd(source)


def test_another_kind_of_model_is_refused(tmp_path):
    for source in (transformers.WhisperConfig(), str(tmp_path)):
        transformers.WhisperConfig().save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="whisper model is none of wav2vec2, hubert, wavlm"):
            SSLFrontEnd(source)


def test_weights_that_cannot_be_fetched_are_one_clear_line(tmp_path):
    for source in ("nobody/no-such-encoder", str(tmp_path)):
        with pytest.raises(ValueError, match="check the name and the network, or give") as caught:
            SSLFrontEnd(source, local_files_only=True)
        assert source in str(caught.value)
        assert "\n" not in str(caught.value)


def test_reads_a_checkpoint_and_does_what_its_preprocessor_says(tmp_path):
    for do_normalize in (True, False):
        name = saved(tmp_path / str(do_normalize), do_normalize=do_normalize)
        front = SSLFrontEnd(name, local_files_only=True)
        assert front.normalise is do_normalize
        same = front_end(normalise=do_normalize)
        torch.testing.assert_close(front(waves(10)), same(waves(10)))


def test_a_checkpoint_without_preprocessor_asks_for_the_setting(tmp_path):
    name = saved(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match="set normalise to true or false"):
        SSLFrontEnd(name)
    assert SSLFrontEnd(name, normalise=False).normalise is False


def test_half_precision_checkpoints_become_single(tmp_path):
    transformers.Wav2Vec2Model(config()).half().save_pretrained(tmp_path)
    front = SSLFrontEnd(str(tmp_path), normalise=True)
    assert {p.dtype for p in front.parameters()} == {torch.float32}


def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    name = saved(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop("masked_spec_embed", None)  # may be absent
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    SSLFrontEnd(name)
    del weights["encoder.layers.1.attention.q_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="lacks 1 weights .* encoder.layers.1.attention.q_proj"):
        SSLFrontEnd(name)


def old_checkpoint(folder, weights):
    """Write weights the old way, as a pickle, next to a configuration."""
    name = saved(folder)
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    return name


def test_old_checkpoints_are_read_as_tensors(tmp_path):
    torch.manual_seed(0)
    name = old_checkpoint(tmp_path, transformers.Wav2Vec2Model(config()).state_dict())
    torch.testing.assert_close(SSLFrontEnd(name)(waves(11)), front_end()(waves(11)))


class Bomb:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def test_a_pickle_in_disguise_is_not_run(tmp_path):
    target = tmp_path / "was_run"
    name = old_checkpoint(tmp_path, {"bomb": Bomb(target)})
    with pytest.raises(ValueError, match="no speech encoder can be read"):
        SSLFrontEnd(name)
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"bomb": Bomb(target)}))
    with pytest.raises(ValueError, match="no speech encoder can be read"):
        SSLFrontEnd(name)
    assert not target.exists()
    pickle.loads(pickle.dumps(Bomb(target)))
    assert target.exists(), "which proves that it would have gone off"


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    name = saved(tmp_path)
    target = tmp_path / "was_run"
    (tmp_path / "own.py").write_text(f"import pathlib; pathlib.Path({str(target)!r}).touch()")
    settings = json.loads((tmp_path / "config.json").read_text())
    settings |= {"model_type": "mine", "auto_map": {"AutoConfig": "own.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="no speech encoder can be read"):
        SSLFrontEnd(name)
    assert not target.exists()


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"not a checkpoint"])
def test_a_damaged_checkpoint_is_one_clear_line(tmp_path, content):
    name = saved(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="no speech encoder can be read"):
        SSLFrontEnd(name)


def test_weights_read_from_a_source_are_not_saved_again_but_their_digest_is(tmp_path):
    name = saved(tmp_path)
    model = Detector(SSLFrontEnd(name), PooledLinear(16, hidden=4))
    with torch.no_grad():
        model.front_end.layer_logits.add_(torch.tensor([0.0, 1.0, 2.0]))
    state = model.state_dict()
    assert set(state) == {
        "front_end.layer_logits",
        "front_end.digest",
        "back_end.project.weight",
        "back_end.project.bias",
        "back_end.classify.weight",
        "back_end.classify.bias",
    }
    for other in (Detector(SSLFrontEnd(name), PooledLinear(16, hidden=4)), copy.deepcopy(model)):
        other.load_state_dict(state)
        assert torch.equal(other(waves(12))[0], model(waves(12))[0])


def test_a_checkpoint_over_other_weights_is_refused(tmp_path):
    model = SSLFrontEnd(saved(tmp_path / "one"))
    other = SSLFrontEnd(saved(tmp_path / "two", seed=1))
    before = copy.deepcopy(other.layer_logits)
    with pytest.raises(ValueError, match="other weights of the self-supervised encoder"):
        other.load_state_dict(model.state_dict())
    assert torch.equal(other.layer_logits, before)
    with pytest.raises(RuntimeError, match="digest"):
        other.load_state_dict({"layer_logits": torch.zeros(3)})


def test_random_weights_are_saved():
    model, other = front_end(seed=0), front_end(seed=1)
    assert not torch.equal(other(waves(13)), model(waves(13)))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(waves(13)), model(waves(13)))
