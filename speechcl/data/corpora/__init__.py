"""Public anti-spoofing corpora, read from the layouts in which their owners give them out."""

from speechcl.data.corpora.catalogue import READERS, read_corpora
from speechcl.data.corpora.common import CorpusNotFound
from speechcl.data.corpora.selection import (
    cap_per_class,
    deal_speakers,
    describe,
    keep_share,
    open_clips,
    prepare_clips,
)

__all__ = [
    "READERS",
    "CorpusNotFound",
    "cap_per_class",
    "deal_speakers",
    "describe",
    "keep_share",
    "open_clips",
    "prepare_clips",
    "read_corpora",
]
