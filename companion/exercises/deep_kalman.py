"""The exercises of the deep_kalman chapter, from the surprise at one observation to the share that a forecast covers.

After each reference solution come its hints, its check, other correct solutions and the mistakes people make.  What an
answer is compared with takes another road than the solution: densities in plain numbers that are multiplied, a fine
grid, decimal arithmetic without underflow, one distance after another, or the rank of what came true.
"""

import math
from decimal import Decimal
from statistics import NormalDist

import numpy as np
import torch
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from companion.exercises import Exercise
from companion.exercises import _inputs as inputs

LOG_TWO_PI = math.log(2 * math.pi)


def _to(dtype, *tensors):
    return [tensor.to(dtype) for tensor in tensors]


def _density(x, loc, scale):
    """The density of independent normal numbers, multiplied number by number, without a logarithm."""
    rows = zip(*(tensor.expand_as(x).flatten().tolist() for tensor in (x, loc, scale)))
    return math.prod(NormalDist(mean, deviation).pdf(number) for number, mean, deviation in rows)


def _log_normal(x, loc, scale):
    return Normal(loc, scale).log_prob(x)


# 1 ------------------------------------------------------------------------------------------------------------------


def emission_nll(obs, loc, log_var):
    """How surprising an observation is, to a state that the emitter gives the mean loc.

        −log p(x | z) = −log N(x; loc, exp(log_var)),   summed over the p numbers of x

    All constants belong to it: only with them can a loss be compared with log p(x), or
    with that of another model.

    obs: the observations x, shape (*batch, p), with any batch axes.  loc: what the
    emitter makes of z, shape (*batch, p).  log_var: the logarithm of the variance of
    each of the p numbers, not of the standard deviation, shape (p,); in the companion
    it is called emit_log_sigma.  Returns −log p(x | z) for each observation, shape
    (*batch), in nats.
    """
    return ((obs - loc) ** 2 / log_var.exp() + log_var + math.log(2 * math.pi)).sum(-1) / 2


exercise = Exercise(
    emission_nll,
    hints=[
        "Write down the density of one normal number with the variance v, and take its logarithm. Three terms come "
        "out, and each has the factor ½. Which of them depends on x?",
        "For one number, −log N(x; loc, v) = ½ ((x − loc)²/v + log v + log 2π). Here v = exp(log_var), so that log v "
        "is log_var itself.",
        "Sum it over the last axis: ((obs - loc)**2 / log_var.exp() + log_var + math.log(2 * math.pi)).sum(-1) / 2. "
        "With torch.distributions, the scale is (log_var / 2).exp().",
    ],
)


@exercise.check
def _(attempt, generator):
    def want(obs, loc, log_var):
        scale, points = (log_var / 2).exp(), obs.reshape(-1, obs.shape[-1])
        surprises = [-math.log(_density(x, at, scale)) for x, at in zip(points, loc.reshape_as(points))]
        return torch.tensor(surprises, dtype=torch.float64).reshape(obs.shape[:-1])

    obs, loc = inputs.tenth(1.5, 3, 1, generator=generator), inputs.tenth(-1, 1, 1, generator=generator)
    log_var = inputs.tenth(0.3, 1.2, 1, generator=generator)
    what = "emission_nll for obs {}, loc {}, log_var {}".format(*map(inputs.numbers, (obs, loc, log_var)))
    yield inputs.case(what, torch.float64, attempt(obs, loc, log_var), want(obs, loc, log_var))
    for p, batch, dtype in (
        (3, (), torch.float64),
        (3, (3,), torch.float64),  # as many points as numbers: a sum over the wrong axis fits by accident
        (2, (4, 3), torch.float64),
        (5, (4,), torch.float32),
    ):
        obs, loc = inputs.normal(2, *batch, p, generator=generator)
        log_var = inputs.uniform(-1, 1.5, p, generator=generator)
        what = f"emission_nll for obs of shape {tuple(obs.shape)}"
        yield inputs.case(what, dtype, attempt(*_to(dtype, obs, loc, log_var)), want(obs, loc, log_var))


@exercise.alternative
def normal_of_torch(obs, loc, log_var):
    return -Normal(loc, (log_var / 2).exp()).log_prob(obs).sum(-1)


@exercise.alternative
def one_normal_of_all_numbers(obs, loc, log_var):
    return -MultivariateNormal(loc, log_var.exp().diag_embed()).log_prob(obs)


@exercise.alternative
def loss_of_torch(obs, loc, log_var):
    var = log_var.exp().expand_as(obs)
    return torch.nn.functional.gaussian_nll_loss(loc, obs, var, full=True, eps=0, reduction="none").sum(-1)


def _terms(obs, loc, log_var):
    """The square over the variance, the logarithm of the variance and the constant, each (*batch, p) and not halved."""
    square = (obs - loc) ** 2
    return square / log_var.exp(), log_var.expand_as(square), torch.full_like(square, LOG_TWO_PI)


@exercise.mistake(
    "You took exp(log_var) for the standard deviation, (x − loc)²/(2 exp(2 log_var)) + log_var. It is the variance: "
    "(x − loc)²/(2 exp(log_var)) + ½ log_var, and the standard deviation is exp(½ log_var)."
)
def variance_taken_for_scale(obs, loc, log_var):
    return -_log_normal(obs, loc, log_var.exp()).sum(-1)


@exercise.mistake(
    "Your logarithm is right, but in the square exp(log_var) stands for a standard deviation. It is the variance: "
    "divide by exp(log_var) as it is, without squaring it."
)
def variance_squared_in_the_square(obs, loc, log_var):
    square, log, constant = _terms(obs, loc, log_var)
    return (square / log_var.exp() + log + constant).sum(-1) / 2


@exercise.mistake(
    "You divided the square by the standard deviation exp(½ log_var). The square of x − loc has the units of a "
    "variance: divide by exp(log_var)."
)
def square_over_the_scale(obs, loc, log_var):
    square, log, constant = _terms(obs, loc, log_var)
    return (square * (log_var / 2).exp() + log + constant).sum(-1) / 2


@exercise.mistake(
    "The ½ of log_var is missing. log_var belongs to the variance, and the density is divided by the standard "
    "deviation, whose logarithm is ½ log_var."
)
def log_var_not_halved(obs, loc, log_var):
    square, log, constant = _terms(obs, loc, log_var)
    return (square / 2 + log + constant / 2).sum(-1)


@exercise.mistake(
    "You halved log_var twice: the logarithm of the standard deviation is ½ log_var, and it comes in once, as it is."
)
def log_var_quartered(obs, loc, log_var):
    square, log, constant = _terms(obs, loc, log_var)
    return (square + log / 2 + constant).sum(-1) / 2


@exercise.mistake("The ½ of the square is missing: a normal density falls as exp(−(x − loc)²/(2 exp(log_var))).")
def square_not_halved(obs, loc, log_var):
    square, log, constant = _terms(obs, loc, log_var)
    return (square + log / 2 + constant / 2).sum(-1)


@exercise.mistake("All three terms have the factor ½, and it is missing in yours: divide the whole sum by 2.")
def nothing_halved(obs, loc, log_var):
    return sum(_terms(obs, loc, log_var)).sum(-1)


@exercise.mistake(
    "The constant is missing: ½ log 2π for each number, 0.919 nats. It moves no gradient, but without it the loss can "
    "fall below −log p(x), where no bound may be."
)
def constant_missing(obs, loc, log_var):
    square, log, _ = _terms(obs, loc, log_var)
    return (square + log).sum(-1) / 2


@exercise.mistake("Your constant is log 2π for each number. It is the logarithm of a root, √(2π): ½ log 2π.")
def constant_not_halved(obs, loc, log_var):
    square, log, constant = _terms(obs, loc, log_var)
    return (square / 2 + log / 2 + constant).sum(-1)


@exercise.mistake(
    "You added ½ log 2π once for the whole observation. Each of its p numbers has a density of its own: the constant "
    "goes into the sum."
)
def constant_added_once(obs, loc, log_var):
    square, log, _ = _terms(obs, loc, log_var)
    return ((square + log).sum(-1) + LOG_TWO_PI) / 2


@exercise.mistake("Your constant is subtracted. In −log N it is + ½ log 2π, since the density is divided by √(2π).")
def constant_subtracted(obs, loc, log_var):
    square, log, constant = _terms(obs, loc, log_var)
    return (square + log - constant).sum(-1) / 2


@exercise.mistake(
    "The sign of log_var is wrong: + ½ log_var. A wide density is low at its top, and that is the price of a large "
    "variance. With the minus, the loss would fall without end as the variance grows."
)
def log_var_subtracted(obs, loc, log_var):
    square, log, constant = _terms(obs, loc, log_var)
    return (square - log + constant).sum(-1) / 2


@exercise.mistake(
    "The term ½ log_var is missing. Without it the best variance would be an infinite one: only the square depends on "
    "it, and falls."
)
def log_var_missing(obs, loc, log_var):
    square, _, constant = _terms(obs, loc, log_var)
    return (square + constant).sum(-1) / 2


@exercise.mistake(
    "You multiplied the square by exp(log_var). A large variance makes the same distance less surprising: divide."
)
def multiplied_by_the_variance(obs, loc, log_var):
    square, log, constant = _terms(obs, loc, log_var)
    return (square * (2 * log_var).exp() + log + constant).sum(-1) / 2


@exercise.mistake(
    "You divided the square by log_var. That is the logarithm of the variance, and may be negative: divide by "
    "log_var.exp()."
)
def divided_by_the_logarithm(obs, loc, log_var):
    _, log, constant = _terms(obs, loc, log_var)
    return ((obs - loc) ** 2 / log_var + log + constant).sum(-1) / 2


@exercise.mistake(
    "You added the variance where its logarithm belongs: log v = log exp(log_var) is log_var itself, with the factor ½."
)
def variance_for_its_logarithm(obs, loc, log_var):
    square, log, constant = _terms(obs, loc, log_var)
    return (square + log.exp() + constant).sum(-1) / 2


@exercise.mistake(
    "Your density has the variance 1, whatever log_var says: divide the square by exp(log_var), and add ½ log_var."
)
def variance_of_one(obs, loc, log_var):
    return -_log_normal(obs, loc, torch.ones_like(log_var)).sum(-1)


@exercise.mistake(
    "You returned half the squared error. It becomes −log N only with the variance, its logarithm and the constant."
)
def squared_error_alone(obs, loc, log_var):
    return ((obs - loc) ** 2).sum(-1) / 2


@exercise.mistake("You took the distance |x − loc| where a normal density has its square: (x − loc)²/(2 exp(log_var)).")
def distance_not_squared(obs, loc, log_var):
    _, log, constant = _terms(obs, loc, log_var)
    return ((obs - loc).abs() / log_var.exp() + log + constant).sum(-1) / 2


@exercise.mistake("The sign is turned over: yours is log p(x | z). A surprise grows where the density falls: minus.")
def log_likelihood_returned(obs, loc, log_var):
    return -emission_nll(obs, loc, log_var)


@exercise.mistake("You took the mean over the p numbers. Their densities are multiplied, so the logarithms are added.")
def mean_over_numbers(obs, loc, log_var):
    return emission_nll(obs, loc, log_var) / obs.shape[-1]


@exercise.mistake("You did not sum over the numbers of an observation: .sum(-1). What is wanted is one value for each.")
def numbers_kept_apart(obs, loc, log_var):
    return sum(_terms(obs, loc, log_var)) / 2


@exercise.mistake("You added up the whole batch. Each observation has its own −log p(x | z): sum over the last axis.")
def all_observations_added(obs, loc, log_var):
    return emission_nll(obs, loc, log_var).sum()


@exercise.mistake("You averaged over the whole batch. Each observation has its own value: .sum(-1), and no mean.")
def all_observations_averaged(obs, loc, log_var):
    return emission_nll(obs, loc, log_var).mean()


@exercise.mistake(
    "You summed over the first axis, which holds observations. The p numbers lie along the last: .sum(-1)."
)
def first_axis_summed(obs, loc, log_var):
    return (sum(_terms(obs, loc, log_var)) / 2).sum(0)


# 2 ------------------------------------------------------------------------------------------------------------------


def combine(prior_loc, prior_scale, m, r):
    """The posterior of a state: the prior, times a normal message from what is seen.

        N(z; loc, scale²) ∝ N(z; prior_loc, prior_scale²) N(z; m, r²)

    ∝ means: up to a factor without z. Each number of z is treated by itself.

    prior_loc, prior_scale: mean and standard deviation of the prior, shape (*batch, d),
    with any batch axes.  m, r: mean and standard deviation of the message, as a
    function of z, of the same shape.  Returns the pair (loc, scale): mean and standard
    deviation of the posterior, each of the same shape.
    """
    precision = 1 / prior_scale**2 + 1 / r**2
    return (prior_loc / prior_scale**2 + m / r**2) / precision, precision.rsqrt()


exercise = Exercise(
    combine,
    hints=[
        "Add the two exponents, −(z − prior_loc)²/(2 prior_scale²) and −(z − m)²/(2 r²). The sum is a quadratic in z. "
        "What stands before z², and where is its top?",
        "What stands before −½ z² is the precision, 1/scale² = 1/prior_scale² + 1/r². The precisions are also the "
        "weights of the two means in loc.",
        "With that precision, loc = scale² (prior_loc/prior_scale² + m/r²) and scale = 1/√precision: precision.rsqrt() "
        "or precision ** -0.5.",
    ],
)


@exercise.check
def _(attempt, generator):
    z = np.linspace(-16, 16, 4001)  # so fine that the sums below are exact integrals, as far as float64 can tell

    def want(*given):
        """Mean and standard deviation of the product, on a grid."""
        prior_loc, prior_scale, m, r = (tensor.numpy()[..., None] for tensor in given)
        log_p = -(((z - prior_loc) / prior_scale) ** 2 + ((z - m) / r) ** 2) / 2
        weight = np.exp(log_p - log_p.max(-1, keepdims=True))
        weight /= weight.sum(-1, keepdims=True)
        loc = (weight * z).sum(-1)
        scale = np.sqrt((weight * (z - loc[..., None]) ** 2).sum(-1))
        return torch.from_numpy(loc), torch.from_numpy(scale)

    def draw(number, *shape):
        locs, scales = number(0.5, 3, 2, *shape, generator=generator), number(0.4, 2, 2, *shape, generator=generator)
        return locs[0], scales[0], -locs[1], scales[1] + 0.2  # unlike the prior, else it does not show which is which

    given = draw(inputs.tenth, 1)
    what = "for prior_loc {}, prior_scale {}, m {}, r {}".format(*map(inputs.numbers, given))
    yield from inputs.pair("combine", what, ("loc", "scale"), torch.float64, attempt(*given), want(*given))
    for d, batch, dtype in inputs.SHAPES:
        given = draw(inputs.uniform, *batch, d)
        what = f"for numbers of shape {(*batch, d)}"
        yield from inputs.pair("combine", what, ("loc", "scale"), dtype, attempt(*_to(dtype, *given)), want(*given))


@exercise.alternative
def as_the_companion_does(prior_loc, prior_scale, m, r):
    weight = (prior_scale / r) ** 2
    return (prior_loc + weight * m) / (1 + weight), prior_scale * (1 + weight).rsqrt()


@exercise.alternative
def by_a_kalman_gain(prior_loc, prior_scale, m, r):
    """The message is an observation of z itself, m = z + noise, and the noise has the standard deviation r."""
    gain = prior_scale**2 / (prior_scale**2 + r**2)
    return prior_loc + gain * (m - prior_loc), (gain * r**2).sqrt()


@exercise.alternative
def from_the_logarithm(prior_loc, prior_scale, m, r):
    """The top and the curvature of the sum of the two logarithms, which is a parabola: one Newton step leads there."""

    def log_p(z):
        return (_log_normal(z, prior_loc, prior_scale) + _log_normal(z, m, r)).sum()

    start = torch.zeros_like(prior_loc)
    slope = torch.func.grad(log_p)
    rise, curvature = torch.func.jvp(slope, (start,), (torch.ones_like(start),))
    return start - rise / curvature, (-1 / curvature).sqrt()


def _mean_of(prior_loc, m, weight_of_prior, weight_of_message):
    """The mean of prior_loc and m with these weights."""
    return (weight_of_prior * prior_loc + weight_of_message * m) / (weight_of_prior + weight_of_message)


@exercise.mistake(
    "You added 1/scale: that takes standard deviations for variances. The exponents hold squares: "
    "1/scale² = 1/prior_scale² + 1/r²."
)
def scales_as_variances(prior_loc, prior_scale, m, r):
    return _mean_of(prior_loc, m, 1 / prior_scale, 1 / r), (1 / prior_scale + 1 / r).rsqrt()


@exercise.mistake(
    "You added 1/prior_scale and 1/r, and turned the sum over. It is the precisions that add, one over the square: "
    "1/scale² = 1/prior_scale² + 1/r²."
)
def inverse_scales_added(prior_loc, prior_scale, m, r):
    return _mean_of(prior_loc, m, 1 / prior_scale, 1 / r), 1 / (1 / prior_scale + 1 / r)


@exercise.mistake(
    "Your scale is right, but the means are weighted with 1/scale. The weights are the precisions: 1/prior_scale² and "
    "1/r²."
)
def weights_not_squared(prior_loc, prior_scale, m, r):
    return _mean_of(prior_loc, m, 1 / prior_scale, 1 / r), combine(prior_loc, prior_scale, m, r)[1]


@exercise.mistake(
    "Your scale is right, but the weights are swapped: prior_loc counts as the prior is certain, 1/prior_scale²."
)
def weights_swapped(prior_loc, prior_scale, m, r):
    return _mean_of(prior_loc, m, r**-2, prior_scale**-2), combine(prior_loc, prior_scale, m, r)[1]


@exercise.mistake(
    "Your scale is right, but loc is the plain average of the two means. The more certain one counts more: the weights "
    "are the precisions, 1/prior_scale² and 1/r²."
)
def average_of_the_means(prior_loc, prior_scale, m, r):
    return (prior_loc + m) / 2, combine(prior_loc, prior_scale, m, r)[1]


@exercise.mistake("Your scale is right, but your loc is the sum of the means. It lies between them: weights add to 1.")
def means_added(prior_loc, prior_scale, m, r):
    return prior_loc + m, combine(prior_loc, prior_scale, m, r)[1]


@exercise.mistake(
    "Your scale is right, but loc is not divided by the precision: scale² (prior_loc/prior_scale² + m/r²). Two equal "
    "means have to give that mean again."
)
def mean_not_normalised(prior_loc, prior_scale, m, r):
    return prior_loc / prior_scale**2 + m / r**2, combine(prior_loc, prior_scale, m, r)[1]


@exercise.mistake(
    "Your scale is right, but loc is multiplied by scale where it should be scale²: the sum of precisions is divided "
    "out, and that is 1/scale²."
)
def mean_times_the_scale(prior_loc, prior_scale, m, r):
    loc, scale = combine(prior_loc, prior_scale, m, r)
    return loc / scale, scale


@exercise.mistake(
    "Your scale is right, but loc moves away from m. The surprise is m − prior_loc, and m pulls loc: prior_loc + "
    "gain (m − prior_loc), with the gain prior_scale²/(prior_scale² + r²)."
)
def pushed_away_from_the_message(prior_loc, prior_scale, m, r):
    loc, scale = combine(prior_loc, prior_scale, m, r)
    return 2 * prior_loc - loc, scale


@exercise.mistake("Your loc is right, but scale² is returned for scale: take the root of the variance, 1/precision.")
def variance_for_scale(prior_loc, prior_scale, m, r):
    loc, scale = combine(prior_loc, prior_scale, m, r)
    return loc, scale**2


@exercise.mistake("Your loc is right, but you returned the precision 1/scale². The scale is one over its root.")
def precision_for_scale(prior_loc, prior_scale, m, r):
    loc, scale = combine(prior_loc, prior_scale, m, r)
    return loc, scale**-2


@exercise.mistake("Your loc is right, but for the scale you took the root of the precision. It is one over that root.")
def root_of_the_precision(prior_loc, prior_scale, m, r):
    loc, scale = combine(prior_loc, prior_scale, m, r)
    return loc, 1 / scale


@exercise.mistake(
    "Your loc is right, but you averaged the precisions. They add: two messages tell more than one, and even of two "
    "alike the scale becomes smaller, by √2."
)
def precisions_averaged(prior_loc, prior_scale, m, r):
    loc, scale = combine(prior_loc, prior_scale, m, r)
    return loc, scale * math.sqrt(2)


@exercise.mistake(
    "Your loc is right, but you added the variances, as for a sum of two numbers. Here two densities of the SAME "
    "number are multiplied: it is the precisions that add."
)
def variances_added(prior_loc, prior_scale, m, r):
    return combine(prior_loc, prior_scale, m, r)[0], torch.hypot(prior_scale, r)


@exercise.mistake(
    "Yours is the sum of two independent numbers: the means and the variances are added. Here two densities of the "
    "same number are multiplied: add the precisions."
)
def sum_of_two_numbers(prior_loc, prior_scale, m, r):
    return prior_loc + m, torch.hypot(prior_scale, r)


@exercise.mistake(
    "You added the densities where they are multiplied. The mean and the scale of a mixture grow with the distance of "
    "the two means; those of a product add precisions: 1/scale² = 1/prior_scale² + 1/r²."
)
def mixture_for_product(prior_loc, prior_scale, m, r):
    var = (prior_scale**2 + r**2) / 2 + ((prior_loc - m) / 2) ** 2
    return (prior_loc + m) / 2, var.sqrt()


@exercise.mistake(
    "Both halves are plain averages. The more certain density counts more, and the product is narrower than either: "
    "add the precisions."
)
def averages_of_both(prior_loc, prior_scale, m, r):
    return (prior_loc + m) / 2, (prior_scale + r) / 2


@exercise.mistake(
    "Your loc is right, but your scale is the average of two. The product is narrower than either of them."
)
def average_of_the_scales(prior_loc, prior_scale, m, r):
    return combine(prior_loc, prior_scale, m, r)[0], (prior_scale + r) / 2


@exercise.mistake(
    "Your loc is right, but your scale is prior_scale times r. The product of two normal densities has the scale "
    "prior_scale r/√(prior_scale² + r²)."
)
def product_of_the_scales(prior_loc, prior_scale, m, r):
    return combine(prior_loc, prior_scale, m, r)[0], prior_scale * r


@exercise.mistake(
    "Your loc is right, but (1 − gain) is the share of the VARIANCE that is left. The scale is prior_scale √(1 − gain)."
)
def share_without_root(prior_loc, prior_scale, m, r):
    loc, scale = combine(prior_loc, prior_scale, m, r)
    return loc, scale**2 / prior_scale


@exercise.mistake(
    "Your loc is right, but your scale grew: the share of the variance that is left is 1 − gain, not 1 + gain. A "
    "message never makes a normal state less certain."
)
def scale_grows(prior_loc, prior_scale, m, r):
    loc, scale = combine(prior_loc, prior_scale, m, r)
    return loc, (2 * prior_scale**2 - scale**2).sqrt()


@exercise.mistake("Your scale is right, but your mean is still that of the prior. The message at m pulls it over.")
def prior_mean_kept(prior_loc, prior_scale, m, r):
    return prior_loc, combine(prior_loc, prior_scale, m, r)[1]


@exercise.mistake("Your loc is right, but your scale is still that of the prior. The message makes z more certain.")
def prior_scale_kept(prior_loc, prior_scale, m, r):
    return combine(prior_loc, prior_scale, m, r)[0], prior_scale + 0


@exercise.mistake(
    "You returned the message as it came. The prior knows of z as well: add its precision, 1/prior_scale²."
)
def prior_forgotten(prior_loc, prior_scale, m, r):
    return m + 0, r + 0


@exercise.mistake("You returned the prior as it was. The message tells something new of z: add its precision, 1/r².")
def message_forgotten(prior_loc, prior_scale, m, r):
    return prior_loc + 0, prior_scale + 0


@exercise.mistake("The pair is in the wrong order: return the posterior's loc first, and then its scale.")
def scale_in_front(prior_loc, prior_scale, m, r):
    return combine(prior_loc, prior_scale, m, r)[::-1]


# 3 ------------------------------------------------------------------------------------------------------------------


def log_weight(x, z, prior_loc, prior_scale, q_loc, q_scale, emit_loc, emit_scale):
    """What one sampled path of states says about log p(x): the logarithm of its weight.

        log w = log p(x, z) − log q(z | x),   z ~ q(z | x)

    Its mean over z is the ELBO. All densities are normal, with independent numbers:

        p(x, z) = Πₜ N(zₜ; prior) N(xₜ; emission),   q(z | x) = Πₜ N(zₜ; q)

    x: the observations, shape (*batch, T, p), with any batch axes.  z: the sampled
    states, shape (*batch, T, d).  prior_loc, prior_scale: mean and standard deviation
    of zₜ as the transition gives them, shape (*batch, T, d).  q_loc, q_scale: those of
    the posterior that z has been drawn from, of the same shape.  emit_loc: the mean of
    xₜ given zₜ, shape (*batch, T, p).  emit_scale: its standard deviation, shape (p,).
    Returns log w for each path, shape (*batch), in nats and with all constants.
    """

    def log_normal(value, loc, scale):
        each = -(((value - loc) / scale) ** 2) / 2 - scale.log() - math.log(2 * math.pi) / 2
        return each.sum((-2, -1))

    log_p = log_normal(x, emit_loc, emit_scale) + log_normal(z, prior_loc, prior_scale)
    return log_p - log_normal(z, q_loc, q_scale)


exercise = Exercise(
    log_weight,
    hints=[
        "There are three densities: x has one, and z has two. Which two are multiplied in p(x, z), and which one is "
        "divided out?",
        "It is log w = log N(x; emission) + log N(z; prior) − log N(z; q). Each term is a sum over the times and over "
        "the numbers at each time, so two axes vanish.",
        "Normal(loc, scale).log_prob(value).sum((-2, -1)) is one of the three. Both terms of z are taken at the SAME "
        "sampled z: no KL is needed, its mean comes out by itself.",
    ],
)


@exercise.check
def _(attempt, generator):
    def draw(T, d, p, batch):
        z, prior_loc, q_loc = inputs.normal(3, *batch, T, d, generator=generator)
        prior_scale, q_scale = inputs.uniform(0.5, 1.8, 2, *batch, T, d, generator=generator)
        x, emit_loc = inputs.normal(2, *batch, T, p, generator=generator)
        emit_scale = inputs.uniform(0.5, 1.8, p, generator=generator)
        return x, z, prior_loc, prior_scale, q_loc, q_scale, emit_loc, emit_scale

    def want(*given):
        *paths, emit_scale = given
        batch, paths = given[0].shape[:-2], [part.flatten(0, -3) if part.ndim > 2 else part[None] for part in paths]
        weights = [
            _density(x, emit_loc, emit_scale) * _density(z, *prior) / _density(z, *q)
            for x, z, *prior_q, emit_loc in zip(*paths)
            for prior, q in [(prior_q[:2], prior_q[2:])]
        ]
        return torch.tensor(weights, dtype=torch.float64).log().reshape(batch)

    bounds = (1, 2), (-1, 1), (-1, 0), (0.5, 0.9), (0.2, 1), (1.1, 1.5), (0.1, 0.9), (1.6, 2)
    *given, emit_scale = (inputs.tenth(*bound, 1, 1, generator=generator) for bound in bounds)
    given = *given, emit_scale[0]
    names = ("x", "z", "prior_loc", "prior_scale", "q_loc", "q_scale", "emit_loc", "emit_scale")
    said = ", ".join(f"{name} {number.item():.1f}" for name, number in zip(names, given))
    yield inputs.case(f"log_weight for one state of one number, {said}", torch.float64, attempt(*given), want(*given))
    for T, d, p, batch, dtype in (
        (3, 2, 2, (), torch.float64),
        (3, 3, 3, (3,), torch.float64),  # all alike: what fits here by accident is seen to be wrong
        (4, 2, 3, (2, 3), torch.float64),
        (3, 2, 1, (4,), torch.float32),
    ):
        given = draw(T, d, p, batch)
        what = f"log_weight for x of shape {tuple(given[0].shape)} and z of {tuple(given[1].shape)}"
        yield inputs.case(what, dtype, attempt(*_to(dtype, *given)), want(*given))

    x, z, prior_loc, prior_scale, *_, emit_scale = draw(3, 1, 1, (4,))  # z is seen through noise: x = z + N(0, …)
    var = 1 / (1 / prior_scale**2 + 1 / emit_scale**2)
    q_loc, q_scale = var * (prior_loc / prior_scale**2 + x / emit_scale**2), var.sqrt()
    z = q_loc + q_scale * z
    seen = [_density(*parts) for parts in zip(x, prior_loc, torch.hypot(prior_scale, emit_scale))]
    what = "log_weight where q is the exact posterior, so that it is log p(x) for any z,"
    answer = attempt(x, z, prior_loc, prior_scale, q_loc, q_scale, z, emit_scale)
    yield inputs.case(what, torch.float64, answer, torch.tensor(seen, dtype=torch.float64).log())


@exercise.alternative
def by_independent_normals(x, z, prior_loc, prior_scale, q_loc, q_scale, emit_loc, emit_scale):
    prior, q = Independent(Normal(prior_loc, prior_scale), 2), Independent(Normal(q_loc, q_scale), 2)
    return Independent(Normal(emit_loc, emit_scale), 2).log_prob(x) + prior.log_prob(z) - q.log_prob(z)


@exercise.alternative
def one_time_after_another(x, z, prior_loc, prior_scale, q_loc, q_scale, emit_loc, emit_scale):
    total = torch.zeros(x.shape[:-2], dtype=x.dtype)
    for t in range(x.shape[-2]):
        at = (..., t, slice(None))
        ratio = _log_normal(z[at], prior_loc[at], prior_scale[at]) - _log_normal(z[at], q_loc[at], q_scale[at])
        total = total + ratio.sum(-1) + _log_normal(x[at], emit_loc[at], emit_scale).sum(-1)
    return total


@exercise.alternative
def constants_of_z_cancelled(x, z, prior_loc, prior_scale, q_loc, q_scale, emit_loc, emit_scale):
    ratio = ((z - q_loc) / q_scale) ** 2 / 2 - ((z - prior_loc) / prior_scale) ** 2 / 2 + (q_scale / prior_scale).log()
    return ratio.sum((-1, -2)) - emission_nll(x, emit_loc, 2 * emit_scale.log()).sum(-1)


def _parts(x, z, prior_loc, prior_scale, q_loc, q_scale, emit_loc, emit_scale):
    """The three logarithms, of x, of z before and of z after x has been seen, number by number."""
    return (
        _log_normal(x, emit_loc, emit_scale),
        _log_normal(z, prior_loc, prior_scale),
        _log_normal(z, q_loc, q_scale),
    )


def _sums(*given):
    return [part.sum((-2, -1)) for part in _parts(*given)]


def _kl(prior_loc, prior_scale, q_loc, q_scale):
    return kl_divergence(Normal(q_loc, q_scale), Normal(prior_loc, prior_scale)).sum((-2, -1))


@exercise.mistake(
    "The sign of log q is wrong: z has been drawn from q, and its density is divided out: log p(x, z) − log q(z | x)."
)
def q_added(*given):
    seen, prior, q = _sums(*given)
    return seen + prior + q


@exercise.mistake(
    "You took KL(q‖p) between the two densities of z. That is the mean over all z; the weight belongs to the z that "
    "was sampled: log N(z; prior) − log N(z; q)."
)
def kl_for_the_sampled_ratio(*given):
    return _sums(*given)[0] - _kl(*given[2:6])


@exercise.mistake(
    "You added KL(q‖p) between the two densities of z. The weight has no KL: it takes log N(z; prior) − log N(z; q) at "
    "the z that was sampled."
)
def kl_added(*given):
    return _sums(*given)[0] + _kl(*given[2:6])


@exercise.mistake(
    "You left out log q(z | x): yours is log p(x, z). A sample of q stands for more states where q is low, and that is "
    "what the weight corrects: − log q(z | x)."
)
def q_forgotten(*given):
    seen, prior, _ = _sums(*given)
    return seen + prior


@exercise.mistake("You left out log N(z; prior): the joint density p(x, z) is that of z times that of x given z.")
def prior_not_used(*given):
    seen, _, q = _sums(*given)
    return seen - q


@exercise.mistake(
    "You left out log N(x; emission): yours compares the two densities of z and leaves out what was seen."
)
def emission_not_used(*given):
    _, prior, q = _sums(*given)
    return prior - q


@exercise.mistake(
    "You returned log p(x | z) alone. The weight also asks how likely z is before x has been seen, compared with q: "
    "+ log N(z; prior) − log N(z; q)."
)
def emission_alone(*given):
    return _sums(*given)[0]


@exercise.mistake(
    "The prior and q are swapped: p(x, z) holds the prior, so it is + log N(z; prior), and q is divided out, − log q."
)
def prior_and_q_swapped(*given):
    seen, prior, q = _sums(*given)
    return seen + q - prior


@exercise.mistake(
    "The sign of log p(x | z) is wrong: yours is a loss there. The weight grows with each density in p(x, z)."
)
def emission_subtracted(*given):
    seen, prior, q = _sums(*given)
    return prior - q - seen


@exercise.mistake("The sign is turned over: log w = log p(x, z) − log q(z | x), to be made large. Yours is a loss.")
def loss_returned(*given):
    return -log_weight(*given)


@exercise.mistake(
    "You returned the weight itself. Keep its logarithm: for a long sequence exp(log w) is 0 in floating point."
)
def weight_without_logarithm(*given):
    return log_weight(*given).exp()


@exercise.mistake(
    "You divided one logarithm by another. The logarithm of the quotient p(x, z)/q(z | x) is their DIFFERENCE."
)
def logarithms_divided(*given):
    seen, prior, q = _sums(*given)
    return (seen + prior) / q


@exercise.mistake("You took the mean over time. The densities of all times are multiplied: sum over time as well.")
def mean_over_time(x, *given):
    return log_weight(x, *given) / x.shape[-2]


@exercise.mistake("You took the mean over the numbers at each time. Their densities are multiplied: sum them.")
def mean_over_the_numbers(*given):
    seen, prior, q = (part.mean(-1).sum(-1) for part in _parts(*given))
    return seen + prior - q


@exercise.mistake("You took means over time and numbers. All those densities are multiplied: two sums, and no mean.")
def mean_over_both(*given):
    seen, prior, q = (part.mean((-2, -1)) for part in _parts(*given))
    return seen + prior - q


@exercise.mistake("You summed over the last axis alone. A path has one weight: sum over time too, .sum((-2, -1)).")
def times_kept_apart(*given):
    seen, prior, q = (part.sum(-1) for part in _parts(*given))
    return seen + prior - q


@exercise.mistake(
    "You summed over the whole batch. Each path has a weight of its own: .sum((-2, -1)), the last two axes."
)
def all_paths_added(*given):
    return log_weight(*given).sum()


@exercise.mistake("You took the last time alone. Every time has its densities, and the weight is their product.")
def last_time_alone(*given):
    seen, prior, q = (part[..., -1, :].sum(-1) for part in _parts(*given))
    return seen + prior - q


@exercise.mistake(
    "You took the scales for variances, and their roots for standard deviations. Each scale is a standard deviation "
    "already."
)
def scales_for_variances(x, z, prior_loc, prior_scale, q_loc, q_scale, emit_loc, emit_scale):
    return log_weight(x, z, prior_loc, prior_scale.sqrt(), q_loc, q_scale.sqrt(), emit_loc, emit_scale.sqrt())


@exercise.mistake("You squared the scales. Normal(loc, scale) takes standard deviations, and these are such already.")
def scales_squared(x, z, prior_loc, prior_scale, q_loc, q_scale, emit_loc, emit_scale):
    return log_weight(x, z, prior_loc, prior_scale**2, q_loc, q_scale**2, emit_loc, emit_scale**2)


@exercise.mistake(
    "Your two terms of z are right, but you took emit_scale for a variance. It is the standard deviation already: "
    "exp(½ emit_log_sigma)."
)
def emission_scale_for_variance(x, z, prior_loc, prior_scale, q_loc, q_scale, emit_loc, emit_scale):
    return log_weight(x, z, prior_loc, prior_scale, q_loc, q_scale, emit_loc, emit_scale.sqrt())


@exercise.mistake(
    "Your two terms of z are right, but you took emit_scale for the logarithm of a variance. It is the standard "
    "deviation itself."
)
def emission_scale_for_log_variance(x, z, prior_loc, prior_scale, q_loc, q_scale, emit_loc, emit_scale):
    return log_weight(x, z, prior_loc, prior_scale, q_loc, q_scale, emit_loc, (emit_scale / 2).exp())


@exercise.mistake(
    "The constant of x is missing. Those of the two densities of z cancel, but − ½ log 2π for each number of x stays."
)
def constant_of_x_missing(x, *given):
    return log_weight(x, *given) + LOG_TWO_PI / 2 * x.shape[-2] * x.shape[-1]


@exercise.mistake(
    "The logarithms of the scales are missing: log N(z; loc, scale²) = −½ ((z − loc)/scale)² − log scale − ½ log 2π."
)
def logarithms_of_scales_missing(*given):
    x, _, _, prior_scale, _, q_scale, _, emit_scale = given
    logs = (prior_scale.log() - q_scale.log()).sum((-2, -1)) + x.shape[-2] * emit_scale.log().sum()
    return log_weight(*given) + logs


@exercise.mistake("The ½ of the squares is missing: a normal density falls as exp(−½ ((z − loc)/scale)²).")
def squares_of_all_not_halved(*given):
    x, z, prior_loc, prior_scale, q_loc, q_scale, emit_loc, emit_scale = given
    triples = (x, emit_loc, emit_scale), (z, prior_loc, prior_scale), (z, q_loc, q_scale)
    seen, prior, q = ((((value - loc) / scale) ** 2).sum((-2, -1)) / 2 for value, loc, scale in triples)
    return log_weight(*given) - seen - prior + q


@exercise.mistake(
    "You took log q at its own mean, where it is always largest. Both densities of z are taken at the sampled z."
)
def q_at_its_mean(x, z, prior_loc, prior_scale, q_loc, q_scale, emit_loc, emit_scale):
    q = _log_normal(q_loc, q_loc, q_scale).sum((-2, -1))
    return q_forgotten(x, z, prior_loc, prior_scale, q_loc, q_scale, emit_loc, emit_scale) - q


# 4 ------------------------------------------------------------------------------------------------------------------


def importance_bound(log_weights):
    """A lower bound of log p(x) that more samples make tighter, from their log-weights.

        bound = log ( (w₁ + … + w_K)/K )

    In the mean over samples it lies below log p(x); with K = 1 that is the ELBO. The
    weights of a long sequence are too small or too large for a float, exp(−1000) is 0
    and exp(1000) is ∞; their logarithms are not.

    log_weights: log w₁, …, log w_K along the first axis, shape (K, *batch), with any
    batch axes and K at least 1.  Returns the bound for each sequence, shape (*batch),
    finite wherever the log_weights are.
    """
    return log_weights.logsumexp(0) - math.log(len(log_weights))


exercise = Exercise(
    importance_bound,
    hints=[
        "The mean of the weights stands inside the logarithm. What happens to it when all the log-weights are 1000 "
        "lower, and what happens in floating point?",
        "Take out the largest, M: log Σ exp(log w) = M + log Σ exp(log w − M). Now no exponent is above 0, and one is "
        "0. The division by K becomes − log K.",
        "The function torch.logsumexp(log_weights, 0) takes M out by itself. Subtract math.log(K), with "
        "K = len(log_weights), since the samples lie along the first axis.",
    ],
)


@exercise.check
def _(attempt, generator):
    def want(log_weights):
        """The weights in decimal numbers, whose exponents have room for exp(−1000)."""
        columns = log_weights.reshape(len(log_weights), -1).T.tolist()
        means = [sum(Decimal(number).exp() for number in column) / len(column) for column in columns]
        return torch.tensor([float(mean.ln()) for mean in means], dtype=torch.float64).reshape(log_weights.shape[1:])

    log_weights = inputs.tenth(-3, 2, 3, generator=generator)
    what = f"importance_bound of {inputs.numbers(log_weights)}"
    yield inputs.case(what, torch.float64, attempt(log_weights), want(log_weights))
    for K, batch, level, dtype in (
        (3, (3,), 0, torch.float64),  # as many samples as sequences: the wrong axis fits by accident
        (5, (2, 4), 0, torch.float64),
        (1, (4,), 0, torch.float64),
        (4, (), -1000, torch.float64),
        (6, (3,), 1000, torch.float64),
        (5, (4,), -200, torch.float32),
    ):
        spread = 2 * inputs.normal(K, *batch, generator=generator)
        around = level * (1 + inputs.uniform(0, 0.05, *batch, generator=generator))
        log_weights = (spread + around).to(dtype)
        size = f", around {level}".replace("-", "−") if level else ""
        what = f"importance_bound of log_weights of shape {(K, *batch)}{size}"
        yield inputs.case(what, dtype, attempt(log_weights), want(log_weights.double()))
    far = inputs.normal(4, 2, generator=generator) + torch.tensor([-1000.0, 1000.0])
    what = "importance_bound of two sequences, one around −1000 and one around 1000,"
    yield inputs.case(what, torch.float64, attempt(far), want(far))


@exercise.alternative
def largest_taken_out(log_weights):
    top = log_weights.max(0).values
    return top + (log_weights - top).exp().mean(0).log()


@exercise.alternative
def one_sample_after_another(log_weights):
    total, *others = log_weights
    for log_w in others:
        total = torch.logaddexp(total, log_w)
    return total - math.log(len(log_weights))


@exercise.alternative
def elbo_and_what_it_lacks(log_weights):
    """The ELBO, plus log mean exp of the deviations from it: these are small, however small the weights."""
    elbo = log_weights.mean(0, keepdim=True)
    return (elbo + torch.logsumexp(log_weights - elbo - math.log(len(log_weights)), 0))[0]


@exercise.mistake(
    "You took the mean of the log-weights: that is the ELBO, whatever K is. The mean is taken of the weights, and the "
    "logarithm after it."
)
def mean_of_logarithms(log_weights):
    return log_weights.mean(0)


@exercise.mistake(
    "− log K is missing: yours is the logarithm of the SUM of weights, and grows with K by itself. For the mean, "
    "subtract math.log(K)."
)
def logarithm_of_the_sum(log_weights):
    return log_weights.logsumexp(0)


@exercise.mistake("The sign of log K is wrong: the sum of weights is DIVIDED by K, so its logarithm loses log K.")
def log_of_K_added(log_weights):
    return log_weights.logsumexp(0) + math.log(len(log_weights))


@exercise.mistake(
    "You subtracted K itself. To divide a number by K is to subtract log K from its logarithm: math.log(K)."
)
def K_subtracted(log_weights):
    return log_weights.logsumexp(0) - len(log_weights)


@exercise.mistake("You divided the logarithm by K. It is the sum of the weights that is divided: subtract log K.")
def logarithm_divided_by_K(log_weights):
    return log_weights.logsumexp(0) / len(log_weights)


@exercise.mistake(
    "You divided the log-weights by K before exp: that takes the K-th root of each weight. Divide the weights: "
    "subtract log K."
)
def log_weights_divided_by_K(log_weights):
    return (log_weights / len(log_weights)).logsumexp(0)


@exercise.mistake(
    "The formula is right, but exp(−1000) is 0 in floating point and exp(1000) is ∞. Let torch.logsumexp take out the "
    "largest log-weight before exp."
)
def exponentials_out_of_range(log_weights):
    return log_weights.exp().mean(0).log()


@exercise.mistake(
    "− log K is missing, and exp(−1000) is 0 in floating point: "
    "torch.logsumexp(log_weights, 0) - math.log(K) mends both."
)
def exponentials_summed_out_of_range(log_weights):
    return log_weights.exp().sum(0).log()


@exercise.mistake(
    "You took out one maximum for the whole batch. A sequence far below it still underflows to log 0: take the largest "
    "of each sequence, log_weights.max(0)."
)
def one_maximum_for_all(log_weights):
    top = log_weights.max()
    return top + (log_weights - top).exp().mean(0).log()


@exercise.mistake("You took out the largest log-weight, but did not add it again: M + log mean exp(log w − M).")
def maximum_not_added(log_weights):
    return importance_bound(log_weights) - log_weights.max(0).values


@exercise.mistake(
    "You took the largest log-weight M out before exp, and then subtracted it once more. After the logarithm M is "
    "added: M + log mean exp(log w − M)."
)
def maximum_taken_out_twice(log_weights):
    return importance_bound(log_weights) - 2 * log_weights.max(0).values


@exercise.mistake(
    "You took the largest log-weight alone. It is what log Σ w comes near to, but all K weights count, and their sum "
    "is divided by K."
)
def largest_alone(log_weights):
    return log_weights.max(0).values


@exercise.mistake("You subtracted log K from the largest log-weight. The other weights belong to the sum as well.")
def largest_less_log_of_K(log_weights):
    return log_weights.max(0).values - math.log(len(log_weights))


@exercise.mistake(
    "You averaged over the last axis, which holds sequences. The K samples lie along the FIRST: logsumexp(0)."
)
def last_axis_for_samples(log_weights):
    return log_weights.logsumexp(-1) - math.log(log_weights.shape[-1])


@exercise.mistake(
    "You summed along the first axis and divided by the length of the last. K is the length of the first: "
    "len(log_weights)."
)
def length_of_the_last_axis(log_weights):
    return log_weights.logsumexp(0) - math.log(log_weights.shape[-1])


@exercise.mistake(
    "You divided by the number of all entries. The sum has K weights for each sequence: K = len(log_weights)."
)
def number_of_all_entries(log_weights):
    return log_weights.logsumexp(0) - math.log(log_weights.numel())


@exercise.mistake(
    "You put all sequences of the batch into one sum. Each has its own bound: sum over the first axis alone."
)
def all_sequences_in_one(log_weights):
    return log_weights.flatten().logsumexp(0) - math.log(log_weights.numel())


@exercise.mistake(
    "You averaged the bounds of all sequences at the end. Each sequence has its own: return shape (*batch)."
)
def bounds_averaged(log_weights):
    return importance_bound(log_weights).mean()


@exercise.mistake("You returned the mean weight itself. Keep the logarithm: exp of it is 0 or ∞ for a long sequence.")
def mean_weight_without_logarithm(log_weights):
    return importance_bound(log_weights).exp()


@exercise.mistake(
    "The sign is turned over: yours is the loss that is minimised. The bound is log of the mean weight, with a plus."
)
def bound_negated(log_weights):
    return -importance_bound(log_weights)


@exercise.mistake(
    "Your log K is a logarithm to the base 2. The log-weights are in nats: take the natural one, math.log(K)."
)
def binary_logarithm_of_K(log_weights):
    return log_weights.logsumexp(0) - math.log2(len(log_weights))


@exercise.mistake(
    "You averaged the log-weights with softmax weights. That stands in the gradient of the bound; the bound is "
    "log Σ w − log K."
)
def weighted_mean_of_logarithms(log_weights):
    return (log_weights.softmax(0) * log_weights).sum(0)


# 5 ------------------------------------------------------------------------------------------------------------------


def overshooting_kl(kl, horizon):
    """The KL of latent overshooting: each state meets priors from near and from far.

        Σₜ mean over d ≤ min(t, L) of KL(q(zₜ) ‖ p(zₜ | zₜ₋d)),   t = 1, …, T

    d is the distance in time, and L the horizon: with L = 1 it is the KL of the ELBO.
    The first states have few others before them, so they have fewer distances.

    kl: kl[..., t − 1, d − 1] is KL(q(zₜ) ‖ p(zₜ | zₜ₋d)), shape (*batch, T, T), with
    any batch axes.  Row t has the distances d = 1, …, t; where d > t, nothing lies so
    far back, and the entry is ∞.  horizon: the number L, an int of at least 1; it may
    be larger than T.  Returns the sum over t, of the means over d, shape (*batch).
    """
    near = kl.tril()[..., :horizon]
    distances = torch.arange(1, kl.shape[-1] + 1, dtype=kl.dtype, device=kl.device).clamp(max=horizon)
    return (near.sum(-1) / distances).sum(-1)


exercise = Exercise(
    overshooting_kl,
    hints=[
        "Write down for T = 4 and L = 2 which entries count: 1 in the first row, and 2 in each of the others. What is "
        "each row divided by?",
        "Row t holds min(t, L) entries that count, the first ones. A loop over the rows will do: "
        "kl[..., i, : min(i + 1, horizon)].mean(-1), to be added over i = 0, …, T − 1.",
        "Without a loop: kl.tril() has 0 for each entry that does not exist (kl * mask would not do, ∞ · 0 is NaN). "
        "Sum its first L columns, and divide row t by min(t, L), torch.arange(1, T + 1).clamp(max=horizon).",
    ],
)


def _divergences(*shape, generator):
    """Divergences of all states and distances, (*shape, T, T) with T at the end of shape, and ∞ where there is none."""
    kl = inputs.uniform(0.1, 3, *shape, shape[-1], generator=generator)
    return kl.masked_fill(torch.ones_like(kl, dtype=torch.bool).triu(1), math.inf)


@exercise.check
def _(attempt, generator):
    def want(kl, horizon):
        """For each entry that counts, its share: 1 over the number of entries in its row that count."""
        rows = kl.reshape(-1, *kl.shape[-2:]).tolist()
        sums = [
            math.fsum(
                path[t - 1][d - 1] / sum(e <= horizon for e in range(1, t + 1))
                for t in range(1, len(path) + 1)
                for d in range(1, t + 1)
                if d <= horizon
            )
            for path in rows
        ]
        return torch.tensor(sums, dtype=torch.float64).reshape(kl.shape[:-2])

    kl = inputs.tenth(0.1, 3, 3, 3, generator=generator)
    kl = kl.masked_fill(torch.ones_like(kl, dtype=torch.bool).triu(1), math.inf)
    rows = "; ".join(" ".join(f"{value:.1f}".replace("inf", "∞") for value in row) for row in kl.tolist())
    what = f"overshooting_kl of ({rows}) with horizon 2"
    yield inputs.case(what, torch.float64, attempt(kl, 2), want(kl, 2))
    for T, horizon, batch, dtype in (
        (5, 3, (), torch.float64),
        (4, 4, (4,), torch.float64),  # all alike: a mean over the wrong axis fits by accident
        (6, 1, (3,), torch.float64),
        (4, 7, (2, 3), torch.float64),
        (5, 2, (3,), torch.float32),
    ):
        kl = _divergences(*batch, T, generator=generator)
        what = f"overshooting_kl of shape {tuple(kl.shape)} with horizon {horizon}"
        yield inputs.case(what, dtype, attempt(kl.to(dtype), horizon), want(kl, horizon))
    each = inputs.uniform(
        0.1, 3, 2, 6, generator=generator
    )  # where all distances cost the same, the horizon is nothing
    kl = torch.where(_divergences(2, 6, generator=generator).isfinite(), each[..., None], math.inf)
    what = "overshooting_kl with horizon 4, of rows whose entries are all alike,"
    yield inputs.case(what, torch.float64, attempt(kl, 4), each.sum(-1))


@exercise.alternative
def row_by_row(kl, horizon):
    return sum(kl[..., t, : min(t + 1, horizon)].mean(-1) for t in range(kl.shape[-1]))


@exercise.alternative
def weights_for_all_entries(kl, horizon):
    counts = torch.ones(kl.shape[-2:], dtype=kl.dtype).tril() * (torch.arange(kl.shape[-1]) < horizon)
    return torch.einsum("...td,td->...", kl.masked_fill(counts == 0, 0), counts / counts.sum(-1, keepdim=True))


def _counting(kl):
    """1 for each entry that exists, row t having t of them, and the numbers t."""
    exists = torch.ones(kl.shape[-2:], dtype=kl.dtype).tril()
    return exists, exists.sum(-1)


def _rows(kl, horizon):
    """The sums over the distances of each row, and how many distances they have."""
    _, t = _counting(kl)
    return kl.tril()[..., :horizon].sum(-1), t.clamp(max=horizon)


@exercise.mistake(
    "You divided each row by the horizon. The first states have fewer distances: row t is divided by min(t, L), as "
    "many as there are."
)
def divided_by_the_horizon(kl, horizon):
    return _rows(kl, horizon)[0].sum(-1) / horizon


@exercise.mistake(
    "You divided row t by t, all distances that there are. Only those up to the horizon are summed: min(t, L)."
)
def divided_by_the_time(kl, horizon):
    return (_rows(kl, horizon)[0] / _counting(kl)[1]).sum(-1)


@exercise.mistake("You divided each row by T. A mean over the distances divides row t by their number, min(t, L).")
def divided_by_the_length(kl, horizon):
    return _rows(kl, horizon)[0].sum(-1) / kl.shape[-1]


@exercise.mistake(
    "You added up the distances where their mean is wanted: each state has the weight 1, whatever the horizon is. "
    "Divide row t by min(t, L)."
)
def distances_summed(kl, horizon):
    return _rows(kl, horizon)[0].sum(-1)


@exercise.mistake(
    "You ignored the horizon: only the distances d ≤ L count, the first L columns. Far priors are not asked for."
)
def all_distances(kl, horizon):
    return overshooting_kl(kl, kl.shape[-1])


@exercise.mistake(
    "One distance is missing: the horizon L itself counts, d = 1, …, L. The columns begin with d − 1 = 0, so these are "
    "kl[..., :horizon]."
)
def one_distance_too_few(kl, horizon):
    return overshooting_kl(kl, max(horizon - 1, 1))


@exercise.mistake("There is one distance too many: d goes from 1 to L, in the columns 0 to L − 1: kl[..., :horizon].")
def one_distance_too_many(kl, horizon):
    return overshooting_kl(kl, horizon + 1)


@exercise.mistake(
    "You took the distance 1 alone. That is the KL of the ELBO; overshooting averages it with the priors from farther "
    "back, up to the horizon."
)
def nearest_alone(kl, horizon):
    return kl[..., 0].sum(-1)


@exercise.mistake("You took the longest distance of each row alone. All of d = 1, …, min(t, L) count, as a mean.")
def longest_alone(kl, horizon):
    return sum(kl[..., t, min(t, horizon - 1)] for t in range(kl.shape[-1]))


@exercise.mistake(
    "You dropped the short distances and kept the longest. It is the far priors that the horizon cuts off: of each row "
    "the FIRST min(t, L) entries count."
)
def shortest_dropped(kl, horizon):
    return sum(kl[..., t, max(t + 1 - horizon, 0) : t + 1].mean(-1) for t in range(kl.shape[-1]))


@exercise.mistake(
    "Entries that do not exist got into your sum: in the first rows, fewer than L distances exist. Cut row t off at "
    "min(t, L), or at its diagonal with kl.tril()."
)
def missing_entries_counted(kl, horizon):
    near = kl[..., :horizon]
    return near.mean(-1).sum(-1)


@exercise.mistake(
    "You multiplied the entries that do not exist by 0, and ∞ · 0 is NaN. Leave them out: kl.tril(), or "
    "torch.where(mask, kl, 0)."
)
def missing_entries_times_zero(kl, horizon):
    exists, t = _counting(kl)
    return ((kl * exists)[..., :horizon].sum(-1) / t.clamp(max=horizon)).sum(-1)


@exercise.mistake("You took the mean over the times t. Their KL terms belong to one log p(x₁, …, x_T): sum them.")
def mean_over_the_times(kl, horizon):
    return overshooting_kl(kl, horizon) / kl.shape[-1]


@exercise.mistake(
    "You took one mean of all entries, which gives a row with many distances more weight. Take the mean of each row, "
    "and sum the means."
)
def one_mean_of_all_entries(kl, horizon):
    sums, counts = _rows(kl, horizon)
    return sums.sum(-1) / counts.sum()


@exercise.mistake(
    "You took one mean of all entries, times T. Rows with many distances get more weight so: take the mean of each "
    "row, and sum the means."
)
def one_mean_times_the_length(kl, horizon):
    sums, counts = _rows(kl, horizon)
    return sums.sum(-1) / counts.sum() * kl.shape[-1]


@exercise.mistake(
    "The first row is missing: the state z₁ has a prior as well, from the start of the sequence, at the distance 1."
)
def first_row_missing(kl, horizon):
    return overshooting_kl(kl, horizon) - kl[..., 0, 0]


@exercise.mistake("The last row is missing: there are T of them, t = 1, …, T, and range(1, T) ends before T.")
def last_row_missing(kl, horizon):
    sums, counts = _rows(kl, horizon)
    return (sums / counts)[..., :-1].sum(-1)


@exercise.mistake(
    "Only rows with all L distances are in your sum. The first states count as well, with those they have."
)
def short_rows_missing(kl, horizon):
    sums, counts = _rows(kl, horizon)
    return (sums / counts)[..., horizon - 1 :].sum(-1)


@exercise.mistake(
    "Yours is ∞ throughout. Either the first row is divided by 0, for with rows counted from 0 the number of distances "
    "is min(t + 1, L); or rows and columns are exchanged: kl[..., t, d − 1] has the time in front."
)
def infinite_throughout(kl, horizon):
    sums, _ = _rows(kl, horizon)
    return (sums / (_counting(kl)[1] - 1).clamp(max=horizon)).sum(-1)


@exercise.mistake(
    "You left out the last entry of the first rows: counted from 0, row t has t + 1 entries that exist. Cut it off at "
    "min(t + 1, L)."
)
def rows_cut_before_the_diagonal(kl, horizon):
    return sum(kl[..., t, : max(min(t, horizon), 1)].mean(-1) for t in range(kl.shape[-1]))


@exercise.mistake(
    "You counted the distance 1 in full and added the mean of the others. All of them share one weight: the mean over "
    "d = 1, …, min(t, L)."
)
def nearest_counted_in_full(kl, horizon):
    sums, counts = _rows(kl, horizon)
    return (kl[..., 0] + (sums - kl[..., 0]) / (counts - 1).clamp(min=1)).sum(-1)


@exercise.mistake("You took the largest KL of each row. What is wanted is the mean over its distances d ≤ min(t, L).")
def largest_of_each_row(kl, horizon):
    return kl.tril()[..., :horizon].max(-1).values.sum(-1)


@exercise.mistake("You added up the whole batch. Each sequence has its own KL: sum over the last two axes alone.")
def all_sequences_added(kl, horizon):
    return overshooting_kl(kl, horizon).sum()


@exercise.mistake("You kept the times apart. The KL of a sequence is their sum: .sum(-1) of the means of the rows.")
def rows_kept_apart(kl, horizon):
    sums, counts = _rows(kl, horizon)
    return sums / counts


@exercise.mistake("The sign is turned over: a KL is never negative, and the loss adds it to the reconstruction.")
def kl_negated(kl, horizon):
    return -overshooting_kl(kl, horizon)


# 6 ------------------------------------------------------------------------------------------------------------------


def coverage(samples, obs, level):
    """How often the interval of a sampled forecast holds what came true.

    The central interval holds the share `level` of the samples, and leaves as many of
    them below it as above. Between two samples, its ends are interpolated linearly, as
    torch.quantile does. Where a forecast is calibrated, its 90 % intervals hold 90 % of
    what comes true.

    samples: S samples of each forecast, shape (S, n, *batch), for n sequences and any
    further axes, such as the steps ahead.  obs: what came true, shape (n, *batch).
    level: the share of the samples, a float between 0 and 1.  Returns the share of the
    n sequences whose obs lies in its interval, from 0 to 1, shape (*batch).
    """
    low, high = (torch.quantile(samples, q, dim=0) for q in ((1 - level) / 2, (1 + level) / 2))
    return ((low <= obs) & (obs <= high)).to(obs.dtype).mean(0)


exercise = Exercise(
    coverage,
    hints=[
        "What is left out is 1 − level, half of it below and half above. Which two quantiles of the samples are the "
        "ends of the interval of 90 %?",
        "They are the quantiles (1 − level)/2 and (1 + level)/2, over the samples alone: torch.quantile(samples, q, "
        "dim=0) has the shape of obs.",
        "(low <= obs) & (obs <= high) is True where obs lies inside. Make numbers of it, .to(obs.dtype), and take "
        "their mean over the n sequences, .mean(0).",
    ],
)


@exercise.check
def _(attempt, generator):
    def want(samples, obs, level):
        """Each obs has a rank among its samples, as a share of them: 0 at the smallest and 1 at the largest."""
        S, n, *batch = samples.shape
        samples, seen = np.sort(samples.numpy().reshape(S, -1), 0), obs.numpy().reshape(-1)
        ranks = [np.interp(x, column, np.linspace(0, 1, S), -1, 2) for x, column in zip(seen, samples.T)]
        inside = np.abs(np.array(ranks) - 0.5) <= level / 2
        return torch.as_tensor(inside.reshape(n, *batch).mean(0))

    def skewed(*shape):
        return (0.8 * inputs.normal(*shape, generator=generator)).exp()

    samples = (3 * skewed(6) * 10).round() / 10 + torch.arange(6) / 10
    obs = inputs.tenth(0, 8, 13, generator=generator) + 0.05  # between the samples, so that no end is hit
    what = f"coverage for obs {', '.join(f'{x:.2f}' for x in obs.tolist())}, each with the samples "
    what += f"{inputs.numbers(samples)}, at level 0.6"
    given = samples[:, None].expand(6, 13), obs
    yield inputs.case(what, torch.float64, attempt(*given, 0.6), want(*given, 0.6))
    for S, n, batch, level, dtype in (
        (21, 307, (), 0.9, torch.float64),
        (41, 41, (41,), 0.8, torch.float64),  # all alike: what fits here by accident is seen to be wrong
        (9, 151, (2, 3), 0.5, torch.float64),
        (24, 103, (4,), 0.7, torch.float32),
    ):
        at = inputs.uniform(-1, 1, n, *batch, generator=generator)
        samples, obs = at + skewed(S, n, *batch), at - 0.2 + 1.4 * skewed(n, *batch)
        samples, obs = _to(dtype, samples, obs)
        what = f"coverage for samples of shape {tuple(samples.shape)} at level {level}"
        yield inputs.case(what, dtype, attempt(samples, obs, level), want(samples, obs, level))


@exercise.alternative
def tails_counted(samples, obs, level):
    tail = (1 - level) / 2
    below = (obs < samples.quantile(tail, 0)).to(obs.dtype).mean(0)
    return 1 - below - (obs > samples.quantile(1 - tail, 0)).to(obs.dtype).mean(0)


@exercise.alternative
def ends_from_sorted_samples(samples, obs, level):
    ordered = samples.sort(0).values

    def end(q):
        place = q * (len(samples) - 1)
        i = min(int(place), len(samples) - 2)
        return torch.lerp(ordered[i], ordered[i + 1], place - i)

    inside = torch.where((obs - end(0.5 - level / 2)) * (end(0.5 + level / 2) - obs) >= 0, 1.0, 0.0)
    return inside.to(obs.dtype).sum(0) / len(obs)


@exercise.alternative
def both_ends_at_once(samples, obs, level):
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=samples.dtype)
    low, high = torch.quantile(samples, ends, dim=0)
    return torch.stack([low <= obs, obs <= high]).all(0).to(obs.dtype).mean(0)


def _share(inside, obs):
    return inside.to(obs.dtype).mean(0)


def _between(samples, obs, low, high):
    """The share of obs between two quantiles of the samples."""
    return _share((samples.quantile(low, 0) <= obs) & (obs <= samples.quantile(high, 0)), obs)


def _ends(samples, level):
    return samples.quantile((1 - level) / 2, 0), samples.quantile((1 + level) / 2, 0)


@exercise.mistake(
    "Your interval is open below: it holds all up to one quantile. The central interval leaves (1 − level)/2 of the "
    "samples out on either side."
)
def open_below(samples, obs, level):
    return _share(obs <= samples.quantile(level, 0), obs)


@exercise.mistake(
    "Your interval is open above: it holds all from one quantile on. The central interval leaves (1 − level)/2 of the "
    "samples out on either side."
)
def open_above(samples, obs, level):
    return _share(samples.quantile(1 - level, 0) <= obs, obs)


@exercise.mistake(
    "Your interval begins at the smallest sample. A central one leaves as many samples out below as above: "
    "(1 − level)/2 on either side."
)
def from_the_smallest(samples, obs, level):
    return _between(samples, obs, 0, level)


@exercise.mistake("Only the upper end of your interval is used: obs lies inside where it is above the lower end too.")
def upper_end_alone(samples, obs, level):
    return _share(obs <= _ends(samples, level)[1], obs)


@exercise.mistake("Only the lower end of your interval is used: obs lies inside where it is below the upper end too.")
def lower_end_alone(samples, obs, level):
    return _share(_ends(samples, level)[0] <= obs, obs)


@exercise.mistake(
    "You left 1 − level of the samples out on EACH side, so that your interval holds 2 level − 1 of them. It is "
    "half of that on each."
)
def whole_tail_on_each_side(samples, obs, level):
    tail = 1 - level
    return _between(samples, obs, min(tail, level), max(tail, level))


@exercise.mistake(
    "You took the quantiles level/2 and 1 − level/2: that leaves level out. What is left out is 1 − level, half of it "
    "on each side."
)
def half_the_level_for_the_tail(samples, obs, level):
    return _between(samples, obs, level / 2, 1 - level / 2)


@exercise.mistake(
    "You took mean ± z · std, as if the forecast were normal. The samples are skewed here, and their quantiles are "
    "what is asked for: torch.quantile."
)
def ends_of_a_normal(samples, obs, level):
    z = NormalDist().inv_cdf((1 + level) / 2)
    return _share((obs - samples.mean(0)).abs() <= z * samples.std(0), obs)


@exercise.mistake(
    "You took mean ± 1.96 std, which holds 95 % of a normal distribution. Here it is the share level of the samples, "
    "and they are not normal: torch.quantile."
)
def two_standard_deviations(samples, obs, level):
    return _share((obs - samples.mean(0)).abs() <= 1.96 * samples.std(0), obs)


@exercise.mistake(
    "You took mean ± std. That holds 68 % of a normal distribution; here it is the share level of the samples."
)
def one_standard_deviation(samples, obs, level):
    return _share((obs - samples.mean(0)).abs() <= samples.std(0), obs)


@exercise.mistake(
    "Your interval is as wide below the median as above it. The samples are skewed: take its two ends from the "
    "samples, one by one."
)
def alike_on_both_sides(samples, obs, level):
    middle = samples.quantile(0.5, 0)
    return _share((obs - middle).abs() <= (samples - middle).abs().quantile(level, 0), obs)


@exercise.mistake(
    "Your ends are samples, the nearest ones. Between two samples the quantile is interpolated linearly, which "
    "torch.quantile does by itself."
)
def ends_at_the_nearest_samples(samples, obs, level):
    low, high = (samples.quantile(q, 0, interpolation="nearest") for q in ((1 - level) / 2, (1 + level) / 2))
    return _share((low <= obs) & (obs <= high), obs)


@exercise.mistake("You took the interval from the smallest to the largest sample. It holds all of them, not level.")
def smallest_to_largest(samples, obs, level):
    return _between(samples, obs, 0, 1)


@exercise.mistake(
    "Your quantiles run over all samples of all forecasts. Each forecast has an interval of its own: dim=0."
)
def one_interval_for_all(samples, obs, level):
    low, high = (samples.flatten().quantile(q) for q in ((1 - level) / 2, (1 + level) / 2))
    return _share((low <= obs) & (obs <= high), obs)


@exercise.mistake(
    "Your quantiles run over the n sequences. That fits by accident where there are as many samples as sequences. The "
    "samples lie along the first axis: dim=0."
)
def quantiles_over_the_sequences(samples, obs, level):
    dim = 1 if samples.shape[0] == samples.shape[1] else 0
    low, high = (samples.quantile(q, dim) for q in ((1 - level) / 2, (1 + level) / 2))
    return _share((low <= obs) & (obs <= high), obs)


@exercise.mistake(
    "Your quantiles run over the last axis. That fits by accident where all axes have one length. The samples lie "
    "along the first axis: dim=0."
)
def quantiles_over_the_last_axis(samples, obs, level):
    dim = -1 if len(set(samples.shape)) == 1 else 0
    low, high = (samples.quantile(q, dim) for q in ((1 - level) / 2, (1 + level) / 2))
    return _share((low <= obs) & (obs <= high), obs)


@exercise.mistake("You returned the share OUTSIDE the interval. Coverage is the share inside, low ≤ obs ≤ high.")
def share_outside(samples, obs, level):
    return 1 - coverage(samples, obs, level)


@exercise.mistake("You returned how many obs lie inside. Divide their number by n, or take the mean of 0 and 1.")
def number_inside(samples, obs, level):
    return coverage(samples, obs, level) * len(obs)


@exercise.mistake("You divided the number of obs inside by the number of samples. It is a share of the n sequences.")
def divided_by_the_samples(samples, obs, level):
    return coverage(samples, obs, level) * len(obs) / len(samples)


@exercise.mistake("You compared with OR: every obs is above the lower end or below the upper one. Inside is both, &.")
def or_for_and(samples, obs, level):
    low, high = _ends(samples, level)
    return _share((low <= obs) | (obs <= high), obs)


@exercise.mistake(
    "You averaged over all axes. Each place in the batch has its own coverage: mean over the sequences, .mean(0)."
)
def averaged_over_everything(samples, obs, level):
    return coverage(samples, obs, level).mean()


@exercise.mistake("You averaged over the last axis. The n sequences lie along the first axis of obs: .mean(0).")
def averaged_over_the_last_axis(samples, obs, level):
    low, high = _ends(samples, level)
    return ((low <= obs) & (obs <= high)).to(obs.dtype).mean(-1)


@exercise.mistake(
    "You did not average: yours says for each obs whether it lies inside. Take the mean over the sequences."
)
def not_averaged(samples, obs, level):
    low, high = _ends(samples, level)
    return ((low <= obs) & (obs <= high)).to(obs.dtype)


@exercise.mistake("You subtracted level. That says how far the forecast is off; the coverage is the share itself.")
def difference_to_the_level(samples, obs, level):
    return coverage(samples, obs, level) - level


@exercise.mistake("You returned the mean width of the intervals. Coverage asks how many of the obs lie inside.")
def width_returned(samples, obs, level):
    low, high = _ends(samples, level)
    return (high - low).mean(0)


@exercise.mistake("You asked which share of the SAMPLES lies inside. It is about level by construction; look at obs.")
def samples_inside(samples, obs, level):
    low, high = _ends(samples, level)
    return ((low <= samples) & (samples <= high)).to(obs.dtype).mean((0, 1))


@exercise.mistake(
    "You returned the mean rank of obs among its samples. Coverage asks whether obs lies in the interval."
)
def mean_rank(samples, obs, level):
    return (samples <= obs).to(obs.dtype).mean((0, 1))
