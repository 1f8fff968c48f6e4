"""Voice models come back from their folder as they were, and from no other."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from speechcl.backbones.usat import USAT
from speechcl.backbones.usat.files import PUBLISHED, SIZES
from speechcl.backbones.usat.voices import add_voice, remove_voice
from tests.toy import same

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return USAT("usat_tiny").eval()


@pytest.fixture
def folder(model, tmp_path):
    model.save(tmp_path / "voice")
    return tmp_path / "voice"


@torch.no_grad()
def test_it_comes_back_bit_for_bit(model, folder):
    again = USAT.from_pretrained(folder)
    assert not again.training
    assert again.config == model.config
    assert same(again.state_dict(), model.state_dict())
    ids, speaker = torch.tensor([[0, 10, 0, 14, 0]]), torch.randn(1, 32)
    spoken = [
        one.say(ids, speaker, generator=torch.Generator().manual_seed(1)) for one in (model, again)
    ]
    assert torch.equal(spoken[0][0], spoken[1][0])


def test_half_the_size_in_half_precision(model, folder, tmp_path):
    model.save(tmp_path / "half", torch.float16)
    sizes = [(one / WEIGHTS).stat().st_size for one in (tmp_path / "half", folder)]
    assert sizes[0] < 0.6 * sizes[1]
    again = USAT.from_pretrained(tmp_path / "half").state_dict()
    for name, value in model.state_dict().items():
        assert again[name].dtype == value.dtype
        torch.testing.assert_close(again[name], value, rtol=1e-3, atol=1e-4)


def test_nothing_is_overwritten(model, folder):
    with pytest.raises(ValueError, match="voice is not empty: give a new folder"):
        model.save(folder)


def test_where_there_is_no_model(tmp_path):
    with pytest.raises(ValueError, match=r"no config.json and model\*.safetensors.*: usat_small"):
        USAT.from_pretrained(tmp_path)


def test_weights_in_several_files_come_back_and_none_may_be_missing(model, tmp_path):
    model.save(tmp_path / "parts", shard_mb=0.5)
    files = sorted((tmp_path / "parts").glob("*.safetensors"))
    assert len(files) > 2
    assert (
        max(file.stat().st_size for file in files) < 0.54e6
    )  # numbers take 0.5 MB, their names the rest
    assert same(USAT.from_pretrained(tmp_path / "parts").state_dict(), model.state_dict())
    files[1].unlink()
    with pytest.raises(ValueError, match="do not fit config.json"):
        USAT.from_pretrained(tmp_path / "parts")


def test_the_published_model_is_found_by_name_and_described():
    folder = PUBLISHED / "usat_small"
    by_name = USAT.from_pretrained("usat_small")
    assert by_name.config.rate_hz == 16000
    assert same(by_name.state_dict(), USAT.from_pretrained(folder).state_dict())
    assert sum(file.stat().st_size for file in folder.iterdir()) < 40e6
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert all(word in card for word in ("Licence", "VCTK", "LibriSpeech", "speechocean762"))


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        '{"latent": "32"}',
        '{"latent": true}',
        '{"more": 1}',
        "\xff",
        "[" * 100_000,
        '{"latent": -1}',
        '{"text_layers": 1000000000}',
    ],
)
def test_other_sizes_are_refused(content, folder):
    (folder / SIZES).write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=r"config.json: not the sizes of a voice model"):
        USAT.from_pretrained(folder)


def test_sizes_that_the_weights_do_not_have(folder):
    sizes = json.loads((folder / SIZES).read_text())
    (folder / SIZES).write_text(json.dumps({**sizes, "memory_slots": 33}))
    with pytest.raises(ValueError, match=r"memory\.memory and 0 more do not fit config\.json"):
        USAT.from_pretrained(folder)
    (folder / SIZES).write_text(json.dumps({**sizes, "text_layers": 1}))
    with pytest.raises(ValueError, match=r"phonemes\.layers\.1.* more do not fit config\.json"):
        USAT.from_pretrained(folder)


@pytest.mark.parametrize("sizes", [{"latent": 33}, {"hidden": 33}, {"hop": 2000}])
def test_sizes_that_no_model_has(sizes, folder):
    known = json.loads((folder / SIZES).read_text())
    (folder / SIZES).write_text(json.dumps({**known, **sizes}))
    with pytest.raises(ValueError, match=r"config\.json: no model has such sizes"):
        USAT.from_pretrained(folder)


def test_a_model_too_large_for_the_memory_is_not_built(folder):
    sizes = json.loads((folder / SIZES).read_text())
    huge = {"memory_slots": 1_000_000, "memory_channels": 1_000_000, "latent": 1_000_000}
    (folder / SIZES).write_text(json.dumps({**sizes, **huge}))
    with pytest.raises(ValueError, match="more do not fit"):
        USAT.from_pretrained(folder)


def test_weights_that_are_no_numbers_are_refused(model, folder, tmp_path):
    weights = load_file(folder / WEIGHTS)
    weights["memory.memory"][0, 0] = torch.nan
    save_file(weights, folder / WEIGHTS)
    with pytest.raises(ValueError, match=r"memory\.memory holds numbers that are not finite"):
        USAT.from_pretrained(folder)
    loud = copy.deepcopy(model)
    with torch.no_grad():
        loud.memory.memory[0, 0] = 1e6
    with pytest.raises(ValueError, match=r"not finite in torch\.float16"):
        loud.save(tmp_path / "half", torch.float16)
    assert not (tmp_path / "half").exists()


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float64, torch.int8, torch.bool])
def test_weights_of_another_type_are_refused(folder, dtype):
    weights = load_file(folder / WEIGHTS)
    weights["memory.memory"] = weights["memory.memory"].to(dtype)
    save_file(weights, folder / WEIGHTS)
    with pytest.raises(ValueError, match=r"memory\.memory is of torch\.\w+, not of its own type"):
        USAT.from_pretrained(folder)


def test_voices_beside_it_are_not_written_with_it(model, tmp_path):
    other = copy.deepcopy(model)
    add_voice(other, "alice", torch.zeros(32))
    with pytest.raises(ValueError, match="has voices beside it, which have files of their own"):
        other.save(tmp_path / "voice")
    remove_voice(other, "alice")
    other.save(tmp_path / "voice")
    assert same(USAT.from_pretrained(tmp_path / "voice").state_dict(), model.state_dict())


@pytest.mark.parametrize("content", [b"", b"\x00" * 200, b"PK\x03\x04 a pickle in a zip"])
def test_damaged_weights_are_refused(content, folder):
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors: no weights can be read"):
        USAT.from_pretrained(folder)


def test_truncated_weights_are_refused(folder):
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"model\.safetensors: no weights can be read"):
        USAT.from_pretrained(folder)
