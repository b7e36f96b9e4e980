"""The exercises of the flows chapter, from one dimension to a matrix whose determinant is known beforehand.

After each reference solution come its hints, its check, other correct solutions and the mistakes people make.  What an
answer is compared with takes another road than the solution: densities of torch.distributions, the way back, the
determinant of a Jacobian made by brute force, or sums of plain numbers.
"""

import math
from statistics import fmean, pstdev, stdev

import numpy as np
import torch
from torch.distributions import AffineTransform, Cauchy, Gumbel, Independent, LogNormal, MultivariateNormal, Normal
from torch.distributions import TransformedDistribution as Transformed
from torch.special import ndtr, ndtri

from companion.exercises import Exercise
from companion.exercises import _inputs as inputs


def _log_volume(g, x):
    """log|det ∂g/∂x| at the points x, from the whole Jacobian of g, which takes one point."""
    return torch.linalg.slogdet(inputs.at_points(torch.func.jacrev(g), x)).logabsdet


def _log_normal(z):
    """log N(z; 0, I)."""
    return -(z**2).sum(-1) / 2 - z.shape[-1] * math.log(2 * math.pi) / 2


# 1 ------------------------------------------------------------------------------------------------------------------


def density_by_change(f, x):
    """The density of x, when f carries x to a standard normal z = f(x).

        p_X(x) = p_Z(f(x)) |f′(x)|,   p_Z(z) = exp(−z²/2)/√(2π)

    f: maps a tensor to one of the same shape, entry by entry, and either always rises
    or always falls.  Autograd goes through it, in both modes.  x: any shape.  Returns
    p_X at each entry of x, the same shape.
    """
    z, slope = torch.func.jvp(f, (x,), (torch.ones_like(x),))
    return torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) * slope.abs()


exercise = Exercise(
    density_by_change,
    hints=[
        "A short piece dx at x is carried to a piece of length |f′(x)| dx at z = f(x). Both hold the same probability.",
        "Each entry of f(x) depends on its own entry of x alone. So one pass gives all slopes: torch.autograd.grad of "
        "f(x).sum(), or torch.func.jvp with a direction of ones.",
        "With z, slope = torch.func.jvp(f, (x,), (torch.ones_like(x),)), the density is "
        "torch.exp(-z**2 / 2) / math.sqrt(2 * math.pi) * slope.abs().",
    ],
)


@exercise.check
def _(attempt, generator):
    def ask(what, f, known, x, dtype=torch.float64):
        want = known.log_prob(x).exp()  # f is made to carry this density to N(0, 1)
        return inputs.case(f"density_by_change for {what}", dtype, attempt(f, x.to(dtype)), want)

    def below(*shape):
        """The probability that lies below x, for each x."""
        return inputs.uniform(0.1, 0.9, *shape, generator=generator)

    a, (b, x) = inputs.tenth(0.3, 0.8, generator=generator), inputs.tenth(-1, 1, 2, generator=generator)
    what = f"f(x) = ({b:.1f} − x)/{a:.1f} and x = {x:.1f}"
    yield ask(what, lambda x: (b.to(x) - x) / a.to(x), Normal(b, a), x)
    known = LogNormal(b, a)
    what = "f(x) = (log x − b)/a and x of shape (5,)"
    yield ask(what, lambda x: (x.log() - b.to(x)) / a.to(x), known, known.icdf(below(5)))
    known = Gumbel(b, a)
    what = "f(x) = −Φ⁻¹(exp(−exp((b − x)/a))), which falls, and x of shape (2, 3)"
    yield ask(what, lambda x: -ndtri((-((b.to(x) - x) / a.to(x)).exp()).exp()), known, known.icdf(below(2, 3)))
    known = Cauchy(b, a)
    what = "f(x) = Φ⁻¹(½ + arctan((x − b)/a)/π) and x of shape (4,)"
    x = known.icdf(below(4))
    yield ask(what, lambda x: ndtri(0.5 + ((x - b.to(x)) / a.to(x)).atan() / math.pi), known, x, torch.float32)


@exercise.alternative
def slopes_by_reverse_mode(f, x):
    leaf = x.detach().clone().requires_grad_()
    z = f(leaf)
    (slope,) = torch.autograd.grad(z.sum(), leaf)
    return (Normal(0.0, 1.0).log_prob(z).exp() * slope.abs()).detach()


@exercise.alternative
def number_by_number(f, x):
    slope = torch.vmap(torch.func.grad(f))(x.reshape(-1)).reshape(x.shape)
    return (slope.abs().log() - f(x) ** 2 / 2 - math.log(2 * math.pi) / 2).exp()


@exercise.alternative
def slope_of_the_probability(f, x):
    """p_X is the derivative of P(X ≤ x), which is Φ(f(x)) or 1 − Φ(f(x))."""
    return torch.func.jvp(lambda y: ndtr(f(y)), (x,), (torch.ones_like(x),))[1].abs()


def _slope(f, x):
    return torch.func.jvp(f, (x,), (torch.ones_like(x),))[1]


def _standard(z):
    return torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)


@exercise.mistake(
    "You looked up p_Z at f(x) and stopped there. That is no density in x: for f = sinh its integral is 0.790. The "
    "length changes from dx to |f′(x)| dx: multiply by |f′(x)|."
)
def slope_forgotten(f, x):
    return _standard(f(x))


@exercise.mistake(
    "Where f falls, your density is negative. A length has no sign: take the absolute value of the slope, |f′(x)|."
)
def slope_with_its_sign(f, x):
    return _standard(f(x)) * _slope(f, x)


@exercise.mistake(
    "You divided by |f′(x)|. That is the slope of the inverse, for the way from z to x. Where f stretches, many z come "
    "from a short piece of x, and the density at x is large: multiply."
)
def slope_of_the_inverse(f, x):
    return _standard(f(x)) / _slope(f, x).abs()


@exercise.mistake(
    "You took the slope at z = f(x). The place where the length changes is x: p_Z is evaluated at f(x), and f′ at x."
)
def slope_at_z(f, x):
    return _standard(f(x)) * _slope(f, f(x)).abs()


@exercise.mistake(
    "You returned the logarithm, log p_Z(f(x)) + log |f′(x)|. The density itself is asked for: take .exp() of it."
)
def log_density_returned(f, x):
    return density_by_change(f, x).log()


@exercise.mistake("The factor 1/√(2π) of the normal density is missing. Without it your density integrates to 2.507.")
def root_two_pi_forgotten(f, x):
    return density_by_change(f, x) * math.sqrt(2 * math.pi)


@exercise.mistake(
    "You divided by 2π, which belongs to a normal density in the plane. In one dimension it is the root, √(2π)."
)
def two_pi_without_its_root(f, x):
    return density_by_change(f, x) / math.sqrt(2 * math.pi)


@exercise.mistake("The ½ in the exponent is missing: the standard normal density has exp(−z²/2), yours exp(−z²).")
def half_in_the_exponent_forgotten(f, x):
    return _standard(f(x)) * torch.exp(-(f(x) ** 2) / 2) * _slope(f, x).abs()


@exercise.mistake("You evaluated p_Z at x. It is the density of z: carry x over first, then take p_Z(f(x)).")
def latent_density_at_x(f, x):
    return _standard(x) * _slope(f, x).abs()


@exercise.mistake(
    "You multiplied the density by log |f′(x)|. Either all is in logarithms and they are added, or nothing is and the "
    "factors are multiplied: p_Z(f(x)) times |f′(x)|."
)
def log_of_the_slope_alone(f, x):
    return _standard(f(x)) * _slope(f, x).abs().log()


@exercise.mistake(
    "You multiplied log p_Z(f(x)) by |f′(x)|. The slope multiplies the density; to its logarithm log |f′(x)| is added."
)
def log_of_the_density_alone(f, x):
    return _standard(f(x)).log() * _slope(f, x).abs()


@exercise.mistake(
    "You added |f′(x)| to the density. Only logarithms are added; the densities themselves are multiplied by the slope."
)
def slope_added(f, x):
    return _standard(f(x)) + _slope(f, x).abs()


@exercise.mistake(
    "You differentiated p_Z(f(x)) as a whole. It is P(X ≤ x) whose derivative is the density: leave p_Z as it is, and "
    "differentiate f alone."
)
def density_differentiated(f, x):
    return _slope(lambda y: _standard(f(y)), x).abs()


@exercise.mistake(
    "You returned the probability that lies below z, Φ(f(x)). The density is its slope in x: p_Z(f(x)) |f′(x)|."
)
def probability_for_density(f, x):
    return ndtr(f(x))


@exercise.mistake(
    "Where f falls you got 0: the slope was cut off at zero. A negative slope counts with its size: slope.abs()."
)
def falling_slope_cut_off(f, x):
    return _standard(f(x)) * _slope(f, x).clamp(min=0)


@exercise.mistake(
    "You used the sum of all slopes for every entry. Each entry has the slope at its own place: the gradient of "
    "f(x).sum() already holds them one by one."
)
def slopes_added(f, x):
    return _standard(f(x)) * _slope(f, x).sum().abs()


@exercise.mistake(
    "Where f falls you took the logarithm of a negative slope, which is NaN. A length has no sign: log |f′(x)|."
)
def logarithm_of_a_negative_slope(f, x):
    return _standard(f(x)) * _slope(f, x).log().exp()


@exercise.mistake("You added up the densities of all entries. Each x has its own density, and the shape stays.")
def densities_added(f, x):
    return density_by_change(f, x).sum()


# 2 ------------------------------------------------------------------------------------------------------------------


def affine_coupling(x, s, t):
    """One affine coupling, from data to latent, and its change of volume.

        z_kept = x_kept,   z_moved = x_moved exp(s(x_kept)) + t(x_kept)

    The first k = d // 2 coordinates are kept, the other d − k are moved.

    x: points, shape (*batch, d), with d ≥ 2 and any batch axes.  s, t: functions for
    the log-scale and the shift; each maps the kept part, shape (*batch, k), to shape
    (*batch, d − k).  Returns the pair (z, log_det): z of shape (*batch, d), and
    log|det ∂z/∂x| at each point, shape (*batch).
    """
    k = x.shape[-1] // 2
    kept, moved = x[..., :k], x[..., k:]
    log_scale = s(kept)
    return torch.cat([kept, moved * log_scale.exp() + t(kept)], -1), log_scale.sum(-1)


exercise = Exercise(
    affine_coupling,
    hints=[
        "Split the last axis at k = d // 2. Ask s and t about the first part, change the second, and join them again "
        "in the old order.",
        "The Jacobian has the identity in one block, zeros beside it, and diag(exp(s)) in the other. A triangular "
        "determinant is the product of the diagonal; what is its logarithm?",
        "With kept, moved = x[..., :k], x[..., k:] and log_scale = s(kept), return "
        "torch.cat([kept, moved * log_scale.exp() + t(kept)], -1) and log_scale.sum(-1).",
    ],
)


def _nets(d, generator):
    """Log-scale and shift as functions of the kept coordinates; they insist on these."""
    k = d // 2

    def net(name):
        W, b = inputs.normal(d - k, k, generator=generator), inputs.normal(d - k, generator=generator)

        def said(kept):
            if kept.shape[-1:] != (k,):
                raise ValueError(
                    f"{name} takes the kept part, the first d // 2 = {k} of {d} coordinates, shape (*batch, {k}), "
                    f"got {tuple(kept.shape)}"
                )
            return torch.sin(kept @ W.to(kept).T + b.to(kept))

        return said

    return net("s"), net("t")


def _coupled(x, s, t, sign):
    """One point, moved coordinate by coordinate: x → z for sign 1, and the way back for −1."""
    k = len(x) // 2
    scale, shift = s(x[:k]).exp(), t(x[:k])
    moved = [
        x[k + j] * scale[j] + shift[j] if sign > 0 else (x[k + j] - shift[j]) / scale[j] for j in range(len(shift))
    ]
    return torch.stack([*x[:k], *moved])


def _coupling_cases(name, way, attempt, generator):
    """Here the answer comes first, and what is asked is made from it by the other way, with its Jacobian."""
    given, asked = ("x", "z") if way > 0 else ("z", "x")

    def made_from(answer, s, t):
        def other(p):
            return _coupled(p, s, t, -way)

        return inputs.at_points(other, answer), -_log_volume(other, answer)

    a, b = inputs.tenth(0.3, 0.9, generator=generator), inputs.tenth(0.5, 2, generator=generator)
    u, v = inputs.tenth(0.5, 2, 2, generator=generator) * inputs.signs((2,), generator)

    def s(kept):
        return a.to(kept) * kept

    def t(kept):
        return b.to(kept) - kept

    point = torch.stack([u, v])
    answer = inputs.at_points(lambda p: _coupled(p, s, t, way), point)
    what = f"for s(u) = {a:.1f}u, t(u) = {b:.1f} − u and {given} = {inputs.numbers(point)}"
    yield from inputs.pair(
        name, what, (asked, "log_det"), torch.float64, attempt(point, s, t), (answer, made_from(answer, s, t)[1])
    )
    for d, batch, dtype in (4, (3,), torch.float64), *inputs.SHAPES[1:]:
        answer, (s, t) = inputs.normal(*batch, d, generator=generator), _nets(d, generator)
        points, log_det = made_from(answer, s, t)
        what = f"for {given} of shape {(*batch, d)}"
        yield from inputs.pair(
            name, what, (asked, "log_det"), dtype, attempt(points.to(dtype), s, t), (answer, log_det)
        )


@exercise.check
def _(attempt, generator):
    yield from _coupling_cases("affine_coupling", 1, attempt, generator)


@exercise.alternative
def written_into_a_copy(x, s, t):
    k = x.shape[-1] // 2
    z, log_scale = x.clone(), s(x[..., :k])
    z[..., k:] = x[..., k:] * torch.exp(log_scale) + t(x[..., :k])
    return z, torch.einsum("...i->...", log_scale)


@exercise.alternative
def from_the_product_of_scales(x, s, t):
    d = x.shape[-1]
    kept, moved = x.split([d // 2, d - d // 2], -1)
    scale = s(kept).exp()
    return torch.cat([kept, torch.addcmul(t(kept), moved, scale)], -1), scale.prod(-1).log()


@exercise.alternative
def volume_by_brute_force(x, s, t):
    def couple(p):
        kept, moved = p[: len(p) // 2], p[len(p) // 2 :]
        return torch.cat([kept, moved * torch.exp(s(kept)) + t(kept)])

    return inputs.at_points(couple, x), _log_volume(couple, x)


def _parts(x, s, t):
    """The kept and the moved part, and what s and t say."""
    k = x.shape[-1] // 2
    return x[..., :k], x[..., k:], s(x[..., :k]), t(x[..., :k])


def _fit(a, n):
    """a with n entries in its last axis, repeated or cut: where d is odd, the wrong half does not fit by itself."""
    return torch.cat([a, a], -1)[..., :n]


@exercise.mistake(
    "You multiplied by s itself. s is a log-scale: the scale is exp(s), which is never zero and never negative, so "
    "that the coupling can be undone."
)
def log_scale_as_scale(x, s, t):
    kept, moved, log_scale, shift = _parts(x, s, t)
    return torch.cat([kept, moved * log_scale + shift], -1), log_scale.sum(-1)


@exercise.mistake(
    "You took s for the scale, in z and in log|s|. s is a log-scale: multiply by exp(s), and log_det is the sum of s."
)
def log_scale_as_scale_in_both(x, s, t):
    kept, moved, log_scale, shift = _parts(x, s, t)
    return torch.cat([kept, moved * log_scale + shift], -1), log_scale.abs().log().sum(-1)


@exercise.mistake(
    "You asked s and t about the moved part. They may see the kept part alone: it stays as it is, and so the way back "
    "can ask them again."
)
def nets_fed_with_the_moved(x, s, t):
    kept, moved, _, _ = _parts(x, s, t)
    seen = _fit(moved, kept.shape[-1])
    return torch.cat([kept, moved * s(seen).exp() + t(seen)], -1), s(seen).sum(-1)


@exercise.mistake(
    "You kept the last coordinates and moved the first. Here it is the other way round: x[..., :k] stays, x[..., k:] "
    "moves."
)
def wrong_half_moved(x, s, t):
    k = x.shape[-1] // 2
    first, last = x[..., :k], x[..., k:]
    log_scale, shift = _fit(s(_fit(last, k)), k), _fit(t(_fit(last, k)), k)
    return torch.cat([first * log_scale.exp() + shift, last], -1), log_scale.sum(-1)


@exercise.mistake(
    "The halves have changed places in your z. The kept part comes first, as in x: torch.cat([kept, moved], -1)."
)
def halves_exchanged(x, s, t):
    z, log_det = affine_coupling(x, s, t)
    k = x.shape[-1] // 2
    return torch.cat([z[..., k:], z[..., :k]], -1), log_det


@exercise.mistake("You returned the moved part alone. The kept coordinates belong to z as well: join both, kept first.")
def kept_part_lost(x, s, t):
    z, log_det = affine_coupling(x, s, t)
    return z[..., x.shape[-1] // 2 :], log_det


@exercise.mistake(
    "Your z is right, but log_det is the sum of the scales exp(s). The logarithm of a product of scales is the sum of "
    "their logarithms, which are s."
)
def scales_added(x, s, t):
    return affine_coupling(x, s, t)[0], _parts(x, s, t)[2].exp().sum(-1)


@exercise.mistake(
    "Your z is right, but you returned the determinant, the product of the scales. Its logarithm is asked for: the sum "
    "of s."
)
def determinant_without_logarithm(x, s, t):
    z, log_det = affine_coupling(x, s, t)
    return z, log_det.exp()


@exercise.mistake(
    "Your z is right, but you averaged s over the coordinates. A volume is the product of all its scales: sum the "
    "log-scales."
)
def log_scales_averaged(x, s, t):
    return affine_coupling(x, s, t)[0], _parts(x, s, t)[2].mean(-1)


@exercise.mistake(
    "Your z is right, but log_det was summed over the batch as well. Each point has its own change of volume: sum over "
    "the last axis alone, .sum(-1)."
)
def log_dets_of_the_batch_added(x, s, t):
    z, log_det = affine_coupling(x, s, t)
    return z, log_det.sum()


@exercise.mistake(
    "Your z is right, but log_det has the wrong sign. It belongs to the way from x to z: where s > 0 that stretches, "
    "and the logarithm is positive. −Σ s is the way back."
)
def log_det_of_the_way_back(x, s, t):
    z, log_det = affine_coupling(x, s, t)
    return z, -log_det


@exercise.mistake(
    "Your z is right, but log_det still has the coordinates, one log-scale each. Add them up: .sum(-1), without "
    "keepdim."
)
def log_scales_not_summed(x, s, t):
    return affine_coupling(x, s, t)[0], _parts(x, s, t)[2]


@exercise.mistake(
    "Your z is right, but your log_det keeps an axis of length 1. With log p_Z(z), shape (*batch), it would be "
    "broadcast to a square without a word: .sum(-1) without keepdim."
)
def axis_of_one_kept(x, s, t):
    z, log_det = affine_coupling(x, s, t)
    return z, log_det[..., None]


@exercise.mistake(
    "Your z is right, but your log_det is 0. That holds for a coupling that only shifts, as in NICE; this one scales "
    "by exp(s), so that log_det is the sum of s."
)
def volume_kept(x, s, t):
    return affine_coupling(x, s, t)[0], x.new_zeros(x.shape[:-1])


@exercise.mistake(
    "Your z is right, but the shift has a part in your log_det. A shift moves a volume without changing it: sum s "
    "alone."
)
def shift_in_log_det(x, s, t):
    z, log_det = affine_coupling(x, s, t)
    return z, log_det + _parts(x, s, t)[3].sum(-1)


@exercise.mistake(
    "You shifted before you scaled, (x + t) exp(s). The scale comes first: x exp(s) + t. The volume is the same, so "
    "only z tells."
)
def shift_before_scale(x, s, t):
    kept, moved, log_scale, shift = _parts(x, s, t)
    return torch.cat([kept, (moved + shift) * log_scale.exp()], -1), log_scale.sum(-1)


@exercise.mistake("You subtracted the shift. From data to latent it is added: x exp(s) + t.")
def shift_subtracted(x, s, t):
    kept, moved, log_scale, shift = _parts(x, s, t)
    return torch.cat([kept, moved * log_scale.exp() - shift], -1), log_scale.sum(-1)


@exercise.mistake("The shift t(x_kept) is missing in your z: moved coordinates become x exp(s) + t.")
def shift_forgotten(x, s, t):
    kept, moved, log_scale, _ = _parts(x, s, t)
    return torch.cat([kept, moved * log_scale.exp()], -1), log_scale.sum(-1)


@exercise.mistake(
    "That is the way back, (x − t) exp(−s) with −Σ s. From data to latent it is x exp(s) + t, and log_det is Σ s."
)
def way_back_instead(x, s, t):
    return affine_coupling_inverse(x, s, t)


@exercise.mistake(
    "You divided by exp(s), and log_det fits to that. In this convention the way from x to z multiplies: x exp(s) + t, "
    "with log_det = Σ s."
)
def divided_by_the_scale(x, s, t):
    kept, moved, log_scale, shift = _parts(x, s, t)
    return torch.cat([kept, moved * (-log_scale).exp() + shift], -1), -log_scale.sum(-1)


@exercise.mistake("You exchanged s and t: the first function gives the log-scale, the second the shift.")
def nets_exchanged(x, s, t):
    return affine_coupling(x, t, s)


@exercise.mistake("The pair is in the wrong order: return z first, then log_det, as all transforms of the chapter do.")
def log_det_in_front(x, s, t):
    return affine_coupling(x, s, t)[::-1]


# 3 ------------------------------------------------------------------------------------------------------------------


def affine_coupling_inverse(z, s, t):
    """The way back through an affine coupling, from latent to data.

    Solve the equations of the coupling for x:

        z_kept = x_kept,   z_moved = x_moved exp(s(x_kept)) + t(x_kept)

    The first k = d // 2 coordinates are kept, the other d − k are moved.

    z: shape (*batch, d), with d ≥ 2 and any batch axes.  s, t: the functions of the
    way there; each maps the kept part, shape (*batch, k), to shape (*batch, d − k).
    Returns the pair (x, log_det): x of shape (*batch, d), and log|det ∂x/∂z| at each
    point, shape (*batch).
    """
    k = z.shape[-1] // 2
    kept, moved = z[..., :k], z[..., k:]
    log_scale = s(kept)
    return torch.cat([kept, (moved - t(kept)) * torch.exp(-log_scale)], -1), -log_scale.sum(-1)


exercise = Exercise(
    affine_coupling_inverse,
    hints=[
        "Neither s nor t is ever inverted: the kept part is the same on both sides, so they say the same as on "
        "the way there.",
        "Undo the last step first: subtract the shift, then divide by the scale. The volume factor of the way back is "
        "one over that of the way there.",
        "With kept, moved = z[..., :k], z[..., k:] and log_scale = s(kept), return "
        "torch.cat([kept, (moved - t(kept)) * torch.exp(-log_scale)], -1) and -log_scale.sum(-1).",
    ],
)


@exercise.check
def _(attempt, generator):
    yield from _coupling_cases("affine_coupling_inverse", -1, attempt, generator)


@exercise.alternative
def divided_by_the_scales(z, s, t):
    k = z.shape[-1] // 2
    scale, x = s(z[..., :k]).exp(), z.clone()
    x[..., k:] = (z[..., k:] - t(z[..., :k])) / scale
    return x, -scale.log().sum(-1)


@exercise.alternative
def as_another_coupling(z, s, t):
    """The inverse is an affine coupling itself, with log-scale −s and shift −t exp(−s)."""
    return affine_coupling(z, lambda kept: -s(kept), lambda kept: -t(kept) * (-s(kept)).exp())


@exercise.alternative
def by_a_triangular_matrix(z, s, t):
    k = z.shape[-1] // 2
    diagonal = torch.cat([torch.ones_like(z[..., :k]), s(z[..., :k]).exp()], -1)
    shift = torch.cat([torch.zeros_like(z[..., :k]), t(z[..., :k])], -1)
    back = torch.diag_embed(1 / diagonal)
    return (back @ (z - shift)[..., None])[..., 0], torch.linalg.slogdet(back).logabsdet


@exercise.mistake(
    "You asked s and t about the moved part of z. On the way there they saw the kept part, which is the same in x and "
    "z: ask them about that again."
)
def way_back_fed_with_the_moved(z, s, t):
    kept, moved, _, _ = _parts(z, s, t)
    seen = _fit(moved, kept.shape[-1])
    return torch.cat([kept, (moved - t(seen)) * (-s(seen)).exp()], -1), -s(seen).sum(-1)


@exercise.mistake(
    "You divided by the scale before subtracting the shift, z exp(−s) − t. Undo the last step first: (z − t) exp(−s)."
)
def scale_undone_first(z, s, t):
    kept, moved, log_scale, shift = _parts(z, s, t)
    return torch.cat([kept, moved * (-log_scale).exp() - shift], -1), -log_scale.sum(-1)


@exercise.mistake(
    "Your x is right, but log_det is that of the way there, Σ s. On the way back the volume is divided by the same "
    "factor: −Σ s."
)
def minus_of_log_det_forgotten(z, s, t):
    x, log_det = affine_coupling_inverse(z, s, t)
    return x, -log_det


@exercise.mistake(
    "You subtracted the shift, but then multiplied by exp(s) again. The way back divides by the scale: exp(−s)."
)
def multiplied_by_the_scale_again(z, s, t):
    kept, moved, log_scale, shift = _parts(z, s, t)
    return torch.cat([kept, (moved - shift) * log_scale.exp()], -1), -log_scale.sum(-1)


@exercise.mistake(
    "Your scale is exp(s) and your log_det Σ s, both as on the way there. The way back divides: exp(−s), and −Σ s."
)
def scale_of_the_way_there(z, s, t):
    kept, moved, log_scale, shift = _parts(z, s, t)
    return torch.cat([kept, (moved - shift) * log_scale.exp()], -1), log_scale.sum(-1)


@exercise.mistake(
    "You went the way there once more, z exp(s) + t. Solve that equation for x: subtract t, then divide by exp(s)."
)
def way_there_again(z, s, t):
    return affine_coupling(z, s, t)


@exercise.mistake("You added the shift. On the way there it was added, so on the way back it is subtracted.")
def shift_added_again(z, s, t):
    kept, moved, log_scale, shift = _parts(z, s, t)
    return torch.cat([kept, (moved + shift) * (-log_scale).exp()], -1), -log_scale.sum(-1)


@exercise.mistake("The shift plays no part in yours: subtract t before dividing by the scale, (z − t) exp(−s).")
def shift_not_undone(z, s, t):
    kept, moved, log_scale, _ = _parts(z, s, t)
    return torch.cat([kept, moved * (-log_scale).exp()], -1), -log_scale.sum(-1)


@exercise.mistake("You divided by s itself. s is a log-scale: the way there multiplied by exp(s), so divide by exp(s).")
def divided_by_the_log_scale(z, s, t):
    kept, moved, log_scale, shift = _parts(z, s, t)
    return torch.cat([kept, (moved - shift) / log_scale], -1), -log_scale.sum(-1)


@exercise.mistake(
    "You took the scale away like a shift, z − t − s. It was multiplied on the way there: multiply by exp(−s)."
)
def log_scale_subtracted(z, s, t):
    kept, moved, log_scale, shift = _parts(z, s, t)
    return torch.cat([kept, moved - shift - log_scale], -1), -log_scale.sum(-1)


@exercise.mistake("The halves have changed places in your x. The kept part comes first: torch.cat([kept, moved], -1).")
def halves_exchanged_on_the_way_back(z, s, t):
    x, log_det = affine_coupling_inverse(z, s, t)
    k = z.shape[-1] // 2
    return torch.cat([x[..., k:], x[..., :k]], -1), log_det


@exercise.mistake(
    "You kept the last coordinates and moved the first. Here z[..., :k] was kept, and z[..., k:] has to be moved back."
)
def wrong_half_moved_back(z, s, t):
    k = z.shape[-1] // 2
    first, last = z[..., :k], z[..., k:]
    log_scale, shift = _fit(s(_fit(last, k)), k), _fit(t(_fit(last, k)), k)
    return torch.cat([(first - shift) * (-log_scale).exp(), last], -1), -log_scale.sum(-1)


@exercise.mistake("You returned the moved part alone. The kept coordinates belong to x as well: join both, kept first.")
def kept_part_lost_on_the_way_back(z, s, t):
    x, log_det = affine_coupling_inverse(z, s, t)
    return x[..., z.shape[-1] // 2 :], log_det


@exercise.mistake(
    "Your x is right, but log_det is a sum of exp(−s). The logarithm of a product of scales is the sum of their "
    "logarithms, which are −s."
)
def shrinking_scales_added(z, s, t):
    return affine_coupling_inverse(z, s, t)[0], (-_parts(z, s, t)[2]).exp().sum(-1)


@exercise.mistake(
    "Your x is right, but you took one over the logarithm. The determinant turns into 1/det; its logarithm changes the "
    "sign."
)
def one_over_the_logarithm(z, s, t):
    x, log_det = affine_coupling_inverse(z, s, t)
    return x, -1 / log_det


@exercise.mistake("Your x is right, but you averaged over the coordinates. A volume needs all its scales: −s.sum(-1).")
def log_scales_averaged_on_the_way_back(z, s, t):
    return affine_coupling_inverse(z, s, t)[0], -_parts(z, s, t)[2].mean(-1)


@exercise.mistake(
    "Your x is right, but log_det was summed over the batch as well. Each point has its own: sum over the last axis "
    "alone."
)
def log_dets_of_the_way_back_added(z, s, t):
    x, log_det = affine_coupling_inverse(z, s, t)
    return x, log_det.sum()


@exercise.mistake("Your x is right, but log_det still has the coordinates, one −s each. Add them up: .sum(-1).")
def log_scales_of_the_way_back_not_summed(z, s, t):
    return affine_coupling_inverse(z, s, t)[0], -_parts(z, s, t)[2]


@exercise.mistake("The pair is in the wrong order: return x first, then log_det, as all inverses of the chapter do.")
def log_det_in_front_of_x(z, s, t):
    return affine_coupling_inverse(z, s, t)[::-1]


# 4 ------------------------------------------------------------------------------------------------------------------


def flow_log_prob(transforms, x):
    """The log-density that a stack of transforms gives to the points x, in nats.

        z₀ = x,   zᵢ = fᵢ(zᵢ₋₁),   log p(x) = log N(z_n; 0, I) + Σᵢ log|det ∂zᵢ/∂zᵢ₋₁|

    The latent density N(0, I) is the standard normal one in d dimensions, with all its
    constants.

    transforms: the functions f₁, …, f_n, a list.  Each maps points, shape (*batch, d),
    to a pair: the points where they go, shape (*batch, d), and the log_det of that
    step, shape (*batch).  x: shape (*batch, d).  Returns log p(x), shape (*batch).
    """
    z, total = x, 0.0
    for f in transforms:
        z, log_det = f(z)
        total = total + log_det
    return total - (z**2).sum(-1) / 2 - x.shape[-1] * math.log(2 * math.pi) / 2


exercise = Exercise(
    flow_log_prob,
    hints=[
        "Send x through all transforms, one after the other, and keep account of the log_dets on the way.",
        "The density of the latent is needed once, at the last z. In d dimensions it is a product of d normal "
        "densities, so its logarithm is a sum over the last axis.",
        "In the loop: z, log_det = f(z); total = total + log_det. At the end: "
        "total - (z**2).sum(-1) / 2 - d * math.log(2 * math.pi) / 2.",
    ],
)


def _layer(d, generator):
    """A turn u = Q x and a bend z = sinh(a asinh(u) + b) of each coordinate: there and back, with log_det and without.

    The slope of the bend is a cosh(a asinh(u) + b)/√(1 + u²) = a √(1 + z²)/√(1 + u²).
    """
    Q = torch.linalg.qr(inputs.normal(d, d, generator=generator)).Q
    a, b = inputs.uniform(0.6, 1.6, d, generator=generator), inputs.normal(d, generator=generator) / 2

    def there(x):
        return torch.sinh(a.to(x) * torch.asinh(x @ Q.to(x).T) + b.to(x))

    def back(z):
        return torch.sinh((torch.asinh(z) - b.to(z)) / a.to(z)) @ Q.to(z)

    def log_det(x, z):
        return (a.to(x).log() + torch.log1p(z**2) / 2 - torch.log1p((x @ Q.to(x).T) ** 2) / 2).sum(-1)

    def forward(x):
        return there(x), log_det(x, there(x))

    def inverse(z):
        return back(z), -log_det(back(z), z)

    return forward, inverse, there, back


def _scalings(generator):
    """Two transforms that multiply points in the plane by a number each, and these numbers."""
    numbers = inputs.tenth(0.3, 0.8, generator=generator), inputs.tenth(1.5, 3, generator=generator)

    def forward(c):
        return lambda x: (c.to(x) * x, 2 * c.to(x).log().expand(x.shape[:-1]))

    def inverse(c):
        return lambda z: (z / c.to(z), -2 * c.to(z).log().expand(z.shape[:-1]))

    return [forward(c) for c in numbers], [inverse(c) for c in numbers], numbers


def _composed(maps):
    def composed(x):
        for f in maps:
            x = f(x)
        return x

    return composed


STACKS = (  # number of transforms, d, batch axes, dtype
    (2, 3, (3,), torch.float64),  # as many points as coordinates: here a missing sum goes unnoticed
    (3, 2, (4,), torch.float64),
    (1, 4, (5,), torch.float64),
    (4, 5, (2, 3), torch.float64),
    (2, 3, (4,), torch.float32),
)


def _untouched(name, functions):
    """A copy of the functions for the attempt, and a look afterwards whether it was left as it is."""
    given = list(functions)

    def look():
        if given != list(functions):
            raise ValueError(f"the list {name} was changed in place; reversed({name}) leaves it as it is")

    return given, look


@exercise.check
def _(attempt, generator):
    def want(there, x):
        zero = torch.zeros(x.shape[-1], dtype=torch.float64)
        return MultivariateNormal(zero, torch.diag(zero + 1)).log_prob(there(x)) + _log_volume(there, x)

    def ask(transforms, x):
        given, look = _untouched("transforms", transforms)
        answer = attempt(given, x)
        look()
        return answer

    transforms, _, (a, b) = _scalings(generator)
    x = inputs.tenth(0.3, 2, 2, generator=generator)
    what = f"flow_log_prob of z₁ = {a:.1f} x, z₂ = {b:.1f} z₁ at x = {inputs.numbers(x)}"
    yield inputs.case(what, torch.float64, ask(transforms, x), Normal(0.0, 1 / (a * b)).log_prob(x).sum())
    for n, d, batch, dtype in STACKS:
        layers, x = [_layer(d, generator) for _ in range(n)], inputs.normal(*batch, d, generator=generator)
        transforms, _, maps, _ = zip(*layers)
        what = f"flow_log_prob of {n} transform{'s' if n > 1 else ''} for x of shape {tuple(x.shape)}"
        yield inputs.case(what, dtype, ask(transforms, x.to(dtype)), want(_composed(maps), x))


@exercise.alternative
def normals_of_each_coordinate(transforms, x):
    log_dets = []
    for f in transforms:
        x, log_det = f(x)
        log_dets.append(log_det)
    return Normal(torch.zeros_like(x), torch.ones_like(x)).log_prob(x).sum(-1) + torch.stack(log_dets).sum(0)


@exercise.alternative
def one_transform_and_the_rest(transforms, x):
    """log p(x) of a stack is log_det of its first transform and log p of the rest, at the next place."""
    if not transforms:
        return Independent(Normal(torch.zeros_like(x), 1.0), 1).log_prob(x)
    z, log_det = transforms[0](x)
    return log_det + one_transform_and_the_rest(transforms[1:], z)


def _through(transforms, x):
    """The places x, z₁, …, z_n, and the log_det of each step."""
    places, log_dets = [x], []
    for f in transforms:
        z, log_det = f(places[-1])
        places.append(z)
        log_dets.append(log_det)
    return places, log_dets


@exercise.mistake(
    "You added log N(zᵢ; 0, I) after every transform. Only the last z is a latent, and its density counts once: take "
    "it after the loop."
)
def density_of_every_layer(transforms, x):
    places, log_dets = _through(transforms, x)
    return sum(map(_log_normal, places[1:])) + sum(log_dets)


@exercise.mistake("You added the density of N(0, I) at x as well as at every z. It belongs to the last z alone, once.")
def density_of_every_place(transforms, x):
    places, log_dets = _through(transforms, x)
    return sum(map(_log_normal, places)) + sum(log_dets)


@exercise.mistake(
    "You took log N at x. N(0, I) is the density of the latent: it is evaluated at the last z, where the transforms "
    "have carried x."
)
def latent_density_at_the_data(transforms, x):
    return _log_normal(x) + sum(_through(transforms, x)[1])


@exercise.mistake(
    "You took log N one step too early, at the place before the last transform. Is it evaluated before z is replaced? "
    "Take it after the loop."
)
def latent_density_one_step_early(transforms, x):
    places, log_dets = _through(transforms, x)
    return _log_normal(places[-2]) + sum(log_dets)


@exercise.mistake(
    "You subtracted the log_dets. A stretch from x to z, with log_det > 0, makes the density at x larger: add them. "
    "The minus belongs to the way back."
)
def log_dets_subtracted(transforms, x):
    places, log_dets = _through(transforms, x)
    return _log_normal(places[-1]) - sum(log_dets)


@exercise.mistake(
    "Only the log_det of the last transform is left in yours. Each step changes the volume: add log_det to a total in "
    "the loop, instead of overwriting it."
)
def last_log_det_alone(transforms, x):
    places, log_dets = _through(transforms, x)
    return _log_normal(places[-1]) + log_dets[-1]


@exercise.mistake(
    "Only the log_det of the first transform is in yours. Is there a return inside the loop, or an index 0? Add up all."
)
def first_log_det_alone(transforms, x):
    places, log_dets = _through(transforms, x)
    return _log_normal(places[-1]) + log_dets[0]


@exercise.mistake(
    "The log_dets are missing. What you have is log N at the last z; as a function of x it does not integrate to 1."
)
def log_dets_forgotten(transforms, x):
    return _log_normal(_through(transforms, x)[0][-1])


@exercise.mistake(
    "You averaged the log_dets over the transforms. Volumes multiply from step to step, so their logarithms add up."
)
def log_dets_averaged(transforms, x):
    places, log_dets = _through(transforms, x)
    return _log_normal(places[-1]) + sum(log_dets) / len(log_dets)


@exercise.mistake(
    "The constant −½ d log 2π is missing, −0.919 for each dimension. It changes no gradient, but without it log p is "
    "not the logarithm of a density, and cannot be compared."
)
def two_pi_of_the_latent_forgotten(transforms, x):
    return flow_log_prob(transforms, x) + x.shape[-1] * math.log(2 * math.pi) / 2


@exercise.mistake(
    "You have one −½ log 2π. In d dimensions the latent density is a product of d normal densities, and the constant "
    "comes d times."
)
def constant_of_one_dimension(transforms, x):
    return flow_log_prob(transforms, x) + (x.shape[-1] - 1) * math.log(2 * math.pi) / 2


@exercise.mistake("Your constant is twice too large: the density has (2π)^(d/2) below, so it is −½ d log 2π.")
def constant_doubled(transforms, x):
    return flow_log_prob(transforms, x) - x.shape[-1] * math.log(2 * math.pi) / 2


@exercise.mistake("The ½ of the squares is missing: log N(z; 0, I) has −½ Σ z², and yours has −Σ z².")
def squares_of_z_not_halved(transforms, x):
    return flow_log_prob(transforms, x) - (_through(transforms, x)[0][-1] ** 2).sum(-1) / 2


@exercise.mistake(
    "Your log N still has the d coordinates: Normal(0, 1) takes each number for itself. Sum over the last axis, "
    ".sum(-1), then add the log_dets; or use Independent(Normal(…), 1)."
)
def coordinates_not_summed(transforms, x):
    places, log_dets = _through(transforms, x)
    return Normal(0.0, 1.0).log_prob(places[-1]) + sum(log_dets)[..., None]


@exercise.mistake(
    "Your log N still has the d coordinates, shape (B, d), and log_det, shape (B,), was broadcast onto it. Where B = d "
    "nothing complains, and every number is wrong. Sum log N over the last axis first."
)
def broadcast_by_accident(transforms, x):
    places, log_dets = _through(transforms, x)
    total = sum(log_dets)
    fits = total.shape[-1:] in ((), (1,), x.shape[-1:])
    return Normal(0.0, 1.0).log_prob(places[-1]) + (total if fits else total[..., None])


@exercise.mistake(
    "You added log_det to each of the d coordinates and then summed, so that it counts d times. Sum log N over the "
    "coordinates first, then add log_det once."
)
def log_det_for_each_coordinate(transforms, x):
    places, log_dets = _through(transforms, x)
    return _log_normal(places[-1]) + x.shape[-1] * sum(log_dets)


@exercise.mistake(
    "You averaged log N over the coordinates. The density of a point is the product over its d coordinates: take the "
    "sum of the logarithms."
)
def coordinates_averaged(transforms, x):
    places, log_dets = _through(transforms, x)
    return _log_normal(places[-1]) / x.shape[-1] + sum(log_dets)


@exercise.mistake(
    "You gave x itself to every transform. Each one takes the point where the one before has put it: z = f(z)[0]."
)
def transforms_side_by_side(transforms, x):
    pairs = [f(x) for f in transforms]
    return _log_normal(pairs[-1][0]) + sum(log_det for _, log_det in pairs)


@exercise.mistake(
    "You ran the transforms from the last to the first. They are listed from data to latent, f₁ first; only the way "
    "back is reversed."
)
def transforms_reversed(transforms, x):
    return flow_log_prob(transforms[::-1], x)


@exercise.mistake("That is the loss, −log p(x). The log-density itself is asked for.")
def loss_for_log_density(transforms, x):
    return -flow_log_prob(transforms, x)


@exercise.mistake(
    "That is the loss of the batch, the mean of −log p(x). Here each point has its own log p(x), without a minus."
)
def loss_of_the_batch(transforms, x):
    return -flow_log_prob(transforms, x).mean()


@exercise.mistake("You returned the density p(x). Its logarithm is asked for; in many dimensions p itself underflows.")
def density_for_its_logarithm(transforms, x):
    return flow_log_prob(transforms, x).exp()


@exercise.mistake("Your answer is in bits. It should be in nats, from the natural logarithm: no division by log 2.")
def log_density_in_bits(transforms, x):
    return flow_log_prob(transforms, x) / math.log(2)


@exercise.mistake("You averaged over the batch. Each point has its own log p(x), and the result the shape (*batch).")
def points_averaged(transforms, x):
    return flow_log_prob(transforms, x).mean()


@exercise.mistake("You added up the batch. Each point has its own log p(x), and the result the shape (*batch).")
def points_added(transforms, x):
    return flow_log_prob(transforms, x).sum()


# 5 ------------------------------------------------------------------------------------------------------------------


def flow_sample(inverses, z):
    """From the latent to a sample, with the log-density of that sample.

    The transforms f₁, …, f_n lead from data to latent.  To get x, undo f_n first and f₁
    last; to get its density, keep account of the volume:

        x = f₁⁻¹(… f_n⁻¹(z)),   log p(x) = log N(z; 0, I) − log|det ∂x/∂z|

    inverses: the functions f₁⁻¹, …, f_n⁻¹, a list in the order of the transforms.  Each
    maps points, shape (*batch, d), to a pair: the points where they go, shape
    (*batch, d), and the log_det of that step back, shape (*batch).  z: latent points,
    shape (*batch, d).  Returns the pair (x, log_prob): x of shape (*batch, d), and
    log p(x) in nats with all constants, shape (*batch).
    """
    x, total = z, 0.0
    for inverse in reversed(inverses):
        x, log_det = inverse(x)
        total = total + log_det
    return x, -(z**2).sum(-1) / 2 - z.shape[-1] * math.log(2 * math.pi) / 2 - total


exercise = Exercise(
    flow_sample,
    hints=[
        "Socks and shoes: what was put on last comes off first. The list stands in the order of the way there.",
        "Where the way back spreads points out, with log_det > 0, they lie thinner than in the latent: the density of "
        "the sample is smaller.",
        "Loop over reversed(inverses) with x, log_det = inverse(x), and sum the log_dets. Then log p(x) is "
        "-(z**2).sum(-1) / 2 - d * math.log(2 * math.pi) / 2, less that sum.",
    ],
)


@exercise.check
def _(attempt, generator):
    def ask(what, inverses, z, dtype, wants):
        given, look = _untouched("inverses", inverses)
        answer = attempt(given, z.to(dtype))
        look()
        yield from inputs.pair("flow_sample", what, ("x", "log_prob"), dtype, answer, wants)

    _, inverses, (a, b) = _scalings(generator)
    z = inputs.tenth(0.3, 2, 2, generator=generator)
    x = z / (a * b)
    wants = x, Normal(0.0, 1 / (a * b)).log_prob(x).sum()
    yield from ask(
        f"for z₁ = {a:.1f} x, z₂ = {b:.1f} z₁ and z₂ = {inputs.numbers(z)}", inverses, z, torch.float64, wants
    )
    for n, d, batch, dtype in STACKS:
        layers, z = [_layer(d, generator) for _ in range(n)], inputs.normal(*batch, d, generator=generator)
        _, inverses, _, maps = zip(*layers)
        back, zero = _composed(maps[::-1]), torch.zeros(d, dtype=torch.float64)
        latent = MultivariateNormal(zero, torch.diag(zero + 1)).log_prob(z)
        wants = back(z), latent - _log_volume(back, z)
        what = f"with {n} inverse{'s' if n > 1 else ''} for z of shape {tuple(z.shape)}"
        yield from ask(what, inverses, z, dtype, wants)


@exercise.alternative
def density_carried_along(inverses, z):
    log_prob = Independent(Normal(torch.zeros_like(z), 1.0), 1).log_prob(z)
    for inverse in inverses[::-1]:
        z, log_det = inverse(z)
        log_prob = log_prob - log_det
    return z, log_prob


@exercise.alternative
def last_inverse_first(inverses, z):
    if not inverses:
        return z, _log_normal(z)
    *others, last = inverses
    x, log_det = last(z)
    x_, rest = last_inverse_first(others, x)
    return x_, rest - _log_normal(x) + _log_normal(z) - log_det


def _undone(inverses, z):
    """The places from z on, and the log_det of each step back."""
    return _through(inverses[::-1], z)


@exercise.mistake(
    "You ran the inverses in the order of the list. The last transform has to be undone first: loop over "
    "reversed(inverses)."
)
def forward_order(inverses, z):
    return flow_sample(inverses[::-1], z)


@exercise.mistake(
    "Two things: the inverses run in the order of the list, where the last one has to come first, and their log_dets "
    "are added, where they have to be subtracted."
)
def forward_order_and_log_dets_added(inverses, z):
    places, log_dets = _through(inverses, z)
    return places[-1], _log_normal(z) + sum(log_dets)


@exercise.mistake(
    "Your x is right, but you added the log_dets. They belong to the way from z to x: where that spreads points out, "
    "the density falls. Subtract them."
)
def log_dets_of_the_inverses_added(inverses, z):
    places, log_dets = _undone(inverses, z)
    return places[-1], _log_normal(z) + sum(log_dets)


@exercise.mistake(
    "Your x is right, but log N(z; 0, I) is the density of z. That of x takes the change of volume into account: "
    "subtract the log_dets."
)
def density_of_z_alone(inverses, z):
    return flow_sample(inverses, z)[0], _log_normal(z)


@exercise.mistake(
    "Your x is right, but you took log N at the sample. N(0, I) is the density of the latent: evaluate it at the z "
    "that was given, before the loop replaces it."
)
def latent_density_at_the_sample(inverses, z):
    places, log_dets = _undone(inverses, z)
    return places[-1], _log_normal(places[-1]) - sum(log_dets)


@exercise.mistake(
    "Your x is right, but only the log_det of the last step back is subtracted. Each step changes the volume: keep a "
    "total."
)
def log_det_of_the_last_step_back(inverses, z):
    places, log_dets = _undone(inverses, z)
    return places[-1], _log_normal(z) - log_dets[-1]


@exercise.mistake(
    "Your x is right, but you added log N at every place on the way. Only z is a latent, and its density counts once."
)
def density_of_every_step_back(inverses, z):
    places, log_dets = _undone(inverses, z)
    return places[-1], sum(map(_log_normal, places[:-1])) - sum(log_dets)


@exercise.mistake("Your x is right, but the constant −½ d log 2π of the latent density is missing in log p(x).")
def two_pi_of_the_sample_forgotten(inverses, z):
    x, log_prob = flow_sample(inverses, z)
    return x, log_prob + z.shape[-1] * math.log(2 * math.pi) / 2


@exercise.mistake(
    "Your x is right, but your log N still has the d coordinates, as Normal(0, 1) takes each number for itself. Sum it "
    "over the last axis before the log_dets are subtracted."
)
def coordinates_of_z_not_summed(inverses, z):
    places, log_dets = _undone(inverses, z)
    return places[-1], Normal(0.0, 1.0).log_prob(z) - sum(log_dets)[..., None]


@exercise.mistake(
    "Your x is right, but your log N still has the d coordinates, shape (B, d), and the log_dets, shape (B,), were "
    "broadcast onto it. Where B = d nothing complains. Sum log N over the last axis first."
)
def broadcast_on_the_way_back(inverses, z):
    places, log_dets = _undone(inverses, z)
    total = sum(log_dets)
    fits = total.shape[-1:] in ((), (1,), z.shape[-1:])
    return places[-1], Normal(0.0, 1.0).log_prob(z) - (total if fits else total[..., None])


@exercise.mistake("You gave z itself to every inverse. Each one takes the point where the step before has put it.")
def inverses_side_by_side(inverses, z):
    pairs = [inverse(z) for inverse in inverses[::-1]]
    return pairs[-1][0], _log_normal(z) - sum(log_det for _, log_det in pairs)


@exercise.mistake("Your x is right, but you returned −log p(x). The log-density itself is asked for, without a minus.")
def surprise_for_log_density(inverses, z):
    x, log_prob = flow_sample(inverses, z)
    return x, -log_prob


@exercise.mistake("Your x is right, but you returned the density p(x). Its logarithm is asked for, log p(x) in nats.")
def density_of_the_sample(inverses, z):
    x, log_prob = flow_sample(inverses, z)
    return x, log_prob.exp()


@exercise.mistake(
    "Your x is right, but the second result is the log_det of the way back. Is the density of z forgotten? It is log "
    "N(z; 0, I) less that log_det."
)
def volume_for_density(inverses, z):
    places, log_dets = _undone(inverses, z)
    return places[-1], sum(log_dets)


@exercise.mistake("Your x is right, but you added up the batch. Each sample has its own log p(x), shape (*batch).")
def samples_added_up(inverses, z):
    x, log_prob = flow_sample(inverses, z)
    return x, log_prob.sum()


@exercise.mistake("The pair is in the wrong order: return x first, then its log-density.")
def log_prob_in_front(inverses, z):
    return flow_sample(inverses, z)[::-1]


# 6 ------------------------------------------------------------------------------------------------------------------


def gap_to_truth(log_q, entropy):
    """How far a model q is from the truth p, in nats, and how sure that number is.

        KL(p‖q) = −E_p[log q(x)] − H(p)

    The mean is estimated from n independent samples of p.  Its standard error is
    s/√n, where s is the standard deviation of the samples' numbers, with n − 1 below.

    log_q: the log-density of the model at the samples, shape (*batch, n) with n ≥ 2 and
    any batch axes.  entropy: H(p) in nats, a plain number.  Returns the pair
    (gap, standard_error), each of shape (*batch).
    """
    return -log_q.mean(-1) - entropy, log_q.std(-1, correction=1) / math.sqrt(log_q.shape[-1])


exercise = Exercise(
    gap_to_truth,
    hints=[
        "The mean of −log q over samples of p estimates the cross-entropy. What is left of it when q is the truth?",
        "Chance moves a mean of n numbers √n times less than one number. The entropy is known, and adds no error.",
        "Return -log_q.mean(-1) - entropy and log_q.std(-1) / math.sqrt(n), with n = log_q.shape[-1]. torch's std has "
        "n − 1 below unless told otherwise.",
    ],
)


@exercise.check
def _(attempt, generator):
    def want(log_q, entropy):
        rows = log_q.reshape(-1, log_q.shape[-1]).tolist()
        gaps = [fmean(-value - entropy for value in row) for row in rows]
        errors = [stdev(row) / math.sqrt(len(row)) for row in rows]
        return (torch.tensor(column, dtype=torch.float64).reshape(log_q.shape[:-1]) for column in (gaps, errors))

    log_q, entropy = -inputs.tenth(1, 4, 3, generator=generator), inputs.tenth(0.3, 0.9, generator=generator).item()
    log_q[0] -= 1  # they are never all three the same
    what = f"for log_q = {inputs.numbers(log_q)} and entropy = {entropy:.1f}"
    asked = [(log_q, entropy, torch.float64, what)]
    for shape, sign, dtype in (
        ((8,), 1, torch.float64),  # by chance the estimate is negative
        ((3, 5), -1, torch.float64),
        ((2, 3, 4), -1, torch.float64),
        ((4, 6), -1, torch.float32),
    ):
        log_q = inputs.normal(*shape, generator=generator) - inputs.uniform(1, 3, generator=generator)
        entropy = -log_q.mean().item() + sign * inputs.uniform(0.2, 0.6, generator=generator).item()
        asked.append((log_q, entropy, dtype, f"for log_q of shape {shape} and entropy = {entropy:.3f}"))
    for log_q, entropy, dtype, what in asked:
        answer = attempt(log_q.to(dtype), entropy)
        yield from inputs.pair("gap_to_truth", what, ("gap", "standard_error"), dtype, answer, want(log_q, entropy))


@exercise.alternative
def statistics_of_the_differences(log_q, entropy):
    gaps, n = -log_q - entropy, log_q.shape[-1]
    gap = gaps.sum(-1) / n
    return gap, (((gaps - gap[..., None]) ** 2).sum(-1) / (n - 1) / n) ** 0.5


@exercise.alternative
def from_all_pairs(log_q, entropy):
    """The variance with n − 1 below is half the mean squared difference of two samples."""
    n = log_q.shape[-1]
    pairs = (log_q[..., None, :] - log_q[..., :, None]) ** 2
    var = pairs.sum((-2, -1)) / (2 * n * (n - 1))
    return torch.einsum("...n->...", -log_q) / n - entropy, torch.sqrt(var / n)


def _spread(log_q, correction=1):
    return log_q.std(-1, correction=correction)


@exercise.mistake(
    "The sign of your gap is wrong: log q enters with a minus. The surprise −log q is on average larger than the "
    "entropy, and the gap is what it is larger by."
)
def gap_turned_round(log_q, entropy):
    gap, error = gap_to_truth(log_q, entropy)
    return -gap, error


@exercise.mistake(
    "You added the entropy. It is the part of the surprise that no model can avoid, and it is subtracted."
)
def entropy_added(log_q, entropy):
    gap, error = gap_to_truth(log_q, entropy)
    return gap + 2 * entropy, error


@exercise.mistake(
    "That is the cross-entropy, the mean of −log q. Of it the entropy is not the model's fault: subtract it."
)
def entropy_forgotten(log_q, entropy):
    gap, error = gap_to_truth(log_q, entropy)
    return gap + entropy, error


@exercise.mistake(
    "You took the mean of log q without the minus and subtracted the entropy from that. It is −mean(log q) − H."
)
def minus_of_log_q_forgotten(log_q, entropy):
    return log_q.mean(-1) - entropy, gap_to_truth(log_q, entropy)[1]


@exercise.mistake(
    "Your gap is never negative, because you took its size. KL is never negative, but an estimate of it may be, by "
    "chance; made positive, it is too large on average."
)
def gap_made_positive(log_q, entropy):
    gap, error = gap_to_truth(log_q, entropy)
    return gap.abs(), error


@exercise.mistake(
    "Your gap is never negative, because you cut it off at zero. KL is never negative, but an estimate of it may be, "
    "by chance; cut off at zero, it is too large on average."
)
def gap_cut_off_at_zero(log_q, entropy):
    gap, error = gap_to_truth(log_q, entropy)
    return gap.clamp(min=0), error


@exercise.mistake(
    "The gap is right, but its error is the standard deviation of single samples. The mean of n samples is √n times "
    "steadier: divide by √n."
)
def error_of_one_sample(log_q, entropy):
    return gap_to_truth(log_q, entropy)[0], _spread(log_q)


@exercise.mistake(
    "The gap is right, but you divided the standard deviation by n. The variance of a mean is s²/n, so its root is "
    "s/√n."
)
def spread_over_n(log_q, entropy):
    return gap_to_truth(log_q, entropy)[0], _spread(log_q) / log_q.shape[-1]


@exercise.mistake(
    "The gap is right, but you have s²/n, the variance of the mean. The standard error is its root, s/√n, in nats like "
    "the gap."
)
def root_of_the_variance_forgotten(log_q, entropy):
    return gap_to_truth(log_q, entropy)[0], log_q.var(-1) / log_q.shape[-1]


@exercise.mistake("The gap is right, but you divided the variance by √n. It is the standard deviation that is: s/√n.")
def variance_over_root_n(log_q, entropy):
    return gap_to_truth(log_q, entropy)[0], log_q.var(-1) / math.sqrt(log_q.shape[-1])


@exercise.mistake(
    "The gap is right, but your standard deviation has n below, as numpy's has unless told otherwise. The samples are "
    "measured from their own mean, which makes them look closer: put n − 1 below."
)
def n_below(log_q, entropy):
    return gap_to_truth(log_q, entropy)[0], _spread(log_q, 0) / math.sqrt(log_q.shape[-1])


@exercise.mistake(
    "The gap is right, but n − 1 stands in your error twice: in the standard deviation, where it belongs, and under "
    "the root, where it is n."
)
def n_minus_one_twice(log_q, entropy):
    return gap_to_truth(log_q, entropy)[0], _spread(log_q) / math.sqrt(log_q.shape[-1] - 1)


@exercise.mistake(
    "The gap is right, but you divided by the root of the number of all entries. Each row has n samples: the root is "
    "that of the last axis."
)
def root_of_all_entries(log_q, entropy):
    return gap_to_truth(log_q, entropy)[0], _spread(log_q) / math.sqrt(log_q.numel())


@exercise.mistake("The gap is right, but the entropy has a part in your error. It is known exactly, and adds no error.")
def entropy_in_the_error(log_q, entropy):
    gap, error = gap_to_truth(log_q, entropy)
    return gap, error - entropy


@exercise.mistake("You added up the samples. The gap is a mean over them, and H(p) is that of one sample.")
def samples_summed(log_q, entropy):
    return -log_q.sum(-1) - entropy, gap_to_truth(log_q, entropy)[1]


@exercise.mistake("Your numbers are in bits. Log-densities and entropy are in nats here, and so is the gap.")
def gap_in_bits(log_q, entropy):
    return tuple(part / math.log(2) for part in gap_to_truth(log_q, entropy))


@exercise.mistake(
    "You converted one part to bits and left the entropy in nats. All three numbers are in nats here: nothing is "
    "divided by log 2."
)
def bits_less_nats(log_q, entropy):
    return -log_q.mean(-1) / math.log(2) - entropy, gap_to_truth(log_q, entropy)[1]


@exercise.mistake(
    "You averaged the densities and then took the logarithm. The surprise of each sample counts: first log, then mean."
)
def logarithm_of_the_mean_density(log_q, entropy):
    n = log_q.shape[-1]
    return math.log(n) - log_q.logsumexp(-1) - entropy, gap_to_truth(log_q, entropy)[1]


@exercise.mistake(
    "You took the mean of q log q, as if outcomes were summed. The samples already come with the probabilities of p: "
    "the plain mean of log q is enough."
)
def weighted_by_q(log_q, entropy):
    return -(log_q.exp() * log_q).mean(-1) - entropy, gap_to_truth(log_q, entropy)[1]


@exercise.mistake(
    "You used all entries at once. Each row of log_q is an estimate of its own: mean and std over axis -1."
)
def rows_thrown_together(log_q, entropy):
    return gap_to_truth(log_q.flatten(), entropy)


@exercise.mistake("The pair is in the wrong order: return the gap first, then its standard error.")
def error_in_front(log_q, entropy):
    return gap_to_truth(log_q, entropy)[::-1]


# 7 ------------------------------------------------------------------------------------------------------------------


def bits_per_dimension(pixels, log_prob, levels, noise):
    """The bits that a model of densities needs for each pixel of an image.

    A pixel is a whole number, and a density gives no probability to a single number.
    So each pixel is spread over a cell of width 1 by noise u, and scaled:

        y = (pixels + u)/levels,   bits = −[log p(y) − d log levels]/(d log 2)

    The density of pixels + u is that of y, divided by levels^d.

    pixels: whole numbers 0, …, levels − 1 as floats, shape (*batch, d).  log_prob:
    maps y, shape (*batch, d), to log p(y) in nats for each image, shape (*batch).
    levels: a whole number.  noise: u in [0, 1), shape (*batch, d).  Returns the bits
    per dimension of each image, shape (*batch).
    """
    d = pixels.shape[-1]
    y = (pixels + noise) / levels
    return -(log_prob(y) - d * math.log(levels)) / (d * math.log(2))


exercise = Exercise(
    bits_per_dimension,
    hints=[
        "First make y: add the noise to the whole numbers, then divide, so that all lies in [0, 1).",
        "In each of the d dimensions y is levels times narrower than pixels + u, and so its density levels times "
        "higher. As a logarithm that is log levels for each dimension.",
        "Return -(log_prob((pixels + noise) / levels) - d * math.log(levels)) / (d * math.log(2)).",
    ],
)


@exercise.check
def _(attempt, generator):
    levels, d = 4, 2
    pixels = torch.randint(1, levels, (d,), generator=generator).double()
    noise = inputs.tenth(0.1, 0.9, d, generator=generator)
    density = math.prod(2 * y / levels for y in (pixels + noise).tolist())
    what = f"p(y) = 4 y₁ y₂, levels = 4, pixels = {inputs.numbers(pixels)} and noise = {inputs.numbers(noise)}"
    answer = attempt(pixels, lambda y: torch.log(2 * y).sum(-1), levels, noise)
    want = -torch.log2(torch.tensor(density / levels**d, dtype=torch.float64)) / d
    yield inputs.case(f"bits_per_dimension for {what}", torch.float64, answer, want)
    for levels, d, batch, dtype in (
        (256, 3, (4,), torch.float64),
        (8, 4, (4,), torch.float64),
        (32, 5, (2, 3), torch.float64),
        (16, 3, (5,), torch.float32),
    ):
        pixels = torch.randint(levels, (*batch, d), generator=generator).double()
        noise = inputs.uniform(0, 1, *batch, d, generator=generator)
        loc, A = inputs.uniform(0, 1, d, generator=generator), inputs.normal(d, d, generator=generator) / d
        L = A.tril(-1) / 2 + torch.diag(inputs.uniform(0.2, 0.5, d, generator=generator))

        def log_prob(y, loc=loc, L=L):
            return MultivariateNormal(loc.to(y), scale_tril=L.to(y)).log_prob(y)

        spread = Transformed(MultivariateNormal(loc, scale_tril=L), AffineTransform(0.0, levels, event_dim=1))
        want = spread.log_prob(pixels + noise) / math.log(0.5) / d
        what = f"bits_per_dimension for {levels} levels and pixels of shape {tuple(pixels.shape)}"
        yield inputs.case(what, dtype, attempt(pixels.to(dtype), log_prob, levels, noise.to(dtype)), want)


@exercise.alternative
def levels_in_bits(pixels, log_prob, levels, noise):
    nats = -log_prob(pixels / levels + noise / levels)
    return nats / math.log(2) / pixels.shape[-1] + math.log2(levels)


@exercise.alternative
def density_in_units_of_a_pixel(pixels, log_prob, levels, noise):
    cell = torch.full_like(pixels, 1 / levels)
    log_mass = log_prob((pixels + noise) * cell) + cell.log().sum(-1)
    return -(log_mass / cell.new_tensor(2.0).log()) / pixels.shape[-1]


def _y(pixels, levels, noise):
    return (pixels + noise) / levels


def _bits(log_p, pixels):
    return -log_p / (pixels.shape[-1] * math.log(2))


@exercise.mistake(
    "The scaling to [0, 1) is not accounted for: you have the bits of y, and for a uniform density they would be 0. "
    "Subtract d log levels from log p(y), which adds log₂ levels, 8 bits for 256 levels."
)
def scaling_forgotten(pixels, log_prob, levels, noise):
    return _bits(log_prob(_y(pixels, levels, noise)), pixels)


@exercise.mistake(
    "The sign of log levels is wrong: y is narrower than the pixels, so p(y) is higher than their density: subtract d "
    "log levels from log p(y). With a uniform density an image of 256 levels needs 8 bits a pixel, not −8."
)
def scaling_with_the_wrong_sign(pixels, log_prob, levels, noise):
    d = pixels.shape[-1]
    return _bits(log_prob(_y(pixels, levels, noise)) + d * math.log(levels), pixels)


@exercise.mistake(
    "You subtracted log levels once. Each of the d dimensions is scaled, and the volume changes by levels^d."
)
def scaling_of_one_dimension(pixels, log_prob, levels, noise):
    return _bits(log_prob(_y(pixels, levels, noise)) - math.log(levels), pixels)


@exercise.mistake("Your number is in nats. For bits, divide by log 2: a nat is 1.443 bits.")
def nats_per_dimension(pixels, log_prob, levels, noise):
    return bits_per_dimension(pixels, log_prob, levels, noise) * math.log(2)


@exercise.mistake(
    "You multiplied by log 2. A bit is the smaller unit, so that there are more of them: divide the nats by log 2."
)
def nats_times_log_2(pixels, log_prob, levels, noise):
    return bits_per_dimension(pixels, log_prob, levels, noise) * math.log(2) ** 2


@exercise.mistake("These are the bits of the whole image. Divide by d, the number of its dimensions.")
def bits_of_the_image(pixels, log_prob, levels, noise):
    return bits_per_dimension(pixels, log_prob, levels, noise) * pixels.shape[-1]


@exercise.mistake("These are the nats of the whole image. Divide by d for each dimension, and by log 2 for bits.")
def nats_of_the_image(pixels, log_prob, levels, noise):
    return bits_per_dimension(pixels, log_prob, levels, noise) * pixels.shape[-1] * math.log(2)


@exercise.mistake(
    "Only log p(y) is divided by d in yours. Both terms belong in the bracket: [log p(y) − d log levels]/(d log 2)."
)
def levels_not_divided_by_d(pixels, log_prob, levels, noise):
    d = pixels.shape[-1]
    return _bits(log_prob(_y(pixels, levels, noise)), pixels) + d * math.log2(levels)


@exercise.mistake(
    "Two units are mixed: log p(y) is in nats and log₂ levels in bits. Divide log p(y) by log 2 before they meet."
)
def bits_and_nats_mixed(pixels, log_prob, levels, noise):
    return -log_prob(_y(pixels, levels, noise)) / pixels.shape[-1] + math.log2(levels)


@exercise.mistake("Two units are mixed: log p(y) became bits, while log levels stayed in nats. Divide both by log 2.")
def levels_in_nats(pixels, log_prob, levels, noise):
    return _bits(log_prob(_y(pixels, levels, noise)), pixels) + math.log(levels)


@exercise.mistake(
    "The noise plays no part in yours. Without it the data are points on a grid, and a density can grow there without "
    "limit: take (pixels + noise)/levels."
)
def noise_forgotten(pixels, log_prob, levels, noise):
    return bits_per_dimension(pixels, log_prob, levels, 0 * noise)


@exercise.mistake(
    "You added the noise after the scaling, where it is as wide as all levels together. Add it before: (pixels + "
    "noise)/levels."
)
def noise_not_scaled(pixels, log_prob, levels, noise):
    return bits_per_dimension(pixels, log_prob, levels, levels * noise)


@exercise.mistake("You subtracted the noise. A pixel fills the cell from its number to the next: add it.")
def noise_subtracted(pixels, log_prob, levels, noise):
    return bits_per_dimension(pixels, log_prob, levels, -noise)


@exercise.mistake(
    "You centred the noise at 0. The cells then begin at −½, and y leaves [0, 1): u itself lies in [0, 1), add it as "
    "it is."
)
def noise_centred(pixels, log_prob, levels, noise):
    return bits_per_dimension(pixels, log_prob, levels, noise - 0.5)


@exercise.mistake(
    "You divided by levels − 1. That fits whole numbers, but with the noise y would go beyond 1: there are as many "
    "cells as levels, so divide by levels."
)
def one_level_less(pixels, log_prob, levels, noise):
    d, y = pixels.shape[-1], (pixels + noise) / (levels - 1)
    return _bits(log_prob(y) - d * math.log(levels), pixels)


@exercise.mistake(
    "You divided by levels − 1, and the volume fits to that. But there are as many cells as levels: y has to stay "
    "below 1, so levels it is, in both places."
)
def one_level_less_in_both(pixels, log_prob, levels, noise):
    return bits_per_dimension(pixels, log_prob, levels - 1, noise)


@exercise.mistake(
    "You asked log_prob about pixels + noise, which reach up to levels. The model knows y in [0, 1): divide by levels "
    "first."
)
def pixels_not_scaled(pixels, log_prob, levels, noise):
    return _bits(log_prob(pixels + noise) - pixels.shape[-1] * math.log(levels), pixels)


@exercise.mistake(
    "You left out the scaling, in y and in the volume. That would be consistent, but log_prob is a density of y in [0, "
    "1): divide by levels, and subtract d log levels."
)
def no_scaling_at_all(pixels, log_prob, levels, noise):
    return _bits(log_prob(pixels + noise), pixels)


@exercise.mistake("The sign is wrong: bits measure surprise, and that is the logarithm with a minus in front.")
def bits_with_the_wrong_sign(pixels, log_prob, levels, noise):
    return -bits_per_dimension(pixels, log_prob, levels, noise)


@exercise.mistake(
    "You have + log p(y): the minus reaches the levels alone. What is divided is −log p(y) + d log levels."
)
def minus_reaches_one_term(pixels, log_prob, levels, noise):
    d = pixels.shape[-1]
    return _bits(-log_prob(_y(pixels, levels, noise)) - d * math.log(levels), pixels)


@exercise.mistake("You averaged over the images. Each image has its own number, and the result the shape (*batch).")
def images_averaged(pixels, log_prob, levels, noise):
    return bits_per_dimension(pixels, log_prob, levels, noise).mean()


@exercise.mistake("You divided by all entries of the batch. Each image has d dimensions, the length of the last axis.")
def divided_by_all_entries(pixels, log_prob, levels, noise):
    d, n = pixels.shape[-1], pixels.numel()
    return bits_per_dimension(pixels, log_prob, levels, noise) * d / n


# 8 ------------------------------------------------------------------------------------------------------------------


def actnorm_start(x):
    """Where ActNorm starts: the shift and the log-scale that standardise a first batch.

        z = (x − loc) exp(−log_scale)

    loc and log_scale are such that each coordinate of z has the mean 0 and the variance
    1 over the batch.  The variance is the mean square of these n points, with n below.

    x: n points, shape (n, d), with n ≥ 2.  Returns the pair (loc, log_scale), each of
    shape (d,).
    """
    return x.mean(0), x.std(0, correction=0).log()


exercise = Exercise(
    actnorm_start,
    hints=[
        "Each coordinate has its own mean and its own width, taken over the points. Which axis holds the points?",
        "To have the variance 1, z has to be x − loc in units of the standard deviation. The scale is given by its "
        "logarithm.",
        "Take x.mean(0) for loc. Then log_scale is the logarithm of x.std(0, correction=0). Without correction=0, "
        "torch puts n − 1 below.",
    ],
)


@exercise.check
def _(attempt, generator):
    def want(x):
        columns = x.T.tolist()
        return (
            torch.tensor([g(c) for c in columns], dtype=torch.float64) for g in (fmean, lambda c: math.log(pstdev(c)))
        )

    near = inputs.tenth(-2, 2, 2, generator=generator)
    far = near + inputs.tenth(1, 5, 2, generator=generator) * inputs.signs((2,), generator)
    x = torch.stack([near, far])
    what = f"for the two points {inputs.numbers(near)} and {inputs.numbers(far)}"
    yield from inputs.pair("actnorm_start", what, ("loc", "log_scale"), torch.float64, attempt(x), want(x))
    for n, d, dtype in (
        (4, 4, torch.float64),
        (7, 2, torch.float64),
        (3, 5, torch.float64),
        (6, 3, torch.float32),
    ):
        loc, scale = inputs.normal(d, generator=generator), inputs.uniform(0.2, 4, d, generator=generator)
        x = loc + scale * inputs.normal(n, d, generator=generator)
        what = f"for x of shape {tuple(x.shape)}"
        yield from inputs.pair("actnorm_start", what, ("loc", "log_scale"), dtype, attempt(x.to(dtype)), want(x))


@exercise.alternative
def half_the_log_of_the_variance(x):
    var, loc = torch.var_mean(x, 0, correction=0)
    return loc, 0.5 * var.log()


@exercise.alternative
def from_sums_of_squares(x):
    loc = x.sum(0) / len(x)
    return loc, torch.log(((x - loc) ** 2).sum(0).div(len(x)).sqrt())


@exercise.alternative
def from_the_norm_of_each_column(x):
    loc = torch.einsum("nd->d", x) / len(x)
    return loc, torch.linalg.vector_norm(x - loc, dim=0).log() - math.log(len(x)) / 2


def _logs(x):
    return x.std(0, correction=0).log()


@exercise.mistake(
    "Your log_scale is the logarithm of the variance, twice what it should be. z is divided by the standard deviation: "
    "½ log of the variance."
)
def log_of_the_variance(x):
    return x.mean(0), 2 * _logs(x)


@exercise.mistake("You returned the standard deviation. log_scale is its logarithm, as exp(−log_scale) divides by it.")
def scale_without_logarithm(x):
    return x.mean(0), _logs(x).exp()


@exercise.mistake("You returned the variance. log_scale is the logarithm of its root, the standard deviation.")
def variance_without_logarithm(x):
    return x.mean(0), (2 * _logs(x)).exp()


@exercise.mistake(
    "The sign of log_scale is wrong. The minus stands in z = (x − loc) exp(−log_scale) already: yours would multiply "
    "by the standard deviation."
)
def minus_twice(x):
    return x.mean(0), -_logs(x)


@exercise.mistake(
    "You took one over the standard deviation. exp(−log_scale) already divides: log_scale is its plain logarithm."
)
def scale_upside_down(x):
    return x.mean(0), (-_logs(x)).exp()


@exercise.mistake(
    "Your standard deviation has n − 1 below, as torch's has unless told otherwise. Then the variance of z over the "
    "batch is (n − 1)/n: pass correction=0."
)
def n_minus_one_below(x):
    return x.mean(0), x.std(0).log()


@exercise.mistake(
    "Two things: your variance has n − 1 below, and its logarithm is not halved. It is ½ log of x.var(0, correction=0)."
)
def log_of_the_corrected_variance(x):
    return x.mean(0), x.var(0).log()


@exercise.mistake(
    "You took the statistics over the coordinates of each point, axis -1. Here each coordinate is compared with itself "
    "over the points, axis 0. (That is what tells ActNorm from layer norm.)"
)
def over_the_coordinates(x):
    return x.mean(-1), x.std(-1, correction=0).log()


@exercise.mistake(
    "You took one mean and one width for all numbers together. Each coordinate gets its own: axis 0, shape (d,)."
)
def one_for_all_coordinates(x):
    return x.mean(), x.std(correction=0).log()


@exercise.mistake(
    "You took one mean and one width for all numbers, and repeated them. Each coordinate gets its own: statistics over "
    "axis 0."
)
def one_repeated_for_all(x):
    return x.mean().expand(x.shape[-1]), x.std(correction=0).log().expand(x.shape[-1])


@exercise.mistake(
    "Your loc is right, but the width is measured from 0: the root of the mean of x². Subtract loc first, or the "
    "variance of z comes out below 1."
)
def width_from_zero(x):
    return x.mean(0), (x**2).mean(0).sqrt().log()


@exercise.mistake(
    "Your loc is right, but you took the mean of |x − loc| for the width. The variance is about squares: their mean, "
    "then the root."
)
def mean_absolute_deviation(x):
    return x.mean(0), (x - x.mean(0)).abs().mean(0).log()


@exercise.mistake(
    "The sign of loc is wrong: it is subtracted in z = (x − loc) exp(−log_scale), so it is the mean itself."
)
def loc_negative(x):
    return -x.mean(0), _logs(x)


@exercise.mistake(
    "Your loc is divided by the scale, as for z = x exp(−log_scale) − loc. Here loc is subtracted first: the plain "
    "mean."
)
def loc_scaled(x):
    return x.mean(0) * (-_logs(x)).exp(), _logs(x)


@exercise.mistake("You took the median for loc. Only with the mean is the mean of z equal to 0.")
def median_for_mean(x):
    return x.median(0).values, _logs(x)


@exercise.mistake("Your loc is the sum over the points. Divide by n: it is their mean.")
def sum_for_mean(x):
    return x.sum(0), _logs(x)


@exercise.mistake(
    "You took log(1 + standard deviation). No 1 is added: for a scale below 1 the logarithm is negative, and rightly "
    "so."
)
def one_plus_the_scale(x):
    return x.mean(0), torch.log1p(_logs(x).exp())


@exercise.mistake("Both parts have an axis too many in front, shape (1, d). Leave out keepdim: (d,) fits to any batch.")
def axis_in_front_kept(x):
    return x.mean(0, keepdim=True), _logs(x)[None]


@exercise.mistake("The pair is in the wrong order: return loc first, then log_scale.")
def log_scale_in_front(x):
    return _logs(x), x.mean(0)


# 9 ------------------------------------------------------------------------------------------------------------------


def lu_transform(x, P, L, U):
    """A linear transform in LU form, whose change of volume stands on a diagonal.

        z = W x,   W = P L U,   log|det W| = Σᵢ log|U_ii|

    P is a permutation, so det P = ±1, and L is lower triangular with ones on its
    diagonal, so det L = 1.  No determinant has to be computed: d may be so large that
    det W itself is too small or too large for a number.

    x: points, shape (*batch, d), with any batch axes.  P, L, U: matrices of shape
    (d, d); U is upper triangular, and no U_ii is 0.  Returns the pair (z, log_det): z
    of shape (*batch, d), and log|det W| for each point, shape (*batch).
    """
    z = x @ (P @ L @ U).T
    return z, U.diagonal().abs().log().sum().expand(x.shape[:-1])


exercise = Exercise(
    lu_transform,
    hints=[
        "Points are rows of x, and W acts on columns. What does a row have to be multiplied by, and from which side?",
        "Each entry of the diagonal enters with its size; a determinant may be negative. Logarithms first, then the "
        "sum: the product of many small numbers is 0.",
        "Take x @ (P @ L @ U).T for z. The log_det is U.diagonal().abs().log().sum(), the same at each point: "
        ".expand(x.shape[:-1]) gives it their shape.",
    ],
)


def _factors(d, size, generator):
    """A permutation that is one cycle, and two triangular matrices; of the diagonal, about `size`, one is negative."""
    order = torch.randperm(d, generator=generator)
    P = torch.zeros(d, d, dtype=torch.float64)
    P[order, order.roll(1)] = 1.0
    L = inputs.normal(d, d, generator=generator).tril(-1) / d**0.5 + torch.eye(d, dtype=torch.float64)
    diagonal = size * inputs.uniform(0.4, 2.2, d, generator=generator)
    diagonal[order[0]] *= -1
    return P, L, size * inputs.normal(d, d, generator=generator).triu(1) / d**0.5 + torch.diag(diagonal)


@exercise.check
def _(attempt, generator):
    def want(x, P, L, U):
        W = (L.numpy() @ U.numpy())[P.numpy().argmax(-1)]  # P puts the rows in another order
        z = torch.from_numpy(np.tensordot(x.numpy(), W, axes=(-1, 1)))
        return z, torch.full(x.shape[:-1], np.linalg.slogdet(W).logabsdet, dtype=torch.float64)

    def with_latent(answer, latent):
        """log_det is the same at each point: the density of z, added to it, tells the points apart."""
        if not isinstance(answer, tuple | list) or len(answer) != 2:
            return answer
        z, log_det = answer
        fits = torch.is_tensor(log_det) and log_det.shape == latent.shape
        return z, log_det + latent.to(log_det) if fits else log_det

    names, parts = ("z", "log_det"), ("z", "log N(z; 0, I) + log_det")
    (a, b, r), c = inputs.tenth(0.3, 1.8, 3, generator=generator), -inputs.tenth(0.3, 0.8, generator=generator)
    P, L, U = (a.new_tensor(rows) for rows in ([[0, 1], [1, 0]], [[1, 0], [r, 1]], [[a, b], [0, c]]))
    x = inputs.tenth(0.5, 2, 2, generator=generator)
    what = f"for P = (0 1; 1 0), L = (1 0; {r:.1f} 1), U = ({a:.1f} {b:.1f}; 0 {c:.1f}) and x = {inputs.numbers(x)}"
    yield from inputs.pair("lu_transform", what, names, torch.float64, attempt(x, P, L, U), want(x, P, L, U))
    for d, batch, size, dtype in (
        (3, (3,), 1.0, torch.float64),  # as many points as coordinates: here W @ x goes unnoticed
        (5, (2, 3), 1.0, torch.float64),
        (200, (2,), 0.01, torch.float64),  # the determinant is less than any number
        (3, (4,), 1.0, torch.float32),
    ):
        x, factors = inputs.normal(*batch, d, generator=generator), _factors(d, size, generator)
        z, log_det = want(x, *factors)
        latent, given = _log_normal(z), (a.to(dtype) for a in (x, *factors))
        wants, what = (z, log_det + latent), f"for x of shape {tuple(x.shape)}"
        answer = with_latent(attempt(*given), latent)
        yield from inputs.pair("lu_transform", what, names, dtype, answer, wants, parts)


@exercise.alternative
def factor_by_factor(x, P, L, U):
    z = torch.einsum("ij,jk,kl,...l->...i", P, L, U, x)
    return z, torch.log(torch.abs(torch.diag(U))).sum() + x.new_zeros(x.shape[:-1])


@exercise.alternative
def half_the_log_of_squares(x, P, L, U):
    z = (P @ (L @ (U @ x[..., None])))[..., 0]
    return z, torch.full_like(x[..., 0], 0.0) + (U.diagonal() ** 2).log().sum() / 2


@exercise.alternative
def by_slogdet(x, P, L, U):
    """It costs d³ where the diagonal costs d, but the number is the same."""
    W = P @ L @ U
    return torch.nn.functional.linear(x, W), torch.linalg.slogdet(W).logabsdet.repeat(x.shape[:-1])


def _log_diagonal(x, values):
    """A number at each point: the sum of the values."""
    return values.sum().expand(x.shape[:-1])


def _moved(x, W):
    return x @ W.T


@exercise.mistake(
    "You computed x W, the transposed matrix at each point. Points are rows here: W x for each of them is x @ (P @ L @ "
    "U).T. The determinant is the same, so that only z tells."
)
def transposed(x, P, L, U):
    return x @ (P @ L @ U), lu_transform(x, P, L, U)[1]


@exercise.mistake(
    "You multiplied W by the whole batch, as if its first axis held coordinates. That fits by accident where there are "
    "as many points as coordinates. Points are rows: x @ W.T."
)
def matrix_times_the_batch(x, P, L, U):
    z, log_det = lu_transform(x, P, L, U)
    return (P @ L @ U @ x if x.ndim == 2 and len(x) == len(U) else z), log_det


@exercise.mistake("The factors are in the wrong order: W = P L U, so U acts on x first and P last. Yours is L U P.")
def permutation_first(x, P, L, U):
    return _moved(x, L @ U @ P), lu_transform(x, P, L, U)[1]


@exercise.mistake("Your W is U L P, in reversed order. For rows, (P L U)ᵀ is Uᵀ Lᵀ Pᵀ, so write x @ U.T @ L.T @ P.T.")
def factors_reversed(x, P, L, U):
    return _moved(x, U @ L @ P), lu_transform(x, P, L, U)[1]


@exercise.mistake("You exchanged the triangular matrices: W = P L U, and yours is P U L.")
def triangles_exchanged(x, P, L, U):
    return _moved(x, P @ U @ L), lu_transform(x, P, L, U)[1]


@exercise.mistake("The permutation is missing in your z: W = P L U, not L U. It changes z, though not the volume.")
def permutation_forgotten(x, P, L, U):
    return _moved(x, L @ U), lu_transform(x, P, L, U)[1]


@exercise.mistake(
    "You permuted by the transpose of P, which is its inverse. Beyond two coordinates that is another permutation."
)
def permutation_undone(x, P, L, U):
    return _moved(x, P.T @ L @ U), lu_transform(x, P, L, U)[1]


@exercise.mistake("You multiplied the matrices entry by entry, with *. The product of matrices is @: P @ L @ U.")
def matrices_entry_by_entry(x, P, L, U):
    return _moved(x, P * L * U), lu_transform(x, P, L, U)[1]


@exercise.mistake(
    "That is the way back, x = W⁻¹ z. From data to latent the points are multiplied by W, and log_det is + Σ log|U_ii|."
)
def solved_for_x(x, P, L, U):
    return _moved(x, torch.linalg.inv(P @ L @ U)), -lu_transform(x, P, L, U)[1]


@exercise.mistake(
    "Your z is right, but the logarithm of a negative U_ii is NaN. The volume changes by its size: "
    "U.diagonal().abs().log()."
)
def logarithm_without_size(x, P, L, U):
    return lu_transform(x, P, L, U)[0], _log_diagonal(x, U.diagonal().log())


@exercise.mistake(
    "Your z is right, but torch.logdet gives NaN for a negative determinant, and W may turn space inside out. From the "
    "diagonal: U.diagonal().abs().log().sum()."
)
def logdet_of_a_negative_determinant(x, P, L, U):
    return lu_transform(x, P, L, U)[0], torch.logdet(P @ L @ U).expand(x.shape[:-1])


@exercise.mistake(
    "Your z is right, but your log_det leaves out the negative entries of the diagonal. Each of them changes the "
    "volume by its size |U_ii|."
)
def positive_entries_alone(x, P, L, U):
    diagonal = U.diagonal()
    return lu_transform(x, P, L, U)[0], _log_diagonal(x, torch.where(diagonal > 0, diagonal, 1.0).log())


@exercise.mistake(
    "Your z is right, but you multiplied first and took the logarithm then. Of 200 small numbers the product is 0, and "
    "its logarithm −∞: take the logarithm of each U_ii, then the sum."
)
def product_underflows(x, P, L, U):
    return lu_transform(x, P, L, U)[0], U.diagonal().prod().abs().log().expand(x.shape[:-1])


@exercise.mistake(
    "Your z is right, but you added up the diagonal itself. The logarithm of a product is a sum of logarithms."
)
def diagonal_added(x, P, L, U):
    return lu_transform(x, P, L, U)[0], _log_diagonal(x, U.diagonal())


@exercise.mistake(
    "Your z is right, but you added up |U_ii|. It is their logarithms that add up to that of the determinant."
)
def sizes_added(x, P, L, U):
    return lu_transform(x, P, L, U)[0], _log_diagonal(x, U.diagonal().abs())


@exercise.mistake(
    "Your z is right, but the sign of log_det is wrong. It belongs to the way from x to z: + Σ log|U_ii|."
)
def log_det_of_the_inverse(x, P, L, U):
    z, log_det = lu_transform(x, P, L, U)
    return z, -log_det


@exercise.mistake(
    "Your z is right, but you returned the size of the determinant. Its logarithm is asked for, the sum of log|U_ii|."
)
def determinant_for_its_logarithm(x, P, L, U):
    z, log_det = lu_transform(x, P, L, U)
    return z, log_det.exp()


@exercise.mistake("Your z is right, but you averaged log|U_ii|. A volume is the product of all of them: add up.")
def diagonal_averaged(x, P, L, U):
    z, log_det = lu_transform(x, P, L, U)
    return z, log_det / x.shape[-1]


@exercise.mistake(
    "Your z is right, but log_det is one number for all points. Each point gets its own, the same here but not in a "
    "stack: .expand(x.shape[:-1])."
)
def one_log_det_for_all(x, P, L, U):
    z, _ = lu_transform(x, P, L, U)
    return z, U.diagonal().abs().log().sum()


@exercise.mistake(
    "Your z is right, but your log_det was multiplied by the number of points. Each point has its own, Σ log|U_ii|."
)
def times_the_number_of_points(x, P, L, U):
    z, log_det = lu_transform(x, P, L, U)
    return z, log_det * x.shape[:-1].numel()


@exercise.mistake("Your z is right, but log_det still has the coordinates, log|U_ii| one by one. Add them up: .sum().")
def logarithms_not_summed(x, P, L, U):
    return lu_transform(x, P, L, U)[0], U.diagonal().abs().log().expand(x.shape)


@exercise.mistake(
    "Your z is right, but your log_det is 0. That is so for L and P; the volume is in U, in the sum of log|U_ii|."
)
def volume_of_a_rotation(x, P, L, U):
    return lu_transform(x, P, L, U)[0], x.new_zeros(x.shape[:-1])


@exercise.mistake("The pair is in the wrong order: return z first, then log_det, as all transforms do.")
def log_det_before_z(x, P, L, U):
    return lu_transform(x, P, L, U)[::-1]
