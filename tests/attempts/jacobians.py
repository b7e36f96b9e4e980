"""What learners of the jacobians chapter write: signature, body, and the verdict that the check should give.

A verdict is "passed", the name of a mistake, or None for an answer that fails without a name.
"""

from companion.jacobians import jacobian, jacobian_by_rows, jvp, log_abs_det, spin, strain_rate, vjp

NAMES = {  # what the chapter's notebook has imported
    "jacobian": jacobian,
    "jacobian_by_rows": jacobian_by_rows,
    "jvp": jvp,
    "log_abs_det": log_abs_det,
    "spin": spin,
    "strain_rate": strain_rate,
    "vjp": vjp,
}

BY_HAND = "jacobian_by_hand(x, y)"
ROWS = "rows_by_vjp(f, x)"
COLUMNS = "columns_by_jvp(f, x)"
CHAIN = "chain_vjp(f, g, x, u)"
VOLUME = "log_volume(f, x)"
RATE = "determinant_rate(X, dX)"
SQUARE = "matrix_square_gradient(x, weights)"
STRESS = "viscous_stress(L, viscosity)"
NEWTON = "newton_solve(f, x0, steps)"

ATTEMPTS = [
    (
        BY_HAND,
        """f1 = torch.stack([2*x*y, x**2])
    f2 = torch.stack([torch.ones_like(x), torch.exp(y)])
    f3 = torch.cos(x*y) * torch.stack([y, x])
    J = torch.stack([f1, f2, f3])
    return J.permute(*range(2, J.ndim), 0, 1)""",
        "passed",
    ),
    (
        BY_HAND,
        """return jacobian(lambda p: torch.stack([p[0]**2 * p[1], p[0] + p[1].exp(), (p[0] * p[1]).sin()]),
        torch.stack([x, y], -1))""",
        "passed",
    ),
    (
        BY_HAND,
        """f1 = torch.stack([2*x*y, x**2])
    f2 = torch.stack([torch.ones_like(x), torch.exp(y)])
    f3 = torch.cos(x*y) * torch.stack([y, x])
    return torch.stack([f1, f2, f3])""",
        "matrix_in_front",
    ),
    (
        BY_HAND,
        """f1 = torch.stack([2*x*y, x**2], -1)
    f2 = torch.stack([x**0, y.exp()], -1)
    f3 = torch.stack([y*(x*y).cos(), x*(x*y).cos()], -1)
    return torch.stack([f1, f2, f3], -1)""",
        "by_hand_transposed",
    ),
    (
        BY_HAND,
        """f1 = torch.stack([2*x*y, x**2], -1)
    f2 = torch.stack([x**0, y.exp()], -1)
    f3 = torch.stack([(x*y).cos()]*2, -1)
    return torch.stack([f1, f2, f3], -2)""",
        "inner_derivative_lost",
    ),
    (
        BY_HAND,
        """f1 = torch.stack([2*x*y, x**2], -1)
    f2 = torch.stack([x**0, y.exp()], -1)
    f3 = torch.stack([y*(x*y).cos(), x*(x*y).cos()], -1)
    return torch.stack([f1, f2, f3])""",
        "rows_in_front",
    ),
    (
        BY_HAND,
        """f1 = torch.stack([x**2, 2*x*y], -1)
    f2 = torch.stack([y.exp(), x**0], -1)
    f3 = torch.stack([x*(x*y).cos(), y*(x*y).cos()], -1)
    return torch.stack([f1, f2, f3], -2)""",
        "by_hand_columns_swapped",
    ),
    (BY_HAND, "return torch.tensor([[2*x*y, x**2], [1, y.exp()], [y*(x*y).cos(), x*(x*y).cos()]])", None),
    (
        BY_HAND,  # the 1 as a number: torch.stack takes tensors only
        "return torch.stack([torch.stack([2*x*y, x**2], -1), torch.stack([1, torch.exp(y)], -1)], -2)",
        None,
    ),
    # rows_by_vjp
    (ROWS, "return jacobian(f, x)", "passed"),
    (ROWS, "return jacobian_by_rows(f, x)", "passed"),
    (
        ROWS,
        """m = f(x).shape[0]
    rows = []
    for i in range(m):
        u = torch.zeros(m, dtype=x.dtype)
        u[i] = 1
        rows.append(vjp(f, x, u))
    return torch.stack(rows)""",
        "passed",
    ),
    (
        ROWS,
        """if not x.requires_grad:
        x = x.clone().requires_grad_()
    y = f(x)
    return torch.autograd.grad(y, x, torch.eye(len(y), dtype=x.dtype), create_graph=True, is_grads_batched=True)[0]""",
        "passed",
    ),
    (
        ROWS,
        """x = x.detach().clone().requires_grad_()
    y = f(x)
    rows = []
    for i in range(len(y)):
        y[i].backward(retain_graph=True)
        rows.append(x.grad.clone())
    return torch.stack(rows)""",
        "earlier_rows_kept",
    ),
    (
        ROWS,
        """u = torch.zeros_like(f(x))
    rows = []
    for i in range(len(u)):
        u[i] = 1
        rows.append(vjp(f, x, u))
    return torch.stack(rows)""",
        "earlier_rows_kept",
    ),
    (
        ROWS,
        """x = x.detach().clone().requires_grad_()
    y = f(x)
    rows = []
    for i in range(len(y)):
        y[i].backward(retain_graph=True)
        rows.append(x.grad)
    return torch.stack(rows)""",
        "ones_in_every_pass",
    ),
    (
        ROWS,
        """x = x.detach().clone().requires_grad_()
    y = f(x)
    rows = []
    for i in range(len(y)):
        if x.grad is not None:
            x.grad.zero_()
        y[i].backward(retain_graph=True)
        rows.append(x.grad)
    return torch.stack(rows)""",
        "last_row_everywhere",
    ),
    (
        ROWS,
        """x = x.detach().clone().requires_grad_()
    y = f(x)
    rows = []
    for i in range(len(y)):
        y[i].backward(retain_graph=True)
        rows.append(x.grad)
        x.grad.zero_()
    return torch.stack(rows)""",
        "rows_wiped_out",
    ),
    (
        ROWS,
        """x = x.detach().clone().requires_grad_()
    return torch.stack([torch.autograd.grad(fi, x, retain_graph=True)[0] for fi in f(x)])""",
        "rows_cut_off",
    ),
    (ROWS, "return torch.autograd.functional.jacobian(f, x)", "rows_cut_off"),
    (
        ROWS,
        """y, pull = torch.func.vjp(f, x)
    return torch.stack([pull(u)[0] for u in torch.eye(len(y), dtype=x.dtype)], dim=1)""",
        "rows_stacked_as_columns",
    ),
    (ROWS, "return torch.stack([vjp(f, x, torch.ones_like(f(x))) for _ in f(x)])", "ones_in_every_pass"),
    (ROWS, "return vjp(f, x, torch.ones_like(f(x)))", "one_pass_with_ones"),
    (ROWS, "return torch.cat([torch.func.grad(lambda p: f(p)[i])(x) for i in range(len(f(x)))])", "rows_end_to_end"),
    (ROWS, "return torch.stack([torch.func.grad(lambda p: f(p)[i])(x) for i in range(len(x))])", "one_row_an_input"),
    (  # weights of the shape of x
        ROWS,
        """y, pull = torch.func.vjp(f, x)
    return torch.stack([pull(u)[0] for u in torch.eye(len(x), dtype=x.dtype)])""",
        None,
    ),
    (ROWS, "return torch.stack([torch.autograd.grad(fi, x)[0] for fi in f(x)])", None),  # x does not require a gradient
    # columns_by_jvp
    (COLUMNS, "return jacobian(f, x, mode='forward')", "passed"),
    (
        COLUMNS,
        """cols = []
    for j in range(len(x)):
        w = torch.zeros_like(x)
        w[j] = 1.0
        cols.append(jvp(f, x, w))
    return torch.stack(cols, dim=1)""",
        "passed",
    ),
    (COLUMNS, "return torch.stack([jvp(f, x, w) for w in torch.eye(len(x), dtype=x.dtype)]).T", "passed"),
    (
        COLUMNS,
        "return torch.stack([jvp(f, x, w) for w in torch.eye(len(x), dtype=x.dtype)])",
        "columns_stacked_as_rows",
    ),
    (
        COLUMNS,
        """w = torch.zeros_like(x)
    cols = []
    for j in range(len(x)):
        w[j] = 1.0
        cols.append(jvp(f, x, w))
    return torch.stack(cols, dim=1)""",
        "direction_not_cleared",
    ),
    (
        COLUMNS,
        """out = [torch.func.jvp(f, (x,), (w,)) for w in torch.eye(len(x), dtype=x.dtype)]
    return torch.stack([o[0] for o in out], dim=1)""",
        "values_kept",
    ),
    (COLUMNS, "return jvp(f, x, torch.ones_like(x))", "one_pass_along_ones"),
    (
        COLUMNS,
        """J = torch.zeros(len(f(x)), len(x), dtype=x.dtype)
    for j in range(len(x)):
        J[:, j] = jvp(f, x, torch.ones_like(x))
    return J""",
        "ones_in_every_direction",
    ),
    (
        COLUMNS,
        """cols = [jvp(f, x, w) for w in torch.eye(len(x), dtype=x.dtype)]
    return torch.cat(cols).reshape(len(f(x)), len(x))""",
        "reshaped_for_transposed",
    ),
    (
        COLUMNS,
        """h = 1e-5
    return torch.stack([(f(x + h * w) - f(x - h * w)) / (2 * h) for w in torch.eye(len(x), dtype=x.dtype)], 1)""",
        None,
    ),
    (COLUMNS, "return torch.stack([torch.func.jvp(f, x, w)[1] for w in torch.eye(len(x), dtype=x.dtype)], 1)", None),
    (COLUMNS, "return torch.stack([torch.func.jvp(f, (x,), (w,)) for w in torch.eye(len(x))], 1)", None),
    # chain_vjp
    (CHAIN, "return vjp(f, x, vjp(g, f(x), u))", "passed"),
    (CHAIN, "return vjp(lambda p: g(f(p)), x, u)", "passed"),
    (
        CHAIN,
        """x = x.clone().requires_grad_()
    (g(f(x)) * u).sum().backward()
    return x.grad""",
        "passed",
    ),
    (CHAIN, "return u @ jacobian(g, f(x)) @ jacobian(f, x)", "passed"),
    (CHAIN, "return vjp(f, x, vjp(g, x, u))", "outer_at_x"),
    (CHAIN, "return vjp(g, f(x), vjp(f, x, u))", "passes_swapped"),
    (CHAIN, "return jvp(g, f(x), jvp(f, x, u))", "carried_forwards"),
    (CHAIN, "return vjp(g, f(x), u)", "stopped_in_the_middle"),
    (
        CHAIN,
        """x = x.clone().requires_grad_()
    g(f(x)).sum().backward()
    return x.grad""",
        "ones_for_u",
    ),
    (CHAIN, "return jacobian(lambda p: g(f(p)), x)", "whole_matrix"),
    (
        CHAIN,
        """x = x.clone().requires_grad_()
    y = f(x)
    y.retain_grad()
    g(y).backward(u)
    return y.grad""",
        "stopped_in_the_middle",
    ),
    (CHAIN, "return vjp(f, f(x), vjp(g, f(x), u))", "inner_at_y"),
    # log_volume
    (VOLUME, "return log_abs_det(f, x)", "passed"),
    (VOLUME, "return torch.linalg.slogdet(jacobian(f, x))[1]", "passed"),
    (
        VOLUME,
        "return torch.linalg.lu_factor(jacobian(f, x))[0].diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)",
        "passed",
    ),
    (VOLUME, "return torch.log(torch.abs(torch.linalg.det(jacobian(f, x))))", "log_of_abs_det"),
    (VOLUME, "return torch.log(torch.linalg.svdvals(jacobian(f, x)).prod(-1))", "log_of_abs_det"),
    (VOLUME, "return torch.det(jacobian(f, x)).log()", "log_of_det"),
    (VOLUME, "return jacobian(f, x).logdet()", "logdet_without_abs"),
    (VOLUME, "return jacobian(f, x).logdet().nan_to_num()", None),
    (VOLUME, "return torch.linalg.slogdet(jacobian(f, x))[0]", "sign_only"),
    (VOLUME, "s, l = jacobian(f, x).slogdet()\n    return s * l", "sign_times_log"),
    (VOLUME, "return torch.einsum('...ii->...i', jacobian(f, x)).abs().log().sum(-1)", "log_of_the_diagonal"),
    (VOLUME, "return torch.linalg.slogdet(torch.linalg.inv(jacobian(f, x)))[1]", "inverse_map"),
    (VOLUME, "return log_abs_det(f, x).sum()", "volumes_of_the_batch_added"),
    (VOLUME, "return torch.linalg.slogdet(jacobian(f, x))", None),
    (VOLUME, "return torch.linalg.slogdet(torch.func.jacrev(f)(x))[1]", None),  # f takes one point
    # determinant_rate
    (RATE, "return X.det() * (X.inverse() @ dX).diagonal(dim1=-2, dim2=-1).sum(-1)", "passed"),
    (
        RATE,
        """n = X.shape[-1]
    A, B = X.reshape(-1, n, n), dX.reshape(-1, n, n)
    rates = [a.det() * torch.trace(torch.linalg.inv(a) @ b) for a, b in zip(A, B)]
    return torch.stack(rates).reshape(X.shape[:-2])""",
        "passed",
    ),
    (
        RATE,
        """X = X.clone().requires_grad_()
    G, = torch.autograd.grad(torch.linalg.det(X).sum(), X)
    return (G * dX).sum((-1, -2))""",
        "passed",
    ),
    (RATE, "return torch.linalg.det(X) * torch.einsum('...ii', dX)", "inverse_left_out"),
    (RATE, "return (X.inverse() @ dX).diagonal(dim1=-2, dim2=-1).sum(-1)", "rate_of_the_logarithm"),
    (
        RATE,
        "return torch.linalg.det(X) * torch.einsum('...ij,...ij->...', torch.linalg.inv(X), dX)",
        "entries_multiplied",
    ),
    (RATE, "return torch.linalg.det(X + dX) - torch.linalg.det(X)", "change_over_a_whole_step"),
    (RATE, "return torch.linalg.det(X) * torch.linalg.det(torch.linalg.solve(X, dX))", "det_of_the_step"),
    (RATE, "h = 1e-6\n    return (torch.linalg.det(X + h * dX) - torch.linalg.det(X)) / h", None),
    (RATE, "return torch.linalg.det(X) * torch.trace(torch.linalg.inv(X) @ dX)", None),  # torch.trace takes no batch
    (RATE, "return torch.linalg.det(X) * X.inverse() @ dX", "trace_not_taken"),  # and no batch
    # matrix_square_gradient
    (SQUARE, "return torch.matmul(x.t(), weights) + torch.matmul(weights, x.t())", "passed"),
    (
        SQUARE,
        """x = x.clone().requires_grad_()
    y = x @ x
    y.backward(weights)
    return x.grad""",
        "passed",
    ),
    (
        SQUARE,
        """n = len(x)
    J = jacobian(lambda p: (p.view(n, n) @ p.view(n, n)).flatten(), x.flatten())
    return (weights.flatten() @ J).view(n, n)""",
        "passed",
    ),
    (SQUARE, "return 2 * x @ weights", "twice_x_times_weights"),
    (SQUARE, "return 2 * weights * x", "entries_squared"),
    (SQUARE, "return weights @ x + x @ weights", "transposes_forgotten"),
    (SQUARE, "return weights @ x.T", "first_factor_only"),
    (SQUARE, "return x @ weights.T + weights.T @ x", "gradient_transposed"),
    (SQUARE, "return 2 * (x.T @ weights)", "second_term_twice"),
    (
        SQUARE,
        """x = x.clone().requires_grad_()
    (x @ x).sum().backward()
    return x.grad""",
        "weights_ignored",
    ),
    (SQUARE, "return weights @ x.T - x.T @ weights", None),
    # viscous_stress
    (STRESS, "return 2 * viscosity * strain_rate(L)", "passed"),
    (STRESS, "return viscosity * (L + L.swapaxes(-1, -2))", "passed"),
    (STRESS, "return viscosity * strain_rate(L)", "half_the_stress"),
    (STRESS, "return 2 * viscosity * spin(L)", "turning_part"),
    (STRESS, "return viscosity * (L - L.transpose(-2, -1))", "turning_part"),
    (STRESS, "return viscosity * L", "whole_gradient"),
    (STRESS, "return 2 * viscosity * (strain_rate(L) + spin(L))", "twice_the_whole_gradient"),
    (STRESS, "return 2 * viscosity * (L + L.mT)", "half_forgotten"),
    (
        STRESS,
        """D = strain_rate(L)
    tr = D.diagonal(dim1=-2, dim2=-1).sum(-1)
    return 2 * viscosity * (D - tr[..., None, None] / L.shape[-1] * torch.eye(L.shape[-1], dtype=L.dtype))""",
        "trace_taken_out",
    ),
    (STRESS, "return viscosity * (L + L.t())", None),  # .t() is for one matrix
    (STRESS, "return viscosity * spin(L)", None),
    # newton_solve
    (
        NEWTON,
        """x = x0.clone()
    for i in range(steps):
        x = x - jacobian(f, x).inverse() @ f(x)
    return x""",
        "passed",
    ),
    (
        NEWTON,
        """x = x0
    for _ in range(steps):
        dx = torch.linalg.lstsq(jacobian_by_rows(f, x), -f(x)[:, None]).solution[:, 0]
        x = x + dx
    return x""",
        "passed",
    ),
    (
        NEWTON,
        """x = x0
    for _ in range(steps):
        x = x - torch.linalg.solve(jacobian(f, x0), f(x))
    return x""",
        "jacobian_frozen",
    ),
    (
        NEWTON,
        """x = x0
    for _ in range(steps):
        x = x0 - torch.linalg.solve(jacobian(f, x0), f(x0))
    return x""",
        "returned_in_the_loop",
    ),
    (
        NEWTON,
        """x = x0
    for _ in range(steps):
        J = torch.stack([vjp(f, x, e) for e in torch.eye(len(x), dtype=x.dtype)], 1)
        x = x - torch.linalg.solve(J, f(x))
    return x""",
        "newton_transposed",
    ),
    (
        NEWTON,
        """x = x0
    for _ in range(steps):
        x = x + torch.linalg.solve(jacobian(f, x), f(x))
    return x""",
        "newton_uphill",
    ),
    (
        NEWTON,
        """x = x0
    for _ in range(1, steps):
        x = x - torch.linalg.solve(jacobian(f, x), f(x))
    return x""",
        "one_step_too_few",
    ),
    (
        NEWTON,
        """x = x0
    for _ in range(steps):
        x = x - f(x) / torch.diag(jacobian(f, x))
    return x""",
        "divided_by_the_diagonal",
    ),
    (
        NEWTON,
        """x = x0
    for _ in range(steps):
        x = x - vjp(f, x, f(x))
    return x""",
        "gradient_step",
    ),
    (
        NEWTON,
        """x = x0.clone()
    for _ in range(steps):
        x = x.detach().requires_grad_()
        y = f(x)
        y.sum().backward()
        x = x - y / x.grad
    return x""",
        "divided_by_column_sums",
    ),
    (  # the whole matrix, entry by entry: the point becomes a matrix
        NEWTON,
        """x = x0
    for _ in range(steps):
        x = x - f(x) / jacobian(f, x)
    return x""",
        None,
    ),
    (
        NEWTON,
        """for _ in range(steps):
        x0 -= torch.linalg.solve(jacobian(f, x0), f(x0))
    return x0""",
        None,
    ),
]
