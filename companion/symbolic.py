"""The bridge from sympy to torch, and the two verbs with which the course checks its equations.

`prove` lets sympy show that two expressions are the same.  `agree` holds a sympy expression against a torch
function, values and gradients, on random points.  Both raise `Disagreement` with what went wrong, and both
return an `Agreement` that shows as one line in a notebook and is collected by `ledger`.
"""

import html
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import mpmath
import sympy as sp
import torch
from torch import Tensor

UNPRINTABLE = {  # functions without a torch counterpart, by those that have one
    sp.sec: lambda a: 1 / sp.cos(a),
    sp.csc: lambda a: 1 / sp.sin(a),
    sp.cot: lambda a: sp.cos(a) / sp.sin(a),
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

    def __str__(self) -> str:
        if self.points is None:
            return f"✓ {self.label}: {self.how}"
        return f"✓ {self.label}: {self.how}, {self.points} points, max error < {self.bound:.0e}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """The same line, with the label linked to its equation on the page."""
        text = html.escape(str(self))
        if self.label.startswith("eq-"):
            text = text.replace(self.label, f'<a href="#equation-{self.label}">{self.label}</a>', 1)
        return f'<div class="agreement">{text}</div>'


def _entries(expr) -> tuple[tuple[int, ...], list[sp.Expr]]:
    """The shape of a scalar, a vector (list or one-column Matrix) or a matrix, and its entries in row order."""
    if isinstance(expr, sp.MatrixBase):
        shape = (expr.rows,) if expr.cols == 1 else expr.shape
        return shape, [sp.sympify(e) for e in expr]
    if isinstance(expr, list | tuple):
        return (len(expr),), [sp.sympify(e) for e in expr]
    expr = sp.sympify(expr)
    if not isinstance(expr, sp.Expr):
        raise TypeError(f"expr: expected a sympy expression, vector or matrix, got {type(expr).__name__}")
    return (), [expr]


def _check_symbols(entries: Iterable[sp.Expr], symbols: tuple[sp.Symbol, ...]) -> None:
    for entry in entries:
        if unknown := sorted(entry.free_symbols - set(symbols), key=str):
            raise ValueError(f"expr: {entry} holds {unknown}, which are not among the symbols {list(symbols)}")
        if entry.has(sp.I, sp.nan, sp.zoo, sp.oo, -sp.oo):
            raise ValueError(f"expr: expected a real, finite expression, got {entry}")
        if entry.has(sp.Derivative, sp.Integral, sp.Limit, sp.Sum, sp.Subs, sp.core.function.AppliedUndef):
            raise ValueError(f"expr: {entry} still holds something unevaluated; call .doit() or substitute first")


def _lift(value, like: Tensor) -> Tensor:
    return value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64, device=like.device)


def _where(condition, a, b) -> Tensor:
    if not isinstance(condition, Tensor):  # the last branch of a Piecewise, printed as True
        condition = torch.tensor(condition)
    return torch.where(condition, _lift(a, condition), _lift(b, condition))


def _extremum(choose: Callable) -> Callable:
    def pick(a, b):
        like = a if isinstance(a, Tensor) else b
        return choose(_lift(a, like), _lift(b, like))

    return pick


# torch.where, max and min refuse Python numbers or turn them into float32: lift these to float64 tensors first.
NAMESPACE = [{"where": _where, "max": _extremum(torch.maximum), "min": _extremum(torch.minimum)}, "torch"]


def _to_torch(entry: sp.Expr, symbols: tuple[sp.Symbol, ...]) -> Callable:
    for function, replacement in UNPRINTABLE.items():
        entry = entry.replace(function, replacement)
    # torch.sqrt and its kin take no plain number, so a numeric part such as sqrt(2) is folded to a float.
    entry = entry.replace(lambda e: isinstance(e, sp.Expr) and e.is_number and not e.is_Rational, lambda e: e.evalf(20))
    return sp.lambdify(symbols, entry, modules=NAMESPACE)


def torchify(expr, *symbols: sp.Symbol) -> Callable[[Tensor], Tensor]:
    """A sympy scalar, vector or matrix as a torch function of one point.

    The function takes `x` of shape `(*batch, len(symbols))`, whose last axis holds the symbols in the given
    order, and returns `(*batch,)` for a scalar, `(*batch, m)` for a vector (a list or a one-column Matrix) and
    `(*batch, m, n)` for a matrix.  It is differentiable, follows the dtype and device of `x` and works under
    `torch.func`.

    Raises ValueError for a symbol of `expr` that is not listed, and for a part that is complex or unevaluated.

    >>> x, y = sp.symbols("x y")
    >>> field = torchify([x**2 * y, sp.sqrt(2) * x], x, y)
    >>> field(torch.tensor([1.0, 2.0]))
    tensor([2.0000, 1.4142])
    """
    shape, entries = _entries(expr)
    _check_symbols(entries, symbols)
    functions = [_to_torch(entry, symbols) for entry in entries]

    def function(x: Tensor) -> Tensor:
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise TypeError(f"x: expected a floating-point tensor, got {getattr(x, 'dtype', type(x).__name__)}")
        if x.ndim == 0 or x.shape[-1] != len(symbols):
            raise ValueError(f"x: expected shape (*batch, {len(symbols)}) for {symbols}, got {tuple(x.shape)}")
        columns = x.unbind(-1)
        # A constant entry comes back as a number: the zeros give it the batch axes.
        zeros = torch.zeros_like(columns[0])
        values = [(zeros + function(*columns)).to(x.dtype) for function in functions]
        return torch.stack(values, -1).reshape(*x.shape[:-1], *shape) if shape else values[0]

    return function


def _is_zero(residual: sp.Expr) -> sp.Expr:
    """The residual in the simplest form found, 0 if sympy can show that it vanishes."""
    residual = residual.doit()
    for simplify in (sp.expand, sp.simplify, lambda e: sp.simplify(e.rewrite(sp.exp))):
        if residual != 0:
            residual = simplify(residual)
    return residual


def prove(lhs, rhs, label: str) -> Agreement:
    """Show with sympy that `lhs − rhs` is identically zero, entry by entry.

    Takes scalars, vectors and matrices of the same shape.  Raises Disagreement with the residual where it is
    not zero or sympy cannot show that it is, ValueError where the shapes differ.

    >>> x = sp.symbols("x")
    >>> prove(sp.sin(x) ** 2 + sp.cos(x) ** 2, 1, label="eq-example")
    ✓ eq-example: proved by sympy
    """
    (left_shape, left), (right_shape, right) = _entries(lhs), _entries(rhs)
    if left_shape != right_shape:
        raise ValueError(f"{label}: lhs has shape {left_shape}, rhs has shape {right_shape}")
    for i, (a, b) in enumerate(zip(left, right, strict=True)):
        if (residual := _is_zero(a - b)) != 0:
            where = f" in entry {i}" if left_shape else ""
            raise Disagreement(f"{label}: lhs − rhs is not shown to be zero{where}; what is left: {residual}")
    return Agreement(label, "proved by sympy")


def _reference(entries: list[sp.Expr], symbols: tuple[sp.Symbol, ...], points: Tensor) -> Tensor:
    """The entries at the points by mpmath with 30 digits: it shares nothing with torch but the points."""
    function = sp.lambdify(symbols, entries, modules="mpmath", cse=True)
    rows = []
    with mpmath.workdps(30):
        for point in points.tolist():
            try:
                row = [float(value) for value in function(*map(mpmath.mpf, point))]
            except (TypeError, ZeroDivisionError, ValueError):  # complex, or a pole
                row = [float("nan")]
            if not all(map(mpmath.isfinite, row)):
                raise ValueError(f"over: the expression is not real and finite at {dict(zip(symbols, point))}")
            rows.append(row)
    return torch.tensor(rows, dtype=torch.float64).reshape(len(points), len(entries))


def _compare(label: str, what: list[str], want: Tensor, got: Tensor, points: Tensor, symbols, tol: float) -> None:
    error = (got - want).abs() / want.abs().clamp(min=1)
    wrong = ~(error <= tol)  # also true for NaN
    if wrong.any():
        i, j = wrong.nonzero()[0].tolist()
        at = ", ".join(f"{s} = {v:.6g}" for s, v in zip(symbols, points[i].tolist(), strict=True))
        raise Disagreement(
            f"{label}: expression and function disagree in {what[j]}\n  at          {at}\n"
            f"  expression  {want[i, j].item():.15g}\n  function    {got[i, j].item():.15g}\n"
            f"  error       {error[i, j].item():.2e} (allowed {tol:.0e})"
        )


def agree(
    expr,
    fn: Callable[[Tensor], Tensor],
    over: dict[sp.Symbol, tuple],
    label: str,
    points: int = 100,
    tol: float = 1e-12,
    seed: int = 0,
) -> Agreement:
    """Hold a sympy expression against a torch function on random points, values and gradients.

    `over` gives each symbol its range.  `fn` takes the points, float64 of shape `(points, len(over))` with the
    symbols in the order of `over`, and returns what `torchify` would: `(points, *shape of expr)`.  The
    expression and its derivatives are evaluated by mpmath.  The error is |got − want| / max(1, |want|).

    Raises Disagreement with the first counterexample: the point, both values, the error.

    >>> x, y = sp.symbols("x y")
    >>> agree(x * sp.exp(y), lambda p: p[..., 0] * p[..., 1].exp(), over={x: (-1, 1), y: (0, 2)}, label="eq-demo")
    ✓ eq-demo: values and gradients, 100 points, max error < 1e-12
    """
    symbols = tuple(over)
    shape, entries = _entries(expr)
    _check_symbols(entries, symbols)
    generator = torch.Generator().manual_seed(seed)
    low, high = torch.tensor(list(over.values()), dtype=torch.float64).T
    if not (low < high).all() or points < 1:
        raise ValueError(f"over: expected low < high for each symbol and points ≥ 1, got {over}, {points}")
    x = low + (high - low) * torch.rand(points, len(symbols), generator=generator, dtype=torch.float64)
    x.requires_grad_()
    y = fn(x)
    if y.shape != (points, *shape) or y.dtype != torch.float64:
        raise Disagreement(
            f"{label}: expected float64 of shape {(points, *shape)} from the function, "
            f"got {y.dtype} of shape {tuple(y.shape)}"
        )
    y = y.reshape(points, -1)
    names = [f"entry {list(i)}" if shape else "the value" for i in product(*map(range, shape))]
    _compare(label, names, _reference(entries, symbols, x), y.detach(), x, symbols, tol)
    for name, entry, column in zip(names, entries, y.unbind(-1), strict=True):
        want = _reference([entry.diff(s) for s in symbols], symbols, x)
        got = torch.zeros_like(x)
        if column.requires_grad:
            (grad,) = torch.autograd.grad(column.sum(), x, retain_graph=True, allow_unused=True)
            got = got if grad is None else grad
        _compare(label, [f"the derivative of {name} by {s}" for s in symbols], want, got, x, symbols, tol)
    return Agreement(label, "values and gradients", points, tol)


def equations(notebook: Path) -> list[str]:
    """The `eq-…` labels of a notebook's equations, in the order of the page."""
    cells = json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return re.findall(r"^:label: (eq-\S+)$", text, re.MULTILINE)


def ledger(notebook: Path) -> list[tuple[str, str]]:
    """What a notebook's stored outputs say was checked: (label, how) for each line of `prove` and `agree`."""
    cells = json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    lines = ["".join(output["data"].get("text/plain", "")) for output in outputs if "data" in output]
    return [match.groups() for line in lines if (match := re.fullmatch(r"✓ (eq-\S+): (.+)", line))]
