"""Enrolment: a trained voice model is fitted to a few recordings of speakers it has not heard."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import speechbrain as sb
import torch
from torch import Tensor, nn

from speechcl.backbones.usat.losses import kl_loss
from speechcl.backbones.usat.model import USAT, Aligned, Latents, mask_of
from speechcl.backbones.usat.voices import speaking
from speechcl.brains.voice import SpeakingBrain
from speechcl.data.pool import seed_for

Chosen = str | dict[int, str] | None


class Enroller(nn.Module):
    """A voice model as it is fitted: text set beside speech, in the voice that is chosen.

    While the base is frozen it is in evaluation mode: nothing is dropped, no statistics move.

    Arguments
    ---------
    voice : USAT
        The trained model.
    detach_durations : bool
        Whether rhythm teaches the speaker's vector and phonemes nothing, as in VITS.

    Attributes
    ----------
    chosen : str, dict or None
        The voice beside the base that speaks, or those of speakers by their numbers in a batch,
        all in one pass; none for that of each item's reference.

    Example
    -------
    >>> Enroller(USAT("usat_tiny")).chosen is None
    True
    """

    def __init__(self, voice: USAT, detach_durations: bool = True) -> None:
        super().__init__()
        self.voice = voice
        self.chosen: Chosen = None
        voice.durations.detach = detach_durations
        # no sound is made: what decodes latents is taught nothing, so what they mean must stay
        for part in (voice.posterior, voice.memory, voice.decoder):
            part.requires_grad_(False)

    def train(self, mode: bool = True) -> Enroller:
        """Set the mode; a frozen base stays in evaluation mode."""
        super().train(mode)
        if not next(self.voice.phonemes.parameters()).requires_grad:
            self.voice.eval()
        return self

    def forward(
        self,
        ids: Tensor,
        id_lengths: Tensor,
        latents: Latents,
        reference: Tensor,
        reference_samples: Tensor,
        speaker: Tensor | None = None,
    ) -> Aligned:
        """Set texts beside latents of speech, see ``USAT.align``; ``speaker`` are numbers."""
        if self.chosen is None:
            vectors = self.voice.speaker(reference, reference_samples)
            return self.voice.align(ids, id_lengths, latents, vectors)
        with self._speaking(speaker) as vectors:
            return self.voice.align(ids, id_lengths, latents, vectors.expand(len(ids), -1))

    def retell(self, batch: Any) -> Tensor:
        """Speak texts with the timing of recordings, see ``USAT.retell``."""
        names = ("ids", "id_lengths", "waveform", "samples", "reference", "reference_samples")
        given = {name: batch[name] for name in names}
        if self.chosen is None:
            return self.voice.retell(**given)
        with self._speaking(batch.get("speaker")) as vectors:
            return self.voice.retell(**given, speaker=vectors.expand(len(given["ids"]), -1))

    def _speaking(self, speaker: Tensor | None) -> AbstractContextManager[Tensor]:
        if isinstance(self.chosen, dict) and speaker is not None:
            names = [self.chosen[number] for number in speaker.tolist()]
            return speaking(self.voice, names, among=list(self.chosen.values()))
        assert isinstance(self.chosen, str), "several speakers, but a batch does not tell them"
        return speaking(self.voice, self.chosen)


class EnrolmentBrain(SpeakingBrain):
    """Fit ``modules["model"]``, an ``Enroller``, to recordings of a speaker (Eq. 12).

    The loss is the divergence of what is heard from what the text says, plus that of durations; no
    sound is decoded. While the posterior encoder is frozen, what it hears in a clip is computed
    once.

    Source
    ------
    USAT, arXiv 2404.18094, equations 11 and 12.

    Example
    -------
    >>> EnrolmentBrain.metric
    'mel_db'
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heard: dict[int, tuple[Tensor, Tensor]] = {}  # mean and log-scale, by clip

    @property
    def voice(self) -> USAT:
        """The bare voice model."""
        return self.raw["model"].voice  # type: ignore[return-value, union-attr]

    def compute_forward(self, batch: Any, stage: sb.Stage) -> tuple[Latents, Aligned] | Tensor:
        """Return latents and text beside them; in tests the text as it is spoken."""
        if stage is sb.Stage.TEST:
            return self.raw["model"].retell(batch)  # type: ignore[operator, union-attr]
        moment = self.now.index if stage is sb.Stage.TRAIN else "held out"
        latents = self.latents(batch, moment)
        names = ("reference", "reference_samples")
        given = (batch["ids"], batch["id_lengths"], latents, *(batch[name] for name in names))
        return latents, self.modules["model"](*given, batch.get("speaker"))

    def task_loss(self, outputs: Any, batch: Any, stage: sb.Stage) -> Tensor:
        """Return divergence and durations, unweighted."""
        latents, aligned = outputs
        divergence = kl_loss(
            aligned.timbre_free, latents.log_scale, aligned.mean, aligned.log_scale, latents.mask
        )
        if stage is not sb.Stage.TRAIN:
            return divergence + aligned.duration_loss
        items = len(batch["ids"])
        of_frames = self.share_of(latents.frames, items)
        return (
            of_frames * divergence
            + self.share_of(batch["id_lengths"], items) * aligned.duration_loss
        )

    def latents(self, batch: Any, moment: Any) -> Latents:
        """Draw latents of clips; their distributions are remembered while they cannot change.

        Then the noise of a clip depends on the clip and the moment alone, not on other clips.
        """
        frozen = not next(self.voice.posterior.parameters()).requires_grad
        if not frozen or "clip" not in batch:
            return self.voice.encode(batch["waveform"], batch["samples"])
        clips = batch["clip"].tolist()
        if not all(clip in self.heard for clip in clips):
            # its draw is not used, and must not move the generator that a resume puts back
            unused = torch.Generator(self.device).manual_seed(0)
            with torch.no_grad():
                new = self.voice.encode(batch["waveform"], batch["samples"], unused)
            for i, (clip, frames) in enumerate(zip(clips, new.frames.tolist(), strict=True)):
                self.heard[clip] = new.mean[i, :, :frames].T, new.log_scale[i, :, :frames].T
        mean, log_scale = (
            nn.utils.rnn.pad_sequence([self.heard[clip][k] for clip in clips], batch_first=True)
            for k in (0, 1)
        )
        frames = batch["samples"] // self.voice.config.hop
        mask = mask_of(frames, mean.shape[1])
        mean, log_scale = (x.transpose(1, 2).contiguous() for x in (mean, log_scale))
        noise = torch.zeros_like(mean)
        for one, clip, count in zip(noise, clips, frames.tolist(), strict=True):
            seed = seed_for(torch.initial_seed(), moment, clip)
            generator = torch.Generator(self.device).manual_seed(seed)
            size = (len(one), count)
            one[:, :count] = torch.randn(size, generator=generator, device=one.device)
        z = (mean + noise * log_scale.exp()) * mask
        return Latents(z, mean, log_scale, mask, frames)
