"""How fast are clips read, next to soundfile, webdataset and lhotse shar?

400 clips of 4 s at 16 kHz, whole and a random second of each, from WAV and from FLAC. Every side
reads all clips once, in order, in this process (as one worker of a loader would), and gives float32
waveforms: ours in batches of 32, the peers clip by clip, which spares them the stacking. Files and
packs are in the page cache. Both tar formats hold the very files that soundfile reads; peers decode
with soundfile from memory, and cut the second out while they decode. First all samples must agree
within one 16-bit step.

The floor is a raw memory map of the 16-bit samples, sliced and scaled clip by clip. Further fields:
``audio_s_per_cpu_s`` of both sides. Peers: ``pip install webdataset lhotse``.
"""

from __future__ import annotations

import functools
import importlib
import io
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path

import numpy
import soundfile
import torch
from timing import arguments, interleaved, keep_freed_memory, report, seconds

from speechcl.data.audio import read_audio
from speechcl.data.packed import PackedAudio, pack_audio

RATE_HZ, CLIP_S, CROP_S, BATCH = 16_000, 4, 1, 32
TARGETS = {("webdataset", "wav"): 1 / 3}
STEP = 1 / 32768

# (first sample of each clip, samples of each) -> waveforms, one or a batch at a time
Read = Callable[[Sequence[int], int], Iterator[numpy.ndarray | torch.Tensor]]


def make_files(folder: Path, kind: str, clips: int) -> list[Path]:
    """Write clips of a gliding tone, swelling five times a second, in a little noise."""
    draw = numpy.random.default_rng(0)
    time_s = numpy.arange(CLIP_S * RATE_HZ) / RATE_HZ
    files = []
    for k in range(clips):
        tone = numpy.sin(2 * numpy.pi * (100 + k) * time_s * (1 + 0.2 * time_s))
        swell = 0.3 * numpy.abs(numpy.sin(5 * numpy.pi * time_s))
        files.append(folder / f"{k:06d}.{kind}")
        waveform = swell * tone + 0.005 * draw.standard_normal(len(time_s))
        soundfile.write(files[-1], waveform, RATE_HZ, "PCM_16")
    return files


# ---- the sides
def ours(pack: PackedAudio) -> Read:
    """Batches from the pack."""

    def read(starts, count):
        for first in range(0, len(pack), BATCH):
            some = starts[first : first + BATCH]
            yield pack.read_batch(range(first, first + len(some)), some, count)

    return read


def ours_by_file(files: list[Path]) -> Read:
    """Each file checked, mixed and resampled if need be, as before packing."""

    def read(starts, count):
        for file, start in zip(files, starts, strict=True):
            yield read_audio(file, RATE_HZ, start / RATE_HZ, count / RATE_HZ)

    return read


def raw(pack: PackedAudio) -> Read:
    """The floor: slices of a bare memory map."""
    samples = numpy.asarray(numpy.memmap(pack.folder / "samples.i16", dtype="<i2", mode="r"))
    begins = (numpy.cumsum(pack.lengths) - pack.lengths).tolist()

    def read(starts, count):
        for begin, start in zip(begins, starts, strict=True):
            waveform = samples[begin + start : begin + start + count].astype(numpy.float32)
            waveform *= numpy.float32(STEP)
            yield waveform

    return read


def by_soundfile(files: list[Path]) -> Read:
    """Files opened one by one."""

    def read(starts, count):
        for file, start in zip(files, starts, strict=True):
            yield soundfile.read(file, count, start, dtype="float32")[0]

    return read


def by_webdataset(files: list[Path], folder: Path) -> Read:
    """One tar file, one member a clip."""
    import webdataset

    kind = files[0].suffix[1:]
    tar = folder / "clips.tar"
    with webdataset.TarWriter(str(tar)) as writer:
        for file in files:
            writer.write({"__key__": file.stem, kind: file.read_bytes()})

    def read(starts, count):
        clips = webdataset.WebDataset(str(tar), shardshuffle=False)
        for clip, start in zip(clips, starts, strict=True):
            yield soundfile.read(io.BytesIO(clip[kind]), count, start, dtype="float32")[0]

    return read


def by_lhotse_shar(files: list[Path], folder: Path) -> Read:
    """One shard of recordings and its manifest."""
    from lhotse import CutSet, Recording
    from lhotse.shar import SharWriter

    shar = folder / "shar"
    shar.mkdir()
    with SharWriter(str(shar), {"recording": files[0].suffix[1:]}, shard_size=None) as writer:
        for file in files:
            writer.write(Recording.from_file(file).to_cut())

    def read(starts, count):
        cuts = CutSet.from_shar(in_dir=str(shar))
        for cut, start in zip(cuts, starts, strict=True):
            if count < cut.num_samples:
                cut = cut.truncate(offset=start / RATE_HZ, duration=count / RATE_HZ)
            yield cut.load_audio()[0]

    return read


# ---- compared
PEERS = {"webdataset": by_webdataset, "lhotse": by_lhotse_shar}


def installed(peer: str) -> bool:
    """Whether a peer can be imported; says so if not."""
    try:
        importlib.import_module(peer)
    except ImportError:
        print(f"{peer} cannot be imported: its rows are left out", file=sys.stderr)
        return False
    return True


def sides(folder: Path, kind: str, clips: int, peers: Sequence[str]) -> dict[str, Read]:
    """Make the files and all that reads them."""
    files = make_files(folder, kind, clips)
    pack = pack_audio([{"ID": file.stem, "wav": file} for file in files], folder, RATE_HZ)
    found = {
        "ours": ours(pack),
        "floor": raw(pack),
        "read_audio": ours_by_file(files),
        "soundfile": by_soundfile(files),
    }
    return found | {peer: PEERS[peer](files, folder) for peer in peers}


def exhaust(read: Read, starts: Sequence[int], count: int) -> None:
    """Read everything and keep nothing."""
    for _ in read(starts, count):
        pass


def difference(one: Read, other: Read, starts: Sequence[int], count: int) -> float:
    """Largest difference of two sides' samples; their shapes must agree."""
    waveforms = [
        numpy.concatenate([numpy.asarray(part).reshape(-1, count) for part in read(starts, count)])
        for read in (one, other)
    ]
    assert waveforms[0].shape == waveforms[1].shape == (len(starts), count)
    assert waveforms[0].dtype == waveforms[1].dtype == numpy.float32
    return float(numpy.abs(waveforms[0] - waveforms[1]).max())


def compare(kind: str, folder: Path, peers: Sequence[str], quick: bool) -> None:
    """Assert equality, then time whole clips and crops of one kind of file."""
    clips = 40 if quick else 400
    readers = sides(folder, kind, clips, peers)
    whole, crop = CLIP_S * RATE_HZ, CROP_S * RATE_HZ
    random_starts = numpy.random.default_rng(1).integers(0, whole - crop + 1, clips).tolist()
    for part, starts, count in (("whole", [0] * clips, whole), ("crop", random_starts, crop)):
        apart = {
            name: difference(read, readers["ours"], starts, count)
            for name, read in readers.items()
            if name != "ours"
        }
        for name, worst in apart.items():
            assert worst <= STEP, f"{name} is {worst} away from ours"
        found = interleaved(
            {
                name: functools.partial(seconds, functools.partial(exhaust, read, starts, count))
                for name, read in readers.items()
            },
            repeats=2 if quick else 11,
        )
        audio_s = clips * count / RATE_HZ
        speeds = {name: round(audio_s / statistics.median(took)) for name, took in found.items()}
        for peer, worst in apart.items():
            report(
                f"data_read_{kind}_{part}_{peer}",
                {"clips": clips, "read_s": count / RATE_HZ, "of_s": CLIP_S, "batch": BATCH},
                found["ours"],
                found[peer],
                TARGETS.get((peer, kind)),
                audio_s_per_cpu_s={"ours": speeds["ours"], "peer": speeds[peer]},
                floor_s=float(f"{statistics.median(found['floor']):.3g}"),
                largest_difference=worst,
                peer_version=_version(peer),
            )


def _version(peer: str) -> str | None:
    return metadata.version(peer) if peer in ("soundfile", "webdataset", "lhotse") else None


def main() -> None:
    quick = arguments(__doc__).quick
    keep_freed_memory()  # else a batch's pages are cleared anew, or not, by the layout of the heap
    peers = [peer for peer in PEERS if installed(peer)]
    for kind in ("wav", "flac"):
        with tempfile.TemporaryDirectory() as folder:
            compare(kind, Path(folder), peers, quick)


if __name__ == "__main__":
    main()
