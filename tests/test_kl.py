"""companion.kl: held against mpmath, quadrature, closed forms, samples, and torch's own where that is accurate.

Tests of a row of the ledger of the source article (S2.1–S2.30) and of a golden number (G3.1–G3.18) carry its name.
"""

import math
from functools import partial

import mpmath
import pytest
import torch
import torch.distributions as D
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import assert_close, seeded
from torch.autograd import gradcheck, gradgradcheck

from companion.kl import (
    adapt_kl_coefficient,
    kl_bernoulli,
    kl_categorical,
    kl_monte_carlo,
    kl_multivariate_normal,
    kl_normal,
    ppo_clip,
    ppo_kl_penalty,
    sparsity_penalty,
)

F16, BF16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
SEEDS = st.integers(0, 2**31 - 1)
BATCHES = st.sampled_from([(), (3,), (2, 3), (1,)])
ESTIMATORS = ["k1", "k2", "k3"]
LOGITS, LOG_ODDS = partial(kl_categorical, logits=True), partial(kl_bernoulli, logits=True)
INF = math.inf


def tensor(values):
    return torch.tensor(values, dtype=F64)


def leaf(values):
    return torch.tensor(values, dtype=F64, requires_grad=True)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed), dtype=F64)


def uniform(low, high, *shape, seed=0):
    return low + (high - low) * torch.rand(shape, generator=seeded(seed), dtype=F64)


def any_size(low, high, *shape, seed=0):
    """Numbers of both signs between 10^low and 10^high, as many of each size."""
    return 10 ** uniform(low, high, *shape, seed=seed) * normal(*shape, seed=seed + 1).sign()


def covariances(*batch, d, seed=0):
    M = normal(*batch, d, 2 * d, seed=seed)
    S = M @ M.mT / (4 * d)
    return S + S.mT + 0.3 * torch.eye(d, dtype=F64)


def gaussians(*batch, d, seed=0):
    loc0, loc1 = normal(2, *batch, d, seed=seed + 1)
    return loc0, covariances(*batch, d=d, seed=seed + 2), loc1, covariances(*batch, d=d, seed=seed + 3)


def torch_kl_multivariate_normal(loc0, cov0, loc1, cov1):
    return D.kl_divergence(D.MultivariateNormal(loc0, cov0), D.MultivariateNormal(loc1, cov1))


# --- the golden numbers and the rows of the ledger --------------------------------------------------------------------

P, HALF = tensor([0.1, 0.9]), tensor([0.5, 0.5])
MEAN1, COV1 = tensor([1.0, 1.0]), tensor([[3.0, 0.5], [0.5, 1.0]])  # the page's pair, moved to the origin
MEAN2, COV2 = tensor([0.0, 0.0]), tensor([[2.0, -0.5], [-0.5, 2.0]])
PAGE = MEAN1, COV1, MEAN2, COV2
OLD_NEW = *tensor([0.2, 0.5]), *tensor([0.3, 0.4])


def test_S2_1_S2_16_G3_12_and_G3_13_directed_and_no_distance():
    there, back = kl_categorical(P, HALF), kl_categorical(HALF, P)
    assert_close(torch.stack([there, back]), [0.368064207168, 0.510825623766])
    assert_close(torch.stack([kl_bernoulli(P[0], 0.5), kl_bernoulli(0.5, P[0])]), torch.stack([there, back]))
    steps = [kl_normal(tensor(a), 1.0, tensor(b), 1.0) for a, b in ((0.0, 1.0), (1.0, 2.0), (0.0, 2.0))]
    assert_close(torch.stack(steps), [0.5, 0.5, 2.0])  # 0.5 + 0.5 < 2: no triangle inequality


def test_S2_2_the_conventions_for_zero():
    p, q = tensor([0.0, 0.5, 0.5]), tensor([0.5, 0.25, 0.25])
    assert_close(kl_categorical(p, q), math.log(2))
    assert kl_categorical(q, p) == INF


def test_S2_3_for_densities_it_is_an_integral_and_the_unit_does_not_matter():
    """A density is no probability: in the smaller unit it exceeds 1, and KL stays."""
    p, q = D.Normal(*tensor([0.0, 0.1])), D.Normal(*tensor([0.05, 0.2]))
    x = torch.linspace(-2, 2, 40_001, dtype=F64)
    assert p.log_prob(tensor(0.0)).exp() > 1
    integral = torch.trapezoid(p.log_prob(x).exp() * (p.log_prob(x) - q.log_prob(x)), x)
    assert_close(kl_normal(p.loc, p.scale, q.loc, q.scale), integral)
    assert_close(kl_normal(100 * p.loc, 100 * p.scale, 100 * q.loc, 100 * q.scale), integral)


@settings(max_examples=10)
@given(SEEDS)
def test_S2_4_never_negative_and_zero_only_for_equals(seed):
    a, b = normal(2, 50, 3, seed=seed)
    loc0, cov0, loc1, cov1 = gaussians(20, d=3, seed=seed)
    for fn, one, other in (
        (kl_categorical, (a.softmax(-1),), (b.softmax(-1),)),
        (LOGITS, (a,), (b,)),
        (kl_bernoulli, (a.sigmoid(),), (b.sigmoid(),)),
        (LOG_ODDS, (a,), (b,)),
        (kl_normal, (a, b.exp()), (b, a.exp())),
        (kl_multivariate_normal, (loc0, cov0), (loc1, cov1)),
    ):
        for dtype in F32, F64:
            one, other = ([t.to(dtype) for t in arguments] for arguments in (one, other))
            assert (fn(*one, *one) == 0).all()
            assert (fn(*one, *other) > 0).all()


def test_S2_5_not_monotone_in_total_variation():
    p, near, far = tensor([0.02, 0.49, 0.49]), tensor([1e-9, 0.5, 0.5 - 1e-9]), tensor([0.02, 0.69, 0.29])
    assert_close((p - far).abs().sum() / 2, 0.2, tol=1e-8)
    assert_close((p - near).abs().sum() / 2, 0.02, tol=1e-8)
    assert_close(kl_categorical(p, far), 0.089297, tol=5e-7)
    assert_close(kl_categorical(p, near), 0.316426, tol=5e-7)


def test_S2_6_cross_entropy_is_entropy_plus_kl():
    p, q = tensor([0.02, 0.49, 0.49]), tensor([0.02, 0.69, 0.29])
    cross = -(p * q.log()).sum()
    assert_close(cross, 0.866620, tol=5e-7)
    assert_close(D.Categorical(p).entropy() + kl_categorical(p, q), cross)


def test_S2_7_torch_knows_registered_pairs_only_and_samples_do_for_the_rest():
    p, q = D.Normal(*tensor([0.0, 1.0])), D.StudentT(*tensor([5.0, 0.0, 1.0]))
    with pytest.raises(NotImplementedError, match="No KL"):
        D.kl_divergence(p, q)
    x = torch.linspace(-12, 12, 20_001, dtype=F64)
    exact = torch.trapezoid(p.log_prob(x).exp() * (p.log_prob(x) - q.log_prob(x)), x)
    assert exact > 0.03
    assert_close(kl_monte_carlo(p, q, 100_000, "k1", seeded()), exact, tol=4e-3)  # q's long tails: k3 has no variance


def test_S2_8_and_S2_9_the_graph_needs_a_leaf_that_requires_grad():
    for kl in (torch_kl_multivariate_normal(*PAGE), kl_multivariate_normal(*PAGE)):
        assert not kl.requires_grad
        with pytest.raises(RuntimeError, match="does not require grad and does not have a grad_fn"):
            kl.backward()


@pytest.mark.parametrize("kl", [kl_multivariate_normal, torch_kl_multivariate_normal], ids=["companion", "torch"])
def test_S2_9_and_G3_3_to_G3_6_the_pages_gradients_as_fractions(kl):
    leaves = [t.clone().requires_grad_() for t in PAGE]
    kl(*leaves).backward()
    mean1, cov1, mean2, cov2 = (t.grad for t in leaves)
    assert_close(mean1, [2 / 3, 2 / 3])
    assert_close(mean2, [-2 / 3, -2 / 3])
    assert_close(cov1, tensor([[14.0, 26.0], [26.0, -46.0]]) / 165)
    assert_close(cov2, -tensor([[32.0, 28.0], [28.0, 12.0]]) / 75)


def test_S2_10_S2_11_G3_1_and_G3_2_the_value_that_the_page_does_not_print():
    there, back = kl_multivariate_normal(*PAGE), kl_multivariate_normal(MEAN2, COV2, MEAN1, COV1)
    assert_close(there, 0.8 + math.log(15 / 11) / 2)
    assert_close(there, 0.955077464152)
    assert_close(back, 12 / 11 + math.log(11 / 15) / 2)
    assert_close(back, 0.935831626757)
    assert there.shape == ()
    assert there.sum() == there  # the page's `.sum()` does nothing


def test_S2_12_the_gradient_is_that_of_the_loss():
    mean1 = MEAN1.clone().requires_grad_()
    (3 * kl_multivariate_normal(mean1, COV1, MEAN2, COV2)).backward()
    assert_close(mean1.grad, [2.0, 2.0])


def test_S2_13_and_G3_7_the_covariances_gradient():
    """Its off-diagonal entries share one direction; raw steps leave the cone; the factor's upper half means nothing."""
    slope = torch.func.grad(kl_multivariate_normal, argnums=1)(*PAGE)

    def moved(h):
        return kl_multivariate_normal(MEAN1, COV1 + h * (1 - torch.eye(2, dtype=F64)), MEAN2, COV2)

    assert_close((moved(1e-5) - moved(-1e-5)) / 2e-5, 52 / 165, tol=1e-9)
    assert_close(2 * slope[0, 1], 52 / 165)
    for lr, smallest in (10, 1.618), (22, -0.086), (25, -0.515):
        stepped = COV1 - lr * slope
        assert_close(torch.linalg.eigvalsh(stepped)[0], smallest, tol=5e-4)
        if smallest < 0:
            with pytest.raises(ValueError, match="cov0: expected a positive definite matrix"):
                kl_multivariate_normal(MEAN1, stepped, MEAN2, COV2)
    factor = torch.linalg.cholesky(COV1).requires_grad_()
    D.kl_divergence(D.MultivariateNormal(MEAN1, scale_tril=factor), D.MultivariateNormal(MEAN2, COV2)).backward()
    assert_close(factor.grad[0, 1], 0.127657, tol=5e-7)


def keras(activations):
    """The page's line, for each activation: K.log(0.1 + 0.9 · 0.1 / activations)."""
    return torch.log(0.1 + 0.9 * 0.1 / activations)


def test_S2_14_and_G3_8_to_G3_11_the_pages_line_is_no_kl():
    a = leaf([[0.1, 0.5, 0.9]])
    for penalty, values, total, slopes in (
        (keras, [0.0, -1.27296567581, -1.60943791243], -2.882403588247, [-9.0, -1.28571428571, -0.555555555556]),
        (partial(kl_bernoulli, 0.1), [0.0, 0.368064207168, 1.75777966187], 2.125843869037, [0.0, 1.6, 8.88888888889]),
    ):
        assert_close(penalty(a)[0], values)
        assert_close(penalty(a).sum(), total)
        assert_close(torch.autograd.grad(penalty(a).sum(), a)[0][0], slopes)
    assert_close(sparsity_penalty(a, 0.1), 2.125843869037)
    assert_close(torch.autograd.grad(sparsity_penalty(a, 0.1), a)[0][0], [0.0, 1.6, 8.88888888889])


@pytest.mark.parametrize(
    ("penalty", "steps", "end", "tol"),
    [(lambda a: keras(a).sum(), 2000, 0.997888, 1e-6), (partial(sparsity_penalty, target=0.1), 600, 0.1, 1e-9)],
    ids=["the page's", "companion"],
)
def test_S2_14_a_unit_that_follows_the_pages_line_never_rests(penalty, steps, end, tol):
    w = torch.zeros(1, 1, dtype=F64, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=0.5)
    for _ in range(steps):
        optimizer.zero_grad()
        penalty(w.sigmoid()).backward()
        optimizer.step()
    assert_close(w.sigmoid()[0, 0], end, tol=tol)


def test_S2_15_the_mean_over_the_batch_comes_first():
    a = tensor([[0.05], [0.15]])
    assert_close(sparsity_penalty(a, 0.1), 0.0, tol=1e-16)
    assert_close(kl_bernoulli(0.1, a)[:, 0], [0.020654, 0.010896], tol=5e-7)


def test_S2_17_and_S2_18_a_target_and_the_mean_activity_of_each_hidden_unit():
    a = uniform(0.1, 0.9, 4, 5, 3)
    want = D.kl_divergence(D.Bernoulli(tensor(0.3)), D.Bernoulli(a.mean((0, 1)))).sum()
    assert_close(sparsity_penalty(a, 0.3), want)
    assert_close(sparsity_penalty(a.reshape(20, 3)[torch.randperm(20, generator=seeded())], 0.3), want)
    assert sparsity_penalty(0.3 * torch.ones(7, 3, dtype=F64), 0.3) < 1e-15
    assert_close(sparsity_penalty(a, 0.3) * 2, sparsity_penalty(torch.cat([a, a], -1), 0.3))


def test_S2_19_nothing_on_the_page_protects_a_silent_unit():
    silent = torch.zeros(3, 1, dtype=F64)
    assert keras(silent).sum() == INF
    assert sparsity_penalty(silent, 0.1) == sparsity_penalty(1 - silent, 0.1) == INF


def test_S2_21_and_S2_22_the_actors_loss_reaches_neither_the_critic_nor_the_old_policy():
    value, old, new = leaf([0.3, -0.2]), leaf([-1.0, -1.1]), leaf([-0.9, -1.2])
    advantage = tensor([1.0, 0.5]) - value
    for loss in (ppo_clip(new, old, advantage, 0.2), ppo_kl_penalty(new, old, advantage, 0 * new, 1.0)):
        slopes = torch.autograd.grad(loss.sum(), (value, old, new), allow_unused=True, retain_graph=True)
        assert slopes[:2] == (None, None)
        assert (slopes[2] != 0).all()
    assert_close(torch.autograd.grad((advantage**2).mean(), value)[0], -advantage.detach())


def test_S2_23_and_G3_18_the_pages_ratio_is_not_1_where_the_policies_agree():
    x = leaf([0.0, 3.0, 4.0, 5.0])
    log_prob = D.Normal(*tensor([0.0, 1.0])).log_prob(x)
    prob = log_prob.exp()
    assert_close(prob / (prob + 1e-5), [0.999974934346, 0.99774868499, 0.930473584764, 0.129429426115])
    assert_close(ppo_clip(log_prob, log_prob, torch.ones(4, dtype=F64), 0.2), torch.ones(4), tol=0)
    mean = torch.zeros(1, dtype=F64, requires_grad=True)  # at 5 σ with A = −1
    new, old, bad = D.Normal(mean, 1.0).log_prob(x.detach()[3:]), log_prob[3:].detach(), -torch.ones(1, dtype=F64)
    ratio = new.exp() / (old.exp() + 1e-5)
    page = torch.minimum(ratio * bad, ratio.clamp(0.8, 1.2) * bad)
    assert_close(torch.autograd.grad(page, mean, retain_graph=True)[0], [0.0])
    assert_close(torch.autograd.grad(ppo_clip(new, old, bad, 0.2), mean)[0], [-5.0])


def test_S2_24_and_S2_26_log_probabilities_and_kl_are_summed_over_the_dimensions_of_an_action():
    old, new = D.Normal(torch.zeros(2, dtype=F64), 1.0), D.Normal(tensor([0.2, -0.1]), 1.0)
    a = torch.ones(2, dtype=F64)
    ratios = (new.log_prob(a) - old.log_prob(a)).exp()
    assert_close(ratios, [1.197217, 0.900325], tol=5e-7)
    assert_close(ratios.mean(), 1.048771, tol=5e-7)
    joint = ppo_clip(new.log_prob(a).sum(-1), old.log_prob(a).sum(-1), tensor(1.0), 0.2)
    assert_close(joint, 1.077884, tol=5e-7)
    kl = kl_normal(old.loc, old.scale, new.loc, new.scale)
    assert_close(kl.sum(), kl_multivariate_normal(old.loc, torch.eye(2, dtype=F64), new.loc, torch.eye(2, dtype=F64)))
    assert_close(torch.stack([kl.mean(), kl.sum()]), [0.0125, 0.025])


def test_S2_25_G3_14_and_G3_15_from_the_old_policy_to_the_new():
    assert_close(kl_normal(*OLD_NEW), 0.0893564486858)
    assert_close(kl_normal(*OLD_NEW[2:], *OLD_NEW[:2]), 0.0631435513142)


def test_S2_27_the_penalised_objective():
    new, kl = leaf([math.log(1.5), math.log(0.5)]), leaf([0.1, 0.2])
    got = ppo_kl_penalty(new, torch.zeros(2, dtype=F64), tensor([2.0, -2.0]), kl, 5.0)
    assert_close(got, [2.5, -2.0])
    of_new, of_kl = torch.autograd.grad(got.sum(), (new, kl))
    assert_close(of_new, [3.0, -1.0])
    assert_close(of_kl, [-5.0, -5.0])
    assert_close(ppo_kl_penalty(new, torch.zeros(2, dtype=F64), tensor([2.0, -2.0]), kl, 0.0), [3.0, -1.0])


def test_S2_28_G3_16_and_G3_17_the_clipped_objective_and_where_it_is_flat():
    r, A = leaf([1.5, 1.5, 0.5, 0.5, 1.1]), tensor([2.0, -2.0, 2.0, -2.0, 2.0])
    got = ppo_clip(r.log(), torch.zeros(5, dtype=F64), A, 0.2)
    assert_close(got, [2.4, -3.0, 1.0, -1.6, 2.2])
    assert_close(torch.autograd.grad(got.sum(), r)[0], [0.0, -2.0, 2.0, 0.0, 2.0])
    moved = ppo_clip(r.log() + 3, torch.full((5,), 3.0, dtype=F64), A, 0.2)
    assert_close(moved, got)


@pytest.mark.parametrize(
    ("coefficient", "kl", "after"),
    [
        (1.0, 0.0, 0.5),
        (1.0, math.nextafter(0.03 / 1.5, 0), 0.5),
        (1.0, 0.03 / 1.5, 1.0),
        (1.0, 0.03, 1.0),
        (1.0, 1.5 * 0.03, 1.0),
        (1.0, math.nextafter(1.5 * 0.03, 1), 2.0),
        (1.0, INF, 2.0),
        (3.0, 0.0, 1.5),
        (6.0, 1.0, 10.0),
        (1.5e-4, 0.0, 1e-4),
        (50.0, 0.03, 10.0),
        (1e-9, 0.03, 1e-4),
    ],
)
def test_S2_30_the_adaptive_rule_that_the_listing_has_lost(coefficient, kl, after):
    assert adapt_kl_coefficient(coefficient, kl, 0.03) == after


# --- against mpmath, on the floats as they are given ------------------------------------------------------------------


def exact(formula, *arguments):
    """`formula` row by row with 100 digits, of which near equality half are lost."""
    with mpmath.workdps(100):
        return tensor([float(formula(*row)) for row in zip(*(a.tolist() for a in arguments))])


def mp_normal(loc0, scale0, loc1, scale1):
    ratio, delta = mpmath.mpf(scale0) / scale1, (mpmath.mpf(loc0) - loc1) / scale1
    return (ratio**2 + delta**2 - 1) / 2 - mpmath.log(ratio)


def mp_categorical(p, q):
    p, q = [*map(mpmath.mpf, p)], [*map(mpmath.mpf, q)]
    return mpmath.fsum((a * mpmath.log(a / b) if a else 0) - a + b for a, b in zip(p, q))


def mp_bernoulli(p, q):
    return mp_categorical([p, 1 - mpmath.mpf(p)], [q, 1 - mpmath.mpf(q)])


def mp_log_softmax(a):
    a = [*map(mpmath.mpf, a)]
    top = a.index(max(a))
    log_sum = mpmath.log1p(mpmath.fsum(mpmath.exp(x - a[top]) for i, x in enumerate(a) if i != top))
    return [x - a[top] - log_sum for x in a]


def mp_logits(a, b):
    return mpmath.fsum(mpmath.exp(x) * (x - y) for x, y in zip(mp_log_softmax(a), mp_log_softmax(b)))


def mp_log_odds(a, b):
    return mp_logits([a, 0], [b, 0])


def mp_multivariate_normal(loc0, cov0, loc1, cov1):
    loc0, cov0, loc1, cov1 = map(mpmath.matrix, (loc0, cov0, loc1, cov1))
    precision, delta, d = cov1**-1, loc0 - loc1, len(loc0)
    trace = sum((precision * cov0)[i, i] for i in range(d))
    return (trace - d + (delta.T * precision * delta)[0] + mpmath.log(mpmath.det(cov1) / mpmath.det(cov0))) / 2


def worst(got, want):
    """The largest relative error, over what is neither too small nor too large for the dtype: the most, and not all."""
    low, high = torch.finfo(got.dtype).tiny, torch.finfo(got.dtype).max
    fits = (want > low) & (want < high)
    assert fits.double().mean() > 0.5
    assert (got[want <= low] <= 2 * low).all()
    assert (got[want >= high] == INF).all()
    return ((got.double() - want).abs() / want)[fits].max()


def normal_pairs(n, dtype):
    """Standard deviations of all sizes, a factor e^(10⁻¹² … 10) apart, and means 10⁻¹² … 10⁴ of them apart."""
    scale0 = any_size(-3, 3, n, seed=1).abs()
    scale1 = scale0 * any_size(-12, 1, n, seed=3).exp()
    loc0 = any_size(-3, 3, n, seed=5) * scale0
    loc1 = loc0 + any_size(-12, 4, n, seed=7) * scale1
    return [a.to(dtype) for a in (loc0, scale0, loc1, scale1)]


def log_odds_pairs(n, dtype, largest):
    a = uniform(-1, 1, n, seed=1) * tensor([1, 10, 30, largest]).repeat(n // 4)
    b = a + any_size(-12, 1, n, seed=2)
    b[::8] = uniform(-largest, largest, n // 8, seed=4)  # the largest a meet small b, and the smallest a large ones
    b[3::8] = uniform(-3, 3, n // 8, seed=5)
    return a.to(dtype), b.to(dtype)


def logits_pairs(n, dtype, spread, offset):
    """Classes that differ by `spread`; the pair nearly agrees or not, up to a constant of the size of `offset`."""
    a = spread * normal(n, 5, seed=1)
    b = a + any_size(-10, 1, n, 1, seed=2) * normal(n, 5, seed=4) + offset * normal(n, 1, seed=5)
    return a.to(dtype), b.to(dtype)


def gaussian_pairs(n, d, dtype, apart):
    """A pair that differs by `apart`, or where that is None has nothing in common."""
    loc0, cov0, loc1, cov1 = gaussians(n, d=d, seed=d)
    if apart is None:
        size = any_size(-1, 1, n, seed=9).abs()
        cov1 = cov1 * size[:, None, None]
    else:
        loc1, cov1 = loc0 + apart * loc1, cov0 + apart * (cov1 - covariances(n, d=d, seed=99))
    return [a.to(dtype) for a in (loc0, cov0, loc1, cov1)]


BOUNDS = pytest.mark.parametrize(("dtype", "bound"), [(F32, 1e-6), (F64, 1e-12)], ids=["float32", "float64"])


@BOUNDS
def test_kl_of_normals_has_all_its_digits(dtype, bound):
    pairs = normal_pairs(10_000, dtype)
    assert worst(kl_normal(*pairs), exact(mp_normal, *pairs)) < bound


@BOUNDS
def test_kl_of_bernoullis_has_all_its_digits(dtype, bound):
    pairs = [a.sigmoid().clamp(1e-30, 1 - torch.finfo(dtype).eps) for a in log_odds_pairs(10_000, dtype, 60)]
    assert worst(kl_bernoulli(*pairs), exact(mp_bernoulli, *pairs)) < bound


@BOUNDS
def test_kl_of_bernoullis_has_all_its_digits_from_log_odds(dtype, bound):
    pairs = log_odds_pairs(10_000, dtype, 80 if dtype == F32 else 600)
    assert worst(LOG_ODDS(*pairs), exact(mp_log_odds, *pairs)) < bound


@BOUNDS
def test_kl_of_categoricals_has_all_its_digits(dtype, bound):
    pairs = [a.softmax(-1) for a in logits_pairs(10_000, dtype, 3.0, 0.0)]
    assert worst(kl_categorical(*pairs), exact(mp_categorical, *pairs)) < bound


@pytest.mark.parametrize(("dtype", "bound"), [(F32, 1e-5), (F64, 1e-13)], ids=["float32", "float64"])
@pytest.mark.parametrize("offset", [0, 1, 30])
@pytest.mark.parametrize("spread", [1, 10, 100])
def test_kl_of_categoricals_has_nearly_all_its_digits_from_logits(spread, offset, dtype, bound):
    """A class as unlikely as e⁻¹⁰⁰ has a probability that is right to 100 roundings only, and may be all there is."""
    pairs = logits_pairs(1000, dtype, spread, offset)
    want = exact(mp_logits, *pairs)
    some = want > 1e-30
    assert some.double().mean() > 0.3
    assert worst(LOGITS(*pairs)[some], want[some]) < bound


@pytest.mark.parametrize("apart", [1e-10, 1e-6, 1e-3, None])
@pytest.mark.parametrize(("dtype", "bound"), [(F32, 5e-6), (F64, 1e-13)], ids=["float32", "float64"])
def test_kl_of_multivariate_normals_has_nearly_all_its_digits(dtype, bound, apart):
    """Their factors' errors grow with the dimension.  Where a pair rounds to equals, mpmath leaves 10⁻¹⁰⁰ for 0."""
    for d in range(1, 9):
        pairs = gaussian_pairs(12, d, dtype, apart)
        want = exact(mp_multivariate_normal, *pairs)
        assert ((kl_multivariate_normal(*pairs).double() - want).abs() <= bound * want + 1e-60).all()


def test_where_torch_loses_all_digits():
    """Relative errors of torch.distributions in float32, where those of the companion are below 10⁻⁶."""
    loc, scale, ratio = normal(1000), any_size(-1, 1, 1000).abs(), any_size(-7, -5, 1000).exp() ** 0.5
    pairs = [a.float() for a in (loc, scale, loc, scale * ratio)]
    want = exact(mp_normal, *pairs)
    p, q = D.Normal(*pairs[:2]), D.Normal(*pairs[2:])
    assert worst(D.kl_divergence(p, q), want) > 1
    assert worst(kl_normal(*pairs), want) < 1e-6
    pairs = gaussian_pairs(12, 4, F32, 1e-6)
    want = exact(mp_multivariate_normal, *pairs)
    assert worst(torch_kl_multivariate_normal(*pairs), want) > 1
    assert worst(kl_multivariate_normal(*pairs), want) < 1e-6


def test_where_torch_rounds_probabilities_to_one():
    a, b = torch.tensor([20.0]), torch.tensor([18.0])
    want = exact(mp_log_odds, a, b)
    assert worst(LOG_ODDS(a, b), want) < 1e-6
    assert D.kl_divergence(D.Bernoulli(a.sigmoid()), D.Bernoulli(b.sigmoid())) == 0
    assert worst(D.kl_divergence(D.Bernoulli(logits=a), D.Bernoulli(logits=b)), want) > 0.1


def test_where_torch_takes_a_small_probability_for_none():
    a, b = torch.tensor([[0.0, 0.0, 0.5]]), torch.tensor([[0.0, -200.0, -250.0]])
    want = exact(mp_logits, a, b)
    assert 150 < want < 200
    assert worst(LOGITS(a, b), want) < 1e-6
    assert D.kl_divergence(D.Categorical(logits=a), D.Categorical(logits=b)) == INF


@given(SEEDS)
def test_one_ulp_makes_it_positive(seed):
    """For all but probabilities, whose sum an ulp would change too: there one ulp goes from one class to another."""
    p = torch.randint(1, 2**20, (50, 3), generator=seeded(seed)).double() / 2**24
    p = torch.cat([p, 1 - p.sum(-1, keepdim=True)], -1)
    q = p + tensor([1, -1, 0, 0]) * 2**-53
    assert (kl_categorical(p, q) > 0).all()
    u = normal(50, seed=seed)
    for x in u.float(), u:
        up, zero, one = x.nextafter(x + 1), torch.zeros_like(x), torch.ones_like(x)
        assert (kl_normal(x, one, up, one) > 0).all()
        assert (kl_normal(zero, x.exp(), zero, x.exp().nextafter(one / 0)) > 0).all()
        assert (LOG_ODDS(x, up) > 0).all()
        assert (kl_bernoulli(x.sigmoid(), x.sigmoid().nextafter(one)) > 0).all()
        assert (LOGITS(torch.stack([x, one], -1), torch.stack([up, one], -1)) > 0).all()


# --- what holds for every pair ----------------------------------------------------------------------------------------


@given(SEEDS, BATCHES)
def test_kl_is_torchs_where_that_is_accurate(seed, batch):
    a, b = normal(2, *batch, 3, seed=seed)
    want = D.kl_divergence(D.Categorical(logits=a), D.Categorical(logits=b))
    assert_close(kl_categorical(a.softmax(-1), b.softmax(-1)), want, tol=1e-13)
    assert_close(LOGITS(a + 5, b - 3), want, tol=1e-13)
    want = D.kl_divergence(D.Bernoulli(logits=a), D.Bernoulli(logits=b))
    assert_close(kl_bernoulli(a.sigmoid(), b.sigmoid()), want, tol=1e-13)
    assert_close(LOG_ODDS(a, b), want, tol=1e-13)
    want = D.kl_divergence(D.Normal(a, b.exp()), D.Normal(b, (a - b).exp()))
    assert_close(kl_normal(a, b.exp(), b, (a - b).exp()), want, tol=1e-12)
    pairs = gaussians(*batch, d=4, seed=seed)
    assert_close(kl_multivariate_normal(*pairs), torch_kl_multivariate_normal(*pairs), tol=1e-11)


@given(SEEDS)
def test_kl_of_normals_is_the_integral(seed):
    a, b = 0.5 * normal(2, 2, seed=seed)
    p, q = D.Normal(a[0], a[1].exp()), D.Normal(b[0], b[1].exp())
    x = a[0] + a[1].exp() * torch.linspace(-12, 12, 2001, dtype=F64)
    integral = torch.trapezoid(p.log_prob(x).exp() * (p.log_prob(x) - q.log_prob(x)), x)
    assert_close(kl_normal(p.loc, p.scale, q.loc, q.scale), integral, tol=1e-9)


@given(SEEDS, st.integers(1, 6))
def test_kl_of_normals_does_not_depend_on_origin_unit_and_frame(seed, d):
    shift, unit = any_size(-2, 2, 2, seed=seed)
    a, b = normal(2, 20, seed=seed)
    want = kl_normal(a, b.exp(), b, a.exp())
    moved = shift + unit * a, unit.abs() * b.exp(), shift + unit * b, unit.abs() * a.exp()
    assert_close(kl_normal(*moved), want, tol=1e-9)
    loc0, cov0, loc1, cov1 = gaussians(5, d=d, seed=seed)
    M, c = normal(d, d, seed=seed) + 3 * torch.eye(d, dtype=F64), normal(d, seed=seed + 9)
    moved = loc0 @ M.mT + c, M @ cov0 @ M.mT, loc1 @ M.mT + c, M @ cov1 @ M.mT
    assert_close(kl_multivariate_normal(*moved), kl_multivariate_normal(loc0, cov0, loc1, cov1), tol=1e-7)


@given(SEEDS, st.integers(1, 5), st.integers(1, 5))
def test_kl_of_independent_parts_adds_up(seed, d, e):
    one, other = gaussians(4, d=d, seed=seed), gaussians(4, d=e, seed=seed + 5)
    zeros = torch.zeros(4, d, e, dtype=F64)

    def joined(i):
        upper, lower = torch.cat([one[i], zeros], -1), torch.cat([zeros.mT, other[i]], -1)
        return torch.cat([upper, lower], -2)

    both = torch.cat([one[0], other[0]], -1), joined(1), torch.cat([one[2], other[2]], -1), joined(3)
    assert_close(kl_multivariate_normal(*both), kl_multivariate_normal(*one) + kl_multivariate_normal(*other))
    p, q = normal(2, 4, d, seed=seed).softmax(-1)
    r, s = normal(2, 4, e, seed=seed + 1).softmax(-1)
    product = [(a[..., :, None] * b[..., None, :]).flatten(-2) for a, b in ((p, r), (q, s))]
    assert_close(kl_categorical(*product), kl_categorical(p, q) + kl_categorical(r, s), tol=1e-13)


@given(SEEDS, st.integers(1, 6))
def test_normals_in_one_dimension_and_along_the_axes(seed, d):
    loc0, a, loc1, b = normal(4, 5, d, seed=seed)
    each = kl_normal(loc0, a.exp(), loc1, b.exp())
    along = kl_multivariate_normal(loc0, (2 * a).exp().diag_embed(), loc1, (2 * b).exp().diag_embed())
    assert_close(along, each.sum(-1))
    one = kl_multivariate_normal(loc0[:, :1], (2 * a).exp()[:, :1, None], loc1[:, :1], (2 * b).exp()[:, :1, None])
    assert_close(one, each[:, 0])


@given(SEEDS, st.integers(2, 7))
def test_order_and_merging_of_classes(seed, n):
    p, q = normal(2, 10, n, seed=seed).softmax(-1)
    whole, order = kl_categorical(p, q), torch.randperm(n, generator=seeded(seed))
    assert_close(kl_categorical(p[:, order], q[:, order]), whole, tol=1e-14)
    assert_close(LOGITS(p.log()[:, order], q.log()[:, order]), whole, tol=1e-13)
    first, rest = ([a[:, :2].sum(-1, keepdim=True), a[:, 2:]] for a in (p, q))
    merged = kl_categorical(torch.cat(first, -1), torch.cat(rest, -1))
    inside = kl_categorical(p[:, :2] / first[0], q[:, :2] / rest[0])
    assert (merged <= whole + 1e-15).all()
    assert_close(merged + first[0][:, 0] * inside, whole, tol=1e-13)  # the chain rule
    two = kl_categorical(torch.stack([p[:, 0], 1 - p[:, 0]], -1), torch.stack([q[:, 0], 1 - q[:, 0]], -1))
    assert_close(kl_bernoulli(p[:, 0], q[:, 0]), two, tol=1e-14)


@given(SEEDS)
def test_kl_is_convex_in_the_pair(seed):
    p, q, r, s = normal(4, 20, 4, seed=seed).softmax(-1)
    t = uniform(0, 1, 20, 1, seed=seed)
    mixed = kl_categorical(t * p + (1 - t) * r, t * q + (1 - t) * s)
    assert (mixed <= t[:, 0] * kl_categorical(p, q) + (1 - t)[:, 0] * kl_categorical(r, s) + 1e-14).all()


# --- derivatives ------------------------------------------------------------------------------------------------------


def spread_out(A):
    return A @ A.mT + torch.eye(A.shape[-1], dtype=A.dtype)


# of parameters that can be anything, with the shapes of those of one distribution
FREE = {
    "categorical": (lambda a, b: kl_categorical(a.softmax(-1), b.softmax(-1)), [(2, 3)]),
    "categorical logits": (LOGITS, [(2, 3)]),
    "bernoulli": (lambda a, b: kl_bernoulli(a.sigmoid(), b.sigmoid()), [(3,)]),
    "bernoulli logits": (LOG_ODDS, [(3,)]),
    "normal": (lambda m, s, n, t: kl_normal(m, s.exp(), n, t.exp()), [(3,), (3,)]),
    "multivariate normal": (
        lambda m, A, n, B: kl_multivariate_normal(m, spread_out(A), n, spread_out(B)),
        [(2,), (2, 2)],
    ),
}


@pytest.mark.parametrize("apart", [0.0, 1e-9, 1.0, 4.0])
@pytest.mark.parametrize("name", FREE)
def test_first_and_second_derivatives(name, apart):
    fn, shapes = FREE[name]
    one = [normal(*shape, seed=i) for i, shape in enumerate(shapes)]
    other = [a + apart * normal(*a.shape, seed=9) for a in one]
    inputs = [a.clone().requires_grad_() for a in (*one, *other)]
    assert gradcheck(fn, inputs)
    assert gradgradcheck(fn, inputs)
    if apart == 0:
        assert all((slope == 0).all() for slope in torch.autograd.grad(fn(*inputs).sum(), inputs))


def test_the_second_derivative_between_equals_is_fishers_information():
    def information(fn, *at):
        """By the last of the second distribution's parameters, of which `at` has those of one."""
        return torch.func.jacrev(torch.func.jacrev(lambda x: fn(*at, *at[:-1], x)))(at[-1])

    a, scale = normal(3), normal(seed=1).exp()
    p = a.softmax(-1)
    assert_close(information(LOGITS, a), p.diag() - p.outer(p))
    assert_close(information(kl_bernoulli, p[0]), 1 / (p[0] * (1 - p[0])))
    assert_close(information(LOG_ODDS, a[0]), a[0].sigmoid() * (-a[0]).sigmoid())
    assert_close(information(kl_normal, a[0], scale), 2 / scale**2)
    assert_close(information(lambda s, m, t, n: kl_normal(m, s, n, t), scale, a[0]), 1 / scale**2)
    cov = covariances(d=3)
    assert_close(information(lambda c, m, b, n: kl_multivariate_normal(m, c, n, b), cov, a), cov.inverse())


def test_derivatives_by_probabilities():
    p, q = leaf([0.0, 0.25, 0.75, 0.0]), leaf([0.5, 0.125, 0.375, 0.0])
    of_p, of_q = torch.autograd.grad(kl_categorical(p, q), (p, q))
    assert_close(of_p, [0.0, math.log(2), math.log(2), 0.0], tol=1e-15)
    assert_close(of_q, [1.0, -1.0, -1.0, 1.0], tol=1e-15)
    p, q = leaf([0.0, 1.0, 0.0]), leaf([0.5, 0.5, 0.0])
    of_p, of_q = torch.autograd.grad(kl_bernoulli(p, q).sum(), (p, q))
    assert_close(of_q, [2.0, -2.0, 1.0], tol=1e-15)
    assert of_p.isfinite().all()


@pytest.mark.parametrize("tiny", [1e-10, 1e-20, 1e-30, 1e-42])
def test_slopes_by_tiny_probabilities_in_float32(tiny):
    """From 10⁻²⁰ on, q/p² overflows."""
    p, q = torch.tensor([tiny, 1.0]), torch.tensor([0.5, 0.5])
    of_p, of_q = torch.func.grad(kl_categorical, argnums=(0, 1))(p, q)
    assert_close(of_p.double(), (p.double() / q).log(), tol=1e-6)
    assert_close(of_q, 1 - p / q, tol=1e-6)
    of_p = torch.func.grad(kl_bernoulli)(p[0], 0.5)
    assert_close(of_p.double(), torch.logit(p[0].double()), tol=1e-6)


def test_derivatives_by_logits_with_classes_that_are_never_seen():
    a, b = leaf([0.3, -INF, -0.5, -INF, 1.0]), leaf([0.1, -INF, 0.4, 0.7, -0.2])
    kl = LOGITS(a, b)
    of_a, of_b = torch.autograd.grad(kl, (a, b))
    p, q = a.detach().softmax(-1), b.detach().softmax(-1)
    log = torch.where(p > 0, (p / q).log(), 0.0)
    assert_close(kl, (p * log).nan_to_num().sum())
    assert_close(of_a, (p * (log - kl.detach())).nan_to_num())
    assert_close(of_b, q - p)


def test_an_infinite_kl_has_no_slope_that_is_not_a_number():
    for p, q, logits in (
        (leaf([[0.5, 0.5], [0.2, 0.8]]), leaf([[0.0, 1.0], [0.4, 0.6]]), False),
        (leaf([[0.5, 0.5], [0.2, 0.8]]), leaf([[-INF, 1.0], [0.4, 0.6]]), True),
    ):
        kl = kl_categorical(p, q, logits=logits)
        assert kl[0] == INF
        assert not any(slope.isnan().any() for slope in torch.autograd.grad(kl.sum(), (p, q)))
        of_other = torch.autograd.grad(kl_categorical(p, q, logits=logits)[1], (p, q))
        assert all(slope[1].isfinite().all() for slope in of_other)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_derivatives_by_covariances_are_symmetric_and_those_of_the_formula(d):
    """Also where the argument is symmetric up to rounding only."""
    loc0, cov0, loc1, cov1 = gaussians(3, d=d, seed=d)
    cov0 = cov0 * (1 + 1e-16 * normal(3, d, d).sign())
    leaves = [a.requires_grad_() for a in (loc0, cov0, loc1, cov1)]
    kl_multivariate_normal(*leaves).sum().backward()
    with torch.no_grad():
        inverse0, inverse1, delta = cov0.inverse(), cov1.inverse(), (loc0 - loc1)[..., None]
        assert torch.equal(cov0.grad, cov0.grad.mT)
        assert torch.equal(cov1.grad, cov1.grad.mT)
        assert_close(cov0.grad, (inverse1 - inverse0) / 2)
        assert_close(cov1.grad, (inverse1 - inverse1 @ (cov0 + delta @ delta.mT) @ inverse1) / 2)
        assert_close(loc0.grad, (inverse1 @ delta)[..., 0])
        assert_close(loc1.grad, -(inverse1 @ delta)[..., 0])


def test_slopes_near_equality_have_all_their_digits_in_float32():
    """Against mpmath's derivatives of the textbook's formula, or the formula's in float64; relative to the largest."""

    def slopes(fn, pairs):
        leaves = [a.clone().requires_grad_() for a in pairs]
        return [slope.double() for slope in torch.autograd.grad(fn(*leaves).sum(), leaves)]

    def assert_right(got, want, bound=1e-6):
        assert ((got - want).abs().amax(-1) / want.abs().amax(-1)).max() < bound

    def check(fn, formula, pairs, bound):
        orders = torch.eye(len(pairs), dtype=torch.long).tolist()
        want = [exact(lambda *row, n=n: mpmath.diff(formula, row, tuple(n)), *pairs) for n in orders]
        assert_right(torch.stack(slopes(fn, pairs), -1), torch.stack(want, -1), bound)

    loc, scale = normal(50, seed=1), normal(50, seed=2).exp()
    pairs = loc, scale, loc + scale * any_size(-6, -2, 50, seed=3), scale * any_size(-6, -2, 50, seed=5).exp()
    check(kl_normal, mp_normal, [a.float() for a in pairs], 1e-6)
    a = 3 * normal(50, seed=6)
    pairs = [x.float() for x in (a, a + any_size(-4, -1, 50, seed=7))]
    check(LOG_ODDS, mp_log_odds, pairs, 1e-5)
    check(kl_bernoulli, mp_bernoulli, [x.sigmoid() for x in pairs], 1e-6)

    a, b = logits_pairs(100, F32, 1, 1)
    classes = [
        exact(lambda a, b, i=i: mpmath.exp(mp_log_softmax(b)[i]) - mpmath.exp(mp_log_softmax(a)[i]), a, b)
        for i in range(5)
    ]
    assert_right(slopes(LOGITS, (a, b))[1], torch.stack(classes, -1), 2e-6)

    for apart in 1e-6, 1e-3:
        pairs = gaussian_pairs(20, 5, F32, apart)
        loc0, cov0, loc1, cov1 = (a.double() for a in pairs)
        of_loc0, of_cov0, _, of_cov1 = slopes(kl_multivariate_normal, pairs)
        z = torch.linalg.solve(cov1, loc0 - loc1)
        change = cov1.inverse() @ (cov0 - cov1)
        assert_right(of_loc0, z)
        assert_right(of_cov0.flatten(1), (change @ cov0.inverse() / 2).flatten(1), 2e-6)
        of_spread = -change @ cov1.inverse() - z[..., None] * z[..., None, :]
        assert_right(of_cov1.flatten(1), (of_spread / 2).flatten(1), 2e-6)


# --- the edges --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p", "q", "kl"),
    [
        ([0.5, 0.5, 0.0], [0.25, 0.25, 0.5], math.log(2)),
        ([0.5, 0.5, 0.0], [0.25, 0.75, 0.0], math.log(4 / 3) / 2),
        ([0.5, 0.0, 0.5], [0.5, 0.5, 0.0], INF),
        ([0.0, 1.0, 0.0], [0.0, 1.0, 0.0], 0.0),
        ([0.0, 1.0, 0.0], [1.0, 0.0, 0.0], INF),
        ([1.0], [1.0], 0.0),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [F32, F64])
def test_zeros_among_probabilities_and_minus_infinities_among_logits(p, q, kl, dtype):
    p, q = torch.tensor(p, dtype=dtype), torch.tensor(q, dtype=dtype)
    for got in kl_categorical(p, q), LOGITS(p.log() + 2, q.log() - 3):
        assert got.item() == pytest.approx(kl, abs=4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize(
    ("p", "q", "kl"),
    [
        (0.0, 0.5, math.log(2)),
        (1.0, 0.5, math.log(2)),
        (0.0, 0.0, 0.0),
        (1.0, 1.0, 0.0),
        (0.0, 1.0, INF),
        (1.0, 0.0, INF),
        (0.5, 0.0, INF),
        (0.5, 1.0, INF),
        (1e-30, 1e-20, 1e-20),
        (1e-20, 1e-30, 1e-20 * (math.log(1e10) - 1)),
    ],
)
@pytest.mark.parametrize("dtype", [F32, F64])
def test_probabilities_of_a_yes_at_the_ends(p, q, kl, dtype):
    got = kl_bernoulli(torch.tensor(p, dtype=dtype), torch.tensor(q, dtype=dtype))
    assert got.item() == pytest.approx(kl, rel=1e-6)


@pytest.mark.parametrize(
    ("a", "b"), [(90.0, -90.0), (-90.0, 90.0), (75.0, 74.0), (1000.0, -1000.0), (0.0, 1000.0), (-3e4, 3e4)]
)
@pytest.mark.parametrize("dtype", [F32, F64])
def test_log_odds_of_any_size(a, b, dtype):
    a, b = torch.tensor([a], dtype=dtype), torch.tensor([b], dtype=dtype)
    assert worst(LOG_ODDS(a, b), exact(mp_log_odds, a, b)) < 1e-6
    pair = (torch.stack([x, 0 * x], -1) for x in (a, b))
    assert worst(LOGITS(*pair), exact(mp_log_odds, a, b)) < 1e-6


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([1000.0, 0.0, -1000.0], [-1000.0, 0.0, 1000.0]),
        ([1000.0, 0.0, -1000.0], [0.0, 0.0, 0.0]),
        ([0.0, 0.0, 0.0], [1000.0, 0.0, -1000.0]),
        ([0.0, 1.0, 2.0], [1000.0, 1001.0, 1002.5]),
        ([0.0, -70.0, -75.0], [0.0, 3.0, 80.0]),
        ([0.0, 0.0, -50.0], [0.0, -78.0, -81.0]),
        ([0.0, 0.0, -50.0], [-158.0, -162.0, 0.0]),
    ],
)
@pytest.mark.parametrize("dtype", [F32, F64])
def test_logits_of_any_size(a, b, dtype):
    a, b = torch.tensor([a], dtype=dtype), torch.tensor([b], dtype=dtype)
    assert worst(LOGITS(a, b), exact(mp_logits, a, b)) < 1e-6
    slopes = torch.func.grad(lambda a, b: LOGITS(a, b).sum(), argnums=(0, 1))(a, b)
    assert all(slope.isfinite().all() for slope in slopes)
    assert_close(slopes[1], b.softmax(-1) - a.softmax(-1), tol=1e-6)


@pytest.mark.parametrize(
    "pair",
    [
        (0.0, 1e-30, 0.0, 1e20),
        (0.0, 1e-30, 1e19, 1e20),
        (0.0, 1e-20, 1e-30, 1e25),
        (0.0, 1e-30, 0.0, 1e-29),
        (1e30, 1e25, 1.1e30, 2e25),
        (1e-30, 1e-35, 2e-30, 2e-35),
        (0.0, 1e18, 0.0, 1.0),
        (0.0, 1e20, 0.0, 1e-30),
        (1e30, 1.0, 0.0, 1.0),
    ],
)
def test_scales_of_any_size_in_float32(pair):
    pair = [torch.tensor([x]) for x in pair]
    want = exact(mp_normal, *pair)
    got = kl_normal(*pair)
    assert got.item() == pytest.approx(want.item() if want < 3e38 else INF, rel=1e-6)


# --- manners ----------------------------------------------------------------------------------------------------------

# with arguments for any batch
CALLS = {
    "categorical": (kl_categorical, lambda *b: [*normal(2, *b, 3).softmax(-1)]),
    "categorical logits": (LOGITS, lambda *b: [*normal(2, *b, 3)]),
    "bernoulli": (kl_bernoulli, lambda *b: [*normal(2, *b).sigmoid()]),
    "bernoulli logits": (LOG_ODDS, lambda *b: [*normal(2, *b)]),
    "normal": (kl_normal, lambda *b: [normal(*b), normal(*b, seed=1).exp(), normal(*b, seed=2), normal(*b).exp()]),
    "multivariate normal": (kl_multivariate_normal, lambda *b: [*gaussians(*b, d=3)]),
}


@pytest.mark.parametrize("batch", [(), (4,), (2, 3), (1, 1), (0,), (2, 0)])
@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("name", CALLS)
def test_batch_axes_and_dtype_follow_the_arguments(name, dtype, batch):
    fn, arguments = CALLS[name]
    got = fn(*(a.to(dtype) for a in arguments(*batch)))
    assert got.shape == batch
    assert got.dtype == dtype


@pytest.mark.parametrize("name", CALLS)
def test_a_batch_is_its_pairs_one_by_one_and_they_stay_as_they_are(name):
    fn, arguments = CALLS[name]
    pairs = arguments(2, 3)
    alone = [fn(*(a[i, j] for a in pairs)) for i in range(2) for j in range(3)]
    assert_close(fn(*pairs), torch.stack(alone).reshape(2, 3), tol=1e-14)
    assert all(torch.equal(a, b) for a, b in zip(pairs, arguments(2, 3)))


@pytest.mark.parametrize("dtype", [F16, BF16])
@pytest.mark.parametrize("name", [name for name in CALLS if name != "multivariate normal"])
def test_half_precision_is_as_good_as_it_can_be(name, dtype):
    """Not for covariances, which torch does not factor in it; with probabilities whose sum is 1 in few digits too."""
    fn, arguments = CALLS[name]
    eighths = tensor([[[2.0, 6.0], [4.0, 4.0]], [[4.0, 4.0], [1.0, 7.0]]]) / 8
    pairs = [a.to(dtype) for a in (eighths if name == "categorical" else arguments(2, 3))]
    assert fn(*pairs).dtype == dtype
    assert_close(fn(*pairs).double(), fn(*(a.double() for a in pairs)), tol=10 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("name", CALLS)
def test_torch_func_gives_the_slopes_of_autograd(name):
    fn, arguments = CALLS[name]
    leaves = [a.requires_grad_() for a in arguments(2)]
    want = torch.autograd.grad(fn(*leaves).sum(), leaves)
    every, plain = tuple(range(len(leaves))), [a.detach() for a in leaves]
    got = torch.func.grad(lambda *a: fn(*a).sum(), argnums=every)(*plain)
    rows = torch.func.jacrev(fn, argnums=every)(*plain)
    for slope, row, expected in zip(got, rows, want):
        assert torch.equal(slope, expected)
        assert_close(row.sum(0), expected, tol=1e-15)


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("number", [float, torch.as_tensor], ids=["plain", "in a tensor"])
def test_numbers_stand_beside_tensors(number, dtype):
    x = torch.tensor([0.3, 0.6], dtype=dtype)
    for fn, count in (kl_bernoulli, 2), (LOG_ODDS, 2), (kl_normal, 4):
        for place in range(count):
            numbers = [0.4, 0.25, 0.1, 2.0][:count]
            long = [x if i == place else torch.tensor([a, a], dtype=dtype) for i, a in enumerate(numbers)]
            short = [x if i == place else number(torch.tensor(a, dtype=dtype)) for i, a in enumerate(numbers)]
            assert fn(*short).dtype == dtype
            assert_close(fn(*short), fn(*long), tol=0)
    one = number(torch.tensor(1.0, dtype=dtype))
    assert_close(kl_normal(0 * one, one, one, one), 0.5, tol=0)
    assert kl_bernoulli(one, one).shape == ()


def gauss(loc):
    return D.MultivariateNormal(loc, torch.eye(len(loc)))


ONE, TWO, EYE, HALVES, NAN = torch.ones(3), torch.ones(2), torch.eye(3), HALF.expand(2, 2), math.nan
NORMAL, POISSON, NOWHERE = D.Normal(0.0, 1.0), D.Poisson(2.0), tensor([[0.0, 0.0], [-INF, -INF]])
BAD = [  # what is called, the error, and words of its message
    (kl_categorical, ([0.5, 0.5], HALF), TypeError, "p: expected a torch.Tensor, got list"),
    (kl_categorical, (HALF, 0.5), TypeError, "q: expected a torch.Tensor, got float"),
    (kl_categorical, (HALF, TWO.long()), TypeError, "q: expected a floating-point tensor, got torch.int64"),
    (kl_categorical, (HALF[0], HALF[0]), ValueError, "p: expected shape (*batch, d) with d ≥ 1, got ()"),
    (kl_categorical, (HALF, HALF[:0]), ValueError, "q: expected shape (*batch, d) with d ≥ 1, got (0,)"),
    (kl_categorical, (HALF, TWO / 2), TypeError, "q: expected torch.float64 like p, got torch.float32"),
    (kl_categorical, (ONE / 3, TWO / 2), ValueError, "q: expected shape (3,) like p, got (2,)"),
    (kl_categorical, (HALVES, HALF), ValueError, "q: expected shape (2, 2) like p, got (2,)"),
    (kl_categorical, (HALF, tensor([1.5, -0.5])), ValueError, "q: expected probabilities ≥ 0, got -0.5"),
    (kl_categorical, (tensor([NAN, 1.0]), HALF), ValueError, "p: expected probabilities ≥ 0, got nan"),
    (kl_categorical, (2 * HALF, HALF), ValueError, "p: expected the sum 1, got 2"),
    (kl_categorical, (HALF, HALF - 6e-7), ValueError, "q: expected the sum 1, got 0.9999988"),
    (LOGITS, (HALF, tensor([0.0, NAN])), ValueError, "q: expected logits < ∞, not −∞ throughout, got nan"),
    (LOGITS, (tensor([0.0, INF]), HALF), ValueError, "p: expected logits < ∞, not −∞ throughout, got inf"),
    (LOGITS, (HALVES, NOWHERE), ValueError, "q: expected logits < ∞, not −∞ throughout, got -inf"),
    (kl_bernoulli, ("0.5", 0.5), TypeError, "p: expected a torch.Tensor or a number, got str"),
    (kl_bernoulli, (torch.tensor(1), 0.5), TypeError, "p: expected a floating-point tensor, got torch.int64"),
    (kl_bernoulli, (HALF, TWO), TypeError, "q: expected torch.float64 like p, got torch.float32"),
    (kl_bernoulli, (ONE, TWO), ValueError, "q: expected shape (3,) like p, got (2,)"),
    (kl_bernoulli, (1.5, HALF), ValueError, "p: expected numbers in [0, 1], got 1.5"),
    (kl_bernoulli, (HALF, -0.25), ValueError, "q: expected numbers in [0, 1], got -0.25"),
    (LOG_ODDS, (0.5, tensor([0.0, INF])), ValueError, "q: expected finite log-odds, got inf"),
    (LOG_ODDS, (tensor(-INF), 0.5), ValueError, "p: expected finite log-odds, got -inf"),
    (kl_normal, (INF, 1.0, 0.0, 1.0), ValueError, "loc0: expected finite numbers, got inf"),
    (kl_normal, (0.0, 0.0, 0.0, 1.0), ValueError, "scale0: expected finite standard deviations > 0, got 0"),
    (kl_normal, (0.0, 1.0, NAN, 1.0), ValueError, "loc1: expected finite numbers, got nan"),
    (kl_normal, (0.0, 1.0, 0.0, -ONE), ValueError, "scale1: expected finite standard deviations > 0, got -1"),
    (kl_normal, (0.0, 1.0, 0.0, INF), ValueError, "scale1: expected finite standard deviations > 0, got inf"),
    (kl_normal, (0.0, [1.0], 0.0, 1.0), TypeError, "scale0: expected a torch.Tensor or a number, got list"),
    (kl_normal, (ONE, ONE, ONE.long(), ONE), TypeError, "loc1: expected a floating-point tensor, got torch.int64"),
    (kl_normal, (ONE, ONE, TWO, ONE), ValueError, "loc1: expected shape (3,) like loc0, got (2,)"),
    (kl_multivariate_normal, (0.0, EYE, ONE, EYE), TypeError, "loc0: expected a torch.Tensor, got float"),
    (kl_multivariate_normal, (ONE, EYE, TWO, EYE), ValueError, "loc1: expected shape (3,) like loc0, got (2,)"),
    (kl_multivariate_normal, (ONE, EYE, ONE.double(), EYE), TypeError, "loc1: expected torch.float32 like loc0, got"),
    (kl_multivariate_normal, (ONE / 0, EYE, ONE, EYE), ValueError, "loc0: expected finite numbers, got inf"),
    (kl_multivariate_normal, (ONE, EYE, -ONE / 0, EYE), ValueError, "loc1: expected finite numbers, got -inf"),
    (kl_multivariate_normal, (TWO, COV1.tril().float(), TWO, EYE), ValueError, "cov0: expected a symmetric matrix, |Σ"),
    (kl_multivariate_normal, (ONE, EYE, ONE, 1.0), TypeError, "cov1: expected a torch.Tensor, got float"),
    (
        kl_multivariate_normal,
        (ONE, EYE, ONE, ONE),
        ValueError,
        "cov1: expected shape (3, 3) beside a mean of (3,), got",
    ),
    (kl_multivariate_normal, (ONE, EYE, ONE, -2 * EYE), ValueError, "cov1: expected a positive definite matrix, its"),
    (sparsity_penalty, ([0.5], 0.1), TypeError, "activations: expected a torch.Tensor, got list"),
    (sparsity_penalty, (EYE.long(), 0.1), TypeError, "activations: expected a floating-point tensor, got torch.int64"),
    (
        sparsity_penalty,
        (ONE / 3, 0.1),
        ValueError,
        "activations: expected shape (*batch, units), none of them 0, got (3",
    ),
    (
        sparsity_penalty,
        (EYE[:0], 0.1),
        ValueError,
        "activations: expected shape (*batch, units), none of them 0, got (0",
    ),
    (sparsity_penalty, (2 * EYE, 0.1), ValueError, "activations: expected numbers in [0, 1], got 2"),
    (sparsity_penalty, (-EYE, 0.1), ValueError, "activations: expected numbers in [0, 1], got -1"),
    (sparsity_penalty, (EYE, 0.0), ValueError, "target: expected a number inside (0, 1), got 0.0"),
    (sparsity_penalty, (EYE, 1.0), ValueError, "target: expected a number inside (0, 1), got 1.0"),
    (sparsity_penalty, (EYE, NAN), ValueError, "target: expected a number inside (0, 1), got nan"),
    (ppo_clip, (ONE, EYE[:, :1], ONE, 0.2), ValueError, "old_log_prob: expected shape (3,) like log_prob, got (3, 1)"),
    (ppo_clip, (ONE, ONE, EYE[:, :1], 0.2), ValueError, "advantage: expected shape (3,) like log_prob, got (3, 1)"),
    (ppo_clip, (ONE, ONE, ONE.double(), 0.2), TypeError, "advantage: expected torch.float32 like log_prob, got torch"),
    (ppo_clip, (ONE, ONE, 1.0, 0.2), TypeError, "advantage: expected a torch.Tensor, got float"),
    (ppo_clip, (ONE, ONE, ONE, 0.0), ValueError, "epsilon: expected a number > 0, got 0.0"),
    (ppo_clip, (ONE, ONE, ONE, NAN), ValueError, "epsilon: expected a number > 0, got nan"),
    (ppo_kl_penalty, (ONE, ONE, ONE, ONE[0], 1.0), ValueError, "kl: expected shape (3,) like log_prob, got ()"),
    (ppo_kl_penalty, (ONE, ONE, EYE[:, :1], ONE, 1.0), ValueError, "advantage: expected shape (3,) like log_prob"),
    (ppo_kl_penalty, (ONE, ONE, ONE, ONE, -1.0), ValueError, "coefficient: expected a number ≥ 0, got -1.0"),
    (ppo_kl_penalty, (ONE, ONE, ONE, ONE, NAN), ValueError, "coefficient: expected a number ≥ 0, got nan"),
    (adapt_kl_coefficient, (0.0, 0.1, 0.1), ValueError, "coefficient > 0, target > 0 and kl ≥ 0, got 0.0, 0.1, 0.1"),
    (adapt_kl_coefficient, (1.0, 0.1, 0.0), ValueError, "coefficient > 0, target > 0 and kl ≥ 0, got 1.0, 0.0, 0.1"),
    (adapt_kl_coefficient, (1.0, -0.1, 0.1), ValueError, "coefficient > 0, target > 0 and kl ≥ 0, got 1.0, 0.1, -0.1"),
    (
        adapt_kl_coefficient,
        (1.0, NAN, 0.1),
        ValueError,
        "coefficient, target, kl: expected coefficient > 0, target > 0",
    ),
    (kl_monte_carlo, (ONE, NORMAL, 9), TypeError, "p: expected a distribution of torch, got Tensor"),
    (kl_monte_carlo, (NORMAL, D.Normal, 9), TypeError, "q: expected a distribution of torch, got type"),
    (kl_monte_carlo, (NORMAL, POISSON, 9), ValueError, "q: expected a continuous distribution like p, got Poisson("),
    (kl_monte_carlo, (POISSON, NORMAL, 9), ValueError, "q: expected a discrete distribution like p, got Normal("),
    (kl_monte_carlo, (gauss(ONE), gauss(TWO), 9), ValueError, "q: expected event shape [3], got [2]"),
    (kl_monte_carlo, (D.Normal(ONE, ONE), gauss(ONE), 9), ValueError, "q: expected event shape [], got [3]"),
    (
        kl_monte_carlo,
        (D.Normal(ONE, 1.0), D.Normal(TWO, 1.0), 9),
        ValueError,
        "q: expected batch shape [3] or [], got [2]",
    ),
    (
        kl_monte_carlo,
        (D.Normal(ONE, 1.0), D.Normal(ONE[:1], 1.0), 9),
        ValueError,
        "q: expected batch shape [3] or [], got",
    ),
    (kl_monte_carlo, (NORMAL, NORMAL, 0), ValueError, "samples: expected at least 1, got 0"),
    (kl_monte_carlo, (NORMAL, NORMAL, 9, "k4"), ValueError, "estimator: expected 'k1', 'k2' or 'k3', got 'k4'"),
]


@pytest.mark.parametrize(("fn", "arguments", "error", "words"), BAD, ids=[case[-1] for case in BAD])
def test_bad_arguments(fn, arguments, error, words, own_errors):
    with pytest.raises(error) as caught:
        fn(*arguments)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("dtype", "near", "far"), [(BF16, 2**-7, 2**-6), (F16, 2**-10, 2**-9), (F32, 9e-7, 1.2e-6), (F64, 9e-7, 1.1e-6)]
)
def test_sums_are_1_up_to_a_millionth_or_rounding(dtype, near, far, own_errors):
    for off in near, -near, far, -far:
        p, q = HALF.to(dtype), (HALF + tensor([0.0, off])).to(dtype)
        for pair in (p, q), (q, p):
            if abs(off) == near:
                assert kl_categorical(*pair) >= 0
            else:
                with pytest.raises(ValueError, match="expected the sum 1"):
                    kl_categorical(*pair)


# --- estimates from samples -------------------------------------------------------------------------------------------


def mixture():
    return D.MixtureSameFamily(D.Categorical(P), D.Normal(tensor([-1.0, 0.5]), tensor([0.6, 0.9])))


def one_and_other(family, *parameters):
    """A pair of one family; each parameter holds that of the one and that of the other."""
    return [family(*(tensor(p[i]) for p in parameters)) for i in range(2)]


def log_of(scale):
    return D.transforms.ComposeTransform([D.transforms.ExpTransform(), D.transforms.AffineTransform(0.0, scale)])


PAIRS = {
    "normal": one_and_other(D.Normal, [0.2, 0.4], [1.0, 1.2]),
    "a batch of normals": one_and_other(
        D.Normal, [[0.2, 0.0, 1.0], [0.4, 0.1, 0.5]], [[1.0, 0.5, 2.0], [1.2, 0.5, 2.5]]
    ),
    "laplace": one_and_other(D.Laplace, [0.0, 0.3], [1.0, 1.1]),
    "exponential and gamma": [D.Exponential(tensor(1.5)), D.Gamma(*tensor([1.3, 1.2]))],
    "gamma": one_and_other(D.Gamma, [2.0, 2.4], [1.0, 0.9]),
    "beta": one_and_other(D.Beta, [2.0, 2.5], [3.0, 3.0]),
    "dirichlet": one_and_other(D.Dirichlet, [[2.0, 3.0, 4.0], [2.5, 3.0, 3.5]]),
    "multivariate normal": [D.MultivariateNormal(MEAN1, COV1), D.MultivariateNormal(MEAN1 + 0.2, COV1 + 0.3)],
    "independent normals": [
        D.Independent(D.Normal(a, b.exp()), 1) for a, b in ((P, 0 * P), (0 * P, 0.1 + torch.zeros_like(P)))
    ],
    "log-normal": one_and_other(D.LogNormal, [0.0, 0.2], [0.5, 0.6]),
    "transformed": [
        D.TransformedDistribution(p, [log_of(3.0)]) for p in one_and_other(D.Normal, [0.0, 0.2], [0.5, 0.6])
    ],
    "categorical": one_and_other(D.Categorical, [[0.1, 0.4, 0.5], [0.3, 0.4, 0.3]]),
    "a batch of categoricals": one_and_other(D.Categorical, [[[0.1, 0.9], [0.4, 0.6]], [[0.3, 0.7], [0.5, 0.5]]]),
    "one-hot": one_and_other(D.OneHotCategorical, [[0.1, 0.4, 0.5], [0.3, 0.4, 0.3]]),
    "bernoulli": one_and_other(D.Bernoulli, [[0.1, 0.5], [0.2, 0.4]]),
    "independent bernoullis": [D.Independent(p, 1) for p in one_and_other(D.Bernoulli, [[0.1, 0.5], [0.2, 0.4]])],
    "poisson": one_and_other(D.Poisson, [3.0, 3.5]),
    "geometric": one_and_other(D.Geometric, [0.5, 0.4]),
    "mixture": [mixture(), D.Normal(*tensor([0.4, 1.1]))],
}


def exact_kl(p, q):
    if isinstance(p, D.MixtureSameFamily):
        x = torch.linspace(-15, 15, 30_001, dtype=F64)
        return torch.trapezoid(p.log_prob(x).exp() * (p.log_prob(x) - q.log_prob(x)), x)
    return D.kl_divergence(p, q)


def by_definition(p, q, n, estimator):
    """n values of the estimator, on samples of its own."""
    torch.manual_seed(1)
    x = p.sample((n,))
    log = q.log_prob(x) - p.log_prob(x)
    return {"k1": -log, "k2": log**2 / 2, "k3": log.exp() - 1 - log}[estimator]


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("name", PAIRS)
def test_estimates_lie_around_kl(name, estimator):
    (p, q), n = PAIRS[name], 20_000
    got = kl_monte_carlo(p, q, n, estimator, seeded(2))
    values = by_definition(p, q, n, estimator)
    want = values.mean(0) if estimator == "k2" else exact_kl(p, q)  # k2's mean is another
    assert got.shape == p.batch_shape
    assert got.dtype == F64
    noise = values.std(0) / n**0.5 * (2 if estimator == "k2" else 1)
    assert ((got - want).abs() <= 5 * noise).all()
    assert (noise < exact_kl(p, q) / 5).all()  # so that another value would show


def mean_of_k2(loc0, scale0, loc1, scale1):
    """½ E ℓ² for ℓ = a + bz + cz², z standard normal: ½ (a² + 2ac + b² + 3c²)."""
    delta, r = (loc0 - loc1) / scale1, scale0 / scale1
    a, b, c = r.log() - delta**2 / 2, -delta * r, (1 - r**2) / 2
    return (a**2 + 2 * a * c + b**2 + 3 * c**2) / 2


def test_k2_has_a_known_bias():
    parameters, n = tensor([0.2, 1.0, 0.9, 1.4]), 200_000
    p, q = D.Normal(*parameters[:2]), D.Normal(*parameters[2:])
    want, noise = mean_of_k2(*parameters), by_definition(p, q, n, "k2").std() / n**0.5
    assert (kl_monte_carlo(p, q, n, "k2", seeded()) - want).abs() <= 5 * noise
    assert (want - exact_kl(p, q)).abs() > 20 * noise


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("p", [PAIRS["normal"][0], PAIRS["categorical"][0], PAIRS["multivariate normal"][0]], ids=str)
def test_equal_distributions_give_exactly_0(p, estimator):
    assert kl_monte_carlo(p, p, 100, estimator) == 0


def test_k3_is_the_default_and_never_negative():
    p, q = D.Normal(*torch.zeros(2, 5000, dtype=F64).exp()), D.Normal(*tensor([1.1, 1.0]))
    each = kl_monte_carlo(p, q, 1, generator=seeded())
    assert torch.equal(each, kl_monte_carlo(p, q, 1, "k3", seeded()))
    assert (each > 0).all()
    assert (kl_monte_carlo(p, q, 1, "k1", seeded()) < 0).any()


def test_k3_keeps_its_digits_near_equality():
    p, q = D.Normal(*torch.tensor([0.0, 1.0])), D.Normal(*torch.tensor([1e-5, 1.0]))
    want, n = 0.5e-10, 20_000
    got = kl_monte_carlo(p, q, n, "k3", seeded()).double()
    assert (got - want).abs() < want * 5 * (2 / n) ** 0.5 + 0.05 * want


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_one_distribution_against_a_batch_of_others(estimator):
    one, many = D.Normal(*tensor([0.0, 1.0])), D.Normal(tensor([[0.0, 0.5, 1.0]] * 2), tensor(1.5))
    for p, q in (one, many), (many, one):
        got = kl_monte_carlo(p, q, 50_000, estimator, seeded())
        assert got.shape == (2, 3)
        want = exact_kl(p, q) if estimator != "k2" else mean_of_k2(p.loc, p.scale, q.loc, q.scale)
        assert ((got - want).abs() < 0.05).all()
        assert got[0, 0] != got[1, 0]  # each from samples of its own


def test_the_generator_and_the_global_state():
    (p, q), generator = PAIRS["normal"], seeded(3)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second = (kl_monte_carlo(p, q, 10, generator=generator) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert first != second
    assert kl_monte_carlo(p, q, 10, generator=seeded(3)) == first
    free = kl_monte_carlo(p, q, 10)
    assert not torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(5)
    assert kl_monte_carlo(p, q, 10) == free
    assert kl_monte_carlo(p, q, 10) != free


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_samples_outside_the_support(estimator):
    inner, outer = D.Uniform(*tensor([0.0, 1.0])), D.Uniform(*tensor([0.0, 2.0]))
    assert kl_monte_carlo(outer, inner, 100, estimator) == INF
    want = {"k1": math.log(2), "k2": math.log(2) ** 2 / 2, "k3": math.log(2) - 0.5}[estimator]  # k3 misses half of q
    assert_close(kl_monte_carlo(inner, outer, 100, estimator), want)
    some = kl_monte_carlo(D.Normal(tensor([9.0, -9.0]), tensor(1.0)), D.Exponential(tensor(1.0)), 100, estimator)
    assert some.isfinite().tolist() == [True, False]
    vectors = (
        D.Independent(D.Normal(tensor([9.0, -9.0]), tensor(1.0)), 1),
        D.Independent(D.Exponential(tensor([1.0, 1])), 1),
    )
    assert kl_monte_carlo(*vectors, 100, estimator) == INF
    never = D.Categorical(logits=tensor([0.0, -INF]))  # from probabilities, torch takes 10⁻¹⁶ for 0
    assert kl_monte_carlo(D.Categorical(HALF), never, 100, estimator) == INF


def slopes(fn, *parameters, n, estimator):
    """n independent estimates of the derivative by each parameter: their mean, and its standard error."""
    leaves = [p.expand(n, *p.shape).clone().requires_grad_() for p in parameters]
    kl_monte_carlo(*fn(*leaves), 2, estimator, seeded()).sum().backward()
    return [(leaf.grad.mean(0), leaf.grad.std(0) / n**0.5) for leaf in leaves]


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(
    ("fn", "parameters"),
    [
        (lambda a, b, c, d: (D.Normal(a, b), D.Normal(c, d)), tensor([0.2, 1.0, 0.5, 1.3])),
        (lambda a, b: (D.Categorical(logits=a), D.Categorical(logits=b)), normal(2, 3)),
        (lambda a, b: (D.Bernoulli(logits=a), D.Bernoulli(logits=b)), tensor([0.3, -0.2])),
        (lambda a, b: (D.Poisson(a), D.Poisson(b)), tensor([2.0, 2.5])),
    ],
    ids=["normal", "categorical", "bernoulli", "poisson"],
)
def test_derivatives_through_samples_and_by_the_score(fn, parameters, estimator):
    def want(*parameters):
        p, q = fn(*parameters)
        if estimator != "k2":
            return D.kl_divergence(p, q)
        if isinstance(p, D.Normal):
            return mean_of_k2(*parameters)
        x = torch.arange({D.Categorical: 3, D.Bernoulli: 2, D.Poisson: 40}[type(p)], dtype=F64)
        return (p.log_prob(x).exp() * (q.log_prob(x) - p.log_prob(x)) ** 2 / 2).sum()

    exact_slopes = torch.func.grad(want, argnums=tuple(range(len(parameters))))(*parameters)
    for (mean, error), expected in zip(slopes(fn, *parameters, n=40_000, estimator=estimator), exact_slopes):
        assert ((mean - expected).abs() <= 5 * error + 1e-12).all()
    assert max(slope.abs().max() for slope in exact_slopes) > 0.05


def test_the_derivative_by_the_score_leaves_the_value_alone():
    logits = leaf([0.1, 0.2, 0.3])
    q = D.Categorical(P[[0, 0, 1]] / 1.1)
    with_graph = kl_monte_carlo(D.Categorical(logits=logits), q, 50, generator=seeded())
    assert torch.equal(with_graph, kl_monte_carlo(D.Categorical(logits=logits.detach()), q, 50, generator=seeded()))


# --- penalties --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [F32, F64])
def test_penalties_keep_dtype_and_shape(dtype):
    a = uniform(0.1, 0.9, 2, 3, 4).to(dtype)
    assert sparsity_penalty(a, 0.2).shape == ()
    for got in (sparsity_penalty(a, 0.2), ppo_clip(a, a, a, 0.2), ppo_kl_penalty(a, a, a, a, 1.0)):
        assert got.dtype == dtype
    assert ppo_clip(a, a, a, 0.2).shape == ppo_kl_penalty(a, a, a, a, 1.0).shape == (2, 3, 4)
    zero = torch.zeros((), dtype=dtype)
    assert ppo_clip(zero, zero, zero, 0.2).shape == ppo_kl_penalty(zero, zero, zero, zero, 1.0).shape == ()


@given(SEEDS)
def test_penalties_have_their_derivatives(seed):
    a = uniform(0.1, 0.9, 4, 3, seed=seed).requires_grad_()
    assert gradcheck(lambda a: sparsity_penalty(a, 0.2), a)
    new, old, advantage = normal(3, 5, seed=seed)
    kl = normal(5, seed=seed + 1)
    ratio = (new - old).exp()
    slope = torch.func.grad(lambda x: ppo_kl_penalty(x, old, advantage, kl, 2.0).sum())(new)
    assert_close(slope, ratio * advantage)
    free = torch.where(advantage > 0, ratio < 1.2, ratio > 0.8)
    slope = torch.func.grad(lambda x: ppo_clip(x, old, advantage, 0.2).sum())(new)
    assert_close(slope, torch.where(free, ratio * advantage, 0.0))
    assert (ppo_clip(new, old, advantage, 0.2) <= ratio * advantage).all()
