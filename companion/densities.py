"""Densities in the plane that are known exactly, so that a model of them can be measured and not only looked at."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import log, pi

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Density:
    """A density with all that can be known of it.

    `sample(n, generator)` draws n points, shape `(n, 2)`; `log_prob(x)` is the log-density of points `(*batch, 2)`, in
    nats; `entropy` is its entropy, in nats; outside the box from `lower` to `upper` there is less than 1e-6 of it.
    """

    name: str
    sample: Callable[[int, torch.Generator], Tensor]
    log_prob: Callable[[Float[Tensor, "*batch 2"]], Float[Tensor, "*batch"]]
    entropy: float
    lower: tuple[float, float]
    upper: tuple[float, float]

    def grid(self, nodes: int = 500) -> tuple[Tensor, float]:
        """The midpoints of nodes × nodes small boxes, shape `(nodes, nodes, 2)`, and the area of one of them."""
        (a, b), (c, d) = self.lower, self.upper
        middle = (torch.arange(nodes, dtype=torch.float64) + 0.5) / nodes
        x, y = torch.meshgrid(a + (c - a) * middle, b + (d - b) * middle, indexing="xy")
        return torch.stack([x, y], -1), (c - a) * (d - b) / nodes**2

    @torch.no_grad()
    def kl(self, log_prob: Callable[[Tensor], Tensor], nodes: int = 500) -> float:
        """KL(this density ‖ the model with this `log_prob`), in nats, by the midpoint rule on the box.

        ∫ p (log p − log q) dx
        """
        x, area = self.grid(nodes)
        log_p = self.log_prob(x)
        return float((log_p.exp() * (log_p - log_prob(x))).sum() * area)


def _normal(z: Tensor) -> Tensor:
    """The log-density of independent standard normals."""
    return -(z**2).sum(-1) / 2 - z.shape[-1] * log(2 * pi) / 2


def ring(humps: int = 8, radius: float = 2.0, scale: float = 0.2) -> Density:
    """Equal round humps on a circle.  A mixture has no closed form for its entropy: it is integrated here.

    >>> round(ring().entropy, 4)
    1.6981
    """
    angle = 2 * pi * torch.arange(humps, dtype=torch.float64) / humps
    centres = radius * torch.stack([angle.cos(), angle.sin()], -1)

    def sample(n: int, generator: torch.Generator) -> Tensor:
        which = torch.randint(humps, (n,), generator=generator)
        return centres[which] + scale * torch.randn(n, 2, generator=generator, dtype=torch.float64)

    def log_prob(x: Tensor) -> Tensor:
        humps_at_x = _normal((x[..., None, :] - centres.to(x.dtype)) / scale)
        return humps_at_x.logsumexp(-1) - log(humps) - 2 * log(scale)

    edge = radius + 7 * scale
    box = Density("ring", sample, log_prob, float("nan"), (-edge, -edge), (edge, edge))
    return replace(box, entropy=-box.kl(lambda x: torch.zeros_like(x[..., 0])))  # with log q = 0, ∫ p log p is left


def banana(noise: float = 0.3) -> Density:
    """A bent ridge: x₁ ~ N(0, 1), x₂ = x₁² − 1 + noise · N(0, 1).  The bend keeps areas, so H = log(2πe · noise).

    >>> round(banana().entropy, 4)
    1.6339
    """

    def sample(n: int, generator: torch.Generator) -> Tensor:
        u = torch.randn(n, 2, generator=generator, dtype=torch.float64)
        return torch.stack([u[:, 0], u[:, 0] ** 2 - 1 + noise * u[:, 1]], -1)

    def log_prob(x: Tensor) -> Tensor:
        u = torch.stack([x[..., 0], (x[..., 1] - x[..., 0] ** 2 + 1) / noise], -1)
        return _normal(u) - log(noise)

    return Density("banana", sample, log_prob, 1 + log(2 * pi * noise), (-5.0, -1 - 6 * noise), (5.0, 24 + 6 * noise))


def galaxy(length: float = 1.5, width: float = 0.3, turn: float = 1.0) -> Density:
    """A long hump, swirled: a point at radius r is turned by the angle turn · r.

    Turning keeps each circle, so the swirl keeps areas, and H = log(2πe · length · width).

    >>> round(galaxy().entropy, 4)
    2.0394
    """
    sizes = torch.tensor([length, width], dtype=torch.float64)

    def swirl(u: Tensor, way: int) -> Tensor:
        angle = way * turn * u.norm(dim=-1)
        c, s = angle.cos(), angle.sin()
        return torch.stack([c * u[..., 0] - s * u[..., 1], s * u[..., 0] + c * u[..., 1]], -1)

    def sample(n: int, generator: torch.Generator) -> Tensor:
        return swirl(sizes * torch.randn(n, 2, generator=generator, dtype=torch.float64), 1)

    def log_prob(x: Tensor) -> Tensor:
        return _normal(swirl(x, -1) / sizes.to(x.dtype)) - log(length * width)

    edge = max(5 * length, 6 * width)
    return Density("galaxy", sample, log_prob, 1 + log(2 * pi * length * width), (-edge, -edge), (edge, edge))
