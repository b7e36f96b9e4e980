"""The exercises of the kl chapter, from a sum over classes to a gap that is too small to see.

After each reference solution come its hints, its check, other correct solutions and the mistakes people make.  What an
answer is compared with takes another road than the formula: a sum of plain numbers, an expectation by quadrature, an
identity, or mpmath's digits.
"""

import math

import mpmath
import numpy as np
import torch
from torch.distributions import Bernoulli, Categorical, MixtureSameFamily, MultivariateNormal, Normal, kl_divergence

from companion.exercises import Case, Exercise
from companion.exercises import _inputs as inputs


def _share(x):
    """x, made to sum to 1 over the last axis."""
    return x / x.sum(-1, keepdim=True)


# 1 ------------------------------------------------------------------------------------------------------------------


def kl_in_bits(p, q):
    """The bits per outcome that a code made for q wastes on outcomes that follow p.

        KL(p‖q) = Σᵢ pᵢ log₂(pᵢ/qᵢ),   where 0 · log₂ 0 = 0

    In bits: the logarithm is that to base 2.  An outcome with pᵢ = 0 never comes, and
    adds 0 to the sum.

    p, q: probabilities, shape (*batch, n), with the n outcomes in the last axis and any
    batch axes.  p may have zeros, q has none.  Returns shape (*batch).
    """
    return torch.xlogy(p, p / q).sum(-1) / math.log(2)


exercise = Exercise(
    kl_in_bits,
    hints=[
        "Each outcome has its own term: how much likelier p makes it, as a logarithm, weighed by how often it comes.",
        "The sum runs over the last axis alone, so that each pair of distributions in the batch keeps its own number. "
        "One bit is log(2) = 0.693 nats, and torch.log2 counts in bits from the start.",
        "Where p is 0, 0 * log(0) is 0 · (−∞) = NaN. torch.xlogy(p, p / q) is p log(p/q) in nats, and 0 where p is 0: "
        "sum it over the last axis and divide by math.log(2).",
    ],
)


@exercise.check
def _(attempt, generator):
    def want(p, q):
        pairs = zip(p.reshape(-1, p.shape[-1]).tolist(), q.reshape(-1, p.shape[-1]).tolist())
        sums = [math.fsum(a * math.log2(a / b) for a, b in zip(*pair) if a > 0) for pair in pairs]
        return torch.tensor(sums, dtype=torch.float64).reshape(p.shape[:-1])

    a, b = inputs.tenth(0.1, 0.4, 2, generator=generator), inputs.tenth(0.5, 0.9, generator=generator)
    p, q = torch.stack([a[0], 1 - a[0]]), torch.stack([b, 1 - b])
    yield Case(f"kl_in_bits of p = {inputs.numbers(p)}, q = {inputs.numbers(q)}", attempt(p, q), want(p, q))
    p, q = torch.stack([a[1], 1 - a[1], 0 * b]), torch.stack([1 - b, b - 0.3, 0 * b + 0.3])
    yield Case(f"kl_in_bits of p = {inputs.numbers(p)}, q = {inputs.numbers(q)}", attempt(p, q), want(p, q))
    for n, batch, dtype in (3, (4,), torch.float64), (6, (2, 3), torch.float64), (4, (5,), torch.float32):
        p, q = inputs.normal(2, *batch, n, generator=generator).exp()
        zero = torch.randint(n, (*batch, 1), generator=generator)
        p, q = _share(p.scatter(-1, zero, 0.0)), _share(q)
        what = f"kl_in_bits of p and q of shape {tuple(p.shape)}, with a zero in each p"
        yield inputs.case(what, dtype, attempt(p.to(dtype), q.to(dtype)), want(p, q))


@exercise.alternative
def only_where_p_is_positive(p, q):
    return torch.where(p > 0, p * torch.log2(p / q), 0.0).sum(-1)


@exercise.alternative
def cross_entropy_less_entropy(p, q):
    entropy = torch.special.entr(p).sum(-1)
    return (-(p * q.log2())).sum(-1) - entropy / math.log(2)


@exercise.alternative
def by_torch_distributions(p, q):
    return kl_divergence(Categorical(p), Categorical(q)) / math.log(2)


@exercise.mistake(
    "Your number is in nats, from the natural logarithm. In bits it is log₂: from (0.1, 0.9) to (0.5, 0.5) it is 0.531 "
    "bits, which are 0.368 nats. Divide by math.log(2), or use torch.log2."
)
def nats_for_bits(p, q):
    return kl_in_bits(p, q) * math.log(2)


@exercise.mistake(
    "Two things: the number is in nats, where log₂ gives bits, and where p is 0 your term is 0 · (−∞) = NaN. Such a "
    "term counts as 0; torch.xlogy(p, p / q) knows that."
)
def nats_and_nan(p, q):
    return (p * torch.log(p / q)).sum(-1)


@exercise.mistake(
    "Three things: the number is in nats, where log₂ gives bits; you added up the whole batch, where the last axis "
    "alone is to be summed; and where p is 0 your term is 0 · (−∞) = NaN and has to count as 0."
)
def nats_and_nan_of_the_batch_added(p, q):
    return (p * torch.log(p / q)).sum()


@exercise.mistake(
    "Where p is 0 your term is 0 · (−∞) = NaN, and one NaN spoils the sum. Such a term counts as 0: torch.xlogy(p, "
    "p / q) knows that, and torch.where(p > 0, …, 0.0) can say it."
)
def zeros_give_nan(p, q):
    return (p * torch.log2(p / q)).sum(-1)


@exercise.mistake(
    "You turned the NaN of one term into 0 only after the sum, and with it the whole divergence of every p that has a "
    "zero. Make the single term 0, then add up."
)
def nan_removed_too_late(p, q):
    return (p * torch.log2(p / q)).sum(-1).nan_to_num(0.0)


@exercise.mistake(
    "You exchanged p and q: that is KL(q‖p), infinite wherever p has a zero. Outcomes come with the probabilities p, "
    "so p stands in front and on top."
)
def bits_swapped(p, q):
    return (q * torch.log2(q / p)).sum(-1)


@exercise.mistake(
    "You exchanged p and q, and your number is in nats. Outcomes come with the probabilities p, so p stands in front "
    "and on top; and log₂ gives bits."
)
def nats_swapped(p, q):
    return (q * torch.log(q / p)).sum(-1)


@exercise.mistake(
    "Your sign is wrong: a KL is never negative. Is the fraction upside down, q/p for p/q, or a minus sign left from "
    "the entropy?"
)
def bits_negative(p, q):
    return -kl_in_bits(p, q)


@exercise.mistake(
    "You subtracted two entropies, H(q) − H(p), each under its own probabilities. The wrong code is paid by outcomes "
    "that follow p: in both logarithms the weight is p."
)
def difference_of_entropies(p, q):
    return (torch.special.entr(q) - torch.special.entr(p)).sum(-1) / math.log(2)


@exercise.mistake(
    "That is the cross-entropy −Σ p log₂ q, the whole length of the message. The waste is what goes beyond the entropy "
    "of p: subtract −Σ p log₂ p. For p = q it has to be 0."
)
def cross_entropy_alone(p, q):
    return -(p * q.log2()).sum(-1)


@exercise.mistake(
    "That is the entropy of p, −Σ p log₂ p, the length with the best code. q has no part in it, and the waste depends "
    "on q."
)
def entropy_alone(p, q):
    return torch.special.entr(p).sum(-1) / math.log(2)


@exercise.mistake(
    "You took the mean over the outcomes. The weights pᵢ already make the sum a mean: add up, without dividing by n."
)
def mean_over_outcomes(p, q):
    return kl_in_bits(p, q) / p.shape[-1]


@exercise.mistake(
    "You added up the whole batch. Each pair of distributions keeps its own number: sum over the last axis, .sum(-1)."
)
def bits_of_the_batch_added(p, q):
    return kl_in_bits(p, q).sum()


@exercise.mistake(
    "Two things: you added up the whole batch, and in nats. Is it reduction='sum'? With reduction='none' and .sum(-1) "
    "each pair of distributions keeps its own number; divide by math.log(2) for bits."
)
def nats_of_the_batch_added(p, q):
    return torch.xlogy(p, p / q).sum()


@exercise.mistake(
    "You averaged over the batch. Each pair of distributions keeps its own number: sum over the last axis alone."
)
def bits_of_the_batch_averaged(p, q):
    return kl_in_bits(p, q).mean()


@exercise.mistake("The terms pᵢ log₂(pᵢ/qᵢ) are right, but they are not added up: take .sum(-1), over the outcomes.")
def terms_not_summed(p, q):
    return torch.xlogy(p, p / q) / math.log(2)


@exercise.mistake(
    "You used log₁₀. Bits come from the logarithm to base 2, torch.log2: from (1, 0) to (0.5, 0.5) it is one."
)
def tens_for_bits(p, q):
    return kl_in_bits(p, q) * math.log10(2)


@exercise.mistake(
    "You multiplied the nats by log 2 = 0.693. A bit is the smaller unit, so that the number of bits is the larger "
    "one: divide."
)
def multiplied_by_log_2(p, q):
    return kl_in_bits(p, q) * math.log(2) ** 2


@exercise.mistake(
    "There is a 1 too much inside the logarithm, log₂(1 + p/q). It avoids the zero, but it changes every term. "
    "torch.xlogy takes care of zeros."
)
def one_plus_ratio(p, q):
    return (p * torch.log1p(p / q)).sum(-1) / math.log(2)


@exercise.mistake(
    "You forgot the weights: each term log₂(pᵢ/qᵢ) counts as often as its outcome comes, pᵢ times. Without them an "
    "outcome that never comes counts −∞."
)
def without_weights(p, q):
    return torch.log2(p / q).sum(-1)


@exercise.mistake(
    "You added up squared differences of the probabilities. A KL compares them by ratio: twice as rare costs one bit "
    "each time, whether from 0.2 to 0.1 or from 0.002 to 0.001."
)
def squared_differences(p, q):
    return ((p - q) ** 2).sum(-1)


@exercise.mistake(
    "You took absolute values of the terms. Where q is larger than p a term is negative, and rightly so: those "
    "outcomes got shorter words. Only the sum is never negative."
)
def absolute_terms(p, q):
    return torch.xlogy(p, p / q).abs().sum(-1) / math.log(2)


# 2 ------------------------------------------------------------------------------------------------------------------


def kl_of_normals(loc0, scale0, loc1, scale1):
    """The divergence from one normal density to another, in closed form.

        KL(N₀‖N₁) = ∫ N₀(x) log(N₀(x)/N₁(x)) dx,   N₀ = N(μ₀, σ₀²),   N₁ = N(μ₁, σ₁²)

    Work the integral out on paper: under N₀ the mean of (x − μ₁)² is σ₀² + (μ₀ − μ₁)².

    loc0, scale0: mean μ₀ and standard deviation σ₀ > 0 of N₀.  loc1, scale1: those of
    N₁.  A scale is a standard deviation, never a variance.  Four tensors of one shape.
    Returns that shape, entry by entry, in nats (natural logarithm).
    """
    return torch.log(scale1 / scale0) + (scale0**2 + (loc0 - loc1) ** 2) / (2 * scale1**2) - 0.5


exercise = Exercise(
    kl_of_normals,
    hints=[
        "Write log N₀(x) − log N₁(x) first. It is a quadratic in x: a difference of logarithms of the scales, and two "
        "squares.",
        "Take its mean under N₀. The mean of (x − μ₀)²/(2σ₀²) is ½, and that of (x − μ₁)² is σ₀² + (μ₀ − μ₁)².",
        "The result is log(σ₁/σ₀) + (σ₀² + (μ₀ − μ₁)²)/(2σ₁²) − ½. For equal densities it has to be 0: 0 + ½ − ½.",
    ],
)


@exercise.check
def _(attempt, generator):
    def want(loc0, scale0, loc1, scale1):  # the logarithm is a quadratic in x: Gauss–Hermite with 3 nodes is exact
        nodes, weights = loc0.new_tensor([-(3**0.5), 0, 3**0.5]), loc0.new_tensor([1 / 6, 2 / 3, 1 / 6])
        x = (loc0[..., None] + scale0[..., None] * nodes).movedim(-1, 0)
        gain = Normal(loc0, scale0).log_prob(x) - Normal(loc1, scale1).log_prob(x)
        return torch.tensordot(weights, gain, 1)

    for shape, dtype in ((), torch.float64), ((5,), torch.float64), ((2, 3), torch.float64), ((4,), torch.float32):
        loc0, loc1 = inputs.tenth(-2, 2, 2, *shape, generator=generator)
        scale0, scale1 = inputs.tenth(0.4, 2.5, 2, *shape, generator=generator)
        given = loc0, scale0, loc1, scale1
        where = f"tensors of shape {shape}" if shape else f"{loc0:.1f}, {scale0:.1f}, {loc1:.1f}, {scale1:.1f}"
        yield inputs.case(f"kl_of_normals for {where}", dtype, attempt(*(a.to(dtype) for a in given)), want(*given))


@exercise.alternative
def from_variances(loc0, scale0, loc1, scale1):
    ratio = (scale0 / scale1) ** 2
    return 0.5 * (ratio + ((loc0 - loc1) / scale1) ** 2 - 1 - ratio.log())


@exercise.alternative
def without_cancellation(loc0, scale0, loc1, scale1):
    t, delta = (scale0 - scale1) / scale1, (loc0 - loc1) / scale1
    return (t**2 + delta**2) / 2 + t - torch.log1p(t)


@exercise.alternative
def normals_of_torch(loc0, scale0, loc1, scale1):
    return kl_divergence(Normal(loc0, scale0), Normal(loc1, scale1))


@exercise.mistake(
    "You exchanged the two densities: that is KL(N₁‖N₀). The mean is taken under N₀, and the squares are divided by "
    "σ₁². From N(0, 1) to N(0, 2²) it is 0.318, the other way 0.807."
)
def normals_swapped(loc0, scale0, loc1, scale1):
    return kl_of_normals(loc1, scale1, loc0, scale0)


@exercise.mistake(
    "You took the scales for variances. A scale is a standard deviation: the variance is scale**2. In "
    "torch.distributions.Normal, too, the second argument is the standard deviation."
)
def scales_as_variances(loc0, scale0, loc1, scale1):
    return kl_of_normals(loc0, scale0.sqrt(), loc1, scale1.sqrt())


@exercise.mistake(
    "You squared the scales before handing them on, but torch.distributions.Normal takes standard deviations, as they "
    "are given here."
)
def scales_squared_first(loc0, scale0, loc1, scale1):
    return kl_of_normals(loc0, scale0**2, loc1, scale1**2)


@exercise.mistake(
    "The ½ of the squares is missing: a normal density is exp(−(x − μ)²/(2σ²)), so divide σ₀² + (μ₀ − μ₁)² by 2σ₁². "
    "For equal densities the result has to be 0, and yours is ½."
)
def squares_not_halved(loc0, scale0, loc1, scale1):
    return torch.log(scale1 / scale0) + (scale0**2 + (loc0 - loc1) ** 2) / scale1**2 - 0.5


@exercise.mistake(
    "Your logarithm is twice too large: log(σ₁²/σ₀²), the ratio of the variances, comes with a ½. Of the standard "
    "deviations it is log(σ₁/σ₀)."
)
def logarithm_doubled(loc0, scale0, loc1, scale1):
    return kl_of_normals(loc0, scale0, loc1, scale1) + torch.log(scale1 / scale0)


@exercise.mistake(
    "Your logarithm is half of what it should be. The ½ belongs to the logarithm of variances, ½ log(σ₁²/σ₀²) = "
    "log(σ₁/σ₀)."
)
def logarithm_halved(loc0, scale0, loc1, scale1):
    return kl_of_normals(loc0, scale0, loc1, scale1) - torch.log(scale1 / scale0) / 2


@exercise.mistake(
    "The logarithm has the wrong sign. log N₀ holds −log σ₀ and log N₁ holds −log σ₁: their difference is log(σ₁/σ₀)."
)
def logarithm_upside_down(loc0, scale0, loc1, scale1):
    return kl_of_normals(loc0, scale0, loc1, scale1) - 2 * torch.log(scale1 / scale0)


@exercise.mistake(
    "The logarithm is missing. A normal density has the factor 1/σ in front, and the ratio of these factors, σ₁/σ₀, "
    "stays: add log(σ₁/σ₀)."
)
def logarithm_lost(loc0, scale0, loc1, scale1):
    return kl_of_normals(loc0, scale0, loc1, scale1) - torch.log(scale1 / scale0)


@exercise.mistake(
    "The −½ is missing, from the mean of (x − μ₀)²/(2σ₀²) under N₀. Without it two equal densities are ½ apart, and it "
    "should be 0."
)
def constant_lost(loc0, scale0, loc1, scale1):
    return kl_of_normals(loc0, scale0, loc1, scale1) + 0.5


@exercise.mistake(
    "You subtracted 1 where it should be ½. The 1 stands inside the bracket of ½[σ₀²/σ₁² + … − 1]; outside it is ½."
)
def one_for_half(loc0, scale0, loc1, scale1):
    return kl_of_normals(loc0, scale0, loc1, scale1) - 0.5


@exercise.mistake("You added the ½ instead of subtracting it: two equal densities have to be 0 apart, and yours are 1.")
def constant_added(loc0, scale0, loc1, scale1):
    return kl_of_normals(loc0, scale0, loc1, scale1) + 1


@exercise.mistake("You divided by 2σ₁ where it should be 2σ₁²: the squares are measured in units of the variance.")
def scale_not_squared_below(loc0, scale0, loc1, scale1):
    return torch.log(scale1 / scale0) + (scale0**2 + (loc0 - loc1) ** 2) / (2 * scale1) - 0.5


@exercise.mistake(
    "Your σ₀ is not squared: the mean of (x − μ₁)² under N₀ is σ₀² + (μ₀ − μ₁)², a variance and a square."
)
def scale_not_squared_above(loc0, scale0, loc1, scale1):
    return torch.log(scale1 / scale0) + (scale0 + (loc0 - loc1) ** 2) / (2 * scale1**2) - 0.5


@exercise.mistake(
    "The difference of the means is not squared. So it depends on which of them is larger, and the result may even be "
    "negative. It is (μ₀ − μ₁)²."
)
def means_not_squared(loc0, scale0, loc1, scale1):
    return torch.log(scale1 / scale0) + (scale0**2 + loc0 - loc1) / (2 * scale1**2) - 0.5


@exercise.mistake(
    "You divided by σ₀². The squares come from log N₁, the density that is wrong about x, so its variance σ₁² stands "
    "below."
)
def divided_by_the_first_variance(loc0, scale0, loc1, scale1):
    return torch.log(scale1 / scale0) + (scale0**2 + (loc0 - loc1) ** 2) / (2 * scale0**2) - 0.5


@exercise.mistake(
    "The means play no part in yours. Add (μ₀ − μ₁)²/(2σ₁²): two equal curves, shifted, are not the same."
)
def means_forgotten(loc0, scale0, loc1, scale1):
    return kl_of_normals(loc0, scale0, loc0, scale1)


@exercise.mistake(
    "You left out σ₀² above. Under N₀ the point x moves around μ₀, so that the mean of (x − μ₁)² is σ₀² + (μ₀ − μ₁)², "
    "not (μ₀ − μ₁)² alone."
)
def spread_forgotten(loc0, scale0, loc1, scale1):
    return kl_of_normals(loc0, scale0, loc1, scale1) - (scale0 / scale1) ** 2 / 2


@exercise.mistake(
    "A bracket is missing: / 2 * scale1**2 divides by 2 and then multiplies by σ₁². Write / (2 * scale1**2)."
)
def bracket_missing_below(loc0, scale0, loc1, scale1):
    return torch.log(scale1 / scale0) + (scale0**2 + (loc0 - loc1) ** 2) / 2 * scale1**2 - 0.5


@exercise.mistake(
    "A bracket is missing: only (μ₀ − μ₁)² is divided by 2σ₁² in yours. Both squares are: (σ₀² + (μ₀ − μ₁)²)/(2σ₁²)."
)
def bracket_missing_above(loc0, scale0, loc1, scale1):
    return torch.log(scale1 / scale0) + scale0**2 + (loc0 - loc1) ** 2 / (2 * scale1**2) - 0.5


@exercise.mistake("You added up all entries. Each entry is a pair of densities of its own, and the shape stays.")
def normals_added(loc0, scale0, loc1, scale1):
    return kl_of_normals(loc0, scale0, loc1, scale1).sum()


# 3 ------------------------------------------------------------------------------------------------------------------


def kl_in_d_dimensions(loc0, cov0, loc1, cov1):
    """The divergence from one normal density in d dimensions to another, in nats.

        KL(N₀‖N₁) = ½ [tr(Σ₁⁻¹Σ₀) − d + (μ₀ − μ₁)ᵀ Σ₁⁻¹ (μ₀ − μ₁) + log(det Σ₁/det Σ₀)]

    loc0, cov0: mean μ₀, shape (*batch, d), and covariance Σ₀, shape (*batch, d, d), of
    N₀.  loc1, cov1: those of N₁.  A covariance is symmetric and positive definite.  Any
    batch axes.  Returns shape (*batch).
    """
    delta = loc0 - loc1
    trace = torch.linalg.solve(cov1, cov0).diagonal(dim1=-2, dim2=-1).sum(-1)
    square = (delta * torch.linalg.solve(cov1, delta[..., None])[..., 0]).sum(-1)
    log_det = torch.logdet(cov1) - torch.logdet(cov0)
    return (trace - loc0.shape[-1] + square + log_det) / 2


exercise = Exercise(
    kl_in_d_dimensions,
    hints=[
        "Compute the four terms one after another. Each is one number for each pair of densities, shape (*batch). d is "
        "the length of the last axis of loc0.",
        "Σ₁⁻¹Σ₀ is torch.linalg.solve(cov1, cov0). torch.trace takes no batch; "
        ".diagonal(dim1=-2, dim2=-1).sum(-1) does. torch.logdet takes a batch too.",
        "With delta = loc0 - loc1, the quadratic form is (delta * y).sum(-1), where "
        "y = torch.linalg.solve(cov1, delta[..., None])[..., 0]. Add the four terms with their signs and take half.",
    ],
)


def _covariance(d, batch, generator):
    A = inputs.normal(*batch, d, d, generator=generator)
    return (A @ A.mT) / d + 0.3 * torch.eye(d, dtype=torch.float64)


@exercise.check
def _(attempt, generator):
    def want(loc0, cov0, loc1, cov1):  # the mean of a quadratic under N₀ is that at the 2d points μ₀ ± √d × root of Σ₀
        d, (value, axes) = loc0.shape[-1], torch.linalg.eigh(cov0)
        steps = (axes * (d * value[..., None, :]).sqrt()).movedim(-1, 0)
        x = torch.cat([loc0 + steps, loc0 - steps])
        return (MultivariateNormal(loc0, cov0).log_prob(x) - MultivariateNormal(loc1, cov1).log_prob(x)).mean(0)

    a, b, v, w = (inputs.tenth(*bounds, generator=generator) for bounds in ((-2, 0), (0.5, 2), (0.3, 2), (0.3, 2)))
    given = a[None], v[None, None], b[None], w[None, None]
    what = f"kl_in_d_dimensions for d = 1, μ₀ = {a:.1f}, Σ₀ = [[{v:.1f}]], μ₁ = {b:.1f}, Σ₁ = [[{w:.1f}]]"
    yield Case(what, attempt(*given), want(*given))
    for d, batch, dtype in inputs.SHAPES:
        loc0, loc1 = inputs.normal(2, *batch, d, generator=generator)
        given = loc0, _covariance(d, batch, generator), loc1, _covariance(d, batch, generator)
        what = f"kl_in_d_dimensions for d = {d} and batch axes {batch}"
        yield inputs.case(what, dtype, attempt(*(x.to(dtype) for x in given)), want(*given))


@exercise.alternative
def with_cholesky_factors(loc0, cov0, loc1, cov1):
    L0, L1 = torch.linalg.cholesky(cov0), torch.linalg.cholesky(cov1)
    M = torch.linalg.solve_triangular(L1, L0, upper=False)
    z = torch.linalg.solve_triangular(L1, (loc0 - loc1)[..., None], upper=False)
    logs = L1.diagonal(dim1=-2, dim2=-1).log() - L0.diagonal(dim1=-2, dim2=-1).log()
    return ((M**2).sum((-2, -1)) - loc0.shape[-1] + (z**2).sum((-2, -1))) / 2 + logs.sum(-1)


@exercise.alternative
def with_the_inverse(loc0, cov0, loc1, cov1):
    precision, delta = torch.linalg.inv(cov1), loc0 - loc1
    trace = (precision * cov0).sum((-2, -1))  # both are symmetric, so this is tr(Σ₁⁻¹Σ₀)
    square = torch.einsum("...i,...ij,...j->...", delta, precision, delta)
    return 0.5 * (trace - loc0.shape[-1] + square - torch.logdet(precision @ cov0))


@exercise.alternative
def from_eigenvalues(loc0, cov0, loc1, cov1):
    value, axes = torch.linalg.eigh(cov1)
    root = axes / value.sqrt()[..., None, :]  # Σ₁⁻¹ is root rootᵀ
    ratios = torch.linalg.eigvalsh(root.mT @ cov0 @ root)
    square = ((loc0 - loc1)[..., None, :] @ root).square().sum((-2, -1))
    return 0.5 * ((ratios - 1 - ratios.log()).sum(-1) + square)


def _terms(loc0, cov0, loc1, cov1):
    """tr(Σ₁⁻¹Σ₀), d, the quadratic form and log(det Σ₁/det Σ₀)."""
    delta, precision = loc0 - loc1, torch.linalg.inv(cov1)
    square = torch.einsum("...i,...ij,...j->...", delta, precision, delta)
    return inputs.trace(precision @ cov0), loc0.shape[-1], square, torch.logdet(cov1) - torch.logdet(cov0)


@exercise.mistake(
    "You exchanged the two densities: that is KL(N₁‖N₀). It is Σ₁ that is inverted, and det Σ₁ that stands on top in "
    "the logarithm."
)
def densities_swapped(loc0, cov0, loc1, cov1):
    return kl_in_d_dimensions(loc1, cov1, loc0, cov0)


@exercise.mistake(
    "The −d is missing. For equal densities the trace of Σ₁⁻¹Σ₀ = I is d, and the result has to be 0: subtract d."
)
def dimension_not_subtracted(loc0, cov0, loc1, cov1):
    return kl_in_d_dimensions(loc0, cov0, loc1, cov1) + loc0.shape[-1] / 2


@exercise.mistake(
    "You subtracted 1 where it should be d. The 1 of the one-dimensional formula comes once for each dimension."
)
def one_for_d(loc0, cov0, loc1, cov1):
    return kl_in_d_dimensions(loc0, cov0, loc1, cov1) + (loc0.shape[-1] - 1) / 2


@exercise.mistake(
    "The logarithm has the wrong sign, or its fraction is upside down: it is log det Σ₁ − log det Σ₀. A wide N₁ is "
    "charged for its width."
)
def log_det_sign(loc0, cov0, loc1, cov1):
    trace, d, square, log_det = _terms(loc0, cov0, loc1, cov1)
    return (trace - d + square - log_det) / 2


@exercise.mistake(
    "The determinants are there, but without their logarithm: it is log(det Σ₁/det Σ₀), 0 where both are equal."
)
def ratio_without_logarithm(loc0, cov0, loc1, cov1):
    trace, d, square, log_det = _terms(loc0, cov0, loc1, cov1)
    return (trace - d + square + log_det.exp()) / 2


@exercise.mistake(
    "You added up the logarithms of the diagonal of a Cholesky factor. det Σ = (det L)²: log det Σ is twice that sum."
)
def cholesky_without_two(loc0, cov0, loc1, cov1):
    trace, d, square, log_det = _terms(loc0, cov0, loc1, cov1)
    return (trace - d + square + log_det / 2) / 2


@exercise.mistake(
    "You multiplied entry by entry, with *, and took the diagonal of that. tr(Σ₁⁻¹Σ₀) is the trace of the matrix "
    "product, with @. (The sum of all entries of Σ₁⁻¹ * Σ₀ would do, as both are symmetric.)"
)
def trace_entry_by_entry(loc0, cov0, loc1, cov1):
    _, d, square, log_det = _terms(loc0, cov0, loc1, cov1)
    return (inputs.trace(torch.linalg.inv(cov1) * cov0) - d + square + log_det) / 2


@exercise.mistake(
    "You divided the variances on the diagonals, Σ₀ᵢᵢ/Σ₁ᵢᵢ. That is the trace only where Σ₁ is diagonal: take Σ₁⁻¹Σ₀ "
    "by torch.linalg.solve(cov1, cov0), then its diagonal."
)
def variances_divided(loc0, cov0, loc1, cov1):
    _, d, square, log_det = _terms(loc0, cov0, loc1, cov1)
    return (inputs.trace(cov0 / cov1) - d + square + log_det) / 2


@exercise.mistake(
    "You inverted the wrong matrix in the trace: tr(Σ₀⁻¹Σ₁) for tr(Σ₁⁻¹Σ₀). torch.linalg.solve(A, B) is A⁻¹B, so "
    "Σ₁ comes first."
)
def wrong_matrix_inverted(loc0, cov0, loc1, cov1):
    _, d, square, log_det = _terms(loc0, cov0, loc1, cov1)
    return (inputs.trace(torch.linalg.solve(cov0, cov1)) - d + square + log_det) / 2


@exercise.mistake(
    "No matrix is inverted in your trace: it is tr(Σ₁⁻¹Σ₀), not tr(Σ₁Σ₀). For equal densities it has to be d."
)
def trace_without_inverse(loc0, cov0, loc1, cov1):
    _, d, square, log_det = _terms(loc0, cov0, loc1, cov1)
    return (inputs.trace(cov1 @ cov0) - d + square + log_det) / 2


@exercise.mistake(
    "Your quadratic form has Σ₀⁻¹. It comes from log N₁, the density whose mean is not where x is: Σ₁⁻¹ belongs there."
)
def square_with_the_first_covariance(loc0, cov0, loc1, cov1):
    trace, d, _, log_det = _terms(loc0, cov0, loc1, cov1)
    return (trace - d + _terms(loc0, cov0, loc1, cov0)[2] + log_det) / 2


@exercise.mistake(
    "Your quadratic form has Σ₁ itself where its inverse belongs. A wide N₁ makes the distance of the means matter "
    "less, not more."
)
def square_without_inverse(loc0, cov0, loc1, cov1):
    trace, d, _, log_det = _terms(loc0, cov0, loc1, cov1)
    return (trace - d + torch.einsum("...i,...ij,...j->...", loc0 - loc1, cov1, loc0 - loc1) + log_det) / 2


@exercise.mistake(
    "You took the plain squared distance |μ₀ − μ₁|². It is to be measured by N₁: (μ₀ − μ₁)ᵀ Σ₁⁻¹ (μ₀ − μ₁)."
)
def plain_distance(loc0, cov0, loc1, cov1):
    trace, d, _, log_det = _terms(loc0, cov0, loc1, cov1)
    return (trace - d + ((loc0 - loc1) ** 2).sum(-1) + log_det) / 2


@exercise.mistake("The means play no part in yours. The quadratic form (μ₀ − μ₁)ᵀ Σ₁⁻¹ (μ₀ − μ₁) is missing.")
def square_forgotten(loc0, cov0, loc1, cov1):
    return kl_in_d_dimensions(loc0, cov0, loc0, cov1)


@exercise.mistake(
    "Your answer is twice the right one: the ½ in front of the bracket is missing. It halves all four terms."
)
def half_of_all_forgotten(loc0, cov0, loc1, cov1):
    return 2 * kl_in_d_dimensions(loc0, cov0, loc1, cov1)


@exercise.mistake(
    "Only a part of the bracket is halved in yours: the logarithm stands inside the bracket too. From variances, "
    "½ log(det Σ₁/det Σ₀); without the ½ it would need standard deviations."
)
def logarithm_not_halved(loc0, cov0, loc1, cov1):
    trace, d, square, log_det = _terms(loc0, cov0, loc1, cov1)
    return (trace - d + square) / 2 + log_det


@exercise.mistake(
    "You used the diagonals of the covariances alone, as if the dimensions were independent. Off the diagonal stands "
    "how they vary together, and it counts."
)
def diagonals_alone(loc0, cov0, loc1, cov1):
    var0, var1 = (cov.diagonal(dim1=-2, dim2=-1) for cov in (cov0, cov1))
    return kl_of_normals(loc0, var0.sqrt(), loc1, var1.sqrt()).sum(-1)


@exercise.mistake(
    "You added up the batch. Each pair of densities has a number of its own, and the result shape (*batch)."
)
def densities_of_the_batch_added(loc0, cov0, loc1, cov1):
    return kl_in_d_dimensions(loc0, cov0, loc1, cov1).sum()


@exercise.mistake(
    "You divided by d, a mean over the dimensions. KL adds up over them: two independent dimensions tell the densities "
    "apart twice as fast."
)
def mean_over_dimensions(loc0, cov0, loc1, cov1):
    return kl_in_d_dimensions(loc0, cov0, loc1, cov1) / loc0.shape[-1]


# 4 ------------------------------------------------------------------------------------------------------------------


def closest_normal(weights, locs, scales):
    """The normal density q that comes closest to a mixture p of normals, by KL(p‖q).

        p(x) = Σ_k w_k N(x; μ_k, σ_k²),   q = the normal with the smallest KL(p‖q)

    In this direction q has to cover all of p.  Write KL(p‖q) as a function of the mean
    and the standard deviation of q, and set its two derivatives to zero.

    weights, locs, scales: w_k ≥ 0 with the sum 1, the means μ_k, the standard
    deviations σ_k > 0, each of shape (*batch, n), with the n components in the last
    axis and any batch axes.  Returns shape (*batch, 2): the mean of q, then its
    standard deviation.
    """
    loc = (weights * locs).sum(-1)
    var = (weights * (scales**2 + (locs - loc[..., None]) ** 2)).sum(-1)
    return torch.stack([loc, var.sqrt()], -1)


exercise = Exercise(
    closest_normal,
    hints=[
        "Only −∫ p(x) log q(x) dx depends on q. For a normal q with mean m and standard deviation s it is "
        "log s + E[(x − m)²]/(2s²) and a constant, with the mean E taken under p.",
        "The derivatives are zero where m is the mean of p and s² is the variance of p. So q has the two moments of p.",
        "The variance of a mixture has two parts: the mean of the variances σ_k², and the variance of the means, "
        "Σ w_k (μ_k − m)². Add them, take the root, and stack m and s in the last axis.",
    ],
)


@exercise.check
def _(attempt, generator):
    x = torch.linspace(-25, 25, 1001, dtype=torch.float64)  # beyond there is nothing, and the sum is as good as exact

    def want(weights, locs, scales):
        mixture = MixtureSameFamily(Categorical(weights), Normal(locs, scales))
        share = mixture.log_prob(x.view(-1, *[1] * (weights.ndim - 1))).exp().movedim(0, -1) * (x[1] - x[0])
        loc = share @ x
        return torch.stack([loc, (share * (x - loc[..., None]) ** 2).sum(-1).sqrt()], -1)

    w, (a, s, r) = inputs.tenth(0.1, 0.4, generator=generator), inputs.tenth(0.4, 1.5, 3, generator=generator)
    given = torch.stack([1 - w, w]), torch.stack([-a, 2 * a]), torch.stack([s, r])
    what = "closest_normal for weights {}, locs {}, scales {}".format(*map(inputs.numbers, given))
    yield Case(what, attempt(*given), want(*given))
    for n, batch, dtype in (
        (3, (), torch.float64),
        (2, (4,), torch.float64),
        (5, (2, 3), torch.float64),
        (3, (4,), torch.float32),
    ):
        weights = _share(inputs.uniform(0.2, 1, *batch, n, generator=generator))
        locs = inputs.uniform(-3, 3, *batch, n, generator=generator)
        given = weights, locs, inputs.uniform(0.4, 1.5, *batch, n, generator=generator)
        what = f"closest_normal for {n} components and batch axes {batch}"
        yield inputs.case(what, dtype, attempt(*(a.to(dtype) for a in given)), want(*given))


@exercise.alternative
def from_second_moments(weights, locs, scales):
    loc = (weights * locs).sum(-1)
    second = (weights * (scales**2 + locs**2)).sum(-1)
    return torch.stack([loc, torch.sqrt(second - loc**2)], -1)


@exercise.alternative
def by_the_mixtures_own_moments(weights, locs, scales):
    mixture = MixtureSameFamily(Categorical(weights), Normal(locs, scales))
    return torch.stack([mixture.mean, mixture.stddev], -1)


@exercise.alternative
def from_pairs_of_components(weights, locs, scales):
    pairs = weights[..., None, :] * weights[..., :, None] * (locs[..., None, :] - locs[..., :, None]) ** 2
    var = (weights * scales**2).sum(-1) + pairs.sum((-2, -1)) / 2
    return torch.stack([torch.einsum("...k,...k->...", weights, locs), var**0.5], -1)


def _with_var(weights, locs, var):
    return torch.stack([(weights * locs).sum(-1), var.sqrt()], -1)


def _between(weights, locs):
    return (weights * (locs - (weights * locs).sum(-1, keepdim=True)) ** 2).sum(-1)


@exercise.mistake(
    "Your scale is the mean of the scales. The normal has to cover the gaps between the components too, and is wider: "
    "what adds up are variances, those within the components and that of their means."
)
def mean_of_scales(weights, locs, scales):
    return torch.stack([(weights * locs).sum(-1), (weights * scales).sum(-1)], -1)


@exercise.mistake(
    "You have the mean of the variances within the components. The components also lie apart: add the variance of "
    "their means, Σ w_k (μ_k − m)²."
)
def within_alone(weights, locs, scales):
    return _with_var(weights, locs, (weights * scales**2).sum(-1))


@exercise.mistake(
    "You have the variance of the means alone, as if each component were a point. Add the mean of the variances within "
    "them, Σ w_k σ_k²."
)
def between_alone(weights, locs, scales):
    return _with_var(weights, locs, _between(weights, locs))


@exercise.mistake("The second number of yours is the variance. A scale is a standard deviation: take its square root.")
def variance_for_scale(weights, locs, scales):
    loc, scale = closest_normal(weights, locs, scales).unbind(-1)
    return torch.stack([loc, scale**2], -1)


@exercise.mistake(
    "The weights are not used: all components count the same in yours. A component of weight 0.9 pulls nine times as "
    "hard as one of weight 0.1."
)
def components_alike(weights, locs, scales):
    return closest_normal(torch.full_like(weights, 1 / weights.shape[-1]), locs, scales)


@exercise.mistake(
    "The mean is right, but the weights are missing in the variance. Both parts of it are weighted means: "
    "Σ w_k σ_k² and Σ w_k (μ_k − m)²."
)
def variance_not_weighted(weights, locs, scales):
    loc = (weights * locs).sum(-1)
    return torch.stack([loc, (scales**2 + (locs - loc[..., None]) ** 2).mean(-1).sqrt()], -1)


@exercise.mistake(
    "The scales are not squared in your variance. The scale is a standard deviation, and what adds up is σ_k²."
)
def scales_not_squared(weights, locs, scales):
    return _with_var(weights, locs, (weights * scales).sum(-1) + _between(weights, locs))


@exercise.mistake(
    "You have the mean of x², which is counted from 0. The variance is counted from the mean: subtract m²."
)
def counted_from_zero(weights, locs, scales):
    return _with_var(weights, locs, (weights * (scales**2 + locs**2)).sum(-1))


@exercise.mistake(
    "You took the heaviest component and left out the others. A q that ignores some of p pays there: log q is very low "
    "where p puts samples. To look for one mode is what KL(q‖p) does, the other direction."
)
def heaviest_component(weights, locs, scales):
    top = weights.argmax(-1, keepdim=True)
    return torch.cat([locs.gather(-1, top), scales.gather(-1, top)], -1)


@exercise.mistake(
    "That is the variance of a weighted sum of independent numbers, Σ w_k² σ_k². A mixture is something else: each "
    "sample comes from one of the components."
)
def sum_of_independent_numbers(weights, locs, scales):
    return _with_var(weights, locs, (weights**2 * scales**2).sum(-1))


@exercise.mistake(
    "You took the root of each part and then added: √within + √between. Variances add up, standard deviations do not: "
    "add first, then take the root."
)
def roots_added(weights, locs, scales):
    within = (weights * scales**2).sum(-1)
    return torch.stack([(weights * locs).sum(-1), within.sqrt() + _between(weights, locs).sqrt()], -1)


@exercise.mistake(
    "You corrected the variance by n/(n − 1), as torch.var does for a sample. The components are the whole mixture, "
    "not a sample of it: their weighted variance is exact as it is."
)
def corrected_as_a_sample(weights, locs, scales):
    n = weights.shape[-1]
    return _with_var(weights, locs, (weights * scales**2).sum(-1) + _between(weights, locs) * n / (n - 1))


@exercise.mistake("The two numbers have changed places: the mean comes first in the last axis, then the scale.")
def scale_in_front(weights, locs, scales):
    return closest_normal(weights, locs, scales).flip(-1)


@exercise.mistake(
    "Mean and scale stand in the first axis, shape (2, *batch). torch.stack makes its new axis in front unless told "
    "otherwise: torch.stack([loc, scale], -1)."
)
def stacked_in_front(weights, locs, scales):
    return closest_normal(weights, locs, scales).movedim(-1, 0)


@exercise.mistake("You returned the logarithm of the scale. The standard deviation itself is asked for.")
def log_scale(weights, locs, scales):
    loc, scale = closest_normal(weights, locs, scales).unbind(-1)
    return torch.stack([loc, scale.log()], -1)


# 5 ------------------------------------------------------------------------------------------------------------------


def k3_estimate(log_p, log_q):
    """An estimate of KL(p‖q) from samples of p, which no sample can make negative.

        k3 = eˡ − 1 − ℓ,   ℓ = log q(x) − log p(x)

    The mean of −ℓ under p is KL(p‖q), and the mean of eˡ − 1 is 0.  So k3 has the right
    mean, and since eˡ ≥ 1 + ℓ it is never negative.

    log_p, log_q: the log-densities of p and of q at samples x of p, shape
    (*batch, samples), with any batch axes.  Returns the mean of k3 over the samples,
    shape (*batch).
    """
    log_ratio = log_q - log_p
    return (torch.expm1(log_ratio) - log_ratio).mean(-1)


exercise = Exercise(
    k3_estimate,
    hints=[
        "Which way round is ℓ? The samples come from p, and the mean of q(x)/p(x) under p is ∫ q(x) dx = 1.",
        "Compute k3 for each sample first. The mean comes last, and over the last axis alone.",
        "With log_ratio = log_q - log_p, k3 is torch.exp(log_ratio) - 1 - log_ratio, then .mean(-1). torch.expm1 "
        "computes eˡ − 1 to more digits where ℓ is small.",
    ],
)


@exercise.check
def _(attempt, generator):
    few = torch.stack([inputs.tenth(*bounds, generator=generator) for bounds in ((0.2, 0.8), (1.2, 3))])
    asked = [(few, torch.float64, f"two samples with q(x)/p(x) = {few[0]:.1f} and {few[1]:.1f}")]
    for shape, dtype in (
        ((7,), torch.float64),
        ((3, 5), torch.float64),
        ((2, 3, 4), torch.float64),
        ((4, 6), torch.float32),
    ):
        ratio = inputs.normal(*shape, generator=generator).exp()
        asked.append((ratio, dtype, f"log_p and log_q of shape {shape}"))
    for ratio, dtype, what in asked:  # here the ratio comes first, and the log-densities are made to fit
        log_p = inputs.normal(*ratio.shape, generator=generator) - 1
        log_q = log_p + ratio.log()
        want = (ratio - 1 - ratio.log()).mean(-1)
        yield inputs.case(f"k3_estimate for {what}", dtype, attempt(log_p.to(dtype), log_q.to(dtype)), want)


@exercise.alternative
def from_the_ratio(log_p, log_q):
    ratio = torch.exp(log_q) / torch.exp(log_p)
    return torch.mean(ratio - 1 - torch.log(ratio), dim=-1)


@exercise.alternative
def as_a_correction_of_k1(log_p, log_q):
    n, surprise = log_p.shape[-1], log_p - log_q
    return surprise.mean(-1) + torch.logsumexp(-surprise, -1).exp() / n - 1


@exercise.mistake(
    "Your ℓ is reversed: log p − log q. The samples come from p, where the mean of q/p is ∫ q = 1; that of p/q is not "
    "1, and the e-power no longer cancels."
)
def ratio_upside_down(log_p, log_q):
    return k3_estimate(log_q, log_p)


@exercise.mistake(
    "You weighted for samples of q: with r = p/q, r log r − (r − 1). Here the samples come from p, and no weight is "
    "needed: eˡ − 1 − ℓ with ℓ = log q − log p."
)
def weighted_for_samples_of_q(log_p, log_q):
    log = log_p - log_q
    return (log.exp() * log - log.expm1()).mean(-1)


@exercise.mistake(
    "That is k1, the mean of −ℓ. Its mean is right as well, but single samples are often negative. Add eˡ − 1, which "
    "has the mean 0."
)
def k1_for_k3(log_p, log_q):
    return (log_p - log_q).mean(-1)


@exercise.mistake("You averaged ℓ itself: the mean of ℓ = log q − log p under p is −KL. And k3 is eˡ − 1 − ℓ.")
def mean_of_the_log_ratio(log_p, log_q):
    return (log_q - log_p).mean(-1)


@exercise.mistake(
    "That is k2, ½ℓ². It is never negative either, but its mean is off: it keeps only the first term of the series of "
    "eˡ − 1 − ℓ."
)
def k2_for_k3(log_p, log_q):
    return ((log_q - log_p) ** 2).mean(-1) / 2


@exercise.mistake("You added up the samples. An estimate of a mean is a mean: a hundred samples do not make KL larger.")
def samples_added(log_p, log_q):
    return k3_estimate(log_p, log_q) * log_p.shape[-1]


@exercise.mistake(
    "The −1 is missing. Where p and q agree, ℓ = 0 and eˡ = 1: without the −1 equal densities are one nat apart."
)
def one_not_subtracted(log_p, log_q):
    return k3_estimate(log_p, log_q) + 1


@exercise.mistake(
    "The −ℓ is missing: eˡ − 1 alone has the mean 0 and says nothing about the divergence. It is only there to calm −ℓ."
)
def log_ratio_not_subtracted(log_p, log_q):
    return torch.expm1(log_q - log_p).mean(-1)


@exercise.mistake(
    "You added ℓ where it is subtracted: eˡ − 1 − ℓ. With the plus sign the mean is −KL, and k3 can be negative."
)
def log_ratio_added(log_p, log_q):
    log = log_q - log_p
    return (log.expm1() + log).mean(-1)


@exercise.mistake(
    "Your sign is wrong: 1 + ℓ − eˡ is never positive, and KL is never negative. Turn all three terms around."
)
def k3_negative(log_p, log_q):
    return -k3_estimate(log_p, log_q)


@exercise.mistake("You averaged over the batch too. Each row of samples has an estimate of its own: take .mean(-1).")
def mean_of_everything(log_p, log_q):
    return k3_estimate(log_p, log_q).mean()


@exercise.mistake(
    "You averaged over the first axis. The samples stand in the last: take .mean(-1). The axes in front are a batch."
)
def mean_over_the_first_axis(log_p, log_q):
    log = log_q - log_p
    return (log.expm1() - log).mean(0)


@exercise.mistake(
    "These are the values of k3 for each sample. Their mean over the last axis is the estimate: .mean(-1)."
)
def samples_not_averaged(log_p, log_q):
    log = log_q - log_p
    return log.expm1() - log


@exercise.mistake(
    "You averaged ℓ first and took eˡ − 1 − ℓ of the mean. The e-power of a mean is not the mean of e-powers: take k3 "
    "of each sample, and the mean last."
)
def mean_before_the_power(log_p, log_q):
    log = (log_q - log_p).mean(-1)
    return log.expm1() - log


@exercise.mistake(
    "You took the logarithm of the mean of eˡ. For many samples that goes to log 1 = 0, whatever p and q are."
)
def log_of_the_mean(log_p, log_q):
    return torch.logsumexp(log_q - log_p, -1) - math.log(log_p.shape[-1])


@exercise.mistake(
    "You weighted each sample by p(x). The samples are drawn from p: likely points come more often already, and each "
    "of them counts the same."
)
def weighted_by_p(log_p, log_q):
    log = log_q - log_p
    return (log_p.exp() * (log.expm1() - log)).sum(-1)


# 6 ------------------------------------------------------------------------------------------------------------------


def quiet_units(activations, target):
    """The penalty that keeps a layer quiet, each unit active a share ρ of the time.

        Σ_j [ρ log(ρ/a_j) + (1 − ρ) log((1 − ρ)/(1 − a_j))]

    Here a_j is the mean of unit j over the batch, and the sum runs over the units: the
    KL from the wanted share ρ to the measured one, as for a yes or no, in nats.

    activations: outputs of the units, numbers in (0, 1), shape (batch, units), a row
    for each example.  target: the wanted share ρ in (0, 1), a plain number.  Returns
    one number, shape (), that can be differentiated by the activations.
    """
    share = activations.mean(0)
    yes = target * torch.log(target / share)
    no = (1 - target) * torch.log((1 - target) / (1 - share))
    return (yes + no).sum()


exercise = Exercise(
    quiet_units,
    hints=[
        "First measure how active each unit is, one number for each of them. Only then does the logarithm come.",
        "The batch is axis 0: activations.mean(0) averages over it, shape (units,). A unit is silent the rest of the "
        "time, a share 1 − a_j, and that is the second term.",
        "With share = activations.mean(0), add target * torch.log(target / share) and the same with 1 - target and "
        "1 - share, then .sum(). A share equal to the target adds 0; a larger and a smaller one add more.",
    ],
)


@exercise.check
def _(attempt, generator):
    def want(activations, target):
        share = activations.mean(0)
        return kl_divergence(Bernoulli(torch.full_like(share, target)), Bernoulli(share)).sum()

    target = inputs.tenth(0.1, 0.4, generator=generator).item()
    a, b = inputs.tenth(0.1, 0.9, 2, 2, generator=generator).tolist()
    activations = torch.tensor([a, b], dtype=torch.float64)
    what = f"quiet_units([[{a[0]:.1f}, {a[1]:.1f}], [{b[0]:.1f}, {b[1]:.1f}]], target={target:.1f})"
    yield Case(what, attempt(activations, target), want(activations, target))
    for batch, units, dtype in (8, 5, torch.float64), (3, 6, torch.float64), (6, 3, torch.float32):
        target = inputs.uniform(0.05, 0.4, generator=generator).item()
        activations = inputs.uniform(0.02, 0.98, batch, units, generator=generator)
        what = f"quiet_units for a batch of {batch} and {units} units"
        yield inputs.case(what, dtype, attempt(activations.to(dtype), target), want(activations, target))
    activations = inputs.uniform(0.1, 0.9, 4, 3, generator=generator).requires_grad_()
    share = activations.detach().mean(0)
    slope = ((1 - target) / (1 - share) - target / share) / 4  # each of the 4 examples has a quarter of the share
    answer = inputs.gradient(attempt(activations, target), activations)
    yield Case("the gradient of quiet_units by the activations", answer, slope.expand(4, 3), alike=math.inf)


@exercise.alternative
def bernoullis_of_torch(activations, target):
    share = torch.mean(activations, dim=0)
    return kl_divergence(Bernoulli(share.new_tensor(target)), Bernoulli(share)).sum(-1)


@exercise.alternative
def cross_entropies_less_entropies(activations, target):
    share = activations.sum(0) / len(activations)
    wanted = torch.full_like(share, target)
    crossed = torch.nn.functional.binary_cross_entropy(share, wanted, reduction="sum")
    return crossed - torch.special.entr(wanted).sum() - torch.special.entr(1 - wanted).sum()


def _bernoulli(p, q):
    return p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()


@exercise.mistake(
    "That is the line log(ρ + (1 − ρ)ρ/a) that is passed around, and it is no KL: it is negative for a > ρ (−1.27 at "
    "0.5 for ρ = 0.1), so it rewards busy units. Use the mean of each unit, and both terms of the formula."
)
def the_line_that_is_passed_around(activations, target):
    return torch.log(target + (1 - target) * target / activations).sum()


@exercise.mistake(
    "That is log(ρ + (1 − ρ)ρ/a) of the means, and it is no KL: it is negative for a > ρ (−1.27 at 0.5 for ρ = 0.1), "
    "so it rewards busy units. The logarithms stand apart: ρ log(ρ/a) + (1 − ρ) log((1 − ρ)/(1 − a))."
)
def that_line_on_the_means(activations, target):
    return torch.log(target + (1 - target) * target / activations.mean(0)).sum()


@exercise.mistake(
    "You took the penalty of each activation and averaged afterwards. A unit may be loud now and then: for 0.05 and "
    "0.15 the mean is 0.1, and with ρ = 0.1 the penalty is 0. Average over the batch first."
)
def averaged_afterwards(activations, target):
    return _bernoulli(target, activations).mean(0).sum()


@exercise.mistake(
    "You added up a penalty for each single activation. The formula is about the share of each unit: average over the "
    "batch first, activations.mean(0), then one term for each unit."
)
def never_averaged(activations, target):
    return _bernoulli(target, activations).sum()


@exercise.mistake(
    "You averaged the penalties of all activations. The formula is about the share of each unit: average the "
    "activations over the batch, then add up one term for each unit."
)
def averaged_over_everything_afterwards(activations, target):
    return _bernoulli(target, activations).mean()


@exercise.mistake(
    "You exchanged the two: that is the KL from the measured share to the wanted one. The wanted share ρ stands in "
    "front and on top, which makes a dead unit, a = 0, infinitely bad."
)
def shares_swapped(activations, target):
    return _bernoulli(activations.mean(0), target).sum()


@exercise.mistake(
    "You have ρ log(ρ/a) alone, which is negative for a > ρ. A unit is silent for the rest of the time: add "
    "(1 − ρ) log((1 − ρ)/(1 − a))."
)
def silence_forgotten(activations, target):
    return (target * torch.log(target / activations.mean(0))).sum()


@exercise.mistake("You have (1 − ρ) log((1 − ρ)/(1 − a)) alone. The active part is missing: add ρ log(ρ/a).")
def activity_forgotten(activations, target):
    return ((1 - target) * torch.log((1 - target) / (1 - activations.mean(0)))).sum()


@exercise.mistake(
    "You took the mean over the units. Each unit pays its own price: add up, or a large layer gets away with more."
)
def mean_over_units(activations, target):
    return quiet_units(activations, target) / activations.shape[-1]


@exercise.mistake(
    "You averaged over the units, axis 1, and have a share for each example. Each unit should be quiet over the batch: "
    "activations.mean(0)."
)
def averaged_over_the_units(activations, target):
    return _bernoulli(target, activations.mean(1)).sum()


@exercise.mistake(
    "You averaged over batch and units together. Then one unit may be active all the time if the others are dead: "
    "each unit has its own share, activations.mean(0)."
)
def one_share_for_the_layer(activations, target):
    return _bernoulli(target, activations.mean())


@exercise.mistake(
    "You took the squared error (a − ρ)². The KL looks at ratios: at ρ = 0.05, a unit at 0.01 pays 0.041 and one "
    "at 0.09 only 0.012, at the same distance."
)
def squared_error(activations, target):
    return ((activations.mean(0) - target) ** 2).sum()


@exercise.mistake(
    "That is the cross-entropy −ρ log a − (1 − ρ) log(1 − a). At a = ρ it is not 0: subtract the entropy of ρ, for "
    "each unit."
)
def entropy_not_subtracted(activations, target):
    share = activations.mean(0)
    return -(target * share.log() + (1 - target) * (1 - share).log()).sum()


@exercise.mistake("Your sign is wrong: a penalty is largest where the share is wrong, and never negative.")
def reward_for_activity(activations, target):
    return -quiet_units(activations, target)


@exercise.mistake(
    "The sign of the second term is wrong, or its fraction is upside down: (1 − ρ)/(1 − a) has the wanted share on "
    "top, as ρ/a has, and both terms are added."
)
def silence_subtracted(activations, target):
    share = activations.mean(0)
    yes, no = target * (target / share).log(), (1 - target) * ((1 - target) / (1 - share)).log()
    return (yes - no).sum()


@exercise.mistake(
    "These are the prices of the single units. The penalty of the layer is their sum, one number: .sum()."
)
def units_not_added(activations, target):
    return _bernoulli(target, activations.mean(0))


@exercise.mistake(
    "The number is right, but it is cut off from the activations, so that nothing can be trained with it. Look for "
    "a .detach(), a torch.no_grad() or a torch.tensor(…) around a tensor."
)
def penalty_cut_off(activations, target):
    return quiet_units(activations.detach(), target)


# 7 ------------------------------------------------------------------------------------------------------------------


def clipped_objective(log_prob, old_log_prob, advantage, epsilon):
    """The clipped objective of PPO, which a policy is trained to maximise.

        min(r A, clip(r, 1 − ε, 1 + ε) A),   r = eˡ = π(a)/π_old(a),   A the advantage

    Nothing more is gained by moving the ratio r further than ε from 1; what is lost
    counts in full.  An action has several dimensions, independent of each other: its
    probability is the product of theirs.

    log_prob, old_log_prob: log-probabilities of each dimension of the action under the
    new and the old policy, shape (batch, action_dims).  advantage: A, shape (batch,).
    epsilon: ε in (0, 1), a plain number.  Returns shape (batch,), an objective for each
    action.
    """
    ratio = (log_prob - old_log_prob).sum(-1).exp()
    return torch.minimum(ratio * advantage, ratio.clamp(1 - epsilon, 1 + epsilon) * advantage)


exercise = Exercise(
    clipped_objective,
    hints=[
        "One action, one ratio: first make the log-probability of the whole action out of those of its dimensions.",
        "The logarithm of a product is a sum: add over the last axis. The ratio of two probabilities is exp of the "
        "difference of their logarithms.",
        "With ratio = (log_prob - old_log_prob).sum(-1).exp(), take torch.minimum of ratio * advantage and of "
        "ratio.clamp(1 - epsilon, 1 + epsilon) * advantage. Multiply first, then take the smaller one: for A < 0 it is "
        "the other one.",
    ],
)


@exercise.check
def _(attempt, generator):
    def want(ratio, advantage, epsilon):  # case by case: what is gained ends at ε, what is lost does not
        pairs = zip(ratio.tolist(), advantage.tolist())
        values = [A * (min(r, 1 + epsilon) if A > 0 else max(r, 1 - epsilon)) for r, A in pairs]
        return torch.tensor(values, dtype=torch.float64)

    def policies(ratio, dims):
        """Log-probabilities of each dimension whose sums differ by the logarithm of the ratio."""
        n = len(ratio)
        old = inputs.uniform(-4, 0.5, n, dims, generator=generator)
        parts = inputs.normal(n, dims, generator=generator) / 2
        return old + parts + (ratio.log() - parts.sum(-1))[:, None] / dims, old

    up, down, gain, loss = (
        inputs.tenth(*bounds, generator=generator) for bounds in ((1.5, 2), (0.3, 0.6), (0.5, 3), (0.5, 3))
    )
    ratio, advantage = torch.stack([up, down, up]), torch.stack([gain, gain, -loss])
    what = f"clipped_objective of 3 actions with r = {inputs.numbers(ratio)}, A = {inputs.numbers(advantage)}, ε = 0.2"
    yield Case(what, attempt(*policies(ratio, 2), advantage, 0.2), want(ratio, advantage, 0.2))
    for repeats, dims, dtype in (
        (1, 1, torch.float64),
        (2, 3, torch.float64),
        (3, 4, torch.float64),
        (2, 2, torch.float32),
    ):
        epsilon = inputs.uniform(0.1, 0.3, generator=generator).item()
        r = [inputs.uniform(*bounds, 2 * repeats, generator=generator) for bounds in ((0.2, 0.6), (0.9, 1.1), (1.4, 3))]
        ratio = torch.cat(r)  # below, between and above the two limits, each with both signs of A
        advantage = inputs.uniform(0.3, 2, len(ratio), generator=generator) * (-1.0) ** torch.arange(len(ratio))
        new, old = policies(ratio, dims)
        answer = attempt(new.to(dtype), old.to(dtype), advantage.to(dtype), epsilon)
        what = f"clipped_objective of {len(ratio)} actions of {dims} {'dimensions' if dims > 1 else 'dimension'}"
        yield inputs.case(what, dtype, answer, want(ratio, advantage, epsilon))


@exercise.alternative
def sign_by_sign(log_prob, old_log_prob, advantage, epsilon):
    ratio = torch.exp(log_prob.sum(-1) - old_log_prob.sum(-1))
    best, worst = ratio.clamp(max=1 + epsilon), ratio.clamp(min=1 - epsilon)
    return torch.where(advantage > 0, best, worst) * advantage


@exercise.alternative
def limit_of_the_gain(log_prob, old_log_prob, advantage, epsilon):
    ratio = (log_prob - old_log_prob).exp().prod(-1)
    return torch.min(ratio * advantage, advantage + epsilon * advantage.abs())


def _ratio(log_prob, old_log_prob):
    return (log_prob - old_log_prob).sum(-1).exp()


def _objective(ratio, advantage, epsilon):
    return torch.minimum(ratio * advantage, ratio.clamp(1 - epsilon, 1 + epsilon) * advantage)


@exercise.mistake(
    "You gave each dimension a ratio and an objective of its own, and averaged these. An action has one probability, "
    "the product over its dimensions: sum the log-probabilities first, then take one ratio."
)
def objective_of_each_dimension(log_prob, old_log_prob, advantage, epsilon):
    return _objective((log_prob - old_log_prob).exp(), advantage[:, None], epsilon).mean(-1)


@exercise.mistake(
    "You gave each dimension an objective of its own and added these up. An action has one probability, the product "
    "over its dimensions: sum the log-probabilities first, then take one ratio."
)
def objectives_of_dimensions_added(log_prob, old_log_prob, advantage, epsilon):
    return _objective((log_prob - old_log_prob).exp(), advantage[:, None], epsilon).sum(-1)


@exercise.mistake(
    "You averaged the ratios of the dimensions. The ratio of the whole action is their product: for 1.197 and 0.900 "
    "that is 1.078, and the mean is 1.049. Sum the log-probabilities, then exp."
)
def mean_of_ratios(log_prob, old_log_prob, advantage, epsilon):
    return _objective((log_prob - old_log_prob).exp().mean(-1), advantage, epsilon)


@exercise.mistake(
    "You averaged the log-probabilities over the dimensions. Independent probabilities multiply, so their logarithms "
    "add up: .sum(-1)."
)
def mean_of_log_probabilities(log_prob, old_log_prob, advantage, epsilon):
    return _objective((log_prob - old_log_prob).mean(-1).exp(), advantage, epsilon)


@exercise.mistake(
    "You added up the probabilities of the dimensions before dividing. Independent probabilities multiply: sum their "
    "logarithms, then exp."
)
def ratio_of_added_probabilities(log_prob, old_log_prob, advantage, epsilon):
    return _objective(log_prob.exp().sum(-1) / old_log_prob.exp().sum(-1), advantage, epsilon)


@exercise.mistake(
    "You clipped the ratio of each dimension and multiplied afterwards. Three dimensions may then move by 1.2³ = 1.73: "
    "the ratio of the whole action is what is clipped."
)
def each_dimension_clipped(log_prob, old_log_prob, advantage, epsilon):
    clipped = (log_prob - old_log_prob).exp().clamp(1 - epsilon, 1 + epsilon).prod(-1)
    return torch.minimum(_ratio(log_prob, old_log_prob) * advantage, clipped * advantage)


@exercise.mistake(
    "You have an objective for each dimension, shape (batch, action_dims). An action is judged as a whole: sum the "
    "log-probabilities over the last axis first."
)
def dimensions_kept_apart(log_prob, old_log_prob, advantage, epsilon):
    return _objective((log_prob - old_log_prob).exp(), advantage[:, None], epsilon)


@exercise.mistake(
    "You took the larger of the two. The objective is to be maximised, so the cautious one is the smaller: with "
    "r = 1.5, A = 2 and ε = 0.2 it is 2.4, not 3."
)
def larger_one(log_prob, old_log_prob, advantage, epsilon):
    ratio = _ratio(log_prob, old_log_prob)
    return torch.maximum(ratio * advantage, ratio.clamp(1 - epsilon, 1 + epsilon) * advantage)


@exercise.mistake(
    "You clipped, but took no minimum. Then a step that made things worse, r = 1.5 with A = −2, loses only 2.4 for 3, "
    "and no gradient leads back: take the smaller of r A and clip(r) A."
)
def clip_without_minimum(log_prob, old_log_prob, advantage, epsilon):
    return _ratio(log_prob, old_log_prob).clamp(1 - epsilon, 1 + epsilon) * advantage


@exercise.mistake(
    "You took r A, with no limit. The gain has to end at ε: the smaller of r A and clip(r, 1 − ε, 1 + ε) A."
)
def never_clipped(log_prob, old_log_prob, advantage, epsilon):
    return _ratio(log_prob, old_log_prob) * advantage


@exercise.mistake(
    "Your ratio is a difference of logarithms: exp is missing. Where both policies agree the ratio is 1, and log 1 = 0."
)
def ratio_without_exp(log_prob, old_log_prob, advantage, epsilon):
    return _objective((log_prob - old_log_prob).sum(-1), advantage, epsilon)


@exercise.mistake(
    "You divided log-probabilities. The ratio is that of probabilities: exp of the difference of their logarithms."
)
def logarithms_divided(log_prob, old_log_prob, advantage, epsilon):
    return _objective(log_prob.sum(-1) / old_log_prob.sum(-1), advantage, epsilon)


@exercise.mistake(
    "That is the loss, with a minus sign for an optimiser that minimises. The objective to be maximised is asked for, "
    "without it."
)
def loss_for_objective(log_prob, old_log_prob, advantage, epsilon):
    return -clipped_objective(log_prob, old_log_prob, advantage, epsilon)


@exercise.mistake(
    "You clipped the product r A to [1 − ε, 1 + ε]. It is the ratio that is clipped; the advantage may have any size."
)
def product_clipped(log_prob, old_log_prob, advantage, epsilon):
    product = _ratio(log_prob, old_log_prob) * advantage
    return torch.minimum(product, product.clamp(1 - epsilon, 1 + epsilon))


@exercise.mistake(
    "You took the smaller ratio first and multiplied by A afterwards. For A < 0 the smaller product comes from the "
    "larger ratio: multiply both by A, then take the minimum."
)
def minimum_before_the_advantage(log_prob, old_log_prob, advantage, epsilon):
    ratio = _ratio(log_prob, old_log_prob)
    return torch.minimum(ratio, ratio.clamp(1 - epsilon, 1 + epsilon)) * advantage


@exercise.mistake(
    "You divided probabilities and added 1e-5 below, to be safe. That is not 1 where both policies agree, and for a "
    "rare action far from it: 0.129 at 5 standard deviations. exp(log_prob − old_log_prob) needs no such help."
)
def small_number_below(log_prob, old_log_prob, advantage, epsilon):
    ratio = log_prob.sum(-1).exp() / (old_log_prob.sum(-1).exp() + 1e-5)
    return _objective(ratio, advantage, epsilon)


@exercise.mistake(
    "You clipped log r to [−ε, ε]. The limits are for the ratio itself: 1 − ε and 1 + ε. e^0.2 is 1.221, not 1.2."
)
def logarithm_clipped(log_prob, old_log_prob, advantage, epsilon):
    log = (log_prob - old_log_prob).sum(-1)
    return torch.minimum(log.exp() * advantage, log.clamp(-epsilon, epsilon).exp() * advantage)


@exercise.mistake("You averaged over the batch. Each action has an objective of its own here: shape (batch,).")
def actions_averaged(log_prob, old_log_prob, advantage, epsilon):
    return clipped_objective(log_prob, old_log_prob, advantage, epsilon).mean()


@exercise.mistake(
    "Your ratio is upside down, the old probability over the new one. An action that got likelier has a ratio above 1: "
    "exp(log_prob − old_log_prob)."
)
def old_over_new(log_prob, old_log_prob, advantage, epsilon):
    return clipped_objective(old_log_prob, log_prob, advantage, epsilon)


@exercise.mistake("You clipped to [−ε, ε], around 0. A ratio moves around 1: the limits are 1 − ε and 1 + ε.")
def clipped_around_zero(log_prob, old_log_prob, advantage, epsilon):
    ratio = _ratio(log_prob, old_log_prob)
    return torch.minimum(ratio * advantage, ratio.clamp(-epsilon, epsilon) * advantage)


# 8 ------------------------------------------------------------------------------------------------------------------


def elbo_of_a_guess(x, loc, scale, noise):
    """The lower bound on log p(x) (ELBO) from a guess at what lies behind x.

        E_q[log p(x|z)] − KL(q‖p(z)),   p(z) = N(0, 1),   p(x|z) = N(z, noise²)

    The guess q = N(loc, scale²) is for z once x has been seen.  Keep every constant:
    then the bound is log p(x) − KL(q‖p(z|x)), in nats.

    x: what was seen.  loc, scale: mean and standard deviation > 0 of the guess q.
    noise: the standard deviation > 0 of x around z.  Four tensors of one shape.
    Returns that shape, entry by entry.
    """
    reconstruction = -0.5 * math.log(2 * math.pi) - noise.log() - ((x - loc) ** 2 + scale**2) / (2 * noise**2)
    kl = (loc**2 + scale**2 - 1) / 2 - scale.log()
    return reconstruction - kl


exercise = Exercise(
    elbo_of_a_guess,
    hints=[
        "Two parts. The first is the mean, under q, of the log-density of x around z; the second is a KL between two "
        "normals that you have in closed form.",
        "Start from log p(x|z) = −½ log 2π − log noise − (x − z)²/(2 noise²). Under q, z moves around loc: the mean of "
        "(x − z)² is (x − loc)² + scale².",
        "KL(q‖N(0, 1)) is ½(loc² + scale² − 1) − log scale. Subtract it from "
        "−½ log 2π − log noise − ((x − loc)² + scale²)/(2 noise²).",
    ],
)


@exercise.check
def _(attempt, generator):
    def want(
        x, loc, scale, noise
    ):  # log p(x), less what the guess is away from the posterior N(x/(1 + n²), n²/(1 + n²))
        var = 1 + noise**2
        posterior = Normal(x / var, noise / var.sqrt())
        return Normal(0.0, var.sqrt()).log_prob(x) - kl_divergence(Normal(loc, scale), posterior)

    x, loc = inputs.tenth(-2, 2, 2, generator=generator)
    scale, noise = inputs.tenth(0.3, 2, 2, generator=generator)
    what = f"elbo_of_a_guess for x = {x:.1f}, loc = {loc:.1f}, scale = {scale:.1f}, noise = {noise:.1f}"
    yield Case(what, attempt(x, loc, scale, noise), want(x, loc, scale, noise))
    x, noise = inputs.normal(4, generator=generator), inputs.uniform(0.3, 2, 4, generator=generator)
    var = 1 + noise**2
    evidence = -(torch.log(2 * math.pi * var) + x**2 / var) / 2
    what = "elbo_of_a_guess for the posterior as guess, where it is log p(x),"
    yield Case(what, attempt(x, x / var, noise / var.sqrt(), noise), evidence)
    for shape, dtype in ((5,), torch.float64), ((2, 3), torch.float64), ((4,), torch.float32):
        x, loc = 1.5 * inputs.normal(2, *shape, generator=generator)
        scale, noise = inputs.uniform(0.3, 2, 2, *shape, generator=generator)
        given = x, loc, scale, noise
        what = f"elbo_of_a_guess for tensors of shape {shape}"
        yield inputs.case(what, dtype, attempt(*(a.to(dtype) for a in given)), want(*given))


@exercise.alternative
def with_torch_distributions(x, loc, scale, noise):
    spread = scale**2 / (2 * noise**2)
    return Normal(loc, noise).log_prob(x) - spread - kl_divergence(Normal(loc, scale), Normal(0.0, 1.0))


@exercise.alternative
def joint_and_entropy(x, loc, scale, noise):
    joint = -torch.log(2 * math.pi * noise) - ((x - loc) ** 2 + scale**2) / (2 * noise**2) - (loc**2 + scale**2) / 2
    return joint + 0.5 * torch.log(2 * math.pi * math.e * scale**2)


@exercise.alternative
def nodes_of_gauss_and_hermite(x, loc, scale, noise):
    points = [(-(3**0.5), 1 / 6), (0.0, 2 / 3), (3**0.5, 1 / 6)]
    q, total = Normal(loc, scale), 0
    for node, weight in points:
        z = loc + node * scale
        total = total + weight * (Normal(z, noise).log_prob(x) + Normal(0.0, 1.0).log_prob(z) - q.log_prob(z))
    return total


def _prior_kl(loc, scale):
    return (loc**2 + scale**2 - 1) / 2 - scale.log()


def _elbo(x, loc, scale, noise, kl):
    return elbo_of_a_guess(x, loc, scale, noise) + _prior_kl(loc, scale) - kl


@exercise.mistake(
    "You added the KL. It is the price of leaving the prior, and it is subtracted: E_q[log p(x|z)] − KL(q‖N(0, 1))."
)
def kl_added(x, loc, scale, noise):
    return _elbo(x, loc, scale, noise, -_prior_kl(loc, scale))


@exercise.mistake(
    "Your KL goes the wrong way, from the prior to the guess. The mean is taken under q: KL(q‖N(0, 1)), which is "
    "½(loc² + scale² − 1) − log scale."
)
def kl_from_the_prior(x, loc, scale, noise):
    return _elbo(x, loc, scale, noise, kl_of_normals(torch.zeros_like(loc), torch.ones_like(scale), loc, scale))


@exercise.mistake(
    "The constant −½ log 2π of the density of x is missing, −0.919. It changes no gradient, but only with it the bound "
    "can be compared with log p(x)."
)
def two_pi_forgotten(x, loc, scale, noise):
    return elbo_of_a_guess(x, loc, scale, noise) + math.log(2 * math.pi) / 2


@exercise.mistake("You have −log 2π where it should be half of it: the density of a normal has √(2π) below.")
def two_pi_without_root(x, loc, scale, noise):
    return elbo_of_a_guess(x, loc, scale, noise) - math.log(2 * math.pi) / 2


@exercise.mistake(
    "You put z = loc into log p(x|z). Under q, z moves around loc: the mean of (x − z)² is (x − loc)² + scale². As it "
    "stands, the bound can exceed log p(x)."
)
def spread_of_the_guess_forgotten(x, loc, scale, noise):
    return elbo_of_a_guess(x, loc, scale, noise) + scale**2 / (2 * noise**2)


@exercise.mistake(
    "The mean of (x − z)² has scale² in it, a variance; you have scale. The scale is a standard deviation."
)
def scale_for_variance(x, loc, scale, noise):
    return elbo_of_a_guess(x, loc, scale, noise) + (scale**2 - scale) / (2 * noise**2)


@exercise.mistake(
    "You took `noise` for a variance. It is a standard deviation: the square is divided by 2 noise², and the logarithm "
    "is log noise."
)
def noise_as_variance(x, loc, scale, noise):
    return elbo_of_a_guess(x, loc, scale, noise.sqrt())


@exercise.mistake(
    "You took `scale` for a variance. It is a standard deviation: scale² in the squares, and −log scale in the KL."
)
def scale_as_variance(x, loc, scale, noise):
    return elbo_of_a_guess(x, loc, scale.sqrt(), noise)


@exercise.mistake(
    "The logarithm of the noise is missing. A density of width `noise` has 1/noise in front: subtract log noise."
)
def log_noise_forgotten(x, loc, scale, noise):
    return elbo_of_a_guess(x, loc, scale, noise) + noise.log()


@exercise.mistake(
    "The sign of log noise is wrong: the density has 1/noise in front, so subtract it. Small noise, high density."
)
def log_noise_added(x, loc, scale, noise):
    return elbo_of_a_guess(x, loc, scale, noise) + 2 * noise.log()


@exercise.mistake("You have log noise² where it should be half of it: −½ log(2π noise²) is −½ log 2π − log noise.")
def log_noise_twice(x, loc, scale, noise):
    return elbo_of_a_guess(x, loc, scale, noise) - noise.log()


@exercise.mistake("You have ½ log noise, as for a variance: −½ log(2π noise²) is −½ log 2π − log noise.")
def log_noise_halved(x, loc, scale, noise):
    return elbo_of_a_guess(x, loc, scale, noise) + noise.log() / 2


@exercise.mistake(
    "The logarithm of `scale` has the wrong sign. A narrow guess says more than the prior, and that costs: the KL has "
    "−log scale, so the bound has +log scale."
)
def entropy_sign(x, loc, scale, noise):
    return elbo_of_a_guess(x, loc, scale, noise) - 2 * scale.log()


@exercise.mistake(
    "The logarithm of `scale` is missing in the KL: ½(loc² + scale² − 1) − log scale. Without it the "
    "best guess would have no width."
)
def log_scale_forgotten(x, loc, scale, noise):
    return elbo_of_a_guess(x, loc, scale, noise) - scale.log()


@exercise.mistake("Your KL lacks the −½. For q = N(0, 1) it has to be 0: ½(0 + 1 − 1) − log 1.")
def half_of_the_kl_forgotten(x, loc, scale, noise):
    return elbo_of_a_guess(x, loc, scale, noise) - 0.5


@exercise.mistake("Your KL does not know where the guess lies: loc² is missing in ½(loc² + scale² − 1) − log scale.")
def guess_at_zero(x, loc, scale, noise):
    return elbo_of_a_guess(x, loc, scale, noise) + loc**2 / 2


@exercise.mistake("The ½ of the first square is missing: ((x − loc)² + scale²) is divided by 2 noise², not by noise².")
def square_not_halved(x, loc, scale, noise):
    return elbo_of_a_guess(x, loc, scale, noise) - ((x - loc) ** 2 + scale**2) / (2 * noise**2)


@exercise.mistake("That is the first part, E_q[log p(x|z)]. Alone it draws q to a point at x: subtract KL(q‖N(0, 1)).")
def reconstruction_alone(x, loc, scale, noise):
    return _elbo(x, loc, scale, noise, 0.0)


@exercise.mistake(
    "That is the loss, the bound with a minus sign. The bound itself is asked for, which lies below log p(x)."
)
def loss_for_bound(x, loc, scale, noise):
    return -elbo_of_a_guess(x, loc, scale, noise)


@exercise.mistake(
    "You returned log p(x) itself, without the guess. The bound depends on q, and reaches log p(x) only where q is the "
    "posterior."
)
def evidence_itself(x, loc, scale, noise):
    return Normal(0.0, (1 + noise**2).sqrt()).log_prob(x)


@exercise.mistake("You added up all entries. Each x has its own guess and its own bound: the shape stays.")
def bounds_added(x, loc, scale, noise):
    return elbo_of_a_guess(x, loc, scale, noise).sum()


# 9 ------------------------------------------------------------------------------------------------------------------


def tiny_gap(x):
    """The gap x − log(1 + x), right to its last digits where x is tiny.

        x − log(1 + x) = x²/2 − x³/3 + x⁴/4 − …

    Every KL is made of such gaps.  As it is written, the left side subtracts two nearly
    equal numbers: at x = 1e-9 it should give 5e-19, and no digit of that is left.  The
    series on the right is of no use for large x.

    x: numbers > −1, any shape, from 1e-30 in size (1e-15 in float32) to 20.  Returns
    that shape, with an error below 1e-12 (1e-5 in float32) of the value itself.
    """
    near = x.abs() < 0.1
    t = torch.where(near, x, 0.0)
    series = torch.zeros_like(x)
    for k in range(20, 1, -1):  # 1/2 − t (1/3 − t (1/4 − …))
        series = 1 / k - t * series
    return torch.where(near, t**2 * series, x - torch.log1p(x))


exercise = Exercise(
    tiny_gap,
    hints=[
        "Two ranges, two formulas: where do both sides still work? torch.where takes the one or the other, entry by "
        "entry.",
        "For |x| < 0.1, the terms of the series shrink tenfold each, and so 15 or more of them are enough for float64. "
        "Beyond, x - torch.log1p(x) loses no more than a digit or two.",
        "Sum (-1)**k * x**k / k for k = 2, …, 20 and take torch.where(x.abs() < 0.1, series, x - torch.log1p(x)). Keep "
        "the dtype of x.",
    ],
)


@exercise.check
def _(attempt, generator):
    def exact(x):
        with mpmath.workdps(80):  # at x = 1e-30 the first 30 digits cancel
            gaps = [float(mpmath.mpf(value) - mpmath.log1p(mpmath.mpf(value))) for value in x.flatten().tolist()]
        return torch.tensor(gaps, dtype=torch.float64).reshape(x.shape)

    def size(low, high, *shape):
        x = 10 ** inputs.uniform(low, high, *shape, generator=generator)
        return x * inputs.signs(shape, generator)

    def multiple(got, x, r):
        """The answer in units of exact/r, so that it should be r: of 1e-40 as it stands, nothing would be seen."""
        if not torch.is_tensor(got) or (got.shape, got.dtype) != (x.shape, x.dtype):
            return got
        return (got.double() / exact(x) * r).to(got.dtype)

    far = torch.cat([-inputs.uniform(0.9, 0.99, 2, generator=generator), size(0, 1.3, 6).abs()])
    for what, x, dtype, tol, alike in (
        ("x = {:.3g}", size(-12, -9), torch.float64, 1e-12, 0.02),
        ("x of size 1e-30 to 1e-17", size(-30, -17, 8), torch.float64, 1e-12, None),
        ("x of size 1e-15 to 1e-9", size(-15, -9, 6), torch.float32, 1e-5, None),
        ("x of size 1e-9 to 0.3", size(-9, -0.5, 24), torch.float64, 1e-12, 0.02),
        ("x of size 0.01 to 0.3", size(-2, -0.5, 3, 8), torch.float64, 1e-12, 0.02),
        ("x of size 1e-3 to 0.3", size(-3, -0.5, 2, 8), torch.float32, 1e-5, math.inf),
        ("x of size 0.2 to 0.8", size(-0.7, -0.1, 2, 5), torch.float64, 1e-12, 0.1),
        ("x from -0.99 to -0.9 and 1 to 20", far, torch.float64, 1e-12, math.inf),
    ):
        x, r = x.to(dtype), inputs.uniform(1, 2, *x.shape, generator=generator)
        got = multiple(attempt(x), x, r)
        what = what.format(x.flatten()[0]) + (" in float32" if dtype == torch.float32 else "")
        yield Case(f"tiny_gap(x) as a multiple of (x − log(1 + x))/r, for {what},", got, r.to(dtype), tol, alike)
    if torch.is_tensor(got) and got.shape == r.shape:  # a series explodes for large x, each in its own way
        got = (~((got - r).abs() < 1e-6)).double().mean()
    yield Case("the share of wrong answers for these x", got, torch.zeros_like(r[0]), alike=0.5)


@exercise.alternative
def by_areatangent(x):
    near = x.abs() < 0.5
    s = torch.where(near, x / (2 + x), 0.0)  # log(1 + x) = 2 (s + s³/3 + s⁵/5 + …), and x − 2s = s x
    tail = sum(s ** (2 * k + 3) / (2 * k + 3) for k in range(20))
    return torch.where(near, s * x - 2 * tail, x - torch.log1p(x))


@exercise.alternative
def as_an_integral(x):
    node, weight = (x.new_tensor(a) for a in np.polynomial.legendre.leggauss(20))
    node, weight = (node + 1) / 2, weight / 2
    near = x.abs() < 0.5
    t = torch.where(near, x, 0.0)[..., None]
    integral = (weight * node / (1 + t * node)).sum(-1)  # the gap is x² ∫ s/(1 + x s) ds from 0 to 1
    return torch.where(near, x**2 * integral, x - x.log1p())


def _switched(x, series, at=0.1):
    return torch.where(x.abs() < at, series, x - torch.log1p(x))


@exercise.mistake(
    "You wrote it as it stands, and 1 + x alone loses all of a tiny x: 1 + 1e-20 is 1, its logarithm 0, and the answer "
    "1e-20 for 5e-41. Take the series where |x| is small, and torch.log1p elsewhere."
)
def as_it_stands(x):
    return x - torch.log(1 + x)


@exercise.mistake(
    "The logarithm, log1p, is right to its last digit, but then you subtract two nearly equal numbers: for x = 1e-20 "
    "both are 1e-20, and the answer is 0 for 5e-41. Where |x| is small, sum the series instead."
)
def log1p_subtracted(x):
    return x - torch.log1p(x)


@exercise.mistake(
    "You computed x − log(1 + x) in float64 and went back. That moves the trouble, from 1e-7 to 1e-16, and does not "
    "cure it: take the series where |x| is small."
)
def detour_by_float64(x):
    return (x.double() - torch.log1p(x.double())).to(x.dtype)


@exercise.mistake(
    "Your answers are float64 for an x in float32. The result follows the dtype of x; with the series no float64 is "
    "needed on the way."
)
def answers_in_float64(x):
    return tiny_gap(x.double())


@exercise.mistake(
    "You have the first term, x²/2. It is right for the tiniest x alone: at x = 0.01 it is off by 0.7 %, at 1 by 63 %. "
    "Take more terms, and x − log1p(x) where |x| is large."
)
def half_a_square(x):
    return x**2 / 2


@exercise.mistake(
    "Your switch is there, but below it you have x²/2 alone. Just below 0.1 that is off by 7 %: sum 15 terms or more."
)
def half_a_square_below_the_switch(x):
    return _switched(x, x**2 / 2)


@exercise.mistake(
    "Two terms, x²/2 − x³/3, are right for tiny x alone. At x = 0.1 they are off by half a percent, and for x > 1.5 "
    "they are negative: take more terms, and x − log1p(x) where |x| is large."
)
def two_terms(x):
    return x**2 / 2 - x**3 / 3


@exercise.mistake(
    "Your series is right for small x, but it is used for all. From |x| = 1 on its terms grow, x²⁰/20 for x = 10 to "
    "5e18: take x − log1p(x) there, with torch.where."
)
def series_for_all(x):
    return sum((-1) ** k * x**k / k for k in range(2, 21))


@exercise.mistake(
    "The signs of the series have to alternate: x²/2 − x³/3 + x⁴/4 − …. With plus signs throughout it is "
    "−log(1 − x) − x."
)
def signs_do_not_alternate(x):
    return _switched(x, sum(x**k / k for k in range(2, 21)))


@exercise.mistake(
    "All terms of the series have the wrong sign. The gap is never negative: x is never below log(1 + x), and the "
    "series begins with +x²/2."
)
def series_negative(x):
    return torch.where(x.abs() < 0.1, -tiny_gap(x), tiny_gap(x))


@exercise.mistake(
    "The denominators of the series are missing: the terms are x²/2, x³/3, x⁴/4. Without them it is that of "
    "x²/(1 + x), twice the gap for tiny x."
)
def denominators_forgotten(x):
    return _switched(x, x**2 / (1 + x))


@exercise.mistake(
    "Your series has factorials, as that of the e-power. The logarithm's has the plain numbers: x²/2, x³/3, x⁴/4."
)
def factorials_below(x):
    return _switched(x, sum((-1) ** k * x**k / math.factorial(k) for k in range(2, 21)))


@exercise.mistake(
    "Tiny and large x are right, but in between digits are lost. Either the series has too few terms up to the switch, "
    "or the switch comes too early, where x − log1p(x) still cancels: at |x| = 0.1, with 15 terms, both are fine."
)
def digits_lost_in_between(x):
    return _switched(x, x**2 / 2 - x**3 / 3, at=1e-3)


@exercise.mistake(
    "Near −1 the series needs far too many terms. If your switch asks for x < 0.1, it sends all negative x there: ask "
    "for x.abs() < 0.1. If it asks for |x| < 1, that is too late."
)
def series_near_minus_one(x):
    return torch.where(x < 0.1, sum((-x) ** k / k for k in range(2, 21)), x - torch.log1p(x))


@exercise.mistake("Your sign is wrong: you subtracted x from the logarithm. The gap x − log(1 + x) is never negative.")
def gap_negative(x):
    return -tiny_gap(x)


@exercise.mistake("You returned the logarithm alone. The gap is what x is larger by: x − log(1 + x).")
def logarithm_alone(x):
    return torch.log1p(x)
