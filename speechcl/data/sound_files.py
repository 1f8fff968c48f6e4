"""Opening sound files with care: what is broken, hostile or absurd is refused in one line."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import soundfile

AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif"})
MIN_RATE_HZ = 4_000
MAX_RATE_HZ = 384_000
MAX_CHANNELS = 64

# Programs that write into a pipe cannot know the length; they claim the largest size instead.
_UNKNOWN_SIZE = 0x7FFF_F000
# libsndfile's largest count, its answer for streams that do not tell their length.
_UNKNOWN_FRAMES = 2**63 - 1
_CLAIMED_SIZE = re.compile(r"(?:data|SSND) *: *(\d+) \(should be (\d+)\)")


class AudioError(ValueError):
    """A sound file or waveform that cannot be used; the message says why and how to mend it."""


def show_path(path: str | os.PathLike) -> str:
    """Return ``path`` quoted, on one line and printable whatever the file is called.

    Arguments
    ---------
    path : str or os.PathLike
        Any path, also one with line breaks or undecodable bytes.

    Returns
    -------
    str
        The path in quotes, odd characters escaped.

    Example
    -------
    >>> show_path("clips/a.wav"), show_path("b\\n.wav")
    ("'clips/a.wav'", "'b\\\\n.wav'")
    """
    return repr(os.fspath(path))


@contextmanager
def open_audio(path: str | os.PathLike) -> Iterator[soundfile.SoundFile]:
    """Open a sound file after checking all that can be known without decoding it.

    Arguments
    ---------
    path : str or os.PathLike
        The file; its content decides the format, not its suffix.

    Yields
    ------
    soundfile.SoundFile
        At the first frame, with a believable rate, channel count and length.

    Raises
    ------
    AudioError
        If the file is missing, empty, no sound, cut off, or has an absurd header. Decoding
        errors in the body are turned into this one as well.

    Example
    -------
    >>> with open_audio("missing.wav") as sound:
    ...     sound.frames
    Traceback (most recent call last):
    ...
    speechcl.data.sound_files.AudioError: 'missing.wav': no such file: check the path
    """
    shown = show_path(path)
    _check_file(Path(path), shown)
    try:
        with soundfile.SoundFile(path) as sound:
            _check_header(sound, shown)
            yield sound
    except soundfile.LibsndfileError as error:
        # libsndfile repeats the path, raw, in some of its messages.
        reason = error.error_string.rstrip(".") or "broken data"
        raise AudioError(
            f"{shown}: cannot be decoded ({reason}): convert it to WAV or FLAC, or fetch it again"
        ) from error


def audio_duration_s(path: str | os.PathLike) -> float:
    """Return the length of a sound file from its header, without decoding it.

    Arguments
    ---------
    path : str or os.PathLike
        The sound file.

    Returns
    -------
    float
        Seconds.

    Raises
    ------
    AudioError
        If the file cannot be opened as sound.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.wav"
    >>> soundfile.write(path, [0.0] * 4000, 16000)
    >>> audio_duration_s(path)
    0.25
    """
    with open_audio(path) as sound:
        return sound.frames / sound.samplerate


def find_audio(folder: str | os.PathLike) -> list[Path]:
    """List the sound files below a folder, by suffix; hidden files and folders are left out.

    Arguments
    ---------
    folder : str or os.PathLike
        Where to look, at any depth.

    Returns
    -------
    list of pathlib.Path
        Sorted, each beginning with ``folder``.

    Raises
    ------
    AudioError
        If ``folder`` is not a folder.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> for name in ("b.flac", "a.WAV", ".hidden.wav", "notes.txt"):
    ...     (folder / name).touch()
    >>> [path.name for path in find_audio(folder)]
    ['a.WAV', 'b.flac']
    """
    if not os.path.isdir(folder):  # noqa: PTH112 - false, not an error, for odd names
        raise AudioError(f"{show_path(folder)}: not a folder: check the path")
    found = []
    for parent, folders, files in os.walk(os.fspath(folder)):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            Path(parent, name)
            for name in files
            if not name.startswith(".") and Path(name).suffix.lower() in AUDIO_SUFFIXES
        ]
    return sorted(found)


def _check_file(path: Path, shown: str) -> None:
    if "\0" in str(path):
        raise AudioError(f"{shown}: a path cannot hold a NUL character: check the path")
    if path.is_dir():
        raise AudioError(f"{shown}: is a folder, not a sound file: give a file in it")
    if not path.exists():
        raise AudioError(f"{shown}: no such file: check the path")
    if not path.is_file():
        raise AudioError(f"{shown}: is a device or pipe, not a sound file: save it to a file first")
    if path.stat().st_size == 0:
        raise AudioError(f"{shown}: the file is empty: fetch it again or leave it out")
    if path.suffix.lower() == ".raw":
        raise AudioError(f"{shown}: raw samples have no header: convert the file to WAV or FLAC")


def _check_header(sound: soundfile.SoundFile, shown: str) -> None:
    if not MIN_RATE_HZ <= sound.samplerate <= MAX_RATE_HZ:
        raise AudioError(
            f"{shown}: claims a rate of {sound.samplerate} Hz, outside {MIN_RATE_HZ} to "
            f"{MAX_RATE_HZ} Hz: convert it to 16000 Hz"
        )
    if sound.channels > MAX_CHANNELS:
        raise AudioError(
            f"{shown}: claims {sound.channels} channels, more than {MAX_CHANNELS}: mix it to mono"
        )
    claimed = _CLAIMED_SIZE.search(sound.extra_info)
    cut_off = claimed and int(claimed[2]) < int(claimed[1]) < _UNKNOWN_SIZE
    if cut_off or "without an End-Of-Stream flag" in sound.extra_info:
        raise AudioError(
            f"{shown}: is cut off, it holds less than its header claims: fetch it again"
        )
    if sound.frames <= 0:
        raise AudioError(f"{shown}: holds no samples: fetch it again or leave it out")
    if sound.frames >= _UNKNOWN_FRAMES:
        raise AudioError(f"{shown}: its header gives no length: convert it to WAV or FLAC")
