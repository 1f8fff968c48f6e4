"""A text in anyone's voice: from a clip at once, or from a voice that was enrolled."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from speechcl.adapters.fingerprint import base_fingerprint
from speechcl.backbones.usat import USAT
from speechcl.backbones.usat.voice_files import load_voice
from speechcl.backbones.usat.voices import speaking
from speechcl.data.espeak import ACCENTS
from speechcl.data.phonemes import numbers, phonemes
from speechcl.inference.enrolment import Enrolled, enrol
from speechcl.inference.references import Reference, read_reference
from speechcl.inference.sentences import split_sentences
from speechcl.safety.protected import ProtectedVoices
from speechcl.safety.verifier import SpeakerVerifier
from speechcl.safety.watermark import add_watermark

logger = logging.getLogger(__name__)

Source = str | os.PathLike
PAUSE_S = 0.2  # between sentences
_WINDOW_S = 10.0  # of a reference that is heard at once: a model learns from clips of this length
_VOICE_OF = {name: voice for voice, name in ACCENTS.items()}


class VoiceCloner:
    """Speaks in the voice of a recording, or of an enrolled voice, with one base model.

    Arguments
    ---------
    model : USAT
        The base, which nothing here changes.
    protected : ProtectedVoices, optional
        Voices that are refused: as references, in recordings to enrol, and in what is spoken.

    Source
    ------
    USAT, arXiv 2404.18094: instant adaptation is section 5 of the method, where vectors of several
    recordings are averaged; voices of files are of its fine-grained adaptation.

    Example
    -------
    >>> from speechcl.data.audio import write_audio
    >>> clip = getfixture("tmp_path") / "clip.wav"
    >>> write_audio(clip, 0.5 * torch.sin(torch.arange(16000) / 10), rate_hz=16000)
    >>> cloner = VoiceCloner(USAT("usat_tiny"))
    >>> cloner.say("Hello. Here I am!", reference=clip).ndim
    1
    """

    def __init__(self, model: USAT, protected: ProtectedVoices | None = None) -> None:
        self.model = model.eval()
        self.protected = protected
        self.verifier = SpeakerVerifier() if protected is not None else None
        self.loaded: dict[tuple, str] = {}  # names of voices beside the base, by file and time

    @classmethod
    def from_pretrained(
        cls,
        source: Source = "usat_small",
        device: str = "cpu",
        protected: ProtectedVoices | None = None,
    ) -> VoiceCloner:
        """Load the base from a model folder, or a published one by its name.

        Raises
        ------
        ValueError
            If there is none, or it is damaged.
        """
        return cls(USAT.from_pretrained(os.fspath(source)).to(device), protected)

    @property
    def rate_hz(self) -> int:
        """Samples a second of what is spoken."""
        return self.model.config.rate_hz

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def fingerprint(self) -> str:
        """The base's, which its voices carry."""
        return base_fingerprint(self.model)

    def hear(self, references: Source | Sequence[Source]) -> list[Reference]:
        """Read recordings of a voice, see ``speechcl.inference.references.read_reference``.

        Raises
        ------
        ValueError
            If one cannot be read, tells no voice, or is of a protected one.
        """
        sources = [references] if isinstance(references, (str, os.PathLike)) else references
        if not sources:
            raise ValueError("no recording of the voice was given: give at least one")
        heard = [read_reference(source, self.rate_hz) for source in sources]
        for source, one in zip(sources, heard, strict=True):
            self._refuse_protected(one.waveform, os.fspath(source))
        return heard

    def _refuse_protected(self, waveform: Tensor, what: str) -> None:
        if not self.protected or self.verifier is None:
            return
        try:
            vector = self.verifier(waveform, self.rate_hz)
        except ValueError:  # nobody is heard in it
            return
        name, similarity = self.protected.closest(vector)
        if similarity >= self.protected.threshold:
            raise ValueError(
                f"{what}: sounds like {name}, a protected voice (similarity {similarity:.2f}, the "
                f"limit is {self.protected.threshold:.2f}): it may not be spoken in"
            )

    @torch.no_grad()
    def vector(self, heard: Sequence[Reference]) -> Tensor:
        """Return the speaker's vector (1, size): the mean over windows of all recordings."""
        window = round(_WINDOW_S * self.rate_hz)
        pieces = [
            piece
            for reference in heard
            for piece in reference.waveform.tensor_split(-(-len(reference.waveform) // window))
        ]
        samples = torch.tensor([len(piece) for piece in pieces])
        batch = torch.nn.utils.rnn.pad_sequence(pieces, batch_first=True)
        vectors = self.model.speaker(batch.to(self.device), samples.to(self.device))
        return vectors.mean(dim=0, keepdim=True)

    def load(self, file: Source) -> str:
        """Put the voice of a file beside the base, once; return its name there.

        Raises
        ------
        ValueError
            If the file is broken, or was made for another base.
        """
        path = Path(file).resolve()
        found = path.stat() if path.is_file() else None
        key = (path, found and found.st_mtime_ns, found and found.st_size)
        if key not in self.loaded:  # by a number, as two files may hold voices of one name
            self.loaded[key] = load_voice(self.model, path, name=f"voice {len(self.loaded)}")
        return self.loaded[key]

    def enroll(self, recordings: Source | Sequence[Source], name: str, **options: Any) -> Enrolled:
        """Enrol a voice into a file, see ``speechcl.inference.enrolment.enrol``."""
        return enrol(self.model, recordings, name, check=self._refuse_protected, **options)

    def stream(
        self,
        text: str,
        *,
        reference: Source | Sequence[Source] | None = None,
        voice: Source | None = None,
        accent: str = "American",
        length_scale: float = 1.0,
        seed: int = 0,
        watermark: bool = True,
    ) -> Iterator[Tensor]:
        """Speak sentence by sentence.

        Arguments
        ---------
        text : str
            English.
        reference : path or sequence of paths, optional
            Recordings of the voice, half a second to ten minutes each.
        voice : path, optional
            File of an enrolled voice; either this or a reference.
        accent : str
            Whose pronunciation, one of ``speechcl.data.espeak.ACCENTS``.
        length_scale : float
            Above 1 for slower speech.
        seed : int
            The same seed says it the same way.
        watermark : bool
            Whether speech is marked as machine-made, see ``speechcl.safety.watermark``; what it
            carries is the base's number, see ``mark``. To leave it out is logged.

        Yields
        ------
        Tensor
            Waveforms (time,) at ``rate_hz``, on the CPU, pauses between sentences included.

        Raises
        ------
        ValueError
            If there is nothing to say, not one voice to say it in or a protected one, or no such
            accent.
        """
        pieces = self._pieces(
            text,
            reference=reference,
            voice=voice,
            accent=accent,
            length_scale=length_scale,
            seed=seed,
        )
        return (self._marked(piece, watermark) for piece in pieces)

    def say(
        self, text: str, *, watermark: bool = True, progress: bool = False, **options: Any
    ) -> Tensor:
        """Return what ``stream`` yields as one waveform (time,), marked as a whole.

        Arguments are those of ``stream``; ``progress`` shows a bar on a terminal.
        """
        pieces = self._pieces(text, **options)
        bar = tqdm(pieces, unit="sentence", disable=None if progress else True, leave=False)
        return self._marked(torch.cat(list(bar)), watermark)

    @cached_property
    def mark(self) -> int:
        """What the watermark carries: the first 16 bits of the base's fingerprint."""
        return int(self.fingerprint[:4], 16)

    def _marked(self, waveform: Tensor, watermark: bool) -> Tensor:
        if not watermark:
            logger.warning("speech is made without a watermark")
            return waveform
        return add_watermark(waveform, self.rate_hz, self.mark)

    def _pieces(
        self,
        text: str,
        *,
        reference: Source | Sequence[Source] | None = None,
        voice: Source | None = None,
        accent: str = "American",
        length_scale: float = 1.0,
        seed: int = 0,
    ) -> Iterator[Tensor]:
        if (reference is None) == (voice is None):
            raise ValueError("give either a reference or a voice to speak in")
        if accent not in _VOICE_OF:
            raise ValueError(f"accent is {accent!r}: use one of {', '.join(sorted(_VOICE_OF))}")
        if not 0.2 <= length_scale <= 5:
            raise ValueError(f"length_scale is {length_scale}: set it between 0.2 and 5")
        symbols = symbols_of(text, accent)
        if reference is not None:
            vector = self.vector(self.hear(reference))
            return self._speak(symbols, lambda: nullcontext(vector), length_scale, seed)
        assert voice is not None
        name = self.load(voice)
        return self._speak(symbols, lambda: speaking(self.model, name), length_scale, seed)

    @torch.no_grad()
    def _speak(
        self,
        symbols: Sequence[str],
        voice: Callable[[], AbstractContextManager[Tensor]],
        length_scale: float,
        seed: int,
    ) -> Iterator[Tensor]:
        generator = torch.Generator(self.device).manual_seed(seed)
        pause = torch.zeros(round(PAUSE_S * self.rate_hz))
        for place, one in enumerate(symbols):
            ids = torch.tensor([numbers(one)], device=self.device)
            with voice() as vector:
                waveform, _ = self.model.say(
                    ids, vector, length_scale=length_scale, generator=generator
                )
            if not bool(waveform.isfinite().all()):
                raise ValueError("the voice speaks no finite numbers: make it, or the base, anew")
            spoken = waveform[0].cpu().clamp(-1, 1)
            self._refuse_protected(spoken, "what is spoken")
            yield spoken if place + 1 == len(symbols) else torch.cat([spoken, pause])


def symbols_of(text: str, accent: str = "American") -> list[str]:
    """Return the sounds of each sentence of a text; what has no sound is left out.

    Raises
    ------
    ValueError
        If nothing has.

    Example
    -------
    >>> symbols_of("Hi!\\n\\n---\\n\\nBye.")
    ['hˈaɪ!', 'bˈaɪ.']
    """
    found = []
    for sentence in split_sentences(text):
        try:
            found.append(phonemes(sentence, _VOICE_OF[accent]))
        except ValueError:
            continue  # a line of dashes between paragraphs, say
    if not found:
        raise ValueError(
            f"text {text[:60]!r} has nothing to say: give at least one letter or digit"
        )
    return found
