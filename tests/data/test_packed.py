"""A pack gives the samples of its clips, whole or in part, or one clear error."""

import errno
import json
import mmap
import os
import pickle
import resource
import signal
import subprocess
import sys
import tracemalloc

import numpy
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from speechcl.data.audio import AudioError, read_audio
from speechcl.data.packed import PackedAudio, pack_audio

STEP = 1 / 32768
LENGTHS = [700, 5, 1600]


def write(path, seed, samples, rate_hz=16000, subtype="PCM_16", channels=1):
    waveform = numpy.random.default_rng(seed).uniform(-0.9, 0.9, (samples, channels))
    soundfile.write(path, waveform, rate_hz, subtype=subtype)


def clips(folder, lengths=LENGTHS, **options):
    rows = []
    for k, samples in enumerate(lengths):
        rows.append({"ID": f"clip {k}", "wav": str(folder / f"{k}.wav")})
        write(rows[-1]["wav"], k, samples, **options)
    return rows


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    rows = clips(folder)
    return rows, pack_audio(rows, folder / "packs")


# ---- the samples
def test_16_bit_sound_is_kept_exactly(packed):
    rows, pack = packed
    assert pack.ids == [row["ID"] for row in rows]
    assert pack.lengths.tolist() == LENGTHS
    assert len(pack) == 3
    for row in rows:
        waveform = pack.read(pack.place_of[row["ID"]])
        assert waveform.dtype == torch.float32
        assert torch.equal(waveform, read_audio(row["wav"]))


def test_other_sound_is_kept_to_half_a_step(tmp_path):
    rows = clips(tmp_path, [700, 801], rate_hz=22050, subtype="FLOAT", channels=3)
    pack = pack_audio(rows, tmp_path, rate_hz=8000)
    assert pack.rate_hz == 8000
    for place, row in enumerate(rows):
        torch.testing.assert_close(
            pack.read(place), read_audio(row["wav"], 8000), rtol=0, atol=0.501 * STEP
        )


def test_full_scale_does_not_wrap_around(tmp_path):
    soundfile.write(tmp_path / "a.wav", [1.0, -1.0, 0.99999], 16000, subtype="FLOAT")
    pack = pack_audio([{"ID": "a", "wav": tmp_path / "a.wav"}], tmp_path)
    assert pack.read(0).tolist() == [1 - STEP, -1.0, 1 - STEP]


def test_only_the_beginning_of_a_long_clip_is_kept(tmp_path):
    rows = clips(tmp_path)
    pack = pack_audio(rows, tmp_path, max_duration_s=0.05)
    assert pack.lengths.tolist() == [700, 5, 800]
    assert torch.equal(pack.read(2), read_audio(rows[2]["wav"])[:800])


@pytest.mark.parametrize(("start", "count"), [(0, 700), (10, 30), (699, 1), (650, 200), (3, None)])
def test_a_part_is_a_slice(packed, start, count):
    rows, pack = packed
    whole = read_audio(rows[0]["wav"])
    expected = whole[start:] if count is None else whole[start : start + count]
    assert torch.equal(pack.read(0, start, count), expected)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    parts=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1599)), min_size=1, max_size=5),
    count=st.integers(1, 1700),
)
@example(parts=[(1, 4), (2, 1599), (1, 0)], count=13)
def test_a_batch_is_its_clips_repeated_without_end(packed, parts, count):
    rows, pack = packed
    places = [place for place, _ in parts]
    starts = [start % LENGTHS[place] for place, start in parts]
    batch = pack.read_batch(places, starts, count)
    assert batch.dtype == torch.float32
    assert batch.shape == (len(parts), count)
    for found, place, start in zip(batch, places, starts, strict=True):
        whole = read_audio(rows[place]["wav"])
        wanted = [(start + k) % LENGTHS[place] for k in range(count)]
        assert torch.equal(found, whole[wanted])


@pytest.mark.parametrize(
    ("read", "reason"),
    [
        (lambda pack: pack.read(3), "place is 3 but the pack has 3 clips"),
        (lambda pack: pack.read(-1), "place is -1"),
        (lambda pack: pack.read(1, start=5), "start is 5 but clip 'clip 1' has 5 samples"),
        (lambda pack: pack.read(1, start=-1), "start is -1"),
        (lambda pack: pack.read(1, count=0), "count is 0"),
        (lambda pack: pack.read_batch([0, 1], [0, 5], 4), "start is 5 but clip 'clip 1'"),
        (lambda pack: pack.read_batch([0, 1], [0], 4), "shorter"),
    ],
)
def test_nothing_outside_a_clip_is_read(packed, read, reason):
    with pytest.raises(ValueError, match=reason):
        read(packed[1])


# ---- memory and processes
def test_memory_does_not_grow_with_the_pack(tmp_path):
    rows = clips(tmp_path, [16000] * 60)  # 1.9 MB packed, 64 kB a clip in float32
    tracemalloc.start()
    pack = pack_audio(rows, tmp_path)
    packing_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    again = PackedAudio(pack.folder)
    batch = again.read_batch([7], [0], 16000)
    reading_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    size_bytes = (pack.folder / "samples.i16").stat().st_size
    assert batch.numel() * 2 * 60 == size_bytes
    assert packing_bytes < size_bytes / 2
    assert reading_bytes < size_bytes / 4
    owner = again._samples
    while isinstance(owner, numpy.ndarray):
        owner = owner.base
    assert isinstance(owner, mmap.mmap)


def test_pickled_it_is_its_path(packed):
    _, pack = packed
    text = pickle.dumps(pack)
    assert len(text) < 1000
    again = pickle.loads(text)
    assert again.folder == pack.folder
    assert torch.equal(again.read(2), pack.read(2))


class Clips:
    def __init__(self, pack):
        self.pack = pack

    def __len__(self):
        return len(self.pack)

    def __getitem__(self, place):
        return self.pack.read(place)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_of_a_loader_read_the_same(packed, start):
    _, pack = packed
    loader = DataLoader(Clips(pack), batch_size=None, num_workers=1, multiprocessing_context=start)
    for place, found in enumerate(loader):
        assert torch.equal(found, pack.read(place))


# ---- found again, or packed anew
class Decoder:
    """Counts the clips that are decoded."""

    def __init__(self, monkeypatch):
        self.clips = 0
        monkeypatch.setattr("speechcl.data.packed.read_audio", self)

    def __call__(self, *args, **kwargs):
        self.clips += 1
        return read_audio(*args, **kwargs)


def test_clips_are_decoded_once(tmp_path, monkeypatch):
    rows, decoder = clips(tmp_path), Decoder(monkeypatch)
    first = pack_audio(rows, tmp_path / "packs")
    again = pack_audio(rows, tmp_path / "packs")
    assert decoder.clips == 3
    assert again.folder == first.folder
    assert [path.name for path in (tmp_path / "packs").iterdir()] == [first.folder.name]
    assert sorted(path.name for path in first.folder.iterdir()) == ["index.json", "samples.i16"]


def test_a_changed_clip_is_packed_anew(tmp_path, monkeypatch):
    rows, decoder = clips(tmp_path), Decoder(monkeypatch)
    before = pack_audio(rows, tmp_path)
    state = (tmp_path / "0.wav").stat()
    write(tmp_path / "0.wav", seed=9, samples=700)
    later = state.st_mtime_ns + 1_000_000
    os.utime(tmp_path / "0.wav", ns=(later, later))
    after = pack_audio(rows, tmp_path)
    assert decoder.clips == 6
    assert torch.equal(after.read(0), read_audio(rows[0]["wav"]))
    assert not torch.equal(after.read(0), before.read(0))
    assert torch.equal(after.read(2), before.read(2))


@pytest.mark.parametrize("options", [{"rate_hz": 8000}, {"max_duration_s": 0.01}])
def test_other_settings_are_another_pack(tmp_path, options):
    rows = clips(tmp_path)
    first, other = pack_audio(rows, tmp_path), pack_audio(rows, tmp_path, **options)
    assert first.folder != other.folder
    assert first.lengths.tolist() != other.lengths.tolist()


def test_other_ids_or_another_order_are_another_pack(tmp_path):
    rows = clips(tmp_path)
    renamed = [{**row, "ID": row["ID"] + "!"} for row in rows]
    packs = [pack_audio(one, tmp_path) for one in (rows, renamed, rows[::-1])]
    assert len({pack.folder for pack in packs}) == 3
    assert packs[1].place_of["clip 2!"] == 2
    assert torch.equal(packs[0].read(2), packs[2].read(0))


# ---- interrupted
def test_a_clip_that_cannot_be_read_leaves_nothing(tmp_path):
    rows = clips(tmp_path)
    (tmp_path / "2.wav").write_bytes(b"no sound")
    with pytest.raises(AudioError, match="2.wav"):
        pack_audio(rows, tmp_path / "packs")
    assert list((tmp_path / "packs").iterdir()) == []


def test_killed_half_way_leaves_no_pack(tmp_path):
    rows = clips(tmp_path)
    program = f"""
from speechcl.data import packed
read = packed.read_audio
def slow(path, *args, **kwargs):
    if path.endswith("2.wav"):
        print("half way", flush=True)
        input()
    return read(path, *args, **kwargs)
packed.read_audio = slow
packed.pack_audio({rows!r}, {str(tmp_path / "packs")!r})
"""
    writer = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout.readline() == "half way\n"
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    (left,) = (tmp_path / "packs").iterdir()
    assert left.name.startswith(".tmp-")
    pack = pack_audio(rows, tmp_path / "packs")
    assert torch.equal(pack.read(2), read_audio(rows[2]["wav"]))


def test_a_full_disk_is_one_clear_line_and_leaves_nothing(tmp_path):
    rows = clips(tmp_path, [8000] * 4)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))  # two and a half clips
    try:
        with pytest.raises(OSError, match="no room for the pack after 2 of 4 clips") as one:
            pack_audio(rows, tmp_path / "packs")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert one.value.errno == errno.EFBIG
    assert "make room or choose another folder" in str(one.value)
    assert list((tmp_path / "packs").iterdir()) == []


@pytest.mark.parametrize("ids", [[], ["a", "b", "a"]])
def test_ids_must_be_there_and_differ(tmp_path, ids):
    write(tmp_path / "a.wav", 0, 100)
    rows = [{"ID": one, "wav": tmp_path / "a.wav"} for one in ids]
    with pytest.raises(ValueError, match="each with an ID of its own"):
        pack_audio(rows, tmp_path / "packs")
    assert not (tmp_path / "packs").exists()


# ---- damaged
def put(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def put_index(**changes):
    def damage(folder):
        index = json.loads((folder / "index.json").read_text())
        (folder / "index.json").write_text(json.dumps({**index, **changes}))

    return damage


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: os.truncate(folder / "samples.i16", 4608), "4608 bytes where 4610 belong"),
        (lambda folder: os.truncate(folder / "samples.i16", 0), "0 bytes where 4610 belong"),
        (lambda folder: (folder / "samples.i16").unlink(), "samples.i16 is missing"),
        (lambda folder: (folder / "index.json").unlink(), "index.json is missing"),
        (put("index.json", b""), "not JSON"),
        (put("index.json", b'{"format": '), "not JSON"),
        (put("index.json", b"\xff\xfe\x00"), "not JSON"),
        (put("index.json", b"[" * 100_000), "not JSON"),
        (put("index.json", b"[]"), "does not say"),
        (put("index.json", b'{"format": "speechcl packed audio 1"}'), "rate_hz"),
        (put_index(format="speechcl packed audio 2"), "does not say 'speechcl packed audio 1'"),
        (put_index(rate_hz=True), "rate_hz"),
        (put_index(rate_hz=0), "rate_hz"),
        (put_index(ids=["a", "b", "a"]), "ids is not"),
        (put_index(ids=["a", "b", 3]), "ids is not"),
        (put_index(ids="abc"), "ids is not"),
        (put_index(ids=[]), "ids is not"),
        (put_index(ids=["a", "b"]), "one an ID"),
        (put_index(lengths=[700, 0, 1605]), "lengths is not"),
        (put_index(lengths=[700, -5, 1610]), "lengths is not"),
        (put_index(lengths=[700.0, 5, 1600]), "lengths is not"),
        (put_index(lengths=[True, 5, 1600]), "lengths is not"),
        (put_index(lengths=[2**80, 5, 1600]), "bytes where"),
    ],
)
def test_a_damaged_pack_is_one_clear_error(tmp_path, damage, reason):
    rows = clips(tmp_path)
    folder = pack_audio(rows, tmp_path).folder
    damage(folder)
    for read in (lambda: PackedAudio(folder), lambda: pack_audio(rows, tmp_path)):
        with pytest.raises(ValueError, match=reason) as one:
            read()
        assert "delete it and pack the clips again" in str(one.value)
        assert str(folder) in str(one.value)
        assert "\n" not in str(one.value)


def test_a_folder_that_is_no_pack_is_refused(tmp_path):
    for name in ("missing", "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(ValueError, match="no usable pack of clips"):
            PackedAudio(tmp_path / name)
