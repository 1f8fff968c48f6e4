"""Voices: a model that speaks learns against judges of its sound and of its speaker vectors."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from typing import Any

import numpy
import speechbrain as sb
import torch
from speechbrain.utils.distributed import if_main_process
from torch import Tensor, nn
from torch.func import functional_call

from speechcl.backbones.usat.discriminators import (
    LeakageDiscriminator,
    TimbreDiscriminator,
    WaveformDiscriminators,
)
from speechcl.backbones.usat.losses import (
    adversarial_discriminator_loss,
    adversarial_generator_loss,
    feature_matching_loss,
    kl_loss,
    leakage_discriminator_loss,
    leakage_speaker_loss,
    mel_loss,
    timbre_loss,
)
from speechcl.backbones.usat.model import USAT, Speakers, VoiceStep
from speechcl.backbones.usat.presets import VoiceConfig
from speechcl.backbones.usat.spectrogram import LogMelSpectrogram
from speechcl.brain import ContinualBrain, same_draws
from speechcl.brains.voice_examples import write_example
from speechcl.cuda_graphs import Replayed
from speechcl.parallel import share, world

logger = logging.getLogger(__name__)

Pair = tuple[Any, ...]  # of what is real and what is not
_LEAST_KL = 0.02  # weight of the divergence at first
_SLICES = (4, 2048)  # frames: judges and spectrograms need a thousand samples
_MOST = 1_000_000
DB_A_NEPER = 20 / math.log(10)  # a natural logarithm of magnitudes in decibels


class Judges(nn.Module):
    """What the voice model is trained against: judges of waveforms, and of pairs of speakers.

    Arguments
    ---------
    config : VoiceConfig
        Sizes of the voice model.

    Example
    -------
    >>> judges, sound = Judges(VoiceConfig(speaker=8, judge_channels=2)), torch.zeros(2, 4096)
    >>> speakers = Speakers(*torch.randn(3, 2, 8), torch.tensor([True, True]))
    >>> of_sound, of_pairs, right = judges(sound, sound, speakers)
    >>> of_sound.ndim, bool(0 <= right <= 1)
    (0, True)
    """

    def __init__(self, config: VoiceConfig) -> None:
        super().__init__()
        self.leakage = LeakageDiscriminator(config.speaker, config.speaker)
        self.waveform = WaveformDiscriminators(config.judge_channels)

    def forward(
        self, real: Tensor, decoded: Tensor, speakers: Speakers
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the judges' own losses, of sound and of pairs, and how often pairs are told right.

        Arguments
        ---------
        real, decoded : Tensor
            Sound, detached here, both (batch, time).
        speakers : Speakers
            Detached here as well.
        """
        (of_real, of_decoded), _ = _by_kind(self.waveform(torch.cat([real, decoded.detach()])))
        sound = adversarial_discriminator_loss(of_real, of_decoded)
        return sound, *leakage_discriminator_loss(self.leakage, *speakers)

    def opinion(self, real: Tensor, decoded: Tensor) -> tuple[Tensor, Tensor]:
        """Return the decoder's losses, adversarial and of features, without a gradient of judges'.

        Arguments
        ---------
        real, decoded : Tensor
            Sound, both (batch, time).
        """
        fixed = {name: p.detach() for name, p in self.waveform.named_parameters()}
        judged = functional_call(self.waveform, fixed, (torch.cat([real, decoded]),))
        (_, of_decoded), (real_maps, decoded_maps) = _by_kind(judged)
        return (
            adversarial_generator_loss(of_decoded),
            feature_matching_loss(real_maps, decoded_maps),
        )


def _by_kind(judged: tuple[list[Tensor], list[list[Tensor]]]) -> tuple[Pair, Pair]:
    """Return scores and feature maps, each of real and of decoded sound, by judge."""
    scores, features = judged
    halves = [score.chunk(2) for score in scores]
    maps = [[one.chunk(2) for one in judge] for judge in features]
    of_scores = tuple([pair[k] for pair in halves] for k in (0, 1))
    of_maps = tuple([[pair[k] for pair in judge] for judge in maps] for k in (0, 1))
    return of_scores, of_maps


def new_voice(preset: str, start: str | None = None) -> USAT:
    """Return a voice model to train: of a preset, or the one in a folder to go on from.

    Example
    -------
    >>> folder = getfixture("tmp_path") / "model"
    >>> new_voice("usat_tiny").save(folder)
    >>> new_voice("usat_base", str(folder)).config.rate_hz
    16000
    """
    return USAT(preset) if start is None else USAT.from_pretrained(start)


def voice_modules(model: USAT) -> dict[str, nn.Module]:
    """Return what a voice model is trained with: the model, the judge of timbre, the others.

    Example
    -------
    >>> list(voice_modules(USAT("usat_tiny")))
    ['model', 'timbre', 'judges']
    """
    c = model.config
    timbre = TimbreDiscriminator(c.latent, c.speaker_channels)
    return {"model": model, "timbre": timbre, "judges": Judges(c)}


class SpeakingBrain(ContinualBrain):
    """What brains of a voice model share: how its speech is measured.

    A text is spoken with the timing of a recording, and its log-mel spectrogram set beside that
    of the recording: the mean difference in decibels.
    """

    metric = "mel_db"
    higher_is_better = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        config = self.voice.config
        self.mel = LogMelSpectrogram(config.rate_hz, config.n_fft, config.hop, bands=config.mels)
        self.mel.to(self.device)

    @property
    def voice(self) -> USAT:
        """The bare voice model."""
        raise NotImplementedError(f"{type(self).__name__} has no voice")

    def _wrap_distributed(self) -> None:
        """Wrap modules for several processes; on CPUs batch norms can share no statistics."""
        if not self.distributed_launch or self.distributed_backend != "gloo":
            super()._wrap_distributed()
            return
        for name, module in self.modules.items():
            if any(p.requires_grad for p in module.parameters()):
                self.modules[name] = nn.parallel.DistributedDataParallel(
                    module, find_unused_parameters=self.find_unused_parameters
                )

    def targets(self, batch: Any) -> Tensor:
        """Return the symbols, one row an utterance."""
        return batch["ids"]

    def score(self, outputs: Tensor, batch: Any) -> Tensor:
        """Return the difference of log-mel spectrograms in decibels, a mean an item, (batch,)."""
        samples = batch["samples"] // self.voice.config.hop * self.voice.config.hop
        real, spoken = (
            self.mel(waveform[:, : outputs.shape[1]], samples)
            for waveform in (batch["waveform"], outputs)
        )
        frames = samples // self.voice.config.hop
        inside = torch.arange(real.shape[2], device=real.device) < frames[:, None]
        difference = (real - spoken).abs().mean(dim=1) * inside
        return DB_A_NEPER * difference.sum(dim=1) / frames

    def measure(self, scores: numpy.ndarray, dataset: Any) -> float:
        """Return the mean over items."""
        return float(scores.mean())

    def share_of(self, counted: Tensor, items: int) -> float:
        """Return what a mean over what is counted is to be multiplied by before it is averaged.

        A loss is weighted by a process's share of the items; one that is a mean over frames or
        symbols must be by its share of those.
        """
        if world()[1] == 1:
            return 1.0
        of_counted, of_items = (share(int(size), self.device) for size in (counted.sum(), items))
        return of_counted / of_items


class VoiceBrain(SpeakingBrain):
    """Train ``modules["model"]`` to speak, against ``modules["timbre"]`` and ``["judges"]``.

    In each step the judges learn first, from what the model has just decoded, then the model with
    the judge of timbre, whose gradient is reversed. The method decides what of the model is
    trained; the judges have an optimizer of their own.

    To begin with, the model is left alone: what it encodes is worth judging only when the text
    has begun to explain it. Until then the divergence counts little, so that latents carry
    something, and alignments are drawn to the diagonal.

    It is measured by what the text gives, spoken with the timing of a recording and the timbre
    of another one of the same speaker: the mean difference of its log-mel spectrogram from
    that of the recording, in decibels.

    Arguments
    ---------
    slice_frames : int
        Of each utterance, decoded and judged in a step.
    warm_up : int
        Steps without judges, in which the weight of the divergence grows from 0.02 to 1 and that
        of the guide of alignments falls from 1 to 0.
    timbre_ramp : int
        Steps after those over which the reversed gradient grows to its full strength.
    examples_every : int
        Epochs after which the first text of the test data is spoken, for people to hear and see
        (see ``write_example``), and after the first and the last epoch; 0 for never.

    Source
    ------
    USAT, arXiv 2404.18094, equations 5 to 10 and section 4.1 of the method; VITS, arXiv
    2106.06103, section 2.3, for waveforms. Deviates: ``warm_up`` and the ramp, and timbre judged
    with channels normalised, so that noise alone does not tell text from speech.

    Example
    -------
    >>> VoiceBrain.metric, VoiceBrain.higher_is_better
    ('mel_db', False)
    """

    def __init__(
        self,
        *,
        slice_frames: int = 32,
        warm_up: int = 0,
        timbre_ramp: int = 0,
        examples_every: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name, value, least, most in (
            ("slice_frames", slice_frames, *_SLICES),
            ("warm_up", warm_up, 0, _MOST),
            ("timbre_ramp", timbre_ramp, 0, _MOST),
            ("examples_every", examples_every, 0, _MOST),
        ):
            if not least <= value <= most:
                raise ValueError(f"{name} is {value}: set it from {least} to {most}")
        if self.planned_steps and warm_up >= self.planned_steps:
            logger.warning(
                "warm_up is %d of %d steps: no judge will come; lower it, or train longer",
                warm_up,
                self.planned_steps,
            )
        self.slice_frames, self.examples_every = slice_frames, examples_every
        self.warm_up, self.timbre_ramp = warm_up, timbre_ramp
        self.parts: dict[str, Tensor] = {}  # of the last step
        self.replayed: list[tuple[nn.Module, str]] = []
        self.seen: dict[str, list[float]] = defaultdict(list)  # in this epoch, for the log

    @property
    def voice(self) -> USAT:
        """The bare voice model."""
        return self.raw["model"]  # type: ignore[return-value]

    @property
    def judges(self) -> Judges:
        """The bare judges, which only the brain trains."""
        return self.raw["judges"]  # type: ignore[return-value]

    def learners(self) -> nn.ModuleDict:
        """Return the model and the judge of timbre, which learns with it."""
        return nn.ModuleDict({name: self.raw[name] for name in ("model", "timbre")})

    def on_fit_start(self) -> None:
        """Replay parts as CUDA graphs where batches have few shapes: telling a GPU takes longer."""
        super().on_fit_start()
        resident = getattr(self.train_set, "resident", False)
        if resident and self.device_type == "cuda" and self.precision == "fp32":
            voice, timbre, judges = self.voice, self.raw["timbre"], self.judges
            self.replayed = [
                (part, name)
                for part, names in (
                    (voice.posterior, ("forward",)),
                    (voice.speaker_encoder, ("forward",)),
                    (voice.phonemes, ("forward",)),
                    (voice.flow, ("remove_timbre",)),
                    (voice.durations, ("loss",)),
                    (voice.memory, ("forward",)),
                    (voice.decoder, ("forward",)),
                    (timbre, ("forward",)),
                    (judges, ("forward", "opinion")),
                )
                for name in names
            ]
            for part, name in self.replayed:
                setattr(part, name, Replayed(part, getattr(part, name)))

    def close(self) -> None:
        """Let parts be called as they are again."""
        for part, name in self.replayed:
            delattr(part, name)
        self.replayed = []
        super().close()

    def init_optimizers(self) -> None:
        """Give the judges an optimizer of their own."""
        super().init_optimizers()
        self.judge_optimizer = self.opt_class(self.judges.parameters())
        self.full_judge_lr = [group["lr"] for group in self.judge_optimizer.param_groups]
        if self.checkpointer is not None:
            self.checkpointer.add_recoverable("judge_optimizer", self.judge_optimizer)

    # ---- training
    def compute_forward(self, batch: Any, stage: sb.Stage) -> VoiceStep | Tensor:
        """Return what losses need; in tests the text spoken with the timing of the recording."""
        names = ("ids", "id_lengths", "waveform", "samples", "reference", "reference_samples")
        given = [batch[name] for name in names]
        if stage is sb.Stage.TEST:
            return self.voice.retell(*given)
        guide = 1 - self.warmth()
        return self.modules["model"](*given, slice_frames=self.slice_frames, guide=guide)

    def warmth(self) -> float:
        """Return how much of ``warm_up`` is behind the model, 1 when judges have come."""
        return min(1.0, self.now.index / self.warm_up) if self.warm_up else 1.0

    def compute_objectives(self, predictions: Any, batch: Any, stage: sb.Stage) -> Tensor:
        """Train the judges first, in training."""
        self.parts = {}
        if stage is sb.Stage.TRAIN and self.warmth() == 1:
            self._train_judges(predictions, batch)
        return super().compute_objectives(predictions, batch, stage)

    def on_fit_batch_end(self, batch: Any, outputs: Any, loss: Tensor, should_step: bool) -> None:
        """Keep the parts of the loss, but for the share of right pairs where no pair counted."""
        values = torch.stack([value.detach().float() for value in self.parts.values()]).tolist()
        for name, value in zip(self.parts, values, strict=True):  # read at once: a GPU waits
            if math.isfinite(value):
                self.seen[name].append(value)

    def on_stage_end(self, stage: sb.Stage, stage_loss: float, epoch: int | None = None) -> None:
        """Log the means of the parts; of ``pairs_right`` 0.55 to 0.75 is healthy."""
        if stage is sb.Stage.TRAIN:
            means = (f"{name} {numpy.mean(values):.3g}" for name, values in self.seen.items())
            logger.info("epoch %s: %s", epoch, ", ".join(means))
            self.seen.clear()
            self._speak(epoch)
        super().on_stage_end(stage, stage_loss, epoch)

    def _speak(self, epoch: int | None) -> None:
        """Leave an example of what has been learnt; training goes on as if there were none."""
        if not self.examples_every or epoch is None or self.folder is None:
            return
        last = self.optimizer_step == self.planned_steps
        due = epoch == 1 or last or epoch % self.examples_every == 0
        test: Any = self.task.test
        if due and test is not None and if_main_process():
            batch = self.to_device(test.__getitems__([0]))
            self.voice.eval()  # the next stage sets the mode anew
            with same_draws(0):
                write_example(self.voice, self.mel, batch, self.folder / f"epoch_{epoch:04d}")

    def _train_judges(self, out: VoiceStep, batch: Any) -> None:
        real = self._real_slice(out, batch)
        decoded = out.decoded.float().detach()
        speakers = Speakers(*(one.detach() for one in out.speakers))
        sound, pairs, right = self.modules["judges"](real, decoded, speakers)
        loss = sound + self.share_of(out.speakers.valid, len(real)) * pairs
        if world()[1] > 1:
            loss = loss * share(len(real), loss.device)
        loss.backward()
        factor = self.schedule(self.now.index / max(self.planned_steps, 1))
        for group, lr in zip(self.judge_optimizer.param_groups, self.full_judge_lr, strict=True):
            group["lr"] = factor * lr
        self.judge_optimizer.step()
        self.judge_optimizer.zero_grad(set_to_none=True)
        self.parts = {"judges": sound, "pairs": pairs, "pairs_right": right}

    def task_loss(self, outputs: VoiceStep, batch: Any, stage: sb.Stage) -> Tensor:
        """Return the sum of reconstruction, divergence, durations, leakage and timbre (Eq. 10)."""
        real, decoded = self._real_slice(outputs, batch), outputs.decoded.float()
        latents, aligned, warmth = outputs.latents, outputs.aligned, self.warmth()
        divergence = kl_loss(
            aligned.timbre_free, latents.log_scale, aligned.mean, aligned.log_scale, latents.mask
        )
        of_frames = self.share_of(latents.frames, len(real))
        of_symbols = self.share_of(batch["id_lengths"], len(real))
        parts = {
            "mel": mel_loss(self.mel(real), self.mel(decoded)),
            "kl": of_frames * (_LEAST_KL + (1 - _LEAST_KL) * warmth) * divergence,
            "durations": of_symbols * aligned.duration_loss,
        }
        if warmth == 1:
            parts |= self._judged(real, decoded, outputs)
        self.parts |= parts
        return torch.stack(list(parts.values())).sum()

    def _judged(self, real: Tensor, decoded: Tensor, outputs: VoiceStep) -> dict[str, Tensor]:
        """Return what the judges, who do not learn from it, say of the model."""
        judges, aligned, speakers = self.judges, outputs.aligned, outputs.speakers
        adversarial, features = judges.opinion(real, decoded)
        text = aligned.mean + torch.randn_like(aligned.mean) * aligned.log_scale.exp()
        since = self.now.index - self.warm_up + 1
        strength = min(1.0, since / self.timbre_ramp) if self.timbre_ramp else 1.0
        return {
            "adversarial": adversarial,
            "features": features,
            "speaker": self.share_of(speakers.valid, len(real))
            * leakage_speaker_loss(judges.leakage, speakers.first, speakers.second, speakers.valid),
            "timbre": timbre_loss(
                self.modules["timbre"],
                text,
                aligned.timbre_free,
                outputs.latents.mask,
                strength,
                normalise=True,
            ),
        }

    def _real_slice(self, out: VoiceStep, batch: Any) -> Tensor:
        return self.voice.slice_of(batch["waveform"], out.starts, self.slice_frames)
