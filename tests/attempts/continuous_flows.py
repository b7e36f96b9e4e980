"""What learners of the continuous_flows section write: signature, body, and the verdict that the check should give.

A verdict is "passed", the name of a mistake, or None for an answer that fails without a name.
"""

import math

from torch.distributions import Independent, MultivariateNormal, Normal

from companion.continuous_flows import ContinuousFlow
from companion.divergence import divergence
from companion.exercises import EXERCISES

NAMES = {  # what the chapter's notebook has imported, and what its reader has written before
    "ContinuousFlow": ContinuousFlow,
    "Independent": Independent,
    "MultivariateNormal": MultivariateNormal,
    "Normal": Normal,
    "divergence": divergence,
    "divergence_along": EXERCISES["divergence_along"].reference,
    "math": math,
}

ALONG = "divergence_along(field, t, x)"
EULER = "euler_log_prob(field, x, steps)"
PAIR = "matching_pair(x0, x1, t)"
LINEAR = "linear_flow(A, x)"

ATTEMPTS = [
    (ALONG, "return divergence(lambda p: field(t, p), x)", "passed"),
    (
        ALONG,
        """flat = x.reshape(-1, x.shape[-1])
    J = torch.vmap(torch.func.jacfwd(field, argnums=1), in_dims=(None, 0))(t, flat)
    return torch.einsum("nii->n", J).reshape(x.shape[:-1])""",
        "passed",
    ),
    (
        ALONG,
        """if not x.requires_grad:
        x = x.clone().requires_grad_()
    v = field(t, x)
    out = torch.zeros_like(x[..., 0])
    for i in range(x.shape[-1]):
        out = out + torch.autograd.grad(v[..., i].sum(), x, create_graph=True)[0][..., i]
    return out""",
        "passed",
    ),
    (
        ALONG,
        """with torch.enable_grad():
        y = x + 0 if x.requires_grad else x.detach().requires_grad_()
        v = field(t.expand(x.shape[:-1]), y)
        return sum(torch.autograd.grad(v[..., i], y, torch.ones_like(v[..., i]), create_graph=True)[0][..., i]
                   for i in range(x.shape[-1]))""",
        "passed",
    ),
    (
        ALONG,
        """J = torch.func.jacrev(lambda y: field(t, y).reshape(-1, y.shape[-1]).sum(0))(x)
    return torch.einsum("i...i->...", J)""",
        "passed",
    ),
    (
        ALONG,
        """x = x.detach().requires_grad_()
    v = field(t, x)
    return sum(torch.autograd.grad(v[..., i].sum(), x, retain_graph=True)[0][..., i] for i in range(x.shape[-1]))""",
        "divergence_cut_off",
    ),
    (
        ALONG,
        """x = x.detach().requires_grad_()
    v = field(t, x)
    return sum(torch.autograd.grad(v[..., i].sum(), x, create_graph=True)[0][..., i] for i in range(x.shape[-1]))""",
        "points_cut_off",
    ),
    (
        ALONG,
        """x = x.detach().requires_grad_()
    v = field(t, x)
    return torch.autograd.grad(v.sum(), x, create_graph=True)[0].sum(-1)""",
        "whole_jacobian_added",
    ),
    (
        ALONG,
        """x = x.detach().clone().requires_grad_()
    field(t, x).sum().backward()
    return x.grad""",
        "gradient_of_the_sum",
    ),
    (
        ALONG,
        """x = x.detach().clone().requires_grad_()
    v = field(t, x)
    out = 0
    for i in range(x.shape[-1]):
        v[..., i].sum().backward(retain_graph=True)
        out = out + x.grad[..., i]
    return out""",
        "passes_pile_up",
    ),
    (
        ALONG,
        """x = x.clone().requires_grad_()
    v = field(t, x)
    return sum(torch.autograd.grad(v[..., i].sum(), x, create_graph=True)[0][..., 0] for i in range(x.shape[-1]))""",
        "first_column_added",
    ),
    (
        ALONG,
        """x = x.clone().requires_grad_()
    v = field(t, x)
    for i in range(x.shape[-1]):
        out = torch.autograd.grad(v[..., i].sum(), x, create_graph=True)[0][..., i]
    return out""",
        "last_coordinate_alone",
    ),
    (
        ALONG,
        """x = x.clone().requires_grad_()
    v = field(t, x)
    for i in range(x.shape[-1]):
        return torch.autograd.grad(v[..., i].sum(), x, create_graph=True)[0][..., i]""",
        "first_coordinate_alone",
    ),
    (
        ALONG,
        """J = torch.func.jacrev(lambda y: field(t, y.reshape(x.shape)).flatten())(x.flatten())
    return J.trace()""",
        "points_summed",
    ),
    (
        ALONG,
        """flat = x.reshape(-1, x.shape[-1])
    J = torch.func.jacrev(lambda y: field(t, y))(flat)
    return torch.einsum("aibi->ab", J)""",
        None,  # for a single point it has an axis too many already
    ),
    (
        ALONG,
        """J = torch.func.jacrev(lambda y: field(t, y))(x)
    n = x.dim() - 1
    return J.diagonal(dim1=n, dim2=-1).sum(-1)""",
        "points_in_pairs",
    ),
    (
        ALONG,
        """flat = x.reshape(-1, x.shape[-1])
    return torch.stack([torch.func.jacrev(lambda y: field(t, y))(p).trace() for p in flat])""",
        "batch_left_flat",
    ),
    (ALONG, "return divergence(lambda p: field(1 - t, p), x)", "time_turned_around"),
    (ALONG, "return divergence(lambda p: field(torch.ones_like(t), p), x)", "divergence_at_the_end"),
    (ALONG, "return -divergence(lambda p: field(t, p), x)", "rate_of_the_log_density"),
    (
        ALONG,
        """J = torch.vmap(torch.func.jacrev(lambda p: field(t, p)))(x.reshape(-1, x.shape[-1]))
    return torch.linalg.det(J).reshape(x.shape[:-1])""",
        "determinant_of_the_velocity",
    ),
    (
        ALONG,
        """e = torch.randint(2, x.shape).to(x.dtype) * 2 - 1
    v, pull = torch.func.vjp(lambda y: field(t, y), x)
    return (pull(e)[0] * e).sum(-1)""",
        None,  # an estimate, right on average alone
    ),
    (
        ALONG,
        """h = 1e-5
    E = torch.eye(x.shape[-1], dtype=x.dtype)
    return sum((field(t, x + h * e) - field(t, x - h * e))[..., i] for i, e in enumerate(E)) / (2 * h)""",
        None,  # digits are lost
    ),
    # euler_log_prob
    (
        EULER,
        """dt = 1.0 / steps
    t = 1.0
    logp = torch.zeros_like(x[..., 0])
    for _ in range(steps):
        v = field(t, x)
        logp = logp - dt * divergence(lambda p: field(t, p), x)
        x = x - dt * v
        t = t - dt
    return logp + Normal(0, 1).log_prob(x).sum(-1)""",
        "passed",
    ),
    (
        EULER,
        """ts = torch.linspace(1, 0, steps + 1, dtype=x.dtype)
    delta = 0
    for a, b in zip(ts[:-1], ts[1:]):
        delta = delta + (b - a) * divergence_along(field, a, x)
        x = x + (b - a) * field(a, x)
    base = MultivariateNormal(torch.zeros(x.shape[-1], dtype=x.dtype), torch.eye(x.shape[-1], dtype=x.dtype))
    return base.log_prob(x) + delta""",
        "passed",
    ),
    (
        EULER,
        """if steps == 0:
        return -0.5 * (x**2 + math.log(2 * math.pi)).sum(-1)
    def rest(x, k):
        if k == 0:
            return -0.5 * (x**2 + math.log(2 * math.pi)).sum(-1)
        t = torch.tensor(k / steps, dtype=x.dtype)
        return rest(x - field(t, x) / steps, k - 1) - divergence_along(field, t, x) / steps
    return rest(x, steps)""",
        "passed",
    ),
    (
        EULER,
        """flow = ContinuousFlow(field, features=x.shape[-1], method="euler", options=dict(step_size=1 / steps))
    z, log_det = flow(x)
    return Independent(Normal(torch.zeros_like(z), torch.ones_like(z)), 1).log_prob(z) + log_det""",
        "passed",
    ),
    (
        EULER,
        """h = 1 / steps
    integral = 0
    for k in range(steps):
        t = torch.tensor(1 - k * h, dtype=x.dtype)
        integral = integral + h * divergence_along(field, t, x)
        x = x - h * field(t, x)
    return Normal(0, 1).log_prob(x).sum(-1) + integral""",
        "divergences_added",
    ),
    (
        EULER,
        """h, integral = 1 / steps, 0
    for k in range(steps):
        t = torch.tensor(k * h, dtype=x.dtype)
        integral = integral + h * divergence_along(field, t, x)
        x = x + h * field(t, x)
    return Normal(0, 1).log_prob(x).sum(-1) - integral""",
        "forwards_from_the_data",
    ),
    (
        EULER,
        """h = 1 / steps
    logp = Normal(0, 1).log_prob(x).sum(-1)
    for k in range(steps):
        t = torch.tensor(k * h, dtype=x.dtype)
        logp = logp - h * divergence_along(field, t, x)
        x = x + h * field(t, x)
    return logp""",
        "data_taken_for_noise",
    ),
    (
        EULER,
        """h, integral = 1 / steps, 0
    for k in range(steps):
        t = torch.tensor(k * h, dtype=x.dtype)
        integral = integral + h * divergence_along(field, t, x)
        x = x - h * field(t, x)
    return Normal(0, 1).log_prob(x).sum(-1) - integral""",
        "times_upwards",
    ),
    (
        EULER,
        """h, integral, t = 1 / steps, 0, torch.ones((), dtype=x.dtype)
    for k in range(steps):
        t = t - h
        integral = integral + h * divergence_along(field, t, x)
        x = x - h * field(t, x)
    return Normal(0, 1).log_prob(x).sum(-1) - integral""",
        "times_at_the_ends",
    ),
    (
        EULER,
        """h, integral = 1 / steps, 0
    for t in torch.linspace(1, 0, steps, dtype=x.dtype):
        integral = integral + h * divergence_along(field, t, x)
        x = x - h * field(t, x)
    return Normal(0, 1).log_prob(x).sum(-1) - integral""",
        "gaps_too_wide",
    ),
    (
        EULER,
        """ts, integral = torch.linspace(1, 0, steps, dtype=x.dtype), 0
    for t, s in zip(ts[:-1], ts[1:]):
        integral = integral + (t - s) * divergence_along(field, t, x)
        x = x - (t - s) * field(t, x)
    return Normal(0, 1).log_prob(x).sum(-1) - integral""",
        "one_step_too_few",
    ),
    (
        EULER,
        """h, integral = 1 / steps, 0
    for t in torch.linspace(1, 0, steps + 1, dtype=x.dtype):
        integral = integral + h * divergence_along(field, t, x)
        x = x - h * field(t, x)
    return Normal(0, 1).log_prob(x).sum(-1) - integral""",
        "one_step_too_many",
    ),
    (
        EULER,
        """h, integral = 1 / steps, 0
    for k in range(steps):
        t = torch.tensor(1 - k * h, dtype=x.dtype)
        x = x - h * field(t, x)
        integral = integral + h * divergence_along(field, t, x)
    return Normal(0, 1).log_prob(x).sum(-1) - integral""",
        "moved_before_the_divergence",
    ),
    (
        EULER,
        """h, integral = 1 / steps, 0
    for k in range(steps):
        t = torch.tensor(1 - k * h, dtype=x.dtype)
        integral += divergence_along(field, t, x)
        x = x - h * field(t, x)
    return Normal(0, 1).log_prob(x).sum(-1) - integral""",
        "integral_without_h",
    ),
    (
        EULER,
        """h, integral = 1 / steps, 0
    for k in range(steps):
        t = torch.tensor(1 - k * h, dtype=x.dtype)
        integral += divergence_along(field, t, x)
        x = x - field(t, x)
    return Normal(0, 1).log_prob(x).sum(-1) - integral""",
        "all_without_h",
    ),
    (
        EULER,
        """h, integral, z = 1 / steps, 0, x
    for k in range(steps):
        t = torch.tensor(1 - k * h, dtype=x.dtype)
        integral = integral + h * divergence_along(field, t, z)
        z = z - h * field(t, z)
    return Normal(0, 1).log_prob(x).sum(-1) - integral""",
        "noise_density_at_the_data",
    ),
    (
        EULER,
        """h, integral, z = 1 / steps, 0, x
    for k in range(steps):
        t = torch.tensor(1 - k * h, dtype=x.dtype)
        integral = integral + h * divergence_along(field, t, x)
        z = z - h * field(t, z)
    return Normal(0, 1).log_prob(z).sum(-1) - integral""",
        "divergence_off_the_path",
    ),
    (
        EULER,
        """h, integral = 1 / steps, 0
    for k in range(steps):
        t = torch.tensor(1 - k * h, dtype=x.dtype)
        integral = integral + h * divergence_along(field, t, x)
        x = x - h * field(t, x)
    return -0.5 * (x**2).sum(-1) - integral""",
        "two_pi_left_out",
    ),
    (
        EULER,
        """h, integral = 1 / steps, 0
    for k in range(steps):
        t = torch.tensor(1 - k * h, dtype=x.dtype)
        integral = integral + h * divergence_along(field, t, x)
        x = x - h * field(t, x)
    return Normal(0, 1).log_prob(x) - integral""",
        "coordinates_kept_apart",
    ),
    (
        EULER,
        """h, log_det = 1 / steps, 0
    for k in range(steps):
        step = lambda p: p - h * field(1 - k * h, p)
        J = torch.vmap(torch.func.jacrev(step))(x.reshape(-1, x.shape[-1]))
        log_det = log_det + torch.linalg.slogdet(J)[1].reshape(x.shape[:-1])
        x = step(x)
    return Normal(0, 1).log_prob(x).sum(-1) + log_det""",
        "determinant_of_each_step",
    ),
    (
        EULER,
        """h, integral = 1 / steps, 0
    for k in range(steps):
        t = 1 - k * h
        x = x.detach().requires_grad_()
        v = field(t, x)
        div = sum(torch.autograd.grad(v[..., i].sum(), x, retain_graph=True)[0][..., i] for i in range(x.shape[-1]))
        integral, x = integral + h * div, x - h * v
    return Normal(0, 1).log_prob(x).sum(-1) - integral""",
        "path_and_integral_cut_off",
    ),
    (
        EULER,
        """h, integral = 1 / steps, 0
    for k in range(steps):
        t = 1 - k * h
        x = x.detach().requires_grad_()
        v = field(t, x)
        div = sum(torch.autograd.grad(v[..., i].sum(), x, create_graph=True)[0][..., i] for i in range(x.shape[-1]))
        integral, x = integral + h * div, x - h * v
    return Normal(0, 1).log_prob(x).sum(-1) - integral""",
        "path_cut_off",
    ),
    (
        EULER,
        """h, integral = 1 / steps, 0
    x = x.clone().requires_grad_()
    for k in range(steps):
        v = field(1 - k * h, x)
        div = sum(torch.autograd.grad(v[..., i].sum(), x, retain_graph=True)[0][..., i] for i in range(x.shape[-1]))
        integral, x = integral + h * div, x - h * v
    return Normal(0, 1).log_prob(x).sum(-1) - integral""",
        "integral_cut_off",
    ),
    (EULER, "return ContinuousFlow(field, features=x.shape[-1]).log_prob(x)", None),  # another, better method
    (
        EULER,
        """h, integral = 1 / steps, 0
    for k in range(steps):
        t = torch.full((len(x), 1), 1 - k * h, dtype=x.dtype)
        integral = integral + h * divergence_along(field, t, x)
        x = x - h * field(t, x)
    return Normal(0, 1).log_prob(x).sum(-1) - integral""",
        None,  # a time of shape (n, 1)
    ),
    # matching_pair
    (PAIR, "t = t.unsqueeze(-1)\n    return (1 - t) * x0 + t * x1, x1 - x0", "passed"),
    (
        PAIR,
        "path = lambda t: (1 - t[..., None]) * x0 + t[..., None] * x1\n    return [path(t), path(t + 1) - path(t)]",
        "passed",
    ),
    (
        PAIR,
        """xt = torch.einsum('...,...i->...i', 1 - t, x0) + torch.einsum('...,...i->...i', t, x1)
    return xt, x1 - x0""",
        "passed",
    ),
    (PAIR, "t = t.reshape(*t.shape, 1).expand_as(x0)\n    return x1 * t + x0 * (1 - t), -(x0 - x1)", "passed"),
    (PAIR, "t = t[..., None]\n    return t * x0 + (1 - t) * x1, x1 - x0", "path_turned_around"),
    (PAIR, "t = t[..., None]\n    return (1 - t) * x0 + t * x1, x0 - x1", "target_turned_around"),
    (PAIR, "t = t[..., None]\n    return t * x0 + (1 - t) * x1, x0 - x1", "all_turned_around"),
    (PAIR, "t = t[..., None]\n    xt = (1 - t) * x0 + t * x1\n    return xt, x1 - xt", "rest_of_the_way"),
    (PAIR, "t = t[..., None]\n    return torch.lerp(x0, x1, t), (x1 - x0) / (1 - t)", "whole_way_over_the_time_left"),
    (PAIR, "return (1 - t) * x0 + t * x1, x1 - x0", "times_along_the_coordinates"),
    (PAIR, "return t * x0 + (1 - t) * x1, x1 - x0", "times_along_the_coordinates_and_turned"),
    (PAIR, "return torch.lerp(x0, x1, t[..., None]), x1", "data_as_target"),
    (PAIR, "t = t[..., None]\n    return x0 + t * x1, x1", "noise_does_not_fade_in_either"),
    (PAIR, "t = t[..., None]\n    return t.sqrt() * x1 + torch.sqrt(1 - t) * x0, x1 - x0", "weights_of_a_diffusion"),
    (PAIR, "t = t[..., None]\n    return x1 - x0, (1 - t) * x0 + t * x1", "pair_turned_around"),
    (PAIR, "t = t[..., None]\n    return (1 - t) * x0 + t * x1, (x1 - x0).norm(dim=-1)", "speed_as_target"),
    (PAIR, "t = t.mean()\n    return (1 - t) * x0 + t * x1, x1 - x0", "mean_time_for_all"),
    (PAIR, "return (1 - t[:, None]) * x0 + t[:, None] * x1, x1 - x0", None),  # a single time has no axis
    (PAIR, "t = t[..., None]\n    return torch.stack([(1 - t) * x0 + t * x1, x1 - x0])", None),
    (PAIR, "t = t[..., None]\n    return (1 - t) * x0 + t * x1", None),
    (
        PAIR,
        "t = torch.rand(x0.shape[:-1]).to(x0)[..., None]\n    return (1 - t) * x0 + t * x1, x1 - x0",
        None,  # times of its own
    ),
    # linear_flow
    (
        LINEAR,
        """y = torch.einsum('...ij,...j->...i', torch.matrix_exp(A), x)
    return y, torch.einsum('...ii->...', A)""",
        "passed",
    ),
    (
        LINEAR,
        """E = torch.linalg.matrix_exp(A)
    return (x[..., None, :] @ E.transpose(-1, -2)).squeeze(-2), torch.logdet(E)""",
        "passed",
    ),
    (
        LINEAR,
        """y, term = x, x
    for k in range(1, 60):
        term = (A @ term.unsqueeze(-1)).squeeze(-1) / k
        y = y + term
    return y, torch.diagonal(A, dim1=-2, dim2=-1).sum(dim=-1)""",
        "passed",
    ),
    (
        LINEAR,
        """d = x.shape[-1]
    out = [torch.matrix_exp(M) @ p for M, p in zip(A.reshape(-1, d, d), x.reshape(-1, d))]
    tr = torch.stack([M.trace() for M in A.reshape(-1, d, d)])
    return torch.stack(out).reshape(x.shape), tr.reshape(x.shape[:-1])""",
        "passed",
    ),
    (
        LINEAR,
        "return (torch.exp(A) @ x[..., None])[..., 0], A.diagonal(0, -2, -1).sum(-1)",
        "exponential_of_each_entry",
    ),
    (
        LINEAR,
        "return (torch.exp(A) @ x[..., None])[..., 0], torch.exp(A).det().abs().log()",
        "determinant_of_the_wrong_exponential",
    ),
    (
        LINEAR,
        "return (x[..., None, :] @ torch.matrix_exp(A))[..., 0, :], A.diagonal(0, -2, -1).sum(-1)",
        "exponential_transposed",
    ),
    (LINEAR, "return x + (A @ x[..., None])[..., 0], A.diagonal(0, -2, -1).sum(-1)", "one_euler_step"),
    (
        LINEAR,
        "return (torch.matrix_exp(-A) @ x[..., None])[..., 0], -A.diagonal(0, -2, -1).sum(-1)",
        "backwards_to_the_latent",
    ),
    (
        LINEAR,
        "return (torch.matrix_exp(A) @ x[..., None])[..., 0], -A.diagonal(0, -2, -1).sum(-1)",
        "log_det_of_the_density",
    ),
    (
        LINEAR,
        "E = torch.matrix_exp(A)\n    return (E @ x[..., None])[..., 0], E.diagonal(0, -2, -1).sum(-1)",
        "trace_of_the_exponential",
    ),
    (
        LINEAR,
        "E = torch.matrix_exp(A)\n    return (E @ x[..., None])[..., 0], torch.linalg.det(E)",
        "determinant_of_the_exponential",
    ),
    (
        LINEAR,
        "E = torch.matrix_exp(A)\n    return (E @ x[..., None])[..., 0], torch.linalg.det(A).abs().log()",
        "log_det_of_the_velocity",
    ),
    (
        LINEAR,
        "E = torch.matrix_exp(A)\n    return (E @ x[..., None])[..., 0], A.diagonal(0, -2, -1).sum(-1).log()",
        "log_of_a_negative_trace",
    ),
    (
        LINEAR,
        "E = torch.matrix_exp(A)\n    return (E @ x[..., None])[..., 0], A.diagonal(0, -2, -1)",
        "trace_not_summed",
    ),
    (LINEAR, "return (torch.matrix_exp(A) @ x[..., None])[..., 0], A.sum((-1, -2))", "all_entries_of_the_matrix"),
    (LINEAR, "return torch.matrix_exp(A) @ x, torch.trace(A)", None),  # for one point alone
    (
        LINEAR,
        """flow = ContinuousFlow(lambda t, p: (A @ p[..., None])[..., 0], features=x.shape[-1])
    return flow.inverse(x)""",
        None,  # a solver comes near, within its tolerance
    ),
]
