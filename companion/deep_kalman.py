"""Deep Kalman filters: a hidden state that moves and is seen through neural networks, learned by the ELBO.

    z₁ ~ N(transition(z_q_0)),   zₜ ~ N(transition(zₜ₋₁)),   xₜ ~ N(emitter(zₜ), exp(emit_log_sigma))

Every `scale` is a standard deviation; `emit_log_sigma`, as the source article calls it, is a log *variance*.
Observations have shape `(*batch, T, obs_dim)`; a `mask` `(*batch, T)` is True until a sequence ends, False afterwards.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from math import log, pi

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import softplus, threshold

from companion.kl import kl_normal
from companion.points import check_sequences, check_whole, require_finite
from companion.training import mlp

Observations, Mask = Float[Tensor, "*batch T obs_dim"], Bool[Tensor, "*batch T"] | None
Drawn = Float[Tensor, "samples *batch steps obs_dim"]
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
        for name in (field.name for field in fields(self) if field.type is int):
            check_whole(getattr(self, name), name)


class Emitter(nn.Module):
    """The mean of an observation, from the state: linear, plus a network that starts at 0."""

    def __init__(self, z_dim: int, hidden_dim: int, obs_dim: int):
        super().__init__()
        self.linear, self.net = nn.Linear(z_dim, obs_dim), mlp(z_dim, obs_dim, (hidden_dim,))

    def forward(self, z: Float[Tensor, "*batch z_dim"]) -> Float[Tensor, "*batch obs_dim"]:
        return self.linear(z) + self.net(z)


class Transition(nn.Module):
    """Mean and scale of the next state, from this one: it stays where it is, plus a network that starts at 0."""

    def __init__(self, z_dim: int, hidden_dim: int):
        super().__init__()
        self.net = mlp(z_dim, 2 * z_dim, (hidden_dim,))

    def forward(self, z: Float[Tensor, "*batch z_dim"]) -> tuple[Tensor, Tensor]:
        step, raw = self.net(z).chunk(2, -1)
        return z + step, softplus(raw.contiguous()) + MIN_SCALE  # softplus is slow on a half of each row


class Posterior(nn.Module):
    """The filtering posterior q(zₜ | zₜ₋₁, xₜ): the prior, times a normal message from what is seen.

        1/scale² = 1/prior_scale² + 1/r²,   loc = scale² (prior_loc/prior_scale² + m/r²)

    A network makes m and r of the prior and of xₜ.  `look` is its part that needs no state, for all times at once.
    """

    def __init__(self, z_dim: int, hidden_dim: int, obs_dim: int):
        super().__init__()
        self.from_seen, self.from_prior = nn.Linear(obs_dim, hidden_dim), nn.Linear(2 * z_dim, hidden_dim, bias=False)
        self.head = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(hidden_dim, 2 * z_dim))

    def look(self, obs: Tensor, mask: Tensor) -> Tensor:
        return self.from_seen(obs)

    def combine(self, prior_loc: Tensor, prior_scale: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        log_scale = prior_scale.log()
        m, raw = self.head(self.from_prior(torch.cat([prior_loc, log_scale], -1)) + seen).chunk(2, -1)
        share = (2 * ((softplus(raw.contiguous()) + MIN_SCALE).log() - log_scale)).sigmoid()  # r²/(prior_scale² + r²)
        return torch.lerp(m, prior_loc, share), threshold(prior_scale * share.sqrt(), MIN_SCALE, MIN_SCALE)

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


def _kl(loc0: Tensor, scale0: Tensor, loc1: Tensor, scale1: Tensor) -> Tensor:
    # The digits of a KL near 0, which kl_normal keeps, do not matter in a sum, and they take ten times as long.
    ratio, distance = scale0 * (unit := scale1.reciprocal()), (loc0 - loc1) * unit
    return ((ratio * ratio + distance * distance).sum(-1) - loc0.shape[-1]) / 2 - ratio.log().sum(-1)


def _log_normal(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    return (-((x - loc) / scale).square() / 2 - scale.log() - log(2 * pi) / 2).sum(-1)


class DeepKalmanFilter(nn.Module):
    """A state-space model of networks, and its approximate posterior.

    `emitter`, `transition` and `posterior` are modules and may be replaced by others with the same calls.
    Source: Krishnan, Shalit and Sontag, *Deep Kalman filters* (2015); for overshooting Hafner et al., *PlaNet* (2019).

    >>> model, obs = DeepKalmanFilter(Config(z_dim=2, obs_dim=3)), torch.zeros(4, 10, 3)
    >>> model.elbo(obs).shape, [term.shape for term in model.loss(obs)]
    (torch.Size([4]), [torch.Size([]), torch.Size([])])
    """

    def __init__(self, config: Config):
        super().__init__()
        self.config, (z_dim, obs_dim) = config, (config.z_dim, config.obs_dim)
        self.emitter = Emitter(z_dim, config.emit_hidden_dim, obs_dim)
        self.transition = Transition(z_dim, config.trans_hidden_dim)
        self.posterior = (SmoothingPosterior if config.smoothing else Posterior)(z_dim, config.post_hidden_dim, obs_dim)
        self.z_q_0 = nn.Parameter(torch.zeros(z_dim))  # the one point from which every sequence starts, not a posterior
        self.emit_log_sigma = nn.Parameter(torch.full((obs_dim,), float(config.emit_log_sigma)))
        self.to(config.device)

    @property
    def emit_scale(self) -> Tensor:
        """The standard deviation of an observation, exp(½ emit_log_sigma)."""
        return (self.emit_log_sigma / 2).exp()

    def _noise(self, levels: int, samples: int, obs: Tensor) -> Tensor:
        check_whole(samples, "samples")
        shape = levels, obs.shape[1], samples, obs.shape[0], self.config.z_dim
        return torch.randn(shape, dtype=obs.dtype, device=obs.device)

    def _infer(self, obs: Tensor, mask: Tensor, noise: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Sampled states, and (loc, scale) of their priors and posteriors, each `(T, samples, sequences, z_dim)`."""
        rows, seen = noise.flatten(1, 2), self.posterior.look(obs, mask).repeat(noise.shape[1], 1, 1)
        z, steps = self.z_q_0.expand_as(rows[0]), []
        for eps, seen_t in zip(rows, seen.unbind(1)):  # an index would have a gradient as large as `seen`, each time
            prior = self.transition(z)
            q = self.posterior.combine(*prior, seen_t)
            z = q[0] + q[1] * eps
            steps.append((z, *prior, *q))
        z, *moments = (torch.stack(part).view_as(noise) for part in zip(*steps))
        require_finite("a state", z)
        return z, moments[:2], moments[2:]

    def loss(self, obs: Observations, mask: Mask = None, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The two terms of the source article, reconstruction and KL, summed over sequences, times and numbers.

            reconstruction = Σ [(x − emitter(z))²/(2 exp(l)) + l/2],   l = emit_log_sigma
            kl = Σₜ mean over d ≤ min(t, L) of KL(q(zₜ) ‖ p(zₜ | zₜ₋d))

        Means over `sampling_num` samples.  Without overshooting, −(reconstruction + kl) − ½ log 2π for each number is
        the ELBO; with L ≥ 2 it is no lower bound.  `noise` `(L, T, samples, sequences, z_dim)` replaces random numbers.
        """
        (obs, mask), L = check_sequences(obs, mask, self.emit_log_sigma), self.config.overshooting
        noise = self._noise(L, self.config.sampling_num, obs) if noise is None else noise
        if noise.shape[:2] != (levels := (L, obs.shape[1])):
            raise ValueError(f"noise: expected the levels and times {levels} first, got shape {tuple(noise.shape)}")
        (z, (loc, scale), q), total = self._infer(obs, mask, noise[0]), 0
        error = (self.emitter(z.flatten(0, 2)).unflatten(0, z.shape[:3]) - obs.transpose(0, 1)[:, None]).square()
        each = (error / self.emit_log_sigma.exp() + self.emit_log_sigma).sum(-1) / 2
        for d in range(min(levels)):  # the priors of d + 1 steps, from all starting times at once: of zₜ with t > d
            if d:
                start = loc[:-1] + scale[:-1] * noise[d, d - 1 : -1]
                loc, scale = (part.view_as(start) for part in self.transition(start.flatten(0, 2)))
                require_finite("a state", loc + scale, start=d + 1)
            target = [part[d:].detach() if d and self.config.stop_gradient else part[d:] for part in q]
            total = total + nn.functional.pad(_kl(*target, loc, scale), (0, 0, 0, 0, d, 0))
        kl = total / torch.arange(1, len(total) + 1, device=obs.device).clamp(max=L)[:, None, None]  # by min(t, L)
        require_finite("the loss", each + kl)
        return tuple((mask.mT[:, None] * term).sum((0, 2)).mean() for term in (each, kl))

    def _bound(self, obs: Tensor, samples: int, mask: Tensor | None, price: Callable) -> Tensor:
        """Σₜ log p(xₜ | zₜ) − price(z, prior, posterior), for each sample of each sequence."""
        flat, there = check_sequences(obs, mask, self.emit_log_sigma)
        z, prior, q = self._infer(flat, there, self._noise(1, samples, flat)[0])
        each = _log_normal(flat.transpose(0, 1)[:, None], self.emitter(z), self.emit_scale) - price(z, prior, q)
        require_finite("the bound", each)
        return (there.mT[:, None] * each).sum(0).reshape(samples, *obs.shape[:-2])

    def elbo(self, obs: Observations, samples: int = 1, mask: Mask = None) -> Float[Tensor, "*batch"]:
        """A lower bound of log p(x₁ … x_T) for each sequence, in nats and with all constants, averaged over samples."""
        return self._bound(obs, samples, mask, lambda z, prior, q: kl_normal(*q, *prior).sum(-1)).mean(0)

    def log_weights(self, obs: Observations, samples: int, mask: Mask = None) -> Float[Tensor, " samples *batch"]:
        """log p(x, z) − log q(z | x) for sampled z: the ELBO on average; with the exact posterior log p(x), always."""
        return self._bound(obs, samples, mask, lambda z, prior, q: _log_normal(z, *q) - _log_normal(z, *prior))

    def importance_bound(self, obs: Observations, samples: int, mask: Mask = None) -> Float[Tensor, "*batch"]:
        """A bound that more samples make tighter: the logarithm of the mean weight, log (1/K) Σ exp(log_weights)."""
        return self.log_weights(obs, samples, mask).logsumexp(0) - log(samples)

    @torch.no_grad()
    def filter(self, obs: Observations, samples: int = 1, mask: Mask = None) -> Float[Tensor, "samples *batch T z_dim"]:
        """Sampled states from the posterior."""
        flat, there = check_sequences(obs, mask, self.emit_log_sigma)
        z, _, _ = self._infer(flat, there, self._noise(1, samples, flat)[0])
        return z.permute(1, 2, 0, 3).reshape(samples, *obs.shape[:-1], self.config.z_dim)

    @torch.no_grad()
    def forecast(self, obs: Observations, steps: int, samples: int, mask: Mask = None) -> Drawn:
        """Sampled observations after the last of each sequence, with the noise of the states and of the emission."""
        z = self.filter(obs, samples, mask)
        if mask is not None:
            z = z.take_along_dim(mask.sum(-1)[None, ..., None, None] - 1, -2)  # its one time is the last of each
        return self._continue(z[..., -1, :], steps)[1]

    @torch.no_grad()
    def sample(self, steps: int, batch: int = 1) -> tuple[Float[Tensor, "batch steps z_dim"], Tensor]:
        """States and observations from the model itself."""
        check_whole(batch, "batch")
        return self._continue(self.z_q_0.expand(batch, -1), steps)

    def _continue(self, z: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        check_whole(steps, "steps")
        states = []
        for _ in range(steps):
            loc, scale = self.transition(z)
            states.append(z := loc + scale * torch.randn_like(loc))
        z = torch.stack(states, -2)
        loc = self.emitter(z)
        x = loc + self.emit_scale * torch.randn_like(loc)
        require_finite("what is drawn", torch.cat([z, x], -1).movedim(-2, 0))
        return z, x
