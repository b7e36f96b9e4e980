"""What the companion's functions share: what they refuse, points `(*batch, d)`, fields that know one point only."""

from collections.abc import Callable
from numbers import Real

import torch
from torch import Tensor, nn

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


def require(name: str, value: Tensor, holds: Tensor, expected: str) -> None:
    """Make sure that something holds of every number in `value`; the complaint shows the first of which it does not."""
    if not holds.all():
        raise ValueError(f"{name}: expected {expected}, got {value[~holds.expand_as(value)][0].item():.9g}")


def check_whole(value: object, name: str, least: int = 1) -> None:
    """Make sure that `value` is a whole number, and not below `least`.  True and 2.0 are none."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}: expected a whole number ≥ {least}, got {value!r}")


def require_finite(what: str, values: Tensor, start: int = 1) -> None:
    """Make sure that nothing overflowed at the times start, start + 1, …, which are the first axis of `values`."""
    if not (finite := values.isfinite()).all():
        t = start + finite.reshape(len(finite), -1).all(1).tolist().index(False)
        raise ValueError(f"{what} is no longer finite at time {t}; use smaller weights or observations")


def check_sequences(obs: Tensor, mask: Tensor | None, like: Tensor) -> tuple[Tensor, Tensor]:
    """Sequences `(n, T, p)` from `(*batch, T, p)`, 0 after their ends, and the mask `(n, T)` that says where those are.

    They have to be of the width and dtype of `like`, a parameter `(p,)`, and finite where the mask is True.
    """
    if check_points(obs, "obs").ndim < 3 or obs.shape[-1] != len(like) or 0 in obs.shape:
        expected = f"(*batch, T, {len(like)}) with a batch axis and T ≥ 1"
        raise ValueError(f"obs: expected shape {expected}, got {tuple(obs.shape)}")
    if obs.dtype != like.dtype:
        raise TypeError(f"obs: expected {like.dtype} like the parameters, got {obs.dtype}")
    mask = torch.ones_like(obs[..., 0], dtype=torch.bool) if mask is None else mask
    if not isinstance(mask, Tensor):
        raise TypeError(f"mask: expected a torch.Tensor, got {type(mask).__name__}")
    if mask.dtype != torch.bool or mask.shape != obs.shape[:-1]:
        got = f"{mask.dtype} of shape {tuple(mask.shape)}"
        raise ValueError(f"mask: expected torch.bool of shape {tuple(obs.shape[:-1])}, got {got}")
    if not mask[..., 0].all() or (mask[..., 1:] & ~mask[..., :-1]).any():
        raise ValueError("mask: expected True from the first time to the last of each sequence, then False")
    obs = torch.where(mask[..., None], obs, 0.0)
    require("obs", obs.detach(), obs.isfinite(), "finite numbers")
    return obs.flatten(0, -3), mask.flatten(0, -2)


def check_alike(*, numbers: bool = False, **values: float | Tensor) -> list[Tensor]:
    """The values, after making sure that they are floating-point tensors of one dtype and one shape.

    With `numbers`, single numbers, plain or in a tensor, may stand among them; they come back as tensors too.
    """
    for name, value in values.items():
        if not isinstance(value, Tensor | Real if numbers else Tensor):
            raise TypeError(f"{name}: expected a torch.Tensor{' or a number' * numbers}, got {type(value).__name__}")
        if isinstance(value, Tensor) and not value.is_floating_point():
            raise TypeError(
                f"{name}: expected a floating-point tensor, got {value.dtype}; write 1.0, or call .double()"
            )
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    first = max(tensors, key=lambda name: tensors[name].ndim > 0, default="")  # the first that holds more than a number
    like = tensors.get(first, torch.zeros(()))
    for name, value in tensors.items():
        if value.dtype != like.dtype:
            raise TypeError(f"{name}: expected {like.dtype} like {first}, got {value.dtype}")
        if value.shape != like.shape and not (numbers and value.ndim == 0):
            raise ValueError(f"{name}: expected shape {tuple(like.shape)} like {first}, got {tuple(value.shape)}")
    return [torch.as_tensor(value, dtype=like.dtype, device=like.device) for value in values.values()]


def check_covariance(cov: Tensor, loc: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """The covariance, symmetric to the last digit and in its derivatives, and its Cholesky factor L, cov = L Lᵀ.

    It has to be symmetric up to rounding, positive definite, and of a shape that goes with `loc`, `(*batch, d)`.
    """
    shape = (*loc.shape, loc.shape[-1])
    if check_points(cov, name).shape != shape:
        raise ValueError(f"{name}: expected shape {shape} beside a mean of {tuple(loc.shape)}, got {tuple(cov.shape)}")
    if cov.dtype != loc.dtype:
        raise TypeError(f"{name}: expected {loc.dtype} like the mean, got {cov.dtype}")
    require(name, cov, cov.isfinite(), "finite numbers")
    skew = (cov - cov.mT).abs().amax((-2, -1))
    allowed = 100 * torch.finfo(cov.dtype).eps * cov.abs().amax((-2, -1))
    require(name, skew, skew <= allowed, "a symmetric matrix, |Σ − Σᵀ| = 0 but for rounding")
    cov = (cov + cov.mT) / 2
    L, stopped = torch.linalg.cholesky_ex(cov)
    if stopped.any():
        smallest = torch.linalg.eigvalsh(cov.detach())[..., 0]
        require(name, smallest, stopped == 0, "a positive definite matrix, its smallest eigenvalue > 0")
    return cov, L


def _some_parameter(module: nn.Module) -> Tensor | None:
    """The first parameter, ten times as fast as by `module.parameters()`, which counts in a small layer."""
    found = next(iter(module._parameters.values()), None)
    children = iter(module._modules.values())
    while found is None and (child := next(children, None)) is not None:
        found = _some_parameter(child)
    return found


def check_input(made_for: nn.Module, x: Tensor, context: Tensor | None) -> None:
    """Make sure that points and context are what a module with `features` and `context` was made for."""
    if check_points(x).shape[-1] != made_for.features:
        raise ValueError(f"x: expected shape (*batch, {made_for.features}), got {tuple(x.shape)}")
    like = _some_parameter(made_for)
    if like is not None and x.dtype != like.dtype:
        raise TypeError(f"x: expected {like.dtype} like the parameters, got {x.dtype}; see .double() and .float()")
    if context is not None and check_points(context, "context").dtype != x.dtype:
        raise TypeError(f"context: expected {x.dtype} like x, got {context.dtype}")
    width = getattr(made_for, "context", 0)
    expected = (*x.shape[:-1], width) if width else None
    got = None if context is None else tuple(context.shape)
    if got != expected:
        raise ValueError(f"context: expected {expected and f'shape {expected}'}, got {got and f'shape {got}'}")


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
