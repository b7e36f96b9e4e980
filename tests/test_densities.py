"""companion.densities: held against torch.distributions, closed forms, quadrature and counts of samples.

A test of a row of the ledger of the source article (S3.17) carries its name.
"""

import math

import numpy as np
import pytest
import torch
from reference import assert_close, seeded
from torch.autograd import gradcheck
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal, kl_divergence

from companion.densities import Density, banana, galaxy, ring

F32, F64 = torch.float32, torch.float64


def never(*_):
    raise AssertionError("not asked for")


def tensor(values):
    return torch.tensor(values, dtype=F64)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed), dtype=F64)


def gaussian(loc, cov):
    return MultivariateNormal(tensor(loc), tensor(cov))


# --- the same densities, written with torch.distributions ------------------------------------------------------------


def ring_again(x, humps=8, radius=2.0, scale=0.2):
    centres = torch.polar(torch.full((humps,), radius, dtype=F64), 2 * math.pi * torch.arange(humps, dtype=F64) / humps)
    hump = Independent(Normal(torch.view_as_real(centres), scale), 1)
    return MixtureSameFamily(Categorical(torch.ones(humps, dtype=F64)), hump).log_prob(x)


def banana_again(x, noise=0.3):
    """The chain rule: p(x₁) p(x₂ | x₁)."""
    a, b = x.unbind(-1)
    return Normal(tensor(0.0), tensor(1.0)).log_prob(a) + Normal(a**2 - 1, noise).log_prob(b)


def galaxy_again(x, length=1.5, width=0.3, turn=1.0):
    """As complex numbers: x = u exp(i · turn · |u|)."""
    x = torch.view_as_complex(x)
    u = torch.view_as_real(x * torch.polar(torch.ones_like(x.abs()), -turn * x.abs()))
    return Normal(torch.zeros(2, dtype=F64), tensor([length, width])).log_prob(u).sum(-1)


MADE = {
    "ring": (ring, ring_again, {}),
    "ring, another": (ring, ring_again, {"humps": 3, "radius": 1.2, "scale": 0.5}),
    "banana": (banana, banana_again, {}),
    "banana, another": (banana, banana_again, {"noise": 0.8}),
    "galaxy": (galaxy, galaxy_again, {}),
    "galaxy, another": (galaxy, galaxy_again, {"length": 1.1, "width": 0.5, "turn": -2.0}),
    "galaxy, wider than long": (galaxy, galaxy_again, {"length": 0.4, "width": 1.2, "turn": 0.7}),
    "galaxy, round": (galaxy, galaxy_again, {"length": 0.9, "width": 0.9, "turn": 1.5}),
}
CASES = pytest.mark.parametrize("case", MADE)


def made(case):
    make, again, options = MADE[case]
    return make(**options), lambda x: again(x, **options)


def second_moment(case):
    """E x xᵀ, or half its trace on the diagonal where the density does not look the same in all directions."""
    _, _, o = MADE[case]
    if case.startswith("ring"):
        return (o.get("radius", 2.0) ** 2 / 2 + o.get("scale", 0.2) ** 2) * torch.eye(2, dtype=F64)
    if case.startswith("banana"):
        return torch.diag(tensor([1.0, 2 + o.get("noise", 0.3) ** 2]))  # Var x₁² = 2, E x₁³ = 0
    return (o.get("length", 1.5) ** 2 + o.get("width", 0.3) ** 2) / 2 * torch.eye(2, dtype=F64)


@CASES
def test_log_prob_is_that_of_torch_distributions(case):
    density, again = made(case)
    for batch in [(), (50,), (2, 3)]:
        x = 2 * normal(*batch, 2, seed=1)
        assert_close(density.log_prob(x), again(x))
    assert density.log_prob(torch.ones(0, 2, dtype=F64)).shape == (0,)
    ends = tensor([[0.0, 0.0], [30.0, 0.0], [-20.0, 40.0]])
    assert_close(density.log_prob(ends), again(ends))
    assert density.name == case.split(",")[0]


@CASES
def test_all_mass_is_in_the_box(case):
    """The sum over a fine grid of the box, by the trapezium rule and in the density written anew."""
    density, again = made(case)
    (a, b), (c, d) = density.lower, density.upper
    x, y = torch.linspace(a, c, 801, dtype=F64), torch.linspace(b, d, 801, dtype=F64)
    p = again(torch.stack(torch.meshgrid(x, y, indexing="ij"), -1)).exp()
    mass = torch.trapezoid(torch.trapezoid(p, y), x)
    assert 1 - 1e-6 < mass < 1 + 1e-9
    nodes, area = density.grid()
    assert (density.log_prob(nodes).exp().sum() * area).item() == pytest.approx(1, abs=1e-6)


def test_the_grid_holds_the_midpoints_of_the_small_boxes():
    """Along the last but one axis x₁ grows, along the first x₂, as a picture wants it."""
    box = Density("box", never, never, 0.0, (-1.0, 2.0), (3.0, 10.0))
    x, area = box.grid(4)
    assert area == 1 * 2
    assert x.dtype == F64
    assert_close(x[..., 0], tensor([-0.5, 0.5, 1.5, 2.5]).expand(4, 4))
    assert_close(x[..., 1], tensor([3.0, 5.0, 7.0, 9.0])[:, None].expand(4, 4))
    assert box.grid()[0].shape == (500, 500, 2)
    assert box.grid()[1] == pytest.approx(4 * 8 / 500**2)


# --- entropy ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["ring", "ring, another"])
def test_the_entropy_of_a_ring_by_gauss_hermite(case):
    """All humps are alike, so that H = −E log p(x) over the one at angle 0."""
    density, again = made(case)
    nodes, weights = np.polynomial.hermite_e.hermegauss(90)
    nodes, weights = torch.as_tensor(nodes), torch.as_tensor(weights / weights.sum())
    radius, scale = (MADE[case][2].get(key, value) for key, value in (("radius", 2.0), ("scale", 0.2)))
    x = tensor([radius, 0.0]) + scale * torch.cartesian_prod(nodes, nodes)
    want = -(torch.outer(weights, weights).reshape(-1) * again(x)).sum()
    assert density.entropy == pytest.approx(want.item(), abs=2e-5)


@pytest.mark.parametrize("case", [case for case in MADE if not case.startswith("ring")])
def test_an_entropy_that_bending_and_turning_keep(case):
    """Areas stay as they are: the entropy is that of the two normals at the start."""
    density, _ = made(case)
    options = MADE[case][2]
    first, second = (options.get(key, 1.0) for key in ("length", "noise"))
    if case.startswith("galaxy"):
        first, second = options.get("length", 1.5), options.get("width", 0.3)
    else:
        first, second = 1.0, options.get("noise", 0.3)
    want = Normal(tensor(0.0), tensor(first)).entropy() + Normal(tensor(0.0), tensor(second)).entropy()
    assert density.entropy == pytest.approx(want.item(), abs=1e-12)


@CASES
def test_the_entropy_is_the_mean_of_minus_log_p_on_the_grid_and_over_samples(case):
    density, again = made(case)
    x, area = density.grid(800)
    assert isinstance(density.entropy, float)
    assert density.entropy == pytest.approx(-(again(x).exp() * again(x)).sum().item() * area, abs=2e-5)
    at_samples = -density.log_prob(density.sample(40_000, seeded(4)))
    assert (at_samples.mean() - density.entropy).abs() < 5 * at_samples.std() / 200


# --- samples ----------------------------------------------------------------------------------------------------------


@CASES
def test_samples_fall_where_the_density_is(case):
    """Counts in 20 × 20 boxes against the integral over each: χ² is near its degrees of freedom."""
    density, again = made(case)
    n, (a, b), (c, d) = 100_000, density.lower, density.upper
    (x, area), samples = density.grid(1000), density.sample(n, seeded(6))
    expected = n * area * again(x).exp().reshape(20, 50, 20, 50).sum((1, 3)).T  # x₁ first
    edges = [torch.linspace(low, high, 21, dtype=F64) for low, high in ((a, c), (b, d))]
    counts = torch.histogramdd(samples, bins=edges).hist
    assert n - counts.sum() < 5
    enough = expected > 10
    chi2 = ((counts - expected)[enough] ** 2 / expected[enough]).sum().item()
    freedom = enough.sum().item() - 1
    assert freedom > 10
    assert abs(chi2 - freedom) < 6 * (2 * freedom) ** 0.5
    assert (counts - expected)[~enough].sum().abs() < 6 * (expected[~enough].sum() + 1) ** 0.5


@CASES
def test_samples_have_the_known_moments(case):
    density, n = made(case)[0], 100_000
    x = density.sample(n, seeded(7))
    want = second_moment(case)
    assert (x.mean(0).abs() < 5 * x.std(0) / n**0.5).all()
    square = (x**2).sum(-1)
    assert (square.mean() - want.trace()).abs() < 5 * square.std() / n**0.5
    if not case.startswith("galaxy"):
        products = x[:, :, None] * x[:, None]
        assert ((products.mean(0) - want).abs() < 5 * products.std(0) / n**0.5).all()


@CASES
def test_dtype_shape_and_generator_of_samples(case):
    density, before = made(case)[0], torch.get_rng_state()
    x = density.sample(30, seeded(1))
    assert x.shape == (30, 2)
    assert x.dtype == F64
    assert torch.equal(x, density.sample(30, seeded(1)))
    assert not torch.equal(x, density.sample(30, seeded(2)))
    generator = seeded(1)
    assert not torch.equal(density.sample(30, generator), density.sample(30, generator))
    assert density.sample(0, generator).shape == (0, 2)
    assert len(x.unique(dim=0)) == 30
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("case", [case for case in MADE if not case.startswith("ring")])
def test_bending_and_turning_keep_areas(case, monkeypatch):
    """With draws of one's own, sample is the map x(u): |det ∂x/∂u| is one number, and p is that of u divided by it."""
    density, _ = made(case)
    u, options = normal(20, 2, seed=3), MADE[case][2]
    sizes = 1.0, options.get("noise", 0.3)
    if case.startswith("galaxy"):
        sizes = options.get("length", 1.5), options.get("width", 0.3)

    def x(u):
        with monkeypatch.context() as patch:
            patch.setattr(torch, "randn", lambda *shape, **_: u.reshape(shape))
            return density.sample(len(u), seeded())

    J = torch.stack([torch.autograd.functional.jacobian(lambda p: x(p[None])[0], p) for p in u])
    assert_close(torch.linalg.det(J), torch.full((20,), math.prod(sizes), dtype=F64))
    assert (J - J[:1]).abs().max() > 0.1
    latent = Normal(tensor(0.0), tensor(1.0)).log_prob(u).sum(-1)
    assert_close(density.log_prob(x(u)), latent - torch.linalg.slogdet(J).logabsdet)


@CASES
def test_log_prob_keeps_the_dtype_and_can_be_differentiated(case):
    density, x = made(case)[0], normal(5, 2, seed=2)
    assert density.log_prob(x).dtype == F64
    low = density.log_prob(x.float())
    assert low.dtype == F32
    assert_close(low.double(), density.log_prob(x), tol=1e-4)
    assert gradcheck(density.log_prob, x.requires_grad_())


# --- the divergence from a model --------------------------------------------------------------------------------------

MODELS = {
    "round": gaussian([0.3, -0.2], [[2.5, 0.0], [0.0, 2.5]]),
    "standard": gaussian([0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]]),
    "slanted": gaussian([-0.5, 1.0], [[3.0, 0.8], [0.8, 2.0]]),
}


@pytest.mark.parametrize(
    ("case", "model"), [(c, m) for c in MADE for m in MODELS if m != "slanted" or not c.startswith("galaxy")]
)
def test_S3_17_kl_is_the_cross_entropy_less_the_entropy(case, model):
    """E −log q = H + KL; for a Gaussian q it needs nothing but the moments of p, and the mean of p is 0."""
    density, q = made(case)[0], MODELS[model]
    spread = second_moment(case) + torch.outer(q.mean, q.mean)
    quadratic = (q.precision_matrix * spread).sum()
    cross = (quadratic + torch.logdet(2 * math.pi * q.covariance_matrix)) / 2
    got = density.kl(q.log_prob)
    assert isinstance(got, float)
    assert got == pytest.approx(cross.item() - density.entropy, abs=2e-4)
    ratio = density.log_prob(x := density.sample(40_000, seeded(8))) - q.log_prob(x)
    assert abs(got - ratio.mean()) < 5 * ratio.std() / 200
    assert got > 0.01


@pytest.mark.parametrize("model", MODELS)
def test_kl_of_two_gaussians_has_its_closed_form(model):
    p, q = gaussian([0.4, -0.3], [[0.5, 0.2], [0.2, 0.3]]), MODELS[model]
    density = Density("a Gaussian", never, p.log_prob, p.entropy().item(), (-5.0, -4.0), (6.0, 3.5))
    assert density.kl(q.log_prob) == pytest.approx(kl_divergence(p, q).item(), abs=1e-6)
    assert density.kl(q.log_prob) != pytest.approx(kl_divergence(q, p).item(), abs=1e-2)


@CASES
def test_kl_to_itself_is_zero_and_to_a_neighbour_small_and_positive(case):
    density, again = made(case)
    assert density.kl(density.log_prob) == 0
    assert density.kl(again) == pytest.approx(0, abs=1e-10)
    make, _, options = MADE[case]
    key, value = {ring: ("scale", 0.2), banana: ("noise", 0.3), galaxy: ("width", 0.3)}[make]
    near = make(**(options | {key: 1.02 * options.get(key, value)}))
    assert 1e-5 < density.kl(near.log_prob) < 0.01


def test_kl_asks_the_model_on_the_grid_and_keeps_no_graph():
    weight, asked = torch.ones(2, dtype=F64, requires_grad=True), []

    def log_prob(x):
        asked.append(x)
        value = -((x * weight) ** 2).sum(-1)
        assert not value.requires_grad
        return value

    density = banana()
    coarse = density.kl(log_prob, nodes=50)
    density.kl(log_prob)
    assert torch.equal(asked[0], density.grid(50)[0])
    assert torch.equal(asked[1], density.grid()[0])
    assert math.isfinite(coarse)


def test_a_density_cannot_be_changed_by_mistake():
    with pytest.raises(AttributeError):
        ring().entropy = 0.0
