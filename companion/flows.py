"""Normalizing flows: invertible maps with a known change of volume, and the densities they make.

`forward` leads from data to latent, x → z, and returns `(z, log_det)` with log_det = log|det ∂z/∂x| at each point;
`inverse` leads back, z → x, and returns `(x, log_det)` with log|det ∂x/∂z|.  Points have shape `(*batch, d)`, the
optional context, on which everything may depend, `(*batch, c)`, and log-determinants `(*batch,)`.
"""

from collections.abc import Iterable, Sequence
from math import log, pi

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.linalg import solve_triangular

from companion.points import check_points

Points, Numbers = Float[Tensor, "*batch d"], Float[Tensor, "*batch"]
Context = Float[Tensor, "*batch c"] | None


def _network(inputs: int, outputs: int, hidden: Sequence[int]) -> nn.Sequential:
    """A network that gives 0 at first, so that a coupling starts as the identity."""
    sizes = [inputs, *hidden]
    layers = [m for a, b in zip(sizes, sizes[1:]) for m in (nn.Linear(a, b), nn.ReLU())]
    last = nn.Linear(sizes[-1], outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)


class _Coupling(nn.Module):
    """Keeps one part of the coordinates, and moves the other in a way that only the kept part and the context decide.

    The first ⌊d/2⌋ coordinates are kept, or with `swap` the last ⌈d/2⌉; so two couplings in turn move all of them.
    """

    outputs = 1  # numbers that the network gives for each moved coordinate

    def __init__(self, features: int, hidden: Sequence[int] = (64, 64), context: int = 0, swap: bool = False):
        super().__init__()
        if features < 2:
            raise ValueError(f"features: expected at least 2, one to keep and one to move, got {features}")
        self.features, self.context, self.swap = features, context, swap
        self.first = features // 2
        kept, moved = self.first, features - self.first
        if swap:
            kept, moved = moved, kept
        self.net = _network(kept + context, self.outputs * moved, hidden)

    def _parts(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """The kept part, the part to move, and what the network says about it."""
        _check(self, x, context)
        a, b = x[..., : self.first], x[..., self.first :]
        kept, moved = (b, a) if self.swap else (a, b)
        return kept, moved, self.net(kept if context is None else torch.cat([kept, context], -1))

    def _joined(self, kept: Tensor, moved: Tensor) -> Tensor:
        return torch.cat([moved, kept] if self.swap else [kept, moved], -1)
