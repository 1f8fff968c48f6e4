"""Shortcuts: trivial cues by which a detector could tell the classes without hearing an attack."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch

from speechcl.data.audio import read_audio
from speechcl.data.pool import run_jobs

_FRAME_S = 0.02
_SILENT_DB = 40.0
_FLOOR_DB = -120.0
_ROLL_OFFS = (0.95, 0.99, 0.999)
_BANDS_HZ = (7000.0, 7700.0)
_FOLDS = 5


def shortcut_features(
    waveform: torch.Tensor, rate_hz: int, path: str | Path | None = None
) -> dict[str, float]:
    """Measure what should not depend on whether a clip is spoofed.

    Arguments
    ---------
    waveform : torch.Tensor
        Waveform (time,) in [-1, 1].
    rate_hz : int
        Its sample rate.
    path : str or Path, optional
        Its file; then rate, channels and coding of the file are measured too.

    Returns
    -------
    dict
        Name, with unit, to value.

    Raises
    ------
    ValueError
        If the waveform is empty, not finite or not of shape (time,).

    Example
    -------
    >>> measured = shortcut_features(torch.tensor([0.5, -0.5]).repeat(8000), 16000)
    >>> measured["duration_s"], measured["zero_share"], round(measured["level_db"], 2)
    (1.0, 0.0, -6.02)
    """
    if waveform.ndim != 1 or not len(waveform) or not torch.isfinite(waveform).all():
        raise ValueError(
            f"waveform of shape {tuple(waveform.shape)} must be (time,), not empty and finite"
        )
    samples = waveform.double().numpy()
    measured = {
        "duration_s": len(samples) / rate_hz,
        "dc_db": float(_db(abs(samples.mean()))),
        "level_db": float(_db(np.sqrt(np.mean(samples**2)))),
        "peak_db": float(_db(abs(samples).max())),
        "zero_share": float(np.mean(samples == 0)),
        **_frame_features(samples, rate_hz),
        **_band_features(samples, rate_hz),
    }
    return measured if path is None else {**measured, **_file_features(path)}


def shortcut_accuracy(
    rows: list[dict], data_root: str | Path | None = None, seed: int = 0
) -> dict[str, float]:
    """Measure how well a linear classifier tells each attack from genuine speech by shortcuts.

    Near 0.5 is what a corpus should have. Speakers are kept apart in the cross-validation.

    Arguments
    ---------
    rows : list of dict
        Manifest rows with ``wav``, ``label``, ``attack`` and ``speaker``.
    data_root : str or Path, optional
        What ``$data_root`` in ``wav`` stands for.
    seed : int
        Seed of the folds.

    Returns
    -------
    dict
        Attack to class-balanced accuracy, 0 to 1.

    Raises
    ------
    ValueError
        If there are fewer than five speakers, or no genuine or no spoofed clips.

    Example
    -------
    >>> from speechcl.data.corpus import build_attack_corpus
    >>> from speechcl.data.embedded import build_embedded
    >>> folder = getfixture("tmp_path")
    >>> genuine = build_embedded(folder / "genuine", voices=6, sentences=1, workers=1)
    >>> rows = build_attack_corpus(genuine, ["mulaw"], folder / "spoofed", workers=1)
    >>> list(shortcut_accuracy(rows))
    ['mulaw']
    """
    speakers = {row["speaker"] for row in rows}
    attacks = list(dict.fromkeys(row["attack"] for row in rows if row["label"] == "spoof"))
    is_genuine = np.array([row["label"] == "bonafide" for row in rows])
    if len(speakers) < _FOLDS or not attacks or not is_genuine.any():
        raise ValueError(
            f"{len(speakers)} speakers, {int(is_genuine.sum())} genuine clips and {len(attacks)} "
            f"attacks: give at least {_FOLDS} speakers and both classes"
        )
    table = _table(run_jobs(partial(_measure, data_root=data_root), rows, 1, "shortcuts"))
    groups = np.array([row["speaker"] for row in rows])
    accuracies = {}
    for attack in attacks:
        chosen = is_genuine | np.array([row["attack"] == attack for row in rows])
        accuracies[attack] = _accuracy(table[chosen], is_genuine[chosen], groups[chosen], seed)
    return accuracies


def _measure(row: Mapping, data_root: str | Path | None) -> dict[str, float]:
    path = Path(str(row["wav"]).replace("$data_root", str(data_root or ".")))
    rate_hz = 16000
    return shortcut_features(read_audio(path, rate_hz), rate_hz, path)


def _table(measured: list[dict[str, float]]) -> np.ndarray:
    names = sorted({name for features in measured for name in features})
    return np.array([[features.get(name, 0.0) for name in names] for features in measured])


def _accuracy(table: np.ndarray, is_genuine: np.ndarray, groups: np.ndarray, seed: int) -> float:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = make_pipeline(
        StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000)
    )
    folds = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=seed)
    guessed = cross_val_predict(classifier, table, is_genuine, groups=groups, cv=folds)
    return float(balanced_accuracy_score(is_genuine, guessed))


def _frame_features(samples: np.ndarray, rate_hz: int) -> dict[str, float]:
    size = max(1, min(int(_FRAME_S * rate_hz), len(samples)))
    frames = samples[: len(samples) // size * size].reshape(-1, size)
    level_db = _db(np.sqrt(np.mean(frames**2, axis=1)))
    silent = level_db < level_db.max() - _SILENT_DB
    heard = np.flatnonzero(~silent)
    return {
        "silent_share": float(silent.mean()),
        "frame_min_db": float(level_db.min()),
        "frame_5th_db": float(np.percentile(level_db, 5)),
        "lead_silence_s": float(heard[0] * size / rate_hz),
        "tail_silence_s": float((len(frames) - 1 - heard[-1]) * size / rate_hz),
    }


def _band_features(samples: np.ndarray, rate_hz: int) -> dict[str, float]:
    power = np.abs(np.fft.rfft(samples)) ** 2
    frequency_hz = np.fft.rfftfreq(len(samples), 1 / rate_hz)
    total = max(float(power.sum()), 1e-20)
    reached = np.searchsorted(np.cumsum(power) / total, _ROLL_OFFS).clip(0, len(power) - 1)
    roll_offs = {
        f"roll_off_{share:g}_hz": float(frequency_hz[bin_])
        for share, bin_ in zip(_ROLL_OFFS, reached, strict=True)
    }
    above = {
        f"above_{edge_hz:.0f}_hz_db": float(_db(power[frequency_hz > edge_hz].sum() / total) / 2)
        for edge_hz in _BANDS_HZ
    }
    return {**roll_offs, **above}


def _file_features(path: str | Path) -> dict[str, float]:
    import soundfile

    about = soundfile.info(str(path))
    return {
        "file_rate_hz": float(about.samplerate),
        "file_channels": float(about.channels),
        f"file_is_{about.format}_{about.subtype}": 1.0,
    }


def _db(ratio):
    return 20 * np.log10(np.maximum(ratio, 10 ** (_FLOOR_DB / 20)))
