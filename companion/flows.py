"""Normalizing flows: invertible maps with a known change of volume, and the densities that they make.

`forward` leads from data to latent, x → z, and returns `(z, log_det)` with log|det ∂z/∂x| at each point; `inverse`
leads back, z → x, and returns `(x, log_det)` with log|det ∂x/∂z|.  Points have shape `(*batch, d)`, and the context,
on which couplings may depend, `(*batch, c)`.  `flow.double()` computes in float64, and samples in it.
"""

from collections.abc import Iterable, Sequence
from math import log, pi

import torch
from jaxtyping import Float
from torch import Tensor, nn

from companion.points import check_input, check_points
from companion.training import mlp

Points, Numbers, Context = Float[Tensor, "*batch d"], Float[Tensor, "*batch"], Float[Tensor, "*batch c"] | None


class _Coupling(nn.Module):
    """Keeps one part of the coordinates and moves the other, by what a network makes of the kept part and the context.

    The first ⌊d/2⌋ coordinates are kept, or with `swap` the others: two couplings in turn move all.
    """

    says = 1  # numbers of the network for each coordinate that moves

    def __init__(self, features: int, hidden: Sequence[int] = (64, 64), context: int = 0, swap: bool = False):
        super().__init__()
        if features < 2:
            raise ValueError(f"features: expected at least 2, one to keep and one to move, got {features}")
        self.features, self.context, self.swap = features, context, swap
        self.sizes = [features // 2, features - features // 2]
        self.net = mlp(self.sizes[swap] + context, self.says * self.sizes[not swap], hidden)  # gives 0 at first

    def _through(self, move, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        check_input(self, x, context)
        kept, part = x.split(self.sizes, -1)[:: -1 if self.swap else 1]
        said = self.net(kept if context is None else torch.cat([kept, context], -1))
        part, log_det = move(part, *said.chunk(self.says, -1))
        return torch.cat([part, kept] if self.swap else [kept, part], -1), log_det

    def forward(self, x: Points, context: Context = None) -> tuple[Points, Numbers]:
        return self._through(self.move, x, context)

    def inverse(self, z: Points, context: Context = None) -> tuple[Points, Numbers]:
        return self._through(self.back, z, context)


class AdditiveCoupling(_Coupling):
    """A coupling that shifts, the layer of NICE.

        z_kept = x_kept,   z_moved = x_moved + t(x_kept),   log_det = 0

    Raises ValueError for fewer than 2 features.  Source: Dinh, Krueger and Bengio, *NICE* (2015).

    >>> z, log_det = AdditiveCoupling(features=3)(torch.ones(4, 3))
    >>> z.shape, log_det
    (torch.Size([4, 3]), tensor([0., 0., 0., 0.]))
    """

    def move(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return x + t, x.new_zeros(x.shape[:-1])

    def back(self, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return z - t, z.new_zeros(z.shape[:-1])


class AffineCoupling(_Coupling):
    """A coupling that scales and shifts, the layer of RealNVP.

        z_kept = x_kept,   z_moved = x_moved exp(s(x_kept)) + t(x_kept),   log_det = Σ s

    The log-scale is s = bound · tanh(raw/bound).  Raises ValueError for fewer than 2 features.
    Source: Dinh, Sohl-Dickstein and Bengio, *Density estimation using Real NVP* (2017).

    >>> coupling = AffineCoupling(features=2)  # the identity, until it is trained
    >>> [part.detach() for part in coupling(torch.tensor([[1.0, 2.0]]))]
    [tensor([[1., 2.]]), tensor([0.])]
    """

    says, bound = 2, 2.0

    def log_scale(self, raw: Tensor) -> Tensor:
        return self.bound * torch.tanh(raw / self.bound)

    def move(self, x: Tensor, raw: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        s = self.log_scale(raw)
        return torch.addcmul(t, x, s.exp()), s.sum(-1)

    def back(self, z: Tensor, raw: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        s = self.log_scale(raw)
        return (z - t) / s.exp(), -s.sum(-1)


class Flip(nn.Module):
    """Reverses the order of the coordinates; log_det = 0."""

    def forward(self, x: Points, context: Context = None) -> tuple[Points, Numbers]:
        return check_points(x).flip(-1), x.new_zeros(x.shape[:-1])

    inverse = forward


class ActNorm(nn.Module):
    """Scales and shifts each coordinate, so that the first batch gets mean 0 and variance 1; then both are trained.

        z = (x − loc) exp(−log_scale),   log_det = −Σ log_scale

    The first `forward` in training with two points or more sets both, once; `inverse` never does.
    Source: Kingma and Dhariwal, *Glow* (2018), §3.1.

    >>> z, log_det = ActNorm(features=2)(torch.tensor([[0.0, 5.0], [4.0, 9.0]]))
    >>> z.detach()
    tensor([[-1., -1.],
            [ 1.,  1.]])
    """

    def __init__(self, features: int):
        super().__init__()
        self.features, self.initialized = features, False
        self.loc, self.log_scale = (nn.Parameter(torch.zeros(features)) for _ in range(2))

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.initialized)  # part of the state_dict

    def set_extra_state(self, state: Tensor) -> None:
        self.initialized = bool(state)

    def forward(self, x: Points, context: Context = None) -> tuple[Points, Numbers]:
        check_input(self, x, context)
        if self.training and not self.initialized and x.shape[:-1].numel() > 1:
            with torch.no_grad():
                std, loc = torch.std_mean(x.reshape(-1, self.features), 0, correction=0)
                self.loc.copy_(loc)
                self.log_scale.copy_(torch.where(std > 0, std, 1.0).log())  # what never varies is only shifted
            self.initialized = True
        return (x - self.loc) * (-self.log_scale).exp(), -self.log_scale.sum().expand(x.shape[:-1])

    def inverse(self, z: Points, context: Context = None) -> tuple[Points, Numbers]:
        check_input(self, z, context)
        return z * self.log_scale.exp() + self.loc, self.log_scale.sum().expand(z.shape[:-1])


class InvertibleLinear(nn.Module):
    """Mixes the coordinates by a matrix in LU form, with a known determinant and an inverse by substitution.

        z = W x,   W = P L U,   log_det = Σ log|U_ii|

    P permutes, L has ones on its diagonal, W starts as a rotation.  Source: Kingma and Dhariwal, *Glow* (2018), §3.2.

    >>> z, log_det = InvertibleLinear(features=3)(torch.ones(5, 3))
    >>> z.shape, bool((log_det.abs() < 1e-5).all())
    (torch.Size([5, 3]), True)
    """

    def __init__(self, features: int):
        super().__init__()
        self.features = features
        P, L, U = torch.linalg.lu(torch.linalg.qr(torch.randn(features, features)).Q)
        self.register_buffer("P", P)
        self.register_buffer("sign", U.diagonal().sign())
        self.log_diagonal = nn.Parameter(U.diagonal().abs().log())
        self.L, self.U = nn.Parameter(L.tril(-1)), nn.Parameter(U.triu(1))

    def _factors(self) -> tuple[Tensor, Tensor]:
        L = self.L.tril(-1) + torch.eye(self.features, dtype=self.L.dtype, device=self.L.device)
        return L, self.U.triu(1) + torch.diag(self.sign * self.log_diagonal.exp())

    def forward(self, x: Points, context: Context = None) -> tuple[Points, Numbers]:
        check_input(self, x, context)
        L, U = self._factors()
        return x @ (self.P @ L @ U).mT, self.log_diagonal.sum().expand(x.shape[:-1])

    def inverse(self, z: Points, context: Context = None) -> tuple[Points, Numbers]:
        check_input(self, z, context)
        L, U = self._factors()
        rows = z.reshape(-1, self.features) @ self.P  # P⁻¹ = Pᵀ
        rows = torch.linalg.solve_triangular(L.mT, rows, upper=True, left=False, unitriangular=True)
        rows = torch.linalg.solve_triangular(U.mT, rows, upper=False, left=False)
        return rows.reshape(z.shape), -self.log_diagonal.sum().expand(z.shape[:-1])


class Flow(nn.Module):
    """One transform after the other, from data to a standard normal latent, and the density that they make.

        log p(x) = log N(z; 0, I) + Σ log_det,   z = f_n(… f_1(x))

    `transforms` stand in the order data → latent.  Raises ValueError where one is made for other points.
    Source: Rezende and Mohamed, *Variational inference with normalizing flows* (2015).

    >>> flow = realnvp(features=2)
    >>> flow.log_prob(torch.zeros(2)).detach(), flow.sample((5,)).shape
    (tensor(-1.8379), torch.Size([5, 2]))
    """

    def __init__(self, transforms: Iterable[nn.Module], features: int):
        super().__init__()
        self.transforms, self.features = nn.ModuleList(transforms), features
        made_for = [getattr(transform, "features", features) for transform in self.transforms]
        if {*made_for} - {features}:
            raise ValueError(f"transforms: expected {features} features like the flow, got {made_for}")
        widths = {getattr(transform, "context", 0) for transform in self.transforms} - {0}
        if len(widths) > 1:
            raise ValueError(f"transforms: expected one width of context, got {sorted(widths)}")
        self.context = max(widths, default=0)

    def _run(self, steps: Iterable[tuple], x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        check_input(self, x, context)
        total = x.new_zeros(x.shape[:-1])
        for transform, step in steps:
            x, log_det = step(x, context if getattr(transform, "context", 0) else None)
            total = total + log_det
        return x, total

    def forward(self, x: Points, context: Context = None) -> tuple[Points, Numbers]:
        return self._run(((t, t) for t in self.transforms), x, context)

    def inverse(self, z: Points, context: Context = None) -> tuple[Points, Numbers]:
        return self._run(((t, t.inverse) for t in reversed(self.transforms)), z, context)

    def log_prob(self, x: Points, context: Context = None) -> Numbers:
        """The log-density at x, in nats, with all its constants."""
        z, log_det = self(x, context)
        return log_det - z.square().sum(-1) / 2 - self.features * log(2 * pi) / 2

    def sample(self, shape: Sequence[int], context: Context = None, generator: torch.Generator | None = None) -> Points:
        """Random points of shape `(*shape, d)`, from a context `(*shape, c)` where the flow takes one."""
        like = next(self.parameters(), torch.zeros(()))
        z = torch.randn(*shape, self.features, generator=generator, dtype=like.dtype, device=like.device)
        return self.inverse(z, context)[0]


def nice(features: int, layers: int = 8, hidden: Sequence[int] = (64, 64), context: int = 0) -> Flow:
    """Additive couplings that take turns in what they keep, and a scale and a shift for each coordinate at the end."""
    couplings = [AdditiveCoupling(features, hidden, context, swap=i % 2 == 1) for i in range(layers)]
    return Flow([*couplings, ActNorm(features)], features)


def realnvp(features: int, layers: int = 8, hidden: Sequence[int] = (64, 64), context: int = 0) -> Flow:
    """Affine couplings that take turns in what they keep."""
    return Flow([AffineCoupling(features, hidden, context, swap=i % 2 == 1) for i in range(layers)], features)


def glow(features: int, layers: int = 8, hidden: Sequence[int] = (64, 64), context: int = 0) -> Flow:
    """ActNorm, an invertible matrix and an affine coupling, again and again."""
    coupling = [AffineCoupling(features, hidden, context) for _ in range(layers)]
    return Flow([step for c in coupling for step in (ActNorm(features), InvertibleLinear(features), c)], features)
