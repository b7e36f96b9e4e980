"""companion.symbolic: sympy as torch, and the two verbs that check the course's equations.

What is compared with is mpmath, or torch written by hand; the verbs are held against wrong formulas, each of which
must be caught.
"""

import json
import math
from inspect import isfunction

import mpmath
import pytest
import sympy as sp
import torch
from hypothesis import given
from hypothesis import strategies as st

from companion.symbolic import Agreement, Disagreement, agree, equations, ledger, prove, torchify

F32, F64 = torch.float32, torch.float64
x, y, z = sp.symbols("x y z")
BATCHES = [(), (4,), (2, 3)]
FIELD = [x**2 * y, x * y**3]
VECTOR = [x * y, sp.sin(x), sp.Integer(7)]
MATRIX = sp.Matrix([[x * y, sp.exp(x), 1], [x - y, 0, sp.cos(y)]])


def shown(value):
    """Names a case by what is printed, and a function without its address, which no two processes share."""
    return value.__name__ if isfunction(value) else str(value)


def points(*shape, low=0.2, high=1.5, dtype=F64, seed=0):
    """Random points whose symbols all lie between low and high."""
    generator = torch.Generator().manual_seed(seed)
    return (low + (high - low) * torch.rand(shape, generator=generator, dtype=F64)).to(dtype)


def exact(expr, symbols, point):
    """The value at one point by mpmath with 40 digits."""
    with mpmath.workdps(40):
        numbers = {s: sp.Float(v, 40) for s, v in zip(symbols, point.tolist(), strict=True)}
        return float(sp.N(sp.sympify(expr).subs(numbers), 30))


def assert_close(got, want, tol=1e-14):
    want = torch.as_tensor(want, dtype=got.dtype)
    assert got.shape == want.shape
    assert ((got - want).abs() <= tol * want.abs().clamp(min=1e-300)).all(), f"{got} is not {want}"


# --- torchify: values -------------------------------------------------------------------------------------------

EXPRESSIONS = [
    x**2 * y - 3 * x / y,
    sp.sqrt(2) * x,
    sp.exp(2) * x + sp.pi,
    sp.exp(-((x - y) ** 2) / 2) / sp.sqrt(2 * sp.pi),
    sp.Rational(1, 3) * x + sp.Rational(22, 7),
    x ** sp.Rational(1, 3) + y ** sp.Rational(-3, 2),
    x ** sp.sqrt(2) + sp.sqrt(2) ** x + 2**y,
    sp.EulerGamma * x + sp.GoldenRatio,
    (sp.sqrt(10**12 + 1) - 10**6) * x,
    sp.factorial(25) * x,
    10**30 + x,
    x / 10**30,
    sp.sec(x) + sp.csc(y) * sp.cot(x),
    sp.tan(x) + sp.asin(x / 2) - sp.acos(x / 3) + sp.atan(y),
    sp.atan2(y, x) + sp.atan2(y, 1) + sp.atan2(2, x),
    sp.sinh(x) * sp.cosh(y) + sp.tanh(x),
    sp.log(x) * sp.log(y, 2),
    sp.erf(x) + sp.erf(sp.sqrt(2)),
    sp.loggamma(x) + sp.digamma(y) + sp.loggamma(sp.Rational(1, 3)),
    sp.Abs(x - y) + sp.sign(x - y),
    sp.Max(x, y) + sp.Min(x, 1),
    sp.Max(x, y, sp.Rational(1, 3)) * sp.Min(sp.sqrt(2), y, x),
    sp.Heaviside(x - 1) + 2 * sp.Heaviside(y - x),
    sp.Piecewise((x**2, x > 1), (y, True)),
    sp.Piecewise((sp.Rational(1, 3), x > y), (sp.sqrt(2), x > 1), (sp.Rational(1, 7), True)),
    sp.Piecewise((1, sp.And(x > sp.sqrt(2) / 2, y < 1)), (sp.pi, sp.Or(x < y, sp.Eq(y, 1))), (0, True)),
    sp.Integer(3),
    sp.Rational(1, 3),
    sp.sqrt(3),
    sp.Float("0.1"),
    2.5,
    7,
]


@pytest.mark.parametrize("expr", EXPRESSIONS, ids=str)
def test_torchify_has_the_value_that_mpmath_has(expr):
    p = points(20, 2)
    assert_close(torchify(expr, x, y)(p), [exact(expr, (x, y), q) for q in p])


@pytest.mark.parametrize("expr", EXPRESSIONS, ids=str)
def test_torchify_follows_float32_and_shares_its_batch_axes(expr):
    f = torchify(expr, x, y)
    for batch in BATCHES:
        p = points(*batch, 2, dtype=F32)
        got = f(p)
        assert got.dtype == F32
        assert got.shape == batch
        want = torch.tensor([exact(expr, (x, y), q) for q in p.reshape(-1, 2)], dtype=F64).reshape(batch)
        assert ((got.double() - want).abs() <= 1e-5 * want.abs().clamp(min=1)).all()


@pytest.mark.parametrize("batch", [*BATCHES, (0,), (2, 0)])
@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize(
    ("expr", "shape"),
    [
        (x + y, ()),
        (sp.Integer(3), ()),
        (VECTOR, (3,)),
        (tuple(VECTOR), (3,)),
        (sp.Matrix(VECTOR), (3,)),
        (sp.ImmutableMatrix(VECTOR), (3,)),
        ([x], (1,)),
        (sp.Matrix([x]), (1,)),
        (sp.Matrix([VECTOR]), (1, 3)),
        (MATRIX, (2, 3)),
        (MATRIX.T, (3, 2)),
        (sp.eye(2), (2, 2)),
        (sp.Identity(2), (2, 2)),
    ],
    ids=repr,
)
def test_torchify_adds_the_batch_axes_in_front(expr, shape, batch, dtype):
    got = torchify(expr, x, y)(points(*batch, 2, dtype=dtype))
    assert got.shape == (*batch, *shape)
    assert got.dtype == dtype


@pytest.mark.parametrize("batch", BATCHES)
def test_torchify_puts_every_entry_in_its_place(batch):
    p = points(*batch, 2)
    a, b = p.unbind(-1)
    one, zero = torch.ones_like(a), torch.zeros_like(a)
    rows = [torch.stack([a * b, a.exp(), one], -1), torch.stack([a - b, zero, b.cos()], -1)]
    assert_close(torchify(MATRIX, x, y)(p), torch.stack(rows, -2))
    assert_close(torchify(MATRIX.T, x, y)(p), torch.stack(rows, -1))
    assert_close(torchify(sp.Matrix([VECTOR]), x, y)(p), torch.stack([a * b, a.sin(), 7 * one], -1)[..., None, :])
    assert_close(torchify(VECTOR, x, y)(p), torch.stack([a * b, a.sin(), 7 * one], -1))


@pytest.mark.parametrize("expr", EXPRESSIONS, ids=str)
def test_torchify_stays_on_the_device_of_its_points(expr):
    got = torchify([expr, x], x, y)(torch.empty(3, 2, device="meta"))
    assert got.device.type == "meta"
    assert got.shape == (3, 2)


def test_torchify_takes_the_symbols_in_the_given_order():
    p = torch.tensor([2.0, 3.0, 5.0])
    assert torchify(x - 10 * y + 100 * z, x, y, z)(p) == 472
    assert torchify(x - 10 * y + 100 * z, z, x, y)(p) == 153
    assert torchify(x, x, y)(p[:2]) == 2
    assert torchify(sp.pi)(torch.ones(4, 0)).shape == (4,)


# --- torchify: derivatives --------------------------------------------------------------------------------------

SMOOTH = [e for e in EXPRESSIONS if not sp.sympify(e).has(sp.sign, sp.Heaviside, sp.Max, sp.Min, sp.Abs, sp.Piecewise)]


@pytest.mark.parametrize("expr", [e for e in SMOOTH if not sp.sympify(e).has(sp.loggamma)], ids=str)
def test_torchify_has_the_first_and_second_derivatives_that_sympy_has(expr):
    f, p = torchify(expr, x, y), points(2, seed=3)
    expr = sp.sympify(expr)
    first = [exact(expr.diff(s), (x, y), p) for s in (x, y)]
    second = [[exact(expr.diff(s, t), (x, y), p) for t in (x, y)] for s in (x, y)]
    assert torch.allclose(torch.func.grad(f)(p), torch.tensor(first, dtype=F64), rtol=1e-13, atol=1e-13)
    assert torch.allclose(torch.func.hessian(f)(p), torch.tensor(second, dtype=F64), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("expr", "slope"),
    [
        (sp.Max(x, 1) * y, lambda a, b: (b if a > 1 else 0 * b, max(a, torch.tensor(1.0)))),
        (sp.Abs(x - y), lambda a, b: ((a - b).sign(), (b - a).sign())),
        (sp.Piecewise((x**2, x > y), (sp.sqrt(2) * y, True)), lambda a, b: (2 * a, 0) if a > b else (0, math.sqrt(2))),
        (sp.loggamma(x) + sp.erf(y), lambda a, b: (a.digamma(), 2 / math.sqrt(math.pi) * (-b * b).exp())),
    ],
    ids=shown,
)
def test_torchify_has_the_derivatives_of_kinked_and_special_functions(expr, slope):
    p = points(30, 2, seed=4).requires_grad_()
    (got,) = torch.autograd.grad(torchify(expr, x, y)(p).sum(), p)
    assert torch.allclose(got, torch.tensor([slope(a, b) for a, b in p.detach()], dtype=F64), rtol=1e-13)


def test_torchify_works_under_the_transforms_of_torch_func():
    f, p = torchify(FIELD, x, y), points(5, 2, seed=5)
    jacobian = torch.vmap(torch.func.jacrev(f))(p)
    assert_close(jacobian, torchify(sp.Matrix(FIELD).jacobian([x, y]), x, y)(p))
    assert_close(torch.vmap(torch.func.jacfwd(f))(p), jacobian)
    assert_close(torch.vmap(f)(p), f(p))
    piecewise = torchify(sp.Piecewise((x, x > y), (sp.Max(y, 1), True)), x, y)
    assert_close(torch.vmap(piecewise)(p), piecewise(p))


def test_torchify_gives_matrices_a_gradient_too():
    p = points(3, 2, seed=6)
    derivative = torch.vmap(torch.func.jacrev(torchify(MATRIX, x, y)))(p)
    assert derivative.shape == (3, 2, 3, 2)
    for k, s in enumerate((x, y)):
        assert_close(derivative[..., k], torchify(MATRIX.diff(s), x, y)(p))
    assert torch.autograd.gradcheck(torchify(MATRIX, x, y), p.requires_grad_())


SAFE = st.recursive(  # expressions without poles, overflow or kinks
    st.sampled_from([x, y, z, sp.Rational(1, 2), sp.Rational(-4, 3), sp.Integer(2), sp.sqrt(2), sp.pi]),
    lambda e: st.one_of(
        st.builds(lambda a, b: a + b, e, e),
        st.builds(lambda a, b: a - b, e, e),
        st.builds(lambda a, b: sp.sin(a) * b, e, e),
        st.builds(sp.cos, e),
        st.builds(lambda a: sp.tanh(a) ** 2, e),
        st.builds(lambda a: 1 / (2 + sp.sin(a)), e),
    ),
    max_leaves=8,
)


@given(SAFE, st.integers(0, 2**31))
def test_torchify_is_sympys_evaluation_for_random_expressions(expr, seed):
    p = points(3, 3, low=-2, high=2, seed=seed)
    want = torch.tensor([exact(expr, (x, y, z), q) for q in p], dtype=F64)
    assert torch.allclose(torchify(expr, x, y, z)(p), want, rtol=1e-12, atol=1e-12)


@given(st.lists(st.tuples(st.integers(-5, 5), *[st.integers(0, 3)] * 3), min_size=1, max_size=5), st.integers(0, 2**31))
def test_torchify_is_the_polynomial_that_its_coefficients_say(terms, seed):
    p = points(2, 4, 3, low=-2, high=2, seed=seed)
    expr = sum(c * x**i * y**j * z**k for c, i, j, k in terms)
    want = sum(c * p[..., 0] ** i * p[..., 1] ** j * p[..., 2] ** k for c, i, j, k in terms)
    assert torch.allclose(torchify(expr, x, y, z)(p), want, rtol=1e-12, atol=1e-11)


# --- torchify: what it refuses ----------------------------------------------------------------------------------

P = sp.Function("P")


@pytest.mark.parametrize(
    ("expr", "words"),
    [
        (x + z, ["x + z", "[z]", "not among the symbols [x, y]"]),
        ([x, sp.Symbol("a") * y], ["a*y", "[a]"]),
        (sp.I * x, ["real, finite", "I*x"]),
        (sp.sqrt(-2) + x, ["real, finite"]),
        (sp.asin(2) * x, ["real, finite"]),
        (sp.root(-8, 3) * x, ["real, finite"]),
        (sp.oo, ["real, finite", "got oo"]),
        (sp.nan, ["real, finite", "got nan"]),
        (sp.zoo, ["real, finite", "got zoo"]),
        (sp.Matrix([[x, sp.oo]]), ["real, finite"]),
        (P(x, y), ["P(x, y)", "unevaluated"]),
        (sp.Derivative(x**2, x), ["unevaluated", ".doit()"]),
        (sp.Integral(sp.exp(-(x**2)), (x, 0, y)), ["unevaluated", ".doit()"]),
        (sp.Integral(sp.exp(-(z**2)), (z, 0, 1)), ["unevaluated", ".doit()"]),
        (sp.Sum(x**z, (z, 0, 3)), ["unevaluated", ".doit()"]),
        (sp.Product(x + z, (z, 0, 3)), ["unevaluated", ".doit()"]),
        (sp.Limit(sp.sin(z) / z, z, 0), ["unevaluated", ".doit()"]),
        (sp.Piecewise((x, x > 0)), ["Piecewise", "last case (…, True)"]),
        (sp.besselj(0, x), ["torch lacks", "besselj(0, x)"]),
        (sp.gamma(x), ["torch lacks", "gamma(x)"]),
        (sp.polygamma(1, x), ["torch lacks", "polygamma(1, x)"]),
        (sp.MatrixSymbol("A", 2, 2), ["A[0, 0]", "not among the symbols"]),
    ],
    ids=str,
)
def test_torchify_refuses_what_has_no_real_value(expr, words, own_errors):
    with pytest.raises(ValueError, match=r"^expr: ") as caught:
        torchify(expr, x, y)
    assert all(word in str(caught.value) for word in words)


NOT_AN_EXPRESSION = [None, "x", True, [True], [], sp.Matrix([]), [[x, y], [y, x]], x > 0, sp.Eq(x, y), sp.true, {x}, P]


@pytest.mark.parametrize("thing", NOT_AN_EXPRESSION, ids=repr)
def test_only_expressions_vectors_and_matrices_are_taken(thing, own_errors):
    for use in (
        lambda: torchify(thing, x, y),
        lambda: prove(thing, thing, label="eq-test"),
        lambda: agree(thing, lambda p: p[..., 0], over={x: (0, 1)}, label="eq-test"),
    ):
        with pytest.raises(TypeError, match=r"^expr: expected a sympy expression, a list of them or a Matrix, got "):
            use()


@pytest.mark.parametrize(
    ("p", "error", "words"),
    [
        ([1.0, 2.0], TypeError, ["x:", "floating-point tensor", "got list"]),
        (torch.tensor([1, 2]), TypeError, ["x:", "floating-point tensor", "got torch.int64"]),
        (torch.tensor([1j, 2j]), TypeError, ["x:", "floating-point tensor", "got torch.complex64"]),
        (torch.ones(3), ValueError, ["x:", "(*batch, 2)", "(x, y)", "got (3,)"]),
        (torch.ones(2, 1), ValueError, ["x:", "(*batch, 2)", "got (2, 1)"]),
        (torch.tensor(1.0), ValueError, ["x:", "(*batch, 2)", "got ()"]),
    ],
    ids=str,
)
def test_a_torchified_function_refuses_what_is_not_a_point(p, error, words, own_errors):
    with pytest.raises(error) as caught:
        torchify(x + y, x, y)(p)
    assert all(word in str(caught.value) for word in words)


# --- prove ------------------------------------------------------------------------------------------------------

a, b, c, d = sp.symbols("a b c d")
s, t = sp.symbols("s t", positive=True)
A, B = sp.Matrix([[a, b], [c, d]]), sp.Matrix([[x, y], [z, 1]])
DIVERGENCE = sp.Derivative(P(x, y), x) + sp.Derivative(sp.Function("Q")(x, y), y)

RIGHT = [
    (sp.sin(x) ** 2 + sp.cos(x) ** 2, 1),
    ((x + y) ** 2, x**2 + 2 * x * y + y**2),
    (sp.log(s * t), sp.log(s) + sp.log(t)),
    (sp.cosh(x), (sp.exp(x) + sp.exp(-x)) / 2),
    (sp.tanh(x), 1 - 2 / (sp.exp(2 * x) + 1)),
    (sp.Derivative(x**2 * y, x) + sp.Derivative(x * y**3, y), 2 * x * y + 3 * x * y**2),
    (sp.Derivative(x * P(x, y), x), P(x, y) + x * sp.Derivative(P(x, y), x)),
    (sp.Derivative(P(x, y), x, y), sp.Derivative(P(x, y), y, x)),
    (sp.Integral(2 * x, (x, 0, y)), y**2),
    (sp.Integral(sp.exp(x) * sp.cos(x), (x, 0, y)), (sp.exp(y) * (sp.sin(y) + sp.cos(y)) - 1) / 2),
    (sp.Integral(sp.exp(-(x**2) / 2), (x, -sp.oo, sp.oo)), sp.sqrt(2 * sp.pi)),
    ([x + x, y], [2 * x, y]),
    ((x, y), sp.Matrix([x, y])),
    ((A * B).T, B.T * A.T),
    (A * A.adjugate(), A.det() * sp.eye(2)),
    (sp.Matrix([[x, y]]), sp.Matrix([[y, x]])[:, ::-1]),
    (sp.Identity(2) * sp.MatrixSymbol("M", 2, 2), sp.MatrixSymbol("M", 2, 2)),
    (0, 0),
]


@pytest.mark.parametrize(("lhs", "rhs"), RIGHT, ids=str)
def test_prove_shows_what_is_true(lhs, rhs):
    shown = prove(lhs, rhs, label="eq-true")
    assert shown == Agreement("eq-true", "proved by sympy")


WRONG = {
    "a dropped ½": (sp.Integral(x, (x, 0, y)), y**2),
    "a flipped sign": (sp.Derivative(sp.cos(x), x), sp.sin(x)),
    "a transposed matrix": (A, A.T),
    "a product in the wrong order": (A * B, B * A),
    "a transposed product": ((A * B).T, A.T * B.T),
    "swapped arguments": (P(x, y), P(y, x)),
    "swapped variables": (x / y, y / x),
    "the source's ∂Q/∂x": (DIVERGENCE, sp.Derivative(P(x, y), x) + sp.Derivative(sp.Function("Q")(x, y), x)),
    "a wrong last entry of a vector": ([x, y, z], [x, y, -z]),
    "a wrong first entry of a vector": ([x, y, z], [2 * x, y, z]),
    "a wrong entry of a matrix": (sp.eye(2), sp.Matrix([[1, 0], [y, 1]])),
    "a forgotten product rule": (sp.Derivative(x * P(x, y), x), x * sp.Derivative(P(x, y), x)),
    "a forgotten inner derivative": (sp.Derivative(sp.exp(2 * x), x), sp.exp(2 * x)),
    "true on half the line only": (sp.sqrt(x**2), x),
    "true for positive numbers only": (sp.log(x * y), sp.log(x) + sp.log(y)),
    "true at whole numbers only": (sp.sin(sp.pi * x), 0),
    "a constant off by a little": (sp.pi, sp.Rational(355, 113)),
    "a float off by a little": (x, 1.000001 * x),
    "a missing constant": (x**2 / 2 + 1, x**2 / 2),
    "an integral that sympy cannot do": (sp.Integral(P(x, y), (x, 0, 1)), P(1, y)),
    "infinite": (sp.oo, sp.oo),
    "undefined": (sp.nan, sp.nan),
    "undefined in one entry": ([x, sp.zoo], [x, sp.zoo]),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_prove_catches(mistake):
    with pytest.raises(Disagreement, match=r"^eq-wrong: lhs − rhs is not shown to be zero"):
        prove(*WRONG[mistake], label="eq-wrong")


def test_prove_says_for_what_it_was_proved():
    assert repr(prove(2 * x, x + x, label="eq-twice")) == "✓ eq-twice: proved by sympy"
    assert repr(prove(2 * x, x + x, label="eq-twice", scope="d = 1")) == "✓ eq-twice: proved by sympy for d = 1"


def test_prove_says_where_and_what_is_left():
    with pytest.raises(Disagreement, match=r"^eq-wrong: .* zero; what is left: x\*y$"):
        prove(3 * x * y, 2 * x * y, label="eq-wrong")
    with pytest.raises(Disagreement, match=r"^eq-wrong: .* zero in entry 2; what is left: -y$"):
        prove([x, y, z], [x, y, z + y], label="eq-wrong")


@pytest.mark.parametrize(
    ("lhs", "rhs"),
    [([x, y], [x, y, z]), (x, [x]), (sp.Matrix([[x, y]]), [x, y]), (sp.eye(2), sp.eye(3)), (MATRIX, MATRIX.T)],
    ids=str,
)
def test_prove_refuses_different_shapes(lhs, rhs, own_errors):
    with pytest.raises(ValueError, match=r"^eq-shapes: lhs has shape \(.*\), rhs has shape \(.*\)$"):
        prove(lhs, rhs, label="eq-shapes")


# --- agree ------------------------------------------------------------------------------------------------------

OVER = {x: (-1, 2), y: (0.5, 1.5)}


def field(p):
    return torch.stack([p[..., 0] ** 2 * p[..., 1], p[..., 0] * p[..., 1] ** 3], -1)


def jacobian(p):
    return torch.vmap(torch.func.jacrev(field))(p)


def rule(p):
    """The divergence of the field, by hand."""
    return 2 * p[..., 0] * p[..., 1] + 3 * p[..., 0] * p[..., 1] ** 2


RULE = 2 * x * y + 3 * x * y**2
JACOBIAN = sp.Matrix(FIELD).jacobian([x, y])


@pytest.mark.parametrize(
    ("expr", "fn"),
    [
        (RULE, rule),
        (FIELD, field),
        (tuple(FIELD), field),
        (sp.Matrix(FIELD), field),
        (sp.Matrix([FIELD]), lambda p: field(p)[..., None, :]),
        (JACOBIAN, jacobian),
        (sp.Integer(3), lambda p: 3 + 0 * p[..., 0]),
        (sp.Integer(3), lambda p: torch.full(p.shape[:-1], 3.0, dtype=F64)),
        (y, lambda p: p[..., 1]),
        (sp.Abs(x) + sp.sign(x) + sp.Heaviside(x), lambda p: p[..., 0].abs() + p[..., 0].sign() + (p[..., 0] > 0)),
        (sp.Max(x, y), lambda p: p.amax(-1)),
        (sp.Piecewise((x**2, x > 0), (0, True)), lambda p: p[..., 0].relu() ** 2),
        (
            sp.exp(-(x**2) / 2) / sp.sqrt(2 * sp.pi),
            lambda p: torch.distributions.Normal(0, 1).log_prob(p[..., 0]).exp(),
        ),
        (sp.loggamma(y) + sp.erf(x), lambda p: p[..., 1].lgamma() + p[..., 0].erf()),
    ],
    ids=shown,
)
def test_agree_passes_what_is_right(expr, fn):
    assert agree(expr, fn, over=OVER, label="eq-right") == Agreement("eq-right", "values and gradients", 100, 1e-12)
    assert agree(expr, fn, over=OVER, label="eq-right", points=7, tol=1e-9, seed=5).points == 7


class WrongGradient(torch.autograd.Function):
    """The right value with half the gradient: what a hand-written backward pass gets wrong."""

    @staticmethod
    def forward(context, value):
        return value.clone()

    @staticmethod
    def backward(context, gradient):
        return gradient / 2


def shift_where(p, where):
    return rule(p) + torch.where(where, 1e-3, 0.0)


DISAGREE = {
    "a value off by 1e-9": (RULE, lambda p: rule(p) + 1e-9, "the value"),
    "a factor off by 1e-9": (RULE, lambda p: rule(p) * (1 + 1e-9), "the value"),
    "a flipped sign": (RULE, lambda p: -rule(p), "the value"),
    "zeros": (RULE, lambda p: 0 * rule(p), "the value"),
    "the source's ∂Q/∂x": (RULE, lambda p: 2 * p[..., 0] * p[..., 1] + p[..., 1] ** 3, "the value"),
    "swapped symbols": (RULE, lambda p: rule(p.flip(-1)), "the value"),
    "a detached gradient": (RULE, lambda p: rule(p.detach()), "the derivative of the value by x"),
    "half the gradient": (RULE, lambda p: WrongGradient.apply(rule(p)), "the derivative of the value by x"),
    "one gradient detached": (x + y, lambda p: p[..., 0] + p[..., 1].detach(), "the derivative of the value by y"),
    "a gradient where none belongs": (x, lambda p: p[..., 0] + p[..., 1] - p[..., 1].detach(), "the value by y"),
    "NaN at a point": (RULE, lambda p: rule(torch.where(p[..., :1] > 1.9, torch.nan, p)), "the value"),
    "NaN everywhere": (RULE, lambda p: rule(p) * torch.nan, "the value"),
    "infinite": (RULE, lambda p: rule(p) / 0, "the value"),
    "NaN in the gradient": (sp.Abs(x), lambda p: (p[..., 0] ** 2).sqrt() + 0 * (p[..., 1] * 0).sqrt(), "by y"),
    "wrong on a small region": (RULE, lambda p: shift_where(p, (p[..., 0] > 1.8) & (p[..., 1] > 1.3)), "the value"),
    "wrong at the last point": (RULE, lambda p: shift_where(p, torch.arange(len(p)) == len(p) - 1), "the value"),
    "the batch's mean taken off": (x, lambda p: p[..., 0] - p[..., 0].mean() + 0.5, "the value"),
    "a gradient across the batch": (x, lambda p: p[..., 0] + p[..., 0].mean() - p[..., 0].mean().detach(), "by x"),
    "the batch reversed": (RULE, lambda p: rule(p.flip(0)), "the value"),
    "a wrong first entry": (FIELD, lambda p: field(p) + torch.tensor([1e-6, 0]), "entry [0]"),
    "a wrong last entry": (FIELD, lambda p: field(p) + torch.tensor([0, 1e-6]), "entry [1]"),
    "a wrong gradient of the last entry": (
        FIELD,
        lambda p: torch.stack([field(p)[:, 0], field(p)[:, 1].detach()], -1),
        "the derivative of entry [1] by x",
    ),
    "a transposed matrix": (JACOBIAN, lambda p: jacobian(p).mT, "entry [0, 1]"),
    "a matrix with its rows swapped": (JACOBIAN, lambda p: jacobian(p).flip(-2), "entry [0, 0]"),
    "a wrong gradient of one entry of a matrix": (
        JACOBIAN,
        lambda p: torch.where(torch.tensor([[False, False], [True, False]]), jacobian(p).detach(), jacobian(p)),
        "the derivative of entry [1, 0] by y",
    ),
}


@pytest.mark.parametrize("mistake", DISAGREE)
def test_agree_catches(mistake):
    expr, fn, what = DISAGREE[mistake]
    with pytest.raises(Disagreement, match=r"^eq-wrong: expression and function disagree in ") as caught:
        agree(expr, fn, over=OVER, label="eq-wrong")
    assert what in str(caught.value).splitlines()[0]


def test_a_disagreement_holds_the_evidence():
    with pytest.raises(Disagreement) as caught:
        agree(x, lambda p: p[..., 0] + 0.25 * (p[..., 0] > 1.9), over=OVER, label="eq-evidence")
    first, at, expression, function, error = str(caught.value).splitlines()
    assert first == "eq-evidence: expression and function disagree in the value"
    assert at.split()[:3] == ["at", "x", "="]
    where = float(at.split()[3].strip(","))
    assert 1.9 < where < 2
    assert 0.5 < float(at.split()[6]) < 1.5
    assert float(expression.split()[1]) == pytest.approx(where, abs=1e-5)
    assert float(function.split()[1]) == pytest.approx(where + 0.25, abs=1e-5)
    assert float(error.split()[1]) == pytest.approx(0.25 / where, rel=1e-2)
    assert error.endswith("(allowed 1e-12)")


def test_the_first_counterexample_is_shown():
    seen = []
    agree(x, lambda p: seen.append(p.detach()) or p[..., 0], over=OVER, label="eq-first")
    third = seen[0][2]
    with pytest.raises(Disagreement) as caught:
        agree(x, lambda p: p[..., 0] + (torch.arange(len(p)) >= 2), over=OVER, label="eq-first")
    assert f"x = {third[0]:.6g}, y = {third[1]:.6g}" in str(caught.value)


def test_agree_draws_its_points_from_the_ranges_and_the_seed():
    def drawn(**options):
        seen = []
        agree(x * y, lambda p: seen.append(p.detach()) or p.prod(-1), over=OVER, label="eq-seed", **options)
        (p,) = seen
        return p

    p = drawn()
    assert p.dtype == F64
    assert p.shape == (100, 2)
    assert drawn(points=3).shape == (3, 2)
    for column, (low, high) in zip(p.unbind(-1), OVER.values(), strict=True):
        assert low < column.min() < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < column.max() < high
    assert abs(torch.corrcoef(p.T)[0, 1]) < 0.3
    torch.manual_seed(1)
    assert torch.equal(drawn(), p)
    assert torch.equal(drawn(seed=0), p)
    assert not torch.equal(drawn(seed=1), p)


def test_the_error_is_relative_for_large_values_and_absolute_for_small_ones():
    large, small = {x: (1e6, 2e6)}, {x: (1e-6, 2e-6)}
    agree(x**2, lambda p: p[..., 0] ** 2 * (1 + 1e-10), over=large, label="eq-error", tol=1e-9)
    agree(x**2, lambda p: p[..., 0] ** 2 + 1e-10, over=small, label="eq-error", tol=1e-9)
    with pytest.raises(Disagreement):
        agree(x**2, lambda p: p[..., 0] ** 2 * (1 + 1e-8), over=large, label="eq-error", tol=1e-9)
    with pytest.raises(Disagreement):
        agree(x**2, lambda p: p[..., 0] ** 2 + 1e-8, over=small, label="eq-error", tol=1e-9)


@pytest.mark.parametrize(
    ("fn", "words"),
    [
        (lambda p: rule(p)[:, None], ["(100,)", "torch.float64 of shape (100, 1)"]),
        (lambda p: rule(p).sum(), ["(100,)", "torch.float64 of shape ()"]),
        (lambda p: field(p), ["(100,)", "torch.float64 of shape (100, 2)"]),
        (lambda p: rule(p).float(), ["float64 of shape (100,)", "torch.float32 of shape (100,)"]),
        (lambda p: 3.0, ["float64 of shape (100,)", "got float"]),
        (lambda p: None, ["float64 of shape (100,)", "got NoneType"]),
    ],
)
def test_agree_catches_a_result_of_the_wrong_kind(fn, words):
    with pytest.raises(Disagreement, match=r"^eq-kind: expected float64 of shape ") as caught:
        agree(RULE, fn, over=OVER, label="eq-kind")
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    "over",
    [{}, {x: (1, 0)}, {x: (1, 1)}, {x: (0, math.nan)}, {x: (0, math.inf)}, {x: (0, 1, 2)}, {x: (0, 1), y: (2, 1)}],
    ids=str,
)
def test_agree_refuses_a_bad_range(over, own_errors):
    with pytest.raises(ValueError, match=r"^over: expected finite low < high for each symbol") as caught:
        agree(sp.Integer(1), lambda p: torch.ones(len(p), dtype=F64), over=over, label="eq-over")
    assert f"got {over}" in str(caught.value)


@pytest.mark.parametrize("number", [0, -1])
def test_agree_refuses_to_check_nothing(number, own_errors):
    with pytest.raises(ValueError, match=rf"points ≥ 1, got .*, {number}$"):
        agree(x, lambda p: p[..., 0], over={x: (0, 1)}, label="eq-none", points=number)


def test_agree_refuses_a_symbol_without_a_range(own_errors):
    with pytest.raises(ValueError, match=r"^expr: x\*y holds \[y\], which are not among the symbols \[x\]$"):
        agree(x * y, lambda p: p[..., 0], over={x: (0, 1)}, label="eq-missing")


@pytest.mark.parametrize(
    ("expr", "fn"),
    [
        (sp.log(x), lambda p: p[..., 0].log()),
        (sp.sqrt(x), lambda p: p[..., 0].sqrt()),
        (x ** sp.Rational(1, 3), lambda p: p[..., 0] ** (1 / 3)),
        (sp.acos(x), lambda p: p[..., 0].acos()),
        (1 / sp.Max(0, x), lambda p: p[..., 0]),
        (sp.exp(10**4 * y), lambda p: (10**4 * p[..., 1]).exp()),
        ([y, sp.log(x)], lambda p: torch.stack([p[..., 1], p[..., 0].log()], -1)),
    ],
    ids=shown,
)
def test_agree_refuses_a_range_in_which_the_expression_is_singular(expr, fn, own_errors):
    with pytest.raises(ValueError, match=r"^over: the expression is not real and finite at \{x: .*, y: .*\}$"):
        agree(expr, fn, over=OVER, label="eq-singular")


# --- what is shown and what is collected ------------------------------------------------------------------------


def test_an_agreement_shows_as_one_line():
    assert str(Agreement("eq-a", "proved by sympy")) == "✓ eq-a: proved by sympy"
    checked = Agreement("eq-b", "values and gradients", 100, 1e-12)
    assert repr(checked) == str(checked) == "✓ eq-b: values and gradients, 100 points, max error < 1e-12"
    assert str(Agreement("eq-b", "values", 7, 2.5e-9)).endswith("max error < 2.5e-09")


def test_an_agreement_links_its_equation_and_escapes_the_rest():
    page = Agreement("eq-a", "values and gradients", 100, 1e-12)._repr_html_()
    assert page.startswith('<div class="agreement">✓ <a href="#equation-eq-a">eq-a</a>: values')
    assert page.endswith("max error &lt; 1e-12</div>")
    assert "<a" not in Agreement("def-a", "proved by sympy")._repr_html_()
    nasty = Agreement('eq-"<script>', "<b>&</b>")._repr_html_()
    assert "<script>" not in nasty
    assert "<b>" not in nasty
    assert "&lt;b&gt;&amp;&lt;/b&gt;" in nasty


def test_an_agreement_cannot_be_changed():
    with pytest.raises(AttributeError):
        Agreement("eq-a", "proved by sympy").label = "eq-b"


@pytest.fixture
def notebook(tmp_path):
    """Three equations and a definition; one is proved, one agrees, one is claimed in ways that do not count."""

    def shown(text):
        return {"output_type": "execute_result", "data": {"text/plain": text}, "metadata": {}}

    cells = [
        {"cell_type": "markdown", "source": ["```{math}\n", ":label: eq-one\n", "a = b\n", "```\n"]},
        {"cell_type": "code", "source": "prove(1, 1, label='eq-one')", "outputs": [shown("✓ eq-one: proved by sympy")]},
        {
            "cell_type": "markdown",
            "source": "- item\n  ```{math}\n  :label: eq-two \n  c\n  ```\n\n:label: def-three\n",
        },
        {
            "cell_type": "code",
            "source": "```{math}\n:label: eq-code\nf\n```",
            "outputs": [
                {"output_type": "stream", "name": "stdout", "text": "✓ eq-printed: proved by sympy"},
                shown(["✓ eq-two: values and gradients, ", "100 points, max error < 1e-12"]),
                {"output_type": "display_data", "data": {"image/png": "…"}, "metadata": {}},
                {"output_type": "error", "ename": "Disagreement", "evalue": "✓ eq-three: proved", "traceback": []},
            ],
        },
        {
            "cell_type": "markdown",
            "source": "```{math}\n:label: eq-three\ne\n```\nSee {eq}`eq-one`, or :label: eq-in-text.",
        },
        {
            "cell_type": "code",
            "source": "",
            "outputs": [shown("'✓ eq-three: proved by sympy'"), shown("✓ def-x: fine")],
        },
        {"cell_type": "raw", "source": "```{math}\n:label: eq-raw\ng\n```"},
    ]
    path = tmp_path / "chapter.ipynb"
    path.write_text(json.dumps({"cells": cells, "nbformat": 4, "nbformat_minor": 5, "metadata": {}}), encoding="utf-8")
    return path


def test_equations_lists_the_labelled_equations_in_order(notebook):
    found = equations(notebook)
    assert list(found) == ["eq-one", "eq-two", "eq-three"]
    assert [tex.strip() for tex in found.values()] == ["a = b", "c", "e"]
    assert equations(str(notebook)) == found


def test_ledger_lists_what_the_stored_outputs_show(notebook):
    assert ledger(notebook) == [
        ("eq-one", "proved by sympy"),
        ("eq-two", "values and gradients, 100 points, max error < 1e-12"),
    ]


def test_what_prove_and_agree_show_is_what_the_ledger_reads(tmp_path):
    results = [prove(x, x, label="eq-p"), agree(x, lambda p: p[..., 0], over={x: (0, 1)}, label="eq-q")]
    outputs = [{"data": {"text/plain": repr(result)}} for result in results]
    path = tmp_path / "page.ipynb"
    path.write_text(json.dumps({"cells": [{"cell_type": "code", "source": "", "outputs": outputs}]}), encoding="utf-8")
    assert [label for label, _ in ledger(path)] == ["eq-p", "eq-q"]
