"""Queries depend on an item's real part alone, and on weights that never change."""

import copy
import math
import sys

import pytest
import torch
from torch import nn

from speechcl.backbones.ssl import SSLFrontEnd
from speechcl.memory import FrozenEncoder, StatisticsEncoder
from speechcl.memory.query_encoders import real_counts, speechbrain_encoder, text_encoder

REAL = [37, 100, 61, 61]


def items(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def padded(clips, total, filler=0.0):
    """Return a batch of clips (time, ...) and their relative lengths."""
    batch = torch.full((len(clips), total, *clips[0].shape[1:]), filler, dtype=clips[0].dtype)
    for row, clip in zip(batch, clips, strict=True):
        row[: len(clip)] = clip
    return batch, torch.tensor([len(clip) / total for clip in clips])


def check_padding(encoder, clips, totals, filler=0.0):
    """A clip's query is the same by itself, and in any company and padding."""
    alone = torch.cat([encoder(clip[None]) for clip in clips])
    for total in totals:
        batch, lengths = padded(clips, total, filler)
        torch.testing.assert_close(encoder(batch, lengths), alone, rtol=0, atol=1e-5)
    assert (alone[0] - alone[1]).abs().max() > 1e-3, "or the test would say nothing"
    return alone


# ---- statistics


@pytest.mark.parametrize("filler", [0.0, 7.0, math.nan])
def test_statistics_do_not_hear_the_padding(filler):
    clips = [items(real, 5, seed=real) for real in REAL]
    found = check_padding(StatisticsEncoder(), clips, (100, 101, 777), filler)
    for query, clip in zip(found, clips, strict=True):
        mean = sum(clip) / len(clip)
        spread = (sum((frame - mean) ** 2 for frame in clip) / len(clip)).sqrt()
        torch.testing.assert_close(query, torch.cat([mean, spread]), rtol=0, atol=1e-5)


def test_statistics_are_exact_for_features_far_from_zero():
    frames = items(1, 1000, 2).double() + torch.tensor([1e4, -1e4])
    found = StatisticsEncoder()(frames)
    torch.testing.assert_close(
        found[0, 2:], frames[0].std(0, correction=0).float(), rtol=1e-2, atol=0
    )


def test_statistics_take_frames_of_any_shape_and_single_vectors():
    encoder = StatisticsEncoder()
    maps = items(2, 9, 3, 4)
    assert torch.equal(encoder(maps), encoder(maps.flatten(2)))
    assert encoder(maps).shape == (2, 24)
    vectors = items(3, 8)
    assert torch.equal(encoder(vectors), vectors)
    assert encoder(torch.arange(6).view(1, 3, 2)).tolist()[0][:2] == [2.0, 3.0]
    with pytest.raises(ValueError, match=r"shape \(3, 8\) have no frames that lengths could count"):
        encoder(vectors, torch.ones(3))


# ---- lengths


def test_relative_lengths_and_masks_count_alike():
    for total in (1, 3, 77, 64_600, 5_000_000):
        batch = torch.zeros(1, 1).expand(3, total)
        real = torch.tensor([1, (total + 1) // 2, total])
        assert torch.equal(real_counts(batch, real / total), real)
        if total < 100:
            assert torch.equal(real_counts(batch, torch.arange(total) < real[:, None]), real)
    assert real_counts(torch.zeros(2, 5), None).tolist() == [5, 5]
    assert real_counts(torch.zeros(1, 5), torch.tensor([1e-9])).tolist() == [1]
    assert real_counts(torch.zeros(1, 5), torch.zeros(1, 5)).tolist() == [1]


@pytest.mark.parametrize(
    ("lengths", "match"),
    [
        ([5.0, 3.0], "from 3 to 5: give shares"),
        ([0.0, 1.0], "from 0 to 1: give shares"),
        ([math.nan, 1.0], "give shares"),
        ([1.0], r"of shape \(1,\): give one for each of 2 items, or a mask of shape \(2, 5\)"),
        ([[1.0], [0.5]], r"of shape \(2, 1\)"),
        ([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]], "pad on the right"),
        ([[1, 1, 0, 0, 1], [1, 1, 1, 1, 1]], "pad on the right"),
    ],
)
@pytest.mark.parametrize("encoder", [StatisticsEncoder(), FrozenEncoder(nn.Identity())])
def test_wrong_lengths_are_refused(lengths, match, encoder):
    with pytest.raises(ValueError, match=match):
        encoder(items(2, 5, 3), torch.tensor(lengths))


# ---- frozen encoders


class Leaky(nn.Module):
    """Hears everything: normalises over time, and has dropout and running statistics."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(3, 8, 5, 2), nn.InstanceNorm1d(8), nn.ReLU(), nn.BatchNorm1d(8), nn.Dropout()
        )

    def forward(self, x):
        return self.layers(x.transpose(1, 2)).transpose(1, 2)


def leaky(seed=0):
    torch.manual_seed(seed)
    return Leaky()


def test_padding_does_not_matter_even_to_norms_over_time():
    clips = [items(real, 3, seed=real) for real in REAL]
    check_padding(FrozenEncoder(leaky()), clips, (100, 163), filler=9.0)


def test_items_of_one_length_are_encoded_together():
    calls = []
    encoder = FrozenEncoder(nn.Identity())
    encoder.encoder.register_forward_pre_hook(lambda _, inputs: calls.append(inputs[0].shape))
    batch, lengths = padded([items(real, 3, seed=real) for real in REAL], 120)
    encoder(batch, lengths)
    assert calls == [(1, 37, 3), (2, 61, 3), (1, 100, 3)]
    calls.clear()
    encoder(batch)
    assert calls == [(4, 120, 3)]


def test_training_the_model_around_it_changes_nothing():
    original = leaky()
    model = nn.ModuleDict({"query": FrozenEncoder(original), "head": nn.Linear(8, 1)}).train()
    inputs = items(4, 50, 3)
    before, state = model["query"](inputs), copy.deepcopy(model["query"].state_dict())
    assert not any(module.training for module in model["query"].modules())
    optimizer = torch.optim.SGD([*model.parameters(), *original.parameters()], lr=1.0)
    for _ in range(2):
        loss = model["head"](model["query"](inputs)).sum() + original(inputs).square().sum()
        loss.backward()
        optimizer.step()
    assert torch.equal(model["query"](inputs), before)
    for name, value in model["query"].state_dict().items():
        assert torch.equal(value, state[name]), name
    assert original.training, "and the original is left as it was"
    assert all(p.requires_grad for p in original.parameters())


def test_no_gradient_reaches_the_encoder_or_the_inputs():
    encoder, inputs = FrozenEncoder(leaky()), items(2, 50, 3).requires_grad_()
    for model in (encoder, StatisticsEncoder()):
        assert not model(inputs).requires_grad
    assert not any(p.requires_grad for p in encoder.parameters())


def test_reduced_precision_around_it_changes_nothing():
    encoder, inputs = FrozenEncoder(nn.Linear(3, 4)), items(2, 50, 3)
    expected = encoder(inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(encoder(inputs), expected)


class Answering(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x):
        return self.answer(x)


def test_outputs_of_every_kind_become_one_vector_an_item():
    inputs = items(2, 7, 3)
    mean = inputs.mean(1)
    for answer in (
        lambda x: x,
        lambda x: x.half(),
        lambda x: (x, None),
        lambda x: [x, x + 1],
        lambda x: x.mean(1),
        lambda x: x.mean(1, keepdim=True),
        lambda x: (x.mean(1), torch.tensor([7])),
    ):
        queries = FrozenEncoder(Answering(answer))(inputs)
        torch.testing.assert_close(queries, mean, rtol=0, atol=1e-3)
        assert queries.dtype == torch.float32
    with pytest.raises(ValueError, match=r"output is of shape \(2, 7, 3, 1\): give a module"):
        FrozenEncoder(Answering(lambda x: x[..., None]))(inputs)


# ---- transformers


def speech_config(family, **changes):
    transformers = pytest.importorskip("transformers")
    kinds = {
        "wav2vec2": transformers.Wav2Vec2Config,
        "hubert": transformers.HubertConfig,
        "wavlm": transformers.WavLMConfig,
    }
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
    return kinds[family](**(sizes | changes))


def saved_speech(folder, family, **changes):
    import transformers

    torch.manual_seed(0)
    config = speech_config(family, **changes)
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("family", ["wav2vec2", "hubert", "wavlm"])
@pytest.mark.parametrize("norm", ["group", "layer"])
def test_speech_checkpoints_give_queries_that_padding_does_not_change(family, norm, tmp_path):
    source = saved_speech(tmp_path, family, feat_extract_norm=norm)
    front_end = SSLFrontEnd(source, layer=1, local_files_only=True)
    encoder = FrozenEncoder(front_end)
    clips = [0.1 * items(samples, seed=samples) for samples in (2000, 3100, 2707)]
    found = check_padding(encoder, clips, (3100, 3555, 5001))
    assert found.shape == (3, 16)
    torch.testing.assert_close(found[:1], front_end(clips[0][None]).mean(1))
    kept = {name.removeprefix("encoder.") for name in encoder.state_dict()}
    assert kept == set(front_end.state_dict()) == {"digest"}, "weights of a source are not saved"


@pytest.mark.parametrize("layer", [None, 0, 1, 2])
def test_a_hidden_state_of_a_model_as_it_comes(layer):
    import transformers

    torch.manual_seed(0)
    whole = transformers.AutoModel.from_config(speech_config("wavlm")).eval()
    wave = 0.1 * items(2, 3000)
    with torch.no_grad():
        outputs = whole(wave, output_hidden_states=True)
    chosen = {0: outputs.hidden_states[0], 1: outputs.hidden_states[1]}
    expected = chosen.get(layer, outputs.last_hidden_state).mean(1)
    torch.testing.assert_close(FrozenEncoder(whole, layer)(wave), expected)


@pytest.mark.parametrize("layer", [3, -1])
def test_a_layer_that_is_not_there_is_refused(layer):
    import transformers

    model = transformers.AutoModel.from_config(speech_config("hubert"))
    with pytest.raises(ValueError, match=f"layer is {layer}: set it from 0 to 2"):
        FrozenEncoder(model, layer)(items(1, 3000))


def saved_text(folder, kind="mpnet", pooler=True):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "vocab_size": 50,
    }
    config = transformers.AutoConfig.for_model(kind, **sizes)
    options = {} if pooler else {"add_pooling_layer": False}
    model = transformers.AutoModel.from_config(config, **options).eval()
    model.save_pretrained(folder)
    return model


TEXTS = [torch.arange(5, 5 + length) for length in (4, 9, 6, 9)]


@pytest.mark.parametrize("kind", ["mpnet", "bert", "roberta"])
def test_text_checkpoints_give_the_mean_over_real_tokens(kind, tmp_path):
    model = saved_text(tmp_path, kind)
    encoder = text_encoder(tmp_path, local_files_only=True)
    found = check_padding(encoder, [*TEXTS[:3], TEXTS[3] + 20], (9, 13), filler=1)
    tokens, lengths = padded(TEXTS, 13, filler=1)
    mask = torch.arange(13) < torch.tensor([len(text) for text in TEXTS])[:, None]
    with torch.no_grad():
        states = model(tokens, attention_mask=mask.long()).last_hidden_state
    expected = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    torch.testing.assert_close(encoder(tokens, mask.long()), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(found[:3], expected[:3], rtol=0, atol=1e-5)


def test_a_text_checkpoint_without_a_pooler_is_whole(tmp_path):
    saved_text(tmp_path, "bert", pooler=False)
    queries = text_encoder(tmp_path, layer=1, local_files_only=True)(TEXTS[0][None])
    assert queries.shape == (1, 16)


def test_a_text_checkpoint_that_lacks_weights_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    saved_text(tmp_path, "bert")
    weights = load_file(tmp_path / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="lacks 1 weights .* encoder.layer.1.output.dense.weight"):
        text_encoder(tmp_path, local_files_only=True)


def test_text_checkpoints_that_cannot_be_used_are_one_clear_line(tmp_path):
    pytest.importorskip("transformers")
    saved_speech(tmp_path / "speech", "wav2vec2")
    with pytest.raises(ValueError, match="a wav2vec2 model takes no text: for speech use"):
        text_encoder(tmp_path / "speech", local_files_only=True)
    saved_text(tmp_path / "damaged")
    (tmp_path / "damaged" / "model.safetensors").write_bytes(b"not tensors")
    saved_text(tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").rename(tmp_path / "pickled" / "pytorch_model.bin")
    for name in ("nowhere", "damaged", "pickled"):
        with pytest.raises(ValueError, match="no text encoder can be read") as caught:
            text_encoder(tmp_path / name, local_files_only=True)
        assert "\n" not in str(caught.value)


def test_missing_transformers_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r'pip install "speechcl\[lm\]"'):
        text_encoder("sentence-transformers/nli-mpnet-base-v2")


# ---- SpeechBrain

HYPERPARAMETERS = """
compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: 8
mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False
embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
    input_size: 8
    channels: [8, 8, 8, 8, 16]
    attention_channels: 8
    res2net_scale: 2
    se_channels: 8
    lin_neurons: 6
classifier: !new:speechbrain.lobes.models.ECAPA_TDNN.Classifier
    input_size: 6
    out_neurons: 3
modules:
    compute_features: !ref <compute_features>
    mean_var_norm: !ref <mean_var_norm>
    embedding_model: !ref <embedding_model>
    classifier: !ref <classifier>
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        embedding_model: !ref <embedding_model>
"""


@pytest.fixture
def interface_folder(tmp_path):
    """Write a small ECAPA-TDNN as SpeechBrain publishes it."""
    from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN

    (tmp_path / "hyperparams.yaml").write_text(HYPERPARAMETERS)
    torch.manual_seed(0)
    model = ECAPA_TDNN(
        8,
        channels=[8, 8, 8, 8, 16],
        attention_channels=8,
        res2net_scale=2,
        se_channels=8,
        lin_neurons=6,
    )
    for name, value in model.named_buffers():
        if name.endswith("running_mean"):
            value.normal_()
    torch.save(model.state_dict(), tmp_path / "embedding_model.ckpt")
    return tmp_path


def test_speechbrain_embeddings_do_not_hear_the_padding(interface_folder):
    from speechbrain.inference.classifiers import EncoderClassifier

    clips = [0.1 * items(samples, seed=samples) for samples in (4000, 6400, 5003)]
    encoder = speechbrain_encoder(interface_folder)
    found = check_padding(encoder, clips, (6400, 9999))
    interface = EncoderClassifier.from_hparams(str(interface_folder), run_opts={"device": "cpu"})
    torch.testing.assert_close(found[:1], interface.encode_batch(clips[0])[:, 0])
    torch.testing.assert_close(FrozenEncoder(interface)(clips[1][None]), found[1:2])
    encoder.encoder.device = "meta"  # as if it had been made elsewhere and moved here
    torch.testing.assert_close(encoder(clips[0][None]), found[:1])


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "hyperparams.yaml").unlink(),
        lambda folder: (folder / "hyperparams.yaml").write_text(""),
        lambda folder: (folder / "hyperparams.yaml").write_text("a: [1,"),
        lambda folder: (folder / "hyperparams.yaml").write_text("a: 1"),
        lambda folder: (folder / "hyperparams.yaml").write_text("a: !new:no.such.Thing"),
        lambda folder: (folder / "embedding_model.ckpt").unlink(),
        lambda folder: (folder / "embedding_model.ckpt").write_bytes(b"not tensors"),
    ],
)
def test_speechbrain_folders_that_cannot_be_read_are_one_clear_line(damage, interface_folder):
    damage(interface_folder)
    with pytest.raises(ValueError, match="no SpeechBrain encoder can be read") as caught:
        speechbrain_encoder(interface_folder)
    assert str(interface_folder) in str(caught.value)
    assert "\n" not in str(caught.value)
