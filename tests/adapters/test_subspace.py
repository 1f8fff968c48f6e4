"""The cut of a weight, against the fp64 SVD, explicit projectors and small training runs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from speechcl.adapters.subspace import (
    Basis,
    project,
    project_factors,
    split,
)

SHAPES = [(12, 7), (7, 12), (9, 9), (2, 30), (30, 2)]
seeds = st.integers(0, 10_000)


def draw(seed, *shape, dtype=torch.float32):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def with_values(seed, n, m, values):
    """A weight of shape (n, m) with the given singular values, exact to fp64."""
    u = torch.linalg.qr(draw(seed, n, len(values), dtype=torch.float64)).Q
    v = torch.linalg.qr(draw(seed + 1, m, len(values), dtype=torch.float64)).Q
    return (u * torch.tensor(values, dtype=torch.float64) @ v.T).float()


def norm(matrix):
    return float(torch.linalg.norm(matrix.double()))


def orthonormality_error(columns):
    columns = columns.double()
    eye = torch.eye(columns.shape[-1], dtype=torch.float64)
    return float((columns.mT @ columns - eye).abs().max())


def principal_angle(one, other):
    """The largest angle between the column spaces of two orthonormal bases, as its sine."""
    one, other = (torch.linalg.qr(columns.double()).Q for columns in (one, other))
    return float(torch.linalg.matrix_norm(one - other @ (other.T @ one), 2))


def parts(cut):
    """U, S, V of both sides together."""
    return (
        torch.cat([cut.u_high, cut.u_low], -1),
        torch.cat([cut.s_high, cut.s_low], -1),
        torch.cat([cut.v_high, cut.v_low], -2),
    )


def recomposed(cut):
    u, s, v = parts(cut)
    return (u * s[..., None, :]) @ v


def assert_sound(cut, weight):
    """Orthonormal parts that give the weight back."""
    u, s, v = parts(cut)
    assert orthonormality_error(u) < 1e-6
    assert orthonormality_error(v.mT) < 1e-6
    assert (s >= 0).all()
    assert norm(recomposed(cut) - weight) <= 1e-5 * norm(weight)


# ---- the cut itself
@settings(max_examples=60, deadline=None)
@given(
    seed=seeds, n=st.integers(2, 20), m=st.integers(2, 20), at=st.floats(0, 1), groups=st.booleans()
)
def test_gives_the_weight_back_and_its_singular_values(seed, n, m, at, groups):
    weight = draw(seed, *([3] if groups else []), n, m)
    rank = min(n, m)
    k = 1 + int(at * (rank - 2))
    cut = split(weight, k)
    assert cut.u_high.shape[-2:] == (n, k)
    assert cut.v_low.shape[-2:] == (rank - k, m)
    assert_sound(cut, weight)
    expected = torch.linalg.svdvals(weight.double()).float()
    torch.testing.assert_close(parts(cut)[1], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("n", "m"), [(64, 64), (40, 160), (160, 40)])
@pytest.mark.parametrize("decay", [0.0, 3.0])
def test_protects_the_subspace_of_the_fp64_svd(n, m, decay):
    values = [10 ** (-decay * i / 39) * (2 - i / 39) for i in range(40)]
    weight = with_values(0, n, m, values)
    cut, (u, _, v) = split(weight, 17), torch.linalg.svd(weight.double())
    single = torch.linalg.svd(weight)
    for ours, theirs, exact in (
        (cut.u_high, single[0][:, :17], u[:, :17]),
        (cut.v_high.mT, single[2][:17].mT, v[:17].mT),
    ):
        assert principal_angle(ours, exact) < 1e-6
        assert principal_angle(ours, exact) <= principal_angle(theirs, exact) + 1e-7


@pytest.mark.parametrize(("n", "m"), SHAPES + [(40, 40), (40, 90)])
@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_weight_of_lower_rank_is_completed(n, m, rank):
    weight = with_values(3, n, m, [1.0] * rank) if rank else torch.zeros(n, m)
    cut = split(weight, 1)
    assert_sound(cut, weight)
    u_free, v_free = cut.complements()
    assert orthonormality_error(torch.cat([cut.u_high, u_free], 1)) < 1e-6
    assert orthonormality_error(torch.cat([cut.v_high.mT, v_free.mT], 1)) < 1e-6


@pytest.mark.parametrize("smallest", [1e-3, 1e-5, 1e-6, 1e-7, 1e-9])
def test_small_singular_values_cost_neither_orthonormality_nor_the_protected_subspace(smallest):
    values = torch.logspace(0, torch.tensor(smallest).log10().item(), 30).tolist()
    weight = with_values(5, 30, 50, values)
    cut, exact = split(weight, 8), torch.linalg.svd(weight.double())
    assert_sound(cut, weight)
    assert principal_angle(cut.v_high.mT, exact[2][:8].mT) < 1e-6


def test_one_bad_weight_of_a_stack_leaves_the_others_right():
    stack = torch.stack([draw(0, 5, 9), torch.zeros(5, 9), draw(1, 5, 9)])
    assert_sound(split(stack, 2), stack)


@pytest.mark.parametrize(("n", "m"), SHAPES)
def test_a_stack_is_cut_weight_by_weight(n, m):
    stack = draw(0, 2, 3, n, m)
    together, one = split(stack, 1), split(stack[1, 2], 1)
    for field, alone in zip(together, one, strict=True):
        torch.testing.assert_close(field[1, 2], alone, rtol=1e-5, atol=1e-5)
    for many, single in zip(together.complements(), one.complements(), strict=True):
        torch.testing.assert_close(many[1, 2], single, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [*SHAPES, (4, 9, 6), (4, 6, 9)])
def test_complements_are_all_that_is_orthogonal(shape):
    n, m = shape[-2:]
    cut = split(draw(1, *shape), 1)
    u_free, v_free = cut.complements()
    assert u_free.shape[-2:] == (n, n - 1)
    assert v_free.shape[-2:] == (m - 1, m)
    assert orthonormality_error(torch.cat([cut.u_high, u_free], -1)) < 1e-6
    assert orthonormality_error(torch.cat([cut.v_high.mT, v_free.mT], -1)) < 1e-6


def test_complements_of_a_weight_that_reads_the_last_inputs_only():
    weight = torch.zeros(3, 8)
    weight[:, 5:] = torch.diag(torch.tensor([3.0, 2.0, 1.0]))
    cut = split(weight, 2)  # the first rows of V_high' are 0
    _, v_free = cut.complements()
    assert orthonormality_error(torch.cat([cut.v_high.mT, v_free.mT], -1)) < 1e-6


def test_precision_and_graph():
    assert split(draw(0, 4, 5, dtype=torch.float64), 2).u_high.dtype == torch.float64
    assert split(draw(0, 4, 5).bfloat16(), 2).v_low.dtype == torch.float32
    assert not split(nn.Linear(5, 4).weight, 2).s_low.requires_grad


@pytest.mark.parametrize("preserved", [-1, 0, 4, 5])
def test_refuses_to_protect_nothing_or_everything(preserved):
    with pytest.raises(ValueError, match=r"shape \(6, 4\): protect from 1 to 3"):
        split(draw(0, 6, 4), preserved)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_refuses_a_weight_that_is_not_finite(bad):
    weight = draw(0, 4, 6)
    weight[1, 2] = bad
    with pytest.raises(ValueError, match="not finite"):
        split(weight, 2)


# ---- projection
def naive(update, cut, projection):
    """Equation by equation, with explicit projectors."""
    p_u, p_v = cut.u_high @ cut.u_high.mT, cut.v_high.mT @ cut.v_high
    if projection == "paper_eq":
        return update - p_u @ update @ p_v
    eye_u, eye_v = (torch.eye(len(p), dtype=p.dtype) for p in (p_u, p_v))
    return (eye_u - p_u) @ update @ (eye_v - p_v)


def every_basis(cut):
    u_free, v_free = cut.complements()
    for out in (Basis(cut.u_high, True), Basis(u_free, False)):
        for into in (Basis(cut.v_high.mT, True), Basis(v_free.mT, False)):
            yield out, into


@pytest.mark.parametrize("projection", ["two_sided", "paper_eq"])
@pytest.mark.parametrize("k", [1, 3, 6])
@pytest.mark.parametrize(("n", "m"), [(12, 7), (7, 12), (7, 7)])
def test_equals_explicit_projectors_whichever_basis_is_used(n, m, k, projection):
    cut, update = split(draw(0, n, m, dtype=torch.float64), k), draw(1, n, m, dtype=torch.float64)
    expected = naive(update, cut, projection)
    for out, into in [*every_basis(cut), cut.bases()]:
        found = project(update, out, into, projection)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    seed=seeds,
    n=st.integers(2, 15),
    m=st.integers(2, 15),
    k=st.integers(1, 14),
    projection=st.sampled_from(["two_sided", "paper_eq"]),
)
def test_is_idempotent_and_self_adjoint(seed, n, m, k, projection):
    out, into = split(draw(seed, n, m), min(k, min(n, m) - 1)).bases()
    y, z = draw(seed + 1, n, m), draw(seed + 2, n, m)
    once = project(z, out, into, projection)
    torch.testing.assert_close(project(once, out, into, projection), once, rtol=0, atol=1e-5)
    left, right = (project(y, out, into, projection) * z).sum(), (y * once).sum()
    assert abs(float(left - right)) <= 1e-5 * norm(y) * norm(z)


def test_a_stack_is_projected_weight_by_weight():
    stack, update = draw(0, 3, 6, 9), draw(1, 3, 6, 9)
    for k in (1, 2, 5):
        found = project(update, *split(stack, k).bases())
        for i in range(3):
            alone = project(update[i], *split(stack[i], k).bases())
            torch.testing.assert_close(found[i], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("n", "m", "k", "out", "into"),
    [
        (100, 100, 41, True, True),
        (100, 100, 42, False, False),
        (100, 300, 42, False, True),
        (300, 100, 80, True, False),
    ],
)
def test_the_basis_is_the_cheaper_one(n, m, k, out, into):
    cut = split(draw(0, n, m), k)
    found = cut.bases()
    assert [basis.protected for basis in found] == [out, into]
    assert found[0].columns.shape == (n, k if out else n - k)
    assert found[1].columns.shape == (m, k if into else m - k)


def test_an_unknown_projection_is_refused():
    out, into = split(draw(0, 3, 4), 1).bases()
    with pytest.raises(ValueError, match="'one_sided': use 'two_sided' or 'paper_eq'"):
        project(draw(1, 3, 4), out, into, "one_sided")


def test_factors_lose_exactly_what_is_protected():
    cut = split(draw(0, 2, 8, 6), 3)
    u, v = project_factors(draw(1, 2, 8, 2), draw(2, 2, 2, 6), cut.u_high, cut.v_high)
    assert (cut.u_high.mT @ u).abs().max() < 1e-6
    assert (v @ cut.v_high.mT).abs().max() < 1e-6
    assert torch.allclose(project_factors(u, v, cut.u_high, cut.v_high)[0], u, atol=1e-6)
    free = project_factors(cut.u_low, cut.v_low, cut.u_high, cut.v_high)
    torch.testing.assert_close(free, (cut.u_low, cut.v_low), rtol=0, atol=1e-6)


# ---- training in the three parametrisations
class Core:
    """W_0 + U_c C V_c."""

    def __init__(self, weight, cut):
        self.weight = weight
        self.u, self.v = cut.complements()
        self.core = torch.zeros(self.u.shape[1], len(self.v), requires_grad=True)
        self.parameters = [self.core]

    def __call__(self, x):
        return x @ self.weight.T + x @ self.v.T @ self.core.T @ self.u.T

    def change(self):
        return (self.u @ self.core @ self.v).detach()

    def after_backward(self): ...

    def after_step(self): ...


class Dense:
    """The weight itself, its change projected after each step."""

    def __init__(self, weight, cut, projection="two_sided"):
        self.born, self.bases, self.projection = weight, cut.bases(), projection
        self.weight = weight.clone().requires_grad_()
        self.parameters = [self.weight]

    def __call__(self, x):
        return x @ self.weight.T

    def change(self):
        return (self.weight - self.born).detach()

    def after_backward(self): ...

    def after_step(self):
        out, into = self.bases
        change = project(self.change(), out, into, self.projection)
        self.weight.data.copy_(self.born + change)


class Factored:
    """W_h + U_l S_l V_l, gradients projected, and after each step the factors (or not)."""

    def __init__(self, weight, cut, project_after=True):
        self.cut, self.project_after = cut, project_after
        low = cut.u_low, cut.s_low, cut.v_low
        self.parameters = [part.clone().requires_grad_() for part in low]
        self.born = (cut.u_low * cut.s_low) @ cut.v_low

    def low(self):
        u, s, v = self.parameters
        return (u * s) @ v

    def __call__(self, x):
        return x @ ((self.cut.u_high * self.cut.s_high) @ self.cut.v_high + self.low()).T

    def change(self):
        return (self.low() - self.born).detach()

    def _projected(self, u, v):
        return project_factors(u, v, self.cut.u_high, self.cut.v_high)

    def after_backward(self):
        u, _, v = self.parameters
        u.grad, v.grad = self._projected(u.grad, v.grad)

    def after_step(self):
        u, _, v = self.parameters
        if self.project_after:
            u.data, v.data = self._projected(u.data, v.data)


def train(model, shape, steps=100, optimizer=torch.optim.AdamW, **options):
    """Fit the outputs of another weight."""
    x, target = draw(7, 64, shape[1]), draw(8, *shape) / shape[1] ** 0.5
    trainer = optimizer(model.parameters, **{"lr": 1e-2, "weight_decay": 0.0, **options})
    for _ in range(steps):
        trainer.zero_grad()
        functional.mse_loss(model(x), x @ target.T).backward()
        model.after_backward()
        trainer.step()
        model.after_step()
    return model.change()


def leaks(change, cut):
    return (
        norm(cut.u_high.T @ change) / norm(change),
        norm(change @ cut.v_high.T) / norm(change),
    )


def born(shape):
    weight = draw(0, *shape) / shape[1] ** 0.5
    return weight, split(weight, min(shape) // 2)


MODES = {"core": Core, "dense": Dense, "factored": Factored}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(12, 7), (7, 12), (16, 16)])
def test_nothing_protected_moves_under_adamw(shape, mode):
    weight, cut = born(shape)
    change = train(MODES[mode](weight, cut), shape)
    assert norm(change) > 0.1 * norm(weight)
    assert max(leaks(change, cut)) <= 1e-5
    values = torch.linalg.svdvals(change.double())
    assert int((values > 1e-5 * values[0]).sum()) <= min(shape) - min(shape) // 2


def test_core_needs_no_help_against_decay_and_momentum():
    weight, cut = born((12, 7))
    change = train(Core(weight, cut), (12, 7), optimizer=torch.optim.RMSprop, momentum=0.9)
    assert max(leaks(change, cut)) <= 1e-5
    change = train(Core(weight, cut), (12, 7), weight_decay=0.1)
    assert max(leaks(change, cut)) <= 1e-5


@pytest.mark.parametrize("shape", [(12, 7), (64, 96)])
def test_without_projection_after_the_step_adamw_leaks(shape):
    weight, cut = born(shape)
    change = train(Factored(weight, cut, project_after=False), shape, steps=200)
    assert min(leaks(change, cut)) > 0.05


def test_sgd_with_momentum_does_not_need_it():
    weight, cut = born((12, 7))
    model = Factored(weight, cut, project_after=False)
    change = train(model, (12, 7), optimizer=torch.optim.SGD, momentum=0.9)
    assert max(leaks(change, cut)) <= 1e-5


@pytest.mark.parametrize("mode", MODES)
def test_starts_as_the_weight(mode):
    weight, cut = born((12, 7))
    x = draw(3, 5, 7)
    found, expected = MODES[mode](weight, cut)(x), x @ weight.T
    if mode == "factored":
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    else:
        assert torch.equal(found, expected)


@pytest.mark.parametrize("mode", MODES)
def test_answers_on_protected_inputs_and_along_protected_outputs_stay(mode):
    weight, cut = born((12, 7))
    change = train(MODES[mode](weight, cut), (12, 7))
    protected, anything = draw(4, 20, 3) @ cut.v_high, draw(5, 20, 7)
    before = protected @ weight.T
    assert norm(protected @ change.T) <= 1e-4 * norm(before)
    assert norm(anything @ change.T @ cut.u_high) <= 1e-4 * norm(anything @ weight.T)
    assert norm(anything @ change.T) > 0.05 * norm(anything @ weight.T)


def test_the_paper_equation_protects_the_block_alone():
    weight, cut = born((12, 7))
    change = train(Dense(weight, cut, "paper_eq"), (12, 7))
    assert norm(cut.u_high.T @ change @ cut.v_high.T) <= 1e-5 * norm(change)
    assert min(leaks(change, cut)) > 0.05


def test_one_step_of_sgd_is_the_same_in_core_and_dense_but_not_in_factors():
    weight, cut = born((7, 12))
    step = {"steps": 1, "optimizer": torch.optim.SGD, "lr": 0.1}
    core, dense, factored = (train(mode(weight, cut), (7, 12), **step) for mode in MODES.values())
    torch.testing.assert_close(core, dense, rtol=1e-4, atol=1e-6)
    assert norm(factored - core) > 0.1 * norm(core)


def test_copying_a_rebuilt_weight_starves_the_factors():
    weight, cut = born((12, 7))
    factored, x = Factored(weight, cut), draw(3, 5, 7)
    layer = nn.Linear(7, 12, bias=False)
    with torch.no_grad():
        layer.weight.copy_(factored.low())
    layer(x).sum().backward()  # as released scripts do
    assert all(part.grad is None for part in factored.parameters)
    factored(x).sum().backward()
    assert all(part.grad is not None and part.grad.any() for part in factored.parameters)


def test_the_next_cut_protects_what_the_merged_weight_does_most():
    weight, cut = born((12, 7))
    u_free, v_free = cut.complements()
    core = torch.zeros(u_free.shape[1], len(v_free))
    core[0, 0] = 3 * cut.s_high[0]
    merged = weight + u_free @ core @ v_free
    later = split(merged, 3)
    assert norm(cut.u_high.T @ u_free[:, :1]) < 1e-5
    assert norm(later.u_high.T @ u_free[:, :1]) > 0.95
    assert norm(later.v_high @ v_free[:1].T) > 0.95
    assert later.s_high[0] > 2.5 * cut.s_high[0]
