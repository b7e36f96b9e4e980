"""Deep Kalman filters: a hidden state that moves and is seen through neural networks, learned by the ELBO.

    z₁ ~ N(transition(z_q_0)),   zₜ ~ N(transition(zₜ₋₁)),   xₜ ~ N(emitter(zₜ), exp(emit_log_sigma))

Every `scale` is a standard deviation.  `emit_log_sigma` keeps the name that the source article gave it, and is the
logarithm of the emission *variance*.  Observations have shape `(*batch, T, obs_dim)`; a `mask` `(*batch, T)` is True
at the times that a sequence has, and False after its end.
"""

from dataclasses import dataclass
from math import log, pi

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from companion.kl import kl_normal
from companion.points import check_points, require
from companion.training import mlp

Observations, Mask = Float[Tensor, "*batch T obs_dim"], Bool[Tensor, "*batch T"] | None
MIN_SCALE = 1e-3  # a smaller standard deviation would let float32 overflow


@dataclass(frozen=True)
class Config:
    """The sizes of a model, its horizon and its samples, under the names of the source article.

    `overshooting` is the horizon L of latent overshooting: 1 is the plain ELBO.  With `smoothing`, the posterior sees
    the later observations too.  With `stop_gradient`, the posterior is not drawn to priors of two steps and more.
    Raises ValueError for a size, a horizon or a number of samples below 1.
    """

    z_dim: int
    obs_dim: int
    emit_hidden_dim: int = 64
    trans_hidden_dim: int = 64
    post_hidden_dim: int = 64
    emit_log_sigma: float = 0.0
    sampling_num: int = 1
    overshooting: int = 1
    smoothing: bool = False
    stop_gradient: bool = False
    device: str = "cpu"

    def __post_init__(self):
        whole = "z_dim", "obs_dim", "emit_hidden_dim", "trans_hidden_dim", "post_hidden_dim"
        for name in (*whole, "sampling_num", "overshooting"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: expected a whole number ≥ 1, got {value!r}")


class Emitter(nn.Module):
    """The mean of an observation, from the state: linear, plus a network that starts at 0."""

    def __init__(self, z_dim: int, hidden_dim: int, obs_dim: int):
        super().__init__()
        self.linear, self.net = nn.Linear(z_dim, obs_dim), mlp(z_dim, obs_dim, (hidden_dim, hidden_dim))

    def forward(self, z: Float[Tensor, "*batch z_dim"]) -> Float[Tensor, "*batch obs_dim"]:
        return self.linear(z) + self.net(z)


class Transition(nn.Module):
    """Mean and scale of the next state, from this one: it stays where it is, plus a network that starts at 0."""

    def __init__(self, z_dim: int, hidden_dim: int):
        super().__init__()
        self.net = mlp(z_dim, 2 * z_dim, (hidden_dim, hidden_dim))

    def forward(self, z: Float[Tensor, "*batch z_dim"]) -> tuple[Tensor, Tensor]:
        step, raw = self.net(z).chunk(2, -1)
        return z + step, softplus(raw) + MIN_SCALE


class Posterior(nn.Module):
    """The filtering posterior q(zₜ | zₜ₋₁, xₜ): the prior, times a normal message from what is seen.

        1/scale² = 1/prior_scale² + 1/r²,   loc = scale² (prior_loc/prior_scale² + m/r²)

    A network makes m and r of the prior and of xₜ.  `look` is its part that needs no state, for all times at once.
    """

    def __init__(self, z_dim: int, hidden_dim: int, obs_dim: int):
        super().__init__()
        self.from_seen, self.from_prior = nn.Linear(obs_dim, hidden_dim), nn.Linear(2 * z_dim, hidden_dim, bias=False)
        self.head = nn.Sequential(
            nn.ReLU(), nn.Linear(hidden_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, 2 * z_dim)
        )

    def look(self, obs: Tensor, mask: Tensor) -> Tensor:
        return self.from_seen(obs)

    def combine(self, prior_loc: Tensor, prior_scale: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        prior = torch.cat([prior_loc, prior_scale.log()], -1)
        m, raw = self.head(self.from_prior(prior) + seen).chunk(2, -1)
        weight = (prior_scale / (softplus(raw) + MIN_SCALE)).square()  # of the message, where the prior has 1
        return (prior_loc + weight * m) / (1 + weight), (prior_scale * (1 + weight).rsqrt()).clamp(min=MIN_SCALE)

    def forward(self, prior_loc: Tensor, prior_scale: Tensor, obs_t: Tensor) -> tuple[Tensor, Tensor]:
        return self.combine(prior_loc, prior_scale, self.from_seen(obs_t))


class SmoothingPosterior(Posterior):
    """The posterior q(zₜ | zₜ₋₁, xₜ … x_T): the same, but it sees what a recurrent network read from the end to t."""

    def __init__(self, z_dim: int, hidden_dim: int, obs_dim: int):
        super().__init__(z_dim, hidden_dim, hidden_dim)
        self.reader = nn.GRU(obs_dim, hidden_dim, batch_first=True)

    def look(self, obs: Tensor, mask: Tensor) -> Tensor:
        # Each sequence is turned around by its own length, so that what follows its end is read last.
        T = torch.arange(obs.shape[1], device=obs.device)
        order = (mask.sum(1, keepdim=True) - 1 - T).remainder(obs.shape[1])
        read, _ = self.reader(obs.gather(1, order[..., None].expand_as(obs)))
        return self.from_seen(read.gather(1, order[..., None].expand_as(read)))


@dataclass
class _Path:
    """Sampled states, with their priors and posteriors as (loc, scale), each `(T, samples, sequences, z_dim)`."""

    z: Tensor
    prior: tuple[Tensor, Tensor]
    q: tuple[Tensor, Tensor]


def _log_normal(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    return (-((x - loc) / scale).square() / 2 - scale.log() - log(2 * pi) / 2).sum(-1)


class DeepKalmanFilter(nn.Module):
    """A state-space model of networks, and its approximate posterior.

    `emitter`, `transition` and `posterior` are modules and may be replaced by others with the same calls.
    Source: Krishnan, Shalit and Sontag, *Deep Kalman filters* (2015); for overshooting Hafner et al., *PlaNet* (2019).

    >>> model = DeepKalmanFilter(Config(z_dim=2, obs_dim=3))
    >>> obs = torch.zeros(4, 10, 3)
    >>> model.elbo(obs).shape, [term.shape for term in model.loss(obs)]
    (torch.Size([4]), [torch.Size([]), torch.Size([])])
    """

    def __init__(self, config: Config):
        super().__init__()
        self.config, (z_dim, obs_dim) = config, (config.z_dim, config.obs_dim)
        self.emitter = Emitter(z_dim, config.emit_hidden_dim, obs_dim)
        self.transition = Transition(z_dim, config.trans_hidden_dim)
        kind = SmoothingPosterior if config.smoothing else Posterior
        self.posterior = kind(z_dim, config.post_hidden_dim, obs_dim)
        self.z_q_0 = nn.Parameter(torch.zeros(z_dim))  # the one point from which every sequence starts, not a posterior
        self.emit_log_sigma = nn.Parameter(torch.full((obs_dim,), float(config.emit_log_sigma)))
        self.to(config.device)

    @property
    def emit_scale(self) -> Tensor:
        """The standard deviation of an observation, exp(½ emit_log_sigma)."""
        return (self.emit_log_sigma / 2).exp()

    def _check(self, obs: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Observations `(sequences, T, obs_dim)`, 0 after the end, and the mask that says where that is."""
        if check_points(obs, "obs").ndim < 3 or obs.shape[-1] != self.config.obs_dim or 0 in obs.shape:
            expected = f"(*batch, T, {self.config.obs_dim}) with a batch axis and T ≥ 1"
            raise ValueError(f"obs: expected shape {expected}, got {tuple(obs.shape)}")
        if obs.dtype != self.z_q_0.dtype:
            raise TypeError(f"obs: expected {self.z_q_0.dtype} like the parameters, got {obs.dtype}")
        mask = obs.new_ones(obs.shape[:-1], dtype=torch.bool) if mask is None else mask
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

    def _infer(self, obs: Tensor, mask: Tensor, noise: Tensor) -> _Path:
        """Follow the posterior through time, all samples of all sequences side by side; noise `(T, samples, …)`."""
        seen, z, steps = self.posterior.look(obs, mask), self.z_q_0.expand(noise.shape[1:]), []
        for t in range(obs.shape[1]):
            prior = self.transition(z)
            q = self.posterior.combine(*prior, seen[:, t])
            z = q[0] + q[1] * noise[t]
            steps.append((z, *prior, *q))
        z, prior_loc, prior_scale, loc, scale = (torch.stack(parts) for parts in zip(*steps))
        return _Path(z, (prior_loc, prior_scale), (loc, scale))

    def _noise(self, levels: int, samples: int, obs: Tensor) -> Tensor:
        if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
            raise ValueError(f"samples: expected a whole number ≥ 1, got {samples!r}")
        shape = levels, obs.shape[1], samples, obs.shape[0], self.config.z_dim
        return torch.randn(shape, dtype=obs.dtype, device=obs.device)

    def _priors(self, path: _Path, noise: Tensor):
        """The priors of 1, 2, … L steps, from all starting times at once: level d has the times from d − 1 on."""
        prior = path.prior
        yield prior
        for eps in noise[1:]:
            n = prior[0].shape[0]
            if n == 1:
                return
            prior = self.transition(prior[0][:-1] + prior[1][:-1] * eps[-n:-1])
            yield prior

    def loss(self, obs: Observations, mask: Mask = None, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The two terms of the source article, reconstruction and KL, summed over sequences, times and numbers.

            reconstruction = Σ [(x − emitter(z))²/(2 exp(l)) + l/2],   l = emit_log_sigma
            kl = Σₜ mean over d ≤ min(t, L) of KL(q(zₜ) ‖ p(zₜ | zₜ₋d))

        Means over `sampling_num` samples.  Without overshooting, −(reconstruction + kl) − ½ log 2π for each number is
        the ELBO; with L ≥ 2 it is no lower bound.  `noise` `(L, T, samples, sequences, z_dim)` replaces random numbers.
        """
        obs, mask = self._check(obs, mask)
        if noise is None:
            noise = self._noise(self.config.overshooting, self.config.sampling_num, obs)
        if noise.shape[:2] != (levels := (self.config.overshooting, obs.shape[1])):
            raise ValueError(f"noise: expected the levels and times {levels} first, got shape {tuple(noise.shape)}")
        path, there = self._infer(obs, mask, noise[0]), mask.mT.to(obs.dtype)[:, None]  # (T, 1, sequences)
        error = (self.emitter(path.z) - obs.transpose(0, 1)[:, None]).square()
        each = (error / self.emit_log_sigma.exp() + self.emit_log_sigma).sum(-1) / 2
        total = torch.zeros_like(each)
        for d, prior in enumerate(self._priors(path, noise)):
            q = [part[d:] for part in path.q]
            q = [part.detach() for part in q] if d and self.config.stop_gradient else q
            total = total + nn.functional.pad(kl_normal(*q, *prior).sum(-1), (0, 0, 0, 0, d, 0))
        steps = torch.arange(1, len(total) + 1, device=obs.device).clamp(max=self.config.overshooting)
        kl = total / steps.to(obs.dtype)[:, None, None]
        return tuple((there * term).sum((0, 2)).mean() for term in (each, kl))

    def elbo(self, obs: Observations, samples: int = 1, mask: Mask = None) -> Float[Tensor, "*batch"]:
        """A lower bound of log p(x₁ … x_T) for each sequence, in nats and with all constants, averaged over samples."""
        flat, there = self._check(obs, mask)
        path = self._infer(flat, there, self._noise(1, samples, flat)[0])
        log_p = _log_normal(flat.transpose(0, 1)[:, None], self.emitter(path.z), self.emit_scale)
        each = log_p - kl_normal(*path.q, *path.prior).sum(-1)
        return (there.mT.to(obs.dtype)[:, None] * each).sum(0).mean(0).reshape(obs.shape[:-2])

    def log_weights(self, obs: Observations, samples: int, mask: Mask = None) -> Float[Tensor, "samples *batch"]:
        """log p(x, z) − log q(z | x) for sampled z: the ELBO on average; with the exact posterior log p(x), always."""
        flat, there = self._check(obs, mask)
        path = self._infer(flat, there, self._noise(1, samples, flat)[0])
        log_p = _log_normal(flat.transpose(0, 1)[:, None], self.emitter(path.z), self.emit_scale)
        each = log_p + _log_normal(path.z, *path.prior) - _log_normal(path.z, *path.q)
        return (there.mT.to(obs.dtype)[:, None] * each).sum(0).reshape(samples, *obs.shape[:-2])

    def importance_bound(self, obs: Observations, samples: int, mask: Mask = None) -> Float[Tensor, "*batch"]:
        """A bound that more samples make tighter: the logarithm of the mean weight, log (1/K) Σ exp(log_weights)."""
        return self.log_weights(obs, samples, mask).logsumexp(0) - log(samples)

    @torch.no_grad()
    def filter(self, obs: Observations, samples: int = 1, mask: Mask = None) -> Float[Tensor, "samples *batch T z_dim"]:
        """Sampled states from the posterior."""
        flat, there = self._check(obs, mask)
        z = self._infer(flat, there, self._noise(1, samples, flat)[0]).z
        return z.permute(1, 2, 0, 3).reshape(samples, *obs.shape[:-1], self.config.z_dim)

    @torch.no_grad()
    def forecast(self, obs: Observations, steps: int, samples: int) -> Float[Tensor, "samples *batch steps obs_dim"]:
        """Sampled observations after the last one, with the noise of the states and of the emission."""
        z = self.filter(obs, samples)[..., -1, :]
        return self._continue(z, steps)[1]

    @torch.no_grad()
    def sample(self, steps: int, batch: int = 1) -> tuple[Float[Tensor, "batch steps z_dim"], Tensor]:
        """States and observations from the model itself."""
        return self._continue(self.z_q_0.expand(batch, -1), steps)

    def _continue(self, z: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise ValueError(f"steps: expected a whole number ≥ 1, got {steps!r}")
        states = []
        for _ in range(steps):
            loc, scale = self.transition(z)
            z = loc + scale * torch.randn_like(loc)
            states.append(z)
        z = torch.stack(states, -2)
        loc = self.emitter(z)
        return z, loc + self.emit_scale * torch.randn_like(loc)
