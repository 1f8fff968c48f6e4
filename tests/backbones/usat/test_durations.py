"""Duration predictors: densities that are densities, the bound, padding, adapters, learning."""

import math

import pytest
import torch
from torch import nn

from speechcl.backbones.usat.durations import (
    DeterministicDurationPredictor,
    StochasticDurationPredictor,
)
from speechcl.backbones.usat.points import AdapterPoint

BOTH = pytest.mark.parametrize(
    "kind", [StochasticDurationPredictor, DeterministicDurationPredictor]
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def shaken(predictor, std=0.3):
    for parameter in predictor.parameters():
        nn.init.normal_(parameter, std=std)
    return predictor.eval()


def stochastic(hidden=4, **options):
    return shaken(StochasticDurationPredictor(5, hidden, 3, **options))


def inputs(batch=2, phonemes=6):
    h, condition = torch.randn(batch, 5, phonemes), torch.randn(batch, 3)
    mask, durations = torch.ones(batch, 1, phonemes), torch.randint(1, 9, (batch, 1, phonemes))
    mask[-1, :, phonemes - 2 :] = 0
    return h, mask, durations * mask.long(), condition


class Bump(nn.Module):
    """An adapter that does something."""

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, 3, padding=1)

    def forward(self, h, mask):
        return h + self.conv(h * mask)


def adapt(predictor):
    points = [module for module in predictor.modules() if isinstance(module, AdapterPoint)]
    for point in points:
        point.adapter = Bump(point.channels).to(next(predictor.parameters()).dtype)
    return points


def through(flows, x, mask, context, inverse=False):
    total = 0.0
    for flow in reversed(flows) if inverse else flows:
        x, log_det = flow(x, mask, context, inverse=inverse)
        total = total + log_det
    return x, total


@pytest.mark.parametrize(
    ("dtype", "std", "atol"), [(torch.float64, 0.3, 1e-8), (torch.float32, 0.15, 1e-4)]
)
@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("flows", ["flows", "posterior_flows"])
def test_back_is_where_it_came_from(flows, adapted, dtype, std, atol):
    predictor = shaken(StochasticDurationPredictor(5, 4, 3), std).to(dtype)
    if adapted:
        adapt(predictor)
    chain, context = getattr(predictor, flows), torch.randn(2, 4, 6, dtype=dtype)
    mask = inputs()[1].to(dtype)
    x = 3 * torch.randn(2, 2, 6, dtype=dtype) * mask
    y, log_det = through(chain, x, mask, context)
    back, log_det_back = through(chain, y, mask, context, inverse=True)
    assert (y - x).abs().max() > 0.1
    torch.testing.assert_close(back, x, rtol=0, atol=atol)
    torch.testing.assert_close(log_det_back, -log_det, rtol=1e-3, atol=10 * atol)


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("flows", ["flows", "posterior_flows"])
def test_the_determinant_is_that_of_the_jacobian(flows, adapted):
    predictor = stochastic().double()
    if adapted:
        adapt(predictor)
    chain, context = getattr(predictor, flows), torch.randn(1, 4, 3).double()
    mask = torch.tensor([[[1.0, 1.0, 0.0]]]).double()
    x = torch.randn(2, 2).double()

    def real(values):
        padded = nn.functional.pad(values, (0, 1))[None]
        return through(chain, padded, mask, context)[0][0, :, :2].flatten()

    jacobian = torch.autograd.functional.jacobian(real, x).reshape(4, 4)
    _, log_det = through(chain, nn.functional.pad(x, (0, 1))[None], mask, context)
    torch.testing.assert_close(log_det[0], torch.linalg.slogdet(jacobian).logabsdet)


def plane(side=81, reach=10.0):
    """Points of two channels of one phoneme, and the area of each."""
    line = torch.linspace(-reach, reach, side, dtype=torch.float64)
    return torch.cartesian_prod(line, line)[..., None], (2 * reach / (side - 1)) ** 2


def standard_normal(z):
    return torch.exp(-0.5 * z.square().sum((1, 2))) / (2 * math.pi)


def smooth():
    return shaken(StochasticDurationPredictor(5, 4, 3, flows=2), std=0.2).double()


@torch.no_grad()
def test_the_density_has_a_sum_of_one():
    predictor, (z, area) = smooth(), plane()
    mask, context = torch.ones(len(z), 1, 1), torch.randn(1, 4, 1).double()
    noise, log_det = through(predictor.flows, z, mask, context.expand(len(z), -1, -1))
    density = standard_normal(noise) * log_det.exp()
    assert float(density.sum() * area) == pytest.approx(1.0, abs=0.005)


@torch.no_grad()
def test_the_bound_is_of_the_probability_with_which_durations_are_drawn():
    """Over the noise, ``exp(-bound)`` has it as its mean, and the bound's mean lies above."""
    predictor, (noise, area) = smooth(), plane()
    for parameter, value in zip(predictor.flows[0].parameters(), (-1.2, 0.6), strict=True):
        parameter.fill_(value)  # so that there is more than one frame
    h, mask, condition = (
        one.double().expand(len(noise), *one.shape[1:])
        for one in (torch.randn(1, 5, 1), torch.ones(1, 1, 1), torch.randn(1, 3))
    )
    drawn = predictor.sample(h, mask, condition, noise_scale=1.0).exp().ceil()
    weights = standard_normal(noise) * area
    for duration in (2, 3):
        bound = predictor.bound(h, mask, torch.full_like(mask, duration), condition, noise)
        probability = float((weights * torch.exp(-bound)).sum())
        assert probability == pytest.approx(float((drawn == duration).double().mean()), abs=0.025)
        assert (weights * bound).sum() > -math.log(probability)
        assert probability > 0.1


@BOTH
def test_padding_changes_nothing(kind):
    predictor, (h, mask, durations, condition) = shaken(kind(5, 4, 3)), inputs()
    adapt(predictor)

    def losses(h, durations):
        return predictor.loss(h, mask, durations, condition, torch.Generator().manual_seed(1))

    rubbish = h + 100 * torch.randn_like(h) * (1 - mask)
    found, sampled = losses(h, durations), predictor.sample(h, mask, condition, 0.0)
    assert torch.equal(losses(rubbish, durations + 7 * (1 - mask).long()), found)
    assert torch.equal(predictor.sample(rubbish, mask, condition, 0.0), sampled)
    assert sampled[1, :, 4:].abs().max() == 0


def test_items_do_not_see_each_other():
    predictor, (h, mask, durations, condition) = stochastic(), inputs()
    noise = torch.randn(2, 2, 6)
    together = predictor.bound(h, mask, durations, condition, noise)
    one = slice(1, 2), slice(None), slice(4)
    alone = predictor.bound(h[one], mask[one], durations[one], condition[1:], noise[one])
    torch.testing.assert_close(together[1:], alone, rtol=1e-5, atol=1e-5)
    sampled = predictor.sample(h, mask, condition, 0.0)
    alone = predictor.sample(h[one], mask[one], condition[1:], 0.0)
    torch.testing.assert_close(sampled[one], alone, rtol=1e-5, atol=1e-5)


def test_the_deterministic_loss_is_the_squared_error_of_each_item():
    predictor = shaken(DeterministicDurationPredictor(5, 4, 3))
    h, mask, durations, condition = inputs()
    predicted = predictor.sample(h, mask, condition, 0.0).detach()
    expected = [
        sum((float(predicted[b, 0, t]) - math.log(durations[b, 0, t])) ** 2 for t in range(length))
        for b, length in enumerate([6, 4])
    ]
    found = predictor.loss(h, mask, durations, condition)
    torch.testing.assert_close(found, torch.tensor(expected))


@BOTH
def test_without_noise_every_sample_is_the_same(kind):
    predictor, (h, mask, _, condition) = shaken(kind(5, 4, 3)), inputs()
    first = predictor.sample(h, mask, condition, noise_scale=0.0)
    assert torch.equal(first, predictor.sample(h, mask, condition, noise_scale=0.0))


def test_a_generator_decides_the_noise():
    predictor, (h, mask, durations, condition) = stochastic(), inputs()

    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        sampled = predictor.sample(h, mask, condition, 1.0, generator)
        return torch.cat(
            [sampled.flatten(), predictor.loss(h, mask, durations, condition, generator)]
        )

    state = torch.get_rng_state()
    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    assert torch.equal(state, torch.get_rng_state())


@BOTH
@pytest.mark.parametrize("detach", [True, False])
def test_gradients_reach_phonemes_and_speaker_only_if_asked(kind, detach):
    predictor, (h, mask, durations, condition) = shaken(kind(5, 4, 3)), inputs()
    assert predictor.detach
    predictor.detach = detach
    h.requires_grad_()
    condition.requires_grad_()
    predictor.loss(h, mask, durations, condition).sum().backward()
    for tensor in (h, condition):
        assert (tensor.grad is None) if detach else (tensor.grad.abs().sum() > 0)
    without = [name for name, p in predictor.named_parameters() if not p.grad.abs().sum() > 0]
    assert not without


@pytest.mark.parametrize(
    ("predictor", "places"),
    [
        (StochasticDurationPredictor(5, 4, 3), [f"flows.{k}.convs.point" for k in (1, 3, 5, 7)]),
        (DeterministicDurationPredictor(5, 4, 3), ["point"]),
    ],
)
def test_adapters_may_act_at_these_places_and_change_what_comes_out(predictor, places):
    h, mask, durations, condition = inputs()
    shaken(predictor)
    found = [name for name, m in predictor.named_modules() if isinstance(m, AdapterPoint)]
    assert found == places
    plain = predictor.loss(h, mask, durations, condition, torch.Generator().manual_seed(0))
    for name in places:
        point = predictor.get_submodule(name)
        point.adapter = Bump(point.channels)
        changed = predictor.loss(h, mask, durations, condition, torch.Generator().manual_seed(0))
        assert not torch.allclose(changed, plain)
        point.adapter = None


def test_the_flow_left_out_of_sampling_would_change_nothing():
    predictor, (h, mask, _, condition) = stochastic(), inputs()
    noise = torch.randn(2, 2, 6, generator=torch.Generator().manual_seed(3)) * mask
    context = predictor._context(h, mask, condition)
    whole, _ = through(predictor.flows, noise, mask, context, inverse=True)
    sampled = predictor.sample(h, mask, condition, 1.0, torch.Generator().manual_seed(3))
    assert torch.equal(sampled, whole[:, :1])


@BOTH
def test_half_precision_stays_finite_and_losses_are_float32(kind):
    predictor, (h, mask, durations, condition) = shaken(kind(5, 4, 3)), inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = predictor.loss(h.bfloat16(), mask, durations, condition)
    assert loss.dtype == torch.float32
    assert loss.isfinite().all()


@pytest.mark.parametrize(
    ("kind", "options"),
    [(StochasticDurationPredictor, {"flows": 2}), (DeterministicDurationPredictor, {})],
)
def test_it_learns_what_phoneme_and_speaker_do_to_durations(kind, options):
    predictor = kind(4, 8, 2, dropout=0.0, **options)
    optimizer = torch.optim.Adam(predictor.parameters(), lr=0.05)
    lasts, slow = torch.tensor([1, 3, 6, 10]), torch.tensor([1, 2])
    phoneme, speaker = torch.randint(0, 4, (16, 12)), torch.arange(16) % 2
    h, condition = torch.eye(4)[phoneme].mT, torch.eye(2)[speaker]
    durations = (lasts[phoneme] * slow[speaker][:, None])[:, None]
    mask, losses = torch.ones(16, 1, 12), []
    for _ in range(50):
        loss = predictor.loss(h, mask, durations, condition).sum() / mask.sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.8
    with torch.no_grad():
        found = predictor.eval().sample(h, mask, condition, noise_scale=0.0).exp().ceil()
    assert (found / durations).log().abs().mean() < 0.35
    averages = [float(found[speaker == who].mean()) for who in (0, 1)]
    assert averages[1] / averages[0] == pytest.approx(2.0, rel=0.3)


def test_a_kernel_without_a_middle_is_refused():
    with pytest.raises(ValueError, match="kernel is 2: set it to an odd number"):
        DeterministicDurationPredictor(5, 4, 3, kernel=2)


def test_frames_are_made_whole_as_durations_were_learnt():
    wanted = torch.tensor([0.2, 1.2, 2.6])
    assert StochasticDurationPredictor.whole(wanted).tolist() == [1, 2, 3]
    assert DeterministicDurationPredictor.whole(wanted).tolist() == [0, 1, 3]
