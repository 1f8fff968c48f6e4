"""A voice model: any speaker from a clip, by what is said and by who says it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from speechcl.backbones.usat.alignment import (
    alignment_durations,
    diagonal_guide,
    expand,
    gaussian_log_likelihood,
)
from speechcl.backbones.usat.decoders import HifiGanDecoder, InverseStftDecoder
from speechcl.backbones.usat.durations import (
    DeterministicDurationPredictor,
    StochasticDurationPredictor,
)
from speechcl.backbones.usat.files import read_config, read_weights, save_model
from speechcl.backbones.usat.memory_readout import MemoryReadout
from speechcl.backbones.usat.posterior_encoder import PosteriorEncoder
from speechcl.backbones.usat.presets import VoiceConfig, preset
from speechcl.backbones.usat.speaker_encoder import SpeakerEncoder, segments
from speechcl.backbones.usat.spectrogram import MagnitudeSpectrogram
from speechcl.backbones.usat.text_encoder import PhonemeEncoder
from speechcl.backbones.usat.timbre_flow import TimbreFlow
from speechcl.backbones.usat.voices import Selection, Vectors, VoiceSpec
from speechcl.data.phonemes import SYMBOLS

MAX_SYMBOLS = 10_000  # of a text at once: attention takes the square of it in memory
MAX_FRAMES_A_PHONEME = 100  # a duration beyond is a slip of the flow's tail, not speech


class Latents(NamedTuple):
    """Of speech: drawn latents, mean and log-scale (batch, latent, frames), mask, frames each."""

    z: Tensor
    mean: Tensor
    log_scale: Tensor
    mask: Tensor
    frames: Tensor


class Speakers(NamedTuple):
    """Vectors (batch, size) of targets and of two windows of references, and which are valid."""

    target: Tensor
    first: Tensor
    second: Tensor
    valid: Tensor


class Aligned(NamedTuple):
    """Text beside speech.

    ``timbre_free`` are latents of speech without timbre, ``mean`` and ``log_scale`` what the text
    says of them, spread over frames; all (batch, latent, frames). ``durations`` are frames a
    phoneme, (batch, 1, phonemes), and ``duration_loss`` a scalar, per phoneme.
    """

    timbre_free: Tensor
    mean: Tensor
    log_scale: Tensor
    durations: Tensor
    duration_loss: Tensor


class VoiceStep(NamedTuple):
    """All that the losses of one step need; ``starts`` are first frames of the decoded slices."""

    latents: Latents
    speakers: Speakers
    aligned: Aligned
    decoded: Tensor
    starts: Tensor


class USAT(nn.Module):
    """Speaks a text as the speaker of a clip would.

    A spectrogram becomes latents; a flow takes timbre out of them and, run backwards, puts a
    speaker's into what the text says; a decoder hears latents only through a memory. Only the flow
    and the durations are told who speaks.

    Arguments
    ---------
    config : VoiceConfig or str
        Sizes, or the name of a preset.

    Source
    ------
    Wang, Song, Jha, "USAT: A Universal Speaker-Adaptive Text-to-Speech Approach", arXiv 2404.18094;
    Kim, Kong, Son, "VITS", arXiv 2106.06103. Deviates: see the parts; speakers are computed from
    means of latents; presets but ``usat_base`` decode by an inverse Fourier transform.

    Example
    -------
    >>> model = USAT("usat_tiny").eval()
    >>> speaker = model.speaker(torch.randn(1, 16000))
    >>> waveform, samples = model.say(torch.tensor([[0, 10, 0, 14, 0]]), speaker)
    >>> waveform.shape[1] == int(samples[0]), int(samples[0]) % 256
    (True, 0)
    """

    def __init__(self, config: VoiceConfig | str) -> None:
        super().__init__()
        c = self.config = preset(config) if isinstance(config, str) else config
        self.spectrogram = MagnitudeSpectrogram(c.n_fft, c.hop)
        self.phonemes = PhonemeEncoder(
            len(SYMBOLS), c.hidden, c.hidden_ffn, latent=c.latent, layers=c.text_layers
        )
        self.posterior = PosteriorEncoder(
            c.n_fft // 2 + 1, c.hidden, c.latent, layers=c.posterior_layers
        )
        self.flow = TimbreFlow(
            c.latent, c.hidden, c.speaker, couplings=c.couplings, layers=c.flow_layers
        )
        self.memory = MemoryReadout(c.latent, c.memory_slots, c.memory_channels)
        self.speaker_encoder = SpeakerEncoder(
            c.latent, c.speaker, c.speaker_channels, c.speaker_gathered
        )
        predictor = {
            "stochastic": StochasticDurationPredictor,
            "deterministic": DeterministicDurationPredictor,
        }[c.durations]
        self.durations = predictor(c.hidden, c.hidden, c.speaker)
        self.decoder = (
            HifiGanDecoder(c.latent, c.decoder_channels)
            if c.decoder == "hifigan"
            else InverseStftDecoder(c.latent, c.decoder_channels, c.decoder_blocks, c.n_fft, c.hop)
        )
        # voices beside the base, see voices.py
        self.vectors, self.selection = Vectors(), Selection()
        self.voice_spec: VoiceSpec | None = None

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> USAT:
        """Read a model that ``save`` has written, ready to speak; nothing is executed.

        ``folder`` may be the name of a published one: "usat_small".

        Raises
        ------
        ValueError
            If there is none, or it is damaged.
        """
        config = read_config(folder)
        weights = read_weights(lambda: cls(config), folder)
        model = cls(config)
        model.load_state_dict(weights)
        return model.eval()

    def save(self, folder: Path | str, dtype: torch.dtype = torch.float32, **options: Any) -> None:
        """Write sizes and weights into a new folder, see ``files.save_model``."""
        save_model(self, folder, dtype, **options)

    # ---- from speech
    def encode(
        self,
        waveform: Tensor,
        samples: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Latents:
        """Turn speech into latents.

        Arguments
        ---------
        waveform : Tensor
            In [-1, 1] at the model's rate, shape (batch, time).
        samples : Tensor, optional
            Length of each item, shape (batch,); all of ``time`` by default.
        generator : torch.Generator, optional
            Of the noise.

        Returns
        -------
        Latents

        Raises
        ------
        ValueError
            If a clip is shorter than a frame.
        """
        if samples is None:
            samples = torch.full((len(waveform),), waveform.shape[1], device=waveform.device)
        magnitude = self.spectrogram(waveform, samples)
        frames = samples // self.config.hop
        if int(frames.min()) < 1:
            raise ValueError(
                f"a clip of {int(samples.min())} samples is shorter than a frame of "
                f"{self.config.hop}: give longer recordings"
            )
        mask = mask_of(frames, magnitude.shape[2])
        z, mean, log_scale = self.posterior(magnitude, mask, generator)
        return Latents(z, mean, log_scale, mask, frames)

    def speaker(self, waveform: Tensor, samples: Tensor | None = None) -> Tensor:
        """Return the speaker's vector of each clip, shape (batch, size): average those of one.

        It is computed from the means of the latents, so that a clip has one vector.

        Raises
        ------
        ValueError
            If a clip is shorter than a frame, or a single one meets a model in training mode.
        """
        if self.speaker_encoder.training and len(waveform) == 1:
            raise ValueError("the model is in training mode: call eval() before it hears a clip")
        latents = self.encode(waveform, samples)
        return self.speaker_encoder(latents.mean, latents.mask)

    # ---- to speech
    def say(
        self,
        ids: Tensor,
        speaker: Tensor,
        lengths: Tensor | None = None,
        *,
        noise_scale: float = 0.667,
        duration_noise_scale: float = 0.8,
        length_scale: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Speak.

        Arguments
        ---------
        ids : Tensor
            Numbers of symbols, see ``speechcl.data.phonemes.numbers``; shape (batch, phonemes).
        speaker : Tensor
            Vectors from ``speaker``, shape (batch, size).
        lengths : Tensor, optional
            Symbols of each item, shape (batch,); all by default.
        noise_scale, duration_noise_scale : float
            How freely sound and rhythm vary; 0 for the same every time.
        length_scale : float
            Above 1 for slower speech.
        generator : torch.Generator, optional
            Of the noise.

        Returns
        -------
        tuple of Tensor
            Waveforms (batch, time) with zeros at their ends, and the samples of each (batch,).

        Raises
        ------
        ValueError
            If symbols, speakers or lengths have no shape or value that they may have.

        Source
        ------
        Section 5 of the method: prior, flow backwards, memory, decoder; scales of VITS.
        """
        mask = _mask_of_text(ids, lengths, speaker, self.config.speaker)
        with parametrize.cached():
            h, mean, log_scale = self.phonemes(ids, mask)
            log_durations = self.durations.sample(h, mask, speaker, duration_noise_scale, generator)
            durations = self._whole(log_durations.exp() * length_scale) * mask[:, 0].long()
            frames = durations.sum(dim=1)
            longest = int(frames.max())
            frame_mask = mask_of(frames, longest)
            mean, log_scale = (expand(x, durations, longest) for x in (mean, log_scale))
            noise = torch.randn(mean.shape, generator=generator, device=mean.device)
            text = (mean + noise * log_scale.exp() * noise_scale) * frame_mask
            z = self.flow.add_timbre(text, frame_mask, speaker)
            # nothing to mask where all are equally long, which the decoder does at every sample
            decoder_mask = None if int(frames.min()) == longest else frame_mask
            waveform = self.decoder(self.memory(z, frame_mask), decoder_mask)
        return waveform, frames * self.config.hop

    @torch.no_grad()
    def retell(
        self,
        ids: Tensor,
        id_lengths: Tensor,
        waveform: Tensor,
        samples: Tensor,
        reference: Tensor,
        reference_samples: Tensor,
        speaker: Tensor | None = None,
    ) -> Tensor:
        """Speak a text with the timing of one recording and the timbre of another, without noise.

        Arguments are those of ``forward``; ``speaker`` vectors (batch, size) take the references'
        place.

        Returns
        -------
        Tensor
            Shape (batch, frames * hop), to be set beside ``waveform``.
        """
        encoded = self.encode(waveform, samples)
        latents = encoded._replace(z=encoded.mean)
        if speaker is None:
            speaker = self.speaker(reference, reference_samples)
        aligned = self.align(ids, id_lengths, latents, speaker)
        z = self.flow.add_timbre(aligned.mean, latents.mask, speaker)
        return self.decoder(self.memory(z, latents.mask), latents.mask)

    # ---- training
    def forward(
        self,
        ids: Tensor,
        id_lengths: Tensor,
        waveform: Tensor,
        samples: Tensor,
        reference: Tensor,
        reference_samples: Tensor,
        slice_frames: int = 32,
        guide: float = 0.0,
    ) -> VoiceStep:
        """Do all of a training step but the losses.

        Arguments
        ---------
        ids, id_lengths : Tensor
            Symbols of what is said, (batch, phonemes), and how many, (batch,).
        waveform, samples : Tensor
            Who says it, (batch, time), and lengths, (batch,).
        reference, reference_samples : Tensor
            Another utterance of each speaker.
        slice_frames : int
            Frames of a random slice that is decoded.
        guide : float
            Weight of ``diagonal_guide`` in the alignment.

        Returns
        -------
        VoiceStep

        Source
        ------
        Section 4.1 of the method. The flow is conditioned on the first window of the reference, as
        at inference, where the target is unknown.
        """
        latents, of_reference = self._encode_both(waveform, samples, reference, reference_samples)
        speakers = self._speakers(latents, of_reference)
        aligned = self.align(ids, id_lengths, latents, speakers.first, guide)
        starts = _starts(latents.frames, slice_frames)
        part = _slices(latents.z, starts, slice_frames)
        part_mask = _slices(latents.mask, starts, slice_frames)
        decoded = self.decoder(self.memory(part, part_mask))
        return VoiceStep(latents, speakers, aligned, decoded, starts)

    def align(
        self,
        ids: Tensor,
        id_lengths: Tensor,
        latents: Latents,
        speaker: Tensor,
        guide: float = 0.0,
    ) -> Aligned:
        """Set a text beside speech, for a speaker's vectors (batch, size).

        Returns
        -------
        Aligned

        Source
        ------
        Equations 7 and 12 need no more than this; the alignment is VITS' monotonic search.
        """
        mask = mask_of(id_lengths, ids.shape[1])
        h, mean, log_scale = self.phonemes(ids, mask)
        timbre_free = self.flow.remove_timbre(latents.z, latents.mask, speaker)
        with torch.no_grad():
            likelihood = gaussian_log_likelihood(timbre_free, mean, log_scale)
            if guide:
                shape = likelihood.shape[1:]
                likelihood += guide * diagonal_guide(id_lengths, latents.frames, *shape)
            durations = alignment_durations(likelihood, id_lengths, latents.frames)
        total = self.durations.loss(h, mask, durations[:, None], speaker)
        frames = latents.z.shape[2]
        return Aligned(
            timbre_free,
            expand(mean, durations, frames),
            expand(log_scale, durations, frames),
            durations[:, None],
            total.sum() / id_lengths.sum(),
        )

    def _whole(self, durations: Tensor) -> Tensor:
        """Round durations (batch, 1, phonemes) to whole frames, shape (batch, phonemes)."""
        if not bool(durations.isfinite().all()):
            raise ValueError("the voice gives no finite durations: make it, or the base, anew")
        return self.durations.whole(durations).clamp(1, MAX_FRAMES_A_PHONEME)[:, 0].long()

    def _encode_both(
        self, waveform: Tensor, samples: Tensor, reference: Tensor, reference_samples: Tensor
    ) -> tuple[Latents, Latents]:
        """Encode targets and references, in one pass where neither is padded for it."""
        if waveform.shape != reference.shape:
            return self.encode(waveform, samples), self.encode(reference, reference_samples)
        both = self.encode(
            torch.cat([waveform, reference]), torch.cat([samples, reference_samples])
        )
        first, second = zip(*(x.chunk(2) for x in both), strict=True)
        return Latents(*first), Latents(*second)

    def _speakers(self, target: Latents, reference: Latents) -> Speakers:
        """Encode targets and both windows of references in one pass, which batch norm needs.

        They are means of latents, as in ``speaker``: statistics of drawn ones would not fit those.
        """
        first, second, mask, valid = segments(reference.mean, reference.frames)
        longest = max(target.mean.shape[2], first.shape[2])
        latents, masks = (
            torch.cat([nn.functional.pad(x, (0, longest - x.shape[2])) for x in parts])
            for parts in ((target.mean, first, second), (target.mask, mask, mask))
        )
        of_target, of_first, of_second = self.speaker_encoder(latents, masks).chunk(3)
        return Speakers(of_target, of_first, of_second, valid)

    def slice_of(self, waveform: Tensor, starts: Tensor, slice_frames: int = 32) -> Tensor:
        """Cut from waveforms what ``forward`` decoded, shape (batch, slice_frames * hop)."""
        hop = self.config.hop
        return _slices(waveform[:, None], starts * hop, slice_frames * hop)[:, 0]


def _mask_of_text(ids: Tensor, lengths: Tensor | None, speaker: Tensor, size: int) -> Tensor:
    """Return the mask of a text that can be said by these speakers."""
    if ids.ndim != 2 or not 1 <= ids.shape[1] <= MAX_SYMBOLS:
        raise ValueError(
            f"ids have shape {tuple(ids.shape)}: give (batch, symbols), at most {MAX_SYMBOLS} "
            "symbols at once; a long text is said sentence by sentence"
        )
    if ids.is_floating_point() or bool(((ids < 0) | (ids >= len(SYMBOLS))).any()):
        raise ValueError(
            f"ids are not all numbers of the {len(SYMBOLS)} symbols: make them by "
            "speechcl.data.phonemes.numbers"
        )
    if lengths is None:
        lengths = torch.full((len(ids),), ids.shape[1], device=ids.device)
    if lengths.shape != ids.shape[:1] or not bool(
        ((lengths >= 1) & (lengths <= ids.shape[1])).all()
    ):
        raise ValueError(f"lengths are not {len(ids)} numbers from 1 to {ids.shape[1]} symbols")
    if speaker.shape not in ((len(ids), size), (1, size)) or not bool(speaker.isfinite().all()):
        raise ValueError(
            f"speaker has shape {tuple(speaker.shape)} where ({len(ids)}, {size}) is wanted, or is "
            "not finite: take it from the method of that name"
        )
    return mask_of(lengths, ids.shape[1])


def mask_of(lengths: Tensor, longest: int) -> Tensor:
    """Return 1 where an item has something, shape (batch, 1, longest).

    Example
    -------
    >>> mask_of(torch.tensor([1, 3]), 3)[:, 0]
    tensor([[1., 0., 0.],
            [1., 1., 1.]])
    """
    return (torch.arange(longest, device=lengths.device) < lengths[:, None])[:, None].float()


def _starts(frames: Tensor, width: int) -> Tensor:
    """Draw where slices begin; an item that is shorter begins at 0 and ends in padding."""
    room = (frames - width + 1).clamp(min=1)
    return (torch.rand(len(frames), device=frames.device) * room).long()


def _slices(x: Tensor, starts: Tensor, width: int) -> Tensor:
    """Cut slices (batch, channels, width) by one gather; beyond the end there are zeros."""
    index = starts[:, None] + torch.arange(width, device=x.device)
    inside = (index < x.shape[2])[:, None]
    index = index.clamp(max=x.shape[2] - 1)[:, None].expand(-1, x.shape[1], -1)
    return x.gather(2, index) * inside
