"""What is installed, what is missing, and how to mend it."""

import importlib.metadata
import os
import platform
from typing import Any

from packaging.requirements import Requirement

PACKAGE = "speechcl"


def examine() -> dict[str, Any]:
    """Look at this installation.

    Returns
    -------
    dict
        ``versions`` (name to version, None if missing), ``devices``, ``extras`` (name to
        ``missing`` packages and ``remedy``) and ``problems``, one line each with its remedy.

    Example
    -------
    >>> found = examine()
    >>> found["versions"]["speechcl"] == importlib.metadata.version("speechcl")
    True
    >>> found["extras"]["tts"]["remedy"]
    "pip install 'speechcl[tts]'"
    """
    core = [need for need in _requirements() if _applies(need)]
    versions = {"python": platform.python_version(), PACKAGE: version_of(PACKAGE)}
    versions |= {need.name: version_of(need.name) for need in core}
    problems = [
        f"{need.name} {versions[need.name] or 'is missing'}: run pip install '{need}'"
        for need in core
        if not _is_met(need)
    ]
    problems += _pairing_problems(versions.get("torch"), versions.get("torchaudio"))
    return {
        "versions": versions,
        "devices": {"cpu_cores": available_cores(), "cuda": _cuda_devices()},
        "extras": _extras(),
        "problems": problems,
    }


def version_of(package: str) -> str | None:
    """Return the version of an installed package.

    Arguments
    ---------
    package : str
        Its name in the package registry.

    Returns
    -------
    str or None
        None if it is not installed.

    Example
    -------
    >>> version_of("no-such-package") is None
    True
    """
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def available_cores() -> int:
    """Return how many cores this process may use.

    Returns
    -------
    int
        Fewer than the machine has if the process is confined, as in a container.

    Example
    -------
    >>> 1 <= available_cores() <= os.cpu_count()
    True
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe(found: dict[str, Any]) -> str:
    """Lay out what :func:`examine` found for a terminal.

    Arguments
    ---------
    found : dict
        Its result.

    Returns
    -------
    str
        Several lines.

    Example
    -------
    >>> print(describe({"versions": {"torch": "2.11.0"}, "devices": {"cpu_cores": 2, "cuda": []},
    ...                 "extras": {"tts": {"missing": ["phonemizer"], "remedy": "pip ..."}},
    ...                 "problems": []}))
    torch           2.11.0
    CPU cores       2
    CUDA            none
    extra tts       missing phonemizer: pip ...
    No problem found.
    """
    lines = [(name, version or "missing") for name, version in found["versions"].items()]
    lines.append(("CPU cores", str(found["devices"]["cpu_cores"])))
    lines.append(("CUDA", ", ".join(found["devices"]["cuda"]) or "none"))
    for name, extra in found["extras"].items():
        missing = ", ".join(extra["missing"])
        state = f"missing {missing}: {extra['remedy']}" if missing else "present"
        lines.append((f"extra {name}", state))
    text = [f"{name:<16}{value}" for name, value in lines]
    text += [f"PROBLEM: {problem}" for problem in found["problems"]] or ["No problem found."]
    return "\n".join(text)


def _requirements() -> list[Requirement]:
    return [Requirement(text) for text in importlib.metadata.requires(PACKAGE) or []]


def _applies(need: Requirement, extra: str = "") -> bool:
    return need.marker is None or need.marker.evaluate({"extra": extra})


def _is_met(need: Requirement) -> bool:
    version = version_of(need.name)
    return version is not None and need.specifier.contains(version, prereleases=True)


def _extras() -> dict[str, dict[str, Any]]:
    names = importlib.metadata.metadata(PACKAGE).get_all("Provides-Extra") or []
    return {
        name: {
            "missing": [
                need.name
                for need in _requirements()
                if not _applies(need) and _applies(need, name) and not _is_met(need)
            ],
            "remedy": f"pip install '{PACKAGE}[{name}]'",
        }
        for name in names
    }


def _pairing_problems(torch_version: str | None, torchaudio_version: str | None) -> list[str]:
    """Whether torchaudio was built for this torch: the first two numbers must agree."""
    if torch_version is None or torchaudio_version is None:
        return []  # reported as missing already
    series = ".".join(torch_version.split(".")[:2])
    remedy = f"run pip install 'torchaudio=={series}.*' from the index that torch came from"
    if torchaudio_version.split(".")[:2] != torch_version.split(".")[:2]:
        return [
            f"torchaudio {torchaudio_version} does not pair with torch {torch_version}: {remedy}"
        ]
    try:
        import torchaudio  # noqa: F401
    except (ImportError, OSError) as error:
        return [f"torchaudio cannot be loaded ({error}): {remedy}"]
    return []


def _cuda_devices() -> list[str]:
    try:
        import torch
    except (ImportError, OSError):
        return []  # reported as missing or not loadable already
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
