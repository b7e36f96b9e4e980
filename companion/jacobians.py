"""Jacobians: a map through a magnifying glass, by rows and by columns, its volume, and a blob in a fluid.

Every `f` maps ONE point, shape `(d,)`, to a scalar `()`, a vector `(m,)` or a matrix `(m, n)`.  The point argument
`x` may carry any batch axes in front.  All results can be differentiated again and keep the dtype and device of `x`.
"""

from collections.abc import Callable
from numbers import Real

import torch
from jaxtyping import Float
from torch import Tensor

from companion.points import BLOCK, check_points, check_value, on_batch, per_block, pull_back


def _checked(f: Callable) -> Callable:
    """`f`, after making sure at each call that it gives a tensor of the point's own dtype."""
    return lambda p: check_value(f(p), p, None, "f")


def jacobian(
    f: Callable[[Tensor], Tensor], x: Float[Tensor, "*batch d"], mode: str = "reverse"
) -> Float[Tensor, "... d"]:
    """The Jacobian matrix of a function: all derivatives of all its outputs.

        J_ij = ∂f_i/∂x_j,   row i = output, column j = input

    A function with values of shape `(m,)` gives `(*batch, m, d)`, one with matrices `(m, n)` gives
    `(*batch, m, n, d)`.  "reverse" takes m passes uᵀJ, a row each; "forward" takes d passes Jw, a column each, and
    wins where d is much smaller than m.  Points and passes are taken as many at a time as fit a block of 1 MB.

    Raises TypeError where `x` is not a floating-point tensor, ValueError where `x` has no point axis, `f` returns
    no tensor of x's dtype or `mode` is neither of the two.  Source: Griewank and Walther, *Evaluating Derivatives*,
    chapter 3.

    >>> f = lambda x: torch.stack([x[0] ** 2 + 2 * x[1], 3 * x[0] + 4 * x[1] ** 2])
    >>> jacobian(f, torch.tensor([1.0, 2.0]))
    tensor([[ 2.,  2.],
            [ 3., 16.]])
    """
    check_points(x)
    if mode not in ("reverse", "forward"):
        raise ValueError(f"mode: expected 'reverse' or 'forward', got {mode!r}")
    points = x.reshape(-1, x.shape[-1])
    at_once = max(1, BLOCK // (points.shape[-1] * x.element_size()))
    passes = _by_rows if mode == "reverse" else _by_columns
    J = torch.cat([passes(_checked(f), some) for some in points.split(at_once)])
    return J.reshape(*x.shape[:-1], *J.shape[1:])


def _by_rows(f: Callable, points: Tensor) -> Tensor:
    """Reverse mode: the weights u are the unit vectors of the outputs, one row of J each."""
    value, rows, per_pass = pull_back(f, points)  # (n, *out)
    m = value.shape[1:].numel()
    blocks = []
    for i in torch.arange(m, device=points.device).split(per_pass):
        u = torch.nn.functional.one_hot(i, m).to(points.dtype).reshape(-1, 1, *value.shape[1:])
        blocks.append(rows(u.expand(-1, *value.shape)))  # (k, n, d)
    return torch.cat(blocks).movedim(0, 1).reshape(*value.shape, points.shape[-1])


def _by_columns(f: Callable, points: Tensor) -> Tensor:
    """Forward mode: the directions w are the unit vectors of the inputs, one column of J each."""
    batched = on_batch(f)
    per_pass = per_block(points, batched(points))
    w = torch.eye(points.shape[-1], dtype=points.dtype, device=points.device)[:, None].expand(-1, *points.shape)
    columns = torch.vmap(lambda w: torch.func.jvp(batched, (points,), (w,))[1], chunk_size=per_pass)
    return columns(w).movedim(0, -1)


def jacobian_by_rows(f: Callable[[Tensor], Tensor], x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch m d"]:
    """The Jacobian matrix of a vector function, put together from one `autograd.grad` an output.

        row i of J = ∇f_i

    This is what `jacobian` does, step by step and with autograd's own tools: m reverse passes over one graph.
    The result carries a graph only where `x` or something inside `f` requires a gradient.  At a single point it
    needs no vmap, so it serves functions that cannot be mapped; it cannot itself stand inside vmap or jacfwd.

    Raises TypeError where `x` is not a floating-point tensor, ValueError where `x` has no point axis or `f` does not
    return a vector.  Source: Griewank and Walther, *Evaluating Derivatives*, chapter 3.

    >>> f = lambda x: torch.stack([x[0] ** 2 + 2 * x[1], 3 * x[0] + 4 * x[1] ** 2])
    >>> jacobian_by_rows(f, torch.tensor([1.0, 2.0]))
    tensor([[ 2.,  2.],
            [ 3., 16.]])
    """
    check_points(x)
    create_graph = on_batch(_checked(f))(x).requires_grad
    with torch.inference_mode(False), torch.enable_grad():
        x = x if x.requires_grad else x.clone().requires_grad_()
        y = on_batch(_checked(f))(x)
        if y.ndim != x.ndim:
            raise ValueError(f"f: expected a vector (m,) at one point, got shape {tuple(y.shape[x.ndim - 1 :])}")
        if not y.requires_grad:  # f is constant, or cuts the graph
            return y.new_zeros(*y.shape, x.shape[-1])
        rows = []
        for i in range(y.shape[-1]):
            total = y[..., i].sum()  # over points: each keeps its own gradient
            rows += torch.autograd.grad(total, x, retain_graph=True, create_graph=create_graph, materialize_grads=True)
    return torch.stack(rows, -2)


def jvp(
    f: Callable[[Tensor], Tensor], x: Float[Tensor, "*batch d"], v: Float[Tensor, "*batch d"]
) -> Float[Tensor, "..."]:
    """How all outputs change along one direction: a Jacobian–vector product, by one forward pass.

        J v = Σ_j v_j ∂f/∂x_j

    The shape is that of f's values, `(*batch, *out)`.  Ones for `v` give the row sums of J.

    Raises what `jacobian` raises, and TypeError or ValueError where `v` differs from `x` in dtype or shape.
    Source: Griewank and Walther, *Evaluating Derivatives*, chapter 3.

    >>> f = lambda x: torch.stack([x[0] ** 2 + 2 * x[1], 3 * x[0] + 4 * x[1] ** 2])
    >>> jvp(f, torch.tensor([1.0, 2.0]), torch.ones(2))
    tensor([ 4., 19.])
    """
    _check_like(v, check_points(x), "x")
    return torch.func.jvp(on_batch(_checked(f)), (x,), (v,))[1]


def vjp(
    f: Callable[[Tensor], Tensor], x: Float[Tensor, "*batch d"], v: Float[Tensor, "..."]
) -> Float[Tensor, "*batch d"]:
    """The gradient of a weighted sum of the outputs: a vector–Jacobian product, by one reverse pass.

        vᵀJ = ∇(Σ_i v_i f_i)

    `v` has the shape of f's values, `(*batch, *out)`, a weight for each output.  Ones give the column sums of J.

    Raises what `jacobian` raises, and TypeError or ValueError where `v` differs from f's values in dtype or shape.
    Source: Griewank and Walther, *Evaluating Derivatives*, chapter 3.

    >>> f = lambda x: torch.stack([x[0] ** 2 + 2 * x[1], 3 * x[0] + 4 * x[1] ** 2])
    >>> vjp(f, torch.tensor([1.0, 2.0]), torch.ones(2))
    tensor([ 5., 18.])
    """
    value, pull = torch.func.vjp(on_batch(_checked(f)), check_points(x))
    _check_like(v, value, "f(x)")
    return pull(v)[0]


def _check_like(v: Tensor, other: Tensor, name: str) -> None:
    if not isinstance(v, Tensor) or v.dtype != other.dtype:
        raise TypeError(f"v: expected {other.dtype} like {name}, got {getattr(v, 'dtype', type(v).__name__)}")
    if v.shape != other.shape:
        raise ValueError(f"v: expected shape {tuple(other.shape)} like {name}, got {tuple(v.shape)}")


def log_abs_det(f: Callable[[Tensor], Tensor], x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
    """The logarithm of the factor by which a map changes volume.

        log |det J|

    It is −∞ where J is singular, and has no derivative there.  The sign of the determinant is not part of it:
    `torch.linalg.slogdet(J)` gives both, and there the sign is +1, −1 (the map turns left hands into right hands)
    or 0 (J is singular).  Half precision is computed in float32 and rounded.

    Raises what `jacobian` raises, and ValueError where `f` does not return a `(d,)` vector.
    Source: Golub and Van Loan, *Matrix Computations*, §3.2.

    >>> f = lambda x: torch.stack([x[0] ** 2 + 2 * x[1], 3 * x[0] + 4 * x[1] ** 2])
    >>> log_abs_det(f, torch.tensor([1.0, 2.0])).exp().round()
    tensor(26.)
    """
    J = jacobian(lambda p: check_value(f(p), p, tuple(p.shape), "f"), x)
    return torch.linalg.slogdet(J.to(torch.promote_types(J.dtype, torch.float32))).logabsdet.to(J.dtype)


def strain_rate(L: Float[Tensor, "*batch d d"]) -> Float[Tensor, "*batch d d"]:
    """The symmetric part of a velocity gradient: how fast a blob is stretched.

        D = ½(L + Lᵀ),   L_ij = ∂v_i/∂x_j,   tr D = ∇·v

    Unit: 1 per unit of time.  Raises TypeError or ValueError where `L` holds no square floating-point matrices.
    Source: Batchelor, *An Introduction to Fluid Dynamics*, §2.3.

    >>> strain_rate(torch.tensor([[0.0, 3.0], [0.0, 0.0]]))
    tensor([[0.0000, 1.5000],
            [1.5000, 0.0000]])
    """
    return (_square(L) + L.mT) / 2


def spin(L: Float[Tensor, "*batch d d"]) -> Float[Tensor, "*batch d d"]:
    """The antisymmetric part of a velocity gradient: how fast a blob is turned.

        W = ½(L − Lᵀ),   in space  W a = ½ (∇×v) × a

    Unit: 1 per unit of time.  Raises TypeError or ValueError where `L` holds no square floating-point matrices.
    Source: Batchelor, *An Introduction to Fluid Dynamics*, §2.3.

    >>> spin(torch.tensor([[0.0, 3.0], [0.0, 0.0]]))
    tensor([[ 0.0000,  1.5000],
            [-1.5000,  0.0000]])
    """
    return (_square(L) - L.mT) / 2


def newtonian_stress(
    L: Float[Tensor, "*batch d d"],
    viscosity: float | Tensor,
    pressure: float | Tensor = 0.0,
    bulk_viscosity: float | Tensor = 0.0,
) -> Float[Tensor, "*batch d d"]:
    """The stress in a Newtonian fluid with the velocity gradient L: pressure, and friction in proportion to D.

        stress = −pressure I + 2η D + (ζ − ⅔η)(tr D) I

    η is the `viscosity`, ζ the `bulk_viscosity`; where the fluid keeps its volume (tr D = 0), the last term is 0.
    The ⅔ is that of space; a flow in the plane, d = 2, is one in space that is the same at every height.
    The parameters are numbers, or tensors with a value for each matrix.  Units: Pa, Pa·s for viscosities, 1/s for L.

    Raises TypeError or ValueError where `L` holds no square floating-point matrices, d is neither 2 nor 3, a
    viscosity is negative or a parameter has another dtype than L or another shape than the batch.
    Source: Batchelor, *An Introduction to Fluid Dynamics*, §3.3.

    >>> newtonian_stress(torch.tensor([[0.0, 3.0], [0.0, 0.0]]), viscosity=0.5)
    tensor([[0.0000, 1.5000],
            [1.5000, 0.0000]])
    """
    D = strain_rate(L)
    if L.shape[-1] not in (2, 3):
        raise ValueError(f"L: expected matrices 2 × 2 or 3 × 3, got shape {tuple(L.shape)}")
    eta = _parameter(viscosity, L, "viscosity", at_least=0.0)
    zeta = _parameter(bulk_viscosity, L, "bulk_viscosity", at_least=0.0)
    p = _parameter(pressure, L, "pressure")
    trace = D.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    return 2 * eta * D + ((zeta - 2 / 3 * eta) * trace - p) * torch.eye(L.shape[-1], dtype=L.dtype, device=L.device)


def _square(L: Tensor) -> Tensor:
    """`L` itself, after making sure that it holds square floating-point matrices along its last two axes."""
    if isinstance(L, Tensor) and (L.ndim < 2 or L.shape[-1] != L.shape[-2]):
        raise ValueError(f"L: expected shape (*batch, d, d), got {tuple(L.shape)}")
    return check_points(L, "L")


def _parameter(value: float | Tensor, L: Tensor, name: str, at_least: float = -torch.inf) -> Tensor:
    """A number, or one for each matrix of L, ready to multiply the matrices."""
    if not isinstance(value, Real | Tensor):
        raise TypeError(f"{name}: expected a number or a tensor, got {type(value).__name__}")
    if isinstance(value, Tensor) and value.dtype != L.dtype:
        raise TypeError(f"{name}: expected {L.dtype} like L, got {value.dtype}")
    value = torch.as_tensor(value, dtype=L.dtype, device=L.device)
    if value.shape not in ((), L.shape[:-2]):
        raise ValueError(f"{name}: expected a number or shape {tuple(L.shape[:-2])}, got {tuple(value.shape)}")
    if not (value >= at_least).all():
        raise ValueError(f"{name}: expected numbers{' ≥ 0' * (at_least == 0)}, got {value.min().item():g}")
    return value[..., None, None]
