"""Manifests, sound files and corpora."""

from speechcl.data.files import atomic_path
from speechcl.data.manifest import (
    COLUMNS,
    ManifestError,
    check_manifest,
    read_manifest,
    write_manifest,
)
from speechcl.data.scan import scan_folder
from speechcl.data.sound_files import AudioError, audio_duration_s, find_audio
from speechcl.data.splits import cap_per_speaker, split_by_speaker

__all__ = [
    "COLUMNS",
    "AudioError",
    "ManifestError",
    "atomic_path",
    "audio_duration_s",
    "cap_per_speaker",
    "check_manifest",
    "find_audio",
    "read_manifest",
    "scan_folder",
    "split_by_speaker",
    "write_manifest",
]
