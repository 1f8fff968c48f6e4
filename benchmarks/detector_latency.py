"""How long does a detector take for one clip of four seconds, and for a stream?

AASIST's peer is the official order of operations, which in every block but the first computes a
norm and a SELU and throws them away: it is rebuilt from the same weights, and must give the same
bits. ``quoted_s`` is what the official code took on another machine. ``floor_s`` is the
convolutions' arithmetic at the speed of a measured matrix product.

For the others the "peer" is the clip's duration, so that the ratio is the real-time factor. The
wav2vec2 row needs transformers.

The stream is scored every 100 ms on its last four seconds by the small detector, which keeps the
bands of the frames it has seen; the peer computes the window's bands anew. ``score_difference`` is
to those four seconds cut out and scored offline, where zeros pad the ends: they change two frames
on either side. ``score_spread`` is the standard deviation of the scores along the stream.

Everything runs twice: with glibc's default allocator, which hands large blocks back, and with one
that keeps freed memory. Weights are random.
"""

from __future__ import annotations

import copy
import math

import torch
from timing import arguments, interleaved, keep_freed_memory, report, seconds
from torch import Tensor, nn
from torch.nn import functional

from speechcl.backbones.aasist import AASIST, ResidualBlock
from speechcl.backbones.aasist_fast import FastAASIST
from speechcl.backbones.detector import Detector
from speechcl.backbones.filterbanks import LinearFilterbank
from speechcl.backbones.lcnn import LCNN
from speechcl.backbones.lfcc import LFCC
from speechcl.backbones.resnet import ResNet

RATE_HZ, HOP, CHUNK_MS = 16000, 160, 100
SAMPLES, WINDOW_FRAMES, HOPS = 64_600, 404, 20
QUOTED_S = {"AASIST": 0.577, "AASIST-L": 0.538}
TARGET_AASIST, TARGET_SMALL, TOLERANCE = 0.6, 0.01, 1e-4


def sound(samples: int) -> Tensor:
    """Return a waveform (1, samples) whose level and colour change like syllables."""
    time_s = torch.arange(samples) / RATE_HZ
    level = 0.02 + 0.2 * torch.sin(2 * math.pi * 1.7 * time_s).square()
    pitch = torch.sin(2 * math.pi * (120 * time_s + 5 * torch.sin(2 * math.pi * 0.4 * time_s)))
    return (level * (pitch + 0.3 * torch.randn(samples)))[None]


def aasist(size: str) -> AASIST:
    """Random weights; the running statistics are those of a sound, as after training."""
    net = AASIST(size, norm="batch").train()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        net(torch.cat([sound(32_000), sound(32_000)]))
    return net.eval()


def official_operations(net: AASIST) -> AASIST:
    """Return a copy that spends what the official code spends on norms without effect."""
    net = copy.deepcopy(net)

    def waste(block: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        functional.selu(block.norm1(inputs[0]), inplace=True)

    for block in net.encoder.children():
        if isinstance(block, ResidualBlock) and block.norm1 is not None:
            block.register_forward_pre_hook(waste)
    return net


def gflop(net: AASIST, clip: Tensor) -> float:
    """Count the convolutions of the encoder, two operations a multiplication."""
    total = 0

    def count(layer: nn.Conv2d, _: tuple, out: Tensor) -> None:
        nonlocal total
        total += 2 * out.numel() * layer.weight[0].numel()

    net = copy.deepcopy(net)
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(count)
    net(clip)
    return total / 1e9


def gflop_per_s() -> float:
    """Speed of a matrix product that the cache holds."""
    a = torch.randn(1024, 1024)
    return 2 * 1024**3 / min(seconds(lambda: a @ a) for _ in range(10)) / 1e9


def compare_aasist(size: str, clip: Tensor, repeats: int, allocator: str) -> None:
    """Assert that all three give the same, then time them."""
    plain = aasist(size)
    official, fast = official_operations(plain), FastAASIST(plain)
    expected = official(clip)
    difference = max(float((a - b).abs().max()) for a, b in zip(fast(clip), expected, strict=True))
    assert torch.equal(plain(clip)[0], expected[0]), "dead norms have an effect"
    assert difference <= TOLERANCE, f"the fast copy is {difference} away"
    sides = {"official": official, "plain": plain, "fast": fast}
    found = timed(sides, clip, repeats)
    rows = [
        ("fast", "official", TARGET_AASIST),
        ("plain", "official", None),
        ("fast", "plain", None),
    ]
    for ours, peer, target in rows:
        report(
            f"detector_latency_{size}_{ours}_over_{peer}",
            {"samples": clip.shape[1], "batch": 1, "allocator": allocator},
            found[ours],
            found[peer],
            target,
            quoted_s=QUOTED_S[size] if clip.shape[1] == SAMPLES else None,
            real_time_factor=real_time_factor(min(found[ours]), clip),
            floor_s=round(gflop(plain, clip) / gflop_per_s(), 4),
            largest_difference=difference,
        )


def timed(sides: dict[str, nn.Module], clip: Tensor, repeats: int) -> dict[str, list[float]]:
    return interleaved(
        {name: lambda net=net: seconds(lambda: net(clip)) for name, net in sides.items()}, repeats
    )


def real_time_factor(taken_s: float, clip: Tensor) -> float:
    return round(taken_s * RATE_HZ / clip.shape[1], 4)


class Wav2Vec2(nn.Module):
    """A random wav2vec2-base as a detector's front end, the mean over time as its embedding."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import Wav2Vec2Config, Wav2Vec2Model

        self.net = Wav2Vec2Model(Wav2Vec2Config())  # the defaults are those of wav2vec2-base

    def forward(self, waveform: Tensor) -> Tensor:
        """Return the embedding (batch, 768)."""
        return self.net(waveform).last_hidden_state.mean(1)


def detectors(quick: bool) -> dict[str, nn.Module]:
    """All but AASIST, in eval mode."""
    found: dict[str, nn.Module] = {
        "ResNet_w32_LFB": Detector(LinearFilterbank(), ResNet(32)),
        "ResNet_w16_LFB": Detector(LinearFilterbank(), ResNet(16)),
        "LCNN_LFCC": Detector(LFCC(), LCNN()),
    }
    if quick:
        return {name: net.eval() for name, net in found.items()}
    try:
        found["wav2vec2_base"] = Wav2Vec2()
    except ImportError as error:
        print(f"wav2vec2_base skipped: {error} (pip install 'speechcl[lm]')")
    return {name: net.eval() for name, net in found.items()}


def time_detectors(clip: Tensor, repeats: int, quick: bool, allocator: str) -> None:
    """Time each of the other detectors against the clip's duration."""
    nets = detectors(quick)
    for name, net in nets.items():
        output = net(clip)
        output = output[0] if isinstance(output, tuple) else output
        again = net(torch.cat([clip, clip.flip(1)]))
        again = again[0] if isinstance(again, tuple) else again
        assert (output - again[:1]).abs().max() <= TOLERANCE, f"{name} looks at its neighbours"
    found = timed(nets, clip, repeats)
    for name, net in nets.items():
        report(
            f"detector_latency_{name}",
            {"samples": clip.shape[1], "batch": 1, "allocator": allocator},
            found[name],
            [clip.shape[1] / RATE_HZ] * len(found[name]),
            TARGET_SMALL if name == "ResNet_w32_LFB" else None,
            parameters=sum(p.numel() for p in net.parameters()),
        )


class Stream:
    """Scores the last frames after each chunk; the bands of frames already seen are kept.

    A frame is complete once all its samples are there. A chunk goes to the front end with the
    samples two hops to the left of its first new frame, and the frames at its ends, where the
    front end pads, are left out.
    """

    EDGE = 2  # frames at either end that padding reaches

    def __init__(self, bands: LinearFilterbank, net: nn.Module, frames: int) -> None:
        assert bands.spectrum.win_length <= 2 * self.EDGE * HOP
        self.bands, self.net, self.frames = bands, net, frames
        self.samples = torch.zeros(1, 0)  # from two hops before the next frame on
        self.cache = torch.zeros(1, 0, bands.bank.shape[1])
        self.score = math.nan

    def advance(self, chunk: Tensor) -> None:
        """Take in samples (1, n), n a multiple of the hop, and score the window."""
        self.samples = torch.cat([self.samples, chunk], dim=1)
        new = self.bands(self.samples)[:, self.EDGE : -self.EDGE]
        self.cache = torch.cat([self.cache, new], dim=1)[:, -self.frames :]
        self.samples = self.samples[:, new.shape[1] * HOP :]
        window = self.cache - self.cache.mean(1, keepdim=True)
        self.score = float(self.net(window)[0])


def time_stream(frames: int, hops: int, allocator: str) -> None:
    """Assert that kept frames are those of the whole stream, then time chunk by chunk."""
    net, raw, whole = ResNet(32).eval(), LinearFilterbank(normalise=False), LinearFilterbank()
    step = RATE_HZ * CHUNK_MS // 1000
    first = frames * HOP + step
    audio = sound(first + (hops + 1) * step)
    every = raw(audio)  # frame k is centred on sample 160 k
    stream = Stream(raw, net, frames)
    stream.advance(audio[:, :first])
    ours, peer, scores, offline = [], [], [], []
    for start in range(first, audio.shape[1], step):
        ours.append(seconds(lambda chunk=audio[:, start : start + step]: stream.advance(chunk)))
        end = (start + step) // HOP - stream.EDGE + 1  # one past the newest complete frame
        error = float((stream.cache - every[:, end - frames : end]).abs().max())
        assert error <= TOLERANCE, f"kept frames are {error} away"
        clip = audio[:, (end - frames) * HOP : (end - 1) * HOP]
        peer.append(seconds(lambda clip=clip: net(whole(clip))))
        scores.append(stream.score)
        offline.append(float(net(whole(clip))[0]))
    differences = (torch.tensor(scores) - torch.tensor(offline)).abs()
    report(
        "detector_latency_stream_ResNet_w32_LFB",
        {"window_frames": frames, "hop_ms": CHUNK_MS, "allocator": allocator},
        ours[1:],  # the first warms up
        peer[1:],
        None,
        share_of_hop=round(sorted(ours)[len(ours) // 2] / CHUNK_MS * 1000, 3),
        score_difference={
            "mean": float(f"{differences.mean():.2g}"),
            "max": float(f"{differences.max():.2g}"),
        },
        score_spread=float(f"{torch.tensor(offline).std():.2g}"),
    )


def measure(quick: bool, allocator: str) -> None:
    repeats = 1 if quick else 9
    clip = sound(RATE_HZ if quick else SAMPLES)
    for size in ["AASIST-L"] if quick else ["AASIST", "AASIST-L"]:
        compare_aasist(size, clip, repeats, allocator)
    time_detectors(clip, repeats, quick, allocator)
    time_stream(*((80, 2) if quick else (WINDOW_FRAMES, HOPS)), allocator)


def main() -> None:
    quick = arguments(__doc__).quick
    with torch.inference_mode():
        measure(quick, "default")
        keep_freed_memory()
        measure(quick, "keeps freed memory")


if __name__ == "__main__":
    main()
