"""Voices beside a base: they start as it, leave it alone, and come back from their files."""

import copy
import dataclasses
import itertools

import pytest
import torch

from speechcl.adapters import base_fingerprint
from speechcl.backbones.usat import USAT, preset
from speechcl.backbones.usat.model import mask_of
from speechcl.backbones.usat.voice_files import load_voice, save_voice
from speechcl.backbones.usat.voices import (
    POSITIONS,
    VoiceSpec,
    add_voice,
    list_voices,
    remove_voice,
    speaking,
    voice_parameters,
    voice_points,
    voice_tensors,
)
from tests.toy import same

every_position = pytest.mark.parametrize("position", POSITIONS)
QUIET = {"noise_scale": 0.0, "duration_noise_scale": 0.0}
IDS = torch.tensor([[0, 10, 0, 14, 0, 30, 0]])


def base(**changes):
    """A tiny model in which nothing is zero any more, as after training."""
    torch.manual_seed(0)
    net = USAT(dataclasses.replace(preset("usat_tiny"), **changes)).eval()
    with torch.no_grad():
        for parameter in itertools.chain(net.flow.parameters(), net.durations.parameters()):
            parameter.add_(0.05 * torch.randn_like(parameter))
    return net.requires_grad_(False)


def stir(model, name):
    """Give a voice something to say."""
    with torch.no_grad():
        for parameter in voice_parameters(model, name):
            parameter.add_(0.1 * torch.randn_like(parameter))


def with_voices(*names, position="h_res", **changes):
    model = base(**changes)
    for name in names:
        add_voice(model, name, torch.randn(32), VoiceSpec(position))
        stir(model, name)
    return model


def state(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def through_everything(model, vectors, items=1):
    """Text, both directions of the flow, and durations, for so many items."""
    ids, lengths = IDS.expand(items, -1), torch.full((items,), 7)
    mask = mask_of(lengths, 7)
    z = torch.linspace(-1, 1, 32 * 9).view(1, 32, 9).expand(items, -1, -1)
    frames = torch.ones(items, 1, 9)
    vectors = vectors.expand(items, -1)
    h, mean, _ = model.phonemes(ids, mask)
    durations = model.durations.sample(h, mask, vectors, 0.0)
    there = model.flow.remove_timbre(z, frames, vectors)
    return torch.cat([one.flatten(1) for one in (mean, durations, there)], dim=1)


@torch.no_grad()
@pytest.mark.parametrize("position", ["h_res", "x_res"])
def test_a_fresh_voice_is_the_base_bit_for_bit(position):
    model, vector = base(), torch.randn(1, 32)
    before = through_everything(model, vector)
    add_voice(model, "alice", vector[0], VoiceSpec(position))
    with speaking(model, "alice") as vectors:
        assert torch.equal(through_everything(model, vectors), before)
    assert VoiceSpec(position).starts_as_base


@torch.no_grad()
@pytest.mark.parametrize("position", ["h_seq", "x_seq"])
def test_positions_that_do_not_start_as_the_base_say_so(position):
    model, vector = base(), torch.randn(1, 32)
    before = through_everything(model, vector)
    add_voice(model, "alice", vector[0], VoiceSpec(position))
    with speaking(model, "alice") as vectors:
        assert not torch.equal(through_everything(model, vectors), before)
    assert not VoiceSpec(position).starts_as_base


@torch.no_grad()
@every_position
def test_the_flow_can_be_undone_whatever_a_voice_holds(position):
    model = with_voices("alice", position=position)
    z = torch.randn(2, 32, 12)
    mask = mask_of(torch.tensor([12, 7]), 12)
    with speaking(model, "alice") as vectors:
        vectors = vectors.expand(2, -1)
        there = model.flow.remove_timbre(z, mask, vectors)
        back = model.flow.add_timbre(there, mask, vectors)
    torch.testing.assert_close(back, z * mask, rtol=0, atol=1e-4)
    assert (there - model.flow.remove_timbre(z, mask, vectors)).abs().max() > 1e-3


@torch.no_grad()
@every_position
def test_voices_of_a_batch_are_computed_in_one_pass(position):
    names = ["alice", "bob", "carol"]
    model = with_voices(*names, position=position)
    wanted = ["bob", "alice", "bob", "carol"]
    with speaking(model, wanted) as vectors:
        together = through_everything(model, vectors, items=4)
    for i, name in enumerate(wanted):
        with speaking(model, name) as vectors:
            alone = through_everything(model, vectors)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-2


@torch.no_grad()
@every_position
@pytest.mark.parametrize("names", [["alice"], ["bob", "alice"]])
def test_what_a_voice_makes_of_a_clip_is_the_same_with_padding_behind_it(position, names):
    model = with_voices("alice", "bob", position=position)
    z, longer = torch.randn(len(names), 32, 9), torch.randn(len(names), 32, 15)
    longer[:, :, :9] = z
    mask = (torch.arange(15) < 9).float().expand(len(names), 1, -1)
    with speaking(model, names) as vectors:
        alone = model.flow.remove_timbre(z, mask[:, :, :9], vectors)
        padded = model.flow.remove_timbre(longer, mask, vectors)
    torch.testing.assert_close(padded[:, :, :9], alone, rtol=1e-4, atol=1e-5)
    assert not padded[:, :, 9:].any()


@torch.no_grad()
@every_position
@pytest.mark.parametrize("durations", ["stochastic", "deterministic"])
def test_without_a_voice_the_base_speaks_as_before(position, durations):
    plain = base(durations=durations)
    model = with_voices("alice", "bob", position=position, durations=durations)
    vector = torch.randn(1, 32)
    assert torch.equal(through_everything(model, vector), through_everything(plain, vector))
    with speaking(model, "alice"):
        assert not torch.equal(through_everything(model, vector), through_everything(plain, vector))
    assert torch.equal(through_everything(model, vector), through_everything(plain, vector))


def test_only_the_voice_moves_when_it_is_trained():
    model = with_voices("alice", "bob")
    before = state(model)
    trained = voice_parameters(model, "alice")
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    model.durations.detach = False
    latents = model.encode(0.1 * torch.randn(1, 8000))
    for _ in range(3):
        with speaking(model, "alice") as vectors:
            aligned = model.align(IDS, torch.tensor([7]), latents, vectors)
        error = (aligned.timbre_free - aligned.mean).square().mean()
        (error + aligned.duration_loss).backward()
        optimizer.step()
        optimizer.zero_grad()
    after = state(model)
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert moved == {key for key in before if "@alice" in key}


def test_a_removed_voice_leaves_no_bit_behind():
    plain = base()
    model = with_voices("alice", "bob")
    remove_voice(model, "alice")
    assert list_voices(model) == ["bob"]
    assert base_fingerprint(model) == base_fingerprint(plain)
    remove_voice(model, "bob")
    assert same(state(model), state(plain))
    assert model.voice_spec is None
    with pytest.raises(ValueError, match="has no voice 'bob'; it has none"):
        remove_voice(model, "bob")


@pytest.mark.parametrize(("kernel", "reduction"), [(3, 8), (1, 8), (3, 24)])
def test_numbers_of_a_voice_of_the_base_preset(kernel, reduction):
    """The arithmetic of the method's section 6.3."""
    with torch.device("meta"):
        model = USAT("usat_base")
        add_voice(model, "alice", torch.zeros(256), VoiceSpec("h_res", kernel, reduction))
    d, b = 192, 192 // reduction
    one, phoneme = (2 * d + d * b * k + b + b * d * k + d for k in (kernel, 1))
    expected = 20 * one + 6 * phoneme + 256
    assert sum(p.numel() for p in voice_parameters(model, "alice")) == expected
    assert expected == {(3, 8): 624_112, (1, 8): 255_472, (3, 24): 218_192}[kernel, reduction]


@pytest.mark.parametrize(("name", "most_mb"), [("usat_base", 1.3), ("usat_small", 0.3)])
def test_files_are_small(name, most_mb, tmp_path):
    model = USAT(name)
    add_voice(model, "alice", torch.zeros(model.config.speaker))
    save_voice(model, "alice", tmp_path / "alice.safetensors")
    assert 0.5 * most_mb < (tmp_path / "alice.safetensors").stat().st_size / 1e6 < most_mb


@torch.no_grad()
def test_files_come_back_in_any_order(tmp_path):
    model = with_voices("alice", "bob")
    spoken = {}
    for name in ("alice", "bob"):
        save_voice(model, name, tmp_path / f"{name}.safetensors", torch.float32)
        with speaking(model, name) as vectors:
            spoken[name] = model.say(IDS, vectors, generator=torch.Generator().manual_seed(1))[0]
    for name in ("alice", "bob", "alice"):
        fresh = base()
        assert load_voice(fresh, tmp_path / f"{name}.safetensors") == name
        with speaking(fresh, name) as vectors:
            again = fresh.say(IDS, vectors, generator=torch.Generator().manual_seed(1))[0]
        assert torch.equal(again, spoken[name])


@torch.no_grad()
def test_half_precision_is_near(tmp_path):
    model = with_voices("alice")
    save_voice(model, "alice", tmp_path / "a.safetensors")
    fresh = base()
    load_voice(fresh, tmp_path / "a.safetensors", "copy")
    assert list_voices(fresh) == ["copy"]
    for key, one in voice_tensors(fresh, "copy").items():
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, voice_tensors(model, "alice")[key], rtol=1e-3, atol=1e-4)


def edited(file, change):
    """Write a voice file anew with something else in it."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(file, framework="pt") as opened:
        about = opened.metadata()
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    change(about, tensors)
    save_file(tensors, file, about)


def nan(about, tensors):
    tensors["vector"][0] = torch.nan


def missing(about, tensors):
    del tensors["phonemes.layers.0.attention.point.down"]


def larger(about, tensors):
    tensors["phonemes.layers.0.attention.point.down"] = torch.zeros(9, 32, 1)


def of_another_kind(about, tensors):
    about["format"] = "speechcl adapter 1"


def of_another_base(about, tensors):
    about["fingerprint"] = "0" * 64


def with_code(about, tensors):
    about["spec"] = "__import__('os').system('true')"


def with_other_spec(about, tensors):
    about["spec"] = '{"position": "everywhere"}'


def with_a_huge_kernel(about, tensors):
    about["spec"] = '{"kernel": 1000000001}'


def with_a_broken_number(about, tensors):
    about["spec"] = '{"kernel": 3.0}'


def of_other_numbers(about, tensors):
    key = "phonemes.layers.0.attention.point.down"
    tensors[key] = tensors[key].to(torch.complex64)


def without_vector(about, tensors):
    del tensors["vector"]


def of_eight_bits(about, tensors):
    key = next(name for name in tensors if name.endswith("down"))
    tensors[key] = tensors[key].to(torch.float8_e4m3fn)


def beyond_single_precision(about, tensors):
    tensors["vector"] = torch.full((32,), 1e300, dtype=torch.float64)


def with_dots(about, tensors):
    about["name"] = "../../alice"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (nan, "vector holds no finite numbers"),
        (of_eight_bits, "down holds no finite numbers of single or half precision"),
        (beyond_single_precision, "vector holds no finite numbers"),
        (missing, r"point\.down does not fit"),
        (larger, r"point\.down does not fit"),
        (of_another_kind, "holds no voice"),
        (of_another_base, "made for another base model"),
        (with_code, "what its adapters are is broken"),
        (with_other_spec, "what its adapters are is broken: position is 'everywhere'"),
        (with_a_huge_kernel, "kernel is 1000000001: give an odd number of frames, at most 99"),
        (with_a_broken_number, "kernel is 3.0: give one of type int"),
        (of_other_numbers, r"point\.down holds no finite numbers"),
        (without_vector, "the vector of voice 'alice' has shape"),
        (with_dots, "give a new name without dots"),
    ],
)
def test_a_hostile_file_leaves_the_model_as_it_was(change, message, tmp_path):
    file = tmp_path / "alice.safetensors"
    save_voice(with_voices("alice"), "alice", file)
    edited(file, change)
    model = base()
    before = state(model)
    with pytest.raises(ValueError, match=message):
        load_voice(model, file)
    assert same(state(model), before)
    assert list_voices(model) == []


def test_other_files(tmp_path):
    model = base()
    with pytest.raises(ValueError, match="no such file of a voice"):
        load_voice(model, tmp_path / "none.safetensors")
    (tmp_path / "half").write_bytes(b"\x00" * 100)
    with pytest.raises(ValueError, match="broken or no safetensors file"):
        load_voice(model, tmp_path / "half")
    with (tmp_path / "vast").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(ValueError, match="is larger than 256 MiB: no voice is"):
        load_voice(model, tmp_path / "vast")


def test_what_cannot_be_added_is_refused():
    model = with_voices("alice")
    for name in ("alice", "", "a.b"):
        with pytest.raises(ValueError, match="give a new name without dots"):
            add_voice(model, name, torch.zeros(32))
    with pytest.raises(ValueError, match=r"has shape \(31,\): this model's are \(32,\)"):
        add_voice(model, "bob", torch.zeros(31))
    with pytest.raises(ValueError, match="use theirs"):
        add_voice(model, "bob", torch.zeros(32), VoiceSpec("x_res"))
    voices = speaking(model, "bob")
    with pytest.raises(ValueError, match="has no voice 'bob'; it has alice"):
        voices.__enter__()


@torch.no_grad()
def test_a_batch_of_another_size_than_its_voices_is_refused():
    model = with_voices("alice", "bob")
    with speaking(model, ["alice", "bob"]) as vectors:
        message = "selected for 2 items, but a batch of 3 came"
        with pytest.raises(ValueError, match=message):
            through_everything(model, vectors[:1], items=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"position": "inside"}, "position is 'inside': use h_res"),
        ({"kernel": 2}, "kernel is 2: give an odd number"),
        ({"reduction": 0}, "reduction is 0"),
        ({"phonemes": "no"}, "phonemes is 'no': give one of type bool"),
        ({"kernel": True}, "kernel is True: give one of type int"),
    ],
)
def test_wrong_specs_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        VoiceSpec(**options)


def test_numbers_that_half_precision_cannot_hold_are_not_written(tmp_path):
    model = with_voices("alice")
    with torch.no_grad():
        voice_tensors(model, "alice")["vector"].fill_(1e6)
    with pytest.raises(ValueError, match="not finite in torch.float16"):
        save_voice(model, "alice", tmp_path / "alice.safetensors")
    assert not (tmp_path / "alice.safetensors").exists()


def test_a_copy_of_the_model_has_voices_of_its_own():
    model = with_voices("alice")
    other = copy.deepcopy(model)
    with torch.no_grad(), speaking(model, "alice") as vectors:
        one = through_everything(model, vectors)
        assert not torch.equal(through_everything(other, vectors), one), "nobody speaks there"


def test_without_phoneme_adapters():
    spec = VoiceSpec(phonemes=False)
    assert not any(path.startswith("phonemes") for path in voice_points(base(), spec))
