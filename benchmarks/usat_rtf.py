"""How fast does a voice model speak, stage by stage, and what does a voice cost?

USAT with random weights speaks 100 symbols: the widths of ``usat_base`` with HiFi-GAN and with the
inverse Fourier transform, and ``usat_small``. The side to compare with is transformers' VitsModel,
of random weights too, which gets the same symbols. So that all make the same 400 frames of 256
samples, 6.4 s at 16 kHz, each predicts its durations, and 4 frames a symbol are put in their place.

A voice is an adapter at each place of USAT's Fig. 6 (H-Res, arXiv 2404.18094): 16 of kernel 3 in
the flow, 4 in the durations, 6 of kernel 1 in the attention. A layer norm and a rectifier lie
within, so that no weight can take them up: there is no merged voice, and every sentence pays.

Before a time is printed: fresh adapters change no bit of a waveform, waveforms are equally long on
both sides, and stages called one by one on what they were given give the same waveform.
``stages_s`` are medians of such calls, ``shares`` those of their sum. Freed memory is kept.
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from timing import arguments, interleaved, keep_freed_memory, report, seconds
from torch import Tensor, nn
from torch.nn.utils import parametrize

from speechcl.backbones.usat.model import USAT
from speechcl.backbones.usat.presets import PRESETS
from speechcl.backbones.usat.voices import add_voice, speaking, voice_tensors

try:
    from transformers import __version__ as transformers_version
    from vocoder import vits
except ModuleNotFoundError:
    vits = transformers_version = None

FRAMES_A_SYMBOL, HOP, RATE_HZ, PEER_SYMBOLS = 4, 256, 16000, 38
VOICE, TARGET_VOICE = "alice", 1.10
TARGETS = {"base_hifigan": None, "base_istft": 0.4, "small": None}
# of each stage, the part of the model and its method
STAGES = {
    "text": ("phonemes", "forward"),
    "durations": ("durations", "sample"),
    "flow": ("flow", "add_timbre"),
    "memory": ("memory", "forward"),
    "decoder": ("decoder", "forward"),
}
PEER_STAGES = {
    "text": ("text_encoder", "forward"),
    "durations": ("duration_predictor", "forward"),
    "flow": ("flow", "forward"),
    "decoder": ("decoder", "forward"),
}
ADAPTED = ("text", "durations", "flow")
Seconds = dict[str, list[float]]


@dataclass
class Side:
    """A model that speaks the same sentence each time it is asked, and its stages by name.

    ``context`` is what it calls its stages in, and ``times`` how often it is asked for one time.
    """

    model: nn.Module
    say: Callable[[], Tensor]
    parts: dict[str, tuple[str, str]]
    context: Callable[[], Any]
    times: int = 1

    def fix_durations(self) -> None:
        """Put the same durations in the place of what is predicted, once that is done."""
        part, method = self.parts["durations"]
        predict = getattr(getattr(self.model, part), method)

        def fixed(*args: Any, **kwargs: Any) -> Tensor:
            predicted = predict(*args, **kwargs)
            return torch.full_like(predicted, FRAMES_A_SYMBOL - 0.5).log()  # both round up

        setattr(getattr(self.model, part), method, fixed)

    def stages(self) -> dict[str, Callable[[], Any]]:
        """Speak once; return a call of each stage with what it was given."""
        calls: dict[str, Callable[[], Any]] = {}
        runs: dict[str, Callable[..., Any]] = {}
        for name, (part, method) in self.parts.items():
            runs[name] = getattr(getattr(self.model, part), method)

            def noted(*args: Any, _stage: str = name, **kwargs: Any) -> Any:
                calls[_stage] = partial(alone, self.context, runs[_stage], *args, **kwargs)
                return runs[_stage](*args, **kwargs)

            setattr(getattr(self.model, part), method, noted)
        waveform = self.say()
        for name, (part, method) in self.parts.items():
            setattr(getattr(self.model, part), method, runs[name])
        assert torch.equal(calls["decoder"]().flatten(), waveform), "the stages are not the whole"
        return calls


def alone(context: Callable[[], Any], run: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call one stage as the whole sentence does."""
    with torch.inference_mode(), context():
        return run(*args, **kwargs)


def configurations(quick: bool) -> dict[str, Any]:
    """Sizes of each model; ``quick`` makes them small."""
    base = replace(PRESETS["usat_base"], rate_hz=RATE_HZ)
    small = PRESETS["usat_small"]
    if quick:
        base = replace(PRESETS["usat_tiny"], decoder="hifigan")
        small = PRESETS["usat_tiny"]
    return {"base_hifigan": base, "base_istft": replace(base, decoder="istft"), "small": small}


def ours(config: Any, ids: Tensor, voiced: bool = False) -> Side:
    """Draw a model, with a value in every weight that begins at zero; maybe with a fresh voice."""
    torch.manual_seed(0)
    model = USAT(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    speaker = torch.randn(1, config.speaker)
    if voiced:
        add_voice(model, VOICE, speaker[0])

    @contextmanager
    def context() -> Iterator[None]:
        with parametrize.cached(), speaking(model, VOICE) if voiced else nullcontext():
            yield

    def say() -> Tensor:
        with torch.inference_mode(), context():
            generator = torch.Generator().manual_seed(0)
            waveform, samples = model.say(ids, speaker, generator=generator)
        assert waveform.shape == (1, int(samples[0]))
        return waveform[0]

    times = 5 if config.decoder == "istft" else 1  # a short time is not known from one sentence
    side = Side(model, say, STAGES, context, times)
    side.fix_durations()
    return side


def peer(ids: Tensor, quick: bool) -> Side:
    """Draw transformers' model, 109 speakers, without weight normalisation in the decoder."""
    model = vits(weight_norm=False, quick=quick)

    def say() -> Tensor:
        torch.manual_seed(0)
        with torch.inference_mode():
            return model(ids, speaker_id=0).waveform[0]

    side = Side(model, say, PEER_STAGES, nullcontext)
    side.fix_durations()
    return side


def speakers(ids: Tensor, quick: bool) -> tuple[dict[str, Side], dict[str, int]]:
    """Make all sides, assert what must hold; return them and the numbers in each voice."""
    sides, numbers = {}, {}
    for name, config in configurations(quick).items():
        plain, voiced = ours(config, ids), ours(config, ids, voiced=True)
        sides[name], sides[f"{name}_voice"] = plain, voiced
        assert torch.equal(voiced.say(), plain.say()), "a fresh voice changes what is said"
        tensors = voice_tensors(voiced.model, VOICE)
        for key, tensor in tensors.items():
            if key.endswith(".up"):
                nn.init.normal_(tensor, std=0.02)
        assert not torch.equal(voiced.say(), plain.say()), "the voice does nothing"
        numbers[name] = sum(tensor.numel() for tensor in tensors.values())
    if vits is not None:
        sides["peer"] = peer(ids, quick)
    samples = ids.shape[1] * FRAMES_A_SYMBOL * HOP
    for name, side in sides.items():
        assert side.say().shape == (samples,), f"{name} is not {samples} samples long"
    return sides, numbers


def stage_medians(sides: dict[str, Side], repeats: int) -> dict[str, dict[str, float]]:
    """CPU seconds of each stage of each side, all in turn; of voices those that hold adapters."""
    works: dict[str, Callable[[], float]] = {
        f"{name} {stage}": partial(seconds, call, side.times)
        for name, side in sides.items()
        for stage, call in side.stages().items()
        if stage in ADAPTED or not name.endswith("_voice")
    }
    found: dict[str, dict[str, float]] = {name: {} for name in sides}
    for work, took in interleaved(works, repeats).items():
        name, stage = work.split()
        found[name][stage] = float(f"{statistics.median(took):.4g}")
    return found


def both_clocks(side: Side, walls: list[float]) -> float:
    """CPU seconds of one sentence; those on the wall are put into ``walls``."""
    start = time.perf_counter()
    took = seconds(side.say, side.times)
    walls.append((time.perf_counter() - start) / side.times)
    return took


def figures(side: str, took: Seconds, walls: Seconds, stages: Any, audio_s: float) -> Any:
    """Real-time factor, seconds on the wall, and stages of one side."""
    found = {
        "rtf": round(statistics.median(took[side]) / audio_s, 4),
        "wall_s": round(statistics.median(walls[side][1:]), 4),  # the first round warms up
        "stages_s": stages[side],
    }
    if side.endswith("_voice"):
        return found
    total = sum(stages[side].values())
    return found | {"shares": {name: round(s / total, 3) for name, s in stages[side].items()}}


def main() -> None:
    quick = arguments(__doc__).quick
    keep_freed_memory()
    if vits is None:
        print("VitsModel is left out: transformers is not installed", file=sys.stderr)
    symbols, repeats = (5, 1) if quick else (100, 9)
    ids = torch.randint(PEER_SYMBOLS, (1, symbols))
    sides, numbers = speakers(ids, quick)
    walls: Seconds = {name: [] for name in sides}
    works: dict[str, Callable[[], float]] = {
        name: partial(both_clocks, side, walls[name]) for name, side in sides.items()
    }
    took = interleaved(works, repeats)
    stages = stage_medians(sides, repeats)
    frames = symbols * FRAMES_A_SYMBOL
    found = {side: figures(side, took, walls, stages, frames * HOP / RATE_HZ) for side in sides}
    sizes = {"symbols": symbols, "frames": frames, "rate_hz": RATE_HZ}
    for name, target in TARGETS.items():
        if vits is not None:
            report(
                f"usat_rtf_{name}",
                sizes,
                took[name],
                took["peer"],
                None if quick else target,
                of_ours=found[name],
                of_peer=found["peer"],
                transformers=transformers_version,
            )
        report(
            f"usat_rtf_{name}_voice",
            sizes | {"numbers": numbers[name]},
            took[f"{name}_voice"],
            took[name],
            None if quick else TARGET_VOICE,
            of_ours=found[f"{name}_voice"],
            of_peer=found[name],
        )


if __name__ == "__main__":
    main()
