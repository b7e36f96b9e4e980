"""companion.continuous_flows: held against matrix exponentials, brute-force Jacobians, known Gaussians, closed forms.

Only fields with random weights are tested: at the start, where a network gives 0, a wrong path is right.
Tests of a row of the ledger of the source article (S3.7–S3.44) carry its name.
"""

import copy
import math
import re
from itertools import pairwise

import pytest
import torch
from reference import BAD_POINTS, assert_close, seeded
from torch import nn
from torch.autograd import gradcheck
from torch.distributions import MultivariateNormal, Normal

from companion.continuous_flows import ContinuousFlow, VelocityNetwork, flow_matching_loss
from companion.divergence import divergence
from companion.flows import ActNorm, AffineCoupling, Flow
from companion.training import fit

F32, F64 = torch.float32, torch.float64
SIZES = [1, 2, 3, 7]
BATCHES = [(), (2, 3), (1,)]
PRECISE = {"rtol": 1e-9, "atol": 1e-9}
STEPS = {"method": "rk4", "options": {"step_size": 0.1}}
LATENT = Normal(torch.tensor(0.0, dtype=F64), torch.tensor(1.0, dtype=F64))


def tensor(values):
    return torch.tensor(values, dtype=F64)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed), dtype=F64)


def network(d, c=0, seed=0, dtype=F64, strength=1.0):
    """A field with random weights throughout, as after training."""
    field, generator = VelocityNetwork(d, (16,), c), seeded(seed)
    for parameter in field.parameters():
        size = strength / (parameter.shape[-1] ** 0.5 if parameter.ndim == 2 else 1)
        parameter.data = (size * torch.randn(parameter.shape, generator=generator, dtype=F64)).to(dtype)
    return field.requires_grad_(False)


def inputs(batch, d, c=0, seed=1):
    return (normal(*batch, d, seed=seed), normal(*batch, c, seed=seed + 1)) if c else (normal(*batch, d, seed=seed),)


def jacobians(way, x, *context):
    """The Jacobian at each point, by a pass of autograd for each row, one point after the other."""
    rows = [part.reshape(-1, part.shape[-1]) for part in (x, *context)]
    J = [torch.autograd.functional.jacobian(lambda p, r=rest: way(p, *r)[0], p) for p, *rest in zip(*rows)]
    return torch.stack(J).reshape(*x.shape, x.shape[-1])


def matrix(d, seed=0, strength=0.8):
    """A d × d matrix A, neither symmetric nor of trace 0."""
    return strength * normal(d, d, seed=seed) / d**0.5 + 0.3 * torch.eye(d, dtype=F64)


def linear(A):
    return lambda t, x: x @ A.mT


def euler(field, d, **options):
    """One straight step: z = x − v(x, 1) and log_det = −∇·v(x, 1), back from z by v(z, 0)."""
    return ContinuousFlow(field, d, method="euler", **options)


# --- the network ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("c", [0, 2])
@pytest.mark.parametrize("d", SIZES)
def test_the_network_starts_still_and_its_flow_as_the_identity(d, c):
    field, (x, *context) = VelocityNetwork(d, context=c).double().requires_grad_(False), inputs((5,), d, c)
    assert torch.equal(field(tensor(0.3), x, *context), torch.zeros(5, d, dtype=F64))
    z, log_det = ContinuousFlow(field)(x, *context)
    assert_close(z, x)
    assert_close(log_det, torch.zeros(5))
    widths = [(layer.in_features, layer.out_features) for layer in field.net if isinstance(layer, nn.Linear)]
    assert widths == [(d + 1 + c, 64), (64, 64), (64, d)]


@pytest.mark.parametrize("c", [0, 2])
def test_the_network_takes_one_time_for_all_or_one_for_each(c):
    field, (x, *context) = network(3, c), inputs((2, 3), 3, c)
    t = torch.rand(2, 3, generator=seeded(3), dtype=F64)
    alone = [field(*(part[i, j] for part in (t, x, *context))) for i in range(2) for j in range(3)]
    assert_close(field(t, x, *context), torch.stack(alone).reshape(2, 3, 3))
    assert_close(field(tensor(0.7), x, *context), field(torch.full((2, 3), 0.7, dtype=F64), x, *context))
    assert (field(tensor(0.7), x, *context) - field(tensor(0.2), x, *context)).abs().min() > 1e-3
    if c:
        assert (field(t, x, *context) - field(t, x, context[0] + 1)).abs().min() > 1e-3
    low = (part.float() for part in (x, *context))
    assert field.float()(tensor(0.7), *low).dtype == F32


def test_the_network_is_smooth_so_that_its_divergence_varies_smoothly():
    """∂(∇·v)/∂x by autograd is what finite differences give; with corners in the network it would be 0."""
    field, x = network(3), normal(4, 3)

    def thinning(x):
        return divergence(lambda p: field(tensor(0.4), p), x)

    by_autograd = torch.autograd.functional.jacobian(lambda x: thinning(x).sum(), x)
    steps = 1e-5 * torch.eye(3, dtype=F64)
    assert_close(by_autograd, torch.stack([(thinning(x + h) - thinning(x - h)) / 2e-5 for h in steps], -1), tol=1e-7)
    assert by_autograd.abs().min() > 1e-4


# --- linear fields, whose paths are known ----------------------------------------------------------------------------


@pytest.mark.parametrize("d", SIZES)
def test_a_linear_field_is_a_matrix_exponential(d):
    A = matrix(d, seed=d)
    flow = ContinuousFlow(linear(A), d, **PRECISE)
    for batch in BATCHES:
        x = normal(*batch, d)
        for way, sign in ((flow, -1), (flow.inverse, 1)):
            y, log_det = way(x)
            assert_close(y, x @ torch.linalg.matrix_exp(sign * A).mT, tol=1e-8)
            assert_close(log_det, (sign * A.trace()).expand(batch), tol=1e-8)


@pytest.mark.parametrize("d", SIZES)
def test_time_runs_from_the_latent_to_the_data(d):
    """dx/dt = A x + t b: with the clock t and 1 as coordinates of their own, one matrix exponential again."""
    A, b = matrix(d, seed=d), 2 + normal(d, seed=1)
    M = torch.zeros(d + 2, d + 2, dtype=F64)
    M[:d, :d], M[:d, d], M[d, d + 1] = A, b, 1
    flow, z = ContinuousFlow(lambda t, x: x @ A.mT + t * b, d, **PRECISE), normal(2, 3, d)
    for way, sign, clock in ((flow.inverse, 1, 0.0), (flow, -1, 1.0)):
        start = torch.cat([z, torch.full((2, 3, 1), clock, dtype=F64), torch.ones(2, 3, 1, dtype=F64)], -1)
        end = start @ torch.linalg.matrix_exp(sign * M).mT
        y, log_det = way(z)
        assert_close(end[..., d], torch.full((2, 3), 1 - clock))
        assert_close(y, end[..., :d], tol=1e-8)
        assert_close(log_det, (sign * A.trace()).expand(2, 3), tol=1e-8)


@pytest.mark.parametrize("d", SIZES)
def test_a_linear_field_that_changes_but_commutes(d):
    """A(t) = 3t² M + (1 − 4t) M²: the integral over time is M − M², and so is the exponent."""
    M = matrix(d, seed=d)
    total = M - M @ M
    flow = ContinuousFlow(lambda t, x: x @ (3 * t**2 * M + (1 - 4 * t) * M @ M).mT, d, **PRECISE)
    x = normal(5, d)
    for way, sign in ((flow, -1), (flow.inverse, 1)):
        y, log_det = way(x)
        assert_close(y, x @ torch.linalg.matrix_exp(sign * total).mT, tol=1e-7)
        assert_close(log_det, (sign * total.trace()).expand(5), tol=1e-8)


@pytest.mark.parametrize("d", SIZES)
def test_the_context_is_held_along_the_path(d):
    """dx/dt = a(c) x + B c with one rate a and one push B c for each point."""
    B = normal(d, 2, seed=4)

    def field(t, x, context):
        return context[..., :1] * x + context @ B.mT

    flow, (z, context) = ContinuousFlow(field, d, context=2, **PRECISE), inputs((2, 3), d, 2)
    a, push = context[..., :1], context @ B.mT
    x, log_det = flow.inverse(z, context)
    assert_close(x, a.exp() * z + push * (a.exp() - 1) / a, tol=1e-8)
    assert_close(log_det, d * a[..., 0], tol=1e-8)
    back, log_det = flow(x, context)
    assert_close(back, z, tol=1e-8)
    assert_close(log_det, -d * a[..., 0], tol=1e-8)


# --- any field: the change of volume, and there and back --------------------------------------------------------------


@pytest.mark.parametrize(("d", "c"), [(1, 0), (2, 0), (3, 0), (7, 0), (1, 2), (3, 2)])
def test_S3_9_log_det_is_that_of_the_jacobian(d, c):
    """As many coordinates there as here, and a determinant that is not 0."""
    flow, (x, *context) = ContinuousFlow(network(d, c, seed=d), **PRECISE), inputs((1 if d == 7 else 2,), d, c)
    z, log_det = flow(x, *context)
    assert z.shape == x.shape
    assert (z - x).abs().max() > 0.1
    assert log_det.abs().max() > 0.05
    assert_close(log_det, torch.linalg.slogdet(jacobians(flow, x, *context)).logabsdet, tol=1e-7)
    back, log_det_back = flow.inverse(z, *context)
    assert_close(back, x, tol=1e-7)
    assert_close(log_det_back, -log_det, tol=1e-7)
    assert_close(log_det_back, torch.linalg.slogdet(jacobians(flow.inverse, z, *context)).logabsdet, tol=1e-7)


@pytest.mark.parametrize(("d", "c"), [(1, 2), (2, 0), (3, 2), (7, 0)])
def test_there_and_back_both_ways_with_any_batch(d, c):
    flow = ContinuousFlow(network(d, c, seed=2), **PRECISE)
    for batch in BATCHES:
        x, *context = inputs(batch, d, c)
        for there, back in ((flow, flow.inverse), (flow.inverse, flow)):
            y, log_det = there(x, *context)
            again, log_det_again = back(y, *context)
            assert y.shape == x.shape
            assert log_det.shape == batch
            assert_close(again, x, tol=1e-7)
            assert_close(log_det_again, -log_det, tol=1e-7)


@pytest.mark.parametrize("batch", [(0,), (2, 0)])
@pytest.mark.parametrize("options", [{}, STEPS], ids=["dopri5", "rk4"])
def test_no_points_are_no_trouble(options, batch):
    flow = ContinuousFlow(network(2), **options)
    for way in (flow, flow.inverse):
        y, log_det = way(torch.ones(*batch, 2, dtype=F64))
        assert y.shape == (*batch, 2)
        assert log_det.shape == batch
    assert flow.log_prob(torch.ones(*batch, 2, dtype=F64)).shape == flow.sample(batch).shape[:-1] == batch


@pytest.mark.parametrize("c", [0, 2])
def test_a_batch_is_its_points_one_by_one(c):
    flow, parts = ContinuousFlow(network(3, c, seed=6), **STEPS), inputs((2, 3), 3, c)
    for way in (flow, flow.inverse):
        alone = [way(*(part[i, j] for part in parts)) for i in range(2) for j in range(3)]
        y, log_det = way(*parts)
        assert_close(y, torch.stack([y for y, _ in alone]).reshape(2, 3, 3))
        assert_close(log_det, torch.stack([log_det for _, log_det in alone]).reshape(2, 3))


@pytest.mark.parametrize("d", SIZES)
def test_S3_7_a_path_keeps_the_orientation(d):
    """No field is refused, but paths never cross: the determinant is positive and no flow is a reflection."""
    for seed in range(4):
        flow = ContinuousFlow(network(d, seed=seed, strength=1.5), **STEPS)
        assert torch.linalg.slogdet(jacobians(flow, normal(1, d))).sign == 1
    line = ContinuousFlow(network(1, seed=3, strength=1.5), **STEPS)(torch.linspace(-4, 4, 200, dtype=F64)[:, None])[0]
    assert (line.diff(dim=0) > 0).all()


def test_S3_18_log_det_is_the_log_of_the_volume_factor():
    """The image of a small ring of points has the area of the disc times exp(log_det), here more and there less."""
    flow, angle = ContinuousFlow(network(2, seed=11), **STEPS), 2 * math.pi * torch.arange(60, dtype=F64) / 60
    ring, centres = torch.stack([angle.cos(), angle.sin()], -1), normal(6, 2, seed=2)

    def area(polygon):
        x, y = polygon.unbind(-1)
        return (x * y.roll(-1, -1) - x.roll(-1, -1) * y).sum(-1) / 2

    around = centres[:, None] + 1e-3 * ring
    log_det = flow(centres)[1]
    assert_close((area(flow(around)[0]) / area(around)).log(), log_det, tol=1e-5)
    assert log_det.abs().min() > 1e-2


# --- what the trace is ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("c", [0, 2])
@pytest.mark.parametrize("d", SIZES)
def test_one_step_adds_the_divergence_at_its_start(d, c):
    field, (x, *context) = network(d, c, seed=d), inputs((2, 3), d, c)
    flow = euler(field, None)
    for way, t, sign in ((flow, 1.0, -1), (flow.inverse, 0.0, 1)):
        y, log_det = way(x, *context)
        rows = torch.cat([x, *context], -1)

        def alone(p, t=t):  # the context stands beside the point as coordinates that do not move
            return torch.cat([field(tensor(t), p[:d], *([p[d:]] if c else [])), torch.zeros(c, dtype=F64)])

        assert_close(y, x + sign * field(tensor(t), x, *context))
        assert_close(log_det, sign * divergence(alone, rows))
        assert log_det.abs().min() > 1e-4


def signs(d):
    """All probes there are: 2ᵈ vectors of ±1."""
    return torch.cartesian_prod(*[tensor([-1.0, 1.0])] * d).reshape(-1, d)


@pytest.mark.parametrize("d", [1, 2, 3, 5])
def test_hutchinson_takes_one_probe_for_a_whole_path_and_one_for_each_point(d):
    """Along a linear field each path must end at εᵀAε for one ε of ±1; a new ε on the way would give a mean."""
    A, n = matrix(d, seed=d, strength=2), 400
    possible = torch.einsum("si,ij,sj->s", signs(d), A, signs(d))
    flow = ContinuousFlow(linear(A), d, trace="hutchinson", generator=seeded(1), **STEPS)
    for way, sign in ((flow, -1), (flow.inverse, 1)):
        y, log_det = way(normal(n, d))
        assert_close(y, normal(n, d) @ torch.linalg.matrix_exp(sign * A).mT, tol=1e-3)
        which = (log_det[:, None] - sign * possible).abs()
        assert_close(which.min(-1).values, torch.zeros(n))
        met = {round(value, 9) for value in (sign * log_det).tolist()}
        assert met == {round(value, 9) for value in possible.tolist()}  # both of its values in d = 2, and so on


@pytest.mark.parametrize("d", [2, 3, 7])
def test_hutchinson_is_unbiased_with_the_known_variance(d):
    """εᵀJε has the mean tr J and the variance 2 Σ_{i≠j} S_ij² with S = ½(J + Jᵀ)."""
    field, at, n = network(d, seed=d, strength=2), normal(d, seed=3), 40_000
    flow = euler(field, d, trace="hutchinson", generator=seeded(2))
    for way, t, sign in ((flow, 1.0, -1), (flow.inverse, 0.0, 1)):
        log_det = way(at.expand(n, d))[1]
        J = torch.autograd.functional.jacobian(lambda p, t=t: field(tensor(t), p), at)
        S = (J + J.mT) / 2
        variance = 2 * (S - S.diagonal().diag()).square().sum()
        assert (log_det.mean() - sign * J.trace()).abs() < 5 * (variance / n).sqrt()
        assert log_det.var().item() == pytest.approx(variance.item(), rel=0.1)
        assert variance > 1e-2


def test_hutchinson_is_unbiased_along_a_curved_path():
    field, x, n = network(2, seed=4, strength=2), normal(2, seed=3), 20_000
    exact, log_det = (
        ContinuousFlow(field, trace=trace, generator=seeded(5), **STEPS)(x.expand(n, 2))[1]
        for trace in ("exact", "hutchinson")
    )
    assert log_det.std() > 0.1
    assert (log_det.mean() - exact[0]).abs() < 5 * log_det.std() / n**0.5


@pytest.mark.parametrize("d", SIZES)
def test_hutchinson_is_exact_where_the_coordinates_do_not_mix(d):
    """(±1)² = 1: a diagonal Jacobian is read off without an error."""

    def field(t, x):
        return torch.sin(2 * x) * (1 + t) + 0.3 * x

    exact, estimate = (
        ContinuousFlow(field, d, trace=trace, generator=seeded(7), **STEPS) for trace in ("exact", "hutchinson")
    )
    x = normal(2, 3, d)
    for one, other in ((exact, estimate), (exact.inverse, estimate.inverse)):
        assert_close(other(x)[1], one(x)[1])
        assert_close(other(x)[0], one(x)[0])


def test_the_generator_decides_on_the_probes():
    field, x = network(3, strength=2), normal(50, 3)

    def run(generator, trace="hutchinson"):
        return ContinuousFlow(field, trace=trace, generator=generator, **STEPS)(x)[1]

    before = torch.get_rng_state()
    assert torch.equal(run(seeded(1)), run(seeded(1)))
    assert not torch.equal(run(seeded(1)), run(seeded(2)))
    generator = seeded(1)
    assert not torch.equal(run(generator), run(generator))
    state = generator.get_state()
    run(generator, "exact")
    assert torch.equal(generator.get_state(), state)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(run(None), run(None))
    assert torch.equal(run(None, "exact"), run(None, "exact"))


def test_exact_is_the_default():
    field, x = network(3, strength=2), normal(20, 3)
    assert torch.equal(ContinuousFlow(field)(x)[1], ContinuousFlow(field, trace="exact")(x)[1])


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_a_rotation_keeps_every_volume(trace):
    """An antisymmetric Jacobian has εᵀJε = 0 for every ε; the paths stay on their circles."""
    skew = normal(3, 3) - normal(3, 3).mT
    flow = ContinuousFlow(linear(skew), 3, trace=trace, **PRECISE)
    z, log_det = flow(normal(8, 3))
    assert_close(log_det, torch.zeros(8))
    assert_close(z.norm(dim=-1), normal(8, 3).norm(dim=-1), tol=1e-8)
    assert_close(flow.log_prob(normal(8, 3)), LATENT.log_prob(normal(8, 3)).sum(-1), tol=1e-8)


def test_a_field_without_divergence_keeps_every_area():
    """v = (∂H/∂x₂, −∂H/∂x₁) with H = sin(x₁ + 2t) cos(2x₂)."""

    def field(t, x):
        a, b = x[..., 0] + 2 * t, 2 * x[..., 1]
        return torch.stack([-2 * a.sin() * b.sin(), -a.cos() * b.cos()], -1)

    flow, x = ContinuousFlow(field, 2, **PRECISE), normal(8, 2)
    for way in (flow, flow.inverse):
        y, log_det = way(x)
        assert (y - x).abs().min() > 1e-3
        assert_close(log_det, torch.zeros(8))
        assert_close(torch.linalg.det(jacobians(way, x[:2])), torch.ones(2), tol=1e-7)


# --- densities --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", SIZES)
def test_a_linear_field_makes_a_gaussian_with_all_constants(d):
    """x(1) = e^A z + b': its covariance is e^A (e^A)ᵀ."""
    A, b = matrix(d, seed=d), normal(d, seed=9)
    M = torch.zeros(d + 1, d + 1, dtype=F64)
    M[:d, :d], M[:d, d] = A, b
    E = torch.linalg.matrix_exp(M)
    want = MultivariateNormal(E[:d, d], E[:d, :d] @ E[:d, :d].mT)
    flow = ContinuousFlow(lambda t, x: x @ A.mT + b, d, **PRECISE)
    for batch in BATCHES:
        x = 2 * normal(*batch, d, seed=7)
        assert_close(flow.log_prob(x), want.log_prob(x), tol=1e-7)


@pytest.mark.parametrize("c", [0, 2])
def test_a_density_has_mass_one_and_a_context_changes_it(c):
    flow, side = ContinuousFlow(network(2, c, seed=5, strength=1.5), **STEPS), torch.linspace(-9, 9, 101, dtype=F64)
    grid = torch.cartesian_prod(side, side)
    contexts = [(torch.full((len(grid), c), value, dtype=F64),) if c else () for value in (1.0, -1.0)]
    densities = [flow.log_prob(grid, *context).exp() for context in contexts]
    for p in densities:
        assert p.sum() * 0.18**2 == pytest.approx(1, abs=1e-4)
    difference = (densities[0] - densities[1]).abs().sum() * 0.18**2
    assert difference > 0.1 if c else difference == 0
    assert (densities[0] - LATENT.log_prob(grid).sum(-1).exp()).abs().sum() * 0.18**2 > 0.1


def test_S3_11_an_interval_and_its_image_have_the_same_probability():
    flow, x = ContinuousFlow(network(1, seed=8, strength=1.5), **PRECISE), torch.linspace(-1, 1.5, 2001, dtype=F64)
    inside = torch.trapezoid(flow.log_prob(x[:, None]).exp(), x)
    low, high = LATENT.cdf(flow(tensor([[-1.0], [1.5]]))[0][:, 0])
    assert_close(inside, high - low, tol=1e-6)
    assert (inside - (LATENT.cdf(tensor(1.5)) - LATENT.cdf(tensor(-1.0)))).abs() > 1e-2


@pytest.mark.parametrize("s", [0.25, 0.6, 1.0])
def test_the_density_on_the_way_solves_the_continuity_equation(s):
    """∂p/∂t + ∇·(p v) = 0, divided by p; what the field s v(x, sτ) makes by τ = 1 is p at the time s."""
    field, x = network(2, seed=1, strength=1.5), normal(6, 2, seed=2)

    def log_p(x, s):
        fine = {"method": "rk4", "options": {"step_size": 0.04}}
        return ContinuousFlow(lambda t, x: s * field(s * t, x), 2, **fine).log_prob(x)

    x.requires_grad_()
    score = torch.autograd.grad(log_p(x, tensor(s)).sum(), x)[0]
    x = x.detach()
    change = (log_p(x, tensor(s + 1e-4)) - log_p(x, tensor(s - 1e-4))) / 2e-4
    carried, thinned = (score * field(tensor(s), x)).sum(-1), divergence(lambda q: field(tensor(s), q), x)
    assert_close(change + carried + thinned, torch.zeros(6), tol=1e-4)
    for part in (change, carried, thinned):
        assert part.abs().max() > 0.1


# --- the solver -------------------------------------------------------------------------------------------------------


def test_evaluations_are_counted_for_the_last_path():
    calls = []

    def field(t, x):
        calls.append(float(t))
        return torch.sin(3 * x) + t

    flow = ContinuousFlow(field, 2, method="rk4", options={"step_size": 0.1})
    assert flow.evaluations == 0
    for run in (flow, flow.inverse, flow.log_prob, lambda x: flow.sample((4,))):
        calls.clear()
        run(normal(4, 2).float())
        assert flow.evaluations == len(calls) == 40
        assert min(calls) == pytest.approx(0, abs=1e-6)
        assert max(calls) == pytest.approx(1, abs=1e-6)
    for options, count in (({"method": "euler"}, 1), ({"method": "midpoint"}, 2), ({"method": "rk4"}, 4)):
        flow = ContinuousFlow(field, 2, **options)
        flow(normal(4, 2))
        assert flow.evaluations == count


def test_smaller_tolerances_take_more_evaluations_and_err_less():
    A, x = 4 * matrix(3), normal(5, 3)
    want, rows = x @ torch.linalg.matrix_exp(-A).mT, []
    for tolerance in (1e-3, 1e-5, 1e-7, 1e-9):
        flow = ContinuousFlow(linear(A), 3, rtol=tolerance, atol=tolerance)
        error = (flow(x)[0] - want).abs().max().item()
        rows.append((error, flow.evaluations))
        assert error < 30 * tolerance
    for (error, evaluations), (less, more) in pairwise(rows):
        assert less < error / 10
        assert more > evaluations


def test_both_tolerances_count():
    A, x = 4 * matrix(3), normal(5, 3)

    def error(**tolerances):
        return (ContinuousFlow(linear(A), 3, **tolerances)(x)[0] - x @ torch.linalg.matrix_exp(-A).mT).abs().max()

    assert error(rtol=1e-9, atol=1e-9) < 1e-3 * error(rtol=1e-3, atol=1e-9)
    assert error(rtol=1e-9, atol=1e-9) < 1e-3 * error(rtol=1e-9, atol=1e-2)
    assert error() == error(rtol=1e-6, atol=1e-6, method="dopri5")
    assert error() != error(rtol=1e-7, atol=1e-6)
    assert error() != error(rtol=1e-6, atol=1e-7)
    assert error() != error(method="bosh3")


def test_one_tolerance_is_relative_and_the_other_absolute():
    """Points a million times as small stay as exact by `rtol`, and are lost below `atol`."""
    A, x = 4 * matrix(3), normal(5, 3)
    want = x @ torch.linalg.matrix_exp(-A).mT

    def error(**tolerances):
        z = ContinuousFlow(linear(A), 3, **tolerances)(1e-6 * x)[0]
        return (1e6 * z - want).abs().max() / want.abs().max()

    assert error(rtol=1e-6, atol=1e-14) < 1e-5
    assert error(rtol=1e-14, atol=1e-6) > 1e-2


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("midpoint", 2), ("rk4", 4)])
def test_the_method_has_its_order(method, order):
    field, x = network(2, seed=3), normal(5, 2)
    right = ContinuousFlow(field, rtol=1e-12, atol=1e-12)(x)
    coarse, fine = (ContinuousFlow(field, method=method, options={"step_size": h})(x) for h in (0.1, 0.05))
    for part in range(2):
        ratio = (coarse[part] - right[part]).norm() / (fine[part] - right[part]).norm()
        assert math.log2(ratio) == pytest.approx(order, abs=0.35)


# --- dtype, samples, state --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, STEPS], ids=["dopri5", "rk4"])
@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
@pytest.mark.parametrize("dtype", [F32, F64])
def test_dtype_follows(dtype, trace, options):
    options = {"rtol": 1e-4, "atol": 1e-4, "trace": trace} | options
    for flow in (
        ContinuousFlow(network(3, dtype=dtype), **options),
        ContinuousFlow(lambda t, x: x.sin(), 3, **options),
    ):
        x = normal(4, 3).to(dtype)
        for way in (flow, flow.inverse):
            assert {part.dtype for part in way(x)} == {dtype}
        assert flow.log_prob(x).dtype == dtype
    assert ContinuousFlow(network(3, dtype=dtype), **options).sample((2,)).dtype == dtype
    assert ContinuousFlow(network(3), **options).to(dtype).sample((2,)).dtype == dtype


def test_float32_is_near_float64():
    x, flow = normal(50, 3), ContinuousFlow(network(3, seed=2), rtol=1e-5, atol=1e-5)
    want = flow(x)
    for got, part in zip(flow.float()(x.float()), want):
        assert_close(got.double(), part, tol=1e-3)


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_the_default_device_has_no_part_in_it(trace):
    field, x = network(3), normal(4, 3)

    def run(generator):
        z, log_det = ContinuousFlow(field, trace=trace, method="rk4", generator=generator)(x)
        return z, log_det, flow_matching_loss(field, x, generator=generator)

    want, generator = run(seeded(1)), seeded(1)
    with torch.device("meta"):
        got = run(generator)
    assert all(torch.equal(one, other) for one, other in zip(got, want))


@pytest.mark.parametrize("dtype", [F32, F64])
def test_the_default_dtype_has_no_part_in_it(dtype):
    field, x, asked = network(3, dtype=dtype), normal(4, 3).to(dtype), []

    def watched(t, x):
        asked.append(t.dtype)
        return field(t, x)

    def run():
        generator = seeded(1)
        one, other = (
            ContinuousFlow(watched, 3, trace=trace, method="rk4", generator=generator)(x)
            for trace in ("exact", "hutchinson")
        )
        return *one, *other, flow_matching_loss(field, x, generator=generator)

    want = run()
    torch.set_default_dtype(F64)
    try:
        got = run()
    finally:
        torch.set_default_dtype(F32)
    assert all(torch.equal(one, other) for one, other in zip(got, want))
    assert {part.dtype for part in got} == {*asked} == {dtype}


@pytest.mark.parametrize("c", [0, 2])
@pytest.mark.parametrize("dtype", [F32, F64])
def test_dtype_shape_and_generator_of_samples(dtype, c):
    flow = ContinuousFlow(network(3, c, dtype=dtype), **STEPS)
    for shape in [(), (4,), (2, 3)]:
        context = normal(*shape, c, seed=9).to(dtype) if c else None
        before = torch.get_rng_state()
        x = flow.sample(shape, context, generator=seeded(5))
        assert torch.equal(torch.get_rng_state(), before)
        assert x.shape == (*shape, 3)
        assert x.dtype == dtype
        assert torch.equal(x, flow.sample(shape, context, generator=seeded(5)))
        z = torch.randn(*shape, 3, generator=seeded(5), dtype=dtype)
        assert torch.equal(x, flow.inverse(z, context)[0])
        assert not torch.equal(x, flow.sample(shape, context, generator=seeded(6)))


def test_samples_have_the_mean_and_the_covariance_of_the_gaussian():
    A, b, n = matrix(2, seed=5), tensor([3.0, -1.0]), 50_000
    M = torch.zeros(3, 3, dtype=F64)
    M[:2, :2], M[:2, 2] = A, b
    E = torch.linalg.matrix_exp(M)
    flow = ContinuousFlow(lambda t, x: x @ A.mT.to(x.dtype) + b.to(x.dtype), 2)
    x, cov = flow.sample((n,), generator=seeded(3)).double(), E[:2, :2] @ E[:2, :2].mT
    deviation = cov.diagonal().sqrt()
    assert ((x.mean(0) - E[:2, 2]).abs() < 5 * deviation / n**0.5).all()
    assert ((x.T.cov() - cov).abs() < 5 * (2 / n) ** 0.5 * deviation[:, None] * deviation).all()


def test_the_state_holds_the_field():
    flow, other, x = (
        ContinuousFlow(network(3, seed=1), **STEPS),
        ContinuousFlow(network(3, seed=2), **STEPS),
        normal(4, 3),
    )
    assert {*flow.state_dict()} == {f"field.{name}" for name in flow.field.state_dict()}
    assert [*flow.parameters()] == [*flow.field.parameters()]
    assert not torch.equal(other(x)[0], flow(x)[0])
    other.load_state_dict(flow.state_dict())
    for copied in (other, copy.deepcopy(flow)):
        assert torch.equal(copied(x)[0], flow(x)[0])
        assert torch.equal(copied(x)[1], flow(x)[1])
    assert ContinuousFlow(linear(matrix(2)), 2).state_dict() == {}


def test_features_and_context_are_the_fields_own_or_given():
    taking, plain = network(3, 2), ContinuousFlow(lambda t, x: x, 4)
    assert (ContinuousFlow(taking).features, ContinuousFlow(taking).context) == (3, 2)
    assert (plain.features, plain.context) == (4, 0)
    given = ContinuousFlow(lambda t, x, c: x * c, features=3, context=3)
    assert (given.features, given.context) == (3, 3)
    assert_close(given(torch.ones(3, dtype=F64), tensor([0.0, 1.0, 2.0]))[1], -3.0, tol=1e-5)


@pytest.mark.parametrize("c", [0, 2])
def test_S3_44_beside_couplings_in_a_flow(c):
    """z = f_n(… f_1(x)): the first transform comes first, and the log-determinants add up."""
    torch.manual_seed(0)
    couplings = [AffineCoupling(3, (8,), c).double(), AffineCoupling(3, (8,), swap=True).double()]
    for parameter in (parameter for step in couplings for parameter in step.parameters()):
        parameter.data += torch.randn(parameter.shape, generator=seeded(1), dtype=F64) / 2
    first, second = couplings
    moving = ContinuousFlow(network(3, c, seed=2), **PRECISE)
    flow, (x, *context) = Flow([first, moving, second, ActNorm(3)], 3).double().eval(), inputs((5,), 3, c)
    assert flow.context == c
    flow.requires_grad_(False)
    z, log_det = flow(x, *context)
    one, a = first(x, *context)
    two, b = moving(one, *context)
    three, e = second(two)
    assert_close(z, three)
    assert_close(log_det, a + b + e)
    J = jacobians(flow, x[:2], *(part[:2] for part in context))
    assert_close(log_det[:2], torch.linalg.slogdet(J).logabsdet, tol=1e-7)
    back, log_det_back = flow.inverse(z, *context)
    assert_close(back, x, tol=1e-7)
    assert_close(log_det_back, -log_det, tol=1e-7)
    assert_close(flow.log_prob(x, *context), LATENT.log_prob(z).sum(-1) + log_det)
    with pytest.raises(ValueError, match=r"^transforms: expected 2 features like the flow, got \[3\]$"):
        Flow([moving], 2)


# --- gradients --------------------------------------------------------------------------------------------------------


class Method(nn.Module):
    """A method of a flow as a module, which is what `functional_call` calls."""

    def __init__(self, flow, name):
        super().__init__()
        self.flow, self.name = flow, name

    def forward(self, *parts):
        return getattr(self.flow, self.name)(*parts)


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
@pytest.mark.parametrize("c", [0, 2])
def test_the_gradients_of_log_prob_and_samples_are_right(c, trace):
    """By the points, the context and the parameters, against finite differences."""
    flow, (x, *context) = ContinuousFlow(network(2, c, seed=4), trace=trace, method="rk4"), inputs((2,), 2, c)
    names = [f"flow.{name}" for name, _ in flow.named_parameters()]
    leaves = [part.clone().requires_grad_() for part in (x, *context, *flow.parameters())]

    def call(method, *parts):
        flow.generator = seeded(3)  # the same probes at each call
        here, parameters = parts[: 1 + c // 2], dict(zip(names, parts[1 + c // 2 :]))
        return torch.func.functional_call(Method(flow, method), parameters, here)

    assert gradcheck(lambda *parts: call("log_prob", *parts), leaves, fast_mode=True)
    assert gradcheck(lambda *parts: call("inverse", *parts), leaves, fast_mode=True)
    assert gradcheck(lambda x: call("log_prob", x, *leaves[1:]), leaves[:1])


def test_the_score_of_a_gaussian():
    """∇ log p(x) = −Σ⁻¹ x with Σ = e^A (e^A)ᵀ, also with adaptive steps."""
    A, x = matrix(3), normal(5, 3).requires_grad_()
    flow = ContinuousFlow(linear(A), 3, **PRECISE)
    back = torch.linalg.matrix_exp(-A)
    score = torch.autograd.grad(flow.log_prob(x).sum(), x)[0]
    assert_close(score, -(x @ (back.mT @ back)).detach(), tol=1e-7)


def test_the_gradient_by_a_rate_that_is_known():
    """For v = a x in d dimensions, log p(x) = log N(e^−a x) − d a: ∂/∂a = e^−2a ‖x‖² − d."""
    a, x = tensor(0.4).requires_grad_(), normal(5, 3)
    flow = ContinuousFlow(lambda t, x: a * x, 3, **PRECISE)
    got = torch.autograd.grad(flow.log_prob(x).sum(), a)[0]
    assert_close(got, ((-0.8 * torch.ones(5, dtype=F64)).exp() * (x**2).sum(-1) - 3).sum(), tol=1e-7)


# --- flow matching ----------------------------------------------------------------------------------------------------


class Watched:
    """A field that remembers what it was asked; from x_t = (1 − t) x₀ + t x the noise x₀ can be had back."""

    def __init__(self, field):
        self.field = field

    def __call__(self, t, at, *context):
        self.t, self.at, self.context = t, at, context
        return self.field(t, at, *context)

    def noise(self, x):
        t = self.t[..., None]
        return (self.at - t * x) / (1 - t)


@pytest.mark.parametrize("c", [0, 2])
@pytest.mark.parametrize("d", SIZES)
def test_the_loss_is_that_of_a_loop(d, c):
    field = network(d, c, seed=d)
    for batch in BATCHES:
        watched, (x, *context) = Watched(field), inputs(batch, d, c, seed=3)
        loss = flow_matching_loss(watched, x, *context, generator=seeded(4))
        assert loss.shape == ()
        assert watched.t.shape == batch
        assert all(torch.equal(one, other) for one, other in zip(watched.context, context, strict=True))
        columns = (part.reshape(-1, part.shape[-1]) for part in (x, watched.noise(x), *context))
        total, n = 0.0, 0
        for t, target, noise, *beside in zip(watched.t.reshape(-1), *columns):
            v = field(t, (1 - t) * noise + t * target, *beside)
            total, n = total + sum((v[i] - (target[i] - noise[i])) ** 2 for i in range(d)), n + 1
        assert_close(loss, total / n)


def test_noise_and_time_are_standard_normal_and_uniform_each_by_itself():
    n = 40_000
    watched, x = Watched(lambda t, x: 0 * x), 3 + 2 * normal(n, 2, seed=1)
    flow_matching_loss(watched, x, generator=seeded(2))
    t, noise = watched.t, watched.noise(x)
    assert 0 <= t.min() < 0.001
    assert 0.999 < t.max() <= 1
    for numbers in (t, noise):  # with all the digits of float64
        assert (numbers - numbers.float()).abs().median() > 1e-10
    limit = 1.95 / n**0.5  # a Kolmogorov–Smirnov distance that one set of numbers in a thousand exceeds
    for cdf in (t, LATENT.cdf(noise[:, 0]), LATENT.cdf(noise[:, 1])):
        assert (cdf.sort().values - (torch.arange(n) + 0.5) / n).abs().max() < limit
    together = torch.cat([t[:, None], noise, x], -1).T.corrcoef()
    assert (together - torch.eye(5)).abs().max() < 5 / n**0.5


@pytest.mark.parametrize(("d", "m", "s"), [(1, 0.0, 1.5), (2, 3.0, 0.5), (3, -1.0, 2.0)])
def test_the_best_field_of_a_gaussian_leaves_the_known_rest(d, m, s):
    """For data N(m, s² I): v = m + (t s² − (1 − t))/V (x − t m) with V = (1 − t)² + t² s², and d s π/2 is left."""

    def best(t, x):
        t = t[..., None]
        return m + (t * s**2 - (1 - t)) / ((1 - t) ** 2 + t**2 * s**2) * (x - t * m)

    n, generator = 20_000, seeded(d)
    losses = torch.stack([flow_matching_loss(best, m + s * normal(n, d, seed=i), None, generator) for i in range(10)])
    assert (losses.mean() - d * s * math.pi / 2).abs() < 5 * losses.std() / 10**0.5
    assert losses.std() < 0.02 * losses.mean()
    x = m + s * normal(n, d, seed=1)
    for worse in (lambda t, x: best(t, x) + 0.3, lambda t, x: best(t, 1.2 * x), lambda t, x: best(1 - t, x)):
        assert flow_matching_loss(worse, x, generator=seeded(1)) > flow_matching_loss(best, x, generator=seeded(1))


def test_the_best_field_leads_the_noise_to_the_data():
    """Flow matching and the flow agree about time: the path along the best field makes N(m, s² I)."""
    m, s = tensor([3.0, -1.0]), tensor(0.5)

    def best(t, x):
        return m + (t * s**2 - (1 - t)) / ((1 - t) ** 2 + t**2 * s**2) * (x - t * m)

    flow, x = ContinuousFlow(best, 2, **PRECISE), m + s * normal(6, 2)
    assert_close(flow.log_prob(x), Normal(m, s).log_prob(x).sum(-1), tol=1e-7)
    assert_close(flow.inverse(normal(6, 2))[0], x, tol=1e-7)


def test_the_gradient_is_that_of_the_marginal_regression():
    """E |v − (x − x₀)|² and E |v − u(x_t, t)|² with u = E[x − x₀ | x_t] differ by what no parameter can change."""
    centres, scales, n = tensor([[2.0, 1.0], [-1.0, 0.5], [0.0, -2.0]]), tensor([0.3, 0.6, 1.0]), 200_000
    weights = tensor([0.5, 0.3, 0.2])

    def marginal(t, x):
        t = t[:, None]
        V = (1 - t) ** 2 + t**2 * scales**2
        away = x[:, None] - t[..., None] * centres
        log_weight = weights.log() - (away**2).sum(-1) / (2 * V) - V.log()
        of_each = centres + ((t * scales**2 - (1 - t)) / V)[..., None] * away
        return (log_weight.softmax(-1)[..., None] * of_each).sum(-2)

    def features(t, x):
        t = t[:, None]
        return torch.cat([x, t, t * x, x.sin(), torch.ones_like(t)], -1)

    W = (0.3 * normal(8, 2)).requires_grad_()
    which = torch.multinomial(weights, n, replacement=True, generator=seeded(1))
    x = centres[which] + scales[which, None] * normal(n, 2, seed=2)
    watched = Watched(lambda t, x: features(t, x) @ W)
    conditional = torch.autograd.grad(flow_matching_loss(watched, x, generator=seeded(3)), W)[0]
    t, at, noise = watched.t, watched.at, watched.noise(x)
    u, phi = marginal(t, at), features(t, at)
    regression = torch.autograd.grad(((phi @ W - u) ** 2).sum(-1).mean(), W)[0]
    each = 2 * phi[:, :, None] * (u - (x - noise))[:, None]
    assert_close(conditional - regression, each.mean(0), tol=1e-8)
    assert ((conditional - regression).abs() < 5 * each.std(0) / n**0.5).all()
    assert (regression.abs() > 20 * each.std(0) / n**0.5).sum() > 8


def test_the_loss_has_the_generators_randomness_and_the_datas_dtype():
    field = network(3)

    def run(generator=None):
        return flow_matching_loss(field, normal(20, 3), generator=generator)

    before = torch.get_rng_state()
    assert run(seeded(1)) == run(seeded(1))
    assert run(seeded(1)) != run(seeded(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert run() != run()
    for dtype in (F32, F64):
        watched = Watched(network(3, 2, dtype=dtype))
        loss = flow_matching_loss(watched, *(part.to(dtype) for part in inputs((4,), 3, 2)))
        assert loss.dtype == watched.t.dtype == watched.at.dtype == dtype


def test_the_gradients_of_the_loss_are_right():
    """By the data, the context and the parameters, against finite differences."""
    field = network(2, 2)
    names = [name for name, _ in field.named_parameters()]
    leaves = [part.clone().requires_grad_() for part in (*inputs((3,), 2, 2), *field.parameters())]

    def loss(x, context, *values):
        def at_values(t, x, context):
            return torch.func.functional_call(field, dict(zip(names, values)), (t, x, context))

        return flow_matching_loss(at_values, x, context, seeded(1))

    assert gradcheck(loss, leaves)


# --- training ---------------------------------------------------------------------------------------------------------

TARGET = MultivariateNormal(tensor([1.5, -1.0]), tensor([[1.5, 0.5], [0.5, 0.4]]))


def drawn(n, generator):
    return TARGET.mean + torch.randn(n, 2, generator=generator, dtype=F64) @ TARGET.scale_tril.mT


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_S3_17_maximum_likelihood_comes_down_to_the_entropy(trace):
    torch.manual_seed(0)
    field = VelocityNetwork(2, (32,)).double()
    flow = ContinuousFlow(field, trace=trace, method="rk4", options={"step_size": 0.25})
    losses = fit(
        lambda x: -flow.log_prob(x).mean(), flow.parameters(), lambda g: drawn(256, g), 100, 0.05, progress=False
    )
    fresh, sure = drawn(10_000, seeded(2)), ContinuousFlow(field, **STEPS)
    with torch.no_grad():
        gap = (TARGET.log_prob(fresh) - sure.log_prob(fresh)).mean().item()  # Monte-Carlo estimate of the divergence
    assert -0.01 < gap < 0.03
    assert losses[-20:].mean().item() == pytest.approx(TARGET.entropy().item(), abs=0.1)


def test_flow_matching_trains_the_same_flow_without_a_path():
    torch.manual_seed(0)
    field = VelocityNetwork(2, (64,)).double()
    fit(lambda x: flow_matching_loss(field, x), field.parameters(), lambda g: drawn(1024, g), 400, 0.02, progress=False)
    fresh, flow = drawn(10_000, seeded(2)), ContinuousFlow(field, **STEPS)
    with torch.no_grad():
        gap = (TARGET.log_prob(fresh) - flow.log_prob(fresh)).mean().item()
        samples = flow.sample((20_000,), generator=seeded(3))
    assert -0.01 < gap < 0.03
    assert_close(samples.mean(0), TARGET.mean, tol=0.1)
    assert_close(samples.T.cov(), TARGET.covariance_matrix, tol=0.15)


# --- what is refused --------------------------------------------------------------------------------------------------


def says(message):
    return f"^{re.escape(message)}$"


@pytest.mark.parametrize("mistake", BAD_POINTS)
@pytest.mark.parametrize("way", ["forward", "inverse", "log_prob", "loss", "network"])
def test_bad_points(way, mistake, own_errors):
    field = VelocityNetwork(2)
    run = {"loss": lambda x: flow_matching_loss(field, x), "network": lambda x: field(torch.tensor(0.5), x)}.get(way)
    x, error, words = BAD_POINTS[mistake]
    with pytest.raises(error, match=r"^x: ") as caught:
        (run or getattr(ContinuousFlow(field), way))(x)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize("way", ["forward", "inverse", "log_prob"])
@pytest.mark.parametrize("field", [VelocityNetwork(3), lambda t, x: x], ids=["network", "function"])
def test_points_of_another_width(field, way, own_errors):
    for shape in [(4, 2), (4,), (3, 4)]:
        with pytest.raises(ValueError, match=says(f"x: expected shape (*batch, 3), got {shape}")):
            getattr(ContinuousFlow(field, 3), way)(torch.ones(shape))


@pytest.mark.parametrize("way", ["forward", "inverse", "log_prob", "sample"])
def test_a_context_that_is_missing_wrong_or_unwanted(way, own_errors):
    x = (4,) if way == "sample" else torch.ones(4, 2)
    for taking in (ContinuousFlow(VelocityNetwork(2, context=3)), ContinuousFlow(lambda t, x, c: x, 2, 3)):
        with pytest.raises(ValueError, match=says("context: expected shape (4, 3), got None")):
            getattr(taking, way)(x)
        for shape in [(4, 2), (3,), (1, 3), (3, 4)]:
            with pytest.raises(ValueError, match=says(f"context: expected shape (4, 3), got shape {shape}")):
                getattr(taking, way)(x, torch.ones(shape))
    for plain in (ContinuousFlow(VelocityNetwork(2)), ContinuousFlow(lambda t, x: x, 2)):
        with pytest.raises(ValueError, match=says("context: expected None, got shape (4, 3)")):
            getattr(plain, way)(x, torch.ones(4, 3))


def test_the_network_and_the_loss_want_their_context(own_errors):
    taking, plain, x, t = VelocityNetwork(2, context=3), VelocityNetwork(2), torch.ones(4, 2), torch.tensor(0.5)
    for run in (lambda: taking(t, x), lambda: flow_matching_loss(taking, x)):
        with pytest.raises(ValueError, match=says("context: expected shape (4, 3), got None")):
            run()
    for run in (lambda: plain(t, x, torch.ones(4, 3)), lambda: flow_matching_loss(plain, x, torch.ones(4, 3))):
        with pytest.raises(ValueError, match=says("context: expected None, got shape (4, 3)")):
            run()


@pytest.mark.parametrize("way", ["forward", "inverse", "log_prob"])
def test_points_of_another_dtype_than_the_parameters(way, own_errors):
    for dtype, other in [(F32, F64), (F64, F32)]:
        flow = ContinuousFlow(VelocityNetwork(2)).to(dtype)
        message = says(f"x: expected {dtype} like the parameters, got {other}; see .double() and .float()")
        with pytest.raises(TypeError, match=message):
            getattr(flow, way)(torch.ones(4, 2, dtype=other))


@pytest.mark.parametrize("trace", ["Exact", "hutch", "", None])
def test_unknown_traces(trace, own_errors):
    with pytest.raises(ValueError, match=says(f"trace: expected 'exact' or 'hutchinson', got {trace!r}")):
        ContinuousFlow(VelocityNetwork(2), trace=trace)


def test_a_field_without_features(own_errors):
    with pytest.raises(ValueError, match=r"^features: expected a number of coordinates"):
        ContinuousFlow(lambda t, x: x)


BAD_FIELDS = {
    "a number each": (lambda t, x: x.sum(-1), (4,)),
    "a number each in a column": (lambda t, x: x.sum(-1, keepdim=True), (4, 1)),
    "one vector": (lambda t, x: x[0], (2,)),
    "one axis more": (lambda t, x: x[None], (1, 4, 2)),
    "too long": (lambda t, x: torch.cat([x, x], -1), (4, 4)),
    "a scalar": (lambda t, x: x.sum(), ()),
}


@pytest.mark.parametrize("mistake", BAD_FIELDS)
def test_fields_with_a_wrong_shape(mistake, own_errors):
    field, got = BAD_FIELDS[mistake]
    message = says(f"field: expected shape (4, 2) like the points, got {got}")
    flow = ContinuousFlow(field, 2)
    for run in (flow, flow.inverse, flow.log_prob, lambda x: flow_matching_loss(field, x)):
        with pytest.raises(ValueError, match=message):
            run(torch.ones(4, 2))
