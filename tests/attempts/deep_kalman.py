"""What learners of the deep_kalman chapter write: signature, body, and the verdict that the check should give.

A verdict is "passed", the name of a mistake, or None for an answer that fails without a name.
"""

import math

from torch.distributions import Independent, Normal, kl_divergence

from companion.exercises import EXERCISES
from companion.kl import kl_normal

NAMES = {  # what the chapter's notebook has imported, and what its reader has written before
    "Independent": Independent,
    "Normal": Normal,
    "combine": EXERCISES["combine"].reference,
    "emission_nll": EXERCISES["emission_nll"].reference,
    "kl_divergence": kl_divergence,
    "kl_normal": kl_normal,
    "math": math,
}

EMISSION = "emission_nll(obs, loc, log_var)"
COMBINE = "combine(prior_loc, prior_scale, m, r)"
WEIGHT = "log_weight(x, z, prior_loc, prior_scale, q_loc, q_scale, emit_loc, emit_scale)"
BOUND = "importance_bound(log_weights)"
OVERSHOOTING = "overshooting_kl(kl, horizon)"
COVERAGE = "coverage(samples, obs, level)"

ATTEMPTS = [
    (
        EMISSION,
        """var = torch.exp(log_var)
    nll = 0.5 * torch.log(2 * torch.pi * var) + (obs - loc).pow(2) / (2 * var)
    return nll.sum(dim=-1)""",
        "passed",
    ),
    (
        EMISSION,
        """scale = torch.exp(0.5 * log_var)
    return -Independent(Normal(loc, scale), 1).log_prob(obs)""",
        "passed",
    ),
    (
        EMISSION,
        """p = obs.shape[-1]
    return torch.einsum("...i,i->...", (obs - loc) ** 2, torch.exp(-log_var)) / 2 + log_var.sum() / 2 + p * math.log(
        2 * math.pi
    ) / 2""",
        "passed",
    ),
    (
        EMISSION,
        """log_p = 0
    for i in range(obs.shape[-1]):
        v = log_var[i].exp()
        log_p = log_p + torch.log(torch.exp(-((obs[..., i] - loc[..., i]) ** 2) / (2 * v)) / (2 * math.pi * v).sqrt())
    return -log_p""",
        "passed",
    ),
    (
        EMISSION,
        "return -Normal(loc, log_var.exp()).log_prob(obs).sum(-1)",
        "variance_taken_for_scale",
    ),
    (
        EMISSION,
        """square = (obs - loc) ** 2 / (2 * torch.exp(2 * log_var))
    return (square + log_var + math.log(2 * math.pi) / 2).sum(-1)""",
        "variance_taken_for_scale",  # what the name emit_log_sigma promises
    ),
    (
        EMISSION,
        "return ((obs - loc).pow(2) / 2 / log_var.exp() + log_var / 2).sum(-1)",
        "constant_missing",
    ),
    (
        EMISSION,
        "return ((obs - loc).pow(2) / 2 / log_var.exp() + log_var + math.log(2 * math.pi) / 2).sum(-1)",
        "log_var_not_halved",
    ),
    (
        EMISSION,
        """var = log_var.exp()
    return (0.5 * ((obs - loc) / var) ** 2 + 0.5 * log_var + 0.5 * math.log(2 * math.pi)).sum(-1)""",
        "variance_squared_in_the_square",
    ),
    (
        EMISSION,
        """scale = (log_var / 2).exp()
    return ((obs - loc) ** 2 / scale + log_var + math.log(2 * math.pi)).sum(-1) / 2""",
        "square_over_the_scale",
    ),
    (
        EMISSION,
        "return ((obs - loc) ** 2 / log_var.exp() + log_var / 2 + math.log(2 * math.pi) / 2).sum(-1)",
        "square_not_halved",
    ),
    (
        EMISSION,
        "return Normal(loc, (log_var / 2).exp()).log_prob(obs).sum(-1)",
        "log_likelihood_returned",
    ),
    (
        EMISSION,
        "return -Normal(loc, (log_var / 2).exp()).log_prob(obs).mean(-1)",
        "mean_over_numbers",
    ),
    (
        EMISSION,
        "return -Normal(loc, (log_var / 2).exp()).log_prob(obs).sum()",
        "all_observations_added",
    ),
    (
        EMISSION,
        "return -Normal(loc, (log_var / 2).exp()).log_prob(obs)",
        "numbers_kept_apart",
    ),
    (
        EMISSION,
        "return ((obs - loc) ** 2 / 2 / log_var.exp() + log_var / 2).sum(-1) + math.log(2 * math.pi) / 2",
        "constant_added_once",
    ),
    (
        EMISSION,
        "return ((obs - loc) ** 2).sum(-1) / 2",
        "squared_error_alone",
    ),
    (
        EMISSION,
        "return torch.nn.functional.gaussian_nll_loss(loc, obs, log_var.exp().expand_as(obs), full=True)",
        None,  # the mean over all numbers, which is what this loss does by default
    ),
    (
        EMISSION,
        "return -Normal(loc, (log_var / 2).exp()).log_prob(obs).sum(-1).mean()",
        "all_observations_averaged",
    ),
    # combine
    (
        COMBINE,
        """v = 1 / (prior_scale ** -2 + r ** -2)
    return v * (prior_loc * prior_scale ** -2 + m * r ** -2), torch.sqrt(v)""",
        "passed",
    ),
    (
        COMBINE,
        """s2, r2 = prior_scale.square(), r.square()
    loc = (r2 * prior_loc + s2 * m) / (s2 + r2)
    return [loc, prior_scale * r / torch.hypot(prior_scale, r)]""",
        "passed",
    ),
    (
        COMBINE,
        """K = prior_scale**2 / (prior_scale**2 + r**2)
    return torch.lerp(prior_loc, m, K), prior_scale * (1 - K).sqrt()""",
        "passed",
    ),
    (
        COMBINE,
        """logs = -2 * torch.stack([prior_scale, r]).log()
    share = torch.softmax(logs, 0)
    return (share * torch.stack([prior_loc, m])).sum(0), torch.exp(-torch.logsumexp(logs, 0) / 2)""",
        "passed",
    ),
    (
        COMBINE,
        """precision = 1 / prior_scale + 1 / r
    return (prior_loc / prior_scale + m / r) / precision, precision.rsqrt()""",
        "scales_as_variances",
    ),
    (
        COMBINE,
        """precision = 1 / prior_scale + 1 / r
    return (prior_loc / prior_scale + m / r) / precision, 1 / precision""",
        "inverse_scales_added",
    ),
    (
        COMBINE,
        """precision = 1 / prior_scale**2 + 1 / r**2
    return (prior_loc / prior_scale**2 + m / r**2) / precision, 1 / precision""",
        "variance_for_scale",
    ),
    (
        COMBINE,
        """precision = 1 / prior_scale**2 + 1 / r**2
    return (prior_loc / prior_scale**2 + m / r**2) / precision, precision""",
        "precision_for_scale",
    ),
    (
        COMBINE,
        """s2, r2 = prior_scale**2, r**2
    return (s2 * prior_loc + r2 * m) / (s2 + r2), (s2 * r2 / (s2 + r2)).sqrt()""",
        "weights_swapped",
    ),
    (
        COMBINE,
        """K = r**2 / (prior_scale**2 + r**2)
    return prior_loc + K * (m - prior_loc), K.sqrt() * prior_scale""",
        "weights_swapped",  # the gain of the message is the prior's share of the variance
    ),
    (
        COMBINE,
        """K = prior_scale**2 / (prior_scale**2 + r**2)
    return prior_loc + K * (m - prior_loc), (1 - K) * prior_scale""",
        "share_without_root",
    ),
    (
        COMBINE,
        """precision = (1 / prior_scale**2 + 1 / r**2) / 2
    loc = (prior_loc / prior_scale**2 + m / r**2) / (2 * precision)
    return loc, precision.rsqrt()""",
        "precisions_averaged",
    ),
    (
        COMBINE,
        """K = prior_scale**2 / (prior_scale**2 + r**2)
    return prior_loc + K * (m - prior_loc), (prior_scale**2 + r**2).sqrt()""",
        "variances_added",
    ),
    (
        COMBINE,
        "return (prior_loc + m) / 2, (prior_scale + r) / 2",
        "averages_of_both",
    ),
    (
        COMBINE,
        "return prior_loc + m, (prior_scale**2 + r**2).sqrt()",
        "sum_of_two_numbers",
    ),
    (
        COMBINE,
        """precision = 1 / prior_scale**2 + 1 / r**2
    return prior_loc / prior_scale**2 + m / r**2, precision.rsqrt()""",
        "mean_not_normalised",
    ),
    (
        COMBINE,
        """scale = (1 / prior_scale**2 + 1 / r**2).rsqrt()
    return scale * (prior_loc / prior_scale**2 + m / r**2), scale""",
        "mean_times_the_scale",
    ),
    (
        COMBINE,
        """K = prior_scale**2 / (prior_scale**2 + r**2)
    return prior_loc + K * (prior_loc - m), prior_scale * (1 - K).sqrt()""",
        "pushed_away_from_the_message",
    ),
    (
        COMBINE,
        """scale = (1 / prior_scale**2 + 1 / r**2).rsqrt()
    return scale, scale**2 * (prior_loc / prior_scale**2 + m / r**2)""",
        "scale_in_front",
    ),
    (
        COMBINE,
        """precision = 1 / prior_scale**2 + 1 / r**2
    return (prior_loc / prior_scale**2 + m / r**2) / precision""",
        None,  # the mean alone
    ),
    # log_weight
    (
        WEIGHT,
        """log_p = Normal(emit_loc, emit_scale).log_prob(x).sum((-1, -2))
    log_p = log_p + Normal(prior_loc, prior_scale).log_prob(z).sum((-1, -2))
    return log_p - Normal(q_loc, q_scale).log_prob(z).sum((-1, -2))""",
        "passed",
    ),
    (
        WEIGHT,
        """ratio = Normal(prior_loc, prior_scale).log_prob(z) - Normal(q_loc, q_scale).log_prob(z)
    return ratio.flatten(-2).sum(-1) - emission_nll(x, emit_loc, 2 * emit_scale.log()).sum(-1)""",
        "passed",
    ),
    (
        WEIGHT,
        """def log_normal(v, loc, scale):
        return -0.5 * (v - loc) ** 2 / scale**2 - torch.log(scale * math.sqrt(2 * math.pi))
    total = 0
    for t in range(z.shape[-2]):
        total = total + log_normal(x[..., t, :], emit_loc[..., t, :], emit_scale).sum(-1)
        total = total + log_normal(z[..., t, :], prior_loc[..., t, :], prior_scale[..., t, :]).sum(-1)
        total = total - log_normal(z[..., t, :], q_loc[..., t, :], q_scale[..., t, :]).sum(-1)
    return total""",
        "passed",
    ),
    (
        WEIGHT,
        """parts = [(x, emit_loc, emit_scale, 1), (z, prior_loc, prior_scale, 1), (z, q_loc, q_scale, -1)]
    return sum(s * Independent(Normal(a, b), 2).log_prob(v) for v, a, b, s in parts)""",
        "passed",
    ),
    (
        WEIGHT,
        """p = Normal(emit_loc, emit_scale).log_prob(x).sum((-1, -2))
    p += Normal(prior_loc, prior_scale).log_prob(z).sum((-1, -2))
    return p + Normal(q_loc, q_scale).log_prob(z).sum((-1, -2))""",
        "q_added",
    ),
    (
        WEIGHT,
        """seen = Normal(emit_loc, emit_scale).log_prob(x).sum((-1, -2))
    return seen - kl_normal(q_loc, q_scale, prior_loc, prior_scale).sum((-1, -2))""",
        "kl_for_the_sampled_ratio",
    ),
    (
        WEIGHT,
        """seen = Normal(emit_loc, emit_scale).log_prob(x).sum((-1, -2))
    return seen + kl_divergence(Normal(q_loc, q_scale), Normal(prior_loc, prior_scale)).sum((-1, -2))""",
        "kl_added",
    ),
    (
        WEIGHT,
        """seen = Normal(emit_loc, emit_scale).log_prob(x).sum(-1)
    each = seen + (Normal(prior_loc, prior_scale).log_prob(z) - Normal(q_loc, q_scale).log_prob(z)).sum(-1)
    return each.mean(-1)""",
        "mean_over_time",
    ),
    (
        WEIGHT,
        """seen = Normal(emit_loc, emit_scale).log_prob(x).sum(-1)
    return seen + (Normal(prior_loc, prior_scale).log_prob(z) - Normal(q_loc, q_scale).log_prob(z)).sum(-1)""",
        "times_kept_apart",
    ),
    (
        WEIGHT,
        """seen = Normal(emit_loc, emit_scale).log_prob(x).sum()
    return seen + (Normal(prior_loc, prior_scale).log_prob(z) - Normal(q_loc, q_scale).log_prob(z)).sum()""",
        "all_paths_added",
    ),
    (
        WEIGHT,
        """seen = Normal(emit_loc, emit_scale).log_prob(x).sum((-1, -2))
    return seen + (Normal(q_loc, q_scale).log_prob(z) - Normal(prior_loc, prior_scale).log_prob(z)).sum((-1, -2))""",
        "prior_and_q_swapped",
    ),
    (
        WEIGHT,
        """seen = Normal(emit_loc, emit_scale.sqrt()).log_prob(x).sum((-1, -2))
    prior, q = Normal(prior_loc, prior_scale.sqrt()), Normal(q_loc, q_scale.sqrt())
    return seen + (prior.log_prob(z) - q.log_prob(z)).sum((-1, -2))""",
        "scales_for_variances",
    ),
    (
        WEIGHT,
        """def log_normal(v, loc, scale):
        return (-((v - loc) ** 2) / (2 * scale) - 0.5 * (2 * math.pi * scale).log()).sum((-1, -2))
    log_p = log_normal(x, emit_loc, emit_scale) + log_normal(z, prior_loc, prior_scale)
    return log_p - log_normal(z, q_loc, q_scale)""",
        "scales_for_variances",
    ),
    (
        WEIGHT,
        """seen = Normal(emit_loc, (emit_scale / 2).exp()).log_prob(x).sum((-1, -2))
    return seen + (Normal(prior_loc, prior_scale).log_prob(z) - Normal(q_loc, q_scale).log_prob(z)).sum((-1, -2))""",
        "emission_scale_for_log_variance",
    ),
    (
        WEIGHT,
        """def log_normal(v, loc, scale):
        return (-((v - loc) ** 2) / (2 * scale**2) - scale.log()).sum((-1, -2))
    log_p = log_normal(x, emit_loc, emit_scale) + log_normal(z, prior_loc, prior_scale)
    return log_p - log_normal(z, q_loc, q_scale)""",
        "constant_of_x_missing",
    ),
    (
        WEIGHT,
        """seen = Normal(emit_loc, emit_scale).log_prob(x).sum((-1, -2))
    return seen + Normal(prior_loc, prior_scale).log_prob(z).sum((-1, -2))""",
        "q_forgotten",
    ),
    (
        WEIGHT,
        """seen = Normal(emit_loc, emit_scale).log_prob(x).sum((-1, -2))
    return seen - Normal(q_loc, q_scale).log_prob(z).sum((-1, -2))""",
        "prior_not_used",
    ),
    (
        WEIGHT,
        """log_p = Normal(emit_loc, emit_scale).log_prob(x) + Normal(prior_loc, prior_scale).log_prob(z)
    return (log_p - Normal(q_loc, q_scale).log_prob(z)).sum((-1, -2))""",
        None,  # numbers of x and of z are added one by one, which fits only where there are as many
    ),
    # importance_bound
    (
        BOUND,
        "return torch.logsumexp(log_weights, dim=0) - math.log(log_weights.shape[0])",
        "passed",
    ),
    (
        BOUND,
        """top = log_weights.amax(0)
    return (log_weights - top).exp().sum(0).div(log_weights.size(0)).log() + top""",
        "passed",
    ),
    (
        BOUND,
        """K = log_weights.new_tensor(float(log_weights.shape[0]))
    return (log_weights - K.log()).logsumexp(0)""",
        "passed",
    ),
    (
        BOUND,
        """order = log_weights.sort(0, descending=True).values
    return order[0] + torch.log1p((order[1:] - order[0]).exp().sum(0)) - math.log(len(order))""",
        "passed",
    ),
    (
        BOUND,
        "return log_weights.mean(0)",
        "mean_of_logarithms",
    ),
    (
        BOUND,
        "return torch.logsumexp(log_weights, 0)",
        "logarithm_of_the_sum",
    ),
    (
        BOUND,
        "return torch.logsumexp(log_weights, 0) + math.log(len(log_weights))",
        "log_of_K_added",
    ),
    (
        BOUND,
        "return torch.logsumexp(log_weights, 0) / len(log_weights)",
        "logarithm_divided_by_K",
    ),
    (
        BOUND,
        "return torch.log(torch.exp(log_weights).mean(0))",
        "exponentials_out_of_range",
    ),
    (
        BOUND,
        """w = torch.exp(log_weights)
    return torch.log(w.sum(0) / len(w))""",
        "exponentials_out_of_range",
    ),
    (
        BOUND,
        "return torch.log(torch.exp(log_weights).sum(0))",
        "exponentials_summed_out_of_range",
    ),
    (
        BOUND,
        """M = log_weights.max()
    return M + torch.log(torch.exp(log_weights - M).sum(0)) - math.log(len(log_weights))""",
        "one_maximum_for_all",
    ),
    (
        BOUND,
        """M = log_weights.max(0).values
    return torch.log(torch.exp(log_weights - M).mean(0))""",
        "maximum_not_added",
    ),
    (
        BOUND,
        "return log_weights.amax(0)",
        "largest_alone",
    ),
    (
        BOUND,
        "return torch.logsumexp(log_weights, -1) - math.log(log_weights.shape[-1])",
        "last_axis_for_samples",
    ),
    (
        BOUND,
        "return torch.logsumexp(log_weights, 0) - math.log(log_weights.shape[-1])",
        "length_of_the_last_axis",
    ),
    (
        BOUND,
        "return (torch.logsumexp(log_weights, 0) - math.log(len(log_weights))).mean()",
        "bounds_averaged",
    ),
    (
        BOUND,
        "return (torch.softmax(log_weights, 0) * log_weights).sum(0)",
        "weighted_mean_of_logarithms",
    ),
    (
        BOUND,
        "return torch.log(torch.exp(log_weights).mean(0) + 1e-12)",
        None,  # finite where the weights vanish, and wrong there
    ),
    # overshooting_kl
    (
        OVERSHOOTING,
        """total = torch.zeros(kl.shape[:-2], dtype=kl.dtype)
    for t in range(kl.shape[-1]):
        K = min(t + 1, horizon)
        total = total + kl[..., t, :K].sum(-1) / K
    return total""",
        "passed",
    ),
    (
        OVERSHOOTING,
        """T = kl.shape[-1]
    t, d = torch.arange(T)[:, None], torch.arange(T)
    mask = (d <= t) & (d < horizon)
    return (torch.where(mask, kl, 0).sum(-1) / mask.sum(-1)).sum(-1)""",
        "passed",
    ),
    (
        OVERSHOOTING,
        """near = kl.masked_fill(kl.isinf(), float("nan"))[..., :horizon]
    return torch.nanmean(near, -1).sum(-1)""",
        "passed",
    ),
    (
        OVERSHOOTING,
        """means = [kl[..., t, 0 : min(t + 1, horizon)].mean(-1) for t in range(kl.shape[-2])]
    return torch.stack(means).sum(0)""",
        "passed",
    ),
    (
        OVERSHOOTING,
        """total = 0
    for t in range(kl.shape[-1]):
        total = total + kl[..., t, : min(t + 1, horizon)].sum(-1) / horizon
    return total""",
        "divided_by_the_horizon",
    ),
    (
        OVERSHOOTING,
        "return kl.tril()[..., :horizon].mean(-1).sum(-1)",
        None,  # divides by the number of columns: the horizon, or T where that is less
    ),
    (
        OVERSHOOTING,
        """total = 0
    for t in range(kl.shape[-1]):
        total = total + kl[..., t, : min(t + 1, horizon)].sum(-1) / (t + 1)
    return total""",
        "divided_by_the_time",
    ),
    (
        OVERSHOOTING,
        "return sum(kl[..., t, : min(t + 1, horizon)].sum(-1) for t in range(kl.shape[-1]))",
        "distances_summed",
    ),
    (
        OVERSHOOTING,
        "return sum(kl[..., t, : t + 1].mean(-1) for t in range(kl.shape[-1]))",
        "all_distances",
    ),
    (
        OVERSHOOTING,
        "return sum(kl[..., t, : min(t + 1, max(horizon - 1, 1))].mean(-1) for t in range(kl.shape[-1]))",
        "one_distance_too_few",
    ),
    (
        OVERSHOOTING,
        "return sum(kl[..., t, : min(t, horizon) + 1].mean(-1) for t in range(kl.shape[-1]))",
        "one_distance_too_many",
    ),
    (
        OVERSHOOTING,
        "return sum(kl[..., t, max(0, t - horizon + 1) : t + 1].mean(-1) for t in range(kl.shape[-1]))",
        "shortest_dropped",
    ),
    (
        OVERSHOOTING,
        "return kl[..., :horizon].mean(-1).sum(-1)",
        "missing_entries_counted",
    ),
    (
        OVERSHOOTING,
        """T = kl.shape[-1]
    mask = torch.ones(T, T, dtype=kl.dtype).tril()
    counts = mask[:, :horizon].sum(-1)
    return ((kl * mask)[..., :horizon].sum(-1) / counts).sum(-1)""",
        "missing_entries_times_zero",
    ),
    (
        OVERSHOOTING,
        "return sum(kl[..., t, : min(t + 1, horizon)].mean(-1) for t in range(kl.shape[-1])) / kl.shape[-1]",
        "mean_over_the_times",
    ),
    (
        OVERSHOOTING,
        "return sum(kl[..., t, : min(t + 1, horizon)].mean(-1) for t in range(1, kl.shape[-1]))",
        "first_row_missing",
    ),
    (
        OVERSHOOTING,
        "return kl.diagonal(dim1=-2, dim2=-1).sum(-1)",
        None,  # the longest distance of all, whatever the horizon
    ),
    (
        OVERSHOOTING,
        "return kl[..., 0].sum(-1)",
        "nearest_alone",
    ),
    (
        OVERSHOOTING,
        """sums, counts = 0, 0
    for t in range(kl.shape[-1]):
        for d in range(1, min(t + 1, horizon) + 1):
            sums, counts = sums + kl[..., t, d - 1], counts + 1
    return sums / counts""",
        "one_mean_of_all_entries",
    ),
    (
        OVERSHOOTING,
        """total = 0
    for t in range(kl.shape[-1]):
        total = total + kl[..., t, : min(t + 1, horizon)].sum(-1) / torch.tensor(min(t, horizon))
    return total""",
        "infinite_throughout",
    ),
    (
        OVERSHOOTING,
        """kl = kl.transpose(-1, -2)
    return sum(kl[..., t, : min(t + 1, horizon)].mean(-1) for t in range(kl.shape[-1]))""",
        "infinite_throughout",  # rows and columns exchanged
    ),
    (
        OVERSHOOTING,
        """kl[kl.isinf()] = 0
    return (kl[..., :horizon].sum(-1) / torch.arange(1, kl.shape[-1] + 1).clamp(max=horizon)).sum(-1)""",
        None,  # right, but it writes into what it was given
    ),
    # coverage
    (
        COVERAGE,
        """low = torch.quantile(samples, (1 - level) / 2, dim=0)
    high = torch.quantile(samples, 1 - (1 - level) / 2, dim=0)
    inside = (obs >= low) & (obs <= high)
    return inside.to(samples.dtype).mean(0)""",
        "passed",
    ),
    (
        COVERAGE,
        """a = (1 - level) / 2
    q = torch.quantile(samples, torch.tensor([a, 1 - a]).to(samples), dim=0)
    return torch.where((q[0] < obs) & (obs < q[1]), 1.0, 0.0).to(obs.dtype).sum(0) / obs.shape[0]""",
        "passed",
    ),
    (
        COVERAGE,
        """low = torch.quantile(samples, 0.5 - level / 2, 0)
    high = torch.quantile(samples, 0.5 + level / 2, 0)
    return (torch.minimum(torch.maximum(obs, low), high) == obs).to(obs.dtype).mean(0)""",
        "passed",
    ),
    (
        COVERAGE,
        """low = torch.quantile(-samples, 0.5 + level / 2, 0)
    high = torch.quantile(samples, 0.5 + level / 2, 0)
    return 1 - (-obs > low).to(obs.dtype).mean(0) - (obs > high).to(obs.dtype).mean(0)""",
        "passed",
    ),
    (
        COVERAGE,
        """low, high = torch.quantile(samples, 1 - level, 0), torch.quantile(samples, level, 0)
    return ((low <= obs) & (obs <= high)).to(obs.dtype).mean(0)""",
        "whole_tail_on_each_side",
    ),
    (
        COVERAGE,
        "return (obs <= torch.quantile(samples, level, 0)).to(obs.dtype).mean(0)",
        "open_below",
    ),
    (
        COVERAGE,
        "return (obs >= torch.quantile(samples, 1 - level, 0)).to(obs.dtype).mean(0)",
        "open_above",
    ),
    (
        COVERAGE,
        """low, high = samples.quantile(level / 2, 0), samples.quantile(1 - level / 2, 0)
    return ((low <= obs) & (obs <= high)).to(obs.dtype).mean(0)""",
        "half_the_level_for_the_tail",
    ),
    (
        COVERAGE,
        """mean, std = samples.mean(0), samples.std(0)
    z = Normal(0.0, 1.0).icdf(torch.tensor((1 + level) / 2))
    return ((obs > mean - z * std) & (obs < mean + z * std)).to(obs.dtype).mean(0)""",
        "ends_of_a_normal",
    ),
    (
        COVERAGE,
        """mean, std = samples.mean(0), samples.std(0)
    return ((obs > mean - 1.96 * std) & (obs < mean + 1.96 * std)).to(obs.dtype).mean(0)""",
        "two_standard_deviations",
    ),
    (
        COVERAGE,
        """low, high = samples.quantile((1 - level) / 2), samples.quantile((1 + level) / 2)
    return ((low <= obs) & (obs <= high)).to(obs.dtype).mean(0)""",
        "one_interval_for_all",
    ),
    (
        COVERAGE,
        "return ((samples.amin(0) <= obs) & (obs <= samples.amax(0))).to(obs.dtype).mean(0)",
        "smallest_to_largest",
    ),
    (
        COVERAGE,
        """low, high = samples.quantile((1 - level) / 2, 0), samples.quantile((1 + level) / 2, 0)
    return ((obs < low) | (obs > high)).to(obs.dtype).mean(0)""",
        "share_outside",
    ),
    (
        COVERAGE,
        """low, high = samples.quantile((1 - level) / 2, 0), samples.quantile((1 + level) / 2, 0)
    return ((low <= obs) & (obs <= high)).to(obs.dtype).sum(0)""",
        "number_inside",
    ),
    (
        COVERAGE,
        """low, high = samples.quantile((1 - level) / 2, 0), samples.quantile((1 + level) / 2, 0)
    return ((low <= obs) & (obs <= high)).to(obs.dtype).mean()""",
        "averaged_over_everything",
    ),
    (
        COVERAGE,
        """low, high = samples.quantile((1 - level) / 2, 0), samples.quantile((1 + level) / 2, 0)
    return ((low <= samples) & (samples <= high)).to(obs.dtype).mean((0, 1))""",
        "samples_inside",
    ),
    (
        COVERAGE,
        """low, high = samples.quantile((1 - level) / 2, 0), samples.quantile((1 + level) / 2, 0)
    return ((low <= obs) & (obs <= high)).float().mean(0)""",
        None,  # float() makes single precision of it
    ),
    (
        COVERAGE,
        """low, high = samples.quantile((1 - level) / 2, 1), samples.quantile((1 + level) / 2, 1)
    return ((low <= obs) & (obs <= high)).to(obs.dtype).mean(0)""",
        None,  # quantiles over the sequences do not fit to obs
    ),
]
