"""Was a sound file made here: what it says of itself, and what is hidden in its sound."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from speechcl.data.audio import find_audio, read_audio
from speechcl.safety.provenance import read_provenance
from speechcl.safety.watermark import read_watermark

_RATE_HZ = 16_000  # at which a watermark is looked for, whatever the file's own


def detect_files(sources: Sequence[Path]) -> list[dict[str, Any]]:
    """Look for provenance and watermark in sound files, and in all those of folders.

    Arguments
    ---------
    sources : sequence of Path
        Files and folders.

    Returns
    -------
    list of dict
        Of each file: ``file``; ``made_by``, "speechcl" or nothing; ``watermark``, the number it
        carries in hexadecimal, which is how the fingerprint of the base model begins; ``score``
        and ``false_alarm`` of the watermark; and ``voice``, ``date`` and ``model`` as the file
        says, which anybody can change, unlike the watermark.

    Raises
    ------
    ValueError
        If a file cannot be read, or there is none.

    Example
    -------
    >>> import torch
    >>> from speechcl.data.audio import write_audio
    >>> path = getfixture("tmp_path") / "a.wav"
    >>> write_audio(path, 0.1 * torch.randn(32000).clamp(-3, 3), rate_hz=16000)
    >>> detect_files([path])[0]["made_by"]
    ''
    """
    files = [
        file for source in sources for file in (find_audio(source) if source.is_dir() else [source])
    ]
    if not files:
        raise ValueError(f"no sound files in {', '.join(map(str, sources))}: check the path")
    return [_detect(file) for file in files]


def _detect(file: Path) -> dict[str, Any]:
    found = read_watermark(read_audio(file, _RATE_HZ), _RATE_HZ)
    says = read_provenance(file)
    return {
        "file": str(file),
        "made_by": "speechcl" if found.present else says.get("generator", ""),
        "watermark": "" if found.message is None else f"{found.message:04x}",
        "score": round(found.score, 2),
        "false_alarm": found.false_alarm,
        **{key: says.get(key, "") for key in ("voice", "date", "model")},
    }
