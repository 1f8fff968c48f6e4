"""LoRA folders go from peft to us and back, and mean the same on both sides."""

import copy
import json
import pickle

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from speechcl.adapters import (
    Bottleneck,
    LoRA,
    adapter_layers,
    attach,
    base_fingerprint,
    extract,
    insert,
    load_peft,
    merge,
    remove,
    save_peft,
)
from tests.adapters.kinds import old_weight_norm, stir

TOKENS = torch.tensor([[5, 6, 7, 8, 9], [9, 4, 3, 2, 1]])


class Model(nn.Module):
    """All that peft adapts as it should."""

    def __init__(self):
        super().__init__()
        self.image = nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.speech = nn.Conv1d(16, 8, 4, stride=2, padding="valid")
        self.blocks = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
        self.turned = Conv1D(6, 8)
        self.head = nn.ModuleDict({"proj": nn.Linear(6, 3), "speech": nn.Identity()})

    def forward(self, x):
        x = self.speech(self.image(x).flatten(1, 2)).mT
        for block in self.blocks:
            x = torch.tanh(block(x))
        return self.head["proj"](self.turned(x))


X = torch.randn(2, 1, 8, 30, generator=torch.Generator().manual_seed(0)).double()
LAYERS = ["image", "speech", "blocks.0", "blocks.1", "turned", "head.proj"]


def make():
    torch.manual_seed(0)
    return Model().double().eval()  # so that no difference is rounding


def gpt2():
    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 20}
    return hf.GPT2LMHeadModel(hf.GPT2Config(**sizes, bos_token_id=1, eos_token_id=1)).eval()


def logits(model):
    with torch.no_grad():
        return model(input_ids=TOKENS).logits


@pytest.fixture(scope="module")
def peft():
    return pytest.importorskip("peft", reason="peft is not installed: pip install speechcl[bench]")


def peft_saves(peft, base, folder, **config):
    """Train nothing, but give the adapter values, and save it."""
    model = peft.get_peft_model(base, peft.LoraConfig(**config))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    return model.eval()


CONFIGS = {
    "plain": {},
    "other scale": {"lora_alpha": 3},
    "rank-stabilised": {"use_rslora": True, "lora_alpha": 5},
    "ranks of their own": {"rank_pattern": {"image": 2, r"^blocks\.1": 5}},
    "alphas of their own": {"alpha_pattern": {"blocks.[01]": 1, "proj": 7}},
    "both, rank-stabilised": {
        "use_rslora": True,
        "rank_pattern": {"speech": 3},
        "alpha_pattern": {"speech": 12, "turned": 1},
    },
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_what_peft_saved_gives_the_same_here(peft, config, tmp_path):
    theirs = peft_saves(
        peft,
        make(),
        tmp_path,
        r=4,
        target_modules=r"image|speech|blocks\.\d|turned|.*proj",
        **config,
    )
    ours = make()
    before = ours(X)
    report = attach(ours, load_peft(tmp_path), "theirs")
    assert list(report.layers) == LAYERS
    assert (ours(X) - theirs(X)).abs().max() <= 1e-12
    assert (ours(X) - before).abs().max() > 1e-2
    merge(ours, "theirs")
    assert (ours(X) - theirs(X)).abs().max() <= 1e-12


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_peft_saved_of_a_transformer_gives_the_same_here(peft, tmp_path):
    theirs = peft_saves(
        peft, gpt2(), tmp_path, r=4, target_modules=["c_attn", "c_proj"], task_type="CAUSAL_LM"
    )
    ours = gpt2()
    attach(ours, load_peft(tmp_path))
    assert (logits(ours) - logits(theirs)).abs().max() <= 1e-6
    state = extract(ours)
    assert state.fingerprint == base_fingerprint(gpt2())
    remove(ours)
    assert torch.equal(logits(ours), logits(gpt2()))


@pytest.mark.parametrize("spec", [LoRA(rank=3), LoRA(rank=3, alpha=2), LoRA(rank=7, alpha=3.5)])
def test_what_we_save_gives_the_same_in_peft(peft, spec, tmp_path):
    ours = make()
    insert(ours, spec, LAYERS)
    stir(ours)
    save_peft(ours, tmp_path / "lora", base_name="somebody/some-model")
    theirs = peft.PeftModel.from_pretrained(make(), tmp_path / "lora").eval()
    assert (ours(X) - theirs(X)).abs().max() <= 1e-12
    assert (ours(X) - make()(X)).abs().max() > 1e-2
    assert theirs.peft_config["default"].base_model_name_or_path == "somebody/some-model"
    assert (theirs.merge_and_unload()(X) - ours(X)).abs().max() <= 1e-12


def test_what_we_save_of_a_transformer_gives_the_same_in_peft(peft, tmp_path):
    ours = gpt2()
    insert(ours, LoRA(rank=2, alpha=4), ["*.c_attn", "*.mlp.c_proj"])
    stir(ours)
    save_peft(ours, tmp_path / "lora")
    theirs = peft.PeftModel.from_pretrained(gpt2(), tmp_path / "lora").eval()
    assert (logits(ours) - logits(theirs)).abs().max() <= 1e-6


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_there_and_back(peft, tmp_path):
    ours = make()
    insert(ours, LoRA(rank=3, alpha=2), LAYERS)
    stir(ours)
    save_peft(ours, tmp_path / "one")
    peft.PeftModel.from_pretrained(make(), tmp_path / "one").save_pretrained(tmp_path / "two")
    state, first = load_peft(tmp_path / "two"), extract(ours)
    assert state.spec == first.spec
    assert state.tensors.keys() == first.tensors.keys()
    assert all(torch.equal(state.tensors[name], first.tensors[name]) for name in first.tensors)


@pytest.mark.parametrize(
    ("targets", "named"),
    [
        (["blocks.*"], ["0", "1"]),
        (["turned", "head.proj"], ["proj", "turned"]),
        (["speech"], "speech"),  # as a name it would mean head.speech too
    ],
)
def test_layers_are_named_exactly(targets, named, tmp_path):
    ours = make()
    insert(ours, LoRA(rank=2), targets)
    save_peft(ours, tmp_path / "lora")
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    assert config["target_modules"] == named


# ---- where peft is wrong, ours is right, and nothing is handed over in silence
WRONG_IN_PEFT = {
    "weight-normed": lambda: nn.utils.parametrizations.weight_norm(nn.Conv1d(6, 6, 3, padding=1)),
    "weight-normed, old": lambda: old_weight_norm(nn.Linear(6, 6)),
    "dilated": lambda: nn.Conv1d(6, 6, 3, dilation=2, padding=2),
    "dilated, same": lambda: nn.Conv1d(6, 6, 3, dilation=2, padding="same"),
    "reflected": lambda: nn.Conv1d(6, 6, 3, padding=1, padding_mode="reflect"),
    "transposed": lambda: nn.ConvTranspose1d(6, 6, 4, stride=2),
    "depthwise": lambda: nn.Conv1d(6, 6, 3, groups=6),
}


@pytest.mark.parametrize("layer", WRONG_IN_PEFT.values(), ids=WRONG_IN_PEFT)
def test_layers_that_peft_gets_wrong_are_right_here(layer, tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(layer()).eval()
    x = torch.randn(2, 6, 6)
    net.requires_grad_(False)  # else the old weight_norm cannot be copied
    base = net(x)
    fingerprint, copied = base_fingerprint(net), copy.deepcopy(net)
    insert(net, LoRA(rank=4, alpha=8), "0")  # depthwise: not divisible by the groups
    stir(net)
    with pytest.raises(ValueError, match="'0' .*: leave it out of targets"):
        save_peft(net, tmp_path / "lora")
    assert not (tmp_path / "lora").exists()
    given, state = net(x), extract(net)
    assert (given - base).abs().max() > 1e-2
    remove(net)
    assert base_fingerprint(net) == fingerprint
    for _ in range(3):  # no drift, however often it is put in and taken out
        attach(net, state)
        assert (net(x) - given).abs().max() <= 1e-6
        remove(net)
    assert base_fingerprint(net) == fingerprint
    attach(copied, state)
    merge(copied)
    assert (copied(x) - given).abs().max() <= 1e-5


# ---- what is not read
def written(folder, tensors=None, **changes):
    """A folder as peft writes it, with something else in it."""
    net = nn.Sequential(nn.Linear(4, 3))
    insert(net, LoRA(rank=2), "0")
    save_peft(net, folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | changes))
    if tensors is not None:
        save_file(tensors, folder / "adapter_model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, "use_dora is True, which is not read"),
        ({"bias": "lora_only"}, "bias is lora_only"),
        ({"lora_bias": True}, "lora_bias is True"),
        ({"modules_to_save": ["head"]}, r"modules_to_save is \['head'\]"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"target_parameters": ["w"]}, "target_parameters"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"kasa_config": {"beta": 1}}, "kasa_config"),
        ({"peft_type": "LOHA"}, "holds a 'LOHA' adapter: of peft's kinds only LORA is read"),
        ({"peft_type": None}, "holds a 'None' adapter"),
        ({"init_lora_weights": "pissa_niter_4"}, "'pissa_niter_4' has changed the base's weights"),
        ({"init_lora_weights": "loftq"}, "has changed the base's weights"),
        ({"r": 0}, "adapter_config.json is broken .r is 0"),
        ({"r": "8"}, "is broken"),
        ({"lora_alpha": None}, "is broken"),
        ({"lora_alpha": 0}, "is broken"),
        ({"lora_alpha": float("nan")}, "is broken"),
        ({"alpha_pattern": {"0": "x"}}, "is broken"),
        ({"alpha_pattern": ["0"]}, "is broken"),
        ({"alpha_pattern": {"(": 1}}, "alpha_pattern"),
    ],
)
def test_other_adapters_are_refused(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message) as caught:
        load_peft(written(tmp_path / "lora", **changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("start", [True, False, "gaussian", "eva", "orthogonal"])
def test_other_ways_to_start_do_not_matter(start, tmp_path):
    assert load_peft(written(tmp_path / "lora", init_lora_weights=start)).spec == LoRA(2, 2.0)


ONE, UP = torch.ones(2, 4), torch.ones(3, 2)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"base_model.model.e.lora_embedding_A": ONE}, "lora_embedding_A, which is no part"),
        ({"base_model.model.0.lora_magnitude_vector": ONE}, "lora_magnitude_vector, which"),
        ({"base_model.model.a.base_layer.out_proj.lora_A.weight": ONE}, "which is no part"),
        ({"base_model.model.0.weight": ONE}, "which is no part of a plain LoRA"),
        ({"base_model.model.0.lora_A.weight": ONE}, "the tensors of '0' are broken"),
        (
            {
                "base_model.model.0.lora_A.weight": ONE[0] + 1,
                "base_model.model.0.lora_B.weight": ONE,
            },
            "the tensors of '0' are broken",
        ),
        ({}, "holds no layer"),
    ],
)
def test_other_tensors_are_refused(tensors, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load_peft(written(tmp_path / "lora", tensors))


def test_broken_folders(tmp_path):
    with pytest.raises(ValueError, match="has no adapter_config.json: give a folder that peft"):
        load_peft(tmp_path / "none")
    folder = written(tmp_path / "lora")
    for text in ("", "{", "[" * 100_000, "[]", "\x00"):
        broken = tmp_path / "broken"
        broken.mkdir(exist_ok=True)
        (broken / "adapter_config.json").write_text(text)
        with pytest.raises(ValueError, match="adapter_config.json is broken|holds a 'None'"):
            load_peft(broken)
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:50])
    with pytest.raises(ValueError, match="is broken or no safetensors file"):
        load_peft(folder)
    weights.unlink()
    with pytest.raises(ValueError, match="no such adapter file"):
        load_peft(folder)


def test_pickles_are_not_opened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return exec, ("raise SystemExit('executed')",)

    folder = written(tmp_path / "lora")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="adapter_model.bin is a pickle, which may run code"):
        load_peft(folder)


def test_a_lora_of_another_model_is_refused(tmp_path):
    state = load_peft(written(tmp_path / "lora"))
    with pytest.raises(ValueError, match="holds lora_down 2x4, .* another size of model"):
        attach(nn.Sequential(nn.Linear(5, 3)), state)
    with pytest.raises(ValueError, match="has a layer '0', but this"):
        attach(nn.Module(), state)


# ---- what is not written
def test_what_peft_has_no_layout_for_is_not_written(tmp_path):
    net = nn.Sequential(nn.MultiheadAttention(4, 1), nn.Linear(4, 4))
    insert(net, LoRA(rank=2), "0")
    with pytest.raises(ValueError, match="'0' .MultiheadAttention. is of a kind that peft"):
        save_peft(net, tmp_path / "lora")
    remove(net)
    insert(net, Bottleneck(units=2), "1")
    with pytest.raises(ValueError, match="is a Bottleneck: only LoRA can be written"):
        save_peft(net, tmp_path / "lora")
    root = nn.Linear(4, 4)
    insert(root, LoRA(rank=2), "")
    with pytest.raises(ValueError, match="is the whole model, which peft cannot adapt"):
        save_peft(root, tmp_path / "lora")
    assert not any(tmp_path.iterdir())


def test_nothing_is_written_over(tmp_path):
    net = make()
    insert(net, LoRA(rank=2), "turned")
    save_peft(net, tmp_path / "lora")
    before = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="is there already: give a new or empty folder"):
        save_peft(net, tmp_path / "lora")
    with pytest.raises(ValueError, match="is there already"):
        save_peft(net, tmp_path / "lora" / "adapter_config.json")
    assert before.keys() == {
        "base_model.model.turned.lora_A.weight",
        "base_model.model.turned.lora_B.weight",
    }
    assert adapter_layers(net)["turned"]["weight"].lora_down.shape == (2, 8)
