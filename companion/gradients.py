"""Gradients: the slope in every direction, the curvature, what autograd keeps for them, and walking downhill.

Every `f` maps ONE point, shape `(d,)`, to a scalar `()`.  The point argument `x` may carry any batch axes in front.
All results can be differentiated again and keep the dtype and device of `x`.
"""

import html
import math
import warnings
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from companion.points import BLOCK, check_points, check_value, check_whole, on_batch


def _scalar(f: Callable) -> Callable:
    """`f`, after making sure at each call that it gives a scalar."""
    return lambda p: check_value(f(p), p, (), "f")


def gradient(f: Callable[[Tensor], Tensor], x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
    """The gradient of a scalar function: all its partial derivatives at a point.

        ∇f = (∂f/∂x₁, …, ∂f/∂x_d)

    One reverse pass gives all d of them.  Unit: that of `f` per unit of length.

    Raises TypeError where `x` is not a floating-point tensor or `f` returns none of x's dtype, ValueError where `x`
    has no point axis or `f` does not return a scalar.  Source: Marsden and Tromba, *Vector Calculus*, §2.6.

    >>> f = lambda p: p[0] ** 2 + p[0] * p[1] + p[2]
    >>> gradient(f, torch.tensor([-1.0, 2.0, 3.0]))
    tensor([ 0., -1.,  1.])
    """
    return on_batch(torch.func.grad(_scalar(f)))(check_points(x))


def directional_derivative(
    f: Callable[[Tensor], Tensor], x: Float[Tensor, "*batch d"], direction: Float[Tensor, "..."]
) -> Float[Tensor, "*batch"]:
    """The slope of a function along a direction: its change per unit of length for one who walks that way.

        D_e f = ∇f · e,   |e| = 1

    It holds where f is differentiable.  `direction` is one unit vector `(d,)` for all points, or one a point, of
    the shape of `x`.  Unit: that of `f` per unit of length.

    Raises what `gradient` raises, and ValueError for a `direction` of another shape, of length 0, or of a length
    that differs from 1 by more than the square root of its dtype's precision.
    Source: Marsden and Tromba, *Vector Calculus*, §2.6.

    >>> f = lambda p: p[0] ** 2 + p[0] * p[1] + p[2]
    >>> directional_derivative(f, torch.tensor([-1.0, 2.0, 3.0]), torch.tensor([2.0, -1.0, 2.0]) / 3)
    tensor(1.)
    """
    check_points(x), check_points(direction, "direction")
    if direction.dtype != x.dtype:
        raise TypeError(f"direction: expected {x.dtype} like x, got {direction.dtype}")
    if direction.shape not in (x.shape, x.shape[-1:]):
        raise ValueError(
            f"direction: expected shape {tuple(x.shape[-1:])}, or that of x, {tuple(x.shape)}, "
            f"got {tuple(direction.shape)}"
        )
    length = direction.norm(dim=-1)
    if (length == 0).any():
        raise ValueError("direction: expected a unit vector, got the zero vector, which points nowhere")
    off = (length - 1).abs()
    if not (off <= torch.finfo(x.dtype).eps ** 0.5).all():
        raise ValueError(
            f"direction: expected length 1, got {length.flatten()[off.argmax()]:.9g}; divide it by its norm()"
        )
    return (gradient(f, x) * direction).sum(-1)


def hessian(f: Callable[[Tensor], Tensor], x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d d"]:
    """The Hessian matrix of a scalar function: how its gradient changes from place to place.

        H_ij = ∂²f / ∂x_i ∂x_j

    Row i is the gradient of ∂f/∂x_i.  As many points at a time as fit a block of 1 MB (at least one).
    Unit: that of `f` per unit of length squared.

    Raises what `gradient` raises.  Source: Marsden and Tromba, *Vector Calculus*, §3.3.

    >>> hessian(lambda p: p[0] ** 2 * p[1] + 3 * p[1] ** 2, torch.tensor([1.0, 2.0]))
    tensor([[4., 2.],
            [2., 6.]])
    """
    d = check_points(x).shape[-1]
    at_once = max(1, BLOCK // (d * d * x.element_size()))
    return on_batch(torch.func.jacrev(torch.func.grad(_scalar(f))), at_once)(x)


class Description(dict):
    """What autograd knows of a tensor; shows as a table of two columns."""

    def _cells(self) -> list[tuple[str, str]]:
        return [(name, " ".join(str(value).split())) for name, value in self.items()]

    def __repr__(self) -> str:
        return "\n".join(f"{name:15}{value}" for name, value in self._cells())

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><th>{name}</th><td>{html.escape(value)}</td></tr>" for name, value in self._cells())
        return f'<table class="description">{rows}</table>'


def describe(tensor: Tensor) -> Description:
    """What autograd knows of a tensor: data, grad, requires_grad, grad_fn, is_leaf, as a table.

    `data` and `grad` are copies, so the table stays true to its moment.  `grad_fn` is the name of the operation
    that made the tensor, None where autograd has recorded none.  Raises TypeError for anything but a tensor.

    >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> describe(3 * x)
    data           tensor([3., 6.])
    grad           None
    requires_grad  True
    grad_fn        MulBackward0
    is_leaf        False
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"tensor: expected a torch.Tensor, got {type(tensor).__name__}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns whoever asks a non-leaf for its grad; the table says is_leaf
        grad = tensor.grad
    return Description(
        data=tensor.detach().clone(),
        grad=None if grad is None else grad.detach().clone(),
        requires_grad=tensor.requires_grad,
        grad_fn=None if tensor.grad_fn is None else tensor.grad_fn.name(),
        is_leaf=tensor.is_leaf,
    )


def gradient_descent(
    f: Callable[[Tensor], Tensor], x0: Float[Tensor, "*batch d"], lr: float, steps: int, momentum: float = 0.0
) -> Float[Tensor, "points *batch d"]:
    """The path of gradient descent from `x0`, with the starting point: steps + 1 points along the first axis.

        G ← momentum · G + ∇f(x),   x ← x − lr · G,   from G = 0

    Each point of a batch walks alone.  A learning rate too large for f is not an error: the path grows.

    Raises what `gradient` raises, and ValueError unless lr > 0 is finite, `steps` ≥ 0 is whole and
    0 ≤ `momentum` < 1.  Source: Polyak (1964), doi:10.1016/0041-5553(64)90137-5.

    >>> gradient_descent(lambda p: (p**2).sum(), torch.tensor([8.0]), lr=0.25, steps=3).flatten()
    tensor([8., 4., 2., 1.])
    """
    check_points(x0, "x0")
    if not 0 < lr < math.inf:
        raise ValueError(f"lr: expected a finite learning rate > 0, got {lr!r}")
    check_whole(steps, "steps", least=0)
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum: expected 0 ≤ momentum < 1, got {momentum!r}")
    slope = on_batch(torch.func.grad(_scalar(f)))
    path, G = [x0], torch.zeros_like(x0)
    for _ in range(steps):
        G = momentum * G + slope(path[-1])
        path.append(path[-1] - lr * G)
    return torch.stack(path)
