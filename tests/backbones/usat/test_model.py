"""The voice model put together: what may matter to what, and what must not."""

import dataclasses

import pytest
import torch

from speechcl.backbones.usat import USAT, VoiceConfig, preset
from speechcl.backbones.usat.model import MAX_FRAMES_A_PHONEME, _starts, mask_of
from speechcl.data.phonemes import numbers, phonemes

HOP = 256


@pytest.fixture(scope="module")
def model():
    """A tiny model in which the speaker already matters, as after training."""
    torch.manual_seed(0)
    net = USAT("usat_tiny").eval()
    with torch.no_grad():
        for name, parameter in net.flow.named_parameters():
            if "leave" in name or "post" in name:
                parameter.normal_(std=0.1)
        for coupling in net.flow.couplings:
            for parameter in coupling.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    return net


def clips(*seconds, rate_hz=16000):
    """Noise of several lengths, with garbage behind the ends; and the lengths."""
    samples = torch.tensor([round(one * rate_hz) for one in seconds])
    return 0.1 * torch.randn(len(samples), int(samples.max())), samples


def texts(*said):
    found = [torch.tensor(numbers(phonemes(one))) for one in said]
    ids = torch.nn.utils.rnn.pad_sequence(found, batch_first=True)
    return ids, torch.tensor([len(one) for one in found])


QUIET = {"noise_scale": 0.0, "duration_noise_scale": 0.0}


@torch.no_grad()
def test_it_speaks_in_whole_frames_and_is_silent_after_the_end(model):
    ids, lengths = texts("Hello there.", "Good morning to all of you.")
    waveform, samples = model.say(ids, torch.randn(2, 32), lengths)
    assert waveform.shape == (2, int(samples.max()))
    assert bool((samples % HOP == 0).all())
    assert samples[0] >= lengths[0] * HOP, "each symbol lasts a frame at least"
    short = int(samples.argmin())
    assert not waveform[short, samples[short] :].any()
    assert torch.isfinite(waveform).all()


@torch.no_grad()
def test_company_changes_nothing(model):
    ids, lengths = texts("Hello there.", "Good morning to all of you.")
    speakers = torch.randn(2, 32)
    together, samples = model.say(ids, speakers, lengths, **QUIET)
    for i in range(2):
        alone, length = model.say(ids[i : i + 1, : lengths[i]], speakers[i : i + 1], **QUIET)
        assert length == samples[i]
        torch.testing.assert_close(together[i : i + 1, : int(length)], alone, rtol=0, atol=1e-4)


@torch.no_grad()
def test_a_speaker_does_not_depend_on_padding(model):
    waveform, samples = clips(1.5, 2.0)
    together = model.speaker(waveform, samples)
    alone = model.speaker(waveform[:1, : samples[0]])
    torch.testing.assert_close(together[:1], alone, rtol=1e-4, atol=1e-5)
    assert torch.equal(model.speaker(waveform, samples), together), "no noise in it"


@torch.no_grad()
def test_the_speaker_matters_to_sound_and_to_rhythm(model):
    ids, _ = texts("Good morning.")
    a, b = torch.randn(2, 1, 32)
    one, _ = model.say(ids, a, **QUIET)
    other, _ = model.say(ids, b, **QUIET)
    assert one.shape != other.shape or (one - other).abs().max() > 1e-4


@torch.no_grad()
def test_before_training_sound_does_not_depend_on_the_speaker():
    torch.manual_seed(1)
    fresh = USAT("usat_tiny").eval()
    z, mask = torch.randn(1, 32, 20), torch.ones(1, 1, 20)
    a, b = torch.randn(2, 1, 32)
    assert torch.equal(fresh.flow.add_timbre(z, mask, a), fresh.flow.add_timbre(z, mask, b))


@torch.no_grad()
def test_noise_and_pace(model):
    ids, _ = texts("Good morning.")
    speaker = torch.randn(1, 32)
    same = [model.say(ids, speaker, generator=torch.Generator().manual_seed(4)) for _ in range(2)]
    assert torch.equal(same[0][0], same[1][0])
    other, _ = model.say(ids, speaker, generator=torch.Generator().manual_seed(5))
    assert other.shape != same[0][0].shape or not torch.equal(other, same[0][0])
    (_, fast), (_, slow) = (model.say(ids, speaker, length_scale=x, **QUIET) for x in (1.0, 2.0))
    assert slow > 1.3 * fast


def test_rhythm_and_sound_have_noise_of_their_own(model):
    ids, _ = texts("Good morning, everybody.")
    speaker = torch.randn(1, 32)

    def said(seed, **scales):
        generator = torch.Generator().manual_seed(seed)
        return model.say(ids, speaker, generator=generator, **{**QUIET, **scales})

    assert torch.equal(said(1)[0], said(2)[0])
    assert said(1, duration_noise_scale=0.8)[1] != said(2, duration_noise_scale=0.8)[1]
    one, other = (said(seed, noise_scale=0.8) for seed in (1, 2))
    assert one[1] == other[1]
    assert not torch.equal(one[0], other[0])


def test_noise_is_as_loud_as_the_text_allows(monkeypatch):
    torch.manual_seed(0)
    net, heard = USAT("usat_tiny").eval(), []
    with torch.no_grad():
        net.phonemes.leave.weight[32:] = 0
        net.phonemes.leave.bias[32:] = torch.linspace(-2, 1, 32)
    inner = net.flow.add_timbre
    monkeypatch.setattr(net.flow, "add_timbre", lambda *a: heard.append(a[0]) or inner(*a))
    ids, _ = texts("Good morning, everybody. Where do we go from here?")
    for noise_scale in (0.0, 0.5):
        scales = {"noise_scale": noise_scale, "duration_noise_scale": 0.0}
        net.say(ids, torch.randn(1, 32), length_scale=5.0, **scales)
    noise = (heard[1] - heard[0])[0] / torch.linspace(-2, 1, 32).exp()[:, None]
    assert noise.std(dim=1).sub(0.5).abs().max() < 0.06


def test_a_slice_may_be_the_last_one():
    starts = _starts(torch.tensor([10, 8, 5]).repeat(300), 8).view(300, 3)
    assert [sorted(set(one.tolist())) for one in starts.T] == [[0, 1, 2], [0], [0]]


def test_every_symbol_lasts_a_frame():
    torch.manual_seed(0)
    config = dataclasses.replace(preset("usat_tiny"), durations="deterministic")
    net = USAT(config).eval()
    ids, _ = texts("Good morning.")
    with torch.no_grad():
        _, samples = net.say(ids, torch.randn(1, 32), length_scale=1e-4)
    assert samples.tolist() == [ids.shape[1] * HOP]


def batch(model):
    ids, id_lengths = texts("Good morning.", "Yes.")
    waveform, samples = clips(2.0, 1.4)
    reference, reference_samples = clips(1.8, 2.5)
    return ids, id_lengths, waveform, samples, reference, reference_samples


def test_a_training_step_has_all_that_losses_need():
    torch.manual_seed(0)
    net = USAT("usat_tiny")
    out = net(*batch(net), slice_frames=16)
    frames = out.latents.frames
    assert frames.tolist() == [125, 87]
    durations = out.aligned.durations[:, 0]
    assert torch.equal(durations.sum(dim=1), frames)
    assert out.aligned.mean.shape == out.latents.z.shape == out.aligned.timbre_free.shape
    assert out.decoded.shape == (2, 16 * HOP)
    assert out.speakers.target.shape == out.speakers.first.shape == (2, 32)
    assert out.speakers.valid.tolist() == [True, True]
    assert bool((out.starts + 16 <= frames).all())
    assert out.aligned.duration_loss.ndim == 0


def test_every_weight_is_trained_by_the_losses_together():
    torch.manual_seed(0)
    net = USAT("usat_tiny")
    with torch.no_grad():  # the flow's last layers begin at zero and hide what is before
        for parameter in net.flow.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    out = net(*batch(net), slice_frames=16)
    error = (out.aligned.timbre_free - out.aligned.mean).square() / out.aligned.log_scale.exp()
    loss = error.mean() + out.decoded.square().mean() + out.aligned.duration_loss
    loss = loss + out.speakers.target.square().mean() + out.speakers.second.square().mean()
    loss.backward()
    without = [name for name, p in net.named_parameters() if p.grad is None]
    assert not without


@pytest.fixture(scope="module")
def step(model):
    """A training step, without the dropping out and the statistics of batches."""
    torch.manual_seed(0)
    model.zero_grad()
    return model(*batch(model), slice_frames=16)


PARTS = ("phonemes", "posterior", "flow", "memory", "speaker_encoder", "durations", "decoder")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (lambda s: s.decoded, {"posterior", "memory", "decoder"}),
        (lambda s: s.aligned.timbre_free, {"posterior", "flow", "speaker_encoder"}),
        (lambda s: s.aligned.mean, {"phonemes"}),
        (lambda s: s.aligned.log_scale, {"phonemes"}),
        (lambda s: s.latents.log_scale, {"posterior"}),
        (lambda s: s.aligned.duration_loss, {"durations"}),
        (lambda s: s.speakers.first, {"posterior", "speaker_encoder"}),
        (lambda s: s.speakers.second, {"posterior", "speaker_encoder"}),
    ],
)
def test_who_learns_from_what(model, step, value, expected):
    """Sound goes past speaker, flow and text; durations teach nobody but themselves."""
    weights = [(name.split(".")[0], p) for name, p in model.named_parameters()]
    loss = value(step).square().sum()
    gradients = torch.autograd.grad(
        loss, [p for _, p in weights], retain_graph=True, allow_unused=True
    )
    found = {part for (part, _), g in zip(weights, gradients, strict=True) if g is not None}
    assert found == expected <= set(PARTS)


@torch.no_grad()
def test_the_flow_is_told_the_speaker_by_the_reference(model, step):
    again = model.flow.remove_timbre(step.latents.z, step.latents.mask, step.speakers.first)
    assert torch.equal(step.aligned.timbre_free, again)
    ids, id_lengths, waveform, samples, reference, reference_samples = batch(model)
    outs = []
    for sound in (reference, 0.3 * reference.flip(1)):
        torch.manual_seed(0)
        outs.append(model(ids, id_lengths, waveform, samples, sound, reference_samples))
    one, other = (out.speakers for out in outs)
    assert torch.equal(one.target, other.target)
    for window in ("first", "second"):
        assert (getattr(one, window) - getattr(other, window)).abs().amax(1).min() > 1e-4
    assert (one.first - one.second).abs().amax(1).min() > 1e-4


@torch.no_grad()
def test_training_and_speaking_hear_speakers_alike(model):
    """Noise in training alone would give batch normalisation statistics of something else."""
    _, _, waveform, samples, *_ = batch(model)
    latents = model.encode(waveform, samples)
    heard = model._speakers(latents, latents)
    assert torch.equal(heard.first, model._speakers(*[model.encode(waveform, samples)] * 2).first)
    torch.testing.assert_close(heard.target, model.speaker(waveform, samples), rtol=1e-4, atol=1e-5)


def test_speakers_are_encoded_in_one_pass():
    net, sizes = USAT("usat_tiny"), []
    net.speaker_encoder.register_forward_hook(lambda _, given, __: sizes.append(len(given[0])))
    net(*batch(net), slice_frames=8)
    assert sizes == [6], "targets and both windows are normalised together"


@torch.no_grad()
def test_speakers_of_a_step_do_not_depend_on_company(model):
    given = batch(model)
    target, reference = model.encode(*given[2:4]), model.encode(*given[4:6])
    together = model._speakers(target, reference)
    for i in range(2):
        alone = model._speakers(*(cut(one, i) for one in (target, reference)))
        for one, other in zip(together, alone, strict=True):
            torch.testing.assert_close(one[i : i + 1], other, rtol=1e-3, atol=1e-4)


def cut(latents, i):
    frames = latents.frames[i : i + 1]
    parts = [one[i : i + 1, :, : int(frames)] for one in latents[:4]]
    return type(latents)(*parts, frames)


@torch.no_grad()
def test_the_decoded_slice_is_of_the_latents_at_its_start(model, step):
    for i, start in enumerate(step.starts.tolist()):
        z = step.latents.z[i : i + 1, :, start : start + 16]
        sound = model.decoder(model.memory(z, torch.ones(1, 1, 16)))
        torch.testing.assert_close(step.decoded[i : i + 1], sound, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_what_is_told_again_has_the_timbre_of_the_reference(model):
    ids, id_lengths, waveform, samples, reference, reference_samples = batch(model)
    given = ids, id_lengths, waveform, samples
    spoken = model.retell(*given, reference, reference_samples)
    assert spoken.shape == (2, int(samples.max()) // HOP * HOP)
    assert torch.equal(spoken, model.retell(*given, reference, reference_samples)), "no noise"
    other = model.retell(*given, 0.3 * reference.flip(1), reference_samples)
    assert (spoken - other).abs().amax(1).min() > 1e-5


@torch.no_grad()
def test_a_slip_of_the_durations_is_no_endless_sound(model, monkeypatch):
    def slipped(h, mask, *_):
        return torch.full_like(mask, 30.0) * mask  # a logarithm

    monkeypatch.setattr(model.durations, "sample", slipped)
    _, samples = model.say(ONE, SPEAKER)
    assert int(samples) == 3 * MAX_FRAMES_A_PHONEME * HOP


@torch.no_grad()
def test_durations_are_weighed_by_phonemes_not_by_items(model, monkeypatch):
    ids, id_lengths, *sound = batch(model)
    monkeypatch.setattr(model.durations, "loss", lambda *_: torch.tensor([5.0, 2.0]))
    out = model(ids, id_lengths, *sound, slice_frames=8)
    assert out.aligned.duration_loss == pytest.approx(7.0 / int(id_lengths.sum()))


def test_the_decoded_slice_is_of_the_same_time_as_the_real_one():
    net = USAT("usat_tiny")
    waveform = torch.arange(10 * HOP).float()[None]
    starts = torch.tensor([3])
    assert net.slice_of(waveform, starts, 2)[0, 0] == 3 * HOP
    assert torch.equal(net.slice_of(waveform, starts, 2)[0], waveform[0, 3 * HOP : 5 * HOP])
    beyond = net.slice_of(waveform, torch.tensor([9]), 2)[0]
    assert torch.equal(beyond[:HOP], waveform[0, 9 * HOP :])
    assert not beyond[HOP:].any()


@torch.no_grad()
def test_the_decoder_hears_nothing_but_the_memory(model):
    kept = model.memory.memory.clone()
    z, mask = torch.randn(2, 32, 8), torch.ones(2, 1, 8)
    try:
        model.memory.memory.zero_()
        silent = model.decoder(model.memory(z, mask))
        assert torch.equal(silent[0], silent[1])
    finally:
        model.memory.memory.copy_(kept)
    loud = model.decoder(model.memory(z, mask))
    assert not torch.equal(loud[0], loud[1])


def test_too_short_a_clip_is_one_clear_line(model):
    with pytest.raises(ValueError, match="a clip of 200 samples is shorter than a frame of 256"):
        model.speaker(torch.zeros(2, 4000), torch.tensor([200, 4000]))


ONE, SPEAKER = torch.tensor([[0, 10, 0]]), torch.zeros(1, 32)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((ONE[0], SPEAKER), r"ids have shape \(3,\): give \(batch, symbols\)"),
        ((ONE[:, :0], SPEAKER), r"ids have shape \(1, 0\)"),
        ((ONE.expand(1, 3).repeat(1, 4000), SPEAKER), "at most 10000 symbols at once"),
        ((ONE + 125, SPEAKER), "not all numbers of the 131 symbols"),
        ((ONE - 1, SPEAKER), "not all numbers of the 131 symbols"),
        ((ONE.float(), SPEAKER), "not all numbers of the 131 symbols"),
        ((ONE, SPEAKER[0]), r"speaker has shape \(32,\) where \(1, 32\) is wanted"),
        ((ONE, SPEAKER[:, 1:]), r"speaker has shape \(1, 31\)"),
        ((ONE, SPEAKER.expand(2, -1)), r"speaker has shape \(2, 32\) where \(1, 32\)"),
        ((ONE, SPEAKER * torch.nan), "or is not finite"),
        ((ONE, SPEAKER, torch.tensor([4])), "lengths are not 1 numbers from 1 to 3"),
        ((ONE, SPEAKER, torch.tensor([0])), "lengths are not 1 numbers from 1 to 3"),
        ((ONE, SPEAKER, torch.tensor([3, 3])), "lengths are not 1 numbers from 1 to 3"),
    ],
)
def test_what_cannot_be_said_is_one_clear_line(model, given, message):
    with pytest.raises(ValueError, match=message):
        model.say(*given)


def test_a_model_in_training_does_not_hear_a_single_clip():
    with pytest.raises(ValueError, match=r"in training mode: call eval\(\)"):
        USAT("usat_tiny").speaker(torch.zeros(1, 8000))


def test_presets_and_their_sizes():
    sizes = {"usat_tiny": 0.5, "usat_small": 9.0, "usat_base": 50.0}
    for name, most in sizes.items():
        with torch.device("meta"):
            net = USAT(name)
        assert 0.3 * most < sum(p.numel() for p in net.parameters()) / 1e6 < most
    with pytest.raises(ValueError, match="did you mean usat_small"):
        preset("usat_smal")
    with pytest.raises(ValueError, match="decoder is 'wave': use hifigan or istft"):
        VoiceConfig(decoder="wave")
    with pytest.raises(ValueError, match="hop is 200: hifigan decodes 256 samples a frame"):
        VoiceConfig(hop=200)
    for sizes in ({"latent": 0}, {"rate_hz": -1}, {"text_layers": 101}, {"memory_slots": 10**12}):
        with pytest.raises(ValueError, match="set it between 1 and 1"):
            VoiceConfig(**sizes)


@pytest.mark.parametrize("durations", ["stochastic", "deterministic"])
@pytest.mark.parametrize("decoder", ["hifigan", "istft"])
def test_every_kind_of_decoder_and_durations(decoder, durations):
    import dataclasses

    torch.manual_seed(0)
    config = dataclasses.replace(
        preset("usat_tiny"), decoder=decoder, durations=durations, decoder_channels=32
    )
    net = USAT(config)
    out = net(*batch(net), slice_frames=8)
    (out.decoded.square().mean() + out.aligned.duration_loss).backward()
    waveform, samples = net.eval().say(texts("Yes.")[0], torch.randn(1, 32))
    assert waveform.shape[1] == int(samples)


def test_masks():
    assert mask_of(torch.tensor([0, 2]), 2)[:, 0].tolist() == [[0, 0], [1, 1]]


def test_a_voice_of_huge_numbers_is_refused(model):
    ids = torch.tensor([[0, 10, 0, 14, 0]])
    with pytest.raises(ValueError, match="no finite durations"):
        model.say(ids, torch.full((1, 32), 1e36), **QUIET)
