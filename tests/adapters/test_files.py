"""Adapter files that are not what they say."""

import json
import pickle
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from speechcl.adapters import LoRA, adapter_parameters, attach, extract, insert
from tests.adapters.models import make, refused


@pytest.fixture
def model():
    return make()


def written(folder, about=None, tensors=None):
    file = folder / "adapter.safetensors"
    insert(net := make(), LoRA(rank=2), "head")
    extract(net).save(file)
    whole = {
        "format": "speechcl-adapter/1",
        "kind": "LoRA",
        "config": json.dumps({"rank": 2, "alpha": None}),
        "fingerprint": "",
    }
    save_file(tensors or load_file(file), file, whole | (about or {}))
    return file


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 20, 0.5, -1])
def test_truncated_files(model, tmp_path, keep):
    file = written(tmp_path)
    content = file.read_bytes()
    file.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with refused(model, "adapter.safetensors: is broken or no safetensors file"):
        attach(model, file)


class Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


HEADERS = {
    "pickle": pickle.dumps(Bomb()),
    "huge header": struct.pack("<Q", 2**62) + b"{}",
    "large header": struct.pack("<Q", 10**9) + b"{}" + b" " * 1000,
    "no json": struct.pack("<Q", 8) + b"\x80\x04\x95\x00\x00\x00\x00.",
    "deep json": struct.pack("<Q", 60_000) + b"[" * 60_000,
    "overlapping tensors": None,
    "text": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
}


@pytest.mark.parametrize("content", HEADERS.values(), ids=HEADERS)
def test_hostile_files(model, tmp_path, content):
    if content is None:
        one = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
        header = json.dumps({"a.b.c": one, "a.b.d": one}).encode()
        content = struct.pack("<Q", len(header)) + header + bytes(8)
    file = tmp_path / "adapter.safetensors"
    file.write_bytes(content)
    with refused(model, "adapter.safetensors: is broken or no safetensors file"):
        attach(model, file)


def test_a_pickled_checkpoint_is_not_unpickled(model, tmp_path):
    torch.save({"head.weight.lora_up": Bomb()}, tmp_path / "adapter.safetensors")
    with refused(model, "is broken or no safetensors file"):
        attach(model, tmp_path / "adapter.safetensors")


def test_files_that_are_not_there(model, tmp_path):
    for place in (tmp_path, tmp_path / "none.safetensors"):
        with refused(model, "no such adapter file"):
            attach(model, place)


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"format": "pt"}, "holds tensors but no adapter"),
        ({"format": "speechcl-adapter/2"}, "holds tensors but no adapter"),
        ({"kind": "Teapot"}, "holds a 'Teapot', not one of .*LoRA"),
        ({"kind": "Adapter"}, "holds a 'Adapter', not one of"),
        ({"kind": "AdapterState"}, "holds a 'AdapterState', not one of"),
        ({"kind": "__builtins__"}, "not one of"),
        ({"config": ""}, "the configuration of its LoRA is broken"),
        ({"config": "[1, 2]"}, "the configuration of its LoRA is broken"),
        ({"config": "[" * 100_000}, "the configuration of its LoRA is broken"),
        ({"config": '{"rank": 0}'}, "is broken: rank is 0"),
        ({"config": '{"rank": "8"}'}, "is broken: rank is 8"),
        ({"config": '{"rank": 8, "alpha": NaN}'}, "is broken: alpha is nan"),
        ({"config": '{"rank": 8, "alpha": "1"}'}, "configuration of its LoRA is broken"),
        ({"config": '{"rank": 8, "unknown": 1}'}, "configuration of its LoRA is broken"),
        ({"kind": "Bottleneck", "config": '{"activation": []}'}, "its Bottleneck is broken"),
        ({"kind": "Bottleneck", "config": '{"kernel": 1.5}'}, "its Bottleneck is broken"),
        ({"fingerprint": "0" * 64}, "made for a base with fingerprint 000000000000"),
    ],
)
def test_metadata(model, tmp_path, about, message):
    with refused(model, message):
        attach(model, written(tmp_path, about))


def test_names_of_tensors(model, tmp_path):
    with refused(model, "has lora_up where a layer should be"):
        attach(model, written(tmp_path, tensors={"lora_up": torch.ones(1)}))


def test_numbers_of_another_type_are_converted(model, tmp_path):
    tensors = {k: v.to(torch.int32) for k, v in load_file(written(tmp_path)).items()}
    attach(model, written(tmp_path, tensors=tensors))
    assert all(p.dtype == torch.float32 for p in adapter_parameters(model))


def test_saving_is_whole_or_not_at_all(model, tmp_path):
    insert(model, LoRA(rank=2), "head")
    file = tmp_path / "a.safetensors"
    extract(model).save(file)
    before = file.read_bytes()
    broken = extract(model)
    broken.tensors["head.weight.lora_up"] = "no tensor"
    with pytest.raises(AttributeError):
        broken.save(file)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]
