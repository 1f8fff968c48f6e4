"""CLIP as a module: images and names in one space."""

import json

import pytest
import torch

from speechcl.backbones.huggingface import load_tokenizer, load_transformer
from speechcl.backbones.image_text import ImageTextModel, read_colours
from tests import tiny_transformers as tiny


def model(folder, **options):
    source = tiny.clip(folder)
    tokenizer = load_tokenizer(source)
    options.setdefault("template", "w1 {}")
    return ImageTextModel(load_transformer(source, "image_text", tokenizer), tokenizer, **options)


def test_images_and_names_are_as_the_library_embeds_them(tmp_path):
    clip = model(tmp_path).eval()
    images = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    names = clip.tokenise(["yes", "w2 w3 w4"])
    assert names.tolist() == [[2, 5, 16, 3, 0, 0], [2, 5, 6, 7, 8, 3]]
    found = clip(images, names)
    pixels = (images / 255 - torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]) / (
        torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    )
    mask = (names != 0).long()
    expected = clip.model(input_ids=names, attention_mask=mask, pixel_values=pixels)
    torch.testing.assert_close(
        found.scale * found.image @ found.text.T, expected.logits_per_image, rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(clip.encode_text(names), found.text)
    for vectors in (found.image, found.text):
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)))


def test_a_name_is_the_same_beside_longer_ones(tmp_path):
    clip = model(tmp_path).eval()
    alone = clip.encode_text(clip.tokenise(["yes"]))
    beside = clip.encode_text(clip.tokenise(["yes", "w2 w3 w4 w5"]))[:1]
    torch.testing.assert_close(beside, alone, rtol=1e-4, atol=1e-6)


def test_names_are_read_where_the_tokenizer_ends_them():
    sizes = {name: value for name, value in tiny.SIZES.items() if not name.endswith("_id")}
    vision = {**sizes, "image_size": 8, "patch_size": 4}
    config = {"model_type": "clip", "text_config": sizes, "vision_config": vision}
    tokenizer = tiny.word_tokenizer()
    clip = ImageTextModel(load_transformer(config, "image_text", tokenizer), tokenizer, "{}").eval()
    same, other, again = clip.encode_text(clip.tokenise(["w1 w2", "w1 w3", "w1 w2"]))
    assert torch.equal(same, again)
    assert (same - other).norm() > 1e-3


def test_a_template_needs_a_place_and_names_must_fit(tmp_path):
    with pytest.raises(ValueError, match="template is 'a photo': put {} where the name"):
        model(tmp_path, template="a photo")
    long = " ".join(["w3"] * 10)
    with pytest.raises(ValueError, match="has 13 tokens, the model reads 12: shorten it"):
        model(tmp_path).tokenise(["yes", long])


def test_other_models_of_images_and_texts_are_refused():
    with pytest.raises(ValueError, match="a siglip model cannot do image_text"):
        load_transformer({"model_type": "siglip"}, "image_text")
    with pytest.raises(ValueError, match="a clip model cannot do seq2seq: use image_text"):
        load_transformer({"model_type": "clip"}, "seq2seq")


def test_colours_are_those_of_the_checkpoint(tmp_path):
    file = tmp_path / "preprocessor_config.json"
    clips_own = read_colours(tmp_path)
    assert read_colours({"model_type": "clip"}) == clips_own
    file.write_text(json.dumps({"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.1]}))
    assert read_colours(tmp_path) == ([0.5, 0.4, 0.3], [0.2, 0.2, 0.1])
    file.write_text("{}")
    assert read_colours(tmp_path) == clips_own
    for wrong in ("[1", '{"image_mean": [0.5]}', '{"image_mean": "x"}', "[]"):
        file.write_text(wrong)
        with pytest.raises(ValueError, match="no image_mean and image_std of three numbers"):
            read_colours(tmp_path)


def test_colours_are_put_to_use_and_not_saved(tmp_path):
    colours = [0.1, 0.2, 0.3], [0.5, 0.5, 0.5]
    clip = model(tmp_path, colours=colours).eval()
    image = 255 * torch.tensor(colours[0])[:, None, None].expand(1, 3, 8, 8)
    zeros = clip.model(input_ids=torch.tensor([[2, 3]]), pixel_values=torch.zeros(1, 3, 8, 8))
    found = clip(image, torch.tensor([[2, 3]])).image
    torch.testing.assert_close(found, zeros.image_embeds, rtol=1e-4, atol=1e-5)
    assert all(name.startswith("model.") for name in clip.state_dict())
