"""What learners of the gradients chapter write: signature, body, and the verdict that the check should give.

A verdict is "passed", the name of a mistake, or None for an answer that fails without a name.
"""

from companion.divergence import divergence, laplacian
from companion.gradients import directional_derivative, gradient, gradient_descent, hessian

NAMES = {  # what the chapter's notebook has imported
    "directional_derivative": directional_derivative,
    "divergence": divergence,
    "gradient": gradient,
    "gradient_descent": gradient_descent,
    "hessian": hessian,
    "laplacian": laplacian,
}

ATTEMPTS = [
    *(
        ("gradient_by_hand(x, y)", body, verdict)
        for body, verdict in (
            ("c = torch.cos(x*y)\n    return torch.stack((y*(2*x + c), x*(x + c)), dim=-1)", "passed"),
            (
                """out = torch.empty(*x.shape, 2, dtype=x.dtype)
    out[..., 0] = 2*x*y + torch.cos(x*y)*y
    out[..., 1] = x.pow(2) + torch.cos(x*y)*x
    return out""",
                "passed",
            ),
            (
                "return torch.stack([2*x*y + torch.cos(x*y), x*x + torch.cos(x*y)], dim=-1)",
                "inner_derivative_forgotten",
            ),
            ("c = (x*y).cos()\n    return torch.stack([x*x + x*c, 2*x*y + y*c], -1)", "components_swapped"),
            ("return torch.stack([2*x*y + y*torch.cos(x*y), x**2 + x*torch.cos(x*y)])", "stacked_in_front"),
            ("return 2*x*y + x**2 + (x + y)*torch.cos(x*y)", "entries_added"),
            ("return torch.stack([2*x*y + y*torch.cos(x*y), 2*x*y + x*torch.cos(x*y)], -1)", None),
            ("return torch.tensor([2*x*y + y*torch.cos(x*y), x**2 + x*torch.cos(x*y)])", None),
            ("return 2*x*y + y*torch.cos(x*y), x**2 + x*torch.cos(x*y)", None),
        )
    ),
    *(
        (
            "central_difference(f, x, h)",
            f"""g = torch.zeros_like(x)
    for i in range(len(x)):
        {step}
    return g""",
            verdict,
        )
        for step, verdict in (
            ("e = torch.zeros_like(x); e[i] = h; g[i] = (f(x + e) - f(x - e)) / 2 / h", "passed"),
            ("e = torch.zeros_like(x); e[i] = h; g[i] = (f(x + e) - f(x)) / h", "forward_difference"),
            ("e = torch.zeros_like(x); e[i] = h; g[i] = (f(x + e) - f(x - e)) / h", "divided_by_one_step"),
            ("e = torch.zeros_like(x); e[i] = h; g[i] = (f(x + e) - f(x - e)) / 2 * h", "brackets_forgotten"),
            ("e = torch.zeros_like(x); e[i] = h / 2; g[i] = (f(x + e) - f(x - e)) / h", "half_steps"),
            ("g[i] = (f(x + h) - f(x - h)) / (2 * h)", "all_coordinates_moved"),
            ("e = torch.zeros_like(x); e[i] = 1e-4; g[i] = (f(x + e) - f(x - e)) / 2e-4", "exact_gradient"),
            ("x[i] += h; up = f(x); x[i] -= 2 * h; g[i] = (up - f(x)) / (2 * h)", None),
        )
    ),
    (
        "central_difference(f, x, h)",
        """plus, minus, g = x.clone(), x.clone(), []
    for i in range(x.shape[0]):
        plus[i] += h
        minus[i] -= h
        g.append((f(plus) - f(minus)) / (2 * h))
    return torch.stack(g)""",
        "steps_pile_up",
    ),
    (
        "central_difference(f, x, h)",
        "E = torch.eye(len(x))\n    return torch.stack([(f(x + h*e) - f(x - h*e)) / (2*h) for e in E])",
        None,  # h * E is in float32
    ),
    (
        "central_difference(f, x, h)",
        "E = h * torch.eye(len(x), dtype=x.dtype)\n    return (f(x + E) - f(x - E)) / (2 * h)",
        None,
    ),
    ("central_difference(f, x, h)", "return torch.func.grad(f)(x)", "exact_gradient"),
    *(
        ("slope_along(f, x, direction)", body, verdict)
        for body, verdict in (
            ("return directional_derivative(f, x, direction / torch.linalg.norm(direction))", "passed"),
            ("e = direction / (direction**2).sum()**0.5\n    return (gradient(f, x) * e).sum(dim=-1)", "passed"),
            ("return torch.einsum('...i,i->...', gradient(f, x), direction / direction.norm(p=2))", "passed"),
            ("return (gradient(f, x) * direction).sum(-1)", "not_normalised"),
            ("return gradient(f, x) @ direction / (direction @ direction)", "divided_by_square"),
            ("return gradient(f, x) @ direction / torch.norm(direction, p=1)", "divided_by_one_norm"),
            ("return torch.nn.functional.cosine_similarity(gradient(f, x), direction, dim=-1)", "cosine"),
            ("return gradient(f, x) * (direction / direction.norm())", "slope_products_not_summed"),
            ("return torch.dot(gradient(f, x), direction / direction.norm())", None),
            ("return directional_derivative(f, x, direction)", None),
        )
    ),
    *(
        (
            "taylor2(f, x0, x)",
            f"""d = x.shape[-1]
    p, s = x0.reshape(-1, d), (x - x0).reshape(-1, d)
    v, g, H = torch.vmap(f)(p), gradient(f, p), hessian(f, p)
    out = {value}
    return out.reshape(x.shape[:-1])""",
            verdict,
        )
        for value, verdict in (
            ("v + (g * s).sum(1) + 0.5 * (s[:, None] @ H @ s[:, :, None]).squeeze()", "passed"),
            ("v + (g * s).sum(1) + 0.5 * (s[:, None] @ H @ s[:, :, None]).sum(0)", None),  # (n, n) through broadcasting
            ("v + (g * s).sum(1) + (H @ s[:, :, None] * s[:, :, None]).sum((1, 2))", "half_missing"),
            ("v + (g * s).sum(1)", "first_order_only"),
            ("v - (g * s).sum(1) + torch.einsum('ni,nij,nj->n', s, H, s) / 2", "step_reversed"),
            ("v + (g * s).sum(1) + torch.einsum('ni,nii->n', s * s, H) / 2", "diagonal_only"),
            ("v + (g * s).sum(1) + (g * s).sum(1) ** 2 / 2", "slope_squared"),
            ("v + (g * s).sum(1) + laplacian(f, p) * (s * s).sum(1) / 2", None),
        )
    ),
    ("taylor2(f, x0, x)", "s = x - x0\n    return f(x0) + gradient(f, x0) @ s + s @ hessian(f, x0) @ s / 2", None),
    ("taylor2(f, x0, x)", "return torch.vmap(f)(x.reshape(-1, x.shape[-1])).view(x.shape[:-1])", "function_itself"),
    *(
        (
            "neuron_backward(w, b, x, t)",
            f"""z = torch.dot(w, x) + b
    a = torch.tanh(z)
    delta = {delta}
    return {answer}""",
            verdict,
        )
        for delta, answer, verdict in (
            ("2 * (a - t) * (1 - a * a)", "torch.cat([delta * x, delta.unsqueeze(0)])", "passed"),
            ("2 * (a - t) / z.cosh() ** 2", "torch.hstack((delta * x, delta))", "passed"),
            ("-2 * (t - a) * (1 - a) * (1 + a)", "torch.stack([*(delta * x), delta])", "passed"),
            ("(a - t) * (1 - a**2)", "torch.hstack([delta * x, delta])", "factor_two_lost"),
            ("2 * (a - t) * (1 + a**2)", "torch.hstack([delta * x, delta])", "tanh_slope_with_plus"),
            ("2 * (a - t)", "torch.hstack([delta * x, delta])", "tanh_slope_forgotten"),
            ("2 * (t - a) * (1 - a**2)", "torch.hstack([delta * x, delta])", "target_minus_output"),
            ("2 * (a - t) * (1 - a**2)", "torch.hstack([delta * w, delta])", "gradient_by_the_input"),
            ("2 * (a - t) * (1 - a**2)", "torch.hstack([delta * x, delta * b])", "bias_times_itself"),
            ("2 * (a - t) * (1 - a**2)", "torch.hstack([delta, delta * x])", "bias_first"),
            ("2 * (a - t) * (1 - a**2)", "delta * x, delta", None),
            ("2 * (a - t) * (1 - a**2)", "torch.cat([delta * x, delta])", None),
        )
    ),
    *(
        ("normal_score(x, loc, cov)", body, verdict)
        for body, verdict in (
            ("return -(x - loc) @ torch.inverse(cov).T", "passed"),
            ("P = cov.inverse()\n    return torch.einsum('ij,...j->...i', P, loc - x)", "passed"),
            ("return gradient(torch.distributions.MultivariateNormal(loc, cov).log_prob, x)", "passed"),
            ("return gradient(lambda p: -(p - loc) @ torch.linalg.solve(cov, p - loc) / 2, x)", "passed"),
            ("return (x - loc) @ torch.linalg.inv(cov)", "away_from_the_mean"),
            ("return -torch.einsum('ij,...j->...i', cov, x - loc)", "multiplied_by_cov"),
            ("return -(x - loc) / torch.diag(cov)", "divided_by_diagonal"),
            ("return -(x - loc) / torch.diag(cov) ** 0.5", "divided_by_scales"),
            ("return -x @ torch.linalg.inv(cov)", "mean_forgotten"),
            (
                "return torch.linalg.solve_triangular(torch.linalg.cholesky(cov), (loc - x).unsqueeze(-1), "
                "upper=False).squeeze(-1)",
                "half_whitened",
            ),
            ("return torch.linalg.solve(cov, loc - x)", None),
        )
    ),
    *(
        (
            "gradients_one_by_one(f, xs)",
            f"""leaf = xs[0].clone().requires_grad_()
    rows = []
    for point in xs:
        {loop}
    return torch.stack(rows)""",
            verdict,
        )
        for loop, verdict in (
            (
                """leaf.grad = None
        with torch.no_grad(): leaf[:] = point
        f(leaf).backward(); rows.append(leaf.grad)""",
                "passed",
            ),
            ("leaf.data = point.clone(); leaf.grad = None; f(leaf).backward(); rows.append(leaf.grad)", "passed"),
            (
                """with torch.no_grad(): leaf.copy_(point)
        f(leaf).backward(); rows.append(leaf.grad.clone())""",
                "never_zeroed",
            ),
            (
                """with torch.no_grad(): leaf.copy_(point)
        if leaf.grad is not None: leaf.grad.zero_()
        f(leaf).backward(); rows.append(leaf.grad)""",
                "last_gradient_everywhere",
            ),
            (
                """with torch.no_grad(): leaf.copy_(point)
        f(leaf).backward(); rows.append(leaf.grad); leaf.grad.zero_()""",
                "cleared_after_noting",
            ),
            (
                """with torch.no_grad(): leaf.copy_(point)
        f(leaf).backward(); rows.append(leaf.grad)""",
                "total_everywhere",
            ),
            (
                """y = f(leaf); leaf.data.copy_(point); leaf.grad = None
        y.backward(); rows.append(leaf.grad)""",
                "changed_before_backward",
            ),
            (
                """leaf.grad = None; f(leaf).backward(); rows.append(leaf.grad)
        with torch.no_grad(): leaf.copy_(point)""",
                "one_point_behind",
            ),
            ("leaf.grad = None; f(leaf).backward(); rows.append(leaf.grad)", "leaf_never_overwritten"),
            # raise: a leaf that autograd watches is written, a leaf is replaced by a tensor without a graph
            ("leaf.copy_(point); f(leaf).backward(); rows.append(leaf.grad)", None),
            ("leaf = point; f(leaf).backward(); rows.append(leaf.grad)", None),
        )
    ),
    ("gradients_one_by_one(f, xs)", "return gradient(f, xs)", "passed"),
    (
        "gradients_one_by_one(f, xs)",
        """xs = xs.clone().requires_grad_()
    torch.stack([f(p) for p in xs]).mean().backward()
    return xs.grad""",
        "gradients_of_the_mean",
    ),
    *(
        ("contraction(A, lr)", body, verdict)
        for body, verdict in (
            ("return torch.abs(1 - lr * torch.linalg.eigh(A)[0]).max(dim=-1).values", "passed"),
            ("return torch.linalg.eigvals(torch.eye(A.shape[-1], dtype=A.dtype) - lr * A).abs().amax(-1)", "passed"),
            (
                "f = 1 - lr * torch.linalg.eigvalsh(A)\n    return torch.maximum(f[..., 0].abs(), f[..., -1].abs())",
                "passed",
            ),
            ("return (1 - lr * torch.linalg.eigvalsh(A)).max(-1).values", "without_absolute_value"),
            ("return (1 - lr * torch.linalg.eigvalsh(A)[..., 0]).abs()", "smallest_only"),
            ("return (1 - lr * torch.linalg.eigvalsh(A).amax(-1)).abs()", "largest_only"),
            ("return (1 - lr * torch.linalg.eigvalsh(A)).abs().amin(-1)", "best_direction"),
            ("return torch.linalg.matrix_norm(torch.eye(A.shape[-1], dtype=A.dtype) - lr * A)", "frobenius_norm"),
            ("return (1 - lr * torch.linalg.eigvalsh(A)).abs().max()", None),
            ("return (1 - lr * torch.linalg.eigvalsh(A)).abs().max(-1)", None),
            ("return torch.linalg.eigvals(A).mul(-lr).add(1).amax(-1)", None),
        )
    ),
    *(
        (
            "momentum_descent(f, x0, lr, momentum, steps)",
            f"""x, v = x0.clone(), {start}
    for _ in range(steps):
        {step}
    return x""",
            verdict,
        )
        for start, step, verdict in (
            ("0", "v = gradient(f, x) + momentum * v; x -= lr * v", "passed"),
            ("torch.zeros_like(x0)", "v = momentum * v - lr * gradient(f, x); x = x + v", "passed"),
            ("0", "x = x - lr * gradient(f, x)", "no_momentum"),
            ("0", "v = gradient(f, x); x = x - lr * v", "no_momentum"),
            ("0", "v = momentum * v + (1 - momentum) * gradient(f, x); x = x - lr * v", "running_mean"),
            ("0", "v = momentum * v + gradient(f, x - lr * momentum * v); x = x - lr * v", "nesterov"),
            ("0", "v = momentum * v + gradient(f, x0); x = x - lr * v", "gradient_once"),
            ("0", "v = momentum * v + gradient(f, x); x = x + lr * v", "uphill"),
            ("0", "v = momentum * v + lr * gradient(f, x); x = x - lr * v", "learning_rate_twice"),
            ("0", "x = x - lr * v; v = momentum * v + gradient(f, x)", "one_step_too_few"),
            ("0", "g = gradient(f, x); x = x - lr * v; v = momentum * v + g", "moved_with_the_old_G"),
            ("0", "v = momentum * v + torch.func.grad(f)(x); x = x - lr * v", None),
        )
    ),
    (
        "momentum_descent(f, x0, lr, momentum, steps)",
        "return gradient_descent(f, x0, lr, steps, momentum=momentum)[-1]",
        "passed",
    ),
    (
        "momentum_descent(f, x0, lr, momentum, steps)",
        "return gradient_descent(f, x0, lr, steps, momentum=momentum)",
        "whole_path",
    ),
    (
        "momentum_descent(f, x0, lr, momentum, steps)",
        """m = torch.zeros_like(x0)
    for _ in range(steps):
        m = momentum * m + gradient(f, x0)
        x0 -= lr * m
    return x0""",
        None,
    ),
]
