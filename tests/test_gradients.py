"""companion.gradients: held against sympy, autograd's own routes, closed forms and torch's own optimiser.

Tests of a row of the ledger of the source article (S4.1–S4.12, S4.21–S4.39) and of a golden number (G5.1–G5.4,
G5.13–G5.18, G5.20–G5.22) carry the row's name.
"""

import math
import warnings

import pytest
import sympy as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import BAD_POINTS, RandomField, assert_close, evaluate, peak_memory, points, seeded
from torch.autograd import gradcheck, gradgradcheck

import companion.gradients
from companion.divergence import curl, divergence, laplacian
from companion.gradients import Description, describe, directional_derivative, gradient, gradient_descent, hessian

F16, F32, F64 = torch.float16, torch.float32, torch.float64
MiB = 2**20
SEEDS = st.integers(0, 2**31 - 1)
SIZES = st.integers(1, 8)
BATCHES = st.sampled_from([(), (3,), (2, 3), (1,), (0,), (2, 0)])
NAMES = ["data", "grad", "requires_grad", "grad_fn", "is_leaf"]


def tensor(values):
    return torch.tensor(values, dtype=F64)


def leaf(*values):
    return torch.tensor(values, dtype=F64, requires_grad=True)


def scalar(seed, d):
    """A random function of d variables: as torch code, as a sympy expression, and its symbols."""
    field = RandomField(seed, d, m=1)
    return lambda p: field(p)[0], field.expressions[0], field.symbols


def random_network(seed, d, width=8, dtype=F64):
    generator = seeded(seed)
    W, w = (torch.randn(shape, generator=generator, dtype=F64).to(dtype) for shape in ((width, d), (width,)))
    return lambda p: torch.tanh(W @ p + 0.3) @ w


def unit_vectors(*shape, seed=0):
    e = torch.randn(shape, generator=seeded(seed), dtype=F64)
    return e / e.norm(dim=-1, keepdim=True)


# --- the golden numbers and the rows of the ledger: the attributes of a tensor ----------------------------------------


def square_sum(p):
    return (p**2).sum()


def f(p):
    """The page's x² + xy + z."""
    return p[0] ** 2 + p[0] * p[1] + p[2]


AT = tensor([-1.0, 2.0, 3.0])
X, Y, Z = sp.symbols("x y z")
F = X**2 + X * Y + Z


def test_S4_1_the_gradient_is_fixed_by_the_point_and_the_operations():
    x = points(6, 3, seed=1)
    slopes = gradient(f, x)
    assert torch.unique(slopes, dim=0).shape == (6, 3)
    assert torch.equal(gradient(f, x), slopes)
    assert_close(gradient(lambda p: p[0] * (p[0] + p[1]) + p[2], x), slopes)
    assert (gradient(lambda p: p[0] ** 2 + p[0] + p[1] + p[2], x) - slopes).abs().max() > 0.1


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, F16, F32, F64, torch.complex64])
def test_S4_2_any_tensor_has_a_grad_and_it_is_empty(dtype):
    x = torch.ones(3).to(dtype)
    assert x.grad is None
    table = describe(x)
    assert table["grad"] is None
    assert torch.equal(table["data"], x)
    assert table["data"].dtype == dtype


def test_S4_3_the_five_attributes_are_those_of_autograd_among_hundreds():
    x = torch.ones(3)
    assert list(describe(x)) == NAMES
    assert set(NAMES) < set(dir(x))
    assert len(dir(x)) > 300


def test_S4_4_and_G5_21_gradients_flow_through_tensors_that_do_not_keep_them(recwarn):
    def run(keep):
        x = leaf(1.0, 2.0)
        h = 3 * x
        if keep:
            h.retain_grad()
        (h**2).sum().backward()
        return describe(x), describe(h)

    (of_x, of_h), (kept_x, kept_h) = run(keep=False), run(keep=True)
    assert_close(of_x["grad"], [18.0, 36.0])
    assert_close(kept_x["grad"], [18.0, 36.0])
    assert of_h["grad"] is None
    assert_close(kept_h["grad"], [6.0, 12.0])
    assert not recwarn
    h = 3 * leaf(1.0, 2.0)
    assert_close(torch.autograd.grad((h**2).sum(), h)[0], [6.0, 12.0])
    with pytest.warns(UserWarning, match="not a leaf Tensor"):
        assert h.grad is None


def test_S4_5_torch_gives_values_and_sympy_gives_formulas():
    x = AT.clone().requires_grad_()
    f(x).backward()
    values = [sp.diff(F, s).subs({X: -1, Y: 2, Z: 3}) for s in (X, Y, Z)]
    assert_close(x.grad, [*map(float, values)])
    assert describe(x.grad)["grad_fn"] is None  # numbers that remember no formula
    assert sp.diff(F, X) == 2 * X + Y
    slope = torch.func.grad(f)  # a function, and what it returns is numbers again
    assert callable(slope)
    assert_close(slope(AT), x.grad)


def test_S4_6_requires_grad_and_is_leaf_are_neither_sufficient_nor_always_necessary():
    """Page: both are needed and then a gradient comes.  A leaf that y ignores gets none; a kept non-leaf gets one."""
    used, ignored = leaf(1.0, 2.0), leaf(1.0, 2.0)
    h = 3 * used
    h.retain_grad()
    square_sum(h).backward()
    table = describe(ignored)
    assert (table["grad"], table["requires_grad"], table["is_leaf"]) == (None, True, True)
    table = describe(h)
    assert not table["is_leaf"]
    assert_close(table["grad"], [6.0, 12.0])
    plain = describe(torch.ones(2))
    assert (plain["requires_grad"], plain["is_leaf"]) == (False, True)
    with torch.no_grad():
        silent = square_sum(used)
    with pytest.raises(RuntimeError, match="does not require grad"):
        silent.backward()


def test_S4_7_the_flag_needs_a_floating_point_tensor_and_has_to_come_last():
    with pytest.raises(RuntimeError, match="Only Tensors of floating point and complex dtype can require gradients"):
        torch.tensor([1, 2], requires_grad=True)
    flag_first = torch.ones(2, requires_grad=True).double()
    flag_last = torch.ones(2).double().requires_grad_()
    for x in (flag_first, flag_last):
        square_sum(x).backward()
    assert describe(flag_first)["is_leaf"] is False
    assert describe(flag_first)["grad"] is None
    assert describe(flag_last)["is_leaf"] is True
    assert_close(describe(flag_last)["grad"], [2.0, 2.0])


def test_S4_8_and_G5_20_the_weights_of_backward_have_the_shape_of_y():
    x, weights = leaf(1.0, 2.0, 3.0), tensor([1.0, 0.0, -2.0])
    (x**2).backward(weights)
    assert_close(x.grad, [2.0, 0.0, -12.0])
    assert_close(gradient(lambda p: weights @ p**2, x.detach()), [2.0, 0.0, -12.0])
    for wrong in (torch.tensor(1.0, dtype=F64), torch.ones(1, dtype=F64), torch.ones(3, 1, dtype=F64)):
        with pytest.raises(RuntimeError, match="Mismatch in shape"):
            (x**2).backward(wrong)
    with pytest.raises(RuntimeError, match="only for scalar outputs"):
        (x**2).backward()


def test_S4_9_backward_is_one_pass_for_the_weighted_sum_and_not_one_a_component():
    passes = []
    x, weights = leaf(1.0, 2.0, 3.0), tensor([1.0, 0.5, -2.0])
    y = x.outer(x) @ x
    y.register_hook(passes.append)
    y.backward(weights)
    assert len(passes) == 1
    rows = torch.autograd.functional.jacobian(lambda p: p.outer(p) @ p, x.detach())
    assert rows.shape == (3, 3)
    assert_close(x.grad, weights @ rows)
    assert_close(gradient(lambda p: weights @ (p.outer(p) @ p), x.detach()), weights @ rows)


def test_S4_10_the_procedure_and_that_grad_accumulates():
    x = AT.clone().requires_grad_()
    for times in (1, 2, 3):
        f(x).backward()
        assert_close(x.grad, times * tensor([0.0, -1.0, 1.0]))
    x.grad = None
    f(x).backward()
    assert_close(x.grad, [0.0, -1.0, 1.0])
    assert_close(gradient(f, x).detach(), [0.0, -1.0, 1.0])  # and again: nothing piles up
    assert_close(gradient(f, x).detach(), [0.0, -1.0, 1.0])


def test_S4_11_an_assigned_step_loses_the_leaf_and_not_the_flag():
    """Page: requires_grad changes too and x can no longer be differentiated.  It can; only .grad stays empty."""
    x = leaf(1.0, 2.0)
    square_sum(x).backward()
    assert_close(x.grad, [2.0, 4.0])
    stepped = x - 0.1 * x.grad
    table = describe(stepped)
    assert (table["requires_grad"], table["is_leaf"], table["grad_fn"]) == (True, False, "SubBackward0")
    square_sum(stepped).backward()
    assert describe(stepped)["grad"] is None
    assert_close(x.grad, [3.6, 7.2])  # 2·(0.8, 1.6) on top of the (2, 4) that nobody wiped
    with torch.no_grad():
        table = describe(x - 0.1 * x.grad)
    assert (table["requires_grad"], table["is_leaf"], table["grad_fn"]) == (False, True, None)


def test_S4_12_and_G5_22_changing_the_data_goes_behind_autograds_back():
    def step(change):
        x = leaf(1.0, 2.0)
        y = (x**2).sum()
        change(x)
        y.backward()
        return x.grad

    def assign(x):
        x.data = 10 * x.data

    def under_no_grad(x):
        with torch.no_grad():
            x.mul_(10)

    assert_close(step(lambda x: None), [2.0, 4.0])
    assert_close(step(lambda x: x.data.mul_(10)), [20.0, 40.0])  # wrong, and nobody says so
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        step(under_no_grad)
    with pytest.raises(RuntimeError, match="a leaf Variable that requires grad is being used in an in-place operation"):
        step(lambda x: x.mul_(10))
    x = leaf(1.0, 2.0)
    assign(x)
    assert (x.requires_grad, x.is_leaf) == (True, True)


def test_S4_12_the_right_loop_walks_the_path_of_gradient_descent():
    x, path = AT.clone().requires_grad_(), [AT]
    for _ in range(4):
        square_sum(x - 1).backward()
        with torch.no_grad():
            x -= 0.1 * x.grad
        x.grad = None
        path.append(x.detach().clone())
    assert_close(gradient_descent(lambda p: square_sum(p - 1), AT, 0.1, 4), torch.stack(path), tol=1e-14)


# --- the golden numbers and the rows of the ledger: what a gradient is ------------------------------------------------

MEAN, COV = tensor([1.0, -1.0]), tensor([[1.0, 1.0], [1.0, 4.0]])


def log_density(p):
    """The bivariate normal's, from its formula in two standard deviations and a correlation."""
    (mx, my), sx, sy, rho = MEAN, 1.0, 2.0, 0.5
    u, w = (p[0] - mx) / sx, (p[1] - my) / sy
    exponent = (u**2 - 2 * rho * u * w + w**2) / (2 * (1 - rho**2))
    return -exponent - math.log(2 * math.pi * sx * sy * math.sqrt(1 - rho**2))


def density(p):
    return log_density(p).exp()


def test_S4_21_and_G5_13_to_G5_16_the_pages_formula_is_a_marginal_and_no_gradient():
    x = tensor([2.0, 1.0])
    assert_close(density(x), 0.0471769488545)
    assert_close(gradient(density, x), [-0.0314512992363, -0.0157256496182])
    assert_close(gradient(log_density, x), [-2 / 3, -1 / 3])
    assert_close(gradient(log_density, x), -torch.linalg.solve(COV, x - MEAN))
    assert_close(gradient(density, x), -density(x) * torch.linalg.solve(COV, x - MEAN))
    assert_close(gradient(density, MEAN), [0.0, 0.0])
    assert_close(hessian(log_density, x), -torch.linalg.inv(COV))
    line = torch.linspace(-20, 20, 4001, dtype=F64)
    along = torch.vmap(density)(torch.stack([line, torch.ones_like(line)], -1))
    page = torch.trapezoid(along, line)  # f(y) = ∫ f(x, y) dx: one number, and a density in y
    assert_close(page, 0.12098536226)
    assert_close(page, torch.distributions.Normal(-1.0, tensor(2.0)).log_prob(x[1]).exp())


def test_S4_22_the_bivariate_normal_is_the_gaussian_in_two_dimensions():
    x = 3 * points(7, 2, seed=2)
    gaussian = torch.distributions.MultivariateNormal(MEAN, COV)
    assert_close(torch.vmap(log_density)(x), gaussian.log_prob(x))
    assert_close(gradient(gaussian.log_prob, x), gradient(log_density, x))


def test_S4_23_S4_24_and_G5_4_the_directional_derivative_is_greatest_along_the_gradient():
    e = unit_vectors(200_000, 3, seed=3)
    slopes = directional_derivative(f, AT.expand_as(e), e)
    g = gradient(f, AT)
    assert_close(g.norm(), 1.41421356237)
    assert_close(directional_derivative(f, AT, g / g.norm()), math.sqrt(2))
    assert slopes.max() <= math.sqrt(2) + 1e-12
    assert slopes.max() > math.sqrt(2) - 1e-3
    assert_close(e[slopes.argmax()], [0.0, -math.sqrt(0.5), math.sqrt(0.5)], tol=0.03)
    x = points(4, 2, 3, seed=4)
    assert gradient(f, x).shape == x.shape  # of a scalar field: a vector field


def test_S4_25_in_one_variable_the_gradient_is_the_derivative():
    x = points(9, 1, seed=5)
    assert_close(gradient(lambda p: p.sin()[0], x), x.cos())
    assert_close(gradient(lambda p: -2.5 * p[0] + 7, x), torch.full((9, 1), -2.5))


def test_S4_26_and_G5_3_the_direction_has_length_one(own_errors):
    """Page: take the dot product of gradient and direction.  With (2, −1, 2) that is 3, three times the slope."""
    long = tensor([2.0, -1.0, 2.0])
    assert_close(directional_derivative(f, AT, long / 3), 1)
    assert_close(gradient(f, AT) @ long, 3)
    h = 1e-5
    assert_close((f(AT + h * long / 3) - f(AT - h * long / 3)) / (2 * h), 1)
    with pytest.raises(ValueError, match=r"^direction: expected length 1, got 3; divide it by its norm\(\)$"):
        directional_derivative(f, AT, long)


def test_S4_27_the_magnitude_is_a_number_and_the_gradient_a_vector():
    assert gradient(f, AT).shape == (3,)
    assert gradient(f, AT).norm().shape == ()
    assert_close(gradient(lambda p: -f(p), AT).norm(), gradient(f, AT).norm())  # the habit loses the way


def test_S4_28_to_S4_32_G5_1_and_G5_2_the_gradient_in_a_computer_algebra_system():
    x, y, z = X, Y, Z
    assert_close(f(AT), 2)
    assert_close(gradient(f, AT), [0.0, -1.0, 1.0])
    row = sp.Matrix([F]).jacobian([x, y, z])  # S4.29: the Jacobian of a scalar is the gradient as a row
    assert row == sp.Matrix([[2 * x + y, x, 1]])
    assert row == sp.Matrix([[sp.diff(F, x), sp.diff(F, y), sp.diff(F, z)]])  # S4.32
    at = {x: -1, y: 2, z: 3}
    assert row.subs(at) == sp.Matrix([[0, -1, 1]])  # S4.30
    assert F.subs(at) == 2
    # S4.28: `xy` is one name, not a product, and the slope comes out as (−2, 0, 1)
    xy = sp.Symbol("xy")
    assert [sp.diff(x**2 + xy + z, s).subs(at) for s in (x, y, z)] == [-2, 0, 1]
    assert_close(gradient(lambda p: p[0] ** 2 + 5.0 + p[2], AT), [-2.0, 0.0, 1.0])
    # S4.31: x = −1 overwrites the symbol, and the next diff by x has nothing to differentiate by
    x = -1
    with pytest.raises(ValueError, match="cannot be a number: -1"):
        sp.diff(F, x)


def test_S4_33_partial_derivatives_alone_do_not_make_a_function_continuous():
    """xy/(x²+y²), 0 at 0: zero on both axes, so that both partials are 0 there, and ½ all along y = x."""

    def g(p):
        r2 = square_sum(p)
        return p[0] * p[1] / (r2 + (r2 == 0))

    h = tensor([1e-1, 1e-4, 1e-8])
    zero = torch.zeros_like(h)
    for axis in (torch.stack([h, zero], -1), torch.stack([zero, h], -1)):
        assert_close(torch.vmap(g)(axis), zero)
    assert_close(torch.vmap(g)(torch.stack([h, h], -1)), zero + 0.5)
    # what would be enough, partials continuous near the point, fails: ∂g/∂y = 1/x on the x axis
    assert_close(gradient(g, torch.stack([h, zero], -1)), torch.stack([zero, 1 / h], -1))


def test_S4_34_the_partial_derivative_is_a_function_again():
    x = points(5, 3, seed=6)
    assert_close(gradient(lambda p: gradient(f, p)[0], x), tensor([2.0, 1.0, 0.0]).expand(5, 3))
    assert_close(gradient(lambda p: gradient(f, p)[1], x), tensor([1.0, 0.0, 0.0]).expand(5, 3))


def test_S4_35_and_G5_18_the_formula_needs_a_differentiable_function():
    """x²y/(x²+y²), 0 at 0: D_e f(0) = cos²θ sin θ, while the partials at 0 are 0 and ∇f · e with them.

    The page's formulas are lost images; they are D_e f = ∇f · e and ∇f = (∂f/∂x, ∂f/∂y).
    """

    def g(p):
        r2 = square_sum(p)
        return p[0] ** 2 * p[1] / (r2 + (r2 == 0))

    origin, angle = torch.zeros(2, dtype=F64), torch.linspace(0, 6, 13, dtype=F64)
    e = torch.stack([angle.cos(), angle.sin()], -1)
    right = angle.cos() ** 2 * angle.sin()
    assert_close(torch.vmap(g)(0.1 * e) / 0.1, right)
    assert_close(torch.vmap(g)(1e-5 * e) / 1e-5, right)
    assert_close(directional_derivative(g, origin.expand_as(e), e), torch.zeros(13))
    diagonal = tensor([math.cos(math.pi / 4), math.sin(math.pi / 4)])
    assert_close(g(1e-3 * diagonal) / 1e-3, 0.353553390593)
    assert_close(directional_derivative(g, origin, diagonal), 0)
    # away from 0 it is differentiable, and the formula holds
    slope = torch.func.grad(lambda t: g(AT[:2] + t * diagonal))(torch.zeros((), dtype=F64))
    assert_close(directional_derivative(g, AT[:2], diagonal), slope)


def surface(p):
    """x²y + 3y²."""
    return p[0] ** 2 * p[1] + 3 * p[1] ** 2


def test_S4_36_a_partial_derivative_is_the_slope_of_the_curve_cut_by_a_plane():
    """Page: the slope of the tangent "of a fixed surface".  It is that of the curve z = f(x, y₀), or z = f(x₀, y)."""
    x0 = tensor([1.0, 2.0])
    assert_close(gradient(surface, x0), [4.0, 13.0])
    t = sp.Symbol("t")
    assert sp.diff(t**2 * 2 + 3 * 2**2, t).subs(t, 1) == 4
    assert sp.diff(1**2 * t + 3 * t**2, t).subs(t, 2) == 13
    angle = torch.linspace(0, 6, 25, dtype=F64)  # the surface itself has a tangent for every direction
    e = torch.stack([angle.cos(), angle.sin()], -1)
    assert_close(directional_derivative(surface, x0.expand_as(e), e), 4 * angle.cos() + 13 * angle.sin())


def test_S4_37_and_S4_38_the_four_second_partials():
    """H[0, 1] is f_xy, first by x and then by y; in ∂²f/∂y∂x the order is read from right to left."""
    g = X**2 * Y + 3 * Y**2
    x = points(6, 2, seed=7)
    want = [sp.diff(sp.diff(g, first), second) for first in (X, Y) for second in (X, Y)]
    assert want == [2 * Y, 2 * X, 2 * X, 6]
    assert_close(hessian(surface, x), evaluate(want, (X, Y), x).reshape(6, 2, 2))
    by_x = gradient(lambda p: gradient(surface, p)[0], x)
    by_y = gradient(lambda p: gradient(surface, p)[1], x)
    assert_close(hessian(surface, x), torch.stack([by_x, by_y], -2))
    assert r"\partial y\partial x" in sp.latex(sp.Derivative(sp.Function("f")(X, Y), X, Y))


def test_S4_39_and_G5_17_mixed_partials_that_differ():
    """xy(x²−y²)/(x²+y²), 0 at 0: f_xy(0) = −1 and f_yx(0) = 1, because they jump there."""

    def g(p):
        r2 = square_sum(p)
        return p[0] * p[1] * (p[0] ** 2 - p[1] ** 2) / (r2 + (r2 == 0))

    h = tensor([[1e-1], [1e-5]])
    by_x = gradient(g, h * tensor([0.0, 1.0]))[:, 0]  # f_x on the y axis, 0 at 0
    by_y = gradient(g, h * tensor([1.0, 0.0]))[:, 1]  # f_y on the x axis, 0 at 0
    assert_close(by_x / h[:, 0], [-1.0, -1.0])
    assert_close(by_y / h[:, 0], [1.0, 1.0])
    exact = X * Y * (X**2 - Y**2) / (X**2 + Y**2)
    assert sp.limit(sp.diff(exact, X).subs(X, 0) / Y, Y, 0) == -1
    assert sp.limit(sp.diff(exact, Y).subs(Y, 0) / X, X, 0) == 1
    # the mixed partial jumps: it is 1 all along the x axis and −1 along the y axis
    assert_close(hessian(g, h * tensor([1.0, 0.0]))[:, 0, 1], [1.0, 1.0])
    assert_close(hessian(g, h * tensor([0.0, 1.0]))[:, 0, 1], [-1.0, -1.0])
    # where it is continuous, the order does not matter
    H = hessian(g, points(20, 2, seed=8))
    assert_close(H, H.mT)
    assert H[:, 0, 1].abs().max() > 0.1


# --- against sympy, on fresh functions ----------------------------------------------------------------------------


@given(SEEDS, SIZES, BATCHES)
def test_gradient_is_sympys(seed, d, batch):
    (fn, expression, symbols), x = scalar(seed, d), points(*batch, d, seed=seed)
    assert_close(gradient(fn, x), evaluate([expression.diff(s) for s in symbols], symbols, x))


@given(SEEDS, SIZES, BATCHES, st.booleans())
def test_directional_derivative_is_sympys_along_a_line(seed, d, batch, one_for_all):
    """d/dt f(x + t e) at t = 0, with a direction for each point or one for all."""
    (fn, expression, symbols), x = scalar(seed, d), points(*batch, d, seed=seed)
    e = unit_vectors(d, seed=seed) if one_for_all else unit_vectors(*batch, d, seed=seed)
    t, by = sp.Symbol("t"), sp.symbols(f"e1:{d + 1}")
    on_line = expression.subs(dict(zip(symbols, (s + t * k for s, k in zip(symbols, by)))), simultaneous=True)
    both = torch.cat([x, e.expand_as(x)], -1)
    want = evaluate([on_line.diff(t).subs(t, 0)], (*symbols, *by), both)[..., 0]
    assert_close(directional_derivative(fn, x, e), want)


@settings(max_examples=15)
@given(SEEDS, SIZES, BATCHES)
def test_hessian_is_sympys(seed, d, batch):
    (fn, expression, symbols), x = scalar(seed, d), points(*batch, d, seed=seed)
    want = evaluate([*sp.hessian(expression, symbols)], symbols, x)
    assert_close(hessian(fn, x), want.reshape(*batch, d, d))


# --- against torch's own routes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [(), (5,), (2, 3)])
@pytest.mark.parametrize("d", [1, 2, 3, 7, 20])
def test_derivatives_of_a_network_are_torchs(d, batch):
    net, x = random_network(d, d), points(*batch, d, seed=d)
    some, e = x.reshape(-1, d), unit_vectors(*batch, d, seed=d)
    leaves = x.clone().requires_grad_()
    torch.vmap(net)(leaves.reshape(-1, d)).sum().backward()
    assert_close(gradient(net, x), leaves.grad, tol=1e-13)
    forward = torch.vmap(lambda p, v: torch.func.jvp(net, (p,), (v,))[1])(some, e.reshape(-1, d))
    assert_close(directional_derivative(net, x, e), forward.reshape(batch), tol=1e-12)
    want = torch.stack([torch.autograd.functional.hessian(net, p) for p in some])
    assert_close(hessian(net, x), want.reshape(*batch, d, d), tol=1e-12)
    assert_close(hessian(net, x), torch.vmap(torch.func.hessian(net))(some).reshape(*batch, d, d), tol=1e-12)


def test_a_plain_module_will_do():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.SiLU(), torch.nn.Linear(8, 1), torch.nn.Flatten(0))
    net, x = net.double(), points(4, 3)

    def fn(p):
        return net(p)[0]

    want = torch.stack([torch.func.grad(fn)(p) for p in x])
    assert_close(gradient(fn, x).detach(), want.detach(), tol=1e-13)
    assert_close(hessian(fn, x).detach(), torch.stack([torch.func.hessian(fn)(p) for p in x]).detach(), tol=1e-12)
    path = gradient_descent(fn, x, 0.5, 1)
    assert_close(path[1].detach(), (x - 0.5 * want).detach(), tol=1e-13)

    class Energy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.A = torch.nn.Parameter(torch.diag(tensor([1.0, 2.0, 3.0])))

        def forward(self, p):
            return p @ self.A @ p / 2

    energy = Energy()
    assert_close(gradient(energy, x).detach(), x * tensor([1.0, 2.0, 3.0]))
    assert_close(hessian(energy, x).detach(), energy.A.detach().expand(4, 3, 3))
    hessian(energy, x).sum().backward()
    assert_close(energy.A.grad, torch.full((3, 3), 4.0))


def unit(x):
    """The same uneven direction for all points."""
    return (tensor([2.0, -1.0, 2.0]) / 3).to(x)


FUNCTIONS = {
    "gradient": gradient,
    "one direction": lambda f, x: directional_derivative(f, x, unit(x)),
    "directions": lambda f, x: directional_derivative(f, x, unit(x).expand_as(x)),
    "hessian": hessian,
    "descent": lambda f, x: gradient_descent(f, x, 0.25, 3, 0.5),
}


def result_shape(name, batch):
    shapes = {"gradient": (*batch, 3), "hessian": (*batch, 3, 3), "descent": (4, *batch, 3)}
    return shapes.get(name, batch)


@pytest.mark.parametrize("batch", [(), (4,), (3,), (2, 3), (1, 1), (0,), (2, 0)])
@pytest.mark.parametrize("dtype", [F16, torch.bfloat16, F32, F64])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_batch_axes_and_dtype_follow_the_points(name, dtype, batch):
    got = FUNCTIONS[name](random_network(3, 3, dtype=dtype), points(*batch, 3, dtype=dtype))
    assert got.shape == result_shape(name, batch)
    assert got.dtype == dtype
    assert got.isfinite().all()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_empty_batch_of_a_function_that_cannot_be_mapped_over_nothing(name):
    got = FUNCTIONS[name](lambda p: (p.sin() * p.sum()).sum(), points(0, 3))
    assert got.shape == result_shape(name, (0,))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_batch_is_its_points_one_by_one(name):
    net, x = random_network(4, 3), points(2, 3, 3, seed=4)
    axis = 1 if name == "descent" else 0
    alone = torch.stack([FUNCTIONS[name](net, p) for p in x.reshape(-1, 3)], axis)
    assert_close(FUNCTIONS[name](net, x), alone.reshape(result_shape(name, (2, 3))), tol=1e-13)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_batch_with_strides_of_its_own(name):
    net, x = random_network(4, 3), points(3, 5, 2, seed=4).permute(2, 1, 0)
    assert_close(FUNCTIONS[name](net, x), FUNCTIONS[name](net, x.contiguous()), tol=1e-13)


def test_as_many_points_as_dimensions_take_one_direction_or_one_each():
    net, x, e = random_network(5, 3), points(3, 3, seed=5), unit_vectors(3, 3, seed=5)
    each = [directional_derivative(net, p, v) for p, v in zip(x, e)]
    assert_close(directional_derivative(net, x, e), torch.stack(each), tol=1e-13)
    first = [directional_derivative(net, p, e[0]) for p in x]
    assert_close(directional_derivative(net, x, e[0]), torch.stack(first), tol=1e-13)


@pytest.mark.parametrize(("dtype", "tol"), [(F32, 2e-5), (F16, 2e-2)])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_low_precision_is_as_good_as_it_can_be(name, dtype, tol):
    x = points(50, 3, seed=5)
    low = FUNCTIONS[name](random_network(5, 3, dtype=dtype), x.to(dtype))
    assert_close(low.double(), FUNCTIONS[name](random_network(5, 3), x), tol=tol)


@pytest.mark.parametrize("name", ["gradient", "one direction", "directions", "hessian"])
@pytest.mark.parametrize(
    "constant",
    [lambda p: torch.ones((), dtype=F64), lambda p: (p**2).sum().detach(), lambda p: p.new_ones(())],
    ids=["a constant", "cut off", "like the point"],
)
def test_the_derivatives_of_a_constant_are_zero(name, constant):
    assert torch.equal(FUNCTIONS[name](constant, points(4, 3)), torch.zeros(result_shape(name, (4,)), dtype=F64))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_one_point_bears_functions_that_branch(name):
    def branching(p):
        return (p**3).sum() if p[0] > 0 else p.sin().sum()

    for x, branch in ((AT, lambda p: p.sin().sum()), (-AT, lambda p: (p**3).sum())):
        assert_close(FUNCTIONS[name](branching, 0.1 * x), FUNCTIONS[name](branch, 0.1 * x), tol=1e-14)


def test_linear_and_quadratic_functions():
    x, a, A = points(2, 3, seed=9), tensor([2.0, -1.0, 0.5]), points(3, 3, seed=10)
    assert_close(gradient(lambda p: a @ p, x), a.expand(2, 3))
    assert torch.equal(hessian(lambda p: a @ p, x), torch.zeros(2, 3, 3, dtype=F64))
    assert_close(gradient(lambda p: p @ A @ p, x), x @ (A + A.T).T)
    assert_close(hessian(lambda p: p @ A @ p, x), (A + A.T).expand(2, 3, 3))


@pytest.mark.parametrize("name", ["gradient", "hessian", "descent"])
def test_the_result_stays_on_the_device_of_the_points(name):
    """Of a direction the length has to be known, which a tensor without values cannot tell."""
    got = FUNCTIONS[name](lambda p: (p.sin() * p.sum()).sum(), torch.empty(2, 3, device="meta"))
    assert got.device.type == "meta"
    assert got.shape == result_shape(name, (2,))


# --- what holds for every function ----------------------------------------------------------------------------------


@given(SEEDS, st.integers(2, 6))
def test_gradient_and_hessian_turn_with_the_frame_and_slopes_stay(seed, d):
    (fn, _, _), x = scalar(seed, d), points(4, d, seed=seed)
    R, _ = torch.linalg.qr(torch.randn(d, d, generator=seeded(seed), dtype=F64))

    def turned(p):
        return fn(R.T @ p)

    e = unit_vectors(d, seed=seed)
    assert_close(gradient(turned, x @ R.T), gradient(fn, x) @ R.T, tol=1e-9)
    assert_close(hessian(turned, x @ R.T), R @ hessian(fn, x) @ R.T, tol=1e-9)
    assert_close(directional_derivative(turned, x @ R.T, R @ e), directional_derivative(fn, x, e), tol=1e-9)


@given(SEEDS, st.integers(1, 6))
def test_linearity_the_product_rule_and_the_chain_rule(seed, d):
    (u, _, _), (w, _, _), x = scalar(seed, d), scalar(seed + 1, d), points(4, d, seed=seed)
    U, W = torch.vmap(u)(x)[:, None], torch.vmap(w)(x)[:, None]
    Du, Dw = gradient(u, x), gradient(w, x)
    assert_close(gradient(lambda p: 2 * u(p) - 3 * w(p), x), 2 * Du - 3 * Dw)
    assert_close(gradient(lambda p: u(p) * w(p), x), U * Dw + W * Du)
    assert_close(gradient(lambda p: u(p).sin(), x), U.cos() * Du)


@given(SEEDS)
def test_what_the_chapter_before_says_of_gradients(seed):
    """∇·∇f is the trace of the Hessian, ∇ × ∇f = 0, and the Jacobian of ∇f is the Hessian."""
    (fn, _, _), x = scalar(seed, 3), points(4, 3, seed=seed)
    H = hessian(fn, x)
    assert_close(H, H.mT)
    trace = H.diagonal(dim1=-2, dim2=-1).sum(-1)
    assert_close(divergence(lambda p: gradient(fn, p), x), trace)
    assert_close(laplacian(fn, x), trace)
    assert_close(curl(lambda p: gradient(fn, p), x), torch.zeros(4, 3))


@given(SEEDS, st.integers(1, 6))
def test_taylors_formula(seed, d):
    """f(x + h) = f + ∇f·h + ½ hᵀHh, up to the size of h³."""
    (fn, _, _), x, e = scalar(seed, d), points(3, d, seed=seed), unit_vectors(3, d, seed=seed)
    t = 1e-3
    value = torch.vmap(fn)
    line = t * directional_derivative(fn, x, e)
    parabola = t**2 / 2 * torch.einsum("ni,nij,nj->n", e, hessian(fn, x), e)
    assert_close(value(x + t * e), value(x) + line + parabola, tol=1e-5)


@given(SEEDS, st.integers(1, 8))
def test_no_direction_is_steeper_than_the_gradient(seed, d):
    (fn, _, _), x, e = scalar(seed, d), points(20, d, seed=seed), unit_vectors(20, d, seed=seed)
    steepest = gradient(fn, x).norm(dim=-1)
    slope = directional_derivative(fn, x, e)
    assert (slope.abs() <= steepest * (1 + 1e-12)).all()
    assert_close(directional_derivative(fn, x, -e), -slope)


def test_row_i_of_the_hessian_is_the_gradient_of_the_ith_partial():
    """Told apart by a function whose "gradient" is no gradient: (p₁², p₀)."""

    class NoGradient(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(p):
            return p.sum()

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx, weight):
            (p,) = ctx.saved_tensors
            return weight * torch.stack([p[1] ** 2, p[0]])

    assert_close(hessian(NoGradient.apply, tensor([[5.0, 7.0]])), [[[0.0, 14.0], [1.0, 0.0]]])


# --- differentiable again, and at home under torch.func -----------------------------------------------------------


@pytest.mark.parametrize("name", FUNCTIONS)
def test_first_and_second_derivatives_are_right(name):
    """With respect to the points and to a parameter of the function, against finite differences."""
    W, x = torch.randn(3, 3, generator=seeded(1), dtype=F64), points(2, 3, seed=6)

    def fn(x, W):
        return FUNCTIONS[name](lambda p: torch.tanh(W @ p) @ p.sin(), x)

    inputs = x.requires_grad_(), W.requires_grad_()
    assert gradcheck(fn, inputs)
    assert gradgradcheck(fn, inputs)


def test_a_slope_can_be_differentiated_by_its_direction():
    net, x, e = random_network(7, 3), points(2, 3, seed=7), unit_vectors(2, 3, seed=7)
    by_e = torch.func.grad(lambda e: directional_derivative(net, x, e).sum())(e)
    assert_close(by_e, gradient(net, x))


def test_a_loss_on_a_gradient_trains_a_network():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)).double()
    x = points(32, 2, seed=7)
    target = torch.stack([2 * torch.sin(2 * x[:, 0]), x[:, 1]], -1)
    optimizer, losses = torch.optim.Adam(net.parameters(), lr=0.05), []
    for _ in range(80):
        loss = (gradient(lambda p: net(p)[0], x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0.5
    assert losses[-1] < 0.02


@pytest.mark.parametrize("name", ["gradient", "one direction", "hessian", "descent"])
def test_inside_vmap_grad_and_jacfwd(name):
    (fn, _, _), x = scalar(11, 3), points(5, 3, seed=8)
    axis = 1 if name == "descent" else 0
    assert_close(torch.vmap(lambda p: FUNCTIONS[name](fn, p), out_dims=axis)(x), FUNCTIONS[name](fn, x))
    forward = torch.func.jacfwd(lambda x: FUNCTIONS[name](fn, x).sum())(x)
    assert_close(torch.func.grad(lambda x: FUNCTIONS[name](fn, x).sum())(x), forward)
    assert forward.abs().max() > 0.1


@pytest.mark.parametrize("name", FUNCTIONS)
def test_points_parameters_and_their_grad_are_left_alone(name):
    W, x = torch.randn(3, 3, generator=seeded(1)).requires_grad_(), points(2, 3, dtype=F32).requires_grad_()
    before = x.detach().clone()

    def fn(p):
        return torch.tanh(W @ p) @ p

    x.grad, W.grad = torch.full_like(x, 7.0), torch.full_like(W, 7.0)
    got = FUNCTIONS[name](fn, x)
    assert got.requires_grad
    assert (x.grad == 7).all()
    assert (W.grad == 7).all()
    assert torch.equal(x.detach(), before)
    with torch.no_grad():
        silent = FUNCTIONS[name](fn, x)
        assert not torch.is_grad_enabled()
    assert not silent.requires_grad
    assert torch.equal(silent, got.detach())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_plain_points_stay_plain(name):
    x = points(2, 3)
    got = FUNCTIONS[name](random_network(1, 3), x)
    assert not x.requires_grad
    assert not got.requires_grad


# --- passes and memory --------------------------------------------------------------------------------------------


def counting(fn, calls):
    def counted(p):
        calls.append(p)
        return fn(p)

    return counted


@pytest.mark.parametrize(("name", "want"), [("gradient", 1), ("one direction", 1), ("hessian", 1), ("descent", 3)])
def test_one_pass_serves_all_points_and_all_partials(name, want):
    calls = []
    FUNCTIONS[name](counting(random_network(1, 3), calls), points(10, 3))
    assert len(calls) == want


@pytest.mark.parametrize(
    ("block", "dtype", "passes"),
    [
        (4 * 9 * 8, F64, 3),
        (4 * 9 * 8, F32, 2),
        (4 * 9 * 8 - 1, F64, 4),
        (9 * 8, F64, 10),
        (1, F64, 10),
        (2**40, F64, 1),
    ],
)
def test_a_block_holds_as_many_hessians_as_fit(block, dtype, passes, monkeypatch):
    """10 points in 3 dimensions: 9 numbers of 8 or 4 bytes a point."""
    monkeypatch.setattr(companion.gradients, "BLOCK", block)
    calls = []
    hessian(counting(random_network(1, 3, dtype=dtype), calls), points(10, 3, dtype=dtype))
    assert len(calls) == passes


@pytest.mark.parametrize("block", [1, 1000, 2**40])
def test_the_size_of_a_block_does_not_change_the_result(block, monkeypatch):
    net, x = random_network(9, 7), points(11, 7, seed=9)
    want = hessian(net, x)
    monkeypatch.setattr(companion.gradients, "BLOCK", block)
    assert_close(hessian(net, x), want, tol=1e-13)


def test_memory_of_a_big_batch_is_bounded(monkeypatch):
    """1024 points in 32 dimensions and a layer of 256: 8 MiB of Hessians, 64 MiB a layer's worth of derivatives."""
    net, x = random_network(1, 32, width=256), points(1024, 32)
    assert peak_memory(lambda: hessian(net, x)) < 40 * MiB
    monkeypatch.setattr(companion.gradients, "BLOCK", 2**40)
    assert peak_memory(lambda: hessian(net, x)) > 100 * MiB  # all at once: the measurement would have seen it


# --- describe -----------------------------------------------------------------------------------------------------


def seen(tensor):
    """The four entries of the table that are not `data`, grad as a list."""
    table = describe(tensor)
    grad = table["grad"]
    return None if grad is None else grad.tolist(), table["requires_grad"], table["grad_fn"], table["is_leaf"]


def test_the_life_of_a_tensor_in_tables():
    x = leaf(1.0, 2.0)
    h = 3 * x
    y = square_sum(h)
    assert seen(torch.ones(2)) == (None, False, None, True)
    assert seen(x) == (None, True, None, True)
    assert seen(h) == (None, True, "MulBackward0", False)
    assert seen(y) == (None, True, "SumBackward0", False)
    assert seen(x.detach()) == (None, False, None, True)
    assert seen(h.detach()) == (None, False, None, True)
    with torch.no_grad():
        assert seen(3 * x) == (None, False, None, True)
        assert seen(x) == (None, True, None, True)
    y.backward()
    assert seen(x) == ([18.0, 36.0], True, None, True)
    assert seen(h) == (None, True, "MulBackward0", False)
    assert seen(x.detach()) == (None, False, None, True)
    x.grad = None
    assert seen(x) == (None, True, None, True)


@pytest.mark.parametrize("x", [torch.tensor([1, 2]), torch.tensor([True, False]), torch.tensor(3), torch.ones(0, 2)])
def test_tensors_that_can_have_no_gradient(x):
    table = describe(x)
    assert torch.equal(table["data"], x)
    assert table["data"].dtype == x.dtype
    assert seen(x) == (None, False, None, True)


def test_a_kept_gradient_and_a_parameters():
    x = leaf(1.0, 2.0)
    h = 3 * x
    h.retain_grad()
    square_sum(h).backward()
    assert seen(h) == ([6.0, 12.0], True, "MulBackward0", False)
    parameter = torch.nn.Parameter(tensor([5.0]))
    square_sum(parameter).backward()
    assert seen(parameter) == ([10.0], True, None, True)
    assert type(describe(parameter)["data"]) is torch.Tensor


def test_the_table_stays_true_to_its_moment():
    x = leaf(1.0, 2.0)
    square_sum(x).backward()
    table = describe(x)
    with torch.no_grad():
        x.mul_(10)
        x.grad.mul_(10)
    x.requires_grad_(False)
    assert_close(table["data"], [1.0, 2.0])
    assert_close(table["grad"], [2.0, 4.0])
    assert table["requires_grad"] is True
    assert_close(describe(x)["data"], [10.0, 20.0])


def test_changing_the_table_does_not_change_the_tensor():
    x = leaf(1.0, 2.0)
    square_sum(x).backward()
    table = describe(x)
    table["data"].zero_()
    table["grad"].zero_()
    assert_close(x.detach(), [1.0, 2.0])
    assert_close(x.grad, [2.0, 4.0])


def test_the_copies_hold_no_graph():
    x = leaf(1.0, 2.0)
    x.grad = 3 * x**2  # what backward(create_graph=True) leaves after Σx³
    assert describe(x.grad)["grad_fn"] == "MulBackward0"
    table = describe(x)
    assert not table["data"].requires_grad
    assert not table["grad"].requires_grad
    assert_close(table["grad"], [3.0, 12.0])


def test_describe_looks_and_does_not_touch():
    x = leaf(1.0, 2.0)
    h = 3 * x
    before = h._version, x._version
    describe(h), describe(x)
    assert (h._version, x._version) == before
    assert not h.retains_grad
    square_sum(h).backward()
    assert_close(x.grad, [18.0, 36.0])


def test_no_warning_leaks_and_none_is_swallowed_for_good():
    h = 3 * leaf(1.0, 2.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert describe(h)["grad"] is None
        with pytest.raises(UserWarning, match="not a leaf Tensor"):
            _ = h.grad  # torch still warns whoever asks after us


def test_how_a_table_shows():
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    (3 * x).sum().backward()
    assert repr(describe(x)) == (
        "data           tensor([[1., 2.], [3., 4.]])\n"
        "grad           tensor([[3., 3.], [3., 3.]])\n"
        "requires_grad  True\n"
        "grad_fn        None\n"
        "is_leaf        True"
    )
    assert describe(x)._repr_html_() == (
        '<table class="description">'
        "<tr><th>data</th><td>tensor([[1., 2.], [3., 4.]])</td></tr>"
        "<tr><th>grad</th><td>tensor([[3., 3.], [3., 3.]])</td></tr>"
        "<tr><th>requires_grad</th><td>True</td></tr>"
        "<tr><th>grad_fn</th><td>None</td></tr>"
        "<tr><th>is_leaf</th><td>True</td></tr></table>"
    )


def test_html_in_a_value_is_escaped():
    assert "<td>a &lt;b&gt; &amp; c</td>" in Description(grad_fn="a <b> & c")._repr_html_()
    meta = describe(torch.empty(2, device="meta"))._repr_html_()
    assert "device=&#x27;meta&#x27;" in meta


@pytest.mark.parametrize(
    ("thing", "name"), [([1.0], "list"), (1.0, "float"), (None, "NoneType"), (torch.ones, "builtin_function_or_method")]
)
def test_only_tensors_can_be_described(thing, name, own_errors):
    with pytest.raises(TypeError, match=rf"^tensor: expected a torch\.Tensor, got {name}$"):
        describe(thing)


# --- gradient descent ---------------------------------------------------------------------------------------------


@given(SEEDS, st.integers(1, 5), st.sampled_from([(), (3,), (2, 2), (0,)]), st.floats(0.01, 0.3), st.integers(0, 6))
def test_on_a_quadratic_the_path_is_a_power(seed, d, batch, lr, steps):
    """f = ½ xᵀAx: x_t = (I − lr A)ᵗ x₀."""
    A, x0 = points(d, d, seed=seed), points(*batch, d, seed=seed + 1)
    A = (A + A.T) / 2
    one_step = torch.eye(d, dtype=F64) - lr * A
    want = [x0 @ torch.linalg.matrix_power(one_step, t).T for t in range(steps + 1)]
    assert_close(gradient_descent(lambda p: p @ A @ p / 2, x0, lr, steps), torch.stack(want))


@given(SEEDS, st.integers(1, 5), st.floats(0.01, 0.3), st.floats(0.0, 0.99), st.integers(0, 6))
def test_with_momentum_it_is_the_power_of_a_block_matrix(seed, d, lr, momentum, steps):
    """f = ½ xᵀAx − b·x: (x, G, 1) → [[I − lr A, −lr β I, lr b], [A, β I, −b], [0, 0, 1]] (x, G, 1)."""
    A, b, x0 = points(d, d, seed=seed), points(d, seed=seed + 1), points(4, d, seed=seed + 2)
    A, one = (A + A.T) / 2, torch.eye(d, dtype=F64)
    block = torch.zeros(2 * d + 1, 2 * d + 1, dtype=F64)
    block[:d] = torch.cat([one - lr * A, -lr * momentum * one, lr * b[:, None]], 1)
    block[d:-1] = torch.cat([A, momentum * one, -b[:, None]], 1)
    block[-1, -1] = 1
    start = torch.cat([x0, torch.zeros(4, d), torch.ones(4, 1)], 1)
    want = [(start @ torch.linalg.matrix_power(block, t).T)[:, :d] for t in range(steps + 1)]
    got = gradient_descent(lambda p: p @ A @ p / 2 - b @ p, x0, lr, steps, momentum)
    assert_close(got, torch.stack(want))


@given(SEEDS, st.integers(1, 6), st.sampled_from([0.0, 0.5, 0.9]))
def test_it_is_torchs_sgd(seed, d, momentum):
    (fn, _, _), x0 = scalar(seed, d), points(d, seed=seed)
    x, path = x0.clone().requires_grad_(), [x0]
    optimizer = torch.optim.SGD([x], lr=1e-3, momentum=momentum)
    for _ in range(6):
        optimizer.zero_grad()
        fn(x).backward()
        optimizer.step()
        path.append(x.detach().clone())
    assert_close(gradient_descent(fn, x0, 1e-3, 6, momentum), torch.stack(path), tol=1e-12)


def test_by_hand():
    """½x² from 8 with lr = ½ halves x; with momentum ½, G = 8, 8, 4 by G ← G/2 + x."""
    x0 = tensor([8.0])
    assert gradient_descent(lambda p: square_sum(p) / 2, x0, 0.5, 4).flatten().tolist() == [8, 4, 2, 1, 0.5]
    walked = gradient_descent(lambda p: square_sum(p) / 2, x0, 0.5, 3, momentum=0.5)
    assert walked.flatten().tolist() == [8, 4, 0, -2]


def test_momentum_is_off_by_default_and_can_be_named():
    net, x0 = random_network(2, 3), points(3, seed=2)
    default = gradient_descent(net, x0, 0.1, 5)
    assert torch.equal(default, gradient_descent(net, x0, lr=0.1, steps=5, momentum=0.0))
    assert (default - gradient_descent(net, x0, 0.1, 5, 0.1)).abs().max() > 1e-4


@pytest.mark.parametrize("batch", [(), (3,), (0,)])
def test_no_steps_are_a_path_of_one_point(batch):
    x0 = points(*batch, 2, seed=3)
    path = gradient_descent(square_sum, x0, 0.1, 0, 0.9)
    assert torch.equal(path, x0[None])
    if x0.numel():
        path.zero_()
        assert x0.abs().min() > 0  # a copy


def test_the_bound_on_the_learning_rate():
    """On ½λx² the path shrinks for lr < 2/λ, swings for ever at 2/λ and grows beyond; here λ = 4."""
    paths = [gradient_descent(lambda p: 2 * square_sum(p), tensor([1.0]), lr, 50) for lr in (0.49, 0.5, 0.51)]
    assert_close(torch.stack(paths)[:, -1, 0], [0.96**50, 1.0, 1.04**50])


@pytest.mark.parametrize("momentum", [0.5, 0.9])
def test_momentum_moves_the_bound_to_2_plus_2_momentum(momentum):
    """On ½λx² with λ = 1: the path ends at 0 below lr = 2(1 + momentum), and nowhere above."""
    bound, start = 2 * (1 + momentum), tensor([1.0])
    below, above = (gradient_descent(lambda p: square_sum(p) / 2, start, k * bound, 150, momentum) for k in (0.9, 1.1))
    assert below[-1].abs().max() < 0.01
    assert above[-1].abs().max() > 1000


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_path_that_grows_beyond_all_numbers_is_not_an_error(momentum):
    x0 = torch.tensor([[1.0], [0.0]])
    path = gradient_descent(lambda p: square_sum(p) / 2, x0, 5.0, 200, momentum)
    assert path.shape == (201, 2, 1)
    assert not path[-1, 0].isfinite().any()
    assert (path[:, 1] == 0).all()  # the point beside it does not notice
    if momentum == 0:
        assert path[:4, 0].flatten().tolist() == [1, -4, 16, -64]


def test_a_path_through_nothing_goes_on():
    path = gradient_descent(lambda p: p.log().sum(), tensor([[1.0], [-1.0]]), 0.5, 2)
    assert_close(path[:, 0], [[1.0], [0.5], [-0.5]])
    start = tensor([[math.nan], [2.0]])
    path = gradient_descent(lambda p: square_sum(p) / 2, start, 0.5, 2)
    assert path[:, 0].isnan().all()
    assert_close(path[:, 1], [[2.0], [1.0], [0.5]])


@given(SEEDS, st.integers(1, 4), st.integers(0, 6))
def test_the_end_of_a_walk_differentiated_by_its_start(seed, d, steps):
    """f = ½ xᵀAx: ∂x_T/∂x₀ = (I − lr A)ᵀ, T steps."""
    A, x0 = points(d, d, seed=seed), points(d, seed=seed + 1)
    A = (A + A.T) / 2
    got = torch.func.jacrev(lambda x: gradient_descent(lambda p: p @ A @ p / 2, x, 0.1, steps)[-1])(x0)
    assert_close(got, torch.linalg.matrix_power(torch.eye(d, dtype=F64) - 0.1 * A, steps))


def test_a_walk_can_be_differentiated_by_what_it_walks_on():
    """½λx²: x_T = (1 − lr λ)ᵀ x₀, and its derivative by λ is −lr T (1 − lr λ)^(T−1) x₀."""
    stretch = leaf(2.0)
    end = gradient_descent(lambda p: (stretch * p**2).sum() / 2, tensor([3.0]), 0.1, 5)[-1]
    end.backward()
    assert_close(stretch.grad, [-0.1 * 5 * 0.8**4 * 3])


# --- what is refused, and with which words --------------------------------------------------------------------------

TAKES_POINTS = {
    "gradient: x": lambda x: gradient(square_sum, x),
    "directional_derivative: x": lambda x: directional_derivative(square_sum, x, torch.tensor([1.0, 0.0])),
    "directional_derivative: direction": lambda x: directional_derivative(square_sum, torch.ones(2), x),
    "hessian: x": lambda x: hessian(square_sum, x),
    "gradient_descent: x0": lambda x: gradient_descent(square_sum, x, 0.1, 2),
    "gradient_descent without steps: x0": lambda x: gradient_descent(square_sum, x, 0.1, 0),
}


@pytest.mark.parametrize("mistake", BAD_POINTS)
@pytest.mark.parametrize("argument", TAKES_POINTS)
def test_bad_points(argument, mistake, own_errors):
    x, error, words = BAD_POINTS[mistake]
    with pytest.raises(error, match=f"^{argument.split(': ')[1]}: ") as caught:
        TAKES_POINTS[argument](x)
    assert all(word in str(caught.value) for word in words), str(caught.value)


BAD_FUNCTIONS = {
    "a vector": (lambda p: p, ValueError, ["expected shape ()", "ONE point of shape (3,)", "got (3,)"]),
    "one entry": (lambda p: p.sum(0, keepdim=True), ValueError, ["expected shape ()", "got (1,)", "batch"]),
    "a matrix": (lambda p: torch.outer(p, p), ValueError, ["expected shape ()", "got (3, 3)"]),
    "a number": (lambda p: 3.0, TypeError, ["expected a torch.Tensor", "got float"]),
    "a tuple": (lambda p: (p.sum(),), TypeError, ["expected a torch.Tensor", "got tuple"]),
    "nothing": (lambda p: None, TypeError, ["expected a torch.Tensor", "got NoneType"]),
    "of lower precision": (lambda p: p.sum().float(), TypeError, ["expected torch.float64", "got torch.float32"]),
    "a whole number": (lambda p: p.sum().long(), TypeError, ["expected torch.float64", "got torch.int64"]),
    "a complex number": (lambda p: p.sum() + 1j, TypeError, ["expected torch.float64", "got torch.complex128"]),
}


@pytest.mark.parametrize("batch", [(), (3,), (0,)])
@pytest.mark.parametrize("mistake", BAD_FUNCTIONS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_bad_functions(name, mistake, batch, own_errors):
    fn, error, words = BAD_FUNCTIONS[mistake]
    with pytest.raises(error, match=r"^f: ") as caught:
        FUNCTIONS[name](fn, points(*batch, 3))
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    ("batch", "shape"), [((), (2,)), ((), (1, 3)), ((4,), (4,)), ((4,), (1, 3)), ((4,), (4, 1)), ((2, 4), (4, 3))]
)
def test_directions_of_another_shape(batch, shape, own_errors):
    direction = torch.ones(shape, dtype=F64) / math.sqrt(shape[-1])
    with pytest.raises(ValueError, match=r"^direction: expected shape \(3,\), or that of x, ") as caught:
        directional_derivative(f, points(*batch, 3), direction)
    assert str(caught.value).endswith(f"{(*batch, 3)}, got {shape}")


@pytest.mark.parametrize(("x", "direction"), [(F64, F32), (F32, F64), (F32, F16)])
def test_directions_of_another_precision(x, direction, own_errors):
    with pytest.raises(TypeError, match=rf"^direction: expected {x} like x, got {direction}$"):
        directional_derivative(f, points(2, 3, dtype=x), torch.tensor([1.0, 0.0, 0.0], dtype=direction))


@pytest.mark.parametrize("direction", [tensor([0.0, 0.0, 0.0]), tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])])
def test_the_zero_vector_points_nowhere(direction, own_errors):
    words = r"^direction: expected a unit vector, got the zero vector, which points nowhere$"
    with pytest.raises(ValueError, match=words):
        directional_derivative(f, points(2, 3), direction)
    with pytest.raises(ValueError, match=words):  # also beside one that is too long
        directional_derivative(f, points(2, 3), 5 * torch.cat([torch.eye(3, dtype=F64)[:1], 0 * AT[None]]))


@pytest.mark.parametrize(
    ("lengths", "got"),
    [([1.0, 2.0], "2"), ([0.5, 1.0], "0.5"), ([1.5, 3.0], "3"), ([0.25, 1.5], "0.25"), ([1.0, math.inf], "inf")],
)
def test_directions_of_another_length(lengths, got, own_errors):
    """The length that is furthest from 1 is named."""
    direction = tensor(lengths)[:, None] * unit_vectors(2, 3, seed=1)
    direction = direction.where(direction.isfinite(), math.inf)
    with pytest.raises(ValueError, match=rf"^direction: expected length 1, got {got}; divide it by its norm\(\)$"):
        directional_derivative(f, points(2, 3), direction)


def test_a_direction_that_is_no_number(own_errors):
    with pytest.raises(ValueError, match=r"^direction: expected length 1, got nan"):
        directional_derivative(f, points(2, 3), tensor([1.0, math.nan, 0.0]))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("dtype", [F16, F32, F64])
def test_a_length_may_be_off_by_the_root_of_the_precision(dtype, sign, own_errors):
    tol = torch.finfo(dtype).eps ** 0.5
    x, along = points(2, 3, dtype=dtype), torch.tensor([0.0, 1.0, 0.0], dtype=dtype)
    good = directional_derivative(f, x, (1 + sign * 0.9 * tol) * along)
    assert_close(good, x[:, 0], tol=2 * tol)
    with pytest.raises(ValueError, match=r"^direction: expected length 1, got "):
        directional_derivative(f, x, (1 + sign * 1.1 * tol) * along)


@pytest.mark.parametrize("dtype", [F16, F32, F64])
def test_a_direction_divided_by_its_norm_is_good(dtype):
    v = torch.randn(200, 7, generator=seeded(3)).to(dtype)
    e = v / v.norm(dim=-1, keepdim=True)
    assert directional_derivative(square_sum, points(200, 7, dtype=dtype), e).isfinite().all()


@pytest.mark.parametrize("lr", [0.0, 0, -0.1, math.inf, -math.inf, math.nan])
def test_bad_learning_rates(lr, own_errors):
    with pytest.raises(ValueError, match=r"^lr: expected a finite learning rate > 0, got ") as caught:
        gradient_descent(square_sum, points(2), lr, 3)
    assert str(caught.value).endswith(repr(lr))


@pytest.mark.parametrize("steps", [-1, 1.5, 2.0, True, False, "3", None])
def test_bad_numbers_of_steps(steps, own_errors):
    with pytest.raises(ValueError, match=r"^steps: expected a whole number ≥ 0, got ") as caught:
        gradient_descent(square_sum, points(2), 0.1, steps)
    assert str(caught.value).endswith(repr(steps))


@pytest.mark.parametrize("momentum", [-0.1, 1.0, 1, 1.5, math.inf, math.nan])
def test_bad_momenta(momentum, own_errors):
    with pytest.raises(ValueError, match=r"^momentum: expected 0 ≤ momentum < 1, got ") as caught:
        gradient_descent(square_sum, points(2), 0.1, 3, momentum)
    assert str(caught.value).endswith(repr(momentum))


def test_whole_numbers_will_do_for_rates(own_errors):
    assert_close(gradient_descent(square_sum, tensor([1.0]), 1, 2, 0).flatten(), [1.0, -1.0, 1.0])
