"""Continuous flows: a velocity field moves the points, and its divergence keeps account of the density.

Time runs from the latent, t = 0, to the data, t = 1.  A field is a function `field(t, x)`, or `field(t, x, context)`,
of points `(*batch, d)` and of a time, one for all or one for each, `(*batch)`.  It treats each point by itself.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchdiffeq import odeint

from companion.flows import Context, Flow, Numbers, Points
from companion.points import check_input, check_points, require
from companion.training import mlp


def _velocity(field: Callable[..., Tensor], t: Tensor, x: Tensor, context: Tensor | None) -> Tensor:
    """The field's velocities at the points, after making sure that there is one of the same kind for each."""
    v = field(t, x) if context is None else field(t, x, context)
    if not isinstance(v, Tensor):
        raise TypeError(f"field: expected a torch.Tensor, got {type(v).__name__}")
    if v.shape != x.shape:
        raise ValueError(f"field: expected shape {tuple(x.shape)} like the points, got {tuple(v.shape)}")
    if v.dtype != x.dtype:
        raise TypeError(f"field: expected {x.dtype} like the points, got {v.dtype}")
    return v


class VelocityNetwork(nn.Module):
    """A network as a velocity field, v(x, t), smooth because its divergence is wanted; it starts at 0.

    >>> field = VelocityNetwork(features=2)
    >>> field(torch.tensor(0.5), torch.ones(4, 2)).shape
    torch.Size([4, 2])
    """

    def __init__(self, features: int, hidden: Sequence[int] = (64, 64), context: int = 0):
        super().__init__()
        self.features, self.context = features, context
        self.net = mlp(features + 1 + context, features, hidden, nn.SiLU)

    def forward(self, t: Float[Tensor, "..."], x: Points, context: Context = None) -> Points:
        check_input(self, x, context)
        t = t.to(x.dtype).expand(x.shape[:-1])[..., None]
        return self.net(torch.cat([x, t] if context is None else [x, t, context], -1))


class ContinuousFlow(Flow):
    """A flow that never jumps: data and latent are the two ends of a path along a velocity field.

        dx/dt = v(x, t),   d log p(x(t), t)/dt = −∇·v(x(t), t),   log|det ∂x(1)/∂x(0)| = ∫₀¹ ∇·v dt

    `trace` says how ∇·v is had: "exact", by d reverse passes, or "hutchinson", from one probe ε = ±1 for a whole path,
    E[εᵀJε] = tr J, drawn from `generator`.  `method`, `rtol`, `atol` and `options` go to `odeint` of torchdiffeq, which
    derivatives then run through; `evaluations` counts what the last path took.  `features` and `context` are the
    field's own where it has them.

    Raises ValueError for an unknown `trace`, for a field without `features` where none are given, for points that are
    not finite, and for a field whose velocities are not like the points.  The solver does not bear `torch.vmap`.
    Source: Chen et al., *Neural ordinary differential equations* (2018); Grathwohl et al., *FFJORD* (2019).

    >>> flow = ContinuousFlow(lambda t, x: 2 * x, features=2)
    >>> z, log_det = flow(torch.ones(2, dtype=torch.float64))
    >>> z.log().round(decimals=4), log_det.round(decimals=4)
    (tensor([-2., -2.], dtype=torch.float64), tensor(-4., dtype=torch.float64))
    """

    def __init__(
        self,
        field: Callable[..., Tensor],
        features: int | None = None,
        context: int | None = None,
        *,
        trace: str = "exact",
        method: str = "dopri5",
        rtol: float = 1e-6,
        atol: float = 1e-6,
        options: dict | None = None,
        generator: torch.Generator | None = None,
    ):
        features = getattr(field, "features", None) if features is None else features
        if features is None:
            raise ValueError("features: expected a number of coordinates, since the field has no `features` of its own")
        if trace not in ("exact", "hutchinson"):
            raise ValueError(f"trace: expected 'exact' or 'hutchinson', got {trace!r}")
        super().__init__([], features)
        self.context = getattr(field, "context", 0) if context is None else context
        self.field, self.trace, self.generator, self.evaluations = field, trace, generator, 0
        self.solver = {"method": method, "rtol": rtol, "atol": atol, "options": options}

    def _probes(self, x: Tensor) -> Tensor:
        """What ∇·v is asked along: the d unit vectors, or one random vector of signs for each point."""
        if self.trace == "exact":
            return torch.eye(self.features, dtype=x.dtype, device=x.device)
        signs = torch.randint(2, x.shape, generator=self.generator, device=x.device)
        return 2 * signs.to(x.dtype)[None] - 1

    def _path(self, x: Tensor, context: Tensor | None, start: float, end: float) -> tuple[Tensor, Tensor]:
        """Where the points are at the end, and ∫ ∇·v dt on the way."""
        check_input(self, x, context)
        require("x", x.detach(), x.isfinite(), "finite numbers")
        self.evaluations = 0
        if not x.numel():
            return x, x.new_zeros(x.shape[:-1])  # the solver cannot choose a step for no points
        probes = self._probes(x)

        def rate(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            self.evaluations += 1
            v, pull_back = torch.func.vjp(lambda x: _velocity(self.field, t, x, context), state[0])
            return v, sum((pull_back(e.expand_as(v))[0] * e).sum(-1) for e in probes)

        times = torch.tensor([start, end], dtype=x.dtype, device=x.device)
        points, log_det = odeint(rate, (x, x.new_zeros(x.shape[:-1])), times, **self.solver)
        return points[-1], log_det[-1]

    def forward(self, x: Points, context: Context = None) -> tuple[Points, Numbers]:
        return self._path(x, context, 1.0, 0.0)

    def inverse(self, z: Points, context: Context = None) -> tuple[Points, Numbers]:
        return self._path(z, context, 0.0, 1.0)


def flow_matching_loss(
    field: Callable[..., Tensor], x: Points, context: Context = None, generator: torch.Generator | None = None
) -> Float[Tensor, ""]:
    """How far a field is, on average, from the velocities of straight paths from noise to the data.

        E |v(x_t, t) − (x − x₀)|²,   x_t = (1 − t) x₀ + t x,   x₀ ~ N(0, I),   t ~ U(0, 1)

    The mean over the points of x, each with a noise and a time of its own; the square is summed over the coordinates.
    No path is followed.  Source: Lipman et al., *Flow matching for generative modeling* (2023).

    >>> x = 3 + torch.randn(1000, 2)
    >>> still, right = (flow_matching_loss(lambda t, x: v + 0 * x, x) for v in (0.0, 3.0))
    >>> bool(right < still)
    True
    """
    if not check_points(x).numel():
        raise ValueError(f"x: expected at least one point, got shape {tuple(x.shape)}")
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
    t = torch.rand(x.shape[:-1], generator=generator, dtype=x.dtype, device=x.device)
    at = noise + t[..., None] * (x - noise)
    return ((_velocity(field, t, at, context) - (x - noise)) ** 2).sum(-1).mean()
