"""Voices that nobody may clone: a list of speaker vectors, and whether a voice is on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from speechcl.data.files import atomic_path
from speechcl.safety.verifier import SAME_SPEAKER_SIMILARITY, VERIFIER

FORMAT = "speechcl protected voices 1"
_MAX_BYTES = 1 << 28
Verifier = Callable[[Tensor, int], Tensor]


class ProtectedVoices:
    """Speaker vectors by name.

    Arguments
    ---------
    vectors : Mapping, optional
        Name to vector (dim,), all of one length and from one verifier.
    threshold : float
        Cosine similarity from which a voice counts as a protected one.
    verifier : str
        Name of what makes the vectors.

    Raises
    ------
    ValueError
        If a vector or a name cannot be used.

    Example
    -------
    >>> voices = ProtectedVoices({"alice": torch.tensor([1.0, 0.0])}, threshold=0.8)
    >>> voices.check(torch.tensor([5.0, 1.0])), voices.check(torch.tensor([0.0, 1.0]))
    ('alice', None)
    """

    def __init__(
        self,
        vectors: Mapping[str, Tensor] | None = None,
        threshold: float = SAME_SPEAKER_SIMILARITY,
        verifier: str = VERIFIER,
    ) -> None:
        self.threshold, self.verifier = threshold, verifier
        self._vectors: dict[str, Tensor] = {}
        for name, vector in (vectors or {}).items():
            self.add(name, vector)

    def __len__(self) -> int:
        return len(self._vectors)

    @property
    def names(self) -> list[str]:
        """Names of the protected voices.

        Example
        -------
        >>> ProtectedVoices({"alice": torch.ones(2)}).names
        ['alice']
        """
        return list(self._vectors)

    def add(self, name: str, vector: Tensor) -> None:
        """Protect a voice; one of the same name is replaced.

        Raises
        ------
        ValueError
            If the name is empty or not printable, or the vector is zero, not finite or of
            another length than the others.

        Example
        -------
        >>> voices = ProtectedVoices()
        >>> voices.add("alice", torch.tensor([3.0, 4.0]))
        >>> len(voices)
        1
        """
        if not name or not name.isprintable():
            raise ValueError(f"{name!r} cannot name a voice: give one line of text")
        self._vectors[name] = self._unit(vector)

    def add_recordings(
        self, name: str, recordings: Iterable[tuple[Tensor, int]], verifier: Verifier
    ) -> None:
        """Protect a voice from recordings of it: the mean of their vectors.

        Arguments
        ---------
        name : str
            Of the voice.
        recordings : Iterable
            Pairs of a waveform (time,) and its rate in Hz.
        verifier : Callable
            From waveform and rate to vector (dim,), as ``SpeakerVerifier``.

        Raises
        ------
        ValueError
            If there is no recording, or no speech in one.

        Example
        -------
        >>> voices = ProtectedVoices()
        >>> loudness = lambda waveform, rate_hz: torch.stack([waveform.std(), waveform.mean()])
        >>> voices.add_recordings("alice", [(torch.randn(100), 16000)], loudness)
        >>> voices.names
        ['alice']
        """
        vectors = []
        for number, (waveform, rate_hz) in enumerate(recordings, 1):
            try:
                vectors.append(self._unit(verifier(waveform, rate_hz)))
            except ValueError as error:
                raise ValueError(f"recording {number} of {name!r}: {error}") from error
        if not vectors:
            raise ValueError(f"no recording of {name!r} is given: give at least one")
        self.add(name, torch.stack(vectors).mean(0))

    def closest(self, vector: Tensor) -> tuple[str, float]:
        """Return the name of the most similar voice, and the cosine similarity to it.

        Raises
        ------
        ValueError
            If the list is empty, or the vector is zero, not finite or of another length.

        Example
        -------
        >>> voices = ProtectedVoices({"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([0.0, 1.0])})
        >>> name, similarity = voices.closest(torch.tensor([3.0, 4.0]))
        >>> name, round(similarity, 3)
        ('b', 0.8)
        """
        if not self._vectors:
            raise ValueError("no voice is protected: add one first")
        similarities = torch.stack(list(self._vectors.values())) @ self._unit(vector)
        best = int(similarities.argmax())
        return self.names[best], float(similarities[best])

    def check(self, vector: Tensor) -> str | None:
        """Return the name of the protected voice that a vector belongs to, or None.

        Raises
        ------
        ValueError
            If the vector is zero, not finite or of another length than those on the list.

        Example
        -------
        >>> ProtectedVoices().check(torch.ones(2)) is None
        True
        """
        if not self._vectors:
            return None
        name, similarity = self.closest(vector)
        return name if similarity >= self.threshold else None

    def save(self, file: str | Path) -> None:
        """Write the list as safetensors, whole or not at all.

        Raises
        ------
        ValueError
            If the list is empty.

        Example
        -------
        >>> file = getfixture("tmp_path") / "protected.safetensors"
        >>> ProtectedVoices({"alice": torch.ones(2)}).save(file)
        >>> ProtectedVoices.load(file).names
        ['alice']
        """
        if not self._vectors:
            raise ValueError(f"{file}: no voice is protected: add one first")
        about = {"format": FORMAT, "names": json.dumps(self.names), "verifier": self.verifier}
        with atomic_path(file) as temporary:
            save_file({"vectors": torch.stack(list(self._vectors.values()))}, temporary, about)

    @classmethod
    def load(
        cls,
        path: str | Path,
        threshold: float = SAME_SPEAKER_SIMILARITY,
        verifier: str = VERIFIER,
    ) -> ProtectedVoices:
        """Read a list, or all lists in a folder; nothing in them is executed.

        Arguments
        ---------
        path : str or Path
            A file that ``save`` wrote, or a folder of such files, ``*.safetensors``.
        threshold : float
            As above.
        verifier : str
            Which verifier the vectors must come from.

        Raises
        ------
        ValueError
            If a file is missing, broken, no list, from another verifier, or names a voice that
            another file names too; or a folder holds none.
        """
        path = Path(path)
        files = sorted(path.glob("[!.]*.safetensors")) if path.is_dir() else [path]
        if not files:
            raise ValueError(f"{path}: holds no list of protected voices, *.safetensors")
        found = cls(threshold=threshold, verifier=verifier)
        for file in files:
            for name, vector in _read(file, verifier):
                if name in found._vectors:
                    raise ValueError(f"{file}: names {name!r} a second time: rename one of them")
                try:
                    found.add(name, vector)
                except ValueError as error:
                    raise ValueError(f"{file}: is broken: {error}") from error
        return found

    def _unit(self, vector: Tensor) -> Tensor:
        vector = vector.detach().to("cpu", torch.float32)
        known = next(iter(self._vectors.values()), vector)
        if vector.ndim != 1 or vector.shape != known.shape:
            raise ValueError(
                f"a speaker vector of shape {tuple(vector.shape)} is given where "
                f"({known.shape[0] if known.ndim else 'dim'},) is needed: use one verifier"
            )
        length = vector.norm()
        if not 0 < length < torch.inf:
            raise ValueError("a speaker vector is zero or not finite: record the voice again")
        return vector / length


def _read(file: Path, verifier: str) -> list[tuple[str, Tensor]]:
    if not file.is_file():
        raise ValueError(f"{file}: no such list of protected voices: check the path")
    if file.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{file}: is larger than {_MAX_BYTES >> 20} MiB: no list of voices")
    try:
        with safe_open(file, framework="pt") as opened:
            about = opened.metadata() or {}
            keys = list(opened.keys())
            vectors = opened.get_tensor(keys[0]) if keys == ["vectors"] else torch.zeros(0)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file}: is broken or no safetensors file: {error}") from error
    if about.get("format") != FORMAT:
        raise ValueError(f"{file}: holds no protected voices: give a file that save wrote")
    if about.get("verifier") != verifier:
        raise ValueError(
            f"{file}: is for the verifier {about.get('verifier')!r}, not {verifier!r}: record anew"
        )
    try:
        names = json.loads(about.get("names", ""))
    except (ValueError, RecursionError):
        names = None
    if (
        not isinstance(names, list)
        or not names
        or not all(isinstance(name, str) for name in names)
        or not vectors.is_floating_point()
        or vectors.ndim != 2
        or len(names) != len(vectors)
    ):
        raise ValueError(f"{file}: names and vectors do not fit: save the list again")
    return list(zip(names, vectors, strict=True))
