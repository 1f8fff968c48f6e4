import numpy as np
import pytest
import torch

from speechcl.attacks import CODECS, codec


@pytest.mark.parametrize("kind", CODECS)
def test_codec_keeps_length_alignment_and_content(kind, speech):
    coded = codec(speech, 16000, kind, seed=1)
    assert len(coded) == len(speech)
    assert not coded.equal(speech)
    here = np.corrcoef(coded, speech)[0, 1]
    assert here > 0.85
    # a sample of delay, either way, would match worse
    assert here > np.corrcoef(coded[1:], speech[:-1])[0, 1]
    assert here > np.corrcoef(coded[:-1], speech[1:])[0, 1]


@pytest.mark.parametrize("kind", CODECS)
def test_codec_is_deterministic_and_leaves_the_input(kind, speech):
    before = speech.clone()
    assert codec(speech, 16000, kind, seed=2).equal(codec(speech, 16000, kind, seed=2))
    assert speech.equal(before)


@pytest.mark.parametrize("kind", ["opus", "vorbis", "mp3"])
def test_seed_draws_the_compression(kind, speech):
    assert not codec(speech, 16000, kind, seed=0).equal(codec(speech, 16000, kind, seed=1))


@pytest.mark.parametrize("kind", CODECS)
@pytest.mark.parametrize("rate_hz", [8000, 22050, 44100])
def test_codec_at_other_rates(kind, rate_hz, speech):
    coded = codec(speech, rate_hz, kind)
    assert len(coded) == len(speech)
    assert torch.isfinite(coded).all()


def test_long_clip_survives_ogg(speech):
    long = speech.repeat(30)
    assert len(codec(long, 16000, "vorbis")) == len(long)


def test_bad_input():
    with pytest.raises(ValueError, match="opus, vorbis, mp3"):
        codec(torch.ones(100), 16000, "amr")
    for bad in (torch.zeros(0), torch.ones(2, 100), torch.full((100,), float("nan"))):
        with pytest.raises(ValueError, match="one channel or drop"):
            codec(bad, 16000)
