"""Answering for machine-made speech: a watermark, provenance, and voices that stay protected."""

from speechcl.safety.protected import ProtectedVoices
from speechcl.safety.provenance import describe, read_provenance, write_provenance, write_speech
from speechcl.safety.verifier import SAME_SPEAKER_SIMILARITY, VERIFIER, SpeakerVerifier
from speechcl.safety.watermark import Watermark, add_watermark, read_watermark

__all__ = [
    "SAME_SPEAKER_SIMILARITY",
    "VERIFIER",
    "ProtectedVoices",
    "SpeakerVerifier",
    "Watermark",
    "add_watermark",
    "describe",
    "read_provenance",
    "read_watermark",
    "write_provenance",
    "write_speech",
]
