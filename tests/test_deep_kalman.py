"""companion.deep_kalman: held against a naive double loop, exact Kalman likelihoods, dense Gaussians, golden numbers.

Only networks with random weights are tested: at the start, where a network gives 0, a wrong path is right.
Tests of a row of the ledger of the source article (S0.11–S0.35) carry its name, and G1.1–G1.12 are its golden numbers.

Where all parts are linear, the ELBO and the loss are quadratic in the noise.  The points ±√n along each of its n axes
have the mean and the covariance of standard normal noise, so the mean over them is the expectation, without an error.
"""

import copy
import math
import re
from contextlib import contextmanager
from functools import partial
from itertools import pairwise

import pytest
import torch
from mutants import stale
from reference import BAD_POINTS, assert_close, seeded
from torch import nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence
from torch.nn.functional import softplus

from companion.deep_kalman import (
    MIN_SCALE,
    Config,
    DeepKalmanFilter,
    Emitter,
    Posterior,
    SmoothingPosterior,
    Transition,
)
from companion.kalman import LinearGaussianModel
from companion.training import fit

F32, F64 = torch.float32, torch.float64
HALF_LOG_2PI = math.log(2 * math.pi) / 2
SMALL = {"emit_hidden_dim": 5, "trans_hidden_dim": 6, "post_hidden_dim": 7}
HORIZONS = [1, 2, 3, 5, 9]
LENGTHS = [4, 1, 3]


def tensor(values):
    return torch.tensor(values, dtype=F64)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed), dtype=F64)


def random_weights(module, seed=0, strength=1.0):
    """All weights of a module random, as after training."""
    generator = seeded(seed)
    for parameter in module.parameters():
        size = strength / (parameter.shape[-1] ** 0.5 if parameter.ndim == 2 else 1)
        parameter.data = size * torch.randn(parameter.shape, generator=generator, dtype=F64).to(parameter.dtype)
    return module


def networks(z_dim=3, obs_dim=2, seed=0, strength=1.0, **options):
    return random_weights(DeepKalmanFilter(Config(z_dim, obs_dim, **SMALL, **options)).double(), seed, strength)


def mask_of(lengths, T):
    return torch.arange(T) < torch.tensor(lengths)[:, None]


@contextmanager
def drawn(noise):
    """Within it, torch.randn gives these numbers, in the shape that `loss` takes as `noise`."""

    def stand_in(*shape, **options):
        shape = tuple(shape[0]) if len(shape) == 1 else shape
        assert (shape, options["dtype"]) == (noise.shape, noise.dtype), f"asked for {shape}, {options}"
        return noise

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn", stand_in)
        yield


def naive(model, obs, noise, lengths=None, stop=False):
    """The loss as the source article describes it: one sample, one sequence, one time, one distance after the other."""
    levels, T, samples, batch, _ = noise.shape
    reconstruction, kl, var = 0, 0, model.emit_log_sigma.exp()
    for s in range(samples):
        for b, n in enumerate(lengths or [T] * batch):
            seen = model.posterior.look(obs[b : b + 1, :n], torch.ones(1, n, dtype=torch.bool))[0]
            starts = [model.z_q_0]
            for t in range(n):
                priors = [model.transition(start) for start in starts]
                loc, scale = model.posterior.combine(*priors[0], seen[t])
                z = loc + scale * noise[0, t, s, b]
                for d, prior in enumerate(priors):
                    q = (loc.detach(), scale.detach()) if stop and d else (loc, scale)
                    kl = kl + kl_divergence(Normal(*q), Normal(*prior)).sum() / len(priors) / samples
                each = (obs[b, t] - model.emitter(z)).square() / var / 2 + model.emit_log_sigma / 2
                reconstruction = reconstruction + each.sum() / samples
                carried = [m + s_ * noise[d, t, s, b] for d, (m, s_) in enumerate(priors[: levels - 1], 1)]
                starts = [z, *carried]
    return reconstruction, kl


def gradients(value, model):
    options = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
    return torch.autograd.grad(value, list(model.parameters()), **options)


# --- linear parts, for which everything is known exactly --------------------------------------------------------------


class Move(nn.Module):
    """N(a z, scale²), coordinate by coordinate."""

    def __init__(self, a, scale):
        super().__init__()
        self.a, self.scale = a, scale

    def forward(self, z):
        return self.a * z, self.scale.expand_as(z)


class See(nn.Module):
    def __init__(self, C):
        super().__init__()
        self.C = C

    def forward(self, z):
        return z @ self.C.mT


class Know(nn.Module):
    """The exact q(zₜ | zₜ₋₁, xₜ … x_T), by messages from the end: p(xₜ … x_T | zₜ) ∝ exp(h zₜ − ½ J zₜ²).

    Without `future` it sees xₜ only.  `shift` and `stretch` put it off.
    """

    def __init__(self, model, move, C, future=True):
        super().__init__()
        self.model, self.move, self.C, self.future, self.shift, self.stretch = model, move, C, future, 0.0, 1.0

    def look(self, obs, mask):
        r = self.model.emit_log_sigma.exp()
        here_J, here_h = (self.C.square() / r[:, None]).sum(0), (obs / r) @ self.C
        J = h = torch.zeros(len(obs), len(here_J), dtype=obs.dtype)
        seen, (a, q) = [], (self.move.a, self.move.scale.square())
        for t in range(obs.shape[1] - 1, -1, -1):
            later_J, later_h = (a**2 * J / (1 + q * J), a * h / (1 + q * J)) if self.future else (0, 0)
            there = mask[:, t, None]
            J, h = there * (here_J + later_J), there * (here_h[:, t] + later_h)
            seen.append(torch.cat([J, h], -1))
        return torch.stack(seen[::-1], 1)

    def combine(self, loc, scale, seen):
        (J, h), precision = seen.chunk(2, -1), scale**-2
        scale = (precision + J).rsqrt()
        return scale**2 * (loc * precision + h) + self.shift, scale * self.stretch


def linear(d, p, seed=0, future=True, **options):
    """A deep Kalman filter of linear parts with its exact posterior, and the same model as the exact filter."""
    model, generator = DeepKalmanFilter(Config(d, p, **options)).double(), seeded(seed)

    def uniform(*shape):
        return torch.rand(*shape, generator=generator, dtype=F64)

    model.z_q_0.data, model.emit_log_sigma.data = 2 * uniform(d) - 1, uniform(p) - 1
    a, scale = 1.2 * uniform(d) - 0.3, 0.5 + uniform(d)
    # R^½ times orthogonal columns: then the coordinates of z stay independent of each other, given x.
    columns = torch.linalg.qr(2 * uniform(p, p) - 1).Q[:, :d] * (0.5 + uniform(d))
    C = (model.emit_log_sigma.data / 2).exp()[:, None] * columns
    return assemble(model, a, scale, C, future)


def assemble(model, a, scale, C, future=True):
    model.transition, model.emitter = Move(a, scale), See(C)
    model.posterior = Know(model, model.transition, C, future)
    Q, R = scale.square().diag(), model.emit_log_sigma.data.exp().diag()
    return model, LinearGaussianModel(a.diag(), C, Q, R, a * model.z_q_0.data, Q)


def walk(future=False, **options):
    """The model of G1.10: a random walk from 0 that is seen with noise of variance 1."""
    model, one = DeepKalmanFilter(Config(1, 1, **options)).double(), tensor([1.0])
    return assemble(model, one, one, one[None], future)


def dense(exact, T):
    """Mean and covariance of all states and all observations, (z₁ … z_T, x₁ … x_T) in one vector."""
    d = len(exact.m0)
    # z = M (noise of z), row of blocks by row of blocks: zₜ = A zₜ₋₁ + wₜ.
    M = torch.zeros(T, d, T, d, dtype=F64)
    for t in range(T):
        for s in range(t + 1):
            M[t, :, s] = torch.linalg.matrix_power(exact.A, t - s)
    M = M.reshape(T * d, T * d)
    loc_z = M[:, :d] @ exact.m0
    cov_z = M @ torch.block_diag(exact.P0, *[exact.Q] * (T - 1)) @ M.mT
    C, R = torch.block_diag(*[exact.C] * T), torch.block_diag(*[exact.R] * T)
    see = torch.cat([torch.eye(T * d, dtype=F64), C])
    cov = see @ cov_z @ see.mT
    cov[T * d :, T * d :] += R
    return see @ loc_z, cov


def given(loc, cov, x, at):
    """Mean and covariance of the rest of a normal vector, where its numbers `at` are x."""
    rest = ~at
    gain = torch.linalg.solve(cov[at][:, at], cov[at][:, rest]).mT
    return loc[rest] + gain @ (x - loc[at]), cov[rest][:, rest] - gain @ cov[at][:, rest]


def cubature(levels, T, z_dim, batch=1):
    """Noise whose mean and covariance are those of standard normal noise, `(levels, T, samples, batch, z_dim)`."""
    n = levels * T * z_dim
    axes = math.sqrt(n) * torch.cat([torch.eye(n, dtype=F64), -torch.eye(n, dtype=F64)])
    return axes.reshape(2 * n, 1, levels, T, z_dim).permute(2, 3, 0, 1, 4).expand(-1, -1, -1, batch, -1)


def expected_elbo(model, obs):
    noise = cubature(1, obs.shape[-2], model.config.z_dim, len(obs))
    with drawn(noise):
        return model.elbo(obs, noise.shape[2])


def near(sampled, want, spread, times=5):
    """Whether means over samples, along the first axis, are within standard errors of what they should be."""
    return ((sampled.mean(0) - want).abs() <= times * spread / len(sampled) ** 0.5).all()


# --- golden numbers ---------------------------------------------------------------------------------------------------


class Say(nn.Module):
    """A prior, or a posterior, that is the same whatever it sees."""

    def __init__(self, loc, scale):
        super().__init__()
        self.loc, self.scale = tensor(loc), tensor(scale)

    def forward(self, z):
        return self.loc.expand_as(z), self.scale.expand_as(z)

    def look(self, obs, mask):
        return obs

    def combine(self, prior_loc, prior_scale, seen):
        return self(prior_loc)


def test_S0_13_S0_14_kl_goes_from_the_posterior_to_the_prior():
    """G1.1, and G1.2 with the roles exchanged.  The scales are standard deviations: variances would give 0.399910."""
    model = DeepKalmanFilter(Config(1, 1)).double()
    q, prior = Say(0.5, 0.4), Say(-0.2, 0.9)
    for model.posterior, model.transition, want in [(q, prior, 0.712164784118), (prior, q, 2.75156978378)]:
        assert_close(model.loss(tensor([[[1.0]]]))[1].detach(), want)


def test_S0_15_S0_18_reconstruction_takes_a_variance_and_leaves_the_constant_out():
    """G1.3 without the constant, G1.4 with it; G1.5 where the *standard deviation* is 0.25."""
    model = DeepKalmanFilter(Config(1, 1)).double()
    model.emit_log_sigma.data = tensor([0.25]).log()
    model.transition = model.posterior = Say(0.0, 1.0)  # no KL
    model.emitter = See(tensor([[0.0]]))
    obs = tensor([[[1.0]]])
    assert_close(model.loss(obs)[0].detach(), 1.30685281944)
    assert_close(-model.elbo(obs)[0].detach(), 2.22579135264)
    assert_close(-model.log_weights(obs, 2)[:, 0].detach(), [2.22579135264] * 2)
    assert_close(model.emit_scale.detach(), [0.5])
    model.emit_log_sigma.data = 2 * tensor([0.25]).log()
    assert_close(-model.elbo(obs)[0].detach(), 7.53264417208)


class Toy(nn.Module):
    def forward(self, z):
        return 0.5 * z, torch.full_like(z, 0.8)

    def look(self, obs, mask):
        return obs

    def combine(self, loc, scale, seen):
        return loc + 0.6 * (seen - loc), torch.full_like(loc, 0.4)


@pytest.mark.parametrize(
    ("L", "kl", "total"),
    [
        (1, 2.82351654168, 5.627482599614),
        (2, 2.80249310418, 5.606459162114),
        (3, 2.67196966668, 5.475935724614),
        (10, 2.67196966668, 5.475935724614),
    ],
)
def test_S0_26_the_toy_without_noise(L, kl, total):
    """G1.6–G1.9."""
    model = DeepKalmanFilter(Config(1, 1, overshooting=L)).double()
    model.emit_log_sigma.data = tensor([0.25]).log()
    model.transition, model.posterior, model.emitter = Toy(), Toy(), nn.Identity()
    terms = model.loss(tensor([[[1.0], [2.0], [-1.0]]]), noise=torch.zeros(L, 3, 1, 1, 1, dtype=F64))
    assert_close(torch.stack(terms).detach(), [0.0471504583202, kl])
    assert_close(sum(terms).detach() + 3 * HALF_LOG_2PI, total)


@pytest.mark.parametrize(
    ("L", "pairs"),
    [
        (1, ["10", "21", "32", "43"]),
        (2, ["10", "21 20", "32 31", "43 42"]),
        (3, ["10", "21 20", "32 31 30", "43 42 41"]),
        (4, ["10", "21 20", "32 31 30", "43 42 41 40"]),
        (7, ["10", "21 20", "32 31 30", "43 42 41 40"]),
    ],
)
def test_S0_21_S0_22_S0_24_the_horizon_is_that_of_the_priors(L, pairs):
    """Time t and where its priors start, as a table.  Each time has the weight 1; 0 stands for z_q_0."""

    class Step(Toy):
        def forward(self, z):
            return z + 1, torch.ones_like(z)

        def combine(self, loc, scale, seen):
            return seen.expand_as(loc), scale

    z = [0.0, 3.0, -4.0, 20.0, 70.0]
    model = DeepKalmanFilter(Config(1, 1, overshooting=L)).double()
    model.transition, model.posterior, model.emitter = Step(), Step(), nn.Identity()
    kl = model.loss(tensor(z[1:])[None, :, None], noise=torch.zeros(L, 4, 1, 1, 1, dtype=F64))[1]

    def apart(t, start):
        return (z[t] - (z[start] + t - start)) ** 2 / 2

    rows = [[apart(*map(int, pair)) for pair in row.split()] for row in pairs]
    assert_close(kl.detach(), sum(sum(row) / len(row) for row in rows))


# --- the loss ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [False, True], ids=["filtering", "smoothing"])
@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("L", HORIZONS)
def test_S0_22_S0_34_loss_is_a_double_loop(L, samples, smoothing):
    """Values and the gradients by all parameters, with and without padding, with and without stop_gradient."""
    T, lengths = max(LENGTHS), LENGTHS
    obs, noise = normal(3, T, 2, seed=1), normal(L, T, samples, 3, 3, seed=2)
    padded = torch.where(mask_of(lengths, T)[..., None], obs, math.nan)
    for stop in (False, True) if L > 1 else (False,):
        options = {"overshooting": L, "smoothing": smoothing, "sampling_num": samples, "stop_gradient": stop}
        model = networks(**options, seed=L)
        for some, n, mask in [(obs, None, None), (padded, lengths, mask_of(lengths, T))]:
            got = model.loss(some, mask, noise)
            want = naive(model, obs, noise, n, stop)
            for value, expected in zip(got, want):
                assert value.shape == ()
                assert_close(value, expected, tol=1e-12)
                for slope, expected_slope in zip(gradients(value, model), gradients(expected, model)):
                    largest = expected_slope.abs().max().clamp(min=1)
                    assert_close(slope / largest, expected_slope / largest, tol=1e-12)


def test_one_time_only():
    for L in (1, 3):
        model = networks(overshooting=L)
        obs, noise = normal(2, 1, 2), normal(L, 1, 1, 2, 3)
        assert_close(torch.stack(model.loss(obs, noise=noise)), torch.stack(naive(model, obs, noise)), tol=1e-12)


@pytest.mark.parametrize("smoothing", [False, True])
def test_loss_moves_with_the_observations_as_the_double_loop_does(smoothing):
    model, noise = networks(overshooting=2, smoothing=smoothing), normal(2, 3, 1, 2, 3, seed=2)
    obs = normal(2, 3, 2, seed=1).requires_grad_()
    (got,) = torch.autograd.grad(sum(model.loss(obs, noise=noise)), obs)
    (want,) = torch.autograd.grad(sum(naive(model, obs, noise)), obs)
    assert_close(got, want, tol=1e-12)
    assert got.abs().min() > 0


@pytest.mark.parametrize("smoothing", [False, True])
def test_S0_11_S0_12_S0_32_every_parameter_gets_a_gradient(smoothing):
    """Also through the samples: they are loc + scale · noise, so that loc and scale hear of the reconstruction."""
    model = networks(overshooting=3, sampling_num=2, smoothing=smoothing)
    reconstruction, kl = model.loss(normal(5, 6, 2))
    (reconstruction + kl).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().max() > 0, name
    for part in gradients(model.loss(normal(5, 6, 2))[0], model.posterior):
        assert part.abs().max() > 0
    obs = normal(5, 6, 2)
    with drawn(torch.ones(1, 6, 2, 5, 3, dtype=F64)):
        above = model.filter(obs, 2)[:, :, 0]
    seen = model.posterior.look(obs, torch.ones(5, 6, dtype=torch.bool))[:, 0]
    loc, scale = model.posterior.combine(*model.transition(model.z_q_0.expand(2, 5, 3)), seen)
    assert_close(above, (loc + scale).detach())


def test_S0_35_loss_changes_nothing():
    model = networks(overshooting=2)
    before = copy.deepcopy(model.state_dict())
    model.loss(normal(2, 3, 2))
    model.elbo(normal(2, 3, 2))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_S0_16_the_best_emit_log_sigma_is_the_log_of_the_mean_square():
    """At that value, and nowhere else, the reconstruction is level: so exp(emit_log_sigma) is a variance."""
    model, (obs, noise) = networks(), (normal(4, 5, 2), normal(1, 5, 3, 4, 3))
    with drawn(noise):
        z = model.filter(obs, 3)
    model.emit_log_sigma.data = (obs - model.emitter(z).detach()).square().mean((0, 1, 2)).log()
    (slope,) = torch.autograd.grad(model.loss(obs, noise=noise)[0], model.emit_log_sigma)
    assert_close(slope, [0.0, 0.0])


def test_S0_17_emit_scale_is_a_standard_deviation():
    model = networks()
    assert_close(model.emit_scale.square().log(), model.emit_log_sigma.detach())
    z, x = model.sample(1, 40_000)
    spread = (x - model.emitter(z).detach()).std((0, 1))
    assert_close(spread / model.emit_scale.detach(), [1.0, 1.0], tol=0.02)


def test_S0_20_every_sequence_starts_from_one_point_without_a_kl_of_its_own():
    model = networks()
    priors = []
    model.transition.register_forward_hook(lambda _, z, out: priors.append((z[0], *out)))
    model.loss(normal(4, 3, 2))
    start, loc, scale = priors[0]
    assert torch.equal(start, model.z_q_0.expand(4, 3))
    assert torch.equal(loc, loc[:1].expand_as(loc))
    model.posterior = Say([0.0] * 3, [1.0] * 3)  # in T = 1 the one KL is that between q(z₁) and transition(z_q_0)
    kl = model.loss(normal(1, 1, 2))[1]
    p = Normal(loc[0], scale[0])
    assert_close(kl, kl_divergence(Normal(torch.zeros(3, dtype=F64), 1.0), p).sum())


def test_S0_24_priors_that_are_alike_count_once():
    """Where the transition does not look at z all priors are the same, and so is the KL for any horizon."""
    obs, values = normal(3, 5, 2), []
    for L in HORIZONS:
        model = networks(overshooting=L)
        model.transition = Say([0.1, 0.2, 0.3], [0.5, 1.0, 2.0])
        values.append(model.loss(obs, noise=normal(1, 5, 1, 3, 3).expand(L, -1, -1, -1, -1))[1])
    assert_close(torch.stack(values), values[0].expand(len(HORIZONS)))


def test_S0_25_the_state_is_the_last_axis_of_what_the_transition_sees():
    model, shapes = networks(overshooting=3, sampling_num=2), []
    model.transition.register_forward_hook(lambda _, z, out: shapes.append(tuple(z[0].shape)))
    model.loss(normal(5, 6, 2))
    assert shapes == [(10, 3)] * 6 + [(50, 3), (40, 3)]


@pytest.mark.parametrize("smoothing", [False, True])
def test_S0_33_loss_is_a_sum_over_sequences(smoothing):
    model = networks(overshooting=2, smoothing=smoothing)
    obs, noise = normal(3, 4, 2), normal(2, 4, 1, 3, 3)
    once, twice = model.loss(obs, noise=noise), model.loss(torch.cat([obs] * 2), noise=torch.cat([noise] * 2, 3))
    assert_close(torch.stack(twice), 2 * torch.stack(once))
    alone = [torch.stack(model.loss(obs[b : b + 1], noise=noise[:, :, :, b : b + 1])) for b in range(3)]
    assert_close(torch.stack(once), sum(alone), tol=1e-12)


def test_S0_34_samples_are_averaged():
    model, (obs, noise) = networks(overshooting=2), (normal(3, 4, 2), normal(2, 4, 5, 3, 3))
    alone = [torch.stack(model.loss(obs, noise=noise[:, :, s : s + 1])) for s in range(5)]
    assert_close(torch.stack(model.loss(obs, noise=noise)), torch.stack(alone).mean(0), tol=1e-12)


def test_S0_29_stop_gradient_cuts_the_longer_priors_from_the_posterior():
    """In T = 2 the prior of two steps starts from z_q_0, and meets the posterior in its target only.

    Later ones start from a sample of the posterior, which they still move: `naive` says so, too.
    """
    obs, noise, slopes, values = normal(3, 2, 2), normal(2, 2, 1, 3, 3), {}, {}
    for stop in (False, True):
        two, one = networks(overshooting=2, stop_gradient=stop), networks()
        kl = two.loss(obs, noise=noise)[1]
        parts = [2 * s for s in gradients(kl, two)]
        short = gradients(one.loss(obs, noise=noise[:1])[1] + one.loss(obs[:, :1], noise=noise[:1, :1])[1], one)
        names = [name for name, _ in two.named_parameters()]
        slopes[stop] = {name: a - b for name, a, b in zip(names, parts, short)}
        values[stop] = kl
    assert torch.equal(values[False], values[True])
    for name in slopes[True]:
        if name.startswith("posterior"):
            assert slopes[True][name].abs().max() < 1e-10
            assert slopes[False][name].abs().max() > 1e-6
        elif name.startswith(("transition", "z_q_0")):
            assert slopes[True][name].abs().max() > 1e-6


@pytest.mark.parametrize("smoothing", [False, True])
def test_loss_draws_noise_of_its_own(smoothing):
    """Standard normal and independent: its mean, over many samples, is that over the points of `cubature`."""
    model, _ = linear(2, 3, future=smoothing, overshooting=3, sampling_num=40_000)
    obs, _ = normal(2, 3, 3), torch.manual_seed(0)
    want = model.loss(obs, noise=cubature(3, 3, 2, 2))
    got = model.loss(obs)
    few, _ = linear(2, 3, future=smoothing, overshooting=3)
    many = torch.stack([torch.stack(few.loss(obs)).detach() for _ in range(300)])
    for value, expected, spread in zip(got, want, many.std(0)):
        assert (value - expected).abs() < 5 * spread / 200
        assert spread > 0.1


# --- the bound --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("smoothing", [False, True])
def test_S0_18_elbo_is_the_loss_with_its_constants(smoothing, masked):
    """−(reconstruction + kl) − ½ log 2π for each number that is there, from the same random state."""
    for samples in (1, 3):
        model = networks(smoothing=smoothing, sampling_num=samples)
        obs, mask = normal(3, 4, 2), mask_of(LENGTHS, 4) if masked else None
        torch.manual_seed(5)
        terms = model.loss(obs, mask)
        torch.manual_seed(5)
        elbo = model.elbo(obs, samples, mask)
        assert elbo.shape == (3,)
        numbers = 2 * (sum(LENGTHS) if masked else 12)
        assert_close(elbo.sum(), -sum(terms) - numbers * HALF_LOG_2PI, tol=1e-12)


@pytest.mark.parametrize("smoothing", [False, True])
def test_elbo_and_log_weights_of_each_sequence_are_loops(smoothing):
    model, obs, noise = networks(smoothing=smoothing), normal(3, 4, 2), normal(1, 4, 2, 3, 3)
    with drawn(noise):
        elbo, weights = model.elbo(obs, 2), model.log_weights(obs, 2)
        z = model.filter(obs, 2)
    assert weights.shape == (2, 3)
    for b in range(3):
        reconstruction, kl = naive(model, obs[b : b + 1], noise[:, :, :, b : b + 1])
        assert_close(elbo[b], -(reconstruction + kl) - 8 * HALF_LOG_2PI, tol=1e-12)
        seen = model.posterior.look(obs[b : b + 1], torch.ones(1, 4, dtype=torch.bool))[0]
        for s in range(2):
            before, total = model.z_q_0, 0
            for t in range(4):
                prior, now = model.transition(before), z[s, b, t]
                q = model.posterior.combine(*prior, seen[t])
                log_x = Normal(model.emitter(now), (model.emit_log_sigma / 2).exp()).log_prob(obs[b, t]).sum()
                total = total + log_x + (Normal(*prior).log_prob(now) - Normal(*q).log_prob(now)).sum()
                before = now
            assert_close(weights[s, b], total, tol=1e-11)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("d", "p"), [(1, 1), (1, 2), (2, 2), (2, 3)])
def test_with_the_exact_posterior_every_log_weight_is_the_log_likelihood(d, p, masked):
    """log p(x, z) − log p(z | x) = log p(x), for any z: transition, emitter, posterior and constants all have part."""
    for seed in range(3):
        (model, exact), obs = linear(d, p, seed), 2 * normal(4, 5, p, seed=seed)
        lengths = [5, 1, 3, 4] if masked else [5] * 4
        want = torch.stack([exact.log_likelihood(x[:n]) for x, n in zip(obs, lengths)])
        for n, x, ll in zip(lengths, obs, want):
            loc, cov = (part[..., n * d :] for part in dense(exact, n))
            assert_close(MultivariateNormal(loc, cov[n * d :]).log_prob(x[:n].flatten()), ll)
        mask = mask_of(lengths, 5)
        weights = model.log_weights(torch.where(mask[..., None], obs, math.nan), 50, mask)
        assert_close(weights, want.expand(50, 4))
        assert_close(model.importance_bound(obs, 7, mask), want)
        if not masked:
            assert_close(expected_elbo(model, obs), want)


@pytest.mark.parametrize("future", [False, True])
@pytest.mark.parametrize(("d", "p"), [(1, 1), (2, 3)])
def test_elbo_is_a_lower_bound(d, p, future):
    """The exact posterior, put off by ε, has a gap that grows with ε²; one that does not look ahead has a gap, too."""
    for seed in range(3):
        (model, exact), obs = linear(d, p, seed, future), 2 * normal(6, 4, p, seed=seed)
        log_likelihood, gaps = exact.log_likelihood(obs), []
        for epsilon in (0.0, 0.05, 0.1, -0.05):
            model.posterior.shift, model.posterior.stretch = epsilon, math.exp(epsilon)
            gaps.append(log_likelihood - expected_elbo(model, obs).detach())
        assert (gaps[0] > 1e-4).all() if not future else (gaps[0].abs() < 1e-10).all()
        if future:
            assert (gaps[1] > 1e-4).all()
            assert (gaps[3] > 1e-4).all()
            assert ((gaps[2] / gaps[1] - 4).abs() < 1).all()


@pytest.mark.parametrize("smoothing", [False, True])
def test_elbo_of_any_network_is_below_the_log_likelihood(smoothing):
    obs = normal(5, 4, 3)
    for seed in range(4):
        model, exact = linear(2, 3, seed)
        kind = SmoothingPosterior if smoothing else Posterior
        model.posterior = random_weights(kind(2, 8, 3).double(), seed)
        torch.manual_seed(seed)
        elbo = torch.stack([model.elbo(obs, 20).detach() for _ in range(50)])
        assert (elbo.mean(0) + 5 * elbo.std(0) / 50**0.5 < exact.log_likelihood(obs)).all()


@pytest.mark.parametrize(("x", "gap"), [((1.0, 0.5), 0.013428), ((10.0, -10.0), 11.263428)])
def test_S0_28_a_filter_leaves_a_gap(x, gap):
    """The best that q(zₜ | zₜ₋₁, xₜ) can do is the exact update, and with later observations that is not enough."""
    obs = tensor(x)[None, :, None]
    (filtering, exact), (smoothing, _) = walk(), walk(future=True)
    log_likelihood = exact.log_likelihood(obs)
    got = log_likelihood - expected_elbo(filtering, obs).detach()
    assert round(got.item(), 6) == gap
    assert_close(expected_elbo(smoothing, obs), log_likelihood)


def test_S0_27_overshooting_is_no_bound():
    """G1.10–G1.12, exactly; and by samples of the model's own."""
    obs = tensor([[[10.0], [-10.0]]])
    log_likelihood = walk()[1].log_likelihood(obs)
    assert_close(log_likelihood, [-72.6425960226])
    for L, want in [(1, -83.906024247), (2, -71.656024247)]:
        model, _ = walk(overshooting=L)
        bound = -sum(model.loss(obs, noise=cubature(L, 2, 1))) - 2 * HALF_LOG_2PI
        assert_close(bound.detach(), want)
        assert bound < log_likelihood if L == 1 else bound > log_likelihood
        model, _ = walk(overshooting=L, sampling_num=100_000)
        torch.manual_seed(L)
        sampled = -sum(model.loss(obs)) - 2 * HALF_LOG_2PI
        assert abs(sampled.item() - want) < 0.2
        assert sampled < log_likelihood if L == 1 else sampled > log_likelihood


def test_S0_27_what_overshooting_bounds():
    """The mean of log p and log p₂, whose second state knows z_q_0 only: z₂ ~ N(0, 2), independent of z₁."""
    obs = tensor([10.0, -10.0])
    apart = Normal(tensor([0.0, 0.0]), tensor([2.0, 3.0]).sqrt()).log_prob(obs).sum()
    mean = (apart + walk()[1].log_likelihood(obs[:, None])) / 2
    assert abs(apart + 44.400423) < 1e-6
    assert abs(mean + 58.521510) < 1e-6
    model, _ = walk(overshooting=2)
    assert -sum(model.loss(obs[None, :, None], noise=cubature(2, 2, 1))) - 2 * HALF_LOG_2PI < mean


def test_S0_27_on_data_of_the_model_it_is_below_on_average():
    """All is quadratic in noise and data: the mean over points along the axes of both is the expectation.

    By hand: E log p = −log 2π − ½ log 5 − 1; the ELBO is ½(log 0.8 + ½) below it, and L = 2 is lower by ⅜ still.
    """
    log_p = -2 * HALF_LOG_2PI - math.log(5) / 2 - 1
    root = torch.linalg.cholesky(tensor([[2.0, 1.0], [1.0, 3.0]]))  # of the covariance of x₁ and x₂
    for L, want in [(1, log_p - (math.log(0.8) + 0.5) / 2), (2, log_p - (math.log(0.8) + 1.25) / 2)]:
        n = 2 * L + 2
        axes = math.sqrt(n) * torch.cat([torch.eye(n, dtype=F64), -torch.eye(n, dtype=F64)])
        obs, noise = (axes[:, :2] @ root.mT)[..., None], axes[:, 2:].mT.reshape(L, 2, 1, 2 * n, 1)
        model, exact = walk(overshooting=L)
        assert_close(exact.log_likelihood(obs).mean(), log_p)
        bound = -sum(model.loss(obs, noise=noise)).detach() / (2 * n) - 2 * HALF_LOG_2PI
        assert_close(bound, want)
        assert want < log_p


def test_elbo_is_the_mean_of_log_weights():
    for d, p in [(1, 1), (2, 3)]:
        (model, _), obs = linear(d, p, future=False), normal(3, 4, p)
        noise = cubature(1, 4, d, 3)
        with drawn(noise):
            elbo, weights = model.elbo(obs, noise.shape[2]), model.log_weights(obs, noise.shape[2])
        assert_close(weights.mean(0), elbo)
        assert (weights.std(0) > 0.01).all()
    model, obs = networks(strength=0.5), normal(3, 4, 2)  # and of networks, within standard errors
    torch.manual_seed(0)
    elbo, weights = model.elbo(obs, 20_000).detach(), model.log_weights(obs, 20_000).detach()
    assert near(weights, elbo, 1.5 * weights.std(0))


def test_the_importance_bound_is_the_log_of_the_mean_weight():
    model, obs = networks(), normal(3, 4, 2)
    for K in (1, 2, 5):
        torch.manual_seed(K)
        weights = model.log_weights(obs, K)
        torch.manual_seed(K)
        bound = model.importance_bound(obs, K)
        assert bound.shape == (3,)
        assert_close(bound, weights.exp().mean(0).log() if K > 1 else weights[0])
    torch.manual_seed(0)
    wide = 1e3 * obs  # weights of exp(−10⁶) are 0, their logarithms are not
    assert model.importance_bound(wide, 3).isfinite().all()


def test_one_sample_of_the_importance_bound_is_one_of_the_elbo_where_the_posterior_is_the_prior():
    model, obs = networks(), normal(3, 4, 2)
    model.posterior = Toy()
    model.posterior.combine = lambda loc, scale, seen: (loc, scale)
    torch.manual_seed(0)
    bound = model.importance_bound(obs, 1)
    torch.manual_seed(0)
    assert_close(bound, model.elbo(obs), tol=1e-12)


def test_the_importance_bound_does_not_fall_with_more_samples():
    (model, exact), x = walk(), tensor([1.5, -1.5, 1.0])[:, None]
    obs, log_likelihood = x.expand(10_000, 3, 1), exact.log_likelihood(x)
    torch.manual_seed(0)
    bounds = [model.importance_bound(obs, K).detach() for K in (1, 2, 5, 20)]
    elbo = expected_elbo(model, x[None])[0].detach()
    assert (bounds[0].mean() - elbo).abs() < 5 * bounds[0].std() / 100
    for some, more in pairwise(bounds):
        assert more.mean() - some.mean() > 3 * (more.var() + some.var()).sqrt() / 100
    assert bounds[-1].mean() < log_likelihood < bounds[-1].mean() + 0.1
    assert log_likelihood - elbo > 0.2


# --- masks ------------------------------------------------------------------------------------------------------------


def of_each(model, obs, mask, noise, samples):
    """All that the model says of observations, given the same noise."""
    terms = torch.stack(model.loss(obs, mask, noise))
    with drawn(noise[:1]):
        each = model.elbo(obs, samples, mask), model.log_weights(obs, samples, mask).mean(0)
        bound, z = model.importance_bound(obs, samples, mask), model.filter(obs, samples, mask)
    return terms, torch.stack([*each, bound]), z


@pytest.mark.parametrize("smoothing", [False, True])
@pytest.mark.parametrize("L", [1, 3])
def test_what_stands_after_the_end_has_no_part_in_it(L, smoothing):
    model, T = networks(overshooting=L, smoothing=smoothing), max(LENGTHS)
    mask, noise = mask_of(LENGTHS, T), normal(L, T, 2, 3, 3)
    obs = normal(3, T, 2)
    terms, bounds, z = of_each(model, obs, mask, noise, 2)
    for filling in (math.nan, math.inf, 1e3):
        padded = torch.where(mask[..., None], obs, filling)
        for got, want in zip(of_each(model, padded, mask, noise, 2), (terms, bounds, z)):
            assert_close(got, want, tol=1e-12)
        slopes = gradients(sum(model.loss(padded, mask, noise)), model)
        for got, want in zip(slopes, gradients(sum(model.loss(obs, mask, noise)), model)):
            assert_close(got, want, tol=1e-12)
    longer, more = torch.cat([obs, 9 * normal(3, 2, 2)], 1), torch.cat([noise, normal(L, 2, 2, 3, 3, seed=5)], 1)
    got = of_each(model, longer, mask_of(LENGTHS, T + 2), more, 2)
    for value, want in zip((got[0], got[1], got[2][:, :, :T][:, mask]), (terms, bounds, z[:, mask])):
        assert_close(value, want, tol=1e-12)
    whole = of_each(model, obs, torch.ones_like(mask), noise, 2)
    for got, want in zip(whole, of_each(model, obs, None, noise, 2)):
        assert torch.equal(got, want)
    assert (whole[1] - bounds).abs()[:, 1:].min() > 0.1


@pytest.mark.parametrize("smoothing", [False, True])
@pytest.mark.parametrize("L", [1, 3])
def test_a_sequence_alone_is_a_sequence_in_a_batch(L, smoothing):
    model, T = networks(overshooting=L, smoothing=smoothing), max(LENGTHS)
    obs, noise = normal(3, T, 2), normal(L, T, 2, 3, 3)
    padded = torch.where(mask_of(LENGTHS, T)[..., None], obs, math.nan)
    terms, bounds, z = of_each(model, padded, mask_of(LENGTHS, T), noise, 2)
    total = 0
    for b, n in enumerate(LENGTHS):
        alone = of_each(model, obs[b : b + 1, :n], None, noise[:, :n, :, b : b + 1], 2)
        assert_close(alone[1][:, 0], bounds[:, b], tol=1e-12)
        assert_close(alone[2][:, 0], z[:, b, :n], tol=1e-12)
        total = total + alone[0]
    assert_close(total, terms, tol=1e-12)


def forecast_in_the_middle(model, obs, samples, mask=None, steps=2):
    """The forecast, but without the noise that comes after the last observation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn_like", torch.zeros_like)
        return model.forecast(obs, steps, samples, mask)


@pytest.mark.parametrize("smoothing", [False, True])
def test_each_sequence_is_forecast_from_its_own_end(smoothing):
    model, T = networks(smoothing=smoothing), max(LENGTHS)
    obs, noise, mask = normal(3, T, 2), normal(1, T, 5, 3, 3), mask_of(LENGTHS, T)
    with drawn(noise):
        got = forecast_in_the_middle(model, torch.where(mask[..., None], obs, math.nan), 5, mask)
        whole = [forecast_in_the_middle(model, obs, 5, m) for m in (None, torch.ones_like(mask))]
    assert torch.equal(*whole)
    for b, n in enumerate(LENGTHS):
        with drawn(noise[:, :n, :, b : b + 1]):
            z = model.filter(obs[b : b + 1, :n], 5)[:, 0, -1]
        for step in range(2):
            z = model.transition(z)[0]
            assert_close(got[:, b, step], model.emitter(z).detach(), tol=1e-12)
    assert (got - whole[0]).abs()[:, 1:].min() > 1e-3


@pytest.mark.parametrize("smoothing", [False, True])
def test_any_batch_axes(smoothing):
    model, (obs, mask) = networks(smoothing=smoothing), (normal(2, 3, 4, 2), mask_of([4, 2, 3, 1, 4, 2], 4))
    flat, split = obs.reshape(6, 4, 2), mask.reshape(2, 3, 4)
    noise = normal(1, 4, 5, 6, 3)
    for way, front, back in [
        (model.elbo, (), ()),
        (model.log_weights, (5,), ()),
        (model.importance_bound, (), ()),
        (model.filter, (5,), (4, 3)),
        (partial(forecast_in_the_middle, model), (5,), (2, 2)),
    ]:
        with drawn(noise):
            got, want = way(obs, 5, mask=split), way(flat, 5, mask=mask)
        assert got.shape == (*front, 2, 3, *back)
        assert torch.equal(got, want.reshape(got.shape))
    assert all(torch.equal(a, b) for a, b in zip(model.loss(obs, split, noise), model.loss(flat, mask, noise)))


# --- the parts --------------------------------------------------------------------------------------------------------


def test_at_the_start_the_state_stays_and_is_seen_linearly():
    torch.manual_seed(0)
    model, z = DeepKalmanFilter(Config(3, 2)).double(), normal(4, 5, 3)
    loc, scale = model.transition(z)
    assert torch.equal(loc, z)
    assert_close(scale, (softplus(tensor(0.0)) + MIN_SCALE).expand(4, 5, 3))
    assert torch.equal(model.emitter(z), model.emitter.linear(z))
    assert torch.equal(model.z_q_0, torch.zeros(3, dtype=F64))


def test_transition_adds_a_step_and_has_a_scale_above_its_minimum():
    transition, z = random_weights(Transition(3, 5).double()), normal(4, 3)
    out = transition.net(z)
    loc, scale = transition(z)
    assert_close(loc, z + out[:, :3])
    assert_close(scale, (1 + out[:, 3:].exp()).log() + 1e-3)
    transition.net[-1].bias.data[3:] = -1e4
    assert_close(transition(z)[1], torch.full((4, 3), 1e-3))


def test_emitter_is_linear_plus_a_network():
    emitter, z = random_weights(Emitter(3, 5, 2).double()), normal(4, 3)
    whole = emitter(z)
    network = emitter.net(z)
    assert_close(whole - network, z @ emitter.linear.weight.mT + emitter.linear.bias)
    assert network.abs().min() > 1e-4
    assert whole.shape == (4, 2)


@pytest.mark.parametrize("kind", [Posterior, SmoothingPosterior])
def test_the_posterior_is_the_prior_times_a_normal_message(kind):
    """All weights 0 but the last bias: then m and r are known."""
    posterior, m, raw = kind(2, 4, 3).double(), tensor([3.0, -1.0]), tensor([0.5, -2.0])
    for parameter in posterior.parameters():
        nn.init.zeros_(parameter)
    posterior.head[-1].bias.data = torch.cat([m, raw])
    r, prior_loc, prior_scale = softplus(raw) + 1e-3, normal(5, 2), normal(5, 2, seed=1).exp()
    loc, scale = posterior.combine(prior_loc, prior_scale, torch.zeros(5, 4, dtype=F64))
    var = 1 / (prior_scale**-2 + r**-2)
    assert_close(scale, var.sqrt())
    assert_close(loc, var * (prior_loc / prior_scale**2 + m / r**2))
    _, scale = posterior.combine(prior_loc, prior_scale * 1e-9, torch.zeros(5, 4, dtype=F64))
    assert_close(scale, torch.full((5, 2), 1e-3))


@pytest.mark.parametrize("kind", [Posterior, SmoothingPosterior])
def test_the_message_hears_of_the_prior_and_of_what_is_seen(kind):
    """By both: the network sees the mean and the logarithm of the scale of the prior."""
    posterior = random_weights(kind(2, 9, 3).double())
    parts = normal(2), normal(2, seed=1).exp(), normal(9, seed=2)
    heard = []
    posterior.head.register_forward_pre_hook(lambda _, x: heard.append(x[0].clone()))
    posterior.combine(*parts)
    inside = torch.cat([parts[0], parts[1].log()]) @ posterior.from_prior.weight.mT + parts[2]
    assert_close(heard[0], inside)
    slopes = torch.autograd.functional.jacobian(lambda *p: torch.cat(posterior.combine(*p)), parts)
    assert all((slope.abs().amax(0) > 1e-4).all() for slope in slopes[:2])
    assert slopes[2].abs().max() > 1e-3
    assert posterior.from_prior.bias is None


def test_the_posterior_of_one_time():
    posterior, obs = random_weights(Posterior(2, 5, 3).double()), normal(4, 3)
    prior = normal(4, 2), normal(4, 2, seed=1).exp()
    seen = posterior.look(obs[:, None], torch.ones(4, 1, dtype=torch.bool))[:, 0]
    for got, want in zip(posterior(*prior, obs), posterior.combine(*prior, seen)):
        assert_close(got, want, tol=1e-12)


@pytest.mark.parametrize("lengths", [[5, 5], [5, 3]])
def test_filtering_sees_the_present_and_smoothing_also_the_future(lengths):
    mask, obs = mask_of(lengths, 5), normal(2, 5, 3)
    for kind in (Posterior, SmoothingPosterior):
        look = random_weights(kind(2, 6, 3).double()).look
        before = look(obs, mask)
        assert before.shape == (2, 5, 6)
        for changed in range(min(lengths)):
            other = obs.clone()
            other[:, changed] += 1
            moved = (look(other, mask) - before).abs().amax(-1) > 1e-12
            sees = [t == changed or (t < changed and kind is SmoothingPosterior) for t in range(5)]
            for b, n in enumerate(lengths):
                assert moved[b, :n].tolist() == sees[:n]


def test_the_reader_goes_from_the_end_of_each_sequence_to_its_start():
    posterior = random_weights(SmoothingPosterior(2, 6, 3).double())
    obs, lengths = normal(4, 5, 3), [5, 1, 3, 4]
    looked = posterior.look(obs, mask_of(lengths, 5))
    for b, n in enumerate(lengths):
        read, _ = posterior.reader(obs[b : b + 1, :n].flip(1))
        assert_close(looked[b, :n], posterior.from_seen(read.flip(1))[0], tol=1e-12)


def test_smoothing_is_chosen_by_the_config():
    assert type(networks().posterior) is Posterior
    assert type(networks(smoothing=True).posterior) is SmoothingPosterior
    hidden = {"emit_hidden_dim": 11, "trans_hidden_dim": 12, "post_hidden_dim": 13}
    for smoothing in (False, True):
        model = DeepKalmanFilter(Config(3, 2, **hidden, smoothing=smoothing, emit_log_sigma=-1.5))
        assert model.emitter.net[0].out_features == 11
        assert model.transition.net[0].out_features == 12
        assert model.posterior.from_prior.out_features == 13
        assert torch.equal(model.emit_log_sigma, torch.full((2,), -1.5))


# --- states and observations that are drawn ---------------------------------------------------------------------------


@pytest.mark.parametrize(("d", "p"), [(1, 1), (2, 3)])
def test_filter_draws_from_the_exact_posterior(d, p):
    """With the exact conditionals plugged in: the means, and the covariances of all times, of z given x₁ … x_T."""
    (model, exact), T, n = linear(d, p, 1), 4, 40_000
    obs, _ = 2 * normal(2, T, p), torch.manual_seed(0)
    z = model.filter(obs, n)
    assert z.shape == (n, 2, T, d)
    assert not z.requires_grad
    smooth, at = exact.smooth(obs), torch.arange(T * (d + p)) >= T * d
    for b in range(2):
        loc, cov = given(*dense(exact, T), obs[b].flatten(), at)
        assert_close(loc, smooth.mean[b].flatten())
        assert near(z[:, b].flatten(1), loc, cov.diagonal().sqrt())
        assert_close(torch.cov(z[:, b].flatten(1).mT) / cov.max(), cov / cov.max(), tol=0.03)


@pytest.mark.parametrize(("d", "p"), [(1, 1), (2, 3)])
def test_forecast_is_that_of_the_exact_filter(d, p):
    """Also the covariance between one observation ahead and the next."""
    (model, exact), T, steps, n = linear(d, p, 2), 3, 3, 40_000
    obs, _ = 2 * normal(2, T, p), torch.manual_seed(1)
    longer, mask = torch.cat([obs, 9 * normal(2, 1, p)], 1), mask_of([T, T], T + 1)
    ahead, want = model.forecast(longer, steps, n, mask), exact.forecast(obs, steps)
    assert ahead.shape == (n, 2, steps, p)
    assert not ahead.requires_grad
    whole, index = T + steps, torch.arange((T + steps) * (d + p))
    at = (index >= whole * d) & (index < whole * d + T * p)
    for b in range(2):
        spread = want.cov[b].diagonal(dim1=-2, dim2=-1).sqrt()
        assert near(ahead[:, b], want.mean[b], spread)
        cov = given(*dense(exact, whole), obs[b].flatten(), at)[1][-steps * p :, -steps * p :]
        assert_close(cov[:p, :p], want.cov[b, 0])
        assert_close(torch.cov(ahead[:, b].flatten(1).mT) / cov.max(), cov / cov.max(), tol=0.03)


@pytest.mark.parametrize(("d", "p"), [(1, 1), (2, 3)])
def test_sample_draws_from_the_model(d, p):
    (model, exact), T, n = linear(d, p, 3), 3, 40_000
    torch.manual_seed(0)
    z, x = model.sample(T, n)
    assert z.shape == (n, T, d)
    assert x.shape == (n, T, p)
    assert not z.requires_grad
    assert not x.requires_grad
    both, (loc, cov) = torch.cat([z.flatten(1), x.flatten(1)], -1), dense(exact, T)
    assert near(both, loc, cov.diagonal().sqrt())
    assert_close(torch.cov(both.mT) / cov.max(), cov / cov.max(), tol=0.03)
    assert model.sample(T)[1].shape == (1, T, p)


def test_shapes_of_what_is_drawn():
    model, obs = networks(), normal(2, 3, 4, 2)
    assert model.forecast(obs, 6, 5).shape == (5, 2, 3, 6, 2)
    assert model.filter(obs).shape == (1, 2, 3, 4, 3)
    assert model.elbo(obs).shape == (2, 3)


# --- dtype, device, state ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [False, True])
def test_S0_30_dtype_follows_the_parameters(smoothing):
    model = networks(overshooting=2, smoothing=smoothing)
    obs, noise = normal(3, 4, 2), normal(2, 4, 1, 3, 3)
    want = model.loss(obs, noise=noise)
    low = copy.deepcopy(model).float()
    got = low.loss(obs.float(), noise=noise.float())
    for value, expected in zip(got, want):
        assert value.dtype == F32
        assert expected.dtype == F64
        assert_close(value.double(), expected, tol=1e-4)
    for made, dtype in ((model, F64), (low, F32)):
        x = obs.to(dtype)
        drawn_values = [*made.loss(x), made.elbo(x), made.log_weights(x, 2), made.importance_bound(x, 2)]
        drawn_values += [made.filter(x), made.forecast(x, 2, 2), *made.sample(2), made.emit_scale]
        assert {value.dtype for value in drawn_values} == {dtype}


@pytest.mark.parametrize("smoothing", [False, True])
def test_float32_stays_finite(smoothing):
    """Also where data are large, weights have grown and scales are as small as they get.

    Not the weights that a state meets again and again: those would drive it out of any range of numbers.
    """
    for seed in range(5):
        model = networks(overshooting=3, smoothing=smoothing, seed=seed)
        for part, parameter in model.named_parameters():
            grown = "from_seen" in part or part.startswith("emitter") or part.endswith("bias")
            parameter.data *= 30 if grown else 1
        model, obs = model.float(), 1e3 * normal(3, 6, 2, seed=seed).float()
        torch.manual_seed(seed)
        reconstruction, kl = model.loss(obs)
        slopes = gradients(reconstruction + kl, model)
        assert all(value.isfinite().all() for value in (reconstruction, kl, *slopes))
        assert kl > 0
        assert all(value.isfinite().all() for value in (model.elbo(obs, 2), model.log_weights(obs, 2)))


def test_S0_31_device_is_that_of_the_parameters_and_not_the_default():
    model, obs, mask = networks(overshooting=2), normal(3, 4, 2), mask_of(LENGTHS, 4)
    noise = normal(2, 4, 1, 3, 3)
    want = model.loss(obs, mask, noise)
    with torch.device("meta"):
        got = model.loss(obs, mask, noise)
        others = [*model.loss(obs), model.elbo(obs, 2, mask), model.importance_bound(obs, 2), model.filter(obs)]
        others += [model.forecast(obs, 2, 2), *model.sample(2)]
    assert all(torch.equal(value, expected) for value, expected in zip(got, want))
    assert {value.device.type for value in others} == {"cpu"}
    assert {p.device.type for p in DeepKalmanFilter(Config(3, 2, device="meta")).parameters()} == {"meta"}


@pytest.mark.parametrize("smoothing", [False, True])
def test_the_state_makes_the_same_model_again(smoothing):
    model, obs, noise = networks(smoothing=smoothing), normal(3, 4, 2), normal(1, 4, 1, 3, 3)
    state = model.state_dict()
    assert {name for name, _ in model.named_parameters()} == set(state)
    assert {"z_q_0", "emit_log_sigma"} < set(state)
    again = DeepKalmanFilter(model.config).double()
    again.load_state_dict(state)
    for got, want in zip(again.loss(obs, noise=noise), model.loss(obs, noise=noise)):
        assert torch.equal(got, want)


def test_the_same_seed_draws_the_same_numbers_and_another_others():
    model, obs = networks(overshooting=2), normal(3, 4, 2)
    for way in (
        lambda: torch.stack(model.loss(obs)),
        lambda: model.elbo(obs),
        lambda: model.log_weights(obs, 2),
        lambda: model.filter(obs),
        lambda: model.forecast(obs, 2, 2),
        lambda: model.sample(2)[1],
    ):
        values = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            values.append(way())
        assert torch.equal(values[0], values[1])
        assert (values[0] - values[2]).abs().min() > 0


# --- what is refused --------------------------------------------------------------------------------------------------

WAYS = {
    "loss": lambda model, obs, mask=None: model.loss(obs, mask),
    "elbo": lambda model, obs, mask=None: model.elbo(obs, 2, mask),
    "log_weights": lambda model, obs, mask=None: model.log_weights(obs, 2, mask),
    "importance_bound": lambda model, obs, mask=None: model.importance_bound(obs, 2, mask),
    "filter": lambda model, obs, mask=None: model.filter(obs, 2, mask),
    "forecast": lambda model, obs, mask=None: model.forecast(obs, 2, 2, mask),
}


def says(message):
    return f"^{re.escape(message)}$"


@pytest.mark.parametrize("mistake", BAD_POINTS)
@pytest.mark.parametrize("way", WAYS)
def test_bad_observations(way, mistake, own_errors):
    obs, error, words = BAD_POINTS[mistake]
    with pytest.raises(error, match=r"^obs: ") as caught:
        WAYS[way](networks(), obs)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize("shape", [(4, 2), (2,), (3, 4, 3), (3, 4, 1), (3, 0, 2), (0, 4, 2), (2, 0, 4, 2), (3, 2, 4)])
@pytest.mark.parametrize("way", WAYS)
def test_S0_19_observations_of_another_shape(way, shape, own_errors):
    message = f"obs: expected shape (*batch, T, 2) with a batch axis and T ≥ 1, got {shape}"
    with pytest.raises(ValueError, match=says(message)):
        WAYS[way](networks(), torch.ones(shape, dtype=F64))


@pytest.mark.parametrize("way", WAYS)
def test_observations_of_another_dtype(way, own_errors):
    for dtype, other in ((F32, F64), (F64, F32)):
        with pytest.raises(TypeError, match=says(f"obs: expected {dtype} like the parameters, got {other}")):
            WAYS[way](networks().to(dtype), torch.ones(3, 4, 2, dtype=other))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("way", WAYS)
def test_observations_that_are_not_finite(way, value, own_errors):
    obs = normal(3, 4, 2)
    obs[1, 2, 0] = value
    with pytest.raises(ValueError, match=says(f"obs: expected finite numbers, got {value}")):
        WAYS[way](networks(), obs)
    with pytest.raises(ValueError, match=says(f"obs: expected finite numbers, got {value}")):
        WAYS[way](networks(), obs, mask_of([4, 3, 1], 4))
    WAYS[way](networks(), obs, mask_of([4, 2, 1], 4))  # after the end it is padding


@pytest.mark.parametrize("way", WAYS)
def test_masks_that_are_none(way, own_errors):
    obs, good = normal(3, 4, 2), torch.ones(3, 4, dtype=torch.bool)
    expected = "mask: expected True from the first time to the last of each sequence, then False"
    for row in ([True, False, True, True], [False] * 4, [False, True, True, True], [True, True, False, True]):
        mask = good.clone()
        mask[1] = torch.tensor(row)
        with pytest.raises(ValueError, match=says(expected)):
            WAYS[way](networks(), obs, mask)
    for shape in [(3, 3), (4, 3), (4,), (1, 4), (3, 4, 2), (3, 4, 1), ()]:
        got = f"torch.bool of shape {shape}"
        with pytest.raises(ValueError, match=says(f"mask: expected torch.bool of shape (3, 4), got {got}")):
            WAYS[way](networks(), obs, torch.ones(shape, dtype=torch.bool))
    for dtype in (torch.int64, F64):
        got = f"{dtype} of shape (3, 4)"
        with pytest.raises(ValueError, match=says(f"mask: expected torch.bool of shape (3, 4), got {got}")):
            WAYS[way](networks(), obs, good.to(dtype))
    with pytest.raises(TypeError, match=says("mask: expected a torch.Tensor, got list")):
        WAYS[way](networks(), obs, good.tolist())


@pytest.mark.parametrize("shape", [(2, 4, 1, 3, 3), (4, 4, 1, 3, 3), (3, 3, 1, 3, 3), (3, 5, 1, 3, 3), (1, 4, 1, 3, 3)])
def test_noise_of_other_levels_or_times(shape):
    message = f"noise: expected the levels and times (3, 4) first, got shape {shape}"
    with pytest.raises(ValueError, match=says(message)):
        networks(overshooting=3).loss(normal(3, 4, 2), noise=normal(*shape))


@pytest.mark.parametrize("value", [0, -1, True, False, 2.0, "2", None])
def test_numbers_of_samples_and_steps(value, own_errors):
    model, obs = networks(), normal(3, 4, 2)
    message = says(f"samples: expected a whole number ≥ 1, got {value!r}")
    for way in (model.elbo, model.log_weights, model.importance_bound, model.filter):
        with pytest.raises(ValueError, match=message):
            way(obs, value)
    with pytest.raises(ValueError, match=message):
        model.forecast(obs, 2, value)
    message = says(f"steps: expected a whole number ≥ 1, got {value!r}")
    with pytest.raises(ValueError, match=message):
        model.forecast(obs, value, 2)
    with pytest.raises(ValueError, match=message):
        model.sample(value)
    with pytest.raises(ValueError, match=says(f"batch: expected a whole number ≥ 1, got {value!r}")):
        model.sample(2, value)


@pytest.mark.parametrize("value", [0, -1, True, False, 2.0, "2", None])
@pytest.mark.parametrize("name", ["z_dim", "obs_dim", *SMALL, "sampling_num", "overshooting"])
def test_S0_23_sizes_that_are_none(name, value, own_errors):
    """With the horizon 0 the source divides by 0, and with −1 its KL is negative."""
    with pytest.raises(ValueError, match=says(f"{name}: expected a whole number ≥ 1, got {value!r}")):
        Config(**{"z_dim": 2, "obs_dim": 2, name: value})


def test_the_config_keeps_the_names_of_the_source_and_stays_as_it_is():
    config = Config(z_dim=1, obs_dim=2)
    assert (config.emit_log_sigma, config.sampling_num, config.overshooting, config.device) == (0.0, 1, 1, "cpu")
    assert not config.smoothing
    assert not config.stop_gradient
    with pytest.raises(AttributeError):
        config.overshooting = 0


# --- what overflows ---------------------------------------------------------------------------------------------------


class Constant(nn.Module):
    """A posterior that is N(loc, 1) everywhere; loc None: that of the prior."""

    def __init__(self, loc=None):
        super().__init__()
        self.loc = loc

    def look(self, obs, mask):
        return obs

    def combine(self, prior_loc, prior_scale, seen):
        one = torch.ones_like(prior_loc)
        return prior_loc if self.loc is None else self.loc * one, one


def exploding(a=1e15, C=1.0, loc=None, start=1.0, **options):
    """A state of float32 that is multiplied by a at each step and seen multiplied by C."""
    model, one = DeepKalmanFilter(Config(1, 1, **options)), torch.ones(1)
    model.z_q_0.data *= 0
    model.z_q_0.data += start
    model.transition, model.emitter, model.posterior = Move(a * one, one), See(C * one[None]), Constant(loc)
    return model


def overflow(what, time):
    return says(f"{what} is no longer finite at time {time}; use smaller weights or observations")


@pytest.mark.parametrize("way", WAYS)
def test_a_state_that_overflows_is_named_with_its_time(way):
    """1, 10¹⁵, 10³⁰ and then too much for float32, in one sequence of three only."""
    for T in (3, 5):
        with pytest.raises(ValueError, match=overflow("a state", 3)):
            WAYS[way](exploding(), torch.ones(3, T, 1))
    model = exploding(a=1.0)
    model.posterior.combine = lambda loc, scale, seen: (loc + seen * 1e38, scale)
    obs = torch.ones(3, 6, 1)
    obs[1, 4] = 10.0
    with pytest.raises(ValueError, match=overflow("a state", 4)):  # 10³⁸, 2 · 10³⁸, 3 · 10³⁸
        WAYS[way](model, obs)
    obs[:, :4] = 0.0
    with pytest.raises(ValueError, match=overflow("a state", 5)):
        WAYS[way](model, obs)


@pytest.mark.parametrize("way", [name for name in WAYS if name not in ("filter", "forecast")])
def test_a_density_that_overflows_is_named_with_its_time(way):
    what = "the loss" if way == "loss" else "the bound"
    with pytest.raises(ValueError, match=overflow(what, 2)):  # 10³⁰ is finite, its square is not
        WAYS[way](exploding(), torch.ones(3, 2, 1))
    with pytest.raises(ValueError, match=overflow(what, 1)):
        WAYS[way](exploding(a=1.0, C=1e30), torch.ones(3, 2, 1))
    if way in ("loss", "elbo"):  # a prior at 10²⁵ is far from a posterior at 1
        with pytest.raises(ValueError, match=overflow(what, 2)):
            WAYS[way](exploding(a=1e25, loc=1.0, start=0.0), torch.ones(3, 4, 1))


def test_an_overflow_on_the_way_of_a_longer_prior_is_named_with_its_time():
    """From 0 the way goes to 0; from z₁ = 1 it goes to 10²⁵, and at time 3 it would be at 10⁵⁰."""
    for L in (2, 3, 9):
        model = exploding(a=1e25, loc=1.0, start=0.0, overshooting=L)
        with pytest.raises(ValueError, match=overflow("a state", 3)):
            model.loss(torch.ones(3, 5, 1), noise=torch.zeros(L, 5, 1, 3, 1))
    with pytest.raises(ValueError, match=overflow("a state", 3)):
        exploding(a=1e18, loc=0.0, start=1.0, overshooting=3).loss(
            torch.ones(1, 4, 1), noise=torch.zeros(3, 4, 1, 1, 1)
        )


def test_what_is_drawn_and_overflows_is_named_with_its_time():
    with pytest.raises(ValueError, match=overflow("what is drawn", 3)):
        exploding().sample(4, 2)
    with pytest.raises(ValueError, match=overflow("what is drawn", 2)):
        exploding().forecast(torch.ones(2, 1, 1), 4, 3)
    with pytest.raises(ValueError, match=overflow("what is drawn", 1)):
        exploding(C=1e30).sample(2)
    exploding().sample(2, 100), exploding().filter(torch.ones(2, 2, 1))


@pytest.mark.parametrize("smoothing", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_weights_that_have_grown_without_end(way, smoothing):
    obs = normal(3, 6, 2).float()
    for seed in range(3):
        model = networks(overshooting=3, smoothing=smoothing, seed=seed, strength=1e9).float()
        with pytest.raises(ValueError, match=r" is no longer finite at time \d; use smaller weights or observations$"):
            WAYS[way](model, obs)


# --- training ---------------------------------------------------------------------------------------------------------


class Wary(nn.Module):
    """The best posterior that does not look ahead: the mean of the filter, with the scale of the smoother."""

    def __init__(self, filtering, smoothing):
        super().__init__()
        self.parts = filtering, smoothing

    def look(self, obs, mask):
        return torch.cat([part.look(obs, mask) for part in self.parts], -1)

    def combine(self, loc, scale, seen):
        both = [part.combine(loc, scale, s) for part, s in zip(self.parts, seen.chunk(2, -1))]
        return both[0][0], both[1][1]


def test_training_the_posterior_comes_near_the_log_likelihood():
    """Transition and emitter are exact: a posterior that sees the future closes the gap that a filter keeps.

    A filter that has learned ends at the best one's gap, below that of the exact update.
    """
    (best, exact), (smoother, _) = walk(), walk(future=True)
    train, test = (exact.sample(6, (n,), seeded(n))[1] for n in (512, 256))

    def mean_gap(model):
        torch.manual_seed(1)
        return (exact.log_likelihood(test) - model.elbo(test, 20).detach()).mean().item()

    def draw(generator):
        return train[torch.randint(len(train), (64,), generator=generator)]

    update = mean_gap(best)
    best.posterior = Wary(best.posterior, smoother.posterior)
    floor, before, after = mean_gap(best), {}, {}
    for kind in (Posterior, SmoothingPosterior):
        torch.manual_seed(0)
        learner, _ = walk()
        learner.posterior = kind(1, 16, 1).double()
        before[kind] = mean_gap(learner)
        parameters = learner.posterior.parameters()
        fit(lambda x, m=learner: sum(m.loss(x)) / len(x), parameters, draw, 150, 3e-2, progress=False)
        after[kind] = mean_gap(learner)
    assert min(before.values()) > 5
    assert floor < update
    assert 0.97 * floor < after[Posterior] < 1.05 * update
    assert 0 < after[SmoothingPosterior] < 0.2 * floor


def test_training_everything_improves_the_bound():
    exact = walk()[1]
    train, test = (exact.sample(6, (n,), seeded(n))[1] for n in (512, 256))
    torch.manual_seed(3)
    model = DeepKalmanFilter(Config(1, 1, 16, 16, 16, smoothing=True)).double()

    def mean_gap():
        return (exact.log_likelihood(test) - model.elbo(test, 20).detach()).mean().item()

    def draw(generator):
        return train[torch.randint(len(train), (64,), generator=generator)]

    assert mean_gap() > 2
    fit(lambda x: sum(model.loss(x)) / len(x), model.parameters(), draw, 150, 3e-2, progress=False)
    assert -0.05 < mean_gap() < 0.6


def test_every_mutant_still_applies():
    """Else `make mutants` would break nothing."""
    assert stale("deep_kalman") == []
