"""companion.kalman: held against the dense joint normal of all states and observations, another library, and autograd.

The dense reference knows no recursion: it builds the covariance of z₁ … z_T from powers of A and conditions once.
The golden number G1.10 is that of the ledger.
"""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mutants import stale
from pykalman import KalmanFilter
from reference import BAD_POINTS, assert_close, seeded
from torch.autograd import gradcheck, gradgradcheck
from torch.distributions import MultivariateNormal

from companion.kalman import LinearGaussianModel, Moments, predict, update

F32, F64 = torch.float32, torch.float64
NAN, INF = math.nan, math.inf
NAMES = ["A", "C", "Q", "R", "m0", "P0"]
SPREADS = ["Q", "R", "P0"]
SIZES = [(1, 1), (1, 3), (2, 1), (3, 2), (2, 4), (5, 5)]
BATCHES = [(), (4,), (2, 3), (0,), (2, 0)]
NILE = Path(__file__).parents[1] / "book" / "data" / "nile.csv"

seeds, sizes = st.integers(0, 2**31 - 1), st.sampled_from(SIZES)


def tensor(values):
    return torch.tensor(values, dtype=F64)


def given_model(seed, d, p):
    """The six arguments at random: no symmetric A, no small number, nothing that is 0 or 1 by chance."""
    generator = seeded(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=F64)

    def spread(n):
        root = normal(n, n)
        return root @ root.mT / n + 0.3 * torch.eye(n, dtype=F64)

    A = normal(d, d)
    A = 0.95 * A / torch.linalg.matrix_norm(A, 2)
    return {"A": A, "C": normal(p, d), "Q": spread(d), "R": spread(p), "m0": 2 * normal(d), "P0": spread(d)}


def model_and_series(seed, d, p, T, batch=(), holes=0.0):
    """A model, its arguments, and a series that it drew, with this share of the numbers missing."""
    six = given_model(seed, d, p)
    model = LinearGaussianModel(**six)
    x = model.sample(T, batch, seeded(seed))[1]
    return model, six, torch.where(torch.rand(x.shape, generator=seeded(seed)) < holes, NAN, x)


def scalars(**numbers):
    """A model of one state and one observation."""
    return LinearGaussianModel(
        **{k: torch.full((1,) if k == "m0" else (1, 1), v, dtype=F64) for k, v in numbers.items()}
    )


class Dense:
    """The states z₁ … z_T as one normal vector, seen through H: what the chain of steps is without any chain.

    z = L (z₁, w₂, …, w_T) with the block Aᵗ⁻ˢ of L at (t, s ≤ t) and independent w ~ N(0, Q).
    """

    def __init__(self, A, C, Q, R, m0, P0, T):
        self.T, self.d = T, len(m0)
        powers = [torch.eye(self.d, dtype=A.dtype)]
        for _ in range(T - 1):
            powers.append(A @ powers[-1])
        t = torch.arange(T)
        lag = t[:, None] - t
        blocks = torch.stack(powers)[lag.clamp(min=0)] * (lag >= 0)[..., None, None]
        L = blocks.permute(0, 2, 1, 3).reshape(T * self.d, T * self.d)
        self.mean = L[:, : self.d] @ m0
        self.cov = L @ torch.block_diag(P0, *[Q] * (T - 1)) @ L.mT
        self.H, self.N = torch.block_diag(*[C] * T), torch.block_diag(*[R] * T)

    def given(self, x):
        """log p(x) and the moments of each state given x, `(T, p)`, of which NaN is not given."""
        seen = ~x.flatten().isnan()
        mean, cov, log_p = self.mean, self.cov, x.new_zeros(())
        if seen.any():
            H = self.H[seen]
            S = H @ cov @ H.mT + self.N[seen][:, seen]
            v = x.flatten()[seen] - H @ mean
            log_p = MultivariateNormal(torch.zeros_like(v), S).log_prob(v)
            K = torch.linalg.solve(S, H @ cov).mT
            mean, cov = mean + K @ v, cov - K @ H @ cov
        t = torch.arange(self.T)
        covs = cov.reshape(self.T, self.d, self.T, self.d).permute(0, 2, 1, 3)[t, t]
        return log_p, Moments(mean.reshape(self.T, self.d), covs)


def until(x, t):
    """The series of which nothing is known after its first t steps."""
    return torch.where(torch.arange(len(x))[:, None] < t, x, NAN)


def assert_moments(got, want, tol=1e-12):
    assert_close(got.mean, want.mean, tol)
    assert_close(got.cov, want.cov, tol)


def at(moments, *where):
    return Moments(moments.mean[where], moments.cov[where])


def assert_dense(model, six, x, times, tol=1e-12):
    """Filter, likelihood and smoother of one series `(T, p)` against the dense normal."""
    dense, known = Dense(**six, T=len(x)), model.filter(x)
    log_p, smoothed = dense.given(x)
    assert_close(model.log_likelihood(x), log_p, tol)
    assert_moments(model.smooth(x), smoothed, tol)
    for t in times:
        before, prior = dense.given(until(x, t))
        upto, posterior = dense.given(until(x, t + 1))
        assert_moments(at(known.predicted, t), at(prior, t), tol)
        assert_moments(at(known.updated, t), at(posterior, t), tol)
        assert_close(known.log_likelihood[: t + 1].sum(), upto, tol)
        assert_close(known.log_likelihood[t], upto - before, tol * max(1.0, abs(upto.item())))


# --- against the dense joint normal ----------------------------------------------------------------------------------


@pytest.mark.parametrize("holes", [0.0, 0.3])
def test_200_steps_against_the_dense_normal(holes):
    model, six, x = model_and_series(1, 3, 2, 200, holes=holes)
    assert x.isnan().any() == (holes > 0)
    assert_dense(model, six, x, [0, 1, 99, 198, 199])


def missing(x, where):
    return x.clone().index_put_(tuple(tensor([*zip(*where)]).long()), tensor(NAN))


PATTERNS = {
    "a number": lambda x: missing(x, [(2, 1)]),
    "numbers here and there": lambda x: missing(x, [(1, 0), (2, 1), (4, 0)]),
    "a step": lambda x: missing(x, [(2, 0), (2, 1)]),
    "the first step": lambda x: missing(x, [(0, 0), (0, 1)]),
    "a number of the first": lambda x: missing(x, [(0, 1)]),
    "the last step": lambda x: missing(x, [(5, 0), (5, 1)]),
    "a number of the last": lambda x: missing(x, [(5, 0)]),
    "two steps in a row": lambda x: missing(x, [(2, 0), (2, 1), (3, 0), (3, 1)]),
    "one number always": lambda x: missing(x, [(t, 0) for t in range(6)]),
    "all": lambda x: torch.full_like(x, NAN),
    "none": lambda x: x,
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_missing_values_against_the_dense_normal(pattern):
    model, six, x = model_and_series(2, 3, 2, 6)
    assert_dense(model, six, PATTERNS[pattern](x), range(6))


@given(seeds, sizes, st.integers(1, 7), st.sampled_from([0.0, 0.3, 0.8]))
def test_small_series_against_the_dense_normal(seed, size, T, holes):
    model, six, x = model_and_series(seed, *size, T, holes=holes)
    assert_dense(model, six, x, range(T))


def test_missing_values_of_different_patterns_in_a_batch():
    model, six, x = model_and_series(3, 3, 2, 6, (len(PATTERNS),))
    x = torch.stack([hide(series) for hide, series in zip(PATTERNS.values(), x)])
    before = x.clone()
    known, smoothed, log_p = model.filter(x), model.smooth(x), model.log_likelihood(x)
    assert torch.equal(x.nan_to_num(), before.nan_to_num())
    dense = Dense(**six, T=6)
    for b, series in enumerate(x):
        want, moments = dense.given(series)
        assert_close(log_p[b], want, 1e-12)
        assert_moments(at(smoothed, b), moments)
        for t in range(6):
            assert_moments(at(known.predicted, b, t), at(dense.given(until(series, t))[1], t))
            assert_moments(at(known.updated, b, t), at(dense.given(until(series, t + 1))[1], t))


def test_nothing_seen_is_nothing_learnt():
    model, six, x = model_and_series(4, 2, 3, 5)
    nothing = torch.full_like(x, NAN)
    known, (mean, cov) = model.filter(nothing), (six["m0"], six["P0"])
    assert torch.equal(known.log_likelihood, torch.zeros(5, dtype=F64))
    for t in range(5):
        if t:
            mean, cov = six["A"] @ mean, six["A"] @ cov @ six["A"].mT + six["Q"]
        for part in (known.predicted, known.updated, model.smooth(nothing)):
            assert_moments(at(part, t), Moments(mean, cov))


@given(seeds, st.sampled_from([(3, 1), (1, 4), (2, 2)]))
def test_a_number_never_seen_is_a_model_without_its_row(seed, size):
    (d, kept), T = size, 5
    _, six, _ = model_and_series(seed, d, kept + 1, T)
    rows = [i for i in range(kept + 1) if i != seed % (kept + 1)]
    fewer = {**six, "C": six["C"][rows], "R": six["R"][rows][:, rows]}
    x = LinearGaussianModel(**fewer).sample(T, (2,), seeded(seed))[1]
    full = torch.full((2, T, kept + 1), NAN, dtype=F64)
    full[..., rows] = x
    big, small = LinearGaussianModel(**six), LinearGaussianModel(**fewer)
    assert_close(big.filter(full).log_likelihood, small.filter(x).log_likelihood, 1e-12)
    assert_moments(big.smooth(full), small.smooth(x))


# --- against another library -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize(("d", "p"), SIZES)
def test_against_pykalman(d, p, holes):
    """It knows missing steps, not missing numbers."""
    model, six, x = model_and_series(5, d, p, 60)
    hidden = torch.rand(60, generator=seeded(5)) < 0.3 * holes
    hidden[0] = hidden[-1] = holes
    other = KalmanFilter(
        transition_matrices=six["A"].numpy(),
        observation_matrices=six["C"].numpy(),
        transition_covariance=six["Q"].numpy(),
        observation_covariance=six["R"].numpy(),
        initial_state_mean=six["m0"].numpy(),
        initial_state_covariance=six["P0"].numpy(),
    )
    masked = np.ma.masked_array(x.numpy(), hidden[:, None].expand(60, p).numpy())
    x = torch.where(hidden[:, None], NAN, x)
    assert_moments(model.filter(x).updated, Moments(*map(torch.tensor, other.filter(masked))), 1e-10)
    assert_moments(model.smooth(x), Moments(*map(torch.tensor, other.smooth(masked))), 1e-10)
    assert_close(model.log_likelihood(x), float(other.loglikelihood(masked)), 1e-10)


# --- the two steps ---------------------------------------------------------------------------------------------------


@given(seeds, sizes, st.sampled_from([(), (3,), (2, 2)]))
def test_a_step_against_the_form_by_precisions(seed, size, batch):
    """P⁻¹ and CᵀR⁻¹C add up: no gain, no innovation covariance."""
    d, p = size
    six = given_model(seed, d, p)
    A, C, Q, R = (six[k] for k in "ACQR")
    mean = torch.randn(*batch, d, generator=seeded(seed), dtype=F64)
    cov = six["P0"] * (1 + torch.rand(*batch, 1, 1, generator=seeded(seed), dtype=F64))
    x = torch.randn(*batch, p, generator=seeded(seed + 1), dtype=F64)
    ahead = predict(mean, cov, A, Q)
    assert_moments(ahead, Moments(mean @ A.mT, A @ cov @ A.mT + Q))
    known, log_p = update(mean, cov, x, C, R)
    precision = torch.linalg.inv(cov) + C.mT @ torch.linalg.inv(R) @ C
    weighted = torch.linalg.solve(cov, mean) + x @ torch.linalg.inv(R) @ C
    want = Moments(torch.linalg.solve(precision, weighted), torch.linalg.inv(precision))
    assert_moments(known, want, 1e-10)
    assert_close(log_p, MultivariateNormal(mean @ C.mT, C @ cov @ C.mT + R).log_prob(x), 1e-11)


@given(seeds, sizes)
def test_the_likelihood_is_a_product_of_conditional_densities(seed, size):
    model, six, x = model_and_series(seed, *size, 8, (3,))
    known = model.filter(x)
    mean, cov = known.predicted
    S = six["C"] @ cov @ six["C"].mT + six["R"]
    each = MultivariateNormal(mean @ six["C"].mT, (S + S.mT) / 2).log_prob(x)
    assert_close(known.log_likelihood, each, 1e-11)
    assert_close(model.log_likelihood(x), each.sum(-1), 1e-11)


# --- forecasts -------------------------------------------------------------------------------------------------------


@given(seeds, sizes, st.integers(1, 5), st.integers(1, 5), st.sampled_from([0.0, 0.4]))
def test_forecasts_against_the_dense_normal(seed, size, T, steps, holes):
    model, six, x = model_and_series(seed, *size, T, holes=holes)
    longer = torch.cat([x, torch.full((steps, x.shape[-1]), NAN, dtype=F64)])
    states, C = at(Dense(**six, T=T + steps).given(longer)[1], slice(T, None)), six["C"]
    got = model.forecast(x, steps)
    assert_moments(got, Moments(states.mean @ C.mT, C @ states.cov @ C.mT + six["R"]))


@given(seeds, sizes)
def test_a_forecast_is_a_filter_that_sees_nothing(seed, size):
    model, six, x = model_and_series(seed, *size, 4, (2, 3), holes=0.2)
    nothing = torch.full((2, 3, 5, x.shape[-1]), NAN, dtype=F64)
    states, C = model.filter(torch.cat([x, nothing], -2)).updated, six["C"]
    mean, cov = states.mean[..., 4:, :], states.cov[..., 4:, :, :]
    got = model.forecast(x, 5)
    assert_moments(got, Moments(mean @ C.mT, C @ cov @ C.mT + six["R"]))
    assert_moments(model.forecast(x, 2), Moments(got.mean[..., :2, :], got.cov[..., :2, :, :]))


# --- what must hold --------------------------------------------------------------------------------------------------


def smallest(cov):
    return torch.linalg.eigvalsh((cov + cov.mT) / 2)[..., 0].min()


@given(seeds, sizes, st.sampled_from([0.0, 0.4]))
def test_later_observations_only_add_knowledge(seed, size, holes):
    model, _, x = model_and_series(seed, *size, 6, (2,), holes=holes)
    known, smoothed = model.filter(x), model.smooth(x)
    for cov in (known.predicted.cov, known.updated.cov, smoothed.cov):
        assert smallest(cov) > 0
        assert_close(cov, cov.mT, 1e-14)
    assert smallest(known.predicted.cov - known.updated.cov) > -1e-12
    assert smallest(known.updated.cov - smoothed.cov) > -1e-12
    assert torch.equal(smoothed.mean[..., -1, :], known.updated.mean[..., -1, :])
    assert torch.equal(smoothed.cov[..., -1, :, :], known.updated.cov[..., -1, :, :])


@given(seeds, sizes)
def test_another_basis_of_the_states_changes_nothing_that_is_seen(seed, size):
    model, six, x = model_and_series(seed, *size, 6, (2,), holes=0.3)
    d = size[0]
    M = torch.linalg.qr(torch.randn(d, d, generator=seeded(seed), dtype=F64)).Q
    M = M * torch.linspace(0.5, 2, d, dtype=F64)
    back = torch.linalg.inv(M)
    other = {"A": M @ six["A"] @ back, "C": six["C"] @ back, "R": six["R"], "m0": M @ six["m0"]}
    turned = LinearGaussianModel(**other, Q=M @ six["Q"] @ M.mT, P0=M @ six["P0"] @ M.mT)
    assert_close(turned.filter(x).log_likelihood, model.filter(x).log_likelihood)
    assert_moments(turned.forecast(x, 3), model.forecast(x, 3), 1e-10)
    for got, want in [(turned.smooth(x), model.smooth(x)), (turned.filter(x).updated, model.filter(x).updated)]:
        assert_moments(got, Moments(want.mean @ M.mT, M @ want.cov @ M.mT), 1e-10)


@given(seeds, sizes, st.sampled_from([0.0, 0.3]))
def test_a_batch_is_its_series_one_by_one(seed, size, holes):
    model, _, x = model_and_series(seed, *size, 5, (2, 3), holes=holes)
    *known, log_p = model.filter(x)
    everything, log_likelihood = [*known, model.smooth(x), model.forecast(x, 2)], model.log_likelihood(x)
    for i in range(2):
        for j in range(3):
            *known, alone = model.filter(x[i, j])
            for got, want in zip(everything, [*known, model.smooth(x[i, j]), model.forecast(x[i, j], 2)]):
                assert_moments(at(got, i, j), want)
            assert_close(log_p[i, j], alone, 1e-12)
            assert_close(log_likelihood[i, j], model.log_likelihood(x[i, j]), 1e-12)


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(("d", "p"), [(3, 2), (1, 1)])
@pytest.mark.parametrize("T", [1, 4])
def test_shapes_and_dtypes(batch, d, p, T, dtype):
    model = LinearGaussianModel(**{name: value.to(dtype) for name, value in given_model(6, d, p).items()})
    z, x = model.sample(T, batch, seeded())
    known, ahead = model.filter(x), model.forecast(x, 2)
    shapes = {
        (*batch, T, d): [z, known.predicted.mean, known.updated.mean, model.smooth(x).mean],
        (*batch, T, d, d): [known.predicted.cov, known.updated.cov, model.smooth(x).cov],
        (*batch, T): [known.log_likelihood],
        (*batch, T, p): [x],
        batch: [model.log_likelihood(x)],
        (*batch, 2, p): [ahead.mean],
        (*batch, 2, p, p): [ahead.cov],
    }
    for shape, values in shapes.items():
        for value in values:
            assert (value.shape, value.dtype) == (shape, dtype)


@pytest.mark.parametrize("holes", [0.0, 0.3])
def test_float32_is_float64_rounded(holes):
    model, six, x = model_and_series(7, 3, 2, 30, (4,), holes)
    small = LinearGaussianModel(**{name: value.float() for name, value in six.items()})
    for ask in ("filter", "smooth"):
        for got, want in zip(getattr(small, ask)(x.float()), getattr(model, ask)(x)):
            for a, b in zip(got, want) if isinstance(got, tuple) else [(got, want)]:
                assert a.dtype == F32
                assert_close(a, b, 1e-4)
    assert_close(small.log_likelihood(x.float()), model.log_likelihood(x), 1e-5)


@pytest.mark.parametrize("default", [F32, F64])
def test_the_default_dtype_has_no_say(default):
    model, six, x = model_and_series(8, 2, 2, 4, holes=0.2)
    want = Dense(**six, T=4).given(x)[0]
    was = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        assert_close(model.log_likelihood(x), want, 1e-14)
    finally:
        torch.set_default_dtype(was)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_josephs_form_stays_positive_definite_where_the_short_one_does_not(d):
    """In float32, where a tiny R meets a large P; the short form is (I − K C) P."""
    lost = 0
    for seed in range(20):
        generator = seeded(seed)
        C = torch.linalg.qr(torch.randn(d, d, generator=generator)).Q + 0.2
        cov, R, x = 1e6 * torch.eye(d), 1e-4 * torch.eye(d), torch.randn(d, generator=generator)
        got, _ = update(torch.zeros(d), cov, x, C, R)
        want, _ = update(torch.zeros(d, dtype=F64), cov.double(), x.double(), C.double(), R.double())
        K = cov @ C.mT @ torch.linalg.inv(C @ cov @ C.mT + R)
        lost += smallest(((torch.eye(d) - K @ C) @ cov).double()) <= 0
        assert got.cov.dtype == F32
        assert smallest(got.cov.double()) > 0.5 * smallest(want.cov)
        assert_close(got.cov, got.cov.mT, 1e-6 * got.cov.abs().max().item())
    assert lost >= 10


# --- covariances without full rank -----------------------------------------------------------------------------------


def thin(seed, d):
    v = torch.randn(d, generator=seeded(seed), dtype=F64)
    return torch.outer(v, v)


@pytest.mark.parametrize("holes", [0.0, 0.3])
@pytest.mark.parametrize("name", ["Q", "P0"])
@pytest.mark.parametrize("rank", [0, 1])
def test_singular_covariances_against_the_dense_normal(name, rank, holes):
    turn = torch.linalg.qr(given_model(9, 3, 2)["A"]).Q  # a nearly singular A would take digits from the smoother
    six = given_model(9, 3, 2) | {"A": 0.9 * turn, name: rank * thin(9, 3)}
    model = LinearGaussianModel(**six)
    x = model.sample(5, (), seeded())[1]
    x = torch.where(torch.rand(x.shape, generator=seeded()) < holes, NAN, x)
    assert_dense(model, six, x, range(5))


@pytest.mark.parametrize("rank", [0, 1])
def test_states_that_are_known_beforehand(rank):
    """With nothing random in the states, or in some direction only, they filter; the smoother says that it cannot."""
    Q = rank * thin(10, 3)
    six = given_model(10, 3, 2) | {"A": torch.eye(3, dtype=F64), "Q": Q, "P0": Q}
    model = LinearGaussianModel(**six)
    z, x = model.sample(4, (5,), seeded())
    dense, known = Dense(**six, T=4), model.filter(x)
    for b in range(5):
        assert_close(model.log_likelihood(x)[b], dense.given(x[b])[0], 1e-12)
        assert_moments(at(known.updated, b, -1), at(dense.given(x[b])[1], -1))
    if not rank:
        assert_close(z, six["m0"].expand(5, 4, 3))
    with pytest.raises(torch.linalg.LinAlgError):
        model.smooth(x)
    assert_moments(model.smooth(x[:, :1]), model.filter(x[:, :1]).updated)


@pytest.mark.parametrize("d", [2, 4, 9])
@pytest.mark.parametrize("seed", range(5))
def test_samples_keep_to_the_directions_of_a_thin_covariance(seed, d):
    six = given_model(seed, d, 1) | {"Q": thin(seed, d), "P0": thin(seed + 1, d)}
    z, _ = LinearGaussianModel(**six).sample(4, (6,), seeded(seed))
    w = torch.cat([z[:, :1] - six["m0"], z[:, 1:] - z[:, :-1] @ six["A"].mT], 1)
    for t, cov in enumerate([six["P0"], six["Q"], six["Q"], six["Q"]]):
        direction = torch.linalg.eigh(cov).eigenvectors[:, -1]
        along = w[:, t] @ direction
        assert (along.abs() > 1e-3).any()
        assert_close(w[:, t], along[:, None] * direction, 1e-6)


def test_covariances_are_symmetric_to_the_last_digit():
    six = given_model(11, 3, 3)
    tilt = 1e-15 * torch.randn(3, 3, generator=seeded(), dtype=F64)
    model = LinearGaussianModel(**{name: value + tilt if name in SPREADS else value for name, value in six.items()})
    for name in SPREADS:
        cov = getattr(model, name)
        assert torch.equal(cov, cov.mT)
        assert_close(cov, six[name], 1e-14)


# --- derivatives -----------------------------------------------------------------------------------------------------


def roots(seed, d, p):
    """The six arguments, with a root in place of each covariance, which can be moved in every direction."""
    six = given_model(seed, d, p)
    return [torch.linalg.cholesky(v) if name in SPREADS else v for name, v in six.items()]


def from_roots(*values):
    return LinearGaussianModel(**{k: v @ v.mT if k in SPREADS else v for k, v in zip(NAMES, values)})


ASKS = {
    "log_likelihood": lambda m, x: m.log_likelihood(x),
    "log p of each step": lambda m, x: m.filter(x).log_likelihood,
    "predicted": lambda m, x: tuple(m.filter(x).predicted),
    "updated": lambda m, x: tuple(m.filter(x).updated),
    "smooth": lambda m, x: tuple(m.smooth(x)),
    "forecast": lambda m, x: tuple(m.forecast(x, 2)),
}


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize(("d", "p"), [(2, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("ask", ASKS)
def test_derivatives_by_all_arguments(ask, d, p, holes):
    _, _, x = model_and_series(12, d, p, 3, (2,))
    seen = torch.ones_like(x, dtype=torch.bool)
    if holes:
        seen[0, 1], seen[1, 0, -1], seen[1, 2] = False, False, False

    def function(numbers, *values):
        return ASKS[ask](from_roots(*values), torch.full_like(x, NAN).masked_scatter(seen, numbers))

    inputs = [v.requires_grad_() for v in (x[seen], *roots(12, d, p))]
    assert gradcheck(function, inputs)
    if ask in ("log_likelihood", "smooth") and d == p:
        assert gradgradcheck(function, inputs, fast_mode=True)  # along random directions, which is faster


@given(seeds, sizes, st.sampled_from([0.0, 0.3, 1.0]))
def test_derivatives_of_the_likelihood_against_the_dense_normal(seed, size, holes):
    _, six, x = model_and_series(seed, *size, 4, (2,), holes)
    leaves = [v.clone().requires_grad_() for v in (*six.values(), x)]
    *values, series = leaves
    got = torch.autograd.grad(LinearGaussianModel(*values).log_likelihood(series).sum(), leaves)
    # The covariances are symmetric: what moves is their symmetric part.
    parts = {k: (v + v.mT) / 2 if k in SPREADS else v for k, v in zip(NAMES, values)}
    dense = Dense(**parts, T=4)
    # Where nothing is seen, log p is a 0 that knows of no argument.
    log_p = sum(dense.given(one)[0] for one in series) + 0 * sum(v.sum() for v in values)
    want = torch.autograd.grad(log_p, leaves, allow_unused=True, materialize_grads=True)
    for name, g, w in zip([*NAMES, "x"], got, want):
        assert g.isfinite().all(), name
        assert_close(g, w, 1e-9)
    assert (got[-1][x.isnan()] == 0).all()


@pytest.mark.parametrize("ask", ASKS)
def test_no_derivative_is_nan_where_numbers_are_missing(ask):
    _, six, x = model_and_series(13, 3, 2, 6, (len(PATTERNS),))
    x = torch.stack([hide(series) for hide, series in zip(PATTERNS.values(), x)])
    leaves = [v.clone().requires_grad_() for v in (*six.values(), x)]
    out = ASKS[ask](LinearGaussianModel(*leaves[:6]), leaves[6])
    value = sum(part.square().sum() for part in (out if isinstance(out, tuple) else (out,)))
    first = torch.autograd.grad(value, leaves, create_graph=True, allow_unused=True, materialize_grads=True)
    assert all(g.isfinite().all() for g in first)
    assert (first[-1][x.isnan()] == 0).all()
    again = sum(g.square().sum() for g in first)
    second = torch.autograd.grad(again, leaves, allow_unused=True, materialize_grads=True)
    assert all(g.isfinite().all() for g in second)


# --- samples ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("d", "p"), [(1, 1), (2, 2), (3, 1), (1, 3)])
def test_moments_of_samples(d, p):
    """Made white by the dense covariance of all states and observations, they are N(0, I): in five standard errors."""
    T, n = 3, 40_000
    six = given_model(14, d, p)
    z, x = LinearGaussianModel(**six).sample(T, (n,), seeded(14))
    dense = Dense(**six, T=T)
    see = torch.cat([torch.eye(T * d, dtype=F64), dense.H])
    cov = see @ dense.cov @ see.mT
    cov[T * d :, T * d :] += dense.N
    off = torch.cat([z.reshape(n, -1), x.reshape(n, -1)], -1) - see @ dense.mean
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(cov), off.mT, upper=False)
    size = len(white)
    assert (white.mean(-1).abs() < 5 / n**0.5).all()
    spread = (2 * torch.eye(size) + 1 - torch.eye(size)) / n  # Var of s² is 2 / n, of a product of two 1 / n
    assert ((white @ white.mT / n - torch.eye(size)).abs() < 5 * spread.sqrt()).all()


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_samples_by_generator(batch, dtype):
    model = LinearGaussianModel(**{name: value.to(dtype) for name, value in given_model(15, 2, 3).items()})
    before = torch.get_rng_state()
    one, same, other = (model.sample(4, batch, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    for a, b, c in zip(one, same, other):
        assert a.dtype == dtype
        assert torch.equal(a, b)
        assert (a != c).all()
    torch.manual_seed(3)
    first = model.sample(4, batch)
    assert not torch.equal(first[0], model.sample(4, batch)[0])
    torch.manual_seed(3)
    assert torch.equal(first[1], model.sample(4, batch)[1])


def test_samples_can_be_differentiated_where_eigenvalues_coincide():
    """∂/∂P0 of E[z₁ᵀ W z₁] is W, and that of E|x₁|² by R is I: in five standard errors or so."""
    eye, n = torch.eye(2, dtype=F64), 40_000
    P0, Q, R = (eye.clone().requires_grad_() for _ in range(3))
    W = tensor([[1.0, 0.5], [0.5, -2.0]])
    z, x = LinearGaussianModel(eye, eye, Q, R, torch.zeros(2, dtype=F64), P0).sample(2, (n,), seeded())
    weighted = torch.einsum("ni,ij,nj->n", z[:, 0], W, z[:, 0]).mean()
    by_P0, by_Q = torch.autograd.grad(
        weighted + (z[:, 1] - z[:, 0]).square().sum(-1).mean(), [P0, Q], retain_graph=True
    )
    by_R = torch.autograd.grad((x - z)[:, 0].square().sum(-1).mean(), R)[0]
    for got, want in [(by_P0, W), (by_Q, eye), (by_R, eye)]:
        assert ((got + got.mT) / 2 - want).abs().max() < 0.05


# --- golden numbers --------------------------------------------------------------------------------------------------


def test_G1_10_a_random_walk():
    model = scalars(A=1.0, C=1.0, Q=1.0, R=1.0, m0=0.0, P0=1.0)
    got = model.log_likelihood(tensor([[10.0], [-10.0]]))
    assert abs(got.item() - -72.6425960226) < 1e-10


def test_a_walk_with_drift_and_its_entropy():
    """A drift b is a second state that is always 1.  −log p of a sample is its entropy, and T / 2 its variance."""
    a, b, q, c, r, T, n = 1.0, 0.05, 10.0, 0.5, 20.0, 25, 4000
    model = LinearGaussianModel(
        A=tensor([[a, b], [0.0, 1.0]]),
        C=tensor([[c, 0.0]]),
        Q=tensor([[q, 0.0], [0.0, 0.0]]),
        R=tensor([[r]]),
        m0=tensor([b, 1.0]),
        P0=tensor([[q + 1.0, 0.0], [0.0, 0.0]]),  # z₀ ~ N(0, 1), a step before the first
    )
    z, x = model.sample(T, (n,), seeded(16))
    assert_close(z[..., 1], torch.ones(n, T, dtype=F64), 1e-12)
    t = torch.arange(T, dtype=F64)
    S = c**2 * (q + 1 + q * torch.minimum(t[:, None], t)) + r * torch.eye(T, dtype=F64)
    whole = MultivariateNormal(c * b * (t + 1), S)
    log_p = model.log_likelihood(x)
    assert_close(log_p, whole.log_prob(x[..., 0]), 1e-12)
    entropy = whole.entropy().item()
    assert abs(-entropy / T - -3.083) < 5e-4
    assert abs(log_p.mean().item() + entropy) / T < 4 * (T / 2 / n) ** 0.5 / T
    # χ² with T degrees of freedom, halved: variance T / 2, and that of its sample variance by the fourth moment
    assert abs(log_p.var().item() - T / 2) < 4 * T / 2 * ((2 + 12 / T) / n) ** 0.5


def nile(**numbers):
    """The local level at the variances that Durbin and Koopman (2012, chapter 2) found for the Nile, and the series.

    Their level is diffuse at the start; here it is N(0, P0) with a large P0.
    """
    flow = tensor([float(row.split(",")[1]) for row in NILE.read_text().split()[1:]])[:, None]
    return scalars(**{"A": 1.0, "C": 1.0, "Q": 1469.1, "R": 15099.0, "m0": 0.0, **numbers}), flow


@pytest.mark.parametrize(
    ("P0", "after_first", "tol"), [(1e6, -632.5377, 5e-5), (1e7, -632.54421, 5e-6), (1e12, -632.5456, 5e-5)]
)
def test_the_nile_without_its_first_year(P0, after_first, tol):
    """Published: by statsmodels for 1e6, by StateSpaceModels.jl for 1e7, by KFAS for the limit of an endless P0."""
    model, flow = nile(P0=P0)
    assert flow.shape == (100, 1)
    assert abs(model.filter(flow).log_likelihood[1:].sum().item() - after_first) < tol


def test_the_nile_with_its_first_year():
    """KFAS finds −641.5856 with P0 = 10⁷; and log p + ½ log 2πP0 tends to the likelihood without the first year."""
    model, flow = nile(P0=1e7)
    assert abs(model.log_likelihood(flow).item() - -641.5856) < 5e-5
    model, flow = nile(P0=1e12)
    log_p = model.filter(flow).log_likelihood
    assert abs((log_p.sum() + math.log(2 * math.pi * 1e12) / 2 - log_p[1:].sum()).item()) < 1e-5


def test_the_nile_is_likeliest_at_the_published_variances():
    """To the digits that were published: a step of Newton's method moves each by less than 0.1 %."""
    _, flow = nile(P0=1e7)

    def diffuse(logs):
        Q, R = logs.exp()[:, None, None]
        one, none = torch.ones(1, 1, dtype=F64), torch.zeros(1, dtype=F64)
        return LinearGaussianModel(one, one, Q, R, none, 1e12 * one).filter(flow).log_likelihood[1:].sum()

    logs = tensor([1469.1, 15099.0]).log()
    gradient = torch.autograd.functional.jacobian(diffuse, logs)
    hessian = torch.autograd.functional.hessian(diffuse, logs)
    assert torch.linalg.eigvalsh(hessian).max() < 0
    assert torch.linalg.solve(hessian, gradient).abs().max() < 1e-3


# --- errors ----------------------------------------------------------------------------------------------------------


SIX = {
    "A": tensor([[0.9, 0.2], [-0.1, 0.8]]),
    "C": tensor([[1.0, 0.0], [0.5, -1.0], [2.0, 1.0]]),
    "Q": torch.eye(2, dtype=F64),
    "R": torch.eye(3, dtype=F64),
    "m0": tensor([1.0, -1.0]),
    "P0": torch.eye(2, dtype=F64),
}
WANTED = {name: tuple(value.shape) for name, value in SIX.items()}
SHAPES = {
    "A": [(2, 3), (3, 3), (2,), (1, 2, 2)],
    "C": [(3, 3), (3, 1), (3,), (3, 2, 1)],
    "Q": [(3, 3), (2, 1), (2,), (1, 2, 2)],
    "R": [(2, 2), (3, 1), (3,), (1, 3, 3)],
    "m0": [(1, 2), (2, 2)],
    "P0": [(1, 1), (3, 2), (2,), (1, 2, 2)],
}


def says(message):
    return f"^{re.escape(message)}"


def build(**changed):
    return LinearGaussianModel(**{**SIX, **changed})


@pytest.mark.parametrize("mistake", BAD_POINTS)
@pytest.mark.parametrize("name", NAMES)
def test_arguments_that_are_no_tensors_of_floats(name, mistake, own_errors):
    value, error, words = BAD_POINTS[mistake]
    with pytest.raises(error, match=says(f"{name}: ")) as caught:
        build(**{name: value})
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(("name", "shape"), [(name, shape) for name in NAMES for shape in SHAPES[name]])
def test_shapes_that_do_not_fit(name, shape, own_errors):
    with pytest.raises(ValueError, match=says(f"{name}: expected shape {WANTED[name]}, got {shape}")):
        build(**{name: torch.ones(shape, dtype=F64)})


def test_sizes_that_do_not_fit_each_other(own_errors):
    with pytest.raises(ValueError, match=says("R: expected shape (2, 2), got (3, 3)")):
        build(C=torch.ones(2, 2, dtype=F64))
    with pytest.raises(ValueError, match=says("A: expected shape (3, 3), got (2, 2)")):
        build(m0=torch.ones(3, dtype=F64))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "m0"])
def test_arguments_of_another_dtype(name, own_errors):
    with pytest.raises(TypeError, match=says(f"{name}: expected torch.float64 like m0, got torch.float32")):
        build(**{name: SIX[name].float()})
    with pytest.raises(TypeError, match=says("A: expected torch.float32 like m0, got torch.float64")):
        build(m0=SIX["m0"].float())


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("name", NAMES)
def test_arguments_that_are_not_finite(name, value, own_errors):
    wrong = SIX[name].clone()
    wrong[(-1,) * wrong.ndim] = value
    with pytest.raises(ValueError, match=says(f"{name}: expected finite numbers, got {value}")):
        build(**{name: wrong})


@pytest.mark.parametrize("name", SPREADS)
def test_what_is_no_covariance(name, own_errors):
    skew = SIX[name].clone()
    skew[0, 1] = 1e-6
    with pytest.raises(ValueError, match=says(f"{name}: expected a symmetric matrix")):
        build(**{name: skew})
    for value in (-1e-6, -3.0):
        negative = SIX[name].clone()
        negative[-1, -1] = value
        kind = "positive definite matrix" if name == "R" else "covariance, no eigenvalue below 0"
        with pytest.raises(ValueError, match=rf"^{name}: expected a {kind}.* got {value:.9g}$"):
            build(**{name: negative})


@pytest.mark.parametrize("R", [torch.zeros(3, 3, dtype=F64), torch.diag(tensor([1.0, 1.0, 0.0]))])
def test_observations_without_noise(R, own_errors):
    with pytest.raises(ValueError, match=says("R: expected a positive definite matrix")):
        build(R=R)


def test_covariances_may_be_singular_but_for_rounding():
    for seed in range(20):
        build(Q=thin(seed, 2), P0=0 * thin(seed, 2))
        LinearGaussianModel(**given_model(seed, 9, 2) | {"Q": thin(seed, 9), "P0": 1e6 * thin(seed + 1, 9)})


READS = {
    "filter": lambda m, x: m.filter(x),
    "smooth": lambda m, x: m.smooth(x),
    "log_likelihood": lambda m, x: m.log_likelihood(x),
    "forecast": lambda m, x: m.forecast(x, 1),
}


@pytest.mark.parametrize("read", READS)
def test_bad_observations(read, own_errors):
    read, model = READS[read], build()
    for value, error, words in BAD_POINTS.values():
        with pytest.raises(error, match=r"^obs: ") as caught:
            read(model, value)
        assert all(word in str(caught.value) for word in words), str(caught.value)
    for shape in [(3,), (4, 2), (4, 1), (2, 3, 4), (0, 3), (5, 0, 3)]:
        with pytest.raises(ValueError, match=says(f"obs: expected shape (*batch, T, 3) with T ≥ 1, got {shape}")):
            read(model, torch.ones(shape, dtype=F64))
    with pytest.raises(TypeError, match=says("obs: expected torch.float64 like the model, got torch.float32")):
        read(model, torch.ones(4, 3))
    for value in (INF, -INF):
        x = torch.full((2, 4, 3), NAN, dtype=F64)
        x[1, 2, 0] = value
        with pytest.raises(
            ValueError, match=says(f"obs: expected finite numbers, or NaN where one is missing, got {value}")
        ):
            read(model, x)


@pytest.mark.parametrize("steps", [0, -1, True, False, 2.0, "2", None, torch.tensor(2)], ids=repr)
def test_bad_steps(steps, own_errors):
    model = build()
    for ask in (lambda: model.forecast(torch.ones(4, 3, dtype=F64), steps), lambda: model.sample(steps)):
        with pytest.raises(ValueError, match=says(f"steps: expected a whole number ≥ 1, got {steps!r}")):
            ask()


def test_every_mutant_still_applies():
    """Else `make mutants` would break nothing."""
    assert stale("kalman") == []
