"""A text in the voice of a recording: what is read, what is said, what is refused."""

import pytest
import torch

from speechcl.backbones.usat import USAT
from speechcl.data.audio import write_audio
from speechcl.data.embedded import dry_speech
from speechcl.inference import VoiceCloner
from speechcl.inference.references import check_reference
from speechcl.inference.voice_cloner import PAUSE_S
from speechcl.safety.protected import ProtectedVoices
from speechcl.safety.watermark import add_watermark

RATE_HZ = 16000


@pytest.fixture(scope="module")
def cloner():
    torch.manual_seed(0)
    return VoiceCloner(USAT("usat_tiny"))


def babble(seconds, seed=0, rate_hz=RATE_HZ):
    """Tones with gaps, over a noise 50 dB below."""
    generator = torch.Generator().manual_seed(seed)
    time_s = torch.arange(round(seconds * rate_hz)) / rate_hz
    tone = 0.5 * torch.sin(2 * torch.pi * (150 + 20 * seed) * time_s)
    noise = 0.001 * torch.randn(len(time_s), generator=generator)
    return tone * ((4 * time_s).long() % 4 != 3) + noise


def clip(folder, name, seconds, seed=0, rate_hz=RATE_HZ):
    folder.mkdir(exist_ok=True)
    write_audio(folder / name, babble(seconds, seed, rate_hz), rate_hz)
    return folder / name


# ---- what is heard
def test_several_references_are_averaged_and_long_ones_are_heard_in_windows(cloner, tmp_path):
    heard = cloner.hear([clip(tmp_path, "a.wav", 2, 1), clip(tmp_path, "b.wav", 3, 2)])
    each = [cloner.vector([one]) for one in heard]
    torch.testing.assert_close(cloner.vector(heard), (each[0] + each[1]) / 2)
    (long,) = cloner.hear(clip(tmp_path, "long.wav", 24, 3))
    with torch.no_grad():
        windows = [cloner.model.speaker(one[None]) for one in long.waveform.tensor_split(3)]
    torch.testing.assert_close(cloner.vector([long]), torch.stack(windows).mean(0))


def test_any_rate_is_heard(cloner, tmp_path):
    (heard,) = cloner.hear(clip(tmp_path, "a.flac", 2, rate_hz=44100))
    assert 1.7 * RATE_HZ < len(heard.waveform) <= 2 * RATE_HZ
    assert heard.remarks == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: 0 * x, "is silent"),
        (lambda x: 1e-4 * x, "is silent"),
        (lambda x: x[:6000], r"holds 0\.\d\d s of speech: give at least 0.5 s"),
        (lambda x: torch.cat([x[:4800], 0.005 * torch.randn(48000)]), r"holds 0\.3\d s of speech"),
        (lambda x: x.repeat(400), "lasts over 10 minutes"),
        (lambda x: x[:0], "is silent"),
    ],
)
def test_recordings_that_tell_no_voice(change, message):
    with pytest.raises(ValueError, match=message):
        check_reference(change(babble(2)), RATE_HZ)


@pytest.mark.parametrize(
    ("change", "remark"),
    [
        (lambda x: x + 0.1 * torch.randn(len(x), generator=torch.manual_seed(0)), "is noisy"),
        (lambda x: (4 * x).clamp(-1, 1), "is clipped"),
    ],
)
def test_what_is_wrong_with_a_recording_is_said(change, remark):
    (found,) = check_reference(change(babble(2)), RATE_HZ).remarks
    assert found.startswith(remark)


@pytest.mark.parametrize(("below_db", "noisy"), [(10, True), (20, False)])
def test_noise_is_said_from_where_it_is_heard(below_db, noisy):
    speech = dry_speech("The farmer brought seven letters.", "en-us+f1", 0, 1, RATE_HZ)
    noise = torch.randn(len(speech), generator=torch.manual_seed(0))
    noise *= speech.square().mean().sqrt() * 10 ** (-below_db / 20)
    remarks = check_reference(speech + noise, RATE_HZ).remarks
    assert any(one.startswith("is noisy") for one in remarks) == noisy


# ---- what is said
def test_a_stream_is_what_say_returns_sentence_by_sentence(cloner, tmp_path):
    reference = clip(tmp_path, "a.wav", 2)
    text = "Hello there. How are you? Fine."
    pieces = list(cloner.stream(text, reference=reference, watermark=False))
    assert len(pieces) == 3
    pause = round(PAUSE_S * RATE_HZ)
    assert all(not piece[-pause:].any() for piece in pieces[:2])
    assert pieces[2][-pause:].any()
    whole = cloner.say(text, reference=reference, watermark=False)
    assert torch.equal(torch.cat(pieces), whole)
    alone = cloner.say("Hello there.", reference=reference, watermark=False)
    assert torch.equal(pieces[0][:-pause], alone)


def test_seed_speed_and_accent_matter(cloner, tmp_path):
    reference = clip(tmp_path, "a.wav", 2)
    said = cloner.say("Rather late.", reference=reference)
    assert torch.equal(said, cloner.say("Rather late.", reference=reference, seed=0))
    others = ({"seed": 1}, {"length_scale": 2.0}, {"accent": "Scottish"})
    for options in others:
        other = cloner.say("Rather late.", reference=reference, **options)
        assert other.shape != said.shape or not torch.equal(other, said)
    assert len(cloner.say("Rather late.", reference=reference, length_scale=3.0)) > len(said)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("?!", {}, "has nothing to say"),
        ("", {}, "has nothing to say"),
        ("Hi.", {"accent": "Martian"}, "accent is 'Martian': use one of American, British"),
        ("Hi.", {"length_scale": 0.0}, "length_scale is 0.0: set it between"),
        ("Hi.", {"voice": "x.safetensors"}, "either a reference or a voice"),
        ("Hi.", {"reference": None}, "either a reference or a voice"),
        ("Hi.", {"reference": []}, "at least one"),
        ("Hi.", {"reference": "none.wav"}, "none.wav"),
        ("Hi.", {"reference": None, "voice": "none.safetensors"}, "none.safetensors: no such"),
    ],
)
def test_what_cannot_be_said(cloner, tmp_path, text, options, message):
    given = {"reference": clip(tmp_path, "a.wav", 2), **options}
    with pytest.raises(ValueError, match=message):
        cloner.say(text, **given)


def test_nothing_that_is_said_changes_the_base(cloner, tmp_path):
    before = cloner.fingerprint
    cloner.say("Hello.", reference=clip(tmp_path, "a.wav", 2))
    assert cloner.fingerprint == before


# ---- who made it, and who may not be spoken as
def test_speech_is_marked_with_the_base_unless_that_is_logged(cloner, tmp_path, caplog):
    reference = clip(tmp_path, "a.wav", 2)
    text = "It is rather late now, and nobody of us has had anything to eat. So what do we do?"
    marked = cloner.say(text, reference=reference, length_scale=2.0)
    plain = cloner.say(text, reference=reference, length_scale=2.0, watermark=False)
    assert "without a watermark" in caplog.text
    assert len(marked) == len(plain)
    assert not torch.equal(marked, plain)
    torch.testing.assert_close(marked, add_watermark(plain, RATE_HZ, cloner.mark))
    assert cloner.mark == int(cloner.fingerprint[:4], 16)
    (first, _) = cloner.stream(text, reference=reference)
    (bare, _) = cloner.stream(text, reference=reference, watermark=False)
    torch.testing.assert_close(first, add_watermark(bare, RATE_HZ, cloner.mark))


class Pitch:
    """Tells voices apart by their spectra."""

    def __call__(self, waveform, rate_hz):
        spectrum = torch.fft.rfft(waveform, 512).abs()
        if not spectrum.any():
            raise ValueError("no speech is heard")
        return spectrum / spectrum.norm()


def test_a_protected_voice_is_refused_wherever_it_comes_in(tmp_path, monkeypatch):
    monkeypatch.setattr("speechcl.inference.voice_cloner.SpeakerVerifier", Pitch)
    model = USAT("usat_tiny")
    ann, bob = clip(tmp_path, "ann.wav", 2, 1), clip(tmp_path, "bob.wav", 2, 40)
    free = VoiceCloner(model)
    listed = ProtectedVoices(threshold=0.95)
    either = [Pitch()(free.hear(one)[0].waveform, RATE_HZ) for one in (ann, bob)]
    listed.add("Ann", either[0] + 0.2 * either[1])  # alike, not the same
    cloner = VoiceCloner(model, listed)
    assert cloner.say("Hi.", reference=bob).ndim == 1
    with pytest.raises(ValueError, match=r"ann.wav: sounds like Ann, a protected voice"):
        cloner.say("Hi.", reference=[bob, ann])
    own = tmp_path / "own"
    for k, seed in enumerate((40, 1)):
        clip(own, f"{k}.wav", 2, seed)
        (own / f"{k}.txt").write_text("Oh, I see.")
    with pytest.raises(ValueError, match="own-1: sounds like Ann"):
        cloner.enroll(own, "x", consent="none", folder=tmp_path / "voices")
    assert not (tmp_path / "voices").exists()
    spoken = free.say("Hi there.", reference=bob, watermark=False)
    listed.add("Bob", Pitch()(spoken, RATE_HZ))
    with pytest.raises(ValueError, match="what is spoken: sounds like Bob"):
        cloner.say("Hi there.", reference=bob)


def test_a_list_that_cannot_be_compared_with_protects_loudly(tmp_path, monkeypatch):
    """Vectors of another length refuse everybody, rather than nobody."""
    monkeypatch.setattr("speechcl.inference.voice_cloner.SpeakerVerifier", Pitch)
    ann, listed = clip(tmp_path, "ann.wav", 2, 1), ProtectedVoices()
    cloner = VoiceCloner(USAT("usat_tiny"), listed)
    cloner.hear(ann)
    listed.add("Ann", torch.ones(3))
    with pytest.raises(ValueError, match=r"of shape \(257,\) is given where \(3,\) is needed"):
        cloner.hear(ann)


def test_what_is_spoken_keeps_to_full_scale(cloner, tmp_path, monkeypatch):
    reference = clip(tmp_path, "a.wav", 2)
    loud = (torch.full((1, 400), -3.0), torch.tensor([400]))
    monkeypatch.setattr(cloner.model, "say", lambda *_, **options: loud)
    assert cloner.say("Hi.", reference=reference, watermark=False).equal(-torch.ones(400))


def test_a_voice_that_speaks_no_numbers_is_said(cloner, tmp_path, monkeypatch):
    reference = clip(tmp_path, "a.wav", 2)
    broken = (torch.full((1, 400), torch.nan), torch.tensor([400]))
    monkeypatch.setattr(cloner.model, "say", lambda *_, **options: broken)
    with pytest.raises(ValueError, match="the voice speaks no finite numbers"):
        cloner.say("Hi.", reference=reference)
