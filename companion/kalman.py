"""The Kalman filter: the exact answer for states that move linearly and observations that see them linearly.

    z₁ ~ N(m0, P0),   zₜ = A zₜ₋₁ + N(0, Q),   xₜ = C zₜ + N(0, R)

States z have shape `(*batch, T, d)`, observations x `(*batch, T, p)`; NaN marks a number that is missing.  Everything
can be differentiated by the observations and by the six arguments, and keeps their dtype and device.
"""

from collections.abc import Sequence
from math import log, pi
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from companion.points import check_covariance, check_points, check_whole, require

Observations = Float[Tensor, "*batch T p"]


class Moments(NamedTuple):
    """Means and covariances, one of each for every time: `(*batch, T, n)` and `(*batch, T, n, n)`."""

    mean: Tensor
    cov: Tensor


class Filtered(NamedTuple):
    """What the filter knows: of zₜ before it sees xₜ, and after; and log p(xₜ | x₁ … xₜ₋₁), shape `(*batch, T)`."""

    predicted: Moments
    updated: Moments
    log_likelihood: Tensor


def _times(M: Tensor, v: Tensor) -> Tensor:
    """M v, for any batch axes of either."""
    return (M @ v[..., None])[..., 0]


def _between(M: Tensor, P: Tensor) -> Tensor:
    """M P Mᵀ: the covariance of M z, where P is that of z."""
    return M @ P @ M.mT


def predict(mean: Tensor, cov: Tensor, A: Tensor, Q: Tensor) -> Moments:
    """One step ahead: what is known of A z + N(0, Q), from what is known of z.

        m ← A m,   P ← A P Aᵀ + Q

    >>> predict(torch.tensor([1.0]), torch.tensor([[2.0]]), torch.tensor([[0.5]]), torch.tensor([[1.0]]))
    Moments(mean=tensor([0.5000]), cov=tensor([[1.5000]]))
    """
    return Moments(_times(A, mean), _between(A, cov) + Q)


def update(mean: Tensor, cov: Tensor, x: Tensor, C: Tensor, R: Tensor) -> tuple[Moments, Tensor]:
    """What is known of z once x = C z + N(0, R) has been seen, and log p(x) before it was.

        S = C P Cᵀ + R,   K = P Cᵀ S⁻¹,   m ← m + K (x − C m),   P ← (I − K C) P (I − K C)ᵀ + K R Kᵀ

    The last line is Joseph's form: an error of K enters it by its square only.  Numbers of x that are NaN tell nothing
    and are left out of the likelihood.

    >>> z, log_p = update(*(torch.tensor(v) for v in ([0.0], [[1.0]], [2.0], [[1.0]], [[1.0]])))
    >>> z, log_p
    (Moments(mean=tensor([1.]), cov=tensor([[0.5000]])), tensor(-2.2655))
    """
    seen = ~x.isnan()
    innovation = torch.where(seen, x, 0.0) - _times(C, mean)
    if not seen.all():
        # A missing number becomes one of its own, 0, which is seen to be 0 and has nothing to do with z.
        w = seen.to(x.dtype)
        C, R = w[..., None] * C, w[..., None] * R * w[..., None, :] + torch.diag_embed(1 - w)
        innovation = w * innovation
    S = _between(C, cov) + R
    factor = torch.linalg.cholesky(S)
    K = torch.cholesky_solve(C @ cov, factor).mT
    kept = torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device) - K @ C
    white = torch.linalg.solve_triangular(factor, innovation[..., None], upper=False)[..., 0]
    log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    log_p = -(white.square().sum(-1) + log_det + seen.sum(-1, dtype=x.dtype) * log(2 * pi)) / 2
    return Moments(mean + _times(K, innovation), _between(kept, cov) + _between(K, R)), log_p


class LinearGaussianModel:
    """A linear state-space model with normal noise, and all that can be asked of it exactly.

        z₁ ~ N(m0, P0),   zₜ = A zₜ₋₁ + N(0, Q),   xₜ = C zₜ + N(0, R)

    `A` `(d, d)`, `C` `(p, d)`, `m0` `(d,)`.  `Q`, `P0` `(d, d)` and `R` `(p, p)` are covariances, not standard
    deviations: R positive definite, Q and P0 without negative eigenvalues.

    Raises ValueError for shapes that do not fit together, and for what is no covariance; TypeError where the dtypes
    differ.  Source: Kalman (1960), doi:10.1115/1.3662552; Rauch, Tung and Striebel (1965), doi:10.2514/3.3166.

    >>> one = torch.eye(1)
    >>> model = LinearGaussianModel(A=one, C=one, Q=one, R=one, m0=torch.zeros(1), P0=one)
    >>> model.log_likelihood(torch.tensor([[10.0], [-10.0]]))
    tensor(-72.6426)
    """

    def __init__(self, A: Tensor, C: Tensor, Q: Tensor, R: Tensor, m0: Tensor, P0: Tensor):
        given = {"A": A, "C": C, "Q": Q, "R": R, "P0": P0}
        d = check_points(m0, "m0").shape[-1]
        p = check_points(C, "C").shape[0]
        shapes = {"A": (d, d), "C": (p, d), "Q": (d, d), "R": (p, p), "P0": (d, d)}
        _require_shape("m0", m0, (d,))
        require("m0", m0.detach(), m0.isfinite(), "finite numbers")
        for name, value in given.items():
            if check_points(value, name).dtype != m0.dtype:
                raise TypeError(f"{name}: expected {m0.dtype} like m0, got {value.dtype}")
            _require_shape(name, value, shapes[name])
            require(name, value.detach(), value.isfinite(), "finite numbers")
        self.R, _ = check_covariance(R, R.new_zeros(p), "R")
        self.A, self.C, self.m0 = A, C, m0
        self.Q, self.P0 = _check_spread(Q, "Q"), _check_spread(P0, "P0")

    def _check(self, obs: Tensor) -> Tensor:
        p = self.C.shape[0]
        if check_points(obs, "obs").ndim < 2 or obs.shape[-1] != p or not obs.shape[-2]:
            raise ValueError(f"obs: expected shape (*batch, T, {p}) with T ≥ 1, got {tuple(obs.shape)}")
        if obs.dtype != self.m0.dtype:
            raise TypeError(f"obs: expected {self.m0.dtype} like the model, got {obs.dtype}")
        require("obs", obs.detach(), ~obs.isinf(), "finite numbers, or NaN where one is missing")
        return obs

    def filter(self, obs: Observations) -> Filtered:
        """What is known of each state from the observations up to its own time, and their log-densities."""
        known, steps = Moments(self.m0, self.P0), []
        for t, x in enumerate(self._check(obs).unbind(-2)):
            expected = predict(*known, self.A, self.Q) if t else known
            known, log_p = update(*expected, x, self.C, self.R)
            steps.append((expected, known, log_p))
        expected, known, log_p = zip(*steps)
        batch = obs.shape[:-2]
        return Filtered(_in_time(expected, batch), _in_time(known, batch), torch.stack(log_p, -1))

    def log_likelihood(self, obs: Observations) -> Float[Tensor, "*batch"]:
        """log p(x₁ … x_T) in nats, with all constants: the sum of log p(xₜ | x₁ … xₜ₋₁)."""
        return self.filter(obs).log_likelihood.sum(-1)

    def smooth(self, obs: Observations) -> Moments:
        """What is known of each state from all observations, also the later ones (Rauch, Tung and Striebel).

            G = P Aᵀ P⁻¹(next, predicted),   m ← m + G (m_next − A m),   P ← (I − G A) P (I − G A)ᵀ + G (Q + P_next) Gᵀ

        Raises an error of torch where a predicted covariance is singular.
        """
        predicted, known, _ = self.filter(obs)
        later = Moments(known.mean[..., -1, :], known.cov[..., -1, :, :])
        steps = [later]
        for t in range(obs.shape[-2] - 2, -1, -1):
            mean, cov = known.mean[..., t, :], known.cov[..., t, :, :]
            factor = torch.linalg.cholesky(predicted.cov[..., t + 1, :, :])
            G = torch.cholesky_solve(self.A @ cov, factor).mT
            kept = torch.eye(len(self.m0), dtype=obs.dtype, device=obs.device) - G @ self.A
            mean = mean + _times(G, later.mean - predicted.mean[..., t + 1, :])
            later = Moments(mean, _between(kept, cov) + _between(G, self.Q + later.cov))
            steps.append(later)
        return _in_time(steps[::-1], obs.shape[:-2])

    def forecast(self, obs: Observations, steps: int) -> Moments:
        """The observations after the last one: their means `(*batch, steps, p)` and covariances, noise R included.

        Raises ValueError for steps < 1.
        """
        check_whole(steps, "steps")
        known = self.filter(obs).updated
        state, ahead = Moments(known.mean[..., -1, :], known.cov[..., -1, :, :]), []
        for _ in range(steps):
            state = predict(*state, self.A, self.Q)
            ahead.append(predict(*state, self.C, self.R))
        return _in_time(ahead, obs.shape[:-2])

    def sample(
        self, steps: int, batch: tuple[int, ...] = (), generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """States `(*batch, steps, d)` and observations `(*batch, steps, p)`, drawn from the model."""
        check_whole(steps, "steps")

        def noise(cov: Tensor) -> Tensor:
            root, stopped = torch.linalg.cholesky_ex(cov)
            if stopped:  # a covariance with zeros among its eigenvalues
                values, vectors = torch.linalg.eigh(cov)
                root = vectors * values.clamp(min=0).sqrt()
            like = {"dtype": cov.dtype, "device": cov.device}
            return _times(root, torch.randn(*batch, len(cov), generator=generator, **like))

        states = [self.m0 + noise(self.P0)]
        for _ in range(steps - 1):
            states.append(_times(self.A, states[-1]) + noise(self.Q))
        z = torch.stack(states, -2)
        return z, torch.stack([_times(self.C, state) + noise(self.R) for state in states], -2)


def _require_shape(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    """Make sure that a tensor has this shape."""
    if value.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {tuple(value.shape)}")


def _check_spread(cov: Tensor, name: str) -> Tensor:
    """A covariance that may be singular: symmetric, up to rounding, and without negative eigenvalues."""
    require(name, cov.detach(), cov.isfinite(), "finite numbers")
    allowed = 100 * torch.finfo(cov.dtype).eps * cov.detach().abs().max()
    require(name, cov.detach(), (cov - cov.mT).abs() <= allowed, "a symmetric matrix")
    cov = (cov + cov.mT) / 2
    smallest = torch.linalg.eigvalsh(cov.detach())[0]
    require(name, smallest, smallest >= -allowed, "a covariance, no eigenvalue below 0")
    return cov


def _in_time(steps: Sequence[Moments], batch: tuple[int, ...]) -> Moments:
    """The moments of single times, side by side along a time axis, with the batch axes of the observations."""
    means, covs = zip(*steps)
    mean = torch.stack([mean.expand(*batch, *mean.shape[-1:]) for mean in means], -2)
    return Moments(mean, torch.stack([cov.expand(*batch, *cov.shape[-2:]) for cov in covs], -3))
