"""What learners of the flows chapter write: signature, body, and the verdict that the check should give.

A verdict is "passed", the name of a mistake, or None for an answer that fails without a name.
"""

import math

from torch.distributions import Independent, MultivariateNormal, Normal

from companion.flows import ActNorm, Flow

NAMES = {  # what the chapter's notebook has imported
    "ActNorm": ActNorm,
    "Flow": Flow,
    "Independent": Independent,
    "MultivariateNormal": MultivariateNormal,
    "Normal": Normal,
    "math": math,
}

CHANGE = "density_by_change(f, x)"
COUPLING = "affine_coupling(x, s, t)"
BACK = "affine_coupling_inverse(z, s, t)"
LOG_PROB = "flow_log_prob(transforms, x)"
SAMPLE = "flow_sample(inverses, z)"
GAP = "gap_to_truth(log_q, entropy)"
BITS = "bits_per_dimension(pixels, log_prob, levels, noise)"
START = "actnorm_start(x)"
LU = "lu_transform(x, P, L, U)"

ATTEMPTS = [
    (
        CHANGE,
        """x = x.clone().requires_grad_()
    z = f(x)
    dz = torch.autograd.grad(z.sum(), x)[0]
    return (Normal(0, 1).log_prob(z) + dz.abs().log()).exp()""",
        "passed",
    ),
    (
        CHANGE,
        """x = x.clone().requires_grad_()
    z = f(x)
    z.backward(torch.ones_like(z))
    return torch.exp(-0.5 * z**2) * (2 * math.pi) ** -0.5 * torch.sqrt(x.grad**2)""",
        "passed",
    ),
    (
        CHANGE,
        """flat = x.reshape(-1)
    J = torch.func.jacrev(f)(flat).diagonal().reshape(x.shape)
    return MultivariateNormal(torch.zeros_like(x[..., None]), torch.eye(1).to(x)).log_prob(f(x)[..., None]).exp()\\
        * abs(J)""",
        "passed",
    ),
    (
        CHANGE,
        "return torch.stack([Normal(0, 1).log_prob(f(a)).exp() * torch.func.grad(f)(a).abs()\n"
        "                        for a in x.flatten()]).reshape(x.shape)",
        "passed",
    ),
    (CHANGE, "return Normal(0, 1).log_prob(f(x)).exp()", "slope_forgotten"),
    (
        CHANGE,
        """x = x.clone().requires_grad_()
    z = f(x)
    dz, = torch.autograd.grad(z.sum(), x)
    return Normal(0.0, 1.0).log_prob(z).exp() * dz""",
        "slope_with_its_sign",
    ),
    (
        CHANGE,
        """x = x.clone().requires_grad_()
    z = f(x)
    dz, = torch.autograd.grad(z.sum(), x)
    return (Normal(0.0, 1.0).log_prob(z) + dz.log()).exp()""",
        "logarithm_of_a_negative_slope",
    ),
    (
        CHANGE,
        """z, dz = torch.func.jvp(f, (x,), (torch.ones_like(x),))
    return (Normal(0.0, 1.0).log_prob(z) - dz.abs().log()).exp()""",
        "slope_of_the_inverse",
    ),
    (
        CHANGE,
        """z = f(x).detach().requires_grad_()
    dz, = torch.autograd.grad(f(z).sum(), z)
    return Normal(0, 1).log_prob(z).exp() * dz.abs()""",
        "slope_at_z",
    ),
    (
        CHANGE,
        """x = x.clone().requires_grad_()
    z = f(x)
    dz, = torch.autograd.grad(z.sum(), x)
    return Normal(0, 1).log_prob(z) + torch.log(torch.abs(dz))""",
        "log_density_returned",
    ),
    (
        CHANGE,
        """z, dz = torch.func.jvp(f, (x,), (torch.ones_like(x),))
    return dz.abs() * torch.exp(-z * z / 2)""",
        "root_two_pi_forgotten",
    ),
    (
        CHANGE,
        """z, dz = torch.func.jvp(f, (x,), (torch.ones_like(x),))
    return dz.abs() * torch.exp(-z**2) / (2 * math.pi) ** 0.5""",
        "half_in_the_exponent_forgotten",
    ),
    (
        CHANGE,
        """z, dz = torch.func.jvp(f, (x,), (torch.ones_like(x),))
    return dz.abs() * torch.exp(-z**2 / 2) / 2 * math.pi ** 0.5""",
        None,
    ),
    (
        CHANGE,
        """z, dz = torch.func.jvp(f, (x,), (torch.ones_like(x),))
    return Normal(0, 1).log_prob(x).exp() * dz.abs()""",
        "latent_density_at_x",
    ),
    (
        CHANGE,
        """x = x.clone().requires_grad_()
    p = Normal(0, 1).log_prob(f(x)).exp()
    return torch.autograd.grad(p.sum(), x)[0].abs()""",
        "density_differentiated",
    ),
    (CHANGE, "return Normal(0, 1).cdf(f(x))", "probability_for_density"),
    (CHANGE, "h = 1e-4\n    return Normal(0, 1).log_prob(f(x)).exp() * ((f(x + h) - f(x)) / h).abs()", None),
    # affine_coupling
    (
        COUPLING,
        """d = x.shape[-1]
    x1, x2 = torch.split(x, [d // 2, d - d // 2], dim=-1)
    sig, mu = s(x1), t(x1)
    z2 = x2 * torch.exp(sig) + mu
    return torch.cat((x1, z2), dim=-1), sig.sum(-1)""",
        "passed",
    ),
    (
        COUPLING,
        """k = x.size(-1) // 2
    scale = torch.exp(s(x[..., :k]))
    z = torch.cat([x[..., :k], scale * x[..., k:] + t(x[..., :k])], dim=-1)
    return z, torch.log(scale).sum(dim=-1)""",
        "passed",
    ),
    (
        COUPLING,
        """k = x.size(-1) // 2
    a, b = x[..., :k], x[..., k:]
    ls = torch.cat([torch.zeros_like(a), s(a)], -1)
    return x * ls.exp() + torch.cat([0 * a, t(a)], -1), ls.sum(-1)""",
        "passed",
    ),
    (
        COUPLING,
        """x1, x2 = x.tensor_split([x.shape[-1] // 2], dim=-1)
    return [torch.cat([x1, x2 * s(x1).exp() + t(x1)], -1), s(x1).sum(-1)]""",
        "passed",
    ),
    (
        COUPLING,
        """x1, x2 = x.chunk(2, dim=-1)
    return torch.cat([x1, x2 * s(x1).exp() + t(x1)], -1), s(x1).sum(-1)""",
        None,  # chunk makes the first half the larger one where d is odd
    ),
    (
        COUPLING,
        """k = x.shape[-1] // 2
    x1, x2 = x[:k], x[k:]
    return torch.cat([x1, x2 * s(x1).exp() + t(x1)], -1), s(x1).sum(-1)""",
        None,  # right for one point of the plane; a batch is split instead of its coordinates
    ),
    (
        COUPLING,
        """k = x.shape[-1] // 2
    x1, x2 = x[..., :k], x[..., k:]
    return torch.cat([x1, x2 * s(x1) + t(x1)], -1), s(x1).sum(-1)""",
        "log_scale_as_scale",
    ),
    (
        COUPLING,
        """k = x.shape[-1] // 2
    x1, x2 = x[..., :k], x[..., k:]
    return torch.cat([x1, x2 * s(x1) + t(x1)], -1), torch.log(torch.abs(s(x1))).sum(-1)""",
        "log_scale_as_scale_in_both",
    ),
    (
        COUPLING,
        """k = x.shape[-1] // 2
    x1, x2 = x[..., :k], x[..., k:]
    return torch.cat([x1, x2 * s(x2).exp() + t(x2)], -1), s(x2).sum(-1)""",
        "nets_fed_with_the_moved",  # and a sentence from s where d is odd, but this comes first
    ),
    (
        COUPLING,
        """k = x.shape[-1] // 2
    x1, x2 = x[..., :k], x[..., k:]
    return torch.cat([x1 * s(x2).exp() + t(x2), x2], -1), s(x2).sum(-1)""",
        "wrong_half_moved",
    ),
    (
        COUPLING,
        """k = x.shape[-1] // 2
    x1, x2 = x[..., :k], x[..., k:]
    return torch.cat([x2 * s(x1).exp() + t(x1), x1], -1), s(x1).sum(-1)""",
        "halves_exchanged",
    ),
    (
        COUPLING,
        """k = x.shape[-1] // 2
    x1, x2 = x[..., :k], x[..., k:]
    scale = s(x1).exp()
    return torch.cat([x1, x2 * scale + t(x1)], -1), scale.sum(-1)""",
        "scales_added",
    ),
    (
        COUPLING,
        """k = x.shape[-1] // 2
    x1, x2 = x[..., :k], x[..., k:]
    scale = s(x1).exp()
    return torch.cat([x1, x2 * scale + t(x1)], -1), scale.prod(-1)""",
        "determinant_without_logarithm",
    ),
    (
        COUPLING,
        """k = x.shape[-1] // 2
    x1, x2 = x[..., :k], x[..., k:]
    return torch.cat([x1, x2 * s(x1).exp() + t(x1)], -1), s(x1).sum()""",
        "log_dets_of_the_batch_added",
    ),
    (
        COUPLING,
        """k = x.shape[-1] // 2
    x1, x2 = x[..., :k], x[..., k:]
    return torch.cat([x1, x2 * s(x1).exp() + t(x1)], -1), s(x1).sum(-1, keepdim=True)""",
        "axis_of_one_kept",
    ),
    (
        COUPLING,
        """k = x.shape[-1] // 2
    x1, x2 = x[..., :k], x[..., k:]
    return torch.cat([x1, (x2 + t(x1)) * s(x1).exp()], -1), s(x1).sum(-1)""",
        "shift_before_scale",
    ),
    (
        COUPLING,
        """k = x.shape[-1] // 2
    x1, x2 = x[..., :k], x[..., k:]
    return torch.cat([x1, x2 / s(x1).exp() + t(x1)], -1), -s(x1).sum(-1)""",
        "divided_by_the_scale",
    ),
    (
        COUPLING,
        """k = x.shape[-1] // 2
    x1, x2 = x[..., :k], x[..., k:]
    return s(x1).sum(-1), torch.cat([x1, x2 * s(x1).exp() + t(x1)], -1)""",
        "log_det_in_front",
    ),
    (
        COUPLING,
        "k = x.shape[-1] // 2\n    a, b = x[..., :k], x[..., k:]\n    return torch.cat([a, b * s(a).exp() + t(a)], -1)",
        None,  # z alone
    ),
    (
        COUPLING,
        """k = x.shape[-1] // 2
    x[..., k:] = x[..., k:] * s(x[..., :k]).exp() + t(x[..., :k])
    return x, s(x[..., :k]).sum(-1)""",
        None,  # in place
    ),
    (COUPLING, "return x * s(x).exp() + t(x), s(x).sum(-1)", None),  # nothing is kept
    # affine_coupling_inverse
    (
        BACK,
        """d = z.shape[-1]
    z1, z2 = torch.split(z, [d // 2, d - d // 2], dim=-1)
    sig, mu = s(z1), t(z1)
    return torch.cat([z1, (z2 - mu) * torch.exp(-sig)], -1), (-sig).sum(-1)""",
        "passed",
    ),
    (
        BACK,
        """k = z.shape[-1] // 2
    out = z.clone()
    out[..., k:] -= t(z[..., :k])
    out[..., k:] /= torch.exp(s(z[..., :k]))
    return out, torch.sum(s(z[..., :k]), -1).neg()""",
        "passed",
    ),
    (
        BACK,
        """k = z.shape[-1] // 2
    scale = torch.exp(-s(z[..., :k]))
    x2 = z[..., k:] * scale - t(z[..., :k]) * scale
    return torch.cat([z[..., :k], x2], -1), scale.log().sum(-1)""",
        "passed",
    ),
    (
        BACK,
        """k = z.shape[-1] // 2
    z1, z2 = z[..., :k], z[..., k:]
    return torch.cat([z1, (z2 - t(z1)) * (-s(z1)).exp()], -1), s(z1).sum(-1)""",
        "minus_of_log_det_forgotten",
    ),
    (
        BACK,
        """k = z.shape[-1] // 2
    z1, z2 = z[..., :k], z[..., k:]
    return torch.cat([z1, z2 * (-s(z1)).exp() - t(z1)], -1), -s(z1).sum(-1)""",
        "scale_undone_first",
    ),
    (
        BACK,
        """k = z.shape[-1] // 2
    z1, z2 = z[..., :k], z[..., k:]
    return torch.cat([z1, (z2 - t(z2)) / s(z2).exp()], -1), -s(z2).sum(-1)""",
        "way_back_fed_with_the_moved",
    ),
    (
        BACK,
        """k = z.shape[-1] // 2
    z1, z2 = z[..., :k], z[..., k:]
    return torch.cat([z1, (z2 - t(z1)) * s(z1).exp()], -1), -s(z1).sum(-1)""",
        "multiplied_by_the_scale_again",
    ),
    (
        BACK,
        """k = z.shape[-1] // 2
    z1, z2 = z[..., :k], z[..., k:]
    return torch.cat([z1, (z2 - t(z1)) * s(z1).exp()], -1), s(z1).sum(-1)""",
        "scale_of_the_way_there",
    ),
    (
        BACK,
        """k = z.shape[-1] // 2
    z1, z2 = z[..., :k], z[..., k:]
    return torch.cat([z1, z2 * s(z1).exp() + t(z1)], -1), s(z1).sum(-1)""",
        "way_there_again",
    ),
    (
        BACK,
        """k = z.shape[-1] // 2
    z1, z2 = z[..., :k], z[..., k:]
    return torch.cat([z1, (z2 - t(z1)) / s(z1)], -1), -s(z1).sum(-1)""",
        "divided_by_the_log_scale",
    ),
    (
        BACK,
        """k = z.shape[-1] // 2
    z1, z2 = z[..., :k], z[..., k:]
    return torch.cat([z1, (z2 - t(z1)) / s(z1).exp()], -1), 1 / s(z1).sum(-1)""",
        "one_over_the_logarithm",
    ),
    (
        BACK,
        """k = z.shape[-1] // 2
    z1, z2 = z[..., :k], z[..., k:]
    return torch.cat([z1, (z2 - t(z1)) / s(z1).exp()], -1), -s(z1).mean(-1)""",
        "log_scales_averaged_on_the_way_back",
    ),
    # flow_log_prob
    (
        LOG_PROB,
        """log_jacob = 0
    for f in transforms:
        x, ld = f(x)
        log_jacob += ld
    d = x.shape[-1]
    p = MultivariateNormal(torch.zeros(d).to(x), torch.eye(d).to(x))
    return log_jacob + p.log_prob(x)""",
        "passed",
    ),
    (
        LOG_PROB,
        """log_jacobs = []
    for layer in transforms:
        x, log_jacob = layer(x)
        log_pz = Independent(Normal(torch.zeros_like(x), 1.0), 1).log_prob(x)
        log_jacobs.append(log_jacob)
    return log_pz + sum(log_jacobs)""",
        "passed",
    ),
    (
        LOG_PROB,
        """z, total = x, torch.zeros_like(x[..., 0])
    for i in range(len(transforms)):
        z, ld = transforms[i](z)
        total = total + ld
    return total - 0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)""",
        "passed",
    ),
    (
        LOG_PROB,
        "return Flow([torch.nn.Identity() for f in transforms], x.shape[-1]).log_prob(x)",
        None,  # a Flow takes modules
    ),
    (
        LOG_PROB,
        """total = 0
    for f in transforms:
        x, ld = f(x)
        total = total + ld + Normal(0, 1).log_prob(x).sum(-1)
    return total""",
        "density_of_every_layer",
    ),
    (
        LOG_PROB,
        """z, total = x, 0
    for f in transforms:
        z, ld = f(z)
        total = total + ld
    return total + Normal(0, 1).log_prob(x).sum(-1)""",
        "latent_density_at_the_data",
    ),
    (
        LOG_PROB,
        """total = 0
    for f in transforms:
        base = Normal(0, 1).log_prob(x).sum(-1)
        x, ld = f(x)
        total = total + ld
    return total + base""",
        "latent_density_one_step_early",
    ),
    (
        LOG_PROB,
        """lp = 0
    for f in transforms:
        x, ld = f(x)
        lp = lp - ld
    return lp + Normal(0, 1).log_prob(x).sum(-1)""",
        "log_dets_subtracted",
    ),
    (
        LOG_PROB,
        """for f in transforms:
        x, ld = f(x)
    return ld + Normal(0, 1).log_prob(x).sum(-1)""",
        "last_log_det_alone",
    ),
    (
        LOG_PROB,
        """total = 0
    for f in transforms:
        x, ld = f(x)
        total = total + ld
    return total - 0.5 * (x**2).sum(-1)""",
        "two_pi_of_the_latent_forgotten",
    ),
    (
        LOG_PROB,
        """total = 0
    for f in transforms:
        x, ld = f(x)
        total = total + ld
    return total - 0.5 * (x**2).sum(-1) - 0.5 * math.log(2 * math.pi)""",
        "constant_of_one_dimension",
    ),
    (
        LOG_PROB,
        """total = 0
    for f in transforms:
        x, ld = f(x)
        total = total + ld
    return total - (x**2).sum(-1) - 0.5 * x.shape[-1] * math.log(2 * math.pi)""",
        "squares_of_z_not_halved",
    ),
    (
        LOG_PROB,
        """total = 0
    for f in transforms:
        x, ld = f(x)
        total = total + ld
    return Normal(0, 1).log_prob(x) + total""",
        "broadcast_by_accident",
    ),
    (
        LOG_PROB,
        """total = 0
    for f in transforms:
        x, ld = f(x)
        total = total + ld.unsqueeze(-1)
    return Normal(0, 1).log_prob(x) + total""",
        "coordinates_not_summed",
    ),
    (
        LOG_PROB,
        """total = 0
    for f in transforms:
        x, ld = f(x)
        total = total + ld.unsqueeze(-1)
    return (Normal(0, 1).log_prob(x) + total).sum(-1)""",
        "log_det_for_each_coordinate",
    ),
    (
        LOG_PROB,
        """total = 0
    for f in transforms[::-1]:
        x, ld = f(x)
        total = total + ld
    return Normal(0, 1).log_prob(x).sum(-1) + total""",
        "transforms_reversed",
    ),
    (
        LOG_PROB,
        """total = 0
    for f in transforms:
        x, ld = f(x)
        total = total + ld
    return -(Normal(0, 1).log_prob(x).sum(-1) + total).mean()""",
        "loss_of_the_batch",
    ),
    (
        LOG_PROB,
        """total = 0
    while transforms:
        x, ld = transforms.pop(0)(x)
        total = total + ld
    return Normal(0, 1).log_prob(x).sum(-1) + total""",
        None,  # the caller's list is empty afterwards
    ),
    # flow_sample
    (
        SAMPLE,
        """log_p = Normal(0, 1).log_prob(z).sum(-1)
    for g in inverses[::-1]:
        z, ld = g(z)
        log_p = log_p - ld
    return z, log_p""",
        "passed",
    ),
    (
        SAMPLE,
        """x, log_det = z, torch.zeros(z.shape[:-1], dtype=z.dtype)
    for i in range(len(inverses) - 1, -1, -1):
        x, ld = inverses[i](x)
        log_det = log_det - ld
    d = z.shape[-1]
    return x, MultivariateNormal(torch.zeros(d).to(z), torch.eye(d).to(z)).log_prob(z) + log_det""",
        "passed",
    ),
    (
        SAMPLE,
        """todo = list(inverses)
    x, total = z, 0
    while todo:
        x, ld = todo.pop()(x)
        total = total + ld
    return x, -0.5 * (z * z + math.log(2 * math.pi)).sum(-1) - total""",
        "passed",
    ),
    (
        SAMPLE,
        """log_p = Normal(0, 1).log_prob(z).sum(-1)
    for g in inverses:
        z, ld = g(z)
        log_p = log_p - ld
    return z, log_p""",
        "forward_order",
    ),
    (
        SAMPLE,
        """log_p = Normal(0, 1).log_prob(z).sum(-1)
    for g in inverses:
        z, ld = g(z)
        log_p = log_p + ld
    return z, log_p""",
        "forward_order_and_log_dets_added",
    ),
    (
        SAMPLE,
        """log_p = Normal(0, 1).log_prob(z).sum(-1)
    for g in reversed(inverses):
        z, ld = g(z)
        log_p = log_p + ld
    return z, log_p""",
        "log_dets_of_the_inverses_added",
    ),
    (
        SAMPLE,
        """x = z
    for g in reversed(inverses):
        x, _ = g(x)
    return x, Normal(0, 1).log_prob(z).sum(-1)""",
        "density_of_z_alone",
    ),
    (
        SAMPLE,
        """total = 0
    for g in reversed(inverses):
        z, ld = g(z)
        total = total + ld
    return z, Normal(0, 1).log_prob(z).sum(-1) - total""",
        "latent_density_at_the_sample",
    ),
    (
        SAMPLE,
        """x = z
    for g in reversed(inverses):
        x, ld = g(x)
    return x, Normal(0, 1).log_prob(z).sum(-1) - ld""",
        "log_det_of_the_last_step_back",
    ),
    (
        SAMPLE,
        """x, total = z, 0
    for g in reversed(inverses):
        x, ld = g(x)
        total = total + ld
    return x, Normal(0, 1).log_prob(z) - total""",
        "broadcast_on_the_way_back",
    ),
    (
        SAMPLE,
        """inverses.reverse()
    log_p = Normal(0, 1).log_prob(z).sum(-1)
    for g in inverses:
        z, ld = g(z)
        log_p = log_p - ld
    return z, log_p""",
        None,  # the caller's list is turned round
    ),
    (SAMPLE, "for g in reversed(inverses):\n        z, ld = g(z)\n    return z", None),
    (SAMPLE, "for g in reversed(inverses):\n        z = g(z)\n    return z, 0", None),  # a pair given to the next one
    # gap_to_truth
    (GAP, "n = log_q.shape[-1]\n    return -log_q.mean(-1) - entropy, log_q.std(-1) / n**0.5", "passed"),
    (
        GAP,
        """g = -log_q - entropy
    return g.mean(dim=-1), (g.var(dim=-1) / g.size(-1)).sqrt()""",
        "passed",
    ),
    (
        GAP,
        """n = log_q.shape[-1]
    return -log_q.mean(-1) - entropy, log_q.std(-1, unbiased=False) / math.sqrt(n - 1)""",
        "passed",  # the same number
    ),
    (GAP, "return log_q.mean(-1) + entropy, log_q.std(-1) / log_q.shape[-1] ** 0.5", "gap_turned_round"),
    (GAP, "return -log_q.mean(-1) - entropy, log_q.std(-1)", "error_of_one_sample"),
    (GAP, "return -log_q.mean(-1) - entropy, log_q.std(-1) / log_q.shape[-1]", "spread_over_n"),
    (GAP, "return -log_q.mean(-1) - entropy, log_q.var(-1) / log_q.shape[-1]", "root_of_the_variance_forgotten"),
    (
        GAP,
        "return -log_q.mean(-1) - entropy, log_q.std(-1, correction=0) / log_q.shape[-1] ** 0.5",
        "n_below",
    ),
    (
        GAP,
        """dev = log_q - log_q.mean(-1, keepdim=True)
    return -log_q.mean(-1) - entropy, (dev**2).mean(-1).sqrt() / math.sqrt(log_q.shape[-1])""",
        "n_below",
    ),
    (GAP, "return -log_q.mean(-1) + entropy, log_q.std(-1) / log_q.shape[-1] ** 0.5", "entropy_added"),
    (GAP, "return -log_q.mean(-1), log_q.std(-1) / log_q.shape[-1] ** 0.5", "entropy_forgotten"),
    (GAP, "return -log_q.sum(-1) - entropy, log_q.std(-1) / log_q.shape[-1] ** 0.5", "samples_summed"),
    (
        GAP,
        "return (-log_q.mean(-1) - entropy).clamp(min=0), log_q.std(-1) / math.sqrt(log_q.shape[-1])",
        "gap_cut_off_at_zero",
    ),
    (GAP, "return abs(-log_q.mean(-1) - entropy), log_q.std(-1) / math.sqrt(log_q.shape[-1])", "gap_made_positive"),
    (GAP, "return -log_q.mean() - entropy, log_q.std() / math.sqrt(log_q.numel())", "rows_thrown_together"),
    (
        GAP,
        "gap = (-log_q.mean(-1) - entropy) / math.log(2)\n"
        "    return gap, log_q.std(-1) / math.log(2) / math.sqrt(log_q.shape[-1])",
        "gap_in_bits",
    ),
    (GAP, "return -log_q.mean(-1) - entropy", None),
    (GAP, "return torch.stack([-log_q.mean(-1) - entropy, log_q.std(-1) / log_q.shape[-1] ** 0.5])", None),
    # bits_per_dimension
    (
        BITS,
        """y = (pixels + noise) / levels
    d = y.shape[-1]
    nll = -log_prob(y) + d * math.log(levels)
    return nll / (d * math.log(2))""",
        "passed",
    ),
    (
        BITS,
        "return -log_prob((pixels + noise) / levels) / math.log(2) / pixels.size(-1) + math.log(levels, 2)",
        "passed",
    ),
    (
        BITS,
        """d = pixels.shape[-1]
    log_p = log_prob(pixels / levels + noise / levels) - torch.log(torch.tensor(levels**d, dtype=pixels.dtype))
    return -log_p * math.log2(math.e) / d""",
        "passed",
    ),
    (
        BITS,
        "return -log_prob((pixels + noise) / levels) / (pixels.shape[-1] * math.log(2))",
        "scaling_forgotten",
    ),
    (
        BITS,
        "return -log_prob((pixels + noise) / levels) / (pixels.shape[-1] * math.log(2)) - math.log2(levels)",
        "scaling_with_the_wrong_sign",
    ),
    (
        BITS,
        "return -(log_prob((pixels + noise) / levels) - math.log(levels)) / pixels.shape[-1] / math.log(2)",
        "scaling_of_one_dimension",
    ),
    (
        BITS,
        "return -log_prob((pixels + noise) / levels) / pixels.shape[-1] + math.log(levels)",
        "nats_per_dimension",
    ),
    (
        BITS,
        "return -log_prob((pixels + noise) / levels) / pixels.shape[-1] + math.log2(levels)",
        "bits_and_nats_mixed",
    ),
    (
        BITS,
        """d = pixels.shape[-1]
    return (d * math.log(levels) - log_prob((pixels + noise) / levels)) / math.log(2)""",
        "bits_of_the_image",
    ),
    (
        BITS,
        """d = pixels.shape[-1]
    return (d * math.log(levels) - log_prob((pixels + noise) / levels)) / d * math.log(2)""",
        "nats_times_log_2",
    ),
    (
        BITS,
        """d = pixels.shape[-1]
    return (d * math.log(levels) - log_prob(pixels / levels)) / d / math.log(2)""",
        "noise_forgotten",
    ),
    (
        BITS,
        """d = pixels.shape[-1]
    return (d * math.log(levels) - log_prob(pixels / levels + noise)) / d / math.log(2)""",
        "noise_not_scaled",
    ),
    (
        BITS,
        """d = pixels.shape[-1]
    return (d * math.log(levels) - log_prob((pixels + noise) / (levels - 1))) / d / math.log(2)""",
        "one_level_less",
    ),
    (BITS, "return -log_prob(pixels + noise) / pixels.shape[-1] / math.log(2)", "no_scaling_at_all"),
    (
        BITS,
        """d = pixels.shape[-1]
    u = torch.rand_like(pixels)
    return (d * math.log(levels) - log_prob((pixels + u) / levels)) / d / math.log(2)""",
        None,  # noise of its own
    ),
    # actnorm_start
    (START, "return x.mean(0), torch.log(x.std(0, unbiased=False))", "passed"),
    (START, "m = x.mean(dim=0)\n    return m, (x - m).pow(2).mean(dim=0).log() / 2", "passed"),
    (
        START,
        """layer = ActNorm(x.shape[-1]).to(x.dtype)
    layer(x)
    return layer.loc.detach(), layer.log_scale.detach()""",
        "passed",
    ),
    (START, "c = torch.cov(x.T, correction=0)\n    return x.mean(0), c.diagonal().sqrt().log()", "passed"),
    (START, "return x.mean(0), x.std(0).log()", "n_minus_one_below"),
    (START, "return x.mean(0), x.var(0).log()", "log_of_the_corrected_variance"),
    (START, "return x.mean(0), x.var(0, correction=0).log()", "log_of_the_variance"),
    (START, "return x.mean(0), x.std(0, correction=0)", "scale_without_logarithm"),
    (START, "return x.mean(0), -x.std(0, correction=0).log()", "minus_twice"),
    (START, "return x.mean(0), 1 / x.std(0, correction=0)", "scale_upside_down"),
    (START, "return x.mean(-1), x.std(-1, correction=0).log()", "over_the_coordinates"),
    (START, "return x.mean(1), x.std(1, correction=0).log()", "over_the_coordinates"),
    (START, "return x.mean(), x.std(correction=0).log()", "one_for_all_coordinates"),
    (START, "return -x.mean(0), x.std(0, correction=0).log()", "loc_negative"),
    (START, "return x.mean(0), x.square().mean(0).sqrt().log()", "width_from_zero"),
    (
        START,
        "return x.mean(0, keepdim=True), x.std(0, keepdim=True, correction=0).log()",
        "axis_in_front_kept",
    ),
    (START, "return x.mean(0), (x.std(0, correction=0) + 1e-6).log()", None),  # near, not right
    (START, "return ActNorm(x.shape[-1])(x)", None),  # z and log_det
    # lu_transform
    (
        LU,
        """W = P @ L @ U
    log_det = torch.log(torch.abs(torch.diagonal(U))).sum()
    return torch.einsum("ij,...j->...i", W, x), log_det * torch.ones_like(x[..., 0])""",
        "passed",
    ),
    (
        LU,
        """z = x @ U.mT @ L.mT @ P.mT
    return z, U.diag().abs().log().sum().expand(z.shape[:-1])""",
        "passed",
    ),
    (
        LU,
        """W = P @ L @ U
    sign, log_det = torch.linalg.slogdet(W)
    return (W @ x.unsqueeze(-1)).squeeze(-1), log_det.repeat(x.shape[:-1])""",
        "passed",
    ),
    (
        LU,
        "W = P @ L @ U\n    return x @ W, U.diagonal().abs().log().sum().expand(x.shape[:-1])",
        "transposed",
    ),
    (
        LU,
        "W = P @ L @ U\n    return W @ x, U.diagonal().abs().log().sum().expand(x.shape[:-1])",
        "matrix_times_the_batch",
    ),
    (
        LU,
        "W = L @ U @ P\n    return x @ W.T, U.diagonal().abs().log().sum().expand(x.shape[:-1])",
        "permutation_first",
    ),
    (
        LU,
        "W = L @ U\n    return x @ W.T, U.diagonal().abs().log().sum().expand(x.shape[:-1])",
        "permutation_forgotten",
    ),
    (
        LU,
        "return x @ P.T @ L.T @ U.T, U.diagonal().abs().log().sum().expand(x.shape[:-1])",
        "factors_reversed",
    ),
    (LU, "W = P @ L @ U\n    return x @ W.T, U.diagonal().log().sum().expand(x.shape[:-1])", "logarithm_without_size"),
    (
        LU,
        "W = P @ L @ U\n    return x @ W.T, torch.logdet(W).expand(x.shape[:-1])",
        "logdet_of_a_negative_determinant",
    ),
    (
        LU,
        "W = P @ L @ U\n    return x @ W.T, torch.det(W).abs().log().expand(x.shape[:-1])",
        "product_underflows",
    ),
    (
        LU,
        "W = P @ L @ U\n    return x @ W.T, torch.linalg.det(W).abs().expand(x.shape[:-1])",
        "determinant_for_its_logarithm",
    ),
    (LU, "W = P @ L @ U\n    return x @ W.T, U.trace().expand(x.shape[:-1])", "diagonal_added"),
    (LU, "W = P @ L @ U\n    return x @ W.T, U.diagonal().abs().log().sum()", "one_log_det_for_all"),
    (
        LU,
        "W = P @ L @ U\n    return x @ W.T, (U.diagonal().abs() + 1e-6).log().sum().expand(x.shape[:-1])",
        None,  # near, not right
    ),
    (LU, "W = P @ L @ U\n    return x @ W.T, U.abs().log().sum().expand(x.shape[:-1])", None),  # log 0 below
    (LU, "W = P @ L @ U\n    return x @ W.T, U.diagonal().abs().log().sum().item()", None),
]
