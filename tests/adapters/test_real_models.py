"""Whole models as people use them, tiny and with random weights."""

import copy

import pytest
import torch
import torchaudio
import transformers as hf
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
from speechbrain.lobes.models.transformer.TransformerASR import TransformerASR
from torch import nn

from speechcl.adapters import (
    Bottleneck,
    LoRA,
    base_fingerprint,
    insert,
    list_adapters,
    merge,
    remove,
)
from speechcl.adapters.reachability import call
from tests.adapters.kinds import Gate, stir

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}
SPEECH = SIZES | {
    "conv_dim": (8, 8),
    "conv_kernel": (10, 3),
    "conv_stride": (5, 2),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "num_buckets": 8,
    "max_bucket_distance": 16,
}
WAVE = torch.randn(2, 400, generator=torch.Generator().manual_seed(0))
TOKENS = torch.tensor([[5, 6, 7, 8, 9], [9, 4, 3, 2, 1]])
ATTENTION = ["*.q_proj", "*.k_proj", "*.v_proj", "*.out_proj"]


def encoder(model, config):
    return lambda: getattr(hf, model)(getattr(hf, config)(**SPEECH, vocab_size=20))


def vits():
    config = hf.VitsConfig(
        hidden_size=16,
        num_hidden_layers=1,
        ffn_dim=16,
        flow_size=16,
        spectrogram_bins=9,
        upsample_initial_channel=16,
        upsample_rates=[4, 4],
        upsample_kernel_sizes=[8, 8],
        resblock_kernel_sizes=[3],
        resblock_dilation_sizes=[[1, 3]],
        prior_encoder_num_wavenet_layers=1,
        prior_encoder_num_flows=2,
        posterior_encoder_num_wavenet_layers=1,
        duration_predictor_filter_channels=16,
        depth_separable_num_layers=1,
    )
    model = hf.VitsModel(config)
    model.decoder.apply_weight_norm()
    return model


def clip():
    text = hf.CLIPTextConfig(**SIZES, vocab_size=20, eos_token_id=9, max_position_embeddings=8)
    vision = hf.CLIPVisionConfig(**SIZES, image_size=8, patch_size=4)
    config = hf.CLIPConfig(projection_dim=8)
    config.text_config, config.vision_config = text, vision
    return hf.CLIPModel(config)


def torchaudio_sizes(wavlm=False):
    sizes = {
        "extractor_mode": "group_norm",
        "extractor_conv_layer_config": [(8, 10, 5), (8, 3, 2)],
        "extractor_conv_bias": False,
        "encoder_embed_dim": 16,
        "encoder_projection_dropout": 0.1,
        "encoder_pos_conv_kernel": 4,
        "encoder_pos_conv_groups": 2,
        "encoder_num_layers": 2,
        "encoder_num_heads": 2,
        "encoder_attention_dropout": 0.1,
        "encoder_ff_interm_features": 24,
        "encoder_ff_interm_dropout": 0.0,
        "encoder_dropout": 0.1,
        "encoder_layer_norm_first": False,
        "encoder_layer_drop": 0.05,
        "aux_num_out": None,
    }
    return sizes | ({"encoder_num_buckets": 8, "encoder_max_distance": 16} if wavlm else {})


class Conformer(nn.Module):
    """SpeechBrain's encoder of speech recognisers."""

    def __init__(self, kind):
        super().__init__()
        self.model = TransformerASR(
            tgt_vocab=10,
            input_size=12,
            d_model=16,
            nhead=2,
            num_encoder_layers=2,
            num_decoder_layers=1,
            d_ffn=24,
            encoder_module=kind,
            attention_type="RelPosMHAXL" if kind == "conformer" else "regularMHA",
            normalize_before=True,
            causal=False,
            kernel_size=5,
        )

    def forward(self, x):
        return self.model.encode(x)


class Stack(nn.Module):
    """PyTorch's own encoder, which in evaluation takes a path that calls no layer."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True, dropout=0.0)
        self.encoder = nn.TransformerEncoder(layer, 2)

    def forward(self, x):
        return self.encoder(x)


T5 = hf.T5Config(vocab_size=20, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2)
FRAMES = torch.randn(2, 9, 16, generator=torch.Generator().manual_seed(1))
LANGUAGE = {"input_ids": TOKENS}
IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
# how to make it, an input, what to adapt
MODELS = {
    "WavLM": (encoder("WavLMModel", "WavLMConfig"), WAVE, [*ATTENTION, "*_dense", "*conv"]),
    "wav2vec 2.0": (
        encoder("Wav2Vec2ForCTC", "Wav2Vec2Config"),
        WAVE,
        [*ATTENTION, "*_dense", "*conv", "lm_head"],
    ),
    "HuBERT": (encoder("HubertModel", "HubertConfig"), WAVE, [*ATTENTION, "*_dense", "*conv"]),
    "BERT": (
        lambda: hf.BertForMaskedLM(hf.BertConfig(**SIZES, vocab_size=20)),
        LANGUAGE,
        ["*.query", "*.key", "*.value", "*.dense"],
    ),
    "T5": (
        lambda: hf.T5ForConditionalGeneration(T5),
        LANGUAGE | {"decoder_input_ids": TOKENS},
        ["*.q", "*.k", "*.v", "*.o", "*.wi", "*.wo"],
    ),
    "Llama": (
        lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**SIZES, vocab_size=20)),
        LANGUAGE,
        ["*_proj", "lm_head"],
    ),
    "GPT-2": (
        lambda: hf.GPT2LMHeadModel(hf.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=20)),
        LANGUAGE,
        ["*.c_attn", "*.c_proj", "*.c_fc"],
    ),
    "CLIP": (
        clip,
        LANGUAGE | {"pixel_values": IMAGES},
        [*ATTENTION, "*.fc1", "*.fc2", "*.patch_embedding", "*_projection"],
    ),
    "VITS": (
        vits,
        LANGUAGE,
        ["decoder.*", "*.q_proj", "*.v_proj", "*.conv_1", "flow.*"],
    ),
    "torchaudio wav2vec 2.0": (
        lambda: torchaudio.models.wav2vec2_model(**torchaudio_sizes()),
        WAVE,
        [*ATTENTION, "*_dense", "*.conv"],
    ),
    "torchaudio WavLM": (
        lambda: torchaudio.models.wavlm_model(**torchaudio_sizes(wavlm=True)),
        WAVE,
        ["*.attention.attention", "*.out_proj", "*_dense", "*.conv", "*.gru_rel_pos_linear"],
    ),
    "SpeechBrain ECAPA": (
        lambda: ECAPA_TDNN(12, channels=[16] * 5, lin_neurons=6, attention_channels=8),
        torch.randn(2, 20, 12, generator=torch.Generator().manual_seed(3)),
        "*.conv",
    ),
    "SpeechBrain Conformer": (
        lambda: Conformer("conformer"),
        torch.randn(2, 9, 12, generator=torch.Generator().manual_seed(4)),
        ["*.encoder.layers.*", "*src*.w"],
    ),
    "SpeechBrain Transformer": (
        lambda: Conformer("transformer"),
        torch.randn(2, 9, 12, generator=torch.Generator().manual_seed(5)),
        ["*.encoder.layers.*", "*src*.w"],
    ),
    "PyTorch's encoder": (Stack, FRAMES, ["*.self_attn", "*.out_proj", "*.linear*"]),
}


def answer(model, example):
    """All tensors of an output, one after another."""
    torch.manual_seed(0)
    with torch.no_grad():
        output = call(model, example)
    output = next(iter(output.values())) if isinstance(output, dict) else output
    return output[0] if isinstance(output, tuple) else output


def build(name):
    make, example, targets = MODELS[name]
    torch.manual_seed(0)
    return make().eval(), example, targets


@pytest.mark.parametrize("name", MODELS)
def test_every_layer_acts_and_can_be_merged_and_removed(name):
    model, example, targets = build(name)
    model.requires_grad_(False)
    before, given = base_fingerprint(model), answer(model, example)
    classes = [type(module) for module in model.modules()]
    report = insert(model, LoRA(rank=2), targets, example=example)
    assert len(report.layers) >= 5, report
    assert torch.equal(answer(model, example), given)
    stir(model, size=0.1)
    changed = answer(model, example)
    assert changed.shape != given.shape or not torch.allclose(changed, given, atol=1e-3)

    twin = copy.deepcopy(model)
    merge(twin)
    merged = answer(twin, example)
    tolerance = 5e-5 if name == "VITS" else 1e-5  # its flows, random here, magnify rounding
    assert (merged - changed).abs().max() <= tolerance * max(1.0, float(changed.abs().max()))
    assert [type(module) for module in twin.modules()] == classes

    remove(model)
    assert [type(module) for module in model.modules()] == classes
    assert base_fingerprint(model) == before
    assert torch.equal(answer(model, example), given)


# ---- adapters that depend on the input need layers that are called
def test_weights_that_are_read_without_calling_the_layer():
    model, example, _ = build("WavLM")
    before = base_fingerprint(model)
    with pytest.raises(ValueError, match="the weight of a Linear is read from outside, but its"):
        insert(model, Gate(), "*.q_proj", example=example)
    assert list_adapters(model) == []
    insert(model, Gate(), "*.q_proj")
    with pytest.raises(ValueError, match="read from outside.*mergeable adapter such as LoRA"):
        call(model, example)
    remove(model)
    assert base_fingerprint(model) == before
    insert(model, Gate(), "*_dense", example=example)


def test_packed_attention_takes_no_branch():
    model, example, _ = build("torchaudio WavLM")
    with pytest.raises(ValueError, match="reads its weight directly"):
        insert(model, Gate(), "*.attention.attention")
    assert list_adapters(model) == []
    insert(model, Gate(), "*.out_proj", example=example)  # this one is called


def test_the_fast_path_of_pytorchs_encoder_is_no_trap():
    model, example, _ = build("PyTorch's encoder")
    with pytest.raises(ValueError, match="read from outside"):
        insert(model, Gate(), "*.linear1", example=example)
    with pytest.raises(ValueError, match="does not depend on the adapter of encoder.layers.0.lin"):
        insert(model, Bottleneck(units=2), "*.linear1", example=example)
    model.train()
    insert(model, Gate(), "*.linear1")
    stir(model)
    given = model(example).detach()  # in training the layer is called
    model.eval()
    with torch.no_grad(), pytest.raises(ValueError, match="read from outside"):
        model(example)
    remove(model)
    assert not torch.equal(model(example), given)


@pytest.mark.parametrize(
    ("name", "targets"),
    [("T5", ["*.q", "*.v"]), ("Llama", "*.q_proj"), ("BERT", "*.query"), ("GPT-2", "*.c_attn")],
)
def test_language_models_take_branches(name, targets):
    model, example, _ = build(name)
    insert(model, Gate(), targets, example=example)


def test_bottlenecks_behind_blocks_and_norms():
    model, example, _ = build("BERT")
    insert(model, Bottleneck(units=2), ["*.LayerNorm", "*.dense"], example=example)
    speaker, frames, _ = build("SpeechBrain ECAPA")
    insert(speaker, Bottleneck(units=2, kernel=3), "*.tdnn2.conv.conv", example=frames)


@pytest.mark.parametrize(("name", "tied"), [("BERT", "cls.predictions.decoder"), ("T5", "lm_head")])
def test_tied_output_layers_serve_an_adapter_but_are_not_merged(name, tied):
    model, example, _ = build(name)
    embedding = model.get_input_embeddings().weight.clone()
    insert(model, LoRA(rank=2), tied, example=example)
    stir(model)
    with pytest.raises(ValueError, match="share a weight, so merging"):
        merge(model)
    assert torch.equal(model.get_input_embeddings().weight, embedding)
    assert model.get_output_embeddings().weight is not embedding


def test_a_saved_adapted_model_loads_into_an_adapted_one(tmp_path):
    model, example, targets = build("WavLM")
    insert(model, LoRA(rank=2), targets)
    stir(model)
    torch.save(model.state_dict(), tmp_path / "all.pt")
    torch.manual_seed(7)
    other = MODELS["WavLM"][0]().eval()
    insert(other, LoRA(rank=2), targets)
    answer(other, example)
    other.load_state_dict(torch.load(tmp_path / "all.pt"))
    assert torch.equal(answer(other, example), answer(model, example))
