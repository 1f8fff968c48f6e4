"""Models of the transformers library: read from folders and configurations, and refused."""

import json
import pickle
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from speechcl.backbones.huggingface import (
    IGNORED,
    LanguageModel,
    TextClassifier,
    check_length,
    load_tokenizer,
    load_transformer,
    longest,
)
from tests import tiny_transformers as tiny

transformers = pytest.importorskip("transformers")

BERT = {"model_type": "bert", **tiny.SIZES}
LLAMA = {"model_type": "llama", **tiny.SIZES}
MAKERS = {"classification": tiny.bert, "causal_lm": tiny.llama, "seq2seq": tiny.t5}


def tokens(*rows):
    """Ids and mask of rows of unequal length, padded on the right."""
    length = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (length - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    return ids, mask


@pytest.mark.parametrize("kind", MAKERS)
def test_a_folder_gives_the_weights_that_were_saved(kind, tmp_path):
    folder = MAKERS[kind](tmp_path)
    saved = load_file(folder / "model.safetensors")
    model = load_transformer(folder, kind, load_tokenizer(folder), classes=3)
    state = model.state_dict()
    same = [name for name in saved if name in state]
    assert len(same) > 10
    assert all(torch.equal(state[name], saved[name]) for name in same)
    assert model.config.pad_token_id == 0


@pytest.mark.parametrize("config", [BERT, LLAMA])
def test_a_configuration_gives_random_weights_that_the_seed_decides(config, tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))
    found = []
    for source in (config, file, str(file)):
        torch.manual_seed(3)
        found.append(load_transformer(source, "classification", classes=5).state_dict())
    for other in found[1:]:
        assert all(torch.equal(value, other[name]) for name, value in found[0].items())
    assert any(len(value) == 5 for value in found[0].values())


def test_half_precision_becomes_single(tmp_path):
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**tiny.SIZES))
    model.half().save_pretrained(tmp_path)
    assert load_transformer(tmp_path, "causal_lm").dtype == torch.float32


@pytest.mark.parametrize("tied", [True, False])
def test_tied_weights_do_not_count_as_missing(tied, tmp_path):
    config = transformers.LlamaConfig(**tiny.SIZES, tie_word_embeddings=tied)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    model = load_transformer(tmp_path, "causal_lm")
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied


def test_a_head_for_other_classes_is_replaced(tmp_path):
    sizes = transformers.BertConfig(**tiny.SIZES, num_labels=2)
    transformers.BertForSequenceClassification(sizes).save_pretrained(tmp_path)
    model = load_transformer(tmp_path, "classification", classes=4)
    assert model.classifier.weight.shape == (4, 16)
    saved = load_file(tmp_path / "model.safetensors")
    name = "bert.encoder.layer.0.output.dense.weight"
    assert torch.equal(model.state_dict()[name], saved[name])


@pytest.mark.parametrize("kind", MAKERS)
def test_missing_weights_are_refused(kind, tmp_path):
    folder = MAKERS[kind](tmp_path)
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "0" in name)
    del weights[name]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=f"lacks 1 weights of its model, such as {name}"):
        load_transformer(folder, kind, classes=2)


def test_weights_of_another_shape_are_refused(tmp_path):
    weights = load_file(tiny.bert(tmp_path) / "model.safetensors")
    weights["bert.embeddings.word_embeddings.weight"] = torch.zeros(5, 16)
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="such as bert.embeddings.word_embeddings.weight"):
        load_transformer(tmp_path, "classification", classes=2)


class Bomb:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth"])
def test_a_pickle_is_refused_and_not_run(name, tmp_path):
    tiny.llama(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / name).write_bytes(pickle.dumps({"bomb": Bomb(tmp_path / "was_run")}))
    with pytest.raises(ValueError, match=f"{name} is a pickle, which may run code: give a check"):
        load_transformer(tmp_path, "causal_lm")
    assert not (tmp_path / "was_run").exists()


def test_beside_safetensors_a_pickle_is_not_touched(tmp_path):
    tiny.llama(tmp_path)
    bomb = pickle.dumps({"bomb": Bomb(tmp_path / "was_run")})
    (tmp_path / "pytorch_model.bin").write_bytes(bomb)
    load_transformer(tmp_path, "causal_lm")
    assert not (tmp_path / "was_run").exists()


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    tiny.llama(tmp_path)
    target = tmp_path / "was_run"
    (tmp_path / "own.py").write_text(f"import pathlib; pathlib.Path({str(target)!r}).touch()")
    settings = json.loads((tmp_path / "config.json").read_text())
    settings |= {"model_type": "mine", "auto_map": {"AutoConfig": "own.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="cannot be used"):
        load_transformer(tmp_path, "causal_lm")
    assert not target.exists()


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"not a checkpoint"])
def test_damaged_weights_are_one_clear_line(content, tmp_path):
    tiny.llama(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="the weights cannot be read: ") as caught:
        load_transformer(tmp_path, "causal_lm")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["{", "{}", '{"model_type": "unheard_of"}', "[]"])
def test_a_wrong_config_is_one_clear_line(content, tmp_path):
    tiny.llama(tmp_path)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match="cannot be used: ") as caught:
        load_transformer(tmp_path, "causal_lm")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere: no such folder"):
        load_transformer(tmp_path / "nowhere", "causal_lm")
    with pytest.raises(ValueError, match="nowhere: no such folder"):
        load_tokenizer(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no config.json in it"):
        load_transformer(tmp_path, "causal_lm")
    transformers.LlamaConfig(**tiny.SIZES).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no model.safetensors .*config.json for random weights"):
        load_transformer(tmp_path, "causal_lm")
    with pytest.raises(ValueError, match="no tokenizer can be read"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("config", "kind", "message"),
    [
        (LLAMA, "seq2seq", "a llama model cannot do seq2seq: use classification or causal_lm"),
        (BERT, "seq2seq", "a bert model cannot do seq2seq"),
        ({"model_type": "vit"}, "causal_lm", "a vit model cannot do causal_lm: take another"),
        (BERT, "causal_lm", "sees the tokens that it is to predict"),
        (LLAMA, "translation", "kind is 'translation': use classification, causal_lm, seq2seq"),
        ({**LLAMA, "hidden_siz": 8}, "causal_lm", "no setting 'hidden_siz': did you mean hidden_s"),
        ({**LLAMA, "zzz": 8}, "causal_lm", "a llama model has no setting 'zzz': leave it out"),
        ({**LLAMA, "hidden_size": "x"}, "causal_lm", "hidden_size.* expected int, got str"),
        ({**LLAMA, "hidden_size": 15}, "causal_lm", "not a multiple of the number of attention"),
        ({"hidden_size": 16}, "causal_lm", "cannot be used: Unrecognized model"),
    ],
)
def test_what_a_model_cannot_do_is_refused(config, kind, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_transformer(config, kind)
    assert "\n" not in str(caught.value)


def test_bert_as_a_decoder_is_a_language_model():
    assert load_transformer({**BERT, "is_decoder": True}, "causal_lm").config.is_decoder


def test_missing_transformers_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    for call in (lambda: load_transformer(LLAMA, "causal_lm"), lambda: load_tokenizer("bytes")):
        with pytest.raises(ImportError, match=r'pip install "speechcl\[lm\]"'):
            call()


def test_more_tokens_than_the_model_knows_are_refused():
    with pytest.raises(ValueError, match="has 259 tokens but the model 21: set vocab_size"):
        load_transformer(LLAMA, "causal_lm", load_tokenizer("bytes"))
    assert load_transformer({**LLAMA, "vocab_size": 259}, "causal_lm", load_tokenizer("bytes"))


def test_a_tokenizer_without_padding_pads_with_the_end(tmp_path):
    tokenizer = tiny.word_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    found = load_tokenizer(tmp_path)
    assert (found.pad_token_id, found.eos_token_id) == (3, 3)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="neither a padding nor an end token: set eos_token"):
        load_tokenizer(tmp_path)


def test_a_configuration_has_no_tokenizer(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    for source in (LLAMA, tmp_path / "config.json"):
        with pytest.raises(ValueError, match="set tokenizer to a folder or to bytes"):
            load_tokenizer(source)


@pytest.mark.parametrize(("length", "ok"), [(3, False), (4, True), (32, True), (33, False)])
def test_items_must_fit_the_positions(length, ok):
    model = load_transformer({**LLAMA, "max_position_embeddings": 32}, "causal_lm")
    if ok:
        check_length(model, length)
    else:
        with pytest.raises(ValueError, match=f"max_length is {length}: set it from 4 to 32"):
            check_length(model, length)


def test_relative_positions_set_no_limit(tmp_path):
    model = load_transformer(tiny.t5(tmp_path), "seq2seq")
    check_length(model, 100_000)
    with pytest.raises(ValueError, match="max_length is 1: set it from 4 upwards"):
        check_length(model, 1)


@pytest.mark.parametrize("config", [BERT, LLAMA])
def test_padding_changes_nothing(config):
    wrapped = TextClassifier(load_transformer(config, "classification", classes=3)).eval()
    short, long = [2, 7, 8, 3], [2, 9, 10, 11, 12, 3]
    alone = wrapped(*tokens(short))
    together = wrapped(*tokens(short, long))
    ids, mask = tokens(short, long)
    wider = wrapped(torch.nn.functional.pad(ids, (0, 20)), torch.nn.functional.pad(mask, (0, 20)))
    for one, other, wide in zip(alone, together, wider, strict=True):
        torch.testing.assert_close(other[:1], one, rtol=1e-4, atol=1e-6)
        assert torch.equal(wide, other), "columns that are padding in all rows are cut off"


def test_features_are_the_mean_state_of_the_tokens():
    wrapped = TextClassifier(load_transformer(BERT, "classification", classes=3)).eval()
    ids, mask = tokens([2, 7, 3], [2, 7, 8, 9, 3])
    states = wrapped.model.bert(input_ids=ids, attention_mask=mask).last_hidden_state
    expected = torch.stack([states[0, :3].mean(0), states[1].mean(0)])
    torch.testing.assert_close(wrapped(ids, mask)[1], expected)


def test_a_decoder_classifies_by_the_last_real_token():
    wrapped = TextClassifier(load_transformer(LLAMA, "classification", classes=3)).eval()
    ids, mask = tokens([2, 7, 3], [2, 7, 8, 9, 3])
    states = wrapped.model.model(input_ids=ids, attention_mask=mask).last_hidden_state
    expected = wrapped.model.score(torch.stack([states[0, 2], states[1, 4]]))
    torch.testing.assert_close(wrapped(ids, mask)[0], expected)


def test_a_model_without_padding_takes_that_of_the_tokenizer():
    config = {name: value for name, value in LLAMA.items() if name != "pad_token_id"}
    assert load_transformer(config, "classification", classes=3).config.pad_token_id is None
    model = load_transformer(config, "classification", tiny.word_tokenizer(), classes=3)
    assert (model.config.pad_token_id, model.config.eos_token_id) == (0, 3)
    TextClassifier(model)(*tokens([2, 7, 3], [2, 7, 8, 9, 3]))


def test_a_causal_model_predicts_the_following_token():
    wrapped = LanguageModel(load_transformer(LLAMA, "causal_lm")).eval()
    ids, mask = tokens([2, 7, 8, 9], [2, 5, 6])
    labels = torch.where(mask.bool(), ids, IGNORED)
    labels[:, 0] = IGNORED
    logits, following = wrapped(
        *(torch.nn.functional.pad(one, (0, 9), value=fill) for one, fill in ((ids, 0), (mask, 0))),
        torch.nn.functional.pad(labels, (0, 9), value=IGNORED),
    )
    assert following.tolist() == [[7, 8, 9, IGNORED], [5, 6, IGNORED, IGNORED]]
    for row, place in ((0, 0), (0, 2), (1, 1)):
        alone = wrapped.model(input_ids=ids[row : row + 1, : place + 1]).logits[0, -1]
        torch.testing.assert_close(logits[row, place], alone, rtol=1e-4, atol=1e-6)


def test_an_encoder_and_decoder_predict_the_answer(tmp_path):
    wrapped = LanguageModel(load_transformer(tiny.t5(tmp_path), "seq2seq")).eval()
    ids, mask = tokens([7, 8, 9, 3], [5, 3])
    labels = torch.tensor([[6, 3, IGNORED, IGNORED], [10, 11, 3, IGNORED]])
    logits, following = wrapped(ids, mask, labels)
    assert following.tolist() == [[6, 3, IGNORED], [10, 11, 3]]
    alone = wrapped.model(input_ids=ids[1:, :2], decoder_input_ids=torch.tensor([[0, 10, 11]]))
    torch.testing.assert_close(logits[1], alone.logits[0], rtol=1e-4, atol=1e-6)


def test_longest_counts_the_fullest_row():
    assert longest(torch.tensor([[1, 1, 0], [1, 0, 0]])) == 2
