"""companion.jacobians: held against sympy, autograd's own routes, closed forms and the laws of calculus.

The random functions are built twice from the same coefficients, once as sympy expressions and once as plain torch
code.  Tests of a row of the ledger of the source article (S1.1–S1.16, S4.13–S4.20) and of a golden number
(G2.1–G2.8, G5.5–G5.12, G5.19) carry the row's name.
"""

import itertools
import math
from typing import ClassVar

import mpmath
import pytest
import sympy as sp
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from reference import BAD_POINTS, RandomField, assert_close, evaluate, peak_memory, points, seeded
from torch.autograd import gradcheck, gradgradcheck

import companion.jacobians
import companion.points
from companion.divergence import curl, divergence, laplacian
from companion.jacobians import (
    jacobian,
    jacobian_by_rows,
    jvp,
    log_abs_det,
    newtonian_stress,
    spin,
    strain_rate,
    vjp,
)

F16, F32, F64 = torch.float16, torch.float32, torch.float64
MiB = 2**20
MODES = ["reverse", "forward"]
SEEDS = st.integers(0, 2**31 - 1)
SIZES = st.integers(1, 8)
BATCHES = st.sampled_from([(), (3,), (2, 3), (1,), (0,), (2, 0)])


def tensor(values):
    return torch.tensor(values, dtype=F64)


def random_network(seed, d, m, width=8, dtype=F64):
    generator = seeded(seed)
    V, W = (torch.randn(shape, generator=generator, dtype=F64).to(dtype) for shape in ((width, d), (m, width)))
    return lambda p: W @ torch.tanh(V @ p + 0.3)


def one_by_one(fn, x):
    """`fn` at each point of x, in a plain loop."""
    values = torch.stack([fn(p) for p in x.reshape(-1, x.shape[-1])])
    return values.reshape(*x.shape[:-1], *values.shape[1:])


# --- the golden numbers and the rows of the ledger: Jacobians ---------------------------------------------------

AT = tensor([1.0, 2.0])
J_AT = tensor([[2.0, 2.0], [3.0, 16.0]])
ONES = torch.ones(2, dtype=F64)


def f(p):
    return torch.stack([p[0] ** 2 + 2 * p[1], 3 * p[0] + 4 * p[1] ** 2])


def f_and_product(p):
    """f with a third row, so that m = 3 and n = 2 are told apart."""
    return torch.cat([f(p), p.prod(0, keepdim=True)])


def sympy_f():
    x = sp.symbols("x1:3")
    return x, sp.Matrix([x[0] ** 2 + 2 * x[1], 3 * x[0] + 4 * x[1] ** 2])


def test_S1_1_and_G2_6_the_determinant_is_a_number_and_not_the_matrix():
    """The title promises the determinant and the page computes the matrix; det J = 16·x₁·x₂ − 6."""
    x, expression = sympy_f()
    assert sp.expand(expression.jacobian(x).det() - (16 * x[0] * x[1] - 6)) == 0
    assert jacobian(f, AT).shape == (2, 2)
    assert log_abs_det(f, AT).shape == ()
    assert_close(log_abs_det(f, AT), math.log(26))
    assert_close(jacobian(f, AT).det(), 26)
    batch = points(50, 2, seed=1)
    assert_close(log_abs_det(f, batch), (16 * batch.prod(-1) - 6).abs().log())


@pytest.mark.parametrize("mode", MODES)
def test_S1_2_S1_3_G2_1_and_G2_2_the_pages_jacobian(mode):
    x, expression = sympy_f()
    assert expression.jacobian(x) == sp.Matrix([[2 * x[0], 2], [3, 8 * x[1]]])
    assert_close(f(AT), [5.0, 19.0])
    assert_close(jacobian(f, AT, mode), J_AT)
    batch = points(4, 3, 2, seed=2)
    assert_close(jacobian(f, batch, mode), evaluate([2 * x[0], 2, 3, 8 * x[1]], x, batch).reshape(4, 3, 2, 2))


def test_S1_4_the_flattened_copies_list_the_columns():
    """`23216` is J = [2 2; 3 16] column by column with the spaces lost, and `518` is (5, 18)."""

    def run_together(values):
        return "".join(f"{v:g}" for v in values.flatten().tolist())

    J = jacobian(f, AT)
    assert run_together(J.mT) == "23216"
    assert run_together(J) == "22316"
    assert run_together(vjp(f, AT, ONES)) == "518"


def test_S1_5_a_vector_has_no_backward_without_weights():
    """Only the call without an argument needs a scalar; y.backward(v) differentiates v·y, and v has y's shape."""
    x, v = AT.clone().requires_grad_(), tensor([2.0, -1.0])
    with pytest.raises(RuntimeError, match="grad can be implicitly created only for scalar outputs"):
        f(x).backward()
    f(x).backward(v)
    assert_close(x.grad, torch.func.grad(lambda p: (v * f(p)).sum())(AT))
    assert_close(x.grad, vjp(f, AT, v))
    with pytest.raises(RuntimeError, match="Mismatch in shape"):
        f(x).backward(torch.tensor(1.0, dtype=F64))


def test_S1_6_and_S1_7_the_chain_rule_has_an_order():
    """z = [1 1] f: ∂z/∂f = [1 1], and ∂z/∂x = ∂z/∂f · ∂f/∂x is (1 × m)(m × n), not the other way round."""
    x, expression = sympy_f()
    y = sp.symbols("y1:3")
    z = sp.Matrix([y[0] + y[1]])
    assert z.jacobian(y) == sp.Matrix([[1, 1]])
    assert sp.Matrix([sum(expression)]).jacobian(x) == z.jacobian(y) * expression.jacobian(x)

    def weigh(y):
        return y.sum(-1, keepdim=True)

    outer, inner = jacobian(weigh, f_and_product(AT)), jacobian(f_and_product, AT)
    assert_close(outer, torch.ones(1, 3))
    assert_close(jacobian(lambda p: weigh(f_and_product(p)), AT), outer @ inner)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        inner @ outer


def test_S1_8_and_G2_3_to_G2_5_ones_give_column_sums_on_the_left_and_row_sums_on_the_right():
    assert_close(vjp(f, AT, ONES), [5.0, 18.0])  # G2.3
    assert_close(jacobian(f, AT).sum(-2), [5.0, 18.0])
    assert_close(jvp(f, AT, ONES), [4.0, 19.0])  # G2.4
    assert_close(jacobian(f, AT).sum(-1), [4.0, 19.0])
    assert_close(vjp(f, AT, tensor([2.0, -1.0])), [1.0, -12.0])  # G2.5


def eight_routes():
    x, eye = AT.clone().requires_grad_(), torch.eye(2, dtype=F64)

    def rows(weights):
        return torch.stack([torch.autograd.grad(f(x), x, w)[0] for w in weights])

    return {
        "rows": torch.stack([torch.autograd.grad(f(x)[i], x)[0] for i in range(2)]),
        "one-hot weights": rows(eye),
        "batched weights": torch.autograd.grad(f(x), x, eye, is_grads_batched=True)[0],
        "jacrev": torch.func.jacrev(f)(AT),
        "jacfwd": torch.func.jacfwd(f)(AT),
        "vmap of vjp": torch.vmap(lambda w: torch.func.vjp(f, AT)[1](w)[0])(eye),
        "functional, reverse": torch.autograd.functional.jacobian(f, AT, vectorize=True),
        "functional, forward": torch.autograd.functional.jacobian(f, AT, vectorize=True, strategy="forward-mode"),
    }


def test_S1_9_autograd_gives_the_whole_jacobian_by_eight_routes():
    """Not only sums of columns: those are what ONE pass with ones gives, and they lose information."""
    routes = eight_routes()
    assert len(routes) == 8
    for J in (*routes.values(), jacobian(f, AT), jacobian(f, AT, "forward"), jacobian_by_rows(f, AT)):
        assert_close(J, J_AT)

    def other(p):
        return torch.stack([5 * p[0], 18 * p[1]])

    assert_close(vjp(other, AT, ONES), vjp(f, AT, ONES))
    assert_close(jacobian(other, AT), [[5.0, 0.0], [0.0, 18.0]])


def test_S1_10_rows_are_gradients_of_single_outputs():
    want = torch.stack([torch.func.grad(lambda p, i=i: f_and_product(p)[i])(AT) for i in range(3)])
    assert_close(jacobian_by_rows(f_and_product, AT), want)
    one_hot = torch.eye(3, dtype=F64)
    assert_close(jacobian_by_rows(f_and_product, AT), torch.stack([vjp(f_and_product, AT, w) for w in one_hot]))
    unit = torch.eye(2, dtype=F64)
    assert_close(jacobian_by_rows(f_and_product, AT), torch.stack([jvp(f_and_product, AT, w) for w in unit], -1))


def test_S1_11_S1_12_and_S1_15_what_the_page_prints_in_float32():
    """The listing (S1.11) lost its line breaks; restored, it prints this, without `run_code` and `nn` (S1.15)."""
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    f(x).backward(torch.ones(2))
    by_jacobian = torch.ones(2) @ jacobian(f, x)
    assert jacobian(f, x).tolist() == [[2.0, 2.0], [3.0, 16.0]]
    assert x.grad.tolist() == by_jacobian.tolist() == vjp(f, x, torch.ones(2)).tolist() == [5.0, 18.0]
    assert x.grad.dtype == by_jacobian.dtype == F32


def test_S1_13_and_G2_8_the_weights_are_as_many_as_the_outputs(own_errors):
    """ones_like(x) @ J works on the page because there m = n = 2; with a third output it fails."""
    J = jacobian(f_and_product, AT)
    with pytest.raises(RuntimeError, match=r"shapes cannot be multiplied \(1x2 and 3x2\)"):
        torch.ones_like(AT) @ J
    with pytest.raises(ValueError, match=r"^v: expected shape \(3,\) like f\(x\), got \(2,\)$"):
        vjp(f_and_product, AT, torch.ones_like(AT))
    ones = torch.ones_like(f_and_product(AT))
    assert_close(ones @ J, [7.0, 19.0])
    assert_close(vjp(f_and_product, AT, ones), [7.0, 19.0])


def test_S1_14_a_jacobian_leaves_grad_alone():
    x = AT.clone().requires_grad_()
    f(x).backward(ONES)
    theirs = torch.autograd.functional.jacobian(f, x)
    assert not theirs.requires_grad
    assert torch.autograd.functional.jacobian(f, x, create_graph=True).requires_grad
    for ours in (jacobian(f, x), jacobian(f, x, "forward"), jacobian_by_rows(f, x)):
        assert ours.requires_grad
        assert_close(ours.detach(), theirs)
    jvp(f, x, ONES), vjp(f, x, ONES), log_abs_det(f, x)
    assert_close(x.grad, [5.0, 18.0])


def test_S1_16_gradients_accumulate_and_a_graph_is_walked_once():
    x = AT.clone().requires_grad_()
    f(x).backward(ONES)
    f(x).backward(ONES)
    assert_close(x.grad, [10.0, 36.0])
    x.grad = None
    y = f(x)
    y.backward(ONES, retain_graph=True)
    assert_close(x.grad, [5.0, 18.0])
    y.backward(ONES)
    assert_close(x.grad, [10.0, 36.0])
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        y.backward(ONES)
    first = jacobian_by_rows(f, x), vjp(f, x, ONES)
    again = jacobian_by_rows(f, x), vjp(f, x, ONES)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])


def test_G2_7_the_inverse_of_the_jacobian():
    assert_close(jacobian(f, AT).inverse(), [[8 / 13, -1 / 13], [-3 / 26, 1 / 13]])
    rounded = tensor([[0.615384615385, -0.0769230769231], [-0.115384615385, 0.0769230769231]])
    assert_close(jacobian(f, AT, "forward").inverse(), rounded)


def test_G5_19_the_square_of_a_matrix():
    """y = x @ x with x = [1 2; 3 4], weighted with ones: 1xᵀ + xᵀ1 = [7 11; 9 13]."""
    x = tensor([[1.0, 2.0], [3.0, 4.0]]).requires_grad_()
    ones = torch.ones(2, 2, dtype=F64)

    def square(p):
        return p.reshape(2, 2) @ p.reshape(2, 2)

    got = vjp(square, x.detach().flatten(), ones).reshape(2, 2)
    assert_close(got, [[7.0, 11.0], [9.0, 13.0]])
    assert_close(got, ones @ x.detach().T + x.detach().T @ ones)
    (x @ x).backward(ones)
    assert_close(x.grad, got)
    assert_close(jacobian(square, x.detach().flatten()).sum((0, 1)).reshape(2, 2), got)


# --- the golden numbers and the rows of the ledger: a blob in a fluid ---------------------------------------------

IN_SPACE = tensor([1.0, 2.0, 3.0])
SHEAR = tensor([[0.0, 3.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])


def v(p):
    x, y, z = p
    return torch.stack([x**2 * y, y * z, x * z**2])


def test_S4_13_the_velocity_gradient_of_a_layer_between_two_plates():
    """The upper plate, 0.5 above the lower, moves at speed 3: L holds the shear rate 6 and nothing else.

    One number tells all in simple shear only: in a rigid rotation L_xy is not 0, and nothing shears.
    """
    layer = jacobian(lambda p: torch.stack([3 * p[1] / 0.5, 0 * p[0]]), points(5, 2))
    assert_close(layer, tensor([[0.0, 6.0], [0.0, 0.0]]).expand(5, 2, 2))
    assert_close(newtonian_stress(layer, 0.25)[:, 0, 1], [1.5] * 5)
    rotation = jacobian(lambda p: torch.stack([6 * p[1], -6 * p[0]]), points(5, 2))
    assert_close(rotation[:, 0, 1], [6.0] * 5)
    assert_close(strain_rate(rotation), torch.zeros(5, 2, 2))


@pytest.mark.parametrize("t", [0.0, 0.7, -1.3])
def test_S4_14_the_velocity_gradient_is_the_rate_of_the_deformation(t):
    """F(t) = [eᵗ t; 0 e⁻ᵗ]: d/dτ F(τ)F(t)⁻¹ at τ = t is ḞF⁻¹, and that is ∂v_i/∂x_j."""
    s, now = sp.symbols("s now")
    F_now = sp.Matrix([[sp.exp(now), now], [0, sp.exp(-now)]])
    relative = F_now.subs(now, s) * F_now.inv()
    rate = F_now.diff(now) * F_now.inv()
    assert sp.simplify(relative.diff(s).subs(s, now) - rate) == sp.zeros(2)
    L = tensor(rate.subs(now, sp.Float(t, 25)).tolist())

    def F(s):
        return torch.stack([torch.stack([s.exp(), s]), torch.stack([0 * s, (-s).exp()])])

    start = tensor([t])
    assert_close(jacobian(lambda s: F(s[0]) @ F(start[0]).inverse(), start)[..., 0], L)
    places = points(4, 2)

    def velocity(p):
        """That of the particle which is at p at the time t; it began at F(t)⁻¹ p."""
        return torch.func.jvp(lambda s: F(s) @ (F(start[0]).inverse() @ p), (start[0],), (torch.ones_like(start[0]),))[
            1
        ]

    assert_close(jacobian(velocity, places), L.expand(4, 2, 2))


def test_S4_15_nabla_gives_a_matrix_and_the_laplacian_a_vector():
    """The gradient operator is ∇; Δ = ∇·∇ makes of v = (x²y, yz, xz²) at (1, 2, 3) the vector (4, 0, 2)."""
    delta = torch.stack([laplacian(lambda p, i=i: v(p)[i], IN_SPACE) for i in range(3)])
    assert_close(delta, [4.0, 0.0, 2.0])
    assert jacobian(v, IN_SPACE).shape == (3, 3)
    second = jacobian(lambda p: jacobian(v, p), IN_SPACE)  # ∂²v_i/∂x_j∂x_k
    assert_close(second.diagonal(dim1=-2, dim2=-1).sum(-1), delta)


def test_S4_16_and_G5_5_to_G5_10_stretching_and_turning():
    L = jacobian(v, IN_SPACE)
    assert_close(L, [[4.0, 1.0, 0.0], [0.0, 3.0, 2.0], [9.0, 0.0, 6.0]])  # G5.5
    assert_close(strain_rate(L), [[4.0, 0.5, 4.5], [0.5, 3.0, 1.0], [4.5, 1.0, 6.0]])  # G5.6
    assert_close(spin(L), [[0.0, 0.5, -4.5], [-0.5, 0.0, 1.0], [4.5, -1.0, 0.0]])  # G5.7
    assert_close(strain_rate(L) + spin(L), L)
    for trace in (L.trace(), strain_rate(L).trace(), divergence(v, IN_SPACE)):
        assert_close(trace, 13)  # G5.8
    assert_close(curl(v, IN_SPACE), [-2.0, -9.0, -1.0])  # G5.9
    a = tensor([1.0, -2.0, 5.0])
    assert_close(spin(L) @ a, [-23.5, 4.5, 6.5])  # G5.10
    assert_close(torch.linalg.cross(curl(v, IN_SPACE) / 2, a), [-23.5, 4.5, 6.5])


def test_S4_17_and_S4_18_a_newtonian_fluid_flows_under_any_force():
    """S4.17 says only that Newtonian fluids matter; S4.18 says what they are: the stress is in proportion to D."""
    L = points(3, 3, seed=3)
    one = newtonian_stress(L, 0.7)
    for factor in (1e-12, 1e-3, -1.0, 1e6):
        assert_close(newtonian_stress(factor * L, 0.7) / factor, one)
    assert_close(newtonian_stress(SHEAR, 0.7)[0, 1], 0.7 * 3)
    assert_close(newtonian_stress(torch.zeros(3, 3, dtype=F64), 0.7), torch.zeros(3, 3))


def test_S4_19_G5_11_and_G5_12_the_law_for_tensors_has_a_two():
    """γ̇ = 3, η = ½: the shear stress is ηγ̇ = 1.5 = 2ηD_xy, where ηD_xy is 0.75."""
    stress = newtonian_stress(SHEAR, 0.5)
    assert_close(stress[0, 1], 1.5)  # G5.11
    assert_close(stress, 2 * 0.5 * strain_rate(SHEAR))
    assert_close((0.5 * strain_rate(SHEAR))[0, 1], 0.75)  # G5.12


def test_S4_20_a_viscosity_that_depends_on_the_rate_is_not_newtonian():
    """With η = γ̇⁻¹ᐟ² twice the rate gives √2 of the stress, with a constant η twice the stress."""

    def shear_stress(L, thinning):
        rate = (2 * strain_rate(L).square().sum()).sqrt()
        return newtonian_stress(L, rate**-0.5 if thinning else 1.0)[0, 1]

    assert_close(shear_stress(2 * SHEAR, True) / shear_stress(SHEAR, True), math.sqrt(2))
    assert_close(shear_stress(2 * SHEAR, False) / shear_stress(SHEAR, False), 2)


# --- against sympy, on fresh functions ----------------------------------------------------------------------------


def sympy_jacobian(field, x):
    """All partial derivatives of a RandomField by sympy: (*batch, m, d)."""
    partials = [e.diff(s) for e in field.expressions for s in field.symbols]
    return evaluate(partials, field.symbols, x).reshape(*x.shape[:-1], len(field.expressions), x.shape[-1])


@settings(max_examples=10)
@given(SEEDS, SIZES, SIZES, BATCHES)
def test_jacobians_and_their_products_are_sympys(seed, d, m, batch):
    field, x = RandomField(seed, d, m), points(*batch, d, seed=seed)
    J = sympy_jacobian(field, x)
    assert J.shape == (*batch, m, d)
    assert_close(jacobian(field, x), J)
    assert_close(jacobian(field, x, "forward"), J)
    assert_close(jacobian_by_rows(field, x), J)
    direction, weights = points(*batch, d, seed=seed + 1), points(*batch, m, seed=seed + 2)
    assert_close(jvp(field, x, direction), (J @ direction[..., None])[..., 0])
    assert_close(vjp(field, x, weights), (weights[..., None, :] @ J)[..., 0, :])


@settings(max_examples=10)
@given(SEEDS, SIZES, st.sampled_from([(), (1,), (1, 1), (2, 3), (3, 2), (4, 1), (1, 4), (2, 2)]), BATCHES)
def test_a_scalar_or_a_matrix_for_a_value(seed, d, out, batch):
    field, x = RandomField(seed, d, math.prod(out)), points(*batch, d, seed=seed)
    J = sympy_jacobian(field, x).reshape(*batch, *out, d)

    def shaped(p):
        return field(p).reshape(out)

    assert_close(jacobian(shaped, x), J)
    assert_close(jacobian(shaped, x, "forward"), J)
    direction, weights = points(*batch, d, seed=seed + 1), points(*batch, *out, seed=seed + 2)
    axes = "mn"[: len(out)]
    assert_close(jvp(shaped, x, direction), torch.einsum(f"...{axes}d,...d->...{axes}", J, direction))
    assert_close(vjp(shaped, x, weights), torch.einsum(f"...{axes},...{axes}d->...d", weights, J))


@settings(max_examples=10)
@given(SEEDS, st.integers(1, 6), st.sampled_from([(), (3,), (2, 2), (1,)]), st.sampled_from([1, -1]))
def test_log_abs_det_is_that_of_sympys_jacobian(seed, d, batch, sign):
    """By mpmath from the exact derivatives; `sign` turns the first output round, so that both signs come up."""
    field, x = RandomField(seed, d), points(*batch, d, seed=seed)
    J = sympy_jacobian(field, x) + 20 * torch.eye(d, dtype=F64)
    assume(torch.linalg.cond(J).max() < 1e4)
    with mpmath.workdps(40):
        dets = [mpmath.log(abs(mpmath.det(mpmath.matrix(A)))) for A in J.reshape(-1, d, d).tolist()]
    turn = torch.ones(d, dtype=F64)
    turn[0] = sign
    got = log_abs_det(lambda p: turn * (field(p) + 20 * p), x)
    assert_close(got, tensor([float(value) for value in dets]).reshape(batch))


# --- against torch.func -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [(), (5,), (2, 3)])
@pytest.mark.parametrize(("d", "m"), [(1, 1), (1, 8), (8, 1), (3, 5), (5, 3), (8, 8), (40, 2), (2, 40)])
def test_jacobians_of_a_network_are_torchs(d, m, batch):
    net, x = random_network(d + m, d, m), points(*batch, d, seed=d)
    J = one_by_one(lambda p: torch.autograd.functional.jacobian(net, p), x)
    assert_close(one_by_one(torch.func.jacfwd(net), x), J, tol=1e-12)
    for ours in (jacobian(net, x), jacobian(net, x, "forward"), jacobian_by_rows(net, x)):
        assert_close(ours, J, tol=1e-12)
    direction, weights = points(*batch, d, seed=1), points(*batch, m, seed=2)
    assert_close(jvp(net, x, direction), torch.einsum("...md,...d->...m", J, direction), tol=1e-12)
    assert_close(vjp(net, x, weights), torch.einsum("...md,...m->...d", J, weights), tol=1e-12)


@pytest.mark.parametrize("d", [1, 2, 3, 8])
def test_log_abs_det_of_a_network_is_the_logarithm_of_its_determinant(d):
    net, x = random_network(d, d, d, width=16), points(2, 3, d, seed=d)
    J = one_by_one(torch.func.jacrev(net), x)
    assert_close(log_abs_det(net, x), J.det().abs().log())


@pytest.mark.parametrize("out", [(12,), (3, 4), (2, 3, 2)])
@pytest.mark.parametrize("mode", MODES)
def test_values_with_more_axes_are_torchs(mode, out):
    net, x = random_network(6, 4, 12), points(2, 3, 4, seed=6)

    def shaped(p):
        return net(p).reshape(out)

    assert_close(jacobian(shaped, x, mode), one_by_one(torch.func.jacrev(shaped), x), tol=1e-12)


def test_a_plain_module_will_do():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.SiLU(), torch.nn.Linear(8, 3)).double()
    x = points(4, 3)
    want = one_by_one(torch.func.jacrev(net), x).detach()
    for got in (jacobian(net, x), jacobian(net, x, "forward"), jacobian_by_rows(net, x)):
        assert got.requires_grad
        assert_close(got.detach(), want, tol=1e-12)
    assert_close(jvp(net, x, x).detach(), (want @ x[..., None])[..., 0], tol=1e-12)
    assert_close(vjp(net, x, x).detach(), (x[..., None, :] @ want)[..., 0, :], tol=1e-12)
    assert_close(log_abs_det(net, x).detach(), want.det().abs().log())


def fixed(x, size):
    """The same uneven direction or weights at each point."""
    return tensor([0.5, -1.25, 0.75])[:size].to(x).expand(*x.shape[:-1], size)


FUNCTIONS = {
    "reverse": jacobian,
    "forward": lambda f, x: jacobian(f, x, "forward"),
    "by rows": jacobian_by_rows,
    "jvp": lambda f, x: jvp(f, x, fixed(x, 3)),
    "vjp": lambda f, x: vjp(f, x, fixed(x, OUTPUTS["vjp"])),
    "log_abs_det": log_abs_det,
}
# with three inputs
OUTPUTS = {"log_abs_det": 3} | dict.fromkeys(["reverse", "forward", "by rows", "jvp", "vjp"], 2)
SHAPES = {"jvp": (2,), "vjp": (3,), "log_abs_det": ()}


def result_shape(name, batch):
    return (*batch, *SHAPES.get(name, (2, 3)))


# torch has no determinants in half precision
DTYPES = [(name, dtype) for name in FUNCTIONS for dtype in (F16, F32, F64) if (name, dtype) != ("log_abs_det", F16)]


@pytest.mark.parametrize("batch", [(), (4,), (2, 3), (1, 1), (0,), (2, 0)])
@pytest.mark.parametrize(("name", "dtype"), DTYPES)
def test_batch_axes_and_dtype_follow_the_points(name, dtype, batch):
    net = random_network(3, 3, OUTPUTS[name], dtype=dtype)
    got = FUNCTIONS[name](net, points(*batch, 3, dtype=dtype))
    assert got.shape == result_shape(name, batch)
    assert got.dtype == dtype
    assert got.isfinite().all()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_empty_batch_of_a_function_that_cannot_be_mapped_over_nothing(name):
    got = FUNCTIONS[name](lambda p: (p.sin() * p.sum())[: OUTPUTS[name]], points(0, 3))
    assert got.shape == result_shape(name, (0,))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_batch_is_its_points_one_by_one(name):
    net, x = random_network(4, 3, OUTPUTS[name]), points(2, 3, 3, seed=4)
    alone = one_by_one(lambda p: FUNCTIONS[name](net, p), x)
    assert_close(FUNCTIONS[name](net, x), alone, tol=1e-13)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_batch_with_strides_of_its_own(name):
    net, x = random_network(4, 3, OUTPUTS[name]), points(3, 5, 2, seed=4).permute(2, 1, 0)
    assert_close(FUNCTIONS[name](net, x), FUNCTIONS[name](net, x.contiguous()), tol=1e-13)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_float32_is_as_good_as_float32_can_be(name):
    x, m = points(50, 3, seed=5), OUTPUTS[name]
    low = FUNCTIONS[name](random_network(5, 3, m, dtype=F32), x.float())
    assert_close(low.double(), FUNCTIONS[name](random_network(5, 3, m), x), tol=2e-5)


@pytest.mark.parametrize("name", ["reverse", "forward", "by rows", "jvp", "vjp"])
@pytest.mark.parametrize(
    "constant",
    [lambda p: torch.ones(2, dtype=F64), lambda p: p[:2].detach() ** 2, lambda p: torch.ones_like(p[:2])],
    ids=["a constant", "cut off", "like the point"],
)
def test_the_derivatives_of_a_constant_are_zero(name, constant):
    got = FUNCTIONS[name](constant, points(4, 3))
    assert torch.equal(got, torch.zeros(result_shape(name, (4,)), dtype=F64))


@pytest.mark.parametrize("name", ["reverse", "forward", "by rows"])
def test_outputs_that_do_not_depend_on_the_point_have_rows_of_zeros(name):
    c = torch.ones((), dtype=F64, requires_grad=True)
    got = FUNCTIONS[name](lambda p: torch.stack([p.sum(), 3 * c]), points(4, 3)).detach()
    assert_close(got, tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]).expand(4, 2, 3))
    nothing_at_all = FUNCTIONS[name](lambda p: torch.stack([c, 3 * c]), points(4, 3)).detach()
    assert torch.equal(nothing_at_all, torch.zeros(4, 2, 3, dtype=F64))


@pytest.mark.parametrize("name", ["reverse", "forward", "by rows"])
def test_the_identity_has_the_identity(name):
    assert torch.equal(FUNCTIONS[name](lambda p: p, points(4, 3)), torch.eye(3, dtype=F64).expand(4, 3, 3))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_result_stays_on_the_device_of_the_points(name):
    got = FUNCTIONS[name](lambda p: (p.sin() * p.sum())[: OUTPUTS[name]], torch.empty(2, 3, device="meta"))
    assert got.device.type == "meta"
    assert strain_rate(torch.empty(2, 3, 3, device="meta")).device.type == "meta"
    assert spin(torch.empty(2, 3, 3, device="meta")).device.type == "meta"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_default_device_has_no_part_in_it(name):
    net, x = random_network(3, 3, OUTPUTS[name]), points(2, 3, seed=1)
    want = FUNCTIONS[name](net, x)
    vector = fixed(x, 3), fixed(x, OUTPUTS[name])
    calls = {"jvp": lambda: jvp(net, x, vector[0]), "vjp": lambda: vjp(net, x, vector[1])}
    with torch.device("meta"):
        got = calls.get(name, lambda: FUNCTIONS[name](net, x))()
    assert_close(got, want, tol=1e-13)


def test_the_default_device_has_no_part_in_the_stress():
    L = points(2, 3, 3)
    want = newtonian_stress(L, 0.5, 0.25, 0.125)
    with torch.device("meta"):
        got = newtonian_stress(L, 0.5, 0.25, 0.125)
    assert torch.equal(got, want)


# --- differentiable again, and at home under torch.func -----------------------------------------------------------


@pytest.mark.parametrize("name", FUNCTIONS)
def test_first_and_second_derivatives_are_right(name):
    """With respect to the points and to a parameter that f closes over, against finite differences."""
    m = OUTPUTS[name]
    W, x = torch.randn(m, 3, generator=seeded(1), dtype=F64), points(2, 3, seed=6)

    def fn(x, W):
        return FUNCTIONS[name](lambda p: torch.tanh(W @ p) * p.sum() + p[:m] ** 2, x)

    inputs = x.requires_grad_(), W.requires_grad_()
    assert gradcheck(fn, inputs)
    assert gradgradcheck(fn, inputs)


@pytest.mark.parametrize("name", ["jvp", "vjp"])
def test_products_can_be_differentiated_by_their_vector(name):
    net, x = random_network(7, 3, 2), points(2, 3, seed=7)
    product, size = (jvp, 3) if name == "jvp" else (vjp, 2)
    w = points(2, size, seed=8).requires_grad_()
    assert gradcheck(lambda w: product(net, x, w), (w,))
    by_w = torch.func.jacrev(lambda w: product(net, x[0], w))(w[0])
    assert_close(by_w, jacobian(net, x[0]) if name == "jvp" else jacobian(net, x[0]).mT)


@pytest.mark.parametrize("mode", MODES)
def test_a_matrix_valued_function_can_be_differentiated_again(mode):
    x, A = points(2, 3, seed=9).requires_grad_(), points(2, 3, seed=10).requires_grad_()

    def fn(x, A):
        return jacobian(lambda p: torch.outer(torch.tanh(A @ p), p.sin()), x, mode)

    assert gradcheck(fn, (x, A))


def test_fluids_can_be_differentiated():
    L = points(2, 3, 3, seed=11).requires_grad_()
    parameters = [(points(2, seed=s) + 1.5).requires_grad_() for s in (12, 13, 14)]
    assert gradcheck(strain_rate, (L,))
    assert gradcheck(spin, (L,))
    assert gradcheck(newtonian_stress, (L, *parameters))
    assert gradgradcheck(newtonian_stress, (L, *parameters))


@pytest.mark.parametrize("name", ["reverse", "forward", "jvp", "vjp", "log_abs_det"])
def test_inside_vmap_grad_and_jacfwd(name):
    net, x = random_network(11, 3, OUTPUTS[name]), points(5, 3, seed=8)
    assert_close(torch.vmap(lambda p: FUNCTIONS[name](net, p))(x), FUNCTIONS[name](net, x))
    forward = torch.func.jacfwd(lambda x: FUNCTIONS[name](net, x).sum())(x)
    assert_close(torch.func.grad(lambda x: FUNCTIONS[name](net, x).sum())(x), forward)
    assert forward.abs().max() > 0.1


def test_a_jacobian_by_rows_inside_a_gradient_of_torchs():
    net, x = random_network(11, 3, 2), points(5, 3, seed=8)
    want = torch.func.grad(lambda x: jacobian(net, x).sum())(x)
    assert_close(torch.func.grad(lambda x: jacobian_by_rows(net, x).sum())(x), want)


@pytest.mark.parametrize("fluid", [strain_rate, spin, lambda L: newtonian_stress(L, 0.5, 0.25, 0.125)])
def test_fluids_inside_vmap_and_jacfwd(fluid):
    L = points(4, 3, 3, seed=1)
    assert_close(torch.vmap(fluid)(L), fluid(L))
    assert_close(torch.func.jacfwd(fluid)(L[0]), torch.func.jacrev(fluid)(L[0]))


def test_a_loss_on_a_jacobian_trains_a_network():
    """A net is fitted to slopes alone: those of (sin x + y, xy)."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2)).double()
    x = points(32, 2, seed=7)
    one = torch.ones(32, dtype=F64)
    target = torch.stack([torch.stack([x[:, 0].cos(), one], -1), x.flip(-1)], -2)
    optimizer, losses = torch.optim.Adam(net.parameters(), lr=0.05), []
    for step in range(80):
        J = [jacobian(net, x), jacobian(net, x, "forward"), jacobian_by_rows(net, x)][step % 3]
        loss = (J - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0.5
    assert losses[-1] < 0.02


@pytest.mark.parametrize("name", FUNCTIONS)
def test_points_parameters_and_their_grad_are_left_alone(name):
    W = torch.randn(OUTPUTS[name], 3, generator=seeded(1)).requires_grad_()
    x = points(2, 3, dtype=F32).requires_grad_()
    before = x.detach().clone()

    def fn(p):
        return torch.tanh(W @ p)

    got = FUNCTIONS[name](fn, x)
    assert got.requires_grad
    assert x.grad is None
    assert W.grad is None
    x.grad, W.grad = torch.full_like(x, 7.0), torch.full_like(W, 7.0)
    FUNCTIONS[name](fn, x)
    assert (x.grad == 7).all()
    assert (W.grad == 7).all()
    assert torch.equal(x.detach(), before)
    with torch.no_grad():
        silent = FUNCTIONS[name](fn, x)
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()
    assert not silent.requires_grad
    assert torch.equal(silent, got.detach())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_plain_points_stay_plain(name):
    """Neither the points nor the result come to require a gradient where nothing did before."""
    x = points(2, 3)
    got = FUNCTIONS[name](random_network(2, 3, OUTPUTS[name]), x)
    assert not x.requires_grad
    assert not got.requires_grad


def test_a_jacobian_by_rows_carries_a_graph_where_the_points_require_a_gradient():
    net, leaf = random_network(3, 3, 2), points(4, 3).requires_grad_()
    want = torch.func.grad(lambda leaf: jacobian(net, 2 * leaf).square().sum())(leaf.detach())
    between = 2 * leaf  # not a leaf itself
    got = jacobian_by_rows(net, between)
    again = jacobian_by_rows(net, between)
    assert got.requires_grad
    assert_close(torch.autograd.grad(got.square().sum(), leaf, retain_graph=True)[0], want)
    assert_close(torch.autograd.grad(again.square().sum(), leaf, retain_graph=True)[0], want)
    between.sum().backward()  # the caller's own graph is still there
    assert_close(leaf.grad, torch.full((4, 3), 2.0))


def test_a_jacobian_by_rows_carries_a_graph_where_a_parameter_requires_a_gradient():
    W, x = points(2, 3, seed=1).requires_grad_(), points(4, 3, seed=2)

    def total(W):
        return jacobian(lambda p: torch.tanh(W @ p), x).square().sum()

    got = jacobian_by_rows(lambda p: torch.tanh(W @ p), x)
    assert got.requires_grad
    got.square().sum().backward()
    assert_close(W.grad, torch.func.grad(total)(W.detach()))
    assert not x.requires_grad
    assert x.grad is None


def test_a_jacobian_by_rows_works_where_a_caller_switched_gradients_off():
    W, x = points(2, 3, seed=1).requires_grad_(), points(4, 3, seed=2).requires_grad_()
    for points_ in (x, x.detach()):
        with torch.no_grad():
            got = jacobian_by_rows(lambda p: torch.tanh(W @ p), points_)
        assert not got.requires_grad
        assert_close(got, jacobian(lambda p: torch.tanh(W.detach() @ p), x.detach()))


# --- passes and memory --------------------------------------------------------------------------------------------


class Sine(torch.autograd.Function):
    """sin, which counts how often it is walked through backwards and forwards."""

    generate_vmap_rule = True
    passes: ClassVar = {"reverse": 0, "forward": 0}

    @staticmethod
    def forward(x):
        return x.sin()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, g):
        Sine.passes["reverse"] += 1
        return g * ctx.saved_tensors[0].cos()

    @staticmethod
    def jvp(ctx, tangent):
        Sine.passes["forward"] += 1
        return tangent * ctx.saved_tensors[0].cos()


def count(run):
    """(reverse, forward) passes of `run`."""
    Sine.passes.update(reverse=0, forward=0)
    run()
    return Sine.passes["reverse"], Sine.passes["forward"]


def set_blocks(monkeypatch, passes, batch=None):
    monkeypatch.setattr(companion.points, "BLOCK", passes)
    monkeypatch.setattr(companion.jacobians, "BLOCK", passes if batch is None else batch)


@pytest.mark.parametrize(("d", "m"), [(3, 5), (5, 3), (1, 4), (4, 1), (1, 1)])
def test_S1_10_reverse_takes_m_passes_and_forward_d(d, m, monkeypatch):
    A, x = points(m, d, seed=1), points(d, seed=2)

    def fn(p):
        return A @ Sine.apply(p)

    assert count(lambda: jvp(fn, x, x)) == (0, 1)
    assert count(lambda: vjp(fn, x, A[:, 0])) == (1, 0)
    assert count(lambda: jacobian_by_rows(fn, x)) == (m, 0)
    assert count(lambda: jacobian_by_rows(fn, points(7, d))) == (m, 0)
    assert count(lambda: jacobian(fn, points(7, d))) == (1, 0)  # all at once
    assert count(lambda: jacobian(fn, points(7, d), "forward")) == (0, 1)
    set_blocks(monkeypatch, 1)  # now one at a time, which lets them be counted
    assert count(lambda: jacobian(fn, x)) == (m, 0)
    assert count(lambda: jacobian(fn, x, "forward")) == (0, d)
    assert count(lambda: jacobian(fn, points(7, d))) == (7 * m, 0)
    assert count(lambda: jacobian(fn, points(7, d), "forward")) == (0, 7 * d)
    assert count(lambda: jacobian_by_rows(fn, points(7, d))) == (m, 0)


def test_a_block_holds_as_many_points_and_passes_as_fit(monkeypatch):
    """8 bytes a number, 4 inputs, 6 outputs: 96 bytes hold 3 points at a time."""
    A, x = points(6, 4, seed=1), points(9, 4, seed=2)

    def fn(p):
        return A @ Sine.apply(p)

    set_blocks(monkeypatch, passes=2**40, batch=96)
    assert count(lambda: jacobian(fn, x))[0] == 3
    set_blocks(monkeypatch, passes=4 * 6 * 8 * 9, batch=2**40)
    assert count(lambda: jacobian(fn, x)) == (2, 0)  # 6 passes, four at a time
    set_blocks(monkeypatch, passes=2 * 6 * 8 * 1, batch=2**40)
    assert count(lambda: jacobian(fn, x[:1], "forward")) == (0, 2)  # 4 passes, two at a time


def test_a_block_counts_the_directions_too():
    """2048 points of 64 numbers of 8 bytes are a block, and with one output alone 64 passes would fit."""
    assert count(lambda: jacobian(lambda p: Sine.apply(p).sum(), points(2048, 64), "forward")) == (0, 64)


@pytest.mark.parametrize("batch", [(), (3,)])
def test_rows_in_inference_mode(batch):
    """Nothing may be recorded there, so a row without its own graph would be zero."""
    fn, x = random_network(0, 4, 3), points(*batch, 4)
    want = jacobian(fn, x)
    with torch.inference_mode():
        assert_close(jacobian_by_rows(fn, x.clone()), want, tol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_has_a_volume(dtype):
    x = torch.tensor([[1.0, 2.0], [3.0, 0.5]], dtype=dtype)
    got = log_abs_det(lambda p: torch.stack([p[0] ** 2 + 2 * p[1], 3 * p[0] + 4 * p[1] ** 2]), x)
    assert got.dtype == dtype
    assert_close(got.double(), [math.log(26), math.log(18)], tol=torch.finfo(dtype).eps)


@pytest.mark.parametrize("name", ["viscosity", "pressure", "bulk_viscosity"])
@pytest.mark.parametrize("value", [None, "1", [1.0]])
def test_parameters_that_are_no_numbers(name, value, own_errors):
    options = {"viscosity": 1.0} | {name: value}
    with pytest.raises(TypeError, match=rf"^{name}: expected a number or a tensor, got {type(value).__name__}$"):
        newtonian_stress(torch.ones(2, 2), **options)


@pytest.mark.parametrize("batch", [(11,), (2, 5), (), (0,), (1,)])
@pytest.mark.parametrize("blocks", [(1, 1), (1000, 1000), (2**40, 2**40), (1, 2**40), (2**40, 1), (300, 200)])
@pytest.mark.parametrize("out", [(), (5,), (2, 3)])
def test_the_size_of_a_block_does_not_change_the_result(out, blocks, batch, monkeypatch):
    net, x = random_network(9, 7, math.prod(out)), points(*batch, 7, seed=9)

    def shaped(p):
        return net(p).reshape(out)

    want = {mode: jacobian(shaped, x, mode) for mode in MODES}
    set_blocks(monkeypatch, *blocks)
    for mode in MODES:
        assert_close(jacobian(shaped, x, mode), want[mode], tol=1e-13)


@pytest.mark.parametrize("mode", MODES)
def test_the_size_of_a_block_does_not_change_log_abs_det_or_derivatives(mode, monkeypatch):
    W, x = points(3, 3, seed=1).requires_grad_(), points(5, 3, seed=2).requires_grad_()

    def slopes():
        def fn(p):
            return torch.tanh(W @ p) + p

        total = jacobian(fn, x, mode).sin().sum() + log_abs_det(fn, x).sum()
        return torch.autograd.grad(total, (x, W))

    want = slopes()
    set_blocks(monkeypatch, 1)
    for got, value in zip(slopes(), want, strict=True):
        assert_close(got, value, tol=1e-12)


def wide_network(d, m, width):
    V, W = points(width, d, seed=1), points(m, width, seed=2)
    return lambda p: W @ torch.tanh(V @ p)


@pytest.mark.parametrize("mode", MODES)
def test_memory_is_bounded_for_a_big_batch(mode, monkeypatch):
    """8192 points whose Jacobians take 1 MiB in all, and 32 MiB for each array of the 512 hidden numbers."""
    net, x = wide_network(4, 4, 512), points(8192, 4)
    set_blocks(monkeypatch, 2**14)  # as many points at a time as would fit 1 MB if x were 64 times as large
    assert peak_memory(lambda: jacobian(net, x, mode)) < 16 * MiB
    monkeypatch.setattr(companion.jacobians, "BLOCK", 2**40)
    assert peak_memory(lambda: jacobian(net, x, mode)) > 48 * MiB  # all points at once: this would have been seen


def test_memory_of_the_passes_is_bounded_with_the_block_as_it_is(monkeypatch):
    """Jacobians of 64 rows at 4096 points take 8 MiB; 64 passes at once hold 64 times a hidden layer of 2 MiB."""
    net, x = wide_network(4, 64, 64), points(4096, 4)
    assert peak_memory(lambda: jacobian(net, x)) < 32 * MiB
    monkeypatch.setattr(companion.points, "BLOCK", 2**40)
    assert peak_memory(lambda: jacobian(net, x)) > 128 * MiB


# --- volume -------------------------------------------------------------------------------------------------------


def test_the_sign_of_the_determinant_is_slogdets():
    """det J = 16·x₁·x₂ − 6 is 26, −6 and 0; log_abs_det knows sizes, slogdet signs as well."""
    x = tensor([[1.0, 2.0], [0.0, 0.0], [1.0, 0.375]])
    sign, size = torch.linalg.slogdet(jacobian(f, x))
    assert sign.tolist() == [1, -1, 0]
    assert_close(log_abs_det(f, x)[:2], [math.log(26), math.log(6)])
    assert log_abs_det(f, x)[2] == -math.inf
    assert size[2] == -math.inf


@pytest.mark.parametrize("d", [1, 2, 5])
def test_a_reflection_keeps_volumes(d):
    net, x = random_network(d, d, d), points(4, d, seed=d)
    mirror = torch.ones(d, dtype=F64)
    mirror[-1] = -1
    assert_close(log_abs_det(lambda p: mirror * net(p), x), log_abs_det(net, x))
    assert torch.equal(log_abs_det(lambda p: mirror * p, x), torch.zeros(4, dtype=F64))


def test_one_singular_point_of_a_batch():
    x = tensor([[1.0, 5.0], [0.0, 5.0], [2.0, 0.0]])
    got = log_abs_det(lambda p: torch.stack([p[0] ** 2, p[1] ** 2 + p[1]]), x)
    assert_close(got[::2], [math.log(2 * 11), math.log(4)])
    assert got[1] == -math.inf
    assert (log_abs_det(lambda p: 0 * p, x) == -math.inf).all()
    assert (log_abs_det(lambda p: torch.ones_like(p), x) == -math.inf).all()


@pytest.mark.parametrize("factor", [0.01, 100.0])
def test_determinants_too_small_or_too_large_for_a_float_have_a_logarithm(factor):
    Q, _ = torch.linalg.qr(torch.randn(200, 200, generator=seeded(1), dtype=F64))
    x = points(2, 200)
    assert jacobian(lambda p: factor * (Q @ p), x).det().abs().tolist() == [0.0 if factor < 1 else math.inf] * 2
    assert_close(log_abs_det(lambda p: factor * (Q @ p), x), [200 * math.log(factor)] * 2)
    assert_close(log_abs_det(lambda p: factor * (Q @ p.sinh()), x), 200 * math.log(factor) + x.cosh().log().sum(-1))


# --- laws ---------------------------------------------------------------------------------------------------------


@settings(max_examples=10)
@given(SEEDS, SIZES, SIZES, SIZES)
def test_the_chain_rule(seed, d, k, m):
    inner, outer, x = random_network(seed, d, k), random_network(seed + 1, k, m), points(2, 3, d, seed=seed)
    y = one_by_one(inner, x)
    for mode in MODES:
        chained = jacobian(outer, y, mode) @ jacobian(inner, x, mode)
        assert_close(jacobian(lambda p: outer(inner(p)), x, mode), chained)
    w, u = points(2, 3, d, seed=seed + 1), points(2, 3, m, seed=seed + 2)
    assert_close(jvp(lambda p: outer(inner(p)), x, w), jvp(outer, y, jvp(inner, x, w)))
    assert_close(vjp(lambda p: outer(inner(p)), x, u), vjp(inner, x, vjp(outer, y, u)))


@given(SEEDS, SIZES, SIZES)
def test_forward_and_reverse_are_transposes(seed, d, m):
    """u·(Jw) = (uᵀJ)·w."""
    field, x = RandomField(seed, d, m), points(4, d, seed=seed)
    w, u = points(4, d, seed=seed + 1), points(4, m, seed=seed + 2)
    assert_close((u * jvp(field, x, w)).sum(-1), (vjp(field, x, u) * w).sum(-1))


def bend(p):
    """A map of space onto itself, one coordinate after the other."""
    x, y, z = p
    return torch.stack([x.sinh(), y * x.exp() + x.sin(), z * (x * y).tanh().exp() - y**2])


def unbend(q):
    x = q[0].asinh()
    y = (q[1] - x.sin()) / x.exp()
    return torch.stack([x, y, (q[2] + y**2) / (x * y).tanh().exp()])


@pytest.mark.parametrize("mode", MODES)
def test_the_inverse_function_has_the_inverse_jacobian(mode):
    x = points(2, 4, 3, seed=3)
    y = one_by_one(bend, x)
    assert_close(one_by_one(unbend, y), x)
    assert_close(jacobian(unbend, y, mode), jacobian(bend, x, mode).inverse())
    assert_close(log_abs_det(unbend, y), -log_abs_det(bend, x))
    assert log_abs_det(bend, x).abs().min() > 1e-3


def test_volumes_of_a_composition_multiply():
    net, x = random_network(5, 3, 3), points(2, 4, 3, seed=4)
    y = one_by_one(bend, x)
    assert_close(log_abs_det(lambda p: net(bend(p)), x), log_abs_det(net, y) + log_abs_det(bend, x))


def test_jacobis_formula():
    """∂/∂x_k log |det J| = tr(J⁻¹ ∂J/∂x_k)."""
    net, x = random_network(6, 3, 3), points(5, 3, seed=5)
    slope = torch.func.grad(lambda x: log_abs_det(net, x).sum())(x)
    second = jacobian(lambda p: jacobian(net, p), x)  # (5, i, j, k): ∂²f_i/∂x_j∂x_k
    assert_close(slope, torch.einsum("nji,nijk->nk", jacobian(net, x).inverse(), second))
    h = 1e-6
    central = [(log_abs_det(net, x + h * e) - log_abs_det(net, x - h * e)) / (2 * h) for e in torch.eye(3, dtype=F64)]
    assert_close(slope, torch.stack(central, -1), tol=1e-6)


def test_the_divergence_is_the_rate_at_which_a_flow_grows_volumes():
    net, x = random_network(8, 3, 3), points(5, 3, seed=6)
    rate = torch.func.grad(lambda t: log_abs_det(lambda p: p + t * net(p), x[0]))(torch.zeros((), dtype=F64))
    assert_close(rate, divergence(net, x[0]))
    h = 1e-5
    central = (log_abs_det(lambda p: p + h * net(p), x) - log_abs_det(lambda p: p - h * net(p), x)) / (2 * h)
    assert_close(central, divergence(net, x), tol=1e-7)


def test_the_jacobian_is_the_map_through_a_magnifying_glass():
    net, x, w = random_network(9, 3, 5), points(4, 3, seed=7), points(4, 3, seed=8)
    h = 1e-5
    step = (one_by_one(net, x + h * w) - one_by_one(net, x - h * w)) / (2 * h)
    assert_close((jacobian(net, x) @ w[..., None])[..., 0], step, tol=1e-7)
    assert_close(jvp(net, x, w), step, tol=1e-7)


# --- fluids -------------------------------------------------------------------------------------------------------


@given(SEEDS, SIZES, BATCHES)
def test_every_velocity_gradient_is_stretching_plus_turning(seed, d, batch):
    L = points(*batch, d, d, seed=seed)
    D, W = strain_rate(L), spin(L)
    assert_close(D + W, L)
    assert torch.equal(D, D.mT)
    assert torch.equal(W, -W.mT)
    assert_close(strain_rate(D), D)
    assert_close(spin(W), W)
    assert_close(strain_rate(W), torch.zeros_like(L))
    assert_close(spin(D), torch.zeros_like(L))


@given(SEEDS, st.integers(2, 5))
def test_the_trace_of_the_strain_rate_is_the_divergence(seed, d):
    field, x = RandomField(seed, d), points(4, d, seed=seed)
    D = strain_rate(jacobian(field, x))
    assert_close(D.diagonal(dim1=-2, dim2=-1).sum(-1), divergence(field, x))


@given(SEEDS)
def test_the_spin_turns_with_half_the_curl(seed):
    field, x = RandomField(seed, 3), points(4, 3, seed=seed)
    a = points(4, 3, seed=seed + 1)
    turned = (spin(jacobian(field, x)) @ a[..., None])[..., 0]
    assert_close(turned, torch.linalg.cross(curl(field, x) / 2, a))
    field, x = RandomField(seed, 2), points(4, 2, seed=seed)
    quarter = tensor([[0.0, -1.0], [1.0, 0.0]])
    assert_close(spin(jacobian(field, x)), curl(field, x)[:, None, None] / 2 * quarter)


def by_components(L, eta, p, zeta):
    """The stress entry by entry: −p δ_ij + η(L_ij + L_ji) + (ζ − ⅔η) δ_ij Σ_k L_kk."""
    d, total = L.shape[-1], sum(L[..., k, k] for k in range(L.shape[-1]))
    rows = []
    for i, j in itertools.product(range(d), repeat=2):
        friction = eta * (L[..., i, j] + L[..., j, i])
        rows.append(friction + (zeta * total - 2 * eta * total / 3 - p if i == j else 0))
    return torch.stack(rows, -1).reshape(L.shape)


@given(SEEDS, st.sampled_from([2, 3]), st.sampled_from([(), (4,), (2, 3), (1,), (0,), (2, 0)]))
def test_stress_entry_by_entry_with_parameters_for_each_point(seed, d, batch):
    L = points(*batch, d, d, seed=seed)
    eta, p, zeta = (points(*batch, seed=seed + k) + shift for k, shift in ((1, 1.0), (2, 0.0), (3, 1.0)))
    got = newtonian_stress(L, eta, p, zeta)
    assert_close(got, by_components(L, eta, p, zeta))
    assert torch.equal(got, newtonian_stress(L, viscosity=eta, pressure=p, bulk_viscosity=zeta))
    assert_close(newtonian_stress(L, eta), by_components(L, eta, 0, 0))
    numbers = 0.75, -1.5, 0.25
    assert_close(newtonian_stress(L, *numbers), by_components(L, *numbers))
    assert_close(newtonian_stress(L, *map(tensor, numbers)), by_components(L, *numbers))
    assert_close(newtonian_stress(L, eta, -1.5, zeta), by_components(L, eta, -1.5, zeta))


def test_parameters_for_each_point_of_a_square_batch():
    """A batch of three 3 × 3 matrices: a parameter belongs to a matrix, neither to a row nor to a column."""
    L, eta = points(3, 3, 3, seed=1), tensor([1.0, 2.0, 3.0])
    alone = torch.stack([newtonian_stress(A, e, e, e) for A, e in zip(L, eta.tolist(), strict=True)])
    assert_close(newtonian_stress(L, eta, eta, eta), alone)


@pytest.mark.parametrize("d", [2, 3])
def test_stress_of_the_simplest_flows(d):
    eye, p, eta, zeta = torch.eye(d, dtype=F64), 1.25, 0.5, 0.125
    shear = torch.zeros(d, d, dtype=F64)
    shear[0, 1] = 3
    want = -p * eye
    want[0, 1] = want[1, 0] = eta * 3
    assert_close(newtonian_stress(shear, eta, p, zeta), want)
    c = -0.75  # compression along every axis: no shape changes, so in space the shear viscosity has no part
    grow = newtonian_stress(c * eye, eta, p, zeta)
    assert_close(grow, (-p + d * zeta * c + (2 - 2 * d / 3) * eta * c) * eye)
    if d == 3:
        assert_close(grow, newtonian_stress(c * eye, 17.0, p, zeta))
    rotation = spin(points(d, d, seed=2))
    assert rotation.abs().max() > 0.1
    assert_close(newtonian_stress(rotation, eta, p, zeta), -p * eye)
    assert_close(newtonian_stress(torch.zeros(d, d, dtype=F64), eta, p), -p * eye)


@given(SEEDS)
def test_the_mean_normal_stress_in_space_is_pressure_and_bulk_friction(seed):
    field, x = RandomField(seed, 3), points(4, 3, seed=seed)
    stress = newtonian_stress(jacobian(field, x), 0.75, 1.25, 0.5)
    mean = stress.diagonal(dim1=-2, dim2=-1).sum(-1) / 3
    assert_close(mean, -1.25 + 0.5 * divergence(field, x))
    assert_close(stress, stress.mT)


def test_a_flow_in_the_plane_is_one_in_space_that_is_the_same_at_every_height():
    L = points(5, 2, 2, seed=4)
    space = torch.nn.functional.pad(L, (0, 1, 0, 1))
    assert_close(newtonian_stress(L, 0.75, 1.25, 0.5), newtonian_stress(space, 0.75, 1.25, 0.5)[:, :2, :2])


def test_the_stress_does_not_depend_on_the_frame_or_on_turning():
    L = points(5, 3, 3, seed=5)
    R, _ = torch.linalg.qr(torch.randn(3, 3, generator=seeded(6), dtype=F64))
    stress = newtonian_stress(L, 0.75, 1.25, 0.5)
    assert_close(newtonian_stress(R @ L @ R.T, 0.75, 1.25, 0.5), R @ stress @ R.T)
    assert_close(newtonian_stress(L + spin(points(5, 3, 3, seed=7)), 0.75, 1.25, 0.5), stress)


def test_derivatives_by_the_parameters():
    L, eye = points(3, 3, seed=8), torch.eye(3, dtype=F64)
    D, trace = strain_rate(L), L.trace()
    at = tensor(0.75), tensor(1.25), tensor(0.5)
    by_eta, by_p, by_zeta = torch.func.jacrev(lambda *k: newtonian_stress(L, *k), argnums=(0, 1, 2))(*at)
    assert_close(by_eta, 2 * D - 2 / 3 * trace * eye)
    assert_close(by_p, -eye)
    assert_close(by_zeta, trace * eye)


def test_friction_never_gives_energy():
    """The power Σ (stress + p I)_ij L_ij is 2η|D − ⅓ tr D I|² + ζ(tr D)²."""
    L = points(50, 3, 3, seed=9)
    D, trace = strain_rate(L), L.diagonal(dim1=-2, dim2=-1).sum(-1)
    power = (newtonian_stress(L, 0.75, 0.0, 0.5) * L).sum((-2, -1))
    shape = D - trace[:, None, None] / 3 * torch.eye(3, dtype=F64)
    assert_close(power, 2 * 0.75 * shape.square().sum((-2, -1)) + 0.5 * trace**2)


@pytest.mark.parametrize("dtype", [F16, F32, F64])
def test_fluids_keep_their_dtype(dtype):
    L = points(2, 3, 3, dtype=dtype)
    per_point = torch.ones(2, dtype=dtype)
    for got in (strain_rate(L), spin(L), newtonian_stress(L, 0.5, 1.0, 0.25), newtonian_stress(L, per_point)):
        assert got.dtype == dtype
        assert got.shape == (2, 3, 3)
        assert got.isfinite().all()


def test_the_gradient_of_a_velocity_field_needs_no_batch():
    L = jacobian(v, points(2, 3, 3))
    assert L.shape == strain_rate(L).shape == spin(L).shape == newtonian_stress(L, 0.5).shape == (2, 3, 3, 3)


# --- what is refused, and with which words ------------------------------------------------------------------------

TAKES_POINTS = {
    "jacobian": lambda x: jacobian(lambda p: p, x),
    "forward": lambda x: jacobian(lambda p: p, x, "forward"),
    "jacobian_by_rows": lambda x: jacobian_by_rows(lambda p: p, x),
    "jvp": lambda x: jvp(lambda p: p, x, torch.ones(2)),
    "vjp": lambda x: vjp(lambda p: p, x, torch.ones(2)),
    "log_abs_det": lambda x: log_abs_det(lambda p: p, x),
}


@pytest.mark.parametrize("mistake", BAD_POINTS)
@pytest.mark.parametrize("name", TAKES_POINTS)
def test_bad_points(name, mistake, own_errors):
    x, error, words = BAD_POINTS[mistake]
    with pytest.raises(error, match=r"^x: ") as caught:
        TAKES_POINTS[name](x)
    assert all(word in str(caught.value) for word in words), str(caught.value)


BAD_FUNCTIONS = {
    "a list": (lambda p: [p[0], p[1]], TypeError, ["expected a torch.Tensor", "got list"]),
    "a number": (lambda p: 3.0, TypeError, ["expected a torch.Tensor", "got float"]),
    "nothing": (lambda p: None, TypeError, ["expected a torch.Tensor", "got NoneType"]),
    "of lower precision": (lambda p: p.float(), TypeError, ["expected torch.float64", "got torch.float32"]),
    "whole numbers": (lambda p: p.long(), TypeError, ["expected torch.float64", "got torch.int64"]),
}
NO_OUTPUTS = (lambda p: p[:0], ValueError, ["expected at least one number at a point", "got shape (0,)"])


@pytest.mark.parametrize("batch", [(), (3,), (0,)])
@pytest.mark.parametrize("mistake", [*BAD_FUNCTIONS, "no outputs"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_bad_functions(name, mistake, batch, own_errors):
    fn, error, words = (BAD_FUNCTIONS | {"no outputs": NO_OUTPUTS})[mistake]
    if name == "log_abs_det" and mistake == "no outputs":
        words = ["expected shape (3,)", "got (0,)"]
    with pytest.raises(error, match=r"^f: ") as caught:
        FUNCTIONS[name](fn, points(*batch, 3))
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize("mistake", BAD_FUNCTIONS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_bad_functions_where_gradients_are_switched_off(name, mistake, own_errors):
    fn, error, _ = BAD_FUNCTIONS[mistake]
    with torch.no_grad(), pytest.raises(error, match=r"^f: expected "):
        FUNCTIONS[name](fn, points(4, 3))


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
@pytest.mark.parametrize(
    ("fn", "got"),
    [(lambda p: p.sum(), "()"), (lambda p: torch.outer(p, p), "(3, 3)"), (lambda p: p[None], "(1, 3)")],
    ids=["a scalar", "a matrix", "with a batch axis"],
)
def test_rows_are_those_of_a_vector(fn, got, batch, own_errors):
    with pytest.raises(ValueError, match=r"^f: expected a vector \(m,\) at one point, got shape ") as caught:
        jacobian_by_rows(fn, points(*batch, 3))
    assert str(caught.value).endswith(f"got shape {got}")


@pytest.mark.parametrize("batch", [(), (3,), (0,)])
@pytest.mark.parametrize(
    ("fn", "got"),
    [
        (lambda p: p.sum(), "()"),
        (lambda p: p[:2], "(2,)"),
        (lambda p: torch.cat([p, p]), "(6,)"),
        (lambda p: torch.outer(p, p), "(3, 3)"),
        (lambda p: p[None], "(1, 3)"),
    ],
    ids=["a scalar", "too short", "too long", "a matrix", "with a batch axis"],
)
def test_only_a_square_jacobian_has_a_determinant(fn, got, batch, own_errors):
    with pytest.raises(ValueError, match=r"^f: expected shape \(3,\) at ONE point of shape \(3,\), got ") as caught:
        log_abs_det(fn, points(*batch, 3))
    assert f"got {got};" in str(caught.value)


@pytest.mark.parametrize("mode", ["Reverse", "rev", "", None, True])
def test_unknown_modes(mode, own_errors):
    with pytest.raises(ValueError, match=r"^mode: expected 'reverse' or 'forward', got ") as caught:
        jacobian(f, AT, mode)
    assert str(caught.value).endswith(repr(mode))


BAD_VECTORS = {
    "a list": ([1.0, 1.0, 1.0], TypeError, ["got list"]),
    "a number": (1.0, TypeError, ["got float"]),
    "nothing": (None, TypeError, ["got NoneType"]),
    "of lower precision": (torch.ones(4, 3), TypeError, ["got torch.float32"]),
    "whole numbers": (torch.ones(4, 3, dtype=torch.long), TypeError, ["got torch.int64"]),
    "a scalar": (torch.ones((), dtype=F64), ValueError, ["got ()"]),
    "one for all points": (torch.ones(5, dtype=F64), ValueError, ["got (5,)"]),
    "one point too few": (torch.ones(3, 5, dtype=F64), ValueError, ["got (3, 5)"]),
    "one point for many": (torch.ones(1, 5, dtype=F64), ValueError, ["got (1, 5)"]),
    "one axis too many": (torch.ones(1, 4, 5, dtype=F64), ValueError, ["got (1, 4, 5)"]),
    "one number for many": (torch.ones(4, 1, dtype=F64), ValueError, ["got (4, 1)"]),
}


@pytest.mark.parametrize("mistake", BAD_VECTORS)
@pytest.mark.parametrize("name", ["jvp", "vjp"])
def test_bad_vectors(name, mistake, own_errors):
    """Four points, five inputs for jvp, five outputs for vjp."""
    vector, error, words = BAD_VECTORS[mistake]
    if name == "jvp":
        like, call = "like x", lambda: jvp(lambda p: p[:2], points(4, 5), vector)
    else:
        like, call = "like f(x)", lambda: vjp(lambda p: torch.cat([p, p[:2]]), points(4, 3), vector)
    words = [*words, like, "expected torch.float64" if error is TypeError else "expected shape (4, 5)"]
    with pytest.raises(error, match=r"^v: ") as caught:
        call()
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_inputs_and_outputs_are_not_mixed_up(own_errors):
    """A direction has as many entries as x, weights have as many as f(x), and one does not pass for the other."""
    with pytest.raises(ValueError, match=r"^v: expected shape \(2,\) like x, got \(3,\)$"):
        jvp(f_and_product, AT, torch.ones(3, dtype=F64))
    with pytest.raises(ValueError, match=r"^v: expected shape \(3,\) like f\(x\), got \(2,\)$"):
        vjp(f_and_product, AT, torch.ones(2, dtype=F64))
    with pytest.raises(ValueError, match=r"^v: expected shape \(\) like f\(x\), got \(1,\)$"):
        vjp(lambda p: p.sum(), AT, torch.ones(1, dtype=F64))


BAD_GRADIENTS = {
    "a list": ([[1.0]], TypeError, ["expected a torch.Tensor", "got list"]),
    "whole numbers": (torch.ones(2, 2, dtype=torch.long), TypeError, ["floating-point tensor", "got torch.int64"]),
    "no axis": (torch.tensor(1.0), ValueError, ["got ()"]),
    "one axis": (torch.ones(3), ValueError, ["expected shape (*batch, d, d)", "got (3,)"]),
    "wide": (torch.ones(2, 3), ValueError, ["expected shape (*batch, d, d)", "got (2, 3)"]),
    "tall": (torch.ones(3, 2), ValueError, ["expected shape (*batch, d, d)", "got (3, 2)"]),
    "a batch of wide ones": (torch.ones(3, 2, 3), ValueError, ["expected shape (*batch, d, d)", "got (3, 2, 3)"]),
    "empty": (torch.ones(0, 0), ValueError, ["got (0, 0)"]),
}


@pytest.mark.parametrize("mistake", BAD_GRADIENTS)
@pytest.mark.parametrize("fluid", [strain_rate, spin, lambda L: newtonian_stress(L, 1.0)], ids=["D", "W", "stress"])
def test_bad_velocity_gradients(fluid, mistake, own_errors):
    L, error, words = BAD_GRADIENTS[mistake]
    with pytest.raises(error, match=r"^L: ") as caught:
        fluid(L)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize("d", [1, 4, 7])
def test_stress_needs_the_plane_or_space(d, own_errors):
    with pytest.raises(ValueError, match=r"^L: expected matrices 2 × 2 or 3 × 3, got shape ") as caught:
        newtonian_stress(torch.ones(5, d, d), 1.0)
    assert str(caught.value).endswith(f"got shape (5, {d}, {d})")
    assert strain_rate(torch.ones(5, d, d)).shape == (5, d, d)
    assert spin(torch.ones(5, d, d)).shape == (5, d, d)


PARAMETERS = ["viscosity", "pressure", "bulk_viscosity"]


def stress_with(name, value, L=None):
    L = torch.ones(4, 3, 3) if L is None else L
    return newtonian_stress(L, **({"viscosity": 1.0} | {name: value}))


@pytest.mark.parametrize("name", ["viscosity", "bulk_viscosity"])
@pytest.mark.parametrize(
    ("value", "got"),
    [
        (-1.0, "-1"),
        (-1e-6, "-1e-06"),
        (math.nan, "nan"),
        (torch.tensor(-0.5), "-0.5"),
        (torch.tensor([1.0, 0.0, -2.0, 3.0]), "-2"),
        (torch.tensor([1.0, math.nan, 2.0, 3.0]), "nan"),
    ],
)
def test_negative_viscosities(name, value, got, own_errors):
    with pytest.raises(ValueError, match=rf"^{name}: expected numbers ≥ 0, got ") as caught:
        stress_with(name, value)
    assert str(caught.value).endswith(f"got {got}")


@pytest.mark.parametrize("name", PARAMETERS)
def test_what_parameters_may_be(name):
    """0 is a viscosity, and a pressure may be negative (water in trees)."""
    assert stress_with(name, 0.0).isfinite().all()
    assert stress_with(name, torch.zeros(4)).isfinite().all()
    assert_close(stress_with("pressure", -2.0), by_components(torch.ones(4, 3, 3), 1.0, -2.0, 0.0), tol=1e-6)
    assert stress_with(name, torch.ones(0), torch.ones(0, 3, 3)).shape == (0, 3, 3)


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize("shape", [(1,), (3,), (4, 1), (4, 1, 1), (1, 4), (3, 3), (4, 3, 3)])
def test_parameters_of_a_wrong_shape(name, shape, own_errors):
    with pytest.raises(ValueError, match=rf"^{name}: expected a number or shape \(4,\), got ") as caught:
        stress_with(name, torch.ones(shape))
    assert str(caught.value).endswith(f"got {shape}")


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_single_matrix_takes_numbers(name, own_errors):
    with pytest.raises(ValueError, match=rf"^{name}: expected a number or shape \(\), got \(1,\)$"):
        stress_with(name, torch.ones(1), torch.ones(3, 3))


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize("dtype", [F64, F16, torch.long])
def test_parameters_of_another_dtype(name, dtype, own_errors):
    with pytest.raises(TypeError, match=rf"^{name}: expected torch.float32 like L, got {dtype}$"):
        stress_with(name, torch.ones(4, dtype=dtype))


def test_a_pressure_that_is_not_a_number(own_errors):
    with pytest.raises(ValueError, match=r"^pressure: expected numbers"):
        newtonian_stress(torch.ones(3, 3), 1.0, math.nan)
