"""SLM in language models: what writes retrieves once, by its prompt."""

import copy

import pytest
import torch
from torch import nn

from speechcl.adapters import adapter_layers
from speechcl.backbones.huggingface import LanguageModel, load_tokenizer, load_transformer
from speechcl.memory import KeyRetriever, StatisticsEncoder
from speechcl.memory.query_encoders import FrozenEncoder
from speechcl.methods import SLM
from speechcl.methods.slm import Retrieving
from tests import tiny_transformers as tiny
from tests.toy import ToyNet


def banks(root):
    return [one["weight"] for one in adapter_layers(root.model).values()]


def writer(folder, make, over_batch=False):
    """A language model with slots of two tasks, and prompts of two lengths with their mask."""
    source = make(folder / make.__name__)
    kind = "seq2seq" if make is tiny.t5 else "causal_lm"
    layer = "*.o" if make is tiny.t5 else "*.o_proj"
    model = load_transformer(source, kind, load_tokenizer(source))
    method = SLM(
        layer,
        encoder=FrozenEncoder(nn.Sequential(model.get_input_embeddings())),
        retriever=KeyRetriever(groups=1, slots=2, retrieved=2, whiten=False),
        rank=2,
        encoder_inputs=2,
        over_batch=over_batch,
    )
    modules = nn.ModuleDict({"model": LanguageModel(model)})
    method.build(modules, {"tasks": 2, "width": 16, "growing": True})
    torch.manual_seed(1)
    root = modules["model"].eval()
    root.retriever.keys.normal_()
    for bank in banks(root):
        bank.new_up.data.normal_(std=3)
    ids = torch.randint(4, tiny.VOCAB, (4, 7))
    mask = torch.ones_like(ids)
    ids[1, :3] = mask[1, :3] = 0  # padded on the left, as for writing
    return root, ids, mask


def folded(root, weights):
    """The bare model with one mixture in its weights."""
    plain = copy.deepcopy(root.model)
    for path, one in adapter_layers(plain).items():
        place, bank = plain.get_submodule(path), one["weight"]
        dense = (bank.up() * weights.repeat_interleave(2)) @ bank.down()
        place._parameters["weight"].data += dense
        place.serving = ()
    return plain.model


@pytest.mark.parametrize("make", [tiny.llama, tiny.t5])
@pytest.mark.parametrize("beams", [1, 3])
@torch.no_grad()
def test_generation_retrieves_once_by_the_prompt(make, beams, tmp_path):
    root, ids, mask = writer(tmp_path, make)
    options = {"max_new_tokens": 5, "min_new_tokens": 5, "num_beams": beams, "do_sample": False}
    if make is tiny.t5:
        options["decoder_start_token_id"] = 0
    found = root.generate(ids, attention_mask=mask, **options)[:, -5:]
    assert torch.equal(root.generate(input_ids=ids, attention_mask=mask, **options)[:, -5:], found)
    for number, (row, real) in enumerate(zip(ids, mask.bool(), strict=True)):
        prompt = row[real][None]
        plain = folded(root, root.retriever(root.encoder(prompt))[0])
        ones = torch.ones_like(prompt)
        assert torch.equal(
            plain.generate(prompt, attention_mask=ones, **options)[0, -5:], found[number]
        )
    base = folded(root, torch.zeros(4)).generate(ids, attention_mask=mask, **options)[:, -5:]
    assert not torch.equal(base, found)


@torch.no_grad()
def test_generation_for_the_batch_as_a_whole(tmp_path):
    root, ids, mask = writer(tmp_path, tiny.llama, over_batch=True)
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "num_beams": 2, "do_sample": False}
    found = root.generate(ids[2:], attention_mask=mask[2:], **options)
    plain = folded(root, root.retriever.over_batch(root.encoder(ids[2:]))[0])
    assert torch.equal(plain.generate(ids[2:], attention_mask=mask[2:], **options), found)


def test_generation_is_refused_where_it_could_not_retrieve(tmp_path):
    root, ids, mask = writer(tmp_path, tiny.llama)
    with pytest.raises(ValueError, match="give generate the prompts, and their attention_mask"):
        root.generate(ids)
    with pytest.raises(ValueError, match="give generate the prompts, and their attention_mask"):
        root.generate(attention_mask=mask)
    with pytest.raises(ValueError, match="does not know which slots to use"):
        root.model.model.generate(ids, attention_mask=mask, max_new_tokens=2)  # past the retriever
    with pytest.raises(AttributeError, match="'ToyNet' object has no attribute 'generate'"):
        Retrieving(ToyNet(), StatisticsEncoder(), KeyRetriever()).generate(torch.ones(1, 8))


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_changes_no_gradient(reentrant, tmp_path):
    root, ids, mask = writer(tmp_path, tiny.llama)
    mask = torch.ones_like(mask)
    root.model.model.enable_input_require_grads()
    found = []
    for _ in range(2):
        root.train().zero_grad()
        both = [root(ids[part], mask[part], ids[part])[0] for part in ([0, 1], [2, 3, 1])]
        sum(one.square().mean() for one in both).backward()
        found.append([layer.new_down.grad.clone() for layer in banks(root)])
        root.model.model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    assert all(map(torch.equal, *found))
    assert all(one.abs().sum() > 0 for one in found[0])
