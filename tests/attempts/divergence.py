"""What learners of the divergence chapter write: signature, body, and the verdict that the check should give.

A verdict is "passed", the name of a mistake, or None for an answer that fails without a name.
"""

from companion.divergence import divergence

NAMES = {"divergence": divergence}  # what the chapter's notebook has imported

ATTEMPTS = [
    ("divergence_by_hand(x, y)", "return x**2 * y * 3 + torch.sin(x) * y * 2", "passed"),
    ("divergence_by_hand(x, y)", "return 3*x*x*y + torch.cos(x)*y**2", "second_by_x"),
    ("divergence_by_hand(x, y)", "return torch.stack((3*x**2*y, 2*y*x.sin()), dim=-1)", "terms_as_vector"),
    ("divergence_by_hand(x, y)", "return 3*x**2*y - 2*y*x.sin()", "terms_subtracted"),
    (
        "box_outflow(field, centre, h)",
        """dx = torch.tensor([h / 2, 0.0], dtype=centre.dtype)
    dy = torch.tensor([0.0, h / 2], dtype=centre.dtype)
    out = field(centre + dx)[0] - field(centre - dx)[0] + field(centre + dy)[1] - field(centre - dy)[1]
    return out * h / (h * h)""",
        "passed",
    ),
    (
        "box_outflow(field, centre, h)",
        """x, y = centre
    P = lambda x, y: field(torch.stack([x, y]))[0]
    Q = lambda x, y: field(torch.stack([x, y]))[1]
    return (P(x + h, y) - P(x - h, y)) / (2 * h) + (Q(x, y + h) - Q(x, y - h)) / (2 * h)""",
        "twice_the_side",
    ),
    (
        "box_outflow(field, centre, h)",
        """x, y = centre
    F = lambda x, y: field(torch.stack([x, y]))
    return (F(x - h/2, y)[0] - F(x + h/2, y)[0] + F(x, y - h/2)[1] - F(x, y + h/2)[1]) / h""",
        "inflow",
    ),
    (
        "box_outflow(field, centre, h)",
        """x, y = centre
    F = lambda x, y: field(torch.stack([x, y]))
    return F(x + h/2, y)[0] - F(x - h/2, y)[0] + F(x, y + h/2)[1] - F(x, y - h/2)[1]""",
        "not_divided",
    ),
    (
        "v_dot_grad(field, f, x)",
        """flat = x.reshape(-1, x.shape[-1])
    rows = [torch.dot(torch.autograd.functional.jacobian(f, p), field(p)) for p in flat]
    return torch.stack(rows).view(x.shape[:-1])""",
        "passed",
    ),
    (
        "v_dot_grad(field, f, x)",
        """flat = x.reshape(-1, x.shape[-1])
    out = [f(p) * torch.autograd.functional.jacobian(field, p).trace() for p in flat]
    return torch.stack(out).view(x.shape[:-1])""",
        "divergence_times_f",
    ),
    (
        "v_dot_grad(field, f, x)",
        """flat = x.reshape(-1, x.shape[-1])
    J = torch.vmap(torch.func.jacrev(lambda p: field(p) * f(p)))(flat)
    return torch.einsum("nii->n", J).reshape(x.shape[:-1])""",
        "divergence_of_product",
    ),
    (
        "polar_divergence(v_r, v_theta, r, theta)",
        """d_r = torch.autograd.functional.jacobian(lambda s: (s * v_r(s, theta)).flatten(), r)
    d_t = torch.autograd.functional.jacobian(lambda a: v_theta(r, a).flatten(), theta)
    n = r.numel()
    return ((d_r.reshape(n, n).diagonal() + d_t.reshape(n, n).diagonal()) / r.flatten()).reshape(r.shape)""",
        "passed",
    ),
    (
        "polar_divergence(v_r, v_theta, r, theta)",
        """r = r.clone().requires_grad_()
    theta = theta.clone().requires_grad_()
    a, = torch.autograd.grad(v_r(r, theta).sum(), r)
    b, = torch.autograd.grad(v_theta(r, theta).sum(), theta)
    return a + b""",
        "naive_sum",
    ),
    (
        "polar_divergence(v_r, v_theta, r, theta)",
        """r.requires_grad_(), theta.requires_grad_()
    (r * v_r(r, theta)).sum().backward()
    v_theta(r, theta).sum().backward()
    return (r.grad + theta.grad) / r""",
        "gradients_of_both",
    ),
    (
        "trace_divergence(field, x)",
        """flat = x.reshape(-1, x.shape[-1])
    return torch.vmap(torch.func.jacfwd(field))(flat).diagonal(dim1=1, dim2=2).sum(1).reshape(x.shape[:-1])""",
        "passed",
    ),
    (
        "trace_divergence(field, x)",
        """x = x.detach().clone().requires_grad_()
    v = torch.vmap(field)(x.reshape(-1, x.shape[-1])).reshape(x.shape)
    v.backward(torch.ones_like(v))
    return x.grad.sum(-1)""",
        "backward_with_ones",
    ),
    (
        "trace_divergence(field, x)",
        """x = x.detach().clone().requires_grad_()
    v = torch.vmap(field)(x.reshape(-1, x.shape[-1])).reshape(x.shape)
    out = 0
    for i in range(x.shape[-1]):
        v[..., i].sum().backward(retain_graph=True)
        out = out + x.grad[..., i]
    return out""",
        "gradients_pile_up",
    ),
    (
        "trace_divergence(field, x)",
        """x = x.clone().requires_grad_()
    v = torch.vmap(field)(x.reshape(-1, x.shape[-1])).reshape(x.shape)
    g, = torch.autograd.grad(v.sum(), x)
    return g""",
        "column_sums",
    ),
    (
        "trace_divergence(field, x)",
        """x = x.detach().requires_grad_()
    v = torch.vmap(field)(x.reshape(-1, x.shape[-1])).reshape(x.shape)
    return sum(torch.autograd.grad(v[..., i].sum(), x, retain_graph=True)[0][..., i] for i in range(x.shape[-1]))""",
        "cut_off",
    ),
    (
        "trace_divergence(field, x)",
        """flat = x.reshape(-1, x.shape[-1])
    out = [torch.autograd.functional.jacobian(field, p).trace() for p in flat]
    return torch.stack(out).reshape(x.shape[:-1])""",
        "cut_off",
    ),
    (
        "laplacian_by_gradient(f, x)",
        """flat = x.reshape(-1, x.shape[-1])
    H = torch.vmap(torch.func.hessian(f))(flat)
    return torch.einsum("nii->n", H).reshape(x.shape[:-1])""",
        "passed",
    ),
    ("laplacian_by_gradient(f, x)", "return divergence(torch.func.grad(f), x)", "passed"),
    ("rademacher_estimate(field, x, probes, generator)", "return divergence(field, x)", "exact_instead"),
    (
        "laplacian_by_gradient(f, x)",
        """flat = x.reshape(-1, x.shape[-1]).clone().requires_grad_()
    g, = torch.autograd.grad(torch.vmap(f)(flat).sum(), flat, create_graph=True)
    h, = torch.autograd.grad(g.sum(), flat)
    return h.sum(-1).reshape(x.shape[:-1])""",
        "whole_hessian",
    ),
    (
        "rademacher_estimate(field, x, probes, generator)",
        """out = torch.zeros(x.shape[:-1], dtype=x.dtype)
    flat = x.reshape(-1, x.shape[-1])
    J = torch.vmap(torch.func.jacrev(field))(flat)
    e = torch.bernoulli(torch.full((probes, *flat.shape), 0.5, dtype=x.dtype), generator=generator) * 2 - 1
    return torch.einsum("kni,nij,knj->kn", e, J, e).mean(0).reshape(x.shape[:-1])""",
        "passed",
    ),
    *(
        (
            "rademacher_estimate(field, x, probes, generator)",
            f"""flat = x.reshape(-1, x.shape[-1])
    J = torch.vmap(torch.func.jacrev(field))(flat)
    e = {draw}
    return torch.einsum("kni,nij,knj->kn", e, J, e).{reduce}(0).reshape(x.shape[:-1])""",
            verdict,
        )
        for draw, reduce, verdict in (
            ("torch.randn(probes, *flat.shape, generator=generator, dtype=x.dtype)", "mean", "normal_probes"),
            ("torch.rand(probes, *flat.shape, generator=generator, dtype=x.dtype)", "mean", "probes_from_zero_to_one"),
            (
                "2 * torch.rand(probes, *flat.shape, generator=generator, dtype=x.dtype) - 1",
                "mean",
                "probes_from_minus_one_to_one",
            ),
            ("torch.randint(2, (probes, *flat.shape), generator=generator).to(x.dtype)", "mean", "zeros_and_ones"),
            (
                "torch.randint(-1, 2, (probes, *flat.shape), generator=generator).to(x.dtype)",
                "mean",
                "zeros_among_the_signs",
            ),
            (
                "torch.randn(probes, *flat.shape, generator=generator.manual_seed(7)).sign().to(x.dtype)",
                "mean",
                "generator_reset",
            ),
            ("torch.randn(probes, *flat.shape, generator=generator, dtype=x.dtype).sign()", "sum", "probes_summed"),
            (
                "torch.randn(probes, 1, x.shape[-1], generator=generator).sign().to(x.dtype).expand(-1, len(flat), -1)",
                "mean",
                "one_probe_for_all",
            ),
            (
                "torch.randn(1, *flat.shape, generator=generator, dtype=x.dtype).sign()",
                "mean",
                "single_probe",
            ),
            ("torch.randn(probes, *flat.shape, dtype=x.dtype).sign()", "mean", "generator_ignored"),
        )
    ),
    (  # right for a diagonal Jacobian, and right in its variance: only the mean gives it away
        "rademacher_estimate(field, x, probes, generator)",
        """flat = x.reshape(-1, x.shape[-1])
    J = torch.vmap(torch.func.jacrev(field))(flat)
    e = torch.randn(probes, *flat.shape, generator=generator, dtype=x.dtype).sign()
    bias = 0.05 * (J.sum((1, 2)) - torch.einsum("nii->n", J))
    return (torch.einsum("kni,nij,knj->kn", e, J, e).mean(0) + bias).reshape(x.shape[:-1])""",
        None,
    ),
    *(
        (
            "with_control_variate(field, A, x, probes, generator)",
            f"""flat = x.reshape(-1, x.shape[-1])
    J = torch.vmap(torch.func.jacrev(field))(flat)
    draw = lambda: torch.randn(probes, *flat.shape, generator=generator, dtype=x.dtype).sign()
    q = lambda M, e: torch.einsum("kni,nij,knj->kn", e, M.expand_as(J), e).mean(0)
    e = draw()
    return ({value}).reshape(x.shape[:-1])""",
            verdict,
        )
        for value, verdict in (
            ("torch.trace(A) + q(J - A, e)", "passed"),
            ("q(J, e) - (q(A, e) - A.trace())", "passed"),
            ("torch.einsum('nii->n', J)", "exact_without_probes"),
            ("q(J - A, e)", "trace_not_added_back"),
            ("A.trace() + q(J, e)", "linear_part_twice"),
            ("q(J, e)", "no_control"),
            ("A.trace() + q(J, e) - q(A, draw())", "fresh_probes_for_the_control"),
            ("q(J, e) + q(A, e) - A.trace()", "signs_flipped"),
        )
    ),
    *(
        (
            "log_density_along(field, x0, log_density0, t, steps)",
            f"""x, l, dt = x0, log_density0, t / steps
    vel = lambda x: torch.vmap(field)(x.reshape(-1, x.shape[-1])).view_as(x)
    div = lambda x: divergence(field, x)
    for _ in range(steps):
        k1 = vel(x); k2 = vel(x + dt * k1 / 2); k3 = vel(x + dt * k2 / 2); k4 = vel(x + dt * k3)
        d1, d2, d3, d4 = div(x), div(x + dt * k1 / 2), div(x + dt * k2 / 2), div(x + dt * k3)
        {step}
    return l""",
            verdict,
        )
        for step, verdict in (
            ("x, l = x + dt / 6 * (k1 + 2*k2 + 2*k3 + k4), l - dt / 6 * (d1 + 2*d2 + 2*d3 + d4)", "passed"),
            (
                "x, l = x + dt / 6 * (k1 + 2*k2 + 2*k3 + k4), l + dt / 6 * (d1 + 2*d2 + 2*d3 + d4)",
                "density_grows_with_spreading",
            ),
            ("x, l = x + dt * k1, l - dt * d1", "euler"),
            ("x, l = x + dt * k2, l - dt * d2", "midpoint"),
            ("x = x + dt * k1; l = l - dt * div(x)", "moved_too_early"),
            ("x, l = x + dt / 6 * (k1 + 2*k2 + 2*k3 + k4), l - dt * d1", "divergence_once_a_step"),
            ("l = l - dt * d1", "divergence_at_the_start"),
            ("x, l = x + dt / 6 * (k1 + 2*k2 + 2*k3 + k4), l - dt / 6 * (d1 + 2*d2 + 2*d3 + div(x + dt * k2))", None),
            ("x, l = x + dt / 6 * (k1 + 2*k2 + 2*k3 + k4), l - (d1 + 2*d2 + 2*d3 + d4) / 6", "step_size_forgotten"),
            (
                "x, l = x - dt / 6 * (k1 + 2*k2 + 2*k3 + k4), l - dt / 6 * (d1 + 2*d2 + 2*d3 + d4)",
                None,
            ),
        )
    ),
]
