"""The bridge from sympy to torch, and the two verbs with which the course checks its equations.

`prove` lets sympy show that two expressions are the same.  `agree` holds a sympy expression against a torch
function, values and gradients, on random points.  Both raise `Disagreement` with what went wrong, and both
return an `Agreement` that shows as one line in a notebook and is collected by `ledger`.
"""

import html
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from numbers import Real
from pathlib import Path

import mpmath
import sympy as sp
import torch
from sympy.concrete.expr_with_limits import ExprWithLimits
from sympy.core.function import AppliedUndef
from torch import Tensor

TensorMap = Callable[[Tensor], Tensor]
UNPRINTABLE = {  # functions without a torch counterpart, by those that have one
    sp.sec: lambda a: 1 / sp.cos(a),
    sp.csc: lambda a: 1 / sp.sin(a),
    sp.cot: lambda a: sp.cos(a) / sp.sin(a),
    sp.Heaviside: lambda a, at_zero: sp.Piecewise((0, a < 0), (1, a > 0), (at_zero, True)),
}


class Disagreement(AssertionError):
    """Two things that should be equal are not; the message holds the evidence."""


@dataclass(frozen=True)
class Agreement:
    """What was checked and how: one line of the book's ledger."""

    label: str
    how: str
    points: int | None = None
    bound: float | None = None

    def __repr__(self) -> str:
        if self.points is None:
            return f"✓ {self.label}: {self.how}"
        return f"✓ {self.label}: {self.how}, {self.points} points, max error < {self.bound:g}"

    def _repr_html_(self) -> str:
        """The same line, with the label linked to its equation on the page."""
        text = html.escape(repr(self))
        if self.label.startswith("eq-"):
            text = text.replace(self.label, f'<a href="#equation-{self.label}">{self.label}</a>', 1)
        return f'<div class="agreement">{text}</div>'


def _entries(expr) -> tuple[tuple[int, ...], list[sp.Expr]]:
    """The shape of a scalar, a vector (list or one-column Matrix) or a matrix, and its entries in row order."""
    if isinstance(expr, sp.MatrixExpr):
        expr = expr.as_explicit()
    if isinstance(expr, sp.MatrixBase):
        shape = (expr.rows,) if expr.cols == 1 else expr.shape
    else:
        shape = (len(expr),) if isinstance(expr, list | tuple) else ()
    entries = list(expr) if shape else [expr]
    if not entries or not all(isinstance(e, sp.Expr | Real) and not isinstance(e, bool) for e in entries):
        raise TypeError(f"expr: expected a sympy expression, a list of them or a Matrix, got {expr!r}")
    return shape, [sp.sympify(e) for e in entries]


def _check_entries(entries: list[sp.Expr], symbols: tuple[sp.Symbol, ...]) -> None:
    for entry in entries:
        if unknown := sorted(entry.free_symbols - set(symbols), key=str):
            raise ValueError(f"expr: {entry} holds {unknown}, which are not among the symbols {list(symbols)}")
        if entry.has(sp.I, sp.nan, sp.zoo, sp.oo, -sp.oo):
            raise ValueError(f"expr: expected a real, finite expression, got {entry}")
        if entry.has(sp.Derivative, ExprWithLimits, sp.Limit, sp.Subs, AppliedUndef):
            raise ValueError(f"expr: {entry} still holds something unevaluated; call .doit() or substitute first")
        if any(cases.args[-1].cond is not sp.true for cases in entry.atoms(sp.Piecewise)):
            raise ValueError(f"expr: expected a last case (…, True) in every Piecewise, got {entry}")


def _lifted(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function of tensors that takes plain numbers too; torch's own refuse these or make them float32."""

    def lifted(*args) -> Tensor:
        like = next(a for a in args if isinstance(a, Tensor))
        return function(*(a if isinstance(a, Tensor) else like.new_tensor(a, dtype=torch.float64) for a in args))

    return lifted


LIFTED = {"where": torch.where, "max": torch.maximum, "min": torch.minimum, "atan2": torch.atan2}
NAMESPACE = [{name: _lifted(function) for name, function in LIFTED.items()}, "torch"]


def _to_torch(entry: sp.Expr, symbols: tuple[sp.Symbol, ...]) -> Callable:
    for function, replacement in UNPRINTABLE.items():
        entry = entry.replace(function, replacement)
    # torch.sqrt and its kin take no plain number, and no integer of torch passes 2⁶³: these are folded to floats.
    entry = entry.replace(lambda e: e.is_number and not (e.is_Rational and abs(e.p) < 2**53), lambda e: e.evalf(30))
    if entry.has(sp.I):
        raise ValueError(f"expr: expected a real, finite expression, got {entry}")
    try:
        return sp.lambdify(symbols, entry, modules=NAMESPACE)
    except (NotImplementedError, AttributeError) as error:
        raise ValueError(f"expr: torch lacks one of the functions in {entry}") from error


def torchify(expr, *symbols: sp.Symbol) -> TensorMap:
    """A sympy scalar, vector or matrix as a torch function of one point.

    The function takes `x` of shape `(*batch, len(symbols))`, whose last axis holds the symbols in the given
    order, and returns `(*batch,)` for a scalar, `(*batch, m)` for a vector (a list or a one-column Matrix) and
    `(*batch, m, n)` for a matrix.  It is differentiable, follows the dtype and device of `x` and works under
    `torch.func`.

    Raises ValueError for a symbol that is not listed and a part that is complex, unevaluated or unknown to torch.

    >>> x, y = sp.symbols("x y")
    >>> field = torchify([x**2 * y, sp.sqrt(2) * x], x, y)
    >>> field(torch.tensor([1.0, 2.0]))
    tensor([2.0000, 1.4142])
    """
    shape, entries = _entries(expr)
    _check_entries(entries, symbols)
    functions = [_to_torch(entry, symbols) for entry in entries]

    def function(x: Tensor) -> Tensor:
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise TypeError(f"x: expected a floating-point tensor, got {getattr(x, 'dtype', type(x).__name__)}")
        if x.ndim == 0 or x.shape[-1] != len(symbols):
            raise ValueError(f"x: expected shape (*batch, {len(symbols)}) for {symbols}, got {tuple(x.shape)}")
        zeros = x.new_zeros(x.shape[:-1])  # gives the batch axes to a constant entry, which comes back as a number
        values = [(zeros + function(*x.unbind(-1))).to(x.dtype) for function in functions]
        return torch.stack(values, -1).reshape(*x.shape[:-1], *shape) if shape else values[0]

    return function


def prove(lhs, rhs, label: str, scope: str = "") -> Agreement:
    """Show with sympy that `lhs − rhs` is identically zero, entry by entry.

    Takes scalars, vectors and matrices; `scope` says what was proved where that is less than the equation claims.
    Raises Disagreement with the residual that is not shown to be zero, ValueError where the shapes differ.

    >>> x = sp.symbols("x")
    >>> prove(sp.sin(x) ** 2 + sp.cos(x) ** 2, 1, label="eq-example")
    ✓ eq-example: proved by sympy
    """
    (left_shape, left), (right_shape, right) = _entries(lhs), _entries(rhs)
    if left_shape != right_shape:
        raise ValueError(f"{label}: lhs has shape {left_shape}, rhs has shape {right_shape}")
    for i, (a, b) in enumerate(zip(left, right, strict=True)):
        residual = (a - b).doit()
        for simplify in (sp.expand, sp.simplify, lambda e: sp.simplify(e.rewrite(sp.exp))):
            residual = residual if residual == 0 else simplify(residual)
        if residual != 0:
            where = f" in entry {i}" if left_shape else ""
            raise Disagreement(f"{label}: lhs − rhs is not shown to be zero{where}; what is left: {residual}")
    return Agreement(label, f"proved by sympy for {scope}" if scope else "proved by sympy")


def _reference(entries: list[sp.Expr], symbols: tuple[sp.Symbol, ...], points: Tensor) -> Tensor:
    """The entries at the points by mpmath with 30 digits: it shares nothing with torch but the points."""
    function = sp.lambdify(symbols, entries, modules="mpmath", cse=True)
    rows = []
    with mpmath.workdps(30):
        for point in points.tolist():
            try:
                row = [float(value) for value in function(*map(mpmath.mpf, point))]
            except (TypeError, ArithmeticError, ValueError):  # complex, or a pole
                row = [float("nan")]
            if not all(map(mpmath.isfinite, row)):
                raise ValueError(f"over: the expression is not real and finite at {dict(zip(symbols, point))}")
            rows.append(row)
    return torch.tensor(rows, dtype=torch.float64).reshape(len(points), len(entries))


def _compare(label: str, what: list[str], want: Tensor, got: Tensor, points: Tensor, symbols, tol: float) -> None:
    error = (got - want).abs() / want.abs().clamp(min=1)
    for i, j in (~(error <= tol)).nonzero().tolist():  # NaN is not ≤ tol either
        at = ", ".join(f"{s} = {v:.6g}" for s, v in zip(symbols, points[i].tolist(), strict=True))
        raise Disagreement(
            f"{label}: expression and function disagree in {what[j]}\n  at          {at}\n"
            f"  expression  {want[i, j].item():.15g}\n  function    {got[i, j].item():.15g}\n"
            f"  error       {error[i, j].item():.2e} (allowed {tol:.0e})"
        )


def agree(
    expr, fn: TensorMap, over: dict[sp.Symbol, tuple], label: str, points: int = 100, tol: float = 1e-12, seed: int = 0
) -> Agreement:
    """Hold a sympy expression against a torch function on random points, values and gradients.

    `over` gives each symbol its range.  `fn` takes the points, float64 of shape `(points, len(over))` with the
    symbols in the order of `over`, and returns what `torchify` would: `(points, *shape of expr)`.  The
    expression and its derivatives are evaluated by mpmath.  The error is |got − want| / max(1, |want|).

    Raises Disagreement with the first counterexample: the point, both values, the error; ValueError for a bad
    range or an expression that is not finite in it.

    >>> x, y = sp.symbols("x y")
    >>> agree(x * sp.exp(y), lambda p: p[..., 0] * p[..., 1].exp(), over={x: (-1, 1), y: (0, 2)}, label="eq-demo")
    ✓ eq-demo: values and gradients, 100 points, max error < 1e-12
    """
    shape, entries = _entries(expr)
    _check_entries(entries, tuple(over))
    real = {s: sp.Symbol(s.name, real=True) for s in over}  # or sympy leaves the derivative of |x| unevaluated
    entries, symbols = [entry.xreplace(real) for entry in entries], tuple(real.values())
    good = [len(ends) == 2 and -math.inf < ends[0] < ends[1] < math.inf for ends in over.values()]
    if not good or not all(good) or points < 1:
        raise ValueError(f"over: expected finite low < high for each symbol and points ≥ 1, got {over}, {points}")
    low, high = torch.tensor([[float(end) for end in ends] for ends in over.values()], dtype=torch.float64).unbind(1)
    random = torch.rand(points, len(over), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = (low + (high - low) * random).requires_grad_()
    y = fn(x)
    if not isinstance(y, Tensor) or y.shape != (points, *shape) or y.dtype != torch.float64:
        got = f"{y.dtype} of shape {tuple(y.shape)}" if isinstance(y, Tensor) else type(y).__name__
        raise Disagreement(f"{label}: expected float64 of shape {(points, *shape)} from the function, got {got}")
    y = y.reshape(points, -1)
    names = [f"entry {list(i)}" if shape else "the value" for i in product(*map(range, shape))]
    _compare(label, names, _reference(entries, symbols, x), y.detach(), x, symbols, tol)
    for name, entry, column in zip(names, entries, y.unbind(-1), strict=True):
        slopes = [entry.diff(s).replace(sp.DiracDelta, lambda *_: sp.S.Zero) for s in symbols]  # no point is on a jump
        _check_entries(slopes, symbols)
        want = _reference(slopes, symbols, x)
        (got,) = torch.autograd.grad(column.sum() + 0 * x.sum(), x, retain_graph=True)  # 0: where x has no part in it
        _compare(label, [f"the derivative of {name} by {s}" for s in symbols], want, got, x, symbols, tol)
    return Agreement(label, "values and gradients", points, tol)


def _cells(notebook: Path | str) -> list[dict]:
    return json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]


def equations(notebook: Path | str) -> dict[str, str]:
    """The equations of a notebook that are labelled `eq-…`, in the order of the page: label → TeX."""
    text = "\n".join("".join(cell["source"]) for cell in _cells(notebook) if cell["cell_type"] == "markdown")
    return dict(re.findall(r"^ *```\{math\}\n *:label: *(eq-\S+) *\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL))


def ledger(notebook: Path | str) -> list[tuple[str, str]]:
    """What a notebook's stored outputs say was checked: (label, how) for each line of `prove` and `agree`."""
    outputs = [output for cell in _cells(notebook) for output in cell.get("outputs", [])]
    lines = ["".join(output.get("data", {}).get("text/plain", "")) for output in outputs]
    return [match.groups() for line in lines if (match := re.fullmatch(r"✓ (eq-\S+): (.+)", line))]
