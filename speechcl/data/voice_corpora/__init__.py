"""Corpora of speech with transcripts to train voices on: read, chosen, prepared."""

from speechcl.data.voice_corpora.esltts import read_esltts
from speechcl.data.voice_corpora.l2arctic import read_l2arctic
from speechcl.data.voice_corpora.libritts import read_libritts
from speechcl.data.voice_corpora.own_speech import read_own_speech
from speechcl.data.voice_corpora.prepare import prepare_voices
from speechcl.data.voice_corpora.selection import (
    choose_speakers,
    deal_clips,
    describe_voices,
    hold_out,
    keep_pairs,
)
from speechcl.data.voice_corpora.vctk import read_vctk

__all__ = [
    "choose_speakers",
    "deal_clips",
    "describe_voices",
    "hold_out",
    "keep_pairs",
    "prepare_voices",
    "read_esltts",
    "read_l2arctic",
    "read_libritts",
    "read_own_speech",
    "read_vctk",
]
