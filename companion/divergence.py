"""Divergence, and what is built from it: curl, Laplacian, flux through a box.

Every `field` maps ONE point, shape `(d,)`, to a vector `(d,)`; every `f` maps one point to a scalar `()`.  The
point argument `x` may carry any batch axes in front.  All results can be differentiated again and keep the dtype
and device of `x`.
"""

from collections.abc import Callable
from itertools import product

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from companion.points import check_points, check_value, check_whole, on_batch, pull_back


def _vector(field: Callable) -> Callable:
    """`field`, after making sure at each call that it gives a vector of the point's own size."""
    return lambda p: check_value(field(p), p, tuple(p.shape), "field")


def divergence(field: Callable[[Tensor], Tensor], x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
    """The divergence of a vector field: how fast it thins out what it carries.

        ∇·v = Σᵢ ∂vᵢ/∂xᵢ = tr J,   J_ij = ∂vᵢ/∂x_j

    The exact value by d reverse passes, as many at a time as fit a block of 1 MB (at least one), so memory does
    not grow as batch × d × d (only a graph, recorded to differentiate the result again, keeps what each pass computed).
    Unit: that of `field` per unit of length.

    Raises TypeError where `x` is not a floating-point tensor, ValueError where `x` has no point axis or `field`
    does not return a `(d,)` vector.  Source: Marsden and Tromba, *Vector Calculus*, §4.4.

    >>> field = lambda p: torch.stack([p[0] ** 2 * p[1], p[0] * p[1] ** 3])
    >>> divergence(field, torch.tensor([1.0, 2.0]))
    tensor(16.)
    """
    check_points(x)
    value, rows, per_pass = pull_back(_vector(field), x)
    d = x.shape[-1]
    total = torch.zeros_like(value[:, 0])
    for i in torch.arange(d, device=x.device).split(per_pass):
        basis = torch.nn.functional.one_hot(i, d).to(x.dtype)  # (k, d): one unit vector a pass
        jacobian_rows = rows(basis[:, None, :].expand(-1, *value.shape))
        total = total + torch.einsum("knd,kd->n", jacobian_rows, basis)
    return total.reshape(x.shape[:-1])


def hutchinson_divergence(
    field: Callable[[Tensor], Tensor],
    x: Float[Tensor, "*batch d"],
    probes: int = 1,
    generator: torch.Generator | None = None,
    distribution: str = "rademacher",
) -> Float[Tensor, "*batch"]:
    """An unbiased estimate of the divergence from random probes, one reverse pass each instead of d.

        E[εᵀJε] = tr J   where E[εεᵀ] = I

    With S = ½(J + Jᵀ), one probe has the variance 2 Σ_{i≠j} S_ij² for ε = ±1 ("rademacher", the default) and
    2 Σ_ij S_ij² for ε ~ N(0, I) ("gaussian"); `probes` of them divide it by `probes`.  The same generator state
    gives the same estimate.

    Raises what `divergence` raises, and ValueError for `probes` < 1 or an unknown distribution.
    Source: Hutchinson (1990), doi:10.1080/03610919008812866.

    >>> field = lambda p: torch.stack([p[0] ** 2 * p[1], p[0] * p[1] ** 3])
    >>> x = torch.tensor([1.0, 2.0])
    >>> hutchinson_divergence(field, x, 10_000, torch.Generator().manual_seed(0)).round()
    tensor(16.)
    """
    check_points(x)
    check_whole(probes, "probes")
    if distribution not in ("rademacher", "gaussian"):
        raise ValueError(f"distribution: expected 'rademacher' or 'gaussian', got {distribution!r}")
    value, rows, per_pass = pull_back(_vector(field), x)
    total = torch.zeros_like(value[:, 0])
    for start in range(0, probes, per_pass):
        shape = (min(per_pass, probes - start), *value.shape)
        if distribution == "gaussian":
            probe = torch.randn(shape, generator=generator, dtype=x.dtype, device=x.device)
        else:
            probe = torch.randint(2, shape, generator=generator, device=x.device).to(x.dtype) * 2 - 1
        total = total + torch.einsum("knd,knd->n", rows(probe), probe)
    return (total / probes).reshape(x.shape[:-1])


def curl(field: Callable[[Tensor], Tensor], x: Float[Tensor, "*batch d"]) -> Float[Tensor, "..."]:
    """The curl of a field in space, or its one component in the plane: twice the local rate of rotation.

        d = 3:  ∇×v = (∂v₃/∂x₂ − ∂v₂/∂x₃,  ∂v₁/∂x₃ − ∂v₃/∂x₁,  ∂v₂/∂x₁ − ∂v₁/∂x₂),  shape (*batch, 3)
        d = 2:  ∂v₂/∂x₁ − ∂v₁/∂x₂,  shape (*batch)

    Raises what `divergence` raises, and ValueError in any other dimension, where there is no curl.
    Source: Marsden and Tromba, *Vector Calculus*, §4.4.

    >>> spin = lambda p: torch.stack([-p[1], p[0]])
    >>> curl(spin, torch.tensor([[0.0, 0.0], [3.0, 1.0]]))
    tensor([2., 2.])
    """
    check_points(x)
    d = x.shape[-1]
    if d not in (2, 3):
        raise ValueError(f"x: curl needs points of the plane or of space, d = 2 or 3, got d = {d}")
    J = on_batch(torch.func.jacrev(_vector(field)))(x)
    if d == 2:
        return J[..., 1, 0] - J[..., 0, 1]
    return torch.stack([J[..., k, j] - J[..., j, k] for j, k in ((1, 2), (2, 0), (0, 1))], -1)


def laplacian(f: Callable[[Tensor], Tensor], x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
    """The Laplacian of a scalar function, which is the divergence of its gradient.

        Δf = ∇·∇f = Σᵢ ∂²f/∂xᵢ²

    Unit: that of `f` per unit of length squared.  Raises TypeError where `x` is not a floating-point tensor,
    ValueError where `f` does not return a scalar.  Source: Marsden and Tromba, *Vector Calculus*, §4.4.

    >>> laplacian(lambda p: p[0] ** 2 * p[1], torch.tensor([1.0, 2.0]))
    tensor(4.)
    """
    return divergence(torch.func.grad(lambda p: check_value(f(p), p, (), "f")), x)


def flux(
    field: Callable[[Tensor], Tensor],
    lower: Float[Tensor, "*batch d"],
    upper: Float[Tensor, "*batch d"],
    nodes: int = 16,
) -> Float[Tensor, "*batch"]:
    """The outward flux of a field through the surface of a box, by Gauss–Legendre quadrature on every face.

        ∮ v·n dS = Σᵢ ∫ [vᵢ(xᵢ = upperᵢ) − vᵢ(xᵢ = lowerᵢ)] Π_{j≠i} dx_j

    `lower` and `upper` are opposite corners.  Each face carries nodesᵈ⁻¹ points; the rule is exact for
    polynomials up to degree 2·nodes − 1 in each variable.  Unit: that of `field` times length to the d − 1.

    Raises what `divergence` raises, and ValueError where the corners differ in shape or dtype or are out of order,
    for `nodes` < 1 and for more than a million points on a face.
    Source: Marsden and Tromba, *Vector Calculus*, chapter 8.

    >>> field = lambda p: torch.stack([p[0] ** 2 * p[1], p[0] * p[1] ** 3])
    >>> flux(field, torch.tensor([0.0, 0.0]), torch.tensor([1.0, 1.0])).round(decimals=4)
    tensor(1.)
    """
    check_points(lower, "lower"), check_points(upper, "upper")
    if lower.shape != upper.shape or lower.dtype != upper.dtype:
        raise ValueError(
            f"upper: expected shape {tuple(lower.shape)} and {lower.dtype} like lower, "
            f"got {tuple(upper.shape)} and {upper.dtype}"
        )
    size = upper - lower
    if not ((size > 0) & size.isfinite()).all():
        raise ValueError(f"upper: expected finite coordinates above lower's, got lower {lower}, upper {upper}")
    check_whole(nodes, "nodes")
    d = lower.shape[-1]
    if nodes ** (d - 1) > 10**6:
        raise ValueError(f"nodes: a face in {d} dimensions takes nodes^{d - 1} points, over a million for {nodes}")
    rule = np.polynomial.legendre.leggauss(nodes)
    t, w = (torch.as_tensor(a / 2, dtype=lower.dtype, device=lower.device) for a in rule)
    grid = torch.tensor([*product(range(nodes), repeat=d - 1)], device=lower.device, dtype=torch.long)
    inside, weights = 0.5 + t[grid], w[grid].prod(-1)  # of a unit face, which for d = 1 is one point of weight 1
    evaluate = on_batch(_vector(field))
    total = torch.zeros_like(lower[..., 0])
    for i in range(d):
        area = torch.cat([size[..., :i], size[..., i + 1 :]], -1).prod(-1)
        for side, sign in ((1.0, 1), (0.0, -1)):
            face = torch.cat([inside[:, :i], inside.new_full((len(inside), 1), side), inside[:, i:]], -1)
            v = evaluate(lower[..., None, :] + size[..., None, :] * face)
            total = total + sign * area * (v[..., i] * weights).sum(-1)
    return total
