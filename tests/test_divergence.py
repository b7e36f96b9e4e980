"""companion.divergence: held against sympy, brute-force Jacobians, closed forms and exact variances.

Tests of a row of the ledger of the source article (S0.1–S0.10) and of a golden number (G0.1–G0.8) carry the row's
name.
"""

import itertools
import math

import pytest
import sympy as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import BAD_POINTS, RandomField, assert_close, evaluate, peak_memory, points, seeded
from torch.autograd import gradcheck, gradgradcheck

import companion.points
from companion.divergence import curl, divergence, flux, hutchinson_divergence, laplacian

F32, F64 = torch.float32, torch.float64
MiB = 2**20
SEEDS = st.integers(0, 2**31 - 1)
BATCHES = st.sampled_from([(), (3,), (2, 3), (1,), (0,), (2, 0)])


def random_network(seed, d, width=8, dtype=F64):
    weights = [torch.randn(shape, generator=seeded(seed), dtype=F64).to(dtype) for shape in ((width, d), (d, width))]
    return lambda p: weights[1] @ torch.tanh(weights[0] @ p + 0.3)


# --- the golden numbers and the rows of the ledger --------------------------------------------------------------

AT = torch.tensor([1.0, 2.0], dtype=F64)


def v(p):
    return torch.stack([p[0] ** 2 * p[1], p[0] * p[1] ** 3])


def phi(p):
    return p[0] + p[1] ** 2


def partial(f, i, component=None):
    """∂f/∂xᵢ at (1, 2), or that of one component."""
    return torch.func.grad(f if component is None else lambda p: f(p)[component])(AT)[i]


def test_S0_1_and_G0_1_divergence_in_the_plane():
    assert_close(divergence(v, AT), 16)
    assert_close(partial(v, 0, 0) + partial(v, 1, 1), 16)


def test_S0_2_the_divergence_is_not_a_gradient():
    """grad takes a scalar to a vector, div takes a vector to a scalar; neither takes the other's argument."""
    assert torch.func.grad(phi)(AT).shape == (2,)
    assert divergence(v, AT).shape == ()
    with pytest.raises(ValueError, match="field: expected shape"):
        divergence(phi, AT)
    with pytest.raises(ValueError, match="f: expected shape"):
        laplacian(v, AT)


def test_S0_3_only_the_diagonal_of_the_jacobian_counts():
    x = points(3, seed=1)
    crosswise = torch.tensor([[0.0, 5, -2], [7, 0, 1], [3, 4, 0]], dtype=F64)
    field = random_network(1, 3)
    assert_close(divergence(lambda p: field(p) + crosswise @ p, x), divergence(field, x))
    assert_close(divergence(lambda p: field(p) + 2 * p, x), divergence(field, x) + 6)


def test_S0_4_and_G0_3_to_G0_5_nabla_does_not_commute():
    along = (v(AT) * torch.func.grad(phi)(AT)).sum()
    assert_close(along, 34)  # G0.3: (v·∇)φ
    assert_close(phi(AT) * divergence(v, AT), 80)  # G0.4: φ ∇·v
    assert_close(divergence(lambda p: phi(p) * v(p), AT), 114)  # G0.5: ∇·(φv), their sum


@pytest.mark.parametrize("angle", [0.0, 0.7, 2.5, -1.9])
def test_S0_5_and_G0_8_the_naive_sum_is_wrong_in_polar_coordinates(angle):
    """v_r = r², v_θ = 0 at r = 2: 3r = 6, where ∂v_r/∂r alone gives 4."""
    r = torch.tensor(2.0, dtype=F64)
    x = r * torch.tensor([math.cos(angle), math.sin(angle)], dtype=F64)
    assert_close(divergence(lambda p: p.norm() * p, x), 6)
    assert_close(torch.func.grad(lambda r: r * r**2)(r) / r, 6)
    assert_close(torch.func.grad(lambda r: r**2)(r), 4)


def test_S0_6_and_S0_8_nabla_is_applied_not_multiplied():
    """(∂/∂x)P is a derivative, 4 at (1, 2); with the ∂ signs lost, x·P is 2 and x·P + y·Q is 18 instead of 16."""
    assert_close(partial(v, 0, 0), 4)
    assert_close(AT[0] * v(AT)[0], 2)
    assert_close(AT @ v(AT), 18)


def test_S0_7_and_G0_2_the_slip_depends_on_the_frame_and_the_divergence_does_not():
    def slip(field, x):
        J = torch.func.jacrev(field)(x)
        return J[0, 0] + J[1, 0]

    R = torch.tensor([[math.cos(0.7), -math.sin(0.7)], [math.sin(0.7), math.cos(0.7)]], dtype=F64)

    def turned(p):
        return R @ v(R.T @ p)

    assert_close(slip(v, AT), 12)
    assert_close(slip(turned, R @ AT), 3.208661, tol=5e-7)
    assert_close(divergence(v, AT), 16)
    assert_close(divergence(turned, R @ AT), 16)


def test_S0_9_the_product_with_nabla_is_no_product():
    """∂(φP)/∂x = φ ∂P/∂x + P ∂φ/∂x = 20 + 2 at (1, 2), and a product would give φ ∂P/∂x alone."""
    both = partial(lambda p: phi(p) * v(p)[0], 0)
    assert_close(both, 22)
    assert_close(phi(AT) * partial(v, 0, 0), 20)
    assert_close(v(AT)[0] * partial(phi, 0), 2)


def test_S0_10_and_G0_7_four_dimensions():
    i, x = torch.arange(1.0, 5, dtype=F64), torch.arange(1.0, 5, dtype=F64)

    def field(p):
        return i * p**2 + p.roll(1)

    h = 1e-3 * torch.eye(4, dtype=F64)
    central = sum((field(x + e) - field(x - e))[k] / 2e-3 for k, e in enumerate(h))
    assert_close(divergence(field, x), 60)
    assert_close(central, 60)


def test_S0_10_and_G0_6_the_flux_through_the_unit_square():
    corners = torch.zeros(2, dtype=F64), torch.ones(2, dtype=F64)
    grid = (torch.arange(400, dtype=F64) + 0.5) / 400
    inside = divergence(v, torch.cartesian_prod(grid, grid)).mean()
    assert_close(flux(v, *corners), 1)
    assert_close(inside, 1, tol=1e-5)


# --- against sympy, on fresh fields -----------------------------------------------------------------------------


@given(SEEDS, st.integers(2, 6), BATCHES)
def test_divergence_is_sympys(seed, d, batch):
    field, x = RandomField(seed, d), points(*batch, d, seed=seed)
    want = [sum(e.diff(s) for e, s in zip(field.expressions, field.symbols, strict=True))]
    assert_close(divergence(field, x), evaluate(want, field.symbols, x)[..., 0])


@given(SEEDS, BATCHES)
def test_curl_is_sympys_in_space(seed, batch):
    field, x = RandomField(seed, 3), points(*batch, 3, seed=seed)
    partials = {(j, k): field.expressions[k].diff(field.symbols[j]) for j, k in itertools.product(range(3), repeat=2)}
    want = [sum(sp.LeviCivita(i, j, k) * slope for (j, k), slope in partials.items()) for i in range(3)]
    assert_close(curl(field, x), evaluate(want, field.symbols, x))


@given(SEEDS, BATCHES)
def test_curl_is_sympys_in_the_plane(seed, batch):
    field, x = RandomField(seed, 2), points(*batch, 2, seed=seed)
    (P, Q), (s, t) = field.expressions, field.symbols
    assert_close(curl(field, x), evaluate([Q.diff(s) - P.diff(t)], field.symbols, x)[..., 0])


@given(SEEDS, st.integers(1, 6), BATCHES)
def test_laplacian_is_sympys(seed, d, batch):
    field, x = RandomField(seed, d, m=1), points(*batch, d, seed=seed)
    want = [sum(field.expressions[0].diff(s, 2) for s in field.symbols)]
    assert_close(laplacian(lambda p: field(p)[0], x), evaluate(want, field.symbols, x)[..., 0])


@pytest.mark.parametrize("batch", [(), (5,), (2, 3)])
@pytest.mark.parametrize("d", [1, 2, 3, 7, 20])
def test_divergence_is_the_trace_of_a_networks_jacobian(d, batch):
    field, x = random_network(d, d), points(*batch, d, seed=d)
    traces = [torch.autograd.functional.jacobian(field, p).trace() for p in x.reshape(-1, d)]
    assert_close(divergence(field, x), torch.stack(traces).reshape(batch), tol=1e-12)


@pytest.mark.parametrize("d", [2, 5])
def test_laplacian_is_the_trace_of_a_networks_hessian(d):
    field, x = random_network(d, d), points(4, d, seed=d)
    traces = [torch.autograd.functional.hessian(lambda p: field(p).prod(), p).trace() for p in x]
    assert_close(laplacian(lambda p: field(p).prod(), x), torch.stack(traces), tol=1e-12)


def test_a_plain_module_will_do():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.SiLU(), torch.nn.Linear(8, 3)).double()
    x = points(4, 3)
    assert_close(divergence(net, x), torch.stack([torch.func.jacrev(net)(p).trace() for p in x]), tol=1e-12)


FUNCTIONS = {
    "divergence": divergence,
    "hutchinson": lambda field, x: hutchinson_divergence(field, x, 3, seeded(1)),
    "gaussian": lambda field, x: hutchinson_divergence(field, x, 3, seeded(1), "gaussian"),
    "curl": curl,
    "laplacian": lambda field, x: laplacian(lambda p: field(p)[0], x),
    "flux": lambda field, x: flux(field, x, x + 1, nodes=5),
}
EXACT = {name: FUNCTIONS[name] for name in ("divergence", "curl", "laplacian", "flux")}


def result_shape(name, batch):
    return (*batch, 3) if name == "curl" else batch


@pytest.mark.parametrize("batch", [(), (4,), (2, 3), (1, 1), (0,), (2, 0)])
@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_batch_axes_and_dtype_follow_the_points(name, dtype, batch):
    got = FUNCTIONS[name](random_network(3, 3, dtype=dtype), points(*batch, 3, dtype=dtype))
    assert got.shape == result_shape(name, batch)
    assert got.dtype == dtype


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_empty_batch_of_a_field_that_cannot_be_mapped_over_nothing(name):
    got = FUNCTIONS[name](lambda p: p.sin() * p.sum(), points(0, 3))
    assert got.shape == result_shape(name, (0,))


@pytest.mark.parametrize("name", EXACT)
def test_a_batch_is_its_points_one_by_one(name):
    field, x = random_network(4, 3), points(2, 3, 3, seed=4)
    alone = torch.stack([EXACT[name](field, p) for p in x.reshape(-1, 3)])
    assert_close(EXACT[name](field, x), alone.reshape(result_shape(name, (2, 3))), tol=1e-13)


@pytest.mark.parametrize("name", EXACT)
def test_float32_is_as_good_as_float32_can_be(name):
    x = points(50, 3, seed=5)
    low = EXACT[name](random_network(5, 3, dtype=F32), x.float())
    assert_close(low.double(), EXACT[name](random_network(5, 3), x), tol=2e-5)


@pytest.mark.parametrize("name", EXACT)
def test_constant_and_linear_fields(name):
    x = points(2, 3)
    zero = torch.zeros(result_shape(name, (2,)), dtype=F64)
    assert_close(EXACT[name](lambda p: torch.ones(3, dtype=F64), x), zero)
    size = torch.full_like(zero, {"divergence": 3.0, "flux": 3.0}.get(name, 0.0))
    assert_close(EXACT[name](lambda p: p, x), size)


@pytest.mark.parametrize("name", ["divergence", "hutchinson", "gaussian", "curl", "laplacian"])
def test_the_result_stays_on_the_device_of_the_points(name):
    call = {
        "hutchinson": lambda f, x: hutchinson_divergence(f, x),
        "gaussian": lambda f, x: hutchinson_divergence(f, x, distribution="gaussian"),
    }.get(name, FUNCTIONS[name])
    assert call(lambda p: p.sin() * p.sum(), torch.empty(2, 3, device="meta")).device.type == "meta"


# --- what holds for every field ---------------------------------------------------------------------------------


@given(SEEDS, st.integers(2, 6))
def test_divergence_and_laplacian_do_not_depend_on_the_frame(seed, d):
    field, x = RandomField(seed, d), points(4, d, seed=seed)
    R, _ = torch.linalg.qr(torch.randn(d, d, generator=seeded(seed), dtype=F64))
    turned = x @ R.T
    assert_close(divergence(lambda p: R @ field(R.T @ p), turned), divergence(field, x), tol=1e-9)
    assert_close(laplacian(lambda p: field(R.T @ p)[0], turned), laplacian(lambda p: field(p)[0], x), tol=1e-9)


@given(SEEDS)
def test_curl_turns_with_the_frame(seed):
    field, x = RandomField(seed, 3), points(4, 3, seed=seed)
    R, _ = torch.linalg.qr(torch.randn(3, 3, generator=seeded(seed), dtype=F64))
    R = R * R.det()  # a rotation: a reflection would flip the curl
    assert_close(curl(lambda p: R @ field(R.T @ p), x @ R.T), curl(field, x) @ R.T, tol=1e-9)


@given(SEEDS, st.integers(2, 5))
def test_linearity_and_the_product_rule(seed, d):
    u, w, x = RandomField(seed, d), RandomField(seed + 1, d), points(4, d, seed=seed)
    assert_close(divergence(lambda p: 2 * u(p) - 3 * w(p), x), 2 * divergence(u, x) - 3 * divergence(w, x))

    def f(p):
        return p.sin().sum() + 2

    slope = torch.vmap(torch.func.grad(f))(x)
    want = torch.vmap(f)(x) * divergence(u, x) + (torch.vmap(u)(x) * slope).sum(-1)
    assert_close(divergence(lambda p: f(p) * u(p), x), want)


@given(SEEDS)
def test_a_curl_has_no_divergence_and_a_gradient_no_curl(seed):
    field, x = RandomField(seed, 3), points(4, 3, seed=seed)
    assert_close(divergence(lambda p: curl(field, p), x), torch.zeros(4))
    assert_close(curl(torch.func.grad(lambda p: field(p)[0]), x), torch.zeros(4, 3))
    assert_close(divergence(torch.func.grad(lambda p: field(p)[0]), x), laplacian(lambda p: field(p)[0], x))


# --- differentiable again, and at home under torch.func -----------------------------------------------------------


@pytest.mark.parametrize("name", FUNCTIONS)
def test_first_and_second_derivatives_are_right(name):
    """With respect to the points and to a parameter of the field, against finite differences."""
    W, x = torch.randn(3, 3, generator=seeded(1), dtype=F64), points(2, 3, seed=6)

    def f(x, W):
        return FUNCTIONS[name](lambda p: torch.tanh(W @ p) * p.sum(), x)

    inputs = x.requires_grad_(), W.requires_grad_()
    assert gradcheck(f, inputs)
    assert gradgradcheck(f, inputs)


def test_a_loss_on_a_divergence_trains_a_network():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2)).double()
    x = points(32, 2, seed=7)
    target = torch.sin(2 * x[:, 0]) + x[:, 1]
    optimizer, losses = torch.optim.Adam(net.parameters(), lr=0.05), []
    for _ in range(80):
        loss = (divergence(net, x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0.5
    assert losses[-1] < 0.02


@pytest.mark.parametrize("name", ["divergence", "hutchinson", "curl", "laplacian"])
def test_inside_vmap_grad_and_jacfwd(name):
    call = {"hutchinson": lambda f, x: hutchinson_divergence(f, x, 4)}.get(name, FUNCTIONS[name])
    field, x = RandomField(11, 3), points(5, 3, seed=8)
    diagonal = RandomField(11, 3, trigonometric=False)
    diagonal.e = 2 * torch.eye(3, dtype=torch.long)[:, None].expand(3, 4, 3)  # vᵢ = c·xᵢ²: every ±1 probe is exact
    field = diagonal if name == "hutchinson" else field

    def mapped(x):
        return torch.vmap(lambda p: call(field, p), randomness="different")(x)

    assert_close(mapped(x), call(field, x))
    forward = torch.func.jacfwd(lambda x: call(field, x).sum(), randomness="same")(x)
    assert_close(torch.func.grad(lambda x: call(field, x).sum())(x), forward)
    assert forward.abs().max() > 0.1


def test_points_and_parameters_are_left_alone():
    W, x = torch.ones(3, 3, requires_grad=True), torch.ones(2, 3, requires_grad=True)
    before = x.detach().clone()
    got = divergence(lambda p: W @ p, x)
    assert got.requires_grad
    assert W.grad is None
    assert x.grad is None
    assert torch.equal(x, before)
    with torch.no_grad():
        silent = divergence(lambda p: W @ p, x)
    assert not silent.requires_grad
    assert torch.equal(silent, got)


# --- memory -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["divergence", "laplacian", "hutchinson"])
def test_memory_does_not_grow_as_batch_times_d_times_d(name, monkeypatch):
    """2048 points in 64 dimensions: 1 MiB, and 64 MiB for all Jacobians."""
    x, W = points(2048, 64), points(64, 64, seed=1)
    run = {
        "divergence": lambda: divergence(lambda p: torch.tanh(W @ p), x),
        "laplacian": lambda: laplacian(lambda p: torch.tanh(W @ p).sum(), x),
        "hutchinson": lambda: hutchinson_divergence(lambda p: torch.tanh(W @ p), x, 64),
    }[name]
    assert peak_memory(run) < 12 * MiB
    monkeypatch.setattr(companion.points, "BLOCK", 2**40)
    assert peak_memory(run) > 64 * MiB  # all at once: the measurement would have seen it


@pytest.mark.parametrize("block", [1, 1000, 2**40])
def test_the_size_of_a_block_does_not_change_the_result(block, monkeypatch):
    field, x = random_network(9, 7), points(11, 7, seed=9)
    calls = [
        lambda: divergence(field, x),
        lambda: laplacian(lambda p: field(p)[0], x),
        lambda: hutchinson_divergence(field, x, 10, seeded(3)),
    ]
    want = [call() for call in calls]
    monkeypatch.setattr(companion.points, "BLOCK", block)
    for call, value in zip(calls, want, strict=True):
        assert_close(call(), value, tol=1e-13)


# --- Hutchinson's estimator -------------------------------------------------------------------------------------

J = torch.tensor(
    [[2.0, -1.0, 0.5, 3.0], [4.0, -0.5, 1.0, 0.0], [-2.5, 2.0, 1.5, -1.0], [0.0, 1.0, 3.0, -2.0]], dtype=F64
)
S = (J + J.T) / 2
VARIANCE = {
    "rademacher": 2 * (S - S.diag().diag()).square().sum().item(),
    "gaussian": 2 * S.square().sum().item(),
}
DISTRIBUTIONS = list(VARIANCE)


def estimates(number, probes=1, distribution="rademacher", seed=0):
    """Independent estimates of tr J: the same linear field at `number` equal points."""
    x = torch.zeros(number, 4, dtype=F64)
    return hutchinson_divergence(lambda p: J @ p, x, probes, seeded(seed), distribution)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_the_estimate_is_unbiased_with_the_variance_of_its_docstring(distribution):
    number, variance = 200_000, VARIANCE[distribution]
    e = estimates(number, distribution=distribution)
    assert abs(e.mean() - J.trace()) < 4 * math.sqrt(variance / number)
    assert e.var().item() == pytest.approx(variance, rel=0.03)


def test_the_two_variances_are_told_apart():
    """What the tests above can see: J instead of its symmetric part, or the diagonal counted in, is another number."""
    assert VARIANCE["gaussian"] > 1.1 * VARIANCE["rademacher"]
    assert abs(2 * J.square().sum() / VARIANCE["gaussian"] - 1) > 0.3


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("probes", [2, 5, 20])
def test_the_variance_falls_as_one_over_probes(distribution, probes):
    e = estimates(40_000, probes, distribution)
    assert e.var().item() == pytest.approx(VARIANCE[distribution] / probes, rel=0.06)
    assert abs(e.mean() - J.trace()) < 4 * math.sqrt(VARIANCE[distribution] / probes / 40_000)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_the_estimate_of_a_nonlinear_field_is_unbiased(distribution):
    field, x = random_network(12, 5), points(5, seed=12)
    e = hutchinson_divergence(field, x.expand(50_000, 5), 1, seeded(1), distribution)
    assert abs(e.mean() - divergence(field, x)) < 4 * e.std() / math.sqrt(50_000)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_points_of_a_batch_get_independent_probes(distribution):
    e = estimates(40_000, distribution=distribution).reshape(-1, 2)
    assert abs(torch.corrcoef(e.T)[0, 1]) < 4 / math.sqrt(len(e))
    assert len(e.flatten().unique()) > 4


def test_one_sign_probe_is_exact_for_a_diagonal_jacobian_and_a_gaussian_one_is_not():
    x = points(6, 3, seed=13)
    want = 3 * (x**2).sum(-1)
    assert_close(hutchinson_divergence(lambda p: p**3, x, 1, seeded(0)), want)
    rough = hutchinson_divergence(lambda p: p**3, x, 1, seeded(0), "gaussian")
    assert ((rough - want).abs() > 1e-3).all()


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_the_generator_decides(distribution):
    generator = seeded(4)
    first, second = (hutchinson_divergence(lambda p: J @ p, points(5, 4), 3, generator, distribution) for _ in range(2))
    again = hutchinson_divergence(lambda p: J @ p, points(5, 4), 3, seeded(4), distribution)
    other = hutchinson_divergence(lambda p: J @ p, points(5, 4), 3, seeded(5), distribution)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_without_a_generator_torchs_own_is_used_and_with_one_it_is_left_alone(distribution):
    def estimate(generator=None):
        return hutchinson_divergence(lambda p: J @ p, points(5, 4), 3, generator, distribution)

    torch.manual_seed(6)
    first, second = estimate(), estimate()
    torch.manual_seed(6)
    assert torch.equal(estimate(), first)
    assert not torch.equal(first, second)
    state = torch.get_rng_state()
    estimate(seeded(1))
    assert torch.equal(torch.get_rng_state(), state)


def test_one_sign_probe_is_the_default():
    x = points(5, 4)
    default = hutchinson_divergence(lambda p: J @ p, x, generator=seeded(2))
    assert torch.equal(default, hutchinson_divergence(lambda p: J @ p, x, 1, seeded(2), "rademacher"))


# --- flux -------------------------------------------------------------------------------------------------------


def boundary_integral(field, lower, upper):
    """The outward flux through a box, face by face, by sympy."""
    x, total = field.symbols, 0
    for i, component in enumerate(field.expressions):
        for side, sign in ((upper[i], 1), (lower[i], -1)):
            face = [(s, lower[j], upper[j]) for j, s in enumerate(x) if j != i]
            on_face = component.subs(x[i], side)
            total += sign * (sp.integrate(on_face, *face) if face else on_face)
    return total


@settings(max_examples=5)
@given(SEEDS, st.sampled_from([1, 2, 3]))
def test_flux_is_sympys_boundary_integral_and_the_integral_of_the_divergence(seed, d):
    field, n = RandomField(seed, d, trigonometric=False), 3
    low = torch.randint(-8, 0, (n, d), generator=seeded(seed)) / 4
    high = low + torch.randint(1, 8, (n, d), generator=seeded(seed + 1)) / 4
    got = flux(field, low.double(), high.double(), nodes=4)
    for box in range(n):
        lower, upper = ([sp.Rational(c) for c in corner[box].tolist()] for corner in (low, high))
        thinning = sum(e.diff(s) for e, s in zip(field.expressions, field.symbols, strict=True))
        inside = sp.integrate(thinning, *zip(field.symbols, lower, upper, strict=True))
        assert boundary_integral(field, lower, upper) == inside
        assert_close(got[box], float(inside))


@pytest.mark.parametrize("seed", range(3))
def test_flux_of_waves_in_the_plane(seed):
    field = RandomField(seed, 2)
    low, high = [sp.Rational(-1, 2), sp.Integer(0)], [sp.Rational(3, 4), sp.Integer(1)]
    want = float(boundary_integral(field, low, high).evalf(20))
    corners = (torch.tensor([*map(float, corner)], dtype=F64) for corner in (low, high))
    assert_close(flux(field, *corners), want)


def test_flux_on_a_line_is_the_difference_of_the_ends():
    low, high = points(4, 1, seed=14), points(4, 1, seed=15) + 3
    assert_close(flux(torch.sin, low, high), (high.sin() - low.sin())[:, 0])


@pytest.mark.parametrize("d", [1, 2, 3, 4, 5])
def test_flux_of_the_position_is_d_volumes(d):
    low, size = points(2, 3, d, seed=d), points(2, 3, d, seed=d + 1) + 1.5
    assert_close(flux(lambda p: p, low, low + size, nodes=2), d * size.prod(-1))


@pytest.mark.parametrize("nodes", [1, 2, 3, 8])
def test_flux_is_exact_up_to_degree_twice_nodes_minus_one(nodes):
    """For v = (x·yᵏ, 0) on [0, 2] × [0, 1] the flux is 2 / (k + 1)."""
    corners = torch.zeros(2, dtype=F64), torch.tensor([2.0, 1.0], dtype=F64)

    def got(k):
        return flux(lambda p: torch.stack([p[0] * p[1] ** k, 0 * p[0]]), *corners, nodes=nodes)

    assert_close(got(2 * nodes - 1), 1 / nodes)
    assert abs(got(2 * nodes) - 2 / (2 * nodes + 1)) > 1e-10


def test_the_default_number_of_nodes_is_sixteen():
    corners = torch.zeros(2, dtype=F64), torch.ones(2, dtype=F64)

    def wave(p):
        return torch.stack([p[0] * torch.sin(40 * p[1]), 0 * p[0]])

    assert torch.equal(flux(wave, *corners), flux(wave, *corners, nodes=16))
    assert not torch.equal(flux(wave, *corners), flux(wave, *corners, nodes=15))


def test_flux_can_be_differentiated_by_the_corners_and_the_field():
    """The derivative of ∬ ∇·v by the box's right end is ∫ ∇·v dy there; for G0.6, ∇·v = 2xy + 3xy²."""
    lower, upper = torch.zeros(2, dtype=F64), torch.ones(2, dtype=F64)
    by_upper = torch.func.grad(lambda corner: flux(v, lower, corner))(upper)
    assert_close(by_upper, [2.0, 2.5])
    W = torch.randn(3, 3, generator=seeded(2), dtype=F64).requires_grad_()
    low, high = points(2, 3).requires_grad_(), (points(2, 3, seed=1) + 3).requires_grad_()
    assert gradcheck(lambda a, b, W: flux(lambda p: torch.tanh(W @ p), a, b, nodes=3), (low, high, W))


@given(SEEDS)
def test_flux_over_area_tends_to_the_divergence(seed):
    field, x = RandomField(seed, 2), points(3, 2, seed=seed)
    h = 1e-3
    small = flux(field, x - h / 2, x + h / 2) / h**2
    assert_close(small, divergence(field, x), tol=1e-3)


# --- what is refused, and with which words --------------------------------------------------------------------------

TAKES_POINTS = {
    "divergence: x": lambda x: divergence(lambda p: p, x),
    "hutchinson_divergence: x": lambda x: hutchinson_divergence(lambda p: p, x),
    "curl: x": lambda x: curl(lambda p: p, x),
    "laplacian: x": lambda x: laplacian(lambda p: p.sum(), x),
    "flux: lower": lambda x: flux(lambda p: p, x, torch.ones(2)),
    "flux: upper": lambda x: flux(lambda p: p, torch.zeros(2), x),
}


@pytest.mark.parametrize("mistake", BAD_POINTS)
@pytest.mark.parametrize("argument", TAKES_POINTS)
def test_bad_points(argument, mistake, own_errors):
    x, error, words = BAD_POINTS[mistake]
    with pytest.raises(error, match=f"^{argument.split()[1]}: ") as caught:
        TAKES_POINTS[argument](x)
    assert all(word in str(caught.value) for word in words), str(caught.value)


BAD_FIELDS = {
    "too long": (lambda p: torch.cat([p, p]), ValueError, ["(2,)", "got (4,)"]),
    "too short": (lambda p: p[:1], ValueError, ["(2,)", "got (1,)"]),
    "a scalar": (lambda p: p.sum(), ValueError, ["(2,)", "got ()"]),
    "a matrix": (lambda p: torch.outer(p, p), ValueError, ["(2,)", "got (2, 2)"]),
    "with a batch axis": (lambda p: p[None], ValueError, ["(2,)", "ONE point of shape (2,)", "got (1, 2)", "batch"]),
    "a list": (lambda p: [p[0], p[1]], TypeError, ["expected a torch.Tensor", "got list"]),
    "a number": (lambda p: 3.0, TypeError, ["expected a torch.Tensor", "got float"]),
    "nothing": (lambda p: None, TypeError, ["expected a torch.Tensor", "got NoneType"]),
    "of lower precision": (lambda p: p.float(), TypeError, ["expected torch.float64", "got torch.float32"]),
    "whole numbers": (lambda p: p.long(), TypeError, ["expected torch.float64", "got torch.int64"]),
}


@pytest.mark.parametrize("batch", [(), (3,), (0,)])
@pytest.mark.parametrize("mistake", BAD_FIELDS)
@pytest.mark.parametrize("name", ["divergence", "hutchinson", "gaussian", "curl", "flux"])
def test_bad_fields(name, mistake, batch, own_errors):
    field, error, words = BAD_FIELDS[mistake]
    with pytest.raises(error, match=r"^field: ") as caught:
        FUNCTIONS[name](field, points(*batch, 2))
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    ("f", "error", "words"),
    [
        (lambda p: p, ValueError, ["expected shape ()", "got (2,)"]),
        (lambda p: p.sum(0, keepdim=True), ValueError, ["expected shape ()", "got (1,)"]),
        (lambda p: 3.0, TypeError, ["expected a torch.Tensor", "got float"]),
        (lambda p: p.sum().float(), TypeError, ["expected torch.float64", "got torch.float32"]),
    ],
)
def test_bad_scalar_functions(f, error, words, own_errors):
    with pytest.raises(error, match=r"^f: ") as caught:
        laplacian(f, points(3, 2))
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize("d", [1, 4, 7])
def test_curl_needs_the_plane_or_space(d, own_errors):
    with pytest.raises(ValueError, match=rf"^x: curl needs .* d = 2 or 3, got d = {d}$"):
        curl(lambda p: p, points(5, d))


@pytest.mark.parametrize("probes", [0, -1, 1.5, 2.0, True, "3", None])
def test_bad_numbers_of_probes(probes, own_errors):
    with pytest.raises(ValueError, match=r"^probes: expected a whole number ≥ 1, got ") as caught:
        hutchinson_divergence(lambda p: p, points(2), probes)
    assert str(caught.value).endswith(repr(probes))


@pytest.mark.parametrize("distribution", ["normal", "Rademacher", "", None])
def test_unknown_distributions(distribution, own_errors):
    with pytest.raises(ValueError, match=r"^distribution: expected 'rademacher' or 'gaussian', got ") as caught:
        hutchinson_divergence(lambda p: p, points(2), distribution=distribution)
    assert str(caught.value).endswith(repr(distribution))


@pytest.mark.parametrize(
    ("upper", "words"),
    [
        (torch.tensor([0.0, 1.0]), ["finite coordinates above lower's", "lower tensor([0., 0.])", "tensor([0., 1.])"]),
        (torch.tensor([1.0, -1.0]), ["finite coordinates above lower's", "tensor([ 1., -1.])"]),
        (torch.tensor([1.0, math.nan]), ["finite coordinates above lower's", "nan"]),
        (torch.tensor([1.0, math.inf]), ["finite coordinates above lower's", "inf"]),
        (torch.ones(3), ["expected shape (2,)", "like lower", "got (3,)"]),
        (torch.ones(4, 2), ["expected shape (2,)", "like lower", "got (4, 2)"]),
        (torch.ones(2, dtype=F64), ["torch.float32 like lower", "torch.float64"]),
    ],
    ids=str,
)
def test_bad_boxes(upper, words, own_errors):
    with pytest.raises(ValueError, match=r"^upper: expected ") as caught:
        flux(lambda p: p, torch.zeros(2), upper)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_one_bad_box_spoils_a_batch(own_errors):
    upper = torch.ones(3, 2)
    upper[2, 1] = -1
    with pytest.raises(ValueError, match=r"^upper: expected finite coordinates above lower's"):
        flux(lambda p: p, torch.zeros(3, 2), upper)


@pytest.mark.parametrize("nodes", [0, -1, 1.5, True, None])
def test_bad_numbers_of_nodes(nodes, own_errors):
    with pytest.raises(ValueError, match=r"^nodes: expected a whole number ≥ 1, got ") as caught:
        flux(lambda p: p, torch.zeros(2), torch.ones(2), nodes)
    assert str(caught.value).endswith(repr(nodes))


def test_too_many_nodes_for_a_face(own_errors):
    with pytest.raises(
        ValueError, match=r"^nodes: a face in 6 dimensions takes nodes\^5 points, over a million for 16$"
    ):
        flux(lambda p: p, torch.zeros(6), torch.ones(6))
