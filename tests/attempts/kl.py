"""What learners of the kl chapter write: signature, body, and the verdict that the check should give.

A verdict is "passed", the name of a mistake, or None for an answer that fails without a name.
"""

import math

from companion.kl import (
    kl_bernoulli,
    kl_categorical,
    kl_multivariate_normal,
    kl_normal,
    ppo_clip,
    sparsity_penalty,
)

NAMES = {  # what the chapter's notebook has imported
    "kl_bernoulli": kl_bernoulli,
    "kl_categorical": kl_categorical,
    "kl_multivariate_normal": kl_multivariate_normal,
    "kl_normal": kl_normal,
    "math": math,
    "ppo_clip": ppo_clip,
    "sparsity_penalty": sparsity_penalty,
}

BITS = "kl_in_bits(p, q)"
NORMALS = "kl_of_normals(loc0, scale0, loc1, scale1)"
DIMENSIONS = "kl_in_d_dimensions(loc0, cov0, loc1, cov1)"
CLOSEST = "closest_normal(weights, locs, scales)"
K3 = "k3_estimate(log_p, log_q)"
QUIET = "quiet_units(activations, target)"
CLIP = "clipped_objective(log_prob, old_log_prob, advantage, epsilon)"
ELBO = "elbo_of_a_guess(x, loc, scale, noise)"
GAP = "tiny_gap(x)"

ATTEMPTS = [
    (BITS, "return kl_categorical(p, q) / math.log(2)", "passed"),
    (BITS, "return torch.xlogy(p, p / q).sum(dim=-1) * math.log2(math.e)", "passed"),
    (BITS, "return (p * torch.log2(p.clamp(min=1e-30) / q)).sum(-1)", "passed"),
    (BITS, "return (p * (p / q).log2()).nan_to_num(0).sum(-1)", "passed"),
    (BITS, "return torch.nn.functional.kl_div(q.log2(), p.log2(), reduction='none', log_target=True).sum(-1)", None),
    (
        BITS,
        """t = p * torch.log2(p / q)
    t[p == 0] = 0
    return t.sum(-1)""",
        "passed",
    ),
    (
        BITS,
        """rows = [sum(a * torch.log2(a / b) for a, b in zip(u, v) if a > 0)
            for u, v in zip(p.reshape(-1, p.shape[-1]), q.reshape(-1, p.shape[-1]))]
    return torch.stack(rows).reshape(p.shape[:-1])""",
        "passed",
    ),
    (BITS, "return kl_categorical(p, q)", "nats_for_bits"),
    (BITS, "return torch.nn.functional.kl_div(q.log(), p, reduction='none').sum(-1)", "nats_for_bits"),
    (BITS, "return torch.nn.functional.kl_div(q.log(), p, reduction='none')", None),
    (BITS, "return torch.sum(p * (torch.log(p) - torch.log(q)), dim=-1)", "nats_and_nan"),
    (BITS, "return (p * p.log2() - p * q.log2()).sum(-1)", "zeros_give_nan"),
    (BITS, "return (p * torch.log2(p / q)).sum(-1).nan_to_num()", "nan_removed_too_late"),
    (BITS, "return (q * (q / p).log() / math.log(2)).sum(-1)", "bits_swapped"),
    (BITS, "return kl_categorical(q, p) / math.log(2)", "bits_swapped"),
    (BITS, "return kl_categorical(q, p)", "nats_swapped"),
    (BITS, "return torch.xlogy(p, q / p).sum(-1) / math.log(2)", "bits_negative"),
    (BITS, "return torch.nn.functional.kl_div(q.log(), p, reduction='sum')", "nats_of_the_batch_added"),
    (BITS, "return torch.nn.functional.kl_div(q.log(), p, reduction='batchmean')", None),
    (BITS, "return -torch.where(p > 0, p * torch.log2(p / q), 0.0).sum(-1)", "bits_negative"),
    (BITS, "return torch.distributions.Categorical(p).entropy() / math.log(2)", "entropy_alone"),
    (BITS, "return -torch.sum(p * torch.log2(q), -1)", "cross_entropy_alone"),
    (BITS, "return (torch.xlogy(p, p / q) / math.log(2)).mean(-1)", "mean_over_outcomes"),
    (BITS, "return torch.xlogy(p, p / q).sum() / math.log(2)", "bits_of_the_batch_added"),
    (BITS, "return torch.xlogy(p, p / q).sum(-1).mean() / math.log(2)", "bits_of_the_batch_averaged"),
    (BITS, "m = p > 0\n    return (p[m] * torch.log2(p[m] / q[m])).sum()", "bits_of_the_batch_added"),
    (BITS, "return torch.xlogy(p, p / q).sum(-1) * math.log(2)", "multiplied_by_log_2"),
    (BITS, "return (p * (1 + p / q).log2()).sum(-1)", "one_plus_ratio"),
    (BITS, "return torch.xlogy(p, p / q).sum(-1) / torch.log(2)", None),  # torch.log takes a tensor
    (BITS, "return (p * torch.log2((p + 1e-6) / (q + 1e-6))).sum(-1)", None),  # near, not right
    # kl_of_normals
    (NORMALS, "return kl_normal(loc0, scale0, loc1, scale1)", "passed"),
    (
        NORMALS,
        """z = (loc0 - loc1) / scale1
    r = scale0 / scale1
    return (r * r + z * z - 1) / 2 - torch.log(r)""",
        "passed",
    ),
    (
        NORMALS,
        """v0, v1 = scale0 ** 2, scale1 ** 2
    return 0.5 * (torch.log(v1 / v0) + (v0 + (loc0 - loc1) ** 2) / v1 - 1)""",
        "passed",
    ),
    (
        NORMALS,
        """q, p = torch.distributions.Normal(loc1, scale1), torch.distributions.Normal(loc0, scale0)
    cross = -q.log_prob(loc0) + scale0**2 / (2 * scale1**2)
    return cross - p.entropy()""",
        "passed",
    ),
    (NORMALS, "return kl_normal(loc1, scale1, loc0, scale0)", "normals_swapped"),
    (
        NORMALS,
        "return torch.log(scale0 / scale1) + (scale1**2 + (loc1 - loc0)**2) / (2 * scale0**2) - 1/2",
        "normals_swapped",
    ),
    (
        NORMALS,
        "return 0.5 * (torch.log(scale1 / scale0) + (scale0 + (loc0 - loc1)**2) / scale1 - 1)",
        "scales_as_variances",
    ),
    (
        NORMALS,
        """p, q = torch.distributions.Normal(loc0, scale0**2), torch.distributions.Normal(loc1, scale1**2)
    return torch.distributions.kl_divergence(p, q)""",
        "scales_squared_first",
    ),
    (
        NORMALS,
        "return (torch.log(scale1 / scale0) + (scale0**2 + (loc0 - loc1)**2) / scale1**2 - 1) / 2",
        "logarithm_halved",
    ),
    (
        NORMALS,
        "return torch.log(scale1**2 / scale0**2) + (scale0**2 + (loc0 - loc1)**2) / (2 * scale1**2) - 0.5",
        "logarithm_doubled",
    ),
    (
        NORMALS,
        "return scale0.log() - scale1.log() + (scale0**2 + (loc0 - loc1)**2) / (2 * scale1**2) - 0.5",
        "logarithm_upside_down",
    ),
    (
        NORMALS,
        "return torch.log(scale1 / scale0) + (scale0**2 + (loc0 - loc1)**2) / 2 * scale1**2 - 0.5",
        "bracket_missing_below",
    ),
    (NORMALS, "return torch.log(scale1 / scale0) + (scale0**2 + (loc0 - loc1)**2) / (2 * scale1**2)", "constant_lost"),
    (NORMALS, "return torch.log(scale1 / scale0) + (loc0 - loc1)**2 / (2 * scale1**2) - 0.5", "spread_forgotten"),
    (
        NORMALS,
        "return torch.log(scale1 / scale0) + (scale0**2 + (loc0 - loc1)**2) / (2 * scale0**2) - 0.5",
        "divided_by_the_first_variance",
    ),
    (NORMALS, "return kl_normal(loc0, scale0, loc1, scale1).mean()", None),
    (
        NORMALS,
        "return math.log(scale1 / scale0) + (scale0**2 + (loc0 - loc1)**2) / (2 * scale1**2) - 0.5",
        None,  # math.log takes one number
    ),
    # kl_in_d_dimensions
    (DIMENSIONS, "return kl_multivariate_normal(loc0, cov0, loc1, cov1)", "passed"),
    (
        DIMENSIONS,
        """d = loc0.shape[-1]
    P = torch.linalg.inv(cov1)
    m = (loc1 - loc0).unsqueeze(-1)
    maha = (m.mT @ P @ m).squeeze(-1).squeeze(-1)
    tr = torch.einsum('...ij,...ji->...', P, cov0)
    return 0.5 * (tr - d + maha + torch.log(torch.linalg.det(cov1) / torch.linalg.det(cov0)))""",
        "passed",
    ),
    (
        DIMENSIONS,
        """L = torch.linalg.cholesky(cov1)
    tr = torch.cholesky_solve(cov0, L).diagonal(dim1=-2, dim2=-1).sum(-1)
    m = (loc0 - loc1)[..., None]
    maha = (m * torch.cholesky_solve(m, L)).sum((-1, -2))
    ld = 2 * L.diagonal(dim1=-2, dim2=-1).log().sum(-1) - torch.logdet(cov0)
    return (tr + maha + ld - loc0.shape[-1]) / 2""",
        "passed",
    ),
    (
        DIMENSIONS,
        """L0, L1 = torch.linalg.cholesky(cov0), torch.linalg.cholesky(cov1)
    tr = torch.cholesky_solve(cov0, L1).diagonal(dim1=-2, dim2=-1).sum(-1)
    m = (loc0 - loc1)[..., None]
    maha = (m * torch.cholesky_solve(m, L1)).sum((-1, -2))
    ld = (L1.diagonal(dim1=-2, dim2=-1).log() - L0.diagonal(dim1=-2, dim2=-1).log()).sum(-1)
    return (tr + maha + ld - loc0.shape[-1]) / 2""",
        "cholesky_without_two",
    ),
    (DIMENSIONS, "return kl_multivariate_normal(loc1, cov1, loc0, cov0)", "densities_swapped"),
    (
        DIMENSIONS,
        "return kl_multivariate_normal(loc0, cov0, loc1, cov1) + torch.logdet(cov0) - torch.logdet(cov1)",
        "log_det_sign",
    ),
    (
        DIMENSIONS,
        """P, m = cov1.inverse(), loc0 - loc1
    tr = (P @ cov0).diagonal(dim1=-2, dim2=-1).sum(-1)
    maha = torch.einsum('...i,...ij,...j', m, P, m)
    return 0.5 * (tr + maha + torch.logdet(cov1) - torch.logdet(cov0))""",
        "dimension_not_subtracted",
    ),
    (
        DIMENSIONS,
        """P, m = cov1.inverse(), loc0 - loc1
    tr = (P @ cov0).diagonal(dim1=-2, dim2=-1).sum(-1)
    maha = torch.einsum('...i,...ij,...j', m, P, m)
    return tr - m.shape[-1] + maha + torch.logdet(cov1) - torch.logdet(cov0)""",
        "half_of_all_forgotten",
    ),
    (
        DIMENSIONS,
        """P, m = cov1.inverse(), loc0 - loc1
    tr = torch.einsum('...ii,...ii->...', P, cov0)
    maha = torch.einsum('...i,...ij,...j', m, P, m)
    return 0.5 * (tr - m.shape[-1] + maha + torch.logdet(cov1) - torch.logdet(cov0))""",
        "trace_entry_by_entry",
    ),
    (
        DIMENSIONS,
        """P, m = cov1.inverse(), loc0 - loc1
    tr = (cov1 @ cov0.inverse()).diagonal(dim1=-2, dim2=-1).sum(-1)
    maha = torch.einsum('...i,...ij,...j', m, P, m)
    return 0.5 * (tr - m.shape[-1] + maha + torch.logdet(cov1) - torch.logdet(cov0))""",
        "wrong_matrix_inverted",
    ),
    (
        DIMENSIONS,
        """P, m = cov1.inverse(), loc0 - loc1
    tr = (P @ cov0).diagonal(dim1=-2, dim2=-1).sum(-1)
    maha = torch.einsum('...i,...ij,...j', m, cov0.inverse(), m)
    return 0.5 * (tr - m.shape[-1] + maha + torch.logdet(cov1) - torch.logdet(cov0))""",
        "square_with_the_first_covariance",
    ),
    (
        DIMENSIONS,
        "s0, s1 = (c.diagonal(dim1=-2, dim2=-1).sqrt() for c in (cov0, cov1))\n"
        "    return kl_normal(loc0, s0, loc1, s1).sum(-1)",
        "diagonals_alone",
    ),
    (
        DIMENSIONS,
        """P, m = cov1.inverse(), loc0 - loc1
    return 0.5 * (torch.trace(P @ cov0) - m.shape[-1] + m @ P @ m + torch.logdet(cov1) - torch.logdet(cov0))""",
        None,  # right for one pair, and torch.trace takes no batch
    ),
    (
        DIMENSIONS,
        """M = torch.distributions.MultivariateNormal
    return torch.distributions.kl_divergence(M(loc0, scale_tril=cov0), M(loc1, scale_tril=cov1))""",
        None,
    ),
    # closest_normal
    (
        CLOSEST,
        """m = torch.sum(weights * locs, -1, keepdim=True)
    v = torch.sum(weights * scales**2, -1, keepdim=True) + torch.sum(weights * (locs - m)**2, -1, keepdim=True)
    return torch.cat([m, v.sqrt()], -1)""",
        "passed",
    ),
    (
        CLOSEST,
        """m = torch.einsum('...k,...k->...', weights, locs)
    x2 = torch.einsum('...k,...k->...', weights, locs**2 + scales**2)
    return torch.stack((m, (x2 - m * m) ** 0.5), dim=-1)""",
        "passed",
    ),
    (
        CLOSEST,
        "m = (weights * locs).sum(-1)\n    return torch.stack([m, (weights * scales).sum(-1)], -1)",
        "mean_of_scales",
    ),
    (
        CLOSEST,
        "m = (weights * locs).sum(-1)\n    return torch.stack([m, (weights * scales**2).sum(-1).sqrt()], -1)",
        "within_alone",
    ),
    (
        CLOSEST,
        """m = (weights * locs).sum(-1)
    return torch.stack([m, (weights * locs**2).sum(-1).sub(m**2).sqrt()], -1)""",
        "between_alone",
    ),
    (
        CLOSEST,
        """m = (weights * locs).sum(-1)
    return torch.stack([m, (weights * (locs**2 + scales**2)).sum(-1) - m**2], -1)""",
        "variance_for_scale",
    ),
    (
        CLOSEST,
        """m = (weights * locs).sum(-1)
    return torch.stack([m, (weights * (locs**2 + scales**2)).sum(-1).sqrt()], -1)""",
        "counted_from_zero",
    ),
    (
        CLOSEST,
        """m = locs.mean(-1)
    return torch.stack([m, ((locs**2 + scales**2).mean(-1) - m**2).sqrt()], -1)""",
        "components_alike",
    ),
    (
        CLOSEST,
        """k = weights.argmax(-1)[..., None]
    return torch.cat([torch.take_along_dim(locs, k, -1), torch.take_along_dim(scales, k, -1)], -1)""",
        "heaviest_component",
    ),
    (
        CLOSEST,
        """m = (weights * locs).sum(-1)
    return torch.stack([m, ((weights * scales)**2).sum(-1).sqrt()], -1)""",
        "sum_of_independent_numbers",
    ),
    (
        CLOSEST,
        """m = (weights * locs).sum(-1)
    v = (weights * (scales**2 + (locs - m[..., None])**2)).sum(-1)
    return torch.stack([m, v.sqrt()])""",
        "stacked_in_front",
    ),
    (
        CLOSEST,
        """m = (weights * locs).sum(-1)
    v = (weights * (scales**2 + (locs - m)**2)).sum(-1)
    return torch.stack([m, v.sqrt()], -1)""",
        None,  # the mean lost its axis: right for one mixture alone
    ),
    (
        CLOSEST,
        """m = (weights * locs).sum(-1)
    v = (weights * (scales**2 + (locs - m[..., None])**2)).sum(-1)
    return m, v.sqrt()""",
        None,
    ),
    # k3_estimate
    (K3, "l = log_q - log_p\n    return (l.exp() - 1 - l).mean(-1)", "passed"),
    (K3, "r = torch.exp(log_q - log_p)\n    return torch.mean((r - 1) - r.log(), dim=-1)", "passed"),
    (K3, "l = log_p - log_q\n    return ((-l).exp() - 1 + l).mean(-1)", "passed"),
    (K3, "l = log_q - log_p\n    return torch.expm1(l).mean(-1) - l.mean(-1)", "passed"),
    (K3, "l = log_p - log_q\n    return (l.exp() - 1 - l).mean(-1)", "ratio_upside_down"),
    (K3, "l = log_p - log_q\n    return (l.exp() * l - (l.exp() - 1)).mean(-1)", "weighted_for_samples_of_q"),
    (K3, "return (log_p - log_q).sum(-1) / log_p.shape[-1]", "k1_for_k3"),
    (K3, "return torch.mean(log_q, -1) - torch.mean(log_p, -1)", "mean_of_the_log_ratio"),
    (K3, "return 0.5 * (log_p - log_q).square().mean(-1)", "k2_for_k3"),
    (K3, "l = log_q - log_p\n    return (l.exp() - 1 - l).sum(-1)", "samples_added"),
    (K3, "l = log_q - log_p\n    return (l.exp() - l).mean(-1)", "one_not_subtracted"),
    (K3, "l = log_q - log_p\n    return (l.expm1() - l).mean()", "mean_of_everything"),
    (K3, "l = log_q - log_p\n    return l.expm1() - l", "samples_not_averaged"),
    (K3, "l = (log_q - log_p).mean(-1)\n    return l.exp() - 1 - l", "mean_before_the_power"),
    (K3, "return (log_q - log_p).exp().mean(-1).log()", "log_of_the_mean"),
    (K3, "l = log_q - log_p\n    return (log_p.exp() * (l.expm1() - l)).sum(-1)", "weighted_by_p"),
    (K3, "l = log_q / log_p\n    return (l.exp() - 1 - l).mean(-1)", None),
    (K3, "return kl_categorical(log_p.exp(), log_q.exp())", None),  # densities at samples do not sum to 1
    # quiet_units
    (QUIET, "return sparsity_penalty(activations, target)", "passed"),
    (QUIET, "return kl_bernoulli(target, activations.mean(0)).sum()", "passed"),
    (
        QUIET,
        """a = activations.mean(dim=0)
    return torch.sum(target * (math.log(target) - a.log()) + (1 - target) * (math.log(1 - target) - (-a).log1p()))""",
        "passed",
    ),
    (
        QUIET,
        """a = activations.mean(0)
    p = torch.stack([torch.full_like(a, target), torch.full_like(a, 1 - target)], -1)
    return kl_categorical(p, torch.stack([a, 1 - a], -1)).sum()""",
        "passed",
    ),
    (
        QUIET,
        "return torch.sum(torch.log(target + (1 - target) * target / activations))",
        "the_line_that_is_passed_around",
    ),
    (
        QUIET,
        "a = activations.mean(0)\n    return torch.log(target + (1 - target) * target / a).sum()",
        "that_line_on_the_means",
    ),
    (QUIET, "return kl_bernoulli(target, activations).mean(0).sum()", "averaged_afterwards"),
    (QUIET, "return kl_bernoulli(target, activations).sum(-1).mean()", "averaged_afterwards"),
    (QUIET, "return kl_bernoulli(target, activations).sum()", "never_averaged"),
    (QUIET, "return kl_bernoulli(activations.mean(0), target).sum()", "shares_swapped"),
    (QUIET, "a = activations.mean(0)\n    return (target * (target / a).log()).sum()", "silence_forgotten"),
    (QUIET, "return kl_bernoulli(target, activations.mean(0)).mean()", "mean_over_units"),
    (QUIET, "return kl_bernoulli(target, activations.mean(-1)).sum()", "averaged_over_the_units"),
    (QUIET, "return kl_bernoulli(target, activations.mean())", "one_share_for_the_layer"),
    (
        QUIET,
        """a = activations.mean(0)
    return torch.nn.functional.binary_cross_entropy(a, torch.full_like(a, target), reduction='sum')""",
        "entropy_not_subtracted",
    ),
    (QUIET, "return kl_bernoulli(target, activations.mean(0))", "units_not_added"),
    (QUIET, "return sparsity_penalty(activations.detach().clone(), target)", "penalty_cut_off"),
    (QUIET, "return activations.abs().sum()", None),
    (QUIET, "return sparsity_penalty(activations, target).item()", None),
    (
        QUIET,
        "a = activations.mean(0)\n    return (target * torch.log(target / a) + (1 - target) * (1 - a).log()).sum()",
        None,
    ),
    # clipped_objective
    (CLIP, "return ppo_clip(log_prob.sum(-1), old_log_prob.sum(-1), advantage, epsilon)", "passed"),
    (
        CLIP,
        """r = torch.exp(log_prob.sum(1) - old_log_prob.sum(1).detach())
    a, b = r * advantage, torch.clip(r, 1 - epsilon, 1 + epsilon) * advantage
    return torch.where(a < b, a, b)""",
        "passed",
    ),
    (
        CLIP,
        """r = log_prob.exp().prod(-1) / old_log_prob.exp().prod(-1)
    return torch.min(torch.stack([r, r.clamp(1 - epsilon, 1 + epsilon)]) * advantage, 0).values""",
        "passed",
    ),
    (
        CLIP,
        "A = advantage[:, None].expand_as(log_prob)\n    return ppo_clip(log_prob, old_log_prob, A, epsilon).mean(-1)",
        "objective_of_each_dimension",
    ),
    (
        CLIP,
        "A = advantage[:, None].expand_as(log_prob)\n    return ppo_clip(log_prob, old_log_prob, A, epsilon).sum(-1)",
        "objectives_of_dimensions_added",
    ),
    (
        CLIP,
        """r = (log_prob - old_log_prob).exp().mean(-1)
    return torch.minimum(r * advantage, r.clamp(1 - epsilon, 1 + epsilon) * advantage)""",
        "mean_of_ratios",
    ),
    (
        CLIP,
        "return ppo_clip(log_prob.mean(-1), old_log_prob.mean(-1), advantage, epsilon)",
        "mean_of_log_probabilities",
    ),
    (
        CLIP,
        """r = (log_prob - old_log_prob).sum(-1).exp()
    return torch.max(r * advantage, r.clamp(1 - epsilon, 1 + epsilon) * advantage)""",
        "larger_one",
    ),
    (
        CLIP,
        "r = (log_prob - old_log_prob).sum(-1).exp()\n    return torch.clip(r, 1 - epsilon, 1 + epsilon) * advantage",
        "clip_without_minimum",
    ),
    (
        CLIP,
        """r = (log_prob - old_log_prob).sum(-1)
    return torch.min(r * advantage, r.clamp(1 - epsilon, 1 + epsilon) * advantage)""",
        "ratio_without_exp",
    ),
    (CLIP, "return -ppo_clip(log_prob.sum(-1), old_log_prob.sum(-1), advantage, epsilon)", "loss_for_objective"),
    (
        CLIP,
        """r = (log_prob - old_log_prob).sum(-1).exp()
    return torch.min(r, r.clamp(1 - epsilon, 1 + epsilon)) * advantage""",
        "minimum_before_the_advantage",
    ),
    (
        CLIP,
        """r = log_prob.sum(-1).exp() / (old_log_prob.sum(-1).exp() + 1e-5)
    return torch.min(r * advantage, r.clamp(1 - epsilon, 1 + epsilon) * advantage)""",
        "small_number_below",
    ),
    (CLIP, "return ppo_clip(log_prob.sum(-1), old_log_prob.sum(-1), advantage, epsilon).mean()", "actions_averaged"),
    (CLIP, "return ppo_clip(old_log_prob.sum(-1), log_prob.sum(-1), advantage, epsilon)", "old_over_new"),
    (
        CLIP,
        """r = (log_prob - old_log_prob).exp()
    return torch.min(r * advantage, r.clamp(1 - epsilon, 1 + epsilon) * advantage)""",
        None,  # (batch, dims) times (batch,): an error, or the wrong axis
    ),
    (CLIP, "return ppo_clip(log_prob, old_log_prob, advantage[:, None], epsilon).sum(-1)", None),  # shapes differ
    # elbo_of_a_guess
    (
        ELBO,
        """rec = -0.5 * math.log(2 * math.pi) - torch.log(noise) - 0.5 * ((x - loc)**2 + scale**2) / noise**2
    return rec - kl_normal(loc, scale, torch.zeros_like(loc), torch.ones_like(scale))""",
        "passed",
    ),
    (
        ELBO,
        """v = 1 + noise**2
    log_px = torch.distributions.Normal(torch.zeros_like(x), v.sqrt()).log_prob(x)
    return log_px - kl_normal(loc, scale, x / v, noise / v.sqrt())""",
        "passed",
    ),
    (
        ELBO,
        """N = torch.distributions.Normal
    rec = N(loc, noise).log_prob(x) - (scale / noise)**2 / 2
    kl = torch.distributions.kl_divergence(N(loc, scale), N(0.0, 1.0))
    return rec - kl""",
        "passed",
    ),
    (
        ELBO,
        """N = torch.distributions.Normal
    rec = N(loc, noise).log_prob(x) - (scale / noise)**2 / 2
    return rec + torch.distributions.kl_divergence(N(loc, scale), N(0.0, 1.0))""",
        "kl_added",
    ),
    (
        ELBO,
        """N = torch.distributions.Normal
    rec = N(loc, noise).log_prob(x) - (scale / noise)**2 / 2
    return rec - torch.distributions.kl_divergence(N(0.0, 1.0), N(loc, scale))""",
        "kl_from_the_prior",
    ),
    (
        ELBO,
        """N = torch.distributions.Normal
    return N(loc, noise).log_prob(x) - torch.distributions.kl_divergence(N(loc, scale), N(0.0, 1.0))""",
        "spread_of_the_guess_forgotten",
    ),
    (
        ELBO,
        """rec = -torch.log(noise) - 0.5 * ((x - loc)**2 + scale**2) / noise**2
    return rec + 0.5 * (1 - loc**2 - scale**2) + scale.log()""",
        "two_pi_forgotten",
    ),
    (
        ELBO,
        """rec = -0.5 * torch.log(2 * math.pi * noise) - 0.5 * ((x - loc)**2 + scale**2) / noise
    return rec + 0.5 * (1 - loc**2 - scale**2) + scale.log()""",
        "noise_as_variance",
    ),
    (
        ELBO,
        """rec = -0.5 * torch.log(2 * math.pi * noise) - 0.5 * ((x - loc)**2 + scale**2) / noise**2
    return rec + 0.5 * (1 - loc**2 - scale**2) + scale.log()""",
        "log_noise_halved",
    ),
    (
        ELBO,
        """rec = -0.5 * torch.log(2 * math.pi * noise**2) - 0.5 * ((x - loc)**2 + scale**2) / noise**2
    return rec - 0.5 * (loc**2 + scale**2 - 1) - scale.log()""",
        "entropy_sign",
    ),
    (
        ELBO,
        """rec = -0.5 * torch.log(2 * math.pi * noise**2) - 0.5 * ((x - loc)**2 + scale**2) / noise**2
    return rec - 0.5 * (loc**2 + scale**2) + scale.log()""",
        "half_of_the_kl_forgotten",
    ),
    (
        ELBO,
        "return -0.5 * torch.log(2 * math.pi * noise**2) - 0.5 * ((x - loc)**2 + scale**2) / noise**2",
        "reconstruction_alone",
    ),
    (ELBO, "v = 1 + noise**2\n    return -0.5 * (torch.log(2 * math.pi * v) + x**2 / v)", "evidence_itself"),
    (
        ELBO,
        """N = torch.distributions.Normal
    z = loc + scale * torch.randn_like(loc)
    return N(z, noise).log_prob(x) - torch.distributions.kl_divergence(N(loc, scale), N(0.0, 1.0))""",
        None,  # one sample of z for the mean
    ),
    # tiny_gap
    (
        GAP,
        """small = x.abs() < 0.1
    series = sum((-1) ** k * x**k / k for k in range(2, 20))
    return torch.where(small, series, x - torch.log1p(x))""",
        "passed",
    ),
    (
        GAP,
        """out = x - torch.log1p(x)
    small = x.abs() < 0.2
    t = x[small]
    out[small] = sum((-1) ** k * t**k / k for k in range(2, 26))
    return out""",
        "passed",
    ),
    (
        GAP,
        """near = (x > -0.5) & (x < 1)
    s = torch.where(near, x / (2 + x), 0)
    log = s * x - sum(2 * s ** (2*k + 1) / (2*k + 1) for k in range(1, 18))
    return torch.where(near, log, x - torch.log1p(x))""",
        "passed",
    ),
    (GAP, "return x - (1 + x).log()", "as_it_stands"),
    (GAP, "return x - torch.log(x + 1.0)", "as_it_stands"),
    (GAP, "return -(torch.log1p(x) - x)", "log1p_subtracted"),
    (GAP, "return (x - torch.log1p(x)).clamp(min=0)", "log1p_subtracted"),
    (GAP, "x64 = x.double()\n    return (x64 - x64.log1p()).to(x.dtype)", "detour_by_float64"),
    (GAP, "return 0.5 * x * x", "half_a_square"),
    (GAP, "return torch.where(x.abs() < 1e-2, x**2 / 2, x - torch.log1p(x))", "digits_lost_in_between"),
    (GAP, "return torch.where(x.abs() < 1e-8, x**2 / 2, x - torch.log1p(x))", "digits_lost_in_between"),
    (
        GAP,
        "return torch.where(x.abs() < 0.1, x**2/2 - x**3/3 + x**4/4 - x**5/5, x - torch.log1p(x))",
        "digits_lost_in_between",
    ),
    (
        GAP,
        "return torch.where(x.abs() < 0.5, sum((-x)**k / k for k in range(2, 20)), x - torch.log1p(x))",
        "digits_lost_in_between",
    ),
    (
        GAP,
        "return torch.where(x < 0.1, sum((-x)**k / k for k in range(2, 30)), x - torch.log1p(x))",
        "series_near_minus_one",
    ),
    (GAP, "return sum((-x)**k / k for k in range(2, 30))", "series_for_all"),
    (GAP, "return sum((-x)**k / k for k in range(2, 12))", "series_for_all"),
    (GAP, "return x*x/2 - x*x*x/3", "two_terms"),
    (
        GAP,
        "return torch.where(x.abs() < 0.1, sum(x**k / k for k in range(2, 20)), x - torch.log1p(x))",
        "signs_do_not_alternate",
    ),
    (
        GAP,
        """t = x.double()
    return torch.where(t.abs() < 0.1, sum((-t)**k / k for k in range(2, 20)), t - torch.log1p(t))""",
        "answers_in_float64",
    ),
    (
        GAP,
        """if x.abs() < 0.1:
        return sum((-x)**k / k for k in range(2, 20))
    return x - torch.log1p(x)""",
        None,  # `if` asks one number, not a batch
    ),
    (GAP, "return x - math.log1p(x)", "log1p_subtracted"),
]
