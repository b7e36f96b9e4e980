"""companion.flows: held against brute-force Jacobians, torch.distributions, quadrature and finite differences.

Only trained flows are tested, with random weights: at the identity, where a flow starts, a wrong inverse is right.
Tests of a row of the ledger of the source article (S3.2–S3.44) and of a golden number (G4.1–G4.16) carry its name.
"""

import copy
import io
import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mutants import stale
from reference import BAD_POINTS, assert_close, seeded
from torch import nn
from torch.autograd import gradcheck
from torch.distributions import MultivariateNormal

from companion.flows import ActNorm, AdditiveCoupling, AffineCoupling, Flip, Flow, InvertibleLinear, glow, nice, realnvp

F32, F64 = torch.float32, torch.float64
SIZES = [2, 3, 7, 64]
BATCHES = [(), (4,), (2, 3), (0,), (2, 0)]
INF = math.inf
SMALL = {"hidden": (16, 16)}
MAKE = {
    "additive": lambda d, c: AdditiveCoupling(d, (16,), c),
    "additive, swapped": lambda d, c: AdditiveCoupling(d, (16,), c, swap=True),
    "affine": lambda d, c: AffineCoupling(d, (16,), c),
    "affine, swapped": lambda d, c: AffineCoupling(d, (16,), c, swap=True),
    "flip": lambda d, c: Flip(),
    "actnorm": lambda d, c: ActNorm(d),
    "linear": lambda d, c: InvertibleLinear(d),
    "nice": lambda d, c: nice(d, 4, **SMALL, context=c),
    "realnvp": lambda d, c: realnvp(d, 4, **SMALL, context=c),
    "glow": lambda d, c: glow(d, 4, **SMALL, context=c),
    "a flow of flows": lambda d, c: Flow([realnvp(d, 2, **SMALL, context=c), Flip(), glow(d, 1, **SMALL)], d),
}
COUPLINGS, FLOWS = list(MAKE)[:4], ["nice", "realnvp", "glow", "a flow of flows"]
CASES = [(name, 0) for name in MAKE] + [(name, 3) for name in [*COUPLINGS, *FLOWS]]


def tensor(values):
    return torch.tensor(values, dtype=F64)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed), dtype=F64)


def trained(name, d, c=0, seed=0, dtype=F64, strength=0.5):
    """With random parameters throughout, as after training; matrices stay near their rotation."""
    torch.manual_seed(seed)
    made, generator = MAKE[name](d, c).to(dtype), seeded(seed)
    for module in made.modules():
        size = strength * {InvertibleLinear: 0.1, ActNorm: 0.5}.get(type(module), 1.0)
        for parameter in module.parameters(recurse=False):
            noise = torch.randn(parameter.shape, generator=generator, dtype=F64)
            parameter.data += (size * noise / (parameter.shape[-1] ** 0.5 if parameter.ndim == 2 else 1)).to(dtype)
        if isinstance(module, ActNorm):
            module.initialized = True
    return made.requires_grad_(False)


def inputs(batch, d, c=0, seed=1):
    return (normal(*batch, d, seed=seed), normal(*batch, c, seed=seed + 1)) if c else (normal(*batch, d, seed=seed),)


def slogdet(way, x, *context):
    """log|det| of the Jacobian at each point, by a pass of autograd for each row, one point after the other."""
    rows = [part.reshape(-1, part.shape[-1]) for part in (x, *context)]
    J = [torch.autograd.functional.jacobian(lambda p, r=rest: way(p, *r)[0], p) for p, *rest in zip(*rows)]
    return tensor([torch.linalg.slogdet(matrix).logabsdet for matrix in J]).reshape(x.shape[:-1])


class Says(nn.Module):
    """In place of a coupling's network, a function of one's own."""

    def __init__(self, function):
        super().__init__()
        self.forward = function


def coupling(d, mu, sigma, swap=False):
    """An affine coupling with the shift μ(u) and the log-scale σ(u) that one asks for."""
    made, bound = AffineCoupling(d, swap=swap).double(), AffineCoupling.bound
    made.net = Says(lambda u: torch.cat([bound * torch.atanh(sigma(u) / bound), mu(u)], -1))
    return made


# --- every transform: the change of volume, and there and back -------------------------------------------------------


@pytest.mark.parametrize("d", SIZES)
@pytest.mark.parametrize(("name", "c"), CASES)
def test_S3_15_S3_21_S3_31_log_det_is_that_of_the_jacobian(name, c, d):
    made, (x, *context) = trained(name, d, c), inputs((2,) if d == 64 else (2, 3), d, c)
    z, log_det = made(x, *context)
    assert (z - x).abs().max() > 0.1
    assert_close(log_det, slogdet(made, x, *context))
    back, log_det_back = made.inverse(z, *context)
    assert_close(log_det_back, slogdet(made.inverse, z, *context))
    assert_close(log_det_back, -log_det)
    assert_close(back, x)


@pytest.mark.parametrize("d", SIZES)
@pytest.mark.parametrize(("name", "c"), CASES)
def test_S3_36_there_and_back_both_ways_with_any_batch(name, c, d):
    made = trained(name, d, c, seed=2)
    for batch in BATCHES:
        x, *context = inputs(batch, d, c)
        for there, back in ((made, made.inverse), (made.inverse, made)):
            y, log_det = there(x, *context)
            again, log_det_again = back(y, *context)
            assert y.shape == x.shape
            assert log_det.shape == batch
            assert_close(again, x)
            assert_close(log_det_again, -log_det)


@given(st.integers(0, 2**31 - 1), st.sampled_from(CASES), st.integers(2, 9))
def test_a_batch_is_its_points_one_by_one(seed, case, d):
    made, (x, *context) = trained(case[0], d, case[1], seed, strength=0.3), inputs((2, 3), d, case[1], seed)
    for way in (made, made.inverse):
        alone = [way(*(part[i, j] for part in (x, *context))) for i in range(2) for j in range(3)]
        y, log_det = way(x, *context)
        assert_close(y, torch.stack([y for y, _ in alone]).reshape(2, 3, d))
        assert_close(log_det, torch.stack([log_det for _, log_det in alone]).reshape(2, 3))
        one_by_one = torch.func.vmap(torch.func.vmap(way))(x, *context)
        assert_close(one_by_one[0], y)
        assert_close(one_by_one[1], log_det)


def test_S3_6_S3_38_one_pass_of_each_network_there_and_back():
    flow, passes = trained("glow", 5), []
    for step in flow.transforms:
        if isinstance(step, AffineCoupling):
            step.net.register_forward_hook(lambda *_: passes.append(1))
    for run in (flow, flow.inverse, flow.log_prob):
        passes.clear()
        run(normal(6, 5))
        assert len(passes) == 4


def test_S3_5_memory_grows_in_proportion_to_the_depth():
    """It is not constant: autograd keeps what each layer needs."""

    def kept_bytes(layers):
        sizes, x = [], normal(256, 4).float()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.nbytes) or t, lambda t: t):
            realnvp(4, layers, **SMALL).log_prob(x)
        return sum(sizes)

    two, four, eight = map(kept_bytes, (2, 4, 8))
    assert eight - four == pytest.approx(2 * (four - two), rel=0.05)
    assert eight > 3 * two


# --- couplings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", SIZES)
@pytest.mark.parametrize("name", COUPLINGS)
def test_S3_22_S3_25_S3_29_what_a_coupling_keeps(name, d):
    """⌊d/2⌋ coordinates first, or with `swap` the others; the Jacobian is [I_k 0; ∂z/∂x D] with D diagonal."""
    made, (x,) = trained(name, d), inputs((5,), d)
    first, last = torch.arange(d // 2), torch.arange(d // 2, d)
    kept, moved = (last, first) if "swapped" in name else (first, last)
    for way in (made, made.inverse):
        y = way(x)[0]
        assert torch.equal(y[:, kept], x[:, kept])
        assert ((y - x)[:, moved].abs() > 1e-6).all()
        J = torch.autograd.functional.jacobian(lambda p, way=way: way(p)[0], x[0])
        assert torch.equal(J[kept][:, kept], torch.eye(len(kept), dtype=F64))
        assert (J[kept][:, moved] == 0).all()
        D = J[moved][:, moved]
        assert torch.equal(D, D.diagonal().diag())
        assert (J[moved][:, kept] != 0).any()
        assert_close(D.diagonal().log().sum(), way(x[0])[1])
    if "additive" in name:
        assert torch.equal(made(x)[1], torch.zeros(5, dtype=F64))


@pytest.mark.parametrize("d", SIZES)
@pytest.mark.parametrize(("name", "c"), [(name, c) for name, c in CASES if name in (*COUPLINGS, "nice", "realnvp")])
def test_couplings_start_as_the_identity(name, c, d):
    made, (x, *context) = MAKE[name](d, c).double().eval(), inputs((4,), d, c)
    for way in (made, made.inverse):
        assert torch.equal(way(x, *context)[0], x)
        assert torch.equal(way(x, *context)[1], torch.zeros(4, dtype=F64))


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("raw", [INF, 1e30, 500.0, 3.0, 0.5, 1e-3, 0.0, -2.0, -1e4, -INF])
def test_S3_26_the_log_scale_is_bounded_and_reaches_its_bound(raw, dtype):
    """exp overflows in float32 beyond 88.7; a bound that leaves the scale no room above 1.001 is a bug too."""
    made = AffineCoupling(3).to(dtype)
    made.net = Says(lambda u: torch.tensor([raw, raw, 0.25, -0.5], dtype=dtype).expand(*u.shape[:-1], 4))
    x = torch.tensor([[1.0, 2.0, -3.0]], dtype=dtype)
    z, log_det = made(x)
    s = 2 * math.tanh(raw / 2)
    tol = 1e-5 if dtype == F32 else 1e-12
    assert_close(log_det.double(), [2 * s], tol)
    assert_close(z.double(), [[1.0, 2 * math.exp(s) + 0.25, -3 * math.exp(s) - 0.5]], tol)
    assert_close(made.inverse(z)[0], x, 1e-12 if dtype == F64 else 1e-4)
    assert AffineCoupling.bound == 2


def test_huge_networks_give_finite_points():
    flow = trained("realnvp", 4, dtype=F32)
    for parameter in flow.parameters():
        parameter *= 30
    x = normal(100, 4).float()
    for way in (flow, flow.inverse):
        y, log_det = way(x)
        assert y.isfinite().all()
        assert (log_det.abs() <= 4 * 2 * 2).all()
        assert log_det.abs().max() > 2


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize("d", SIZES)
def test_S3_36_there_and_back_in_float32_out_to_six_sigma(name, d):
    flow = trained(name, d, dtype=F32, strength=0.3)
    x = normal(200, d).float()
    x *= 6 / x.norm(dim=-1, keepdim=True)
    assert_close(flow.inverse(flow(x)[0])[0], x, tol=1e-4)
    assert_close(flow(flow.inverse(x)[0])[0], x, tol=1e-4)


# --- the golden numbers and the rows of the ledger --------------------------------------------------------------------


class Sinh(nn.Module):
    """z = sinh x in each coordinate: a transform that a reader might write."""

    def forward(self, x, context=None):
        return x.sinh(), x.cosh().log().sum(-1)

    def inverse(self, z, context=None):
        return z.asinh(), -(1 + z**2).log().sum(-1) / 2


def halves(u):
    return u / 2


def one_less(u):
    return 1 - u


AT = tensor([1.0, 2.0])
LAYER, LAYER_2 = coupling(2, one_less, halves), coupling(2, one_less, halves, swap=True)


def test_S3_10_S3_13_G4_1_to_G4_4_a_density_needs_the_change_of_volume():
    flow, standard = Flow([Sinh()], 1), torch.distributions.Normal(tensor(0.0), tensor(1.0))
    assert_close(flow.log_prob(tensor([0.5])).exp(), 0.392745215115)  # G4.1
    assert_close(standard.log_prob(flow(tensor([0.5]))[0]).exp(), [0.348293873353])  # G4.2
    x = torch.linspace(-6, 6, 4001, dtype=F64)[:, None]
    assert_close(standard.log_prob(flow(x)[0]).exp().sum() * 0.003, 0.789639959236)  # G4.3
    assert_close(flow.log_prob(x).exp().sum() * 0.003, 1)
    inside = torch.linspace(0, 0.5, 40_001, dtype=F64)[:, None]
    assert_close(torch.trapezoid(flow.log_prob(inside).exp(), dx=0.5 / 40_000), 0.198849809459)  # G4.4
    edges = standard.cdf(flow(tensor([[0.0], [0.5]]))[0])
    assert_close(edges[1] - edges[0], [0.198849809459])


def test_S3_43_G4_5_to_G4_7_the_sum_of_both_logs_is_what_is_maximised():
    """z = ax, data N(0, 4): the best a is ½, where log|det| is −log 2, and log|det| alone would have no maximum."""
    flow = Flow([ActNorm(1)], 1).double().eval()
    deviations = tensor([[2.0], [-2.0]])  # E f(x) for f of second degree
    with torch.no_grad():
        flow.transforms[0].log_scale.fill_(math.log(2.0))
    objective = flow.log_prob(deviations).mean()
    assert_close(objective.detach(), -2.11208571376)  # G4.6
    assert_close(torch.autograd.grad(objective, flow.transforms[0].log_scale)[0], [0.0])  # G4.5
    assert_close(flow(deviations)[1].detach(), [-0.69314718056] * 2)  # G4.7
    with torch.no_grad():
        flow.transforms[0].log_scale.fill_(-math.log(10.0))
        assert_close(flow.log_prob(deviations).mean(), -198.616353, tol=1e-8)


@pytest.mark.parametrize(("swap", "want"), [(False, [1.0, 6.0, 3.0]), (True, [-24.0, 2.0, 5.0])])
def test_an_additive_coupling_adds(swap, want):
    made = AdditiveCoupling(3, swap=swap).double()
    made.net = Says(lambda u: torch.cat([4 * u, -2 * u], -1) if not swap else -5 * u.sum(-1, keepdim=True) + 10)
    assert_close(made(tensor([1.0, 2.0, 5.0]))[0], want)


def test_S3_16_G4_8_to_G4_10_one_coupling():
    z, log_det = LAYER(AT)
    assert_close(z, [1.0, 3.2974425414])  # G4.8
    assert_close(log_det, 0.5)  # G4.9
    assert_close(slogdet(LAYER, AT), 0.5)
    assert_close(Flow([LAYER], 2).log_prob(AT), -7.27444072333)  # G4.10


def test_S3_20_S3_33_G4_11_to_G4_14_two_couplings_and_the_latent_once():
    flow = Flow([LAYER, LAYER_2], 2)
    z, log_det = flow(AT)
    assert_close(z, [2.90288322339, 3.2974425414])  # G4.11
    assert_close(log_det, 2.1487212707)  # G4.12
    assert_close(log_det, LAYER(AT)[1] + LAYER_2(LAYER(AT)[0])[1])
    assert_close(flow.log_prob(AT), -9.33908495695)  # G4.13
    latent = MultivariateNormal(torch.zeros(2, dtype=F64), torch.eye(2, dtype=F64))
    assert_close(flow.log_prob(AT) + latent.log_prob(LAYER(AT)[0]), -17.1135256803)  # G4.14: the latent twice
    assert_close(Flow([], 2).log_prob(AT), latent.log_prob(AT))


@pytest.mark.parametrize(("shift", "nll"), [(3.0, 2.14472988585), (0.0, 6.64472988585)])
def test_S3_34_G4_15_G4_16_without_a_transform_of_its_own_a_coordinate_stays_as_it_is(shift, nll):
    """x₁ ~ N(3, 1), x₂ = x₁²/2 + N(0, ¼): the best NLL, and 4.5 more where x₁ must be standard normal itself."""
    norm = ActNorm(2).double().eval()
    with torch.no_grad():
        norm.loc[0] = shift
    best = coupling(2, lambda u: -((u + shift) ** 2), lambda u: torch.full_like(u, math.log(2)))
    u, v = torch.cartesian_prod(tensor([-1.0, 1.0]), tensor([-1.0, 1.0])).T  # E f(u, v) for f of second degree
    x = torch.stack([3 + u, (3 + u) ** 2 / 2 + v / 2], -1)
    assert_close(-Flow([norm, best], 2).log_prob(x).mean().detach(), nll)
    unmoved = Flow([trained("affine", 5, seed=seed) for seed in range(6)], 5)
    assert torch.equal(unmoved(normal(4, 5))[0][:, :2], normal(4, 5)[:, :2])


def test_S3_30_the_determinant_of_a_flow_may_be_negative():
    made = Flow([trained("affine", 3), Flip(), trained("affine", 3, seed=1)], 3)
    J = torch.autograd.functional.jacobian(lambda p: made(p)[0], normal(3))
    assert torch.linalg.slogdet(J).sign == -1
    assert_close(made(normal(3))[1], torch.linalg.slogdet(J).logabsdet)
    assert torch.equal(Flip()(tensor([[1.0, 2.0, 3.0]]))[0], tensor([[3.0, 2.0, 1.0]]))


@pytest.mark.parametrize("names", [("affine", "flip"), ("actnorm", "linear"), ("affine", "affine, swapped")])
def test_S3_35_S3_37_the_inverse_undoes_the_last_transform_first(names):
    first, second = (trained(name, 3) for name in names)
    flow, x = Flow([first, second], 3), normal(4, 3)
    z = flow(x)[0]
    assert_close(z, second(first(x)[0])[0])
    assert_close(flow.inverse(z)[0], first.inverse(second.inverse(z)[0])[0])
    assert (second.inverse(first.inverse(z)[0])[0] - x).abs().max() > 0.1


@pytest.mark.parametrize("name", FLOWS)
def test_S3_28_S3_32_the_density_is_one_number_a_point(name):
    """Also for as many points as coordinates, where what is no number a point would be broadcast in silence."""
    flow, latent = trained(name, 4), torch.distributions.Normal(tensor(0.0), tensor(1.0))
    for batch in BATCHES:
        z, log_det = flow(normal(*batch, 4))
        assert_close(flow.log_prob(normal(*batch, 4)), latent.log_prob(z).sum(-1) + log_det)


# --- densities --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "c"), [(name, c) for name in FLOWS for c in (0, 3)])
def test_S3_3_a_density_has_mass_one_and_a_context_changes_it(name, c):
    flow, side = trained(name, 2, c, seed=5), torch.linspace(-12, 12, 401, dtype=F64)
    grid = torch.cartesian_prod(side, side)
    contexts = [(torch.full((len(grid), c), value, dtype=F64),) if c else () for value in (2.0, -2.0)]
    densities = [flow.log_prob(grid, *context).exp() for context in contexts]
    for p in densities:
        assert p.sum() * 0.06**2 == pytest.approx(1, abs=1e-3)
    difference = (densities[0] - densities[1]).abs().sum() * 0.06**2
    assert difference > 0.1 if c else difference == 0


@pytest.mark.parametrize("c", [0, 2])
@pytest.mark.parametrize("name", FLOWS)
def test_log_prob_is_the_change_of_variables_by_finite_differences(name, c):
    flow, (x, *context) = trained(name, 3, c, seed=3), inputs((8,), 3, c)
    steps = 1e-6 * torch.eye(3, dtype=F64)
    J = torch.stack([(flow(x + h, *context)[0] - flow(x - h, *context)[0]) / 2e-6 for h in steps], -1)
    latent = torch.distributions.Normal(tensor(0.0), tensor(1.0)).log_prob(flow(x, *context)[0]).sum(-1)
    assert_close(flow.log_prob(x, *context), latent + torch.linalg.slogdet(J).logabsdet, tol=1e-7)


def gaussian():
    """A flow of affine transforms of 5 numbers, and the Gaussian that it is: z = Ax + b."""
    norm, mix = trained("actnorm", 5, seed=1), trained("linear", 5, seed=2)
    s, T = tensor([0.4, -0.3, 0.7]), normal(3, 2, seed=3)
    move = coupling(5, lambda u: u @ T.mT + 0.5, lambda u: s.expand(*u.shape[:-1], 3))
    eye = torch.eye(5, dtype=F64)
    W = mix.P @ (mix.L.tril(-1) + eye) @ (mix.U.triu(1) + (mix.sign * mix.log_diagonal.exp()).diag())
    C = torch.cat([torch.cat([eye[:2, :2], torch.zeros(2, 3)], -1), torch.cat([T, s.exp().diag()], -1)])
    A = (C @ W @ (-norm.log_scale).exp().diag()).flip(0)
    b = tensor([0.5, 0.5, 0.5, 0.0, 0.0]) - A @ norm.loc
    inverse = torch.linalg.inv(A)
    return Flow([norm, mix, move, Flip()], 5), A, b, MultivariateNormal(-inverse @ b, inverse @ inverse.mT)


def test_an_affine_flow_is_a_gaussian_with_all_constants():
    flow, A, b, want = gaussian()
    for batch in [(), (4,), (2, 3), (1,)]:
        x = 2 * normal(*batch, 5, seed=7)
        assert_close(flow(x)[0], x @ A.mT + b)
        assert_close(flow.log_prob(x), want.log_prob(x))


def test_S3_2_S3_42_samples_are_latents_led_back():
    flow, A, b, want = gaussian()
    x = flow.sample((200, 500), generator=seeded(1))
    z = normal(200, 500, 5, seed=1)
    assert_close(x, (z - b) @ torch.linalg.inv(A).mT, tol=1e-9)
    flat = x.reshape(-1, 5)
    deviation = want.variance.sqrt()
    assert ((flat.mean(0) - want.mean).abs() < 5 * deviation / math.sqrt(len(flat))).all()
    spread = 5 * math.sqrt(2 / len(flat)) * deviation[:, None] * deviation
    assert ((flat.T.cov() - want.covariance_matrix).abs() < spread).all()


@pytest.mark.parametrize("c", [0, 3])
@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("name", FLOWS)
def test_S3_42_dtype_shape_and_generator_of_samples(name, dtype, c):
    flow = trained(name, 3, c, dtype=dtype)
    for shape in [(), (4,), (2, 3), (0,)]:
        context = normal(*shape, c, seed=9).to(dtype) if c else None
        before = torch.get_rng_state()
        x = flow.sample(shape, context, generator=seeded(5))
        assert torch.equal(torch.get_rng_state(), before)
        assert x.shape == (*shape, 3)
        assert x.dtype == flow.log_prob(x, context).dtype == flow(x, context)[1].dtype == dtype
        assert torch.equal(x, flow.sample(shape, context, generator=seeded(5)))
        z = torch.randn(*shape, 3, generator=seeded(5), dtype=dtype)
        assert torch.equal(x, flow.inverse(z, context)[0])
    context = normal(4, c).to(dtype) if c else None
    assert not torch.equal(flow.sample((4,), context), flow.sample((4,), context))


@pytest.mark.parametrize("name", list(MAKE))
def test_dtype_and_device_follow(name):
    for dtype in (F32, F64):
        made = trained(name, 4, dtype=dtype)
        for way in (made, made.inverse):
            assert {part.dtype for part in way(normal(2, 4).to(dtype))} == {dtype}
    made = made.to("meta")
    for way in (made, made.inverse):
        assert {part.device.type for part in way(torch.empty(2, 4, dtype=F64, device="meta"))} == {"meta"}
    if name in FLOWS:
        assert made.sample((3,)).device.type == "meta"


def test_what_the_builders_build():
    for build in (nice, realnvp):
        steps = list(build(5).transforms)
        norm = [steps.pop()] if build is nice else []
        assert {type(step) for step in norm} <= {ActNorm}
        assert {type(step) for step in steps} == {AdditiveCoupling if build is nice else AffineCoupling}
        assert [step.swap for step in steps] == [False, True] * 4
    assert [type(step) for step in glow(5).transforms] == [ActNorm, InvertibleLinear, AffineCoupling] * 8
    for build in (nice, realnvp, glow):
        flow = build(5, layers=3, hidden=(7, 11, 13), context=2)
        couplings = [step for step in flow.transforms if hasattr(step, "net")]
        assert len(couplings) == 3
        for step in couplings:
            kept = 3 if step.swap else 2
            widths = [layer.out_features for layer in step.net if isinstance(layer, nn.Linear)]
            assert widths == [7, 11, 13, (5 - kept) * (1 if build is nice else 2)]
            assert step.net[0].in_features == kept + 2
        hidden = [layer.out_features for layer in build(5).transforms[2 if build is glow else 0].net[:-1:2]]
        assert hidden == [64, 64]
    assert Flow((step for step in [Flip(), ActNorm(4)]), 4).log_prob(torch.zeros(4)).shape == ()


# --- ActNorm and the matrix -------------------------------------------------------------------------------------------


def test_actnorm_sets_itself_once_from_the_first_batch_in_training():
    norm, x = ActNorm(3).double(), normal(10, 20, 3) * tensor([2.0, 0.5, 1.0]) + tensor([5.0, -1.0, 0.0])
    x[..., 2] = 0.1  # never varies, so that it can only be shifted
    norm.eval()(x)
    norm.train().inverse(x)
    norm(x[0, 0])
    norm(x[:1, :1])
    norm(x[:0])
    assert not norm.initialized
    assert torch.equal(norm.loc, torch.zeros(3, dtype=F64))
    assert torch.equal(norm.log_scale, torch.zeros(3, dtype=F64))
    z, log_det = norm(x)
    assert norm.initialized
    flat = x.reshape(-1, 3)
    deviation = ((flat - flat.mean(0)) ** 2).mean(0).sqrt()
    assert_close(z.reshape(-1, 3).mean(0), torch.zeros(3))
    assert_close((z**2).reshape(-1, 3).mean(0), [1.0, 1.0, 0.0])
    assert_close(norm.loc.detach(), flat.mean(0))
    assert_close(norm.log_scale.exp().detach(), [*deviation[:2].tolist(), 1.0])
    assert_close(log_det.detach(), (-deviation[:2].log().sum()).expand(10, 20))
    assert z.requires_grad
    assert isinstance(norm.loc, nn.Parameter)
    before = copy.deepcopy(norm.state_dict())
    with torch.no_grad():
        norm.loc += 1
    norm(3 * x + 1)
    assert_close(norm.loc.detach(), before["loc"] + 1)
    assert torch.equal(norm.log_scale, before["log_scale"])


def test_two_points_are_enough_for_actnorm():
    norm = ActNorm(2)
    assert_close(norm(torch.tensor([[0.0, 5.0], [4.0, 9.0]]))[0].detach(), [[-1.0, -1.0], [1.0, 1.0]], tol=1e-6)


def through_a_file(module):
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    fresh = ActNorm(2).double()
    fresh.load_state_dict(torch.load(file))
    return fresh


@pytest.mark.parametrize("move", [through_a_file, copy.deepcopy, lambda n: n.float().double()])
@pytest.mark.parametrize("initialized", [True, False])
def test_actnorm_remembers_whether_it_was_set(move, initialized):
    norm, other = ActNorm(2).double(), normal(50, 2, seed=1) * 7 + 3
    if initialized:
        norm(normal(50, 2))
    want = norm(other)[0] if initialized else (other - other.mean(0)) / other.std(0, correction=0)
    moved = move(norm)
    assert moved.initialized is initialized
    assert_close(moved(other)[0].detach(), want.detach(), tol=1e-5)


def test_glow_sets_its_norms_one_after_the_other():
    flow, x = glow(3, 3, **SMALL).double(), 4 * normal(100, 3) + 2
    flow.log_prob(x)
    with torch.no_grad():
        for step in flow.transforms:
            x = step(x)[0]
            if isinstance(step, ActNorm):
                assert_close(x.mean(0), torch.zeros(3))
                assert_close((x**2).mean(0), torch.ones(3))


@pytest.mark.parametrize("d", [1, *SIZES])
def test_the_matrix_starts_as_a_rotation_and_stays_invertible(d):
    eye = torch.eye(d, dtype=F64)

    def matrix(mix):
        return mix(eye)[0].mT.detach()

    torch.manual_seed(d)
    fresh = InvertibleLinear(d).double()
    W = matrix(fresh)
    assert_close(W @ W.mT, eye, tol=1e-5)
    assert_close(fresh(eye)[1].detach(), torch.zeros(d), tol=1e-5)
    assert not torch.allclose(W, matrix(InvertibleLinear(d).double())) or d == 1
    mix, x = trained("linear", d, seed=d), normal(6, d)
    W = matrix(mix)
    assert (W @ W.mT - eye).abs().max() > 1e-3
    assert_close(mix(x)[0], x @ W.mT)
    assert_close(mix(x)[1], torch.linalg.slogdet(W).logabsdet.expand(6))
    assert_close(mix.inverse(x)[0], torch.linalg.solve(W, x.mT).mT)


def test_a_state_dict_holds_the_whole_matrix():
    torch.manual_seed(0)
    mix, other, x = trained("linear", 7), InvertibleLinear(7).double(), normal(5, 7)
    assert set(mix.state_dict()) == {"P", "sign", "log_diagonal", "L", "U"}
    assert {name for name, _ in mix.named_parameters()} == {"log_diagonal", "L", "U"}
    other.load_state_dict(mix.state_dict())
    assert torch.equal(other(x)[0], mix(x)[0])
    assert_close(other.inverse(mix(x)[0])[0].detach(), x)


def test_a_parameter_below_the_triangle_has_no_part():
    """What training could write where L and U have to be 0 changes neither the map nor its volume."""
    mix, x = trained("linear", 4), normal(3, 4)
    want = mix(x)[0], mix.inverse(x)[0]
    mix.L += torch.ones(4, 4).triu()
    mix.U += torch.ones(4, 4).tril()
    assert torch.equal(mix(x)[0], want[0])
    assert torch.equal(mix.inverse(x)[0], want[1])
    assert_close(mix(x)[1], slogdet(mix, x))


# --- gradients and training -------------------------------------------------------------------------------------------


class Method(nn.Module):
    """A method of a flow as a module, which is what `functional_call` calls."""

    def __init__(self, flow, name):
        super().__init__()
        self.flow, self.name = flow, name

    def forward(self, *parts):
        return getattr(self.flow, self.name)(*parts)


@pytest.mark.parametrize("c", [0, 2])
@pytest.mark.parametrize("build", [nice, realnvp, glow])
def test_the_gradients_of_log_prob_and_samples_are_right(build, c):
    """By the points, the context and the parameters, against finite differences."""
    flow, (x, *context) = trained(build.__name__, 3, c, seed=4), inputs((2,), 3, c)
    names = [f"flow.{name}" for name, _ in flow.named_parameters()]
    leaves = [part.clone().requires_grad_() for part in (x, *context, *flow.parameters())]

    def call(method, *parts):
        here, parameters = parts[: 1 + c // 2], dict(zip(names, parts[1 + c // 2 :]))
        return torch.func.functional_call(Method(flow, method), parameters, here)

    assert gradcheck(lambda *parts: call("log_prob", *parts), leaves, fast_mode=True)
    assert gradcheck(lambda *parts: call("inverse", *parts)[0], leaves, fast_mode=True)
    assert gradcheck(lambda x: flow.log_prob(x, *context), leaves[:1])


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # torch's own
def test_log_prob_compiles_in_one_piece(own_errors):
    flow, x = realnvp(2, 2, **SMALL), normal(5, 2).float()
    for parameter in flow.parameters():
        parameter.data += torch.randn(parameter.shape, generator=seeded(1)) / 4
    assert_close(torch.compile(flow.log_prob, fullgraph=True)(x), flow.log_prob(x), tol=1e-5)


@pytest.mark.parametrize("name", FLOWS)
def test_log_prob_of_single_points_under_vmap(name):
    flow, x, context = trained(name, 3, 2), normal(5, 3), normal(5, 2, seed=1)
    assert_close(torch.func.vmap(flow.log_prob)(x, context), flow.log_prob(x, context))
    score = torch.func.vmap(torch.func.grad(flow.log_prob))(x, context)
    leaf = x.clone().requires_grad_()
    assert_close(score, torch.autograd.grad(flow.log_prob(leaf, context).sum(), leaf)[0])
    assert (flow.log_prob(x, context) - flow.log_prob(x, context.flip(0))).abs().max() > 1e-2


@pytest.mark.parametrize("build", [nice, realnvp, glow])
def test_S3_39_S3_40_training_comes_down_to_the_entropy(build):
    """The loss is the mean of −log p, not of −p."""
    torch.manual_seed(0)
    want = MultivariateNormal(tensor([3.0, -2.0]), tensor([[4.0, 0.6], [0.6, 0.25]]))
    L, loc = want.scale_tril, want.mean
    flow, generator = build(2, 4, hidden=(32,)).double(), seeded(1)
    optimizer = torch.optim.Adam(flow.parameters(), lr=0.02)
    for _ in range(150):
        loss = -flow.log_prob(torch.randn(256, 2, generator=generator, dtype=F64) @ L.mT + loc).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    fresh = normal(20_000, 2, seed=2) @ L.mT + loc
    gap = (want.log_prob(fresh) - flow.log_prob(fresh)).mean().item()  # Monte-Carlo estimate of the KL divergence
    assert -0.01 < gap < 0.05


# --- what is refused --------------------------------------------------------------------------------------------------


def says(message):
    return f"^{re.escape(message)}$"


@pytest.mark.parametrize("mistake", BAD_POINTS)
@pytest.mark.parametrize("way", ["forward", "inverse", "log_prob"])
@pytest.mark.parametrize("name", list(MAKE))
def test_bad_points(name, way, mistake, own_errors):
    made = MAKE[name](2, 0)
    if hasattr(made, way):
        x, error, words = BAD_POINTS[mistake]
        with pytest.raises(error, match=r"^x: ") as caught:
            getattr(made, way)(x)
        assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize("way", ["forward", "inverse", "log_prob"])
@pytest.mark.parametrize("name", [name for name in MAKE if name != "flip"])
def test_points_of_another_width(name, way, own_errors):
    made = MAKE[name](3, 0)
    if hasattr(made, way):
        for shape in [(4, 2), (4,), (3, 4)]:
            with pytest.raises(ValueError, match=says(f"x: expected shape (*batch, 3), got {shape}")):
                getattr(made, way)(torch.ones(shape))


@pytest.mark.parametrize("way", ["forward", "inverse", "log_prob", "sample"])
@pytest.mark.parametrize("name", [*COUPLINGS, *FLOWS])
def test_a_context_that_is_missing_wrong_or_unwanted(name, way, own_errors):
    taking, plain, x = MAKE[name](2, 3), MAKE[name](2, 0), (4,) if way == "sample" else torch.ones(4, 2)
    if hasattr(taking, way):
        with pytest.raises(ValueError, match=says("context: expected shape (4, 3), got None")):
            getattr(taking, way)(x)
        for shape in [(4, 2), (3,), (1, 3), (3, 4)]:
            with pytest.raises(ValueError, match=says(f"context: expected shape (4, 3), got shape {shape}")):
                getattr(taking, way)(x, torch.ones(shape))
        with pytest.raises(ValueError, match=says("context: expected None, got shape (4, 3)")):
            getattr(plain, way)(x, torch.ones(4, 3))


@pytest.mark.parametrize("build", [AdditiveCoupling, AffineCoupling, nice, realnvp, glow])
@pytest.mark.parametrize("features", [1, 0])
def test_one_feature_cannot_be_split(build, features):
    message = says(f"features: expected at least 2, one to keep and one to move, got {features}")
    with pytest.raises(ValueError, match=message):
        build(features)


@pytest.mark.parametrize("name", [name for name in MAKE if name != "flip"])
def test_points_of_another_dtype_than_the_parameters(name, own_errors):
    for dtype, other in [(F32, F64), (F64, F32)]:
        made = MAKE[name](2, 0).to(dtype)
        for way in (made, made.inverse, *([made.log_prob] if name in FLOWS else [])):
            message = says(f"x: expected {dtype} like the parameters, got {other}; see .double() and .float()")
            with pytest.raises(TypeError, match=message):
                way(torch.ones(4, 2, dtype=other))


@pytest.mark.parametrize("made", [ActNorm(3), InvertibleLinear(3), AffineCoupling(3), realnvp(3, 1)])
def test_transforms_for_other_features(made):
    with pytest.raises(ValueError, match=says("transforms: expected 2 features like the flow, got [2, 3]")):
        Flow([Flip(), made], 2)


@pytest.mark.parametrize("way", ["forward", "inverse", "log_prob"])
@pytest.mark.parametrize("name", [*COUPLINGS, *FLOWS])
def test_a_context_that_is_no_tensor_of_the_points_dtype(name, way, own_errors):
    made, x = MAKE[name](2, 3), torch.ones(4, 2)
    for context, got in [
        ([1.0], "a torch.Tensor, got list"),
        (torch.ones(4, 3).long(), "a floating-point tensor, got torch.int64; write 1.0, or call .double()"),
        (torch.ones(4, 3).double(), "torch.float32 like x, got torch.float64"),
    ]:
        if hasattr(made, way):
            with pytest.raises(TypeError, match=says(f"context: expected {got}")):
                getattr(made, way)(x, context)


@pytest.mark.parametrize("name", list(MAKE))
def test_the_default_device_has_no_part_in_it(name):
    made, x = trained(name, 3), normal(4, 3)
    want = made(x)[0], made.inverse(x)[0]
    with torch.device("meta"):
        got = made(x)[0], made.inverse(x)[0]
    assert torch.equal(got[0], want[0])
    assert torch.equal(got[1], want[1])


def test_transforms_for_contexts_of_two_widths():
    with pytest.raises(ValueError, match=says("transforms: expected one width of context, got [2, 3]")):
        Flow([AffineCoupling(2, context=2), AffineCoupling(2, context=3)], 2)


@pytest.mark.parametrize("name", FLOWS)
def test_the_state_is_made_of_tensors(name):
    assert all(isinstance(value, torch.Tensor) for value in MAKE[name](2, 0).state_dict().values())


def test_every_mutant_still_applies():
    """Else `make mutants` would break nothing."""
    assert stale("flows") == []
