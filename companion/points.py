"""What every function of a point shares: `x` of shape `(*batch, d)`, and fields that know one point only."""

from collections.abc import Callable

import torch
from torch import Tensor

BLOCK = 2**20  # bytes of derivatives held at once: small blocks stay in the cache and beat one big one


def check_points(x: Tensor, name: str = "x") -> Tensor:
    """`x` itself, after making sure that it holds floating-point points along its last axis."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(f"{name}: expected a floating-point tensor, got {x.dtype}; write 1.0, or call .double()")
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ValueError(f"{name}: expected shape (*batch, d) with d ≥ 1, got {tuple(x.shape)}")
    return x


def check_value(value: Tensor, x: Tensor, shape: tuple[int, ...] | None, name: str) -> Tensor:
    """`value` itself, after making sure that the function `name` gave it the right shape and dtype at one point x.

    Where `shape` is None, any shape will do that holds a number.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor at one point, got {type(value).__name__}")
    if shape is None and value.numel() == 0:
        raise ValueError(f"{name}: expected at least one number at a point, got shape {tuple(value.shape)}")
    if shape is not None and value.shape != shape:
        raise ValueError(
            f"{name}: expected shape {shape} at ONE point of shape {tuple(x.shape)}, got {tuple(value.shape)}; "
            f"batch axes are added for you"
        )
    if value.dtype != x.dtype:
        raise TypeError(f"{name}: expected {x.dtype} like the point, got {value.dtype}")
    return value


def on_batch(fn: Callable[[Tensor], Tensor], at_once: int | None = None) -> Callable[[Tensor], Tensor]:
    """`fn` of one point `(d,)` as a function of `(*batch, d)`, for all points at once or for `at_once` of them."""

    def batched(x: Tensor) -> Tensor:
        if x.ndim == 1:
            return fn(x)  # one point needs no vmap, and some functions do not bear it
        points = x.reshape(-1, x.shape[-1])
        # Not every operation can be mapped over no points: an empty batch runs at one, whose value is dropped again.
        some = points if len(points) else points.new_zeros(1, points.shape[-1])
        value = torch.vmap(fn, chunk_size=at_once)(some)[: len(points)]
        return value.reshape(x.shape[:-1] + value.shape[1:])

    return batched


def per_block(points: Tensor, value: Tensor) -> int:
    """How many passes over these points, with these values, fit a block of 1 MB (at least one)."""
    return max(1, BLOCK // (max(1, points.numel(), value.numel()) * points.element_size()))


def pull_back(fn: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor], int]:
    """Run `fn` once at all points of x, ready for reverse passes.

    Returns its values `(n, *out)` at the n points; the map from k sets of weights `(k, n, *out)` to the k rows uᵀJ
    at each point, `(k, n, d)`; and how many passes fit a block of 1 MB (at least one).
    """
    points = x.reshape(-1, x.shape[-1])
    value, vjp = torch.func.vjp(on_batch(fn), points)
    return value, torch.vmap(lambda u: vjp(u)[0]), per_block(points, value)
